//! Accept: claimed files become submissions of the journal: each gets the next epoch of its pipeline and
//! the names that are its own. What belongs to other submissions (retries, removals) is in their files;
//! all are written as rows here.

use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rusqlite::{Transaction, params};

use super::names::{Folder, free_name};
use super::write::{Trouble, known_or_new, now_us, save_counters};
use super::{
    AcceptedFile, Correction, Journal, JournalError, NewFile, Replaces, arrival, client_id,
    correct, dedupe,
};
use crate::{disk, failpoint, home, name};

impl Journal {
    /// Accepts claimed files: gives each the next epoch of its pipeline and its names. One that
    /// repeats an earlier file of its source gets no epoch: it is final, and has only to be moved to
    /// `processed/` and settled.
    ///
    /// One transaction, durable on return. The claims must have been synced before.
    pub fn accept(&mut self, files: &[NewFile]) -> Result<Vec<AcceptedFile>, JournalError> {
        for file in files {
            check_new(file)?;
        }
        let stop = JournalError::failpoint("accept");
        failpoint::reach("accept-begin").map_err(&stop)?;
        let root = self.root.clone();
        let now = now_us();
        let accepted = self.write_synced("A3", "accept", |transaction, pipelines| {
            let mut folders = HashMap::new();
            let mut accepted = Vec::with_capacity(files.len());
            for file in files {
                let counters = known_or_new(transaction, pipelines, &file.pipeline)?;
                let taken = folders
                    .entry(file.pipeline.as_str())
                    .or_insert_with(|| Folder::look(&root.join(&file.pipeline)));
                let stored_name = free_name(transaction, counters.id, &file.name, taken)?;
                let replaced = correct::resolve(transaction, counters.id, file)?;
                let original = match file.replaces {
                    Replaces::Nothing => dedupe::original(transaction, counters.id, file)?,
                    _ => None,
                };
                let epoch = if original.is_some() { 0 } else { counters.take_epoch() };
                let mut named = AcceptedFile {
                    duplicate_of: original,
                    ..with_names(file, stored_name, epoch, now)
                };
                if let Some(replaced) = replaced {
                    named.correction = Some(Correction { of: Some(replaced.of), removes: false });
                    named.output_name = replaced.output_name;
                }
                insert_file(transaction, counters.id, &named)?;
                arrival::insert(transaction, named.id, &file.terms, original.is_none())?;
                if original.is_none() {
                    dedupe::remember(transaction, counters.id, file)?;
                }
                if let Some(id) = &file.client_id {
                    client_id::insert(transaction, id, file.id)?;
                }
                accepted.push(named);
            }
            save_counters(transaction, pipelines)?;
            failpoint::reach("accept-written").map_err(&stop)?;
            Ok(accepted)
        })?;
        failpoint::reach("accept-durable").map_err(&stop)?;
        for file in files {
            self.raise_submission(file.id);
        }
        Ok(accepted)
    }
}

/// Checks of a new file what becomes part of a path.
pub(super) fn check_new(file: &NewFile) -> Result<(), JournalError> {
    let refuse = |detail: String| Err(JournalError::invariant(detail));
    if let Err(error) = home::check_pipeline_name(&file.pipeline) {
        return refuse(format!("accept submission {}: {error}", file.id));
    }
    if let Err(error) = name::check_name(std::ffi::OsStr::from_bytes(file.name.as_bytes())) {
        return refuse(format!("accept submission {}: {error}", file.id));
    }
    if !disk::is_plain_name(&file.claimed_name) {
        return refuse(format!("accept submission {}: a claimed name is no path", file.id));
    }
    if file.id == 0 || file.id > i64::MAX.cast_unsigned() {
        return refuse(format!("{} cannot be the number of a submission", file.id));
    }
    Ok(())
}

/// Returns what the outputs of a file would be named after that is accepted now.
pub(super) fn names_of(
    transaction: &Transaction<'_>,
    pipeline: i64,
    root: &Path,
    file: &NewFile,
) -> Result<String, Trouble> {
    let taken = Folder::look(&root.join(&file.pipeline));
    let stored_name = free_name(transaction, pipeline, &file.name, &taken)?;
    Ok(name::output_name(&stored_name).to_string())
}

/// Returns a new file under names that are its own.
pub(super) fn with_names(
    file: &NewFile,
    stored_name: String,
    epoch: u64,
    now: i64,
) -> AcceptedFile {
    AcceptedFile {
        id: file.id,
        pipeline: file.pipeline.clone(),
        epoch,
        source: file.source.clone(),
        name: file.name.clone(),
        claimed_name: file.claimed_name.clone(),
        output_name: name::output_name(&stored_name).to_string(),
        stored_name,
        identity: file.identity,
        hash: file.hash,
        seen_at_us: file.seen_at_us,
        claimed_at_us: file.claimed_at_us,
        accepted_at_us: now,
        duplicate_of: None,
        correction: None,
    }
}

/// Writes the row of a submission, and what hangs on it.
pub(super) fn insert_file(
    transaction: &Transaction<'_>,
    pipeline: i64,
    file: &AcceptedFile,
) -> Result<(), Trouble> {
    let seconds = file.identity.modified_ns.div_euclid(1_000_000_000);
    let Ok(seconds) = i64::try_from(seconds) else {
        let detail = format!("submission {} was modified outside of all time", file.id);
        return Err(JournalError::invariant(detail).into());
    };
    let nanoseconds = file.identity.modified_ns.rem_euclid(1_000_000_000) as i64;
    let is_duplicate = file.duplicate_of.is_some();
    transaction
        .prepare_cached(
            "INSERT INTO submission (id, pipeline, epoch, source, name, claimed_name, stored_name,
                 output_name, device, inode, bytes, modified_s, modified_ns, hash, seen_at_us,
                 claimed_at_us, accepted_at_us, verdict, finished_at_us, duplicate_of)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17,
                 ?18, ?19, ?20)",
        )?
        .execute(params![
            file.id.cast_signed(),
            pipeline,
            if is_duplicate { -file.id.cast_signed() } else { file.epoch.cast_signed() },
            file.source,
            file.name,
            file.claimed_name,
            file.stored_name,
            file.output_name,
            file.identity.device.cast_signed(),
            file.identity.inode.cast_signed(),
            file.identity.bytes.cast_signed(),
            seconds,
            nanoseconds,
            file.hash,
            file.seen_at_us,
            file.claimed_at_us,
            file.accepted_at_us,
            if is_duplicate { 3 } else { 0 },
            if is_duplicate { file.accepted_at_us } else { 0 },
            file.duplicate_of.map(u64::cast_signed),
        ])?;
    if let Some(correction) = file.correction {
        correct::insert(transaction, file.id, correction)?;
    }
    if is_duplicate {
        // It has still to be moved.
        let id = file.id.cast_signed();
        transaction.prepare_cached("INSERT INTO unsettled VALUES (?1)")?.execute([id])?;
    }
    Ok(())
}
