//! Group: the processes of one generation, from their start to the last one's end.
//!
//! It owns the children: whatever happens, when it is done all of them have ended and were waited for,
//! so that none of them can touch what the next generation does. It decides only whether the run is
//! over or a process was lost; what follows is for the supervisor.

use std::ffi::OsString;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};
use tidemill_store::{crash, failpoint};

use super::link::{Link, Report};
use super::place::{FOLLOWS, Place};
use super::{Order, Patience, SupervisorError};

/// The exit code of a child that did not start, for a reason that the next start would meet again.
/// Only the parent ever sees it.
pub const REFUSED: u8 = 78;

/// The exit code of a process 0 that has ended well, so that the next generation runs with what was
/// deployed. Only the parent ever sees it.
pub const AGAIN: u8 = 79;

/// What stands for a child that we killed.
const KILLED: u8 = 128 + 9;

/// Exit codes that mean "done": all committed; of `--once`, some of it set aside; the next generation
/// is to go on.
const DONE: [u8; 3] = [0, 3, AGAIN];

/// Exit codes after which starting again is useless or unwanted: usage, a damaged store, a process
/// that was told twice to end.
const FINAL: [u8; 3] = [2, 65, 130];

/// What the supervisor hears. What comes from children carries the number of their generation in this
/// run, because the last words of one may come late.
#[derive(Debug)]
pub(super) enum Event {
    /// A child has ended and was not waited for yet.
    Ended(u64, usize),
    /// A child says something.
    Told(u64, Report),
    /// This process got a signal.
    Signal(Signal),
}

/// How the processes of a generation ended, all of them.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The run is over with this exit code.
    Over(u8),
    /// The generation has ended well to make room for the next one.
    Again,
    /// A process was lost before the end; the others were killed.
    Lost {
        /// Its index.
        index: usize,
        /// How it ended.
        how: String,
        /// The exit code that stands for it.
        code: u8,
    },
}

/// How often the parent looks whether a child is stopped: no event tells it.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What comes next.
enum Next {
    /// Something happened.
    Event(Event),
    /// The phase's time is over.
    Late,
    /// A child has been stopped for too long.
    Stopped(usize, Duration),
}

/// What the group waits for.
enum Phase {
    /// All run.
    Running,
    /// One finished well: the others have until then.
    Finishing { finished: usize, until: Instant },
    /// All were asked to end and have until then.
    Stopping { until: Instant },
    /// All were killed.
    Killed,
}

struct Supervised {
    child: Child,
    /// Open as long as this value lives: its end tells the child that we are gone.
    link: Link,
    /// Hears what the child says.
    ear: JoinHandle<()>,
    /// How it ended; taken: its process id may be another's by now.
    status: Option<ExitStatus>,
    /// Since when it was seen to be stopped.
    stopped_since: Option<Instant>,
}

/// The children. Dropping it kills those that still run.
pub(super) struct Group {
    number: u64,
    children: Vec<Supervised>,
    _place: Place,
}

impl Group {
    /// Starts all processes of a generation, the `number`th of this run.
    pub(super) fn start(
        order: &Order<'_>,
        number: u64,
        forgets: bool,
        events: &Sender<Event>,
    ) -> Result<Group, SupervisorError> {
        let children = Vec::with_capacity(order.processes);
        let mut group = Group { number, children, _place: Place::create(order.pipelines)? };
        for index in 0..order.processes {
            group.add(order, index, forgets, events)?;
        }
        Ok(group)
    }

