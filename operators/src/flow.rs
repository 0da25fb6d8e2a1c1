//! Flow: what every operator takes and gives, and how one without state is put into a dataflow.
//!
//! | input  | batches, kept on the worker where they are                          |
//! | output | one stream of batches per tag, and one of rejected records           |
//! | state  | none                                                                 |
//! | errors | a record that cannot be processed leaves by `rejects`; the file goes on |
//!
//! Rows that are taken back (difference -1) go the way they went when they came, and count nowhere. What
//! was rejected of them then leaves by `rejects` as taken back, for whoever keeps rejected records.

use arrow_array::{Array, BooleanArray};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::{Stream, StreamVec};
use timely::progress::operate::FrontierInterest;

use crate::batch::{Batch, position_line, position_offset};
use crate::expr::{Evaluated, RowError};
use crate::reject::{EpochRejects, OnError, REJECT_RAW_BYTES_MAX, Reject, RejectCode, Standing};
use crate::tally::Tally;
use crate::time::Time;

/// The streams that leave an operator.
pub struct Flow<'scope> {
    /// One stream per tag, in the order of the plan's output ports.
    pub tags: Vec<Stream<'scope, Time, Batch>>,
    /// The records that could not be processed.
    pub rejects: StreamVec<'scope, Time, EpochRejects>,
}

/// An operator that says what it has to say about a batch at once.
pub trait Stateless {
    /// Processes one batch. What is emitted leaves at the time of the batch.
    fn apply(&mut self, batch: Batch, emit: &mut Emit);
}

/// Collects what an operator says about one batch.
pub struct Emit {
    operator: String,
    tags: Vec<Vec<Batch>>,
    rejects: Vec<Reject>,
    filtered: usize,
    copies: usize,
}

impl Emit {
    /// Returns an empty collection for an operator of this name with so many tags.
    pub fn new(operator: &str, tags: usize) -> Self {
        let (operator, tags) = (operator.to_owned(), vec![Vec::new(); tags]);
        Self { operator, tags, rejects: Vec::new(), filtered: 0, copies: 0 }
    }

    /// Sends a batch out by a tag. An empty batch is nothing.
    pub fn give(&mut self, tag: usize, batch: Batch) {
        if !batch.is_empty() {
            self.tags[tag].push(batch);
        }
    }

    /// Says that rows were left out on purpose. To be counted by what decided it, not by what is
    /// missing from the output: the balance is worth what its sides know of each other.
    pub fn filter_out(&mut self, rows: usize) {
        self.filtered += rows;
    }

    /// Says how often a row left once more than once.
    pub fn copy(&mut self, times: usize) {
        self.copies += times;
    }

    /// Rejects one row of `batch`.
    pub fn reject(&mut self, batch: &Batch, row: usize, code: RejectCode, reason: String) {
        self.rejects.push(reject_row(&self.operator, batch, row, code, reason));
    }

    /// Returns the name of the operator.
    pub fn operator(&self) -> &str {
        &self.operator
    }

    /// Rejects rows in the way that is said.
    pub fn reject_all(&mut self, rejects: Vec<Reject>) {
        self.rejects.extend(rejects);
    }

    /// Rejects each row whose expression failed. A row that failed twice is rejected once.
    pub fn reject_failed(&mut self, batch: &Batch, errors: &[RowError]) {
        let mut last = None;
        for error in errors {
            if last != Some(error.row) {
                let reason = error.message.clone();
                self.reject(batch, error.row as usize, RejectCode::Expression, reason);
            }
            last = Some(error.row);
        }
    }

    /// Forgets everything but what is sent out; returns what was rejected.
    fn forget_counts(&mut self) -> Vec<Reject> {
        (self.filtered, self.copies) = (0, 0);
        std::mem::take(&mut self.rejects)
    }

    /// Returns what was sent out by each tag so far.
    pub fn tags(&self) -> &[Vec<Batch>] {
        &self.tags
    }

    /// Returns how many rows were left out on purpose so far.
    pub fn filtered(&self) -> usize {
        self.filtered
    }

    /// Returns how often a row left once more than once so far.
    pub fn copies(&self) -> usize {
        self.copies
    }

    /// Returns what was rejected so far.
    pub fn rejects(&self) -> &[Reject] {
        &self.rejects
    }
}

