//! Encode: columns to bytes.

use arrow_array::BinaryViewArray;

use super::OutputFormat;
use crate::batch::Batch;
use crate::types::Schema;

/// Writes batches as bytes of one format.
#[derive(Debug)]
pub struct Encoder {}

impl Encoder {
    /// Returns an encoder for the columns of `schema`.
    pub fn new(_format: OutputFormat, _schema: &Schema) -> Self {
        Self {}
    }

    /// Appends what stands before the first record of a file: the header of a CSV.
    pub fn preamble(&self, _out: &mut Vec<u8>) {}

    /// Appends the rows of a batch.
    pub fn encode(&mut self, _batch: &Batch, _out: &mut Vec<u8>) {}
}

/// Returns the bytes of raw records, adjacent ones as one slice.
pub fn raw_runs(raw: &BinaryViewArray) -> impl Iterator<Item = &[u8]> {
    (0..arrow_array::Array::len(raw)).map(|row| raw.value(row))
}
