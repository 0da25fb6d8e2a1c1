//! Control: what a person holds back while everything runs: pipelines, sources, sinks.
//!
//! Derived state, shared by all who take files in or commit them; the journal is what survives, and the
//! ledger alone changes both. Decides whether something may enter and whose commit waits; never moves
//! or holds a file itself.
//!
//! A pipeline that is paused or drained and a source that is paused take no new files. A sink that is
//! paused holds the commit of the files that reach it, and of all behind them, because commits come in
//! the order of epochs.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::SystemTime;

use tidemill_store::{Held, Hold};

use crate::board::from_us;
use crate::plan::Plan;
use crate::report::{Condition, HoldReport};

/// What is held back now. Clones are the same.
#[derive(Clone, Debug)]
pub struct Control {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    lines: Mutex<Vec<Line>>,
    /// Held by whoever is about to let a file in, and alone by whoever changes what is held back: so
    /// that nothing is half inside when a pipeline counts as drained.
    door: RwLock<()>,
}

#[derive(Debug)]
struct Line {
    name: String,
    sources: Vec<String>,
    sinks: Vec<String>,
    held: BTreeMap<Held, SystemTime>,
    /// Files that wait in `unprocessed/`, by source.
    waiting: Vec<usize>,
    /// What dropped files wait for beside them.
    arrivals: Vec<Condition>,
}

impl Line {
    /// Returns what holds a source back, if anything does.
    fn holds(&self, source: &str) -> Option<&Held> {
        let is_in_the_way = |held: &&Held| match held {
            Held::Drained | Held::Paused => true,
            Held::Source(name) => name == source,
            Held::Sink(_) => false,
        };
        self.held.keys().find(is_in_the_way)
    }
}

/// Why something cannot be held back, or let go.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// There is no such pipeline.
    #[error("no pipeline is called {name:?}; running: {running}")]
    Pipeline {
        /// What was asked for.
        name: String,
        /// What runs, separated by commas.
        running: String,
    },
    /// The pipeline has no such source or sink.
    #[error("pipeline {pipeline} has no {kind} called {name:?}; it has {known}")]
    Part {
        /// The pipeline.
        pipeline: String,
        /// What it should be: `source`, `sink`, or either.
        kind: &'static str,
        /// What was asked for.
        name: String,
        /// Its sources and sinks.
        known: String,
    },
    /// A source and a sink are called so.
    #[error(
        "pipeline {pipeline} has a source and a sink called {name}; say {pipeline}.source:{name} or \
         {pipeline}.sink:{name}"
    )]
    Ambiguous {
        /// The pipeline.
        pipeline: String,
        /// What was asked for.
        name: String,
    },
    /// The engine is ending.
    #[error("it is stopping")]
    Stopping,
}

impl Control {
    /// Returns what is held back of these pipelines, as an earlier life left it.
    pub fn new(plans: &[Plan], holds: Vec<Hold>) -> Self {
        let line = |plan: &Plan| Line {
            name: plan.name.clone(),
            sources: plan.sources.iter().map(|source| source.name.clone()).collect(),
            sinks: plan.sinks.iter().map(|sink| sink.name.clone()).collect(),
            held: BTreeMap::new(),
            waiting: vec![0; plan.sources.len()],
            arrivals: Vec::new(),
        };
        let mut lines: Vec<Line> = plans.iter().map(line).collect();
        for hold in holds {
            let Some(line) = lines.iter_mut().find(|line| line.name == hold.pipeline) else {
                continue;
            };
            let is_known = match &hold.what {
                Held::Drained | Held::Paused => true,
                Held::Source(name) => line.sources.contains(name),
                Held::Sink(name) => line.sinks.contains(name),
            };
            if is_known {
                line.held.insert(hold.what, from_us(hold.since_us));
            } else {
                tracing::warn!(
                    pipeline = hold.pipeline,
                    "paused: {}, which this pipeline file does not have; it holds again when a file has \
                     it",
                    words(&hold.what)
                );
            }
        }
        Self { inner: Arc::new(Inner { lines: Mutex::new(lines), door: RwLock::default() }) }
    }

