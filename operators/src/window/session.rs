//! Session: the windows that the rows of a key make themselves: one ends where nothing comes for a
//! while.
//!
//! | input  | the rows of a key, in the order of their event time ([`crate::keyed`])                  |
//! | output | each row with the session it lies in: its first instant, and its last one and the gap   |
//! | state  | every row; one that comes late joins sessions, one that goes takes them apart           |
//! | errors | none; rows without a time were rejected before                                          |
//! | leaves | a row leaves memory when it is taken back                                               |
//! | cost   | all rows of each key that an epoch touched are looked at, twice                         |

use crate::key::{append_value, int_of};
use crate::keyed::{Logic, Said};
use crate::value::Value;

/// Finds the sessions of a key.
#[derive(Clone, Copy, Debug)]
pub struct Sessions {
    /// How long nothing comes before a session has ended, in microseconds.
    pub gap_us: i64,
}

impl Sessions {
    /// Gives the rows of one session.
    fn give(self, rows: &[(&[u8], i64)], (first, last): (i64, i64), said: &mut Said) {
        let bounds = [first, last.saturating_add(self.gap_us)];
        for (row, times) in rows {
            said.give_with(0, *times, |bytes| {
                bytes.extend_from_slice(row);
                bounds.iter().for_each(|at| append_value(&Value::Timestamp(*at), bytes));
            });
        }
    }
}

impl Logic for Sessions {
    fn rows<'v>(
        &mut self,
        _key: &'v [u8],
        values: &mut dyn Iterator<Item = (&'v [u8], i64)>,
        said: &mut Said,
    ) {
        let mut rows: Vec<(&[u8], i64)> = Vec::new();
        let mut bounds: Option<(i64, i64)> = None;
        for (row, times) in values {
            let instant = instant(row);
            match &mut bounds {
                // Never negative: rows come in order.
                Some((_, last)) if instant.saturating_sub(*last) < self.gap_us => *last = instant,
                _ => {
                    if let Some(ended) = bounds.replace((instant, instant)) {
                        self.give(&rows, ended, said);
                        rows.clear();
                    }
                }
            }
            rows.push((row, times));
        }
        if let Some(last) = bounds {
            self.give(&rows, last, said);
        }
    }
}

/// Returns the time that a row begins with.
fn instant(row: &[u8]) -> i64 {
    let word = row.get(1..).and_then(<[u8]>::first_chunk);
    word.map_or(i64::MIN, |word| int_of(u64::from_be_bytes(*word)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Times, and the sessions they lie in, as `first..end`.
    #[track_caller]
    fn check(gap_us: i64, times: &[i64], expected: &[&str]) {
        let rows: Vec<Vec<u8>> = times
            .iter()
            .map(|time| {
                let mut row = Vec::new();
                append_value(&Value::Timestamp(*time), &mut row);
                row
            })
            .collect();
        let mut said = Said::default();
        let mut values = rows.iter().map(|row| (row.as_slice(), 1));
        Sessions { gap_us }.rows(&[], &mut values, &mut said);
        let shown: Vec<String> = said
            .rows()
            .map(|(_, row, _)| format!("{}..{}", instant(&row[9..]), instant(&row[18..])))
            .collect();
        assert_eq!(shown, expected, "{times:?}");
    }

    #[test]
    fn a_session_ends_where_nothing_comes_for_the_gap() {
        check(10, &[], &[]);
        check(10, &[5], &["5..15"]);
        check(10, &[5, 14, 20], &["5..30", "5..30", "5..30"]);
        check(10, &[5, 15], &["5..15", "15..25"]);
        check(10, &[5, 5, 40], &["5..15", "5..15", "40..50"]);
        check(
            10,
            &[i64::MIN, i64::MAX],
            &[
                "-9223372036854775808..-9223372036854775798",
                "9223372036854775807..9223372036854775807",
            ],
        );
    }
}
