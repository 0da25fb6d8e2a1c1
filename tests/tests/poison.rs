//! Poison: a file that fails in its middle leaves no trace, however far its records had come. Its
//! neighbours' outputs, and the tables they share with it, are the same to the byte as in a run that
//! never saw it.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::Write as _;

use tidemill_tests::{Shape, Site, Tree, tree};

const NODE: &str = env!("CARGO_BIN_EXE_node");

/// Two aggregates, one behind the other, one behind a route; outputs of each input; rejects.
const PIPELINE: &str = "
pipeline: poison
sources:
  rows: { format: jsonl, fields: { host: string, n: int, d: int }LIMIT }
operators:
  split: { from: rows, route: { big: n >= 1000, small: else } }
  ratio: { from: split.big, filter: 1000 / d >= 0 }
  totals:
    from: [ratio, split.small]
    aggregate: { by: [host], compute: { rows: count(*), total: sum(n), most: max(n), share: sum(100 / d) } }
  of_totals: { from: totals, aggregate: { by: [rows], compute: { hosts: count(*), all: sum(total) } } }
sinks:
  big: { from: split.big, files: { format: raw } }
  small: { from: split.small, files: { format: csv } }
  totals: { from: totals, table: { format: csv, key: [host] } }
  of_totals: { from: of_totals, table: { format: csv, key: [rows] } }
";

const SHAPES: [Shape; 5] =
    [Shape::ALONE, Shape::new(1, 2), Shape::new(1, 3), Shape::new(2, 1), Shape::new(2, 2)];

fn pipeline(limit: &str) -> String {
    PIPELINE.replace("LIMIT", limit)
}

/// Rows with many different hosts, so that every worker has some of each file.
fn rows(seed: usize, count: usize) -> Vec<u8> {
    let mut text = String::new();
    for row in 0..count {
        let host = (seed * 31 + row * 17) % 211;
        let n = (seed * 7919 + row * 104_729) % 3000;
        let _ = writeln!(text, "{{\"host\":\"host-{host}\",\"n\":{n},\"d\":{}}}", 1 + row % 9);
    }
    text.into_bytes()
}

/// Good files before, between and behind the bad one; some longer than a piece.
fn neighbours() -> Tree {
    let counts = [10, 25_000, 300, 1, 40_000, 2_000];
    let name = |at: usize| format!("{}-good.jsonl", ["a", "c", "e", "n", "p", "z"][at]);
    counts.iter().enumerate().map(|(at, count)| (name(at), rows(at, *count))).collect()
}

fn undisturbed(limit: &str) -> Tree {
    let site = Site::new(NODE, &pipeline(limit));
    neighbours().iter().for_each(|(name, bytes)| site.put(name, bytes));
    site.once(Shape::ALONE).expect_code(0);
    site.out()
}

