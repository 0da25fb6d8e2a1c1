//! Body: the bytes of one output file while it is being made: in memory while it is small, in a
//! staged file beyond that.
//!
//! A small output travels to the journal inside the commit itself, so it needs no file and no sync
//! of its own before. While the disk is full a body keeps in memory what could not be written; who
//! fills it must then stop, and let it [go on](Body::go_on) later.

use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tidemill_store::Full;
use tidemill_store::stage::{StageWriter, Unsynced};

/// Bytes up to which an output stays in memory and rides inside the commit.
pub const INLINE_BYTES_MAX: usize = 48 << 10;

/// Bytes gathered before they are written to a staged file.
const WRITE_BYTES: usize = 256 << 10;

/// A piece this long is written as it is, without being gathered. So are all that go into a block,
/// which gathers them itself.
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
    /// Nowhere: the output is taken away.
    Removed,
    /// Nowhere: the output stays as it is. Only the records that came for it are told.
    Same,
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
    full: bool,
    /// Whether it is staged however small it is.
    never_inline: bool,
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

    /// Returns a body that is staged however small it is: it is one of many.
    pub fn staged() -> Self {
        Self { never_inline: true, ..Self::default() }
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
        if self.gathered.len() > limit && !self.full {
            self.write_gathered(stage)?;
        }
        Ok(())
    }

    /// Returns whether the disk was full: nothing more is to be appended before it went on.
    pub fn is_full(&self) -> bool {
        self.full
    }

    /// Tries again to write what could not be written; returns whether all of it is.
    pub fn go_on(&mut self, stage: Stage<'_>) -> io::Result<bool> {
        if self.full {
            self.full = false;
            self.write_gathered(stage)?;
        }
        Ok(!self.full)
    }

    /// Writes what is only gathered, if there is a staged file; returns whether all of it is.
    pub fn flush(&mut self, stage: Stage<'_>) -> io::Result<bool> {
        let is_staged = self.staged.is_some() || self.never_inline;
        if is_staged && !self.full {
            self.write_gathered(stage)?;
            if let (Some(writer), false) = (&mut self.staged, self.full) {
                self.full = !writer.settle()?;
            }
        }
        Ok(!self.full)
    }

    /// Appends bytes as they are.
    pub fn append(&mut self, bytes: &[u8], stage: Stage<'_>) -> io::Result<()> {
        let is_direct = bytes.len() >= DIRECT_BYTES
            || self.staged.as_ref().is_some_and(StageWriter::is_in_blocks);
        if !is_direct || self.full {
            self.gathered.extend_from_slice(bytes);
            return self.appended(bytes.len(), stage);
        }
        self.write_gathered(stage)?;
        self.bytes += bytes.len() as u64;
        if let Some(digest) = &mut self.digest {
            digest.update(bytes);
            return Ok(());
        }
        let written = if self.full { 0 } else { self.write(bytes, stage)? };
        self.gathered.extend_from_slice(&bytes[written..]);
        Ok(())
    }

    /// Ends the body, which must be [flushed](Body::flush).
    pub fn finish(mut self) -> io::Result<Finished> {
        if let Some(mut digest) = self.digest.take() {
            digest.update(&self.gathered);
            return Ok(Finished::Digest(digest.count(), digest.finalize().into()));
        }
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
        let mut gathered = std::mem::take(&mut self.gathered);
        let written = self.write(&gathered, stage);
        if let Ok(written) = written {
            gathered.drain(..written);
        }
        self.gathered = gathered;
        written.map(drop)
    }

    /// Writes bytes; returns how many, which are fewer than there are only if the disk is full.
    fn write(&mut self, bytes: &[u8], stage: Stage<'_>) -> io::Result<usize> {
        let written = match self.staging(stage) {
            Ok(writer) => writer.write(bytes)?,
            Err(error) if error.is_full() => 0,
            Err(error) => return Err(error),
        };
        self.full = written < bytes.len();
        Ok(written)
    }

    fn staging(&mut self, stage: Stage<'_>) -> io::Result<&mut StageWriter> {
        match &mut self.staged {
            Some(writer) => Ok(writer),
            none => Ok(none.insert(stage()?)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemill_store::Home;

    #[test]
    fn a_body_keeps_what_a_full_disk_does_not_take_and_goes_on_later() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::open(&folder.path().join("home")).unwrap();
        let room = std::cell::Cell::new(false);
        let stage = || match room.get() {
            true => StageWriter::create(&home, 1, "p", 1, "s"),
            false => Err(io::ErrorKind::StorageFull.into()),
        };
        let blocks: Vec<Vec<u8>> =
            (0..40_u8).map(|n| vec![n; if n % 3 == 0 { 100_000 } else { 5_000 }]).collect();
        let mut body = Body::default();
        for block in &blocks {
            body.append(block, &stage).unwrap();
            assert!(body.is_full());
            assert!(!body.go_on(&stage).unwrap());
            assert!(!body.flush(&stage).unwrap());
        }
        room.set(true);
        assert!(body.go_on(&stage).unwrap());
        body.append(b"end", &stage).unwrap();
        assert!(body.flush(&stage).unwrap());
        let expected = [blocks.concat(), b"end".to_vec()].concat();
        assert_eq!(body.bytes(), expected.len() as u64);
        let Finished::Staged(part) = body.finish().unwrap() else { panic!("it is staged") };
        assert_eq!(part.hash, *blake3::hash(&expected).as_bytes());
        assert_eq!(std::fs::read(&part.path).unwrap(), expected);
    }
}
