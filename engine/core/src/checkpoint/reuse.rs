//! Reuse: which states of a plan go on with what a checkpoint of another plan holds, and which are made
//! again from the inputs. Derived.
//!
//! A state is made again together with every state before it: what it needs are all rows that ever came
//! to it. The others take up the checkpoint and pass over what is read again up to its epoch. Outputs that
//! later files change are either all kept or all made again: their files come one by one.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tidemill_operators::Batch;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::Stream;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::operator::Operator;

use crate::checkpoint::{Place, State};
use crate::plan::{NodeId, Plan};

/// A checkpoint of which only some states are taken up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Partial {
    /// Its epoch.
    pub epoch: u64,
    /// The ids of the states that are taken up.
    pub states: BTreeSet<String>,
}

impl Partial {
    /// Writes it where all processes of a generation find it. It need not survive anything.
    pub fn write(&self, folder: &Path, generation: u64) -> io::Result<()> {
        std::fs::write(path(folder, generation), serde_json::to_vec(self)?)
    }

    /// Reads it; `None` if there is none. Process 0 writes before it meets the others.
    pub fn read(folder: &Path, generation: u64) -> io::Result<Option<Partial>> {
        match std::fs::read(path(folder, generation)) {
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Files that end so are swept with old checkpoints.
fn path(folder: &Path, generation: u64) -> PathBuf {
    folder.join(format!("{generation}.partial.tmp"))
}

/// Returns which states of a plan go on, by their place in `all`. `fits` says whether what was kept of
/// one is still what it means.
pub(crate) fn kept(plan: &Plan, all: &[State], fits: impl Fn(&State) -> bool) -> Vec<bool> {
    let fit: Vec<bool> = all.iter().map(fits).collect();
    if fit.iter().all(|fits| *fits) {
        return fit;
    }
    let misfits = all.iter().zip(&fit).filter(|(_, fits)| !**fits).map(|(state, _)| state.place);
    let changing = all.iter().map(|state| state.place).filter(|at| matches!(at, Place::Files(_)));
    let again: Vec<Place> = misfits.chain(changing).collect();
    let before = upstream(plan, &again);
    let is_again = |place: Place| match place {
        Place::Operator(at) => again.contains(&place) || before.contains(&NodeId::Operator(at)),
        Place::Table(_) | Place::Files(_) => again.contains(&place),
    };
    all.iter().map(|state| !is_again(state.place)).collect()
}

/// Returns the sources whose files are read again for the states that are not kept.
pub(crate) fn read_again(plan: &Plan, all: &[State], kept: &[bool]) -> BTreeSet<usize> {
    let again = all.iter().zip(kept).filter(|(_, kept)| !**kept).map(|(state, _)| state.place);
    let before = upstream(plan, &again.collect::<Vec<_>>());
    let source = |node| match node {
        NodeId::Source(at) => Some(at),
        NodeId::Operator(_) => None,
    };
    before.into_iter().filter_map(source).collect()
}

/// Returns everything before these places.
fn upstream(plan: &Plan, places: &[Place]) -> BTreeSet<NodeId> {
    let of = |place: &Place| -> Vec<NodeId> {
        match place {
            Place::Operator(at) => plan.operators[*at].upstream().collect(),
            Place::Table(at) | Place::Files(at) => plan.sinks[*at].upstream().collect(),
        }
    };
    plan.with_all_before(places.iter().flat_map(of))
}

/// Lets only rows pass that came after an epoch.
pub(crate) fn after<'scope>(
    title: &str,
    rows: Stream<'scope, tidemill_operators::Time, Batch>,
    epoch: u64,
) -> Stream<'scope, tidemill_operators::Time, Batch> {
    rows.unary::<CapacityContainerBuilder<Batch>, _, _, _>(Pipeline, title, move |_, _| {
        move |input, output| {
            input.for_each_stamp(|stamp, batches| {
                if stamp.least().is_some_and(|time| time.epoch <= epoch) {
                    batches.for_each(drop);
                    return;
                }
                for batch in batches {
                    output.session(&stamp).give_container(batch);
                }
            });
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::states;
    use crate::plan;

    const PLAN: &str = "pipeline: p
sources:
  a: { format: csv, fields: { n: int }, pattern: \"a*\" }
  b: { format: csv, fields: { n: int }, pattern: \"b*\" }
operators:
  some: { from: a, filter: n > 1 }
  ones: { from: some, aggregate: { by: [n], compute: { hits: count(*) } } }
  twos: { from: ones, aggregate: { by: [hits], compute: { keys: count(*) } } }
  others: { from: b, aggregate: { by: [n], compute: { hits: count(*) } } }
sinks:
  ones: { from: ones, table: { format: csv, key: [n] } }
  twos: { from: twos, table: { format: csv, key: [hits] } }
  others: { from: others, table: { format: csv, key: [n] } }
";

    /// Which states are made again, and which sources are read for them, when these do not fit.
    #[track_caller]
    fn check(misfits: &[&str], again: &[&str], sources: &[usize]) {
        check_in(PLAN, misfits, again, sources);
    }

    #[track_caller]
    fn check_in(yaml: &str, misfits: &[&str], again: &[&str], sources: &[usize]) {
        let plan = plan(yaml).unwrap();
        let all = states(&plan);
        let kept = kept(&plan, &all, |state| !misfits.contains(&state.id.as_str()));
        let not = all.iter().zip(&kept).filter(|(_, kept)| !**kept);
        assert_eq!(not.map(|(state, _)| state.id.as_str()).collect::<Vec<_>>(), again);
        let read: Vec<usize> = read_again(&plan, &all, &kept).into_iter().collect();
        assert_eq!(read, sources);
    }

    #[test]
    fn what_does_not_fit_is_made_again_with_every_state_before_it() {
        check(&[], &[], &[]);
        check(&["aggregate/others"], &["aggregate/others"], &[1]);
        check(&["table/others"], &["aggregate/others", "table/others"], &[1]);
        check(&["table/twos"], &["aggregate/ones", "aggregate/twos", "table/twos"], &[0]);
        check(&["aggregate/ones"], &["aggregate/ones"], &[0]);
        check(
            &["table/ones", "table/others"],
            &["aggregate/ones", "aggregate/others", "table/ones", "table/others"],
            &[0, 1],
        );
    }

    #[test]
    fn what_counts_rejected_records_is_made_again_from_the_files_they_were_in() {
        let yaml = "pipeline: p
sources:
  a: { format: csv, fields: { n: int }, pattern: \"a*\" }
  b: { format: csv, fields: { n: int }, pattern: \"b*\" }
operators:
  some: { from: a, filter: 10 / n > 1 }
  wrong: { from: [a.errors, some.errors], aggregate: { by: [code], compute: { hits: count(*) } } }
  others: { from: b, aggregate: { by: [n], compute: { hits: count(*) } } }
sinks:
  some: { from: some, files: { format: csv } }
  wrong: { from: wrong, table: { format: csv, key: [code] } }
  others: { from: others, table: { format: csv, key: [n] } }
";
        check_in(yaml, &["aggregate/wrong"], &["aggregate/wrong"], &[0]);
    }
}
