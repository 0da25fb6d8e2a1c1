//! Shelf: a files sink behind operators that take rows back: one output file per input file, in input
//! order, and rewritten when a later file changes what comes out of an earlier one.
//!
//! | input  | batches with a difference, one input per way they come, at the worker that keeps the file; announcements and failures of files, broadcast; what a checkpoint kept; marks |
//! | output | 0: what becomes of outputs, at `(epoch, END)`; 1: nothing, its frontier says what was taken in; 2: what was written for each mark |
//! | state  | every row of every output, as bytes, and the name of every input file (memory: about the size of `out/<sink>/`); rows of open epochs |
//! | errors | a row is taken back that is not there, or the disk refuses: the process ends    |
//!
//! Rows of an epoch are gathered until it is complete and did not fail. Then the rows of each file that
//! it touches change, and each of those outputs is written anew, whole, or removed if no row is left:
//! what one epoch costs is in proportion to the outputs that it touches. Epochs are applied one after
//! the other; a long output is written with fuel, and while the disk is full nothing is taken in.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use tidemill_operators::exchange;
use tidemill_operators::format::{Encoder, OutputFormat};
use tidemill_operators::key::KeyEncoder;
use tidemill_operators::meter::Meter;
use tidemill_operators::shards::{Mark, ShardSet, ShardSink};
use tidemill_operators::time::Step;
use tidemill_operators::{Batch, Time};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::{Scope, Stream, StreamVec};
use timely::progress::Antichain;
use timely::progress::operate::FrontierInterest;
use timely::scheduling::activate::SyncActivator;

use crate::fault::{self, FaultKind};
use crate::ingest::order::Opening;
use crate::sink::body::{Body, Prepared};
use crate::sink::parts::{FileSink, Parts, PreparedPart, Ready, Surroundings, least, output_name};

mod keep;
pub mod rows;
pub mod state;

use keep::Keeping;
use rows::{At, Changes};
use state::{File, Piece, State, shard_of_submission};

/// Bytes of outputs that are written before other operators get their turn.
const BYTES_PER_TURN: usize = 4 << 20;

/// Bytes of outputs of one epoch that ride inside the commit, on one worker; what is beyond is staged
/// however small it is.
const INLINE_BYTES_PER_EPOCH: u64 = 4 << 20;

/// What comes to the sink.
pub struct Incoming<'scope> {
    /// The rows, by each way they come.
    pub ways: Vec<Stream<'scope, Time, Batch>>,
    /// The files, on every worker.
    pub openings: StreamVec<'scope, Time, Opening>,
    /// The epochs that failed, on every worker.
    pub poison: StreamVec<'scope, Time, u64>,
    /// What a checkpoint kept of the shards of this worker, at times of epoch 0.
    pub restored: StreamVec<'scope, Time, (Piece, Time, ())>,
    /// The marks, on every worker.
    pub marks: StreamVec<'scope, Time, Mark>,
}

/// What a built sink gives back.
pub struct Shelved<'scope, P> {
    /// What becomes of outputs, at `(epoch, END)`.
    pub parts: StreamVec<'scope, Time, PreparedPart>,
    /// Never holds data: its frontier follows what the sink has taken in.
    pub taken: StreamVec<'scope, Time, ()>,
    /// What was written for each mark.
    pub kept: StreamVec<'scope, Time, P>,
}

