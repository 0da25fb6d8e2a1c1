//! Deploys: a pipeline that is changed again and again while files come, against a slow program that
//! knows what each file must have become under the plan that its receipt names.
//!
//! Files are dropped and sent all the time. After each round one of the variants takes over. At the end
//! every file was committed once, under one plan, and plans follow each other at file boundaries.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tidemill_client::{Client, Filter, Submission, SubmitOptions};

use crate::process::{PATIENCE, wait_until};
use crate::site::{Running, Shape, Site};

/// How many percent more memory there may be in the last quarter than in the second one.
const MEMORY_PERCENT_MAX: u64 = 15;

/// With fewer deployments a quarter says nothing of memory.
const MEMORY_FROM: usize = 40;

/// How long the dropper waits between two files.
const GAP: Duration = Duration::from_millis(2);

/// Files that are dropped, and files that are sent, in each round.
const DROPPED: u64 = 3;
const SENT: u64 = 1;

/// One form of the pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Variant {
    /// Only rows with at least this `n` get into the output files: an operator that may be there.
    pub at_least: Option<i64>,
    /// What `n` is multiplied with in the output files: an expression.
    pub factor: i64,
    /// What `n` is multiplied with in the sums: an aggregate.
    pub weight: i64,
    /// The name of the sink of the output files.
    pub sink: &'static str,
}

/// The forms that take turns: each differs from the one before in one thing or in several.
pub const VARIANTS: [Variant; 6] = [
    Variant { at_least: None, factor: 1, weight: 1, sink: "rows" },
    Variant { at_least: Some(3), factor: 1, weight: 1, sink: "rows" },
    Variant { at_least: Some(3), factor: 2, weight: 1, sink: "rows" },
    Variant { at_least: None, factor: 2, weight: 1, sink: "lines" },
    Variant { at_least: None, factor: 2, weight: 3, sink: "lines" },
    Variant { at_least: Some(5), factor: 7, weight: 2, sink: "rows" },
];

impl Variant {
    /// Returns the pipeline file.
    pub fn yaml(&self) -> String {
        let (filter, from) = match self.at_least {
            Some(least) => (format!("  some: {{ from: rows_in, filter: n >= {least} }}\n"), "some"),
            None => (String::new(), "rows_in"),
        };
        let Self { factor, weight, sink, .. } = self;
        format!(
            "pipeline: changing\n\
             sources:\n  rows_in: {{ format: csv, fields: {{ k: string, n: int }} }}\n\
             operators:\n{filter}  \
               made: {{ from: {from}, select: {{ k: k, n: n * {factor} }} }}\n  \
               sums: {{ from: rows_in, aggregate: {{ by: [k], compute: {{ total: sum(n * {weight}), rows: count(*) }} }} }}\n\
             sinks:\n  \
               {sink}: {{ from: made, files: {{ format: csv }} }}\n  \
               sums: {{ from: sums, table: {{ format: csv, key: [k] }} }}\n"
        )
    }

    /// Returns what a file with these rows becomes.
    fn output(&self, rows: &[(String, i64)]) -> String {
        let kept = rows.iter().filter(|(_, n)| self.at_least.is_none_or(|least| *n >= least));
        kept.fold("k,n\n".to_owned(), |text, (k, n)| text + &format!("{k},{}\n", n * self.factor))
    }
}

/// Returns the rows of the file with this number.
fn rows(number: u64) -> Vec<(String, i64)> {
    let row = |at: u64| {
        let mixed = (number * 31 + at * 17) % 101;
        (format!("k{}", mixed % 7), i64::try_from(mixed % 11).unwrap())
    };
    (0..1 + number % 6).map(row).collect()
}

fn bytes(number: u64) -> Vec<u8> {
    let text =
        rows(number).iter().fold("k,n\n".to_owned(), |text, (k, n)| text + &format!("{k},{n}\n"));
    text.into_bytes()
}

fn name(number: u64) -> String {
    format!("f{number:06}.csv")
}

/// What is to be done.
#[derive(Clone, Debug)]
pub struct Campaign {
    /// The binary.
    pub node: PathBuf,
    /// How many processes and workers.
    pub shape: Shape,
    /// How many deployments.
    pub deploys: usize,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Deployments.
    pub deploys: usize,
    /// Files that were committed.
    pub files: u64,
    /// The longest time from the call until the answer that it is durable.
    pub longest_call: Duration,
    /// The longest time from there until the server answered with the new plan.
    pub longest_away: Duration,
    /// The sum of those times.
    pub all: Duration,
    /// The memory of all its processes behind each deployment, in bytes.
    pub memory: Vec<u64>,
    /// How long it took.
    pub took: Duration,
}

