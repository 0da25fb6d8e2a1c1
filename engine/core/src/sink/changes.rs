//! Changes: the changelog of a table: one file for each epoch that changed it, exact and exactly once.
//!
//! | input  | batches of the table's rows, and announcements of files; all at one worker               |
//! | output | 0: prepared parts at `(epoch, END)`; 1: nothing, its frontier says what was taken in     |
//! | state  | the rows that open epochs change, encoded; an epoch leaves with its frontier             |
//! | errors | if the disk refuses, the process ends                                                    |
//!
//! The file is a part of the epoch's outputs, as those of a `files` sink are: it is committed with the
//! epoch, published behind the commit, and published again after a crash. It does not ask what the
//! table holds: what is added and taken back in one epoch is not mentioned, and the rest is told by
//! key, of each key first what is taken back. What was committed stays, also when its input is
//! corrected later: that is a change of its own.
//!
//! What an earlier life committed is not written again, nor compared: files that a later one corrected
//! may be left out when a state is built again, and then other rows change on the way to it.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use arrow_array::{ArrayRef, Int64Array, RecordBatch};
use tidemill_operators::exchange;
use tidemill_operators::format::{Encoder, OutputFormat};
use tidemill_operators::meter::Meter;
use tidemill_operators::{Batch, Column, Schema, Time, Type};
use tidemill_store::Folders;
use tidemill_store::name::CHANGES_ENDING;
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
use crate::sink::table::Columns;
use crate::sink::table::net::Net;
use crate::sink::table::snapshot::picked;

/// The column that says which epoch made a change.
pub const EPOCH: &str = "epoch";

/// The column that says whether a row was added (1) or taken back (-1).
pub const DIFF: &str = "diff";

/// Changes encoded at a time.
const ROWS_AT_ONCE: usize = 4096;

/// The changelog of a table.
#[derive(Clone)]
pub(crate) struct Changelog {
    /// How its files are written.
    pub(crate) sink: FileSink,
    /// The columns of the table.
    pub(crate) columns: Columns,
}

/// Returns the name of the folder of a table's changelog.
pub fn folder(sink: &str) -> String {
    format!("{sink}{CHANGES_ENDING}")
}

/// Returns whether a table, now or under an earlier plan, has told changes that still lie there.
pub(crate) fn has_told(folders: &Folders, sink: &str) -> bool {
    let entries = folders.out.join(folder(sink)).read_dir();
    entries.is_ok_and(|mut entries| entries.next().is_some())
}

/// Returns the columns of a changelog.
pub(crate) fn schema(columns: &Columns) -> Schema {
    let own = [Column::new(EPOCH, Type::Int), Column::new(DIFF, Type::Int)];
    Schema::new(own.into_iter().chain(columns.written.columns().iter().cloned()).collect())
}

/// Builds the changelog of a table.
pub(crate) fn changes<'scope>(
    scope: Scope<'scope, Time>,
    title: &str,
    rows: Stream<'scope, Time, Batch>,
    openings: StreamVec<'scope, Time, Opening>,
    changelog: Changelog,
    around: Surroundings,
    meter: Meter,
) -> Written<'scope> {
    let Changelog { sink, columns } = changelog;
    // One worker for all epochs: a batch does not say in which it comes.
    let writer = writer_of(0, sink.index);
    let mut builder = OperatorBuilder::new(title.to_owned(), scope);
    let address = builder.operator_info().address;
    let wake = scope.worker().sync_activator_for(address.to_vec());
    let again = scope.activator_for(address);
    let mut row_input = builder.new_input(rows, exchange::whole(move |_: &Batch| writer));
    let mut opening_input = builder.new_input(openings, Exchange::new(move |_: &Opening| writer));
    let (output, parts) = builder.new_output::<Vec<PreparedPart>>();
    let mut part_output =
        OutputBuilder::<Time, CapacityContainerBuilder<Vec<PreparedPart>>>::from(output);
    let (_taken_output, taken) = builder.new_output::<Vec<()>>();
    for port in 0..2 {
        builder.set_notify_for(port, FrontierInterest::Always);
    }
    let desk = around.staging.desk(wake);
    let schema = schema(&columns);
    let mut writer = Writer {
        encoder: Encoder::new(sink.format.clone(), &schema),
        schema,
        columns,
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
                row_input.for_each_stamp(|capability, batches| {
                    let Some(time) = capability.least().copied() else { return };
                    let end = || OpenPart::new(capability.delayed(&Time::end(time.epoch), 0));
                    writer.take(time.epoch, end, batches);
                });
                opening_input.for_each_stamp(|capability, openings| {
                    for opening in openings.flat_map(|openings| openings.drain(..)) {
                        let epoch = opening.epoch;
                        let end = || OpenPart::new(capability.delayed(&Time::end(epoch), 0));
                        writer.epoch(epoch, end).announce(opening);
                    }
                });
            }
            let mut ready = writer.close_upto(least(frontiers));
            ready.extend(writer.parts.collect());
            for (capability, part) in ready {
                part_output.activate().session(&capability).give(part);
            }
        }
    });
    Written { parts, taken }
}

