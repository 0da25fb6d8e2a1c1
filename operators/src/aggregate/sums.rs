//! Sums: one aggregate of all groups of an epoch, as one vector. The type of its argument is
//! decided once per batch; then it runs down the column.

use arrow_array::cast::AsArray;
use arrow_array::types::{ArrowPrimitiveType, Float64Type, Int64Type, TimestampMicrosecondType};
use arrow_array::{Array, ArrayRef, PrimitiveArray};

use super::Function;
use super::accumulator::{FloatSum, State};
use super::exact::{ExactSum, split};
use crate::key::{ordered_float, ordered_int};
use crate::types::Type;

/// Stands for the group of a row that is left out.
pub(super) const LEFT_OUT: u32 = u32::MAX;

/// The state of one aggregate for all groups.
pub(super) enum Sums {
    /// `count(*)`: the number of rows says it.
    Rows,
    Count(Vec<i64>),
    Int(Vec<(i64, i128)>),
    Float(Vec<FloatPartial>),
    MinWord(Vec<Option<u64>>),
    MaxWord(Vec<Option<u64>>),
    MinText(Vec<Option<Box<str>>>),
    MaxText(Vec<Option<Box<str>>>),
}

/// A sum of floats, with the bucket that was last added to kept at hand.
#[derive(Default)]
pub(super) struct FloatPartial {
    part: i128,
    count: i64,
    bucket: u8,
    rest: ExactSum,
}

impl Sums {
    pub(super) fn new(function: Function, argument: Option<Type>) -> Self {
        match (function, argument) {
            (Function::CountAll, _) | (_, None) => Sums::Rows,
            (Function::Count, _) => Sums::Count(Vec::new()),
            (Function::Sum | Function::Avg, Some(Type::Float)) => Sums::Float(Vec::new()),
            (Function::Sum | Function::Avg, _) => Sums::Int(Vec::new()),
            (Function::Min, Some(Type::String)) => Sums::MinText(Vec::new()),
            (Function::Max, Some(Type::String)) => Sums::MaxText(Vec::new()),
            (Function::Min, _) => Sums::MinWord(Vec::new()),
            (Function::Max, _) => Sums::MaxWord(Vec::new()),
        }
    }

    pub(super) fn resize(&mut self, groups: usize) {
        match self {
            Sums::Rows => {}
            Sums::Count(sums) => sums.resize(groups, 0),
            Sums::Int(sums) => sums.resize(groups, (0, 0)),
            Sums::Float(sums) => sums.resize_with(groups, FloatPartial::default),
            Sums::MinWord(sums) | Sums::MaxWord(sums) => sums.resize(groups, None),
            Sums::MinText(sums) | Sums::MaxText(sums) => sums.resize(groups, None),
        }
    }

    pub(super) fn update(&mut self, groups: &[u32], argument: &ArrayRef, diff: i64) {
        match self {
            Sums::Rows => {}
            Sums::Count(sums) => {
                let is_valid = |row: usize| argument.is_valid(row);
                for (row, group) in groups.iter().enumerate() {
                    if *group != LEFT_OUT && is_valid(row) {
                        sums[*group as usize] += diff;
                    }
                }
            }
            Sums::Int(sums) => {
                each(groups, argument.as_primitive::<Int64Type>(), |group, value| {
                    let (count, sum) = &mut sums[group];
                    *count += diff;
                    *sum += i128::from(value) * i128::from(diff);
                })
            }
            Sums::Float(sums) => {
                each(groups, argument.as_primitive::<Float64Type>(), |group, value| {
                    sums[group].add(value, diff);
                });
            }
            // An extremum cannot be taken back; the planner refuses such pipelines.
            _ if diff < 0 => {}
            Sums::MinWord(sums) => each_word(groups, argument, |group, word| {
                let least = &mut sums[group];
                *least = Some(least.map_or(word, |least| least.min(word)));
            }),
            Sums::MaxWord(sums) => each_word(groups, argument, |group, word| {
                let greatest = &mut sums[group];
                *greatest = Some(greatest.map_or(word, |greatest| greatest.max(word)));
            }),
            Sums::MinText(sums) => each_text(groups, argument, |group, text| {
                if sums[group].as_deref().is_none_or(|least| text < least) {
                    sums[group] = Some(text.into());
                }
            }),
            Sums::MaxText(sums) => each_text(groups, argument, |group, text| {
                if sums[group].as_deref().is_none_or(|greatest| text > greatest) {
                    sums[group] = Some(text.into());
                }
            }),
        }
    }

    /// Takes the state of one group; `None` for `count(*)`, which has none.
    pub(super) fn take(&mut self, group: usize) -> Option<State> {
        Some(match self {
            Sums::Rows => return None,
            Sums::Count(sums) => State::Count(sums[group]),
            Sums::Int(sums) => State::int(sums[group].0, sums[group].1),
            Sums::Float(sums) => State::Float(Box::new(std::mem::take(&mut sums[group]).finish())),
            Sums::MinWord(sums) => State::MinWord(sums[group]),
            Sums::MaxWord(sums) => State::MaxWord(sums[group]),
            Sums::MinText(sums) => State::MinText(sums[group].take()),
            Sums::MaxText(sums) => State::MaxText(sums[group].take()),
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
