//! Supervisor: `run -n N` on one host starts its N processes, lives and ends with them.
//!
//! The parent owns the shared token, the folder of their sockets and the rule of how they end: all
//! together, with the code of the first that failed. It never touches files, journal or dataflow, and
//! holds no state that must survive it. A child notices that the parent is gone by the end of its
//! standard input, so that no process outlives a killed parent.
//!
//! The parent calls [`supervise`]; a child calls [`watch_parent`] first and takes its place in the
//! mesh from [`supervised_mesh`].

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::{self, Read};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};
use tidemill_engine::mesh::Endpoint;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

/// Set to `1` for a child: its standard input ends with its parent.
pub const SUPERVISED: &str = "TIDEMILL_SUPERVISED";
/// The token of the mesh, in hex.
pub const MESH_TOKEN: &str = "TIDEMILL_MESH_TOKEN";
/// The folder of the sockets: `0.sock`, `1.sock`, ...
pub const MESH_DIR: &str = "TIDEMILL_MESH_DIR";
/// The exit code of a child whose parent is gone.
pub const ORPHANED: u8 = 1;

/// The most processes that one parent starts.
pub const PROCESSES_MAX: usize = 64;
const TOKEN_BYTES: usize = 32;
/// A Unix socket's path is limited to 108 bytes; what we add to the folder's is shorter than the rest.
const FOLDER_BYTES_MAX: usize = 90;

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

/// How long the processes may take to end.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// After the first finished well, until the others have.
    pub finish: Duration,
    /// After a request to terminate, until they are killed.
    pub terminate: Duration,
}

impl Patience {
    /// What `run` grants.
    pub const USUAL: Patience =
        Patience { finish: Duration::from_secs(60), terminate: Duration::from_secs(5) };
}

/// Starts `processes` copies of this program with the given arguments plus `-p INDEX` and blocks until
/// all have ended. Returns the exit code: 0 when all finished well, else that of the first that did
/// not (128 plus the signal's number for one that was killed). SIGINT and SIGTERM go to all of them.
pub fn supervise(processes: usize, arguments: Vec<OsString>) -> Result<u8, SupervisorError> {
    let program = std::env::current_exe()
        .map_err(|source| SupervisorError::Prepare { action: "find this program", source })?;
    supervise_program(&program, processes, &arguments, Patience::USUAL)
}

/// Does what [`supervise`] does, with any program.
pub fn supervise_program(
    program: &Path,
    processes: usize,
    arguments: &[OsString],
    patience: Patience,
) -> Result<u8, SupervisorError> {
    if processes == 0 || processes > PROCESSES_MAX {
        return Err(SupervisorError::Processes { processes });
    }
    let folder = MeshFolder::create()?;
    let token = hex(&random::<TOKEN_BYTES>()?);
    let (events, incoming) = channel();
    // Before the first child: a signal that comes while they start reaches all of them too.
    let _signals = Signals::listen(events.clone())?;
    let mut group = Group { children: Vec::with_capacity(processes) };
    for index in 0..processes {
        let child = Command::new(program)
            .args(with_index(arguments, index))
            .env(SUPERVISED, "1")
            .env(MESH_TOKEN, &token)
            .env(MESH_DIR, &folder.path)
            .stdin(Stdio::piped())
            .process_group(0) // the terminal's ^C reaches the parent only, which passes it on once
            .spawn()
            .map_err(|source| SupervisorError::Start {
                index,
                program: program.to_path_buf(),
                source,
            })?;
        group.children.push(Supervised { child, ended: false });
        group.watch(index, events.clone())?;
    }
    group.run(&incoming, patience)
}

/// Puts `-p INDEX` among the arguments: before a `--`, behind which there are no options.
fn with_index(arguments: &[OsString], index: usize) -> Vec<OsString> {
    let place = arguments.iter().position(|argument| argument == "--").unwrap_or(arguments.len());
    let mut all = arguments.to_vec();
    all.splice(place..place, [OsString::from("-p"), OsString::from(index.to_string())]);
    all
}

enum Event {
    Ended(usize),
    Signal(Signal),
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
    /// Its standard input stays open as long as this value lives.
    child: Child,
    /// Waited for: its process id may be another's by now.
    ended: bool,
}

/// The children. Dropping it kills those that still run.
struct Group {
    children: Vec<Supervised>,
}

