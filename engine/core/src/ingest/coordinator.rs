//! Coordinator: the one source of a dataflow. It gives out the pieces of accepted files, in the
//! order of their epochs, and keeps only a window of them in flight.
//!
//! Runs on worker 0; every other worker drops its capability at once, so the frontier of the whole
//! cluster is driven from one place. The window is the memory bound of the dataflow: a piece counts
//! until the sinks' frontier has passed it. No file is begun while too many are not answered, or their
//! answers wait for the disk ([`Backlog`]).

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, TryRecvError};

use tidemill_operators::Time;
use tidemill_operators::shards::Mark;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::{Scope, StreamVec};
use timely::scheduling::Activator;
use timely::scheduling::activate::SyncActivator;

use crate::answer::Heard;
use crate::checkpoint::{Order, RestoreOrder};
use crate::ingest::backlog::Backlog;
use crate::ingest::flow::Flow;
use crate::ingest::inflate::Compression;
use crate::ingest::order::{FileOrder, OldVersion, Opening, Piece, PieceOrder};

/// Bytes of a piece: it fits the cache, and is long enough that nothing per piece matters.
pub const PIECE_BYTES: u64 = 512 << 10;

/// Pieces in flight at most, whatever their size.
const WINDOW_PIECES: usize = 96;

/// Bytes in flight at most, as they stand in the files.
const WINDOW_BYTES: u64 = 48 << 20;

/// Chunks of one stream that may be in flight.
pub const STREAM_WINDOW: u64 = 8;

/// How many times its size a small compressed file is taken to hold.
const STREAM_RATIO: u64 = 32;

/// Bytes that wait at one reader at most, while another one has less to do.
const READER_BYTES: u64 = 4 << 20;

/// What the coordinator is told.
#[derive(Debug)]
pub enum Command {
    /// Read this file. Epochs only grow.
    File(FileOrder),
    /// Take up this checkpoint. Comes before everything else.
    Restore(RestoreOrder),
    /// Mark a checkpoint behind the last file that was given out whole.
    Checkpoint {
        /// Whether all of the state is wanted, or what changed since the last mark.
        full: bool,
    },
    /// Finish what has begun, forget the rest, then end the dataflow.
    Stop {
        /// The checkpoint to mark at the very end, if one is wanted: whether a full one.
        checkpoint: Option<bool>,
    },
}

/// What a built coordinator gives back.
pub struct Coordinator<'scope> {
    /// One announcement per file, at its first time.
    pub openings: StreamVec<'scope, Time, Opening>,
    /// The pieces to read, by source.
    pub pieces: Vec<StreamVec<'scope, Time, PieceOrder>>,
    /// What everybody is told: one order each, to be broadcast. An order that asks for the end of an
    /// epoch comes at a time of the next.
    pub orders: StreamVec<'scope, Time, Order>,
    /// Wakes it from another thread.
    pub wake: SyncActivator,
    /// Wakes it from this worker, when the window may have room.
    pub activator: Activator,
}

/// Which sources of the plan can be cut at any byte.
pub type Splittable = Vec<bool>;

/// How many bytes wait at each reader of this process; shared between its workers.
///
/// A worker that is busy writing falls behind with its reading. The next pieces go to the others.
#[derive(Clone, Default)]
pub struct Loads {
    waiting: Arc<Vec<AtomicU64>>,
}

impl Loads {
    /// Returns no load on so many workers.
    pub fn new(workers: usize) -> Self {
        Self { waiting: Arc::new((0..workers).map(|_| AtomicU64::new(0)).collect()) }
    }

