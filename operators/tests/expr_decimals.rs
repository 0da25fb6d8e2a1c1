//! What decimals are worth in expressions: the type of each outcome and its values, to the digit.
#![allow(clippy::unwrap_used, missing_docs)]

use std::sync::Arc;

use arrow_array::{
    Array, ArrayRef, Decimal128Array, Float64Array, Int64Array, RecordBatch, StringViewArray,
};
use tidemill_operators::expr::{Secrets, compile, compile_aggregate};
use tidemill_operators::value::Value;
use tidemill_operators::{Column, Decimal, Schema, Type};

const MOST: i128 = 10_i128.pow(38) - 1;

fn decimal(precision: u8, scale: u8) -> Type {
    Type::Decimal(Decimal::new(precision, scale).unwrap())
}

fn schema() -> Schema {
    let columns = [
        ("price", decimal(12, 2)),
        ("rate", decimal(5, 4)),
        ("wide", decimal(38, 0)),
        ("n", Type::Int),
        ("x", Type::Float),
        ("s", Type::String),
        ("t", Type::Timestamp),
    ];
    Schema::new(columns.map(|(name, kind)| Column::new(name, kind)).to_vec())
}

/// Three rows: plain values, awkward values, NULL.
fn batch() -> RecordBatch {
    let decimals = |kind: Type, values: [Option<i128>; 3]| -> ArrayRef {
        Arc::new(Decimal128Array::from(values.to_vec()).with_data_type(kind.arrow()))
    };
    let times = arrow_array::TimestampMicrosecondArray::from(vec![Some(1_500_000), Some(-1), None]);
    let columns: Vec<ArrayRef> = vec![
        decimals(decimal(12, 2), [Some(1234), Some(-5), None]),
        decimals(decimal(5, 4), [Some(1900), Some(-12_345), None]),
        decimals(decimal(38, 0), [Some(MOST), Some(-MOST), None]),
        Arc::new(Int64Array::from(vec![Some(3), Some(i64::MIN), None])),
        Arc::new(Float64Array::from(vec![Some(0.5), Some(f64::NAN), None])),
        Arc::new(StringViewArray::from(vec![Some(" 12.345 "), Some("x"), None])),
        Arc::new(times.with_timezone("UTC")),
    ];
    RecordBatch::try_new(schema().arrow(), columns).unwrap()
}

fn cell(array: &ArrayRef, kind: Type, row: usize) -> String {
    if array.is_null(row) {
        return "NULL".to_owned();
    }
    let any = array.as_any();
    match kind {
        Type::Decimal(digits) => {
            let units = any.downcast_ref::<Decimal128Array>().unwrap().value(row);
            assert!(digits.holds(units), "{units} is no {kind}");
            Value::Decimal { units, scale: digits.scale() }.to_string()
        }
        Type::Int => any.downcast_ref::<Int64Array>().unwrap().value(row).to_string(),
        Type::Float => format!("{:?}", any.downcast_ref::<Float64Array>().unwrap().value(row)),
        Type::String => any.downcast_ref::<StringViewArray>().unwrap().value(row).to_owned(),
        Type::Bool => {
            any.downcast_ref::<arrow_array::BooleanArray>().unwrap().value(row).to_string()
        }
        Type::Timestamp => {
            let times = any.downcast_ref::<arrow_array::TimestampMicrosecondArray>();
            times.unwrap().value(row).to_string()
        }
    }
}

#[track_caller]
fn check(expr: &str, kind: &str, expected: [&str; 3]) {
    let compiled = match compile(expr, &schema()) {
        Ok(compiled) => compiled,
        Err(errors) => panic!("{expr}: {errors:?}"),
    };
    assert_eq!(compiled.kind().to_string(), kind, "{expr}");
    let evaluated = compiled.evaluate(&batch());
    assert_eq!(*evaluated.values.data_type(), compiled.kind().arrow(), "{expr}");
    let mut found = [0, 1, 2].map(|row| cell(&evaluated.values, compiled.kind(), row));
    for error in &evaluated.errors {
        assert_eq!(found[error.row as usize], "NULL");
        found[error.row as usize] = format!("! {}", error.message);
    }
    assert_eq!(found, expected, "{expr}");
    assert!(evaluated.errors.is_empty() || compiled.is_fallible(), "{expr} failed unannounced");
}

