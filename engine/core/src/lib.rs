//! The engine: runs a graph of operators over files, exactly once.
//!
//! Definition flows `YAML -> PipelineSpec -> Graph -> Plan -> rendered dataflow`; data flows
//! `file -> queue -> epoch -> operators -> answered -> committed -> processed/`. This crate knows no
//! gRPC and no async runtime; what the outside wants to know it asks through [`Engine`].

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod spec;

mod graph;

pub mod diagnostic;
pub mod draw;
pub mod plan;

pub mod engine;
pub mod report;

pub use diagnostic::Diagnostic;
pub use engine::Engine;
pub use plan::{Plan, plan};
