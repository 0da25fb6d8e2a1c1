//! Joins as dataflows: compared with nested loops over everything, on one worker and on several.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{Array, ArrayRef, Int64Array, RecordBatch, StringViewArray, UInt64Array};
use proptest::prelude::*;
use proptest::sample::Index;
use tidemill_operators::batch::Shape;
use tidemill_operators::join::{JoinSpec, Kind, Sides, TooManyRows, join, part_nulls};
use tidemill_operators::keyed::{Arrival, Inputs, RowLayout, arrange, gather};
use tidemill_operators::meter::Meter;
use tidemill_operators::tally::{Counts, Tallies, Tally};
use tidemill_operators::{Batch, Column, Origin, Schema, Time, Type};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::operators::vec::Broadcast;
use timely::dataflow::operators::{Input, Inspect, Probe};
use timely::dataflow::{InputHandle, Stream, StreamVec};
use timely::{CommunicationConfig, Config};

/// The two key columns.
type Pair = (Option<&'static str>, Option<i64>);
/// A row of either side: its key and one more column.
type Row = (Pair, i64);

/// One file: what it takes back and what it brings on each side, and whether it is poisoned.
#[derive(Clone, Debug, Default)]
struct File {
    left: Vec<(i64, Row)>,
    right: Vec<(i64, Row)>,
    poisoned: bool,
}

/// What one epoch changes: `-1` and `+1` rows as text, sorted.
type Changes = BTreeMap<u64, Vec<(i64, String)>>;

/// How long a worker sleeps for that has nothing to do: other tests run beside this one.
const PARKED: Option<Duration> = Some(Duration::from_millis(5));

const KINDS: [Kind; 4] = [Kind::Inner, Kind::Left, Kind::Semi, Kind::Anti];

fn keys() -> Vec<Column> {
    vec![Column::new("name", Type::String), Column::new("number", Type::Int)]
}

fn schema(value: &str) -> Schema {
    let mut columns = keys();
    columns.push(Column::new(value, Type::Int));
    Schema::new(columns)
}

fn spec(kind: Kind, place: bool) -> JoinSpec {
    let mut out = schema("left").columns().to_vec();
    let right = if kind.takes_right() { vec![Column::new("right", Type::Int)] } else { vec![] };
    out.extend(right.iter().cloned());
    JoinSpec {
        kind,
        keys: keys(),
        left: RowLayout {
            arrival: place.then_some(Arrival::First),
            columns: vec![Column::new("left", Type::Int)],
            ..RowLayout::default()
        },
        right,
        shape: Shape { schema: Schema::new(out), raw: false, positions: place },
        rows_max: u64::MAX,
    }
}

fn batch(value: &str, rows: &[Row], diff: i64, chunk: u64) -> Batch {
    let arrays: Vec<ArrayRef> = vec![
        Arc::new(rows.iter().map(|row| row.0.0).collect::<StringViewArray>()),
        Arc::new(rows.iter().map(|row| row.0.1).collect::<Int64Array>()),
        Arc::new(rows.iter().map(|row| Some(row.1)).collect::<Int64Array>()),
    ];
    let columns = RecordBatch::try_new(schema(value).arrow(), arrays).unwrap();
    let origin = Origin { submission: chunk + 100, chunk, offset: 0 };
    // A row stands where its number says, whichever file brings it or takes it back.
    let positions: UInt64Array = rows.iter().map(|row| row.1.cast_unsigned()).collect();
    Batch { columns, raw: None, positions: Some(positions), diff, origin }
}

fn inputs(batch: &Batch, columns: usize) -> Inputs {
    let column = |at: usize| Arc::clone(batch.columns.column(at));
    Inputs {
        keys: (0..2).map(column).collect(),
        values: (2..2 + columns).map(column).collect(),
        ..Inputs::default()
    }
}

fn cell(column: &ArrayRef, row: usize) -> String {
    if column.is_null(row) {
        return "NULL".into();
    }
    match column.as_string_view_opt() {
        Some(array) => array.value(row).to_owned(),
        None => column.as_primitive::<Int64Type>().value(row).to_string(),
    }
}

type Rows<'s> = Stream<'s, Time, Batch>;

/// Builds a join as the engine does.
fn build<'s>(
    sides: (Rows<'s>, Rows<'s>),
    poison: StreamVec<'s, Time, u64>,
    spec: &JoinSpec,
    tally: &Tally,
    too_many: impl FnMut(TooManyRows) + 'static,
) -> Rows<'s> {
    let right = RowLayout::plain(spec.right.clone());
    let columns = right.columns.len();
    let (left, _) = gather(
        "left",
        "join",
        sides.0,
        poison.clone(),
        spec.left.clone(),
        tally.clone(),
        |batch| inputs(batch, 1),
    );
    let (right, _) = gather("right", "join", sides.1, poison, right, tally.clone(), move |batch| {
        inputs(batch, columns)
    });
    let (left, alone) = part_nulls(left, &spec.keys);
    // The engine drops these before they are gathered.
    let (right, _) = part_nulls(right, &spec.keys);
    let sides = Sides {
        left: arrange("left", left),
        right: arrange("right", right),
        alone: spec.kind.gives_alone().then_some(alone),
        counts: [true; 2],
    };
    join("test", sides, spec.clone(), tally.clone(), too_many).0
}