/// For expressions without columns.
#[track_caller]
fn constant(expr: &str, kind: &str, expected: &str) {
    check(expr, kind, [expected; 3]);
}

#[track_caller]
fn wrong(expr: &str, expected: &str) {
    let errors = compile(expr, &schema()).err().unwrap_or_default();
    let told: Vec<String> = errors.iter().map(|error| error.to_string()).collect();
    assert_eq!(told, [expected], "{expr}");
}

#[test]
fn arithmetic_is_exact_and_says_its_type() {
    check("price", "decimal(12,2)", ["12.34", "-0.05", "NULL"]);
    check("price + price", "decimal(13,2)", ["24.68", "-0.10", "NULL"]);
    check("price + rate", "decimal(15,4)", ["12.5300", "-1.2845", "NULL"]);
    check("price - rate", "decimal(15,4)", ["12.1500", "1.1845", "NULL"]);
    check("price * rate", "decimal(18,6)", ["2.344600", "0.061725", "NULL"]);
    check("price / rate", "decimal(20,6)", ["64.947368", "0.040502", "NULL"]);
    check("price % rate", "decimal(5,4)", ["0.1800", "-0.0500", "NULL"]);
    check("mod(price, rate)", "decimal(5,4)", ["0.1800", "-0.0500", "NULL"]);
    check("-price", "decimal(12,2)", ["-12.34", "0.05", "NULL"]);
    check("+price", "decimal(12,2)", ["12.34", "-0.05", "NULL"]);
    check("price + NULL", "decimal(13,2)", ["NULL"; 3]);
    check("NULL * price", "decimal(25,4)", ["NULL"; 3]);
}

#[test]
fn beside_an_int_they_stay_exact_and_beside_a_float_they_become_one() {
    check("price * 2", "decimal(14,2)", ["24.68", "-0.10", "NULL"]);
    check("price + 1", "decimal(13,2)", ["13.34", "0.95", "NULL"]);
    check("10 - price", "decimal(13,2)", ["-2.34", "10.05", "NULL"]);
    check("price * n", "decimal(32,2)", ["37.02", "461168601842738790.40", "NULL"]);
    check("price / 3", "decimal(16,6)", ["4.113333", "-0.016667", "NULL"]);
    check("1 / price", "decimal(7,4)", ["0.0810", "-20.0000", "NULL"]);
    check("price * 0.5", "float", ["6.17", "-0.025", "NULL"]);
    check("price + x", "float", ["12.84", "NaN", "NULL"]);
    check("sqrt(abs(price) * 100)", "float", ["35.12833614050059", "2.23606797749979", "NULL"]);
}

#[test]
fn what_does_not_fit_is_an_error_of_its_row() {
    let nines = "9".repeat(38);
    check(
        "wide + 1",
        "decimal(38,0)",
        [
            &format!("! {nines} + 1 does not fit into a decimal(38,0)"),
            &format!("-{}", MOST - 1),
            "NULL",
        ],
    );
    check(
        "wide * price",
        "decimal(38,2)",
        [
            &format!("! {nines} * 12.34 does not fit into a decimal(38,2)"),
            &format!("! -{nines} * -0.05 does not fit into a decimal(38,2)"),
            "NULL",
        ],
    );
    check("price / 0", "decimal(16,6)", ["! division by zero", "! division by zero", "NULL"]);
    check("price % 0", "decimal(3,2)", ["! division by zero", "! division by zero", "NULL"]);
    // Only where its value was needed.
    check(
        "CASE WHEN n > 0 THEN 0 ELSE wide END",
        "decimal(38,0)",
        ["0", &format!("-{nines}"), "NULL"],
    );
    check("n = 3 OR price / 0 > 1", "bool", ["true", "! division by zero", "NULL"]);
    wrong(
        "CAST(price AS decimal(38,20)) * CAST(price AS decimal(38,20))",
        "decimal(38,20) * decimal(38,20) has 40 digits behind the point (38 is the most: cast one of \
         them to fewer)",
    );
    wrong(
        "price + s",
        "`+` takes numbers, not a string (join text with `||`, or cast it, as in CAST(a AS int))",
    );
}

