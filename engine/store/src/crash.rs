//! Crash: what a process of ours that failed by itself leaves behind, so that the next start knows.
//!
//! A process that panics, and a supervisor that sees a child die of a fault, write
//! `HOME/crash-<generation>-<who>.json`. Nothing is written by a process that is killed from
//! outside, by the system for lack of memory, or by a power cut: those are nobody's fault. The next
//! start reads the markers, draws its conclusions in the journal, and removes them.

use std::cell::RefCell;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::disk::DiskError;

const PREFIX: &str = "crash-";
const ENDING: &str = ".json";

/// The longest marker that is read, in bytes, and the most markers.
const MARKER_BYTES_MAX: u64 = 64 * 1024;
const MARKERS_MAX: usize = 1024;

/// How much of the text of a failure is kept, in bytes.
const WHAT_BYTES_MAX: usize = 4096;

/// How long a panic waits for another one that writes its marker, and how often.
const RECORD_WAIT: Duration = Duration::from_millis(10);
const RECORD_WAITS_MAX: u32 = 100;

/// One process that failed by itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Crash {
    /// The generation it belonged to; absent when whoever noticed it cannot know.
    #[serde(default)]
    pub generation: Option<u64>,
    /// Its index in the run.
    pub process: usize,
    /// The thread that failed, if that is known.
    #[serde(default)]
    pub thread: Option<String>,
    /// What happened: the text of a panic and its place, or the name of a signal.
    pub what: String,
    /// The submission that this thread read from last, if it read any: a hint, no proof.
    #[serde(default)]
    pub submission: Option<u64>,
    /// The file that ended it on purpose, if one did.
    #[serde(default)]
    pub blamed: Option<Blamed>,
}

/// A file that a worker could not finish: its rows are in the state already, so it ended the process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blamed {
    /// Its pipeline.
    pub pipeline: String,
    /// Its epoch.
    pub epoch: u64,
    /// What it did.
    pub why: String,
}

impl Crash {
    /// Returns whether the data that ran through it may be the cause: a worker failed, or it is not
    /// known who did. A failure of a thread around the dataflow is no file's fault.
    pub fn may_be_of_data(&self) -> bool {
        self.thread.as_deref().is_none_or(|thread| thread.starts_with("timely:work"))
    }
}

/// A marker that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Marker {
    /// Where it lies.
    pub path: PathBuf,
    /// What it says.
    pub crash: Crash,
}

/// Where this process would leave a marker: home, generation, index.
static ARMED: Mutex<Option<(PathBuf, Option<u64>, usize)>> = Mutex::new(None);

thread_local! {
    static READING: AtomicU64 = const { AtomicU64::new(0) };
    static BLAMED: RefCell<Option<Blamed>> = const { RefCell::new(None) };
}

/// Says where [`record_panic`] is to write. Called once the generation is known.
pub fn arm(home: &Path, generation: u64, process: usize) {
    *ARMED.lock().unwrap_or_else(PoisonError::into_inner) =
        Some((home.to_path_buf(), Some(generation), process));
}

/// Says, in a supervisor, where [`record_child`] is to write.
pub fn watch_children(home: &Path) {
    *ARMED.lock().unwrap_or_else(PoisonError::into_inner) = Some((home.to_path_buf(), None, 0));
}

/// Writes the marker of a child that died of a fault of its own. Such a child could not: the system
/// ended it in the middle of an instruction. Never for one that was killed.
pub fn record_child(pid: u32, what: &str) {
    let armed = ARMED.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let Some((home, generation, _)) = armed else { return };
    let (process, what) = (pid as usize, what.to_owned());
    let crash = Crash { generation, process, what, ..Crash::default() };
    if let Err(error) = record(&home, &crash) {
        // Without the marker the crash is one that nobody can be blamed for.
        tracing::warn!("a crash cannot be noted: {error}");
    }
}

/// Notes which submission this thread reads from.
pub fn reading(submission: u64) {
    READING.with(|reading| reading.store(submission, Ordering::Relaxed));
}

/// Says, right before this thread panics, which file makes it do so: the next start sets it aside.
pub fn blame(blamed: Blamed) {
    BLAMED.with_borrow_mut(|place| *place = Some(blamed));
}

/// Writes the marker of a panic of this thread, as well as it can: called while the process ends. Returns
/// the file that is to blame, if that was said.
pub fn record_panic(thread: &str, what: &str) -> Option<Blamed> {
    let blamed = BLAMED.try_with(RefCell::take).unwrap_or_default();
    // Another thread that panics at the same time must finish its marker before this one ends the
    // process; one that hangs must not hang this one.
    let mut armed = ARMED.try_lock();
    let mut waits = 0;
    while armed.is_err() && waits < RECORD_WAITS_MAX {
        waits += 1;
        std::thread::sleep(RECORD_WAIT);
        armed = ARMED.try_lock();
    }
    let Ok(armed) = armed else { return blamed };
    let Some((home, generation, process)) = armed.as_ref() else { return blamed };
    let submission = READING.try_with(|reading| reading.load(Ordering::Relaxed)).unwrap_or(0);
    let crash = Crash {
        generation: *generation,
        process: *process,
        thread: Some(thread.to_owned()),
        what: what.to_owned(),
        submission: Some(submission).filter(|id| *id > 0),
        blamed: blamed.clone(),
    };
    // Without the marker the crash is one that nobody can be blamed for.
    let _ = record(home, &crash);
    blamed
}

