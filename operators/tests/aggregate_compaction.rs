//! What an aggregate keeps: one entry per key, however many epochs went by.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::cell::Cell;
use std::rc::Rc;

use differential_dataflow::logging::{DifferentialEvent, DifferentialEventBuilder};
use tidemill_operators::aggregate::{
    Accumulator, AggregateSpec, Computed, Function, Key, State, TakenBack, totals,
};
use tidemill_operators::meter::Meter;
use tidemill_operators::tally::Tally;
use tidemill_operators::{Column, Time, Type};
use timely::dataflow::InputHandle;
use timely::dataflow::operators::{Input, Probe};

/// Runs `epochs` epochs of one update each over `keys` keys, and returns the greatest number of
/// updates that the trace held in the last half, and how many it holds in the end.
fn held(epochs: u64, keys: u64) -> (i64, i64) {
    timely::execute_directly(move |worker| {
        let now = Rc::new(Cell::new(0_i64));
        let counted = Rc::clone(&now);
        let mut registry = worker.log_register().unwrap();
        registry.insert::<DifferentialEventBuilder, _>("differential/arrange", move |_, events| {
            for (_, event) in events.iter_mut().flat_map(|events| events.drain(..)) {
                let change = match event {
                    DifferentialEvent::Batch(batch) => batch.length as i64,
                    DifferentialEvent::Merge(merge) => match merge.complete {
                        Some(merged) => merged as i64 - (merge.length1 + merge.length2) as i64,
                        None => 0,
                    },
                    DifferentialEvent::Drop(batch) => -(batch.length as i64),
                    _ => 0,
                };
                counted.set(counted.get() + change);
            }
        });
        drop(registry);

        let kind = Type::Int;
        let compute = vec![Computed::new("sum", Function::Sum, Some(kind)).unwrap()];
        let keys_of = vec![Column::new("key", kind)];
        let spec = AggregateSpec { keys: keys_of, compute, taken_back: TakenBack::ByFile };
        let mut input = InputHandle::new();
        let probe = worker.dataflow::<Time, _, _>(|scope| {
            let tally = Tally::alone(Meter::new(1));
            let held = timely::dataflow::operators::vec::ToStream::to_stream(None, scope);
            let partials = scope.input_from(&mut input);
            totals("few keys", "few keys", partials, held, spec, tally).0.probe().0
        });
        let mut most = 0;
        for epoch in 1..=epochs {
            let mut key = vec![1];
            key.extend_from_slice(&((epoch % keys) ^ (1 << 63)).to_be_bytes());
            let states = [State::Int { count: 1, sum: 1 }].into();
            input.advance_to(Time::new(epoch, 0));
            input.send((Key::new(&key), Time::end(epoch), Accumulator { rows: 1, states }));
            input.advance_to(Time::new(epoch + 1, 0));
            worker.step_while(|| probe.less_than(&Time::new(epoch + 1, 0)));
            if epoch > epochs / 2 {
                most = most.max(now.get());
            }
        }
        let end = now.get();
        input.close();
        worker.step_while(|| !probe.done());
        (most, end)
    })
}

#[test]
fn ten_thousand_epochs_over_few_keys_leave_few_entries() {
    let (most, end) = held(10_000, 5);
    assert!(end > 0, "nothing was counted");
    assert!(most < 100, "{most} updates were held for 5 keys");
}