#[test]
fn numbers_of_any_scale_are_compared_as_numbers() {
    check("price > rate", "bool", ["true", "true", "NULL"]);
    check("price = CAST('12.34000' AS decimal(10,5))", "bool", ["true", "false", "NULL"]);
    check("price < n", "bool", ["false", "false", "NULL"]);
    check("price >= 12", "bool", ["true", "false", "NULL"]);
    check("price = 12.34", "bool", ["true", "false", "NULL"]);
    check("price BETWEEN -1 AND 1", "bool", ["false", "true", "NULL"]);
    check("price IN (1, CAST('-0.05' AS decimal(3,2)), 7)", "bool", ["false", "true", "NULL"]);
    check("price IN (rate, 12.34)", "bool", ["true", "false", "NULL"]);
    check("price NOT IN (1, NULL)", "bool", ["NULL", "NULL", "NULL"]);
    check("price IS NOT DISTINCT FROM rate", "bool", ["false", "false", "true"]);
    check(
        "CASE price WHEN CAST('12.340' AS decimal(9,3)) THEN 1 ELSE 2 END",
        "int",
        ["1", "2", "2"],
    );
    wrong(
        "price = s",
        "`=` cannot mix decimal(12,2) and string (cast it, as in CAST(a AS decimal(12,2)))",
    );
}

#[test]
fn choices_bring_all_to_one_type() {
    check("coalesce(price, 0)", "decimal(12,2)", ["12.34", "-0.05", "0.00"]);
    check("coalesce(price, rate, 7)", "decimal(14,4)", ["12.3400", "-0.0500", "7.0000"]);
    check("coalesce(price, 1.5)", "float", ["12.34", "-0.05", "1.5"]);
    check("nullif(price, rate)", "decimal(14,4)", ["12.3400", "-0.0500", "NULL"]);
    check("greatest(price, rate, 1)", "decimal(14,4)", ["12.3400", "1.0000", "1.0000"]);
    check("least(price, NULL)", "decimal(12,2)", ["12.34", "-0.05", "NULL"]);
    check(
        "CASE WHEN n > 0 THEN price ELSE n END",
        "decimal(21,2)",
        ["12.34", "-9223372036854775808.00", "NULL"],
    );
    check("'costs ' || price", "string", ["costs 12.34", "costs -0.05", "NULL"]);
}

#[test]
fn rounding_takes_digits_away() {
    check("round(rate, 2)", "decimal(4,2)", ["0.19", "-1.23", "NULL"]);
    check("round(rate, 3)", "decimal(5,3)", ["0.190", "-1.235", "NULL"]);
    check("round(price)", "decimal(11,0)", ["12", "0", "NULL"]);
    check("round(price, -1)", "decimal(11,0)", ["10", "0", "NULL"]);
    check("round(price, 9)", "decimal(13,2)", ["12.34", "-0.05", "NULL"]);
    check("floor(price)", "decimal(11,0)", ["12", "-1", "NULL"]);
    check("ceil(price)", "decimal(11,0)", ["13", "0", "NULL"]);
    check("abs(price)", "decimal(12,2)", ["12.34", "0.05", "NULL"]);
    check("round(price, NULL)", "decimal(12,2)", ["NULL"; 3]);
    constant("round(CAST('9.995' AS decimal(4,3)), 2)", "decimal(4,2)", "10.00");
    wrong(
        "round(price, n)",
        "how many digits a decimal is rounded to is a literal int (it is round(number [, int]))",
    );
}

