//! Fleet: many histories in one process, so that a case costs a part of a start.
//!
//! A home in memory, if there is such a file system, because nothing here asks what a power cut
//! does. The rounds of all histories run side by side; then the process ends as its [`Life`] says.
//! Behind each case everything is made visible and read, all files are removed, and what is visible is
//! read again. A second home, in a calm process, is given the files that each case leaves, in the order
//! in which their current versions were accepted: both must have written the same.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tidemill_client::{Client, Filter, Phase, Replaces, Submission, SubmitOptions, Which};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use super::history::{CASES, Case, History, ROUNDS, Step, Way};
use super::outputs;
use crate::process::Process;
use crate::site::Shape;
use crate::tree::{self, Tree};

/// How long a round may take.
const ROUND_MAX: Duration = Duration::from_secs(120);

/// How long the process is left alone between two questions.
const PAUSE: Duration = Duration::from_millis(15);

/// What one of several processes says that the machine held up for long: it is given up and started
/// again, and nothing may be lost by that.
const STOOD_STILL: &str = "this process stood still for";

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

impl Life {
    /// One process with one worker, which goes on.
    pub const CALM: Life = Life { shape: Shape::ALONE, end: End::None };

    /// How many of them a fleet has.
    pub const ALL: usize = CASES * ROUNDS;
}

/// A home and its pipelines.
struct Home<'a> {
    folder: TempDir,
    node: &'a Path,
    histories: &'a [History],
    /// How many submissions of each pipeline must be final.
    due: Vec<u64>,
    /// The last submission of each that was sent.
    last: Vec<Option<u64>>,
}

/// A server that runs over a home.
struct Server {
    process: Process,
    client: Client,
}

/// What became of the files of one case.
#[derive(Clone, Default)]
struct Left {
    /// Those that are left, by name and bytes, in the order in which they were accepted.
    files: Vec<(String, Vec<u8>)>,
    /// Those that were refused, if some may be.
    refused: Vec<(String, Vec<u8>)>,
}

/// What was found of one history behind one case.
struct Found {
    /// The files that are left, or why they are not those that should be.
    left: Result<Left, String>,
    /// What is visible then.
    out: Result<Tree, String>,
    /// What is visible when they are removed.
    cleared: Result<Tree, String>,
}

/// Runs the histories; returns for each what is wrong with the first of its cases that went wrong.
///
/// # Panics
/// If the process ends by itself, or does not say in time that all is done.
pub fn run(node: &Path, histories: &[History], lives: &[Life]) -> Vec<Option<String>> {
    // A thread of its own: a connection must be served while nobody asks, or a stop waits for it.
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let corrected = corrected(&mut Home::new(node, histories), lives, &runtime);
    let fresh = begun_anew(&mut Home::new(node, histories), &corrected, &runtime);
    let mut wrong = vec![None; histories.len()];
    for (case, (found, fresh)) in corrected.into_iter().zip(fresh).enumerate() {
        for (at, (found, fresh)) in found.into_iter().zip(fresh).enumerate() {
            if wrong[at].is_none() {
                let text = compared(&histories[at], found, fresh);
                wrong[at] = text.map(|text| format!("  in case {}:\n{text}", case + 1));
            }
        }
    }
    wrong
}

/// Says what is wrong behind one case.
fn compared(history: &History, found: Found, fresh: Found) -> Option<String> {
    let known =
        |one: Result<Tree, String>, of: &str| one.map_err(|error| format!("  {of}: {error}"));
    let compare = || -> Result<Option<String>, String> {
        found.left?;
        let expected = known(fresh.out, "the fresh run")?;
        if let Some(text) = tree::difference(&expected, &known(found.out, "found")?) {
            return Ok(Some(text));
        }
        let (expected, cleared) =
            (known(fresh.cleared, "the fresh run")?, known(found.cleared, "found")?);
        if let Some(text) = tree::difference(&expected, &cleared) {
            return Ok(Some(format!("  when all files were removed:\n{text}")));
        }
        Ok(history.pipeline.is_emptied().then(|| outputs::left_over(&cleared)).flatten())
    };
    compare().unwrap_or_else(Some)
}

