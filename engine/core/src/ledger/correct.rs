//! Correct: the ledger's part in replacing and removing files.
//!
//! A correction is read only when what it corrects is finished: what it takes back is known only then.
//! Until then it waits, and all behind it, because epochs are given out in their order.

use std::collections::BTreeSet;
use std::sync::mpsc::Sender;
use std::time::Duration;

use tidemill_store::name::CHANGES_ENDING;
use tidemill_store::{
    AcceptedFile, JournalError, NeededBy, Outcome, Part, PartBody, Removed, Retired, Verdict,
    queue, trial,
};

use crate::board::to_us;
use crate::fault;
use crate::ingest::order::FileOrder;
use crate::ledger::order::compression_of;
use crate::ledger::{Ledger, Line, Waiting, shelf};
use crate::plan::Retention;
use crate::publish::Job;

/// What was asked of the ledger: to take a file away.
pub struct Removal {
    /// The submission that is to be taken away.
    pub of: u64,
    /// The number of the new one.
    pub id: u64,
    /// Who waits for the answer.
    pub reply: Sender<Removed>,
}

impl Ledger {
    /// Says that versions that were corrected since are left out of what a pipeline reads again.
    pub fn skips(&mut self, pipeline: usize) {
        self.lines[pipeline].skips = true;
    }

    /// Accepts removals and gives them to their dataflows.
    pub(super) fn remove(&mut self, removal: Removal) -> Result<(), JournalError> {
        let Removal { of, id, reply } = removal;
        let Self { journal, space, .. } = self;
        let removed = space.insist("writing the journal", || journal.remove(of, id))?;
        if let Removed::Accepted(file) = &removed
            && let Some(pipeline) = self.lines.iter().position(|line| line.name == file.pipeline)
        {
            self.board.accepted(pipeline, file);
            self.order(pipeline, (**file).clone(), false)?;
        }
        // Whoever asked may have gone; the removal is accepted all the same.
        let _ = reply.send(removed);
        Ok(())
    }

    /// Returns whether a file has to wait: it corrects one that is not finished, or stands behind one
    /// that waits.
    pub(super) fn must_wait(&self, pipeline: usize, file: &AcceptedFile) -> bool {
        let waits_for = file.correction.and_then(|correction| correction.of);
        let line = &self.lines[pipeline];
        !line.behind.is_empty()
            || line.trial.as_ref().is_some_and(|trial| trial.holds())
            || waits_for.is_some_and(|of| self.running.contains_key(&of))
    }

    /// Gives out what waited for a file that is finished now.
    pub(super) fn go_on_behind(&mut self, pipeline: usize) -> Result<(), JournalError> {
        while let Some(next) = self.lines[pipeline].behind.pop_front() {
            let line = &self.lines[pipeline];
            let is_held = line.trial.as_ref().is_some_and(|trial| trial.holds_now());
            match next {
                _ if is_held => {
                    self.lines[pipeline].behind.push_front(next);
                    break;
                }
                Waiting::Trial => self.begin_trial(pipeline),
                Waiting::File(file, replay) => {
                    let waits_for = file.correction.and_then(|correction| correction.of);
                    if waits_for.is_some_and(|of| self.running.contains_key(&of)) {
                        self.lines[pipeline].behind.push_front(Waiting::File(file, replay));
                        break;
                    }
                    self.give(pipeline, &file, replay)?;
                }
            }
        }
        Ok(())
    }

    /// Returns how the version that a file corrects is read, to take its rows back; `None` if there is
    /// none, or nothing is kept of it.
    pub(super) fn old_version(
        &self,
        pipeline: usize,
        new: &FileOrder,
        file: &AcceptedFile,
    ) -> Result<Option<FileOrder>, JournalError> {
        if file.correction.is_none() {
            return Ok(None);
        }
        let line = &self.lines[pipeline];
        let Some(mut old) = self.journal.corrected_by(file.id)? else { return Ok(None) };
        // A version that was left out of what is read again has nothing to be taken back. It took an
        // earlier one back, though, which the checkpoint may hold: that one is taken back now.
        while new.replay && old.epoch > line.restored && !line.read_again.contains(&old.id) {
            let Some(older) = self.journal.corrected_by(old.id)? else { return Ok(None) };
            old = older;
        }
        let is_kept = line.stateful.get(new.source).copied().unwrap_or_default();
        if !is_kept || self.journal.is_lost(old.id)? {
            return Ok(None);
        }
        Ok(Some(take_back(line, new, &old)))
    }

