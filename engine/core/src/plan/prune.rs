//! Prune: what each port must carry, found by walking from the sinks up. Derived from the graph.
//!
//! A column is carried only where something downstream reads it. The raw record and its position are
//! carried to an operator that can reject a record (the reject holds both), the raw record to a sink
//! that writes it, and the position to a sink whose records come by several ways and must be put
//! back into input order. Behind an aggregate there is neither.

use std::collections::BTreeSet;

use tidemill_operators::batch::Shape;
use tidemill_operators::format::{Format, OutputFormat, ReadPlan};
use tidemill_operators::state::MachineSpec;
use tidemill_operators::{Column, Schema, Type, window};

use crate::graph::{
    Graph, GraphOperator, GraphSource, NodeId, OperatorKind, OrderedRows, SinkKind,
};
use crate::plan::{OperatorPlan, Port, SourcePlan};

/// What the readers of a port need.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Need {
    columns: BTreeSet<String>,
    raw: bool,
    positions: bool,
    used: bool,
}

/// What is needed of every port.
pub(super) struct Needs {
    pub(super) sources: Vec<Need>,
    /// By operator, then by port.
    pub(super) operators: Vec<Vec<Need>>,
}

impl Needs {
    fn add(&mut self, node: NodeId, port: usize, need: &Need) {
        let place = match node {
            NodeId::Source(at) => self.sources.get_mut(at),
            NodeId::Operator(at) => {
                self.operators.get_mut(at).and_then(|ports| ports.get_mut(port))
            }
        };
        // The graph has only edges between ports that are there.
        if let Some(place) = place {
            place.columns.extend(need.columns.iter().cloned());
            place.raw |= need.raw;
            place.positions |= need.positions;
            place.used = true;
        }
    }
}

/// Finds what each port must carry.
pub(super) fn needs(graph: &Graph) -> Needs {
    let mut needs = Needs {
        sources: vec![Need::default(); graph.sources.len()],
        operators: graph
            .operators
            .iter()
            .map(|operator| vec![Need::default(); operator.outputs.len()])
            .collect(),
    };
    let joined = joined(graph);
    for sink in &graph.sinks {
        let several = sink.inputs.len() > 1
            || sink.inputs.iter().any(|input| is_joined(&joined, input.from.node));
        let need = of_sink(&sink.kind, several);
        for input in &sink.inputs {
            needs.add(input.from.node, input.from.port, &need);
        }
    }
    loop {
        let before = needs.operators.clone();
        for (at, operator) in graph.operators.iter().enumerate().rev() {
            let outputs = needs.operators.get(at).map(Vec::as_slice).unwrap_or_default();
            let mut need = of_operator(operator, outputs);
            // Past its last round a record is rejected by the head of its loop.
            let rejects = graph.loops.iter().any(|one| one.head == at);
            need.raw |= rejects;
            need.positions |= rejects;
            let other = of_other_side(operator, outputs);
            for (at, input) in operator.inputs.iter().enumerate() {
                let need = if at < operator.lefts() { &need } else { &other };
                needs.add(input.from.node, input.from.port, need);
            }
        }
        // What the head of a loop needs, what goes back has to carry: again, until all is known.
        if graph.loops.is_empty() || before == needs.operators {
            break;
        }
    }
    forget_origin_behind_aggregates(graph, &mut needs);
    needs
}

fn names(schema: &Schema) -> BTreeSet<String> {
    schema.columns().iter().map(|column| column.name.clone()).collect()
}

fn of_sink(kind: &SinkKind, several: bool) -> Need {
    match kind {
        SinkKind::Files { format, schema, changing, .. } => Need {
            columns: names(schema),
            raw: *format == OutputFormat::Raw,
            // A row that comes later, or is taken back, is found by its place.
            positions: several || *changing,
            used: true,
        },
        SinkKind::Table { schema, .. } => Need { columns: names(schema), ..Need::default() },
        SinkKind::Rejects => Need::default(),
    }
}

