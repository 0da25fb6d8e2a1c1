//! Reader: pieces of files to batches, on the worker that was given the piece.
//!
//! | input  | orders for pieces, spread over all workers of all processes                |
//! | output | 0: batches at `(epoch, chunk)`; 1: rejected records; 2: notes: what was read, or why a file failed |
//! | state  | decoders of the streams being read; headers of the last few files          |
//! | errors | a bad record is rejected; a file that cannot be read is noted as failed     |
//!
//! The version that a file takes the place of is read beside it, at the same times: its rows leave with
//! the difference -1 and as rows of its own submission, its rejects as taken back.
//!
//! Reads with fuel: about one piece per activation, so that nothing else on the worker waits long.
//! A file that is not cut (compressed, or with line breaks inside records) is read by one reader,
//! which keeps its own window: it goes on only while the sinks follow.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use tidemill_operators::format::{self, Header, HeaderEnd, Parser, ReadPlan};
use tidemill_operators::reject::{EpochRejects, Standing};
use tidemill_operators::tally::Tally;
use tidemill_operators::{Batch, Origin, Reject, Time};
use tidemill_store::{crash, trial};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::operators::generic::{OutputBuilder, OutputBuilderSession};
use timely::dataflow::{Stream, StreamVec};
use timely::scheduling::Activator;

use crate::code::FileCode;
use crate::contract::Framed;
use crate::ingest::buffers::Buffers;
use crate::ingest::checks::Checks;
use crate::ingest::coordinator::{Loads, PIECE_BYTES, STREAM_WINDOW};
use crate::ingest::flow::Flow;
use crate::ingest::order::{Piece, PieceOrder, ReadEvent, ReadNote};
use crate::ingest::piece::{self, Chunk, FileFailure, Preamble, StreamReader};
use crate::retry::Class;

/// Bytes read in one activation before others get their turn.
const FUEL_BYTES: u64 = PIECE_BYTES;

/// Files whose preamble is remembered while their pieces are read.
const PREAMBLES_KEPT: usize = 64;

/// What a built reader gives back.
pub struct Read<'scope> {
    /// The batches.
    pub batches: Stream<'scope, Time, Batch>,
    /// The records that could not be read.
    pub rejects: StreamVec<'scope, Time, EpochRejects>,
    /// What was read, and which files failed.
    pub notes: StreamVec<'scope, Time, ReadNote>,
    /// Wakes it when the sinks have moved on.
    pub activator: Activator,
}

/// What a reader works with.
pub struct Reader {
    /// The source's name.
    pub name: String,
    /// What is read of each record.
    pub plan: ReadPlan,
    /// How many times larger than itself a compressed file may become.
    pub inflate_ratio_max: u32,
    /// What is looked at beyond the grammar.
    pub checks: Checks,
    /// How far the sinks have followed.
    pub flow: Flow,
    /// How much waits at the readers of this process.
    pub loads: Loads,
    /// The memory to read into, shared by the readers of this worker.
    pub buffers: Buffers,
    /// Counts what is read.
    pub tally: Tally,
}

