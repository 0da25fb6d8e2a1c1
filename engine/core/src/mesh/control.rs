//! Control: small messages between process 0 and the others, beside the dataflow.
//!
//! Process 0 has one connection to each other process, each other process one to process 0. A message
//! is a `u32` length and its bytes; what they mean is for the caller. A word that is no length is a beat
//! of the peer's heart. A lost or silent peer is an event, told once. Never calls back: events wait in
//! a bounded queue, and a full queue slows the sender down.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use timely::communication::allocator::zero_copy::stream::Stream;

use super::error::MeshError;
use super::heartbeat::{Heartbeat, Pulse};
use super::socket::Socket;

/// The longest message, in bytes.
pub const MESSAGE_BYTES_MAX: usize = 16 << 20;
/// In the place of a length: the peer lives and says nothing.
pub(super) const BEAT: u32 = 0xbea7_bea7;
const _: () = assert!(BEAT as usize > MESSAGE_BYTES_MAX);
/// How many events may wait for the caller before peers have to wait.
const EVENTS_MAX: usize = 1024;
/// How long one write may stall on a peer that takes nothing, before it counts as lost.
const WRITE_STALL_MAX: Duration = Duration::from_secs(10);

/// What comes from the other processes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ControlEvent {
    /// A message of a process; messages of one process come in the order it sent them.
    Message(usize, Vec<u8>),
    /// The connection to a process is gone; nothing more will come from it. Told once for each.
    Lost(usize),
    /// Nothing came from a process for so long, not even a beat; its connection is closed, and nothing
    /// more will come from it. Told once, in the place of [`ControlEvent::Lost`].
    Silent(usize, Duration),
    /// This process did nothing for so long: it was stopped, and the others have given it up. Told once.
    StoodStill(Duration),
}

/// Why a message was not sent.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// There is no control connection between us and that process.
    #[error("send to process {to}: there is no control connection to it")]
    NotAPeer {
        /// The process.
        to: usize,
    },
    /// The message is longer than [`MESSAGE_BYTES_MAX`]; nothing of it was sent.
    #[error("send to process {to}: {bytes} bytes are more than {MESSAGE_BYTES_MAX}")]
    TooLong {
        /// The process.
        to: usize,
        /// The length of the message.
        bytes: usize,
    },
    /// The connection is gone; [`ControlEvent::Lost`] tells it too.
    #[error("send to process {to}")]
    Lost {
        /// The process.
        to: usize,
        /// What the system says.
        source: io::Error,
    },
}

/// The control connections of one process: process 0 has one to each other, the others one to
/// process 0, a process alone has none. Dropping it closes them.
#[derive(Debug)]
pub struct Control {
    sender: ControlSender,
    events: Receiver<ControlEvent>,
    /// `None` without peers.
    _pulse: Option<Pulse>,
}

/// Sends control messages from any thread; cheap to clone.
#[derive(Clone, Debug)]
pub struct ControlSender {
    peers: Arc<Vec<Peer>>,
}

#[derive(Debug)]
pub(super) struct Peer {
    index: usize,
    pub(super) socket: Socket,
    /// Held while one message is written, so that messages do not mix.
    pub(super) writing: Mutex<()>,
}

impl Peer {
    pub(super) fn new(index: usize, socket: Socket) -> Peer {
        Peer { index, socket, writing: Mutex::new(()) }
    }
}

impl Control {
    /// Starts one reader thread per connection, and the heart.
    pub(super) fn start(
        connections: Vec<(usize, Socket)>,
        heartbeat: Heartbeat,
    ) -> Result<Control, MeshError> {
        let failed = |source| MeshError::System { action: "start a control connection", source };
        let (events_sender, events) = sync_channel(EVENTS_MAX);
        let mut peers = Vec::with_capacity(connections.len());
        for (index, socket) in connections {
            socket.set_timeouts(Some(heartbeat.silence), Some(WRITE_STALL_MAX)).map_err(failed)?;
            let reader = socket.try_clone().map_err(failed)?;
            let events = events_sender.clone();
            std::thread::Builder::new()
                .name(format!("control-{index}"))
                .spawn(move || read_messages(index, &reader, heartbeat.silence, &events))
                .map_err(failed)?;
            peers.push(Peer::new(index, socket));
        }
        let peers = Arc::new(peers);
        let pulse = match peers.is_empty() {
            true => None,
            false => {
                let beating = Pulse::start(heartbeat, Arc::clone(&peers), events_sender);
                Some(beating.map_err(failed)?)
            }
        };
        Ok(Control { sender: ControlSender { peers }, events, _pulse: pulse })
    }

    /// Returns a handle that sends from any thread.
    pub fn sender(&self) -> ControlSender {
        self.sender.clone()
    }

    /// Sends one message; see [`ControlSender::send`].
    pub fn send(&self, to: usize, message: &[u8]) -> Result<(), ControlError> {
        self.sender.send(to, message)
    }

    /// Sends one message to every peer; see [`ControlSender::broadcast`].
    pub fn broadcast(&self, message: &[u8]) -> Result<(), ControlError> {
        self.sender.broadcast(message)
    }

    /// Waits for the next event. `None` when the time is over, and also, soon, when all peers are lost
    /// and every event was taken.
    pub fn recv_timeout(&self, timeout: Duration) -> Option<ControlEvent> {
        self.events.recv_timeout(timeout).ok()
    }

    /// Returns the next event if there is one.
    pub fn try_recv(&self) -> Option<ControlEvent> {
        self.events.try_recv().ok()
    }

