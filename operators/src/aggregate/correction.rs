//! Correction: which rows an epoch takes back and which it puts there, out of the accumulators before
//! and after it. Holds nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch};
use arrow_schema::SchemaRef;
use differential_dataflow::difference::{IsZero, Semigroup};
use differential_dataflow::trace::implementations::BatchContainer;
use differential_dataflow::trace::{Cursor, Navigable};

use super::AggregateSpec;
use super::accumulator::{Accumulator, SumOverflow};
use super::arranged::Piece;
use crate::batch::{Batch, Origin, rows_without_columns};
use crate::key::{Key, decode_columns};
use crate::keyed::Rows;
use crate::time::Time;
use crate::value::{ColumnBuilder, Value};

/// The most rows of one batch that leaves.
const ROWS_PER_BATCH: usize = 8 * 1024;

/// What one piece of the arrangement changes on one worker.
#[derive(Default)]
pub(super) struct Corrections {
    /// By time; what was restored is as it was.
    pub(super) by_time: BTreeMap<Time, Correction>,
    /// How many keys there are more than before, or less.
    pub(super) keys: isize,
}

/// What changes at one time, by key.
#[derive(Default)]
pub(super) struct Correction {
    /// The rows that are taken back.
    pub(super) before: Table,
    /// The rows that are there instead.
    pub(super) after: Table,
    /// Sums that do not fit, and did before: the key, and what to say.
    pub(super) overflows: Vec<(Key, String)>,
}

impl Corrections {
    /// Looks at each key of a piece; `earlier` is what was there before it.
    pub(super) fn of(piece: &Piece, earlier: Vec<Piece>, spec: &AggregateSpec) -> Self {
        let mut corrections = Self::default();
        let mut layers: Vec<_> = earlier.into_iter().map(|one| (one.cursor(), one)).collect();
        let nothing = Accumulator::default();
        let (mut before, mut after) = (nothing.clone(), nothing.clone());
        let mut changes = piece.cursor();
        while let Some(key) = changes.get_key(piece) {
            after.clone_from(&nothing);
            for (cursor, layer) in &mut layers {
                cursor.seek_key(layer, key);
                if cursor.get_key(layer) == Some(key) {
                    cursor.map_times(layer, |_, accumulator| after.plus_equals(accumulator));
                }
            }
            changes.map_times(piece, |time, accumulator| {
                before.clone_from(&after);
                after.plus_equals(accumulator);
                corrections.keys += isize::from(!after.is_zero()) - isize::from(!before.is_zero());
                if time.epoch > 0 {
                    let of_time = corrections.by_time.entry(*time).or_default();
                    of_time.change(key, &before, &after, spec);
                }
            });
            changes.step_key(piece);
        }
        corrections
    }
}

impl Correction {
    /// Adds what becomes of the row of a key.
    fn change(
        &mut self,
        key: &[u8],
        before: &Accumulator,
        after: &Accumulator,
        spec: &AggregateSpec,
    ) {
        let old = self.before.open(before, spec);
        let new = self.after.open(after, spec);
        for (column, error) in new.iter().flat_map(|new| &new.overflows) {
            let mut told = old.iter().flat_map(|old| &old.overflows);
            if told.all(|told| told.0 != *column) {
                let reason = format!("{}: {error}", spec.compute[*column].name);
                self.overflows.push((Key::new(key), reason));
            }
        }
        let is_same = match (&old, &new) {
            (Some(old), Some(new)) => {
                let mut cells = self.before.opened(spec).zip(self.after.opened(spec));
                old.place == new.place && cells.all(|(one, two)| one.is_same(two))
            }
            _ => false,
        };
        for (table, row) in [(&mut self.before, old), (&mut self.after, new)] {
            match row {
                Some(_) if is_same => table.cells.truncate(table.closed(spec)),
                Some(row) => table.close(key, row),
                None => {}
            }
        }
    }
}

