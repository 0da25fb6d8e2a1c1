//! Supervisor: `run -n N` on one host keeps N processes running, generation after generation.
//!
//! The parent owns the address of the service and the rule of how processes end: all together. When one
//! is lost it kills and waits for all others, and starts the next generation by itself; when the work
//! is done, or starting again is useless, the run is over. It never touches files, journal or dataflow,
//! and holds no state that must survive it. A child notices that the parent is gone by the end of its
//! standard input, so that no process outlives a killed parent.
//!
//! Map: [`supervise`] (the run, over all generations), `group` (the processes of one), `link` (what
//! parent and child say to each other), `place` (where the processes meet), `front` (the address of the
//! service), `signals`.

mod group;
mod link;
mod place;

mod front;
mod signals;

use std::ffi::OsString;
use std::io;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

pub use front::Front;
pub use group::{AGAIN, REFUSED};
pub use link::{Parent, Report};
pub use place::{
    MESH_DIR, MESH_TOKEN, ORPHANED, SUPERVISED, SupervisedMesh, end_with, follows, is_supervised,
    parent, pipeline_text, supervised_mesh,
};

use group::{Event, Group, Heard, Outcome};
use signals::Signals;

/// The most processes that one parent starts.
pub const PROCESSES_MAX: usize = 64;

/// The exit code of `--once` when some file went to quarantine.
const QUARANTINED: u8 = 3;

/// Why the processes could not be started or ended.
#[derive(Debug, thiserror::Error)]
pub enum SupervisorError {
    /// The number of processes is out of range.
    #[error("start {processes} processes on this host: 1 to {PROCESSES_MAX} are possible")]
    Processes {
        /// What was asked for.
        processes: usize,
    },
    /// The system refuses what is needed before the first child.
    #[error("prepare to start processes: {action}")]
    Prepare {
        /// What was being done.
        action: &'static str,
        /// What the system says.
        source: io::Error,
    },
    /// A child cannot be started; those already started were ended.
    #[error("start process {index} ({})", program.display())]
    Start {
        /// The child's index.
        index: usize,
        /// The program.
        program: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A child cannot be waited for.
    #[error("wait for process {index}")]
    Wait {
        /// The child's index.
        index: usize,
        /// What the system says.
        source: io::Error,
    },
    /// One child finished and others did not follow; they were ended.
    #[error(
        "process {finished} finished, process {running} still ran {waited:?} later and was ended"
    )]
    Stuck {
        /// The child that finished first.
        finished: usize,
        /// The first child that did not.
        running: usize,
        /// How long it was given.
        waited: Duration,
    },
    /// A child's environment is not as its parent sets it.
    #[error("read {variable}: {reason}; it is set by `run -n N`, not by hand")]
    Environment {
        /// The variable.
        variable: &'static str,
        /// What is wrong with it.
        reason: &'static str,
    },
}

/// How long things may take before the supervisor does something about them.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// After the first finished well, until the others have.
    pub finish: Duration,
    /// After a request to terminate, until they are killed.
    pub terminate: Duration,
    /// For a process that is stopped (SIGSTOP), until it is lost.
    pub stopped: Duration,
    /// Before the next generation, after the first failure; doubled with each one that follows.
    pub pause_first: Duration,
    /// Before the next generation, at most.
    pub pause_longest: Duration,
    /// A generation that serves for so long was healthy: what fails then is a first failure.
    pub healthy: Duration,
    /// How many generations may fail one after the other without finishing a file.
    pub failures_max: u32,
}

impl Patience {
    /// What `run` grants.
    pub const USUAL: Patience = Patience {
        finish: Duration::from_secs(60),
        terminate: Duration::from_secs(5),
        stopped: Duration::from_secs(16),
        pause_first: Duration::from_millis(200),
        pause_longest: Duration::from_secs(10),
        healthy: Duration::from_secs(60),
        failures_max: 10,
    };
}

/// What is to be run.
pub struct Run {
    /// How many processes.
    pub processes: usize,
    /// The pipeline files as they were read: all generations begin with these.
    pub pipelines: Vec<String>,
    /// The arguments of each, without `-p`.
    pub arguments: Vec<OsString>,
    /// The address of the service.
    pub front: Front,
    /// How long a process may be silent before the others give it up.
    pub silence: Duration,
    /// Called once, when process 0 serves for the first time.
    pub on_ready: Box<dyn FnOnce()>,
    /// Whether the run ends by itself when the work is done.
    pub once: bool,
}

/// Runs `processes` copies of this program with the given arguments plus `-p INDEX`, one generation
/// after the other, and blocks until the work is done, a signal asks to end, or starting again is
/// useless. Returns the exit code: 0 when all finished well, else that of the process that ended it
/// (128 plus the signal's number for one that was killed). SIGINT and SIGTERM go to all of them.
pub fn supervise(run: Run) -> Result<u8, SupervisorError> {
    let program = std::env::current_exe()
        .map_err(|source| SupervisorError::Prepare { action: "find this program", source })?;
    let Run { processes, pipelines, arguments, mut front, silence, on_ready, once } = run;
    let listener = front
        .listener()
        .try_clone()
        .map_err(|source| SupervisorError::Prepare { action: "keep the address", source })?;
    let order = Order {
        program: &program,
        processes,
        pipelines: &pipelines,
        arguments: &arguments,
        listener: Some(&listener),
        // The others say better why, where they can.
        patience: Patience { stopped: silence + Duration::from_secs(1), ..Patience::USUAL },
    };
    let mut on_ready = Some(on_ready);
    let mut quarantined = false;
    let code = run_generations(&order, |news| match news {
        News::Starting(text) => front.stand_in(text),
        News::Ready => {
            front.step_back();
            if let Some(on_ready) = on_ready.take() {
                on_ready();
            }
        }
        News::Quarantined => quarantined = true,
    })?;
    // The last generation knows only of its own files.
    Ok(if code == 0 && once && quarantined { QUARANTINED } else { code })
}

