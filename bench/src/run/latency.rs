//! J7: one small file after the other on a running engine, until its last output is there.
//!
//! | folder | a file is renamed into `unprocessed/`; two clocks: its outputs are there; it is in `processed/` |
//! | submit | `tidemill submit --wait` is started; the clock stops when it has said that all is done           |
//!
//! The table is not waited for: it is published at most every `publish_every`, by intention. Time is
//! measured from outside, in steps of `LOOK_EVERY`; the engine is idle before each file.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::contestant::{Contestant, Found, Home, Tools};
use super::process::{self, Running};
use super::report::{JobResult, Latency, Problem};
use super::{Job, Options, sync};
use crate::limit::{self, Class, LimitJob};

/// How often the output folder is looked at.
const LOOK_EVERY: Duration = Duration::from_micros(100);
/// A file that takes longer has failed.
const FILE_TIMEOUT: Duration = Duration::from_secs(30);
/// Files sent before the clock counts, for each way in.
const WARM_UP: usize = 3;

const UNTIL_OUTPUT: &str = "folder, until the last output";
const UNTIL_PROCESSED: &str = "folder, until processed";
const SUBMIT: &str = "`tidemill submit --wait`, with the start of the command";

/// Measures files one by one. A failure of the engine is part of the result, not an error.
pub fn measure(options: &Options, tools: &Tools, input: &Path, folder: &Path) -> Result<JobResult> {
    let mut inputs = limit::input_files(input)?;
    inputs.truncate((options.latency_files + WARM_UP) * 2);
    let input_bytes =
        inputs.iter().map(|path| Ok(fs::metadata(path)?.len())).sum::<Result<u64>>()?;
    let latencies = match tools.has(Contestant::Tidemill) {
        Found::Yes => all_ways(tools, &inputs, folder)?,
        Found::No(why) => {
            eprintln!("  WARNING: tidemill is NOT measured: {why}");
            let absent = || Some(Problem::Absent { why: why.clone() });
            [UNTIL_OUTPUT, UNTIL_PROCESSED, SUBMIT]
                .map(|way| Latency { way: way.into(), sorted_ms: Vec::new(), problem: absent() })
                .into()
        }
    };
    Ok(JobResult {
        job: Job::J7.name().into(),
        about: Job::J7.describe().into(),
        input_files: inputs.len() as u64,
        input_bytes,
        rows: Vec::new(),
        latencies,
    })
}

fn all_ways(tools: &Tools, inputs: &[PathBuf], folder: &Path) -> Result<Vec<Latency>> {
    let staged = folder.join("staged");
    fs::create_dir_all(&staged).context("create the folder of the staged files")?;
    let mut files = Vec::new();
    for input in inputs {
        let path = staged.join(input.file_name().context("an input file has no name")?);
        fs::copy(input, &path).with_context(|| format!("copy {}", input.display()))?;
        files.push(path);
    }
    let reference = folder.join("reference");
    limit::run(LimitJob::J4, &staged, &reference).context("make the reference answer")?;
    sync(folder)?;

    let (dropped, submitted) = files.split_at(files.len() / 2);
    let engine = match Engine::start(tools, folder, reference) {
        Ok(engine) => engine,
        Err(error) => return Ok(vec![failed(UNTIL_OUTPUT, &error)]),
    };
    let mut latencies = Vec::new();
    match each(dropped, |file| engine.drop_into_folder(file)) {
        Ok(times) => {
            let (output, processed): (Vec<_>, Vec<_>) = times.into_iter().unzip();
            latencies.push(measured(UNTIL_OUTPUT, &output));
            latencies.push(measured(UNTIL_PROCESSED, &processed));
        }
        Err(error) => latencies.push(failed(UNTIL_OUTPUT, &error)),
    }
    latencies.push(match each(submitted, |file| engine.submit(tools, file)) {
        Ok(times) => measured(SUBMIT, &times),
        Err(error) => failed(SUBMIT, &error),
    });
    Ok(latencies)
}

/// Sends all files in order and leaves out the first ones.
fn each<T>(files: &[PathBuf], mut send: impl FnMut(&Path) -> Result<T>) -> Result<Vec<T>> {
    let mut times = Vec::new();
    for file in files {
        times.push(send(file).with_context(|| format!("send {}", file.display()))?);
    }
    times.drain(..WARM_UP.min(times.len()));
    Ok(times)
}

