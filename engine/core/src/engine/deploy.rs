//! Deploy: a changed pipeline file takes over at a file boundary, another one comes in addition, or one
//! that came so leaves.
//!
//! The text is checked and compared with what runs before anything is touched. Then its pipeline takes
//! no files for a moment, those that are under way are finished, and one transaction of the journal
//! lets the new text take over from the next epoch on. After that this life of the engine ends; who
//! runs it begins the next one with what [`Running::wait`](crate::Running::wait) returns.
//! Anything that fails before the transaction leaves everything as it was.

mod again;

use std::collections::BTreeMap;
use std::sync::mpsc::channel;
use std::sync::{Arc, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use tidemill_store::checkpoint::{Manifest, read_manifest};
use tidemill_store::{Deployed, Folders, Home, NewDeployment, Versions, failpoint};

use super::{Engine, SubmitError, unavailable};
use crate::checkpoint::find::fits;
use crate::checkpoint::reuse::kept;
use crate::checkpoint::states;
use crate::deploy::{Fate, PartFate, fates};
use crate::diagnostic::Diagnostic;
use crate::intake::Patterns;
use crate::ledger::{Boundary, Event};
use crate::plan::{self, Alone, Plan};
use crate::report::Condition;
use crate::start::Next;
use crate::start::earlier::{Inputs, inputs, sources_again};

/// How often it is looked whether everything under way is finished.
const LOOK: Duration = Duration::from_millis(20);

/// How long an input that is committed and not yet in its place is looked for.
const MOVE_MAX: Duration = Duration::from_secs(2);

/// What is to be deployed.
#[derive(Clone, Debug)]
pub struct Deploy {
    /// The pipeline file.
    pub yaml: String,
    /// What its parameters were given: the text holds it already, and it is only remembered.
    pub params: BTreeMap<String, String>,
    /// Whether to say only what would happen.
    pub dry_run: bool,
    /// How long files under way may take to be finished.
    pub patience: Duration,
}

/// What a deployment does, or would do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeployReport {
    /// The pipeline.
    pub pipeline: String,
    /// The hash of its new plan.
    pub plan_hash: String,
    /// The hash of the plan that runs so far; `None` for a pipeline that comes in addition.
    pub replaced: Option<String>,
    /// Whether the text differs from the one that runs. If not, nothing happens.
    pub changed: bool,
    /// What becomes of each part.
    pub parts: Vec<PartFate>,
    /// How many committed files are read again to make state anew.
    pub files: u64,
    /// Their size in bytes, as they came.
    pub bytes: u64,
    /// Why it would be refused; only in a dry run, else it is an error.
    pub refused: Option<String>,
    /// How many deployments of the pipeline there were; 0 in a dry run.
    pub version: u64,
    /// The first epoch of the new plan; 0 in a dry run.
    pub first_epoch: u64,
}

/// Why nothing was deployed. Everything is as it was.
#[derive(Debug, thiserror::Error)]
pub enum DeployError {
    /// The file has mistakes.
    #[error("the pipeline file has {} mistakes", .0.len())]
    Mistakes(Vec<Diagnostic>),
    /// It cannot take over, whenever it is tried.
    #[error("{reason}")]
    Refused {
        /// Why.
        reason: String,
    },
    /// Files under way were not finished in time.
    #[error(
        "{files} files of {pipeline} are not finished after {waited:?}; nothing was changed, they go \
         on as before (try again later, or with a longer timeout)"
    )]
    Late {
        /// The pipeline.
        pipeline: String,
        /// How many.
        files: u64,
        /// How long was waited.
        waited: Duration,
    },
    /// Another deployment is under way.
    #[error("another deployment is under way; try again when it has ended")]
    Busy,
    /// The engine is stopping or cannot look.
    #[error(transparent)]
    Unavailable(#[from] SubmitError),
}

/// What leaves, and how long files under way may take to be finished.
#[derive(Clone, Debug)]
pub struct Undeploy {
    /// The pipeline.
    pub pipeline: String,
    /// How long files under way may take to be finished.
    pub patience: Duration,
}

/// What an undeployed pipeline leaves behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UndeployReport {
    /// The pipeline.
    pub pipeline: String,
    /// The last epoch of its files; 0 if there was none.
    pub last_epoch: u64,
    /// Its folder, which stays as it is.
    pub folder: String,
}

