//! Every aggregate function as a dataflow: compared with a slow obvious program while files are added,
//! taken back and replaced, on one worker and on several; and again after a checkpoint.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int64Type};
use arrow_array::{
    Array, ArrayRef, Float64Array, Int64Array, RecordBatch, StringViewArray, UInt64Array,
};
use proptest::prelude::*;
use tidemill_operators::aggregate::{
    AggregateSpec, Computed, Function, Gathered, Inputs, Reach, Share, Sort, TakenBack, gather,
    totals,
};
use tidemill_operators::keyed::Incoming;
use tidemill_operators::meter::Meter;
use tidemill_operators::rounds::Rounds;
use tidemill_operators::tally::Tally;
use tidemill_operators::{Batch, Column, Origin, Schema, Time, Type};
use timely::dataflow::InputHandle;
use timely::dataflow::operators::vec::Broadcast;
use timely::dataflow::operators::{Input, Inspect, Probe};
use timely::{CommunicationConfig, Config};

/// `key`, `text`, `int`, `float`.
type Row = (&'static str, Option<&'static str>, Option<i64>, Option<f64>);

/// Where a row stands: submission, chunk, position.
type Place = (u64, u64, u64);

/// Rows of one chunk of one file, added or taken back.
#[derive(Clone, Debug)]
struct Chunk {
    diff: i64,
    submission: u64,
    chunk: u64,
    rows: Vec<(u64, Row)>,
}

/// What one epoch brings.
type Epoch = Vec<Chunk>;

/// What one epoch changes: `-1` and `+1` rows as text, sorted.
type Changes = BTreeMap<u64, Vec<(i64, String)>>;

/// Which argument a computed column has, and what it is ordered by: columns of [`Row`] from 1.
#[derive(Clone)]
struct Reads {
    argument: usize,
    order: Vec<usize>,
}

const TEXT: usize = 1;
const INT: usize = 2;
const FLOAT: usize = 3;

const fn kind(column: usize) -> Type {
    match column {
        INT => Type::Int,
        FLOAT => Type::Float,
        _ => Type::String,
    }
}

/// A function, the column of its argument, and its order: column, descending, NULLs first.
type Wanted = (Function, usize, Vec<(usize, bool, bool)>);

fn spec(taken_back: TakenBack) -> (AggregateSpec, Vec<Reads>) {
    let ascending = |by: usize| (by, false, true);
    let half = Function::ApproxQuantile(Share::new(0.5).unwrap());
    let most = Function::ApproxQuantile(Share::new(0.9).unwrap());
    let all: Vec<Wanted> = vec![
        (Function::Min, INT, vec![]),
        (Function::Max, INT, vec![]),
        (Function::Min, TEXT, vec![]),
        (Function::Max, TEXT, vec![]),
        (Function::Min, FLOAT, vec![]),
        (Function::Max, FLOAT, vec![]),
        (Function::CountDistinct, TEXT, vec![]),
        (Function::CountDistinct, INT, vec![]),
        (Function::ApproxDistinct, TEXT, vec![]),
        (Function::First, TEXT, vec![]),
        (Function::Last, INT, vec![]),
        (Function::First, TEXT, vec![(INT, true, false), (FLOAT, false, false)]),
        (Function::Last, TEXT, vec![(TEXT, false, true), (INT, true, true)]),
        (Function::ArgMin, TEXT, vec![ascending(FLOAT)]),
        (Function::ArgMax, INT, vec![ascending(TEXT)]),
        (Function::VarSamp, INT, vec![]),
        (Function::StddevPop, FLOAT, vec![]),
        (half, INT, vec![]),
        (most, FLOAT, vec![]),
    ];
    let computed = |(at, (function, argument, order)): (usize, &Wanted)| {
        let kind_of = |(by, descending, nulls_first): &(usize, bool, bool)| Sort {
            kind: kind(*by),
            descending: *descending,
            nulls_first: *nulls_first,
        };
        let plain = Computed::new(&format!("c{at}"), *function, Some(kind(*argument))).unwrap();
        let order = order.iter().map(kind_of).collect();
        Computed { order, arrival: function.is_pick(), ..plain }
    };
    let reads = |(_, argument, order): &(Function, usize, Vec<(usize, bool, bool)>)| Reads {
        argument: *argument,
        order: order.iter().map(|(by, ..)| *by).collect(),
    };
    let spec = AggregateSpec {
        keys: vec![Column::new("key", Type::String)],
        compute: all.iter().enumerate().map(computed).collect(),
        taken_back,
    };
    (spec, all.iter().map(reads).collect())
}

