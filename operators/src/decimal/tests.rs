//! What decimals promise: tables of cases, and comparisons with wide integers and with arrow.

use arrow_array::types::{Decimal128Type, DecimalType};
use proptest::prelude::*;

use super::*;

fn kind(precision: u8, scale: u8) -> Decimal {
    Decimal::new(precision, scale).unwrap()
}

#[test]
fn a_type_is_written_with_its_digits() {
    let check = |name: &str, expected: Option<(u8, u8)>| {
        let expected = expected.map(|(precision, scale)| kind(precision, scale));
        assert_eq!(Decimal::from_name(name), expected, "{name}");
    };
    check("decimal", Some((38, 9)));
    check("decimal(12,2)", Some((12, 2)));
    check("decimal ( 12 , 2 )", Some((12, 2)));
    check("decimal(5)", Some((5, 0)));
    check("decimal(38,38)", Some((38, 38)));
    for wrong in [
        "decimal(0,0)",
        "decimal(39,2)",
        "decimal(2,3)",
        "decimal(2,-1)",
        "decimal(300,2)",
        "decimal()",
        "decimal(,)",
        "decimal(1,2,3)",
        "decimal(12,2",
        "decimals",
        "decimal12",
        "decimal(+5,2)",
    ] {
        check(wrong, None);
    }
    assert_eq!(kind(12, 2).to_string(), "decimal(12,2)");
}

#[track_caller]
fn reads(text: &str, exactly: Result<&str, Misfit>, rounded: Result<&str, Misfit>) {
    let kind = kind(5, 2);
    let read = |beyond| kind.read(text.as_bytes(), beyond).map(|units| super::text(units, 2));
    assert_eq!(read(Beyond::Refused), exactly.map(str::to_owned), "{text}");
    assert_eq!(read(Beyond::Rounded), rounded.map(str::to_owned), "{text}");
}

#[test]
fn digits_are_read_one_by_one() {
    for (text, value) in [
        ("0", "0.00"),
        ("-0", "0.00"),
        ("7", "7.00"),
        ("-12.5", "-12.50"),
        ("+1.05", "1.05"),
        ("999.99", "999.99"),
        ("-999.99", "-999.99"),
        ("007", "7.00"),
        (".5", "0.50"),
        ("5.", "5.00"),
        ("1.500", "1.50"),
        ("1.5e1", "15.00"),
        ("15E-1", "1.50"),
        ("1e+2", "100.00"),
        ("0e999999999999999999999", "0.00"),
        ("0.00000", "0.00"),
        ("12340e-3", "12.34"),
        ("000000000000000000000000000000000000000000001", "1.00"),
    ] {
        reads(text, Ok(value), Ok(value));
    }
    let large = Err(Misfit::TooLarge);
    for text in ["1000", "-1000.00", "1e3", "1e999999999999999999999", "99999999999999999999999"] {
        reads(text, large, large);
    }
    let fine = Err(Misfit::TooFine);
    for (text, rounded) in [
        ("1.234", "1.23"),
        ("1.235", "1.24"),
        ("-1.235", "-1.24"),
        ("1.2349999", "1.23"),
        ("0.001", "0.00"),
        ("0.005", "0.01"),
        ("-0.005", "-0.01"),
        ("1e-9", "0.00"),
        ("1e-999999999999999999999", "0.00"),
        ("0.009999", "0.01"),
    ] {
        reads(text, fine, Ok(rounded));
    }
    reads("999.995", fine, large);
    for text in
        ["", "-", ".", "e5", "1e", "1e+", "1,5", "1 5", " 1", "NaN", "inf", "0x10", "--1", "1.2.3"]
    {
        reads(text, Err(Misfit::NoNumber), Err(Misfit::NoNumber));
    }
}

#[test]
fn the_largest_numbers_are_read_and_written() {
    let nines = "9".repeat(38);
    for scale in [0, 1, 19, 37, 38] {
        let kind = kind(38, scale);
        let units = 10_i128.pow(38) - 1;
        for units in [units, -units] {
            let text = text(units, scale);
            assert_eq!(text.replace(['.', '-'], "").trim_start_matches('0'), nines);
            assert_eq!(kind.read(text.as_bytes(), Beyond::Refused), Ok(units));
        }
    }
    assert_eq!(kind(38, 0).read(b"1e38", Beyond::Rounded), Err(Misfit::TooLarge));
    assert_eq!(text(-5, 3), "-0.005");
    assert_eq!(text(i128::MIN, 0), i128::MIN.to_string());
}

#[test]
fn quotients_are_rounded_half_away_from_zero() {
    let check = |one: i128, by: i128, kinds: (Decimal, Decimal), expected: &str| {
        let to = kinds.0.quotient(kinds.1);
        let found = quotient(one, by, kinds, to).map(|units| text(units, to.scale()));
        assert_eq!(found.as_deref().unwrap_or("none"), expected, "{one} / {by}");
    };
    let (money, whole) = (kind(12, 2), kind(10, 0));
    check(100, 3, (money, whole), "0.333333");
    check(200, 3, (money, whole), "0.666667");
    check(-200, 3, (money, whole), "-0.666667");
    check(-200, -3, (money, whole), "0.666667");
    check(100, 300, (money, money), "0.333333");
    check(1, 8, (whole, whole), "0.1250");
    check(1, 32, (whole, whole), "0.0313");
    check(1, 0, (whole, whole), "none");
    // Through 256 bits, and beyond them.
    let most = 10_i128.pow(38) - 1;
    check(most, most, (kind(38, 38), kind(38, 38)), "none");
    check(most, most, (kind(38, 0), kind(38, 0)), "1.0000");
    check(most, 7, (kind(38, 0), kind(38, 38)), "none");
}

