//! Seen: what a test can see of an output: its columns, whether it has lines, whether its order counts;
//! and cells as its columns read them. Derived from the plan.

use tidemill_operators::format::{OutputFormat, TableFormat, value};
use tidemill_operators::{Column, Schema, Type};

use super::{Order, Target};
use crate::diagnostic::{Mistakes, quoted};
use crate::engine::tables::Cell;
use crate::plan::{Plan, SinkKind, error_schema};
use crate::sink::changes;
use crate::spec::tree::{Node, Value};

/// The column of sinks that write records as they came.
const LINE: &str = "line";

/// What can be seen of an output.
pub(super) struct Seen {
    /// Its columns; the one column of lines for records as they came.
    pub(super) schema: Schema,
    /// Whether it is records as they came.
    pub(super) is_raw: bool,
    /// Whether it is a parquet file.
    pub(super) is_parquet: bool,
    /// Whether it is a table without rows.
    pub(super) is_kept_nowhere: bool,
    /// Whether the order of rows counts, if nothing is said.
    pub(super) order: Order,
}

impl Seen {
    pub(super) fn of(plan: &Plan, target: Target) -> Self {
        let (Target::Sink(at) | Target::Changes(at)) = target;
        let seen = |schema: Schema, order: Order| Self {
            schema,
            is_raw: false,
            is_parquet: false,
            is_kept_nowhere: false,
            order,
        };
        match (&plan.sinks[at].kind, target) {
            (SinkKind::Rejects, _) => seen(error_schema(), Order::Unordered),
            (SinkKind::Files { format: OutputFormat::Raw, .. }, _) => {
                let line = Schema::new(vec![Column::new(LINE, Type::String)]);
                Self { is_raw: true, ..seen(line, Order::Exact) }
            }
            (SinkKind::Files { schema, .. }, _) => seen(schema.clone(), Order::Exact),
            (SinkKind::Table { schema, .. }, Target::Changes(_)) => {
                let own = [changes::EPOCH, changes::DIFF].map(|name| Column::new(name, Type::Int));
                let all = own.into_iter().chain(schema.columns().iter().cloned());
                seen(Schema::new(all.collect()), Order::Exact)
            }
            (SinkKind::Table { schema, format, .. }, Target::Sink(_)) => Self {
                is_parquet: *format == Some(TableFormat::Parquet),
                is_kept_nowhere: format.is_none(),
                ..seen(schema.clone(), Order::Unordered)
            },
        }
    }
}

/// Reads a cell as its column is.
pub(super) fn cell(node: Node, column: &Column, mistakes: &mut Mistakes<'_>) -> Option<Cell> {
    let text = match node.value {
        Value::Null => return Some(Cell::Null),
        Value::Scalar(text) => text,
        other => {
            let message = format!("a value is a single value, not {}", other.what());
            mistakes.add(node.place, &node.path, message, None);
            return None;
        }
    };
    let read = match column.kind {
        Type::String => Some(Cell::String(text.clone())),
        Type::Int => value::int(&text).map(Cell::Int),
        Type::Float => value::float(&text).map(Cell::Float),
        Type::Bool => value::bool(&text).map(Cell::Bool),
        Type::Timestamp => value::timestamp(&text).map(Cell::Timestamp),
        Type::Decimal(digits) => value::decimal(&text, digits)
            .map(|units| Cell::Decimal { units, scale: digits.scale() }),
    };
    if read.is_none() {
        let message =
            format!("{} is a {}, not {}", quoted(&column.name), column.kind, quoted(&text));
        mistakes.add(node.place, &node.path, message, None);
    }
    read
}
