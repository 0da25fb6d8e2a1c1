//! Loops: random pipelines of tags, loops and state end, balance, and give what a slow program says,
//! before and after some of their files are corrected.
//!
//! The longer campaign: `cargo run -p tidemill-tests --bin loop-campaign -- --cases 5000`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use tidemill_tests::loops::campaign;

const NODE: &str = env!("CARGO_BIN_EXE_node");

/// Cases that are run each time, and how many of them in one process.
const CASES: (u64, u64) = (48, 8);

#[test]
fn random_loops_end_and_give_what_a_slow_program_says() {
    let report = campaign(NODE, 1, 0, CASES.0, CASES.1);
    assert!(report.failures.is_empty(), "{}", report.failures.join("\n"));
    // Or the cases would promise little.
    assert!(report.loops > 90, "only {} loops", report.loops);
    assert!(report.states > 40, "only {} operators with state in loops", report.states);
    assert!(report.over > 200, "only {} records went round too often", report.over);
}
