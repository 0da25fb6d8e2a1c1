//! Manifest: which pack holds which shard of which state, as of one epoch.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{CheckpointError, FORMAT, Pack, verify_pack};
use crate::disk::{self, DiskError};
use crate::failpoint;
use crate::journal::CheckpointRow;

/// The longest manifest, in bytes.
const BYTES_MAX: u64 = 64 << 20;

/// Garbage that is always allowed beside the live rows, in bytes.
const GARBAGE_BYTES_MIN: u64 = 4 << 20;

/// The most packs that one manifest names before all rows are written anew.
const PACKS_MAX: usize = 512;

/// A checkpoint: all states of a pipeline as of one epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The number of the format.
    pub format: u32,
    /// The pipeline.
    pub pipeline: String,
    /// The epoch: everything up to it is in, nothing after it.
    pub epoch: u64,
    /// The generation that wrote it.
    pub generation: u64,
    /// The version of the binary that wrote it.
    pub binary_version: String,
    /// The packs that hold the rows.
    pub packs: Vec<PackRow>,
    /// The states.
    pub states: Vec<KeptState>,
}

/// One pack.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PackRow {
    /// Its name.
    pub name: String,
    /// Its size in bytes.
    pub bytes: u64,
    /// BLAKE3 of its bytes, in hex.
    pub blake3: String,
}

/// One state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeptState {
    /// Which operator or table.
    pub id: String,
    /// What it means: a hash of all that its rows follow from.
    pub fingerprint: String,
    /// Its shards that have rows.
    pub shards: Vec<ShardRow>,
}

/// Where the rows of one shard are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "[u64; 4]", into = "[u64; 4]")]
pub struct ShardRow {
    /// The shard.
    pub shard: u64,
    /// The place of its pack in the list.
    pub pack: u64,
    /// How many rows.
    pub rows: u64,
    /// The bytes they take there.
    pub bytes: u64,
}

impl From<[u64; 4]> for ShardRow {
    fn from([shard, pack, rows, bytes]: [u64; 4]) -> Self {
        Self { shard, pack, rows, bytes }
    }
}

impl From<ShardRow> for [u64; 4] {
    fn from(row: ShardRow) -> Self {
        [row.shard, row.pack, row.rows, row.bytes]
    }
}

impl Manifest {
    /// Returns a state.
    pub fn state(&self, id: &str) -> Option<&KeptState> {
        self.states.iter().find(|state| state.id == id)
    }

    /// Puts shards of a state where a new pack has them. All states must be there already.
    pub fn put(&mut self, id: &str, pack: &Pack) {
        let at = self.packs.len() as u64;
        let Some(state) = self.states.iter_mut().find(|state| state.id == id) else { return };
        for written in &pack.shards {
            let shard = u64::from(written.shard);
            state.shards.retain(|row| row.shard != shard);
            if written.rows > 0 {
                let (rows, bytes) = (written.rows, written.bytes);
                state.shards.push(ShardRow { shard, pack: at, rows, bytes });
            }
        }
        state.shards.sort_by_key(|row| row.shard);
        let blake3 = blake3::Hash::from_bytes(pack.hash).to_hex().to_string();
        self.packs.push(PackRow { name: pack.name.clone(), bytes: pack.bytes, blake3 });
    }

    /// Forgets the packs that hold nothing any more.
    pub fn forget_unused(&mut self) {
        let used: BTreeSet<u64> = self.rows().map(|row| row.pack).collect();
        let places: Vec<u64> = used.into_iter().collect();
        let place = |old: u64| places.binary_search(&old).unwrap_or_default() as u64;
        for row in self.states.iter_mut().flat_map(|state| &mut state.shards) {
            row.pack = place(row.pack);
        }
        let mut at = 0;
        self.packs.retain(|_| {
            at += 1;
            places.binary_search(&(at - 1)).is_ok()
        });
    }

    /// Returns whether so much of the packs is out of date that all rows should be written anew.
    pub fn is_wasteful(&self) -> bool {
        let live: u64 = self.rows().map(|row| row.bytes).sum();
        let all: u64 = self.packs.iter().map(|pack| pack.bytes).sum();
        all > 2 * live + GARBAGE_BYTES_MIN || self.packs.len() > PACKS_MAX
    }

    /// Returns how many rows all states have.
    pub fn count(&self) -> u64 {
        self.rows().map(|row| row.rows).sum()
    }

    fn rows(&self) -> impl Iterator<Item = &ShardRow> {
        self.states.iter().flat_map(|state| &state.shards)
    }

