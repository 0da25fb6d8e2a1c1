//! Author tests: what `tidemill test` says of pipelines whose tests hold, do not hold, or are mistaken.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const NODE: &str = env!("CARGO_BIN_EXE_node");

/// A pipeline with a sink of each kind; tests follow.
const SALES: &str = r#"pipeline: sales
sources:
  sales: { format: csv, pattern: "sales*.csv", fields: { item: string, price: float, day: timestamp } }
operators:
  dear: { from: sales, filter: price >= 10 }
  sums: { from: dear, aggregate: { by: [item], compute: { n: count(*), total: sum(price) } } }
sinks:
  dear: { from: dear, files: { format: csv } }
  raw: { from: dear, files: { format: raw } }
  lines: { from: dear, files: { format: jsonl } }
  sums: { from: sums, table: { format: parquet, key: [item], changelog: { format: jsonl } } }
  log: { from: sums, table: { key: [item], snapshot: false, changelog: { format: csv } } }
tests:
"#;

/// Runs the binary in a folder; returns its exit code and what it printed, times left out.
fn call(folder: &Path, arguments: &[&str]) -> (i32, String) {
    let Output { status, stdout, stderr } =
        Command::new(NODE).current_dir(folder).args(arguments).output().unwrap();
    let printed = [stdout, stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
    let mut text = String::new();
    for line in printed.lines() {
        let end = line.rsplit_once(" (").filter(|(_, end)| end.ends_with(" ms)"));
        text += end.map_or(line, |(begin, _)| begin);
        text.push('\n');
    }
    (status.code().unwrap(), text)
}

/// Runs one test of the sales pipeline; `expected` is what follows its name, empty when it holds.
#[track_caller]
fn check(test: &str, expected: &str) {
    let folder = tempfile::tempdir().unwrap();
    let test = test.trim_matches('\n').replace('\n', "\n    ");
    fs::write(folder.path().join("p.yaml"), format!("{SALES}  - name: one\n    {test}\n")).unwrap();
    let (code, printed) = call(folder.path(), &["test", "p.yaml"]);
    let (word, outcome) = match expected {
        "" => ("ok  ", "all hold"),
        _ => ("FAIL", "1 of them failed"),
    };
    let rest = printed.strip_prefix(&format!("p.yaml\n  {word}  one\n"));
    let rest = rest.unwrap_or_else(|| panic!("{printed}"));
    let (rest, last) = rest.trim_end().rsplit_once('\n').unwrap_or(("", rest.trim_end()));
    let said: Vec<&str> = rest.lines().map(|line| line.strip_prefix("        ").unwrap()).collect();
    assert_eq!(said.join("\n"), expected.trim_matches('\n'), "{printed}");
    assert!(last.starts_with("1 test in ") && last.ends_with(outcome), "{last}");
    assert_eq!(code, i32::from(!expected.is_empty()));
}

#[test]
fn every_kind_of_sink_can_be_expected() {
    check(
        r#"
given:
  sales:
    - { file: sales-a.csv, records: [{ item: tea, price: 12.5, day: 2026-01-02T03:04:05Z }, { item: pot, price: 9 }] }
    - { file: sales-b.csv, records: "item,price,day\ntea,20,\n" }
expect:
  dear: [{ item: tea, price: 12.5, day: "2026-01-02 03:04:05" }, [tea, 20, null]]
  raw: |
    tea,12.5,2026-01-02T03:04:05Z
    tea,20,
  lines: { rows: [{ price: 20 }, { price: 12.50 }], order: unordered }
  sums: [{ item: tea, n: 2, total: 32.5 }]
  sums.changes: [{ epoch: 1, diff: 1, n: 1 }, { epoch: 2, diff: -1, n: 1 }, { epoch: 2, diff: 1, n: 2 }]
  log.changes: { text: "epoch,diff,item,n,total\n1,1,tea,1,12.5\nepoch,diff,item,n,total\n2,-1,tea,1,12.5\n2,1,tea,2,32.5" }
  quarantined: []
"#,
        "",
    );
}

#[test]
fn rows_that_are_missing_or_too_many_are_told_apart() {
    check(
        r#"
given: { sales: { records: [{ item: tea, price: 10 }, { item: pot, price: 30 }] } }
expect:
  dear: [{ item: tea, price: 10 }, { item: cup, price: 40 }, { item: pot, price: 30 }]
  sums: [{ item: tea, n: 1 }]
"#,
        r#"
dear (line 17): 3 rows expected, 2 found
  - missing     item="cup"  price=40   line 17
sums (line 18): 1 rows expected, 2 found
  + unexpected  item="pot"  n=1
"#,
    );
}

#[test]
fn a_row_that_differs_shows_which_cell() {
    check(
        r#"
given: { sales: { records: [{ item: tea, price: 10 }, { item: "", price: 30 }] } }
expect:
  dear:
    - { item: tea, price: 10 }
    - { item: null, price: 30 }
  sums:
    - { item: tea, n: 2, total: 10.0 }
    - { item: "", n: 1, total: 30 }
"#,
        r#"
dear (line 17): 1 of 2 rows differ
  ~ different   item="" (expected NULL)  price=30   line 19
sums (line 20): 1 of 2 rows differ
  ~ different   item="tea"  n=1 (expected 2)  total=10   line 21
"#,
    );
}

#[test]
fn rows_in_another_order_are_told_where_order_counts() {
    check(
        r#"
given: { sales: { records: [{ item: b, price: 10 }, { item: a, price: 30 }] } }
expect:
  dear: [{ item: a }, { item: b }]
  lines: { rows: [{ item: a }, { item: b }], order: unordered }
  sums: { rows: [{ item: b }, { item: a }], order: exact }
"#,
        r#"
dear (line 17): all rows are there, in another order
  ~ misplaced   item="a": found as number 2   line 17
sums (line 19): all rows are there, in another order
  ~ misplaced   item="b": found as number 2   line 19
"#,
    );
}

#[test]
fn lines_that_differ_are_shown_below_each_other() {
    check(
        "
given: { sales: { records: [{ item: b, price: 10 }, { item: a, price: 30 }] } }
expect:
  raw: |
    b,10,
    a,31,
",
        "
raw (line 17): 1 of 2 lines differ
  - expected    a,31,   line 19
  + found       a,30,
",
    );
}

#[test]
fn rejected_records_fail_a_test_that_does_not_expect_them() {
    let given = "given: { sales: { records: [{ item: tea, price: dear }] } }";
    check(
        &format!("{given}\nexpect:\n  dear: []"),
        r#"
rejects (line 14): 0 rows expected, 1 found
  + unexpected  file="sales-1.csv"  line=2  operator="sales"  code="field_type"  message="field price: expected float, found dear at column 5"
"#,
    );
    check(&format!("{given}\nexpect:\n  rejects: [{{ line: 2, code: field_type }}]"), "");
}

#[test]
fn a_file_in_quarantine_fails_a_test_that_does_not_expect_it() {
    let given = "given: { sales: { file: sales.csv, records: \"nothing\\n1\\n\" } }";
    check(
        &format!("{given}\nexpect:\n  dear: []"),
        "
quarantined (line 14): sales.csv went to quarantine: bad_format: line 1: the header has no column item; it has nothing
",
    );
    check(
        &format!("{given}\nexpect:\n  quarantined: [{{ name: sales.csv, code: bad_format }}]"),
        "",
    );
    check(
        &format!("{given}\nexpect:\n  quarantined: [{{ name: sales.csv, code: bomb }}]"),
        "
quarantined (line 17): sales.csv went to quarantine with bad_format, not bomb: line 1: the header has no column item; it has nothing
",
    );
    check(
        "given: { sales: { file: sales.csv, records: [] } }\nexpect:\n  quarantined: [sales.csv]",
        "quarantined (line 17): sales.csv did not go to quarantine",
    );
}

#[test]
fn steps_replace_and_remove_what_came() {
    let steps = |last: &str| {
        format!(
            r#"
given: {{ sales: {{ file: sales.csv, records: [{{ item: tea, price: 10 }}] }} }}
steps:
  - add: {{ sales: {{ file: sales-2.csv, records: [{{ item: pot, price: 30 }}] }} }}
  - replace: {{ sales: {{ file: sales.csv, records: [{{ item: tea, price: 11 }}] }} }}
  - remove: [sales-2.csv]
expect:
  dear: [{{ item: tea, price: 11 }}]
  sums: [{{ item: tea, total: {last} }}]
"#
        )
    };
    check(&steps("11"), "");
    check(
        &steps("10"),
        r#"
sums (line 22): 1 of 1 rows differ
  ~ different   item="tea"  total=11 (expected 10)   line 22
"#,
    );
}

#[test]
fn files_beside_the_pipeline_are_given_and_expected() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::create_dir(at("samples")).unwrap();
    fs::write(at("samples/sales-a.csv"), "item,price,day\ntea,10,\n").unwrap();
    let tests = "  - name: a file\n    given: { sales: { files: [samples/sales-a.csv] } }\n    expect: { raw: { file: samples/raw.txt } }\n";
    fs::write(at("p.yaml"), format!("{SALES}{tests}")).unwrap();
    let (code, printed) = call(folder.path(), &["check", "p.yaml"]);
    assert_eq!(code, 2);
    assert!(
        printed.starts_with("p.yaml:16:15: error: ./samples/raw.txt is not there\n"),
        "{printed}"
    );
    fs::write(at("samples/raw.txt"), "tea,10,\n").unwrap();
    let (code, printed) = call(folder.path(), &["test", "p.yaml"]);
    assert_eq!(code, 0, "{printed}");
}

