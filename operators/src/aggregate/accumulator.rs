//! Accumulator: everything an aggregate knows about one key, as a difference of differential
//! dataflow. Owns the algebra: merging, what counts as nothing, and the finished cells.
//!
//! The size is one entry per key: 32 bytes, and where there are two aggregates or more besides
//! `count(*)` a small allocation of 24 for each. Sums of floats and variances have one more small allocation, quantiles 16 bytes a bucket. Two accumulators of the same rows are equal to the
//! last bit, in whatever order they were built.

use std::cmp::Ordering;

use differential_dataflow::difference::{IsZero, Monoid, Semigroup};
use serde::{Deserialize, Serialize};

use super::exact::ExactSum;
use super::moments::{Divisor, Moments};
use super::states::States;
use super::{AggregateSpec, Computed, Function, Hold, candidate, quantile, registers};
use crate::decimal::WideSum;
use crate::key::{Key, decode_values, float_of, int_of};
use crate::types::{Column, Type};
use crate::value::Value;

/// The rows of one key, added up.
#[derive(Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Accumulator {
    /// How many rows there are; taken back rows count negative.
    pub rows: i64,
    /// One state for each computed column besides `count(*)`, in order. Empty also stands for "no
    /// row was added yet".
    pub states: States,
}

/// One aggregate of one key. Which variant is used follows from the [`AggregateSpec`] alone, apart
/// from integer sums, which are wide exactly when they have to be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum State {
    /// How many arguments are not NULL.
    Count(i64),
    /// A sum of integers that fits an integer.
    Int {
        /// How many arguments are not NULL.
        count: i64,
        /// Their sum.
        sum: i64,
    },
    /// A sum of integers that does not: the number of arguments, and their sum.
    Wide(Box<(i64, i128)>),
    /// A sum of floats.
    Float(Box<FloatSum>),
    /// A sum of decimals: the number of arguments, and their sum.
    Decimal(Box<(i64, WideSum)>),
    /// The least argument, as a word that orders like it.
    MinWord(Option<u64>),
    /// The greatest argument, as a word that orders like it.
    MaxWord(Option<u64>),
    /// The least text.
    MinText(Option<Box<str>>),
    /// The greatest text.
    MaxText(Option<Box<str>>),
    /// The first candidate of rows that are never taken back.
    Best(Option<Box<[u8]>>),
    /// The picked cell, of candidates that are held elsewhere: what was picked before is in it with
    /// -1 and what is picked now with +1, so that one is left when all is added up.
    Picked(Counted<Box<[u8]>>),
    /// How many there are of each bucket or level.
    Counted(Counted<u32>),
    /// Count, sum and sum of squares.
    Moments(Box<Moments>),
}

/// How often each of some things is there: sorted, no zeros.
pub type Counted<K> = Box<[(K, i64)]>;

/// Adds one multiset to another.
pub(super) fn add_counted<K: Ord + Clone>(one: &mut Counted<K>, two: &[(K, i64)]) {
    if one.is_empty() {
        *one = two.into();
        return;
    }
    let mut all: Vec<(K, i64)> = Vec::with_capacity(one.len() + two.len());
    let (mut left, mut right) = (one.iter().peekable(), two.iter().peekable());
    while let (Some(first), Some(second)) = (left.peek(), right.peek()) {
        match first.0.cmp(&second.0) {
            Ordering::Less => all.extend(left.next().cloned()),
            Ordering::Greater => all.extend(right.next().cloned()),
            Ordering::Equal => {
                let count = first.1 + second.1;
                if count != 0 {
                    all.push((first.0.clone(), count));
                }
                left.next();
                right.next();
            }
        }
    }
    all.extend(left.cloned());
    all.extend(right.cloned());
    *one = all.into();
}

/// A sum of floats and how many there were.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FloatSum {
    /// How many arguments are not NULL.
    pub count: i64,
    /// Their exact sum.
    pub sum: ExactSum,
}

