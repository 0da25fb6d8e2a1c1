//! Deleted: committed inputs that a person took out of `processed/`, where that means to remove them.
//!
//! The folder is the truth, and the journal says what should be in it. The folder is listed only when
//! it has changed, and no more often than its listing takes a small part of a core; names are
//! compared, nothing is opened. Only inputs whose moves are known to be durable are looked for, and
//! the journal is asked before the folder, so that a file on its way is never taken for a deleted one.

use std::collections::{BTreeSet, HashSet};
use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use tidemill_store::{Folders, JournalReader, Retired};

use super::IntakeError;

/// How long a folder that does not seem to change is not listed, at most.
const LIST_EVERY: Duration = Duration::from_secs(60);

/// How old the last change of a folder must be before an unchanged time of it is believed.
const FOLDER_TICK: Duration = Duration::from_secs(3);

/// How many times as long as a look took the next one waits, at least.
const REST: u32 = 50;

/// The `processed/` of one pipeline.
pub(super) struct Deleted {
    at: usize,
    pipeline: String,
    folders: Folders,
    sources: Vec<String>,
    /// When the folder was last changed, as far as that can be believed, and when it was listed.
    listed: Option<(Option<SystemTime>, Instant)>,
    took: Duration,
    /// Asked for once: what is not removed then is not asked for again in this life.
    asked: BTreeSet<u64>,
}

impl Deleted {
    /// Returns what looks after these sources of a pipeline, which has this place among all.
    pub(super) fn new(at: usize, pipeline: &str, folders: &Folders, sources: &[String]) -> Self {
        Self {
            at,
            pipeline: pipeline.to_owned(),
            folders: folders.clone(),
            sources: sources.to_vec(),
            listed: None,
            took: Duration::ZERO,
            asked: BTreeSet::new(),
        }
    }

    /// Returns the place of the pipeline among all.
    pub(super) fn pipeline(&self) -> usize {
        self.at
    }

    /// Returns the submissions whose inputs were deleted since the last look.
    pub(super) fn scan(&mut self, journal: &JournalReader) -> Result<Vec<u64>, IntakeError> {
        let changed = match std::fs::metadata(&self.folders.processed).and_then(|it| it.modified())
        {
            Ok(changed) => changed,
            Err(error) => {
                // A folder that is gone as a whole was not deleted file by file.
                if self.listed.take().is_some() {
                    let folder = self.folders.processed.display();
                    tracing::warn!(%folder, "cannot look for deleted inputs: {error}");
                }
                return Ok(Vec::new());
            }
        };
        if let Some((last, at)) = self.listed {
            let is_same = last == Some(changed) && at.elapsed() < LIST_EVERY;
            if is_same || at.elapsed() < self.took * REST {
                return Ok(Vec::new());
            }
        }
        let began = Instant::now();
        let is_settled = changed.elapsed().is_ok_and(|age| age > FOLDER_TICK);
        let mut current = Vec::new();
        for source in &self.sources {
            current.extend(journal.current_inputs(&self.pipeline, source)?);
        }
        let failed = |source| {
            let folder = self.folders.processed.display().to_string();
            IntakeError::Scan { folder, source }
        };
        let there: HashSet<OsString> = std::fs::read_dir(&self.folders.processed)
            .and_then(|entries| entries.map(|entry| Ok(entry?.file_name())).collect())
            .map_err(failed)?;
        let mut deleted = Vec::new();
        for input in current {
            if there.contains(OsString::from(&input.stored_name).as_os_str()) {
                // Perhaps it was put back.
                self.asked.remove(&input.id);
            } else if !self.asked.contains(&input.id) && self.is_gone(&input).map_err(failed)? {
                self.asked.insert(input.id);
                if self.is_retained(&input).map_err(failed)? {
                    deleted.push(input.id);
                }
            }
        }
        self.took = began.elapsed();
        self.listed = Some((is_settled.then_some(changed), Instant::now()));
        Ok(deleted)
    }

    /// Returns whether an input is gone from the folder, also when it is looked for by its name.
    fn is_gone(&self, input: &Retired) -> io::Result<bool> {
        is_at(&self.folders.processed.join(&input.stored_name)).map(|there| !there)
    }

    /// Returns whether the bytes of a deleted input are there to take its rows back, and says so.
    fn is_retained(&self, input: &Retired) -> io::Result<bool> {
        let (pipeline, name) = (&self.pipeline, &input.stored_name);
        let is_retained = is_at(&self.folders.retained.join(&input.stored_name))?;
        if is_retained {
            tracing::info!(pipeline, submission = input.id, "{name} was deleted: it is removed");
        } else {
            tracing::warn!(
                pipeline,
                submission = input.id,
                "{name} was deleted from processed/, and is not in retained/ either: put it back, or \
                 its rows stay"
            );
        }
        Ok(is_retained)
    }
}

fn is_at(path: &Path) -> io::Result<bool> {
    match std::fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}