/// Puts bad files between the good ones: each fails with its code, and nothing else is different.
#[track_caller]
fn check(limit: &str, bad: &[(&str, Vec<u8>, &str)]) {
    let expected = undisturbed(limit);
    for shape in SHAPES {
        let site = Site::new(NODE, &pipeline(limit));
        neighbours().iter().for_each(|(name, bytes)| site.put(name, bytes));
        bad.iter().for_each(|(name, bytes, _)| site.put(name, bytes));
        site.once(shape).expect_code(3);
        let aside = site.quarantine();
        assert_eq!(aside.len(), bad.len(), "{shape}: {aside:?}");
        for ((name, _, reason), found) in bad.iter().zip(&aside) {
            let begin = format!("{name} {reason}");
            assert!(found.starts_with(&begin), "{shape}: {found:?} does not begin with {begin:?}");
        }
        if let Some(difference) = tree::difference(&expected, &site.out()) {
            panic!("{shape}: a file that failed left a trace:\n{difference}");
        }
        assert_eq!(site.names("underprocess"), [""; 0], "{shape}");
        // And a life that rebuilds its tables from processed/ comes to the same.
        site.once(shape).expect_code(0);
        assert_eq!(tree::difference(&expected, &site.out()), None, "{shape}: the next life");
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn packed_files_that_break_in_their_middle_leave_no_trace() {
    let whole = gzip(&rows(50, 60_000));
    let cut = whole[..whole.len() / 2].to_vec();
    let mut flipped = whole.clone();
    let at = flipped.len() * 9 / 10;
    flipped[at] ^= 0x40;
    let zst = zstd::encode_all(&rows(51, 60_000)[..], 1).unwrap();
    let bomb = {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(&rows(52, 5_000)).unwrap();
        for _ in 0..64 {
            encoder.write_all(&vec![b' '; 1 << 20]).unwrap();
        }
        encoder.finish().unwrap()
    };
    check(
        "",
        &[
            ("b-cut.jsonl.gz", cut, "bad_format"),
            ("d-flipped.jsonl.gz", flipped, "bad_format"),
            ("f-cut.jsonl.zst", zst[..zst.len() / 2].to_vec(), "bad_format"),
            ("m-bomb.jsonl.gz", bomb, "bomb"),
        ],
    );
}

/// So many good rows and so many that are rejected, by three operators in turn, spread all over.
fn with_rejects(seed: usize, good: usize, bad: usize) -> Vec<u8> {
    let text = rows(seed, good);
    let lines: Vec<&[u8]> = text.split_inclusive(|byte| *byte == b'\n').collect();
    let every = (good / bad.max(1)).max(1);
    let mut out = Vec::new();
    let mut left = bad;
    for (at, line) in lines.iter().enumerate() {
        out.extend_from_slice(line);
        if at % every == every - 1 && left > 0 {
            left -= 1;
            let line: &[u8] = match left % 3 {
                // The source cannot read it; a filter cannot divide; an aggregate cannot.
                0 => b"not json\n",
                1 => b"{\"host\":\"zero\",\"n\":2000,\"d\":0}\n",
                _ => b"{\"host\":\"zero\",\"n\":2,\"d\":0}\n",
            };
            out.extend_from_slice(line);
        }
    }
    out
}

#[test]
fn a_file_with_too_many_rejects_fails_as_a_whole() {
    let detail = "too_many_rejects: 301 of 30301 records were rejected; max_rejects is 300; \
                  the first: ";
    check(
        ", max_rejects: 300",
        &[
            ("b-over.jsonl", with_rejects(60, 30_000, 301), detail),
            ("m-all.jsonl", b"no\n".repeat(50_000), "too_many_rejects: 50000 of 50000 records"),
        ],
    );
}

#[test]
fn a_share_of_rejects_counts_over_the_whole_file() {
    let many = with_rejects(61, 10_000, 102);
    let reason = "too_many_rejects: 102 of 10102 records were rejected; max_rejects is 1 %";
    check(", max_rejects: 1%", &[("d-share.jsonl", many, reason)]);
}

#[test]
fn a_file_at_its_limit_is_committed_with_its_rejects() {
    for (limit, bad) in [("300", 300), ("1%", 100), ("100%", 300)] {
        let site = Site::new(NODE, &pipeline(&format!(", max_rejects: {limit}")));
        site.put("at.jsonl", &with_rejects(62, 9_900, bad));
        site.once(Shape::new(1, 2)).expect_code(0);
        let rejects = site.out().remove("rejects/at.jsonl").unwrap();
        assert_eq!(rejects.split(|byte| *byte == b'\n').count() - 1, bad, "{limit}");
    }
}

#[test]
fn a_limit_that_was_lowered_does_not_reach_what_is_committed() {
    let site = Site::new(NODE, &pipeline(""));
    site.put("many.jsonl", &with_rejects(63, 1_000, 300));
    site.once(Shape::ALONE).expect_code(0);
    let before = site.out();
    std::fs::write(site.yaml(), pipeline(", max_rejects: 0")).unwrap();
    site.once(Shape::new(1, 2)).expect_code(0);
    assert_eq!(tree::difference(&before, &site.out()), None);
}

#[test]
fn a_file_that_is_read_again_under_a_lower_limit_stays_committed() {
    // The aggregate is another one, so the state that was kept is of no use and the files are read again.
    let doubled = |limit: &str| pipeline(limit).replace("sum(n)", "sum(n * 2)");
    let fill = |site: &Site| {
        neighbours().iter().for_each(|(name, bytes)| site.put(name, bytes));
        site.put("many.jsonl", &with_rejects(64, 1_000, 300));
    };
    let fresh = Site::new(NODE, &doubled(""));
    fill(&fresh);
    fresh.once(Shape::ALONE).expect_code(0);
    for limit in [", max_rejects: 0", ", max_rejects: 1%"] {
        let site = Site::new(NODE, &pipeline(""));
        fill(&site);
        site.once(Shape::ALONE).expect_code(0);
        std::fs::write(site.yaml(), doubled(limit)).unwrap();
        site.put("next.jsonl", b"no\n");
        site.once(Shape::new(1, 2)).expect_code(3);
        // What is new meets the limit; what was committed before does not, and all of it counts.
        let aside = site.quarantine();
        assert_eq!(aside.len(), 1, "{limit}: {aside:?}");
        assert!(aside[0].starts_with("next.jsonl too_many_rejects: 1 of 1 records"), "{aside:?}");
        assert_eq!(tree::difference(&fresh.out(), &site.out()), None, "{limit}");
    }
}

#[test]
fn a_file_that_grows_while_it_is_read_leaves_no_trace() {
    let expected = undisturbed("");
    for shape in SHAPES {
        let site = Site::new(NODE, &pipeline(""));
        // Open for appending before it is taken, as by a writer that does not know when to stop.
        site.put("m-grows.jsonl", &rows(70, 50_000));
        let path = site.folder("unprocessed").join("m-grows.jsonl");
        let mut writer = OpenOptions::new().append(true).open(path).unwrap();
        let running = site.start(shape);
        neighbours().iter().for_each(|(name, bytes)| site.put(name, bytes));
        let mut changes = running.watch();
        let taken = |name: &str| site.names(name).iter().any(|one| one.ends_with("m-grows.jsonl"));
        while !taken("underprocess") && !taken("processed") && !taken("quarantine") {
            let _ = running.ask(changes.next());
        }
        let line = rows(71, 1);
        while !taken("processed") && !taken("quarantine") {
            writer.write_all(&line).unwrap();
        }
        running.wait_for_finished(7);
        running.stop();
        // Either it was read whole before the first new byte, or it left nothing.
        let aside = site.quarantine();
        let mut found = site.out();
        if aside.is_empty() {
            let big = found.remove("big/m-grows.jsonl").unwrap();
            let small = found.remove("small/m-grows.jsonl.csv");
            assert!(!big.is_empty() && small.is_some(), "{shape}");
            continue;
        }
        assert!(aside[0].starts_with("m-grows.jsonl changed"), "{shape}: {aside:?}");
        if let Some(difference) = tree::difference(&expected, &found) {
            panic!("{shape}: a file that failed left a trace:\n{difference}");
        }
    }
}
