//! Hold: the values that a minimum, a first row or a count of distinct values can fall back on when
//! rows are taken back. What it says of a key is added to the key's accumulator.
//!
//! | input  | `((key, value), time, diff)` at ends of rounds; those at epoch 0 were restored       |
//! | output | per key and epoch one accumulator of no row: what was picked leaves, what is picked   |
//! |        | now comes; distinct values that came or went; registers that changed their level     |
//! | state  | for each key: one candidate a file (or each argument, behind an operator that        |
//! |        | corrects row by row); each distinct value; at most 53 levels of 4,096 registers      |
//! | errors | none. A value that is taken back more often than it came ends the process            |
//! | leaves | a value leaves with the last file (or row) that has it                               |
//! | cost   | a few steps for each value that an epoch touches, however many there are             |

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

use differential_dataflow::operators::arrange::Arranged;
use differential_dataflow::trace::{BatchCursor, Cursor, Navigable};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::progress::operate::FrontierInterest;

use super::accumulator::{Accumulator, State, add_counted};
use super::candidate::{LANE_BYTES, is_held, picked};
use super::gather::Partial;
use super::registers::{LEVEL_BYTES, REGISTER_BYTES, level};
use super::row::RowError;
use super::{AggregateSpec, Computed, Hold};
use crate::key::Key;
use crate::keyed::{
    KeptRow, Piece, Trace, decode_kept_as, forget, pieces, size, taken_back_too_often,
};
use crate::meter::Meter;
use crate::time::Time;

/// How many values are looked at before other operators get their turn.
const VALUES_PER_TURN: usize = 16 * 1024;

/// Says what the held values of each key add to its accumulator, epoch by epoch. `arranged` lets go
/// of what nobody will ask for any more. `meter` is told what the values take.
pub fn hold<'s>(
    name: &str,
    arranged: Arranged<'s, Trace>,
    spec: &AggregateSpec,
    meter: Meter,
) -> StreamVec<'s, Time, Partial> {
    let Arranged { stream, trace } = arranged;
    let scope = stream.scope();
    let mut builder = OperatorBuilder::new(format!("Hold {name}"), scope);
    let mut input = builder.new_input(stream, Pipeline);
    builder.set_notify_for(0, FrontierInterest::Always);
    let (output, partials) = builder.new_output::<Vec<Partial>>();
    let mut output = OutputBuilder::<_, CapacityContainerBuilder<_>>::from(output);
    let again = scope.activator_for(builder.operator_info().address);
    let lanes = Lanes::new(spec);

    builder.build(move |initial| {
        drop(initial);
        let mut holding = Holding::new(trace, lanes);
        move |frontiers| {
            input.for_each(|capability, spans| {
                let Some(capability) = capability.retain_least(0) else { return };
                for piece in spans.drain(..).filter_map(|span| span.inner) {
                    holding.waiting.push_back((capability.clone(), piece));
                }
            });
            let mut output = output.activate();
            let more = holding.work(|capability, partial| {
                let capability = capability.delayed(&partial.1);
                output.session(&capability).give(partial);
            });
            holding.let_go(frontiers[0].frontier().first().copied());
            meter.holds_beside(holding.trace.as_ref().map_or(0, |trace| size(trace).bytes));
            if more {
                again.activate();
            }
        }
    });
    partials
}

struct Holding {
    /// Dropped once nothing can come any more.
    trace: Option<Trace>,
    lanes: Lanes,
    /// Pieces that were not looked at yet.
    waiting: VecDeque<(Capability<Time>, Piece)>,
    walk: Option<Walk>,
}

/// A walk over the keys that one piece of the arrangement touches.
struct Walk {
    capability: Capability<Time>,
    piece: Piece,
    touched: BatchCursor<Trace>,
    /// Everything that is there, of which the piece is a part.
    all: Layers,
}

impl Holding {
    fn new(mut trace: Trace, lanes: Lanes) -> Self {
        forget(&mut trace, 0);
        Self { trace: Some(trace), lanes, waiting: VecDeque::new(), walk: None }
    }

    /// Goes on; returns whether there is more to do.
    fn work(&mut self, mut give: impl FnMut(&Capability<Time>, Partial)) -> bool {
        let mut left = VALUES_PER_TURN;
        while left > 0 {
            if self.walk.is_none() {
                let Some((capability, piece)) = self.waiting.pop_front() else { return false };
                let Some(trace) = &mut self.trace else { return false };
                let touched = piece.cursor();
                let all = Layers::new(pieces(trace));
                self.walk = Some(Walk { capability, piece, touched, all });
            }
            let Some(walk) = &mut self.walk else { return false };
            match walk.next_key(&self.lanes, &mut left, &mut give) {
                Some(()) => {}
                None => self.walk = None,
            }
        }
        self.walk.is_some() || !self.waiting.is_empty()
    }

