//! Doctor: what `tidemill doctor` says of homes that are healthy, running, killed and damaged.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;

use tidemill_tests::{Ended, Shape, Site, tree};

const NODE: &str = env!("CARGO_BIN_EXE_node");

const PIPELINE: &str = "pipeline: orders
sources:
  rows: { format: csv, fields: { shop: string, amount: int } }
operators:
  by_shop: { from: rows, aggregate: { by: [shop], compute: { amount: sum(amount) } } }
sinks:
  rows: { from: rows, files: { format: jsonl } }
  by_shop: { from: by_shop, table: { format: csv, key: [shop] } }
";

/// Returns a site with two committed files, one of them with a rejected record and a big output, and
/// one quarantined file.
fn site() -> Site {
    let site = Site::new(NODE, PIPELINE);
    let mut big = String::from("shop,amount\nnorth,none\n");
    (0..8_000).for_each(|amount| big += &format!("north,{amount}\n"));
    site.put("big.csv", big.as_bytes());
    site.put("small.csv", b"shop,amount\nsouth,2\n");
    site.put("torn.csv", b"\x1f\x8bno gzip at all");
    site.once(Shape::new(1, 2)).expect_code(3);
    site
}

#[track_caller]
fn examine(site: &Site, more: &[&str]) -> Ended {
    let mut arguments = vec!["doctor", "home"];
    arguments.extend(more);
    site.call(&arguments)
}

/// Returns `CODE xCOUNT` for each finding, the worst first.
#[track_caller]
fn findings(site: &Site, more: &[&str]) -> Vec<String> {
    let mut arguments = vec!["--json"];
    arguments.extend(more);
    let found = examine(site, &arguments).json();
    let line = |finding: &serde_json::Value| {
        format!("{} x{}", finding["code"].as_str().unwrap(), finding["count"])
    };
    found["findings"].as_array().unwrap().iter().map(line).collect()
}

#[test]
fn a_healthy_home_is_told_to_be_healthy() {
    let site = site();
    let before = tree::read(&site.home());
    for more in [&[][..], &["--deep"]] {
        let ended = examine(&site, more);
        ended.expect_code(0);
        assert!(ended.stdout.ends_with("\nhealthy\n"), "{ended}");
        assert!(ended.stdout.contains("2 committed, 1 quarantined, 0 under way"), "{ended}");
        assert!(ended.stdout.contains("1 quarantined as bad_format"), "{ended}");
        assert_eq!(findings(&site, more), ["D-QUARANTINE x1"]);
    }
    assert_eq!(tree::difference(&before, &tree::read(&site.home())), None, "it changed something");
}

#[test]
fn a_home_of_a_running_server_is_examined_while_it_works() {
    let site = site();
    let running = site.start(Shape::new(1, 2));
    let mut facts = serde_json::Value::Null;
    for round in 0..4 {
        for file in 0..60 {
            site.put(&format!("more-{round}-{file}.csv"), b"shop,amount\nwest,1\neast,x\n");
        }
        let found = examine(&site, &["--json", "--deep"]);
        found.expect_code(0);
        facts = found.json()["facts"].clone();
    }
    assert!(facts["running"].as_u64().is_some_and(|pid| pid > 0), "{facts}");
    running.wait_for_finished(3 + 240);
    let found = examine(&site, &["--json"]);
    found.expect_code(0);
    assert_eq!(found.json()["facts"]["receipts"], 242);
    running.stop();
    assert!(examine(&site, &["--json"]).json()["facts"]["running"].is_null());
}

#[test]
fn a_home_that_was_killed_and_one_that_recovered_need_nobody() {
    let site = site();
    for round in 0..3 {
        let running = site.start(Shape::new(1, 2));
        let mut changes = running.watch();
        for file in 0..40 {
            site.put(&format!("k-{round}-{file}.csv"), b"shop,amount\nwest,1\neast,x\n");
        }
        running.ask(changes.next()).expect("the stream ended").unwrap();
        running.kill();
        examine(&site, &["--deep"]).expect_code(0);
    }
    let running = site.start(Shape::ALONE);
    running.wait_for_finished(3 + 120);
    running.stop();
    examine(&site, &["--deep"]).expect_code(0);
    let mut found = findings(&site, &["--deep"]);
    // A server that ends well may leave a checkpoint.
    found.retain(|finding| !finding.starts_with("D-CHECKPOINTS"));
    assert_eq!(found, ["D-QUARANTINE x1"]);
}

