//! What a mistake in an expression is answered with, and where it is said to stand.
#![allow(clippy::unwrap_used, missing_docs)]

use std::sync::Arc;

use arrow_array::{ArrayRef, Int64Array, RecordBatch, RecordBatchOptions};
use tidemill_operators::aggregate::{Function, Share};
use tidemill_operators::expr::{ExprError, Secrets, compile, compile_aggregate};
use tidemill_operators::{Column, Schema, Type};

fn schema() -> Schema {
    let columns = [
        ("status", Type::Int),
        ("host", Type::String),
        ("ms", Type::Float),
        ("ts", Type::Timestamp),
        ("ok", Type::Bool),
    ];
    Schema::new(columns.map(|(name, kind)| Column::new(name, kind)).to_vec())
}

fn show(errors: Vec<ExprError>) -> Vec<String> {
    errors.iter().map(|error| format!("{}: {error}", error.at)).collect()
}

#[track_caller]
fn check(expr: &str, expected: &[&str]) {
    match compile(expr, &schema()) {
        Ok(compiled) => panic!("{expr} is a {}", compiled.kind()),
        Err(errors) => assert_eq!(show(errors), expected, "{expr}"),
    }
}

#[track_caller]
fn says(expr: &str, part: &str) {
    let errors = show(compile(expr, &schema()).err().unwrap_or_default());
    assert!(errors.iter().any(|error| error.contains(part)), "{expr}: {errors:?}");
}

#[test]
fn an_unknown_name_is_answered_with_the_nearest() {
    check("statsu >= 500", &["0: there is no column `statsu` (did you mean `status`?)"]);
    check("1 + STATUS", &["4: there is no column `STATUS` (did you mean `status`?)"]);
    check(
        "host = \"web\"",
        &["7: there is no column `web` (text stands in single quotes, names in double quotes)"],
    );
    check("zzzzz", &["0: there is no column `zzzzz` (the columns are status, host, ms, ts, ok)"]);
    check("uper(host)", &["0: there is no function `uper` (did you mean `upper`?)"]);
    check(
        "now()",
        &["0: there is no function `now` (there is no clock: a result depends only on the file)"],
    );
    check("date_trunc('hours', ts)", &["11: there is no unit `hours` here (did you mean `hour`?)"]);
    check(
        "CAST(host AS integre)",
        &["5: there is no type integre (the types are string, int, float, bool, timestamp, and \
           decimal(12,2) with up to 38 digits)"],
    );
}

#[test]
fn all_mistakes_are_told_at_once_from_left_to_right() {
    check(
        "hots = 1 AND status = 'x' OR foo(ms)",
        &[
            "0: there is no column `hots` (did you mean `host`?)",
            "22: `=` cannot mix int and string (numbers stand without quotes)",
            "29: there is no function `foo` (did you mean `floor`?)",
        ]
        .map(|text| text.replace(" (did you mean `floor`?)", ""))
        .each_ref()
        .map(String::as_str),
    );
    check(
        "CASE WHEN a THEN b ELSE c END",
        &[
            "10: there is no column `a` (the columns are status, host, ms, ts, ok)",
            "17: there is no column `b` (the columns are status, host, ms, ts, ok)",
            "24: there is no column `c` (the columns are status, host, ms, ts, ok)",
        ],
    );
}

#[test]
fn types_that_do_not_fit_are_told_with_a_way_out() {
    check("status = '500'", &["9: `=` cannot mix int and string (numbers stand without quotes)"]);
    check("host = 5", &["7: `=` cannot mix string and int (text stands in single quotes)"]);
    check("ok AND status", &["7: AND takes a condition, not an int (compare it, as in a <> 0)"]);
    check("NOT host", &["4: NOT takes a condition, not a string (compare it, as in a = 'x')"]);
    check(
        "host + 1",
        &[
            "0: `+` takes numbers, not a string (join text with `||`, or cast it, as in CAST(a AS int))",
        ],
    );
    check(
        "ts * 2",
        &["0: `*` takes numbers, not a timestamp (extract(epoch FROM t) gives seconds)"],
    );
    check(
        "status || ms",
        &["0: `||` joins text, and here is none (cast one of them, as in CAST(a AS string))"],
    );
    check(
        "status LIKE '5%'",
        &["0: LIKE takes a string, not an int (cast it, as in CAST(a AS string))"],
    );
    check(
        "ts > 'yesterday'",
        &[
            "5: 'yesterday' is not a timestamp (write it like 2026-01-31T12:00:00Z, or 2026-01-31 for \
         midnight in UTC)",
        ],
    );
    check("CAST(ok AS timestamp)", &["5: a bool cannot become a timestamp"]);
    check("-host", &["1: `-` takes a number, not a string"]);
    check("NULL", &["0: cannot tell the type of NULL (say which, as in CAST(NULL AS int))"]);
    check(
        "coalesce(NULL, NULL)",
        &["0: cannot tell the type of coalesce (say which, as in CAST(NULL AS int))"],
    );
    check(
        "99999999999999999999",
        &[
            "0: the number 99999999999999999999 is too large (an int has 64 bits; write 1e30 for a float)",
        ],
    );
}