    /// Lets the arrangement forget what nobody will look at any more.
    fn let_go(&mut self, frontier: Option<Time>) {
        let walked = self.walk.as_ref().map(|walk| &walk.capability);
        let waiting = self.waiting.iter().map(|(capability, _)| capability);
        let held = walked.into_iter().chain(waiting).map(|held| held.time().epoch);
        let Some(trace) = &mut self.trace else { return };
        match held.chain(frontier.map(|time| time.epoch)).min() {
            Some(epoch) => forget(trace, epoch),
            None => self.trace = None,
        }
    }
}

impl Walk {
    /// Looks at the next key; `None` when there is none.
    fn next_key(
        &mut self,
        lanes: &Lanes,
        left: &mut usize,
        give: &mut impl FnMut(&Capability<Time>, Partial),
    ) -> Option<()> {
        let piece = Rc::clone(&self.piece);
        let key = self.touched.get_key(&piece)?;
        let touched = self.touched_values(&piece);
        *left = left.saturating_sub(touched.values().map(BTreeSet::len).sum::<usize>().max(1));
        if !touched.is_empty() {
            self.all.seek_key(key);
        }
        for (time, values) in touched {
            let mut held = HeldValues { all: &mut self.all, time };
            let accumulator = lanes.change(&values, &mut held);
            if let Some(accumulator) = accumulator {
                give(&self.capability, (Key::new(key), time, accumulator));
            }
        }
        self.touched.step_key(&piece);
        Some(())
    }

    /// Returns the values of the key under the cursor that changed, by time: one for each epoch. What
    /// was restored is as it was.
    fn touched_values(&mut self, piece: &Piece) -> BTreeMap<Time, BTreeSet<Box<[u8]>>> {
        let mut touched: BTreeMap<Time, BTreeSet<Box<[u8]>>> = BTreeMap::new();
        while let Some(value) = self.touched.get_val(piece) {
            self.touched.map_times(piece, |time, _| {
                if time.epoch > 0 {
                    touched.entry(*time).or_default().insert(value.into());
                }
            });
            self.touched.step_val(piece);
        }
        touched
    }
}

/// The values of one key, before and after one epoch.
trait Looked {
    /// Goes back to the first value.
    fn rewind(&mut self);

    /// Goes on to a value, or to the first one behind it.
    fn seek(&mut self, value: &[u8]);

    /// Gives the value that was reached, if it begins like this, with whether it is there before and
    /// after the epoch, and goes on to the next one; returns whether there was such a value and more
    /// are wanted.
    fn next(&mut self, prefix: &[u8], take: &mut dyn FnMut(&[u8], bool, bool) -> bool) -> bool;
}

/// The pieces of the arrangement, each with a cursor.
///
/// Not a [`CursorList`](differential_dataflow::trace::cursor::CursorList): its `seek_val` also moves
/// the cursors that do not stand on the key, and one that is behind its last key cannot be moved.
struct Layers {
    layers: Vec<(BatchCursor<Trace>, Piece)>,
    /// Those whose cursor stands on the key.
    at_key: Vec<usize>,
}

impl Layers {
    fn new(pieces: Vec<Piece>) -> Self {
        let layers = pieces.into_iter().map(|piece| (piece.cursor(), piece)).collect();
        Self { layers, at_key: Vec::new() }
    }

    /// Goes on to a key; keys are looked for in order.
    fn seek_key(&mut self, key: &[u8]) {
        self.at_key.clear();
        for (at, (cursor, piece)) in self.layers.iter_mut().enumerate() {
            cursor.seek_key(piece, key);
            if cursor.get_key(piece) == Some(key) {
                self.at_key.push(at);
            }
        }
    }

    fn each(&mut self, mut act: impl FnMut(&mut BatchCursor<Trace>, &Piece)) {
        for at in &self.at_key {
            let (cursor, piece) = &mut self.layers[*at];
            act(cursor, piece);
        }
    }

    /// Returns the least value that was reached.
    fn least(&self) -> Option<&[u8]> {
        let reached = self.at_key.iter().filter_map(|at| {
            let (cursor, piece) = &self.layers[*at];
            cursor.get_val(piece)
        });
        reached.min()
    }
}

struct HeldValues<'a> {
    all: &'a mut Layers,
    time: Time,
}

