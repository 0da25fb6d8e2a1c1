//! What differential arrangements cost: `cargo run --release --example arrange_rate -- WHAT [KEYS] [ROUNDS]`.
//!
//! `ratio`: an insert-only aggregate beside a plain hash map that does the same, interleaved, the median.
//! `keys`: bytes a key, rows a second, what a few changed rows cost, and the time of a snapshot.
//! `late`: one late record among 100,000 of one key of a `state`.
//! `file`: the most memory while one file of so many keys goes through `dedupe`.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "an example that measures")]

use std::cell::Cell;
use std::collections::HashMap;
use std::hint::black_box;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow_array::{
    Array, ArrayRef, BooleanArray, Int64Array, RecordBatch, TimestampMicrosecondArray, UInt64Array,
};
use tidemill_operators::aggregate::{
    self, AggregateSpec, Computed, Function, Gathered, Reach, TakenBack, totals,
};
use tidemill_operators::batch::{Shape, position};
use tidemill_operators::dedupe::Dedupe;
use tidemill_operators::expr::compile;
use tidemill_operators::keep::keep;
use tidemill_operators::key::KeyEncoder;
use tidemill_operators::keyed::{
    Arrival, Direction, Inputs, KeptPacked, Nulls, OrderColumn, Port, RowLayout, arrange, changes,
    gather,
};
use tidemill_operators::meter::Meter;
use tidemill_operators::shards::{Mark, ShardSet, ShardSink};
use tidemill_operators::state::{Leave, MachineSpec, Replay, Transition, Variable};
use tidemill_operators::tally::Tally;
use tidemill_operators::value::Value;
use tidemill_operators::{Batch, Column, Origin, Schema, Time, Type};
use timely::dataflow::operators::vec::Broadcast;
use timely::dataflow::operators::{Input, Inspect, Probe};
use timely::dataflow::{InputHandle, ProbeHandle, Scope, Stream};
use timely::scheduling::activate::SyncActivator;

/// Rows of one batch, about what a chunk gives.
const BATCH: usize = 8 * 1024;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, default: u64| {
        words.get(at).and_then(|word| word.parse().ok()).unwrap_or(default)
    };
    match words.first().map(String::as_str) {
        Some("ratio") => ratio(number(1, 100_000), number(2, 5) as usize),
        Some("keys") => keys(number(1, 1_000_000)),
        Some("late") => late(number(1, 100_000)),
        Some("file") => file(number(1, 1_000_000)),
        _ => println!("ratio [KEYS] [ROUNDS] | keys [KEYS] | late [RECORDS] | file [ROWS]"),
    }
}

/// Numbers that look like chance and are the same each time.
struct Draw(u64);

impl Draw {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_041);
        self.0 >> 33
    }
}

/// Returns how much memory the process has, or had at most, in bytes.
fn memory(line: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let found = status.lines().find_map(|one| one.strip_prefix(line)).unwrap_or_default();
    found.trim().trim_end_matches("kB").trim().parse::<u64>().unwrap_or_default() << 10
}

fn columns() -> Schema {
    Schema::new(vec![Column::new("key", Type::Int), Column::new("value", Type::Int)])
}

fn batch(rows: &[(i64, i64)], diff: i64, submission: u64, chunk: u64) -> Batch {
    let arrays: Vec<ArrayRef> = vec![
        Arc::new(rows.iter().map(|row| row.0).collect::<Int64Array>()),
        Arc::new(rows.iter().map(|row| row.1).collect::<Int64Array>()),
    ];
    let positions = (0..rows.len() as u32).map(|line| position(line, line * 16));
    Batch {
        columns: RecordBatch::try_new(columns().arrow(), arrays).unwrap(),
        positions: Some(positions.collect::<UInt64Array>()),
        diff,
        origin: Origin { submission, chunk, offset: chunk << 19 },
        raw: None,
    }
}

/// Files of `rows` rows each, whose keys are drawn out of so many.
fn files(count: u64, rows: usize, keys: u64) -> Vec<Vec<Batch>> {
    let mut draw = Draw(7);
    let mut row = || ((draw.next() % keys).cast_signed(), (draw.next() % 1000).cast_signed());
    let file = |submission: u64| -> Vec<Batch> {
        let rows: Vec<(i64, i64)> = (0..rows).map(|_| row()).collect();
        let chunks = rows.chunks(BATCH).enumerate();
        chunks.map(|(at, rows)| batch(rows, 1, submission, at as u64)).collect()
    };
    (1..=count).map(file).collect()
}

