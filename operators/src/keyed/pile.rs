//! Pile: the rows of one epoch on one worker until the epoch is whole: their bytes in a few large
//! pieces, sorted and added up in runs. Derived; it leaves with its epoch.
//!
//! A row costs its bytes and 24 more. A row that is taken back and put there again within a run
//! (a file that is replaced by nearly itself) leaves no trace; across runs the arrangement adds up.

use super::Update;
use crate::key::Key;
use crate::time::Time;

/// How many rows are sorted at once. Sorting them takes a few milliseconds.
const RUN_ROWS: usize = 32 * 1024;

/// How many bytes of rows lie in one piece.
const BLOCK_BYTES: usize = 256 << 10;

/// Where the bytes of a row are.
struct Entry {
    block: u32,
    at: u32,
    key: u32,
    value: u32,
    diff: i64,
}

/// The rows of an epoch.
#[derive(Default)]
pub(super) struct Pile {
    runs: Vec<Run>,
    open: Run,
}

#[derive(Default)]
struct Run {
    blocks: Vec<Vec<u8>>,
    entries: Vec<Entry>,
}

impl Run {
    fn parts(&self, entry: &Entry) -> (&[u8], &[u8]) {
        let (from, key) = (entry.at as usize, entry.key as usize);
        let bytes = &self.blocks[entry.block as usize][from..from + key + entry.value as usize];
        bytes.split_at(key)
    }

    /// Sorts the rows and adds up those that are the same.
    fn settle(&mut self) {
        let mut entries = std::mem::take(&mut self.entries);
        entries.sort_unstable_by(|one, two| self.parts(one).cmp(&self.parts(two)));
        entries.dedup_by(|next, kept| {
            let same = self.parts(next) == self.parts(kept);
            if same {
                kept.diff += next.diff;
            }
            same
        });
        entries.retain(|entry| entry.diff != 0);
        entries.shrink_to_fit();
        self.entries = entries;
    }
}

impl Pile {
    /// Adds a row, whose key and value `encode` appends to the bytes it is given; it returns how
    /// long the key is.
    pub(super) fn add(&mut self, diff: i64, encode: impl FnOnce(&mut Vec<u8>) -> usize) {
        let run = &mut self.open;
        if run.blocks.last().is_none_or(|block| block.len() >= BLOCK_BYTES) {
            // The first piece grows as it is needed: most files are small.
            let room = if run.blocks.is_empty() { 0 } else { BLOCK_BYTES };
            run.blocks.push(Vec::with_capacity(room));
        }
        let Some(block) = run.blocks.last_mut() else { return };
        let at = block.len();
        let from = at;
        let key_length = encode(block);
        let length = |bytes: usize| u32::try_from(bytes).expect("a row is shorter than 4 GiB");
        run.entries.push(Entry {
            at: length(at),
            key: length(key_length),
            value: length(block.len() - from - key_length),
            block: length(run.blocks.len() - 1),
            diff,
        });
        if run.entries.len() >= RUN_ROWS {
            let mut full = std::mem::take(&mut self.open);
            full.settle();
            self.runs.push(full);
        }
    }

    /// Ends the pile: no row is added any more.
    pub(super) fn drain(mut self) -> Drain {
        self.open.settle();
        self.runs.push(self.open);
        self.runs.reverse();
        Drain { runs: self.runs, next: 0 }
    }
}

/// The rows of a pile on their way out.
pub(super) struct Drain {
    /// The last one leaves first, and gives its memory back.
    runs: Vec<Run>,
    next: usize,
}

impl Drain {
    /// Returns the next row, at this time.
    pub(super) fn next(&mut self, time: Time) -> Option<Update> {
        loop {
            let run = self.runs.last()?;
            if let Some(entry) = run.entries.get(self.next) {
                self.next += 1;
                let (key, value) = run.parts(entry);
                return Some(((Key::new(key), Key::new(value)), time, entry.diff));
            }
            self.runs.pop();
            self.next = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piled(rows: &[(&str, &str, i64)]) -> Vec<(String, String, i64)> {
        let mut pile = Pile::default();
        for (key, value, diff) in rows {
            pile.add(*diff, |bytes| {
                bytes.extend_from_slice(key.as_bytes());
                bytes.extend_from_slice(value.as_bytes());
                key.len()
            });
        }
        let mut drain = pile.drain();
        let text = |key: &Key| String::from_utf8_lossy(key.bytes()).into_owned();
        std::iter::from_fn(|| drain.next(Time::end(1)))
            .map(|((key, value), _, diff)| (text(&key), text(&value), diff))
            .collect()
    }

    #[test]
    fn rows_come_out_sorted_and_added_up() {
        let rows = [("b", "x", 1), ("a", "yy", 1), ("b", "x", 1), ("", "z", 1), ("a", "y", -1)];
        let expected = [("", "z", 1), ("a", "y", -1), ("a", "yy", 1), ("b", "x", 2)];
        let expected = expected.map(|(key, value, diff)| (key.into(), value.into(), diff));
        assert_eq!(piled(&rows), expected);
    }

    #[test]
    fn a_row_that_is_put_back_leaves_no_trace() {
        assert_eq!(piled(&[("a", "x", -1), ("b", "y", 1), ("a", "x", 1)]).len(), 1);
        assert_eq!(piled(&[]), []);
    }

    #[test]
    fn no_row_of_many_is_lost() {
        let mut pile = Pile::default();
        let count = RUN_ROWS as u64 * 3 + 7;
        for row in 0..count {
            pile.add(1, |bytes| {
                bytes.extend_from_slice(&(row * 7 % count).to_be_bytes());
                bytes.extend_from_slice(&[7; 33]);
                8
            });
        }
        let mut drain = pile.drain();
        let mut rows: Vec<Update> = std::iter::from_fn(|| drain.next(Time::end(1))).collect();
        rows.sort();
        let expected = (0..count).map(|row| row.to_be_bytes().to_vec());
        assert!(rows.iter().map(|row| row.0.0.bytes().to_vec()).eq(expected));
    }
}
