//! Join: rows of two sides that belong together, corrected when either side changes.
//!
//! | input  | the rows of both sides by key, in arrangements; left rows whose key holds NULL        |
//! | output | per epoch: the rows taken back (diff -1), then the rows that are now there (+1)        |
//! | state  | the rows of both sides, without what nobody reads; none of what comes out             |
//! | errors | a key of which one epoch brings about more than [`JoinSpec::rows_max`] pairs: nothing   |
//! |        | follows any more, and whoever built the join is told                                  |
//! | cost   | a changed left row costs its partners, a changed right row all left rows of its key    |
//! | leaves | a row leaves memory when it is taken back                                             |
//!
//! An epoch is looked at once both arrangements have all of it, and then as a whole: what a pair of
//! rows counted before the epoch is compared with what it counts after, so it does not matter which
//! side came first, nor whether one epoch changes both. NULL equals nothing: a left row with NULL in
//! its key never enters the state; it passes by.
//!
//! A row that comes out stands where its left record stood. The walk through the changes
//! (`walk`) is fuelled; a product leaves batch by batch, and no key gives more than a bound.

mod walk;

use std::collections::BTreeMap;

use differential_dataflow::operators::arrange::Arranged;
use differential_dataflow::trace::{Cursor, Navigable};
use serde::{Deserialize, Serialize};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::{Exchange, Pipeline};
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::core::OkErr;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::{Stream, StreamVec};
use timely::progress::frontier::MutableAntichain;
use timely::progress::operate::FrontierInterest;

use crate::batch::{Batch, Origin, Shape};
use crate::key::Key;
use crate::keyed::{self, Piece, Port, Presenter, RowLayout, Size, Trace, Update};
use crate::meter::Meter;
use crate::reject::EpochRejects;
use crate::tally::Tally;
use crate::time::Time;
use crate::types::{Column, Type};
use walk::{Came, Changes, Said, Walk};

/// How many rows are looked at or given before other operators get their turn.
const ROWS_PER_TURN: usize = 8 * 1024;

/// Which rows come out of a join.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Each left row with each right row of its key.
    Inner,
    /// The same, and each left row without a partner, with NULLs.
    Left,
    /// Each left row that has a partner, once.
    Semi,
    /// Each left row that has none.
    Anti,
}

impl Kind {
    /// The words of a pipeline file.
    pub const WORDS: [(&'static str, Kind); 4] =
        [("inner", Kind::Inner), ("left", Kind::Left), ("semi", Kind::Semi), ("anti", Kind::Anti)];

    /// Returns its word.
    pub const fn word(self) -> &'static str {
        match self {
            Kind::Inner => "inner",
            Kind::Left => "left",
            Kind::Semi => "semi",
            Kind::Anti => "anti",
        }
    }

    /// Returns whether columns of the right side come out.
    pub const fn takes_right(self) -> bool {
        matches!(self, Kind::Inner | Kind::Left)
    }

    /// Returns whether left rows come out that have no partner.
    pub const fn gives_alone(self) -> bool {
        matches!(self, Kind::Left | Kind::Anti)
    }

    /// Returns whether it matters that there is a right row at all.
    const fn asks_presence(self) -> bool {
        !matches!(self, Kind::Inner)
    }
}

/// What a join puts together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinSpec {
    /// Which rows come out.
    pub kind: Kind,
    /// The key columns, by their names on the left.
    pub keys: Vec<Column>,
    /// What is kept of a left row besides its key.
    pub left: RowLayout,
    /// The columns that are taken from the right, by the names under which they come out.
    pub right: Vec<Column>,
    /// What comes out: columns are found by name among all of these.
    pub shape: Shape,
    /// How many pairs of one key may come, or go, because of one file.
    pub rows_max: u64,
}

/// A key of which a file would bring about more pairs than a join may give.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TooManyRows {
    /// The epoch of the file.
    pub epoch: u64,
    /// The key.
    pub key: Key,
    /// How many rows the left side has of it, with those of the file.
    pub left: u64,
    /// The same of the right side.
    pub right: u64,
}

/// The two sides of a join.
pub struct Sides<'s> {
    /// The left rows.
    pub left: Arranged<'s, Trace>,
    /// The right rows.
    pub right: Arranged<'s, Trace>,
    /// Left rows that can have no partner, for kinds that give them.
    pub alone: Option<StreamVec<'s, Time, Update>>,
    /// Whether the left and the right rows count as state of this join; else they do at another one that
    /// reads the same arrangement.
    pub counts: [bool; 2],
}