/// Runs files, epoch by epoch, through a dataflow on one worker; calls `between` behind each with the
/// time that it took.
fn drive(
    files: Vec<Vec<Batch>>,
    build: impl for<'s> FnOnce(
        Scope<'s, Time>,
        Stream<'s, Time, Batch>,
        timely::dataflow::StreamVec<'s, Time, u64>,
        timely::dataflow::StreamVec<'s, Time, Mark>,
    ) -> ProbeHandle<Time>
    + Send
    + Sync
    + 'static,
    mut between: impl FnMut(u64, Duration) + Send + Sync + 'static,
) {
    timely::execute_directly(move |worker| {
        let (mut poison, mut marks) = (InputHandle::new(), InputHandle::new());
        let (mut rows, probe) = worker.dataflow::<Time, _, _>(|scope| {
            let (rows, stream) = scope.new_input::<Batch>();
            let poisoned = scope.input_from(&mut poison).broadcast();
            let asked = scope.input_from(&mut marks).broadcast();
            (rows, build(scope, stream, poisoned, asked))
        });
        let last = files.len() as u64;
        for (at, file) in files.into_iter().enumerate() {
            let epoch = at as u64 + 1;
            let began = Instant::now();
            for (chunk, mut batch) in file.into_iter().enumerate() {
                rows.advance_to(Time::new(epoch, chunk as u64));
                rows.send_batch(&mut batch);
                worker.step();
            }
            let next = Time::new(epoch + 1, 0);
            rows.advance_to(next);
            poison.advance_to(next);
            marks.advance_to(next);
            if epoch == last {
                marks.send(Mark { epoch, full: true });
            }
            while probe.less_than(&next) {
                worker.step();
            }
            between(epoch, began.elapsed());
        }
    });
}

fn aggregate_spec() -> AggregateSpec {
    let compute = vec![
        Computed::new("rows", Function::CountAll, None).unwrap(),
        Computed::new("sum", Function::Sum, Some(Type::Int)).unwrap(),
    ];
    AggregateSpec {
        keys: vec![columns().columns()[0].clone()],
        compute,
        taken_back: TakenBack::ByFile,
    }
}

fn by_arrangement(files: Vec<Vec<Batch>>) -> (Duration, u64) {
    let given = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let seen = Arc::clone(&given);
    let began = Instant::now();
    drive(
        files,
        move |_, rows, poison, _marks| {
            let (spec, tally) = (aggregate_spec(), Tally::alone(Meter::new(1)));
            let evaluate = |batch: &Batch| aggregate::Inputs {
                keys: vec![Arc::clone(batch.columns.column(0))],
                arguments: vec![None, Some(Arc::clone(batch.columns.column(1)))],
                ..aggregate::Inputs::default()
            };
            let reach = Reach::AllFiles;
            let Gathered { partials, held, .. } =
                aggregate::gather("a", reach, rows, poison, spec.clone(), tally.clone(), evaluate);
            let (rows, _) = totals("a", "a", partials, held, spec, tally);
            let probe = ProbeHandle::new();
            rows.inspect_core(move |event| {
                if let Ok((_, batch)) = event {
                    seen.fetch_add(batch.len() as u64, std::sync::atomic::Ordering::Relaxed);
                }
            })
            .probe_with(&probe);
            probe
        },
        |_, _| {},
    );
    (began.elapsed(), given.load(std::sync::atomic::Ordering::Relaxed))
}

