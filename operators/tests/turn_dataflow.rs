//! The way back of a loop, in a dataflow: records go round as often as they may, time ends, and what
//! multiplies without bound is found.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::{Arc, Mutex};

use arrow_array::UInt64Array;
use tidemill_operators::batch::{position, rows_without_columns};
use tidemill_operators::meter::Meter;
use tidemill_operators::reject::{Reject, Standing};
use tidemill_operators::tally::{EpochCounts, Tallies};
use tidemill_operators::time::Turns;
use tidemill_operators::turn::{Back, turn};
use tidemill_operators::{Batch, Origin, RejectCode, Time};
use timely::dataflow::ProbeHandle;
use timely::dataflow::operators::core::{ConnectLoop, Feedback};
use timely::dataflow::operators::{Concatenate, Input, Inspect, Probe};

fn rows(chunk: u64, rows: u32, diff: i64) -> Batch {
    Batch {
        columns: rows_without_columns(rows as usize),
        raw: None,
        positions: Some(UInt64Array::from_iter_values((0..rows).map(|row| position(row, row)))),
        diff,
        origin: Origin { submission: 1, chunk, offset: 0 },
    }
}

/// What was seen of one way back.
#[derive(Default)]
struct Seen {
    /// Epoch, chunk, how often it went round, rows: of everything that goes round, in order of time.
    again: Vec<(u64, u64, u64, usize)>,
    rejects: Vec<Reject>,
    taken_back: Vec<Reject>,
    grown: Vec<String>,
    counts: Vec<EpochCounts>,
}

/// Sends batches into a loop that nothing leaves. Each goes round `ways` times at once.
fn run(given: Vec<(Time, Batch)>, max_rounds: u32, ways: usize, rows_max: Option<u64>) -> Seen {
    let seen = Arc::new(Mutex::new(Seen::default()));
    let kept = Arc::clone(&seen);
    timely::execute_directly(move |worker| {
        let turns = Turns::divide([7, max_rounds]).unwrap()[1];
        let outer = Turns::divide([7, max_rounds]).unwrap()[0];
        let tallies = Tallies::default();
        let probe = ProbeHandle::new();
        let mut input = worker.dataflow::<Time, _, _>(|scope| {
            let (input, stream) = scope.new_input::<Batch>();
            let (handle, cycle) = scope.feedback::<Batch>(turns.step());
            let all = scope.concatenate(vec![stream; 1].into_iter().chain([cycle]));
            let all = scope.concatenate(vec![all; ways]);
            let back = Back {
                head: "head".to_owned(),
                way: "fix.more".to_owned(),
                turns,
                max_rounds,
                around: vec![("outer".to_owned(), outer)],
                rows_max,
            };
            let turned = turn("Turn p/head", all, back, tallies.node(0, Meter::new(1)));
            let (again, rejects, grown) = (Arc::clone(&seen), Arc::clone(&seen), Arc::clone(&seen));
            turned
                .again
                .inspect_core(move |event| {
                    if let Ok((stamp, batch)) = event {
                        let time = stamp.least().copied().unwrap_or_default();
                        let one = (time.epoch, time.chunk, turns.of(&time), batch.len());
                        again.lock().unwrap().again.push(one);
                    }
                })
                .connect_loop(handle);
            turned
                .rejects
                .inspect(move |some| {
                    let seen = &mut *rejects.lock().unwrap();
                    match some.standing {
                        Standing::There => seen.rejects.extend(some.rejects.iter().cloned()),
                        _ => seen.taken_back.extend(some.rejects.iter().cloned()),
                    }
                })
                .probe_with(&probe);
            turned
                .grown
                .inspect(move |some| grown.lock().unwrap().grown.push(some.detail.clone()))
                .probe_with(&probe);
            input
        });
        for (time, mut batch) in given {
            input.advance_to(time);
            input.send_batch(&mut batch);
        }
        input.close();
        worker.step_while(|| !probe.done());
        seen.lock().unwrap().counts = tallies.take_before(None);
    });
    let mut seen = std::mem::take(&mut *kept.lock().unwrap());
    seen.again.sort_unstable();
    seen
}

#[test]
fn a_batch_goes_round_as_often_as_it_may_and_is_rejected_then() {
    let seen = run(vec![(Time::new(3, 5), rows(5, 2, 1))], 3, 1, None);
    assert_eq!(seen.again, [(3, 5, 0, 2), (3, 5, 1, 2), (3, 5, 2, 2)]);
    assert_eq!(seen.rejects.len(), 2);
    let last = &seen.rejects[1];
    assert_eq!((last.line, last.code, last.round), (1, RejectCode::MaxRounds, 3));
    assert_eq!(
        seen.rejects[0].message,
        "it went back to head 3 times, last by fix.more, in round 0 of outer; max_rounds is 3"
    );
    let counts = &seen.counts[0].nodes[0].1;
    assert_eq!((seen.counts[0].epoch, counts.taken, counts.rejected), (3, 2, 2));
}

#[test]
fn what_is_taken_back_goes_the_same_way_and_counts_nowhere() {
    let seen = run(vec![(Time::new(4, 0), rows(0, 2, -1))], 2, 1, None);
    assert_eq!(seen.again, [(4, 0, 0, 2), (4, 0, 1, 2)]);
    assert!(seen.rejects.is_empty() && seen.counts.is_empty());
    let came = run(vec![(Time::new(4, 0), rows(0, 2, 1))], 2, 1, None);
    assert_eq!(seen.taken_back, came.rejects, "word for word, or it would not be found again");
}

#[test]
fn chunks_go_round_on_their_own() {
    let given = (0..3).map(|chunk| (Time::new(1, chunk), rows(chunk, 1, 1))).collect();
    let seen = run(given, 2, 1, None);
    let expected: Vec<_> = (0..3).flat_map(|chunk| [(1, chunk, 0, 1), (1, chunk, 1, 1)]).collect();
    assert_eq!(seen.again, expected);
}

#[test]
fn records_that_multiply_without_bound_fail_their_epoch() {
    // 3, 6, 12, 24 rows: the last are too many, and what would be 48 never comes.
    let seen = run(vec![(Time::new(2, 0), rows(0, 3, 1))], 1000, 2, Some(20));
    assert_eq!(seen.grown.len(), 1, "{:?}", seen.grown);
    assert!(
        seen.grown[0].starts_with("more than 20 records of one part of the file go back to head")
    );
    assert!(seen.rejects.is_empty());
    assert!(seen.again.iter().all(|(_, _, round, _)| *round <= 3), "{:?}", seen.again);
    let others = run(vec![(Time::new(2, 0), rows(0, 3, 1))], 2, 2, Some(20));
    assert!(others.grown.is_empty());
    assert_eq!(others.rejects.len(), 24);
}