/// Lets a pipeline take files again, unless it has reached its boundary.
struct Holding<'e> {
    engine: &'e Engine,
    for_good: bool,
}

impl Drop for Holding<'_> {
    fn drop(&mut self) {
        if !self.for_good {
            self.engine.parts.held.hold(None);
        }
    }
}

impl Engine {
    /// Deploys a pipeline file; returns once it has taken over durably, or with an error that says why
    /// it has not. Reads the journal and looks at files; blocks while files under way are finished.
    pub fn deploy(&self, deploy: &Deploy) -> Result<DeployReport, DeployError> {
        let sent = Alone { secrets: self.parts.secrets.clone() };
        let new = plan::plan_in(&deploy.yaml, &sent).map_err(DeployError::Mistakes)?;
        let _one = self.one_at_a_time()?;
        let at = self.parts.plans.iter().position(|plan| plan.name == new.name);
        let (mut report, read) = self.assess(at, &new)?;
        if deploy.dry_run || !report.changed {
            return Ok(report);
        }
        if let Some(reason) = report.refused.take() {
            return Err(DeployError::Refused { reason });
        }
        Home::attach(&self.parts.root)
            .and_then(|home| home.pipeline(&new.name))
            .map_err(|error| DeployError::Refused { reason: error.to_string() })?;
        let boundary = Boundary::TakesOver(NewDeployment {
            pipeline: new.name.clone(),
            text: deploy.yaml.clone(),
            params: deploy.params.clone(),
            plan_hash: new.hash.clone(),
            replaces: at.map(|at| self.parts.plans[at].yaml.clone()),
        });
        let seen = read.there.iter().map(|file| file.epoch).max().unwrap_or_default();
        // What was committed or paused while it was waited for.
        let refusal = || {
            if let Some(lost) = at.and_then(|at| self.parts.control.lost(at, &new)) {
                return Ok(Some(lost));
            }
            let mut read = self.read_again(&new)?;
            read.there.retain(|file| file.epoch > seen);
            Ok(self.refused_again(at, &new, &report.parts, &read))
        };
        let next = Next::TakesOver(Box::new(new.clone()));
        (report.version, report.first_epoch) =
            self.hand_over(at, boundary, deploy.patience, next, &refusal)?;
        Ok(report)
    }

    /// Lets a pipeline run no more that was deployed and stands in no file of the start; returns once
    /// that is durable, or with an error that says why it goes on. Its folder stays as it is. Blocks
    /// while files under way are finished.
    pub fn undeploy(&self, undeploy: &Undeploy) -> Result<UndeployReport, DeployError> {
        let Undeploy { pipeline, patience } = undeploy;
        let _one = self.one_at_a_time()?;
        let refused = |reason| Err(DeployError::Refused { reason });
        let Some(at) = self.parts.plans.iter().position(|plan| plan.name == *pipeline) else {
            return refused(format!("no pipeline {pipeline} runs here"));
        };
        if let Some(why) = self.parts.no_deploys {
            return refused(format!("nothing can be undeployed here: {why}"));
        }
        if !self.parts.added.contains(pipeline) {
            return refused(format!(
                "{pipeline} stands in a file that this server was started with; start it without that \
                 file"
            ));
        }
        let boundary = Boundary::Leaves(pipeline.clone());
        let next = Next::Leaves(pipeline.clone());
        let (_, first_epoch) = self.hand_over(Some(at), boundary, *patience, next, &|| Ok(None))?;
        Ok(UndeployReport {
            pipeline: pipeline.clone(),
            last_epoch: first_epoch.saturating_sub(1),
            folder: self.parts.folders[at].root.display().to_string(),
        })
    }

