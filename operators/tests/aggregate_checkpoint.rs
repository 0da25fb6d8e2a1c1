//! The state of an aggregate as of an epoch: exact while later epochs change it, only what changed
//! since the last mark, and the same aggregate again on any number of workers.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use tidemill_operators::aggregate::{
    Accumulator, AggregateSpec, Computed, Function, HeldBeside, Kept, Key, State, TakenBack,
    decode_rows, kept_totals,
};
use tidemill_operators::meter::Meter;
use tidemill_operators::shards::{Mark, ShardSet, ShardSink, shard_of};
use tidemill_operators::tally::Tally;
use tidemill_operators::{Column, Time, Type};
use timely::dataflow::InputHandle;
use timely::dataflow::operators::vec::Broadcast;
use timely::dataflow::operators::{Input, Inspect, Probe};
use timely::scheduling::activate::SyncActivator;
use timely::{CommunicationConfig, Config};

type Sums = BTreeMap<i64, (i64, i64)>;
/// What one mark wrote: shard and rows, of all workers.
type Written = BTreeMap<u64, (Vec<u8>, Vec<(u8, Vec<u8>)>)>;

/// Keeps what it is given in memory; has room every other time it is asked.
struct Memory {
    written: Arc<Mutex<Written>>,
    mark: Option<Mark>,
    ended: Vec<u64>,
    room: std::cell::Cell<bool>,
    wake: timely::scheduling::activate::SyncActivator,
}

impl ShardSink for Memory {
    type Part = u64;

    fn begin(&mut self, mark: Mark, shards: &ShardSet) {
        self.mark = Some(mark);
        let mut written = self.written.lock().unwrap();
        written.entry(mark.epoch).or_default().0.extend(shards.iter());
    }

    fn has_room(&self) -> bool {
        self.room.set(!self.room.get());
        if !self.room.get() {
            self.wake.activate().unwrap();
        }
        self.room.get()
    }

    fn rows(&mut self, shard: u8, _count: u32, bytes: Vec<u8>) {
        let epoch = self.mark.unwrap().epoch;
        self.written.lock().unwrap().entry(epoch).or_default().1.push((shard, bytes));
    }

    fn end(&mut self) {
        self.ended.push(self.mark.take().unwrap().epoch);
        self.wake.activate().unwrap();
    }

    fn written(&mut self) -> Option<u64> {
        self.ended.pop()
    }
}

fn spec() -> AggregateSpec {
    let compute = vec![Computed::new("sum", Function::Sum, Some(Type::Int)).unwrap()];
    let keys = vec![Column::new("key", Type::Int)];
    AggregateSpec { keys, compute, taken_back: TakenBack::ByFile }
}

fn key(number: i64) -> Key {
    let mut bytes = vec![1];
    bytes.extend_from_slice(&(number.cast_unsigned() ^ (1 << 63)).to_be_bytes());
    Key::new(&bytes)
}

fn number(key: &Key) -> i64 {
    let bytes: [u8; 8] = key.bytes()[1..].try_into().unwrap();
    (u64::from_be_bytes(bytes) ^ (1 << 63)).cast_signed()
}

fn one(sum: i64, rows: i64) -> Accumulator {
    Accumulator { rows, states: [State::Int { count: rows, sum }].into() }
}

/// What one epoch adds: key, sum, rows.
fn changes(epoch: u64) -> Vec<(i64, i64, i64)> {
    let epoch = epoch.cast_signed();
    let mut all: Vec<_> = (0..200).map(|at| (at * 3 % (40 + epoch), at * epoch, 1)).collect();
    // Keys of their own: those of later epochs come later in one row of keys, and sooner in the other.
    all.push((1_000 + epoch, 5, 1));
    all.push((-epoch, 7, 1));
    if epoch > 1 {
        // What the epoch before put there goes away again.
        all.push((1_000 + epoch - 1, -5, -1));
    }
    all
}

fn model(epochs: impl Iterator<Item = u64>) -> Sums {
    let mut sums = Sums::new();
    for (key, sum, rows) in epochs.flat_map(changes) {
        let entry = sums.entry(key).or_default();
        *entry = (entry.0 + sum, entry.1 + rows);
    }
    sums.retain(|_, total| *total != (0, 0));
    sums
}

/// What a run is to do.
#[derive(Clone, Default)]
struct Run {
    workers: usize,
    restored: Vec<(Key, Accumulator)>,
    epochs: Vec<u64>,
    /// Marks, and behind which epoch each comes.
    marks: Vec<Mark>,
}

