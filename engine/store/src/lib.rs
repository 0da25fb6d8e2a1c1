//! Durable facts: the folders, the journal, staged parts and their publication.
//!
//! This crate knows bytes, folders, SQLite and fsync; it knows nothing of records, dataflows, the
//! network or async. Everything in it blocks, and says what survives a crash of the process and
//! what survives a loss of power. It holds the *ground state* of tidemill: what must not be lost.
//!
//! The order in which the functions are called is the protocol:
//!
//! ```text
//! claim     queue::claim, queue::hash           unprocessed/ -> underprocess/
//! A1 A2     queue::sync_claims                  the file, then both folders
//! A3        Journal::accept                     epoch and names are given: accepted
//! P1 P2     StageWriter, sync_parts             big outputs, before anyone is told of them
//! C1        Journal::finish                     THE COMMIT POINT
//! publish   publish                             stage/ or journal -> out/<sink>/
//! file      queue::finish | queue::quarantine   underprocess/ -> processed/ | quarantine/
//! T1        sync_published                      all of that is durable
//! settle    Journal::settle                     nothing has to be repeated any more
//! ```
//!
//! A crash between any two lines is repaired by [`recover()`], which only repeats them. After a sync
//! that failed nothing may be retried: the kernel may have dropped the data and would call the next
//! sync a success. The caller ends the process, and recovery finds out what is true.
//!
//! Map, in reading order: [`home`] (where things are), [`name`] (what files may be called),
//! [`queue`] (the moves of an input), [`journal`] (what is known), [`stage`] and [`publish`](mod@publish)
//! (the way of an output), [`recover`](mod@recover) (after a crash).
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod disk;

pub mod home;
pub mod name;

pub mod queue;

pub mod journal;

pub mod publish;
pub mod stage;

pub mod recover;

pub use disk::DiskError;
pub use home::{Folders, Home, HomeError};
pub use journal::{
    AcceptedFile, Counts, Filter, Generation, Journal, JournalError, JournalReader, NewFile,
    Outcome, Part, PartBody, PartRow, Phase, SubmissionRow, Verdict,
};
pub use publish::{PublishError, publish, replace_file, sync_published};
pub use queue::{ClaimError, Claimed, Identity, Reason};
pub use recover::{RecoverError, Recovery, recover};
pub use stage::{StageWriter, Unsynced, sync_parts};
