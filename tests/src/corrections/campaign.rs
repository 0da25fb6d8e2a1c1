//! Campaign: many fleets, and the smallest case of what failed.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tidemill_bench::random::Random;

use super::case::{Case, ROUNDS, Step};
use super::fleet::{self, End, Life};
use crate::site::Shape;

/// Cases of a fleet.
const FLEET: u64 = 50;

/// How long the search for a smaller case may take.
const SHRINK_MAX: Duration = Duration::from_secs(60);

/// Streams of random numbers behind this one are for the lives of fleets; those before, for cases.
const LIVES: u64 = 1 << 40;

/// What to run.
#[derive(Clone, Debug)]
pub struct Campaign {
    /// The binary.
    pub node: PathBuf,
    /// Everything follows from it.
    pub seed: u64,
    /// The number of the first case.
    pub first: u64,
    /// How many cases.
    pub cases: u64,
    /// Fleets that run at the same time.
    pub side_by_side: usize,
}

/// A case that failed.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Its number.
    pub number: u64,
    /// The smallest case that fails.
    pub case: Case,
    /// With which lives.
    pub lives: Vec<Life>,
    /// What is wrong.
    pub text: String,
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
        let end = self.first + self.cases;
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
        let cases: Vec<Case> = (first..end).map(|number| Case::random(self.seed, number)).collect();
        let lives = lives(self.seed, first);
        let steps = |case: &Case| case.rounds.iter().map(Vec::len).sum::<usize>() as u64;
        let mut report = Report {
            cases: cases.len() as u64,
            steps: cases.iter().map(steps).sum(),
            kills: lives.iter().filter(|life| life.end == End::Kill).count() as u64,
            ..Report::default()
        };
        match self.attempt(&cases, &lives) {
            Ok(differences) => {
                for ((number, case), difference) in (first..).zip(&cases).zip(differences) {
                    if let Some(text) = difference {
                        report.failures.push(self.smallest(number, case, &lives, text));
                        break;
                    }
                }
            }
            Err(text) => {
                let alone = (first..).zip(&cases).find_map(|(number, case)| {
                    let text = self.wrong(case, &lives)?;
                    Some(self.smallest(number, case, &lives, text))
                });
                // Only together: told with the first of them.
                let together = || Failure {
                    number: first,
                    case: cases[0].clone(),
                    lives: lives.clone(),
                    text: format!("{} cases together, none of them alone:\n{text}", cases.len()),
                };
                report.failures.push(alone.unwrap_or_else(together));
            }
        }
        report
    }

    /// Runs cases together; an error is what the process, or the harness, fell over.
    fn attempt(&self, cases: &[Case], lives: &[Life]) -> Result<Vec<Option<String>>, String> {
        let run = AssertUnwindSafe(|| fleet::run(&self.node, cases, lives));
        catch_unwind(run).map_err(|panic| match panic.downcast_ref::<String>() {
            Some(text) => text.clone(),
            None => (*panic.downcast_ref::<&str>().unwrap_or(&"it panicked")).to_string(),
        })
    }

    /// Runs a case alone; returns what is wrong.
    fn wrong(&self, case: &Case, lives: &[Life]) -> Option<String> {
        match self.attempt(std::slice::from_ref(case), lives) {
            Ok(differences) => differences.into_iter().flatten().next(),
            Err(text) => Some(text),
        }
    }

    /// Searches for the smallest case that still fails.
    fn smallest(&self, number: u64, case: &Case, lives: &[Life], text: String) -> Failure {
        let mut failure = Failure { number, case: case.clone(), lives: lives.to_vec(), text };
        let until = Instant::now() + SHRINK_MAX;
        let mut smaller = true;
        while smaller && Instant::now() < until {
            smaller = false;
            for (case, lives) in attempts(&failure.case, &failure.lives) {
                if Instant::now() >= until {
                    break;
                }
                if let Some(text) = self.wrong(&case, &lives) {
                    failure = Failure { number, case, lives, text };
                    smaller = true;
                    break;
                }
            }
        }
        failure
    }
}