#[test]
fn each_damage_is_named_and_explained() {
    #[track_caller]
    fn check(damage: impl Fn(&Path), more: &[&str], code: i32, expected: &str) {
        let site = site();
        damage(&site.home());
        let ended = examine(&site, more);
        ended.expect_code(code);
        assert!(ended.stdout.contains(expected), "{expected:?} is not in {ended}");
        assert!(
            ended.stdout.contains("  means: ") && ended.stdout.contains("  do:    "),
            "{ended}"
        );
    }
    check(
        |home| fs::remove_file(home.join("orders/out/rows/big.csv.jsonl")).unwrap(),
        &[],
        1,
        "warning D-OUTPUT-MISSING: a committed output is not in out/ (orders)\n    1 orders/out/rows/big.csv.jsonl",
    );
    check(
        |home| {
            let path = home.join("orders/out/rows/big.csv.jsonl");
            let mut bytes = fs::read(&path).unwrap();
            bytes[1000] ^= 1;
            fs::write(path, bytes).unwrap();
        },
        &["--deep"],
        65,
        "damage D-OUTPUT-CHANGED",
    );
    check(
        |home| fs::write(home.join("orders/processed/small.csv"), "shop").unwrap(),
        &[],
        65,
        "damage D-INPUT-CHANGED",
    );
    check(
        |home| fs::remove_file(home.join("orders/processed/small.csv")).unwrap(),
        &[],
        1,
        "warning D-INPUT-MISSING",
    );
    check(
        |home| fs::write(home.join("orders/out/rows/\u{1b}[2J.jsonl"), "").unwrap(),
        &[],
        1,
        "orders/out/rows/\\u{1b}[2J.jsonl",
    );
    check(
        |home| fs::write(home.join("orders/underprocess/mine.csv"), "").unwrap(),
        &[],
        1,
        "warning D-INPUT-UNKNOWN",
    );
    check(
        |home| {
            let path = home.join("journal.db");
            let mut bytes = fs::read(&path).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle..middle + 8192].fill(0x5a);
            fs::write(path, bytes).unwrap();
        },
        &[],
        65,
        "damage D-JOURNAL-DAMAGED",
    );
    check(|home| fs::remove_file(home.join("journal.db")).unwrap(), &[], 65, "D-JOURNAL-MISSING");
}

#[test]
fn what_is_no_home_is_a_mistake_of_usage() {
    let site = Site::new(NODE, PIPELINE);
    let ended = site.call(&["doctor", "nowhere"]);
    ended.expect_code(2).expect_said("there is no home at nowhere");
}

#[test]
fn a_checkpoint_that_is_damaged_or_gone_is_told() {
    let mut site = site();
    site.always(&["--checkpoint-every", "10ms"]);
    let mut running = site.start(Shape::ALONE);
    running.submit("more.csv", b"shop,amount\nwest,1\n");
    running.wait_for_checkpoint(4);
    running.stop();
    site.always(&["--checkpoint-every", "1h"]);
    let folder = site.home().join("ckpt/orders");
    let packs = || {
        let files = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
        let mut packs: Vec<_> =
            files.filter(|path| !path.to_string_lossy().contains("manifest")).collect();
        packs.sort();
        packs
    };
    let damaged = |more: &[&str]| {
        let found = findings(&site, more);
        found.into_iter().any(|finding| finding.starts_with("D-CHECKPOINT-DAMAGED"))
    };
    let pack = packs().first().unwrap().clone();
    let mut bytes = fs::read(&pack).unwrap();
    assert!(!damaged(&["--deep"]));
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&pack, &bytes).unwrap();
    assert!(damaged(&["--deep"]) && !damaged(&[]), "only its hash tells");
    fs::write(&pack, &bytes[..bytes.len() - 1]).unwrap();
    assert!(damaged(&[]));
    fs::remove_file(&pack).unwrap();
    assert!(damaged(&[]));
    examine(&site, &[]).expect_code(1);
    // The next start begins without it, and says nothing of it any more.
    site.once(Shape::ALONE).expect_code(0);
    assert!(!damaged(&["--deep"]));
}
