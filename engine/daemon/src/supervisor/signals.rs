//! Signals: SIGINT and SIGTERM of the parent, as events.

use std::io;
use std::sync::mpsc::Sender;

use rustix::process::Signal;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use super::SupervisorError;
use super::group::Event;

/// Turns SIGINT and SIGTERM of this process into events while it lives.
pub(super) struct Signals {
    /// Dropped: the thread ends.
    _stop: oneshot::Sender<()>,
}

impl Signals {
    /// Begins to listen: from the return on, these signals no longer end the process by themselves.
    pub(super) fn listen(events: Sender<Event>) -> Result<Signals, SupervisorError> {
        let failed =
            |source: io::Error| SupervisorError::Prepare { action: "listen for signals", source };
        let (stop, mut stopped) = oneshot::channel::<()>();
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_io().build().map_err(failed)?;
        let (mut interrupt, mut terminate) = {
            let _inside = runtime.enter();
            let interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
            (interrupt, signal(SignalKind::terminate()).map_err(failed)?)
        };
        let listen = async move {
            loop {
                let signal = tokio::select! {
                    Some(()) = interrupt.recv() => Signal::INT,
                    Some(()) = terminate.recv() => Signal::TERM,
                    _ = &mut stopped => return,
                    else => return,
                };
                if events.send(Event::Signal(signal)).is_err() {
                    return;
                }
            }
        };
        std::thread::Builder::new()
            .name("signals".to_string())
            .spawn(move || runtime.block_on(listen))
            .map_err(failed)?;
        Ok(Signals { _stop: stop })
    }
}