    /// A piece of so many bytes is under way to a reader of this process.
    fn add(&self, worker: usize, bytes: u64) {
        if let Some(waiting) = self.waiting.get(worker) {
            waiting.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    /// A reader of this process has read a piece of so many bytes.
    pub fn done(&self, worker: usize, bytes: u64) {
        if let Some(waiting) = self.waiting.get(worker) {
            waiting.fetch_sub(bytes, Ordering::Relaxed);
        }
    }

    fn of(&self, worker: usize) -> Option<u64> {
        self.waiting.get(worker).map(|waiting| waiting.load(Ordering::Relaxed))
    }
}

/// Builds the coordinator. `commands` is there on worker 0 only, and `heard` is called there only;
/// `flow` follows the sinks.
#[expect(clippy::too_many_arguments, reason = "one call, from render")]
pub fn coordinator<'scope>(
    scope: Scope<'scope, Time>,
    title: &str,
    commands: Option<Receiver<Command>>,
    splittable: Splittable,
    flow: Flow,
    loads: Loads,
    backlog: Backlog,
    mut heard: impl FnMut(Heard) + 'static,
) -> Coordinator<'scope> {
    let peers = scope.worker().peers();
    let mut builder = OperatorBuilder::new(title.to_owned(), scope);
    let address = builder.operator_info().address;
    let (output, openings) = builder.new_output::<Vec<Opening>>();
    let mut opening_output =
        OutputBuilder::<Time, CapacityContainerBuilder<Vec<Opening>>>::from(output);
    let mut piece_outputs = Vec::new();
    let mut pieces = Vec::new();
    for _ in &splittable {
        let (output, stream) = builder.new_output::<Vec<PieceOrder>>();
        piece_outputs
            .push(OutputBuilder::<Time, CapacityContainerBuilder<Vec<PieceOrder>>>::from(output));
        pieces.push(stream);
    }
    let (output, orders) = builder.new_output::<Vec<Order>>();
    let mut order_output =
        OutputBuilder::<Time, CapacityContainerBuilder<Vec<Order>>>::from(output);
    let wake = scope.worker().sync_activator_for(address.to_vec());
    let activator = scope.activator_for(Rc::clone(&address));
    if commands.is_some() {
        backlog.wakes(wake.clone());
    }

    builder.build(move |mut capabilities| {
        let ordering = capabilities.pop();
        let mut state = commands.zip(ordering).map(|(commands, ordering)| State {
            commands,
            capabilities,
            ordering,
            orders: VecDeque::new(),
            queue: VecDeque::new(),
            in_flight: VecDeque::new(),
            bytes_in_flight: 0,
            begun: VecDeque::new(),
            backlog,
            loads,
            assigned: vec![0; peers],
            next_reader: 0,
            last_epoch: 0,
            stopping: false,
        });
        let mut give_orders = move |coordinating: &mut State| {
            while let Some(order) = coordinating.next_order() {
                if let Order::Mark(mark) = &order {
                    heard(Heard::Marked { epoch: mark.epoch });
                    if mark.epoch == 0 {
                        continue;
                    }
                }
                order_output.activate().session(&coordinating.ordering).give(order);
                coordinating.ordered();
            }
        };
        move |_frontiers| {
            let Some(coordinating) = &mut state else { return };
            coordinating.listen();
            coordinating.settle(&flow);
            // Before the first file: what is restored is the state before it.
            give_orders(coordinating);
            while let Some(step) = coordinating.next_step(&splittable) {
                match step {
                    Step::Open(time, opening) => {
                        coordinating.advance(time);
                        let at = coordinating.capabilities[0].delayed(&time);
                        opening_output.activate().session(&at).give(opening);
                    }
                    Step::Read(time, order, next) => {
                        let port = order.file.source + 1;
                        let at = coordinating.capabilities[port].delayed(&time);
                        piece_outputs[port - 1].activate().session(&at).give(order);
                        coordinating.advance(next);
                    }
                    Step::Advance(time) => coordinating.advance(time),
                }
            }
            give_orders(coordinating);
            if coordinating.is_finished() {
                state = None;
            }
        }
    });
    Coordinator { openings, pieces, orders, wake, activator }
}

/// A file that is being given out.
struct Reading {
    opened: bool,
    /// The version that is taken back, if there is one, then the file: their pieces are given out
    /// side by side, those of one number at one time.
    versions: Vec<Version>,
}

/// One version of a file that is being given out.
struct Version {
    file: FileOrder,
    /// The next chunk, and the byte at which it begins.
    chunk: u64,
    start: u64,
}

