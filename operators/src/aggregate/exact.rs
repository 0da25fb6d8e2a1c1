//! Exact: a sum of floats that loses nothing, so that any order, any grouping and any number of
//! additions and retractions give the same bytes.
//!
//! A float is an integer mantissa times a power of two. Mantissas whose exponents fall in the same
//! 32 are shifted to the same scale and added up in one `i128`; only buckets that are not zero are
//! kept, sorted. The representation is a function of the multiset of added floats alone. It is
//! rounded once, when it is read, to the nearest float, ties to even.
//! Source: Neal, "Fast exact summation using small and large superaccumulators" (2015), made sparse.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

/// Bits of exponent that share a bucket. The unit of bucket 0 is the least subnormal float.
const BUCKET_BITS: u32 = 5;
/// The bucket of the largest floats.
pub(super) const BUCKET_MAX: u8 = 63;
/// A mantissa has 53 bits and is shifted by up to 31, so a bucket holds 2^43 of them.
const ROOM: &str = "fewer than 2^43 floats are summed under one key";
/// Limbs of 64 bits that hold any sum: 2046 exponents, 53 bits of mantissa, 63 bits of count.
const LIMBS: usize = 36;

/// The exact sum of a multiset of floats.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ExactSum {
    /// Exponent bucket and sum of shifted mantissas; sorted, no zeros.
    buckets: Vec<(u8, i128)>,
    /// The values that are no numbers; `None` when there are none.
    specials: Option<Box<Specials>>,
}

impl ExactSum {
    /// Returns the bytes that it takes outside of itself.
    pub(super) fn elsewhere(&self) -> usize {
        let specials = self.specials.as_ref().map_or(0, |_| size_of::<Specials>());
        self.buckets.capacity() * size_of::<(u8, i128)>() + specials
    }
}

/// How many of each value that is no number were added.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
struct Specials {
    nan: i64,
    positive: i64,
    negative: i64,
}

/// The magnitude of a finite float as a mantissa and a power of two, in units of the least subnormal.
#[inline]
pub(super) fn split_magnitude(value: f64) -> Option<(u64, u32)> {
    let bits = value.to_bits();
    let exponent = (bits >> 52) as u32 & 0x7ff;
    if exponent == 0x7ff {
        return None;
    }
    let fraction = bits & ((1 << 52) - 1);
    // A subnormal has no hidden bit and the exponent of the least normal float.
    Some(if exponent == 0 { (fraction, 0) } else { (fraction | 1 << 52, exponent - 1) })
}

/// A finite float as a bucket and the integer that is added to it.
#[inline]
pub(super) fn split(value: f64) -> Option<(u8, i128)> {
    let (mantissa, shift) = split_magnitude(value)?;
    let magnitude = i128::from(mantissa) << (shift & 31);
    let signed = if value.is_sign_negative() { -magnitude } else { magnitude };
    Some(((shift >> BUCKET_BITS) as u8, signed))
}

impl ExactSum {
    /// Adds `value`, `times` times; a negative number of times takes it back.
    pub fn add(&mut self, value: f64, times: i64) {
        match split(value) {
            Some((bucket, part)) => {
                self.add_part(bucket, part.checked_mul(i128::from(times)).expect(ROOM));
            }
            None => {
                let mut one = Specials::default();
                match value {
                    f64::INFINITY => one.positive = times,
                    f64::NEG_INFINITY => one.negative = times,
                    _ => one.nan = times,
                }
                self.add_specials(&one);
            }
        }
    }

    /// Adds an integer to a bucket, as given by [`split`].
    pub(super) fn add_part(&mut self, bucket: u8, part: i128) {
        if part == 0 {
            return;
        }
        match self.buckets.binary_search_by_key(&bucket, |entry| entry.0) {
            Ok(at) => {
                let sum = self.buckets[at].1.checked_add(part).expect(ROOM);
                if sum == 0 {
                    self.buckets.remove(at);
                } else {
                    self.buckets[at].1 = sum;
                }
            }
            Err(at) => self.buckets.insert(at, (bucket, part)),
        }
    }

    fn add_specials(&mut self, other: &Specials) {
        let mut sum = self.specials.as_deref().copied().unwrap_or_default();
        sum.nan += other.nan;
        sum.positive += other.positive;
        sum.negative += other.negative;
        self.specials = (sum != Specials::default()).then(|| Box::new(sum));
    }

