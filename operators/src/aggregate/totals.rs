//! Totals: one row per key, held where the key lives, corrected epoch by epoch.
//!
//! | input  | `(key, time, accumulator)`, any number per key and epoch, from any worker            |
//! | output | per epoch the rows taken back (diff -1), then the rows now there (+1), each by key    |
//! | state  | one entry per key in a differential arrangement, whose difference is the accumulator; |
//! |        | beside it what is held ([`hold`]); written down for checkpoints and put back ([`Kept`]) |
//! | errors | sums of integers that do not fit an int: the cell is NULL and the key is reported    |
//! | leaves | a key leaves when its last row is taken back; history is compacted with the frontier  |

use differential_dataflow::operators::arrange::Arranged;
use differential_dataflow::trace::TraceReader;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::Concat;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::{Stream, StreamVec};
use timely::progress::operate::FrontierInterest;
use timely::progress::{Antichain, Timestamp};
use timely::scheduling::activate::SyncActivator;

use super::AggregateSpec;
use super::arranged::{Trace, arrange};
use super::checkpoint::KeptTotalRows;
use super::correction::Corrections;
use super::gather::{Held, Partial};
use super::hold::hold;
use super::memory;
use super::whole::whole_files;
use crate::batch::{Batch, Origin};
use crate::keep::keep;
use crate::key::Key;
use crate::keyed::{self, KeptPacked};
use crate::reject::{EpochRejects, OnError, Reject, RejectCode, Standing};
use crate::shards::{Mark, ShardSink};
use crate::tally::Tally;
use crate::time::Time;

/// Keeps one row per key and emits, at `Time::end(epoch)`, the rows that the epoch took back and
/// the rows that are there instead; per worker sorted by key, in the columns of
/// [`AggregateSpec::schema`]. A key whose row stays the same is not mentioned.
///
/// The batches come from no one place of a file: their origin has the epoch as its submission and
/// [`Time::END`] as its chunk. Where groups are per file ([`AggregateSpec::per_file`]) a row has the
/// place of the first record of its group, and batches leave in the order of places. The second stream reports sums that no longer fit an int, once when
/// that happens, in the name of `operator`.
pub fn totals<'s>(
    name: &str,
    operator: &str,
    partials: StreamVec<'s, Time, Partial>,
    held: StreamVec<'s, Time, Held>,
    spec: AggregateSpec,
    tally: Tally,
) -> (Stream<'s, Time, Batch>, StreamVec<'s, Time, EpochRejects>) {
    let partials = if spec.holds() {
        let held = whole_files(name, held, &spec);
        partials.concat(hold(name, arrange_held(name, held), &spec, tally.meter().clone()))
    } else {
        partials
    };
    let arranged = arrange(name, partials);
    present(name, operator, arranged, spec, tally)
}

/// What surrounds totals that survive the process.
pub struct Kept<'s, F> {
    /// What an earlier life kept: rows at times of epoch 0, from any worker. They are the state before
    /// the first epoch, and nothing is said of them downstream.
    pub restored: StreamVec<'s, Time, Partial>,
    /// When to write the state down; broadcast to every worker. A mark that asks for the end of an
    /// epoch comes at a time of the next epoch.
    pub marks: StreamVec<'s, Time, Mark>,
    /// Makes what takes the rows of this worker, from what wakes the operator that gives them.
    pub sink: F,
}

/// What is held beside kept totals. Present exactly when the aggregate holds something
/// ([`AggregateSpec::holds`]).
pub struct HeldBeside<'s, F> {
    /// What comes and goes, from any worker.
    pub held: StreamVec<'s, Time, Held>,
    /// What an earlier life held, as in [`Kept::restored`].
    pub restored: StreamVec<'s, Time, Held>,
    /// As in [`Kept::sink`], for a state of its own.
    pub sink: F,
}

/// What [`kept_totals`] give.
pub struct KeptTotals<'s, P> {
    /// The rows, as [`totals`] give them.
    pub rows: Stream<'s, Time, Batch>,
    /// Sums that no longer fit an int, as [`totals`] report them.
    pub rejects: StreamVec<'s, Time, EpochRejects>,
    /// What was written, at the time of each mark: when its frontier has passed that time, every
    /// worker has written its shards.
    pub parts: StreamVec<'s, Time, P>,
}

