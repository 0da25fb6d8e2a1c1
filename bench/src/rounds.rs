//! Rounds: what going round in a loop costs, beside going through the same operators once.
//!
//! It owns two pipelines over the same records, which differ in how often a record goes round, and
//! checks what each wrote before it shows a number. A target, not a law: ten rounds are to cost at most
//! twelve times as much as one pass.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::run::process;

/// What to measure, and with what.
#[derive(Clone, Debug)]
pub struct Options {
    /// Records of the one input file.
    pub records: u64,
    /// Rounds of the loop.
    pub rounds: u32,
    /// Timed runs of each.
    pub runs: usize,
    /// Where each run gets its folder.
    pub work: PathBuf,
    /// The binary `tidemill`.
    pub tidemill: PathBuf,
    /// Its workers.
    pub workers: usize,
    /// A run that takes longer is ended and has failed.
    pub timeout: Duration,
}

/// Records leave when they have gone round as often as `left` says; each round adds up `sum`.
const PIPELINE: &str = "\
pipeline: rounds
sources:
  rows: { format: csv, fields: { id: int, left: int, sum: int } }
operators:
  turn: { from: [rows, step], max_rounds: 1000, route: { done: left <= 0, more: else } }
  step: { from: turn.more, select: { id: id, left: left - 1, sum: sum + id } }
sinks:
  done: { from: turn.done, files: { format: csv } }
";

/// Measures, and returns the table.
pub fn run(options: &Options) -> Result<String> {
    let mut best = [Duration::MAX; 2];
    for _ in 0..options.runs.max(1) {
        for (rounds, best) in [1, options.rounds].into_iter().zip(&mut best) {
            *best = (*best).min(once(options, rounds)?);
        }
    }
    let [one, many] = best.map(|took| took.as_secs_f64());
    let mut table = format!(
        "| {} records | seconds (best of {}) | times one pass |\n|---|---|---|\n",
        options.records, options.runs
    );
    // Writing to a string cannot fail.
    let _ = writeln!(table, "| 1 round | {one:.3} | 1.0 |");
    let _ = writeln!(table, "| {} rounds | {many:.3} | {:.1} |", options.rounds, many / one);
    Ok(table)
}

/// One run in a fresh folder; returns how long it took, its start taken away.
fn once(options: &Options, rounds: u32) -> Result<Duration> {
    fs::create_dir_all(&options.work)
        .with_context(|| format!("create {}", options.work.display()))?;
    let place = tempfile::Builder::new()
        .prefix("tidemill-bench-rounds-")
        .tempdir_in(&options.work)
        .context("create the folder of a run")?;
    let full = timed(options, place.path(), "full", rounds, options.records)?;
    let empty = timed(options, place.path(), "empty", rounds, 1)?;
    Ok(full.saturating_sub(empty))
}

fn timed(
    options: &Options,
    place: &Path,
    name: &str,
    rounds: u32,
    records: u64,
) -> Result<Duration> {
    let home = place.join(name);
    let inbox = home.join("rounds").join("unprocessed");
    fs::create_dir_all(&inbox).context("create the inbox")?;
    let pipeline = place.join("rounds.yaml");
    fs::write(&pipeline, PIPELINE).context("write the pipeline")?;
    let mut input = String::from("id,left,sum\n");
    for id in 0..records {
        // Writing to a string cannot fail.
        let _ = writeln!(input, "{id},{rounds},0");
    }
    fs::write(inbox.join("rows.csv"), input).context("write the input")?;
    let mut command = Command::new(&options.tidemill);
    command.arg("run").arg(&pipeline).arg("--home").arg(&home).arg("--once");
    command.args(["--grpc", "127.0.0.1:0", "--quiet", "1ms"]);
    command.args(["-w", &options.workers.to_string()]);
    let took = process::run(command, &place.join("log"), options.timeout)?;
    check(&home.join("rounds").join("out").join("done").join("rows.csv"), rounds, records)?;
    Ok(Duration::from_secs_f64(took.wall_seconds))
}

/// Compares what was written with what must be there, line by line.
fn check(path: &Path, rounds: u32, records: u64) -> Result<()> {
    let found = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    let mut lines = found.lines();
    ensure!(lines.next() == Some("id,left,sum"), "{} has another header", path.display());
    for id in 0..records {
        let expected = format!("{id},0,{}", id * u64::from(rounds));
        let line = lines.next();
        if line != Some(&expected) {
            bail!("{}: expected {expected}, found {line:?}", path.display());
        }
    }
    ensure!(lines.next().is_none(), "{} has too many lines", path.display());
    Ok(())
}
