//! Graph: a pipeline whose names all lead somewhere and whose types all fit. Derived from the spec.
//!
//! It owns every check of a pipeline file that needs more than one value to be decided. A `Graph` is
//! only made when there was no mistake, so nobody behind it checks again. It never decides what is
//! carried on an edge; the plan does.

use std::time::Duration;

use regex::Regex;
use tidemill_operators::aggregate::AggregateSpec;
use tidemill_operators::expect::Expectation;
use tidemill_operators::explode::List;
use tidemill_operators::expr::{Aggregate, Expr};
use tidemill_operators::format::{Field, Format, OutputFormat, TableFormat};
use tidemill_operators::join;
use tidemill_operators::lots::LotsKind;
use tidemill_operators::reject::OnError;
use tidemill_operators::state::MachineSpec;
use tidemill_operators::window::Windows;
use tidemill_operators::{Column, Schema, Type};

use crate::contract::{Contract, Policy};
use crate::diagnostic::{Mistakes, Place};
use crate::graph::loops::Loop;
use crate::judge::MaxRejects;
use crate::retry;
use crate::spec::PipelineSpec;
use crate::spec::taking::Taking;

mod names;

mod contract;
mod demands;
mod errors;
mod flow;
pub(crate) mod loops;
mod operators;
mod patterns;
mod sinks;
mod sources;
mod unread;
mod unused;

pub(crate) use errors::{BEHIND_STATE, may_reject};
pub use operators::ordered::{OrderTerm, OrderedRows};

/// How many columns a stream may have.
pub(crate) const COLUMNS_MAX: usize = 1_000;
/// How many sources, operators and sinks a pipeline may have, all together.
const NODES_MAX: usize = 1_000;

/// A source or an operator, by its place in the plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum NodeId {
    /// A source, by its index in the plan.
    Source(usize),
    /// An operator, by its index in the plan.
    Operator(usize),
}

/// One output port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortId {
    /// The node it belongs to.
    pub node: NodeId,
    /// Its index among the node's ports.
    pub port: usize,
}

/// One edge into an operator or sink.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Input {
    /// The port it comes from.
    pub from: PortId,
}

/// What an operator does.
#[derive(Clone, Debug)]
pub enum OperatorKind {
    /// Keeps the records for which a condition is true.
    Filter {
        /// The condition.
        keep: Expr,
    },
    /// Computes new columns.
    Select {
        /// Name and value of each column. After planning: those that something reads, and those
        /// whose computation can reject a record.
        columns: Vec<(String, Expr)>,
    },
    /// Sends each record to a port by conditions.
    Route {
        /// The condition of port `i`.
        rules: Vec<Expr>,
        /// The port of records for which no condition is true; without one they are dropped.
        otherwise: Option<usize>,
        /// Whether a record goes to every port whose condition is true, not only to the first.
        all: bool,
    },
    /// Takes new columns out of a column with a regular expression.
    Parse {
        /// The column that is searched.
        column: String,
        /// The regular expression.
        regex: String,
        /// The new columns and the number of the group that holds each. After planning: those that
        /// something reads, and those whose value can reject a record.
        captures: Vec<(Column, usize)>,
    },
    /// Groups records and computes over each group.
    Aggregate {
        /// The columns that make a group, by name.
        by: Vec<(String, Expr)>,
        /// The columns computed over the group.
        compute: Vec<(String, Aggregate)>,
        /// The same as columns and functions, and what has to be held to take rows back.
        spec: AggregateSpec,
    },
    /// Keeps one row of each key.
    Dedupe {
        /// The rows, in the order of which the first one stays.
        rows: OrderedRows,
    },
    /// Keeps the first few rows of each key.
    Top {
        /// The rows, in order.
        rows: OrderedRows,
        /// How many stay.
        count: u64,
        /// The column that holds the number of each row from 1.
        rank: Option<String>,
    },
    /// Gives each record once for each window of event time in which it lies.
    Window {
        /// The event time.
        on: Expr,
        /// The windows.
        windows: Windows,
    },
    /// Gives each record once for each element of a list in a text column.
    Explode {
        /// The column that holds the list.
        column: String,
        /// How the list stands in it.
        list: List,
        /// The column of the elements.
        element: String,
    },
    /// Puts rows of two sides together.
    Join(Join),
    /// Rejects the records that break a condition.
    Expect {
        /// The conditions.
        expectations: Vec<Expectation>,
    },
    /// Runs a machine over the records of each key, which decides how each of them leaves.
    State {
        /// The records of a key, in order.
        rows: OrderedRows,
        /// The machine.
        machine: Box<MachineSpec>,
        /// Behind which age a record is final; `None`: never.
        horizon_us: Option<i64>,
    },
    /// Draws a port for each key or record.
    Lots {
        /// Which ports there are.
        kind: LotsKind,
        /// The key that is drawn; none for each record by itself.
        by: Vec<(String, Expr)>,
        /// The word that makes draws alike or independent; `None`: a key is drawn as everywhere.
        seed: Option<String>,
        /// The weight of each port.
        weights: Vec<u64>,
    },
    /// Gives the rejected records of a source or operator as rows. It stands in no pipeline file: it is
    /// there where an operator or a table reads a tag `errors`.
    Errors {
        /// Whose they are.
        of: NodeId,
    },
    /// Gives each record the session of its key in which it lies.
    Session {
        /// The records of a key, in the order of their event time.
        rows: OrderedRows,
        /// How long nothing comes before a session has ended.
        gap_us: i64,
    },
}

