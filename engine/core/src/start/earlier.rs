//! Earlier: what earlier lives left that this one takes up.
//!
//! Looks at the journal and the folders before anything runs; moves nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use tidemill_store::{
    AcceptedFile, Dedupe, DiskError, Folders, Found, Journal, JournalError, Reading, Versions,
    look_for,
};

use crate::checkpoint::find::Base;
use crate::checkpoint::reuse::read_again;
use crate::checkpoint::{Place, State, has_state};
use crate::intake::Patterns;
use crate::plan::Plan;
use crate::sink::changes;
use crate::start::readable::unreadable;
use crate::start::{Config, StartError};

/// A file that an earlier life left.
pub(super) struct Earlier {
    /// Its pipeline.
    pub(super) pipeline: usize,
    /// The file, as it looks now.
    pub(super) file: AcceptedFile,
    /// Whether it was committed, and is read again only to rebuild tables.
    pub(super) replay: bool,
    /// When it is tried again, if it waits for that: microseconds since 1970.
    pub(super) again_at_us: Option<i64>,
}

/// Returns what earlier lives left of each pipeline: committed files that its checkpoint does not hold,
/// to rebuild tables from, then those that were not finished; and the pipelines that leave out files
/// which were corrected since. Nothing runs yet, so that a refusal needs no end.
pub(super) fn earlier(
    config: &Config,
    journal: &mut Journal,
    folders: &[Folders],
    patterns: &[Patterns],
    bases: &[Base],
) -> Result<(Vec<Earlier>, Vec<usize>), StartError> {
    let mut all = Vec::new();
    let mut skip = Vec::new();
    for (pipeline, plan) in config.plans.iter().enumerate() {
        let (folders, patterns) = (&folders[pipeline], &patterns[pipeline]);
        if has_state(plan) {
            let checkpoint = bases[pipeline].manifest.as_ref();
            let base = &bases[pipeline];
            let from = base.reads_from();
            if let Some(manifest) = checkpoint {
                tracing::info!(
                    pipeline = plan.name,
                    epoch = manifest.epoch,
                    rows = manifest.count(),
                    "restoring a checkpoint"
                );
            }
            let mut committed = journal.committed_after(&plan.name, from, usize::MAX)?;
            if base.partial.is_some() {
                let kept: Vec<bool> =
                    base.states.iter().map(|state| base.keeps(&state.id)).collect();
                let sources = sources_again(plan, &base.states, &kept, patterns);
                committed.retain(|file| file.epoch > base.epoch() || sources(file));
                // What was left out of some states and is in others must not be compared or taken
                // for the whole.
                skip.push(pipeline);
            }
            // Only then all that a start reads is there: else it reads what is current.
            let is_whole = base.partial.is_none()
                && (checkpoint.is_some() || journal.checkpoints(&plan.name)?.is_empty());
            let versions = if is_whole { plan.versions() } else { Versions::Current };
            let first = committed.first().map(|file| file.epoch);
            let readings = first.map(|first| journal.readings(&plan.name, &plan.hash, first));
            let readings = readings.transpose()?.unwrap_or_default();
            let rebuilt =
                to_rebuild(plan, committed, readings, versions, (folders, patterns), config)?;
            let was_otherwise = rebuilt.was_otherwise();
            let Inputs { there: replay, lost, .. } = rebuilt;
            if base.partial.is_none() && rebuilt.left_out {
                skip.push(pipeline);
            }
            // Also when none is: what was lost once may have been put back.
            journal.remember_lost(&plan.name, base.epoch(), &lost)?;
            if !replay.is_empty() {
                tracing::info!(pipeline = plan.name, files = replay.len(), "rebuilding tables");
                if was_otherwise {
                    warn_of_changelogs(plan, base, folders);
                }
            }
            let replay = replay.into_iter();
            let again_at_us = None;
            all.extend(replay.map(|file| Earlier { pipeline, file, replay: true, again_at_us }));
        }
        let unfinished = journal.unfinished(&plan.name)?.into_iter().map(|file| (file, None));
        let postponed = journal.postponed(&plan.name)?.into_iter();
        let postponed = postponed.map(|(file, at)| (file, Some(at)));
        for (mut file, again_at_us) in unfinished.chain(postponed) {
            if !find_source(plan, patterns, &mut file) {
                let (pipeline, AcceptedFile { name, source, .. }) = (plan.name.clone(), file);
                return Err(StartError::NoSource { pipeline, name, source_name: source });
            }
            // What is gone or changed is set aside by whoever reads it.
            let path = folders.underprocess.join(&file.claimed_name);
            if let Found::Same(identity) = look_for(&path, &file)? {
                file.identity = identity;
            }
            all.push(Earlier { pipeline, file, replay: false, again_at_us });
        }
    }
    Ok((all, skip))
}