/// The same by hand: a map from the bytes of a key to its sums; behind each file the rows that changed,
/// as they were and as they are, as columns.
fn by_hash_map(files: Vec<Vec<Batch>>) -> (Duration, u64) {
    struct Sums {
        now: (i64, i128),
        before: (i64, i128),
        epoch: u64,
    }
    let began = Instant::now();
    let mut given = 0;
    let mut map: HashMap<Box<[u8]>, Sums> = HashMap::new();
    let mut key = Vec::new();
    for (epoch, file) in files.into_iter().enumerate() {
        let epoch = epoch as u64 + 1;
        for batch in &file {
            let keys = KeyEncoder::new([batch.columns.column(0)]);
            let values = batch.columns.column(1).as_any().downcast_ref::<Int64Array>().unwrap();
            for row in 0..batch.len() {
                key.clear();
                keys.append(row, &mut key);
                let value = i128::from(values.value(row));
                let sums = match map.get_mut(key.as_slice()) {
                    Some(sums) => sums,
                    None => map.entry(key.as_slice().into()).or_insert(Sums {
                        now: (0, 0),
                        before: (0, 0),
                        epoch: 0,
                    }),
                };
                if sums.epoch < epoch {
                    (sums.before, sums.epoch) = (sums.now, epoch);
                }
                sums.now = (sums.now.0 + 1, sums.now.1 + value);
            }
        }
        let mut touched: Vec<(&[u8], &Sums)> = map
            .iter()
            .filter(|(_, sums)| sums.epoch == epoch)
            .map(|(key, sums)| (&**key, sums))
            .collect();
        touched.sort_unstable_by_key(|one| one.0);
        let before = touched.iter().filter(|(_, sums)| sums.before.0 > 0);
        let before: Vec<_> = before.map(|(key, sums)| (*key, sums.before)).collect();
        let after: Vec<_> = touched.iter().map(|(key, sums)| (*key, sums.now)).collect();
        for rows in before.chunks(BATCH).chain(after.chunks(BATCH)) {
            let number = |key: &[u8]| {
                let bytes: [u8; 8] = key.get(1..9).unwrap().try_into().unwrap();
                (u64::from_be_bytes(bytes) ^ 1 << 63).cast_signed()
            };
            let arrays: [ArrayRef; 3] = [
                Arc::new(rows.iter().map(|row| number(row.0)).collect::<Int64Array>()),
                Arc::new(rows.iter().map(|row| row.1.0).collect::<Int64Array>()),
                Arc::new(rows.iter().map(|row| row.1.1 as i64).collect::<Int64Array>()),
            ];
            given += rows.len() as u64;
            black_box(arrays);
        }
    }
    (began.elapsed(), given)
}

fn ratio(keys: u64, rounds: usize) {
    const ROWS: usize = 100_000;
    let all = files(20, ROWS, keys);
    let rows = (all.len() * ROWS) as f64;
    let mut ratios = Vec::new();
    let mut times = Vec::new();
    for _ in 0..rounds {
        let (by_map, one) = by_hash_map(all.clone());
        let (by_trace, other) = by_arrangement(all.clone());
        assert_eq!(one, other, "both say the same");
        ratios.push(by_trace.as_secs_f64() / by_map.as_secs_f64());
        times.push((by_map, by_trace));
    }
    ratios.sort_by(f64::total_cmp);
    times.sort();
    let (by_map, by_trace) = times[times.len() / 2];
    let each = |time: Duration| time.as_secs_f64() * 1e9 / rows;
    println!(
        "{keys} keys, files of {ROWS} rows: hash map {:.0} ns a row, arrangement {:.0} ns, {:.2} times",
        each(by_map),
        each(by_trace),
        ratios[ratios.len() / 2]
    );
}

fn inputs(batch: &Batch) -> Inputs {
    Inputs {
        keys: vec![Arc::clone(batch.columns.column(0))],
        values: vec![Arc::clone(batch.columns.column(1))],
        ..Inputs::default()
    }
}

fn layout() -> RowLayout {
    RowLayout {
        arrival: Some(Arrival::First),
        ..RowLayout::plain(vec![columns().columns()[1].clone()])
    }
}

fn port() -> Port {
    let shape = Shape { schema: columns(), raw: false, positions: false };
    Port { layout: layout(), shape, used: true }
}

/// Counts what a checkpoint would write.
struct Counting {
    rows: Rc<Cell<(u64, usize)>>,
    ended: bool,
}

impl ShardSink for Counting {
    type Part = u64;

    fn begin(&mut self, _mark: Mark, _shards: &ShardSet) {}

    fn has_room(&self) -> bool {
        true
    }

    fn rows(&mut self, _shard: u8, count: u32, bytes: Vec<u8>) {
        let (rows, length) = self.rows.get();
        self.rows.set((rows + u64::from(count), length + bytes.len()));
    }

    fn end(&mut self) {
        self.ended = true;
    }

    fn written(&mut self) -> Option<u64> {
        std::mem::take(&mut self.ended).then_some(1)
    }
}

