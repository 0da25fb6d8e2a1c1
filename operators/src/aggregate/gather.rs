//! Gather: adds up each file where its rows are, and hands the result over once the file is whole.
//!
//! | input  | batches; epochs that were poisoned, already broadcast to every worker                |
//! | output | per epoch, round and key one `(key, time, accumulator)` at the end of the round      |
//! |        | ([`Rounds::end`](crate::rounds::Rounds::end)); what is held of its arguments likewise; |
//! |        | rejected rows                                                                        |
//! | state  | the groups of open epochs only; an epoch leaves with its frontier, or when poisoned  |
//! | errors | rows whose expressions failed, at the time of their batch                            |

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use arrow_array::{ArrayRef, BooleanArray, Int64Array};
use differential_dataflow::difference::IsZero;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::progress::Antichain;
use timely::progress::frontier::MutableAntichain;

use super::accumulator::Accumulator;
use super::candidate::Arrivals;
use super::groups::{Drain, Drained, Groups};
use super::{AggregateSpec, TakenBack};
use crate::batch::Batch;
use crate::key::Key;
use crate::keyed::Incoming;
use crate::reject::{EpochRejects, Reject, Standing};
use crate::tally::Tally;
use crate::time::{Step, Time};

/// How many keys are handed over before other operators get their turn.
const KEYS_PER_TURN: usize = 16 * 1024;

/// What one worker adds up of one key in one epoch, at the end of that epoch.
pub type Partial = (Key, Time, Accumulator);

/// What comes or goes of what is held of one key, at the end of an epoch: key, value, how often.
pub type Held = ((Key, Key), Time, i64);

/// Which rows make a group together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Those of all files.
    AllFiles,
    /// Those of one file: the key begins with its submission ([`AggregateSpec::per_file`]).
    EachFile,
}

/// What [`gather`] gives.
pub struct Gathered<'s> {
    /// What was added up.
    pub partials: StreamVec<'s, Time, Partial>,
    /// What is held of it; nothing for an aggregate that holds nothing.
    pub held: StreamVec<'s, Time, Held>,
    /// Rows that could not be evaluated.
    pub rejects: StreamVec<'s, Time, EpochRejects>,
}

/// What an aggregate reads of one batch: its expressions, evaluated.
#[derive(Clone, Debug, Default)]
pub struct Inputs {
    /// The key columns, in the order of [`AggregateSpec::keys`].
    pub keys: Vec<ArrayRef>,
    /// One argument for each computed column; `None` for `count(*)`.
    pub arguments: Vec<Option<ArrayRef>>,
    /// What the rows are ordered by, for each computed column; may end early.
    pub orders: Vec<Vec<ArrayRef>>,
    /// True for rows that are left out, because an expression failed on them.
    pub skip: Option<BooleanArray>,
    /// Why they are left out.
    pub rejects: Vec<Reject>,
}

