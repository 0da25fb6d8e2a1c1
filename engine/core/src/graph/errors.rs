//! Errors: rejected records that operators and tables read become an operator of their own. Derived.
//!
//! While names are resolved, an edge from rejected records leads to the port [`ERRORS`] of their node.
//! Once all is checked, each node with such an edge gets one operator of the kind `errors` behind it,
//! called `NODE.errors`, from which all of its readers read. So everybody downstream sees records and
//! nothing else. Files that hold nothing but rejected records are written from them directly.
//!
//! Behind operators that keep state a rejected row may be taken back by any later file. What nobody
//! reads of them is a table of its own, [`BEHIND_STATE`], since no file of rejected records could hold it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tidemill_operators::Type;
use tidemill_operators::expr::Expr;
use tidemill_operators::format::{OutputFormat, TableFormat};

use crate::contract::Policy;
use crate::diagnostic::{Mistakes, quoted};
use crate::graph::loops::Loop;
use crate::graph::names::Read;
use crate::graph::patterns::strongly_connected;
use crate::graph::{
    GraphOperator, GraphPort, GraphSink, GraphSource, Input, NodeId, OperatorKind, OrderedRows,
    PortId, SinkKind, error_schema,
};
use crate::retry;
use crate::spec::PipelineSpec;

/// The sink of the rows that are rejected behind operators that keep state, where nobody reads them: a
/// table, which has no other name than that of `rejects` with an ending that no name of a file has.
pub(crate) const BEHIND_STATE: &str = "rejects.state";

/// How often its snapshot is replaced while files come.
const PUBLISH_EVERY: Duration = Duration::from_secs(1);

/// The port of rejected records, while a graph is made. No node has so many.
pub(crate) const ERRORS: usize = usize::MAX;

/// Notes rejected records that would come round to the operator that rejected them, and forgets those
/// edges. `reads` is what each operator of the spec reads.
pub(crate) fn refuse_circles(
    spec: &PipelineSpec,
    reads: &mut [Vec<Read>],
    mistakes: &mut Mistakes<'_>,
) {
    let upstream = |read: &Read| match read {
        Read::Port(PortId { node: NodeId::Operator(from), .. })
        | Read::Errors(NodeId::Operator(from)) => Some(*from),
        _ => None,
    };
    let edges: Vec<BTreeSet<usize>> =
        reads.iter().map(|reads| reads.iter().filter_map(upstream).collect()).collect();
    let circle = strongly_connected(&edges);
    for (at, reads) in reads.iter_mut().enumerate() {
        let operator = &spec.operators[at];
        let texts = operator.reads().unwrap_or_default();
        for (read, text) in reads.iter_mut().zip(texts) {
            let Read::Errors(NodeId::Operator(from)) = *read else { continue };
            if circle[from] == circle[at] {
                let message = format!(
                    "{} would come round to {} again: rejected records do not go in circles",
                    quoted(&text.text),
                    quoted(&spec.operators[from].name.text)
                );
                let hint = "lead what becomes of them past it, to a sink or an operator behind it";
                text.wrong(mistakes, message, hint.to_owned());
                *read = Read::Unknown;
            }
        }
    }
}

/// Adds the table of what is rejected behind operators that keep state and is read by nobody, if there
/// can be such a row.
pub(crate) fn keep_behind_state(
    operators: &mut [GraphOperator],
    sinks: &mut Vec<GraphSink>,
    loops: &[Loop],
) {
    let follows = follow_state(operators, loops);
    let mut inputs = Vec::new();
    for (at, operator) in operators.iter_mut().enumerate().filter(|(at, _)| follows[*at]) {
        // Past its last round a record is rejected by the head of its loop.
        let is_head = loops.iter().any(|one| one.head == at);
        if !operator.errors_used && (may_reject(operator) || is_head) {
            operator.errors_used = true;
            inputs.push(Input { from: PortId { node: NodeId::Operator(at), port: ERRORS } });
        }
    }
    if inputs.is_empty() {
        return;
    }
    sinks.push(GraphSink {
        name: BEHIND_STATE.to_owned(),
        inputs,
        errors_of: Vec::new(),
        told_of: Vec::new(),
        kind: SinkKind::Table {
            format: Some(TableFormat::Rows(OutputFormat::Jsonl)),
            changelog: None,
            key: ["operator", "code", "message", "raw"].map(str::to_owned).to_vec(),
            schema: error_schema(),
            publish_every: PUBLISH_EVERY,
        },
        retry: retry::Policy::SINK,
    });
}