    /// Adds everything that was added to `other`.
    pub fn merge(&mut self, other: &ExactSum) {
        for (bucket, part) in &other.buckets {
            self.add_part(*bucket, *part);
        }
        if let Some(specials) = &other.specials {
            self.add_specials(specials);
        }
    }

    /// Turns the sum into the one that takes everything back.
    pub fn negate(&mut self) {
        for (_, part) in &mut self.buckets {
            *part = -*part;
        }
        if let Some(specials) = &mut self.specials {
            specials.nan = -specials.nan;
            specials.positive = -specials.positive;
            specials.negative = -specials.negative;
        }
    }

    /// Returns the sum as plain numbers: buckets with their sums, and how many NaNs and infinities of
    /// each sign were added. What [`ExactSum::from_parts`] takes back.
    pub(super) fn parts(&self) -> (&[(u8, i128)], [i64; 3]) {
        let specials = self.specials.as_deref().copied().unwrap_or_default();
        (&self.buckets, [specials.nan, specials.positive, specials.negative])
    }

    /// Returns the sum of these parts, or nothing if no sum has them; `bucket_max` is the last bucket
    /// that something is added to.
    pub(super) fn from_parts(
        buckets: Vec<(u8, i128)>,
        specials: [i64; 3],
        bucket_max: u8,
    ) -> Option<Self> {
        let ascending = buckets.is_sorted_by(|one, two| one.0 < two.0);
        let whole = buckets.iter().all(|(bucket, sum)| *bucket <= bucket_max && *sum != 0);
        let [nan, positive, negative] = specials;
        let specials = Specials { nan, positive, negative };
        let specials = (specials != Specials::default()).then(|| Box::new(specials));
        (ascending && whole).then_some(Self { buckets, specials })
    }

    /// Returns whether something was added that is no finite number.
    pub(super) fn has_specials(&self) -> bool {
        self.specials.is_some()
    }

    /// Returns whether everything that was added was taken back (or only zeros were added).
    pub fn is_zero(&self) -> bool {
        self.buckets.is_empty() && self.specials.is_none()
    }

    /// Returns the sum, rounded once to the nearest float, ties to even.
    ///
    /// A sum beyond the largest float is infinite. A NaN, or infinities of both signs, give NaN. A
    /// sum of zeros is `0.0`, whatever their signs.
    pub fn to_f64(&self) -> f64 {
        if let Some(specials) = &self.specials {
            return match (specials.nan != 0, specials.positive != 0, specials.negative != 0) {
                (false, true, false) => f64::INFINITY,
                (false, false, true) => f64::NEG_INFINITY,
                _ => f64::NAN,
            };
        }
        let mut limbs = [0_u64; LIMBS];
        for (bucket, part) in &self.buckets {
            add_shifted(&mut limbs, *part, usize::from(*bucket) << BUCKET_BITS);
        }
        let negative = limbs[LIMBS - 1] >> 63 == 1;
        if negative {
            negate(&mut limbs);
        }
        let magnitude = round(&limbs);
        if negative { -magnitude } else { magnitude }
    }
}

/// Adds `part * 2^shift` to a number in two's complement; `shift` is a multiple of 32.
pub(super) fn add_shifted(limbs: &mut [u64], part: i128, shift: usize) {
    let (at, bits) = (shift / 64, shift % 64); // bits is 0 or 32
    let low = (part as u128) << bits;
    let high = if bits == 0 { part >> 127 } else { part >> (128 - bits) }; // sign extended
    let words = [low as u64, (low >> 64) as u64, high as u64];
    let sign = (part >> 127) as u64;
    let mut carry = false;
    for (index, limb) in limbs.iter_mut().enumerate().skip(at) {
        let word = words.get(index - at).copied().unwrap_or(sign);
        let (sum, first) = limb.overflowing_add(word);
        let (sum, second) = sum.overflowing_add(u64::from(carry));
        *limb = sum;
        carry = first | second;
    }
}

/// Turns the sign of a number in two's complement.
pub(super) fn negate(limbs: &mut [u64]) {
    let mut carry = true;
    for limb in limbs.iter_mut() {
        (*limb, carry) = (!*limb).overflowing_add(u64::from(carry));
    }
}

