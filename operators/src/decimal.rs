//! Decimal: exact numbers with a fixed number of digits behind the point. Holds nothing.
//!
//! A number is an `i128` in units of its scale: 12.34 of scale 2 is 1234. Owns how such numbers are
//! read, written, rounded and computed with; never makes a float of one without being asked.
//!
//! | sum, difference | scale `max(s1, s2)`, precision one more than the longest of both needs          |
//! | product         | scale `s1 + s2`, precision `p1 + p2 + 1`                                        |
//! | quotient        | scale `s1 + 4`, precision `p1 + s2 + 4`; rounded half away from zero            |
//! | remainder       | scale `max(s1, s2)`, precision of what both have in common                      |
//!
//! These are the types that arrow and DataFusion give. Precision ends at 38 digits: what does not fit
//! then has no value, and is never cut. See docs/adr/0035.

use std::fmt;

use arrow_buffer::i256;
use serde::{Deserialize, Serialize};

/// The most digits that a number has.
pub const PRECISION_MAX: u8 = 38;

/// How many digits a quotient has behind the point beyond those of its dividend.
const QUOTIENT_DIGITS: u8 = 4;

/// The powers of ten that an `i128` holds.
const TENS: [i128; 39] = {
    let mut tens = [1; 39];
    let mut at = 1;
    while at < 39 {
        tens[at] = tens[at - 1] * 10;
        at += 1;
    }
    tens
};

/// How many digits the numbers of a column have in all, and how many of them behind the point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Decimal {
    precision: u8,
    scale: u8,
}

/// Why a text is no number of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Misfit {
    /// It is no number at all.
    #[error("no number")]
    NoNumber,
    /// It has digits beyond the last place.
    #[error("too many digits behind the point")]
    TooFine,
    /// It has too many digits before the point.
    #[error("too many digits before the point")]
    TooLarge,
}

/// What becomes of digits beyond the last place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beyond {
    /// The text is no number of the column.
    Refused,
    /// They are rounded off, half away from zero.
    Rounded,
}

impl Decimal {
    /// What `decimal` without digits stands for.
    pub const PLAIN: Decimal = Decimal { precision: PRECISION_MAX, scale: 9 };
    /// What holds every int.
    pub const INT: Decimal = Decimal { precision: 19, scale: 0 };

    /// Returns the type of numbers of so many digits; `None` unless there are 1 to 38, and of those at
    /// most all behind the point.
    pub const fn new(precision: u8, scale: u8) -> Option<Self> {
        if precision == 0 || precision > PRECISION_MAX || scale > precision {
            return None;
        }
        Some(Self { precision, scale })
    }

    /// Returns the type with as many of these digits as there may be.
    const fn capped(precision: u8, scale: u8) -> Self {
        let precision = if precision > PRECISION_MAX { PRECISION_MAX } else { precision };
        Self { precision: if precision == 0 { 1 } else { precision }, scale }
    }

    /// Returns the type of numbers of so many digits before the point, as far as they fit.
    pub const fn with_whole(whole: u8, scale: u8) -> Self {
        Self::capped(whole.saturating_add(scale), scale)
    }

    /// Returns the number of digits in all.
    pub const fn precision(self) -> u8 {
        self.precision
    }

    /// Returns the number of digits behind the point.
    pub const fn scale(self) -> u8 {
        self.scale
    }

    /// Returns the number of digits before the point.
    pub const fn whole(self) -> u8 {
        self.precision - self.scale
    }

    /// Returns the type that is written so: `decimal`, `decimal(12,2)`, or `decimal(12)` without
    /// digits behind the point.
    pub fn from_name(name: &str) -> Option<Self> {
        let digits = name.strip_prefix("decimal")?;
        if digits.is_empty() {
            return Some(Self::PLAIN);
        }
        let digits = digits.trim_start().strip_prefix('(')?.strip_suffix(')')?;
        let (precision, scale) = digits.split_once(',').unwrap_or((digits, "0"));
        let number = |text: &str| {
            let text = text.trim();
            text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
        };
        Self::new(number(precision)?, number(scale)?)
    }

