//! Changes: what each epoch changes of what an operator says about the rows of each key.
//!
//! | input  | an arrangement of rows by key                                                         |
//! | output | per epoch, at the end of each round: the rows taken back (diff -1), then those there (+1); |
//! |        | per worker in the order of keys, or of the places of their records where those are asked |
//! | state  | the arrangement; of outputs only those of the epochs that are being looked at          |
//! | errors | what the logic reports of a key, once, when it is new; a row that is taken back more     |
//! |        | often than it came ends the process                                                   |
//! | cost   | for each key that an epoch touched: the values before and after, as far as the logic reads |
//!
//! What was said before is not kept but computed again: the logic is a function of the rows of a key,
//! and both moments are in the arrangement. What is restored (epoch 0) was said in an earlier life.

use std::collections::{BTreeMap, VecDeque};

use differential_dataflow::operators::arrange::Arranged;
use differential_dataflow::trace::cursor::cursor_list;
use differential_dataflow::trace::{BatchCursor, Cursor, Navigable};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::progress::operate::FrontierInterest;

use super::arrange::{AsOf, Lookup, Values, forget, pieces};
use super::packed::{Piece, Trace, TraceCursor, size};
use super::present::{Port, Presenter, ROWS_PER_BATCH};
use super::said::{Said, TROUBLE};
use crate::batch::{Batch, Origin};
use crate::flow::Flow;
use crate::key::Key;
use crate::reject::{EpochRejects, OnError, Reject, RejectCode, Standing};
use crate::tally::Tally;
use crate::time::Time;
use crate::types::Column;

/// How many values are looked at before other operators get their turn.
const VALUES_PER_TURN: usize = 16 * 1024;

/// How many rows leave before other operators get their turn.
const ROWS_PER_TURN: usize = 4 * ROWS_PER_BATCH;

/// What an operator says of the rows of a key: a function of them and of nothing else.
pub trait Logic {
    /// Says what follows from the values of a key, which come in order, each with how often it is
    /// there (never less than once). What is not asked for is not read.
    fn rows<'v>(
        &mut self,
        key: &'v [u8],
        values: &mut dyn Iterator<Item = (&'v [u8], i64)>,
        said: &mut Said,
    );
}

/// Builds the operator `title` that says, epoch by epoch, what changes; `operator` is its name in the
/// troubles that it reports.
pub fn changes<'s, L: Logic + 'static>(
    title: &str,
    operator: &str,
    arranged: Arranged<'s, Trace>,
    keys: &[Column],
    ports: Vec<Port>,
    logic: L,
    tally: Tally,
) -> Flow<'s> {
    let Arranged { stream, trace } = arranged;
    let scope = stream.scope();
    let mut builder = OperatorBuilder::new(title.to_owned(), scope);
    let mut input = builder.new_input(stream, Pipeline);
    builder.set_notify_for(0, FrontierInterest::Always);
    let mut outputs = Vec::with_capacity(ports.len());
    let mut streams = Vec::with_capacity(ports.len());
    for _ in &ports {
        let (output, stream) = builder.new_output::<Batch>();
        outputs.push(OutputBuilder::<Time, CapacityContainerBuilder<Batch>>::from(output));
        streams.push(stream);
    }
    let (rejects, rejects_stream) = builder.new_output::<Vec<EpochRejects>>();
    let mut rejects = OutputBuilder::<_, CapacityContainerBuilder<_>>::from(rejects);
    let again = scope.activator_for(builder.operator_info().address);
    let used: Vec<bool> = ports.iter().map(|port| port.used).collect();
    let presenters = ports.into_iter().map(|port| Presenter::new(keys, port)).collect();
    let (operator, keys) = (operator.to_owned(), keys.to_vec());

    builder.build(move |initial| {
        drop(initial);
        let mut changing = Changing::new(trace, logic, presenters, used);
        move |frontiers| {
            input.for_each(|capability, spans| {
                // The one of rejects last: its frontier says that all of an epoch was counted.
                let hold = (0..=outputs.len()).map(|port| capability.retain_least(port));
                let Some(hold) = hold.collect::<Option<Vec<_>>>() else { return };
                for piece in spans.drain(..).filter_map(|span| span.inner) {
                    changing.waiting.push_back((hold.clone(), piece));
                }
            });
            let more = changing.work(|leaving, batch| {
                let epoch = leaving.capability.time().epoch;
                match batch {
                    Leaves::Rows(mut batch) => {
                        if batch.diff > 0 {
                            tally.gave(epoch, leaving.port, batch.len(), 0);
                        }
                        let output = &mut outputs[leaving.port];
                        output.activate().session(&leaving.capability).give_container(&mut *batch);
                    }
                    Leaves::Troubles(troubles) => {
                        tally.reported(epoch, troubles.len());
                        let time = leaving.capability.time();
                        let told = reject_all(time, &operator, &keys, troubles, &tally);
                        rejects.activate().session(&leaving.capability).give(told);
                    }
                }
            });
            changing.let_go(frontiers[0].frontier().first().copied(), &tally);
            if more {
                again.activate();
            }
        }
    });
    Flow { tags: streams, rejects: rejects_stream }
}

