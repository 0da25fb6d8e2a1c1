//! Operators that keep the rows of a key, as dataflows: compared with a slow obvious program, on one
//! worker and on several, with rows that are taken back and files that fail; and the same state again
//! out of a checkpoint, on another number of workers.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{
    Array, ArrayRef, BinaryViewArray, Int64Array, RecordBatch, StringViewArray, UInt64Array,
};
use proptest::prelude::*;
use tidemill_operators::batch::{Shape, position};
use tidemill_operators::dedupe::Dedupe;
use tidemill_operators::keep::keep;
use tidemill_operators::key::Key;
use tidemill_operators::keyed::{
    Arrival, Direction, Incoming, Inputs, KeptPacked, Logic, Nulls, OrderColumn, Port, RowLayout,
    Said, arrange, changes, decode_kept, gather,
};
use tidemill_operators::meter::Meter;
use tidemill_operators::reject::Standing;
use tidemill_operators::rounds::Rounds;
use tidemill_operators::shards::{Mark, ShardSet, ShardSink, shard_of};
use tidemill_operators::tally::Tally;
use tidemill_operators::top::{Rank, Top};
use tidemill_operators::{Batch, Column, OnError, Origin, Reject, RejectCode, Schema, Time, Type};
use timely::dataflow::InputHandle;
use timely::dataflow::operators::vec::Broadcast;
use timely::dataflow::operators::{Concat, Input, Inspect, Probe};
use timely::scheduling::activate::SyncActivator;
use timely::{CommunicationConfig, Config};

/// `id`, `score`, and a text that tells rows apart (or not).
type Row = (Option<&'static str>, Option<i64>, &'static str);

/// One file: its chunks with their differences and the submission they came in first.
#[derive(Clone, Debug, Default)]
struct File {
    chunks: Vec<Chunk>,
    poisoned: bool,
}

#[derive(Clone, Debug)]
struct Chunk {
    submission: u64,
    number: u64,
    diff: i64,
    rows: Vec<Row>,
}

/// What is to be found out.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Asked {
    Dedupe(Arrival),
    Duplicates,
    Top(u64, Rank),
}

#[derive(Clone, Copy, Debug)]
struct Case {
    asked: Asked,
    /// What orders the rows of a key besides their arrival.
    order: Option<(Direction, Nulls)>,
    /// Whether the rows have a place.
    placed: bool,
}

/// What one epoch changes: port, diff, row as text.
type Changes = BTreeMap<u64, Vec<(usize, i64, String)>>;

fn layout(case: Case) -> RowLayout {
    let arrival = match case.asked {
        Asked::Dedupe(arrival) => arrival,
        _ => Arrival::First,
    };
    let order =
        case.order.map(|(direction, nulls)| OrderColumn { kind: Type::Int, direction, nulls });
    RowLayout {
        order: order.into_iter().collect(),
        arrival: case.placed.then_some(arrival),
        columns: vec![Column::new("score", Type::Int), Column::new("text", Type::String)],
        raw: case.placed,
        tail: Vec::new(),
    }
}

fn ports(case: Case) -> Vec<Port> {
    let mut layout = layout(case);
    let mut columns = vec![
        Column::new("id", Type::String),
        Column::new("score", Type::Int),
        Column::new("text", Type::String),
    ];
    if let Asked::Top(_, Rank::Tail) = case.asked {
        layout.tail.push(Column::new("rank", Type::Int));
        columns.push(Column::new("rank", Type::Int));
    }
    let shape = Shape { schema: Schema::new(columns), raw: case.placed, positions: case.placed };
    let port = Port { layout, shape, used: true };
    if matches!(case.asked, Asked::Duplicates) { vec![port.clone(), port] } else { vec![port] }
}