/// Writes a marker: for a supervisor whose child died of one of its own faults (SIGSEGV, SIGABRT,
/// SIGBUS, SIGILL, SIGFPE), never for one that was killed.
///
/// One process of one generation has one marker: the first. Of a generation that is not known the
/// number of the failed process (its pid) tells markers apart.
pub fn record(home: &Path, crash: &Crash) -> io::Result<()> {
    let generation =
        crash.generation.map_or_else(|| "unknown".to_owned(), |generation| generation.to_string());
    let path = home.join(format!("{PREFIX}{generation}-{}{ENDING}", crash.process));
    let mut crash = crash.clone();
    for text in [&mut crash.what].into_iter().chain(crash.blamed.as_mut().map(|one| &mut one.why)) {
        let mut length = text.len().min(WHAT_BYTES_MAX);
        while !text.is_char_boundary(length) {
            length -= 1;
        }
        text.truncate(length);
    }
    let mut text = serde_json::to_vec_pretty(&crash).map_err(io::Error::from)?;
    text.push(b'\n');
    // Not synced: who loses it in a power cut had one.
    let mut file = match std::fs::OpenOptions::new().write(true).create_new(true).open(&path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        opened => opened.map_err(|error| DiskError::new("create", &path, error))?,
    };
    io::Write::write_all(&mut file, &text)
        .map_err(|error| DiskError::new("write", &path, error).into())
}

/// Returns the markers in a home, by name. One that cannot be read says nothing but that it is one.
pub fn found(home: &Path) -> io::Result<Vec<Marker>> {
    let failed = |error| DiskError::new("list", home, error);
    let mut markers = Vec::new();
    for entry in std::fs::read_dir(home).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        let Some(middle) = name
            .to_str()
            .and_then(|name| name.strip_prefix(PREFIX))
            .and_then(|name| name.strip_suffix(ENDING))
        else {
            continue;
        };
        if !entry.file_type().map_err(failed)?.is_file() || markers.len() >= MARKERS_MAX {
            continue;
        }
        let crash = read(&entry.path()).unwrap_or_else(|| Crash {
            generation: middle.split('-').next().and_then(|number| number.parse().ok()),
            what: "its marker cannot be read".to_owned(),
            ..Crash::default()
        });
        markers.push(Marker { path: entry.path(), crash });
    }
    markers.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(markers)
}

fn read(path: &Path) -> Option<Crash> {
    let file = crate::queue::open_plain(path).ok()?;
    let mut text = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(file, MARKER_BYTES_MAX), &mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

/// Removes markers whose conclusions are in the journal.
pub fn forget(markers: &[Marker]) -> io::Result<()> {
    for Marker { path, .. } in markers {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(DiskError::new("remove", path, error).into());
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_is_found_and_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path();
        let crash = Crash {
            generation: Some(7),
            process: 1,
            thread: Some("timely:work-0".into()),
            what: "ü".repeat(3000),
            submission: Some(3),
            blamed: Some(Blamed { pipeline: "p".into(), epoch: 4, why: "ü".repeat(3000) }),
        };
        record(home, &crash).unwrap();
        record(home, &Crash { what: "another".into(), ..crash.clone() }).unwrap();
        record(home, &Crash { generation: None, process: 99, ..Crash::default() }).unwrap();
        std::fs::write(home.join("crash-8-0.json"), "{").unwrap();
        std::fs::create_dir(home.join("crash-9-0.json")).unwrap();
        let markers = found(home).unwrap();
        let told: Vec<_> =
            markers.iter().map(|one| (one.crash.generation, one.crash.process)).collect();
        assert_eq!(told, [(Some(7), 1), (Some(8), 0), (None, 99)]);
        assert_eq!(markers[0].crash.submission, Some(3));
        assert_eq!(markers[0].crash.what, "ü".repeat(2048));
        let why = "ü".repeat(2048);
        let blamed = Blamed { pipeline: "p".into(), epoch: 4, why };
        assert_eq!(markers[0].crash.blamed, Some(blamed));
        forget(&markers).unwrap();
        forget(&markers).unwrap();
        assert_eq!(found(home).unwrap(), []);
    }

    #[test]
    fn only_workers_and_the_unknown_may_have_failed_by_their_data() {
        let check = |thread: Option<&str>, expected: bool| {
            let crash = Crash { thread: thread.map(str::to_owned), ..Crash::default() };
            assert_eq!(crash.may_be_of_data(), expected, "{thread:?}");
        };
        check(Some("timely:work-3"), true);
        check(None, true);
        check(Some("tidemill:publish"), false);
        check(Some("main"), false);
    }

    #[test]
    fn what_is_not_armed_records_nothing() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(record_panic("main", "before the home was open"), None);
        assert_eq!(found(folder.path()).unwrap(), []);
    }
}
