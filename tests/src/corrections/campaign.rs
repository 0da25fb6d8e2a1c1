//! Campaign: many fleets, and the smallest history of what failed.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tidemill_bench::random::Random;

use super::fleet::{self, End, Life};
use super::history::{Case, History, ROUNDS, Step};
use super::shrink;
use crate::site::Shape;

/// Histories of a fleet.
const FLEET: u64 = 50;

/// How much of a record is shown.
const SHOWN_CHARS: usize = 300;

/// Streams of random numbers behind this one are for the lives of fleets; those before, for histories.
const LIVES: u64 = 1 << 40;

/// What to run.
#[derive(Clone, Debug)]
pub struct Campaign {
    /// The binary.
    pub node: PathBuf,
    /// Everything follows from it.
    pub seed: u64,
    /// The number of the first history.
    pub first: u64,
    /// How many histories, each a pipeline with [`super::history::CASES`] cases.
    pub histories: u64,
    /// Fleets that run at the same time.
    pub side_by_side: usize,
}

/// A history that failed.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Its number.
    pub number: u64,
    /// The smallest one that fails.
    pub history: History,
    /// With which lives.
    pub lives: Vec<Life>,
    /// What is wrong with it.
    pub text: String,
    /// What was wrong before it was made smaller.
    pub found: String,
}

/// What came of a campaign.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Cases that were run.
    pub cases: u64,
    /// Steps that were taken.
    pub steps: u64,
    /// How many of the fleets' processes were killed.
    pub kills: u64,
    /// What failed.
    pub failures: Vec<Failure>,
    /// How long it took.
    pub took: Duration,
}

impl Campaign {
    /// Runs all cases. Ends early once some have failed: one is enough to work on.
    pub fn run(&self) -> Report {
        let began = Instant::now();
        let (next, report) = (AtomicU64::new(self.first), Mutex::new(Report::default()));
        let end = self.first + self.histories;
        std::thread::scope(|scope| {
            for _ in 0..self.side_by_side {
                scope.spawn(|| {
                    loop {
                        let first = next.fetch_add(FLEET, Ordering::Relaxed);
                        let failed = !report.lock().unwrap().failures.is_empty();
                        if first >= end || failed {
                            return;
                        }
                        let one = self.fleet(first, end.min(first + FLEET));
                        let mut report = report.lock().unwrap();
                        report.cases += one.cases;
                        report.steps += one.steps;
                        report.kills += one.kills;
                        report.failures.extend(one.failures);
                    }
                });
            }
        });
        Report { took: began.elapsed(), ..report.into_inner().unwrap() }
    }

    fn fleet(&self, first: u64, end: u64) -> Report {
        let random = |number| History::random(self.seed, number);
        let histories: Vec<History> = (first..end).map(random).collect();
        let lives = lives(self.seed, first);
        let cases = || histories.iter().flat_map(|history| &history.cases);
        let mut report = Report {
            cases: cases().count() as u64,
            steps: cases().map(Case::steps).sum::<usize>() as u64,
            kills: lives.iter().filter(|life| life.end == End::Kill).count() as u64,
            ..Report::default()
        };
        let found = match self.attempt(&histories, &lives) {
            Ok(differences) => {
                differences.into_iter().enumerate().find_map(|(at, text)| Some((at, text?)))
            }
            Err(text) => match self.alone(&histories, &lives) {
                Some(found) => Some(found),
                None => {
                    // Told with the first of them.
                    let (number, history) = (first, histories[0].clone());
                    let text = format!("{} together, none alone:\n{text}", histories.len());
                    let (lives, found) = (lives.clone(), text.clone());
                    report.failures.push(Failure { number, history, lives, text, found });
                    None
                }
            },
        };
        if let Some((at, text)) = found {
            let (number, history) = (first + at as u64, histories[at].clone());
            let failure = Failure { number, history, lives, found: text.clone(), text };
            report.failures.push(shrink::smallest(failure, |one, lives| self.wrong(one, lives)));
        }
        report
    }

    /// Runs histories together; an error is what the process, or the harness, fell over.
    fn attempt(&self, all: &[History], lives: &[Life]) -> Result<Vec<Option<String>>, String> {
        let run = AssertUnwindSafe(|| fleet::run(&self.node, all, lives));
        catch_unwind(run).map_err(|panic| match panic.downcast_ref::<String>() {
            Some(text) => text.clone(),
            None => (*panic.downcast_ref::<&str>().unwrap_or(&"it panicked")).to_string(),
        })
    }

    /// Searches for the one history over which all fall, by halves.
    fn alone(&self, all: &[History], lives: &[Life]) -> Option<(usize, String)> {
        if let [only] = all {
            return Some((0, self.wrong(only, lives)?));
        }
        let middle = all.len() / 2;
        let (one, two) = all.split_at(middle);
        if self.attempt(one, lives).is_err() {
            return self.alone(one, lives);
        }
        let (at, text) = self.alone(two, lives)?;
        Some((middle + at, text))
    }

    /// Runs a history alone; returns what is wrong.
    fn wrong(&self, history: &History, lives: &[Life]) -> Option<String> {
        match self.attempt(std::slice::from_ref(history), lives) {
            Ok(differences) => differences.into_iter().flatten().next(),
            Err(text) => Some(text),
        }
    }
}

/// Returns how the processes of a fleet live. Most of what a case costs is building dataflows, once a
/// start and worker: shapes are small, and behind most rounds nothing ends.
fn lives(seed: u64, first: u64) -> Vec<Life> {
    let random = &mut Random::new(seed, LIVES + first);
    let shapes = [(1, 1), (1, 1), (1, 2), (1, 2), (1, 3), (2, 1)];
    let mut life = || {
        let (processes, workers) = *random.pick(&shapes);
        let end = match random.below(12) {
            0 => End::Stop,
            1 => End::Kill,
            _ => End::None,
        };
        Life { shape: Shape::new(processes, workers), end }
    };
    (0..Life::ALL).map(|_| life()).collect()
}

impl std::fmt::Display for Failure {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { number, history, lives, text, found } = self;
        writeln!(out, "history {number} differs from a fresh run over the files that are left:")?;
        if found != text {
            writeln!(out, "{found}\nand, made smaller,")?;
        }
        writeln!(out, "{text}\npipeline.yaml\n{}", history.pipeline.yaml())?;
        let rounds = history.cases.iter().enumerate().flat_map(|(case, one)| {
            one.rounds.iter().enumerate().map(move |(round, steps)| (case, round, steps))
        });
        for (case, round, steps) in rounds {
            let life = lives.get(case * ROUNDS + round);
            let life = life.map(|life| format!("{}, then {:?}", life.shape, life.end));
            writeln!(out, "case {}, round {} ({})", case + 1, round + 1, life.unwrap_or_default())?;
            for step in steps {
                match step {
                    Step::Put { name, body, is_damaged, way } => {
                        writeln!(out, "  put {name} ({way:?}, damaged: {is_damaged})")?;
                        for line in String::from_utf8_lossy(body).lines().filter(|_| !is_damaged) {
                            let shown: String = line.chars().take(SHOWN_CHARS).collect();
                            writeln!(out, "    | {shown}")?;
                        }
                    }
                    Step::Remove { name, way } => writeln!(out, "  remove {name} ({way:?})")?,
                }
            }
        }
        Ok(())
    }
}
