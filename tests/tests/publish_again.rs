//! Publish again: outputs that the disk refuses for a while get visible later, in order and once, whatever
//! happens meanwhile.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::os::unix::fs::symlink;

use tidemill_client::Phase;
use tidemill_tests::process::wait_until;
use tidemill_tests::{PATIENCE, Running, Shape, Site, Tree, tree};

const NODE: &str = env!("CARGO_BIN_EXE_node");

fn pipeline(retry: &str) -> String {
    format!(
        "
pipeline: p
sources:
  rows: {{ format: csv, fields: {{ k: string, n: int }} }}
operators:
  sums: {{ from: rows, aggregate: {{ by: [k], compute: {{ total: sum(n) }} }} }}
sinks:
  rows: {{ from: rows, files: {{ format: raw }}, retry: {retry} }}
  sums: {{ from: sums, table: {{ format: csv, key: [k] }}, retry: {retry} }}
"
    )
}

const QUICKLY: &str = "{ transient: { attempts: 2, backoff: 10ms, max_backoff: 20ms } }";
const IN_AN_HOUR: &str = "{ transient: { backoff: 1h, max_backoff: 1h, deadline: 9h, jitter: 0 } }";
const ONCE_MORE: &str =
    "{ transient: { attempts: 2, backoff: 10ms, max_backoff: 20ms, then: stop } }";

/// A site whose folder of this sink leads to where nothing is.
fn broken(retry: &str, sink: &str) -> Site {
    let site = Site::new(NODE, &pipeline(retry));
    fs::create_dir_all(site.folder("out")).unwrap();
    symlink("elsewhere", site.folder("out").join(sink)).unwrap();
    site
}

/// Takes away what is in the way; the folder is made by whoever needs it.
fn mend(site: &Site, sink: &str) {
    fs::remove_file(site.folder("out").join(sink)).unwrap();
}

fn bytes(n: u64) -> Vec<u8> {
    format!("k,n\nx,{n}\n").into_bytes()
}

/// Everything that two files become, wherever the folders are.
#[track_caller]
fn check_outputs(site: &Site) {
    let text = |path: &str| fs::read_to_string(site.folder("out").join(path)).unwrap();
    assert_eq!((text("rows/a.csv"), text("rows/b.csv")), ("x,1\n".into(), "x,10\n".into()));
    assert_eq!(text("sums/sums.csv"), "k,total\nx,11\n");
    assert_eq!(site.names("processed"), ["a.csv", "b.csv"]);
    site.call(&["doctor", "home"]).expect_code(0);
}

#[track_caller]
fn refused(running: &Running<'_>, id: u64) {
    wait_until("it was tried several times", || {
        let file = running.ask(running.client().get(id)).unwrap();
        file.attempts.len() > 3
    });
}

#[test]
fn outputs_that_are_refused_for_a_while_get_visible_later_and_in_order() {
    for shape in [Shape::new(1, 2), Shape::new(2, 1)] {
        let site = broken(QUICKLY, "rows");
        let running = site.start(shape);
        let a = running.submit("a.csv", &bytes(1)).id;
        let b = running.submit("b.csv", &bytes(10)).id;
        running.wait_for_condition(Some("unpublished"));
        refused(&running, a);
        let file = running.ask(running.client().get(a)).unwrap();
        assert_eq!(
            (file.phase, file.waits_for.as_deref()),
            (Phase::Answered, Some("waiting to publish"))
        );
        let first = &file.attempts[0];
        assert_eq!(
            (first.number, &*first.class, &*first.reason.code),
            (1, "transient", "unpublished")
        );
        // What is behind it waits, and nothing is deployed over it.
        let behind = running.ask(running.client().get(b)).unwrap();
        assert!(behind.attempts.is_empty() && !behind.phase.is_final(), "{behind:?}");
        let other = pipeline(QUICKLY).replace("sum(n)", "sum(n * 2)");
        let refused = running.ask(running.client().deploy(&other, false, PATIENCE)).unwrap_err();
        assert_eq!(refused.word(), Some("no_deploy"), "{refused}");
        let dry = running.ask(running.client().deploy(&other, true, PATIENCE)).unwrap();
        let why = dry.refused.unwrap();
        assert!(why.contains("out/rows/a.csv"), "{why}");
        mend(&site, "rows");
        for id in [a, b] {
            assert_eq!(running.wait(id).phase, Phase::Committed, "{shape}");
        }
        running.wait_for_condition(None);
        let shown = running.call(&["file", &a.to_string()]);
        assert!(shown.stdout.contains("(transient) unpublished: out/rows/a.csv: "), "{shown}");
        running.stop();
        check_outputs(&site);
        site.once(Shape::ALONE).expect_code(0);
        check_outputs(&site);
    }
}

