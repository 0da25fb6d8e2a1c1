//! Refused: what a pipeline has to make visible waits, in order, where the disk refuses it for a reason
//! that may pass; the other pipelines go on. Derived: the journal says what is to be visible.
//!
//! The policy of the sink decides how long. What is committed cannot be set aside any more, so giving up
//! ends the process, whose next start tries again. Never tries a sync again.

use std::io;
use std::time::{Duration, Instant, SystemTime};

use tidemill_store::{Part, Postponed, PublishError};

use super::{IDLE, Job, Published, Publisher, PublisherError};
use crate::board::{Board, to_us};
use crate::ledger::Event;
use crate::report::Condition;
use crate::retry::{Class, Failed, Next, Policy};

/// Something that the disk refuses.
#[derive(Clone, Copy, Debug)]
pub struct Refused {
    /// How often, one time after the other.
    attempts: u32,
    since: SystemTime,
    first: Instant,
    /// When it is tried again.
    again: Instant,
    /// Whether it was tried often enough already.
    parked: bool,
}

impl Refused {
    /// Returns whether it is time to try again.
    pub(super) fn is_due(&self) -> bool {
        self.again <= Instant::now()
    }

    /// Returns what follows another failure; `None` if it is given up.
    fn after(before: Option<Refused>, policy: &Policy, class: Class, seed: u64) -> Option<Refused> {
        let now = Instant::now();
        let (since, first) =
            before.map_or((SystemTime::now(), now), |before| (before.since, before.first));
        let attempts = before.map_or(0, |before| before.attempts).saturating_add(1);
        let seed = seed.wrapping_mul(1 << 20).wrapping_add(u64::from(attempts));
        let since_first = now.duration_since(first);
        let (wait, parked) =
            match policy.next(Failed { class, attempt: attempts, since_first, seed }) {
                Next::After(wait) => (wait, false),
                Next::Seldom(wait) => (wait, true),
                Next::GiveUp => return None,
            };
        Some(Refused { attempts, since, first, again: now + wait, parked })
    }

    fn condition(&self, pipeline: &str, what: &str, why: &str) -> Condition {
        let often = if self.attempts == 1 { "once" } else { "again and again" };
        Condition {
            code: Condition::UNPUBLISHED.into(),
            since: self.since,
            text: format!(
                "{what} of pipeline {pipeline} cannot be made visible, tried {often}: {why}"
            ),
            hint: "mend the folder; everything goes on by itself, and nothing is lost".into(),
        }
    }
}

/// Why something did not get visible, and whose retry counts.
#[derive(Debug)]
pub(super) struct Failure {
    /// Folder and name of the output; `None` for an input that is moved.
    output: Option<(String, String)>,
    error: PublisherError,
}

impl Failure {
    pub(super) fn of(part: &Part, error: PublishError) -> Failure {
        Failure { output: Some((part.sink.clone(), part.name.clone())), error: error.into() }
    }
}

impl From<PublisherError> for Failure {
    fn from(error: PublisherError) -> Failure {
        Failure { output: None, error }
    }
}

impl PublisherError {
    /// Returns what kind of failure it is, if it may be tried again.
    fn class(&self) -> Option<Class> {
        match self {
            PublisherError::Publish(error) => error.refusal().and_then(Class::of_write),
            PublisherError::Disk { source, .. } => Class::of_write(source),
        }
    }
}

impl Publisher {
    /// Makes visible what is next in a pipeline, and what is behind that, until nothing is left or the
    /// disk refuses.
    pub(super) fn go_on(&mut self, pipeline: usize) -> Result<(), PublisherError> {
        while let Some(job) = self.lines[pipeline].queue.pop_front() {
            match self.show(&job) {
                Ok(whole) => {
                    if self.lines[pipeline].refused.take().is_some() {
                        self.board.published(pipeline, OUTPUTS);
                    }
                    self.work(job, whole)?;
                }
                Err(failure) => {
                    self.refuse(pipeline, &job, failure)?;
                    self.lines[pipeline].queue.push_front(job);
                    break;
                }
            }
        }
        Ok(())
    }

