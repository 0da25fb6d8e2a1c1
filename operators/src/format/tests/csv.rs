//! CSV: the rules, and a comparison with the `csv` crate.

use proptest::prelude::*;

use super::*;

const FIELDS: &str = "name string, id int, ms float, ok bool, at timestamp";

fn csv_plan(fields: &str, multiline: bool) -> ReadPlan {
    plan(Format::Csv(CsvOptions { multiline, ..CsvOptions::default() }), fields)
}

/// Reads records below the header `extra,at,ok,ms,id,name`.
#[track_caller]
fn check(multiline: bool, bytes: &[u8], rows: &str, rejects: &str) {
    let plan = csv_plan(FIELDS, multiline);
    let header = Header::parse(&plan, b"extra,at,ok,ms,id,name\n").unwrap();
    let said = said(&mut Parser::new(plan.clone()), &plan, bytes, Some(&header));
    let mut found = String::new();
    for row in said.rows.lines() {
        let row: serde_json::Value = serde_json::from_str(row).unwrap();
        let texts = row.as_object().unwrap().values().map(serde_json::Value::to_string);
        writeln!(found, "{}", texts.collect::<Vec<_>>().join(" ")).unwrap();
    }
    assert_eq!((found.as_str(), said.rejects.as_str()), (rows, rejects));
}

#[test]
fn fields_become_values_of_their_type() {
    check(
        false,
        b"x,2026-01-02 03:04:05,true,1.5,7,ann\n",
        "\"ann\" 7 1.5 true \"2026-01-02T03:04:05Z\"\n",
        "",
    );
    check(false, b"x,,T,+.5,007,  ann \r\n", "\"  ann \" 7 0.5 true null\n", "");
    check(
        false,
        b",\"2026-01-02T03:04:05Z\", 0 ,\" 2 \", -5 ,\"a,\"\"b\"\"\"",
        "\"a,\\\"b\\\"\" -5 2.0 false \"2026-01-02T03:04:05Z\"\n",
        "",
    );
    check(false, b",,,,,\n", "null null null null null\n", "");
    check(false, b",\"\",\"\",\"\",\"\",\"\"\n", "\"\" null null null null\n", "");
    check(false, b"\n \t\r\n,,,,,a\"b\n\n", "\"a\\\"b\" null null null null\n", "");
    check(false, b"\xff,,,,,\n", "null null null null null\n", "");
}

#[test]
fn bad_records_are_rejected_with_their_reason() {
    check(
        false,
        b",,,,x7,\n",
        "",
        "0@0 field_type: field id: expected int, found x7 at column 5\n",
    );
    check(
        false,
        b",,,nan,,\n",
        "",
        "0@0 field_type: field ms: expected float, found nan at column 4\n",
    );
    check(
        false,
        b",,yes,,,\n",
        "",
        "0@0 field_type: field ok: expected bool, found yes at column 3\n",
    );
    check(false, b",,,,\n", "", "0@0 field_count: expected 6 fields, found 5\n");
    check(false, b",,,,,,\n", "", "0@0 field_count: expected 6 fields, found 7\n");
    check(false, b",,,,,\xff\n", "", "0@0 utf8: field name: not UTF-8 at column 6\n");
    check(
        false,
        b",,,,,\"a\n,,,,,b\n",
        "\"b\" null null null null\n",
        "0@0 syntax: quote is not closed, it opens at column 6\n",
    );
    check(
        false,
        b",,,,,\"a\"b\n,,,,,b\n",
        "\"b\" null null null null\n",
        "0@0 syntax: text after a closing quote at column 9\n",
    );
    let long = format!(",,,,,{}\n", "x".repeat(1000));
    check(
        false,
        long.as_bytes(),
        "",
        "0@0 too_long: record of 1005 bytes, at most 1000 are taken\n",
    );
}

#[test]
fn a_quoted_field_may_span_lines_when_told_so() {
    check(
        true,
        b",,,,,\"a\nb\"\n,,,,,c\n",
        "\"a\\nb\" null null null null\n\"c\" null null null null\n",
        "",
    );
    check(
        true,
        b",,,,z,\"a\nb\"\n,,,,,c\n",
        "\"c\" null null null null\n",
        "0@0 field_type: field id: expected int, found z at column 5\n",
    );
    check(
        true,
        b",,,,,c\n,,,,,\"a\nb,",
        "\"c\" null null null null\n",
        "1@7 syntax: quote is not closed, it opens at column 6\n",
    );
}

