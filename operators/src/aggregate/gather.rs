//! Gather: adds up each file where its rows are, and hands the result over once the file is whole.
//!
//! | input  | batches; epochs that were poisoned, already broadcast to every worker                |
//! | output | per epoch and key one `(key, time, accumulator)` at `Time::end(epoch)`; rejected rows |
//! | state  | the groups of open epochs only; an epoch leaves with its frontier, or when poisoned  |
//! | errors | rows whose expressions failed, at the time of their batch                            |

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use arrow_array::{ArrayRef, BooleanArray};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::{Stream, StreamVec};
use timely::progress::Antichain;
use timely::progress::frontier::MutableAntichain;

use super::AggregateSpec;
use super::accumulator::Accumulator;
use super::groups::{Drain, Groups};
use crate::batch::Batch;
use crate::key::Key;
use crate::reject::{EpochRejects, Reject};
use crate::tally::Tally;
use crate::time::{Stay, Time};

/// How many keys are handed over before other operators get their turn.
const KEYS_PER_TURN: usize = 16 * 1024;

/// What one worker adds up of one key in one epoch, at the end of that epoch.
pub type Partial = (Key, Time, Accumulator);

/// What an aggregate reads of one batch: its expressions, evaluated.
#[derive(Clone, Debug, Default)]
pub struct Inputs {
    /// The key columns, in the order of [`AggregateSpec::keys`].
    pub keys: Vec<ArrayRef>,
    /// One argument for each computed column; `None` for `count(*)`.
    pub arguments: Vec<Option<ArrayRef>>,
    /// True for rows that are left out, because an expression failed on them.
    pub skip: Option<BooleanArray>,
    /// Why they are left out.
    pub rejects: Vec<Reject>,
}

/// Pre-aggregates each epoch on the worker where its rows are, and releases it when the epoch is
/// complete on both inputs and was not poisoned: a failing file leaves no trace.
///
/// `poison` must reach every worker. Its frontier may pass an epoch only when no verdict on that
/// epoch can come any more.
pub fn gather<'s>(
    name: &str,
    rows: Stream<'s, Time, Batch>,
    poison: StreamVec<'s, Time, u64>,
    spec: AggregateSpec,
    tally: Tally,
    mut evaluate: impl FnMut(&Batch) -> Inputs + 'static,
) -> (StreamVec<'s, Time, Partial>, StreamVec<'s, Time, EpochRejects>) {
    let scope = rows.scope();
    let mut builder = OperatorBuilder::new(format!("Gather {name}"), scope);
    let mut rows = builder.new_input(rows, Pipeline);
    // No row follows from a poisoned epoch, so this input holds no output back.
    let mut poison = builder.new_input_connection(poison, Pipeline, []);
    let from_rows = [(0, Antichain::from_elem(Stay))];
    let (partials, partials_stream) = builder.new_output_connection(from_rows.clone());
    let (rejects, rejects_stream) = builder.new_output_connection(from_rows);
    let mut partials = OutputBuilder::<_, CapacityContainerBuilder<_>>::from(partials);
    let mut rejects = OutputBuilder::<_, CapacityContainerBuilder<_>>::from(rejects);
    let activator = scope.activator_for(builder.operator_info().address);
    let operator = name.to_owned();

    builder.build(move |initial| {
        drop(initial);
        let mut epochs = Epochs::new(spec);
        move |frontiers| {
            let (mut partials, mut rejects) = (partials.activate(), rejects.activate());
            poison.for_each(|_time, poisoned| {
                for epoch in poisoned.drain(..) {
                    epochs.poison(epoch);
                }
            });
            rows.for_each_stamp(|stamp, batches| {
                let Some(time) = stamp.least().copied() else { return };
                let Some(capability) = stamp.retain_least(0) else { return };
                for batch in batches {
                    let mut inputs = evaluate(batch);
                    if batch.diff < 0 {
                        // Taken back: it counts nowhere, and what was rejected was told when it came.
                        epochs.add(time.epoch, &capability, batch, &inputs);
                        continue;
                    }
                    tally.took(time.epoch, batch.len(), 0);
                    if !inputs.rejects.is_empty() {
                        tally.rejected(time.epoch, inputs.rejects.len());
                        name_operator(&mut inputs.rejects, &operator);
                        let rejected = EpochRejects {
                            epoch: time.epoch,
                            origin: batch.origin,
                            rejects: inputs.rejects.split_off(0),
                        };
                        rejects.session(&stamp).give(rejected);
                    }
                    let merged = epochs.add(time.epoch, &capability, batch, &inputs);
                    tally.merged(time.epoch, merged);
                }
            });
            epochs.complete(frontiers);
            if epochs.release(KEYS_PER_TURN, |capability, released| {
                partials.session(capability).give_iterator(released);
            }) {
                activator.activate();
            }
        }
    });
    (partials_stream, rejects_stream)
}