#[test]
fn every_mistake_in_a_test_is_told_with_its_place() {
    let tests = r#"  - name: one
    given: { sale: { records: [] } }
    expect: { dera: [] }
  - name: one
    given: { sales: { file: other.csv, records: [{ itm: tea }] } }
    steps: [{ remove: sales.csv }, { replace: { sales: { records: [] } } }, {}]
    expect:
      dear: [{ item: tea, price: dear }, { itme: tea }, [tea], tea]
      raw: [{ item: tea }]
      log: []
      sums: { text: x }
      rejects: [{ nope: 1 }]
      quarantined: [nobody.csv]
  - given: { sales: { records: [[1]], files: [a] } }
    expect: {}
  - { name: three, expect: { dear: { rows: [], text: x } } }
"#;
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("p.yaml"), format!("{SALES}{tests}")).unwrap();
    let (code, printed) = call(folder.path(), &["test", "p.yaml"]);
    let told: Vec<&str> = printed.lines().filter(|line| line.starts_with("p.yaml:")).collect();
    assert_eq!(
        told,
        [
            "p.yaml:15:14: error: no source is called `sale`",
            "p.yaml:16:15: error: no sink is called `dera`",
            "p.yaml:17:11: error: another test is called `one`",
            "p.yaml:18:29: error: no source takes a file called `other.csv`",
            "p.yaml:18:52: error: source `sales` has no field `itm`",
            "p.yaml:19:23: error: no file called `sales.csv` has come before this step",
            "p.yaml:19:56: error: what is replaced has a name",
            "p.yaml:19:77: error: a step does one thing, this one 0",
            "p.yaml:21:34: error: `price` is a float, not `dear`",
            "p.yaml:21:44: error: there is no column `itme`",
            "p.yaml:21:57: error: a row without names has all 3 columns, not 1",
            "p.yaml:21:64: error: a row is a map of columns and values, not a single value",
            "p.yaml:22:13: error: a record of this sink is a line, not a map",
            "p.yaml:23:7: error: `log` keeps no rows",
            "p.yaml:24:21: error: a parquet file has no lines",
            "p.yaml:25:19: error: there is no column `nope`",
            "p.yaml:26:21: error: no file called `nobody.csv` comes in this test",
            "p.yaml:27:5: error: a test needs `name`",
            "p.yaml:27:14: error: a source gets either `records` or `files`",
            "p.yaml:27:33: error: a record is a line or a map, not a list",
            "p.yaml:27:47: error: no source takes a file called `a`",
            "p.yaml:29:5: error: a test needs `given` or `steps`",
            "p.yaml:29:30: error: say what is expected in one way: `rows`, `text` or `file`",
            "p.yaml: 23 mistakes",
        ]
    );
    assert_eq!(code, 2);
}