/// What a join does.
#[derive(Clone, Debug)]
pub struct Join {
    /// How many of the operator's inputs are its left side; those behind them are the right one.
    pub lefts: usize,
    /// Which rows come out.
    pub kind: join::Kind,
    /// The columns that must be equal: the left one, and the name of the right one.
    pub on: Vec<(Column, String)>,
    /// The other columns of the left side that come out. After planning: those that something reads.
    pub left: Vec<Column>,
    /// The right columns that come out: as what, and the name there. After planning: those that
    /// something reads.
    pub take: Vec<(Column, String)>,
    /// Whether the place of each left record is kept: before planning, whether it has one.
    pub place: bool,
    /// Whether the bytes of each left record are kept. Decided by the plan.
    pub raw: bool,
    /// How many rows one file may make it give, or take back, of one key.
    pub rows_max: u32,
}

impl Join {
    /// Returns the key columns as they are called on the left.
    pub fn left_keys(&self) -> Vec<Column> {
        self.on.iter().map(|(left, _)| left.clone()).collect()
    }

    /// Returns the key columns as they are called on the right.
    pub fn right_keys(&self) -> Vec<Column> {
        self.on.iter().map(|(left, right)| Column::new(right, left.kind)).collect()
    }
}

impl OperatorKind {
    /// Returns the word that names the kind in a pipeline file.
    pub const fn word(&self) -> &'static str {
        match self {
            OperatorKind::Filter { .. } => "filter",
            OperatorKind::Select { .. } => "select",
            OperatorKind::Route { .. } => "route",
            OperatorKind::Parse { .. } => "parse",
            OperatorKind::Aggregate { .. } => "aggregate",
            OperatorKind::Dedupe { .. } => "dedupe",
            OperatorKind::Top { .. } => "top",
            OperatorKind::Window { .. } | OperatorKind::Session { .. } => "window",
            OperatorKind::State { .. } => "state",
            OperatorKind::Explode { .. } => "explode",
            OperatorKind::Join { .. } => "join",
            OperatorKind::Expect { .. } => "expect",
            OperatorKind::Lots { kind, .. } => kind.word(),
            OperatorKind::Errors { .. } => "errors",
        }
    }

    /// Returns how many rows of each key are kept at most, where not all of them are.
    pub fn keeps_first(&self) -> Option<u64> {
        match self {
            OperatorKind::Dedupe { rows } if rows.only_first => Some(1),
            OperatorKind::Top { rows, count, .. } if rows.only_first => Some(*count),
            _ => None,
        }
    }

    /// Returns whether what a record led to stays when that record is taken back.
    pub const fn makes_final(&self) -> bool {
        matches!(self, Self::State { horizon_us: Some(_), .. })
    }

    /// Returns how many of so many inputs come by `from`; the others are the right side of a join.
    pub const fn lefts(&self, inputs: usize) -> usize {
        match self {
            OperatorKind::Join(join) => join.lefts,
            _ => inputs,
        }
    }

    /// Returns the node whose rejected records it reads, if it reads any.
    pub const fn errors_of(&self) -> Option<NodeId> {
        match self {
            OperatorKind::Errors { of } => Some(*of),
            _ => None,
        }
    }

    /// Returns whether it keeps something of one file for the next.
    pub const fn keeps_state(&self) -> bool {
        match self {
            OperatorKind::Filter { .. }
            | OperatorKind::Select { .. }
            | OperatorKind::Route { .. }
            | OperatorKind::Parse { .. }
            | OperatorKind::Window { .. }
            | OperatorKind::Expect { .. }
            | OperatorKind::Explode { .. }
            | OperatorKind::Lots { .. }
            | OperatorKind::Errors { .. } => false,
            OperatorKind::Aggregate { .. }
            | OperatorKind::State { .. }
            | OperatorKind::Session { .. }
            | OperatorKind::Dedupe { .. }
            | OperatorKind::Top { .. }
            | OperatorKind::Join { .. } => true,
        }
    }
}

