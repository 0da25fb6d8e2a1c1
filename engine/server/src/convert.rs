//! Convert: the one translator between what the engine says and what goes over the wire.
//!
//! Also the one place that picks a status code and its stable word.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Serializer, V2Serializer};
use tidemill_engine::code::RequestCode;
use tidemill_engine::control::ControlError;
use tidemill_engine::engine::{ClientId, DeployError, Draining, Replaces, SubmitError, Target};
use tidemill_engine::report::{
    AttemptReport, Condition, EdgeReport, HoldReport, NodeReport, OperatorReport, OutputReport,
    Phase, PipelineReport, PipelineShape, ReceiptNode, ReceiptReport, StageLatency,
    SubmissionFilter, SubmissionReport,
};
use tidemill_proto::{CODE_KEY, v1};
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Status};

use crate::refusal::Refusal;

pub(crate) mod corrections;
pub(crate) mod deploy;
pub(crate) mod tables;

/// How many submissions a page has when the client does not say.
const PAGE_DEFAULT: usize = 100;

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let (code, word) = code_and_word(&refusal);
        let text = text_of(&refusal);
        let mut metadata = MetadataMap::new();
        metadata.insert(CODE_KEY, MetadataValue::from_static(word.word()));
        Status::with_metadata(code, text, metadata)
    }
}

fn text_of(refusal: &Refusal) -> String {
    match refusal {
        // The engine's reason may tell of its disk; it was logged, and stays here.
        Refusal::Submit(SubmitError::Unavailable { reason })
        | Refusal::Deploy(DeployError::Unavailable(SubmitError::Unavailable { reason })) => {
            tracing::warn!(reason, "the engine takes no files");
            "the server takes no files now; try again later".to_owned()
        }
        Refusal::Partly { taken, refusal } => format!(
            "{} (taken before that by {taken}; sent again under the same id, each takes it once)",
            text_of(refusal)
        ),
        other => other.to_string(),
    }
}

