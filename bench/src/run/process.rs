//! One child process, timed: wall clock, CPU and peak memory of it and its children.
//!
//! It owns the child until it is reaped. CPU time is read from the process after it ended and before
//! it is reaped, so it includes all threads and all children it waited for. Peak memory is the sum
//! over the process tree of each process's own peak, sampled while it runs.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process};
use serde::Serialize;

/// How often memory is sampled. What is read is each process's own peak so far; looking at all threads
/// of a process more often than this takes percents of what is measured.
const SAMPLE_EVERY: Duration = Duration::from_millis(25);
/// Linux counts CPU time for user space in these, on every architecture we run on.
const TICKS_PER_SECOND: f64 = 100.0;
/// The end of a log that goes into an error message.
const LOG_TAIL_BYTES: usize = 2_000;

/// What one run took.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Numbers {
    /// From the start of the process to its end.
    pub wall_seconds: f64,
    /// User and system time of the process and its children, in steps of 10 ms.
    pub cpu_seconds: f64,
    /// Peak resident memory, summed over the process tree.
    pub peak_bytes: u64,
}

/// Runs a command to its end; everything it says goes to `log`.
///
/// An exit code other than 0, or a longer time than `timeout`, is an error with the end of the log.
pub fn run(mut command: Command, log: &Path, timeout: Duration) -> Result<Numbers> {
    let started = Instant::now();
    let mut child = spawn(&mut command, log)?;
    let pid = Pid::from_child(&child);
    let (ended, end) = mpsc::channel::<()>();
    let (waited, wall, watched) = std::thread::scope(|scope| {
        let watcher = scope.spawn(move || watch(pid, &end, timeout));
        let waited = wait_unreaped(pid);
        let wall = started.elapsed();
        drop(ended);
        match watcher.join() {
            Ok(watched) => (waited, wall, watched),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    });
    waited.context("wait for the process")?;
    let cpu_seconds = cpu_seconds(pid)?;
    let status = child.wait().context("reap the process")?;
    if watched.timed_out {
        bail!("it took longer than {} s and was ended{}", timeout.as_secs(), tail(log));
    }
    if !status.success() {
        match (status.code(), status.signal()) {
            (Some(code), _) => bail!("it ended with exit code {code}{}", tail(log)),
            (None, signal) => {
                bail!("it was ended by signal {}{}", signal.unwrap_or(0), tail(log))
            }
        }
    }
    Ok(Numbers { wall_seconds: wall.as_secs_f64(), cpu_seconds, peak_bytes: watched.peak_bytes })
}

/// Starts a command; everything it says goes to `log`.
///
/// It stays in our process group, so that an interrupt from the terminal ends it with us.
pub fn spawn(command: &mut Command, log: &Path) -> Result<Child> {
    let output = File::create(log).with_context(|| format!("create {}", log.display()))?;
    let errors = output.try_clone().context("share the log")?;
    command.stdin(Stdio::null()).stdout(output).stderr(errors);
    command.spawn().with_context(|| format!("start {}", command.get_program().display()))
}

/// A process that is running; when this is dropped, it and all below it are ended at once.
pub struct Running(Option<Child>);

impl Running {
    /// Takes charge of a process.
    pub const fn new(child: Child) -> Self {
        Self(Some(child))
    }

    /// Returns the number of the process; none once it was asked to end.
    pub fn pid(&self) -> Option<Pid> {
        self.0.as_ref().map(Pid::from_child)
    }

    /// Asks the process to end in order, and waits for that.
    pub fn end_in_order(mut self) -> Result<ExitStatus> {
        let mut child = self.0.take().context("the process was ended before")?;
        kill_process(Pid::from_child(&child), Signal::TERM).context("ask a process to end")?;
        child.wait().context("wait for a process")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            kill_tree(Pid::from_child(&child));
            // It fails only if it was reaped already, which is what is wanted.
            let _ = child.wait();
        }
    }
}

/// The head first, so that it starts nothing new. A process that is gone already needs no signal.
fn kill_tree(head: Pid) {
    for pid in tree(head.as_raw_nonzero().get()).into_iter().filter_map(Pid::from_raw) {
        let _ = kill_process(pid, Signal::KILL);
    }
}

