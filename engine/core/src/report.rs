//! Report: what the engine says about itself. Plain values, derived at the moment they are asked
//! for; nothing in here is kept.

use std::time::SystemTime;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use tidemill_store::{Part, PartBody, PartRow};

/// How submissions correct each other.
pub use tidemill_store::Corrections;

/// Where a submission stands. Each is a different fact, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Durable in the journal, with an epoch.
    Accepted,
    /// Chunks of it are being read.
    Reading,
    /// Its frontier has passed: every operator has said all it will say about it.
    Answered,
    /// Durable and visible.
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

/// One submission: one accepted version of one file.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SubmissionReport {
    /// The submission's number, unique in a home.
    pub id: u64,
    /// The pipeline that runs it.
    pub pipeline: String,
    /// Its epoch in that pipeline; 0 for a duplicate.
    pub epoch: u64,
    /// The name under which it came.
    pub name: String,
    /// The source of the pipeline that reads it.
    pub source: String,
    /// Its size as it came, in bytes.
    pub bytes: u64,
    /// BLAKE3 of the bytes as they came, in hex, once it is known: a dropped file is hashed while it
    /// is read.
    pub hash: Option<String>,
    /// Where it stands.
    pub phase: Phase,
    /// How many of its bytes have been read, while it is being read.
    pub bytes_read: u64,
    /// How many records were read from it.
    pub records: u64,
    /// How many of them were rejected.
    pub rejected: u64,
    /// Why it was quarantined, or what it is a duplicate of: code and text.
    pub reason: Option<(String, String)>,
    /// The output files it became, and those of other files that it changed.
    pub outputs: Vec<OutputReport>,
    /// When the intake first saw it (or the upload began).
    pub seen_at: SystemTime,
    /// When it was durable in the journal.
    pub accepted_at: SystemTime,
    /// When it was committed or quarantined.
    pub finished_at: Option<SystemTime>,
    /// The submission that this one tries again.
    pub retry_of: Option<u64>,
    /// The submission that tries this one again.
    pub retried_as: Option<u64>,
    /// Which submissions this one corrects, and which correct it.
    pub corrections: Corrections,
    /// How many of its bytes lie in `retained/`, for corrections; none: not there.
    pub retained_bytes: Option<u64>,
    /// What it waits for, in words, if something holds it back.
    pub waits_for: Option<String>,
    /// The attempts at it that failed for a reason that may pass.
    pub attempts: Vec<AttemptReport>,
}

/// An attempt at a file that failed for a reason that may pass.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AttemptReport {
    /// Its number, from 1.
    pub number: u64,
    /// When it failed.
    pub failed_at: SystemTime,
    /// `permanent`, `transient`, `timeout` or `resource`.
    pub class: String,
    /// Why: a stable word.
    pub code: String,
    /// Why: for people.
    pub text: String,
    /// When the next attempt was, or is, to begin.
    pub next_at: SystemTime,
}

/// Something that a person holds back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HoldReport {
    /// The pipeline.
    pub pipeline: String,
    /// What of it: one of the words below.
    pub kind: String,
    /// The source or sink; empty for all of the pipeline.
    pub part: String,
    /// Since when.
    pub since: SystemTime,
    /// How many files wait for it in `unprocessed/`.
    pub files_waiting: u64,
    /// Whether a source and a sink of the pipeline are called so.
    pub shares_its_name: bool,
}

impl HoldReport {
    /// The pipeline is drained.
    pub const DRAINED: &'static str = "drained";
    /// The pipeline is paused.
    pub const PAUSED: &'static str = "paused";
    /// A source is paused.
    pub const SOURCE: &'static str = "source";
    /// A sink is paused.
    pub const SINK: &'static str = "sink";
}

/// One output file that a submission wrote or took away.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct OutputReport {
    /// Its path, relative to the pipeline's `out/`.
    pub path: String,
    /// Its size in bytes; 0 if it was taken away.
    pub bytes: u64,
    /// The submission whose output it is, if that is another one.
    pub of: Option<u64>,
    /// Whether it was taken away.
    pub removed: bool,
    /// The submission that has put something else in its place since, or has taken it away.
    pub superseded_by: Option<u64>,
}

