//! Errors: rejected records that operators and tables read become an operator of their own. Derived.
//!
//! While names are resolved, an edge from rejected records leads to the port [`ERRORS`] of their node.
//! Once all is checked, each node with such an edge gets one operator of the kind `errors` behind it,
//! called `NODE.errors`, from which all of its readers read. So everybody downstream sees records and
//! nothing else. Files that hold nothing but rejected records are written from them directly.

use std::collections::{BTreeMap, BTreeSet};

use crate::contract::Policy;
use crate::diagnostic::{Mistakes, quoted};
use crate::graph::loops::Loop;
use crate::graph::names::Read;
use crate::graph::patterns::strongly_connected;
use crate::graph::{
    GraphOperator, GraphPort, GraphSink, GraphSource, Input, NodeId, OperatorKind, PortId,
    error_schema,
};
use crate::spec::PipelineSpec;

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
