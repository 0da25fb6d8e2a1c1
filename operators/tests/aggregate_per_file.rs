//! Groups of one file: each row stands where the first record of its group stands, and goes with its
//! file.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::{Arc, Mutex};

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{ArrayRef, Int64Array, RecordBatch, StringViewArray, UInt64Array};
use tidemill_operators::aggregate::{
    AggregateSpec, Computed, Function, Gathered, Inputs, Reach, TakenBack, gather, totals,
};
use tidemill_operators::keyed::Incoming;
use tidemill_operators::meter::Meter;
use tidemill_operators::rounds::Rounds;
use tidemill_operators::tally::Tally;
use tidemill_operators::{Batch, Column, Origin, Schema, Time, Type};
use timely::Config;
use timely::dataflow::InputHandle;
use timely::dataflow::operators::vec::Broadcast;
use timely::dataflow::operators::{Input, Inspect, Probe};

/// Difference, submission, chunk, and rows: position, key, number.
type Chunk = (i64, u64, u64, Vec<(u64, &'static str, i64)>);

/// What leaves: epoch, difference, submission, chunk, position, key, rows, sum.
type Said = (u64, i64, u64, u64, u64, String, i64, i64);

fn spec(taken_back: TakenBack) -> AggregateSpec {
    let compute = vec![
        Computed::new("rows", Function::CountAll, None).unwrap(),
        Computed::new("sum", Function::Sum, Some(Type::Int)).unwrap(),
    ];
    let keys = vec![Column::new("key", Type::String)];
    AggregateSpec { keys, compute, taken_back }.per_file()
}

fn batch((diff, submission, chunk, rows): &Chunk) -> Batch {
    let schema =
        Schema::new(vec![Column::new("key", Type::String), Column::new("n", Type::Int)]).arrow();
    let arrays: Vec<ArrayRef> = vec![
        Arc::new(rows.iter().map(|row| Some(row.1)).collect::<StringViewArray>()),
        Arc::new(rows.iter().map(|row| Some(row.2)).collect::<Int64Array>()),
    ];
    let positions: UInt64Array = rows.iter().map(|row| Some(row.0)).collect();
    Batch {
        columns: RecordBatch::try_new(schema, arrays).unwrap(),
        raw: None,
        positions: Some(positions),
        diff: *diff,
        origin: Origin { submission: *submission, chunk: *chunk, offset: 0 },
    }
}

fn run(taken_back: TakenBack, workers: usize, epochs: &[Vec<Chunk>]) -> Vec<Said> {
    let said: Arc<Mutex<Vec<Said>>> = Arc::default();
    let (told, epochs) = (Arc::clone(&said), epochs.to_vec());
    let guards = timely::execute(Config::process(workers), move |worker| {
        let (index, told) = (worker.index(), Arc::clone(&told));
        let mut poison = InputHandle::<Time, _>::new();
        let (mut rows, probe) = worker.dataflow::<Time, _, _>(|scope| {
            let (rows, stream) = scope.new_input::<Batch>();
            let poisoned = scope.input_from(&mut poison).broadcast();
            let tally = Tally::alone(Meter::new(1));
            let evaluate = |batch: &Batch| {
                let column = |at: usize| Arc::clone(batch.columns.column(at));
                let arguments = vec![None, Some(column(1))];
                Inputs { keys: vec![column(0)], arguments, ..Inputs::default() }
            };
            let (spec, reach) = (spec(taken_back), Reach::EachFile);
            let (of_rows, tally_of_rows) = (spec.clone(), tally.clone());
            let incoming = Incoming { rows: stream, poison: poisoned, rounds: Rounds::default() };
            let Gathered { partials, held, .. } =
                gather("sums", reach, incoming, of_rows, tally_of_rows, evaluate);
            let (table, _) = totals("sums", "sums", partials, held, spec.clone(), tally);
            let probe = table
                .inspect_core(move |event| {
                    let Ok((stamp, batch)) = event else { return };
                    assert_eq!(batch.columns.schema(), spec.schema().arrow());
                    let epoch = stamp.elements()[0].epoch;
                    let number = |column: usize, row: usize| {
                        batch.columns.column(column).as_primitive::<Int64Type>().value(row)
                    };
                    for row in 0..batch.len() {
                        let Origin { submission, chunk, .. } = batch.origin;
                        let position = batch.positions.as_ref().unwrap().value(row);
                        let key = batch.columns.column(0).as_string_view().value(row).to_owned();
                        let (rows, sum) = (number(1, row), number(2, row));
                        let one = (epoch, batch.diff, submission, chunk, position, key, rows, sum);
                        told.lock().unwrap().push(one);
                    }
                })
                .probe()
                .0;
            (rows, probe)
        });
        for (at, chunks) in epochs.iter().enumerate() {
            rows.advance_to(Time::new(at as u64 + 1, 0));
            for (chunk_at, chunk) in chunks.iter().enumerate() {
                if chunk_at % worker.peers() == index {
                    rows.send_batch(&mut batch(chunk));
                }
            }
        }
        drop((rows, poison));
        worker.step_while(|| !probe.done());
    });
    guards.unwrap().join().into_iter().for_each(|outcome| outcome.unwrap());
    let mut said = std::mem::take(&mut *said.lock().unwrap());
    said.sort();
    said
}

#[test]
fn a_group_stands_where_its_first_record_stands_and_goes_with_its_file() {
    let first: [(u64, Vec<_>); 2] =
        [(0, vec![(10, "b", 1), (20, "a", 2)]), (1, vec![(5, "a", 3), (9, "c", 4)])];
    type Piece = (u64, Vec<(u64, &'static str, i64)>);
    let of = |diff: i64, submission: u64, file: &[Piece]| {
        let chunk = |(chunk, rows): &Piece| (diff, submission, *chunk, rows.clone());
        file.iter().map(chunk).collect::<Vec<Chunk>>()
    };
    let second = [(0, vec![(7, "a", 100)])];
    let epochs = [
        of(1, 1, &first),
        of(1, 2, &second),
        [of(-1, 1, &first), of(1, 3, &[(0, vec![(0, "b", 1)])])].concat(),
    ];
    let row = |epoch, diff, place: (u64, u64, u64), key: &str, rows, sum| {
        (epoch, diff, place.0, place.1, place.2, key.to_owned(), rows, sum)
    };
    let mut expected = vec![
        row(1, 1, (1, 0, 10), "b", 1, 1),
        row(1, 1, (1, 0, 20), "a", 2, 5),
        row(1, 1, (1, 1, 9), "c", 1, 4),
        row(2, 1, (2, 0, 7), "a", 1, 100),
        row(3, -1, (1, 0, 10), "b", 1, 1),
        row(3, -1, (1, 0, 20), "a", 2, 5),
        row(3, -1, (1, 1, 9), "c", 1, 4),
        row(3, 1, (3, 0, 0), "b", 1, 1),
    ];
    expected.sort();
    for workers in [1, 2, 3] {
        for taken_back in [TakenBack::ByFile, TakenBack::ByRow] {
            assert_eq!(run(taken_back, workers, &epochs), expected, "{workers} {taken_back:?}");
        }
        assert_eq!(run(TakenBack::Never, workers, &epochs[..2]), expected[..4]);
    }
}

#[test]
fn a_group_that_loses_its_first_record_stands_where_the_next_one_stands() {
    let epochs =
        [vec![(1, 1, 0, vec![(10, "a", 1), (20, "a", 2)])], vec![(-1, 1, 0, vec![(10, "a", 1)])]];
    let said = run(TakenBack::ByRow, 2, &epochs);
    let places: Vec<(u64, i64, u64, i64)> =
        said.iter().map(|one| (one.0, one.1, one.4, one.7)).collect();
    assert_eq!(places, [(1, 1, 10, 3), (2, -1, 10, 3), (2, 1, 20, 2)]);
}