    /// Returns whether a number in units of the scale has few enough digits.
    #[inline]
    pub const fn holds(self, units: i128) -> bool {
        units.unsigned_abs() < TENS[self.precision as usize].unsigned_abs()
    }

    /// Returns the number if it has few enough digits.
    #[inline]
    fn checked(self, units: i128) -> Option<i128> {
        self.holds(units).then_some(units)
    }

    /// Returns the type that holds numbers of both, as far as there is one.
    pub fn common(self, other: Self) -> Self {
        Self::with_whole(self.whole().max(other.whole()), self.scale.max(other.scale))
    }

    /// Returns the type of the sum or difference of two numbers.
    pub fn sum(self, other: Self) -> Self {
        let whole = self.whole().max(other.whole()) + 1;
        Self::with_whole(whole, self.scale.max(other.scale))
    }

    /// Returns the type of a product; `None` when it has more than 38 digits behind the point.
    pub fn product(self, other: Self) -> Option<Self> {
        let scale = self.scale + other.scale;
        let precision = self.precision + other.precision + 1;
        (scale <= PRECISION_MAX).then(|| Self::capped(precision, scale))
    }

    /// Returns the type of a quotient.
    pub fn quotient(self, by: Self) -> Self {
        let scale = (self.scale + QUOTIENT_DIGITS).min(PRECISION_MAX);
        Self::with_whole(self.whole() + by.scale, scale)
    }

    /// Returns the type of the remainder of a division.
    pub fn remainder(self, by: Self) -> Self {
        Self::with_whole(self.whole().min(by.whole()), self.scale.max(by.scale))
    }

    /// Returns the type of the sum of many numbers.
    pub const fn total(self) -> Self {
        Self { precision: PRECISION_MAX, scale: self.scale }
    }

    /// Returns the type of the mean of many numbers.
    pub const fn mean(self) -> Self {
        let scale = self.scale + QUOTIENT_DIGITS;
        Self::with_whole(self.whole(), if scale > PRECISION_MAX { PRECISION_MAX } else { scale })
    }

    /// Returns the type of what is left after rounding to so many digits behind the point, or before
    /// it if they are negative: there may be one more before it.
    pub fn rounded(self, places: i64) -> Self {
        let scale = places.clamp(0, i64::from(self.scale)) as u8;
        Self::with_whole(self.whole() + 1, scale)
    }

    /// Reads a number such as `-12.50` or `1.25e1`, exactly.
    pub fn read(self, text: &[u8], beyond: Beyond) -> Result<i128, Misfit> {
        let number = Written::of(text).ok_or(Misfit::NoNumber)?;
        let units = number.units(self, beyond)?;
        self.checked(units).ok_or(Misfit::TooLarge)
    }

    /// Returns a number of another scale as one of this type, rounded half away from zero; `None`
    /// when it does not fit.
    pub fn rescale(self, units: i128, scale: u8) -> Option<i128> {
        match self.scale.checked_sub(scale) {
            Some(up) => self.checked(units.checked_mul(TENS[usize::from(up)])?),
            None => self.checked(divide(units, TENS[usize::from(scale - self.scale)])),
        }
    }
}

impl fmt::Display for Decimal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "decimal({},{})", self.precision, self.scale)
    }
}

/// A number as it is written: digits before and behind the point, and the power of ten behind them.
struct Written<'a> {
    negative: bool,
    whole: &'a [u8],
    part: &'a [u8],
    exponent: i64,
}

