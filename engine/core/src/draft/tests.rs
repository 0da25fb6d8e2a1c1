//! Tests of drafts: what is made of samples, and that everything made passes every check.

use super::*;
use crate::ingest::inflate::Compression;
use crate::plan::plan;

fn sampled(name: &str, bytes: &[u8], is_whole: bool) -> Sampled {
    let compression = Compression::None;
    Sampled { name: name.into(), sample: Sample { bytes: bytes.to_vec(), is_whole, compression } }
}

#[track_caller]
fn drafted(files: &[(&str, &str)]) -> String {
    let files: Vec<Sampled> =
        files.iter().map(|(name, text)| sampled(name, text.as_bytes(), true)).collect();
    let draft = draft(None, &files).unwrap();
    for yaml in [draft.without_tests(), draft.with_questions()] {
        if let Err(mistakes) = plan(&yaml) {
            panic!("{mistakes:?}\n{yaml}");
        }
    }
    draft.with_questions()
}

/// Drafts from files and checks that these lines are in it, blanks at both ends left out.
#[track_caller]
fn check(files: &[(&str, &str)], expected: &[&str]) {
    let yaml = drafted(files);
    let lines: Vec<&str> = yaml.lines().map(str::trim).collect();
    for line in expected {
        assert!(lines.contains(line), "{line}\n--- is not in\n{yaml}");
    }
}

#[track_caller]
fn refused(name: &str, bytes: &[u8], is_whole: bool, reason: &str) {
    let errors = draft(None, &[sampled(name, bytes, is_whole)]).unwrap_err();
    let said = errors[0].to_string();
    assert!(said.contains(reason), "{said}");
}

#[test]
fn types_are_guessed_over_the_whole_sample() {
    check(
        &[(
            "sales-2026-01.csv",
            "id,day,at,price,ok,flag,code,note,most,huge\n\
             1,2026-01-01,2026-01-01T00:00:00Z,1,true,0,007,,1,1\n\
             2,2026-01-02,2026-01-02 10:00:00,2.5,false,1,12,,2,2\n\
             3,2026-01-03,,1e3,T,0,5,,3,3\n\
             4,2026-01-03,,3,f,0,5,,4,4\n\
             5,2026-01-03,,3,f,0,5,,n/a,99999999999999999999\n",
        )],
        &[
            "pattern: \"sales-*.csv\"",
            "id: int",
            "day: string                     # dates without a time: `(COLUMN || 'T00:00:00Z')::timestamp` in a `select` makes timestamps",
            "at: timestamp                   # empty in 3 of 5 records",
            "price: float",
            "ok: bool",
            "flag: int                       # only 0 and 1: `bool` reads them too, in csv",
            "code: string                    # digits with leading zeros, which a number would lose",
            "note: string                    # always empty in the sample: what it holds is not known",
            "most: string                    # int but for 1 of 5 records, such as \"n/a\" on line 6: as int these would be rejected",
            "huge: float",
        ],
    );
}

#[test]
fn a_time_between_brackets_is_no_array() {
    check(&[("a.log", "[Sun Dec 04 04:47:44 2005] [notice] ok\n")], &["format: text"]);
    check(
        &[("a.log", "[2026-01-02 10:00:00] started\n[2026-01-02 10:00:01] ended\n")],
        &["format: text"],
    );
}

#[test]
fn dialects_of_csv_are_recognised() {
    check(&[("a.tsv", "name\tm\nx\t1\ny\t2\n")], &["delimiter: \"\\t\"", "name: string", "m: int"]);
    check(&[("a.csv", "a;b\n\"x;y\";1\n")], &["delimiter: \";\"", "a: string", "b: int"]);
    check(&[("a.csv", "a|b|c\n1|2|3\n")], &["delimiter: \"|\""]);
    check(
        &[("a.csv", "1,x,2\n2,y,3\n")],
        &["header: false", "columns: [c1, c2, c3]", "c1: int", "c2: string"],
    );
    check(
        &[("a.csv", "a,b\n\"two\nlines\",1\n")],
        &["multiline: true               # a quoted field holds line ends"],
    );
    check(&[("a.csv", "a,b\n'x,y',1\n'z',2\n")], &["quote: \"'\""]);
    check(&[("a.csv", "a,b\r\n1,2\r\n")], &["a: int", "b: int"]);
    check(
        &[("a.csv", "a,,a,b\n1,2,3,4\n")],
        &["# Look: column 2 has no name: it is not read", "b: int"],
    );
    check(
        &[("a.csv", "order,Group,\"with \"\"quotes\"\"\"\n1,x,2\n2,x,3\n")],
        &["order: int", "\"with \\\"quotes\\\"\": int"],
    );
}