/// Returns which files of what is in a checkpoint are read again, for the states that are made again.
pub(crate) fn sources_again<'p>(
    plan: &'p Plan,
    states: &[State],
    kept: &[bool],
    patterns: &'p Patterns,
) -> impl Fn(&AcceptedFile) -> bool + use<'p> {
    let sources = read_again(plan, states, kept);
    let names: BTreeSet<&str> = sources.iter().map(|at| &*plan.sources[*at].name).collect();
    move |file| {
        let mut file = file.clone();
        // One without a source is counted by whoever looks for it.
        !find_source(plan, patterns, &mut file) || names.contains(&*file.source)
    }
}

/// What a state is made of again.
#[derive(Default)]
pub(crate) struct Inputs {
    /// The committed files that are where they must be, each as it looks now.
    pub(crate) there: Vec<AcceptedFile>,
    /// Those that the state goes on without, the ones that are gone included.
    pub(crate) lost: Vec<u64>,
    /// Those that are gone, or are not what was committed: the name and what was found.
    pub(crate) gone: Vec<(String, String)>,
    /// How many no source takes any more.
    pub(crate) without_source: usize,
    /// Whether versions are not among them that were corrected later.
    pub(crate) left_out: bool,
    /// How those were read that were committed under another plan.
    pub(crate) readings: HashMap<u64, Reading>,
}

impl Inputs {
    /// Returns whether some of the files were committed under another plan.
    pub(crate) fn was_otherwise(&self) -> bool {
        self.there.iter().any(|file| self.readings.contains_key(&file.id))
    }
}

/// Looks for the committed files that a state is made of again; refused if some are gone, unless the
/// tables may lose their rows.
fn to_rebuild(
    plan: &Plan,
    committed: Vec<AcceptedFile>,
    readings: HashMap<u64, Reading>,
    versions: Versions,
    (folders, patterns): (&Folders, &Patterns),
    config: &Config,
) -> Result<Inputs, StartError> {
    let found = Inputs { readings, ..inputs(plan, committed, versions, (folders, patterns))? };
    if found.without_source > 0 {
        tracing::warn!(
            pipeline = plan.name,
            files = found.without_source,
            "no source takes some committed files any more: tables lose their rows"
        );
    }
    let count = found.gone.len();
    if let Some((name, detail)) = found.gone.first().cloned() {
        let pipeline = plan.name.clone();
        if !config.forget_missing {
            return Err(StartError::InputsGone { pipeline, count, name, detail });
        }
        tracing::warn!(
            pipeline,
            files = count,
            first = name,
            "tables lose the rows of lost inputs"
        );
    }
    if let Some((file, detail)) = unreadable(plan, &found, folders) {
        let (pipeline, name) = (plan.name.clone(), file.stored_name.clone());
        return Err(StartError::Unreadable {
            pipeline,
            name,
            source_name: file.source.clone(),
            detail,
        });
    }
    Ok(found)
}

/// Looks for committed files that a state is made of again.
pub(crate) fn inputs(
    plan: &Plan,
    committed: Vec<AcceptedFile>,
    versions: Versions,
    (folders, patterns): (&Folders, &Patterns),
) -> Result<Inputs, DiskError> {
    let mut found = Inputs::default();
    let left_out = left_out(&committed, versions, folders)?;
    for mut file in committed {
        if left_out.contains(&file.id) {
            found.left_out |= !file.is_removal();
            continue;
        }
        if !find_source(plan, patterns, &mut file) {
            found.without_source += 1;
            found.lost.push(file.id);
            continue;
        }
        if file.is_removal() {
            found.there.push(file);
            continue;
        }
        match where_it_must_be(&file, folders)? {
            Found::Same(identity) => found.there.push(AcceptedFile { identity, ..file }),
            Found::Missing => {
                found.lost.push(file.id);
                found.gone.push((file.stored_name, "it is gone".to_owned()));
            }
            Found::Changed(detail) => {
                found.lost.push(file.id);
                found.gone.push((file.stored_name, detail));
            }
        }
    }
    Ok(found)
}

