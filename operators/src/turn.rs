//! Turn: the way back of a loop. Lets records go round, as often as the loop allows.
//!
//! | input  | batches that go back to the head of a loop by one port, kept on the worker             |
//! | output | 0: those that may go round once more; 1: the others, rejected; 2: epochs that grew too much |
//! | state  | for a loop in which records multiply: how many rows each open round has              |
//! | errors | a record that went round as often as it may is rejected (`max_rounds`); rows of      |
//! |        | operators with state that multiply without end stop the process                      |
//! | cost   | one number for each chunk and round under way                                        |
//!
//! How often a batch went round stands in its time ([`Turns`]), so nothing is counted per record and
//! nothing is held back. A record that is rejected here was taken in by the head once more, which
//! keeps its balance: it took in what it was fed, and rejected this one.

use std::collections::{BTreeMap, BTreeSet};

use arrow_schema::Field;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::{Stream, StreamVec};
use timely::progress::operate::FrontierInterest;

use crate::batch::Batch;
use crate::flow::reject_row;
use crate::key::{Key, KeyEncoder};
use crate::reject::{EpochRejects, Reject, RejectCode, Standing};
use crate::tally::Tally;
use crate::time::{Time, Turns};
use crate::types::{Column, Type};

/// How many records of one chunk may go round in one round, where records multiply on their way.
pub const ROWS_PER_ROUND_MAX: u64 = 4_000_000;

/// How many times as many rows may go round at the end of a file, where those of operators with state
/// come all at once.
const AT_END: u64 = 16;

/// What the way back of a loop needs to know.
pub struct Back {
    /// The head of the loop.
    pub head: String,
    /// How the port is written by which records go back.
    pub way: String,
    /// Where their rounds are counted.
    pub turns: Turns,
    /// How often a record goes round at most.
    pub max_rounds: u32,
    /// The loops around this one: their heads, and where their rounds are counted.
    pub around: Vec<(String, Turns)>,
    /// How many records of one chunk may go round in one round; `None` where no record can become
    /// several on its way round.
    pub rows_max: Option<u64>,
}

/// An epoch of which more records went round than a loop takes.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Grown {
    /// The epoch.
    pub epoch: u64,
    /// The submission of the records that were met.
    pub submission: u64,
    /// What happened, for a person.
    pub detail: String,
}

/// What leaves a way back.
pub struct Turned<'scope> {
    /// The batches that go round.
    pub again: Stream<'scope, Time, Batch>,
    /// The records that went round too often.
    pub rejects: StreamVec<'scope, Time, EpochRejects>,
    /// The epochs that have to fail.
    pub grown: StreamVec<'scope, Time, Grown>,
}

