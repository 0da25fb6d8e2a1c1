//! Row: one key and its accumulator as bytes, for checkpoints, and the way back.
//!
//! Owns the encoding. It is read by later versions, so it changes only with [`ROW_FORMAT`]. Bytes that
//! no aggregate of the given spec has written are refused, never trusted and never a panic.
//!
//! | row         | length of the key, key, rows (zigzag), number of states, states              |
//! | state       | a tag, then counts (zigzag), sums (zigzag, 16 or 32 bytes), words, or text   |
//! | number      | 7 bits a byte, lowest first, the high bit says that more follow              |

use super::accumulator::{Accumulator, Counted, FloatSum, State};
use super::exact::{BUCKET_MAX, ExactSum};
use super::moments::{Moments, SQUARE_BUCKET_MAX};
use super::states::States;
use super::{AggregateSpec, Computed, Hold, candidate, quantile, registers};
use crate::decimal::WideSum;
use crate::key::{self, Key};

/// The number of this encoding; part of the fingerprint of kept state.
pub const ROW_FORMAT: u32 = 3;

/// The longest key and the longest text that are read back, in bytes.
const BYTES_MAX: u64 = 64 << 20;

const COUNT: u8 = 0;
const INT: u8 = 1;
const WIDE: u8 = 2;
const FLOAT: u8 = 3;
const MIN_WORD: u8 = 4;
const MAX_WORD: u8 = 6;
const MIN_TEXT: u8 = 8;
const MAX_TEXT: u8 = 10;
const BEST: u8 = 12;
const PICKED: u8 = 14;
const COUNTED: u8 = 15;
const MOMENTS: u8 = 16;
const DECIMAL: u8 = 17;

/// Bytes that are no rows of this aggregate: state of another pipeline, or damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("kept rows cannot be read: {reason} at byte {at} of {length}")]
pub struct RowError {
    /// How many bytes there are.
    pub length: usize,
    /// Where it went wrong.
    pub at: usize,
    /// What is wrong there.
    pub reason: &'static str,
}

/// Appends one row.
pub fn encode_row(key: &[u8], accumulator: &Accumulator, out: &mut Vec<u8>) {
    put_bytes(key, out);
    put_signed(accumulator.rows, out);
    put_number(accumulator.states.len() as u64, out);
    for state in accumulator.states.iter() {
        put_state(state, out);
    }
}

fn put_state(state: &State, out: &mut Vec<u8>) {
    match state {
        State::Count(count) => {
            out.push(COUNT);
            put_signed(*count, out);
        }
        State::Int { count, sum } => {
            out.push(INT);
            put_signed(*count, out);
            put_signed(*sum, out);
        }
        State::Wide(wide) => {
            out.push(WIDE);
            put_signed(wide.0, out);
            out.extend_from_slice(&wide.1.to_le_bytes());
        }
        State::Float(float) => {
            out.push(FLOAT);
            put_signed(float.count, out);
            put_exact(&float.sum, out);
        }
        State::Decimal(decimal) => {
            out.push(DECIMAL);
            put_signed(decimal.0, out);
            out.extend_from_slice(&decimal.1.to_le_bytes());
        }
        State::Best(best) => {
            out.push(BEST + u8::from(best.is_some()));
            if let Some(best) = best {
                put_bytes(best, out);
            }
        }
        State::Picked(picked) => {
            out.push(PICKED);
            put_number(picked.len() as u64, out);
            for (cell, count) in picked {
                put_bytes(cell, out);
                put_signed(*count, out);
            }
        }
        State::Counted(counted) => {
            out.push(COUNTED);
            put_number(counted.len() as u64, out);
            for (bucket, count) in counted {
                put_number(u64::from(*bucket), out);
                put_signed(*count, out);
            }
        }
        State::Moments(moments) => {
            out.push(MOMENTS);
            put_signed(moments.count, out);
            put_exact(&moments.sum, out);
            put_exact(&moments.squares, out);
        }
        State::MinWord(word) => put_word(MIN_WORD, *word, out),
        State::MaxWord(word) => put_word(MAX_WORD, *word, out),
        State::MinText(text) => put_text(MIN_TEXT, text.as_deref(), out),
        State::MaxText(text) => put_text(MAX_TEXT, text.as_deref(), out),
    }
}

