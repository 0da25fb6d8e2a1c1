//! Pack: one file with the rows of some shards of one state. Written once, read whole.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{CheckpointError, FORMAT};
use crate::disk::{self, DiskError};
use crate::failpoint;

const MAGIC: &[u8; 8] = b"tmckpt01";

/// The longest header, in bytes.
const HEADER_BYTES_MAX: u32 = 1 << 20;

/// The longest block, unpacked, in bytes: a block ends after the row that makes it long enough.
const BLOCK_BYTES_MAX: usize = 512 << 20;

/// How hard blocks are packed: hardly, but it halves them.
const LEVEL: i32 = 1;

/// Bytes gathered before they are written.
const BUFFER_BYTES: usize = 256 << 10;

/// What a pack says about itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PackHeader {
    /// The number of the format.
    pub format: u32,
    /// The state: which operator or table.
    pub state: String,
    /// What the state means: a hash of all that its rows follow from.
    pub fingerprint: String,
    /// The epoch as of which the rows are.
    pub epoch: u64,
    /// The generation that wrote it.
    pub generation: u64,
}

/// What was written of one shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WrittenShard {
    /// The shard.
    pub shard: u8,
    /// Its rows; with none the shard is empty now.
    pub rows: u64,
    /// The bytes they take in the pack.
    pub bytes: u64,
}

/// A pack that is durable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pack {
    /// Its name.
    pub name: String,
    /// Its size in bytes.
    pub bytes: u64,
    /// BLAKE3 of its bytes.
    pub hash: [u8; 32],
    /// What it holds, in the order of shards.
    pub shards: Vec<WrittenShard>,
}

/// A pack being written. Dropped before [`PackWriter::finish`], it removes its file.
pub struct PackWriter {
    file: Option<BufWriter<File>>,
    temporary: PathBuf,
    path: PathBuf,
    name: String,
    hasher: blake3::Hasher,
    bytes: u64,
    shards: Vec<(u64, u64)>,
    packer: zstd::bulk::Compressor<'static>,
}