impl<'a> Written<'a> {
    fn of(text: &'a [u8]) -> Option<Self> {
        let (negative, text) = match text {
            [b'-', rest @ ..] => (true, rest),
            [b'+', rest @ ..] => (false, rest),
            rest => (false, rest),
        };
        let digits = |text: &'a [u8]| {
            let end = text.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len());
            text.split_at(end)
        };
        let (whole, rest) = digits(text);
        let (part, rest) = match rest {
            [b'.', rest @ ..] => digits(rest),
            rest => (&[][..], rest),
        };
        let exponent = match rest {
            [] => 0,
            [b'e' | b'E', rest @ ..] => {
                let (sign, rest) = match rest {
                    [b'-', rest @ ..] => (-1, rest),
                    [b'+', rest @ ..] => (1, rest),
                    rest => (1, rest),
                };
                let (exponent, behind) = digits(rest);
                if exponent.is_empty() || !behind.is_empty() {
                    return None;
                }
                let add = |sum: i64, digit: &u8| {
                    sum.saturating_mul(10).saturating_add(i64::from(digit - b'0'))
                };
                // Far beyond what any text has digits for, so that it can be added to safely.
                sign * exponent.iter().fold(0, add).min(1 << 40)
            }
            _ => return None,
        };
        (!whole.is_empty() || !part.is_empty()).then_some(Self { negative, whole, part, exponent })
    }

    /// Returns the number in units of a scale, of at most 38 digits.
    fn units(&self, kind: Decimal, beyond: Beyond) -> Result<i128, Misfit> {
        let all = self.whole.len() + self.part.len();
        let digit = |at: usize| match self.whole.get(at) {
            Some(digit) => digit - b'0',
            None => self.part.get(at - self.whole.len()).map_or(0, |digit| digit - b'0'),
        };
        let Some(first) = (0..all).find(|at| digit(*at) != 0) else { return Ok(0) };
        let last = (first..all).rev().find(|at| digit(*at) != 0).unwrap_or(first);
        // How many digits from the first one on are before the end of the last unit.
        let kept = self.whole.len() as i64 + self.exponent + i64::from(kind.scale) - first as i64;
        if kept > i64::from(kind.precision) {
            return Err(Misfit::TooLarge);
        }
        let there = (last + 1 - first) as i64;
        if there > kept && beyond == Beyond::Refused {
            return Err(Misfit::TooFine);
        }
        if kept < 0 {
            return Ok(0);
        }
        let end = first + there.min(kept) as usize;
        let mut units = (first..end).fold(0, |sum, at| sum * 10 + i128::from(digit(at)));
        units *= TENS[(kept - there).max(0) as usize];
        if there > kept && digit(end) >= 5 {
            units += 1;
        }
        Ok(if self.negative { -units } else { units })
    }
}

/// Divides, rounding half away from zero.
fn divide(number: i128, by: i128) -> i128 {
    let (quotient, rest) = (number / by, number % by);
    if rest.unsigned_abs() >= by.unsigned_abs().div_ceil(2) {
        quotient + if (number < 0) == (by < 0) { 1 } else { -1 }
    } else {
        quotient
    }
}

/// Returns ten to a power, if it is that small.
fn ten_to(power: u8) -> i256 {
    match TENS.get(usize::from(power)) {
        Some(ten) => i256::from_i128(*ten),
        // At most 38 + 4 are asked for.
        None => {
            i256::from_i128(TENS[38]).wrapping_mul(i256::from_i128(TENS[usize::from(power) - 38]))
        }
    }
}

fn narrow(units: i256, kind: Decimal) -> Option<i128> {
    kind.checked(units.to_i128()?)
}

/// Two numbers brought to the same scale.
fn level(one: i128, two: i128, kinds: (Decimal, Decimal)) -> (i256, i256) {
    let scale = kinds.0.scale.max(kinds.1.scale);
    let raised = |units: i128, kind: Decimal| {
        i256::from_i128(units).wrapping_mul(ten_to(scale - kind.scale))
    };
    (raised(one, kinds.0), raised(two, kinds.1))
}

