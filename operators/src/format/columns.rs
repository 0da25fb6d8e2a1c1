//! Columns: where parsed values gather until their chunk is done. Derived data of one chunk.
//!
//! Owns the builders and the one way to take a half-read record back. A string is a view: 16 bytes
//! that hold a text of up to 12 bytes, or say where in the chunk (block 0) or in the side buffer of
//! unescaped texts (block 1) it stands.

use std::sync::Arc;

use arrow_array::{
    ArrayRef, BinaryViewArray, BooleanArray, Decimal128Array, Float64Array, Int64Array,
    RecordBatch, RecordBatchOptions, TimestampMicrosecondArray, UInt64Array,
};
use arrow_buffer::{BooleanBuffer, BooleanBufferBuilder, Buffer, NullBuffer, ScalarBuffer};
use arrow_schema::{ArrowError, SchemaRef};

use super::views::strings;
use super::{ReadPlan, lanes};
use crate::batch::{Batch, Origin, position};
use crate::reject::{OnError, REJECT_RAW_BYTES_MAX, Reject, RejectCode};
use crate::types::Type;

/// One column under construction. Numbers, instants and truth values are words; strings are views, and
/// decimals stand where views do.
#[derive(Debug)]
struct Builder {
    kind: Type,
    words: Vec<u64>,
    views: Vec<u128>,
    /// The rows that are NULL, ascending. NULLs are rare, so a list is cheaper than a bitmap.
    nulls: Vec<u32>,
}

impl Builder {
    fn truncate(&mut self, rows: usize) {
        self.words.truncate(rows);
        self.views.truncate(rows);
        while self.nulls.last().is_some_and(|&row| row as usize >= rows) {
            self.nulls.pop();
        }
    }

    fn finish(&mut self, rows: usize, blocks: &Arc<[Buffer]>) -> Result<ArrayRef, ArrowError> {
        let words = handed_over(&mut self.words);
        let views = handed_over(&mut self.views);
        let nulls = null_buffer(&self.nulls, rows);
        self.nulls.clear();
        Ok(match self.kind {
            Type::String => Arc::new(strings(views, blocks, nulls)),
            Type::Int => Arc::new(Int64Array::try_new(scalars(words), nulls)?),
            Type::Float => Arc::new(Float64Array::try_new(scalars(words), nulls)?),
            Type::Bool => {
                let bits = BooleanBuffer::collect_bool(rows, |row| words[row] != 0);
                Arc::new(BooleanArray::new(bits, nulls))
            }
            Type::Timestamp => Arc::new(
                TimestampMicrosecondArray::try_new(scalars(words), nulls)?.with_timezone("UTC"),
            ),
            Type::Decimal(_) => Arc::new(
                Decimal128Array::try_new(scalars(views), nulls)?.with_data_type(self.kind.arrow()),
            ),
        })
    }
}

/// Takes the values out; leaves as much room as was used, because chunks are alike.
fn handed_over<T>(values: &mut Vec<T>) -> Vec<T> {
    let room = values.len();
    std::mem::replace(values, Vec::with_capacity(room))
}

/// Reinterprets words as another type of their size, without a copy.
fn scalars<W: arrow_buffer::ArrowNativeType, T: arrow_buffer::ArrowNativeType>(
    words: Vec<W>,
) -> ScalarBuffer<T> {
    let len = words.len();
    ScalarBuffer::new(Buffer::from_vec(words), 0, len)
}

fn null_buffer(nulls: &[u32], rows: usize) -> Option<NullBuffer> {
    if nulls.is_empty() {
        return None;
    }
    let mut bits = BooleanBufferBuilder::new(rows);
    bits.append_n(rows, true);
    for &row in nulls {
        bits.set_bit(row as usize, false);
    }
    Some(NullBuffer::new(bits.finish()))
}

/// Returns the view of a text in `block`, which holds it at `start`.
#[inline(always)]
fn view(block: &[u8], index: u32, start: usize, len: usize) -> u128 {
    let word = match lanes::load(block, start) {
        Some(word) => u128::from_le_bytes(*word),
        None => view_at_end(block, start, len),
    };
    if len <= 12 {
        let text = word & ((1u128 << (8 * len)) - 1);
        (text << 32) | len as u128
    } else {
        let prefix = u128::from(word as u32);
        ((start as u128) << 96) | (u128::from(index) << 64) | (prefix << 32) | len as u128
    }
}

#[cold]
fn view_at_end(block: &[u8], start: usize, len: usize) -> u128 {
    let text = block.get(start..start + len).unwrap_or_default();
    let mut word = [0; 16];
    for (to, from) in word.iter_mut().zip(text) {
        *to = *from;
    }
    u128::from_le_bytes(word)
}

/// The rows of a chunk under construction, and the rejects beside them.
#[derive(Debug)]
pub(super) struct Rows {
    schema: SchemaRef,
    builders: Vec<Builder>,
    /// Texts that do not stand in the chunk as they are: unescaped or unquoted.
    side: Vec<u8>,
    side_kept: usize,
    raw: Option<Vec<u128>>,
    positions: Option<Vec<u64>>,
    record_bytes_max: usize,
    /// Good records so far.
    count: usize,
    /// Lines so far; the number of the line at which the next record begins.
    pub(super) lines: u32,
    records: u32,
    rejects: Vec<Reject>,
}

