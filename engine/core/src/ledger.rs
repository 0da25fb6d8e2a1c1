//! Ledger: the one thread that writes the journal. It turns claims into accepted epochs and answers
//! into commits, in groups: whatever waits is made durable by one transaction.
//!
//! Runs in process 0. Holds no ground state of its own; the journal is the ground state.

use std::borrow::Borrow;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant, SystemTime};

use tidemill_store::{
    AcceptedFile, Book, CLIENT_IDS_KEPT, Folders, Journal, JournalError, NewFile, Outcome, Receipt,
    Replaced, Verdict, Versions, barrier, queue,
};
use timely::scheduling::activate::SyncActivator;

use crate::answer::{Answer, Heard};
use crate::board::{Board, Milestones};
use crate::checkpoint::RestoreOrder;
use crate::checkpoint::keeper::Keeper;
use crate::checkpoint::schedule::Schedule;
use crate::control::Control;
use crate::dry_run::TableShape;
use crate::fault::{self, FaultKind};
use crate::ingest::backlog::Backlog;
use crate::ingest::coordinator::Command;
use crate::plan::Retention;
use crate::publish::Job;
use crate::receipt;
use crate::retry::Policy;
use crate::space::Space;
use crate::turns::{Turn, Turns};

mod control;
mod correct;
mod decide;
mod deploy;
mod dry_run;
mod event;
mod keep;
mod order;
mod postpone;
mod retry;
mod set;
mod shelf;

pub use control::Change;
pub use correct::Removal;
pub use deploy::Boundary;
pub use dry_run::{Trial, Tried, Try};
pub use event::{AcceptReply, Event};
pub use order::Waiting;
pub(crate) use order::compression_of;
pub use set::HandOver;

/// Events taken into one transaction at most.
const GROUP_MAX: usize = 512;

/// How long the ledger sleeps when nothing happens.
const IDLE: Duration = Duration::from_millis(500);

/// How long it sleeps while files wait for their turn.
const TURN: Duration = Duration::from_millis(5);

/// How often ids of clients that are too old are forgotten.
const FORGET_EVERY: Duration = Duration::from_secs(60);

/// How much longer ids are remembered than promised: clocks step back a little.
const FORGET_MARGIN: Duration = Duration::from_secs(3600);

/// The ledger's end of one pipeline.
pub struct Line {
    /// Its name.
    pub name: String,
    /// Its folders.
    pub folders: Folders,
    /// Its sources, in the order of the plan.
    pub sources: Vec<String>,
    /// Where the parts of outputs go, by their number: its sinks, then the changelogs of its tables.
    pub sinks: Vec<String>,
    /// Whether operators keep something of one file for the next.
    pub keeps_state: bool,
    /// What its receipts speak of.
    pub book: Book,
    /// To its coordinator.
    pub commands: Sender<Command>,
    /// Wakes its coordinator.
    pub wake: SyncActivator,
    /// What waits behind its dataflow.
    pub backlog: Backlog,
    /// Its plan.
    pub plan_hash: String,
    /// Where its checkpoints are.
    pub checkpoints: PathBuf,
    /// When they are written.
    pub schedule: Schedule,
    /// Of each source, whether something is kept of its files.
    pub stateful: Vec<bool>,
    /// How reading a file of each source is tried again.
    pub retry: Vec<Policy>,
    /// Of each source, whether its files may be refused before they are read, or be of a set.
    pub arrival_refuses: Vec<bool>,
    /// How long inputs of each source are retained for corrections.
    pub retention: Vec<Retention>,
    /// The epoch that was restored: what came up to it is not read again.
    pub restored: u64,
    /// Of each sink, whether its outputs follow from one file alone.
    pub linear: Vec<bool>,
    /// Which versions of its files what it keeps follows from.
    pub versions: Versions,
    /// The committed files that this life reads again.
    pub read_again: HashSet<u64>,
    /// Whether versions that were corrected since are left out of what is read again.
    pub skips: bool,
    /// What waits for a file that is not finished.
    pub behind: VecDeque<Waiting>,
    /// The correction that is being tried.
    pub trial: Option<Box<Trial>>,
    /// Its tables, by the sink's place in the plan.
    pub tables: BTreeMap<usize, TableShape>,
    /// Answers that wait until their sink is resumed or all of their set are there, and all behind
    /// them, in the order of epochs.
    pub held: VecDeque<Answer>,
    /// Whether there were corrections in this life.
    pub corrects: bool,
    /// Whether bytes of old versions may have become unnecessary.
    pub may_discard: bool,
}

