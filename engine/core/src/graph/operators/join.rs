//! Join: whether the two sides of a `join` fit together, and what it gives. Derived.

use tidemill_operators::join::Kind;
use tidemill_operators::{Column, Schema};

use crate::diagnostic::{Mistakes, quoted};
use crate::graph::flow::Stream;
use crate::graph::operators::column::{article, column_names, every};
use crate::graph::{Join, OperatorKind};
use crate::spec::{JoinSpec, OperatorSpec, Text};

/// Returns what a `join` does and the stream of its port.
pub(super) fn check(
    operator: &OperatorSpec,
    spec: &JoinSpec,
    left: &Stream,
    right: &Stream,
    mistakes: &mut Mistakes<'_>,
) -> (Option<OperatorKind>, Stream) {
    let join = match (&left.schema, &right.schema) {
        (Some(left), Some(right)) => joined(operator, spec, left, right, mistakes),
        _ => None,
    };
    let schema = join.as_ref().zip(left.schema.as_ref()).map(|(join, left)| {
        let taken = join.take.iter().map(|(column, _)| column.clone());
        Schema::new(left.columns().iter().cloned().chain(taken).collect())
    });
    // A row of an earlier file comes, goes or changes when the other side does.
    let changed_by = Some(operator.name.text.clone());
    // A row without a partner goes when one comes.
    let only_comes = matches!(spec.kind, Kind::Inner | Kind::Semi);
    let append_only = only_comes && left.append_only && right.append_only;
    let has_place = left.has_place;
    (join.map(OperatorKind::Join), Stream { schema, changed_by, has_place, append_only })
}

fn joined(
    operator: &OperatorSpec,
    spec: &JoinSpec,
    left: &Schema,
    right: &Schema,
    mistakes: &mut Mistakes<'_>,
) -> Option<Join> {
    let on = every(&spec.on, |pair| equal(pair, left, right, mistakes));
    let take = match (&spec.take, spec.kind) {
        (_, Kind::Semi | Kind::Anti) => Some(Vec::new()),
        (Some(take), _) => every(take, |pair| taken(pair, left, right, mistakes)),
        // Which columns are all but the keys is known once the keys are.
        (None, _) if on.is_none() => None,
        (None, _) => all_of(operator, spec, left, right, mistakes),
    };
    let (on, take) = (on?, take?);
    let is_key = |name: &str| on.iter().any(|(key, _)| key.name == name);
    let others = left.columns().iter().filter(|column| !is_key(&column.name));
    Some(Join {
        lefts: operator.from.as_ref().map_or(0, Vec::len),
        kind: spec.kind,
        left: others.cloned().collect(),
        on,
        take,
        place: false,
        raw: false,
        rows_max: spec.rows_max,
    })
}

/// Checks two columns that must be equal.
fn equal(
    (one, other): &(Text, Text),
    left: &Schema,
    right: &Schema,
    mistakes: &mut Mistakes<'_>,
) -> Option<(Column, String)> {
    let found = side(one, left, "left", mistakes);
    let there = side(other, right, "right", mistakes);
    let (found, there) = (found?, there?);
    if found.kind != there.kind {
        let message = format!(
            "{} is {} on the left and {} is {} on the right: they are never equal",
            quoted(&one.text),
            article(found.kind),
            quoted(&other.text),
            article(there.kind)
        );
        let hint = format!(
            "make them alike before, for example with a `select` that holds `{}: CAST({} AS {})`",
            other.text, other.text, found.kind
        );
        other.wrong(mistakes, message, hint);
        return None;
    }
    Some((found.clone(), other.text.clone()))
}

/// Returns a column of one side, or notes that it is not there.
fn side<'s>(
    name: &Text,
    schema: &'s Schema,
    which: &str,
    mistakes: &mut Mistakes<'_>,
) -> Option<&'s Column> {
    let found = schema.column(&name.text);
    if found.is_none() {
        let message = format!("there is no column {} on the {which} side", quoted(&name.text));
        let hint = mistakes.nearest_hint(&name.text, column_names(schema), "its columns are");
        name.wrong(mistakes, message, hint);
    }
    found
}

/// Checks a column that is taken from the right.
fn taken(
    (name, column): &(Text, Text),
    left: &Schema,
    right: &Schema,
    mistakes: &mut Mistakes<'_>,
) -> Option<(Column, String)> {
    let found = side(column, right, "right", mistakes)?;
    if left.column(&name.text).is_some() {
        let message = format!("{} is a column of the left side already", quoted(&name.text));
        let hint = format!(
            "give it another name: `take: {{ {}: {} }}`",
            other_name(&name.text, left, right),
            column.text
        );
        name.wrong(mistakes, message, hint);
        return None;
    }
    Some((Column::new(&name.text, found.kind), column.text.clone()))
}

/// Returns all columns of the right side that are not joined on.
fn all_of(
    operator: &OperatorSpec,
    spec: &JoinSpec,
    left: &Schema,
    right: &Schema,
    mistakes: &mut Mistakes<'_>,
) -> Option<Vec<(Column, String)>> {
    let is_key = |name: &str| spec.on.iter().any(|(_, right)| right.text == name);
    let others: Vec<&Column> =
        right.columns().iter().filter(|column| !is_key(&column.name)).collect();
    let twice: Vec<&str> = others
        .iter()
        .map(|column| column.name.as_str())
        .filter(|name| left.column(name).is_some())
        .collect();
    if twice.is_empty() {
        return Some(others.into_iter().map(|one| (one.clone(), one.name.clone())).collect());
    }
    let names = crate::diagnostic::listed(twice.iter().copied());
    let verb = if twice.len() == 1 { "is a column" } else { "are columns" };
    let message = format!("{names} {verb} of both sides of {}", quoted(&operator.name.text));
    let item = |column: &&Column| {
        if twice.contains(&column.name.as_str()) {
            format!("{}: {}", other_name(&column.name, left, right), column.name)
        } else {
            format!("{}: {}", column.name, column.name)
        }
    };
    const SHOWN_MAX: usize = 8;
    let hint = if others.len() <= SHOWN_MAX {
        let take: Vec<String> = others.iter().map(item).collect();
        format!("say what is taken from the right: `take: {{ {} }}`", take.join(", "))
    } else {
        "say what is taken from the right, by new names: `take: { new_name: column }`".to_owned()
    };
    spec.take_at.wrong(mistakes, message, hint);
    None
}

/// Returns a name that neither side has.
fn other_name(name: &str, left: &Schema, right: &Schema) -> String {
    let mut other = format!("right_{name}");
    while left.column(&other).is_some() || right.column(&other).is_some() {
        other.push('_');
    }
    other
}
