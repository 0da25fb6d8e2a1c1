//! What expressions are worth: tables of an expression and the values it has over the same rows.
#![allow(clippy::unwrap_used, missing_docs)]

use std::sync::Arc;

use arrow_array::{
    Array, ArrayRef, BooleanArray, Float64Array, Int64Array, RecordBatch, StringViewArray,
    TimestampMicrosecondArray,
};
use tidemill_operators::expr::{Evaluated, compile};
use tidemill_operators::{Column, Schema, Type};

fn schema() -> Schema {
    let columns = [
        ("a", Type::Int),
        ("b", Type::Int),
        ("x", Type::Float),
        ("s", Type::String),
        ("t", Type::Timestamp),
        ("p", Type::Bool),
        ("q", Type::Bool),
        ("user", Type::String),
        ("user.id", Type::Int),
        ("Mixed", Type::Int),
    ];
    Schema::new(columns.map(|(name, kind)| Column::new(name, kind)).to_vec())
}

/// Three rows: plain values, awkward values, NULL.
fn batch() -> RecordBatch {
    let micros = vec![Some(1_795_409_190_123_456), Some(-1), None];
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from(vec![Some(7), Some(i64::MIN), None])),
        Arc::new(Int64Array::from(vec![Some(2), Some(0), None])),
        Arc::new(Float64Array::from(vec![Some(2.5), Some(f64::NAN), None])),
        Arc::new(StringViewArray::from(vec![Some("web-01.example.org"), Some("Grüße"), None])),
        Arc::new(TimestampMicrosecondArray::from(micros).with_timezone("UTC")),
        Arc::new(BooleanArray::from(vec![Some(true), Some(false), None])),
        Arc::new(BooleanArray::from(vec![Some(false), Some(true), None])),
        Arc::new(StringViewArray::from(vec![Some("ann"), Some(""), None])),
        Arc::new(Int64Array::from(vec![Some(1), Some(2), None])),
        Arc::new(Int64Array::from(vec![Some(1), Some(2), None])),
    ];
    RecordBatch::try_new(schema().arrow(), columns).unwrap()
}

fn show(evaluated: &Evaluated, kind: Type) -> Vec<String> {
    let values = &evaluated.values;
    assert_eq!(values.data_type(), &kind.arrow());
    let any = values.as_any();
    let mut shown: Vec<String> = (0..values.len())
        .map(|row| match kind {
            _ if values.is_null(row) => "NULL".into(),
            Type::Int => any.downcast_ref::<Int64Array>().unwrap().value(row).to_string(),
            Type::Float => format!("{:?}", any.downcast_ref::<Float64Array>().unwrap().value(row)),
            Type::Bool => any.downcast_ref::<BooleanArray>().unwrap().value(row).to_string(),
            Type::String => any.downcast_ref::<StringViewArray>().unwrap().value(row).to_owned(),
            Type::Timestamp => {
                any.downcast_ref::<TimestampMicrosecondArray>().unwrap().value(row).to_string()
            }
            Type::Decimal(_) => unreachable!("they have a file of their own"),
        })
        .collect();
    for error in &evaluated.errors {
        assert_eq!(shown[error.row as usize], "NULL");
        shown[error.row as usize] = format!("! {}", error.message);
    }
    shown
}

#[track_caller]
fn check(expr: &str, expected: [&str; 3]) {
    let compiled = match compile(expr, &schema()) {
        Ok(compiled) => compiled,
        Err(errors) => panic!("{expr}: {errors:?}"),
    };
    let evaluated = compiled.evaluate(&batch());
    assert_eq!(show(&evaluated, compiled.kind()), expected, "{expr}");
    assert!(evaluated.errors.is_empty() || compiled.is_fallible(), "{expr} failed unannounced");
}

/// For expressions without columns.
#[track_caller]
fn constant(expr: &str, expected: &str) {
    check(expr, [expected; 3]);
}

#[test]
fn literals_are_what_they_say() {
    constant("42", "42");
    constant("-9223372036854775808", "-9223372036854775808");
    constant("1_000", "1000");
    constant("1.5", "1.5");
    constant(".5e1", "5.0");
    constant("'it''s'", "it's");
    constant("TRUE", "true");
    constant("TIMESTAMP '1970-01-01 00:00:01Z'", "1000000");
    constant("DATE '1970-01-02'", "86400000000");
    constant("CAST(NULL AS int)", "NULL");
}