    /// Waits for the next event; `None` soon after all peers are lost and every event was taken.
    pub fn recv(&self) -> Option<ControlEvent> {
        self.events.recv().ok()
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        for peer in self.sender.peers.iter() {
            let _ = peer.socket.shutdown(Shutdown::Both); // closed already is as good
        }
    }
}

impl ControlSender {
    /// Returns the processes that a message can be sent to.
    pub fn peers(&self) -> impl Iterator<Item = usize> + '_ {
        self.peers.iter().map(|peer| peer.index)
    }

    /// Sends one message. Blocks while the peer takes nothing, for 10 s at most; then it is lost.
    pub fn send(&self, to: usize, message: &[u8]) -> Result<(), ControlError> {
        if message.len() > MESSAGE_BYTES_MAX {
            return Err(ControlError::TooLong { to, bytes: message.len() });
        }
        let peer = self.peers.iter().find(|peer| peer.index == to);
        let peer = peer.ok_or(ControlError::NotAPeer { to })?;
        let _writing = peer.writing.lock().unwrap_or_else(PoisonError::into_inner);
        write_message(&peer.socket, message).map_err(|source| {
            // A message cut in its middle cannot be continued: the reader threads tell of the loss.
            let _ = peer.socket.shutdown(Shutdown::Both);
            ControlError::Lost { to, source }
        })
    }

    /// Sends one message to every peer, also when some are lost; the first failure is returned.
    pub fn broadcast(&self, message: &[u8]) -> Result<(), ControlError> {
        let mut result = Ok(());
        for peer in self.peers() {
            let sent = self.send(peer, message);
            result = result.and(sent);
        }
        result
    }
}

fn write_message(mut socket: &Socket, message: &[u8]) -> io::Result<()> {
    socket.write_all(&(message.len() as u32).to_be_bytes())?;
    socket.write_all(message)
}

/// Reads one message, over the beats before it; `None` when the peer closed between two of them.
fn read_message(mut socket: &Socket) -> io::Result<Option<Vec<u8>>> {
    let prefix = loop {
        let mut prefix = [0; 4];
        if socket.read(&mut prefix[..1])? == 0 {
            return Ok(None);
        }
        socket.read_exact(&mut prefix[1..])?;
        match u32::from_be_bytes(prefix) {
            BEAT => {}
            prefix => break prefix,
        }
    };
    let bytes = prefix as usize;
    if bytes > MESSAGE_BYTES_MAX {
        let text =
            format!("a message of {bytes} bytes is announced, {MESSAGE_BYTES_MAX} are allowed");
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    let mut message = Vec::new(); // grows with what really comes, not with what is announced
    let read = socket.take(bytes as u64).read_to_end(&mut message)?;
    if read < bytes {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(Some(message))
}

fn read_messages(
    index: usize,
    socket: &Socket,
    silence: Duration,
    events: &SyncSender<ControlEvent>,
) {
    loop {
        match read_message(socket) {
            Ok(Some(message)) => {
                if events.send(ControlEvent::Message(index, message)).is_err() {
                    return; // nobody listens any more
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            ended => {
                let mut event = ControlEvent::Lost(index);
                if let Err(error) = ended {
                    tracing::debug!(process = index, %error, "control connection ends");
                    // The time-out of our read, not the network's word that nobody is there.
                    if error.kind() == io::ErrorKind::WouldBlock {
                        event = ControlEvent::Silent(index, silence);
                    }
                }
                let _ = socket.shutdown(Shutdown::Both);
                let _ = events.send(event); // nobody listens: nobody to tell
                return;
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot unwrap has failed")]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    const LONG: Duration = Duration::from_secs(600);

    /// What process 0 hears when process 1 writes these bytes and closes.
    #[track_caller]
    fn check(written: &[u8], expected: &[&[u8]]) {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let heartbeat = Heartbeat { every: LONG, silence: LONG };
        let control = Control::start(vec![(1, Socket::Unix(ours))], heartbeat).unwrap();
        let _ = theirs.write_all(written); // refused in the middle is fine
        theirs.shutdown(Shutdown::Write).unwrap();
        let messages = expected.iter().map(|bytes| ControlEvent::Message(1, bytes.to_vec()));
        let expected: Vec<_> = messages.chain([ControlEvent::Lost(1)]).collect();
        let heard: Vec<_> = std::iter::from_fn(|| control.recv()).take(expected.len()).collect();
        assert_eq!(heard, expected);
        let mut rest = Vec::new();
        assert!(theirs.read_to_end(&mut rest).is_ok(), "our side is closed too");
    }

    #[test]
    fn broken_framing_is_a_lost_peer() {
        check(b"", &[]);
        check(b"\0\0\0\x01a\0\0\0\0\0\0\0\x02bc", &[b"a", b"", b"bc"]);
        check(b"\0\0\0\x01a\0\0", &[b"a"]);
        check(b"\0\0\0\x05abcd", &[]);
        check(b"\x01\0\0\x01abcd", &[]);
        check(b"\xff\xff\xff\xffabcd", &[]);
    }

    #[test]
    fn beats_are_no_messages() {
        check(b"\xbe\xa7\xbe\xa7", &[]);
        check(
            b"\xbe\xa7\xbe\xa7\0\0\0\x01a\xbe\xa7\xbe\xa7\xbe\xa7\xbe\xa7\0\0\0\x01b",
            &[b"a", b"b"],
        );
        check(b"\0\0\0\x04\xbe\xa7\xbe\xa7\xbe\xa7", &[b"\xbe\xa7\xbe\xa7"]);
    }
}