fn batch(chunk: &Chunk) -> Batch {
    let names =
        [("key", Type::String), ("text", Type::String), ("int", Type::Int), ("float", Type::Float)];
    let schema = Schema::new(names.map(|(name, kind)| Column::new(name, kind)).to_vec());
    let rows = &chunk.rows;
    let arrays: Vec<ArrayRef> = vec![
        Arc::new(rows.iter().map(|(_, row)| Some(row.0)).collect::<StringViewArray>()),
        Arc::new(rows.iter().map(|(_, row)| row.1).collect::<StringViewArray>()),
        Arc::new(rows.iter().map(|(_, row)| row.2).collect::<Int64Array>()),
        Arc::new(rows.iter().map(|(_, row)| row.3).collect::<Float64Array>()),
    ];
    let columns = RecordBatch::try_new(schema.arrow(), arrays).unwrap();
    let origin = Origin { submission: chunk.submission, chunk: chunk.chunk, offset: 0 };
    let positions: UInt64Array = rows.iter().map(|(position, _)| Some(*position)).collect();
    Batch { columns, raw: None, positions: Some(positions), diff: chunk.diff, origin }
}

fn cell(column: &ArrayRef, row: usize) -> String {
    if column.is_null(row) {
        return "NULL".into();
    }
    if let Some(array) = column.as_string_view_opt() {
        return array.value(row).to_owned();
    }
    if let Some(array) = column.as_primitive_opt::<Float64Type>() {
        return format!("{:?}", array.value(row));
    }
    column.as_primitive::<Int64Type>().value(row).to_string()
}

/// Runs the epochs through the aggregate; each chunk is read by some worker.
fn run(config: Config, taken_back: TakenBack, epochs: &[Epoch]) -> Changes {
    let said: Arc<Mutex<Changes>> = Arc::default();
    let (told, epochs) = (Arc::clone(&said), epochs.to_vec());
    let guards = timely::execute(config, move |worker| {
        let (spec, reads) = spec(taken_back);
        let index = worker.index();
        let mut poison = InputHandle::<Time, _>::new();
        let (mut rows, probe) = worker.dataflow::<Time, _, _>(|scope| {
            let (rows, stream) = scope.new_input::<Batch>();
            let poisoned = scope.input_from(&mut poison).broadcast();
            let tally = Tally::alone(Meter::new(1));
            let evaluate = move |batch: &Batch| {
                let column = |at: usize| Arc::clone(batch.columns.column(at));
                Inputs {
                    keys: vec![column(0)],
                    arguments: reads.iter().map(|one| Some(column(one.argument))).collect(),
                    orders: reads
                        .iter()
                        .map(|one| one.order.iter().map(|at| column(*at)).collect())
                        .collect(),
                    ..Inputs::default()
                }
            };
            let incoming = Incoming { rows: stream, poison: poisoned, rounds: Rounds::default() };
            let Gathered { partials, held, .. } =
                gather("all", Reach::AllFiles, incoming, spec.clone(), tally.clone(), evaluate);
            let (table, _) = totals("all", "all", partials, held, spec, tally);
            let told = Arc::clone(&told);
            let probe = table
                .inspect_core(move |event| {
                    let Ok((stamp, batch)) = event else { return };
                    let epoch = stamp.elements()[0].epoch;
                    for row in 0..batch.len() {
                        let cells = batch.columns.columns().iter().map(|one| cell(one, row));
                        let text = cells.collect::<Vec<_>>().join(" ");
                        told.lock().unwrap().entry(epoch).or_default().push((batch.diff, text));
                    }
                })
                .probe()
                .0;
            (rows, probe)
        });
        for (at, chunks) in epochs.iter().enumerate() {
            let epoch = at as u64 + 1;
            rows.advance_to(Time::new(epoch, 0));
            for (chunk_at, chunk) in chunks.iter().enumerate() {
                // The chunks of a file lie together otherwise each time that it is read.
                let reader = (at + chunk_at / (1 + at % 3)) % worker.peers();
                if reader == index && !chunk.rows.is_empty() {
                    rows.send_batch(&mut batch(chunk));
                }
            }
            rows.advance_to(Time::new(epoch + 1, 0));
            poison.advance_to(Time::new(epoch + 1, 0));
            if at % 3 == 0 {
                worker.step_while(|| probe.less_than(&Time::new(epoch + 1, 0)));
            }
        }
        drop((rows, poison));
        worker.step_while(|| !probe.done());
    });
    for result in guards.unwrap().join() {
        result.unwrap();
    }
    let mut changes = std::mem::take(&mut *said.lock().unwrap());
    changes.values_mut().for_each(|rows| rows.sort());
    changes
}