/// Builds the sink; `make` gets what wakes it and returns where checkpoints go.
pub fn shelf<'scope, S: ShardSink>(
    scope: Scope<'scope, Time>,
    title: &str,
    incoming: Incoming<'scope>,
    sink: FileSink,
    around: Surroundings,
    meter: Meter,
    make: impl FnOnce(SyncActivator) -> S,
) -> Shelved<'scope, S::Part> {
    let Incoming { ways, openings, poison, restored, marks } = incoming;
    let mut builder = OperatorBuilder::new(title.to_owned(), scope);
    let address = builder.operator_info().address;
    let wake = scope.worker().sync_activator_for(address.to_vec());
    let again = scope.activator_for(Rc::clone(&address));
    let soon = scope.activator_for(address);
    let mut way_inputs: Vec<_> = ways
        .into_iter()
        .map(|way| {
            let keeper = |batch: &Batch| u64::from(shard_of_submission(batch.origin.submission));
            builder.new_input_connection(way, exchange::whole(keeper), [])
        })
        .collect();
    let first = way_inputs.len();
    let mut opening_input = builder.new_input_connection(openings, Pipeline, []);
    let mut poison_input = builder.new_input_connection(poison, Pipeline, []);
    let mut restored_input = builder.new_input_connection(restored, Pipeline, []);
    let mut mark_input = builder.new_input_connection(marks, Pipeline, []);
    let mark_port = first + 3;
    for port in 0..=mark_port {
        builder.set_notify_for(port, FrontierInterest::Always);
    }
    // A mark has an edge of its own: epochs go on while a checkpoint is written, and the reverse.
    let data = || (0..mark_port).map(|port| (port, Antichain::from_elem(Step::STAY)));
    let (output, parts) = builder.new_output_connection::<Vec<PreparedPart>, _>(data());
    let mut part_output =
        OutputBuilder::<Time, CapacityContainerBuilder<Vec<PreparedPart>>>::from(output);
    let (_taken_output, taken) = builder.new_output_connection::<Vec<()>, _>(data());
    let (output, kept) = builder
        .new_output_connection::<Vec<S::Part>, _>([(mark_port, Antichain::from_elem(Step::STAY))]);
    let mut kept_output =
        OutputBuilder::<Time, CapacityContainerBuilder<Vec<S::Part>>>::from(output);
    let mine = ShardSet::of_worker(scope.worker().index(), scope.worker().peers());
    let keeping = Keeping::new(make(wake.clone()), mine);
    let desk = around.staging.desk(wake);
    let mut shelf = Shelf {
        encoder: Encoder::new(sink.format.clone(), &sink.schema),
        parts: Parts::new(sink, around, desk, again, meter),
        mine,
        open: BTreeMap::new(),
        state: State::default(),
        is_restored: false,
        writing: None,
        keeping,
    };

    builder.build(move |capabilities| {
        drop(capabilities);
        move |frontiers| {
            shelf.try_again();
            // What is not taken in holds the window: a full disk costs no memory.
            if shelf.parts.takes_in() {
                for input in &mut way_inputs {
                    input.for_each_stamp(|capability, batches| {
                        let Some(epoch) = capability.least().map(|time| time.epoch) else { return };
                        let end = || capability.delayed(&Time::end(epoch), 0);
                        for batch in batches.map(std::mem::take) {
                            shelf.take(epoch, end, &batch);
                        }
                    });
                }
                opening_input.for_each_stamp(|capability, openings| {
                    for opening in openings.flat_map(|openings| openings.drain(..)) {
                        let end = || capability.delayed(&Time::end(opening.epoch), 0);
                        shelf.epoch(opening.epoch, end).opening = Some(opening.clone());
                    }
                });
            }
            poison_input.for_each_stamp(|capability, epochs| {
                for epoch in epochs.flat_map(|epochs| epochs.drain(..)) {
                    let end = || capability.delayed(&Time::end(epoch), 0);
                    shelf.epoch(epoch, end).failed = true;
                }
            });
            restored_input.for_each_stamp(|_, pieces| {
                for (piece, _, ()) in pieces.flat_map(|pieces| pieces.drain(..)) {
                    let restored = shelf.state.restore(piece);
                    restored.unwrap_or_else(|trouble| {
                        fault::end(FaultKind::Damaged, "restore the outputs of a sink", &trouble)
                    });
                }
            });
            mark_input.for_each_stamp(|capability, marks| {
                let Some(capability) = capability.retain_least(2) else { return };
                for mark in marks.flat_map(|marks| marks.drain(..)) {
                    shelf.keeping.ask(capability.clone(), mark);
                }
            });
            let mut ready = Vec::new();
            if shelf.work(least(frontiers), &mut ready) {
                soon.activate();
            }
            ready.extend(shelf.parts.collect());
            for (capability, part) in ready {
                part_output.activate().session(&capability).give(part);
            }
            while let Some((capability, part)) = shelf.keeping.written() {
                kept_output.activate().session(&capability).give(part);
            }
            shelf.parts.meter.holds(shelf.state.rows() as usize);
            shelf.parts.meter.holds_bytes(shelf.state.bytes());
        }
    });
    Shelved { parts, taken, kept }
}

