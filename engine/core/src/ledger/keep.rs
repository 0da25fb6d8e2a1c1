//! Keep: the ledger's part in checkpoints, and the comparison of what is read again.
//!
//! The [schedule](crate::checkpoint::schedule) decides; this does it. A checkpoint counts once its row
//! is in the journal, and that is written here only, behind the commit of its epoch.

use std::io;
use std::time::Instant;

use tidemill_store::checkpoint::Manifest;
use tidemill_store::{AcceptedFile, CheckpointRow, JournalError};

use crate::checkpoint::digest::{self, Nondeterministic};
use crate::checkpoint::schedule::Next;
use crate::fault::{self, FaultKind};
use crate::ingest::coordinator::Command;
use crate::ledger::{Event, Ledger};
use crate::publish::Job;
use crate::sink::parts::PreparedPart;

impl Ledger {
    /// Asks for the checkpoints that are due.
    pub(super) fn ask_for_checkpoints(&mut self) {
        if self.stopping {
            return;
        }
        let now = Instant::now();
        for line in &mut self.lines {
            // The state is what it was when a trial is undone.
            if line.trial.is_some() {
                continue;
            }
            if let Some(full) = line.schedule.due(now) {
                let _ = line.commands.send(Command::Checkpoint { full });
                let _ = line.wake.activate();
            }
        }
    }

    /// Lets the dataflows end, each with a checkpoint behind its last file if that is worth it.
    pub(super) fn stop(&mut self) {
        self.stopping = true;
        for line in &mut self.lines {
            // What the coordinator has not begun is forgotten; it counts as if it were not.
            let running = self.running.values().filter(|file| file.pipeline == line.name);
            let running = running.map(|file| file.identity.bytes);
            // What is tried and not undone is in no checkpoint.
            let checkpoint = match &line.trial {
                None => line.schedule.due_at_end(Instant::now(), running),
                Some(_) => None,
            };
            let _ = line.commands.send(Command::Stop { checkpoint });
            let _ = line.wake.activate();
        }
    }

    /// The coordinator has marked a checkpoint behind an epoch.
    pub(super) fn marked(&mut self, pipeline: usize, epoch: u64) {
        let line = &mut self.lines[pipeline];
        let running = self.running.values().filter(|file| file.pipeline == line.name);
        let last = running.map(|file| file.epoch).filter(|running| *running <= epoch).max();
        let next = line.schedule.marked(epoch, last);
        self.go_on(pipeline, next);
    }

    /// Returns what the publisher is told right behind a file that is answered.
    pub(super) fn behind(&mut self, pipeline: usize, file: &AcceptedFile) -> Option<Job> {
        match self.lines[pipeline].schedule.answered(file.epoch, file.identity.bytes) {
            Next::AskTables { epoch, full } => Some(Job::Checkpoint { pipeline, epoch, full }),
            next => {
                // What is sealed counts once the ledger has heard of it: behind this commit.
                self.go_on(pipeline, next);
                None
            }
        }
    }

    /// Does what the schedule says.
    pub(super) fn go_on(&mut self, pipeline: usize, next: Next) {
        match next {
            Next::Wait => {}
            Next::AskTables { epoch, full } => {
                // The publisher ends after the ledger has heard of every mark.
                let _ = self.publisher.send(Job::Checkpoint { pipeline, epoch, full });
            }
            Next::Seal(mut manifest) => {
                manifest.pipeline.clone_from(&self.lines[pipeline].name);
                manifest.generation = self.keeping.generation;
                manifest.binary_version = env!("CARGO_PKG_VERSION").to_owned();
                let (events, sealed) = (self.keeping.events.clone(), manifest.clone());
                let reply = move |outcome| {
                    // The ledger waits for this before it ends.
                    let _ = events.send(Event::Sealed { pipeline, manifest: sealed, outcome });
                };
                let folder = &self.lines[pipeline].checkpoints;
                self.keeping.keeper.seal(folder, *manifest, Box::new(reply));
            }
            Next::GiveUp(reason) => self.give_up(pipeline, &reason),
        }
    }

