//! Total: numbers of a column added up exactly, as the sender of a file wrote them.
//!
//! A float is added as the shortest decimal number that reads back as the same float: that is what
//! stood in the file, for up to 15 digits. So 0.1 and 0.2 are 0.3, and a total that was added up
//! elsewhere in decimal is met to the last digit. What cannot be added so has no value.

use std::fmt::{self, Write as _};

use serde::{Deserialize, Serialize};
use tidemill_operators::Decimal;
use tidemill_operators::decimal::PRECISION_MAX;

/// Digits behind the point that are kept.
const SCALE: u32 = 18;

/// One, in the unit of a total.
const ONE: i128 = 10_i128.pow(SCALE);

/// What numbers add up to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Total {
    /// In units of 10^-18; `None` once something could not be added exactly.
    units: Option<i128>,
}

impl Default for Total {
    fn default() -> Self {
        Self { units: Some(0) }
    }
}

impl Total {
    /// Adds a whole number.
    pub fn add_int(&mut self, value: i64) {
        self.add_units(i128::from(value).checked_mul(ONE));
    }

    /// Adds a float.
    pub fn add_float(&mut self, value: f64) {
        let mut text = String::with_capacity(24);
        // Writing to a string cannot fail.
        let _ = write!(text, "{value}");
        self.add_units(Self::parse(&text));
    }

    /// Adds a decimal number in units of its scale.
    pub fn add_decimal(&mut self, units: i128, scale: u8) {
        let finest = Decimal::with_whole(PRECISION_MAX - SCALE as u8, SCALE as u8);
        let exact = match SCALE.checked_sub(u32::from(scale)) {
            Some(_) => finest.rescale(units, scale),
            // Beyond the last place there may be but zeros.
            None => {
                let unit = 10_i128.pow(u32::from(scale) - SCALE);
                (units % unit == 0).then_some(units / unit)
            }
        };
        self.add_units(exact);
    }

    /// Adds what another worker added up.
    pub fn add(&mut self, other: &Total) {
        self.add_units(other.units);
    }

    fn add_units(&mut self, units: Option<i128>) {
        self.units = self.units.zip(units).and_then(|(one, two)| one.checked_add(two));
    }

    /// Returns the sum in units of 10^-18; `None` if it could not be told exactly.
    pub const fn value(&self) -> Option<i128> {
        self.units
    }

    /// Reads a decimal number such as `-12.50`, in units of 10^-18.
    pub fn parse(text: &str) -> Option<i128> {
        let (sign, digits) = match text.strip_prefix('-') {
            Some(rest) => (-1, rest),
            None => (1, text.strip_prefix('+').unwrap_or(text)),
        };
        let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
        let part = part.trim_end_matches('0');
        let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if whole.is_empty() || !is_number(whole) || !is_number(part) || part.len() > SCALE as usize
        {
            return None;
        }
        let whole = whole.parse::<i128>().ok()?.checked_mul(ONE)?;
        let part: i128 = format!("{part:0<18}").parse().ok()?;
        whole.checked_add(part).map(|units| sign * units)
    }
}

impl fmt::Display for Total {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(units) = self.units else {
            return out.write_str("something too large or too fine to be added exactly");
        };
        let sign = if units < 0 { "-" } else { "" };
        let (whole, part) =
            (units.unsigned_abs() / ONE as u128, units.unsigned_abs() % ONE as u128);
        let part = format!("{part:018}");
        match part.trim_end_matches('0') {
            "" => write!(out, "{sign}{whole}"),
            part => write!(out, "{sign}{whole}.{part}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(values: &[f64], expected: &str) {
        let mut total = Total::default();
        values.iter().for_each(|value| total.add_float(*value));
        assert_eq!(total.to_string(), expected, "{values:?}");
        assert_eq!(Total::parse(expected), total.value());
        // In whatever parts it is added up.
        let mut parts = Total::default();
        for value in values.iter().rev() {
            let mut part = Total::default();
            part.add_float(*value);
            parts.add(&part);
        }
        assert_eq!(parts, total);
    }

    #[test]
    fn floats_add_up_as_they_were_written() {
        check(&[], "0");
        check(&[0.1, 0.2], "0.3");
        check(&[0.1; 10], "1");
        check(&[1e15, 0.01, -1e15], "0.01");
        check(&[-12.5, 0.25], "-12.25");
        check(&[1_234_567_890.12, 0.88], "1234567891");
    }

    #[test]
    fn whole_numbers_add_up_far_beyond_one_of_them() {
        let mut total = Total::default();
        for _ in 0..10 {
            total.add_int(i64::MAX);
        }
        assert_eq!(total.to_string(), "92233720368547758070");
    }

    #[test]
    fn decimals_add_up_to_the_digit() {
        let mut total = Total::default();
        for (units, scale) in [(1, 2), (-250, 3), (5, 0), (1, 18), (10, 19)] {
            total.add_decimal(units, scale);
        }
        assert_eq!(total.to_string(), "4.760000000000000002");
        total.add_decimal(1, 19);
        assert_eq!(total.value(), None);
    }

    #[test]
    fn what_cannot_be_added_exactly_has_no_value() {
        for value in [f64::NAN, f64::INFINITY, 1e30, 1e-19] {
            let mut total = Total::default();
            total.add_float(value);
            assert_eq!(total.value(), None, "{value}");
        }
        for text in ["", "-", ".5", "1,000", "1e3", "1.2.3", "x", "0.0000000000000000001"] {
            assert_eq!(Total::parse(text), None, "{text}");
        }
        assert_eq!(Total::parse("+007.500"), Total::parse("7.5"));
        assert_eq!(Total::parse("1."), Total::parse("1"));
    }
}
