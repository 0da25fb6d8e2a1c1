//! Stage: parts of outputs before they are committed, out of sight of everybody.
//!
//! Owns `stage/<generation>/<pipeline>/<epoch>-<sink>-<n>.part`, and `<epoch>-<sink>-of<id>-<n>.part`
//! for an output of an earlier file. Nothing in here counts until the journal names it; recovery deletes the rest. What is staged is *derived* and can be made again.

use std::collections::BTreeSet;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::num::NonZeroU64;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Advice, OFlags};

mod block;

use crate::barrier;
use crate::disk::{self, DiskError, Full};
use crate::failpoint;
use crate::home::Home;
use crate::journal::{Part, PartBody};
use crate::trial;

use block::BlockFile;
pub use block::{BLOCK_BYTES, Block, BlockWrite, Blocks};

/// After so many bytes the kernel is asked to begin writing them, so that the sync at the end waits
/// for little.
const WRITEBACK_BYTES: u64 = 8 * 1024 * 1024;

/// Bytes of a block that are hashed at once: enough of them for all lanes of the processor, and few
/// enough to be still in its cache. A power of two, and hashed at multiples of itself: what begins
/// anywhere else is first hashed in pieces of 1, 2, 4 and 8 KiB, at two thirds of the rate.
const HASH_BYTES: usize = 128 << 10;

/// How often one sink may stage one epoch in one generation: a dataflow that was rebuilt stages
/// again beside what the one before left.
const ATTEMPTS_MAX: u32 = 10_000;

/// A part being written. Dropped before [`StageWriter::finish`], it removes its file.
pub struct StageWriter {
    file: Option<File>,
    /// Who writes what is more than a block.
    blocks: Option<Arc<dyn Blocks>>,
    /// The block that is being filled.
    filling: Option<Filling>,
    path: PathBuf,
    staged: PathBuf,
    hasher: blake3::Hasher,
    bytes: u64,
    writeback_from: u64,
}

/// A block that is being filled.
struct Filling {
    block: Block,
    /// How much of it is in the hash.
    hashed: usize,
    /// Where blocks go; opened for the first one that is full.
    file: Option<Arc<BlockFile>>,
    /// How much of the block was written here, because the part ends before it is full.
    settled: usize,
}

/// A part that is written whole and not yet durable.
#[derive(Debug)]
pub struct Unsynced {
    /// The file.
    pub file: File,
    /// Where it is, absolute.
    pub path: PathBuf,
    /// Where it is, relative to the home: what the journal keeps.
    pub staged: PathBuf,
    /// Its size in bytes.
    pub bytes: u64,
    /// BLAKE3 of its bytes.
    pub hash: [u8; 32],
    /// Whether some of its bytes were given to [`Blocks`]: it may be synced behind them only.
    pub in_blocks: bool,
}

impl StageWriter {
    /// Creates the file of a part.
    pub fn create(
        home: &Home,
        generation: u64,
        pipeline: &str,
        epoch: u64,
        sink: &str,
    ) -> io::Result<StageWriter> {
        Self::create_named(home, generation, pipeline, sink, &format!("{epoch}-{sink}"))
    }

    /// Creates the file of a part that is an output of another submission: one epoch may have many.
    pub fn create_of(
        home: &Home,
        generation: u64,
        pipeline: &str,
        epoch: u64,
        sink: &str,
        of: u64,
    ) -> io::Result<StageWriter> {
        Self::create_named(home, generation, pipeline, sink, &format!("{epoch}-{sink}-of{of}"))
    }