    /// Finds the place of a pipeline, and what of it is meant: all of it, or a source or sink.
    pub fn find(
        &self,
        pipeline: &str,
        part: Option<&str>,
    ) -> Result<(usize, Option<Held>), ControlError> {
        let lines = self.lines();
        let Some(at) = lines.iter().position(|line| line.name == pipeline) else {
            return Err(ControlError::Pipeline {
                // An overlong name is not worth repeating.
                name: pipeline.chars().take(100).collect(),
                running: lines.iter().map(|line| &*line.name).collect::<Vec<_>>().join(", "),
            });
        };
        let Some(part) = part else { return Ok((at, None)) };
        let line = &lines[at];
        let (kind, name) = match part.split_once(':') {
            Some(("source", name)) => ("source", name),
            Some(("sink", name)) => ("sink", name),
            _ => ("source or sink", part),
        };
        let source = line.sources.iter().find(|one| *one == name && kind != "sink");
        let sink = line.sinks.iter().find(|one| *one == name && kind != "source");
        match (source, sink) {
            (Some(_), Some(_)) => {
                return Err(ControlError::Ambiguous {
                    pipeline: line.name.clone(),
                    name: name.to_owned(),
                });
            }
            (Some(name), None) => return Ok((at, Some(Held::Source(name.clone())))),
            (None, Some(name)) => return Ok((at, Some(Held::Sink(name.clone())))),
            (None, None) => {}
        }
        let (sources, sinks) = (line.sources.join(", "), line.sinks.join(", "));
        Err(ControlError::Part {
            pipeline: line.name.clone(),
            kind,
            name: name.chars().take(100).collect(),
            known: format!("sources: {sources}; sinks: {sinks}"),
        })
    }

    /// Lets somebody in: until the guard is dropped, nothing that is asked here changes.
    pub fn enter(&self) -> RwLockReadGuard<'_, ()> {
        self.inner.door.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until nobody is about to come in, and lets nobody in until the guard is dropped.
    pub(crate) fn close(&self) -> RwLockWriteGuard<'_, ()> {
        self.inner.door.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns why a source takes nothing now, in words; `None` if it does take files.
    pub fn refusal(&self, pipeline: usize, source: &str) -> Option<String> {
        let lines = self.lines();
        let line = lines.get(pipeline)?;
        let name = &line.name;
        Some(match line.holds(source)? {
            Held::Drained => format!("pipeline {name} is drained"),
            Held::Paused => format!("pipeline {name} is paused"),
            Held::Source(_) | Held::Sink(_) => format!("source {source} of {name} is paused"),
        })
    }

    /// Returns why a pipeline takes nothing now, whatever source it is for; `None` if it does.
    pub fn refusal_of_all(&self, pipeline: usize) -> Option<String> {
        // No source has an empty name.
        self.refusal(pipeline, "")
    }

    /// Returns of each source of a pipeline whether it takes files.
    pub fn open_sources(&self, pipeline: usize) -> Vec<bool> {
        let lines = self.lines();
        let Some(line) = lines.get(pipeline) else { return Vec::new() };
        line.sources.iter().map(|source| line.holds(source).is_none()).collect()
    }

    /// Returns the sinks of a pipeline that are paused.
    pub fn paused_sinks(&self, pipeline: usize) -> Vec<String> {
        let lines = self.lines();
        let held = lines.get(pipeline).into_iter().flat_map(|line| line.held.keys());
        let sink = |held: &Held| match held {
            Held::Sink(name) => Some(name.clone()),
            _ => None,
        };
        held.filter_map(sink).collect()
    }

    /// Takes how many files wait in `unprocessed/` for each source of a pipeline, and what those wait
    /// for that could not be taken in any case.
    pub fn waiting(&self, pipeline: usize, counts: Vec<usize>, arrivals: Vec<Condition>) {
        if let Some(line) = self.lines().get_mut(pipeline) {
            (line.waiting, line.arrivals) = (counts, arrivals);
        }
    }

    /// Something is held back, since a time. For the ledger, once the journal knows.
    pub(crate) fn hold(&self, pipeline: usize, what: Held, since_us: i64) {
        if let Some(line) = self.lines().get_mut(pipeline) {
            line.held.insert(what, from_us(since_us));
        }
    }

    /// Something is not held back any more. For the ledger, once the journal knows.
    pub(crate) fn let_go(&self, pipeline: usize, what: &Held) {
        if let Some(line) = self.lines().get_mut(pipeline) {
            line.held.remove(what);
        }
    }

    /// Returns whether something is held back.
    pub fn is_held(&self, pipeline: usize, what: &Held) -> bool {
        self.lines().get(pipeline).is_some_and(|line| line.held.contains_key(what))
    }

