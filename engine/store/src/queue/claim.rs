//! Claim: a file leaves the reach of the outside and becomes ours.
//!
//! What lies in `unprocessed/` was put there by somebody we need not trust: it may be a link, a
//! pipe that blocks its opener, or be swapped while we look at it. So: look, open without following
//! or waiting, look at what was opened, move, and look whether the same file arrived.

use std::ffi::OsStr;
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::XattrFlags;

use super::Identity;
use crate::disk::{self, DiskError, Full};
use crate::failpoint;
use crate::home::Folders;
use crate::journal::ClientId;
use crate::name::{self, check_name};

/// How many names are tried when a file must go back and its name was taken meanwhile.
const RELEASE_NAMES_MAX: u64 = 10_000;

/// Where a claimed file keeps the name it came under, if its slug does not tell it.
const NAME_ATTRIBUTE: &str = "user.tidemill.name";

/// A file in `underprocess/`, open for reading.
#[derive(Debug)]
pub struct Claimed {
    /// The file; all later work is on this descriptor.
    pub file: File,
    /// Where it is now.
    pub path: PathBuf,
    /// Its name in `underprocess/`: `<id>-<slug>`.
    pub claimed_name: String,
    /// Which file it is and how it looked.
    pub identity: Identity,
}

/// Why a file was not claimed.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// It is not there any more: skip it.
    #[error("{} is gone", path.display())]
    Gone {
        /// Where it was.
        path: PathBuf,
    },
    /// It is not a plain file. It was not opened and is left where it is.
    #[error("{} is {kind}, not a file; it is left where it is", path.display())]
    NotAFile {
        /// Where it is.
        path: PathBuf,
        /// What it is: `a symbolic link`, `a pipe`, ...
        kind: &'static str,
    },
    /// It has other names, through which it could be changed under our hands. It is left.
    #[error("{} has {links} names (hard links); copy the file instead, or remove the others", path.display())]
    HardLinked {
        /// Where it is.
        path: PathBuf,
        /// How many names it has.
        links: u64,
    },
    /// We may not read or move it. It is left where it is.
    #[error("{} may not be read or moved; change its owner or mode", path.display())]
    Unreadable {
        /// Where it is.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another file was put in its place while it was claimed; that one went back.
    #[error("{} was replaced by another file while it was claimed; try again", path.display())]
    Swapped {
        /// Where it was.
        path: PathBuf,
    },
    /// Its name is not taken. It is left where it is.
    #[error("a file cannot be taken: {reason}")]
    Name {
        /// What is wrong with the name.
        #[from]
        reason: name::NameError,
    },
    /// The disk refuses, and the file lies where it lay: try again later, or stop.
    #[error("claim {}", path.display())]
    Refused {
        /// Where it is.
        path: PathBuf,
        /// What failed.
        source: DiskError,
    },
    /// The disk refuses, and the file may have left its place: stop.
    #[error("claim {}", path.display())]
    Disk {
        /// What was claimed.
        path: PathBuf,
        /// What failed.
        source: DiskError,
    },
}

impl Full for ClaimError {
    fn is_full(&self) -> bool {
        matches!(self, ClaimError::Refused { source, .. } if source.is_full())
    }
}

/// Moves a file from `unprocessed/` to `underprocess/<id>-<slug>` and opens it.
///
/// The move is durable only after [`super::sync_claims`]. A crash before the file is accepted in
/// the journal leaves an orphan, which recovery puts back.
pub fn claim(folders: &Folders, name: &OsStr, id: u64) -> Result<Claimed, ClaimError> {
    let name = check_name(name)?;
    let claimed_name = super::claimed_name(id, name);
    take(&folders.unprocessed.join(name), folders, name, claimed_name, || {})
}

/// Moves a file that was received whole from `spool/` to `underprocess/<id>-<slug>` and opens it.
///
/// With an id of its client it is `underprocess/<id>+<client id>-<slug>`: a crash before it is
/// accepted must not make it a dropped file, for its client will send it again.
pub fn claim_upload(
    folders: &Folders,
    spooled: &Path,
    name: &OsStr,
    id: u64,
    client_id: Option<&ClientId>,
) -> Result<Claimed, ClaimError> {
    let name = check_name(name)?;
    let claimed_name = match client_id {
        Some(client_id) => format!("{id}+{}-{}", client_id.hex(), name::slug(name)),
        None => format!("{id}-{}", name::slug(name)),
    };
    take(spooled, folders, name, claimed_name, || {})
}

/// Does a claim. `before_move` runs between looking and moving; tests let the world change there.
fn take(
    source: &Path,
    folders: &Folders,
    name: &str,
    claimed_name: String,
    before_move: impl FnOnce(),
) -> Result<Claimed, ClaimError> {
    let file = open_checked(source, folders)?;
    let opened = file.metadata().map_err(|error| refused(source, "look at", error))?;
    before_move();
    failpoint::reach("claim-opened").map_err(|error| refused(source, "claim", error))?;
    let path = folders.underprocess.join(&claimed_name);
    disk::rename_new(source, &path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => ClaimError::Gone { path: source.to_path_buf() },
        // A sticky folder keeps the files of others from us.
        io::ErrorKind::PermissionDenied => {
            ClaimError::Unreadable { path: source.to_path_buf(), source: error.source }
        }
        _ => ClaimError::Refused { path: source.to_path_buf(), source: error },
    })?;
    failpoint::reach("claim-renamed").map_err(|error| halfway(&path, "claim", error))?;
    let moved = disk::look(&path)
        .map_err(|error| ClaimError::Disk { path: source.to_path_buf(), source: error })?;
    if moved.is_none_or(|moved| (moved.dev(), moved.ino()) != (opened.dev(), opened.ino())) {
        // What was moved is not what was looked at. It goes back unopened; the next look decides.
        put_back(folders, &path, name).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => ClaimError::Swapped { path: source.to_path_buf() },
            _ => ClaimError::Disk { path: source.to_path_buf(), source: error },
        })?;
        return Err(ClaimError::Swapped { path: source.to_path_buf() });
    }
    if name::slug(name) != name {
        // Only a convenience after a crash: without it the file goes back under its slug.
        let _ = rustix::fs::fsetxattr(&file, NAME_ATTRIBUTE, name.as_bytes(), XattrFlags::empty());
    }
    let after = file.metadata().map_err(|error| halfway(&path, "look at", error))?;
    Ok(Claimed { identity: identity(&after), file, path, claimed_name })
}