    fn add(
        &mut self,
        order: &Order<'_>,
        index: usize,
        forgets: bool,
        events: &Sender<Event>,
    ) -> Result<(), SupervisorError> {
        let linked = |source| SupervisorError::Prepare { action: "link to a process", source };
        let (link, theirs) = Link::new().map_err(linked)?;
        if let Some(listener) = order.listener.filter(|_| index == 0) {
            link.hand_over(listener).map_err(linked)?;
        }
        let mut command = Command::new(order.program);
        command
            .args(with_index(&remaining(order.arguments, forgets), index))
            .envs(self._place.environment())
            .stdin(Stdio::from(theirs))
            .process_group(0); // the terminal's ^C reaches the parent only, which passes it on once
        if self.number > 1 {
            // Armed for the first generation: the next one is to go on where that was killed.
            command.env_remove(failpoint::VARIABLE).env(FOLLOWS, "1");
        }
        let child = command.spawn().map_err(|source| SupervisorError::Start {
            index,
            program: order.program.to_path_buf(),
            source,
        })?;
        let pid = Pid::from_child(&child);
        let (number, told) = (self.number, events.clone());
        let hear = link.hear(move |report| {
            let _ = told.send(Event::Told(number, report)); // the run is over: nobody to tell
        });
        let ear = hear.and_then(|hear| thread(&format!("hear-{index}"), hear));
        // From here on the group answers for it, whatever fails.
        let ear = ear.map_err(|source| {
            let _ = rustix::process::kill_process(pid, Signal::KILL);
            SupervisorError::Prepare { action: "start a thread", source }
        })?;
        self.children.push(Supervised { child, link, ear, status: None, stopped_since: None });
        let ended = events.clone();
        // Tells of the end, and leaves it to the group to take the status: until then the process id
        // cannot become another's, so that no signal goes astray.
        let wait = move || {
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
            let interrupted = rustix::io::Errno::INTR;
            while rustix::process::waitid(WaitId::Pid(pid), options)
                .is_err_and(|error| error == interrupted)
            {}
            let _ = ended.send(Event::Ended(number, index)); // the run is over: nobody to tell
        };
        thread(&format!("child-{index}"), wait)
            .map(drop)
            .map_err(|source| SupervisorError::Prepare { action: "start a thread", source })
    }

    /// Lives with the children to the end of the last. `heard` is told what they say, and when process
    /// 0 has ended before its time; `asked` is set once we were asked to end.
    pub(super) fn run(
        &mut self,
        incoming: &Receiver<Event>,
        patience: Patience,
        asked: &mut bool,
        mut heard: impl FnMut(Heard),
    ) -> Result<Outcome, SupervisorError> {
        let mut phase = Phase::Running;
        let mut outcome = Ok(Outcome::Over(0));
        while let Some(running) = self.children.iter().position(|child| child.status.is_none()) {
            let index = match self.next(incoming, &phase, patience) {
                Next::Event(Event::Signal(signal)) => {
                    *asked = true;
                    self.send(signal);
                    continue;
                }
                Next::Event(Event::Told(number, report)) => {
                    if number == self.number {
                        heard(Heard::Report(report));
                    }
                    continue;
                }
                Next::Event(Event::Ended(number, index)) if number == self.number => index,
                Next::Event(Event::Ended(..)) => continue,
                Next::Stopped(index, since) => {
                    let how = format!("was stopped for {} s", since.as_secs());
                    if self.is_done() {
                        tracing::warn!("process {index} {how} after the work was done");
                    } else {
                        outcome = Ok(Outcome::Lost { index, how, code: KILLED });
                    }
                    self.send(Signal::KILL);
                    phase = Phase::Killed;
                    continue;
                }
                Next::Late => {
                    if let Phase::Finishing { finished, .. } = phase {
                        let waited = patience.finish;
                        outcome = Err(SupervisorError::Stuck { finished, running, waited });
                        phase = self.stop(patience);
                    } else {
                        self.send(Signal::KILL);
                        phase = Phase::Killed;
                    }
                    continue;
                }
            };
            let code = self.take_status(index)?;
            if index == 0 && !self.is_done() && !*asked {
                heard(Heard::FirstEnded);
            }
            let Some(code) = code else { continue };
            if matches!(phase, Phase::Stopping { .. } | Phase::Killed) {
                continue;
            }
            if DONE.contains(&code) {
                if code == AGAIN {
                    outcome = Ok(Outcome::Again);
                    heard(Heard::FirstEnded);
                } else if code != 0 {
                    outcome = Ok(Outcome::Over(code));
                }
                if matches!(phase, Phase::Running) {
                    let until = Instant::now() + patience.finish;
                    phase = Phase::Finishing { finished: index, until };
                }
            } else if *asked || FINAL.contains(&code) || code == REFUSED {
                let code = if code == REFUSED { 1 } else { code };
                outcome = Ok(Outcome::Over(code));
                phase = self.stop(patience);
            } else if self.is_done() {
                // The first process has committed everything and ended well: nothing is missing.
                let how = self.how(index);
                tracing::warn!("process {index} {how} after the work was done");
            } else {
                let index = self.blame(index);
                let (how, code) = (self.how(index), self.code(index));
                outcome = Ok(Outcome::Lost { index, how, code });
                // At once, and also those that cannot hear: nobody may outlive the generation.
                self.send(Signal::KILL);
                phase = Phase::Killed;
            }
        }
        self.last_words(incoming, asked, heard);
        outcome
    }

