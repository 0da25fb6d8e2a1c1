//! The machine of `state` against a slow obvious one: random machines over random records, walked one
//! by one here.
#![allow(clippy::unwrap_used, missing_docs)]

use std::sync::Arc;

use arrow_array::{ArrayRef, BooleanArray, Int64Array, RecordBatch};
use proptest::prelude::*;
use tidemill_operators::expr::{Steps, compile};
use tidemill_operators::state::{Leave, Machine, MachineSpec, Transition, Variable};
use tidemill_operators::value::Value;
use tidemill_operators::{Column, Schema, Type};

const STATES: [&str; 3] = ["idle", "busy", "done"];

/// A record: `n` and `failed`.
type Record = (Option<i64>, bool);

#[derive(Clone, Debug)]
enum Guard {
    Always,
    Failed,
    Below(i64),
    CountAtLeast(i64),
    SameAsLast,
    StateIs(usize),
    Overflows,
}

impl Guard {
    fn sql(&self) -> Option<String> {
        Some(match self {
            Guard::Always => return None,
            Guard::Failed => "failed".into(),
            Guard::Below(limit) => format!("n < {limit}"),
            Guard::CountAtLeast(limit) => format!("count >= {limit} and failed"),
            Guard::SameAsLast => "n = last".into(),
            Guard::StateIs(state) => format!("state = '{}'", STATES[*state]),
            Guard::Overflows => "n + 9223372036854775807 > count".into(),
        })
    }

    /// True, false or an error.
    fn holds(&self, (n, failed): Record, naive: &Naive) -> Result<bool, ()> {
        Ok(match self {
            Guard::Always => true,
            Guard::Failed => failed,
            Guard::Below(limit) => n.is_some_and(|n| n < *limit),
            Guard::CountAtLeast(limit) => {
                naive.count.is_some_and(|count| count >= *limit) && failed
            }
            Guard::SameAsLast => n.is_some() && n == naive.last,
            Guard::StateIs(state) => naive.state == *state,
            Guard::Overflows => match n {
                Some(n) => {
                    let sum = n.checked_add(i64::MAX).ok_or(())?;
                    naive.count.is_some_and(|count| sum > count)
                }
                None => false,
            },
        })
    }
}

#[derive(Clone, Debug)]
enum Set {
    CountNext,
    CountZero,
    CountNull,
    Swap,
    LastN,
}

#[derive(Clone, Debug)]
struct Way {
    from: Vec<usize>,
    guard: Guard,
    sets: Vec<Set>,
    goto: Option<usize>,
    leave: Leave,
}

#[derive(Clone, Debug)]
struct Naive {
    state: usize,
    count: Option<i64>,
    last: Option<i64>,
}

/// Port and added columns (count, name of the state), and whether something failed.
type Told = (Option<usize>, Option<(Option<i64>, String)>, bool);

impl Naive {
    fn step(&mut self, ways: &[Way], record: Record) -> Told {
        let mut port = Some(self.state);
        let mut failed = false;
        for way in ways {
            if !way.from.is_empty() && !way.from.contains(&self.state) {
                continue;
            }
            match way.guard.holds(record, self) {
                Err(()) => {
                    failed = true;
                    break;
                }
                Ok(false) => continue,
                Ok(true) => {}
            }
            let (mut count, mut last) = (self.count, self.last);
            for set in &way.sets {
                match set {
                    Set::CountNext => count = self.count.map(|count| count + 1),
                    Set::CountZero => count = Some(0),
                    Set::CountNull => count = None,
                    Set::Swap => (count, last) = (self.last, self.count),
                    Set::LastN => last = record.0,
                }
            }
            (self.count, self.last) = (count, last);
            self.state = way.goto.unwrap_or(self.state);
            port = match way.leave {
                Leave::Home => Some(self.state),
                Leave::Port(port) => Some(port),
                Leave::Drop => None,
            };
            break;
        }
        (port, port.map(|_| (self.count, STATES[self.state].to_owned())), failed)
    }
}