/// The slow obvious program: keeps every row and computes every table anew.
fn oracle(epochs: &[Epoch]) -> Changes {
    let mut kept: BTreeMap<&str, Vec<(Place, Row)>> = BTreeMap::new();
    let mut changes = Changes::new();
    let mut before = BTreeSet::new();
    for (at, chunks) in epochs.iter().enumerate() {
        for diff in [-1, 1] {
            for chunk in chunks.iter().filter(|chunk| chunk.diff == diff) {
                for (position, row) in &chunk.rows {
                    let group = kept.entry(row.0).or_default();
                    let one = ((chunk.submission, chunk.chunk, *position), *row);
                    if diff == 1 {
                        group.push(one);
                    } else {
                        let found = group.iter().position(|kept| *kept == one).unwrap();
                        group.remove(found);
                    }
                }
            }
        }
        let groups = kept.iter().filter(|(_, rows)| !rows.is_empty());
        let after: BTreeSet<String> = groups.map(|(key, rows)| line(key, rows)).collect();
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

fn text(value: Option<impl std::fmt::Debug>) -> String {
    let unquoted = |value| format!("{value:?}").trim_matches('"').replace("\\u{1}", "\u{1}");
    value.map_or("NULL".into(), unquoted)
}

fn line(key: &str, rows: &[(Place, Row)]) -> String {
    let mut rows = rows.to_vec();
    rows.sort_by_key(|(place, _)| *place);
    let ints: Vec<i64> = rows.iter().filter_map(|(_, row)| row.2).collect();
    let floats: Vec<f64> = rows.iter().filter_map(|(_, row)| row.3).collect();
    let texts: Vec<&str> = rows.iter().filter_map(|(_, row)| row.1).collect();
    let mut sorted = floats.clone();
    sorted.sort_by(f64::total_cmp);
    let mut sorted_ints = ints.clone();
    sorted_ints.sort_unstable();
    // Sorting is stable, so equal rows stay in the order of their arrival.
    let by = |compare: &dyn Fn(&Row, &Row) -> std::cmp::Ordering| {
        let mut rows: Vec<Row> = rows.iter().map(|(_, row)| *row).collect();
        rows.sort_by(|one, two| compare(one, two));
        rows
    };
    let last = |value: Option<f64>| (value.is_none(), value.map(|value| (value * 8.0) as i64));
    let first = by(&|one, two| two.2.cmp(&one.2).then(last(one.3).cmp(&last(two.3))));
    // `int DESC NULLS FIRST`.
    let down = |value: Option<i64>| (value.is_some(), std::cmp::Reverse(value));
    let latest = by(&|one, two| one.1.cmp(&two.1).then(down(one.2).cmp(&down(two.2))));
    let least = by(&|one, two| last(one.3).cmp(&last(two.3)));
    let greatest = by(&|one, two| one.1.cmp(&two.1));
    let count = ints.len() as i64;
    let (sum, squares) = (ints.iter().sum::<i64>(), ints.iter().map(|int| int * int).sum::<i64>());
    let variance =
        (count > 1).then(|| (count * squares - sum * sum) as f64 / (count * (count - 1)) as f64);
    // The floats are multiples of 1/8.
    let eighths: Vec<i64> = floats.iter().map(|float| (float * 8.0) as i64).collect();
    let (number, of) = (eighths.len() as i64, eighths.iter().sum::<i64>());
    let deviation = (number > 0).then(|| {
        let square: i64 = eighths.iter().map(|eighth| eighth * eighth).sum();
        ((number * square - of * of) as f64 / (64 * number * number) as f64).sqrt()
    });
    let at =
        |share: f64, length: usize| ((share * length as f64).ceil() as usize).clamp(1, length) - 1;
    let rough = |value: f64| f64::from_bits(value.to_bits() & !((1 << 45) - 1)) + 0.0;
    let median = (!ints.is_empty()).then(|| rough(sorted_ints[at(0.5, ints.len())] as f64));
    let most = (!floats.is_empty()).then(|| rough(sorted[at(0.9, floats.len())]));
    let distinct: BTreeSet<&str> = texts.iter().copied().collect();
    let cells = [
        key.to_owned(),
        text(ints.iter().min()),
        text(ints.iter().max()),
        text(texts.iter().min()),
        text(texts.iter().max()),
        text(sorted.first()),
        text(sorted.last()),
        distinct.len().to_string(),
        ints.iter().collect::<BTreeSet<_>>().len().to_string(),
        distinct.len().to_string(),
        text(rows.first().and_then(|(_, row)| row.1)),
        text(rows.last().and_then(|(_, row)| row.2)),
        text(first.first().and_then(|row| row.1)),
        text(latest.last().and_then(|row| row.1)),
        text(least.first().filter(|row| row.3.is_some()).and_then(|row| row.1)),
        text(greatest.last().filter(|row| row.1.is_some()).and_then(|row| row.2)),
        text(variance),
        text(deviation),
        text(median),
        text(most),
    ];
    cells.join(" ")
}

/// One worker; two that pass memory; three that pass bytes, as between processes.
fn configs() -> [Config; 3] {
    let binary = CommunicationConfig::ProcessBinary(3);
    let binary = Config { communication: binary, worker: timely::WorkerConfig::default() };
    [Config::thread(), Config::process(2), binary]
}

#[track_caller]
fn check(taken_back: TakenBack, epochs: &[Epoch]) {
    let expected = oracle(epochs);
    for config in configs() {
        assert_eq!(run(config, taken_back, epochs), expected, "{taken_back:?}");
    }
}

fn any_row() -> impl Strategy<Value = Row> {
    let key = prop_oneof![Just("a"), Just("b")];
    let text = proptest::option::of(prop_oneof![
        Just("x"),
        Just("y"),
        Just(""),
        Just("\u{1}z"),
        Just("a-text-that-is-not-inline"),
    ]);
    let float = proptest::option::of((-400..400_i32).prop_map(|eighths| f64::from(eighths) / 8.0));
    (key, text, proptest::option::of(-4..600_i64), float)
}

/// A file: its chunks of rows.
fn any_file() -> impl Strategy<Value = Vec<Vec<Row>>> {
    proptest::collection::vec(proptest::collection::vec(any_row(), 0..6), 1..4)
}

fn chunks(submission: u64, diff: i64, file: &[Vec<Row>]) -> Epoch {
    let chunk = |(chunk, rows): (usize, &Vec<Row>)| Chunk {
        diff,
        submission,
        chunk: chunk as u64,
        rows: rows.iter().enumerate().map(|(at, row)| (at as u64 * 10, *row)).collect(),
    };
    file.iter().enumerate().map(chunk).collect()
}

/// What happens to some file that is there.
#[derive(Clone, Debug)]
enum Step {
    Add(Vec<Vec<Row>>),
    Replace(prop::sample::Index, Vec<Vec<Row>>),
    Remove(prop::sample::Index),
}

fn any_steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => any_file().prop_map(Step::Add),
        3 => (any::<prop::sample::Index>(), any_file()).prop_map(|(at, file)| Step::Replace(at, file)),
        2 => any::<prop::sample::Index>().prop_map(Step::Remove),
    ];
    proptest::collection::vec(step, 1..12)
}

