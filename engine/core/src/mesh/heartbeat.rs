//! Heartbeat: how a process that lives shows it, and when one that does not counts as lost.
//!
//! Owns the thread that sends a beat over each control connection and notices when this process
//! itself stood still. Silence of a peer is noticed by the reader of its connection. Never judges
//! by the wall clock, and never waits for a peer that takes nothing.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use rustix::net::SendFlags;

use super::control::{BEAT, ControlEvent, Peer};
use super::socket::Socket;

/// How often and for how long: the two times of a run's heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// How often each process shows that it lives.
    pub every: Duration,
    /// How long a process may be silent before it counts as lost.
    pub silence: Duration,
}

impl Heartbeat {
    /// A beat every 2 s; 12 s of silence are the end.
    pub const USUAL: Heartbeat =
        Heartbeat { every: Duration::from_secs(2), silence: Duration::from_secs(12) };

    /// Returns the heartbeat that notices a silence of this length; it beats seven times meanwhile,
    /// and at least as often as the usual one.
    pub fn noticing(silence: Duration) -> Heartbeat {
        let every = (silence / 7).clamp(Duration::from_millis(10), Heartbeat::USUAL.every);
        Heartbeat { every, silence }
    }
}

/// Beats while it lives; dropping it ends the thread.
#[derive(Debug)]
pub(super) struct Pulse {
    _stop: SyncSender<()>,
}

impl Pulse {
    /// Starts to beat for these peers.
    pub(super) fn start(
        heartbeat: Heartbeat,
        peers: Arc<Vec<Peer>>,
        events: SyncSender<ControlEvent>,
    ) -> io::Result<Pulse> {
        let (stop, stopped) = sync_channel(0);
        std::thread::Builder::new()
            .name("heartbeat".to_string())
            .spawn(move || beat_forever(heartbeat, &peers, &stopped, &events))?;
        Ok(Pulse { _stop: stop })
    }
}

fn beat_forever(
    heartbeat: Heartbeat,
    peers: &[Peer],
    stopped: &Receiver<()>,
    events: &SyncSender<ControlEvent>,
) {
    let mut last = Instant::now();
    loop {
        let mut connected = false;
        for peer in peers {
            connected |= match peer.writing.try_lock() {
                // The reader of a connection tells when it is gone.
                Ok(_writing) => send_beat(&peer.socket).is_ok(),
                // A message that is being written shows just as well that we live.
                Err(_) => true,
            };
        }
        if !connected {
            return;
        }
        if stopped.recv_timeout(heartbeat.every) != Err(RecvTimeoutError::Timeout) {
            return;
        }
        let stood = last.elapsed();
        if stood > heartbeat.silence {
            // The others have given us up meanwhile, whatever we may still read from them.
            let _ = events.send(ControlEvent::StoodStill(stood)); // nobody listens: it is over
            return;
        }
        last = Instant::now();
    }
}

/// Sends one beat, unless the peer has not yet taken what was sent before: it finds us alive then.
fn send_beat(socket: &Socket) -> io::Result<()> {
    let beat = BEAT.to_be_bytes();
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    let sent = match socket {
        Socket::Tcp(stream) => rustix::net::send(stream, &beat, flags),
        Socket::Unix(stream) => rustix::net::send(stream, &beat, flags),
    };
    match sent {
        Err(rustix::io::Errno::AGAIN) => Ok(()),
        Err(error) => Err(error.into()),
        // A part of a beat must be followed by its rest.
        Ok(sent) => (&mut &*socket).write_all(beat.get(sent..).unwrap_or_default()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot unwrap has failed")]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    use super::super::control::Control;
    use super::*;

    const QUICK: Heartbeat =
        Heartbeat { every: Duration::from_millis(10), silence: Duration::from_millis(400) };
    /// No silence is ever noticed.
    const CALM: Heartbeat =
        Heartbeat { every: Duration::from_millis(10), silence: Duration::from_secs(600) };

    #[test]
    fn a_silent_process_is_noticed() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let began = Instant::now();
        let control = Control::start(vec![(3, Socket::Unix(ours))], QUICK).unwrap();
        assert_eq!(control.recv(), Some(ControlEvent::Silent(3, QUICK.silence)));
        assert!(began.elapsed() >= QUICK.silence);
        assert!(theirs.read_to_end(&mut Vec::new()).is_ok(), "our side is closed");
    }

    #[test]
    fn a_process_that_beats_is_not_silent() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let control = Control::start(vec![(1, Socket::Unix(ours))], QUICK).unwrap();
        let other = Control::start(vec![(0, Socket::Unix(theirs))], CALM).unwrap();
        assert_eq!(control.recv_timeout(QUICK.silence * 3), None);
        drop(other);
        assert_eq!(control.recv(), Some(ControlEvent::Lost(1)));
    }

    #[test]
    fn half_a_message_and_then_nothing_is_silence() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let control = Control::start(vec![(1, Socket::Unix(ours))], QUICK).unwrap();
        theirs.write_all(b"\0\0\0\x05ab").unwrap();
        assert_eq!(control.recv(), Some(ControlEvent::Silent(1, QUICK.silence)));
    }

    #[test]
    fn a_peer_that_takes_nothing_does_not_hold_up_the_beats_of_others() {
        let (deaf, held) = UnixStream::pair().unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        deaf.set_nonblocking(true).unwrap();
        while (&deaf).write(&[0; 4096]).is_ok() {} // full: not one byte more goes in
        deaf.set_nonblocking(false).unwrap();
        let peers = vec![(1, Socket::Unix(deaf)), (2, Socket::Unix(ours))];
        let control = Control::start(peers, CALM).unwrap();
        let other = Control::start(vec![(0, Socket::Unix(theirs))], QUICK).unwrap();
        assert_eq!(other.recv_timeout(QUICK.silence * 3), None, "beats come");
        drop((control, held));
    }

    #[test]
    fn a_process_that_stood_still_finds_out() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (events, heard) = sync_channel(8);
        let peers = Arc::new(vec![Peer::new(1, Socket::Unix(ours))]);
        // It is stopped for longer than it may be between any two beats.
        let heartbeat =
            Heartbeat { every: Duration::from_millis(10), silence: Duration::from_millis(1) };
        let _pulse = Pulse::start(heartbeat, peers, events).unwrap();
        let event = heard.recv().unwrap();
        assert!(matches!(event, ControlEvent::StoodStill(stood) if stood > heartbeat.silence));
        drop(theirs);
    }

    #[test]
    fn a_shorter_silence_is_noticed_by_a_faster_heart() {
        let check = |silence_ms, every_ms| {
            let heartbeat = Heartbeat::noticing(Duration::from_millis(silence_ms));
            assert_eq!(heartbeat.every, Duration::from_millis(every_ms));
        };
        check(15_000, 2_000);
        check(700, 100);
        check(10, 10);
        check(600_000, 2_000);
    }
}
