//! Rejects sink: the records that could not be processed, one file per input file that has any.
//!
//! | input  | rejected records, notes of the readers and announcements, at one worker per file |
//! | output | 0: prepared parts at `(epoch, END)`; 1: nothing, its frontier says what was taken in |
//! | state  | rejects of open files; how many lines each of their open chunks has            |
//! | errors | if the disk refuses, the process ends                                          |
//!
//! A reader knows the line of a record only inside its chunk. How many lines stand before that chunk
//! is known here, once the frontier has passed the chunks before it. What is said of a file as a whole
//! (a sum that fits no int) stands on no line: it comes last, as line 0.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use arrow_array::{ArrayRef, BinaryViewArray, Int64Array, RecordBatch, StringViewArray};
use tidemill_operators::format::Encoder;
use tidemill_operators::meter::Meter;
use tidemill_operators::reject::{EpochRejects, Standing};
use tidemill_operators::{Batch, Reject, Time};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::progress::operate::FrontierInterest;

use crate::graph::error_schema;
use crate::ingest::lines::Lines;
use crate::ingest::order::{Opening, ReadEvent, ReadNote};
use crate::sink::parts::{
    FileSink, OpenPart, Parts, PreparedPart, Ready, Surroundings, Written, least, writer_of,
};

/// Builds a sink of rejected records.
pub fn rejects<'scope>(
    title: &str,
    rejects: StreamVec<'scope, Time, EpochRejects>,
    notes: StreamVec<'scope, Time, ReadNote>,
    openings: StreamVec<'scope, Time, Opening>,
    sink: FileSink,
    around: Surroundings,
    meter: Meter,
) -> Written<'scope> {
    let scope = rejects.scope();
    let index = sink.index;
    let mut builder = OperatorBuilder::new(title.to_owned(), scope);
    let address = builder.operator_info().address;
    let wake = scope.worker().sync_activator_for(address.to_vec());
    let again = scope.activator_for(address);
    let mut input = builder
        .new_input(rejects, Exchange::new(move |some: &EpochRejects| writer_of(some.epoch, index)));
    let mut note_input = builder
        .new_input(notes, Exchange::new(move |note: &ReadNote| writer_of(note.epoch, index)));
    let mut opening_input = builder.new_input(
        openings,
        Exchange::new(move |opening: &Opening| writer_of(opening.epoch, index)),
    );
    let (output, parts) = builder.new_output::<Vec<PreparedPart>>();
    let mut part_output =
        OutputBuilder::<Time, CapacityContainerBuilder<Vec<PreparedPart>>>::from(output);
    let (_taken_output, taken) = builder.new_output::<Vec<()>>();
    for port in 0..3 {
        builder.set_notify_for(port, FrontierInterest::Always);
    }
    let desk = around.staging.desk(wake);
    let mut writer = Writer {
        encoder: Encoder::new(sink.format.clone(), &error_schema()),
        parts: Parts::new(sink, around, desk, again, meter),
        open: BTreeMap::new(),
    };

    builder.build(move |capabilities| {
        drop(capabilities);
        move |frontiers| {
            let open = writer.open.iter_mut();
            writer.parts.try_again(open.map(|(epoch, one)| (*epoch, &mut one.part)));
            // What is not taken in holds the window: a full disk costs no memory.
            if writer.parts.takes_in() {
                input.for_each_stamp(|capability, batches| {
                    let Some(time) = capability.least().copied() else { return };
                    let end = || OpenPart::new(capability.delayed(&Time::end(time.epoch), 0));
                    let file = writer.file(time.epoch, end);
                    // What was told of a record that is taken back goes with the output it stands in.
                    let told = |some: &EpochRejects| some.standing != Standing::TakenBack;
                    for some in batches.flat_map(|batch| batch.drain(..)).filter(told) {
                        let offset = some.origin.offset;
                        let ahead = file.ahead.entry(time.chunk).or_default();
                        ahead.extend(
                            some.rejects.into_iter().map(|reject| Placed { offset, reject }),
                        );
                    }
                });
                note_input.for_each_stamp(|capability, notes| {
                    for note in notes.flat_map(|notes| notes.drain(..)) {
                        if let ReadEvent::Chunk { chunk, skipped_lines, lines, .. } = note.event {
                            let end =
                                || OpenPart::new(capability.delayed(&Time::end(note.epoch), 0));
                            let file = writer.file(note.epoch, end);
                            file.lines.note(chunk, skipped_lines, lines);
                        }
                    }
                });
                opening_input.for_each_stamp(|capability, openings| {
                    for opening in openings.flat_map(|openings| openings.drain(..)) {
                        let epoch = opening.epoch;
                        let end = || OpenPart::new(capability.delayed(&Time::end(epoch), 0));
                        writer.file(epoch, end).part.announce(opening);
                    }
                });
            }
            let upto = least(frontiers);
            writer.write_upto(upto);
            let mut ready = writer.close_upto(upto);
            ready.extend(writer.parts.collect());
            for (capability, part) in ready {
                part_output.activate().session(&capability).give(part);
            }
            writer.parts.meter.holds(writer.open.len() + writer.parts.waiting());
        }
    });
    Written { parts, taken }
}

/// A reject and the offset, in its file, of the chunk it stands in.
struct Placed {
    offset: u64,
    reject: Reject,
}

