//! Find: which checkpoint a pipeline begins with: the newest that is whole and fits the plan.
//!
//! Runs before anything else does. Reads every byte of the checkpoint it takes, so that nothing is
//! found damaged later.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use tidemill_store::checkpoint::{CheckpointError, Manifest, read_manifest, sweep, write_manifest};
use tidemill_store::{CheckpointRow, Found, Home, Journal, look_for};

use crate::checkpoint::reuse::{Partial, kept};
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
    /// That only some of its states are taken up, and which.
    pub partial: Option<Partial>,
}

impl Base {
    /// Returns the epoch up to which nothing need be read again.
    pub fn epoch(&self) -> u64 {
        self.manifest.as_ref().map_or(0, |manifest| manifest.epoch)
    }

    /// Returns the epoch from which on files are read again, if something is kept of them.
    pub fn reads_from(&self) -> u64 {
        if self.partial.is_some() { 0 } else { self.epoch() }
    }

    /// Returns whether a state is taken up.
    pub fn keeps(&self, id: &str) -> bool {
        self.manifest.as_ref().is_some_and(|manifest| manifest.state(id).is_some())
    }
}

/// Finds the checkpoint of a pipeline. Checkpoints that are damaged count no more, and files that
/// belong to none are deleted.
///
/// If none fits as a whole, the newest is taken of which some states do, unless something was corrected
/// or lost since: the two kinds of states would have to know different versions. `generation` is the one
/// that begins.
pub fn find(
    home: &Home,
    journal: &mut Journal,
    plan: &Plan,
    generation: u64,
) -> Result<Base, StartError> {
    let states = states(plan);
    if states.is_empty() {
        let folder = home.checkpoints(&plan.name);
        return Ok(Base { folder, states, manifest: None, order: None, partial: None });
    }
    let folder = home.create_checkpoints(&plan.name)?;
    let mut rows = journal.checkpoints(&plan.name)?;
    let mut taken = None;
    let mut some: Option<(CheckpointRow, Manifest)> = None;
    let mut damaged = Vec::new();
    for row in &rows {
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
            Ok(Fit::Other(state, manifest)) => {
                tracing::warn!(
                    pipeline = plan.name,
                    epoch = row.epoch,
                    "the checkpoint is of another pipeline file: {state} is not what it was"
                );
                if some.is_none() && is_plain(journal, plan, row.epoch)? {
                    some =
                        reduced(&folder, plan, &states, manifest).map(|part| (row.clone(), part));
                }
            }
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
    if taken.is_none() && some.is_none() && !rows.is_empty() {
        tracing::warn!(
            pipeline = plan.name,
            "no checkpoint can be used: the state is built again from processed/"
        );
    }
    if !damaged.is_empty() {
        journal.drop_checkpoints(&plan.name, &damaged)?;
        rows.retain(|row| !damaged.contains(&row.epoch));
    }
    if let Err(error) = sweep(&folder, &rows) {
        tracing::warn!("old checkpoints could not be deleted: {error}");
    }
    if let (None, Some((row, manifest))) = (&taken, some) {
        return Ok(take_some(folder, states, &row, manifest, (plan, generation))?);
    }
    let Some((row, manifest)) = taken else {
        return Ok(Base { folder, states, manifest: None, order: None, partial: None });
    };
    let order = RestoreOrder { epoch: row.epoch, manifest: row.manifest, hash: row.hash };
    Ok(Base { folder, states, manifest: Some(manifest), order: Some(order), partial: None })
}

/// Returns whether all versions that are in a checkpoint are still the ones that count.
fn is_plain(journal: &Journal, plan: &Plan, epoch: u64) -> Result<bool, StartError> {
    Ok(journal.corrected_after(&plan.name, epoch)?.is_empty() && !journal.has_lost(&plan.name)?)
}

/// Returns the part of a checkpoint that a plan goes on with, if there is one and it is whole.
fn reduced(
    folder: &Path,
    plan: &Plan,
    states: &[State],
    mut manifest: Manifest,
) -> Option<Manifest> {
    let kept = kept(plan, states, |state| fits(&manifest, state));
    let going_on: BTreeSet<&str> = states
        .iter()
        .zip(&kept)
        .filter(|(_, kept)| **kept)
        .map(|(one, _)| one.id.as_str())
        .collect();
    manifest.states.retain(|state| going_on.contains(state.id.as_str()));
    manifest.forget_unused();
    let is_whole = manifest.verify(folder).is_ok();
    (is_whole && !manifest.states.is_empty()).then_some(manifest)
}

/// Lets a plan begin with a part of a checkpoint. It is written as a manifest of its own, which belongs
/// to this generation and does not count in the journal.
fn take_some(
    folder: PathBuf,
    states: Vec<State>,
    row: &CheckpointRow,
    mut manifest: Manifest,
    (plan, generation): (&Plan, u64),
) -> std::io::Result<Base> {
    manifest.generation = generation;
    let (name, hash) = write_manifest(&folder, &manifest)?;
    let partial = Partial {
        epoch: row.epoch,
        states: manifest.states.iter().map(|state| state.id.clone()).collect(),
    };
    partial.write(&folder, generation)?;
    tracing::info!(
        pipeline = plan.name,
        epoch = row.epoch,
        kept = ?partial.states,
        "some states go on with the checkpoint; the others are made again from processed/"
    );
    let order = RestoreOrder { epoch: row.epoch, manifest: name, hash };
    let (manifest, order, partial) = (Some(manifest), Some(order), Some(partial));
    Ok(Base { folder, states, manifest, order, partial })
}

/// Returns whether a checkpoint holds a state as it is meant now.
pub(crate) fn fits(manifest: &Manifest, state: &State) -> bool {
    manifest.state(&state.id).is_some_and(|kept| kept.fingerprint == state.fingerprint)
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
    Other(String, Manifest),
}

fn usable(folder: &Path, row: &CheckpointRow, states: &[State]) -> Result<Fit, CheckpointError> {
    let manifest = read_manifest(folder, row)?;
    if let Some(state) = states.iter().find(|state| !fits(&manifest, state)) {
        return Ok(Fit::Other(state.id.clone(), manifest));
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
