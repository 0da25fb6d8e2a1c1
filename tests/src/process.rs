//! Process: one started process, what it says, and a certain end.
//!
//! It owns the child and everything the child starts: they share a process group, which is killed
//! when the value is dropped or the process outlasts [`PATIENCE`]. Nothing here sleeps: it waits for
//! lines, and for the end of the output. Dropped by a test that fails, it shows its last words.

use std::io::{BufRead, BufReader, Read, Write as _};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

/// How long anything may take before the test fails.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// How many of the last lines are shown when a process outlasts our patience.
const SHOWN_LINES: usize = 30;

/// A process that has ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// Its exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// What it wrote to standard output.
    pub stdout: String,
    /// What it wrote to standard error.
    pub stderr: String,
}

impl Ended {
    /// Fails unless the exit code is this one.
    #[track_caller]
    pub fn expect_code(&self, code: i32) -> &Self {
        assert_eq!(self.code, Some(code), "{self}");
        self
    }

    /// Fails if the log has an ERROR line that holds none of the `announced` texts.
    #[track_caller]
    pub fn expect_no_errors(&self, announced: &[String]) -> &Self {
        for line in self.stderr.lines().filter(|line| is_error(line)) {
            let known = announced.iter().any(|text| line.contains(text.as_str()));
            assert!(known, "an ERROR line that nobody announced: {line}\n{self}");
        }
        self
    }

    /// Fails unless this text stands somewhere in standard error.
    #[track_caller]
    pub fn expect_said(&self, text: &str) -> &Self {
        assert!(self.stderr.contains(text), "it did not say {text:?}\n{self}");
        self
    }

    /// Returns standard output as one JSON document.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        match serde_json::from_str(&self.stdout) {
            Ok(value) => value,
            Err(error) => panic!("no JSON document: {error}\n{self}"),
        }
    }

    /// Returns each line of standard output as a JSON document.
    #[track_caller]
    pub fn json_lines(&self) -> Vec<serde_json::Value> {
        let line = |line: &str| match serde_json::from_str(line) {
            Ok(value) => value,
            Err(error) => panic!("no JSON document: {error}: {line}\n{self}"),
        };
        self.stdout.lines().map(line).collect()
    }
}

impl std::fmt::Display for Ended {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { code, stdout, stderr } = self;
        writeln!(out, "exit code {code:?}\n--- stdout\n{stdout}\n--- stderr\n{stderr}")
    }
}

fn is_error(line: &str) -> bool {
    // `2026-11-22T05:41:50.000000Z ERROR ...`
    line.split_whitespace().take(2).any(|word| word == "ERROR")
}

/// A process that runs.
#[derive(Debug)]
pub struct Process {
    child: Child,
    stdout: Lines,
    stderr: Lines,
    reaped: bool,
}

#[derive(Debug)]
struct Lines {
    heard: Receiver<String>,
    text: String,
}

impl Process {
    /// Starts a command in a process group of its own.
    pub fn start(command: &mut Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.process_group(0).spawn().unwrap();
        let stdout = Lines::of(child.stdout.take().unwrap());
        let stderr = Lines::of(child.stderr.take().unwrap());
        Self { child, stdout, stderr, reaped: false }
    }

