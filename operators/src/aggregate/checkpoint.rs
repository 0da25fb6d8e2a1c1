//! Checkpoint: how the rows of an aggregate are kept. The walk is [`crate::keep`]'s, the encoding
//! [`super::row`]'s. Holds nothing.

use super::accumulator::Accumulator;
use super::arranged::Trace;
use super::row::encode_row;
use crate::exchange::key_hash;
use crate::keep::KeptRows;
use crate::shards::shard_of;

/// One row per key.
pub(super) struct KeptTotalRows;

impl KeptRows<Trace> for KeptTotalRows {
    fn shard(key: &[u8]) -> u8 {
        shard_of(key_hash(key))
    }

    fn encode(key: &[u8], (): &(), total: &Accumulator, bytes: &mut Vec<u8>) {
        encode_row(key, total, bytes);
    }
}
