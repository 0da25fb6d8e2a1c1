//! An armed failpoint makes its step fail, once, and the trace tells it. In a process of its own,
//! because failpoints are armed for a whole process.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use tidemill_store::failpoint::{self, FailpointError};
use tidemill_store::{Home, Journal, JournalError};

#[test]
fn an_armed_step_fails_once_and_goes_on_after_that() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("home");
    let trace = folder.path().join("trace");
    failpoint::reach("home-locked").unwrap();
    failpoint::arm("process=1:home-locked=error", 0).unwrap();
    Home::open(&root).unwrap();

    failpoint::trace(&trace, 0).unwrap();
    failpoint::arm("home-locked@2=error; journal-opened=error", 0).unwrap();
    assert_eq!(failpoint::arm("home-locked=error", 0), Err(FailpointError::Twice));

    let home = Home::open(&root).unwrap();
    let error = Journal::open(&home).unwrap_err();
    assert!(matches!(error, JournalError::Disk { .. }), "{error}");
    drop(home);
    let error = Home::open(&root).unwrap_err();
    assert!(error.to_string().contains("go on with"), "{error}");
    let home = Home::open(&root).unwrap();
    Journal::open(&home).unwrap();

    let reached = failpoint::read_trace(&trace, 0).unwrap();
    let expected =
        ["home-locked", "journal-opened", "home-locked", "home-locked", "journal-opened"];
    assert_eq!(reached, expected);
}