struct OpenFile {
    part: OpenPart,
    /// Rejects whose turn has not come, by chunk.
    ahead: BTreeMap<u64, Vec<Placed>>,
    lines: Lines,
}

struct Writer {
    parts: Parts,
    encoder: Encoder,
    open: BTreeMap<u64, OpenFile>,
}

impl Writer {
    fn file(&mut self, epoch: u64, part: impl FnOnce() -> OpenPart) -> &mut OpenFile {
        self.open.entry(epoch).or_insert_with(|| OpenFile {
            part: part(),
            ahead: BTreeMap::new(),
            lines: Lines::default(),
        })
    }

    fn write_upto(&mut self, frontier: Option<Time>) {
        if self.parts.is_held() {
            return;
        }
        let passed = |time: Time| frontier.is_none_or(|frontier| time < frontier);
        for (epoch, file) in &mut self.open {
            if !passed(Time::new(*epoch, 0)) {
                break;
            }
            // What is told of the file as a whole stands in no chunk, and comes last.
            let next = |file: &OpenFile| file.ahead.first_key_value().map(|(chunk, _)| *chunk);
            while let Some(chunk) = next(file).filter(|chunk| *chunk != Time::END)
                && passed(Time::last(*epoch, chunk))
                && let Some(rejects) = file.ahead.remove(&chunk)
            {
                // Every chunk before it is noted when its turn comes.
                let first_line = file.lines.first_of(chunk);
                write(&mut self.encoder, &self.parts, *epoch, file, first_line, rejects);
                if file.part.body.is_full() {
                    self.parts.hold();
                    return;
                }
            }
            if let Some(upto) = frontier.filter(|upto| upto.epoch == *epoch) {
                file.lines.pass(upto.chunk);
            }
        }
    }

    fn close_upto(&mut self, frontier: Option<Time>) -> Vec<Ready> {
        let mut ready = Vec::new();
        while let Some(mut entry) = self.open.first_entry() {
            let epoch = *entry.key();
            if self.parts.is_held() || frontier.is_some_and(|frontier| frontier <= Time::end(epoch))
            {
                break;
            }
            let file = entry.get_mut();
            if let Some(rejects) = file.ahead.remove(&Time::END) {
                write(&mut self.encoder, &self.parts, epoch, file, 0, rejects);
            }
            let part = &mut file.part;
            if part.body.bytes() == 0 && part.body.gathering().is_empty() {
                self.encoder.preamble(part.body.gathering());
            }
            if !self.parts.flush(epoch, part) {
                break;
            }
            ready.extend(self.parts.close(epoch, entry.remove().part));
        }
        ready
    }
}

/// Appends the rejects of one chunk to the output of a file.
fn write(
    encoder: &mut Encoder,
    parts: &Parts,
    epoch: u64,
    file: &mut OpenFile,
    first_line: u64,
    rejects: Vec<Placed>,
) {
    let name = file.part.opening.as_ref().map_or("", |opening| &opening.name);
    let rows = rejects.len();
    let batch = to_batch(name, first_line, rejects);
    let before = file.part.body.bytes();
    let target = file.part.body.gathering();
    let gathered = target.len();
    if before == 0 {
        encoder.preamble(target);
    }
    encoder.encode(&batch, target);
    let count = target.len() - gathered;
    file.part.rows += rows as u64;
    let outcome = file.part.body.appended(count, &|| parts.stage(epoch));
    parts.written(outcome);
    parts.meter.took(rows, count);
    parts.meter.gave(0, rows, count);
}

/// Returns the rejects of one chunk as rows of [`error_schema`], in input order.
fn to_batch(file: &str, first_line: u64, mut rejects: Vec<Placed>) -> Batch {
    rejects.sort_by(|a, b| a.reject.cmp(&b.reject));
    let line = |placed: &Placed| (first_line + u64::from(placed.reject.line)) as i64;
    let offset = |placed: &Placed| (placed.offset + u64::from(placed.reject.offset)) as i64;
    let round = |placed: &Placed| i64::from(placed.reject.round);
    let text = |read: &dyn Fn(&Placed) -> String| -> ArrayRef {
        Arc::new(rejects.iter().map(|placed| Some(read(placed))).collect::<StringViewArray>())
    };
    let columns: Vec<ArrayRef> = vec![
        text(&|_| file.to_owned()),
        Arc::new(rejects.iter().map(line).collect::<Int64Array>()),
        Arc::new(rejects.iter().map(offset).collect::<Int64Array>()),
        text(&|placed| placed.reject.operator.clone()),
        Arc::new(rejects.iter().map(round).collect::<Int64Array>()),
        text(&|placed| placed.reject.code.word().to_owned()),
        text(&|placed| placed.reject.message.clone()),
        text(&|placed| readable(&placed.reject.raw)),
    ];
    let columns = RecordBatch::try_new(error_schema().arrow(), columns)
        .expect("every column was built from the same rows with the type of the schema");
    let raw: BinaryViewArray =
        rejects.iter().map(|placed| Some([&placed.reject.raw[..], b"\n"].concat())).collect();
    Batch { columns, raw: Some(raw), ..Batch::default() }
}

/// Returns bytes as text: what is not UTF-8 as `\xNN`.
pub(crate) fn readable(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        for byte in chunk.invalid() {
            // Writing to a string cannot fail.
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}