#[test]
fn functions_say_what_they_take() {
    check("upper(host, 1)", &["0: upper does not take 2 arguments (it is upper(string))"]);
    check(
        "substr(host)",
        &["7: substr does not take 1 argument (it is substr(string, int [, int]))"],
    );
    check("length(status)", &["7: expected a string, found an int (it is length(string))"]);
    check("power(2, host)", &["9: expected a float, found a string (it is power(float, float))"]);
    check("mod(1)", &["0: mod does not take 1 argument (it is mod(number, number))"]);
    check(
        "date_trunc(host, ts)",
        &["11: the unit must be a literal (it is date_trunc('unit', timestamp))"],
    );
    check(
        "sum(status)",
        &[
            "0: sum is an aggregate function (aggregates stand directly in `compute:` of an aggregate \
         operator)",
        ],
    );
}

#[test]
fn patterns_are_checked_when_they_are_read() {
    check("regexp_like(host, '(')", &["18: bad regular expression: unclosed group"]);
    check("regexp_like(host, 'a', 'q')", &["18: there is no flag `q`, only i, s, m, x"]);
    check(
        "host LIKE host",
        &[
            "10: the pattern of LIKE must be a literal (for text out of a column use starts_with(a, b) \
         or contains(a, b))",
        ],
    );
    check("host LIKE 'a\\'", &["10: the LIKE pattern ends with its escape character"]);
    check("host LIKE 'a' ESCAPE 'xy'", &["21: ESCAPE takes one character"]);
    check("regexp_extract(host, 'a', 1)", &["21: the pattern has 0 groups, there is no group 1"]);
    check("regexp_replace(host, 'a', '\\1')", &["21: the pattern has 0 groups, there is no \\1"]);
    says("regexp_like(host, '(a{1000}){1000}')", "needs more than 1048576 bytes");
    says("regexp_like(host, '\\w{500}')", "bytes when compiled");
}

#[test]
fn what_only_queries_have_is_refused_by_name() {
    for (expr, what) in [
        ("(SELECT 1)", "a subquery is"),
        ("status IN (SELECT 1)", "a subquery is"),
        ("EXISTS (SELECT 1)", "a subquery is"),
        ("upper(host) OVER ()", "a window function (OVER) is"),
        ("count(*) FILTER (WHERE ok)", "FILTER is"),
        ("status = ANY(ARRAY[1])", "ANY or ALL is"),
        ("ARRAY[1]", "an array is"),
        ("ts AT TIME ZONE 'UTC'", "AT TIME ZONE is"),
        ("host COLLATE \"C\"", "COLLATE is"),
        ("host SIMILAR TO 'a'", "SIMILAR TO is"),
        ("status ^ 2", "the operator `^` is"),
        ("status & 2", "the operator `&` is"),
        ("host -> 'a'", "the operator `->` is"),
        ("CURRENT_TIMESTAMP", "is not supported"),
        ("(1, 2)", "a tuple is"),
        ("X'ff'", "the literal X'ff' is"),
        ("$1", "the literal $1 is"),
    ] {
        says(expr, what);
    }
}

#[test]
fn a_text_that_is_no_expression_is_told_where_it_stops_making_sense() {
    check("", &["0: the expression is empty"]);
    check("  -- nothing", &["0: the expression is empty"]);
    check("status >", &["8: expected an expression, found the end"]);
    check("status ) 1", &["7: unexpected `)` after the expression"]);
    check("status = 1 status = 2", &["11: unexpected `status` after the expression"]);
    check("ok AND\n  (status = )", &["19: expected an expression, found `)`"]);
    check("'üü' = host )", &["14: unexpected `)` after the expression"]);
    says("SELECT 1", "not a query");
    says("host = 'open", "nterminated");
    says("status = 1 AS x", "the name of a column stands before its expression");
}

