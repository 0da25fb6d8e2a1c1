//! Keyed: what operators share that keep the rows of a key and say something new when they change.
//!
//! | input  | rows of files, each with a key; and the epochs that were poisoned                     |
//! | output | per epoch the rows taken back (diff -1), then the rows that are now there (+1)         |
//! | state  | every row that is there, in a differential arrangement: its bytes and 8 more           |
//! | errors | rows whose expressions failed                                                         |
//! | leaves | a row leaves memory when it is taken back                                             |
//!
//! [`gather`] holds the rows of a file where they are until the file is whole and nobody upstream
//! said that it failed; [`arrange`] brings each key to its worker; [`changes`] asks a [`Logic`] what it
//! says of a key before and after each epoch, and lets out the difference. [`KeptPacked`] writes the
//! rows down for checkpoints ([`crate::keep`]) and [`decode_kept`] reads them.
//!
//! Rows are bytes that sort ([`RowLayout`]): first what orders them among those of their key, then
//! where their record stands, then their columns. So "the first", "the last" and "the first ten" are
//! a few steps from where the values of a key begin, however many there are.
//!
//! Where rows are never taken back and only the first few of a key are ever asked for, [`arrange_first`]
//! keeps no others.
//!
//! An operator of one input is [`gather`], [`arrange`] and [`changes`] one after the other; one that
//! reads two arrangements uses the first two, and [`AsOf`], [`Values`], [`pieces`] and [`forget`].

mod arrange;
mod changes;
mod first;
mod gather;
mod layout;
mod packed;
mod pile;
mod present;
mod said;

use crate::key::Key;
use crate::time::Time;

pub use arrange::{
    AsOf, KeptPacked, KeptRow, Lookup, ROW_FORMAT, Values, arrange, decode_kept, forget, pieces,
};
pub(crate) use arrange::{decode_kept_as, taken_back_too_often};
pub use changes::{Logic, changes};
pub use first::arrange_first;
pub use gather::{Incoming, Inputs, gather};
pub use layout::{Arrival, Direction, Nulls, OrderColumn, Place, RowLayout, append_int};
#[cfg(test)]
pub(crate) use packed::PackedBuilder;
pub(crate) use packed::offsets;
pub use packed::{Packed, PackedSpine, Piece, Rows, Size, Trace, TraceCursor, size};
pub use present::Port;
pub(crate) use present::Presenter;
pub use said::Said;

/// One change of the rows of a key: `((key, value), time, diff)`.
pub type Update = ((Key, Key), Time, i64);
