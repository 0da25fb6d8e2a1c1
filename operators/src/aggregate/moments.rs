//! Moments: count, sum and sum of squares, all exact, so that a variance is a function of the multiset
//! of numbers alone and returns to the same bytes when numbers are taken back.
//!
//! The variance is worked out in whole numbers and rounded once: `(n Q - S S) / (n d)`, where S and Q
//! are the sums, in units of 2^-1074 and 2^-2148, and d is n or n - 1. Nothing cancels.

use serde::{Deserialize, Serialize};

use super::exact::{ExactSum, add_shifted, negate, split_magnitude};

/// Where an int lies in the units of a sum of floats.
const INT_SHIFT: u32 = 1074;
/// The bits of a square that are added to one bucket.
const PIECE_BITS: u32 = 53;
/// The highest bucket of a sum of squares: twice the largest shift of a float, and one piece.
pub(super) const SQUARE_BUCKET_MAX: u8 = ((2 * 2045 + PIECE_BITS) >> 5) as u8;
/// Limbs of 64 bits that hold the square of any sum.
const LIMBS: usize = 74;
/// By how many limbs the numerator is moved up before it is divided by up to 2^126.
const MORE_LIMBS: usize = 3;

/// The numbers of one group.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Moments {
    /// How many there are.
    pub count: i64,
    /// Their sum.
    pub sum: ExactSum,
    /// The sum of the squares of those that are finite, in units of 2^-2148.
    pub squares: ExactSum,
}

/// By what the squares of the deviations are divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Divisor {
    /// By their number: this is all there is.
    All,
    /// By one less: this is a sample.
    Sample,
}

impl Moments {
    /// Adds a float, `times` times.
    pub(super) fn add_float(&mut self, value: f64, times: i64) {
        self.count += times;
        self.sum.add(value, times);
        if let Some((mantissa, shift)) = split_magnitude(value) {
            let square = u128::from(mantissa) * u128::from(mantissa);
            self.add_square(square, 2 * shift, times);
        }
    }

    /// Adds an int, `times` times.
    pub(super) fn add_int(&mut self, value: i64, times: i64) {
        self.count += times;
        let part = i128::from(value) << (INT_SHIFT & 31);
        self.sum.add_part((INT_SHIFT >> 5) as u8, part * i128::from(times));
        let magnitude = u128::from(value.unsigned_abs());
        self.add_square(magnitude * magnitude, 2 * INT_SHIFT, times);
    }

    fn add_square(&mut self, mut square: u128, mut shift: u32, times: i64) {
        while square != 0 {
            let piece = (square & ((1 << PIECE_BITS) - 1)) as i128;
            let part = (piece << (shift & 31)) * i128::from(times);
            self.squares.add_part((shift >> 5) as u8, part);
            square >>= PIECE_BITS;
            shift += PIECE_BITS;
        }
    }

    /// Adds everything that was added to `other`.
    pub(super) fn merge(&mut self, other: &Moments) {
        self.count += other.count;
        self.sum.merge(&other.sum);
        self.squares.merge(&other.squares);
    }

    /// Returns whether nothing is left.
    pub(super) fn is_zero(&self) -> bool {
        self.count == 0 && self.sum.is_zero() && self.squares.is_zero()
    }

    /// Returns the variance; `None` when there are too few numbers to have one.
    pub(super) fn variance(&self, divisor: Divisor) -> Option<f64> {
        Some(match self.scaled(divisor)? {
            Scaled::NotFinite => f64::NAN,
            Scaled::Finite { mantissa, exponent } => times_power_of_two(mantissa, exponent),
        })
    }

    /// Returns the square root of the variance, which can be finite where the variance is not.
    pub(super) fn deviation(&self, divisor: Divisor) -> Option<f64> {
        Some(match self.scaled(divisor)? {
            Scaled::NotFinite => f64::NAN,
            Scaled::Finite { mantissa, exponent } => {
                let odd = exponent.rem_euclid(2);
                let mantissa = if odd == 1 { mantissa * 2.0 } else { mantissa };
                times_power_of_two(mantissa.sqrt(), (exponent - odd) / 2)
            }
        })
    }