/// A sum that its column does not hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the sum {sum} does not fit {} {kind}", if *.kind == Type::Int { "an" } else { "a" })]
pub struct SumOverflow {
    /// The exact sum.
    pub sum: String,
    /// The type of the column.
    pub kind: Type,
}

impl State {
    /// Returns a sum of integers.
    pub(super) fn int(count: i64, sum: i128) -> Self {
        match i64::try_from(sum) {
            Ok(sum) => State::Int { count, sum },
            Err(_) => State::Wide(Box::new((count, sum))),
        }
    }

    /// Returns the state of no row.
    pub(super) fn nothing(spec: &AggregateSpec, computed: &Computed) -> Self {
        match (computed.function, computed.argument, spec.hold(computed)) {
            (_, _, Some(Hold::Candidates)) => State::Picked(Box::default()),
            (_, _, Some(Hold::Levels)) | (Function::ApproxQuantile(_), ..) => {
                State::Counted(Box::default())
            }
            (_, _, Some(Hold::Distinct)) | (Function::Count | Function::CountAll, ..) => {
                State::Count(0)
            }
            (Function::Sum | Function::Avg, Some(Type::Float), _) => State::Float(Box::default()),
            (Function::Sum | Function::Avg, Some(Type::Decimal(_)), _) => {
                State::Decimal(Box::default())
            }
            (Function::Sum | Function::Avg, ..) => State::Int { count: 0, sum: 0 },
            (Function::Min, Some(Type::String), _) => State::MinText(None),
            (Function::Max, Some(Type::String), _) => State::MaxText(None),
            (Function::Min | Function::Max, Some(Type::Decimal(_)), _) => State::Best(None),
            (Function::Min, ..) => State::MinWord(None),
            (Function::Max, ..) => State::MaxWord(None),
            (
                Function::VarSamp | Function::VarPop | Function::StddevSamp | Function::StddevPop,
                ..,
            ) => State::Moments(Box::default()),
            // Picks, which nothing holds; the other functions are always held.
            _ => State::Best(None),
        }
    }

    fn int_parts(&self) -> Option<(i64, i128)> {
        match self {
            State::Int { count, sum } => Some((*count, i128::from(*sum))),
            State::Wide(wide) => Some(**wide),
            _ => None,
        }
    }

    fn merge(&mut self, other: &State) {
        match (&mut *self, other) {
            (State::Count(one), State::Count(two)) => *one += two,
            (State::Float(one), State::Float(two)) => {
                one.count += two.count;
                one.sum.merge(&two.sum);
            }
            (State::Decimal(one), State::Decimal(two)) => {
                one.0 += two.0;
                one.1.merge(two.1);
            }
            (State::MinWord(one), State::MinWord(two)) => {
                *one = one.iter().chain(two).copied().min();
            }
            (State::MaxWord(one), State::MaxWord(two)) => *one = (*one).max(*two),
            (State::MinText(one), State::MinText(Some(two))) => {
                if one.as_ref().is_none_or(|one| two < one) {
                    *one = Some(two.clone());
                }
            }
            (State::MaxText(one), State::MaxText(Some(two))) => {
                if one.as_ref().is_none_or(|one| two > one) {
                    *one = Some(two.clone());
                }
            }
            (State::MinText(_), State::MinText(None))
            | (State::MaxText(_), State::MaxText(None))
            | (State::Best(_), State::Best(None)) => {}
            (State::Best(one), State::Best(Some(two))) => {
                if one.as_ref().is_none_or(|one| two < one) {
                    *one = Some(two.clone());
                }
            }
            (State::Picked(one), State::Picked(two)) => add_counted(one, two),
            (State::Counted(one), State::Counted(two)) => add_counted(one, two),
            (State::Moments(one), State::Moments(two)) => one.merge(two),
            (one, two) => match (one.int_parts(), two.int_parts()) {
                (Some(a), Some(b)) => *one = State::int(a.0 + b.0, a.1 + b.1),
                _ => panic!("accumulators of two different aggregates meet: {one:?} and {two:?}"),
            },
        }
    }