fn name_operator(rejects: &mut [Reject], operator: &str) {
    for reject in rejects.iter_mut().filter(|reject| reject.operator.is_empty()) {
        reject.operator = operator.to_owned();
    }
}

/// The epochs that are not yet handed over.
struct Epochs {
    spec: AggregateSpec,
    open: BTreeMap<u64, (Capability<Time>, Groups)>,
    /// Poisoned epochs of which rows may still come.
    poisoned: BTreeSet<u64>,
    /// Complete epochs, on their way out.
    leaving: VecDeque<(Capability<Time>, Drain)>,
}

impl Epochs {
    fn new(spec: AggregateSpec) -> Self {
        Self { spec, open: BTreeMap::new(), poisoned: BTreeSet::new(), leaving: VecDeque::new() }
    }

    fn poison(&mut self, epoch: u64) {
        self.open.remove(&epoch);
        self.poisoned.insert(epoch);
    }

    /// Adds the rows of a batch; returns how many were added.
    fn add(
        &mut self,
        epoch: u64,
        capability: &Capability<Time>,
        batch: &Batch,
        inputs: &Inputs,
    ) -> usize {
        if self.poisoned.contains(&epoch) {
            return 0;
        }
        let open = || (capability.delayed(&Time::end(epoch)), Groups::new(&self.spec));
        let (_, groups) = self.open.entry(epoch).or_insert_with(open);
        let skip = inputs.skip.as_ref();
        groups.update(batch.len(), &inputs.keys, &inputs.arguments, skip, batch.diff)
    }

    /// Moves epochs that no input can touch any more from open to leaving.
    fn complete(&mut self, frontiers: &[MutableAntichain<Time>]) {
        let is_open = |epoch: u64| frontiers.iter().any(|one| one.less_equal(&Time::end(epoch)));
        while let Some(entry) = self.open.first_entry() {
            if is_open(*entry.key()) {
                break;
            }
            let (capability, groups) = entry.remove();
            self.leaving.push_back((capability, groups.drain()));
        }
        while self.poisoned.first().is_some_and(|epoch| !is_open(*epoch)) {
            self.poisoned.pop_first();
        }
    }

    /// Gives out up to `keys` keys; returns whether more are waiting.
    fn release(
        &mut self,
        keys: usize,
        mut give: impl FnMut(&Capability<Time>, &mut dyn Iterator<Item = Partial>),
    ) -> bool {
        let mut left = keys;
        while left > 0
            && let Some((capability, drain)) = self.leaving.front_mut()
        {
            let time = *capability.time();
            let mut given = 0;
            let mut items = drain.by_ref().take(left).map(|(key, accumulator)| {
                given += 1;
                (key, time, accumulator)
            });
            give(capability, &mut items);
            if given < left {
                self.leaving.pop_front();
            }
            left -= given;
        }
        !self.leaving.is_empty()
    }
}
