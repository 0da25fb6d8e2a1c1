//! Random numbers that are the same on every machine, from integer arithmetic alone.
//!
//! It owns the generator and the Zipf sampler of the data sets. It never asks the operating system,
//! a clock or a float for anything: the same seed gives the same bytes everywhere.

/// A xoshiro256** generator (Blackman and Vigna, 2018), seeded by splitmix64.
#[derive(Clone, Debug)]
pub struct Random {
    state: [u64; 4],
}

impl Random {
    /// Returns the generator of one numbered stream of a seed; streams do not overlap in practice.
    pub fn new(seed: u64, stream: u64) -> Self {
        let mut mix = seed ^ stream.wrapping_mul(0xD1B5_4A32_D192_ED03);
        let state = std::array::from_fn(|_| splitmix(&mut mix));
        Self { state }
    }

    /// Returns the next 64 random bits.
    pub fn bits(&mut self) -> u64 {
        let [a, b, c, d] = &mut self.state;
        let result = b.wrapping_mul(5).rotate_left(7).wrapping_mul(9);
        let shifted = *b << 17;
        *c ^= *a;
        *d ^= *b;
        *b ^= *c;
        *a ^= *d;
        *c ^= shifted;
        *d = d.rotate_left(45);
        result
    }

    /// Returns a number in `0..bound`; the bias is below `bound / 2^64`. A bound of 0 gives 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.bits()) * u128::from(bound)) >> 64) as u64
    }

    /// Returns one element of a list that is not empty.
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len() as u64) as usize]
    }
}

/// Splitmix64 (Steele, Lea and Flood, 2014).
fn splitmix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

/// Zipf's law with exponent 1: rank `k` (from 0) is drawn with weight `1 / (k + 1)`.
#[derive(Clone, Debug)]
pub struct Zipf {
    cumulative: Vec<u64>,
}

impl Zipf {
    /// Prepares the law over `ranks` ranks (at least 1).
    pub fn new(ranks: usize) -> Self {
        let mut total = 0_u64;
        let cumulative = (1..=ranks.max(1) as u64)
            .map(|rank| {
                total += (1 << 40) / rank;
                total
            })
            .collect();
        Self { cumulative }
    }

    /// Draws a rank in `0..ranks`.
    pub fn draw(&self, random: &mut Random) -> usize {
        let total = self.cumulative.last().copied().unwrap_or(1);
        let point = random.below(total);
        self.cumulative.partition_point(|&upto| upto <= point)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_numbers_everywhere() {
        let mut random = Random::new(1, 0);
        let drawn: Vec<u64> = (0..3).map(|_| random.bits()).collect();
        assert_eq!(drawn, PINNED);
    }

    /// Computed by a second, independent transcription of the published algorithms.
    const PINNED: [u64; 3] = [12966619160104079557, 9600361134598540522, 10590380919521690900];

    #[test]
    fn streams_of_one_seed_differ() {
        assert_ne!(Random::new(1, 0).bits(), Random::new(1, 1).bits());
    }

    #[test]
    fn below_stays_below() {
        let mut random = Random::new(7, 0);
        for bound in [1, 2, 3, 200, 5_000] {
            assert!((0..1_000).all(|_| random.below(bound) < bound));
        }
        assert_eq!(random.below(0), 0);
    }

    #[test]
    fn the_first_rank_is_drawn_twice_as_often_as_the_second() {
        let (zipf, mut random) = (Zipf::new(100), Random::new(3, 0));
        let mut counts = [0_u32; 100];
        for _ in 0..100_000 {
            counts[zipf.draw(&mut random)] += 1;
        }
        let ratio = f64::from(counts[0]) / f64::from(counts[1]);
        assert!((1.8..2.2).contains(&ratio), "{ratio}");
        assert!(counts[99] > 0);
    }
}
