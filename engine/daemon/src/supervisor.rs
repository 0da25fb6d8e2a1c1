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
#[allow(clippy::unwrap_used, reason = "a test that cannot unwrap has failed")]
mod tests {
    use std::io::{BufRead, BufReader};

    use super::*;

    const WAIT: Duration = Duration::from_secs(20);
    /// Long where nothing should wait, so that a test that waits fails by its assertion.
    const LONG: Patience = Patience { finish: WAIT, terminate: WAIT };
    const SHORT: Patience =
        Patience { finish: Duration::from_millis(200), terminate: Duration::from_millis(200) };

    /// Runs a shell script as each process: `$1` is `-p`, `$2` the index.
    fn shell(processes: usize, script: &str, patience: Patience) -> Result<u8, SupervisorError> {
        let arguments = ["-c", script, "child"].map(OsString::from);
        supervise_program(Path::new("/bin/sh"), processes, &arguments, patience)
    }

    #[track_caller]
    fn check(script: &str, patience: Patience, expected: Result<u8, &str>) {
        let began = Instant::now();
        let result = shell(3, script, patience).map_err(|error| error.to_string());
        assert_eq!(result, expected.map_err(str::to_string), "{script}");
        assert!(began.elapsed() < WAIT, "{script} took {:?}", began.elapsed());
    }

    #[test]
    fn the_code_of_the_first_failure_is_the_code_of_all() {
        check("exit 0", LONG, Ok(0));
        check("exit 3", LONG, Ok(3));
        // The others wait for an input that never comes, and are asked to end.
        check("test $2 = 1 && exit 74; read forever", LONG, Ok(74));
        check("test $2 = 1 && kill -9 $$; read forever", LONG, Ok(137));
        check("test $2 = 0 && exit 0; test $2 = 1 && exit 2; read forever", LONG, Ok(2));
    }

    #[test]
    fn who_does_not_end_is_ended() {
        let deaf = "trap '' TERM; while :; do read forever; done";
        check(&format!("test $2 = 2 && exit 70; {deaf}"), SHORT, Ok(70));
        check(
            &format!("test $2 = 0 && exit 0; {deaf}"),
            SHORT,
            Err("process 0 finished, process 1 still ran 200ms later and was ended"),
        );
    }

    #[test]
    fn each_process_gets_its_index_a_token_and_a_private_folder() {
        let output = tempfile_path("environment");
        let script = format!(
            "test ${{#{MESH_TOKEN}}} = 64 && test ${SUPERVISED} = 1 && test $1 = -p || exit 9
             : > ${MESH_DIR}/$2.sock && ls -ld ${MESH_DIR} > {0}.$2 && echo ${MESH_DIR} >> {0}.$2",
            output.display()
        );
        assert_eq!(shell(2, &script, LONG).unwrap(), 0);
        let read = |index: usize| {
            let path = output.with_extension(index.to_string());
            let text = std::fs::read_to_string(&path).unwrap();
            std::fs::remove_file(path).unwrap();
            text
        };
        let (zero, one) = (read(0), read(1));
        let folder = zero.lines().last().unwrap();
        assert!(zero.starts_with("drwx------"), "{zero}");
        assert_eq!(folder, one.lines().last().unwrap(), "one folder for all");
        assert!(folder.len() < FOLDER_BYTES_MAX);
        assert!(!Path::new(folder).exists(), "it goes with them");
    }

    fn tempfile_path(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("tidemill-test-{name}-{}", hex(&random::<8>().unwrap())))
    }

    #[test]
    fn what_cannot_be_started_is_named() {
        let error = supervise_program(Path::new("/no/such/program"), 2, &[], LONG).unwrap_err();
        assert_eq!(error.to_string(), "start process 0 (/no/such/program)");
        let error = shell(65, "exit 0", LONG).unwrap_err();
        assert_eq!(error.to_string(), "start 65 processes on this host: 1 to 64 are possible");
        assert!(shell(0, "exit 0", LONG).is_err());
    }

    #[test]
    fn the_index_stands_where_options_stand() {
        let check = |given: &[&str], expected: &[&str]| {
            let given: Vec<OsString> = given.iter().map(OsString::from).collect();
            assert_eq!(with_index(&given, 5), expected);
        };
        check(&["run", "a.yaml"], &["run", "a.yaml", "-p", "5"]);
        check(&["run", "--", "a.yaml"], &["run", "-p", "5", "--", "a.yaml"]);
    }

    #[test]
    fn hex_is_read_back() {
        assert_eq!(unhex(&hex(&[0, 0x7f, 0xff])), Some(vec![0, 0x7f, 0xff]));
        assert_eq!(unhex("0"), None);
        assert_eq!(unhex("0g"), None);
        assert_eq!(unhex("+1"), None);
    }

    /// Runs one of the tests below, which play a part, as a process of its own.
    fn play(part: &str) -> Child {
        let module = module_path!().split_once("::").unwrap().1;
        Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "--nocapture", &format!("{module}::{part}")])
            .env(SUPERVISED, "1")
            .env(MESH_DIR, "/d")
            .env(MESH_TOKEN, "ab".repeat(32))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap()
    }

    /// Reads the output of a part until a line was said so often.
    fn hear(child: &mut Child, line: &str, times: usize) {
        let output = child.stdout.take().unwrap();
        let lines = BufReader::new(output).lines().map_while(Result::ok);
        assert_eq!(lines.filter(|said| said.ends_with(line)).take(times).count(), times);
    }

    #[test]
    fn a_child_ends_with_its_parent() {
        let mut child = play("orphan");
        hear(&mut child, "waiting", 1);
        assert!(child.try_wait().unwrap().is_none(), "it runs while its parent does");
        drop(child.stdin.take());
        assert_eq!(child.wait().unwrap().code(), Some(i32::from(ORPHANED)));
    }

    #[test]
    #[ignore = "a part in another test"]
    #[allow(clippy::print_stdout, reason = "the other test listens")]
    fn orphan() {
        let mesh = supervised_mesh(2).unwrap().unwrap();
        assert_eq!(mesh.endpoints[1], Endpoint::Unix("/d/1.sock".into()));
        assert_eq!(mesh.token, [0xab; 32]);
        watch_parent().unwrap();
        println!("\nwaiting");
        loop {
            std::thread::park();
        }
    }

    #[test]
    fn signals_reach_all_processes() {
        for (signal, code) in [(Signal::TERM, 21), (Signal::INT, 22)] {
            let mut child = play("parent");
            let mut output = BufReader::new(child.stdout.take().unwrap()).lines();
            let ready =
                |line: &Result<String, _>| line.as_ref().is_ok_and(|l| l.ends_with("ready"));
            assert_eq!(output.by_ref().filter(ready).take(2).count(), 2);
            rustix::process::kill_process(pid_of(&child), signal).unwrap();
            assert_eq!(child.wait().unwrap().code(), Some(code));
            let heard =
                |line: &Result<String, _>| line.as_ref().is_ok_and(|l| l.ends_with("heard"));
            assert_eq!(output.filter(heard).count(), 2);
        }
    }

    #[test]
    #[ignore = "a part in another test"]
    fn parent() {
        let script = "trap 'echo heard; exit 21' TERM; trap 'echo heard; exit 22' INT; echo ready
                      while :; do read forever; done";
        let code = shell(2, script, LONG).unwrap();
        std::process::exit(i32::from(code));
    }
}