/// Returns the status code and the stable word of a refusal, as `submissions.proto` lists them.
fn code_and_word(refusal: &Refusal) -> (Code, RequestCode) {
    match refusal {
        Refusal::Submit(SubmitError::UnknownPipeline { .. } | SubmitError::NoPipeline { .. })
        | Refusal::Pipeline { .. }
        | Refusal::PipelineNeeded { .. } => (Code::NotFound, RequestCode::NoPipeline),
        Refusal::Partly { refusal, .. } => code_and_word(refusal),
        Refusal::NoSubmission { .. } => (Code::NotFound, RequestCode::NotFound),
        Refusal::Table(error) => tables::code_and_word(error),
        Refusal::Control(ControlError::Pipeline { .. }) => {
            (Code::NotFound, RequestCode::NoPipeline)
        }
        Refusal::Control(ControlError::Part { .. }) => (Code::NotFound, RequestCode::NoPart),
        Refusal::Control(ControlError::Ambiguous { .. }) => {
            (Code::InvalidArgument, RequestCode::NoPart)
        }
        Refusal::Control(ControlError::Stopping) => (Code::Unavailable, RequestCode::Draining),
        Refusal::Submit(SubmitError::Paused { .. }) => (Code::Unavailable, RequestCode::Paused),
        Refusal::Submit(SubmitError::Name { .. }) | Refusal::Name { .. } => {
            (Code::InvalidArgument, RequestCode::BadName)
        }
        Refusal::Id { .. } | Refusal::Submit(SubmitError::IdFuture { .. }) => {
            (Code::InvalidArgument, RequestCode::BadId)
        }
        Refusal::Submit(SubmitError::IdUsed { .. }) => (Code::AlreadyExists, RequestCode::IdUsed),
        Refusal::Submit(SubmitError::IdOld { .. }) => {
            (Code::FailedPrecondition, RequestCode::IdTooOld)
        }
        Refusal::IdBusy { .. } | Refusal::Submit(SubmitError::IdBusy { .. }) => {
            (Code::Unavailable, RequestCode::IdBusy)
        }
        Refusal::Submit(SubmitError::NoSource { .. }) => {
            (Code::InvalidArgument, RequestCode::NoSource)
        }
        Refusal::Argument { .. } => (Code::InvalidArgument, RequestCode::BadArgument),
        Refusal::Stream { .. } => (Code::InvalidArgument, RequestCode::BadStream),
        Refusal::Lost => (Code::Cancelled, RequestCode::BadStream),
        Refusal::Offset { .. } => (Code::InvalidArgument, RequestCode::WrongOffset),
        Refusal::TooMany { .. } | Refusal::TooFew { .. } => {
            (Code::InvalidArgument, RequestCode::WrongSize)
        }
        Refusal::Hash { .. } => (Code::InvalidArgument, RequestCode::WrongHash),
        Refusal::TooBig { .. } | Refusal::MessageTooBig { .. } => {
            (Code::OutOfRange, RequestCode::TooBig)
        }
        Refusal::Busy | Refusal::Readers => (Code::ResourceExhausted, RequestCode::TooBusy),
        Refusal::Lagged { .. } => (Code::ResourceExhausted, RequestCode::Lagged),
        Refusal::Stalled { .. }
        | Refusal::Slow { .. }
        | Refusal::NoAnswer { .. }
        | Refusal::ReaderStalled { .. }
        | Refusal::ReaderSlow { .. } => (Code::DeadlineExceeded, RequestCode::TooSlow),
        Refusal::StillOpen { .. } => (Code::DeadlineExceeded, RequestCode::StillOpen),
        Refusal::DiskFull { .. } | Refusal::Submit(SubmitError::NoSpace) => {
            (Code::ResourceExhausted, RequestCode::NoSpace)
        }
        Refusal::Disk => (Code::Unavailable, RequestCode::DiskRefuses),
        Refusal::Submit(SubmitError::NoRetry { .. }) => {
            (Code::FailedPrecondition, RequestCode::NoRetry)
        }
        Refusal::Submit(SubmitError::NoCorrection { .. }) => {
            (Code::FailedPrecondition, RequestCode::NoCorrection)
        }
        Refusal::Submit(SubmitError::NoDryRun { .. }) => {
            (Code::FailedPrecondition, RequestCode::NoDryRun)
        }
        Refusal::Submit(SubmitError::Unavailable { .. }) | Refusal::Draining => {
            (Code::Unavailable, RequestCode::Draining)
        }
        Refusal::PipelineFile { .. } | Refusal::Deploy(DeployError::Mistakes(_)) => {
            (Code::InvalidArgument, RequestCode::BadPipelineFile)
        }
        Refusal::Deploy(DeployError::Refused { .. }) => {
            (Code::FailedPrecondition, RequestCode::NoDeploy)
        }
        Refusal::Deploy(DeployError::Busy) => (Code::Aborted, RequestCode::DeployBusy),
        Refusal::Deploy(DeployError::Late { .. }) => {
            (Code::DeadlineExceeded, RequestCode::DeployLate)
        }
        Refusal::Deploy(DeployError::Unavailable(_)) => (Code::Unavailable, RequestCode::Draining),
        Refusal::HandingOver | Refusal::Submit(SubmitError::Deploying { .. }) => {
            (Code::Unavailable, RequestCode::Starting)
        }
        Refusal::Starting { .. } => (Code::Unavailable, RequestCode::Starting),
        // The engine may learn new reasons before the wire has a word for them.
        #[allow(unreachable_patterns, reason = "SubmitError grows with the engine")]
        Refusal::Submit(_) | Refusal::Internal => (Code::Internal, RequestCode::Internal),
    }
}

/// Translates a list request into the engine's filter.
pub(crate) fn filter(
    request: v1::ListSubmissionsRequest,
    page_max: usize,
) -> Result<SubmissionFilter, Refusal> {
    let limit = match request.limit as usize {
        0 => PAGE_DEFAULT.min(page_max),
        limit => limit.min(page_max),
    };
    Ok(SubmissionFilter {
        phase: request.phase.map(phase_of).transpose()?,
        pipeline: request.pipeline,
        name: request.name,
        before: request.before,
        limit,
    })
}

/// Reads a phase that a client sent.
fn phase_of(wire: i32) -> Result<Phase, Refusal> {
    match v1::Phase::try_from(wire) {
        Ok(v1::Phase::Accepted) => Ok(Phase::Accepted),
        Ok(v1::Phase::Reading) => Ok(Phase::Reading),
        Ok(v1::Phase::Answered) => Ok(Phase::Answered),
        Ok(v1::Phase::Committed) => Ok(Phase::Committed),
        Ok(v1::Phase::Quarantined) => Ok(Phase::Quarantined),
        Ok(v1::Phase::Duplicate) => Ok(Phase::Duplicate),
        Ok(v1::Phase::Unspecified) | Err(_) => {
            Err(Refusal::Argument { field: "phase", reason: "is not a phase of a submission" })
        }
    }
}

/// Reads how long a client wants to wait; `None` when it does not say.
pub(crate) fn timeout_of(wire: Option<prost_types::Duration>) -> Result<Option<Duration>, Refusal> {
    wire.map(Duration::try_from)
        .transpose()
        .map_err(|_| Refusal::Argument { field: "timeout", reason: "is negative or out of range" })
}