    /// Returns why another plan of a pipeline cannot take over as long as some source or sink is paused
    /// that it does not have: it would be paused no more, and nobody has said so.
    pub fn lost(&self, pipeline: usize, plan: &Plan) -> Option<String> {
        let is_lost = |hold: &HoldReport| match hold.kind.as_str() {
            HoldReport::SOURCE => !plan.sources.iter().any(|one| one.name == hold.part),
            HoldReport::SINK => !plan.sinks.iter().any(|one| one.name == hold.part),
            _ => false,
        };
        let hold = self.holds(pipeline).into_iter().find(is_lost)?;
        let HoldReport { pipeline: name, kind, part, .. } = &hold;
        Some(format!(
            "{kind} {part} of {name} is paused, and the new file has no {kind} of that name; let it go \
             (tidemill resume {}), or hold the whole pipeline in its place (tidemill pause {name} first)",
            target(&hold)
        ))
    }

    /// Returns what is held back of a pipeline.
    pub fn holds(&self, pipeline: usize) -> Vec<HoldReport> {
        self.lines().get(pipeline).map(reports).unwrap_or_default()
    }

    /// Returns what is held back, for whoever must know why something waits, and what dropped files
    /// wait for.
    pub fn conditions(&self) -> Vec<Condition> {
        let lines = self.lines();
        let held = lines.iter().flat_map(reports).map(condition);
        held.chain(lines.iter().flat_map(|line| line.arrivals.iter().cloned())).collect()
    }