/// Returns what was written, how many parts were told at each mark, and which epochs said anything.
fn run(run: Run) -> (Written, BTreeMap<u64, usize>, Vec<u64>) {
    let written = Arc::new(Mutex::new(Written::new()));
    let told = Arc::new(Mutex::new(BTreeMap::<u64, usize>::new()));
    let spoken = Arc::new(Mutex::new(Vec::new()));
    let communication = match run.workers {
        1 => CommunicationConfig::Thread,
        workers => CommunicationConfig::ProcessBinary(workers),
    };
    let config = Config { communication, ..Config::thread() };
    let (kept, told_to, spoken_to) = (Arc::clone(&written), Arc::clone(&told), Arc::clone(&spoken));
    timely::execute(config, move |worker| {
        let mut input = InputHandle::new();
        let mut restored = InputHandle::new();
        let mut marks = InputHandle::new();
        let (kept, told, spoken) =
            (Arc::clone(&kept), Arc::clone(&told_to), Arc::clone(&spoken_to));
        let probe = worker.dataflow::<Time, _, _>(|scope| {
            let sink = |wake| Memory {
                written: kept,
                mark: None,
                ended: Vec::new(),
                room: std::cell::Cell::new(false),
                wake,
            };
            let surroundings = Kept {
                restored: scope.input_from(&mut restored),
                marks: scope.input_from(&mut marks).broadcast(),
                sink,
            };
            let partials = scope.input_from(&mut input);
            let tally = Tally::alone(Meter::new(1));
            type Beside<'s> = HeldBeside<'s, fn(SyncActivator) -> Memory>;
            let beside: Option<Beside<'_>> = None;
            let made = kept_totals("sums", "sums", partials, beside, spec(), tally, surroundings);
            made.parts.inspect(move |epoch| *told.lock().unwrap().entry(*epoch).or_default() += 1);
            let rows = made.rows.inspect_core(move |event| {
                if let Ok((_, batch)) = event {
                    spoken.lock().unwrap().push(batch.origin.submission);
                }
            });
            rows.probe().0
        });
        let first = worker.index() == 0;
        let (index, peers) = (worker.index(), worker.peers());
        let mine = |at: usize| at % peers == index;
        for (at, (key, total)) in run.restored.iter().enumerate().filter(|(at, _)| mine(*at)) {
            let time = Time::new(0, (at % 3) as u64);
            restored.send((key.clone(), time, total.clone()));
        }
        restored.close();
        let mut wanted = run.marks.clone();
        wanted.reverse();
        for epoch in &run.epochs {
            input.advance_to(Time::new(*epoch, 0));
            marks.advance_to(Time::new(*epoch, 0));
            while let Some(mark) = wanted.pop_if(|mark| mark.epoch < *epoch) {
                if first {
                    marks.send(mark);
                }
            }
            let all = changes(*epoch);
            for (_, (to, sum, rows)) in all.iter().enumerate().filter(|(at, _)| mine(*at)) {
                input.send((key(*to), Time::end(*epoch), one(*sum, *rows)));
            }
            // Not in step: later epochs are there before the walk of a mark begins.
            if epoch % 4 == 0 {
                let before = Time::new(*epoch, 0);
                worker.step_while(|| probe.less_than(&before));
            }
        }
        for mark in wanted.into_iter().rev().filter(|_| first) {
            let after = Time::new(mark.epoch + 1, 0);
            marks.advance_to(after.max(*marks.time()));
            marks.send(mark);
        }
        input.close();
        marks.close();
        while worker.step_or_park(None) {}
    })
    .unwrap()
    .join()
    .into_iter()
    .for_each(|outcome| outcome.unwrap());
    let taken = (written.lock().unwrap().clone(), told.lock().unwrap().clone());
    let mut spoken = spoken.lock().unwrap().clone();
    spoken.sort_unstable();
    spoken.dedup();
    (taken.0, taken.1, spoken)
}

fn rows_of(blocks: &[(u8, Vec<u8>)]) -> Vec<(Key, Accumulator)> {
    let mut rows = Vec::new();
    for (shard, bytes) in blocks {
        let decoded = decode_rows(bytes, &spec()).unwrap();
        assert!(decoded.iter().all(|(key, _)| shard_of(key.hash()) == *shard));
        rows.extend(decoded);
    }
    rows
}

