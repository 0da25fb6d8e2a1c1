//! Sample: the first plain bytes of a file, whatever it is packed with. Reads a bounded part of it.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use crate::ingest::inflate::{Compression, InflateError, Inflater};

/// Bytes that are read at once.
const BYTES_AT_ONCE: usize = 64 << 10;

/// How far a packed file may inflate here.
const RATIO_MAX: u32 = 1_000;

/// The first bytes of a file.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    /// The bytes, inflated.
    pub bytes: Vec<u8>,
    /// Whether the file ends with them.
    pub is_whole: bool,
    /// What it is packed with.
    pub compression: Compression,
}

/// Why a file has no sample.
#[derive(Debug, thiserror::Error)]
pub enum SampleError {
    /// It cannot be read.
    #[error("read: {0}")]
    Disk(#[from] io::Error),
    /// It is a folder, a pipe, a device.
    #[error("it is no plain file")]
    NotAFile,
    /// It is packed wrongly.
    #[error(transparent)]
    Packing(InflateError),
}

/// Returns the first bytes of a file, at most so many.
pub fn sample(path: &Path, bytes_max: usize) -> Result<Sample, SampleError> {
    // Opening a pipe would wait for whoever writes into it.
    if !std::fs::metadata(path)?.is_file() {
        return Err(SampleError::NotAFile);
    }
    let mut first = [0; 4];
    let count = File::open(path)?.read(&mut first)?;
    let compression = Compression::of(first.get(..count).unwrap_or_default());
    let mut inflater = Inflater::open(File::open(path)?, compression, RATIO_MAX)?;
    let mut bytes = Vec::new();
    loop {
        let begin = bytes.len();
        let room = BYTES_AT_ONCE.min(bytes_max + 1 - begin);
        bytes.resize(begin + room, 0);
        let filled = inflater.fill(&mut bytes[begin..]).map_err(SampleError::Packing)?;
        bytes.truncate(begin + filled);
        if filled < room || bytes.len() > bytes_max {
            break;
        }
    }
    let is_whole = bytes.len() <= bytes_max;
    bytes.truncate(bytes_max);
    Ok(Sample { bytes, is_whole, compression })
}
