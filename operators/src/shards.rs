//! Shards: how the state of an operator is cut for a checkpoint, and what an operator needs of
//! whoever writes it down.
//!
//! Owns the number of a key's shard, which never changes: state is found again by it. A shard lives
//! on one worker, `shard mod workers`, so that what one worker writes is all there is of its shards,
//! and any number of workers can take them up again. Knows no files: rows leave as bytes.

use serde::{Deserialize, Serialize};
use timely::ExchangeData;

/// Into how many shards a state is cut.
pub const SHARDS: usize = 256;

/// Bytes of one shard that are gathered before they are handed over.
pub const BLOCK_BYTES: usize = 32 << 10;

/// Returns the shard of a key by its [`key_hash`](crate::exchange::key_hash): its highest byte.
///
/// Keys are spread over workers by this number too.
#[inline]
pub const fn shard_of(hash: u64) -> u8 {
    (hash >> 56) as u8
}

/// Asks for a checkpoint: everything that all epochs up to this one did, and nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Mark {
    /// The last epoch whose effect is wanted.
    pub epoch: u64,
    /// Whether all shards are wanted; else those that changed since the last mark.
    pub full: bool,
}

/// A set of shards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShardSet([u64; SHARDS / 64]);

impl ShardSet {
    /// No shard.
    pub const NONE: ShardSet = ShardSet([0; SHARDS / 64]);
    /// Every shard.
    pub const ALL: ShardSet = ShardSet([u64::MAX; SHARDS / 64]);

    /// Returns the shards of one worker.
    pub fn of_worker(worker: usize, workers: usize) -> Self {
        let mut set = Self::NONE;
        let mine = (0..SHARDS).filter(|shard| shard % workers.max(1) == worker);
        mine.for_each(|shard| set.insert(shard as u8));
        set
    }

    /// Adds a shard.
    #[inline]
    pub const fn insert(&mut self, shard: u8) {
        self.0[shard as usize / 64] |= 1 << (shard % 64);
    }

    /// Returns whether a shard is in the set.
    #[inline]
    pub const fn contains(&self, shard: u8) -> bool {
        self.0[shard as usize / 64] >> (shard % 64) & 1 == 1
    }

    /// Adds all shards of another set.
    pub fn add(&mut self, other: &ShardSet) {
        self.0.iter_mut().zip(other.0).for_each(|(one, other)| *one |= other);
    }

    /// Returns the shards, in order.
    pub fn iter(&self) -> impl Iterator<Item = u8> + '_ {
        (0..=u8::MAX).filter(|shard| self.contains(*shard))
    }

    /// Returns whether no shard is in the set.
    pub fn is_empty(&self) -> bool {
        *self == Self::NONE
    }
}

/// Takes the rows of one worker's shards while a checkpoint is written. Never blocks: it hands them
/// to somebody who may, and wakes the operator when there is room again, or when all is durable.
pub trait ShardSink: 'static {
    /// What is said of the written shards.
    type Part: ExchangeData;

    /// Begins: these shards will come, and are empty if no rows do.
    fn begin(&mut self, mark: Mark, shards: &ShardSet);

    /// Returns whether more can be taken now.
    fn has_room(&self) -> bool;

    /// Takes encoded rows of one shard. The rows of a shard come in order.
    fn rows(&mut self, shard: u8, count: u32, bytes: Vec<u8>);

    /// Ends what [`ShardSink::begin`] began.
    fn end(&mut self);

    /// Returns, once, what is to be said of the shards that were ended, when they are durable.
    fn written(&mut self) -> Option<Self::Part>;
}

/// Rows of many shards on their way to a [`ShardSink`], gathered into blocks.
pub struct Blocks {
    shards: Vec<(Vec<u8>, u32)>,
}

impl Default for Blocks {
    fn default() -> Self {
        Self { shards: (0..SHARDS).map(|_| (Vec::new(), 0)).collect() }
    }
}

impl Blocks {
    /// Adds one row, which `encode` appends to the bytes of its shard.
    #[inline]
    pub fn add<S: ShardSink>(
        &mut self,
        sink: &mut S,
        shard: u8,
        encode: impl FnOnce(&mut Vec<u8>),
    ) {
        let (bytes, count) = &mut self.shards[usize::from(shard)];
        encode(bytes);
        *count += 1;
        if bytes.len() >= BLOCK_BYTES {
            sink.rows(shard, std::mem::take(count), std::mem::take(bytes));
        }
    }

    /// Hands over what is left.
    pub fn flush<S: ShardSink>(&mut self, sink: &mut S) {
        for (shard, (bytes, count)) in self.shards.iter_mut().enumerate() {
            if *count > 0 {
                sink.rows(shard as u8, std::mem::take(count), std::mem::take(bytes));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shard_lives_on_exactly_one_worker() {
        for workers in [1, 2, 3, 7, 256, 300] {
            let mut seen = ShardSet::NONE;
            let mut count = 0;
            for worker in 0..workers {
                let mine = ShardSet::of_worker(worker, workers);
                count += mine.iter().count();
                seen.add(&mine);
            }
            assert_eq!((seen, count), (ShardSet::ALL, SHARDS), "{workers} workers");
        }
    }

    #[test]
    fn a_set_holds_what_was_put_in() {
        let mut set = ShardSet::NONE;
        assert!(set.is_empty());
        for shard in [0, 63, 64, 200, 255] {
            set.insert(shard);
        }
        assert_eq!(set.iter().collect::<Vec<_>>(), [0, 63, 64, 200, 255]);
        assert!(!set.contains(1) && set.contains(255) && !set.is_empty());
    }

    #[test]
    fn the_shard_of_a_key_never_changes() {
        let shard = |text: &str| shard_of(crate::exchange::key_hash(text.as_bytes()));
        assert_eq!([shard(""), shard("tidemill")], [0x2d, 190]);
    }
}
