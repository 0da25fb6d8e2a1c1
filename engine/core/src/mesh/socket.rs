//! Socket: one connection between two processes, TCP or Unix, and the listener that accepts them.
//!
//! Owns the options that make a silent peer noticed. Never waits longer than it is told.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream, ToSocketAddrs};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use timely::communication::allocator::zero_copy::stream::Stream;

use super::endpoint::Endpoint;

const KEEPALIVE_IDLE: Duration = Duration::from_secs(5);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
const KEEPALIVE_PROBES: u32 = 3;
/// How long sent bytes may stay unacknowledged before the connection counts as lost.
const USER_TIMEOUT: Duration = Duration::from_secs(10);

/// One connection between two processes.
#[derive(Debug)]
pub enum Socket {
    /// Over the network.
    Tcp(TcpStream),
    /// Inside one host.
    Unix(UnixStream),
}

impl Socket {
    /// Connects to an endpoint, trying each address of its name, within `timeout`.
    pub(super) fn dial(endpoint: &Endpoint, timeout: Duration) -> io::Result<Socket> {
        let until = Instant::now() + timeout;
        match endpoint {
            Endpoint::Unix(path) => Ok(Socket::Unix(UnixStream::connect(path)?)),
            Endpoint::Tcp(address) => {
                let mut last = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
                for target in address.to_socket_addrs()? {
                    let Some(left) = left_until(until) else { break };
                    match TcpStream::connect_timeout(&target, left) {
                        Ok(stream) => return Socket::Tcp(stream).prepared(),
                        Err(error) => last = error,
                    }
                }
                Err(last)
            }
        }
    }

    /// Sets what every connection needs: no delay, and a dead peer noticed within seconds.
    fn prepared(self) -> io::Result<Socket> {
        if let Socket::Tcp(stream) = &self {
            stream.set_nodelay(true)?;
            rustix::net::sockopt::set_socket_keepalive(stream, true)?;
            rustix::net::sockopt::set_tcp_keepidle(stream, KEEPALIVE_IDLE)?;
            rustix::net::sockopt::set_tcp_keepintvl(stream, KEEPALIVE_INTERVAL)?;
            rustix::net::sockopt::set_tcp_keepcnt(stream, KEEPALIVE_PROBES)?;
            #[cfg(target_os = "linux")]
            rustix::net::sockopt::set_tcp_user_timeout(stream, USER_TIMEOUT.as_millis() as u32)?;
        }
        Ok(self)
    }

    /// Bounds each later read and write; `None` waits for ever.
    pub(super) fn set_timeouts(
        &self,
        read: Option<Duration>,
        write: Option<Duration>,
    ) -> io::Result<()> {
        match self {
            Socket::Tcp(stream) => {
                stream.set_read_timeout(read)?;
                stream.set_write_timeout(write)
            }
            Socket::Unix(stream) => {
                stream.set_read_timeout(read)?;
                stream.set_write_timeout(write)
            }
        }
    }

    /// Says who is at the other end, for messages.
    pub(super) fn peer_text(&self) -> String {
        match self {
            Socket::Tcp(stream) => match stream.peer_addr() {
                Ok(address) => address.to_string(),
                Err(_) => "a closed connection".to_string(),
            },
            Socket::Unix(_) => "this host".to_string(),
        }
    }
}

impl Stream for Socket {
    fn try_clone(&self) -> io::Result<Self> {
        Ok(match self {
            Socket::Tcp(stream) => Socket::Tcp(stream.try_clone()?),
            Socket::Unix(stream) => Socket::Unix(stream.try_clone()?),
        })
    }

    fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        match self {
            Socket::Tcp(stream) => stream.set_nonblocking(nonblocking),
            Socket::Unix(stream) => stream.set_nonblocking(nonblocking),
        }
    }

    fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        match self {
            Socket::Tcp(stream) => stream.shutdown(how),
            Socket::Unix(stream) => stream.shutdown(how),
        }
    }
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        (&*self).read(buffer)
    }
}

impl Read for &Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(stream) => (&mut &*stream).read(buffer),
            Socket::Unix(stream) => (&mut &*stream).read(buffer),
        }
    }
}

impl Write for Socket {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        (&*self).write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(()) // neither kind buffers
    }
}

impl Write for &Socket {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(stream) => (&mut &*stream).write(buffer),
            Socket::Unix(stream) => (&mut &*stream).write(buffer),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A socket whose reads and writes all together end at one moment, however slowly the peer drips.
pub(super) struct Timed<'a> {
    socket: &'a Socket,
    until: Instant,
}

