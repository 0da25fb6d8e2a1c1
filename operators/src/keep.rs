//! Keep: the walk over an arrangement that writes it down for a checkpoint.
//!
//! | input  | marks, broadcast; the spans that the arrangement was given                          |
//! | output | what the [`ShardSink`] says of the shards of each mark, at the time of the mark      |
//! | state  | which shards changed since the last mark (256 bits); a copy of no row                |
//! | errors | none: the sink knows about disks                                                     |
//!
//! A mark asks for the state as of the end of an epoch. Once the arrangement can not change at that
//! time any more, its immutable pieces are taken (a few counted pointers) and walked with fuel, while
//! later epochs change it: nobody waits for a checkpoint. How a row becomes bytes is the business of
//! whoever keeps it ([`KeptRows`]).

use std::collections::{BTreeMap, VecDeque};
use std::marker::PhantomData;
use std::rc::Rc;

use differential_dataflow::difference::{IsZero, Semigroup};
use differential_dataflow::operators::arrange::Arranged;
use differential_dataflow::trace::cursor::{CursorList, cursor_list};
use differential_dataflow::trace::{
    BatchCursor, BatchDiff, BatchKey, BatchVal, Cursor, Navigable, TraceReader,
};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::progress::Antichain;
use timely::progress::frontier::AntichainRef;
use timely::scheduling::activate::SyncActivator;

use crate::shards::{Blocks, Mark, ShardSet, ShardSink};
use crate::time::{Step, Time};

/// How many rows are walked before other operators get their turn.
const ROWS_PER_TURN: usize = 8 * 1024;

/// How the rows of an arrangement become bytes.
pub trait KeptRows<Tr: TraceReader<Batch: Navigable>>: 'static {
    /// Returns the shard in which a key lives.
    fn shard(key: BatchKey<'_, Tr>) -> u8;

    /// Appends one row: a value of a key, and what its differences add up to.
    fn encode(
        key: BatchKey<'_, Tr>,
        value: BatchVal<'_, Tr>,
        total: &BatchDiff<Tr>,
        bytes: &mut Vec<u8>,
    );
}

