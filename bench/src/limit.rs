//! The limit: small programs, written by hand for one job each, that say how fast two cores can be.
//!
//! It owns the answers that every other contestant is compared with. Two threads share the input
//! files; there is no commit protocol, no recovery and no checking beyond what the job needs. What
//! the fast scan does not recognise goes to a full JSON parser, so the answers are right all the
//! same.
//!
//! Outputs: `OUT/server_error/NAME`, `OUT/client_error/NAME`, `OUT/ok/NAME` for each input file that
//! has such lines, and for J2 and J4 the table `OUT/traffic/traffic.csv`.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

mod lines;
mod outputs;
mod route;
mod template;
mod traffic;

pub use outputs::Class;

use lines::LineReader;
use outputs::{ClassFiles, Naming};
use template::Template;
use traffic::Traffic;

/// The threads of each program: the machine of the published tables has two cores.
const THREADS: usize = 2;

/// A job that is written by hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LimitJob {
    /// Route lines by a substring to three outputs.
    J1,
    /// Parse, route by status class, and count, sum and maximum by (host, status).
    J2,
    /// J2 over many small files; each output gets its name only when it is whole.
    J4,
}

/// Runs a job over all files of `input`, in the order of their names.
pub fn run(job: LimitJob, input: &Path, output: &Path) -> Result<()> {
    let inputs = input_files(input)?;
    for class in Class::ALL {
        let folder = output.join(class.name());
        fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    }
    let tables = match job {
        LimitJob::J1 => share(&inputs, |worker| worker.route(output))?,
        LimitJob::J2 => share(&inputs, |worker| worker.traffic(output, Naming::AtOnce))?,
        LimitJob::J4 => share(&inputs, |worker| worker.traffic(output, Naming::WhenWhole))?,
    };
    if job == LimitJob::J1 {
        return Ok(());
    }
    let mut whole = Traffic::default();
    for table in tables {
        whole.add(table);
    }
    let folder = output.join("traffic");
    fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    let path = folder.join("traffic.csv");
    fs::write(&path, whole.to_csv()).with_context(|| format!("write {}", path.display()))
}

/// Returns the files of a folder, sorted by name; hidden files are not part of a data set.
pub fn input_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let listing = || format!("list {}", folder.display());
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).with_context(listing)? {
        let entry = entry.with_context(listing)?;
        let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
        if !hidden && entry.file_type().with_context(listing)?.is_file() {
            files.push(entry.path());
        }
    }
    if files.is_empty() {
        bail!("{} holds no files", folder.display());
    }
    files.sort();
    Ok(files)
}

/// Runs the same work on every thread; the files are handed out one by one.
fn share<T: Send>(
    inputs: &[PathBuf],
    work: impl Fn(Worker<'_>) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let next = AtomicUsize::new(0);
    let (next, work) = (&next, &work);
    std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..THREADS).map(|_| scope.spawn(move || work(Worker { inputs, next }))).collect();
        threads
            .into_iter()
            .map(|thread| match thread.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            })
            .collect()
    })
}

/// One thread's view of the input files.
struct Worker<'a> {
    inputs: &'a [PathBuf],
    next: &'a AtomicUsize,
}

impl Worker<'_> {
    fn next_input(&self) -> Option<&Path> {
        self.inputs.get(self.next.fetch_add(1, Ordering::Relaxed)).map(PathBuf::as_path)
    }

    fn route(&self, output: &Path) -> Result<Traffic> {
        let (needles, mut reader) = (route::Needles::default(), LineReader::default());
        while let Some(path) = self.next_input() {
            let mut files = ClassFiles::new(output, path, Naming::AtOnce)?;
            let routed = reader.for_each_chunk(path, |chunk| {
                route::route(&needles, chunk.lines(), &mut files);
                files.spill()
            });
            routed.and_then(|()| files.finish()).with_context(|| verb("route", path))?;
        }
        Ok(Traffic::default())
    }

    fn traffic(&self, output: &Path, naming: Naming) -> Result<Traffic> {
        let (mut traffic, mut reader) = (Traffic::default(), LineReader::default());
        let mut template = Template::default();
        while let Some(path) = self.next_input() {
            let mut files = ClassFiles::new(output, path, naming)?;
            let parsed = reader.for_each_chunk(path, |chunk| {
                template::scan(&mut template, chunk, &mut traffic, &mut files)?;
                files.spill()
            });
            parsed.and_then(|()| files.finish()).with_context(|| verb("parse", path))?;
        }
        Ok(traffic)
    }
}

fn verb(verb: &str, path: &Path) -> String {
    format!("{verb} {}", path.display())
}

#[cfg(test)]
mod tests;