/// Returns what an operator needs of its input, given what is needed of its ports.
fn of_operator(operator: &GraphOperator, outputs: &[Need]) -> Need {
    let mut need = Need::default();
    for output in outputs {
        need.columns.extend(output.columns.iter().cloned());
        need.raw |= output.raw;
        need.positions |= output.positions;
    }
    let mut rejects = false;
    match &operator.kind {
        OperatorKind::Filter { keep } => {
            need.columns.extend(keep.columns().iter().cloned());
            rejects = keep.is_fallible();
        }
        OperatorKind::Route { rules, .. } => {
            for rule in rules {
                need.columns.extend(rule.columns().iter().cloned());
                rejects |= rule.is_fallible();
            }
        }
        OperatorKind::Errors { .. } => {}
        OperatorKind::Lots { by, .. } => {
            for (_, value) in by {
                need.columns.extend(value.columns().iter().cloned());
                rejects |= value.is_fallible();
            }
            // Without a key a record is drawn by its bytes and its place.
            rejects |= by.is_empty();
        }
        OperatorKind::Select { columns } => {
            let wanted = std::mem::take(&mut need.columns);
            for (name, value) in columns {
                rejects |= value.is_fallible();
                if wanted.contains(name) || value.is_fallible() {
                    need.columns.extend(value.columns().iter().cloned());
                }
            }
        }
        OperatorKind::Parse { column, captures, .. } => {
            for (capture, _) in captures {
                need.columns.remove(&capture.name);
                rejects |= capture.kind != Type::String;
            }
            need.columns.insert(column.clone());
            // Without a port for records that do not match, they are rejected.
            rejects |= operator.outputs.len() == 1;
        }
        OperatorKind::Session { rows, .. } => {
            need.columns.remove(window::START);
            need.columns.remove(window::END);
            let order = rows.order.iter().map(|term| &term.value);
            for value in rows.by.iter().map(|(_, value)| value).chain(order) {
                need.columns.extend(value.columns().iter().cloned());
            }
            need.positions |= rows.has_place;
            rejects = true; // a record without a time
        }
        OperatorKind::State { rows, machine, horizon_us } => {
            // A record without a time, and one that comes too late.
            rejects |= horizon_us.is_some();
            for (name, _) in &machine.add {
                need.columns.remove(name);
            }
            need.columns.extend(read_by_machine(rows, machine));
            let order = rows.order.iter().map(|term| &term.value);
            for value in rows.by.iter().map(|(_, value)| value).chain(order) {
                need.columns.extend(value.columns().iter().cloned());
                rejects |= value.is_fallible();
            }
            need.positions |= rows.has_place;
        }
        OperatorKind::Dedupe { rows } | OperatorKind::Top { rows, .. } => {
            if let OperatorKind::Top { rank: Some(rank), .. } = &operator.kind {
                need.columns.remove(rank);
            }
            let order = rows.order.iter().map(|term| &term.value);
            for value in rows.by.iter().map(|(_, value)| value).chain(order) {
                need.columns.extend(value.columns().iter().cloned());
                rejects |= value.is_fallible();
            }
            // What arrived first is known by its position.
            need.positions |= rows.has_place;
        }
        OperatorKind::Window { on, .. } => {
            need.columns.remove(window::START);
            need.columns.remove(window::END);
            need.columns.extend(on.columns().iter().cloned());
            rejects = true; // a record without a time
        }
        OperatorKind::Explode { column, element, .. } => {
            need.columns.remove(element);
            need.columns.insert(column.clone());
            rejects = true; // a list that is none, or too long
        }
        OperatorKind::Aggregate { by, compute, spec } => {
            need = Need::default();
            need.positions = spec.compute.iter().any(|one| one.arrival);
            let computed = compute.iter().flat_map(|(_, value)| value.expressions());
            for value in by.iter().map(|(_, value)| value).chain(computed) {
                need.columns.extend(value.columns().iter().cloned());
                rejects |= value.is_fallible();
            }
        }
        OperatorKind::Expect { expectations } => {
            for one in expectations {
                need.columns.extend(one.condition.columns().iter().cloned());
            }
            rejects = true;
        }
        OperatorKind::Join(join) => {
            need.columns.retain(|name| join.take.iter().all(|(column, _)| column.name != *name));
            need.columns.extend(join.on.iter().map(|(left, _)| left.name.clone()));
            // A record is found again by its place, and only then has its own bytes.
            need.positions |= need.raw;
        }
    }
    need.raw |= rejects;
    need.positions |= rejects;
    need
}

