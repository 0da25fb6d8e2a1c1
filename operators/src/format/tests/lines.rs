//! Text, cutting, and raw runs.

use proptest::prelude::*;

use super::*;

#[track_caller]
fn check(bytes: &[u8], rows: &str, rejects: &str) {
    let plan = plan(Format::Text, "line string");
    let said = said(&mut Parser::new(plan.clone()), &plan, bytes, None);
    let expected: String =
        rows.split('|').map(|line| format!("{{\"line\":\"{line}\"}}\n")).collect();
    assert_eq!(said.rows, if rows == "-" { "" } else { &expected });
    assert_eq!(said.rejects, rejects);
}

#[test]
fn every_line_of_text_is_a_record() {
    check(b"", "-", "");
    check(b"one", "one", "");
    check(b"one\ntwo\r\n", "one|two", "");
    check(b"\n\nthree\n", "||three", "");
    check(b"a\rb\nc\r", "a\\rb|c\\r", "");
    check(
        "a line longer than twelve bytes: ä\n".as_bytes(),
        "a line longer than twelve bytes: ä",
        "",
    );
    check(b"good\nb\xffd\ngood\n", "good|good", "1@5 utf8: not UTF-8 at column 2\n");
    let long = "x".repeat(1001);
    let reason = "0@0 too_long: record of 1001 bytes, at most 1000 are taken\n";
    check(format!("{long}\nok\n").as_bytes(), "ok", reason);
    check(long.as_bytes(), "-", reason);
    check(&long.as_bytes()[1..], &long[1..], "");
}

#[test]
fn raw_text_may_be_any_bytes() {
    let plan = plan(Format::Text, "");
    let said = said(&mut Parser::new(plan.clone()), &plan, b"\xff\xfe\n\0\n", None);
    assert_eq!((said.rows.as_str(), said.records), ("{}\n{}\n", 2));
}

#[test]
fn a_long_reject_is_cut() {
    let mut plan = plan(Format::Text, "line string");
    plan.record_bytes_max = 10;
    let bytes = Buffer::from_vec(vec![b'x'; 100_000]);
    let parsed = Parser::new(plan).parse(&bytes, 0..100_000, None);
    assert_eq!(parsed.rejects[0].raw.len(), crate::reject::REJECT_RAW_BYTES_MAX);
}

fn csv(multiline: bool) -> Format {
    Format::Csv(CsvOptions { multiline, ..CsvOptions::default() })
}

#[test]
fn chunks_are_cut_at_record_ends() {
    #[track_caller]
    fn check(format: &Format, bytes: &[u8], start: Option<usize>, end: Option<usize>) {
        assert_eq!(record_start(format, bytes), start);
        assert_eq!(last_record_end(format, bytes, false), end);
        let all = (!bytes.is_empty()).then_some(bytes.len());
        assert_eq!(last_record_end(format, bytes, true), all);
    }
    for format in [Format::Text, Format::Jsonl, csv(false)] {
        check(&format, b"", None, None);
        check(&format, b"abc", None, None);
        check(&format, b"a\nbc\nd", Some(2), Some(5));
        check(&format, b"\"a\nb\"\nd", Some(3), Some(6));
    }
    check(&csv(true), b"a\nb\nc", None, Some(4));
    check(&csv(true), b"a,\"b\nc\"\nd", None, Some(8));
    check(&csv(true), b"a,\"b\nc\nd\n", None, None);
    check(&csv(true), b"x\na,\"b\nc\nd\n", None, Some(2));
    check(&csv(true), b"x\ny\"\nz\n", None, Some(7));
    check(&csv(true), b"\"x\"y\nz\n", None, Some(7));
    check(&csv(true), b"\"x\"", None, None);
}

#[test]
fn a_header_ends_with_the_first_record() {
    #[track_caller]
    fn check(multiline: bool, bytes: &[u8], end: HeaderEnd) {
        assert_eq!(header_end(&plan(csv(multiline), ""), bytes), end);
    }
    assert_eq!(header_end(&plan(Format::Text, ""), b"a\n"), HeaderEnd::None);
    check(false, b"", HeaderEnd::Incomplete);
    check(false, b"a,b", HeaderEnd::Incomplete);
    check(false, b"a,b\n1,2\n", HeaderEnd::At(4));
    check(false, b"\r\n\na,b\r\n1,2\n", HeaderEnd::At(8));
    check(true, b"\"a\nb\",c\n1,2\n", HeaderEnd::At(8));
    check(true, b"\"a\nb", HeaderEnd::Incomplete);
}

#[test]
fn raw_runs_are_as_long_as_they_can_be() {
    let plan = plan(Format::Text, "");
    let buffer =
        Buffer::from(&b"a line of more than twelve bytes\nshort\nanother line of more bytes\n"[..]);
    let batch = Parser::new(plan).parse(&buffer, 0..buffer.len(), None).batch.unwrap();
    let raw = batch.raw.unwrap();
    assert_eq!(raw_runs(&raw).collect::<Vec<_>>(), [buffer.as_slice()]);
    let keep = arrow_array::BooleanArray::from(vec![true, false, true]);
    let kept = arrow_select::filter::filter(&raw, &keep).unwrap();
    let kept = kept.as_any().downcast_ref::<arrow_array::BinaryViewArray>().unwrap();
    assert_eq!(raw_runs(kept).count(), 2);
}

/// Copied to another process, the same record by several ways lies there one behind the other.
#[test]
fn a_record_without_a_line_end_is_the_end_of_a_run() {
    let last = "the last line of a file".as_bytes();
    let raw = arrow_array::BinaryViewArray::from_iter_values([last, last]);
    assert_eq!(raw_runs(&raw).collect::<Vec<_>>(), [last, last]);
}

proptest! {
    #[test]
    fn raw_runs_of_everything_are_the_input(lines in "([a-z]{0,20}\r?\n){0,20}[a-z]{0,20}") {
        let plan = plan(Format::Text, "");
        let buffer = Buffer::from(lines.as_bytes());
        let batch = Parser::new(plan).parse(&buffer, 0..buffer.len(), None).batch;
        let raw: Vec<u8> = batch.iter().flat_map(|b| raw_runs(b.raw.as_ref().unwrap())).flatten().copied().collect();
        prop_assert_eq!(raw, lines.into_bytes());
    }
}
