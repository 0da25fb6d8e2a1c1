//! Queue: `unprocessed/ -> underprocess/ -> processed/ | quarantine/`, the moves and their order, and
//! `processed/ -> retained/` for what was corrected.
//!
//! Owns which folder an input is in; a file is in exactly one of the four. Every move goes to a
//! name that does not exist yet, and every move after the claim may be repeated. Never reads what
//! is in a file, except to hash it, and never opens what is not a plain file.

mod claim;
mod file_away;
mod retire;
pub mod spool;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::barrier;
use crate::disk::{self, DiskError};
use crate::failpoint;
use crate::home::Folders;
use crate::journal::ClientId;
pub use crate::name::{NameError, check_name};

pub use claim::{ClaimError, Claimed, claim, claim_upload, open_plain, release};
pub(crate) use claim::{identity, original_name, put_back};
pub use file_away::{Reason, SetAside, finish, quarantine, quarantined, take_back};
pub use retire::{discard, retain, retire};

/// Which file it is and how it looked when it was claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The device it is on. Not stable over a restart of the machine.
    pub device: u64,
    /// Its inode there.
    pub inode: u64,
    /// Its size in bytes.
    pub bytes: u64,
    /// When it was last written, in nanoseconds since 1970.
    pub modified_ns: i128,
}

impl Identity {
    /// Looks at an open file.
    pub fn of(file: &File) -> io::Result<Self> {
        Ok(claim::identity(&file.metadata()?))
    }

    /// Looks at what a path leads to, without following a link or opening it; `None` if nothing is
    /// there.
    pub fn at(path: &Path) -> io::Result<Option<Self>> {
        Ok(disk::look(path)?.map(|found| claim::identity(&found)))
    }

    /// Returns what has become of a file that looked like this when it was accepted; `None` if it
    /// still is that file and nobody has written to it.
    pub fn difference(&self, now: Option<Self>) -> Option<String> {
        let Some(now) = now else { return Some("it is gone from underprocess/".to_owned()) };
        // The number of a device can change when the machine starts again.
        if now == (Self { device: now.device, ..*self }) {
            return None;
        }
        Some(if now.inode != self.inode {
            "another file was put in its place".to_owned()
        } else if now.bytes != self.bytes {
            format!("it was written to: {} bytes when accepted, {} now", self.bytes, now.bytes)
        } else {
            "it was written to".to_owned()
        })
    }
}

/// A file in `underprocess/`, as [`orphans`] finds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Orphan {
    /// The submission whose claim put it there; `None` for a file that we did not put there.
    pub id: Option<u64>,
    /// The id its client gave it, if it is an upload.
    pub client_id: Option<ClientId>,
    /// Its name in `underprocess/`.
    pub claimed_name: OsString,
    /// Where it is.
    pub path: PathBuf,
}

/// Returns the name in `underprocess/` of a file of this name and number.
pub fn claimed_name(id: u64, name: &str) -> String {
    format!("{id}-{}", crate::name::slug(name))
}

/// Returns the BLAKE3 of a whole file, without moving its position.
pub fn hash(file: &File) -> io::Result<[u8; 32]> {
    disk::hash_of(file)
}

/// Makes claims durable: the bytes of the files (A1), then the names in both folders (A2).
///
/// On return the files and where they are survive a loss of power. An error must not be retried.
pub fn sync_claims(claims: &[&File], folders: &[&Folders]) -> io::Result<()> {
    let somewhere =
        folders.first().map_or(Path::new("a claimed file"), |first| &first.underprocess);
    match claims {
        [] => {}
        _ if !barrier::holds("A1") => {}
        [first, ..] if claims.len() >= disk::SYNC_ALL_FROM => disk::sync_all(first, somewhere)?,
        few => few.iter().try_for_each(|file| disk::sync_file(file, somewhere))?,
    }
    failpoint::reach("claim-files-synced")?;
    let distinct: BTreeMap<_, _> = folders.iter().map(|folders| (&folders.root, folders)).collect();
    for folders in distinct.values().filter(|_| barrier::holds("A2")) {
        disk::sync_folder(&folders.underprocess)?;
        disk::sync_folder(&folders.unprocessed)?;
    }
    failpoint::reach("claim-folders-synced")?;
    Ok(())
}

/// Returns every plain file in `underprocess/`, in the order of their ids.
///
/// Which of them are orphans only the journal can tell.
pub fn orphans(folders: &Folders) -> io::Result<Vec<Orphan>> {
    let failed = |error| DiskError::new("list", &folders.underprocess, error);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(&folders.underprocess).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry.file_type().map_err(failed)?.is_file() {
            let claimed_name = entry.file_name();
            let (id, client_id) = claimed_name.to_str().and_then(claimed_ids).unzip();
            let client_id = client_id.flatten();
            found.push(Orphan { id, client_id, claimed_name, path: entry.path() });
        }
    }
    found.sort_by(|a, b| (a.id, &a.claimed_name).cmp(&(b.id, &b.claimed_name)));
    Ok(found)
}