/// One epoch of which not everything has come.
struct OpenEpoch {
    part: OpenPart,
    net: Net,
    /// Whether the changes are in the body of the part.
    written: bool,
}

impl OpenEpoch {
    fn announce(&mut self, mut opening: Opening) {
        // Names sort by epoch, and no two epochs share one.
        opening.output_name = format!("{:012}-{}", opening.epoch, opening.output_name);
        self.part.opening = Some(opening);
    }

    fn is_replay(&self) -> bool {
        self.part.opening.as_ref().is_some_and(|opening| opening.replay)
    }
}

struct Writer {
    parts: Parts,
    encoder: Encoder,
    schema: Schema,
    columns: Columns,
    open: BTreeMap<u64, OpenEpoch>,
}

impl Writer {
    fn epoch(&mut self, epoch: u64, part: impl FnOnce() -> OpenPart) -> &mut OpenEpoch {
        let open = || OpenEpoch { part: part(), net: Net::default(), written: false };
        self.open.entry(epoch).or_insert_with(open)
    }

    fn take<'b>(
        &mut self,
        epoch: u64,
        part: impl FnOnce() -> OpenPart,
        batches: impl Iterator<Item = &'b mut Batch>,
    ) {
        let open = || OpenEpoch { part: part(), net: Net::default(), written: false };
        let open = self.open.entry(epoch).or_insert_with(open);
        for batch in batches {
            if !open.is_replay() {
                open.net.add(batch, &self.columns.sorted, self.columns.key);
            }
        }
    }

    /// Writes and ends every epoch that is complete. Returns the parts that need no sync.
    fn close_upto(&mut self, frontier: Option<Time>) -> Vec<Ready> {
        let mut ready = Vec::new();
        while let Some(mut entry) = self.open.first_entry() {
            let epoch = *entry.key();
            if self.parts.is_held() || frontier.is_some_and(|frontier| frontier <= Time::end(epoch))
            {
                break;
            }
            if entry.get().is_replay() {
                entry.remove();
                continue;
            }
            let open = entry.get_mut();
            let stage = || self.parts.stage(epoch);
            if !open.written {
                let net = std::mem::take(&mut open.net).consolidate();
                let to = Target { encoder: &mut self.encoder, schema: &self.schema };
                let outcome = to.write(epoch, &net, &self.columns, &mut open.part, &stage);
                self.parts.written(outcome);
                open.written = true;
            }
            if !self.parts.flush(epoch, &mut open.part) {
                break;
            }
            ready.extend(self.parts.close(epoch, entry.remove().part));
        }
        ready
    }
}

/// How changes become bytes.
struct Target<'a> {
    encoder: &'a mut Encoder,
    schema: &'a Schema,
}

impl Target<'_> {
    fn write(
        self,
        epoch: u64,
        net: &Net,
        columns: &Columns,
        part: &mut OpenPart,
        stage: &dyn Fn() -> io::Result<StageWriter>,
    ) -> io::Result<()> {
        let mut appended = 0;
        if !net.is_empty() {
            self.encoder.preamble(part.body.gathering());
            appended = part.body.gathering().len();
        }
        let mut pending: (Vec<&[u8]>, Vec<i64>) = (Vec::new(), Vec::new());
        let places = net.by_key();
        for (at, place) in places.iter().enumerate() {
            let (row, diff) = net.at(*place);
            for _ in 0..diff.unsigned_abs() {
                pending.0.push(row);
                pending.1.push(diff.signum());
            }
            if pending.0.len() >= ROWS_AT_ONCE || at + 1 == places.len() {
                let rows = self.told(epoch, &pending.0, std::mem::take(&mut pending.1), columns);
                part.rows += rows.len() as u64;
                let before = part.body.gathering().len();
                self.encoder.encode(&rows, part.body.gathering());
                let count = part.body.gathering().len() - before;
                part.body.appended(count + std::mem::take(&mut appended), stage)?;
                pending.0.clear();
            }
        }
        Ok(())
    }

    /// Returns changes as they are written: the epoch, the difference, the columns of the table.
    fn told(&self, epoch: u64, rows: &[&[u8]], diffs: Vec<i64>, columns: &Columns) -> Batch {
        let picked = picked(columns, rows, &columns.written);
        let epochs: ArrayRef = Arc::new(Int64Array::from(vec![epoch.cast_signed(); rows.len()]));
        let diffs: ArrayRef = Arc::new(Int64Array::from(diffs));
        let all = [epochs, diffs].into_iter().chain(picked.columns().iter().cloned()).collect();
        let columns = RecordBatch::try_new(self.schema.arrow(), all)
            .expect("the columns are those of the schema, all of one length");
        Batch { columns, ..Batch::default() }
    }
}

/// Returns how the files of a changelog are written. Its place is behind those of all sinks.
pub(crate) fn file_sink(
    index: usize,
    name: &str,
    format: &OutputFormat,
    columns: &Columns,
    sources: std::collections::BTreeSet<usize>,
) -> FileSink {
    FileSink {
        index,
        name: folder(name),
        format: format.clone(),
        schema: schema(columns),
        empty: false,
        sources,
    }
}