/// A row whose cells are in its table already, but not its key.
struct Open {
    /// Submission, chunk and position of the first record of the group, where groups are per file.
    place: Option<[u64; 3]>,
    /// Sums that do not fit, by column.
    overflows: Vec<(usize, SumOverflow)>,
}

/// Rows, one behind the other.
pub(super) struct Table {
    keys: Rows,
    cells: Vec<Value>,
    /// Of each row, where groups are per file.
    places: Vec<[u64; 3]>,
}

impl Default for Table {
    fn default() -> Self {
        Self { keys: Rows::with_capacity(0), cells: Vec::new(), places: Vec::new() }
    }
}

impl Table {
    /// Begins the row of a key, if it has one.
    fn open(&mut self, accumulator: &Accumulator, spec: &AggregateSpec) -> Option<Open> {
        accumulator.is_visible().then(|| Open {
            place: accumulator.place(spec),
            overflows: accumulator.finish(spec, &mut self.cells),
        })
    }

    /// Returns how many cells belong to rows with a key.
    fn closed(&self, spec: &AggregateSpec) -> usize {
        self.keys.len() * spec.compute.len()
    }

    /// Returns the cells of the row that was begun.
    fn opened(&self, spec: &AggregateSpec) -> impl Iterator<Item = &Value> {
        self.cells[self.closed(spec)..].iter()
    }

    fn close(&mut self, key: &[u8], row: Open) {
        self.keys.push_ref(key);
        self.places.extend(row.place);
    }

    /// Gives the rows as batches, sorted by place where they have one, then by key. Rows with places
    /// belong to the chunk they are from, others to `nowhere`.
    pub(super) fn give(
        &self,
        diff: i64,
        nowhere: Origin,
        spec: &AggregateSpec,
        schema: &SchemaRef,
        mut give: impl FnMut(Batch),
    ) {
        let place = |row: &usize| self.places.get(*row);
        let chunk = |row: &usize| place(row).map(|[submission, chunk, _]| (*submission, *chunk));
        let mut rows: Vec<usize> = (0..self.keys.len()).collect();
        rows.sort_by_key(place); // stable: rows of one place stay in the order of their keys
        let of_chunks = rows.chunk_by(|one, two| chunk(one) == chunk(two));
        for part in of_chunks.flat_map(|rows| rows.chunks(ROWS_PER_BATCH)) {
            let columns = self.columns(part, spec, schema);
            let positions = part.iter().filter_map(|row| place(row).map(|place| place[2]));
            let positions: Vec<u64> = positions.collect();
            let (origin, positions) = match part.first().and_then(chunk) {
                None => (nowhere, None),
                Some((submission, chunk)) => {
                    (Origin { submission, chunk, offset: 0 }, Some(positions.into()))
                }
            };
            give(Batch { columns, raw: None, positions, diff, origin });
        }
    }

    fn columns(&self, rows: &[usize], spec: &AggregateSpec, schema: &SchemaRef) -> RecordBatch {
        let keys = rows.iter().map(|row| self.keys.index(*row));
        let mut columns: Vec<ArrayRef> = decode_columns(keys, &spec.keys).unwrap_or_else(|error| {
            panic!("the state of an aggregate holds a foreign key: {error}")
        });
        columns.drain(..spec.keys.iter().filter(|key| key.is_hidden()).count());
        let width = spec.compute.len();
        let shown = width - usize::from(spec.is_per_file());
        for (at, computed) in spec.compute.iter().take(shown).enumerate() {
            let mut builder = ColumnBuilder::new(computed.kind, rows.len());
            rows.iter().for_each(|row| builder.push(&self.cells[row * width + at]));
            columns.push(builder.finish());
        }
        if columns.is_empty() {
            return rows_without_columns(rows.len());
        }
        RecordBatch::try_new(Arc::clone(schema), columns)
            .unwrap_or_else(|error| panic!("the columns of an aggregate do not fit: {error}"))
    }
}