impl<'a> Timed<'a> {
    pub(super) fn new(socket: &'a Socket, until: Instant) -> Timed<'a> {
        Timed { socket, until }
    }

    fn arm(&self) -> io::Result<()> {
        let left = left_until(self.until).ok_or(io::ErrorKind::TimedOut)?;
        self.socket.set_timeouts(Some(left), Some(left))
    }
}

impl Read for Timed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.arm()?;
        self.socket.read(buffer)
    }
}

impl Write for Timed<'_> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.arm()?;
        self.socket.write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Returns the time left, `None` once there is none.
pub(super) fn left_until(until: Instant) -> Option<Duration> {
    let left = until.saturating_duration_since(Instant::now());
    (!left.is_zero()).then_some(left)
}

/// Accepts the connections of one process; a Unix socket's file goes with it.
pub(super) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
}

impl Listener {
    /// Listens at an endpoint. The file of a Unix socket at which nobody listens any more is replaced.
    pub(super) fn bind(endpoint: &Endpoint) -> io::Result<Listener> {
        match endpoint {
            Endpoint::Tcp(address) => {
                let listener = TcpListener::bind(address)?;
                listener.set_nonblocking(true)?;
                Ok(Listener::Tcp(listener))
            }
            Endpoint::Unix(path) => {
                let listener = match UnixListener::bind(path) {
                    Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                        match UnixStream::connect(path) {
                            Err(refused) if refused.kind() == io::ErrorKind::ConnectionRefused => {
                                std::fs::remove_file(path)?;
                                UnixListener::bind(path)?
                            }
                            _ => return Err(error),
                        }
                    }
                    other => other?,
                };
                listener.set_nonblocking(true)?;
                Ok(Listener::Unix(listener, path.clone()))
            }
        }
    }

    /// Returns the next connection, `None` when nobody waits. A peer of another user is refused.
    pub(super) fn accept(&self) -> io::Result<Option<Socket>> {
        let accepted = match self {
            Listener::Tcp(listener) => listener.accept().map(|(stream, _)| Socket::Tcp(stream)),
            Listener::Unix(listener, _) => listener.accept().and_then(|(stream, _)| {
                check_user(&stream)?;
                Ok(Socket::Unix(stream))
            }),
        };
        match accepted {
            Ok(socket) => {
                socket.set_nonblocking(false)?;
                Ok(Some(socket.prepared()?))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Listener::Unix(_, path) = self {
            let _ = std::fs::remove_file(path); // a left-over is replaced at the next start
        }
    }
}

#[cfg(target_os = "linux")]
fn check_user(stream: &UnixStream) -> io::Result<()> {
    let peer = rustix::net::sockopt::socket_peercred(stream)?;
    if peer.uid == rustix::process::geteuid() {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::PermissionDenied, "the peer is of another user"))
}

#[cfg(not(target_os = "linux"))]
fn check_user(_stream: &UnixStream) -> io::Result<()> {
    Ok(()) // the folder of the socket is what keeps other users out
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot unwrap has failed")]
mod tests {
    use rustix::net::sockopt;

    use super::*;

    #[test]
    fn both_ends_of_a_connection_notice_a_silent_peer() {
        let held = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = Endpoint::Tcp(held.local_addr().unwrap().to_string());
        drop(held);
        let listener = Listener::bind(&endpoint).unwrap();
        let dialled = Socket::dial(&endpoint, Duration::from_secs(5)).unwrap();
        let accepted = std::iter::repeat_with(|| listener.accept().unwrap()).flatten().next();
        for socket in [dialled, accepted.unwrap()] {
            let Socket::Tcp(stream) = socket else { panic!("a TCP endpoint") };
            assert!(stream.nodelay().unwrap());
            assert!(sockopt::socket_keepalive(&stream).unwrap());
            assert_eq!(sockopt::tcp_keepidle(&stream).unwrap(), KEEPALIVE_IDLE);
            assert_eq!(sockopt::tcp_keepintvl(&stream).unwrap(), KEEPALIVE_INTERVAL);
            assert_eq!(sockopt::tcp_keepcnt(&stream).unwrap(), KEEPALIVE_PROBES);
            #[cfg(target_os = "linux")]
            assert_eq!(sockopt::tcp_user_timeout(&stream).unwrap(), 10_000);
        }
    }

    #[test]
    fn time_that_is_over_ends_a_conversation() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(b"more, for ever").unwrap();
        let socket = Socket::Unix(ours);
        let mut timed = Timed::new(&socket, Instant::now());
        assert_eq!(timed.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(timed.write(&[0]).unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
}
