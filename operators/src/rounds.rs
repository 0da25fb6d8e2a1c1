//! Rounds: where an operator with state stands among the loops of its plan: which rounds tell its states
//! apart, and at what time it speaks. Pure.
//!
//! Each round of a loop has a state of its own: what comes to an operator in round 2 meets what came
//! to it in round 2 before, and nothing else. So the rounds of the loops around an operator are part of
//! its key, in hidden columns that stand first. What it says of a round it says at the end of the file,
//! in that round, once nothing of the file can come in this round or before it: behind every round of the
//! loops that records have left before, in no round yet of those that they enter later. That is one time
//! for each key and epoch, whatever chunk a row came in.
//!
//! It never says how a round is counted; [`Turns`] does.

use std::sync::Arc;

use arrow_array::{ArrayRef, Int64Array};

use crate::keyed::{Direction, Nulls, OrderColumn};
use crate::time::{Time, Turns};
use crate::types::{Column, Type};

/// How an operator relates to a loop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Relation {
    /// What comes to it left the loop before, or has nothing to do with it.
    Behind,
    /// It is inside of the loop with this head, and so is all that it reads: each round is another key.
    Inside(String),
    /// It is inside of the loop, and reads something from outside, which every round sees: the round
    /// is a part of the rows that come from inside.
    Across,
    /// What it says enters the loop later; or comes into it from outside.
    Before,
}

/// The rounds that an operator with state tells apart, and the time at which it speaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rounds {
    /// The loops whose rounds are part of the key, outermost first, with their heads.
    keys: Vec<(String, Turns)>,
    /// The loops whose rounds are part of a row.
    rows: Vec<Turns>,
    /// The bits of all others that are behind it.
    behind: u64,
}

impl Default for Rounds {
    /// Behind all loops, or where there are none.
    fn default() -> Self {
        Self { keys: Vec::new(), rows: Vec::new(), behind: u64::MAX }
    }
}

impl Rounds {
    /// Returns the rounds of an operator that relates so to the loops of its plan, given in their order.
    pub fn new(loops: impl IntoIterator<Item = (Turns, Relation)>) -> Self {
        let mut rounds = Self::default();
        for (turns, relation) in loops {
            if relation != Relation::Behind {
                rounds.behind &= !turns.mask();
            }
            match relation {
                Relation::Inside(head) => rounds.keys.push((head, turns)),
                Relation::Across => rounds.rows.push(turns),
                Relation::Behind | Relation::Before => {}
            }
        }
        rounds
    }

    /// Returns the time at which is said what follows from something that came at `time`.
    pub fn end(&self, time: &Time) -> Time {
        let around = self.keys.iter().map(|(_, turns)| turns).chain(&self.rows);
        let mask = around.fold(0, |mask, turns| mask | turns.mask());
        Time { chunk: Time::END, round: (time.round & mask) | self.behind, ..*time }
    }

    /// Returns the hidden columns that a key begins with.
    pub fn key_columns(&self) -> Vec<Column> {
        let column =
            |(head, _): &(String, Turns)| Column::hidden(&format!("round of {head}"), Type::Int);
        self.keys.iter().map(column).collect()
    }

    /// Returns these key columns behind the hidden ones.
    pub fn before_keys(&self, keys: Vec<Column>) -> Vec<Column> {
        let mut all = self.key_columns();
        all.extend(keys);
        all
    }

    /// Returns what the order of the rows of a key begins with.
    pub fn row_columns(&self) -> Vec<OrderColumn> {
        let (kind, direction, nulls) = (Type::Int, Direction::Ascending, Nulls::First);
        vec![OrderColumn { kind, direction, nulls }; self.rows.len()]
    }

    /// Puts the rounds of rows that came at `time` before their key columns.
    pub fn put_keys(&self, time: &Time, rows: usize, keys: &mut Vec<ArrayRef>) {
        let turns: Vec<Turns> = self.keys.iter().map(|(_, turns)| *turns).collect();
        put(&turns, time, rows, keys);
    }

    /// Puts the rounds that are part of the rows before what orders them.
    pub fn put_rows(&self, time: &Time, rows: usize, order: &mut Vec<ArrayRef>) {
        put(&self.rows, time, rows, order);
    }

    /// Returns the rounds of what comes from outside of the loops whose rounds are part of a row, and which
    /// every round sees.
    #[must_use]
    pub fn outside(&self) -> Self {
        Self { rows: Vec::new(), ..self.clone() }
    }

    /// Returns the loops whose rounds are part of a row.
    pub fn across(&self) -> &[Turns] {
        &self.rows
    }
}

fn put(turns: &[Turns], time: &Time, rows: usize, columns: &mut Vec<ArrayRef>) {
    let round = |turns: &Turns| -> ArrayRef {
        Arc::new(Int64Array::from_value(turns.of(time).cast_signed(), rows))
    };
    columns.splice(..0, turns.iter().map(round));
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use timely::progress::timestamp::PathSummary;

    fn inside(head: &str) -> Relation {
        Relation::Inside(head.to_owned())
    }

    #[test]
    fn a_round_ends_behind_what_was_left_and_before_what_is_entered() {
        let turns = Turns::divide([3, 7, 3, 7]).unwrap();
        let [left, outer, inner, later] = turns[..] else { panic!() };
        let relations = [Relation::Behind, inside("o"), Relation::Behind, Relation::Before];
        let rounds = Rounds::new(turns.iter().copied().zip(relations));
        let start = Time::new(4, 9);
        let came = outer.step().results_in(&left.step().results_in(&start).unwrap()).unwrap();
        let end = rounds.end(&came);
        let all = [left, outer, inner, later].map(|turns| turns.of(&end));
        assert_eq!((end.epoch, end.chunk, all), (4, Time::END, [3, 1, 3, 0]));
        assert!(came < end);
        // What it says goes round, and comes back later than it was said.
        let again = outer.step().results_in(&end).unwrap();
        assert!(again > end);
        assert!(rounds.end(&again) > again);
        assert_eq!(rounds.end(&rounds.end(&again)), rounds.end(&again));
        assert_eq!(rounds.key_columns().len(), 1);
    }

    #[test]
    fn without_loops_a_file_has_one_end() {
        let rounds = Rounds::default();
        assert_eq!(rounds.end(&Time::new(3, 7)), Time::end(3));
        assert_eq!(rounds, Rounds::new([]));
        let mut keys: Vec<ArrayRef> = Vec::new();
        rounds.put_keys(&Time::new(3, 7), 5, &mut keys);
        assert!(keys.is_empty());
    }

    #[test]
    fn rounds_stand_before_the_key_outermost_first() {
        let turns = Turns::divide([3, 3]).unwrap();
        let rounds = Rounds::new(turns.iter().copied().zip([inside("one"), inside("two")]));
        let (one, two) = (turns[0].step(), turns[1].step());
        let time = one.results_in(&Time::new(1, 0)).and_then(|time| two.results_in(&time));
        let time = two.results_in(&time.unwrap()).unwrap();
        let mut keys: Vec<ArrayRef> = vec![Arc::new(Int64Array::from(vec![7, 8]))];
        rounds.put_keys(&time, 2, &mut keys);
        let cells = |at: usize| keys[at].as_any().downcast_ref::<Int64Array>().unwrap().value(1);
        assert_eq!([cells(0), cells(1), cells(2)], [1, 2, 8]);
        let shown: Vec<String> =
            rounds.key_columns().iter().map(|one| one.shown().to_owned()).collect();
        assert_eq!(shown, ["round of one", "round of two"]);
    }
}
