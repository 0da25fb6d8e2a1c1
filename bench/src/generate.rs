//! Seeded data sets: the same bytes for the same seed on every machine.
//!
//! It owns what the files of a data set are called, how many there are and how they are written. A
//! file depends only on the data set, the seed and its own number, so that threads may write files
//! in any order. It never overwrites: the folder it fills must be empty or absent.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

mod auth;
pub mod trade;
mod weblog;

use auth::AuthLines;
use weblog::{Layout, WeblogLines};

/// The largest size of a file of [`Dataset::Small`].
pub const SMALL_FILE_BYTES_MAX: usize = 4_096;

/// Bytes gathered before a write.
const WRITE_BYTES: usize = 1 << 20;

/// A data set by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Dataset {
    /// Web server records as JSON lines: 16 files, 4.8 M records, about 1.0 GiB.
    WeblogJsonl,
    /// The same records as CSV, a header in each file.
    WeblogCsv,
    /// 10,000 files of at most 4 KiB, cut from the first file of the JSON lines at line ends.
    Small,
    /// Log lines of an ssh daemon: logins, failures, invalid users, some offending addresses.
    Auth,
}

/// How much of a data set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Everything random follows from it.
    pub seed: u64,
    /// Number of files.
    pub files: usize,
    /// Records in each file; [`Dataset::Small`] fills its files by size and ignores it.
    pub records: u64,
}

/// One generated file in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GeneratedFile {
    /// Its name without a folder.
    pub name: String,
    /// Its bytes; they end with a newline.
    pub content: Vec<u8>,
}

/// What was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// Number of files.
    pub files: usize,
    /// Their bytes together.
    pub bytes: u64,
}

impl Dataset {
    /// Returns the full size, as measured in the published tables, with seed 1.
    pub fn full(self) -> Shape {
        match self {
            Self::WeblogJsonl | Self::WeblogCsv => Shape { seed: 1, files: 16, records: 300_000 },
            Self::Small => Shape { seed: 1, files: 10_000, records: 0 },
            Self::Auth => Shape { seed: 1, files: 8, records: 20_000 },
        }
    }

    /// Returns the name, which is also the name of its folder.
    pub fn name(self) -> &'static str {
        match self {
            Self::WeblogJsonl => "weblog-jsonl",
            Self::WeblogCsv => "weblog-csv",
            Self::Small => "small",
            Self::Auth => "auth",
        }
    }

    /// Returns the name of one file, numbered from 0.
    pub fn file_name(self, index: usize) -> String {
        match self {
            Self::WeblogJsonl => format!("weblog-{index:02}.jsonl"),
            Self::WeblogCsv => format!("weblog-{index:02}.csv"),
            Self::Small => format!("small-{index:05}.jsonl"),
            Self::Auth => format!("auth-{index:02}.log"),
        }
    }
}

impl Shape {
    /// Scales a data set: the records of each file, or the number of files of [`Dataset::Small`].
    ///
    /// The result has at least one file and one record.
    pub fn scaled(self, dataset: Dataset, scale: f64) -> Self {
        let times = |count: u64| ((count as f64 * scale).round() as u64).max(1);
        match dataset {
            Dataset::Small => Self { files: times(self.files as u64) as usize, ..self },
            _ => Self { records: times(self.records), ..self },
        }
    }
}

/// Returns the files of a data set in order, each made in memory when asked for.
pub fn files(dataset: Dataset, shape: Shape) -> impl Iterator<Item = GeneratedFile> {
    let mut small = matches!(dataset, Dataset::Small).then(|| SmallFiles::new(shape.seed));
    (0..shape.files).map(move |index| {
        let content = match &mut small {
            Some(small) => small.next_file(),
            None => {
                let mut content = Vec::new();
                let mut lines = Lines::new(dataset, shape, index);
                while lines.append(&mut content) {}
                content
            }
        };
        GeneratedFile { name: dataset.file_name(index), content }
    })
}

/// Writes a data set into `out`, which must be absent or empty.
///
/// Each file gets its name only when it is whole. Nothing is synced.
pub fn write(dataset: Dataset, shape: Shape, out: &Path) -> Result<Written> {
    fs::create_dir_all(out).with_context(|| format!("create {}", out.display()))?;
    let mut entries = fs::read_dir(out).with_context(|| format!("list {}", out.display()))?;
    if entries.next().is_some() {
        bail!(
            "{} is not empty: a mixture of data sets measures nothing; give an empty folder",
            out.display()
        );
    }
    match dataset {
        Dataset::Small => write_small(shape, out),
        _ => write_in_parallel(dataset, shape, out),
    }
}

