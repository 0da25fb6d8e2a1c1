//! The engine: runs a graph of operators over files, exactly once.
//!
//! Definition flows `YAML -> PipelineSpec -> Graph -> Plan -> rendered dataflow`; data flows
//! `file -> queue -> epoch -> operators -> answered -> committed -> processed/`. This crate knows no
//! gRPC and no async runtime; what the outside wants to know it asks through [`Engine`].
//!
//! Map, in reading order. Definition: `spec` (as written), `graph` (checked), [`plan`](mod@plan)
//! (ordered and pruned), [`draw`]; `render` (plan to dataflow). Data: `intake` (files are claimed),
//! `ledger` (the journal's one writer), `ingest` (files to batches), `sink` (batches to staged
//! parts), [`code`] (what went wrong, in words), `judge` (too many rejects), `errors` (rejects as rows), `account` (what was counted), `answer` (an epoch is complete),
//! `receipt` (it balances), [`checkpoint`] (state that outlives the process), `publish` (what is
//! committed becomes visible). Around
//! them: [`mod@start`], `worker`, [`mesh`], `board` and `stats` (what is known), [`control`] (what a
//! person holds back), [`retry`] (what is tried again), [`engine`] and
//! [`report`] (what the outside sees), [`space`] (whether the disk has room), [`fault`] (why a process
//! ends), [`testing`] (the tests of a pipeline's author), [`mod@draft`] (a
//! first pipeline from samples).
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod spec;

mod graph;

pub mod code;
pub mod diagnostic;
pub mod draw;
pub mod plan;

pub mod ingest;
pub mod sink;

pub mod account;
pub mod answer;
pub mod checkpoint;
pub mod contract;
pub mod errors;
pub mod judge;
pub mod receipt;
pub mod render;
pub mod worker;

pub mod board;
pub mod control;
pub mod dry_run;
pub mod intake;
pub mod ledger;
pub mod publish;
pub mod retry;
pub mod stats;
pub mod turns;

pub mod mesh;

pub mod fault;
pub mod space;
pub mod start;

pub mod deploy;

pub mod engine;
pub mod report;

pub mod draft;
pub mod schema;
pub mod testing;

pub use diagnostic::Diagnostic;
pub use engine::Engine;
pub use intake::Patience;
pub use plan::{Plan, plan};
pub use space::Reserve;
pub use start::{Config, Ended, Running, Summary, run_member, start};
pub use tidemill_store::failpoint;