/// Runs the files through a join; row `r` is read by worker `r` modulo their number. `wait` says
/// after how many files the dataflow is waited for.
fn run(config: Config, spec: &JoinSpec, files: &[File], wait: usize) -> (Changes, Vec<Counts>) {
    type Rows = Vec<(usize, Time, i64, String)>;
    let said: Arc<Mutex<Rows>> = Arc::default();
    let counted: Arc<Mutex<Vec<Counts>>> = Arc::default();
    let (told, counts) = (Arc::clone(&said), Arc::clone(&counted));
    let (spec, files) = (spec.clone(), files.to_vec());
    let guards = timely::execute(config, move |worker| {
        let (index, peers) = (worker.index(), worker.peers());
        let tallies = Tallies::default();
        let mut left = InputHandle::<Time, CapacityContainerBuilder<Batch>>::new();
        let mut right = InputHandle::<Time, CapacityContainerBuilder<Batch>>::new();
        let mut poison = InputHandle::<Time, CapacityContainerBuilder<Vec<u64>>>::new();
        let probe = worker.dataflow::<Time, _, _>(|scope| {
            let sides = (scope.input_from(&mut left), scope.input_from(&mut right));
            let poisoned = scope.input_from(&mut poison).broadcast();
            let tally = tallies.node(0, Meter::new(1));
            let rows = build(sides, poisoned, &spec, &tally, |_| {});
            let (told, spec) = (Arc::clone(&told), spec.clone());
            let rows = rows.inspect_core(move |event| {
                let Ok((stamp, batch)) = event else { return };
                let time = stamp.elements()[0];
                assert_eq!(time, Time::end(time.epoch));
                assert_eq!(batch.columns.schema(), spec.shape.schema.arrow());
                for row in 0..batch.len() {
                    let cells = batch.columns.columns().iter().map(|one| cell(one, row));
                    let text = cells.collect::<Vec<_>>().join(" ");
                    if let Some(positions) = &batch.positions {
                        let left = cell(batch.columns.column(2), row);
                        assert_eq!(positions.value(row).to_string(), left, "{text}");
                        assert_eq!(batch.origin.submission, batch.origin.chunk + 100);
                    }
                    told.lock().unwrap().push((index, time, batch.diff, text));
                }
            });
            rows.probe().0
        });
        for (at, file) in files.iter().enumerate() {
            let epoch = at as u64 + 1;
            for diff in [-1, 1] {
                let chunk = u64::from(diff == 1);
                for (input, value, rows) in
                    [(&mut left, "left", &file.left), (&mut right, "right", &file.right)]
                {
                    input.advance_to(Time::new(epoch, chunk));
                    let mine = rows.iter().enumerate().filter(|(row, _)| row % peers == index);
                    let mine: Vec<Row> =
                        mine.filter(|(_, row)| row.0 == diff).map(|(_, row)| row.1).collect();
                    for rows in mine.chunks(5) {
                        input.send_batch(&mut batch(value, rows, diff, 0));
                    }
                }
            }
            poison.advance_to(Time::new(epoch, 0));
            if file.poisoned && epoch as usize % peers == index {
                poison.send(epoch);
            }
            left.advance_to(Time::new(epoch + 1, 0));
            right.advance_to(Time::new(epoch + 1, 0));
            if at % wait == 0 {
                poison.advance_to(Time::new(epoch + 1, 0));
                worker.step_or_park_while(PARKED, || probe.less_than(&Time::new(epoch + 1, 0)));
            }
        }
        drop((left, right, poison));
        worker.step_or_park_while(PARKED, || !probe.done());
        let mine = tallies.take_before(None).into_iter().flat_map(|epoch| epoch.nodes);
        counts.lock().unwrap().extend(mine.map(|(_, counts)| counts));
    });
    guards.unwrap().join().into_iter().for_each(|result| result.unwrap());
    let said = std::mem::take(&mut *said.lock().unwrap());
    // Each worker says first what goes, then what comes.
    let mut last = BTreeMap::new();
    for (worker, time, diff, text) in &said {
        let now = (*time, *diff);
        let before = last.insert(*worker, now).unwrap_or(now);
        assert!(before <= now, "{before:?} {now:?} {text}");
    }
    let mut changes = Changes::new();
    for (_, time, diff, text) in said {
        changes.entry(time.epoch).or_default().push((diff, text));
    }
    changes.values_mut().for_each(|one| one.sort());
    (changes, std::mem::take(&mut *counted.lock().unwrap()))
}

