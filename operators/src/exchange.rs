//! Exchange: how batches change workers. Owns the hash that decides where a key lives, the ways to
//! spread a batch, and the codec that carries one to another process. Holds no data.
//!
//! Inside a process a batch changes workers as it is: its strings keep pointing into the shared
//! buffer of their chunk. Between processes the codec writes only the bytes that the rows refer to.
//! There are two codecs with the same tests: [`columns`], safe and the default, and, behind the
//! feature `abomonation`, one that copies plain memory. Both speak only to peers of the same binary;
//! neither is ever used for files or clients.

#[cfg(feature = "abomonation")]
pub mod abomonation;
pub mod columns;
mod partition;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod samples;

use std::io::Write;

use timely::Accountable;
use timely::bytes::arc::Bytes;
use timely::dataflow::channels::ContainerBytes;

use crate::batch::Batch;

pub use partition::{BatchTo, ByKey, by_key, whole};

#[cfg(feature = "abomonation")]
use abomonation::Abomonation as Chosen;
#[cfg(not(feature = "abomonation"))]
use columns::Columns as Chosen;

/// Returns the hash that decides on which worker a key lives, and on which bytes.
///
/// It never changes, because state is restored by it: XXH3 with 64 bits and seed 0.
#[inline]
pub fn key_hash(bytes: &[u8]) -> u64 {
    twox_hash::XxHash3_64::oneshot(bytes)
}

/// How a batch becomes bytes for a peer, and a batch again.
pub trait Codec {
    /// Returns exactly how many bytes [`Codec::encode`] writes: a multiple of 8.
    fn length(batch: &Batch) -> usize;

    /// Writes the batch. An error is the writer's own.
    fn encode<W: Write>(batch: &Batch, writer: &mut W) -> std::io::Result<()>;

    /// Reads a batch that the same binary has written. The bytes are copied.
    fn decode(bytes: &[u8]) -> Result<Batch, DecodeError>;
}

/// Bytes that are not a batch: a damaged connection, or a peer of another binary.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// They end too early.
    #[error("{wanted} bytes were expected at byte {at} of {length}")]
    Short {
        /// How many bytes were expected.
        wanted: usize,
        /// Where.
        at: usize,
        /// How many bytes there are.
        length: usize,
    },
    /// They say something that cannot be.
    #[error("{what} cannot be {found}")]
    Impossible {
        /// What is said.
        what: &'static str,
        /// The value.
        found: u64,
    },
    /// They are no valid columns.
    #[error("the columns do not fit together")]
    Columns(#[from] arrow_schema::ArrowError),
}

impl Accountable for Batch {
    fn record_count(&self) -> i64 {
        i64::try_from(self.len()).unwrap_or(i64::MAX)
    }
}

impl ContainerBytes for Batch {
    /// Reads a batch from a peer.
    ///
    /// # Panics
    /// When the bytes are no batch. Peers are authenticated and of the same binary, so that is
    /// damage, which must end the process before it does harm.
    fn from_bytes(bytes: Bytes) -> Self {
        Chosen::decode(&bytes)
            .unwrap_or_else(|error| panic!("a peer sent a batch that cannot be read: {error}"))
    }

    fn length_in_bytes(&self) -> usize {
        Chosen::length(self)
    }

    /// Writes the batch into the memory that timely set aside.
    ///
    /// # Panics
    /// When that memory is shorter than [`Codec::length`] asked for.
    fn into_bytes<W: Write>(&self, writer: &mut W) {
        Chosen::encode(self, writer)
            .unwrap_or_else(|error| panic!("a batch does not fit its message: {error}"));
    }
}

#[cfg(test)]
mod tests {
    use super::key_hash;

    #[test]
    fn the_hash_of_a_key_never_changes() {
        let long: Vec<u8> = (0..=255).collect();
        for (bytes, hash) in [
            (&b""[..], 0x2d06_8005_38d3_94c2),
            (b"tidemill", 13_737_932_734_112_943_510),
            (b"a key of more than sixteen bytes", 2_820_808_112_538_896_266),
            (&long, 10_666_956_326_096_416_113),
        ] {
            assert_eq!(key_hash(bytes), hash, "{}", bytes.escape_ascii());
        }
    }
}
