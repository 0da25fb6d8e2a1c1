//! Layout: what the bytes of a value hold: first what orders it among the values of its key, then
//! where its record stands, then its columns.
//!
//! Owns the encoding, which is kept in checkpoints and so changes only with
//! [`ROW_FORMAT`](super::ROW_FORMAT). Bytes order like the rows do, so a sorted list of bytes is a
//! sorted list of rows.
//!
//! | order   | one cell per column, as in [`crate::key`]; descending ones have every bit flipped, and |
//! |         | a NULL is `00` where NULLs come first, `ff` where they come last                       |
//! | arrival | submission, chunk, position, offset of the chunk: each its length in bytes, then its   |
//! |         | bytes from the highest; every bit is flipped where the last arrival comes first        |
//! | columns | as in [`crate::key`]                                                                   |
//! | raw     | its length (7 bits a byte, lowest first), then the bytes of the record                 |
//! | tail    | what the operator adds, as in [`crate::key`]                                           |

use arrow_array::{Array, ArrayRef, BinaryViewArray, UInt64Array};
use serde::{Deserialize, Serialize};

use crate::aggregate::put_number;
use crate::batch::{Batch, Origin};
use crate::key::{KeyEncoder, KeyError, Reader};
use crate::types::{Column, Type};
use crate::value::ColumnBuilder;

/// How a column orders rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// The least value first.
    Ascending,
    /// The greatest value first.
    Descending,
}

/// Where NULLs stand among the values of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Nulls {
    /// Before all values.
    First,
    /// Behind all values.
    Last,
}

/// One column of an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct OrderColumn {
    /// What it holds.
    pub kind: Type,
    /// Which value comes first.
    pub direction: Direction,
    /// Where NULLs stand.
    pub nulls: Nulls,
}

impl OrderColumn {
    /// Returns the same order from its other end.
    pub const fn reversed(self) -> Self {
        let direction = match self.direction {
            Direction::Ascending => Direction::Descending,
            Direction::Descending => Direction::Ascending,
        };
        let nulls = match self.nulls {
            Nulls::First => Nulls::Last,
            Nulls::Last => Nulls::First,
        };
        Self { kind: self.kind, direction, nulls }
    }
}

/// Which of two records that are alike otherwise comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Arrival {
    /// The one that arrived first: by submission, chunk and position.
    First,
    /// The one that arrived last.
    Last,
}

/// What the bytes of a value hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RowLayout {
    /// What orders the values of a key, before anything else does.
    pub order: Vec<OrderColumn>,
    /// Where the record stands, which also orders those that are alike so far; `None` where rows
    /// have no place, or nobody needs it.
    pub arrival: Option<Arrival>,
    /// The columns.
    pub columns: Vec<Column>,
    /// Whether the bytes of the record come along.
    pub raw: bool,
    /// Columns that are not there when a row arrives, but added by what the operator says.
    pub tail: Vec<Column>,
}

/// The columns of one batch that a layout is filled with.
pub(super) struct RowEncoder<'a> {
    order: Vec<(KeyEncoder<'a>, &'a ArrayRef, OrderColumn)>,
    arrival: Option<(Arrival, Origin, Option<&'a UInt64Array>)>,
    columns: KeyEncoder<'a>,
    raw: Option<Option<&'a BinaryViewArray>>,
}

