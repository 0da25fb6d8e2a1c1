//! Said: what an operator says of the rows of a key, and what is different from what it said before.
//! Derived; lives for the walk of an epoch.

use std::cmp::Ordering;

/// The port of troubles.
pub(super) const TROUBLE: usize = u32::MAX as usize;

/// The rows that an operator gives for one key, as of one moment.
#[derive(Default)]
pub struct Said {
    bytes: Vec<u8>,
    /// Rows below are settled.
    settled: Vec<u8>,
    rows: Vec<Row>,
}

#[derive(Clone, Copy)]
struct Row {
    port: u32,
    from: usize,
    to: usize,
    times: i64,
}

impl Said {
    /// Gives a row by a port, so many times.
    pub fn give(&mut self, port: usize, row: &[u8], times: i64) {
        self.give_with(port, times, |bytes| bytes.extend_from_slice(row));
    }

    /// Gives the row that `write` appends.
    pub fn give_with(&mut self, port: usize, times: i64, write: impl FnOnce(&mut Vec<u8>)) {
        let from = self.bytes.len();
        write(&mut self.bytes);
        self.rows.push(Row { port: port as u32, from, to: self.bytes.len(), times });
    }

    /// Tells of a trouble with this key. It is told once, when it is new, in the name of the file
    /// that made it so. Alike troubles of different files are told each; the number of a file is not
    /// shown, it is another one wherever the same files come in another order.
    pub fn report(&mut self, file: u64, trouble: &str) {
        self.give_with(TROUBLE, 1, |bytes| {
            bytes.extend_from_slice(&file.to_be_bytes());
            bytes.extend_from_slice(trouble.as_bytes());
        });
    }

    /// Returns what is shown of a trouble.
    pub(super) fn trouble(row: &[u8]) -> String {
        let text = row.get(size_of::<u64>()..).unwrap_or_default();
        String::from_utf8_lossy(text).into_owned()
    }

    /// Says that nothing which is said from here on of rows below these bytes is a change: they are
    /// settled, whether they are still told or not.
    pub fn settle_below(&mut self, bytes: &[u8]) {
        self.settled.clear();
        self.settled.extend_from_slice(bytes);
    }

    /// Returns the rows that were given: port, bytes, how often.
    pub fn rows(&self) -> impl Iterator<Item = (usize, &[u8], i64)> {
        self.rows.iter().map(|row| (row.port as usize, &self.bytes[row.from..row.to], row.times))
    }

    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.rows.clear();
        self.settled.clear();
    }

    fn parts(&self, row: &Row) -> (u32, &[u8]) {
        (row.port, &self.bytes[row.from..row.to])
    }

    /// Sorts the rows by port and bytes; rows that are the same become one.
    pub(super) fn settle(&mut self) {
        let mut rows = std::mem::take(&mut self.rows);
        rows.sort_by(|one, two| self.parts(one).cmp(&self.parts(two)));
        rows.dedup_by(|next, kept| {
            let same = self.parts(next) == self.parts(kept);
            if same {
                kept.times += next.times;
            }
            same
        });
        rows.retain(|row| row.times != 0);
        self.rows = rows;
    }

    /// Calls `tell` with each row that is there more or less often than `before`: port, bytes, and how
    /// often it came (or went, if negative). Both are settled.
    pub(super) fn since(&self, before: &Said, mut tell: impl FnMut(usize, &[u8], i64)) {
        let (mut old, mut new) = (before.rows.iter().peekable(), self.rows.iter().peekable());
        loop {
            let order = match (old.peek(), new.peek()) {
                (None, None) => return,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(one), Some(two)) => before.parts(one).cmp(&self.parts(two)),
            };
            let gone = if order.is_le() { old.next() } else { None };
            let come = if order.is_ge() { new.next() } else { None };
            let change = come.map_or(0, |row| row.times) - gone.map_or(0, |row| row.times);
            let parts = come.map(|row| self.parts(row)).or(gone.map(|row| before.parts(row)));
            // What is told of a trouble is no row.
            let is_open = |(port, bytes): &(u32, &[u8])| {
                *port as usize == TROUBLE || *bytes >= before.settled.as_slice()
            };
            if let Some((port, bytes)) = parts.filter(|_| change != 0).filter(is_open) {
                tell(port as usize, bytes, change);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(rows: &[(usize, &str, i64)]) -> Said {
        let mut said = Said::default();
        rows.iter().for_each(|(port, row, times)| said.give(*port, row.as_bytes(), *times));
        said.settle();
        said
    }

    #[track_caller]
    fn check(
        before: &[(usize, &str, i64)],
        after: &[(usize, &str, i64)],
        expected: &[(usize, &str, i64)],
    ) {
        let mut found = Vec::new();
        said(after).since(&said(before), |port, row, times| {
            found.push((port, String::from_utf8_lossy(row).into_owned(), times));
        });
        let expected: Vec<_> =
            expected.iter().map(|(port, row, times)| (*port, (*row).to_owned(), *times)).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn only_what_is_different_is_told() {
        check(&[], &[], &[]);
        check(&[(0, "a", 1)], &[(0, "a", 1)], &[]);
        check(&[], &[(0, "b", 1), (0, "a", 1)], &[(0, "a", 1), (0, "b", 1)]);
        check(
            &[(0, "a", 1), (0, "b", 1)],
            &[(0, "c", 1), (0, "a", 1)],
            &[(0, "b", -1), (0, "c", 1)],
        );
        check(&[(0, "a", 3)], &[(0, "a", 1)], &[(0, "a", -2)]);
        check(&[(0, "a", 1)], &[(1, "a", 1)], &[(0, "a", -1), (1, "a", 1)]);
        check(&[(0, "a", 2)], &[(0, "a", 1), (0, "a", 1)], &[]);
    }
}
