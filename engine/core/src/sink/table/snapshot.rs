//! Snapshot: the rows of a table as the bytes of a file, and what the file says about itself.
//!
//! Nothing is held but some thousand rows at a time. The same rows give the same bytes.

use std::io::{self, Write};
use std::ops::Bound;

use arrow_array::RecordBatch;
use serde::Serialize;
use tidemill_operators::format::{Encoder, ParquetFile, TableFormat};
use tidemill_operators::{Batch, Schema};

use super::Columns;
use super::shared::View;

/// Rows encoded at a time.
const ROWS_AT_ONCE: usize = 8192;

/// What a snapshot says about itself.
#[derive(Debug, Serialize)]
pub struct About {
    /// The last epoch whose rows are in it.
    pub epoch: u64,
    /// How many rows it has.
    pub rows: u64,
    /// BLAKE3 of its bytes, in hex.
    pub blake3: String,
}

/// Writes the rows of a view.
pub(super) fn write(
    view: &View,
    columns: &Columns,
    format: &TableFormat,
    out: &mut (dyn Write + Send),
) -> io::Result<About> {
    let mut hashing = Hashing { out, hasher: blake3::Hasher::new() };
    let rows = match format {
        TableFormat::Rows(format) => {
            let mut encoder = Encoder::new(format.clone(), &columns.written);
            let mut bytes = Vec::new();
            encoder.preamble(&mut bytes);
            let count = each_batch(view, columns, |rows| {
                encoder.encode(&Batch { columns: rows, ..Batch::default() }, &mut bytes);
                hashing.write_all(&bytes)?;
                bytes.clear();
                Ok(())
            })?;
            // The preamble of a table without rows.
            hashing.write_all(&bytes)?;
            count
        }
        TableFormat::Parquet => {
            let mut file = ParquetFile::begin(&columns.written, &mut hashing)?;
            let count = each_batch(view, columns, |rows| file.append(&rows))?;
            file.end()?;
            count
        }
    };
    let blake3 = hashing.hasher.finalize().to_hex().to_string();
    Ok(About { epoch: view.epoch, rows, blake3 })
}

/// Calls `take` with all rows, some at a time, each as often as it is there; returns how many.
fn each_batch(
    view: &View,
    columns: &Columns,
    mut take: impl FnMut(RecordBatch) -> io::Result<()>,
) -> io::Result<u64> {
    let mut count = 0;
    let mut pending: Vec<&[u8]> = Vec::with_capacity(ROWS_AT_ONCE);
    for (row, times) in view.range(Bound::Unbounded) {
        for _ in 0..times {
            pending.push(row);
            if pending.len() == ROWS_AT_ONCE {
                count += pending.len() as u64;
                take(picked(columns, &pending, &columns.written))?;
                pending.clear();
            }
        }
    }
    if !pending.is_empty() {
        count += pending.len() as u64;
        take(picked(columns, &pending, &columns.written))?;
    }
    Ok(count)
}

/// Returns encoded rows as these columns.
pub(crate) fn picked(columns: &Columns, rows: &[&[u8]], wanted: &Schema) -> RecordBatch {
    let sorted = columns.decode(rows.iter().copied());
    Batch { columns: sorted, ..Batch::default() }.pick(wanted)
}

/// Adds up the bytes on their way.
struct Hashing<'a> {
    out: &'a mut (dyn Write + Send),
    hasher: blake3::Hasher,
}

impl Write for Hashing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.out.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