impl Group {
    /// Tells of a child's end, and leaves it to the group to take its status: until then its process
    /// id cannot become another's, so that no signal goes astray.
    fn watch(&self, index: usize, events: Sender<Event>) -> Result<(), SupervisorError> {
        let pid = pid_of(&self.children[index].child);
        std::thread::Builder::new()
            .name(format!("child-{index}"))
            .spawn(move || {
                let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
                let interrupted = rustix::io::Errno::INTR;
                while rustix::process::waitid(WaitId::Pid(pid), options)
                    .is_err_and(|error| error == interrupted)
                {}
                let _ = events.send(Event::Ended(index)); // the group is gone: nobody to tell
            })
            .map(|_| ())
            .map_err(|source| SupervisorError::Prepare { action: "start a thread", source })
    }

    fn run(
        &mut self,
        incoming: &Receiver<Event>,
        patience: Patience,
    ) -> Result<u8, SupervisorError> {
        let mut phase = Phase::Running;
        let mut outcome = Ok(0);
        while let Some(running) = self.children.iter().position(|child| !child.ended) {
            match next_event(incoming, &phase) {
                Some(Event::Signal(signal)) => self.send(signal),
                Some(Event::Ended(index)) => {
                    let code = self.take_status(index)?;
                    match (code, &phase) {
                        (0, Phase::Running) => {
                            let until = Instant::now() + patience.finish;
                            phase = Phase::Finishing { finished: index, until };
                        }
                        (0, _) | (_, Phase::Stopping { .. } | Phase::Killed) => {}
                        (code, Phase::Running | Phase::Finishing { .. }) => {
                            outcome = Ok(code);
                            self.send(Signal::TERM);
                            phase = Phase::Stopping { until: Instant::now() + patience.terminate };
                        }
                    }
                }
                None => match phase {
                    Phase::Finishing { finished, .. } => {
                        let waited = patience.finish;
                        outcome = Err(SupervisorError::Stuck { finished, running, waited });
                        self.send(Signal::TERM);
                        phase = Phase::Stopping { until: Instant::now() + patience.terminate };
                    }
                    Phase::Running | Phase::Stopping { .. } | Phase::Killed => {
                        self.send(Signal::KILL);
                        phase = Phase::Killed;
                    }
                },
            }
        }
        outcome
    }

    fn take_status(&mut self, index: usize) -> Result<u8, SupervisorError> {
        let supervised = &mut self.children[index];
        let status =
            supervised.child.wait().map_err(|source| SupervisorError::Wait { index, source })?;
        supervised.ended = true;
        let code = exit_code(status);
        if code != 0 {
            tracing::warn!(process = index, %status, "a process ended");
        }
        Ok(code)
    }

