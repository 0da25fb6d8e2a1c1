//! Window: the windows of event time in which a row lies.
//!
//! | input  | batches                                                                          |
//! | output | one tag: the row once for each of its windows, with `window_start` and `window_end` |
//! | state  | none                                                                             |
//! | errors | a row without a time is rejected; so is one whose time fails or has no window     |
//!
//! Windows begin at the multiples of `every` since 1970-01-01T00:00:00Z and hold the times from their
//! start up to, and without, their end. Linear: a row that is taken back takes back what it gave.

mod session;

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::TimestampMicrosecondType;
use arrow_array::{Array, ArrayRef, RecordBatch, RecordBatchOptions, UInt32Array};

use crate::batch::{Batch, Shape};
use crate::expr::Expr;
use crate::flow::{Emit, Stateless};
use crate::reject::RejectCode;
use crate::types::{Column, Type};
use crate::value::{ColumnBuilder, Value};

pub use session::Sessions;

/// The column of the first instant of a window.
pub const START: &str = "window_start";
/// The column of the first instant behind a window.
pub const END: &str = "window_end";
/// In how many windows a row may lie.
pub const WINDOWS_MAX: i64 = 1_000;
/// About how many rows are given out as one batch.
const ROWS_PER_BATCH: usize = 64 * 1024;

/// Windows of one length that begin at fixed times. Microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Windows {
    /// How long one is.
    pub size_us: i64,
    /// How long after the beginning of one the next one begins; not more than its size.
    pub every_us: i64,
}

impl Windows {
    /// Returns where the windows around an instant begin, in order; none where time ends.
    pub fn around(self, instant: i64) -> impl Iterator<Item = i64> {
        let Windows { size_us, every_us } = self;
        let last = instant.checked_sub(instant.rem_euclid(every_us));
        let count = |last: i64| (size_us - (instant - last) - 1) / every_us;
        let first = last.and_then(|last| last.checked_sub(count(last).checked_mul(every_us)?));
        let fits = last.is_some_and(|last| last.checked_add(size_us).is_some());
        let from = first.filter(|_| fits).zip(last);
        let starts = from.map(|(first, last)| {
            (0..=(last - first) / every_us).map(move |step| first + step * every_us)
        });
        starts.into_iter().flatten()
    }
}

/// Gives rows the windows they lie in.
pub struct Window {
    on: Expr,
    windows: Windows,
    shape: Shape,
}

impl Window {
    /// Returns an operator that finds the windows around the value of `on`, a timestamp, and gives
    /// batches of `shape`.
    pub fn new(on: Expr, windows: Windows, shape: Shape) -> Self {
        Self { on, windows, shape }
    }

    /// Gives out rows, each with the start of a window.
    fn give(&self, batch: &Batch, rows: Vec<u32>, starts: &[i64], emit: &mut Emit) {
        let rows = UInt32Array::from(rows);
        // What is added here is not yet there to be picked.
        let there = |name: &str| batch.columns.schema_ref().index_of(name).is_ok();
        let old = Shape {
            schema: self.shape.schema.project(|name| ![START, END].contains(&name) && there(name)),
            raw: self.shape.raw,
            positions: self.shape.positions,
        };
        let picked = batch.project(&old).take(&rows);
        let instants = |ahead: i64| {
            let mut builder = ColumnBuilder::new(Type::Timestamp, starts.len());
            starts.iter().for_each(|start| builder.push(&Value::Timestamp(start + ahead)));
            builder.finish()
        };
        let array = |column: &Column| -> ArrayRef {
            match column.name.as_str() {
                START => instants(0),
                END => instants(self.windows.size_us),
                name => {
                    let there = picked.columns.column_by_name(name);
                    Arc::clone(there.expect("the plan carries every column that is read"))
                }
            }
        };
        let arrays = self.shape.schema.columns().iter().map(array).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
        let columns =
            RecordBatch::try_new_with_options(self.shape.schema.arrow(), arrays, &options)
                .expect("each column was built with its type and as many rows");
        emit.give(0, Batch { columns, ..picked });
    }
}

impl Stateless for Window {
    fn apply(&mut self, batch: Batch, emit: &mut Emit) {
        let evaluated = self.on.evaluate(&batch.columns);
        let instants = evaluated.values.as_primitive::<TimestampMicrosecondType>();
        let mut errors = evaluated.errors.iter().peekable();
        let (mut rows, mut starts): (Vec<u32>, Vec<i64>) = (Vec::new(), Vec::new());
        for row in 0..batch.len() {
            if let Some(error) = errors.next_if(|error| error.row as usize == row) {
                emit.reject(&batch, row, RejectCode::Expression, error.message.clone());
                continue;
            }
            if instants.is_null(row) {
                let reason = format!("{} is NULL: the record lies in no window", self.on.text());
                emit.reject(&batch, row, RejectCode::NoTime, reason);
                continue;
            }
            let before = starts.len();
            starts.extend(self.windows.around(instants.value(row)));
            match starts.len() - before {
                0 => {
                    let reason = format!("{} is too far from 1970 for a window", self.on.text());
                    emit.reject(&batch, row, RejectCode::NoTime, reason);
                }
                found => {
                    rows.extend(std::iter::repeat_n(row as u32, found));
                    emit.copy(found - 1);
                }
            }
            if starts.len() >= ROWS_PER_BATCH {
                self.give(&batch, std::mem::take(&mut rows), &starts, emit);
                starts.clear();
            }
        }
        self.give(&batch, rows, &starts, emit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check((size_us, every_us): (i64, i64), instant: i64, expected: &[i64]) {
        let found: Vec<i64> = Windows { size_us, every_us }.around(instant).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn an_instant_lies_in_the_windows_that_hold_it() {
        check((10, 10), 0, &[0]);
        check((10, 10), 9, &[0]);
        check((10, 10), 10, &[10]);
        check((10, 10), -1, &[-10]);
        check((10, 5), 12, &[5, 10]);
        check((10, 5), 10, &[5, 10]);
        check((10, 3), 10, &[3, 6, 9]);
        check((10, 3), 9, &[0, 3, 6, 9]);
        check((10, 3), -2, &[-9, -6, -3]);
    }

    #[test]
    fn oracle_every_window_is_found_and_no_other() {
        for size in 1..12 {
            for every in 1..=size {
                for instant in -30..30 {
                    let holds = |start: &i64| *start <= instant && instant < start + size;
                    let expected: Vec<i64> =
                        (-60..60).map(|step| step * every).filter(holds).collect();
                    check((size, every), instant, &expected);
                }
            }
        }
    }

    #[test]
    fn at_the_ends_of_time_there_is_no_window() {
        check((10, 10), i64::MAX, &[]);
        check((10, 10), i64::MIN, &[]);
        check((10, 5), i64::MIN + 4, &[]);
    }
}