/// What is known of an epoch that is not applied.
struct OpenEpoch {
    /// The right to speak at its end.
    capability: Capability<Time>,
    opening: Option<Opening>,
    failed: bool,
    /// What changes, by submission.
    changes: BTreeMap<u64, Changes>,
    /// How many rows came for the output of each submission; those that are taken back do not count.
    delivered: BTreeMap<u64, u64>,
}

/// An epoch that is applied, and whose outputs are being written.
struct Writing {
    epoch: u64,
    capability: Capability<Time>,
    /// Whether the outputs are there already: their bytes are only added up.
    replay: bool,
    todo: VecDeque<Todo>,
    open: Option<OpenOutput>,
    inline_bytes: u64,
}

/// An output that is to be written.
struct Todo {
    of: u64,
    file: Rc<File>,
    delivered: u64,
}

/// An output that is being written.
struct OpenOutput {
    todo: Todo,
    body: Body,
    at: At,
    /// Whether the last record had no line end.
    unterminated: bool,
}

struct Shelf<S> {
    parts: Parts,
    encoder: Encoder,
    /// The shards that live here.
    mine: ShardSet,
    open: BTreeMap<u64, OpenEpoch>,
    state: State,
    is_restored: bool,
    writing: Option<Writing>,
    keeping: Keeping<S>,
}

impl<S: ShardSink> Shelf<S> {
    fn epoch(&mut self, epoch: u64, end: impl FnOnce() -> Capability<Time>) -> &mut OpenEpoch {
        self.open.entry(epoch).or_insert_with(|| OpenEpoch {
            capability: end(),
            opening: None,
            failed: false,
            changes: BTreeMap::new(),
            delivered: BTreeMap::new(),
        })
    }

    /// Takes in the rows of a batch.
    fn take(&mut self, epoch: u64, end: impl FnOnce() -> Capability<Time>, batch: &Batch) {
        let (mut bytes, mut ends) = (Vec::new(), Vec::with_capacity(batch.len()));
        self.encoder.encode_each(batch, &mut bytes, &mut ends);
        if batch.diff > 0 {
            self.parts.meter.took(batch.len(), bytes.len());
        }
        // Rows without a place of their own are ordered by what they hold.
        let picked = batch.positions.is_none().then(|| batch.pick(&self.parts.sink.schema));
        let keys = picked.as_ref().map(|picked| KeyEncoder::new(picked.columns()));
        let of = batch.origin.submission;
        let epoch = self.epoch(epoch, end);
        if batch.diff > 0 {
            *epoch.delivered.entry(of).or_default() += batch.len() as u64;
        }
        let changes = epoch.changes.entry(of).or_default();
        let mut start = 0;
        for (row, end) in ends.into_iter().enumerate() {
            let position = batch.positions.as_ref().map_or(0, |positions| positions.value(row));
            let order = |out: &mut Vec<u8>| {
                if let Some(keys) = &keys {
                    keys.append(row, out);
                }
            };
            let place = (batch.origin.chunk, position);
            changes.push(place, order, &bytes[start..end], batch.diff);
            start = end;
        }
    }

    /// Goes on after the disk was full, if it is time to try.
    fn try_again(&mut self) {
        if !self.parts.is_due() {
            return;
        }
        let Self { parts, writing, .. } = self;
        if let Some(Writing { epoch, open: Some(output), .. }) = writing {
            let of = output.todo.of;
            let written = output.body.go_on(&|| parts.stage_of(*epoch, of));
            if !parts.attempted(written) {
                parts.hold();
                return;
            }
        }
        self.parts.go_on();
    }