#[test]
fn columns_are_found_by_the_names_they_have() {
    check("a", ["7", "-9223372036854775808", "NULL"]);
    check("\"a\"", ["7", "-9223372036854775808", "NULL"]);
    check("user", ["ann", "", "NULL"]);
    check("user = 'ann'", ["true", "false", "NULL"]);
    check("user.id", ["1", "2", "NULL"]);
    check("Mixed + \"Mixed\"", ["2", "4", "NULL"]);
}

#[test]
fn arithmetic_is_exact_or_an_error() {
    check("a + b", ["9", "-9223372036854775808", "NULL"]);
    check("a - b", ["5", "-9223372036854775808", "NULL"]);
    check("a * b", ["14", "0", "NULL"]);
    check("a / b", ["3", "! division by zero", "NULL"]);
    check("a % b", ["1", "! division by zero", "NULL"]);
    check("-a", ["-7", "! the opposite of -9223372036854775808 does not fit into an int", "NULL"]);
    check("a - 1", ["6", "! -9223372036854775808 - 1 does not fit into an int", "NULL"]);
    check("a / -1", ["-7", "! -9223372036854775808 / -1 does not fit into an int", "NULL"]);
    check("a % -1", ["0", "0", "NULL"]);
    check("a / 2", ["3", "-4611686018427387904", "NULL"]);
    check("a % 4", ["3", "0", "NULL"]);
    check("mod(a, 4)", ["3", "0", "NULL"]);
    check("b + x", ["4.5", "NaN", "NULL"]);
    check("x / b", ["1.25", "! division by zero", "NULL"]);
    check("1 + NULL * a", ["NULL"; 3]);
    constant("-7 / 2", "-3");
    constant("-7 % 3", "-1");
    constant("7 / 2.0", "3.5");
    constant("1 + 2 * 3 - 4 / 2", "5");
    constant("2 - 3 - 4", "-5");
    constant("1 / 0", "! division by zero");
    constant("1.0 / 0.0", "! division by zero");
}

#[test]
fn comparisons_of_each_type() {
    check("a = 7", ["true", "false", "NULL"]);
    check("a == 7", ["true", "false", "NULL"]);
    check("7 <> a", ["false", "true", "NULL"]);
    check("a != 7", ["false", "true", "NULL"]);
    check("a < b", ["false", "true", "NULL"]);
    check("a <= 7", ["true", "true", "NULL"]);
    check("a > 0", ["true", "false", "NULL"]);
    check("0 >= a", ["false", "true", "NULL"]);
    check("x = 2.5", ["true", "false", "NULL"]);
    check("x = x", ["true", "false", "NULL"]);
    check("x <> 2.5", ["false", "true", "NULL"]);
    check("b < x", ["true", "false", "NULL"]);
    check("x >= b", ["true", "false", "NULL"]);
    check("s = 'web-01.example.org'", ["true", "false", "NULL"]);
    check("s <> 'Grüße'", ["true", "false", "NULL"]);
    check("s > 'a'", ["true", "false", "NULL"]);
    check("s = user", ["false", "false", "NULL"]);
    check("'ann' <= user", ["true", "false", "NULL"]);
    check("p = q", ["false", "false", "NULL"]);
    check("p > q", ["true", "false", "NULL"]);
    check("p >= TRUE", ["true", "false", "NULL"]);
    check("t > '2026-01-01'", ["true", "false", "NULL"]);
    check("'1970-01-01' > t", ["false", "true", "NULL"]);
    check("a = NULL", ["NULL"; 3]);
    check("a IS DISTINCT FROM 7", ["false", "true", "true"]);
    check("a IS NOT DISTINCT FROM NULL", ["false", "false", "true"]);
}

