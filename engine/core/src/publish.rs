//! Publish: what is committed becomes visible. Outputs appear in `out/`, inputs move to
//! `processed/` or `quarantine/`, snapshots of tables are replaced.
//!
//! A thread of its own in process 0, behind the commit: everything it does is written in the
//! journal first and is done again by recovery if the process ends in between. Where the disk refuses
//! for a reason that may pass, a pipeline waits, in order (`publish/refused.rs`).

mod refused;
mod snapshot;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use tidemill_operators::Batch;
use tidemill_store::{
    AcceptedFile, Folders, Home, Outcome, PublishError, Reason, Verdict, barrier, failpoint,
    publish, queue, sync_published,
};

use crate::board::{Board, Milestones, hex};
use crate::checkpoint::KeptPart;
use crate::checkpoint::keeper::{Keeper, PackPlace, TableDesk};
use crate::engine::tables::Tables;
use crate::ingest::backlog::Backlog;
use crate::ledger::Event;
use crate::report::{OutputReport, Phase};
use crate::retry::Policy;
use crate::sink::table::Table;
use crate::space::Space;
use refused::Failure;
pub use refused::Refused;

/// Publications that are made durable together.
const SETTLE_MAX: usize = 512;

/// How long the publisher waits for more before it settles and refreshes tables.
const LINGER: Duration = Duration::from_millis(15);

/// How long it sleeps when nothing waits to be settled or written.
const IDLE: Duration = Duration::from_secs(60);

/// How many times as long as a snapshot took to write the next one waits, at least.
const SNAPSHOT_REST: u32 = 4;

/// What the ledger hands over.
pub enum Job {
    /// A file is committed or set aside.
    Finished {
        /// Which pipeline.
        pipeline: usize,
        /// The file.
        file: Box<AcceptedFile>,
        /// What became of it.
        outcome: Box<Outcome>,
        /// The version that it has taken the place of, or has taken away.
        retired: Option<Box<AcceptedFile>>,
        /// The rows its epoch adds to tables and takes from them.
        rows: Vec<(usize, Batch)>,
        /// Staged parts that nobody wants.
        staged: Vec<PathBuf>,
        /// When it reached which stage.
        milestones: Milestones,
        /// What it holds of the pipeline's backlog, in bytes.
        weight: u64,
    },
    /// A file repeats an earlier one: it is only filed away.
    Duplicate {
        /// Which pipeline.
        pipeline: usize,
        /// The file.
        file: Box<AcceptedFile>,
    },
    /// A file of an earlier life was read again.
    Replayed {
        /// Which pipeline.
        pipeline: usize,
        /// Its epoch.
        epoch: u64,
        /// Its rows.
        rows: Vec<(usize, Batch)>,
        /// What it holds of the pipeline's backlog, in bytes.
        weight: u64,
    },
    /// A correction was tried: what was staged for it is not wanted.
    Forget {
        /// Which pipeline.
        pipeline: usize,
        /// Staged parts.
        staged: Vec<PathBuf>,
        /// What the answer holds of the pipeline's backlog, in bytes.
        weight: u64,
    },
    /// These become visible with no snapshot of a table between them.
    Together(Vec<Job>),
    /// Write the tables down as they are now: as of this epoch.
    Checkpoint {
        /// Which pipeline.
        pipeline: usize,
        /// The epoch.
        epoch: u64,
        /// Whether all rows are wanted, or those of the shards that changed.
        full: bool,
    },
    /// Make everything before this visible and durable, tables included, and say whether it is.
    Refresh(Sender<bool>),
    /// Everything was handed over: end.
    End,
}

impl Job {
    /// Returns the file that it is about, if it makes one visible.
    fn file(&self) -> Option<&AcceptedFile> {
        match self {
            Job::Finished { file, .. } | Job::Duplicate { file, .. } => Some(file),
            _ => None,
        }
    }

    /// Returns which pipeline it is of, if it is of one.
    fn pipeline(&self) -> Option<usize> {
        match self {
            Job::Finished { pipeline, .. }
            | Job::Duplicate { pipeline, .. }
            | Job::Replayed { pipeline, .. }
            | Job::Forget { pipeline, .. }
            | Job::Checkpoint { pipeline, .. } => Some(*pipeline),
            Job::Together(_) | Job::Refresh(_) | Job::End => None,
        }
    }

