//! Doctor: looks at a home, running or not, and says what is wrong with it, what that means and what
//! to do. Reads only.
//!
//! It changes no file of ours. The one file it can touch is SQLite's own index `journal.db-shm`, which
//! holds no fact and is made anew at each start. Everything is read in pages, so a home of any size
//! fits the memory; a running home changes under its eyes, so there what looks wrong is looked at
//! again and told only if it stays.

mod around;
mod checkpoints;
mod finding;
mod folders;
mod journal;
mod tables;

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

pub use finding::{Code, Finding, Severity};

/// How long a running home is given before what looked wrong is looked at again.
const AGAIN_AFTER: Duration = Duration::from_millis(600);

/// Examples shown of one finding.
const EXAMPLES_MAX: usize = 5;

/// What is wrong with a home, and what was looked at.
#[derive(Clone, Debug, Serialize)]
pub struct Diagnosis {
    /// The home.
    pub home: PathBuf,
    /// Whether bytes were hashed, too.
    pub deep: bool,
    /// What was seen.
    pub facts: Facts,
    /// What was found, the worst first.
    pub findings: Vec<Finding>,
}

/// What was seen of a home.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Facts {
    /// The process that runs here, if one does.
    pub running: Option<u32>,
    /// The schema of the journal.
    pub schema: i64,
    /// Its size in bytes.
    pub journal_bytes: u64,
    /// The size of its log in bytes.
    pub log_bytes: u64,
    /// Lives of the program so far.
    pub generations: u64,
    /// The pipelines in the journal.
    pub pipelines: Vec<String>,
    /// Files accepted and not finished.
    pub accepted: u64,
    /// Files committed.
    pub committed: u64,
    /// Files that repeat one taken before, and were not run.
    pub duplicates: u64,
    /// Files set aside, by code.
    pub quarantined: BTreeMap<String, u64>,
    /// Files that wait in `unprocessed/`.
    pub waiting: u64,
    /// Outputs that were looked at.
    pub outputs: u64,
    /// Receipts that were checked.
    pub receipts: u64,
    /// Bytes that were hashed.
    pub hashed_bytes: u64,
    /// Bytes in `stage/`.
    pub stage_bytes: u64,
    /// Bytes in `spool/`.
    pub spool_bytes: u64,
    /// Bytes in `ckpt/`.
    pub checkpoint_bytes: u64,
    /// Old versions and second names in `retained/` of all pipelines.
    pub retained_files: u64,
    /// Their bytes. Those of a second name cost no room while the first is there.
    pub retained_bytes: u64,
    /// Bytes that may still be written to the file system.
    pub free_bytes: u64,
    /// Files that may still be made on it; `None` if it does not count them.
    pub free_files: Option<u64>,
}

/// Why a home could not be examined at all.
#[derive(Debug, thiserror::Error)]
pub enum DoctorError {
    /// There is nothing there.
    #[error("there is no home at {}", path.display())]
    Missing {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// It may not be looked at.
    #[error("look at {}", path.display())]
    Unreadable {
        /// What.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl Diagnosis {
    /// Returns the exit code: 0 healthy, 1 something needs a person, 65 something is damaged.
    pub fn exit_code(&self) -> u8 {
        match self.findings.iter().map(|finding| finding.severity).max() {
            Some(Severity::Damage) => 65,
            Some(Severity::Warning) => 1,
            Some(Severity::Note) | None => 0,
        }
    }
}

/// Looks at the whole home. `deep` also hashes every input and output, which reads all of them.
pub fn examine(root: &Path, deep: bool) -> Result<Diagnosis, DoctorError> {
    let home = root.canonicalize().map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => DoctorError::Missing { path: root.to_path_buf() },
        _ => DoctorError::Unreadable { path: root.to_path_buf(), source },
    })?;
    if !home.is_dir() {
        return Err(DoctorError::Missing { path: root.to_path_buf() });
    }
    let mut round = Round::new(&home, deep, None);
    round.look_over();
    if round.facts.running.is_some() && round.needs_a_person() {
        std::thread::sleep(AGAIN_AFTER);
        let first = std::mem::take(&mut round.seen);
        round = Round::new(&home, deep, Some(first));
        round.look_over();
    }
    let Round { facts, found, .. } = round;
    let mut findings: Vec<Finding> = found.into_values().collect();
    findings.sort_by(|one, two| two.severity.cmp(&one.severity).then(one.code.cmp(two.code)));
    Ok(Diagnosis { home, deep, facts, findings })
}

/// One look at a home.
struct Round<'a> {
    home: &'a Path,
    deep: bool,
    facts: Facts,
    found: BTreeMap<(Code, String), Finding>,
    /// What looked wrong, as short hashes: 8 bytes for each.
    seen: HashSet<u64>,
    /// What looked wrong the last time; only that is told.
    before: Option<HashSet<u64>>,
}

impl<'a> Round<'a> {
    fn new(home: &'a Path, deep: bool, before: Option<HashSet<u64>>) -> Self {
        let (facts, found, seen) = (Facts::default(), BTreeMap::new(), HashSet::new());
        Self { home, deep, facts, found, seen, before }
    }

    fn look_over(&mut self) {
        self.look_around();
        let Some(journal) = self.open_journal() else { return };
        self.check_journal(&journal);
        let pipelines = self.list_pipelines(&journal);
        self.check_files(&journal, &pipelines);
        self.check_receipts(&journal);
        for pipeline in &pipelines {
            self.find_strangers(&journal, pipeline);
            self.check_tables(pipeline);
            self.check_checkpoints(&journal, pipeline);
        }
        self.facts.pipelines = pipelines.into_iter().map(|pipeline| pipeline.name).collect();
    }

    /// Notes that something was found. `subject` tells it from its like.
    fn find(&mut self, code: Code, pipeline: &str, subject: &str) {
        if code.severity() > Severity::Note {
            let mut hasher = blake3::Hasher::new();
            for part in [code.word(), pipeline, subject] {
                hasher.update(part.as_bytes()).update(&[0]);
            }
            let hash = hasher.finalize();
            let short = hash.as_bytes().first_chunk::<8>().copied().map_or(0, u64::from_le_bytes);
            self.seen.insert(short);
            if self.before.as_ref().is_some_and(|before| !before.contains(&short)) {
                return; // It was in order a moment ago: the home is at work.
            }
        }
        let key = (code, pipeline.to_owned());
        let finding = self.found.entry(key).or_insert_with(|| Finding::new(code, pipeline));
        finding.count += 1;
        if finding.examples.len() < EXAMPLES_MAX {
            finding.examples.push(subject.to_owned());
        }
    }

    fn needs_a_person(&self) -> bool {
        self.found.values().any(|finding| finding.severity > Severity::Note)
    }

    /// Notes that something could not be looked at.
    fn unreadable(&mut self, path: &Path, error: &io::Error) {
        let subject = format!("{}: {error}", self.shown(path));
        self.find(Code::Unreadable, "", &subject);
    }

    /// Returns a path below the home as a person reads it.
    fn shown(&self, path: &Path) -> String {
        path.strip_prefix(self.home).unwrap_or(path).display().to_string()
    }
}

#[cfg(test)]
mod tests;
