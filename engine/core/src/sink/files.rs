//! Files sink: one output file per input file, in input order.
//!
//! | input  | batches, one input per way they come, and announcements of files; all at the worker that writes the file |
//! | output | 0: prepared parts at `(epoch, END)`; 1: nothing, its frontier says what was taken in |
//! | state  | what came ahead of its turn, bounded by the coordinator's window; open files |
//! | errors | if the disk refuses, the process ends                                       |
//!
//! All batches of one input file go to one worker. A chunk is written once the frontier has passed
//! it, so records leave in input order without a file ever being held as a whole.

use std::collections::BTreeMap;
use std::io;

use arrow_array::UInt32Array;
use tidemill_operators::batch::Shape;
use tidemill_operators::exchange;
use tidemill_operators::format::{Encoder, OutputFormat, raw_runs};
use tidemill_operators::meter::Meter;
use tidemill_operators::{Batch, Time};
use tidemill_store::stage::StageWriter;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::{Scope, Stream, StreamVec};
use timely::progress::operate::FrontierInterest;

use crate::ingest::order::Opening;
use crate::sink::parts::{
    FileSink, OpenPart, Parts, PreparedPart, Ready, Surroundings, Written, least, writer_of,
};

/// Builds a files sink that reads all of `ways`.
pub fn files<'scope>(
    scope: Scope<'scope, Time>,
    title: &str,
    ways: Vec<Stream<'scope, Time, Batch>>,
    openings: StreamVec<'scope, Time, Opening>,
    sink: FileSink,
    around: Surroundings,
    meter: Meter,
) -> Written<'scope> {
    let index = sink.index;
    let mut builder = OperatorBuilder::new(title.to_owned(), scope);
    let address = builder.operator_info().address;
    let wake = scope.worker().sync_activator_for(address.to_vec());
    let again = scope.activator_for(address);
    let mut inputs: Vec<_> = ways
        .into_iter()
        .map(|way| {
            let writer = move |batch: &Batch| writer_of(batch.origin.submission, index);
            builder.new_input(way, exchange::whole(writer))
        })
        .collect();
    let mut opening_input = builder.new_input(
        openings,
        Exchange::new(move |opening: &Opening| writer_of(opening.submission, index)),
    );
    let (output, parts) = builder.new_output::<Vec<PreparedPart>>();
    let mut part_output =
        OutputBuilder::<Time, CapacityContainerBuilder<Vec<PreparedPart>>>::from(output);
    let (_taken_output, taken) = builder.new_output::<Vec<()>>();
    for port in 0..=inputs.len() {
        builder.set_notify_for(port, FrontierInterest::Always);
    }
    let desk = around.staging.desk(wake);
    let mut writer = Writer {
        encoder: Encoder::new(sink.format.clone(), &sink.schema),
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
                for input in &mut inputs {
                    input.for_each_stamp(|capability, batches| {
                        let Some(time) = capability.least().copied() else { return };
                        // What is taken back was written with another file: its output goes as a whole.
                        let mut there = batches.map(std::mem::take).filter(|one| one.diff > 0);
                        let Some(first) = there.next() else { return };
                        let end = || OpenPart::new(capability.delayed(&Time::end(time.epoch), 0));
                        let ahead = &mut writer.file(time.epoch, end).ahead;
                        let batches = [first].into_iter().chain(there);
                        ahead
                            .entry(time.chunk)
                            .or_default()
                            .extend(batches.map(|batch| (time.round, batch)));
                    });
                }
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

/// One output file that is being written.
struct OpenFile {
    part: OpenPart,
    /// Batches whose turn has not come, by chunk, with the round in which each left its loop.
    ahead: BTreeMap<u64, Vec<(u64, Batch)>>,
}

struct Writer {
    parts: Parts,
    encoder: Encoder,
    open: BTreeMap<u64, OpenFile>,
}

impl Writer {
    fn file(&mut self, epoch: u64, part: impl FnOnce() -> OpenPart) -> &mut OpenFile {
        let open = || OpenFile { part: part(), ahead: BTreeMap::new() };
        self.open.entry(epoch).or_insert_with(open)
    }

    /// Writes every chunk that the frontier has passed; `None` means that it has passed all.
    fn write_upto(&mut self, frontier: Option<Time>) {
        if self.parts.is_held() {
            return;
        }
        let passed = |time: Time| frontier.is_none_or(|frontier| time < frontier);
        for (epoch, file) in &mut self.open {
            if !passed(Time::new(*epoch, 0)) {
                break;
            }
            while let Some(entry) = file.ahead.first_entry() {
                if !passed(Time::last(*epoch, *entry.key())) {
                    break;
                }
                let chunk = entry.remove();
                let rows: usize = chunk.iter().map(|(_, batch)| batch.len()).sum();
                let before = file.part.body.bytes();
                let stage = || self.parts.stage(*epoch);
                let outcome =
                    write_chunk(&mut file.part, chunk, &self.parts.sink, &mut self.encoder, &stage);
                self.parts.written(outcome);
                let bytes = (file.part.body.bytes() - before) as usize;
                self.parts.meter.took(rows, bytes);
                self.parts.meter.gave(0, rows, bytes);
                if file.part.body.is_full() {
                    self.parts.hold();
                    return;
                }
            }
        }
    }

    /// Ends every file whose epoch is complete. Returns the parts that need no sync.
    fn close_upto(&mut self, frontier: Option<Time>) -> Vec<Ready> {
        let mut ready = Vec::new();
        while let Some(mut entry) = self.open.first_entry() {
            let epoch = *entry.key();
            if self.parts.is_held() || frontier.is_some_and(|frontier| frontier <= Time::end(epoch))
            {
                break;
            }
            let part = &mut entry.get_mut().part;
            if part.body.bytes() == 0 && part.body.gathering().is_empty() {
                // A csv without rows still has its header.
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

/// Appends the records of one chunk, in input order, whichever ways they came.
fn write_chunk(
    part: &mut OpenPart,
    batches: Vec<(u64, Batch)>,
    sink: &FileSink,
    encoder: &mut Encoder,
    stage: &dyn Fn() -> io::Result<StageWriter>,
) -> io::Result<()> {
    if part.body.bytes() == 0 {
        let target = part.body.gathering();
        encoder.preamble(target);
        let count = target.len();
        part.body.appended(count, stage)?;
    }
    let batches: Vec<Batch> = if batches.len() > 1 {
        // Each way carries what its readers need, in an order of its own.
        let raw = matches!(sink.format, OutputFormat::Raw);
        let shape = Shape { schema: sink.schema.clone(), raw, positions: true };
        let alike = batches.into_iter().map(|(round, batch)| (round, batch.project(&shape)));
        vec![in_input_order(alike.collect(), encoder)]
    } else {
        batches.into_iter().map(|(_, batch)| batch).collect()
    };
    for batch in &batches {
        part.rows += batch.len() as u64;
        match (&sink.format, &batch.raw) {
            (OutputFormat::Raw, Some(raw)) => {
                for run in raw_runs(raw) {
                    // Only the last record of a file can lack its line end; what follows it here
                    // is the same record by another way.
                    if part.unterminated {
                        part.body.append(b"\n", stage)?;
                    }
                    part.body.append(run, stage)?;
                    part.unterminated = !run.ends_with(b"\n");
                }
            }
            (OutputFormat::Raw, None) => {}
            _ => {
                let target = part.body.gathering();
                let before = target.len();
                encoder.encode(batch, target);
                let count = target.len() - before;
                part.body.appended(count, stage)?;
            }
        }
    }
    Ok(())
}

/// Merges the batches of one chunk by the place of each record in it.
///
/// A record can come twice, by two ways. Which way's batch arrives first depends on timing, so in
/// that case the batches are put into an order of their own first: by the round in which they left a
/// loop, then that of their encoded bytes.
fn in_input_order(mut batches: Vec<(u64, Batch)>, encoder: &mut Encoder) -> Batch {
    let alone = |batches: &[(u64, Batch)]| -> Vec<Batch> {
        batches.iter().map(|(_, batch)| batch.clone()).collect()
    };
    let (merged, twice) = merge_by_position(&alone(&batches));
    if !twice {
        return merged;
    }
    batches.sort_by_cached_key(|(round, batch)| {
        let mut bytes = Vec::new();
        encoder.encode(batch, &mut bytes);
        (*round, bytes)
    });
    merge_by_position(&alone(&batches)).0
}

/// Returns the rows by position, and whether a position occurs twice.
fn merge_by_position(batches: &[Batch]) -> (Batch, bool) {
    let merged = Batch::concat(batches);
    let Some(positions) = merged.positions.clone() else { return (merged, false) };
    let mut order: Vec<u32> = (0..merged.len() as u32).collect();
    // Stable: rows of one position keep the order of their batches.
    order.sort_by_key(|row| positions.value(*row as usize));
    let at = |index: usize| positions.value(order[index] as usize);
    let twice = (1..order.len()).any(|index| at(index - 1) == at(index));
    (merged.take(&UInt32Array::from(order)), twice)
}
