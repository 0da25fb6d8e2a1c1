//! Groups: adds up the rows of one epoch on one worker. The hot path of an aggregate.
//!
//! A batch is done in two passes: first every row finds its group, then each aggregate runs down
//! its own column. So the type of a column is decided once per batch, not once per row. State: one
//! entry per key of the epoch; it is copied out of the batch, so it pins no chunk.

use arrow_array::{Array, ArrayRef, BooleanArray};
use differential_dataflow::difference::IsZero;
use hashbrown::HashTable;

use super::accumulator::Accumulator;
use super::candidate::Arrivals;
use super::gather::Inputs;
use super::shortcut::Shortcut;
use super::sums::{LEFT_OUT, Lane, LaneInput};
use super::{AggregateSpec, TakenBack};
use crate::exchange::key_hash;
use crate::key::{Key, KeyEncoder};

/// Rows of one epoch, added up by key.
pub struct Groups {
    table: HashTable<Slot>,
    /// The encoded keys, one after the other.
    keys: Vec<u8>,
    /// Where the key of each group ends in `keys`.
    ends: Vec<usize>,
    rows: Vec<i64>,
    lanes: Vec<Lane>,
    /// Whether rows of either sign may come.
    mixed: bool,
    /// The difference of the rows, where all have the same.
    sign: i64,
    scratch: Scratch,
    shortcut: Shortcut,
}

/// An entry of the table: the whole hash, so that growing hashes nothing and most misses compare
/// no bytes.
#[derive(Clone, Copy)]
struct Slot {
    hash: u64,
    group: u32,
}

/// Buffers that are kept between batches.
#[derive(Default)]
struct Scratch {
    key: Vec<u8>,
    /// The group of each row, or [`LEFT_OUT`].
    groups: Vec<u32>,
}

impl Groups {
    /// Returns the groups of no row.
    ///
    /// # Panics
    /// When a function does not take its argument; see [`AggregateSpec::check`].
    pub fn new(spec: &AggregateSpec) -> Self {
        if let Err(error) = spec.check() {
            panic!("an aggregate was planned that cannot be computed: {error}");
        }
        Self {
            table: HashTable::new(),
            keys: Vec::new(),
            ends: Vec::new(),
            rows: Vec::new(),
            lanes: spec.compute.iter().map(|one| Lane::new(spec, one)).collect(),
            mixed: spec.taken_back == TakenBack::ByRow || !spec.holds(),
            sign: 0,
            scratch: Scratch::default(),
            shortcut: Shortcut::default(),
        }
    }

    /// Returns the number of keys.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Returns whether no row was added.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Adds `rows` rows, each `diff` times; rows to be skipped are left out (NULL counts as false).
    /// Returns how many were added.
    ///
    /// # Panics
    /// When a column is of another type or length than was planned; when rows are added and taken
    /// back here although whole files are ([`TakenBack::ByFile`]) and something is held of them.
    pub fn update(
        &mut self,
        rows: usize,
        inputs: &Inputs,
        arrivals: Option<Arrivals<'_>>,
        diff: i64,
    ) -> usize {
        let orders = inputs.orders.iter().flatten();
        for column in inputs.keys.iter().chain(inputs.arguments.iter().flatten()).chain(orders) {
            assert_eq!(column.len(), rows, "an aggregated column has another number of rows");
        }
        if !self.mixed {
            assert!(self.sign == 0 || self.sign == diff, "a file is partly taken back");
            self.sign = diff;
        }
        let mut scratch = std::mem::take(&mut self.scratch);
        self.find(rows, &inputs.keys, inputs.skip.as_ref(), &mut scratch);
        let groups = &scratch.groups;
        let mut added = 0;
        for group in groups.iter().filter(|group| **group != LEFT_OUT) {
            self.rows[*group as usize] += diff;
            added += 1;
        }
        // A place has no argument, and nobody evaluates one for it.
        for (at, lane) in self.lanes.iter_mut().enumerate() {
            lane.resize(self.ends.len());
            let argument = inputs.arguments.get(at).and_then(Option::as_ref);
            let order = inputs.orders.get(at).map(Vec::as_slice).unwrap_or_default();
            let input = LaneInput { argument, order, arrivals };
            lane.update(groups, input, diff);
        }
        self.scratch = scratch;
        added
    }