/// One thread a core; each takes the next file that nobody has begun.
fn write_in_parallel(dataset: Dataset, shape: Shape, out: &Path) -> Result<Written> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(shape.files);
    let (next, bytes) = (AtomicUsize::new(0), AtomicU64::new(0));
    let work = || -> Result<()> {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= shape.files {
                return Ok(());
            }
            let lines = Lines::new(dataset, shape, index);
            let written = write_lines(lines, &out.join(dataset.file_name(index)))?;
            bytes.fetch_add(written, Ordering::Relaxed);
        }
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| match worker.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })?;
    Ok(Written { files: shape.files, bytes: bytes.into_inner() })
}

fn write_lines(mut lines: Lines, path: &Path) -> Result<u64> {
    let part = path.with_extension("part");
    let mut file = fs::File::create(&part).with_context(|| format!("create {}", part.display()))?;
    let mut buffer = Vec::with_capacity(WRITE_BYTES + SMALL_FILE_BYTES_MAX);
    let mut bytes = 0;
    loop {
        let more = lines.append(&mut buffer);
        if !more || buffer.len() >= WRITE_BYTES {
            file.write_all(&buffer).with_context(|| format!("write {}", part.display()))?;
            bytes += buffer.len() as u64;
            buffer.clear();
        }
        if !more {
            break;
        }
    }
    fs::rename(&part, path).with_context(|| format!("rename to {}", path.display()))?;
    Ok(bytes)
}

fn write_small(shape: Shape, out: &Path) -> Result<Written> {
    let mut bytes = 0;
    for file in files(Dataset::Small, shape) {
        let (path, part) = (out.join(&file.name), out.join(format!(".{}.part", file.name)));
        fs::write(&part, &file.content).with_context(|| format!("write {}", part.display()))?;
        fs::rename(&part, &path).with_context(|| format!("rename to {}", path.display()))?;
        bytes += file.content.len() as u64;
    }
    Ok(Written { files: shape.files, bytes })
}

/// The lines of one file that are still to come.
struct Lines {
    left: u64,
    kind: LineKind,
}

enum LineKind {
    Weblog(Box<WeblogLines>),
    Auth(Box<AuthLines>),
}

impl Lines {
    fn new(dataset: Dataset, shape: Shape, index: usize) -> Self {
        let (seed, records, index) = (shape.seed, shape.records, index as u64);
        let weblog =
            |layout| LineKind::Weblog(Box::new(WeblogLines::new(layout, seed, index, records)));
        let kind = match dataset {
            Dataset::WeblogJsonl | Dataset::Small => weblog(Layout::Jsonl),
            Dataset::WeblogCsv => weblog(Layout::Csv),
            Dataset::Auth => LineKind::Auth(Box::new(AuthLines::new(seed, index, records))),
        };
        Self { left: records, kind }
    }

    /// Appends the next line with its newline; answers false, and appends nothing, after the last.
    fn append(&mut self, out: &mut Vec<u8>) -> bool {
        if self.left == 0 {
            return false;
        }
        self.left -= 1;
        match &mut self.kind {
            LineKind::Weblog(lines) => lines.append(out),
            LineKind::Auth(lines) => lines.append(out),
        }
        true
    }
}

/// Cuts the lines of the first file of the JSON lines into small files.
struct SmallFiles {
    lines: WeblogLines,
    /// The line that did not fit into the file before.
    carried: Vec<u8>,
}

impl SmallFiles {
    fn new(seed: u64) -> Self {
        let records = Dataset::WeblogJsonl.full().records;
        Self { lines: WeblogLines::new(Layout::Jsonl, seed, 0, records), carried: Vec::new() }
    }

    fn next_file(&mut self) -> Vec<u8> {
        let mut content = std::mem::take(&mut self.carried);
        loop {
            let before = content.len();
            self.lines.append(&mut content);
            if content.len() > SMALL_FILE_BYTES_MAX {
                self.carried = content.split_off(before);
                return content;
            }
        }
    }
}

#[cfg(test)]
mod tests;