/// The ledger.
pub struct Ledger {
    journal: Journal,
    lines: Vec<Line>,
    board: Arc<Board>,
    publisher: Sender<Job>,
    keeping: Keeping,
    running: BTreeMap<u64, AcceptedFile>,
    /// Files that wait to be tried again, by number.
    postponed: BTreeMap<u64, postpone::Waiting>,
    space: Space,
    /// Who may begin when.
    turns: Turns,
    /// Corrections that were tried.
    tried: u64,
    /// What a person holds back.
    control: Control,
    /// Files under way that are of a set, by number.
    sets: BTreeMap<u64, set::Member>,
    handover: HandOver,
    stopping: bool,
    /// The pipeline that has reached its boundary, or that begins anew without a set: what comes now is
    /// for the next life.
    deployed: Option<String>,
}

/// Who writes checkpoints, and where they say that they have.
pub struct Keeping {
    /// Who writes them.
    pub keeper: Keeper,
    /// To this ledger.
    pub events: Sender<Event>,
    /// The generation.
    pub generation: u64,
}

impl Ledger {
    /// Returns a ledger over an open journal.
    #[expect(clippy::too_many_arguments, reason = "one call, from start")]
    pub fn new(
        journal: Journal,
        lines: Vec<Line>,
        board: Arc<Board>,
        publisher: Sender<Job>,
        keeping: Keeping,
        space: Space,
        turns: Turns,
        control: Control,
        handover: HandOver,
    ) -> Self {
        let (running, postponed) = (BTreeMap::new(), BTreeMap::new());
        let (stopping, tried, deployed) = (false, 0, None);
        Self {
            journal,
            lines,
            board,
            publisher,
            keeping,
            running,
            postponed,
            space,
            turns,
            tried,
            control,
            sets: BTreeMap::new(),
            handover,
            stopping,
            deployed,
        }
    }

    /// Lets a pipeline begin with a checkpoint. Comes before its first file.
    pub fn restore(&mut self, pipeline: usize, order: RestoreOrder) {
        let line = &self.lines[pipeline];
        let _ = line.commands.send(Command::Restore(order));
        let _ = line.wake.activate();
    }

    /// Gives a pipeline a file of an earlier life: one that was not finished, or (`replay`) one that
    /// was committed and is read again to rebuild state.
    pub fn resume(
        &mut self,
        pipeline: usize,
        file: AcceptedFile,
        replay: bool,
    ) -> Result<(), JournalError> {
        if replay {
            self.board.rebuilds(pipeline);
        } else {
            self.board.accepted(pipeline, &file);
        }
        self.order(pipeline, file, replay)
    }

    /// Works until [`Event::End`]. An error ends the process.
    pub fn run(mut self, events: &Receiver<Event>) -> Result<(), JournalError> {
        let mut forgot = Instant::now();
        let mut ended = false;
        // A life may be shorter than the time between two looks.
        self.discard_expired()?;
        loop {
            self.give_turns()?;
            let due = self.try_again_due()?;
            if forgot.elapsed() >= FORGET_EVERY {
                let before = SystemTime::now() - CLIENT_IDS_KEPT - FORGET_MARGIN;
                let Self { journal, space, .. } = &mut self;
                space.insist("writing the journal", || journal.forget_client_ids(before))?;
                self.discard_expired()?;
                self.lines.iter_mut().for_each(|line| line.may_discard = true);
                forgot = Instant::now();
            }
            let patience = if self.turns.is_waiting() { TURN } else { IDLE.min(due) };
            let first = match events.recv_timeout(patience) {
                Ok(event) => Some(event),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            };
            if let Some(first) = first {
                let mut group = vec![first];
                group.extend(events.try_iter().take(GROUP_MAX - 1));
                ended |= self.work(group)?;
            }
            // A checkpoint that is being written is worth some milliseconds of waiting.
            // One that waits for a file that is held back is left to the next life.
            let is_writing = |line: &Line| line.schedule.is_busy() && line.held.is_empty();
            if ended && !self.lines.iter().any(is_writing) {
                return Ok(());
            }
            self.discard_retired()?;
            self.ask_for_checkpoints();
        }
    }