fn batch(chunk: &Chunk) -> Batch {
    let columns = vec![
        Column::new("id", Type::String),
        Column::new("score", Type::Int),
        Column::new("text", Type::String),
    ];
    let arrays: Vec<ArrayRef> = vec![
        Arc::new(chunk.rows.iter().map(|row| row.0).collect::<StringViewArray>()),
        Arc::new(chunk.rows.iter().map(|row| row.1).collect::<Int64Array>()),
        Arc::new(chunk.rows.iter().map(|row| Some(row.2)).collect::<StringViewArray>()),
    ];
    let raw: BinaryViewArray = chunk.rows.iter().map(|row| Some(row.2.as_bytes())).collect();
    let positions = (0..chunk.rows.len() as u32).map(|line| position(line, line * 7));
    Batch {
        columns: RecordBatch::try_new(Schema::new(columns).arrow(), arrays).unwrap(),
        raw: Some(raw),
        positions: Some(positions.collect::<UInt64Array>()),
        diff: chunk.diff,
        origin: origin(chunk.submission, chunk.number),
    }
}

fn origin(submission: u64, chunk: u64) -> Origin {
    Origin { submission, chunk, offset: chunk * 1000 }
}

/// Reads columns; the text `bad` stands for an expression that fails.
fn evaluate(case: Case, batch: &Batch) -> Inputs {
    let column = |at: usize| Arc::clone(batch.columns.column(at));
    let texts = batch.columns.column(2).as_string_view();
    let skip: arrow_array::BooleanArray =
        texts.iter().map(|text| Some(text == Some("bad"))).collect();
    let rejects = (0..batch.len()).filter(|row| skip.value(*row)).map(|row| Reject {
        line: row as u32,
        offset: 0,
        round: 0,
        operator: String::new(),
        code: RejectCode::Expression,
        message: "bad".into(),
        raw: vec![],
        on_error: OnError::Reject,
    });
    Inputs {
        keys: vec![column(0)],
        order: case.order.iter().map(|_| column(1)).collect(),
        values: vec![column(1), column(2)],
        rejects: rejects.collect(),
        skip: Some(skip),
    }
}

fn text_of(batch: &Batch, row: usize) -> String {
    let cell = |column: &ArrayRef| {
        if column.is_null(row) {
            return "NULL".to_owned();
        }
        match column.as_string_view_opt() {
            Some(texts) => texts.value(row).to_owned(),
            None => column.as_primitive::<Int64Type>().value(row).to_string(),
        }
    };
    let cells: Vec<String> = batch.columns.columns().iter().map(cell).collect();
    let mut text = cells.join(" ");
    if let Some(positions) = &batch.positions {
        let Origin { submission, chunk, offset } = batch.origin;
        assert_eq!(batch.raw.as_ref().unwrap().value(row), cells[2].as_bytes());
        text += &format!(" @{submission}:{chunk}+{offset}:{:x}", positions.value(row));
    }
    text
}

/// Blocks of kept rows, each with its shard.
type Blocks = Arc<Mutex<Vec<(u8, Vec<u8>)>>>;

/// Keeps what it is given in memory.
struct Memory {
    written: Blocks,
    ended: bool,
}

impl ShardSink for Memory {
    type Part = u64;

    fn begin(&mut self, _mark: Mark, _shards: &ShardSet) {}

    fn has_room(&self) -> bool {
        true
    }

    fn rows(&mut self, shard: u8, _count: u32, bytes: Vec<u8>) {
        self.written.lock().unwrap().push((shard, bytes));
    }

    fn end(&mut self) {
        self.ended = true;
    }

    fn written(&mut self) -> Option<u64> {
        std::mem::take(&mut self.ended).then_some(1)
    }
}

/// A run: the files from some epoch on, what is restored before, and what is kept in the end.
#[derive(Clone)]
struct Run {
    case: Case,
    files: Vec<File>,
    first: u64,
    restored: Vec<((Key, Key), i64)>,
}

#[derive(Default)]
struct Outcome {
    changes: Changes,
    /// Those of records that came, and those of records that were taken back.
    rejects: [usize; 2],
    kept: Vec<((Key, Key), i64)>,
}

fn logic(asked: Asked) -> Box<dyn Logic> {
    match asked {
        Asked::Dedupe(_) => Box::new(Dedupe::First),
        Asked::Duplicates => Box::new(Dedupe::Both),
        Asked::Top(count, rank) => Box::new(Top { count, rank }),
    }
}

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

