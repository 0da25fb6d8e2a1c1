//! Rejects: a bad record is told with its line and its byte, wherever a big file was cut, and its
//! neighbours are unharmed. The files are made here: each is longer than several pieces.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fmt::Write as _;
use std::io::Write as _;

use serde_json::json;
use tidemill_tests::{Shape, Site, Tree, tree};

const NODE: &str = env!("CARGO_BIN_EXE_node");

/// Longer than two pieces.
const BIG_BYTES: usize = 1_300_000;

/// A file under construction, with what must come of it.
#[derive(Default)]
struct Made {
    text: String,
    kept: String,
    rejects: String,
    lines: u64,
}

impl Made {
    /// Adds a record of one or more lines that is kept.
    fn good(&mut self, record: &str) {
        self.kept += record;
        self.add(record);
    }

    /// Adds a record that is rejected.
    fn bad(&mut self, file: &str, operator: &str, code: &str, reason: &str, record: &str) {
        let reject = json!({
            "file": file, "line": self.lines + 1, "offset": self.text.len(),
            "operator": operator, "round": 0, "code": code, "message": reason,
            "raw": record.trim_end_matches('\n'),
        });
        let _ = writeln!(self.rejects, "{reject}");
        self.add(record);
    }

    /// Adds what is neither: a header, a blank line.
    fn add(&mut self, text: &str) {
        self.text += text;
        self.lines += text.matches('\n').count() as u64;
    }
}

#[track_caller]
fn check(pipeline: &str, name: &str, stored: &str, bytes: &[u8], made: &Made) {
    let stem = name.trim_end_matches(".gz").trim_end_matches(".zst");
    let rejects =
        if stored.ends_with(".jsonl") { stem.to_owned() } else { format!("{stem}.jsonl") };
    let expected = Tree::from([
        (format!("kept/{stem}"), made.kept.clone().into_bytes()),
        (format!("rejects/{rejects}"), made.rejects.clone().into_bytes()),
    ]);
    for shape in [Shape::ALONE, Shape::new(1, 3), Shape::new(2, 2)] {
        let site = Site::new(NODE, pipeline);
        site.put(name, bytes);
        site.once(shape).expect_code(0);
        if let Some(difference) = tree::difference(&expected, &site.out()) {
            panic!("{name}, {shape}:\n{difference}");
        }
    }
}

/// JSON lines that are rejected by the source, by a filter and by a `parse`, in turns.
fn jsonl(file: &str) -> Made {
    let mut made = Made::default();
    let mut number = 0;
    while made.text.len() < BIG_BYTES {
        number += 1;
        let user = format!("user-{number}");
        match number % 1_009 {
            1 => made.bad(file, "rows", "syntax", "expected ident at column 2", "nonsense\n"),
            2 => {
                let record = format!("{{\"user\":\"{user}\",\"n\":0}}\n");
                made.bad(file, "divided", "expression", "division by zero", &record);
            }
            3 => {
                let reason = "column user does not match the pattern";
                made.bad(file, "parsed", "no_match", reason, "{\"user\":\"nobody\",\"n\":1}\n");
            }
            4 => made.add("\n"),
            _ => {
                let note = "x".repeat(number % 90);
                made.good(&format!("{{\"user\":\"{user}\",\"n\":{number},\"note\":\"{note}\"}}\n"));
            }
        }
    }
    made.bad(file, "rows", "syntax", "expected ident at column 2", "no newline");
    made
}

const JSONL: &str = r"
pipeline: rejects
sources:
  rows: { format: jsonl, fields: { user: string, n: int } }
operators:
  divided: { from: rows, filter: 10000000 / n >= 0 }
  parsed: { from: divided, parse: { column: user, regex: '^user-(?<id>\d+)$' } }
sinks:
  kept: { from: parsed, files: { format: raw } }
";

#[test]
fn a_reject_knows_its_line_and_byte_in_a_file_that_is_cut() {
    let made = jsonl("big.jsonl");
    check(JSONL, "big.jsonl", "big.jsonl", made.text.as_bytes(), &made);
}

#[test]
fn rejected_records_read_as_rows_are_those_of_rejects_in_the_order_of_the_file() {
    let mut made = jsonl("big.jsonl");
    let handled = "  handled: { from: \"*.errors\", filter: line > 0 and round = 0 }\nsinks:\n  \
                   handled: { from: handled, files: { format: jsonl } }";
    let pipeline = JSONL.replace("sinks:", handled);
    let expected = Tree::from([
        ("kept/big.jsonl".to_owned(), std::mem::take(&mut made.kept).into_bytes()),
        ("handled/big.jsonl".to_owned(), std::mem::take(&mut made.rejects).into_bytes()),
    ]);
    for shape in [Shape::ALONE, Shape::new(2, 2)] {
        let site = Site::new(NODE, &pipeline);
        site.put("big.jsonl", made.text.as_bytes());
        site.once(shape).expect_code(0);
        if let Some(difference) = tree::difference(&expected, &site.out()) {
            panic!("{shape}:\n{difference}");
        }
    }
}

#[test]
fn a_reject_knows_its_line_and_byte_in_a_gzip_file() {
    let made = jsonl("big.jsonl.gz");
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(made.text.as_bytes()).unwrap();
    check(JSONL, "big.jsonl.gz", "big.jsonl", &encoder.finish().unwrap(), &made);
}

