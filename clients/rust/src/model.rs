//! Model: what a server tells, as plain Rust values.

use std::fmt;
use std::time::SystemTime;

use hdrhistogram::Histogram;

/// Where a submission stands. Each is a different fact, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Phase {
    /// Durable on the server.
    Accepted,
    /// Its records are being read.
    Reading,
    /// Every operator has said all it will say about it.
    Answered,
    /// Its outputs are durable and visible.
    Committed,
    /// Set aside with a reason; it left no output.
    Quarantined,
    /// Not run, because it repeats an earlier file of its source; it left no output.
    Duplicate,
}

impl Phase {
    /// Returns the word that people and programs see.
    pub const fn word(self) -> &'static str {
        match self {
            Phase::Accepted => "accepted",
            Phase::Reading => "reading",
            Phase::Answered => "answered",
            Phase::Committed => "committed",
            Phase::Quarantined => "quarantined",
            Phase::Duplicate => "duplicate",
        }
    }

    /// Returns whether nothing more will happen to the submission.
    pub const fn is_final(self) -> bool {
        matches!(self, Phase::Committed | Phase::Quarantined | Phase::Duplicate)
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.word())
    }
}

/// One submission: one accepted version of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Submission {
    /// Its number, unique on a server and growing with time.
    pub id: u64,
    /// The pipeline that runs it.
    pub pipeline: String,
    /// Its epoch in that pipeline; 0 for a duplicate.
    pub epoch: u64,
    /// The name under which it came.
    pub name: String,
    /// The source that reads it.
    pub source: String,
    /// Its size as it came, in bytes.
    pub bytes: u64,
    /// BLAKE3 of the bytes as they came, in hex; empty while it is not known, which for a dropped
    /// file is until it is committed.
    pub hash: String,
    /// Where it stands.
    pub phase: Phase,
    /// How many of its bytes have been read so far.
    pub bytes_read: u64,
    /// How many records were read from it so far.
    pub records: u64,
    /// How many of them were rejected so far.
    pub rejected: u64,
    /// Why it was quarantined, or what it is a duplicate of.
    pub reason: Option<Reason>,
    /// The output files it became, once committed.
    pub outputs: Vec<OutputFile>,
    /// When the server first saw it.
    pub seen_at: SystemTime,
    /// When it was durable on the server.
    pub accepted_at: SystemTime,
    /// When it was committed or quarantined.
    pub finished_at: Option<SystemTime>,
    /// The quarantined submission that this one tries again.
    pub retry_of: Option<u64>,
    /// The submission that tries this one again.
    pub retried_as: Option<u64>,
    /// The submission whose place this one takes.
    pub replaces: Option<u64>,
    /// The submission that this one takes away; it has no file of its own.
    pub removes: Option<u64>,
    /// The submission that takes this one's place.
    pub replaced_by: Option<u64>,
    /// The submission that takes this one away.
    pub removed_by: Option<u64>,
    /// How many of its bytes are kept in `retained/` for corrections.
    pub retained_bytes: Option<u64>,
    /// Where every record went: of a committed file that was asked for by its id.
    pub receipt: Option<Receipt>,
    /// What it waits for, in words, if something holds it back.
    pub waits_for: Option<String>,
    /// The attempts at it that failed for a reason that may pass, in order.
    pub attempts: Vec<Attempt>,
}

/// An attempt at a file that failed for a reason that may pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Its number, from 1.
    pub number: u64,
    /// When it failed.
    pub failed_at: SystemTime,
    /// `permanent`, `transient`, `timeout` or `resource`.
    pub class: String,
    /// Why.
    pub reason: Reason,
    /// When the next attempt was, or is, to begin.
    pub next_at: SystemTime,
}

/// Something that a person holds back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    /// The pipeline.
    pub pipeline: String,
    /// `drained` or `paused` (all of it), `source` or `sink` (paused).
    pub kind: String,
    /// The source or sink; empty for all of the pipeline.
    pub part: String,
    /// Since when.
    pub since: SystemTime,
    /// How many files wait for it in `unprocessed/`.
    pub files_waiting: u64,
}

/// What was held back or let go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holding {
    /// Whether that is new: false when it was so before.
    pub changed: bool,
    /// Everything of that pipeline that is held back now.
    pub holds: Vec<Hold>,
}

/// How far the draining of one pipeline is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draining {
    /// The pipeline.
    pub pipeline: String,
    /// Files accepted and not final.
    pub accepted: u64,
    /// Whether nothing is left to do, and everything is visible.
    pub done: bool,
    /// What of it is held back.
    pub holds: Vec<Hold>,
}

/// Which current file an upload takes the place of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Replaces {
    /// None, unless its source says otherwise.
    #[default]
    Nothing,
    /// The newest current one of the same name and source; if there is none, it is one more file.
    SameName,
    /// This submission.
    Submission(u64),
}