/// Builds the reader of one source.
pub fn reader<'scope>(
    title: &str,
    orders: StreamVec<'scope, Time, PieceOrder>,
    with: Reader,
) -> Read<'scope> {
    let Reader { name, plan, inflate_ratio_max, checks, flow, loads, buffers, tally } = with;
    let scope = orders.scope();
    let mut builder = OperatorBuilder::new(title.to_owned(), scope);
    let address = builder.operator_info().address;
    let mut input = builder.new_input(orders, Exchange::new(|order: &PieceOrder| order.reader));
    let (output, batches) = builder.new_output::<Batch>();
    let mut batch_output = OutputBuilder::<Time, CapacityContainerBuilder<Batch>>::from(output);
    let (output, rejects) = builder.new_output::<Vec<EpochRejects>>();
    let mut reject_output =
        OutputBuilder::<Time, CapacityContainerBuilder<Vec<EpochRejects>>>::from(output);
    let (output, notes) = builder.new_output::<Vec<ReadNote>>();
    let mut note_output =
        OutputBuilder::<Time, CapacityContainerBuilder<Vec<ReadNote>>>::from(output);
    let activator = scope.activator_for(std::rc::Rc::clone(&address));
    let again = scope.activator_for(address);
    let mut reading = Reading {
        name,
        parser: Parser::new(plan.clone()),
        plan,
        inflate_ratio_max,
        checks,
        buffers,
        queue: VecDeque::new(),
        streams: Vec::new(),
        preambles: BTreeMap::new(),
        failed: BTreeSet::new(),
        worker: scope.worker().index(),
        loads,
        tally,
    };

    builder.build(move |capabilities| {
        drop(capabilities);
        move |frontiers| {
            input.for_each_stamp(|capability, orders| {
                let held: Option<Vec<_>> =
                    (0..3).map(|port| capability.retain_least(port)).collect();
                let Some(held) = held else { return };
                for order in orders.flat_map(|orders| orders.drain(..)) {
                    reading.queue.push_back((held.clone(), order));
                }
            });
            let mut outputs = Outputs {
                batches: batch_output.activate(),
                rejects: reject_output.activate(),
                notes: note_output.activate(),
            };
            let mut fuel = FUEL_BYTES;
            while fuel > 0 {
                let used = reading.advance(&flow, &mut outputs);
                if used == 0 {
                    break;
                }
                fuel = fuel.saturating_sub(used);
            }
            drop(outputs);
            if fuel == 0 {
                again.activate();
            }
            let passed = frontiers[0].frontier().first().map_or(u64::MAX, |time| time.epoch);
            reading.failed = reading.failed.split_off(&passed);
        }
    });
    Read { batches, rejects, notes, activator }
}

type Builder<C> = CapacityContainerBuilder<C>;

struct Outputs<'a> {
    batches: OutputBuilderSession<'a, Time, Builder<Batch>>,
    rejects: OutputBuilderSession<'a, Time, Builder<Vec<EpochRejects>>>,
    notes: OutputBuilderSession<'a, Time, Builder<Vec<ReadNote>>>,
}

impl Outputs<'_> {
    /// Says that records could not be read.
    fn reject(
        &mut self,
        at: &Capability<Time>,
        origin: Origin,
        standing: Standing,
        rejects: Vec<Reject>,
    ) {
        if !rejects.is_empty() {
            let epoch = at.time().epoch;
            self.rejects.session(at).give(EpochRejects { epoch, origin, standing, rejects });
        }
    }
}

/// A stream that is being read, with its capabilities at the next chunk.
struct OpenStream {
    held: Vec<Capability<Time>>,
    order: PieceOrder,
    reader: StreamReader,
}

struct Reading {
    name: String,
    parser: Parser,
    plan: ReadPlan,
    inflate_ratio_max: u32,
    checks: Checks,
    buffers: Buffers,
    queue: VecDeque<(Vec<Capability<Time>>, PieceOrder)>,
    streams: Vec<OpenStream>,
    /// What stands before the first record of the last few files, by epoch and submission.
    preambles: BTreeMap<(u64, u64), Preamble>,
    /// Epochs that failed here: their other pieces need not be read.
    failed: BTreeSet<u64>,
    worker: usize,
    loads: Loads,
    tally: Tally,
}

impl Reading {
    /// Reads one piece, or one chunk of a stream; returns about how many bytes that took, 0 if
    /// there is nothing to do now.
    fn advance(&mut self, flow: &Flow, outputs: &mut Outputs<'_>) -> u64 {
        // Streams in the order of their epochs: the earliest one holds the frontier.
        let ready = self.streams.iter().position(|stream| {
            let chunk = stream.held[0].time().chunk;
            let behind =
                Time::last(stream.held[0].time().epoch, chunk.saturating_sub(STREAM_WINDOW));
            chunk < STREAM_WINDOW || !flow.less_equal(&behind)
        });
        if let Some(index) = ready {
            return self.read_stream(index, outputs);
        }
        let Some((held, order)) = self.queue.pop_front() else { return 0 };
        self.loads.done(self.worker, order.bytes);
        crash::reading(order.file.submission);
        trial::read(&order.file.name);
        if self.failed.contains(&order.file.epoch) {
            return 1;
        }
        match order.piece {
            Piece::Range { start, end } => {
                self.read_range(&held, &order, start, end, outputs);
                (end - start).max(1)
            }
            Piece::Stream => {
                self.open_stream(held, order, outputs);
                1
            }
        }
    }

