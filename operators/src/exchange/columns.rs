//! Columns: the safe codec. A batch is a header and, per column, its validity, and its values as
//! they lie in memory; strings are offsets and only the bytes that are referred to.
//!
//! Every part is padded to 8 bytes. Decoding copies the bytes once, into one aligned buffer, of
//! which all columns are slices; so nothing keeps the much larger slab of the connection alive.
//! Numbers are in the order of the machine: peers run the same binary.
//!
//! ```text
//! rows | diff | submission, chunk, offset | flags | number of columns         8 bytes each
//! per column: tag | name length | name
//! per array (columns, then raw, then positions):
//!   [validity bits, if the tag says so] then
//!   numbers: the values          bools: bits          decimals: 16 bytes each
//!   texts:   rows + 1 offsets of 4 bytes | the bytes
//! ```

use std::io::{self, Write};
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{
    ByteViewType, Decimal128Type, Float64Type, Int64Type, StringViewType, TimestampMicrosecondType,
};
use arrow_array::{
    Array, ArrayRef, BinaryArray, BinaryViewArray, BooleanArray, Decimal128Array, Float64Array,
    GenericByteViewArray, Int64Array, RecordBatch, RecordBatchOptions, StringArray,
    StringViewArray, TimestampMicrosecondArray, UInt64Array,
};
use arrow_buffer::{
    ArrowNativeType, BooleanBuffer, Buffer, NullBuffer, OffsetBuffer, ScalarBuffer, ToByteSlice,
};
use arrow_schema::{Field, Schema};

use super::{Codec, DecodeError};
use crate::batch::{Batch, Origin};
use crate::decimal::Decimal;
use crate::types::Type;

/// The safe codec: columns as they lie in memory, checked when they are read.
pub struct Columns;

/// Words before the columns are described.
const HEADER_WORDS: usize = 7;
/// Flags of a batch.
pub(super) const HAS_RAW: u64 = 1;
pub(super) const HAS_POSITIONS: u64 = 2;
/// The bits of a tag: the type (with the digits of a decimal in two bytes of their own), whether there
/// are NULLs, whether the field may have some.
pub(super) const TYPE_BITS: u64 = 0x00ff_ff07;
/// Where the digits of a decimal stand in a tag.
const DIGITS_SHIFT: u32 = 8;
pub(super) const HAS_NULLS: u64 = 8;
pub(super) const NULLABLE: u64 = 16;

const ZEROS: [u8; 8] = [0; 8];

const fn padded(length: usize) -> usize {
    length.next_multiple_of(8)
}

/// Returns the type of a column and its number on the wire.
///
/// # Panics
/// When the column is none of the arrays of [`Type`]; the planner never lets one through.
pub(super) fn type_of(array: &dyn Array) -> (Type, u64) {
    let kind = match array.data_type() {
        arrow_schema::DataType::Utf8View => Type::String,
        arrow_schema::DataType::Int64 => Type::Int,
        arrow_schema::DataType::Float64 => Type::Float,
        arrow_schema::DataType::Boolean => Type::Bool,
        other if *other == Type::Timestamp.arrow() => Type::Timestamp,
        arrow_schema::DataType::Decimal128(precision, scale) => {
            let digits = Decimal::new(*precision, scale.unsigned_abs());
            Type::Decimal(digits.expect("a column of ours has digits that there are"))
        }
        other => panic!("a batch holds a column of {other}, which is none of our types"),
    };
    let digits = match kind {
        Type::Decimal(digits) => u64::from(digits.precision()) | u64::from(digits.scale()) << 8,
        _ => 0,
    };
    let word = Type::ALL.iter().position(|one| one.name() == kind.name()).unwrap_or_default();
    (kind, word as u64 | digits << DIGITS_SHIFT)
}

/// Returns the type of this number.
pub(super) fn type_at(number: u64) -> Result<Type, DecodeError> {
    let found = match Type::ALL.get((number & 7) as usize) {
        Some(Type::Decimal(_)) => {
            let [_, precision, scale, ..] = number.to_le_bytes();
            Decimal::new(precision, scale).map(Type::Decimal)
        }
        found => found.copied().filter(|_| number <= 7),
    };
    found.ok_or(DecodeError::Impossible { what: "the type of a column", found: number })
}

/// Returns the validity of an array, `None` when it has no NULL.
pub(super) fn nulls(array: &dyn Array) -> Option<&NullBuffer> {
    array.nulls().filter(|nulls| nulls.null_count() > 0)
}

/// Returns how many bytes of text the rows of an array refer to.
pub(super) fn text_length<T: ByteViewType>(array: &GenericByteViewArray<T>) -> usize {
    // The length of a view is its low half word.
    let length = |view: &u128| *view as u32 as usize;
    match nulls(array) {
        None => array.views().iter().map(length).sum(),
        Some(nulls) => {
            let rows = array.views().iter().zip(nulls.iter());
            rows.filter(|(_, valid)| *valid).map(|(view, _)| length(view)).sum()
        }
    }
}