    fn check(&self, path: &Path) -> Result<(), CheckpointError> {
        let damaged = |detail: &str| {
            Err(CheckpointError::Damaged { path: path.to_path_buf(), detail: detail.to_owned() })
        };
        if self.rows().any(|row| row.shard > 255 || row.pack >= self.packs.len() as u64) {
            return damaged("it names a shard or a pack that there is not");
        }
        if self.packs.iter().any(|pack| !disk::is_plain_name(&pack.name)) {
            return damaged("the name of a pack is a path");
        }
        Ok(())
    }

    /// Checks every pack, byte by byte.
    pub fn verify(&self, folder: &Path) -> Result<(), CheckpointError> {
        for pack in &self.packs {
            let path = folder.join(&pack.name);
            let Ok(hash) = blake3::Hash::from_hex(&pack.blake3) else {
                let detail = "the manifest has no hash of it".to_owned();
                return Err(CheckpointError::Damaged { path, detail });
            };
            verify_pack(&path, pack.bytes, hash.as_bytes())?;
        }
        Ok(())
    }
}

/// Writes a manifest, durably; returns its name and hash. Its packs must be durable before.
pub fn write_manifest(folder: &Path, manifest: &Manifest) -> io::Result<(String, [u8; 32])> {
    let name = format!("{}-{}.manifest.json", manifest.epoch, manifest.generation);
    let bytes = serde_json::to_vec(manifest)?;
    let path = folder.join(&name);
    let temporary = folder.join(format!("{name}.tmp"));
    let file = disk::create_private(&temporary)?;
    (&file).write_all(&bytes).map_err(|error| DiskError::new("write", &temporary, error))?;
    disk::sync_file(&file, &temporary)?;
    std::fs::rename(&temporary, &path)
        .map_err(|error| DiskError::new("rename", &temporary, error))?;
    disk::sync_folder(folder)?;
    failpoint::reach("checkpoint-manifest-placed")?;
    Ok((name, blake3::hash(&bytes).into()))
}

/// Reads the manifest that the journal names, and checks that it is that one. The packs it names are
/// not looked at.
pub fn read_manifest(folder: &Path, row: &CheckpointRow) -> Result<Manifest, CheckpointError> {
    use std::io::Read;
    let path = folder.join(&row.manifest);
    let damaged = |detail: String| CheckpointError::Damaged { path: path.clone(), detail };
    if !disk::is_plain_name(&row.manifest) {
        return Err(damaged("its name is a path".to_owned()));
    }
    let file = match disk::open_plain(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(CheckpointError::Gone { path });
        }
        Err(error) => return Err(DiskError::new("open", &path, error).into()),
    };
    let mut bytes = Vec::new();
    file.take(BYTES_MAX)
        .read_to_end(&mut bytes)
        .map_err(|error| DiskError::new("read", &path, error))?;
    if *blake3::hash(&bytes).as_bytes() != row.hash {
        return Err(damaged("its hash is not that of what was written".to_owned()));
    }
    let manifest: Manifest =
        serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
    if manifest.format != FORMAT {
        return Err(CheckpointError::Newer { path, found: manifest.format });
    }
    if manifest.epoch != row.epoch {
        return Err(damaged(format!("it speaks of epoch {}", manifest.epoch)));
    }
    manifest.check(&path)?;
    Ok(manifest)
}

/// Deletes every file of ours in the folder that none of these checkpoints names; returns how many.
///
/// Nobody may be writing a checkpoint there. A manifest among them that cannot be read keeps nothing:
/// it could not be used either.
pub fn sweep(folder: &Path, kept: &[CheckpointRow]) -> io::Result<u64> {
    let mut named: BTreeSet<String> = BTreeSet::new();
    for row in kept {
        named.insert(row.manifest.clone());
        if let Ok(manifest) = read_manifest(folder, row) {
            named.extend(manifest.packs.into_iter().map(|pack| pack.name));
        }
    }
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(DiskError::new("list", folder, error).into()),
    };
    let mut removed = 0;
    for entry in entries {
        let entry = entry.map_err(|error| DiskError::new("list", folder, error))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let ours = [".pack", ".manifest.json", ".tmp"].iter().any(|end| name.ends_with(end));
        if ours && !named.contains(&name) {
            let path = entry.path();
            std::fs::remove_file(&path).map_err(|error| DiskError::new("remove", &path, error))?;
            failpoint::reach("checkpoint-old-removed")?;
            removed += 1;
        }
    }
    Ok(removed)
}
