//! Loops: random pipelines of tags, loops and state, and what must come of their files before and after
//! some are corrected: what a slow program says that knows only the files that are there.
//!
//! Many pipelines run in one process, because starting one costs more than running a case. That they
//! end at all is the first promise; that each receipt balances is checked by the process itself, which
//! commits nothing else. Everything follows from a seed.
//!
//! Map, in reading order: [`graph`] (a pipeline as data, at random), [`yaml`] (how it is written),
//! [`walk`] (the slow program).

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use tidemill_bench::random::Random;

use crate::site::{Shape, Site};
use crate::tree::{self, Tree};

pub mod graph;
pub mod walk;
pub mod yaml;

use graph::{Graph, Node};
use walk::Expected;
use yaml::REJECTED;

/// Rounds that rows behind state go through one after the other, at most: each takes a while.
const ROUNDS_MAX: u64 = 100;

/// A pipeline and its files.
#[derive(Debug)]
pub struct Case {
    /// The pipeline.
    pub graph: Graph,
    /// Its files, by name: as they come first, and as they are corrected.
    pub files: [BTreeMap<String, String>; 2],
    /// What must come of either.
    pub expected: [Expected; 2],
}

impl Case {
    /// Returns the case of this number. Pipelines in which records multiply too often are passed over.
    pub fn random(seed: u64, number: u64) -> Self {
        for attempt in 0.. {
            let random = &mut Random::new(seed, number * 1000 + attempt);
            let graph = Graph::random(&format!("p{number}"), random);
            if graph.rounds_of_state() > ROUNDS_MAX {
                continue;
            }
            let first = ["f0.csv", "f1.csv", "f2.csv", "g0.csv", "g1.csv"];
            let first: BTreeMap<String, String> =
                first.into_iter().map(|name| (name.to_owned(), rows(random))).collect();
            let mut second = first.clone();
            // One stays as it is, one is replaced, one removed, and one comes later.
            second.insert("f1.csv".to_owned(), rows(random));
            second.remove("f2.csv");
            second.insert("f3.csv".to_owned(), rows(random));
            second.insert("g0.csv".to_owned(), rows(random));
            let files = [first, second].map(|mut files| {
                files.retain(|name, _| graph.takes(name));
                files
            });
            let expected = files.each_ref().map(|files| walk::files(&graph, files));
            if let [Some(first), Some(second)] = expected {
                return Self { graph, files, expected: [first, second] };
            }
        }
        unreachable!("some pipeline is small")
    }

    /// Drops the files of a step: those that are new or have changed; deletes those that are gone.
    fn put(&self, step: usize, folder: &Path) {
        let before = if step == 0 { &BTreeMap::new() } else { &self.files[step - 1] };
        let inbox = folder.join("unprocessed");
        std::fs::create_dir_all(&inbox).unwrap();
        for (name, text) in &self.files[step] {
            if before.get(name) != Some(text) {
                std::fs::write(inbox.join(name), text).unwrap();
            }
        }
        for name in before.keys().filter(|name| !self.files[step].contains_key(*name)) {
            std::fs::remove_file(folder.join("processed").join(name)).unwrap();
        }
    }

