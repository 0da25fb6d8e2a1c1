//! Encode: columns to bytes. Holds the names of the columns as they are written, and nothing of the
//! rows. The same rows always give the same bytes.

use std::io::Write;

use arrow_array::types::{Decimal128Type, Float64Type, Int64Type, TimestampMicrosecondType};
use arrow_array::{Array, BinaryViewArray, BooleanArray, StringViewArray};
use arrow_array::{PrimitiveArray, RecordBatch};

use super::lanes::{self, High};
use super::{OutputFormat, instant};
use crate::batch::Batch;
use crate::decimal;
use crate::types::{Schema, Type};

/// Writes batches as bytes of one format.
#[derive(Clone, Debug)]
pub struct Encoder {
    format: OutputFormat,
    columns: Vec<Target>,
}

#[derive(Clone, Debug)]
struct Target {
    name: String,
    kind: Type,
    /// What stands before the value in JSON: `{"name":` or `,"name":`.
    before: Vec<u8>,
}

/// One column of a batch, ready to be written row by row.
enum Values<'a> {
    String(&'a StringViewArray),
    Int(&'a PrimitiveArray<Int64Type>),
    Float(&'a PrimitiveArray<Float64Type>),
    Bool(&'a BooleanArray),
    Timestamp(&'a PrimitiveArray<TimestampMicrosecondType>),
    Decimal(&'a PrimitiveArray<Decimal128Type>, u8),
    /// The batch has no such column: NULL in each row. The planner lets none of these happen.
    Absent,
}

impl Encoder {
    /// Returns an encoder for the columns of `schema`, in its order. The raw format has no use for
    /// them.
    pub fn new(format: OutputFormat, schema: &Schema) -> Self {
        let target = |(at, column): (usize, &crate::types::Column)| {
            let mut before = vec![if at == 0 { b'{' } else { b',' }];
            json_string(column.name.as_bytes(), &mut before);
            before.push(b':');
            Target { name: column.name.clone(), kind: column.kind, before }
        };
        Self { format, columns: schema.columns().iter().enumerate().map(target).collect() }
    }

    /// Appends what stands before the first record of a file: the header of a CSV.
    pub fn preamble(&self, out: &mut Vec<u8>) {
        let OutputFormat::Csv { delimiter, header: true } = self.format else { return };
        for (at, column) in self.columns.iter().enumerate() {
            if at > 0 {
                out.push(delimiter);
            }
            csv_string(column.name.as_bytes(), delimiter, out);
        }
        out.push(b'\n');
    }

    /// Appends the rows of a batch: its raw records, or the columns of the schema, row by row.
    pub fn encode(&mut self, batch: &Batch, out: &mut Vec<u8>) {
        match self.format {
            OutputFormat::Raw => {
                for run in batch.raw.iter().flat_map(raw_runs) {
                    out.extend_from_slice(run);
                }
            }
            OutputFormat::Jsonl => self.encode_json(&batch.columns, out, |_| {}),
            OutputFormat::Csv { delimiter, .. } => {
                self.encode_csv(&batch.columns, delimiter, out, |_| {});
            }
        }
    }

    /// Appends the rows of a batch as [`Encoder::encode`] does; `ends` gets where each of them ends.
    pub fn encode_each(&mut self, batch: &Batch, out: &mut Vec<u8>, ends: &mut Vec<usize>) {
        let end = |at: usize| ends.push(at);
        match self.format {
            OutputFormat::Raw => {
                for record in batch.raw.iter().flat_map(|raw| raw.iter()) {
                    out.extend_from_slice(record.unwrap_or_default());
                    ends.push(out.len());
                }
            }
            OutputFormat::Jsonl => self.encode_json(&batch.columns, out, end),
            OutputFormat::Csv { delimiter, .. } => {
                self.encode_csv(&batch.columns, delimiter, out, end);
            }
        }
    }

    fn encode_json(&self, rows: &RecordBatch, out: &mut Vec<u8>, mut end: impl FnMut(usize)) {
        let columns = self.values(rows);
        for row in 0..rows.num_rows() {
            for (column, values) in self.columns.iter().zip(&columns) {
                out.extend_from_slice(&column.before);
                values.write_json(row, out);
            }
            if columns.is_empty() {
                out.push(b'{');
            }
            out.extend_from_slice(b"}\n");
            end(out.len());
        }
    }

    fn encode_csv(
        &self,
        rows: &RecordBatch,
        delimiter: u8,
        out: &mut Vec<u8>,
        mut end: impl FnMut(usize),
    ) {
        let columns = self.values(rows);
        for row in 0..rows.num_rows() {
            let start = out.len();
            for (at, values) in columns.iter().enumerate() {
                if at > 0 {
                    out.push(delimiter);
                }
                values.write_csv(row, delimiter, out);
            }
            // A row of one NULL would be a blank line, which readers skip.
            if out.len() == start {
                out.extend_from_slice(b"\"\"");
            }
            out.push(b'\n');
            end(out.len());
        }
    }

    fn values<'a>(&self, rows: &'a RecordBatch) -> Vec<Values<'a>> {
        let find = |column: &Target| {
            let array = rows.column_by_name(&column.name)?.as_any();
            Some(match column.kind {
                Type::String => Values::String(array.downcast_ref()?),
                Type::Int => Values::Int(array.downcast_ref()?),
                Type::Float => Values::Float(array.downcast_ref()?),
                Type::Bool => Values::Bool(array.downcast_ref()?),
                Type::Timestamp => Values::Timestamp(array.downcast_ref()?),
                Type::Decimal(digits) => Values::Decimal(array.downcast_ref()?, digits.scale()),
            })
        };
        self.columns.iter().map(|column| find(column).unwrap_or(Values::Absent)).collect()
    }
}

impl Values<'_> {
    fn is_null(&self, row: usize) -> bool {
        match self {
            Values::String(values) => values.is_null(row),
            Values::Int(values) => values.is_null(row),
            // Neither format has a way to write what is not a number.
            Values::Float(values) => values.is_null(row) || !values.value(row).is_finite(),
            Values::Bool(values) => values.is_null(row),
            Values::Timestamp(values) => values.is_null(row),
            Values::Decimal(values, _) => values.is_null(row),
            Values::Absent => true,
        }
    }

    fn write_json(&self, row: usize, out: &mut Vec<u8>) {
        match self {
            _ if self.is_null(row) => out.extend_from_slice(b"null"),
            Values::String(values) => json_string(values.value(row).as_bytes(), out),
            Values::Timestamp(values) => {
                out.push(b'"');
                instant::write(values.value(row), out);
                out.push(b'"');
            }
            other => other.write_word(row, out),
        }
    }

    fn write_csv(&self, row: usize, delimiter: u8, out: &mut Vec<u8>) {
        match self {
            _ if self.is_null(row) => {}
            Values::String(values) => csv_string(values.value(row).as_bytes(), delimiter, out),
            other => {
                let start = out.len();
                other.write_word(row, out);
                // Only a delimiter that stands in numbers makes this necessary.
                if memchr::memchr(delimiter, &out[start..]).is_some() {
                    out.insert(start, b'"');
                    out.push(b'"');
                }
            }
        }
    }

    fn write_word(&self, row: usize, out: &mut Vec<u8>) {
        match self {
            Values::Int(values) => write_int(values.value(row), out),
            Values::Float(values) => write_float(values.value(row), out),
            Values::Bool(values) => {
                let word: &[u8] = if values.value(row) { b"true" } else { b"false" };
                out.extend_from_slice(word);
            }
            Values::Timestamp(values) => instant::write(values.value(row), out),
            Values::Decimal(values, scale) => decimal::write(values.value(row), *scale, out),
            Values::String(_) | Values::Absent => {}
        }
    }
}

fn write_int(value: i64, out: &mut Vec<u8>) {
    if value < 0 {
        out.push(b'-');
    }
    let mut digits = [0; 20];
    let (mut at, mut rest) = (digits.len(), value.unsigned_abs());
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// Appends the shortest decimal that reads back as the same float; integral ones as `3.0`.
fn write_float(value: f64, out: &mut Vec<u8>) {
    let size = value.abs();
    let thousandths = (size * 1000.0).round();
    // Of up to 15 digits no two decimals are the same float, so one that reads back is the shortest.
    if size >= 1e9 || thousandths / 1000.0 != size {
        // A vector takes everything that is written to it.
        let _ = write!(out, "{value:?}");
        return;
    }
    if value.is_sign_negative() {
        out.push(b'-');
    }
    let thousandths = thousandths as u64;
    write_int((thousandths / 1000) as i64, out);
    let part = thousandths % 1000;
    let decimals = [part / 100, part / 10 % 10, part % 10].map(|digit| b'0' + digit as u8);
    out.push(b'.');
    out.extend_from_slice(match decimals {
        [_, b'0', b'0'] => &decimals[..1],
        [_, _, b'0'] => &decimals[..2],
        _ => &decimals,
    });
}

/// Appends a JSON string: quote, backslash and control characters escaped, everything else as it is.
fn json_string(text: &[u8], out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    out.push(b'"');
    let mut kept = 0;
    loop {
        let at = lanes::string_stop(text, kept, &mut High::default());
        out.extend_from_slice(&text[kept..at]);
        let Some(&byte) = text.get(at) else { break };
        kept = at + 1;
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0x08 => out.extend_from_slice(b"\\b"),
            0x0c => out.extend_from_slice(b"\\f"),
            _ => {
                out.extend_from_slice(b"\\u00");
                out.push(HEX[usize::from(byte >> 4)]);
                out.push(HEX[usize::from(byte & 15)]);
            }
        }
    }
    out.push(b'"');
}

/// Appends a CSV field, in quotes where it must be: an empty text (nothing is NULL), a delimiter, a
/// quote, a line end, or white space at its ends.
fn csv_string(text: &[u8], delimiter: u8, out: &mut Vec<u8>) {
    let special = |byte: &u8| *byte == delimiter || matches!(byte, b'"' | b'\n' | b'\r');
    let at_end = |byte: Option<&u8>| matches!(byte, None | Some(b' ' | b'\t'));
    if !at_end(text.first()) && !at_end(text.last()) && !text.iter().any(special) {
        out.extend_from_slice(text);
        return;
    }
    out.push(b'"');
    let mut rest = text;
    while let Some(at) = memchr::memchr(b'"', rest) {
        out.extend_from_slice(&rest[..=at]);
        out.push(b'"');
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
    out.push(b'"');
}

/// Returns the bytes of raw records in order, those that stand side by side as one slice: raw output
/// of a whole chunk is one write. Together the slices are exactly the records, and only the last record of
/// a slice can lack its line end.
pub fn raw_runs(raw: &BinaryViewArray) -> impl Iterator<Item = &[u8]> {
    let mut row = 0;
    std::iter::from_fn(move || {
        if row >= raw.len() {
            return None;
        }
        let first = raw.views()[row];
        let value = raw.value(row);
        row += 1;
        let Some((block, start)) = place(first) else { return Some(value) };
        let block = raw.data_buffers().get(block)?.as_slice();
        let mut end = start + value.len();
        while let Some(&next) = raw.views().get(row) {
            let len = next as u32 as usize;
            let adjacent = match place(next) {
                Some((_, at)) => at == end && same_block(first, next),
                // A short record does not say where it stood. If the same bytes follow, they will do.
                None => block.get(end..end + len) == Some(raw.value(row)),
            };
            if !adjacent || block.get(end - 1) != Some(&b'\n') {
                break;
            }
            end += len;
            row += 1;
        }
        block.get(start..end)
    })
}

/// Returns the block and the offset that a view points to; `None` when it holds its bytes itself.
fn place(view: u128) -> Option<(usize, usize)> {
    (view as u32 > 12).then_some(((view >> 64) as u32 as usize, (view >> 96) as usize))
}

fn same_block(one: u128, other: u128) -> bool {
    (one >> 64) as u32 == (other >> 64) as u32
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(value: f64) {
        let mut out = Vec::new();
        write_float(value, &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), format!("{value:?}"));
    }

    #[test]
    fn floats_are_written_as_std_writes_them() {
        for value in
            [0.0, -0.0, 1.0, -1.5, 0.001, 0.01, 0.1, 0.123, 0.1234, 100.05, 999_999_999.999]
        {
            check(value);
        }
        for value in [1e9, 1e15, 1e16, 1e-5, 1e-7, 5e-324, f64::MAX, 0.1 + 0.2] {
            check(value);
        }
    }

    proptest! {
        #[test]
        fn oracle_any_float_is_written_as_std_writes_it(value: f64, thousandths: u32, more: u64) {
            check(value);
            check(f64::from(thousandths) / 1000.0);
            check(-(more as f64) / 1e6);
        }
    }
}
