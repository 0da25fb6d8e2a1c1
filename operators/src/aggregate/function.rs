//! Function: what an aggregate can compute, over which arguments, and what has to be kept for it.
//!
//! Owns the names and types of all functions, and the decision which of them live in the difference
//! alone and which need values to be held ([`AggregateSpec::hold`]). Computes nothing.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::types::{Column, Schema, Type};

/// What one aggregate computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Function {
    /// `count(*)`: the number of rows.
    CountAll,
    /// `count(x)`: the number of rows whose argument is not NULL.
    Count,
    /// `sum(x)`: the exact sum of the arguments; NULL when all of them are NULL.
    Sum,
    /// `avg(x)`: the exact sum divided by the number of arguments that are not NULL.
    Avg,
    /// `min(x)`: the least argument; NULL when all of them are NULL.
    Min,
    /// `max(x)`: the greatest argument; NULL when all of them are NULL.
    Max,
    /// `count(DISTINCT x)`: how many arguments differ, NULL not counted.
    CountDistinct,
    /// `first(x [ORDER BY ...])`: the argument of the first row, NULL or not.
    First,
    /// `last(x [ORDER BY ...])`: the argument of the last row, NULL or not.
    Last,
    /// `arg_min(x, t)`: the argument of the first row with the least `t`; rows without do not count.
    ArgMin,
    /// `arg_max(x, t)`: the argument of the last row with the greatest `t`; rows without do not count.
    ArgMax,
    /// `var_samp(x)`: the variance of a sample; NULL for fewer than two arguments.
    VarSamp,
    /// `var_pop(x)`: the variance of all there is.
    VarPop,
    /// `stddev_samp(x)`: the standard deviation of a sample; NULL for fewer than two arguments.
    StddevSamp,
    /// `stddev_pop(x)`: the standard deviation of all there is.
    StddevPop,
    /// `approx_distinct(x)`: about how many arguments differ.
    ApproxDistinct,
    /// `approx_quantile(x, share)`: about the argument below which this share of them lies.
    ApproxQuantile(Share),
    /// The place of the first row, which is no SQL: bytes for whoever writes files.
    Place,
}

/// A share between 0 and 1.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Share(u64);

impl Share {
    /// Returns the share, if it is one.
    pub fn new(share: f64) -> Option<Self> {
        (0.0..=1.0).contains(&share).then(|| Self((share + 0.0).to_bits()))
    }

    /// Returns the share as a number.
    pub const fn get(self) -> f64 {
        f64::from_bits(self.0)
    }
}

impl fmt::Debug for Share {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}", self.get())
    }
}

impl Function {
    /// Returns the name that is written in a pipeline file.
    pub const fn name(self) -> &'static str {
        match self {
            Function::CountAll => "count(*)",
            Function::Count => "count",
            Function::Sum => "sum",
            Function::Avg => "avg",
            Function::Min => "min",
            Function::Max => "max",
            Function::CountDistinct => "count distinct",
            Function::First => "first",
            Function::Last => "last",
            Function::ArgMin => "arg_min",
            Function::ArgMax => "arg_max",
            Function::VarSamp => "var_samp",
            Function::VarPop => "var_pop",
            Function::StddevSamp => "stddev_samp",
            Function::StddevPop => "stddev_pop",
            Function::ApproxDistinct => "approx_distinct",
            Function::ApproxQuantile(_) => "approx_quantile",
            Function::Place => "place",
        }
    }

    /// Returns the type of the result for an argument of this type, `None` when the function does
    /// not take such an argument.
    pub const fn result(self, argument: Option<Type>) -> Option<Type> {
        match (self, argument) {
            (Function::CountAll, None) => Some(Type::Int),
            (Function::Count | Function::CountDistinct | Function::ApproxDistinct, Some(_)) => {
                Some(Type::Int)
            }
            (Function::Sum, Some(Type::Int)) => Some(Type::Int),
            (Function::Sum, Some(Type::Decimal(digits))) => Some(Type::Decimal(digits.total())),
            (Function::Avg, Some(Type::Decimal(digits))) => Some(Type::Decimal(digits.mean())),
            (Function::Sum | Function::Avg, Some(Type::Float)) => Some(Type::Float),
            (Function::Avg, Some(Type::Int)) => Some(Type::Float),
            (Function::Min | Function::Max, kind) => kind,
            (
                Function::First | Function::Last | Function::ArgMin | Function::ArgMax,
                Some(kind),
            ) => Some(kind),
            (
                Function::VarSamp
                | Function::VarPop
                | Function::StddevSamp
                | Function::StddevPop
                | Function::ApproxQuantile(_),
                Some(Type::Int | Type::Float),
            ) => Some(Type::Float),
            (Function::Place, None) => Some(Type::String),
            _ => None,
        }
    }

    /// Returns whether it computes with floats whatever numbers it is given.
    pub const fn is_of_floats(self) -> bool {
        matches!(
            self,
            Function::VarSamp
                | Function::VarPop
                | Function::StddevSamp
                | Function::StddevPop
                | Function::ApproxQuantile(_)
        )
    }

    /// Returns whether one row is picked by an order, and its argument is the result.
    pub const fn is_pick(self) -> bool {
        matches!(
            self,
            Function::First
                | Function::Last
                | Function::ArgMin
                | Function::ArgMax
                | Function::Place
        )
    }

    /// Returns whether the last row of the order is picked and not the first.
    pub(super) const fn is_backwards(self) -> bool {
        matches!(self, Function::Max | Function::Last | Function::ArgMax)
    }

    /// Returns whether rows count only where what they are ordered by is not NULL.
    pub(super) const fn skips_null_order(self) -> bool {
        matches!(self, Function::ArgMin | Function::ArgMax)
    }
}