fn machine(ways: &[Way]) -> Machine {
    let columns = schema();
    let variable = |name: &str, initial| Variable { column: Column::new(name, Type::Int), initial };
    let mut spec = MachineSpec {
        states: STATES.map(str::to_owned).to_vec(),
        homes: vec![Some(0), Some(1), Some(2)],
        variables: vec![variable("count", Value::Int(0)), variable("last", Value::Null)],
        transitions: Vec::new(),
        add: Vec::new(),
    };
    let mut visible = columns.columns().to_vec();
    visible.extend(spec.visible(&columns));
    let visible = Schema::new(visible);
    let expr = |sql: &str| compile(sql, &visible).unwrap();
    spec.transitions = ways
        .iter()
        .map(|way| {
            let sets = way.sets.iter().flat_map(|set| match set {
                Set::CountNext => vec![(0, Some(expr("count + 1")))],
                Set::CountZero => vec![(0, Some(expr("0")))],
                Set::CountNull => vec![(0, None)],
                Set::Swap => vec![(0, Some(expr("last"))), (1, Some(expr("count")))],
                Set::LastN => vec![(1, Some(expr("n")))],
            });
            Transition {
                from: way.from.clone(),
                when: way.guard.sql().map(|sql| expr(&sql)),
                set: sets.collect(),
                goto: way.goto,
                leave: way.leave,
            }
        })
        .collect();
    spec.add = vec![("seen".into(), expr("count")), ("now".into(), expr("state"))];
    Machine::new(spec, &columns)
}

fn schema() -> Schema {
    Schema::new(vec![Column::new("n", Type::Int), Column::new("failed", Type::Bool)])
}

fn steps(records: &[Record]) -> Steps {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(records.iter().map(|record| record.0).collect::<Int64Array>()),
        Arc::new(records.iter().map(|record| Some(record.1)).collect::<BooleanArray>()),
    ];
    Steps::new(RecordBatch::try_new(schema().arrow(), columns).unwrap(), &schema())
}

fn ways() -> impl Strategy<Value = Vec<Way>> {
    let guard = prop_oneof![
        1 => Just(Guard::Always),
        3 => Just(Guard::Failed),
        2 => (-2..3_i64).prop_map(Guard::Below),
        3 => (0..4_i64).prop_map(Guard::CountAtLeast),
        2 => Just(Guard::SameAsLast),
        1 => (0..3_usize).prop_map(Guard::StateIs),
        1 => Just(Guard::Overflows),
    ];
    let set = prop_oneof![
        4 => Just(Set::CountNext),
        1 => Just(Set::CountZero),
        1 => Just(Set::CountNull),
        1 => Just(Set::Swap),
        2 => Just(Set::LastN)
    ];
    // A variable is set once by a transition: a swap stands alone.
    let sets = prop::collection::vec(set, 0..2);
    let leave = prop_oneof![
        3 => Just(Leave::Home),
        2 => (0..5_usize).prop_map(Leave::Port),
        1 => Just(Leave::Drop)
    ];
    let from = prop::collection::vec(0..3_usize, 0..3);
    let way = (from, guard, sets, prop::option::of(0..3_usize), leave)
        .prop_map(|(from, guard, sets, goto, leave)| Way { from, guard, sets, goto, leave });
    prop::collection::vec(way, 0..6)
}

fn records() -> impl Strategy<Value = Vec<Record>> {
    prop::collection::vec((prop::option::weighted(0.9, -2..3_i64), any::<bool>()), 0..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn oracle_a_machine_does_what_is_written(ways in ways(), records in records(), cut in 0..40_usize) {
        let machine = machine(&ways);
        let mut naive = Naive { state: 0, count: Some(0), last: None };
        let expected: Vec<Told> = records.iter().map(|one| naive.step(&ways, *one)).collect();
        // In two parts: what is between them is all there is to know of the first.
        let (first, second) = records.split_at(cut.min(records.len()));
        let mut found: Vec<Told> = Vec::new();
        let mut moment = machine.start();
        for part in [first, second] {
            let again = machine.moment(moment.state(), moment.values().to_vec());
            moment = machine.run(&steps(part), again, |_, outcome| {
                let added = outcome.port.map(|_| match outcome.added.as_slice() {
                    [count, Value::String(now)] => {
                        let count = if let Value::Int(count) = count { Some(*count) } else { None };
                        (count, now.clone())
                    }
                    other => panic!("{other:?}"),
                });
                found.push((outcome.port, added, outcome.trouble.is_some()));
            });
        }
        prop_assert_eq!(found, expected);
        prop_assert_eq!(moment.state(), naive.state);
    }
}

#[test]
fn the_first_transition_that_fits_is_taken() {
    let way = |guard: Guard, port| Way {
        from: vec![],
        guard,
        sets: vec![Set::CountNext],
        goto: None,
        leave: Leave::Port(port),
    };
    let machine = machine(&[way(Guard::Failed, 3), way(Guard::Always, 4)]);
    let mut ports = Vec::new();
    let end = machine.run(&steps(&[(None, true), (None, false)]), machine.start(), |_, outcome| {
        ports.push(outcome.port);
    });
    assert_eq!(ports, [Some(3), Some(4)]);
    assert_eq!(end.values(), [Value::Int(2), Value::Null]);
}
