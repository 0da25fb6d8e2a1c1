//! The sink in a dataflow of its own: what becomes of outputs, on any number of workers, with a
//! checkpoint in between, against a slow and obvious program.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use arrow_array::{BinaryViewArray, RecordBatch, StringViewArray, UInt64Array};
use proptest::prelude::*;
use tidemill_operators::batch::{Origin, position};
use tidemill_operators::{Column, Schema, Type};
use tidemill_store::Home;
use timely::dataflow::operators::vec::Broadcast;
use timely::dataflow::operators::{Capture, Input, Probe, capture::Event};

use super::*;
use crate::ingest::order::OldVersion;
use crate::sink::staging::Staging;
use crate::space::{Reserve, Space};
use state::decode_pieces;

/// A row that comes or goes: whose output, chunk, line, text, difference.
type Change = (u64, u64, u32, &'static str, i64);

/// An epoch. Its submission has the number of the epoch, and its outputs are called `f<epoch>`.
#[derive(Clone, Debug, Default)]
struct Epoch {
    rows: Vec<Change>,
    /// It is only told to be read again.
    replay: bool,
    /// It failed after its rows were read.
    failed: bool,
    /// It is of a source whose records do not come here.
    elsewhere: bool,
    /// It takes this one back.
    old: Option<u64>,
    /// It is nothing by itself.
    removes: bool,
}

fn epoch(rows: &[Change]) -> Epoch {
    Epoch { rows: rows.to_vec(), ..Epoch::default() }
}

/// How the sink is built.
#[derive(Clone)]
struct Given {
    workers: usize,
    format: OutputFormat,
    empty: bool,
    positions: bool,
    /// The first epoch, behind a checkpoint of this content.
    from: u64,
    kept: Vec<Vec<u8>>,
    /// A mark is set behind this epoch, full or not.
    marks: Vec<Mark>,
}

impl Given {
    fn new(workers: usize) -> Given {
        Given {
            workers,
            format: OutputFormat::Csv { delimiter: b',', header: true },
            empty: false,
            positions: true,
            from: 1,
            kept: Vec::new(),
            marks: Vec::new(),
        }
    }
}

/// What came out.
#[derive(Debug, Default)]
struct Said {
    /// Parts, with their bytes, in the order of epochs, then of outputs.
    parts: Vec<(PreparedPart, Vec<u8>)>,
    /// What was written for each mark, by epoch and shard.
    kept: BTreeMap<u64, BTreeMap<u8, Vec<u8>>>,
}

/// Gathers the rows of checkpoints.
struct Memory {
    kept: Arc<Mutex<Said>>,
    open: Option<Mark>,
    done: VecDeque<u64>,
}

impl ShardSink for Memory {
    type Part = u64;

    fn begin(&mut self, mark: Mark, shards: &ShardSet) {
        self.open = Some(mark);
        let mut said = self.kept.lock().unwrap();
        let of_mark = said.kept.entry(mark.epoch).or_default();
        shards.iter().for_each(|shard| assert_eq!(of_mark.insert(shard, Vec::new()), None));
    }

    fn has_room(&self) -> bool {
        true
    }

    fn rows(&mut self, shard: u8, _count: u32, bytes: Vec<u8>) {
        let epoch = self.open.unwrap().epoch;
        let mut said = self.kept.lock().unwrap();
        said.kept.get_mut(&epoch).unwrap().get_mut(&shard).unwrap().extend(bytes);
    }

    fn end(&mut self) {
        self.done.push_back(self.open.take().unwrap().epoch);
    }

    fn written(&mut self) -> Option<u64> {
        self.done.pop_front()
    }
}

fn batch((of, chunk, line, text, diff): Change, positions: bool) -> Batch {
    let schema = Schema::new(vec![Column::new("t", Type::String)]);
    let column = Arc::new(StringViewArray::from(vec![text]));
    let line_end = if text.ends_with('!') { "" } else { "\n" };
    let raw = format!("{text}{line_end}");
    Batch {
        columns: RecordBatch::try_new(schema.arrow(), vec![column]).unwrap(),
        raw: Some(BinaryViewArray::from(vec![raw.as_bytes()])),
        positions: positions.then(|| UInt64Array::from(vec![position(line, line * 10)])),
        diff,
        origin: Origin { submission: of, chunk, offset: 0 },
    }
}

/// Runs epochs through the sink. Rows come at the end of their epoch, as they do behind state.
fn run(given: &Given, epochs: &[Epoch]) -> Said {
    let folder = tempfile::tempdir().unwrap();
    let home = Arc::new(Home::open(&folder.path().join("home")).unwrap());
    let space = Space::new(home.root(), Reserve::default());
    let (staging, thread) = Staging::start(fault::disk, space.clone()).unwrap();
    let around = Surroundings {
        home: Arc::clone(&home),
        generation: 1,
        pipeline: "p".into(),
        staging,
        on_failure: fault::disk,
        space,
    };
    let said = Arc::new(Mutex::new(Said::default()));
    let (told, captured) = std::sync::mpsc::channel();
    let told = Mutex::new(told);
    let (given_all, epochs, shared) = (given.clone(), epochs.to_vec(), Arc::clone(&said));
    let config = timely::Config::process(given.workers);
    let guards = timely::execute(config, move |worker| {
        let given = given_all.clone();
        let sink = FileSink {
            index: 0,
            name: "s".into(),
            format: given.format.clone(),
            schema: Schema::new(vec![Column::new("t", Type::String)]),
            empty: given.empty,
            sources: BTreeSet::from([0]),
        };
        let make = |_| Memory { kept: Arc::clone(&shared), open: None, done: VecDeque::new() };
        let told = told.lock().unwrap().clone();
        let (mut rows, mut openings, mut poison, mut restored, mut marks, probe) = worker
            .dataflow::<Time, _, _>(|scope| {
                let (rows, way) = scope.new_input::<Batch>();
                let (openings, opened) = scope.new_input::<Vec<Opening>>();
                let (poison, poisoned) = scope.new_input::<Vec<u64>>();
                let (restored, pieces) = scope.new_input::<Vec<(Piece, Time, ())>>();
                let (marks, marked) = scope.new_input::<Vec<Mark>>();
                let incoming = Incoming {
                    ways: vec![way],
                    openings: opened.broadcast(),
                    poison: poisoned.broadcast(),
                    restored: pieces,
                    marks: marked.broadcast(),
                };
                let meter = Meter::new(1);
                let made = shelf(scope, "Shelf", incoming, sink, around.clone(), meter, make);
                let (probe, parts) = made.parts.probe();
                parts.capture_into(told);
                made.kept.probe_with(&probe);
                (rows, openings, poison, restored, marks, probe)
            });
        let mine = ShardSet::of_worker(worker.index(), worker.peers());
        for block in &given.kept {
            for (piece, ()) in decode_pieces(block).unwrap() {
                if mine.contains(shard_of_submission(piece.submission)) {
                    restored.send((piece, Time::default(), ()));
                }
            }
        }
        restored.close();
        let fed = if worker.index() == 0 { &epochs[..] } else { &[] };
        for (at, epoch) in fed.iter().enumerate() {
            let number = given.from + at as u64;
            let time = Time::new(number, 0);
            openings.advance_to(time);
            openings.send(Opening {
                epoch: number,
                submission: number,
                source: usize::from(epoch.elsewhere),
                bytes: 0,
                hash: None,
                name: format!("f{number}"),
                output_name: format!("f{number}"),
                replay: epoch.replay,
                old: epoch.old.map(|submission| OldVersion {
                    submission,
                    name: String::new(),
                    bytes: 0,
                    hash: None,
                }),
                removes: epoch.removes,
                refused: None,
            });
            poison.advance_to(time);
            if epoch.failed {
                poison.send(number);
            }
            rows.advance_to(Time::end(number));
            for change in &epoch.rows {
                rows.send_batch(&mut batch(*change, given.positions));
            }
            marks.advance_to(Time::new(number + 1, 0));
            for mark in given.marks.iter().filter(|mark| mark.epoch == number) {
                marks.send(*mark);
            }
            worker.step();
        }
        openings.close();
        poison.close();
        rows.close();
        marks.close();
        while !probe.done() {
            worker.step_or_park(Some(std::time::Duration::from_millis(5)));
        }
    });
    guards.unwrap().join().into_iter().for_each(|worker| worker.unwrap());
    let mut parts: Vec<PreparedPart> = captured
        .into_iter()
        .flat_map(|event| match event {
            Event::Messages(_, parts) => parts,
            Event::Progress(_) => Vec::new(),
        })
        .collect();
    drop(thread);
    parts.sort_by_key(|part| (part.epoch, part.of));
    let bytes = |part: &PreparedPart| match &part.body {
        Prepared::Inline(bytes) => bytes.clone(),
        Prepared::Staged(path) => std::fs::read(home.root().join(path)).unwrap(),
        _ => Vec::new(),
    };
    let parts = parts.into_iter().map(|part| {
        let bytes = bytes(&part);
        if matches!(part.body, Prepared::Inline(_) | Prepared::Staged(_)) {
            assert_eq!((part.bytes, part.hash), (bytes.len() as u64, blake3::hash(&bytes).into()));
        }
        (part, bytes)
    });
    let parts = parts.collect();
    let mut said = std::mem::take(&mut *said.lock().unwrap());
    said.parts = parts;
    said
}

/// Returns what was said in a few words: `2 put f1.csv (1): t|a|b|`.
fn words(said: &Said) -> Vec<String> {
    let word = |(part, bytes): &(PreparedPart, Vec<u8>)| {
        let text = String::from_utf8_lossy(bytes).replace('\n', "|");
        let (epoch, of, rows, name) = (part.epoch, part.of, part.rows, &part.name);
        match &part.body {
            Prepared::Removed => format!("{epoch} removed {name} of {of} ({rows})"),
            Prepared::Same => format!("{epoch} same of {of} ({rows})"),
            Prepared::Digest => format!("{epoch} digest {name} of {of} ({rows}): {}", part.bytes),
            _ => format!("{epoch} put {name} of {of} ({rows}): {text}"),
        }
    };
    said.parts.iter().map(word).collect()
}

#[track_caller]
fn check(given: Given, epochs: &[Epoch], expected: &[&str]) {
    for workers in [1, 3] {
        let given = Given { workers, ..given.clone() };
        assert_eq!(words(&run(&given, epochs)), expected, "{workers} workers");
    }
}

#[test]
fn an_output_is_written_in_input_order_whatever_order_its_rows_come_in() {
    let rows = [(1, 2, 0, "c", 1), (1, 0, 5, "b", 1), (1, 0, 0, "a", 1), (1, 2, 0, "bb", 1)];
    check(Given::new(1), &[epoch(&rows)], &["1 put f1.csv of 1 (4): t|a|b|bb|c|"]);
}

#[test]
fn a_later_file_rewrites_what_it_changes_and_nothing_else() {
    let epochs = [
        epoch(&[(1, 0, 0, "a", 1), (1, 0, 1, "b", 1)]),
        epoch(&[(2, 0, 0, "x", 1)]),
        epoch(&[(1, 0, 0, "a", -1), (3, 0, 0, "y", 1)]),
        epoch(&[(1, 0, 0, "a", 1), (2, 0, 0, "x", -1), (2, 0, 1, "z", 1)]),
    ];
    let expected = [
        "1 put f1.csv of 1 (2): t|a|b|",
        "2 put f2.csv of 2 (1): t|x|",
        "3 put f1.csv of 1 (0): t|b|",
        "3 put f3.csv of 3 (1): t|y|",
        "4 put f1.csv of 1 (1): t|a|b|",
        "4 put f2.csv of 2 (1): t|z|",
    ];
    check(Given::new(1), &epochs, &expected);
}

#[test]
fn an_output_without_rows_is_removed_or_stays_empty_as_asked() {
    let epochs = [
        epoch(&[(1, 0, 0, "a", 1)]),
        epoch(&[(1, 0, 0, "a", -1)]),
        epoch(&[(1, 0, 0, "b", 1), (1, 0, 0, "b", -1)]),
        epoch(&[(1, 0, 0, "c", 1), (2, 0, 0, "late", 1)]),
    ];
    let expected = [
        "1 put f1.csv of 1 (1): t|a|",
        "2 removed f1.csv of 1 (0)",
        "3 same of 1 (1)",
        "4 put f1.csv of 1 (1): t|c|",
        "4 put f2.csv of 2 (1): t|late|",
    ];
    check(Given::new(1), &epochs, &expected);
    let expected = [
        "1 put f1.csv of 1 (1): t|a|",
        "2 put f1.csv of 1 (0): t|",
        "2 put f2.csv of 2 (0): t|",
        "3 same of 1 (1)",
        "3 put f3.csv of 3 (0): t|",
        "4 put f1.csv of 1 (1): t|c|",
        "4 put f2.csv of 2 (1): t|late|",
        "4 put f4.csv of 4 (0): t|",
    ];
    check(Given { empty: true, ..Given::new(1) }, &epochs, &expected);
}

#[test]
fn a_change_that_changes_nothing_writes_nothing_and_counts() {
    let epochs = [
        epoch(&[(1, 0, 0, "a", 1)]),
        epoch(&[(1, 0, 0, "a", -1), (1, 0, 0, "a", 1), (1, 0, 0, "a", 1), (1, 0, 0, "a", -1)]),
    ];
    check(Given::new(1), &epochs, &["1 put f1.csv of 1 (1): t|a|", "2 same of 1 (2)"]);
}

#[test]
fn a_failed_file_changes_nothing() {
    let failed = Epoch { failed: true, ..epoch(&[(1, 0, 0, "a", -1), (2, 0, 0, "b", 1)]) };
    let epochs = [epoch(&[(1, 0, 0, "a", 1)]), failed, epoch(&[(1, 0, 1, "c", 1)])];
    let expected = ["1 put f1.csv of 1 (1): t|a|", "3 put f1.csv of 1 (1): t|a|c|"];
    check(Given::new(1), &epochs, &expected);
}

#[test]
fn a_version_that_is_taken_back_is_forgotten_and_others_change_with_it() {
    let first = [(1, 0, 0, "a", 1), (1, 0, 1, "b", 1)];
    let replaced = [(1, 0, 0, "a", -1), (1, 0, 1, "b", -1), (3, 0, 0, "A", 1), (2, 0, 1, "b", 1)];
    let removed = [(3, 0, 0, "A", -1)];
    let epochs = [
        epoch(&first),
        epoch(&[(2, 0, 0, "c", 1)]),
        Epoch { old: Some(1), ..epoch(&replaced) },
        Epoch { old: Some(3), removes: true, ..epoch(&removed) },
        epoch(&[(2, 0, 2, "d", 1)]),
    ];
    let expected = [
        "1 put f1.csv of 1 (2): t|a|b|",
        "2 put f2.csv of 2 (1): t|c|",
        "3 put f2.csv of 2 (1): t|c|b|",
        "3 put f3.csv of 3 (1): t|A|",
        "5 put f2.csv of 2 (1): t|c|b|d|",
    ];
    check(Given::new(1), &epochs, &expected);
    // Nothing is written for what is taken back, as much as empty outputs are wanted.
    let with_empty = [&expected[..], &["5 put f5.csv of 5 (0): t|"]].concat();
    check(Given { empty: true, ..Given::new(1) }, &epochs, &with_empty);
}

#[test]
fn a_file_of_another_source_has_no_output() {
    let elsewhere = Epoch { elsewhere: true, ..epoch(&[]) };
    check(Given { empty: true, ..Given::new(1) }, &[elsewhere], &[]);
}

#[test]
fn what_is_read_again_is_only_added_up() {
    let replayed = |rows: &[Change]| Epoch { replay: true, ..epoch(rows) };
    let epochs = [
        replayed(&[(1, 0, 0, "a", 1)]),
        replayed(&[(1, 0, 0, "a", -1), (2, 0, 0, "b", 1)]),
        epoch(&[(2, 0, 1, "c", 1)]),
    ];
    let expected = [
        "1 digest f1.csv of 1 (1): 4",
        "2 removed f1.csv of 1 (0)",
        "2 digest f2.csv of 2 (1): 4",
        "3 put f2.csv of 2 (1): t|b|c|",
    ];
    check(Given::new(1), &epochs, &expected);
}

#[test]
fn raw_records_stay_on_lines_of_their_own() {
    // The last record of a file can lack its line end.
    let epochs = [
        epoch(&[(1, 0, 0, "a", 1), (1, 0, 1, "b!", 1), (1, 0, 1, "b!", 1)]),
        epoch(&[(1, 0, 1, "b!", -1)]),
    ];
    let given = Given { format: OutputFormat::Raw, ..Given::new(1) };
    check(given, &epochs, &["1 put f1 of 1 (3): a|b!|b!", "2 put f1 of 1 (0): a|b!"]);
}

#[test]
fn rows_without_a_position_are_in_the_order_of_their_columns() {
    let given = Given { positions: false, ..Given::new(1) };
    let rows = [(1, 0, 9, "b", 1), (1, 0, 0, "c,", 1), (1, 0, 5, "a", 1), (1, 0, 5, "a", 1)];
    check(given, &[epoch(&rows)], &["1 put f1.csv of 1 (4): t|a|a|b|\"c,\"|"]);
}

#[test]
fn large_and_many_outputs_are_staged() {
    static LONG: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    let long: &'static str = LONG.get_or_init(|| "x".repeat(40_000));
    // 6 MB of small outputs, and one of 5 MB, more than is written in one turn.
    let many: Vec<Epoch> = (1..=150).map(|of| epoch(&[(of, 0, 0, "a", 1)])).collect();
    let all = (1..=150).map(|of| (of, 1, 0, long, 1)).chain((2..126).map(|n| (1, n, 0, long, 1)));
    let epochs: Vec<Epoch> =
        many.into_iter().chain([epoch(&all.collect::<Vec<_>>()), epoch(&[])]).collect();
    let said = run(&Given::new(1), &epochs);
    let last: Vec<_> = said.parts.iter().filter(|(part, _)| part.epoch == 151).collect();
    assert_eq!(last.len(), 150);
    let is_inline = |part: &PreparedPart| matches!(part.body, Prepared::Inline(_));
    let inline: u64 = last.iter().filter(|(part, _)| is_inline(part)).map(|one| one.0.bytes).sum();
    assert!(inline <= INLINE_BYTES_PER_EPOCH + 48 * 1024, "{inline}");
    assert!(last.iter().all(|(part, bytes)| part.of == 1 || bytes.len() == 2 + 2 + 40_001));
    assert_eq!(last[0].1.len(), 2 + 2 + 125 * 40_001);
}

#[test]
fn a_checkpoint_holds_the_state_as_of_its_mark() {
    let epochs = [
        epoch(&[(1, 0, 0, "a", 1)]),
        epoch(&[(2, 0, 0, "b", 1)]),
        epoch(&[(1, 0, 0, "a", -1), (3, 0, 0, "c", 1)]),
        epoch(&[(1, 0, 0, "A", 1)]),
    ];
    for (before, after) in [(1, 3), (3, 1), (3, 2)] {
        let marks = vec![Mark { epoch: 2, full: true }, Mark { epoch: 3, full: false }];
        let given = Given { workers: before, marks, ..Given::new(before) };
        let said = run(&given, &epochs);
        assert_eq!(said.kept[&2].len(), 256);
        let changed = BTreeSet::from([1, 3].map(shard_of_submission));
        assert_eq!(said.kept[&3].keys().copied().collect::<BTreeSet<_>>(), changed);
        let mut kept = said.kept[&2].clone();
        let second: Vec<Vec<u8>> = kept.values().cloned().collect();
        kept.extend(said.kept[&3].clone());
        let third: Vec<Vec<u8>> = kept.into_values().collect();
        for (from, kept) in [(3, second), (4, third)] {
            let given = Given { workers: after, from, kept, ..Given::new(after) };
            let found = words(&run(&given, &epochs[from as usize - 1..]));
            let expected: Vec<String> = words(&said)
                .into_iter()
                .filter(|word| word.split(' ').next().unwrap().parse::<u64>().unwrap() >= from)
                .collect();
            assert_eq!(found, expected, "from {from} on {after} workers");
        }
    }
}

#[test]
fn of_ten_thousand_outputs_only_the_one_that_changes_is_written() {
    const FILES: u64 = 10_000;
    let mut kept = Vec::new();
    for submission in 1..=FILES {
        let mut changes = Changes::default();
        (0..3).for_each(|line| changes.push((0, position(line, line * 10)), |_| {}, b"a\n", 1));
        let rows = rows::Rows::default().changed(&mut changes).unwrap().unwrap();
        let file = File { stem: format!("f{submission}"), is_written: true, rows };
        assert_eq!(state::encode_piece(submission, &file, 0, &mut kept), None);
    }
    let number = FILES + 1;
    let marks = vec![Mark { epoch: number, full: false }];
    let given = Given { from: number, kept: vec![kept], marks, ..Given::new(2) };
    let said = run(&given, &[epoch(&[(5000, 0, 1, "a", -1), (5000, 0, 1, "b", 1)])]);
    assert_eq!(words(&said), ["10001 put f5000.csv of 5000 (1): t|a|b|a|"]);
    // So is the next checkpoint: the shard of what changed, and that of the file that came.
    let shards: BTreeSet<u8> = said.kept[&number].keys().copied().collect();
    assert_eq!(shards, BTreeSet::from([5000, number].map(shard_of_submission)));
}

/// Epochs of random changes that never take back what is not there.
fn epochs() -> impl Strategy<Value = Vec<Epoch>> {
    let text = prop_oneof![Just("a"), Just("b"), Just("c")];
    let change = (any::<prop::sample::Index>(), 0..2_u64, 0..3_u32, text, any::<bool>());
    let epoch = (prop::collection::vec(change, 0..8), prop::bool::weighted(0.1));
    prop::collection::vec(epoch, 1..8).prop_map(|epochs| {
        let mut there: BTreeMap<(u64, u64, u32, &str), i64> = BTreeMap::new();
        let mut known = Vec::new();
        let mut all = Vec::new();
        for (at, (changes, failed)) in epochs.into_iter().enumerate() {
            let number = at as u64 + 1;
            if !failed {
                known.push(number);
            }
            let mut rows = Vec::new();
            for (of, chunk, line, text, goes) in changes {
                let of = if failed { number } else { known[of.index(known.len())] };
                let times = there.entry((of, chunk, line, text)).or_default();
                let diff = if goes && *times > 0 { -1 } else { 1 };
                if !failed {
                    *times += diff;
                }
                rows.push((of, chunk, line, text, diff));
            }
            all.push(Epoch { rows, failed, ..Epoch::default() });
        }
        all
    })
}

/// Returns the outputs after each epoch, as a slow program makes them.
fn outputs(epochs: &[Epoch]) -> Vec<BTreeMap<String, String>> {
    let mut there: BTreeMap<(u64, u64, u32, &str), i64> = BTreeMap::new();
    let mut after = Vec::new();
    for epoch in epochs {
        for (of, chunk, line, text, diff) in epoch.rows.iter().filter(|_| !epoch.failed) {
            *there.entry((*of, *chunk, *line, *text)).or_default() += diff;
        }
        let mut outputs: BTreeMap<String, String> = BTreeMap::new();
        for ((of, _, _, text), times) in &there {
            for _ in 0..*times {
                let output = outputs.entry(format!("f{of}.csv")).or_insert("t\n".into());
                output.push_str(&format!("{text}\n"));
            }
        }
        after.push(outputs);
    }
    after
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn oracle_outputs_are_those_of_the_rows_that_are_there(
        epochs in epochs(), workers in 1..4_usize, restored in 1..4_usize, cut in 0..8_u64
    ) {
        let cut = cut.min(epochs.len() as u64 - 1);
        let marks = if cut > 0 { vec![Mark { epoch: cut, full: true }] } else { vec![] };
        let whole = run(&Given { marks, ..Given::new(workers) }, &epochs);
        let kept: Vec<Vec<u8>> =
            whole.kept.get(&cut).map_or(vec![], |kept| kept.values().cloned().collect());
        let rest = Given { from: cut + 1, kept, ..Given::new(restored) };
        let rest = run(&rest, &epochs[cut as usize..]);
        let expected = outputs(&epochs);
        for (said, from) in [(&whole, 0), (&rest, cut)] {
            let mut there =
                from.checked_sub(1).map_or_else(BTreeMap::new, |at| expected[at as usize].clone());
            for (number, expected) in (1..).zip(&expected).skip(from as usize) {
                let before = there.clone();
                let of_epoch = said.parts.iter().filter(|(part, _)| part.epoch == number);
                for (part, bytes) in of_epoch {
                    let text = String::from_utf8(bytes.clone()).unwrap();
                    match part.body {
                        Prepared::Same => {}
                        Prepared::Removed => {
                            prop_assert!(there.remove(&part.name).is_some(), "{}", part.name);
                        }
                        _ => drop(there.insert(part.name.clone(), text)),
                    }
                }
                prop_assert_eq!(&there, expected, "after epoch {} of {:?}", number, before);
            }
        }
    }
}