    /// Handles a group of events; returns whether it was the last.
    fn work(&mut self, group: Vec<Event>) -> Result<bool, JournalError> {
        let mut accepts = Vec::new();
        let mut answers = Vec::new();
        let mut settled = Vec::new();
        let mut flushes = Vec::new();
        let mut retries = Vec::new();
        let mut removals = Vec::new();
        let mut deploys = Vec::new();
        let mut now = Vec::new();
        let mut trials = Vec::new();
        let mut changes = Vec::new();
        let mut refreshes = Vec::new();
        let mut ended = false;
        for event in group {
            match event {
                Event::Accept { files, reply } => accepts.push((files, reply)),
                Event::Retry { of, file, reply } => retries.push((of, file, reply)),
                Event::TryNow { id, reply } => now.push((id, reply)),
                Event::Remove(removal) => removals.push(removal),
                Event::Deploy { boundary, reply } => deploys.push((boundary, reply)),
                Event::Try(asked) => trials.push(asked),
                Event::Heard {
                    pipeline,
                    heard: Heard::Progress { submission, bytes, records },
                } => {
                    self.board.progressed(pipeline, submission, bytes, records);
                }
                Event::Heard { pipeline, heard: Heard::Answered(answer) } => {
                    answers.push((pipeline, *answer));
                }
                Event::Heard { pipeline, heard: Heard::Marked { epoch } } => {
                    self.marked(pipeline, epoch);
                }
                Event::Heard { pipeline, heard: Heard::Kept { parts, .. } } => {
                    let next = self.lines[pipeline].schedule.operators_kept(parts);
                    self.go_on(pipeline, next);
                }
                Event::TableKept { pipeline, part } => {
                    let next = self.lines[pipeline].schedule.table_kept(part);
                    self.go_on(pipeline, next);
                }
                Event::Sealed { pipeline, manifest, outcome } => {
                    self.sealed(pipeline, *manifest, outcome)?;
                }
                Event::Swept { pipeline } => self.lines[pipeline].schedule.swept(),
                Event::Settled(ids) => settled.extend(ids),
                Event::Unpublished { id, at_us, why } => {
                    let Self { journal, space, .. } = self;
                    space.insist("writing the journal", || {
                        journal.could_not_publish(id, at_us, &why)
                    })?;
                }
                Event::Control(change) => changes.push(change),
                Event::Refresh(reply) => refreshes.push(reply),
                Event::Stop => self.stop(),
                Event::Flush(reply) => flushes.push(reply),
                Event::End => ended = true,
            }
        }
        self.leave_to_the_next(&mut accepts, &mut retries, &mut removals);
        self.accept(accepts)?;
        for (of, file, reply) in retries {
            // Whoever asked may have gone; the file is accepted all the same.
            let _ = reply.send(self.retry(of, &file)?);
        }
        for (id, reply) in now {
            // Whoever asked may have gone; it is tried all the same.
            let _ = reply.send(self.try_now(id)?);
        }
        for removal in removals {
            self.remove(removal)?;
        }
        for asked in trials {
            self.try_out(*asked)?;
        }
        let answers = self.hold_back(answers)?;
        self.finish(answers)?;
        for change in changes {
            self.change(change)?;
        }
        for reply in refreshes {
            // The publisher ends after the ledger.
            let _ = self.publisher.send(Job::Refresh(reply));
        }
        if !settled.is_empty() {
            let Self { journal, space, .. } = self;
            space.insist("writing the journal", || journal.settle(&settled))?;
            self.lines.iter_mut().for_each(|line| line.may_discard |= line.corrects);
        }
        // Last: what came with it in one group was there before it.
        for (boundary, reply) in deploys {
            let _ = reply.send(self.deploy(&boundary)?);
        }
        for reply in flushes {
            let _ = reply.send(());
        }
        Ok(ended)
    }