/// What a sink writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SinkKind {
    /// One output file for each input file, in input order.
    Files {
        /// How records are written.
        format: OutputFormat,
        /// The columns that are written; none for raw records.
        schema: Schema,
        /// Whether an input file without a record for this sink still makes an (empty) output.
        empty: bool,
        /// Whether a later file can change the output of an earlier one.
        changing: bool,
    },
    /// The current contents, replaced as a whole when they change, or a log of their changes, or both.
    Table {
        /// How the snapshot is written; `None`: there is none, and no rows are kept.
        format: Option<TableFormat>,
        /// How the changelog is written; `None`: there is none.
        changelog: Option<OutputFormat>,
        /// The columns that identify a row.
        key: Vec<String>,
        /// The columns that are written.
        schema: Schema,
        /// How much time lies between two snapshots at least.
        publish_every: Duration,
    },
    /// The built-in sink of rejected records that no sink of the file reads.
    Rejects,
}

/// Returns the columns of rejected records, as a sink that reads `name.errors` writes them.
pub fn error_schema() -> Schema {
    let column = Column::new;
    Schema::new(vec![
        column("file", Type::String),
        column("line", Type::Int),
        column("offset", Type::Int),
        column("operator", Type::String),
        column("round", Type::Int),
        column("code", Type::String),
        column("message", Type::String),
        column("raw", Type::String),
    ])
}

/// A pipeline without mistakes.
#[derive(Debug)]
pub(crate) struct Graph {
    pub(crate) name: String,
    /// In the order of the file.
    pub(crate) sources: Vec<GraphSource>,
    /// Each after all that it reads from; in the order of the file where that leaves a choice.
    pub(crate) operators: Vec<GraphOperator>,
    /// In the order of the file, then `rejects`.
    pub(crate) sinks: Vec<GraphSink>,
    /// In the order of their heads, so outer ones first.
    pub(crate) loops: Vec<Loop>,
}

/// A checked source.
#[derive(Debug)]
pub(crate) struct GraphSource {
    pub(crate) name: String,
    pub(crate) patterns: Vec<String>,
    pub(crate) format: Format,
    pub(crate) fields: Vec<Field>,
    /// For CSV without a header: all columns of the file.
    pub(crate) names: Vec<String>,
    pub(crate) record_bytes_max: usize,
    pub(crate) inflate_ratio_max: u32,
    pub(crate) max_rejects: Option<MaxRejects>,
    pub(crate) on_error: OnError,
    pub(crate) expect: Vec<Expectation>,
    pub(crate) contract: Option<Contract>,
    pub(crate) taking: Taking,
    pub(crate) errors_used: bool,
}

impl GraphSource {
    /// Returns the columns that the pipeline sees.
    pub(crate) fn schema(&self) -> Schema {
        Schema::new(self.fields.iter().map(|field| Column::new(&field.name, field.kind)).collect())
    }
}

/// A checked operator.
#[derive(Debug)]
pub(crate) struct GraphOperator {
    pub(crate) name: String,
    pub(crate) kind: OperatorKind,
    pub(crate) inputs: Vec<Input>,
    pub(crate) outputs: Vec<GraphPort>,
    pub(crate) policy: Policy,
    pub(crate) errors_used: bool,
}