    fn scaled(&self, divisor: Divisor) -> Option<Scaled> {
        let less = match divisor {
            Divisor::All => 0,
            Divisor::Sample => 1,
        };
        let count = u64::try_from(self.count).ok()?;
        let divided_by = count.checked_sub(less).filter(|by| *by > 0)?;
        if self.sum.has_specials() {
            return Some(Scaled::NotFinite);
        }
        let mut numerator = multiplied(&magnitude(&self.squares), &[count]);
        let sum = magnitude(&self.sum);
        subtract(&mut numerator, &multiplied(&sum, &sum));
        // Moved up, so that enough bits are left when it has been divided.
        let mut wide = vec![0; MORE_LIMBS];
        wide.extend(numerator);
        let mut rest = divide(&mut wide, count);
        rest |= divide(&mut wide, divided_by);
        let exponent = -2 * INT_SHIFT.cast_signed() - 64 * MORE_LIMBS as i32;
        Some(rounded(&wide, rest != 0, exponent))
    }
}

/// A number that may lie beyond the range of floats.
enum Scaled {
    /// Some of the numbers are not finite.
    NotFinite,
    /// `mantissa * 2^exponent`.
    Finite { mantissa: f64, exponent: i32 },
}

/// Returns the magnitude of a sum, lowest limb first.
fn magnitude(sum: &ExactSum) -> Vec<u64> {
    let mut limbs = vec![0; LIMBS];
    for (bucket, part) in sum.parts().0 {
        add_shifted(&mut limbs, *part, usize::from(*bucket) << 5);
    }
    if limbs[LIMBS - 1] >> 63 == 1 {
        negate(&mut limbs);
    }
    while limbs.last() == Some(&0) {
        limbs.pop();
    }
    limbs
}

fn multiplied(one: &[u64], two: &[u64]) -> Vec<u64> {
    let mut product = vec![0_u64; one.len() + two.len()];
    for (at, first) in one.iter().enumerate() {
        let mut carry = 0_u128;
        for (to, second) in two.iter().enumerate() {
            // At most (2^64 - 1)^2 + 2 (2^64 - 1), which is 2^128 - 1.
            carry += u128::from(*first) * u128::from(*second) + u128::from(product[at + to]);
            product[at + to] = carry as u64;
            carry >>= 64;
        }
        product[at + two.len()] = carry as u64;
    }
    product
}

/// Takes `less` away, which is not more.
fn subtract(from: &mut Vec<u64>, less: &[u64]) {
    if from.len() < less.len() {
        from.resize(less.len(), 0);
    }
    let mut borrow = false;
    for (at, limb) in from.iter_mut().enumerate() {
        let other = less.get(at).copied().unwrap_or(0);
        let (left, first) = limb.overflowing_sub(other);
        let (left, second) = left.overflowing_sub(u64::from(borrow));
        *limb = left;
        borrow = first | second;
    }
}

/// Divides; returns what is left over.
fn divide(limbs: &mut [u64], by: u64) -> u64 {
    let mut rest = 0_u64;
    for limb in limbs.iter_mut().rev() {
        let whole = u128::from(rest) << 64 | u128::from(*limb);
        *limb = (whole / u128::from(by)) as u64;
        rest = (whole % u128::from(by)) as u64;
    }
    rest
}

/// Returns the nearest float to a whole number and a bit more, times a power of two.
fn rounded(limbs: &[u64], more: bool, exponent: i32) -> Scaled {
    let Some(top) = limbs.iter().rposition(|limb| *limb != 0) else {
        return Scaled::Finite { mantissa: 0.0, exponent: 0 };
    };
    let zeros = limbs[top].leading_zeros();
    let below = top.checked_sub(1).map_or(0, |below| limbs[below]);
    let mut bits = limbs[top] << zeros;
    if zeros > 0 {
        bits |= below >> (64 - zeros);
    }
    let cut = top > 0 && (below << zeros != 0 || limbs[..top - 1].iter().any(|limb| *limb != 0));
    // Eleven bits more than a mantissa has: the last one can stand for all that follow.
    bits |= u64::from(cut || more);
    Scaled::Finite { mantissa: bits as f64, exponent: exponent + 64 * top as i32 - zeros as i32 }
}

