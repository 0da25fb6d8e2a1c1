//! `state` and sessions as dataflows: random files that come in any order, are taken back and are restored
//! on another number of workers, against a slow obvious program that says everything anew.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use arrow_array::cast::AsArray;
use arrow_array::types::{Int64Type, TimestampMicrosecondType};
use arrow_array::{
    ArrayRef, BooleanArray, Int64Array, RecordBatch, StringViewArray, TimestampMicrosecondArray,
    UInt64Array, new_null_array,
};
use proptest::prelude::*;
use tidemill_operators::batch::{Shape, position};
use tidemill_operators::expr::compile;
use tidemill_operators::keep::keep;
use tidemill_operators::key::Key;
use tidemill_operators::keyed::{
    Arrival, Direction, Incoming, Inputs, KeptPacked, Logic, Nulls, OrderColumn, Port, RowLayout,
    Said, arrange, changes, decode_kept, gather,
};
use tidemill_operators::meter::Meter;
use tidemill_operators::rounds::Rounds;
use tidemill_operators::shards::{Mark, ShardSet, ShardSink};
use tidemill_operators::state::{
    Folds, Horizon, Leave, MachineSpec, Marks, Replay, Transition, Variable, horizon,
};
use tidemill_operators::tally::Tally;
use tidemill_operators::value::Value;
use tidemill_operators::window::Sessions;
use tidemill_operators::{Batch, Column, Origin, Schema, Time, Type};
use timely::dataflow::InputHandle;
use timely::dataflow::operators::vec::Broadcast;
use timely::dataflow::operators::{Concat, Input, Inspect, Probe};
use timely::scheduling::activate::SyncActivator;
use timely::{CommunicationConfig, Config};