#[test]
fn what_comes_behind_a_refused_output_does_not_hurry_it() {
    let site = broken(IN_AN_HOUR, "rows");
    let running = site.start(Shape::ALONE);
    let a = running.submit("a.csv", &bytes(1)).id;
    running.wait_for_condition(Some("unpublished"));
    mend(&site, "rows");
    let behind = [("b.csv", 10), ("c.csv", 100)];
    for (name, n) in behind {
        let id = running.submit(name, &bytes(n)).id;
        wait_until("it is answered", || {
            running.ask(running.client().get(id)).unwrap().phase >= Phase::Answered
        });
    }
    // It would be visible by now if somebody had tried.
    let first = running.ask(running.client().get(a)).unwrap();
    assert_eq!((first.phase, first.attempts.len()), (Phase::Answered, 1));
    // A clean end tries once more, and so does not wait for the hour.
    running.stop();
    assert_eq!(site.names("processed"), ["a.csv", "b.csv", "c.csv"]);
    site.once(Shape::ALONE).expect_code(0);
}

#[test]
fn a_process_that_is_killed_while_outputs_wait_publishes_them_in_its_next_life() {
    let site = broken(QUICKLY, "rows");
    let running = site.start(Shape::ALONE);
    let a = running.submit("a.csv", &bytes(1)).id;
    running.submit("b.csv", &bytes(10));
    refused(&running, a);
    running.kill();
    mend(&site, "rows");
    site.once(Shape::new(1, 2)).expect_code(0);
    check_outputs(&site);
}

#[test]
fn a_clean_end_leaves_what_waits_to_the_next_start() {
    let site = broken(QUICKLY, "rows");
    let running = site.start(Shape::ALONE);
    let a = running.submit("a.csv", &bytes(1)).id;
    running.submit("b.csv", &bytes(10));
    refused(&running, a);
    running.stop();
    mend(&site, "rows");
    site.once(Shape::ALONE).expect_code(0);
    check_outputs(&site);
}

#[test]
fn a_run_that_ends_by_itself_does_not_wait_for_ever() {
    let site = broken(QUICKLY, "rows");
    site.put("a.csv", &bytes(1));
    site.put("b.csv", &bytes(10));
    let ended = site.once(Shape::ALONE);
    assert!(ended.expect_code(0).stdout.contains("2 files accepted and not finished"), "{ended}");
    mend(&site, "rows");
    site.once(Shape::ALONE).expect_code(0);
    check_outputs(&site);
}

#[test]
fn a_sink_that_says_so_ends_the_process_and_the_next_start_goes_on() {
    let mut site = broken(ONCE_MORE, "rows");
    site.announce("make outputs visible");
    site.put("a.csv", &bytes(1));
    site.put("b.csv", &bytes(10));
    site.once(Shape::ALONE).expect_code(74);
    mend(&site, "rows");
    site.once(Shape::ALONE).expect_code(0);
    check_outputs(&site);
}

#[test]
fn the_snapshot_of_a_table_is_written_again() {
    let site = broken(QUICKLY, "sums");
    let running = site.start(Shape::ALONE);
    let a = running.submit("a.csv", &bytes(1)).id;
    // Files do not wait for it.
    assert_eq!(running.wait(a).phase, Phase::Committed);
    running.wait_for_condition(Some("unpublished"));
    let b = running.submit("b.csv", &bytes(10)).id;
    assert_eq!(running.wait(b).phase, Phase::Committed);
    mend(&site, "sums");
    running.wait_for_condition(None);
    running.stop();
    check_outputs(&site);
    let out: Tree = tree::read(&site.folder("out"));
    assert!(out.keys().all(|path| !path.ends_with(".tmp")), "{:?}", out.keys());
}
