//! Question: which rows and columns of a table are wanted, checked against its columns.

use arrow_array::{Array, BooleanArray};
use tidemill_operators::expr::{Expr, ExprError, compile};
use tidemill_operators::format::value;
use tidemill_operators::{Column, Type, key};

use super::{Cell, TableError, TableHandle, cut};
use crate::diagnostic::nearest;
use crate::sink::table::Columns;

/// The longest condition that is read, in bytes.
const CONDITION_BYTES_MAX: usize = 16 << 10;

/// Which rows and columns are wanted; all of them if nothing is said.
#[derive(Clone, Debug, Default)]
pub struct Question {
    /// An SQL expression over the columns that is true for the rows that are wanted.
    pub condition: Option<String>,
    /// The columns that are wanted, in this order.
    pub columns: Vec<String>,
    /// Values of the key columns, or of the first of them. A text is read as its column is.
    pub key: Vec<(String, Cell)>,
}

/// A question that fits its table.
#[derive(Clone, Debug)]
pub(super) struct Checked {
    condition: Option<Expr>,
    /// The places of the wanted columns among the sorted ones.
    picked: Vec<usize>,
    /// What every wanted row begins with.
    pub(super) prefix: Vec<u8>,
}

impl Checked {
    /// Checks a question.
    pub(super) fn new(question: &Question, table: &TableHandle) -> Result<Self, TableError> {
        let columns = &*table.place.columns;
        let condition = question.condition.as_ref().map(|text| condition(text, columns));
        let picked = if question.columns.is_empty() {
            // In the order in which the pipeline file has them.
            let names = columns.written.columns().iter();
            names.filter_map(|column| columns.sorted.position(&column.name)).collect()
        } else {
            let names = question.columns.iter();
            names.map(|name| place(name, columns, "columns")).collect::<Result<_, _>>()?
        };
        let prefix = prefix(&question.key, columns)?;
        Ok(Self { condition: condition.transpose()?, picked, prefix })
    }

    /// Returns the columns that answers have.
    pub(super) fn columns(&self, columns: &Columns) -> Vec<Column> {
        self.picked.iter().map(|at| columns.sorted.columns()[*at].clone()).collect()
    }

    /// Returns which of these rows are wanted; nothing if all are.
    pub(super) fn wanted(
        &self,
        columns: &Columns,
        rows: &[&[u8]],
    ) -> Result<Option<BooleanArray>, TableError> {
        let Some(condition) = &self.condition else { return Ok(None) };
        let decoded = columns.decode(rows.iter().copied());
        let evaluated = condition.evaluate(&decoded);
        if let Some(error) = evaluated.errors.first() {
            let key = &columns.sorted.columns()[..columns.key];
            let shown = rows.get(error.row as usize).map(|row| shown(row, columns, key));
            let shown = shown.unwrap_or_default();
            let reason = format!("of the row {shown}: {}", error.message);
            return Err(TableError::Question { part: "where", reason });
        }
        let wanted = evaluated.values.as_any().downcast_ref::<BooleanArray>();
        // A condition is a bool: that was checked.
        Ok(wanted.cloned())
    }

    /// Returns the wanted cells of a row.
    pub(super) fn cells(&self, columns: &Columns, row: &[u8]) -> Vec<Cell> {
        let mut cells = key::decode_row(row, columns.sorted.columns())
            .expect("the row was encoded of these columns, or checked when it was restored");
        let once = |at: &usize| self.picked.iter().filter(|other| *other == at).count() == 1;
        if self.picked.iter().all(once) {
            let take = |at: &usize| std::mem::replace(&mut cells[*at], Cell::Null);
            return self.picked.iter().map(take).collect();
        }
        self.picked.iter().map(|at| cells[*at].clone()).collect()
    }
}

/// Returns the key of a row for a person.
fn shown(row: &[u8], columns: &Columns, key: &[Column]) -> String {
    let cells = key::decode_row(row, columns.sorted.columns()).unwrap_or_default();
    let cells = key.iter().zip(cells).map(|(column, cell)| format!("{}={cell}", column.name));
    let text: String = cells.collect::<Vec<_>>().join(", ").chars().take(200).collect();
    text
}

