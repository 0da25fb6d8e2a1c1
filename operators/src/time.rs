//! Time: which file, and how far into it. A derived, in-memory notion; holds no state.
//!
//! One accepted version of one file is one `epoch`; a file is read in `chunk`s, and chunk *c* of
//! file *e* flows at `(e, c)`. What can only be said once the whole file is known flows at
//! `(e, END)`. Times are ordered lexicographically, a total order, so a frontier is a single
//! element that reads as "file 17, up to chunk 42".
//!
//! Records that go back in a loop stay in their chunk: a third number, the `round`, grows instead.
//! Each loop of a pipeline has some bits of it ([`Turns`]), outer ones above inner ones and earlier
//! ones above later ones, so that going round is always a step forward and an inner loop begins
//! at 0 whenever the outer one goes round.

use std::fmt;

use differential_dataflow::lattice::Lattice;
use serde::{Deserialize, Serialize};
use timely::order::{PartialOrder, TotalOrder};
use timely::progress::Timestamp;
use timely::progress::timestamp::{PathSummary, Refines};

/// The timestamp of every dataflow: an epoch (one version of one file) and a chunk inside it.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Time {
    /// Which accepted file, counted from 1 per pipeline in the order of acceptance.
    pub epoch: u64,
    /// Which chunk of that file, counted from 0; [`Time::END`] stands after the last chunk.
    pub chunk: u64,
    /// How often records of that chunk went round in loops, see [`Turns`]; 0 outside of loops.
    pub round: u64,
}

impl Time {
    /// The chunk number at which statements about a whole file are made.
    pub const END: u64 = u64::MAX;

    /// Returns the time of one chunk, before any loop.
    pub const fn new(epoch: u64, chunk: u64) -> Self {
        Self { epoch, chunk, round: 0 }
    }

    /// Returns the last time of one chunk: when the frontier has passed it, no record of the chunk is
    /// in a loop any more.
    pub const fn last(epoch: u64, chunk: u64) -> Self {
        Self { epoch, chunk, round: u64::MAX }
    }

    /// Returns the last time of `epoch`.
    pub const fn end(epoch: u64) -> Self {
        Self::last(epoch, Self::END)
    }

    /// Returns the first time after the last chunk of `epoch`.
    pub const fn ending(epoch: u64) -> Self {
        Self::new(epoch, Self::END)
    }
}

impl fmt::Display for Time {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.chunk {
            Self::END => write!(out, "{}:end", self.epoch),
            chunk => write!(out, "{}:{chunk}", self.epoch),
        }
    }
}

impl PartialOrder for Time {
    fn less_equal(&self, other: &Self) -> bool {
        self <= other
    }
}

impl TotalOrder for Time {}

/// The bits of [`Time::round`] that count the rounds of one loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Turns {
    shift: u32,
    bits: u32,
}

impl Turns {
    /// How many bits a round has for all loops together.
    pub const BITS: u32 = u64::BITS;

    /// Returns, in the order of the loops, the bits of each; `None` if they are too many. An outer
    /// loop comes before those inside of it, and an earlier one before those that its records reach.
    pub fn divide(max_rounds: impl IntoIterator<Item = u32>) -> Option<Vec<Self>> {
        let mut left = Self::BITS;
        let turns = max_rounds.into_iter().map(|rounds| {
            // 0 is the first passage, before any round.
            let bits = u32::BITS - rounds.leading_zeros();
            left = left.checked_sub(bits)?;
            Some(Self { shift: left, bits })
        });
        turns.collect()
    }

    /// Returns the bits of the only loop.
    pub const fn first(max_rounds: u32) -> Self {
        let bits = u32::BITS - max_rounds.leading_zeros();
        Self { shift: Self::BITS - bits, bits }
    }

    /// Returns how often the loop was gone round at a time.
    pub const fn of(self, time: &Time) -> u64 {
        (time.round >> self.shift) & self.ones()
    }

    /// Returns the step that the edge back makes: one round more, and every loop inside begins anew.
    pub const fn step(self) -> Step {
        Step { clear: self.below(), add: 1 << self.shift }
    }

    /// Returns the bits of a round that are this loop's.
    pub const fn mask(self) -> u64 {
        self.ones() << self.shift
    }

    /// Returns a round number of this loop as the bits of a round.
    pub const fn at(self, round: u64) -> u64 {
        (round & self.ones()) << self.shift
    }

    const fn ones(self) -> u64 {
        u64::MAX >> (u64::BITS - self.bits)
    }

    const fn below(self) -> u64 {
        (1 << self.shift) - 1
    }
}

/// How time advances on a way through the dataflow: only going back in a loop does.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Step {
    /// The bits of the round that begin anew, always the lowest ones: `2^n - 1`.
    clear: u64,
    /// What is added to the round then.
    add: u64,
}

impl Step {
    /// Time stays as it is: every edge but those that go back.
    pub const STAY: Self = Self { clear: 0, add: 0 };
}

impl PartialOrder for Step {
    fn less_equal(&self, other: &Self) -> bool {
        // What this one keeps and the other clears may be all ones.
        let kept = other.clear & !self.clear;
        self.add.checked_add(kept).is_some_and(|most| most <= other.add)
    }
}

