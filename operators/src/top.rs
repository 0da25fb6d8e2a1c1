//! Top: of all rows with the same key, the first few.
//!
//! | input  | the rows of a key, in the order that decides ([`crate::keyed`])                        |
//! | output | the first `count` rows of each key; with their rank, if that is asked for              |
//! | state  | every row, those behind included: one of them moves up when a row is taken back        |
//! | errors | none                                                                                  |
//! | leaves | a row leaves memory when it is taken back                                             |
//! | cost   | `count` looks per key that changed. With ranks a row that comes in takes back all below |

use crate::keyed::{Logic, Said, append_int};

/// Keeps the first few rows of each key.
#[derive(Clone, Copy, Debug)]
pub struct Top {
    /// How many.
    pub count: u64,
    /// Whether each row ends with its rank, from 1.
    pub rank: Rank,
}

/// Whether rows come with their rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rank {
    /// As they are.
    None,
    /// With one more int, which is their number from 1; no two rows of a key share one.
    Tail,
}

impl Logic for Top {
    fn rows<'v>(
        &mut self,
        _key: &'v [u8],
        values: &mut dyn Iterator<Item = (&'v [u8], i64)>,
        said: &mut Said,
    ) {
        let mut given = 0;
        while given < self.count
            && let Some((value, times)) = values.next()
        {
            let times = times.unsigned_abs().min(self.count - given);
            match self.rank {
                Rank::None => said.give(0, value, times.cast_signed()),
                Rank::Tail => {
                    for rank in given + 1..=given + times {
                        said.give_with(0, 1, |row| {
                            row.extend_from_slice(value);
                            append_int(rank.cast_signed(), row);
                        });
                    }
                }
            }
            given += times;
        }
    }
}
