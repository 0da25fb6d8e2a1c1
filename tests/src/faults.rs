//! Faults: a disk that refuses, forgets or stops, below a real process, on a machine that is well.
//!
//! Owns the library that is loaded in front of the process (`faults/disk.c`) and how it is switched
//! on. It writes down every call that changes the disk below one folder, in order, and can let the
//! n-th of them fail. From the record [`crash`] builds what a power cut may leave; [`calls`] lets
//! single calls fail; [`power`] cuts the power; [`mount`] cuts that of a real file system; [`mutate`] takes the barriers of the protocol away,
//! one by one, to see whether the power cuts notice.

pub mod crash;
pub mod record;

pub mod place;

pub mod calls;
pub mod mount;
pub mod mutate;
pub mod power;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The source of the library.
const SOURCE: &str = include_str!("../faults/disk.c");

/// Settings of other tools that would get between the process and its disk.
const FOREIGN: [&str; 2] = ["LD_PRELOAD", "LD_LIBRARY_PATH"];

/// What a call is made to suffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Any call fails with EIO.
    Eio,
    /// A call that needs space fails with ENOSPC.
    Enospc,
    /// A write writes half of what it was given.
    Short,
    /// A call that can be interrupted fails with EINTR.
    Eintr,
    /// A sync fails with EIO, what it should have synced is lost, and the next one says yes.
    Sync,
    /// The process is killed before the call.
    Kill,
    /// A call that reads from a file fails with EIO. Not among those that a sweep lets happen: what
    /// is read is no change of the disk.
    Read,
    /// A sync fails as with [`Kind::Sync`], and the process is killed before it hears of it. Not among
    /// those that a sweep lets happen: it tells more only when the power is cut later.
    SyncKill,
    /// The power of the file system is cut before the call, and the process is killed. For a [`mount`]
    /// only.
    Cut,
}

impl Kind {
    /// All kinds that a sweep lets happen, in the order in which they are reported.
    pub const ALL: [Kind; 6] =
        [Kind::Eio, Kind::Enospc, Kind::Short, Kind::Eintr, Kind::Sync, Kind::Kill];

    /// Returns the word for it.
    pub const fn word(self) -> &'static str {
        match self {
            Kind::Eio => "eio",
            Kind::Enospc => "enospc",
            Kind::Short => "short",
            Kind::Eintr => "eintr",
            Kind::Sync => "sync",
            Kind::Kill => "kill",
            Kind::Read => "read",
            Kind::SyncKill => "sync-kill",
            Kind::Cut => "cut",
        }
    }
}

/// Which calls fail, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// How.
    pub kind: Kind,
    /// The first that fails, counted from 1 among those that the kind can hit.
    pub at: u64,
    /// How many fail in a row.
    pub times: u64,
    /// How the paths end that count; empty for all.
    pub only: &'static str,
}

impl Fault {
    /// Returns the fault of one call.
    pub const fn new(kind: Kind, at: u64) -> Fault {
        Fault { kind, at, times: 1, only: "" }
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{} at call {}", self.kind.word(), self.at)?;
        if !self.only.is_empty() {
            write!(out, " on {}", self.only)?;
        }
        if self.times > 1 { write!(out, " and the {} after it", self.times - 1) } else { Ok(()) }
    }
}

/// Puts the library in front of a command that works on `home`, which must exist. Everything is
/// written down in `log`, behind what is there. Syncs are believed and not done: only the record
/// counts, and a machine that stays on keeps what was written anyway.
pub fn between(command: &mut Command, home: &Path, log: Option<&Path>, fault: Option<Fault>) {
    for name in FOREIGN {
        command.env_remove(name);
    }
    command.env("LD_PRELOAD", library()).env("FAULTS_SYNC", "pretend");
    command.env("FAULTS_BELOW", home.canonicalize().unwrap());
    if let Some(log) = log {
        command.env("FAULTS_LOG", log);
    }
    if let Some(Fault { kind, at, times, only }) = fault {
        command.env("FAULTS_KIND", kind.word());
        command.env("FAULTS_AT", at.to_string()).env("FAULTS_TIMES", times.to_string());
        if !only.is_empty() {
            command.env("FAULTS_ONLY", only);
        }
    }
}

/// Returns what puts the library in front of a process that works on `home`, which must exist, with a
/// fault and nothing else: variables of its environment.
pub fn variables(home: &Path, fault: Fault) -> Vec<(&'static str, String)> {
    let Fault { kind, at, times, only } = fault;
    vec![
        ("LD_PRELOAD", library().display().to_string()),
        ("FAULTS_BELOW", home.canonicalize().unwrap().display().to_string()),
        ("FAULTS_KIND", kind.word().to_owned()),
        ("FAULTS_AT", at.to_string()),
        ("FAULTS_TIMES", times.to_string()),
        ("FAULTS_ONLY", only.to_owned()),
    ]
}

/// Returns the built library. It is compiled once for each version of its source.
pub fn library() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(build)
}

fn build() -> PathBuf {
    // Beside the program that runs, in the folder of all that was built.
    let folder = std::env::current_exe().unwrap().parent().unwrap().to_path_buf();
    let hash = blake3::hash(SOURCE.as_bytes()).to_hex();
    let library = folder.join(format!("tidemill-faults-{}.so", &hash.as_str()[..16]));
    if library.exists() {
        return library;
    }
    let work = tempfile::tempdir_in(&folder).unwrap();
    let (source, made) = (work.path().join("disk.c"), work.path().join("disk.so"));
    fs::write(&source, SOURCE).unwrap();
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".into());
    let mut command = Command::new(&compiler);
    command.args([
        "-std=gnu11",
        "-O1",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-shared",
        "-fPIC",
        "-pthread",
    ]);
    let compiled = command.arg("-o").arg(&made).arg(&source).output();
    // The bundled SQLite needs a C compiler as well, so there is one wherever this can run.
    let output = compiled.unwrap_or_else(|error| panic!("run the C compiler {compiler}: {error}"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // In one step: several tests may build it at the same time.
    fs::rename(&made, &library).unwrap();
    library
}

/// Returns whether a library can be put in front of a process here; if not, says loudly what was
/// left out: past the harness, which keeps to itself what a test prints that does not fail.
pub fn possible(what: &str) -> bool {
    let possible = cfg!(all(target_os = "linux", target_env = "gnu"));
    if !possible {
        let why = "only Linux with glibc lets a library stand in front of the disk";
        let _ = writeln!(std::io::stderr(), "SKIPPED: {what}: {why}");
    }
    possible
}

/// Numbers that look random and are the same for the same seed (SplitMix64).
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// Returns dice that begin at `seed`.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Returns a number below `limit`, which is not 0.
    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    /// Returns whether a coin shows heads.
    pub fn coin(&mut self) -> bool {
        self.next() & 1 == 1
    }
}