/// [`totals`] that can be written down and put back.
pub fn kept_totals<'s, S, F, G>(
    name: &str,
    operator: &str,
    partials: StreamVec<'s, Time, Partial>,
    beside: Option<HeldBeside<'s, G>>,
    spec: AggregateSpec,
    tally: Tally,
    kept: Kept<'s, F>,
) -> KeptTotals<'s, S::Part>
where
    S: ShardSink,
    F: FnOnce(SyncActivator) -> S,
    G: FnOnce(SyncActivator) -> S,
{
    let mut partials = partials.concat(kept.restored);
    let mut kept_beside = None;
    if let Some(HeldBeside { held, restored, sink }) = beside {
        let held = arrange_held(name, whole_files(name, held, &spec).concat(restored));
        let title = format!("{name} held");
        let marks = kept.marks.clone();
        kept_beside = Some(keep::<KeptPacked, _, _>(&title, held.clone(), marks, sink));
        partials = partials.concat(hold(name, held, &spec, tally.meter().clone()));
    }
    let arranged = arrange(name, partials);
    let mut parts = keep::<KeptTotalRows, _, _>(name, arranged.clone(), kept.marks, kept.sink);
    if let Some(beside) = kept_beside {
        parts = parts.concat(beside);
    }
    let (rows, rejects) = present(name, operator, arranged, spec, tally);
    KeptTotals { rows, rejects, parts }
}

/// Arranges what is held, each key on the worker of its shard.
fn arrange_held<'s>(name: &str, held: StreamVec<'s, Time, Held>) -> Arranged<'s, keyed::Trace> {
    keyed::arrange(&format!("{name} held"), held)
}

/// Turns changes of accumulators into batches of rows, one piece of the arrangement at a time. Lets
/// go of what nobody will ask for any more.
fn present<'s>(
    name: &str,
    operator: &str,
    arranged: Arranged<'s, Trace>,
    spec: AggregateSpec,
    tally: Tally,
) -> (Stream<'s, Time, Batch>, StreamVec<'s, Time, EpochRejects>) {
    let Arranged { stream, mut trace } = arranged;
    let mut builder = OperatorBuilder::new(format!("Aggregate {name}"), stream.scope());
    let mut input = builder.new_input(stream, Pipeline);
    builder.set_notify_for(0, FrontierInterest::Always);
    let (rows, rows_stream) = builder.new_output::<Batch>();
    let (rejects, rejects_stream) = builder.new_output::<Vec<EpochRejects>>();
    let mut rows = OutputBuilder::<_, CapacityContainerBuilder<_>>::from(rows);
    let mut rejects = OutputBuilder::<_, CapacityContainerBuilder<_>>::from(rejects);
    let operator = operator.to_owned();

    builder.build(move |initial| {
        drop(initial);
        let schema = spec.schema().arrow();
        let mut keys = 0_isize;
        // Everything before it was looked at.
        let mut upto = Antichain::from_elem(Time::minimum());
        move |_frontiers| {
            let (mut rows, mut rejects) = (rows.activate(), rejects.activate());
            let mut changed = false;
            input.for_each(|capability, spans| {
                changed = true;
                let Some(for_rows) = capability.retain_least(0) else { return };
                let Some(for_rejects) = capability.retain_least(1) else { return };
                for span in spans.drain(..) {
                    let earlier = trace.batches_through(span.lower().borrow());
                    upto.clone_from(span.upper());
                    let Some(piece) = span.inner else { continue };
                    let earlier = earlier.expect("nothing was merged that was not looked at");
                    let corrections = Corrections::of(&piece, earlier, &spec);
                    keys += corrections.keys;
                    for (time, correction) in corrections.by_time {
                        let origin = Origin { submission: time.epoch, chunk: Time::END, offset: 0 };
                        let for_rows = for_rows.delayed(&time);
                        let mut session = rows.session(&for_rows);
                        for (diff, table) in [(-1, &correction.before), (1, &correction.after)] {
                            table.give(diff, origin, &spec, &schema, |mut batch| {
                                if diff > 0 {
                                    tally.gave(time.epoch, 0, batch.len(), 0);
                                }
                                session.give_container(&mut batch);
                            });
                        }
                        let reported = report(correction.overflows, &operator, &spec);
                        if !reported.is_empty() {
                            tally.reported(time.epoch, reported.len());
                            let (epoch, standing) = (time.epoch, Standing::Told);
                            let reported =
                                EpochRejects { epoch, origin, standing, rejects: reported };
                            rejects.session(&for_rejects.delayed(&time)).give(reported);
                        }
                    }
                }
            });
            trace.advance_upper(&mut upto);
            trace.set_logical_compaction(upto.borrow());
            trace.set_physical_compaction(upto.borrow());
            tally.meter().holds(usize::try_from(keys).unwrap_or_default());
            if changed {
                tally.meter().holds_bytes(memory::size(&trace));
            }
        }
    });
    (rows_stream, rejects_stream)
}

/// Says of which keys a sum does not fit, in the name of an operator.
fn report(overflows: Vec<(Key, String)>, operator: &str, spec: &AggregateSpec) -> Vec<Reject> {
    let reject = |(key, message): (Key, String)| Reject {
        line: 0,
        offset: 0,
        round: 0,
        operator: operator.to_owned(),
        code: RejectCode::Expression,
        message,
        raw: key.text(&spec.keys).into_bytes(),
        on_error: OnError::Reject,
    };
    overflows.into_iter().map(reject).collect()
}
