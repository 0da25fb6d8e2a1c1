//! Walk: one record after the other through a pipeline with loops, slowly and obviously. Knows
//! nothing of time, batches or workers.

use std::collections::BTreeMap;

use super::graph::{Condition, Graph, Port, Work};

/// How many steps a file may take; where records multiply it could be without end.
const STEPS_MAX: usize = 20_000;

/// What comes of a file.
#[derive(Clone, Debug, Default)]
pub struct Expected {
    /// The rows of each sink, in input order; those of one record by their text.
    pub outputs: BTreeMap<String, Vec<String>>,
    /// Line, operator, round and code of what is rejected, sorted.
    pub rejects: Vec<(u64, String, u64, String)>,
}

/// A record on its way.
#[derive(Clone, Debug)]
struct Record {
    line: u64,
    id: i64,
    a: i64,
    b: i64,
    /// How often it went round, by head.
    rounds: BTreeMap<usize, u64>,
    /// The operator that is next.
    next: usize,
}

/// Returns what comes of a file; `None` if that takes too long.
pub fn file(graph: &Graph, text: &str) -> Option<Expected> {
    let mut expected = Expected::default();
    for sink in 0..graph.sinks.len() {
        expected.outputs.insert(format!("o{sink}"), Vec::new());
    }
    let mut under_way = Vec::new();
    let mut delivered: BTreeMap<(usize, i64), Vec<String>> = BTreeMap::new();
    for (at, line) in text.lines().enumerate().skip(1) {
        let numbers: Vec<i64> = line.split(',').map(|one| one.parse().unwrap()).collect();
        let record = Record {
            line: at as u64 + 1,
            id: numbers[0],
            a: numbers[1],
            b: numbers[2],
            rounds: BTreeMap::new(),
            next: 0,
        };
        leave(graph, (0, 0), &record, &mut under_way, &mut delivered, &mut expected);
    }
    let mut steps = 0;
    while let Some(record) = under_way.pop() {
        steps += 1;
        if steps > STEPS_MAX {
            return None;
        }
        let node = &graph.nodes[record.next - 1];
        let mut out = |port: usize, record: &Record| {
            let from = (record.next, port);
            leave(graph, from, record, &mut under_way, &mut delivered, &mut expected);
        };
        match &node.work {
            Work::Filter(condition) => {
                if holds(condition, &record) {
                    out(0, &record);
                }
            }
            Work::Select { factor, more: (a, b) } => {
                let mut record = record.clone();
                (record.a, record.b) =
                    ((record.a * factor + record.b + a) % 97, (record.b + b) % 89);
                out(0, &record);
            }
            Work::Trip { modulus } => {
                if record.b % modulus == 0 {
                    let around = node.around.last();
                    let round = around.and_then(|head| record.rounds.get(head)).copied();
                    let why = (round.unwrap_or_default(), "expression");
                    reject(&mut expected, &record, record.next, why);
                } else {
                    out(0, &record);
                }
            }
            Work::Route { rules, otherwise, all } => {
                let mut met = false;
                for (tag, rule) in rules.iter().enumerate() {
                    if holds(rule, &record) && (*all || !met) {
                        met = true;
                        out(tag, &record);
                    }
                }
                if !met && *otherwise {
                    out(rules.len(), &record);
                }
            }
        }
    }
    for ((sink, _), mut rows) in delivered {
        rows.sort();
        expected.outputs.entry(format!("o{sink}")).or_default().extend(rows);
    }
    expected.rejects.sort();
    Some(expected)
}

fn holds(condition: &Condition, record: &Record) -> bool {
    let value = if condition.of_b { record.b } else { record.a };
    value % condition.modulus < condition.below
}

/// A record leaves by a port: it goes to everybody who reads it.
fn leave(
    graph: &Graph,
    from: Port,
    record: &Record,
    under_way: &mut Vec<Record>,
    delivered: &mut BTreeMap<(usize, i64), Vec<String>>,
    expected: &mut Expected,
) {
    for (sink, reads) in graph.sinks.iter().enumerate() {
        if reads.contains(&from) {
            let rows = delivered.entry((sink, record.id)).or_default();
            rows.push(format!("{},{},{}", record.id, record.a, record.b));
        }
    }
    for (at, reader) in graph.nodes.iter().enumerate() {
        let next = at + 1;
        if !reader.from.contains(&from) {
            continue;
        }
        let mut record = Record { next, ..record.clone() };
        // It goes back where what it leaves is inside of the loop that it comes to the head of.
        let is_inside = |head: usize| from.0 > 0 && graph.nodes[from.0 - 1].around.contains(&head);
        if let Some(most) = reader.max_rounds.filter(|_| is_inside(next)) {
            let rounds = record.rounds.entry(next).or_default();
            *rounds += 1;
            if *rounds > most {
                reject(expected, &record, next, (most, "max_rounds"));
                continue;
            }
        }
        // A loop that it is not in any more, or enters now, has not been gone round.
        record.rounds.retain(|head, _| reader.around.contains(head) && is_inside(*head));
        under_way.push(record);
    }
}

fn reject(expected: &mut Expected, record: &Record, operator: usize, (round, code): (u64, &str)) {
    expected.rejects.push((record.line, format!("n{operator}"), round, code.to_owned()));
}
