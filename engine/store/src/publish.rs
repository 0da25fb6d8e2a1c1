//! Publish: a committed part becomes visible, whole, under its final name.
//!
//! Only what the journal has committed may come here. May be repeated: a part that is already there
//! is left. Of what lies in `out/` it replaces or removes only what the journal knows as ours by its
//! bytes ([`Part::before`]), in one step, so that a reader sees the old output, the new one, or none,
//! and never a half; the snapshots of tables by [`replace_file`]. Who may read an output is for the
//! umask to say: the home around it is private until its owner opens it.

mod again;

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::OFlags;

use crate::barrier;
use crate::disk::{self, DiskError, Full};
use crate::failpoint;
use crate::home::{Folders, Home};
use crate::journal::{Part, PartBody};
use crate::trial;

pub use again::publish_again;

/// Why a committed part is not visible.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The part is neither staged nor published: an invariant is broken, stop.
    #[error("the committed part {} is lost: it is neither there nor at {}", path.display(), staged.display())]
    Lost {
        /// Its final place.
        path: PathBuf,
        /// Where it was staged.
        staged: PathBuf,
    },
    /// Its bytes are not those that were committed: stop.
    #[error("the committed part at {} is not what was committed: {detail}", path.display())]
    Changed {
        /// Where it was found.
        path: PathBuf,
        /// What differs.
        detail: &'static str,
    },
    /// Somebody else's file has its name; ours is kept until that one is moved away.
    #[error("{} exists with other content and is not replaced; move it away", path.display())]
    Occupied {
        /// The name.
        path: PathBuf,
    },
    /// The journal names a place outside of the home: stop.
    #[error("the part {sink}/{name} cannot be published: {reason}")]
    Name {
        /// The sink.
        sink: String,
        /// The final name.
        name: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// The disk refuses: try again later, or stop.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

impl PublishError {
    /// Returns what the system said, if it is no more than a refusal of the disk: what failed was not
    /// done, or may be done again. A sync is not among it.
    pub fn refusal(&self) -> Option<&io::Error> {
        match self {
            PublishError::Disk(error) => Some(disk::cause(&error.source)),
            _ => None,
        }
    }
}

impl Full for PublishError {
    fn is_full(&self) -> bool {
        matches!(self, PublishError::Disk(error) if error.is_full())
    }
}

/// Makes a committed part visible as `out/<sink>/<name>`, or takes that away. Already done is fine.
///
/// What of ours is there ([`Part::before`]) is replaced in one step. Where somebody else's file lies,
/// a part is refused ([`PublishError::Occupied`]), and an output that is to be removed is gone.
///
/// Durable after [`sync_published`]. A part that rides in the journal is not synced before it gets
/// its name: until then a loss of power may leave it empty or torn, and [`publish_again`] mends that.
pub fn publish(home: &Home, folders: &Folders, part: &Part) -> Result<(), PublishError> {
    check_names(part)?;
    failpoint::reach("publish-begin").map_err(stop_at(part))?;
    let sink = folders.out.join(&part.sink);
    let path = sink.join(&part.name);
    match &part.body {
        PartBody::Staged(staged) => publish_staged(&home.root().join(staged), &sink, &path, part),
        PartBody::Inline(bytes) => publish_inline(home, bytes, &sink, &path, part),
        PartBody::Removed => remove(&path, part),
    }?;
    failpoint::reach("publish-part-done").map_err(stop_at(part))
}

/// Returns what a failpoint's error is here.
fn stop_at(part: &Part) -> impl Fn(io::Error) -> PublishError {
    |error| PublishError::Disk(DiskError::failpoint(Path::new(&part.name))(error))
}

fn publish_staged(
    staged: &Path,
    sink: &Path,
    path: &Path,
    part: &Part,
) -> Result<(), PublishError> {
    match disk::look(staged)? {
        None => {
            return match lying(path, part)? {
                Lying::This => Ok(()),
                Lying::Nothing | Lying::Before => {
                    Err(PublishError::Lost { path: path.into(), staged: staged.into() })
                }
                Lying::Other => Err(PublishError::Occupied { path: path.into() }),
            };
        }
        Some(found) if !found.is_file() || found.len() != part.bytes => {
            return Err(PublishError::Changed { path: staged.into(), detail: "size" });
        }
        Some(_) => {}
    }
    if place(staged, sink, path, part)? {
        failpoint::reach("publish-staged-moved").map_err(stop_at(part))?;
    }
    Ok(())
}

fn publish_inline(
    home: &Home,
    bytes: &[u8],
    sink: &Path,
    path: &Path,
    part: &Part,
) -> Result<(), PublishError> {
    if bytes.len() as u64 != part.bytes || *blake3::hash(bytes).as_bytes() != part.hash {
        return Err(PublishError::Changed { path: home.journal_path(), detail: "inline bytes" });
    }
    // Beside the generations, so that recovery finds and removes what a crash leaves.
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let temporary = home.stage_root().join(format!("inline-{}-{number}", std::process::id()));
    let written = write_new(&temporary, |file| file.write_all(bytes)).and_then(|_| {
        failpoint::reach("publish-inline-written").map_err(DiskError::failpoint(path))
    });
    written
        .map_err(PublishError::from)
        .and_then(|()| place(&temporary, sink, path, part))
        .and_then(|is_moved| match is_moved {
            true => failpoint::reach("publish-inline-moved").map_err(stop_at(part)),
            false => Ok(()),
        })
        .inspect_err(|_| {
            let _ = std::fs::remove_file(&temporary);
        })
}

/// Gives a whole file its final name; returns whether nothing lay there. What lies there is looked at
/// only if something does: that is rare, and a look costs as much as a good part of the move.
fn place(source: &Path, sink: &Path, path: &Path, part: &Part) -> Result<bool, PublishError> {
    match rename_into(sink, source, path) {
        Ok(()) => return Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => match lying(path, part)? {
            Lying::This => std::fs::remove_file(source)
                .map_err(|error| DiskError::new("remove", source, error))?,
            Lying::Before => replace_ours(source, path)?,
            Lying::Nothing | Lying::Other => {
                return Err(PublishError::Occupied { path: path.into() });
            }
        },
        Err(error) => return Err(error.into()),
    }
    Ok(false)
}

/// Takes an output away. What is not ours is somebody's own, and the output is gone all the same.
fn remove(path: &Path, part: &Part) -> Result<(), PublishError> {
    match lying(path, part)? {
        Lying::Nothing => Ok(()),
        Lying::This | Lying::Before => {
            std::fs::remove_file(path).map_err(|error| DiskError::new("remove", path, error))?;
            failpoint::reach("publish-output-removed").map_err(stop_at(part))
        }
        Lying::Other => {
            tracing::warn!(
                path = %path.display(),
                "an output was to be removed; another file lies in its place and is left"
            );
            Ok(())
        }
    }
}

/// Puts a file in the place of an output of ours, in one step.
fn replace_ours(source: &Path, path: &Path) -> Result<(), DiskError> {
    replace(source, path)?;
    failpoint::reach("publish-output-replaced").map_err(DiskError::failpoint(path))
}

/// Moves a file into a sink's folder, which is created when it is first needed.
fn rename_into(sink: &Path, source: &Path, path: &Path) -> Result<(), DiskError> {
    match disk::rename_new(source, path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            create_sink(sink)?;
            failpoint::reach("publish-sink-created").map_err(DiskError::failpoint(sink))?;
            disk::rename_new(source, path)
        }
        result => result,
    }
}

