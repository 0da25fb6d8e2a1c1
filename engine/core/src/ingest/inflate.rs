//! Inflate: recognise compression by content and undo it, within bounds.
//!
//! A small file can inflate to terabytes. Both the ratio and the absolute size are bounded; beyond
//! them the file fails, it does not fill the memory or the disk.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

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

/// Reads the plain bytes of a file, in order.
pub struct Inflater {
    compression: Compression,
    decoder: Box<dyn Read>,
    packed: Arc<AtomicU64>,
    inflated: u64,
    ratio_max: u64,
}

impl Inflater {
    /// Starts at the beginning of `file`.
    pub fn open(file: File, compression: Compression, ratio_max: u32) -> io::Result<Self> {
        let packed = Arc::new(AtomicU64::new(0));
        let counted = Counted { file, bytes: Arc::clone(&packed) };
        let decoder: Box<dyn Read> = match compression {
            Compression::None => Box::new(counted),
            Compression::Gzip => {
                Box::new(flate2::bufread::MultiGzDecoder::new(BufReader::new(counted)))
            }
            Compression::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::new(counted)?;
                decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
                Box::new(decoder)
            }
        };
        Ok(Self { compression, decoder, packed, inflated: 0, ratio_max: u64::from(ratio_max) })
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
        self.packed.load(Ordering::Relaxed)
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

struct Counted {
    file: File,
    bytes: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(target)?;
        self.bytes.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}
