//! Loops: random pipelines with loops and random ways through them, and what must come of it: what a
//! slow program says that takes one record after the other through the pipeline.
//!
//! Many pipelines run in one process, because starting one costs more than running a case. That they
//! end at all is the first promise; that each receipt balances is checked by the process itself, which
//! commits nothing else. Everything follows from a seed.
//!
//! Map, in reading order: [`graph`] (a pipeline as data, at random), [`walk`] (the slow program).

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use tidemill_bench::random::Random;

use crate::site::{Shape, Site};
use crate::tree::{self, Tree};

pub mod graph;
pub mod walk;

use graph::Graph;
use walk::Expected;

/// Files of a case.
const FILES: u64 = 2;

/// A pipeline and its files.
#[derive(Debug)]
pub struct Case {
    /// The pipeline.
    pub graph: Graph,
    /// Its files, by name.
    pub files: BTreeMap<String, String>,
    /// What each must give.
    pub expected: BTreeMap<String, Expected>,
}

impl Case {
    /// Returns the case of this number. Pipelines in which records multiply too often are passed over.
    pub fn random(seed: u64, number: u64) -> Self {
        for attempt in 0.. {
            let random = &mut Random::new(seed, number * 1000 + attempt);
            let graph = Graph::random(&format!("p{number}"), random);
            let files: BTreeMap<String, String> =
                (0..FILES).map(|file| (format!("f{file}.csv"), rows(random))).collect();
            let expected: Option<BTreeMap<String, Expected>> = files
                .iter()
                .map(|(name, text)| Some((name.clone(), walk::file(&graph, text)?)))
                .collect();
            if let Some(expected) = expected {
                return Self { graph, files, expected };
            }
        }
        unreachable!("some pipeline is small")
    }

    /// Returns what is wrong with the outputs.
    fn difference(&self, out: &Tree) -> Option<String> {
        for (name, expected) in &self.expected {
            for (sink, rows) in &expected.outputs {
                let path = format!("{sink}/{name}");
                let found = String::from_utf8_lossy(out.get(&path).map_or(b"", Vec::as_slice));
                let mut found: Vec<&str> = found.lines().skip(1).collect();
                let line = |row: &str| row.split(',').next().and_then(|id| id.parse::<u64>().ok());
                if !found.is_sorted_by_key(|row| line(row)) {
                    return Some(format!("{path} is not in input order: {found:?}"));
                }
                // What comes of one record by several ways has an order that the walk does not know.
                found.sort_by_key(|row| (line(row), (*row).to_owned()));
                if found != rows.iter().map(String::as_str).collect::<Vec<_>>() {
                    return Some(format!("{path}\nexpected {rows:?}\nfound    {found:?}"));
                }
            }
            let path = format!("rejects/{name}.jsonl");
            let found = String::from_utf8_lossy(out.get(&path).map_or(b"", Vec::as_slice));
            let mut found: Vec<(u64, String, u64, String)> = found
                .lines()
                .map(|line| {
                    let row: serde_json::Value = serde_json::from_str(line).unwrap();
                    let text = |name: &str| row[name].as_str().unwrap_or_default().to_owned();
                    let number = |name: &str| row[name].as_u64().unwrap_or(u64::MAX);
                    (number("line"), text("operator"), number("round"), text("code"))
                })
                .collect();
            found.sort();
            if found != expected.rejects {
                return Some(format!(
                    "{path}\nexpected {:?}\nfound    {found:?}",
                    expected.rejects
                ));
            }
        }
        None
    }
}

fn rows(random: &mut Random) -> String {
    let mut text = "id,a,b\n".to_owned();
    for id in 0..random.below(30) {
        let _ = writeln!(text, "{id},{},{}", random.below(100), random.below(100));
    }
    text
}

/// What a campaign found.
#[derive(Debug, Default)]
pub struct Report {
    /// Cases that were run.
    pub cases: u64,
    /// Loops in them.
    pub loops: usize,
    /// Records that went round too often.
    pub over: usize,
    /// What went wrong.
    pub failures: Vec<String>,
    /// How long it took.
    pub took: Duration,
}

/// Runs cases, so many in one process, each process in another shape.
pub fn campaign(node: &str, seed: u64, first: u64, cases: u64, together: u64) -> Report {
    const SHAPES: [Shape; 3] = [Shape::new(1, 3), Shape::ALONE, Shape::new(2, 2)];
    let began = Instant::now();
    let mut report = Report { cases, ..Report::default() };
    let numbers: Vec<u64> = (first..first + cases).collect();
    for (at, numbers) in numbers.chunks(together.max(1) as usize).enumerate() {
        let cases: Vec<Case> = numbers.iter().map(|number| Case::random(seed, *number)).collect();
        let Some(one) = cases.first() else { continue };
        let mut site = Site::new(node, &one.graph.yaml());
        let more: Vec<String> = (1..cases.len()).map(|at| format!("more{at}.yaml")).collect();
        for (name, case) in more.iter().zip(&cases[1..]) {
            std::fs::write(site.path().join(name), case.graph.yaml()).unwrap();
        }
        site.always(&more.iter().map(String::as_str).collect::<Vec<_>>());
        for case in &cases {
            let folder = site.home().join(&case.graph.name).join("unprocessed");
            std::fs::create_dir_all(&folder).unwrap();
            for (name, text) in &case.files {
                std::fs::write(folder.join(name), text).unwrap();
            }
        }
        let ended = site.once(SHAPES[at % SHAPES.len()]);
        if ended.code != Some(0) {
            report.failures.push(format!("cases {numbers:?} (seed {seed}): {ended:?}"));
            continue;
        }
        for (number, case) in numbers.iter().zip(&cases) {
            report.loops += case.graph.nodes.iter().filter(|one| one.max_rounds.is_some()).count();
            let over = |one: &Expected| {
                one.rejects.iter().filter(|(.., code)| code == "max_rounds").count()
            };
            report.over += case.expected.values().map(over).sum::<usize>();
            let out = tree::read(&site.home().join(&case.graph.name).join("out"));
            if let Some(difference) = case.difference(&out) {
                report.failures.push(format!(
                    "case {number} (seed {seed}): {difference}\n{}",
                    case.graph.yaml()
                ));
            }
        }
    }
    report.took = began.elapsed();
    report
}
