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
use crate::plan::{Input, NodeId, Plan};

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
    let (operators, _) = upstream(plan, &again);
    let is_again = |place: Place| match place {
        Place::Operator(at) => again.contains(&place) || operators.contains(&at),
        Place::Table(_) | Place::Files(_) => again.contains(&place),
    };
    all.iter().map(|state| !is_again(state.place)).collect()
}

/// Returns the sources whose files are read again for the states that are not kept.
pub(crate) fn read_again(plan: &Plan, all: &[State], kept: &[bool]) -> BTreeSet<usize> {
    let again = all.iter().zip(kept).filter(|(_, kept)| !**kept).map(|(state, _)| state.place);
    upstream(plan, &again.collect::<Vec<_>>()).1
}

/// Returns the operators and sources before these places.
fn upstream(plan: &Plan, places: &[Place]) -> (BTreeSet<usize>, BTreeSet<usize>) {
    let inputs = |place: &Place| -> &[Input] {
        match place {
            Place::Operator(at) => &plan.operators[*at].inputs,
            Place::Table(at) | Place::Files(at) => &plan.sinks[*at].inputs,
        }
    };
    let (mut operators, mut sources) = (BTreeSet::new(), BTreeSet::new());
    let mut ahead: Vec<NodeId> =
        places.iter().flat_map(inputs).map(|input| input.from.node).collect();
    while let Some(node) = ahead.pop() {
        match node {
            NodeId::Source(at) => {
                sources.insert(at);
            }
            // Each once, so this ends.
            NodeId::Operator(at) if operators.insert(at) => {
                ahead.extend(plan.operators[at].inputs.iter().map(|input| input.from.node));
            }
            NodeId::Operator(_) => {}
        }
    }
    (operators, sources)
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
        let plan = plan(PLAN).unwrap();
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
}
