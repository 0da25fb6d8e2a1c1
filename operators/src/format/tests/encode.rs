//! What is written, and that it reads back the same.

use proptest::prelude::*;

use super::*;

const FIELDS: &str = "s string, i int, f float, b bool, t timestamp";

/// Reads JSON lines and writes them in another format.
fn written(json: &str, format: OutputFormat) -> String {
    let plan = plan(Format::Jsonl, FIELDS);
    let buffer = Buffer::from(json.as_bytes());
    let parsed = Parser::new(plan.clone()).parse(&buffer, 0..json.len(), None);
    assert_eq!(parsed.rejects, []);
    let mut out = Vec::new();
    let mut encoder = Encoder::new(format, &plan.schema());
    encoder.preamble(&mut out);
    encoder.encode(&parsed.batch.unwrap(), &mut out);
    String::from_utf8(out).unwrap()
}

#[test]
fn json_is_written_compact_in_schema_order() {
    #[track_caller]
    fn check(json: &str, expected: &str) {
        assert_eq!(written(json, OutputFormat::Jsonl), format!("{expected}\n"));
    }
    check("{}", r#"{"s":null,"i":null,"f":null,"b":null,"t":null}"#);
    check(
        r#"{"t":"2026-01-02 03:04:05","b":true,"f":3,"i":-9223372036854775808,"s":"ä\"\\\n\u0001\/"}"#,
        r#"{"s":"ä\"\\\n\u0001/","i":-9223372036854775808,"f":3.0,"b":true,"t":"2026-01-02T03:04:05Z"}"#,
    );
    check(
        r#"{"f":1e-7,"i":0,"b":false,"t":"2026-01-02T03:04:05.0000019+01:00"}"#,
        r#"{"s":null,"i":0,"f":1e-7,"b":false,"t":"2026-01-02T02:04:05.000001Z"}"#,
    );
}

#[test]
fn csv_is_quoted_only_when_it_must_be() {
    #[track_caller]
    fn check(json: &str, expected: &str) {
        let format = OutputFormat::Csv { delimiter: b';', header: true };
        assert_eq!(written(json, format), format!("s;i;f;b;t\n{expected}\n"));
    }
    check("{}", ";;;;");
    check(r#"{"s":"","i":5,"f":0.1,"b":false}"#, "\"\";5;0.1;false;");
    check(r#"{"s":"a;b"}"#, "\"a;b\";;;;");
    check(r#"{"s":"a,b"}"#, "a,b;;;;");
    check(r#"{"s":"say \"hi\""}"#, "\"say \"\"hi\"\"\";;;;");
    check(r#"{"s":" a"}"#, "\" a\";;;;");
    check(r#"{"s":"a\tb"}"#, "a\tb;;;;");
    check(r#"{"s":"a\r"}"#, "\"a\r\";;;;");
}

#[test]
fn raw_is_written_as_it_stood() {
    let lines = "{ \"i\": 1 }\r\n{\"i\":2,\"x\":[]}\n";
    assert_eq!(written(lines, OutputFormat::Raw), lines);
}

#[test]
fn a_float_that_is_no_number_is_null() {
    let schema = Schema::new(vec![Column::new("f", Type::Float)]);
    let floats = arrow_array::Float64Array::from(vec![f64::NAN, f64::INFINITY, -0.0, 1e16]);
    let columns =
        arrow_array::RecordBatch::try_new(schema.arrow(), vec![std::sync::Arc::new(floats)])
            .unwrap();
    let batch = Batch { columns, ..Batch::default() };
    let mut out = Vec::new();
    Encoder::new(OutputFormat::Jsonl, &schema).encode(&batch, &mut out);
    assert_eq!(out, b"{\"f\":null}\n{\"f\":null}\n{\"f\":-0.0}\n{\"f\":1e16}\n");
    out.clear();
    let format = OutputFormat::Csv { delimiter: b',', header: false };
    Encoder::new(format, &schema).encode(&batch, &mut out);
    assert_eq!(out, b"\"\"\n\"\"\n-0.0\n1e16\n");
}

proptest! {
    #[test]
    fn what_is_written_reads_back_the_same(
        rows in prop::collection::vec(
            (any::<Option<String>>(), any::<Option<i64>>(), prop::option::of(any::<f64>().prop_filter("finite", |f| f.is_finite())),
             any::<Option<bool>>(), prop::option::of(-62_135_596_800_000_000i64..253_402_300_800_000_000)),
            1..20,
        ),
    ) {
        let mut json = String::new();
        for (s, i, f, b, t) in rows {
            let t = t.map(|t| { let mut out = vec![]; instant::write(t, &mut out); String::from_utf8(out).unwrap() });
            let f = f.map_or("null".to_owned(), |f| format!("{f:?}"));
            let s = serde_json::to_string(&s).unwrap();
            let (i, b, t) = (serde_json::json!(i), serde_json::json!(b), serde_json::json!(t));
            writeln!(json, r#"{{"s":{s},"i":{i},"f":{f},"b":{b},"t":{t}}}"#).unwrap();
        }
        let once = written(&json, OutputFormat::Jsonl);
        prop_assert_eq!(&written(&once, OutputFormat::Jsonl), &once);
        let csv = written(&once, OutputFormat::Csv { delimiter: b',', header: true });
        let options = CsvOptions { multiline: true, ..CsvOptions::default() };
        let plan = plan(Format::Csv(options), FIELDS);
        let HeaderEnd::At(start) = header_end(&plan, csv.as_bytes()) else { panic!("no header") };
        let header = Header::parse(&plan, &csv.as_bytes()[..start]).unwrap();
        let said = said(&mut Parser::new(plan.clone()), &plan, &csv.as_bytes()[start..], Some(&header));
        prop_assert_eq!(said.rejects, "");
        prop_assert_eq!(said.rows, once);
    }
}
