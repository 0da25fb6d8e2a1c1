//! New: `tidemill new`: a first pipeline file from samples, tried before it is written.
//!
//! Reads a bounded part of each sample; what is made of it is the engine's. Never overwrites a file.

use std::io::Write as _;
use std::path::Path;

use anyhow::Context;
use tidemill_engine::draft::{Draft, Sampled, draft};
use tidemill_engine::plan;
use tidemill_engine::testing::run::run;
use tidemill_engine::testing::sample::sample;

use crate::flags::NewFlags;
use crate::test::Scratch;
use crate::{USAGE, complain, say};

/// How much of a sample is read, in bytes.
const SAMPLE_BYTES_MAX: usize = 1 << 20;
/// How many samples are read.
const SAMPLES_MAX: usize = 200;

/// `tidemill new`
pub fn new(flags: &NewFlags) -> anyhow::Result<u8> {
    let out = &flags.out;
    // Said before the work; the write below makes sure.
    if out.symlink_metadata().is_ok() {
        complain(&occupied(out));
        return Ok(USAGE);
    }
    let Some(samples) = read(flags)? else { return Ok(USAGE) };
    let draft = match draft(flags.name.as_deref(), &samples) {
        Ok(draft) => draft,
        Err(errors) => {
            errors.iter().for_each(|error| complain(&format!("error: {error}")));
            return Ok(USAGE);
        }
    };
    if let Err(mistakes) = plan(&draft.without_tests()) {
        for one in &mistakes {
            complain(&format!("error: {}: {}", one.path, one.message));
        }
        let names_it = flags.name.is_some() && mistakes.iter().any(|one| one.path == "pipeline");
        anyhow::ensure!(names_it, "the draft does not check; please report this with the sample");
        return Ok(USAGE);
    }
    let (yaml, tests) = tried(&draft)?;
    let file = std::fs::OpenOptions::new().write(true).create_new(true).open(out);
    let mut file = match file {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            complain(&occupied(out));
            return Ok(USAGE);
        }
        other => other.with_context(|| format!("write {}", out.display()))?,
    };
    file.write_all(yaml.as_bytes()).with_context(|| format!("write {}", out.display()))?;
    let report = if flags.json { json(&draft, out, tests)? } else { text(&draft, out, tests) };
    say(report.as_bytes())?;
    Ok(0)
}

fn occupied(out: &Path) -> String {
    format!(
        "error: {} is there already, and is left as it is; write elsewhere with --out FILE",
        out.display()
    )
}

/// Reads the samples; says why some are none.
fn read(flags: &NewFlags) -> anyhow::Result<Option<Vec<Sampled>>> {
    if flags.samples.len() > SAMPLES_MAX {
        complain(&format!("error: a few samples are enough; at most {SAMPLES_MAX} are read"));
        return Ok(None);
    }
    let mut samples = Vec::with_capacity(flags.samples.len());
    let mut right = true;
    for path in &flags.samples {
        let name = path.file_name().and_then(|name| name.to_str()).map(str::to_owned);
        match (name, sample(path, SAMPLE_BYTES_MAX)) {
            (Some(name), Ok(sample)) => samples.push(Sampled { name, sample }),
            (None, Ok(_)) => {
                complain(&format!("error: {}: its name is no UTF-8", path.display()));
                right = false;
            }
            (_, Err(error)) => {
                complain(&format!("error: {}: {error}", path.display()));
                right = false;
            }
        }
    }
    Ok(right.then_some(samples))
}

/// Returns the text with tests that hold, and how many there are: the records of the samples are run
/// through what was drafted, and what comes out is what the tests expect.
fn tried(draft: &Draft) -> anyhow::Result<(String, usize)> {
    // A record that YAML or a test cannot hold costs the tests, not the draft.
    let Ok(asked) = plan(&draft.with_questions()) else { return Ok((draft.without_tests(), 0)) };
    let scratch = Scratch::new()?;
    let mut found = Vec::with_capacity(asked.tests.len());
    for test in &asked.tests {
        let home = scratch.folder()?;
        match run(&asked, test, Path::new("."), home.path(), None) {
            Ok(outcome) => found.push(outcome.found),
            Err(error) => {
                complain(&format!("no test was drafted: {:#}", anyhow::Error::from(error)));
                return Ok((draft.without_tests(), 0));
            }
        }
    }
    let yaml = draft.with_tests(&found);
    let Ok(answered) = plan(&yaml) else { return Ok((draft.without_tests(), 0)) };
    for test in &answered.tests {
        let home = scratch.folder()?;
        let outcome = run(&answered, test, Path::new("."), home.path(), None)?;
        if !outcome.failures.is_empty() {
            return Ok((draft.without_tests(), 0));
        }
    }
    Ok((yaml, answered.tests.len()))
}

fn text(draft: &Draft, out: &Path, tests: usize) -> String {
    let mut text = String::new();
    for source in &draft.sources {
        text += &format!("{}: {}: source {}\n", source.files.join(", "), source.looks, source.name);
        for note in &source.notes {
            text += &format!("  look: {note}\n");
        }
    }
    let said = match tests {
        0 => "no test, since no first record of the samples can stand in one".to_owned(),
        1 => "1 test from the first records".to_owned(),
        many => format!("{many} tests from the first records"),
    };
    let (file, name) = (out.display(), &draft.pipeline);
    let look = if tests == 0 { "check" } else { "test --step" };
    text + &format!(
        "wrote {file}: pipeline {name}, {said}; what was unclear stands in it beside each column\n\nnext:\n  \
         tidemill {look} {file}\n  tidemill run {file}     then drop files into \
         tidemill-home/{name}/unprocessed/\n"
    )
}

fn json(draft: &Draft, out: &Path, tests: usize) -> anyhow::Result<String> {
    let sources: Vec<_> = draft
        .sources
        .iter()
        .map(|source| {
            serde_json::json!({
                "name": source.name, "files": source.files, "looks": source.looks,
                "notes": source.notes,
            })
        })
        .collect();
    let report = serde_json::json!({
        "file": out.display().to_string(), "pipeline": draft.pipeline, "tests": tests,
        "sources": sources,
    });
    Ok(serde_json::to_string_pretty(&report)? + "\n")
}
