//! Durable facts: the folders, the journal, staged parts and their publication.
//!
//! This crate knows bytes, folders, SQLite and fsync; it knows nothing of records, dataflows, the
//! network or async. Everything in it blocks, and says what survives a crash of the process and
//! what survives a loss of power. It holds the *ground state* of tidemill: what must not be lost.
//!
//! The order in which the functions are called is the protocol:
//!
//! ```text
//! claim     queue::claim                        unprocessed/ -> underprocess/
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
//! One file, from the inbox to its output:
//!
//! ```
//! use std::ffi::OsStr;
//! use tidemill_store::{
//!     Dedupe, Home, Journal, NewFile, Outcome, Part, Replaces, Terms, Verdict, publish, queue,
//!     sync_published,
//! };
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! let home = Home::open(&folder.path().join("home"))?;
//! let folders = home.pipeline("orders")?;
//! let mut journal = Journal::open(&home)?;
//! std::fs::write(folders.unprocessed.join("a.csv"), "1\n2\n")?;
//!
//! let id = journal.next_submission();
//! let claimed = queue::claim(&folders, OsStr::new("a.csv"), id)?;
//! queue::sync_claims(&[&claimed.file], &[&folders])?;
//! let accepted = journal.accept(&[NewFile {
//!     id,
//!     pipeline: "orders".into(),
//!     source: "inbox".into(),
//!     name: "a.csv".into(),
//!     claimed_name: claimed.claimed_name,
//!     identity: claimed.identity,
//!     hash: None,
//!     seen_at_us: 0,
//!     claimed_at_us: 0,
//!     client_id: None,
//!     dedupe: Dedupe::None,
//!     replaces: Replaces::Nothing,
//!     terms: Terms::default(),
//! }])?;
//! let file = &accepted[0];
//! assert_eq!(file.epoch, 1);
//!
//! let part = Part::inline(id, "sums", &file.output_name, b"3\n".to_vec());
//! journal.finish(&[Outcome {
//!     id,
//!     pipeline: "orders".into(),
//!     epoch: file.epoch,
//!     verdict: Verdict::Committed { parts: vec![part.clone()] },
//!     hash: Some(queue::hash(&claimed.file)?),
//!     records: 2,
//!     rejected: 0,
//!     answered_at_us: 0,
//!     finished_at_us: 0,
//! }])?;
//! publish(&home, &folders, &part)?;
//! queue::finish(&folders, &file.claimed_name, &file.stored_name)?;
//! sync_published(&[&folders])?;
//! journal.settle(&[id])?;
//! assert_eq!(std::fs::read(folders.out.join("sums/a.csv"))?, b"3\n");
//! assert!(folders.processed.join("a.csv").exists());
//! # Ok(())
//! # }
//! ```
//!
//! Map, in reading order: [`home`] (where things are), [`name`] (what files may be called),
//! [`queue`] (the moves of an input), [`journal`] (what is known), [`receipt`] (where the records of a
//! file went), [`stage`] and [`publish`](mod@publish) (the way of an output), [`checkpoint`] (state
//! that need not be built again), [`recover`](mod@recover) (after a crash), [`crash`] (whose fault it
//! was), [`mod@doctor`] (what is wrong with a home), [`failpoint`] and [`trial`] (where and how tests
//! let it fail).
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod disk;

pub mod barrier;
pub mod failpoint;

pub mod home;
pub mod name;

pub mod queue;

pub mod journal;
pub mod receipt;

pub mod publish;
pub mod stage;

pub mod checkpoint;

pub mod recover;

pub mod crash;
pub mod doctor;
pub mod trial;

pub use disk::{DiskError, Full, cause, space};
pub use home::{Folders, Home, HomeError};
pub use journal::{
    AcceptedFile, Attempt, CLIENT_IDS_KEPT, CheckpointRow, ClientId, ClientIdError, Committed,
    Correction, Corrections, Counts, Dedupe, Deployed, Deployment, Filter, Frame, Generation, Held,
    Hold, Journal, JournalError, JournalReader, NeededBy, NewDeployment, NewFile, Outcome,
    OutcomeRow, Output, Part, PartBody, PartRow, Phase, Postponed, Reading, ReceiptRow, Removed,
    Replaced, Replaces, RetainedBytes, Retired, Retried, Retries, SetFiles, SetOf, SubmissionRow,
    Terms, Verdict, VerdictRow, Version, Versions, WouldBe, deployments,
};
pub use publish::{PublishError, publish, replace_file, sync_published};
pub use queue::spool::{self, sweep_spool};
pub use queue::{ClaimError, Claimed, Identity, Reason};
pub use receipt::{Book, Receipt};
pub use recover::{Found, RecoverError, Recovery, look_for, recover};
pub use stage::{StageWriter, Unsynced, sync_parts};
