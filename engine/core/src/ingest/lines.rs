//! Lines: on which line of its file a record stands; a reader knows it only inside of a chunk. Derived.
//!
//! Owns the sums over chunks. Never knows when all chunks before one have been noted: who asks does.

use std::collections::BTreeMap;

/// The lines of a file, chunk by chunk.
#[derive(Debug, Default)]
pub struct Lines {
    /// Of each chunk that is not added up: those before its first record, and those of its records.
    ahead: BTreeMap<u64, (u32, u32)>,
    /// Of all chunks before them.
    before: u64,
}

impl Lines {
    /// Notes how many lines a chunk has before its first record, and of its records.
    pub fn note(&mut self, chunk: u64, skipped: u32, lines: u32) {
        self.ahead.insert(chunk, (skipped, lines));
    }

    /// Adds up the chunks before this one, all of which have been noted: the lines of a long file are one
    /// number. Nothing before it can be asked for any more.
    pub fn pass(&mut self, chunk: u64) {
        while let Some(entry) = self.ahead.first_entry().filter(|entry| *entry.key() < chunk) {
            self.before += sum(entry.remove());
        }
    }

    /// Returns the number of the line, from 1, on which the first record of a chunk stands. All chunks up
    /// to it have been noted.
    pub fn first_of(&self, chunk: u64) -> u64 {
        let before: u64 = self.ahead.range(..chunk).map(|(_, counts)| sum(*counts)).sum();
        let skipped = self.ahead.get(&chunk).map_or(0, |(skipped, _)| *skipped);
        self.before + before + u64::from(skipped) + 1
    }
}

fn sum((skipped, lines): (u32, u32)) -> u64 {
    u64::from(skipped) + u64::from(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_counted_over_chunks_in_whatever_order_they_come() {
        let mut lines = Lines::default();
        lines.note(2, 0, 5);
        lines.note(0, 1, 10);
        lines.note(1, 0, 7);
        let check = |lines: &Lines| {
            assert_eq!((lines.first_of(2), lines.first_of(3)), (19, 24));
        };
        assert_eq!((lines.first_of(0), lines.first_of(1)), (2, 12));
        check(&lines);
        lines.pass(2);
        assert_eq!(lines.ahead.len(), 1);
        check(&lines);
    }
}
