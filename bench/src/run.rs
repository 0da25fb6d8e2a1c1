//! The runner: every contestant over the same files, in turns, timed and compared.
//!
//! It owns the order of things: warm the cache and make the reference answer with the hand-written
//! program, then A B C A B C ..., each in a fresh folder of one file system that was synced before
//! the clock started. A contestant that fails, or answers something else than the reference, is
//! reported as FAILED with the difference; its times are then not shown.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

pub mod contestant;
pub mod latency;
pub mod machine;
pub mod process;
pub mod report;
pub mod verify;

use contestant::{Contestant, Found, Tools};
use report::{JobResult, Outcome, Report, Row};

use crate::generate::{self, Dataset};
use crate::limit::{self, LimitJob};

/// A job that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Job {
    /// Route lines by a substring.
    J1,
    /// Parse, route, aggregate.
    J2,
    /// J2 over 10,000 small files.
    J4,
    /// One small file on a running engine.
    J7,
}

impl Job {
    /// Returns the name in files, folders and pipelines.
    pub fn name(self) -> &'static str {
        match self {
            Self::J1 => "j1",
            Self::J2 => "j2",
            Self::J4 => "j4",
            Self::J7 => "j7",
        }
    }

    /// Returns one line for the report.
    pub fn describe(self) -> &'static str {
        match self {
            Self::J1 => "route raw lines by a substring to three outputs",
            Self::J2 => "parse, route by status class, aggregate by host and status",
            Self::J4 => "J2 over small files, each its own commit",
            Self::J7 => "one small file on a running engine, until its last output is there",
        }
    }

    /// Returns the data set it runs over.
    pub fn dataset(self) -> Dataset {
        match self {
            Self::J1 | Self::J2 => Dataset::WeblogJsonl,
            Self::J4 | Self::J7 => Dataset::Small,
        }
    }

    /// Returns the hand-written program that makes its reference answer.
    fn limit_job(self) -> LimitJob {
        match self {
            Self::J1 => LimitJob::J1,
            Self::J2 => LimitJob::J2,
            Self::J4 | Self::J7 => LimitJob::J4,
        }
    }
}

/// What to measure, and with what.
#[derive(Clone, Debug)]
pub struct Options {
    /// The jobs, in order.
    pub jobs: Vec<Job>,
    /// Timed runs of each contestant.
    pub runs: usize,
    /// The folder that holds a folder for each data set; missing ones are generated in full size.
    pub data: PathBuf,
    /// Where each run gets its folder; everything made in it is removed at the end.
    pub work: PathBuf,
    /// The binary `tidemill`; without it, the one beside this program.
    pub tidemill: Option<PathBuf>,
    /// The program that answers `limit JOB IN OUT`.
    pub bench: PathBuf,
    /// Workers of tidemill.
    pub workers: usize,
    /// Files measured one by one in J7.
    pub latency_files: usize,
    /// A contestant that takes longer is ended and has failed.
    pub timeout: Duration,
}

/// Measures everything and returns what was found.
pub fn run(options: &Options) -> Result<Report> {
    if options.runs == 0 || options.workers == 0 || options.latency_files == 0 {
        bail!("runs, workers and latency files must each be at least 1");
    }
    let bench = options.bench.clone();
    let tools = Tools::find(bench, options.tidemill.as_deref(), options.workers)?;
    fs::create_dir_all(&options.work)
        .with_context(|| format!("create {}", options.work.display()))?;
    let machine = machine::Machine::here(&options.work);
    let mut jobs = Vec::new();
    for &job in &options.jobs {
        let input = data_folder(&options.data, job.dataset())?;
        // One folder a job: its thousands of files are removed when nobody is timed.
        let folder = tempfile::Builder::new()
            .prefix(&format!("tidemill-bench-{}-", job.name()))
            .tempdir_in(&options.work)
            .with_context(|| format!("create a folder in {}", options.work.display()))?;
        eprintln!("{}: {}", job.name(), job.describe());
        jobs.push(match job {
            Job::J7 => latency::measure(options, &tools, &input, folder.path())?,
            _ => measure(options, &tools, job, &input, folder.path())?,
        });
    }
    Ok(Report { machine, runs: options.runs, workers: options.workers, jobs })
}