/// Parts the rows whose key holds NULL from the others, which come first.
pub fn part_nulls<'s>(
    updates: StreamVec<'s, Time, Update>,
    keys: &[Column],
) -> (StreamVec<'s, Time, Update>, StreamVec<'s, Time, Update>) {
    let kinds: Vec<Type> = keys.iter().map(|column| column.kind).collect();
    updates.ok_err::<Vec<Update>, _, Vec<Update>, _, _>(move |update| {
        if has_null(update.0.0.bytes(), &kinds) { Err(update) } else { Ok(update) }
    })
}

/// Returns whether one of the cells of a key is NULL.
fn has_null(mut key: &[u8], kinds: &[Type]) -> bool {
    kinds.iter().any(|kind| {
        let Some((mark, cell)) = key.split_first() else { return true };
        let length = match kind {
            _ if *mark == 0 => 0,
            Type::String => memchr::memchr(0, cell).map_or(cell.len(), |end| end + 1),
            Type::Bool => 1,
            Type::Int | Type::Float | Type::Timestamp => 8,
        };
        key = cell.get(length..).unwrap_or_default();
        *mark == 0
    })
}

/// Joins two sides; at `Time::end(epoch)` come the rows that the epoch takes back, then those that
/// are there instead, per worker by key. Epoch 0 is restored state, of which nothing is said.
///
/// Nothing comes on the second stream: its frontier says when an epoch is counted.
///
/// `too_many` is called once, and then nothing comes any more on this worker: the epoch never ends. Its
/// rows are in the state already, so only a dataflow that is built anew can go on without them.
pub fn join<'s>(
    name: &str,
    sides: Sides<'s>,
    spec: JoinSpec,
    tally: Tally,
    mut too_many: impl FnMut(TooManyRows) + 'static,
) -> (Stream<'s, Time, Batch>, StreamVec<'s, Time, EpochRejects>) {
    let Sides { left, right, alone, counts } = sides;
    let mut builder = OperatorBuilder::new(format!("Join {name}"), left.stream.scope());
    let again = left.stream.scope().activator_for(builder.operator_info().address);
    let mut left_input = builder.new_input(left.stream, Pipeline);
    let mut right_input = builder.new_input(right.stream, Pipeline);
    // By the whole row, so that one that is taken back and put there again meets itself.
    let anywhere =
        || Exchange::new(|((key, row), ..): &Update| key.hash() ^ row.hash().rotate_left(1));
    let mut alone_input = alone.map(|alone| builder.new_input(alone, anywhere()));
    // Without rows too: what nobody needs any more is forgotten as the frontier moves.
    builder.set_notify_for(0, FrontierInterest::Always);
    builder.set_notify_for(1, FrontierInterest::Always);
    let (rows, rows_stream) = builder.new_output::<Batch>();
    let (_nothing, rejects_stream) = builder.new_output::<Vec<EpochRejects>>();
    let mut rows = OutputBuilder::<_, CapacityContainerBuilder<_>>::from(rows);

    builder.build(move |initial| {
        drop(initial);
        let mut joining = Joining::new(spec, left.trace, right.trace);
        move |frontiers| {
            left_input.for_each_stamp(|stamp, spans| {
                let held = Held { rows: stamp.retain_least(0), rejects: stamp.retain_least(1) };
                for piece in spans.flat_map(|spans| spans.drain(..)).filter_map(|span| span.inner) {
                    joining.note(&held, &piece, Side::Left);
                }
            });
            right_input.for_each_stamp(|stamp, spans| {
                let held = Held { rows: stamp.retain_least(0), rejects: stamp.retain_least(1) };
                for piece in spans.flat_map(|spans| spans.drain(..)).filter_map(|span| span.inner) {
                    joining.note(&held, &piece, Side::Right);
                }
            });
            if let Some(input) = &mut alone_input {
                input.for_each_stamp(|stamp, updates| {
                    let held = Held { rows: stamp.retain_least(0), rejects: stamp.retain_least(1) };
                    for ((key, row), time, diff) in updates.flat_map(|updates| updates.drain(..)) {
                        if let Some(open) = joining.open(&held, time.epoch) {
                            open.changes.alone.push((key, row, diff));
                        }
                    }
                });
            }
            let more = joining.work(frontiers, &mut |capability, mut batch: Batch| {
                if batch.diff > 0 {
                    tally.gave(capability.time().epoch, 0, batch.len(), 0);
                }
                rows.activate().session(capability).give_container(&mut batch);
            });
            let more = more.unwrap_or_else(|one| {
                too_many(one);
                false
            });
            joining.show_size(counts, tally.meter());
            if more {
                again.activate();
            }
        }
    });
    (rows_stream, rejects_stream)
}