    fn accept(
        &mut self,
        accepts: Vec<(Vec<NewFile>, Option<AcceptReply>)>,
    ) -> Result<(), JournalError> {
        let all: Vec<NewFile> = accepts.iter().flat_map(|(files, _)| files.clone()).collect();
        if all.is_empty() {
            return Ok(());
        }
        self.try_corrected_again(&all)?;
        let Self { journal, space, .. } = self;
        let accepted = space.insist("writing the journal", || journal.accept(&all))?;
        let mut accepted = accepted.into_iter();
        for (files, reply) in accepts {
            let mine: Vec<AcceptedFile> = accepted.by_ref().take(files.len()).collect();
            for file in &mine {
                if let Some(pipeline) =
                    self.lines.iter().position(|line| line.name == file.pipeline)
                {
                    if file.duplicate_of.is_some() {
                        // It is final; the publisher ends after the ledger.
                        let file = Box::new(file.clone());
                        let _ = self.publisher.send(Job::Duplicate { pipeline, file });
                        continue;
                    }
                    self.board.accepted(pipeline, file);
                    self.order(pipeline, file.clone(), false)?;
                }
            }
            if let Some(reply) = reply {
                // Whoever asked may have gone; the file is accepted all the same.
                let _ = reply.send(mine);
            }
        }
        Ok(())
    }

    /// Lets those begin whose turn it is.
    fn give_turns(&mut self) -> Result<(), JournalError> {
        while self.turns.is_waiting() && !self.stopping && self.deployed.is_none() {
            // What waits for another file has not begun either.
            let behind = self.lines.iter().flat_map(|line| &line.behind);
            let behind = behind.filter(|one| matches!(one, Waiting::File(..))).count();
            // Nor does one go on whose answer is held back.
            let held: usize = self.lines.iter().map(|line| line.held.len()).sum();
            let behind = behind + self.postponed.len() + held;
            let idle = self.board.outstanding() <= self.turns.held() + behind;
            match self.turns.next(idle) {
                None => return Ok(()),
                Some(Turn::Begin(pipeline, order)) => self.begin(pipeline, order),
                Some(Turn::Alone(pipeline, order)) => {
                    let (id, generation) = (order.submission, self.keeping.generation);
                    tracing::warn!(submission = id, file = order.name, "runs alone");
                    let Self { journal, space, .. } = self;
                    space.insist("writing the journal", || journal.run_alone(id, generation))?;
                    self.begin(pipeline, order);
                }
            }
        }
        Ok(())
    }