impl Codec for Columns {
    fn length(batch: &Batch) -> usize {
        let schema = batch.columns.schema_ref();
        let names = schema.fields().iter().map(|field| 16 + padded(field.name().len()));
        let columns = batch.columns.columns().iter().map(|array| array_length(array));
        let raw = batch.raw.as_ref().map_or(0, |raw| 8 + array_length(raw));
        let positions = batch.positions.as_ref().map_or(0, |at| 8 + array_length(at));
        8 * HEADER_WORDS + names.sum::<usize>() + columns.sum::<usize>() + raw + positions
    }

    fn encode<W: Write>(batch: &Batch, writer: &mut W) -> io::Result<()> {
        let header: [u64; HEADER_WORDS] = [
            batch.len() as u64,
            batch.diff as u64,
            batch.origin.submission,
            batch.origin.chunk,
            batch.origin.offset,
            flags(batch),
            batch.columns.num_columns() as u64,
        ];
        for word in header {
            writer.write_all(&word.to_ne_bytes())?;
        }
        for (field, array) in
            batch.columns.schema_ref().fields().iter().zip(batch.columns.columns())
        {
            writer.write_all(&tag(array, field.is_nullable()).to_ne_bytes())?;
            writer.write_all(&(field.name().len() as u64).to_ne_bytes())?;
            write_padded(writer, field.name().as_bytes())?;
        }
        for array in batch.columns.columns() {
            write_array(writer, array)?;
        }
        if let Some(raw) = &batch.raw {
            writer.write_all(&nulls_flag(raw).to_ne_bytes())?;
            write_array(writer, raw)?;
        }
        if let Some(positions) = &batch.positions {
            writer.write_all(&nulls_flag(positions).to_ne_bytes())?;
            write_array(writer, positions)?;
        }
        Ok(())
    }

    fn decode(bytes: &[u8]) -> Result<Batch, DecodeError> {
        let mut reader = Reader { buffer: Buffer::from(bytes), at: 0 };
        let rows = reader.size("the number of rows")?;
        let diff = reader.word()? as i64;
        let (submission, chunk, offset) = (reader.word()?, reader.word()?, reader.word()?);
        let flags = reader.word()?;
        let columns = reader.word()?;
        let mut fields = Vec::new();
        let mut tags = Vec::new();
        for _ in 0..columns {
            let tag = reader.word()?;
            let name_length = reader.size("the length of a name")?;
            let name = reader.take(name_length)?;
            let name = String::from_utf8_lossy(&name).into_owned();
            fields.push(Field::new(name, type_at(tag & TYPE_BITS)?.arrow(), tag & NULLABLE != 0));
            tags.push(tag);
        }
        let mut arrays: Vec<ArrayRef> = Vec::with_capacity(tags.len());
        for tag in tags {
            arrays.push(reader.array(tag, rows)?);
        }
        let raw = if flags & HAS_RAW == 0 { None } else { Some(reader.raw(rows)?) };
        let positions =
            if flags & HAS_POSITIONS == 0 { None } else { Some(reader.positions(rows)?) };
        if reader.at != bytes.len() {
            let found = (bytes.len() - reader.at) as u64;
            return Err(DecodeError::Impossible { what: "the number of bytes left over", found });
        }
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let schema = Arc::new(Schema::new(fields));
        let columns = RecordBatch::try_new_with_options(schema, arrays, &options)?;
        Ok(Batch { columns, raw, positions, diff, origin: Origin { submission, chunk, offset } })
    }
}

/// Returns the flags of a batch.
pub(super) fn flags(batch: &Batch) -> u64 {
    let raw = if batch.raw.is_some() { HAS_RAW } else { 0 };
    raw | if batch.positions.is_some() { HAS_POSITIONS } else { 0 }
}

/// Returns the tag of a column.
pub(super) fn tag(array: &ArrayRef, nullable: bool) -> u64 {
    type_of(array).1 | nulls_flag(array) | if nullable { NULLABLE } else { 0 }
}

pub(super) fn nulls_flag(array: &dyn Array) -> u64 {
    if nulls(array).is_some() { HAS_NULLS } else { 0 }
}