/// Chunk `c` is read by worker `c` modulo their number.
fn run(config: Config, run: &Run) -> Outcome {
    let told: Arc<Mutex<Outcome>> = Arc::default();
    let written = Arc::new(Mutex::new(Vec::new()));
    let (telling, writing, run) = (Arc::clone(&told), Arc::clone(&written), run.clone());
    let case = run.case;
    let guards = timely::execute(config, move |worker| {
        let index = worker.index();
        let mut poison = InputHandle::new();
        let mut marks = InputHandle::new();
        let mut restored = InputHandle::new();
        let (telling, writing) = (Arc::clone(&telling), Arc::clone(&writing));
        let (mut rows, probe) = worker.dataflow::<Time, _, _>(|scope| {
            let (rows, stream) = scope.new_input::<Batch>();
            let poisoned = scope.input_from(&mut poison).broadcast();
            let tally = Tally::alone(Meter::new(2));
            let incoming = Incoming { rows: stream, poison: poisoned, rounds: Rounds::default() };
            let (updates, rejects) =
                gather("t", "t", incoming, layout(case), tally.clone(), move |batch| {
                    evaluate(case, batch)
                });
            let rejected = Arc::clone(&telling);
            rejects.inspect(move |one| {
                let at = usize::from(one.standing == Standing::TakenBack);
                rejected.lock().unwrap().rejects[at] += one.rejects.len();
            });
            let arranged = arrange("t", updates.concat(scope.input_from(&mut restored)));
            let marks = scope.input_from(&mut marks).broadcast();
            keep::<KeptPacked, _, _>("t", arranged.clone(), marks, |_wake: SyncActivator| Memory {
                written: writing,
                ended: false,
            });
            let keys = [Column::new("id", Type::String)];
            let logic = Boxed(logic(case.asked));
            let tags = changes("Test t", "t", arranged, &keys, ports(case), logic, tally).tags;
            let probe = timely::dataflow::ProbeHandle::new();
            for (port, tag) in tags.into_iter().enumerate() {
                let telling = Arc::clone(&telling);
                let mut last = BTreeMap::new();
                tag.inspect_core(move |event| {
                    let Ok((stamp, batch)) = event else { return };
                    let time = stamp.elements()[0];
                    assert_eq!(time, Time::end(time.epoch));
                    let before = last.insert(time.epoch, batch.diff).unwrap_or(-1);
                    assert!(before <= batch.diff, "what is taken back comes first");
                    let mut told = telling.lock().unwrap();
                    let changes = told.changes.entry(time.epoch).or_default();
                    let rows = (0..batch.len()).map(|row| (port, batch.diff, text_of(batch, row)));
                    changes.extend(rows);
                })
                .probe_with(&probe);
            }
            (rows, probe)
        });
        for (at, ((key, value), times)) in run.restored.iter().enumerate() {
            if at % worker.peers() == index {
                restored.send((
                    (key.clone(), value.clone()),
                    Time::new(0, (at % 3) as u64),
                    *times,
                ));
            }
        }
        restored.close();
        let end = run.first + run.files.len() as u64;
        for (at, file) in run.files.iter().enumerate() {
            let epoch = at as u64 + run.first;
            for (at, chunk) in file.chunks.iter().enumerate() {
                rows.advance_to(Time::new(epoch, at as u64));
                if at % worker.peers() == index && !chunk.rows.is_empty() {
                    rows.send_batch(&mut batch(chunk));
                }
            }
            poison.advance_to(Time::new(epoch, 0));
            if file.poisoned && epoch as usize % worker.peers() == index {
                poison.send(epoch);
            }
            rows.advance_to(Time::new(epoch + 1, 0));
            marks.advance_to(Time::new(epoch + 1, 0));
            if at % 3 == 0 {
                poison.advance_to(Time::new(epoch + 1, 0));
                worker.step_while(|| probe.less_than(&Time::new(epoch + 1, 0)));
            }
        }
        if index == 0 {
            marks.advance_to(Time::new(end, 0));
            marks.send(Mark { epoch: end - 1, full: true });
        }
        drop((rows, poison, marks));
        while worker.step_or_park(None) {}
    });
    for result in guards.unwrap().join() {
        result.unwrap();
    }
    let mut outcome = std::mem::take(&mut *told.lock().unwrap());
    outcome.changes.values_mut().for_each(|one| one.sort());
    for (shard, bytes) in written.lock().unwrap().iter() {
        let keys = [Column::new("id", Type::String)];
        let rows = decode_kept(bytes, &keys, &layout(case)).unwrap();
        assert!(rows.iter().all(|row| shard_of(row.0.0.hash()) == *shard));
        outcome.kept.extend(rows);
    }
    outcome.kept.sort();
    outcome
}

