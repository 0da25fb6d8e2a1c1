//! Dice: numbers that look random and are the same for the same seed, so that a campaign can be
//! repeated. Holds one number. Never asks the system for anything.

use std::time::Duration;

/// A source of numbers (SplitMix64, Steele, Lea and Flood 2014).
#[derive(Clone, Debug)]
pub struct Dice {
    state: u64,
}

impl Dice {
    /// Returns the dice of a seed.
    pub const fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// Returns the next number.
    pub fn roll(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Returns a number from 0 up to `bound`, without `bound`; 0 if that is 0.
    pub fn below(&mut self, bound: usize) -> usize {
        let bound = bound as u64;
        // The modulus favours small numbers by less than one in 2^40 here.
        usize::try_from(self.roll().checked_rem(bound).unwrap_or(0)).unwrap_or(0)
    }

    /// Returns an instant before `end`.
    pub fn instant(&mut self, end: Duration) -> Duration {
        let share = (self.roll() >> 11) as f64 / (1_u64 << 53) as f64;
        end.mul_f64(share)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_numbers() {
        let rolls = |seed| {
            let mut dice = Dice::new(seed);
            [(); 8].map(|()| dice.roll())
        };
        assert_eq!(rolls(7), rolls(7));
        assert_ne!(rolls(7), rolls(8));
        // The first number of the published algorithm for the seed 1234567.
        assert_eq!(Dice::new(1_234_567).roll(), 6_457_827_717_110_365_317);
    }

    #[test]
    fn numbers_keep_their_bounds_and_use_them() {
        let mut dice = Dice::new(1);
        let mut seen = [false; 5];
        for _ in 0..200 {
            seen[dice.below(5)] = true;
            assert!(dice.instant(Duration::from_millis(10)) < Duration::from_millis(10));
        }
        assert_eq!(seen, [true; 5]);
        assert_eq!(dice.below(0), 0);
    }
}