#[test]
fn three_valued_logic_holds_for_every_pair() {
    let names = ["TRUE", "FALSE", "NULL"];
    let value = |name: &str| match name {
        "TRUE" => Some(true),
        "FALSE" => Some(false),
        _ => None,
    };
    let show = |value: Option<bool>| value.map_or("NULL".to_owned(), |value| value.to_string());
    for left in names {
        for right in names {
            let (a, b) = (value(left), value(right));
            let and = match (a, b) {
                (Some(false), _) | (_, Some(false)) => Some(false),
                (Some(true), Some(true)) => Some(true),
                _ => None,
            };
            let or = match (a, b) {
                (Some(true), _) | (_, Some(true)) => Some(true),
                (Some(false), Some(false)) => Some(false),
                _ => None,
            };
            // Once folded, and once over columns that hold these values.
            let column = |name: &str| match name {
                "TRUE" => "(a = a OR TRUE)",
                "FALSE" => "(p IS NULL AND FALSE)",
                _ => "(p AND NULL OR NULL)",
            };
            for (left, right) in [(left, right), (column(left), column(right))] {
                constant(&format!("{left} AND {right}"), &show(and));
                constant(&format!("{left} OR {right}"), &show(or));
            }
        }
    }
    check("p AND q", ["false", "false", "NULL"]);
    check("p OR q", ["true", "true", "NULL"]);
    check("p AND NULL", ["NULL", "false", "NULL"]);
    check("p OR NULL", ["true", "NULL", "NULL"]);
    check("NOT p", ["false", "true", "NULL"]);
    check("NOT p = q", ["true", "true", "NULL"]);
    check("p AND NOT q OR a IS NULL", ["true", "false", "true"]);
    check("p IS TRUE", ["true", "false", "false"]);
    check("p IS NOT TRUE", ["false", "true", "true"]);
    check("p IS FALSE", ["false", "true", "false"]);
    check("p IS NOT FALSE", ["true", "false", "true"]);
    check("p IS UNKNOWN", ["false", "false", "true"]);
    check("s IS NULL", ["false", "false", "true"]);
    check("s IS NOT NULL", ["true", "true", "false"]);
    constant("NULL IS NULL", "true");
}

#[test]
fn lists_and_ranges() {
    check("a IN (1, 7)", ["true", "false", "NULL"]);
    check("a NOT IN (1, 7)", ["false", "true", "NULL"]);
    check("a IN (1, NULL)", ["NULL", "NULL", "NULL"]);
    check("a IN (7, NULL)", ["true", "NULL", "NULL"]);
    check("a NOT IN (7, NULL)", ["false", "NULL", "NULL"]);
    check("a IN (1, b, b + 5)", ["true", "false", "NULL"]);
    check("a IN (2.5, 7)", ["true", "false", "NULL"]);
    check("x IN (2.5)", ["true", "false", "NULL"]);
    check("p IN (TRUE)", ["true", "false", "NULL"]);
    check("user IN ('', 'bob')", ["false", "true", "NULL"]);
    check("user IN ('a', 'b', 'c', 'd', 'ann')", ["true", "false", "NULL"]);
    check("t IN ('1969-12-31T23:59:59.999999Z')", ["false", "true", "NULL"]);
    let many = (0..100).map(|n| n.to_string()).collect::<Vec<_>>().join(", ");
    check(&format!("a IN ({many})"), ["true", "false", "NULL"]);
    check("a BETWEEN 1 AND 7", ["true", "false", "NULL"]);
    check("a NOT BETWEEN 1 AND 7", ["false", "true", "NULL"]);
    check("a BETWEEN 8 AND NULL", ["false", "false", "NULL"]);
    check("t BETWEEN '2026-01-01' AND '2027-01-01'", ["true", "false", "NULL"]);
    check("b BETWEEN 0.5 AND 2", ["true", "false", "NULL"]);
}

