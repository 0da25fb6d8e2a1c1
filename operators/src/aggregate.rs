//! Aggregate: one row per key over all files seen, corrected when a file is replaced.
//!
//! | input  | rows of files, and the epochs that were poisoned                                  |
//! | output | per epoch: the rows taken back (diff -1) and the rows that are now there (+1)      |
//! | state  | one entry per key: count of rows, and per aggregate a count, sum or extremum       |
//! | errors | rows whose expressions failed; sums of integers that do not fit an int             |
//! | leaves | a key leaves memory when its last row is taken back                                |
//!
//! Two halves. [`gather`] runs where the rows are: it adds up each epoch in [`Groups`] and hands
//! the result over only when the epoch is complete and no operator upstream poisoned it, so that a
//! failing file leaves no trace. [`totals`] runs where the key lives: it holds one row per key in a
//! differential arrangement whose difference is the [`Accumulator`]. Every sum is exact, so the
//! result does not depend on the number of workers or on the order in which rows arrive, to the
//! last bit. [`kept_totals`] are totals that a checkpoint can hold, row by row ([`encode_row`]).

mod accumulator;
mod checkpoint;
mod exact;
mod gather;
mod groups;
mod row;
mod shortcut;
mod sums;
mod totals;

use serde::{Deserialize, Serialize};

use crate::types::{Column, Schema, Type};

pub use crate::key::{Key, KeyEncoder, KeyError, decode_columns, decode_values};
pub use crate::value::Value;
pub use accumulator::{Accumulator, FloatSum, State, SumOverflow};
pub use exact::ExactSum;
pub use gather::{Inputs, Partial, gather};
pub use groups::Groups;
pub use row::{ROW_FORMAT, RowError, RowReader, decode_rows, encode_row, put_number};
pub use totals::{Kept, KeptTotals, kept_totals, totals};

/// What one aggregate computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Function {
    /// The number of rows.
    CountAll,
    /// The number of rows whose argument is not NULL.
    Count,
    /// The exact sum of the arguments; NULL when all of them are NULL.
    Sum,
    /// The exact sum divided by the number of arguments that are not NULL.
    Avg,
    /// The least argument; NULL when all of them are NULL.
    Min,
    /// The greatest argument; NULL when all of them are NULL.
    Max,
}

impl Function {
    /// Returns the type of the result for an argument of this type, `None` when the function does
    /// not take such an argument.
    pub const fn result(self, argument: Option<Type>) -> Option<Type> {
        match (self, argument) {
            (Function::CountAll, None) | (Function::Count, Some(_)) => Some(Type::Int),
            (Function::Sum, Some(Type::Int)) => Some(Type::Int),
            (Function::Sum | Function::Avg, Some(Type::Float)) => Some(Type::Float),
            (Function::Avg, Some(Type::Int)) => Some(Type::Float),
            (Function::Min | Function::Max, kind) => kind,
            _ => None,
        }
    }

    /// Returns whether rows can be taken back without keeping them.
    pub const fn is_retractable(self) -> bool {
        !matches!(self, Function::Min | Function::Max)
    }
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
    /// The type of the result.
    pub kind: Type,
}

/// What an aggregate groups by and what it computes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct AggregateSpec {
    /// The key columns, in order. No key column means one group for everything.
    pub keys: Vec<Column>,
    /// The computed columns, in order; they follow the keys in the output.
    pub compute: Vec<Computed>,
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

    /// Returns the columns of the output: the keys, then what is computed.
    pub fn schema(&self) -> Schema {
        let computed = self.compute.iter().map(|one| Column::new(&one.name, one.kind));
        Schema::new(self.keys.iter().cloned().chain(computed).collect())
    }

    /// Returns whether every computed column can be corrected without keeping rows.
    pub fn is_retractable(&self) -> bool {
        self.compute.iter().all(|one| one.function.is_retractable())
    }
}
