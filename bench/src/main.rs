//! The command `tidemill-bench`: makes data, runs the limits, measures everyone.

#![allow(clippy::print_stdout, reason = "what a command says goes to standard output")]

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::{Parser, Subcommand};
use tidemill_bench::generate::{self, Dataset};
use tidemill_bench::limit::{self, LimitJob};

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
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<ExitCode> {
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
    }
    Ok(ExitCode::SUCCESS)
}