impl Report {
    /// Returns the median memory in each quarter of the deployments.
    pub fn quarters(&self) -> [u64; 4] {
        std::array::from_fn(|quarter| {
            let part = |at: usize| at * self.memory.len() / 4;
            let mut all = self.memory[part(quarter)..part(quarter + 1)].to_vec();
            all.sort_unstable();
            all.get(all.len() / 2).copied().unwrap_or_default()
        })
    }

    /// Fails if memory grows with the deployments. The first quarter is left out: until then every size
    /// of buffer was not asked for yet. What grows by 1 KiB a deployment passes; a dataflow that stays
    /// behind, or a connection to the journal, does not.
    #[track_caller]
    fn check_memory(&self) {
        let [_, second, _, last] = self.quarters();
        let is_flat = last * 100 <= second * (100 + MEMORY_PERCENT_MAX);
        assert!(is_flat, "memory grew from {second} to {last} bytes: {:?}", self.memory);
    }
}

impl Campaign {
    /// Runs it; fails as a test does.
    #[track_caller]
    pub fn run(&self) -> Report {
        let began = Instant::now();
        let node = self.node.to_str().expect("a path in UTF-8");
        let mut site = Site::new(node, &VARIANTS[0].yaml());
        site.always(&["--log", "warn"]);
        let running = site.start(self.shape);
        let files = AtomicU64::new(0);
        let ended = AtomicBool::new(false);
        // How many files may be there by now.
        let allowed = AtomicU64::new(0);
        let mut report = Report { deploys: self.deploys, ..Report::default() };
        // What took over, in order: version, first epoch, variant.
        let mut line: Vec<(u64, usize)> = vec![(1, 0)];
        std::thread::scope(|scope| {
            let (site, files, ended, allowed) = (&site, &files, &ended, &allowed);
            let client = running.client().clone();
            let feeder = scope.spawn(move || feed(site, &client, files, allowed, ended));
            for deploy in 1..=self.deploys {
                allowed.fetch_add(DROPPED + SENT, Ordering::Relaxed);
                // Not always at once, so that files lie in all states when it comes.
                let wanted =
                    (deploy as u64 - 1) * (DROPPED + SENT) + deploy as u64 % (DROPPED + SENT);
                wait_until("files come", || files.load(Ordering::Relaxed) >= wanted);
                let variant = deploy % VARIANTS.len();
                let called = Instant::now();
                let yaml = VARIANTS[variant].yaml();
                let first_epoch = call(&running, &yaml);
                let answered = called.elapsed();
                wait_until_back(&running, &yaml);
                let took = called.elapsed();
                report.longest_call = report.longest_call.max(answered);
                report.longest_away = report.longest_away.max(took - answered);
                report.all += took;
                line.push((first_epoch, variant));
                report.memory.push(running.own_bytes());
            }
            ended.store(true, Ordering::Relaxed);
            if let Err(panic) = feeder.join() {
                std::panic::resume_unwind(panic);
            }
        });
        report.files = files.load(Ordering::Relaxed);
        let submissions = settled(&running, report.files);
        running.stop().expect_code(0);
        check(&site, &submissions, &line, report.files);
        if self.deploys >= MEMORY_FROM {
            report.check_memory();
        }
        report.took = began.elapsed();
        report
    }
}

/// Deploys a text; returns its first epoch.
#[track_caller]
fn call(running: &Running<'_>, yaml: &str) -> u64 {
    let deployed = running.ask(running.client().deploy(yaml, false, PATIENCE)).unwrap();
    assert!(deployed.changed, "{deployed:?}");
    deployed.first_epoch
}

/// Waits until a text runs.
#[track_caller]
fn wait_until_back(running: &Running<'_>, yaml: &str) {
    let serves = running.client().wait_for_pipeline("changing", yaml, PATIENCE);
    assert!(running.ask(serves).unwrap(), "the server did not come back");
}

