//! Fault: why the process must end. Recovery at the next start is the one way back.

use std::io;

use tidemill_store::JournalError;

/// What went wrong, as far as the exit code tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// The disk refuses.
    Disk,
    /// What is stored is damaged.
    Damaged,
    /// Something is not as it must be: a mistake of ours.
    Invariant,
    /// Another process of the run is gone.
    Peer,
}

impl FaultKind {
    /// Returns the exit code of the process.
    pub const fn exit_code(self) -> i32 {
        match self {
            FaultKind::Peer => 1,
            FaultKind::Damaged => 65,
            FaultKind::Invariant => 70,
            FaultKind::Disk => 74,
        }
    }
}

/// Ends the process: says why and exits with the code of the kind. It does not return.
pub fn end(kind: FaultKind, doing: &str, error: &dyn std::error::Error) -> ! {
    let mut text = format!("{doing}: {error}");
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(&format!(": {inner}"));
        cause = inner.source();
    }
    tracing::error!("{text}; ending, nothing is lost: start again to go on");
    std::process::exit(kind.exit_code());
}

/// Ends the process because another process of the run is lost, or this one was given up.
pub fn peer(why: &str) -> ! {
    tracing::error!(
        "this generation is over: {why}; ending, nothing is lost: the next start of all processes \
         goes on"
    );
    std::process::exit(FaultKind::Peer.exit_code());
}

/// Ends the process because the disk refuses.
pub fn disk(doing: &str, error: &io::Error) -> ! {
    end(FaultKind::Disk, doing, error)
}

/// Ends the process because the journal refuses.
pub fn journal(doing: &str, error: &JournalError) -> ! {
    end(kind_of_journal(error), doing, error)
}

/// Returns what an error of the journal is.
pub fn kind_of_journal(error: &JournalError) -> FaultKind {
    match error {
        JournalError::Damaged { .. }
        | JournalError::Newer { .. }
        | JournalError::Unreleased { .. } => FaultKind::Damaged,
        JournalError::Invariant { .. } => FaultKind::Invariant,
        JournalError::Disk { .. } => FaultKind::Disk,
    }
}
