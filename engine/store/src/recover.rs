//! Recover: after a crash, bring the folders to what the journal says. May be repeated at will.
//!
//! Decides nothing: what is committed becomes visible, what is accepted is found again or reported,
//! what is neither goes back to where it came from. A crash inside of it is repaired by running it
//! again.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use crate::barrier;
use crate::disk::{self, DiskError, Full};
use crate::failpoint;
use crate::home::{Folders, Home, HomeError};
use crate::journal::{AcceptedFile, Journal, JournalError, Outcome, Verdict};
use crate::publish::{self, PublishError};
use crate::queue::{self, Identity, Reason};

/// What recovery found and did.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// How many finished files had their publication or move done again.
    pub finished: u64,
    /// Inputs of finished files that somebody took out of our folders; their outputs are whole.
    pub missing: Vec<AcceptedFile>,
    /// Accepted files of the pipelines asked for that are where they must be, in the order of
    /// pipelines and epochs: they go on.
    pub unfinished: Vec<AcceptedFile>,
    /// Accepted files that are gone or not what was accepted, with what is wrong: they must be
    /// finished as quarantined, `changed`.
    pub changed: Vec<(AcceptedFile, String)>,
    /// Files that were claimed and not accepted, and where they were put back.
    pub released: Vec<PathBuf>,
    /// Uploads that were claimed and not accepted, and where they wait for their clients to send them
    /// again.
    pub respooled: Vec<PathBuf>,
    /// Files in `underprocess/` that we did not put there; they are left.
    pub strangers: Vec<PathBuf>,
    /// How many entries of `stage/` were removed.
    pub removed_stages: u64,
}

