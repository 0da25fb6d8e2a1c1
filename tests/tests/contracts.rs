//! Contracts: a file that breaks what its source promises leaves no trace, wherever it was cut and however
//! it is packed, and a correction that breaks it changes nothing.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fmt::Write as _;
use std::io::Write as _;

use tidemill_client::{Phase, Replaces, Submission, SubmitOptions};
use tidemill_tests::{Running, Shape, Site, Steps, Verb, steps, tree};

const NODE: &str = env!("CARGO_BIN_EXE_node");

const PIPELINE: &str = "
pipeline: payments
sources:
  payments:
    format: csv
    fields: { id: int, amount: float }
    expect: { \"id <> 13\": reject }
    contract:
      header: \"^HDR\"
      trailer: { lines: 2, regex: \"^END\\n(?<n>[0-9]+),(?<sum>.*)$\", count: n, totals: { amount: sum } }
operators:
  sums: { from: payments, aggregate: { by: [], compute: { rows: count(*), last: max(id) } } }
sinks:
  copy: { from: payments, files: { format: raw } }
  sums: { from: sums, table: { format: csv, key: [] } }
";

/// A piece of a file, in bytes: where big files are cut.
const PIECE: usize = 512 << 10;

/// A whole file whose trailer begins `at` bytes from its beginning, and its records.
fn file(at: usize, said: i64) -> (Vec<u8>, Vec<u8>) {
    let mut text = String::from("HDR,2026\nid,amount\n");
    let begin = text.len();
    let (mut records, mut cents) = (0, 0);
    while text.len() + 40 < at {
        records += 1;
        cents += records % 1000;
        let _ = writeln!(text, "{},{}.{:02}", 100 + records, records % 1000 / 100, records % 100);
    }
    // One last record that ends where the trailer is wanted.
    let zeros = "0".repeat(at - text.len() - "7,0.\n".len());
    let _ = writeln!(text, "7,0.{zeros}");
    records += 1;
    let rows = text.as_bytes()[begin..].to_vec();
    let _ = write!(text, "END\n{},{}.{:02}\n", records + said, cents / 100, cents % 100);
    (text.into_bytes(), rows)
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn a_trailer_is_found_wherever_a_file_is_cut() {
    // The trailer lies before, on and behind a cut between two pieces.
    let places = [PIECE - 30, PIECE - 9, PIECE - 1, PIECE, PIECE + 1, 90];
    for shape in [Shape::ALONE, Shape::new(1, 3), Shape::new(2, 2)] {
        let site = Site::new(NODE, PIPELINE);
        let mut expected = tidemill_tests::Tree::new();
        let mut rejected = Vec::new();
        for (number, at) in places.into_iter().enumerate() {
            let (good, rows) = file(at, 0);
            let (bad, _) = file(at, 1);
            site.put(&format!("{number}-plain.csv"), &good);
            site.put(&format!("{number}-gzip.csv.gz"), &gzip(&good));
            site.put(&format!("{number}-zstd.csv.zst"), &zstd::encode_all(&good[..], 1).unwrap());
            site.put(&format!("{number}-wrong.csv"), &bad);
            for name in ["plain", "gzip", "zstd"] {
                expected.insert(format!("copy/{number}-{name}.csv"), rows.clone());
            }
            rejected.push(format!("{number}-wrong.csv wrong_count"));
        }
        site.once(shape).expect_code(3);
        let mut out = site.out();
        let copies = out.iter().filter(|(name, _)| name.starts_with("copy/"));
        let copies: tidemill_tests::Tree =
            copies.map(|(name, bytes)| (name.clone(), bytes.clone())).collect();
        assert_eq!(tree::difference(&expected, &copies), None, "{shape}");
        let aside = site.quarantine();
        for (found, wanted) in aside.iter().zip(&rejected) {
            assert!(found.starts_with(wanted.as_str()), "{shape}: {found} is not {wanted}");
        }
        assert_eq!(aside.len(), rejected.len(), "{shape}: {aside:?}");
        // What failed left no trace in the sums either.
        let sums = out.remove("sums/sums.csv").unwrap();
        let rows: usize =
            expected.values().map(|rows| rows.iter().filter(|byte| **byte == b'\n').count()).sum();
        let sums = String::from_utf8(sums).unwrap();
        assert!(sums.contains(&format!("\n{rows},")), "{shape}: {rows} rows: {sums}");
    }
}

fn replace(running: &Running<'_>, name: &str, bytes: &[u8]) -> Submission {
    let options = SubmitOptions { replaces: Replaces::SameName, ..SubmitOptions::default() };
    let sent = running.client().submit_bytes_with(name, bytes.to_vec(), options);
    running.wait(running.ask(sent).unwrap().id)
}

#[test]
fn a_correction_that_breaks_its_contract_changes_nothing() {
    let first = b"HDR,1\nid,amount\n1,0.1\n13,5\n2,0.2\nEND\n3,5.3\n";
    let second = b"HDR,2\nid,amount\n4,1\nEND\n1,1\n";
    for shape in [Shape::new(1, 3), Shape::new(2, 2)] {
        let site = Site::new(NODE, PIPELINE);
        let running = site.start(shape);
        let old = running.wait(running.submit("a.csv", first).id);
        assert_eq!(old.phase, Phase::Committed, "{:?}", old.reason);
        running.wait(running.submit("b.csv", second).id);
        let bad = replace(&running, "a.csv", b"HDR,2\nid,amount\n4,1\nEND\n1,2\n");
        assert_eq!(bad.phase, Phase::Quarantined);
        assert_eq!(bad.reason.unwrap().code, "wrong_total");
        let now = running.ask(running.client().get(old.id)).unwrap();
        assert_eq!(now.replaced_by, None, "the old version stands");
        // The old rows go the way they came, without the one that was rejected.
        let good = replace(&running, "a.csv", second);
        assert_eq!((good.phase, good.replaces), (Phase::Committed, Some(old.id)));
        running.stop();
        let left = Steps::default().then(Verb::Add, &[("a.csv", second), ("b.csv", second)]);
        let expected = steps::fresh(NODE, PIPELINE, &left.survivors(), Shape::ALONE);
        assert_eq!(tree::difference(&expected, &site.out()), None, "{shape}");
    }
}

#[test]
fn a_record_that_stops_the_pipeline_stops_it_until_somebody_resumes_it() {
    let yaml = PIPELINE.replace("reject }\n    contract", "stop_pipeline }\n    contract");
    let good = b"HDR,2\nid,amount\n4,1\nEND\n1,1\n";
    let mut site = Site::new(NODE, &yaml);
    site.announce("stopped: one of its records may not be rejected");
    let running = site.start(Shape::new(1, 2));
    let bad = running.submit("a.csv", b"HDR,2\nid,amount\n13,1\nEND\n1,1\n");
    let bad = running.wait(bad.id);
    assert_eq!(bad.reason.unwrap().code, "stopped_pipeline");
    assert_eq!(running.conditions(), ["paused"]);
    let stats = running.call(&["stats"]);
    assert!(stats.stdout.contains("tidemill resume payments"), "{stats}");
    // Nothing forgets it: not a kill, not a restart.
    running.kill();
    site.put("b.csv", good);
    let running = site.start(Shape::new(1, 2));
    assert_eq!(running.conditions(), ["paused"]);
    running.call(&["resume", "payments"]).expect_code(0);
    running.wait_for_finished(2);
    running.stop();
    assert_eq!(site.names("processed"), ["b.csv"]);
    assert_eq!(site.quarantine().len(), 1);
}

#[test]
fn a_file_that_one_record_fails_leaves_no_trace_of_its_neighbours_pieces() {
    // The bad record is the last one of the last piece; all others were long through.
    let yaml = PIPELINE.replace("reject }\n    contract", "fail_file }\n    contract");
    let (good, rows) = file(3 * PIECE, 0);
    let text = String::from_utf8(good.clone()).unwrap();
    let (before, trailer) = text.rsplit_once("END\n").unwrap();
    let bad = format!("{before}13,0\nEND\n{trailer}");
    let line = before.lines().count() + 1;
    for shape in [Shape::ALONE, Shape::new(2, 2)] {
        let site = Site::new(NODE, &yaml);
        site.put("a-bad.csv", bad.as_bytes());
        site.put("b-good.csv", &good);
        site.once(shape).expect_code(3);
        let why = format!(
            "a-bad.csv rejected_record: a-bad.csv: line {line}, byte {}: payments: expect: expected \
             id <> 13: 13,0",
            before.len()
        );
        assert_eq!(site.quarantine(), [why], "{shape}");
        let out = site.out();
        assert!(out.get("copy/b-good.csv") == Some(&rows) && !out.contains_key("copy/a-bad.csv"));
        let rows = rows.iter().filter(|byte| **byte == b'\n').count();
        let sums = String::from_utf8(out["sums/sums.csv"].clone()).unwrap();
        assert!(sums.contains(&format!("\n{rows},")), "{shape}: {rows} rows: {sums}");
    }
}