fn text(pair: Pair) -> String {
    let number = pair.1.map_or("NULL".into(), |number| number.to_string());
    format!("{} {number}", pair.0.unwrap_or("NULL"))
}

/// The slow obvious program: keeps every row and joins everything anew after each file.
fn oracle(kind: Kind, files: &[File]) -> Changes {
    let (mut left, mut right): (Vec<Row>, Vec<Row>) = Default::default();
    let mut changes = Changes::new();
    let mut before = BTreeMap::<String, i64>::new();
    for (at, file) in files.iter().enumerate().filter(|(_, file)| !file.poisoned) {
        for (rows, changed) in [(&mut left, &file.left), (&mut right, &file.right)] {
            rows.extend(changed.iter().filter(|row| row.0 == 1).map(|row| row.1));
            for (_, row) in changed.iter().filter(|row| row.0 == -1) {
                rows.swap_remove(rows.iter().position(|one| one == row).unwrap());
            }
        }
        let mut after = BTreeMap::new();
        let mut say = |row: String| *after.entry(row).or_default() += 1;
        for (pair, id) in &left {
            let equal = |other: &&Row| pair.0.is_some() && pair.1.is_some() && other.0 == *pair;
            let partners: Vec<&Row> = right.iter().filter(equal).collect();
            let row = format!("{} {id}", text(*pair));
            match kind {
                Kind::Inner | Kind::Left => {
                    partners.iter().for_each(|partner| say(format!("{row} {}", partner.1)));
                    if partners.is_empty() && kind == Kind::Left {
                        say(format!("{row} NULL"));
                    }
                }
                Kind::Semi if !partners.is_empty() => say(row),
                Kind::Anti if partners.is_empty() => say(row),
                Kind::Semi | Kind::Anti => {}
            }
        }
        let mut changed = Vec::new();
        let rows: std::collections::BTreeSet<&String> = before.keys().chain(after.keys()).collect();
        for row in rows {
            let count = |rows: &BTreeMap<String, i64>| rows.get(row).copied().unwrap_or_default();
            let change = count(&after) - count(&before);
            changed.extend((0..change.abs()).map(|_| (change.signum(), row.clone())));
        }
        changed.sort();
        if !changed.is_empty() {
            changes.insert(at as u64 + 1, changed);
        }
        before = after;
    }
    changes
}

