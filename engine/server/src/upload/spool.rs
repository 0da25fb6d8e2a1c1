//! Spool: the file into which an upload is received, on a thread that may block.
//!
//! Owns that file until the engine has taken it. One without an id is removed when anything goes
//! wrong. One with an id stays when it breaks off, so that its client can go on; only bytes that are
//! known to be wrong are removed.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use tempfile::NamedTempFile;
use tidemill_engine::engine::{ClientId, SubmitError, spool};
use tidemill_engine::failpoint;
use tokio::sync::mpsc;

use super::parts::Header;
use crate::refusal::Refusal;

/// How much is read at once when kept bytes are hashed.
const READ_BYTES: usize = 1 << 20;

/// What the writing thread is given.
#[derive(Debug)]
pub(super) enum Piece {
    /// The next bytes of the file.
    Bytes(Bytes),
    /// All bytes were given; these hashes must be theirs.
    End([Option<blake3::Hash>; 2]),
}

/// The file of an upload.
#[derive(Debug)]
pub(super) enum Spooled {
    /// Removes itself when dropped.
    Anonymous(NamedTempFile),
    /// Stays until it is removed.
    Named { file: File, path: PathBuf, id: ClientId },
}

impl Spooled {
    /// Opens the file of an upload, mode 0600, with the first `offset` bytes, which are there already.
    fn open(folder: &Path, header: &Header) -> Result<Self, Refusal> {
        let Some(id) = header.id else {
            let file = tempfile::Builder::new().prefix("upload-").tempfile_in(folder);
            return Ok(Self::Anonymous(file.map_err(|error| disk(&error))?));
        };
        let file = spool::open(folder, &id).map_err(|error| disk(&error))?;
        let path = spool::path_of(folder, &id);
        // What was written behind the offset is sent again.
        file.set_len(header.offset).map_err(|error| disk(&error))?;
        Ok(Self::Named { file, path, id })
    }

    fn file(&mut self) -> &mut File {
        match self {
            Self::Anonymous(file) => file.as_file_mut(),
            Self::Named { file, .. } => file,
        }
    }

    /// Returns where it lies.
    pub(super) fn path(&self) -> &Path {
        match self {
            Self::Anonymous(file) => file.path(),
            Self::Named { path, .. } => path,
        }
    }

    /// Returns a copy of it for one more pipeline, synced, which removes itself when dropped. Where the
    /// file system can, it shares the bytes.
    pub(super) fn copy(&self, folder: &Path) -> Result<Self, Refusal> {
        let copied = || -> io::Result<NamedTempFile> {
            let copy = tempfile::Builder::new().prefix("upload-").tempfile_in(folder)?;
            let mut from = File::open(self.path())?;
            io::copy(&mut from, &mut copy.as_file())?;
            copy.as_file().sync_all()?;
            failpoint::reach("upload-copied")?;
            Ok(copy)
        };
        copied().map(Self::Anonymous).map_err(|error| disk(&error))
    }

    /// Lets go of a file that the engine has moved.
    pub(super) fn taken(self) {
        if let Self::Anonymous(file) = self
            && let Err(error) = file.into_temp_path().keep()
        {
            tracing::warn!(%error, "cannot let go of a spool file");
        }
    }

    /// Removes a file whose bytes are of no use.
    pub(super) fn discard(self, folder: &Path) {
        if let Self::Named { id, .. } = self
            && let Err(error) = spool::remove(folder, &id)
        {
            tracing::warn!(%error, "cannot remove an upload from the spool");
        }
    }
}

/// Writes the pieces to a file of the spool and syncs it; returns it with the hash of all its bytes.
pub(super) fn receive(
    folder: &Path,
    header: &Header,
    pieces: mpsc::Receiver<Piece>,
) -> Result<(Spooled, blake3::Hash), Refusal> {
    let mut spooled = Spooled::open(folder, header)?;
    let created = failpoint::reach("upload-created").map_err(|error| disk(&error));
    match created.and_then(|()| write(spooled.file(), header.offset, pieces)) {
        Ok(hash) => Ok((spooled, hash)),
        Err(refusal) => {
            // What broke off before its first byte is nothing to go on with.
            let is_empty = spooled.file().metadata().is_ok_and(|metadata| metadata.len() == 0);
            if is_empty || !matches!(refusal, Refusal::Lost) {
                spooled.discard(folder);
            }
            Err(refusal)
        }
    }
}

fn write(
    file: &mut File,
    offset: u64,
    mut pieces: mpsc::Receiver<Piece>,
) -> Result<blake3::Hash, Refusal> {
    let mut hasher = blake3::Hasher::new();
    hash_kept(file, offset, &mut hasher).map_err(|error| disk(&error))?;
    loop {
        match pieces.blocking_recv() {
            None => return Err(Refusal::Lost),
            Some(Piece::Bytes(bytes)) => {
                hasher.update(&bytes);
                file.write_all(&bytes).map_err(|error| disk(&error))?;
            }
            Some(Piece::End(declared)) => {
                let received = hasher.finalize();
                if let Some(declared) =
                    declared.into_iter().flatten().find(|hash| *hash != received)
                {
                    return Err(Refusal::Hash { declared, received });
                }
                failpoint::reach("upload-written").map_err(|error| disk(&error))?;
                file.sync_all().map_err(|error| disk(&error))?;
                failpoint::reach("upload-synced").map_err(|error| disk(&error))?;
                return Ok(received);
            }
        }
    }
}

/// Hashes the bytes that came with an earlier attempt. They were never synced: after a loss of power
/// they may be anything, and the hash of the whole tells.
fn hash_kept(file: &mut File, offset: u64, hasher: &mut blake3::Hasher) -> io::Result<()> {
    file.seek(SeekFrom::Start(0))?;
    let mut buffer = vec![0; READ_BYTES.min(usize::try_from(offset).unwrap_or(READ_BYTES))];
    let mut left = offset;
    while left > 0 {
        let wanted = buffer.len().min(usize::try_from(left).unwrap_or(buffer.len()));
        file.read_exact(&mut buffer[..wanted])?;
        hasher.update(&buffer[..wanted]);
        left -= wanted as u64;
    }
    Ok(())
}

/// Logs what the disk said; the client is told only that it refuses.
pub(super) fn disk(error: &io::Error) -> Refusal {
    if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
        tracing::warn!(%error, "an upload was given up: the disk of the spool is full");
        return Refusal::Submit(SubmitError::NoSpace);
    }
    tracing::error!(%error, "cannot write to the spool");
    Refusal::Disk
}