/// Adds two numbers; `None` when it does not fit.
pub(crate) fn add(one: i128, two: i128, kinds: (Decimal, Decimal), to: Decimal) -> Option<i128> {
    if kinds.0.scale == kinds.1.scale {
        return to.checked(one.checked_add(two)?);
    }
    let (one, two) = level(one, two, kinds);
    narrow(one.wrapping_add(two), to)
}

/// Multiplies two numbers; `None` when it does not fit.
pub(crate) fn multiply(one: i128, two: i128, to: Decimal) -> Option<i128> {
    // No digit is ever cut off: a product that an i128 does not hold has more than 38.
    to.checked(one.checked_mul(two)?)
}

/// Divides two numbers, rounding half away from zero; `None` when it does not fit, or by zero.
pub(crate) fn quotient(
    one: i128,
    by: i128,
    kinds: (Decimal, Decimal),
    to: Decimal,
) -> Option<i128> {
    if by == 0 {
        return None;
    }
    let up = to.scale + kinds.1.scale - kinds.0.scale;
    if let Some(raised) = TENS.get(usize::from(up)).and_then(|ten| one.checked_mul(*ten)) {
        return to.checked(divide(raised, by));
    }
    // What leaves even these 256 bits is larger than any quotient that would fit.
    let raised = i256::from_i128(one).checked_mul(ten_to(up))?;
    narrow(divide_wide(raised, i256::from_i128(by))?, to)
}

/// Divides wide numbers, rounding half away from zero.
fn divide_wide(number: i256, by: i256) -> Option<i256> {
    let (quotient, rest) = (number.checked_div(by)?, number.checked_rem(by)?);
    let size = |number: i256| number.wrapping_abs();
    let is_over = size(rest) >= size(by).wrapping_sub(size(rest));
    if !is_over {
        return Some(quotient);
    }
    let one = i256::ONE;
    let is_positive = (number < i256::ZERO) == (by < i256::ZERO);
    Some(if is_positive { quotient.wrapping_add(one) } else { quotient.wrapping_sub(one) })
}

/// Returns the remainder of a division; `None` when it does not fit, or by zero.
pub(crate) fn remainder(
    one: i128,
    by: i128,
    kinds: (Decimal, Decimal),
    to: Decimal,
) -> Option<i128> {
    let (one, by) = level(one, by, kinds);
    narrow(one.checked_rem(by)?, to)
}

/// Which whole number stands for one with digits behind the point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rounding {
    Nearest,
    Down,
    Up,
}

/// Rounds a number of a scale to so many digits behind the point, or before it if they are negative;
/// the result has the scale of `to`.
pub(crate) fn round(
    units: i128,
    scale: u8,
    places: i64,
    rounding: Rounding,
    to: Decimal,
) -> Option<i128> {
    let gone = i64::from(scale).saturating_sub(places);
    if gone <= 0 {
        return to.rescale(units, scale);
    }
    let Some(unit) = usize::try_from(gone).ok().and_then(|gone| TENS.get(gone)) else {
        return Some(0); // no number has that many digits
    };
    let whole = match rounding {
        Rounding::Nearest => divide(units, *unit),
        Rounding::Down => units.div_euclid(*unit),
        Rounding::Up => -(-units).div_euclid(*unit),
    };
    // Digits before the point come back as zeros.
    let zeros = usize::try_from(places.min(0).unsigned_abs()).ok()?;
    to.checked(whole.checked_mul(*TENS.get(zeros)?)?)
}

/// Returns a word that orders like the number.
pub(crate) const fn ordered(units: i128) -> u128 {
    units.cast_unsigned() ^ (1 << 127)
}

/// Returns the number of [`ordered`].
pub(crate) const fn of_ordered(word: u128) -> i128 {
    (word ^ (1 << 127)).cast_signed()
}