impl OutputReport {
    /// Returns what a commit did to an output.
    pub fn of_row(submission: u64, row: &PartRow) -> Self {
        Self {
            path: format!("{}/{}", row.sink, row.name),
            bytes: row.bytes,
            of: (row.of != submission).then_some(row.of),
            removed: row.removed,
            superseded_by: row.superseded_by,
        }
    }

    /// Returns what a commit has just done to an output.
    pub fn of_part(submission: u64, part: &Part) -> Self {
        Self {
            path: format!("{}/{}", part.sink, part.name),
            bytes: part.bytes,
            of: (part.of != submission).then_some(part.of),
            removed: matches!(part.body, PartBody::Removed),
            superseded_by: None,
        }
    }
}

/// Something that keeps work waiting and that a person must know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condition {
    /// A stable word.
    pub code: String,
    /// Since when.
    pub since: SystemTime,
    /// What it is.
    pub text: String,
    /// What to do.
    pub hint: String,
}

impl Condition {
    /// The disk of the home is full, and something waits for space.
    pub const DISK_FULL: &'static str = "disk_full";
    /// Less than the reserve is free: no more files are taken.
    pub const LOW_SPACE: &'static str = "low_space";
    /// Making outputs durable takes long.
    pub const SLOW_DISK: &'static str = "slow_disk";
    /// Files that may crash the process are run one at a time.
    pub const ALONE: &'static str = "alone";
    /// A person has paused a pipeline, a source or a sink.
    pub const PAUSED: &'static str = "paused";
    /// The disk refuses to let files be taken in, and it is tried again.
    pub const UNCLAIMED: &'static str = "unclaimed";
    /// The disk refuses to make outputs visible, and it is tried again.
    pub const UNPUBLISHED: &'static str = "unpublished";
    /// A person has drained a pipeline.
    pub const DRAINED: &'static str = "drained";
    /// Dropped files wait for their markers.
    pub const WAITS_FOR_MARKER: &'static str = "waits_for_marker";
    /// Markers lie there without their files.
    pub const MARKER_ALONE: &'static str = "marker_alone";
    /// Dropped files wait for a manifest that lists them.
    pub const WAITS_FOR_MANIFEST: &'static str = "waits_for_manifest";
    /// Files that a manifest lists have not come.
    pub const WAITS_FOR_LISTED: &'static str = "waits_for_listed";
    /// A manifest cannot be read.
    pub const BAD_MANIFEST: &'static str = "bad_manifest";
    /// Some files of a set have not come.
    pub const WAITS_FOR_SET: &'static str = "waits_for_set";
}

/// Where every record of one committed file went. It balances.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ReceiptReport {
    /// The generation that committed the file.
    pub generation: u64,
    /// The processes of that generation.
    pub processes: u64,
    /// The workers in each of them.
    pub workers: u64,
    /// The version of its binary.
    pub binary_version: String,
    /// The plan it ran, as a hash in hex.
    pub plan_hash: String,
    /// When the file was claimed.
    pub claimed_at: SystemTime,
    /// When its last piece had been read.
    pub read_at: SystemTime,
    /// When its frontier had passed.
    pub answered_at: SystemTime,
    /// Sources, operators, sinks.
    pub nodes: Vec<ReceiptNode>,
    /// The outputs: path below `out/`, size in bytes, BLAKE3 in hex.
    pub outputs: Vec<(String, u64, String)>,
}

/// What one node did with the records of one file, over all workers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ReceiptNode {
    /// Its name in the pipeline file.
    pub name: String,
    /// `source`, `operator`, `aggregate`, `files`, `table` or `rejects`.
    pub role: String,
    /// `source jsonl`, `route`, `sink files`, ...
    pub kind: String,
    /// Records taken in: by a source, found in the file; by a sink, delivered.
    pub records_in: u64,
    /// Records given out: tag and count.
    pub out: Vec<(String, u64)>,
    /// Records left out on purpose.
    pub filtered: u64,
    /// Records rejected.
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

/// Which submissions to list.
#[derive(Clone, Debug, Default)]
pub struct SubmissionFilter {
    /// Only of this pipeline.
    pub pipeline: Option<String>,
    /// Only in this phase.
    pub phase: Option<Phase>,
    /// Only with this name.
    pub name: Option<String>,
    /// Only ids below this one: the page after the last id of the page before.
    pub before: Option<u64>,
    /// At most so many; newest first.
    pub limit: usize,
}

