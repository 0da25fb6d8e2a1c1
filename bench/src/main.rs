//! The command `tidemill-bench`: makes data, runs the limits, measures everyone.

#![allow(clippy::print_stdout, reason = "what a command says goes to standard output")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use tidemill_bench::corrections;
use tidemill_bench::generate::{self, Dataset};
use tidemill_bench::keys;
use tidemill_bench::limit::{self, LimitJob};
use tidemill_bench::rounds;
use tidemill_bench::run::{self, Job, Options};

/// Makes data sets, runs the hand-written limits, and measures tidemill beside its peers.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Write a seeded data set into an empty folder.
    Generate {
        /// Which data set.
        dataset: Dataset,
        /// The folder; it must be empty or absent.
        #[arg(long)]
        out: PathBuf,
        /// Everything random follows from it.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Times the records of a file (of `small`: times the files).
        #[arg(long, default_value_t = 1.0)]
        scale: f64,
        /// Number of files instead of the usual.
        #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
        files: Option<u32>,
    },
    /// Run a hand-written program over a folder.
    Limit {
        /// Which job.
        job: LimitJob,
        /// The folder with the input files.
        input: PathBuf,
        /// The folder for the outputs.
        output: PathBuf,
    },
    /// Measure tidemill, the limits and the peers over the same files.
    Run(RunArguments),
    /// Measure what going round in a loop costs, beside one pass.
    Rounds {
        /// Records of the input file.
        #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
        records: u64,
        /// Rounds of the loop.
        #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1_000))]
        rounds: u32,
        /// Timed runs of each.
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1_000))]
        runs: u32,
        #[command(flatten)]
        place: Place,
    },
    /// Measure what replacing one small file among many costs.
    Corrections {
        /// How many files are committed before, one row each.
        #[arg(long, value_delimiter = ',', default_value = "1000,10000")]
        files: Vec<usize>,
        /// How many are replaced.
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
        corrections: u32,
        #[command(flatten)]
        place: Place,
    },
    /// Measure what a table of very many keys costs: memory, updates, checkpoint, next start.
    Keys {
        /// How many keys, one row each.
        #[arg(long, value_delimiter = ',', default_value = "1000000,10000000")]
        keys: Vec<u64>,
        #[command(flatten)]
        place: Place,
    },
}

/// Where a measurement runs, and what it measures.
#[derive(clap::Args)]
struct Place {
    /// Where the runs write.
    #[arg(long, default_value = "target/bench-data/work")]
    work: PathBuf,
    #[command(flatten)]
    measured: Measured,
}

/// What is measured.
#[derive(clap::Args)]
struct Measured {
    /// The binary to measure. Default: the one beside this program.
    #[arg(long)]
    tidemill: Option<PathBuf>,
    /// Workers of tidemill.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=1_024))]
    workers: u32,
}

impl Measured {
    fn binary(&self) -> Result<PathBuf> {
        let beside = || std::env::current_exe().context("find this program");
        match &self.tidemill {
            Some(path) => Ok(path.clone()),
            None => Ok(beside()?.with_file_name("tidemill")),
        }
    }
}

#[derive(clap::Args)]
struct RunArguments {
    /// The jobs, in order.
    #[arg(long, value_delimiter = ',', default_value = "j1,j2,j4,j7")]
    jobs: Vec<Job>,
    /// Timed runs of each contestant.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    runs: u32,
    /// The folder with a folder for each data set; missing ones are generated (1 GiB).
    #[arg(long, default_value = "target/bench-data")]
    data: PathBuf,
    /// Where the runs write; the same file system for all. Default: beside the data.
    #[arg(long)]
    work: Option<PathBuf>,
    #[command(flatten)]
    measured: Measured,
    /// Files that J7 measures one by one, for each way in.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=4_900))]
    latency_files: u32,
    /// Seconds after which a contestant is ended.
    #[arg(long, default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    timeout: u64,
    /// Also write the table to this file.
    #[arg(long)]
    markdown: Option<PathBuf>,
    /// Also write every number to this file.
    #[arg(long)]
    json: Option<PathBuf>,
}

fn main() -> ExitCode {
    match obey(Arguments::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn obey(arguments: Arguments) -> Result<ExitCode> {
    match arguments.command {
        Command::Generate { dataset, out, seed, scale, files } => {
            if !(scale > 0.0 && scale <= 1_000.0) {
                bail!("--scale {scale} is out of range: above 0, at most 1000");
            }
            let mut shape = dataset.full().scaled(dataset, scale);
            shape.seed = seed;
            shape.files = files.map_or(shape.files, |files| files as usize);
            let written = generate::write(dataset, shape, &out)?;
            println!(
                "{}: {} files, {} bytes in {}",
                dataset.name(),
                written.files,
                written.bytes,
                out.display()
            );
        }
        Command::Limit { job, input, output } => limit::run(job, &input, &output)?,
        Command::Run(arguments) => return measure(arguments),
        Command::Rounds { records, rounds, runs, place } => {
            let table = rounds::run(&rounds::Options {
                records,
                rounds,
                runs: runs as usize,
                tidemill: place.measured.binary()?,
                workers: place.measured.workers as usize,
                work: place.work,
                timeout: Duration::from_secs(600),
            })?;
            println!("{table}");
        }
        Command::Corrections { files, corrections, place } => {
            let table = corrections::run(&corrections::Options {
                files,
                corrections: corrections as usize,
                tidemill: place.measured.binary()?,
                workers: place.measured.workers as usize,
                work: place.work,
                timeout: Duration::from_secs(1_200),
            })?;
            println!("{table}");
        }
        Command::Keys { keys, place } => {
            let table = keys::run(&keys::Options {
                keys,
                tidemill: place.measured.binary()?,
                workers: place.measured.workers as usize,
                work: place.work,
                timeout: Duration::from_secs(1_200),
            })?;
            println!("{table}");
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn measure(arguments: RunArguments) -> Result<ExitCode> {
    let work = arguments.work.unwrap_or_else(|| arguments.data.join("work"));
    let report = run::run(&Options {
        jobs: arguments.jobs,
        runs: arguments.runs as usize,
        data: arguments.data,
        work,
        tidemill: arguments.measured.tidemill,
        bench: std::env::current_exe().context("find this program")?,
        workers: arguments.measured.workers as usize,
        latency_files: arguments.latency_files as usize,
        timeout: Duration::from_secs(arguments.timeout),
    })?;
    let markdown = report.to_markdown();
    println!("{markdown}");
    if let Some(path) = arguments.markdown {
        write(&path, &markdown)?;
    }
    if let Some(path) = arguments.json {
        let json = serde_json::to_string_pretty(&report).context("write the report as JSON")?;
        write(&path, &format!("{json}\n"))?;
    }
    Ok(if report.has_failures() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn write(path: &Path, content: &str) -> Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    }
    fs::write(path, content).with_context(|| format!("write {}", path.display()))
}
