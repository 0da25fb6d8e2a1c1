//! Registers: about how many values differ, out of what their hashes look like.
//!
//! A value is hashed; the first bits of the hash choose one of 4,096 registers, and the zeros that
//! follow are its level. How high the levels of all registers are says how many values there were.
//! Held is which levels are there, so that taking a value back needs no other value; the state is how
//! many registers stand at which level. Both depend on the set of values alone.
//! Source: Flajolet et al., "HyperLogLog" (2007); the estimate is that of Ertl, "New cardinality
//! estimation algorithms for HyperLogLog sketches" (2017), algorithm 6. The standard error is 1.6%.

/// Bits of the hash that choose a register.
const REGISTER_BITS: u32 = 12;
/// How many registers there are.
const REGISTERS: f64 = (1 << REGISTER_BITS) as f64;
/// The highest level: all bits behind those of the register are zero.
const LEVEL_MAX: u8 = 64 - REGISTER_BITS as u8 + 1;

/// How long a held level is: the register, and the level turned over, so that the highest is first.
pub(super) const LEVEL_BYTES: usize = 3;
/// How many of these bytes are the register.
pub(super) const REGISTER_BYTES: usize = 2;

/// Returns the register and level of a hash, as they are held.
pub(super) fn level_of(hash: u64) -> [u8; LEVEL_BYTES] {
    let register = (hash >> (64 - REGISTER_BITS)) as u16;
    let rest = hash << REGISTER_BITS | 1 << (REGISTER_BITS - 1);
    let level = rest.leading_zeros() as u8 + 1;
    let [high, low] = register.to_be_bytes();
    [high, low, u8::MAX - level]
}

/// Returns the level of a held one.
pub(super) fn level(held: [u8; LEVEL_BYTES]) -> u8 {
    u8::MAX - held[2]
}

/// Returns whether bytes are a held level.
pub(super) fn is_level(bytes: &[u8]) -> bool {
    let Ok(held) = <[u8; LEVEL_BYTES]>::try_from(bytes) else { return false };
    let register = u16::from_be_bytes([held[0], held[1]]);
    register >> REGISTER_BITS == 0 && (1..=LEVEL_MAX).contains(&level(held))
}

/// Returns whether a state can hold this level.
pub(super) fn is_counted_level(level: u32) -> bool {
    (1..=u32::from(LEVEL_MAX)).contains(&level)
}

/// Returns about how many values there are, given how many registers stand at which level.
pub(super) fn estimate(levels: &[(u32, i64)]) -> i64 {
    /// 1 / (2 ln 2).
    const ALPHA: f64 = 0.721_347_520_444_481_7;
    let at = |wanted: u32| {
        levels.iter().find(|(level, _)| *level == wanted).map_or(0.0, |(_, count)| *count as f64)
    };
    let used: i64 = levels.iter().map(|(_, count)| count).sum();
    if used <= 0 {
        return 0;
    }
    let empty = REGISTERS - used as f64;
    let mut sum = REGISTERS * tau(1.0 - at(u32::from(LEVEL_MAX)) / REGISTERS);
    for level in (1..u32::from(LEVEL_MAX)).rev() {
        sum = 0.5 * (sum + at(level));
    }
    sum += REGISTERS * sigma(empty / REGISTERS);
    (ALPHA * REGISTERS * REGISTERS / sum).round() as i64
}

/// The sum of `x^(2^k) 2^(k-1)` over all k, for the registers that are empty.
fn sigma(mut x: f64) -> f64 {
    let (mut y, mut z) = (1.0, x);
    loop {
        x *= x;
        let before = z;
        z += x * y;
        y += y;
        if z == before {
            return z;
        }
    }
}

/// The same for the registers that are full.
fn tau(mut x: f64) -> f64 {
    if x == 0.0 || x == 1.0 {
        return 0.0;
    }
    let (mut y, mut z) = (1.0, 1.0 - x);
    loop {
        x = x.sqrt();
        let before = z;
        y *= 0.5;
        z -= (1.0 - x) * (1.0 - x) * y;
        if z == before {
            return z / 3.0;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::exchange::key_hash;

    fn estimated(values: impl Iterator<Item = u64>) -> i64 {
        let held: BTreeSet<[u8; LEVEL_BYTES]> =
            values.map(|value| level_of(key_hash(&value.to_be_bytes()))).collect();
        let mut highest: BTreeMap<[u8; 2], u8> = BTreeMap::new();
        for one in &held {
            assert!(is_level(one));
            highest.entry([one[0], one[1]]).or_insert(level(*one));
        }
        let mut levels: BTreeMap<u32, i64> = BTreeMap::new();
        for level in highest.values() {
            *levels.entry(u32::from(*level)).or_default() += 1;
        }
        estimate(&levels.into_iter().collect::<Vec<_>>())
    }

    #[test]
    fn few_values_are_counted_nearly_one_by_one() {
        for count in [0_u64, 1, 2, 10, 100] {
            let found = estimated(0..count);
            assert!(found.abs_diff(count as i64) <= count / 50, "{found} for {count}");
        }
    }

    #[test]
    fn many_values_are_estimated_within_three_standard_errors() {
        for count in [1_000_u64, 5_000, 20_000, 100_000, 400_000] {
            let found = estimated((0..count).map(|value| value * 7)) as f64;
            let off = (found / count as f64 - 1.0).abs();
            assert!(off < 0.048, "{found} for {count}");
        }
    }

    #[test]
    fn a_hash_of_nothing_but_zeros_has_the_highest_level() {
        assert_eq!(level(level_of(0)), LEVEL_MAX);
        assert_eq!(level(level_of(u64::MAX)), 1);
        assert!(!is_level(&[0x10, 0, 254]) && !is_level(&[0, 0, 255]) && !is_level(&[0, 0, 3]));
    }
}
