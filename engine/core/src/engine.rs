//! Engine: the handle through which the outside submits files and asks questions.
//!
//! Cheap to clone, usable from any thread. Calls that touch the disk say so; none of them ever
//! touches a worker.

mod control;
mod correct;
mod deploy;
mod dry_run;
mod retry;
mod submit;
pub mod tables;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tidemill_store::journal::VerdictRow;
use tidemill_store::{Attempt, Filter, Folders, JournalError, JournalReader, SubmissionRow};

use crate::board::{self, Board};
use crate::control::Control;
use crate::intake::{Held, Numbers, Patterns};
use crate::ledger::Event;
use crate::plan::{self, Plan, Secrets};
use crate::receipt;
use crate::report::{
    AttemptReport, Condition, OperatorReport, OutputReport, Phase, PipelineReport, PipelineShape,
    ReceiptReport, StageLatency, SubmissionFilter, SubmissionReport,
};
use crate::space::Space;
use crate::start::Next;
use crate::stats::Stats;

pub use control::{Draining, Subject};
pub use correct::Target;
pub use deploy::{Deploy, DeployError, DeployReport, Undeploy, UndeployReport};
pub use submit::{SubmitError, Upload};
/// Which earlier file an upload takes the place of.
pub use tidemill_store::Replaces;
/// The ids of clients, and what is kept of their uploads.
pub use tidemill_store::{ClientId, ClientIdError, spool};

/// A running engine.
#[derive(Clone)]
pub struct Engine {
    parts: Arc<Parts>,
}

/// What the handle reaches.
pub(crate) struct Parts {
    pub(crate) generation: u64,
    pub(crate) spool: PathBuf,
    pub(crate) plans: Vec<Plan>,
    pub(crate) folders: Vec<Folders>,
    pub(crate) patterns: Vec<Patterns>,
    pub(crate) numbers: Numbers,
    pub(crate) board: Arc<Board>,
    pub(crate) stats: Stats,
    pub(crate) events: Sender<Event>,
    pub(crate) journal: Mutex<JournalReader>,
    pub(crate) stop: Arc<AtomicBool>,
    /// The ids whose uploads are being taken at this moment.
    pub(crate) taking: Mutex<BTreeSet<ClientId>>,
    pub(crate) space: Space,
    pub(crate) tables: Arc<tables::Tables>,
    /// Which pipeline takes no files for a moment.
    pub(crate) held: Held,
    /// What is different when this life has ended.
    pub(crate) next: Arc<Mutex<Option<Next>>>,
    /// The home.
    pub(crate) root: PathBuf,
    /// Whether states may go on without inputs that are gone.
    pub(crate) forget_missing: bool,
    /// The pipelines that stand in no file of the start: they were deployed.
    pub(crate) added: BTreeSet<String>,
    /// Why nothing can be deployed here.
    pub(crate) no_deploys: Option<&'static str>,
    pub(crate) secrets: Secrets,
    /// Held by the one that is being deployed.
    pub(crate) deploying: Mutex<()>,
    pub(crate) control: Control,
}

/// Called with each change of a submission, from an engine thread; must not block.
pub type Observer = Arc<dyn Fn(&SubmissionReport) + Send + Sync>;

impl Engine {
    pub(crate) fn new(parts: Parts) -> Self {
        Self { parts: Arc::new(parts) }
    }

    /// Returns the number of this generation: of this life of all processes of the run.
    pub fn generation(&self) -> u64 {
        self.parts.generation
    }

    /// Returns the folder where uploads are received, on the file system of the home.
    pub fn spool(&self) -> &Path {
        &self.parts.spool
    }

    /// Returns what keeps work waiting and a person must know.
    pub fn conditions(&self) -> Vec<Condition> {
        let mut all = self.parts.space.conditions();
        all.extend(self.parts.control.conditions());
        all.extend(self.parts.board.conditions());
        all
    }

    /// Returns one submission. Reads the journal.
    pub fn submission(&self, id: u64) -> Result<Option<SubmissionReport>, SubmitError> {
        // Asked first: a file that is finished in between is then found in the journal.
        if let Some(live) = self.parts.board.live(id) {
            return self.with_retries(live).map(Some);
        }
        let row = self.journal().submission(id).map_err(|error| unavailable("look up", &error))?;
        row.map(|row| self.with_retries(self.overlay(row))).transpose()
    }

    /// Returns the receipt of a committed file; `None` for any other. Reads the journal.
    pub fn receipt(&self, id: u64) -> Result<Option<ReceiptReport>, SubmitError> {
        let failed = |error: JournalError| unavailable("look up a receipt", &error);
        let journal = self.journal();
        let Some(row) = journal.receipt(id).map_err(failed)? else { return Ok(None) };
        let file = journal.submission(id).map_err(failed)?;
        Ok(file.map(|file| receipt::report(&file, &row)))
    }

    /// Returns submissions, newest first. Reads the journal.
    pub fn submissions(
        &self,
        filter: &SubmissionFilter,
    ) -> Result<Vec<SubmissionReport>, SubmitError> {
        let phase = filter.phase.map(|phase| match phase {
            Phase::Committed => tidemill_store::Phase::Committed,
            Phase::Quarantined => tidemill_store::Phase::Quarantined,
            Phase::Duplicate => tidemill_store::Phase::Duplicate,
            _ => tidemill_store::Phase::Accepted,
        });
        let rows = self
            .journal()
            .submissions(&Filter {
                pipeline: filter.pipeline.clone(),
                phase,
                name: filter.name.clone(),
                before: filter.before,
                limit: filter.limit,
            })
            .map_err(|error| unavailable("list", &error))?;
        let reports = rows.into_iter().map(|row| self.overlay(row));
        reports
            .filter(|report| filter.phase.is_none_or(|phase| report.phase == phase))
            .map(|report| self.with_retries(report))
            .collect()
    }