/// Turns steps into epochs; each new version of a file is a submission of its own.
fn epochs_of(steps: &[Step]) -> Vec<Epoch> {
    let mut there: Vec<(u64, Vec<Vec<Row>>)> = Vec::new();
    let mut epochs = Vec::new();
    for (at, step) in steps.iter().enumerate() {
        let submission = at as u64 + 1;
        let mut epoch = Epoch::new();
        let (old, new) = match step {
            Step::Add(file) => (None, Some(file)),
            Step::Replace(index, file) => (Some(index), Some(file)),
            Step::Remove(index) => (Some(index), None),
        };
        if let Some(index) = old
            && !there.is_empty()
        {
            let (submission, file) = there.swap_remove(index.index(there.len()));
            epoch.extend(chunks(submission, -1, &file));
        }
        if let Some(file) = new {
            epoch.extend(chunks(submission, 1, file));
            there.push((submission, file.clone()));
        }
        epochs.push(epoch);
    }
    epochs
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn oracle_files_that_are_added_replaced_and_removed(steps in any_steps()) {
        check(TakenBack::ByFile, &epochs_of(&steps));
    }

    #[test]
    fn oracle_rows_that_are_taken_back_one_by_one(
        steps in any_steps(),
        back in proptest::collection::vec(any::<prop::sample::Index>(), 0..12),
    ) {
        let mut epochs = epochs_of(&steps);
        let mut there: Vec<Chunk> = Vec::new();
        for chunk in epochs.iter().flatten() {
            let one = |row: &(u64, Row)| Chunk { diff: 1, rows: vec![*row], ..chunk.clone() };
            for chunk_of_one in chunk.rows.iter().map(one) {
                if chunk.diff == 1 {
                    there.push(chunk_of_one);
                } else {
                    let same = |other: &Chunk| {
                        (other.submission, other.chunk, other.rows[0].0)
                            == (chunk_of_one.submission, chunk_of_one.chunk, chunk_of_one.rows[0].0)
                    };
                    let found = there.iter().position(same).unwrap();
                    there.swap_remove(found);
                }
            }
        }
        for index in back {
            if !there.is_empty() {
                let row = there.swap_remove(index.index(there.len()));
                epochs.push(vec![Chunk { diff: -1, ..row }]);
            }
        }
        check(TakenBack::ByRow, &epochs);
    }

    #[test]
    fn oracle_files_that_are_only_added(files in proptest::collection::vec(any_file(), 1..6)) {
        let add = |(at, file): (usize, &Vec<Vec<Row>>)| chunks(at as u64 + 1, 1, file);
        let epochs: Vec<Epoch> = files.iter().enumerate().map(add).collect();
        check(TakenBack::Never, &epochs);
        check(TakenBack::ByFile, &epochs);
    }
}

