//! Sums: one aggregate of all groups of an epoch, as one vector. The type of its argument is
//! decided once per batch; then it runs down the column. What is held of the arguments is gathered here
//! too: of a file that is taken back as a whole, only the best candidate of each group.

use arrow_array::cast::AsArray;
use arrow_array::types::{
    ArrowPrimitiveType, Decimal128Type, Float64Type, Int64Type, TimestampMicrosecondType,
};
use arrow_array::{Array, ArrayRef, PrimitiveArray};
use hashbrown::HashMap;

use super::accumulator::{Counted, FloatSum, State};
use super::candidate::{self, Arrivals, CandidateEncoder, lane_prefix};
use super::exact::{ExactSum, split};
use super::moments::Moments;
use super::registers::{self, REGISTER_BYTES};
use super::{AggregateSpec, Computed, Function, Hold, TakenBack, quantile};
use crate::decimal::WideSum;
use crate::exchange::key_hash;
use crate::key::{Key, KeyEncoder, ordered_float, ordered_int};
use crate::types::Type;

/// Stands for the group of a row that is left out.
pub(super) const LEFT_OUT: u32 = u32::MAX;

/// One computed column: what it is, and what was added up for it.
pub(super) struct Lane {
    computed: Computed,
    hold: Option<Hold>,
    taken_back: TakenBack,
    sums: Sums,
}

/// What one computed column reads of a batch.
#[derive(Clone, Copy)]
pub(super) struct LaneInput<'a> {
    pub(super) argument: Option<&'a ArrayRef>,
    pub(super) order: &'a [ArrayRef],
    pub(super) arrivals: Option<Arrivals<'a>>,
}

/// The state of one aggregate for all groups.
enum Sums {
    /// `count(*)`: the number of rows says it.
    Rows,
    Count(Vec<i64>),
    Int(Vec<(i64, i128)>),
    Float(Vec<FloatPartial>),
    Decimal(Vec<(i64, WideSum)>),
    MinWord(Vec<Option<u64>>),
    MaxWord(Vec<Option<u64>>),
    MinText(Vec<Option<Box<str>>>),
    MaxText(Vec<Option<Box<str>>>),
    /// The first candidate.
    Best(Vec<Option<Box<[u8]>>>),
    /// What is held, each with how often it is there.
    Held(Vec<HashMap<Box<[u8]>, i64>>),
    Buckets(Vec<HashMap<u32, i64>>),
    Moments(Vec<Moments>),
}

/// A sum of floats, with the bucket that was last added to kept at hand.
#[derive(Default)]
pub(super) struct FloatPartial {
    part: i128,
    count: i64,
    bucket: u8,
    rest: ExactSum,
}

impl Lane {
    pub(super) fn new(spec: &AggregateSpec, computed: &Computed) -> Self {
        let hold = spec.hold(computed);
        let sums = match (computed.function, computed.argument) {
            (Function::CountAll, _) => Sums::Rows,
            (Function::Count, _) => Sums::Count(Vec::new()),
            (Function::Sum | Function::Avg, Some(Type::Float)) => Sums::Float(Vec::new()),
            (Function::Sum | Function::Avg, Some(Type::Decimal(_))) => Sums::Decimal(Vec::new()),
            (Function::Sum | Function::Avg, _) => Sums::Int(Vec::new()),
            (Function::CountDistinct | Function::ApproxDistinct, _) => Sums::Held(Vec::new()),
            (Function::ApproxQuantile(_), _) => Sums::Buckets(Vec::new()),
            (
                Function::VarSamp | Function::VarPop | Function::StddevSamp | Function::StddevPop,
                _,
            ) => Sums::Moments(Vec::new()),
            // Any row may go, so all that could be picked then are held.
            _ if spec.taken_back == TakenBack::ByRow => Sums::Held(Vec::new()),
            (Function::Min, Some(Type::String)) => Sums::MinText(Vec::new()),
            (Function::Max, Some(Type::String)) => Sums::MaxText(Vec::new()),
            (Function::Min | Function::Max, Some(Type::Decimal(_))) => Sums::Best(Vec::new()),
            (Function::Min, _) => Sums::MinWord(Vec::new()),
            (Function::Max, _) => Sums::MaxWord(Vec::new()),
            _ => Sums::Best(Vec::new()),
        };
        Self { computed: computed.clone(), hold, taken_back: spec.taken_back, sums }
    }

