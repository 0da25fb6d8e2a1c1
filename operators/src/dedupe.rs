//! Dedupe: of all rows with the same key, the one that comes first.
//!
//! | input  | the rows of a key, in the order that decides ([`crate::keyed`])                        |
//! | output | tag 0: the first row of each key; tag 1: all others                                    |
//! | state  | every row, those that lost included: one of them wins when the winner is taken back    |
//! | errors | none                                                                                  |
//! | leaves | a row leaves memory when it is taken back                                             |
//! | cost   | one look per key that changed; while somebody reads the duplicates, one per row of it  |

use crate::keyed::{Logic, Said};

/// The tag of the rows that are given first.
pub const FIRST: usize = 0;

/// The tag of all other rows.
pub const DUPLICATES: usize = 1;

/// Keeps one row of each key.
#[derive(Clone, Copy, Debug)]
pub enum Dedupe {
    /// Says which row comes first.
    First,
    /// Also says which rows do not.
    Both,
}

impl Logic for Dedupe {
    fn rows<'v>(
        &mut self,
        _key: &'v [u8],
        values: &mut dyn Iterator<Item = (&'v [u8], i64)>,
        said: &mut Said,
    ) {
        let Some((first, times)) = values.next() else { return };
        said.give(FIRST, first, 1);
        if matches!(self, Dedupe::Both) {
            if times > 1 {
                said.give(DUPLICATES, first, times - 1);
            }
            for (value, times) in values {
                said.give(DUPLICATES, value, times);
            }
        }
    }
}