/// What all generations of a run have in common.
struct Order<'a> {
    program: &'a Path,
    processes: usize,
    pipelines: &'a [String],
    arguments: &'a [OsString],
    listener: Option<&'a TcpListener>,
    patience: Patience,
}

/// What happens to the service during a run.
#[derive(Debug)]
enum News {
    /// No process 0 serves, for this reason.
    Starting(String),
    /// Process 0 serves.
    Ready,
    /// A file was set aside.
    Quarantined,
}

/// What is known about the generation that runs, and about those before it.
#[derive(Default)]
struct Life {
    /// The number that the journal gave it, or the last one that is known.
    generation: Option<u64>,
    /// Whether that number is of the generation that runs.
    is_numbered: bool,
    ready_since: Option<Instant>,
    progress: bool,
    /// How many failed in a row.
    failures: u32,
}

impl Life {
    /// Names the generation that runs or starts.
    fn name(&self) -> String {
        match (self.generation, self.is_numbered) {
            (Some(number), true) => format!("generation {number}"),
            (Some(number), false) => format!("generation {}", number + 1),
            (None, _) => "the first generation of this run".to_string(),
        }
    }

    fn starting(&self) -> News {
        News::Starting(format!("{} is starting; try again", self.name()))
    }

    fn begin(&mut self) {
        *self = Life { generation: self.generation, failures: self.failures, ..Life::default() };
    }

    /// Counts a failure; a generation that got something done, or served for long, is no bad sign.
    fn fail(&mut self, healthy: Duration) {
        let served = self.ready_since.is_some_and(|since| since.elapsed() >= healthy);
        self.failures = if self.progress || served { 1 } else { self.failures + 1 };
    }
}

fn run_generations(order: &Order<'_>, mut news: impl FnMut(News)) -> Result<u8, SupervisorError> {
    let processes = order.processes;
    if processes == 0 || processes > PROCESSES_MAX {
        return Err(SupervisorError::Processes { processes });
    }
    let (events, incoming) = channel();
    // Before the first child: a signal that comes while they start reaches all of them too.
    let _signals = Signals::listen(events.clone())?;
    let mut asked = false;
    let mut life = Life::default();
    for number in 1u64.. {
        life.begin();
        news(life.starting());
        // What one generation has forgotten is forgotten; what was deployed since is not.
        let forgets = life.generation.is_none();
        let mut group = Group::start(order, number, forgets, &events)?;
        let outcome = group.run(&incoming, order.patience, &mut asked, |heard| match heard {
            Heard::Report(Report::Generation(number)) => {
                (life.generation, life.is_numbered) = (Some(number), true);
            }
            Heard::Report(Report::Ready) => {
                life.ready_since = Some(Instant::now());
                if number > 1 {
                    tracing::info!("{} serves", life.name());
                }
                news(News::Ready);
            }
            Heard::Report(Report::Progress) => life.progress = true,
            Heard::Report(Report::Quarantined) => news(News::Quarantined),
            Heard::FirstEnded => {
                let text = format!("{} has ended and the next one starts; try again", life.name());
                news(News::Starting(text));
            }
        })?;
        drop(group);
        let (index, how, code) = match outcome {
            Outcome::Over(code) => return Ok(code),
            Outcome::Again if asked => return Ok(0),
            Outcome::Again => {
                tracing::info!("{} has ended as it should; the next one goes on", life.name());
                life.failures = 0;
                continue;
            }
            Outcome::Lost { index, how, code } => (index, how, code),
        };
        let name = life.name();
        life.fail(order.patience.healthy);
        if asked {
            tracing::warn!("process {index} of {name} {how} while it was asked to end");
            return Ok(code);
        }
        if life.failures >= order.patience.failures_max {
            tracing::error!(
                "process {index} of {name} {how}; {} generations in a row have failed without \
                 finishing a file: ending, nothing is lost: look at the log above, then start again",
                life.failures
            );
            return Ok(code);
        }
        let pause =
            group::pause(order.patience.pause_first, order.patience.pause_longest, life.failures);
        let all = processes - 1;
        tracing::warn!(
            "process {index} of {name} {how}; all others were ended, and processes 0 to {all} start \
             again in {pause:?}"
        );
        if was_asked(&incoming, pause) {
            tracing::info!("asked to end while no generation runs: ending, nothing is lost");
            return Ok(0);
        }
        tracing::info!("the generation after {name} starts");
    }
    Ok(0)
}

/// Waits, and says whether a signal asked to end meanwhile.
fn was_asked(incoming: &Receiver<Event>, pause: Duration) -> bool {
    let until = Instant::now() + pause;
    loop {
        match incoming.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(Event::Signal(_)) => return true,
            Ok(Event::Ended(..) | Event::Told(..)) => {}
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return false,
        }
    }
}

#[cfg(test)]
mod tests;