/// Reads a BLAKE3 hash that a client sent in hex.
pub(crate) fn hash_of(wire: Option<String>) -> Result<Option<blake3::Hash>, Refusal> {
    wire.map(|hex| blake3::Hash::from_hex(hex.as_bytes()))
        .transpose()
        .map_err(|_| Refusal::Argument { field: "blake3", reason: "is not 64 hex digits" })
}

/// Reads the id that a client gave its submission.
pub(crate) fn client_id(wire: &str) -> Result<ClientId, Refusal> {
    ClientId::parse(wire).map_err(|reason| Refusal::Id { reason })
}

/// Reads which earlier file an upload takes the place of.
pub(crate) fn replaces(wire: Option<v1::Replaces>) -> Replaces {
    match wire {
        None => Replaces::Nothing,
        Some(v1::Replaces { submission: None }) => Replaces::SameName,
        Some(v1::Replaces { submission: Some(id) }) => Replaces::Submission(id),
    }
}

/// Reads what a client wants to remove.
pub(crate) fn target(request: v1::RemoveRequest) -> Result<Target, Refusal> {
    match request.which {
        Some(v1::remove_request::Which::Id(id)) => Ok(Target::Id(id)),
        Some(v1::remove_request::Which::Name(name)) => {
            let pipeline = Some(request.pipeline).filter(|name| !name.is_empty());
            Ok(Target::Name { pipeline, name })
        }
        None => Err(Refusal::Argument { field: "which", reason: "is neither an id nor a name" }),
    }
}

/// Translates a submission.
pub(crate) fn submission(report: &SubmissionReport) -> v1::Submission {
    let output = |file: &OutputReport| v1::OutputFile {
        path: file.path.clone(),
        bytes: file.bytes,
        of: file.of.unwrap_or_default(),
        removed: file.removed,
        superseded_by: file.superseded_by.unwrap_or_default(),
    };
    v1::Submission {
        id: report.id,
        pipeline: report.pipeline.clone(),
        epoch: report.epoch,
        name: report.name.clone(),
        source: report.source.clone(),
        bytes: report.bytes,
        blake3: report.hash.clone().unwrap_or_default(),
        phase: phase(report.phase).into(),
        bytes_read: report.bytes_read,
        records: report.records,
        rejected: report.rejected,
        reason: report
            .reason
            .as_ref()
            .map(|(code, text)| v1::Reason { code: code.clone(), text: text.clone() }),
        outputs: report.outputs.iter().map(output).collect(),
        seen_at: Some(instant(report.seen_at)),
        accepted_at: Some(instant(report.accepted_at)),
        finished_at: report.finished_at.map(instant),
        retry_of: report.retry_of,
        retried_as: report.retried_as,
        replaces: report.corrections.replaces,
        removes: report.corrections.removes,
        replaced_by: report.corrections.replaced_by,
        removed_by: report.corrections.removed_by,
        retained_bytes: report.retained_bytes,
        receipt: None,
        waits_for: report.waits_for.clone().unwrap_or_default(),
        attempts: report.attempts.iter().map(attempt).collect(),
        also: Vec::new(),
    }
}

fn attempt(report: &AttemptReport) -> v1::Attempt {
    v1::Attempt {
        number: report.number,
        failed_at: Some(instant(report.failed_at)),
        class: report.class.clone(),
        reason: Some(v1::Reason { code: report.code.clone(), text: report.text.clone() }),
        next_at: Some(instant(report.next_at)),
    }
}

/// Translates something that is held back.
pub(crate) fn hold(report: HoldReport) -> v1::Hold {
    v1::Hold {
        pipeline: report.pipeline,
        kind: report.kind,
        part: report.part,
        since: Some(instant(report.since)),
        files_waiting: report.files_waiting,
    }
}

/// Translates how far draining is.
pub(crate) fn draining(report: Draining) -> v1::Draining {
    v1::Draining {
        pipeline: report.pipeline,
        accepted: report.accepted,
        done: report.done,
        holds: report.holds.into_iter().map(hold).collect(),
    }
}