/// Builds a dedupe over key and value.
fn deduped<'s>(
    rows: Stream<'s, Time, Batch>,
    poison: timely::dataflow::StreamVec<'s, Time, u64>,
    marks: timely::dataflow::StreamVec<'s, Time, Mark>,
    meter: Meter,
) -> ProbeHandle<Time> {
    let tally = Tally::alone(meter);
    let (updates, _) = gather("d", "d", rows, poison, layout(), tally.clone(), inputs);
    let arranged = arrange("d", updates);
    let probe = ProbeHandle::new();
    let sink = |_: SyncActivator| Counting { rows: Rc::default(), ended: false };
    keep::<KeptPacked, _, _>("d", arranged.clone(), marks, sink).probe_with(&probe);
    let keys = [columns().columns()[0].clone()];
    let said = changes("Dedupe d", "d", arranged, &keys, vec![port()], Dedupe::First, tally);
    said.tags.into_iter().for_each(|tag| {
        tag.probe_with(&probe);
    });
    probe
}

/// Fills a dedupe with one row of each key, changes some, and writes all of it down.
fn keys(count: u64) {
    const FILL: usize = 100_000;
    const CHANGED: usize = 1_000;
    const CHANGES: u64 = 100;
    let mut all = Vec::new();
    for (file, from) in (0..count).step_by(FILL).enumerate() {
        let rows: Vec<(i64, i64)> = (from..(from + FILL as u64).min(count))
            .map(|at| ((at.wrapping_mul(2_654_435_761) % count).cast_signed(), 1))
            .collect();
        let chunks = rows.chunks(BATCH).enumerate();
        all.push(chunks.map(|(at, rows)| batch(rows, 1, file as u64 + 1, at as u64)).collect());
    }
    let filled = all.len() as u64;
    let mut draw = Draw(11);
    for round in 1..=CHANGES {
        let rows: Vec<(i64, i64)> =
            (0..CHANGED).map(|_| ((draw.next() % count).cast_signed(), 2)).collect();
        all.push(vec![batch(&rows, 1, filled + round, 0)]);
    }
    all.push(vec![]);
    let before = memory("VmRSS:");
    let meter = Meter::new(1);
    let shown = meter.clone();
    let mut spent = Duration::ZERO;
    let mut changing = Vec::new();
    let files = all.len() as u64;
    drive(
        all,
        move |_, rows, poison, marks| deduped(rows, poison, marks, meter),
        move |epoch, took| {
            if epoch <= filled {
                spent += took;
            } else if epoch < files {
                changing.push(took);
            }
            if epoch == filled {
                let held = shown.read();
                println!(
                    "{count} keys: {:.0} ns a row while it is filled; {:.1} bytes a key told, {:.1} \
                     resident (with the inputs of this program)",
                    spent.as_secs_f64() * 1e9 / count as f64,
                    held.state_bytes as f64 / count as f64,
                    memory("VmRSS:").saturating_sub(before) as f64 / count as f64,
                );
            }
            if epoch == files {
                changing.sort();
                println!(
                    "{CHANGED} rows a file: median {:?}, slowest {:?}; a snapshot {took:?}; most memory \
                     {} MiB",
                    changing[changing.len() / 2],
                    changing[changing.len() - 1],
                    memory("VmHWM:") >> 20
                );
            }
        },
    );
}

/// One file of so many rows, each with a key of its own.
fn file(rows: u64) {
    let all: Vec<(i64, i64)> =
        (0..rows).map(|at| ((at.wrapping_mul(2_654_435_761) % rows).cast_signed(), 1)).collect();
    let chunks = all.chunks(BATCH).enumerate();
    let batches: Vec<Batch> = chunks.map(|(at, rows)| batch(rows, 1, 1, at as u64)).collect();
    drop(all);
    let before = memory("VmRSS:");
    let meter = Meter::new(1);
    let shown = meter.clone();
    drive(
        vec![batches],
        move |_, rows, poison, marks| deduped(rows, poison, marks, meter),
        move |_, took| {
            let most = memory("VmHWM:").saturating_sub(before);
            println!(
                "one file of {rows} rows: {took:?}, {:.0} ns a row; at most {:.0} bytes a row above the \
                 input, {:.0} kept",
                took.as_secs_f64() * 1e9 / rows as f64,
                most as f64 / rows as f64,
                shown.read().state_bytes as f64 / rows as f64
            );
        },
    );
}

