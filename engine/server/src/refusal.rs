//! Refusal: every reason for which the server says no.
//!
//! The texts go to clients as they are: they carry no path of the server and no text of an error
//! below. What a person who runs the server must know is logged where it happens.

use std::time::Duration;

use tidemill_engine::control::ControlError;
use tidemill_engine::engine::tables::TableError;
use tidemill_engine::engine::{ClientId, ClientIdError, DeployError, SubmitError};

/// Why a request was refused. `convert` gives each its status code and word.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    /// The engine does not take the file.
    #[error(transparent)]
    Submit(#[from] SubmitError),
    /// Some of several pipelines have taken a file, and one does not.
    #[error("{refusal} (taken before that by {taken})")]
    Partly { taken: String, refusal: Box<Refusal> },
    /// A table does not answer.
    #[error(transparent)]
    Table(#[from] TableError),
    /// Nothing is paused, resumed or drained.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// Too many tables are being read.
    #[error("too many tables are being read at once; ask again later")]
    Readers,
    /// A reader lets messages wait.
    #[error(
        "the reader took nothing for {idle:?}; go on after epoch {seen} if it has seen that \
         completely, else begin anew"
    )]
    ReaderStalled { idle: Duration, seen: u64 },
    /// A reader takes too long in all.
    #[error("the rows were not read within {limit:?}; ask for fewer, or for pages with a limit")]
    ReaderSlow { limit: Duration },
    /// No pipeline has this name.
    #[error("no pipeline is called {name:?}; running: {running}")]
    Pipeline { name: String, running: String },
    /// No pipeline was named, and there is more than one (or none).
    #[error("name a pipeline; running: {running}")]
    PipelineNeeded { running: String },
    /// No submission has this id.
    #[error("no submission has the id {id}")]
    NoSubmission { id: u64 },
    /// The name cannot be the name of a file.
    #[error("the name {name:?} cannot be taken: {reason}")]
    Name { name: String, reason: &'static str },
    /// The id that a client gave is none.
    #[error("the client_submission_id {reason}")]
    Id { reason: ClientIdError },
    /// An upload with this id is under way.
    #[error("an upload with the id {id} is under way; try again when it has ended")]
    IdBusy { id: ClientId },
    /// A field is out of its range.
    #[error("{field}: {reason}")]
    Argument { field: &'static str, reason: &'static str },
    /// The messages of an upload do not come in order.
    #[error("the upload {reason}; send a header, then chunks, then an end")]
    Stream { reason: &'static str },
    /// The sender went away.
    #[error("the upload ended before it was complete")]
    Lost,
    /// A message is larger than the limit.
    #[error("a message is larger than {limit} bytes; 256 KiB of data in each chunk is a good size")]
    MessageTooBig { limit: usize },
    /// A chunk does not follow the one before.
    #[error("a chunk or an upload goes on at byte {offset}, but {expected} bytes have come so far")]
    Offset { offset: u64, expected: u64 },
    /// More bytes came than were declared.
    #[error("the header declared {declared} bytes, but at least {received} came")]
    TooMany { declared: u64, received: u64 },
    /// Fewer bytes came than were declared.
    #[error("the header declared {declared} bytes, but only {received} came")]
    TooFew { declared: u64, received: u64 },
    /// The bytes do not have the declared hash.
    #[error("the bytes that came have the BLAKE3 hash {received}, but {declared} was declared")]
    Hash { declared: blake3::Hash, received: blake3::Hash },
    /// The file is over the limit.
    #[error("{bytes} bytes are more than this server takes in one file: {limit}")]
    TooBig { bytes: u64, limit: u64 },
    /// Too many uploads wait for their turn.
    #[error("too many uploads at once; send it again later")]
    Busy,
    /// The upload stalled.
    #[error("no part of the upload came for {idle:?}")]
    Stalled { idle: Duration },
    /// The upload is too slow on the whole.
    #[error("the upload is slower than {bytes_per_second} bytes a second")]
    Slow { bytes_per_second: u64 },
    /// The answer took too long.
    #[error("the server could not answer within {limit:?}; try again")]
    NoAnswer { limit: Duration },
    /// The submission was not final in time.
    #[error("submission {id} is still {phase} after {waited:?}")]
    StillOpen { id: u64, phase: &'static str, waited: Duration },
    /// A watcher fell behind.
    #[error("the watcher was too slow and missed {missed} changes; watch again")]
    Lagged { missed: u64 },
    /// The disk is full.
    #[error("the server's disk has no room for {bytes} bytes; send it again later")]
    DiskFull { bytes: u64 },
    /// The disk refuses.
    #[error("the server cannot write the file now; send it again later")]
    Disk,
    /// The server is stopping.
    #[error("the server is stopping; try again later")]
    Draining,
    /// A pipeline file has mistakes.
    #[error("{text}")]
    PipelineFile { text: String },
    /// A pipeline file does not take over.
    #[error(transparent)]
    Deploy(DeployError),
    /// The next engine is about to serve.
    #[error("a changed pipeline takes over; try again in a moment")]
    HandingOver,
    /// No process 0 serves at the moment.
    #[error("{text}")]
    Starting { text: String },
    /// A mistake of ours.
    #[error("the server made a mistake; its log tells more")]
    Internal,
}