    fn is_zero(&self) -> bool {
        match self {
            State::Count(count) => *count == 0,
            State::Int { count, sum } => *count == 0 && *sum == 0,
            State::Wide(_) => false,
            State::Float(float) => float.count == 0 && float.sum.is_zero(),
            State::Decimal(decimal) => decimal.0 == 0 && decimal.1.is_zero(),
            State::MinWord(value) | State::MaxWord(value) => value.is_none(),
            State::MinText(value) | State::MaxText(value) => value.is_none(),
            State::Best(best) => best.is_none(),
            State::Picked(picked) => picked.is_empty(),
            State::Counted(counted) => counted.is_empty(),
            State::Moments(moments) => moments.is_zero(),
        }
    }

    /// Appends the cell of a computed column.
    fn finish(&self, computed: &Computed, cells: &mut Vec<Value>) -> Result<(), SumOverflow> {
        // Each arm writes its cell where it stays: moving it there out of one place costs a tenth of
        // the whole aggregate, because it is read in other pieces than it was written.
        let mut give = |cell: Value| cells.push(cell);
        match (self, computed.function) {
            (_, Function::Place) => give(Value::Null), // see `Accumulator::place`
            (State::Count(count), _) => give(Value::Int(*count)),
            (State::Int { count: 0, .. }, _) => give(Value::Null),
            (State::Int { sum, .. }, Function::Sum) => give(Value::Int(*sum)),
            (State::Wide(wide), Function::Sum) => {
                return Err(SumOverflow { sum: wide.1.to_string(), kind: computed.kind });
            }
            (State::Int { count, sum }, _) => give(Value::Float(*sum as f64 / *count as f64)),
            (State::Wide(wide), _) => give(Value::Float(wide.1 as f64 / wide.0 as f64)),
            (State::Float(float), _) if float.count == 0 => give(Value::Null),
            (State::Float(float), Function::Sum) => give(Value::Float(float.sum.to_f64())),
            (State::Float(float), _) => give(Value::Float(float.sum.to_f64() / float.count as f64)),
            (State::Decimal(decimal), _) if decimal.0 == 0 => give(Value::Null),
            (State::Decimal(decimal), _) => give(decimal_value(**decimal, computed)?),
            (State::MinWord(word) | State::MaxWord(word), _) => match word {
                Some(word) => give(word_value(*word, computed.kind)),
                None => give(Value::Null),
            },
            (State::MinText(text) | State::MaxText(text), _) => match text {
                Some(text) => give(Value::String(text.to_string())),
                None => give(Value::Null),
            },
            (State::Best(best), function) => {
                let cell = best.as_ref().and_then(|best| candidate::picked(function, best));
                give(cell.map_or(Value::Null, |cell| cell_value(&cell, computed.kind)));
            }
            (State::Picked(picked), _) => match picked.as_ref() {
                [] => give(Value::Null),
                [(cell, 1)] => give(cell_value(cell, computed.kind)),
                several => panic!(
                    "{}: what was picked does not add up to one cell: {several:?}",
                    computed.name
                ),
            },
            (State::Counted(counted), Function::ApproxQuantile(share)) => {
                give(quantile::at_share(counted, share).map_or(Value::Null, Value::Float));
            }
            (State::Counted(counted), _) => give(Value::Int(registers::estimate(counted))),
            (State::Moments(moments), function) => {
                let found = match function {
                    Function::VarSamp => moments.variance(Divisor::Sample),
                    Function::VarPop => moments.variance(Divisor::All),
                    Function::StddevSamp => moments.deviation(Divisor::Sample),
                    _ => moments.deviation(Divisor::All),
                };
                give(found.map_or(Value::Null, Value::Float));
            }
        }
        Ok(())
    }
}