/// Which file to take away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Which {
    /// A committed submission that is current.
    Id(u64),
    /// The newest current one of this name.
    Name {
        /// The pipeline; may be left out when only one runs.
        pipeline: Option<String>,
        /// The name under which it came.
        name: String,
    },
}

/// Where every record of one committed file went. It balances.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The generation (one life of the whole server) that committed the file.
    pub generation: u64,
    /// The processes of that generation.
    pub processes: u64,
    /// The workers in each of them.
    pub workers: u64,
    /// The version of the server.
    pub binary_version: String,
    /// A hash over everything in the pipeline file that changes what it does.
    pub plan_hash: String,
    /// When the file was claimed: moved out of reach of its sender.
    pub claimed_at: SystemTime,
    /// When its last piece had been read.
    pub read_at: SystemTime,
    /// When every operator had said all it will say about it.
    pub answered_at: SystemTime,
    /// Sources, operators, sinks.
    pub nodes: Vec<ReceiptNode>,
    /// The outputs, with the hashes of their bytes.
    pub outputs: Vec<ReceiptOutput>,
}

/// What one source, operator or sink did with the records of one file, over all workers.
///
/// `records_in + copies` = what is in `out` + `filtered` + `rejected`; for an aggregate `merged`
/// stands in place of what it gives out, and sinks only take in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceiptNode {
    /// Its name in the pipeline file.
    pub name: String,
    /// `source`, `operator`, `aggregate`, `files`, `table` or `rejects`.
    pub role: String,
    /// `source jsonl`, `route`, `sink files`, and so on.
    pub kind: String,
    /// Records taken in: by a source, found in the file; by a sink, delivered.
    pub records_in: u64,
    /// Records given out: tag and count.
    pub out: Vec<(String, u64)>,
    /// Records left out on purpose.
    pub filtered: u64,
    /// Records rejected, each with a reason.
    pub rejected: u64,
    /// Records added to the state of an aggregate.
    pub merged: u64,
    /// How often a record left once more than once.
    pub copies: u64,
    /// Troubles told of what is no record of the file.
    pub reported: u64,
    /// What feeds it: `operator`, `operator.tag`, `operator.errors`.
    pub fed_by: Vec<String>,
}

/// One output of a file, with its hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceiptOutput {
    /// Its path below the pipeline's `out/`.
    pub path: String,
    /// Its size in bytes.
    pub bytes: u64,
    /// BLAKE3 of its bytes, in hex.
    pub hash: String,
}

/// Why a file was not committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// A stable word for programs.
    pub code: String,
    /// The same for people.
    pub text: String,
}

/// One output file of a submission.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputFile {
    /// Its path below the pipeline's `out/`.
    pub path: String,
    /// Its size in bytes; 0 if it was taken away.
    pub bytes: u64,
    /// The submission whose output it is, if this one changed that of another file.
    pub of: Option<u64>,
    /// Whether it was taken away.
    pub removed: bool,
    /// The submission that has put something else in its place since, or has taken it away.
    pub superseded_by: Option<u64>,
}

/// Which submissions to list.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Only of this pipeline.
    pub pipeline: Option<String>,
    /// Only in this phase.
    pub phase: Option<Phase>,
    /// Only with exactly this name.
    pub name: Option<String>,
    /// Only ids below this one: [`Page::next_before`] of the page before.
    pub before: Option<u64>,
    /// At most so many, up to 1000; 0 means 100.
    pub limit: u32,
}

/// One page of submissions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The submissions, newest first.
    pub submissions: Vec<Submission>,
    /// Where the next page begins; `None` on the last page.
    pub next_before: Option<u64>,
}

/// What a server does at the moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stats {
    /// The number of its generation: grows each time that its processes are started again.
    pub generation: u64,
    /// Every operator on every worker.
    pub operators: Vec<Operator>,
}

/// One source, operator or sink on one worker; counts since the server started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operator {
    /// The pipeline.
    pub pipeline: String,
    /// The name in the pipeline file.
    pub operator: String,
    /// What it is: `source jsonl`, `route`, `sink files`.
    pub kind: String,
    /// The worker's index over all processes.
    pub worker: u32,
    /// Records taken in.
    pub records_in: u64,
    /// Records given out.
    pub records_out: u64,
    /// Bytes taken in; 0 where the operator does not see bytes.
    pub bytes_in: u64,
    /// Bytes given out.
    pub bytes_out: u64,
    /// Records rejected.
    pub rejected: u64,
    /// Time spent inside the operator, in nanoseconds.
    pub elapsed_ns: u64,
    /// How often it was scheduled.
    pub activations: u64,
    /// Records sent to it and not yet taken in, over all workers: the same on each of its rows.
    pub backlog: u64,
    /// The earliest time it may still receive, `None` once it can see no more input.
    pub frontier: Option<Frontier>,
    /// Entries of state it holds.
    pub state_entries: u64,
    /// Bytes of memory they take, where the operator knows: those that keep the rows of keys do.
    pub state_bytes: u64,
    /// Of a source: bytes of its inputs that are kept in `retained/` for corrections; told on one row.
    pub retained_bytes: u64,
}

