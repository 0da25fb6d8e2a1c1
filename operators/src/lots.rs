//! Lots: send each record out by a tag that is drawn by a hash: `split`, `sample` and `weighted`.
//!
//! | input  | batches                                                                        |
//! | output | one tag per lot; each record leaves by exactly one                              |
//! | state  | none                                                                           |
//! | errors | a row whose key fails (overflow, bad cast) is rejected                          |
//!
//! The draw is a function of the key, or of the bytes of the record and its offset in the (inflated)
//! file: never of chunk, worker, submission or clock. So the same files always fall apart in the same
//! way, and what is taken back goes the way it went when it came. Each record (each key) is drawn for
//! itself, so a share is met as closely as by throwing dice: of `n` records, `n * p` leave by a lot of
//! the share `p`, give or take a few times `sqrt(n * p * (1 - p))`.

use arrow_array::{Array, ArrayRef, BinaryViewArray, UInt32Array, UInt64Array};
use twox_hash::XxHash3_64;

use crate::batch::{Batch, position_offset};
use crate::exchange::key_hash;
use crate::expr::{Expr, RowError};
use crate::flow::{Emit, Stateless, without_terminator};
use crate::key::KeyEncoder;
use crate::route::Port;

/// Which tags are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LotsKind {
    /// As many as are wanted, all alike, by a key.
    Split,
    /// A share, and the rest.
    Sample,
    /// Some with weights.
    Weighted,
}

impl LotsKind {
    /// Returns the word that names the kind in a pipeline file.
    pub const fn word(self) -> &'static str {
        match self {
            LotsKind::Split => "split",
            LotsKind::Sample => "sample",
            LotsKind::Weighted => "weighted",
        }
    }
}

/// Draws a tag for each row.
pub struct Lots {
    by: Vec<Expr>,
    seed: u64,
    /// The port of each lot, and the sum of all weights up to its own.
    ports: Vec<(u64, Port)>,
}

impl Lots {
    /// Returns an operator that draws a port for each key, or without `by` for each record. A lot is
    /// as likely as its weight is large; their sum fits a `u64`.
    pub fn new(by: Vec<Expr>, seed: u64, ports: Vec<(u64, Port)>) -> Self {
        let mut upto: u64 = 0;
        let summed = |(weight, port)| {
            upto = upto.saturating_add(weight);
            (upto, port)
        };
        Self { by, seed, ports: ports.into_iter().map(summed).collect() }
    }

    /// Returns the number of the lot that a hash draws.
    fn draw(&self, hash: u64) -> usize {
        let total = self.ports.last().map_or(1, |(upto, _)| *upto);
        // A multiplication keeps all 64 bits: no lot gets more than its share by a remainder.
        let drawn = ((u128::from(hash) * u128::from(total)) >> 64) as u64;
        self.ports.partition_point(|(upto, _)| *upto <= drawn)
    }
}

/// Returns the seed of a word: what makes the draws of two operators independent of each other.
pub fn seed_of(word: &str) -> u64 {
    key_hash(word.as_bytes())
}

/// Returns the hash by which a record is drawn: its bytes without their line end, and where it begins.
fn record_hash(seed: u64, offset: u64, record: &[u8], scratch: &mut Vec<u8>) -> u64 {
    scratch.clear();
    scratch.extend_from_slice(&offset.to_le_bytes());
    scratch.extend_from_slice(without_terminator(record));
    XxHash3_64::oneshot_with_seed(seed, scratch)
}

impl Stateless for Lots {
    fn apply(&mut self, batch: Batch, emit: &mut Emit) {
        let mut errors: Vec<RowError> = Vec::new();
        let mut keys: Vec<ArrayRef> = Vec::with_capacity(self.by.len());
        for key in &self.by {
            let evaluated = key.evaluate(&batch.columns);
            errors.extend(evaluated.errors);
            keys.push(evaluated.values);
        }
        errors.sort_by_key(|error| error.row);
        let keys = (!keys.is_empty()).then(|| KeyEncoder::new(&keys));
        let mut drawn: Vec<Vec<u32>> = vec![Vec::new(); self.ports.len()];
        let mut failed = errors.iter().map(|error| error.row).peekable();
        let mut scratch = Vec::new();
        for row in 0..batch.len() {
            if failed.peek() == Some(&(row as u32)) {
                while failed.next_if_eq(&(row as u32)).is_some() {}
                continue;
            }
            let hash = match &keys {
                Some(keys) => {
                    scratch.clear();
                    keys.append(row, &mut scratch);
                    XxHash3_64::oneshot_with_seed(self.seed, &scratch)
                }
                None => {
                    let offset = batch.origin.offset + offset_in_chunk(&batch.positions, row);
                    record_hash(self.seed, offset, bytes(&batch.raw, row), &mut scratch)
                }
            };
            drawn[self.draw(hash)].push(row as u32);
        }
        for ((_, port), rows) in self.ports.iter().zip(drawn) {
            if !port.used {
                emit.filter_out(rows.len());
            } else if rows.len() == batch.len() {
                emit.give(port.tag, batch.project(&port.shape));
            } else if !rows.is_empty() {
                let given = batch.project(&port.shape).take(&UInt32Array::from(rows));
                emit.give(port.tag, given);
            }
        }
        emit.reject_failed(&batch, &errors);
    }
}

fn offset_in_chunk(positions: &Option<UInt64Array>, row: usize) -> u64 {
    let positions = positions.as_ref().expect("the plan carries places to a draw without a key");
    u64::from(position_offset(positions.value(row)))
}