/// Returns the end of a log, on lines of its own, for an error message.
pub fn tail(log: &Path) -> String {
    let bytes = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(LOG_TAIL_BYTES)..]);
    let text = text.trim();
    if text.is_empty() { "; it said nothing".into() } else { format!("; it said:\n{text}") }
}

fn wait_unreaped(pid: Pid) -> rustix::io::Result<()> {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    loop {
        match rustix::process::waitid(WaitId::Pid(pid), options) {
            Err(rustix::io::Errno::INTR) => {}
            waited => return waited.map(|_| ()),
        }
    }
}

/// What was seen while a process ran.
struct Watched {
    peak_bytes: u64,
    timed_out: bool,
}

fn watch(pid: Pid, end: &mpsc::Receiver<()>, timeout: Duration) -> Watched {
    let started = Instant::now();
    let mut peaks = BTreeMap::new();
    let mut timed_out = false;
    loop {
        sample(pid.as_raw_nonzero().get(), &mut peaks);
        if !timed_out && started.elapsed() > timeout {
            timed_out = true;
            kill_tree(pid);
        }
        if end.recv_timeout(SAMPLE_EVERY) != Err(RecvTimeoutError::Timeout) {
            return Watched { peak_bytes: peaks.values().sum(), timed_out };
        }
    }
}

/// Notes the peak memory of a process and of all below it.
fn sample(head: i32, peaks: &mut BTreeMap<i32, u64>) {
    for pid in tree(head) {
        if let Some(bytes) = peak_bytes(pid) {
            let peak = peaks.entry(pid).or_insert(0);
            *peak = bytes.max(*peak);
        }
    }
}

/// A process and all below it, parents before their children.
fn tree(head: i32) -> Vec<i32> {
    let mut found = vec![head];
    let mut next = 0;
    while let Some(&pid) = found.get(next) {
        next += 1;
        let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { continue };
        for thread in threads.flatten() {
            let children = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
            found.extend(children.split_whitespace().filter_map(|child| child.parse::<i32>().ok()));
        }
    }
    found
}

fn peak_bytes(pid: i32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1_024)
}

/// CPU time of an ended, unreaped process: its own and that of the children it reaped.
fn cpu_seconds(pid: Pid) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()))
        .context("read the CPU time")?;
    // The name stands in brackets and may hold anything; fields 14 to 17 of the whole line follow.
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: Vec<u64> =
        fields.split_whitespace().skip(11).take(4).filter_map(|ticks| ticks.parse().ok()).collect();
    if ticks.len() != 4 {
        bail!("the CPU time of the process is not where it should be");
    }
    Ok(ticks.iter().sum::<u64>() as f64 / TICKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str, timeout: Duration) -> Result<Numbers> {
        let folder = tempfile::tempdir()?;
        let mut command = Command::new("sh");
        command.arg("-c").arg(script);
        run(command, &folder.path().join("log"), timeout)
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn a_process_is_measured_with_its_children() {
        let numbers = sh("i=0; while [ $i -lt 40000 ]; do i=$((i+1)); done & wait", LONG).unwrap();
        assert!(numbers.wall_seconds > 0.0 && numbers.cpu_seconds > 0.0, "{numbers:?}");
        assert!(numbers.peak_bytes > 100_000, "{numbers:?}");
    }

    #[test]
    fn an_exit_code_fails_with_what_was_said() {
        let error = sh("echo no luck >&2; exit 3", LONG).unwrap_err().to_string();
        assert!(error.contains("exit code 3") && error.contains("no luck"), "{error}");
    }

    #[test]
    fn a_signal_is_named() {
        let error = sh("kill -TERM $$", LONG).unwrap_err().to_string();
        assert!(error.contains("signal 15"), "{error}");
    }

    #[test]
    fn a_process_that_never_ends_is_ended() {
        let error = sh("while :; do :; done & wait", Duration::from_millis(1)).unwrap_err();
        assert!(error.to_string().contains("took longer"), "{error}");
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let error = run(Command::new("no-such-program"), &folder.path().join("log"), LONG);
        assert!(error.unwrap_err().to_string().contains("no-such-program"));
    }
}
