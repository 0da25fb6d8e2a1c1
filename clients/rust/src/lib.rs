//! Async client of a tidemill server.
//!
//! Plain Rust values in and out; nothing of the wire shows. It holds no state but its connection. It
//! tries again only what cannot do harm: connecting, and sending a file, which carries an id so that
//! it is taken once. Whether another failed call may be made again is the caller's to decide, and
//! [`Error::is_temporary`] helps.
//!
//! ```no_run
//! use std::path::Path;
//! use std::time::Duration;
//! use tidemill_client::{Client, SubmitOptions};
//!
//! # async fn example() -> Result<(), tidemill_client::Error> {
//! let client = Client::connect("http://127.0.0.1:7171").await?;
//! let sent =
//!     client.submit_file(Path::new("day.jsonl"), SubmitOptions::default(), |_, _| {}).await?;
//! let done = client.wait(sent.id, Duration::from_secs(60)).await?;
//! assert!(done.phase.is_final());
//! # Ok(())
//! # }
//! ```
//!
//! Map, in reading order: `model` (the values), `id`, `error`, `client` (connection and questions),
//! `retry` (asking again while the server is away), `submit` (sending a file), `deploy` (handing over a pipeline file), `tables` (rows of
//! tables), `watch` (changes as a stream), `convert` (from the wire).

mod error;
mod id;
mod model;

mod client;
mod deploy;
mod dry_run;
mod retry;
mod submit;
mod tables;
mod watch;

mod convert;

pub use client::Client;
pub use deploy::{DeployedPart, Deployment, Undeployed};
pub use dry_run::{DryRun, OutputChange, SinkChanges, TableChanges};
pub use error::Error;
/// Latencies are decoded into histograms of this crate.
pub use hdrhistogram;
pub use id::{NotAnId, SubmissionId};
pub use model::{
    Attempt, Condition, Draining, Edge, Filter, Frontier, Hold, Holding, Node, Operator,
    OutputFile, Page, Phase, Pipeline, Reason, Receipt, ReceiptNode, ReceiptOutput, Replaces,
    StageLatency, Stats, Submission, Which,
};
pub use model::{Cell, Column, TableChange, TableInfo, TableRow, TableRows};
pub use submit::{OnWait, SubmitOptions, Waits};
pub use tables::{TableFollow, TableQuestion, TableScan};
pub use watch::{Watch, WatchFilter};