impl Looked for HeldValues<'_> {
    fn rewind(&mut self) {
        self.all.each(|cursor, piece| cursor.rewind_vals(piece));
    }

    fn seek(&mut self, value: &[u8]) {
        self.all.each(|cursor, piece| cursor.seek_val(piece, value));
    }

    fn next(&mut self, prefix: &[u8], take: &mut dyn FnMut(&[u8], bool, bool) -> bool) -> bool {
        let Some(value) = self.all.least() else { return false };
        if !value.starts_with(prefix) {
            return false;
        }
        let value = value.to_vec();
        let (mut before, mut after) = (0, 0);
        // What is older may have been moved up to the beginning of the epoch, but never to its end.
        let end = self.time;
        self.all.each(|cursor, piece| {
            if cursor.get_val(piece) != Some(value.as_slice()) {
                return;
            }
            cursor.map_times(piece, |time, diff| {
                if *time < end {
                    before += diff;
                }
                if *time <= end {
                    after += diff;
                }
            });
            cursor.step_val(piece);
        });
        if before < 0 || after < 0 {
            taken_back_too_often(&value, after.min(before), end.epoch);
        }
        take(&value, before > 0, after > 0)
    }
}

/// The computed columns of which something is held.
struct Lanes {
    /// By lane: the column, and what is held of it.
    lanes: Vec<(Computed, Option<Hold>)>,
    nothing: Accumulator,
}

impl Lanes {
    fn new(spec: &AggregateSpec) -> Self {
        let lanes = spec.stated().map(|one| (one.clone(), spec.hold(one))).collect();
        Self { lanes, nothing: Accumulator::nothing(spec) }
    }

    /// Returns what an epoch that touched these values of a key changes; `None` when it is nothing.
    fn change(&self, touched: &BTreeSet<Box<[u8]>>, held: &mut impl Looked) -> Option<Accumulator> {
        let mut accumulator = self.nothing.clone();
        let mut changed = false;
        // Values are in order, so what begins alike stands together and is looked for once.
        let mut last: Vec<u8> = Vec::new();
        held.rewind();
        for value in touched {
            let Some(lane) = value.first_chunk::<LANE_BYTES>() else { continue };
            let lane = usize::from(u16::from_be_bytes(*lane));
            let Some((computed, Some(hold))) = self.lanes.get(lane) else { continue };
            let Some(state) = accumulator.states.get_mut(lane) else { continue };
            let prefix = match hold {
                Hold::Candidates => LANE_BYTES,
                Hold::Levels => LANE_BYTES + REGISTER_BYTES,
                Hold::Distinct => value.len(),
            };
            let prefix = value.get(..prefix).unwrap_or(value);
            if last == prefix {
                continue;
            }
            last = prefix.to_vec();
            let (before, after) = first(held, prefix);
            if before == after {
                continue;
            }
            changed = true;
            for (found, times) in [(before, -1), (after, 1)] {
                let Some(found) = found else { continue };
                add(state, computed, *hold, &found, times);
            }
        }
        changed.then_some(accumulator)
    }
}

/// Adds what was found to a state.
fn add(state: &mut State, computed: &Computed, hold: Hold, found: &[u8], times: i64) {
    match (state, hold) {
        (State::Count(count), Hold::Distinct) => *count += times,
        (State::Picked(cells), Hold::Candidates) => {
            let cell = picked(computed.function, &found[LANE_BYTES..]);
            let cell = cell.expect("what is held was encoded here or checked when it was restored");
            add_counted(cells, &[(cell.into(), times)]);
        }
        (State::Counted(levels), Hold::Levels) => {
            let held: [u8; LEVEL_BYTES] = found[LANE_BYTES..]
                .try_into()
                .expect("what is held was encoded here or checked when it was restored");
            add_counted(levels, &[(u32::from(level(held)), times)]);
        }
        (state, hold) => panic!("{state:?} has no {hold:?}"),
    }
}

/// Returns the first values with a prefix, before and after the epoch.
fn first(held: &mut impl Looked, prefix: &[u8]) -> (Option<Vec<u8>>, Option<Vec<u8>>) {
    let (mut first_before, mut first_after) = (None, None);
    held.seek(prefix);
    while held.next(prefix, &mut |value, before, after| {
        if before && first_before.is_none() {
            first_before = Some(value.to_vec());
        }
        if after && first_after.is_none() {
            first_after = Some(value.to_vec());
        }
        first_before.is_none() || first_after.is_none()
    }) {}
    (first_before, first_after)
}