/// Builds the way back by one port. `tally` is that of the head.
pub fn turn<'scope>(
    title: &str,
    input: Stream<'scope, Time, Batch>,
    back: Back,
    tally: Tally,
) -> Turned<'scope> {
    let mut builder = OperatorBuilder::new(title.to_owned(), input.scope());
    let mut input = builder.new_input(input, Pipeline);
    let (output, again) = builder.new_output::<Batch>();
    let mut output = OutputBuilder::<Time, CapacityContainerBuilder<Batch>>::from(output);
    let (rejected, rejects) = builder.new_output::<Vec<EpochRejects>>();
    let mut rejected =
        OutputBuilder::<Time, CapacityContainerBuilder<Vec<EpochRejects>>>::from(rejected);
    // What can still fail is a file of which nothing counts yet. So this port is through with a file at
    // its end, whatever goes round then: those that hold state back wait for it before they speak.
    let (failed, grown) = builder.new_output_connection::<Vec<Grown>, _>([]);
    let mut failed = OutputBuilder::<Time, CapacityContainerBuilder<Vec<Grown>>>::from(failed);
    let interest =
        if back.rows_max.is_some() { FrontierInterest::Always } else { FrontierInterest::Never };
    builder.set_notify_for(0, interest);
    let mut open: BTreeMap<Time, u64> = BTreeMap::new();
    let mut failing: BTreeSet<u64> = BTreeSet::new();

    builder.build(move |mut capabilities| {
        let mut clock = capabilities.pop().filter(|_| back.rows_max.is_some());
        drop(capabilities);
        move |frontiers| {
            input.for_each_stamp(|capability, batches| {
                let Some(time) = capability.least().copied() else { return };
                let rounds = back.turns.of(&time);
                for mut batch in batches.map(std::mem::take) {
                    if rounds >= u64::from(back.max_rounds) {
                        // What is taken back was rejected when it came, and counts nowhere.
                        if batch.diff > 0 {
                            tally.took(time.epoch, batch.len(), 0);
                            tally.rejected(time.epoch, batch.len());
                        }
                        let rejects = back.reject(&batch, &time);
                        rejected.activate().session(&capability).give(rejects);
                        continue;
                    }
                    if let Some(most) = back.rows_max {
                        let rows = open.entry(time).or_default();
                        *rows += batch.len() as u64;
                        if time.chunk == Time::END {
                            back.check_end(*rows, &time, most);
                        } else if *rows > most && failing.insert(time.epoch) {
                            let grown = back.grown(&batch, &time, most);
                            if let Some(clock) = &clock {
                                failed.activate().session(&clock.delayed(&time)).give(grown);
                            }
                        }
                        if failing.contains(&time.epoch) {
                            // It fails as a whole: what becomes of its records does not matter.
                            continue;
                        }
                    }
                    output.activate().session(&capability).give_container(&mut batch);
                }
            });
            if back.rows_max.is_some() {
                match frontiers.first().and_then(|frontier| frontier.frontier().first().copied()) {
                    Some(frontier) => {
                        open = open.split_off(&frontier);
                        failing = failing.split_off(&frontier.epoch);
                        if let Some(clock) = &mut clock {
                            let through = u64::from(frontier.chunk == Time::END);
                            clock.downgrade(&Time::new(frontier.epoch + through, 0));
                        }
                    }
                    None => {
                        clock = None;
                        (open, failing) = Default::default();
                    }
                }
            }
        }
    });
    Turned { again, rejects, grown }
}

impl Back {
    fn reject(&self, batch: &Batch, time: &Time) -> EpochRejects {
        let around: Vec<String> = self
            .around
            .iter()
            .map(|(head, turns)| format!(", in round {} of {head}", turns.of(time)))
            .collect();
        let reason = format!(
            "it went back to {} {} times, last by {}{}; max_rounds is {}",
            self.head,
            self.turns.of(time),
            self.way,
            around.concat(),
            self.max_rounds
        );
        let round = u32::try_from(self.turns.of(time)).unwrap_or(u32::MAX);
        let reject = |row| {
            let mut reject =
                reject_row(&self.head, batch, row, RejectCode::MaxRounds, reason.clone());
            if batch.raw.is_none() {
                // No record of a file: what it holds is all there is to show.
                reject.raw = shown(batch, row).into_bytes();
            }
            Reject { round, ..reject }
        };
        let standing = if batch.diff > 0 { Standing::There } else { Standing::TakenBack };
        EpochRejects {
            epoch: time.epoch,
            origin: batch.origin,
            standing,
            rejects: (0..batch.len()).map(reject).collect::<Vec<Reject>>(),
        }
    }

    /// Stops the process when rows that follow from state multiply without end: what they come from
    /// counts already, so the file cannot fail any more. It is set aside when that happens again.
    fn check_end(&self, rows: u64, time: &Time, most: u64) {
        let most = most.saturating_mul(AT_END);
        assert!(
            rows <= most,
            "more than {most} rows of epoch {} go back to {} in one round, by {}, behind an operator \
             that keeps state: on their way round they multiply",
            time.epoch,
            self.head,
            self.way
        );
    }

    fn grown(&self, batch: &Batch, time: &Time, most: u64) -> Grown {
        let detail = format!(
            "more than {most} records of one part of the file go back to {} in one round, by {}: on \
             their way round they multiply",
            self.head, self.way
        );
        Grown { epoch: time.epoch, submission: batch.origin.submission, detail }
    }
}

/// Returns what a row holds, for a person: `folder=a/b, cents=7`.
fn shown(batch: &Batch, row: usize) -> String {
    let schema = batch.columns.schema();
    let mut key = Vec::new();
    KeyEncoder::new(batch.columns.columns()).append(row, &mut key);
    let kind =
        |field: &Field| Type::ALL.into_iter().find(|kind| kind.arrow() == *field.data_type());
    let columns =
        schema.fields().iter().filter_map(|field| Some(Column::new(field.name(), kind(field)?)));
    Key::new(&key).text(&columns.collect::<Vec<_>>())
}
