//! Corrections: whatever is sent, replaced and removed, and whatever happens to the process
//! meanwhile, outputs end as those of a fresh run over the files that are left.
//!
//! The longer campaign: `cargo run -p tidemill-tests --bin correction-campaign -- --cases 20000`.

use tidemill_tests::corrections::Campaign;

const NODE: &str = env!("CARGO_BIN_EXE_node");

/// Cases that are run each time.
const CASES: u64 = 2000;

#[test]
fn outputs_are_those_of_a_fresh_run_over_the_files_that_are_left() {
    let campaign = Campaign { node: NODE.into(), seed: 1, first: 0, cases: CASES, side_by_side: 2 };
    let report = campaign.run();
    let failures: Vec<String> = report.failures.iter().map(ToString::to_string).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert_eq!(report.cases, CASES);
}
