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

/// How many of each value that is no number were added.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
struct Specials {
    nan: i64,
    positive: i64,
    negative: i64,
}

/// A finite float as a bucket and the integer that is added to it.
#[inline]
pub(super) fn split(value: f64) -> Option<(u8, i128)> {
    let bits = value.to_bits();
    let exponent = (bits >> 52) as u32 & 0x7ff;
    if exponent == 0x7ff {
        return None;
    }
    let fraction = bits & ((1 << 52) - 1);
    // A subnormal has no hidden bit and the exponent of the least normal float.
    let (mantissa, shift) =
        if exponent == 0 { (fraction, 0) } else { (fraction | 1 << 52, exponent - 1) };
    let magnitude = i128::from(mantissa) << (shift & 31);
    let signed = if bits >> 63 == 1 { -magnitude } else { magnitude };
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

/// Adds `part * 2^shift` to a number in two's complement.
fn add_shifted(limbs: &mut [u64; LIMBS], part: i128, shift: usize) {
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

fn negate(limbs: &mut [u64; LIMBS]) {
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
    if at % 64 == 0 {
        return low;
    }
    low | limbs.get(at / 64 + 1).copied().unwrap_or(0) << (64 - at % 64)
}
