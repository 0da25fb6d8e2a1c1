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
//! the life of that process (the first, if it is left out). The actions:
//!
//! | action  | what happens                                                              |
//! |---------|---------------------------------------------------------------------------|
//! | `kill`  | SIGKILL to itself                                                         |
//! | `panic` | a panic, which ends the process (70)                                      |
//! | `error` | the step fails as if the disk had refused                                 |
//! | `pause` | the thread stops here for ever; whoever armed it kills the process        |
//!
//! A panic, an error or a pause happens once; what is behind it is reached as always.

use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// The variable of the environment that arms failpoints. The daemon reads it, nobody else.
pub const VARIABLE: &str = "TIDEMILL_FAILPOINT";

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
    "upload-claimed",
    "upload-claim-synced",
    "upload-accepted",
    // accepted
    "accept-begin",
    "accept-written",
    "accept-durable",
    "order-given",
    // run
    "part-created",
    "part-written",
    "part-files-synced",
    "part-folders-synced",
    "part-prepared",
    // committed
    "commit-begin",
    "commit-written",
    "commit-durable",
    // visible
    "publish-begin",
    "publish-sink-created",
    "publish-inline-written",
    "publish-inline-moved",
    "publish-staged-moved",
    "publish-part-done",
    "input-move-begin",
    "input-moved",
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
    let name = NAMES.iter().find(|known| **known == name);
    let name = *name.ok_or_else(|| FailpointError::Unknown { name: place.to_owned() })?;
    Ok((process, Armed { name, turn, action, reached: AtomicU64::new(0) }))
}

#[cold]
fn fire(name: &'static str) -> io::Result<()> {
    // Armed and read under the same flag; the lock of the cell orders them.
    let armed = ARMED.get().map(Vec::as_slice).unwrap_or_default();
    for one in armed.iter().filter(|one| one.name == name) {
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