/// One thing that rows are ordered by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Sort {
    /// Its type.
    pub kind: Type,
    /// Whether the greatest comes first.
    pub descending: bool,
    /// Whether NULL comes first.
    pub nulls_first: bool,
}

/// One computed column of an aggregate.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Computed {
    /// The name of the column.
    pub name: String,
    /// What is computed.
    pub function: Function,
    /// The type of the argument; `None` for `count(*)`.
    pub argument: Option<Type>,
    /// What rows are ordered by, for a function that picks one.
    pub order: Vec<Sort>,
    /// Whether rows that are equal in that order are ordered by arrival: submission, chunk, position.
    pub arrival: bool,
    /// The type of the result.
    pub kind: Type,
}

impl Computed {
    /// Returns a column that needs no order; `None` when the function does not take the argument.
    pub fn new(name: &str, function: Function, argument: Option<Type>) -> Option<Self> {
        let kind = function.result(argument)?;
        let (name, order) = (name.to_owned(), Vec::new());
        Some(Self { name, function, argument, order, arrival: false, kind })
    }
}

/// Which rows of its input can be taken back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TakenBack {
    /// None: the sources are only ever added to.
    Never,
    /// All rows of a file together, and never some of them: the file is replaced or removed.
    #[default]
    ByFile,
    /// Any row: an operator upstream corrects what it says.
    ByRow,
}

/// What is held of the arguments of one aggregate, besides its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hold {
    /// Candidates, ordered: the first one counts.
    Candidates,
    /// Each argument that is there: their number counts.
    Distinct,
    /// For each register the levels that are there: the greatest of each counts.
    Levels,
}

/// What an aggregate groups by and what it computes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct AggregateSpec {
    /// The key columns, in order. No key column means one group for everything.
    pub keys: Vec<Column>,
    /// The computed columns, in order; they follow the keys in the output.
    pub compute: Vec<Computed>,
    /// Which rows can be taken back.
    pub taken_back: TakenBack,
}

/// A computed column whose function does not fit its types.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name}: {function:?} of {} does not give {kind}", .argument.map_or("rows", Type::name))]
pub struct SpecError {
    /// The computed column.
    pub name: String,
    /// Its function.
    pub function: Function,
    /// The type of its argument.
    pub argument: Option<Type>,
    /// The type it claims to give.
    pub kind: Type,
}

impl AggregateSpec {
    /// Checks that every function takes its argument and gives its type.
    pub fn check(&self) -> Result<(), SpecError> {
        for one in &self.compute {
            if one.function.result(one.argument) != Some(one.kind) {
                return Err(SpecError {
                    name: one.name.clone(),
                    function: one.function,
                    argument: one.argument,
                    kind: one.kind,
                });
            }
        }
        Ok(())
    }

    /// Returns the aggregate whose groups are those of one file: a group has its file before its key,
    /// and the place of its first row behind what is computed. Its rows must know their places.
    #[must_use]
    pub fn per_file(mut self) -> Self {
        self.keys.insert(0, Column::hidden("submission", Type::Int));
        self.compute.push(Computed {
            name: "place".to_owned(),
            function: Function::Place,
            argument: None,
            order: Vec::new(),
            arrival: true,
            kind: Type::String,
        });
        self
    }

    /// Returns whether groups are those of one file.
    pub fn is_per_file(&self) -> bool {
        self.compute.last().is_some_and(|one| one.function == Function::Place)
    }

    /// Returns the columns of the output: the keys, then what is computed.
    pub fn schema(&self) -> Schema {
        let keys = self.keys.iter().filter(|key| !key.is_hidden()).cloned();
        let computed = self.compute.len() - usize::from(self.is_per_file());
        let computed =
            self.compute.iter().take(computed).map(|one| Column::new(&one.name, one.kind));
        Schema::new(keys.chain(computed).collect())
    }

    /// Returns the computed columns that have a state, in its order: all but `count(*)`.
    pub(super) fn stated(&self) -> impl Iterator<Item = &Computed> {
        self.compute.iter().filter(|one| one.function != Function::CountAll)
    }

    /// Returns what is held of the arguments of a computed column.
    pub(super) fn hold(&self, computed: &Computed) -> Option<Hold> {
        match computed.function {
            Function::CountDistinct => Some(Hold::Distinct),
            Function::ApproxDistinct => Some(Hold::Levels),
            Function::Min | Function::Max => self.hold_candidates(),
            function if function.is_pick() => self.hold_candidates(),
            _ => None,
        }
    }

    fn hold_candidates(&self) -> Option<Hold> {
        // What only grows needs but the best so far.
        (self.taken_back != TakenBack::Never).then_some(Hold::Candidates)
    }

    /// Returns whether something is held for some computed column.
    pub fn holds(&self) -> bool {
        self.compute.iter().any(|one| self.hold(one).is_some())
    }
}