    /// Returns what became of a file, if this is about one that ran.
    pub fn outcome(&self) -> Option<&Outcome> {
        match self {
            Job::Finished { outcome, .. } => Some(outcome),
            _ => None,
        }
    }

    /// Does what [`Job::outcome`] does, to be changed.
    pub fn outcome_mut(&mut self) -> Option<&mut Outcome> {
        match self {
            Job::Finished { outcome, .. } => Some(outcome),
            _ => None,
        }
    }
}

/// A table of a pipeline and when it may be written again.
pub struct Published {
    /// The sink's name.
    pub sink: String,
    /// The name of its snapshot file.
    pub file_name: String,
    /// Its rows.
    pub table: Table,
    /// Where its rows go for a checkpoint.
    pub packs: PackPlace,
    /// Whether there is a snapshot while there is no row.
    pub shows_nothing: bool,
    /// The least time between two snapshots.
    pub every: Duration,
    /// When the last one was written.
    pub last: Option<Instant>,
    /// How long that took.
    pub took: Duration,
    /// The epoch of the checkpoint that its rows come from: what is read again up to it is in them.
    pub restored: u64,
    /// How it is tried again to write its snapshot.
    pub retry: Policy,
    /// That the disk refuses its snapshot.
    pub refused: Option<Refused>,
}

/// The publisher's end of one pipeline.
pub struct Line {
    /// Its name.
    pub name: String,
    /// Its plan.
    pub plan_hash: String,
    /// Its folders.
    pub folders: Folders,
    /// The sources whose inputs get a second name in `retained/`.
    pub retaining: Vec<String>,
    /// Its tables, by the sink's place in the plan.
    pub tables: BTreeMap<usize, Published>,
    /// The last epoch that an earlier life has finished.
    pub finished_epoch: u64,
    /// What waits for the publisher.
    pub backlog: Backlog,
    /// How it is tried again to make outputs visible, by their folders.
    pub retry: BTreeMap<String, Policy>,
    /// What is to be made visible, in this order.
    pub queue: VecDeque<Job>,
    /// That the disk refuses the first of them.
    pub refused: Option<Refused>,
}

/// When snapshots are written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Show {
    /// At once when nothing is under way, else not more often than asked; what is refused, later again.
    InTurn,
    /// Now; what is refused, later again.
    Now,
    /// Now, and for the last time: nobody comes later.
    Last,
}

/// The publisher.
pub struct Publisher {
    home: Arc<Home>,
    lines: Vec<Line>,
    board: Arc<Board>,
    ledger: Sender<Event>,
    space: Space,
    keeper: Keeper,
    tables: Arc<Tables>,
    unsettled: Vec<u64>,
    first_unsettled: Option<Instant>,
}

impl Publisher {
    /// Returns a publisher for these pipelines.
    pub fn new(
        home: Arc<Home>,
        lines: Vec<Line>,
        board: Arc<Board>,
        ledger: Sender<Event>,
        space: Space,
        keeper: Keeper,
        tables: Arc<Tables>,
    ) -> Self {
        let (unsettled, first_unsettled) = (Vec::new(), None);
        Self { home, lines, board, ledger, space, keeper, tables, unsettled, first_unsettled }
    }

    /// Works until [`Job::End`]. An error ends the process.
    pub fn run(mut self, jobs: &Receiver<Job>) -> Result<(), PublisherError> {
        (0..self.lines.len()).for_each(|pipeline| self.open_tables(pipeline));
        loop {
            match jobs.recv_timeout(self.patience()) {
                Ok(Job::End) | Err(RecvTimeoutError::Disconnected) => break,
                Ok(job) => self.take(job)?,
                Err(RecvTimeoutError::Timeout) => {
                    self.settle()?;
                    self.refresh_tables(Show::InTurn)?;
                }
            }
            self.try_again()?;
            // Under a steady load there is no pause to wait for.
            let waited = self.first_unsettled.is_some_and(|since| since.elapsed() > 4 * LINGER);
            if self.unsettled.len() >= SETTLE_MAX || waited {
                self.settle()?;
                self.refresh_tables(Show::InTurn)?;
            }
        }
        self.leave_the_rest()?;
        self.settle()?;
        self.refresh_tables(Show::Last)
    }