/// Returns the held values of one kept block: a key, what is held of it, and how often that is there.
///
/// # Errors
/// When they are not those of this aggregate.
pub fn decode_held(bytes: &[u8], spec: &AggregateSpec) -> Result<Vec<KeptRow>, RowError> {
    decode_kept_as(bytes, &spec.keys, |value| {
        if is_held(spec, value) { Ok(()) } else { Err("a value that is not held") }
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use proptest::prelude::*;

    use super::super::{Function, TakenBack};
    use super::*;
    use crate::keep::KeptRows;
    use crate::keyed::KeptPacked;
    use crate::types::{Column, Type};

    fn spec() -> AggregateSpec {
        let computed = |function, kind| Computed::new("x", function, Some(kind)).unwrap();
        AggregateSpec {
            keys: vec![Column::new("a", Type::Int)],
            compute: vec![
                computed(Function::Sum, Type::Int),
                computed(Function::Min, Type::Int),
                computed(Function::CountDistinct, Type::String),
                computed(Function::ApproxDistinct, Type::String),
            ],
            taken_back: TakenBack::ByFile,
        }
    }

    /// Values in memory, each with how often it is there before and after.
    struct Listed(Vec<(Vec<u8>, i64, i64)>, usize);

    impl Looked for Listed {
        fn rewind(&mut self) {
            self.1 = 0;
        }

        fn seek(&mut self, value: &[u8]) {
            self.1 += self.0[self.1..].iter().take_while(|one| one.0.as_slice() < value).count();
        }

        fn next(&mut self, prefix: &[u8], take: &mut dyn FnMut(&[u8], bool, bool) -> bool) -> bool {
            let Some((value, before, after)) = self.0.get(self.1) else { return false };
            if !value.starts_with(prefix) {
                return false;
            }
            self.1 += 1;
            take(value, *before > 0, *after > 0)
        }
    }

    fn int(lane: u8, value: i64) -> Vec<u8> {
        let word = (value.cast_unsigned() ^ 1 << 63).to_be_bytes();
        [&[0, lane, 1], word.as_slice()].concat()
    }

    fn change(values: &[(Vec<u8>, i64, i64)]) -> Option<Accumulator> {
        let mut values = values.to_vec();
        values.sort();
        let touched = values.iter().filter(|(_, before, after)| before != after);
        let touched: BTreeSet<Box<[u8]>> = touched.map(|one| one.0.as_slice().into()).collect();
        Lanes::new(&spec()).change(&touched, &mut Listed(values, 0))
    }

    #[test]
    fn only_what_changes_is_said() {
        let text = |value: u8| vec![0, 2, 1, value, 0];
        assert_eq!(change(&[(int(1, 5), 1, 2), (text(b'a'), 1, 2)]), None);
        let values = [(int(1, 5), 1, 0), (int(1, 7), 1, 1), (text(b'a'), 1, 0), (text(b'b'), 0, 1)];
        let changed = change(&values).unwrap();
        let cell = |value| int(0, value)[2..].into();
        assert_eq!(changed.states[1], State::Picked([(cell(5), -1), (cell(7), 1)].into()));
        assert_eq!(changed.states[2], State::Count(0));
        let changed = change(&[(int(1, 5), 1, 1), (text(b'a'), 1, 0), (text(b'b'), 1, 0)]).unwrap();
        assert_eq!(changed.states[1], State::Picked(Box::default()));
        assert_eq!(changed.states[2], State::Count(-2));
        // Two registers; of the first one the highest level comes and a lower one goes.
        let level = |register: u8, level: u8| vec![0, 3, 0, register, 255 - level];
        let changed = change(&[(level(1, 9), 0, 1), (level(1, 4), 1, 0), (level(2, 3), 0, 1)]);
        let expected = State::Counted([(3, 1), (4, -1), (9, 1)].into());
        assert_eq!(changed.unwrap().states[3], expected);
    }

    proptest! {
        #[test]
        fn hostile_bytes_are_refused_or_held(bytes in proptest::collection::vec(0..14_u8, 0..60)) {
            for ((_, value), count) in decode_held(&bytes, &spec()).unwrap_or_default() {
                prop_assert!(count > 0 && is_held(&spec(), value.bytes()));
            }
        }
    }

    #[test]
    fn values_read_back_as_they_were_and_those_of_another_aggregate_are_refused() {
        let key = int(0, 3)[2..].to_vec();
        let mut bytes = Vec::new();
        for value in [int(1, 5), vec![0, 2, 1, b'a', 0], vec![0, 3, 0, 1, 250]] {
            KeptPacked::encode(&key, &value, &3, &mut bytes);
        }
        let rows = decode_held(&bytes, &spec()).unwrap();
        assert_eq!(rows.iter().map(|row| row.1).collect::<Vec<_>>(), [3, 3, 3]);
        for foreign in [vec![], vec![0], int(0, 5), int(9, 5), vec![0, 1, 1], vec![0, 3, 0, 1, 0]] {
            let mut bytes = Vec::new();
            KeptPacked::encode(&key, &foreign, &1, &mut bytes);
            assert!(decode_held(&bytes, &spec()).is_err(), "{foreign:?}");
        }
    }
}
