//! Site: a home in a temporary folder with one pipeline, and how it is started and fed.

use std::collections::BTreeMap;
use std::fs;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use tempfile::TempDir;
use tidemill_client::{Client, Submission, Watch, WatchFilter};
use tokio::runtime::Runtime;

use crate::disk::{Disk, Kind};
use crate::process::{Ended, PATIENCE, Process};
use crate::tree::{self, Tree};

/// How many processes and workers a run has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Processes.
    pub processes: usize,
    /// Workers in each.
    pub workers: usize,
}

impl Shape {
    /// One process, one worker.
    pub const ALONE: Shape = Shape::new(1, 1);

    /// Returns a shape.
    pub const fn new(processes: usize, workers: usize) -> Self {
        Self { processes, workers }
    }
}

impl std::fmt::Display for Shape {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "-n {} -w {}", self.processes, self.workers)
    }
}

/// A home and its pipeline.
#[derive(Debug)]
pub struct Site {
    folder: TempDir,
    node: PathBuf,
    pipeline: String,
    announced: Vec<String>,
    always: Vec<String>,
    variables: BTreeMap<String, String>,
}

impl Site {
    /// Returns a site for this pipeline file. `node` is the binary: `env!("CARGO_BIN_EXE_node")`.
    pub fn new(node: &str, yaml: &str) -> Self {
        let name = yaml.lines().find_map(|line| line.strip_prefix("pipeline:"));
        let site = Self {
            folder: tempfile::tempdir().unwrap(),
            node: node.into(),
            pipeline: name.expect("a pipeline has a name").trim().to_owned(),
            announced: Vec::new(),
            always: Vec::new(),
            variables: BTreeMap::new(),
        };
        fs::write(site.yaml(), yaml).unwrap();
        fs::create_dir_all(site.folder("unprocessed")).unwrap();
        site
    }

    /// Announces that ERROR lines which hold `text` are right.
    pub fn announce(&mut self, text: &str) {
        self.announced.push(text.to_owned());
    }

    /// Switches on a fault in whatever is started from now on: `panic=NAME`, ...; nothing ends it.
    pub fn trial(&mut self, text: Option<&str>) {
        self.variable("TIDEMILL_TRIAL", text);
    }

    /// Sets a variable of the environment of servers, or removes it.
    pub fn variable(&mut self, name: &str, value: Option<&str>) {
        match value {
            Some(value) => self.variables.insert(name.to_owned(), value.to_owned()),
            None => self.variables.remove(name),
        };
    }

    /// Puts the home on a small disk of its own; nothing if that is not allowed here.
    pub fn on_disk(&self, kind: Kind, mib: u64) -> Option<Disk> {
        let disk = Disk::mount(kind, mib, &self.home(), &self.path().join("disk.img"))?;
        fs::create_dir_all(self.folder("unprocessed")).unwrap();
        Some(disk)
    }

    /// Gives these flags to every run from now on, instead of the last ones given here.
    pub fn always(&mut self, flags: &[&str]) {
        self.always = flags.iter().map(|flag| (*flag).to_owned()).collect();
    }

    /// Returns the temporary folder: everything of the site lies below it.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Returns where the pipeline file is.
    pub fn yaml(&self) -> PathBuf {
        self.folder.path().join("pipeline.yaml")
    }

    /// Returns the home.
    pub fn home(&self) -> PathBuf {
        self.folder.path().join("home")
    }

    /// Returns one folder of the pipeline: `unprocessed`, `out`, ...
    pub fn folder(&self, name: &str) -> PathBuf {
        self.home().join(&self.pipeline).join(name)
    }

    /// Drops a file: written under a hidden name, then renamed into place.
    pub fn put(&self, name: &str, bytes: &[u8]) {
        let folder = self.folder("unprocessed");
        let hidden = folder.join(format!(".{name}.tmp"));
        fs::write(&hidden, bytes).unwrap();
        fs::rename(&hidden, folder.join(name)).unwrap();
    }

    /// Returns everything in `out/`, after comparing what tables say about their snapshots.
    #[track_caller]
    pub fn out(&self) -> Tree {
        let mut tree = tree::read(&self.folder("out"));
        if let Err(text) = tree::check_abouts(&mut tree) {
            panic!("{text}");
        }
        tree
    }