#[test]
fn fields_of_json_are_found_in_depth() {
    check(
        &[(
            "events.jsonl",
            "{\"at\":\"2026-01-01T00:00:00Z\",\"user\":{\"id\":7,\"name\":\"ann\"},\"tags\":[1],\"v\":1.5}\n\
             {\"at\":\"2026-01-01T00:00:01Z\",\"user\":{\"id\":8,\"name\":null},\"ok\":true,\"v\":2,\"x\":\"12\"}\n",
        )],
        &[
            "format: jsonl",
            "at: timestamp",
            "user_id: { type: int, path: \"user.id\" }",
            "user_name: { type: string, path: \"user.name\" } # empty in 1 of 2 records",
            "# Look: tags holds lists or objects: it is not read",
            "v: float",
            "x: string                       # empty in 1 of 2 records",
        ],
    );
}

#[test]
fn well_known_lines_get_a_regular_expression() {
    check(
        &[(
            "access.log",
            "203.0.113.9 - - [10/Oct/2026:13:55:36 +0000] \"GET /a HTTP/1.1\" 200 2326 \"-\" \"x\"\n\
             203.0.113.9 - bob [10/Oct/2026:13:55:37 +0000] \"POST /b HTTP/1.1\" 500 -\n",
        )],
        &["format: text", "access_parsed:", "fields: { status: int, bytes: int }"],
    );
    check(
        &[("auth.log", "Dec 10 06:55:46 web1 sshd[24200]: Failed password for root\n")],
        &["auth_parsed:", "fields: { pid: int }"],
    );
    check(
        &[(
            "app.log",
            "2026-01-01 10:00:00.123 INFO started, at last\n2026-01-01 10:00:01.000 ERROR gone\n",
        )],
        &["fields: { time: timestamp }"],
    );
    check(
        &[("notes.txt", "one line, and\nanother\n")],
        &["format: text", "route: { error: \"line ILIKE '%error%'\", other: else }"],
    );
}

#[test]
fn files_of_one_shape_are_one_source_and_others_have_their_own() {
    check(
        &[
            ("sales-01.csv", "a,b\n1,2\n"),
            ("sales-02.csv.gz", "a,b\n1,2\n"),
            ("rates.csv", "code,rate\nEUR,1.5\n"),
        ],
        &[
            "# sales-01.csv, sales-02.csv.gz: csv with `,` and a header",
            "pattern: \"sales-*.csv*\"",
            "pattern: \"rates*.csv\"",
        ],
    );
    check(
        &[("1.csv", "a,b\n1,2\n"), ("2.csv", "c,d\n1,2\n")],
        &["pattern: \"1.csv\"", "pattern: \"2.csv\""],
    );
}

#[test]
fn what_is_no_sample_is_refused_with_what_to_do() {
    refused("a", b"", true, "it is empty");
    refused("a", b" \n\n", true, "it is empty");
    refused("a", b"PK\x03\x04....", true, "export it as csv");
    refused("a", b"a\0b\n", true, "it is binary");
    refused("a", &[0xfe, 0xff, 0, b'a'], true, "UTF-16");
    refused("a", &[0x80; 100], true, "it is binary");
    refused("a", &[b'x'; 5_000], false, "its first 5000 bytes have no line end");
    refused("a", b"[{\"a\":1},\n{\"a\":2}]\n", true, "jq -c '.[]'");
    refused("a", b"{\n\"a\": 1\n}\n", true, "jq -c .");
    refused("a\x1b[2J", b"", true, "a\u{fffd}[2J: it is empty");
}

#[test]
fn hostile_samples_give_pipelines_that_check() {
    let names = ["on", "a: b", "#", "*x", "' '", "{", "-", "select", "\u{202e}x", "ä", "null"];
    let header = names.map(|name| format!("\"{name}\"")).join(",");
    drafted(&[("on.csv", &format!("{header}\n{}\n", ["1"; 11].join(",")))]);
    drafted(&[("[x]{y}*?.csv", "a,b\n1,2\n")]);
    drafted(&[("-.csv", "a,b\n1,2\n"), ("_.csv", "c,d\n1,2\n")]);
    drafted(&[(
        "errors.jsonl",
        "{\"error\":1,\"rejects\":{\"a.b\":2},\"\":3,\"records\":\"x\"}\n",
    )]);
    drafted(&[("a.jsonl", "{\"a_b\":1,\"a\":{\"b\":2}}\n")]);
    drafted(&[("a.log", "\u{1b}[31mred\u{1b}[0m error\nx\n")]);
    drafted(&[("a.csv", "a,b\n\"never ends,1\n")]);
    let wide: Vec<String> = (0..2_000).map(|number| format!("k{number}")).collect();
    drafted(&[("a.csv", &format!("{}\n", wide.join(",")))]);
}

#[test]
fn a_name_that_says_csv_counts() {
    check(
        &[("one.csv", "day\n2026-01-01T00:00:00Z\n\n2026-01-02T00:00:00Z\n")],
        &["format: csv", "day: timestamp"],
    );
    check(&[("one.CSV.gz", "a\n1\n2\n")], &["format: csv", "a: int"]);
    check(&[("one.txt", "a\n1\n2\n")], &["format: text"]);
    let ragged = drafted(&[("ragged.csv", "a,b\n1,2,3\n1\n")]);
    let note = "its name says csv, but its first records have 2, 3, 1 fields: it is taken for lines of text";
    assert!(ragged.contains(note), "{ragged}");
}