    pub(super) fn resize(&mut self, groups: usize) {
        match &mut self.sums {
            Sums::Rows => {}
            Sums::Count(sums) => sums.resize(groups, 0),
            Sums::Int(sums) => sums.resize(groups, (0, 0)),
            Sums::Float(sums) => sums.resize_with(groups, FloatPartial::default),
            Sums::Decimal(sums) => sums.resize(groups, (0, WideSum::default())),
            Sums::MinWord(sums) | Sums::MaxWord(sums) => sums.resize(groups, None),
            Sums::MinText(sums) | Sums::MaxText(sums) => sums.resize(groups, None),
            Sums::Best(sums) => sums.resize(groups, None),
            Sums::Held(sums) => sums.resize_with(groups, HashMap::new),
            Sums::Buckets(sums) => sums.resize_with(groups, HashMap::new),
            Sums::Moments(sums) => sums.resize_with(groups, Moments::default),
        }
    }

    pub(super) fn update(&mut self, groups: &[u32], input: LaneInput<'_>, diff: i64) {
        match (&mut self.sums, input.argument) {
            (Sums::Rows, _) => {}
            (Sums::Count(sums), Some(argument)) => {
                let is_valid = |row: usize| argument.is_valid(row);
                for (row, group) in groups.iter().enumerate() {
                    if *group != LEFT_OUT && is_valid(row) {
                        sums[*group as usize] += diff;
                    }
                }
            }
            (Sums::Int(sums), Some(argument)) => {
                each(groups, argument.as_primitive::<Int64Type>(), |group, value| {
                    let (count, sum) = &mut sums[group];
                    *count += diff;
                    *sum += i128::from(value) * i128::from(diff);
                });
            }
            (Sums::Float(sums), Some(argument)) => {
                each(groups, argument.as_primitive::<Float64Type>(), |group, value| {
                    sums[group].add(value, diff);
                });
            }
            (Sums::Decimal(sums), Some(argument)) => {
                each(groups, argument.as_primitive::<Decimal128Type>(), |group, units| {
                    let (count, sum) = &mut sums[group];
                    *count += diff;
                    sum.add(units, diff);
                });
            }
            (Sums::Moments(sums), Some(argument)) => {
                if let Some(ints) = argument.as_primitive_opt::<Int64Type>() {
                    each(groups, ints, |group, value| sums[group].add_int(value, diff));
                } else {
                    let floats = argument.as_primitive::<Float64Type>();
                    each(groups, floats, |group, value| sums[group].add_float(value, diff));
                }
            }
            (Sums::Buckets(sums), Some(argument)) => {
                let mut add = |group: usize, value: f64| {
                    *sums[group].entry(quantile::bucket_of(value)).or_default() += diff;
                };
                if let Some(ints) = argument.as_primitive_opt::<Int64Type>() {
                    each(groups, ints, |group, value| add(group, value as f64));
                } else {
                    each(groups, argument.as_primitive::<Float64Type>(), add);
                }
            }
            (Sums::Held(_), _) => self.hold(groups, input, diff),
            (_, _) if diff < 0 && self.taken_back == TakenBack::Never => panic!(
                "rows are taken back that {} was promised to keep: a source with `append_only` \
                 was corrected",
                self.computed.name
            ),
            // From here on the sign counts only when the group leaves: all rows of it have the same.
            (Sums::Best(sums), _) => {
                let encoder = CandidateEncoder::new(
                    &self.computed,
                    input.argument,
                    input.order,
                    input.arrivals,
                );
                let mut bytes = Vec::new();
                for (row, group) in groups.iter().enumerate() {
                    bytes.clear();
                    if *group != LEFT_OUT && encoder.append(row, &mut bytes) {
                        let best = &mut sums[*group as usize];
                        if best.as_deref().is_none_or(|best| bytes.as_slice() < best) {
                            *best = Some(bytes.as_slice().into());
                        }
                    }
                }
            }
            (Sums::MinWord(sums), Some(argument)) => each_word(groups, argument, |group, word| {
                let least = &mut sums[group];
                *least = Some(least.map_or(word, |least| least.min(word)));
            }),
            (Sums::MaxWord(sums), Some(argument)) => each_word(groups, argument, |group, word| {
                let greatest = &mut sums[group];
                *greatest = Some(greatest.map_or(word, |greatest| greatest.max(word)));
            }),
            (Sums::MinText(sums), Some(argument)) => each_text(groups, argument, |group, text| {
                if sums[group].as_deref().is_none_or(|least| text < least) {
                    sums[group] = Some(text.into());
                }
            }),
            (Sums::MaxText(sums), Some(argument)) => each_text(groups, argument, |group, text| {
                if sums[group].as_deref().is_none_or(|greatest| text > greatest) {
                    sums[group] = Some(text.into());
                }
            }),
            (_, None) => {}
        }
    }

