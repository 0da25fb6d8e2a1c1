//! Horizon: what of a key is final, and the records that come too late for it.
//!
//! | input  | `((key, value), time, diff)` from any worker, at ends of epochs or times of epoch 0      |
//! | output | the same without what comes too late or takes back what is final; how far each key has come; |
//! |        | what [`Replay`](super::Replay) has folded away; and rejects                              |
//! | state  | one entry per key: the time of its newest record                                         |
//! | errors | a record that is older than the newest one of its key by more than the horizon            |
//! | leaves | never: a key that was seen is known                                                       |
//!
//! The newest time of a key only grows, epoch by epoch, and the records of one epoch do not make each
//! other late. So what is late depends on the order of the files and on nothing else: not on workers,
//! and not on when records are folded away. What is final is folded into one row that holds state and
//! variables, whenever the next epoch comes by: nobody can see the difference.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use hashbrown::HashMap;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::progress::operate::FrontierInterest;

use super::marks::{Mark, Marks};
use crate::batch::{Origin, position_offset};
use crate::flow::without_terminator;
use crate::key::Key;
use crate::keyed::Update;
use crate::reject::{EpochRejects, OnError, Reject, RejectCode, Standing};
use crate::shards::shard_of;
use crate::tally::Tally;
use crate::time::Time;
use crate::types::Column;
use crate::value::Value;

/// How many rows are looked at before other operators get their turn.
const ROWS_PER_TURN: usize = 16 * 1024;

/// What is folded away: rows of a key, and how often they come (or go).
pub(super) type Fold = (Key, Vec<(Key, i64)>);

/// Folds on their way from where they are found to where they are done, on one worker.
#[derive(Clone, Default)]
pub struct Folds {
    pub(super) waiting: Rc<RefCell<Vec<Fold>>>,
}

/// What the operator is built with.
pub struct Horizon {
    /// What rows look like.
    pub marks: Marks,
    /// The key columns.
    pub keys: Vec<Column>,
    /// What is folded away.
    pub folds: Folds,
    /// Who counts.
    pub tally: Tally,
}

/// Builds the operator. `operator` is the name that rejects carry.
pub fn horizon<'s>(
    name: &str,
    operator: &str,
    updates: StreamVec<'s, Time, Update>,
    with: Horizon,
) -> (StreamVec<'s, Time, Update>, StreamVec<'s, Time, EpochRejects>) {
    let scope = updates.scope();
    let mut builder = OperatorBuilder::new(format!("Horizon {name}"), scope);
    let to_home = Exchange::new(|update: &Update| u64::from(shard_of(update.0.0.hash())));
    let mut input = builder.new_input(updates, to_home);
    builder.set_notify_for(0, FrontierInterest::Always);
    let (rows, rows_stream) = builder.new_output::<Vec<Update>>();
    let (rejects, rejects_stream) = builder.new_output::<Vec<EpochRejects>>();
    let mut rows = OutputBuilder::<_, CapacityContainerBuilder<_>>::from(rows);
    let mut rejects = OutputBuilder::<_, CapacityContainerBuilder<_>>::from(rejects);
    let again = scope.activator_for(builder.operator_info().address);
    let operator = operator.to_owned();

    builder.build(move |initial| {
        drop(initial);
        let mut known = Known { newest: HashMap::new(), with };
        // By the time at which the rows of an epoch come, which is one.
        let mut open: BTreeMap<Time, Open> = BTreeMap::new();
        move |frontiers| {
            let mut rows = rows.activate();
            input.for_each_stamp(|stamp, batches| {
                let Some(time) = stamp.least().copied() else { return };
                for updates in batches {
                    if time.epoch == 0 {
                        // What is restored is as it was.
                        updates.iter().for_each(|update| known.restore(update));
                        rows.session(&stamp).give_container(updates);
                        continue;
                    }
                    let hold = (stamp.retain_least(0), stamp.retain_least(1));
                    let (Some(for_rows), Some(for_rejects)) = hold else { continue };
                    let fresh = || Open { for_rows, for_rejects, rows: Vec::new(), sorted: false };
                    let entry = open.entry(time).or_insert_with(fresh);
                    entry
                        .rows
                        .extend(updates.drain(..).map(|((key, row), _, diff)| (key, row, diff)));
                }
            });
            let is_open = |time: &Time| frontiers[0].less_equal(time);
            let mut left = ROWS_PER_TURN;
            while left > 0
                && let Some(mut entry) = open.first_entry().filter(|entry| !is_open(entry.key()))
            {
                let time = *entry.key();
                let epoch = time.epoch;
                let one = entry.get_mut();
                let late = known.release(time, one, &mut left, |capability, updates| {
                    rows.session(capability).give_iterator(updates);
                });
                for (origin, reject) in late {
                    known.with.tally.reported(epoch, 1);
                    let reject = Reject { operator: operator.clone(), ..reject };
                    let (standing, late) = (Standing::Told, vec![reject]);
                    let told = EpochRejects { epoch, origin, standing, rejects: late };
                    rejects.activate().session(&one.for_rejects).give(told);
                }
                if one.rows.is_empty() {
                    entry.remove();
                }
            }
            if left == 0 {
                again.activate();
            }
        }
    });
    (rows_stream, rejects_stream)
}