/// What leaves at once.
enum Leaves {
    Rows(Box<Batch>),
    /// A key and what is wrong with it.
    Troubles(Vec<(Key, String)>),
}

fn reject_all(
    time: &Time,
    operator: &str,
    keys: &[Column],
    troubles: Vec<(Key, String)>,
    tally: &Tally,
) -> EpochRejects {
    let (epoch, round) = (time.epoch, tally.round(time));
    let reject = |(key, reason): (Key, String)| Reject {
        line: 0,
        offset: 0,
        round,
        operator: operator.to_owned(),
        code: RejectCode::Expression,
        message: reason,
        raw: key.text(keys).into_bytes(),
        on_error: OnError::Reject,
    };
    let origin = Origin { submission: epoch, chunk: Time::END, offset: 0 };
    let rejects = troubles.into_iter().map(reject).collect();
    EpochRejects { epoch, origin, standing: Standing::Told, rejects }
}

struct Changing<L> {
    /// Dropped once nothing can come any more.
    trace: Option<Trace>,
    logic: L,
    presenters: Vec<Presenter>,
    used: Vec<bool>,
    /// Pieces that were not looked at yet, each with a capability per port.
    waiting: VecDeque<(Vec<Capability<Time>>, Piece)>,
    walk: Option<Walk>,
    leaving: VecDeque<Leaving>,
    /// The epoch before which everything is forgotten.
    forgotten: Option<u64>,
}

impl<L: Logic> Changing<L> {
    fn new(trace: Trace, logic: L, presenters: Vec<Presenter>, used: Vec<bool>) -> Self {
        let mut trace = trace;
        forget(&mut trace, 0);
        Self {
            trace: Some(trace),
            logic,
            presenters,
            used,
            waiting: VecDeque::new(),
            walk: None,
            leaving: VecDeque::new(),
            forgotten: None,
        }
    }

    /// Goes on; returns whether there is more to do.
    fn work(&mut self, mut give: impl FnMut(&Leaving, Leaves)) -> bool {
        // What was found leaves before more is looked for: that bounds what waits.
        let mut rows = 0;
        while rows < ROWS_PER_TURN
            && let Some(leaving) = self.leaving.front_mut()
        {
            match leaving.next(self.presenters.get(leaving.port)) {
                Some((count, leaves)) => {
                    rows += count;
                    give(leaving, leaves);
                }
                None => drop(self.leaving.pop_front()),
            }
        }
        if self.leaving.is_empty() && rows < ROWS_PER_TURN {
            self.look();
        }
        !(self.leaving.is_empty() && self.walk.is_none() && self.waiting.is_empty())
    }

    /// Looks at some of the keys that changed.
    fn look(&mut self) {
        if self.walk.is_none()
            && let Some((capabilities, piece)) = self.waiting.pop_front()
            && let Some(trace) = &mut self.trace
        {
            self.walk = Some(Walk::new(capabilities, piece, pieces(trace)));
        }
        let Some(walk) = &mut self.walk else { return };
        if walk.advance(&mut self.logic, &self.used) {
            return;
        }
        if let Some(walk) = self.walk.take() {
            self.leaving.extend(walk.leave(&self.presenters));
        }
    }