    /// Waits for what comes next.
    fn next(&mut self, incoming: &Receiver<Event>, phase: &Phase, patience: Patience) -> Next {
        let (until, looks) = match phase {
            Phase::Running => (None, true),
            Phase::Finishing { until, .. } => (Some(*until), true),
            Phase::Stopping { until } => (Some(*until), false),
            Phase::Killed => (None, false),
        };
        loop {
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            let wait = match left {
                Some(left) if looks => left.min(LOOK_EVERY),
                Some(left) => left,
                None => LOOK_EVERY,
            };
            if let Ok(event) = incoming.recv_timeout(wait) {
                return Next::Event(event);
            }
            if left.is_some_and(|left| left <= wait) {
                return Next::Late;
            }
            if looks && let Some((index, since)) = self.stopped_for(patience.stopped) {
                return Next::Stopped(index, since);
            }
        }
    }

    /// Returns a child that has been stopped for so long. The others notice it too, once they are
    /// connected and as long as they are.
    fn stopped_for(&mut self, longest: Duration) -> Option<(usize, Duration)> {
        let options = WaitIdOptions::STOPPED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let mut found = None;
        for (index, supervised) in self.children.iter_mut().enumerate() {
            if supervised.status.is_some() {
                continue;
            }
            let pid = WaitId::Pid(Pid::from_child(&supervised.child));
            if rustix::process::waitid(pid, options).is_ok_and(|stopped| stopped.is_some()) {
                let since = *supervised.stopped_since.get_or_insert_with(Instant::now);
                let since = since.elapsed();
                found = found.or((since >= longest).then_some((index, since)));
            } else {
                supervised.stopped_since = None;
            }
        }
        found
    }

    /// Takes in what the children said before they ended, and what else has happened meanwhile.
    fn last_words(
        &mut self,
        incoming: &Receiver<Event>,
        asked: &mut bool,
        mut heard: impl FnMut(Heard),
    ) {
        for supervised in self.children.drain(..) {
            supervised.link.close();
            let _ = supervised.ear.join(); // a panic has ended the process
        }
        for event in incoming.try_iter() {
            match event {
                Event::Told(number, report) if number == self.number => {
                    heard(Heard::Report(report));
                }
                Event::Signal(_) => *asked = true,
                Event::Told(..) | Event::Ended(..) => {}
            }
        }
    }

    /// Returns whether the first process has ended well.
    fn is_done(&self) -> bool {
        let first = self.children.first().and_then(|first| first.status);
        first.is_some_and(|status| DONE.contains(&exit_code(status)))
    }

    /// Returns who began it: of those that have ended by now, one that was killed rather than one that
    /// found the other gone.
    fn blame(&mut self, index: usize) -> usize {
        for supervised in self.children.iter_mut().filter(|child| child.status.is_none()) {
            // Whoever cannot be asked has not ended as far as we know.
            supervised.status = supervised.child.try_wait().ok().flatten();
            note_fault(supervised);
        }
        let killed = |child: &Supervised| child.status.is_some_and(|s| s.signal().is_some());
        let faulty = |child: &Supervised| child.status.is_some_and(|s| exit_code(s) > 1);
        let first = |wanted: &dyn Fn(&Supervised) -> bool| self.children.iter().position(wanted);
        first(&killed).or_else(|| first(&faulty)).unwrap_or(index)
    }

    /// Takes a child's status; `None` when it was taken before.
    fn take_status(&mut self, index: usize) -> Result<Option<u8>, SupervisorError> {
        let supervised = &mut self.children[index];
        if supervised.status.is_some() {
            return Ok(None);
        }
        let status = supervised.child.wait();
        let status = status.map_err(|source| SupervisorError::Wait { index, source })?;
        supervised.status = Some(status);
        note_fault(supervised);
        Ok(Some(exit_code(status)))
    }