    /// Adds which submissions belong to the same file, which correct each other, and which attempts
    /// at it failed.
    fn with_retries(&self, report: SubmissionReport) -> Result<SubmissionReport, SubmitError> {
        let retries = self.journal().retries(report.id);
        let retries = retries.map_err(|error| unavailable("look up", &error))?;
        let corrections = self.journal().corrections(report.id);
        let corrections = corrections.map_err(|error| unavailable("look up", &error))?;
        let attempts = self.journal().attempts(report.id);
        let attempts = attempts.map_err(|error| unavailable("look up", &error))?;
        let attempts = attempts.into_iter().map(attempt_report).collect();
        let (retry_of, retried_as) = (retries.retry_of, retries.retried_as);
        let retained_bytes = self.journal().retained_bytes(report.id);
        let retained_bytes = retained_bytes.map_err(|error| unavailable("look up", &error))?;
        Ok(SubmissionReport {
            retry_of,
            retried_as,
            corrections,
            retained_bytes,
            attempts,
            ..report
        })
    }

    /// Registers a function that hears of each change of each submission.
    pub fn observe(&self, observer: Observer) {
        self.parts.board.observe(observer);
    }

    /// Returns the pipelines that run.
    pub fn pipelines(&self) -> Vec<PipelineReport> {
        let report = |(at, plan): (usize, &Plan)| {
            let (counts, committed_epoch) = self.parts.board.counts(at);
            PipelineReport {
                name: plan.name.clone(),
                plan_hash: plan.hash.clone(),
                folder: self.parts.folders[at].root.display().to_string(),
                accepted: counts.accepted,
                committed: counts.committed,
                quarantined: counts.quarantined,
                committed_epoch,
                holds: self.parts.control.holds(at),
            }
        };
        self.parts.plans.iter().enumerate().map(report).collect()
    }

    /// Returns what a pipeline is made of, if it runs.
    pub fn shape_of(&self, pipeline: &str) -> Option<PipelineShape> {
        let plan = self.parts.plans.iter().find(|plan| plan.name == pipeline)?;
        let (nodes, edges) = plan::describe(plan);
        Some(PipelineShape { yaml: plan.yaml.clone(), nodes, edges })
    }

    /// Returns every operator on every worker of every process. Reads the journal for what is retained
    /// of sources, which is told of the first worker.
    pub fn operators(&self) -> Vec<OperatorReport> {
        let mut operators = self.parts.stats.operators();
        for plan in &self.parts.plans {
            let retained = match self.journal().retained(&plan.name) {
                Ok(retained) => retained,
                Err(error) => {
                    tracing::warn!("add up what is retained: {error}");
                    continue;
                }
            };
            for one in retained {
                let of_source = |row: &&mut OperatorReport| {
                    row.pipeline == plan.name
                        && row.operator == one.source
                        && row.kind.starts_with("source ")
                };
                if let Some(row) = operators.iter_mut().find(of_source) {
                    row.retained_bytes = one.bytes;
                }
            }
        }
        operators
    }

    /// Returns the latency histograms of every stage of every pipeline.
    pub fn latencies(&self) -> Vec<StageLatency> {
        self.parts.board.latencies()
    }

    /// Asks for the end: no more files are taken, what has begun is finished. Returns at once.
    pub fn stop(&self) {
        self.parts.stop.store(true, Ordering::Relaxed);
    }

    /// What the journal says, or what the board says if the file is still on its way.
    fn overlay(&self, row: SubmissionRow) -> SubmissionReport {
        if let Some(live) = self.parts.board.live(row.file.id) {
            return live;
        }
        let mut report = board::report_of(&row.file);
        if let Some(outcome) = row.outcome {
            report.records = outcome.records;
            report.rejected = outcome.rejected;
            report.bytes_read = report.bytes;
            report.finished_at = Some(board::from_us(outcome.finished_at_us));
            match outcome.verdict {
                VerdictRow::Committed { parts } => {
                    report.phase = Phase::Committed;
                    let output = |part| OutputReport::of_row(row.file.id, part);
                    report.outputs = parts.iter().map(output).collect();
                }
                VerdictRow::Quarantined { code, detail } => {
                    report.phase = Phase::Quarantined;
                    report.reason = Some((code, detail));
                }
                // The report of a duplicate is that already.
                VerdictRow::Duplicate { .. } => {}
            }
        }
        report
    }

    fn journal(&self) -> MutexGuard<'_, JournalReader> {
        // A query that panicked has ended the process.
        self.parts.journal.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn attempt_report(attempt: Attempt) -> AttemptReport {
    AttemptReport {
        number: attempt.number,
        failed_at: board::from_us(attempt.failed_at_us),
        class: attempt.why.class,
        code: attempt.why.code,
        text: attempt.why.detail,
        next_at: board::from_us(attempt.why.next_at_us),
    }
}

fn unavailable(doing: &str, error: &dyn std::error::Error) -> SubmitError {
    tracing::error!("{doing}: {error}");
    SubmitError::Unavailable { reason: format!("it cannot {doing}") }
}