fn bytes(raw: &Option<BinaryViewArray>, row: usize) -> &[u8] {
    let raw = raw.as_ref().expect("the plan carries records to a draw without a key");
    if raw.is_null(row) { b"" } else { raw.value(row) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::sync::Arc;

    use arrow_array::{Int64Array, RecordBatch, StringViewArray};

    use super::*;
    use crate::batch::{Shape, position};
    use crate::expr::compile;
    use crate::{Column, Origin, Schema, Type};

    /// Returns records `0..count` of a file, those from `first` on in a chunk of their own.
    fn chunk(first: usize, last: usize, offset: u64) -> Batch {
        let ids: Vec<i64> = (first as i64..last as i64).collect();
        let users = ids.iter().map(|id| Some(format!("user {}", id % 1000)));
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from(ids.clone())),
            Arc::new(users.collect::<StringViewArray>()),
        ];
        let raw = ids.iter().map(|id| Some(format!("record {id:08}\n").into_bytes()));
        let place = |at: usize| position(at as u32, 16 * at as u32);
        Batch {
            columns: RecordBatch::try_new(schema().arrow(), columns).unwrap(),
            raw: Some(raw.collect()),
            positions: Some((0..last - first).map(place).collect()),
            origin: Origin { offset, ..Origin::default() },
            ..Batch::default()
        }
    }

    fn schema() -> Schema {
        Schema::new(vec![Column::new("id", Type::Int), Column::new("user", Type::String)])
    }

    /// Returns the ids that leave by each lot.
    fn drawn(by: &[&str], seed: u64, weights: &[u64], batches: &[Batch]) -> Vec<Vec<i64>> {
        let by = by.iter().map(|key| compile(key, &schema()).unwrap()).collect();
        let shape = Shape { schema: schema(), raw: false, positions: false };
        let port = |tag| Port { tag, shape: shape.clone(), used: true };
        let ports = weights.iter().enumerate().map(|(tag, weight)| (*weight, port(tag))).collect();
        let mut lots = Lots::new(by, seed, ports);
        let mut ids = vec![Vec::new(); weights.len()];
        for batch in batches {
            let mut emit = Emit::new("lots", weights.len());
            lots.apply(batch.clone(), &mut emit);
            for (ids, given) in ids.iter_mut().zip(emit.tags()) {
                for batch in given {
                    let column = batch.columns.column(0);
                    let column = column.as_any().downcast_ref::<Int64Array>().unwrap();
                    ids.extend(column.values());
                }
            }
        }
        ids
    }

    /// Four standard deviations: wrong once in 15,000 draws, and these draws never change.
    fn is_near(found: usize, records: usize, share: f64) -> bool {
        let deviation = (records as f64 * share * (1.0 - share)).sqrt();
        (found as f64 - records as f64 * share).abs() <= 4.0 * deviation
    }

    #[test]
    fn a_share_is_met_as_closely_as_by_dice() {
        const RECORDS: usize = 100_000;
        let check = |by: &[&str], weights: &[u64]| {
            let drawn = drawn(by, seed_of("x"), weights, &[chunk(0, RECORDS, 0)]);
            let total: u64 = weights.iter().sum();
            for (lot, weight) in drawn.iter().zip(weights) {
                let share = *weight as f64 / total as f64;
                assert!(is_near(lot.len(), RECORDS, share), "{by:?} {weights:?}: {}", lot.len());
            }
            assert_eq!(drawn.iter().map(Vec::len).sum::<usize>(), RECORDS);
        };
        check(&[], &[50_000, 950_000]);
        check(&[], &[3, 1]);
        check(&["id"], &[3, 1]);
        check(&["id"], &[1, 1, 1, 1, 1, 1, 1]);
        check(&["id", "user"], &[1, 999]);
        check(&[], &[1, 1_000_000]);
    }

    #[test]
    fn the_cut_of_a_file_into_chunks_does_not_count() {
        let whole = drawn(&[], seed_of("x"), &[1, 2], &[chunk(0, 1000, 0)]);
        let cut =
            drawn(&[], seed_of("x"), &[1, 2], &[chunk(0, 333, 0), chunk(333, 1000, 16 * 333)]);
        assert_eq!(whole, cut);
        let elsewhere = drawn(&[], seed_of("x"), &[1, 2], &[chunk(0, 1000, 1)]);
        assert_ne!(whole, elsewhere, "the same bytes at another place are another record");
    }

    #[test]
    fn all_records_of_a_key_leave_together() {
        let drawn = drawn(&["user"], seed_of("x"), &[1, 1], &[chunk(0, 5000, 0)]);
        let users = |ids: &[i64]| -> std::collections::BTreeSet<i64> {
            ids.iter().map(|id| id % 1000).collect()
        };
        let (one, two) = (users(&drawn[0]), users(&drawn[1]));
        assert!(one.is_disjoint(&two));
        assert_eq!(one.len() + two.len(), 1000);
    }

    #[test]
    fn draws_of_two_seeds_are_independent_and_those_of_one_are_alike() {
        let draw = |seed: &str| {
            drawn(&["id"], seed_of(seed), &[1, 1], &[chunk(0, 10_000, 0)]).swap_remove(0)
        };
        let (one, other) = (draw("one"), draw("other"));
        assert_eq!(one, draw("one"));
        let both = one.iter().filter(|id| other.contains(id)).count();
        assert!(is_near(both, 10_000, 0.25), "{both}");
    }

    #[test]
    fn the_draw_of_a_key_never_changes() {
        // Shards of a key live longer than a version of the program.
        let drawn = drawn(&["id"], 0, &[1, 1, 1, 1], &[chunk(0, 12, 0)]);
        assert_eq!(drawn, [vec![8, 9], vec![0, 3, 5, 7, 11], vec![1, 4, 6, 10], vec![2]]);
    }
}
