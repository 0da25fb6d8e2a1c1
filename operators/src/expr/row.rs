//! Row: an expression over one row at a time, beside variables that change from row to row.
//!
//! For operators whose next value depends on the one before, such as a machine of states. What reads no
//! variable is computed for all rows at once; the rest runs on slices of one row, through the same code.

use arrow_array::{ArrayRef, RecordBatch};
use arrow_buffer::NullBuffer;

use crate::expr::evaluate::Run;
use crate::expr::vector::{Bits, Numbers, Scalar, Vector};
use crate::expr::{Expr, RowError};
use crate::types::{Column, Schema, Type};
use crate::value::Value;

/// Where what an expression reads stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Read {
    Column(usize),
    Variable(usize),
}

/// An expression over columns and variables; a variable hides a column of its name.
#[derive(Clone, Debug)]
pub struct Stepwise {
    expr: Expr,
    reads: Vec<Read>,
}

/// Rows that stepwise expressions are computed over.
pub struct Steps {
    columns: Vec<Vector>,
    batch: RecordBatch,
}

/// The variables, in order, each with its value.
#[derive(Clone, Debug)]
pub struct Variables {
    kinds: Vec<Type>,
    values: Vec<Value>,
    vectors: Vec<Vector>,
}

/// The values of an expression that reads no variable, for all rows.
pub struct Fixed {
    values: Vector,
    errors: Vec<RowError>,
    kind: Type,
}

impl Variables {
    /// Returns variables of these types and values.
    ///
    /// # Panics
    /// If a value is not of its type; a check has seen to that.
    pub fn new(kinds: Vec<Type>, values: Vec<Value>) -> Self {
        let vectors = kinds.iter().zip(&values).map(|(kind, value)| one(*kind, value)).collect();
        Self { kinds, values, vectors }
    }

    /// Returns the values.
    pub fn values(&self) -> &[Value] {
        &self.values
    }

    /// Gives a variable a value; an int becomes a float where a float is kept.
    pub fn set(&mut self, variable: usize, value: Value) {
        let kind = self.kinds[variable];
        let value = match (kind, value) {
            (Type::Float, Value::Int(value)) => Value::Float(value as f64),
            (_, value) => value,
        };
        self.vectors[variable] = one(kind, &value);
        self.values[variable] = value;
    }
}

/// Returns a column of one row.
fn one(kind: Type, value: &Value) -> Vector {
    let scalar = match value {
        Value::Null => {
            let nulls = Some(NullBuffer::new_null(1));
            return match kind {
                Type::Int | Type::Timestamp => Vector::long(vec![0], nulls),
                Type::Float => Vector::double(vec![0.0], nulls),
                Type::Decimal(_) => Vector::wide(vec![0], nulls),
                Type::Bool => Vector::Bool(Bits { nulls, ..Bits::all(false, 1) }),
                Type::String => Vector::Text(std::iter::once(None::<&str>).collect()),
            };
        }
        Value::String(text) => Scalar::Text(text.as_str().into()),
        Value::Int(value) | Value::Timestamp(value) => Scalar::Long(*value),
        Value::Float(value) => Scalar::Double(*value),
        Value::Decimal { units, .. } => Scalar::Wide(*units),
        Value::Bool(value) => Scalar::Bool(*value),
    };
    Vector::Constant(scalar).spread(1)
}

impl Steps {
    /// Takes the rows of a batch.
    ///
    /// # Panics
    /// If a column is not of the array of its type; the plan guarantees that it is.
    pub fn new(batch: RecordBatch, schema: &Schema) -> Self {
        let vector = |(array, column): (&ArrayRef, &Column)| {
            Vector::of_column(array, column.kind).expect("the plan gave each column its array")
        };
        let columns = batch.columns().iter().zip(schema.columns()).map(vector).collect();
        Self { columns, batch }
    }

    /// Returns the number of rows.
    pub fn len(&self) -> usize {
        self.batch.num_rows()
    }