    fn create_named(
        home: &Home,
        generation: u64,
        pipeline: &str,
        sink: &str,
        stem: &str,
    ) -> io::Result<StageWriter> {
        for name in [pipeline, sink] {
            if !disk::is_plain_name(name) {
                let text = format!("{name:?} cannot be part of the name of a staged file");
                return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
            }
        }
        let folder = home.stage(generation).join(pipeline);
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder)
            .map_err(|error| DiskError::new("create", &folder, error))?;
        let (file, path) = create_free(&folder, stem)?;
        failpoint::reach("part-created")?;
        let staged = path.strip_prefix(home.root()).unwrap_or(&path).to_path_buf();
        let hasher = blake3::Hasher::new();
        Ok(StageWriter {
            file: Some(file),
            path,
            staged,
            hasher,
            bytes: 0,
            writeback_from: 0,
            blocks: None,
            filling: None,
        })
    }

    /// Appends bytes; returns how many. Fewer than there are only if the disk is full: the rest may
    /// be appended later.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(file) = &mut self.file else { return Ok(bytes.len()) };
        if self.bytes == 0 && self.filling.is_none() {
            let first = self.blocks.as_ref().and_then(|blocks| blocks.first());
            self.filling = first.map(Filling::new);
        }
        // Where there is no memory for a first block, it is written here, as all of a part is that needs no
        // blocks.
        let here = match &self.blocks {
            Some(_) if self.filling.is_some() => 0,
            Some(_) => (BLOCK_BYTES as u64).saturating_sub(self.bytes).min(bytes.len() as u64),
            None => bytes.len() as u64,
        };
        let (here, behind) = bytes.split_at(here as usize);
        let count = write_here(file, &self.path, here)?;
        self.hasher.update(&here[..count]);
        self.bytes += count as u64;
        if count < here.len() {
            return Ok(count);
        }
        if !behind.is_empty() {
            self.give_away(behind)?;
            return Ok(bytes.len());
        }
        let waiting = self.bytes - self.writeback_from;
        if waiting >= WRITEBACK_BYTES {
            // Linux begins to write dirty pages it is told are not needed, without waiting. Only
            // advice: what fails here is found by the sync.
            let _ = rustix::fs::fadvise(
                &*file,
                self.writeback_from,
                NonZeroU64::new(waiting),
                Advice::DontNeed,
            );
            self.writeback_from = self.bytes;
        }
        Ok(count)
    }

    /// Lets blocks be written by somebody else, if there is more than one.
    pub fn through(mut self, blocks: Arc<dyn Blocks>) -> Self {
        self.blocks = Some(blocks);
        self
    }

    /// Returns whether bytes go into blocks by now: short pieces cost no more than long ones.
    pub fn is_in_blocks(&self) -> bool {
        self.filling.is_some()
    }

    /// Gives bytes to whoever writes blocks, as these become full.
    fn give_away(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let Some(filling) = self.filling() else { return Ok(()) };
            let count = filling.block.fill(rest);
            let (unhashed, is_full) = (filling.unhashed(), filling.block.is_full());
            rest = &rest[count..];
            self.bytes += count as u64;
            if unhashed >= HASH_BYTES {
                self.hash_filling(HASH_BYTES);
            }
            if is_full {
                self.give_block(|blocks| blocks.empty())?;
            }
        }
        Ok(())
    }

    /// Returns the block that is being filled.
    fn filling(&mut self) -> Option<&mut Filling> {
        let blocks = self.blocks.as_ref()?;
        Some(self.filling.get_or_insert_with(|| Filling::new(blocks.empty())))
    }

    /// Takes into the hash what the block has, up to a multiple of `step`.
    fn hash_filling(&mut self, step: usize) {
        if let Some(filling) = &mut self.filling {
            let bytes = filling.block.bytes();
            let upto = bytes.len() / step * step;
            self.hasher.update(bytes.get(filling.hashed..upto).unwrap_or_default());
            filling.hashed = upto.max(filling.hashed);
        }
    }

    /// Gives the block that is being filled away, and goes on with another.
    fn give_block(&mut self, next: fn(&dyn Blocks) -> Block) -> io::Result<()> {
        self.hash_filling(1);
        let Self { file: Some(file), filling: Some(filling), blocks: Some(blocks), .. } = self
        else {
            return Ok(());
        };
        let to = match &mut filling.file {
            Some(to) => to,
            none => none.insert(Arc::new(BlockFile::open(file, &self.path)?)),
        };
        let block = std::mem::replace(&mut filling.block, next(&**blocks));
        filling.hashed = 0;
        let offset = self.bytes - block.bytes().len() as u64;
        blocks.write(BlockWrite::new(Arc::clone(to), offset, block));
        Ok(())
    }

    /// Writes a part that stays smaller than a block, which needs no second thread. Nothing is appended
    /// behind that. Returns whether there was room for it; if not, it may be tried again.
    pub fn settle(&mut self) -> io::Result<bool> {
        self.hash_filling(1);
        let Self { file: Some(file), filling: Some(filling), path, .. } = self else {
            return Ok(true);
        };
        if filling.file.is_none() {
            let rest = filling.block.bytes().get(filling.settled..).unwrap_or_default();
            filling.settled += write_here(file, path, rest)?;
        }
        Ok(filling.file.is_some() || filling.settled == filling.block.bytes().len())
    }

    /// Returns how many bytes were written.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Ends the part. It is durable only after [`sync_parts`].
    pub fn finish(mut self) -> io::Result<Unsynced> {
        failpoint::reach("part-written")?;
        let settled = |filling: &Filling| filling.settled == filling.block.bytes().len();
        let open = self.filling.as_ref().filter(|filling| !settled(filling)).is_some();
        if open {
            self.give_block(|_| Block::none())?;
        }
        let in_blocks = self.filling.as_ref().is_some_and(|filling| filling.file.is_some());
        let file = self.file.take().ok_or(io::ErrorKind::InvalidInput)?;
        Ok(Unsynced {
            file,
            in_blocks,
            path: std::mem::take(&mut self.path),
            staged: std::mem::take(&mut self.staged),
            bytes: self.bytes,
            hash: self.hasher.finalize().into(),
        })
    }
}

