//! Value: one cell of a result row, and the way back from cells to columns.

use std::fmt;
use std::sync::Arc;

use arrow_array::ArrayRef;
use arrow_array::builder::{
    BooleanBuilder, Decimal128Builder, Float64Builder, Int64Builder, StringViewBuilder,
    TimestampMicrosecondBuilder,
};
use chrono::{DateTime, SecondsFormat};

use crate::decimal;
use crate::types::Type;

/// One cell.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// No value.
    Null,
    /// Text.
    String(String),
    /// An integer.
    Int(i64),
    /// A float.
    Float(f64),
    /// True or false.
    Bool(bool),
    /// An instant, in microseconds since 1970 in UTC.
    Timestamp(i64),
    /// An exact number.
    Decimal {
        /// The number in units of its scale.
        units: i128,
        /// How many digits it has behind the point.
        scale: u8,
    },
}

impl Value {
    /// Returns whether writing one cell or the other gives the same bytes: two NaNs do, and no
    /// float equals another because of a sign of zero.
    pub fn is_same(&self, other: &Value) -> bool {
        match (self, other) {
            (Value::Float(one), Value::Float(two)) => one.to_bits() == two.to_bits(),
            (one, two) => one == two,
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Null => out.write_str("NULL"),
            Value::String(text) => out.write_str(text),
            Value::Int(value) => write!(out, "{value}"),
            Value::Float(value) => write!(out, "{value}"),
            Value::Bool(value) => write!(out, "{value}"),
            Value::Timestamp(micros) => match DateTime::from_timestamp_micros(*micros) {
                Some(time) => out.write_str(&time.to_rfc3339_opts(SecondsFormat::AutoSi, true)),
                None => write!(out, "{micros}us"),
            },
            Value::Decimal { units, scale } => out.write_str(&decimal::text(*units, *scale)),
        }
    }
}

/// Builds one column out of cells.
pub(crate) enum ColumnBuilder {
    String(StringViewBuilder),
    Int(Int64Builder),
    Float(Float64Builder),
    Bool(BooleanBuilder),
    Timestamp(TimestampMicrosecondBuilder),
    Decimal(Decimal128Builder),
}

impl ColumnBuilder {
    /// Returns a builder with room for so many rows: the changes of a small file are few, and a
    /// standard builder would take 8 KiB for each column of each.
    pub(crate) fn new(kind: Type, rows: usize) -> Self {
        match kind {
            Type::String => Self::String(StringViewBuilder::with_capacity(rows)),
            Type::Int => Self::Int(Int64Builder::with_capacity(rows)),
            Type::Float => Self::Float(Float64Builder::with_capacity(rows)),
            Type::Bool => Self::Bool(BooleanBuilder::with_capacity(rows)),
            Type::Timestamp => Self::Timestamp(
                TimestampMicrosecondBuilder::with_capacity(rows)
                    .with_data_type(Type::Timestamp.arrow()),
            ),
            Type::Decimal(_) => {
                Self::Decimal(Decimal128Builder::with_capacity(rows).with_data_type(kind.arrow()))
            }
        }
    }

    /// Appends a cell; one of another type than the column's becomes NULL.
    pub(crate) fn push(&mut self, value: &Value) {
        match (self, value) {
            (Self::String(builder), Value::String(text)) => builder.append_value(text),
            (Self::Int(builder), Value::Int(value)) => builder.append_value(*value),
            (Self::Float(builder), Value::Float(value)) => builder.append_value(*value),
            (Self::Bool(builder), Value::Bool(value)) => builder.append_value(*value),
            (Self::Timestamp(builder), Value::Timestamp(value)) => builder.append_value(*value),
            (Self::Decimal(builder), Value::Decimal { units, .. }) => builder.append_value(*units),
            (Self::String(builder), _) => builder.append_null(),
            (Self::Int(builder), _) => builder.append_null(),
            (Self::Float(builder), _) => builder.append_null(),
            (Self::Bool(builder), _) => builder.append_null(),
            (Self::Timestamp(builder), _) => builder.append_null(),
            (Self::Decimal(builder), _) => builder.append_null(),
        }
    }

    /// Appends a text; a column of another type gets NULL.
    pub(crate) fn push_text(&mut self, text: &str) {
        match self {
            Self::String(builder) => builder.append_value(text),
            other => other.push(&Value::Null),
        }
    }

    pub(crate) fn finish(self) -> ArrayRef {
        match self {
            Self::String(mut builder) => Arc::new(builder.finish()),
            Self::Int(mut builder) => Arc::new(builder.finish()),
            Self::Float(mut builder) => Arc::new(builder.finish()),
            Self::Bool(mut builder) => Arc::new(builder.finish()),
            Self::Timestamp(mut builder) => Arc::new(builder.finish()),
            Self::Decimal(mut builder) => Arc::new(builder.finish()),
        }
    }
}