fn put_exact(sum: &ExactSum, out: &mut Vec<u8>) {
    let (buckets, specials) = sum.parts();
    put_number(buckets.len() as u64, out);
    for (bucket, sum) in buckets {
        out.push(*bucket);
        out.extend_from_slice(&sum.to_le_bytes());
    }
    specials.iter().for_each(|count| put_signed(*count, out));
}

fn put_word(tag: u8, word: Option<u64>, out: &mut Vec<u8>) {
    out.push(tag + u8::from(word.is_some()));
    if let Some(word) = word {
        out.extend_from_slice(&word.to_le_bytes());
    }
}

fn put_text(tag: u8, text: Option<&str>, out: &mut Vec<u8>) {
    out.push(tag + u8::from(text.is_some()));
    if let Some(text) = text {
        put_bytes(text.as_bytes(), out);
    }
}

fn put_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    put_number(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

fn put_signed(value: i64, out: &mut Vec<u8>) {
    put_number(((value << 1) ^ (value >> 63)).cast_unsigned(), out);
}

/// Appends a number in as few bytes as it needs.
pub fn put_number(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Returns the rows of one block, in the order in which they were encoded.
pub fn decode_rows(
    bytes: &[u8],
    spec: &AggregateSpec,
) -> Result<Vec<(Key, Accumulator)>, RowError> {
    let states: Vec<&Computed> = spec.stated().collect();
    let mut reader = RowReader::new(bytes);
    let mut rows = Vec::new();
    while !reader.is_at_end() {
        let key = reader.bytes()?;
        if key::check(key, &spec.keys).is_err() {
            return Err(reader.error("a key of other columns"));
        }
        let key = Key::new(key);
        let count = reader.signed()?;
        rows.push((key, Accumulator { rows: count, states: reader.states(spec, &states)? }));
    }
    Ok(rows)
}

/// Reads numbers and bytes one after the other; whatever is there, it never panics.
pub struct RowReader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> RowReader<'a> {
    /// Returns a reader at the beginning.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Returns whether everything was read.
    pub const fn is_at_end(&self) -> bool {
        self.at >= self.bytes.len()
    }

    /// Returns what to say about the place where the reader is.
    pub const fn error(&self, reason: &'static str) -> RowError {
        RowError { length: self.bytes.len(), at: self.at, reason }
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], RowError> {
        let end = self.at.checked_add(count).ok_or_else(|| self.error("it ends"))?;
        let taken = self.bytes.get(self.at..end).ok_or_else(|| self.error("it ends"))?;
        self.at = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], RowError> {
        let taken = self.take(N)?;
        taken.first_chunk::<N>().copied().ok_or_else(|| self.error("it ends"))
    }

    fn byte(&mut self) -> Result<u8, RowError> {
        let [byte] = self.array()?;
        Ok(byte)
    }

    /// Reads a number.
    pub fn number(&mut self) -> Result<u64, RowError> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let part = u64::from(byte & 0x7f);
            if shift == 63 && part > 1 {
                return Err(self.error("a number is too large"));
            }
            value |= part << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(self.error("a number is too long"))
    }

    fn signed(&mut self) -> Result<i64, RowError> {
        let value = self.number()?;
        Ok((value >> 1).cast_signed() ^ -(value & 1).cast_signed())
    }

    /// Reads bytes and their length before them.
    pub fn bytes(&mut self) -> Result<&'a [u8], RowError> {
        let length = self.number()?;
        if length > BYTES_MAX {
            return Err(self.error("a text is too long"));
        }
        self.take(length as usize)
    }

    fn states(&mut self, spec: &AggregateSpec, computed: &[&Computed]) -> Result<States, RowError> {
        let count = self.number()?;
        // A key that was touched by retractions alone may have no states yet.
        if count == 0 {
            return Ok(States::default());
        }
        if count != computed.len() as u64 {
            return Err(self.error("another number of aggregates"));
        }
        computed.iter().map(|one| self.state(spec, one)).collect()
    }

    fn state(&mut self, spec: &AggregateSpec, computed: &Computed) -> Result<State, RowError> {
        let tag = self.byte()?;
        let state = match tag {
            COUNT => State::Count(self.signed()?),
            INT => State::Int { count: self.signed()?, sum: self.signed()? },
            WIDE => {
                let count = self.signed()?;
                State::int(count, i128::from_le_bytes(self.array()?))
            }
            FLOAT => State::Float(Box::new(self.float()?)),
            DECIMAL => {
                let count = self.signed()?;
                State::Decimal(Box::new((count, WideSum::from_le_bytes(self.array()?))))
            }
            tag if tag & !1 == MIN_WORD => State::MinWord(self.word(tag)?),
            tag if tag & !1 == MAX_WORD => State::MaxWord(self.word(tag)?),
            tag if tag & !1 == MIN_TEXT => State::MinText(self.text(tag)?),
            tag if tag & !1 == MAX_TEXT => State::MaxText(self.text(tag)?),
            tag if tag & !1 == BEST => State::Best(match tag & 1 {
                0 => None,
                _ => Some(self.bytes()?.into()),
            }),
            PICKED => {
                let mut picked = Vec::new();
                for _ in 0..self.number()? {
                    picked.push((Box::from(self.bytes()?), self.signed()?));
                }
                State::Picked(self.counted(picked)?)
            }
            COUNTED => {
                let mut counted = Vec::new();
                for _ in 0..self.number()? {
                    let bucket = u32::try_from(self.number()?);
                    let bucket = bucket.map_err(|_| self.error("no such bucket"))?;
                    counted.push((bucket, self.signed()?));
                }
                State::Counted(self.counted(counted)?)
            }
            MOMENTS => {
                let count = self.signed()?;
                let (sum, squares) = (self.exact(BUCKET_MAX)?, self.exact(SQUARE_BUCKET_MAX)?);
                State::Moments(Box::new(Moments { count, sum, squares }))
            }
            _ => return Err(self.error("no such state")),
        };
        if fits(&state, spec, computed) { Ok(state) } else { Err(self.error("another aggregate")) }
    }

    fn float(&mut self) -> Result<FloatSum, RowError> {
        Ok(FloatSum { count: self.signed()?, sum: self.exact(BUCKET_MAX)? })
    }

    fn exact(&mut self, bucket_max: u8) -> Result<ExactSum, RowError> {
        let length = self.number()?;
        let mut buckets = Vec::new();
        for _ in 0..length {
            buckets.push((self.byte()?, i128::from_le_bytes(self.array()?)));
        }
        let specials = [self.signed()?, self.signed()?, self.signed()?];
        let sum = ExactSum::from_parts(buckets, specials, bucket_max);
        sum.ok_or_else(|| self.error("no exact sum"))
    }

    /// Checks that what is counted is in order, and there.
    fn counted<K: Ord>(&self, counted: Vec<(K, i64)>) -> Result<Counted<K>, RowError> {
        let is_right = counted.is_sorted_by(|one, two| one.0 < two.0)
            && counted.iter().all(|(_, count)| *count > 0);
        if is_right { Ok(counted.into()) } else { Err(self.error("no counts")) }
    }

    fn word(&mut self, tag: u8) -> Result<Option<u64>, RowError> {
        if tag & 1 == 0 {
            return Ok(None);
        }
        Ok(Some(u64::from_le_bytes(self.array()?)))
    }

    fn text(&mut self, tag: u8) -> Result<Option<Box<str>>, RowError> {
        if tag & 1 == 0 {
            return Ok(None);
        }
        let bytes = self.bytes()?;
        let text = simdutf8::basic::from_utf8(bytes);
        text.map(|text| Some(text.into())).map_err(|_| self.error("not UTF-8"))
    }
}

