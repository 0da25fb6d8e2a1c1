//! Net: what an epoch changes in a table, each row once. Derived.
//!
//! Rows are gathered as they come, then put in order, and what was added and taken back in one epoch
//! is not mentioned.

use tidemill_operators::key::KeyEncoder;
use tidemill_operators::{Batch, Schema};

/// Rows with how often each is added; negative for taken back.
#[derive(Clone, Debug, Default)]
pub(crate) struct Net {
    bytes: Vec<u8>,
    rows: Vec<NetRow>,
}

#[derive(Clone, Copy, Debug)]
struct NetRow {
    begin: usize,
    /// How many bytes its key columns take, and all.
    key: u32,
    len: u32,
    diff: i64,
}

impl Net {
    /// Adds the rows of a batch. The key columns are the first of `sorted`.
    pub(crate) fn add(&mut self, batch: &Batch, sorted: &Schema, key_columns: usize) {
        let columns = batch.pick(sorted);
        let (key, rest) = columns.columns().split_at(key_columns.min(columns.num_columns()));
        let (key, rest) = (KeyEncoder::new(key), KeyEncoder::new(rest));
        for row in 0..batch.len() {
            let begin = self.bytes.len();
            key.append(row, &mut self.bytes);
            let key = (self.bytes.len() - begin) as u32;
            rest.append(row, &mut self.bytes);
            let len = (self.bytes.len() - begin) as u32;
            self.rows.push(NetRow { begin, key, len, diff: batch.diff });
        }
    }

    /// Adds one row; what its key is does not matter to whoever asks for the order of rows only.
    pub(crate) fn push(&mut self, row: &[u8], diff: i64) {
        let begin = self.bytes.len();
        self.bytes.extend_from_slice(row);
        self.rows.push(NetRow { begin, key: 0, len: row.len() as u32, diff });
    }

    /// Puts the rows in order, each once, and leaves out those that come to nothing.
    pub(crate) fn consolidate(self) -> Self {
        let Self { bytes, mut rows } = self;
        let row = |one: &NetRow| &bytes[one.begin..one.begin + one.len as usize];
        rows.sort_unstable_by(|one, two| row(one).cmp(row(two)));
        let mut net = Self::default();
        net.rows.reserve_exact(rows.len());
        for group in rows.chunk_by(|one, two| row(one) == row(two)) {
            let diff: i64 = group.iter().map(|one| one.diff).sum();
            if diff != 0 {
                let begin = net.bytes.len();
                net.bytes.extend_from_slice(row(&group[0]));
                net.rows.push(NetRow { begin, diff, ..group[0] });
            }
        }
        net.bytes.shrink_to_fit();
        net.rows.shrink_to_fit();
        net
    }

    /// Returns the places of the rows by key, and for each key first what is taken back: the order in
    /// which changes are told.
    pub(crate) fn by_key(&self) -> Vec<usize> {
        let key = |at: usize| &self.row(at)[..self.rows[at].key as usize];
        let mut places: Vec<usize> = (0..self.len()).collect();
        // Stable, and rows are in order.
        places.sort_by(|one, two| {
            key(*one).cmp(key(*two)).then_with(|| (self.diff(*one) > 0).cmp(&(self.diff(*two) > 0)))
        });
        places
    }

    /// Returns the number of rows.
    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Returns whether nothing changes.
    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Returns about how many bytes of memory it takes.
    pub(crate) fn weight(&self) -> usize {
        self.bytes.capacity() + self.rows.capacity() * size_of::<NetRow>()
    }

    /// Returns a row.
    pub(crate) fn row(&self, at: usize) -> &[u8] {
        let row = &self.rows[at];
        &self.bytes[row.begin..row.begin + row.len as usize]
    }

    /// Returns the key columns of a row.
    pub(crate) fn key(&self, at: usize) -> &[u8] {
        &self.row(at)[..self.rows[at].key as usize]
    }

    /// Returns how often a row is added.
    pub(crate) fn diff(&self, at: usize) -> i64 {
        self.rows[at].diff
    }

    /// Returns a row and how often it is added.
    pub(crate) fn at(&self, at: usize) -> (&[u8], i64) {
        (self.row(at), self.diff(at))
    }

    /// Returns the first place between two that is not before a row.
    pub(super) fn partition(&self, from: usize, to: usize, row: &[u8]) -> usize {
        let (mut from, mut to) = (from, to);
        while from < to {
            let middle = from + (to - from) / 2;
            if self.row(middle) < row { from = middle + 1 } else { to = middle }
        }
        from
    }
}