/// Returns the nearest float, ties to even.
pub fn to_float(units: i128, scale: u8) -> f64 {
    /// Below it every whole number is a float.
    const EXACT: u128 = 1 << 53;
    if units.unsigned_abs() < EXACT && scale <= 22 {
        // Both are floats exactly, so the division rounds once.
        return units as f64 / TENS[usize::from(scale)] as f64;
    }
    // What is written so is always a float; the standard library rounds it correctly.
    format!("{units}e-{scale}").parse().unwrap_or(f64::NAN)
}

/// Appends a number, with all digits of its scale: `-0.50`.
pub fn write(units: i128, scale: u8, out: &mut Vec<u8>) {
    if units < 0 {
        out.push(b'-');
    }
    let mut digits = [b'0'; 40];
    let (mut at, mut rest) = (digits.len(), units.unsigned_abs());
    // Long division by a small number is slow, and few numbers are that long.
    while rest > u128::from(u64::MAX) {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    let mut rest = rest as u64;
    while rest > 0 {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    // There is always one digit before the point.
    let point = digits.len() - usize::from(scale);
    let first = at.min(point - 1);
    out.extend_from_slice(&digits[first..point]);
    if scale > 0 {
        out.push(b'.');
        out.extend_from_slice(&digits[point..]);
    }
}

/// A sum of so many numbers that no type need hold it, in units of their scale. Taking back what was
/// added leaves exactly nothing.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct WideSum {
    high: i128,
    low: u128,
}

impl WideSum {
    const fn wide(self) -> i256 {
        i256::from_parts(self.low, self.high)
    }

    /// Adds a number, `times` times; a negative number of times takes it back.
    #[inline]
    pub fn add(&mut self, units: i128, times: i64) {
        let more = i256::from_i128(units).wrapping_mul(i256::from_i128(i128::from(times)));
        self.set(self.wide().wrapping_add(more));
    }

    /// Adds everything that was added to another sum.
    pub fn merge(&mut self, other: Self) {
        self.set(self.wide().wrapping_add(other.wide()));
    }

    // 2^128 numbers of 38 digits fit: no sum of rows comes near the end.
    const fn set(&mut self, sum: i256) {
        (self.low, self.high) = sum.to_parts();
    }

    /// Returns whether it is zero.
    pub fn is_zero(self) -> bool {
        self == Self::default()
    }

    /// Returns the sum if it is one of a type, whose scale is that of the numbers.
    pub fn total(self, to: Decimal) -> Option<i128> {
        narrow(self.wide(), to)
    }

    /// Returns the sum, of numbers of a scale, divided by their number; `None` when it does not fit.
    pub fn mean(self, count: i64, scale: u8, to: Decimal) -> Option<i128> {
        let raised = self.wide().checked_mul(ten_to(to.scale - scale))?;
        narrow(divide_wide(raised, i256::from_i128(i128::from(count)))?, to)
    }

    /// Returns the sum, of numbers of a scale, as text.
    pub fn text(self, scale: u8) -> String {
        let digits = self.wide().wrapping_abs().to_string();
        let digits = format!("{digits:0>0$}", usize::from(scale) + 1);
        let (whole, part) = digits.split_at(digits.len() - usize::from(scale));
        let (sign, point) =
            (if self.high < 0 { "-" } else { "" }, if scale == 0 { "" } else { "." });
        format!("{sign}{whole}{point}{part}")
    }

    /// Returns the sum as bytes.
    pub fn to_le_bytes(self) -> [u8; 32] {
        self.wide().to_le_bytes()
    }

    /// Returns the sum of these bytes.
    pub fn from_le_bytes(bytes: [u8; 32]) -> Self {
        let mut sum = Self::default();
        sum.set(i256::from_le_bytes(bytes));
        sum
    }
}

/// Returns a number as text, with all digits of its scale.
pub fn text(units: i128, scale: u8) -> String {
    let mut out = Vec::with_capacity(42);
    write(units, scale, &mut out);
    String::from_utf8(out).expect("digits are text")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests;
