//! Present: rows of bytes to batches: the columns that are asked for, and the place of each record
//! where it is asked for. Pure; holds nothing.

use std::sync::Arc;

use arrow_array::builder::BinaryViewBuilder;
use arrow_array::{ArrayRef, RecordBatch, UInt64Array};
use arrow_schema::SchemaRef;

use super::layout::{Place, RowLayout, read_raw};
use crate::batch::{Batch, Origin, Shape, rows_without_columns};
use crate::key::{KeyError, Reader};
use crate::time::Time;
use crate::types::Column;
use crate::value::ColumnBuilder;

/// The most rows of one batch that leaves.
pub(super) const ROWS_PER_BATCH: usize = 8 * 1024;

/// What leaves by one port.
#[derive(Clone, Debug)]
pub struct Port {
    /// What the bytes of the rows hold that are given for this port.
    pub layout: RowLayout,
    /// What leaves: its columns are found by name, first among those of the layout and its tail, then
    /// among those of the key. Positions or raw records need a layout that has them.
    pub shape: Shape,
    /// Whether somebody reads it; else its rows are dropped on purpose.
    pub used: bool,
}

/// Where a column of the output is found.
#[derive(Clone, Copy)]
enum From {
    Key(usize),
    Value(usize),
    Tail(usize),
}

/// Turns the rows of one port into batches.
pub(crate) struct Presenter {
    keys: Vec<Column>,
    layout: RowLayout,
    shape: Shape,
    schema: SchemaRef,
    columns: Vec<From>,
}

impl Presenter {
    /// # Panics
    /// When a column of the shape is neither in the key nor in the layout; the plan never asks for
    /// such a one.
    pub(crate) fn new(keys: &[Column], port: Port) -> Self {
        let find = |column: &Column| {
            let among = |columns: &[Column]| columns.iter().position(|one| one.name == column.name);
            among(&port.layout.columns)
                .map(From::Value)
                .or_else(|| among(&port.layout.tail).map(From::Tail))
                .or_else(|| among(keys).map(From::Key))
                .expect("the plan keeps every column that is read")
        };
        let columns: Vec<From> = port.shape.schema.columns().iter().map(find).collect();
        let schema = port.shape.schema.arrow();
        // Keys that nobody asks for are not taken apart.
        let reads_key = columns.iter().any(|from| matches!(from, From::Key(_)));
        let keys = if reads_key { keys.to_vec() } else { Vec::new() };
        Self { keys, layout: port.layout, shape: port.shape, schema, columns }
    }

    /// Returns whether rows leave with the place of their record.
    pub(crate) fn has_places(&self) -> bool {
        (self.shape.positions || self.shape.raw) && self.layout.arrival.is_some()
    }

    /// Returns where the record of a row stands.
    pub(crate) fn place(&self, row: &[u8]) -> Place {
        self.layout.place(row).unwrap_or_else(|error| foreign(&error))
    }

    /// Returns one batch of these rows, which all come from one chunk if they have places.
    pub(crate) fn batch<'a>(
        &self,
        rows: impl ExactSizeIterator<Item = (&'a [u8], &'a [u8])>,
        epoch: u64,
        diff: i64,
    ) -> Batch {
        self.try_batch(rows, epoch, diff).unwrap_or_else(|error| foreign(&error))
    }

    fn try_batch<'a>(
        &self,
        rows: impl ExactSizeIterator<Item = (&'a [u8], &'a [u8])>,
        epoch: u64,
        diff: i64,
    ) -> Result<Batch, KeyError> {
        let count = rows.len();
        let builders = |columns: &[Column]| -> Vec<ColumnBuilder> {
            columns.iter().map(|one| ColumnBuilder::new(one.kind, count)).collect()
        };
        let mut keys = builders(&self.keys);
        let mut values = builders(&self.layout.columns);
        let mut tail = builders(&self.layout.tail);
        let mut raw = self.shape.raw.then(|| BinaryViewBuilder::with_capacity(count));
        let has_places = self.has_places();
        let mut positions = Vec::with_capacity(if has_places { count } else { 0 });
        let mut origin = Origin { submission: epoch, chunk: Time::END, offset: 0 };
        for (key, row) in rows {
            cells(&mut Reader::new(key), &self.keys, &mut keys)?;
            let mut parts = self.layout.parts(row)?;
            if has_places {
                origin = parts.place.origin();
                positions.push(parts.place.position);
            }
            cells(&mut parts.reader, &self.layout.columns, &mut values)?;
            if self.layout.raw {
                let bytes = read_raw(&mut parts.reader)?;
                if let Some(raw) = &mut raw {
                    raw.append_value(bytes);
                }
            }
            cells(&mut parts.reader, &self.layout.tail, &mut tail)?;
            parts.reader.finish()?;
        }
        let finish = |builders: Vec<ColumnBuilder>| -> Vec<ArrayRef> {
            builders.into_iter().map(ColumnBuilder::finish).collect()
        };
        let (keys, values, tail) = (finish(keys), finish(values), finish(tail));
        let columns = self.columns.iter().map(|from| match from {
            From::Key(at) => Arc::clone(&keys[*at]),
            From::Value(at) => Arc::clone(&values[*at]),
            From::Tail(at) => Arc::clone(&tail[*at]),
        });
        let columns: Vec<ArrayRef> = columns.collect();
        let columns = if columns.is_empty() {
            rows_without_columns(count)
        } else {
            RecordBatch::try_new(Arc::clone(&self.schema), columns)
                .expect("each column was built for its type, with one cell a row")
        };
        Ok(Batch {
            columns,
            raw: raw.map(|mut raw| raw.finish()),
            positions: (has_places && self.shape.positions).then(|| UInt64Array::from(positions)),
            diff,
            origin,
        })
    }
}

fn cells(
    reader: &mut Reader<'_>,
    columns: &[Column],
    builders: &mut [ColumnBuilder],
) -> Result<(), KeyError> {
    for (column, builder) in columns.iter().zip(builders) {
        reader.cell(column.kind, builder)?;
    }
    Ok(())
}

/// State is checked where it comes in; here it can only be a mistake of ours.
fn foreign(error: &KeyError) -> ! {
    panic!("the state of an operator holds a foreign row: {error}")
}
