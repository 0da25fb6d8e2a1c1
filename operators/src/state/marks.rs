//! Marks: the rows of a key that are no records, and how they are told from records.
//!
//! With a horizon the rows of a key begin with a cell that says what they are, so that they sort: how
//! far the key has come (NULL), what it was like before its first record that is kept (false), records
//! (true). Then comes the event time. All have one layout, whose last columns hold state and variables;
//! in records they are NULL.

use crate::aggregate::put_number;
use crate::key::{Key, append_value};
use crate::keyed::{Direction, Nulls, OrderColumn, Place, RowLayout};
use crate::types::{Column, Type};
use crate::value::Value;

/// What records begin with.
const RECORD: [u8; 2] = [1, 1];
/// What the row begins with that holds state and variables.
const SUMMARY: [u8; 2] = [1, 0];
/// What the row begins with that holds the time of the newest record.
const NEWEST: [u8; 1] = [0];

/// What a row is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    /// How far the key has come.
    Newest(i64),
    /// What the key was like before its first record.
    Summary,
    /// A record of this time.
    Record(i64),
}

/// What rows look like where there is a horizon.
#[derive(Clone, Debug)]
pub struct Marks {
    layout: RowLayout,
    /// The columns of records; state and variables follow.
    records: usize,
    horizon_us: i64,
}

impl Marks {
    /// Returns the rows of a horizon, from the layout of records alone, whose order begins with the
    /// event time.
    pub fn new(records: RowLayout, variables: &[Column], horizon_us: i64) -> Self {
        let mut layout = records;
        let kind = Type::Bool;
        let first = OrderColumn { kind, direction: Direction::Ascending, nulls: Nulls::First };
        layout.order.insert(0, first);
        let records = layout.columns.len();
        layout.columns.push(Column::hidden("state", Type::Int));
        let hidden = |one: &Column| Column::hidden(&one.name, one.kind);
        layout.columns.extend(variables.iter().map(hidden));
        Self { layout, records, horizon_us }
    }

    /// Returns the layout of all rows.
    pub const fn layout(&self) -> &RowLayout {
        &self.layout
    }

    /// Returns the columns that records hold only NULL in.
    pub fn hidden(&self) -> &[Column] {
        &self.layout.columns[self.records..]
    }

    /// Returns the first instant that is not final when the newest record is of this one.
    pub(super) const fn bound(&self, newest: i64) -> i64 {
        newest.saturating_sub(self.horizon_us)
    }

    /// Returns what a row is.
    pub(super) fn read(&self, row: &[u8]) -> Mark {
        let instant = |cell: &[u8]| match cell {
            [1, instant @ ..] => {
                instant.first_chunk().map(|word| crate::key::int_of(u64::from_be_bytes(*word)))
            }
            _ => None,
        };
        match row {
            [0, rest @ ..] => Mark::Newest(instant(rest).unwrap_or(i64::MIN)),
            [1, 0, ..] => Mark::Summary,
            // A record without a time was rejected before; it would be the oldest.
            [_, _, rest @ ..] => Mark::Record(instant(rest).unwrap_or(i64::MIN)),
            _ => Mark::Record(i64::MIN),
        }
    }

    /// Returns where records of an instant begin among the rows of a key.
    pub(super) fn records_from(instant: i64) -> Vec<u8> {
        let mut row = RECORD.to_vec();
        append_value(&Value::Timestamp(instant), &mut row);
        row
    }

    /// Returns the row that says how far a key has come.
    pub(super) fn newest(&self, instant: i64) -> Key {
        self.row(&NEWEST, instant, &[])
    }

    /// Returns the row that says what a key was like before an instant.
    pub(super) fn summary(&self, before: i64, state: usize, variables: &[Value]) -> Key {
        let mut cells = vec![Value::Int(state as i64)];
        cells.extend_from_slice(variables);
        self.row(&SUMMARY, before, &cells)
    }

    fn row(&self, kind: &[u8], instant: i64, hidden: &[Value]) -> Key {
        let mut row = kind.to_vec();
        append_value(&Value::Timestamp(instant), &mut row);
        for column in self.layout.order.iter().skip(2) {
            row.push(if column.nulls == Nulls::First { 0 } else { 0xff });
        }
        if self.layout.arrival.is_some() {
            row.extend_from_slice(&[0; 4]); // four numbers, each of no bytes
        }
        for at in 0..self.layout.columns.len() {
            let cell = at.checked_sub(self.records).and_then(|at| hidden.get(at));
            append_value(cell.unwrap_or(&Value::Null), &mut row);
        }
        if self.layout.raw {
            put_number(0, &mut row);
        }
        Key::new(&row)
    }

    /// Returns the state and the variables of a summary.
    pub(super) fn moment(&self, row: &[u8]) -> Option<(usize, Vec<Value>)> {
        let mut cells = self.layout.values(row).ok()?.split_off(self.records).into_iter();
        let Value::Int(state) = cells.next()? else { return None };
        Some((usize::try_from(state).ok()?, cells.collect()))
    }

    /// Returns where a record stands.
    pub(super) fn place(&self, row: &[u8]) -> Place {
        self.layout.place(row).unwrap_or_default()
    }

    /// Returns the bytes of a record, if they are kept.
    pub(super) fn raw<'r>(&self, row: &'r [u8]) -> &'r [u8] {
        self.layout.raw_of(row).unwrap_or_default()
    }
}