fn create_sink(sink: &Path) -> Result<(), DiskError> {
    match std::fs::create_dir(sink) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(DiskError::new("create", sink, error))
        }
        _ => Ok(()),
    }
}

fn check_names(part: &Part) -> Result<(), PublishError> {
    let refuse = |reason| {
        Err(PublishError::Name { sink: part.sink.clone(), name: part.name.clone(), reason })
    };
    if !disk::is_plain_name(&part.sink) || !disk::is_plain_name(&part.name) {
        return refuse("a name is empty, too long, or a path");
    }
    if let PartBody::Staged(staged) = &part.body
        && !is_staged_path(staged)
    {
        return refuse("its staged file is not below stage/ of the home");
    }
    Ok(())
}

/// Returns whether a path is relative, below `stage/`, and goes only down.
pub(crate) fn is_staged_path(staged: &Path) -> bool {
    staged.starts_with("stage")
        && staged.components().count() > 1
        && staged.components().all(|component| matches!(component, Component::Normal(_)))
}

/// What lies in the place of a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lying {
    Nothing,
    /// The part itself.
    This,
    /// What of ours it takes the place of.
    Before,
    /// Something else.
    Other,
}

/// Returns what lies in the place of a part, by its bytes.
fn lying(path: &Path, part: &Part) -> Result<Lying, DiskError> {
    let Some(found) = disk::look(path)? else { return Ok(Lying::Nothing) };
    let removed = matches!(part.body, PartBody::Removed);
    let is_this = |bytes: u64| !removed && bytes == part.bytes;
    let is_before = |bytes: u64| part.before.iter().any(|version| version.bytes == bytes);
    if !found.is_file() || !(is_this(found.len()) || is_before(found.len())) {
        return Ok(Lying::Other);
    }
    let file = disk::open_plain(path).map_err(|error| DiskError::new("open", path, error))?;
    let hash = disk::hash_of(&file).map_err(|error| DiskError::new("hash", path, error))?;
    Ok(if is_this(found.len()) && hash == part.hash {
        Lying::This
    } else if part.before.iter().any(|version| version.hash == hash) {
        Lying::Before
    } else {
        Lying::Other
    })
}

