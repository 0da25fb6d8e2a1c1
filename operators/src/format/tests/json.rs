//! JSON lines: the rules, and the three readers against each other and against serde_json.

use proptest::prelude::*;
use serde_json::Value;
use serde_json::de::from_slice;

use super::*;

const FIELDS: &str = "host string, status int, ms float, ok bool, at timestamp, id int user.id";

/// Three readers must say the same. The line stands among others, so that the template is in use.
#[track_caller]
fn all_say(plan: &ReadPlan, before: &str, bytes: &[u8], after: &str) -> Said {
    let bytes = [before.as_bytes(), bytes, after.as_bytes()].concat();
    let [template, scanner, full] = [Reach::Template, Reach::Scanner, Reach::Full].map(|reach| {
        let mut parser = Parser::with_reach(plan.clone(), reach);
        let first = said(&mut parser, plan, &bytes, None);
        let again = said(&mut parser, plan, &bytes, None);
        assert_eq!(first, again, "a parser that has learned says something else");
        first
    });
    assert_eq!(template, scanner, "{}", String::from_utf8_lossy(&bytes));
    assert_eq!(scanner, full, "{}", String::from_utf8_lossy(&bytes));
    full
}

const USUAL: &str = concat!(
    r#"{"host":"web-01","status":200,"ms":1.5,"ok":true,"at":"2026-01-02T03:04:05Z","#,
    r#""skipped":"some text, more than sixteen","user":{"name":"ann","id":7},"tags":["a",1]}"#,
    "\n"
);

/// `values` are those of the record that is good, or `reason` is why it is not.
#[track_caller]
fn check(line: &[u8], values: &str, reason: &str) {
    let plan = plan(Format::Jsonl, FIELDS);
    for usual in ["", USUAL] {
        let before = usual.repeat(2);
        let said = all_say(&plan, &before, line, "\n");
        let row = said.rows.lines().nth(if usual.is_empty() { 0 } else { 2 }).unwrap_or("");
        let found: Option<Value> = (!row.is_empty()).then(|| serde_json::from_str(row).unwrap());
        let found = found.map_or(String::new(), |row| {
            let texts = row.as_object().unwrap().values().map(Value::to_string);
            texts.collect::<Vec<_>>().join(" ")
        });
        assert_eq!(found, values, "{}", String::from_utf8_lossy(line));
        let expected = match reason {
            "" => String::new(),
            _ => format!("{}@{} {reason}\n", before.lines().count(), before.len()),
        };
        assert_eq!(said.rejects, expected);
    }
}

#[track_caller]
fn good(line: &str, values: &str) {
    check(line.as_bytes(), values, "");
}

#[track_caller]
fn bad(line: &str, reason: &str) {
    check(line.as_bytes(), "", reason);
}