/// Writes bytes to the end of a file; returns how many, which are fewer than there are only if the disk is
/// full.
fn write_here(file: &mut File, path: &Path, bytes: &[u8]) -> io::Result<usize> {
    let mut count = 0;
    while count < bytes.len() {
        match write_some(file, &bytes[count..]) {
            Ok(0) => return Err(DiskError::new("write", path, io::ErrorKind::WriteZero).into()),
            Ok(some) => count += some,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.is_full() => break,
            Err(error) => return Err(DiskError::new("write", path, error).into()),
        }
    }
    Ok(count)
}

fn write_some(file: &mut File, bytes: &[u8]) -> io::Result<usize> {
    match trial::write_max(bytes.len()) {
        0 if !bytes.is_empty() => Err(io::ErrorKind::StorageFull.into()),
        some => file.write(&bytes[..some]),
    }
}

impl Drop for StageWriter {
    fn drop(&mut self) {
        if let (Some(filling), Some(blocks)) = (self.filling.take(), &self.blocks) {
            blocks.give_back(filling.block);
        }
        if self.file.take().is_some() {
            // What cannot be removed now, recovery removes.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl Filling {
    fn new(block: Block) -> Self {
        Self { block, hashed: 0, file: None, settled: 0 }
    }

    fn unhashed(&self) -> usize {
        self.block.bytes().len() - self.hashed
    }
}

impl Unsynced {
    /// Returns what the journal keeps of the part; `of` is the submission whose output it is, `name`
    /// its final name in `out/<sink>/`.
    pub fn part(&self, of: u64, sink: &str, name: &str) -> Part {
        Part {
            sink: sink.to_string(),
            name: name.to_string(),
            of,
            bytes: self.bytes,
            hash: self.hash,
            body: PartBody::Staged(self.staged.clone()),
            before: Vec::new(),
        }
    }

    /// Removes the part: its epoch was poisoned.
    pub fn discard(self) -> io::Result<()> {
        std::fs::remove_file(&self.path)
            .map_err(|error| DiskError::new("remove", &self.path, error).into())
    }
}

/// Creates the first `<stem>-<n>.part` that does not exist.
fn create_free(folder: &Path, stem: &str) -> Result<(File, PathBuf), DiskError> {
    let flags = (OFlags::NOFOLLOW | OFlags::CLOEXEC).bits().cast_signed();
    for attempt in 0..ATTEMPTS_MAX {
        let path = folder.join(format!("{stem}-{attempt}.part"));
        let mut options = OpenOptions::new();
        let file = options.write(true).create_new(true).custom_flags(flags).open(&path);
        match file {
            Ok(file) => return Ok((file, path)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(DiskError::new("create", &path, error)),
        }
    }
    Err(DiskError::new("find a free name in", folder, io::ErrorKind::AlreadyExists))
}

/// Makes parts durable: their bytes (P1), then the names of their folders up to `stage/` (P2).
///
/// Only then may anybody be told of them. An error must not be retried.
pub fn sync_parts(parts: &[Unsynced]) -> io::Result<()> {
    match parts {
        [] => {}
        _ if !barrier::holds("P1") => {}
        [first, ..] if parts.len() >= disk::SYNC_ALL_FROM => {
            disk::sync_all(&first.file, &first.path)?;
        }
        few => few.iter().try_for_each(|part| disk::sync_file(&part.file, &part.path))?,
    }
    failpoint::reach("part-files-synced")?;
    let mut folders = BTreeSet::new();
    for part in parts {
        // `stage/<generation>/<pipeline>/<part>`: any of the three may be new.
        folders.extend(part.path.ancestors().skip(1).take(3));
    }
    // Deepest first: a name in a folder means nothing before the folder's own content is durable.
    for folder in folders.iter().rev().filter(|_| barrier::holds("P2")) {
        disk::sync_folder(folder)?;
    }
    failpoint::reach("part-folders-synced")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn given() -> (tempfile::TempDir, Home) {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::open(folder.path()).unwrap();
        (folder, home)
    }

    #[test]
    fn a_part_is_hashed_while_it_is_written() {
        let (_folder, home) = given();
        let mut writer = StageWriter::create(&home, 3, "p", 7, "errors").unwrap();
        let block = vec![7_u8; 1024 * 1024];
        for _ in 0..9 {
            writer.write(&block).unwrap();
        }
        writer.write(b"end").unwrap();
        assert_eq!(writer.bytes(), 9 * 1024 * 1024 + 3);
        let part = writer.finish().unwrap();
        sync_parts(std::slice::from_ref(&part)).unwrap();
        assert_eq!(part.staged, Path::new("stage/3/p/7-errors-0.part"));
        assert_eq!(part.path, home.root().join(&part.staged));
        let written = fs::read(&part.path).unwrap();
        assert_eq!(part.bytes, written.len() as u64);
        assert_eq!(part.hash, *blake3::hash(&written).as_bytes());
    }

    /// Writes each block as it comes, and says how many came.
    #[derive(Default)]
    struct AtOnce(std::sync::atomic::AtomicUsize, bool);

    impl Blocks for AtOnce {
        fn empty(&self) -> Block {
            Block::default()
        }

        fn first(&self) -> Option<Block> {
            self.1.then(Block::default)
        }

        fn give_back(&self, _: Block) {}

        fn write(&self, mut write: BlockWrite) {
            write.run().unwrap();
            self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
    }

    #[test]
    fn what_follows_the_first_block_is_written_in_blocks() {
        let check_with = |gives_firsts: bool, length: usize, piece: usize, blocks: usize| {
            let (_folder, home) = given();
            let taker = Arc::new(AtOnce(0.into(), gives_firsts));
            let writer = StageWriter::create(&home, 1, "p", 1, "s").unwrap();
            let mut writer = writer.through(Arc::<AtOnce>::clone(&taker));
            let bytes: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
            for piece in bytes.chunks(piece) {
                assert_eq!(writer.write(piece).unwrap(), piece.len());
            }
            assert!(writer.settle().unwrap());
            let part = writer.finish().unwrap();
            assert_eq!(taker.0.load(std::sync::atomic::Ordering::Relaxed), blocks, "{length}");
            assert_eq!(part.in_blocks, blocks > 0);
            sync_parts(std::slice::from_ref(&part)).unwrap();
            assert_eq!(fs::read(&part.path).unwrap(), bytes);
            assert_eq!(part.bytes, length as u64);
            assert_eq!(part.hash, *blake3::hash(&bytes).as_bytes());
        };
        // Where there is memory for it, the first one is a block, too, once it is full.
        let first = |length: usize, piece: usize, blocks: usize| {
            check_with(true, length, piece, blocks);
        };
        first(1, 1, 0);
        first(BLOCK_BYTES - 1, 100_000, 0);
        first(BLOCK_BYTES, 100_000, 1);
        first(BLOCK_BYTES + 1, 100_000, 2);
        first(3 * BLOCK_BYTES + 4097, 300_001, 4);
        let check = |length: usize, piece: usize, blocks: usize| {
            check_with(false, length, piece, blocks);
        };
        check(1, 1, 0);
        check(BLOCK_BYTES, 100_000, 0);
        check(BLOCK_BYTES + 1, 100_000, 0);
        check(2 * BLOCK_BYTES, 262_144, 1);
        check(3 * BLOCK_BYTES + 4097, 300_001, 3);
        check(3 * BLOCK_BYTES + 4097, 3 * BLOCK_BYTES + 4097, 3);
    }

    #[test]
    fn many_parts_are_synced_at_once() {
        let (_folder, home) = given();
        let parts: Vec<_> = (0..20)
            .map(|epoch| StageWriter::create(&home, 1, "p", epoch, "s").unwrap().finish().unwrap())
            .collect();
        sync_parts(&parts).unwrap();
        sync_parts(&[]).unwrap();
    }

    #[test]
    fn a_part_that_is_not_finished_leaves_nothing() {
        let (_folder, home) = given();
        let mut writer = StageWriter::create(&home, 1, "p", 1, "s").unwrap();
        writer.write(b"x").unwrap();
        drop(writer);
        let part = StageWriter::create(&home, 1, "p", 1, "s").unwrap().finish().unwrap();
        part.discard().unwrap();
        assert_eq!(fs::read_dir(home.stage(1).join("p")).unwrap().count(), 0);
    }

    #[test]
    fn staging_an_epoch_again_touches_nothing_that_is_there() {
        let (_folder, home) = given();
        let first = StageWriter::create(&home, 1, "p", 1, "s").unwrap().finish().unwrap();
        let second = StageWriter::create(&home, 1, "p", 1, "s").unwrap().finish().unwrap();
        assert_ne!(first.path, second.path);
    }

    #[test]
    fn a_part_cannot_be_staged_outside() {
        let (_folder, home) = given();
        for bad in ["..", "a/b", ""] {
            assert!(StageWriter::create(&home, 1, bad, 1, "s").is_err());
            assert!(StageWriter::create(&home, 1, "p", 1, bad).is_err());
        }
    }
}
