//! Receipt: from what a dataflow counted to the receipt of a file. Derived; the journal checks and
//! keeps it.
//!
//! The two sides of the balance come by different ways: what operators did is counted inside of them
//! ([`crate::account`]), what was delivered is counted by the sinks in the parts they prepare and, for
//! tables, in the rows that arrive behind the dataflow.

use tidemill_operators::tally::Counts;
use tidemill_store::receipt::{Book, Node, NodeCounts, Receipt, Role};
use tidemill_store::{ReceiptRow, SubmissionRow, VerdictRow};

use crate::answer::Answer;
use crate::board::{from_us, hex, to_us};
use crate::plan::{Input, NodeId, OperatorKind, Plan, SinkKind};
use crate::report::{ReceiptNode, ReceiptReport};
use crate::stats::kind_word;

/// Returns the place of a source or operator in the book of its plan, which is also its number in
/// the counts of a dataflow.
pub fn place(plan: &Plan, node: NodeId) -> usize {
    match node {
        NodeId::Source(at) => at,
        NodeId::Operator(at) => plan.sources.len() + at,
    }
}

/// Returns what the receipts of a plan speak of: sources, operators, sinks, in its order.
pub fn book(plan: &Plan) -> Book {
    let inputs = |inputs: &[Input]| {
        inputs.iter().map(|input| (place(plan, input.from.node), input.from.port)).collect()
    };
    let mut nodes = Vec::new();
    for (at, source) in plan.sources.iter().enumerate() {
        nodes.push(Node {
            name: source.name.clone(),
            role: Role::Source,
            kind: kind_word(plan, NodeId::Source(at)),
            tags: vec![source.output.tag.clone()],
            inputs: Vec::new(),
            errors_of: Vec::new(),
            rejected_of: Vec::new(),
            told_of: Vec::new(),
        });
    }
    for operator in &plan.operators {
        let role = match operator.kind {
            OperatorKind::Aggregate { .. } => Role::Aggregate,
            _ if operator.kind.keeps_state() => Role::Keyed,
            _ => Role::Operator,
        };
        nodes.push(Node {
            name: operator.name.clone(),
            role,
            kind: operator.kind.word().to_owned(),
            tags: operator.outputs.iter().map(|port| port.tag.clone()).collect(),
            inputs: inputs(&operator.inputs),
            errors_of: Vec::new(),
            rejected_of: operator.kind.errors_of().map(|of| place(plan, of)).into_iter().collect(),
            told_of: Vec::new(),
        });
    }
    for sink in &plan.sinks {
        let (role, kind) = match &sink.kind {
            SinkKind::Table { .. } => (Role::Table, "sink table"),
            SinkKind::Files { .. } if sink.errors_of.is_empty() => (Role::Files, "sink files"),
            SinkKind::Files { .. } => (Role::Rejects, "sink files"),
            SinkKind::Rejects => (Role::Rejects, "sink rejects"),
        };
        nodes.push(Node {
            name: sink.name.clone(),
            role,
            kind: kind.to_owned(),
            tags: Vec::new(),
            inputs: inputs(&sink.inputs),
            errors_of: sink.errors_of.iter().map(|node| place(plan, *node)).collect(),
            rejected_of: Vec::new(),
            told_of: sink.told_of.iter().map(|node| place(plan, *node)).collect(),
        });
    }
    Book { nodes }
}

/// Returns the receipt of a file of which everything has been said.
pub fn receipt(book: &Book, answer: &Answer) -> Receipt {
    let inner = book.nodes.iter().filter(|node| !node.role.is_sink()).count();
    let nothing = Counts::default();
    let node = |(at, node): (usize, &Node)| {
        if at < inner {
            return counted(answer.counts.get(at).unwrap_or(&nothing), node.tags.len());
        }
        let sink = at - inner;
        let in_parts = answer.parts.iter().filter(|part| part.sink == sink).map(|part| part.rows);
        // Rows that are taken back count nowhere.
        let in_rows = answer.rows.iter().filter(|(to, rows)| *to == sink && rows.diff > 0);
        let in_rows = in_rows.map(|(_, batch)| batch.len() as u64);
        NodeCounts { taken: in_parts.chain(in_rows).sum(), ..NodeCounts::default() }
    };
    let counts = book.nodes.iter().enumerate().map(node).collect();
    Receipt { read_at_us: to_us(answer.read_at), counts }
}

