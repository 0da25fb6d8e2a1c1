//! Place: a folder with a pipeline and a home in it, and one life of the process after the other.
//!
//! Knows what must be true when a life has ended well: every input is in `processed/` once, and
//! `out/` holds the bytes of a slow program that read what is in `processed/`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::crash::{Disk, Look, Survival};
use super::{Dice, Fault, between};
use crate::oracle;
use crate::process::{Ended, Process};
use crate::tree::{self, Tree};

/// A pipeline, files for it, and a slow program that knows what comes out.
#[derive(Clone, Debug)]
pub struct Case {
    /// What it is called here.
    pub name: &'static str,
    /// The name of the pipeline.
    pub pipeline: &'static str,
    /// The pipeline file.
    pub yaml: &'static str,
    /// The files.
    pub inputs: Tree,
    /// Says what must be in `out/` for the files in `processed/`.
    pub oracle: fn(&Tree) -> Tree,
}

const ACCESS_LOGS: &str = include_str!("../../../examples/access-logs/pipeline.yaml");

const COPIES: &str = "\
pipeline: copies
sources:
  logs: { format: jsonl, pattern: '*.jsonl', fields: { status: int } }
operators:
  by_class: { from: logs, route: { bad: status >= 500, good: else } }
sinks:
  bad: { from: by_class.bad, files: { format: raw } }
  good: { from: by_class.good, files: { format: raw } }
";

impl Case {
    /// Returns both: with a table that is summed up, and without state but with two outputs a file.
    pub fn all() -> [Case; 2] {
        [Case::summed(), Case::copied()]
    }

    /// Returns the case with an aggregate and a table.
    pub fn summed() -> Case {
        let (inputs, oracle) = (inputs(), oracle::access_logs as fn(&Tree) -> Tree);
        Case { name: "aggregate", pipeline: "access-logs", yaml: ACCESS_LOGS, inputs, oracle }
    }

    /// Returns the case without state.
    pub fn copied() -> Case {
        let (inputs, oracle) = (inputs(), copies as fn(&Tree) -> Tree);
        Case { name: "stateless", pipeline: "copies", yaml: COPIES, inputs, oracle }
    }

    /// Returns many files whose outputs all ride in the journal, more than its log may hold.
    pub fn long_log() -> Case {
        const FILES: usize = 800;
        let line = format!("{{\"status\":500,\"pad\":\"{}\"}}\n", "x".repeat(44_000)).into_bytes();
        let inputs = (0..FILES).map(|n| (format!("{n:04}.jsonl"), line.clone())).collect();
        Case { name: "long log", inputs, ..Case::copied() }
    }
}

/// One file whose outputs are staged, and two whose outputs ride in the journal.
fn inputs() -> Tree {
    let file = |from: usize, count: usize| -> Vec<u8> {
        let line = |n: usize| {
            let (host, status) = (n % 3, [200, 503, 404, 500][n % 4]);
            let latency = n % 100;
            format!(
                "{{\"host\":\"web-{host}\",\"status\":{status},\"bytes\":{n},\"latency_ms\":{latency}.5}}\n"
            )
        };
        (from..from + count).map(line).collect::<String>().into_bytes()
    };
    BTreeMap::from([
        ("a.jsonl".to_owned(), file(0, 2_000)),
        ("b.jsonl".to_owned(), file(5_000, 60)),
        ("c.jsonl".to_owned(), file(6_000, 45)),
    ])
}

fn copies(files: &Tree) -> Tree {
    let mut out = Tree::new();
    for (name, bytes) in files {
        for sink in ["bad", "good"] {
            out.insert(format!("{sink}/{name}"), Vec::new());
        }
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            let record: serde_json::Value = serde_json::from_slice(line).unwrap();
            let sink = if record["status"].as_i64() >= Some(500) { "bad" } else { "good" };
            out.entry(format!("{sink}/{name}")).or_default().extend_from_slice(line);
        }
    }
    out
}

/// Which binary lives, and what was taken away from it.
#[derive(Clone, Debug)]
pub struct Subject {
    /// The binary.
    pub node: PathBuf,
    /// Set in its environment.
    pub environment: Vec<(String, String)>,
}

impl Subject {
    /// Returns the binary as it is.
    pub fn new(node: impl Into<PathBuf>) -> Subject {
        Subject { node: node.into(), environment: Vec::new() }
    }
}

/// A folder in which a home lives. It belongs to whoever made it.
#[derive(Clone, Debug)]
pub struct Place<'a> {
    /// The pipeline and its files.
    pub case: &'a Case,
    /// The binary.
    pub subject: &'a Subject,
    /// The folder.
    pub folder: PathBuf,
}

