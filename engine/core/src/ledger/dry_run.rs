//! Dry run: the ledger's part in trying a correction without doing it.
//!
//! The correction runs as an epoch of the live dataflow, and its inverse as the next one: the rows of the
//! new version go and those of the old come back, under the names that they had. What sinks say of both
//! epochs is taken down and dropped, and because sums are exact all state is then what it was. Nothing
//! of it is ever committed or seen, no checkpoint is taken in between, and a life that ends in between
//! leaves no trace: the next one builds its state from what is committed. Both epochs are void.
//!
//! Files that come meanwhile wait until the first of the two is answered, as they do behind a correction.

use std::io;
use std::path::PathBuf;
use std::sync::mpsc::Sender;
use std::time::Instant;

use tidemill_operators::Batch;
use tidemill_store::name::CHANGES_ENDING;
use tidemill_store::{AcceptedFile, Identity, JournalError, NewFile, PartBody, Verdict, failpoint};

use crate::answer::Answer;
use crate::dry_run::{DryRun, SAMPLE_BYTES_IN_ALL};
use crate::engine::SubmitError;
use crate::fault::{self, FaultKind};
use crate::ingest::inflate::Compression;
use crate::ingest::order::FileOrder;
use crate::ledger::correct::take_back;
use crate::ledger::order::compression_of;
use crate::ledger::{Ledger, Waiting};
use crate::publish::Job;

/// The numbers of versions that are tried: no submission has them, so that a dry run uses none up.
const NUMBERS_FROM: u64 = 1 << 62;

/// What was asked of the ledger: to try a correction.
pub struct Try {
    /// Which pipeline.
    pub pipeline: usize,
    /// What is tried.
    pub change: Tried,
    /// Where a second name of the old version may lie meanwhile.
    pub folder: PathBuf,
    /// Who waits for the answer.
    pub reply: Sender<Result<DryRun, SubmitError>>,
}

/// A correction that is tried.
pub enum Tried {
    /// This file comes; it lies at a place of its own and stays there until the answer.
    File {
        /// The file. It has no number that counts.
        file: Box<NewFile>,
        /// Where it lies.
        path: PathBuf,
    },
    /// This submission goes.
    Remove(u64),
}

/// Where a trial is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Its epoch has not begun.
    Waits,
    /// The correction runs.
    There,
    /// Its inverse runs.
    Back,
}

/// A trial that was accepted.
pub struct Trial {
    step: Step,
    /// Its epoch; the inverse has the next one.
    epoch: u64,
    /// What is read, and what is read to undo it.
    there: FileOrder,
    back: Option<FileOrder>,
    old: Option<AcceptedFile>,
    /// A second name of the old version.
    link: Option<PathBuf>,
    began: Instant,
    told: DryRun,
    /// The rows that tables would gain and lose: they must come back.
    rows: Vec<(usize, Batch)>,
    reply: Sender<Result<DryRun, SubmitError>>,
}

impl Trial {
    /// Returns whether other files must wait: the state is that of a correction that was not made.
    pub(super) fn holds(&self) -> bool {
        self.step != Step::Back
    }

    /// Returns whether whatever waits must go on waiting: it runs.
    pub(super) fn holds_now(&self) -> bool {
        self.step == Step::There
    }
}

/// A dry run did not leave everything as it was.
#[derive(Debug, thiserror::Error)]
#[error("{file}: {detail}; the state is built again from what is committed")]
struct NotUndone {
    file: String,
    detail: String,
}

impl Ledger {
    /// Accepts trials: gives each its epochs, and lets it begin when it is its turn.
    pub(super) fn try_out(&mut self, asked: Try) -> Result<(), JournalError> {
        let reply = asked.reply.clone();
        match self.prepare(asked)? {
            Ok((pipeline, trial)) => {
                let waits = !self.lines[pipeline].behind.is_empty();
                self.lines[pipeline].trial = Some(trial);
                match waits {
                    true => self.lines[pipeline].behind.push_back(Waiting::Trial),
                    false => self.begin_trial(pipeline),
                }
            }
            // Whoever asked may have gone.
            Err(refused) => drop(reply.send(Err(refused))),
        }
        Ok(())
    }

