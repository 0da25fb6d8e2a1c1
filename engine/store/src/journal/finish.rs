//! Finish: the commit: files are committed, set aside or postponed, in the order of their epochs, whole or
//! not at all.

use std::borrow::Borrow;
use std::collections::HashMap;

use rusqlite::{Transaction, params};

use super::reading::Frames;
use super::receipt::{self, Books};
use super::shelf::{self, Replaced};
use super::write::{Counters, Trouble, save_counters};
use super::{Journal, JournalError, Outcome, Part, Verdict, attempt, correct, reading, void};
use crate::failpoint;
use crate::receipt::Receipt;

impl Journal {
    /// Commits files, sets them aside, or postpones them: the commit point.
    ///
    /// One transaction, durable on return. Of each pipeline the epochs must follow one another
    /// without a gap; staged parts must have been synced before.
    pub fn finish(&mut self, outcomes: &[Outcome]) -> Result<Vec<Replaced>, JournalError> {
        self.finish_with(outcomes, &HashMap::new())
    }

    /// Commits or sets aside files with the receipts of those that are committed, by submission.
    ///
    /// A receipt that does not balance, or is missing for a pipeline whose book is kept, commits
    /// nothing. Returns what of ours the outputs take the place of.
    pub fn finish_with<O: Borrow<Outcome>>(
        &mut self,
        outcomes: &[O],
        receipts: &HashMap<u64, Receipt>,
    ) -> Result<Vec<Replaced>, JournalError> {
        // Not borrowed while the transaction has all of `self`.
        let books = std::mem::take(&mut self.books);
        let retaining = std::mem::take(&mut self.retaining);
        let frames = std::mem::take(&mut self.frames);
        let result = self.finish_all(outcomes, receipts, &books, &retaining, &frames);
        self.books = books;
        self.retaining = retaining;
        self.frames = frames;
        result
    }

    fn finish_all<O: Borrow<Outcome>>(
        &mut self,
        outcomes: &[O],
        receipts: &HashMap<u64, Receipt>,
        books: &Books,
        retaining: &HashMap<String, Vec<String>>,
        frames: &Frames,
    ) -> Result<Vec<Replaced>, JournalError> {
        let generation = self.generation.map(u64::cast_signed);
        let stop = JournalError::failpoint("commit");
        failpoint::reach("commit-begin").map_err(&stop)?;
        let replaced = self.write_synced("C1", "commit", |transaction, pipelines| {
            let mut replaced = Vec::new();
            for outcome in outcomes.iter().map(O::borrow) {
                let Some(counters) = pipelines.get_mut(&outcome.pipeline) else {
                    let detail = format!("pipeline {} has no accepted files", outcome.pipeline);
                    return Err(JournalError::invariant(detail).into());
                };
                if outcome.epoch != counters.finished_epoch + 1 {
                    let finished = void::pass(transaction, counters.id, counters.finished_epoch)?;
                    counters.finished_epoch = finished;
                }
                check_order(counters, outcome)?;
                if let Verdict::Postponed(why) = &outcome.verdict {
                    attempt::postpone(transaction, counters.id, outcome, why)?;
                    counters.finished_epoch = outcome.epoch;
                    continue;
                }
                replaced.extend(finish_one(transaction, counters.id, generation, outcome)?);
                receipt::insert(transaction, books, outcome, receipts.get(&outcome.id))?;
                counters.finished_epoch = outcome.epoch;
                match outcome.verdict {
                    Verdict::Committed { .. } => {
                        counters.committed += 1;
                        let retaining = retaining.get(&outcome.pipeline);
                        correct::committed(transaction, outcome.id, retaining)?;
                        let frames = frames.get(&outcome.pipeline).map_or(&[][..], Vec::as_slice);
                        reading::committed(transaction, outcome.id, frames)?;
                    }
                    Verdict::Quarantined { .. } => {
                        counters.quarantined += 1;
                        correct::set_aside(transaction, outcome.id)?;
                    }
                    Verdict::Postponed(_) => {}
                }
            }
            save_counters(transaction, pipelines)?;
            failpoint::reach("commit-written").map_err(&stop)?;
            Ok(replaced)
        })?;
        failpoint::reach("commit-durable").map_err(&stop)?;
        Ok(replaced)
    }
}

fn check_order(counters: &Counters, outcome: &Outcome) -> Result<(), JournalError> {
    let due = counters.finished_epoch + 1;
    if outcome.epoch == due && due < counters.next_epoch {
        return Ok(());
    }
    let Outcome { id, pipeline, epoch, .. } = outcome;
    Err(JournalError::invariant(format!(
        "finish epoch {epoch} of {pipeline} (submission {id}): accepted are epochs up to {}, and \
         the next to finish is {due}",
        counters.next_epoch - 1
    )))
}

fn finish_one(
    transaction: &Transaction<'_>,
    pipeline: i64,
    generation: Option<i64>,
    outcome: &Outcome,
) -> Result<Vec<Replaced>, Trouble> {
    let id = outcome.id.cast_signed();
    if outcome.hash.is_none() && matches!(outcome.verdict, Verdict::Committed { .. }) {
        let detail =
            format!("submission {} is committed without the hash of its bytes", outcome.id);
        return Err(JournalError::invariant(detail).into());
    }
    let (verdict, code, detail, parts): (i64, _, _, &[Part]) = match &outcome.verdict {
        Verdict::Committed { parts } => (1, None, None, parts),
        Verdict::Quarantined { code, detail } => (2, Some(code), Some(detail), &[]),
        Verdict::Postponed(_) => {
            let detail = format!("submission {} is tried again and not finished", outcome.id);
            return Err(JournalError::invariant(detail).into());
        }
    };
    let changed = transaction
        .prepare_cached(
            "UPDATE submission SET verdict = ?4, records = ?5, rejected = ?6, answered_at_us = ?7,
                 finished_at_us = ?8, generation = ?9, code = ?10, detail = ?11,
                 hash = coalesce(?12, hash)
             WHERE id = ?1 AND pipeline = ?2 AND epoch = ?3 AND verdict = 0",
        )?
        .execute(params![
            id,
            pipeline,
            outcome.epoch.cast_signed(),
            verdict,
            outcome.records.cast_signed(),
            outcome.rejected.cast_signed(),
            outcome.answered_at_us,
            outcome.finished_at_us,
            generation,
            code,
            detail,
            outcome.hash,
        ])?;
    if changed != 1 {
        let Outcome { id, pipeline, epoch, .. } = outcome;
        let detail = format!("epoch {epoch} of {pipeline} is not submission {id}, or is finished");
        return Err(JournalError::invariant(detail).into());
    }
    transaction.prepare_cached("INSERT INTO unsettled VALUES (?1)")?.execute([id])?;
    shelf::insert(transaction, pipeline, generation, outcome, parts)
}
