//! Crash: whatever moment a run is killed at, the next ones end with the bytes of a run that nobody
//! disturbed. `tidemill torture` does the killing and the comparing; here is what is tortured, and
//! that the kills hit something.
//!
//! The longer campaign: `cargo run -p tidemill-tests --bin crash-campaign -- --kills 1000`.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use tidemill_tests::site::Shape;
use tidemill_tests::torment::{self, AGGREGATE, FAN, STATELESS, Torment};

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

/// Failpoints that a kill alone does not lead to.
const NOT_BY_A_KILL: [&str; 1] = [
    // Only a power cut undoes a move; the store's own tests do.
    "recover-input-moved-again",
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
        // Uploads and their spool have a test of their own below.
        .filter(|name| !name.starts_with("upload-") && name != "recover-spool-removed")
        // Checkpoints come by time: how many a short run writes is chance. They are killed at when
        // they come, and have tests of their own.
        .filter(|name| !name.starts_with("checkpoint-"))
        .filter(|name| !NOT_BY_A_KILL.contains(&name.as_str()))
        .collect();
    assert_eq!(unreached, [""; 0], "{report:#}");
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