#[test]
fn no_text_exhausts_the_stack() {
    let deep = "nested deeper than 64 levels";
    says(&format!("{}1{}", "(".repeat(10_000), ")".repeat(10_000)), deep);
    says(&format!("{}ok", "NOT ".repeat(10_000)), deep);
    says(&format!("{}1", "- ".repeat(10_000)), deep);
    says(&"CASE WHEN ".repeat(5_000), deep);
    says(&"abs(".repeat(10_000), deep);
    says(&format!("ok{}", " IS NULL".repeat(1_000)), deep);
    says(&format!("status{}", "::int".repeat(1_000)), deep);
    says(&format!("status{}", " + 1".repeat(1_000)), deep);
    says(&"a".repeat(70_000), "at most 65536 bytes");
    says(&format!("status{}", "+1".repeat(30_000)), "at most 8192 words and operators");
    assert!(compile(&format!("status{}", " + 1".repeat(200)), &schema()).is_ok());
    assert!(compile(&format!("ok{}", " OR ok".repeat(4_000)), &schema()).is_ok());
    assert!(compile(&format!("ok{}", " AND ok OR ok".repeat(60)), &schema()).is_ok());
    assert!(compile(&format!("status IN (0{})", ",12345".repeat(10_000)), &schema()).is_ok());
    for open in ["(", "abs(", "abs(-(", "coalesce(1, "] {
        let levels = 64 / open.matches('(').count();
        let close = ")".repeat(open.matches('(').count() * levels);
        let text = format!("{}1{close}", open.repeat(levels));
        let result = compile(&text, &schema());
        assert!(result.is_ok() || open.contains('-'), "{open}: {result:?}");
    }
    let rows = RecordBatchOptions::new().with_row_count(Some(2));
    let column: ArrayRef = Arc::new(Int64Array::from(vec![1, 2]));
    let one = Schema::new(vec![Column::new("status", Type::Int)]);
    let batch = RecordBatch::try_new_with_options(one.arrow(), vec![column], &rows).unwrap();
    for high in [
        format!("status{}", " + 1".repeat(250)),
        format!("{}status{}", "abs(".repeat(64), ")".repeat(64)),
        format!("{}status{}", "(0 + ".repeat(64), ")".repeat(64)),
        format!("{}status{}", "CASE WHEN status > 0 THEN ".repeat(64), " END".repeat(64)),
        format!("{}status{}", "coalesce(status, ".repeat(64), ")".repeat(64)),
    ] {
        let evaluated = compile(&high, &schema()).unwrap().evaluate(&batch);
        assert!(evaluated.errors.is_empty());
    }
    let cases = format!("{}1{}", "CASE WHEN ok THEN ".repeat(64), " END".repeat(64));
    assert!(compile(&cases, &schema()).is_ok());
    let spine = format!("{}1{}", "(".repeat(60), " + 1)".repeat(60));
    assert!(compile(&spine, &schema()).is_ok());
}

fn quantile(share: f64) -> Function {
    Function::ApproxQuantile(Share::new(share).unwrap())
}

#[test]
fn aggregates_have_the_type_of_what_they_compute() {
    for (text, function, kind, argument) in [
        ("count(*)", Function::CountAll, Type::Int, None),
        ("COUNT(host)", Function::Count, Type::Int, Some(Type::String)),
        ("sum(status)", Function::Sum, Type::Int, Some(Type::Int)),
        ("sum(ms * 2)", Function::Sum, Type::Float, Some(Type::Float)),
        ("avg(status)", Function::Avg, Type::Float, Some(Type::Int)),
        ("min(host)", Function::Min, Type::String, Some(Type::String)),
        ("max(ts)", Function::Max, Type::Timestamp, Some(Type::Timestamp)),
        ("count(DISTINCT host)", Function::CountDistinct, Type::Int, Some(Type::String)),
        ("first(ok)", Function::First, Type::Bool, Some(Type::Bool)),
        ("last(host ORDER BY ts DESC, ms)", Function::Last, Type::String, Some(Type::String)),
        ("arg_max(host, ms)", Function::ArgMax, Type::String, Some(Type::String)),
        ("variance(status)", Function::VarSamp, Type::Float, Some(Type::Int)),
        ("stddev(ms)", Function::StddevSamp, Type::Float, Some(Type::Float)),
        ("stddev_pop(ms)", Function::StddevPop, Type::Float, Some(Type::Float)),
        ("approx_distinct(ts)", Function::ApproxDistinct, Type::Int, Some(Type::Timestamp)),
        ("approx_quantile(ms, 0.25)", quantile(0.25), Type::Float, Some(Type::Float)),
        ("approx_quantile(ms, 1)", quantile(1.0), Type::Float, Some(Type::Float)),
        ("approx_median(status)", quantile(0.5), Type::Float, Some(Type::Int)),
    ] {
        let aggregate = compile_aggregate(text, &schema(), &Secrets::default()).unwrap();
        assert_eq!((aggregate.function, aggregate.kind), (function, kind), "{text}");
        assert_eq!(aggregate.argument.map(|argument| argument.kind()), argument, "{text}");
    }
}

