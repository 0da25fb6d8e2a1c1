//! Run: one test in a home of its own: an engine with one worker, its steps one after the other, and
//! what came out held against what must be there.
//!
//! Files go in by the same call that an upload ends with, so they are journalled, run and committed as
//! anywhere else; no folder is watched and no server listens.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant, SystemTime};

use super::cells;
use super::compare::{self, Difference, Row};
use super::found::{self, Outputs};
use super::seen::Seen;
use super::tap::Tap;
use super::{At, AuthorTest, Content, Expectation, Expected, GivenFile, Order, Step, Target};
use crate::engine::tables::Cell;
use crate::engine::{Engine, Replaces, SubmitError, Target as Removed, Upload};
use crate::graph::BEHIND_STATE;
use crate::intake::Patience;
use crate::plan::{Plan, Secrets, SinkKind, SinkPlan};
use crate::report::{Phase, SubmissionFilter, SubmissionReport};
use crate::space::Reserve;
use crate::start::{Config, StartError, start};

/// How long a step may take.
const STEP_MAX: Duration = Duration::from_secs(300);
/// How often the end is looked for; nothing ever comes into the folders of a test.
const LOOK: Duration = Duration::from_millis(2);
/// The largest file of a test, in bytes.
const FILE_BYTES_MAX: u64 = 1 << 30;
/// How many submissions of a test are listed.
const SUBMISSIONS_MAX: usize = 1_000_000;

/// Why a test could not be run.
#[derive(Debug, thiserror::Error)]
pub enum TestError {
    /// The engine did not start.
    #[error("start the engine")]
    Start(#[from] StartError),
    /// A file of the test was not taken.
    #[error("line {line}: give {name}")]
    Submit {
        /// The file.
        name: String,
        /// Where it stands in the pipeline file.
        line: u32,
        /// Why.
        source: SubmitError,
    },
    /// A file of the test cannot be read.
    #[error("line {line}: read {}: {reason}", path.display())]
    Read {
        /// Which one.
        path: PathBuf,
        /// Where it stands in the pipeline file.
        line: u32,
        /// Why.
        reason: String,
    },
    /// A file cannot be removed.
    #[error("line {line}: remove {name}: {reason}")]
    Remove {
        /// Its name.
        name: String,
        /// Where it stands in the pipeline file.
        line: u32,
        /// Why.
        reason: String,
    },
    /// The home of the test cannot be written.
    #[error("write into the home of the test")]
    Home(#[from] std::io::Error),
    /// An output cannot be read.
    #[error("read the outputs of {name}: {reason}")]
    Output {
        /// The sink.
        name: String,
        /// Why.
        reason: String,
    },
    /// A step did not end.
    #[error("the files {names} are not finished after {} seconds", STEP_MAX.as_secs())]
    Slow {
        /// Which ones.
        names: String,
    },
}

/// One expectation that was not met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What it is about: the name of a sink, `rejects`, or `quarantined`.
    pub about: String,
    /// Where it stands in the pipeline file.
    pub at: At,
    /// What is wrong, in one sentence.
    pub message: String,
    /// The columns of the rows in `differences`; none for lines.
    pub columns: Vec<String>,
    /// What is wrong, row by row.
    pub differences: Vec<Difference>,
}

/// What came out of a test.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// The expectations that were not met; none: the test holds.
    pub failures: Vec<Failure>,
    /// The files of the test, in the order in which they came.
    pub files: Vec<SubmissionReport>,
    /// The rows of each sink of which rows are expected.
    pub found: Vec<Found>,
}

/// What is in a sink.
#[derive(Clone, Debug)]
pub struct Found {
    /// Its name as it is written under `expect`.
    pub name: String,
    /// The columns that are compared.
    pub columns: Vec<String>,
    /// The rows.
    pub rows: Vec<Vec<Cell>>,
    /// Whether they are lines.
    pub is_raw: bool,
}