    /// Finds or makes the group of each row.
    fn find(
        &mut self,
        rows: usize,
        keys: &[ArrayRef],
        skip: Option<&BooleanArray>,
        scratch: &mut Scratch,
    ) {
        let encoder = KeyEncoder::new(keys);
        let short = self.shortcut.load(rows, keys);
        scratch.groups.clear();
        scratch.groups.reserve(rows);
        for row in 0..rows {
            if skip.is_some_and(|skip| skip.is_valid(row) && skip.value(row)) {
                scratch.groups.push(LEFT_OUT);
                continue;
            }
            if short && let Some(group) = self.shortcut.find(row) {
                scratch.groups.push(group);
                continue;
            }
            scratch.key.clear();
            encoder.append(row, &mut scratch.key);
            let group = self.group(&scratch.key);
            if short {
                self.shortcut.learn(row, group);
            }
            scratch.groups.push(group);
        }
    }

    fn group(&mut self, key: &[u8]) -> u32 {
        let hash = key_hash(key);
        let (keys, ends) = (&self.keys, &self.ends);
        let found = self
            .table
            .find(hash, |slot| slot.hash == hash && key_of(keys, ends, slot.group as usize) == key);
        if let Some(slot) = found {
            return slot.group;
        }
        let group = u32::try_from(self.ends.len())
            .ok()
            .filter(|group| *group != LEFT_OUT)
            .expect("an epoch has fewer than 2^32 - 1 keys on one worker");
        self.table.insert_unique(hash, Slot { hash, group }, |slot| slot.hash);
        self.keys.extend_from_slice(key);
        self.ends.push(self.keys.len());
        self.rows.push(0);
        group
    }

    /// Hands over every key with what was added up for it; keys for which nothing is left are
    /// left out.
    pub fn drain(self) -> Drain {
        Drain { groups: self, next: 0 }
    }
}

fn key_of<'a>(keys: &'a [u8], ends: &[usize], group: usize) -> &'a [u8] {
    let start = if group == 0 { 0 } else { ends[group - 1] };
    &keys[start..ends[group]]
}

/// The keys of drained [`Groups`], in the order in which they were first seen.
pub struct Drain {
    groups: Groups,
    next: usize,
}

/// What was added up for one key.
#[derive(Debug)]
pub struct Drained {
    /// The key.
    pub key: Key,
    /// Its rows, added up.
    pub accumulator: Accumulator,
    /// What is held of its rows, each with how often it comes or goes.
    pub held: Vec<(Key, i64)>,
}

impl Iterator for Drain {
    type Item = Drained;

    fn next(&mut self) -> Option<Self::Item> {
        while self.next < self.groups.ends.len() {
            let group = self.next;
            self.next += 1;
            let groups = &mut self.groups;
            let (mut taken, mut held) = (0, Vec::new());
            let states = groups.lanes.iter_mut().filter_map(|lane| {
                let state = lane.take(group, taken, groups.sign, &mut held);
                taken += usize::from(state.is_some());
                state
            });
            let accumulator = Accumulator { states: states.collect(), rows: groups.rows[group] };
            if !accumulator.is_zero() || !held.is_empty() {
                let key = Key::new(key_of(&groups.keys, &groups.ends, group));
                return Some(Drained { key, accumulator, held });
            }
        }
        None
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, Some(self.groups.ends.len() - self.next))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::sync::Arc;

    use arrow_array::{
        Decimal128Array, Float64Array, Int64Array, StringViewArray, TimestampMicrosecondArray,
    };
    use differential_dataflow::difference::Semigroup;

    use super::super::{Computed, Function};
    use super::*;
    use crate::decimal::Decimal;
    use crate::types::Type;
    use crate::value::Value;

    fn spec(function: Function, argument: Option<Type>) -> AggregateSpec {
        let compute = vec![Computed::new("x", function, argument).unwrap()];
        AggregateSpec { keys: vec![], compute, taken_back: TakenBack::Never }
    }

    fn inputs(keys: &[ArrayRef], argument: Option<ArrayRef>) -> Inputs {
        Inputs { keys: keys.to_vec(), arguments: vec![argument], ..Inputs::default() }
    }

