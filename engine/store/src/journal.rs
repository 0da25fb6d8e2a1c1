//! Journal: what is known of every file, in one SQLite database, `HOME/journal.db`.
//!
//! Owns the numbers that are given once: ids, epochs, stored and output names. One [`Journal`] at a
//! time writes; any number of [`JournalReader`]s look on without blocking it. What
//! [`Journal::accept`] and [`Journal::finish`] have returned survives a crash and a loss of power.
//! Never touches the files it speaks of, except to see which names are taken.

mod accept;
mod adopt;
mod arrival;
mod attempt;
mod checkpoint;
mod client_id;
mod correct;
mod dedupe;
mod deployment;
mod finish;
mod hold;
mod names;
mod read;
mod reading;
mod receipt;
mod retry;
pub(crate) mod schema;
mod shelf;
mod strike;
mod unpublished;
mod versions;
mod void;
mod write;

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;

use rusqlite::{Connection, ErrorCode, ffi};

use crate::disk::{self, DiskError, Full};
use crate::queue::Identity;

pub use arrival::{SetFiles, SetOf, Terms};
pub use attempt::{Attempt, Postponed};
pub(crate) use checkpoint::checkpoints;
pub use checkpoint::{CheckpointRow, Committed};
pub use client_id::{CLIENT_IDS_KEPT, ClientId, ClientIdError};
pub use correct::{
    Correction, Corrections, NeededBy, Removed, Replaces, RetainedBytes, Retired, Versions,
};
pub use dedupe::Dedupe;
pub use deployment::{Deployed, Deployment, NewDeployment, deployments};
pub use hold::{Held, Hold};
pub use read::JournalReader;
pub use reading::{Frame, Reading};
pub use receipt::ReceiptRow;
pub use retry::{Retried, Retries, UnderWay};
pub use shelf::{Output, Replaced};
pub use strike::STRIKES_ALONE;
pub use void::WouldBe;
pub(crate) use void::pass as pass_void;

/// The one writer of the journal.
#[derive(Debug)]
pub struct Journal {
    connection: Connection,
    root: PathBuf,
    next_id: u64,
    generation: Option<u64>,
    /// What is known of each pipeline, as of the last commit.
    pipelines: HashMap<String, write::Counters>,
    books: receipt::Books,
    /// The sources whose inputs are retained when they are committed, by pipeline.
    retaining: HashMap<String, Vec<String>>,
    /// The frames that are remembered with committed files.
    frames: reading::Frames,
    /// Set after a write failed: nothing may be written behind it.
    failed: bool,
}

/// One life of the whole program, as the journal keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generation {
    /// The version of the binary.
    pub binary_version: String,
    /// How many processes.
    pub processes: u64,
    /// How many workers in each.
    pub workers: u64,
    /// The pipelines that run: name and plan hash.
    pub plans: Vec<(String, String)>,
}

/// A claimed file that is to be accepted. Times are microseconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewFile {
    /// Its number, from [`Journal::next_submission`].
    pub id: u64,
    /// The pipeline that will run it.
    pub pipeline: String,
    /// The source that will read it.
    pub source: String,
    /// The name under which it came.
    pub name: String,
    /// Its name in `underprocess/`.
    pub claimed_name: String,
    /// Which file it is and how it looked.
    pub identity: Identity,
    /// BLAKE3 of its bytes, if it is known before they are processed.
    pub hash: Option<[u8; 32]>,
    /// When it was first seen.
    pub seen_at_us: i64,
    /// When it was claimed.
    pub claimed_at_us: i64,
    /// The id its sender gave it.
    pub client_id: Option<ClientId>,
    /// Which earlier files of its source it must not repeat.
    pub dedupe: Dedupe,
    /// Which earlier file of its source it takes the place of. One that takes a place repeats none.
    pub replaces: Replaces,
    /// What was found of it already.
    pub terms: Terms,
}

/// A file in the journal. Times are microseconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcceptedFile {
    /// Its number.
    pub id: u64,
    /// The pipeline that runs it.
    pub pipeline: String,
    /// Its epoch there, dense from 1; 0 for a duplicate, which is not run.
    pub epoch: u64,
    /// The source that reads it.
    pub source: String,
    /// The name under which it came.
    pub name: String,
    /// Its name in `underprocess/`.
    pub claimed_name: String,
    /// Its name in `processed/` or `quarantine/`: unique in the pipeline.
    pub stored_name: String,
    /// What its outputs are named after: in the pipeline only its own, and that of the versions it
    /// replaces.
    pub output_name: String,
    /// Which file it is and how it looked when it was claimed.
    pub identity: Identity,
    /// BLAKE3 of its bytes, once it is known: at the latest when it is committed.
    pub hash: Option<[u8; 32]>,
    /// When it was first seen.
    pub seen_at_us: i64,
    /// When it was claimed.
    pub claimed_at_us: i64,
    /// When it was accepted.
    pub accepted_at_us: i64,
    /// The earlier file that it repeats: it is not run, only filed away.
    pub duplicate_of: Option<u64>,
    /// That it corrects an earlier submission.
    pub correction: Option<Correction>,
}