    /// Returns how long to wait for the next job.
    fn patience(&self) -> Duration {
        let mut tables = self.lines.iter().flat_map(|line| line.tables.values());
        let is_fresh = |one: &Published| one.table.is_changed() && one.refused.is_none();
        let is_idle = self.unsettled.is_empty() && !tables.any(is_fresh);
        if is_idle { IDLE.min(self.until_again()) } else { LINGER }
    }

    /// Takes a job into the queue of its pipeline, and does what it can of that.
    fn take(&mut self, job: Job) -> Result<(), PublisherError> {
        let Some(pipeline) = job.pipeline() else { return self.work(job, true) };
        self.lines[pipeline].queue.push_back(job);
        if self.lines[pipeline].refused.is_none() { self.go_on(pipeline) } else { Ok(()) }
    }

    /// Makes visible what a job is about; may be repeated. Returns whether nothing of that must be done
    /// by the next start.
    fn show(&self, job: &Job) -> Result<bool, Failure> {
        match job {
            Job::Finished { pipeline, file, outcome, retired, .. } => {
                let whole = self.make_visible(*pipeline, file, outcome)?;
                if let Some(retired) = retired {
                    self.retire(*pipeline, retired)?;
                }
                Ok(whole)
            }
            Job::Duplicate { pipeline, file } => {
                self.file_away(*pipeline, file)?;
                Ok(true)
            }
            _ => Ok(true),
        }
    }

    /// Does the rest of a job, once.
    fn work(&mut self, job: Job, whole: bool) -> Result<(), PublisherError> {
        match job {
            Job::Replayed { pipeline, epoch, rows, weight } => {
                self.apply(pipeline, epoch, &rows);
                self.board.rebuilt(pipeline);
                self.open_tables(pipeline);
                self.lines[pipeline].backlog.release(weight);
                failpoint::reach("recover-rows-applied").map_err(disk("rebuild a table"))?;
            }
            Job::Finished { pipeline, file, outcome, rows, staged, milestones, weight, .. } => {
                self.discard(&staged);
                if let Verdict::Postponed(why) = &outcome.verdict {
                    // The ledger has told the board, and tries it again.
                    let (line, name) = (&self.lines[pipeline].name, &file.name);
                    tracing::warn!(
                        pipeline = line,
                        file = name,
                        submission = file.id,
                        code = why.code,
                        "waits to be tried again ({}): {}",
                        why.class,
                        why.detail
                    );
                    self.apply(pipeline, outcome.epoch, &[]);
                    self.lines[pipeline].backlog.release(weight);
                    return Ok(());
                }
                self.apply(pipeline, outcome.epoch, &rows);
                if whole {
                    self.unsettled.push(file.id);
                    self.first_unsettled.get_or_insert_with(Instant::now);
                }
                self.board.finished(pipeline, file.id, milestones, |report| {
                    report.records = outcome.records;
                    report.rejected = outcome.rejected;
                    if let Some(hash) = &outcome.hash {
                        report.hash = Some(hex(hash));
                    }
                    report.bytes_read = report.bytes;
                    match &outcome.verdict {
                        Verdict::Committed { parts } => {
                            report.phase = Phase::Committed;
                            let output = |part| OutputReport::of_part(file.id, part);
                            report.outputs = parts.iter().map(output).collect();
                        }
                        Verdict::Quarantined { code, detail } => {
                            report.phase = Phase::Quarantined;
                            report.reason = Some((code.clone(), detail.clone()));
                        }
                        Verdict::Postponed(_) => {}
                    }
                });
                self.lines[pipeline].backlog.release(weight);
            }
            Job::Duplicate { pipeline, file } => {
                tracing::info!(
                    pipeline = self.lines[pipeline].name,
                    file = file.name,
                    submission = file.id,
                    "not run: a duplicate of file {}",
                    file.duplicate_of.unwrap_or_default()
                );
                self.unsettled.push(file.id);
                self.first_unsettled.get_or_insert_with(Instant::now);
                self.board.duplicate(&file);
            }
            Job::Together(jobs) => jobs.into_iter().try_for_each(|job| self.take(job))?,
            Job::Forget { pipeline, staged, weight } => {
                self.discard(&staged);
                self.lines[pipeline].backlog.release(weight);
            }
            Job::Checkpoint { pipeline, epoch, full } => self.keep(pipeline, epoch, full),
            Job::Refresh(reply) => {
                self.settle()?;
                self.refresh_tables(Show::Now)?;
                // Files that are not visible are not finished; whoever asks knows of them.
                let mut tables = self.lines.iter().flat_map(|line| line.tables.values());
                // Whoever asked may have gone.
                let _ = reply.send(tables.all(|one| one.refused.is_none()));
            }
            Job::End => {}
        }
        Ok(())
    }