/// One worker; two that pass memory; three that pass bytes, as between processes.
fn configs() -> [Config; 3] {
    let binary = CommunicationConfig::ProcessBinary(3);
    let binary = Config { communication: binary, worker: timely::WorkerConfig::default() };
    [Config::thread(), Config::process(2), binary]
}

/// Checks that every kind of join says what the oracle says, each on another number of workers.
#[track_caller]
fn check(files: &[File], turn: usize) {
    for (at, kind) in KINDS.into_iter().enumerate() {
        let expected = oracle(kind, files);
        let config = configs()[(at + turn) % 3].clone();
        let wait = [1, 3, 100][(at / 3 + turn) % 3];
        let (changes, counts) = run(config, &spec(kind, turn.is_multiple_of(2)), files, wait);
        assert_eq!(changes, expected, "{kind:?}");
        check_counts(&counts, files, &expected);
    }
}

/// Checks that rows that came are counted as taken and merged, and those that were given as given;
/// what was taken back counts nowhere.
#[track_caller]
fn check_counts(counts: &[Counts], files: &[File], changes: &Changes) {
    let sum = |count: fn(&Counts) -> u64| counts.iter().map(count).sum::<u64>();
    let rows = |file: &File| file.left.iter().chain(&file.right).filter(|row| row.0 == 1).count();
    let taken: usize = files.iter().map(rows).sum();
    let given = changes.values().flatten().filter(|row| row.0 == 1).count();
    assert_eq!(sum(|counts| counts.taken), taken as u64, "taken");
    if files.iter().all(|file| !file.poisoned) {
        assert_eq!(sum(|counts| counts.merged), taken as u64, "merged");
    }
    assert_eq!(sum(|counts| counts.given.iter().sum()), given as u64, "given");
}

/// What files do: rows that come on either side, which of those that are there go, poison.
type Doing = (Vec<Row>, Vec<Row>, Vec<Index>, Vec<Index>, bool);

fn files_of(doings: Vec<Doing>) -> Vec<File> {
    let (mut left, mut right): (Vec<Row>, Vec<Row>) = Default::default();
    let mut files = Vec::new();
    for (come_left, come_right, go_left, go_right, poisoned) in doings {
        let side = |there: &mut Vec<Row>, come: Vec<Row>, go: Vec<Index>| {
            let old = there.clone();
            let mut changed = Vec::new();
            for index in go.iter().filter(|_| !old.is_empty()) {
                if !there.is_empty() {
                    changed.push((-1, there.swap_remove(index.index(there.len()))));
                }
            }
            changed.extend(come.iter().map(|row| (1, *row)));
            there.extend(come);
            if poisoned {
                *there = old;
            }
            changed
        };
        let left = side(&mut left, come_left, go_left);
        let right = side(&mut right, come_right, go_right);
        files.push(File { left, right, poisoned });
    }
    files
}

fn any_row() -> impl Strategy<Value = Row> {
    let name = prop_oneof![
        1 => Just(None),
        4 => Just(Some("a")),
        2 => Just(Some("b")),
        1 => Just(Some("")),
    ];
    let number = prop_oneof![1 => Just(None), 5 => Just(Some(1)), 2 => Just(Some(-7))];
    ((name, number), 0..4_i64)
}

