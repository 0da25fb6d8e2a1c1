//! Syscall faults: a call to the disk fails in the middle of a run, wherever that is, and the
//! outputs are right all the same, at once or after the next start.
//!
//! A sample; all of it: `cargo run -p tidemill-tests --bin faults -- calls`.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use tidemill_tests::faults::calls::{count, folder_faults, log_faults, spread, sweep};
use tidemill_tests::faults::place::{Case, Subject};
use tidemill_tests::faults::{Dice, Kind, possible};

const NODE: &str = env!("CARGO_BIN_EXE_node");

/// Faults of one kind for each case.
const SAMPLE: u64 = 10;

#[track_caller]
fn check(case: &Case) {
    if !possible("no system call was made to fail") {
        return;
    }
    let subject = Subject::new(NODE);
    let calls: BTreeMap<Kind, u64> = count(case, &subject);
    let mut dice = Dice::new(7);
    let faults =
        Kind::ALL.into_iter().flat_map(|kind| spread(kind, calls[&kind], SAMPLE, &mut dice));
    let faults: Vec<_> = faults.collect();
    let report = sweep(case, &subject, faults.into_iter());
    eprintln!("{}: {report}", case.name);
    assert!(report.wrong.is_empty(), "{report}");
    for kind in Kind::ALL {
        // Threads race, so the last calls of one run may not be there in the next.
        assert!(
            report.hits(kind) * 4 >= SAMPLE as usize * 3,
            "{} hit too little: {report}",
            kind.word()
        );
    }
}

#[test]
fn a_call_that_fails_leaves_no_trace_in_sums_and_tables() {
    check(&Case::summed());
}

#[test]
fn a_call_that_fails_leaves_no_trace_without_state() {
    check(&Case::copied());
}

#[test]
fn a_failed_sync_of_a_log_that_grew_long_ends_the_process() {
    if !possible("no system call was made to fail") {
        return;
    }
    log_faults(&Subject::new(NODE)).unwrap_or_else(|wrong| panic!("{wrong}"));
}

#[test]
fn a_failed_sync_of_the_folder_of_a_home_ends_the_process() {
    if !possible("no system call was made to fail") {
        return;
    }
    folder_faults(&Subject::new(NODE)).unwrap_or_else(|wrong| panic!("{wrong}"));
}