/// Returns whether an operator may reject a record, as far as its own work tells: past its last round
/// the head of a loop does too.
pub(crate) fn may_reject(operator: &GraphOperator) -> bool {
    let is_fallible = |value: &Expr| value.is_fallible();
    let any = |values: &[(String, Expr)]| values.iter().any(|(_, value)| is_fallible(value));
    let by_rows = |rows: &OrderedRows| {
        any(&rows.by) || rows.order.iter().any(|term| is_fallible(&term.value))
    };
    match &operator.kind {
        OperatorKind::Filter { keep } => is_fallible(keep),
        OperatorKind::Route { rules, .. } => rules.iter().any(is_fallible),
        OperatorKind::Select { columns } => any(columns),
        OperatorKind::Lots { by, .. } => any(by),
        // Without a port for records that do not match, they are rejected.
        OperatorKind::Parse { captures, .. } => {
            let is_typed = captures.iter().any(|(capture, _)| capture.kind != Type::String);
            is_typed || operator.outputs.len() == 1
        }
        // A record without a time, a list that is none, a condition that is false.
        OperatorKind::Session { .. }
        | OperatorKind::Window { .. }
        | OperatorKind::Explode { .. }
        | OperatorKind::Expect { .. } => true,
        // A record without a time, and one that comes too late.
        OperatorKind::State { rows, horizon_us, .. } => horizon_us.is_some() || by_rows(rows),
        OperatorKind::Dedupe { rows } | OperatorKind::Top { rows, .. } => by_rows(rows),
        OperatorKind::Aggregate { by, compute, .. } => {
            any(by) || compute.iter().flat_map(|(_, one)| one.expressions()).any(is_fallible)
        }
        OperatorKind::Join(_) | OperatorKind::Errors { .. } => false,
    }
}

/// Returns, by operator, whether some operator before it keeps state; in a loop each is before all others.
fn follow_state(operators: &[GraphOperator], loops: &[Loop]) -> Vec<bool> {
    let mut follows = vec![false; operators.len()];
    let keeps = |one: &&Loop| one.body.iter().any(|at| operators[*at].kind.keeps_state());
    for at in loops.iter().filter(keeps).flat_map(|one| &one.body) {
        follows[*at] = true;
    }
    loop {
        let before = follows.clone();
        for (at, operator) in operators.iter().enumerate() {
            let is_behind = |input: &Input| match input.from.node {
                NodeId::Source(_) => false,
                // A rejected record is what it was before the operator that rejected it.
                NodeId::Operator(from) => {
                    let keeps = input.from.port != ERRORS && operators[from].kind.keeps_state();
                    keeps || follows[from]
                }
            };
            follows[at] |= operator.inputs.iter().any(is_behind);
        }
        // What goes back in a loop comes from behind.
        if follows == before {
            return follows;
        }
    }
}

/// Puts an operator behind each node whose rejected records are read as rows, and renumbers operators.
pub(crate) fn insert(
    sources: &[GraphSource],
    operators: Vec<GraphOperator>,
    sinks: &mut [GraphSink],
    loops: &mut [Loop],
) -> Vec<GraphOperator> {
    let inputs = operators.iter().map(|one| &one.inputs).chain(sinks.iter().map(|one| &one.inputs));
    let read: BTreeSet<NodeId> = (inputs.flatten())
        .filter(|input| input.from.port == ERRORS)
        .map(|input| input.from.node)
        .collect();
    if read.is_empty() {
        return operators;
    }
    let mut all: Vec<GraphOperator> = Vec::with_capacity(operators.len() + read.len());
    // Where an operator is now, and where the rejected records of a node come out.
    let mut moved: Vec<usize> = Vec::with_capacity(operators.len());
    let mut errors: BTreeMap<NodeId, usize> = BTreeMap::new();
    for (at, source) in sources.iter().enumerate() {
        let node = NodeId::Source(at);
        if read.contains(&node) {
            errors.insert(node, all.len());
            all.push(errors_of(&source.name, node));
        }
    }
    for (at, operator) in operators.into_iter().enumerate() {
        moved.push(all.len());
        let (name, now) = (operator.name.clone(), NodeId::Operator(all.len()));
        all.push(operator);
        if read.contains(&NodeId::Operator(at)) {
            errors.insert(NodeId::Operator(at), all.len());
            all.push(errors_of(&name, now));
        }
    }
    let node = |node: NodeId| match node {
        NodeId::Operator(at) => NodeId::Operator(moved.get(at).copied().unwrap_or(at)),
        source => source,
    };
    let renumber = |input: &mut Input| {
        input.from = match (input.from.port, errors.get(&input.from.node)) {
            (ERRORS, Some(at)) => PortId { node: NodeId::Operator(*at), port: 0 },
            (port, _) => PortId { node: node(input.from.node), port },
        };
    };
    let place = |at: usize| moved.get(at).copied().unwrap_or(at);
    for one in loops {
        one.head = place(one.head);
        one.body = one.body.iter().map(|at| place(*at)).collect();
    }
    all.iter_mut().flat_map(|one| &mut one.inputs).for_each(renumber);
    for sink in sinks {
        sink.inputs.iter_mut().for_each(renumber);
        sink.errors_of.iter_mut().for_each(|of| *of = node(*of));
    }
    all
}

fn errors_of(name: &str, of: NodeId) -> GraphOperator {
    GraphOperator {
        name: format!("{name}.errors"),
        kind: OperatorKind::Errors { of },
        inputs: Vec::new(),
        outputs: vec![GraphPort { tag: String::new(), schema: error_schema(), used: true }],
        // It rejects nothing, so there is nothing that `rejects` could hold of it.
        errors_used: true,
        policy: Policy::default(),
    }
}
