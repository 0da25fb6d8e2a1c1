//! Torment: pipelines and small inputs for `tidemill torture`, and what its kills hit.
//!
//! The inputs are made so that an undisturbed run takes some tenths of a second and passes every
//! step: outputs that ride in the commit and outputs that are staged, tables, rejects, a file that
//! is set aside.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use crate::process::Process;
use crate::site::{Shape, Site};

/// How long a campaign may take: it starts some hundred processes.
const CAMPAIGN_MAX: Duration = Duration::from_secs(600);

/// A pipeline to be killed.
#[derive(Clone, Copy, Debug)]
pub struct Torment {
    /// Its file.
    pub yaml: &'static str,
    /// Inputs with so many records each.
    pub records: &'static [usize],
}

/// Records are routed, changed and written; nothing is remembered.
pub const STATELESS: Torment = Torment {
    yaml: "pipeline: stateless
sources:
  logs: { format: jsonl, pattern: \"*.jsonl*\", fields: { host: string, status: int, bytes: int } }
operators:
  good: { from: logs, filter: bytes / status >= 0 }
  by_class: { from: good, route: { bad: status >= 500, ok: else } }
  short: { from: by_class.ok, select: { host: upper(host), kib: bytes / 1024 } }
sinks:
  bad: { from: by_class.bad, files: { format: raw } }
  ok: { from: short, files: { format: csv } }
",
    records: &[40, 3000, 1, 200, 0, 40, 900, 40, 40],
};

/// Everything ends in tables.
pub const AGGREGATE: Torment = Torment {
    yaml: "pipeline: sums
sources:
  logs: { format: jsonl, pattern: \"*.jsonl*\", fields: { host: string, status: int, bytes: int } }
operators:
  by_host: { from: logs, aggregate: { by: [host], compute: { hits: count(*), bytes: sum(bytes), most: max(bytes) } } }
  by_status: { from: logs, aggregate: { by: [status], compute: { hits: count(*), mean: avg(bytes) } } }
sinks:
  by_host: { from: by_host, table: { format: csv, key: [host], publish_every: 1ms } }
  by_status: { from: by_status, table: { format: jsonl, key: [status] } }
",
    records: &[100, 2000, 3, 100, 700, 100, 100],
};

/// Ways that part and meet again, into files and a table; and files that later files change.
pub const FAN: Torment = Torment {
    yaml: "pipeline: fan
sources:
  logs: { format: jsonl, pattern: \"*.jsonl*\", fields: { host: string, status: int, bytes: int, file: int } }
operators:
  checked: { from: logs, filter: bytes / status >= 0 }
  by_class: { from: checked, route: { server: status >= 500, client: status >= 400, ok: else } }
  slow: { from: by_class.client, filter: bytes >= 0 }
  worse: { from: [by_class.server, slow], select: [status, host] }
  totals: { from: [by_class.ok, slow], aggregate: { by: [host, status], compute: { hits: count(*), bytes: sum(bytes) } } }
  largest: { from: checked, dedupe: { by: [host, status], order: [bytes desc, file] } }
sinks:
  largest: { from: largest, files: { format: csv, empty: skip } }
  all: { from: [by_class.ok, by_class.client, by_class.server], files: { format: raw } }
  worse: { from: worse, files: { format: csv } }
  again: { from: by_class.server, files: { format: jsonl, empty: skip } }
  totals: { from: totals, table: { format: csv, key: [host, status] } }
",
    records: &[50, 2500, 5, 50, 0, 800],
};

/// Returns the inputs of a torment: as many as it says, one that is cut off, and in each some
/// records that cannot be read.
pub fn inputs(torment: &Torment) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for (index, records) in torment.records.iter().enumerate() {
        files.insert(format!("part-{index}.jsonl"), lines(index, *records).into_bytes());
    }
    // Half of a gzip header: the file is set aside.
    files.insert("part-2-broken.jsonl.gz".to_owned(), vec![0x1f, 0x8b, 0x08, 0x00]);
    files
}

fn lines(file: usize, records: usize) -> String {
    let mut text = String::new();
    for record in 0..records {
        let (host, status) = (record * 7 % 11, [200, 200, 404, 500, 0][(record + file) % 5]);
        let bytes = record * 131 % 4099;
        let line = match record % 97 {
            96 => writeln!(text, "{{\"host\": \"h{host}\", \"status\": \"many\"}}"),
            _ => writeln!(
                text,
                "{{\"host\": \"h{host}\", \"status\": {status}, \"bytes\": {bytes}, \"file\": {file}}}"
            ),
        };
        line.expect("a String takes everything");
    }
    text
}

/// Tortures a pipeline in one shape and returns what was reported.
#[track_caller]
pub fn run(
    node: &str,
    torment: &Torment,
    shape: Shape,
    kills: usize,
    seed: u64,
    points: bool,
) -> serde_json::Value {
    let more: &[&str] = if points { &["--points"] } else { &[] };
    run_with(node, torment, shape, kills, seed, more)
}

/// Does what [`run`] does, while inputs are replaced and removed.
#[track_caller]
pub fn run_correcting(
    node: &str,
    torment: &Torment,
    shape: Shape,
    kills: usize,
    seed: u64,
) -> serde_json::Value {
    run_with(node, torment, shape, kills, seed, &["--corrections"])
}

#[track_caller]
fn run_with(
    node: &str,
    torment: &Torment,
    shape: Shape,
    kills: usize,
    seed: u64,
    more: &[&str],
) -> serde_json::Value {
    let site = Site::new(node, torment.yaml);
    write_inputs(torment, &site.path().join("in"));
    let (kills, seed) = (kills.to_string(), seed.to_string());
    let (workers, processes) = (shape.workers.to_string(), shape.processes.to_string());
    let mut arguments = vec!["torture", "pipeline.yaml", "in", "--json", "--keep", "homes"];
    arguments.extend(["--kills", &kills, "--seed", &seed, "-w", &workers, "-n", &processes]);
    arguments.extend(more);
    let ended = Process::start(&mut site.command(&arguments)).ended_within(CAMPAIGN_MAX);
    assert!(ended.code == Some(0) || ended.code == Some(1), "{ended}");
    let report = ended.json();
    assert_eq!(ended.code == Some(0), report["equal"] == true, "{ended}");
    report
}

/// Writes the inputs of a torment into a folder.
pub fn write_inputs(torment: &Torment, folder: &Path) {
    crate::tree::write(folder, &inputs(torment));
}

/// What the kills of some campaigns hit.
#[derive(Clone, Debug, Default)]
pub struct Hits {
    /// Kills that were drawn.
    pub wanted: usize,
    /// Kills that hit a living process.
    pub kills: usize,
    /// How many of them hit after which kind of step.
    pub phases: BTreeMap<String, usize>,
}

impl Hits {
    /// Adds the random kills of a report.
    pub fn add(&mut self, report: &serde_json::Value) {
        let number = |value: &serde_json::Value| value.as_u64().unwrap_or_default() as usize;
        for shape in report["shapes"].as_array().into_iter().flatten() {
            let mut hit = 0;
            for (phase, count) in shape["phases"].as_object().into_iter().flatten() {
                *self.phases.entry(phase.clone()).or_default() += number(count);
                hit += number(count);
            }
            self.kills += hit;
            self.wanted += hit + number(&shape["late"]);
        }
    }
}