fn refused(path: &Path, doing: &'static str, error: io::Error) -> ClaimError {
    let source = DiskError::new(doing, path, error);
    ClaimError::Refused { path: path.to_path_buf(), source }
}

fn halfway(path: &Path, doing: &'static str, error: io::Error) -> ClaimError {
    let source = DiskError::new(doing, path, error);
    ClaimError::Disk { path: path.to_path_buf(), source }
}

/// Opens what must be a plain file with one name, on the file system of the folders.
fn open_checked(source: &Path, folders: &Folders) -> Result<File, ClaimError> {
    let gone = || ClaimError::Gone { path: source.to_path_buf() };
    let disk = |error| ClaimError::Refused { path: source.to_path_buf(), source: error };
    // Looked at before it is opened, because opening a device may already do something.
    let before = disk::look(source).map_err(disk)?.ok_or_else(gone)?;
    check_kind(source, &before)?;
    let file = disk::open_plain(source).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => gone(),
        io::ErrorKind::PermissionDenied => {
            ClaimError::Unreadable { path: source.to_path_buf(), source: error }
        }
        // It became a link, or a socket, since it was looked at.
        _ if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => {
            ClaimError::NotAFile { path: source.to_path_buf(), kind: "a symbolic link" }
        }
        _ => disk(DiskError::new("open", source, error)),
    })?;
    let opened = file.metadata().map_err(|error| refused(source, "look at", error))?;
    check_kind(source, &opened)?;
    if opened.nlink() > 1 {
        return Err(ClaimError::HardLinked { path: source.to_path_buf(), links: opened.nlink() });
    }
    let home = disk::look(&folders.underprocess).map_err(disk)?;
    if home.is_some_and(|home| home.dev() != opened.dev()) {
        let kind = "mounted from another file system";
        return Err(ClaimError::NotAFile { path: source.to_path_buf(), kind });
    }
    Ok(file)
}

fn check_kind(path: &Path, metadata: &Metadata) -> Result<(), ClaimError> {
    let kind = metadata.file_type();
    let kind = match kind {
        _ if kind.is_file() => return Ok(()),
        _ if kind.is_symlink() => "a symbolic link",
        _ if kind.is_dir() => "a folder",
        _ if kind.is_fifo() => "a pipe",
        _ if kind.is_socket() => "a socket",
        _ if kind.is_block_device() || kind.is_char_device() => "a device",
        _ => "something unknown",
    };
    Err(ClaimError::NotAFile { path: path.to_path_buf(), kind })
}

pub(crate) fn identity(metadata: &Metadata) -> Identity {
    Identity {
        device: metadata.dev(),
        inode: metadata.ino(),
        bytes: metadata.len(),
        modified_ns: disk::modified_ns(metadata),
    }
}

/// Moves a claimed file back to `unprocessed/`; if its name was taken meanwhile, to a variant.
pub fn release(folders: &Folders, claimed: &Claimed, name: &str) -> io::Result<()> {
    put_back(folders, &claimed.path, name)?;
    Ok(())
}

/// Moves a file back to `unprocessed/` under its name or a variant; returns where it is.
pub(crate) fn put_back(folders: &Folders, path: &Path, name: &str) -> Result<PathBuf, DiskError> {
    for n in 1..=RELEASE_NAMES_MAX {
        let free = if n == 1 { name.to_string() } else { name::variant(name, n) };
        let target = folders.unprocessed.join(free);
        match disk::rename_new(path, &target) {
            Ok(()) => return Ok(target),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(DiskError::new("find a free name to put back", path, io::ErrorKind::AlreadyExists))
}

/// Returns the name under which a claimed file came, as well as the file itself can tell.
pub(crate) fn original_name(path: &Path, claimed_name: &str) -> String {
    let mut buffer = [0_u8; name::NAME_BYTES_MAX];
    let length = rustix::fs::lgetxattr(path, NAME_ATTRIBUTE, &mut buffer[..]).unwrap_or(0);
    // Whoever dropped the file may have written the attribute, so it is checked like any name.
    let kept = std::str::from_utf8(&buffer[..length]).ok();
    let kept = kept.filter(|name| check_name(OsStr::new(name)).is_ok());
    let slug = claimed_name.split_once('-').map_or(claimed_name, |(_, slug)| slug);
    match kept {
        Some(name) if name::slug(name) == slug => name.to_string(),
        _ => slug.to_string(),
    }
}

/// Opens a plain file for reading, without following a link or waiting for a pipe.
///
/// For files that are already ours: in `underprocess/` and `processed/`.
pub fn open_plain(path: &Path) -> io::Result<File> {
    let file = disk::open_plain(path).map_err(|error| DiskError::new("open", path, error))?;
    let metadata = file.metadata().map_err(|error| DiskError::new("look at", path, error))?;
    if metadata.is_file() {
        Ok(file)
    } else {
        let error = io::Error::new(io::ErrorKind::InvalidInput, "not a plain file");
        Err(DiskError::new("open", path, error).into())
    }
}

#[cfg(test)]
mod tests;