/// Returns what a join needs of its right side, given what is needed of its port.
fn of_other_side(operator: &GraphOperator, outputs: &[Need]) -> Need {
    let mut need = Need::default();
    if let OperatorKind::Join(join) = &operator.kind {
        let wanted = |name: &str| outputs.iter().any(|output| output.columns.contains(name));
        let taken = join.take.iter().filter(|(column, _)| wanted(&column.name));
        need.columns.extend(taken.map(|(_, right)| right.clone()));
        need.columns.extend(join.on.iter().map(|(_, right)| right.clone()));
    }
    need
}

/// Returns, by operator, whether records of one file can reach it by several ways.
fn joined(graph: &Graph) -> Vec<bool> {
    let mut joined: Vec<bool> = Vec::with_capacity(graph.operators.len());
    for operator in &graph.operators {
        // Rejected records are put into order where they become rows.
        let upstream = operator.inputs.iter().any(|input| is_joined(&joined, input.from.node));
        // Those of a loop become rows round by round.
        let comes_round = match operator.kind.errors_of() {
            Some(NodeId::Operator(of)) => graph.loops.iter().any(|one| one.body.contains(&of)),
            _ => false,
        };
        joined.push(operator.inputs.len() > 1 || upstream || comes_round);
    }
    joined
}

fn is_joined(joined: &[bool], node: NodeId) -> bool {
    matches!(node, NodeId::Operator(at) if joined.get(at).copied().unwrap_or_default())
}

fn forget_origin_behind_aggregates(graph: &Graph, needs: &mut Needs) {
    let mut behind: Vec<bool> = Vec::with_capacity(graph.operators.len());
    for (operator, needs) in graph.operators.iter().zip(&mut needs.operators) {
        let loses_places = |kind: &OperatorKind| matches!(kind, OperatorKind::Aggregate { spec, .. } if !spec.is_per_file());
        // A rejected record stands where it stood before its operator.
        let rejecting = match operator.kind.errors_of() {
            Some(NodeId::Operator(of)) => graph.operators.get(of),
            _ => Some(operator),
        };
        let is_behind = loses_places(&operator.kind)
            || rejecting.is_some_and(|one| {
                let mut inputs = one.inputs.iter().take(one.lefts());
                inputs.any(|input| is_joined(&behind, input.from.node))
            });
        behind.push(is_behind);
        for need in needs.iter_mut().filter(|_| is_behind) {
            need.raw = false;
            need.positions = false;
        }
    }
}

fn port(tag: String, schema: &Schema, need: &Need) -> Port {
    let shape = Shape {
        schema: schema.project(|name| need.columns.contains(name)),
        raw: need.raw,
        positions: need.positions,
    };
    Port { tag, shape, used: need.used }
}

/// Returns a source that reads only what is needed.
pub(super) fn source(source: GraphSource, need: &Need) -> SourcePlan {
    let output = port(String::new(), &source.schema(), need);
    let splittable = !matches!(&source.format, Format::Csv(options) if options.multiline);
    // What is only checked is read too, and goes no further.
    let conditions = source.expect.iter().flat_map(|one| one.condition.columns().iter().cloned());
    let totals =
        source.contract.iter().flat_map(|one| &one.totals).map(|(column, _)| column.clone());
    let read: BTreeSet<String> =
        need.columns.iter().cloned().chain(conditions).chain(totals).collect();
    let fields = source.fields.into_iter().filter(|field| read.contains(&field.name));
    let rejects = !source.expect.is_empty();
    SourcePlan {
        name: source.name,
        patterns: source.patterns,
        read: ReadPlan {
            format: source.format,
            fields: fields.collect(),
            names: source.names,
            raw: need.raw || rejects,
            positions: need.positions || rejects,
            record_bytes_max: source.record_bytes_max,
        },
        splittable,
        inflate_ratio_max: source.inflate_ratio_max,
        max_rejects: source.max_rejects,
        on_error: source.on_error,
        expect: source.expect,
        contract: source.contract,
        taking: source.taking,
        output,
        errors_used: source.errors_used,
    }
}

