//! Inbox: what lies in the `unprocessed/` of one pipeline, and which of it is complete.
//!
//! The folder is the truth. It is listed only when it has changed since, or now and then to be sure:
//! names that nobody takes and files that stay where they are cost nothing in between.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ffi::{OsStr, OsString};
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::time::{Duration, Instant, SystemTime};

use tidemill_store::name::check_name;
use tidemill_store::{Folders, queue};

use super::gate::{Gate, Ready};
use super::manifest;
use super::patterns::{Fit, Patterns};
use super::refused::Refused;
use super::waiting::{Seen, Waiting};

/// How long a folder that does not seem to change is not listed, at most.
const LIST_EVERY: Duration = Duration::from_secs(60);

/// How old the last change of a folder must be before an unchanged time of it is believed: file
/// systems count time in ticks, some of them in seconds.
const FOLDER_TICK: Duration = Duration::from_secs(3);

/// The inbox of one pipeline.
pub(super) struct Inbox {
    /// The name of the pipeline.
    pub(super) pipeline: String,
    /// Its folders.
    pub(super) folders: Folders,
    /// Which source takes what.
    pub(super) patterns: Patterns,
    /// Files that are complete.
    pub(super) waiting: Waiting,
    /// Complete files that wait for something beside them.
    pub(super) gate: Gate,
    /// Sets that are complete, in the order in which they became so.
    pub(super) sets: VecDeque<Ready>,
    /// What the gate was told of, and how it looked then.
    gated: BTreeMap<OsString, Look>,
    /// Files that may still be written.
    growing: BTreeMap<OsString, Growing>,
    /// Names that are left where they are, so that each is reported once.
    left: BTreeMap<OsString, Left>,
    /// Files that the disk does not let us take.
    pub(super) refused: BTreeMap<OsString, Refused>,
    /// The folder as it was when it was last listed, and when that was.
    listed: Option<(Look, Instant)>,
    pub(super) round: u64,
}

/// A file that may still be written.
struct Growing {
    look: Look,
    /// Since when it looks so.
    since: Instant,
    /// When it was first seen.
    seen_at: SystemTime,
}

/// Why a name is left where it is.
enum Left {
    /// For its name: nothing that is done to the file changes that.
    Name,
    /// For what it is: looked at again when it looks otherwise.
    Look(Option<Look>),
}

/// How something looks from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Look {
    device: u64,
    inode: u64,
    bytes: u64,
    links: u64,
    modified_ns: i128,
    /// When anything about it was changed: its bytes, its mode, its names.
    changed_ns: i128,
}

impl Look {
    fn of(metadata: &Metadata) -> Self {
        let ns = |s: i64, ns: i64| i128::from(s) * 1_000_000_000 + i128::from(ns);
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.len(),
            links: metadata.nlink(),
            modified_ns: ns(metadata.mtime(), metadata.mtime_nsec()),
            changed_ns: ns(metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Returns when it came to lie where it lies, or was written to since.
    fn arrived_at(&self) -> SystemTime {
        let ns = u64::try_from(self.changed_ns).unwrap_or_default();
        SystemTime::UNIX_EPOCH + Duration::from_nanos(ns)
    }
}

/// How closely a folder is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scan {
    /// Each name.
    Full,
    /// Each name if the folder has changed, else the files that were seen to grow.
    Changes,
}

/// What a look at a folder found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// Files that may still be written.
    pub(super) growing: usize,
    /// Whether the folder is not the one that was there before.
    pub(super) is_other: bool,
}

impl Inbox {
    /// Returns the inbox of a pipeline.
    pub(super) fn new(pipeline: String, folders: Folders, patterns: Patterns) -> Self {
        Self {
            waiting: Waiting::new(patterns.takings()),
            gate: Gate::new(&pipeline, patterns.arrivals()),
            sets: VecDeque::new(),
            gated: BTreeMap::new(),
            pipeline,
            folders,
            patterns,
            growing: BTreeMap::new(),
            left: BTreeMap::new(),
            refused: BTreeMap::new(),
            listed: None,
            round: 0,
        }
    }