fn any_files() -> impl Strategy<Value = Vec<File>> {
    let rows = || {
        let some = proptest::collection::vec(any_row(), 0..12);
        prop_oneof![1 => Just(Vec::new()), 2 => some]
    };
    let go = || {
        let some = proptest::collection::vec(any::<Index>(), 0..12);
        prop_oneof![2 => Just(Vec::new()), 1 => some]
    };
    let doing = (rows(), rows(), go(), go(), proptest::bool::weighted(0.15));
    proptest::collection::vec(doing, 1..9).prop_map(files_of)
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 100, ..ProptestConfig::with_cases(32) })]

    #[test]
    fn oracle_any_changes_of_both_sides_on_any_number_of_workers(
        files in any_files(),
        turn in 0..6_usize,
    ) {
        check(&files, turn);
    }
}

const A: Pair = (Some("a"), Some(1));

fn file(left: &[(i64, Row)], right: &[(i64, Row)]) -> File {
    File { left: left.to_vec(), right: right.to_vec(), poisoned: false }
}

fn changes(kind: Kind, files: &[File]) -> Vec<(u64, i64, String)> {
    let changes = run(Config::process(2), &spec(kind, false), files, 1).0;
    let flat = |(epoch, rows): (u64, Vec<(i64, String)>)| {
        rows.into_iter().map(move |(diff, text)| (epoch, diff, text))
    };
    changes.into_iter().flat_map(flat).collect()
}

#[test]
fn a_lookup_that_comes_late_completes_the_rows_before_it() {
    let files = [file(&[(1, (A, 7))], &[]), file(&[], &[(1, (A, 9))])];
    let row = |epoch, diff, text: &str| (epoch, diff, text.to_owned());
    assert_eq!(changes(Kind::Inner, &files), [row(2, 1, "a 1 7 9")]);
    assert_eq!(
        changes(Kind::Left, &files),
        [row(1, 1, "a 1 7 NULL"), row(2, -1, "a 1 7 NULL"), row(2, 1, "a 1 7 9")]
    );
}

#[test]
fn a_lookup_that_is_replaced_by_itself_says_nothing() {
    let lookup = [(1, (A, 1)), (1, (A, 2)), (1, ((Some("b"), Some(1)), 3))];
    let mut again: Vec<(i64, Row)> = lookup.iter().map(|(_, row)| (-1, *row)).collect();
    again.extend(lookup);
    let files = [file(&[(1, (A, 7)), (1, (A, 8))], &[]), file(&[], &lookup), file(&[], &again)];
    for kind in KINDS {
        assert!(changes(kind, &files).iter().all(|change| change.0 < 3), "{kind:?}");
    }
}

#[test]
fn a_file_may_change_both_sides_at_once() {
    // The left row changes, and so does its partner: nothing is said of the two pairs that never were.
    let files = [
        file(&[(1, (A, 1))], &[(1, (A, 1))]),
        file(&[(-1, (A, 1)), (1, (A, 2))], &[(-1, (A, 1)), (1, (A, 2))]),
    ];
    let second: Vec<_> =
        changes(Kind::Inner, &files).into_iter().filter(|one| one.0 == 2).collect();
    assert_eq!(second, [(2, -1, "a 1 1 1".to_owned()), (2, 1, "a 1 2 2".to_owned())]);
}

#[test]
fn a_product_of_many_rows_leaves_in_turns_and_whole() {
    let left: Vec<_> = (0..300).map(|id| (1, (A, id))).collect();
    let right: Vec<_> = (0..300).map(|id| (1, (A, id))).collect();
    let back: Vec<_> = right.iter().map(|(_, row)| (-1, *row)).collect();
    let files = [file(&left, &[]), file(&[], &right), file(&[], &back)];
    let (changes, _) = run(Config::process(2), &spec(Kind::Left, false), &files, 1);
    let counts = |epoch: u64, sign: i64| changes[&epoch].iter().filter(|row| row.0 == sign).count();
    assert_eq!((counts(1, 1), counts(2, -1), counts(2, 1)), (300, 300, 90_000));
    assert_eq!((counts(3, -1), counts(3, 1)), (90_000, 300));
}