impl<'a> RowEncoder<'a> {
    pub(super) fn append(&self, row: usize, out: &mut Vec<u8>) {
        for (encoder, array, column) in &self.order {
            let from = out.len();
            encoder.append(row, out);
            let Some(cell) = out.get_mut(from..) else { continue };
            if column.direction == Direction::Descending {
                cell.iter_mut().for_each(|byte| *byte = !*byte);
            }
            if array.is_null(row)
                && let Some(mark) = cell.first_mut()
            {
                *mark = if column.nulls == Nulls::First { 0 } else { 0xff };
            }
        }
        if let Some((arrival, origin, positions)) = &self.arrival {
            let position = positions.map_or(0, |positions| positions.value(row));
            let from = out.len();
            for number in [origin.submission, origin.chunk, position, origin.offset] {
                append_number(number, out);
            }
            if *arrival == Arrival::Last {
                out.iter_mut().skip(from).for_each(|byte| *byte = !*byte);
            }
        }
        self.columns.append(row, out);
        if let Some(raw) = &self.raw {
            let raw = raw.map_or(&[][..], |raw| raw.value(row));
            put_number(raw.len() as u64, out);
            out.extend_from_slice(raw);
        }
    }
}

/// Appends a number so that bytes order like numbers: its length, then its bytes from the highest.
fn append_number(number: u64, out: &mut Vec<u8>) {
    let skip = number.leading_zeros() as usize / 8;
    out.push((8 - skip) as u8);
    out.extend_from_slice(&number.to_be_bytes()[skip..]);
}

/// Where a record stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The file.
    pub submission: u64,
    /// The chunk of the file.
    pub chunk: u64,
    /// The place in the chunk, see [`crate::batch::position`].
    pub position: u64,
    /// Where the chunk begins in the file.
    pub offset: u64,
}

impl Place {
    /// Returns the chunk the record was read from.
    pub const fn origin(self) -> Origin {
        Origin { submission: self.submission, chunk: self.chunk, offset: self.offset }
    }
}

/// A value taken apart, as far as that needs no copy.
pub(super) struct RowParts<'a> {
    pub(super) place: Place,
    /// The cells of the columns, then raw and tail.
    pub(super) reader: Reader<'a>,
}

impl RowLayout {
    /// Returns a layout of these columns and nothing else: rows order by their columns.
    pub fn plain(columns: Vec<Column>) -> Self {
        Self { columns, ..Self::default() }
    }

    pub(super) fn encoder<'a>(
        &self,
        order: &'a [ArrayRef],
        values: &'a [ArrayRef],
        batch: &'a Batch,
    ) -> RowEncoder<'a> {
        let order = order.iter().zip(&self.order);
        RowEncoder {
            order: order.map(|(one, column)| (KeyEncoder::new([one]), one, *column)).collect(),
            arrival: self.arrival.map(|one| (one, batch.origin, batch.positions.as_ref())),
            columns: KeyEncoder::new(values),
            raw: self.raw.then_some(batch.raw.as_ref()),
        }
    }

    /// Returns where the columns of a value begin, and the place of its record (zeros without one).
    pub(super) fn parts<'a>(&self, value: &'a [u8]) -> Result<RowParts<'a>, KeyError> {
        let mut reader = Reader::new(value);
        for column in &self.order {
            skip_cell(&mut reader, *column)?;
        }
        let place = match self.arrival {
            None => Place::default(),
            Some(arrival) => {
                let flip = if arrival == Arrival::Last { 0xff } else { 0 };
                Place {
                    submission: read_number(&mut reader, flip)?,
                    chunk: read_number(&mut reader, flip)?,
                    position: read_number(&mut reader, flip)?,
                    offset: read_number(&mut reader, flip)?,
                }
            }
        };
        Ok(RowParts { place, reader })
    }

    /// Returns the place of the record of a value; zeros without one.
    ///
    /// # Errors
    /// When the bytes are no value of this layout.
    pub fn place(&self, value: &[u8]) -> Result<Place, KeyError> {
        self.parts(value).map(|parts| parts.place)
    }

    /// Returns the cells of the columns of a value.
    ///
    /// # Errors
    /// When the bytes are no value of this layout.
    pub fn values(&self, value: &[u8]) -> Result<Vec<crate::value::Value>, KeyError> {
        let mut parts = self.parts(value)?;
        self.columns.iter().map(|column| parts.reader.value(column.kind)).collect()
    }

    /// Returns the bytes of the record of a value; none where they are not kept.
    ///
    /// # Errors
    /// When the bytes are no value of this layout.
    pub fn raw_of<'a>(&self, value: &'a [u8]) -> Result<&'a [u8], KeyError> {
        let mut reader = Reader::new(value);
        for column in &self.order {
            skip_cell(&mut reader, *column)?;
        }
        if self.arrival.is_some() {
            (0..4).try_for_each(|_| read_number(&mut reader, 0).map(drop))?;
        }
        for column in &self.columns {
            reader.value(column.kind)?;
        }
        if self.raw { read_raw(&mut reader) } else { Ok(&[]) }
    }

    /// Returns the columns of these values, in order.
    ///
    /// # Errors
    /// When the bytes are no values of this layout.
    pub fn arrays<'a>(
        &self,
        values: impl ExactSizeIterator<Item = &'a [u8]>,
    ) -> Result<Vec<ArrayRef>, KeyError> {
        let count = values.len();
        let builder = |column: &Column| ColumnBuilder::new(column.kind, count);
        let mut builders: Vec<ColumnBuilder> = self.columns.iter().map(builder).collect();
        for value in values {
            let mut parts = self.parts(value)?;
            for (column, builder) in self.columns.iter().zip(&mut builders) {
                parts.reader.cell(column.kind, builder)?;
            }
        }
        Ok(builders.into_iter().map(ColumnBuilder::finish).collect())
    }

    /// Checks that bytes from outside are a value of this layout.
    pub(super) fn check(&self, value: &[u8]) -> Result<(), KeyError> {
        let mut parts = self.parts(value)?;
        for column in &self.columns {
            parts.reader.value(column.kind)?;
        }
        if self.raw {
            read_raw(&mut parts.reader)?;
        }
        parts.reader.finish()
    }
}

