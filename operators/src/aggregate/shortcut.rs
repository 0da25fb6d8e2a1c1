//! Shortcut: from what the key columns of a row hold to its group, without encoding the key.
//!
//! Owns a table beside that of [`super::groups::Groups`], keyed by the words of the columns: an int is
//! a word, a short text is its whole view. Never decides what a group is: a row that is not here is
//! looked up by its encoded key, and only then remembered. State: at most [`ENTRIES_MAX`] entries.
//!
//! What does not fit into [`WORDS`] words, NULLs and longer texts take the long way.

use std::hash::{BuildHasher, RandomState};

use arrow_array::cast::AsArray;
use arrow_array::types::{Decimal128Type, Float64Type, Int64Type, TimestampMicrosecondType};
use arrow_array::{Array, ArrayRef};
use hashbrown::HashTable;

/// Words of a key: two short texts, or up to four numbers.
const WORDS: usize = 4;

/// Keys that are remembered at most: beyond that most rows have a key of their own, and a second
/// table in front of the first only costs.
const ENTRIES_MAX: usize = 1 << 16;

/// A file of fewer rows is through before its keys come again.
const ROWS_MIN: usize = 64;

/// The longest text that stands whole in its view, in bytes.
const INLINE_BYTES: u32 = 12;

type Words = [u64; WORDS];

/// Remembers the groups of keys by their words.
pub(super) struct Shortcut {
    table: HashTable<(Words, u32)>,
    /// Not known to whoever writes the inputs, so that nobody can make all keys fall together. They
    /// decide nothing but where an entry stands.
    seeds: Words,
    /// The words of each row of the batch.
    rows: Vec<Words>,
    /// Whether the words of a row say all of its key.
    whole: Vec<bool>,
    found: usize,
    is_of_use: bool,
}

impl Default for Shortcut {
    fn default() -> Self {
        let random = RandomState::new();
        Self {
            table: HashTable::new(),
            seeds: std::array::from_fn(|at| random.hash_one(at)),
            rows: Vec::new(),
            whole: Vec::new(),
            found: 0,
            is_of_use: true,
        }
    }
}

impl Shortcut {
    /// Takes the key columns of a batch; returns whether it can be used for them.
    pub(super) fn load(&mut self, rows: usize, keys: &[ArrayRef]) -> bool {
        if self.rows.len() > self.found.saturating_mul(2) && self.table.len() >= ENTRIES_MAX {
            // Full, and of no use for the last batch.
            self.table = HashTable::new();
            self.is_of_use = false;
        }
        self.found = 0;
        self.rows.clear();
        if !self.is_of_use || rows < ROWS_MIN && self.table.is_empty() {
            return false;
        }
        self.rows.resize(rows, [0; WORDS]);
        self.whole.clear();
        self.whole.resize(rows, true);
        let mut at = 0;
        for key in keys {
            let Some(taken) = self.column(key, at) else {
                self.is_of_use = false;
                return false;
            };
            at += taken;
            if let Some(nulls) = key.nulls().filter(|nulls| nulls.null_count() > 0) {
                let both = self.whole.iter_mut().zip(nulls.iter());
                both.for_each(|(whole, valid)| *whole &= valid);
            }
        }
        true
    }

    /// Lays the words of a column at `at`; returns how many, or nothing if there is no room.
    fn column(&mut self, key: &ArrayRef, at: usize) -> Option<usize> {
        if let Some(texts) = key.as_string_view_opt() {
            if at + 2 > WORDS {
                return None;
            }
            let rows = self.rows.iter_mut().zip(&mut self.whole).zip(texts.views().iter());
            for ((words, whole), view) in rows {
                words[at] = *view as u64;
                words[at + 1] = (*view >> 64) as u64;
                *whole &= *view as u32 <= INLINE_BYTES;
            }
            return Some(2);
        }
        if let Some(numbers) = key.as_primitive_opt::<Decimal128Type>() {
            if at + 2 > WORDS {
                return None;
            }
            self.lay(at, numbers.values().iter().map(|number| *number as u64));
            self.lay(at + 1, numbers.values().iter().map(|number| (*number >> 64) as u64));
            return Some(2);
        }
        if at + 1 > WORDS {
            return None;
        }
        if let Some(numbers) = key.as_primitive_opt::<Int64Type>() {
            self.lay(at, numbers.values().iter().map(|number| number.cast_unsigned()));
        } else if let Some(times) = key.as_primitive_opt::<TimestampMicrosecondType>() {
            self.lay(at, times.values().iter().map(|time| time.cast_unsigned()));
        } else if let Some(numbers) = key.as_primitive_opt::<Float64Type>() {
            self.lay(at, numbers.values().iter().map(|number| number.to_bits()));
        } else {
            let bits = key.as_boolean_opt()?;
            self.lay(at, bits.values().iter().map(u64::from));
        }
        Some(1)
    }

    fn lay(&mut self, at: usize, values: impl Iterator<Item = u64>) {
        for (words, value) in self.rows.iter_mut().zip(values) {
            words[at] = value;
        }
    }

