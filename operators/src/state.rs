//! State: a machine per key that is run over the records of the key in order, and decides by which tag
//! each of them leaves.
//!
//! | input  | the records of a key, in the order that decides ([`crate::keyed`])                      |
//! | output | each record by one tag, with the columns that the machine adds; or by none              |
//! | state  | every record, those long past included: one that comes late or goes changes what follows |
//! | errors | expressions of the machine that fail on a record are told; the record leaves all the same |
//! | leaves | a record leaves memory when it is taken back, or is final (`horizon`)                    |
//! | cost   | the machine runs over all records of each key that an epoch touched, twice               |

use arrow_array::{RecordBatch, RecordBatchOptions, UInt32Array};
use arrow_select::take::take;

use crate::batch::position_offset;
use crate::expr::Steps;
use crate::key::{Key, append_value, decode_columns};
use crate::keyed::{Logic, Place, RowLayout, Said};
use crate::types::{Column, Schema};

mod machine;

pub use machine::{Leave, Machine, MachineSpec, Moment, Outcome, STATE, Transition, Variable};

/// Runs the machine of a key over its records.
pub struct Replay {
    machine: Machine,
    layout: RowLayout,
    keys: Vec<Column>,
    /// Which of the key columns the machine may read: those that are not kept with each record.
    from_key: Vec<usize>,
    columns: Schema,
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
        Self { machine, layout, keys, from_key, columns }
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
            let at = match self.layout.place(row) {
                Ok(Place { submission, position, offset, .. }) if self.layout.arrival.is_some() => {
                    let byte = offset + u64::from(position_offset(position));
                    format!("file {submission}, byte {byte}: ")
                }
                _ => String::new(),
            };
            said.report(&format!("{at}{trouble}"));
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
        let repeated = |(row, times): (&'v [u8], i64)| {
            std::iter::repeat_n(row, usize::try_from(times).unwrap_or_default())
        };
        let rows: Vec<&[u8]> = values.flat_map(repeated).collect();
        if rows.is_empty() {
            return;
        }
        let steps = self.steps(key, &rows);
        let from = self.machine.start();
        self.machine.run(&steps, from, |row, outcome| self.say(rows[row], outcome, said));
    }
}
