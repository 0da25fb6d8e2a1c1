//! How fast a machine runs over the records of one key: `cargo run --release --example state_rate`.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "an example that measures")]

use std::sync::Arc;
use std::time::Instant;

use arrow_array::{ArrayRef, BooleanArray, RecordBatch, TimestampMicrosecondArray};
use tidemill_operators::expr::{Steps, compile};
use tidemill_operators::state::{Leave, Machine, MachineSpec, Transition, Variable};
use tidemill_operators::value::Value;
use tidemill_operators::{Column, Schema, Type};

fn main() {
    const RECORDS: usize = 100_000;
    let columns =
        Schema::new(vec![Column::new("ts", Type::Timestamp), Column::new("failed", Type::Bool)]);
    let variable =
        |name: &str, kind, initial| Variable { column: Column::new(name, kind), initial };
    let mut spec = MachineSpec {
        states: vec!["open".into(), "blocked".into()],
        homes: vec![Some(0), Some(1)],
        variables: vec![
            variable("failures", Type::Int, Value::Int(0)),
            variable("since", Type::Timestamp, Value::Null),
        ],
        transitions: Vec::new(),
        add: Vec::new(),
    };
    let mut visible = columns.columns().to_vec();
    visible.extend(spec.visible(&columns));
    let visible = Schema::new(visible);
    let expr = |sql: &str| Some(compile(sql, &visible).unwrap());
    let way = |from: usize, when: &str, set: &[(usize, &str)], goto| Transition {
        from: vec![from],
        when: expr(when),
        set: set.iter().map(|(at, sql)| (*at, expr(sql))).collect(),
        goto,
        leave: Leave::Home,
    };
    let again = "failed and (since is null or ts > since + interval '1 minute')";
    spec.transitions = vec![
        way(0, again, &[(0, "1"), (1, "ts")], None),
        way(0, "failed and failures >= 4", &[(0, "failures + 1")], Some(1)),
        way(0, "failed", &[(0, "failures + 1")], None),
        way(1, "not failed", &[], Some(0)),
    ];
    let machine = Machine::new(spec, &columns);
    let times = (0..RECORDS as i64).map(|at| at * 10_000_000);
    let arrays: Vec<ArrayRef> = vec![
        Arc::new(TimestampMicrosecondArray::from_iter_values(times).with_timezone("UTC")),
        Arc::new((0..RECORDS).map(|at| Some(at % 3 > 0)).collect::<BooleanArray>()),
    ];
    let steps = Steps::new(RecordBatch::try_new(columns.arrow(), arrays).unwrap(), &columns);
    let began = Instant::now();
    let mut left = [0_usize; 2];
    machine.run(&steps, machine.start(), |_, outcome| {
        outcome.port.into_iter().for_each(|port| left[port] += 1);
    });
    let took = began.elapsed();
    println!(
        "{RECORDS} records of one key: {took:?}, {} ns each, {left:?}",
        took.as_nanos() / RECORDS as u128
    );
}