fn skip_cell(reader: &mut Reader<'_>, column: OrderColumn) -> Result<(), KeyError> {
    let rest = reader.rest();
    let length = match (rest.first(), column.kind) {
        (Some(0 | 0xff), _) => 1,
        (_, Type::String) => {
            let end = if column.direction == Direction::Descending { 0xff } else { 0 };
            memchr::memchr(end, rest).map_or(usize::MAX, |at| at + 1)
        }
        (_, Type::Bool) => 2,
        (_, Type::Int | Type::Float | Type::Timestamp) => 9,
        (_, Type::Decimal(_)) => 17,
    };
    reader.skip(length)
}

fn read_number(reader: &mut Reader<'_>, flip: u8) -> Result<u64, KeyError> {
    let rest = reader.rest();
    let length = usize::from(rest.first().map_or(u8::MAX, |byte| byte ^ flip));
    let bytes = rest.get(1..).and_then(|rest| rest.get(..length)).filter(|_| length <= 8);
    let bytes = bytes.ok_or_else(|| reader.error("no such number"))?;
    let number = bytes.iter().fold(0, |sum, byte| sum << 8 | u64::from(byte ^ flip));
    reader.skip(1 + length)?;
    Ok(number)
}

/// Reads the bytes of the record.
pub(super) fn read_raw<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8], KeyError> {
    let rest = reader.rest();
    let (mut length, mut at) = (0_usize, 0);
    loop {
        let byte = *rest.get(at).ok_or_else(|| reader.error("it ends"))?;
        if at > 4 {
            return Err(reader.error("a record that is too long"));
        }
        length |= usize::from(byte & 0x7f) << (7 * at);
        at += 1;
        if byte < 0x80 {
            break;
        }
    }
    reader.skip(at)?;
    let raw = reader.rest().get(..length).ok_or_else(|| reader.error("it ends"))?;
    reader.skip(length)?;
    Ok(raw)
}

/// Appends a cell to a tail.
pub fn append_int(value: i64, out: &mut Vec<u8>) {
    out.push(1);
    out.extend_from_slice(&crate::key::ordered_int(value).to_be_bytes());
}
