//! Crash loop: a file that crashes the process is set aside by itself at the third crash, and no
//! other file ever is. Killing the process counts for nothing.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;

use tidemill_tests::{Shape, Site, Tree, tree};

const NODE: &str = env!("CARGO_BIN_EXE_node");

const PIPELINE: &str = "
pipeline: crash
sources:
  rows: { format: jsonl, fields: { host: string, n: int } }
operators:
  totals: { from: rows, aggregate: { by: [host], compute: { total: sum(n) } } }
sinks:
  rows: { from: rows, files: { format: raw } }
  totals: { from: totals, table: { format: csv, key: [host] } }
";

const GUILTY: &str = "m-guilty.jsonl";

fn row(n: usize) -> Vec<u8> {
    format!("{{\"host\":\"host-{}\",\"n\":{n}}}\n", n % 3).into_bytes()
}

fn innocents() -> Tree {
    ('a'..='z').map(|letter| (format!("{letter}.jsonl"), row(letter as usize))).collect()
}

/// What the innocent files give.
fn expected() -> Tree {
    let site = Site::new(NODE, PIPELINE);
    innocents().iter().for_each(|(name, bytes)| site.put(name, bytes));
    site.once(Shape::ALONE).expect_code(0);
    site.out()
}

fn markers(site: &Site) -> usize {
    let names = fs::read_dir(site.home()).unwrap().map(|entry| entry.unwrap().file_name());
    names.filter(|name| name.to_string_lossy().starts_with("crash-")).count()
}

#[track_caller]
fn check_crash_loop(shape: Shape) {
    let mut site = Site::new(NODE, PIPELINE);
    site.announce("set aside: it crashes the process");
    site.announce("a worker ended with");
    innocents().iter().for_each(|(name, bytes)| site.put(name, bytes));
    site.put(GUILTY, &row(7));
    site.trial(Some(&format!("panic={GUILTY}")));
    for life in 1..=3 {
        let ended = site.once(shape);
        assert_eq!(ended.code, Some(70), "{shape}, life {life}: {ended}");
        assert_eq!(markers(&site), 1, "{shape}, life {life}");
        assert_eq!(site.quarantine(), [""; 0], "{shape}, life {life}");
    }
    let ended = site.once(shape);
    ended.expect_code(3).expect_said("it crashes the process");
    let aside = site.quarantine();
    assert_eq!(aside.len(), 1, "{aside:?}");
    let begin = format!("{GUILTY} crashes_the_process: the process failed three times in a row");
    assert!(aside[0].starts_with(&begin), "{aside:?}");
    assert!(aside[0].contains("a trial: reading m-guilty.jsonl fails"), "{aside:?}");
    assert_eq!(markers(&site), 0);
    if let Some(difference) = tree::difference(&expected(), &site.out()) {
        panic!("{shape}:\n{difference}");
    }
    // It is over: the next life is like any other.
    site.once(shape).expect_code(0);
}

#[test]
fn a_file_that_crashes_the_process_is_set_aside_on_one_worker() {
    check_crash_loop(Shape::ALONE);
}

#[test]
fn a_file_that_crashes_the_process_is_set_aside_on_three_workers() {
    check_crash_loop(Shape::new(1, 3));
}

/// With several processes the supervisor starts them again by itself: the run ends well, and says
/// that one file was set aside.
#[track_caller]
fn check_supervised(trial: &str, evidence: &str) {
    let mut site = Site::new(NODE, PIPELINE);
    for announced in ["set aside: it crashes", "a worker ended with", "process ", "generation "] {
        site.announce(announced);
    }
    innocents().iter().for_each(|(name, bytes)| site.put(name, bytes));
    site.put(GUILTY, &row(7));
    site.trial(Some(&format!("{trial}={GUILTY}")));
    let ended = site.once(Shape::new(2, 2));
    assert_eq!(ended.code, Some(3), "{ended}");
    let aside = site.quarantine();
    assert_eq!(aside.len(), 1, "{aside:?}");
    let begin = format!("{GUILTY} crashes_the_process: ");
    assert!(aside[0].starts_with(&begin) && aside[0].contains(evidence), "{aside:?}");
    assert_eq!(markers(&site), 0);
    assert_eq!(tree::difference(&expected(), &site.out()), None);
}

#[test]
fn a_file_that_panics_one_of_two_processes_is_set_aside_in_one_run() {
    check_supervised("panic", "a trial: reading m-guilty.jsonl fails");
}

#[test]
fn a_file_that_aborts_one_of_two_processes_is_set_aside_in_one_run() {
    check_supervised("abort", "it died of SIGABRT");
}

#[test]
fn a_process_that_is_killed_leaves_no_strike() {
    let mut site = Site::new(NODE, PIPELINE);
    innocents().iter().for_each(|(name, bytes)| site.put(name, bytes));
    for point in ["order-given@5", "commit-begin", "order-given", "commit-begin", "order-given"] {
        site.variable("TIDEMILL_FAILPOINT", Some(&format!("{point}=kill")));
        let ended = site.once(Shape::new(1, 2));
        assert_eq!(ended.code, None, "{point}: it was not killed: {ended}");
        assert_eq!(markers(&site), 0);
    }
    site.variable("TIDEMILL_FAILPOINT", None);
    let ended = site.once(Shape::new(1, 2));
    ended.expect_code(0);
    assert!(!ended.stderr.contains("runs alone"), "{ended}");
    assert_eq!(tree::difference(&expected(), &site.out()), None);
}

#[test]
fn a_crash_that_is_mended_in_between_sets_nothing_aside() {
    let mut site = Site::new(NODE, PIPELINE);
    innocents().iter().for_each(|(name, bytes)| site.put(name, bytes));
    site.put(GUILTY, &row(7));
    site.trial(Some(&format!("panic={GUILTY}")));
    for _ in 0..2 {
        assert_eq!(site.once(Shape::ALONE).code, Some(70));
    }
    site.trial(None);
    // Two strikes: every file that was under way runs alone, and all are well.
    let ended = site.once(Shape::ALONE);
    ended.expect_code(0).expect_said("runs alone");
    assert_eq!(site.quarantine(), [""; 0]);
    let mut inputs = innocents();
    inputs.insert(GUILTY.into(), row(7));
    assert_eq!(tree::difference(&inputs, &tree::read(&site.folder("processed"))), None);
}