/// Returns the folder of a data set; makes it, in full size, if it is not there.
fn data_folder(data: &Path, dataset: Dataset) -> Result<PathBuf> {
    let folder = data.join(dataset.name());
    if folder.is_dir() {
        return Ok(folder);
    }
    eprintln!("{} is missing: generating it", folder.display());
    fs::create_dir_all(data).with_context(|| format!("create {}", data.display()))?;
    // A set that was interrupted must not look like a whole one: it gets its name at the end.
    let part = tempfile::tempdir_in(data).context("create a folder for the data")?;
    generate::write(dataset, dataset.full(), part.path())?;
    let part = part.keep();
    fs::rename(&part, &folder).with_context(|| format!("rename to {}", folder.display()))?;
    Ok(folder)
}

/// One contestant's runs so far.
struct Entry {
    contestant: Contestant,
    outcome: Outcome,
}

fn measure(
    options: &Options,
    tools: &Tools,
    job: Job,
    input: &Path,
    folder: &Path,
) -> Result<JobResult> {
    let inputs = limit::input_files(input)?;
    let input_bytes = inputs.iter().map(|path| Ok(fs::metadata(path)?.len())).sum::<Result<u64>>();
    let reference = folder.join("reference");
    limit::run(job.limit_job(), input, &reference).context("make the reference answer")?;

    let mut entries: Vec<_> = Contestant::ALL
        .map(|contestant| {
            let outcome = match tools.has(contestant) {
                Found::Yes => Outcome::Measured { runs: Vec::new() },
                Found::No(why) => Outcome::Absent { why },
            };
            if let Outcome::Absent { why } = &outcome {
                eprintln!("  WARNING: {} is NOT measured: {why}", contestant.name());
            }
            Entry { contestant, outcome }
        })
        .into();
    for round in 0..options.runs {
        for entry in &mut entries {
            let Outcome::Measured { runs } = &mut entry.outcome else { continue };
            let place = folder.join(format!("{}-{round}", entry.contestant.name()));
            match one_run(options, tools, entry.contestant, job, &inputs, &place, &reference) {
                Ok(numbers) => {
                    eprintln!(
                        "  {} {}/{}: {:.3} s",
                        entry.contestant.name(),
                        round + 1,
                        options.runs,
                        numbers.wall_seconds
                    );
                    runs.push(numbers);
                }
                Err(error) => {
                    eprintln!("  {} FAILED: {error:#}", entry.contestant.name());
                    entry.outcome = Outcome::Failed { why: format!("{error:#}") };
                }
            }
            if job != Job::J4 && place.exists() {
                // A few large files. The many small ones stay until the job is over: on ext4 a bulk
                // removal slows the creation of files for a while.
                fs::remove_dir_all(&place)
                    .with_context(|| format!("remove {}", place.display()))?;
            }
        }
    }
    let rows = entries
        .into_iter()
        .map(|Entry { contestant, outcome }| Row { contestant: contestant.name().into(), outcome })
        .collect();
    Ok(JobResult {
        job: job.name().into(),
        about: job.describe().into(),
        input_files: inputs.len() as u64,
        input_bytes: input_bytes?,
        rows,
        latencies: Vec::new(),
    })
}

fn one_run(
    options: &Options,
    tools: &Tools,
    contestant: Contestant,
    job: Job,
    inputs: &[PathBuf],
    place: &Path,
    reference: &Path,
) -> Result<process::Numbers> {
    fs::create_dir_all(place).with_context(|| format!("create {}", place.display()))?;
    let prepared = tools.prepare(contestant, job, inputs, place)?;
    sync(place)?;
    let numbers = process::run(prepared.command, &place.join("log"), options.timeout)?;
    verify::same(reference, &prepared.outputs)?;
    Ok(numbers)
}

/// Waits until everything written to the file system of `folder` is on the disk.
fn sync(folder: &Path) -> Result<()> {
    let handle = File::open(folder).with_context(|| format!("open {}", folder.display()))?;
    rustix::fs::syncfs(&handle).with_context(|| format!("sync {}", folder.display()))
}
