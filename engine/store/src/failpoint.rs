//! Failpoint: named places between two steps of the protocol where a test can end, fail or hold the
//! process.
//!
//! Owns the list of their names, [`NAMES`], and what happens at each. Never does anything unless
//! the daemon has armed it: then [`reach`] is one relaxed load of a flag and a branch that is not
//! taken, beside steps that cost a system call each.
//!
//! `TIDEMILL_FAILPOINT=claim-renamed=kill` kills the process at the first claim as `kill -9` does:
//! nothing is unwound, flushed or told. In general a list, parts separated by `;`, of
//!
//! ```text
//! [process=I:]NAME[@N]=ACTION
//! ```
//!
//! `process=I:` arms it in one process of a run only; `@N` waits for the N-th time it is reached in
//! the life of that process (the first, if it is left out). The name `any` is each of them: `any@7`
//! is the seventh failpoint that is reached, whichever that is. The actions:
//!
//! | action  | what happens                                                              |
//! |---------|---------------------------------------------------------------------------|
//! | `kill`  | SIGKILL to itself                                                         |
//! | `panic` | a panic, which ends the process (70)                                      |
//! | `error` | the step fails as if the disk had refused                                 |
//! | `pause` | the thread stops here for ever; whoever armed it kills the process        |
//!
//! A panic, an error or a pause happens once; what is behind it is reached as always. With `-n` they are
//! armed in the first generation only: what heals the run is not hit again.
//!
//! `TIDEMILL_FAILPOINT_TRACE=FILE` writes down each failpoint that is reached, in `FILE.<process>`:
//! so one can see where a process was that was killed from outside ([`read_trace`]).

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// The variable of the environment that arms failpoints. The daemon reads it, nobody else.
pub const VARIABLE: &str = "TIDEMILL_FAILPOINT";

/// The variable of the environment that asks for a trace. The daemon reads it, nobody else.
pub const TRACE_VARIABLE: &str = "TIDEMILL_FAILPOINT_TRACE";

/// Stands for every failpoint.
pub const ANY: &str = "any";

/// Every failpoint, in the order of the protocol. Each is reached from one place in the code.
///
/// A name says what has just happened, `...-begin` what is about to.
pub const NAMES: &[&str] = &[
    // a life begins
    "home-locked",
    "journal-opened",
    "generation-written",
    "generation-durable",
    // recovery
    "recover-begin",
    "recover-file-settled",
    "recover-files-synced",
    "recover-files-settled",
    "recover-input-looked-for",
    "recover-input-moved-again",
    "recover-orphan-put-back",
    "recover-upload-kept",
    "recover-stage-removed",
    "recover-folders-synced",
    "recover-spool-removed",
    "recover-processes-met",
    "recover-files-resumed",
    "recover-rows-applied",
    // a dropped file
    "claim-opened",
    "claim-renamed",
    "claim-files-synced",
    "claim-folders-synced",
    // an upload
    "upload-created",
    "upload-written",
    "upload-synced",
    "upload-copied",
    "upload-claimed",
    "upload-claim-synced",
    "upload-accepted",
    // a file of quarantine/ that is tried again
    "retry-accepted",
    "retry-moved",
    // a file that is taken away
    "removal-begin",
    "removal-written",
    "removal-durable",
    // accepted
    "accept-begin",
    "accept-written",
    "accept-durable",
    "order-given",
    "dry-run-there",
    "dry-run-back",
    // run
    "part-created",
    "part-written",
    "part-files-synced",
    "part-folders-synced",
    "part-prepared",
    // committed
    "set-refused",
    "commit-begin",
    "commit-written",
    "commit-durable",
    // visible
    "publish-begin",
    "publish-sink-created",
    "publish-inline-written",
    "publish-inline-moved",
    "publish-staged-moved",
    "publish-output-replaced",
    "publish-output-removed",
    "publish-part-done",
    "input-move-begin",
    "input-moved",
    "retain-linked",
    "retire-begin",
    "retire-moved",
    "retained-discarded",
    "reason-begin",
    "reason-written",
    "reason-placed",
    "quarantine-moved",
    // tables
    "snapshot-begin",
    "snapshot-written",
    "snapshot-synced",
    "snapshot-replaced",
    "snapshot-placed",
    "snapshot-told",
    // a checkpoint
    "checkpoint-pack-written",
    "checkpoint-pack-placed",
    "checkpoint-manifest-placed",
    "checkpoint-row-written",
    "checkpoint-durable",
    "checkpoint-old-removed",
    // a changed pipeline takes over
    "deploy-held",
    "deploy-drained",
    "deploy-written",
    "deploy-durable",
    "deploy-told",
    "deploy-ended",
    // settled
    "settle-begin",
    "settle-synced",
    "settle-written",
    "settle-done",
    // a life ends
    "end-begin",
    "end-published",
    "end-done",
];

/// The most failpoints that can be armed at once.
const ARMED_MAX: usize = 64;

static ON: AtomicBool = AtomicBool::new(false);
static ARMED: OnceLock<Vec<Armed>> = OnceLock::new();
static TRACE: OnceLock<File> = OnceLock::new();

/// Passes a failpoint. An error is the one that was asked for at this place.
#[inline]
pub fn reach(name: &'static str) -> io::Result<()> {
    if ON.load(Ordering::Relaxed) { fire(name) } else { Ok(()) }
}

/// Arms failpoints for the rest of this process's life; once, before anything runs.
///
/// `process` is the index of this process in its run: what is for others is only checked.
pub fn arm(text: &str, process: usize) -> Result<(), FailpointError> {
    let mine: Vec<Armed> = parse(text)?
        .into_iter()
        .filter(|(of, _)| of.is_none_or(|of| of == process))
        .map(|(_, armed)| armed)
        .collect();
    if !mine.is_empty() {
        ARMED.set(mine).map_err(|_| FailpointError::Twice)?;
        ON.store(true, Ordering::Relaxed);
    }
    Ok(())
}

