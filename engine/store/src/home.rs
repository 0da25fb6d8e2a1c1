//! Home: the one directory in which everything lies, and who may write it.
//!
//! Owns the layout and the lock. All folders are on one file system, because the protocol moves
//! files between them in one step. The lock is released by the kernel when the process dies, and
//! by nothing else, so it can never be stale.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, OFlags};

use crate::disk::{self, DiskError, Full};
use crate::failpoint;

/// The longest name of a pipeline, in bytes.
pub const PIPELINE_NAME_BYTES_MAX: usize = 100;

/// The name of the journal in a home.
pub(crate) const JOURNAL: &str = "journal.db";

/// Names that the home uses itself, or keeps for later.
const RESERVED: [&str; 10] = [
    JOURNAL,
    "journal.db-wal",
    "journal.db-shm",
    "journal.db-journal",
    "lock",
    "spool",
    "stage",
    "ckpt",
    "retained",
    "audit",
];

/// How long a process that was killed may take to be gone.
const GOING: Duration = Duration::from_secs(1);

/// How often a lock is asked for meanwhile.
const ASK_EVERY: Duration = Duration::from_millis(10);

const WRITABLE_BY_ALL: u32 = 0o002;
const STICKY: u32 = 0o1000;

/// The directory of one tidemill, opened.
#[derive(Debug)]
pub struct Home {
    root: PathBuf,
    device: u64,
    /// Held for its lock; `None` in a process that was attached.
    lock: Option<File>,
}

/// The folders of one pipeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folders {
    /// `HOME/<pipeline>`.
    pub root: PathBuf,
    /// Where files are dropped.
    pub unprocessed: PathBuf,
    /// Files that were claimed and are not finished; written by us only.
    pub underprocess: PathBuf,
    /// Inputs that were committed.
    pub processed: PathBuf,
    /// Inputs that were set aside, each with its reason.
    pub quarantine: PathBuf,
    /// Outputs, one folder per sink.
    pub out: PathBuf,
    /// Inputs that are not current any more, as long as a start may need them. Made when it is first
    /// needed.
    pub retained: PathBuf,
}

