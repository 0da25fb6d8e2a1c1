//! Submit: how an upload that was received whole becomes a submission, once however often it is sent.
//!
//! Holds nothing but the ids of the uploads that are being taken at this moment; what was taken is in
//! the journal.

use std::path::PathBuf;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant, SystemTime};

use tidemill_store::name::check_name;
use tidemill_store::{
    CLIENT_IDS_KEPT, ClientId, Full, NewFile, Replaces, SubmissionRow, Terms, failpoint, queue,
};

use super::{Engine, unavailable};
use crate::board::{self, to_us};
use crate::fault;
use crate::intake::PENDING_MAX;
use crate::ledger::Event;
use crate::report::SubmissionReport;

/// How long an upload waits while too many files are pending, before it is refused.
const ROOM_WAIT_MAX: Duration = Duration::from_secs(20);

/// How far the clock of a client may be ahead of ours.
const CLOCK_AHEAD_MAX: Duration = Duration::from_secs(5 * 60);

/// A file that was received whole and waits in `spool/`.
#[derive(Clone, Debug)]
pub struct Upload {
    /// The pipeline it is for; `None` is allowed when only one pipeline runs.
    pub pipeline: Option<String>,
    /// The name its sender gave it.
    pub name: String,
    /// Where it lies: a path below [`Engine::spool`], already synced.
    pub path: PathBuf,
    /// Its size in bytes.
    pub bytes: u64,
    /// BLAKE3 of its bytes.
    pub hash: [u8; 32],
    /// When its first byte arrived.
    pub seen_at: SystemTime,
    /// The id its client gave it: the same upload with the same id is taken once.
    pub client_id: Option<ClientId>,
    /// Which earlier file it takes the place of. Where nothing is said, its source decides.
    pub replaces: Replaces,
}

/// Why an upload was not taken.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    /// No such pipeline; the running ones are listed.
    #[error("no pipeline is called {name}; running: {running}")]
    UnknownPipeline {
        /// What was asked for.
        name: String,
        /// What runs, separated by commas.
        running: String,
    },
    /// None is named, and several run.
    #[error("several pipelines run here: name one (--pipeline NAME); running: {running}")]
    NoPipeline {
        /// What runs, separated by commas.
        running: String,
    },
    /// The name cannot be a file name here.
    #[error("the name {name:?} cannot be taken: {reason}")]
    Name {
        /// The name.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// No source's pattern matches the name.
    #[error("no source of pipeline {pipeline} takes {name:?}; patterns: {patterns}")]
    NoSource {
        /// The pipeline.
        pipeline: String,
        /// The name.
        name: String,
        /// The patterns of its sources, separated by commas.
        patterns: String,
    },
    /// The id was used for another file.
    #[error(
        "the id {id} was used for another file: {name:?} of pipeline {pipeline}, submission \
         {submission}; an id belongs to one upload, make a new one for each"
    )]
    IdUsed {
        /// The id.
        id: ClientId,
        /// The name of the file that has it.
        name: String,
        /// The pipeline of that file.
        pipeline: String,
        /// Its submission.
        submission: u64,
    },
    /// The id is older than what is remembered: whether it was taken already is not known.
    #[error(
        "the id {id} was made more than 7 days ago and is not known (any more); look whether the \
         file was taken, and send it under a new id if it was not"
    )]
    IdOld {
        /// The id.
        id: ClientId,
    },
    /// The id says that it will be made.
    #[error("the id {id} was made in the future; set the clock of the client, or of the server")]
    IdFuture {
        /// The id.
        id: ClientId,
    },
    /// Another upload with this id is being taken at this moment.
    #[error("an upload with the id {id} is under way; try again when it has ended")]
    IdBusy {
        /// The id.
        id: ClientId,
    },
    /// The disk is too full to take files; the same upload may be sent again later.
    #[error(
        "the server's disk has no room for files now; send it again later (it takes files again by \
         itself once there is space)"
    )]
    NoSpace,
    /// What would read the file is paused or drained; the same upload may be sent again later.
    #[error("{reason} and takes no files; send it again when it is resumed")]
    Paused {
        /// What is paused, and that it is.
        reason: String,
    },
    /// The file cannot be tried again.
    #[error("submission {id} cannot be tried again: {reason}")]
    NoRetry {
        /// The submission.
        id: u64,
        /// Why.
        reason: String,
    },
    /// The file cannot be replaced or removed.
    #[error("{what} cannot be replaced or removed: {reason}")]
    NoCorrection {
        /// What was to be replaced or removed.
        what: String,
        /// Why.
        reason: String,
    },
    /// Another text takes over the pipeline at this moment.
    #[error("a changed file of pipeline {pipeline} takes over; try again in a moment")]
    Deploying {
        /// The pipeline.
        pipeline: String,
    },
    /// The correction cannot be tried.
    #[error("a correction of {what} cannot be tried: {reason}")]
    NoDryRun {
        /// What was to be replaced or removed.
        what: String,
        /// Why.
        reason: String,
    },
    /// The engine is stopping or its disk refuses; the same upload may be sent again later.
    #[error("the engine takes no files now: {reason}")]
    Unavailable {
        /// Why.
        reason: String,
    },
}

