//! Disk: the few system calls everything else is made of, each with an error that names its path.
//!
//! Owns nothing. Never retries but what a signal interrupted, and never follows a link in the last
//! component of a path. Says which errors mean that the disk is full ([`Full`]): those, and only
//! those, may be tried again.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, OFlags, RenameFlags};

/// From this many files on, one sync of the whole file system is cheaper than one for each.
pub(crate) const SYNC_ALL_FROM: usize = 8;

/// How much is read at once when a file is hashed.
const HASH_BUFFER_BYTES: usize = 1024 * 1024;

/// What is written to find out whether there is space.
const PROBE_BYTES: usize = 64 * 1024;

/// A refusal of the disk: what was being done, where, and what the system said.
#[derive(Debug, thiserror::Error)]
#[error("{doing} {}", path.display())]
pub struct DiskError {
    /// What was being done, as a verb in present tense.
    pub doing: &'static str,
    /// The path it was done to.
    pub path: PathBuf,
    /// What the system said.
    pub source: io::Error,
}

impl DiskError {
    pub(crate) fn new(doing: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        Self { doing, path: path.to_path_buf(), source: source.into() }
    }

    /// Returns the error of a failpoint that was asked to fail, in words of the step around it.
    pub(crate) fn failpoint(path: &Path) -> impl Fn(io::Error) -> DiskError {
        move |source| DiskError::new("go on with", path, source)
    }

    /// Returns the kind of the error below.
    pub fn kind(&self) -> io::ErrorKind {
        self.source.kind()
    }
}

/// An error that may be no more than a lack of space.
pub trait Full {
    /// Returns whether the disk, or a quota on it, is full and nothing else is wrong: what failed
    /// was not done and may be tried again.
    ///
    /// Never true of a sync that failed, whatever the system said: nothing is known then of what
    /// was written before.
    fn is_full(&self) -> bool;
}

impl Full for io::Error {
    fn is_full(&self) -> bool {
        matches!(self.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }
}

impl Full for DiskError {
    fn is_full(&self) -> bool {
        self.source.is_full()
    }
}

impl From<DiskError> for io::Error {
    /// Keeps the kind for callers that decide by it; the text says everything in one line.
    fn from(error: DiskError) -> Self {
        io::Error::new(error.kind(), Whole { error })
    }
}

/// A [`DiskError`] inside an [`io::Error`], which shows its cause only if its text has it.
#[derive(Debug, thiserror::Error)]
#[error("{error}: {}", error.source)]
struct Whole {
    #[source]
    error: DiskError,
}

/// Moves a file to a name that does not exist yet; a file already there is an error.
pub(crate) fn rename_new(source: &Path, target: &Path) -> Result<(), DiskError> {
    let rename = || rustix::fs::renameat_with(CWD, source, CWD, target, RenameFlags::NOREPLACE);
    match rustix::io::retry_on_intr(rename) {
        Ok(()) => Ok(()),
        // Some network file systems cannot do it in one step. The target folders are written by the
        // one holder of the lock only, so that looking first is as good there.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => rename_looking(source, target),
        Err(errno) => Err(DiskError::new("move to a new name", source, errno)),
    }
}

fn rename_looking(source: &Path, target: &Path) -> Result<(), DiskError> {
    let failed = |error: io::Error| DiskError::new("move to a new name", source, error);
    match std::fs::symlink_metadata(target) {
        Ok(_) => Err(failed(io::ErrorKind::AlreadyExists.into())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            std::fs::rename(source, target).map_err(failed)
        }
        Err(error) => Err(failed(error)),
    }
}

/// Opens a file for reading without following a link and without waiting for a writer.
pub(crate) fn open_plain(path: &Path) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path)
}

/// Opens a file of ours once more for writing, without following a link.
pub(crate) fn open_for_writing(path: &Path, more: OFlags) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::CLOEXEC | more;
    OpenOptions::new().write(true).custom_flags(flags.bits().cast_signed()).open(path)
}

/// Creates a file that only its owner can read, or empties the one that is there.
pub(crate) fn create_private(path: &Path) -> Result<File, DiskError> {
    let flags = (OFlags::NOFOLLOW | OFlags::CLOEXEC).bits().cast_signed();
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .custom_flags(flags)
        .open(path)
        .map_err(|error| DiskError::new("create", path, error))
}

/// Makes a file's bytes durable.
pub(crate) fn sync_file(file: &File, path: &Path) -> Result<(), DiskError> {
    file.sync_all().map_err(|error| DiskError::new("sync", path, for_good(error)))
}

/// Makes the names in a folder durable.
pub(crate) fn sync_folder(path: &Path) -> Result<(), DiskError> {
    let folder = File::open(path).map_err(|error| DiskError::new("open folder", path, error))?;
    folder.sync_all().map_err(|error| DiskError::new("sync folder", path, for_good(error)))
}