/// Builds what writes the state down whenever a mark comes. `make` gets what wakes the operator.
pub fn keep<'s, R, Tr, S>(
    name: &str,
    arranged: Arranged<'s, Tr>,
    marks: StreamVec<'s, Time, Mark>,
    make: impl FnOnce(SyncActivator) -> S,
) -> StreamVec<'s, Time, S::Part>
where
    R: KeptRows<Tr>,
    Tr: TraceReader<Time = Time, Batch: Navigable> + 'static,
    BatchCursor<Tr>: Cursor<Time = Time, Storage = Tr::Batch>,
    S: ShardSink,
{
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
        builder.new_output_connection::<Vec<S::Part>, _>([(0, Antichain::from_elem(Step::STAY))]);
    let mut parts = OutputBuilder::<_, CapacityContainerBuilder<_>>::from(parts);
    let mine = ShardSet::of_worker(scope.worker().index(), scope.worker().peers());

    builder.build(move |initial| {
        drop(initial);
        let mut keeping = Keeping::<R, Tr, S>::new(trace, sink, mine);
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

struct Keeping<R, Tr: TraceReader<Batch: Navigable>, S> {
    /// Dropped once no mark can come any more.
    trace: Option<Tr>,
    sink: S,
    /// The shards that live on this worker.
    mine: ShardSet,
    /// Shards by the epoch that changed them; epochs that no mark can divide any more share an entry.
    changes: BTreeMap<u64, ShardSet>,
    asked: VecDeque<(Capability<Time>, Mark)>,
    walk: Option<Walk<R, Tr>>,
    /// Marks whose rows were handed over, and which are not durable yet.
    ended: VecDeque<Capability<Time>>,
}

/// A walk over the arrangement as of the end of an epoch.
struct Walk<R, Tr: TraceReader<Batch: Navigable>> {
    capability: Capability<Time>,
    asof: Time,
    shards: ShardSet,
    cursor: CursorList<BatchCursor<Tr>>,
    storage: Vec<Tr::Batch>,
    blocks: Blocks,
    rows: PhantomData<R>,
}

impl<R, Tr, S> Keeping<R, Tr, S>
where
    R: KeptRows<Tr>,
    Tr: TraceReader<Time = Time, Batch: Navigable> + 'static,
    BatchCursor<Tr>: Cursor<Time = Time, Storage = Tr::Batch>,
    S: ShardSink,
{
    fn new(trace: Tr, sink: S, mine: ShardSet) -> Self {
        let mut trace = trace;
        // Walks take whole pieces, so they may be merged at will.
        trace.set_physical_compaction(AntichainRef::new(&[]));
        Self {
            trace: Some(trace),
            sink,
            mine,
            changes: BTreeMap::new(),
            asked: VecDeque::new(),
            walk: None,
            ended: VecDeque::new(),
        }
    }

    /// Notes which shards a batch touches. What was restored is as it was.
    fn changed(&mut self, batch: &Tr::Batch) {
        let mut cursor = batch.cursor();
        while let Some(key) = cursor.get_key(batch) {
            let shard = R::shard(key);
            while cursor.val_valid(batch) {
                self.touched(shard, &mut cursor, batch);
                cursor.step_val(batch);
            }
            cursor.step_key(batch);
        }
    }

    fn touched(&mut self, shard: u8, cursor: &mut BatchCursor<Tr>, batch: &Tr::Batch) {
        cursor.map_times(batch, |time, _| {
            let epoch = BatchCursor::<Tr>::owned_time(time).epoch;
            if epoch == 0 {
                return;
            }
            self.changes.entry(epoch).or_default().insert(shard);
        });
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
        let changed = take_upto(&mut self.changes, mark.epoch);
        let shards = if mark.full { self.mine } else { changed };
        let spans = trace.spans_through(AntichainRef::new(&[])).unwrap_or_default();
        let batches: Vec<Tr::Batch> = if shards.is_empty() {
            Vec::new()
        } else {
            spans.into_iter().filter_map(|span| span.inner).collect()
        };
        let (cursor, storage) = cursor_list(batches);
        self.sink.begin(mark, &shards);
        let (asof, blocks) = (Time::end(mark.epoch), Blocks::default());
        self.walk =
            Some(Walk { capability, asof, shards, cursor, storage, blocks, rows: PhantomData });
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
        if self.changes.range(..=epoch).nth(1).is_some() {
            let all = take_upto(&mut self.changes, epoch);
            self.changes.insert(epoch, all);
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

/// Takes the changes of all epochs up to this one.
fn take_upto(changes: &mut BTreeMap<u64, ShardSet>, epoch: u64) -> ShardSet {
    let mut taken = ShardSet::NONE;
    while let Some(first) = changes.first_entry().filter(|first| *first.key() <= epoch) {
        taken.add(&first.remove());
    }
    taken
}

impl<R, Tr> Walk<R, Tr>
where
    R: KeptRows<Tr>,
    Tr: TraceReader<Time = Time, Batch: Navigable> + 'static,
    BatchCursor<Tr>: Cursor<Time = Time, Storage = Tr::Batch>,
{
    /// Walks on; returns whether rows are left.
    fn advance<S: ShardSink>(&mut self, sink: &mut S) -> bool {
        for _ in 0..ROWS_PER_TURN {
            let Some(key) = self.cursor.get_key(&self.storage) else { return false };
            let shard = R::shard(key);
            let value = self.cursor.get_val(&self.storage).filter(|_| self.shards.contains(shard));
            let Some(value) = value else {
                self.cursor.step_key(&self.storage);
                continue;
            };
            let mut total: Option<BatchDiff<Tr>> = None;
            let asof = self.asof;
            self.cursor.map_times(&self.storage, |time, diff| {
                if BatchCursor::<Tr>::owned_time(time) <= asof {
                    let diff = BatchCursor::<Tr>::owned_diff(diff);
                    match &mut total {
                        Some(total) => total.plus_equals(&diff),
                        none => *none = Some(diff),
                    }
                }
            });
            if let Some(total) = total.filter(|total| !total.is_zero()) {
                self.blocks.add(sink, shard, |bytes| R::encode(key, value, &total, bytes));
            }
            self.cursor.step_val(&self.storage);
        }
        self.cursor.key_valid(&self.storage)
    }
}
