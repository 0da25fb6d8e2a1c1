//! Errors: the rejected records of one source or operator as rows, for operators and tables that read
//! its tag `errors`.
//!
//! | input  | rejected records, notes of the readers and announcements, at one worker per file           |
//! | output | 0: a row for each rejected record, at the time of its chunk; 1: nothing, since it rejects nothing |
//! | state  | rejects of chunks whose first line is not known yet, bounded by the coordinator's window     |
//! | errors | none                                                                                        |
//!
//! A row is a function of the record, its file and its place in it: it keeps origin and position, so
//! that what reads it may write files or be corrected, and a record that is taken back takes its row
//! back. What is told of a key is no record and could never be taken back: it does not come here, but
//! goes to a sink. Behind an operator that keeps state a row stands for no line of a file any more;
//! its columns `file`, `line` and `offset` are NULL.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::{
    ArrayRef, BinaryViewArray, Int64Array, RecordBatch, RecordBatchOptions, StringViewArray,
    UInt64Array,
};
use tidemill_operators::batch::{Shape, position};
use tidemill_operators::flow::Flow;
use tidemill_operators::reject::{EpochRejects, Standing};
use tidemill_operators::tally::Tally;
use tidemill_operators::{Batch, Origin, Reject, Time};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::progress::operate::FrontierInterest;

use crate::ingest::lines::Lines;
use crate::ingest::order::{Opening, ReadEvent, ReadNote};
use crate::sink::parts::{least, writer_of};
use crate::sink::rejects::readable;

/// What the operator works with.
pub struct Errors {
    /// Its number in the receipt, which spreads its files over the workers.
    pub place: usize,
    /// What something reads of its rows.
    pub shape: Shape,
    /// Whether a rejected record is one of the file that is read: then its line is known.
    pub has_line: bool,
    /// Who counts.
    pub tally: Tally,
}

/// Builds the operator.
pub fn errors<'scope>(
    title: &str,
    rejects: StreamVec<'scope, Time, EpochRejects>,
    notes: StreamVec<'scope, Time, ReadNote>,
    openings: StreamVec<'scope, Time, Opening>,
    with: Errors,
) -> Flow<'scope> {
    let place = with.place;
    let mut builder = OperatorBuilder::new(title.to_owned(), rejects.scope());
    let by_file = move |epoch: u64| writer_of(epoch, place);
    let mut input =
        builder.new_input(rejects, Exchange::new(move |some: &EpochRejects| by_file(some.epoch)));
    let mut note_input =
        builder.new_input(notes, Exchange::new(move |note: &ReadNote| by_file(note.epoch)));
    let mut opening_input =
        builder.new_input(openings, Exchange::new(move |one: &Opening| by_file(one.epoch)));
    let (output, rows) = builder.new_output::<Batch>();
    let mut output = OutputBuilder::<Time, CapacityContainerBuilder<Batch>>::from(output);
    let (_nothing, rejects) = builder.new_output::<Vec<EpochRejects>>();
    for port in 0..3 {
        builder.set_notify_for(port, FrontierInterest::Always);
    }

    builder.build(move |capabilities| {
        drop(capabilities);
        let mut open: BTreeMap<u64, OpenFile> = BTreeMap::new();
        move |frontiers| {
            input.for_each_stamp(|capability, batches| {
                let Some(time) = capability.least().copied() else { return };
                // That of the rejects too: its frontier says that all of an epoch was counted.
                let hold = (capability.retain_least(0), capability.retain_least(1));
                let (Some(for_rows), Some(for_counts)) = hold else { return };
                let file = open.entry(time.epoch).or_default();
                let ahead = file.ahead.entry(time).or_insert_with(|| Ahead {
                    for_rows,
                    _for_counts: for_counts,
                    rejects: BTreeMap::new(),
                });
                for some in batches.flat_map(|batch| batch.drain(..)) {
                    let diff = match some.standing {
                        Standing::There => 1,
                        Standing::TakenBack => -1,
                        Standing::Told => continue,
                    };
                    if diff > 0 {
                        with.tally.took(time.epoch, some.rejects.len(), 0);
                    }
                    ahead.add(diff, some.origin, some.rejects);
                }
            });
            note_input.for_each(|_, notes| {
                for note in notes.drain(..) {
                    open.entry(note.epoch).or_default().note(note.event);
                }
            });
            opening_input.for_each(|_, openings| {
                for opening in openings.drain(..) {
                    let epoch = opening.epoch;
                    open.entry(epoch).or_default().opening = Some(opening);
                }
            });
            let upto = least(frontiers);
            let passed = |time: Time| upto.is_none_or(|upto| time < upto);
            while let Some(mut entry) = open.first_entry() {
                let epoch = *entry.key();
                let file = entry.get_mut();
                while let Some(ahead) = file.ahead.first_entry().filter(|one| passed(*one.key())) {
                    let ahead = ahead.remove();
                    let mut output = output.activate();
                    let mut session = output.session(&ahead.for_rows);
                    for ((diff, submission, chunk, offset), mut rejects) in ahead.rejects {
                        rejects.sort_unstable();
                        let origin = Origin { submission, chunk, offset };
                        let mut batch = file.rows(&with, diff, origin, &rejects);
                        if diff > 0 {
                            with.tally.gave(epoch, 0, batch.len(), 0);
                        }
                        session.give_container(&mut batch);
                    }
                }
                if !passed(Time::end(epoch)) {
                    // The lines of a long file add up to one number.
                    if let Some(upto) = upto.filter(|upto| upto.epoch == epoch) {
                        file.new.pass(upto.chunk);
                        file.old.pass(upto.chunk);
                    }
                    break;
                }
                entry.remove();
            }
        }
    });
    Flow { tags: vec![rows], rejects }
}