/// Key, event time, number.
type Record = (&'static str, i64, i64);

/// One epoch: records of a file that come, or (with -1) go.
#[derive(Clone, Debug)]
struct File {
    submission: u64,
    diff: i64,
    records: Vec<Record>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Case {
    /// Sums `n` up to ten, is high until a negative one comes; with a horizon or without.
    Machine(Option<i64>),
    Sessions(i64),
}

/// What is there after an epoch: port and row as text, sorted.
type There = Vec<(usize, String)>;

fn layout() -> RowLayout {
    let (kind, direction, nulls) = (Type::Timestamp, Direction::Ascending, Nulls::First);
    RowLayout {
        order: vec![OrderColumn { kind, direction, nulls }],
        arrival: Some(Arrival::First),
        columns: vec![Column::new("ts", Type::Timestamp), Column::new("n", Type::Int)],
        raw: false,
        tail: Vec::new(),
    }
}

fn machine() -> MachineSpec {
    let columns = Schema::new(vec![
        Column::new("ts", Type::Timestamp),
        Column::new("n", Type::Int),
        Column::new("id", Type::String),
    ]);
    let mut spec = MachineSpec {
        states: vec!["low".into(), "high".into()],
        homes: vec![Some(0), Some(1)],
        variables: vec![Variable { column: Column::new("sum", Type::Int), initial: Value::Int(0) }],
        transitions: Vec::new(),
        add: Vec::new(),
    };
    let mut visible = columns.columns().to_vec();
    visible.extend(spec.visible(&columns));
    let visible = Schema::new(visible);
    let expr = |sql: &str| Some(compile(sql, &visible).unwrap());
    let way = |from: &[usize], when: Option<&str>, set: &str, goto, leave| Transition {
        from: from.to_vec(),
        when: when.and_then(expr),
        set: vec![(0, expr(set))],
        goto,
        leave,
    };
    spec.transitions = vec![
        way(&[0], Some("sum + n >= 10"), "sum + n", Some(1), Leave::Home),
        way(&[1], Some("n < 0"), "0", Some(0), Leave::Port(2)),
        way(&[], Some("id = 'b' and n = 3"), "sum + n", None, Leave::Drop),
        way(&[], None, "sum + n", None, Leave::Home),
    ];
    spec.add = vec![("total".into(), compile("sum", &visible).unwrap())];
    spec
}

/// The ports and the columns of rows.
fn ports(case: Case, layout: RowLayout) -> Vec<Port> {
    let tail = match case {
        Case::Machine(_) => vec![Column::new("total", Type::Int)],
        Case::Sessions(_) => ["from", "to"].map(|name| Column::new(name, Type::Timestamp)).to_vec(),
    };
    let mut columns = vec![Column::new("id", Type::String)];
    columns.extend(layout.columns.iter().take(2).cloned());
    columns.extend(tail.iter().cloned());
    let shape = Shape { schema: Schema::new(columns), raw: false, positions: true };
    let layout = RowLayout { tail, ..layout };
    vec![Port { layout, shape, used: true }; 3]
}

fn batch(file: &File, chunk: usize, records: &[Record]) -> Batch {
    let columns = Schema::new(vec![
        Column::new("id", Type::String),
        Column::new("ts", Type::Timestamp),
        Column::new("n", Type::Int),
    ]);
    let times = records.iter().map(|record| record.1);
    let arrays: Vec<ArrayRef> = vec![
        Arc::new(records.iter().map(|record| Some(record.0)).collect::<StringViewArray>()),
        Arc::new(TimestampMicrosecondArray::from_iter_values(times).with_timezone("UTC")),
        Arc::new(records.iter().map(|record| record.2).collect::<Int64Array>()),
    ];
    let positions = (0..records.len() as u32).map(|line| position(line, line));
    Batch {
        columns: RecordBatch::try_new(columns.arrow(), arrays).unwrap(),
        raw: None,
        positions: Some(positions.collect::<UInt64Array>()),
        diff: file.diff,
        origin: Origin { submission: file.submission, chunk: chunk as u64, offset: 0 },
    }
}

fn text_of(batch: &Batch, row: usize) -> String {
    let cell = |column: &ArrayRef| match column.as_string_view_opt() {
        Some(texts) => texts.value(row).to_owned(),
        None => match column.as_primitive_opt::<Int64Type>() {
            Some(ints) => ints.value(row).to_string(),
            None => column.as_primitive::<TimestampMicrosecondType>().value(row).to_string(),
        },
    };
    let cells: Vec<String> = batch.columns.columns().iter().map(cell).collect();
    let position = batch.positions.as_ref().unwrap().value(row) as u32;
    format!("{} @{}:{}:{position}", cells.join(" "), batch.origin.submission, batch.origin.chunk)
}

struct Memory {
    written: Arc<Mutex<Vec<Vec<u8>>>>,
    ended: bool,
}

impl ShardSink for Memory {
    type Part = u64;

    fn begin(&mut self, _mark: Mark, _shards: &ShardSet) {}

    fn has_room(&self) -> bool {
        true
    }

    fn rows(&mut self, _shard: u8, _count: u32, bytes: Vec<u8>) {
        self.written.lock().unwrap().push(bytes);
    }

    fn end(&mut self) {
        self.ended = true;
    }

    fn written(&mut self) -> Option<u64> {
        std::mem::take(&mut self.ended).then_some(1)
    }
}

type Kept = Vec<((Key, Key), i64)>;

struct Boxed(Box<dyn Logic>);

impl Logic for Boxed {
    fn rows<'v>(
        &mut self,
        key: &'v [u8],
        values: &mut dyn Iterator<Item = (&'v [u8], i64)>,
        said: &mut Said,
    ) {
        self.0.rows(key, values, said);
    }
}

#[derive(Default)]
struct Outcome {
    /// By epoch: port, difference, row.
    changes: BTreeMap<u64, Vec<(usize, i64, String)>>,
    late: BTreeMap<u64, usize>,
    kept: Kept,
}

/// Runs files from epoch `first` on; a file is read in two chunks.
fn run(config: Config, case: Case, files: &[File], first: u64, restored: &Kept) -> Outcome {
    let told: Arc<Mutex<Outcome>> = Arc::default();
    let written: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
    let marks = match case {
        Case::Machine(Some(horizon_us)) => {
            Some(Marks::new(layout(), &[Column::new("sum", Type::Int)], horizon_us))
        }
        _ => None,
    };
    let layout = marks.as_ref().map_or_else(layout, |marks| marks.layout().clone());
    let keys = vec![Column::new("id", Type::String)];
    let (telling, writing, given) = (Arc::clone(&told), Arc::clone(&written), layout.clone());
    let (files, before) = (files.to_vec(), restored.clone());
    let guards = timely::execute(config, move |worker| {
        let index = worker.index();
        let mut poison =
            InputHandle::<Time, timely::container::CapacityContainerBuilder<Vec<u64>>>::new();
        let mut marked = InputHandle::new();
        let mut restored = InputHandle::new();
        let (telling, writing) = (Arc::clone(&telling), Arc::clone(&writing));
        let (layout, marks, keys) =
            (given.clone(), marks.clone(), vec![Column::new("id", Type::String)]);
        let (mut rows, probe) = worker.dataflow::<Time, _, _>(|scope| {
            let (rows, stream) = scope.new_input::<Batch>();
            let poisoned = scope.input_from(&mut poison).broadcast();
            let tally = Tally::alone(Meter::new(3));
            let hidden = marks.as_ref().map(|marks| marks.hidden().to_vec());
            let evaluate = move |batch: &Batch| {
                let column = |at: usize| Arc::clone(batch.columns.column(at));
                let mut inputs = Inputs {
                    keys: vec![column(0)],
                    order: vec![column(1)],
                    values: vec![column(1), column(2)],
                    ..Inputs::default()
                };
                if let Some(hidden) = &hidden {
                    let nulls = |one: &Column| new_null_array(&one.kind.arrow(), batch.len());
                    inputs.values.extend(hidden.iter().map(nulls));
                    inputs.order.insert(0, Arc::new(BooleanArray::from(vec![true; batch.len()])));
                }
                inputs
            };
            let incoming = Incoming { rows: stream, poison: poisoned, rounds: Rounds::default() };
            let (updates, _) = gather("t", "t", incoming, layout.clone(), tally.clone(), evaluate);
            let updates = updates.concat(scope.input_from(&mut restored));
            let logic: Box<dyn Logic> = match case {
                Case::Sessions(gap_us) => Box::new(Sessions { gap_us }),
                Case::Machine(_) => {
                    let replay = Replay::new(machine(), keys.clone(), layout.clone());
                    Box::new(replay)
                }
            };
            let (updates, logic) = match marks {
                None => (updates, logic),
                Some(marks) => {
                    let folds = Folds::default();
                    let with = Horizon {
                        marks: marks.clone(),
                        keys: keys.clone(),
                        folds: folds.clone(),
                        tally: tally.clone(),
                    };
                    let (updates, late) = horizon("t", "t", updates, with);
                    let rejected = Arc::clone(&telling);
                    late.inspect(move |one| {
                        let late = &mut rejected.lock().unwrap().late;
                        *late.entry(one.epoch).or_default() += one.rejects.len();
                    });
                    let replay = Replay::new(machine(), keys.clone(), layout.clone());
                    let logic: Box<dyn Logic> = Box::new(replay.with_horizon(marks, folds));
                    (updates, logic)
                }
            };
            let arranged = arrange("t", updates);
            let marks = scope.input_from(&mut marked).broadcast();
            keep::<KeptPacked, _, _>("t", arranged.clone(), marks, |_wake: SyncActivator| Memory {
                written: writing,
                ended: false,
            });
            let ports = ports(case, layout);
            let tags = changes("Test t", "t", arranged, &keys, ports, Boxed(logic), tally).tags;
            let probe = timely::dataflow::ProbeHandle::new();
            for (port, tag) in tags.into_iter().enumerate() {
                let telling = Arc::clone(&telling);
                tag.inspect_core(move |event| {
                    let Ok((stamp, batch)) = event else { return };
                    let epoch = stamp.elements()[0].epoch;
                    let mut told = telling.lock().unwrap();
                    let rows = (0..batch.len()).map(|row| (port, batch.diff, text_of(batch, row)));
                    told.changes.entry(epoch).or_default().extend(rows);
                })
                .probe_with(&probe);
            }
            (rows, probe)
        });
        for (at, ((key, value), times)) in before.iter().enumerate() {
            if at % worker.peers() == index {
                restored.send(((key.clone(), value.clone()), Time::new(0, 0), *times));
            }
        }
        restored.close();
        let end = first + files.len() as u64;
        for (at, file) in files.iter().enumerate() {
            let epoch = at as u64 + first;
            let half = file.records.len() / 2;
            let halves = file.records.split_at(half);
            for (chunk, records) in [halves.0, halves.1].into_iter().enumerate() {
                rows.advance_to(Time::new(epoch, chunk as u64));
                if (epoch as usize + chunk) % worker.peers() == index && !records.is_empty() {
                    rows.send_batch(&mut batch(file, chunk, records));
                }
            }
            poison.advance_to(Time::new(epoch + 1, 0));
            rows.advance_to(Time::new(epoch + 1, 0));
            marked.advance_to(Time::new(epoch + 1, 0));
            if at % 3 == 0 {
                worker.step_while(|| probe.less_than(&Time::new(epoch + 1, 0)));
            }
        }
        if index == 0 {
            marked.advance_to(Time::new(end, 0));
            marked.send(Mark { epoch: end - 1, full: true });
        }
        drop((rows, poison, marked));
        while worker.step_or_park(None) {}
    });
    for result in guards.unwrap().join() {
        result.unwrap();
    }
    let mut outcome = std::mem::take(&mut *told.lock().unwrap());
    for bytes in written.lock().unwrap().iter() {
        outcome.kept.extend(decode_kept(bytes, &keys, &layout).unwrap());
    }
    outcome
}

/// A record with its place.
type Placed = (i64, u64, usize, usize, Record);

/// The slow obvious program: what is there after each epoch, and how many records came too late.
fn oracle(case: Case, files: &[File]) -> (Vec<There>, Vec<usize>) {
    let mut kept: BTreeMap<&str, Vec<Placed>> = BTreeMap::new();
    let mut newest: BTreeMap<&str, i64> = BTreeMap::new();
    let (mut there, mut late) = (Vec::new(), Vec::new());
    for file in files {
        let before = newest.clone();
        let mut too_late = 0;
        for (at, record) in file.records.iter().enumerate() {
            let half = file.records.len() / 2;
            let (chunk, line) = if at < half { (0, at) } else { (1, at - half) };
            let placed = (record.1, file.submission, chunk, line, *record);
            if let (Case::Machine(Some(horizon)), Some(newest)) = (case, before.get(record.0))
                && record.1 < newest - horizon
            {
                too_late += usize::from(file.diff > 0);
                continue;
            }
            let of_key = kept.entry(record.0).or_default();
            if file.diff > 0 {
                of_key.push(placed);
                let newest = newest.entry(record.0).or_insert(record.1);
                *newest = record.1.max(*newest);
            } else {
                let found = of_key.iter().position(|one| *one == placed).unwrap();
                of_key.remove(found);
            }
        }
        let mut now = Vec::new();
        for rows in kept.values_mut() {
            rows.sort();
            match case {
                Case::Machine(_) => naive_machine(rows, &mut now),
                Case::Sessions(gap) => naive_sessions(rows, gap, &mut now),
            }
        }
        now.sort();
        there.push(now);
        late.push(too_late);
    }
    (there, late)
}

fn text(one: &Placed, tail: &str) -> String {
    let (_, submission, chunk, line, (id, ts, n)) = one;
    format!("{id} {ts} {n} {tail} @{submission}:{chunk}:{line}")
}

fn naive_machine(rows: &[Placed], now: &mut There) {
    let (mut high, mut sum) = (false, 0);
    for one in rows {
        let (id, _, n) = one.4;
        let port = if !high && sum + n >= 10 {
            (high, sum) = (true, sum + n);
            1
        } else if high && n < 0 {
            (high, sum) = (false, 0);
            2
        } else {
            sum += n;
            if id == "b" && n == 3 {
                continue;
            }
            usize::from(high)
        };
        now.push((port, text(one, &sum.to_string())));
    }
}

fn naive_sessions(rows: &[Placed], gap: i64, now: &mut There) {
    for one in rows {
        // Walk away from the record as long as the next one is near.
        let (mut first, mut last) = (one.0, one.0);
        while let Some(before) =
            rows.iter().map(|row| row.0).find(|at| *at < first && first - at < gap)
        {
            first = before;
        }
        while let Some(after) =
            rows.iter().map(|row| row.0).find(|at| *at > last && at - last < gap)
        {
            last = after;
        }
        now.push((0, text(one, &format!("{first} {}", last + gap))));
    }
}

fn workers(count: usize) -> Config {
    if count == 1 {
        return Config::thread();
    }
    Config { communication: CommunicationConfig::Process(count), ..Config::thread() }
}

#[track_caller]
fn check(case: Case, files: &[File], count: usize, cut: usize) {
    let (expected, late) = oracle(case, files);
    let mut there: Vec<(usize, String)> = Vec::new();
    let mut kept = Kept::new();
    let (one, two) = files.split_at(cut.min(files.len()));
    let parts = [(one, 1, count), (two, one.len() as u64 + 1, 4 - count)];
    for (part, first, count) in parts.into_iter().filter(|(part, ..)| !part.is_empty()) {
        let outcome = run(workers(count), case, part, first, &kept);
        for at in 0..part.len() {
            let epoch = first + at as u64;
            for (port, diff, row) in outcome.changes.get(&epoch).into_iter().flatten() {
                let row = (*port, row.clone());
                if *diff > 0 {
                    there.push(row);
                } else {
                    let found = there.iter().position(|one| *one == row);
                    there.remove(found.unwrap_or_else(|| panic!("{row:?} was not there")));
                }
            }
            there.sort();
            assert_eq!(there, expected[epoch as usize - 1], "{case:?}, behind epoch {epoch}");
            let found = outcome.late.get(&epoch).copied().unwrap_or_default();
            assert_eq!(found, late[epoch as usize - 1], "late in epoch {epoch}");
        }
        kept = outcome.kept;
    }
}

fn files(times: i64, rows: usize) -> impl Strategy<Value = Vec<File>> {
    let key = prop_oneof![Just("a"), Just("b")];
    let record = (key, 0..times, -3..6_i64);
    let file = prop::collection::vec(record, 0..rows);
    // How far time has come when a file comes, and which earlier one goes instead.
    let step = (file, prop::option::weighted(0.25, any::<prop::sample::Index>()));
    prop::collection::vec(step, 1..12).prop_map(move |steps| {
        let mut files: Vec<File> = Vec::new();
        let mut open: Vec<usize> = Vec::new();
        for (at, (records, gone)) in steps.into_iter().enumerate() {
            if let Some(gone) = gone.filter(|_| !open.is_empty()) {
                let index = open.remove(gone.index(open.len()));
                let gone = files[index].clone();
                files.push(File { diff: -1, ..gone });
                continue;
            }
            open.push(at);
            let later = at as i64 * times / 4;
            let records = records.into_iter().map(|(id, ts, n)| (id, ts + later, n)).collect();
            files.push(File { submission: at as u64 + 1, diff: 1, records });
        }
        files
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn oracle_a_machine_says_what_follows_from_its_records(
        files in files(40, 12), count in 1..4_usize, cut in 0..12_usize,
    ) {
        check(Case::Machine(None), &files, count, cut);
    }

    #[test]
    fn oracle_sessions_follow_from_their_records(
        files in files(60, 10), count in 1..4_usize, cut in 0..12_usize,
    ) {
        check(Case::Sessions(7), &files, count, cut);
    }

    #[test]
    fn oracle_what_is_final_stays_and_what_is_late_is_told(
        files in files(100, 150), count in 1..4_usize, cut in 0..12_usize,
    ) {
        check(Case::Machine(Some(60)), &files, count, cut);
    }
}

#[test]
fn final_records_are_folded_away() {
    let file = |at: u64| File {
        submission: at,
        diff: 1,
        records: (0..200).map(|row| ("a", at as i64 * 1_000 + row, 1)).collect(),
    };
    let files: Vec<File> = (1..=8).map(file).collect();
    let outcome = run(workers(1), Case::Machine(Some(100)), &files, 1, &Kept::new());
    // What is folded leaves with a later file, so those of the last few are still there.
    assert!(outcome.kept.len() < 800, "{} rows are kept of 1600", outcome.kept.len());
    check(Case::Machine(Some(100)), &files, 2, 4);
}
