//! What an aggregate says of the memory that it takes.

#![allow(clippy::unwrap_used, reason = "tests")]

use tidemill_operators::aggregate::{
    Accumulator, AggregateSpec, Computed, ExactSum, FloatSum, Function, Key, State, TakenBack,
    totals,
};
use tidemill_operators::meter::Meter;
use tidemill_operators::tally::Tally;
use tidemill_operators::{Column, Time, Type};
use timely::dataflow::InputHandle;
use timely::dataflow::operators::{Input, Probe};

const KEYS: u16 = 1_000;

/// Returns what is said to be taken with [`KEYS`] keys, each with the state of its number.
fn taken(function: Function, argument: Type, state: fn(u16) -> State) -> u64 {
    let compute = vec![Computed::new("one", function, Some(argument)).unwrap()];
    let spec = AggregateSpec {
        keys: vec![Column::new("key", Type::Int)],
        compute,
        taken_back: TakenBack::ByFile,
    };
    timely::execute_directly(move |worker| {
        let meter = Meter::new(1);
        let tally = Tally::alone(meter.clone());
        let mut input = InputHandle::new();
        let probe = worker.dataflow::<Time, _, _>(|scope| {
            let held = timely::dataflow::operators::vec::ToStream::to_stream(None, scope);
            let partials = scope.input_from(&mut input);
            totals("keys", "keys", partials, held, spec, tally).0.probe().0
        });
        input.advance_to(Time::new(1, 0));
        for number in 0..KEYS {
            let mut key = vec![1];
            key.extend_from_slice(&(u64::from(number) ^ (1 << 63)).to_be_bytes());
            let states = [state(number)].into();
            input.send((Key::new(&key), Time::end(1), Accumulator { rows: 1, states }));
        }
        input.advance_to(Time::new(2, 0));
        worker.step_while(|| probe.less_than(&Time::new(2, 0)));
        let bytes = meter.read().state_bytes;
        input.close();
        worker.step_while(|| !probe.done());
        bytes
    })
}

/// What a key of an integer takes: its 9 bytes, where they end (4), where its sums end (at most 4),
/// its time and its accumulator.
fn entry() -> u64 {
    (9 + 4 + 4 + size_of::<Time>() + size_of::<Accumulator>()) as u64
}

#[test]
fn sums_of_integers_take_what_lies_in_the_arrangement() {
    let keys = u64::from(KEYS);
    let bytes =
        taken(Function::Sum, Type::Int, |number| State::Int { count: 1, sum: number.into() });
    assert!(bytes <= keys * entry(), "{bytes} bytes");
    assert!(bytes >= keys * (entry() - 4), "{bytes} bytes");
}

#[test]
fn sums_of_floats_take_what_they_hold_elsewhere_too() {
    let keys = u64::from(KEYS);
    let bytes = taken(Function::Sum, Type::Float, |number| {
        let mut sum = ExactSum::default();
        sum.add(f64::from(number) + 0.5, 1);
        State::Float(Box::new(FloatSum { count: 1, sum }))
    });
    let least = (size_of::<FloatSum>() + size_of::<(u8, i128)>()) as u64;
    assert!(bytes >= keys * (entry() - 4 + least), "{bytes} bytes");
    assert!(bytes <= keys * (entry() + 4 * least), "{bytes} bytes");
}

#[test]
fn greatest_texts_take_their_bytes() {
    let keys = u64::from(KEYS);
    let bytes = taken(Function::Max, Type::String, |number| {
        State::MaxText(Some(format!("{number:01000}").into_boxed_str()))
    });
    assert!((keys * 1_000..=keys * (1_000 + entry())).contains(&bytes), "{bytes} bytes");
}
