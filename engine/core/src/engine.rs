//! Engine: the handle through which the outside submits files and asks questions.
//!
//! Cheap to clone, usable from any thread. Calls that touch the disk say so; none of them ever
//! touches a worker.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tidemill_store::journal::VerdictRow;
use tidemill_store::name::check_name;
use tidemill_store::{
    Filter, Folders, JournalError, JournalReader, NewFile, SubmissionRow, failpoint, queue,
};

use crate::board::{self, Board, to_us};
use crate::fault;
use crate::intake::{Numbers, PENDING_MAX, Patterns};
use crate::ledger::Event;
use crate::plan::{self, Plan};
use crate::receipt;
use crate::report::{
    OperatorReport, Phase, PipelineReport, ReceiptReport, StageLatency, SubmissionFilter,
    SubmissionReport,
};
use crate::stats::Stats;

/// How long an upload waits while too many files are pending, before it is refused.
const ROOM_WAIT_MAX: Duration = Duration::from_secs(20);

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
}

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

    /// Checks, before the first byte is received, that an upload of this name could be taken.
    pub fn check_upload(&self, pipeline: Option<&str>, name: &str) -> Result<(), SubmitError> {
        self.target(pipeline, name).map(|_| ())
    }

    /// Takes a received file: moves it to `underprocess/` and makes it durable in the journal.
    /// Blocks for the disk.
    pub fn submit(&self, upload: Upload) -> Result<SubmissionReport, SubmitError> {
        let (pipeline, source) = self.target(upload.pipeline.as_deref(), &upload.name)?;
        self.wait_for_room(pipeline)?;
        let folders = &self.parts.folders[pipeline];
        let id = self.parts.numbers.take();
        let claimed = queue::claim_upload(folders, &upload.path, upload.name.as_ref(), id)
            .map_err(|error| unavailable("take the upload", &error))?;
        failpoint::reach("upload-claimed")
            .unwrap_or_else(|error| fault::disk("take an upload", &error));
        queue::sync_claims(&[&claimed.file], &[folders])
            .and_then(|()| failpoint::reach("upload-claim-synced"))
            .unwrap_or_else(|error| fault::disk("sync an upload", &error));
        let file = NewFile {
            id,
            pipeline: self.parts.plans[pipeline].name.clone(),
            source,
            name: upload.name,
            claimed_name: claimed.claimed_name,
            identity: claimed.identity,
            hash: Some(upload.hash),
            seen_at_us: to_us(upload.seen_at),
            claimed_at_us: to_us(SystemTime::now()),
        };
        let (reply, answer) = channel();
        let ended = || SubmitError::Unavailable { reason: "it is stopping".into() };
        let event = Event::Accept { files: vec![file], reply: Some(reply) };
        self.parts.events.send(event).map_err(|_| ended())?;
        let accepted = answer.recv().map_err(|_| ended())?;
        let accepted = accepted.first().ok_or_else(ended)?;
        failpoint::reach("upload-accepted")
            .unwrap_or_else(|error| fault::disk("accept an upload", &error));
        Ok(self.parts.board.live(accepted.id).unwrap_or_else(|| board::report_of(accepted)))
    }

    /// Returns one submission. Reads the journal.
    pub fn submission(&self, id: u64) -> Result<Option<SubmissionReport>, SubmitError> {
        // Asked first: a file that is finished in between is then found in the journal.
        if let Some(live) = self.parts.board.live(id) {
            return Ok(Some(live));
        }
        let row = self.journal().submission(id).map_err(|error| unavailable("look up", &error))?;
        Ok(row.map(|row| self.overlay(row)))
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
        Ok(reports
            .filter(|report| filter.phase.is_none_or(|phase| report.phase == phase))
            .collect())
    }

    /// Registers a function that hears of each change of each submission.
    pub fn observe(&self, observer: Observer) {
        self.parts.board.observe(observer);
    }

    /// Returns the pipelines that run.
    pub fn pipelines(&self) -> Vec<PipelineReport> {
        let report = |(at, plan): (usize, &Plan)| {
            let (counts, committed_epoch) = self.parts.board.counts(at);
            let (nodes, edges) = plan::describe(plan);
            PipelineReport {
                name: plan.name.clone(),
                plan_hash: plan.hash.clone(),
                folder: self.parts.folders[at].root.display().to_string(),
                yaml: plan.yaml.clone(),
                nodes,
                edges,
                accepted: counts.accepted,
                committed: counts.committed,
                quarantined: counts.quarantined,
                committed_epoch,
            }
        };
        self.parts.plans.iter().enumerate().map(report).collect()
    }

    /// Returns every operator on every worker of every process.
    pub fn operators(&self) -> Vec<OperatorReport> {
        self.parts.stats.operators()
    }

    /// Returns the latency histograms of every stage of every pipeline.
    pub fn latencies(&self) -> Vec<StageLatency> {
        self.parts.board.latencies()
    }

    /// Asks for the end: no more files are taken, what has begun is finished. Returns at once.
    pub fn stop(&self) {
        self.parts.stop.store(true, Ordering::Relaxed);
    }

    /// Waits while too many files of a pipeline are pending: its senders are to slow down.
    fn wait_for_room(&self, pipeline: usize) -> Result<(), SubmitError> {
        let until = Instant::now() + ROOM_WAIT_MAX;
        while self.parts.board.pending(pipeline) >= PENDING_MAX {
            let stopping = self.parts.stop.load(Ordering::Relaxed);
            if stopping || Instant::now() >= until {
                let waiting = format!(
                    "{PENDING_MAX} files of {} are waiting",
                    self.parts.plans[pipeline].name
                );
                let reason = if stopping { "it is stopping".into() } else { waiting };
                return Err(SubmitError::Unavailable { reason });
            }
            self.parts.board.wait_for_change(Duration::from_millis(100));
        }
        Ok(())
    }

    /// Returns which pipeline, and which of its sources, takes an upload.
    fn target(&self, pipeline: Option<&str>, name: &str) -> Result<(usize, String), SubmitError> {
        if self.parts.stop.load(Ordering::Relaxed) {
            return Err(SubmitError::Unavailable { reason: "it is stopping".into() });
        }
        let plans = &self.parts.plans;
        let found = match pipeline {
            Some(wanted) => plans.iter().position(|plan| plan.name == wanted),
            None => (plans.len() == 1).then_some(0),
        };
        let at = found.ok_or_else(|| SubmitError::UnknownPipeline {
            name: pipeline.unwrap_or("(none named)").to_owned(),
            running: plans.iter().map(|plan| &*plan.name).collect::<Vec<_>>().join(", "),
        })?;
        check_name(name.as_ref()).map_err(|error| SubmitError::Name {
            name: name.to_owned(),
            reason: error.to_string(),
        })?;
        let source = self.parts.patterns[at].source_of(name);
        let source = source.ok_or_else(|| SubmitError::NoSource {
            pipeline: plans[at].name.clone(),
            name: name.to_owned(),
            patterns: self.parts.patterns[at].all(),
        })?;
        Ok((at, source.to_owned()))
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
                    report.outputs = parts
                        .into_iter()
                        .map(|part| (format!("{}/{}", part.sink, part.name), part.bytes))
                        .collect();
                }
                VerdictRow::Quarantined { code, detail } => {
                    report.phase = Phase::Quarantined;
                    report.reason = Some((code, detail));
                }
            }
        }
        report
    }

    fn journal(&self) -> MutexGuard<'_, JournalReader> {
        // A query that panicked has ended the process.
        self.parts.journal.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn unavailable(doing: &str, error: &dyn std::error::Error) -> SubmitError {
    tracing::error!("{doing}: {error}");
    SubmitError::Unavailable { reason: format!("it cannot {doing}") }
}