    /// Returns the group of a row, if its key was seen.
    #[inline]
    pub(super) fn find(&mut self, row: usize) -> Option<u32> {
        if !self.whole[row] {
            return None;
        }
        let words = &self.rows[row];
        let entry = self.table.find(hash(&self.seeds, words), |entry| entry.0 == *words)?;
        self.found += 1;
        Some(entry.1)
    }

    /// Remembers the group of a row whose key was not seen.
    pub(super) fn learn(&mut self, row: usize, group: u32) {
        if !self.whole[row] || self.table.len() >= ENTRIES_MAX {
            return;
        }
        let (words, seeds) = (self.rows[row], &self.seeds);
        let entry = (words, group);
        self.table.insert_unique(hash(seeds, &words), entry, |entry| hash(seeds, &entry.0));
    }
}

#[inline]
fn hash(seeds: &Words, words: &Words) -> u64 {
    let mixed = |at: usize| words[at] ^ seeds[at];
    let (one, other) = (fold(mixed(0), mixed(1)), fold(mixed(2), mixed(3)));
    fold(one ^ seeds[2], other ^ seeds[0])
}

/// Multiplies and brings the upper half of the product into the lower one.
#[inline]
fn fold(one: u64, other: u64) -> u64 {
    let product = u128::from(one) * u128::from(other);
    product as u64 ^ (product >> 64) as u64
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use arrow_array::{BooleanArray, Float64Array, Int64Array, StringViewArray};
    use proptest::prelude::*;

    use super::super::groups::Groups;
    use super::super::{AggregateSpec, Inputs, TakenBack};
    use super::*;
    use crate::key::KeyEncoder;

    fn counted(rows: usize, keys: &[ArrayRef]) -> BTreeMap<Vec<u8>, i64> {
        let taken_back = TakenBack::Never;
        let mut groups = Groups::new(&AggregateSpec { keys: vec![], compute: vec![], taken_back });
        let inputs = Inputs { keys: keys.to_vec(), ..Inputs::default() };
        for _ in 0..2 {
            groups.update(rows, &inputs, None, 1);
        }
        groups.drain().map(|one| (one.key.bytes().to_vec(), one.accumulator.rows)).collect()
    }

    /// Groups row by row, by nothing but the encoded key.
    fn oracle(rows: usize, keys: &[ArrayRef]) -> BTreeMap<Vec<u8>, i64> {
        let encoder = KeyEncoder::new(keys);
        let mut expected = BTreeMap::new();
        for row in 0..rows {
            let mut key = Vec::new();
            encoder.append(row, &mut key);
            *expected.entry(key).or_default() += 2;
        }
        expected
    }

    proptest! {
        #[test]
        fn oracle_rows_find_the_groups_of_their_encoded_keys(
            rows in proptest::collection::vec(
                (
                    proptest::option::of("[ab\u{0}\u{1}]{0,3}|[ab]{11,14}"),
                    proptest::option::of(-2_i64..2),
                    proptest::option::of(prop_oneof![Just(0.0), Just(-0.0), Just(f64::NAN),
                        Just(-f64::NAN), Just(1.5)]),
                    proptest::option::of(any::<bool>()),
                ),
                1..200,
            ),
            columns in 0_usize..16,
        ) {
            let texts: StringViewArray = rows.iter().map(|row| row.0.clone()).collect();
            let ints: Int64Array = rows.iter().map(|row| row.1).collect();
            let floats: Float64Array = rows.iter().map(|row| row.2).collect();
            let bools: BooleanArray = rows.iter().map(|row| row.3).collect();
            let all: [ArrayRef; 4] =
                [Arc::new(texts), Arc::new(ints), Arc::new(floats), Arc::new(bools)];
            let keys: Vec<ArrayRef> = (0..4)
                .filter(|at| columns & (1 << at) != 0)
                .map(|at| Arc::clone(&all[at]))
                .collect();
            prop_assert_eq!(counted(rows.len(), &keys), oracle(rows.len(), &keys));
        }
    }

    #[test]
    fn two_floats_of_one_key_find_one_group() {
        let keys: Vec<ArrayRef> = vec![Arc::new(Float64Array::from([0.0, -0.0].repeat(50)))];
        assert_eq!(counted(100, &keys).into_values().collect::<Vec<_>>(), [200]);
    }

    #[test]
    fn keys_that_never_come_again_are_not_remembered_for_ever() {
        let mut shortcut = Shortcut::default();
        let batch = |from: usize| -> Vec<ArrayRef> {
            vec![Arc::new((from..from + 10_000).map(|n| n as i64).collect::<Int64Array>())]
        };
        let mut batches = 0;
        while shortcut.load(10_000, &batch(batches * 10_000)) {
            for row in 0..10_000 {
                assert_eq!(shortcut.find(row), None);
                shortcut.learn(row, row as u32);
            }
            assert!(shortcut.table.len() <= ENTRIES_MAX);
            batches += 1;
        }
        assert_eq!(batches, ENTRIES_MAX.div_ceil(10_000));
        assert!(shortcut.table.is_empty());
    }
}