    fn read_range(
        &mut self,
        held: &[Capability<Time>],
        order: &PieceOrder,
        start: u64,
        end: u64,
        outputs: &mut Outputs<'_>,
    ) {
        let read = self.known_preamble(order, start).and_then(|known| {
            piece::read_range(&order.file, start, end, &self.plan, known, &self.buffers)
        });
        match read {
            Ok((chunk, preamble)) => {
                // Each is told once: by who reads the first piece, and by who reads the last.
                let is_last = end == order.file.identity.bytes;
                let tells = |framed: &&Framed| if framed.is_head { start == 0 } else { is_last };
                let framed = preamble.framed.iter().filter(tells).cloned().collect();
                self.tell_framed(held, order, framed, outputs);
                self.emit(held, order, chunk, preamble.header.as_ref(), outputs);
            }
            Err(failure) => self.fail(held, order, failure, outputs),
        }
    }

    fn open_stream(
        &mut self,
        held: Vec<Capability<Time>>,
        order: PieceOrder,
        outputs: &mut Outputs<'_>,
    ) {
        match StreamReader::open(&order.file, self.inflate_ratio_max, self.checks.frame) {
            Ok(reader) => self.streams.push(OpenStream { held, order, reader }),
            Err(failure) => self.fail(&held, &order, failure, outputs),
        }
    }

    fn read_stream(&mut self, index: usize, outputs: &mut Outputs<'_>) -> u64 {
        let mut stream = self.streams.swap_remove(index);
        crash::reading(stream.order.file.submission);
        match stream.reader.next_chunk(&self.plan, &self.buffers) {
            Ok(Some(chunk)) => {
                let framed = stream.reader.take_framed();
                self.tell_framed(&stream.held, &stream.order, framed, outputs);
                let header = stream.reader.header().cloned();
                self.emit(&stream.held, &stream.order, chunk, header.as_ref(), outputs);
                let next = *stream.held[0].time();
                let next = Time::new(next.epoch, next.chunk + 1);
                stream.held.iter_mut().for_each(|capability| capability.downgrade(&next));
                self.streams.push(stream);
                self.streams.sort_by_key(|stream| *stream.held[0].time());
            }
            Ok(None) => {}
            Err(failure) => self.fail(&stream.held, &stream.order, failure, outputs),
        }
        PIECE_BYTES
    }

    /// Returns the preamble of a file where a later range of it needs one, reading it once.
    fn known_preamble(
        &mut self,
        order: &PieceOrder,
        start: u64,
    ) -> Result<Option<Preamble>, FileFailure> {
        let has_header = format::header_end(&self.plan, b"") != HeaderEnd::None;
        if self.checks.frame.is_empty() && (start == 0 || !has_header) {
            return Ok(None);
        }
        let which = (order.file.epoch, order.file.rows_of);
        if let Some(preamble) = self.preambles.get(&which) {
            return Ok(Some(preamble.clone()));
        }
        let preamble = piece::preamble(&order.file, &self.plan, self.checks.frame)?;
        if self.preambles.len() >= PREAMBLES_KEPT {
            self.preambles.pop_first();
        }
        self.preambles.insert(which, preamble.clone());
        Ok(Some(preamble))
    }