    /// Lets the arrangement forget what nobody will look at any more.
    fn let_go(&mut self, frontier: Option<Time>, tally: &Tally) {
        let waiting = self.waiting.front().and_then(|(hold, _)| hold.first());
        let waiting = waiting.map(|capability| capability.time().epoch);
        let least = waiting.or(frontier.map(|time| time.epoch));
        let Some(trace) = &mut self.trace else { return };
        let held = size(trace);
        tally.meter().holds(held.rows);
        tally.meter().holds_bytes(held.bytes);
        match least {
            Some(epoch) if self.forgotten.is_none_or(|before| before < epoch) => {
                forget(trace, epoch);
                self.forgotten = Some(epoch);
            }
            Some(_) => {}
            None => self.trace = None,
        }
    }
}

/// A walk over the keys that one piece of the arrangement touches.
struct Walk {
    capabilities: Vec<Capability<Time>>,
    piece: Piece,
    touched: BatchCursor<Trace>,
    /// Everything that is there, of which the piece is a part.
    cursor: TraceCursor,
    storage: Vec<Piece>,
    lookup: Lookup,
    /// What changes, by time, whether it comes, and port.
    found: BTreeMap<(Time, bool, usize), KeyedRows>,
    before: Said,
    after: Said,
}

impl Walk {
    fn new(capabilities: Vec<Capability<Time>>, piece: Piece, all: Vec<Piece>) -> Self {
        let (touched, lookup) = (piece.cursor(), Lookup::new(&all));
        let (cursor, storage) = cursor_list(all);
        Self {
            capabilities,
            piece,
            touched,
            cursor,
            storage,
            lookup,
            found: BTreeMap::new(),
            before: Said::default(),
            after: Said::default(),
        }
    }

    /// Walks on; returns whether keys are left.
    fn advance<L: Logic>(&mut self, logic: &mut L, used: &[bool]) -> bool {
        let mut seen = 0;
        let piece = std::rc::Rc::clone(&self.piece);
        while seen < VALUES_PER_TURN {
            let Some(key) = self.touched.get_key(&piece) else { return false };
            let touched = Touched::of(&mut self.touched, &piece);
            seen += touched.seen;
            if !touched.times.is_empty() {
                self.cursor.seek_key(&self.storage, key);
                if !touched.taken_back.is_empty() {
                    for time in &touched.times {
                        self.lookup.check(&self.storage, key, &touched.taken_back, time.epoch);
                    }
                }
                seen += self.compare(key, &touched.times, logic, used);
            }
            self.touched.step_key(&piece);
        }
        self.touched.key_valid(&piece)
    }

    /// Finds out what is changed at these times, one of each epoch, of what is said of one key; returns
    /// how many values were looked at.
    fn compare<L: Logic>(
        &mut self,
        key: &[u8],
        times: &[Time],
        logic: &mut L,
        used: &[bool],
    ) -> usize {
        debug_assert_eq!(self.cursor.get_key(&self.storage), Some(key), "a piece is a part");
        let mut seen = 0;
        let (cursor, storage) = (&mut self.cursor, &self.storage);
        let mut say = |asof: AsOf, said: &mut Said| {
            said.clear();
            let mut values = Values::new(cursor, storage, asof);
            logic.rows(key, &mut values, said);
            said.settle();
            values.seen()
        };
        for (at, time) in times.iter().enumerate() {
            // What one epoch leaves is what the next one finds, if nothing came between: other epochs
            // that touched this key would be in this piece too.
            if at == 0 {
                seen += say(AsOf::before(time.epoch), &mut self.before);
            }
            seen += say(AsOf::after(time.epoch), &mut self.after);
            self.after.since(&self.before, |port, row, times| {
                // A trouble that is gone is not told of: what was told stays in the file it was told in.
                let tells = if port == TROUBLE { times > 0 } else { used[port] };
                if tells {
                    let found = self.found.entry((*time, times > 0, port)).or_default();
                    found.add(key, row, times.unsigned_abs());
                }
            });
            std::mem::swap(&mut self.before, &mut self.after);
        }
        seen
    }

    /// Ends the walk: what was found leaves, what is taken back first.
    fn leave(self, presenters: &[Presenter]) -> Vec<Leaving> {
        let Self { capabilities, found, .. } = self;
        let of_rejects = presenters.len();
        let leaving = |((time, comes, port), rows): ((Time, bool, usize), KeyedRows)| Leaving {
            capability: capabilities[port.min(of_rejects)].delayed(&time),
            _until_counted: capabilities[of_rejects].delayed(&time),
            port,
            diff: if comes { 1 } else { -1 },
            order: rows.order(presenters.get(port)),
            rows,
            next: 0,
        };
        found.into_iter().map(leaving).collect()
    }
}

