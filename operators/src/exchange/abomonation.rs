//! Abomonation: a second codec, that copies plain memory. Behind the feature of the same name.
//!
//! A batch becomes four plain vectors, which abomonation writes as they lie in memory, pointers and
//! all, and whose pointers it corrects in place when they are read. All `unsafe` of the exchange is
//! in this file. It holds because of what never happens: the bytes come only from a peer that runs
//! the same binary over an authenticated connection, never from a file or a client; no type with
//! padding or forbidden values is encoded; the memory that is decoded is aligned to 8 bytes and is
//! ours alone. What the vectors say is then checked like everything else that arrives.

#![allow(unsafe_code, reason = "abomonation has only unsafe functions; see above")]

use std::io::{self, Write};
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{
    ByteViewType, Decimal128Type, Float64Type, Int64Type, TimestampMicrosecondType,
};
use arrow_array::{
    Array, ArrayRef, BinaryArray, BinaryViewArray, BooleanArray, Decimal128Array, Float64Array,
    GenericByteViewArray, Int64Array, RecordBatch, RecordBatchOptions, StringArray,
    StringViewArray, TimestampMicrosecondArray, UInt64Array,
};
use arrow_buffer::{BooleanBuffer, Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow_schema::{Field, Schema};

use super::columns::{
    HAS_NULLS, HAS_POSITIONS, HAS_RAW, NULLABLE, TYPE_BITS, flags, nulls, nulls_flag, tag,
    text_length, type_at, type_of,
};
use super::{Codec, DecodeError};
use crate::batch::{Batch, Origin};
use crate::types::Type;

/// The codec of plain vectors.
pub struct Abomonation;

/// A batch as plain vectors: words (header, tags, lengths, offsets, positions, decimals in two),
/// integers, floats, and bytes (names, bits, text). The bytes are last, so that everything before stays aligned.
type Plain = (Vec<u64>, Vec<i64>, Vec<f64>, Vec<u8>);

/// Words before the columns are described.
const HEADER_WORDS: usize = 7;

impl Codec for Abomonation {
    fn length(batch: &Batch) -> usize {
        let mut sizes = Sizes { words: HEADER_WORDS, numbers: 0, bytes: 0 };
        for (field, array) in
            batch.columns.schema_ref().fields().iter().zip(batch.columns.columns())
        {
            sizes.words += 2;
            sizes.bytes += field.name().len();
            sizes.array(array, type_of(array).0);
        }
        if let Some(raw) = &batch.raw {
            sizes.words += 1;
            sizes.validity(raw);
            sizes.text(raw);
        }
        if let Some(positions) = &batch.positions {
            sizes.words += 1 + positions.len();
            sizes.validity(positions);
        }
        size_of::<Plain>() + 8 * (sizes.words + sizes.numbers) + sizes.bytes.next_multiple_of(8)
    }

    fn encode<W: Write>(batch: &Batch, writer: &mut W) -> io::Result<()> {
        let mut plain = to_plain(batch)?;
        plain.3.resize(plain.3.len().next_multiple_of(8), 0);
        // SAFETY: vectors of plain numbers have no padding that abomonation could read.
        unsafe { abomonation::encode(&plain, writer) }
    }

    fn decode(bytes: &[u8]) -> Result<Batch, DecodeError> {
        let short =
            || DecodeError::Short { wanted: size_of::<Plain>(), at: 0, length: bytes.len() };
        if !bytes.len().is_multiple_of(8) {
            let found = bytes.len() as u64;
            return Err(DecodeError::Impossible { what: "the number of bytes", found });
        }
        // A copy of our own, because decoding writes pointers into it, aligned as the vectors need.
        let mut words = vec![0_u64; bytes.len() / 8];
        let length = bytes.len();
        // SAFETY: the words are initialised, and any bytes are valid words; the slice ends with them.
        let memory = unsafe { std::slice::from_raw_parts_mut(words.as_mut_ptr().cast(), length) };
        memory.copy_from_slice(bytes);
        // SAFETY: the memory is aligned, and the peer of the same binary wrote a `Plain` into it. Every
        // vector before the last is of 8-byte numbers, so each starts aligned. The vectors are only
        // borrowed, never dropped or grown, and do not outlive the memory.
        let decoded = unsafe { abomonation::decode::<Plain>(memory) };
        let (plain, rest) = decoded.ok_or_else(short)?;
        if !rest.is_empty() {
            let found = rest.len() as u64;
            return Err(DecodeError::Impossible { what: "the number of bytes left over", found });
        }
        from_plain(plain)
    }
}

/// How long the vectors will be.
struct Sizes {
    words: usize,
    numbers: usize,
    bytes: usize,
}

impl Sizes {
    fn array(&mut self, array: &ArrayRef, kind: Type) {
        self.validity(array);
        match kind {
            Type::String => self.text(array.as_string_view()),
            Type::Int | Type::Timestamp | Type::Float => self.numbers += array.len(),
            Type::Bool => self.bytes += array.len().div_ceil(8),
            Type::Decimal(_) => self.words += 2 * array.len(),
        }
    }

    fn validity(&mut self, array: &dyn Array) {
        if nulls(array).is_some() {
            self.bytes += array.len().div_ceil(8);
        }
    }

    fn text<T: ByteViewType>(&mut self, array: &GenericByteViewArray<T>) {
        self.words += array.len();
        self.bytes += text_length(array);
    }
}

fn to_plain(batch: &Batch) -> io::Result<Plain> {
    let header: [u64; HEADER_WORDS] = [
        batch.len() as u64,
        batch.diff as u64,
        batch.origin.submission,
        batch.origin.chunk,
        batch.origin.offset,
        flags(batch),
        batch.columns.num_columns() as u64,
    ];
    let mut plain: Plain = (header.to_vec(), Vec::new(), Vec::new(), Vec::new());
    for (field, array) in batch.columns.schema_ref().fields().iter().zip(batch.columns.columns()) {
        plain.0.extend([tag(array, field.is_nullable()), field.name().len() as u64]);
        plain.3.extend_from_slice(field.name().as_bytes());
    }
    for array in batch.columns.columns() {
        add_validity(&mut plain, array);
        match type_of(array).0 {
            Type::String => add_text(&mut plain, array.as_string_view())?,
            Type::Int => plain.1.extend_from_slice(array.as_primitive::<Int64Type>().values()),
            Type::Timestamp => {
                plain
                    .1
                    .extend_from_slice(array.as_primitive::<TimestampMicrosecondType>().values());
            }
            Type::Float => plain.2.extend_from_slice(array.as_primitive::<Float64Type>().values()),
            Type::Bool => plain.3.extend_from_slice(&array.as_boolean().values().sliced()),
            Type::Decimal(_) => {
                let values = array.as_primitive::<Decimal128Type>().values().iter();
                plain.0.extend(values.flat_map(|units| [*units as u64, (*units >> 64) as u64]));
            }
        }
    }
    if let Some(raw) = &batch.raw {
        plain.0.push(nulls_flag(raw));
        add_validity(&mut plain, raw);
        add_text(&mut plain, raw)?;
    }
    if let Some(positions) = &batch.positions {
        plain.0.push(nulls_flag(positions));
        add_validity(&mut plain, positions);
        plain.0.extend_from_slice(positions.values());
    }
    Ok(plain)
}

fn add_validity(plain: &mut Plain, array: &dyn Array) {
    if let Some(nulls) = nulls(array) {
        plain.3.extend_from_slice(&nulls.inner().sliced());
    }
}

/// Adds the end of each text, counted from the first, and the bytes.
fn add_text<T>(plain: &mut Plain, array: &GenericByteViewArray<T>) -> io::Result<()>
where
    T: ByteViewType,
    T::Native: AsRef<[u8]>,
{
    let start = plain.3.len();
    for row in 0..array.len() {
        if array.is_valid(row) {
            plain.3.extend_from_slice(array.value(row).as_ref());
        }
        plain.0.push((plain.3.len() - start) as u64);
    }
    if i32::try_from(plain.3.len() - start).is_err() {
        return Err(io::Error::other("a column of one batch holds 2 GiB of text or more"));
    }
    Ok(())
}

fn from_plain(plain: &Plain) -> Result<Batch, DecodeError> {
    let mut reader = Reader { words: &plain.0, ints: &plain.1, floats: &plain.2, bytes: &plain.3 };
    let rows = reader.word()? as usize;
    let diff = reader.word()? as i64;
    let (submission, chunk, offset) = (reader.word()?, reader.word()?, reader.word()?);
    let flags = reader.word()?;
    let columns = reader.word()?;
    let mut fields = Vec::new();
    let mut tags = Vec::new();
    for _ in 0..columns {
        let tag = reader.word()?;
        let name_length = reader.word()? as usize;
        let name = String::from_utf8_lossy(take(&mut reader.bytes, name_length)?).into_owned();
        fields.push(Field::new(name, type_at(tag & TYPE_BITS)?.arrow(), tag & NULLABLE != 0));
        tags.push(tag);
    }
    let mut arrays: Vec<ArrayRef> = Vec::with_capacity(tags.len());
    for tag in tags {
        arrays.push(reader.array(tag, rows)?);
    }
    let mut raw = None;
    if flags & HAS_RAW != 0 {
        let tag = reader.word()?;
        let nulls = reader.validity(tag, rows)?;
        let (offsets, bytes) = reader.text(rows)?;
        raw = Some(BinaryViewArray::from(&BinaryArray::try_new(offsets, bytes, nulls)?));
    }
    let mut positions = None;
    if flags & HAS_POSITIONS != 0 {
        let tag = reader.word()?;
        let nulls = reader.validity(tag, rows)?;
        let values = take(&mut reader.words, rows)?.to_vec();
        positions = Some(UInt64Array::try_new(values.into(), nulls)?);
    }
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    let columns =
        RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), arrays, &options)?;
    Ok(Batch { columns, raw, positions, diff, origin: Origin { submission, chunk, offset } })
}

