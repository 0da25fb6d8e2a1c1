//! Retry: how a file of `quarantine/` becomes a submission again.
//!
//! Looks at the journal and at the file; the ledger decides, and moves the file. Holds nothing.

use std::sync::atomic::Ordering;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant, SystemTime};

use tidemill_store::journal::VerdictRow;
use tidemill_store::{NewFile, Replaces, Retried, SubmissionRow, Terms, queue};

use super::{Engine, SubmitError, unavailable};
use crate::board::{self, to_us};
use crate::ledger::Event;
use crate::report::SubmissionReport;

/// How long a retry waits for a file that was set aside a moment ago, and how often it looks.
const SETTLE_WAIT_MAX: Duration = Duration::from_secs(5);
const SETTLE_LOOK: Duration = Duration::from_millis(20);

impl Engine {
    /// Tries a file again that was set aside: as a new submission under its old names. Blocks for
    /// the disk. `None`: there is no such submission.
    pub fn retry(&self, id: u64) -> Result<Option<SubmissionReport>, SubmitError> {
        if self.parts.stop.load(Ordering::Relaxed) {
            return Err(SubmitError::Unavailable { reason: "it is stopping".into() });
        }
        self.check_space()?;
        if let Some(report) = self.try_now(id)? {
            return Ok(Some(report));
        }
        let until = Instant::now() + SETTLE_WAIT_MAX;
        loop {
            let row = self.journal().submission(id);
            let Some(row) = row.map_err(|error| unavailable("look up", &error))? else {
                return Ok(None);
            };
            let no = |reason: String| SubmitError::NoRetry { id, reason };
            let earlier =
                self.journal().retries(id).map_err(|error| unavailable("look up", &error))?;
            if let Some(as_id) = earlier.retried_as {
                return Err(no(format!("it was tried again as {as_id}")));
            }
            let set = self.journal().set_of(id).map_err(|error| unavailable("look up", &error))?;
            if let Some((set, _)) = set {
                return Err(no(format!(
                    "it is of the set {}, of which all files are committed or none: mend it in \
                     quarantine/ and move all files of the set back to unprocessed/",
                    set.label
                )));
            }
            match row.outcome.as_ref().map(|outcome| &outcome.verdict) {
                Some(VerdictRow::Quarantined { .. }) if row.file.is_removal() => {
                    return Err(no("it is a removal, which has no file; remove again".into()));
                }
                Some(VerdictRow::Quarantined { .. }) => {}
                Some(VerdictRow::Committed { .. }) => return Err(no("it is committed".into())),
                Some(VerdictRow::Duplicate { .. }) => {
                    return Err(no("it is a duplicate and was not run".into()));
                }
                None => return Err(no("it is not finished".into())),
            }
            match self.retry_row(&row)? {
                Retried::Accepted(file) => {
                    let report = self.parts.board.live(file.id);
                    let report = report.unwrap_or_else(|| board::report_of(&file));
                    return Ok(Some(SubmissionReport { retry_of: Some(id), ..report }));
                }
                Retried::Before(as_id) => return Err(no(format!("it was tried again as {as_id}"))),
                // It was set aside a moment ago; the publisher is not through with it.
                Retried::NotQuarantined if Instant::now() < until => {
                    self.parts.board.wait_for_change(SETTLE_LOOK);
                }
                Retried::NotQuarantined => return Err(no("it is still being set aside".into())),
            }
        }
    }

    /// Tries a file at once that waits to be tried again; `None` if it does not.
    fn try_now(&self, id: u64) -> Result<Option<SubmissionReport>, SubmitError> {
        let (reply, answer) = channel();
        let ended = || SubmitError::Unavailable { reason: "it is stopping".into() };
        self.parts.events.send(Event::TryNow { id, reply }).map_err(|_| ended())?;
        if !answer.recv().map_err(|_| ended())? {
            return Ok(None);
        }
        self.submission(id)
    }

    fn retry_row(&self, row: &SubmissionRow) -> Result<Retried, SubmitError> {
        let file = &row.file;
        let no = |reason: String| SubmitError::NoRetry { id: file.id, reason };
        let running = self.parts.plans.iter().position(|plan| plan.name == file.pipeline);
        let pipeline = running.ok_or_else(|| no("its pipeline does not run".into()))?;
        let sources = &self.parts.plans[pipeline].sources;
        let same = sources.iter().find(|source| source.name == file.source);
        let source = same
            .map(|source| source.name.clone())
            .or_else(|| self.parts.patterns[pipeline].source_of(&file.name).map(str::to_owned));
        let source = source.ok_or_else(|| no("no source takes it any more".into()))?;
        self.check_open(pipeline, &source)?;
        let found = queue::quarantined(&self.parts.folders[pipeline], &file.stored_name);
        let found = found.map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => no("its file is not in quarantine/".into()),
            _ => unavailable("read the file in quarantine/", &error),
        })?;
        // Nothing is paused from here on until the file is accepted.
        let _inside = self.parts.control.enter();
        self.check_open(pipeline, &source)?;
        let new = self.parts.numbers.take();
        let now = to_us(SystemTime::now());
        let again = NewFile {
            id: new,
            pipeline: file.pipeline.clone(),
            source,
            name: file.name.clone(),
            claimed_name: queue::claimed_name(new, &file.name),
            identity: found.identity,
            hash: Some(found.hash),
            // Who asks for it wants it run, whatever was run before.
            dedupe: tidemill_store::Dedupe::None,
            // What it was to replace, the journal knows.
            replaces: Replaces::Nothing,
            terms: Terms::default(),
            client_id: None,
            seen_at_us: now,
            claimed_at_us: now,
        };
        let (reply, answer) = channel();
        let ended = || SubmitError::Unavailable { reason: "it is stopping".into() };
        let event = Event::Retry { of: file.id, file: Box::new(again), reply };
        self.parts.events.send(event).map_err(|_| ended())?;
        answer.recv().map_err(|_| ended())
    }
}