/// The slow obvious program: keeps every row with its place and says everything anew.
fn oracle(case: Case, files: &[File]) -> Changes {
    type Kept = (Row, u64, u64, usize);
    let mut kept: Vec<Kept> = Vec::new();
    let mut before: Vec<(usize, String)> = Vec::new();
    let mut changes = Changes::new();
    for (at, file) in files.iter().enumerate().filter(|(_, file)| !file.poisoned) {
        for chunk in &file.chunks {
            for (line, row) in chunk.rows.iter().enumerate().filter(|(_, row)| row.2 != "bad") {
                let row = (*row, chunk.submission, chunk.number, line);
                if chunk.diff == 1 {
                    kept.push(row);
                } else {
                    let found = kept.iter().position(|one| *one == row).unwrap();
                    kept.remove(found);
                }
            }
        }
        let ids: BTreeSet<Option<&str>> = kept.iter().map(|row| row.0.0).collect();
        let mut after = Vec::new();
        for id in ids {
            let mut rows: Vec<Kept> = kept.iter().filter(|row| row.0.0 == id).copied().collect();
            rows.sort_by(|one, two| compare(case, one, two));
            let told =
                rows.iter().enumerate().filter_map(|(rank, (row, submission, chunk, line))| {
                    let port = match case.asked {
                        Asked::Dedupe(_) => (rank == 0).then_some(0)?,
                        Asked::Duplicates => usize::from(rank > 0),
                        Asked::Top(count, _) => ((rank as u64) < count).then_some(0)?,
                    };
                    let score = row.1.map_or("NULL".into(), |score| score.to_string());
                    let mut text = format!("{} {score} {}", row.0.unwrap_or("NULL"), row.2);
                    if let Asked::Top(_, Rank::Tail) = case.asked {
                        text += &format!(" {}", rank + 1);
                    }
                    if case.placed {
                        let place = position(*line as u32, *line as u32 * 7);
                        text += &format!(" @{submission}:{chunk}+{}:{place:x}", chunk * 1000);
                    }
                    Some((port, text))
                });
            after.extend(told);
        }
        after.sort();
        let mut changed = Vec::new();
        let (mut gone, mut come) = (before.clone(), after.clone());
        for row in &before {
            if let Some(found) = come.iter().position(|one| one == row) {
                come.remove(found);
                let found = gone.iter().position(|one| one == row).unwrap();
                gone.remove(found);
            }
        }
        changed.extend(gone.into_iter().map(|(port, text)| (port, -1, text)));
        changed.extend(come.into_iter().map(|(port, text)| (port, 1, text)));
        changed.sort();
        if !changed.is_empty() {
            changes.insert(at as u64 + 1, changed);
        }
        before = after;
    }
    changes
}