    /// Adds what is held of the rows of a batch.
    fn hold(&mut self, groups: &[u32], input: LaneInput<'_>, diff: i64) {
        let Sums::Held(sums) = &mut self.sums else { return };
        let by_row = self.taken_back == TakenBack::ByRow;
        let mut add = |group: u32, bytes: &[u8]| {
            let held = &mut sums[group as usize];
            match held.get_mut(bytes) {
                // A file that is taken back as a whole has a value, or has it not.
                Some(count) if by_row => *count += diff,
                Some(_) => {}
                None => {
                    held.insert(bytes.into(), if by_row { diff } else { 1 });
                }
            }
        };
        let mut bytes = Vec::new();
        if self.hold == Some(Hold::Candidates) {
            let encoder =
                CandidateEncoder::new(&self.computed, input.argument, input.order, input.arrivals);
            for (row, group) in groups.iter().enumerate() {
                bytes.clear();
                if *group != LEFT_OUT && encoder.append(row, &mut bytes) {
                    add(*group, &bytes);
                }
            }
            return;
        }
        let Some(argument) = input.argument else { return };
        let encoder = KeyEncoder::new([argument]);
        for (row, group) in groups.iter().enumerate() {
            if *group == LEFT_OUT || argument.is_null(row) {
                continue;
            }
            bytes.clear();
            encoder.append(row, &mut bytes);
            match self.hold {
                Some(Hold::Levels) => add(*group, &registers::level_of(key_hash(&bytes))),
                _ => add(*group, &bytes),
            }
        }
    }

    /// Takes the state of one group, and what is held of it, `sign` times; no state for `count(*)`.
    pub(super) fn take(
        &mut self,
        group: usize,
        lane: usize,
        sign: i64,
        held: &mut Vec<(Key, i64)>,
    ) -> Option<State> {
        let function = self.computed.function;
        let kind = self.computed.kind;
        let mut hold = |candidate: &[u8], times: i64| {
            if times != 0 {
                held.push((Key::new(&[&lane_prefix(lane), candidate].concat()), times));
            }
        };
        let holds = self.hold.is_some();
        let mut candidate = |candidate: Option<Vec<u8>>| {
            candidate.iter().for_each(|candidate| hold(candidate, sign));
            State::Picked(Box::default())
        };
        Some(match &mut self.sums {
            Sums::Rows => return None,
            Sums::Count(sums) => State::Count(sums[group]),
            Sums::Int(sums) => State::int(sums[group].0, sums[group].1),
            Sums::Float(sums) => State::Float(Box::new(std::mem::take(&mut sums[group]).finish())),
            Sums::Decimal(sums) => State::Decimal(Box::new(sums[group])),
            Sums::MinWord(sums) | Sums::MaxWord(sums) if holds => {
                candidate(sums[group].map(|word| candidate::of_word(function, kind, word)))
            }
            Sums::MinText(sums) | Sums::MaxText(sums) if holds => {
                let text = sums[group].take();
                candidate(text.map(|text| candidate::of_text(function, &text)))
            }
            Sums::Best(sums) if holds => candidate(sums[group].take().map(Vec::from)),
            Sums::MinWord(sums) => State::MinWord(sums[group]),
            Sums::MaxWord(sums) => State::MaxWord(sums[group]),
            Sums::MinText(sums) => State::MinText(sums[group].take()),
            Sums::MaxText(sums) => State::MaxText(sums[group].take()),
            Sums::Best(sums) => State::Best(sums[group].take()),
            Sums::Held(sums) => {
                let values = std::mem::take(&mut sums[group]);
                let mut values: Vec<(Box<[u8]>, i64)> = values.into_iter().collect();
                values.sort_unstable();
                if self.taken_back != TakenBack::ByRow && self.hold == Some(Hold::Levels) {
                    // Only the highest level of a register counts, and that one comes first.
                    values.dedup_by(|next, first| {
                        next.0[..REGISTER_BYTES] == first.0[..REGISTER_BYTES]
                    });
                }
                let times = if self.taken_back == TakenBack::ByRow { 1 } else { sign };
                values.iter().for_each(|(value, count)| hold(value, count * times));
                match self.hold {
                    Some(Hold::Candidates) => State::Picked(Box::default()),
                    Some(Hold::Levels) => State::Counted(Box::default()),
                    _ => State::Count(0),
                }
            }
            Sums::Buckets(sums) => {
                let mut buckets: Vec<(u32, i64)> =
                    std::mem::take(&mut sums[group]).into_iter().collect();
                buckets.retain(|(_, count)| *count != 0);
                buckets.sort_unstable();
                State::Counted(Counted::from(buckets))
            }
            Sums::Moments(sums) => State::Moments(Box::new(std::mem::take(&mut sums[group]))),
        })
    }
}