/// Returns whether a state is one of this computed column: only such states can be added up and
/// finished.
fn fits(state: &State, spec: &AggregateSpec, computed: &Computed) -> bool {
    let nothing = State::nothing(spec, computed);
    let same_kind = match (state, &nothing) {
        (State::Wide(_), State::Int { .. }) => true,
        (state, nothing) => std::mem::discriminant(state) == std::mem::discriminant(nothing),
    };
    same_kind
        && match state {
            State::Best(Some(best)) => candidate::is_candidate(computed, best),
            State::Picked(picked) => {
                matches!(picked.as_ref(), [] | [(_, 1)])
                    && picked.iter().all(|(cell, _)| candidate::is_picked(computed, cell))
            }
            State::Counted(counted) if spec.hold(computed) == Some(Hold::Levels) => {
                counted.iter().all(|(level, _)| registers::is_counted_level(*level))
            }
            State::Counted(counted) => {
                counted.iter().all(|(bucket, _)| quantile::is_bucket(*bucket))
            }
            _ => true,
        }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use proptest::prelude::*;

    use super::super::{Function, Share, TakenBack};
    use super::*;
    use crate::decimal::Decimal;
    use crate::key::KeyEncoder;
    use crate::types::{Column, Type};

    fn spec() -> AggregateSpec {
        let computed = |function, argument| Computed::new("x", function, argument).unwrap();
        let (int, float, text) = (Some(Type::Int), Some(Type::Float), Some(Type::String));
        AggregateSpec {
            keys: vec![Column::new("a", Type::String), Column::new("b", Type::Int)],
            compute: vec![
                computed(Function::CountAll, None),
                computed(Function::Count, text),
                computed(Function::Sum, int),
                computed(Function::Avg, float),
                computed(Function::Min, float),
                computed(Function::Max, int),
                computed(Function::Min, text),
                computed(Function::Max, text),
                computed(Function::ApproxQuantile(Share::new(0.5).unwrap()), float),
                computed(Function::StddevPop, int),
                Computed { arrival: true, ..computed(Function::First, text) },
                computed(Function::CountDistinct, int),
                computed(Function::ApproxDistinct, text),
                computed(Function::Avg, Some(Type::Decimal(Decimal::PLAIN))),
            ],
            taken_back: TakenBack::Never,
        }
    }

    /// The candidate of a text that was read at a place.
    fn candidate_of(text: &str, place: u8) -> Box<[u8]> {
        let mut bytes = vec![place; 24];
        bytes.push(1);
        bytes.extend_from_slice(text.as_bytes());
        bytes.push(0);
        bytes.extend_from_slice(&24_u32.to_le_bytes());
        bytes.into()
    }

    fn key(text: Option<&str>, number: i64) -> Key {
        let columns: [arrow_array::ArrayRef; 2] = [
            std::sync::Arc::new(arrow_array::StringViewArray::from(vec![text])),
            std::sync::Arc::new(arrow_array::Int64Array::from(vec![number])),
        ];
        let mut bytes = Vec::new();
        KeyEncoder::new(&columns).append(0, &mut bytes);
        Key::new(&bytes)
    }

    prop_compose! {
        fn row()(
            text in proptest::option::of("[a\\x00\\x01é]{0,5}"),
            number in any::<i64>(),
            counts in any::<[i64; 4]>(),
            sum in any::<i128>(),
            narrow in any::<bool>(),
            floats in proptest::collection::vec(any::<f64>(), 0..6),
            words in any::<[Option<u64>; 2]>(),
            texts in any::<[Option<String>; 2]>(),
            (none, best) in (proptest::bool::weighted(0.1), proptest::option::of("[a-z]{0,5}")),
            levels in proptest::collection::btree_map(1..54_u32, 1..100_i64, 0..4),
        ) -> (Key, Accumulator) {
            let mut exact = ExactSum::default();
            let (mut moments, mut buckets) = (Moments::default(), std::collections::BTreeMap::new());
            for float in &floats {
                exact.add(*float, 1);
                moments.add_float(*float, 1);
                *buckets.entry(quantile::bucket_of(*float)).or_insert(0) += 1_i64;
            }
            words.iter().flatten().for_each(|word| moments.add_int(word.cast_signed(), 1));
            let mut wide = WideSum::default();
            wide.add(sum, counts[0]);
            let sum = if narrow { sum >> 70 } else { sum };
            let [least, greatest] = texts.map(|text| text.map(String::into_boxed_str));
            let states = [
                State::Count(counts[1]),
                State::int(counts[2], sum),
                State::Float(Box::new(FloatSum { count: counts[3], sum: exact })),
                State::MinWord(words[0]),
                State::MaxWord(words[1]),
                State::MinText(least),
                State::MaxText(greatest),
                State::Counted(buckets.into_iter().collect()),
                State::Moments(Box::new(moments)),
                State::Best(best.map(|best| candidate_of(&best, 7))),
                State::Count(counts[0]),
                State::Counted(levels.into_iter().collect()),
                State::Decimal(Box::new((counts[1], wide))),
            ];
            let states = if none { States::default() } else { states.into() };
            (key(text.as_deref(), number), Accumulator { rows: counts[0], states })
        }
    }

    fn encoded(rows: &[(Key, Accumulator)]) -> Vec<u8> {
        let mut bytes = Vec::new();
        rows.iter().for_each(|(key, total)| encode_row(key.bytes(), total, &mut bytes));
        bytes
    }

    proptest! {
        #[test]
        fn rows_read_back_as_they_were(rows in proptest::collection::vec(row(), 0..8)) {
            prop_assert_eq!(decode_rows(&encoded(&rows), &spec()), Ok(rows));
        }

        #[test]
        fn hostile_bytes_are_refused_or_read(bytes in proptest::collection::vec(0..12_u8, 0..60)) {
            // What is read fits the aggregate: it can be added up and finished.
            for (_, mut total) in decode_rows(&bytes, &spec()).unwrap_or_default() {
                let again = total.clone();
                if total.rows.checked_add(again.rows).is_some() {
                    drop(total.finish(&spec(), &mut Vec::new()));
                }
                total.states.iter_mut().for_each(|state| { let _ = state.clone(); });
            }
        }

        #[test]
        fn a_changed_byte_is_refused_or_read(
            rows in proptest::collection::vec(row(), 1..4),
            at in any::<prop::sample::Index>(),
            byte in any::<u8>(),
        ) {
            let mut bytes = encoded(&rows);
            let at = at.index(bytes.len());
            bytes[at] = byte;
            let _ = decode_rows(&bytes, &spec());
        }

        #[test]
        fn rows_that_end_early_are_refused(row in row(), at in any::<prop::sample::Index>()) {
            let bytes = encoded(&[row]);
            let at = at.index(bytes.len());
            if at > 0 {
                prop_assert!(decode_rows(&bytes[..at], &spec()).is_err());
            }
        }
    }

    #[track_caller]
    fn refused(bytes: &[u8], reason: &str) {
        assert_eq!(decode_rows(bytes, &spec()).unwrap_err().reason, reason);
    }

    #[test]
    fn rows_of_another_aggregate_are_refused() {
        refused(&[1, 7], "a key of other columns");
        let mut other = spec();
        other.compute.truncate(3);
        let states = [State::Count(1), State::int(1, 5)].into();
        let row = (key(Some("a"), 1), Accumulator { rows: 1, states });
        refused(&encoded(std::slice::from_ref(&row)), "another number of aggregates");
        assert_eq!(decode_rows(&encoded(std::slice::from_ref(&row)), &other).unwrap(), [row]);
        let states = [State::int(1, 5), State::Count(1)].into();
        let swapped = encoded(&[(key(None, 1), Accumulator { rows: 1, states })]);
        assert_eq!(decode_rows(&swapped, &other).unwrap_err().reason, "another aggregate");
    }

    #[test]
    fn cells_that_cannot_be_picked_are_refused() {
        let computed = Computed {
            arrival: true,
            ..Computed::new("x", Function::Last, Some(Type::Int)).unwrap()
        };
        for (taken_back, states, is_read) in [
            (TakenBack::ByFile, State::Picked(Box::default()), true),
            (TakenBack::ByFile, State::Picked([([0].into(), 1)].into()), true),
            (TakenBack::ByFile, State::Picked([([1, 2].into(), 1)].into()), false),
            (TakenBack::ByFile, State::Picked([([0].into(), 2)].into()), false),
            (TakenBack::ByFile, State::Best(None), false),
            (TakenBack::Never, State::Best(None), true),
            (TakenBack::Never, State::Best(Some([0, 9, 0, 0, 0].into())), false),
            (TakenBack::Never, State::Best(Some([0, 0, 0, 0, 0].into())), true),
        ] {
            let spec = AggregateSpec { keys: vec![], compute: vec![computed.clone()], taken_back };
            let row = (Key::new(&[]), Accumulator { rows: 1, states: [states].into() });
            let decoded = decode_rows(&encoded(std::slice::from_ref(&row)), &spec);
            assert_eq!(decoded.is_ok(), is_read, "{taken_back:?} {row:?}");
        }
    }

    #[test]
    fn lengths_that_cannot_be_take_no_memory() {
        refused(&[0xff, 0xff, 0xff, 0xff, 0x0f], "a text is too long");
        refused(&[0x80, 0x80, 0x80, 0x02], "it ends");
        refused(&[0xff; 11], "a number is too large");
    }
}