    fn code(&self, index: usize) -> u8 {
        self.children[index].status.map_or(1, exit_code)
    }

    /// Says how a child ended.
    fn how(&self, index: usize) -> String {
        let Some(status) = self.children[index].status else { return "runs".to_string() };
        match (status.signal(), status.code()) {
            (Some(signal), _) => match Signal::from_named_raw(signal) {
                Some(named) => {
                    // `Signal::KILL`, as it is called by those who sent it: SIGKILL.
                    let name = format!("{named:?}").replace("Signal::", "SIG").replace('"', "");
                    format!("was killed by {name}")
                }
                None => format!("was killed by signal {signal}"),
            },
            (None, Some(code)) => format!("ended with exit code {code}"),
            (None, None) => format!("ended ({status})"),
        }
    }

    /// Asks all to end.
    fn stop(&self, patience: Patience) -> Phase {
        self.send(Signal::TERM);
        Phase::Stopping { until: Instant::now() + patience.terminate }
    }

    /// Sends a signal to each child that has not ended.
    fn send(&self, signal: Signal) {
        for supervised in self.children.iter().filter(|child| child.status.is_none()) {
            // Fails only for one that has ended and was not waited for yet.
            let _ = rustix::process::kill_process(Pid::from_child(&supervised.child), signal);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.send(Signal::KILL);
        for supervised in self.children.iter_mut().filter(|child| child.status.is_none()) {
            let _ = supervised.child.wait(); // nothing is left to do with its status
        }
    }
}

/// What a generation lets the supervisor know while it lives.
#[derive(Debug)]
pub(super) enum Heard {
    /// A child says something.
    Report(Report),
    /// Process 0 has ended before its time: nobody serves.
    FirstEnded,
}

/// Leaves a note for the next generation if a child failed by itself.
fn note_fault(child: &Supervised) {
    if let Some(fault) = child.status.and_then(|status| status.signal()).and_then(fault_name) {
        crash::record_child(child.child.id(), &format!("it died of {fault}"));
    }
}

/// Returns the name of a signal by which a process ends that failed by itself; nobody sends these.
fn fault_name(signal: i32) -> Option<&'static str> {
    let faults = [
        (Signal::SEGV, "SIGSEGV"),
        (Signal::ABORT, "SIGABRT"),
        (Signal::BUS, "SIGBUS"),
        (Signal::ILL, "SIGILL"),
        (Signal::FPE, "SIGFPE"),
    ];
    faults.iter().find(|(fault, _)| fault.as_raw() == signal).map(|(_, name)| *name)
}

/// Returns the arguments of a generation: only the first one that begins forgets what was deployed.
fn remaining(arguments: &[OsString], forgets: bool) -> Vec<OsString> {
    let end = arguments.iter().position(|argument| argument == "--").unwrap_or(arguments.len());
    let all = arguments.iter().enumerate();
    all.filter(|(at, argument)| forgets || *at > end || *argument != "--redeploy")
        .map(|(_, argument)| argument.clone())
        .collect()
}

/// Puts `-p INDEX` among the arguments: before a `--`, behind which there are no options.
pub(super) fn with_index(arguments: &[OsString], index: usize) -> Vec<OsString> {
    let place = arguments.iter().position(|argument| argument == "--").unwrap_or(arguments.len());
    let mut all = arguments.to_vec();
    all.splice(place..place, [OsString::from("-p"), OsString::from(index.to_string())]);
    all
}

fn exit_code(status: ExitStatus) -> u8 {
    let by_signal = status.signal().map(|signal| 128 + signal);
    let code = status.code().or(by_signal).unwrap_or(1);
    u8::try_from(code).unwrap_or(u8::MAX)
}

fn thread(name: &str, run: impl FnOnce() + Send + 'static) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name.to_string()).spawn(run)
}

/// Returns how long to wait before the next generation, after so many failures in a row.
pub(super) fn pause(first: Duration, longest: Duration, failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(20);
    first.saturating_mul(1 << doublings).min(longest)
}
