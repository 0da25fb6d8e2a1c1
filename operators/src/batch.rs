//! Batch: what flows on an edge. Derived data; a batch lives from one operator to the next.
//!
//! A batch holds only the columns that something downstream reads, the original bytes of each
//! record when something downstream needs them, one difference for the whole batch, and where it
//! came from. Strings are views into the buffer of the chunk they were read from, so passing a
//! record on copies 16 bytes and no text. Whoever keeps rows for long must copy them out, or one
//! row pins its whole chunk.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::UInt64Type;
use arrow_array::{
    Array, BinaryViewArray, BooleanArray, RecordBatch, RecordBatchOptions, UInt32Array, UInt64Array,
};
use arrow_select::concat::{concat, concat_batches};
use arrow_select::filter::{filter, filter_record_batch};
use arrow_select::take::{take, take_record_batch};
use serde::{Deserialize, Serialize};

use crate::types::Schema;

/// Where the records of a batch were read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Origin {
    /// The submission (one accepted version of one file) the records belong to.
    pub submission: u64,
    /// The chunk of that file, as in [`crate::Time::chunk`].
    pub chunk: u64,
    /// The byte offset, in the uncompressed file, of the first byte of the chunk.
    pub offset: u64,
}

/// Rows in columns, all with the same difference and origin.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The pruned columns. The number of rows is right even when there is no column.
    pub columns: RecordBatch,
    /// The bytes of each record as they stood in the file, *with* their line terminator; `None` when
    /// nothing downstream needs them.
    pub raw: Option<BinaryViewArray>,
    /// Where each record stands in its chunk, see [`position`]; `None` when nothing downstream
    /// needs it.
    pub positions: Option<UInt64Array>,
    /// +1 for rows that are there, -1 for rows that are taken back.
    pub diff: i64,
    /// Where the rows were read.
    pub origin: Origin,
}

/// Packs the line (counted from 0 inside the chunk) and the byte offset (inside the chunk) of a
/// record. Positions sort in input order.
pub const fn position(line: u32, offset: u32) -> u64 {
    ((line as u64) << 32) | offset as u64
}

/// Returns the line inside the chunk of a packed position.
pub const fn position_line(position: u64) -> u32 {
    (position >> 32) as u32
}

/// Returns the byte offset inside the chunk of a packed position.
pub const fn position_offset(position: u64) -> u32 {
    position as u32
}

impl Default for Batch {
    fn default() -> Self {
        Self {
            columns: RecordBatch::new_empty(Arc::new(arrow_schema::Schema::empty())),
            raw: None,
            positions: None,
            diff: 1,
            origin: Origin::default(),
        }
    }
}

impl Batch {
    /// Returns the number of rows.
    pub fn len(&self) -> usize {
        self.columns.num_rows()
    }

    /// Returns whether there are no rows. Such a batch is never sent.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the rows for which `keep` is true (NULL counts as false).
    ///
    /// # Panics
    /// If `keep` has another length than the batch.
    pub fn filter(self, keep: &BooleanArray) -> Self {
        let kept = keep.true_count();
        if kept == self.len() {
            return self;
        }
        if kept == 0 {
            return Self::default();
        }
        const SAME_LENGTH: &str = "a selection is as long as its batch";
        let columns = if self.columns.num_columns() == 0 {
            rows_without_columns(kept)
        } else {
            filter_record_batch(&self.columns, keep).expect(SAME_LENGTH)
        };
        let raw =
            self.raw.map(|raw| filter(&raw, keep).expect(SAME_LENGTH).as_binary_view().clone());
        let positions = self.positions.map(|positions| {
            filter(&positions, keep).expect(SAME_LENGTH).as_primitive::<UInt64Type>().clone()
        });
        Self { columns, raw, positions, diff: self.diff, origin: self.origin }
    }

    /// Returns these rows, in this order. Views keep pointing into the shared buffers.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn take(&self, rows: &UInt32Array) -> Self {
        const THERE: &str = "every row that is taken is there";
        let columns = if self.columns.num_columns() == 0 {
            rows_without_columns(rows.len())
        } else {
            take_record_batch(&self.columns, rows).expect(THERE)
        };
        let raw =
            |raw: &BinaryViewArray| take(raw, rows, None).expect(THERE).as_binary_view().clone();
        let positions = |positions: &UInt64Array| {
            take(positions, rows, None).expect(THERE).as_primitive::<UInt64Type>().clone()
        };
        Self {
            columns,
            raw: self.raw.as_ref().map(raw),
            positions: self.positions.as_ref().map(positions),
            diff: self.diff,
            origin: self.origin,
        }
    }

    /// Returns the rows of all batches, one batch behind the other. What not all of them carry
    /// (raw records, positions) is left out; difference and origin are those of the first.
    ///
    /// # Panics
    /// If they do not have the same columns.
    pub fn concat(batches: &[Self]) -> Self {
        const ALIKE: &str = "batches of one edge have the same columns";
        let Some(first) = batches.first() else { return Self::default() };
        let columns = if first.columns.num_columns() == 0 {
            rows_without_columns(batches.iter().map(Self::len).sum())
        } else {
            concat_batches(first.columns.schema_ref(), batches.iter().map(|batch| &batch.columns))
                .expect(ALIKE)
        };
        let raw: Option<Vec<&dyn Array>> =
            batches.iter().map(|batch| batch.raw.as_ref().map(|raw| raw as &dyn Array)).collect();
        let positions: Option<Vec<&dyn Array>> = batches
            .iter()
            .map(|batch| batch.positions.as_ref().map(|positions| positions as &dyn Array))
            .collect();
        Self {
            columns,
            raw: raw.map(|all| concat(&all).expect(ALIKE).as_binary_view().clone()),
            positions: positions
                .map(|all| concat(&all).expect(ALIKE).as_primitive::<UInt64Type>().clone()),
            diff: first.diff,
            origin: first.origin,
        }
    }

    /// Returns the batch with only what `shape` asks for, in its order. Copies no data.
    ///
    /// # Panics
    /// If a column is missing; the plan guarantees that it is there.
    pub fn project(&self, shape: &Shape) -> Self {
        Self {
            columns: self.pick(&shape.schema),
            raw: if shape.raw { self.raw.clone() } else { None },
            positions: if shape.positions { self.positions.clone() } else { None },
            diff: self.diff,
            origin: self.origin,
        }
    }

    /// Returns the columns of `schema`, in its order.
    ///
    /// # Panics
    /// If a column is missing; the plan guarantees that it is there.
    pub fn pick(&self, schema: &Schema) -> RecordBatch {
        let there = self.columns.schema_ref();
        let find = |column: &crate::types::Column| {
            there.index_of(&column.name).expect("the plan carries every column that is read")
        };
        let picked: Vec<usize> = schema.columns().iter().map(find).collect();
        self.columns.project(&picked).expect("each index was just found")
    }
}

/// Returns a record batch of `rows` rows and no column.
pub fn rows_without_columns(rows: usize) -> RecordBatch {
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    let schema = Arc::new(arrow_schema::Schema::empty());
    RecordBatch::try_new_with_options(schema, vec![], &options)
        .expect("no column can have another length")
}

/// What the batches of one edge carry: decided by the planner from what is read downstream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Shape {
    /// The columns, in order.
    pub schema: Schema,
    /// Whether the original bytes of each record come along.
    pub raw: bool,
    /// Whether the position of each record comes along.
    pub positions: bool,
}