/// Pre-aggregates each epoch on the worker where its rows are, and releases it when the epoch is
/// complete on both inputs and was not poisoned: a failing file leaves no trace.
///
/// Rows that are taken back must say of which file they are
/// ([`Origin::submission`](crate::Origin)): what is held of a file is found again by it.
pub fn gather<'s>(
    name: &str,
    reach: Reach,
    incoming: Incoming<'s>,
    spec: AggregateSpec,
    tally: Tally,
    mut evaluate: impl FnMut(&Batch) -> Inputs + 'static,
) -> Gathered<'s> {
    let Incoming { rows, poison, rounds } = incoming;
    let scope = rows.scope();
    let mut builder = OperatorBuilder::new(format!("Gather {name}"), scope);
    let mut rows = builder.new_input(rows, Pipeline);
    // No row follows from a poisoned epoch, so this input holds no output back.
    let mut poison = builder.new_input_connection(poison, Pipeline, []);
    let from_rows = [(0, Antichain::from_elem(Step::STAY))];
    let (partials, partials_stream) = builder.new_output_connection(from_rows.clone());
    let (held, held_stream) = builder.new_output_connection(from_rows.clone());
    let (rejects, rejects_stream) = builder.new_output_connection(from_rows);
    let mut partials = OutputBuilder::<_, CapacityContainerBuilder<_>>::from(partials);
    let mut held = OutputBuilder::<_, CapacityContainerBuilder<_>>::from(held);
    let mut rejects = OutputBuilder::<_, CapacityContainerBuilder<_>>::from(rejects);
    let activator = scope.activator_for(builder.operator_info().address);
    let operator = name.to_owned();

    builder.build(move |initial| {
        drop(initial);
        let mut epochs = Epochs::new(spec, reach);
        move |frontiers| {
            let (mut partials, mut held) = (partials.activate(), held.activate());
            let mut rejects = rejects.activate();
            poison.for_each(|_time, poisoned| {
                for epoch in poisoned.drain(..) {
                    epochs.poison(epoch);
                }
            });
            rows.for_each_stamp(|stamp, batches| {
                let Some(time) = stamp.least().copied() else { return };
                let Some(for_partials) = stamp.retain_least(0) else { return };
                let Some(for_held) = stamp.retain_least(1) else { return };
                let hold = Capabilities { for_partials, for_held }.until(&rounds.end(&time));
                for batch in batches {
                    let mut inputs = evaluate(batch);
                    // Taken back: it counts nowhere.
                    let is_there = batch.diff > 0;
                    if !inputs.rejects.is_empty() {
                        if is_there {
                            tally.rejected(time.epoch, inputs.rejects.len());
                        }
                        name_operator(&mut inputs.rejects, &operator, tally.round(&time));
                        let rejected = EpochRejects {
                            epoch: time.epoch,
                            origin: batch.origin,
                            standing: if is_there { Standing::There } else { Standing::TakenBack },
                            rejects: inputs.rejects.split_off(0),
                        };
                        rejects.session(&stamp).give(rejected);
                    }
                    if epochs.reach == Reach::EachFile {
                        let submission = batch.origin.submission.cast_signed();
                        let file = Int64Array::from_value(submission, batch.len());
                        inputs.keys.insert(0, Arc::new(file));
                    }
                    rounds.put_keys(&time, batch.len(), &mut inputs.keys);
                    if !is_there {
                        epochs.add(&hold, batch, &inputs);
                        continue;
                    }
                    tally.took(time.epoch, batch.len(), 0);
                    let merged = epochs.add(&hold, batch, &inputs);
                    tally.merged(time.epoch, merged);
                }
            });
            epochs.complete(frontiers);
            let mut left = KEYS_PER_TURN;
            while let Some((hold, some)) = epochs.release(&mut left) {
                let time = *hold.for_partials.time();
                let mut partials = partials.session(&hold.for_partials);
                let mut held = held.session(&hold.for_held);
                for Drained { key, accumulator, held: values } in some {
                    held.give_iterator(
                        values
                            .into_iter()
                            .map(|(value, times)| ((key.clone(), value), time, times)),
                    );
                    if !accumulator.is_zero() {
                        partials.give((key, time, accumulator));
                    }
                }
            }
            if epochs.has_more() {
                activator.activate();
            }
        }
    });
    Gathered { partials: partials_stream, held: held_stream, rejects: rejects_stream }
}

fn name_operator(rejects: &mut [Reject], operator: &str, round: u32) {
    for reject in rejects {
        reject.round = round;
        if reject.operator.is_empty() {
            reject.operator = operator.to_owned();
        }
    }
}

/// What lets rows be handed over at the end of their round.
#[derive(Clone)]
struct Capabilities {
    for_partials: Capability<Time>,
    for_held: Capability<Time>,
}

impl Capabilities {
    fn until(&self, end: &Time) -> Self {
        let (for_partials, for_held) = (self.for_partials.delayed(end), self.for_held.delayed(end));
        Self { for_partials, for_held }
    }
}

