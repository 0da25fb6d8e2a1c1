//! Life: the program running on a home, from its start to its end, which may be a violent one.
//!
//! Owns the process and knows its children (a run with several processes). What a life logs and
//! which failpoints it reaches is written beside the home. A life that is dropped is killed.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process};
use tidemill_store::{failpoint, trial};

use super::site::{Shape, Site, Subject};

/// How often a process is looked at that may have ended.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// How long a killed process may take to be gone.
const GONE_MAX: Duration = Duration::from_secs(30);

/// What a process logs when it runs into a failpoint that kills it.
const FIRED: &str = "WARN failpoint ";

/// How many of the last lines of a log are shown.
const SHOWN_LINES: usize = 12;

/// What a life is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Takes what is there, commits it and ends.
    Once,
    /// Runs until it is killed.
    Serve,
}

/// The program running.
#[derive(Debug)]
pub struct Life {
    child: Child,
    shape: Shape,
    started: Instant,
    log: PathBuf,
    trace: PathBuf,
    ended: Option<ExitStatus>,
}

/// How a life ended.
#[derive(Debug)]
pub struct Ended {
    /// The status; that of the parent, if there were several processes.
    pub status: ExitStatus,
    /// How long it took.
    pub took: Duration,
    /// What each process reached, in order.
    pub reached: Vec<Vec<&'static str>>,
    /// Whether some process ran into an armed failpoint.
    pub fired: bool,
    log: PathBuf,
}

impl Life {
    /// Starts the program on a home. `failpoint` is what `TIDEMILL_FAILPOINT` is set to.
    pub fn start(
        subject: &Subject,
        shape: Shape,
        site: &mut Site,
        mode: Mode,
        failpoint: Option<&str>,
    ) -> anyhow::Result<Self> {
        site.lives += 1;
        let log = site.of_life(site.lives, "log");
        let trace = site.of_life(site.lives, "trace");
        let out = File::create(&log).with_context(|| format!("create {}", log.display()))?;
        let err = out.try_clone().context("share a log")?;
        let mut command = Command::new(&subject.program);
        // Its own folder: no settings file of whoever calls is in force, nor their environment.
        command.current_dir(&site.root);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("TIDEMILL_") {
                command.env_remove(name);
            }
        }
        command.env(failpoint::TRACE_VARIABLE, &trace);
        if subject.corrects() {
            command.env(trial::VARIABLE, trial::CORRECTIONS);
        }
        if let Some(failpoint) = failpoint {
            command.env(failpoint::VARIABLE, failpoint);
        }
        command.arg("run").arg(&subject.yaml).arg("--home").arg(&site.home);
        command.args(["--grpc", "127.0.0.1:0", "--quiet", "1ms", "--scan", "50ms"]);
        // As often as they can be: a kill may come in the middle of one.
        command.args(["--checkpoint-every", "1ms"]);
        command.args(["-w", &shape.workers.to_string(), "-n", &shape.processes.to_string()]);
        if mode == Mode::Once {
            command.arg("--once");
        }
        // What a killed parent cannot remove any more lies with the rest.
        command.env("TMPDIR", &subject.temporary);
        let started = Instant::now();
        let child = command
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .spawn()
            .with_context(|| format!("start {}", subject.program.display()))?;
        Ok(Self { child, shape, started, log, trace, ended: None })
    }

    /// Returns how long it has lasted.
    pub fn age(&self) -> Duration {
        self.started.elapsed()
    }

    /// Waits until the life is this old; returns whether it has ended before.
    pub fn wait_until(&mut self, age: Duration) -> anyhow::Result<bool> {
        loop {
            if let Some(status) = self.child.try_wait().context("wait for the program")? {
                self.ended = Some(status);
                return Ok(true);
            }
            let left = age.saturating_sub(self.started.elapsed());
            if left.is_zero() {
                return Ok(false);
            }
            std::thread::sleep(left.min(LOOK_EVERY));
        }
    }

    /// Kills it with all its processes, as a power cut ends them: none can tell another.
    pub fn kill(mut self) -> anyhow::Result<Ended> {
        self.kill_family()?;
        self.conclude()
    }

    /// Kills one process of several, and none else. Returns whether there was one.
    pub fn kill_one(&self, which: usize) -> anyhow::Result<bool> {
        let mut children = self.children()?;
        children.sort_unstable_by_key(|pid| pid.as_raw_nonzero());
        let Some(pid) = children.get(which % children.len().max(1)) else { return Ok(false) };
        Ok(kill_process(*pid, Signal::KILL).is_ok())
    }

    /// Waits for its end, or until one of several processes has run into the failpoint that was armed:
    /// then all are killed, as if the machine had gone down there. `None` if it outlasts `patience`.
    pub fn end_at_failpoint(mut self, patience: Duration) -> anyhow::Result<Option<Ended>> {
        let until = self.age() + patience;
        while !self.wait_until(self.age() + LOOK_EVERY)? {
            if self.has_said(FIRED) {
                return self.kill().map(Some);
            }
            if self.age() > until {
                self.kill_family()?;
                return Ok(None);
            }
        }
        self.conclude().map(Some)
    }

    fn has_said(&self, text: &str) -> bool {
        std::fs::read_to_string(&self.log).is_ok_and(|log| log.contains(text))
    }

    /// Waits for its end; `None` if it outlasts `patience`: then it was killed.
    pub fn end(mut self, patience: Duration) -> anyhow::Result<Option<Ended>> {
        let age = self.age() + patience;
        if self.wait_until(age)? {
            return self.conclude().map(Some);
        }
        self.kill_family()?;
        Ok(None)
    }

    fn kill_family(&mut self) -> anyhow::Result<()> {
        let parent = Pid::from_child(&self.child);
        // Stopped first, so that it starts no child that is not seen here.
        if self.shape.processes > 1 && kill_process(parent, Signal::STOP).is_ok() {
            wait_for(|| state_of(parent).is_none_or(|state| "TtZX".contains(state)))?;
        }
        let children = self.children()?;
        for pid in std::iter::once(&parent).chain(&children) {
            // Fails only for one that has ended.
            let _ = kill_process(*pid, Signal::KILL);
        }
        self.ended = Some(self.child.wait().context("wait for the program")?);
        for pid in children {
            // Nobody but init may wait for it; that it holds nothing any more can be seen.
            wait_for(|| state_of(pid).is_none_or(|state| "ZX".contains(state)))?;
        }
        Ok(())
    }

    /// Returns the processes that the program has started.
    fn children(&self) -> anyhow::Result<Vec<Pid>> {
        let mut found = Vec::new();
        if self.shape.processes == 1 {
            return Ok(found);
        }
        let tasks = format!("/proc/{}/task", self.child.id());
        // A process that has ended has no tasks.
        let Ok(entries) = std::fs::read_dir(&tasks) else { return Ok(found) };
        for entry in entries {
            let path = entry.with_context(|| format!("list {tasks}"))?.path().join("children");
            let text = std::fs::read_to_string(path).unwrap_or_default();
            let pids = text.split_whitespace().filter_map(|pid| pid.parse().ok());
            found.extend(pids.filter_map(Pid::from_raw));
        }
        Ok(found)
    }

    fn conclude(&mut self) -> anyhow::Result<Ended> {
        let status = match self.ended {
            Some(status) => status,
            None => self.child.wait().context("wait for the program")?,
        };
        let reached = (0..self.shape.processes)
            .map(|process| failpoint::read_trace(&self.trace, process))
            .collect::<std::io::Result<_>>()
            .with_context(|| format!("read {}", self.trace.display()))?;
        let (took, fired) = (self.age(), self.has_said(FIRED));
        Ok(Ended { status, took, reached, fired, log: self.log.clone() })
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        if self.ended.is_none() {
            // Only after a mistake of ours, which is told already.
            let _ = self.kill_family();
        }
    }
}