    /// Tries again what it is time for.
    pub(super) fn try_again(&mut self) -> Result<(), PublisherError> {
        for pipeline in 0..self.lines.len() {
            if self.lines[pipeline].refused.is_some_and(|refused| refused.is_due()) {
                self.go_on(pipeline)?;
            }
        }
        Ok(())
    }

    /// Returns how long it is until something is tried again.
    pub(super) fn until_again(&self) -> Duration {
        let tables = self.lines.iter().flat_map(|line| line.tables.values());
        let tables = tables.filter(|one| one.table.is_changed()).filter_map(|one| one.refused);
        let all = self.lines.iter().filter_map(|line| line.refused).chain(tables);
        let now = Instant::now();
        all.map(|refused| refused.again.duration_since(now)).min().unwrap_or(IDLE)
    }

    /// Tries once more what waits, and leaves what is still refused to the next start, which finds it in
    /// the journal. A checkpoint behind it is given up.
    pub(super) fn leave_the_rest(&mut self) -> Result<(), PublisherError> {
        for pipeline in 0..self.lines.len() {
            self.go_on(pipeline)?;
            for job in std::mem::take(&mut self.lines[pipeline].queue) {
                if let Job::Checkpoint { pipeline, .. } = job {
                    self.give_up_checkpoint(pipeline);
                }
            }
        }
        Ok(())
    }

    /// Decides when the first job of a pipeline is tried again, and tells of it; an error if it is given
    /// up.
    fn refuse(
        &mut self,
        pipeline: usize,
        job: &Job,
        failure: Failure,
    ) -> Result<(), PublisherError> {
        let Failure { output, error } = failure;
        let line = &mut self.lines[pipeline];
        let (Some(file), Some(class)) = (job.file(), error.class()) else { return Err(error) };
        let policy = output.as_ref().and_then(|(folder, _)| line.retry.get(folder));
        let policy = policy.unwrap_or(&Policy::SINK);
        let Some(refused) = Refused::after(line.refused, policy, class, file.id) else {
            return Err(error);
        };
        line.refused = Some(refused);
        let detail = match &output {
            Some((folder, name)) => format!("out/{folder}/{name}: {}", chain(&error)),
            None => chain(&error),
        };
        tracing::warn!(
            pipeline = line.name,
            file = file.name,
            submission = file.id,
            attempt = refused.attempts,
            "committed, and cannot be made visible yet ({}): {detail}",
            class.word()
        );
        let condition = refused.condition(&line.name, OUTPUTS, &detail);
        self.board.hides(pipeline, OUTPUTS, condition);
        self.board.unpublished(pipeline, file.id, refused.parked);
        let now = SystemTime::now();
        let why = Postponed {
            class: class.word().to_owned(),
            code: Condition::UNPUBLISHED.to_owned(),
            detail,
            next_at_us: to_us(now + refused.again.duration_since(Instant::now())),
        };
        // The ledger ends only after the publisher.
        let _ = self.ledger.send(Event::Unpublished { id: file.id, at_us: to_us(now), why });
        Ok(())
    }
}

/// How the outputs of files are called where tables are called by their names.
const OUTPUTS: &str = "the next output";

/// Decides when the snapshot of a table is written again; an error if it is given up.
pub(super) fn snapshot(
    board: &Board,
    pipeline: usize,
    line: &str,
    published: &mut Published,
    error: io::Error,
) -> Result<(), PublisherError> {
    let given_up = |source| PublisherError::Disk { doing: "write the snapshot of a table", source };
    let Some(class) = Class::of_write(&error) else { return Err(given_up(error)) };
    let Some(refused) = Refused::after(published.refused, &published.retry, class, 0) else {
        return Err(given_up(error));
    };
    published.refused = Some(refused);
    tracing::warn!(
        pipeline = line,
        table = published.sink,
        attempt = refused.attempts,
        "its snapshot stays as it was for now ({}): {error}",
        class.word()
    );
    let what = format!("out/{0}/, the table {0},", published.sink);
    board.hides(pipeline, &published.sink, refused.condition(line, &what, &error.to_string()));
    Ok(())
}

/// Returns an error with its causes in one line.
fn chain(error: &PublisherError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