/// Rounds a magnitude, in units of the least subnormal float, to the nearest float.
fn round(limbs: &[u64; LIMBS]) -> f64 {
    let Some(top) = limbs.iter().rposition(|limb| *limb != 0) else { return 0.0 };
    let length = top * 64 + 64 - limbs[top].leading_zeros() as usize;
    if length <= 53 {
        // Fits a mantissa: subnormal, or just normal; the bits are the float.
        return f64::from_bits(limbs[0]);
    }
    let drop = length - 53;
    let mut mantissa = bits_at(limbs, drop) & ((1 << 53) - 1);
    let half = bit_at(limbs, drop - 1);
    let sticky = limbs[..(drop - 1) / 64].iter().any(|limb| *limb != 0)
        || limbs[(drop - 1) / 64] & ((1 << ((drop - 1) % 64)) - 1) != 0;
    if half && (sticky || mantissa & 1 == 1) {
        mantissa += 1;
    }
    // Adding lets a mantissa that was rounded up to 2^53 carry into the exponent.
    let bits = ((drop as u64) << 52) + mantissa;
    match bits.cmp(&f64::INFINITY.to_bits()) {
        Ordering::Less => f64::from_bits(bits),
        _ => f64::INFINITY,
    }
}

fn bit_at(limbs: &[u64; LIMBS], at: usize) -> bool {
    limbs[at / 64] >> (at % 64) & 1 == 1
}