    fn one_at_a_time(&self) -> Result<MutexGuard<'_, ()>, DeployError> {
        match self.parts.deploying.try_lock() {
            Ok(one) => Ok(one),
            Err(TryLockError::WouldBlock) => Err(DeployError::Busy),
            Err(TryLockError::Poisoned(poisoned)) => Ok(poisoned.into_inner()),
        }
    }

    /// Returns what is different in the next life; once.
    pub(crate) fn take_next(&self) -> Option<Next> {
        self.parts.next.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Returns whether some pipeline has reached its boundary, and this life only ends.
    pub fn is_handing_over(&self) -> bool {
        self.parts.next.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Lets a pipeline take no files, draws the line behind its last one, and ends this life. Returns
    /// how many deployments there were and the first epoch behind the line.
    fn hand_over(
        &self,
        at: Option<usize>,
        boundary: Boundary,
        patience: Duration,
        next: Next,
        refusal: &dyn Fn() -> Result<Option<String>, DeployError>,
    ) -> Result<(u64, u64), DeployError> {
        if let Some(reason) = self.unpublished() {
            return Err(DeployError::Refused { reason });
        }
        let mut holding = Holding { engine: self, for_good: false };
        self.parts.held.hold(at);
        reach(failpoint::reach("deploy-held"))?;
        let line = self.wait_and_draw(at, Arc::new(boundary), patience, next, refusal)?;
        holding.for_good = true;
        self.stop();
        reach(failpoint::reach("deploy-told"))?;
        Ok(line)
    }

    /// Returns that some output is not there yet: the next life could not begin, it publishes first.
    fn unpublished(&self) -> Option<String> {
        let mut hidden = self.parts.board.conditions().into_iter();
        let hidden = hidden.find(|one| one.code == Condition::UNPUBLISHED)?;
        Some(format!("{}; {}", hidden.text, hidden.hint))
    }

    /// Waits until no file of the pipeline is open, and draws the line unless there is a `refusal` then.
    fn wait_and_draw(
        &self,
        at: Option<usize>,
        boundary: Arc<Boundary>,
        patience: Duration,
        next: Next,
        refusal: &dyn Fn() -> Result<Option<String>, DeployError>,
    ) -> Result<(u64, u64), DeployError> {
        let began = Instant::now();
        loop {
            // What was claimed before the hold may be accepted behind it: only the journal knows.
            let open = at.map_or(0, |at| self.parts.board.pending(at)) as u64;
            let open = if open == 0 {
                reach(failpoint::reach("deploy-drained"))?;
                // Nobody pauses anything between this look and the line.
                let _closed = self.parts.control.close();
                if let Some(reason) = refusal()? {
                    return Err(DeployError::Refused { reason });
                }
                match self.draw_line(&boundary)? {
                    Deployed::Durable { version, first_epoch } => {
                        *self.parts.next.lock().unwrap_or_else(PoisonError::into_inner) =
                            Some(next);
                        return Ok((version, first_epoch));
                    }
                    Deployed::Open { files } => files,
                }
            } else {
                open
            };
            if self.is_stopping() {
                return Err(stopping().into());
            }
            if began.elapsed() >= patience {
                let pipeline = boundary.pipeline().to_owned();
                return Err(DeployError::Late { pipeline, files: open, waited: patience });
            }
            self.parts.board.wait_for_change(LOOK);
        }
    }

    fn draw_line(&self, boundary: &Arc<Boundary>) -> Result<Deployed, DeployError> {
        let (reply, answer) = channel();
        let event = Event::Deploy { boundary: Arc::clone(boundary), reply };
        self.parts.events.send(event).map_err(|_| stopping())?;
        Ok(answer.recv().map_err(|_| stopping())?)
    }

    /// Returns what a plan would do in the place of the one that runs, or beside all that run, and the files
    /// that are read again for it.
    fn assess(&self, at: Option<usize>, new: &Plan) -> Result<(DeployReport, Inputs), DeployError> {
        let old = at.map(|at| &self.parts.plans[at]);
        let mut report = DeployReport {
            pipeline: new.name.clone(),
            plan_hash: new.hash.clone(),
            replaced: old.map(|old| old.hash.clone()),
            changed: old.is_none_or(|old| old.yaml != new.yaml),
            parts: fates(old, new),
            files: 0,
            bytes: 0,
            refused: self
                .parts
                .no_deploys
                .map(|why| format!("nothing can be deployed here: {why}")),
            version: 0,
            first_epoch: 0,
        };
        if !new.lacks.is_empty() {
            let names: Vec<&str> = new.lacks.iter().map(|(name, _)| name.as_str()).collect();
            let names = names.join(", ");
            report.refused.get_or_insert_with(|| {
                format!(
                    "the server was started without the secret {names}, which this file hashes with"
                )
            });
        }
        if let Some(lost) = at.and_then(|at| self.parts.control.lost(at, new)) {
            report.refused.get_or_insert(lost);
        }
        // What it belongs to lies in `underprocess/` until then.
        if let Some(hidden) = self.unpublished() {
            report.refused.get_or_insert(hidden);
        }
        let read = self.read_again(new)?;
        report.files = read.there.len() as u64;
        report.bytes = read.there.iter().map(|file| file.identity.bytes).sum();
        if let Some((name, detail)) = read.gone.first()
            && !self.parts.forget_missing
        {
            let files = read.gone.len();
            report.refused.get_or_insert_with(|| {
                format!(
                    "what is rebuilt needs {files} committed files that are not in processed/ as they \
                     were (first: {name}, {detail}); put them back"
                )
            });
        }
        if let Some(reason) = self.refused_again(at, new, &report.parts, &read) {
            report.refused.get_or_insert(reason);
        }
        if read.without_source > 0 {
            let files = read.without_source;
            for part in report.parts.iter_mut().filter(|part| part.fate == Fate::Rebuilt) {
                part.detail = format!("without the {files} files that no source takes any more");
            }
        }
        Ok((report, read))
    }

    /// Returns why files cannot be read again for a plan.
    fn refused_again(
        &self,
        at: Option<usize>,
        new: &Plan,
        parts: &[PartFate],
        read: &Inputs,
    ) -> Option<String> {
        let old = at.map(|at| &self.parts.plans[at]);
        let folders = Folders::below(&self.parts.root.join(&new.name));
        again::refusal(old, new, parts, read, &folders)
    }

    /// Looks for the files that the next life reads again.
    fn read_again(&self, new: &Plan) -> Result<Inputs, DeployError> {
        let failed =
            |error: &dyn std::error::Error| unavailable("look what is to be rebuilt", error);
        let all = states(new);
        if all.is_empty() {
            return Ok(Inputs::default());
        }
        let folder = self.parts.root.join("ckpt").join(&new.name);
        let journal = self.journal();
        let rows = journal.checkpoints(&new.name).map_err(|error| failed(&error))?;
        let manifests: Vec<Manifest> =
            rows.iter().filter_map(|row| read_manifest(&folder, row).ok()).collect();
        let patterns = Patterns::new(&new.sources);
        let whole = manifests.iter().find(|one| all.iter().all(|state| fits(one, state)));
        // As a start decides it.
        let versions = match whole.is_some() || rows.is_empty() {
            true => new.versions(),
            false => Versions::Current,
        };
        let committed = match (whole, manifests.first()) {
            (Some(manifest), _) => journal.committed_after(&new.name, manifest.epoch),
            (None, newest) => {
                let committed = journal.committed_after(&new.name, 0);
                let part = newest.filter(|one| {
                    // As a start decides it; a question that fails there is an error there.
                    let corrected = journal.corrected_after(&new.name, one.epoch);
                    corrected.is_ok_and(|files| files.is_empty())
                        && journal.has_lost(&new.name).is_ok_and(|lost| !lost)
                });
                let kept = part.map(|one| (one.epoch, kept(new, &all, |state| fits(one, state))));
                match kept.filter(|(_, kept)| kept.contains(&true)) {
                    None => committed,
                    Some((epoch, kept)) => committed.map(|mut files| {
                        let read = sources_again(new, &all, &kept, &patterns);
                        files.retain(|file| file.epoch > epoch || read(file));
                        files
                    }),
                }
            }
        };
        let committed = committed.map_err(|error| failed(&error))?;
        let first = committed.first().map(|file| file.epoch);
        let readings = first.map(|first| journal.readings(&new.name, &new.hash, first));
        let readings = readings.transpose().map_err(|error| failed(&error))?.unwrap_or_default();
        drop(journal);
        let folders = Folders::below(&self.parts.root.join(&new.name));
        // What was committed a moment ago is about to be moved to processed/.
        let until = Instant::now() + MOVE_MAX;
        loop {
            let found = inputs(new, committed.clone(), versions, (&folders, &patterns));
            let found = found.map_err(|error| failed(&error))?;
            if found.gone.is_empty() || Instant::now() >= until {
                return Ok(Inputs { readings, ..found });
            }
            self.parts.board.wait_for_change(LOOK);
        }
    }

    fn is_stopping(&self) -> bool {
        self.parts.stop.load(std::sync::atomic::Ordering::Relaxed)
    }
}

fn stopping() -> SubmitError {
    SubmitError::Unavailable { reason: "it is stopping".into() }
}

fn reach(reached: std::io::Result<()>) -> Result<(), DeployError> {
    Ok(reached.map_err(|error| unavailable("deploy a pipeline", &error))?)
}
