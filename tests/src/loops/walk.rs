//! Walk: what comes of the files of a pipeline with loops and state, slowly and obviously: what a port
//! gives in a round is worked out from all that comes to its operator in that round, asked for when it
//! is needed. Knows nothing of time, batches, workers, or of files that were there before.

use std::collections::BTreeMap;
use std::rc::Rc;

use twox_hash::XxHash3_64;

use super::graph::{Condition, Draw, Graph, Kind, LOOKUPS, Node, Port, ROWS, Work};

/// How many records may pass all operators; where they multiply it could be without end.
const RECORDS_MAX: usize = 40_000;

/// What comes of all files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expected {
    /// The rows that each `files` sink writes for each file, by the `id` of their record.
    pub outputs: BTreeMap<(usize, String), Vec<(i64, String)>>,
    /// How often each row is there, for each other sink.
    pub tables: BTreeMap<usize, BTreeMap<String, u64>>,
    /// File, line, operator, round and code of what is rejected, sorted.
    pub rejects: Vec<(String, u64, String, u64, String)>,
}

/// A record.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Record {
    id: i64,
    a: i64,
    b: i64,
    /// Where it stands: the number of its file, and its line.
    place: (usize, u64),
}

/// A record that was rejected, its round and why.
type Reject = (Record, u64, &'static str);

/// What an operator gives in a round, by port, and what it rejects.
#[derive(Clone, Debug, Default)]
struct Given {
    ports: Vec<Vec<Record>>,
    rejects: Vec<Reject>,
}

/// How often records went round in the loops around an operator.
type Rounds = Vec<u64>;

struct Walk<'a> {
    graph: &'a Graph,
    rows: Vec<Record>,
    lookups: Vec<Record>,
    known: BTreeMap<(usize, Rounds), Rc<Given>>,
    records: usize,
}

/// Returns what comes of these files, by name; `None` if that takes too long.
pub fn files(graph: &Graph, files: &BTreeMap<String, String>) -> Option<Expected> {
    // Round by round in each loop, each asks for what is before it: that goes deep.
    const STACK: usize = 512 << 20;
    std::thread::scope(|scope| {
        let walk = std::thread::Builder::new().stack_size(STACK);
        walk.spawn_scoped(scope, || work_out(graph, files)).unwrap().join().unwrap()
    })
}

fn work_out(graph: &Graph, files: &BTreeMap<String, String>) -> Option<Expected> {
    let read = |first: char| {
        let files = files.iter().enumerate().filter(|(_, (name, _))| name.starts_with(first));
        files.flat_map(|(file, (_, text))| records(file, text)).collect::<Vec<_>>()
    };
    let (rows, lookups) = (read('f'), read('g'));
    let mut walk = Walk { graph, rows, lookups, known: BTreeMap::new(), records: 0 };
    let mut expected = Expected::default();
    let names: Vec<&String> = files.keys().collect();
    for (sink, ports) in graph.sinks.iter().enumerate() {
        let mut rows = Vec::new();
        for port in ports {
            rows.extend(walk.out_of(*port, &BTreeMap::new(), None)?);
        }
        if graph.changes(ports[0]) {
            let counts = expected.tables.entry(sink).or_default();
            rows.iter().for_each(|row| *counts.entry(row.text()).or_default() += 1);
        } else {
            for row in rows {
                let name = names[row.place.0].clone();
                let output = expected.outputs.entry((sink, name)).or_default();
                output.push((row.id, row.text()));
            }
        }
    }
    expected.outputs.values_mut().for_each(|rows| rows.sort());
    for (at, node) in graph.nodes.iter().enumerate() {
        for rounds in walk.all_rounds(&node.around, |_| None) {
            let mut rejects = walk.given(at + 1, &rounds)?.rejects.clone();
            rejects.extend(walk.over(at + 1, &rounds)?);
            for (row, round, code) in &rejects {
                let (file, line) = row.place;
                let file = names[file].clone();
                let reject = (file, line, format!("n{}", at + 1), *round, (*code).to_owned());
                expected.rejects.push(reject);
            }
        }
    }
    expected.rejects.sort();
    Some(expected)
}

fn records(file: usize, text: &str) -> Vec<Record> {
    let record = |(line, text): (usize, &str)| {
        let numbers: Vec<i64> = text.split(',').map(|one| one.parse().unwrap()).collect();
        Record { id: numbers[0], a: numbers[1], b: numbers[2], place: (file, line as u64 + 1) }
    };
    text.lines().enumerate().skip(1).map(record).collect()
}