#[test]
fn a_record_may_be_written_in_many_ways() {
    let all = r#""web-01" 200 1.5 true "2026-01-02T03:04:05Z" 7"#;
    good(USUAL.trim_end(), all);
    good(
        r#" { "user" : { "id" : 7 } , "at" : "2026-01-02 03:04:05" ,"ok":true,"ms":15e-1,"status":200,"host":"web\u002d01" } "#,
        all,
    );
    good(r#"{"ho\u0073t":"web-01"}"#, r#""web-01" null null null null null"#);
    good("{}", "null null null null null null");
    good(r#"{"user":null,"host":null}"#, "null null null null null null");
    good(r#"{"user":{}}"#, "null null null null null null");
    good(r#"{"ms":3,"status":-0}"#, "null 0 3.0 null null null");
    good(r#"{"host":"","HOST":1}"#, r#""" null null null null null"#);
    good(r#"{"host":"päivää 😀 \ud83d\ude00"}"#, r#""päivää 😀 😀" null null null null null"#);
    good("{\"host\":\"a\"}\r", r#""a" null null null null null"#);
    good(r#"{"x":"\ud800","y":1e999}"#, "null null null null null null");
    good(r#"{"\ud800":1}"#, "null null null null null null");
    let deep = format!(r#"{{"x":{}1{}}}"#, "[".repeat(63), "]".repeat(63));
    good(&deep, "null null null null null null");
}

#[test]
fn a_value_of_another_type_rejects_the_record() {
    bad(r#"{"status":"200"}"#, "field_type: field status: expected int, found string at column 11");
    bad(
        r#"{"status":1.0}"#,
        "field_type: field status: expected int, found number 1.0 at column 11",
    );
    bad(
        r#"{"status":1e2}"#,
        "field_type: field status: expected int, found number 1e2 at column 11",
    );
    bad(
        r#"{"status":9223372036854775808}"#,
        "field_type: field status: expected int, found number 9223372036854775808 at column 11",
    );
    bad(r#"{"host":5}"#, "field_type: field host: expected string, found number at column 9");
    bad(r#"{"host":["a"]}"#, "field_type: field host: expected string, found array at column 9");
    bad(r#"{"ms":"1"}"#, "field_type: field ms: expected float, found string at column 7");
    bad(r#"{"ms":1e999}"#, "field_type: field ms: expected float, found number 1e999 at column 7");
    bad(r#"{"ok":1}"#, "field_type: field ok: expected bool, found number at column 7");
    bad(r#"{"at":5}"#, "field_type: field at: expected timestamp, found number at column 7");
    bad(
        r#"{"at":"yesterday"}"#,
        "field_type: field at: expected timestamp, found string \"yesterday\" at column 7",
    );
    bad(r#"{"user":5}"#, "field_type: field user: expected object, found number at column 9");
    bad(r#"{"user":{"id":"x"}}"#, "field_type: field id: expected int, found string at column 15");
    bad(
        r#"{"host":"\ud800"}"#,
        "syntax: field host: half a surrogate pair in the string at column 9",
    );
}

#[test]
fn a_key_we_read_may_stand_only_once() {
    bad(
        r#"{"host":"a","host":"b"}"#,
        "duplicate_field: field host stands twice, again at column 20",
    );
    bad(
        r#"{"host":null,"ho\u0073t":1}"#,
        "duplicate_field: field host stands twice, again at column 26",
    );
    bad(
        r#"{"user":{"id":1,"id":2}}"#,
        "duplicate_field: field id stands twice, again at column 22",
    );
    good(r#"{"x":1,"x":2}"#, "null null null null null null");
}

#[test]
fn what_is_not_an_object_of_json_is_rejected() {
    bad("5", "syntax: invalid type: integer `5`, expected an object at column 1");
    for line in [
        "{",
        "}",
        "{}x",
        "{} {}",
        "{,}",
        r#"{"a"}"#,
        r#"{"a":}"#,
        r#"{"a":1,}"#,
        r#"{"a":01}"#,
        r#"{"a":1.}"#,
        r#"{"a":+1}"#,
        r#"{"a":.5}"#,
        r#"{"a":1e}"#,
        r#"{"a":-}"#,
        r#"{"a":tru}"#,
        r#"{"a":truex}"#,
        r#"{"a":nul}"#,
        r#"{"a":"\x"}"#,
        r#"{"a":"\u12g4"}"#,
        r#"{"a":"x}"#,
        "{\"a\":\"\t\"}",
        "{\"a\":\"\0\"}",
        "{\"a\tb\":1}",
        r#"{"a":[1,]}"#,
        r#"{"a":[1 2]}"#,
        r#"{"a":{"b"}}"#,
        r#"{"a":[}"#,
        r#"{'a':1}"#,
        r#"{a:1}"#,
        "[]",
        "null",
        "\"x\"",
        "\0",
        r#"{"host":"a"b}"#,
        r#"{"status":1 2}"#,
        r#"{"host":"a\"#,
        r#"{"status":NaN}"#,
    ] {
        let plan = plan(Format::Jsonl, FIELDS);
        let said = all_say(&plan, &USUAL.repeat(2), line.as_bytes(), "\n");
        assert!(
            said.rejects.starts_with(&format!("2@{} syntax: ", 2 * USUAL.len())),
            "{line}: {said:?}"
        );
    }
}

#[test]
fn what_is_not_utf8_is_rejected_wherever_it_stands() {
    check(b"{\"host\":\"\xff\"}", "", "utf8: not UTF-8 at column 10");
    check(b"{\"x\":\"\xc3\"}", "", "utf8: not UTF-8 at column 7");
    let line = USUAL.trim_end().replace("text", "t\0xt").into_bytes();
    let line: Vec<u8> = line.into_iter().map(|byte| if byte == 0 { 0xff } else { byte }).collect();
    let at = line.iter().position(|byte| *byte == 0xff).unwrap() + 1;
    check(&line, "", &format!("utf8: not UTF-8 at column {at}"));
}

#[test]
fn a_record_nested_too_deep_is_rejected() {
    let mut plan = plan(Format::Jsonl, FIELDS);
    plan.record_bytes_max = 1_000_000;
    for (open, close) in [("[", "]"), (r#"{"a":"#, "}")] {
        for (depth, closed) in [(64, true), (10_000, true), (10_000, false)] {
            let close = if closed { close.repeat(depth) } else { String::new() };
            let line = format!(r#"{{"x":{}1{close}}}"#, open.repeat(depth));
            let said = all_say(&plan, USUAL, line.as_bytes(), "\n");
            assert!(said.rejects.contains("too_deep: nested more than 64 levels deep at column"));
        }
    }
    let line = "[".repeat(100_000);
    assert!(all_say(&plan, "", line.as_bytes(), "").rejects.contains("too_deep"));
}

#[test]
fn blank_lines_are_no_records_and_long_ones_are_rejected() {
    let plan = plan(Format::Jsonl, "a int");
    let said = all_say(&plan, "", b"\n{\"a\":1}\r\n  \t\r\n{\"a\":2}", "");
    assert_eq!((said.rows.as_str(), said.lines, said.records), ("{\"a\":1}\n{\"a\":2}\n", 4, 2));
    let long = USUAL.replace("some text", &"x".repeat(1000));
    let said = all_say(&self::plan(Format::Jsonl, FIELDS), USUAL, long.as_bytes(), USUAL);
    assert!(said.rejects.starts_with(&format!("1@{} too_long: record of", USUAL.len())));
    assert_eq!((said.lines, said.records), (3, 3));
}

#[test]
fn one_value_may_feed_two_columns() {
    let plan = plan(Format::Jsonl, "a string x, b timestamp x");
    let said = all_say(&plan, "", b"{\"x\":\"2026-01-02 03:04:05\"}\n{}\n", "");
    let rows =
        "{\"a\":\"2026-01-02 03:04:05\",\"b\":\"2026-01-02T03:04:05Z\"}\n{\"a\":null,\"b\":null}\n";
    assert_eq!((said.rows.as_str(), said.rejects.as_str()), (rows, ""));
}

#[test]
fn a_new_shape_is_learned() {
    let plan = plan(Format::Jsonl, "a int, b string");
    let (one, other) = ("{\"a\":1,\"b\":\"x\"}\n", "{\"b\":\"y\", \"c\":null, \"a\":2}\r\n");
    let lines = one.repeat(9) + &other.repeat(9) + one + &other.repeat(9);
    assert_eq!(all_say(&plan, "", lines.as_bytes(), "").records, 28);
}

#[test]
fn a_record_without_a_line_end_does_not_keep_the_parser_from_learning() {
    let plan = plan(Format::Jsonl, FIELDS);
    let mut parser = Parser::new(plan.clone());
    said(&mut parser, &plan, USUAL.trim_end().as_bytes(), None);
    assert!(!matches!(&parser.reader, Reader::Json(json) if json.has_template()));
    said(&mut parser, &plan, USUAL.repeat(5).as_bytes(), None);
    assert!(matches!(&parser.reader, Reader::Json(json) if json.has_template()));
}

/// What serde_json alone says about a line: its values, or that it must be rejected.
fn oracle(line: &[u8]) -> Result<Option<Value>, ()> {
    if from_slice::<serde::de::IgnoredAny>(line).is_err() {
        return Err(());
    }
    // Numbers beyond a float and half surrogates are grammar, but no `Value`.
    from_slice::<Value>(line)
        .map_or(Ok(None), |value| if value.is_object() { Ok(Some(value)) } else { Err(()) })
}

fn line() -> impl Strategy<Value = String> {
    let value = prop_oneof![
        "\"[ -~äöß😀]{0,30}\"",
        "-?[0-9]{1,20}",
        "-?[0-9]{1,10}\\.[0-9]{1,10}(e-?[0-9]{1,2})?",
        "true|false|null",
        "\"20[0-9]{2}-1[0-2]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,9})?Z?\"",
        "\"(\\\\[\"\\\\/bfnrtux]|\\\\u[0-9a-fA-F]{4}|[a-z]){0,9}\"",
        "\\[(1,){0,3}[0-9]\\]",
        "\\{\"id\":[0-9]{1,3}\\}",
        "\\{\"name\":\"x\",\"id\":-?[0-9]{1,3}\\}",
    ];
    let key = prop_oneof!["host|status|ms|ok|at|user|id|x|yy|z"];
    let space = prop_oneof![8 => Just(""), 1 => Just(" "), 1 => Just("\t ")];
    let member =
        (key, value, space).prop_map(|(key, value, space)| format!("\"{key}\":{space}{value}"));
    let any = (prop::collection::vec(member, 0..7), any::<bool>()).prop_map(|(members, space)| {
        format!("{{{}}}", members.join(if space { ", " } else { "," }))
    });
    prop_oneof![any, Just(USUAL.trim_end().to_owned())]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]
    #[test]
    fn oracle_readers_agree_with_each_other_and_with_serde_json(
        line in line(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), prop_oneof![any::<u8>(), prop::sample::select(&b"\"\\{}[],:0-.e \x01\xc3"[..])], 0..4u8), 0..4),
        same_before: bool,
    ) {
        let before = if same_before { format!("{line}\n") } else { USUAL.to_owned() };
        let mut bytes = line.into_bytes();
        for (at, byte, how) in changes {
            let at = at.index(bytes.len() + 1);
            match how {
                0 => bytes.insert(at, byte),
                1 => bytes.truncate(at.max(1)),
                2 if at < bytes.len() => bytes[at] = byte,
                _ if at < bytes.len() => { bytes.remove(at); }
                _ => {}
            }
        }
        bytes.retain(|byte| *byte != b'\n');
        let plan = plan(Format::Jsonl, FIELDS);
        let expected = oracle(&bytes);
        let blank = bytes.iter().all(|byte| b" \t\r".contains(byte));
        let alone = all_say(&plan, "", &bytes, "\n");
        all_say(&plan, &before.repeat(2), &bytes, "\n");
        if blank {
            prop_assert_eq!(alone.records, 0);
        } else if let Some(row) = alone.rows.lines().next() {
            let row: Value = serde_json::from_str(row).unwrap();
            let value = expected.expect("serde_json refuses what was accepted");
            let Some(value) = value else { return Ok(()) };
            for (name, ours) in row.as_object().unwrap() {
                let theirs = if name == "id" { &value["user"]["id"] } else { &value[name] };
                match name.as_str() {
                    "at" => prop_assert_eq!(ours.is_null(), theirs.is_null()),
                    "ms" => prop_assert_eq!(ours.as_f64().map(|f| f as f32), theirs.as_f64().map(|f| f as f32)),
                    _ if theirs.as_f64() == Some(0.0) => prop_assert_eq!(ours.as_i64(), Some(0)),
                    _ => prop_assert_eq!(ours, theirs),
                }
            }
        } else if let Ok(Some(value)) = expected {
            let reject = &alone.rejects;
            let rule = ["duplicate_field", "field_type", "too_deep"].iter().any(|code| reject.contains(code));
            prop_assert!(rule, "rejected {} for {}", value, reject);
        }
    }

    #[test]
    fn no_bytes_make_a_parser_panic(
        bytes in any::<Vec<u8>>(),
        multiline in any::<bool>(),
        // What a pipeline file may ask for: both are ASCII, so that they cut no character in two.
        (delimiter, quote) in (1..0x80_u8, 1..0x80_u8),
    ) {
        let csv = CsvOptions { header: false, delimiter, quote, multiline };
        for format in [Format::Text, Format::Jsonl, Format::Csv(csv)] {
            let mut plan = plan(format.clone(), "line string");
            plan.names = vec!["line".to_owned(), "other".to_owned()];
            let buffer = Buffer::from(&bytes[..]);
            let parsed = Parser::new(plan.clone()).parse(&buffer, 0..bytes.len(), None);
            prop_assert!(parsed.records <= parsed.lines);
            let _ = Header::parse(&plan, &bytes);
            let _ = header_end(&plan, &bytes);
            prop_assert!(last_record_end(&format, &bytes, false) <= last_record_end(&format, &bytes, true));
        }
    }
}
