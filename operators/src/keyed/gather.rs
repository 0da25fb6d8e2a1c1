//! Gather: holds the rows of a file where they are until the file is whole.
//!
//! | input  | batches; epochs that were poisoned, already broadcast to every worker                |
//! | output | per epoch its rows, added up, as `((key, value), time, diff)`, at the end of each of  |
//! |        | their rounds ([`Rounds::end`]); rejects                                              |
//! | state  | the rows of open epochs only; an epoch leaves with its frontier, or when poisoned     |
//! | errors | rows whose expressions failed, at the time of their batch                            |
//! | cost   | the bytes of key and value and 24 more for each row of an open epoch                  |

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use arrow_array::{Array, ArrayRef, BooleanArray};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::{Stream, StreamVec};
use timely::progress::Antichain;
use timely::progress::frontier::MutableAntichain;

use super::Update;
use super::layout::RowLayout;
use super::pile::{Drain, Pile};
use crate::batch::Batch;
use crate::key::KeyEncoder;
use crate::reject::{EpochRejects, Reject, Standing};
use crate::rounds::Rounds;
use crate::tally::Tally;
use crate::time::{Step, Time};

/// How many rows are handed over before other operators get their turn.
const ROWS_PER_TURN: usize = 16 * 1024;

/// What comes to an operator that keeps state.
pub struct Incoming<'s> {
    /// The rows.
    pub rows: Stream<'s, Time, Batch>,
    /// The epochs that were poisoned. It must reach every worker, and its frontier may pass an epoch
    /// only when no verdict on that epoch can come any more.
    pub poison: StreamVec<'s, Time, u64>,
    /// Which rounds are told apart.
    pub rounds: Rounds,
}

/// What an operator reads of one batch: its expressions, evaluated.
#[derive(Clone, Debug, Default)]
pub struct Inputs {
    /// The key columns.
    pub keys: Vec<ArrayRef>,
    /// What orders the rows of a key, as in [`RowLayout::order`].
    pub order: Vec<ArrayRef>,
    /// The columns that are kept, as in [`RowLayout::columns`].
    pub values: Vec<ArrayRef>,
    /// True for rows that are left out, because an expression failed on them.
    pub skip: Option<BooleanArray>,
    /// Why they are left out.
    pub rejects: Vec<Reject>,
}

/// Copies the rows of each epoch on the worker where they are, and releases them when the epoch is
/// complete on both inputs and was not poisoned: a failing file leaves no trace.
///
/// `operator` is the name that rejects carry.
pub fn gather<'s>(
    name: &str,
    operator: &str,
    incoming: Incoming<'s>,
    layout: RowLayout,
    tally: Tally,
    mut evaluate: impl FnMut(&Batch) -> Inputs + 'static,
) -> (StreamVec<'s, Time, Update>, StreamVec<'s, Time, EpochRejects>) {
    let Incoming { rows, poison, rounds } = incoming;
    let scope = rows.scope();
    let mut builder = OperatorBuilder::new(format!("Gather {name}"), scope);
    let mut rows = builder.new_input(rows, Pipeline);
    // No row follows from a poisoned epoch, so this input holds no output back.
    let mut poison = builder.new_input_connection(poison, Pipeline, []);
    let from_rows = [(0, Antichain::from_elem(Step::STAY))];
    let (updates, updates_stream) = builder.new_output_connection(from_rows.clone());
    let (rejects, rejects_stream) = builder.new_output_connection(from_rows);
    let mut updates = OutputBuilder::<_, CapacityContainerBuilder<_>>::from(updates);
    let mut rejects = OutputBuilder::<_, CapacityContainerBuilder<_>>::from(rejects);
    let activator = scope.activator_for(builder.operator_info().address);
    let operator = operator.to_owned();

    builder.build(move |initial| {
        drop(initial);
        let mut epochs = Epochs::default();
        move |frontiers| {
            let (mut updates, mut rejects) = (updates.activate(), rejects.activate());
            poison.for_each(|_time, poisoned| {
                for epoch in poisoned.drain(..) {
                    epochs.poison(epoch);
                }
            });
            rows.for_each_stamp(|stamp, batches| {
                let Some(time) = stamp.least().copied() else { return };
                let Some(capability) = stamp.retain_least(0) else { return };
                let end = capability.delayed(&rounds.end(&time));
                for batch in batches {
                    let mut inputs = evaluate(batch);
                    rounds.put_keys(&time, batch.len(), &mut inputs.keys);
                    rounds.put_rows(&time, batch.len(), &mut inputs.order);
                    // Taken back: it counts nowhere.
                    let is_there = batch.diff > 0;
                    if !inputs.rejects.is_empty() {
                        if is_there {
                            tally.rejected(time.epoch, inputs.rejects.len());
                        }
                        for reject in &mut inputs.rejects {
                            reject.round = tally.round(&time);
                            if reject.operator.is_empty() {
                                reject.operator.clone_from(&operator);
                            }
                        }
                        let rejected = EpochRejects {
                            epoch: time.epoch,
                            origin: batch.origin,
                            standing: if is_there { Standing::There } else { Standing::TakenBack },
                            rejects: std::mem::take(&mut inputs.rejects),
                        };
                        rejects.session(&stamp).give(rejected);
                    }
                    if !is_there {
                        epochs.add(&end, batch, &inputs, &layout);
                        continue;
                    }
                    tally.took(time.epoch, batch.len(), 0);
                    let merged = epochs.add(&end, batch, &inputs, &layout);
                    tally.merged(time.epoch, merged);
                }
            });
            epochs.complete(frontiers);
            if epochs.release(ROWS_PER_TURN, |capability, update| {
                updates.session(capability).give_iterator(update);
            }) {
                activator.activate();
            }
        }
    });
    (updates_stream, rejects_stream)
}

