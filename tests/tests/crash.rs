//! Crash: whatever moment a run is killed at, the next ones end with the bytes of a run that nobody
//! disturbed. `tidemill torture` does the killing and the comparing; here is what is tortured, and
//! that the kills hit something.
//!
//! The longer campaign: `cargo run -p tidemill-tests --bin crash-campaign -- --kills 1000`.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use tidemill_tests::process::{Ended, Process};
use tidemill_tests::site::{Shape, Site};
use tidemill_tests::torment::{self, AGGREGATE, FAN, STATELESS, Torment};
use tidemill_tests::tree::{self, Tree};

const NODE: &str = env!("CARGO_BIN_EXE_node");

/// Kills a pipeline at random instants and checks that nothing came of it; returns the report.
#[track_caller]
fn check(torment: &Torment, shape: Shape, kills: usize, seed: u64) -> serde_json::Value {
    let report = torment::run(NODE, torment, shape, kills, seed, false);
    check_equal(&report);
    report
}

#[track_caller]
fn check_equal(report: &serde_json::Value) {
    assert_eq!(report["equal"], true, "{report:#}");
    let shape = &report["shapes"][0];
    for nothing in ["lost", "doubled", "different", "left", "failed"] {
        assert_eq!(shape[nothing], 0, "{report:#}");
    }
}

/// Kills every pipeline under four seeds, and looks at what was hit.
#[track_caller]
fn check_all(shape: Shape, kills: usize) {
    let mut hits = torment::Hits::default();
    for torment in [&STATELESS, &AGGREGATE, &FAN] {
        for seed in 1..=4 {
            hits.add(&check(torment, shape, kills, seed));
        }
    }
    // A kill that never hits is no test: most must hit a living process, in its start, in recovery
    // and in the midst of its work.
    assert!(hits.kills * 10 >= hits.wanted * 6, "{hits:?}");
    assert!(hits.phases.len() >= 6, "{hits:?}");
    let most = hits.phases.values().max().copied().unwrap_or_default();
    assert!(most * 10 <= hits.kills * 7, "{hits:?}");
}

#[test]
fn kills_at_random_instants_lose_and_double_nothing_with_one_worker() {
    check_all(Shape::ALONE, 7);
}

#[test]
fn kills_at_random_instants_lose_and_double_nothing_with_two_workers() {
    check_all(Shape::new(1, 2), 7);
}

#[test]
fn kills_at_random_instants_lose_and_double_nothing_with_two_processes() {
    check_all(Shape::new(2, 1), 4);
}

/// How the failpoints begin that these pipelines do not reach by a kill alone, and where they are
/// reached instead.
const ELSEWHERE: [(&str, &str); 14] = [
    ("upload-", "with their clients: tests/intake.rs"),
    ("recover-upload-", "likewise"),
    ("recover-spool-", "likewise"),
    ("set-refused", "with sets behind sums: tests/arrivals.rs"),
    ("retry-", "with the files that are tried again: tests/retry.rs"),
    // They come by time, so how many a short run writes is chance. They are killed at when they come.
    ("checkpoint-", "in the tests of checkpoints"),
    ("recover-input-moved-again", "only a power cut undoes a move: the tests of the store"),
    ("publish-output-removed", "no output loses its last row here: recover/tests/shelf.rs"),
    ("removal-", "with corrections: tests/replace.rs"),
    ("retire-", "likewise"),
    ("retained-", "likewise"),
    ("retain-linked", "likewise"),
    ("dry-run-", "with those who ask: tests/dry_run.rs"),
    ("deploy-", "likewise: tests/deploys.rs"),
];

#[track_caller]
fn check_points(torment: &Torment, shape: Shape) {
    let report = torment::run(NODE, torment, shape, 0, 1, true);
    check_equal(&report);
    let shape = &report["shapes"][0];
    let names = |key: &str| -> Vec<String> {
        let all = shape[key].as_array().unwrap().iter();
        all.map(|name| name.as_str().unwrap().to_owned()).collect()
    };
    let unreached: Vec<String> = names("unreached")
        .into_iter()
        .filter(|name| !ELSEWHERE.iter().any(|(begin, _)| name.starts_with(begin)))
        .collect();
    assert_eq!(unreached, [""; 0], "let src/torment.rs reach them, or say in ELSEWHERE who does");
    let twice = shape["points_twice"].as_u64().unwrap() as usize;
    assert!(twice * 10 >= names("points").len() * 7, "{report:#}");
}

