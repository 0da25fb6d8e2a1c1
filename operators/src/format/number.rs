//! Numbers: reads the numbers of JSON and CSV in place, eight digits at a time. Holds nothing.
//!
//! The functions on a position follow the grammar of JSON (RFC 8259, section 6) and return where
//! the number ends; whoever calls them checks what follows. Eight digits at once are from "Faster
//! number parsing" (D. Lemire, 2021); short decimals are exact by one division (W. Clinger, 1990).

use crate::decimal::{Beyond, Decimal};

/// Powers of ten that a float holds exactly.
const EXACT: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16,
    1e17, 1e18, 1e19, 1e20, 1e21, 1e22,
];

const TENS: [u64; 9] = [1, 10, 100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000];

/// Returns the value of up to eight digits, and how many there are.
#[inline(always)]
fn digits(bytes: &[u8], at: usize) -> (u64, usize) {
    let Some(word) = bytes.get(at..).and_then(|rest| rest.first_chunk::<8>()) else {
        return digits_at_end(bytes, at);
    };
    let word = u64::from_le_bytes(*word) ^ 0x3030_3030_3030_3030;
    let other = (word.wrapping_add(0x7676_7676_7676_7676) | word) & 0x8080_8080_8080_8080;
    let len = (other.trailing_zeros() / 8) as usize;
    if len == 0 {
        return (0, 0);
    }
    let word = word << (64 - 8 * len);
    let pairs = word.wrapping_mul(10).wrapping_add(word >> 8);
    let low = (pairs & 0x0000_00ff_0000_00ff).wrapping_mul(0x000f_4240_0000_0064);
    let high = ((pairs >> 16) & 0x0000_00ff_0000_00ff).wrapping_mul(0x0000_2710_0000_0001);
    (low.wrapping_add(high) >> 32, len)
}

#[cold]
fn digits_at_end(bytes: &[u8], at: usize) -> (u64, usize) {
    let rest = bytes.get(at..).unwrap_or_default();
    let digits = rest.iter().take(8).take_while(|byte| byte.is_ascii_digit());
    digits.fold((0, 0), |(value, len), byte| (value * 10 + u64::from(byte - b'0'), len + 1))
}

/// Returns the end of a run of digits.
#[inline(always)]
fn digits_end(bytes: &[u8], mut at: usize) -> usize {
    loop {
        let (_, len) = digits(bytes, at);
        at += len;
        if len < 8 {
            return at;
        }
    }
}

/// Returns an integer in the range of `i64` and where it ends; `None` for anything else.
#[inline(always)]
pub(super) fn int(bytes: &[u8], at: usize) -> Option<(i64, usize)> {
    let negative = *bytes.get(at)? == b'-';
    let first = at + usize::from(negative);
    let (value, len) = digits(bytes, first);
    if (len == 0) | ((len > 1) & (bytes.get(first) == Some(&b'0'))) {
        return None;
    }
    if len == 8 {
        return long_int(bytes, at, first);
    }
    let value = value as i64;
    Some((if negative { -value } else { value }, first + len))
}

#[inline(never)]
fn long_int(bytes: &[u8], at: usize, first: usize) -> Option<(i64, usize)> {
    let end = digits_end(bytes, first);
    let text = std::str::from_utf8(bytes.get(at..end)?).ok()?;
    Some((text.parse().ok()?, end))
}

/// Returns a finite float, correctly rounded, and where it ends; `None` for anything else.
#[inline(always)]
pub(super) fn float(bytes: &[u8], at: usize) -> Option<(f64, usize)> {
    let negative = *bytes.get(at)? == b'-';
    let first = at + usize::from(negative);
    let (whole, len) = digits(bytes, first);
    if (len == 0) | (len == 8) | ((len > 1) & (bytes.get(first) == Some(&b'0'))) {
        return long_float(bytes, at);
    }
    let end = first + len;
    let (mantissa, decimals, end) = match bytes.get(end) {
        Some(b'.') => {
            let (part, len) = digits(bytes, end + 1);
            if len == 0 || len == 8 {
                return long_float(bytes, at);
            }
            (whole * TENS[len] + part, len, end + 1 + len)
        }
        _ => (whole, 0, end),
    };
    if matches!(bytes.get(end), Some(b'e' | b'E')) {
        return long_float(bytes, at);
    }
    // At most 14 digits: the mantissa and the power of ten are exact, so one division rounds once.
    let value = mantissa as f64 / EXACT[decimals];
    Some((if negative { -value } else { value }, end))
}

