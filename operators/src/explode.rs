//! Explode: a row for each element of a list that stands in a text column.
//!
//! | input  | batches                                                                              |
//! | output | one tag: the row once for each element, in the order of the list                      |
//! | state  | none                                                                                  |
//! | errors | text that is no JSON array, where one is wanted; a list of more than a million elements |
//!
//! NULL, an empty text and an empty array have no elements: such a row is left out and counted as
//! filtered. Linear: a row that is taken back takes back what it gave.

use std::borrow::Cow;
use std::sync::Arc;

use arrow_array::builder::StringViewBuilder;
use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, RecordBatch, RecordBatchOptions, UInt32Array};
use serde_json::value::RawValue;

use crate::batch::{Batch, Shape};
use crate::flow::{Emit, Stateless};
use crate::reject::RejectCode;
use crate::types::Column;

/// How many elements a list may have.
pub const ELEMENTS_MAX: usize = 1_000_000;
/// About how many rows are given out as one batch.
const ROWS_PER_BATCH: usize = 64 * 1024;

/// How a list stands in a text.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum List {
    /// Its elements stand between separators; they are taken as they are, blanks too.
    Split(String),
    /// It is a JSON array. Texts lose their quotes, `null` is NULL, all else stays as it is written.
    Json,
}

/// Takes lists apart.
pub struct Explode {
    column: String,
    list: List,
    element: String,
    shape: Shape,
}

impl Explode {
    /// Returns an operator that takes the lists in `column` apart and gives batches of `shape`, the
    /// elements in the column `element`, which may be the same.
    pub fn new(column: String, list: List, element: String, shape: Shape) -> Self {
        Self { column, list, element, shape }
    }

    /// Gives out rows, each with an element.
    fn give(&self, batch: &Batch, rows: Vec<u32>, elements: ArrayRef, emit: &mut Emit) {
        let rows = UInt32Array::from(rows);
        let old = Shape {
            schema: self.shape.schema.project(|name| name != self.element),
            raw: self.shape.raw,
            positions: self.shape.positions,
        };
        let picked = batch.project(&old).take(&rows);
        let array = |column: &Column| -> ArrayRef {
            if column.name == self.element {
                return Arc::clone(&elements);
            }
            let there = picked.columns.column_by_name(&column.name);
            Arc::clone(there.expect("the plan carries every column that is read"))
        };
        let arrays = self.shape.schema.columns().iter().map(array).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
        let columns =
            RecordBatch::try_new_with_options(self.shape.schema.arrow(), arrays, &options)
                .expect("each column has its type and as many rows");
        emit.give(0, Batch { columns, ..picked });
    }
}

/// Returns the elements of a list, or why it has none that could be told.
fn elements<'t>(
    text: &'t str,
    list: &List,
) -> Result<Vec<Option<Cow<'t, str>>>, (RejectCode, String)> {
    let too_many = |count: usize| {
        let reason = format!("a list of {count} elements; at most {ELEMENTS_MAX} are taken apart");
        (RejectCode::TooLong, reason)
    };
    match list {
        List::Split(_) if text.is_empty() => Ok(Vec::new()),
        List::Split(separator) => {
            let count = 1 + memchr::memmem::find_iter(text.as_bytes(), separator).count();
            if count > ELEMENTS_MAX {
                return Err(too_many(count));
            }
            Ok(text.split(separator.as_str()).map(|element| Some(Cow::Borrowed(element))).collect())
        }
        List::Json if text.trim_ascii().is_empty() => Ok(Vec::new()),
        List::Json => {
            let wrong = |error: serde_json::Error| {
                let reason = format!("not a JSON array: {}", without_line(&error.to_string()));
                (RejectCode::Syntax, reason)
            };
            let read: Vec<&RawValue> = serde_json::from_str(text).map_err(wrong)?;
            if read.len() > ELEMENTS_MAX {
                return Err(too_many(read.len()));
            }
            let element = |value: &'t RawValue| match value.get() {
                "null" => Ok(None),
                quoted if quoted.starts_with('"') => {
                    serde_json::from_str(quoted).map(|text: String| Some(Cow::Owned(text)))
                }
                other => Ok(Some(Cow::Borrowed(other))),
            };
            read.into_iter().map(element).collect::<Result<_, _>>().map_err(wrong)
        }
    }
}