impl AcceptedFile {
    /// Returns whether it only takes another one away: there is no file.
    pub fn is_removal(&self) -> bool {
        self.correction.is_some_and(|correction| correction.removes)
    }
}

/// How the run of a file ended. Times are microseconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The submission.
    pub id: u64,
    /// Its pipeline.
    pub pipeline: String,
    /// Its epoch.
    pub epoch: u64,
    /// What became of it.
    pub verdict: Verdict,
    /// BLAKE3 of the bytes that were processed. A committed file has one.
    pub hash: Option<[u8; 32]>,
    /// How many records were read.
    pub records: u64,
    /// How many of them were rejected.
    pub rejected: u64,
    /// When its frontier had passed.
    pub answered_at_us: i64,
    /// When it was decided.
    pub finished_at_us: i64,
}

/// What became of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Its outputs are committed.
    Committed {
        /// The outputs.
        parts: Vec<Part>,
    },
    /// It was set aside and left no output.
    Quarantined {
        /// A stable word.
        code: String,
        /// What happened, for a person.
        detail: String,
    },
    /// It failed for a reason that may pass, left nothing, and is tried again later.
    Postponed(Postponed),
}

/// What a commit does to one output file: it puts bytes in its place, or takes it away.
///
/// Usually the output is that of the file that is committed, and nothing of ours was there before. But
/// a later file may change what comes out of an earlier one, and a file may take the place of another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The sink, and so the folder in `out/`.
    pub sink: String,
    /// Its name in that folder.
    pub name: String,
    /// The submission whose output it is.
    pub of: u64,
    /// Its size in bytes; 0 if it is removed.
    pub bytes: u64,
    /// BLAKE3 of its bytes; zeros if it is removed.
    pub hash: [u8; 32],
    /// Where its bytes are until it is published.
    pub body: PartBody,
    /// What of ours may lie in its place until then. Only the journal knows: what it is given here it
    /// does not read.
    pub before: Vec<Version>,
}

impl Part {
    /// Returns a part whose bytes ride in the journal.
    pub fn inline(of: u64, sink: &str, name: &str, bytes: Vec<u8>) -> Part {
        Part {
            sink: sink.to_owned(),
            name: name.to_owned(),
            of,
            bytes: bytes.len() as u64,
            hash: *blake3::hash(&bytes).as_bytes(),
            body: PartBody::Inline(bytes),
            before: Vec::new(),
        }
    }

    /// Returns a part that takes an output away.
    pub fn removed(of: u64, sink: &str, name: &str) -> Part {
        let (hash, body) = ([0; 32], PartBody::Removed);
        Part { hash, body, ..Part::inline(of, sink, name, Vec::new()) }
    }
}

/// Where the bytes of a part are until it is published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PartBody {
    /// In the journal itself: right for small parts, which then need no sync of their own.
    Inline(Vec<u8>),
    /// In a staged and synced file, by its path relative to the home.
    Staged(PathBuf),
    /// Nowhere: the output is taken away.
    Removed,
}

/// Bytes that lay, or may lie, in the place of an output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// How many.
    pub bytes: u64,
    /// BLAKE3 of them.
    pub hash: [u8; 32],
    /// The bytes, if a loss of power may have torn them and the journal still has them.
    pub body: Option<Vec<u8>>,
}

/// Where a submission stands in the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Accepted, and not finished.
    Accepted,
    /// Committed.
    Committed,
    /// Set aside.
    Quarantined,
    /// Not run, because it repeats an earlier file.
    Duplicate,
}

/// Which submissions to list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only of this pipeline.
    pub pipeline: Option<String>,
    /// Only in this phase.
    pub phase: Option<Phase>,
    /// Only those that came under this name.
    pub name: Option<String>,
    /// Only ids below this one.
    pub before: Option<u64>,
    /// At most so many; never more than [`LIST_MAX`].
    pub limit: usize,
}

/// The largest part that may be kept in the journal itself, in bytes.
pub const INLINE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// The most submissions one listing returns.
pub const LIST_MAX: usize = 10_000;

/// A submission as it is listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubmissionRow {
    /// What was accepted.
    pub file: AcceptedFile,
    /// How it ended; `None` while it runs.
    pub outcome: Option<OutcomeRow>,
}

/// How a submission ended, without the bytes of its outputs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutcomeRow {
    /// What became of it.
    pub verdict: VerdictRow,
    /// How many records were read.
    pub records: u64,
    /// How many of them were rejected.
    pub rejected: u64,
    /// When its frontier had passed.
    pub answered_at_us: i64,
    /// When it was decided.
    pub finished_at_us: i64,
}

