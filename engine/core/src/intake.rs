//! Intake: finds files in `unprocessed/` that are complete, claims them and hands them to the
//! ledger.
//!
//! One thread in process 0. Events of the file system are hints that a file was closed or renamed
//! into place; the truth is the folder, which is scanned regularly. A file is taken only when such a
//! hint came or when it has not changed for a while. Nothing is ever opened before it is known to be
//! a plain file, so a pipe or a device cannot hold the intake up.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant, SystemTime};

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind, RenameMode};
use notify::{RecursiveMode, Watcher};
use tidemill_store::name::check_name;
use tidemill_store::{ClaimError, Claimed, Folders, NewFile, queue};

use crate::board::{Board, to_us};
use crate::ledger::Event;
use crate::plan::SourcePlan;

/// Files claimed and synced together, at most.
const GROUP_FILES: usize = 256;

/// Bytes claimed and synced together, at most: a big file does not wait for its neighbours.
const GROUP_BYTES: u64 = 16 << 20;

/// Files of one pipeline that may be accepted and not finished.
pub const PENDING_MAX: usize = 2048;

/// How long the intake sleeps while too many files are pending.
const PENDING_WAIT: Duration = Duration::from_millis(5);

/// How the intake decides that a file is complete.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// How long a file must be unchanged when no close or rename was seen.
    pub quiet: Duration,
    /// How often the folders are scanned.
    pub scan: Duration,
}

/// Which source of a pipeline takes a file, by its name.
#[derive(Clone, Debug)]
pub struct Patterns {
    sources: Vec<(String, Vec<String>, GlobSet)>,
}

impl Patterns {
    /// Returns the patterns of the sources, in their order.
    pub fn new(sources: &[SourcePlan]) -> Self {
        let of_source = |source: &SourcePlan| {
            let mut set = GlobSetBuilder::new();
            for pattern in &source.patterns {
                if let Ok(glob) = GlobBuilder::new(pattern).literal_separator(true).build() {
                    set.add(glob);
                }
            }
            let set = set.build().unwrap_or_else(|_| GlobSet::empty());
            (source.name.clone(), source.patterns.clone(), set)
        };
        Self { sources: sources.iter().map(of_source).collect() }
    }

    /// Returns the first source that takes this name.
    pub fn source_of(&self, name: &str) -> Option<&str> {
        self.sources.iter().find(|(_, _, set)| set.is_match(name)).map(|(source, ..)| &**source)
    }

    /// Returns all patterns, for people.
    pub fn all(&self) -> String {
        let all: Vec<&str> =
            self.sources.iter().flat_map(|(_, patterns, _)| patterns).map(|p| &**p).collect();
        all.join(", ")
    }
}

/// The intake's end of one pipeline.
pub struct Line {
    /// Its name.
    pub name: String,
    /// Its folders.
    pub folders: Folders,
    /// Which source takes what.
    pub patterns: Patterns,
}

/// The numbers of submissions, shared by all who claim.
#[derive(Clone, Debug)]
pub struct Numbers {
    next: Arc<AtomicU64>,
}

impl Numbers {
    /// Returns numbers from `next` on.
    pub fn from(next: u64) -> Self {
        Self { next: Arc::new(AtomicU64::new(next)) }
    }

    /// Returns a number that was never given before.
    pub fn take(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }
}

/// The intake of all pipelines.
pub struct Intake {
    lines: Vec<Watched>,
    numbers: Numbers,
    board: Arc<Board>,
    ledger: Sender<Event>,
    patience: Patience,
    stop: Arc<AtomicBool>,
}

/// A pipeline's folder and what was seen in it.
struct Watched {
    line: Line,
    /// Files that were closed or renamed into place.
    complete: BTreeSet<OsString>,
    /// Files that may still be written: how they looked, and since when they look so.
    growing: BTreeMap<OsString, (Look, Instant, SystemTime)>,
    /// Names that are left where they are, so that each is reported once.
    left: BTreeSet<OsString>,
}

/// How a file looks from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Look {
    inode: u64,
    bytes: u64,
    modified_ns: i128,
}

/// What a scan of all folders found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Scan {
    claimed: usize,
    growing: usize,
    /// Complete, and not claimed because too many are pending.
    behind: bool,
}

impl Intake {
    /// Returns an intake. `stop` ends it from outside.
    pub fn new(
        lines: Vec<Line>,
        numbers: Numbers,
        board: Arc<Board>,
        ledger: Sender<Event>,
        patience: Patience,
        stop: Arc<AtomicBool>,
    ) -> Self {
        let watched = |line: Line| Watched {
            line,
            complete: BTreeSet::new(),
            growing: BTreeMap::new(),
            left: BTreeSet::new(),
        };
        let lines = lines.into_iter().map(watched).collect();
        Self { lines, numbers, board, ledger, patience, stop }
    }

    /// Takes what is there and waits until nothing is left that may become complete.
    pub fn run_once(mut self) -> Result<(), IntakeError> {
        while !self.stopped() {
            let scan = self.scan()?;
            while self.is_behind() && !self.stopped() {
                std::thread::sleep(PENDING_WAIT);
                self.claim_complete()?;
            }
            if scan.claimed == 0 && scan.growing == 0 && !scan.behind {
                return Ok(());
            }
            if scan.claimed == 0 && !scan.behind {
                std::thread::sleep(self.patience.quiet.min(Duration::from_millis(20)));
            }
        }
        Ok(())
    }