/// An epoch on its way through.
struct Open {
    for_rows: Capability<Time>,
    for_rejects: Capability<Time>,
    /// Sorted from behind once the epoch is whole.
    rows: Vec<(Key, Key, i64)>,
    sorted: bool,
}

struct Known {
    /// By key, the time of its newest record.
    newest: HashMap<Key, i64>,
    with: Horizon,
}

impl Known {
    fn restore(&mut self, ((key, row), _, diff): &Update) {
        if *diff > 0
            && let Mark::Newest(instant) = self.with.marks.read(row.bytes())
        {
            self.newest.insert(key.clone(), instant);
        }
    }

    /// Lets the rows of whole keys out; returns what comes too late.
    fn release(
        &mut self,
        time: Time,
        one: &mut Open,
        left: &mut usize,
        mut give: impl FnMut(&Capability<Time>, &mut dyn Iterator<Item = Update>),
    ) -> Vec<(Origin, Reject)> {
        let mut out: Vec<Update> = Vec::new();
        if !one.sorted {
            one.rows.sort_unstable_by(|one, two| two.cmp(one));
            one.sorted = true;
            for (key, rows) in self.with.folds.waiting.borrow_mut().drain(..) {
                out.extend(rows.into_iter().map(|(row, diff)| ((key.clone(), row), time, diff)));
            }
        }
        let mut late = Vec::new();
        while *left > 0
            && let Some((key, ..)) = one.rows.last()
        {
            let key = key.clone();
            let before = self.newest.get(&key).copied();
            let mut newest = before;
            while let Some((_, row, diff)) = one.rows.pop_if(|next| next.0 == key) {
                *left = left.saturating_sub(1);
                let Mark::Record(instant) = self.with.marks.read(row.bytes()) else { continue };
                let final_before = before.map(|before| self.with.marks.bound(before));
                if final_before.is_some_and(|bound| instant < bound) {
                    // Once for each time it comes; to take it back changes nothing.
                    for _ in 0..diff.max(0) {
                        late.extend(self.late(&key, &row, instant, before));
                    }
                    continue;
                }
                if diff > 0 {
                    newest = newest.max(Some(instant));
                }
                out.push(((key.clone(), row), time, diff));
            }
            if newest != before {
                let mark = |instant: i64| self.with.marks.newest(instant);
                let old = before.map(|before| ((key.clone(), mark(before)), time, -1));
                let new = newest.map(|newest| ((key.clone(), mark(newest)), time, 1));
                out.extend(old.into_iter().chain(new));
                if let Some(newest) = newest {
                    self.newest.insert(key, newest);
                }
            }
        }
        give(&one.for_rows, &mut out.into_iter());
        late
    }

    fn late(
        &self,
        key: &Key,
        row: &Key,
        instant: i64,
        newest: Option<i64>,
    ) -> Option<(Origin, Reject)> {
        let newest = newest?;
        let place = self.with.marks.place(row.bytes());
        let reason = format!(
            "{} is older than {}, the newest of {}, by more than the horizon",
            Value::Timestamp(instant),
            Value::Timestamp(newest),
            key.text(&self.with.keys)
        );
        let reject = Reject {
            // Its line is known only while its chunk is read; its byte tells where it stands.
            line: 0,
            offset: position_offset(place.position),
            round: 0,
            operator: String::new(),
            code: RejectCode::Late,
            message: reason,
            raw: without_terminator(self.with.marks.raw(row.bytes())).to_vec(),
            on_error: OnError::Reject,
        };
        Some((place.origin(), reject))
    }
}
