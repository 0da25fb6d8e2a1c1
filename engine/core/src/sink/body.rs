//! Body: the bytes of one output file while it is being made: in memory while it is small, in a
//! staged file beyond that.
//!
//! A small output travels to the journal inside the commit itself, so it needs no file and no sync
//! of its own before.

use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tidemill_store::stage::{StageWriter, Unsynced};

/// Bytes up to which an output stays in memory and rides inside the commit.
pub const INLINE_BYTES_MAX: usize = 48 << 10;

/// Bytes gathered before they are written to a staged file.
const WRITE_BYTES: usize = 256 << 10;

/// A piece this long is written as it is, without being gathered.
const DIRECT_BYTES: usize = 64 << 10;

/// Where the bytes of a prepared output are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Prepared {
    /// Here.
    Inline(Vec<u8>),
    /// In a staged file, synced; relative to the home.
    Staged(PathBuf),
    /// Nowhere: they were only added up, to be compared with what was committed.
    Digest,
}

/// Opens the staged file when a body outgrows the memory.
pub type Stage<'a> = &'a dyn Fn() -> io::Result<StageWriter>;

/// The growing bytes of one output file.
#[derive(Default)]
pub struct Body {
    gathered: Vec<u8>,
    staged: Option<StageWriter>,
    /// There if the bytes are not wanted, only their hash.
    digest: Option<Box<blake3::Hasher>>,
    bytes: u64,
}

/// A finished body.
pub enum Finished {
    /// Small: all of it.
    Inline(Vec<u8>),
    /// Written to a staged file that must still be synced.
    Staged(Unsynced),
    /// Only added up: how many bytes, and their hash.
    Digest(u64, [u8; 32]),
}

impl Body {
    /// Returns a body that is never written: only its length and hash are wanted.
    pub fn digest() -> Self {
        Self { digest: Some(Box::default()), ..Self::default() }
    }

    /// Returns how many bytes were appended.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Returns the memory to append encoded rows to; call [`Body::appended`] after each use.
    pub fn gathering(&mut self) -> &mut Vec<u8> {
        &mut self.gathered
    }

    /// Accounts for `count` bytes that were just gathered, and writes if there are enough.
    pub fn appended(&mut self, count: usize, stage: Stage<'_>) -> io::Result<()> {
        self.bytes += count as u64;
        let limit = if self.staged.is_some() || self.digest.is_some() {
            WRITE_BYTES
        } else {
            INLINE_BYTES_MAX
        };
        if self.gathered.len() > limit {
            self.write_gathered(stage)?;
        }
        Ok(())
    }

    /// Appends bytes as they are.
    pub fn append(&mut self, bytes: &[u8], stage: Stage<'_>) -> io::Result<()> {
        if bytes.len() < DIRECT_BYTES {
            self.gathered.extend_from_slice(bytes);
            return self.appended(bytes.len(), stage);
        }
        self.write_gathered(stage)?;
        self.bytes += bytes.len() as u64;
        if let Some(digest) = &mut self.digest {
            digest.update(bytes);
            return Ok(());
        }
        self.staging(stage)?.write(bytes)
    }

    /// Ends the body.
    pub fn finish(mut self, stage: Stage<'_>) -> io::Result<Finished> {
        if let Some(mut digest) = self.digest.take() {
            digest.update(&self.gathered);
            return Ok(Finished::Digest(digest.count(), digest.finalize().into()));
        }
        if self.staged.is_none() {
            return Ok(Finished::Inline(self.gathered));
        }
        self.write_gathered(stage)?;
        match self.staged {
            Some(writer) => Ok(Finished::Staged(writer.finish()?)),
            None => Ok(Finished::Inline(self.gathered)),
        }
    }

    fn write_gathered(&mut self, stage: Stage<'_>) -> io::Result<()> {
        if self.gathered.is_empty() {
            return Ok(());
        }
        if let Some(digest) = &mut self.digest {
            digest.update(&self.gathered);
            self.gathered.clear();
            return Ok(());
        }
        let gathered = std::mem::take(&mut self.gathered);
        self.staging(stage)?.write(&gathered)?;
        self.gathered = gathered;
        self.gathered.clear();
        Ok(())
    }

    fn staging(&mut self, stage: Stage<'_>) -> io::Result<&mut StageWriter> {
        match &mut self.staged {
            Some(writer) => Ok(writer),
            none => Ok(none.insert(stage()?)),
        }
    }
}