    /// Returns what is wrong with the outputs behind a step.
    fn difference(&self, step: usize, out: &Tree) -> Option<String> {
        let expected = &self.expected[step];
        let text = |path: &str| String::from_utf8_lossy(out.get(path).map_or(b"", Vec::as_slice));
        for (sink, ports) in self.graph.sinks.iter().enumerate() {
            if self.graph.changes(ports[0]) {
                let rows = expected.tables.get(&sink).into_iter().flatten();
                let rows: Vec<String> = rows.map(|(row, times)| format!("{row},{times}")).collect();
                if let Some(difference) = table(&format!("o{sink}"), rows, &text) {
                    return Some(difference);
                }
                continue;
            }
            for name in
                self.files.iter().flat_map(BTreeMap::keys).filter(|name| name.starts_with('f'))
            {
                let path = format!("o{sink}/{name}");
                let rows = expected.outputs.get(&(sink, name.clone()));
                let rows: Vec<&str> =
                    rows.into_iter().flatten().map(|row| row.1.as_str()).collect();
                let found = text(&path);
                let mut found: Vec<&str> = found.lines().skip(1).collect();
                let id = |row: &str| row.split(',').next().and_then(|id| id.parse::<i64>().ok());
                if !found.is_sorted_by_key(|row| id(row)) {
                    return Some(format!("{path} is not in input order: {found:?}"));
                }
                // What comes of one record by several ways has an order that the walk does not know.
                found.sort_by_key(|row| (id(row), (*row).to_owned()));
                if found != rows {
                    return Some(format!("{path}\nexpected {rows:?}\nfound    {found:?}"));
                }
            }
        }
        if self.graph.keeps_state() {
            let mut counts: BTreeMap<String, u64> = BTreeMap::new();
            for (_, _, operator, round, code) in &expected.rejects {
                *counts.entry(format!("{operator},{round},{code}")).or_default() += 1;
            }
            let rows = counts.into_iter().map(|(row, times)| format!("{row},{times}")).collect();
            return table(REJECTED, rows, &text);
        }
        let mut found = Vec::new();
        for (path, bytes) in out.iter().filter(|(path, _)| path.starts_with("rejects/")) {
            let name = path.trim_start_matches("rejects/").trim_end_matches(".jsonl");
            for line in String::from_utf8_lossy(bytes).lines() {
                let row: serde_json::Value = serde_json::from_str(line).unwrap();
                let text = |name: &str| row[name].as_str().unwrap_or_default().to_owned();
                let number = |name: &str| row[name].as_u64().unwrap_or(u64::MAX);
                let reject = (number("line"), text("operator"), number("round"), text("code"));
                found.push((name.to_owned(), reject.0, reject.1, reject.2, reject.3));
            }
        }
        found.sort();
        (found != expected.rejects)
            .then(|| format!("rejects\nexpected {:?}\nfound    {found:?}", expected.rejects))
    }
}

/// Returns what is wrong with the rows of a table.
fn table<'t>(
    name: &str,
    mut rows: Vec<String>,
    text: &dyn Fn(&str) -> Cow<'t, str>,
) -> Option<String> {
    let found = text(&format!("{name}/{name}.csv"));
    let mut found: Vec<&str> = found.lines().skip(1).collect();
    found.sort_unstable();
    rows.sort_unstable();
    (found != rows).then(|| format!("table {name}\nexpected {rows:?}\nfound    {found:?}"))
}

fn rows(random: &mut Random) -> String {
    let mut text = "id,a,b\n".to_owned();
    for id in 0..random.below(20) {
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
    /// Operators with state inside of loops.
    pub states: usize,
    /// What went wrong.
    pub failures: Vec<String>,
    /// How long it took.
    pub took: Duration,
}

/// Runs cases, so many in one process: first with the files as they come first, then, in another
/// life of another shape, with the corrections.
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
        cases.iter().for_each(|case| report.count(case));
        for step in 0..2 {
            let home = |case: &Case| site.home().join(&case.graph.name);
            cases.iter().for_each(|case| case.put(step, &home(case)));
            let ended = site.once(SHAPES[(at + step) % SHAPES.len()]);
            if ended.code != Some(0) {
                let yaml = if let [one] = &cases[..] { one.graph.yaml() } else { String::new() };
                report.failures.push(format!("cases {numbers:?} (seed {seed}): {ended:?}\n{yaml}"));
                break;
            }
            for (number, case) in numbers.iter().zip(&cases) {
                if let Some(difference) =
                    case.difference(step, &tree::read(&home(case).join("out")))
                {
                    let yaml = case.graph.yaml();
                    let step = ["first", "corrected"][step];
                    let failure =
                        format!("case {number} (seed {seed}), {step}: {difference}\n{yaml}");
                    report.failures.push(failure);
                }
            }
        }
    }
    report.took = began.elapsed();
    report
}

impl Report {
    fn count(&mut self, case: &Case) {
        let nodes = &case.graph.nodes;
        self.loops += nodes.iter().filter(|one| one.max_rounds.is_some()).count();
        let inside = |one: &&Node| one.keeps_state() && !one.around.is_empty();
        self.states += nodes.iter().filter(inside).count();
        let over =
            |one: &Expected| one.rejects.iter().filter(|(.., code)| code == "max_rounds").count();
        self.over += case.expected.iter().map(over).sum::<usize>();
    }
}