/// Why recovery stopped. Nothing may run on this home before it succeeds.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// A folder cannot be used.
    #[error("recover the folders of pipeline {pipeline}")]
    Home {
        /// The pipeline.
        pipeline: String,
        /// Why.
        source: HomeError,
    },
    /// The journal refuses.
    #[error("recover from the journal")]
    Journal(#[from] JournalError),
    /// A committed output cannot be made visible.
    #[error("recover the outputs of {name} (submission {id})")]
    Publish {
        /// The submission.
        id: u64,
        /// The name of the input.
        name: String,
        /// Why.
        source: PublishError,
    },
    /// An input cannot be moved to where it belongs.
    #[error("recover the input {name} (submission {id})")]
    Move {
        /// The submission.
        id: u64,
        /// The name of the input.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// The disk refuses.
    #[error("recover")]
    Disk(#[from] io::Error),
}

impl Full for RecoverError {
    fn is_full(&self) -> bool {
        match self {
            RecoverError::Home { source, .. } => source.is_full(),
            RecoverError::Journal(error) => error.is_full(),
            RecoverError::Publish { source, .. } => source.is_full(),
            RecoverError::Move { source, .. } | RecoverError::Disk(source) => source.is_full(),
        }
    }
}

impl From<DiskError> for RecoverError {
    fn from(error: DiskError) -> Self {
        Self::Disk(error.into())
    }
}

/// Brings the folders of a home to what its journal says.
///
/// `pipelines` are those that will run; what is committed is published for all. `generation` is
/// the one that begins: what older ones staged is removed.
pub fn recover(
    home: &Home,
    journal: &mut Journal,
    pipelines: &[&str],
    generation: u64,
) -> Result<Recovery, RecoverError> {
    failpoint::reach("recover-begin")?;
    let mut recovery = Recovery::default();
    let mut folders = BTreeMap::new();
    for pipeline in journal.pipelines()?.iter().map(String::as_str).chain(pipelines.iter().copied())
    {
        let of = home
            .pipeline(pipeline)
            .map_err(|source| RecoverError::Home { pipeline: pipeline.to_string(), source })?;
        folders.insert(pipeline.to_string(), of);
    }
    settle_finished(home, journal, &folders, &mut recovery)?;
    for pipeline in pipelines {
        let retried = journal.retries_under_way(pipeline)?;
        let waiting = journal.postponed(pipeline)?.into_iter().map(|(file, _)| file);
        for file in journal.unfinished(pipeline)?.into_iter().chain(waiting) {
            if let Some(retried) = retried.iter().find(|retried| retried.id == file.id) {
                queue::take_back(&folders[*pipeline], &retried.stored_name, &file.claimed_name)?;
            }
            find_accepted(&folders[*pipeline], file, &mut recovery)?;
            failpoint::reach("recover-input-looked-for")?;
        }
    }
    for (pipeline, folders) in &folders {
        release_orphans(home, journal, (pipeline, folders), &mut recovery)?;
    }
    // Nothing before this line removes anything, and nothing that is left is named by a commit.
    recovery.removed_stages = sweep_stage(home, generation)?;
    disk::sync_folder(&home.spool())?;
    failpoint::reach("recover-folders-synced")?;
    Ok(recovery)
}

/// Repeats publication and moves of what is finished and not settled, and settles it.
fn settle_finished(
    home: &Home,
    journal: &mut Journal,
    folders: &BTreeMap<String, Folders>,
    recovery: &mut Recovery,
) -> Result<(), RecoverError> {
    let unsettled = journal.unsettled()?;
    if unsettled.is_empty() {
        return Ok(());
    }
    for (file, outcome) in &unsettled {
        let plan_hash = journal.plan_hash(file.id)?;
        let corrected = journal.corrected_by(file.id)?;
        let of = &folders[&file.pipeline];
        let retained = journal.is_retained(file.id)?;
        if !settle_one(home, of, file, outcome, plan_hash, corrected.as_ref())? {
            tracing::warn!(submission = file.id, name = ?file.name, "input of a committed file is gone");
            recovery.missing.push(file.clone());
        } else if retained {
            queue::retain(of, &file.stored_name)?;
        }
        recovery.finished += 1;
        failpoint::reach("recover-file-settled")?;
    }
    let touched: Vec<_> = folders.values().collect();
    publish::sync_published(&touched)?;
    failpoint::reach("recover-files-synced")?;
    let ids: Vec<_> = unsettled.iter().map(|(file, _)| file.id).collect();
    journal.settle(&ids)?;
    failpoint::reach("recover-files-settled")?;
    Ok(())
}

/// Repeats what follows the finish of one file; returns whether its input was found.
fn settle_one(
    home: &Home,
    folders: &Folders,
    file: &AcceptedFile,
    outcome: &Outcome,
    plan_hash: Option<String>,
    corrected: Option<&AcceptedFile>,
) -> Result<bool, RecoverError> {
    let (id, name) = (file.id, file.name.clone());
    let moved = match &outcome.verdict {
        Verdict::Committed { parts } => {
            for part in parts {
                let path = folders.out.join(&part.sink).join(&part.name);
                if !barrier::holds("every-part") && path.exists() {
                    break;
                }
                publish::publish_again(home, folders, part)
                    .map_err(|source| RecoverError::Publish { id, name: name.clone(), source })?;
            }
            if let Some(old) = corrected {
                queue::retire(folders, &old.stored_name)?;
            }
            if file.is_removal() {
                return Ok(true);
            }
            queue::finish(folders, &file.claimed_name, &file.stored_name)
        }
        // There is nothing to set aside.
        Verdict::Quarantined { .. } if file.is_removal() => return Ok(true),
        Verdict::Quarantined { .. } => {
            let reason = Reason::of(file, outcome, plan_hash);
            queue::quarantine(folders, &file.claimed_name, &file.stored_name, &reason)
        }
        // It is not finished, and stays where it is.
        Verdict::Postponed(_) => return Ok(true),
    };
    match moved {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // It may have been corrected since, and be retired already.
            Ok(disk::look(&folders.retained.join(&file.stored_name))?.is_some())
        }
        Err(source) => Err(RecoverError::Move { id, name, source }),
    }
}

/// Finds the file of an accepted submission, moving it again if the move was lost.
fn find_accepted(
    folders: &Folders,
    file: AcceptedFile,
    recovery: &mut Recovery,
) -> Result<(), RecoverError> {
    if file.is_removal() {
        recovery.unfinished.push(file);
        return Ok(());
    }
    let claimed = folders.underprocess.join(&file.claimed_name);
    let dropped = folders.unprocessed.join(&file.name);
    let wrong = match look_for(&claimed, &file)? {
        // A move that was not durable was undone: the same file is where it came from.
        Found::Missing => match look_for(&dropped, &file)? {
            Found::Same(_) => {
                disk::rename_new(&dropped, &claimed)?;
                failpoint::reach("recover-input-moved-again")?;
                None
            }
            _ => Some("it is not in underprocess/ any more".to_string()),
        },
        Found::Changed(detail) => Some(detail),
        Found::Same(_) => None,
    };
    match wrong {
        None => recovery.unfinished.push(file),
        Some(detail) => recovery.changed.push((file, detail)),
    }
    Ok(())
}

/// What is found where a file should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// The bytes that were accepted, and how the file that holds them looks now.
    Same(Identity),
    /// Nothing.
    Missing,
    /// Something else, and what differs.
    Changed(String),
}

