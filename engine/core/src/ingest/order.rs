//! Orders: what the coordinator tells readers and sinks about a file, and what readers answer.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tidemill_store::Identity;

use crate::contract::Framed;
use crate::contract::total::Total;
use crate::ingest::digest::ChunkHash;
use crate::ingest::inflate::Compression;
use crate::retry::Class;

/// One accepted file, ready to be read as one epoch.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FileOrder {
    /// Its epoch.
    pub epoch: u64,
    /// Its submission.
    pub submission: u64,
    /// The submission whose rows these are: another one where an old version is taken back.
    pub rows_of: u64,
    /// Which source of the plan reads it.
    pub source: usize,
    /// Where it lies. Reachable from every process of the run.
    pub path: PathBuf,
    /// Where else it may lie, in the order in which it is moved: it is looked for there too.
    pub or_at: Vec<PathBuf>,
    /// What it was when it was accepted; checked again when it is read.
    pub identity: Identity,
    /// The hash its bytes must have, if it is known already.
    pub hash: Option<[u8; 32]>,
    /// How its bytes are packed.
    pub compression: Compression,
    /// The name under which it came, for people.
    pub name: String,
    /// The stem of the names of its outputs.
    pub output_name: String,
    /// Whether it was committed in an earlier life and is only read to rebuild state.
    pub replay: bool,
    /// The version that this one takes the place of: its rows are taken back in the same epoch.
    /// `None` too where nothing keeps anything of it.
    pub old: Option<Box<FileOrder>>,
    /// Whether it only takes the old version away: it has no bytes of its own.
    pub removes: bool,
    /// Why none of it is read, if that is known: a stable word and the text.
    pub refused: Option<Box<(String, String)>>,
}

impl FileOrder {
    /// Returns whether its rows are taken back (difference -1).
    pub fn is_taken_back(&self) -> bool {
        self.rows_of != self.submission
    }
}

/// Which part of a file to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Piece {
    /// The records that begin in `[start, end)`.
    Range {
        /// First byte.
        start: u64,
        /// One past the last byte.
        end: u64,
    },
    /// All of it, in order, by one reader: the bytes cannot be cut without reading them.
    Stream,
}

/// A piece of a file, for one reader.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PieceOrder {
    /// The file.
    pub file: FileOrder,
    /// The part.
    pub piece: Piece,
    /// Which worker reads it.
    pub reader: u64,
    /// What it counts in the window, in bytes.
    pub bytes: u64,
}

/// The announcement of a file to whoever must act once per file, even if no record comes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Opening {
    /// The epoch.
    pub epoch: u64,
    /// The submission.
    pub submission: u64,
    /// Which source of the plan reads it.
    pub source: usize,
    /// Its size in bytes.
    pub bytes: u64,
    /// The hash its bytes must have, if it is known already.
    pub hash: Option<[u8; 32]>,
    /// The name under which it came, for people.
    pub name: String,
    /// The stem of the names of its outputs.
    pub output_name: String,
    /// Whether its outputs are already there.
    pub replay: bool,
    /// The version whose rows the epoch takes back.
    pub old: Option<OldVersion>,
    /// Whether it only takes an earlier version away, and has no output of its own.
    pub removes: bool,
    /// Why none of it is read, if that is known: a stable word and the text.
    pub refused: Option<Box<(String, String)>>,
}

/// A version that is taken back.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OldVersion {
    /// Its submission.
    pub submission: u64,
    /// The name under which it came, for people.
    pub name: String,
    /// Its size in bytes.
    pub bytes: u64,
    /// The hash its bytes must have.
    pub hash: Option<[u8; 32]>,
}

/// What is reported of the reading of a file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ReadNote {
    /// The epoch.
    pub epoch: u64,
    /// The submission.
    pub submission: u64,
    /// What happened.
    pub event: ReadEvent,
}

/// What happened to a file or a piece of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ReadEvent {
    /// A chunk was read and parsed.
    Chunk {
        /// Its number.
        chunk: u64,
        /// Lines before its first record that hold no record (a header).
        skipped_lines: u32,
        /// Lines of its records.
        lines: u32,
        /// Records, good and rejected.
        records: u64,
        /// Records rejected while reading.
        rejected: u64,
        /// Bytes of the file, as it came, that were read for it.
        bytes: u64,
        /// What is known of the file's hash by them.
        hash: ChunkHash,
    },
    /// A chunk of the version that is taken back was read. It counts nowhere.
    TakenBack {
        /// Its number.
        chunk: u64,
        /// Lines before its first record that hold no record (a header).
        skipped_lines: u32,
        /// Lines of its records.
        lines: u32,
        /// What is known of that version's hash by its bytes.
        hash: ChunkHash,
    },
    /// Lines of the file that are no records were found, or missed.
    Framed(Framed),
    /// What the columns with a control total add up to in a chunk.
    Summed {
        /// In the order of the contract.
        totals: Vec<Total>,
    },
    /// All of the file was read, and its bytes are what they must be.
    Hashed {
        /// BLAKE3 of its bytes as they came.
        hash: [u8; 32],
    },
    /// The file cannot be read: nothing of it may count.
    Failed {
        /// A stable word.
        code: String,
        /// What happened, for a person.
        detail: String,
    },
    /// The file cannot be read now, for a reason that may pass: nothing of this reading may count.
    FailedForNow {
        /// Which kind of reason.
        class: Class,
        /// A stable word.
        code: String,
        /// What happened, for a person.
        detail: String,
    },
}

impl ReadEvent {
    /// Returns whether nothing of the epoch may count.
    pub fn is_failure(&self) -> bool {
        matches!(self, ReadEvent::Failed { .. } | ReadEvent::FailedForNow { .. })
    }
}