#[test]
fn reports_for_programs_and_build_servers_say_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let tests = "  - name: good\n    given: { sales: { records: [] } }\n    expect: { dear: [] }\n  - name: <bad>\n    given: { sales: { records: [] } }\n    expect: { dear: [{ item: tea }] }\n";
    fs::write(folder.path().join("p.yaml"), format!("{SALES}{tests}")).unwrap();
    let call = |arguments: &[&str]| call(folder.path(), &[&["test", "p.yaml"], arguments].concat());
    let (code, json) = call(&["--json", "--junit", "report.xml"]);
    assert_eq!(code, 1);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((json["tests"].as_u64(), json["failed"].as_u64()), (Some(2), Some(1)));
    let bad = &json["files"][0]["tests"][1];
    assert_eq!((bad["ok"].as_bool(), bad["line"].as_u64()), (Some(false), Some(17)));
    let failure = &bad["failures"][0];
    assert_eq!(failure["about"], "dear");
    assert_eq!(failure["differences"][0]["difference"], "missing");
    assert_eq!(failure["differences"][0]["row"][0], "\"tea\"");
    let xml = fs::read_to_string(folder.path().join("report.xml")).unwrap();
    assert!(
        xml.contains("<testsuite name=\"p.yaml\" tests=\"2\" failures=\"1\" errors=\"0\""),
        "{xml}"
    );
    assert!(xml.contains("name=\"&lt;bad&gt;\""), "{xml}");
    assert!(xml.contains("<failure message=\"dear: 1 rows expected, 0 found\">"), "{xml}");
    assert_eq!(call(&["--filter", "good"]).0, 0);
    let (code, said) = call(&["--filter", "nothing"]);
    assert_eq!((code, said.contains("no test has \"nothing\" in its name")), (2, true), "{said}");
}