/// Returns whether the bytes that were accepted are at `path`.
///
/// A file that looks exactly as it did when it was claimed is believed. Else its bytes decide, if
/// their hash is known: it may have been moved away and back, or restored from a backup.
pub fn look_for(path: &Path, file: &AcceptedFile) -> Result<Found, DiskError> {
    let Some(found) = disk::look(path)? else { return Ok(Found::Missing) };
    if !found.is_file() {
        return Ok(Found::Changed("it is not a plain file any more".to_string()));
    }
    if found.len() != file.identity.bytes {
        let (is, was) = (found.len(), file.identity.bytes);
        let detail = format!("it has {is} bytes; {was} were accepted");
        return Ok(Found::Changed(detail));
    }
    let identity = queue::identity(&found);
    if (identity.inode, identity.modified_ns) == (file.identity.inode, file.identity.modified_ns) {
        return Ok(Found::Same(identity));
    }
    let Some(accepted) = file.hash else {
        // Nobody has read it yet, so nothing tells whether these are its bytes.
        let detail = "it was written to, or replaced, since it was accepted";
        return Ok(Found::Changed(detail.to_string()));
    };
    let opened = disk::open_plain(path).map_err(|error| DiskError::new("open", path, error))?;
    let hash = disk::hash_of(&opened).map_err(|error| DiskError::new("hash", path, error))?;
    let changed = "its bytes are not those that were accepted";
    Ok(if hash == accepted { Found::Same(identity) } else { Found::Changed(changed.to_string()) })
}

/// Puts back what was claimed and never accepted. That is not durable, and need not be: what a loss of
/// power brings back is put back again, also if its number was given to another file meanwhile.
fn release_orphans(
    home: &Home,
    journal: &mut Journal,
    (pipeline, folders): (&str, &Folders),
    recovery: &mut Recovery,
) -> Result<(), RecoverError> {
    for orphan in queue::orphans(folders)? {
        let (Some(id), Some(claimed_name)) = (orphan.id, orphan.claimed_name.to_str()) else {
            tracing::warn!(path = ?orphan.path, "a file that is not ours lies in underprocess/");
            recovery.strangers.push(orphan.path);
            continue;
        };
        journal.raise_submission(id);
        if journal.knows(pipeline, (id, claimed_name))? {
            continue;
        }
        if let Some(client_id) = &orphan.client_id {
            // Nobody was told that it was taken. As a dropped file it would run, and run once more
            // when its client sends it again.
            let kept = queue::spool::put_back(&home.spool(), &orphan.path, client_id)?;
            recovery.respooled.push(kept);
            failpoint::reach("recover-upload-kept")?;
        } else {
            let name = queue::original_name(&orphan.path, claimed_name);
            recovery.released.push(queue::put_back(folders, &orphan.path, &name)?);
            failpoint::reach("recover-orphan-put-back")?;
        }
    }
    Ok(())
}

/// Removes everything from `stage/` but what this generation and later ones stage.
fn sweep_stage(home: &Home, generation: u64) -> Result<u64, DiskError> {
    let stage = home.stage_root();
    let failed = |error| DiskError::new("list", &stage, error);
    let mut removed = 0;
    for entry in std::fs::read_dir(&stage).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let number = entry.file_name().to_str().and_then(|name| name.parse::<u64>().ok());
        if number.is_some_and(|number| number >= generation) {
            continue;
        }
        let path = entry.path();
        let is_folder = entry.file_type().map_err(failed)?.is_dir();
        let result =
            if is_folder { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        result.map_err(|error| DiskError::new("remove", &path, error))?;
        removed += 1;
        failpoint::reach("recover-stage-removed").map_err(DiskError::failpoint(&path))?;
    }
    Ok(removed)
}

#[cfg(test)]
mod tests;