/// The epochs that are not yet handed over.
#[derive(Default)]
struct Epochs {
    /// By the time at which they end.
    open: BTreeMap<Time, (Capability<Time>, Pile)>,
    /// Poisoned epochs of which rows may still come.
    poisoned: BTreeSet<u64>,
    /// Complete epochs, on their way out.
    leaving: VecDeque<(Capability<Time>, Drain)>,
}

impl Epochs {
    fn poison(&mut self, epoch: u64) {
        self.open.retain(|end, _| end.epoch != epoch);
        self.poisoned.insert(epoch);
    }

    /// Adds the rows of a batch to those that end with it; returns how many were added.
    fn add(
        &mut self,
        end: &Capability<Time>,
        batch: &Batch,
        inputs: &Inputs,
        layout: &RowLayout,
    ) -> usize {
        let time = *end.time();
        if self.poisoned.contains(&time.epoch) {
            return 0;
        }
        let (_, pile) = self.open.entry(time).or_insert_with(|| (end.clone(), Pile::default()));
        let keys = KeyEncoder::new(&inputs.keys);
        let values = layout.encoder(&inputs.order, &inputs.values, batch);
        let mut added = 0;
        for row in 0..batch.len() {
            if inputs.skip.as_ref().is_some_and(|skip| skip.is_valid(row) && skip.value(row)) {
                continue;
            }
            pile.add(batch.diff, |bytes| {
                let from = bytes.len();
                keys.append(row, bytes);
                let key = bytes.len() - from;
                values.append(row, bytes);
                key
            });
            added += 1;
        }
        added
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
            let (capability, pile) = entry.remove();
            self.leaving.push_back((capability, pile.drain()));
        }
        while self.poisoned.first().is_some_and(|epoch| !is_open(*epoch)) {
            self.poisoned.pop_first();
        }
    }

    /// Gives out up to `rows` rows; returns whether more are waiting.
    fn release(
        &mut self,
        rows: usize,
        mut give: impl FnMut(&Capability<Time>, &mut dyn Iterator<Item = Update>),
    ) -> bool {
        let mut left = rows;
        while left > 0
            && let Some((capability, drain)) = self.leaving.front_mut()
        {
            let time = *capability.time();
            let mut given = 0;
            let mut updates = std::iter::from_fn(|| {
                if given == left {
                    return None;
                }
                let update = drain.next(time)?;
                given += 1;
                Some(update)
            });
            give(capability, &mut updates);
            if given < left {
                self.leaving.pop_front();
            }
            left -= given;
        }
        !self.leaving.is_empty()
    }
}