    /// Takes files as they arrive, until it is stopped.
    pub fn run(mut self) -> Result<(), IntakeError> {
        let (hints, heard) = channel();
        // The handle must live as long as the intake: dropping it ends the watching.
        let _watcher = self.watch(hints);
        let mut next_scan = Instant::now();
        while !self.stopped() {
            let mut growing = 0;
            if Instant::now() >= next_scan {
                growing = self.scan()?.growing;
                next_scan = Instant::now() + self.patience.scan;
            }
            if growing > 0 {
                next_scan = next_scan.min(Instant::now() + self.patience.quiet / 4);
            }
            if self.listen(&heard, next_scan) {
                self.claim_complete()?;
            }
        }
        Ok(())
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Watches the folders. If the system cannot, scanning alone must do.
    fn watch(&self, hints: Sender<notify::Event>) -> Option<notify::RecommendedWatcher> {
        let handler = move |event: notify::Result<notify::Event>| {
            if let Ok(event) = event {
                // The intake may have ended.
                let _ = hints.send(event);
            }
        };
        let mut watcher = match notify::recommended_watcher(handler) {
            Ok(watcher) => watcher,
            Err(error) => {
                tracing::warn!("cannot watch folders ({error}); they are scanned instead");
                return None;
            }
        };
        for watched in &self.lines {
            let folder = &watched.line.folders.unprocessed;
            if let Err(error) = watcher.watch(folder, RecursiveMode::NonRecursive) {
                tracing::warn!(folder = %folder.display(), "cannot watch ({error}); it is scanned");
            }
        }
        Some(watcher)
    }

    /// Takes hints until there is something to claim or it is time to scan. Returns whether there
    /// is.
    fn listen(&mut self, heard: &Receiver<notify::Event>, until: Instant) -> bool {
        let longest = if self.is_behind() { PENDING_WAIT } else { Duration::from_millis(100) };
        let nap = until.saturating_duration_since(Instant::now()).min(longest);
        match heard.recv_timeout(nap) {
            Ok(event) => self.take_hint(&event),
            Err(RecvTimeoutError::Timeout) => {}
            // Nothing watches: only scans find files.
            Err(RecvTimeoutError::Disconnected) => std::thread::sleep(nap),
        }
        // What else came in the meantime goes into the same group.
        while let Ok(event) = heard.try_recv() {
            self.take_hint(&event);
        }
        self.is_behind()
    }

    /// Returns whether complete files wait to be claimed.
    fn is_behind(&self) -> bool {
        self.lines.iter().any(|watched| !watched.complete.is_empty())
    }

    fn take_hint(&mut self, event: &notify::Event) {
        let complete = matches!(
            event.kind,
            EventKind::Access(AccessKind::Close(AccessMode::Write))
                | EventKind::Modify(ModifyKind::Name(RenameMode::To))
        );
        if !complete {
            return;
        }
        for path in &event.paths {
            let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else { continue };
            let watched =
                self.lines.iter_mut().find(|watched| watched.line.folders.unprocessed == folder);
            if let Some(watched) = watched
                && !is_ignored(name)
            {
                watched.complete.insert(name.to_owned());
            }
        }
    }

    /// Looks at every name in every folder and claims what is complete.
    fn scan(&mut self) -> Result<Scan, IntakeError> {
        let mut found = Scan::default();
        let quiet = self.patience.quiet;
        for watched in &mut self.lines {
            let folder = watched.line.folders.unprocessed.clone();
            let failed =
                |source| IntakeError::Scan { folder: folder.display().to_string(), source };
            let mut there = BTreeSet::new();
            for entry in std::fs::read_dir(&folder).map_err(failed)? {
                let entry = entry.map_err(failed)?;
                let name = entry.file_name();
                if is_ignored(&name) {
                    continue;
                }
                there.insert(name.clone());
                // A name that went away meanwhile is no file.
                let Ok(metadata) = std::fs::symlink_metadata(entry.path()) else { continue };
                if !metadata.is_file() || watched.left.contains(&name) {
                    watched.leave(&name, || kind_word(&metadata));
                    continue;
                }
                let look = Look {
                    inode: metadata.ino(),
                    bytes: metadata.len(),
                    modified_ns: i128::from(metadata.mtime()) * 1_000_000_000
                        + i128::from(metadata.mtime_nsec()),
                };
                let seen = watched
                    .growing
                    .entry(name.clone())
                    .or_insert_with(|| (look, Instant::now(), SystemTime::now()));
                if seen.0 != look {
                    (seen.0, seen.1) = (look, Instant::now());
                }
                // A file that was last written long ago need not be watched first.
                let old = metadata
                    .modified()
                    .ok()
                    .and_then(|at| SystemTime::now().duration_since(at).ok())
                    .is_some_and(|age| age >= quiet);
                if old || seen.1.elapsed() >= quiet {
                    watched.complete.insert(name);
                } else {
                    found.growing += 1;
                }
            }
            watched.growing.retain(|name, _| there.contains(name));
            watched.left.retain(|name| there.contains(name));
        }
        found.claimed = self.claim_complete()?;
        found.behind = self.is_behind();
        Ok(found)
    }

    /// Claims everything that is complete, in groups, as far as not too many are pending; returns
    /// how many files that were.
    fn claim_complete(&mut self) -> Result<usize, IntakeError> {
        let mut count = 0;
        for pipeline in 0..self.lines.len() {
            // A pipeline that is behind does not keep files from the others.
            while !self.stopped()
                && !self.lines[pipeline].complete.is_empty()
                && self.board.pending(pipeline) < PENDING_MAX
            {
                count += self.claim_group(pipeline)?;
            }
        }
        Ok(count)
    }

    fn claim_group(&mut self, pipeline: usize) -> Result<usize, IntakeError> {
        let watched = &mut self.lines[pipeline];
        let mut group: Vec<(Claimed, NewFile)> = Vec::new();
        let mut bytes = 0;
        while group.len() < GROUP_FILES && bytes < GROUP_BYTES {
            let Some(name) = watched.complete.pop_first() else { break };
            if let Some(taken) = claim_one(watched, &name, &self.numbers)? {
                bytes += taken.1.identity.bytes;
                group.push(taken);
            }
        }
        if group.is_empty() {
            return Ok(0);
        }
        let files: Vec<_> = group.iter().map(|(claimed, _)| &claimed.file).collect();
        queue::sync_claims(&files, &[&watched.line.folders])
            .map_err(|source| IntakeError::Sync { source })?;
        let files: Vec<NewFile> = group.into_iter().map(|(_, file)| file).collect();
        let count = files.len();
        // A ledger that has ended leaves the files to recovery.
        let _ = self.ledger.send(Event::Accept { files, reply: None });
        Ok(count)
    }
}

/// Claims one file, or says why it stays where it is.
fn claim_one(
    watched: &mut Watched,
    name: &OsStr,
    numbers: &Numbers,
) -> Result<Option<(Claimed, NewFile)>, IntakeError> {
    let seen_at = watched.growing.remove(name).map_or_else(SystemTime::now, |seen| seen.2);
    let text = match check_name(name) {
        Ok(text) => text.to_owned(),
        Err(error) => {
            watched.leave(name, || error.to_string());
            return Ok(None);
        }
    };
    let Some(source) = watched.line.patterns.source_of(&text).map(str::to_owned) else {
        let patterns = watched.line.patterns.all();
        watched.leave(name, || format!("no source takes it; patterns: {patterns}"));
        return Ok(None);
    };
    let id = numbers.take();
    let claimed = match queue::claim(&watched.line.folders, name, id) {
        Ok(claimed) => claimed,
        Err(ClaimError::Gone { .. }) => return Ok(None),
        Err(ClaimError::Disk { source, .. }) => {
            return Err(IntakeError::Claim { name: text, source: source.into() });
        }
        Err(error) => {
            watched.leave(name, || error.to_string());
            return Ok(None);
        }
    };
    let file = NewFile {
        id,
        pipeline: watched.line.name.clone(),
        source,
        name: text,
        claimed_name: claimed.claimed_name.clone(),
        identity: claimed.identity,
        // It is hashed while it is processed.
        hash: None,
        seen_at_us: to_us(seen_at),
        claimed_at_us: to_us(SystemTime::now()),
    };
    Ok(Some((claimed, file)))
}

impl Watched {
    /// Leaves a name where it is and says so once.
    fn leave(&mut self, name: &OsStr, why: impl FnOnce() -> String) {
        self.growing.remove(name);
        if self.left.insert(name.to_owned()) {
            let (pipeline, name) = (&self.line.name, name.to_string_lossy());
            tracing::warn!(pipeline, "left {:?} in unprocessed/: {}", name, why());
        }
    }
}

/// Returns whether a name is that of a file that is still being made, or of no concern.
fn is_ignored(name: &OsStr) -> bool {
    let name = name.as_encoded_bytes();
    let ending = |ending: &[u8]| name.ends_with(ending);
    name.starts_with(b".")
        || name.starts_with(b"~")
        || ending(b"~")
        || ending(b".tmp")
        || ending(b".part")
}

fn kind_word(metadata: &std::fs::Metadata) -> String {
    use std::os::unix::fs::FileTypeExt;
    let kind = metadata.file_type();
    let word = if kind.is_dir() {
        "a directory"
    } else if kind.is_symlink() {
        "a symbolic link"
    } else if kind.is_fifo() {
        "a named pipe"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "not a plain file"
    };
    format!("it is {word}")
}

/// Why the intake cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum IntakeError {
    /// A folder cannot be listed.
    #[error("list {folder}")]
    Scan {
        /// Which one.
        folder: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file cannot be claimed.
    #[error("claim {name}")]
    Claim {
        /// Its name.
        name: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The disk refused to make claims durable.
    #[error("sync claimed files")]
    Sync {
        /// What the system said.
        source: std::io::Error,
    },
}
