//! Aggregate: one row per key over all files seen, corrected when a file is replaced.
//!
//! | input  | rows of files, and the epochs that were poisoned                                  |
//! | output | per epoch: the rows taken back (diff -1) and the rows that are now there (+1)      |
//! | state  | one entry per key: count of rows, and per aggregate a count, sum or picked cell;   |
//! |        | where a correction needs them, held values beside it ([`hold`])                   |
//! | errors | rows whose expressions failed; sums of integers that do not fit an int             |
//! | leaves | a key leaves memory when its last row is taken back                                |
//!
//! Three parts. [`gather`] runs where the rows are: it adds up each epoch in [`Groups`] and hands
//! the result over only when the epoch is complete and no operator upstream poisoned it, so that a
//! failing file leaves no trace. [`totals`] runs where the key lives: it holds one row per key in a
//! differential arrangement whose difference is the [`Accumulator`]. Counts, sums, variances and
//! quantiles live in the difference alone, which can take anything back. A minimum cannot: what could
//! become the minimum is *held* in a second arrangement ([`hold`]), one candidate for each key and
//! file, whoever read which part of it, since a file is taken back as a whole or not at all; and not even that where files are only
//! ever added ([`TakenBack`]). What is held says what to add to the accumulator of its key.
//!
//! Every sum is exact and every answer depends on the multiset of rows alone, so it does not depend
//! on the number of workers or on the order in which rows arrive, to the last bit. [`kept_totals`]
//! are totals that a checkpoint can hold, row by row ([`encode_row`]).

mod accumulator;
mod arranged;
mod candidate;
mod checkpoint;
mod correction;
mod exact;
mod function;
mod gather;
mod groups;
mod hold;
mod memory;
mod moments;
mod quantile;
mod registers;
mod row;
mod shortcut;
mod states;
mod sums;
mod totals;
mod whole;

pub use crate::key::{Key, KeyEncoder, KeyError, decode_columns, decode_values};
pub use crate::value::Value;
pub use accumulator::{Accumulator, Counted, FloatSum, State, SumOverflow};
pub use candidate::Arrivals;
pub use exact::ExactSum;
use function::Hold;
pub use function::{AggregateSpec, Computed, Function, Share, Sort, SpecError, TakenBack};
pub use gather::{Gathered, Held, Inputs, Partial, Reach, gather};
pub use groups::{Drained, Groups};
pub use hold::{decode_held, hold};
pub use moments::Moments;
pub use row::{ROW_FORMAT, RowError, RowReader, decode_rows, encode_row, put_number};
pub use states::States;
pub use totals::{HeldBeside, Kept, KeptTotals, kept_totals, totals};
