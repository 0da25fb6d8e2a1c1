//! Parse: columns out of a text column, by the named groups of a regular expression.
//!
//! | input  | batches                                                               |
//! | output | tag 0: the input columns and one per named group, NULL where a group took no part; tag 1: rows that do not match, as they came |
//! | state  | none                                                                  |
//! | errors | a row that does not match, when nothing reads tag 1; a row one of whose groups does not have its type |
//!
//! NULL does not match.

use std::sync::Arc;

use arrow_array::builder::{
    BooleanBuilder, Decimal128Builder, Float64Builder, Int64Builder, StringViewBuilder,
    TimestampMicrosecondBuilder,
};
use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, BooleanArray, RecordBatch, RecordBatchOptions};
use regex::{CaptureLocations, Regex};

use crate::batch::{Batch, Shape};
use crate::decimal::Decimal;
use crate::flow::{Emit, Stateless};
use crate::format::value;
use crate::reject::RejectCode;
use crate::types::{Column, Type};

/// The tag of rows that match.
pub const MATCHED: usize = 0;
/// The tag of rows that do not.
pub const UNMATCHED: usize = 1;

/// Takes a text column apart.
pub struct Parse {
    column: String,
    regex: Regex,
    captures: Vec<(Column, usize)>,
    matched: Shape,
    unmatched: Option<Shape>,
    locations: CaptureLocations,
}

impl Parse {
    /// Returns an operator that writes each group, by its number in `regex`, into its column.
    /// Without a shape for them, rows that do not match are rejected.
    pub fn new(
        column: String,
        regex: Regex,
        captures: Vec<(Column, usize)>,
        matched: Shape,
        unmatched: Option<Shape>,
    ) -> Self {
        let locations = regex.capture_locations();
        Self { column, regex, captures, matched, unmatched, locations }
    }
}

impl Stateless for Parse {
    fn apply(&mut self, batch: Batch, emit: &mut Emit) {
        let text = batch
            .columns
            .column_by_name(&self.column)
            .expect("the plan carries every column that is read")
            .as_string_view()
            .clone();
        let captures = &self.captures;
        let mut builders: Vec<Builder> =
            captures.iter().map(|(column, _)| Builder::new(column.kind, batch.len())).collect();
        let mut matches = Vec::with_capacity(batch.len());
        let mut good = Vec::with_capacity(batch.len());
        for row in 0..batch.len() {
            let line = if text.is_null(row) { None } else { Some(text.value(row)) };
            let found =
                line.filter(|line| self.regex.captures_read(&mut self.locations, line).is_some());
            let mut problem = None;
            for ((column, group), builder) in captures.iter().zip(&mut builders) {
                let captured = found.and_then(|line| {
                    self.locations.get(*group).map(|(start, end)| &line[start..end])
                });
                if let Err(expected) = builder.push(captured) {
                    problem.get_or_insert_with(|| {
                        let text = captured.unwrap_or_default();
                        format!("group {}: expected {expected}, found {text:?}", column.name)
                    });
                }
            }
            matches.push(found.is_some());
            good.push(found.is_some() && problem.is_none());
            if let Some(reason) = problem {
                emit.reject(&batch, row, RejectCode::FieldType, reason);
            } else if found.is_none() && self.unmatched.is_none() {
                let reason = format!("column {} does not match the pattern", self.column);
                emit.reject(&batch, row, RejectCode::NoMatch, reason);
            }
        }
        if let Some(shape) = &self.unmatched {
            let rest: BooleanArray = matches.iter().map(|matched| Some(!matched)).collect();
            emit.give(UNMATCHED, batch.project(shape).filter(&rest));
        }
        let built: Vec<(&str, ArrayRef)> = captures
            .iter()
            .zip(builders)
            .map(|((column, _), builder)| (column.name.as_str(), builder.finish()))
            .collect();
        let array = |column: &Column| {
            let built = built.iter().find(|(name, _)| *name == column.name);
            built.map(|(_, array)| Arc::clone(array)).unwrap_or_else(|| {
                let there = batch.columns.column_by_name(&column.name);
                Arc::clone(there.expect("the plan carries every column that is read"))
            })
        };
        let arrays = self.matched.schema.columns().iter().map(array).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(batch.len()));
        let columns =
            RecordBatch::try_new_with_options(self.matched.schema.arrow(), arrays, &options)
                .expect("each column was built with its type and the length of the batch");
        let parsed = Batch {
            columns,
            raw: batch.raw.filter(|_| self.matched.raw),
            positions: batch.positions.filter(|_| self.matched.positions),
            diff: batch.diff,
            origin: batch.origin,
        };
        emit.give(MATCHED, parsed.filter(&BooleanArray::from(good)));
    }
}

/// Builds one column of captured text.
enum Builder {
    String(StringViewBuilder),
    Int(Int64Builder),
    Float(Float64Builder),
    Bool(BooleanBuilder),
    Timestamp(TimestampMicrosecondBuilder),
    Decimal(Decimal, Decimal128Builder),
}

impl Builder {
    fn new(kind: Type, rows: usize) -> Self {
        match kind {
            Type::String => Builder::String(StringViewBuilder::with_capacity(rows)),
            Type::Int => Builder::Int(Int64Builder::with_capacity(rows)),
            Type::Float => Builder::Float(Float64Builder::with_capacity(rows)),
            Type::Bool => Builder::Bool(BooleanBuilder::with_capacity(rows)),
            Type::Timestamp => Builder::Timestamp(
                TimestampMicrosecondBuilder::with_capacity(rows).with_timezone("UTC"),
            ),
            Type::Decimal(digits) => {
                let builder = Decimal128Builder::with_capacity(rows);
                Builder::Decimal(digits, builder.with_data_type(kind.arrow()))
            }
        }
    }

    /// Appends one value, or NULL and the type that was expected.
    fn push(&mut self, text: Option<&str>) -> Result<(), Type> {
        fn put<V>(
            text: Option<&str>,
            kind: Type,
            read: impl Fn(&str) -> Option<V>,
            mut append: impl FnMut(Option<V>),
        ) -> Result<(), Type> {
            let value = text.map(read);
            let failed = matches!(value, Some(None));
            append(value.flatten());
            if failed { Err(kind) } else { Ok(()) }
        }
        match self {
            Builder::String(builder) => {
                builder.append_option(text);
                Ok(())
            }
            Builder::Int(to) => put(text, Type::Int, value::int, |v| to.append_option(v)),
            Builder::Float(to) => put(text, Type::Float, value::float, |v| to.append_option(v)),
            Builder::Bool(to) => put(text, Type::Bool, value::bool, |v| to.append_option(v)),
            Builder::Timestamp(to) => {
                put(text, Type::Timestamp, value::timestamp, |v| to.append_option(v))
            }
            Builder::Decimal(digits, to) => {
                let read = |text: &str| value::decimal(text, *digits);
                put(text, Type::Decimal(*digits), read, |v| to.append_option(v))
            }
        }
    }

    fn finish(self) -> ArrayRef {
        match self {
            Builder::String(mut builder) => Arc::new(builder.finish()),
            Builder::Int(mut builder) => Arc::new(builder.finish()),
            Builder::Float(mut builder) => Arc::new(builder.finish()),
            Builder::Bool(mut builder) => Arc::new(builder.finish()),
            Builder::Timestamp(mut builder) => Arc::new(builder.finish()),
            Builder::Decimal(_, mut builder) => Arc::new(builder.finish()),
        }
    }
}