/// Holds an id while its upload is taken.
struct Taking<'e> {
    engine: &'e Engine,
    id: ClientId,
}

impl Drop for Taking<'_> {
    fn drop(&mut self) {
        let taking = &self.engine.parts.taking;
        taking.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}

impl Engine {
    /// Checks, before the first byte is received, that an upload of this name could be taken.
    pub fn check_upload(
        &self,
        pipeline: Option<&str>,
        name: &str,
        replaces: Replaces,
    ) -> Result<(), SubmitError> {
        let (at, source) = self.target(pipeline, name)?;
        self.check_replaces(at, &source, name, replaces)?;
        self.check_open(at, &source)?;
        self.check_space()
    }

    /// Refuses while a source takes nothing.
    pub(super) fn check_open(&self, pipeline: usize, source: &str) -> Result<(), SubmitError> {
        match self.parts.control.refusal(pipeline, source) {
            Some(reason) => Err(SubmitError::Paused { reason }),
            None => Ok(()),
        }
    }

    /// Refuses while the disk is too full to take files in.
    pub(super) fn check_space(&self) -> Result<(), SubmitError> {
        if self.parts.space.is_short() { Err(SubmitError::NoSpace) } else { Ok(()) }
    }

    /// Returns what the upload with this id became; `None` if it was never taken. Reads the journal.
    pub fn upload(&self, id: &ClientId) -> Result<Option<SubmissionReport>, SubmitError> {
        Ok(self.known(id)?.map(|row| self.overlay(row)))
    }

    /// Takes a received file: moves it to `underprocess/` and makes it durable in the journal.
    /// Blocks for the disk.
    ///
    /// One whose id is known is not taken again: its file stays where it is, and the answer is that
    /// of the first time.
    pub fn submit(&self, upload: Upload) -> Result<SubmissionReport, SubmitError> {
        let _taking = match &upload.client_id {
            Some(id) => Some(self.take_id(id)?),
            None => None,
        };
        if let Some(id) = &upload.client_id
            && let Some(row) = self.known(id)?
        {
            return self.answer_again(id, row, &upload);
        }
        let (pipeline, source) = self.target(upload.pipeline.as_deref(), &upload.name)?;
        self.check_replaces(pipeline, &source, &upload.name, upload.replaces)?;
        self.check_space()?;
        self.wait_for_room(pipeline)?;
        // Nothing is paused from here on until the file is accepted.
        let _inside = self.parts.control.enter();
        self.check_open(pipeline, &source)?;
        let folders = &self.parts.folders[pipeline];
        let id = self.parts.numbers.take();
        let name = upload.name.as_ref();
        let claimed =
            queue::claim_upload(folders, &upload.path, name, id, upload.client_id.as_ref())
                .map_err(|error| match error.is_full() {
                    true => SubmitError::NoSpace,
                    false => unavailable("take the upload", &error),
                })?;
        failpoint::reach("upload-claimed")
            .unwrap_or_else(|error| fault::disk("take an upload", &error));
        queue::sync_claims(&[&claimed.file], &[folders])
            .and_then(|()| failpoint::reach("upload-claim-synced"))
            .unwrap_or_else(|error| fault::disk("sync an upload", &error));
        let plan = &self.parts.plans[pipeline];
        let file = NewFile {
            id,
            pipeline: plan.name.clone(),
            dedupe: self.parts.patterns[pipeline].dedupe_of(&source),
            replaces: match upload.replaces {
                Replaces::Nothing => self.parts.patterns[pipeline].replaces_of(&source),
                asked => asked,
            },
            source,
            name: upload.name,
            claimed_name: claimed.claimed_name,
            identity: claimed.identity,
            hash: Some(upload.hash),
            seen_at_us: to_us(upload.seen_at),
            claimed_at_us: to_us(SystemTime::now()),
            client_id: upload.client_id,
            // It is whole, and its hash was compared.
            terms: Terms::default(),
        };
        let (reply, answer) = channel();
        let ended = || SubmitError::Unavailable { reason: "it is stopping".into() };
        let event = Event::Accept { files: vec![file], reply: Some(reply) };
        self.parts.events.send(event).map_err(|_| ended())?;
        let accepted = answer.recv().map_err(|_| ended())?;
        let accepted = accepted.first().ok_or_else(ended)?;
        failpoint::reach("upload-accepted")
            .unwrap_or_else(|error| fault::disk("accept an upload", &error));
        Ok(self.parts.board.live(accepted.id).unwrap_or_else(|| board::report_of(accepted)))
    }