fn condition(text: &str, columns: &Columns) -> Result<Expr, TableError> {
    let wrong = |reason: String| TableError::Question { part: "where", reason };
    if text.len() > CONDITION_BYTES_MAX {
        return Err(wrong(format!("it is longer than {CONDITION_BYTES_MAX} bytes")));
    }
    let told = |errors: Vec<ExprError>| {
        let one = |error: &ExprError| {
            let column = text.get(..error.at).map_or(0, |before| before.chars().count()) + 1;
            format!("column {column}: {error}")
        };
        let all: Vec<String> = errors.iter().take(10).map(one).collect();
        wrong(all.join("; "))
    };
    let expr = compile(text, &columns.sorted).map_err(told)?;
    if expr.kind() != Type::Bool {
        return Err(wrong(format!("it must be true or false for a row, but is a {}", expr.kind())));
    }
    Ok(expr)
}

fn place(name: &str, columns: &Columns, part: &'static str) -> Result<usize, TableError> {
    columns.sorted.position(name).ok_or_else(|| {
        let names = || columns.sorted.columns().iter().map(|column| column.name.as_str());
        let hint = match nearest(name, names()) {
            Some(near) => format!("did you mean {near}?"),
            None => format!("the columns are: {}", names().collect::<Vec<_>>().join(", ")),
        };
        TableError::Question { part, reason: format!("there is no column {}; {hint}", cut(name)) }
    })
}

/// Returns what the rows with this key begin with.
fn prefix(key: &[(String, Cell)], columns: &Columns) -> Result<Vec<u8>, TableError> {
    let wrong = |reason: String| TableError::Question { part: "key", reason };
    let names: Vec<&str> = (columns.sorted.columns().iter().take(columns.key))
        .map(|column| column.name.as_str())
        .collect();
    for (at, (name, _)) in key.iter().enumerate() {
        let place = place(name, columns, "key")?;
        if place >= columns.key {
            let reason = format!("{} is not of the key, which is: {}", cut(name), names.join(", "));
            return Err(wrong(reason));
        }
        if key[..at].iter().any(|(other, _)| other == name) {
            return Err(wrong(format!("{} comes twice", cut(name))));
        }
    }
    let mut prefix = Vec::new();
    for (at, column) in columns.sorted.columns().iter().take(key.len()).enumerate() {
        let Some((_, cell)) = key.iter().find(|(name, _)| *name == column.name) else {
            let reason = format!(
                "{:?} is missing: rows are found by the whole key ({}) or by the first columns of it",
                names[at],
                names.join(", ")
            );
            return Err(wrong(reason));
        };
        let cell = read(cell, column).ok_or_else(|| {
            let text: String = cell.to_string().chars().take(100).collect();
            wrong(format!("{text:?} is no {}, which {:?} is", column.kind, column.name))
        })?;
        key::append_value(&cell, &mut prefix);
    }
    Ok(prefix)
}

/// Returns a cell as one of this column, if it can be one.
fn read(cell: &Cell, column: &Column) -> Option<Cell> {
    Some(match (column.kind, cell) {
        (_, Cell::Null) => Cell::Null,
        (Type::String, Cell::String(_))
        | (Type::Int, Cell::Int(_))
        | (Type::Float, Cell::Float(_))
        | (Type::Bool, Cell::Bool(_))
        | (Type::Timestamp, Cell::Timestamp(_)) => cell.clone(),
        (Type::Decimal(digits), cell @ (Cell::Int(_) | Cell::String(_) | Cell::Decimal { .. })) => {
            let units = value::decimal(&cell.to_string(), digits)?;
            Cell::Decimal { units, scale: digits.scale() }
        }
        (Type::Float, Cell::Int(value)) => Cell::Float(*value as f64),
        (Type::Int, Cell::String(text)) => Cell::Int(value::int(text)?),
        (Type::Float, Cell::String(text)) => Cell::Float(value::float(text)?),
        (Type::Bool, Cell::String(text)) => Cell::Bool(value::bool(text)?),
        (Type::Timestamp, Cell::String(text)) => Cell::Timestamp(value::timestamp(text)?),
        _ => return None,
    })
}

/// Returns whether a row is wanted.
pub(super) fn is_wanted(wanted: &Option<BooleanArray>, at: usize) -> bool {
    wanted.as_ref().is_none_or(|wanted| wanted.is_valid(at) && wanted.value(at))
}