#[test]
fn patterns() {
    check("s LIKE 'web%'", ["true", "false", "NULL"]);
    check("s LIKE 'web-01.ex%'", ["true", "false", "NULL"]);
    check("s LIKE 'web-02%'", ["false", "false", "NULL"]);
    check("s NOT LIKE '%.org'", ["false", "true", "NULL"]);
    check("s LIKE '%example%'", ["true", "false", "NULL"]);
    check("s LIKE 'Gr__e'", ["false", "true", "NULL"]);
    check("s LIKE 'w%.%.org'", ["true", "false", "NULL"]);
    check("s LIKE 'Grüße'", ["false", "true", "NULL"]);
    check("s LIKE '%'", ["true", "true", "NULL"]);
    check("user LIKE ''", ["false", "true", "NULL"]);
    check("s ILIKE 'GRÜSSE'", ["false", "false", "NULL"]);
    check("s ILIKE 'gRÜ%'", ["false", "true", "NULL"]);
    check("s NOT ILIKE '%EXAMPLE%'", ["false", "true", "NULL"]);
    check("s LIKE NULL", ["NULL"; 3]);
    constant("'50%' LIKE '50!%' ESCAPE '!'", "true");
    constant("'500' LIKE '50!%' ESCAPE '!'", "false");
    constant("'50%' LIKE '50\\%'", "true");
    constant("'a\\b' LIKE 'a\\b' ESCAPE ''", "true");
    constant("'a.c' LIKE 'a_c'", "true");
    constant("'a\nc' LIKE 'a%_c'", "true");
    constant("'abc' LIKE 'a' || '%'", "true");
    check("s ~ '^web-[0-9]+'", ["true", "false", "NULL"]);
    check("s !~* 'GRÜ'", ["true", "false", "NULL"]);
    check("regexp_like(s, '\\d\\d')", ["true", "false", "NULL"]);
    check("regexp_like(s, 'WEB', 'i')", ["true", "false", "NULL"]);
    check("regexp_extract(s, 'web-(\\d+)', 1)", ["01", "NULL", "NULL"]);
    check("regexp_extract(s, '[a-z]+')", ["web", "r", "NULL"]);
    check("regexp_replace(s, '(\\d)(\\d)', '\\2\\1$1')", ["web-10$1.example.org", "Grüße", "NULL"]);
    check(
        "regexp_replace(s, '[ae]', '<\\&>', 'g')",
        ["w<e>b-01.<e>x<a>mpl<e>.org", "Grüß<e>", "NULL"],
    );
    constant("regexp_replace('aaa', 'a', '')", "aa");
    constant("regexp_replace('abc', '', '-', 'g')", "-a-b-c-");
}

#[test]
fn case_takes_the_first_branch_that_is_true() {
    check(
        "CASE WHEN a > 0 THEN 'plus' WHEN a < 0 THEN 'minus' ELSE s END",
        ["plus", "minus", "NULL"],
    );
    check("CASE WHEN p THEN s ELSE user END", ["web-01.example.org", "", "NULL"]);
    check("CASE b WHEN 2 THEN 'two' WHEN 0 THEN 'zero' END", ["two", "zero", "NULL"]);
    check("CASE b WHEN 2 THEN 1 ELSE 2.5 END", ["1.0", "2.5", "2.5"]);
    check("CASE WHEN p THEN q END", ["false", "NULL", "NULL"]);
    check("CASE WHEN NULL THEN 1 ELSE b END", ["2", "0", "NULL"]);
    check("CASE WHEN p THEN t ELSE '1970-01-01' END", ["1795409190123456", "0", "0"]);
    check("coalesce(a, b, 5)", ["7", "-9223372036854775808", "5"]);
    check("coalesce(NULL, user, 'none')", ["ann", "", "none"]);
    check("coalesce(x, 0)", ["2.5", "NaN", "0.0"]);
    check("nullif(b, 0)", ["2", "NULL", "NULL"]);
    check("nullif(user, '')", ["ann", "NULL", "NULL"]);
    check("greatest(a, b, 3)", ["7", "3", "3"]);
    check("least(a, b)", ["2", "-9223372036854775808", "NULL"]);
    check("greatest(x, 1)", ["2.5", "1.0", "1.0"]);
    check("least(user, 'm')", ["ann", "", "m"]);
    check("greatest(t, '1970-01-01')", ["1795409190123456", "0", "0"]);
}

#[test]
fn errors_of_branches_not_taken_do_not_count() {
    check("CASE WHEN b <> 0 THEN a / b END", ["3", "NULL", "NULL"]);
    check("CASE WHEN b <> 0 THEN a / b ELSE -1 END", ["3", "-1", "-1"]);
    check("CASE WHEN b = 0 THEN 0 WHEN a / b > 1 THEN 1 END", ["1", "0", "NULL"]);
    check("CASE a / b WHEN 3 THEN 1 END", ["1", "! division by zero", "NULL"]);
    check("b = 0 OR a / b > 1", ["true", "true", "NULL"]);
    check("b <> 0 AND a / b > 1", ["true", "false", "NULL"]);
    check("a / b > 1 OR b = 0", ["true", "! division by zero", "NULL"]);
    check("NULL OR a / b > 1", ["true", "! division by zero", "NULL"]);
    check("p AND b > 0 AND a / b = 3", ["true", "false", "NULL"]);
    check("coalesce(b, a / b)", ["2", "0", "NULL"]);
    check("coalesce(a / b, 1)", ["3", "! division by zero", "1"]);
    check("b IN (0, a / b)", ["false", "true", "NULL"]);
    check("b IN (a / b, 0)", ["false", "! division by zero", "NULL"]);
    check("FALSE AND 1 / 0 = 1", ["false"; 3]);
    check("TRY_CAST(a / b AS string)", ["3", "! division by zero", "NULL"]);
    check("b = 0 OR (a / b > 1 AND a / b < 100)", ["true", "true", "NULL"]);
}