impl<'a> Place<'a> {
    /// Returns a new home with all inputs dropped, in a folder that is there.
    pub fn new(case: &'a Case, subject: &'a Subject, folder: &Path) -> Place<'a> {
        let place = Place::empty(case, subject, folder);
        for (name, bytes) in &case.inputs {
            fs::write(place.below("unprocessed").join(name), bytes).unwrap();
        }
        place
    }

    /// Returns a new home into which nothing was dropped yet.
    pub fn empty(case: &'a Case, subject: &'a Subject, folder: &Path) -> Place<'a> {
        let place = Place::around(case, subject, folder);
        fs::create_dir_all(place.below("unprocessed")).unwrap();
        place
    }

    /// Returns a place around a home that is there already, or will be.
    pub fn around(case: &'a Case, subject: &'a Subject, folder: &Path) -> Place<'a> {
        fs::write(folder.join("pipeline.yaml"), case.yaml).unwrap();
        Place { case, subject, folder: folder.to_path_buf() }
    }

    /// Returns the home.
    pub fn home(&self) -> PathBuf {
        self.folder.join("home")
    }

    /// Returns where the calls of its lives are written down.
    pub fn log(&self) -> PathBuf {
        self.folder.join("calls")
    }

    fn looks(&self) -> PathBuf {
        self.folder.join("looks")
    }

    /// Builds the home as a power cut leaves it. The files keep their inodes and times for its lives.
    pub fn cut_from(&self, disk: &Disk, survival: Survival, dice: &mut Dice) {
        let line =
            |(inode, look): (u64, Look)| format!("{inode} {} {}\n", look.inode, look.modified_ns);
        let looks = disk.cut(survival, dice, &self.home());
        fs::write(self.looks(), looks.into_iter().map(line).collect::<String>()).unwrap();
    }

    /// Looks at the home as it is now, all of which is durable.
    pub fn disk(&self) -> Disk {
        let text = fs::read_to_string(self.looks()).unwrap_or_default();
        let line = |line: &str| {
            let mut words = line.split(' ');
            let inode = words.next()?.parse().ok()?;
            let look = Look {
                inode: words.next()?.parse().ok()?,
                modified_ns: words.next()?.parse().ok()?,
            };
            Some((inode, look))
        };
        Disk::load(&self.home(), &text.lines().filter_map(line).collect())
    }

    /// Returns a folder of the pipeline.
    pub fn below(&self, name: &str) -> PathBuf {
        self.home().join(self.case.pipeline).join(name)
    }

    /// Returns the command of a life. Its calls are written down.
    pub fn command(&self, fault: Option<Fault>) -> Command {
        let mut command = Command::new(&self.subject.node);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("TIDEMILL_") {
                command.env_remove(name);
            }
        }
        command.current_dir(&self.folder).envs(self.subject.environment.iter().cloned());
        command.args(["run", "pipeline.yaml", "--home", "home", "--grpc", "127.0.0.1:0"]);
        command.args(["--quiet", "1ms", "--scan", "50ms", "-w", "2"]);
        fs::create_dir_all(self.home()).unwrap();
        if self.looks().exists() {
            command.env("FAULTS_LOOKS", self.looks());
        }
        between(&mut command, &self.home(), Some(&self.log()), fault);
        command
    }

    /// Lives once: takes what is there, commits it and ends.
    pub fn live(&self, fault: Option<Fault>) -> Ended {
        Process::start(self.command(fault).arg("--once")).ended()
    }

    /// Lives once undisturbed, which must go well, and says what is wrong afterwards.
    pub fn finish(&self, promised: &Promised) -> Result<(), String> {
        let ended = self.live(None);
        if ended.code != Some(0) {
            return Err(format!("the next start does not go well: {ended}"));
        }
        self.check(promised).map_err(|wrong| format!("{wrong}\n{ended}"))
    }

    /// Says what is wrong with what lies in the folders after everything was finished.
    ///
    /// An input may have lost lines at its end, if whoever dropped it had not synced it: only what
    /// is accepted is promised to be whole. What counts is what is in `processed/`.
    pub fn check(&self, promised: &Promised) -> Result<(), String> {
        for folder in ["unprocessed", "underprocess"] {
            let found = tree::read(&self.below(folder));
            if let Some((name, _)) = found.first_key_value() {
                return Err(format!("{name} is in {folder}/"));
            }
        }
        let staged = tree::read(&self.home().join("stage"));
        if let Some((name, _)) = staged.first_key_value() {
            return Err(format!("{name} is left in stage/"));
        }
        let quarantine = tree::read(&self.below("quarantine"));
        if let (Some((name, _)), false) = (quarantine.first_key_value(), promised.may_be_set_aside)
        {
            return Err(format!("{name} is in quarantine/"));
        }
        let processed = tree::read(&self.below("processed"));
        let there =
            |name: &&String| processed.contains_key(*name) || quarantine.contains_key(*name);
        if let Some(lost) = promised.names.iter().find(|name| !there(name)) {
            return Err(format!("{lost} is lost"));
        }
        for (name, bytes) in &processed {
            let Some(whole) = self.case.inputs.get(name) else {
                return Err(format!("{name} is in processed/: that is one more than was dropped"));
            };
            if !whole.starts_with(bytes) || !(bytes.is_empty() || bytes.ends_with(b"\n")) {
                return Err(format!("{name} in processed/ is not what was dropped"));
            }
        }
        let mut out = tree::read(&self.below("out"));
        tree::check_abouts(&mut out)?;
        match tree::difference(&(self.case.oracle)(&processed), &out) {
            Some(difference) => Err(format!("out/ is not what it must be:\n{difference}")),
            None => Ok(()),
        }
    }
}

/// What must be true of the inputs in the end.
#[derive(Clone, Debug, Default)]
pub struct Promised {
    /// Which must be there.
    pub names: BTreeSet<String>,
    /// Whether some may be in `quarantine/`, because they could not be read.
    pub may_be_set_aside: bool,
}

impl Promised {
    /// Promises that all inputs of a case are processed.
    pub fn all(case: &Case) -> Promised {
        Promised { names: case.inputs.keys().cloned().collect(), may_be_set_aside: false }
    }
}