/// The rows of one round of an epoch: those of each file that is added or taken back for itself, where it counts
/// which file they are of; else all together.
struct Open {
    hold: Capabilities,
    groups: Vec<((u64, i64), Groups)>,
}

/// The epochs that are not yet handed over.
struct Epochs {
    spec: AggregateSpec,
    reach: Reach,
    /// Whether it counts of which file a row is.
    by_file: bool,
    /// By the time at which they end.
    open: BTreeMap<Time, Open>,
    /// Poisoned epochs of which rows may still come.
    poisoned: BTreeSet<u64>,
    /// Complete epochs, on their way out.
    leaving: VecDeque<(Capabilities, VecDeque<Drain>)>,
}

impl Epochs {
    fn new(spec: AggregateSpec, reach: Reach) -> Self {
        let by_file = spec.taken_back != TakenBack::ByRow && spec.holds();
        Self {
            spec,
            reach,
            by_file,
            open: BTreeMap::new(),
            poisoned: BTreeSet::new(),
            leaving: VecDeque::new(),
        }
    }

    fn poison(&mut self, epoch: u64) {
        self.open.retain(|end, _| end.epoch != epoch);
        self.poisoned.insert(epoch);
    }

    /// Adds the rows of a batch to those that end when `hold` may speak; returns how many were added.
    fn add(&mut self, hold: &Capabilities, batch: &Batch, inputs: &Inputs) -> usize {
        let end = *hold.for_partials.time();
        if self.poisoned.contains(&end.epoch) {
            return 0;
        }
        let open = || Open { hold: hold.clone(), groups: Vec::new() };
        let open = self.open.entry(end).or_insert_with(open);
        let origin = batch.origin;
        let of = if self.by_file { (origin.submission, batch.diff) } else { (0, 0) };
        let at = open.groups.iter().position(|(file, _)| *file == of).unwrap_or_else(|| {
            open.groups.push((of, Groups::new(&self.spec)));
            open.groups.len() - 1
        });
        let arrivals = batch.positions.as_ref().map(|positions| Arrivals { origin, positions });
        open.groups[at].1.update(batch.len(), inputs, arrivals, batch.diff)
    }

    /// Moves what no input can touch any more from open to leaving: rows whose round is over, of epochs
    /// on which no verdict can come.
    fn complete(&mut self, frontiers: &[MutableAntichain<Time>]) {
        let is_open = |epoch: u64| frontiers.iter().any(|one| one.less_equal(&Time::end(epoch)));
        let [of_rows, of_poison] = frontiers else { return };
        while let Some(entry) = self.open.first_entry() {
            let end = *entry.key();
            if of_rows.less_equal(&end) || of_poison.less_equal(&Time::end(end.epoch)) {
                break;
            }
            let Open { hold, groups } = entry.remove();
            let drains = groups.into_iter().map(|(_, groups)| groups.drain());
            self.leaving.push_back((hold, drains.collect()));
        }
        while self.poisoned.first().is_some_and(|epoch| !is_open(*epoch)) {
            self.poisoned.pop_first();
        }
    }

    /// Returns some keys of the first epoch that leaves, and takes them off `left`; `None` when there
    /// are no more for now.
    fn release(&mut self, left: &mut usize) -> Option<(Capabilities, Vec<Drained>)> {
        while *left > 0
            && let Some((hold, drains)) = self.leaving.front_mut()
        {
            let Some(drain) = drains.front_mut() else {
                self.leaving.pop_front();
                continue;
            };
            let mut some = Vec::new();
            // What is held of a key counts too: a key may have very many values.
            while *left > 0
                && let Some(drained) = drain.next()
            {
                *left = left.saturating_sub(1 + drained.held.len());
                some.push(drained);
            }
            if *left > 0 {
                drains.pop_front();
            }
            if !some.is_empty() {
                return Some((hold.clone(), some));
            }
        }
        None
    }

    fn has_more(&self) -> bool {
        !self.leaving.is_empty()
    }
}