impl Record {
    fn text(&self) -> String {
        format!("{},{},{}", self.id, self.a, self.b)
    }
}

impl Walk<'_> {
    /// Returns all that a port gives to a reader, whose loops are gone round so often. Loops that only the
    /// port is in are left: in whatever round.
    fn out_of(
        &mut self,
        (node, port): Port,
        rounds: &BTreeMap<usize, u64>,
        back: Option<(usize, u64)>,
    ) -> Option<Vec<Record>> {
        if (node, port) == LOOKUPS {
            return Some(self.lookups.clone());
        }
        if (node, port) == ROWS {
            return Some(self.rows.clone());
        }
        let around = self.graph.nodes[node - 1].around.clone();
        let wanted = |head: usize| match back {
            Some((own, before)) if own == head => Some(before),
            _ => rounds.get(&head).copied(),
        };
        let mut found = Vec::new();
        for of_port in self.all_rounds(&around, wanted) {
            found.extend(self.given(node, &of_port)?.ports[port].iter().cloned());
        }
        Some(found)
    }

    /// Returns every combination of rounds of some loops, but for those of which one is wanted.
    fn all_rounds(&self, heads: &[usize], wanted: impl Fn(usize) -> Option<u64>) -> Vec<Rounds> {
        let mut all = vec![Vec::new()];
        for head in heads {
            let most = self.graph.nodes[head - 1].max_rounds.unwrap_or_default();
            let some = wanted(*head).map_or(0..=most, |round| round..=round);
            let longer = |rounds: Rounds| {
                some.clone().map(move |round| [rounds.as_slice(), &[round]].concat())
            };
            all = all.into_iter().flat_map(longer).collect();
        }
        all
    }

    /// Returns what would go back to a head once more than it may.
    fn over(&mut self, head: usize, rounds: &Rounds) -> Option<Vec<Reject>> {
        let node = &self.graph.nodes[head - 1];
        if node.max_rounds.is_none() || rounds.last().copied() != node.max_rounds {
            return Some(Vec::new());
        }
        let mut over: Vec<Record> = Vec::new();
        let here = node.here(rounds);
        for port in node.from.iter().filter(|port| self.graph.goes_back(**port, head)) {
            over.extend(self.out_of(*port, &here, None)?);
        }
        let last = node.max_rounds.unwrap_or_default();
        Some(over.into_iter().map(|row| (row, last, "max_rounds")).collect())
    }

    /// Returns what an operator gives in a round.
    fn given(&mut self, number: usize, rounds: &Rounds) -> Option<Rc<Given>> {
        if let Some(known) = self.known.get(&(number, rounds.clone())) {
            return Some(Rc::clone(known));
        }
        let node = &self.graph.nodes[number - 1];
        let here = node.here(rounds);
        let mut given = Given { ports: vec![Vec::new(); node.ports()], rejects: Vec::new() };
        let mut came = Vec::new();
        for port in &node.from {
            let own = here.get(&number).copied().unwrap_or_default();
            if self.graph.goes_back(*port, number) {
                if own > 0 {
                    came.extend(self.out_of(*port, &here, Some((number, own - 1)))?);
                }
            } else if own == 0 || node.max_rounds.is_none() {
                came.extend(self.out_of(*port, &here, None)?);
            }
        }
        let with = match &node.work {
            Work::Join { with, .. } => self.out_of(*with, &here, None)?,
            _ => Vec::new(),
        };
        self.records += came.len();
        if self.records > RECORDS_MAX {
            return None;
        }
        came.sort();
        node.work(number, came, &with, rounds.last().copied().unwrap_or_default(), &mut given);
        let given = Rc::new(given);
        if given.ports.iter().map(Vec::len).sum::<usize>() > RECORDS_MAX {
            return None;
        }
        self.known.insert((number, rounds.clone()), Rc::clone(&given));
        Some(given)
    }
}

impl Graph {
    /// Returns whether what leaves by a port and comes to an operator goes back there.
    fn goes_back(&self, port: Port, to: usize) -> bool {
        port.0 > 0 && self.nodes[port.0 - 1].around.contains(&to)
    }
}

impl Node {
    /// Returns the rounds of the loops around it by their heads.
    fn here(&self, rounds: &Rounds) -> BTreeMap<usize, u64> {
        self.around.iter().copied().zip(rounds.iter().copied()).collect()
    }