    /// Returns `name CODE: text` for each quarantined file, in the order of the names.
    pub fn quarantine(&self) -> Vec<String> {
        let reasons = tree::read(&self.folder("quarantine"));
        let reasons = reasons.iter().filter(|(path, _)| path.ends_with(".reason.json"));
        let line = |(_, bytes): (_, &Vec<u8>)| {
            let reason: serde_json::Value = serde_json::from_slice(bytes).unwrap();
            let word = |key: &str| reason[key].as_str().unwrap_or_default().to_owned();
            format!("{} {}: {}", word("name"), word("code"), word("text"))
        };
        reasons.map(line).collect()
    }

    /// Returns the names in a folder of the pipeline, sorted.
    pub fn names(&self, folder: &str) -> Vec<String> {
        tree::read(&self.folder(folder)).into_keys().collect()
    }

    /// Returns a command of the binary, untouched by the settings of whoever runs the tests.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.node);
        command.current_dir(self.folder.path()).args(arguments);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("TIDEMILL_") {
                command.env_remove(name);
            }
        }
        command
    }

    /// Runs a command of the binary to its end.
    #[track_caller]
    pub fn call(&self, arguments: &[&str]) -> Ended {
        let ended = Process::start(&mut self.command(arguments)).ended();
        ended.expect_no_errors(&self.announced);
        ended
    }

    fn run(&self, shape: Shape) -> Command {
        let mut command = self.command(&["run", "pipeline.yaml", "--home", "home"]);
        command.args(["--grpc", "127.0.0.1:0", "--quiet", "1ms", "--scan", "50ms"]);
        command.envs(&self.variables);
        command.args(&self.always);
        command.args(["-w", &shape.workers.to_string(), "-n", &shape.processes.to_string()]);
        command
    }

    /// Takes what is there, to the end of the process.
    #[track_caller]
    pub fn once(&self, shape: Shape) -> Ended {
        let ended = Process::start(self.run(shape).arg("--once")).ended();
        ended.expect_no_errors(&self.announced);
        ended
    }

    /// Starts a run with more flags, and returns at once.
    pub fn launch(&self, shape: Shape, more: &[&str]) -> Process {
        Process::start(self.run(shape).args(more))
    }

    /// Returns the texts that ERROR lines may hold.
    pub fn announced(&self) -> &[String] {
        &self.announced
    }

    /// Starts the server and returns once it listens.
    #[track_caller]
    pub fn start(&self, shape: Shape) -> Running<'_> {
        self.serve(Process::start(&mut self.run(shape)))
    }

    /// Returns the server of a process that was launched, once it listens.
    #[track_caller]
    pub fn serve(&self, mut process: Process) -> Running<'_> {
        let Some(line) = process.line(|line| line.starts_with("listening on ")) else {
            panic!("it did not come up\n{}", process.ended());
        };
        let address = line["listening on ".len()..].split(',').next().unwrap_or_default();
        let address = address.trim().to_owned();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let client = runtime.block_on(Client::connect(&address)).unwrap();
        Running { site: self, process, address, runtime, client }
    }
}

/// A server that runs.
#[derive(Debug)]
pub struct Running<'site> {
    site: &'site Site,
    process: Process,
    /// Where it listens: `http://127.0.0.1:PORT`.
    pub address: String,
    runtime: Runtime,
    client: Client,
}

