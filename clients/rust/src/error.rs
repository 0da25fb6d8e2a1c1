//! Error: what can go wrong between a client and its server, by what the caller does about it.

use std::path::PathBuf;
use std::time::Duration;

use tidemill_proto::CODE_KEY;
use tonic::{Code, Status};

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address cannot be the address of a server.
    #[error("{address:?} is not the address of a server: {reason}")]
    Address {
        /// The address as it was given.
        address: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Nobody answers at the address.
    #[error("cannot connect to {address}; is `tidemill run` running there?")]
    Connect {
        /// The address.
        address: String,
        /// What the network said.
        #[source]
        source: tonic::transport::Error,
    },
    /// The server answered that it will not or cannot.
    #[error("{}{message}", word.as_ref().map(|word| format!("{word}: ")).unwrap_or_default())]
    Server {
        /// The gRPC status.
        status: Code,
        /// The stable word, such as `bad_name`; absent when the answer is not tidemill's own, for
        /// example when the connection was lost.
        word: Option<String>,
        /// The text for people.
        message: String,
    },
    /// The submission was not final in time.
    #[error("submission {id} is not final after {waited:?}")]
    NotFinal {
        /// The submission.
        id: u64,
        /// How long was waited.
        waited: Duration,
    },
    /// The file cannot be read.
    #[error("read {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the file system said.
        #[source]
        source: std::io::Error,
    },
    /// The path has no name that could be sent, or is not a regular file.
    #[error("{} cannot be sent: {reason}", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
        /// What it is instead.
        reason: &'static str,
    },
    /// The file changed while it was sent; nothing was kept of it.
    #[error("{} changed while it was sent; send it again when it is whole", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// The server's answer makes no sense to this client.
    #[error("the server's answer has no valid {what}; is it a newer version?")]
    Answer {
        /// The part of the answer.
        what: &'static str,
    },
}

impl Error {
    /// Returns the stable word of a refusal, such as `bad_name`.
    pub fn word(&self) -> Option<&str> {
        match self {
            Error::Server { word, .. } => word.as_deref(),
            _ => None,
        }
    }

    /// Returns whether an upload with an id may be sent again by itself: nobody answered, or the
    /// server said that it cannot now.
    pub(crate) fn may_be_sent_again(&self) -> bool {
        match self {
            Error::Server { status, word: None, .. } => matches!(
                status,
                Code::Unavailable | Code::Unknown | Code::Internal | Code::Cancelled
            ),
            Error::Server { status, word: Some(word), .. } => {
                *status == Code::Unavailable || matches!(&**word, "too_busy" | "no_space")
            }
            _ => false,
        }
    }

    /// Returns whether the same call may succeed later without any change.
    pub fn is_temporary(&self) -> bool {
        match self {
            Error::Connect { .. } => true,
            Error::Server { status, .. } => matches!(
                status,
                Code::Unavailable | Code::ResourceExhausted | Code::DeadlineExceeded
            ),
            _ => false,
        }
    }
}

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        let word = status.metadata().get(CODE_KEY).and_then(|word| word.to_str().ok());
        let message = match (word, status.code()) {
            (None, Code::Unavailable | Code::Unknown | Code::Internal | Code::Cancelled) => {
                format!("the connection to the server failed: {}", status.message())
            }
            _ => status.message().to_owned(),
        };
        Error::Server { status: status.code(), word: word.map(str::to_owned), message }
    }
}