    /// Takes the word of the system that a file was closed or renamed into place.
    pub(super) fn hint(&mut self, name: &OsStr) {
        let Some(role) = self.role_of(name) else { return };
        self.round += 1;
        let source = match role {
            Fit::Source(source) => source,
            _ => usize::MAX,
        };
        if source == usize::MAX || self.gate.asks(source) || self.waiting.asks_for_time(source) {
            // One that is gone again, or is no file, a scan will find to be so.
            let look = std::fs::symlink_metadata(self.folders.unprocessed.join(name));
            if let Some(found) = look.ok().filter(Metadata::is_file) {
                self.complete(name, role, Look::of(&found));
            }
            return;
        }
        self.waiting.insert(source, name, Seen { round: self.round, modified_ns: 0 });
    }

    /// A file that could not be taken is complete as before. One that is gone, or is no file any more, a
    /// scan will find to be so.
    pub(super) fn complete_again(&mut self, source: usize, name: &OsStr) {
        let look = std::fs::symlink_metadata(self.folders.unprocessed.join(name));
        match look.ok().filter(Metadata::is_file) {
            Some(found) => self.complete(name, Fit::Source(source), Look::of(&found)),
            None => drop(self.refused.remove(name)),
        }
    }

    /// A complete file lies there: it is taken in its turn, or waits for what must lie beside it.
    fn complete(&mut self, name: &OsStr, role: Fit, look: Look) {
        let seen = Seen { round: self.round, modified_ns: look.modified_ns };
        let source = match role {
            Fit::Source(source) if !self.gate.asks(source) => {
                self.waiting.insert(source, name, seen);
                return;
            }
            Fit::Source(source) | Fit::Manifest(source) => source,
            Fit::Marker | Fit::Passed | Fit::None => usize::MAX,
        };
        // Only names that were checked get here.
        let (Some(text), since) = (name.to_str(), look.arrived_at()) else { return };
        if self.gated.insert(name.to_owned(), look) == Some(look) {
            return;
        }
        match role {
            Fit::Source(_) => self.gate.file(text, source, seen, since),
            Fit::Manifest(_) => {
                let listed = self.read_manifest(name, source);
                if let Err(why) = &listed {
                    self.tell(name, why);
                }
                self.gate.manifest(text, source, listed, since);
            }
            _ => self.gate.marker(text, since),
        }
    }

    /// Reads a manifest; all that it lists must be files of its source.
    fn read_manifest(
        &self,
        name: &OsStr,
        source: usize,
    ) -> Result<BTreeMap<String, manifest::Entry>, String> {
        let file = queue::open_plain(&self.folders.unprocessed.join(name));
        let read = file.and_then(|file| manifest::read(&file));
        let entries = read.map_err(|error| error.to_string())??;
        match entries.keys().find(|file| self.patterns.fit(file) != Fit::Source(source)) {
            None => Ok(entries),
            Some(file) => {
                let source = self.patterns.name_of(source);
                Err(format!("it lists {file:?}, which is no file of source {source}"))
            }
        }
    }

    /// Lets pass what waits for nothing any more.
    pub(super) fn pass(&mut self) {
        let passed = self.gate.pass(SystemTime::now());
        for (source, name, seen) in passed.files {
            self.gated.remove(OsStr::new(&name));
            self.waiting.insert(source, OsStr::new(&name), seen);
        }
        for set in passed.sets {
            self.sets.push_back(set);
        }
    }

    /// Takes the next set of the sources that are `open`.
    pub(super) fn next_set(&mut self, open: &[bool]) -> Option<Ready> {
        let at = self.sets.iter().position(|set| is_open(open, set.source))?;
        let set = self.sets.remove(at)?;
        for name in &set.names {
            self.gated.remove(OsStr::new(name));
        }
        Some(set)
    }

    /// Returns whether something waits that the sources which are `open` may take.
    pub(super) fn has_next(&self, open: &[bool]) -> bool {
        self.waiting.has_next(open) || self.sets.iter().any(|set| is_open(open, set.source))
    }