impl PathSummary<Time> for Step {
    fn results_in(&self, source: &Time) -> Option<Time> {
        // No record goes round once more when the bits of its loop are full. But where it could lead has to
        // be a time all the same, later than this one and in the order of those it comes from: else whatever
        // waits there behind it would be forgotten as long as it stands before it.
        let (round, is_over) = (source.round & !self.clear).overflowing_add(self.add);
        let (chunk, ends) = source.chunk.overflowing_add(u64::from(is_over));
        let epoch = source.epoch.checked_add(u64::from(ends))?;
        Some(Time { epoch, chunk, round })
    }

    fn followed_by(&self, other: &Self) -> Option<Self> {
        // Exact as long as no loop is gone round more often than its bits can say; `max_rounds`
        // sees to that.
        let add = (self.add & !other.clear).checked_add(other.add)?;
        Some(Self { clear: self.clear | other.clear, add })
    }
}

impl Timestamp for Time {
    type Summary = Step;

    fn minimum() -> Self {
        Self::default()
    }
}

impl Refines<()> for Time {
    fn to_inner(_outer: ()) -> Self {
        Self::default()
    }

    fn to_outer(self) {}

    fn summarize(_path: Step) {}
}

impl Lattice for Time {
    fn join(&self, other: &Self) -> Self {
        *self.max(other)
    }

    fn meet(&self, other: &Self) -> Self {
        *self.min(other)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_file_ends_after_its_last_chunk_and_before_the_next_file() {
        assert!(Time::last(3, u64::MAX - 1) < Time::ending(3));
        assert!(Time::ending(3) < Time::end(3));
        assert!(Time::end(3) < Time::new(4, 0));
    }

    #[test]
    fn rounds_of_a_chunk_lie_between_it_and_the_next() {
        let [outer, inner] = Turns::divide([3, 1000]).unwrap()[..] else { panic!() };
        let start = Time::new(1, 7);
        let second = inner.step().results_in(&inner.step().results_in(&start).unwrap()).unwrap();
        assert_eq!((outer.of(&second), inner.of(&second)), (0, 2));
        let around = outer.step().results_in(&second).unwrap();
        assert_eq!((outer.of(&around), inner.of(&around)), (1, 0), "the inner loop begins anew");
        assert!(start < second && second < around && around < Time::last(1, 7));
        assert!(around < Time::new(1, 8));
    }

    #[test]
    fn the_loops_of_a_pipeline_share_64_bits() {
        assert_eq!(Turns::divide([1000; 6]).map(|all| all.len()), Some(6));
        assert_eq!(Turns::divide([1000; 7]), None);
        assert_eq!(Turns::divide([1; 64]).map(|all| all.len()), Some(64));
        assert_eq!(Turns::divide([1; 65]), None);
        let [first, second] = Turns::divide([1, 1]).unwrap()[..] else { panic!() };
        assert_eq!((first.mask(), second.mask()), (1 << 63, 1 << 62));
        let [outer, inner] = Turns::divide([u32::MAX, u32::MAX]).unwrap()[..] else { panic!() };
        assert_eq!((outer.mask() | inner.mask(), outer.at(1), inner.at(7)), (u64::MAX, 1 << 32, 7));
    }

    /// Every step that some way through three nested and neighbouring loops makes.
    fn steps() -> Vec<Step> {
        let turns = Turns::divide([20, 5, 12]).unwrap();
        let mut steps = vec![Step::STAY];
        for _ in 0..3 {
            for first in steps.clone() {
                steps.extend(turns.iter().filter_map(|one| first.followed_by(&one.step())));
            }
        }
        steps.sort();
        steps.dedup();
        steps
    }

    fn times() -> Vec<Time> {
        let turns = Turns::divide([20, 5, 12]).unwrap();
        let mut times = vec![Time::new(1, 0), Time::new(1, 1), Time::new(2, 0)];
        for _ in 0..4 {
            for from in times.clone() {
                times.extend(turns.iter().filter_map(|one| one.step().results_in(&from)));
            }
        }
        times.sort();
        times.dedup();
        times
    }

    #[test]
    fn ways_compose_and_keep_the_order_of_times() {
        let (steps, times) = (steps(), times());
        for first in &steps {
            for pair in times.windows(2) {
                let [one, two] = pair else { continue };
                assert!(first.results_in(one) <= first.results_in(two), "{first:?} {one:?}");
            }
            for second in &steps {
                let both = first.followed_by(second).unwrap();
                for time in &times {
                    let stepped = first.results_in(time).and_then(|one| second.results_in(&one));
                    assert_eq!(both.results_in(time), stepped, "{first:?} {second:?} {time:?}");
                    if first.less_equal(second) {
                        assert!(first.results_in(time) <= second.results_in(time));
                    }
                }
            }
        }
    }

    #[test]
    fn going_round_is_always_later_and_in_order() {
        let mut times = times();
        // Rounds that are full: of the first loop, of all, at the end of a file.
        let full = Turns::divide([20, 5, 12]).unwrap()[0].mask();
        for time in [Time::new(1, 0), Time::new(1, 1), Time::ending(1), Time::new(2, 0)] {
            times.extend([full, full + 1, !full, u64::MAX].map(|round| Time { round, ..time }));
        }
        times.sort();
        times.dedup();
        for turns in Turns::divide([20, 5, 12]).unwrap() {
            for pair in times.windows(2) {
                let next =
                    pair.iter().map(|time| turns.step().results_in(time)).collect::<Vec<_>>();
                assert!(next[0].is_some_and(|next| next > pair[0]), "{pair:?}");
                assert!(next[0] <= next[1], "{pair:?} {next:?}");
            }
        }
    }
}