fn compare(
    case: Case,
    one: &(Row, u64, u64, usize),
    two: &(Row, u64, u64, usize),
) -> std::cmp::Ordering {
    use std::cmp::Ordering;
    let nulls =
        |at_first: Nulls| if at_first == Nulls::First { Ordering::Less } else { Ordering::Greater };
    let by_order = match case.order {
        None => Ordering::Equal,
        Some((direction, first)) => match (one.0.1, two.0.1) {
            (None, None) => Ordering::Equal,
            (None, Some(_)) => nulls(first),
            (Some(_), None) => nulls(first).reverse(),
            (Some(one), Some(two)) if direction == Direction::Ascending => one.cmp(&two),
            (Some(one), Some(two)) => two.cmp(&one),
        },
    };
    let by_arrival = if case.placed {
        let order = (one.1, one.2, one.3).cmp(&(two.1, two.2, two.3));
        if case.asked == Asked::Dedupe(Arrival::Last) { order.reverse() } else { order }
    } else {
        Ordering::Equal
    };
    by_order.then(by_arrival).then((one.0.1, one.0.2).cmp(&(two.0.1, two.0.2)))
}

/// One worker; two that pass memory; three that pass bytes, as between processes.
fn configs() -> [Config; 3] {
    let binary = CommunicationConfig::ProcessBinary(3);
    let binary = Config { communication: binary, worker: timely::WorkerConfig::default() };
    [Config::thread(), Config::process(2), binary]
}

/// Checks that every number of workers says what the oracle says, and that a life that ends anywhere
/// is taken up by another number of workers as if it had not ended.
#[track_caller]
fn check(case: Case, files: &[File], cut: usize) {
    let expected = oracle(case, files);
    // What was rejected is told when it comes, and again when it is taken back.
    let bad = |diff: i64| {
        let chunks = files.iter().flat_map(|file| &file.chunks);
        let rows = chunks.filter(|chunk| chunk.diff == diff).flat_map(|chunk| &chunk.rows);
        rows.filter(|row| row.2 == "bad").count()
    };
    let bad = [bad(1), bad(-1)];
    let mut kept = None;
    for config in configs() {
        let whole = Run { case, files: files.to_vec(), first: 1, restored: Vec::new() };
        let outcome = run(config, &whole);
        assert_eq!(outcome.changes, expected);
        assert_eq!(outcome.rejects, bad);
        let before = kept.get_or_insert_with(|| outcome.kept.clone());
        assert_eq!(*before, outcome.kept, "the same state on any number of workers");
    }
    let cut = cut % (files.len() + 1);
    if cut == 0 || cut == files.len() {
        return;
    }
    let [one, two, three] = configs();
    for (first, second) in [(one.clone(), three), (two, one)] {
        let early = Run { case, files: files[..cut].to_vec(), first: 1, restored: Vec::new() };
        let mut outcome = run(first, &early);
        let first = cut as u64 + 1;
        let late = Run { case, files: files[cut..].to_vec(), first, restored: outcome.kept };
        let late = run(second, &late);
        outcome.changes.extend(late.changes);
        assert_eq!(outcome.changes, expected);
        assert_eq!(Some(late.kept), kept);
    }
}

fn any_row() -> impl Strategy<Value = Row> {
    let id =
        prop_oneof![Just(None), Just(Some("a")), Just(Some("b")), Just(Some("a long one\0\u{1}"))];
    let score = proptest::option::of(-2..3_i64);
    let text = prop_oneof![6 => Just("x"), 6 => Just("y"), 1 => Just("bad"), 2 => Just("a text of more than twelve")];
    (id, score, text)
}

/// Files whose chunks are new, or taken back, each at most once and never with a failed file.
fn any_files() -> impl Strategy<Value = Vec<File>> {
    let chunk = proptest::collection::vec(any_row(), 0..9);
    let file = (
        proptest::collection::vec(chunk, 0..4),
        proptest::bool::weighted(0.15),
        any::<[bool; 6]>(),
    );
    proptest::collection::vec(file, 1..8).prop_map(|drawn| {
        let mut files: Vec<File> = Vec::new();
        let mut there: Vec<Chunk> = Vec::new();
        for (at, (chunks, poisoned, taken)) in drawn.into_iter().enumerate() {
            let mut file = File { chunks: Vec::new(), poisoned };
            let mut rest = Vec::new();
            for (at, chunk) in there.drain(..).enumerate() {
                if taken[at % taken.len()] && at % 2 == 0 {
                    file.chunks.push(Chunk { diff: -1, ..chunk.clone() });
                    if poisoned {
                        rest.push(chunk);
                    }
                } else {
                    rest.push(chunk);
                }
            }
            there = rest;
            for (number, rows) in chunks.into_iter().enumerate() {
                let chunk =
                    Chunk { submission: at as u64 * 300 + 1, number: number as u64, diff: 1, rows };
                file.chunks.push(chunk.clone());
                if !poisoned {
                    there.push(chunk);
                }
            }
            files.push(file);
        }
        files
    })
}