    fn finish(&mut self, answers: Vec<(usize, Answer)>) -> Result<(), JournalError> {
        let mut jobs = Vec::with_capacity(answers.len());
        let mut receipts = HashMap::with_capacity(answers.len());
        let mut waiting_again = Vec::new();
        let finished: Vec<usize> = answers.iter().map(|(pipeline, _)| *pipeline).collect();
        let mut tried = Vec::new();
        let mut with_set = false;
        for (pipeline, mut answer) in answers {
            if self.is_tried(pipeline, answer.epoch) {
                tried.push((pipeline, answer));
                continue;
            }
            let of_set = self.sets.remove(&answer.submission).is_some();
            with_set |= of_set;
            // That of a set was released when it began to wait.
            let weight = if of_set { 0 } else { answer.weight() };
            let Some(file) = self.running.remove(&answer.submission) else {
                self.lines[pipeline].backlog.release(weight);
                continue;
            };
            if answer.replay {
                if let Some((code, detail)) = answer.failure {
                    // It was whole when this life began.
                    let name = &file.stored_name;
                    let error = io::Error::other(format!(
                        "{name}: {code}: {detail}; it was read when it was committed: if the pipeline file \
                         was changed since, start with the one before"
                    ));
                    fault::end(FaultKind::Damaged, "rebuild tables from processed/", &error);
                }
                self.compare(pipeline, &file, &answer.parts)?;
                jobs.push(Job::Replayed {
                    pipeline,
                    epoch: answer.epoch,
                    rows: answer.rows,
                    weight,
                });
                jobs.extend(self.behind(pipeline, &file));
                continue;
            }
            if file.is_removal() {
                // It has no bytes; those that it takes back were found to be the right ones.
                answer.hash = file.hash;
            } else if !of_set {
                self.check_again(pipeline, &file, &mut answer);
            }
            self.board.answered(pipeline, file.id);
            self.stop_behind(pipeline, &file.name, answer.failure.as_ref())?;
            let milestones =
                Milestones { read_at: answer.read_at, answered_at: answer.answered_at };
            if answer.failure.is_none() {
                receipts.insert(file.id, receipt::receipt(&self.lines[pipeline].book, &answer));
            }
            let postponed = match of_set {
                true => None,
                false => self.postponement(pipeline, &file, &answer)?,
            };
            let (mut outcome, staged) = self.decide(pipeline, &mut answer);
            if let Some((why, waiting)) = postponed {
                outcome.verdict = Verdict::Postponed(why);
                waiting_again.push(waiting);
            }
            let mut retired = None;
            if file.correction.is_some() && answer.failure.is_none() {
                retired = self.journal.corrected_by(file.id)?;
                self.take_outputs_away(retired.as_ref(), &mut outcome, &jobs)?;
            }
            if !barrier::holds("move-after-commit") {
                let folders = &self.lines[pipeline].folders;
                let _ = queue::finish(folders, &file.claimed_name, &file.stored_name);
            }
            let rows = if answer.failure.is_none() { answer.rows } else { Vec::new() };
            let behind = self.behind(pipeline, &file);
            jobs.push(Job::Finished {
                pipeline,
                file: Box::new(file),
                outcome: Box::new(outcome),
                retired: retired.map(Box::new),
                rows,
                staged,
                milestones,
                weight,
            });
            jobs.extend(behind);
        }
        if !barrier::holds("publish-after-commit") {
            let outcomes: Vec<Outcome> = jobs.iter().filter_map(Job::outcome).cloned().collect();
            self.publish(jobs);
            self.commit(&outcomes, &receipts)?;
        } else {
            let outcomes: Vec<&Outcome> = jobs.iter().filter_map(Job::outcome).collect();
            let replaced = self.commit(&outcomes, &receipts)?;
            shelf::tell(&mut jobs, replaced);
            if with_set {
                jobs = vec![Job::Together(jobs)];
            }
            self.publish(jobs);
        }
        waiting_again.into_iter().for_each(|waiting| self.wait_again(waiting));
        // What they are compared with is what was committed before them.
        for (pipeline, answer) in tried {
            self.tried(pipeline, answer)?;
        }
        finished.into_iter().try_for_each(|pipeline| self.go_on_behind(pipeline))
    }

    /// The commit point: nothing is published before this returns. A receipt that does not balance
    /// commits nothing, and ends the process.
    fn commit<O: Borrow<Outcome>>(
        &mut self,
        outcomes: &[O],
        receipts: &HashMap<u64, Receipt>,
    ) -> Result<Vec<Replaced>, JournalError> {
        if outcomes.is_empty() {
            return Ok(Vec::new());
        }
        let Self { journal, space, .. } = self;
        space.insist("writing the journal", || journal.finish_with(outcomes, receipts))
    }

    fn publish(&self, jobs: Vec<Job>) {
        for job in jobs {
            // The publisher ends after the ledger.
            let _ = self.publisher.send(job);
        }
    }
}
