//! Cells: columns of a batch as cells, and cells as people read them. Derived; owns no rows.

use arrow_array::cast::AsArray;
use arrow_array::types::{Decimal128Type, Float64Type, Int64Type, TimestampMicrosecondType};
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_schema::DataType;

use crate::engine::tables::Cell;

/// The longest part of a text that is shown, in characters.
const SHOWN_MAX: usize = 200;

/// Returns one cell. Every column of ours has one of our types; another one has no cells.
pub(super) fn cell(column: &ArrayRef, row: usize) -> Cell {
    if column.is_null(row) {
        return Cell::Null;
    }
    match column.data_type() {
        DataType::Utf8View => Cell::String(column.as_string_view().value(row).to_owned()),
        DataType::Int64 => Cell::Int(column.as_primitive::<Int64Type>().value(row)),
        DataType::Float64 => Cell::Float(column.as_primitive::<Float64Type>().value(row)),
        DataType::Boolean => Cell::Bool(column.as_boolean().value(row)),
        DataType::Timestamp(..) => {
            Cell::Timestamp(column.as_primitive::<TimestampMicrosecondType>().value(row))
        }
        DataType::Decimal128(_, scale) => Cell::Decimal {
            units: column.as_primitive::<Decimal128Type>().value(row),
            scale: scale.unsigned_abs(),
        },
        _ => Cell::Null,
    }
}

/// Returns a row with the names of its columns.
pub(super) fn named_row(columns: &RecordBatch, row: usize) -> Vec<(String, Cell)> {
    let schema = columns.schema_ref();
    let names = schema.fields().iter().map(|field| field.name().clone());
    names.zip(columns.columns().iter().map(|column| cell(column, row))).collect()
}

/// Returns a cell as people read it: texts between quotes, so that an empty one, a blank at its end
/// and `NULL` can be told apart. Control characters are escaped.
pub(super) fn shown(cell: &Cell) -> String {
    match cell {
        Cell::String(text) => quoted(text),
        other => other.to_string(),
    }
}

/// Returns a line as people read it: as it stands, control characters escaped, cut where it is too long.
pub(super) fn shown_line(cell: &Cell) -> String {
    let text = cell.to_string();
    let shown = text.chars().take(SHOWN_MAX).map(|character| match character {
        '\t' => "\t".to_owned(),
        control if control.is_control() => control.escape_default().to_string(),
        other => other.to_string(),
    });
    let end = if text.chars().nth(SHOWN_MAX).is_some() { "..." } else { "" };
    shown.collect::<String>() + end
}

/// Returns a text between quotes, cut where it is too long to be shown.
pub(super) fn quoted(text: &str) -> String {
    match text.char_indices().nth(SHOWN_MAX) {
        Some((end, _)) => format!("{:?}...", &text[..end]),
        None => format!("{text:?}"),
    }
}
