//! Decimals: read by their digits from both formats, written with all of them, and refused where they
//! do not fit.

use proptest::prelude::*;

use super::*;
use crate::decimal::{self, Decimal};

/// A plan of a text and a price.
fn priced(format: Format) -> ReadPlan {
    let mut plan = plan(format, "item string, price decimal");
    plan.fields[1].kind = Type::from_name("decimal(6,2)").unwrap();
    plan
}

/// What becomes of a price as it stands in JSON, with each of the three readers.
fn in_json(price: &str) -> Said {
    let plan = priced(Format::Jsonl);
    let usual = "{\"item\":\"a\",\"price\":1.25}\n";
    let line = format!("{{\"item\":\"a\",\"price\":{price}}}\n");
    let [one, two, three] = [Reach::Template, Reach::Scanner, Reach::Full].map(|reach| {
        let mut parser = Parser::with_reach(plan.clone(), reach);
        said(&mut parser, &plan, usual.repeat(8).as_bytes(), None);
        said(&mut parser, &plan, line.as_bytes(), None)
    });
    assert_eq!(one, two, "{price}");
    assert_eq!(two, three, "{price}");
    one
}

fn in_csv(price: &str) -> Said {
    let plan = priced(Format::Csv(CsvOptions::default()));
    let header = Header::parse(&plan, b"item,price\n").unwrap();
    let line = format!("a,{price}\n");
    said(&mut Parser::new(plan.clone()), &plan, line.as_bytes(), Some(&header))
}

#[test]
fn prices_are_read_by_their_digits() {
    let check = |found: Said, expected: &str, given: &str| {
        let rows = format!("{{\"item\":\"a\",\"price\":{expected}}}\n");
        assert_eq!((found.rows, found.rejects), (rows, String::new()), "{given}");
    };
    for (price, expected) in [
        ("0", "0.00"),
        ("-0.05", "-0.05"),
        ("12.5", "12.50"),
        ("9999.99", "9999.99"),
        ("1.500000000000", "1.50"),
        ("1e3", "1000.00"),
        ("125E-2", "1.25"),
        ("0.0000000000000000000000000000000000000000000000", "0.00"),
    ] {
        check(in_json(price), expected, price);
        check(in_json(&format!("\"{price}\"")), expected, price);
        check(in_csv(price), expected, price);
    }
    check(in_json("null"), "null", "null");
    check(in_csv(""), "null", "");
    check(in_csv(" +007.5 "), "7.50", "+007.5");
    check(in_csv("\"12.25\""), "12.25", "quoted");
}

#[test]
fn what_does_not_fit_is_refused_and_never_rounded() {
    let fine = ": too many digits behind the point";
    let large = ": too many digits before the point";
    for (price, why) in [
        ("1.234", fine),
        ("0.001", fine),
        ("1e-3", fine),
        ("10000", large),
        ("-10000.00", large),
        ("123456789012", large),
        ("1e400", large),
    ] {
        let found = in_json(price);
        let reason = format!(
            "0@0 field_type: field price: expected decimal(6,2), found number {price} at column 21{why}\n"
        );
        assert_eq!((found.rows.as_str(), found.rejects), ("", reason));
        let found = in_csv(price);
        let reason = format!(
            "0@0 field_type: field price: expected decimal(6,2), found {price} at column 3{why}\n"
        );
        assert_eq!((found.rows.as_str(), found.rejects), ("", reason));
    }
    for price in ["\"\"", "\"1,5\"", "\"NaN\"", "\"1.2 \"", "\"1\\u002e5\"", "true", "[1]", "{}"] {
        let found = in_json(price);
        assert_eq!(found.rows, "", "{price}");
        assert!(found.rejects.contains("expected decimal(6,2), found "), "{}", found.rejects);
    }
    for price in ["NaN", "inf", "1 000", "x", "-", "1.2.3", "0x10"] {
        let found = in_csv(price);
        assert!(found.rejects.contains("expected decimal(6,2), found "), "{}", found.rejects);
    }
}

proptest! {
    #[test]
    fn oracle_the_quick_reader_says_what_the_slow_one_does(
        text in "-?(0|[1-9][0-9]{0,9})(\\.[0-9]{1,10})?(e-?[0-9])?",
        precision in 1..=38_u8,
        scale in 0..=38_u8,
    ) {
        let kind = Decimal::new(precision, scale.min(precision)).unwrap();
        let expected = kind.read(text.as_bytes(), decimal::Beyond::Refused).ok();
        for tail in ["", "}                      "] {
            let bytes = [text.as_bytes(), tail.as_bytes()].concat();
            let found = number::decimal(&bytes, 0, kind);
            prop_assert_eq!(found, expected.map(|units| (units, text.len())));
        }
    }
}
