//! Event: everything that happens outside of the ledger and that it must hear of. Only says what; the
//! ledger decides what follows.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::Sender;

use tidemill_store::checkpoint::Manifest;
use tidemill_store::{AcceptedFile, Deployed, NewFile, Postponed, Retried};

use crate::answer::Heard;
use crate::checkpoint::KeptPart;
use crate::ledger::{Boundary, Change, Removal, Try};

/// Where the answer to an acceptance goes.
pub type AcceptReply = Sender<Vec<AcceptedFile>>;

/// What happens outside of the ledger.
pub enum Event {
    /// Files were claimed and synced: accept them.
    Accept {
        /// The files, all of one pipeline.
        files: Vec<NewFile>,
        /// Who waits for the answer.
        reply: Option<AcceptReply>,
    },
    /// A file of `quarantine/` is to be tried again.
    Retry {
        /// The submission that was set aside.
        of: u64,
        /// The file as it lies there.
        file: Box<NewFile>,
        /// Who waits for the answer.
        reply: Sender<Retried>,
    },
    /// A file that waits to be tried again is to be tried at once.
    TryNow {
        /// The submission.
        id: u64,
        /// Told whether it waited.
        reply: Sender<bool>,
    },
    /// A committed file is to be taken away.
    Remove(Removal),
    /// A correction is to be tried.
    Try(Box<Try>),
    /// The dataflow of a pipeline said something.
    Heard {
        /// Which pipeline.
        pipeline: usize,
        /// What.
        heard: Heard,
    },
    /// The outputs of a committed file cannot be made visible yet.
    Unpublished {
        /// The submission.
        id: u64,
        /// When it was tried, in microseconds since 1970.
        at_us: i64,
        /// Why, and when it is tried again.
        why: Postponed,
    },
    /// Publication and moves of these submissions are durable.
    Settled(Vec<u64>),
    /// A table was written for the checkpoint under way.
    TableKept {
        /// Which pipeline.
        pipeline: usize,
        /// What was written.
        part: KeptPart,
    },
    /// The manifest of the checkpoint under way was written, or the disk refused.
    Sealed {
        /// Which pipeline.
        pipeline: usize,
        /// The manifest.
        manifest: Box<Manifest>,
        /// Its name and hash.
        outcome: io::Result<(String, [u8; 32])>,
    },
    /// Files of old checkpoints are gone.
    Swept {
        /// Which pipeline.
        pipeline: usize,
    },
    /// A text is to take over a pipeline once all of its files are finished, or none is.
    Deploy {
        /// What begins then.
        boundary: Arc<Boundary>,
        /// Who waits for the answer.
        reply: Sender<Deployed>,
    },
    /// Something is held back, or not any more.
    Control(Change),
    /// Says whether everything that was finished before it is visible, tables included.
    Refresh(Sender<bool>),
    /// No more files are taken; dataflows end when they are through with what they have begun.
    Stop,
    /// Says when everything before it is in the hands of the publisher.
    Flush(Sender<()>),
    /// The publisher has ended: end.
    End,
}