/// Multiplies in steps, so that nothing but the result can be too large or too small.
fn times_power_of_two(mut value: f64, mut exponent: i32) -> f64 {
    const STEP: i32 = 1000;
    let power = |exponent: i32| f64::from_bits(((1023 + exponent) as u64) << 52);
    while exponent.abs() > STEP && value != 0.0 && value.is_finite() {
        let step = STEP * exponent.signum();
        value *= power(step);
        exponent -= step;
    }
    if value == 0.0 || !value.is_finite() { value } else { value * power(exponent) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of_floats(values: &[f64]) -> Moments {
        let mut moments = Moments::default();
        values.iter().for_each(|value| moments.add_float(*value, 1));
        moments
    }

    fn of_ints(values: &[i64]) -> Moments {
        let mut moments = Moments::default();
        values.iter().for_each(|value| moments.add_int(*value, 1));
        moments
    }

    #[test]
    fn variances_are_those_of_the_textbook() {
        let some = of_floats(&[2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0]);
        assert_eq!(some.variance(Divisor::All), Some(4.0));
        assert_eq!(some.deviation(Divisor::All), Some(2.0));
        assert_eq!(some.variance(Divisor::Sample), Some(32.0 / 7.0));
        assert_eq!(of_ints(&[2, 4, 4, 4, 5, 5, 7, 9]).variance(Divisor::Sample), Some(32.0 / 7.0));
        assert_eq!(of_ints(&[5]).variance(Divisor::All), Some(0.0));
        assert_eq!(of_ints(&[5]).variance(Divisor::Sample), None);
        assert_eq!(of_ints(&[]).variance(Divisor::All), None);
    }

    #[test]
    fn nothing_cancels() {
        // The naive sum of squares loses all of this.
        let far = 1e15;
        assert_eq!(of_floats(&[far, far + 1.0, far + 2.0]).variance(Divisor::Sample), Some(1.0));
        let ends = of_ints(&[i64::MIN, i64::MAX]);
        assert_eq!(ends.deviation(Divisor::All), Some(2_f64.powi(63)));
        assert_eq!(of_ints(&[i64::MAX, i64::MAX - 2]).variance(Divisor::All), Some(1.0));
        let tenth = of_floats(&[0.1; 1000]);
        assert_eq!(tenth.variance(Divisor::All), Some(0.0));
    }

    #[test]
    fn the_ends_of_the_range_are_no_trouble() {
        let huge = of_floats(&[1e300, -1e300]);
        assert_eq!(huge.variance(Divisor::All), Some(f64::INFINITY));
        assert_eq!(huge.deviation(Divisor::All), Some(1e300));
        let tiny = of_floats(&[5e-324, -5e-324]);
        assert_eq!(tiny.variance(Divisor::All), Some(0.0));
        assert_eq!(tiny.deviation(Divisor::All), Some(5e-324));
        assert_eq!(of_floats(&[f64::MAX, -f64::MAX]).deviation(Divisor::All), Some(f64::MAX));
        assert!(of_floats(&[1.0, f64::INFINITY]).variance(Divisor::All).unwrap().is_nan());
        assert!(of_floats(&[1.0, f64::NAN]).deviation(Divisor::All).unwrap().is_nan());
    }

    proptest! {
        #[test]
        fn oracle_variances_are_the_nearest_floats(values in proptest::collection::vec(-1_000..1_000_i64, 2..40)) {
            // Whole numbers, whose variance is a quotient of two exact floats.
            let count = values.len() as i64;
            let (sum, squares) = (values.iter().sum::<i64>(), values.iter().map(|one| one * one).sum::<i64>());
            let numerator = (count * squares - sum * sum) as f64;
            let expected = numerator / (count * (count - 1)) as f64;
            prop_assert_eq!(of_ints(&values).variance(Divisor::Sample), Some(expected));
            prop_assert_eq!(of_ints(&values).deviation(Divisor::Sample), Some(expected.sqrt()));
            let floats: Vec<f64> = values.iter().map(|one| *one as f64).collect();
            prop_assert_eq!(of_floats(&floats).variance(Divisor::Sample), Some(expected));
        }

        #[test]
        fn what_is_taken_back_leaves_the_same_bytes(
            kept in proptest::collection::vec(any::<f64>(), 0..20),
            back in proptest::collection::vec(any::<f64>(), 0..20),
            ints in proptest::collection::vec(any::<i64>(), 0..20),
        ) {
            let mut moments = of_floats(&back);
            kept.iter().for_each(|value| moments.add_float(*value, 1));
            ints.iter().for_each(|value| moments.add_int(*value, 1));
            back.iter().for_each(|value| moments.add_float(*value, -1));
            ints.iter().for_each(|value| moments.add_int(*value, -1));
            prop_assert_eq!(moments, of_floats(&kept));
        }
    }
}