    /// Files of a source were accepted: what lay beside them has done its work.
    pub(super) fn accepted<'n>(&mut self, source: usize, names: impl IntoIterator<Item = &'n str>) {
        for companion in self.gate.taken(source, names) {
            let path = self.folders.unprocessed.join(&companion);
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(
                        pipeline = self.pipeline,
                        "cannot remove {companion:?}, which has done its work: {error}"
                    );
                }
                _ => {}
            }
            self.gate.gone(&companion);
            self.gated.remove(OsStr::new(&companion));
        }
    }

    /// Looks at the folder; files that do not change for `quiet` are complete.
    pub(super) fn scan(&mut self, how: Scan, quiet: Duration) -> io::Result<Found> {
        let folder = self.folders.unprocessed.clone();
        let is_restored = self.folders.restore_unprocessed().map_err(io::Error::other)?;
        if is_restored {
            tracing::warn!(folder = %folder.display(), "somebody removed the folder; made it again");
        }
        // Looked at before it is listed: what changes meanwhile is a change for the next time.
        let look = Look::of(&std::fs::symlink_metadata(&folder)?);
        // A new folder may have the number of the old one.
        let is_other = is_restored
            || self
                .listed
                .is_some_and(|(last, _)| (last.device, last.inode) != (look.device, look.inode));
        self.round += 1;
        let names = if how == Scan::Full || is_other || self.may_have_changed(&look) {
            let names = list(&folder)?;
            let is_settled =
                SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).is_ok_and(|now| {
                    now.as_nanos() as i128 - look.modified_ns > FOLDER_TICK.as_nanos() as i128
                });
            self.listed = Some((look, Instant::now()));
            if !is_settled {
                // Another change in the same tick would not be seen.
                self.listed = Some((Look { modified_ns: 0, ..look }, Instant::now()));
            }
            self.growing.retain(|name, _| names.contains(name));
            self.left.retain(|name, _| names.contains(name));
            self.refused.retain(|name, _| names.contains(name));
            self.forget_gated(|name| !names.contains(name));
            names
        } else {
            let open = |(name, left): (&OsString, &Left)| {
                matches!(left, Left::Look(_)).then(|| name.clone())
            };
            let waiting = self.growing.keys().chain(self.gated.keys()).cloned();
            waiting.chain(self.left.iter().filter_map(open)).collect()
        };
        let mut found = Found { growing: 0, is_other };
        for name in names {
            found.growing += usize::from(self.look_at(&name, quiet));
        }
        Ok(found)
    }

    fn forget_gated(&mut self, is_gone: impl Fn(&OsString) -> bool) {
        let gone: Vec<OsString> = self.gated.keys().filter(|name| is_gone(name)).cloned().collect();
        for name in gone {
            self.gated.remove(&name);
            self.gate.gone(&name.to_string_lossy());
        }
    }

    /// Returns when a file was first seen, and forgets it: it is about to be claimed.
    pub(super) fn forget(&mut self, name: &OsStr) -> SystemTime {
        let growing = self.growing.remove(name).map(|growing| growing.seen_at);
        let refused = self.refused.get(name).map(|refused| refused.seen_at);
        refused.or(growing).unwrap_or_else(SystemTime::now)
    }

    /// Leaves a file where it is, for what it is, and says so once.
    pub(super) fn leave(&mut self, name: &OsStr, why: &str) {
        let metadata = std::fs::symlink_metadata(self.folders.unprocessed.join(name));
        let look = metadata.ok().map(|metadata| Look::of(&metadata));
        self.growing.remove(name);
        let told = self.left.insert(name.to_owned(), Left::Look(look));
        if !told.is_some_and(|told| matches!(told, Left::Look(before) if before == look)) {
            self.tell(name, why);
        }
    }

    fn may_have_changed(&self, look: &Look) -> bool {
        self.listed.is_none_or(|(last, at)| {
            last.modified_ns != look.modified_ns || at.elapsed() >= LIST_EVERY
        })
    }

    /// Returns what a name is for. One that nobody takes is left, and that is said once.
    fn role_of(&mut self, name: &OsStr) -> Option<Fit> {
        if name.as_encoded_bytes().starts_with(b".")
            || matches!(self.left.get(name), Some(Left::Name))
        {
            return None;
        }
        let why = match check_name(name) {
            Err(error) => {
                // A name that cannot be read can still be one of those that are passed over.
                if self.patterns.fit(&name.to_string_lossy()) == Fit::Passed {
                    return None;
                }
                error.to_string()
            }
            Ok(text) => match self.patterns.fit(text) {
                Fit::Passed => return None,
                Fit::None => format!("no source takes it; patterns: {}", self.patterns.all()),
                role => return Some(role),
            },
        };
        self.left.insert(name.to_owned(), Left::Name);
        self.tell(name, &why);
        None
    }

    /// Looks at one name; returns whether it is a file that may still be written.
    fn look_at(&mut self, name: &OsStr, quiet: Duration) -> bool {
        if self.waiting.has(name) {
            return false;
        }
        if let Some(refused) = self.refused.get(name).filter(|refused| refused.is_waiting()) {
            return !refused.parked;
        }
        let Some(role) = self.role_of(name) else { return false };
        // A name that went away meanwhile is no file.
        let path = self.folders.unprocessed.join(name);
        let Ok(metadata) = std::fs::symlink_metadata(path) else {
            self.forget_gated(|gone| gone == name);
            return false;
        };
        let look = Look::of(&metadata);
        match self.gated.get(name) {
            Some(told) if *told == look => return false,
            // It is written to: whatever was known of it.
            Some(_) => self.forget_gated(|changed| changed == name),
            None => {}
        }
        let before = match self.left.get(name) {
            Some(Left::Look(Some(before))) => Some(*before),
            _ => None,
        };
        if before == Some(look) {
            return false;
        }
        if !metadata.is_file() {
            if before.is_some_and(|before| before.inode == look.inode) {
                // A folder in which something happens is told of once.
                self.left.insert(name.to_owned(), Left::Look(Some(look)));
            } else {
                self.leave(name, &format!("it is {}", kind_word(&metadata)));
            }
            return false;
        }
        self.left.remove(name);
        let growing = self.growing.entry(name.to_owned()).or_insert_with(|| Growing {
            look,
            since: Instant::now(),
            seen_at: SystemTime::now(),
        });
        if (growing.look.inode, growing.look.bytes, growing.look.modified_ns)
            != (look.inode, look.bytes, look.modified_ns)
        {
            (growing.look, growing.since) = (look, Instant::now());
        }
        // A file that was last written long ago need not be watched first.
        let old = metadata.modified().ok();
        let old = old.and_then(|at| SystemTime::now().duration_since(at).ok());
        if old.is_some_and(|age| age >= quiet) || growing.since.elapsed() >= quiet {
            self.complete(name, role, look);
            return false;
        }
        true
    }

    fn tell(&self, name: &OsStr, why: &str) {
        let (pipeline, name) = (&self.pipeline, name.to_string_lossy());
        tracing::warn!(pipeline, "left {name:?} in unprocessed/: {why}");
    }
}