    /// Holds an id, so that looking for it and writing it down are one step.
    fn take_id(&self, id: &ClientId) -> Result<Taking<'_>, SubmitError> {
        let mut taking = self.parts.taking.lock().unwrap_or_else(PoisonError::into_inner);
        if taking.insert(*id) {
            Ok(Taking { engine: self, id: *id })
        } else {
            Err(SubmitError::IdBusy { id: *id })
        }
    }

    /// Returns the submission that has an id. One that is not known must be young enough to be new.
    fn known(&self, id: &ClientId) -> Result<Option<SubmissionRow>, SubmitError> {
        let now = SystemTime::now();
        if id.made_at() > now + CLOCK_AHEAD_MAX {
            return Err(SubmitError::IdFuture { id: *id });
        }
        let journal = self.journal();
        let failed = |error| unavailable("look up an id", &error);
        // Read first: an id that is forgotten in between is then below the bound.
        let known = journal.of_client(id).map_err(failed)?;
        let forgotten = journal.client_ids_from().map_err(failed)?;
        if known.is_none() {
            let is_old = now.duration_since(id.made_at()).is_ok_and(|age| age > CLIENT_IDS_KEPT);
            if is_old || forgotten.is_some_and(|from| *id < from) {
                return Err(SubmitError::IdOld { id: *id });
            }
        }
        Ok(known)
    }

    /// Answers an upload whose id is known: as the first time, if it is the same upload.
    fn answer_again(
        &self,
        id: &ClientId,
        row: SubmissionRow,
        upload: &Upload,
    ) -> Result<SubmissionReport, SubmitError> {
        let file = &row.file;
        let same_pipeline = upload.pipeline.as_ref().is_none_or(|name| *name == file.pipeline);
        if same_pipeline && file.name == upload.name && file.hash == Some(upload.hash) {
            return Ok(self.overlay(row));
        }
        let (name, pipeline, submission) = (file.name.clone(), file.pipeline.clone(), file.id);
        Err(SubmitError::IdUsed { id: *id, name, pipeline, submission })
    }

    /// Waits while too many files of a pipeline are pending: its senders are to slow down.
    fn wait_for_room(&self, pipeline: usize) -> Result<(), SubmitError> {
        let until = Instant::now() + ROOM_WAIT_MAX;
        while self.parts.board.pending(pipeline) >= PENDING_MAX {
            let stopping = self.parts.stop.load(Ordering::Relaxed);
            if stopping || Instant::now() >= until {
                let waiting = format!(
                    "{PENDING_MAX} files of {} are waiting",
                    self.parts.plans[pipeline].name
                );
                let reason = if stopping { "it is stopping".into() } else { waiting };
                return Err(SubmitError::Unavailable { reason });
            }
            self.parts.board.wait_for_change(Duration::from_millis(100));
        }
        Ok(())
    }

    /// Returns the place of a pipeline, or of the only one.
    pub(super) fn pipeline_at(&self, pipeline: Option<&str>) -> Result<usize, SubmitError> {
        let plans = &self.parts.plans;
        let running = || plans.iter().map(|plan| &*plan.name).collect::<Vec<_>>().join(", ");
        match pipeline {
            Some(wanted) => plans.iter().position(|plan| plan.name == wanted).ok_or_else(|| {
                SubmitError::UnknownPipeline { name: wanted.to_owned(), running: running() }
            }),
            None if plans.len() == 1 => Ok(0),
            None => Err(SubmitError::NoPipeline { running: running() }),
        }
    }

    /// Returns which pipeline, and which of its sources, takes an upload.
    pub(super) fn target(
        &self,
        pipeline: Option<&str>,
        name: &str,
    ) -> Result<(usize, String), SubmitError> {
        let at = self.pipeline_at(pipeline)?;
        if self.is_handing_over() {
            return Err(SubmitError::Deploying { pipeline: self.parts.plans[at].name.clone() });
        }
        if self.parts.stop.load(Ordering::Relaxed) {
            return Err(SubmitError::Unavailable { reason: "it is stopping".into() });
        }
        let plans = &self.parts.plans;
        check_name(name.as_ref()).map_err(|error| SubmitError::Name {
            name: name.to_owned(),
            reason: error.to_string(),
        })?;
        if self.parts.held.is_held(at) {
            return Err(SubmitError::Deploying { pipeline: plans[at].name.clone() });
        }
        let source = self.parts.patterns[at].source_of(name);
        let source = source.ok_or_else(|| SubmitError::NoSource {
            pipeline: plans[at].name.clone(),
            name: name.to_owned(),
            patterns: self.parts.patterns[at].all(),
        })?;
        Ok((at, source.to_owned()))
    }
}
