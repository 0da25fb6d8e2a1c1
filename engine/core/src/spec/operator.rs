//! Operator: what an operator reads and does, as written. Derived.

use tidemill_operators::Type;
use tidemill_operators::explode::List;
use tidemill_operators::keyed::Arrival;
use tidemill_operators::reject::OnError;
use tidemill_operators::window::Windows;

use crate::diagnostic::Mistakes;
use crate::spec::contract::{self, PolicySpec};
use crate::spec::operator::beside::Beside;
use crate::spec::operator::state::StateSpec;
use crate::spec::read::{self, Entries, Text};
use crate::spec::tree::{Node, Value};

mod aggregate;
mod beside;
mod explode;
mod join;
mod lots;
mod ordered;
mod parse;
mod route;
pub(crate) mod state;
mod window;

pub(crate) use join::{JoinSpec, ROWS_MAX_DEFAULT};
pub(crate) use lots::LotsSpec;

/// The kinds of operators, by the key that holds what they do.
pub(crate) const KINDS: [&str; 15] = [
    "filter",
    "select",
    "route",
    "parse",
    "aggregate",
    "window",
    "explode",
    "dedupe",
    "top",
    "join",
    "state",
    "split",
    "sample",
    "weighted",
    "expect",
];

/// How many rounds a loop may have.
const MAX_ROUNDS: u32 = 1_000;

/// An operator as written.
#[derive(Debug)]
pub(crate) struct OperatorSpec {
    pub(crate) name: Text,
    /// `None` when it could not be read.
    pub(crate) from: Option<Vec<Text>>,
    /// `None` when it could not be read.
    pub(crate) body: Option<BodySpec>,
    /// The tags that are not wanted.
    pub(crate) drop: Vec<Text>,
    pub(crate) policy: PolicySpec,
    /// How often a record goes round at most: makes it the head of a loop.
    pub(crate) max_rounds: Option<(Text, u32)>,
}

/// What an operator does, as written.
#[derive(Debug)]
pub(crate) enum BodySpec {
    Filter(Text),
    Select(Vec<NamedSpec>),
    Route { rules: Vec<(Text, Text)>, otherwise: Option<Text>, all: bool },
    Parse { column: Text, regex: Text, fields: Vec<(Text, Type)> },
    Aggregate { by: Vec<NamedSpec>, compute: Vec<(Text, Text)>, per_file: bool },
    Dedupe { by: Vec<NamedSpec>, keep: Arrival, order: Vec<Text> },
    Top { count: u32, by: Vec<NamedSpec>, order: Vec<Text>, rank: Option<Text> },
    Window { on: Text, windows: Windows },
    Explode { column: Text, list: List, element: Option<Text> },
    Session { on: Text, gap_us: i64, by: Vec<NamedSpec> },
    State(Box<StateSpec>),
    Join(JoinSpec),
    Lots(LotsSpec),
    Expect(Vec<(Text, OnError)>),
}

impl OperatorSpec {
    /// Returns all that it reads, `from` first; `None` when not all of it could be read.
    pub(crate) fn reads(&self) -> Option<Vec<&Text>> {
        let from = self.from.as_ref()?.iter();
        Some(from.chain(self.with()).collect())
    }

    /// Returns what it reads besides `from`.
    pub(crate) fn with(&self) -> &[Text] {
        match &self.body {
            Some(BodySpec::Join(join)) => &join.with,
            _ => &[],
        }
    }
}

/// A column and how it is computed.
#[derive(Debug)]
pub(crate) struct NamedSpec {
    pub(crate) name: Text,
    pub(crate) expression: ExprSpec,
}

/// How a column is computed.
#[derive(Debug)]
pub(crate) enum ExprSpec {
    /// It is the column of that name.
    Column,
    /// By an SQL expression.
    Sql(Text),
}

