//! Closing: the word to everything that is open that the server stops.

use tokio::sync::watch;

use crate::refusal::Refusal;

/// Says that the server stops; dropping it says the same.
#[derive(Debug)]
pub(crate) struct Close(watch::Sender<Option<Ending>>);

/// Why a server stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// For good, as far as it knows.
    Stops,
    /// Another one is about to serve on the same address: who is told to ask again finds it.
    HandsOver,
}

/// Hears that the server stops.
#[derive(Clone, Debug)]
pub(crate) struct Closing(watch::Receiver<Option<Ending>>);

/// Returns the two ends.
pub(crate) fn closing() -> (Close, Closing) {
    let (sender, receiver) = watch::channel(None);
    (Close(sender), Closing(receiver))
}

impl Close {
    /// Tells everyone.
    pub(crate) fn close(&self, ending: Ending) {
        self.0.send_replace(Some(ending));
    }
}

impl Closing {
    /// Resolves once the server stops.
    pub(crate) async fn closed(&self) {
        let mut receiver = self.0.clone();
        // An error means that the other end is gone, which is the same news.
        let _ = receiver.wait_for(Option::is_some).await;
    }

    /// Returns whether the server stops.
    pub(crate) fn is_closed(&self) -> bool {
        self.0.borrow().is_some() || self.0.has_changed().is_err()
    }

    /// Returns whether another server is about to take over.
    pub(crate) fn hands_over(&self) -> bool {
        *self.0.borrow() == Some(Ending::HandsOver)
    }

    /// Returns what clients are told.
    pub(crate) fn refusal(&self) -> Refusal {
        if self.hands_over() { Refusal::HandingOver } else { Refusal::Draining }
    }
}
