//! Expressions: SQL over columns.

use arrow_array::{ArrayRef, RecordBatch};

use crate::types::{Schema, Type};

/// A compiled, typed expression.
#[derive(Clone, Debug)]
pub struct Expr {
    kind: Type,
    columns: Vec<String>,
    text: String,
}

/// One mistake in the text of an expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExprError {
    /// The byte, counted from 0 in the text, at which it stands.
    pub at: usize,
    /// What is wrong.
    pub message: String,
    /// What to do about it, where that can be said.
    pub hint: Option<String>,
}

/// The outcome of an expression over a batch.
#[derive(Clone, Debug)]
pub struct Evaluated {
    /// One value a row; rows in error hold NULL.
    pub values: ArrayRef,
    /// The rows that failed, sorted by row.
    pub errors: Vec<RowError>,
}

/// Why an expression has no value for one row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowError {
    /// The row, counted from 0 in the batch.
    pub row: u32,
    /// Why, for a person.
    pub message: String,
}

/// One aggregate call.
#[derive(Clone, Debug)]
pub struct Aggregate {
    /// What is computed.
    pub function: AggregateFunction,
    /// Over which expression; `None` for `count(*)`.
    pub argument: Option<Expr>,
    /// The type of the result.
    pub kind: Type,
}

/// What an aggregate computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AggregateFunction {
    /// `count(*)`: the number of rows.
    CountAll,
    /// `count(x)`: the number of rows in which x is not NULL.
    Count,
    /// `sum(x)`.
    Sum,
    /// `avg(x)`.
    Avg,
    /// `min(x)`.
    Min,
    /// `max(x)`.
    Max,
}

/// Compiles an expression against the columns it may read, or returns all its mistakes.
pub fn compile(text: &str, _schema: &Schema) -> Result<Expr, Vec<ExprError>> {
    Err(vec![ExprError { at: text.len(), message: "not built yet".into(), hint: None }])
}

/// Compiles one aggregate call, or returns all its mistakes.
pub fn compile_aggregate(text: &str, _schema: &Schema) -> Result<Aggregate, Vec<ExprError>> {
    Err(vec![ExprError { at: text.len(), message: "not built yet".into(), hint: None }])
}

impl Expr {
    /// Returns the type of the values.
    pub fn kind(&self) -> Type {
        self.kind
    }

    /// Returns the columns that are read, sorted, each once.
    pub fn columns(&self) -> &[String] {
        &self.columns
    }

    /// Returns whether some row can end in an error.
    pub fn is_fallible(&self) -> bool {
        false
    }

    /// Returns the text it was compiled from.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Evaluates it for every row of a batch.
    pub fn evaluate(&self, columns: &RecordBatch) -> Evaluated {
        let rows = columns.num_rows();
        Evaluated { values: arrow_array::new_null_array(&self.kind.arrow(), rows), errors: vec![] }
    }

    /// Returns the column, if the expression is nothing but one.
    pub fn column(&self) -> Option<&str> {
        None
    }
}