#[inline(never)]
fn long_float(bytes: &[u8], at: usize) -> Option<(f64, usize)> {
    let end = skip(bytes, at)?;
    let text = std::str::from_utf8(bytes.get(at..end)?).ok()?;
    let value: f64 = text.parse().ok()?;
    value.is_finite().then_some((value, end))
}

/// Returns a decimal in units of its scale and where it ends; `None` for what is no number, and for a
/// number that is none of its type exactly.
#[inline(always)]
pub(super) fn decimal(bytes: &[u8], at: usize, kind: Decimal) -> Option<(i128, usize)> {
    let negative = *bytes.get(at)? == b'-';
    let first = at + usize::from(negative);
    let (whole, len) = digits(bytes, first);
    if (len == 0) | (len == 8) | ((len > 1) & (bytes.get(first) == Some(&b'0'))) {
        return long_decimal(bytes, at, kind);
    }
    let end = first + len;
    let (mantissa, decimals, end) = match bytes.get(end) {
        Some(b'.') => {
            let (part, len) = digits(bytes, end + 1);
            (whole * TENS[len] + part, len, end + 1 + len)
        }
        _ => (whole, 0, end),
    };
    let is_long = decimals == 8 || end == first + len + 1 || decimals > usize::from(kind.scale());
    if is_long || matches!(bytes.get(end), Some(b'e' | b'E')) {
        return long_decimal(bytes, at, kind);
    }
    let units = kind.rescale(i128::from(mantissa), decimals as u8)?;
    Some((if negative { -units } else { units }, end))
}

#[inline(never)]
fn long_decimal(bytes: &[u8], at: usize, kind: Decimal) -> Option<(i128, usize)> {
    let end = skip(bytes, at)?;
    let units = kind.read(bytes.get(at..end)?, Beyond::Refused).ok()?;
    Some((units, end))
}

/// Returns where a number ends; `None` when there is none.
#[inline(always)]
pub(super) fn skip(bytes: &[u8], at: usize) -> Option<usize> {
    let first = at + usize::from(*bytes.get(at)? == b'-');
    let mut end = digits_end(bytes, first);
    if end == first || (end > first + 1 && bytes.get(first) == Some(&b'0')) {
        return None;
    }
    if bytes.get(end) == Some(&b'.') {
        let decimals = end + 1;
        end = digits_end(bytes, decimals);
        if end == decimals {
            return None;
        }
    }
    if matches!(bytes.get(end), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
        let exponent = end + 1 + sign;
        end = digits_end(bytes, exponent);
        if end == exponent {
            return None;
        }
    }
    Some(end)
}

/// Returns the integer that the CSV field `chunk[start..end]` spells.
#[inline]
pub(super) fn int_text(chunk: &[u8], start: usize, end: usize) -> Option<i64> {
    match int(chunk, start) {
        Some((value, at)) if at == end => Some(value),
        // A plus sign and leading zeros are no JSON, but they are how files write numbers.
        _ => std::str::from_utf8(chunk.get(start..end)?).ok()?.parse().ok(),
    }
}

/// Returns the finite float that the CSV field `chunk[start..end]` spells.
#[inline]
pub(super) fn float_text(chunk: &[u8], start: usize, end: usize) -> Option<f64> {
    match float(chunk, start) {
        Some((value, at)) if at == end => Some(value),
        _ => {
            let text = std::str::from_utf8(chunk.get(start..end)?).ok()?;
            let value: f64 = text.parse().ok()?;
            value.is_finite().then_some(value)
        }
    }
}