fn is_open(open: &[bool], source: usize) -> bool {
    open.get(source).copied().unwrap_or(true)
}

fn list(folder: &std::path::Path) -> io::Result<BTreeSet<OsString>> {
    std::fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name())).collect()
}

fn kind_word(metadata: &Metadata) -> &'static str {
    let kind = metadata.file_type();
    if kind.is_dir() {
        "a directory"
    } else if kind.is_symlink() {
        "a symbolic link"
    } else if kind.is_fifo() {
        "a named pipe"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "not a plain file"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan;
    use std::fs;
    use tidemill_store::Home;

    const YAML: &str = "pipeline: p\nsources:\n  a: { format: text, pattern: \"*.log\" }\nsinks:\n  \
                        o: { from: a, files: { format: raw } }\n";

    fn given() -> (tempfile::TempDir, Inbox) {
        let folder = tempfile::tempdir().unwrap();
        let folders = Home::open(folder.path()).unwrap().pipeline("p").unwrap();
        let patterns = Patterns::new(&plan::plan(YAML).unwrap().sources);
        (folder, Inbox::new("p".into(), folders, patterns))
    }

    fn names(inbox: &mut Inbox) -> Vec<String> {
        std::iter::from_fn(|| inbox.waiting.pop(&[]))
            .map(|(_, name)| name.into_string().unwrap())
            .collect()
    }

    /// Makes the folder look as if nothing had happened in it for a long time.
    fn age(inbox: &Inbox) {
        let folder = fs::File::open(&inbox.folders.unprocessed).unwrap();
        folder.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000)).unwrap();
    }

    #[test]
    fn a_file_waits_until_it_has_not_changed_for_a_while_or_the_system_says_so() {
        let (_folder, mut inbox) = given();
        let long = Duration::from_secs(3600);
        fs::write(inbox.folders.unprocessed.join("a.log"), "a").unwrap();
        assert_eq!(inbox.scan(Scan::Changes, long).unwrap().growing, 1);
        assert_eq!(names(&mut inbox), [] as [&str; 0]);
        inbox.hint(OsStr::new("a.log"));
        inbox.hint(OsStr::new(".a.log"));
        inbox.hint(OsStr::new("a.log.tmp"));
        assert_eq!(names(&mut inbox), ["a.log"]);
        assert_eq!(inbox.scan(Scan::Changes, Duration::ZERO).unwrap().growing, 0);
        assert_eq!(names(&mut inbox), ["a.log"]);
    }

    #[test]
    fn a_folder_that_has_not_changed_is_not_listed_but_its_growing_files_are_looked_at() {
        let (_folder, mut inbox) = given();
        let path = |inbox: &Inbox, name: &str| inbox.folders.unprocessed.join(name);
        fs::write(path(&inbox, "a.log"), "a").unwrap();
        age(&inbox);
        let long = Duration::from_secs(3600);
        assert_eq!(inbox.scan(Scan::Changes, long).unwrap().growing, 1);
        fs::write(path(&inbox, "b.log"), "b").unwrap();
        age(&inbox);
        // Nobody can know of it: the folder looks as before.
        assert_eq!(inbox.scan(Scan::Changes, Duration::ZERO).unwrap().growing, 0);
        assert_eq!(names(&mut inbox), ["a.log"]);
        assert_eq!(inbox.scan(Scan::Full, Duration::ZERO).unwrap().growing, 0);
        assert_eq!(names(&mut inbox), ["a.log", "b.log"]);
        // A change in the tick of the listing is not missed: the time is not believed.
        fs::write(path(&inbox, "c.log"), "c").unwrap();
        inbox.scan(Scan::Changes, Duration::ZERO).unwrap();
        fs::write(path(&inbox, "d.log"), "d").unwrap();
        inbox.scan(Scan::Changes, Duration::ZERO).unwrap();
        assert!(names(&mut inbox).contains(&"d.log".to_owned()));
    }

    #[test]
    fn what_is_left_is_looked_at_again_when_it_changes() {
        let (_folder, mut inbox) = given();
        let path = inbox.folders.unprocessed.join("a.log");
        fs::create_dir(&path).unwrap();
        age(&inbox);
        for _ in 0..2 {
            inbox.scan(Scan::Changes, Duration::ZERO).unwrap();
            assert_eq!(names(&mut inbox), [] as [&str; 0]);
        }
        fs::remove_dir(&path).unwrap();
        fs::write(&path, "a").unwrap();
        age(&inbox);
        inbox.scan(Scan::Changes, Duration::ZERO).unwrap();
        assert_eq!(names(&mut inbox), ["a.log"]);

        // A second name keeps a file where it is; without it, it is taken.
        inbox.leave(OsStr::new("a.log"), "it has 2 names");
        inbox.scan(Scan::Full, Duration::ZERO).unwrap();
        assert_eq!(names(&mut inbox), [] as [&str; 0]);
        fs::hard_link(&path, inbox.folders.root.join("other")).unwrap();
        inbox.scan(Scan::Changes, Duration::ZERO).unwrap();
        assert_eq!(names(&mut inbox), ["a.log"]);
    }

    #[test]
    fn a_folder_that_was_removed_or_replaced_is_another_one() {
        let (_folder, mut inbox) = given();
        let folder = inbox.folders.unprocessed.clone();
        assert!(!inbox.scan(Scan::Changes, Duration::ZERO).unwrap().is_other);
        assert!(!inbox.scan(Scan::Changes, Duration::ZERO).unwrap().is_other);
        fs::rename(&folder, inbox.folders.root.join("away")).unwrap();
        assert!(inbox.scan(Scan::Changes, Duration::ZERO).unwrap().is_other);
        assert!(folder.is_dir());
        fs::rename(&folder, inbox.folders.root.join("away too")).unwrap();
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("a.log"), "a").unwrap();
        assert!(inbox.scan(Scan::Changes, Duration::ZERO).unwrap().is_other);
        assert_eq!(names(&mut inbox), ["a.log"]);
    }
}
