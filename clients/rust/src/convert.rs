//! Convert: from the wire to the plain values of `model`, refusing what makes no sense.

use std::time::SystemTime;

use hdrhistogram::serialization::Deserializer;
use tidemill_proto::v1;
use tidemill_proto::v1::cell::Kind;

use crate::error::Error;
use crate::model::{
    Attempt, Cell, Column, Condition, Draining, Edge, Frontier, Hold, Node, Operator, OutputFile,
    Phase, Pipeline, Reason, Receipt, ReceiptNode, ReceiptOutput, Replaces, StageLatency,
    Submission, TableChange, TableInfo, TableRow, Which,
};

/// Translates a table.
pub(crate) fn table(wire: v1::Table) -> TableInfo {
    TableInfo {
        pipeline: wire.pipeline,
        name: wire.name,
        columns: columns(wire.columns),
        key: wire.key as usize,
        rows: wire.rows,
        bytes: wire.bytes,
        history_bytes: wire.history_bytes,
        epoch: wire.epoch,
        unavailable: Some(wire.unavailable).filter(|text| !text.is_empty()),
    }
}

/// Translates columns.
pub(crate) fn columns(wire: Vec<v1::Column>) -> Vec<Column> {
    wire.into_iter().map(|column| Column { name: column.name, kind: column.r#type }).collect()
}

/// Translates a row of a table.
pub(crate) fn table_row(wire: v1::TableRow) -> TableRow {
    TableRow { cells: wire.cells.into_iter().map(cell).collect(), times: wire.times }
}

fn cell(wire: v1::Cell) -> Cell {
    match wire.kind {
        None => Cell::Null,
        Some(Kind::Text(text)) => Cell::Text(text),
        Some(Kind::Int(value)) => Cell::Int(value),
        Some(Kind::Float(value)) => Cell::Float(value),
        Some(Kind::Flag(value)) => Cell::Flag(value),
        Some(Kind::TimestampUs(micros)) => Cell::Timestamp(micros),
    }
}

/// Translates a cell to send it.
pub(crate) fn cell_to_wire(cell: &Cell) -> v1::Cell {
    let kind = match cell {
        Cell::Null => None,
        Cell::Text(text) => Some(Kind::Text(text.clone())),
        Cell::Int(value) => Some(Kind::Int(*value)),
        Cell::Float(value) => Some(Kind::Float(*value)),
        Cell::Flag(value) => Some(Kind::Flag(*value)),
        Cell::Timestamp(micros) => Some(Kind::TimestampUs(*micros)),
    };
    v1::Cell { kind }
}

/// Translates what a follower of a table is told.
pub(crate) fn change(wire: v1::SubscribeResponse) -> TableChange {
    TableChange {
        epoch: wire.epoch,
        snapshot: wire.snapshot,
        rows: wire.rows.into_iter().map(table_row).collect(),
        complete: wire.complete,
    }
}

/// Translates a phase to send it.
pub(crate) fn phase_to_wire(phase: Phase) -> v1::Phase {
    match phase {
        Phase::Accepted => v1::Phase::Accepted,
        Phase::Reading => v1::Phase::Reading,
        Phase::Answered => v1::Phase::Answered,
        Phase::Committed => v1::Phase::Committed,
        Phase::Quarantined => v1::Phase::Quarantined,
        Phase::Duplicate => v1::Phase::Duplicate,
    }
}

fn phase(wire: i32) -> Result<Phase, Error> {
    match v1::Phase::try_from(wire) {
        Ok(v1::Phase::Accepted) => Ok(Phase::Accepted),
        Ok(v1::Phase::Reading) => Ok(Phase::Reading),
        Ok(v1::Phase::Answered) => Ok(Phase::Answered),
        Ok(v1::Phase::Committed) => Ok(Phase::Committed),
        Ok(v1::Phase::Quarantined) => Ok(Phase::Quarantined),
        Ok(v1::Phase::Duplicate) => Ok(Phase::Duplicate),
        Ok(v1::Phase::Unspecified) | Err(_) => Err(Error::Answer { what: "phase" }),
    }
}

fn instant(wire: Option<prost_types::Timestamp>, what: &'static str) -> Result<SystemTime, Error> {
    let wire = wire.ok_or(Error::Answer { what })?;
    SystemTime::try_from(wire).map_err(|_| Error::Answer { what })
}

/// Translates which file is to be taken away.
pub(crate) fn removal(which: Which) -> v1::RemoveRequest {
    let (which, pipeline) = match which {
        Which::Id(id) => (v1::remove_request::Which::Id(id), None),
        Which::Name { pipeline, name } => (v1::remove_request::Which::Name(name), pipeline),
    };
    v1::RemoveRequest { which: Some(which), pipeline: pipeline.unwrap_or_default() }
}

/// Translates which file a new one takes the place of.
pub(crate) fn replaces(replaces: Replaces) -> Option<v1::Replaces> {
    match replaces {
        Replaces::Nothing => None,
        Replaces::SameName => Some(v1::Replaces { submission: None }),
        Replaces::Submission(id) => Some(v1::Replaces { submission: Some(id) }),
    }
}

/// Translates a submission.
/// Returns what an upload became, in each pipeline that it was sent to.
pub(crate) fn submissions(mut wire: v1::Submission) -> Result<Vec<Submission>, Error> {
    let also = std::mem::take(&mut wire.also);
    [wire].into_iter().chain(also).map(submission).collect()
}

pub(crate) fn submission(wire: v1::Submission) -> Result<Submission, Error> {
    let id = |id: u64| (id > 0).then_some(id);
    let output = |file: v1::OutputFile| OutputFile {
        path: file.path,
        bytes: file.bytes,
        of: id(file.of),
        removed: file.removed,
        superseded_by: id(file.superseded_by),
    };
    Ok(Submission {
        id: wire.id,
        pipeline: wire.pipeline,
        epoch: wire.epoch,
        name: wire.name,
        source: wire.source,
        bytes: wire.bytes,
        hash: wire.blake3,
        phase: phase(wire.phase)?,
        bytes_read: wire.bytes_read,
        records: wire.records,
        rejected: wire.rejected,
        reason: wire.reason.map(|reason| Reason { code: reason.code, text: reason.text }),
        outputs: wire.outputs.into_iter().map(output).collect(),
        seen_at: instant(wire.seen_at, "seen_at")?,
        accepted_at: instant(wire.accepted_at, "accepted_at")?,
        finished_at: match wire.finished_at {
            None => None,
            some => Some(instant(some, "finished_at")?),
        },
        retry_of: wire.retry_of,
        retried_as: wire.retried_as,
        replaces: wire.replaces,
        removes: wire.removes,
        replaced_by: wire.replaced_by,
        removed_by: wire.removed_by,
        retained_bytes: wire.retained_bytes,
        receipt: wire.receipt.map(receipt).transpose()?,
        waits_for: Some(wire.waits_for).filter(|text| !text.is_empty()),
        attempts: wire.attempts.into_iter().map(attempt).collect::<Result<_, _>>()?,
    })
}

fn attempt(wire: v1::Attempt) -> Result<Attempt, Error> {
    let reason = wire.reason.unwrap_or_default();
    Ok(Attempt {
        number: wire.number,
        failed_at: instant(wire.failed_at, "failed_at")?,
        class: wire.class,
        reason: Reason { code: reason.code, text: reason.text },
        next_at: instant(wire.next_at, "next_at")?,
    })
}

/// Translates things that are held back.
pub(crate) fn holds(wire: Vec<v1::Hold>) -> Result<Vec<Hold>, Error> {
    let hold = |wire: v1::Hold| {
        Ok(Hold {
            pipeline: wire.pipeline,
            kind: wire.kind,
            part: wire.part,
            since: instant(wire.since, "since")?,
            files_waiting: wire.files_waiting,
        })
    };
    wire.into_iter().map(hold).collect()
}

/// Translates how far draining is.
pub(crate) fn draining(wire: v1::Draining) -> Result<Draining, Error> {
    let holds = holds(wire.holds)?;
    Ok(Draining { pipeline: wire.pipeline, accepted: wire.accepted, done: wire.done, holds })
}

/// Translates the receipt of a committed file.
fn receipt(wire: v1::Receipt) -> Result<Receipt, Error> {
    let node = |node: v1::ReceiptNode| ReceiptNode {
        name: node.name,
        role: node.role,
        kind: node.kind,
        records_in: node.records_in,
        out: node.out.into_iter().map(|port| (port.tag, port.records)).collect(),
        filtered: node.filtered,
        rejected: node.rejected,
        merged: node.merged,
        copies: node.copies,
        reported: node.reported,
        fed_by: node.fed_by,
    };
    let output = |output: v1::ReceiptOutput| ReceiptOutput {
        path: output.path,
        bytes: output.bytes,
        hash: output.blake3,
    };
    Ok(Receipt {
        generation: wire.generation,
        processes: wire.processes,
        workers: wire.workers,
        binary_version: wire.binary_version,
        plan_hash: wire.plan_hash,
        claimed_at: instant(wire.claimed_at, "claimed_at")?,
        read_at: instant(wire.read_at, "read_at")?,
        answered_at: instant(wire.answered_at, "answered_at")?,
        nodes: wire.nodes.into_iter().map(node).collect(),
        outputs: wire.outputs.into_iter().map(output).collect(),
    })
}

/// Translates a condition.
pub(crate) fn condition(wire: v1::Condition) -> Result<Condition, Error> {
    let since = instant(wire.since, "since")?;
    Ok(Condition { code: wire.code, since, text: wire.text, hint: wire.hint })
}

/// Translates one operator on one worker.
pub(crate) fn operator(wire: v1::Operator) -> Operator {
    let frontier =
        |frontier: v1::Frontier| Frontier { epoch: frontier.epoch, chunk: frontier.chunk };
    Operator {
        pipeline: wire.pipeline,
        operator: wire.operator,
        kind: wire.kind,
        worker: wire.worker,
        records_in: wire.records_in,
        records_out: wire.records_out,
        bytes_in: wire.bytes_in,
        bytes_out: wire.bytes_out,
        rejected: wire.rejected,
        elapsed_ns: wire.elapsed_ns,
        activations: wire.activations,
        backlog: wire.backlog,
        frontier: wire.frontier.map(frontier),
        state_entries: wire.state_entries,
        state_bytes: wire.state_bytes,
        retained_bytes: wire.retained_bytes,
    }
}

/// Translates the latencies of one stage.
pub(crate) fn latency(wire: v1::StageLatency) -> Result<StageLatency, Error> {
    let histogram = Deserializer::new()
        .deserialize(&mut wire.histogram.as_ref())
        .map_err(|_| Error::Answer { what: "histogram" })?;
    Ok(StageLatency { pipeline: wire.pipeline, stage: wire.stage, histogram })
}

/// Translates a pipeline.
pub(crate) fn pipeline(wire: v1::Pipeline) -> Result<Pipeline, Error> {
    let node = |node: v1::Node| Node {
        name: node.name,
        role: node.role,
        kind: node.kind,
        detail: node.detail,
    };
    let edge = |edge: v1::Edge| Edge {
        from: edge.from,
        tag: edge.tag,
        to: edge.to,
        columns: edge.columns,
    };
    Ok(Pipeline {
        name: wire.name,
        plan_hash: wire.plan_hash,
        yaml: wire.yaml,
        nodes: wire.nodes.into_iter().map(node).collect(),
        edges: wire.edges.into_iter().map(edge).collect(),
        accepted: wire.accepted,
        committed: wire.committed,
        quarantined: wire.quarantined,
        committed_epoch: wire.committed_epoch,
        holds: holds(wire.holds)?,
    })
}
