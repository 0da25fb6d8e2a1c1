//! Engine: the handle through which the outside submits files and asks questions.
//!
//! Cheap to clone, usable from any thread. Calls that touch the disk say so; none of them ever
//! touches a worker.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use crate::report::{
    OperatorReport, PipelineReport, StageLatency, SubmissionFilter, SubmissionReport,
};

/// A running engine.
#[derive(Clone)]
pub struct Engine {}

/// A file that was received whole and waits in `spool/`.
#[derive(Clone, Debug)]
pub struct Upload {
    /// The pipeline it is for; `None` is allowed when only one pipeline runs.
    pub pipeline: Option<String>,
    /// The name its sender gave it.
    pub name: String,
    /// Where it lies: a path below [`Engine::spool`], already synced.
    pub path: PathBuf,
    /// Its size in bytes.
    pub bytes: u64,
    /// BLAKE3 of its bytes.
    pub hash: [u8; 32],
    /// When its first byte arrived.
    pub seen_at: SystemTime,
}

/// Why an upload was not taken.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    /// No such pipeline; the running ones are listed.
    #[error("no pipeline is called {name}; running: {running}")]
    UnknownPipeline {
        /// What was asked for.
        name: String,
        /// What runs, separated by commas.
        running: String,
    },
    /// The name cannot be a file name here.
    #[error("the name {name:?} cannot be taken: {reason}")]
    Name {
        /// The name.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// No source's pattern matches the name.
    #[error("no source of pipeline {pipeline} takes {name:?}; patterns: {patterns}")]
    NoSource {
        /// The pipeline.
        pipeline: String,
        /// The name.
        name: String,
        /// The patterns of its sources, separated by commas.
        patterns: String,
    },
    /// The engine is stopping or its disk refuses; the same upload may be sent again later.
    #[error("the engine takes no files now: {reason}")]
    Unavailable {
        /// Why.
        reason: String,
    },
}

/// Called with each change of a submission, from an engine thread; must not block.
pub type Observer = Arc<dyn Fn(&SubmissionReport) + Send + Sync>;

impl Engine {
    /// Returns the folder where uploads are received, on the file system of the home.
    pub fn spool(&self) -> &Path {
        unimplemented!()
    }

    /// Checks, before the first byte is received, that an upload of this name could be taken.
    pub fn check_upload(&self, _pipeline: Option<&str>, _name: &str) -> Result<(), SubmitError> {
        unimplemented!()
    }

    /// Takes a received file: moves it to `underprocess/` and makes it durable in the journal.
    /// Blocks for the disk.
    pub fn submit(&self, _upload: Upload) -> Result<SubmissionReport, SubmitError> {
        unimplemented!()
    }

    /// Returns one submission. Reads the journal.
    pub fn submission(&self, _id: u64) -> Result<Option<SubmissionReport>, SubmitError> {
        unimplemented!()
    }

    /// Returns submissions, newest first. Reads the journal.
    pub fn submissions(
        &self,
        _filter: &SubmissionFilter,
    ) -> Result<Vec<SubmissionReport>, SubmitError> {
        unimplemented!()
    }

    /// Registers a function that hears of each change of each submission.
    pub fn observe(&self, _observer: Observer) {
        unimplemented!()
    }

    /// Returns the pipelines that run.
    pub fn pipelines(&self) -> Vec<PipelineReport> {
        unimplemented!()
    }

    /// Returns every operator on every worker of every process.
    pub fn operators(&self) -> Vec<OperatorReport> {
        unimplemented!()
    }

    /// Returns the latency histograms of every stage of every pipeline.
    pub fn latencies(&self) -> Vec<StageLatency> {
        unimplemented!()
    }
}