/// Writes down what is reached from now on, a byte for each, in the trace of this process.
///
/// It survives the end of the process, not a loss of power. A life adds to what is there.
pub fn trace(path: &Path, process: usize) -> io::Result<()> {
    let file = OpenOptions::new().append(true).create(true).open(trace_path(path, process))?;
    TRACE.set(file).map_err(|_| io::Error::other(FailpointError::Twice))?;
    ON.store(true, Ordering::Relaxed);
    Ok(())
}

/// Returns what a process has reached, in order; nothing if it has no trace.
pub fn read_trace(path: &Path, process: usize) -> io::Result<Vec<&'static str>> {
    let bytes = match std::fs::read(trace_path(path, process)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        read => read?,
    };
    let name = |byte: &u8| NAMES.get(usize::from(*byte)).copied();
    let names: Option<Vec<&'static str>> = bytes.iter().map(name).collect();
    names.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not a trace of failpoints"))
}

fn trace_path(path: &Path, process: usize) -> PathBuf {
    let mut name: OsString = path.as_os_str().to_owned();
    name.push(format!(".{process}"));
    name.into()
}

/// Checks what would be armed, and arms nothing.
pub fn check(text: &str) -> Result<(), FailpointError> {
    parse(text).map(|_| ())
}

/// Why failpoints cannot be armed. The text says what would be right.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum FailpointError {
    /// It is not written as it must be.
    #[error(
        "{VARIABLE}: {part:?} is not [process=I:]NAME[@N]=ACTION, with ACTION one of kill, panic, \
         error, pause"
    )]
    Form {
        /// Which part of it.
        part: String,
    },
    /// No failpoint has this name.
    #[error("{VARIABLE}: there is no failpoint {name:?}; there are {}", NAMES.join(", "))]
    Unknown {
        /// The name.
        name: String,
    },
    /// It is more than anybody needs.
    #[error("{VARIABLE}: {count} failpoints at once; at most {ARMED_MAX} are possible")]
    Many {
        /// How many were asked for.
        count: usize,
    },
    /// Failpoints were armed before.
    #[error("failpoints are armed once in the life of a process")]
    Twice,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Kill,
    Panic,
    Error,
    Pause,
}

#[derive(Debug)]
struct Armed {
    name: &'static str,
    /// The how-many-th time counts, from 1.
    turn: u64,
    action: Action,
    reached: AtomicU64,
}

impl Armed {
    /// Counts one arrival; returns whether its turn has come.
    fn is_due(&self) -> bool {
        self.reached.fetch_add(1, Ordering::Relaxed) + 1 == self.turn
    }
}

fn parse(text: &str) -> Result<Vec<(Option<usize>, Armed)>, FailpointError> {
    let parts: Vec<&str> = text.split(';').map(str::trim).filter(|part| !part.is_empty()).collect();
    if parts.len() > ARMED_MAX {
        return Err(FailpointError::Many { count: parts.len() });
    }
    parts.into_iter().map(parse_one).collect()
}

fn parse_one(part: &str) -> Result<(Option<usize>, Armed), FailpointError> {
    let form = || FailpointError::Form { part: part.to_owned() };
    let (process, rest) = match part.strip_prefix("process=") {
        Some(rest) => {
            let (index, rest) = rest.split_once(':').ok_or_else(form)?;
            (Some(index.parse().map_err(|_| form())?), rest)
        }
        None => (None, part),
    };
    let (place, action) = rest.split_once('=').ok_or_else(form)?;
    let (name, turn) = match place.split_once('@') {
        Some((name, turn)) => (name, turn.parse().map_err(|_| form())?),
        None => (place, 1),
    };
    let action = match action {
        "kill" => Action::Kill,
        "panic" => Action::Panic,
        "error" => Action::Error,
        "pause" => Action::Pause,
        _ => return Err(form()),
    };
    if turn == 0 {
        return Err(form());
    }
    let known = NAMES.iter().chain([&ANY]).find(|known| **known == name);
    let name = *known.ok_or_else(|| FailpointError::Unknown { name: place.to_owned() })?;
    Ok((process, Armed { name, turn, action, reached: AtomicU64::new(0) }))
}

#[cold]
fn fire(name: &'static str) -> io::Result<()> {
    if let Some(mut trace) = TRACE.get() {
        let at = NAMES.iter().position(|known| *known == name);
        let at = at.and_then(|at| u8::try_from(at).ok());
        // The tests hold every call against the list.
        trace.write_all(at.as_slice())?;
    }
    let armed = ARMED.get().map(Vec::as_slice).unwrap_or_default();
    for one in armed.iter().filter(|one| one.name == name || one.name == ANY) {
        if one.is_due() {
            act(name, one.action)?;
        }
    }
    Ok(())
}

fn act(name: &'static str, action: Action) -> io::Result<()> {
    tracing::warn!("failpoint {name}: {action:?}");
    match action {
        Action::Error => Err(io::Error::other(format!("failpoint {name}"))),
        // Ends the process by its hook; a mistake in the step itself would look the same.
        Action::Panic => panic!("failpoint {name}"),
        Action::Kill => {
            let itself = rustix::process::getpid();
            rustix::process::kill_process(itself, rustix::process::Signal::KILL)?;
            hold()
        }
        Action::Pause => hold(),
    }
}

fn hold() -> ! {
    loop {
        std::thread::park();
    }
}

#[cfg(test)]
mod tests;
