//! Totals: one row per key, held where the key lives, corrected epoch by epoch.
//!
//! | input  | `(key, time, accumulator)`, any number per key and epoch, from any worker            |
//! | output | per epoch the rows taken back (diff -1), then the rows now there (+1), each by key    |
//! | state  | one entry per key in a differential arrangement, whose difference is the accumulator; |
//! |        | beside it what is held ([`hold`]); written down for checkpoints and put back ([`Kept`]) |
//! | errors | sums of integers that do not fit an int: the cell is NULL and the key is reported    |
//! | leaves | a key leaves when its last row is taken back; history is compacted with the frontier  |

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch, UInt64Array};
use differential_dataflow::operators::CountTotal;
use differential_dataflow::operators::arrange::Arranged;
use differential_dataflow::operators::arrange::arrangement::arrange_core;
use differential_dataflow::trace::implementations::{KeyBatcher, KeySpine};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::{Exchange, Pipeline};
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::Concat;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::operators::vec::Map;
use timely::dataflow::{Stream, StreamVec};
use timely::scheduling::activate::SyncActivator;

use super::AggregateSpec;
use super::accumulator::Accumulator;
use super::checkpoint::{KeptTotalRows, Trace};
use super::gather::{Held, Partial};
use super::hold::hold;
use crate::batch::{Batch, Origin, rows_without_columns};
use crate::keep::keep;
use crate::key::{Key, decode_columns};
use crate::keyed::{self, KeptPacked};
use crate::reject::{EpochRejects, OnError, Reject, RejectCode, Standing};
use crate::shards::{Mark, ShardSink, shard_of};
use crate::tally::Tally;
use crate::time::Time;
use crate::value::{ColumnBuilder, Value};

/// The most rows of one batch that leaves.
const ROWS_PER_BATCH: usize = 8 * 1024;

/// One change of a key: its accumulator before (-1) or after (+1).
type Change = ((Key, Accumulator), Time, isize);

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
        partials.concat(hold(name, arrange_held(name, held), &spec))
    } else {
        partials
    };
    let arranged = arrange(name, partials);
    present(name, operator, arranged.count_total().inner, spec, tally)
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
        let held = arrange_held(name, held.concat(restored));
        let title = format!("{name} held");
        let marks = kept.marks.clone();
        kept_beside = Some(keep::<KeptPacked, _, _>(&title, held.clone(), marks, sink));
        partials = partials.concat(hold(name, held, &spec));
    }
    let arranged = arrange(name, partials);
    let mut parts = keep::<KeptTotalRows, _, _>(name, arranged.clone(), kept.marks, kept.sink);
    if let Some(beside) = kept_beside {
        parts = parts.concat(beside);
    }
    let (rows, rejects) = present(name, operator, arranged.count_total().inner, spec, tally);
    KeptTotals { rows, rejects, parts }
}

/// Arranges what is held, each key on the worker of its shard.
fn arrange_held<'s>(name: &str, held: StreamVec<'s, Time, Held>) -> Arranged<'s, keyed::Trace> {
    keyed::arrange(&format!("{name} held"), held)
}

/// Arranges what is added up, each key on the worker of its shard.
fn arrange<'s>(name: &str, partials: StreamVec<'s, Time, Partial>) -> Arranged<'s, Trace> {
    let updates = partials.map(|(key, time, accumulator)| ((key, ()), time, accumulator));
    let to_home = Exchange::new(|update: &((Key, ()), Time, Accumulator)| {
        u64::from(shard_of(update.0.0.hash()))
    });
    // Counting reads the totals before and after each epoch, and compacts the arrangement.
    arrange_core::<_, _, KeyBatcher<Key, Time, Accumulator>, KeySpine<Key, Time, Accumulator>>(
        updates,
        to_home,
        &format!("Arrange {name}"),
        KeyBatcher::new,
    )
}