/// Runs a test in the empty folder `home`. `folder` is that of the pipeline file.
pub fn run(
    plan: &Plan,
    test: &AuthorTest,
    folder: &Path,
    home: &Path,
    tap: Option<Tap>,
) -> Result<Outcome, TestError> {
    let config = Config {
        home: home.to_path_buf(),
        plans: vec![plan.clone()],
        workers: 1,
        mesh: None,
        patience: Patience { quiet: LOOK, scan: LOOK },
        reserve: Reserve::Bytes(0),
        once: false,
        forget_missing: false,
        forget_deployed: false,
        added: BTreeSet::new(),
        no_deploys: Some("these are the tests of a pipeline"),
        secrets: Secrets::default(),
        announce: None,
        checkpoint_every: Duration::ZERO,
        tap,
    };
    let running = start(config)?;
    let engine = running.engine().clone();
    // Whatever goes wrong, the engine ends before its home is taken away.
    let seen = drive(&engine, plan, test, folder);
    engine.stop();
    running.wait();
    let (files, tables) = seen?;
    let out = home.join(&plan.name).join("out");
    let (failures, found) = judge(plan, test, folder, &out, &files, &tables)?;
    Ok(Outcome { failures, files, found })
}

/// Rows of the tables that a test speaks of, by the place of their sinks.
type TableRows = Vec<(usize, Vec<Vec<Cell>>)>;

/// Takes all steps, and asks the tables.
fn drive(
    engine: &Engine,
    plan: &Plan,
    test: &AuthorTest,
    folder: &Path,
) -> Result<(Vec<SubmissionReport>, TableRows), TestError> {
    let (finished, hears) = channel();
    engine.observe(Arc::new(move |file: &SubmissionReport| {
        if file.phase.is_final() {
            // Nobody listens any more once the test has been given up.
            let _ = finished.send(file.id);
        }
    }));
    for step in &test.steps {
        let mut sent = Vec::new();
        match step {
            Step::Add(files) => {
                for file in files {
                    sent.push(give(engine, file, folder, Replaces::Nothing)?);
                }
            }
            Step::Replace(files) => {
                for file in files {
                    sent.push(give(engine, file, folder, Replaces::SameName)?);
                }
            }
            Step::Remove(names) => {
                for (name, at) in names {
                    sent.push(remove(engine, name, *at)?);
                }
            }
        }
        wait(&sent, &hears)?;
    }
    let filter = SubmissionFilter { limit: SUBMISSIONS_MAX, ..SubmissionFilter::default() };
    let listed = engine.submissions(&filter).map_err(|error| TestError::Output {
        name: "the test".to_owned(),
        reason: error.to_string(),
    })?;
    let mut tables = Vec::new();
    for one in &test.expect {
        if let (Target::Sink(at), Expected::Rows { columns, .. }) = (one.target, &one.expected)
            && matches!(plan.sinks[at].kind, SinkKind::Table { .. })
        {
            tables.push((at, found::table(engine, &plan.sinks[at].name, columns)?));
        }
    }
    Ok((listed.into_iter().rev().collect(), tables))
}

/// Gives a file to the engine; returns its submission and its name.
fn give(
    engine: &Engine,
    file: &GivenFile,
    folder: &Path,
    replaces: Replaces,
) -> Result<(u64, String), TestError> {
    let bytes = match &file.content {
        Content::Bytes(bytes) => bytes.clone(),
        Content::File(path) => read_file(&folder.join(path), file.at.line)?,
    };
    let path = engine.spool().join("test");
    std::fs::write(&path, &bytes)?;
    let upload = Upload {
        pipeline: None,
        name: file.name.clone(),
        path,
        bytes: bytes.len() as u64,
        hash: *blake3::hash(&bytes).as_bytes(),
        seen_at: SystemTime::now(),
        client_id: None,
        replaces,
    };
    let report = engine.submit(upload).map_err(|source| TestError::Submit {
        name: file.name.clone(),
        line: file.at.line,
        source,
    })?;
    Ok((report.id, file.name.clone()))
}