fn any_case() -> impl Strategy<Value = Case> {
    let asked = prop_oneof![
        Just(Asked::Dedupe(Arrival::First)),
        Just(Asked::Dedupe(Arrival::Last)),
        Just(Asked::Duplicates),
        (1..4_u64).prop_map(|count| Asked::Top(count, Rank::None)),
        (1..4_u64).prop_map(|count| Asked::Top(count, Rank::Tail)),
    ];
    let direction = prop_oneof![Just(Direction::Ascending), Just(Direction::Descending)];
    let nulls = prop_oneof![Just(Nulls::First), Just(Nulls::Last)];
    (asked, proptest::option::of((direction, nulls)), any::<bool>())
        .prop_map(|(asked, order, placed)| Case { asked, order, placed })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn oracle_any_rows_on_any_number_of_workers(
        case in any_case(),
        files in any_files(),
        cut in any::<usize>(),
    ) {
        check(case, &files, cut);
    }
}

fn chunk(submission: u64, diff: i64, rows: &[Row]) -> Chunk {
    Chunk { submission, number: 0, diff, rows: rows.to_vec() }
}

fn file(chunks: &[Chunk]) -> File {
    File { chunks: chunks.to_vec(), poisoned: false }
}

const PLACED: Case = Case { asked: Asked::Dedupe(Arrival::First), order: None, placed: true };

#[test]
fn when_the_winner_is_taken_back_the_next_one_takes_its_place() {
    let rows = [(Some("a"), Some(1), "x"), (Some("a"), Some(2), "y")];
    let (one, two) = (chunk(1, 1, &rows[..1]), chunk(2, 1, &rows[1..]));
    let back = Chunk { diff: -1, ..one.clone() };
    let files = [file(&[one]), file(&[two]), file(&[back])];
    let run = Run { case: PLACED, files: files.to_vec(), first: 1, restored: Vec::new() };
    let changes = self::run(Config::process(2), &run).changes;
    let (x, y) = ("a 1 x @1:0+0:0".to_owned(), "a 2 y @2:0+0:0".to_owned());
    assert_eq!(changes[&1], [(0, 1, x.clone())]);
    assert!(!changes.contains_key(&2), "a row that does not win changes nothing");
    assert_eq!(changes[&3], [(0, -1, x), (0, 1, y)]);
}

#[test]
fn a_file_that_is_replaced_by_itself_says_nothing() {
    let rows = [(Some("a"), Some(1), "x"), (None, None, "y")];
    let case = Case { placed: false, ..PLACED };
    let again = file(&[chunk(1, -1, &rows), chunk(2, 1, &rows)]);
    let files = vec![file(&[chunk(1, 1, &rows)]), again];
    let run = Run { case, files, first: 1, restored: Vec::new() };
    let changes = self::run(Config::process(2), &run).changes;
    assert_eq!(changes.keys().collect::<Vec<_>>(), [&1]);
}

#[test]
fn a_row_that_was_never_there_cannot_be_taken_back() {
    let rows = [(Some("a"), Some(1), "x"), (Some("a"), Some(2), "y"), (Some("a"), Some(3), "z")];
    // Not the row that is shown, and it comes later: nobody would see that it was missing.
    let late = chunk(1, 1, &rows[2..]);
    let back = Chunk { diff: -1, ..late.clone() };
    let files = vec![file(&[chunk(1, 1, &rows[..2])]), file(&[back]), file(&[late])];
    let run = Run { case: PLACED, files, first: 1, restored: Vec::new() };
    assert!(std::panic::catch_unwind(|| self::run(Config::thread(), &run)).is_err());
}