/// Why a home cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HomeError {
    /// Another process runs here.
    #[error("the home {} is in use{}; stop that one first, or choose another home", root.display(), holder(*pid))]
    Locked {
        /// The home.
        root: PathBuf,
        /// Who holds it, as it wrote itself down.
        pid: Option<u32>,
    },
    /// There is nothing to attach to.
    #[error("there is no home at {}", root.display())]
    Missing {
        /// Where it was looked for.
        root: PathBuf,
    },
    /// Something that is not a folder stands where one must be.
    #[error("{} is not a folder of its own (a link or a file stands there)", path.display())]
    NotAFolder {
        /// Where.
        path: PathBuf,
    },
    /// A folder lies on another file system than the home.
    #[error(
        "{} is on another file system than the home {}: files could not be moved in one step",
        path.display(), root.display()
    )]
    Split {
        /// The home.
        root: PathBuf,
        /// The folder elsewhere.
        path: PathBuf,
    },
    /// Everybody on this machine can move our files away.
    #[error(
        "everybody may write in {} (mode {mode:o}); take that right away with chmod o-w", path.display()
    )]
    Open {
        /// The folder.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// A pipeline cannot have this name.
    #[error("a pipeline cannot be called {name:?}: {reason}")]
    PipelineName {
        /// The name.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The disk refuses.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

impl Full for HomeError {
    fn is_full(&self) -> bool {
        matches!(self, HomeError::Disk(error) if error.is_full())
    }
}

fn holder(pid: Option<u32>) -> String {
    pid.map(|pid| format!(" by process {pid}")).unwrap_or_default()
}

impl Home {
    /// Opens a home for the one process that may write it, creating what is missing.
    ///
    /// Takes the lock without waiting; it is held until the `Home` is dropped or the process dies.
    pub fn open(root: &Path) -> Result<Home, HomeError> {
        if let Some(parent) = root.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            std::fs::create_dir_all(parent)
                .map_err(|error| DiskError::new("create", parent, error))?;
        }
        create_folder(root)?;
        let mut home = Home::at(root)?;
        home.lock = Some(home.take_lock()?);
        failpoint::reach("home-locked").map_err(DiskError::failpoint(root))?;
        for folder in [home.spool(), home.root.join("stage")] {
            home.folder(&folder)?;
        }
        disk::sync_folder(&home.root)?;
        Ok(home)
    }

    /// Opens a home that another process of the same run holds. Takes no lock, creates nothing.
    pub fn attach(root: &Path) -> Result<Home, HomeError> {
        let home = Home::at(root)?;
        match disk::look(&home.root.join("stage"))? {
            Some(stage) if stage.is_dir() => Ok(home),
            _ => Err(HomeError::Missing { root: home.root }),
        }
    }

    fn at(root: &Path) -> Result<Home, HomeError> {
        let absolute = match root.canonicalize() {
            Ok(absolute) => absolute,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(HomeError::Missing { root: root.to_path_buf() });
            }
            Err(error) => return Err(DiskError::new("resolve", root, error).into()),
        };
        let device = check_folder(&absolute)?;
        Ok(Home { root: absolute, device, lock: None })
    }

    fn take_lock(&self) -> Result<File, HomeError> {
        let path = self.root.join("LOCK");
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC).bits().cast_signed();
        let failed = |doing, error| DiskError::new(doing, &path, error);
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(flags)
            .open(&path)
            .map_err(|error| failed("open", error))?;
        match once_free(|| rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut text = String::new();
                // The number is a courtesy: without it the message is still right.
                let pid = match (&lock).take(32).read_to_string(&mut text) {
                    Ok(_) => text.trim().parse().ok(),
                    Err(_) => None,
                };
                return Err(HomeError::Locked { root: self.root.clone(), pid });
            }
            Err(errno) => return Err(failed("lock", errno.into()).into()),
        }
        lock.set_len(0)
            .and_then(|()| lock.rewind())
            .and_then(|()| writeln!(lock, "{}", std::process::id()))
            .map_err(|error| failed("write", error))?;
        Ok(lock)
    }

    /// Returns the home's directory, absolute.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Returns the folder in which uploads are received.
    pub fn spool(&self) -> PathBuf {
        self.root.join("spool")
    }

    /// Returns the folder of the staged parts of one generation. It may not exist yet.
    pub fn stage(&self, generation: u64) -> PathBuf {
        self.stage_root().join(generation.to_string())
    }

    pub(crate) fn stage_root(&self) -> PathBuf {
        self.root.join("stage")
    }

    /// Returns the folder of a pipeline's checkpoints. It may not exist yet.
    pub fn checkpoints(&self, pipeline: &str) -> PathBuf {
        self.root.join("ckpt").join(pipeline)
    }

    /// Returns the folder of a pipeline's checkpoints, creating it. It exists durably on return.
    pub fn create_checkpoints(&self, pipeline: &str) -> Result<PathBuf, HomeError> {
        check_pipeline_name(pipeline)?;
        let folder = self.checkpoints(pipeline);
        let all = self.root.join("ckpt");
        let created = [self.folder(&all)?, self.folder(&folder)?];
        if created.contains(&true) {
            disk::sync_folder(&all)?;
            disk::sync_folder(&self.root)?;
        }
        Ok(folder)
    }

    /// Returns where the journal lies.
    pub fn journal_path(&self) -> PathBuf {
        self.root.join(JOURNAL)
    }

    /// Returns whether this process holds the lock.
    pub fn is_locked(&self) -> bool {
        self.lock.is_some()
    }

    /// Returns the folders of one pipeline, creating what is missing. They exist durably on return.
    pub fn pipeline(&self, name: &str) -> Result<Folders, HomeError> {
        check_pipeline_name(name)?;
        let folders = Folders::below(&self.root.join(name));
        let mut created = self.folder(&folders.root)?;
        for folder in folders.all() {
            created |= self.folder(folder)?;
        }
        if created {
            disk::sync_folder(&folders.root)?;
            disk::sync_folder(&self.root)?;
        }
        Ok(folders)
    }

    /// Creates one folder unless it is there, and checks it; returns whether it is new.
    fn folder(&self, path: &Path) -> Result<bool, HomeError> {
        let created = create_folder(path)?;
        if check_folder(path)? != self.device {
            return Err(HomeError::Split { root: self.root.clone(), path: path.to_path_buf() });
        }
        Ok(created)
    }
}

impl Folders {
    /// Returns the folders of a pipeline whose root this is. Makes none of them.
    pub fn below(root: &Path) -> Folders {
        Folders {
            root: root.to_path_buf(),
            unprocessed: root.join("unprocessed"),
            underprocess: root.join("underprocess"),
            processed: root.join("processed"),
            quarantine: root.join("quarantine"),
            out: root.join("out"),
            retained: root.join("retained"),
        }
    }

    /// Makes `unprocessed/` again if somebody removed it; returns whether it was missing.
    pub fn restore_unprocessed(&self) -> Result<bool, HomeError> {
        Ok(create_folder(&self.unprocessed)?)
    }

    fn all(&self) -> [&Path; 5] {
        [&self.unprocessed, &self.underprocess, &self.processed, &self.quarantine, &self.out]
    }
}

/// Checks that a name can be the name of a pipeline, and so of its folder.
pub fn check_pipeline_name(name: &str) -> Result<(), HomeError> {
    let refuse = |reason| Err(HomeError::PipelineName { name: name.to_string(), reason });
    if name.is_empty() || name.len() > PIPELINE_NAME_BYTES_MAX {
        return refuse("it must have 1 to 100 characters");
    }
    if !name.starts_with(|first: char| first.is_ascii_alphanumeric()) {
        return refuse("it must begin with a letter or digit");
    }
    if !name.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c)) {
        return refuse("only letters, digits, `.`, `_` and `-` may stand in it");
    }
    if RESERVED.contains(&name.to_ascii_lowercase().as_str()) {
        return refuse("the home uses this name itself");
    }
    Ok(())
}