    /// Returns whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Stepwise {
    /// Binds an expression to the columns of [`Steps`] and to variables.
    ///
    /// # Panics
    /// If it reads something else; it was compiled against these.
    pub fn new(expr: Expr, columns: &Schema, variables: &[Column]) -> Self {
        let read = |(name, _): &(String, Type)| {
            let variable = variables.iter().position(|variable| variable.name == *name);
            let column = || columns.position(name).map(Read::Column);
            variable.map(Read::Variable).or_else(column).expect("it was compiled against these")
        };
        let reads = expr.inner.reads.iter().map(read).collect();
        Self { expr, reads }
    }

    /// Returns the values for all rows, if no variable is read.
    pub fn fixed(&self, steps: &Steps) -> Option<Fixed> {
        let column = |read: &Read| match read {
            Read::Column(at) => Some(steps.columns[*at].clone()),
            Read::Variable(_) => None,
        };
        let columns = self.reads.iter().map(column).collect::<Option<Vec<_>>>()?;
        let mut run = Run { columns: &columns, rows: steps.len(), errors: vec![] };
        let values = run.node(&self.expr.inner.node, None);
        let mut errors = run.errors;
        errors.sort_by_key(|error| error.row);
        errors.dedup_by_key(|error| error.row);
        Some(Fixed { values, errors, kind: self.expr.kind() })
    }

    /// Returns the value for one row, or why it has none.
    pub fn at(&self, steps: &Steps, row: usize, variables: &Variables) -> Result<Value, String> {
        let vector = |read: &Read| match read {
            Read::Column(at) => slice(&steps.columns[*at], row),
            Read::Variable(at) => variables.vectors[*at].clone(),
        };
        let columns: Vec<Vector> = self.reads.iter().map(vector).collect();
        let mut run = Run { columns: &columns, rows: 1, errors: vec![] };
        let value = run.node(&self.expr.inner.node, None).scalar(0);
        match run.errors.into_iter().next() {
            Some(error) => Err(error.message),
            None => Ok(value_of(value, self.expr.kind())),
        }
    }
}

impl Fixed {
    /// Returns the value for one row, or why it has none.
    pub fn at(&self, row: usize) -> Result<Value, String> {
        match self.errors.binary_search_by_key(&row, |error| error.row as usize) {
            Ok(found) => Err(self.errors[found].message.clone()),
            Err(_) => Ok(value_of(self.values.scalar(row), self.kind)),
        }
    }
}

fn value_of(scalar: Scalar, kind: Type) -> Value {
    match scalar {
        Scalar::Null => Value::Null,
        Scalar::Long(value) if kind == Type::Timestamp => Value::Timestamp(value),
        Scalar::Long(value) => Value::Int(value),
        Scalar::Double(value) => Value::Float(value),
        Scalar::Wide(units) => {
            let scale = if let Type::Decimal(digits) = kind { digits.scale() } else { 0 };
            Value::Decimal { units, scale }
        }
        Scalar::Bool(value) => Value::Bool(value),
        Scalar::Text(text) => Value::String(text.as_ref().to_owned()),
    }
}

fn slice(vector: &Vector, row: usize) -> Vector {
    let nulls = |nulls: &Option<NullBuffer>| {
        let one = nulls.as_ref().map(|nulls| nulls.slice(row, 1));
        one.filter(|nulls| nulls.null_count() > 0)
    };
    match vector {
        Vector::Constant(scalar) => Vector::Constant(scalar.clone()),
        Vector::Long(longs) => {
            Vector::Long(Numbers { values: longs.values.slice(row, 1), nulls: nulls(&longs.nulls) })
        }
        Vector::Double(doubles) => Vector::Double(Numbers {
            values: doubles.values.slice(row, 1),
            nulls: nulls(&doubles.nulls),
        }),
        Vector::Wide(wides) => {
            Vector::Wide(Numbers { values: wides.values.slice(row, 1), nulls: nulls(&wides.nulls) })
        }
        Vector::Bool(bits) => {
            Vector::Bool(Bits { values: bits.values.slice(row, 1), nulls: nulls(&bits.nulls) })
        }
        Vector::Text(text) => Vector::Text(text.slice(row, 1)),
    }
}