/// Returns the decimal that the CSV field `chunk[start..end]` spells, in units of its scale.
#[inline]
pub(super) fn decimal_text(chunk: &[u8], start: usize, end: usize, kind: Decimal) -> Option<i128> {
    match decimal(chunk, start, kind) {
        Some((units, at)) if at == end => Some(units),
        _ => kind.read(chunk.get(start..end)?, Beyond::Refused).ok(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// With and without bytes behind the number, so that both ways of loading are taken.
    #[track_caller]
    fn check(text: &str, int_is: Option<i64>, float_is: Option<f64>, skips: bool) {
        for tail in ["", ",", "}                      "] {
            let bytes = [text.as_bytes(), tail.as_bytes()].concat();
            let whole = |end: usize| end == text.len();
            assert_eq!(
                int(&bytes, 0).filter(|found| whole(found.1)).map(|f| f.0),
                int_is,
                "{text}"
            );
            let found = float(&bytes, 0).filter(|found| whole(found.1)).map(|f| f.0.to_bits());
            assert_eq!(found, float_is.map(f64::to_bits), "{text}");
            assert_eq!(skip(&bytes, 0).is_some_and(whole), skips, "{text}");
        }
    }

    #[test]
    fn numbers_follow_the_grammar_of_json() {
        check("0", Some(0), Some(0.0), true);
        check("-0", Some(0), Some(-0.0), true);
        check("7", Some(7), Some(7.0), true);
        check("12345678", Some(12_345_678), Some(12_345_678.0), true);
        check("123456789012", Some(123_456_789_012), Some(123_456_789_012.0), true);
        check("9223372036854775807", Some(i64::MAX), Some(i64::MAX as f64), true);
        check("-9223372036854775808", Some(i64::MIN), Some(i64::MIN as f64), true);
        check("9223372036854775808", None, Some(i64::MAX as f64), true);
        check("1.5", None, Some(1.5), true);
        check("-12.345", None, Some(-12.345), true);
        check("0.1234567890123456789", None, Some(0.123_456_789_012_345_68), true);
        check("1e3", None, Some(1000.0), true);
        check("1.5E-3", None, Some(0.0015), true);
        check("1e+3", None, Some(1000.0), true);
        check("1e999", None, None, true);
        for bad in ["", "-", "01", "00", "-01", "1.", ".5", "1e", "1e+", "+1", "0x1", "NaN", "1.e3"]
        {
            check(bad, None, None, false);
        }
    }

    #[test]
    fn a_field_may_spell_numbers_more_freely() {
        assert_eq!(int_text(b"+5", 0, 2), Some(5));
        assert_eq!(int_text(b"007", 0, 3), Some(7));
        assert_eq!(int_text(b"5.0", 0, 3), None);
        assert_eq!(int_text(b"5 ", 0, 2), None);
        assert_eq!(float_text(b".5", 0, 2), Some(0.5));
        assert_eq!(float_text(b"+1e2", 0, 4), Some(100.0));
        assert_eq!(float_text(b"inf", 0, 3), None);
        assert_eq!(float_text(b"nan", 0, 3), None);
    }

    proptest! {
        #[test]
        fn oracle_ints_are_what_std_says(value: i64) {
            check(&value.to_string(), Some(value), Some(value as f64).filter(|_| value != 0), true);
        }

        #[test]
        fn oracle_floats_are_what_std_says(value in prop_oneof![
            any::<f64>().prop_filter("finite", |f| f.is_finite()).prop_map(|f| format!("{f:?}")),
            "-?(0|[1-9][0-9]{0,9})\\.[0-9]{1,9}",
            "-?[1-9][0-9]{0,25}(\\.[0-9]{1,25})?(e[+-]?[0-9]{1,2})?",
        ]) {
            let (found, end) = float(value.as_bytes(), 0).unwrap();
            prop_assert_eq!(end, value.len());
            prop_assert_eq!(found.to_bits(), value.parse::<f64>().unwrap().to_bits());
        }
    }
}