/// Does all rounds of all cases; returns what was found behind each case, of each history.
fn corrected(home: &mut Home<'_>, lives: &[Life], runtime: &Runtime) -> Vec<Vec<Found>> {
    let mut server: Option<Server> = None;
    let mut lives = lives.iter().copied();
    let mut found = Vec::new();
    for case in 0..home.cases() {
        let rounds = home.histories.iter().filter_map(|one| one.cases.get(case));
        let rounds = rounds.map(|case| case.rounds.len()).max().unwrap_or_default();
        let mut anew = false;
        for round in 0..rounds {
            anew |= server.is_none();
            let life = lives.next().unwrap_or(Life::CALM);
            let running = server.take().unwrap_or_else(|| home.start(life.shape, runtime));
            runtime.block_on(home.steps(&running.client, case, round));
            server = match life.end {
                End::Kill => {
                    running.process.kill();
                    drop(running.process.ended());
                    None
                }
                End::Stop => {
                    runtime.block_on(home.settled(&running.client));
                    running.stop();
                    None
                }
                End::None => Some(running),
            };
        }
        anew |= server.is_none();
        let running = server.unwrap_or_else(|| home.start(Shape::ALONE, runtime));
        found.push(runtime.block_on(async {
            home.visible(&running.client, anew).await;
            let left = home.left(&running.client, case).await;
            home.found(&running.client, left).await
        }));
        server = Some(running);
    }
    if let Some(last) = server {
        last.stop();
    }
    found
}

/// Runs, case by case, the files that were left of it, in this order, and those that were refused,
/// which must leave no trace again; where the order of all steps counts, these steps.
fn begun_anew(home: &mut Home<'_>, cases: &[Vec<Found>], runtime: &Runtime) -> Vec<Vec<Found>> {
    let server = home.start(Shape::ALONE, runtime);
    let mut found = Vec::new();
    for (case, of_all) in cases.iter().enumerate() {
        let left: Vec<_> = of_all.iter().map(|one| one.left.clone()).collect();
        found.push(runtime.block_on(async {
            let mut all = JoinSet::new();
            for (at, (history, left)) in home.histories.iter().zip(&left).enumerate() {
                let steps = match left {
                    Ok(_) if history.pipeline.is_of_order() => {
                        let case = history.cases.get(case);
                        case.into_iter().flat_map(|case| case.rounds.concat()).collect()
                    }
                    Ok(left) => left.puts(),
                    Err(_) => Vec::new(),
                };
                let hand = home.hand(&server.client, at);
                home.due[at] += steps.len() as u64;
                all.spawn(async move { (at, hand.take_all(steps).await) });
            }
            home.done(all).await;
            home.visible(&server.client, false).await;
            home.found(&server.client, left).await
        }));
    }
    server.stop();
    found
}

impl<'a> Home<'a> {
    fn new(node: &'a Path, histories: &'a [History]) -> Self {
        let memory = Path::new("/dev/shm");
        let folder = match memory.is_dir() {
            true => tempfile::tempdir_in(memory).or_else(|_| tempfile::tempdir()),
            false => tempfile::tempdir(),
        };
        let (folder, all) = (folder.unwrap(), histories.len());
        let home = Self { folder, node, histories, due: vec![0; all], last: vec![None; all] };
        for (at, history) in histories.iter().enumerate() {
            fs::write(home.folder.path().join(file_name(at)), history.pipeline.yaml()).unwrap();
            fs::create_dir_all(home.of(at, "unprocessed")).unwrap();
        }
        home
    }

    /// Returns how many cases the longest history has.
    fn cases(&self) -> usize {
        self.histories.iter().map(|one| one.cases.len()).max().unwrap_or_default()
    }

