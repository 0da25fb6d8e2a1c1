//! Keys: what a table of very many keys costs: memory, updates, checkpoint, and the start that takes it
//! up.
//!
//! It owns one engine that counts and sums by key, and a clock around what happens to it: files of new
//! keys, a file of a million known ones, an ordered end, the next start. In the end each row of the
//! table must be what it has to be; else there is no number.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::run::process::{self, Running};

/// How often a folder is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// Rows of a file, at the most.
const FILE_ROWS: u64 = 1_000_000;
/// Files of one row, one after the other.
const SINGLES: usize = 9;
/// A prime above every number of keys: its multiples come by each key once, in no order.
const STRIDE: u64 = 1_000_000_007;

const PIPELINE: &str = "\
pipeline: keys
sources:
  rows: { format: csv, fields: { k: string, v: int } }
operators:
  by_k: { from: rows, aggregate: { by: [k], compute: { n: count(*), s: sum(v) } } }
sinks:
  t: { from: by_k, table: { format: csv, key: [k], publish_every: 1h } }
";

/// What to measure, and with what.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many keys, one row of the table each.
    pub keys: Vec<u64>,
    /// Where each run gets its folder.
    pub work: PathBuf,
    /// The binary `tidemill`.
    pub tidemill: PathBuf,
    /// Its workers.
    pub workers: usize,
    /// How long each step may take.
    pub timeout: Duration,
}

/// Measures, and returns the table.
pub fn run(options: &Options) -> Result<String> {
    let head = "| keys | new keys/s | bytes a key | updates/s | one row, ms | ordered end, s | checkpoint, bytes a key | next start, s |";
    let mut table = format!("{head}\n|{}\n", "---|".repeat(8));
    for &keys in &options.keys {
        let found = with(options, keys)?;
        // Writing to a string cannot fail.
        let _ = writeln!(
            table,
            "| {keys} | {:.0} | {:.1} | {:.0} | {:.0} | {:.1} | {:.1} | {:.1} |",
            keys as f64 / found.filling.as_secs_f64(),
            found.resident_bytes as f64 / keys as f64,
            keys.min(FILE_ROWS) as f64 / found.updating.as_secs_f64(),
            found.one_row.as_secs_f64() * 1_000.0,
            found.ending.as_secs_f64(),
            found.checkpoint_bytes as f64 / keys as f64,
            found.starting.as_secs_f64(),
        );
    }
    Ok(table)
}

/// What one number of keys costs.
struct Found {
    /// From the files' arrival to the last commit.
    filling: Duration,
    /// What the process takes then, above what it took empty.
    resident_bytes: u64,
    /// From the arrival of a file of known keys to its commit.
    updating: Duration,
    /// The same, of a file of one row; the median of [`SINGLES`].
    one_row: Duration,
    /// From the signal to the end of the process: checkpoint and table are written.
    ending: Duration,
    checkpoint_bytes: u64,
    /// From the start of a process to the commit of a file of one row.
    starting: Duration,
}

/// The folders of one run.
struct Run<'a> {
    options: &'a Options,
    place: &'a Path,
    /// Files that were dropped.
    dropped: usize,
}

fn with(options: &Options, keys: u64) -> Result<Found> {
    ensure!(
        (1..STRIDE).contains(&keys),
        "{keys} keys are out of range: at least 1, less than {STRIDE}"
    );
    fs::create_dir_all(&options.work)
        .with_context(|| format!("create {}", options.work.display()))?;
    let place = tempfile::Builder::new()
        .prefix("tidemill-bench-keys-")
        .tempdir_in(&options.work)
        .context("create the folder of a run")?;
    let mut run = Run { options, place: place.path(), dropped: 0 };
    fs::write(run.place.join("keys.yaml"), PIPELINE).context("write the pipeline")?;
    let ready = run.place.join("ready");
    fs::create_dir_all(&ready).context("create a folder")?;
    let starts: Vec<u64> = (0..keys).step_by(FILE_ROWS as usize).collect();
    for from in &starts {
        let rows = (*from..keys.min(from + FILE_ROWS)).map(|row| row * STRIDE % keys);
        write_rows(&ready.join(format!("{from:012}.csv")), rows)?;
    }
    let known: Vec<u64> = (0..keys.min(FILE_ROWS)).map(|row| row * STRIDE % keys).collect();
    write_rows(&run.place.join("known.csv"), known.iter().copied())?;
    let one = |number: usize| run.place.join(format!("one-{number}.csv"));
    let singles: Vec<PathBuf> = (0..=SINGLES).map(one).collect();
    for single in &singles {
        write_rows(single, std::iter::once(0))?;
    }

    let (engine, _) = run.start()?;
    let empty = run.resident(&engine)?;
    let files = fs::read_dir(&ready).context("list the files")?;
    let files = files.map(|file| Ok(file?.path())).collect::<Result<Vec<_>>>()?;
    let filling = run.commit(&files)?;
    let resident_bytes = run.resident(&engine)?.saturating_sub(empty);
    let updating = run.commit(&[run.place.join("known.csv")])?;
    let (last, singles) = singles.split_last().context("there is no file of one row")?;
    let one_by_one = singles.iter().map(|single| run.commit(std::slice::from_ref(single)));
    let mut one_row = one_by_one.collect::<Result<Vec<_>>>()?;
    one_row.sort();
    let one_row = one_row.get(SINGLES / 2).copied().context("there is no file of one row")?;
    let ending = run.end(engine)?;
    let checkpoint_bytes = size(&run.home().join("ckpt"))?;
    let (engine, began) = run.start()?;
    run.commit(std::slice::from_ref(last))?;
    let starting = began.elapsed();
    run.end(engine)?;
    let table = run.home().join("keys").join("out").join("t").join("t.csv");
    check(&table, keys, &known)?;
    Ok(Found { filling, resident_bytes, updating, one_row, ending, checkpoint_bytes, starting })
}