/// One file that is being read, and the version whose place it takes.
#[derive(Default)]
struct OpenFile {
    opening: Option<Opening>,
    ahead: BTreeMap<Time, Ahead>,
    new: Lines,
    old: Lines,
}

/// Rejects whose turn has not come: by difference and origin.
struct Ahead {
    for_rows: Capability<Time>,
    _for_counts: Capability<Time>,
    rejects: BTreeMap<(i64, u64, u64, u64), Vec<Reject>>,
}

impl Ahead {
    fn add(&mut self, diff: i64, origin: Origin, rejects: Vec<Reject>) {
        let key = (diff, origin.submission, origin.chunk, origin.offset);
        self.rejects.entry(key).or_default().extend(rejects);
    }
}

impl OpenFile {
    fn note(&mut self, event: ReadEvent) {
        match event {
            ReadEvent::Chunk { chunk, skipped_lines, lines, .. } => {
                self.new.note(chunk, skipped_lines, lines);
            }
            ReadEvent::TakenBack { chunk, skipped_lines, lines, .. } => {
                self.old.note(chunk, skipped_lines, lines);
            }
            _ => {}
        }
    }

    /// Returns the rows of some rejects of one chunk, in input order.
    fn rows(&self, with: &Errors, diff: i64, origin: Origin, rejects: &[Reject]) -> Batch {
        let opening = self.opening.as_ref();
        let file = match diff {
            1 => opening.map(|opening| opening.name.clone()),
            _ => opening.and_then(|opening| Some(opening.old.as_ref()?.name.clone())),
        };
        let lines = if diff > 0 { &self.new } else { &self.old };
        let first_line = with.has_line.then(|| lines.first_of(origin.chunk));
        let file = file.filter(|_| with.has_line);
        let text = |read: &dyn Fn(&Reject) -> Option<String>| -> ArrayRef {
            Arc::new(rejects.iter().map(read).collect::<StringViewArray>())
        };
        let number = |read: &dyn Fn(&Reject) -> Option<u64>| -> ArrayRef {
            Arc::new(rejects.iter().map(|one| Some(read(one)? as i64)).collect::<Int64Array>())
        };
        let column = |name: &str| match name {
            "file" => text(&|_| file.clone()),
            "line" => number(&|one| Some(first_line? + u64::from(one.line))),
            "offset" => number(&|one| first_line.map(|_| origin.offset + u64::from(one.offset))),
            "operator" => text(&|one| Some(one.operator.clone())),
            "round" => number(&|one| Some(u64::from(one.round))),
            "code" => text(&|one| Some(one.code.word().to_owned())),
            "message" => text(&|one| Some(one.message.clone())),
            "raw" => text(&|one| Some(readable(&one.raw))),
            other => panic!("rejected records have no column {other}"),
        };
        let schema = &with.shape.schema;
        let columns = schema.columns().iter().map(|one| column(&one.name)).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(rejects.len()));
        let columns = RecordBatch::try_new_with_options(schema.arrow(), columns, &options)
            .expect("every column was built from the same rows with the type of the schema");
        let raw = || rejects.iter().map(|one| Some([&one.raw[..], b"\n"].concat()));
        let places = || rejects.iter().map(|one| position(one.line, one.offset));
        Batch {
            columns,
            raw: with.shape.raw.then(|| raw().collect::<BinaryViewArray>()),
            positions: with.shape.positions.then(|| places().collect::<UInt64Array>()),
            diff,
            origin,
        }
    }
}