/// Says where a row stood and what it looked like, as far as the batch still knows.
pub fn reject_row(
    operator: &str,
    batch: &Batch,
    row: usize,
    code: RejectCode,
    reason: String,
) -> Reject {
    let position = batch.positions.as_ref().map_or(0, |positions| positions.value(row));
    let raw = batch.raw.as_ref().map_or(&[][..], |raw| without_terminator(raw.value(row)));
    Reject {
        line: position_line(position),
        offset: position_offset(position),
        round: 0,
        operator: operator.to_owned(),
        code,
        message: reason,
        raw: raw[..raw.len().min(REJECT_RAW_BYTES_MAX)].to_vec(),
        on_error: OnError::Reject,
    }
}

/// Returns a record without its line end.
pub(crate) fn without_terminator(record: &[u8]) -> &[u8] {
    let record = record.strip_suffix(b"\n").unwrap_or(record);
    record.strip_suffix(b"\r").unwrap_or(record)
}

/// Returns the truth values of a checked condition.
///
/// # Panics
/// If the expression is not a condition; the plan guarantees that it is.
pub fn truth(evaluated: &Evaluated) -> &BooleanArray {
    evaluated
        .values
        .as_any()
        .downcast_ref::<BooleanArray>()
        .expect("the plan lets only conditions be used as conditions")
}

/// Puts a stateless operator into the dataflow. `title` is what statistics show.
pub fn stateless<'scope, L>(
    title: &str,
    operator: &str,
    input: Stream<'scope, Time, Batch>,
    tags: usize,
    tally: Tally,
    mut logic: L,
) -> Flow<'scope>
where
    L: Stateless + 'static,
{
    let mut builder = OperatorBuilder::new(title.to_owned(), input.scope());
    let mut input = builder.new_input(input, Pipeline);
    builder.set_notify_for(0, FrontierInterest::Never);
    let mut outputs = Vec::with_capacity(tags);
    let mut streams = Vec::with_capacity(tags);
    for _ in 0..tags {
        let (output, stream) = builder.new_output::<Batch>();
        outputs.push(OutputBuilder::<Time, CapacityContainerBuilder<Batch>>::from(output));
        streams.push(stream);
    }
    let (output, rejects) = builder.new_output::<Vec<EpochRejects>>();
    let mut reject_output =
        OutputBuilder::<Time, CapacityContainerBuilder<Vec<EpochRejects>>>::from(output);
    let mut emit = Emit::new(operator, tags);

    builder.build(move |capabilities| {
        drop(capabilities);
        move |_frontiers| {
            input.for_each_stamp(|capability, batches| {
                let Some(time) = capability.least().copied() else { return };
                let (epoch, round) = (time.epoch, tally.round(&time));
                for batch in batches.map(std::mem::take) {
                    let origin = batch.origin;
                    if batch.diff < 0 {
                        logic.apply(batch, &mut emit);
                        let mut rejects = emit.forget_counts();
                        if !rejects.is_empty() {
                            // Word for word as it was told, or it would not be found again.
                            rejects.iter_mut().for_each(|reject| reject.round = round);
                            let standing = Standing::TakenBack;
                            let rejects = EpochRejects { epoch, origin, standing, rejects };
                            reject_output.activate().session(&capability).give(rejects);
                        }
                        for (output, given) in outputs.iter_mut().zip(&mut emit.tags) {
                            for mut batch in given.drain(..) {
                                output.activate().session(&capability).give_container(&mut batch);
                            }
                        }
                        continue;
                    }
                    tally.took(epoch, batch.len(), 0);
                    logic.apply(batch, &mut emit);
                    for (tag, (output, given)) in outputs.iter_mut().zip(&mut emit.tags).enumerate()
                    {
                        for mut batch in given.drain(..) {
                            tally.gave(epoch, tag, batch.len(), 0);
                            output.activate().session(&capability).give_container(&mut batch);
                        }
                    }
                    tally.filtered(epoch, std::mem::take(&mut emit.filtered));
                    tally.copied(epoch, std::mem::take(&mut emit.copies));
                    if !emit.rejects.is_empty() {
                        let mut rejects = std::mem::take(&mut emit.rejects);
                        rejects.iter_mut().for_each(|reject| reject.round = round);
                        tally.rejected(epoch, rejects.len());
                        let standing = Standing::There;
                        let rejects = EpochRejects { epoch, origin, standing, rejects };
                        reject_output.activate().session(&capability).give(rejects);
                    }
                }
            });
        }
    });
    Flow { tags: streams, rejects }
}