    /// Removes staged parts that nobody wants.
    fn discard(&self, staged: &[PathBuf]) {
        for path in staged {
            // What cannot be removed now, recovery removes.
            let _ = std::fs::remove_file(self.home.root().join(path));
        }
    }

    /// Says that the tables are not written down: a checkpoint is nothing but speed.
    fn give_up_checkpoint(&self, pipeline: usize) {
        for published in self.lines[pipeline].tables.values() {
            let outcome = Err("what came before it is not visible yet".to_owned());
            let part = KeptPart { state: published.packs.state.clone(), outcome };
            // The ledger ends only after every checkpoint.
            let _ = self.ledger.send(Event::TableKept { pipeline, part });
        }
    }

    /// Hands the rows of the tables to the keeper, which tells the ledger when they are durable.
    fn keep(&mut self, pipeline: usize, epoch: u64, full: bool) {
        for published in self.lines[pipeline].tables.values_mut() {
            let ledger = self.ledger.clone();
            let reply = move |part| {
                // The ledger ends only after every checkpoint.
                let _ = ledger.send(Event::TableKept { pipeline, part });
            };
            let shards = published.table.unkept(full);
            if shards.is_empty() {
                reply(KeptPart { state: published.packs.state.clone(), outcome: Ok(None) });
                continue;
            }
            let desk = TableDesk::new(&self.keeper, &published.packs, epoch, shards);
            published.table.keep(full, |shard, count, bytes| desk.rows(shard, count, bytes));
            desk.end(reply);
        }
    }

    /// Publishes a file's outputs and moves it; returns whether nothing of that must be repeated.
    fn make_visible(
        &self,
        pipeline: usize,
        file: &AcceptedFile,
        outcome: &Outcome,
    ) -> Result<bool, Failure> {
        let mut whole = true;
        let line = &self.lines[pipeline];
        match &outcome.verdict {
            Verdict::Committed { parts } => {
                for part in parts {
                    let visible = self.space.insist("making outputs visible", || {
                        publish(&self.home, &line.folders, part)
                    });
                    match visible {
                        Err(error @ PublishError::Occupied { .. }) => {
                            // Somebody put a file of that name there. Ours is kept, unsettled, and
                            // the next start publishes it or says so again.
                            tracing::error!(submission = file.id, "{error}, then start again");
                            whole = false;
                        }
                        other => other.map_err(|error| Failure::of(part, error))?,
                    }
                }
                if !file.is_removal() {
                    self.file_away(pipeline, file)?;
                }
            }
            Verdict::Quarantined { code, detail } => {
                tracing::warn!(pipeline = line.name, file = file.name, code, "set aside: {detail}");
                if file.is_removal() {
                    // There is nothing to set aside.
                    return Ok(true);
                }
                let reason = Reason::of(file, outcome, Some(line.plan_hash.clone()));
                let aside = || {
                    let (claimed, stored) = (&file.claimed_name, &file.stored_name);
                    queue::quarantine(&line.folders, claimed, stored, &reason)
                };
                self.space
                    .insist("setting a file aside", aside)
                    .map_err(disk("move the input to quarantine/"))?;
            }
            Verdict::Postponed(_) => return Ok(false),
        }
        Ok(whole)
    }

    /// Moves the input of a version that is not current any more to `retained/`.
    fn retire(&self, pipeline: usize, old: &AcceptedFile) -> Result<(), PublisherError> {
        let folders = &self.lines[pipeline].folders;
        let moved = self.space.insist("moving an old version to retained/", || {
            queue::retire(folders, &old.stored_name)
        });
        moved.map_err(disk("move an old version to retained/"))
    }