impl Reading {
    fn new(mut file: FileOrder) -> Self {
        let old = file.old.take().map(|old| *old);
        let is_refused = file.refused.is_some();
        // What is refused is announced, and none of it is read.
        let version = |file: FileOrder| {
            let start = if is_refused { file.identity.bytes } else { 0 };
            Version { file, chunk: 0, start }
        };
        Self { opened: false, versions: old.into_iter().chain([file]).map(version).collect() }
    }

    /// Returns the file that is read.
    fn file(&self) -> &FileOrder {
        // There is always the file itself.
        &self.versions[self.versions.len() - 1].file
    }

    /// Returns the version that is taken back.
    fn old(&self) -> Option<&FileOrder> {
        self.versions.first().map(|old| &old.file).filter(|_| self.versions.len() > 1)
    }

    /// Returns the version whose turn it is: the one that is behind, the old one first.
    fn next(&mut self) -> Option<&mut Version> {
        let open = self.versions.iter_mut().filter(|one| one.start < one.file.identity.bytes);
        open.min_by_key(|one| one.chunk)
    }
}

struct State {
    commands: Receiver<Command>,
    /// One per output of what is read, all at the same time.
    capabilities: Vec<Capability<Time>>,
    /// That of the orders: never behind the others, so that whoever waits for an order waits for
    /// nothing else.
    ordering: Capability<Time>,
    /// Orders that were asked for: one to take up a checkpoint, and whether marks are full.
    orders: VecDeque<Asked>,
    queue: VecDeque<Reading>,
    /// Pieces given out, with their bytes and reader: each counts until the frontier has passed its
    /// time.
    in_flight: VecDeque<(Time, u64, usize)>,
    bytes_in_flight: u64,
    /// Epochs that were begun and are not answered.
    begun: VecDeque<u64>,
    backlog: Backlog,
    loads: Loads,
    /// Bytes in flight by reader: all that is known of readers in other processes.
    assigned: Vec<u64>,
    next_reader: usize,
    /// The last epoch that was ordered: the next one is greater.
    last_epoch: u64,
    stopping: bool,
}

enum Asked {
    Restore(RestoreOrder),
    Mark(bool),
    /// At the very end.
    LastMark(bool),
}

enum Step {
    Open(Time, Opening),
    /// A piece at a time, and the least time of what comes after it.
    Read(Time, PieceOrder, Time),
    Advance(Time),
}

impl State {
    fn listen(&mut self) {
        loop {
            match self.commands.try_recv() {
                Ok(Command::File(file)) if !self.stopping => {
                    let (epoch, last) = (file.epoch, self.last_epoch);
                    assert!(epoch > last, "epoch {epoch} was ordered after epoch {last}");
                    self.last_epoch = epoch;
                    self.queue.push_back(Reading::new(file));
                }
                Ok(Command::File(_)) => {}
                Ok(Command::Restore(order)) => self.orders.push_back(Asked::Restore(order)),
                Ok(Command::Checkpoint { full }) => self.orders.push_back(Asked::Mark(full)),
                Ok(Command::Stop { checkpoint }) => {
                    self.orders.extend(checkpoint.map(Asked::LastMark));
                    self.stop();
                    return;
                }
                Err(TryRecvError::Disconnected) => {
                    self.stop();
                    return;
                }
                Err(TryRecvError::Empty) => return,
            }
        }
    }

    fn stop(&mut self) {
        self.stopping = true;
        self.queue.retain(|reading| reading.opened);
    }

    /// Returns the next order whose turn has come.
    fn next_order(&mut self) -> Option<Order> {
        if matches!(self.orders.front()?, Asked::LastMark(_)) && !self.is_finished() {
            return None;
        }
        Some(match self.orders.pop_front()? {
            Asked::Restore(order) => Order::Restore(order),
            Asked::Mark(full) | Asked::LastMark(full) => {
                // Everything before the file that is being given out was given out whole.
                let epoch = self.capabilities[0].time().epoch.saturating_sub(1);
                Order::Mark(Mark { epoch, full })
            }
        })
    }

    /// No two orders share a time.
    fn ordered(&mut self) {
        let time = *self.ordering.time();
        self.ordering.downgrade(&Time::new(time.epoch, time.chunk + 1));
    }

