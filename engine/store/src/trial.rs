//! Trial: faults that a test switches on in the real binary, to see what it does then.
//!
//! Compiled in and off: each place costs one relaxed load. Switched on once, at the start, by the
//! text of [`arm`]. Owns that text; decides nothing and writes nothing.

use std::io;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

/// What stands in the environment of a run that is tried.
pub const VARIABLE: &str = "TIDEMILL_TRIAL";

/// The entry that lets files of all sources be replaced and removed.
pub const CORRECTIONS: &str = "corrections";

/// Writes shorter than this write nothing while the disk is said to be full; longer ones half.
const HALVED_BYTES_MIN: usize = 4096;

/// How often a thread that is held looks whether it may go on.
const LOOK: Duration = Duration::from_millis(10);

static ARMED: AtomicBool = AtomicBool::new(false);
static TRIAL: OnceLock<Trial> = OnceLock::new();

#[derive(Debug, Default, PartialEq, Eq)]
struct Trial {
    full: Option<PathBuf>,
    hold: Option<PathBuf>,
    panic: Option<String>,
    abort: Option<String>,
    /// How much later than it is, in seconds.
    later: u64,
    corrects: bool,
}

/// Why a trial cannot be switched on.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{VARIABLE}: {entry:?} is not one of full=PATH, hold-sync=PATH, panic=NAME, abort=NAME, \
     later=SECONDS, corrections, separated by `;`"
)]
pub struct TrialError {
    /// What cannot be read.
    pub entry: String,
}

/// Switches on what the text says: `full=PATH` (while that file exists, staged and published files
/// cannot be written for lack of space), `hold-sync=PATH` (while that file exists, nothing is made
/// durable), `panic=NAME` and `abort=NAME` (whoever reads an input of that name fails so),
/// `later=SECONDS` (whoever forgets what is too old takes it to be so much later), `corrections` (every
/// source takes what is dropped under a known name for a new version, and deletes what is deleted).
pub fn arm(text: &str) -> Result<(), TrialError> {
    let trial = parse(text)?;
    if TRIAL.set(trial).is_ok() {
        ARMED.store(true, Ordering::Release);
    }
    Ok(())
}

fn parse(text: &str) -> Result<Trial, TrialError> {
    let mut trial = Trial::default();
    for entry in text.split(';').filter(|entry| !entry.is_empty()) {
        match entry.split_once('=') {
            Some(("full", path)) => trial.full = Some(path.into()),
            Some(("hold-sync", path)) => trial.hold = Some(path.into()),
            Some(("panic", name)) => trial.panic = Some(name.to_owned()),
            Some(("abort", name)) => trial.abort = Some(name.to_owned()),
            Some(("later", seconds)) if seconds.parse::<u32>().is_ok() => {
                trial.later = seconds.parse().unwrap_or_default();
            }
            None if entry == CORRECTIONS => trial.corrects = true,
            _ => return Err(TrialError { entry: entry.to_owned() }),
        }
    }
    Ok(trial)
}

fn on() -> Option<&'static Trial> {
    if ARMED.load(Ordering::Relaxed) { TRIAL.get() } else { None }
}

/// Returns how many of so many bytes a write may take.
pub(crate) fn write_max(bytes: usize) -> usize {
    let full = on().and_then(|trial| trial.full.as_deref());
    match full {
        Some(path) if path.exists() => {
            if bytes < HALVED_BYTES_MIN {
                0
            } else {
                bytes / 2
            }
        }
        _ => bytes,
    }
}

/// Fails while the disk is said to be full.
pub(crate) fn room() -> io::Result<()> {
    if write_max(1) == 0 { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
}

/// Waits while nothing may be made durable.
pub fn sync() {
    while on().and_then(|trial| trial.hold.as_deref()).is_some_and(std::path::Path::exists) {
        std::thread::sleep(LOOK);
    }
}

/// Returns the time, for whoever forgets what is too old.
pub fn now() -> SystemTime {
    SystemTime::now() + Duration::from_secs(on().map_or(0, |trial| trial.later))
}

/// Returns whether files of all sources may be replaced and removed by whoever drops and deletes them.
pub fn corrects() -> bool {
    on().is_some_and(|trial| trial.corrects)
}

/// Fails if an input of this name is to kill its reader.
pub fn read(name: &str) {
    let Some(trial) = on() else { return };
    if trial.panic.as_deref() == Some(name) {
        panic!("a trial: reading {name} fails");
    }
    if trial.abort.as_deref() == Some(name) {
        std::process::abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trial_is_read_or_refused() {
        let trial = parse("full=/a;panic=b.csv").unwrap();
        assert_eq!(trial.full, Some("/a".into()));
        assert_eq!(trial.panic.as_deref(), Some("b.csv"));
        assert_eq!(parse(""), Ok(Trial::default()));
        assert_eq!(parse("later=86400").unwrap().later, 86_400);
        assert_eq!(parse("later=-1").unwrap_err().entry, "later=-1");
        assert!(parse("panic=a;corrections").unwrap().corrects);
        assert_eq!(parse("full").unwrap_err().entry, "full");
        assert_eq!(parse("fill=/a").unwrap_err().entry, "fill=/a");
    }
}