/// Looks for a committed file.
fn where_it_must_be(file: &AcceptedFile, folders: &Folders) -> Result<Found, DiskError> {
    match look_for(&folders.processed.join(&file.stored_name), file)? {
        Found::Missing => look_for(&folders.retained.join(&file.stored_name), file),
        found => Ok(found),
    }
}

/// Returns which of the files that were to be read again need not be: neither a version nor its
/// correction, where both are among them and only current versions count. Where all count, only
/// versions are left out whose bytes are gone.
fn left_out(
    committed: &[AcceptedFile],
    versions: Versions,
    folders: &Folders,
) -> Result<BTreeSet<u64>, DiskError> {
    let corrected: BTreeSet<u64> =
        committed.iter().filter_map(|file| file.correction?.of).collect();
    let known: BTreeSet<u64> = committed.iter().map(|file| file.id).collect();
    let corrects = |file: &AcceptedFile| Some((file.id, file.correction?.of?));
    let corrects: BTreeMap<u64, u64> = committed.iter().filter_map(corrects).collect();
    let mut left_out = BTreeSet::new();
    for file in committed {
        let is_needless = if file.is_removal() {
            // The last of a chain takes back the first version, if that is in the checkpoint, and
            // the last one that is read.
            let mut chain = std::iter::successors(corrects.get(&file.id), |old| corrects.get(old));
            !chain.any(|old| !known.contains(old) || !left_out.contains(old))
        } else {
            corrected.contains(&file.id)
                && (versions == Versions::Current
                    || !matches!(where_it_must_be(file, folders)?, Found::Same(_)))
        };
        if is_needless {
            left_out.insert(file.id);
        }
    }
    Ok(left_out)
}

/// Gives a file of an earlier life to its source: the one that took it, or, if that was renamed,
/// the one that takes its name now. Returns whether there is one.
fn find_source(plan: &Plan, patterns: &Patterns, file: &mut AcceptedFile) -> bool {
    if plan.sources.iter().any(|source| source.name == file.source) {
        return true;
    }
    let Some(source) = patterns.source_of(&file.name) else { return false };
    source.clone_into(&mut file.source);
    true
}

/// Where a plan is another one than in the life before, the files of a source that was renamed become those of the
/// one that takes their names now. Before the generation begins.
pub(super) fn adopt(
    plans: &[Plan],
    patterns: &[Patterns],
    journal: &mut Journal,
) -> Result<(), JournalError> {
    for (plan, patterns) in plans.iter().zip(patterns) {
        if journal.last_plan(&plan.name)?.is_none_or(|last| last == plan.hash) {
            continue;
        }
        let sources: Vec<&str> = plan.sources.iter().map(|source| &*source.name).collect();
        let source_of = |name: &str| patterns.source_of(name).map(str::to_owned);
        let files = journal.adopt(&plan.name, &sources, source_of)?;
        if files > 0 {
            let pipeline = &plan.name;
            tracing::info!(pipeline, files, "gave files to the sources that take them now");
        }
    }
    Ok(())
}

/// Warns of tables that are made anew in another way than their changelogs tell.
fn warn_of_changelogs(plan: &Plan, base: &Base, folders: &Folders) {
    for state in &base.states {
        let Place::Table(at) = state.place else { continue };
        let sink = &plan.sinks[at];
        let has_told = sink.has_changelog() && changes::has_told(folders, &sink.name);
        if has_told && !base.keeps(&state.id) {
            tracing::warn!(
                pipeline = plan.name,
                table = sink.name,
                "the pipeline file is another one than before, and the table is made anew from processed/: \
                 what its changelog told so far does not add up to it any more; to follow it from here on, \
                 begin with its rows"
            );
        }
    }
}

/// Sources that look for equal contents know those of earlier lives, however they took files then.
pub(super) fn remember_contents(plans: &[Plan], journal: &mut Journal) -> Result<(), JournalError> {
    for plan in plans {
        for source in &plan.sources {
            if source.taking.dedupe == Dedupe::Content {
                journal.remember_contents(&plan.name, &source.name)?;
            }
        }
    }
    Ok(())
}
