//! Operator: what an operator reads and does, as written. Derived.

use tidemill_operators::Type;

use crate::diagnostic::Mistakes;
use crate::spec::read::{self, Entries, Text};
use crate::spec::source;
use crate::spec::tree::{Node, Value};

/// The kinds of operators, by the key that holds what they do.
pub(crate) const KINDS: [&str; 5] = ["filter", "select", "route", "parse", "aggregate"];

/// An operator as written.
#[derive(Debug)]
pub(crate) struct OperatorSpec {
    pub(crate) name: Text,
    /// `None` when it could not be read.
    pub(crate) from: Option<Vec<Text>>,
    /// `None` when it could not be read.
    pub(crate) body: Option<BodySpec>,
}

/// What an operator does, as written.
#[derive(Debug)]
pub(crate) enum BodySpec {
    Filter(Text),
    Select(Vec<NamedSpec>),
    Route { rules: Vec<(Text, Text)>, otherwise: Option<Text>, all: bool, drop: Vec<Text> },
    Parse { column: Text, regex: Text, fields: Vec<(Text, Type)> },
    Aggregate { by: Vec<NamedSpec>, compute: Vec<(Text, Text)> },
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
        return OperatorSpec { name, from: None, body: None };
    };
    let from = from(&mut entries, mistakes);
    let mut bodies = Vec::new();
    for kind in KINDS {
        if let Some(node) = entries.take(kind) {
            bodies.push((kind, node));
        }
    }
    let route = bodies.iter().any(|(kind, _)| *kind == "route");
    let beside = RouteBeside::take(&mut entries, route, mistakes);
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
    let body = bodies.pop().and_then(|(kind, node)| match kind {
        "filter" => read::text(node, "`filter`", mistakes).map(BodySpec::Filter),
        "select" => select(node, mistakes),
        "route" => parse_route(node, beside, mistakes),
        "parse" => parse_parse(node, mistakes),
        _ => aggregate(node, mistakes),
    });
    OperatorSpec { name, from, body }
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

/// The keys that may stand beside `route`.
struct RouteBeside {
    all: bool,
    drop: Vec<Text>,
}

impl RouteBeside {
    fn take(entries: &mut Entries, route: bool, mistakes: &mut Mistakes<'_>) -> Self {
        let mut beside = Self { all: false, drop: Vec::new() };
        if !route {
            for name in ["match", "drop"] {
                if entries.rest().any(|key| key.name == name)
                    && let Some(node) = entries.take(name)
                {
                    let message = format!("`{name}` belongs to `route`");
                    mistakes.add(node.owner, &node.path, message, None);
                }
            }
            return beside;
        }
        if let Some(node) = entries.take("match") {
            let words = [("first", false), ("all", true)];
            beside.all = read::choice(node, "`match`", &words, mistakes).unwrap_or_default();
        }
        if let Some(node) = entries.take("drop") {
            beside.drop = read::texts(node, "`drop`", mistakes).unwrap_or_default();
            read::check_once(&beside.drop, mistakes);
        }
        beside
    }
}

fn parse_route(node: Node, beside: RouteBeside, mistakes: &mut Mistakes<'_>) -> Option<BodySpec> {
    let (owner, path) = (node.owner, node.path.clone());
    let entries = read::map(node, "`route`", mistakes)?;
    let written = entries.len();
    let mut rules = Vec::with_capacity(written);
    let mut otherwise: Option<Text> = None;
    for (key, node) in entries {
        let tag = read::name(&key, &node.path, "a tag", mistakes);
        if tag.text == "errors" {
            let message = "the tag `errors` is always there and holds the rejected records";
            tag.wrong(mistakes, message, Some("choose another name".to_owned()));
        }
        // A rule that cannot be read still makes its tag.
        let place = node.owner;
        let rule_path = node.path.clone();
        let rule = read::text(node, "a rule", mistakes).unwrap_or_else(|| Text {
            text: "true".to_owned(),
            place,
            path: rule_path,
        });
        if let Some(first) = &otherwise {
            let message = format!("no rule can follow `{}: else`", first.text);
            tag.wrong(mistakes, message, Some("put `else` last".to_owned()));
        } else if rule.text.eq_ignore_ascii_case("else") {
            otherwise = Some(tag);
        } else {
            rules.push((tag, rule));
        }
    }
    if written == 0 || (written == 1 && otherwise.is_some()) {
        let hint = "for example `route: { failed: status >= 500, ok: else }`".to_owned();
        mistakes.add(owner, &path, "`route` has no condition", hint);
    }
    Some(BodySpec::Route { rules, otherwise, all: beside.all, drop: beside.drop })
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

fn parse_parse(node: Node, mistakes: &mut Mistakes<'_>) -> Option<BodySpec> {
    let mut entries = Entries::open(node, "`parse`", mistakes)?;
    let column = entries.require("column", mistakes);
    let regex = entries.require("regex", mistakes);
    let fields = entries.take("fields");
    entries.finish(mistakes);
    let mut kinds = Some(Vec::new());
    if let Some(node) = fields {
        for (key, node) in read::map(node, "`fields`", mistakes)? {
            let name = read::column_name(&key, &node.path, mistakes);
            match (source::kind(node, mistakes), &mut kinds) {
                (Some(kind), Some(kinds)) => kinds.push((name, kind)),
                _ => kinds = None,
            }
        }
    }
    let column = column.and_then(|node| read::text(node, "`column`", mistakes));
    let regex = regex.and_then(|node| read::text(node, "`regex`", mistakes));
    Some(BodySpec::Parse { column: column?, regex: regex?, fields: kinds? })
}

fn aggregate(node: Node, mistakes: &mut Mistakes<'_>) -> Option<BodySpec> {
    let mut entries = Entries::open(node, "`aggregate`", mistakes)?;
    let by = entries.require("by", mistakes);
    let compute = entries.require("compute", mistakes);
    entries.finish(mistakes);
    let by = by.and_then(|node| named(node, "`by`", mistakes));
    let compute_at = compute.as_ref().map(|node| (node.owner, node.path.clone()));
    let compute = compute.and_then(|node| computed(node, "`compute`", mistakes));
    if let (Some([]), Some((owner, path))) = (compute.as_deref(), compute_at) {
        let hint = "for example `compute: { hits: count(*) }`".to_owned();
        mistakes.add(owner, &path, "`compute` computes nothing", hint);
        return None;
    }
    let (by, compute) = (by?, compute?);
    for (name, _) in &compute {
        if by.iter().any(|column| column.name.text == name.text) {
            name.wrong(mistakes, format!("`{}` stands in `by` already", name.text), None);
        }
    }
    Some(BodySpec::Aggregate { by, compute })
}