    /// Finds out what is corrected, and how it is read there and back.
    fn prepare(
        &mut self,
        asked: Try,
    ) -> Result<Result<(usize, Box<Trial>), SubmitError>, JournalError> {
        let Try { pipeline, change, folder, reply } = asked;
        if self.stopping {
            return Ok(Err(SubmitError::Unavailable { reason: "it is stopping".into() }));
        }
        let what = match &change {
            Tried::File { file, .. } => format!("{:?}", file.name),
            Tried::Remove(of) => format!("submission {of}"),
        };
        let busy = |reason: &str| Ok(Err(SubmitError::NoDryRun { what, reason: reason.into() }));
        if !self.control.paused_sinks(pipeline).is_empty() {
            return busy("a sink of its pipeline is paused");
        }
        if self.lines[pipeline].trial.is_some() {
            return busy("another dry run of this pipeline is under way");
        }
        if !self.turns.is_free() {
            return busy("it finds out which file crashes it; no dry run meanwhile");
        }
        // Later than all that there is, as it would be.
        let (id, removal) = (NUMBERS_FROM + 2 * self.tried, NUMBERS_FROM + 2 * self.tried + 1);
        self.tried += 1;
        let (old, output_name, name) = match &change {
            Tried::Remove(of) => match self.journal.correctable(*of)? {
                Err(reason) => return Ok(Err(no(*of, reason))),
                Ok(old) => (Some(old.clone()), old.output_name.clone(), old.name.clone()),
            },
            Tried::File { file, .. } => {
                let Self { journal, space, .. } = self;
                let would = space.insist("reading the journal", || journal.would_accept(file))?;
                let old = match would.replaces {
                    None => None,
                    Some(of) => match self.journal.correctable(of)? {
                        Err(reason) => return Ok(Err(no(of, reason))),
                        Ok(old) => Some(old),
                    },
                };
                (old, would.output_name, file.name.clone())
            }
        };
        let line = &self.lines[pipeline];
        let source = match &change {
            Tried::File { file, .. } => &file.source,
            Tried::Remove(_) => old.as_ref().map(|old| &old.source).unwrap_or(&line.name),
        };
        let source = line.sources.iter().position(|name| name == source).unwrap_or_default();
        let is_kept = line.stateful.get(source).copied().unwrap_or_default();
        let nothing = Identity { device: 0, inode: 0, bytes: 0, modified_ns: 0 };
        let (path, identity, hash, removes) = match change {
            Tried::File { file, path } => (path, file.identity, file.hash, false),
            Tried::Remove(_) => (PathBuf::new(), nothing, None, true),
        };
        let compression = if removes { Compression::None } else { compression_of(Some(&path)) };
        let mut there = FileOrder {
            epoch: 0,
            submission: id,
            rows_of: id,
            source,
            path,
            or_at: Vec::new(),
            identity,
            hash,
            compression,
            name: name.clone(),
            output_name,
            replay: false,
            old: None,
            removes,
            refused: None,
        };
        let (mut link, mut returned) = (None, None);
        if let Some(old) = old.as_ref().filter(|_| is_kept)
            && !self.journal.is_lost(old.id)?
        {
            let mut order = take_back(line, &there, old);
            // Whoever moves or deletes it meanwhile takes a name away, not the bytes.
            let second = folder.join(format!("dry-run-{id}-old"));
            let places = [&order.path].into_iter().chain(&order.or_at);
            if places.map(|place| std::fs::hard_link(place, &second)).any(|linked| linked.is_ok()) {
                let first = std::mem::replace(&mut order.path, second.clone());
                order.or_at.insert(0, first);
                link = Some(second);
            }
            returned = Some(order);
        }
        let epoch = {
            let Self { journal, space, lines, .. } = self;
            let name = &lines[pipeline].name;
            space.insist("writing the journal", || journal.void_epochs(name, 2))?
        };
        there.epoch = epoch;
        let back = is_kept.then(|| inverse(&there, returned.as_ref(), old.as_ref(), removal));
        there.old = returned.map(|old| Box::new(FileOrder { epoch, ..old }));
        let told = DryRun {
            pipeline: self.lines[pipeline].name.clone(),
            name,
            corrects: old.as_ref().map(|old| old.id),
            removes,
            ..DryRun::default()
        };
        let (step, began, rows) = (Step::Waits, Instant::now(), Vec::new());
        let trial = Trial { step, epoch, there, back, old, link, began, told, rows, reply };
        Ok(Ok((pipeline, Box::new(trial))))
    }

    /// Returns whether an epoch is one of a trial.
    pub(super) fn is_tried(&self, pipeline: usize, epoch: u64) -> bool {
        let trial = self.lines[pipeline].trial.as_ref();
        trial.is_some_and(|trial| epoch == trial.epoch || epoch == trial.epoch + 1)
    }

    /// Gives the correction to the dataflow.
    pub(super) fn begin_trial(&mut self, pipeline: usize) {
        let Some(trial) = &mut self.lines[pipeline].trial else { return };
        trial.step = Step::There;
        let order = trial.there.clone();
        self.begin(pipeline, order);
        pass(failpoint::reach("dry-run-there"));
    }

    /// Takes down what was said of an epoch of a trial.
    pub(super) fn tried(
        &mut self,
        pipeline: usize,
        mut answer: Answer,
    ) -> Result<(), JournalError> {
        let weight = answer.weight();
        let Some(mut trial) = self.lines[pipeline].trial.take() else { return Ok(()) };
        if trial.step == Step::Back {
            self.undone(pipeline, &trial, &answer);
            self.forget(pipeline, Vec::new(), weight);
            self.end_trial(*trial);
            return Ok(());
        }
        trial.told.failure = answer.failure.clone();
        (trial.told.records, trial.told.rejected) = (answer.records, answer.rejected);
        trial.rows = std::mem::take(&mut answer.rows);
        let staged = self.tell(pipeline, &mut trial, &mut answer)?;
        self.forget(pipeline, staged, weight);
        // What failed has changed nothing.
        let back = trial.back.take().filter(|_| trial.told.failure.is_none());
        let Some(back) = back else {
            self.end_trial(*trial);
            return Ok(());
        };
        if self.stopping {
            // This life ends with a state that is thrown away.
            self.lines[pipeline].trial = Some(trial);
            return Ok(());
        }
        trial.step = Step::Back;
        self.lines[pipeline].trial = Some(trial);
        self.begin(pipeline, back);
        pass(failpoint::reach("dry-run-back"));
        Ok(())
    }

