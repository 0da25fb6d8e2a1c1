//! Leaf: some hundred rows of a table side by side, in one piece of memory. Derived; never changed
//! once it is made.
//!
//! A row is its encoded cells ([`tidemill_operators::key`]). Rows sort by their bytes, and each is
//! there once; how often it counts stands apart, only where that is not once. A row costs its bytes
//! and four.

use std::cmp::Ordering;

/// Bytes at which a leaf is cut in two.
pub(super) const LEAF_BYTES_MAX: usize = 4 << 10;

/// Rows in order, each with how often it is there.
#[derive(Clone, Debug, Default)]
pub(super) struct Leaf {
    bytes: Box<[u8]>,
    /// Where each row ends.
    ends: Box<[u32]>,
    /// The rows that are not there once: which, and how often. Never 0 times.
    times: Box<[(u32, i64)]>,
}

impl Leaf {
    /// Returns the number of different rows.
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// Returns how many bytes of memory it takes.
    pub(super) fn weight(&self) -> usize {
        self.bytes.len()
            + self.ends.len() * size_of::<u32>()
            + self.times.len() * size_of::<(u32, i64)>()
            + size_of::<Self>()
    }

    /// Returns a row.
    pub(super) fn row(&self, at: usize) -> &[u8] {
        let begin = if at == 0 { 0 } else { self.ends[at - 1] as usize };
        &self.bytes[begin..self.ends[at] as usize]
    }

    /// Returns how often a row is there; negative if it was taken back more often than given.
    pub(super) fn times(&self, at: usize) -> i64 {
        if self.times.is_empty() {
            return 1;
        }
        let found = self.times.binary_search_by_key(&(at as u32), |(row, _)| *row);
        found.map_or(1, |found| self.times[found].1)
    }

    /// Returns the first row that is not before `row`.
    pub(super) fn find(&self, row: &[u8]) -> usize {
        let (mut from, mut to) = (0, self.len());
        while from < to {
            let middle = from + (to - from) / 2;
            if self.row(middle) < row { from = middle + 1 } else { to = middle }
        }
        from
    }

    /// Returns all rows and how often each is there.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&[u8], i64)> {
        (0..self.len()).map(|at| (self.row(at), self.times(at)))
    }
}

/// A leaf that is being made, of any size; rows come in order.
#[derive(Debug, Default)]
pub(super) struct Filling {
    bytes: Vec<u8>,
    ends: Vec<usize>,
    times: Vec<(usize, i64)>,
}

impl Filling {
    /// Returns one with room for so many rows and bytes.
    pub(super) fn with_capacity(rows: usize, bytes: usize) -> Self {
        let (bytes, ends) = (Vec::with_capacity(bytes), Vec::with_capacity(rows));
        Self { bytes, ends, times: Vec::new() }
    }

    /// Appends a row that comes behind all others; one that is there 0 times is left out.
    pub(super) fn push(&mut self, row: &[u8], times: i64) {
        if times == 0 {
            return;
        }
        if times != 1 {
            self.times.push((self.ends.len(), times));
        }
        self.bytes.extend_from_slice(row);
        self.ends.push(self.bytes.len());
    }

    /// Appends the rows of a leaf that come behind all others: those from `from` up to `to`.
    fn push_run(&mut self, leaf: &Leaf, from: usize, to: usize) {
        for at in from..to {
            self.push(leaf.row(at), leaf.times(at));
        }
    }

    /// Appends a leaf with changes, both in order, each row of the changes once.
    pub(super) fn merge<'c>(
        &mut self,
        leaf: &Leaf,
        changes: impl ExactSizeIterator<Item = (&'c [u8], i64)>,
    ) {
        let mut next = 0;
        let few = changes.len() * 16 < leaf.len();
        for (row, diff) in changes {
            let place = if few { leaf.find(row) } else { seek(leaf, next, row) };
            self.push_run(leaf, next, place);
            next = place;
            let is_there = next < leaf.len() && leaf.row(next) == row;
            let before = if is_there { leaf.times(next) } else { 0 };
            next += usize::from(is_there);
            self.push(row, before + diff);
        }
        self.push_run(leaf, next, leaf.len());
    }

    /// Cuts it into leaves of about the same size, none without rows.
    pub(super) fn into_leaves(self) -> Vec<Leaf> {
        let wanted = self.bytes.len().div_ceil(LEAF_BYTES_MAX).max(1);
        let share = self.bytes.len().div_ceil(wanted).max(1);
        let mut leaves = Vec::with_capacity(wanted);
        let (mut from, mut at) = (0, 0);
        while from < self.ends.len() {
            let begin = if from == 0 { 0 } else { self.ends[from - 1] };
            let mut to = from + 1;
            while to < self.ends.len() && self.ends[to] - begin <= share {
                to += 1;
            }
            let odd = self.times[at..].partition_point(|(row, _)| *row < to);
            let times = self.times[at..at + odd].iter();
            leaves.push(Leaf {
                bytes: self.bytes[begin..self.ends[to - 1]].into(),
                // A leaf of more than one row is small, and no row has 4 GiB: its texts are views.
                ends: self.ends[from..to].iter().map(|end| (end - begin) as u32).collect(),
                times: times.map(|(row, times)| ((row - from) as u32, *times)).collect(),
            });
            (from, at) = (to, at + odd);
        }
        leaves
    }
}

/// Returns the first row from `from` on that is not before `row`, by looking at one after the other.
fn seek(leaf: &Leaf, from: usize, row: &[u8]) -> usize {
    (from..leaf.len()).find(|at| leaf.row(*at).cmp(row) != Ordering::Less).unwrap_or(leaf.len())
}
