//! Correct: how a file is replaced or removed from outside. Looks at the journal; the ledger decides.
//! Holds nothing.

use std::sync::atomic::Ordering;
use std::sync::mpsc::channel;

use tidemill_store::{AcceptedFile, Removed, Replaces};

use super::{Engine, SubmitError, unavailable};
use crate::board;
use crate::ledger::{Event, Removal};
use crate::plan::Retention;
use crate::report::SubmissionReport;

/// What is to be removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// This submission.
    Id(u64),
    /// The newest current version of this name; the pipeline may be left out when only one runs.
    Name {
        /// The pipeline.
        pipeline: Option<String>,
        /// The name under which it came.
        name: String,
    },
}

impl Engine {
    /// Takes a committed file away, and everything that came of it: as a submission of its own. Blocks
    /// for the disk. `None`: there is no such submission.
    pub fn remove(&self, target: &Target) -> Result<Option<SubmissionReport>, SubmitError> {
        if self.parts.stop.load(Ordering::Relaxed) {
            return Err(SubmitError::Unavailable { reason: "it is stopping".into() });
        }
        self.check_space()?;
        let Some((file, pipeline)) = self.removable(target)? else { return Ok(None) };
        let _inside = self.parts.control.enter();
        if let Some(reason) = self.parts.control.refusal_of_all(pipeline) {
            return Err(SubmitError::Paused { reason });
        }
        let new = self.parts.numbers.take();
        let (reply, answer) = channel();
        let ended = || SubmitError::Unavailable { reason: "it is stopping".into() };
        let event = Event::Remove(Removal { of: file.id, id: new, reply });
        self.parts.events.send(event).map_err(|_| ended())?;
        match answer.recv().map_err(|_| ended())? {
            Removed::Accepted(file) => {
                let report = self.parts.board.live(file.id);
                Ok(Some(report.unwrap_or_else(|| board::report_of(&file))))
            }
            Removed::Unknown => Ok(None),
            Removed::Not(reason) => Err(SubmitError::NoCorrection { what: what(file.id), reason }),
        }
    }

    /// Returns the file that a removal takes away, and its pipeline. `None`: there is no such submission.
    pub(super) fn removable(
        &self,
        target: &Target,
    ) -> Result<Option<(AcceptedFile, usize)>, SubmitError> {
        let id = match target {
            Target::Id(id) => *id,
            Target::Name { pipeline, name } => self.named(pipeline.as_deref(), name)?,
        };
        let row = self.journal().submission(id);
        let Some(row) = row.map_err(|error| unavailable("look up", &error))? else {
            return Ok(None);
        };
        let no = |reason: String| SubmitError::NoCorrection { what: what(id), reason };
        let plans = &self.parts.plans;
        let pipeline = plans.iter().position(|plan| plan.name == row.file.pipeline);
        let pipeline = pipeline.ok_or_else(|| no("its pipeline does not run".into()))?;
        self.check_correctable(pipeline, &row.file.source).map_err(no)?;
        Ok(Some((row.file, pipeline)))
    }

    /// Returns the newest current version of a name.
    fn named(&self, pipeline: Option<&str>, name: &str) -> Result<u64, SubmitError> {
        let at = self.pipeline_at(pipeline)?;
        let plan = &self.parts.plans[at];
        let found = self.journal().current(&plan.name, name);
        found.map_err(|error| unavailable("look up a name", &error))?.ok_or_else(|| {
            let what = format!("{name:?} of pipeline {}", plan.name);
            let reason = "no committed file of that name is current".to_owned();
            SubmitError::NoCorrection { what, reason }
        })
    }

    /// Checks that an upload may take the place that it asks for.
    pub(super) fn check_replaces(
        &self,
        pipeline: usize,
        source: &str,
        name: &str,
        replaces: Replaces,
    ) -> Result<(), SubmitError> {
        let what = match replaces {
            Replaces::Nothing => return Ok(()),
            Replaces::SameName => format!("{name:?}"),
            Replaces::Submission(id) => what(id),
        };
        let no = |reason: String| SubmitError::NoCorrection { what: what.clone(), reason };
        self.check_correctable(pipeline, source).map_err(no)?;
        let Replaces::Submission(id) = replaces else { return Ok(()) };
        let failed = |error| unavailable("look up", &error);
        let Some(row) = self.journal().submission(id).map_err(failed)? else {
            return Err(no("there is no such submission".into()));
        };
        let plan = &self.parts.plans[pipeline];
        if row.file.pipeline != plan.name || row.file.source != source {
            let (other, of) = (&row.file.source, &row.file.pipeline);
            return Err(no(format!(
                "it belongs to source {other} of pipeline {of}, and {name:?} to source {source} of \
                 pipeline {}",
                plan.name
            )));
        }
        // One that still runs is replaced when it is finished.
        if row.outcome.is_none() && !row.file.is_removal() {
            return Ok(());
        }
        match self.journal().why_not_corrected(id).map_err(failed)? {
            Some(reason) => Err(no(reason)),
            None => Ok(()),
        }
    }

    /// Returns why files of a source cannot be replaced or removed, if they cannot.
    pub(super) fn check_correctable(&self, pipeline: usize, source: &str) -> Result<(), String> {
        let plan = &self.parts.plans[pipeline];
        let Some(at) = plan.sources.iter().position(|one| one.name == source) else {
            return Err(format!("its source {source} is not in the pipeline file any more"));
        };
        let correcting = plan.sources[at].taking.correcting;
        if correcting.append_only {
            return Err(format!(
                "source {source} says `append_only: true`: its files are never replaced or removed"
            ));
        }
        if correcting.retention == Retention::Off {
            return Err(format!("source {source} says `corrections: off`"));
        }
        plan.why_not_correctable(at).map_or(Ok(()), Err)
    }
}

pub(super) fn what(id: u64) -> String {
    format!("submission {id}")
}
