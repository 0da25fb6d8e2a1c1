//! Exit: the code with which a process ends that did not start, so that a program can tell a disk
//! that refuses (74) from a store that is damaged (65) and from what a person must put right (1),
//! and whether it is worth another try.
//!
//! Decides only that; what happened and where is the error's own text.

use tidemill_store::{HomeError, PublishError, RecoverError};

use super::StartError;
use crate::fault::{self, FaultKind};

impl StartError {
    /// Returns the exit code of a process that did not start.
    pub fn exit_code(&self) -> i32 {
        let kind = match self {
            StartError::Home(error) => of_home(error),
            StartError::Journal(error) => Some(fault::kind_of_journal(error)),
            StartError::Recover(error) => of_recovery(error),
            StartError::Checkpoint { .. } => Some(FaultKind::Damaged),
            StartError::Io(_) | StartError::Disk(_) => Some(FaultKind::Disk),
            _ => None,
        };
        // Everything else is for a person to put right: a lock, a name, a pipeline file.
        kind.map_or(1, FaultKind::exit_code)
    }

    /// Returns whether the next start would meet the same: somebody must do something first.
    pub fn is_lasting(&self) -> bool {
        match self {
            StartError::Mesh(error) => error.is_lasting(),
            StartError::Dataflow(_) => false,
            _ => self.exit_code() != FaultKind::Disk.exit_code(),
        }
    }
}

fn of_home(error: &HomeError) -> Option<FaultKind> {
    matches!(error, HomeError::Disk(_)).then_some(FaultKind::Disk)
}

fn of_recovery(error: &RecoverError) -> Option<FaultKind> {
    match error {
        RecoverError::Home { source, .. } => of_home(source),
        RecoverError::Journal(error) => Some(fault::kind_of_journal(error)),
        RecoverError::Publish { source, .. } => match source {
            PublishError::Disk(_) => Some(FaultKind::Disk),
            PublishError::Occupied { .. } => None,
            _ => Some(FaultKind::Invariant),
        },
        RecoverError::Move { .. } | RecoverError::Disk(_) => Some(FaultKind::Disk),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;
    use std::path::PathBuf;

    #[track_caller]
    fn check(error: StartError, code: i32) {
        assert_eq!(error.exit_code(), code, "{error}");
    }

    #[test]
    fn a_disk_that_refuses_is_told_by_the_code_wherever_it_does() {
        let eio = || io::Error::other("the disk refuses");
        check(StartError::Io(eio()), 74);
        check(RecoverError::Disk(eio()).into(), 74);
        let (id, name) = (1, "a".to_owned());
        check(RecoverError::Move { id, name, source: eio() }.into(), 74);
    }

    #[test]
    fn what_a_person_must_put_right_is_an_error_and_a_lost_part_is_ours() {
        let (root, path) = (PathBuf::from("home"), PathBuf::from("out/a"));
        check(HomeError::Missing { root }.into(), 1);
        let of = |source| RecoverError::Publish { id: 1, name: "a".into(), source };
        check(of(PublishError::Occupied { path: path.clone() }).into(), 1);
        check(of(PublishError::Lost { path: path.clone(), staged: path }).into(), 70);
    }
}
