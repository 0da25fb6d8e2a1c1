//! Checkpoint: the state of an aggregate as rows of bytes, and its walk for a checkpoint.
//!
//! | input  | marks, broadcast; the spans that the arrangement was given                          |
//! | output | what the [`ShardSink`] says of the shards of each mark, at the time of the mark      |
//! | state  | which shards changed since the last mark (256 bits); a copy of no row                |
//! | errors | none: the sink knows about disks                                                     |
//!
//! A mark asks for the state as of the end of an epoch. Once the arrangement can not change at that
//! time any more, its immutable pieces are taken (a few counted pointers) and walked with fuel, while
//! later epochs change it: nobody waits for a checkpoint.

use std::collections::VecDeque;
use std::rc::Rc;

use differential_dataflow::difference::Semigroup;
use differential_dataflow::operators::arrange::{Arranged, TraceAgent};
use differential_dataflow::trace::cursor::cursor_list;
use differential_dataflow::trace::implementations::KeySpine;
use differential_dataflow::trace::{BatchCursor, Cursor, Navigable, TraceReader};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::progress::Antichain;
use timely::progress::frontier::AntichainRef;
use timely::scheduling::activate::SyncActivator;

use super::accumulator::Accumulator;
use super::row::encode_row;
use crate::key::Key;
use crate::shards::{Blocks, Mark, ShardSet, ShardSink, shard_of};
use crate::time::{Stay, Time};

/// How many keys are walked before other operators get their turn.
const KEYS_PER_TURN: usize = 8 * 1024;

/// The arrangement of an aggregate.
pub(super) type Trace = TraceAgent<KeySpine<Key, Time, Accumulator>>;

type Batch = <Trace as TraceReader>::Batch;

/// Builds what writes the state down whenever a mark comes. `make` gets what wakes the operator.
pub(super) fn keep<'s, S: ShardSink>(
    name: &str,
    arranged: Arranged<'s, Trace>,
    marks: StreamVec<'s, Time, Mark>,
    make: impl FnOnce(SyncActivator) -> S,
) -> StreamVec<'s, Time, S::Part> {
    let Arranged { stream, trace } = arranged;
    let scope = stream.scope();
    let mut builder = OperatorBuilder::new(format!("Keep {name}"), scope);
    let address = builder.operator_info().address;
    let sink = make(scope.worker().sync_activator_for(address.to_vec()));
    let again = scope.activator_for(Rc::clone(&address));
    let mut mark_input = builder.new_input(marks, Pipeline);
    // Nothing is said because of a change, so changes hold no output back.
    let mut span_input = builder.new_input_connection(stream, Pipeline, []);
    let (parts, parts_stream) =
        builder.new_output_connection::<Vec<S::Part>, _>([(0, Antichain::from_elem(Stay))]);
    let mut parts = OutputBuilder::<_, CapacityContainerBuilder<_>>::from(parts);
    let mine = ShardSet::of_worker(scope.worker().index(), scope.worker().peers());

    builder.build(move |initial| {
        drop(initial);
        let mut keeping = Keeping::new(trace, sink, mine);
        move |frontiers| {
            mark_input.for_each_stamp(|stamp, marks| {
                let Some(capability) = stamp.retain_least(0) else { return };
                for mark in marks.flat_map(|marks| marks.drain(..)) {
                    keeping.asked.push_back((capability.clone(), mark));
                }
            });
            span_input.for_each(|_, spans| {
                for batch in spans.drain(..).filter_map(|span| span.inner) {
                    keeping.changed(&batch);
                }
            });
            let next_mark = frontiers[0].frontier().first().copied();
            let upto = frontiers[1].frontier().first().copied();
            if keeping.work(upto) {
                again.activate();
            }
            keeping.let_go(next_mark);
            if let Some((capability, part)) = keeping.written() {
                parts.activate().session(&capability).give(part);
            }
        }
    });
    parts_stream
}

struct Keeping<S> {
    /// Dropped once no mark can come any more.
    trace: Option<Trace>,
    sink: S,
    /// The shards that live on this worker.
    mine: ShardSet,
    /// Shards by the epoch that changed them; epochs that no mark can divide any more share an entry.
    changes: VecDeque<(u64, ShardSet)>,
    asked: VecDeque<(Capability<Time>, Mark)>,
    walk: Option<Walk>,
    /// Marks whose rows were handed over, and which are not durable yet.
    ended: VecDeque<Capability<Time>>,
}

/// A walk over the arrangement as of the end of an epoch.
struct Walk {
    capability: Capability<Time>,
    asof: Time,
    shards: ShardSet,
    cursor: differential_dataflow::trace::cursor::CursorList<BatchCursor<Trace>>,
    storage: Vec<Batch>,
    blocks: Blocks,
}

impl<S: ShardSink> Keeping<S> {
    fn new(trace: Trace, sink: S, mine: ShardSet) -> Self {
        let mut trace = trace;
        // Walks take whole pieces, so they may be merged at will.
        trace.set_physical_compaction(AntichainRef::new(&[]));
        Self {
            trace: Some(trace),
            sink,
            mine,
            changes: VecDeque::new(),
            asked: VecDeque::new(),
            walk: None,
            ended: VecDeque::new(),
        }
    }