/// Returns the sum of decimals, or their mean.
fn decimal_value((count, sum): (i64, WideSum), computed: &Computed) -> Result<Value, SumOverflow> {
    let (Some(Type::Decimal(of)), Type::Decimal(to)) = (computed.argument, computed.kind) else {
        panic!("{}: decimals do not add up to {}", computed.name, computed.kind);
    };
    let units = match computed.function {
        Function::Sum => sum.total(to),
        _ => sum.mean(count, of.scale(), to),
    };
    match units {
        Some(units) => Ok(Value::Decimal { units, scale: to.scale() }),
        None => Err(SumOverflow { sum: sum.text(of.scale()), kind: computed.kind }),
    }
}

/// Returns the value of an encoded cell.
fn cell_value(cell: &[u8], kind: Type) -> Value {
    let cells = decode_values(&Key::new(cell), &[Column::new("", kind)]);
    let mut cells = cells.unwrap_or_else(|error| panic!("a picked cell is no {kind}: {error}"));
    cells.pop().unwrap_or(Value::Null)
}

fn word_value(word: u64, kind: Type) -> Value {
    match kind {
        Type::Float => Value::Float(float_of(word)),
        Type::Bool => Value::Bool(word != 0),
        Type::Timestamp => Value::Timestamp(int_of(word)),
        // Texts and decimals are no words.
        Type::Int | Type::String | Type::Decimal(_) => Value::Int(int_of(word)),
    }
}

impl Clone for Accumulator {
    fn clone(&self) -> Self {
        Self { rows: self.rows, states: self.states.clone() }
    }

    fn clone_from(&mut self, source: &Self) {
        self.rows = source.rows;
        self.states.clone_from(&source.states);
    }
}

impl Accumulator {
    /// Appends the computed cells in order. Returns the sums that do not fit, each with its column;
    /// their cells are NULL.
    pub fn finish(
        &self,
        spec: &AggregateSpec,
        cells: &mut Vec<Value>,
    ) -> Vec<(usize, SumOverflow)> {
        let mut overflows = Vec::new();
        let mut states = self.states.iter();
        for (column, computed) in spec.compute.iter().enumerate() {
            if computed.function == Function::CountAll {
                cells.push(Value::Int(self.rows));
                continue;
            }
            match states.next().map(|state| state.finish(computed, cells)) {
                Some(Ok(())) => {}
                none => {
                    cells.push(Value::Null);
                    overflows.extend(none.and_then(Result::err).map(|error| (column, error)));
                }
            }
        }
        overflows
    }

    /// Returns the accumulator of no row, with a state for each computed column.
    pub(super) fn nothing(spec: &AggregateSpec) -> Self {
        let states = spec.stated().map(|one| State::nothing(spec, one)).collect();
        Self { rows: 0, states }
    }

    /// Returns the place of the first row, as submission, chunk and position, of an aggregate that asks
    /// for it last ([`AggregateSpec::per_file`]).
    pub(super) fn place(&self, spec: &AggregateSpec) -> Option<[u64; 3]> {
        if !spec.is_per_file() {
            return None;
        }
        let bytes: &[u8] = match self.states.last()? {
            State::Best(Some(best)) => best,
            State::Picked(picked) => &picked.first()?.0,
            _ => return None,
        };
        let (parts, _) = bytes.as_chunks::<8>();
        let parts: &[[u8; 8]; 3] = parts.try_into().ok()?;
        Some(parts.map(u64::from_be_bytes))
    }

    /// Returns whether the key has a row in the output.
    pub fn is_visible(&self) -> bool {
        self.rows > 0
    }
}

impl IsZero for Accumulator {
    /// Nothing is left: not only no row, but also no sum and nothing picked.
    fn is_zero(&self) -> bool {
        self.rows == 0 && self.states.iter().all(State::is_zero)
    }
}

impl Semigroup for Accumulator {
    fn plus_equals(&mut self, other: &Self) {
        self.rows += other.rows;
        if self.states.is_empty() {
            self.states.clone_from(&other.states);
        } else {
            for (one, two) in self.states.iter_mut().zip(other.states.iter()) {
                one.merge(two);
            }
        }
    }
}

impl Monoid for Accumulator {
    fn zero() -> Self {
        Self::default()
    }
}