/// How an array is laid out.
enum Layout<'a> {
    Numbers(&'a Buffer),
    Bits(&'a BooleanBuffer),
    Text(&'a StringViewArray),
    Bytes(&'a BinaryViewArray),
}

fn layout(array: &dyn Array) -> Layout<'_> {
    if let Some(array) = array.as_any().downcast_ref::<UInt64Array>() {
        return Layout::Numbers(array.values().inner());
    }
    if let Some(array) = array.as_any().downcast_ref::<BinaryViewArray>() {
        return Layout::Bytes(array);
    }
    match type_of(array).0 {
        Type::String => Layout::Text(array.as_string_view()),
        Type::Int => Layout::Numbers(array.as_primitive::<Int64Type>().values().inner()),
        Type::Float => Layout::Numbers(array.as_primitive::<Float64Type>().values().inner()),
        Type::Timestamp => {
            Layout::Numbers(array.as_primitive::<TimestampMicrosecondType>().values().inner())
        }
        Type::Bool => Layout::Bits(array.as_boolean().values()),
        Type::Decimal(_) => {
            Layout::Numbers(array.as_primitive::<Decimal128Type>().values().inner())
        }
    }
}

fn array_length(array: &dyn Array) -> usize {
    let bits = padded(array.len().div_ceil(8));
    let validity = if nulls(array).is_some() { bits } else { 0 };
    let offsets = padded(4 * (array.len() + 1));
    validity
        + match layout(array) {
            Layout::Numbers(values) => values.len(),
            Layout::Bits(_) => bits,
            Layout::Text(array) => offsets + padded(text_length(array)),
            Layout::Bytes(array) => offsets + padded(text_length(array)),
        }
}

fn write_array<W: Write>(writer: &mut W, array: &dyn Array) -> io::Result<()> {
    if let Some(nulls) = nulls(array) {
        write_padded(writer, &nulls.inner().sliced())?;
    }
    match layout(array) {
        Layout::Numbers(values) => writer.write_all(values),
        Layout::Bits(bits) => write_padded(writer, &bits.sliced()),
        Layout::Text(array) => write_text(writer, array),
        Layout::Bytes(array) => write_text(writer, array),
    }
}

fn write_text<W, T>(writer: &mut W, array: &GenericByteViewArray<T>) -> io::Result<()>
where
    W: Write,
    T: ByteViewType,
    T::Native: AsRef<[u8]>,
{
    let too_long = || io::Error::other("a column of one batch holds 2 GiB of text or more");
    let mut offsets = Vec::with_capacity(array.len() + 1);
    let mut end = 0_i32;
    offsets.push(end);
    for row in 0..array.len() {
        if array.is_valid(row) {
            let length = i32::try_from(array.views()[row] as u32).map_err(|_| too_long())?;
            end = end.checked_add(length).ok_or_else(too_long)?;
        }
        offsets.push(end);
    }
    write_padded(writer, offsets.to_byte_slice())?;
    for row in (0..array.len()).filter(|row| array.is_valid(*row)) {
        writer.write_all(array.value(row).as_ref())?;
    }
    write_padding(writer, end as usize)
}

fn write_padded<W: Write>(writer: &mut W, bytes: &[u8]) -> io::Result<()> {
    writer.write_all(bytes)?;
    write_padding(writer, bytes.len())
}

fn write_padding<W: Write>(writer: &mut W, length: usize) -> io::Result<()> {
    writer.write_all(&ZEROS[..padded(length) - length])
}

/// Reads the parts of a batch one after the other.
struct Reader {
    buffer: Buffer,
    at: usize,
}

impl Reader {
    /// Takes `length` bytes and the padding behind them.
    fn take(&mut self, length: usize) -> Result<Buffer, DecodeError> {
        let left = self.buffer.len() - self.at;
        // A length close to the largest would overflow when it is padded.
        if length > left || padded(length) > left {
            return Err(DecodeError::Short {
                wanted: length,
                at: self.at,
                length: self.buffer.len(),
            });
        }
        let taken = self.buffer.slice_with_length(self.at, length);
        self.at += padded(length);
        Ok(taken)
    }

    fn word(&mut self) -> Result<u64, DecodeError> {
        let bytes = self.take(8)?;
        Ok(u64::from_ne_bytes(*bytes.first_chunk().unwrap_or(&ZEROS)))
    }

    fn size(&mut self, what: &'static str) -> Result<usize, DecodeError> {
        let found = self.word()?;
        usize::try_from(found).map_err(|_| DecodeError::Impossible { what, found })
    }

    fn bits(&mut self, rows: usize) -> Result<BooleanBuffer, DecodeError> {
        Ok(BooleanBuffer::new(self.take(rows.div_ceil(8))?, 0, rows))
    }

    fn validity(&mut self, tag: u64, rows: usize) -> Result<Option<NullBuffer>, DecodeError> {
        Ok(if tag & HAS_NULLS == 0 { None } else { Some(NullBuffer::new(self.bits(rows)?)) })
    }

    /// Takes `count` numbers. They are aligned: the buffer is, and all parts are padded.
    fn numbers<N: ArrowNativeType>(
        &mut self,
        count: usize,
    ) -> Result<ScalarBuffer<N>, DecodeError> {
        let what = "the number of rows";
        let length = count
            .checked_mul(size_of::<N>())
            .ok_or(DecodeError::Impossible { what, found: count as u64 })?;
        Ok(ScalarBuffer::from(self.take(length)?))
    }

    fn text(&mut self, rows: usize) -> Result<(OffsetBuffer<i32>, Buffer), DecodeError> {
        let offsets = self.numbers::<i32>(rows.saturating_add(1))?;
        let rising = offsets.first() == Some(&0) && offsets.windows(2).all(|two| two[0] <= two[1]);
        let end = offsets.last().copied().unwrap_or_default();
        if !rising {
            return Err(DecodeError::Impossible { what: "offsets of text", found: end as u64 });
        }
        Ok((OffsetBuffer::new(offsets), self.take(end as usize)?))
    }

    fn array(&mut self, tag: u64, rows: usize) -> Result<ArrayRef, DecodeError> {
        let nulls = self.validity(tag, rows)?;
        Ok(match type_at(tag & TYPE_BITS)? {
            Type::String => {
                let (offsets, bytes) = self.text(rows)?;
                // All text is checked at once, and the views share its buffer.
                let text = StringArray::try_new(offsets, bytes, nulls)?;
                Arc::new(GenericByteViewArray::<StringViewType>::from(&text))
            }
            Type::Int => Arc::new(Int64Array::try_new(self.numbers(rows)?, nulls)?),
            Type::Float => Arc::new(Float64Array::try_new(self.numbers(rows)?, nulls)?),
            Type::Bool => Arc::new(BooleanArray::new(self.bits(rows)?, nulls)),
            Type::Timestamp => {
                let array = TimestampMicrosecondArray::try_new(self.numbers(rows)?, nulls)?;
                Arc::new(array.with_data_type(Type::Timestamp.arrow()))
            }
            kind @ Type::Decimal(_) => {
                // Parts are aligned to 8 bytes only, so these are copied once more.
                let bytes = self.take(rows.saturating_mul(16))?;
                let (words, _) = bytes.as_chunks::<16>();
                let values: Vec<i128> =
                    words.iter().map(|word| i128::from_ne_bytes(*word)).collect();
                let array = Decimal128Array::try_new(values.into(), nulls)?;
                Arc::new(array.with_data_type(kind.arrow()))
            }
        })
    }

    fn raw(&mut self, rows: usize) -> Result<BinaryViewArray, DecodeError> {
        let tag = self.word()?;
        let nulls = self.validity(tag, rows)?;
        let (offsets, bytes) = self.text(rows)?;
        Ok(BinaryViewArray::from(&BinaryArray::try_new(offsets, bytes, nulls)?))
    }

    fn positions(&mut self, rows: usize) -> Result<UInt64Array, DecodeError> {
        let tag = self.word()?;
        let nulls = self.validity(tag, rows)?;
        Ok(UInt64Array::try_new(self.numbers(rows)?, nulls)?)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use proptest::prelude::*;

    use super::super::samples::{any_batch, batch, check, check_corners, check_damage, encode};
    use super::*;

    #[test]
    fn every_kind_of_batch_survives() {
        check_corners::<Columns>();
    }

    #[test]
    fn damaged_bytes_are_refused() {
        check_damage::<Columns>();
    }

    #[test]
    fn any_single_wrong_byte_is_refused_or_read_without_harm() {
        let row = (Some("a text of some length".into()), Some(1), None, None, None, vec![1], 5);
        let bytes = encode::<Columns>(&batch(&[row.clone(), row], true, true, true));
        for at in 0..bytes.len() {
            for wrong in [0, 1, 0x7f, 0x80, 0xff] {
                let mut bytes = bytes.clone();
                bytes[at] = wrong;
                if let Ok(batch) = Columns::decode(&bytes) {
                    assert!(format!("{batch:?}").len() > 1);
                }
            }
        }
    }

    #[test]
    fn decoded_columns_pin_only_their_own_bytes() {
        let row = (Some("a text of some length".into()), Some(1), None, None, None, vec![1], 5);
        let bytes = encode::<Columns>(&batch(&[row.clone(), row], true, false, false));
        let read = Columns::decode(&bytes).unwrap();
        let text = read.columns.column(0).as_string_view();
        assert_eq!(text.data_buffers().len(), 1);
        let inside = text.data_buffers()[0].as_ptr() as usize;
        let outside = bytes.as_ptr() as usize..bytes.as_ptr() as usize + bytes.len();
        assert!(!outside.contains(&inside));
    }

    proptest! {
        #[test]
        fn any_batch_survives(batch in any_batch()) {
            check::<Columns>(&batch);
        }
    }
}
