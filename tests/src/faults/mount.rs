//! Mount: a real file system in a file, whose power is cut in the middle of a run.
//!
//! The other power cuts are built from a record of calls and a model of disks. Here the kernel's ext4
//! decides what is left: it is shut down at a call, so that nothing it still had in memory is ever
//! written, and mounted again. Needs root, loop devices and `mkfs.ext4`.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

use super::calls::{count, spread};
use super::place::{Case, Place, Promised, Subject};
use super::{Dice, Fault, Kind};
use crate::process::Process;

/// The size of the file system, in bytes.
const BYTES: u64 = 64 << 20;

/// A mounted file system. It is taken down when this is dropped.
pub struct Mounted {
    folder: TempDir,
}

impl Mounted {
    /// Makes a file system and mounts it; says why that cannot be done here.
    pub fn new() -> Result<Mounted, String> {
        let mounted = Mounted { folder: tempfile::tempdir().unwrap() };
        fs::create_dir(mounted.path()).unwrap();
        fs::File::create(mounted.image()).and_then(|image| image.set_len(BYTES)).unwrap();
        run(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(mounted.image()))?;
        mounted.mount()?;
        Ok(mounted)
    }

    /// Returns where it is mounted.
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("disk")
    }

    fn image(&self) -> PathBuf {
        self.folder.path().join("image")
    }

    fn mount(&self) -> Result<(), String> {
        run(Command::new("mount")
            .args(["-t", "ext4", "-o", "loop"])
            .arg(self.image())
            .arg(self.path()))
    }

    /// Lets everything be on the disk.
    pub fn sync(&self) -> Result<(), String> {
        run(Command::new("sync").arg("-f").arg(self.path()))
    }

    /// Takes it down and mounts what is on the disk.
    pub fn again(&self) -> Result<(), String> {
        run(Command::new("umount").arg(self.path()))?;
        self.mount()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // It may not be mounted.
        let _ = run(Command::new("umount").arg("-l").arg(self.path()));
    }
}

fn run(command: &mut Command) -> Result<(), String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|error| format!("{name}: {error}"))?;
    let said = || format!("{name}: {}", String::from_utf8_lossy(&output.stderr).trim());
    if output.status.success() { Ok(()) } else { Err(said()) }
}

/// Returns whether the power of a file system can be cut here; if not, says loudly what was left out.
pub fn possible(what: &str) -> bool {
    let outcome = Mounted::new().map(drop);
    if let Err(why) = &outcome {
        // Past the harness, which keeps to itself what a test prints that does not fail.
        let _ = writeln!(std::io::stderr(), "SKIPPED: {what}: {why}");
    }
    outcome.is_ok()
}

/// Cuts the power at so many calls, each in a run of its own; returns at how many it was cut, and what
/// was wrong.
pub fn cuts(case: &Case, subject: &Subject, cuts: u64, seed: u64) -> (usize, Vec<String>) {
    let calls = count(case, subject)[&Kind::Kill];
    let faults = spread(Kind::Cut, calls, cuts, &mut Dice::new(seed));
    let mut hits = 0;
    let mut wrong = Vec::new();
    for fault in faults {
        let mounted = Mounted::new().unwrap();
        match cut(case, subject, fault, &mounted) {
            Ok(hit) => hits += usize::from(hit),
            Err(text) => wrong.push(format!("{}, {fault}: {text}", case.name)),
        }
    }
    (hits, wrong)
}

fn cut(case: &Case, subject: &Subject, fault: Fault, mounted: &Mounted) -> Result<bool, String> {
    let place = Place::new(case, subject, &mounted.path());
    // Whoever dropped the inputs has synced them: all of them must come out.
    mounted.sync()?;
    let mut command = place.command(Some(fault));
    // Syncs are done, and nothing is written beside.
    command.env_remove("FAULTS_SYNC").env_remove("FAULTS_LOG").arg("--once");
    let ended = Process::start(&mut command).ended();
    if ended.code == Some(125) {
        return Err(format!("the power was not cut: {ended}"));
    }
    mounted.again()?;
    let promised = Promised::all(case);
    place.finish(&promised).map_err(|wrong| format!("{wrong}\n--- the life before\n{ended}"))?;
    Ok(ended.code.is_none())
}