/// Creates a folder for its owner alone; returns whether it is new.
fn create_folder(path: &Path) -> Result<bool, DiskError> {
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(DiskError::new("create", path, error)),
    }
}

/// Checks that a folder is one, and ours to trust; returns its device.
fn check_folder(path: &Path) -> Result<u64, HomeError> {
    let Some(metadata) = disk::look(path)? else {
        return Err(HomeError::Missing { root: path.to_path_buf() });
    };
    if !metadata.is_dir() {
        return Err(HomeError::NotAFolder { path: path.to_path_buf() });
    }
    let mode = metadata.permissions().mode();
    if mode & WRITABLE_BY_ALL != 0 && mode & STICKY == 0 {
        return Err(HomeError::Open { path: path.to_path_buf(), mode: mode & 0o7777 });
    }
    Ok(metadata.dev())
}

/// Takes a lock, and waits a moment for whoever holds it: who is started again right behind a kill
/// may come before the kernel has let go of everything.
fn once_free(mut take: impl FnMut() -> rustix::io::Result<()>) -> rustix::io::Result<()> {
    let began = Instant::now();
    loop {
        match take() {
            Err(rustix::io::Errno::WOULDBLOCK) if began.elapsed() < GOING => {
                std::thread::sleep(ASK_EVERY);
            }
            taken => return taken,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_that_a_killed_process_still_holds_is_waited_for_and_another_one_is_not() {
        let mut tries = 0;
        let mut after = |free_at: u32| {
            once_free(|| {
                tries += 1;
                if tries < free_at { Err(rustix::io::Errno::WOULDBLOCK) } else { Ok(()) }
            })
        };
        assert_eq!(after(4), Ok(()));
        assert_eq!(after(u32::MAX), Err(rustix::io::Errno::WOULDBLOCK));
        assert_eq!(once_free(|| Err(rustix::io::Errno::IO)), Err(rustix::io::Errno::IO));
    }

    #[test]
    fn the_second_opener_is_told_who_holds_the_home() {
        let folder = tempfile::tempdir().unwrap();
        let first = Home::open(&folder.path().join("home")).unwrap();
        match Home::open(first.root()) {
            Err(HomeError::Locked { pid, .. }) => assert_eq!(pid, Some(std::process::id())),
            other => panic!("{other:?}"),
        }
        let root = first.root().to_path_buf();
        drop(first);
        Home::open(&root).unwrap();
    }

    #[test]
    fn others_of_the_same_run_attach_without_the_lock() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("home");
        assert!(matches!(Home::attach(&root), Err(HomeError::Missing { .. })));
        let first = Home::open(&root).unwrap();
        let second = Home::attach(&root).unwrap();
        assert!(first.is_locked() && !second.is_locked());
        assert_eq!(first.journal_path(), second.journal_path());
    }

    #[test]
    fn a_home_is_private_and_its_parents_are_made() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::open(&folder.path().join("a/b/home")).unwrap();
        let folders = home.pipeline("orders").unwrap();
        for path in [home.root(), &folders.unprocessed, &folders.out, &home.spool()] {
            assert_eq!(path.metadata().unwrap().mode() & 0o077, 0, "{}", path.display());
        }
        assert_eq!(home.pipeline("orders").unwrap(), folders);
    }

    #[test]
    fn a_folder_that_everybody_may_write_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::open(&folder.path().join("home")).unwrap();
        let inbox = home.pipeline("p").unwrap().unprocessed;
        let set = |mode| std::fs::set_permissions(&inbox, PermissionsExt::from_mode(mode)).unwrap();
        set(0o777);
        assert!(matches!(home.pipeline("p"), Err(HomeError::Open { mode: 0o777, .. })));
        set(0o1777);
        home.pipeline("p").unwrap();
        set(0o2770);
        home.pipeline("p").unwrap();
    }

    #[test]
    fn a_link_in_place_of_a_folder_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::open(&folder.path().join("home")).unwrap();
        std::os::unix::fs::symlink("/tmp", home.root().join("p")).unwrap();
        assert!(matches!(home.pipeline("p"), Err(HomeError::NotAFolder { .. })));
    }

    #[test]
    fn a_pipeline_cannot_be_called_like_a_part_of_the_home_or_a_path() {
        for good in ["a", "access-logs", "A.b_c-9", "lockers"] {
            assert!(check_pipeline_name(good).is_ok(), "{good}");
        }
        let long = "x".repeat(101);
        for bad in
            ["", ".", "..", ".a", "-a", "a/b", "a b", "ä", "stage", "LOCK", "journal.db", &long]
        {
            assert!(check_pipeline_name(bad).is_err(), "{bad}");
        }
    }
}
