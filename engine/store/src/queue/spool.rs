//! Spool: uploads on their way in, and what is kept of one that broke off.
//!
//! An upload with an id of its client lies in `spool/<id>.upload` until it is whole and claimed. When
//! it breaks off the file stays, for a day and within a bound of bytes, and the client goes on where
//! it ended. Its bytes are not synced before it is whole: whoever goes on checks the hash of all.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::OFlags;

use crate::disk::{self, DiskError};
use crate::failpoint;
use crate::home::Home;
use crate::journal::ClientId;

/// The ending of an upload that may be gone on with.
const ENDING: &str = ".upload";

/// How many uploads that broke off are kept, at most.
const KEPT_FILES_MAX: usize = 10_000;

/// How long an upload that broke off is kept after its last byte came.
pub const KEPT_FOR: Duration = Duration::from_secs(24 * 3600);

/// Returns where the upload with this id lies while it is received.
pub fn path_of(spool: &Path, id: &ClientId) -> PathBuf {
    spool.join(format!("{}{ENDING}", id.hex()))
}

/// Returns the id of the upload that lies under a name of the spool.
fn id_of(name: &str) -> Option<ClientId> {
    let hex = name.strip_suffix(ENDING)?;
    ClientId::parse(hex).ok().filter(|id| id.hex() == hex)
}

/// Returns how many bytes are kept of an upload; 0 if there are none.
pub fn kept_bytes(spool: &Path, id: &ClientId) -> io::Result<u64> {
    Ok(disk::look(&path_of(spool, id))?.filter(|found| found.is_file()).map_or(0, |f| f.len()))
}

/// Opens the file of an upload for reading and writing, readable for its owner only; makes it if it
/// is not there.
pub fn open(spool: &Path, id: &ClientId) -> io::Result<File> {
    let path = path_of(spool, id);
    let flags = (OFlags::NOFOLLOW | OFlags::CLOEXEC).bits().cast_signed();
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(flags)
        .open(&path);
    file.map_err(|error| DiskError::new("open", &path, error).into())
}

/// Removes what is kept of an upload; nothing there is fine.
pub fn remove(spool: &Path, id: &ClientId) -> io::Result<()> {
    let path = path_of(spool, id);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(DiskError::new("remove", &path, error).into())
        }
        _ => Ok(()),
    }
}

/// Removes uploads that broke off and were last written before `before`, then the oldest ones until
/// the rest has at most `bytes_max` bytes and is not too many. Those that are `busy` count and stay. Returns how many
/// were removed.
pub fn sweep_kept(
    spool: &Path,
    before: SystemTime,
    bytes_max: u64,
    busy: impl Fn(&ClientId) -> bool,
) -> io::Result<u64> {
    let failed = |error| DiskError::new("list", spool, error);
    let mut kept = Vec::new();
    for entry in std::fs::read_dir(spool).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let id = path.file_name().and_then(|name| name.to_str()).and_then(id_of);
        let (Some(id), Some(found)) = (id, disk::look(&path)?) else { continue };
        let written = found.modified().unwrap_or(SystemTime::UNIX_EPOCH);
        kept.push((written, path, found.len(), busy(&id)));
    }
    kept.sort();
    let mut bytes: u64 = kept.iter().map(|(_, _, bytes, _)| bytes).sum();
    let mut removed = 0;
    let mut files = kept.len();
    for (written, path, length, is_busy) in kept {
        let is_within = bytes <= bytes_max && files <= KEPT_FILES_MAX;
        if is_busy || (written >= before && is_within) {
            continue;
        }
        match std::fs::remove_file(&path) {
            // Its upload went on and was claimed meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(DiskError::new("remove", &path, error).into()),
            Ok(()) => removed += 1,
        }
        bytes -= length;
        files -= 1;
    }
    Ok(removed)
}

/// Removes from the spool what an earlier life left there, except uploads that may be gone on with
/// until `before`; returns how many files that were. Nobody may be uploading.
pub fn sweep_spool(home: &Home, before: SystemTime) -> io::Result<u64> {
    let spool = home.spool();
    let failed = |error| DiskError::new("list", &spool, error);
    let mut removed = 0;
    for entry in std::fs::read_dir(&spool).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let Some(found) = disk::look(&entry.path())? else { continue };
        let is_kept = entry.file_name().to_str().and_then(id_of).is_some();
        let is_old = found.modified().is_ok_and(|modified| modified < before);
        if found.is_file() && (!is_kept || is_old) {
            let path = entry.path();
            std::fs::remove_file(&path).map_err(|error| DiskError::new("remove", &path, error))?;
            removed += 1;
            failpoint::reach("recover-spool-removed")?;
        }
    }
    Ok(removed)
}

/// Puts an upload that was claimed and never accepted back to where its client goes on with it.
pub(crate) fn put_back(spool: &Path, claimed: &Path, id: &ClientId) -> Result<PathBuf, DiskError> {
    let target = path_of(spool, id);
    // What lies there is a beginning of the same bytes.
    std::fs::rename(claimed, &target)
        .map_err(|error| DiskError::new("put back to the spool", claimed, error))?;
    Ok(target)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::io::Write;

    fn id(ms: u64) -> ClientId {
        ClientId::first_at(SystemTime::UNIX_EPOCH + Duration::from_millis(ms))
    }

    fn spooled(spool: &Path, ms: u64, bytes: usize, age: u64) -> ClientId {
        let mut file = open(spool, &id(ms)).unwrap();
        file.write_all(&vec![0; bytes]).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(age)).unwrap();
        id(ms)
    }

    #[test]
    fn what_broke_off_is_kept_within_bounds_of_age_and_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let spool = folder.path();
        let check = |bytes_max: u64, busy: &[u64], expected: &[u64]| {
            for (ms, age) in [(1, 30), (2, 20), (3, 10)] {
                spooled(spool, ms, 100, age);
            }
            fs::write(spool.join("other"), "x").unwrap();
            let is_busy = |found: &ClientId| busy.iter().any(|ms| id(*ms) == *found);
            let before = SystemTime::now() - Duration::from_secs(25);
            let removed = sweep_kept(spool, before, bytes_max, is_busy).unwrap();
            assert_eq!(removed, 3 - expected.len() as u64);
            let left: Vec<u64> =
                (1..=3).filter(|ms| kept_bytes(spool, &id(*ms)).unwrap() == 100).collect();
            assert_eq!(left, expected, "{bytes_max} bytes, {busy:?} busy");
            assert!(spool.join("other").exists());
            (1..=3).for_each(|ms| remove(spool, &id(ms)).unwrap());
        };
        check(1000, &[], &[2, 3]);
        check(1000, &[1], &[1, 2, 3]);
        check(200, &[], &[2, 3]);
        check(100, &[], &[3]);
        check(100, &[2], &[2]);
        check(0, &[], &[]);
    }

    #[test]
    fn an_upload_that_broke_off_outlives_a_restart_for_a_day() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::open(folder.path()).unwrap();
        let spool = home.spool();
        let young = spooled(&spool, 1, 5, 10);
        let old = spooled(&spool, 2, 5, 100);
        fs::write(spool.join("upload-x"), "no id").unwrap();
        fs::write(spool.join("0.upload"), "no id either").unwrap();
        let before = SystemTime::now() - Duration::from_secs(50);
        assert_eq!(sweep_spool(&home, before).unwrap(), 3);
        assert_eq!(kept_bytes(&spool, &young).unwrap(), 5);
        assert_eq!(kept_bytes(&spool, &old).unwrap(), 0);
    }
}