#[test]
fn the_same_row_many_times_is_given_as_often() {
    let left: Vec<_> = (0..150).map(|_| (1, (A, 1))).collect();
    let right: Vec<_> = (0..200).map(|_| (1, (A, 2))).collect();
    let (changes, _) = run(Config::thread(), &spec(Kind::Inner, false), &[file(&left, &right)], 1);
    assert_eq!(changes[&1].len(), 30_000);
}

#[test]
fn a_row_that_is_taken_back_had_to_be_given() {
    let ends = |back: Row| {
        let files = [file(&[(1, (A, 1))], &[]), file(&[(-1, back)], &[])];
        let run = move || run(Config::thread(), &spec(Kind::Inner, false), &files, 1);
        std::panic::catch_unwind(run).is_ok()
    };
    assert!(ends((A, 1)));
    assert!(!ends((A, 2)), "the walk must end the process");
}

/// What a product of two sides of one key did: how many rows left in all, how many in one step of the
/// worker at most, how many epochs are through, and what was said to be too much.
fn product(rows: i64, rows_max: u64) -> (usize, usize, u64, Vec<TooManyRows>) {
    timely::execute_directly(move |worker| {
        let spec = JoinSpec { rows_max, ..spec(Kind::Inner, false) };
        let (given, told) = (Rc::new(Cell::new(0)), Rc::new(RefCell::new(Vec::new())));
        let (counting, telling) = (Rc::clone(&given), Rc::clone(&told));
        let tally = Tally::alone(Meter::new(1));
        let (mut left, mut right, mut poison, probe) = worker.dataflow::<Time, _, _>(|scope| {
            let (left, left_rows) = scope.new_input::<Batch>();
            let (right, right_rows) = scope.new_input::<Batch>();
            let (poison, poisoned) = scope.new_input::<Vec<u64>>();
            let tell = move |one| telling.borrow_mut().push(one);
            let joined = build((left_rows, right_rows), poisoned, &spec, &tally, tell);
            let probe = joined
                .inspect_core(move |event| {
                    let Ok((_, batch)) = event else { return };
                    counting.set(counting.get() + batch.len());
                })
                .probe()
                .0;
            (left, right, poison, probe)
        });
        let side: Vec<Row> = (0..rows).map(|row| ((Some("hot"), Some(7)), row)).collect();
        let mut most = 0;
        for epoch in 1..=2 {
            left.advance_to(Time::new(epoch, 0));
            right.advance_to(Time::new(epoch, 0));
            poison.advance_to(Time::new(epoch + 1, 0));
            if epoch == 1 {
                left.send_batch(&mut batch("left", &side, 1, 0));
            } else {
                right.send_batch(&mut batch("right", &side, 1, 0));
            }
        }
        for input in [&mut left, &mut right] {
            input.advance_to(Time::new(3, 0));
        }
        // What was given up never ends, so it is stepped often enough and no more.
        for _ in 0..rows {
            let before = given.get();
            worker.step();
            most = most.max(given.get() - before);
        }
        let through = probe.with_frontier(|frontier| frontier[0].epoch - 1);
        drop((left, right, poison));
        if !told.borrow().is_empty() {
            worker.drop_dataflow(0);
        }
        (given.get(), most, through, told.take())
    })
}

#[test]
fn a_product_leaves_a_few_thousand_rows_at_a_time() {
    let (given, most, through, told) = product(1000, 1_000_000);
    assert_eq!((given, through, told), (1_000_000, 2, vec![]));
    assert!(most <= 8 * 1024, "{most} rows in one step");
}

#[test]
fn a_product_that_is_too_large_is_told_and_its_epoch_never_ends() {
    let (given, _, through, told) = product(1000, 200_000);
    assert_eq!((given, through), (200_000, 1));
    let [TooManyRows { epoch: 2, key, left: 1000, right: 1000 }] = &told[..] else {
        panic!("{told:?}");
    };
    assert_eq!(key.text(&keys()), "name=hot, number=7");
}