fn rows(ints: &[i64]) -> Vec<Vec<Row>> {
    vec![ints.iter().map(|int| ("a", Some("x"), Some(*int), None)).collect()]
}

#[test]
fn a_minimum_comes_back_when_a_better_one_is_taken_back() {
    let epochs = [
        chunks(1, 1, &rows(&[7, 9])),
        chunks(2, 1, &rows(&[3, 20])),
        [chunks(2, -1, &rows(&[3, 20])), chunks(3, 1, &rows(&[8]))].concat(),
    ];
    for config in configs() {
        let changes = run(config, TakenBack::ByFile, &epochs);
        let least: Vec<(u64, i64, &str)> = changes
            .iter()
            .flat_map(|(epoch, rows)| rows.iter().map(|(diff, row)| (*epoch, *diff, row)))
            .map(|(epoch, diff, row)| (epoch, diff, row.split(' ').nth(1).unwrap()))
            .collect();
        assert_eq!(least, [(1, 1, "7"), (2, -1, "7"), (2, 1, "3"), (3, -1, "3"), (3, 1, "7")]);
    }
}

#[test]
fn the_last_file_takes_everything_with_it() {
    let file = rows(&[1, 2, 3]);
    let changes =
        run(Config::process(2), TakenBack::ByFile, &[chunks(1, 1, &file), chunks(1, -1, &file)]);
    assert_eq!(changes[&2].len(), 1);
    assert_eq!(changes[&2][0].0, -1);
}