impl Rows {
    pub(super) fn new(plan: &ReadPlan) -> Self {
        let builder = |kind| Builder { kind, words: vec![], views: vec![], nulls: vec![] };
        Self {
            schema: plan.schema().arrow(),
            builders: plan.fields.iter().map(|field| builder(field.kind)).collect(),
            side: Vec::new(),
            side_kept: 0,
            raw: plan.raw.then(Vec::new),
            positions: plan.positions.then(Vec::new),
            record_bytes_max: plan.record_bytes_max,
            count: 0,
            lines: 0,
            records: 0,
            rejects: Vec::new(),
        }
    }

    /// Returns whether a record of so many bytes, without its terminator, is too long.
    #[inline(always)]
    pub(super) fn is_too_long(&self, len: usize) -> bool {
        len > self.record_bytes_max
    }

    #[inline(always)]
    pub(super) fn push_word(&mut self, column: usize, word: u64) {
        self.builders[column].words.push(word);
    }

    #[inline(always)]
    pub(super) fn push_decimal(&mut self, column: usize, units: i128) {
        self.builders[column].views.push(units.cast_unsigned());
    }

    /// Appends the text `chunk[start..start + len]`.
    #[inline(always)]
    pub(super) fn push_text(&mut self, column: usize, chunk: &[u8], start: usize, len: usize) {
        self.builders[column].views.push(view(chunk, 0, start, len));
    }

    /// Appends a text that `write` puts at the end of the side buffer; appends nothing and returns
    /// `false` when `write` does.
    pub(super) fn push_written(
        &mut self,
        column: usize,
        write: impl FnOnce(&mut Vec<u8>) -> bool,
    ) -> bool {
        let start = self.side.len();
        if !write(&mut self.side) {
            self.side.truncate(start);
            return false;
        }
        let len = self.side.len() - start;
        self.builders[column].views.push(view(&self.side, 1, start, len));
        true
    }

    #[inline]
    pub(super) fn push_null(&mut self, column: usize) {
        let builder = &mut self.builders[column];
        if matches!(builder.kind, Type::String | Type::Decimal(_)) {
            builder.views.push(0);
        } else {
            builder.words.push(0);
        }
        builder.nulls.push(self.count as u32);
    }

    /// Takes back what was appended for the record that is being read.
    pub(super) fn take_back(&mut self) {
        for builder in &mut self.builders {
            builder.truncate(self.count);
        }
        self.side.truncate(self.side_kept);
    }

    /// Keeps the record `chunk[start..end]` (with its terminator), whose values were appended.
    #[inline(always)]
    pub(super) fn accept(&mut self, chunk: &[u8], start: usize, end: usize) {
        if let Some(raw) = &mut self.raw {
            raw.push(view(chunk, 0, start, end - start));
        }
        if let Some(positions) = &mut self.positions {
            positions.push(position(self.lines, start as u32));
        }
        self.count += 1;
        self.records += 1;
        self.side_kept = self.side.len();
    }

    /// Rejects the record `chunk[start..end]` (without its terminator), and takes back its values.
    #[cold]
    pub(super) fn reject(
        &mut self,
        chunk: &[u8],
        start: usize,
        end: usize,
        code: RejectCode,
        reason: String,
    ) {
        self.take_back();
        self.records += 1;
        let kept = end.min(start + REJECT_RAW_BYTES_MAX);
        self.rejects.push(Reject {
            line: self.lines,
            offset: start as u32,
            round: 0,
            operator: String::new(),
            code,
            message: reason,
            raw: chunk[start..kept].to_vec(),
            on_error: OnError::Reject,
        });
    }

    /// Rejects the record `chunk[start..end]` for its length.
    #[cold]
    pub(super) fn reject_too_long(&mut self, chunk: &[u8], start: usize, end: usize) {
        let reason =
            format!("record of {} bytes, at most {} are taken", end - start, self.record_bytes_max);
        self.reject(chunk, start, end, RejectCode::TooLong, reason);
    }

    /// Hands over all rows and starts again with none.
    pub(super) fn finish(&mut self, chunk: Buffer) -> super::Parsed {
        let rows = std::mem::take(&mut self.count);
        let side = std::mem::take(&mut self.side);
        self.side_kept = 0;
        let batch = self.batch(rows, chunk, side);
        super::Parsed {
            batch: (rows > 0).then_some(batch),
            rejects: std::mem::take(&mut self.rejects),
            lines: std::mem::take(&mut self.lines),
            records: std::mem::take(&mut self.records),
        }
    }

    fn batch(&mut self, rows: usize, chunk: Buffer, side: Vec<u8>) -> Batch {
        let chunk_only: Arc<[Buffer]> = Arc::from([chunk.clone()]);
        let blocks: Arc<[Buffer]> = if side.is_empty() {
            Arc::clone(&chunk_only)
        } else {
            Arc::from([chunk, Buffer::from_vec(side)])
        };
        let arrays: Result<Vec<ArrayRef>, ArrowError> =
            self.builders.iter_mut().map(|builder| builder.finish(rows, &blocks)).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let columns = arrays
            .and_then(|arrays| {
                RecordBatch::try_new_with_options(Arc::clone(&self.schema), arrays, &options)
            })
            .expect("each column holds a valid value of its type for each row");
        let raw = self.raw.as_mut().map(|views| {
            let views = handed_over(views);
            BinaryViewArray::try_new(views.into(), chunk_only, None)
                .expect("each raw record lies in the chunk")
        });
        let positions =
            self.positions.as_mut().map(|positions| UInt64Array::from(handed_over(positions)));
        Batch { columns, raw, positions, diff: 1, origin: Origin::default() }
    }
}