/// Returns the 64 bits from bit `at` on.
fn bits_at(limbs: &[u64; LIMBS], at: usize) -> u64 {
    let low = limbs[at / 64] >> (at % 64);
    if at.is_multiple_of(64) {
        return low;
    }
    low | limbs.get(at / 64 + 1).copied().unwrap_or(0) << (64 - at % 64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A slow obvious sum: one integer of 2,300 bits, kept as bits of the positive and the negative
    /// part, rounded by comparing with the floats on both sides.
    mod oracle {
        /// A magnitude in units of the least subnormal float, lowest bit first.
        type Bits = Vec<bool>;

        fn magnitude(value: f64) -> Bits {
            let bits = value.to_bits();
            let exponent = (bits >> 52 & 0x7ff) as usize;
            let fraction = bits & ((1 << 52) - 1);
            let (mantissa, shift) =
                if exponent == 0 { (fraction, 0) } else { (fraction | 1 << 52, exponent - 1) };
            let mut all = vec![false; 2300];
            for bit in 0..53 {
                all[shift + bit] = mantissa >> bit & 1 == 1;
            }
            all
        }

        fn plus(one: &Bits, two: &Bits) -> Bits {
            let mut carry = 0;
            let added = one.iter().zip(two).map(|(a, b)| {
                let sum = u8::from(*a) + u8::from(*b) + carry;
                carry = sum / 2;
                sum % 2 == 1
            });
            added.collect()
        }

        /// `one - two`, where `one` is not less.
        fn minus(one: &Bits, two: &Bits) -> Bits {
            let mut borrow = 0;
            let left = one.iter().zip(two).map(|(a, b)| {
                let difference = i8::from(*a) - i8::from(*b) - borrow;
                borrow = i8::from(difference < 0);
                difference.rem_euclid(2) == 1
            });
            left.collect()
        }

        fn is_less(one: &Bits, two: &Bits) -> bool {
            one.iter().rev().lt(two.iter().rev())
        }

        pub(super) fn sum(values: &[f64]) -> f64 {
            let (mut positive, mut negative) = (vec![false; 2300], vec![false; 2300]);
            for value in values {
                let side = if value.is_sign_negative() { &mut negative } else { &mut positive };
                *side = plus(side, &magnitude(*value));
            }
            if is_less(&positive, &negative) {
                -nearest(&minus(&negative, &positive))
            } else {
                nearest(&minus(&positive, &negative))
            }
        }

        /// Searches the greatest float that is not above, then looks which neighbour is nearer.
        fn nearest(exact: &Bits) -> f64 {
            let (mut low, mut high) = (0_u64, f64::INFINITY.to_bits());
            while high - low > 1 {
                let middle = low + (high - low) / 2;
                if is_less(exact, &magnitude(f64::from_bits(middle))) {
                    high = middle;
                } else {
                    low = middle;
                }
            }
            let below = magnitude(f64::from_bits(low));
            // One step beyond the largest float stands for 2^1024, which has a magnitude here too.
            let above = if high == f64::INFINITY.to_bits() {
                let half = magnitude(f64::from_bits(0x7fe0_0000_0000_0000));
                plus(&half, &half)
            } else {
                magnitude(f64::from_bits(high))
            };
            let (down, up) = if is_less(exact, &above) {
                (minus(exact, &below), minus(&above, exact))
            } else {
                return f64::INFINITY;
            };
            let up_is_nearer = is_less(&up, &down) || (up == down && low % 2 == 1);
            f64::from_bits(if up_is_nearer { high } else { low })
        }
    }

    fn sum(values: &[f64]) -> ExactSum {
        let mut sum = ExactSum::default();
        for value in values {
            sum.add(*value, 1);
        }
        sum
    }

    /// Compares the sum with what is expected, forwards, backwards, merged in two, and taken back.
    #[track_caller]
    fn check(values: &[f64], expected: f64) {
        let forwards = sum(values);
        assert_eq!(forwards.to_f64().to_bits(), expected.to_bits(), "{values:?}");
        let backwards = sum(&values.iter().rev().copied().collect::<Vec<_>>());
        assert_eq!(backwards, forwards);
        for cut in 0..=values.len() {
            let mut merged = sum(&values[..cut]);
            merged.merge(&sum(&values[cut..]));
            assert_eq!(merged, forwards);
        }
        let mut nothing = forwards.clone();
        for value in values {
            nothing.add(*value, -1);
        }
        assert!(nothing.is_zero());
        let mut negative = forwards.clone();
        negative.negate();
        negative.merge(&forwards);
        assert!(negative.is_zero());
        assert_eq!(negative, ExactSum::default());
    }

    #[test]
    fn sums_are_exact_and_rounded_once() {
        let (max, tiny, inf) = (f64::MAX, 5e-324, f64::INFINITY);
        check(&[], 0.0);
        check(&[0.0, -0.0], 0.0);
        check(&[-0.0], 0.0);
        check(&[0.1; 10], 1.0);
        check(&[1e16, 1.0, -1e16], 1.0);
        check(&[1e308, 1e308, -1e308], 1e308);
        check(&[max, max, -max], max);
        check(&[max, max], inf);
        check(&[-max, -max], -inf);
        check(&[tiny, tiny], 1e-323);
        check(&[tiny, max, -max], tiny);
        check(&[-tiny], -tiny);
        check(&[f64::MIN_POSITIVE, -tiny], f64::from_bits(f64::MIN_POSITIVE.to_bits() - 1));
        // Ties go to the even neighbour, and the least bit below breaks them.
        check(&[1.0, f64::EPSILON / 2.0], 1.0);
        check(&[1.0 + f64::EPSILON, f64::EPSILON / 2.0], 1.0 + 2.0 * f64::EPSILON);
        check(&[1.0, f64::EPSILON / 2.0, tiny], 1.0 + f64::EPSILON);
        check(&[1.0, f64::EPSILON / 2.0, -tiny], 1.0);
        // Half a step above the largest float rounds up to infinity, anything less does not.
        let half = f64::from_bits((1023 + 970) << 52);
        check(&[max, half], inf);
        check(&[max, half, -tiny], max);
    }

    #[test]
    fn what_is_no_number_is_counted() {
        let (nan, inf) = (f64::NAN, f64::INFINITY);
        check(&[1.0, inf], inf);
        check(&[1.0, -inf, -inf], -inf);
        for values in [&[nan, 1.0][..], &[inf, -inf], &[nan, inf]] {
            let sum = sum(values);
            assert!(sum.to_f64().is_nan());
        }
        let mut sum = sum(&[nan, 2.5]);
        sum.add(nan, -1);
        assert_eq!(sum.to_f64(), 2.5);
    }

    proptest! {
        #[test]
        fn oracle_any_floats(bits in proptest::collection::vec(any::<u64>(), 0..12)) {
            let finite = |bits: &u64| Some(f64::from_bits(*bits)).filter(|value| value.is_finite());
            let values: Vec<f64> = bits.iter().filter_map(finite).collect();
            check(&values, oracle::sum(&values));
        }

        #[test]
        fn oracle_floats_of_like_size(
            parts in proptest::collection::vec((any::<i64>(), -60..60_i32), 0..20),
        ) {
            let value = |(mantissa, exponent): &(i64, i32)| *mantissa as f64 * 2_f64.powi(*exponent);
            let values: Vec<f64> = parts.iter().map(value).collect();
            check(&values, oracle::sum(&values));
        }
    }
}
