//! Aggregates as dataflows: compared with a slow obvious program, on one worker and on several.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex};

use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int64Type};
use arrow_array::{Array, ArrayRef, Float64Array, Int64Array, RecordBatch, StringViewArray};
use proptest::prelude::*;
use tidemill_operators::aggregate::{
    AggregateSpec, Computed, Function, Gathered, Inputs, Reach, TakenBack, gather, totals,
};
use tidemill_operators::keyed::Incoming;
use tidemill_operators::meter::Meter;
use tidemill_operators::rounds::Rounds;
use tidemill_operators::tally::Tally;
use tidemill_operators::{Batch, Column, OnError, Origin, Reject, RejectCode, Schema, Time, Type};
use timely::dataflow::InputHandle;
use timely::dataflow::operators::vec::Broadcast;
use timely::dataflow::operators::{Input, Inspect, Probe};
use timely::{CommunicationConfig, Config};

/// `host`, `status`, `bytes` (int), `ms` (float).
type Row = (Option<&'static str>, i64, Option<i64>, Option<f64>);

/// One file: its chunks, each with a difference, and whether it is poisoned in the end.
#[derive(Clone, Debug, Default)]
struct File {
    chunks: Vec<(i64, Vec<Row>)>,
    poisoned: bool,
}

/// What one epoch changes: `-1` and `+1` rows as text, sorted by key.
type Changes = BTreeMap<u64, Vec<(i64, String)>>;

fn computed(name: &str, function: Function, argument: Option<Type>) -> Computed {
    Computed::new(name, function, argument).unwrap()
}

/// Counts and sums, of which nothing is held.
fn sums() -> AggregateSpec {
    AggregateSpec {
        keys: vec![Column::new("host", Type::String), Column::new("status", Type::Int)],
        compute: vec![
            computed("hits", Function::CountAll, None),
            computed("sized", Function::Count, Some(Type::Int)),
            computed("bytes", Function::Sum, Some(Type::Int)),
            computed("ms", Function::Sum, Some(Type::Float)),
            computed("mean", Function::Avg, Some(Type::Float)),
        ],
        taken_back: TakenBack::ByFile,
    }
}

/// Also extrema, of which what could become one is held.
fn all() -> AggregateSpec {
    let mut spec = sums();
    spec.compute.extend([
        computed("best", Function::Min, Some(Type::Float)),
        computed("worst", Function::Max, Some(Type::Float)),
        computed("least", Function::Min, Some(Type::Int)),
    ]);
    spec
}

fn batch(rows: &[Row], diff: i64, chunk: u64) -> Batch {
    let names =
        [("host", Type::String), ("status", Type::Int), ("bytes", Type::Int), ("ms", Type::Float)];
    let schema = Schema::new(names.map(|(name, kind)| Column::new(name, kind)).to_vec());
    let arrays: Vec<ArrayRef> = vec![
        Arc::new(rows.iter().map(|row| row.0).collect::<StringViewArray>()),
        Arc::new(rows.iter().map(|row| Some(row.1)).collect::<Int64Array>()),
        Arc::new(rows.iter().map(|row| row.2).collect::<Int64Array>()),
        Arc::new(rows.iter().map(|row| row.3).collect::<Float64Array>()),
    ];
    let columns = RecordBatch::try_new(schema.arrow(), arrays).unwrap();
    let origin = Origin { submission: 1, chunk, offset: 0 };
    Batch { columns, raw: None, positions: None, diff, origin }
}

/// Evaluates nothing but columns; a status of -1 stands for an expression that fails.
fn evaluate(spec: &AggregateSpec, batch: &Batch) -> Inputs {
    let column = |at: usize| Arc::clone(batch.columns.column(at));
    let argument = |one: &Computed| match one.argument {
        None => None,
        Some(Type::Int) => Some(column(2)),
        Some(_) => Some(column(3)),
    };
    let status = batch.columns.column(1).as_primitive::<Int64Type>();
    let skip: arrow_array::BooleanArray =
        status.iter().map(|status| Some(status == Some(-1))).collect();
    let rejects = (0..batch.len()).filter(|row| skip.value(*row)).map(|row| Reject {
        line: row as u32,
        offset: 0,
        round: 0,
        operator: String::new(),
        code: RejectCode::Expression,
        message: "no such status".into(),
        raw: vec![],
        on_error: OnError::Reject,
    });
    Inputs {
        keys: (0..spec.keys.len()).map(column).collect(),
        arguments: spec.compute.iter().map(argument).collect(),
        rejects: rejects.collect(),
        skip: Some(skip),
        orders: vec![],
    }
}

fn cell(column: &ArrayRef, row: usize) -> String {
    if column.is_null(row) {
        return "NULL".into();
    }
    if let Some(array) = column.as_string_view_opt() {
        return array.value(row).to_owned();
    }
    if let Some(array) = column.as_primitive_opt::<Float64Type>() {
        return format!("{:?}/{:x}", array.value(row), array.value(row).to_bits());
    }
    array_int(column, row).to_string()
}

fn array_int(column: &ArrayRef, row: usize) -> i64 {
    column.as_primitive::<Int64Type>().value(row)
}

/// What a run says: the changes of each epoch, and the rejects as `epoch: operator: reason`.
#[derive(Default)]
struct Said {
    changes: Vec<(usize, Time, i64, String)>,
    rejects: Vec<String>,
}

/// Runs the files through an aggregate; chunk `c` is read by worker `c` modulo their number.
fn run(config: Config, spec: &AggregateSpec, files: &[File]) -> (Changes, Vec<String>) {
    let said: Arc<Mutex<Said>> = Arc::default();
    let (told, spec, files) = (Arc::clone(&said), spec.clone(), files.to_vec());
    let guards = timely::execute(config, move |worker| {
        let (index, spec) = (worker.index(), spec.clone());
        let mut poison = InputHandle::new();
        let (mut rows, probe) = worker.dataflow::<Time, _, _>(|scope| {
            let (rows, stream) = scope.new_input::<Batch>();
            let poisoned = scope.input_from(&mut poison).broadcast();
            let reader = spec.clone();
            let tally = Tally::alone(Meter::new(1));
            let evaluate = move |batch: &Batch| evaluate(&reader, batch);
            let (spec_of_rows, tally_of_rows) = (spec.clone(), tally.clone());
            let incoming = Incoming { rows: stream, poison: poisoned, rounds: Rounds::default() };
            let Gathered { partials, held, rejects } =
                gather("traffic", Reach::AllFiles, incoming, spec_of_rows, tally_of_rows, evaluate);
            let (table, overflows) =
                totals("traffic", "traffic", partials, held, spec.clone(), tally);
            let (one, two) = (Arc::clone(&told), Arc::clone(&told));
            for stream in [rejects, overflows] {
                let two = Arc::clone(&two);
                stream.inspect_core(move |event| {
                    if let Ok((stamp, batch)) = event {
                        let epoch = stamp.elements()[0].epoch;
                        let lines = batch.iter().flat_map(|one| &one.rejects).map(|one| {
                            let raw = String::from_utf8_lossy(&one.raw);
                            format!("{epoch}: {}: {} {raw}", one.operator, one.message)
                        });
                        two.lock().unwrap().rejects.extend(lines);
                    }
                });
            }
            let probe = table
                .inspect_core(move |event| {
                    if let Ok((stamp, batch)) = event {
                        let time = stamp.elements()[0];
                        assert_eq!(time, Time::end(time.epoch));
                        assert_eq!(batch.columns.schema(), spec.schema().arrow());
                        for row in 0..batch.len() {
                            let cells = batch.columns.columns().iter().map(|one| cell(one, row));
                            let text = cells.collect::<Vec<_>>().join(" ");
                            one.lock().unwrap().changes.push((index, time, batch.diff, text));
                        }
                    }
                })
                .probe()
                .0;
            (rows, probe)
        });
        for (at, file) in files.iter().enumerate() {
            let epoch = at as u64 + 1;
            for (chunk, (diff, lines)) in file.chunks.iter().enumerate() {
                rows.advance_to(Time::new(epoch, chunk as u64));
                if chunk % worker.peers() == index && !lines.is_empty() {
                    rows.send_batch(&mut batch(lines, *diff, chunk as u64));
                }
            }
            poison.advance_to(Time::new(epoch, 0));
            if file.poisoned && epoch as usize % worker.peers() == index {
                poison.send(epoch);
            }
            rows.advance_to(Time::new(epoch + 1, 0));
            if at % 3 == 0 {
                poison.advance_to(Time::new(epoch + 1, 0));
                worker.step_while(|| probe.less_than(&Time::new(epoch + 1, 0)));
            }
        }
        drop((rows, poison));
        worker.step_while(|| !probe.done());
    });
    for result in guards.unwrap().join() {
        result.unwrap();
    }
    let said = std::mem::take(&mut *said.lock().unwrap());
    check_order(&said.changes);
    let mut changes = Changes::new();
    for (_, time, diff, text) in said.changes {
        changes.entry(time.epoch).or_default().push((diff, text));
    }
    changes.values_mut().for_each(|one| one.sort());
    let mut rejects = said.rejects;
    rejects.sort();
    (changes, rejects)
}

/// Each worker emits an epoch at once: what is taken back, then what is there, each sorted by key.
#[track_caller]
fn check_order(changes: &[(usize, Time, i64, String)]) {
    let mut last: HashMap<usize, (Time, i64, Option<String>, i64)> = HashMap::new();
    for (worker, time, diff, text) in changes {
        let mut words = text.split(' ');
        let host = words.next().filter(|host| *host != "NULL").map(str::to_owned);
        let status = words.next().and_then(|word| word.parse().ok()).unwrap_or_default();
        let now = (*time, *diff, host, status);
        if let Some(before) = last.insert(*worker, now.clone()) {
            assert!(before < now, "{before:?} {now:?}");
        }
    }
}

/// The slow obvious program: keeps every row and computes every table anew.
fn oracle(spec: &AggregateSpec, files: &[File]) -> Changes {
    let mut kept: BTreeMap<(Option<&str>, i64), Vec<Row>> = BTreeMap::new();
    let mut changes = Changes::new();
    let mut before = BTreeSet::new();
    for (at, file) in files.iter().enumerate().filter(|(_, file)| !file.poisoned) {
        for (diff, rows) in &file.chunks {
            for row in rows.iter().filter(|row| row.1 != -1) {
                let group = kept.entry((row.0, row.1)).or_default();
                if *diff == 1 {
                    group.push(*row);
                } else {
                    let found = group.iter().position(|one| one == row).unwrap();
                    group.swap_remove(found);
                }
            }
        }
        let groups = kept.iter().filter(|(_, rows)| !rows.is_empty());
        let after: BTreeSet<String> = groups.map(|(key, rows)| line(spec, *key, rows)).collect();
        let gone = before.difference(&after).map(|row: &String| (-1, row.clone()));
        let come = after.difference(&before).map(|row| (1, row.clone()));
        let changed: Vec<_> = gone.chain(come).collect();
        if !changed.is_empty() {
            changes.insert(at as u64 + 1, changed);
        }
        before = after;
    }
    changes
}

fn line(spec: &AggregateSpec, key: (Option<&str>, i64), rows: &[Row]) -> String {
    let float = |value: Option<f64>| match value {
        Some(value) => format!("{value:?}/{:x}", value.to_bits()),
        None => "NULL".into(),
    };
    let int = |value: Option<i64>| value.map_or("NULL".into(), |value| value.to_string());
    let bytes: Vec<i64> = rows.iter().filter_map(|row| row.2).collect();
    let ms: Vec<f64> = rows.iter().filter_map(|row| row.3).collect();
    // The floats of the tests are multiples of 1/8, which add up without error.
    let sum = (!ms.is_empty()).then(|| ms.iter().sum::<f64>());
    let mut cells = vec![key.0.unwrap_or("NULL").to_owned(), key.1.to_string()];
    cells.extend([
        rows.len().to_string(),
        bytes.len().to_string(),
        int((!bytes.is_empty()).then(|| bytes.iter().sum())),
        float(sum),
        float(sum.map(|sum| sum / ms.len() as f64)),
    ]);
    if spec.compute.len() > 5 {
        cells.push(float(ms.iter().copied().reduce(f64::min)));
        cells.push(float(ms.iter().copied().reduce(f64::max)));
        cells.push(int(bytes.iter().min().copied()));
    }
    cells.join(" ")
}

/// One worker; two that pass memory; three that pass bytes, as between processes.
fn configs() -> [Config; 3] {
    let binary = CommunicationConfig::ProcessBinary(3);
    let binary = Config { communication: binary, worker: timely::WorkerConfig::default() };
    [Config::thread(), Config::process(2), binary]
}

/// Checks that every number of workers says what the oracle says.
#[track_caller]
fn check(spec: &AggregateSpec, files: &[File]) {
    let expected = oracle(spec, files);
    for config in configs() {
        let (changes, _) = run(config, spec, files);
        assert_eq!(changes, expected);
    }
}

fn any_row() -> impl Strategy<Value = Row> {
    let host = prop_oneof![
        Just(None),
        Just(Some("a")),
        Just(Some("a-host-with-a-long-name")),
        Just(Some("b")),
    ];
    let ms = proptest::option::of((-800..800_i32).prop_map(|eighths| f64::from(eighths) / 8.0));
    let bytes = proptest::option::of(-1_000_000..1_000_000_i64);
    (host, -1..3_i64, bytes, ms)
}

fn any_files() -> impl Strategy<Value = Vec<File>> {
    let chunk = proptest::collection::vec(any_row(), 0..12);
    let file = (proptest::collection::vec(chunk, 0..5), proptest::bool::weighted(0.2));
    proptest::collection::vec(file, 1..8).prop_map(|files| {
        let file = |(chunks, poisoned): (Vec<Vec<Row>>, bool)| File {
            chunks: chunks.into_iter().map(|rows| (1, rows)).collect(),
            poisoned,
        };
        files.into_iter().map(file).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn oracle_any_files_on_any_number_of_workers(files in any_files()) {
        check(&all(), &files);
    }

    #[test]
    fn oracle_files_that_are_taken_back(files in any_files(), taken in any::<[bool; 8]>()) {
        let mut history = files.clone();
        for (file, _) in files.iter().zip(taken).filter(|(file, taken)| *taken && !file.poisoned) {
            let back = file.chunks.iter().rev().map(|(_, rows)| (-1, rows.clone())).collect();
            history.push(File { chunks: back, poisoned: false });
        }
        check(&sums(), &history);
    }

    #[test]
    fn unruly_floats_add_up_to_the_same_bits_on_any_number_of_workers(
        bits in proptest::collection::vec(any::<u64>(), 1..60),
    ) {
        let row = |bits: &u64| (Some("a"), 0, None, Some(f64::from_bits(*bits)));
        let rows: Vec<Row> = bits.iter().map(row).collect();
        let files = |size: usize, rows: &[Row]| {
            let chunks = rows.chunks(size).map(|rows| (1, rows.to_vec())).collect();
            vec![File { chunks, poisoned: false }]
        };
        let backwards: Vec<Row> = rows.iter().rev().copied().collect();
        let expected = run(Config::thread(), &all(), &files(1000, &rows)).0;
        for config in configs() {
            prop_assert_eq!(&run(config.clone(), &all(), &files(3, &rows)).0, &expected);
            prop_assert_eq!(&run(config, &all(), &files(7, &backwards)).0, &expected);
        }
    }
}

fn one(rows: &[Row]) -> File {
    File { chunks: vec![(1, rows.to_vec())], poisoned: false }
}

fn changes(files: &[File]) -> Vec<(u64, i64, String)> {
    let changes = run(Config::process(2), &sums(), files).0;
    let flat = changes
        .into_iter()
        .flat_map(|(epoch, rows)| rows.into_iter().map(move |(diff, text)| (epoch, diff, text)));
    flat.collect()
}

#[test]
fn a_poisoned_file_leaves_no_trace() {
    let (a, b) = (one(&[(Some("a"), 1, Some(5), None)]), one(&[(Some("a"), 1, Some(7), None)]));
    let bad = File { poisoned: true, ..b.clone() };
    let with = changes(&[a.clone(), bad.clone(), b.clone(), bad]);
    assert_eq!(with.iter().filter(|change| change.0 == 2 || change.0 == 4).count(), 0);
    let without = changes(&[a, File::default(), b]);
    assert_eq!(with, without);
}

#[test]
fn a_key_disappears_with_its_last_row() {
    let file = one(&[(Some("a"), 1, Some(5), Some(0.1)), (Some("b"), 1, Some(5), Some(0.1))]);
    let back = File { chunks: vec![(-1, file.chunks[0].1[..1].to_vec())], poisoned: false };
    let gone: Vec<_> = changes(&[file, back]).into_iter().filter(|one| one.0 == 2).collect();
    assert_eq!(gone.len(), 1);
    assert_eq!(gone[0].1, -1);
    assert!(gone[0].2.starts_with("a 1 1 1 5 "), "{gone:?}");
}

#[test]
fn a_file_that_is_replaced_by_itself_says_nothing() {
    let file = one(&[(Some("a"), 1, Some(5), Some(0.1)), (None, 2, None, None)]);
    let mut again = file.clone();
    again.chunks.insert(0, (-1, file.chunks[0].1.clone()));
    assert!(changes(&[file, again]).iter().all(|change| change.0 == 1));
}

#[test]
fn a_rejected_row_is_left_out_and_reported_at_its_batch() {
    let file = one(&[(Some("a"), -1, Some(5), None), (Some("a"), 1, Some(6), None)]);
    let (changes, rejects) = run(Config::process(2), &sums(), &[file.clone(), file]);
    assert_eq!(changes[&1].len(), 1);
    assert_eq!(rejects, ["1: traffic: no such status ", "2: traffic: no such status "]);
}

#[test]
fn an_integer_sum_that_does_not_fit_is_null_and_reported_once() {
    let half = one(&[(Some("a"), 1, Some(i64::MAX / 2 + 1), None)]);
    let less = File { chunks: vec![(-1, half.chunks[0].1.clone())], poisoned: false };
    let files = [half.clone(), half.clone(), half, less.clone(), less];
    let (changes, rejects) = run(Config::process(2), &sums(), &files);
    let sums: Vec<&str> = changes
        .values()
        .map(|rows| rows.iter().find(|row| row.0 == 1).unwrap().1.split(' ').nth(4).unwrap())
        .collect();
    let half = "4611686018427387904";
    assert_eq!(sums, [half, "NULL", "NULL", "NULL", half]);
    let reason = "bytes: the sum 9223372036854775808 does not fit an int host=a, status=1";
    assert_eq!(rejects, [format!("2: traffic: {reason}")]);
}

#[test]
fn without_keys_there_is_one_row_for_everything() {
    let compute = vec![computed("rows", Function::CountAll, None)];
    let spec = AggregateSpec { keys: vec![], compute, taken_back: TakenBack::ByFile };
    let rows = [(None, 0, None, None), (Some("a"), 1, None, None)];
    let (changes, _) = run(Config::process(2), &spec, &[one(&rows), one(&rows)]);
    assert_eq!(changes[&1], [(1, "2".to_owned())]);
    assert_eq!(changes[&2], [(-1, "2".to_owned()), (1, "4".to_owned())]);
}

#[test]
fn many_keys_are_released_in_turns_and_leave_in_several_batches() {
    let rows: Vec<Row> = (0..40_000).map(|status| (Some("a"), status, Some(1), None)).collect();
    let (changes, _) = run(Config::process(2), &sums(), &[one(&rows), one(&rows[..10])]);
    assert_eq!(changes[&1].len(), 40_000);
    assert_eq!(changes[&2].len(), 20);
}
