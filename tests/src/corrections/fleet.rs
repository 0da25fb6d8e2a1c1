//! Fleet: many cases in one process, so that a case costs a part of a start.
//!
//! A home in memory, if there is such a file system, because nothing here asks what a power cut
//! does. The rounds of all cases run side by side; then the process ends as its [`Life`] says. In
//! the end everything is stopped, and each `out/` is compared with that of a fresh run over the
//! files that are left, given in the order in which their current versions were accepted.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tidemill_client::{Client, Filter, Phase, Replaces, SubmitOptions, Which};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use super::case::{Case, Step, Way};
use crate::process::Process;
use crate::site::Shape;
use crate::tree::{self, Tree};

/// How long a round may take.
const ROUND_MAX: Duration = Duration::from_secs(60);

/// How long the process is left alone between two questions.
const PAUSE: Duration = Duration::from_millis(3);

/// What becomes of the process behind a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It goes on.
    None,
    /// It is asked to end, once everything is final.
    Stop,
    /// It is killed as soon as the last step was taken in.
    Kill,
}

/// One round in the life of the processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    /// In which shape they run, if they are not running.
    pub shape: Shape,
    /// What becomes of them behind it.
    pub end: End,
}

/// A home and its pipelines.
struct Home<'a> {
    folder: TempDir,
    node: &'a Path,
    cases: &'a [Case],
}

/// A server that runs over a home.
struct Server {
    process: Process,
    client: Client,
}

/// Runs the cases; returns for each how its outputs differ from those of a fresh run.
///
/// # Panics
/// If the process ends by itself, or does not say in time that all is done.
pub fn run(node: &Path, cases: &[Case], lives: &[Life]) -> Vec<Option<String>> {
    // A thread of its own: a connection must be served while nobody asks, or a stop waits for it.
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let home = Home::new(node, cases);
    let orders = corrected(&home, lives, &runtime);
    let found: Vec<_> = (0..cases.len()).map(|at| home.out(at)).collect();
    let fresh = Home::new(node, cases);
    let mut expected = orders;
    for (case, order) in cases.iter().zip(&mut expected) {
        let survivors = case.survivors();
        order.retain(|name| survivors.contains_key(name.as_str()));
    }
    begun_anew(&fresh, &expected, &runtime);
    let compare = |(at, found): (usize, Result<Tree, String>)| {
        let missing = cases[at].survivors().len() - expected[at].len();
        if missing > 0 {
            return Some(format!("  {missing} files that should be left were not committed\n"));
        }
        match (fresh.out(at), found) {
            (Ok(fresh), Ok(found)) => tree::difference(&fresh, &found),
            (Err(error), _) => Some(format!("  the fresh run: {error}\n")),
            (_, Err(error)) => Some(format!("  {error}\n")),
        }
    };
    found.into_iter().enumerate().map(compare).collect()
}

/// Does all rounds; returns for each case the names of its files in the order of their last
/// versions.
fn corrected(home: &Home<'_>, lives: &[Life], runtime: &Runtime) -> Vec<Vec<String>> {
    let mut server: Option<Server> = None;
    let rounds = home.cases.iter().map(|case| case.rounds.len()).max().unwrap_or_default();
    for round in 0..rounds {
        let life = lives.get(round).copied();
        let life = life.unwrap_or(Life { shape: Shape::ALONE, end: End::None });
        let running = server.take().unwrap_or_else(|| home.start(life.shape, runtime));
        runtime.block_on(home.steps(&running.client, round));
        server = match life.end {
            End::Kill => {
                running.process.kill();
                drop(running.process.ended());
                None
            }
            End::Stop => {
                runtime.block_on(home.settled(&running.client, round));
                running.stop();
                None
            }
            End::None => Some(running),
        };
    }
    let last = server.unwrap_or_else(|| home.start(Shape::ALONE, runtime));
    runtime.block_on(home.settled(&last.client, rounds.saturating_sub(1)));
    let orders = runtime.block_on(home.orders(&last.client));
    last.stop();
    orders
}

