//! Dry run: how a correction is tried from outside. Looks at the journal; the ledger decides. Holds
//! nothing.

use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, channel};
use std::time::SystemTime;

use tidemill_store::{Identity, NewFile, Replaces, Terms};

use super::correct::what;
use super::{Engine, SubmitError, Target, Upload, unavailable};
use crate::board::to_us;
use crate::dry_run::DryRun;
use crate::ledger::{Event, Tried, Try};

impl Engine {
    /// Tries what [`Engine::submit`] would do with an upload that takes the place of an earlier file:
    /// says what would change, and changes nothing. The upload stays where it is. Blocks until the
    /// dataflow is through with the file, and back.
    pub fn try_upload(&self, upload: &Upload) -> Result<DryRun, SubmitError> {
        let (pipeline, source) = self.target(upload.pipeline.as_deref(), &upload.name)?;
        self.check_replaces(pipeline, &source, &upload.name, upload.replaces)?;
        self.check_tried(pipeline, &source, format!("{:?}", upload.name))?;
        self.check_space()?;
        let identity = Identity::at(&upload.path).map_err(|error| unavailable("look", &error))?;
        let gone = || SubmitError::Unavailable { reason: "the upload is gone".into() };
        let identity = identity.ok_or_else(gone)?;
        let replaces = match upload.replaces {
            Replaces::Nothing => self.parts.patterns[pipeline].replaces_of(&source),
            asked => asked,
        };
        let now = to_us(SystemTime::now());
        let file = NewFile {
            // The ledger gives it one that no submission has.
            id: 1,
            pipeline: self.parts.plans[pipeline].name.clone(),
            name: upload.name.clone(),
            // It is never moved there.
            claimed_name: "dry-run".to_owned(),
            identity,
            hash: Some(upload.hash),
            dedupe: self.parts.patterns[pipeline].dedupe_of(&source),
            replaces,
            terms: Terms::default(),
            source,
            seen_at_us: to_us(upload.seen_at),
            claimed_at_us: now,
            client_id: None,
        };
        let change = Tried::File { file: Box::new(file), path: upload.path.clone() };
        self.try_out(pipeline, change)
    }

    /// Tries what [`Engine::remove`] would do: says what would change, and changes nothing. Blocks until
    /// the dataflow is through with it, and back. `None`: there is no such submission.
    pub fn try_removal(&self, target: &Target) -> Result<Option<DryRun>, SubmitError> {
        let Some((file, pipeline)) = self.removable(target)? else { return Ok(None) };
        self.check_tried(pipeline, &file.source, what(file.id))?;
        self.try_out(pipeline, Tried::Remove(file.id)).map(Some)
    }

    fn try_out(&self, pipeline: usize, change: Tried) -> Result<DryRun, SubmitError> {
        let ended = || SubmitError::Unavailable { reason: "it is stopping".into() };
        if self.parts.stop.load(Ordering::Relaxed) {
            return Err(ended());
        }
        let (reply, answer): (_, Receiver<Result<DryRun, SubmitError>>) = channel();
        let asked = Try { pipeline, change, folder: self.parts.spool.clone(), reply };
        self.parts.events.send(Event::Try(Box::new(asked))).map_err(|_| ended())?;
        answer.recv().map_err(|_| ended())?
    }

    /// Checks that what a correction of a source does can be undone.
    fn check_tried(&self, pipeline: usize, source: &str, what: String) -> Result<(), SubmitError> {
        let plan = &self.parts.plans[pipeline];
        let at = plan.sources.iter().position(|one| one.name == source);
        let reason = at.and_then(|at| plan.why_not_tried(at));
        reason.map_or(Ok(()), |reason| Err(SubmitError::NoDryRun { what, reason }))
    }
}
