//! Find: which checkpoint a pipeline begins with: the newest that is whole and fits the plan.
//!
//! Runs before anything else does. Reads every byte of the checkpoint it takes, so that nothing is
//! found damaged later.

use std::path::{Path, PathBuf};

use tidemill_store::checkpoint::{CheckpointError, Manifest, read_manifest, sweep};
use tidemill_store::{CheckpointRow, Found, Home, Journal, look_for};

use crate::checkpoint::{RestoreOrder, State, states};
use crate::plan::Plan;
use crate::start::StartError;

/// What a pipeline begins with.
pub struct Base {
    /// Where its checkpoints are.
    pub folder: PathBuf,
    /// The states it has.
    pub states: Vec<State>,
    /// The checkpoint, if there is one.
    pub manifest: Option<Manifest>,
    /// The order that takes it up.
    pub order: Option<RestoreOrder>,
}

impl Base {
    /// Returns the epoch up to which nothing need be read again.
    pub fn epoch(&self) -> u64 {
        self.manifest.as_ref().map_or(0, |manifest| manifest.epoch)
    }
}

/// Finds the checkpoint of a pipeline. Checkpoints that are damaged count no more, and files that
/// belong to none are deleted.
pub fn find(home: &Home, journal: &mut Journal, plan: &Plan) -> Result<Base, StartError> {
    let states = states(plan);
    if states.is_empty() {
        let folder = home.checkpoints(&plan.name);
        return Ok(Base { folder, states, manifest: None, order: None });
    }
    let folder = home.create_checkpoints(&plan.name)?;
    let mut kept = journal.checkpoints(&plan.name)?;
    let mut taken = None;
    let mut damaged = Vec::new();
    for row in &kept {
        if let Some(old) = lost_version(home, journal, plan, row.epoch)? {
            tracing::warn!(
                pipeline = plan.name,
                epoch = row.epoch,
                "the checkpoint cannot be used: it holds rows of {old}, which was corrected later, and \
                 the bytes to take them back are neither in retained/ nor in processed/"
            );
            continue;
        }
        match usable(&folder, row, &states) {
            Ok(Fit::Fits(manifest)) => {
                taken = Some((row.clone(), manifest));
                break;
            }
            Ok(Fit::Other(state)) => tracing::warn!(
                pipeline = plan.name,
                epoch = row.epoch,
                "the checkpoint is of another pipeline file: {state} is not what it was"
            ),
            Err(error) => {
                tracing::warn!(
                    pipeline = plan.name,
                    epoch = row.epoch,
                    "the checkpoint cannot be used: {}",
                    with_causes(&error)
                );
                if !matches!(error, CheckpointError::Newer { .. }) {
                    damaged.push(row.epoch);
                }
            }
        }
    }
    if taken.is_none() && !kept.is_empty() {
        tracing::warn!(
            pipeline = plan.name,
            "no checkpoint can be used: the state is built again from processed/"
        );
    }
    if !damaged.is_empty() {
        journal.drop_checkpoints(&plan.name, &damaged)?;
        kept.retain(|row| !damaged.contains(&row.epoch));
    }
    if let Err(error) = sweep(&folder, &kept) {
        tracing::warn!("old checkpoints could not be deleted: {error}");
    }
    let Some((row, manifest)) = taken else {
        return Ok(Base { folder, states, manifest: None, order: None });
    };
    let order = RestoreOrder { epoch: row.epoch, manifest: row.manifest, hash: row.hash };
    Ok(Base { folder, states, manifest: Some(manifest), order: Some(order) })
}

/// Returns a version that is in a checkpoint, was corrected behind it, and is not there to be taken
/// back.
fn lost_version(
    home: &Home,
    journal: &Journal,
    plan: &Plan,
    epoch: u64,
) -> Result<Option<String>, StartError> {
    let corrected = journal.corrected_after(&plan.name, epoch)?;
    if corrected.is_empty() {
        return Ok(None);
    }
    let folders = home.pipeline(&plan.name)?;
    for old in corrected {
        if journal.is_lost(old.id)? {
            continue;
        }
        let source = plan.sources.iter().position(|source| source.name == old.source);
        if source.is_some_and(|at| !plan.keeps_state_of(at)) {
            continue;
        }
        let places = [&folders.retained, &folders.processed];
        let mut is_there = false;
        for place in places {
            let found = look_for(&place.join(&old.stored_name), &old)?;
            is_there |= matches!(found, Found::Same(_));
        }
        if !is_there {
            return Ok(Some(old.stored_name));
        }
    }
    Ok(None)
}

enum Fit {
    Fits(Manifest),
    /// This state means something else now, or is not there.
    Other(String),
}

fn usable(folder: &Path, row: &CheckpointRow, states: &[State]) -> Result<Fit, CheckpointError> {
    let manifest = read_manifest(folder, row)?;
    for state in states {
        let kept = manifest.state(&state.id);
        if kept.is_none_or(|kept| kept.fingerprint != state.fingerprint) {
            return Ok(Fit::Other(state.id.clone()));
        }
    }
    manifest.verify(folder)?;
    Ok(Fit::Fits(manifest))
}

/// Returns an error and its causes in one line.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(&format!(": {inner}"));
        cause = inner.source();
    }
    text
}