#[test]
fn a_kill_at_each_step_and_another_in_the_recovery_lose_and_double_nothing() {
    check_points(&FAN, Shape::ALONE);
}

#[test]
fn a_kill_at_each_step_loses_and_doubles_nothing_with_two_workers() {
    check_points(&FAN, Shape::new(1, 2));
}

#[test]
fn a_kill_at_each_step_loses_and_doubles_nothing_with_two_processes() {
    check_points(&FAN, Shape::new(2, 1));
}

#[test]
fn kills_while_files_are_replaced_and_removed_lose_and_double_nothing() {
    for (shape, kills) in [(Shape::new(1, 2), 10), (Shape::new(2, 1), 4)] {
        let report = torment::run_correcting(NODE, &AGGREGATE, shape, kills, 5);
        check_equal(&report);
        assert!(report["corrected"].as_u64().unwrap() >= 4, "{report:#}");
    }
}

/// Returns the names of all failpoints: the program tells them to whoever asks for a wrong one.
fn failpoints(site: &Site) -> Vec<String> {
    let mut command = site.command(&["run", "pipeline.yaml"]);
    let ended = Process::start(command.env("TIDEMILL_FAILPOINT", "nothing=kill")).ended();
    ended.expect_code(2).expect_said("there is no failpoint \"nothing\"; there are ");
    let names = ended.stderr.split_once("; there are ").unwrap().1;
    names.trim().split(", ").map(str::to_owned).collect()
}

/// Runs a home with something armed.
fn armed(site: &Site, failpoint: &str) -> Ended {
    let run = ["run", "pipeline.yaml", "--home", "home", "--once", "-w", "2"];
    let mut command = site.command(&run);
    command.args(["--grpc", "127.0.0.1:0", "--quiet", "1ms", "--scan", "50ms"]);
    Process::start(command.env("TIDEMILL_FAILPOINT", failpoint)).ended()
}

/// Lets one step fail or panic, which must end the process with this code, and a life after that
/// finish. Returns whether the step was reached.
#[track_caller]
fn check_failing(failpoint: &str, code: i32, expected: &Tree) -> bool {
    let site = Site::new(NODE, FAN.yaml);
    for (name, bytes) in torment::inputs(&FAN) {
        site.put(&name, &bytes);
    }
    let failed = armed(&site, failpoint);
    let reached = failed.stderr.contains("WARN failpoint ");
    assert_eq!(failed.code, Some(if reached { code } else { 3 }), "{failpoint}\n{failed}");
    let last = site.once(Shape::new(1, 2));
    assert!(matches!(last.code, Some(0 | 3)), "{failpoint}\n{last}");
    assert_eq!(tree::difference(expected, &site.out()), None, "{failpoint}");
    for folder in ["unprocessed", "underprocess"] {
        assert_eq!(site.names(folder), [""; 0], "{failpoint}");
    }
    reached
}

#[test]
fn a_step_that_fails_ends_the_process_and_loses_nothing() {
    let site = Site::new(NODE, FAN.yaml);
    let names = failpoints(&site);
    for (name, bytes) in torment::inputs(&FAN) {
        site.put(&name, &bytes);
    }
    site.once(Shape::new(1, 2)).expect_code(3);
    let expected = site.out();
    let fails = |name: &&String| check_failing(&format!("{name}=error"), 74, &expected);
    let reached = names.iter().filter(fails).count();
    // The others are steps of uploads and of recovery.
    assert!(reached * 2 > names.len(), "{reached} of {names:?}");
    for name in ["claim-renamed", "part-prepared", "commit-written", "publish-begin", "end-begin"] {
        assert!(check_failing(&format!("{name}=panic"), 70, &expected), "{name}");
    }
}