/// Turns changes of accumulators into batches of rows, one epoch at a time.
fn present<'s>(
    name: &str,
    operator: &str,
    changes: StreamVec<'s, Time, Change>,
    spec: AggregateSpec,
    tally: Tally,
) -> (Stream<'s, Time, Batch>, StreamVec<'s, Time, EpochRejects>) {
    let mut builder = OperatorBuilder::new(format!("Aggregate {name}"), changes.scope());
    let mut input = builder.new_input(changes, Pipeline);
    let (rows, rows_stream) = builder.new_output::<Batch>();
    let (rejects, rejects_stream) = builder.new_output::<Vec<EpochRejects>>();
    let mut rows = OutputBuilder::<_, CapacityContainerBuilder<_>>::from(rows);
    let mut rejects = OutputBuilder::<_, CapacityContainerBuilder<_>>::from(rejects);
    let operator = operator.to_owned();

    builder.build(move |initial| {
        drop(initial);
        let schema = spec.schema().arrow();
        let mut open: BTreeMap<Time, Open> = BTreeMap::new();
        // Each key has one accumulator: what is changed is taken back and given.
        let mut keys = 0_isize;
        move |frontiers| {
            let (mut rows, mut rejects) = (rows.activate(), rejects.activate());
            input.for_each_stamp(|stamp, batches| {
                let Some(for_rows) = stamp.retain_least(0) else { return };
                let Some(for_rejects) = stamp.retain_least(1) else { return };
                for (change, time, diff) in batches.flat_map(|batch| batch.drain(..)) {
                    keys += diff;
                    if time.epoch == 0 {
                        continue; // restored: whoever is downstream has these rows already
                    }
                    let entry = open.entry(time).or_insert_with(|| Open {
                        for_rows: for_rows.delayed(&time),
                        for_rejects: for_rejects.delayed(&time),
                        changes: Vec::new(),
                    });
                    entry.changes.push((change, diff));
                }
            });
            tally.meter().holds(usize::try_from(keys).unwrap_or_default());
            while let Some(entry) = open.first_entry() {
                if frontiers.iter().any(|frontier| frontier.less_equal(entry.key())) {
                    break; // more changes may come
                }
                let (time, one) = entry.remove_entry();
                let correction = correct(one.changes, &spec);
                let origin = Origin { submission: time.epoch, chunk: Time::END, offset: 0 };
                let mut session = rows.session(&one.for_rows);
                for (diff, table) in [(-1, &correction.before), (1, &correction.after)] {
                    let of_chunks = table.chunk_by(|one, two| one.chunk() == two.chunk());
                    for part in of_chunks.flat_map(|rows| rows.chunks(ROWS_PER_BATCH)) {
                        let columns = to_columns(part, &spec, &schema);
                        let (origin, positions) = places(part, origin);
                        let mut batch = Batch { columns, raw: None, positions, diff, origin };
                        if diff > 0 {
                            tally.gave(time.epoch, 0, batch.len(), 0);
                        }
                        session.give_container(&mut batch);
                    }
                }
                if !correction.overflows.is_empty() {
                    let overflow = |(key, reason): (Key, String)| Reject {
                        line: 0,
                        offset: 0,
                        round: 0,
                        operator: operator.clone(),
                        code: RejectCode::Expression,
                        message: reason,
                        raw: key.text(&spec.keys).into_bytes(),
                        on_error: OnError::Reject,
                    };
                    let reported: Vec<Reject> =
                        correction.overflows.into_iter().map(overflow).collect();
                    tally.reported(time.epoch, reported.len());
                    let epoch = time.epoch;
                    let standing = Standing::Told;
                    let reported = EpochRejects { epoch, origin, standing, rejects: reported };
                    rejects.session(&one.for_rejects).give(reported);
                }
            }
        }
    });
    (rows_stream, rejects_stream)
}

/// The changes of an epoch of which more may come.
struct Open {
    for_rows: Capability<Time>,
    for_rejects: Capability<Time>,
    changes: Vec<((Key, Accumulator), isize)>,
}

/// One row of the output.
struct Row {
    key: Key,
    cells: Vec<Value>,
    /// Submission, chunk and position of the first record of the group, where groups are per file.
    place: Option<[u64; 3]>,
}

impl Row {
    /// Returns the chunk that the row belongs to.
    fn chunk(&self) -> Option<[u64; 2]> {
        self.place.map(|[submission, chunk, _]| [submission, chunk])
    }
}