/// A machine over many records of one key, of which one comes late.
fn late(records: u64) {
    let columns =
        Schema::new(vec![Column::new("ts", Type::Timestamp), Column::new("failed", Type::Bool)]);
    let variable =
        |name: &str, kind, initial| Variable { column: Column::new(name, kind), initial };
    let mut spec = MachineSpec {
        states: vec!["open".into(), "blocked".into()],
        homes: vec![Some(0), Some(1)],
        variables: vec![
            variable("failures", Type::Int, Value::Int(0)),
            variable("since", Type::Timestamp, Value::Null),
        ],
        transitions: Vec::new(),
        add: Vec::new(),
    };
    let mut visible = columns.columns().to_vec();
    visible.extend(spec.visible(&columns));
    let visible = Schema::new(visible);
    let expr = |sql: &str| Some(compile(sql, &visible).unwrap());
    let way = |from: usize, when: &str, set: &[(usize, &str)], goto| Transition {
        from: vec![from],
        when: expr(when),
        set: set.iter().map(|(at, sql)| (*at, expr(sql))).collect(),
        goto,
        leave: Leave::Home,
    };
    let again = "failed and (since is null or ts > since + interval '1 minute')";
    spec.transitions = vec![
        way(0, again, &[(0, "1"), (1, "ts")], None),
        way(0, "failed and failures >= 4", &[(0, "failures + 1")], Some(1)),
        way(0, "failed", &[(0, "failures + 1")], None),
        way(1, "not failed", &[], Some(0)),
    ];
    let order =
        OrderColumn { kind: Type::Timestamp, direction: Direction::Ascending, nulls: Nulls::First };
    let layout = RowLayout {
        order: vec![order],
        arrival: Some(Arrival::First),
        ..RowLayout::plain(columns.columns().to_vec())
    };
    let of = columns.clone();
    let record = move |times: &[i64], submission: u64, chunk: u64| {
        let failed = times.iter().map(|at| Some(at / 10_000_000 % 3 > 0));
        let arrays: Vec<ArrayRef> = vec![
            Arc::new(
                TimestampMicrosecondArray::from_iter_values(times.iter().copied())
                    .with_timezone("UTC"),
            ),
            Arc::new(failed.collect::<BooleanArray>()),
        ];
        let positions = (0..times.len() as u32).map(|line| position(line, line * 16));
        Batch {
            columns: RecordBatch::try_new(of.arrow(), arrays).unwrap(),
            positions: Some(positions.collect::<UInt64Array>()),
            diff: 1,
            origin: Origin { submission, chunk, offset: 0 },
            raw: None,
        }
    };
    let times: Vec<i64> = (0..records.cast_signed()).map(|at| at * 10_000_000).collect();
    let first: Vec<Batch> =
        times.chunks(BATCH).enumerate().map(|(at, times)| record(times, 1, at as u64)).collect();
    let last = times.last().copied().unwrap_or_default();
    let one = |at: i64, submission| vec![record(&[at + 5_000_000], submission, 0)];
    let files = vec![first, one(last, 2), one(last / 2, 3), one(last / 2, 4), one(0, 5)];
    drive(
        files,
        move |_, rows, poison, _marks| {
            let tally = Tally::alone(Meter::new(2));
            let evaluate = |batch: &Batch| Inputs {
                keys: vec![],
                order: vec![Arc::clone(batch.columns.column(0))],
                values: batch.columns.columns().to_vec(),
                ..Inputs::default()
            };
            let (updates, _) =
                gather("s", "s", rows, poison, layout.clone(), tally.clone(), evaluate);
            let arranged = arrange("s", updates);
            let shape = Shape { schema: columns.clone(), raw: false, positions: false };
            let port = Port { layout: layout.clone(), shape, used: true };
            let logic = Replay::new(spec, vec![], layout);
            let ports = vec![port.clone(), port];
            let said = changes("State s", "s", arranged, &[], ports, logic, tally);
            let probe = ProbeHandle::new();
            said.tags.into_iter().for_each(|tag| {
                tag.probe_with(&probe);
            });
            probe
        },
        move |epoch, took| {
            let what = ["all records", "one at the end", "one late", "one late", "one before all"];
            println!("{records} records of one key, {}: {took:?}", what[epoch as usize - 1]);
        },
    );
}