fn counted(counts: &Counts, tags: usize) -> NodeCounts {
    let mut given = counts.given.clone();
    given.resize(tags.max(given.len()), 0);
    NodeCounts {
        taken: counts.taken,
        given,
        filtered: counts.filtered,
        rejected: counts.rejected,
        merged: counts.merged,
        copies: counts.copies,
        reported: counts.reported,
    }
}

/// Returns a receipt of the journal as the outside sees it.
pub fn report(file: &SubmissionRow, row: &ReceiptRow) -> ReceiptReport {
    let nodes = &row.book.nodes;
    let name = |at: usize| nodes.get(at).map_or("?", |node| node.name.as_str());
    let port = |(from, port): &(usize, usize)| {
        let tag = nodes.get(*from).and_then(|node| node.tags.get(*port));
        match tag.filter(|tag| !tag.is_empty()) {
            Some(tag) => format!("{}.{tag}", name(*from)),
            None => name(*from).to_owned(),
        }
    };
    let node = |(node, counts): (&Node, &NodeCounts)| ReceiptNode {
        name: node.name.clone(),
        role: node.role.word().to_owned(),
        kind: node.kind.clone(),
        records_in: counts.taken,
        out: node.tags.iter().cloned().zip(counts.given.iter().copied()).collect(),
        filtered: counts.filtered,
        rejected: counts.rejected,
        merged: counts.merged,
        copies: counts.copies,
        reported: counts.reported,
        fed_by: (node.inputs.iter().map(port))
            .chain(
                (node.errors_of.iter().chain(&node.rejected_of))
                    .map(|from| format!("{}.errors", name(*from))),
            )
            .chain(node.told_of.iter().map(|from| format!("{}.told", name(*from))))
            .collect(),
    };
    let mut outputs = Vec::new();
    if let Some(VerdictRow::Committed { parts }) = file.outcome.as_ref().map(|one| &one.verdict) {
        outputs.extend(
            parts
                .iter()
                .filter(|part| !part.removed)
                .map(|part| (format!("{}/{}", part.sink, part.name), part.bytes, hex(&part.hash))),
        );
    }
    let answered_at_us = file.outcome.as_ref().map_or(0, |outcome| outcome.answered_at_us);
    ReceiptReport {
        generation: row.generation,
        processes: row.processes,
        workers: row.workers,
        binary_version: row.binary_version.clone(),
        plan_hash: row.plan_hash.clone(),
        claimed_at: from_us(file.file.claimed_at_us),
        read_at: from_us(row.receipt.read_at_us),
        answered_at: from_us(answered_at_us),
        nodes: nodes.iter().zip(&row.receipt.counts).map(node).collect(),
        outputs,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_book_names_every_node_and_what_feeds_it() {
        let plan = crate::plan(
            "pipeline: p
sources:
  rows: { format: csv, fields: { n: int } }
operators:
  halves: { from: rows, route: { low: n < 5, high: else } }
  sums: { from: [halves.low, halves.high], aggregate: { by: [n], compute: { hits: count(*) } } }
sinks:
  low: { from: halves.low, files: { format: csv } }
  sums: { from: sums, table: { format: csv, key: [n] } }
  bad: { from: [rows.errors, halves.errors], files: { format: csv } }
",
        )
        .unwrap();
        let line = |node: &Node| {
            let Node { name, role, tags, inputs, errors_of, .. } = node;
            format!("{name} {} {tags:?} {inputs:?} {errors_of:?}", role.word())
        };
        let lines: Vec<String> = book(&plan).nodes.iter().map(line).collect();
        assert_eq!(
            lines,
            [
                "rows source [\"\"] [] []",
                "halves operator [\"low\", \"high\"] [(0, 0)] []",
                "sums aggregate [\"\"] [(1, 0), (1, 1)] []",
                "low files [] [(1, 0)] []",
                "sums table [] [(2, 0)] []",
                "bad rejects [] [] [0, 1]",
                "rejects rejects [] [] [2]",
            ]
        );
    }
}
