//! The first few rows of each key as a dataflow: what it says is what an arrangement of all rows says, and
//! it keeps no others; on one worker, on several, and in another life.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use differential_dataflow::operators::arrange::Arranged;
use proptest::prelude::*;
use tidemill_operators::Time;
use tidemill_operators::batch::Shape;
use tidemill_operators::key::Key;
use tidemill_operators::keyed::{
    Port, RowLayout, Trace, Update, append_int, arrange, arrange_first, changes,
};
use tidemill_operators::meter::Meter;
use tidemill_operators::tally::Tally;
use tidemill_operators::top::{Rank, Top};
use tidemill_operators::{Column, Schema, Type};
use timely::Config;
use timely::dataflow::operators::{Input, Inspect, Probe};
use timely::dataflow::{InputHandle, StreamVec};

/// The rows of one file: key, value.
type File = Vec<(i64, i64)>;

/// What was said by epoch, and how many rows are kept on each worker.
type Outcome = (BTreeMap<u64, Vec<(i64, String)>>, Vec<u64>);

fn number(number: i64) -> Key {
    let mut bytes = Vec::new();
    append_int(number, &mut bytes);
    Key::new(&bytes)
}

type Arrange = for<'s> fn(StreamVec<'s, Time, Update>, u64) -> Arranged<'s, Trace>;

fn all<'s>(updates: StreamVec<'s, Time, Update>, _: u64) -> Arranged<'s, Trace> {
    arrange("t", updates)
}

fn first<'s>(updates: StreamVec<'s, Time, Update>, count: u64) -> Arranged<'s, Trace> {
    arrange_first("t", updates, count)
}

/// Row `r` of a file is read by worker `r` modulo their number. `restored` comes before all files.
fn run(
    config: Config,
    arranging: Arrange,
    top: Top,
    files: &[File],
    restored: &[(i64, i64)],
) -> Outcome {
    let told: Arc<Mutex<Outcome>> = Arc::default();
    let telling = Arc::clone(&told);
    let (files, restored) = (files.to_vec(), restored.to_vec());
    let guards = timely::execute(config, move |worker| {
        let (index, peers) = (worker.index(), worker.peers());
        let mut rows = InputHandle::new();
        let meter = Meter::new(1);
        let telling = Arc::clone(&telling);
        let (said, shown) = (Arc::clone(&telling), meter.clone());
        let probe = worker.dataflow::<Time, _, _>(|scope| {
            let arranged = arranging(scope.input_from(&mut rows), top.count);
            let key = [Column::new("key", Type::Int)];
            let layout = RowLayout::plain(vec![Column::new("value", Type::Int)]);
            let columns = [key.to_vec(), layout.columns.clone()].concat();
            let shape = Shape { schema: Schema::new(columns), raw: false, positions: false };
            let port = Port { layout, shape, used: true };
            let tags = changes("T", "t", arranged, &key, vec![port], top, Tally::alone(meter)).tags;
            let tag = tags.into_iter().next().unwrap();
            tag.inspect_core(move |event| {
                let Ok((stamp, batch)) = event else { return };
                let cells = |row: usize| format!("{:?}", batch.columns.slice(row, 1).columns());
                let rows = (0..batch.len()).map(|row| (batch.diff, cells(row)));
                let mut said = said.lock().unwrap();
                said.0.entry(stamp.elements()[0].epoch).or_default().extend(rows);
            })
            .probe()
            .0
        });
        let mine = |at: usize| at % peers == index;
        for (at, (key, value)) in restored.iter().enumerate().filter(|(at, _)| mine(*at)) {
            rows.advance_to(Time::new(0, at as u64));
            rows.send(((number(*key), number(*value)), Time::new(0, at as u64), 1));
        }
        for (at, file) in files.iter().enumerate() {
            let end = Time::end(at as u64 + 1);
            rows.advance_to(end);
            for (_, (key, value)) in file.iter().enumerate().filter(|(at, _)| mine(*at)) {
                rows.send(((number(*key), number(*value)), end, 1));
            }
            rows.advance_to(Time::new(at as u64 + 2, 0));
            if at % 3 == 0 {
                worker.step_while(|| probe.less_than(&Time::new(at as u64 + 2, 0)));
            }
        }
        // What is said of one more epoch comes when all before it is forgotten.
        let last = Time::new(files.len() as u64 + 2, 0);
        rows.advance_to(last);
        worker.step_while(|| probe.less_than(&last));
        telling.lock().unwrap().1.push(shown.read().state_entries);
        drop(rows);
        while worker.step_or_park(None) {}
    });
    guards.unwrap().join().into_iter().for_each(|result| result.unwrap());
    let mut outcome = std::mem::take(&mut *told.lock().unwrap());
    outcome.0.values_mut().for_each(|one| one.sort());
    outcome
}

fn configs() -> [Config; 2] {
    [Config::thread(), Config::process(3)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn the_first_few_rows_say_what_all_rows_say(
        files in proptest::collection::vec(
            proptest::collection::vec((0..4_i64, 0..30_i64), 0..12), 1..9),
        count in 1..4_u64,
    ) {
        let top = Top { count, rank: Rank::None };
        let (expected, _) = run(Config::thread(), all, top, &files, &[]);
        for config in configs() {
            let (said, _) = run(config, first, top, &files, &[]);
            prop_assert_eq!(&said, &expected);
        }
    }
}

#[test]
fn of_many_rows_only_the_first_few_are_kept_and_another_life_goes_on_with_them() {
    let file = |from: i64| -> File { (0..500).map(|at| (at % 5, (from + at) % 997)).collect() };
    let files: Vec<File> = (0..30).map(|at| file(at * 331)).collect();
    let top = Top { count: 2, rank: Rank::None };
    for config in configs() {
        let (expected, all_rows) = run(config.clone(), all, top, &files, &[]);
        let (said, kept) = run(config.clone(), first, top, &files, &[]);
        assert_eq!(said, expected);
        let sum = |rows: &[u64]| rows.iter().sum::<u64>();
        assert!(sum(&all_rows) > 2_000, "{all_rows:?}");
        // Ten, and those that were displaced and are not forgotten yet.
        assert!(sum(&kept) < 100, "{kept:?}");

        // The best of all files but the last two, and then those.
        let mut best: Vec<(i64, i64)> = files[..28].concat();
        best.sort_unstable();
        let of_key = best.chunk_by(|one, two| one.0 == two.0);
        let restored: Vec<(i64, i64)> = of_key.flat_map(|rows| rows[..2].to_vec()).collect();
        let (late, _) = run(config, first, top, &files[28..], &restored);
        let shifted = late.into_iter().map(|(epoch, said)| (epoch + 28, said));
        let last: BTreeMap<_, _> =
            expected.range(29..).map(|(at, said)| (*at, said.clone())).collect();
        assert_eq!(shifted.collect::<BTreeMap<_, _>>(), last);
    }
}
