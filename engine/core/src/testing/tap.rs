//! Tap: a copy of everything that leaves a node of the dataflow, for `--step`.
//!
//! | input  | batches and rejected records, on the worker where they are                     |
//! | output | none; what is seen lies in the tap                                             |
//! | state  | everything that was seen, up to a bound; of one run of one test                |
//! | errors | none; beyond its bound it says that it stopped                                 |
//!
//! Built only when somebody asks: a dataflow without a tap has no such operator.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tidemill_operators::reject::EpochRejects;
use tidemill_operators::{Batch, Time};
use timely::Container;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::{Stream, StreamVec};
use timely::progress::operate::FrontierInterest;

use crate::plan::{NodeId, PortId};

/// How many rows a tap keeps.
const ROWS_MAX: usize = 1_000_000;

/// What leaves the nodes of a dataflow. All clones are the same tap.
#[derive(Clone, Debug, Default)]
pub struct Tap {
    seen: Arc<Mutex<Seen>>,
}

/// What a tap has seen.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Batches, in the order in which they left.
    pub(super) batches: Vec<(PortId, Time, Batch)>,
    /// Rejected records.
    pub(super) rejects: Vec<(NodeId, Time, EpochRejects)>,
    /// How many rows that is.
    rows: usize,
    /// Whether more came than is kept.
    pub(super) is_cut: bool,
}

impl Tap {
    /// Takes out what was seen.
    pub(super) fn take(&self) -> Seen {
        std::mem::take(&mut self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        // A panic ends the process.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn room(seen: &mut Seen, rows: usize) -> bool {
        seen.rows += rows;
        seen.is_cut |= seen.rows > ROWS_MAX;
        !seen.is_cut
    }

    /// Follows what leaves by a port.
    pub(crate) fn follow(&self, port: PortId, stream: Stream<'_, Time, Batch>) {
        self.watch("Tap", stream, move |seen, time, batch| {
            let batch = std::mem::take(batch);
            if Self::room(seen, batch.len()) {
                seen.batches.push((port, time, batch));
            }
        });
    }

    /// Follows what a node rejects.
    pub(crate) fn follow_rejects(&self, node: NodeId, stream: StreamVec<'_, Time, EpochRejects>) {
        self.watch("Tap rejects", stream, move |seen, time, batch| {
            for some in batch.drain(..) {
                if Self::room(seen, some.rejects.len()) {
                    seen.rejects.push((node, time, some));
                }
            }
        });
    }

    fn watch<C>(
        &self,
        title: &str,
        stream: Stream<'_, Time, C>,
        keep: impl Fn(&mut Seen, Time, &mut C) + 'static,
    ) where
        C: Container + Default,
    {
        let mut builder = OperatorBuilder::new(title.to_owned(), stream.scope());
        let mut input = builder.new_input(stream, Pipeline);
        builder.set_notify_for(0, FrontierInterest::Never);
        let tap = self.clone();
        builder.build(move |capabilities| {
            drop(capabilities);
            move |_frontiers| {
                input.for_each_stamp(|capability, containers| {
                    let Some(time) = capability.least().copied() else { return };
                    let mut seen = tap.lock();
                    containers.for_each(|container| keep(&mut seen, time, container));
                });
            }
        });
    }
}