/// Something that keeps the server's work waiting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// A stable word, such as `disk_full`.
    pub code: String,
    /// Since when.
    pub since: SystemTime,
    /// What it is.
    pub text: String,
    /// What to do about it.
    pub hint: String,
}

/// A frontier: everything before it is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Frontier {
    /// The epoch: which file.
    pub epoch: u64,
    /// The chunk inside the file; [`Frontier::END`] after the last one.
    pub chunk: u64,
}

impl Frontier {
    /// The chunk number that stands for the end of a file.
    pub const END: u64 = u64::MAX;
}

impl fmt::Display for Frontier {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.chunk {
            Self::END => write!(out, "{}:end", self.epoch),
            chunk => write!(out, "{}:{chunk}", self.epoch),
        }
    }
}

/// How long files spent in one stage.
#[derive(Clone, Debug, PartialEq)]
pub struct StageLatency {
    /// The pipeline.
    pub pipeline: String,
    /// `claim`, `accept`, `read`, `answer`, `commit` or `total`.
    pub stage: String,
    /// One value per file, in microseconds; can be added to others.
    pub histogram: Histogram<u64>,
}

/// One pipeline that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pipeline {
    /// Its name.
    pub name: String,
    /// A hash over everything in its file that changes what it does.
    pub plan_hash: String,
    /// The pipeline file as it was written; empty in a list.
    pub yaml: String,
    /// Sources, operators and sinks; empty in a list.
    pub nodes: Vec<Node>,
    /// Which port feeds what; empty in a list.
    pub edges: Vec<Edge>,
    /// Submissions accepted and not final.
    pub accepted: u64,
    /// Submissions committed.
    pub committed: u64,
    /// Submissions quarantined.
    pub quarantined: u64,
    /// Epochs up to this one are committed.
    pub committed_epoch: u64,
    /// What of it is held back.
    pub holds: Vec<Hold>,
}

/// One node of a pipeline's graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name in the file.
    pub name: String,
    /// `source`, `operator` or `sink`.
    pub role: String,
    /// `jsonl`, `route`, `files`, and so on.
    pub kind: String,
    /// What it does, in a few words.
    pub detail: String,
}

/// One edge of a pipeline's graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edge {
    /// The node it leaves.
    pub from: String,
    /// The tag it leaves by; empty for the only port.
    pub tag: String,
    /// The node it enters.
    pub to: String,
    /// The columns it carries as `name: type`.
    pub columns: Vec<String>,
}

/// A table of a pipeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableInfo {
    /// Its pipeline.
    pub pipeline: String,
    /// The name of its sink.
    pub name: String,
    /// Its columns, the key first.
    pub columns: Vec<Column>,
    /// How many of the columns are the key.
    pub key: usize,
    /// How many different rows it has.
    pub rows: u64,
    /// About how many bytes of memory these take.
    pub bytes: u64,
    /// About how many bytes of memory the changes that are kept for followers take.
    pub history_bytes: u64,
    /// The epoch up to which it speaks.
    pub epoch: u64,
    /// Why it cannot be asked, if it cannot.
    pub unavailable: Option<String>,
}

/// A column of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// `string`, `int`, `float`, `bool` or `timestamp`.
    pub kind: String,
}

/// One cell of a row.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    /// No value.
    Null,
    /// Text.
    Text(String),
    /// An integer.
    Int(i64),
    /// A float.
    Float(f64),
    /// True or false.
    Flag(bool),
    /// An instant, in microseconds since 1970 in UTC.
    Timestamp(i64),
    /// An exact number, as it is written: `-0.50`.
    Decimal(String),
}

/// A row of a table.
#[derive(Clone, Debug, PartialEq)]
pub struct TableRow {
    /// One cell for each column of the answer.
    pub cells: Vec<Cell>,
    /// How often it is there, usually once; in changes how often it is added, negative for taken
    /// back.
    pub times: i64,
}

/// The rows with one key.
#[derive(Clone, Debug, PartialEq)]
pub struct TableRows {
    /// The epoch as of which they are.
    pub epoch: u64,
    /// Their columns.
    pub columns: Vec<Column>,
    /// The rows, in order.
    pub rows: Vec<TableRow>,
    /// Whether there are more.
    pub more: bool,
}

/// Some rows of the beginning, or some changes of one epoch.
#[derive(Clone, Debug, PartialEq)]
pub struct TableChange {
    /// The epoch as of which the rows are, or that made the changes.
    pub epoch: u64,
    /// Whether the rows are those of the beginning; else they are changes.
    pub snapshot: bool,
    /// The rows; of a key, what is taken back comes before what is added.
    pub rows: Vec<TableRow>,
    /// Whether everything up to this epoch has been told.
    pub complete: bool,
}
