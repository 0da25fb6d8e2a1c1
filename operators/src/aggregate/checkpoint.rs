//! Checkpoint: how the rows of an aggregate are kept. The walk is [`crate::keep`]'s, the encoding
//! [`super::row`]'s. Holds nothing.

use differential_dataflow::operators::arrange::TraceAgent;
use differential_dataflow::trace::implementations::KeySpine;

use super::accumulator::Accumulator;
use super::row::encode_row;
use crate::keep::KeptRows;
use crate::key::Key;
use crate::shards::shard_of;
use crate::time::Time;

/// The arrangement of an aggregate.
pub(super) type Trace = TraceAgent<KeySpine<Key, Time, Accumulator>>;

/// One row per key.
pub(super) struct KeptTotalRows;

impl KeptRows<Trace> for KeptTotalRows {
    fn shard(key: &Key) -> u8 {
        shard_of(key.hash())
    }

    fn encode(key: &Key, (): &(), total: &Accumulator, bytes: &mut Vec<u8>) {
        encode_row(key, total, bytes);
    }
}