impl GraphOperator {
    /// Returns how many of its inputs come by `from`; those behind them are the other side of a join.
    pub(crate) fn lefts(&self) -> usize {
        self.kind.lefts(self.inputs.len())
    }
}

/// A port with all columns that are visible there.
#[derive(Clone, Debug)]
pub(crate) struct GraphPort {
    pub(crate) tag: String,
    pub(crate) schema: Schema,
    pub(crate) used: bool,
}

/// A checked sink.
#[derive(Debug)]
pub(crate) struct GraphSink {
    pub(crate) name: String,
    pub(crate) inputs: Vec<Input>,
    pub(crate) errors_of: Vec<NodeId>,
    /// The nodes of whose keys it is told, and whose rejected records others read.
    pub(crate) told_of: Vec<NodeId>,
    pub(crate) kind: SinkKind,
    pub(crate) retry: retry::Policy,
}

/// Checks a spec; `None` when there was any mistake, all of which have been noted.
pub(crate) fn check(spec: &mut PipelineSpec, mistakes: &mut Mistakes<'_>) -> Option<Graph> {
    let nodes = spec.sources.len() + spec.operators.len() + spec.sinks.len();
    if nodes > NODES_MAX {
        let message = format!("the pipeline has {nodes} parts; at most {NODES_MAX} are taken");
        let hint = "make several pipelines".to_owned();
        mistakes.add(Place::default(), "", message, hint);
        return None;
    }
    patterns::expand(spec, mistakes);
    let spec = &*spec;
    let names = names::resolve(spec, mistakes);
    let sources = sources::check(spec, &names, mistakes);
    let flow = flow::check(spec, &names, &sources, mistakes);
    demands::check(spec, &names, &flow, mistakes);
    let sinks = sinks::check(spec, &names, &flow, mistakes);
    unread::check(spec, &names, mistakes);
    unused::check(&spec.unused, mistakes);
    if !mistakes.is_empty() {
        return None;
    }
    let sources: Option<Vec<GraphSource>> = sources.into_iter().collect();
    let mut sinks: Vec<GraphSink> = sinks.into_iter().collect::<Option<_>>()?;
    let sources = sources?;
    let mut loops = names.loops;
    let mut operators = flow.into_operators()?;
    contract::check_policies(spec, &names.order, &loops, &operators, mistakes);
    errors::keep_behind_state(&mut operators, &mut sinks, &loops);
    let operators = errors::insert(&sources, operators, &mut sinks, &mut loops);
    let rejects = rejects(&sources, &operators, &sinks);
    sinks.push(rejects);
    let name = spec.name.as_ref()?.text.clone();
    Some(Graph { name, sources, operators, sinks, loops })
}

/// Returns the sink of all rejected records that no sink of the file reads.
fn rejects(sources: &[GraphSource], operators: &[GraphOperator], sinks: &[GraphSink]) -> GraphSink {
    let of_sources = sources.iter().enumerate().filter(|(_, source)| !source.errors_used);
    let of_operators = operators.iter().enumerate().filter(|(_, operator)| !operator.errors_used);
    // What is told of a key is no record: it is not among the rows that an operator or table reads.
    let is_told = |at: usize| {
        let node = NodeId::Operator(at);
        sinks.iter().any(|sink| sink.errors_of.contains(&node))
    };
    let told_of = operators.iter().enumerate().filter(|(at, operator)| {
        operator.errors_used && operator.kind.keeps_state() && !is_told(*at)
    });
    let told_of = told_of.map(|(at, _)| NodeId::Operator(at)).collect();
    GraphSink {
        name: "rejects".to_owned(),
        inputs: Vec::new(),
        errors_of: of_sources
            .map(|(at, _)| NodeId::Source(at))
            .chain(of_operators.map(|(at, _)| NodeId::Operator(at)))
            .collect(),
        told_of,
        kind: SinkKind::Rejects,
        retry: retry::Policy::SINK,
    }
}

/// Returns a regular expression within the bounds of the house.
pub(crate) fn compile_regex(text: &str) -> Result<Regex, regex::Error> {
    const PROGRAM_BYTES_MAX: usize = 1 << 20;
    regex::RegexBuilder::new(text).size_limit(PROGRAM_BYTES_MAX).build()
}