    /// Notes which shards a batch touches. What was restored is as it was.
    fn changed(&mut self, batch: &Batch) {
        let mut cursor = batch.cursor();
        while let Some(key) = cursor.get_key(batch) {
            let shard = shard_of(key.hash());
            cursor.map_times(batch, |time, _| {
                if time.epoch == 0 {
                    return;
                }
                match self.changes.iter_mut().rev().find(|entry| entry.0 == time.epoch) {
                    Some((_, set)) => set.insert(shard),
                    None => {
                        let mut set = ShardSet::NONE;
                        set.insert(shard);
                        self.changes.push_back((time.epoch, set));
                    }
                }
            });
            cursor.step_key(batch);
        }
    }

    /// Goes on with a walk, or begins the next one; returns whether there is more to do now.
    /// `upto` is the least time at which the arrangement can still change.
    fn work(&mut self, upto: Option<Time>) -> bool {
        if self.walk.is_none() {
            let Some((_, mark)) = self.asked.front() else { return false };
            if upto.is_some_and(|upto| upto <= Time::end(mark.epoch)) {
                return false;
            }
            self.begin();
        }
        let Some(walk) = &mut self.walk else { return false };
        if !self.sink.has_room() {
            return false; // the sink wakes us
        }
        if walk.advance(&mut self.sink) {
            return true;
        }
        if let Some(mut walk) = self.walk.take() {
            walk.blocks.flush(&mut self.sink);
            self.sink.end();
            self.ended.push_back(walk.capability);
        }
        !self.asked.is_empty()
    }

    fn begin(&mut self) {
        let (Some((capability, mark)), Some(trace)) = (self.asked.pop_front(), &mut self.trace)
        else {
            return;
        };
        let mut shards = ShardSet::NONE;
        self.changes.retain(|(epoch, set)| {
            if *epoch <= mark.epoch {
                shards.add(set);
            }
            *epoch > mark.epoch
        });
        if mark.full {
            shards = self.mine;
        }
        let spans = trace.spans_through(AntichainRef::new(&[])).unwrap_or_default();
        let batches: Vec<Batch> = if shards.is_empty() {
            Vec::new()
        } else {
            spans.into_iter().filter_map(|span| span.inner).collect()
        };
        let (cursor, storage) = cursor_list(batches);
        self.sink.begin(mark, &shards);
        let (asof, blocks) = (Time::end(mark.epoch), Blocks::default());
        self.walk = Some(Walk { capability, asof, shards, cursor, storage, blocks });
    }

    /// Lets the arrangement forget what no mark can ask for any more. A mark at `(x, _)` asks for
    /// the end of an epoch that is not below `x - 1`.
    fn let_go(&mut self, next_mark: Option<Time>) {
        let from = next_mark.map(|time| time.epoch.saturating_sub(1));
        let asked = self.asked.front().map(|(_, mark)| mark.epoch);
        match from.into_iter().chain(asked).min() {
            Some(epoch) => {
                if let Some(trace) = &mut self.trace {
                    let time = if epoch == 0 { Time::default() } else { Time::end(epoch) };
                    trace.set_logical_compaction(AntichainRef::new(&[time]));
                }
                self.join_changes(epoch);
            }
            None => self.trace = None,
        }
    }

    /// Joins the changes of all epochs up to this one: no mark divides them.
    fn join_changes(&mut self, epoch: u64) {
        while self.changes.len() > 1 && self.changes[1].0 <= epoch {
            let Some((_, first)) = self.changes.pop_front() else { return };
            self.changes[0].1.add(&first);
        }
    }

    fn written(&mut self) -> Option<(Capability<Time>, S::Part)> {
        if self.ended.is_empty() {
            return None;
        }
        let part = self.sink.written()?;
        Some((self.ended.pop_front()?, part))
    }
}

impl Walk {
    /// Walks on; returns whether keys are left.
    fn advance<S: ShardSink>(&mut self, sink: &mut S) -> bool {
        for _ in 0..KEYS_PER_TURN {
            let Some(key) = self.cursor.get_key(&self.storage) else { return false };
            let shard = shard_of(key.hash());
            if self.shards.contains(shard) {
                let mut total: Option<Accumulator> = None;
                self.cursor.map_times(&self.storage, |time, diff| {
                    if *time <= self.asof {
                        match &mut total {
                            Some(total) => total.plus_equals(diff),
                            none => *none = Some(diff.clone()),
                        }
                    }
                });
                let is_there =
                    |one: &Accumulator| !differential_dataflow::difference::IsZero::is_zero(one);
                if let Some(total) = total.filter(is_there) {
                    self.blocks.add(sink, shard, |bytes| encode_row(key, &total, bytes));
                }
            }
            self.cursor.step_key(&self.storage);
        }
        self.cursor.get_key(&self.storage).is_some()
    }
}
