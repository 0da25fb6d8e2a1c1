//! Inflate: recognise compression by content and undo it, within bounds.
//!
//! A small file can inflate to terabytes. Both the ratio and the absolute size are bounded; beyond
//! them the file fails, it does not fill the memory or the disk.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

/// How the bytes of a file are packed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// RFC 1952, one or more members.
    Gzip,
    /// RFC 8878, one or more frames.
    Zstd,
}

impl Compression {
    /// Recognises it by the first bytes of the file.
    pub fn of(first_bytes: &[u8]) -> Self {
        match first_bytes {
            [0x1f, 0x8b, 0x08, ..] => Compression::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Compression::Zstd,
            _ => Compression::None,
        }
    }

    /// Returns the word people know it by.
    pub const fn word(self) -> &'static str {
        match self {
            Compression::None => "none",
            Compression::Gzip => "gzip",
            Compression::Zstd => "zstd",
        }
    }
}

/// The most that one file may inflate to, in bytes.
pub const INFLATED_BYTES_MAX: u64 = 1 << 40;

/// Inflated bytes that are always allowed: small files of zeros are no attack.
const RATIO_FREE_BYTES: u64 = 16 << 20;

/// The largest zstd window that is accepted, as a power of two (64 MiB).
const ZSTD_WINDOW_LOG_MAX: u32 = 26;

/// Why inflating stopped.
#[derive(Debug, thiserror::Error)]
pub enum InflateError {
    /// The file inflates beyond its bounds.
    #[error("inflates to more than {limit}: {inflated} bytes out of {packed}")]
    Bomb {
        /// The bound, in words.
        limit: String,
        /// Bytes that came out so far.
        inflated: u64,
        /// Bytes that went in so far.
        packed: u64,
    },
    /// The packed bytes are damaged or cut off.
    #[error("{word} data is damaged or cut off after {inflated} bytes: {source}")]
    Damaged {
        /// Which compression.
        word: &'static str,
        /// Bytes that came out before.
        inflated: u64,
        /// What the decoder said.
        source: io::Error,
    },
    /// The disk refused to read.
    #[error("read: {0}")]
    Disk(#[source] io::Error),
}

/// Packed bytes that a decoder is given at once.
const PACKED_BUFFER_BYTES: usize = 64 << 10;

/// Reads the plain bytes of a file, in order, and hashes the packed ones.
pub struct Inflater {
    compression: Compression,
    decoder: Box<dyn Read>,
    /// The same file at the same position: what the decoder leaves behind is read here.
    rest: Packed,
    inflated: u64,
    ratio_max: u64,
}

impl Inflater {
    /// Starts at the beginning of `file`.
    pub fn open(file: File, compression: Compression, ratio_max: u32) -> io::Result<Self> {
        let rest = Packed { file: file.try_clone()?, seen: Arc::default() };
        let packed = Packed { file, seen: Arc::clone(&rest.seen) };
        let buffered = |packed| BufReader::with_capacity(PACKED_BUFFER_BYTES, packed);
        let decoder: Box<dyn Read> = match compression {
            Compression::None => Box::new(packed),
            Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(buffered(packed))),
            Compression::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(buffered(packed))?;
                decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
                Box::new(decoder)
            }
        };
        Ok(Self { compression, decoder, rest, inflated: 0, ratio_max: u64::from(ratio_max) })
    }

    /// Fills `target` as far as the file goes; less than its length only at the end.
    pub fn fill(&mut self, target: &mut [u8]) -> Result<usize, InflateError> {
        let mut filled = 0;
        while filled < target.len() {
            match self.decoder.read(&mut target[filled..]) {
                Ok(0) => break,
                Ok(count) => {
                    filled += count;
                    self.inflated += count as u64;
                    self.check_bounds()?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(self.failure(source)),
            }
        }
        Ok(filled)
    }

    /// Returns how many bytes of the file have been read.
    pub fn packed(&self) -> u64 {
        self.rest.seen().bytes
    }

    /// Reads what is left of the file and returns the BLAKE3 of all of it, as it came.
    pub fn finish(&mut self) -> Result<[u8; 32], InflateError> {
        let mut left = [0; 4096];
        loop {
            match self.rest.read(&mut left) {
                Ok(0) => return Ok(self.rest.seen().hasher.finalize().into()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(InflateError::Disk(error)),
            }
        }
    }

    fn check_bounds(&self) -> Result<(), InflateError> {
        if self.compression == Compression::None {
            return Ok(());
        }
        let (inflated, packed) = (self.inflated, self.packed());
        let bomb = |limit: String| Err(InflateError::Bomb { limit, inflated, packed });
        if inflated > INFLATED_BYTES_MAX {
            return bomb(format!("{} GiB", INFLATED_BYTES_MAX >> 30));
        }
        if inflated > RATIO_FREE_BYTES && inflated / packed.max(1) >= self.ratio_max {
            return bomb(format!("{} times its size (max_inflate_ratio)", self.ratio_max));
        }
        Ok(())
    }

    fn failure(&self, source: io::Error) -> InflateError {
        match self.compression {
            Compression::None => InflateError::Disk(source),
            packing => {
                InflateError::Damaged { word: packing.word(), inflated: self.inflated, source }
            }
        }
    }
}

/// A file whose bytes are counted and hashed as they are read.
struct Packed {
    file: File,
    seen: Arc<Mutex<Seen>>,
}

/// What was read of a file, through whichever handle.
#[derive(Default)]
struct Seen {
    bytes: u64,
    hasher: blake3::Hasher,
}

impl Packed {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        // One thread uses it; whoever panicked has ended the process.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Read for Packed {
    fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(target)?;
        let mut seen = self.seen();
        seen.bytes += count as u64;
        seen.hasher.update(&target[..count]);
        Ok(count)
    }
}
