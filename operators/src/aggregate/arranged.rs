//! Arranged: the accumulators of all keys, by key, as a differential arrangement whose difference is
//! the accumulator.
//!
//! Owns the layout and the batcher. The bytes of many keys lie in one piece ([`Rows`]), and one state
//! lies in its accumulator ([`super::States`]), so that a merge copies and allocates nothing for a key.

use std::rc::Rc;

use differential_dataflow::batcher::{Batcher, Extract};
use differential_dataflow::operators::arrange::arrangement::arrange_core;
use differential_dataflow::operators::arrange::{Arranged, TraceAgent};
use differential_dataflow::trace::implementations::ord_neu::key_batch::OrdKeyStorage;
use differential_dataflow::trace::implementations::ord_neu::layers::UpdsBuilder;
use differential_dataflow::trace::implementations::ord_neu::{OrdKeyBatch, Upds};
use differential_dataflow::trace::implementations::spine_fueled::Spine;
use differential_dataflow::trace::implementations::{BatchContainer, Layout, OffsetList};
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Exchange;
use timely::progress::Antichain;
use timely::progress::frontier::AntichainRef;

use super::accumulator::Accumulator;
use super::gather::Partial;
use crate::keyed::Rows;
use crate::shards::shard_of;
use crate::time::Time;

/// The layout of an arrangement of accumulators.
pub(super) struct Totals;

impl Layout for Totals {
    type KeyContainer = Rows;
    type ValContainer = Vec<()>;
    type TimeContainer = Vec<Time>;
    type DiffContainer = Vec<Accumulator>;
    type OffsetContainer = OffsetList;
}

/// One immutable piece of the arrangement.
pub(super) type Piece = Rc<OrdKeyBatch<Totals>>;

/// A reader of the arrangement.
pub(super) type Trace = TraceAgent<Spine<Piece>>;

/// Arranges what is added up, each key on the worker of its shard.
pub(super) fn arrange<'s>(
    name: &str,
    partials: StreamVec<'s, Time, Partial>,
) -> Arranged<'s, Trace> {
    let to_home = Exchange::new(|partial: &Partial| u64::from(shard_of(partial.0.hash())));
    arrange_core::<_, _, SortOnce, Spine<Piece>>(
        partials,
        to_home,
        &format!("Arrange {name}"),
        |_logger, _operator| SortOnce::default(),
    )
}

/// Holds what is added up until its time is over, and sorts it then, once. Of each key there are few
/// in one epoch (one from each worker), so there is nothing to gain from adding up earlier.
#[derive(Default)]
struct SortOnce {
    waiting: Vec<Partial>,
    /// The least time of what waits.
    lower: Antichain<Time>,
}

impl Batcher<Vec<Partial>> for SortOnce {
    fn insert(&mut self, partials: &mut Vec<Partial>) {
        self.waiting.append(partials);
    }
}

impl Extract for SortOnce {
    type Time = Time;
    type Output = OrdKeyBatch<Totals>;

    fn extract<'a>(
        &'a mut self,
        upper: AntichainRef<'_, Time>,
    ) -> (Option<Self::Output>, AntichainRef<'a, Time>) {
        let later = self.waiting.extract_if(.., |partial| upper.less_equal(&partial.1)).collect();
        let ready = std::mem::replace(&mut self.waiting, later);
        self.lower = self.waiting.iter().map(|partial| partial.1).min().into_iter().collect();
        (piece(ready), self.lower.borrow())
    }
}

/// Where one of many sorts: by the first bytes of its key, which mostly tell it from all others.
struct Place {
    prefix: u128,
    at: usize,
}

impl Place {
    fn new(at: usize, key: &[u8]) -> Self {
        let mut prefix = [0; 16];
        let length = key.len().min(prefix.len());
        prefix[..length].copy_from_slice(&key[..length]);
        Self { prefix: u128::from_be_bytes(prefix), at }
    }
}

/// Sorts and adds up; `None` when nothing is left.
fn piece(mut partials: Vec<Partial>) -> Option<OrdKeyBatch<Totals>> {
    let keys = partials.iter().map(|partial| partial.0.bytes());
    let bytes = keys.clone().map(<[u8]>::len).sum();
    let mut places: Vec<Place> = keys.enumerate().map(|(at, key)| Place::new(at, key)).collect();
    places.sort_unstable_by(|one, two| {
        let by_prefix = one.prefix.cmp(&two.prefix);
        by_prefix.then_with(|| partials[one.at].0.cmp(&partials[two.at].0))
    });
    let mut keys = Rows::with_room(partials.len(), bytes);
    let mut upds = Upds::with_capacity(partials.len() + 1, partials.len());
    let mut of_key = UpdsBuilder::default();
    let mut rest = places.iter().peekable();
    while let Some(place) = rest.next() {
        let partial = &mut partials[place.at];
        of_key.push(partial.1, std::mem::take(&mut partial.2));
        let key = &partials[place.at].0;
        let is_last = rest.peek().is_none_or(|next| partials[next.at].0 != *key);
        if is_last && of_key.seal(&mut upds) {
            keys.push_ref(key.bytes());
        }
    }
    let updates = of_key.total();
    let (storage, value) = (OrdKeyStorage { keys, upds }, OrdKeyBatch::<Totals>::create_value());
    (updates > 0).then_some(OrdKeyBatch { storage, updates, value })
}