/// Returns how the processes of a fleet live. Most of what a case costs is building dataflows, once a
/// start and worker: shapes are small, and in half of the rounds nothing ends.
fn lives(seed: u64, first: u64) -> Vec<Life> {
    let random = &mut Random::new(seed, LIVES + first);
    let shapes = [(1, 1), (1, 1), (1, 2), (1, 2), (1, 3), (2, 1)];
    let ends = [End::None, End::None, End::Stop, End::Kill];
    let mut life = || {
        let (processes, workers) = *random.pick(&shapes);
        Life { shape: Shape::new(processes, workers), end: *random.pick(&ends) }
    };
    (0..ROUNDS).map(|_| life()).collect()
}

/// Returns smaller cases, the ones that save most first.
fn attempts(case: &Case, lives: &[Life]) -> Vec<(Case, Vec<Life>)> {
    let calm = Life { shape: Shape::ALONE, end: End::None };
    let mut all = Vec::new();
    if lives.iter().any(|life| *life != calm) {
        all.push((case.clone(), vec![calm; lives.len()]));
    }
    for at in 0..case.pipeline.sinks.len() {
        if let Some(pipeline) = case.pipeline.without_sink(at) {
            let read: Vec<String> =
                pipeline.sources.iter().map(|one| format!("{}-", one.name)).collect();
            let mut rounds = case.rounds.clone();
            for round in &mut rounds {
                round.retain(|step| read.iter().any(|name| step.name().starts_with(name)));
            }
            all.push((Case { pipeline, rounds }, lives.to_vec()));
        }
    }
    for (round, at) in places(case) {
        let mut smaller = case.clone();
        let gone = smaller.rounds[round].remove(at);
        // What removes or replaces it would have nothing to do.
        let later = smaller.rounds.iter().flatten();
        if later.filter(|step| step.name() == gone.name()).count() > 0 {
            let name = gone.name();
            let mut without = smaller.clone();
            for round in &mut without.rounds {
                round.retain(|step| step.name() != name);
            }
            all.push((without, lives.to_vec()));
            if !matches!(gone, Step::Remove { .. }) {
                continue;
            }
        }
        all.push((smaller, lives.to_vec()));
    }
    for (at, life) in lives.iter().enumerate() {
        if *life != calm {
            let mut calmer = lives.to_vec();
            calmer[at] = calm;
            all.push((case.clone(), calmer));
        }
    }
    for (round, at) in places(case) {
        let Step::Put { body, is_damaged: false, .. } = &case.rounds[round][at] else { continue };
        for line in 0..body.split(|byte| *byte == b'\n').count() {
            let kept = body.split_inclusive(|byte| *byte == b'\n').enumerate();
            let kept: Vec<u8> =
                kept.filter(|(at, _)| *at != line).flat_map(|(_, line)| line).copied().collect();
            if kept.len() < body.len() && keeps_header(&case.rounds[round][at], line) {
                let mut smaller = case.clone();
                if let Step::Put { body, .. } = &mut smaller.rounds[round][at] {
                    *body = kept;
                }
                all.push((smaller, lives.to_vec()));
            }
        }
    }
    all
}

fn keeps_header(step: &Step, line: usize) -> bool {
    line > 0 || !step.name().ends_with(".csv")
}

fn places(case: &Case) -> Vec<(usize, usize)> {
    let rounds = case.rounds.iter().enumerate();
    rounds.flat_map(|(round, steps)| (0..steps.len()).map(move |at| (round, at))).collect()
}

impl std::fmt::Display for Failure {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(
            out,
            "case {} differs from a fresh run over the files that are left:",
            self.number
        )?;
        writeln!(out, "{}\npipeline.yaml\n{}", self.text, self.case.pipeline.yaml())?;
        for (at, round) in self.case.rounds.iter().enumerate() {
            let life = self.lives.get(at);
            let life = life.map(|life| format!("{}, then {:?}", life.shape, life.end));
            writeln!(out, "round {} ({})", at + 1, life.unwrap_or_default())?;
            for step in round {
                match step {
                    Step::Put { name, body, is_damaged, way } => {
                        writeln!(out, "  put {name} ({way:?}, damaged: {is_damaged})")?;
                        for line in String::from_utf8_lossy(body).lines().filter(|_| !is_damaged) {
                            writeln!(out, "    | {line}")?;
                        }
                    }
                    Step::Remove { name, way } => writeln!(out, "  remove {name} ({way:?})")?,
                }
            }
        }
        Ok(())
    }
}