    /// Writes down what would change; returns the staged parts that nobody wants.
    fn tell(
        &self,
        pipeline: usize,
        trial: &mut Trial,
        answer: &mut Answer,
    ) -> Result<Vec<PathBuf>, JournalError> {
        let line = &self.lines[pipeline];
        let (mut outcome, mut staged) = self.decide(pipeline, answer);
        self.take_outputs_away(trial.old.as_ref(), &mut outcome, &[])?;
        let Verdict::Committed { parts } = outcome.verdict else { return Ok(staged) };
        for part in parts {
            if let PartBody::Staged(path) = &part.body {
                staged.push(path.clone());
            }
            // What a changelog would say is what its table would.
            if part.sink.ends_with(CHANGES_ENDING) {
                continue;
            }
            let before = self.journal.output_at(&line.name, &part.sink, &part.name)?;
            let is_removed = matches!(part.body, PartBody::Removed);
            let after = (!is_removed).then_some((part.bytes, part.hash));
            trial.told.output(&part.sink, &part.name, before.as_ref(), after);
        }
        trial.told.outputs.sort_by(|one, two| one.path.cmp(&two.path));
        let mut bytes = SAMPLE_BYTES_IN_ALL;
        for (at, table) in &line.tables {
            let rows = trial.rows.iter().filter(|(to, _)| to == at).map(|(_, batch)| batch);
            trial.told.tables.extend(table.told(&table.net(rows), &mut bytes));
        }
        Ok(staged)
    }

    /// Ends the process unless the inverse has taken back exactly what the trial did to tables.
    fn undone(&self, pipeline: usize, trial: &Trial, answer: &Answer) {
        let refuse = |detail: String| {
            let error = NotUndone { file: trial.told.name.clone(), detail };
            fault::end(FaultKind::Invariant, "take a dry run back", &error)
        };
        if let Some((code, text)) = &answer.failure {
            refuse(format!("{code}: {text}"));
        }
        for (at, table) in &self.lines[pipeline].tables {
            let both = trial.rows.iter().chain(&answer.rows).filter(|(to, _)| to == at);
            let left = table.net(both.map(|(_, batch)| batch)).len();
            if left > 0 {
                refuse(format!("{left} rows of {} did not come back", table.name));
            }
        }
    }

    fn forget(&self, pipeline: usize, staged: Vec<PathBuf>, weight: u64) {
        // The publisher ends after the ledger.
        let _ = self.publisher.send(Job::Forget { pipeline, staged, weight });
    }

    fn end_trial(&self, trial: Trial) {
        if let Some(link) = &trial.link {
            // What stays there is swept away at the next start.
            let _ = std::fs::remove_file(link);
        }
        let took_us = trial.began.elapsed().as_micros() as u64;
        tracing::info!(
            pipeline = trial.told.pipeline,
            file = trial.told.name,
            epoch = trial.epoch,
            "tried a correction; nothing was changed"
        );
        // Whoever asked may have gone.
        let _ = trial.reply.send(Ok(DryRun { took_us, ..trial.told }));
    }
}

/// Returns what undoes a trial: the new version goes, and the old one comes back under its own number
/// and name. Sinks need not write what is there already.
fn inverse(
    there: &FileOrder,
    returned: Option<&FileOrder>,
    old: Option<&AcceptedFile>,
    removal: u64,
) -> FileOrder {
    let epoch = there.epoch + 1;
    let comes = returned.zip(old);
    let submission = comes.map_or(removal, |(_, old)| old.id);
    let goes = (!there.removes).then(|| {
        let old = FileOrder { epoch, submission, replay: true, ..there.clone() };
        Box::new(FileOrder { old: None, ..old })
    });
    match comes {
        Some((order, old)) => FileOrder {
            epoch,
            submission,
            rows_of: old.id,
            output_name: old.output_name.clone(),
            replay: true,
            old: goes,
            removes: false,
            ..order.clone()
        },
        None => FileOrder {
            epoch,
            submission,
            rows_of: submission,
            path: PathBuf::new(),
            identity: Identity { device: 0, inode: 0, bytes: 0, modified_ns: 0 },
            hash: None,
            compression: Compression::None,
            replay: true,
            old: goes,
            removes: true,
            ..there.clone()
        },
    }
}

fn no(id: u64, reason: String) -> SubmitError {
    SubmitError::NoCorrection { what: format!("submission {id}"), reason }
}

fn pass(reached: io::Result<()>) {
    reached.unwrap_or_else(|error| fault::disk("try a correction", &error));
}
