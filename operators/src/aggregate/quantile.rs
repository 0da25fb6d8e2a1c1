//! Quantile: about which value stands at a share of all of them, out of counted buckets.
//!
//! The bucket of a number is its sign, its exponent and the first seven bits of its mantissa: 128
//! buckets for each power of two, and no logarithm whose last bit could differ between machines. A
//! bucket stands for the number in it that is nearest to zero, so an answer is at most 1/128 of itself
//! (0.8%) too near to zero, and whole numbers up to 256 are exact. The buckets and their counts depend
//! on the multiset of numbers alone.

use super::function::Share;
use crate::key::{float_of, ordered_float};

/// Bits of a number's ordered word that a bucket leaves out.
const REST_BITS: u32 = 52 - 7;

/// Returns the bucket of a number.
pub(super) fn bucket_of(value: f64) -> u32 {
    (ordered_float(value) >> REST_BITS) as u32
}

/// Returns whether some number has this bucket.
pub(super) fn is_bucket(bucket: u32) -> bool {
    // The last bucket below zero, of the tiniest negative numbers, stands for zero itself.
    let number = number_of(bucket);
    u64::from(bucket) <= u64::MAX >> REST_BITS && (bucket_of(number) == bucket || number == 0.0)
}

/// Returns the number that a bucket stands for.
fn number_of(bucket: u32) -> f64 {
    let word = u64::from(bucket) << REST_BITS;
    // Words of negative numbers are their bits turned over: zeros are ones there.
    float_of(if word >> 63 == 1 { word } else { word | ((1 << REST_BITS) - 1) }) + 0.0
}

/// Returns the number at a share of all that were counted: the least one that as many do not exceed.
/// `buckets` are in order.
pub(super) fn at_share(buckets: &[(u32, i64)], share: Share) -> Option<f64> {
    let all: i64 = buckets.iter().map(|(_, count)| count).sum();
    if all <= 0 {
        return None;
    }
    let wanted = ((share.get() * all as f64).ceil() as i64).clamp(1, all);
    let mut below = 0;
    for (bucket, count) in buckets {
        below += count;
        if below >= wanted {
            return Some(number_of(*bucket));
        }
    }
    None
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn quantile(values: &[f64], share: f64) -> Option<f64> {
        let mut buckets: BTreeMap<u32, i64> = BTreeMap::new();
        for value in values {
            assert!(is_bucket(bucket_of(*value)), "{value}");
            *buckets.entry(bucket_of(*value)).or_default() += 1;
        }
        at_share(&buckets.into_iter().collect::<Vec<_>>(), Share::new(share).unwrap())
    }

    #[test]
    fn the_tiniest_numbers_have_a_bucket_and_stand_for_zero() {
        for tiny in [5e-324, -5e-324, 0.0, -0.0] {
            assert_eq!(quantile(&[tiny], 0.5).map(f64::to_bits), Some(0), "{tiny}");
        }
    }

    #[test]
    fn whole_numbers_up_to_256_are_exact() {
        for number in -256..=256 {
            assert_eq!(quantile(&[f64::from(number)], 0.5), Some(f64::from(number)));
        }
        let hundred: Vec<f64> = (1..=100).map(f64::from).collect();
        for (share, expected) in
            [(0.0, 1.0), (0.5, 50.0), (0.99, 99.0), (0.999, 100.0), (1.0, 100.0)]
        {
            assert_eq!(quantile(&hundred, share), Some(expected), "{share}");
        }
        assert_eq!(quantile(&[], 0.5), None);
    }

    #[test]
    fn what_is_no_finite_number_has_its_place() {
        let all = [f64::NEG_INFINITY, -0.0, 0.0, 5e-324, f64::MAX, f64::INFINITY, f64::NAN];
        assert_eq!(quantile(&all, 0.0), Some(f64::NEG_INFINITY));
        assert_eq!(quantile(&all, 0.3).map(f64::to_bits), Some(0));
        assert_eq!(quantile(&all, 0.85), Some(f64::INFINITY));
        assert!(quantile(&all, 1.0).unwrap().is_nan());
        assert!(Share::new(1.1).is_none() && Share::new(f64::NAN).is_none());
    }

    proptest! {
        #[test]
        fn an_answer_is_at_most_one_in_128_too_near_to_zero(
            mut values in proptest::collection::vec(-1e9..1e9_f64, 1..200),
            share in 0.0..=1.0_f64,
        ) {
            let found = quantile(&values, share).unwrap();
            values.sort_by(f64::total_cmp);
            let at = ((share * values.len() as f64).ceil() as usize).clamp(1, values.len());
            let exact = values[at - 1];
            prop_assert!(found.abs() <= exact.abs() && exact.abs() - found.abs() <= exact.abs() / 128.0);
            prop_assert!(found == 0.0 || found.is_sign_negative() == exact.is_sign_negative());
        }
    }
}
