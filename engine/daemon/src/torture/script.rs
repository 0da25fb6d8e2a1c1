//! Script: what is done to a home, in phases: inputs are dropped, then some are replaced, then some
//! removed. The same for every home of a campaign.
//!
//! Decides by the dice alone; does nothing itself. A phase begins when everything before it is finished,
//! so that the order in which versions come is the same however often the program is killed.

use std::collections::BTreeMap;
use std::path::PathBuf;

use tidemill_engine::intake::Patterns;
use tidemill_engine::plan::{Plan, Retention, SourcePlan};
use tidemill_store::Dedupe;

use super::dice::Dice;

/// Of so many inputs that can be corrected one is replaced, one removed, one both, and one left.
const FATES: usize = 4;

/// Something that a person does to a home.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Drops an input.
    Drop(String),
    /// Drops another version under the name of an input.
    Replace(String, PathBuf),
    /// Deletes what the input is now from `processed/`.
    Remove(String),
}

/// What is done, phase by phase.
pub type Script = Vec<Vec<Action>>;

/// Returns a script that only drops the inputs.
pub fn plain(inputs: &BTreeMap<String, PathBuf>) -> Script {
    vec![inputs.keys().cloned().map(Action::Drop).collect()]
}

/// Returns a script that replaces and removes a share of the inputs, too; nothing if none of their
/// sources takes corrections.
pub fn correcting(
    inputs: &BTreeMap<String, PathBuf>,
    plan: &Plan,
    dice: &mut Dice,
) -> Option<Script> {
    let patterns = Patterns::new(&plan.sources);
    let mut by_source: BTreeMap<String, Vec<&String>> = BTreeMap::new();
    for name in inputs.keys() {
        let Some(source) = patterns.source_of(name) else { continue };
        let at = plan.sources.iter().position(|one| one.name == source);
        if at.is_some_and(|at| is_correctable(plan, at)) {
            by_source.entry(source.to_owned()).or_default().push(name);
        }
    }
    let (mut replaced, mut removed) = (Vec::new(), Vec::new());
    for names in by_source.values() {
        // Something of each happens, however few there are.
        let first = dice.below(FATES);
        for (at, name) in names.iter().enumerate() {
            let fate = if at < FATES { first + at } else { dice.below(FATES) } % FATES;
            if fate == 0 || fate == 2 {
                // Another file of the same source is a version that its source can read.
                let other = names[(at + 1 + dice.below(names.len())) % names.len()];
                let with = inputs.get(other).cloned().unwrap_or_default();
                replaced.push(Action::Replace((*name).clone(), with));
            }
            if fate == 1 || fate == 2 {
                removed.push(Action::Remove((*name).clone()));
            }
        }
    }
    if replaced.is_empty() && removed.is_empty() {
        return None;
    }
    let mut script = plain(inputs);
    script.extend([replaced, removed]);
    script.retain(|phase| !phase.is_empty());
    Some(script)
}

/// Returns whether the files of a source can be replaced and removed. A source that leaves repetitions
/// out would not see a second version.
fn is_correctable(plan: &Plan, at: usize) -> bool {
    let SourcePlan { taking, .. } = &plan.sources[at];
    !taking.correcting.append_only
        && taking.correcting.retention != Retention::Off
        && taking.dedupe == Dedupe::None
        && plan.why_not_correctable(at).is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIPELINE: &str = "pipeline: p
sources:
  a: { format: csv, fields: { n: int }, pattern: \"a*\" }
  b: { format: csv, fields: { n: int }, pattern: \"b*\", append_only: true }
sinks:
  all: { from: [a, b], files: { format: csv } }
";

    #[test]
    fn some_inputs_of_sources_that_can_be_corrected_are_replaced_and_removed() {
        let plan = tidemill_engine::plan(PIPELINE).unwrap();
        let names = ["a1", "a2", "a3", "a4", "b1", "b2"];
        let inputs: BTreeMap<String, PathBuf> =
            names.into_iter().map(|name| (name.to_owned(), format!("/in/{name}").into())).collect();
        for seed in 0..20 {
            let script = correcting(&inputs, &plan, &mut Dice::new(seed)).unwrap();
            assert_eq!(script, correcting(&inputs, &plan, &mut Dice::new(seed)).unwrap());
            assert_eq!(script[0], plain(&inputs)[0]);
            let of_a = |action: &Action| match action {
                Action::Replace(name, with) => name.starts_with('a') && with.starts_with("/in"),
                Action::Remove(name) => name.starts_with('a'),
                Action::Drop(_) => false,
            };
            assert_eq!((script[1].len(), script[2].len()), (2, 2), "{script:?}");
            assert!(script[1..].iter().flatten().all(of_a), "{script:?}");
        }
        let only_b = inputs.into_iter().filter(|(name, _)| name.starts_with('b')).collect();
        assert_eq!(correcting(&only_b, &plan, &mut Dice::new(1)), None);
    }
}