    /// Returns a folder of one pipeline.
    fn of(&self, at: usize, name: &str) -> PathBuf {
        self.folder.path().join("home").join(&self.histories[at].pipeline.name).join(name)
    }

    fn start(&self, shape: Shape, runtime: &Runtime) -> Server {
        let mut command = Command::new(self.node);
        command.current_dir(self.folder.path()).arg("run");
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("TIDEMILL_") {
                command.env_remove(name);
            }
        }
        command.args((0..self.histories.len()).map(file_name));
        command.args(["--home", "home", "--grpc", "127.0.0.1:0", "--quiet", "1ms"]);
        command.args(["--scan", "200ms", "--checkpoint-every", "2s", "--log", "warn"]);
        command.args(["-w", &shape.workers.to_string(), "-n", &shape.processes.to_string()]);
        let mut process = Process::start(&mut command);
        let Some(line) = process.line(|line| line.starts_with("listening on ")) else {
            panic!("it did not come up\n{}", process.ended());
        };
        let address = line["listening on ".len()..].split(',').next().unwrap_or_default().trim();
        let client = runtime.block_on(Client::connect(address)).unwrap();
        Server { process, client }
    }

    fn hand(&self, client: &Client, at: usize) -> Hand {
        let pipeline = &self.histories[at].pipeline;
        let fixed = pipeline.sources.iter().filter(|source| source.is_append_only);
        Hand {
            client: client.clone(),
            pipeline: pipeline.name.clone(),
            unprocessed: self.of(at, "unprocessed"),
            processed: self.of(at, "processed"),
            fixed: fixed.map(|source| format!("{}-", source.name)).collect(),
            done: self.due[at],
            last: None,
            dropped: BTreeSet::new(),
        }
    }

    /// Does the steps of a round, those of each history in order.
    async fn steps(&mut self, client: &Client, case: usize, round: usize) {
        let mut all = JoinSet::new();
        for (at, history) in self.histories.iter().enumerate() {
            let steps = history.cases.get(case).and_then(|case| case.rounds.get(round));
            let Some(steps) = steps.cloned() else { continue };
            let mut hand = self.hand(client, at);
            let before = history.cases.get(case).into_iter().flat_map(|case| &case.rounds);
            hand.dropped.extend(before.take(round).flatten().filter_map(Step::dropped));
            self.due[at] += steps.len() as u64;
            all.spawn(async move { (at, hand.take_all(steps).await) });
        }
        self.done(all).await;
    }

    /// Waits until all hands have done their steps, and notes what each sent last.
    async fn done(&mut self, all: JoinSet<(usize, Option<u64>)>) {
        for (at, last) in all.join_all().await {
            self.last[at] = last.or(self.last[at]);
        }
    }

    /// Waits until everything that was done is final.
    async fn settled(&self, client: &Client) {
        // To be told costs less than to ask, over and over, for the state of all pipelines.
        for last in self.last.iter().flatten() {
            client.wait(*last, ROUND_MAX).await.unwrap();
        }
        let deadline = Instant::now() + ROUND_MAX;
        loop {
            let pipelines = client.pipelines().await.unwrap();
            let late = self.histories.iter().zip(&self.due).find(|(history, due)| {
                let found = pipelines.iter().find(|one| one.name == history.pipeline.name);
                found.is_none_or(|one| one.committed + one.quarantined < **due)
            });
            let Some((history, due)) = late else { return };
            let name = &history.pipeline.name;
            assert!(Instant::now() < deadline, "{name}: {due} files are not final");
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Waits until everything that was done is final and can be seen. What is final of all pipelines is
    /// made visible when one of them is drained; but right behind a start (`anew`) some may still be
    /// read again, and show nothing new.
    async fn visible(&self, client: &Client, anew: bool) {
        self.settled(client).await;
        let deadline = Instant::now() + ROUND_MAX;
        for history in self.histories.iter().take(if anew { usize::MAX } else { 1 }) {
            let name = &history.pipeline.name;
            while !client.drain(Some(name), false).await.unwrap().1 {
                assert!(Instant::now() < deadline, "{name} is not drained");
                tokio::time::sleep(PAUSE).await;
            }
            client.resume(name, None).await.unwrap();
        }
    }

    /// Returns what became of the files of a case.
    async fn left(&self, client: &Client, case: usize) -> Vec<Result<Left, String>> {
        let mut left = Vec::with_capacity(self.histories.len());
        for history in self.histories {
            left.push(match history.cases.get(case) {
                Some(case) => Left::of(history, case, client).await,
                None => Ok(Left::default()),
            });
        }
        left
    }

    /// Returns what is visible, and what is when all files are removed that can be.
    async fn found(&mut self, client: &Client, left: Vec<Result<Left, String>>) -> Vec<Found> {
        let out = self.outs();
        let mut all = JoinSet::new();
        for (at, left) in left.iter().enumerate() {
            let hand = self.hand(client, at);
            let files = left.iter().flat_map(|left| &left.files);
            let names = files.map(|(name, _)| name).filter(|name| !hand.is_fixed(name));
            let names: Vec<String> = names.cloned().collect();
            self.due[at] += names.len() as u64;
            all.spawn(async move { (at, hand.remove_all(names).await) });
        }
        self.done(all).await;
        self.visible(client, false).await;
        let found = left.into_iter().zip(out).zip(self.outs());
        found.map(|((left, out), cleared)| Found { left, out, cleared }).collect()
    }

    fn outs(&self) -> Vec<Result<Tree, String>> {
        (0..self.histories.len()).map(|at| outputs::read(&self.of(at, "out"))).collect()
    }
}

impl Left {
    /// Asks what became of the files of a case.
    ///
    /// # Errors
    /// When other files are left than should be.
    async fn of(history: &History, case: &Case, client: &Client) -> Result<Self, String> {
        let pipeline = Some(history.pipeline.name.clone());
        let filter = Filter { pipeline, limit: 1000, ..Filter::default() };
        let mut all = client.list(&filter).await.unwrap().submissions;
        all.retain(|one| one.removes.is_none());
        all.sort_by_key(|one| one.id);
        let (mut left, mut refused) = (Vec::new(), Vec::new());
        let mut put: BTreeMap<&str, Vec<&Vec<u8>>> = BTreeMap::new();
        for step in case.rounds.iter().flatten() {
            if let Step::Put { name, body, .. } = step {
                put.entry(name).or_default().push(body);
            }
        }
        for (name, bodies) in put {
            let versions = all.iter().filter(|one| one.name == name).zip(bodies);
            let (taken, others): (Vec<_>, Vec<_>) =
                versions.partition(|(one, _)| one.phase == Phase::Committed);
            if let Some((one, body)) = taken.last().filter(|(one, _)| one.removed_by.is_none()) {
                left.push((one.epoch, name.to_owned(), (*body).clone()));
            }
            if history.pipeline.may_refuse() {
                let again = |(one, body): &(&Submission, &Vec<u8>)| {
                    let (source, rest) = name.split_once('-').unwrap_or((name, ""));
                    (format!("{source}-{}-{rest}", one.id), (*body).clone())
                };
                refused.extend(others.iter().map(again));
            }
        }
        left.sort();
        let files: Vec<_> = left.into_iter().map(|(_, name, body)| (name, body)).collect();
        let mut found: Vec<(&str, &[u8])> =
            files.iter().map(|(name, body)| (name.as_str(), body.as_slice())).collect();
        found.sort_unstable();
        let expected = case.survivors();
        if !history.pipeline.may_refuse() && !expected.clone().into_iter().eq(found) {
            let names: Vec<&String> = files.iter().map(|(name, _)| name).collect();
            let expected: Vec<&str> = expected.into_keys().collect();
            return Err(format!("  files {names:?} are left, and should be {expected:?}\n"));
        }
        Ok(Self { files, refused })
    }

    /// Returns the steps that bring these files.
    fn puts(&self) -> Vec<Step> {
        let put = |(name, body): &(String, Vec<u8>)| {
            let (name, body) = (name.clone(), body.clone());
            Step::Put { name, body, is_damaged: false, way: Way::Sent }
        };
        self.files.iter().chain(&self.refused).map(put).collect()
    }
}

/// Who does the steps of one history.
struct Hand {
    client: Client,
    pipeline: String,
    unprocessed: PathBuf,
    processed: PathBuf,
    /// How the names of files begin that are only ever added.
    fixed: Vec<String>,
    /// How many steps were done before.
    done: u64,
    /// The last submission, if it was sent.
    last: Option<u64>,
    /// The files that were dropped, and perhaps are not accepted yet.
    dropped: BTreeSet<String>,
}

impl Hand {
    /// Does steps, one behind the other; returns the last submission that was sent.
    async fn take_all(mut self, steps: Vec<Step>) -> Option<u64> {
        let mut sent = None;
        for step in steps {
            self.last = self.take(step).await;
            sent = self.last.or(sent);
            self.done += 1;
        }
        sent
    }

    /// Removes files that are all committed: none waits for the one before. Returns the last submission.
    async fn remove_all(self, names: Vec<String>) -> Option<u64> {
        let mut sent = None;
        for name in names {
            sent = Some(self.remove(name).await);
        }
        sent
    }

    async fn remove(&self, name: String) -> u64 {
        let pipeline = Some(self.pipeline.clone());
        self.client.remove(Which::Name { pipeline, name }).await.unwrap().id
    }

    fn is_fixed(&self, name: &str) -> bool {
        self.fixed.iter().any(|source| name.starts_with(source))
    }

    /// Does one step; returns its submission, if it was sent.
    async fn take(&mut self, step: Step) -> Option<u64> {
        match step {
            Step::Put { name, body, way: Way::Sent, .. } => {
                if self.dropped.contains(&name) {
                    // Which of the two came first must not hang on the watcher of the folder.
                    self.settled().await;
                    self.dropped.clear();
                }
                let pipeline = Some(self.pipeline.clone());
                let replaces =
                    if self.is_fixed(&name) { Replaces::Nothing } else { Replaces::SameName };
                let options = SubmitOptions { pipeline, replaces, ..SubmitOptions::default() };
                Some(self.client.submit_bytes_with(&name, body, options).await.unwrap().id)
            }
            Step::Put { name, body, way: Way::ByHand, .. } => {
                // One that still lies there would be overwritten, and never was.
                self.gone(&self.unprocessed.join(&name)).await;
                let hidden = self.unprocessed.join(format!(".{name}.tmp"));
                fs::write(&hidden, body).unwrap();
                fs::rename(&hidden, self.unprocessed.join(&name)).unwrap();
                self.dropped.insert(name);
                None
            }
            Step::Remove { name, way: Way::Sent } => {
                // Only what is committed can be removed.
                self.settled().await;
                Some(self.remove(name).await)
            }
            Step::Remove { name, way: Way::ByHand } => {
                self.settled().await;
                let lying = self.lying(&name).await;
                fs::remove_file(lying).unwrap();
                None
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

    /// Waits until everything that was done before is final.
    async fn settled(&self) {
        if let Some(last) = self.last {
            // Files are finished in the order in which they were accepted.
            self.client.wait(last, ROUND_MAX).await.unwrap();
        }
        let deadline = Instant::now() + ROUND_MAX;
        loop {
            let pipeline = self.client.pipeline(Some(&self.pipeline)).await.unwrap();
            if pipeline.committed + pipeline.quarantined >= self.done {
                return;
            }
            let (name, done) = (&self.pipeline, self.done);
            assert!(Instant::now() < deadline, "{name}: {done} files are not final");
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
        self.process.ended().expect_code(0).expect_no_errors(&[STOOD_STILL.to_owned()]);
    }
}

fn file_name(at: usize) -> String {
    format!("{at}.yaml")
}
