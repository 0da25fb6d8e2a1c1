//! Changes: from the engine's one observer to everyone who watches or waits.
//!
//! Owns the fan-out and nothing durable. It never makes the engine wait: a watcher that falls behind
//! loses changes and is told so; one who waits for a single submission can miss nothing.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tidemill_engine::engine::Observer;
use tidemill_engine::report::SubmissionReport;
use tokio::sync::{broadcast, oneshot};

/// The fan-out of changes.
#[derive(Debug)]
pub(crate) struct Changes {
    all: broadcast::Sender<Arc<SubmissionReport>>,
    /// Who waits for which submission to be final.
    waiting: Mutex<HashMap<u64, Vec<oneshot::Sender<Arc<SubmissionReport>>>>>,
}

impl Changes {
    /// Returns a fan-out whose watchers may fall `backlog` changes behind.
    pub(crate) fn new(backlog: usize) -> Arc<Self> {
        let (all, _) = broadcast::channel(backlog.max(1));
        Arc::new(Self { all, waiting: Mutex::default() })
    }

    /// Returns the observer to register with the engine.
    pub(crate) fn observer(self: &Arc<Self>) -> Observer {
        let changes = Arc::downgrade(self);
        Arc::new(move |report| {
            if let Some(changes) = changes.upgrade() {
                changes.tell(report);
            }
        })
    }

    /// Returns a receiver of every change from now on.
    pub(crate) fn watch(&self) -> broadcast::Receiver<Arc<SubmissionReport>> {
        self.all.subscribe()
    }

    /// Returns what resolves when submission `id` becomes final from now on.
    pub(crate) fn wait(self: &Arc<Self>, id: u64) -> Waiter {
        let (sender, receiver) = oneshot::channel();
        self.waiting().entry(id).or_default().push(sender);
        Waiter { changes: Arc::clone(self), id, receiver }
    }

    fn tell(&self, report: &SubmissionReport) {
        let waiters = match report.phase.is_final() {
            true => self.waiting().remove(&report.id).unwrap_or_default(),
            false => Vec::new(),
        };
        if waiters.is_empty() && self.all.receiver_count() == 0 {
            return; // nobody listens: do not copy the report
        }
        let report = Arc::new(report.clone());
        for waiter in waiters {
            // An error means that it stopped waiting.
            let _ = waiter.send(Arc::clone(&report));
        }
        let _ = self.all.send(report);
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<u64, Vec<oneshot::Sender<Arc<SubmissionReport>>>>> {
        // The map is whole between any two statements, so a panic elsewhere cannot have torn it.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One who waits for a submission to be final.
#[derive(Debug)]
pub(crate) struct Waiter {
    changes: Arc<Changes>,
    id: u64,
    receiver: oneshot::Receiver<Arc<SubmissionReport>>,
}

impl Waiter {
    /// Resolves with the final state; `None` when the fan-out is gone.
    pub(crate) async fn done(&mut self) -> Option<Arc<SubmissionReport>> {
        (&mut self.receiver).await.ok()
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.receiver.close();
        let mut waiting = self.changes.waiting();
        if let Some(waiters) = waiting.get_mut(&self.id) {
            waiters.retain(|waiter| !waiter.is_closed());
            if waiters.is_empty() {
                waiting.remove(&self.id);
            }
        }
    }
}