#[test]
fn a_reject_knows_its_line_and_byte_in_a_zstd_file() {
    let made = jsonl("big.jsonl.zst");
    let packed = zstd::encode_all(made.text.as_bytes(), 1).unwrap();
    check(JSONL, "big.jsonl.zst", "big.jsonl", &packed, &made);
}

#[test]
fn a_reject_knows_its_line_and_byte_behind_records_of_several_lines() {
    let mut made = Made::default();
    made.add("id,note\n");
    let mut number = 0;
    while made.text.len() < BIG_BYTES {
        number += 1;
        match number % 503 {
            7 => {
                let reason = "field id: expected int, found x at column 1";
                made.bad("big.csv", "rows", "field_type", reason, "x,\"two\nlines\"\n");
            }
            8 => made.bad(
                "big.csv",
                "rows",
                "field_count",
                "expected 2 fields, found 1",
                &format!("{number}\n"),
            ),
            9 => {
                made.good(&format!("{number},\"a \"\"quoted\"\" word,\r\n\n and {number}\"\n"));
            }
            _ => made.good(&format!("{number},{}\n", "y".repeat(number % 70))),
        }
    }
    let pipeline = "
pipeline: rejects
sources:
  rows: { format: csv, multiline: true, fields: { id: int, note: string } }
operators:
  numbered: { from: rows, filter: id > 0 }
sinks:
  kept: { from: numbered, files: { format: raw } }
";
    check(pipeline, "big.csv", "big.csv", made.text.as_bytes(), &made);
}

#[test]
fn a_reject_knows_its_line_and_byte_in_a_csv_file_that_is_cut() {
    let mut made = Made::default();
    made.add("\u{feff}id,note\r\n");
    let mut number = 0;
    while made.text.len() < BIG_BYTES {
        number += 1;
        match number % 701 {
            5 => {
                let reason = "expected 2 fields, found 3";
                made.bad("big.csv", "rows", "field_count", reason, &format!("{number},a,b\n"));
            }
            6 => made.good(&format!("{number},\"crlf, quoted\"\r\n")),
            7 => made.add("\r\n"),
            _ => made.good(&format!("{number},{}\n", "z".repeat(number % 80))),
        }
    }
    let pipeline = "
pipeline: rejects
sources:
  rows: { format: csv, fields: { id: int, note: string } }
sinks:
  kept: { from: rows, files: { format: raw } }
";
    check(pipeline, "big.csv", "big.csv", made.text.as_bytes(), &made);
}

#[test]
fn a_record_longer_than_a_piece_is_rejected_or_kept_whole() {
    let mut made = Made::default();
    made.good("before\n");
    made.good(&format!("{}\n", "k".repeat(900_000)));
    made.good("between\n");
    let long = "l".repeat(1_500_000);
    let offset = made.text.len();
    made.add(&format!("{long}\n"));
    made.good("after\n");
    let reject = json!({
        "file": "big.txt", "line": 4, "offset": offset, "operator": "rows", "round": 0, "code": "too_long",
        "message": "record longer than 1048576 bytes (max_record)", "raw": &long[..64 << 10],
    });
    made.rejects = format!("{reject}\n");
    let pipeline = "
pipeline: rejects
sources:
  rows: { format: text }
sinks:
  kept: { from: rows, files: { format: raw } }
";
    check(pipeline, "big.txt", "big.txt", made.text.as_bytes(), &made);
    let packed = zstd::encode_all(made.text.as_bytes(), 1).unwrap();
    made.rejects = made.rejects.replace("big.txt", "big.txt.zst");
    check(pipeline, "big.txt.zst", "big.txt", &packed, &made);
}

/// What is told of the records of a key does not depend on the number that their file has in a home.
#[test]
fn a_trouble_of_a_state_is_told_alike_whatever_number_its_file_has() {
    let yaml = "\
pipeline: p
sources:
  ev: { format: csv, pattern: \"ev*\", fields: { k: string, ts: int, n: int } }
  other: { format: csv, pattern: \"other*\", fields: { k: string } }
operators:
  st:
    from: ev
    state:
      { key: [k], order: [ts], initial: a, vars: { c: { type: int, initial: 0 } },
        transitions: [ { set: { c: 100 / n } } ], add: { c: c } }
sinks:
  o: { from: st.a, files: { format: csv } }
  others: { from: other, files: { format: csv } }
";
    let told = |before: usize| {
        let site = Site::new(NODE, yaml);
        for number in 0..before {
            site.put(&format!("other{number}.csv"), format!("k\nx{number}\n").as_bytes());
        }
        site.once(Shape::ALONE).expect_code(0);
        site.put("ev0.csv", b"k,ts,n\na,1,0\nb,2,1\na,3,0\n");
        site.once(Shape::new(1, 2)).expect_code(0);
        String::from_utf8(site.out()["rejects/ev0.csv.jsonl"].clone()).unwrap()
    };
    let alone = told(0);
    assert!(alone.contains("\"byte 7 of the record's file: division by zero\""), "{alone}");
    assert_eq!(alone.lines().count(), 2, "{alone}");
    assert_eq!(told(11), alone);
}
