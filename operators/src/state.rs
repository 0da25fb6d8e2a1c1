//! State: a machine per key that is run over the records of the key in order, and decides by which tag
//! each of them leaves.
//!
//! | input  | the records of a key, in the order that decides ([`crate::keyed`])                      |
//! | output | each record by one tag, with the columns that the machine adds; or by none              |
//! | state  | every record, those long past included: one that comes late or goes changes what follows |
//! | errors | expressions of the machine that fail on a record are told; the record leaves all the same |
//! | leaves | a record leaves memory when it is taken back, or is final ([`horizon()`])               |
//! | cost   | the machine runs over all records of each key that an epoch touched, twice               |

use arrow_array::{RecordBatch, RecordBatchOptions, UInt32Array};
use arrow_select::take::take;
use hashbrown::HashMap;

use crate::batch::position_offset;
use crate::expr::Steps;
use crate::key::{Key, append_value, decode_columns};
use crate::keyed::{Logic, Place, RowLayout, Said};
use crate::types::{Column, Schema};
use crate::value::Value;

mod horizon;
mod machine;
mod marks;

use marks::Mark;

pub use horizon::{Folds, Horizon, horizon};
pub use machine::{Leave, Machine, MachineSpec, Moment, Outcome, STATE, Transition, Variable};
pub use marks::Marks;

/// How many final records of a key are folded away at once.
const FOLD_ROWS: usize = 64;

/// Runs the machine of a key over its records.
pub struct Replay {
    machine: Machine,
    layout: RowLayout,
    keys: Vec<Column>,
    /// Which of the key columns the machine may read: those that are not kept with each record.
    from_key: Vec<usize>,
    columns: Schema,
    horizon: Option<Folding>,
}

/// What is folded away behind a horizon.
struct Folding {
    marks: Marks,
    folds: Folds,
    /// By key, the summary of a fold that is on its way.
    pending: HashMap<Key, Key>,
}

impl Replay {
    /// Returns the logic of a machine over values of this layout. Each row that is given ends with
    /// the added cells.
    pub fn new(spec: MachineSpec, keys: Vec<Column>, layout: RowLayout) -> Self {
        let is_kept = |key: &Column| layout.columns.iter().any(|column| column.name == key.name);
        let from_key: Vec<usize> = (0..keys.len()).filter(|at| !is_kept(&keys[*at])).collect();
        let of_key = from_key.iter().map(|at| keys[*at].clone());
        let columns = Schema::new(layout.columns.iter().cloned().chain(of_key).collect());
        let machine = Machine::new(spec, &columns);
        Self { machine, layout, keys, from_key, columns, horizon: None }
    }

    /// Folds final records into one row, which leaves by `folds`. The layout is that of the marks.
    pub fn with_horizon(mut self, marks: Marks, folds: Folds) -> Self {
        self.horizon = Some(Folding { marks, folds, pending: HashMap::new() });
        self
    }

    /// Runs over records from a moment on.
    fn walk(&self, key: &[u8], rows: &[&[u8]], from: Moment, said: &mut Said) -> Moment {
        if rows.is_empty() {
            return from;
        }
        let steps = self.steps(key, rows);
        self.machine.run(&steps, from, |row, outcome| self.say(rows[row], outcome, said))
    }

    /// Returns the columns of records of one key.
    fn steps(&self, key: &[u8], rows: &[&[u8]]) -> Steps {
        const OURS: &str = "the state of an operator holds its own rows";
        let mut arrays = self.layout.arrays(rows.iter().copied()).expect(OURS);
        if !self.from_key.is_empty() {
            let key = Key::new(key);
            let cells = decode_columns(std::iter::once(&key), &self.keys).expect(OURS);
            let first = UInt32Array::from(vec![0; rows.len()]);
            let repeated = |at: &usize| take(&cells[*at], &first, None).expect("there is one");
            arrays.extend(self.from_key.iter().map(repeated));
        }
        let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
        let batch = RecordBatch::try_new_with_options(self.columns.arrow(), arrays, &options)
            .expect("each column was built with its type, one cell a row");
        Steps::new(batch, &self.columns)
    }

    /// Says what became of a record.
    fn say(&self, row: &[u8], outcome: Outcome, said: &mut Said) {
        if let Some(port) = outcome.port {
            said.give_with(port, 1, |bytes| {
                bytes.extend_from_slice(row);
                outcome.added.iter().for_each(|value| append_value(value, bytes));
            });
        }
        if let Some(trouble) = outcome.trouble {
            let (file, at) = match self.layout.place(row) {
                Ok(Place { submission, position, offset, .. }) if self.layout.arrival.is_some() => {
                    let byte = offset + u64::from(position_offset(position));
                    (submission, format!("byte {byte} of the record's file: "))
                }
                _ => (0, String::new()),
            };
            said.report(file, &format!("{at}{trouble}"));
        }
    }
}

impl Logic for Replay {
    fn rows<'v>(
        &mut self,
        key: &'v [u8],
        values: &mut dyn Iterator<Item = (&'v [u8], i64)>,
        said: &mut Said,
    ) {
        let mut rows: Vec<&[u8]> = Vec::new();
        let (mut newest, mut summary) = (None, None);
        for (row, times) in values {
            match self.horizon.as_ref().map(|folding| folding.marks.read(row)) {
                Some(Mark::Newest(instant)) => newest = Some(instant),
                Some(Mark::Summary) => summary = Some(row),
                Some(Mark::Record(_)) | None => {
                    rows.extend(std::iter::repeat_n(row, usize::try_from(times).unwrap_or(1)));
                }
            }
        }
        let Some(folding) = &self.horizon else {
            self.walk(key, &rows, self.machine.start(), said);
            return;
        };
        let moment = summary.and_then(|summary| folding.marks.moment(summary));
        let moment = moment.map(|(state, values)| self.machine.moment(state, values));
        let moment = moment.unwrap_or_else(|| self.machine.start());
        let bound = newest.map(|newest| folding.marks.bound(newest));
        let from = bound.map(Marks::records_from).unwrap_or_default();
        said.settle_below(&from);
        let is_final = rows.partition_point(|row| *row < from.as_slice());
        let (old, young) = rows.split_at(is_final);
        let moment = self.walk(key, old, moment, said);
        let (state, values) = (moment.state(), moment.values().to_vec());
        self.walk(key, young, moment, said);
        if let (Some(folding), Some(bound)) = (&mut self.horizon, bound) {
            folding.fold(Key::new(key), (old, summary), bound, (state, &values));
        }
    }
}

impl Folding {
    /// Folds final records into what they led to.
    fn fold(
        &mut self,
        key: Key,
        (old, summary): (&[&[u8]], Option<&[u8]>),
        bound: i64,
        (state, values): (usize, &[Value]),
    ) {
        if let Some(pending) = self.pending.get(&key) {
            if summary != Some(pending.bytes()) {
                return; // it has not arrived yet
            }
            self.pending.remove(&key);
        }
        if old.len() < FOLD_ROWS {
            return;
        }
        let new = self.marks.summary(bound, state, values);
        let gone = old.iter().copied().chain(summary).map(|row| (Key::new(row), -1));
        let rows = gone.chain([(new.clone(), 1)]).collect();
        self.folds.waiting.borrow_mut().push((key.clone(), rows));
        self.pending.insert(key, new);
    }
}
