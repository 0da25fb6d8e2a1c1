//! Front: the address of the service, which outlives the generations that serve it.
//!
//! The parent binds it once. While process 0 serves, the parent leaves the socket alone; while no
//! process 0 does, the parent itself answers on it that the service comes back. So a connection is
//! never refused. It knows nothing that a client could ask for.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::{oneshot, watch};

/// How long an address may be taken by a process that was killed and is not gone yet.
const TAKEN_MAX: Duration = Duration::from_secs(2);

/// How often it is looked.
const LOOK: Duration = Duration::from_millis(50);

/// The listening socket of the service, and who answers on it.
#[derive(Debug)]
pub struct Front {
    listener: TcpListener,
    address: SocketAddr,
    standing: Option<Standing>,
}

/// The parent's own answers, while they last.
#[derive(Debug)]
struct Standing {
    text: watch::Sender<String>,
    /// Sent or dropped: it ends.
    end: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl Front {
    /// Binds the address; waits a moment for one who still has it, for it may be about to end.
    pub fn bind(address: SocketAddr) -> io::Result<Front> {
        let until = Instant::now() + TAKEN_MAX;
        loop {
            match TcpListener::bind(address) {
                Err(error) if error.kind() == ErrorKind::AddrInUse && Instant::now() < until => {
                    std::thread::sleep(LOOK);
                }
                bound => return Front::of(bound?),
            }
        }
    }

    /// Takes a socket that listens already.
    pub fn of(listener: TcpListener) -> io::Result<Front> {
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        Ok(Front { listener, address, standing: None })
    }

    /// Returns the address that is really bound: port 0 has become one.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the socket, for whoever serves.
    pub fn listener(&self) -> &TcpListener {
        &self.listener
    }

    /// Answers every call with this text, in the place of process 0.
    pub fn stand_in(&mut self, text: String) {
        if let Some(standing) = &self.standing {
            standing.text.send_replace(text);
            return;
        }
        match Standing::begin(&self.listener, text) {
            Ok(standing) => self.standing = Some(standing),
            // Clients wait for process 0 then, which is not wrong.
            Err(error) => tracing::warn!(%error, "nobody answers clients until process 0 does"),
        }
    }

    /// Leaves the socket to process 0.
    pub fn step_back(&mut self) {
        if let Some(Standing { end, thread, .. }) = self.standing.take() {
            let _ = end.send(()); // it has ended already: as good
            // Not waited for: a client that takes its time must not hold up the run.
            drop(thread);
        }
    }
}

impl Standing {
    fn begin(listener: &TcpListener, text: String) -> io::Result<Standing> {
        let listener = listener.try_clone()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (text, said) = watch::channel(text);
        let (end, ended) = oneshot::channel::<()>();
        let thread = std::thread::Builder::new().name("front".to_string()).spawn(move || {
            let served = runtime.block_on(async move {
                let listener = tokio::net::TcpListener::from_std(listener)?;
                let ended = async move { drop(ended.await) };
                tidemill_server::stand_in(listener, said, ended).await.map_err(io::Error::other)
            });
            if let Err(error) = served {
                tracing::warn!(%error, "clients are not answered until process 0 is back");
            }
            // With it go the connections of those who did not leave: they connect again.
            runtime.shutdown_background();
        })?;
        Ok(Standing { text, end, thread })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tidemill_client::{Client, SubmitOptions};

    use super::*;

    #[test]
    fn while_nobody_serves_the_front_says_so_and_then_leaves_the_socket_to_process_0() {
        let mut front = Front::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        assert_ne!(front.address().port(), 0);
        let address = format!("http://{}", front.address());
        let file = tempfile::NamedTempFile::new().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        for text in ["generation 7 is starting", "generation 8 is starting"] {
            front.stand_in(text.to_string());
            let error = runtime.block_on(async {
                let client = Client::connect(&address).await.unwrap();
                let once = SubmitOptions { resend_for: Duration::ZERO, ..SubmitOptions::default() };
                client.submit_file(file.path(), once, |_, _| {}).await.unwrap_err()
            });
            assert_eq!(error.to_string(), format!("starting: {text}"));
        }
        let standing = front.standing.take().unwrap();
        standing.end.send(()).unwrap();
        standing.thread.join().unwrap();
        // Nobody else accepts any more.
        let waiting = std::net::TcpStream::connect(front.address()).unwrap();
        front.listener.set_nonblocking(false).unwrap();
        let (accepted, _) = front.listener().accept().unwrap();
        assert_eq!(accepted.peer_addr().unwrap(), waiting.local_addr().unwrap());
        front.stand_in("generation 9 is starting".to_string());
        front.step_back();
        assert!(front.standing.is_none());
    }
}