#[test]
fn the_header_says_where_columns_are() {
    #[track_caller]
    fn check(header: &[u8], error: &str) {
        let found = Header::parse(&csv_plan("a int, b int", false), header);
        assert_eq!(found.err().map_or(String::new(), |error| error.to_string()), error);
    }
    check(b"a,b", "");
    check(b"\n\"b\", a ,c\r\n", "");
    check(b"a,c\n", "the header has no column b; it has a, c");
    check(b"", "the header has no column a; it has ");
    check(b"a,b,a\n", "the header has the column a twice");
    check(b"a,b,c,c\n", "");
    check(b"a,\"b\n", "the header is not a CSV record: quote is not closed, it opens at column 3");
}

#[test]
fn without_a_header_the_plan_names_the_columns() {
    let mut plan = csv_plan("b int, a string", false);
    plan.names = vec!["a".to_owned(), "x".to_owned(), "b".to_owned()];
    let said = said(&mut Parser::new(plan.clone()), &plan, b"one,,1\ntwo,,2\n", None);
    assert_eq!(said.rows, "{\"b\":1,\"a\":\"one\"}\n{\"b\":2,\"a\":\"two\"}\n");
}

#[test]
fn tabs_may_delimit() {
    let options = CsvOptions { header: false, delimiter: b'\t', quote: b'\'', multiline: false };
    let mut plan = plan(Format::Csv(options), "a string, b int");
    plan.names = vec!["a".to_owned(), "b".to_owned()];
    let said = said(&mut Parser::new(plan.clone()), &plan, b"'x\ty'\t1\n\t\n  \n", None);
    assert_eq!(said.rows, "{\"a\":\"x\\ty\",\"b\":1}\n{\"a\":null,\"b\":null}\n");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]
    #[test]
    fn oracle_records_are_what_the_csv_crate_says(
        text in prop_oneof![
            "(([a-zä ]{0,20}|\"([a-z, ]|\"\"|\n){0,20}\"),([a-z]{0,9}|\"\"),[0-9]{0,3}\r?\n){0,8}",
            "[a,\"\n \r]{0,30}",
        ],
        multiline: bool,
    ) {
        // The crate takes a lone carriage return for a line end, we for text.
        let text = text.replace("\r", "").replace("\n\n", "\n");
        let mut plan = csv_plan("a string, b string, c string", multiline);
        plan.names = vec!["a".to_owned(), "b".to_owned(), "c".to_owned()];
        let ours = said(&mut Parser::new(plan.clone()), &plan, text.as_bytes(), None);
        let mut good = ours.rows.lines();
        if !ours.rejects.contains("syntax") {
            let mut reader = ::csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(text.as_bytes());
            for record in reader.records() {
                let record = record.unwrap();
                if record.iter().all(|field| field.trim().is_empty()) && record.len() == 1 {
                    continue; // a blank line
                }
                if record.len() != 3 {
                    continue; // rejected for the number of its fields
                }
                let row: serde_json::Value = serde_json::from_str(good.next().unwrap()).unwrap();
                for (name, theirs) in ["a", "b", "c"].iter().zip(record.iter()) {
                    prop_assert_eq!(row[name].as_str().unwrap_or(""), theirs);
                }
            }
            prop_assert_eq!(good.next(), None);
        }
    }

    #[test]
    fn a_file_cut_anywhere_gives_the_same_records(text in "(([a-z]{0,20}|\"([a-z, ]|\"\"|\n){0,20}\"),[0-9]{0,3}\r?\n){1,9}", cut: prop::sample::Index) {
        let mut plan = csv_plan("a string, b string", true);
        plan.names = vec!["a".to_owned(), "b".to_owned()];
        let mut parser = Parser::new(plan.clone());
        let whole = said(&mut parser, &plan, text.as_bytes(), None);
        let bytes = text.as_bytes();
        let end = last_record_end(&plan.format, &bytes[..cut.index(bytes.len())], false).unwrap_or(0);
        let one = said(&mut parser, &plan, &bytes[..end], None);
        let other = said(&mut parser, &plan, &bytes[end..], None);
        prop_assert_eq!(one.rows + &other.rows, whole.rows);
        prop_assert_eq!(one.records + other.records, whole.records);
    }
}