    /// Returns the number of the process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits for a line of standard output that `wanted` accepts; `None` if it ends before.
    pub fn line(&mut self, wanted: impl Fn(&str) -> bool) -> Option<String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.stdout.next(deadline) {
                Ok(Some(line)) if wanted(&line) => return Some(line),
                Ok(Some(_)) => {}
                Ok(None) => return None,
                Err(Late) => self.give_up("say what is waited for", PATIENCE),
            }
        }
    }

    /// Waits for a line of standard error that holds `text`; false if it ends before.
    pub fn logged(&mut self, text: &str) -> bool {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.stderr.next(deadline) {
                Ok(Some(line)) if line.contains(text) => return true,
                Ok(Some(_)) => {}
                Ok(None) => return false,
                Err(Late) => self.give_up(&format!("log {text:?}"), PATIENCE),
            }
        }
    }

    /// Returns the numbers of its children.
    pub fn children(&self) -> Vec<u32> {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.id()));
        let of_task = |task: std::fs::DirEntry| {
            let children = std::fs::read_to_string(task.path().join("children"));
            let children = children.unwrap_or_default();
            children.split_whitespace().filter_map(|id| id.parse().ok()).collect::<Vec<_>>()
        };
        tasks.into_iter().flatten().flatten().flat_map(of_task).collect()
    }

    /// Returns the number of the child that was started with `-p index`, if there is one.
    pub fn child(&self, index: usize) -> Option<u32> {
        let wanted = ["-p", &index.to_string()].join("\0");
        self.children().into_iter().find(|id| {
            let line = std::fs::read_to_string(format!("/proc/{id}/cmdline")).unwrap_or_default();
            line.trim_end_matches('\0').ends_with(&wanted)
        })
    }

    /// Waits for a child with this index that is not `other`, and returns its number; `None` if the
    /// process ends before.
    pub fn wait_for_child(&mut self, index: usize, other: Option<u32>) -> Option<u32> {
        let mut found = None;
        wait_until(&format!("there is a process {index}"), || {
            found = self.child(index).filter(|id| Some(*id) != other);
            found.is_some() || !self.is_alive()
        });
        found
    }

    /// Returns whether it has not ended.
    pub fn is_alive(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for a line of standard error that holds all of these texts; fails if it ends before.
    #[track_caller]
    pub fn logged_all(&mut self, texts: &[&str]) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.stderr.next(deadline) {
                Ok(Some(line)) if texts.iter().all(|text| line.contains(text)) => return,
                Ok(Some(_)) => {}
                Ok(None) => panic!("it ended without logging {texts:?}"),
                Err(Late) => self.give_up(&format!("log {texts:?}"), PATIENCE),
            }
        }
    }

    /// Asks the process to end.
    pub fn terminate(&self) {
        // A process that has ended needs no signal.
        let _ = kill_process(self.pid(), Signal::TERM);
    }

    /// Kills the process and all it started, as a power cut would.
    pub fn kill(&self) {
        let _ = kill_process_group(self.pid(), Signal::KILL);
    }

    /// Waits for the end.
    pub fn ended(self) -> Ended {
        self.ended_within(PATIENCE)
    }

    /// Waits for the end of something that is known to take long.
    pub fn ended_within(mut self, patience: Duration) -> Ended {
        let deadline = Instant::now() + patience;
        // Both are read by threads of their own, so neither can fill up and hold the process.
        let ended = self.stdout.all(deadline).and_then(|()| self.stderr.all(deadline));
        if ended.is_err() {
            self.give_up("end", patience);
        }
        let status = self.child.wait().unwrap();
        self.reaped = true;
        Ended {
            code: status.code(),
            stdout: std::mem::take(&mut self.stdout.text),
            stderr: std::mem::take(&mut self.stderr.text),
        }
    }

    fn give_up(&mut self, what: &str, patience: Duration) -> ! {
        self.kill();
        panic!(
            "after {patience:?} the process did not {what}; its last words:\n{}",
            self.last_words()
        );
    }

    fn last_words(&self) -> String {
        let mut last: Vec<&str> = self.stderr.text.lines().rev().take(SHOWN_LINES).collect();
        last.reverse();
        last.join("\n")
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.reaped {
            return;
        }
        self.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            // A test that fails while it runs fails perhaps over what it had to say.
            let _ = self.stderr.all(Instant::now() + PATIENCE);
            let words = self.last_words();
            let _ = writeln!(std::io::stderr(), "the last words of a process:\n{words}");
        }
    }
}

/// Waits until something is so; fails when that outlasts [`PATIENCE`].
#[track_caller]
pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "after {PATIENCE:?} it is not so that {what}");
        std::thread::park_timeout(Duration::from_millis(2));
    }
}

/// Sends a signal to a process by its number.
#[track_caller]
pub fn send(id: u32, signal: Signal) {
    let pid = i32::try_from(id).ok().and_then(Pid::from_raw).expect("the number of a process");
    kill_process(pid, signal).unwrap_or_else(|error| panic!("send {signal:?} to {id}: {error}"));
}

struct Late;

impl Lines {
    fn of(stream: impl Read + Send + 'static) -> Self {
        let (said, heard) = channel();
        std::thread::spawn(move || {
            let mut stream = BufReader::new(stream);
            let mut line = Vec::new();
            while stream.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
                if said.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                    return;
                }
                line.clear();
            }
        });
        Self { heard, text: String::new() }
    }

    /// Returns the next line, or nothing at the end.
    fn next(&mut self, deadline: Instant) -> Result<Option<String>, Late> {
        let left = deadline.saturating_duration_since(Instant::now());
        match self.heard.recv_timeout(left) {
            Ok(line) => {
                self.text += &line;
                Ok(Some(line))
            }
            Err(RecvTimeoutError::Disconnected) => Ok(None),
            Err(RecvTimeoutError::Timeout) => Err(Late),
        }
    }

    fn all(&mut self, deadline: Instant) -> Result<(), Late> {
        while self.next(deadline)?.is_some() {}
        Ok(())
    }
}
