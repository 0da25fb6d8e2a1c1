//! Test: `tidemill test`: runs the tests that stand in pipeline files, and says which hold.
//!
//! Each test runs in a home of its own, in memory where the system has a place for that, and nothing of
//! it is left behind. This module finds tests, runs them one after the other and counts; what a test
//! is and what came out of it is the engine's, how it is shown stands in `text`, `json` and `junit`.

mod json;
mod junit;
mod scratch;
mod steps;
mod text;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use tidemill_engine::Plan;
use tidemill_engine::testing::AuthorTest;
use tidemill_engine::testing::run::{Failure, run};
use tidemill_engine::testing::tap::Tap;
use tidemill_engine::testing::walk::{Chosen, Walk, carrying_places, walk};

use crate::flags::TestFlags;
use crate::pipeline::{Values, folder_of, load_with_tests};
use crate::{USAGE, complain, say};

pub(crate) use scratch::Scratch;

/// The exit code when some test does not hold.
const FAILED: u8 = 1;

/// What became of one test.
struct Verdict {
    name: String,
    line: u32,
    took: Duration,
    failures: Vec<Failure>,
    /// Why it could not be run, if it could not.
    error: Option<String>,
    /// What became of its records, if somebody asks.
    walk: Option<Walk>,
}

impl Verdict {
    fn holds(&self) -> bool {
        self.failures.is_empty() && self.error.is_none()
    }
}

/// The tests of one pipeline file.
struct Suite {
    file: String,
    pipeline: String,
    verdicts: Vec<Verdict>,
}

/// `tidemill test`
pub fn test(flags: &TestFlags) -> anyhow::Result<u8> {
    let Some(values) = Values::gather(&flags.params)? else { return Ok(USAGE) };
    let values = values.of_tests();
    let mut plans: Vec<(&PathBuf, Plan)> = Vec::with_capacity(flags.pipelines.len());
    let mut right = true;
    for path in &flags.pipelines {
        match load_with_tests(path, &values)? {
            Ok(plan) => plans.push((path, plan)),
            Err(mistakes) => {
                mistakes.complain();
                right = false;
            }
        }
    }
    if !right || !values.all_known() {
        return Ok(USAGE);
    }
    let chosen = match flags.record.as_deref().map(chosen) {
        Some(None) => {
            complain(
                "error: --record takes the name of a file and a line of it, such as sales.csv:3",
            );
            return Ok(USAGE);
        }
        Some(chosen) => chosen,
        None => None,
    };
    let stepping = (flags.step || chosen.is_some()).then_some(Stepping { chosen });
    let scratch = Scratch::new()?;
    let style = text::Style::of_stdout();
    let mut suites = Vec::with_capacity(plans.len());
    for (path, plan) in plans {
        let plan = if stepping.is_some() { carrying_places(plan) } else { plan };
        let file = path.display().to_string();
        let chosen: Vec<&AuthorTest> = plan
            .tests
            .iter()
            .filter(|test| flags.filter.as_ref().is_none_or(|part| test.name.contains(part)))
            .collect();
        if !flags.json {
            say(text::heading(&file, plan.tests.len(), &style).as_bytes())?;
        }
        let mut suite = Suite { file, pipeline: plan.name.clone(), verdicts: Vec::new() };
        for test in chosen {
            let verdict = judge(&plan, test, folder_of(path), &scratch, stepping.as_ref())?;
            if !flags.json {
                say(text::verdict(&verdict, &style).as_bytes())?;
                if let Some(walk) = &verdict.walk {
                    say(steps::shown(walk, &style).as_bytes())?;
                }
            }
            suite.verdicts.push(verdict);
        }
        suites.push(suite);
    }
    if let Some(path) = &flags.junit {
        let report = junit::report(&suites);
        std::fs::write(path, report).with_context(|| format!("write {}", path.display()))?;
    }
    if flags.json {
        say(json::report(&suites)?.as_bytes())?;
    } else {
        say(text::summary(&suites, &style).as_bytes())?;
    }
    let all = suites.iter().flat_map(|suite| &suite.verdicts);
    let (held, failed): (Vec<&Verdict>, Vec<&Verdict>) = all.partition(|one| one.holds());
    if held.is_empty() && failed.is_empty() {
        complain(&match &flags.filter {
            Some(part) => format!("error: no test has {part:?} in its name"),
            None => "error: no test to run: write some under `tests:` (docs/testing.md)".to_owned(),
        });
        return Ok(USAGE);
    }
    Ok(if failed.is_empty() { 0 } else { FAILED })
}

/// Runs one test.
fn judge(
    plan: &Plan,
    test: &AuthorTest,
    folder: &Path,
    scratch: &Scratch,
    stepping: Option<&Stepping>,
) -> anyhow::Result<Verdict> {
    let tap = stepping.map(|_| Tap::default());
    let home = scratch.folder()?;
    let began = Instant::now();
    let outcome = run(plan, test, folder, home.path(), tap.clone());
    let took = began.elapsed();
    let (failures, error, files) = match outcome {
        Ok(outcome) => (outcome.failures, None, outcome.files),
        Err(error) => (Vec::new(), Some(format!("{:#}", anyhow::Error::from(error))), Vec::new()),
    };
    let walk = tap
        .zip(stepping)
        .map(|(tap, stepping)| walk(plan, test, folder, &files, &tap, stepping.chosen.as_ref()));
    Ok(Verdict { name: test.name.clone(), line: test.at.line, took, failures, error, walk })
}

/// That records are walked, and which one if one was chosen.
struct Stepping {
    chosen: Option<Chosen>,
}

/// Reads `FILE:LINE`.
fn chosen(text: &str) -> Option<Chosen> {
    let (file, line) = text.rsplit_once(':')?;
    let line = line.parse().ok().filter(|line| *line > 0)?;
    (!file.is_empty()).then(|| Chosen { file: file.to_owned(), line })
}
