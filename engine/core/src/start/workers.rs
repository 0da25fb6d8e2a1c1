//! Workers: the running threads of the dataflows, to be waited for only when they were told to end.
//!
//! A start that fails behind them has told nobody to end. To wait for them then, as timely does when
//! its guards are dropped, would be for ever: the process would neither run nor say why it does not.

use timely::communication::WorkerGuards;

/// The threads of the dataflows of this process.
pub(super) struct Workers {
    guards: Option<WorkerGuards<()>>,
}

impl Workers {
    /// Returns the threads behind these guards.
    pub(super) fn new(guards: WorkerGuards<()>) -> Self {
        Self { guards: Some(guards) }
    }

    /// Waits until all have ended. They were told to, or the dataflows end by themselves.
    pub(super) fn wait(mut self) {
        let Some(guards) = self.guards.take() else { return };
        for outcome in guards.join() {
            if let Err(panic) = outcome {
                tracing::error!("a worker ended with: {panic}");
            }
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        // Not waited for: the start failed, and they end with the process.
        std::mem::forget(self.guards.take());
    }
}