/// Makes all publications and moves of these pipelines durable (T1), with one sync of their file
/// system. An error must not be retried.
pub fn sync_published(folders: &[&Folders]) -> io::Result<()> {
    // A home is on one file system, so that of its first folder is that of all.
    let Some(first) = folders.first() else { return Ok(()) };
    if !barrier::holds("T1") {
        return Ok(());
    }
    let out = File::open(&first.out).map_err(|error| DiskError::new("open", &first.out, error))?;
    disk::sync_all(&out, &first.out)?;
    Ok(())
}

/// Replaces a file in one step: readers see the old bytes or the new ones, never a part.
///
/// On return the new bytes survive a loss of power. For what is current rather than committed once:
/// the snapshots of tables.
pub fn replace_file(
    path: &Path,
    write: impl FnOnce(&mut File) -> io::Result<()>,
) -> io::Result<()> {
    let temporary = beside(path)?;
    let stop = DiskError::failpoint(path);
    let result = write_new(&temporary, write)
        .and_then(|file| {
            failpoint::reach("snapshot-written").map_err(&stop)?;
            if barrier::holds("snapshot-synced") {
                disk::sync_file(&file, &temporary)
            } else {
                Ok(())
            }
        })
        .and_then(|()| {
            failpoint::reach("snapshot-synced").map_err(&stop)?;
            replace(&temporary, path)
        })
        .and_then(|()| {
            failpoint::reach("snapshot-replaced").map_err(&stop)?;
            disk::sync_folder(path.parent().unwrap_or(Path::new(".")))
        });
    result.map_err(|error| {
        let _ = std::fs::remove_file(&temporary);
        error.into()
    })
}

/// Writes a small file in one step, replacing what is there. Durable after [`sync_published`].
pub(crate) fn put_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = beside(path)?;
    let written = write_new(&temporary, |file| file.write_all(bytes));
    let placed = written.and_then(|_| {
        failpoint::reach("reason-written").map_err(DiskError::failpoint(path))?;
        replace(&temporary, path)
    });
    placed.map_err(|error| {
        let _ = std::fs::remove_file(&temporary);
        error.into()
    })
}

fn replace(temporary: &Path, path: &Path) -> Result<(), DiskError> {
    std::fs::rename(temporary, path).map_err(|error| DiskError::new("replace", path, error))
}

/// Returns a hidden name beside a file, always the same and of bounded length.
///
/// A leftover of a crash is overwritten by the next attempt, so nothing piles up.
fn beside(path: &Path) -> Result<PathBuf, DiskError> {
    let name = path
        .file_name()
        .ok_or_else(|| DiskError::new("replace", path, io::ErrorKind::InvalidInput))?;
    let short = blake3::hash(name.as_encoded_bytes()).to_hex();
    Ok(path.with_file_name(format!(".tidemill-{}.tmp", &short.as_str()[..16])))
}

/// Creates a file, of which a leftover may exist, and writes it.
fn write_new(
    path: &Path,
    write: impl FnOnce(&mut File) -> io::Result<()>,
) -> Result<File, DiskError> {
    let flags = (OFlags::NOFOLLOW | OFlags::CLOEXEC).bits().cast_signed();
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .custom_flags(flags)
        .open(path)
        .map_err(|error| DiskError::new("create", path, error))?;
    trial::room()
        .and_then(|()| write(&mut file))
        .map_err(|error| DiskError::new("write", path, error))?;
    Ok(file)
}

#[cfg(test)]
mod tests;