/// Reads the four vectors side by side.
struct Reader<'a> {
    words: &'a [u64],
    ints: &'a [i64],
    floats: &'a [f64],
    bytes: &'a [u8],
}

/// Takes the first `count` items.
fn take<'a, T>(items: &mut &'a [T], count: usize) -> Result<&'a [T], DecodeError> {
    let length = items.len();
    let (taken, rest) =
        items.split_at_checked(count).ok_or(DecodeError::Short { wanted: count, at: 0, length })?;
    *items = rest;
    Ok(taken)
}

impl Reader<'_> {
    fn word(&mut self) -> Result<u64, DecodeError> {
        Ok(take(&mut self.words, 1)?[0])
    }

    fn bits(&mut self, rows: usize) -> Result<BooleanBuffer, DecodeError> {
        let bits = take(&mut self.bytes, rows.div_ceil(8))?;
        Ok(BooleanBuffer::new(Buffer::from(bits), 0, rows))
    }

    fn validity(&mut self, tag: u64, rows: usize) -> Result<Option<NullBuffer>, DecodeError> {
        Ok(if tag & HAS_NULLS == 0 { None } else { Some(NullBuffer::new(self.bits(rows)?)) })
    }

    fn text(&mut self, rows: usize) -> Result<(OffsetBuffer<i32>, Buffer), DecodeError> {
        let ends = take(&mut self.words, rows)?;
        let mut offsets = Vec::with_capacity(rows + 1);
        let mut last = 0;
        offsets.push(last);
        for end in ends {
            let impossible = DecodeError::Impossible { what: "the end of a text", found: *end };
            match i32::try_from(*end) {
                Ok(end) if end >= last => last = end,
                _ => return Err(impossible),
            }
            offsets.push(last);
        }
        let bytes = Buffer::from(take(&mut self.bytes, last as usize)?);
        Ok((OffsetBuffer::new(offsets.into()), bytes))
    }

    fn array(&mut self, tag: u64, rows: usize) -> Result<ArrayRef, DecodeError> {
        let nulls = self.validity(tag, rows)?;
        Ok(match type_at(tag & TYPE_BITS)? {
            Type::String => {
                let (offsets, bytes) = self.text(rows)?;
                Arc::new(StringViewArray::from(&StringArray::try_new(offsets, bytes, nulls)?))
            }
            Type::Int => {
                let values = take(&mut self.ints, rows)?.to_vec();
                Arc::new(Int64Array::try_new(values.into(), nulls)?)
            }
            Type::Float => {
                let values: ScalarBuffer<f64> = take(&mut self.floats, rows)?.to_vec().into();
                Arc::new(Float64Array::try_new(values, nulls)?)
            }
            Type::Bool => Arc::new(BooleanArray::new(self.bits(rows)?, nulls)),
            Type::Timestamp => {
                let values = take(&mut self.ints, rows)?.to_vec();
                let array = TimestampMicrosecondArray::try_new(values.into(), nulls)?;
                Arc::new(array.with_data_type(Type::Timestamp.arrow()))
            }
            kind @ Type::Decimal(_) => {
                let (words, _) = take(&mut self.words, rows.saturating_mul(2))?.as_chunks::<2>();
                let units = |[low, high]: &[u64; 2]| {
                    (u128::from(*low) | u128::from(*high) << 64).cast_signed()
                };
                let values: Vec<i128> = words.iter().map(units).collect();
                let array = Decimal128Array::try_new(values.into(), nulls)?;
                Arc::new(array.with_data_type(kind.arrow()))
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::samples::{any_batch, check, check_corners, check_damage};
    use super::*;

    #[test]
    fn every_kind_of_batch_survives() {
        check_corners::<Abomonation>();
    }

    #[test]
    fn cut_bytes_are_refused() {
        check_damage::<Abomonation>();
    }

    proptest! {
        #[test]
        fn any_batch_survives(batch in any_batch()) {
            check::<Abomonation>(&batch);
        }
    }
}
