//! Retry: a file of quarantine/ is tried again, as a new submission under its old name; there is
//! always exactly one of the two.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;

use tidemill_client::Phase;
use tidemill_tests::{Shape, Site, Tree, tree};

const NODE: &str = env!("CARGO_BIN_EXE_node");

const PIPELINE: &str = "
pipeline: retry
sources:
  rows: { format: jsonl, fields: { host: string, n: int }, max_rejects: 0 }
operators:
  totals: { from: rows, aggregate: { by: [host], compute: { total: sum(n) } } }
sinks:
  rows: { from: rows, files: { format: raw } }
  totals: { from: totals, table: { format: csv, key: [host] } }
";

const GOOD: &[u8] = b"{\"host\":\"a\",\"n\":1}\n";
const BAD: &[u8] = b"{\"host\":\"b\",\"n\":2}\nnot json\n";
const MENDED: &[u8] = b"{\"host\":\"b\",\"n\":2}\n";

fn expected() -> Tree {
    let files: [(&str, &[u8]); 3] = [
        ("rows/bad.jsonl", MENDED),
        ("rows/good.jsonl", GOOD),
        ("totals/totals.csv", b"host,total\na,1\nb,2\n"),
    ];
    files.map(|(path, bytes)| (path.to_owned(), bytes.to_vec())).into()
}

#[track_caller]
fn check_done(site: &Site) {
    assert_eq!(tree::difference(&expected(), &site.out()), None);
    assert_eq!(site.names("processed"), ["bad.jsonl", "good.jsonl"]);
    for folder in ["unprocessed", "underprocess", "quarantine"] {
        assert_eq!(site.names(folder), [""; 0], "{folder}/");
    }
}

#[test]
fn a_mended_file_is_tried_again_under_its_old_name() {
    let site = Site::new(NODE, PIPELINE);
    let running = site.start(Shape::new(1, 2));
    running.wait(running.submit("good.jsonl", GOOD).id);
    let bad = running.wait(running.submit("bad.jsonl", BAD).id);
    assert_eq!(bad.phase, Phase::Quarantined);
    let id = bad.id.to_string();

    // As it is it fails again, as another submission.
    let again = running.call(&["retry", &id, "--json"]);
    let second = again.expect_code(0).json();
    assert_eq!(second["retry_of"], bad.id);
    let second = running.wait(second["id"].as_u64().unwrap());
    assert_eq!((second.phase, second.retry_of), (Phase::Quarantined, Some(bad.id)));
    assert_eq!(site.names("quarantine"), ["bad.jsonl", "bad.jsonl.reason.json"]);

    // The first was tried already; one that is committed, or is none, cannot be.
    let said = |arguments: &[&str], text: &str| {
        let ended = running.call(arguments);
        assert_eq!(ended.code, Some(1), "{ended}");
        assert!(ended.stdout.contains(text), "{ended}");
    };
    said(&["retry", &id], &format!("it was tried again as {}", second.id));
    said(&["retry", "1"], "it is committed");
    said(&["retry", "99"], "not_found");

    fs::write(site.folder("quarantine").join("bad.jsonl"), MENDED).unwrap();
    let third = running.call(&["retry", "--all", "--code", "too_many_rejects"]);
    assert!(third.expect_code(0).stdout.starts_with(&second.id.to_string()), "{third}");
    let none = running.call(&["retry", "--all", "--code", "gzip"]);
    assert!(none.expect_code(0).stdout.contains("nothing in quarantine matches"), "{none}");
    running.wait_for_finished(4);

    let files = running.call(&["files"]);
    let shown = files.stdout.lines().filter(|line| line.contains("bad.jsonl")).count();
    assert_eq!(shown, 3, "{files}");
    assert!(files.stdout.contains(&format!("bad.jsonl (retry of {})", second.id)), "{files}");
    assert!(files.stdout.contains(&format!("(retried as {})", second.id)), "{files}");
    running.stop();
    check_done(&site);
    // The next life knows no more than the journal, and that is enough.
    site.once(Shape::ALONE).expect_code(0);
    check_done(&site);
}

#[test]
fn a_file_that_was_taken_out_of_quarantine_cannot_be_tried_again() {
    let site = Site::new(NODE, PIPELINE);
    let running = site.start(Shape::ALONE);
    let bad = running.wait(running.submit("bad.jsonl", BAD).id);
    fs::remove_file(site.folder("quarantine").join("bad.jsonl")).unwrap();
    let ended = running.call(&["retry", &bad.id.to_string()]);
    assert_eq!(ended.code, Some(1));
    assert!(ended.stdout.contains("its file is not in quarantine/"), "{ended}");
    running.stop();
}

/// Killed between the steps of a retry: the file is in quarantine/ with its reason, or it is on its
/// way; never both, never neither.
#[test]
fn a_retry_that_is_killed_leaves_exactly_one_of_the_two() {
    for (failpoint, accepted) in
        [("retry-accepted", true), ("retry-moved", true), ("order-given@3", true)]
    {
        let mut site = Site::new(NODE, PIPELINE);
        site.put("good.jsonl", GOOD);
        site.put("bad.jsonl", BAD);
        site.once(Shape::ALONE).expect_code(3);
        fs::write(site.folder("quarantine").join("bad.jsonl"), MENDED).unwrap();
        let quarantined = site.quarantine();
        assert_eq!(quarantined.len(), 1, "{quarantined:?}");
        let turn = if failpoint.starts_with("order") { "order-given@2" } else { failpoint };
        site.variable("TIDEMILL_FAILPOINT", Some(&format!("{turn}=kill")));
        let running = site.start(Shape::ALONE);
        let listed = running.ask(running.client().list(&Default::default())).unwrap();
        let bad = listed.submissions.iter().find(|one| one.name == "bad.jsonl").unwrap().id;
        let lost = running.call(&["retry", &bad.to_string()]);
        assert_eq!(lost.code, Some(1), "{lost}");
        assert_eq!(running.ended().code, None, "{failpoint}: it was not killed");
        site.variable("TIDEMILL_FAILPOINT", None);
        let ended = site.once(Shape::new(1, 2));
        assert!(accepted);
        ended.expect_code(0);
        check_done(&site);
    }
}