    /// Applies the epochs that are complete and writes their outputs; returns whether there is more to
    /// do now. `frontier` is the least time that can still come; `None` means that none can.
    fn work(&mut self, frontier: Option<Time>, ready: &mut Vec<Ready>) -> bool {
        let mut fuel = BYTES_PER_TURN;
        let passed = |epoch: u64| frontier.is_none_or(|frontier| frontier > Time::end(epoch));
        if !self.is_restored && passed(0) {
            self.is_restored = true;
            self.state.restored().unwrap_or_else(|trouble| {
                fault::end(FaultKind::Damaged, "restore the outputs of a sink", &trouble)
            });
        }
        loop {
            if self.parts.is_held() {
                break; // it is tried again in a while
            }
            if self.writing.is_some() {
                if !self.write(&mut fuel, ready) {
                    break;
                }
                continue;
            }
            let Some(epoch) = self.open.first_key_value().map(|(epoch, _)| *epoch) else { break };
            if !passed(epoch) {
                break;
            }
            // Whoever asks for an epoch before this one gets what is there now.
            self.keeping.note_before(Some(epoch), &mut self.state);
            self.apply(epoch, ready);
        }
        // Of the epochs that the frontier has passed, those are applied that come before an open one.
        let applied = self.open.first_key_value().map(|(epoch, _)| *epoch);
        let applied = frontier.map(|frontier| frontier.epoch).into_iter().chain(applied).min();
        self.keeping.note_before(applied, &mut self.state);
        let keeps_on = self.keeping.work();
        keeps_on || (self.writing.is_some() && self.parts.takes_in())
    }

    /// Changes the rows of all files that an epoch touches.
    fn apply(&mut self, epoch: u64, ready: &mut Vec<Ready>) {
        let Some(open) = self.open.remove(&epoch) else { return };
        if open.failed {
            return;
        }
        let opening = open.opening.expect("every epoch is announced before it is complete");
        let OpenEpoch { capability, mut changes, mut delivered, .. } = open;
        let own = opening.submission;
        let old = opening.old.as_ref().map(|old| old.submission);
        let mut todo = VecDeque::new();
        let is_mine = self.mine.contains(shard_of_submission(own)) && !opening.removes;
        if is_mine && self.parts.sink.sources.contains(&opening.source) {
            let stem = opening.output_name.clone();
            self.state.put(own, File { stem, ..File::default() });
            if self.parts.sink.empty {
                // It has an output even if no row comes.
                changes.entry(own).or_default();
            }
        }
        for (of, mut changes) in changes {
            let changed = self.state.change(of, &mut changes).unwrap_or_else(|trouble| {
                fault::end(FaultKind::Invariant, "apply the changes of a file", &trouble)
            });
            let delivered = delivered.remove(&of).unwrap_or(0);
            // Its outputs are taken away with it, by whoever knows all of them.
            let changed = changed.filter(|_| Some(of) != old);
            let is_first = of == own && self.parts.sink.empty;
            let file = match changed {
                Some(file) => file,
                None if is_first => match self.state.get(of) {
                    Some(file) => Rc::clone(file),
                    None => continue,
                },
                // Its rows count, though none of them changes anything.
                None => {
                    if delivered > 0 {
                        let part = self.part(epoch, of, delivered, "", Prepared::Same);
                        ready.push((capability.clone(), part));
                    }
                    continue;
                }
            };
            if file.rows.is_empty() && !self.parts.sink.empty {
                let body = if file.is_written { Prepared::Removed } else { Prepared::Same };
                let part = self.part(epoch, of, delivered, &file.stem, body);
                ready.push((capability.clone(), part));
                self.state.wrote(of, false);
                continue;
            }
            self.state.wrote(of, true);
            todo.push_back(Todo { of, file, delivered });
        }
        if let Some(old) = old {
            self.state.remove(old);
        }
        if !todo.is_empty() {
            let replay = opening.replay;
            let (open, inline_bytes) = (None, 0);
            self.writing = Some(Writing { epoch, capability, replay, todo, open, inline_bytes });
        }
    }