impl Running<'_> {
    /// Returns the process that was started.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Returns the client that is connected to it.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Waits for an answer; fails when it outlasts our patience.
    #[track_caller]
    pub fn ask<T>(&self, question: impl Future<Output = T>) -> T {
        let answer =
            self.runtime.block_on(async { tokio::time::timeout(PATIENCE, question).await });
        answer.expect("the server did not answer in time")
    }

    /// Sends a file and returns its submission once it is durable.
    #[track_caller]
    pub fn submit(&self, name: &str, bytes: &[u8]) -> Submission {
        self.ask(self.client.submit_bytes(name, bytes.to_vec(), None)).unwrap()
    }

    /// Waits until a submission is final.
    #[track_caller]
    pub fn wait(&self, id: u64) -> Submission {
        self.ask(self.client.wait(id, PATIENCE)).unwrap()
    }

    /// Waits until no input is on its way: all that are finished lie where they belong, and `out/` shows the
    /// tables as they are.
    #[track_caller]
    pub fn wait_for_settled(&self, site: &Site) {
        let deadline = Instant::now() + PATIENCE;
        while !site.names("underprocess").is_empty() {
            assert!(Instant::now() < deadline, "{:?} stay", site.names("underprocess"));
            std::thread::yield_now();
        }
        let tables = self.ask(self.client.tables(Some(&site.pipeline))).unwrap();
        for table in tables.iter().filter(|table| table.rows > 0) {
            while tree::shown_epoch(&site.folder("out"), &table.name) < Some(table.epoch) {
                assert!(Instant::now() < deadline, "{table:?} is not shown");
                std::thread::yield_now();
            }
        }
    }

    /// Begins to watch all submissions.
    pub fn watch(&self) -> Watch {
        self.ask(self.client.watch(WatchFilter::default())).unwrap()
    }

    /// Waits until so many files of all lives of the home are final.
    #[track_caller]
    pub fn wait_for_finished(&self, files: u64) {
        let mut changes = self.watch();
        loop {
            let pipelines = self.ask(self.client.pipelines()).unwrap();
            let finished: u64 = pipelines.iter().map(|one| one.committed + one.quarantined).sum();
            if finished >= files {
                return;
            }
            // Whatever changed after the question was asked is still to come in the stream.
            while self
                .ask(changes.next())
                .expect("the stream ended")
                .is_ok_and(|change| !change.phase.is_final())
            {}
        }
    }

    /// Calls a client command of the binary, connected to this server.
    #[track_caller]
    pub fn call(&self, arguments: &[&str]) -> Ended {
        let mut command = self.site.command(arguments);
        command.args(["--server", &self.address]);
        let ended = Process::start(&mut command).ended();
        ended.expect_no_errors(&self.site.announced);
        ended
    }

    /// Returns the largest memory that the first process ever had, in bytes.
    pub fn peak_bytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches("kB").trim().parse::<u64>().unwrap() << 10
    }

    /// Returns the memory that the process and its children have for themselves at the moment, in bytes.
    pub fn own_bytes(&self) -> u64 {
        let of = |id: u32| {
            // A child may have ended.
            let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
            let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
            let digits = line.map_or("0", |line| line.trim().trim_end_matches("kB").trim());
            digits.parse::<u64>().unwrap() << 10
        };
        of(self.process.id()) + self.process.children().into_iter().map(of).sum::<u64>()
    }

    /// Waits until the log has a line that holds `text`.
    #[track_caller]
    pub fn wait_for_log(&mut self, text: &str) {
        assert!(self.process.logged(text), "it ended without logging {text:?}");
    }

    /// Waits until a checkpoint at this epoch counts.
    #[track_caller]
    pub fn wait_for_checkpoint(&mut self, epoch: u64) {
        self.process.logged_all(&["wrote a checkpoint", &format!(" epoch={epoch} ")]);
    }

    /// Asks it to end, and waits for that; it must end well.
    #[track_caller]
    pub fn stop(self) -> Ended {
        self.process.terminate();
        let ended = self.process.ended();
        ended.expect_code(0).expect_no_errors(&self.site.announced);
        ended
    }

    /// Returns what keeps its work waiting, each by its word.
    pub fn conditions(&self) -> Vec<String> {
        let conditions = self.ask(self.client.conditions()).unwrap();
        conditions.into_iter().map(|one| one.code).collect()
    }

    /// Waits until it says of itself that this keeps work waiting, or that nothing does.
    #[track_caller]
    pub fn wait_for_condition(&self, wanted: Option<&str>) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let conditions = self.conditions();
            let met = match wanted {
                Some(code) => conditions.iter().any(|one| one == code),
                None => conditions.is_empty(),
            };
            if met {
                return;
            }
            assert!(Instant::now() < deadline, "{wanted:?} did not come: {conditions:?}");
            std::thread::yield_now();
        }
    }

    /// Waits for its end without asking for it.
    pub fn ended(self) -> Ended {
        self.process.ended()
    }

    /// Kills it and all its processes.
    pub fn kill(self) -> Ended {
        self.process.kill();
        self.process.ended()
    }
}