/// Reads an operator.
pub(super) fn parse(name: Text, node: Node, mistakes: &mut Mistakes<'_>) -> OperatorSpec {
    let Some(mut entries) = Entries::open(node, "an operator", mistakes) else {
        let (drop, policy) = (Vec::new(), PolicySpec::default());
        return OperatorSpec { name, from: None, body: None, drop, policy, max_rounds: None };
    };
    let from = from(&mut entries, mistakes);
    let mut bodies = Vec::new();
    for kind in KINDS {
        if let Some(node) = entries.take(kind) {
            bodies.push((kind, node));
        }
    }
    let policy = contract::policy(&mut entries, mistakes);
    let max_rounds = max_rounds(&mut entries, mistakes);
    let kind = bodies.first().map(|(kind, _)| *kind);
    let mut beside = Beside::take(&mut entries, kind, mistakes);
    if bodies.is_empty() && entries.rest().next().is_none() {
        let hint = format!("say what it does, with one of {}", crate::diagnostic::listed(KINDS));
        entries.wrong(mistakes, "an operator needs a kind".to_owned(), Some(hint));
    }
    if let [(first, _), (second, node), ..] = bodies.as_slice() {
        let message = format!("an operator has one kind; this one has `{first}` and `{second}`");
        let hint = "make two operators, the second one `from` the first".to_owned();
        mistakes.add(node.owner, &node.path, message, hint);
        bodies.clear();
    }
    entries.finish(mistakes);
    let drop = std::mem::take(&mut beside.drop);
    let body = bodies.pop().and_then(|(kind, node)| match kind {
        "filter" => read::text(node, "`filter`", mistakes).map(BodySpec::Filter),
        "select" => select(node, mistakes),
        "route" => route::read(node, beside, mistakes),
        "parse" => parse::read(node, mistakes),
        "dedupe" => ordered::dedupe(node, mistakes),
        "top" => ordered::top(node, mistakes),
        "window" => window::read(node, mistakes),
        "explode" => explode::read(node, mistakes),
        "state" => state::read(node, mistakes),
        "join" => join::read(node, mistakes),
        "expect" => contract::expect(node, mistakes).map(BodySpec::Expect),
        "split" => lots::split(node, mistakes),
        "sample" => lots::sample(node, mistakes),
        "weighted" => lots::weighted(node, beside, mistakes),
        _ => aggregate::read(node, mistakes),
    });
    OperatorSpec { name, from, body, drop, policy, max_rounds }
}

/// Reads `max_rounds`.
fn max_rounds(entries: &mut Entries, mistakes: &mut Mistakes<'_>) -> Option<(Text, u32)> {
    let node = entries.take("max_rounds")?;
    let text = Text { text: "max_rounds".to_owned(), place: node.owner, path: node.path.clone() };
    let rounds = read::number(node, "`max_rounds`", (1, MAX_ROUNDS), mistakes);
    // One that is wrong makes a loop still: then that is the only mistake.
    Some((text, rounds.unwrap_or(1)))
}

/// Reads `from`: a port or a list of ports.
pub(super) fn from(entries: &mut Entries, mistakes: &mut Mistakes<'_>) -> Option<Vec<Text>> {
    let node = entries.require("from", mistakes)?;
    let (owner, path) = (node.owner, node.path.clone());
    let from = read::texts(node, "`from`", mistakes)?;
    if from.is_empty() {
        mistakes.add(owner, &path, "`from` is an empty list: nothing would arrive", None);
        return None;
    }
    read::check_once(&from, mistakes);
    Some(from)
}

fn select(node: Node, mistakes: &mut Mistakes<'_>) -> Option<BodySpec> {
    let (owner, path) = (node.owner, node.path.clone());
    let columns = named(node, "`select`", mistakes)?;
    if columns.is_empty() {
        mistakes.add(owner, &path, "`select` names no column", None);
        return None;
    }
    Some(BodySpec::Select(columns))
}

/// Reads `{name: EXPR}` or `[column, {name: EXPR}]`.
fn named(node: Node, what: &str, mistakes: &mut Mistakes<'_>) -> Option<Vec<NamedSpec>> {
    let named = match node.value {
        Value::List(items) => {
            let mut named = Vec::with_capacity(items.len());
            for item in items {
                if matches!(item.value, Value::Map(_)) {
                    named.extend(named_map(item, what, mistakes)?);
                } else {
                    let name = read::text(item, "a column", mistakes)?;
                    named.push(NamedSpec { name, expression: ExprSpec::Column });
                }
            }
            named
        }
        Value::Scalar(text) => {
            let name = Text { text, place: node.place, path: node.path };
            vec![NamedSpec { name, expression: ExprSpec::Column }]
        }
        _ => named_map(node, what, mistakes)?,
    };
    read::check_once(named.iter().map(|column| &column.name), mistakes);
    Some(named)
}

fn named_map(node: Node, what: &str, mistakes: &mut Mistakes<'_>) -> Option<Vec<NamedSpec>> {
    let computed = computed(node, what, mistakes)?;
    let with = |(name, sql)| NamedSpec { name, expression: ExprSpec::Sql(sql) };
    Some(computed.into_iter().map(with).collect())
}

fn computed(node: Node, what: &str, mistakes: &mut Mistakes<'_>) -> Option<Vec<(Text, Text)>> {
    let mut all = Some(Vec::new());
    for (key, node) in read::map(node, what, mistakes)? {
        let name = read::column_name(&key, &node.path, mistakes);
        match (read::text(node, "an expression", mistakes), &mut all) {
            (Some(sql), Some(columns)) => columns.push((name, sql)),
            _ => all = None,
        }
    }
    all
}