    /// A manifest is durable: from the row in the journal on the checkpoint counts.
    pub(super) fn sealed(
        &mut self,
        pipeline: usize,
        manifest: Manifest,
        outcome: io::Result<(String, [u8; 32])>,
    ) -> Result<(), JournalError> {
        let (name, hash) = match outcome {
            Ok(sealed) => sealed,
            Err(error) => {
                self.give_up(pipeline, &error.to_string());
                return Ok(());
            }
        };
        let line = &mut self.lines[pipeline];
        let took = line.schedule.taking();
        let written = manifest.packs.iter().filter(|pack| is_new(&pack.name, &manifest));
        let bytes = written.map(|pack| pack.bytes).sum();
        let row = CheckpointRow {
            epoch: manifest.epoch,
            generation: manifest.generation,
            manifest: name,
            hash,
            bytes,
            took_ms: took.as_millis() as u64,
        };
        self.journal.add_checkpoint(&line.name, &row)?;
        tracing::info!(
            pipeline = line.name,
            epoch = row.epoch,
            rows = manifest.count(),
            bytes,
            took_ms = row.took_ms,
            "wrote a checkpoint"
        );
        line.schedule.sealed(manifest);
        line.may_discard = true;
        self.sweep(pipeline)
    }

    fn give_up(&mut self, pipeline: usize, reason: &str) {
        let line = &mut self.lines[pipeline];
        tracing::warn!(
            pipeline = line.name,
            "a checkpoint could not be written ({reason}); the last one still counts, and the next \
             one writes everything"
        );
        line.schedule.gave_up();
        if let Err(error) = self.sweep(pipeline) {
            fault::journal("list the checkpoints", &error);
        }
    }

    /// Deletes the files that belong to no checkpoint that counts.
    fn sweep(&mut self, pipeline: usize) -> Result<(), JournalError> {
        let line = &self.lines[pipeline];
        let kept = self.journal.checkpoints(&line.name)?;
        let events = self.keeping.events.clone();
        let reply = move || {
            // The ledger waits for this before it ends.
            let _ = events.send(Event::Swept { pipeline });
        };
        self.keeping.keeper.sweep(&line.checkpoints, kept, Box::new(reply));
        Ok(())
    }

    /// Compares what a committed file gave when it was read again with what was committed. Only the
    /// same version of the program with the same pipeline must give the same.
    pub(super) fn compare(
        &self,
        pipeline: usize,
        file: &AcceptedFile,
        parts: &[PreparedPart],
    ) -> Result<(), JournalError> {
        let line = &self.lines[pipeline];
        let Some(committed) = self.journal.committed_with(file.id)? else { return Ok(()) };
        let is_same = committed.plan_hash == line.plan_hash
            && committed.binary_version == env!("CARGO_PKG_VERSION");
        if !is_same {
            return Ok(());
        }
        // A correction takes outputs away that no sink speaks of. And what is kept from file to file
        // went another way if a version was left out that was corrected later.
        let is_exact = !line.skips && file.correction.is_none();
        let is_linear = |sink: &str| {
            line.sinks.iter().position(|name| name == sink).is_some_and(|at| line.linear[at])
        };
        let is_compared = |sink: &str, of: u64| is_exact || (is_linear(sink) && of == file.id);
        let mut committed = committed;
        committed.parts.retain(|part| is_compared(&part.sink, part.of));
        let now: Vec<PreparedPart> = parts
            .iter()
            .filter(|part| is_compared(&line.sinks[part.sink], part.of))
            .cloned()
            .collect();
        let difference = digest::difference(&committed, &now, &line.sinks);
        if let Some(difference) = difference {
            let (file, epoch) = (file.stored_name.clone(), file.epoch);
            let error = Nondeterministic { file, epoch, difference };
            fault::end(FaultKind::Invariant, "read committed files again", &error);
        }
        Ok(())
    }
}

/// Returns whether a pack was written for this checkpoint.
fn is_new(pack: &str, manifest: &Manifest) -> bool {
    pack.starts_with(&format!("{}-{}-", manifest.epoch, manifest.generation))
}