/// A column has one line: only the place in it is told.
fn without_line(message: &str) -> String {
    message.replace(" at line 1 column ", " at character ")
}

impl Stateless for Explode {
    fn apply(&mut self, batch: Batch, emit: &mut Emit) {
        let text = batch
            .columns
            .column_by_name(&self.column)
            .expect("the plan carries every column that is read")
            .as_string_view()
            .clone();
        let (mut rows, mut built) = (Vec::new(), StringViewBuilder::new());
        for row in 0..batch.len() {
            if text.is_null(row) {
                emit.filter_out(1);
                continue;
            }
            let found = match elements(text.value(row), &self.list) {
                Ok(found) => found,
                Err((code, reason)) => {
                    let reason = format!("column {}: {reason}", self.column);
                    emit.reject(&batch, row, code, reason);
                    continue;
                }
            };
            match found.len() {
                0 => emit.filter_out(1),
                count => emit.copy(count - 1),
            }
            for element in found {
                rows.push(row as u32);
                built.append_option(element);
                if rows.len() >= ROWS_PER_BATCH {
                    let elements = Arc::new(std::mem::take(&mut built).finish());
                    self.give(&batch, std::mem::take(&mut rows), elements, emit);
                }
            }
        }
        self.give(&batch, rows, Arc::new(built.finish()), emit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(list: &List, text: &str, expected: &[&str]) {
        let found = elements(text, list).map_err(|(code, reason)| format!("{code}: {reason}"));
        let shown: Vec<String> = match found {
            Ok(found) => found
                .into_iter()
                .map(|element| element.map_or("NULL".to_owned(), Cow::into_owned))
                .collect(),
            Err(reason) => vec![reason],
        };
        assert_eq!(shown, expected, "{text}");
    }

    #[test]
    fn a_text_falls_apart_at_its_separators() {
        let check = |separator: &str, text: &str, expected: &[&str]| {
            check(&List::Split(separator.to_owned()), text, expected);
        };
        check(",", "a,b", &["a", "b"]);
        check(",", "a", &["a"]);
        check(",", "", &[]);
        check(",", ",", &["", ""]);
        check(",", " a , b", &[" a ", " b"]);
        check("::", "a:b::c", &["a:b", "c"]);
        check("é", "1é2", &["1", "2"]);
    }

    #[test]
    fn a_json_array_falls_apart_into_its_elements() {
        let check = |text: &str, expected: &[&str]| check(&List::Json, text, expected);
        check(r#"["a", "b\n"]"#, &["a", "b\n"]);
        check(
            r#" [1, 2.50, true, null, {"x": [1]}] "#,
            &["1", "2.50", "true", "NULL", r#"{"x": [1]}"#],
        );
        check("[]", &[]);
        check("", &[]);
        check("[1,", &["syntax: not a JSON array: EOF while parsing a value at character 3"]);
        check(
            "5",
            &[
                "syntax: not a JSON array: invalid type: integer `5`, expected a sequence at character 1",
            ],
        );
        check("[18446744073709551616]", &["18446744073709551616"]);
    }

    #[test]
    fn a_list_has_a_bound() {
        let text = ",".repeat(ELEMENTS_MAX);
        let (code, reason) = elements(&text, &List::Split(",".into())).expect_err("it is too long");
        assert_eq!(
            (code, reason.as_str()),
            (RejectCode::TooLong, "a list of 1000001 elements; at most 1000000 are taken apart",)
        );
    }
}
