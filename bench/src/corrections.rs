//! Corrections: what it costs to replace one small file among many committed ones.
//!
//! It owns one running engine over files of [`Dataset::Small`] and a clock around
//! `tidemill submit --replace --wait`, with the start of the command. In the end everything the engine
//! shows must be what the hand-written program makes of the files as they are then; else there is no
//! number. The median is to stay below 50 ms and not to grow with the number of files.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::generate::{self, Dataset, Shape};
use crate::limit::{self, LimitJob};
use crate::run::contestant::pipeline;
use crate::run::latency::free_address;
use crate::run::process::{self, Running};
use crate::run::{Job, verify};

/// How often a folder is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// One correction that takes longer has failed.
const CORRECTION_TIMEOUT: Duration = Duration::from_secs(30);
/// Corrections before the clock counts.
const WARM_UP: usize = 5;

/// What to measure, and with what.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many files are there, one row of the table each.
    pub files: Vec<usize>,
    /// How many of them are replaced.
    pub corrections: usize,
    /// Where each run gets its folder.
    pub work: PathBuf,
    /// The binary `tidemill`.
    pub tidemill: PathBuf,
    /// Its workers.
    pub workers: usize,
    /// How long the files may take to be committed in the first place, and the end to be right.
    pub timeout: Duration,
}

/// Measures, and returns the table.
pub fn run(options: &Options) -> Result<String> {
    let mut table = format!(
        "| files committed before | corrections | p50 ms | p90 ms | max ms |\n|{}\n",
        "---|".repeat(5)
    );
    for files in &options.files {
        let mut times = among(options, *files)?;
        times.sort();
        let ms = |share: f64| {
            let at = ((times.len() as f64 * share) as usize).min(times.len().saturating_sub(1));
            times.get(at).map_or(0.0, |time| time.as_secs_f64() * 1_000.0)
        };
        // Writing to a string cannot fail.
        let _ = writeln!(
            table,
            "| {files} | {} | {:.1} | {:.1} | {:.1} |",
            times.len(),
            ms(0.5),
            ms(0.9),
            ms(1.0)
        );
    }
    Ok(table)
}

/// Replaces files among this many; returns how long each took.
fn among(options: &Options, files: usize) -> Result<Vec<Duration>> {
    ensure!(files > 0, "there must be a file to replace");
    fs::create_dir_all(&options.work)
        .with_context(|| format!("create {}", options.work.display()))?;
    let place = tempfile::Builder::new()
        .prefix("tidemill-bench-corrections-")
        .tempdir_in(&options.work)
        .context("create the folder of a run")?;
    let place = place.path();
    let home = place.join("home");
    let folders = home.join(Job::J4.name());
    // What the hand-written program is given: each file as it is in the end.
    let current = place.join("current");
    let shape = |seed| Shape { seed, files, ..Dataset::Small.full() };
    generate::write(Dataset::Small, shape(1), &folders.join("unprocessed"))?;
    generate::write(Dataset::Small, shape(1), &current)?;

    let address = free_address()?;
    let description = place.join("pipeline.yaml");
    fs::write(&description, pipeline(Job::J4)).context("write the pipeline")?;
    let mut command = Command::new(&options.tidemill);
    command.arg("run").arg(&description).arg("--home").arg(&home);
    command.args(["--grpc", &address, "-w", &options.workers.to_string(), "--quiet", "1ms"]);
    let engine = Running::new(process::spawn(&mut command, &place.join("log"))?);
    let log = || process::tail(&place.join("log"));
    let processed = folders.join("processed");
    until(options.timeout, || Ok(count(&processed) == files))
        .with_context(|| format!("commit {files} files{}", log()))?;

    let mut times = Vec::new();
    let versions = place.join("versions");
    fs::create_dir_all(&versions).context("create the folder of new versions")?;
    let fresh =
        generate::files(Dataset::Small, Shape { files: options.corrections + WARM_UP, ..shape(2) });
    for (at, new) in fresh.enumerate() {
        // Spread over all of them, and not in their order.
        let name = Dataset::Small.file_name((at * 7_919) % files);
        let version = versions.join(&name);
        fs::write(&version, &new.content).context("write a new version")?;
        fs::write(current.join(&name), &new.content).context("write a new version")?;
        let mut command = Command::new(&options.tidemill);
        command.env("TIDEMILL_SERVER", format!("http://{address}"));
        command.arg("submit").arg(&version).args(["--replace", "--wait"]);
        let took = process::run(command, &place.join("submit"), CORRECTION_TIMEOUT)
            .with_context(|| format!("replace {name}{}", log()))?;
        if at >= WARM_UP {
            times.push(Duration::from_secs_f64(took.wall_seconds));
        }
    }

    let reference = place.join("reference");
    limit::run(LimitJob::J4, &current, &reference).context("make the reference answer")?;
    let out = folders.join("out");
    let mut last = None;
    // The table is written at most once a second.
    let right = until(options.timeout, || {
        last = verify::same(&reference, &out).err();
        Ok(last.is_none())
    });
    right.with_context(|| last.map_or(String::new(), |error| format!("{error:#}")))?;
    drop(engine);
    Ok(times)
}

/// How many files lie in a folder.
fn count(folder: &Path) -> usize {
    fs::read_dir(folder).map_or(0, Iterator::count)
}

fn until(patience: Duration, mut is_so: impl FnMut() -> Result<bool>) -> Result<()> {
    let began = Instant::now();
    while !is_so()? {
        ensure!(began.elapsed() < patience, "not done after {} s", patience.as_secs());
        std::thread::sleep(LOOK_EVERY);
    }
    Ok(())
}
