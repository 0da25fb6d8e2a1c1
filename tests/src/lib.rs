//! The system as specification: every promise is tested through the built binary and its client.
//!
//! Nothing here reaches into the engine. A [`Site`] is a home in a temporary folder with one
//! pipeline; it starts the real process, feeds it files as a person or a client would, and compares
//! what appears in `out/` byte by byte. A run that logs an ERROR which its test did not announce
//! fails, and so does one that outlasts [`PATIENCE`].
//!
//! Map, in reading order: [`tree`] (what lies in folders), [`process`] (one process and what it
//! says), [`disk`] (a small one, to be filled), [`site`] (a home and how it is fed), [`scenario`]
//! (homes that are folders of the repository), [`schema`] (whether a document fits
//! one), [`torment`] (what is killed again and again),
//! [`corrections`] (random pipelines whose files change), [`deploys`] (a pipeline that changes), [`loops`] (random pipelines with loops),
//! [`oracle`] (slow programs that know the right answer).

#![allow(
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    reason = "a failure of the harness is a failure of the test that uses it"
)]

pub mod tree;

pub mod disk;
pub mod process;
pub mod scenario;
pub mod schema;
pub mod site;
pub mod steps;
pub mod torment;

pub mod corrections;
pub mod loops;

pub mod deploys;

pub mod oracle;

pub mod faults;

pub use disk::{Disk, Kind};
pub use process::{Ended, PATIENCE, Process};
pub use site::{Running, Shape, Site};
pub use steps::{Steps, Verb};
pub use tree::Tree;