/// What a piece says of the key under its cursor.
struct Touched<'p> {
    /// When the key changed, in order, once in an epoch; without what was restored.
    times: Vec<Time>,
    /// The values that were taken back in one of them, in order.
    taken_back: Vec<&'p [u8]>,
    /// How many values were looked at.
    seen: usize,
}

impl<'p> Touched<'p> {
    fn of(touched: &mut BatchCursor<Trace>, piece: &'p Piece) -> Self {
        let mut times: Vec<Time> = Vec::with_capacity(1);
        let (mut taken_back, mut seen) = (Vec::new(), 0);
        while let Some(value) = touched.get_val(piece) {
            let mut is_taken_back = false;
            touched.map_times(piece, |time, diff| {
                if time.epoch > 0 && times.last() != Some(time) {
                    times.push(*time);
                }
                is_taken_back |= *diff < 0;
            });
            if is_taken_back {
                taken_back.push(value);
            }
            touched.step_val(piece);
            seen += 1;
        }
        times.sort_unstable();
        times.dedup();
        Self { times, taken_back, seen }
    }
}

/// Rows with their keys, in one piece of memory.
#[derive(Default)]
struct KeyedRows {
    bytes: Vec<u8>,
    rows: Vec<KeyedRow>,
}

struct KeyedRow {
    from: usize,
    key: u32,
    row: u32,
    times: u64,
}

impl KeyedRows {
    fn add(&mut self, key: &[u8], row: &[u8], times: u64) {
        let from = self.bytes.len();
        self.bytes.extend_from_slice(key);
        self.bytes.extend_from_slice(row);
        let length = |bytes: &[u8]| u32::try_from(bytes.len()).expect("a row is below 4 GiB");
        self.rows.push(KeyedRow { from, key: length(key), row: length(row), times });
    }

    fn get(&self, at: usize) -> (&[u8], &[u8]) {
        let row = &self.rows[at];
        let bytes = &self.bytes[row.from..row.from + row.key as usize + row.row as usize];
        bytes.split_at(row.key as usize)
    }

    /// Returns the order in which the rows leave, a row as often as it is there, each with the chunk
    /// of its record where that is asked for.
    fn order(&self, presenter: Option<&Presenter>) -> Vec<(usize, (u64, u64))> {
        let mut order = Vec::with_capacity(self.rows.len());
        let mut places = Vec::new();
        let presenter = presenter.filter(|presenter| presenter.has_places());
        for (at, row) in self.rows.iter().enumerate() {
            for _ in 0..row.times {
                match presenter {
                    Some(presenter) => places.push((presenter.place(self.get(at).1), at)),
                    None => order.push((at, (0, 0))),
                }
            }
        }
        places.sort();
        order.extend(places.into_iter().map(|(place, at)| (at, (place.submission, place.chunk))));
        order
    }
}

/// Rows, or troubles, on their way out.
struct Leaving {
    capability: Capability<Time>,
    /// Held so that nobody believes that all of the epoch was counted.
    _until_counted: Capability<Time>,
    port: usize,
    diff: i64,
    rows: KeyedRows,
    /// The rows in their order, each with the chunk of its record where that is asked for.
    order: Vec<(usize, (u64, u64))>,
    next: usize,
}

impl Leaving {
    /// Returns what leaves next and how many rows that is; those of one batch come from one chunk,
    /// where that is asked for. Without a presenter they are troubles.
    fn next(&mut self, presenter: Option<&Presenter>) -> Option<(usize, Leaves)> {
        let rest = self.order.get(self.next..).unwrap_or_default();
        let chunk = rest.first()?.1;
        let same = rest.iter().take(ROWS_PER_BATCH).take_while(|row| row.1 == chunk).count();
        let rows = rest[..same].iter().map(|(at, _)| self.rows.get(*at));
        let leaves = match presenter {
            Some(presenter) => {
                let epoch = self.capability.time().epoch;
                Leaves::Rows(Box::new(presenter.batch(rows, epoch, self.diff)))
            }
            None => Leaves::Troubles(
                rows.map(|(key, row)| (Key::new(key), Said::trouble(row))).collect(),
            ),
        };
        self.next += same;
        Some((same, leaves))
    }
}