    /// Does the work of an operator with all that comes in a round.
    fn work(
        &self,
        number: usize,
        came: Vec<Record>,
        with: &[Record],
        round: u64,
        given: &mut Given,
    ) {
        let ports = &mut given.ports;
        let by = |key: &dyn Fn(&Record) -> i64| {
            let mut groups: BTreeMap<i64, Vec<Record>> = BTreeMap::new();
            came.iter().for_each(|row| groups.entry(key(row)).or_default().push(row.clone()));
            groups
        };
        match &self.work {
            Work::Filter(condition) => {
                ports[0].extend(came.into_iter().filter(|row| condition.holds(row)));
            }
            Work::Select { factor, more: (a, b) } => ports[0].extend(came.iter().map(|row| {
                let (a, b) = ((row.a * factor + row.b + a) % 97, (row.b + b) % 89);
                Record { a, b, ..row.clone() }
            })),
            Work::Trip { modulus } => {
                let (bad, good) = came.into_iter().partition(|row| row.b % modulus == 0);
                ports[0] = good;
                let bad: Vec<Record> = bad;
                given.rejects.extend(bad.into_iter().map(|row| (row, round, "expression")));
            }
            Work::Route { rules, otherwise, all } => {
                for row in came {
                    let holds = (0..rules.len()).filter(|tag| rules[*tag].holds(&row));
                    let tags: Vec<usize> = holds.take(if *all { rules.len() } else { 1 }).collect();
                    let rest = (tags.is_empty() && *otherwise).then_some(rules.len());
                    tags.into_iter().chain(rest).for_each(|tag| ports[tag].push(row.clone()));
                }
            }
            Work::Lots { weights, word } => {
                let seed = match word {
                    Draw::Split => 0,
                    Draw::Sample => XxHash3_64::oneshot(b"s"),
                    Draw::Weighted => XxHash3_64::oneshot(format!("n{number}").as_bytes()),
                };
                came.into_iter().for_each(|row| ports[draw(row.id, seed, weights)].push(row));
            }
            Work::Aggregate { modulus } => {
                for (a, rows) in by(&|row| row.a % modulus) {
                    let id = rows.iter().map(|row| row.id).min().unwrap_or_default();
                    let b = rows.iter().map(|row| row.b).sum();
                    ports[0].push(Record { id, a, b, place: rows[0].place });
                }
            }
            Work::Dedupe { modulus, both } => {
                for mut rows in by(&|row| row.b % modulus).into_values() {
                    let others = rows.split_off(1);
                    ports[0].extend(rows);
                    if *both {
                        ports[1].extend(others);
                    }
                }
            }
            Work::Top { count, modulus } => {
                for mut rows in by(&|row| row.a % modulus).into_values() {
                    rows.sort_by_key(|row| (row.b, row.id, row.a));
                    ports[0].extend(rows.into_iter().take(*count));
                }
            }
            Work::Toggle { modulus } => {
                for rows in by(&|row| row.a % modulus).into_values() {
                    let mut second = false;
                    for row in rows {
                        second = !second && row.b % 2 == 0;
                        ports[usize::from(second)].push(row);
                    }
                }
            }
            Work::Join { kind, .. } => {
                for row in came {
                    let partners = with.iter().filter(|other| other.a == row.a);
                    let more: Vec<i64> = partners.map(|other| other.b).collect();
                    let times = match kind {
                        Kind::Inner => more,
                        Kind::Left if more.is_empty() => vec![0],
                        Kind::Left => more,
                        Kind::Semi if !more.is_empty() => vec![0],
                        Kind::Anti if more.is_empty() => vec![0],
                        Kind::Semi | Kind::Anti => Vec::new(),
                    };
                    let is_taken = matches!(kind, Kind::Inner | Kind::Left);
                    ports[0].extend(times.into_iter().map(|more| {
                        let a = if is_taken { (row.a + more) % 97 } else { row.a };
                        Record { a, ..row.clone() }
                    }));
                }
            }
        }
    }
}

impl Condition {
    fn holds(&self, row: &Record) -> bool {
        (if self.of_b { row.b } else { row.a }) % self.modulus < self.below
    }
}

/// Returns the tag that is drawn for an `id`: by the hash of its key, a mark and eight bytes that order
/// like the number.
fn draw(id: i64, seed: u64, weights: &[u64]) -> usize {
    let mut key = vec![1];
    key.extend_from_slice(&(id as u64 ^ (1 << 63)).to_be_bytes());
    let hash = XxHash3_64::oneshot_with_seed(seed, &key);
    let total: u64 = weights.iter().sum();
    let drawn = ((u128::from(hash) * u128::from(total)) >> 64) as u64;
    let mut upto = 0;
    let lot = weights.iter().position(|weight| {
        upto += weight;
        drawn < upto
    });
    lot.unwrap_or_default()
}