/// Returns the columns of records that the expressions of a machine read.
fn read_by_machine(rows: &OrderedRows, machine: &MachineSpec) -> BTreeSet<String> {
    let read = machine.expressions().flat_map(|value| value.columns().iter().cloned());
    let there: BTreeSet<&str> = rows.columns.iter().map(|column| column.name.as_str()).collect();
    read.filter(|name| there.contains(name.as_str())).collect()
}

/// Leaves out what no reader asks for, and what the key holds already.
fn keep_read(rows: &mut OrderedRows, needs: &[Need]) {
    let is_key = |column: &str| {
        rows.by.iter().any(|(name, value)| name == column && value.column() == Some(column))
    };
    let is_read = |column: &str| needs.iter().any(|need| need.columns.contains(column));
    let columns = std::mem::take(&mut rows.columns);
    let kept = columns.into_iter().filter(|one| is_read(&one.name) && !is_key(&one.name));
    rows.columns = kept.collect();
    // Whoever reads the duplicates is told of a row that wins no more.
    rows.only_first &= needs.len() == 1;
    rows.raw = needs.iter().any(|need| need.raw);
}

/// Returns an operator that computes only what is needed. What can reject a record is always
/// computed, so that pruning never changes which records are rejected.
pub(super) fn operator(operator: GraphOperator, needs: &[Need]) -> OperatorPlan {
    let mut kind = operator.kind;
    let main = needs.first().cloned().unwrap_or_default();
    match &mut kind {
        OperatorKind::Select { columns } => {
            columns.retain(|(name, value)| main.columns.contains(name) || value.is_fallible());
        }
        OperatorKind::Parse { captures, .. } => captures.retain(|(capture, _)| {
            main.columns.contains(&capture.name) || capture.kind != Type::String
        }),
        OperatorKind::State { rows, machine, horizon_us } => {
            let mut needs = needs.to_vec();
            // One that comes too late is rejected with its bytes.
            let raw = rows.has_place && horizon_us.is_some();
            let columns = read_by_machine(rows, machine);
            needs.push(Need { columns, raw, ..Need::default() });
            keep_read(rows, &needs);
        }
        OperatorKind::Session { rows, .. }
        | OperatorKind::Dedupe { rows }
        | OperatorKind::Top { rows, .. } => keep_read(rows, needs),
        OperatorKind::Join(join) => {
            let wanted = |column: &Column| main.columns.contains(&column.name);
            join.left.retain(wanted);
            join.take.retain(|(column, _)| wanted(column));
            join.raw = main.raw;
            join.place = main.positions || main.raw;
        }
        OperatorKind::Filter { .. }
        | OperatorKind::Route { .. }
        | OperatorKind::Window { .. }
        | OperatorKind::Explode { .. }
        | OperatorKind::Expect { .. }
        | OperatorKind::Lots { .. }
        | OperatorKind::Errors { .. }
        | OperatorKind::Aggregate { .. } => {}
    }
    let whole = matches!(kind, OperatorKind::Aggregate { .. });
    let outputs = operator.outputs.into_iter().zip(needs).map(|(output, need)| {
        let mut port = port(output.tag, &output.schema, need);
        if whole {
            // Rows of an aggregate are few and carry their whole group.
            port.shape.schema = output.schema;
        }
        debug_assert_eq!(port.used, output.used, "what the graph says is read is read");
        port
    });
    OperatorPlan {
        name: operator.name,
        outputs: outputs.collect(),
        inputs: operator.inputs,
        policy: operator.policy,
        kind,
        errors_used: operator.errors_used,
    }
}