impl PackWriter {
    /// Creates a pack in the folder of a pipeline's checkpoints.
    pub fn create(folder: &Path, name: &str, header: &PackHeader) -> io::Result<PackWriter> {
        if !disk::is_plain_name(name) {
            let text = format!("{name:?} cannot be the name of a pack");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let path = folder.join(name);
        let temporary = folder.join(format!("{name}.tmp"));
        let file = disk::create_private(&temporary)?;
        let mut writer = PackWriter {
            file: Some(BufWriter::with_capacity(BUFFER_BYTES, file)),
            temporary,
            path,
            name: name.to_owned(),
            hasher: blake3::Hasher::new(),
            bytes: 0,
            shards: vec![(0, 0); 256],
            packer: zstd::bulk::Compressor::new(LEVEL)?,
        };
        let header = serde_json::to_vec(header)?;
        writer.write(MAGIC)?;
        writer.write(&(header.len() as u32).to_le_bytes())?;
        writer.write(&header)?;
        Ok(writer)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        file.write_all(bytes).map_err(|error| DiskError::new("write", &self.temporary, error))?;
        self.hasher.update(bytes);
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    /// Appends encoded rows of one shard.
    pub fn block(&mut self, shard: u8, rows: u32, bytes: &[u8]) -> io::Result<()> {
        if bytes.len() > BLOCK_BYTES_MAX {
            let text = format!("a block of {} bytes is too long for a checkpoint", bytes.len());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let packed = self.packer.compress(bytes)?;
        let numbers = [u32::from(shard), rows, bytes.len() as u32, packed.len() as u32];
        for number in numbers {
            self.write(&number.to_le_bytes())?;
        }
        self.write(&packed)?;
        let (all_rows, all_bytes) = &mut self.shards[usize::from(shard)];
        *all_rows += u64::from(rows);
        *all_bytes += packed.len() as u64 + 16;
        Ok(())
    }

    /// Ends the pack and makes it durable. `shards` are those it was to hold, with rows or without.
    pub fn finish(mut self, shards: impl Iterator<Item = u8>) -> io::Result<Pack> {
        let file = self.file.take().ok_or(io::ErrorKind::InvalidInput)?;
        let file = file
            .into_inner()
            .map_err(|error| DiskError::new("write", &self.temporary, error.into_error()))?;
        failpoint::reach("checkpoint-pack-written")?;
        disk::sync_file(&file, &self.temporary)?;
        std::fs::rename(&self.temporary, &self.path)
            .map_err(|error| DiskError::new("rename", &self.temporary, error))?;
        if let Some(folder) = self.path.parent() {
            disk::sync_folder(folder)?;
        }
        failpoint::reach("checkpoint-pack-placed")?;
        let shard = |shard: u8| {
            let (rows, bytes) = self.shards[usize::from(shard)];
            WrittenShard { shard, rows, bytes }
        };
        Ok(Pack {
            name: std::mem::take(&mut self.name),
            bytes: self.bytes,
            hash: self.hasher.finalize().into(),
            shards: shards.map(shard).collect(),
        })
    }
}

impl Drop for PackWriter {
    fn drop(&mut self) {
        if self.file.take().is_some() {
            // What cannot be removed now is swept later.
            let _ = std::fs::remove_file(&self.temporary);
        }
    }
}

/// Rows of one shard, as they were given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// The shard.
    pub shard: u8,
    /// How many rows.
    pub rows: u32,
    /// The rows.
    pub bytes: Vec<u8>,
}

/// Reads the blocks of a pack one after the other. Whatever the file holds, it never panics.
pub struct PackReader {
    file: BufReader<File>,
    path: PathBuf,
    /// Bytes behind what was read.
    left: u64,
    header: PackHeader,
}

impl PackReader {
    /// Opens a pack and reads its header.
    pub fn open(path: &Path) -> Result<PackReader, CheckpointError> {
        let file = open(path)?;
        let left = file.metadata().map_err(|error| DiskError::new("look at", path, error))?.len();
        let header = PackHeader {
            format: 0,
            state: String::new(),
            fingerprint: String::new(),
            epoch: 0,
            generation: 0,
        };
        let file = BufReader::with_capacity(BUFFER_BYTES, file);
        let mut reader = PackReader { file, path: path.to_path_buf(), left, header };
        if reader.array::<8>()? != *MAGIC {
            return Err(reader.damaged("it is no pack"));
        }
        let length = u32::from_le_bytes(reader.array()?);
        if length > HEADER_BYTES_MAX {
            return Err(reader.damaged("its header is too long"));
        }
        let header = reader.take(u64::from(length))?;
        reader.header = serde_json::from_slice(&header)
            .map_err(|error| reader.damaged(&format!("its header: {error}")))?;
        if reader.header.format != FORMAT {
            let found = reader.header.format;
            return Err(CheckpointError::Newer { path: path.to_path_buf(), found });
        }
        Ok(reader)
    }

    /// Returns what the pack says about itself.
    pub fn header(&self) -> &PackHeader {
        &self.header
    }

    /// Returns the next block of a shard that is wanted, or nothing at the end.
    pub fn next_block(
        &mut self,
        wanted: impl Fn(u8) -> bool,
    ) -> Result<Option<Block>, CheckpointError> {
        while self.left > 0 {
            let mut numbers = [0_u32; 4];
            for number in &mut numbers {
                *number = u32::from_le_bytes(self.array()?);
            }
            let [shard, rows, unpacked, packed] = numbers;
            let Ok(shard) = u8::try_from(shard) else {
                return Err(self.damaged("there is no such shard"));
            };
            if unpacked as usize > BLOCK_BYTES_MAX {
                return Err(self.damaged("a block is too long"));
            }
            if !wanted(shard) {
                self.skip(u64::from(packed))?;
                continue;
            }
            let packed = self.take(u64::from(packed))?;
            let bytes = zstd::bulk::decompress(&packed, unpacked as usize)
                .map_err(|error| self.damaged(&format!("a block cannot be unpacked: {error}")))?;
            if bytes.len() != unpacked as usize {
                return Err(self.damaged("a block has another length"));
            }
            return Ok(Some(Block { shard, rows, bytes }));
        }
        Ok(None)
    }

    /// Returns what to say of a pack whose rows make no sense.
    pub fn damaged(&self, detail: &str) -> CheckpointError {
        CheckpointError::Damaged { path: self.path.clone(), detail: detail.to_owned() }
    }

    fn skip(&mut self, count: u64) -> Result<(), CheckpointError> {
        if count > self.left {
            return Err(self.damaged("it ends in the middle of a block"));
        }
        self.left -= count;
        self.file
            .seek_relative(count.cast_signed())
            .map_err(|error| DiskError::new("read", &self.path, error).into())
    }

    fn take(&mut self, count: u64) -> Result<Vec<u8>, CheckpointError> {
        // Never more memory than the file has bytes.
        if count > self.left {
            return Err(self.damaged("it ends in the middle of a block"));
        }
        let mut bytes = vec![0; count as usize];
        self.read(&mut bytes)?;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], CheckpointError> {
        let mut bytes = [0; N];
        if self.left < N as u64 {
            return Err(self.damaged("it ends too early"));
        }
        self.read(&mut bytes)?;
        Ok(bytes)
    }

    fn read(&mut self, bytes: &mut [u8]) -> Result<(), CheckpointError> {
        self.file.read_exact(bytes).map_err(|error| DiskError::new("read", &self.path, error))?;
        self.left -= bytes.len() as u64;
        Ok(())
    }
}

fn open(path: &Path) -> Result<File, CheckpointError> {
    match disk::open_plain(path) {
        Ok(file) => Ok(file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(CheckpointError::Gone { path: path.to_path_buf() })
        }
        Err(error) => Err(DiskError::new("open", path, error).into()),
    }
}

/// Checks that a pack is, byte by byte, what was written.
pub fn verify_pack(path: &Path, bytes: u64, hash: &[u8; 32]) -> Result<(), CheckpointError> {
    let mut file = open(path)?;
    let damaged = |detail: String| CheckpointError::Damaged { path: path.to_path_buf(), detail };
    let failed = |error| DiskError::new("read", path, error);
    let found = file.metadata().map_err(failed)?.len();
    if found != bytes {
        return Err(damaged(format!("it has {found} bytes, and {bytes} were written")));
    }
    file.seek(SeekFrom::Start(0)).map_err(failed)?;
    if disk::hash_of(&file).map_err(failed)? != *hash {
        return Err(damaged("its hash is not that of what was written".to_owned()));
    }
    Ok(())
}
