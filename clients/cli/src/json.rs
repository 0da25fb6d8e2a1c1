//! Json: what `--json` prints. Field names are stable: they may be added to, never changed.

use serde_json::{Value, json};
use tidemill_client::{Attempt, Condition, Error, Frontier, Operator, StageLatency, Submission};

use crate::human;

/// Returns a submission.
pub(crate) fn submission(submission: &Submission) -> Value {
    let output = |file: &tidemill_client::OutputFile| {
        json!({
            "path": file.path,
            "bytes": file.bytes,
            "of": file.of,
            "removed": file.removed,
            "superseded_by": file.superseded_by,
        })
    };
    let mut value = json!({
        "id": submission.id,
        "pipeline": submission.pipeline,
        "epoch": submission.epoch,
        "name": submission.name,
        "source": submission.source,
        "bytes": submission.bytes,
        "blake3": (!submission.hash.is_empty()).then_some(&submission.hash),
        "phase": submission.phase.word(),
        "bytes_read": submission.bytes_read,
        "records": submission.records,
        "rejected": submission.rejected,
        "reason": submission.reason.as_ref().map(|reason| json!({
            "code": reason.code,
            "text": reason.text,
        })),
        "outputs": submission.outputs.iter().map(output).collect::<Vec<_>>(),
        "seen_at": human::rfc3339(submission.seen_at),
        "accepted_at": human::rfc3339(submission.accepted_at),
        "finished_at": submission.finished_at.and_then(human::rfc3339),
    });
    // Only of a file that was tried again or corrected.
    let others = [
        ("retry_of", submission.retry_of),
        ("retried_as", submission.retried_as),
        ("replaces", submission.replaces),
        ("removes", submission.removes),
        ("replaced_by", submission.replaced_by),
        ("removed_by", submission.removed_by),
        ("retained_bytes", submission.retained_bytes),
    ];
    for (name, id) in others {
        if let Some(id) = id {
            value[name] = id.into();
        }
    }
    // Only of a file that something holds back, or that was read more than once.
    if let Some(waits) = &submission.waits_for {
        value["waits_for"] = waits.as_str().into();
    }
    if !submission.attempts.is_empty() {
        value["attempts"] = submission.attempts.iter().map(attempt).collect();
    }
    value
}

fn attempt(attempt: &Attempt) -> Value {
    json!({
        "number": attempt.number,
        "failed_at": human::rfc3339(attempt.failed_at),
        "class": attempt.class,
        "code": attempt.reason.code,
        "text": attempt.reason.text,
        "next_at": human::rfc3339(attempt.next_at),
    })
}

/// Returns a condition.
pub(crate) fn condition(condition: &Condition) -> Value {
    json!({
        "code": condition.code,
        "since": human::rfc3339(condition.since),
        "text": condition.text,
        "hint": condition.hint,
    })
}

/// Returns what is said of a file that was not submitted.
pub(crate) fn failure(file: &str, error: &Error) -> Value {
    json!({ "file": file, "error": { "code": error.word(), "message": chain(error) } })
}

/// Returns an error with its causes as one sentence.
pub(crate) fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// Returns an operator; with its worker when rows are per worker.
pub(crate) fn operator(row: &Operator, per_worker: bool) -> Value {
    let mut value = json!({
        "pipeline": row.pipeline,
        "operator": row.operator,
        "kind": row.kind,
    });
    if per_worker {
        value["worker"] = row.worker.into();
    }
    let counts = json!({
        "records_in": row.records_in,
        "records_out": row.records_out,
        "bytes_in": row.bytes_in,
        "bytes_out": row.bytes_out,
        "rejected": row.rejected,
        "elapsed_ns": row.elapsed_ns,
        "activations": row.activations,
        "backlog": row.backlog,
        "frontier": row.frontier.map(|frontier| json!({
            "epoch": frontier.epoch,
            // Null stands for the end of the file: its number is one that JSON readers round.
            "chunk": Some(frontier.chunk).filter(|chunk| *chunk != Frontier::END),
        })),
        "state_entries": row.state_entries,
        "state_bytes": row.state_bytes,
        "retained_bytes": row.retained_bytes,
    });
    if let (Some(value), Value::Object(counts)) = (value.as_object_mut(), counts) {
        value.extend(counts);
    }
    value
}

/// Returns the latencies of one stage.
pub(crate) fn latency(stage: &StageLatency) -> Value {
    let histogram = &stage.histogram;
    json!({
        "pipeline": stage.pipeline,
        "stage": stage.stage,
        "count": histogram.len(),
        "min_us": histogram.min(),
        "p50_us": histogram.value_at_quantile(0.5),
        "p90_us": histogram.value_at_quantile(0.9),
        "p99_us": histogram.value_at_quantile(0.99),
        "p999_us": histogram.value_at_quantile(0.999),
        "max_us": histogram.max(),
    })
}
