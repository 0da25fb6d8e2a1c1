//! Account: what the operators of one worker did with each file, told to worker 0 once nothing of
//! the file can come any more.
//!
//! | input  | rejected records of every node, kept on the worker: only their frontier matters  |
//! | output | one [`EpochCounts`] per epoch and worker that saw records of it, at `(epoch, END)` |
//! | state  | none of its own; the counts of open epochs are in [`Tallies`]                     |
//! | errors | none                                                                              |
//!
//! Every source and operator has a stream of rejected records, so the frontier of all of them
//! together passes an epoch exactly when no operator on any worker can meet a record of it again.
//! Sinks are not asked: what they delivered is counted where it arrived, as the other side of the
//! balance. The operator keeps a capability of its own, because on most workers no message of a small
//! file ever comes by; it is moved on once per epoch and costs nothing in between.

use tidemill_operators::Time;
use tidemill_operators::reject::EpochRejects;
use tidemill_operators::tally::{EpochCounts, Tallies};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::progress::operate::FrontierInterest;

/// Builds the operator. `ends` holds the rejected records of every source and operator.
pub fn account<'scope>(
    title: &str,
    ends: StreamVec<'scope, Time, EpochRejects>,
    tallies: Tallies,
) -> StreamVec<'scope, Time, EpochCounts> {
    let mut builder = OperatorBuilder::new(title.to_owned(), ends.scope());
    let mut input = builder.new_input(ends, Pipeline);
    let (output, counts) = builder.new_output::<Vec<EpochCounts>>();
    let mut output =
        OutputBuilder::<Time, CapacityContainerBuilder<Vec<EpochCounts>>>::from(output);
    builder.set_notify_for(0, FrontierInterest::Always);
    builder.build(move |capabilities| {
        let mut held = capabilities.into_iter().next();
        move |frontiers| {
            input.for_each(|_, rejects| rejects.clear());
            let frontier = frontiers[0].frontier().first().copied();
            let Some(capability) = &mut held else { return };
            for counts in tallies.take_before(frontier) {
                let end = capability.delayed(&Time::end(counts.epoch));
                output.activate().session(&end).give(counts);
            }
            match frontier.map(|frontier| Time::end(frontier.epoch)) {
                Some(next) if next > *capability.time() => capability.downgrade(&next),
                Some(_) => {}
                None => held = None,
            }
        }
    });
    counts
}
