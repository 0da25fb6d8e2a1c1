//! Closing: the word to everything that is open that the server stops.

use tokio::sync::watch;

/// Says that the server stops; dropping it says the same.
#[derive(Debug)]
pub(crate) struct Close(watch::Sender<bool>);

/// Hears that the server stops.
#[derive(Clone, Debug)]
pub(crate) struct Closing(watch::Receiver<bool>);

/// Returns the two ends.
pub(crate) fn closing() -> (Close, Closing) {
    let (sender, receiver) = watch::channel(false);
    (Close(sender), Closing(receiver))
}

impl Close {
    /// Tells everyone.
    pub(crate) fn close(&self) {
        self.0.send_replace(true);
    }
}

impl Closing {
    /// Resolves once the server stops.
    pub(crate) async fn closed(&self) {
        let mut receiver = self.0.clone();
        // An error means that the other end is gone, which is the same news.
        let _ = receiver.wait_for(|closed| *closed).await;
    }

    /// Returns whether the server stops.
    pub(crate) fn is_closed(&self) -> bool {
        *self.0.borrow() || self.0.has_changed().is_err()
    }
}