fn measured(way: &str, times: &[Duration]) -> Latency {
    let mut sorted_ms: Vec<_> = times.iter().map(|time| time.as_secs_f64() * 1_000.0).collect();
    sorted_ms.sort_by(f64::total_cmp);
    Latency { way: way.into(), sorted_ms, problem: None }
}

fn failed(way: &str, error: &anyhow::Error) -> Latency {
    let why = format!("{error:#}");
    eprintln!("  {way} FAILED: {why}");
    Latency { way: way.into(), sorted_ms: Vec::new(), problem: Some(Problem::Failed { why }) }
}

/// A running engine; it is ended when this is dropped.
struct Engine {
    #[expect(dead_code, reason = "it runs as long as this lives")]
    running: Running,
    home: Home,
    address: String,
    reference: PathBuf,
    log: PathBuf,
}

impl Engine {
    fn start(tools: &Tools, folder: &Path, reference: PathBuf) -> Result<Self> {
        let home = Home::new(folder, Job::J7)?;
        let address = free_address()?;
        let log = folder.join("log");
        let mut command = tools.tidemill_run(&home)?;
        command.args(["--grpc", &address]);
        let running = Running::new(process::spawn(&mut command, &log)?);
        Ok(Self { running, home, address, reference, log })
    }

    /// Answers the times until the last output was there and until the file was in `processed/`.
    fn drop_into_folder(&self, file: &Path) -> Result<(Duration, Duration)> {
        let name = file.file_name().context("a file has no name")?;
        let (outputs, processed) = (self.outputs_of(file)?, self.home.processed().join(name));
        let started = Instant::now();
        fs::rename(file, self.home.unprocessed().join(name)).context("drop the file")?;
        self.wait(started, &outputs)?;
        let until_output = started.elapsed();
        let size = outputs.iter().map(|(_, size)| size).sum();
        self.wait(started, &[(processed, size)])?;
        Ok((until_output, started.elapsed()))
    }

    fn submit(&self, tools: &Tools, file: &Path) -> Result<Duration> {
        let mut command = tools.tidemill()?;
        command.env("TIDEMILL_SERVER", format!("http://{}", self.address));
        command.arg("submit").arg(file).args(["--pipeline", Job::J7.name(), "--wait"]);
        let outputs = self.outputs_of(file)?;
        let numbers = process::run(command, &self.log.with_extension("submit"), FILE_TIMEOUT)?;
        if let Some((missing, _)) = outputs.iter().find(|output| !is_there(output)) {
            bail!("submit --wait came back before {} was there", missing.display());
        }
        Ok(Duration::from_secs_f64(numbers.wall_seconds))
    }

    /// The outputs that a file must have, each with its size.
    fn outputs_of(&self, file: &Path) -> Result<Vec<(PathBuf, u64)>> {
        let name = file.file_name().context("a file has no name")?;
        let expected = Class::ALL.iter().filter_map(|class| {
            let reference = self.reference.join(class.name()).join(name);
            let size = fs::metadata(reference).ok()?.len();
            Some((self.home.outputs().join(class.name()).join(name), size))
        });
        let outputs: Vec<_> = expected.collect();
        if outputs.is_empty() {
            bail!("the reference answer has no output for {}", file.display());
        }
        Ok(outputs)
    }

    fn wait(&self, started: Instant, files: &[(PathBuf, u64)]) -> Result<()> {
        while let Some((missing, _)) = files.iter().find(|file| !is_there(file)) {
            if started.elapsed() > FILE_TIMEOUT {
                bail!(
                    "{} was not there after {} s{}",
                    missing.display(),
                    FILE_TIMEOUT.as_secs(),
                    process::tail(&self.log)
                );
            }
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }
}

fn is_there((path, size): &(PathBuf, u64)) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.len() == *size)
}

/// A port that was free a moment ago; the engine says so if somebody else was faster.
pub fn free_address() -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").context("find a free port")?;
    Ok(listener.local_addr().context("find a free port")?.to_string())
}
