//! Time: which file, and how far into it. A derived, in-memory notion; holds no state.
//!
//! One accepted version of one file is one `epoch`; a file is read in `chunk`s, and chunk *c* of
//! file *e* flows at `(e, c)`. What can only be said once the whole file is known flows at
//! `(e, END)`. Times are ordered lexicographically, a total order, so a frontier is a single
//! element that reads as "file 17, up to chunk 42".

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
}

impl Time {
    /// The chunk number at which statements about a whole file are made.
    pub const END: u64 = u64::MAX;

    /// Returns the time of one chunk.
    pub const fn new(epoch: u64, chunk: u64) -> Self {
        Self { epoch, chunk }
    }

    /// Returns the time after the last chunk of `epoch`.
    pub const fn end(epoch: u64) -> Self {
        Self { epoch, chunk: Self::END }
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

/// The only path summary: no edge outside a loop advances time.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Stay;

impl PartialOrder for Stay {
    fn less_equal(&self, _other: &Self) -> bool {
        true
    }
}

impl PathSummary<Time> for Stay {
    fn results_in(&self, source: &Time) -> Option<Time> {
        Some(*source)
    }

    fn followed_by(&self, _other: &Self) -> Option<Self> {
        Some(Stay)
    }
}

impl Timestamp for Time {
    type Summary = Stay;

    fn minimum() -> Self {
        Self::default()
    }
}

impl Refines<()> for Time {
    fn to_inner(_outer: ()) -> Self {
        Self::default()
    }

    fn to_outer(self) {}

    fn summarize(_path: Stay) {}
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
mod tests {
    use super::*;

    #[test]
    fn a_file_ends_after_its_last_chunk_and_before_the_next_file() {
        assert!(Time::new(3, u64::MAX - 1) < Time::end(3));
        assert!(Time::end(3) < Time::new(4, 0));
    }
}
