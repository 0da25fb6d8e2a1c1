//! Receipt: where every record of a committed file went, and the laws that make it balance.
//!
//! Pure values and sums; the journal keeps them ([`crate::Journal`]). What a node is and what it
//! reads stands once in a [`Book`]; a [`Receipt`] holds only the counts of one file, in the order of
//! the book. Never repairs: a receipt that does not balance is a broken invariant.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

/// What a node of a pipeline is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Reads files.
    Source,
    /// Takes records in and gives records out.
    Operator,
    /// Adds records up; what it gives out are the rows that changed, not records of the file.
    Aggregate,
    /// Writes records to files.
    Files,
    /// Keeps records as the rows of a table.
    Table,
    /// Writes rejected records to files.
    Rejects,
}

impl Role {
    /// Returns the word that people and programs see.
    pub const fn word(self) -> &'static str {
        match self {
            Role::Source => "source",
            Role::Operator => "operator",
            Role::Aggregate => "aggregate",
            Role::Files => "files",
            Role::Table => "table",
            Role::Rejects => "rejects",
        }
    }

    /// Returns whether records leave the pipeline here.
    pub const fn is_sink(self) -> bool {
        matches!(self, Role::Files | Role::Table | Role::Rejects)
    }
}

/// One node of a pipeline, as far as a receipt needs it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its name in the pipeline file.
    pub name: String,
    /// What it is.
    pub role: Role,
    /// What kind: `source jsonl`, `route`, `sink files`.
    pub kind: String,
    /// The names of its output ports; the only one is called ``.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// What feeds it: a node, by its place in the book, and its port.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inputs: Vec<(usize, usize)>,
    /// The nodes whose rejected records it reads.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors_of: Vec<usize>,
}

/// The nodes of a pipeline: what the counts of a receipt stand for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Book {
    /// Sources, then operators, then sinks.
    pub nodes: Vec<Node>,
}

/// What one node did with the records of one file, over all workers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeCounts {
    /// Taken in: by a source, records found in the file; by a sink, records delivered.
    pub taken: u64,
    /// Given out, by tag. One that leaves by two tags counts in both.
    pub given: Vec<u64>,
    /// Left out on purpose: a condition was not true, no rule took it, nothing reads its tag.
    pub filtered: u64,
    /// Rejected, each with a reason.
    pub rejected: u64,
    /// Added to the state of an aggregate.
    pub merged: u64,
    /// How often a record left once more than once.
    pub copies: u64,
    /// Troubles told of what is no record of the file.
    pub reported: u64,
}

/// Where every record of one committed file went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Receipt {
    /// When its last piece had been read, in microseconds since 1970.
    pub read_at_us: i64,
    /// What each node did, in the order of the book.
    pub counts: Vec<NodeCounts>,
}

/// A receipt that does not balance: records were lost, doubled or made up. Both sides are named.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{one} = {one_count}, but {other} = {other_count}")]
pub struct Imbalance {
    /// One side of the law.
    pub one: String,
    /// Its sum.
    pub one_count: u64,
    /// The other side.
    pub other: String,
    /// Its sum.
    pub other_count: u64,
}

/// A sum that says of what it is: `12 out + 3 filtered`.
#[derive(Default)]
struct Side {
    text: String,
    sum: u64,
}

impl Side {
    fn plus(mut self, count: u64, what: &str) -> Self {
        let and = if self.text.is_empty() { "" } else { " + " };
        // Writing to a string cannot fail.
        let _ = write!(self.text, "{and}{count} {what}");
        self.sum = self.sum.saturating_add(count);
        self
    }
}

fn equal(of: &str, one: Side, other: Side) -> Result<(), Imbalance> {
    if one.sum == other.sum {
        return Ok(());
    }
    Err(Imbalance {
        one: format!("{of}: {}", one.text),
        one_count: one.sum,
        other: other.text,
        other_count: other.sum,
    })
}

impl Book {
    /// Checks every law that a receipt must obey. `records` and `rejected` are those of the file, as
    /// its readers and the outcome tell them.
    pub fn check(&self, receipt: &Receipt, records: u64, rejected: u64) -> Result<(), Imbalance> {
        let counts = &receipt.counts;
        let lengths = (Side::default(), Side::default());
        equal(
            "the receipt",
            lengths.0.plus(self.nodes.len() as u64, "nodes in the pipeline"),
            lengths.1.plus(counts.len() as u64, "nodes counted"),
        )?;
        let mut found = Side::default();
        let mut refused = Side::default();
        for (node, count) in self.nodes.iter().zip(counts) {
            self.check_node(node, count)?;
            self.check_edges(node, count, counts)?;
            if node.role == Role::Source {
                found = found.plus(count.taken, &format!("taken by {}", node.name));
            }
            if !node.role.is_sink() && count.rejected + count.reported > 0 {
                let both = count.rejected.saturating_add(count.reported);
                refused = refused.plus(both, &format!("rejected by {}", node.name));
            }
        }
        equal("the file", Side::default().plus(records, "records read"), found)?;
        equal("the file", Side::default().plus(rejected, "records rejected"), refused)
    }