#[test]
fn sums_go_beyond_every_type_and_come_back() {
    let most = 10_i128.pow(38) - 1;
    let mut sum = WideSum::default();
    sum.add(most, 1_000_000);
    sum.add(-1, 3);
    assert_eq!(sum.total(kind(38, 2)), None);
    assert_eq!(sum.text(2), "999999999999999999999999999999999999989999.97");
    assert_eq!(WideSum::from_le_bytes(sum.to_le_bytes()), sum);
    sum.add(most, -1_000_000);
    assert_eq!((sum.text(2).as_str(), sum.total(kind(38, 2))), ("-0.03", Some(-3)));
    assert_eq!(sum.mean(2, 2, kind(38, 6)), Some(-15_000));
    sum.add(1, 3);
    assert!(sum.is_zero());
}

/// A number of any type.
fn number() -> impl Strategy<Value = (i128, Decimal)> {
    (1..=38_u8, 0..=38_u8, any::<i128>(), 0..=38_u8).prop_map(|(precision, scale, units, size)| {
        let kind = kind(precision, scale.min(precision));
        (units % TENS[usize::from(size.min(precision))], kind)
    })
}

/// A number as a fraction of integers that are wide enough for everything that is asked here.
fn scaled(units: i128, from: u8, to: u8) -> i256 {
    i256::from_i128(units).checked_mul(ten_to(to - from)).unwrap()
}

proptest! {
    #[test]
    fn oracle_numbers_are_written_as_arrow_writes_them((units, kind) in number()) {
        let (precision, scale) = (kind.precision(), kind.scale());
        let expected = Decimal128Type::format_decimal(units, precision, scale as i8);
        prop_assert_eq!(text(units, scale), expected.clone());
        prop_assert_eq!(kind.read(expected.as_bytes(), Beyond::Refused), Ok(units));
        let float: f64 = expected.parse().unwrap();
        prop_assert_eq!(to_float(units, scale).to_bits(), (float + 0.0).to_bits());
        prop_assert_eq!(of_ordered(ordered(units)), units);
    }

    #[test]
    fn oracle_sums_are_those_of_wide_integers((a, one) in number(), (b, two) in number()) {
        let to = one.sum(two);
        let scale = to.scale();
        let wide = scaled(a, one.scale(), scale).checked_add(scaled(b, two.scale(), scale)).unwrap();
        prop_assert_eq!(add(a, b, (one, two), to), narrow(wide, to));
        if to.precision() < PRECISION_MAX {
            prop_assert!(add(a, b, (one, two), to).is_some(), "a type that is not cut holds all");
        }
    }

    #[test]
    fn oracle_products_are_those_of_wide_integers((a, one) in number(), (b, two) in number()) {
        if let Some(to) = one.product(two) {
            let wide = i256::from_i128(a).checked_mul(i256::from_i128(b)).unwrap();
            prop_assert_eq!(multiply(a, b, to), narrow(wide, to));
            if to.precision() < PRECISION_MAX {
                prop_assert!(multiply(a, b, to).is_some(), "a type that is not cut holds all");
            }
        }
    }

    #[test]
    fn a_quotient_is_the_nearest_there_is((a, one) in number(), (b, two) in number()) {
        let to = one.quotient(two);
        let up = to.scale() + two.scale() - one.scale();
        match quotient(a, b, (one, two), to) {
            // Twice the rest is never more than the divisor.
            Some(quotient) if b != 0 => {
                let raised = i256::from_i128(a).checked_mul(ten_to(up)).unwrap();
                let by = i256::from_i128(b);
                let rest = raised.wrapping_sub(i256::from_i128(quotient).wrapping_mul(by));
                let twice = rest.wrapping_abs().wrapping_add(rest.wrapping_abs());
                prop_assert!(twice <= by.wrapping_abs(), "{} {} {}", a, b, quotient);
            }
            found => prop_assert!(
                found.is_none() && (b == 0 || to.precision() == PRECISION_MAX),
                "a type that is not cut holds all"
            ),
        }
    }

    #[test]
    fn rounding_leaves_less_than_half_a_unit((units, kind) in number(), places in -40..40_i64) {
        let to = kind.rounded(places);
        if let Some(rounded) = round(units, kind.scale(), places, Rounding::Nearest, to) {
            let scale = kind.scale().max(to.scale());
            let rest = scaled(units, kind.scale(), scale).wrapping_sub(scaled(rounded, to.scale(), scale));
            let gone = i64::from(kind.scale()) - places;
            let twice = rest.wrapping_abs().wrapping_add(rest.wrapping_abs());
            prop_assert!(gone > 38 || twice <= ten_to(gone.max(0) as u8));
        }
    }
}