/// One operator (source, operator or sink of the pipeline file) on one worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OperatorReport {
    /// The pipeline.
    pub pipeline: String,
    /// The name in the pipeline file.
    pub operator: String,
    /// What it is: `source jsonl`, `route`, `aggregate`, `sink files`, ...
    pub kind: String,
    /// The worker's index over all processes.
    pub worker: usize,
    /// Records taken in.
    pub records_in: u64,
    /// Records given out, over all tags.
    pub records_out: u64,
    /// Bytes taken in: of records as they came, 0 where the operator does not see bytes.
    pub bytes_in: u64,
    /// Bytes given out.
    pub bytes_out: u64,
    /// Records rejected.
    pub rejected: u64,
    /// Time spent inside the operator, in nanoseconds.
    pub elapsed_ns: u64,
    /// How often it was scheduled.
    pub activations: u64,
    /// Records sent to it and not yet taken in, over all workers (the same on each row of an operator).
    pub backlog: u64,
    /// The frontier of its input as `(epoch, chunk)`; `None` once it can see no more input.
    pub frontier: Option<(u64, u64)>,
    /// Entries of state it holds: groups, rows, open files.
    pub state_entries: u64,
    /// Bytes of memory they take, where the operator knows: those that keep the rows of keys do.
    pub state_bytes: u64,
    /// Of a source: bytes of its inputs that lie in `retained/`, for corrections.
    #[serde(default)]
    pub retained_bytes: u64,
}

/// How long files spent in one stage, in microseconds.
#[derive(Clone, Debug)]
pub struct StageLatency {
    /// The pipeline.
    pub pipeline: String,
    /// `claim`, `accept`, `read`, `answer`, `commit` or `total`.
    pub stage: &'static str,
    /// One value per file, in microseconds.
    pub histogram: Histogram<u64>,
}

/// One pipeline that runs.
#[derive(Clone, Debug, Serialize)]
pub struct PipelineReport {
    /// Its name.
    pub name: String,
    /// A hash over everything in its file that changes what it does, in hex.
    pub plan_hash: String,
    /// Its folder, where `unprocessed/`, `processed/`, `out/` are.
    pub folder: String,
    /// Submissions by phase.
    pub accepted: u64,
    /// Submissions committed.
    pub committed: u64,
    /// Submissions quarantined.
    pub quarantined: u64,
    /// Epochs up to this one are committed.
    pub committed_epoch: u64,
    /// What of it is held back.
    pub holds: Vec<HoldReport>,
}

/// What a pipeline is made of.
#[derive(Clone, Debug, Serialize)]
pub struct PipelineShape {
    /// The pipeline file as it was written.
    pub yaml: String,
    /// Sources, operators and sinks, in the order of the file.
    pub nodes: Vec<NodeReport>,
    /// Which port feeds what.
    pub edges: Vec<EdgeReport>,
}

/// One node of a pipeline's graph.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NodeReport {
    /// Its name in the file.
    pub name: String,
    /// `source`, `operator` or `sink`.
    pub role: String,
    /// `jsonl`, `route`, `files`, ...
    pub kind: String,
    /// What it does, in a few words: the expression, the keys, the format.
    pub detail: String,
}

/// A loop of a pipeline's graph.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LoopReport {
    /// The operator where records enter, and to which they go back.
    pub head: String,
    /// How often a record goes back at most.
    pub max_rounds: u32,
    /// The ports by which records go back: `operator.tag`.
    pub back: Vec<String>,
    /// All operators of it, the head first.
    pub body: Vec<String>,
    /// Where records leave it: `operator.tag -> reader`.
    pub leaves: Vec<String>,
    /// The head of the loop around it, if there is one.
    pub within: Option<String>,
}

/// One edge of a pipeline's graph.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EdgeReport {
    /// The node it leaves.
    pub from: String,
    /// The tag (output port) it leaves by; empty for the only port.
    pub tag: String,
    /// The node it enters.
    pub to: String,
    /// The columns it carries as `name: type`, after pruning.
    pub columns: Vec<String>,
}