    /// Adds the column in two halves, merges them, and compares the one cell that comes out.
    #[track_caller]
    fn check(function: Function, kind: Type, column: ArrayRef, expected: &str) {
        let spec = spec(function, Some(kind));
        let mut whole = Accumulator::default();
        for (start, length) in [(0, 1), (1, column.len() - 1)] {
            let mut groups = Groups::new(&spec);
            groups.update(length, &inputs(&[], Some(column.slice(start, length))), None, 1);
            for Drained { accumulator: part, .. } in groups.drain() {
                let bytes = serde_json::to_vec(&part).unwrap();
                assert_eq!(serde_json::from_slice::<Accumulator>(&bytes).unwrap(), part);
                whole.plus_equals(&part);
            }
        }
        let mut cells = Vec::new();
        let overflow = whole.finish(&spec, &mut cells).pop();
        let cell = cells.remove(0);
        assert_eq!(
            overflow.map_or_else(|| cell.to_string(), |(_, error)| error.to_string()),
            expected
        );
    }

    #[test]
    fn every_function_takes_every_type_it_should() {
        use Function::{Avg, Count, Max, Min, Sum};
        let ints = |values: &[Option<i64>]| -> ArrayRef {
            Arc::new(values.iter().copied().collect::<Int64Array>())
        };
        let floats = |values: &[Option<f64>]| -> ArrayRef {
            Arc::new(values.iter().copied().collect::<Float64Array>())
        };
        let texts = |values: &[Option<&str>]| -> ArrayRef {
            Arc::new(values.iter().copied().collect::<StringViewArray>())
        };
        let bools = |values: &[Option<bool>]| -> ArrayRef {
            Arc::new(values.iter().copied().collect::<BooleanArray>())
        };
        let times = |values: &[Option<i64>]| -> ArrayRef {
            let times: TimestampMicrosecondArray = values.iter().copied().collect();
            Arc::new(times.with_data_type(Type::Timestamp.arrow()))
        };

        let some = ints(&[Some(3), None, Some(-5), Some(4)]);
        check(Count, Type::Int, Arc::clone(&some), "3");
        check(Sum, Type::Int, Arc::clone(&some), "2");
        check(Avg, Type::Int, Arc::clone(&some), "0.6666666666666666");
        check(Min, Type::Int, Arc::clone(&some), "-5");
        check(Max, Type::Int, some, "4");

        let none = ints(&[None, None]);
        check(Count, Type::Int, Arc::clone(&none), "0");
        check(Sum, Type::Int, Arc::clone(&none), "NULL");
        check(Avg, Type::Int, Arc::clone(&none), "NULL");
        check(Max, Type::Int, none, "NULL");

        let wide = ints(&[Some(i64::MAX), Some(i64::MAX)]);
        check(
            Sum,
            Type::Int,
            Arc::clone(&wide),
            "the sum 18446744073709551614 does not fit an int",
        );
        check(Avg, Type::Int, wide, "9223372036854776000");
        let back = ints(&[Some(i64::MAX), Some(i64::MAX), Some(i64::MIN), Some(i64::MIN)]);
        check(Sum, Type::Int, back, "-2");

        let some = floats(&[Some(1e16), Some(1.0), None, Some(-1e16), Some(-0.0)]);
        check(Sum, Type::Float, Arc::clone(&some), "1");
        check(Avg, Type::Float, Arc::clone(&some), "0.25");
        check(Min, Type::Float, Arc::clone(&some), "-10000000000000000");
        check(Max, Type::Float, some, "10000000000000000");
        check(Sum, Type::Float, floats(&[None, None]), "NULL");
        let unruly = floats(&[Some(f64::NAN), Some(f64::NEG_INFINITY)]);
        check(Sum, Type::Float, Arc::clone(&unruly), "NaN");
        check(Min, Type::Float, Arc::clone(&unruly), "-inf");
        check(Max, Type::Float, unruly, "NaN");

        let some =
            texts(&[Some("b"), None, Some("a text that is not inline"), Some("c"), Some("")]);
        check(Count, Type::String, Arc::clone(&some), "4");
        check(Min, Type::String, Arc::clone(&some), "");
        check(Max, Type::String, some, "c");
        check(Min, Type::String, texts(&[None, None]), "NULL");
        check(Min, Type::String, texts(&[None, Some("late")]), "late");

        let money = Type::Decimal(Decimal::new(12, 2).unwrap());
        let decimals = |kind: Type, values: &[Option<i128>]| -> ArrayRef {
            let decimals: Decimal128Array = values.iter().copied().collect();
            Arc::new(decimals.with_data_type(kind.arrow()))
        };
        let some = decimals(money, &[Some(10), None, Some(20), Some(-1_000_000)]);
        check(Count, money, Arc::clone(&some), "3");
        check(Sum, money, Arc::clone(&some), "-9999.70");
        check(Avg, money, Arc::clone(&some), "-3333.233333");
        check(Min, money, Arc::clone(&some), "-10000.00");
        check(Max, money, some, "0.20");
        for function in [Sum, Avg, Min] {
            check(function, money, decimals(money, &[None, None]), "NULL");
        }
        let (widest, most) = (Type::Decimal(Decimal::new(38, 2).unwrap()), 10_i128.pow(38) - 1);
        let nines = "9".repeat(36);
        check(Sum, widest, decimals(widest, &[Some(most), Some(0)]), &format!("{nines}.99"));
        check(
            Sum,
            widest,
            decimals(widest, &[Some(most), Some(1)]),
            &format!("the sum 1{}.00 does not fit a decimal(38,2)", "0".repeat(36)),
        );
        let back = [Some(most), Some(most), Some(-most), Some(-most), Some(-7)];
        check(Sum, widest, decimals(widest, &back), "-0.07");

        check(Min, Type::Bool, bools(&[Some(true), None, Some(false)]), "false");
        check(Max, Type::Bool, bools(&[Some(false), Some(true)]), "true");
        let some = times(&[Some(1_500_000), Some(-1), None]);
        check(Min, Type::Timestamp, Arc::clone(&some), "1969-12-31T23:59:59.999999Z");
        check(Max, Type::Timestamp, some, "1970-01-01T00:00:01.500Z");
    }

