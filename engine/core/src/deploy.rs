//! Deploy: what becomes of each part of a pipeline when a changed file takes over. Pure: it compares
//! two plans, and moves and reads nothing.
//!
//! A part is what it was if everything that it follows from is: its own definition and all that is
//! upstream of it, names included. What else changed in the file does not matter.

use std::collections::BTreeSet;

use crate::checkpoint::reuse::kept;
use crate::checkpoint::{Place, states};
use crate::plan::describe::format_word;
use crate::plan::{Plan, SinkKind, SinkPlan, hash};

/// What becomes of a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is what it was, and so is what it keeps, if it keeps anything.
    Kept,
    /// What it keeps is made anew from the inputs that are kept.
    Rebuilt,
    /// It does something else from the next file on, and keeps nothing.
    Changed,
    /// It was not there, and keeps nothing.
    New,
    /// It is not there any more.
    Removed,
}

impl Fate {
    /// Returns the word that people and programs see.
    pub const fn word(self) -> &'static str {
        match self {
            Fate::Kept => "kept",
            Fate::Rebuilt => "rebuilt",
            Fate::Changed => "changed",
            Fate::New => "new",
            Fate::Removed => "removed",
        }
    }
}

/// One part of a pipeline, and what becomes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartFate {
    /// Its name.
    pub name: String,
    /// `source`, `operator` or `sink`.
    pub role: &'static str,
    /// What it is: `jsonl`, `aggregate`, `table`, ...
    pub kind: String,
    /// What becomes of it.
    pub fate: Fate,
    /// What that means, for a person.
    pub detail: String,
}

/// Returns what becomes of each part of a plan that takes the place of another, or of none. Those that
/// are not there any more come last.
pub(crate) fn fates(old: Option<&Plan>, new: &Plan) -> Vec<PartFate> {
    let before: BTreeSet<(String, String)> = old
        .map(states)
        .unwrap_or_default()
        .into_iter()
        .map(|state| (state.id, state.fingerprint))
        .collect();
    let all = states(new);
    let kept =
        kept(new, &all, |state| before.contains(&(state.id.clone(), state.fingerprint.clone())));
    // Each state of a part is kept, or none is.
    let state_of = |place: Place| {
        all.iter().zip(&kept).find(|(state, _)| state.place == place).map(|(_, kept)| *kept)
    };
    let mut parts = Vec::new();
    for source in &new.sources {
        let was = old.and_then(|old| old.sources.iter().find(|one| one.name == source.name));
        let same = was.is_some_and(|was| hash::of_source(was) == hash::of_source(source));
        parts.push(PartFate {
            name: source.name.clone(),
            role: "source",
            kind: format_word(&source.read.format).to_owned(),
            fate: of_stateless(was.is_some(), same),
            detail: String::new(),
        });
    }
    for (at, operator) in new.operators.iter().enumerate() {
        let was = old.and_then(|old| {
            old.operators.iter().position(|one| one.name == operator.name).map(|at| (old, at))
        });
        let same =
            was.is_some_and(|(old, was)| hash::of_operator(old, was) == hash::of_operator(new, at));
        let fate = match state_of(Place::Operator(at)) {
            Some(true) => Fate::Kept,
            Some(false) => Fate::Rebuilt,
            None => of_stateless(was.is_some(), same),
        };
        let detail = match (fate, was.is_some(), same) {
            (Fate::Rebuilt, true, true) => "it is what it was, but what reads it is made anew",
            (Fate::Rebuilt, true, false) => "it, or something before it, has changed",
            (Fate::Rebuilt, false, _) => "it was not there",
            _ => "",
        };
        parts.push(PartFate {
            name: operator.name.clone(),
            role: "operator",
            kind: operator.kind.word().to_owned(),
            fate,
            detail: detail.to_owned(),
        });
    }
    for (at, sink) in new.sinks.iter().enumerate() {
        if matches!(sink.kind, SinkKind::Rejects) {
            continue;
        }
        let was = old.and_then(|old| {
            old.sinks.iter().find(|one| one.name == sink.name).map(|sink| (old, sink))
        });
        let same =
            was.is_some_and(|(old, was)| hash::of_sink(old, was) == hash::of_sink(new, sink));
        let state = state_of(Place::Table(at)).or_else(|| state_of(Place::Files(at)));
        let (fate, detail) = of_sink(sink, was.map(|(_, was)| was), same, state);
        parts.push(PartFate {
            name: sink.name.clone(),
            role: "sink",
            kind: sink_word(sink).to_owned(),
            fate,
            detail: detail.to_owned(),
        });
    }
    if let Some(old) = old {
        removed(old, new, &mut parts);
    }
    parts
}

fn of_stateless(was_there: bool, same: bool) -> Fate {
    match (was_there, same) {
        (false, _) => Fate::New,
        (true, true) => Fate::Kept,
        (true, false) => Fate::Changed,
    }
}

fn of_sink(
    sink: &SinkPlan,
    was: Option<&SinkPlan>,
    same: bool,
    state: Option<bool>,
) -> (Fate, &'static str) {
    if let SinkKind::Table { .. } = sink.kind {
        let is_new_log = sink.has_changelog() && !was.is_some_and(SinkPlan::has_changelog);
        return match state {
            Some(true) if same => (Fate::Kept, ""),
            Some(true) => (Fate::Kept, "its rows are; they are written in another way"),
            Some(false) if was.is_some() && is_new_log => (
                Fate::Rebuilt,
                "its snapshot is replaced once it is whole; its changelog begins with the next file",
            ),
            Some(false) if was.is_some() => {
                (Fate::Rebuilt, "its snapshot is replaced once it is whole")
            }
            Some(false) if is_new_log => (
                Fate::Rebuilt,
                "it was not there, and holds the rows of all files; its changelog begins with the next one",
            ),
            Some(false) => (Fate::Rebuilt, "it was not there, and holds the rows of all files"),
            None if was.is_some() && same => (Fate::Kept, ""),
            None if was.is_some() => (Fate::Changed, "from the next file on"),
            None => (Fate::New, "from the next file on"),
        };
    }
    match (was.is_some(), same) {
        (true, true) => (Fate::Kept, ""),
        (true, false) => (Fate::Changed, "from the next file on; outputs that are there stay"),
        (false, _) => (Fate::New, "from the next file on; earlier files get no output there"),
    }
}

fn removed(old: &Plan, new: &Plan, parts: &mut Vec<PartFate>) {
    let mut add = |name: &str, role, kind: &str, detail: &str| {
        parts.push(PartFate {
            name: name.to_owned(),
            role,
            kind: kind.to_owned(),
            fate: Fate::Removed,
            detail: detail.to_owned(),
        });
    };
    for source in &old.sources {
        if !new.sources.iter().any(|one| one.name == source.name) {
            let detail =
                "what it took belongs to the source that takes such names now, if there is one";
            add(&source.name, "source", format_word(&source.read.format), detail);
        }
    }
    for operator in &old.operators {
        if !new.operators.iter().any(|one| one.name == operator.name) {
            let detail =
                if operator.kind.keeps_state() { "what it keeps is forgotten" } else { "" };
            add(&operator.name, "operator", operator.kind.word(), detail);
        }
    }
    for sink in &old.sinks {
        if !new.sinks.iter().any(|one| one.name == sink.name) {
            add(&sink.name, "sink", sink_word(sink), "its outputs stay where they are");
        }
    }
}

const fn sink_word(sink: &SinkPlan) -> &'static str {
    match sink.kind {
        SinkKind::Files { .. } => "files",
        SinkKind::Table { .. } => "table",
        SinkKind::Rejects => "rejects",
    }
}