#[derive(Clone, Copy)]
enum Side {
    Left,
    Right,
}

/// The right to speak at a time by both outputs.
struct Held {
    rows: Option<Capability<Time>>,
    rejects: Option<Capability<Time>>,
}

/// An epoch that was not looked at yet.
struct Open {
    rows: Capability<Time>,
    /// Held for as long as rows may come: what was given is counted by then.
    _rejects: Capability<Time>,
    changes: Changes,
}

/// What the operator is at.
#[derive(Default)]
enum Walking {
    #[default]
    Nothing,
    Epoch(Open, Box<Walk>),
    /// The epoch that it gave up. Held: it must not seem to be through.
    Stopped(#[expect(dead_code, reason = "held, so that its time does not pass")] Open),
}

struct Joining {
    kind: Kind,
    rows_max: u64,
    presenter: Presenter,
    /// Dropped once nothing can come any more.
    traces: Option<(Trace, Trace)>,
    /// The epoch before which everything is forgotten.
    forgotten: u64,
    open: BTreeMap<u64, Open>,
    walking: Walking,
    pending: Pending,
}

impl Joining {
    fn new(spec: JoinSpec, mut left: Trace, mut right: Trace) -> Self {
        keyed::forget(&mut left, 0);
        keyed::forget(&mut right, 0);
        let tail = if spec.kind.takes_right() { spec.right } else { Vec::new() };
        let right_nulls = tail.len();
        let layout = RowLayout { tail, ..spec.left };
        let port = Port { layout, shape: spec.shape, used: true };
        Self {
            kind: spec.kind,
            rows_max: spec.rows_max,
            presenter: Presenter::new(&spec.keys, port),
            traces: Some((left, right)),
            forgotten: 0,
            open: BTreeMap::new(),
            walking: Walking::Nothing,
            pending: Pending { right_nulls, ..Pending::default() },
        }
    }

    /// Returns what is known of an epoch; nothing is to be known of what was restored.
    fn open(&mut self, held: &Held, epoch: u64) -> Option<&mut Open> {
        let (rows, rejects) = held.rows.as_ref().zip(held.rejects.as_ref())?;
        let end = Time::end(epoch);
        (epoch > 0).then(|| {
            self.open.entry(epoch).or_insert_with(|| Open {
                rows: rows.delayed(&end),
                _rejects: rejects.delayed(&end),
                changes: Changes::default(),
            })
        })
    }

    /// Notes which epochs a piece changes.
    fn note(&mut self, held: &Held, piece: &Piece, side: Side) {
        let mut cursor = piece.cursor();
        let mut epochs: BTreeMap<u64, walk::Signs> = BTreeMap::new();
        while cursor.key_valid(piece) {
            while cursor.val_valid(piece) {
                cursor.map_times(piece, |time, diff| {
                    epochs.entry(time.epoch).or_default().note(*diff);
                });
                cursor.step_val(piece);
            }
            cursor.step_key(piece);
        }
        for (epoch, signs) in epochs {
            let Some(Open { changes, .. }) = self.open(held, epoch) else { continue };
            let (pieces, known) = match side {
                Side::Left => (&mut changes.left, &mut changes.left_signs),
                Side::Right => (&mut changes.right, &mut changes.right_signs),
            };
            pieces.push(Piece::clone(piece));
            known.add(signs);
        }
    }

    /// Goes on with an epoch of which everything is known; returns whether there is more to do now. After
    /// an error it does nothing any more, and holds the epoch open.
    fn work(
        &mut self,
        frontiers: &[MutableAntichain<Time>],
        give: &mut impl FnMut(&Capability<Time>, Batch),
    ) -> Result<bool, TooManyRows> {
        let next = frontiers.iter().filter_map(|one| one.frontier().first().copied()).min();
        if matches!(self.walking, Walking::Nothing) {
            self.begin(next);
        }
        match &mut self.walking {
            Walking::Nothing => {}
            Walking::Stopped(_) => return Ok(false),
            Walking::Epoch(open, walk) => {
                let (presenter, pending) = (&self.presenter, &mut self.pending);
                let came = walk.advance(ROWS_PER_TURN, &mut |said| pending.add(presenter, &said));
                let epoch = open.rows.time().epoch;
                pending.flush(presenter, epoch, |batch| give(&open.rows, batch));
                if came == Came::Partly {
                    return Ok(true);
                }
                let ended = std::mem::take(&mut self.walking);
                if let (Walking::Epoch(open, walk), Came::TooFar) = (ended, came) {
                    self.walking = Walking::Stopped(open);
                    let (key, [left, right]) = walk.into_key();
                    return Err(TooManyRows { epoch, key, left, right });
                }
            }
        }
        self.let_go(next);
        Ok(self.open.keys().next().is_some_and(|epoch| is_past(next, *epoch)))
    }