/// Drops and sends files, as many as are allowed, until it is told to end.
fn feed(site: &Site, client: &Client, files: &AtomicU64, allowed: &AtomicU64, ended: &AtomicBool) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let options = SubmitOptions { resend_for: PATIENCE, ..SubmitOptions::default() };
    while !ended.load(Ordering::Relaxed)
        || files.load(Ordering::Relaxed) < allowed.load(Ordering::Relaxed)
    {
        let number = files.load(Ordering::Relaxed);
        if number >= allowed.load(Ordering::Relaxed) {
            std::thread::park_timeout(GAP);
            continue;
        }
        if number % (DROPPED + SENT) < DROPPED {
            site.put(&name(number), &bytes(number));
            std::thread::park_timeout(GAP);
        } else {
            let name = name(number);
            let sent = client.submit_bytes_with(&name, bytes(number), options.clone());
            runtime.block_on(sent).unwrap();
        }
        files.fetch_add(1, Ordering::Relaxed);
    }
}

/// Waits until so many files are final, and returns all of them with their receipts.
#[track_caller]
fn settled(running: &Running<'_>, files: u64) -> Vec<Submission> {
    wait_until("all files are final", || {
        let pipelines = running.ask(running.client().pipelines()).unwrap();
        pipelines.iter().map(|one| one.committed + one.quarantined).sum::<u64>() >= files
    });
    running.ask(list(running.client())).unwrap()
}

async fn list(client: &Client) -> Result<Vec<Submission>, tidemill_client::Error> {
    let mut filter = Filter { limit: 1000, ..Filter::default() };
    let mut all = Vec::new();
    loop {
        let page = client.list(&filter).await?;
        for one in &page.submissions {
            all.push(client.get(one.id).await?);
        }
        match page.next_before {
            Some(before) => filter.before = Some(before),
            None => return Ok(all),
        }
    }
}

/// Compares everything with what must be.
#[track_caller]
fn check(site: &Site, submissions: &[Submission], line: &[(u64, usize)], files: u64) {
    assert_eq!(site.quarantine(), [""; 0], "nothing is set aside");
    assert!(line.windows(2).all(|two| two[0].0 <= two[1].0), "boundaries go forward: {line:?}");
    let names: BTreeSet<&str> = submissions.iter().map(|one| one.name.as_str()).collect();
    let wanted: Vec<String> = (0..files).map(name).collect();
    assert_eq!(names, wanted.iter().map(String::as_str).collect(), "each file is there");
    assert_eq!(submissions.len() as u64, files, "and each once");
    let mut hashes: BTreeMap<&str, Variant> = BTreeMap::new();
    let mut expected: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    for one in submissions {
        // The last that begins at or before it.
        let of = line.iter().rev().find(|(first, _)| *first <= one.epoch).unwrap();
        let variant = VARIANTS[of.1];
        let receipt = one.receipt.as_ref().expect("a committed file has a receipt");
        let named = *hashes.entry(&receipt.plan_hash).or_insert(variant);
        assert_eq!(named, variant, "epoch {} has the plan of its side of the boundary", one.epoch);
        let number: u64 = one.name[1..7].parse().unwrap();
        let path = format!("{}/{}", variant.sink, one.name);
        expected.insert(path, variant.output(&rows(number)).into_bytes());
    }
    let plans: BTreeSet<String> = hashes.values().map(Variant::yaml).collect();
    assert_eq!(plans.len(), hashes.len(), "a plan has one hash");
    let last = VARIANTS[line.last().unwrap().1];
    let mut sums: BTreeMap<String, (i64, i64)> = BTreeMap::new();
    for (k, n) in (0..files).flat_map(rows) {
        let sum = sums.entry(k).or_default();
        *sum = (sum.0 + n * last.weight, sum.1 + 1);
    }
    let table = sums.iter().fold("k,total,rows\n".to_owned(), |text, (k, (total, rows))| {
        text + &format!("{k},{total},{rows}\n")
    });
    expected.insert("sums/sums.csv".to_owned(), table.into_bytes());
    let mut out = site.out();
    // An output without rows may be left out, or have its head only.
    let is_head = |bytes: &Vec<u8>| bytes == b"k,n\n" || bytes.is_empty();
    out.retain(|_, bytes| !is_head(bytes));
    expected.retain(|_, bytes| !is_head(bytes));
    for (path, bytes) in &expected {
        let found = out.get(path).map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        let bytes = String::from_utf8_lossy(bytes).into_owned();
        assert_eq!(found, Some(bytes), "{path}");
    }
    let more: Vec<&String> = out.keys().filter(|path| !expected.contains_key(*path)).collect();
    assert!(more.is_empty(), "nothing else came out: {more:?}");
    assert_eq!(site.names("processed").len() as u64, files);
    assert_eq!(site.names("unprocessed"), [""; 0]);
    assert_eq!(site.names("underprocess"), [""; 0]);
}