    /// Lets a commit take away the outputs of the version that it corrects; where it puts one of its
    /// own, that is enough. What `before` does to them is committed with it, so that the journal does
    /// not know it yet: a later file may have given that version an output a moment ago.
    pub(super) fn take_outputs_away(
        &self,
        old: Option<&AcceptedFile>,
        outcome: &mut Outcome,
        before: &[Job],
    ) -> Result<(), JournalError> {
        let (Some(old), Verdict::Committed { parts }) = (old, &mut outcome.verdict) else {
            return Ok(());
        };
        let known = self.journal.outputs_of(old.id)?.into_iter();
        let mut places: BTreeSet<(String, String)> =
            known.map(|one| (one.sink, one.name)).collect();
        let same = |one: &&Outcome| one.pipeline == outcome.pipeline;
        for earlier in before.iter().filter_map(Job::outcome).filter(same) {
            let Verdict::Committed { parts } = &earlier.verdict else { continue };
            // What a changelog said stays.
            for part in parts.iter().filter(|part| !part.sink.ends_with(CHANGES_ENDING)) {
                let place = (part.sink.clone(), part.name.clone());
                match part.of == old.id && !matches!(part.body, PartBody::Removed) {
                    true => places.insert(place),
                    false => places.remove(&place),
                };
            }
        }
        parts.extend(places.iter().map(|(sink, name)| Part::removed(old.id, sink, name)));
        *parts = shelf::placed(std::mem::take(parts));
        Ok(())
    }

    /// Deletes the bytes of current versions that were retained for as long as their source says.
    pub(super) fn discard_expired(&mut self) -> Result<(), JournalError> {
        for at in 0..self.lines.len() {
            let line = &self.lines[at];
            if line.trial.is_some() {
                continue; // it reads them once more
            }
            let mut expired = Vec::new();
            for (source, retention) in line.sources.iter().zip(&line.retention) {
                let Retention::Days(days) = retention else { continue };
                let age = Duration::from_secs(u64::from(*days) * 24 * 3600);
                let before = trial::now().checked_sub(age).map_or(0, to_us);
                let at = line.sources.iter().position(|name| name == source);
                let is_kept = at.and_then(|at| line.stateful.get(at)).copied().unwrap_or(true);
                let needed = if is_kept { NeededBy::Starts } else { NeededBy::Nobody };
                expired.extend(self.journal.expired(&line.name, source, before, needed)?);
            }
            self.discard(at, &expired)?;
        }
        Ok(())
    }

    fn discard(&mut self, at: usize, retired: &[Retired]) -> Result<(), JournalError> {
        let line = &self.lines[at];
        let mut gone = Vec::new();
        for one in retired {
            match queue::discard(&line.folders, &one.stored_name) {
                Ok(()) => gone.push(one.id),
                Err(error) => {
                    tracing::warn!(pipeline = line.name, "an old version is not deleted: {error}");
                }
            }
        }
        if !gone.is_empty() {
            let Self { journal, space, .. } = self;
            space.insist("writing the journal", || journal.forget_retained(&gone))?;
        }
        Ok(())
    }

    /// Deletes the bytes of versions that no start can need any more.
    pub(super) fn discard_retired(&mut self) -> Result<(), JournalError> {
        for at in 0..self.lines.len() {
            let line = &self.lines[at];
            // A checkpoint that is being written may lie between a version and its correction.
            if !line.may_discard || line.schedule.is_busy() {
                continue;
            }
            let retired = self.journal.retired(&line.name, line.versions)?;
            self.lines[at].may_discard = false;
            self.discard(at, &retired)?;
        }
        Ok(())
    }
}

/// Returns how an old version is read. It is looked for where it was moved from and where it was moved
/// to, in that order: whoever moves it meanwhile moves it there.
pub(super) fn take_back(line: &Line, new: &FileOrder, old: &AcceptedFile) -> FileOrder {
    let places = [
        line.folders.underprocess.join(&old.claimed_name),
        line.folders.processed.join(&old.stored_name),
        line.folders.retained.join(&old.stored_name),
    ];
    let mut identity = old.identity;
    let mut compression = None;
    for place in &places {
        // One that was put back from elsewhere has the same bytes, and looks otherwise.
        match tidemill_store::look_for(place, old) {
            Ok(tidemill_store::Found::Same(now)) => {
                identity = now;
                compression = Some(compression_of(Some(place)));
                break;
            }
            Ok(_) => {}
            Err(error) => fault::disk("look for the version that is corrected", &error.into()),
        }
    }
    let [path, or_at @ ..] = places;
    FileOrder {
        rows_of: old.id,
        path,
        or_at: or_at.to_vec(),
        identity,
        hash: old.hash,
        compression: compression.unwrap_or(new.compression),
        name: old.name.clone(),
        old: None,
        removes: false,
        ..new.clone()
    }
}