    /// Begins with the next epoch, if everything of it is known.
    fn begin(&mut self, next: Option<Time>) {
        let Some(entry) = self.open.first_entry().filter(|one| is_past(next, *one.key())) else {
            return;
        };
        let Some((left, right)) = &mut self.traces else { return };
        let (epoch, mut open) = entry.remove_entry();
        let changes = std::mem::take(&mut open.changes);
        let (left, right) = (keyed::pieces(left), keyed::pieces(right));
        let of = (self.kind, self.rows_max);
        let walk = Walk::new(of, Time::end(epoch), changes, left, right);
        self.walking = Walking::Epoch(open, Box::new(walk));
    }

    /// Lets the arrangements forget what no epoch needs any more.
    fn let_go(&mut self, next: Option<Time>) {
        let open = self.open.keys().next().copied();
        let upto = next.map(|time| time.epoch).into_iter().chain(open).min();
        match (upto, &mut self.traces) {
            (Some(epoch), Some((left, right))) if self.forgotten < epoch => {
                keyed::forget(left, epoch);
                keyed::forget(right, epoch);
                self.forgotten = epoch;
            }
            (Some(_), _) => {}
            (None, traces) => *traces = None,
        }
    }

    fn show_size(&mut self, counts: [bool; 2], meter: &Meter) {
        if let Some((left, right)) = &self.traces {
            let counted = [left, right].into_iter().zip(counts).filter(|(_, counts)| *counts);
            let sizes: Vec<Size> = counted.map(|(trace, _)| keyed::size(trace)).collect();
            meter.holds(sizes.iter().map(|size| size.rows).sum());
            meter.holds_bytes(sizes.iter().map(|size| size.bytes).sum());
        }
    }
}

/// Returns whether nothing of an epoch can come any more.
fn is_past(next: Option<Time>, epoch: u64) -> bool {
    next.is_none_or(|next| next > Time::end(epoch))
}

/// Where the key of a row begins, where its row does, and where that ends.
type Span = (usize, usize, usize);

/// Rows on their way into batches: of one sign, by where their record was read.
#[derive(Default)]
struct Pending {
    /// How many cells stand for a right row that is not there.
    right_nulls: usize,
    bytes: Vec<u8>,
    /// By diff and chunk.
    rows: BTreeMap<(i64, u64, u64), Vec<Span>>,
}

impl Pending {
    fn add(&mut self, presenter: &Presenter, said: &Said<'_>) {
        let origin = if presenter.has_places() {
            presenter.place(said.left).origin()
        } else {
            Origin::default()
        };
        let from = self.bytes.len();
        self.bytes.extend_from_slice(said.key);
        let row = self.bytes.len();
        self.bytes.extend_from_slice(said.left);
        match said.right {
            Some(right) => self.bytes.extend_from_slice(right),
            None => self.bytes.extend(std::iter::repeat_n(0, self.right_nulls)),
        }
        let rows = self.rows.entry((said.diff, origin.submission, origin.chunk)).or_default();
        rows.extend(std::iter::repeat_n((from, row, self.bytes.len()), said.times));
    }

    fn flush(&mut self, presenter: &Presenter, epoch: u64, mut give: impl FnMut(Batch)) {
        for ((diff, _, _), rows) in std::mem::take(&mut self.rows) {
            let bytes = |(from, row, to): &(usize, usize, usize)| {
                (&self.bytes[*from..*row], &self.bytes[*row..*to])
            };
            give(presenter.batch(rows.iter().map(bytes), epoch, diff));
        }
        self.bytes.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_null_is_found_in_any_cell_of_a_key() {
        let kinds = [Type::String, Type::Int, Type::Bool];
        let check = |key: &[u8], expected: bool| assert_eq!(has_null(key, &kinds), expected);
        check(b"\x01a\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00", false);
        check(b"\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x01\x01", true);
        check(b"\x01a\x01\x01\x00\x00\x01\x01", true);
        check(b"\x01\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00", true);
    }

    #[test]
    fn every_kind_has_a_word() {
        assert!(Kind::WORDS.iter().all(|(word, kind)| kind.word() == *word));
    }
}