fn read_file(path: &Path, line: u32) -> Result<Vec<u8>, TestError> {
    let failed = |reason: String| TestError::Read { path: path.to_path_buf(), line, reason };
    let there = std::fs::metadata(path).map_err(|error| failed(error.to_string()))?;
    if !there.is_file() {
        return Err(failed("it is no file".to_owned()));
    }
    if there.len() > FILE_BYTES_MAX {
        let reason = format!("it has {} bytes; a test takes {FILE_BYTES_MAX}", there.len());
        return Err(failed(reason));
    }
    std::fs::read(path).map_err(|error| failed(error.to_string()))
}

fn remove(engine: &Engine, name: &str, at: At) -> Result<(u64, String), TestError> {
    let failed =
        |reason: String| TestError::Remove { name: name.to_owned(), line: at.line, reason };
    let target = Removed::Name { pipeline: None, name: name.to_owned() };
    match engine.remove(&target) {
        Ok(Some(report)) => Ok((report.id, name.to_owned())),
        Ok(None) => Err(failed("it is gone already".to_owned())),
        Err(error) => Err(failed(error.to_string())),
    }
}

/// Waits until all of these are final.
fn wait(sent: &[(u64, String)], hears: &Receiver<u64>) -> Result<(), TestError> {
    let until = Instant::now() + STEP_MAX;
    let mut open: BTreeSet<u64> = sent.iter().map(|(id, _)| *id).collect();
    while !open.is_empty() {
        match hears.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(id) => {
                open.remove(&id);
            }
            Err(_) => {
                let late = sent.iter().filter(|(id, _)| open.contains(id));
                let names: Vec<&str> = late.map(|(_, name)| name.as_str()).collect();
                return Err(TestError::Slow { names: names.join(", ") });
            }
        }
    }
    Ok(())
}

/// Holds what came out against what must be there.
fn judge(
    plan: &Plan,
    test: &AuthorTest,
    folder: &Path,
    out: &Path,
    files: &[SubmissionReport],
    tables: &TableRows,
) -> Result<(Vec<Failure>, Vec<Found>), TestError> {
    let mut all_found = Vec::new();
    let owners = found::owners(files);
    let mut failures = quarantined(test, files);
    let nothing = nothing_rejected(plan, test);
    let all = test.expect.iter().chain(&test.rejects).chain(&nothing);
    for one in all {
        let outputs = || Outputs::read(plan, one.target, out, &owners);
        let failure = match &one.expected {
            Expected::Rows { columns, rows, order } => {
                let table = match one.target {
                    Target::Sink(at) => tables.iter().find(|(sink, _)| *sink == at),
                    Target::Changes(_) => None,
                };
                let found = match table {
                    Some((_, rows)) => rows.clone(),
                    None => outputs()?.rows(plan, one.target, columns)?,
                };
                let expected: Vec<Row<'_>> =
                    rows.iter().map(|row| Row { at: row.at, cells: &row.cells }).collect();
                let is_raw = Seen::of(plan, one.target).is_raw;
                let show = if is_raw { cells::shown_line } else { cells::shown };
                let differences = match order {
                    Order::Exact => compare::in_order(&expected, &found, show),
                    Order::Unordered => compare::as_bag(&expected, &found, show),
                };
                let names: Vec<String> = columns.iter().map(|one| one.name.clone()).collect();
                // Lines have no names.
                let columns = if is_raw { Vec::new() } else { names.clone() };
                let counts = (rows.len(), found.len());
                let name = one.name.clone();
                all_found.push(Found { name, columns: names, rows: found, is_raw });
                failure(one, "rows", counts, columns, differences)
            }
            Expected::Text(lines) => compare_lines(one, lines, outputs()?.lines()),
            Expected::File(path) => {
                let bytes = read_file(&folder.join(path), one.at.line)?;
                let expected = found::lines(&bytes).into_iter().map(|line| (one.at, line));
                compare_lines(one, &expected.collect::<Vec<_>>(), outputs()?.lines())
            }
        };
        failures.extend(failure);
    }
    Ok((failures, all_found))
}

