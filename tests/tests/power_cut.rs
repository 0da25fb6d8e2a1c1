//! Power cut: what a disk may hold after the power went away, at any moment of a life and of its
//! recovery, is brought to the same end by the next start.
//!
//! A sample; more of it: `cargo run -p tidemill-tests --bin faults -- power`.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use tidemill_tests::faults::crash::Survival;
use tidemill_tests::faults::mount;
use tidemill_tests::faults::place::{Case, Subject};
use tidemill_tests::faults::possible;
use tidemill_tests::faults::power::{Before, Plan, campaign, emptied_logs};

const NODE: &str = env!("CARGO_BIN_EXE_node");

/// Cuts in each recorded life.
const CUTS: usize = 12;

#[track_caller]
fn check(case: &Case, before: &[Before]) {
    if !possible("the power was not cut") {
        return;
    }
    let plan = Plan { before: before.to_vec(), lives: 2, cuts: CUTS, seed: 11, until_wrong: false };
    let report = campaign(case, &Subject::new(NODE), &plan);
    eprintln!("{}: {report}", case.name);
    assert!(report.wrong.is_empty(), "{report}");
    for &before in before {
        for survival in Survival::ALL {
            assert!(report.cuts.contains_key(&(before, survival)), "{before:?} {survival:?}");
        }
    }
    // A cut that loses nothing is only a kill.
    assert!(report.losses * 4 >= report.total() - report.again, "{report}");
}

#[test]
fn a_power_cut_loses_and_doubles_nothing_of_dropped_files() {
    check(&Case::summed(), &[Before::Dropped]);
    check(&Case::copied(), &[Before::Dropped]);
}

#[test]
fn a_power_cut_after_a_kill_or_a_failed_sync_loses_and_doubles_nothing() {
    check(&Case::summed(), &[Before::Killed, Before::Unsynced, Before::Unheard]);
}

/// The first life dies with a sync that fails, so the next one sees a log that is only half on the disk.
#[test]
fn a_log_is_on_the_disk_before_it_is_moved_into_the_database() {
    if !possible("the power was not cut") {
        return;
    }
    let report = emptied_logs(&Case::copied(), &Subject::new(NODE));
    eprintln!("{report}");
    assert!(report.wrong.is_empty(), "{report}");
    assert!(report.total() > 0, "{report}");
}

#[test]
fn what_a_client_has_heard_is_still_true_after_a_power_cut() {
    check(&Case::copied(), &[Before::Served]);
}

#[test]
fn what_a_real_file_system_keeps_when_its_power_is_cut_is_brought_to_the_same_end() {
    if !mount::possible("the power of a real file system was not cut") {
        return;
    }
    const CUTS: u64 = 8;
    for case in [Case::summed(), Case::copied()] {
        let (hits, wrong) = mount::cuts(&case, &Subject::new(NODE), CUTS, 3);
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        // Threads race, so the last calls of one run may not be there in the next.
        assert!(hits as u64 * 4 >= CUTS * 3, "{hits} of {CUTS} cuts");
    }
}