impl Run<'_> {
    fn home(&self) -> PathBuf {
        self.place.join("home")
    }

    fn log(&self) -> PathBuf {
        self.place.join("log")
    }

    /// Starts an engine and waits until it takes files; returns when it was started, too.
    fn start(&self) -> Result<(Running, Instant)> {
        let mut command = Command::new(&self.options.tidemill);
        command.arg("run").arg(self.place.join("keys.yaml")).arg("--home").arg(self.home());
        command.args(["-w", &self.options.workers.to_string(), "--grpc", "127.0.0.1:0"]);
        // Only the end writes a checkpoint, so that each cost shows by itself.
        command.args(["--quiet", "1ms", "--scan", "100ms", "--checkpoint-every", "0s"]);
        let began = Instant::now();
        let engine = Running::new(process::spawn(&mut command, &self.log())?);
        let inbox = self.home().join("keys").join("unprocessed");
        self.until(|| inbox.is_dir()).context("wait for the engine")?;
        Ok((engine, began))
    }

    /// Drops files; returns how long it took until all are committed.
    fn commit(&mut self, files: &[PathBuf]) -> Result<Duration> {
        let pipeline = self.home().join("keys");
        let began = Instant::now();
        for file in files {
            let name = file.file_name().context("a file without a name")?;
            fs::rename(file, pipeline.join("unprocessed").join(name)).context("drop a file")?;
        }
        self.dropped += files.len();
        let processed = pipeline.join("processed");
        let all = self.dropped;
        self.until(|| fs::read_dir(&processed).map_or(0, Iterator::count) >= all)
            .with_context(|| format!("commit {all} files"))?;
        Ok(began.elapsed())
    }

    /// Ends an engine in order; returns how long that took.
    fn end(&self, engine: Running) -> Result<Duration> {
        let began = Instant::now();
        let status = engine.end_in_order()?;
        ensure!(status.success(), "the engine ended with {status}{}", process::tail(&self.log()));
        Ok(began.elapsed())
    }

    /// Returns the resident memory of the engine, in bytes.
    fn resident(&self, engine: &Running) -> Result<u64> {
        let pid = engine.pid().context("the engine was ended before")?;
        let status = fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero()))
            .with_context(|| format!("look at the engine{}", process::tail(&self.log())))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        Ok(kib.context("the system does not say how much memory the engine takes")? * 1024)
    }

    fn until(&self, mut is_so: impl FnMut() -> bool) -> Result<()> {
        let (began, patience) = (Instant::now(), self.options.timeout);
        while !is_so() {
            let waited = began.elapsed();
            ensure!(waited < patience, "not done after {waited:.0?}{}", process::tail(&self.log()));
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }
}

/// Writes a file of rows with these keys.
fn write_rows(path: &Path, keys: impl Iterator<Item = u64>) -> Result<()> {
    let file = File::create(path).with_context(|| format!("create {}", path.display()))?;
    let mut file = BufWriter::new(file);
    writeln!(file, "k,v")?;
    for key in keys {
        writeln!(file, "user-{key:010},{}", value(key))?;
    }
    file.flush().with_context(|| format!("write {}", path.display()))
}

/// What each row of a key adds.
const fn value(key: u64) -> u64 {
    key % 997
}

/// Compares each row of the table with what must be there.
fn check(path: &Path, keys: u64, known: &[u64]) -> Result<()> {
    let mut times = vec![1_u64; usize::try_from(keys)?];
    for key in known.iter().chain(&[0; SINGLES + 1]) {
        times[usize::try_from(*key)?] += 1;
    }
    let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
    let mut lines = BufReader::new(file).lines();
    let head = lines.next().transpose()?;
    ensure!(head.as_deref() == Some("k,n,s"), "{} begins with {head:?}", path.display());
    let mut expected = String::new();
    for (key, times) in (0..).zip(times) {
        expected.clear();
        // Writing to a string cannot fail.
        let _ = write!(expected, "user-{key:010},{times},{}", times * value(key));
        let found = lines.next().transpose()?;
        ensure!(
            found.as_deref() == Some(&*expected),
            "{}: expected {expected}, found {found:?}",
            path.display()
        );
    }
    ensure!(lines.next().is_none(), "{} has too many lines", path.display());
    Ok(())
}

/// Returns the bytes of all files in a folder and below.
fn size(folder: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))? {
        let entry = entry?;
        let about = entry.metadata()?;
        bytes += if about.is_dir() { size(&entry.path())? } else { about.len() };
    }
    Ok(bytes)
}
