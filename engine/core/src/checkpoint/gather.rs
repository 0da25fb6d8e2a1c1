//! Gather: what all workers of all processes wrote for one mark, on worker 0.
//!
//! | input  | orders, which say which marks there are; kept parts; all sent to worker 0           |
//! | output | none; one [`Heard::Kept`] per mark, in order, to the ledger's queue                 |
//! | state  | what was said of marks under way                                                    |
//! | errors | none; a part that could not be written is a part too                                |
//!
//! As with answers there is no counting: a worker holds the capability of the mark until its packs
//! are durable, so when the frontier has passed the mark every worker has written its shards.

use std::collections::BTreeMap;

use tidemill_operators::Time;
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::{Exchange, Pipeline};
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::progress::operate::FrontierInterest;

use crate::answer::Heard;
use crate::checkpoint::{KeptPart, Order};
use crate::sink::parts::least;

/// Builds the gathering operator. `orders` are those of this worker; `ledger` is used on worker 0
/// only.
pub fn gather<'scope>(
    title: &str,
    orders: StreamVec<'scope, Time, Order>,
    parts: StreamVec<'scope, Time, KeptPart>,
    mut ledger: impl FnMut(Heard) + 'static,
) {
    let scope = parts.scope();
    let first = scope.worker().index() == 0;
    let mut builder = OperatorBuilder::new(title.to_owned(), scope);
    let mut order_input = builder.new_input(orders, Pipeline);
    let mut part_input = builder.new_input(parts, Exchange::new(|_: &KeptPart| 0));
    for port in 0..2 {
        builder.set_notify_for(port, FrontierInterest::Always);
    }
    let mut open: BTreeMap<Time, (Option<u64>, Vec<KeptPart>)> = BTreeMap::new();

    builder.build(move |capabilities| {
        drop(capabilities);
        move |frontiers| {
            order_input.for_each(|capability, orders| {
                let Some(time) = capability.least().copied() else { return };
                for order in orders.drain(..) {
                    if let (Order::Mark(mark), true) = (order, first) {
                        open.entry(time).or_default().0 = Some(mark.epoch);
                    }
                }
            });
            part_input.for_each(|capability, parts| {
                let Some(time) = capability.least().copied() else { return };
                open.entry(time).or_default().1.append(parts);
            });
            let upto = least(frontiers);
            while let Some(entry) = open.first_entry() {
                if upto.is_some_and(|frontier| frontier <= *entry.key()) {
                    break;
                }
                let (epoch, parts) = entry.remove();
                if let Some(epoch) = epoch {
                    ledger(Heard::Kept { epoch, parts });
                }
            }
        }
    });
}