    /// Returns what is said of an output without bytes.
    fn part(&self, epoch: u64, of: u64, rows: u64, stem: &str, body: Prepared) -> PreparedPart {
        let sink = &self.parts.sink;
        let (bytes, hash) = (0, [0; 32]);
        let name = output_name(stem, &sink.format);
        PreparedPart { epoch, sink: sink.index, of, rows, name, bytes, hash, body }
    }

    /// Goes on writing outputs; returns whether the epoch is through.
    fn write(&mut self, fuel: &mut usize, ready: &mut Vec<Ready>) -> bool {
        loop {
            let Some(writing) = &mut self.writing else { return true };
            if writing.open.is_none() {
                let Some(todo) = writing.todo.pop_front() else {
                    self.writing = None;
                    return true;
                };
                let body = match writing.replay {
                    true => Body::digest(),
                    false if writing.inline_bytes > INLINE_BYTES_PER_EPOCH => Body::staged(),
                    false => Body::default(),
                };
                let mut output = OpenOutput { todo, body, at: At::default(), unterminated: false };
                self.encoder.preamble(output.body.gathering());
                let header = output.body.gathering().len();
                let stage = || self.parts.stage_of(writing.epoch, output.todo.of);
                let outcome = output.body.appended(header, &stage);
                self.parts.written(outcome);
                writing.open = Some(output);
            }
            if !self.write_rows(fuel) {
                return false;
            }
            if !self.close(ready) {
                return false;
            }
        }
    }

    /// Writes rows of the open output; returns whether all are.
    fn write_rows(&mut self, fuel: &mut usize) -> bool {
        let Self { writing: Some(Writing { epoch, open: Some(output), .. }), parts, .. } = self
        else {
            return true;
        };
        let OpenOutput { todo, body, at, unterminated } = output;
        let stage = || parts.stage_of(*epoch, todo.of);
        let is_raw = parts.sink.format == OutputFormat::Raw;
        loop {
            if body.is_full() {
                parts.hold();
                return false;
            }
            // What waits to be written is bounded; the operator is woken when less does.
            if *fuel == 0 || !parts.takes_in() {
                return false;
            }
            let Some(row) = todo.file.rows.next(at) else { return true };
            for _ in 0..row.times {
                // Only the last record of a file can lack its line end; what follows it here is the
                // same record by another way.
                let line_end: &[u8] = if is_raw && *unterminated { b"\n" } else { b"" };
                let outcome =
                    body.append(line_end, &stage).and_then(|()| body.append(row.bytes, &stage));
                parts.written(outcome);
                *unterminated = !row.bytes.ends_with(b"\n");
                *fuel = fuel.saturating_sub(row.bytes.len() + 1);
            }
        }
    }

    /// Ends the open output, whose rows are all written; returns whether it could.
    fn close(&mut self, ready: &mut Vec<Ready>) -> bool {
        let Some(writing) = &mut self.writing else { return true };
        let Some(mut output) = writing.open.take() else { return true };
        let (epoch, of) = (writing.epoch, output.todo.of);
        let flushed = output.body.flush(&|| self.parts.stage_of(epoch, of));
        if !self.parts.attempted(flushed) {
            writing.open = Some(output);
            self.parts.hold();
            return false;
        }
        let bytes = output.body.bytes();
        let rows = output.todo.file.rows.len();
        let capability = writing.capability.clone();
        let stem = output.todo.file.stem.clone();
        let same = self.part(epoch, of, output.todo.delivered, &stem, Prepared::Same);
        self.parts.meter.gave(0, rows as usize, bytes as usize);
        let done = self.parts.finish(capability, same, output.body);
        if let Some(writing) = &mut self.writing {
            let is_inline =
                done.as_ref().is_some_and(|(_, part)| matches!(part.body, Prepared::Inline(_)));
            writing.inline_bytes += if is_inline { bytes } else { 0 };
        }
        ready.extend(done);
        true
    }
}

#[cfg(test)]
mod tests;