/// Makes everything on the file system of `file` durable.
pub(crate) fn sync_all(file: &File, path: &Path) -> Result<(), DiskError> {
    // Interrupted is not failed: nothing was tried that could have lost anything.
    let sync = || rustix::fs::syncfs(file);
    rustix::io::retry_on_intr(sync)
        .map_err(|errno| DiskError::new("sync the file system of", path, for_good(errno.into())))
}

/// Returns the error of a sync as one that nobody tries again: data that the system took may be lost,
/// and the next sync would call that a success.
fn for_good(error: io::Error) -> io::Error {
    io::Error::other(error)
}

/// Returns what the system said, below the words that were put around it. Of a sync that failed it has
/// no number of the system.
pub fn cause(error: &io::Error) -> &io::Error {
    let mut error = error;
    while let Some(whole) = error.get_ref().and_then(|inner| inner.downcast_ref::<Whole>()) {
        error = &whole.error.source;
    }
    error
}

/// Returns how many bytes are free for us on the file system of a path, and how many it has.
pub fn space(path: &Path) -> io::Result<(u64, u64)> {
    let found = rustix::fs::statvfs(path)
        .map_err(|errno| DiskError::new("look at the space of", path, errno))?;
    let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
    Ok((bytes(found.f_bavail), bytes(found.f_blocks)))
}

/// Returns the error of writing a small file in a folder, if that fails for lack of space.
///
/// For where a library does not say why it could not write.
pub(crate) fn full_at(folder: &Path) -> Option<io::Error> {
    let path = folder.join(format!(".space-{}", std::process::id()));
    let written = std::fs::write(&path, [1; PROBE_BYTES]);
    // What cannot be removed now is overwritten by the next look.
    let _ = std::fs::remove_file(&path);
    written.err().filter(Full::is_full)
}

/// Returns the BLAKE3 of all bytes of a file, without moving its position.
pub(crate) fn hash_of(file: &File) -> io::Result<[u8; 32]> {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; HASH_BUFFER_BYTES];
    let mut offset = 0;
    loop {
        match file.read_at(&mut buffer, offset) {
            Ok(0) => return Ok(hasher.finalize().into()),
            Ok(count) => {
                hasher.update(&buffer[..count]);
                offset += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Returns what a path is, without following a link; `None` if nothing is there.
pub(crate) fn look(path: &Path) -> Result<Option<std::fs::Metadata>, DiskError> {
    match std::fs::symlink_metadata(path) {
        Ok(metadata) => Ok(Some(metadata)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(DiskError::new("look at", path, error)),
    }
}

/// Returns a file's modification time in nanoseconds since 1970.
pub(crate) fn modified_ns(metadata: &std::fs::Metadata) -> i128 {
    i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec())
}

/// Returns whether a text is one plain component of a path: not empty, no slash, not `.` or `..`.
pub(crate) fn is_plain_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 255
        && name != "."
        && name != ".."
        && !name.contains(['/', '\0'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_move_never_replaces_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let (a, b) = (folder.path().join("a"), folder.path().join("b"));
        for rename in [rename_new, rename_looking] {
            std::fs::write(&a, "new").unwrap();
            std::fs::write(&b, "old").unwrap();
            assert_eq!(rename(&a, &b).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
            assert_eq!(std::fs::read(&b).unwrap(), b"old");
            std::fs::remove_file(&b).unwrap();
            rename(&a, &b).unwrap();
            assert_eq!(std::fs::read(&b).unwrap(), b"new");
        }
    }

    #[test]
    fn only_a_lack_of_space_may_be_tried_again_and_never_a_sync() {
        let check = |errno: rustix::io::Errno, full: bool| {
            let error = io::Error::from(errno);
            assert_eq!(error.is_full(), full, "{error}");
            let told = DiskError::new("write", Path::new("/a"), errno);
            assert_eq!(told.is_full(), full, "{told}");
            assert_eq!(io::Error::from(told).is_full(), full, "{errno}");
            let told = io::Error::from(DiskError::new("write", Path::new("/a"), errno));
            assert_eq!(cause(&told).raw_os_error(), Some(errno.raw_os_error()), "{told}");
            let synced = for_good(error);
            assert!(!synced.is_full(), "{synced}");
            let told = io::Error::from(DiskError::new("sync", Path::new("/a"), synced));
            assert_eq!(cause(&told).raw_os_error(), None, "{told}");
        };
        check(rustix::io::Errno::NOSPC, true);
        check(rustix::io::Errno::DQUOT, true);
        check(rustix::io::Errno::IO, false);
        check(rustix::io::Errno::ROFS, false);
    }

    #[test]
    fn an_error_tells_the_deed_the_path_and_the_cause() {
        let error = sync_folder(Path::new("/no/such")).unwrap_err();
        let text = io::Error::from(error).to_string();
        assert_eq!(text, "open folder /no/such: No such file or directory (os error 2)");
    }
}