/// Runs the files that are left, in this order.
fn begun_anew(home: &Home<'_>, orders: &[Vec<String>], runtime: &Runtime) {
    let server = home.start(Shape::ALONE, runtime);
    runtime.block_on(async {
        let mut all = JoinSet::new();
        for (case, order) in home.cases.iter().zip(orders) {
            let survivors = case.survivors();
            let files: Vec<(String, Vec<u8>)> = order
                .iter()
                .map(|name| (name.clone(), survivors[name.as_str()].to_vec()))
                .collect();
            let (client, pipeline) = (server.client.clone(), case.pipeline.name.clone());
            all.spawn(async move {
                for (name, bytes) in files {
                    client.submit_bytes(&name, bytes, Some(&pipeline)).await.unwrap();
                }
            });
        }
        all.join_all().await;
        let counts: Vec<u64> = orders.iter().map(|order| order.len() as u64).collect();
        home.counted(&server.client, &counts).await;
    });
    server.stop();
}

impl<'a> Home<'a> {
    fn new(node: &'a Path, cases: &'a [Case]) -> Self {
        let memory = Path::new("/dev/shm");
        let folder = match memory.is_dir() {
            true => tempfile::tempdir_in(memory).or_else(|_| tempfile::tempdir()),
            false => tempfile::tempdir(),
        };
        let home = Self { folder: folder.unwrap(), node, cases };
        for (at, case) in cases.iter().enumerate() {
            fs::write(home.folder.path().join(file_name(at)), case.pipeline.yaml()).unwrap();
            fs::create_dir_all(home.of(at, "unprocessed")).unwrap();
        }
        home
    }

    /// Returns a folder of one pipeline.
    fn of(&self, at: usize, name: &str) -> PathBuf {
        self.folder.path().join("home").join(&self.cases[at].pipeline.name).join(name)
    }

    fn out(&self, at: usize) -> Result<Tree, String> {
        let mut tree = tree::read(&self.of(at, "out"));
        tree::check_abouts(&mut tree)?;
        Ok(tree)
    }

