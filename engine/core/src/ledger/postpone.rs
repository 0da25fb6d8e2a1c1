//! Postpone: the ledger's part in trying files again whose reading failed for a reason that may pass.
//!
//! The policy of the source decides; this does it. A file that is postponed gives up its epoch in the
//! same transaction as the commits around it, and takes a new one when its time has come. It keeps its
//! number, by which operators order records, so that its outputs are those of a file that was read at
//! once. The journal remembers the attempts; how long to wait is only kept here.

use std::time::{Duration, Instant, SystemTime};

use tidemill_store::{AcceptedFile, JournalError, NewFile, Postponed, Replaces};

use crate::answer::Answer;
use crate::board::{from_us, to_us};
use crate::ledger::Ledger;
use crate::ledger::order::Waiting as Behind;
use crate::retry::{Failed, Next, Policy};

/// A file that waits to be tried again.
pub(super) struct Waiting {
    pipeline: usize,
    file: AcceptedFile,
    /// When its time has come. A clock that is set moves it only from one life to the next.
    at: Instant,
    /// Whether it was tried often enough already.
    parked: bool,
}

impl Ledger {
    /// Takes up a file that waited in an earlier life, until a time in microseconds since 1970.
    pub fn postponed_before(&mut self, pipeline: usize, file: AcceptedFile, at_us: i64) {
        self.board.accepted(pipeline, &file);
        let left = from_us(at_us).duration_since(SystemTime::now()).unwrap_or_default();
        // No wait is longer, whatever the clock was.
        let source = self.lines[pipeline].sources.iter().position(|name| *name == file.source);
        let longest = source.and_then(|at| self.lines[pipeline].retry.get(at)).map(Policy::longest);
        let at = Instant::now() + left.min(longest.unwrap_or_default());
        self.wait_again(Waiting { pipeline, file, at, parked: false });
    }

    /// Says whether and when a file whose reading failed is tried again; `None` if it is given up, or
    /// did not fail.
    pub(super) fn postponement(
        &self,
        pipeline: usize,
        file: &AcceptedFile,
        answer: &Answer,
    ) -> Result<Option<(Postponed, Waiting)>, JournalError> {
        let Some((code, detail)) = &answer.failure else { return Ok(None) };
        let line = &self.lines[pipeline];
        // A newer version of it waits already: that one is what counts.
        let is_corrected = |one: &Behind| match one {
            Behind::File(other, _) => {
                other.correction.is_some_and(|correction| correction.of == Some(file.id))
            }
            Behind::Trial => false,
        };
        if line.behind.iter().any(is_corrected) {
            return Ok(None);
        }
        let source = line.sources.iter().position(|name| *name == file.source);
        let Some(policy) = source.and_then(|at| line.retry.get(at)) else { return Ok(None) };
        let attempts = self.journal.attempts(file.id)?;
        let now = SystemTime::now();
        let first = attempts.first().map_or(now, |first| from_us(first.failed_at_us));
        let attempt = u32::try_from(attempts.len() + 1).unwrap_or(u32::MAX);
        let failed = Failed {
            class: answer.class,
            attempt,
            // A clock that was set back makes no failure older.
            since_first: now.duration_since(first).unwrap_or_default(),
            seed: file.id.wrapping_mul(1 << 20).wrapping_add(u64::from(attempt)),
        };
        let (wait, parked) = match policy.next(failed) {
            Next::After(wait) => (wait, false),
            Next::Seldom(wait) => (wait, true),
            Next::GiveUp => return Ok(None),
        };
        let why = Postponed {
            class: answer.class.word().to_owned(),
            code: code.clone(),
            detail: detail.clone(),
            next_at_us: to_us(now + wait),
        };
        let at = Instant::now() + wait;
        Ok(Some((why, Waiting { pipeline, file: file.clone(), at, parked })))
    }

    /// Lets a file wait until its time has come. Comes behind the commit that says so.
    pub(super) fn wait_again(&mut self, waiting: Waiting) {
        self.board.postponed(waiting.pipeline, waiting.file.id, waiting.parked);
        self.postponed.insert(waiting.file.id, waiting);
    }

    /// Tries the files again whose time has come; returns how long it is until the next one's.
    pub(super) fn try_again_due(&mut self) -> Result<Duration, JournalError> {
        if self.postponed.is_empty() || self.stopping {
            return Ok(Duration::MAX);
        }
        let now = Instant::now();
        let due = self.postponed.iter().filter(|(_, waiting)| waiting.at <= now);
        let due: Vec<u64> = due.map(|(id, _)| *id).collect();
        due.into_iter().try_for_each(|id| self.try_again(id))?;
        let waits = self.postponed.values().map(|waiting| waiting.at.duration_since(now));
        Ok(waits.min().unwrap_or(Duration::MAX))
    }

    /// Tries files again at once that new ones may take the place of: a file and its correction are
    /// run in this order.
    pub(super) fn try_corrected_again(&mut self, new: &[NewFile]) -> Result<(), JournalError> {
        for file in new.iter().filter(|file| file.replaces != Replaces::Nothing) {
            let same = self.postponed.iter().filter(|(id, waiting)| {
                let old = &waiting.file;
                let is_meant = old.name == file.name
                    || file.replaces == Replaces::Submission(**id)
                    // Who corrects what it corrects would correct it.
                    || old.correction.is_some();
                is_meant && old.pipeline == file.pipeline && old.source == file.source
            });
            let same: Vec<u64> = same.map(|(id, _)| *id).collect();
            same.into_iter().try_for_each(|id| self.try_again(id))?;
        }
        Ok(())
    }

    /// Tries a file at once; returns whether it waited for that.
    pub(super) fn try_now(&mut self, id: u64) -> Result<bool, JournalError> {
        let waits = self.postponed.contains_key(&id) && !self.stopping;
        if waits {
            self.try_again(id)?;
        }
        Ok(waits)
    }

    fn try_again(&mut self, id: u64) -> Result<(), JournalError> {
        let Some(Waiting { pipeline, file, .. }) = self.postponed.remove(&id) else {
            return Ok(());
        };
        let Self { journal, space, .. } = self;
        let again = space.insist("writing the journal", || journal.try_again(id))?;
        let file = AcceptedFile { epoch: again.epoch, ..file };
        self.board.begins_again(pipeline, id, file.epoch);
        self.order(pipeline, file, false)
    }
}