#[test]
fn casts_between_all_types() {
    check("CAST(a AS string)", ["7", "-9223372036854775808", "NULL"]);
    check("a::float", ["7.0", "-9.223372036854776e18", "NULL"]);
    check("b::bool", ["true", "false", "NULL"]);
    check("b::timestamp", ["2000000", "0", "NULL"]);
    check(
        "a::timestamp",
        ["7000000", "! -9223372036854775808 seconds do not fit into a timestamp", "NULL"],
    );
    check("x::int", ["2", "! NaN does not fit into an int", "NULL"]);
    check("TRY_CAST(x AS int)", ["2", "NULL", "NULL"]);
    check("x::string", ["2.5", "NaN", "NULL"]);
    check("x::bool", ["true", "! NaN is neither true nor false", "NULL"]);
    check("x::timestamp", ["2500000", "! NaN does not fit into a timestamp", "NULL"]);
    check("p::string", ["true", "false", "NULL"]);
    check("p::int", ["1", "0", "NULL"]);
    check("p::float", ["1.0", "0.0", "NULL"]);
    check("t::string", ["2026-11-23T04:46:30.123456Z", "1969-12-31T23:59:59.999999Z", "NULL"]);
    check("t::int", ["1795409190", "-1", "NULL"]);
    check("t::float", ["1795409190.123456", "-1e-6", "NULL"]);
    check("user::int", ["! \"ann\" is not an int", "! \"\" is not an int", "NULL"]);
    check("TRY_CAST(user AS int)", ["NULL"; 3]);
    constant("' 42 '::int", "42");
    constant("'9223372036854775808'::int", "! \"9223372036854775808\" is not an int");
    constant("'1e3'::float", "1000.0");
    constant("'x'::float", "! \"x\" is not a float");
    constant("'Yes'::bool", "true");
    constant("'off'::bool", "false");
    constant("'maybe'::bool", "! \"maybe\" is not a bool");
    constant("'1970-01-01T00:00:01Z'::timestamp", "1000000");
    constant("'soon'::timestamp", "! \"soon\" is not a timestamp");
    constant("2.5::int", "2");
    constant("3.5::int", "4");
    constant("1e300::string", "1e300");
    constant("9223372036854775807.0::int", "! 9.223372036854776e18 does not fit into an int");
    constant("to_timestamp(1.5)", "1500000");
    constant("to_timestamp('1970-01-02')", "86400000000");
}

#[test]
fn functions_of_text_count_characters() {
    check("lower(s)", ["web-01.example.org", "grüße", "NULL"]);
    check("upper(s)", ["WEB-01.EXAMPLE.ORG", "GRÜSSE", "NULL"]);
    check("length(s)", ["18", "5", "NULL"]);
    check("substr(s, 3, 2)", ["b-", "üß", "NULL"]);
    check("substring(s, 5)", ["01.example.org", "e", "NULL"]);
    check("substring(s FROM 2 FOR 3)", ["eb-", "rüß", "NULL"]);
    check("substring(s FOR 1)", ["w", "G", "NULL"]);
    check("substr(s, 0, 3)", ["we", "Gr", "NULL"]);
    check("substr(s, b, 1)", ["e", "", "NULL"]);
    check("substr(s, 1, b - 1)", ["w", "! substr: the count is negative", "NULL"]);
    check("left(s, 2)", ["we", "Gr", "NULL"]);
    check("left(s, -2)", ["web-01.example.o", "Grü", "NULL"]);
    check("right(s, 2)", ["rg", "ße", "NULL"]);
    check("right(s, -2)", ["b-01.example.org", "üße", "NULL"]);
    check("left(s, 9223372036854775807)", ["web-01.example.org", "Grüße", "NULL"]);
    check("right(s, -9223372036854775808)", ["", "", "NULL"]);
    check("replace(s, 'e', 'E')", ["wEb-01.ExamplE.org", "GrüßE", "NULL"]);
    check("replace(s, '', 'E')", ["web-01.example.org", "Grüße", "NULL"]);
    check("split_part(s, '.', 2)", ["example", "", "NULL"]);
    check("split_part(s, '.', -1)", ["org", "Grüße", "NULL"]);
    check(
        "split_part(s, '.', 0)",
        [
            "! split_part: fields are counted from 1, there is no field 0",
            "! split_part: fields are counted from 1, there is no field 0",
            "NULL",
        ],
    );
    check("starts_with(s, user)", ["false", "true", "NULL"]);
    check("ends_with(s, 'org')", ["true", "false", "NULL"]);
    check("contains(s, 'üß')", ["false", "true", "NULL"]);
    check("strpos(s, 'e')", ["2", "5", "NULL"]);
    check("position('x' IN s)", ["9", "0", "NULL"]);
    check("s || '!'", ["web-01.example.org!", "Grüße!", "NULL"]);
    check("user || a || p", ["ann7true", "-9223372036854775808false", "NULL"]);
    check("concat(user, '-', b)", ["ann-2", "-0", "-"]);
    constant("trim('  a ')", "a");
    constant("trim(both 'xy' FROM 'xyaxy')", "a");
    constant("trim(leading 'x' FROM 'xax')", "ax");
    constant("trim(trailing 'x' FROM 'xax')", "xa");
    constant("ltrim('xax', 'x') || rtrim('a ')", "axa");
    constant("btrim('xax', 'x')", "a");
}