#[test]
fn casts_round_as_sql_does() {
    check("CAST(s AS decimal(5,2))", "decimal(5,2)", ["12.35", "! \"x\" is not a decimal", "NULL"]);
    check("TRY_CAST(s AS decimal(5,2))", "decimal(5,2)", ["12.35", "NULL", "NULL"]);
    check(
        "CAST(s AS decimal(3,2))",
        "decimal(3,2)",
        ["! \" 12.345 \" does not fit into a decimal(3,2)", "! \"x\" is not a decimal", "NULL"],
    );
    check("price::decimal(3,1)", "decimal(3,1)", ["12.3", "-0.1", "NULL"]);
    check(
        "CAST(price AS decimal(3,2))",
        "decimal(3,2)",
        ["! 12.34 does not fit into a decimal(3,2)", "-0.05", "NULL"],
    );
    check(
        "CAST(n AS numeric(5,1))",
        "decimal(5,1)",
        ["3.0", "! -9223372036854775808 does not fit into a decimal(5,1)", "NULL"],
    );
    check(
        "CAST(n AS decimal)",
        "decimal(38,9)",
        ["3.000000000", "-9223372036854775808.000000000", "NULL"],
    );
    check(
        "CAST(x AS decimal(5,1))",
        "decimal(5,1)",
        ["0.5", "! NaN does not fit into a decimal(5,1)", "NULL"],
    );
    check("CAST(t AS decimal(20,6))", "decimal(20,6)", ["1.500000", "-0.000001", "NULL"]);
    check("CAST(price AS int)", "int", ["12", "0", "NULL"]);
    check(
        "CAST(wide AS int)",
        "int",
        [
            "! 99999999999999999999999999999999999999 does not fit into an int",
            "! -99999999999999999999999999999999999999 does not fit into an int",
            "NULL",
        ],
    );
    check("CAST(price AS float)", "float", ["12.34", "-0.05", "NULL"]);
    check("CAST(wide AS float)", "float", ["1e38", "-1e38", "NULL"]);
    check("CAST(price AS bool)", "bool", ["true", "true", "NULL"]);
    check("CAST(price AS string)", "string", ["12.34", "-0.05", "NULL"]);
    check("CAST(price AS timestamp)", "timestamp", ["12340000", "-50000", "NULL"]);
    check("CAST(CAST(price AS string) AS decimal(12,2)) = price", "bool", ["true", "true", "NULL"]);
    constant("CAST(true AS decimal(3,1))", "decimal(3,1)", "1.0");
    constant("CAST('1e2' AS decimal(5))", "decimal(5,0)", "100");
    constant("CAST(0.1 AS decimal(20,18))", "decimal(20,18)", "0.100000000000000000");
    constant("CAST(NULL AS decimal(5,2))", "decimal(5,2)", "NULL");
    wrong(
        "CAST(n AS decimal(40,2))",
        "there is no type DECIMAL(40,2) (the types are string, int, float, bool, timestamp, and \
         decimal(12,2) with up to 38 digits)",
    );
}

#[test]
fn aggregates_of_decimals_are_decimals() {
    let check = |text: &str, kind: &str| {
        let aggregate = compile_aggregate(text, &schema(), &Secrets::default()).unwrap();
        assert_eq!(aggregate.kind.to_string(), kind, "{text}");
    };
    check("sum(price)", "decimal(38,2)");
    check("avg(price)", "decimal(16,6)");
    check("min(price)", "decimal(12,2)");
    check("max(price * rate)", "decimal(18,6)");
    check("first(price ORDER BY rate)", "decimal(12,2)");
    check("arg_max(price, rate)", "decimal(12,2)");
    check("count(DISTINCT price)", "int");
    check("stddev(price)", "float");
    check("approx_quantile(price, 0.5)", "float");
}
