//! Types: what a column can hold, and the named columns of a stream.
//!
//! Each [`Type`] has exactly one Arrow array behind it, so an operator never asks which string or
//! integer encoding it was given.

use std::fmt;
use std::sync::Arc;

use arrow_schema::{DataType, Field, SchemaRef, TimeUnit};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::decimal::Decimal;

/// What a column can hold. Every column may also hold NULL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Type {
    /// UTF-8 text; a `StringViewArray`.
    String,
    /// A 64-bit signed integer; an `Int64Array`.
    Int,
    /// A 64-bit IEEE float; a `Float64Array`.
    Float,
    /// True or false; a `BooleanArray`.
    Bool,
    /// An instant in UTC with microsecond precision; a `TimestampMicrosecondArray` of zone `UTC`.
    Timestamp,
    /// An exact number with so many digits; a `Decimal128Array` of them.
    Decimal(Decimal),
}

impl Type {
    /// All types, in the order in which they are explained to users; of decimals the plain one.
    pub const ALL: [Type; 6] = [
        Type::String,
        Type::Int,
        Type::Float,
        Type::Bool,
        Type::Timestamp,
        Type::Decimal(Decimal::PLAIN),
    ];

    /// Returns the word for it in a pipeline file, of a decimal without its digits.
    pub const fn name(self) -> &'static str {
        match self {
            Type::String => "string",
            Type::Int => "int",
            Type::Float => "float",
            Type::Bool => "bool",
            Type::Timestamp => "timestamp",
            Type::Decimal(_) => "decimal",
        }
    }

    /// Returns the type that is written so in a pipeline file, if there is one.
    pub fn from_name(name: &str) -> Option<Self> {
        let known = Self::ALL.into_iter().find(|kind| kind.name() == name);
        known.or_else(|| Decimal::from_name(name).map(Type::Decimal))
    }

    /// Returns the one Arrow type that stands for this type.
    pub fn arrow(self) -> DataType {
        match self {
            Type::String => DataType::Utf8View,
            Type::Int => DataType::Int64,
            Type::Float => DataType::Float64,
            Type::Bool => DataType::Boolean,
            Type::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            // At most 38: it fits.
            Type::Decimal(digits) => DataType::Decimal128(digits.precision(), digits.scale() as i8),
        }
    }
}

impl fmt::Display for Type {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Type::Decimal(digits) => digits.fmt(out),
            other => out.write_str(other.name()),
        }
    }
}

// As it is written in a pipeline file.
impl Serialize for Type {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Type {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        Self::from_name(&name).ok_or_else(|| de::Error::custom(format!("no type {name:?}")))
    }
}

/// One named column.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Column {
    /// The name that expressions and outputs use.
    pub name: String,
    /// What it holds.
    pub kind: Type,
}

impl Column {
    /// Returns a column of this name and type.
    pub fn new(name: impl Into<String>, kind: Type) -> Self {
        Self { name: name.into(), kind }
    }

    /// Returns a column of an operator's own, beside those of a pipeline: names hold no control
    /// characters, so none of them is called so.
    pub fn hidden(name: &str, kind: Type) -> Self {
        Self { name: format!("{HIDDEN}{name}"), kind }
    }

    /// Returns whether it is an operator's own.
    pub fn is_hidden(&self) -> bool {
        self.name.starts_with(HIDDEN)
    }

    /// Returns its name for a person.
    pub fn shown(&self) -> &str {
        self.name.trim_start_matches(HIDDEN)
    }
}

/// What the name of a hidden column begins with.
const HIDDEN: char = '\u{0}';

/// The named columns of a stream, in order. Names are unique; whoever builds one checks that.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Schema {
    columns: Vec<Column>,
}

impl Schema {
    /// Returns a schema of these columns.
    pub fn new(columns: Vec<Column>) -> Self {
        Self { columns }
    }

    /// Returns the columns in order.
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// Returns the position of a column, if there is one of this name.
    pub fn position(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| column.name == name)
    }

    /// Returns the column of this name, if there is one.
    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == name)
    }

    /// Returns the columns whose names `wanted` accepts, in order.
    pub fn project(&self, mut wanted: impl FnMut(&str) -> bool) -> Self {
        Self {
            columns: self.columns.iter().filter(|column| wanted(&column.name)).cloned().collect(),
        }
    }

    /// Returns the Arrow schema; every field is nullable.
    pub fn arrow(&self) -> SchemaRef {
        let field = |column: &Column| Field::new(&column.name, column.kind.arrow(), true);
        Arc::new(arrow_schema::Schema::new(self.columns.iter().map(field).collect::<Vec<_>>()))
    }
}