fn sums_of(rows: &[(Key, Accumulator)]) -> Sums {
    let sum = |total: &Accumulator| match total.states[0] {
        State::Int { count, sum } => (sum, count),
        ref other => panic!("{other:?}"),
    };
    let sums: Sums = rows.iter().map(|(key, total)| (number(key), sum(total))).collect();
    assert_eq!(sums.len(), rows.len(), "a key was written twice");
    sums
}

fn full(epoch: u64) -> Mark {
    Mark { epoch, full: true }
}

#[test]
fn a_mark_sees_all_of_its_epoch_and_nothing_after_it() {
    for workers in [1, 2, 3] {
        let marks = vec![full(1), full(5), full(12)];
        let (written, told, _) =
            run(Run { workers, epochs: (1..=12).collect(), marks, ..Run::default() });
        for epoch in [1, 5, 12] {
            let (shards, blocks) = &written[&epoch];
            assert_eq!(shards.len(), 256, "{workers} workers, epoch {epoch}");
            assert_eq!(sums_of(&rows_of(blocks)), model(1..=epoch), "{workers} workers, {epoch}");
            assert_eq!(told[&epoch], workers, "every worker says so once");
        }
    }
}

#[test]
fn a_second_mark_gives_out_exactly_the_shards_that_changed() {
    for workers in [1, 3] {
        let marks = vec![full(4), Mark { epoch: 6, full: false }];
        let (written, ..) =
            run(Run { workers, epochs: (1..=8).collect(), marks, ..Run::default() });
        let mut changed = ShardSet::NONE;
        for (to, ..) in (5..=6).flat_map(changes) {
            changed.insert(shard_of(key(to).hash()));
        }
        let (mut shards, blocks) = written[&6].clone();
        shards.sort_unstable();
        assert_eq!(shards, changed.iter().collect::<Vec<_>>(), "{workers} workers");
        assert!(shards.len() < 256);
        // The old rows of the other shards and these together are the state.
        let old = written[&4].1.iter().filter(|(shard, _)| !changed.contains(*shard));
        let together: Vec<_> = old.chain(&blocks).cloned().collect();
        assert_eq!(sums_of(&rows_of(&together)), model(1..=6), "{workers} workers");
    }
}

#[test]
fn marks_that_follow_each_other_closely_leave_no_change_out() {
    for workers in [1, 2] {
        let marks = (1..=12).map(|epoch| Mark { epoch, full: epoch == 1 }).collect();
        let (written, ..) =
            run(Run { workers, epochs: (1..=12).collect(), marks, ..Run::default() });
        let mut state: BTreeMap<u8, Vec<Vec<u8>>> = BTreeMap::new();
        for epoch in 1..=12 {
            let (shards, blocks) = &written[&epoch];
            shards.iter().for_each(|shard| drop(state.insert(*shard, Vec::new())));
            for (shard, bytes) in blocks {
                state.entry(*shard).or_default().push(bytes.clone());
            }
            let blocks =
                state.iter().flat_map(|(shard, all)| all.iter().map(|one| (*shard, one.clone())));
            let rows = rows_of(&blocks.collect::<Vec<_>>());
            assert_eq!(sums_of(&rows), model(1..=epoch), "{workers} workers, epoch {epoch}");
        }
    }
}

#[test]
fn what_was_restored_goes_on_as_if_nothing_had_been() {
    let marks = vec![full(5)];
    let (written, ..) = run(Run { workers: 2, epochs: (1..=5).collect(), marks, ..Run::default() });
    let restored = rows_of(&written[&5].1);
    for workers in [1, 2, 3] {
        let marks = vec![Mark { epoch: 6, full: false }, full(9)];
        let epochs: Vec<u64> = (6..=9).collect();
        let restored = restored.clone();
        let (written, _, spoken) = run(Run { workers, restored, epochs: epochs.clone(), marks });
        assert_eq!(sums_of(&rows_of(&written[&9].1)), model(1..=9), "{workers} workers");
        assert_eq!(spoken, epochs, "nothing is said of what was restored");
        // Restoring changes nothing: only epoch 6 does.
        let mut changed = ShardSet::NONE;
        changes(6).iter().for_each(|(to, ..)| changed.insert(shard_of(key(*to).hash())));
        assert_eq!(written[&6].0.len(), changed.iter().count(), "{workers} workers");
    }
}