fn compare_lines(
    one: &Expectation,
    expected: &[(At, String)],
    found: Vec<String>,
) -> Option<Failure> {
    let cells: Vec<[Cell; 1]> =
        expected.iter().map(|(_, line)| [Cell::String(line.clone())]).collect();
    let rows: Vec<Row<'_>> =
        expected.iter().zip(&cells).map(|((at, _), cells)| Row { at: *at, cells }).collect();
    let found: Vec<Vec<Cell>> = found.into_iter().map(|line| vec![Cell::String(line)]).collect();
    let differences = compare::in_order(&rows, &found, cells::shown_line);
    failure(one, "lines", (rows.len(), found.len()), Vec::new(), differences)
}

fn failure(
    one: &Expectation,
    what: &str,
    (expected, found): (usize, usize),
    columns: Vec<String>,
    differences: Vec<Difference>,
) -> Option<Failure> {
    if differences.is_empty() {
        return None;
    }
    let message = match differences.first() {
        Some(Difference::Misplaced { .. }) => format!("all {what} are there, in another order"),
        _ if expected == found => format!("{} of {expected} {what} differ", differences.len()),
        _ => format!("{expected} {what} expected, {found} found"),
    };
    Some(Failure { about: one.name.clone(), at: one.at, message, columns, differences })
}

/// Returns the expectation of a test that says nothing of rejected records: there are none.
fn nothing_rejected(plan: &Plan, test: &AuthorTest) -> Vec<Expectation> {
    let columns = crate::plan::error_schema();
    let shown = ["file", "line", "operator", "code", "message", "reason"];
    let columns = columns.project(|name| shown.contains(&name)).columns().to_vec();
    let is_unsaid = |sink: &SinkPlan| match sink.kind {
        SinkKind::Rejects => test.rejects.is_none(),
        _ => {
            let is_said = test.expect.iter().any(|one| one.name == BEHIND_STATE);
            sink.name == BEHIND_STATE && !is_said
        }
    };
    let sinks = plan.sinks.iter().enumerate().filter(|(_, sink)| is_unsaid(sink));
    let nothing = |(at, sink): (usize, &SinkPlan)| {
        let columns = columns.clone();
        let expected = Expected::Rows { columns, rows: Vec::new(), order: Order::Unordered };
        Expectation { name: sink.name.clone(), target: Target::Sink(at), at: test.at, expected }
    };
    sinks.map(nothing).collect()
}

fn quarantined(test: &AuthorTest, files: &[SubmissionReport]) -> Vec<Failure> {
    let failure = |at: At, message: String| Failure {
        about: "quarantined".to_owned(),
        at,
        message,
        columns: Vec::new(),
        differences: Vec::new(),
    };
    let mut failures = Vec::new();
    let mut aside: Vec<&SubmissionReport> =
        files.iter().filter(|file| file.phase == Phase::Quarantined).collect();
    for wanted in &test.quarantined {
        let Some(place) = aside.iter().position(|file| file.name == wanted.name) else {
            let message = format!("{} did not go to quarantine", wanted.name);
            failures.push(failure(wanted.at, message));
            continue;
        };
        let (code, detail) = aside.remove(place).reason.clone().unwrap_or_default();
        if let Some(expected) = wanted.code.as_ref().filter(|expected| **expected != code) {
            let name = &wanted.name;
            let message =
                format!("{name} went to quarantine with {code}, not {expected}: {detail}");
            failures.push(failure(wanted.at, message));
        }
    }
    for file in aside {
        let (code, detail) = file.reason.clone().unwrap_or_default();
        let message = format!("{} went to quarantine: {code}: {detail}", file.name);
        failures.push(failure(test.at, message));
    }
    failures
}