impl Ended {
    /// Returns whether it ended well: everything done, or (3) some file set aside.
    pub fn is_well(&self) -> bool {
        matches!(self.status.code(), Some(0 | 3))
    }

    /// Returns whether it ended as after a kill: by the signal, or because one of its processes did,
    /// or because a process noticed that another is gone.
    pub fn is_killed(&self) -> bool {
        let killed = Signal::KILL.as_raw();
        self.status.signal() == Some(killed)
            || matches!(self.status.code(), Some(code) if code == 1 || code == 128 + killed)
    }

    /// Returns how often each failpoint was reached by one process.
    pub fn counts(&self, process: usize) -> BTreeMap<&'static str, usize> {
        let mut counts = BTreeMap::new();
        for name in self.reached.get(process).into_iter().flatten() {
            *counts.entry(*name).or_default() += 1;
        }
        counts
    }

    /// Returns what the first process was about when it ended: the first word of the last failpoint
    /// it had reached.
    pub fn phase(&self) -> &'static str {
        let last = self.reached.first().and_then(|reached| reached.last());
        last.map_or("begin", |name| name.split('-').next().unwrap_or(name))
    }

    /// Returns the status and the last lines of the log.
    pub fn last_words(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let last = &lines[lines.len().saturating_sub(SHOWN_LINES)..];
        let last: String = last.iter().map(|line| format!("    | {line}\n")).collect();
        format!("{} ({})\n{last}", self.status, self.log.display())
    }
}

/// Returns the state of a process, as a letter; `None` if there is none.
fn state_of(pid: Pid) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    // `PID (NAME) STATE ...`; the name may hold anything.
    stat.rsplit_once(") ")?.1.chars().next()
}

fn wait_for(mut happened: impl FnMut() -> bool) -> anyhow::Result<()> {
    let deadline = Instant::now() + GONE_MAX;
    while !happened() {
        anyhow::ensure!(
            Instant::now() < deadline,
            "a killed process is not gone after {GONE_MAX:?}"
        );
        std::thread::sleep(LOOK_EVERY);
    }
    Ok(())
}