    fn lines(&self) -> MutexGuard<'_, Vec<Line>> {
        // A panic ends the process; until then half a list harms nobody.
        self.inner.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn reports(line: &Line) -> Vec<HoldReport> {
    let waits_for = |wanted: Option<&str>| -> u64 {
        let pairs = line.sources.iter().zip(&line.waiting);
        let mine = pairs.filter(|(source, _)| wanted.is_none_or(|wanted| wanted == **source));
        mine.map(|(_, count)| *count as u64).sum()
    };
    let report = |(what, since): (&Held, &SystemTime)| {
        let (kind, part, files_waiting) = match what {
            Held::Drained => (HoldReport::DRAINED, String::new(), waits_for(None)),
            Held::Paused => (HoldReport::PAUSED, String::new(), waits_for(None)),
            Held::Source(name) => (HoldReport::SOURCE, name.clone(), waits_for(Some(name))),
            Held::Sink(name) => (HoldReport::SINK, name.clone(), 0),
        };
        let shares_its_name = line.sources.contains(&part) && line.sinks.contains(&part);
        let (pipeline, kind, since) = (line.name.clone(), kind.to_owned(), *since);
        HoldReport { pipeline, kind, part, since, files_waiting, shares_its_name }
    };
    line.held.iter().map(report).collect()
}

fn words(what: &Held) -> String {
    match what {
        Held::Drained | Held::Paused => "all of it".to_owned(),
        Held::Source(name) => format!("source {name}"),
        Held::Sink(name) => format!("sink {name}"),
    }
}

/// Returns the name by which a person resumes something.
fn target(hold: &HoldReport) -> String {
    let HoldReport { pipeline, part, .. } = hold;
    match (part.is_empty(), hold.shares_its_name) {
        (true, _) => pipeline.clone(),
        (false, false) => format!("{pipeline}.{part}"),
        (false, true) => format!("{pipeline}.{}:{part}", hold.kind),
    }
}

fn condition(hold: HoldReport) -> Condition {
    let HoldReport { pipeline, part, since, files_waiting, .. } = &hold;
    let wait = match files_waiting {
        0 => String::new(),
        1 => "; 1 file waits in unprocessed/".to_owned(),
        count => format!("; {count} files wait in unprocessed/"),
    };
    let (code, text) = match hold.kind.as_str() {
        HoldReport::DRAINED => {
            (Condition::DRAINED, format!("pipeline {pipeline} is drained and takes no files{wait}"))
        }
        HoldReport::PAUSED => {
            (Condition::PAUSED, format!("pipeline {pipeline} is paused and takes no files{wait}"))
        }
        HoldReport::SOURCE => (
            Condition::PAUSED,
            format!("source {part} of {pipeline} is paused and takes no files{wait}"),
        ),
        _ => (
            Condition::PAUSED,
            format!("sink {part} of {pipeline} is paused: files that reach it are not committed"),
        ),
    };
    let hint = format!("to go on: tidemill resume {}", target(&hold));
    Condition { code: code.into(), since: *since, text, hint }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan;

    const YAML: &str = "pipeline: p\nsources:\n  a: { format: text, pattern: \"*.a\" }\n  \
                        b: { format: text }\nsinks:\n  o: { from: a, files: { format: raw } }\n  \
                        b: { from: b, files: { format: raw } }\n";

    fn given(holds: &[Held]) -> Control {
        let plans = [plan::plan(YAML).unwrap()];
        let hold = |what: &Held| Hold { pipeline: "p".into(), what: what.clone(), since_us: 5 };
        Control::new(&plans, holds.iter().map(hold).collect())
    }

    /// What is held back, which sources take files then, and which sinks are paused.
    #[track_caller]
    fn check(holds: &[Held], open: [bool; 2], paused: &[&str]) {
        let control = given(holds);
        assert_eq!(control.open_sources(0), open, "{holds:?}");
        let refused = ["a", "b"].map(|source| control.refusal(0, source).is_none());
        assert_eq!(refused, open, "{holds:?}");
        assert_eq!(control.paused_sinks(0), paused, "{holds:?}");
        let known = holds.iter().filter(|held| **held != Held::Source("gone".into()));
        assert_eq!(control.conditions().len(), known.count(), "{holds:?}");
    }

    #[test]
    fn what_is_held_back_takes_nothing_and_nothing_else_is_touched() {
        check(&[], [true, true], &[]);
        check(&[Held::Paused], [false, false], &[]);
        check(&[Held::Drained], [false, false], &[]);
        check(&[Held::Source("a".into())], [false, true], &[]);
        check(&[Held::Sink("o".into())], [true, true], &["o"]);
        check(&[Held::Sink("rejects".into())], [true, true], &["rejects"]);
        check(&[Held::Source("b".into()), Held::Sink("b".into())], [true, false], &["b"]);
        // The file was changed since, and has it no more.
        check(&[Held::Source("gone".into())], [true, true], &[]);
    }

    #[test]
    fn a_name_that_is_not_there_is_told_with_those_that_are() {
        let control = given(&[]);
        let check = |pipeline: &str, part: Option<&str>, expected: &str| {
            let said = match control.find(pipeline, part) {
                Ok((_, what)) => format!("{what:?}"),
                Err(error) => error.to_string(),
            };
            assert_eq!(said, expected);
        };
        check("p", None, "None");
        check("p", Some("a"), "Some(Source(\"a\"))");
        check("p", Some("o"), "Some(Sink(\"o\"))");
        check("p", Some("sink:o"), "Some(Sink(\"o\"))");
        check("p", Some("source:b"), "Some(Source(\"b\"))");
        check("p", Some("sink:b"), "Some(Sink(\"b\"))");
        let both = "pipeline p has a source and a sink called b; say p.source:b or p.sink:b";
        check("p", Some("b"), both);
        check("q", None, "no pipeline is called \"q\"; running: p");
        let known = "it has sources: a, b; sinks: o, b, rejects";
        check("p", Some("x"), &format!("pipeline p has no source or sink called \"x\"; {known}"));
        let gone = format!("pipeline p has no source called \"o\"; {known}");
        check("p", Some("source:o"), &gone);
        let gone = format!("pipeline p has no source or sink called \"table:o\"; {known}");
        check("p", Some("table:o"), &gone);
    }

    #[test]
    fn a_plan_without_what_is_paused_is_told() {
        let plan =
            plan::plan(&YAML.replace("a: { format", "c: { format").replace("from: a", "from: c"));
        let plan = plan.unwrap();
        let check = |held: Held, expected: Option<&str>| {
            let said = given(std::slice::from_ref(&held)).lost(0, &plan);
            assert_eq!(said.is_some(), expected.is_some(), "{held:?}: {said:?}");
            let said = said.unwrap_or_default();
            assert!(said.contains(expected.unwrap_or_default()), "{held:?}: {said}");
        };
        check(Held::Source("a".into()), Some("source a of p is paused"));
        check(Held::Source("b".into()), None);
        check(Held::Sink("b".into()), None);
        check(Held::Paused, None);
        check(Held::Drained, None);
    }

    #[test]
    fn the_files_that_wait_for_what_is_paused_are_counted() {
        let control = given(&[Held::Source("a".into())]);
        control.waiting(0, vec![3, 4], Vec::new());
        assert!(control.conditions()[0].text.ends_with("; 3 files wait in unprocessed/"));
        control.let_go(0, &Held::Source("a".into()));
        assert_eq!(control.conditions(), []);
        control.hold(0, Held::Paused, 5);
        assert!(control.conditions()[0].text.ends_with("; 7 files wait in unprocessed/"));
    }
}