impl FloatPartial {
    #[inline]
    fn add(&mut self, value: f64, diff: i64) {
        self.count += diff;
        match split(value) {
            Some((bucket, part)) if diff == 1 || diff == -1 => {
                if bucket != self.bucket {
                    self.settle();
                    self.bucket = bucket;
                }
                // At most 2^84 a row: 2^43 rows of one key in one epoch would be needed.
                self.part += if diff == 1 { part } else { -part };
            }
            _ => self.rest.add(value, diff),
        }
    }

    fn settle(&mut self) {
        self.rest.add_part(self.bucket, std::mem::take(&mut self.part));
    }

    fn finish(mut self) -> FloatSum {
        self.settle();
        FloatSum { count: self.count, sum: self.rest }
    }
}

/// Calls `add` with the group and value of each row that has both.
#[inline]
fn each<T: ArrowPrimitiveType>(
    groups: &[u32],
    argument: &PrimitiveArray<T>,
    mut add: impl FnMut(usize, T::Native),
) {
    let values = argument.values();
    match argument.nulls().filter(|nulls| nulls.null_count() > 0) {
        None => {
            for (group, value) in groups.iter().zip(values) {
                if *group != LEFT_OUT {
                    add(*group as usize, *value);
                }
            }
        }
        Some(nulls) => {
            for (row, (group, value)) in groups.iter().zip(values).enumerate() {
                if *group != LEFT_OUT && nulls.is_valid(row) {
                    add(*group as usize, *value);
                }
            }
        }
    }
}

/// Calls `add` with the group and the ordered word of each row that has both.
fn each_word(groups: &[u32], argument: &ArrayRef, mut add: impl FnMut(usize, u64)) {
    if let Some(array) = argument.as_primitive_opt::<Int64Type>() {
        each(groups, array, |group, value| add(group, ordered_int(value)));
    } else if let Some(array) = argument.as_primitive_opt::<TimestampMicrosecondType>() {
        each(groups, array, |group, value| add(group, ordered_int(value)));
    } else if let Some(array) = argument.as_primitive_opt::<Float64Type>() {
        each(groups, array, |group, value| add(group, ordered_float(value)));
    } else {
        let array = argument.as_boolean();
        for (row, group) in groups.iter().enumerate() {
            if *group != LEFT_OUT && array.is_valid(row) {
                add(*group as usize, u64::from(array.value(row)));
            }
        }
    }
}

/// Calls `add` with the group and text of each row that has both.
fn each_text(groups: &[u32], argument: &ArrayRef, mut add: impl FnMut(usize, &str)) {
    let array = argument.as_string_view();
    for (row, group) in groups.iter().enumerate() {
        if *group != LEFT_OUT && array.is_valid(row) {
            add(*group as usize, array.value(row));
        }
    }
}