/// What one epoch changes on one worker, sorted by place where rows have one, then by key.
#[derive(Default)]
struct Correction {
    before: Vec<Row>,
    after: Vec<Row>,
    overflows: Vec<(Key, String)>,
}

/// Finds out which rows an epoch takes back and which it puts there.
fn correct(mut changes: Vec<((Key, Accumulator), isize)>, spec: &AggregateSpec) -> Correction {
    changes.sort_unstable_by(|one, two| (&one.0.0, one.1).cmp(&(&two.0.0, two.1)));
    let mut correction = Correction::default();
    for of_key in changes.chunk_by(|one, two| one.0.0 == two.0.0) {
        let found = |wanted: isize| {
            let found = of_key.iter().find(|change| change.1 == wanted);
            found.map(|change| &change.0.1).filter(|accumulator| accumulator.is_visible())
        };
        let Some(((key, _), _)) = of_key.first() else { continue };
        let row = |accumulator: &Accumulator| {
            let (cells, overflows) = cells(accumulator, spec);
            (Row { key: key.clone(), cells, place: accumulator.place(spec) }, overflows)
        };
        let (before, after) = (found(-1).map(row), found(1).map(row));
        if let Some((_, overflows)) = &after {
            let old = before.as_ref().map(|(_, overflows)| overflows.as_slice()).unwrap_or(&[]);
            for overflow in overflows.iter().filter(|one| !old.iter().any(|old| old.0 == one.0)) {
                correction.overflows.push((key.clone(), overflow.1.clone()));
            }
        }
        match (before, after) {
            (Some((old, _)), Some((new, _))) if is_same_row(&old, &new) => {}
            (before, after) => {
                correction.before.extend(before.map(|(row, _)| row));
                correction.after.extend(after.map(|(row, _)| row));
            }
        }
    }
    if spec.is_per_file() {
        // Stable: rows of one place stay in the order of their keys.
        correction.before.sort_by_key(|row| row.place);
        correction.after.sort_by_key(|row| row.place);
    }
    correction
}

fn is_same_row(one: &Row, two: &Row) -> bool {
    one.place == two.place && one.cells.iter().zip(&two.cells).all(|(one, two)| one.is_same(two))
}

/// Returns where the rows of a batch belong, all of which have one chunk if they have places.
fn places(rows: &[Row], nowhere: Origin) -> (Origin, Option<UInt64Array>) {
    let Some([submission, chunk]) = rows.first().and_then(Row::chunk) else {
        return (nowhere, None);
    };
    let positions = rows.iter().map(|row| row.place.map_or(0, |place| place[2]));
    (Origin { submission, chunk, offset: 0 }, Some(positions.collect::<Vec<u64>>().into()))
}

/// The computed cells of a row, and for each overflow its column and what to say.
fn cells(accumulator: &Accumulator, spec: &AggregateSpec) -> (Vec<Value>, Vec<(usize, String)>) {
    let mut overflows = Vec::new();
    let finished = accumulator.finish(spec).into_iter().zip(&spec.compute).enumerate();
    let cells = finished.map(|(column, (cell, computed))| {
        cell.unwrap_or_else(|error| {
            overflows.push((column, format!("{}: {error}", computed.name)));
            Value::Null
        })
    });
    (cells.collect(), overflows)
}

fn to_columns(rows: &[Row], spec: &AggregateSpec, schema: &arrow_schema::SchemaRef) -> RecordBatch {
    let mut columns: Vec<ArrayRef> = decode_columns(rows.iter().map(|row| &row.key), &spec.keys)
        .unwrap_or_else(|error| panic!("the state of an aggregate holds a foreign key: {error}"));
    let hidden = usize::from(spec.is_per_file());
    columns.drain(..hidden);
    for (at, computed) in spec.compute.iter().take(spec.compute.len() - hidden).enumerate() {
        let mut builder = ColumnBuilder::new(computed.kind, rows.len());
        for row in rows {
            builder.push(row.cells.get(at).unwrap_or(&Value::Null));
        }
        columns.push(builder.finish());
    }
    if columns.is_empty() {
        return rows_without_columns(rows.len());
    }
    RecordBatch::try_new(Arc::clone(schema), columns)
        .unwrap_or_else(|error| panic!("the columns of an aggregate do not fit: {error}"))
}
