//! Cells: the cells of a table's rows as text, JSON and csv, written as the table's own files have them.

use chrono::{DateTime, SecondsFormat};
use serde_json::Value;
use tidemill_client::{Cell, Column};

use crate::human;

/// Returns a cell for people; what could write to the terminal is escaped.
pub(crate) fn text(cell: &Cell) -> String {
    match cell {
        Cell::Null => "NULL".to_owned(),
        Cell::Text(text) => human::name(text),
        other => plain(other),
    }
}

/// Returns a row as the text of an object: a decimal is a number of all its digits, more than a value of
/// JSON in memory would keep.
pub(crate) fn json(columns: &[Column], cells: &[Cell]) -> String {
    let pairs = columns.iter().zip(cells);
    let members = pairs.map(|(column, cell)| {
        let name = Value::from(column.name.as_str());
        match cell {
            Cell::Decimal(digits) => format!("{name}:{digits}"),
            cell => format!("{name}:{}", json_cell(cell)),
        }
    });
    format!("{{{}}}", members.collect::<Vec<_>>().join(","))
}

fn json_cell(cell: &Cell) -> Value {
    match cell {
        Cell::Null => Value::Null,
        Cell::Text(text) => text.as_str().into(),
        Cell::Int(value) => (*value).into(),
        // NULL for what is not a number: JSON cannot write it.
        Cell::Float(value) => (*value).into(),
        Cell::Flag(value) => (*value).into(),
        Cell::Timestamp(_) | Cell::Decimal(_) => plain(cell).into(),
    }
}

/// Returns a line of csv.
pub(crate) fn csv<'c>(cells: impl Iterator<Item = &'c Cell>) -> String {
    let mut line = String::new();
    let mut first = true;
    for cell in cells {
        if !std::mem::take(&mut first) {
            line.push(',');
        }
        match cell {
            Cell::Null => {}
            // Quoted, so that it is not taken for NULL.
            Cell::Text(text) if text.is_empty() => line.push_str("\"\""),
            Cell::Text(text) => line.push_str(&csv_text(text)),
            Cell::Float(value) if !value.is_finite() => {}
            other => line.push_str(&plain(other)),
        }
    }
    // A line of one NULL would be blank, which readers skip.
    if line.is_empty() {
        line.push_str("\"\"");
    }
    line.push('\n');
    line
}

/// Returns a text as it stands in csv.
pub(crate) fn csv_text(text: &str) -> String {
    match text.contains(['"', ',', '\n', '\r']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text.to_owned(),
    }
}

fn plain(cell: &Cell) -> String {
    match cell {
        Cell::Null => String::new(),
        Cell::Text(text) | Cell::Decimal(text) => text.clone(),
        Cell::Int(value) => value.to_string(),
        Cell::Float(value) => format!("{value:?}"),
        Cell::Flag(value) => value.to_string(),
        Cell::Timestamp(micros) => match DateTime::from_timestamp_micros(*micros) {
            Some(time) => time.to_rfc3339_opts(SecondsFormat::AutoSi, true),
            None => format!("{micros}us"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_csv_can_be_read_back() {
        let check = |cells: &[Cell], expected: &str| assert_eq!(csv(cells.iter()), expected);
        let text = |text: &str| Cell::Text(text.to_owned());
        check(&[text("a"), Cell::Int(-3), Cell::Null], "a,-3,\n");
        check(&[text("a,\"b\""), text("")], "\"a,\"\"b\"\"\",\"\"\n");
        check(&[Cell::Null], "\"\"\n");
        check(&[Cell::Float(1.0), Cell::Float(f64::NAN)], "1.0,\n");
        check(&[Cell::Flag(true), Cell::Timestamp(1_500_000)], "true,1970-01-01T00:00:01.500Z\n");
    }

    #[test]
    fn a_decimal_keeps_its_digits() {
        let column = |name: &str| Column { name: name.to_owned(), kind: String::new() };
        let cells = [Cell::Decimal("12345678901234567890.10".into()), Cell::Int(1), Cell::Null];
        let columns = [column("a \"b\""), column("i"), column("n")];
        let expected = r#"{"a \"b\"":12345678901234567890.10,"i":1,"n":null}"#;
        assert_eq!(json(&columns, &cells), expected);
        assert_eq!(csv(cells.iter()), "12345678901234567890.10,1,\n");
    }

    #[test]
    fn a_cell_cannot_write_to_the_terminal() {
        assert_eq!(text(&Cell::Text("a\u{1b}[31m".into())), "a\\u{1b}[31m");
    }
}
