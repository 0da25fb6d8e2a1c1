//! Link: the one connection between a parent and each of its children. Its end at the child is the
//! child's standard input.
//!
//! The parent hands process 0 the socket of the service over it, and never says anything else: the
//! link's end is its word that it is gone. The child says how far it came, one word a line. Holds
//! nothing that must survive; never makes the child wait for more than a few bytes.

use std::fs::File;
use std::io::{self, BufRead, BufReader, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::net::{Shutdown, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};

/// The byte that travels with a handed-over socket.
const HANDOVER: [u8; 1] = *b"L";

/// The longest report that is read, in bytes.
const REPORT_BYTES_MAX: u64 = 64;

/// What a child says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report {
    /// The journal has given this number to the generation that begins.
    Generation(u64),
    /// Process 0 serves.
    Ready,
    /// A file was finished.
    Progress,
    /// A file was set aside.
    Quarantined,
}

impl Report {
    fn line(self) -> String {
        match self {
            Report::Generation(number) => format!("generation {number}\n"),
            Report::Ready => "ready\n".to_string(),
            Report::Progress => "progress\n".to_string(),
            Report::Quarantined => "quarantined\n".to_string(),
        }
    }

    fn parse(line: &str) -> Option<Report> {
        match line.trim_end() {
            "ready" => Some(Report::Ready),
            "progress" => Some(Report::Progress),
            "quarantined" => Some(Report::Quarantined),
            other => other.strip_prefix("generation ")?.parse().ok().map(Report::Generation),
        }
    }
}

/// The parent's end. Dropping it tells the child that the parent is gone.
#[derive(Debug)]
pub(super) struct Link {
    socket: UnixStream,
}

impl Link {
    /// Returns a link and what the child's standard input must be.
    pub(super) fn new() -> io::Result<(Link, OwnedFd)> {
        let (socket, theirs) = UnixStream::pair()?;
        Ok((Link { socket }, theirs.into()))
    }

    /// Sends a copy of a listening socket. Does not block: the child need not live yet.
    pub(super) fn hand_over(&self, listener: &TcpListener) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let sockets = [listener.as_fd()];
        if !ancillary.push(SendAncillaryMessage::ScmRights(&sockets)) {
            return Err(io::Error::other("there is no room for a socket"));
        }
        let byte = [IoSlice::new(&HANDOVER)];
        rustix::net::sendmsg(&self.socket, &byte, &mut ancillary, SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// Reads what the child says and hands it on, to the end of the link.
    pub(super) fn hear<T>(&self, told: T) -> io::Result<impl FnOnce() + use<T>>
    where
        T: Fn(Report),
    {
        let socket = self.socket.try_clone()?;
        Ok(move || {
            let mut socket = BufReader::new(socket);
            let mut line = String::new();
            // A child that is no tidemill may say what it likes.
            while (&mut socket)
                .take(REPORT_BYTES_MAX)
                .read_line(&mut line)
                .is_ok_and(|bytes| bytes > 0)
            {
                if let Some(report) = Report::parse(&line) {
                    told(report);
                }
                line.clear();
            }
        })
    }

    /// Ends the reading, behind what was said already.
    pub(super) fn close(&self) {
        let _ = self.socket.shutdown(Shutdown::Read); // closed already is as good
    }
}

/// The child's end.
#[derive(Clone, Debug)]
pub struct Parent {
    link: Arc<File>,
}

impl Parent {
    /// Takes the standard input for the link.
    pub(super) fn of_stdin() -> io::Result<Parent> {
        let link = io::stdin().as_fd().try_clone_to_owned()?;
        Ok(Parent { link: Arc::new(File::from(link)) })
    }

    /// Takes the listening socket that the parent has sent. Call it once, before [`end_with`](super::end_with).
    pub fn take_listener(&self) -> io::Result<TcpListener> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut byte = [0];
        let flags = RecvFlags::CMSG_CLOEXEC;
        let link = self.link.as_fd();
        rustix::net::recvmsg(link, &mut [IoSliceMut::new(&mut byte)], &mut ancillary, flags)?;
        let sockets = ancillary.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut sockets) => sockets.next(),
            _ => None,
        });
        let missing = || io::Error::new(io::ErrorKind::InvalidData, "no socket came");
        let socket = sockets.filter(|_| byte == HANDOVER).ok_or_else(missing)?;
        Ok(TcpListener::from(socket))
    }

    /// Says something to the parent. One that is gone hears nothing, and that ends us elsewhere.
    pub fn tell(&self, report: Report) {
        let _ = (&*self.link).write_all(report.line().as_bytes());
    }

    /// Returns when the parent is gone.
    pub(super) fn outlive(&self) {
        // Nothing more is ever sent: this returns when the parent's end is closed, or unusable.
        let _ = io::copy(&mut &*self.link, &mut io::sink());
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;
    use std::sync::mpsc::channel;

    use super::*;

    fn pair() -> (Link, Parent) {
        let (link, theirs) = Link::new().unwrap();
        (link, Parent { link: Arc::new(File::from(theirs)) })
    }

    #[test]
    fn a_listening_socket_is_handed_over() {
        let (link, parent) = pair();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        link.hand_over(&listener).unwrap();
        let taken = parent.take_listener().unwrap();
        drop(listener);
        assert_eq!(taken.local_addr().unwrap(), address);
        let mut client = TcpStream::connect(address).unwrap();
        client.write_all(b"x").unwrap();
        taken.accept().unwrap().0.read_exact(&mut [0]).unwrap();
    }

    #[test]
    fn what_is_no_listening_socket_is_not_taken() {
        let (link, parent) = pair();
        (&link.socket).write_all(b"L").unwrap();
        assert!(parent.take_listener().is_err());
        let (link, parent) = pair();
        drop(link);
        assert!(parent.take_listener().is_err());
    }

    #[test]
    fn what_a_child_says_is_heard_to_its_end() {
        let (link, parent) = pair();
        let reports = [Report::Generation(7), Report::Ready, Report::Progress, Report::Quarantined];
        reports.into_iter().for_each(|report| parent.tell(report));
        (&*parent.link).write_all(b"anything\n\xff\n").unwrap();
        let (told, heard) = channel();
        let hear = link.hear(move |report| told.send(report).unwrap()).unwrap();
        link.close();
        hear();
        assert_eq!(heard.iter().collect::<Vec<_>>(), reports);
        drop(link);
        parent.outlive();
    }
}