/// What became of a submission, without the bytes of its outputs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VerdictRow {
    /// Its outputs are committed.
    Committed {
        /// The outputs.
        parts: Vec<PartRow>,
    },
    /// It was set aside and left no output.
    Quarantined {
        /// A stable word.
        code: String,
        /// What happened, for a person.
        detail: String,
    },
    /// It was not run: it repeats an earlier file of its source.
    Duplicate {
        /// That file.
        of: u64,
    },
}

/// What a commit did to one output file, as it is listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartRow {
    /// The sink, and so the folder in `out/`.
    pub sink: String,
    /// Its name in that folder.
    pub name: String,
    /// The submission whose output it is.
    pub of: u64,
    /// Its size in bytes; 0 if it was removed.
    pub bytes: u64,
    /// BLAKE3 of its bytes; zeros if it was removed.
    pub hash: [u8; 32],
    /// Whether the output was taken away.
    pub removed: bool,
    /// The submission that has put something else there since, or has taken it away.
    pub superseded_by: Option<u64>,
}

/// How many submissions of a pipeline stand where.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Accepted, and not finished.
    pub accepted: u64,
    /// Committed.
    pub committed: u64,
    /// Set aside.
    pub quarantined: u64,
}

/// Why the journal refuses.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// It was written by a newer version of the program: use that one.
    #[error("the journal {} has schema {found}; this version knows up to {known}: use a newer tidemill", path.display())]
    Newer {
        /// Where it lies.
        path: PathBuf,
        /// Its schema.
        found: i64,
        /// The newest schema this version knows.
        known: i64,
    },
    /// It was written by a version that was never released: there is no way to bring it up to date.
    #[error("the journal {} has schema {found}, made by an unreleased version; start with an empty home", path.display())]
    Unreleased {
        /// Where it lies.
        path: PathBuf,
        /// Its schema.
        found: i64,
    },
    /// It is not a journal, or not whole: it is left untouched, a person must look at it.
    #[error("the journal {} is damaged: {detail}", path.display())]
    Damaged {
        /// Where it lies.
        path: PathBuf,
        /// What was found.
        detail: String,
    },
    /// What was asked for breaks a rule that must hold: nothing was written, stop.
    #[error("the journal refuses: {detail}")]
    Invariant {
        /// Which rule, and by what.
        detail: String,
    },
    /// The disk refuses: stop. Nothing more is written after this.
    #[error("{doing} in the journal {}", path.display())]
    Disk {
        /// What was being done.
        doing: &'static str,
        /// Where it lies.
        path: PathBuf,
        /// What SQLite or the system said.
        source: io::Error,
    },
}

impl JournalError {
    fn invariant(detail: impl Into<String>) -> Self {
        Self::Invariant { detail: detail.into() }
    }

    /// Returns the error of a failpoint that was asked to fail.
    fn failpoint(doing: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| Self::Disk { doing, path: PathBuf::from("(failpoint)"), source }
    }

    /// Does what [`JournalError::of`] does, and finds out what SQLite does not say: whether it could
    /// not write for lack of space (a quota, or the index of its log). Not of a sync that failed.
    fn of_write(doing: &'static str, path: PathBuf, error: rusqlite::Error) -> Self {
        let code = error.sqlite_error().map(|error| error.extended_code);
        let unexplained = matches!(code, Some(ffi::SQLITE_IOERR_WRITE | ffi::SQLITE_IOERR_SHMSIZE));
        match path.parent().filter(|_| unexplained).and_then(disk::full_at) {
            Some(source) => Self::Disk { doing, path, source },
            None => Self::of(doing, path, error),
        }
    }

    /// Returns what an error of SQLite means for the caller.
    fn of(doing: &'static str, path: PathBuf, error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                Self::Damaged { path, detail: error.to_string() }
            }
            Some(ErrorCode::ConstraintViolation) => Self::invariant(format!("{doing}: {error}")),
            Some(_) => {
                let kind = match error.sqlite_error_code() {
                    Some(ErrorCode::DiskFull) => io::ErrorKind::StorageFull,
                    Some(ErrorCode::PermissionDenied) => io::ErrorKind::PermissionDenied,
                    Some(ErrorCode::ReadOnly) => io::ErrorKind::ReadOnlyFilesystem,
                    _ => io::ErrorKind::Other,
                };
                Self::Disk { doing, path, source: io::Error::new(kind, error) }
            }
            // SQLite itself was content: a value does not have the type we wrote.
            None => Self::Damaged { path, detail: format!("{doing}: {error}") },
        }
    }
}

impl Full for JournalError {
    fn is_full(&self) -> bool {
        matches!(self, JournalError::Disk { source, .. } if source.is_full())
    }
}

impl From<DiskError> for JournalError {
    fn from(error: DiskError) -> Self {
        Self::Disk { doing: error.doing, path: error.path, source: error.source }
    }
}

#[cfg(test)]
pub(crate) mod tests;