#[test]
fn a_text_that_grows_without_bound_is_an_error_of_its_row() {
    let mut expr = "user".to_owned();
    for _ in 0..10 {
        expr = format!("replace({expr}, 'n', 'nnnnnnnnnnnnnnnnnnnnnnnnn')");
    }
    check(&expr, ["! the result is longer than 1048576 bytes", "", "NULL"]);
}

#[test]
fn functions_of_time() {
    let at = |text: &str| format!("(TIMESTAMP '{text}')::string");
    check("t::string", ["2026-11-23T04:46:30.123456Z", "1969-12-31T23:59:59.999999Z", "NULL"]);
    for (unit, first, second) in [
        ("year", "2026-01-01", "1969-01-01"),
        ("quarter", "2026-10-01", "1969-10-01"),
        ("month", "2026-11-01", "1969-12-01"),
        ("week", "2026-11-23", "1969-12-29"),
        ("day", "2026-11-23", "1969-12-31"),
        ("hour", "2026-11-23T04:00", "1969-12-31T23:00"),
        ("minute", "2026-11-23T04:46", "1969-12-31T23:59"),
        ("second", "2026-11-23T04:46:30", "1969-12-31T23:59:59"),
        ("millisecond", "2026-11-23T04:46:30.123", "1969-12-31T23:59:59.999"),
    ] {
        let expr = format!(
            "date_trunc('{unit}', t)::string = CASE WHEN p THEN {} ELSE {} END",
            at(first),
            at(second)
        );
        check(&expr, ["true", "true", "NULL"]);
    }
    check("extract(year FROM t)", ["2026", "1969", "NULL"]);
    check("extract(MONTH FROM t)", ["11", "12", "NULL"]);
    check("extract(dow FROM t)", ["1", "3", "NULL"]);
    check("extract(isodow FROM t)", ["1", "3", "NULL"]);
    check("extract(doy FROM t)", ["327", "365", "NULL"]);
    check("extract(week FROM t)", ["48", "1", "NULL"]);
    check("extract(hour FROM t)", ["4", "23", "NULL"]);
    check("extract(second FROM t)", ["30.123456", "59.999999", "NULL"]);
    check("extract(epoch FROM t)", ["1795409190.123456", "-1e-6", "NULL"]);
    check("date_part('day', t)", ["23", "31", "NULL"]);
    check("date_part('microseconds', t)", ["30123456", "59999999", "NULL"]);
}

#[test]
fn mathematics() {
    check("abs(b - 5)", ["3", "5", "NULL"]);
    check(
        "abs(a)",
        ["7", "! the opposite of -9223372036854775808 does not fit into an int", "NULL"],
    );
    check("abs(-x)", ["2.5", "NaN", "NULL"]);
    constant("abs(-1.5)", "1.5");
    check("round(x)", ["3.0", "NaN", "NULL"]);
    check("round(b)", ["2", "0", "NULL"]);
    check("floor(x) + ceil(x)", ["5.0", "NaN", "NULL"]);
    check("sqrt(b - 1)", ["1.0", "! sqrt: -1 is negative", "NULL"]);
    check("power(b, 3)", ["8.0", "0.0", "NULL"]);
    constant("round(2.345, 2)", "2.35");
    constant("round(-2.5)", "-3.0");
    constant("round(1234.5, -2)", "1200.0");
    constant("round(1.5, 9223372036854775807)", "1.5");
    constant("round(1.5, -9223372036854775808)", "0.0");
    constant("ceiling(1.2)", "2.0");
    constant("power(-1, 0.5)", "! power(-1, 0.5) is not a number or too large");
}