    #[test]
    fn rows_that_are_added_and_taken_back_in_one_epoch_leave_nothing() {
        let mut groups = Groups::new(&spec(Function::Sum, Some(Type::Float)));
        let keys: Vec<ArrayRef> = vec![Arc::new(Int64Array::from(vec![1, 1, 2]))];
        let column: ArrayRef = Arc::new(Float64Array::from(vec![0.1, f64::NAN, f64::INFINITY]));
        groups.update(3, &inputs(&keys, Some(Arc::clone(&column))), None, 1);
        assert_eq!(groups.len(), 2);
        groups.update(3, &inputs(&keys, Some(column)), None, -1);
        assert_eq!(groups.drain().count(), 0);
    }

    #[test]
    fn rows_that_are_left_out_make_no_group() {
        let mut groups = Groups::new(&spec(Function::CountAll, None));
        let keys: Vec<ArrayRef> = vec![Arc::new(Int64Array::from(vec![1, 2, 3]))];
        let skip = BooleanArray::from(vec![Some(true), Some(false), None]);
        groups.update(3, &Inputs { skip: Some(skip), ..inputs(&keys, None) }, None, 1);
        let rows: Vec<i64> = groups.drain().map(|drained| drained.accumulator.rows).collect();
        assert_eq!(rows, [1, 1]);
    }

    #[test]
    fn groups_outlive_the_chunk_they_were_read_from() {
        let spec = AggregateSpec {
            keys: vec![crate::Column::new("k", Type::String)],
            ..spec(Function::Max, Some(Type::String))
        };
        let mut groups = Groups::new(&spec);
        let column: ArrayRef =
            Arc::new(StringViewArray::from_iter_values(["a text that is not inline"]));
        let keys = [Arc::clone(&column)];
        groups.update(1, &inputs(&keys, Some(Arc::clone(&column))), None, 1);
        drop(keys);
        assert_eq!(Arc::strong_count(&column), 1);
        let Drained { key, accumulator, .. } = groups.drain().next().unwrap();
        assert_eq!(key.text(&spec.keys), "k=a text that is not inline");
        let mut cells = Vec::new();
        assert!(accumulator.finish(&spec, &mut cells).is_empty());
        assert_eq!(cells, [Value::String("a text that is not inline".into())]);
    }

    #[test]
    #[should_panic(expected = "x: Sum of string does not give int")]
    fn a_sum_of_texts_is_never_planned() {
        let mut spec = spec(Function::Sum, Some(Type::Int));
        spec.compute[0].argument = Some(Type::String);
        drop(Groups::new(&spec));
    }
}