    /// Forgets the pieces that the sinks have taken in.
    fn settle(&mut self, flow: &Flow) {
        let least = flow.least();
        let Self { in_flight, bytes_in_flight, assigned, .. } = self;
        // Not only from the front: a stream that is read beside pieces is through last, and must not
        // keep the window shut for what it waits for.
        in_flight.retain(|(time, bytes, reader)| {
            let is_under_way = least.is_some_and(|least| least <= *time);
            if !is_under_way {
                *bytes_in_flight -= bytes;
                assigned[*reader] -= bytes;
            }
            is_under_way
        });
    }

    /// Says what to do next, or nothing if the window is full or no file waits.
    fn next_step(&mut self, splittable: &[bool]) -> Option<Step> {
        let reading = self.queue.front_mut()?;
        let epoch = reading.file().epoch;
        if reading.opened && reading.next().is_none() {
            let done = Time::new(epoch + 1, 0);
            self.queue.pop_front();
            return Some(Step::Advance(done));
        }
        if self.in_flight.len() >= WINDOW_PIECES || self.bytes_in_flight >= WINDOW_BYTES {
            return None;
        }
        if !reading.opened {
            if !self.backlog.has_room(&mut self.begun) {
                return None;
            }
            self.begun.push_back(epoch);
            reading.opened = true;
            let file = reading.file();
            let old = |old: &FileOrder| OldVersion {
                submission: old.rows_of,
                name: old.name.clone(),
                bytes: old.identity.bytes,
                hash: old.hash,
            };
            let opening = Opening {
                epoch: file.epoch,
                submission: file.submission,
                source: file.source,
                bytes: file.identity.bytes,
                hash: file.hash,
                name: file.name.clone(),
                output_name: file.output_name.clone(),
                replay: file.replay,
                old: reading.old().map(old),
                removes: file.removes,
                refused: file.refused.clone(),
            };
            // It counts as a piece, so that a flood of empty files is bounded too.
            let time = Time::new(epoch, 0);
            self.in_flight.push_back((time, 0, 0));
            return Some(Step::Open(time, opening));
        }
        let version = reading.next()?;
        let (file, size) = (&version.file, version.file.identity.bytes);
        let cut = splittable[file.source] && file.compression == Compression::None;
        let time = Time::new(epoch, version.chunk);
        let (piece, until, bytes) = if cut {
            let end = (version.start + PIECE_BYTES).min(size);
            let until = Time::last(epoch, version.chunk);
            (Piece::Range { start: version.start, end }, until, end - version.start)
        } else {
            // Its reader keeps a window of its own; all of it counts here until it is through.
            let bytes = (size * STREAM_RATIO).clamp(64 << 10, STREAM_WINDOW * PIECE_BYTES);
            (Piece::Stream, Time::end(epoch), bytes)
        };
        version.start = if let Piece::Range { end, .. } = piece { end } else { size };
        version.chunk += 1;
        let file = file.clone();
        let next = reading.next().map_or(time.chunk + 1, |next| next.chunk);
        let next = Time::new(epoch, next);
        let reader = self.choose_reader();
        self.in_flight.push_back((until, bytes, reader));
        self.bytes_in_flight += bytes;
        self.assigned[reader] += bytes;
        self.loads.add(reader, bytes);
        Some(Step::Read(time, PieceOrder { file, piece, reader: reader as u64, bytes }, next))
    }

    /// Returns the next reader in turn that has not too much to do, else the one with the least.
    fn choose_reader(&mut self) -> usize {
        let load = |reader: usize| self.loads.of(reader).unwrap_or(self.assigned[reader]);
        let peers = self.assigned.len();
        let in_turn = (0..peers).map(|step| (self.next_reader + step) % peers);
        let reader = in_turn
            .clone()
            .find(|reader| load(*reader) < READER_BYTES)
            .or_else(|| in_turn.min_by_key(|reader| load(*reader)))
            .unwrap_or(0);
        self.next_reader = reader + 1;
        reader
    }

    fn advance(&mut self, time: Time) {
        for capability in &mut self.capabilities {
            capability.downgrade(&time);
        }
        if *self.ordering.time() < time {
            self.ordering.downgrade(&time);
        }
    }

    fn is_finished(&self) -> bool {
        self.stopping && self.queue.is_empty()
    }
}