/// Translates the receipt of a committed file.
pub(crate) fn receipt(report: ReceiptReport) -> v1::Receipt {
    let port = |(tag, records)| v1::ReceiptPort { tag, records };
    let node = |node: ReceiptNode| v1::ReceiptNode {
        name: node.name,
        role: node.role,
        kind: node.kind,
        records_in: node.records_in,
        out: node.out.into_iter().map(port).collect(),
        filtered: node.filtered,
        rejected: node.rejected,
        merged: node.merged,
        copies: node.copies,
        reported: node.reported,
        fed_by: node.fed_by,
    };
    let output = |(path, bytes, blake3)| v1::ReceiptOutput { path, bytes, blake3 };
    v1::Receipt {
        generation: report.generation,
        processes: report.processes,
        workers: report.workers,
        binary_version: report.binary_version,
        plan_hash: report.plan_hash,
        claimed_at: Some(instant(report.claimed_at)),
        read_at: Some(instant(report.read_at)),
        answered_at: Some(instant(report.answered_at)),
        nodes: report.nodes.into_iter().map(node).collect(),
        outputs: report.outputs.into_iter().map(output).collect(),
    }
}

fn phase(phase: Phase) -> v1::Phase {
    match phase {
        Phase::Accepted => v1::Phase::Accepted,
        Phase::Reading => v1::Phase::Reading,
        Phase::Answered => v1::Phase::Answered,
        Phase::Committed => v1::Phase::Committed,
        Phase::Quarantined => v1::Phase::Quarantined,
        Phase::Duplicate => v1::Phase::Duplicate,
    }
}

fn instant(time: SystemTime) -> prost_types::Timestamp {
    time.into()
}

/// Translates a condition.
pub(crate) fn condition(condition: Condition) -> v1::Condition {
    v1::Condition {
        code: condition.code,
        since: Some(instant(condition.since)),
        text: condition.text,
        hint: condition.hint,
    }
}

/// Translates one operator on one worker.
pub(crate) fn operator(report: OperatorReport) -> v1::Operator {
    v1::Operator {
        pipeline: report.pipeline,
        operator: report.operator,
        kind: report.kind,
        worker: u32::try_from(report.worker).unwrap_or(u32::MAX),
        records_in: report.records_in,
        records_out: report.records_out,
        bytes_in: report.bytes_in,
        bytes_out: report.bytes_out,
        rejected: report.rejected,
        elapsed_ns: report.elapsed_ns,
        activations: report.activations,
        backlog: report.backlog,
        frontier: report.frontier.map(|(epoch, chunk)| v1::Frontier { epoch, chunk }),
        state_entries: report.state_entries,
        state_bytes: report.state_bytes,
        retained_bytes: report.retained_bytes,
    }
}

/// Translates the latencies of one stage, quantiles and the whole histogram.
pub(crate) fn latency(stage: StageLatency) -> Result<v1::StageLatency, Refusal> {
    let histogram = &stage.histogram;
    Ok(v1::StageLatency {
        count: histogram.len(),
        min_us: histogram.min(),
        p50_us: histogram.value_at_quantile(0.5),
        p90_us: histogram.value_at_quantile(0.9),
        p99_us: histogram.value_at_quantile(0.99),
        p999_us: histogram.value_at_quantile(0.999),
        max_us: histogram.max(),
        histogram: serialised(histogram)?,
        stage: stage.stage.to_owned(),
        pipeline: stage.pipeline,
    })
}

fn serialised(histogram: &Histogram<u64>) -> Result<Bytes, Refusal> {
    let mut bytes = Vec::new();
    match V2Serializer::new().serialize(histogram, &mut bytes) {
        Ok(_) => Ok(bytes.into()),
        Err(error) => {
            tracing::error!(?error, "cannot serialise a latency histogram");
            Err(Refusal::Internal)
        }
    }
}

/// Translates a pipeline without its text and graph.
pub(crate) fn pipeline_in_list(report: PipelineReport) -> v1::Pipeline {
    v1::Pipeline {
        name: report.name,
        plan_hash: report.plan_hash,
        yaml: String::new(),
        nodes: Vec::new(),
        edges: Vec::new(),
        accepted: report.accepted,
        committed: report.committed,
        quarantined: report.quarantined,
        committed_epoch: report.committed_epoch,
        holds: report.holds.into_iter().map(hold).collect(),
    }
}

/// Translates a pipeline with its text and graph. Its folder is the server's own affair.
pub(crate) fn pipeline(report: PipelineReport, shape: PipelineShape) -> v1::Pipeline {
    let nodes = shape.nodes.into_iter().map(node).collect();
    let edges = shape.edges.into_iter().map(edge).collect();
    v1::Pipeline { yaml: shape.yaml, nodes, edges, ..pipeline_in_list(report) }
}

fn node(report: NodeReport) -> v1::Node {
    v1::Node { name: report.name, role: report.role, kind: report.kind, detail: report.detail }
}

fn edge(report: EdgeReport) -> v1::Edge {
    v1::Edge { from: report.from, tag: report.tag, to: report.to, columns: report.columns }
}