    /// What a node took in, it gave out, left out, rejected or merged.
    fn check_node(&self, node: &Node, count: &NodeCounts) -> Result<(), Imbalance> {
        if node.role.is_sink() {
            return Ok(());
        }
        let mut took = Side::default().plus(count.taken, "in");
        if count.copies > 0 {
            took = took.plus(count.copies, "copies");
        }
        let mut went = Side::default();
        if node.role == Role::Aggregate {
            went = went.plus(count.merged, "merged");
        } else {
            for (at, given) in count.given.iter().enumerate() {
                let tag = node.tags.get(at).map_or("", String::as_str);
                went = went
                    .plus(*given, &format!("out{}{tag}", if tag.is_empty() { "" } else { " " }));
            }
        }
        if count.filtered > 0 {
            went = went.plus(count.filtered, "filtered");
        }
        went = went.plus(count.rejected, "rejected");
        equal(&format!("{} {}", node.role.word(), node.name), took, went)
    }

    /// What a node took in is what the ports that feed it gave out.
    fn check_edges(
        &self,
        node: &Node,
        count: &NodeCounts,
        counts: &[NodeCounts],
    ) -> Result<(), Imbalance> {
        if node.role == Role::Source {
            return Ok(());
        }
        let word = if node.role.is_sink() { "delivered" } else { "in" };
        let took = Side::default().plus(count.taken, word);
        let mut fed = Side::default();
        let nothing = NodeCounts::default();
        let name = |at: usize| self.nodes.get(at).map_or("?", |node| node.name.as_str());
        for (from, port) in &node.inputs {
            let given = counts.get(*from).unwrap_or(&nothing).given.get(*port).copied();
            let tag = self.nodes.get(*from).and_then(|node| node.tags.get(*port));
            let dot = tag.filter(|tag| !tag.is_empty()).map(|tag| format!(".{tag}"));
            let out = format!("out of {}{}", name(*from), dot.unwrap_or_default());
            fed = fed.plus(given.unwrap_or(0), &out);
        }
        for from in &node.errors_of {
            let of = counts.get(*from).unwrap_or(&nothing);
            let both = of.rejected.saturating_add(of.reported);
            fed = fed.plus(both, &format!("rejected by {}", name(*from)));
        }
        equal(&format!("{} {}", node.role.word(), node.name), took, fed)
    }
}

impl Receipt {
    /// Returns the counts as the journal keeps them: a JSON array with, for each node,
    /// `[in, [out by tag], filtered, rejected, merged, copies, reported]`, zeros at the end left out.
    pub(crate) fn text(&self) -> String {
        let mut text = String::with_capacity(16 * self.counts.len() + 2);
        text.push('[');
        for (at, count) in self.counts.iter().enumerate() {
            let rest = [count.filtered, count.rejected, count.merged, count.copies, count.reported];
            let kept = rest.iter().rposition(|one| *one > 0).map_or(0, |last| last + 1);
            let given = count.given.iter().rposition(|one| *one > 0).map_or(0, |last| last + 1);
            // Writing to a string cannot fail.
            let _ = write!(text, "{}[{}", if at > 0 { "," } else { "" }, count.taken);
            if given > 0 || kept > 0 {
                text.push_str(",[");
                for (at, one) in count.given.iter().take(given).enumerate() {
                    let _ = write!(text, "{}{one}", if at > 0 { "," } else { "" });
                }
                text.push(']');
            }
            for one in rest.iter().take(kept) {
                let _ = write!(text, ",{one}");
            }
            text.push(']');
        }
        text.push(']');
        text
    }

    /// Reads what [`Receipt::text`] wrote; `None` if it cannot be that.
    pub(crate) fn parse(read_at_us: i64, text: &str, book: &Book) -> Option<Receipt> {
        let rows: Vec<Vec<serde_json::Value>> = serde_json::from_str(text).ok()?;
        let mut counts = Vec::with_capacity(rows.len());
        for (row, node) in rows.iter().zip(&book.nodes) {
            let number = |at: usize| match row.get(at) {
                None => Some(0),
                Some(value) => value.as_u64(),
            };
            let mut given: Vec<u64> = match row.get(1) {
                None => Vec::new(),
                Some(value) => value
                    .as_array()?
                    .iter()
                    .map(serde_json::Value::as_u64)
                    .collect::<Option<_>>()?,
            };
            given.resize(node.tags.len().max(given.len()), 0);
            counts.push(NodeCounts {
                taken: number(0)?,
                given,
                filtered: number(2)?,
                rejected: number(3)?,
                merged: number(4)?,
                copies: number(5)?,
                reported: number(6)?,
            });
        }
        (rows.len() == counts.len()).then_some(Receipt { read_at_us, counts })
    }
}

#[cfg(test)]
mod tests;