    /// Sends a signal to each child that has not ended.
    fn send(&self, signal: Signal) {
        for supervised in self.children.iter().filter(|child| !child.ended) {
            // Fails only for one that has ended and was not waited for yet.
            let _ = rustix::process::kill_process(pid_of(&supervised.child), signal);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.send(Signal::KILL);
        for supervised in self.children.iter_mut().filter(|child| !child.ended) {
            let _ = supervised.child.wait(); // nothing is left to do with its status
        }
    }
}

/// Returns the next event; `None` when the phase's time is over.
fn next_event(incoming: &Receiver<Event>, phase: &Phase) -> Option<Event> {
    match phase {
        Phase::Finishing { until, .. } | Phase::Stopping { until } => {
            let left = until.saturating_duration_since(Instant::now());
            incoming.recv_timeout(left).ok()
        }
        Phase::Running | Phase::Killed => incoming.recv().ok(),
    }
}

fn pid_of(child: &Child) -> Pid {
    Pid::from_child(child)
}

fn exit_code(status: ExitStatus) -> u8 {
    let by_signal = status.signal().map(|signal| 128 + signal);
    let code = status.code().or(by_signal).unwrap_or(1);
    u8::try_from(code).unwrap_or(u8::MAX)
}

/// Turns SIGINT and SIGTERM of this process into events while it lives.
struct Signals {
    /// Dropped: the thread ends.
    _stop: oneshot::Sender<()>,
}

impl Signals {
    fn listen(events: Sender<Event>) -> Result<Signals, SupervisorError> {
        let failed = |source| SupervisorError::Prepare { action: "listen for signals", source };
        let (stop, mut stopped) = oneshot::channel::<()>();
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_io().build().map_err(failed)?;
        let (mut interrupt, mut terminate) = {
            let _inside = runtime.enter();
            let interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
            (interrupt, signal(SignalKind::terminate()).map_err(failed)?)
        };
        let listen = async move {
            loop {
                let signal = tokio::select! {
                    Some(()) = interrupt.recv() => Signal::INT,
                    Some(()) = terminate.recv() => Signal::TERM,
                    _ = &mut stopped => return,
                    else => return,
                };
                if events.send(Event::Signal(signal)).is_err() {
                    return;
                }
            }
        };
        std::thread::Builder::new()
            .name("signals".to_string())
            .spawn(move || runtime.block_on(listen))
            .map_err(failed)?;
        Ok(Signals { _stop: stop })
    }
}

/// The folder of the sockets, which only we can enter; goes when dropped.
struct MeshFolder {
    path: PathBuf,
}

impl MeshFolder {
    fn create() -> Result<MeshFolder, SupervisorError> {
        let mut parent = std::env::temp_dir();
        if parent.as_os_str().len() > FOLDER_BYTES_MAX - 30 {
            parent = PathBuf::from("/tmp");
        }
        let path = parent.join(format!("tidemill-{}", hex(&random::<8>()?)));
        // Fails if it exists: nobody can have put one there before us.
        std::fs::DirBuilder::new().mode(0o700).create(&path).map_err(|source| {
            SupervisorError::Prepare { action: "create a folder for sockets", source }
        })?;
        Ok(MeshFolder { path })
    }
}

impl Drop for MeshFolder {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.path) {
            tracing::warn!(folder = %self.path.display(), %error, "a temporary folder stays behind");
        }
    }
}

/// The place of a supervised process in its mesh.
#[derive(Clone)]
pub struct SupervisedMesh {
    /// Where each process listens.
    pub endpoints: Vec<Endpoint>,
    /// The shared token.
    pub token: Vec<u8>,
}

/// Returns the mesh that the parent prepared, `None` when there is no parent.
pub fn supervised_mesh(processes: usize) -> Result<Option<SupervisedMesh>, SupervisorError> {
    if !is_supervised() {
        return Ok(None);
    }
    let read = |variable: &'static str| {
        let missing = SupervisorError::Environment { variable, reason: "it is not set" };
        std::env::var_os(variable).ok_or(missing)
    };
    let folder = PathBuf::from(read(MESH_DIR)?);
    let token = read(MESH_TOKEN)?;
    let token = token.to_str().and_then(unhex).filter(|token| token.len() == TOKEN_BYTES);
    let token = token.ok_or(SupervisorError::Environment {
        variable: MESH_TOKEN,
        reason: "it is not 64 hex digits",
    })?;
    let socket = |index| Endpoint::Unix(folder.join(format!("{index}.sock")));
    Ok(Some(SupervisedMesh { endpoints: (0..processes).map(socket).collect(), token }))
}

/// In a supervised process: ends it, with [`ORPHANED`], when the parent is gone. Returns at once, and
/// does nothing in a process without a parent. Takes the standard input.
pub fn watch_parent() -> Result<(), SupervisorError> {
    if !is_supervised() {
        return Ok(());
    }
    std::thread::Builder::new()
        .name("parent".to_string())
        .spawn(|| {
            // Nothing is ever sent: this returns when the parent's end is closed, or unusable.
            let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
            tracing::error!("the process that started this one is gone: ending");
            std::process::exit(i32::from(ORPHANED));
        })
        .map(|_| ())
        .map_err(|source| SupervisorError::Prepare { action: "start a thread", source })
}

fn is_supervised() -> bool {
    std::env::var_os(SUPERVISED).is_some_and(|value| value == "1")
}

fn random<const N: usize>() -> Result<[u8; N], SupervisorError> {
    let mut bytes = [0; N];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut bytes))
        .map_err(|source| SupervisorError::Prepare { action: "read /dev/urandom", source })?;
    Ok(bytes)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}"); // a String takes everything
        text
    })
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16);
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else { return None };
    pairs.iter().map(|[high, low]| Some((digit(high)? * 16 + digit(low)?) as u8)).collect()
}

#[cfg(test)]
mod tests;