    /// Moves an input to `processed/`.
    fn file_away(&self, pipeline: usize, file: &AcceptedFile) -> Result<(), PublisherError> {
        let folders = &self.lines[pipeline].folders;
        let moved = self.space.insist("moving an input to processed/", || {
            queue::finish(folders, &file.claimed_name, &file.stored_name)
        });
        if moved.is_ok() && self.lines[pipeline].retaining.contains(&file.source) {
            let linked = self
                .space
                .insist("retaining an input", || queue::retain(folders, &file.stored_name));
            linked.map_err(disk("give an input a second name in retained/"))?;
        }
        match moved {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // Its outputs are whole all the same.
                tracing::warn!(submission = file.id, name = ?file.name,
                    "somebody took the input of a finished file out of underprocess/");
                Ok(())
            }
            moved => moved.map_err(disk("move the input to processed/")),
        }
    }

    fn apply(&mut self, pipeline: usize, epoch: u64, rows: &[(usize, Batch)]) {
        for (sink, published) in &mut self.lines[pipeline].tables {
            if epoch <= published.restored {
                continue;
            }
            let mine = rows.iter().filter(|(to, _)| to == sink).map(|(_, batch)| batch);
            published.table.apply(epoch, mine);
        }
        self.tables.tell();
    }

    /// Lets the tables of a pipeline be read, if nothing of earlier lives is missing.
    fn open_tables(&mut self, pipeline: usize) {
        if !self.board.is_rebuilding(pipeline) {
            let line = &mut self.lines[pipeline];
            line.tables.values_mut().for_each(|one| one.table.open(line.finished_epoch));
            self.tables.tell();
        }
    }

    /// Makes publications durable and lets the journal forget how to repeat them.
    fn settle(&mut self) -> Result<(), PublisherError> {
        if self.unsettled.is_empty() {
            return Ok(());
        }
        let folders: Vec<&Folders> = self.lines.iter().map(|line| &line.folders).collect();
        if !barrier::holds("settle-after-sync") {
            let (forgotten, wait) = std::sync::mpsc::channel();
            let _ = self.ledger.send(Event::Settled(self.unsettled.clone()));
            let _ = self.ledger.send(Event::Flush(forgotten));
            let _ = wait.recv();
        }
        failpoint::reach("settle-begin").map_err(disk("settle"))?;
        sync_published(&folders).map_err(disk("sync published outputs"))?;
        failpoint::reach("settle-synced").map_err(disk("settle"))?;
        let ids = std::mem::take(&mut self.unsettled);
        self.first_unsettled = None;
        // The ledger ends only after the publisher has said everything.
        let _ = self.ledger.send(Event::Settled(ids));
        Ok(())
    }

    /// Writes the snapshots that are out of date.
    fn refresh_tables(&mut self, show: Show) -> Result<(), PublisherError> {
        let now = show != Show::InTurn;
        for (index, line) in self.lines.iter_mut().enumerate() {
            // What an earlier life showed is better than half of it.
            if self.board.is_rebuilding(index) {
                continue;
            }
            let idle = now || self.board.pending(index) == 0;
            for published in line.tables.values_mut() {
                let waited = published.last.map_or(Duration::MAX, |last| last.elapsed());
                // A big table takes long to write, and files wait meanwhile.
                let rested = now || waited >= published.took * SNAPSHOT_REST;
                let due = idle || waited >= published.every;
                let open = now || published.refused.is_none_or(|refused| refused.is_due());
                if published.table.is_changed() && due && rested && open {
                    let began = Instant::now();
                    let written = self.space.insist("writing the snapshot of a table", || {
                        match !published.shows_nothing && published.table.is_empty() {
                            true => snapshot::remove(&line.folders, published),
                            false => snapshot::write(&line.folders, published),
                        }
                    });
                    if let Err(error) = written {
                        if show == Show::Last {
                            return Err(disk("write the snapshot of a table")(error));
                        }
                        refused::snapshot(&self.board, index, &line.name, published, error)?;
                        continue;
                    }
                    if published.refused.take().is_some() {
                        self.board.shows(index, &published.sink);
                    }
                    published.last = Some(Instant::now());
                    published.took = began.elapsed();
                }
            }
        }
        Ok(())
    }
}

/// Why the publisher cannot go on. The process ends; recovery repeats what was not done.
#[derive(Debug, thiserror::Error)]
pub enum PublisherError {
    /// An output could not be made visible.
    #[error("publish an output")]
    Publish(#[from] PublishError),
    /// The disk refused.
    #[error("{doing}")]
    Disk {
        /// What was being done.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

fn disk(doing: &'static str) -> impl Fn(io::Error) -> PublisherError {
    move |source| PublisherError::Disk { doing, source }
}