    fn start(&self, shape: Shape, runtime: &Runtime) -> Server {
        let mut command = Command::new(self.node);
        command.current_dir(self.folder.path()).arg("run");
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("TIDEMILL_") {
                command.env_remove(name);
            }
        }
        command.args((0..self.cases.len()).map(file_name));
        command.args(["--home", "home", "--grpc", "127.0.0.1:0", "--quiet", "1ms"]);
        command.args(["--scan", "50ms", "--checkpoint-every", "700ms", "--log", "warn"]);
        command.args(["-w", &shape.workers.to_string(), "-n", &shape.processes.to_string()]);
        let mut process = Process::start(&mut command);
        let Some(line) = process.line(|line| line.starts_with("listening on ")) else {
            panic!("it did not come up\n{}", process.ended());
        };
        let address = line["listening on ".len()..].split(',').next().unwrap_or_default().trim();
        let client = runtime.block_on(Client::connect(address)).unwrap();
        Server { process, client }
    }

    /// Does the steps of a round, those of each case in order.
    async fn steps(&self, client: &Client, round: usize) {
        let mut all = JoinSet::new();
        for (at, case) in self.cases.iter().enumerate() {
            let steps = case.rounds.get(round).cloned().unwrap_or_default();
            let (client, pipeline) = (client.clone(), case.pipeline.name.clone());
            let before = case.rounds.iter().take(round).map(Vec::len).sum::<usize>();
            let hand = Hand {
                client,
                pipeline,
                unprocessed: self.of(at, "unprocessed"),
                processed: self.of(at, "processed"),
            };
            all.spawn(async move {
                for (step, done) in steps.into_iter().zip(before as u64..) {
                    hand.take(step, done).await;
                }
            });
        }
        all.join_all().await;
    }

    /// Waits until everything up to this round is final.
    async fn settled(&self, client: &Client, round: usize) {
        let count = |case: &Case| case.rounds.iter().take(round + 1).map(Vec::len).sum::<usize>();
        let counts: Vec<u64> = self.cases.iter().map(|case| count(case) as u64).collect();
        self.counted(client, &counts).await;
    }

    /// Waits until so many submissions of each pipeline are final.
    async fn counted(&self, client: &Client, counts: &[u64]) {
        let deadline = Instant::now() + ROUND_MAX;
        loop {
            let pipelines = client.pipelines().await.unwrap();
            let late = self.cases.iter().zip(counts).find(|(case, count)| {
                let found = pipelines.iter().find(|one| one.name == case.pipeline.name);
                found.is_none_or(|one| one.committed + one.quarantined < **count)
            });
            let Some((case, count)) = late else { return };
            let name = &case.pipeline.name;
            assert!(Instant::now() < deadline, "{name}: {count} files are not final");
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Returns the names of the committed files of each case, in the order of their last versions.
    async fn orders(&self, client: &Client) -> Vec<Vec<String>> {
        let mut orders = Vec::with_capacity(self.cases.len());
        for case in self.cases {
            let pipeline = Some(case.pipeline.name.clone());
            let filter = Filter {
                pipeline,
                phase: Some(Phase::Committed),
                limit: 1000,
                ..Filter::default()
            };
            let page = client.list(&filter).await.unwrap();
            let mut names: Vec<String> = Vec::new();
            let mut found = page.submissions;
            // Newest first: the first of a name is its last version.
            found.retain(|one| one.removes.is_none());
            found.sort_by_key(|one| std::cmp::Reverse(one.epoch));
            for one in found {
                if !names.contains(&one.name) {
                    names.push(one.name);
                }
            }
            names.reverse();
            orders.push(names);
        }
        orders
    }
}

/// Who does the steps of one case.
struct Hand {
    client: Client,
    pipeline: String,
    unprocessed: PathBuf,
    processed: PathBuf,
}

impl Hand {
    /// Does one step, behind so many others.
    async fn take(&self, step: Step, done: u64) {
        let pipeline = Some(self.pipeline.clone());
        match step {
            Step::Put { name, body, way: Way::Sent, .. } => {
                let replaces = Replaces::SameName;
                let options = SubmitOptions { pipeline, replaces, ..SubmitOptions::default() };
                self.client.submit_bytes_with(&name, body, options).await.unwrap();
            }
            Step::Put { name, body, way: Way::ByHand, .. } => {
                // One that still lies there would be overwritten, and never was.
                self.gone(&self.unprocessed.join(&name)).await;
                let hidden = self.unprocessed.join(format!(".{name}.tmp"));
                fs::write(&hidden, body).unwrap();
                fs::rename(&hidden, self.unprocessed.join(name)).unwrap();
            }
            Step::Remove { name, way: Way::Sent } => {
                // Only what is committed can be removed.
                self.settled(done).await;
                self.client.remove(Which::Name { pipeline, name }).await.unwrap();
            }
            Step::Remove { name, way: Way::ByHand } => {
                self.settled(done).await;
                let lying = self.lying(&name).await;
                fs::remove_file(lying).unwrap();
            }
        }
    }

    /// Waits until a file was taken in.
    async fn gone(&self, path: &Path) {
        let deadline = Instant::now() + ROUND_MAX;
        while path.exists() {
            assert!(Instant::now() < deadline, "{}: {} stays", self.pipeline, path.display());
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Waits until so many submissions of the pipeline are final.
    async fn settled(&self, count: u64) {
        let deadline = Instant::now() + ROUND_MAX;
        loop {
            let pipeline = self.client.pipeline(Some(&self.pipeline)).await.unwrap();
            if pipeline.committed + pipeline.quarantined >= count {
                return;
            }
            assert!(Instant::now() < deadline, "{}: {count} files are not final", self.pipeline);
            tokio::time::sleep(PAUSE * 4).await;
        }
    }

    /// Waits until the current version of a file lies in `processed/`, and returns where. Its name is
    /// free, so `a.csv` may lie there as `a~2.csv`; older versions leave behind their commit.
    async fn lying(&self, name: &str) -> PathBuf {
        let deadline = Instant::now() + ROUND_MAX;
        let (stem, ending) = name.split_once('.').unwrap();
        loop {
            let names = tree::read(&self.processed).into_keys();
            let mut found = names.filter(|one| {
                let rest = one.strip_prefix(stem).and_then(|rest| rest.strip_suffix(ending));
                rest.is_some_and(|rest| rest == "." || rest.starts_with('~'))
            });
            if let (Some(one), None) = (found.next(), found.next()) {
                return self.processed.join(one);
            }
            assert!(Instant::now() < deadline, "{}: {name} is not in processed/", self.pipeline);
            tokio::time::sleep(PAUSE * 4).await;
        }
    }
}

impl Server {
    fn stop(self) {
        self.process.terminate();
        self.process.ended().expect_code(0).expect_no_errors(&[]);
    }
}

fn file_name(at: usize) -> String {
    format!("{at}.yaml")
}
