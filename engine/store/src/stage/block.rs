//! Block: a big piece of a staged file, written past the page cache by a thread of its own.
//!
//! What is written once, synced at once and read later by somebody else gains nothing from the page
//! cache, and filling it costs more processor time than parsing does. Owns memory that the disk can
//! read from directly; who writes the blocks, and when, is decided by whoever implements [`Blocks`].
//! A file system that knows no direct writes gets the same bytes through its cache.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::OFlags;

use crate::disk::{self, DiskError};
use crate::trial;

/// The size of a block. Blocks begin at multiples of it.
pub const BLOCK_BYTES: usize = 1 << 20;

/// What addresses in memory and offsets in the file are multiples of: the size of a page, and of the
/// largest sector in use.
const ALIGN: usize = 4096;

/// Takes blocks and writes them, in the order in which they come.
pub trait Blocks: Send + Sync {
    /// Returns an empty block.
    fn empty(&self) -> Block;

    /// Returns an empty block for the beginning of a file, which may never fill it; none if many are in use.
    fn first(&self) -> Option<Block>;

    /// Takes a block back that is not to be written.
    fn give_back(&self, block: Block);

    /// Takes over the writing of a block.
    fn write(&self, write: BlockWrite);
}

/// Memory for one block, at an address that the disk can read from.
#[derive(Debug)]
pub struct Block {
    memory: Vec<u8>,
    skipped: usize,
    filled: usize,
}

impl Default for Block {
    fn default() -> Self {
        let memory = vec![0; BLOCK_BYTES + ALIGN];
        let skipped = memory.as_ptr().align_offset(ALIGN).min(ALIGN);
        Self { memory, skipped, filled: 0 }
    }
}

impl Block {
    /// Returns a block without memory, which nothing fits into.
    pub(super) fn none() -> Self {
        Self { memory: Vec::new(), skipped: 0, filled: 0 }
    }

    /// Returns whether it has no memory.
    pub fn is_none(&self) -> bool {
        self.memory.is_empty()
    }

    /// Copies as many of the bytes as fit; returns how many.
    pub fn fill(&mut self, bytes: &[u8]) -> usize {
        let room = self.memory.len().saturating_sub(ALIGN) - self.filled;
        let count = bytes.len().min(room);
        let from = self.skipped + self.filled;
        self.memory[from..from + count].copy_from_slice(&bytes[..count]);
        self.filled += count;
        count
    }

    /// Returns the bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.memory[self.skipped..self.skipped + self.filled]
    }

    /// Returns whether nothing more fits.
    pub fn is_full(&self) -> bool {
        self.filled == BLOCK_BYTES
    }

    /// Forgets the bytes and keeps the memory.
    pub fn clear(&mut self) {
        self.filled = 0;
    }
}

/// A staged file, opened for blocks.
#[derive(Debug)]
pub(super) struct BlockFile {
    cached: File,
    /// There if the file system knows direct writes.
    direct: Option<File>,
    path: std::path::PathBuf,
}

impl BlockFile {
    /// Opens a file once more, for direct writes if they are known there.
    pub(super) fn open(cached: &File, path: &Path) -> io::Result<Self> {
        let again = |error| DiskError::new("open", path, error);
        let cached = cached.try_clone().map_err(again)?;
        // Whatever is wrong with it, the other way is right.
        let direct = disk::open_for_writing(path, OFlags::DIRECT).ok();
        Ok(Self { cached, direct, path: path.to_path_buf() })
    }
}

/// A block on its way to its place in a file.
#[derive(Debug)]
pub struct BlockWrite {
    file: Arc<BlockFile>,
    offset: u64,
    block: Block,
    written: usize,
}

impl BlockWrite {
    pub(super) fn new(file: Arc<BlockFile>, offset: u64, block: Block) -> Self {
        Self { file, offset, block, written: 0 }
    }

    /// Returns how many bytes it has.
    pub fn bytes(&self) -> usize {
        self.block.filled
    }

    /// Writes what is not yet written. If the disk is full, it may be tried again.
    pub fn run(&mut self) -> io::Result<()> {
        let refused = |error| DiskError::new("write", &self.file.path, error);
        let mut direct = self.file.direct.as_ref();
        while self.written < self.block.filled {
            let rest = &self.block.bytes()[self.written..];
            let some = trial::write_max(rest.len());
            if some == 0 {
                return Err(refused(io::ErrorKind::StorageFull.into()).into());
            }
            // All but the last page of a tail goes past the cache, too.
            let whole = some - some % ALIGN;
            let way = direct.filter(|_| self.written.is_multiple_of(ALIGN) && whole > 0);
            let (file, some) = way.map_or((&self.file.cached, some), |file| (file, whole));
            let at = self.offset + self.written as u64;
            match file.write_at(&rest[..some], at) {
                Ok(0) => return Err(refused(io::ErrorKind::WriteZero.into()).into()),
                Ok(some) => self.written += some,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Some file systems open a file for direct writes and then do not want them.
                Err(error) if way.is_some() && error.kind() == io::ErrorKind::InvalidInput => {
                    direct = None;
                }
                Err(error) => return Err(refused(error).into()),
            }
        }
        Ok(())
    }

    /// Gives the memory back.
    pub fn into_block(self) -> Block {
        self.block
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_of_any_length_are_written_at_their_places() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("part");
        let cached = File::create(&path).unwrap();
        let file = Arc::new(BlockFile::open(&cached, &path).unwrap());
        let mut expected = Vec::new();
        for (number, length) in [BLOCK_BYTES, BLOCK_BYTES, 12_345].into_iter().enumerate() {
            let mut block = Block::default();
            let bytes: Vec<u8> = (0..length).map(|at| (at % 251 + number) as u8).collect();
            assert_eq!(block.fill(&bytes), length);
            assert_eq!(block.is_full(), length == BLOCK_BYTES);
            assert_eq!(block.bytes().as_ptr().align_offset(ALIGN), 0);
            let offset = expected.len() as u64;
            BlockWrite::new(Arc::clone(&file), offset, block).run().unwrap();
            expected.extend(bytes);
        }
        assert_eq!(std::fs::read(&path).unwrap(), expected);
    }
}
