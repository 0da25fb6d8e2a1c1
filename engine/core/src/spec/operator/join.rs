//! Join: what a `join` says, as written. Derived.

use tidemill_operators::join::Kind;

use crate::diagnostic::Mistakes;
use crate::spec::operator::BodySpec;
use crate::spec::read::{self, Entries, Text};
use crate::spec::tree::{Node, Value};

/// A join as written.
#[derive(Debug)]
pub(crate) struct JoinSpec {
    /// The right side.
    pub(crate) with: Vec<Text>,
    /// The columns that must be equal: left, right.
    pub(crate) on: Vec<(Text, Text)>,
    pub(crate) kind: Kind,
    /// The name of each column that is taken from the right, and which one it is; `None`: all.
    pub(crate) take: Option<Vec<(Text, Text)>>,
    /// Where `take` stands, else where the join does.
    pub(crate) take_at: Text,
    /// How many rows one file may make it give, or take back, of one key.
    pub(crate) rows_max: u32,
}

/// How many rows that are, if nothing is said.
pub(crate) const ROWS_MAX_DEFAULT: u32 = 100_000_000;

/// Reads the body of a `join`.
pub(super) fn read(node: Node, mistakes: &mut Mistakes<'_>) -> Option<BodySpec> {
    let here = Text { text: String::new(), place: node.owner, path: node.path.clone() };
    let mut entries = Entries::open(node, "`join`", mistakes)?;
    let with = entries.require("with", mistakes);
    let on = entries.require("on", mistakes);
    let kind = entries.take("kind");
    let take = entries.take("take");
    let rows_max = entries.take("max_rows");
    entries.finish(mistakes);
    let with = with.and_then(|node| with_of(node, mistakes));
    let owner_of =
        |node: &Node| Text { text: String::new(), place: node.owner, path: node.path.clone() };
    let on = on.and_then(|node| on_of(node, mistakes));
    let kind = match kind {
        Some(node) => read::choice(node, "`kind`", &Kind::WORDS, mistakes),
        None => Some(Kind::Inner),
    };
    let take_at = take.as_ref().map_or(here, owner_of);
    let take = match take {
        Some(node) => Some(pairs(node, "`take`", mistakes)?),
        None => None,
    };
    let rows_max = match rows_max {
        Some(node) => read::number(node, "`max_rows`", (1, u32::MAX), mistakes),
        None => Some(ROWS_MAX_DEFAULT),
    };
    if let (Some(kind @ (Kind::Semi | Kind::Anti)), Some(_)) = (kind, &take) {
        let message =
            format!("`take` does not fit a {} join, which gives left columns only", kind.word());
        let hint = "leave it out, or make it `kind: inner` or `left`".to_owned();
        take_at.wrong(mistakes, message, hint);
        return None;
    }
    let (with, on, kind, rows_max) = (with?, on?, kind?, rows_max?);
    Some(BodySpec::Join(JoinSpec { with, on, kind, take, take_at, rows_max }))
}

/// Reads `with`: a port or a list of ports.
fn with_of(node: Node, mistakes: &mut Mistakes<'_>) -> Option<Vec<Text>> {
    let (owner, path) = (node.owner, node.path.clone());
    let with = read::texts(node, "`with`", mistakes)?;
    if with.is_empty() {
        mistakes.add(owner, &path, "`with` is an empty list: nothing to join with", None);
        return None;
    }
    read::check_once(&with, mistakes);
    Some(with)
}

/// Reads `on`: `[id]` or `{left: right}`.
fn on_of(node: Node, mistakes: &mut Mistakes<'_>) -> Option<Vec<(Text, Text)>> {
    let (owner, path) = (node.owner, node.path.clone());
    let on = pairs(node, "`on`", mistakes)?;
    if on.is_empty() {
        let hint = "name the columns that must be equal on both sides: `on: [id]`".to_owned();
        mistakes.add(owner, &path, "`on` names no column: every row would meet every row", hint);
        return None;
    }
    Some(on)
}

/// Reads `[column, {name: column}]`, `{name: column}` or one column: the name and the column it
/// stands for, which are the same in a list.
fn pairs(node: Node, what: &str, mistakes: &mut Mistakes<'_>) -> Option<Vec<(Text, Text)>> {
    let pairs = match node.value {
        Value::List(items) => {
            let mut pairs = Vec::with_capacity(items.len());
            for item in items {
                if matches!(item.value, Value::Map(_)) {
                    pairs.extend(pair_map(item, what, mistakes)?);
                } else {
                    let name = read::text(item, "a column", mistakes)?;
                    pairs.push((name.clone(), name));
                }
            }
            pairs
        }
        Value::Scalar(text) => {
            let name = Text { text, place: node.place, path: node.path };
            vec![(name.clone(), name)]
        }
        _ => pair_map(node, what, mistakes)?,
    };
    read::check_once(pairs.iter().map(|(name, _)| name), mistakes);
    Some(pairs)
}

fn pair_map(node: Node, what: &str, mistakes: &mut Mistakes<'_>) -> Option<Vec<(Text, Text)>> {
    let mut pairs = Vec::new();
    for (key, node) in read::map(node, what, mistakes)? {
        let name = read::column_name(&key, &node.path, mistakes);
        pairs.push((name, read::text(node, "a column", mistakes)?));
    }
    Some(pairs)
}
