//! Window: whether a `window` fits what arrives, and what it gives. Derived.

use tidemill_operators::expr::Expr;
use tidemill_operators::keyed::{Arrival, Direction, Nulls};
use tidemill_operators::window::{END, START, Windows};
use tidemill_operators::{Column, Schema, Type};

use crate::diagnostic::{Mistakes, quoted};
use crate::graph::flow::Stream;
use crate::graph::operators::column::{article, every, expression, named};
use crate::graph::{OperatorKind, OrderTerm, OrderedRows};
use crate::spec::{NamedSpec, OperatorSpec, Text};

/// Returns what a `window` does and the stream of its port.
pub(super) fn check(
    operator: &OperatorSpec,
    on: &Text,
    windows: Windows,
    input: &Stream,
    mistakes: &mut Mistakes<'_>,
) -> (Option<OperatorKind>, Stream) {
    let checked = input.schema.as_ref().and_then(|schema| {
        let on = instant(on, schema, mistakes);
        Some((on?, with_bounds(operator, schema, mistakes)?))
    });
    let schema = checked.as_ref().map(|(_, schema)| schema.clone());
    let kind = checked.map(|(on, _)| OperatorKind::Window { on, windows });
    (kind, Stream { schema, ..input.clone() })
}

/// Returns what a `window` of sessions does and the stream of its port.
pub(super) fn session(
    operator: &OperatorSpec,
    on: &Text,
    gap_us: i64,
    by: &[NamedSpec],
    input: &Stream,
    mistakes: &mut Mistakes<'_>,
) -> (Option<OperatorKind>, Stream) {
    let checked = input.schema.as_ref().and_then(|schema| {
        let by = every(by, |column| named(column, schema, mistakes));
        let value = instant(on, schema, mistakes);
        let schema_behind = with_bounds(operator, schema, mistakes);
        let (direction, nulls) = (Direction::Ascending, Nulls::First);
        let rows = OrderedRows {
            by: by?,
            order: vec![OrderTerm { value: value?, direction, nulls }],
            keep: Arrival::First,
            has_place: input.has_place,
            columns: schema.columns().to_vec(),
            raw: false,
            only_first: false,
        };
        Some((OperatorKind::Session { rows, gap_us }, schema_behind?))
    });
    let schema = checked.as_ref().map(|(_, schema)| schema.clone());
    let changed_by = Some(operator.name.text.clone());
    // A late record joins two sessions: theirs are taken back and given with the new bounds.
    let append_only = false;
    (checked.map(|(kind, _)| kind), Stream { schema, changed_by, append_only, ..input.clone() })
}

/// Compiles an expression that is an event time.
pub(super) fn instant(text: &Text, schema: &Schema, mistakes: &mut Mistakes<'_>) -> Option<Expr> {
    let value = expression(text, schema, mistakes)?;
    if value.kind() == Type::Timestamp {
        return Some(value);
    }
    let message = format!("an event time is a timestamp; this is {}", article(value.kind()));
    let hint = match value.kind() {
        Type::String => format!("`CAST({} AS timestamp)`, or declare the field so", text.text),
        Type::Int | Type::Float => format!("`to_timestamp({})` takes seconds", text.text),
        _ => "name the column that holds the time".to_owned(),
    };
    text.wrong(mistakes, message, (text.text.len() < 40).then_some(hint));
    None
}

/// Returns the columns with those of the window behind them.
pub(super) fn with_bounds(
    operator: &OperatorSpec,
    schema: &Schema,
    mistakes: &mut Mistakes<'_>,
) -> Option<Schema> {
    let mut columns = schema.columns().to_vec();
    for name in [START, END] {
        if schema.column(name).is_some() {
            let message = format!("{} would be there twice", quoted(name));
            let hint = "rename it with a `select` before the `window`".to_owned();
            operator.name.wrong(mistakes, message, hint);
            return None;
        }
        columns.push(Column::new(name, Type::Timestamp));
    }
    Some(Schema::new(columns))
}