/// Returns the id in front of a claimed name.
pub(crate) fn claimed_id(claimed_name: &str) -> Option<u64> {
    claimed_ids(claimed_name).map(|(id, _)| id)
}

/// Returns the id in front of a claimed name, and that of its client if it is an upload. A slug holds
/// no `+`, so that no dropped file is taken for an upload.
fn claimed_ids(claimed_name: &str) -> Option<(u64, Option<ClientId>)> {
    let (ids, slug) = claimed_name.split_once('-')?;
    let (digits, client_id) = match ids.split_once('+') {
        Some((digits, hex)) => (digits, Some(ClientId::parse(hex).ok()?)),
        None => (ids, None),
    };
    let id: u64 = digits.parse().ok()?;
    (!slug.is_empty() && id.to_string() == digits).then_some((id, client_id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::home::Home;
    use std::ffi::OsStr;

    #[test]
    fn files_in_underprocess_are_listed_with_their_ids() {
        let folder = tempfile::tempdir().unwrap();
        let folders = Home::open(folder.path()).unwrap().pipeline("p").unwrap();
        for name in ["10-b.csv", "9-a.csv", "stray", "007-x", "-5-x", "5-"] {
            std::fs::write(folders.underprocess.join(name), "").unwrap();
        }
        std::fs::create_dir(folders.underprocess.join("11-folder")).unwrap();
        let ids: Vec<_> = orphans(&folders).unwrap().iter().map(|orphan| orphan.id).collect();
        assert_eq!(ids, [None, None, None, None, Some(9), Some(10)]);
    }

    #[test]
    fn a_file_that_changed_since_it_was_claimed_is_told_from_one_that_did_not() {
        use std::io::{Seek, Write};
        let folder = tempfile::tempdir().unwrap();
        let folders = Home::open(folder.path()).unwrap().pipeline("p").unwrap();
        let check = |change: &dyn Fn(&Path, &mut File), expected: Option<&str>| {
            let dropped = folders.unprocessed.join("a");
            std::fs::write(&dropped, "abc").unwrap();
            let old = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000);
            let mut writer = std::fs::OpenOptions::new().write(true).open(&dropped).unwrap();
            writer.set_modified(old).unwrap();
            let claimed = claim(&folders, OsStr::new("a"), 1).unwrap();
            change(&claimed.path, &mut writer);
            let now = Identity::at(&claimed.path).unwrap();
            let found = claimed.identity.difference(now);
            assert_eq!(found.as_deref(), expected);
            let _ = std::fs::remove_file(&claimed.path);
        };
        check(&|_, _| {}, None);
        check(&|path, _| drop(std::fs::read(path).unwrap()), None);
        check(
            &|_, writer| drop(writer.seek(io::SeekFrom::End(0)).and_then(|_| writer.write(b"d"))),
            Some("it was written to: 3 bytes when accepted, 4 now"),
        );
        check(
            &|_, writer| writer.set_len(1).unwrap(),
            Some("it was written to: 3 bytes when accepted, 1 now"),
        );
        check(&|_, writer| writer.write_all(b"xyz").unwrap(), Some("it was written to"));
        check(
            &|path, _| std::fs::remove_file(path).unwrap(),
            Some("it is gone from underprocess/"),
        );
        let replace = |path: &Path, _: &mut File| {
            let other = path.with_file_name("other");
            std::fs::write(&other, "abc").unwrap();
            std::fs::rename(&other, path).unwrap();
        };
        check(&replace, Some("another file was put in its place"));
    }

    #[test]
    fn claims_are_synced_one_by_one_or_all_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let folders = Home::open(folder.path()).unwrap().pipeline("p").unwrap();
        for count in [0_u64, 1, 7, 8, 20] {
            let claims: Vec<_> = (0..count)
                .map(|id| {
                    std::fs::write(folders.unprocessed.join("a"), "a").unwrap();
                    claim(&folders, OsStr::new("a"), count * 100 + id).unwrap()
                })
                .collect();
            let files: Vec<_> = claims.iter().map(|claimed| &claimed.file).collect();
            sync_claims(&files, &[&folders, &folders]).unwrap();
        }
    }

    #[test]
    fn a_hash_is_of_the_whole_file_wherever_its_position_is() {
        use std::io::{Seek, SeekFrom};
        let bytes: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
        let mut file = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut file, &bytes).unwrap();
        file.seek(SeekFrom::Start(5)).unwrap();
        assert_eq!(hash(&file).unwrap(), *blake3::hash(&bytes).as_bytes());
        assert_eq!(file.stream_position().unwrap(), 5);
    }
}