#[test]
fn what_is_no_aggregate_is_told_what_is_one() {
    let usage = "(write for example count(*), count(DISTINCT x), sum(x), avg(x), min(x), \
                 first(x ORDER BY t) or approx_quantile(x, 0.9))";
    for (text, expected) in [
        ("status", format!("0: expected one aggregate call {usage}")),
        ("sum(status) + 1", format!("0: expected one aggregate call {usage}")),
        ("sun(status)", "0: there is no aggregate function `sun` (did you mean `sum`?)".into()),
        ("sum(status, ms)", format!("0: sum takes one argument {usage}")),
        ("sum(*)", format!("0: sum takes one argument {usage}")),
        (
            "sum(host)",
            "4: sum takes numbers, not a string (cast it, as in sum(CAST(x AS int)))".into(),
        ),
        (
            "max(ok)",
            "4: min and max do not take a bool (cast it, as in max(CAST(x AS int)))".into(),
        ),
        (
            "sum(DISTINCT status)",
            "0: sum does not take DISTINCT (only count(DISTINCT x) takes it)".into(),
        ),
        (
            "sum(status ORDER BY ts)",
            "0: sum does not take ORDER BY (only first(x ORDER BY t) and last(x ORDER BY t) take it)"
                .into(),
        ),
        (
            "first(host ORDER BY tss)",
            "20: there is no column `tss` (did you mean `ts`?)".into(),
        ),
        (
            "arg_min(host)",
            "0: arg_min takes two arguments (arg_min(x, t) gives the x of the row with that t)"
                .into(),
        ),
        (
            "median(ms)",
            "0: there is no aggregate function `median` (approx_median(x) and \
             approx_quantile(x, 0.9) are right to 0.8%; there is no exact one)"
                .into(),
        ),
        ("max_by(host, ts)", "0: there is no aggregate function `max_by` (use arg_max(x, t))".into()),
        (
            "approx_quantile(ms, 95)",
            "20: a share is a literal from 0 to 1 (for example approx_quantile(x, 0.99))".into(),
        ),
        (
            "approx_quantile(ms, ms)",
            "20: a share is a literal from 0 to 1 (for example approx_quantile(x, 0.99))".into(),
        ),
        (
            "stddev(ts)",
            "7: stddev_samp takes numbers, not a timestamp (extract(epoch FROM x) gives seconds)"
                .into(),
        ),
        ("first(ts - ts)", "6: a span of time cannot stand here (it stands beside a timestamp, as in \
          t + INTERVAL '1 hour'; extract(epoch FROM a - b) gives seconds)".into()),
        ("sum(statsu)", "4: there is no column `statsu` (did you mean `status`?)".into()),
        (
            "sum(NULL)",
            "4: cannot tell the type of NULL (say which, as in CAST(NULL AS int))".into(),
        ),
    ] {
        let errors = compile_aggregate(text, &schema(), &Secrets::default()).unwrap_err();
        assert_eq!(show(errors), [expected], "{text}");
    }
}

#[test]
fn a_span_of_time_stands_beside_time_only() {
    let hint = "it stands beside a timestamp, as in t + INTERVAL '1 hour'; \
                extract(epoch FROM a - b) gives seconds";
    let nowhere = |at: usize| format!("{at}: a span of time cannot stand here ({hint})");
    check("ts - ts", &[&nowhere(0)]);
    check("coalesce(ts - ts, ts)", &[&nowhere(9)]);
    check("ok AND ts - ts", &[&nowhere(7)]);
    check("host || (ts - ts)", &[&nowhere(9)]);
    says("ts + INTERVAL '1 month'", "months and years have no fixed length (say it in days");
    says("ts + INTERVAL 'soon'", "'soon' is not a span of time (write it like");

    says("status + INTERVAL '1 day'", "`+` does not fit a span of time");
    says("ts - ts > 5", "a span of time is compared with a span of time");
    says("extract(hour FROM ts - ts)", "a span of time has no parts");
    says("ts + INTERVAL host", "INTERVAL takes a literal");
}
