//! Checkpoint: files that hold the state of a pipeline as of an epoch, so that it need not be built
//! again from all inputs.
//!
//! Owns `ckpt/<pipeline>/`: packs, which hold the rows of some shards, and manifests, each of which
//! says which pack holds which shard. A pack is never changed; a later checkpoint names the packs of
//! earlier ones for what did not change since. A checkpoint counts once the journal names its
//! manifest, and everything that no such manifest names may be deleted. *Derived*: without it, or if
//! it is damaged, the state is built again from `processed/`.
//!
//! ```text
//! pack   "tmckpt01", length of the header (u32), header (JSON), blocks
//! block  shard (u32), rows (u32), bytes unpacked (u32), bytes packed (u32), the bytes (zstd)
//! ```
//! All numbers are little endian. The hash of a whole pack stands in the manifest, that of the
//! manifest in the journal.

pub mod manifest;
mod pack;

pub use manifest::{KeptState, Manifest, PackRow, ShardRow, read_manifest, sweep, write_manifest};
pub use pack::{Block, Pack, PackHeader, PackReader, PackWriter, WrittenShard, verify_pack};

use std::path::PathBuf;

use crate::disk::DiskError;

/// The number of the format of packs and manifests.
pub const FORMAT: u32 = 1;

#[cfg(test)]
mod tests;

/// Why a checkpoint cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// A file is not what was written: use an older checkpoint, or none.
    #[error("{} is damaged: {detail}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found.
        detail: String,
    },
    /// A file is gone: use an older checkpoint, or none.
    #[error("{} is gone", path.display())]
    Gone {
        /// The file.
        path: PathBuf,
    },
    /// It was written by a newer version of the program.
    #[error("{} has format {found}; this version knows {FORMAT}", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// The disk refuses.
    #[error(transparent)]
    Disk(#[from] DiskError),
}
