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
    /// Keeps records by key; what it gives out are the rows that changed, not records of the file.
    Keyed,
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
            Role::Keyed => "keyed",
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
    /// The nodes of which it reads all that they reject and report.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors_of: Vec<usize>,
    /// The nodes of which it reads the rejected records, and not what they report.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rejected_of: Vec<usize>,
    /// The nodes of which it reads what they report, and not the rejected records.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub told_of: Vec<usize>,
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

/// One number of a law and what it is: `3 out of by.low`.
#[derive(Clone, Copy)]
struct Term<'a> {
    count: u64,
    word: &'static str,
    node: &'a str,
    tag: &'a str,
}

impl<'a> Term<'a> {
    fn of(count: u64, word: &'static str) -> Self {
        Self { count, word, node: "", tag: "" }
    }

    fn at(self, node: &'a str, tag: &'a str) -> Self {
        Self { node, tag, ..self }
    }

    /// Returns nothing for a number that is not worth a word.
    fn some(self) -> Option<Self> {
        (self.count > 0).then_some(self)
    }
}

/// Checks one law. Its words are put together only if it is broken: this runs for every file.
fn equal<'a>(
    of: (&str, &str),
    one: impl Iterator<Item = Term<'a>> + Clone,
    other: impl Iterator<Item = Term<'a>> + Clone,
) -> Result<(), Imbalance> {
    let sum = |sum: u64, term: Term<'_>| sum.saturating_add(term.count);
    let (one_count, other_count) = (one.clone().fold(0, sum), other.clone().fold(0, sum));
    if one_count == other_count {
        return Ok(());
    }
    let gap = if of.1.is_empty() { "" } else { " " };
    let one = format!("{}{gap}{}: {}", of.0, of.1, words(one));
    Err(Imbalance { one, one_count, other: words(other), other_count })
}

fn words<'a>(terms: impl Iterator<Item = Term<'a>>) -> String {
    let mut text = String::new();
    for Term { count, word, node, tag } in terms {
        let and = if text.is_empty() { "" } else { " + " };
        let before_node = if node.is_empty() { "" } else { " " };
        let before_tag = match (node, tag) {
            (_, "") => "",
            ("", _) => " ",
            _ => ".",
        };
        // Writing to a string cannot fail.
        let _ = write!(text, "{and}{count} {word}{before_node}{node}{before_tag}{tag}");
    }
    if text.is_empty() { "nothing".to_owned() } else { text }
}

impl Book {
    /// Checks every law that a receipt must obey. `records` and `rejected` are those of the file, as
    /// its readers and the outcome tell them.
    pub fn check(&self, receipt: &Receipt, records: u64, rejected: u64) -> Result<(), Imbalance> {
        let counts = &receipt.counts;
        equal(
            ("the receipt", ""),
            std::iter::once(Term::of(self.nodes.len() as u64, "nodes in the pipeline")),
            std::iter::once(Term::of(counts.len() as u64, "nodes counted")),
        )?;
        for (node, count) in self.nodes.iter().zip(counts) {
            check_node(node, count)?;
            self.check_edges(node, count, counts)?;
        }
        let inner = self.nodes.iter().zip(counts).filter(|(node, _)| !node.role.is_sink());
        let sources = inner.clone().filter(|(node, _)| node.role == Role::Source);
        equal(
            ("the file", ""),
            std::iter::once(Term::of(records, "records read")),
            sources.map(|(node, count)| Term::of(count.taken, "taken by").at(&node.name, "")),
        )?;
        equal(
            ("the file", ""),
            std::iter::once(Term::of(rejected, "records rejected")),
            inner.filter_map(|(node, count)| refused(node, count).some()),
        )
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
        let fed = node.inputs.iter().map(|(from, port)| {
            let given = counts.get(*from).and_then(|count| count.given.get(*port)).copied();
            let out = Term::of(given.unwrap_or(0), "out of");
            let Some(from) = self.nodes.get(*from) else { return out.at("?", "") };
            out.at(&from.name, from.tags.get(*port).map_or("?", String::as_str))
        });
        let of = |from: &usize, term: for<'a> fn(&'a Node, &NodeCounts) -> Term<'a>| match self
            .nodes
            .get(*from)
            .zip(counts.get(*from))
        {
            Some((node, count)) => term(node, count),
            None => Term::of(0, "rejected by").at("?", ""),
        };
        let errors = (node.errors_of.iter().map(|from| of(from, refused)))
            .chain(node.rejected_of.iter().map(|from| of(from, rejected)))
            .chain(node.told_of.iter().map(|from| of(from, reported)));
        equal(
            (node.role.word(), &node.name),
            std::iter::once(Term::of(count.taken, word)),
            fed.chain(errors),
        )
    }
}

/// What a node took in, it gave out, left out, rejected or merged.
fn check_node(node: &Node, count: &NodeCounts) -> Result<(), Imbalance> {
    if node.role.is_sink() {
        return Ok(());
    }
    let merges = matches!(node.role, Role::Aggregate | Role::Keyed);
    let given = count.given.iter().enumerate().filter(|_| !merges).map(|(at, given)| {
        Term::of(*given, "out").at("", node.tags.get(at).map_or("?", String::as_str))
    });
    let merged = merges.then_some(Term::of(count.merged, "merged"));
    let filtered = Term::of(count.filtered, "filtered").some();
    let rejected = Term::of(count.rejected, "rejected");
    equal(
        (node.role.word(), &node.name),
        std::iter::once(Term::of(count.taken, "in")).chain(Term::of(count.copies, "copies").some()),
        given.chain(merged).chain(filtered).chain(std::iter::once(rejected)),
    )
}

/// What a node sent to its port for errors.
fn refused<'a>(node: &'a Node, count: &NodeCounts) -> Term<'a> {
    let both = count.rejected.saturating_add(count.reported);
    Term::of(both, "rejected by").at(&node.name, "")
}

/// What of it is records.
fn rejected<'a>(node: &'a Node, count: &NodeCounts) -> Term<'a> {
    Term::of(count.rejected, "rejected by").at(&node.name, "")
}

/// What of it is told of keys.
fn reported<'a>(node: &'a Node, count: &NodeCounts) -> Term<'a> {
    Term::of(count.reported, "reported by").at(&node.name, "")
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