#[test]
fn steps_tell_what_each_operator_did_with_a_record() {
    let yaml = r#"pipeline: p
sources:
  sales: { format: csv, pattern: "sales*", fields: { item: string, price: float } }
  names: { format: csv, pattern: "names*", fields: { code: string, name: string } }
operators:
  size: { from: sales, route: { dear: price / 2 >= 10, cheap: price > 1 } }
  twice: { from: size.dear, select: { item: upper(item), double: price * 2 } }
  first: { from: twice, dedupe: { by: [item] } }
  named: { from: size.cheap, join: { with: names, on: { item: code }, kind: left } }
  sums: { from: named, aggregate: { by: [name], compute: { n: count(*) } } }
sinks:
  first: { from: first, files: { format: csv } }
  again: { from: first.duplicates, files: { format: csv } }
  sums: { from: sums, table: { format: csv, key: [name] } }
tests:
  - name: all ways
    given:
      names: { file: names.csv, records: [{ code: pin, name: Pin }] }
      sales: { file: sales.csv, records: [{ item: tea, price: 20 }, { item: Tea, price: 30 }, { item: pin, price: 2 }, { item: nil, price: 0 }, { item: x, price: y }] }
    expect:
      first: [{ item: TEA, double: 40 }]
      sums: [{ name: Pin, n: 1 }]
      rejects: [{ line: 6 }]
"#;
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("p.yaml"), yaml).unwrap();
    let (code, printed) = call(folder.path(), &["test", "--step", "p.yaml"]);
    assert_eq!(code, 0, "{printed}");
    let (_, walked) = printed.split_once("ok    all ways\n").unwrap();
    let (walked, _) = walked.split_once("1 test in ").unwrap();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/test-steps.txt");
    assert_eq!(walked, fs::read_to_string(golden).unwrap());
    let (_, one) = call(folder.path(), &["test", "--record", "sales.csv:5", "p.yaml"]);
    assert!(one.contains("sales.csv:5  nil,0\n") && !one.contains("sales.csv:4"), "{one}");
    assert!(one.contains("size   route   left out: no rule takes it"), "{one}");
    let (_, none) = call(folder.path(), &["test", "--record", "sales.csv:99", "p.yaml"]);
    assert!(none.contains("no such record"), "{none}");
    let (code, said) = call(folder.path(), &["test", "--record", "sales.csv", "p.yaml"]);
    assert_eq!((code, said.contains("such as sales.csv:3")), (2, true), "{said}");
}

/// An inner loop is told within each round of the outer one.
#[test]
fn steps_follow_a_record_round_by_round() {
    let yaml = r#"pipeline: p
sources:
  rows: { format: csv, fields: { k: string, n: int } }
operators:
  size: { from: [rows, more], route: { big: n >= 50, small: else }, max_rounds: 2 }
  half: { from: [size.small, odd], route: { odd: n % 2 = 1, even: else }, max_rounds: 3 }
  odd: { from: half.odd, select: { k: k, n: n + 1 } }
  more: { from: half.even, select: { k: k, n: n * 4 } }
sinks:
  big: { from: size.big, files: { format: csv } }
tests:
  - name: loops
    given: { rows: { file: rows.csv, records: [{ k: a, n: 3 }, { k: b, n: 70 }, { k: c, n: 1 }] } }
    expect: { big: [{ k: a, n: 64 }, { k: b, n: 70 }], rejects: [{ line: 4, round: 2 }] }
"#;
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("p.yaml"), yaml).unwrap();
    let (code, printed) = call(folder.path(), &["test", "--step", "p.yaml"]);
    assert_eq!(code, 0, "{printed}");
    let (walked, _) = printed.split_once("\n1 test in ").unwrap();
    let (_, walked) = walked.split_once("\n\n").unwrap();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/test-steps-loops.txt");
    assert_eq!(walked, fs::read_to_string(golden).unwrap());
}

#[test]
fn the_tests_of_the_examples_hold() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let listed = fs::read_dir(root.join("examples")).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> = listed.map(|folder| folder.join("pipeline.yaml")).collect();
    files.retain(|file| file.exists());
    assert!(files.len() >= 2, "{files:?}");
    let files: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
    let mut arguments = vec!["test"];
    arguments.extend(files.iter().map(String::as_str));
    let (code, printed) = call(root, &arguments);
    assert_eq!(code, 0, "{printed}");
    assert!(!printed.contains("no tests"), "{printed}");
}
