//! Checkpoints: the state of a pipeline as of an epoch, written down so that a start need not read
//! all its inputs again. *Derived*: without one the state is built from `processed/`.
//!
//! ```text
//! ledger       is one due?  ── Command::Checkpoint ──►  coordinator: a mark behind the last whole file
//! coordinator  ── mark, broadcast ──►  keep (operators): walk the state as of that epoch ──► Keeper
//!              ── Heard::Marked ──►  ledger: all up to it answered? ── Job::Checkpoint ──► publisher
//! publisher    tables as of exactly that epoch ──► Keeper
//! Keeper       packs: written, synced; gathered on worker 0 by the frontier ──► ledger
//! ledger       manifest (Keeper), then a row in the journal: it counts; then old files are deleted
//! ```
//!
//! Nobody waits for any of this: a mark has an edge of its own, so that epochs go on being answered
//! while a checkpoint is written. At the start [`find`] takes the newest checkpoint that is whole and
//! fits the plan, and [`restore`] puts its rows where the new workers keep their keys.

pub mod digest;
pub mod find;
pub mod gather;
pub mod keeper;
pub mod restore;
pub mod reuse;
pub mod schedule;

use serde::{Deserialize, Serialize};
use tidemill_operators::shards::Mark;
use tidemill_operators::{aggregate, keyed};
use tidemill_store::checkpoint::Pack;

use crate::plan::{OperatorKind, OperatorPlan, Plan, SinkKind, SinkPlan, hash};
use crate::sink::shelf::rows;
use crate::sink::table;

/// What the coordinator tells everybody on every worker.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Order {
    /// Take up the state of this checkpoint, before anything else.
    Restore(RestoreOrder),
    /// Write the state down.
    Mark(Mark),
}

/// Which checkpoint to take up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreOrder {
    /// Its epoch.
    pub epoch: u64,
    /// The name of its manifest.
    pub manifest: String,
    /// BLAKE3 of the manifest.
    pub hash: [u8; 32],
}

/// What was written of one state by one worker.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KeptPart {
    /// The state.
    pub state: String,
    /// The pack; none if nothing had changed. Or what the disk said.
    pub outcome: Result<Option<Pack>, String>,
}

/// A state of a plan that outlives the process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// Which operator or table: stable as long as its name is.
    pub id: String,
    /// What it means: everything that its rows follow from, and how they are encoded.
    pub fingerprint: String,
    /// Where it is.
    pub place: Place,
}

/// Where a state lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In an operator, on all workers.
    Operator(usize),
    /// In a table of the publisher.
    Table(usize),
    /// In a `files` sink whose outputs change, on all workers.
    Files(usize),
}

/// A part of the state of an operator: its name, empty for the only one, and the number of the
/// encoding of its rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatePart {
    /// Its name among the parts of the operator.
    pub name: &'static str,
    /// The number of the encoding of its rows.
    pub row_format: u32,
}

/// What a join keeps: its left rows, then its right ones.
pub const JOIN_SIDES: [StatePart; 2] = [
    StatePart { name: "left", row_format: keyed::ROW_FORMAT },
    StatePart { name: "right", row_format: keyed::ROW_FORMAT },
];

/// Returns the parts of what an operator keeps, one for each of its arrangements; none for one that
/// keeps nothing.
pub fn state_parts(kind: &OperatorKind) -> &'static [StatePart] {
    const TOTALS: StatePart = StatePart { name: "", row_format: aggregate::ROW_FORMAT };
    const HELD: StatePart = StatePart { name: "held", row_format: aggregate::ROW_FORMAT };
    const ROWS: StatePart = StatePart { name: "", row_format: keyed::ROW_FORMAT };
    match kind {
        OperatorKind::Filter { .. }
        | OperatorKind::Select { .. }
        | OperatorKind::Route { .. }
        | OperatorKind::Parse { .. }
        | OperatorKind::Window { .. }
        | OperatorKind::Expect { .. }
        | OperatorKind::Explode { .. }
        | OperatorKind::Lots { .. }
        | OperatorKind::Errors { .. } => &[],
        OperatorKind::Aggregate { spec, .. } if spec.holds() => &[TOTALS, HELD],
        OperatorKind::Aggregate { .. } => &[TOTALS],
        OperatorKind::Session { .. }
        | OperatorKind::State { .. }
        | OperatorKind::Dedupe { .. }
        | OperatorKind::Top { .. } => &[ROWS],
        OperatorKind::Join { .. } => &JOIN_SIDES,
    }
}

/// Returns the id of a part of the state of an operator.
pub fn operator_state(operator: &OperatorPlan, part: StatePart) -> String {
    let gap = if part.name.is_empty() { "" } else { "/" };
    format!("{}/{}{gap}{}", operator.kind.word(), operator.name, part.name)
}

/// Returns the id of the state of a table.
pub fn table_state(name: &str) -> String {
    format!("table/{name}")
}

/// Returns everything that a part of the state of an operator follows from, as one text.
pub fn operator_fingerprint(plan: &Plan, at: usize, part: StatePart) -> String {
    format!("{} rows {}", hash::of_operator(plan, at), part.row_format)
}

/// Returns the id of the state of a `files` sink whose outputs change.
pub fn files_state(name: &str) -> String {
    format!("files/{name}")
}

/// Returns everything that the rows of such a sink follow from, as one text.
pub fn files_fingerprint(plan: &Plan, at: usize) -> String {
    format!("{} rows {}", hash::of_files(plan, &plan.sinks[at]), rows::ROW_FORMAT)
}

/// Returns everything that the rows of a table follow from, as one text.
pub fn table_fingerprint(plan: &Plan, at: usize) -> String {
    format!("{} rows {}", hash::of_table(plan, &plan.sinks[at]), table::ROW_FORMAT)
}

/// Returns the states of a plan; none for a plan that keeps none, which can begin anew at any time.
pub fn states(plan: &Plan) -> Vec<State> {
    if !has_state(plan) {
        return Vec::new();
    }
    let operators = plan.operators.iter().enumerate().flat_map(|(at, operator)| {
        state_parts(&operator.kind).iter().map(move |part| State {
            id: operator_state(operator, *part),
            fingerprint: operator_fingerprint(plan, at, *part),
            place: Place::Operator(at),
        })
    });
    let tables = plan.sinks.iter().enumerate().filter(|(_, sink)| is_table(sink));
    let tables = tables.map(|(at, sink)| State {
        id: table_state(&sink.name),
        fingerprint: table_fingerprint(plan, at),
        place: Place::Table(at),
    });
    let files = plan.sinks.iter().enumerate().filter(|(_, sink)| is_changing(sink));
    let files = files.map(|(at, sink)| State {
        id: files_state(&sink.name),
        fingerprint: files_fingerprint(plan, at),
        place: Place::Files(at),
    });
    operators.chain(tables).chain(files).collect()
}

/// Returns whether a plan keeps state: in a table, or in an operator.
pub fn has_state(plan: &Plan) -> bool {
    plan.sinks.iter().any(is_table) || plan.operators.iter().any(|one| one.kind.keeps_state())
}

/// Returns whether the outputs of a sink change when later files come.
pub fn is_changing(sink: &SinkPlan) -> bool {
    matches!(sink.kind, SinkKind::Files { changing: true, .. })
}

fn is_table(sink: &SinkPlan) -> bool {
    // A table without a snapshot keeps no rows.
    matches!(sink.kind, SinkKind::Table { format: Some(_), .. })
}
