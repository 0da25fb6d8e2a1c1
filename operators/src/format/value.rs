//! Value: one value out of a piece of text, by the same rules as a csv field.
//!
//! For operators that take text apart one piece at a time; the parsers go straight to columns.

use super::instant::Instants;
use super::{csv, number};
use crate::decimal::Decimal;

/// Reads an integer; spaces around it do not matter.
pub fn int(text: &str) -> Option<i64> {
    let text = text.trim_ascii().as_bytes();
    number::int_text(text, 0, text.len())
}

/// Reads a float; spaces around it do not matter.
pub fn float(text: &str) -> Option<f64> {
    let text = text.trim_ascii().as_bytes();
    number::float_text(text, 0, text.len())
}

/// Reads a decimal in units of its scale, exactly; spaces around it do not matter.
pub fn decimal(text: &str, kind: Decimal) -> Option<i128> {
    let text = text.trim_ascii().as_bytes();
    number::decimal_text(text, 0, text.len(), kind)
}

/// Reads true/false, t/f or 1/0, in any case; spaces around it do not matter.
pub fn bool(text: &str) -> Option<bool> {
    csv::truth(text.trim_ascii().as_bytes())
}

/// Reads an instant as microseconds since 1970; spaces around it do not matter.
pub fn timestamp(text: &str) -> Option<i64> {
    Instants::default().parse(text.trim_ascii().as_bytes())
}