    fn emit(
        &mut self,
        held: &[Capability<Time>],
        order: &PieceOrder,
        chunk: Chunk,
        header: Option<&Header>,
        outputs: &mut Outputs<'_>,
    ) {
        let time = *held[0].time();
        let parsed = self.parser.parse(&chunk.buffer, chunk.range.clone(), header);
        let origin =
            Origin { submission: order.file.rows_of, chunk: time.chunk, offset: chunk.offset };
        let mut rejects: Vec<Reject> = parsed.rejects;
        let over_long = u32::from(chunk.too_long.is_some());
        if let Some(mut reject) = chunk.too_long {
            reject.line = parsed.lines;
            rejects.push(reject);
        }
        for reject in &mut rejects {
            reject.operator.clone_from(&self.name);
        }
        let (skipped_lines, lines) = (chunk.skipped_lines, parsed.lines + over_long);
        let unread = rejects.len() as u64;
        if order.file.is_taken_back() {
            let batch = parsed.batch.map(|batch| Batch { origin, diff: -1, ..batch });
            // It goes the way it went when it came.
            let batch = batch.map(|batch| {
                let (batch, broken) = self.checks.divide(&self.name, batch);
                rejects.extend(broken);
                batch
            });
            if let Some(mut batch) = batch.filter(|batch| !batch.is_empty()) {
                outputs.batches.session(&held[0]).give_container(&mut batch);
            }
            outputs.reject(&held[1], origin, Standing::TakenBack, rejects);
            let (chunk, hash) = (time.chunk, chunk.hash);
            let note = ReadEvent::TakenBack { chunk, skipped_lines, lines, hash };
            outputs.notes.session(&held[2]).give(self.note(order, note));
            return;
        }
        if let Some(totals) = self.checks.totals(parsed.batch.as_ref()) {
            outputs.notes.session(&held[2]).give(self.note(order, ReadEvent::Summed { totals }));
        }
        let good = parsed.batch.map(|batch| self.checks.divide(&self.name, batch));
        let good = good.map(|(batch, broken)| {
            rejects.extend(broken);
            batch
        });
        let records = u64::from(parsed.records) + u64::from(over_long);
        self.tally.took(time.epoch, records as usize, chunk.range.len());
        self.tally.rejected(time.epoch, rejects.len());
        let note = ReadEvent::Chunk {
            chunk: time.chunk,
            skipped_lines,
            lines,
            records,
            rejected: unread,
            bytes: chunk.packed_bytes,
            hash: chunk.hash,
        };
        if let Some(mut batch) = good.filter(|batch| !batch.is_empty()) {
            batch.origin = origin;
            self.tally.gave(time.epoch, 0, batch.len(), chunk.range.len());
            outputs.batches.session(&held[0]).give_container(&mut batch);
        }
        outputs.reject(&held[1], origin, Standing::There, rejects);
        outputs.notes.session(&held[2]).give(self.note(order, note));
    }

    /// Says what the lines are that are no records.
    fn tell_framed(
        &self,
        held: &[Capability<Time>],
        order: &PieceOrder,
        framed: Vec<Framed>,
        outputs: &mut Outputs<'_>,
    ) {
        if order.file.is_taken_back() {
            return;
        }
        for one in framed {
            outputs.notes.session(&held[2]).give(self.note(order, ReadEvent::Framed(one)));
        }
    }

    fn fail(
        &mut self,
        held: &[Capability<Time>],
        order: &PieceOrder,
        failure: FileFailure,
        outputs: &mut Outputs<'_>,
    ) {
        self.failed.insert(order.file.epoch);
        let class = failure.class;
        let event = match order.file.is_taken_back() {
            false => {
                ReadEvent::Failed { code: failure.code.word().to_owned(), detail: failure.detail }
            }
            true => old_version_lost(order.file.rows_of, &failure.detail),
        };
        let event = match event {
            ReadEvent::Failed { code, detail } if class != Class::Permanent => {
                ReadEvent::FailedForNow { class, code, detail }
            }
            event => event,
        };
        outputs.notes.session(&held[2]).give(self.note(order, event));
    }

    fn note(&self, order: &PieceOrder, event: ReadEvent) -> ReadNote {
        ReadNote { epoch: order.file.epoch, submission: order.file.submission, event }
    }
}

/// Returns what is said of a correction when the version that it corrects cannot be taken back.
pub(super) fn old_version_lost(old: u64, why: &str) -> ReadEvent {
    let detail = format!(
        "the rows of submission {old} cannot be taken back, so nothing was changed: {why} (its bytes \
         are looked for in processed/ and retained/)"
    );
    ReadEvent::Failed { code: FileCode::OldVersionLost.word().to_owned(), detail }
}