#[test]
fn a_batch_may_hold_other_columns_in_another_order() {
    let expr = compile("b + a", &schema()).unwrap();
    assert_eq!(expr.columns(), ["a", "b"]);
    let batch = batch().project(&[9, 1, 0, 3]).unwrap();
    assert_eq!(show(&expr.evaluate(&batch), Type::Int)[0], "9");
    let lacking = batch.project(&[0, 1]).unwrap();
    let evaluated = expr.evaluate(&lacking);
    assert_eq!(evaluated.errors.len(), 3);
    assert_eq!(evaluated.errors[0].message, "the batch has no column `a` of type int");
}

#[test]
fn what_can_fail_says_so() {
    for (expr, fallible) in [
        ("a = 7 AND s LIKE 'x%' OR x < 3.0", false),
        ("a + 1", true),
        ("x + 1", false),
        ("a / 2", false),
        ("a / b", true),
        ("lower(s)", false),
        ("CAST(s AS int)", true),
        ("TRY_CAST(s AS int)", false),
        ("CAST(a AS string)", false),
    ] {
        assert_eq!(compile(expr, &schema()).unwrap().is_fallible(), fallible, "{expr}");
    }
}

#[test]
fn only_a_bare_column_is_a_column() {
    let column = |expr: &str| compile(expr, &schema()).unwrap().column().map(str::to_owned);
    assert_eq!(column("a"), Some("a".into()));
    assert_eq!(column("(\"user\")"), Some("user".into()));
    assert_eq!(column("a + 0"), None);
}

#[test]
fn an_empty_batch_has_no_values_and_no_errors() {
    let empty = batch().slice(0, 0);
    for expr in ["a / b", "s || 'x'", "1 / 0", "p AND q", "'x'", "CASE WHEN p THEN s END"] {
        let evaluated = compile(expr, &schema()).unwrap().evaluate(&empty);
        assert_eq!((evaluated.values.len(), evaluated.errors.len()), (0, 0), "{expr}");
    }
}

#[test]
fn a_slice_of_a_batch_is_a_batch() {
    let slice = batch().slice(1, 2);
    for (expr, expected) in [
        ("a IS NULL", ["false", "true"]),
        ("p OR q", ["true", "NULL"]),
        ("s LIKE 'Gr%'", ["true", "NULL"]),
        ("s = 'Grüße' AND b = 0", ["true", "NULL"]),
        ("coalesce(user, 'x')", ["", "x"]),
    ] {
        let expr = compile(expr, &schema()).unwrap();
        assert_eq!(show(&expr.evaluate(&slice), expr.kind()), expected);
    }
}

#[test]
fn spans_of_time_are_added_compared_and_measured() {
    const T: i64 = 1_795_409_190_123_456;
    let moved = |by: i64| [(T + by).to_string(), (by - 1).to_string(), "NULL".to_owned()];
    let check_moved = |expr: &str, by: i64| {
        let [one, two, three] = moved(by);
        check(expr, [&one, &two, &three]);
    };
    check_moved("t + INTERVAL '1 minute'", 60_000_000);
    check_moved("INTERVAL '1 minute' + t", 60_000_000);
    check_moved("t - interval '1 day 2 hours'", -26 * 3_600_000_000);
    check_moved("t + INTERVAL '5' MINUTE", 300_000_000);
    check_moved("t + 3 * interval '1.5 s'", 4_500_000);
    check_moved("t + (interval '1 h' - interval '30 min')", 1_800_000_000);
    check("extract(epoch FROM t - t)", ["0.0", "0.0", "NULL"]);
    check("extract(epoch FROM t - TIMESTAMP '1970-01-01')", ["1795409190.123456", "-1e-6", "NULL"]);
    check("t - TIMESTAMP '1970-01-01' > interval '1 second'", ["true", "false", "NULL"]);
    check("t > TIMESTAMP '1970-01-01' + interval '0.5 s'", ["true", "false", "NULL"]);
    check("t + interval '1 s' IS NULL", ["false", "false", "true"]);
}
