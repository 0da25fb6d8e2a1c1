//! What data is, and what can be done to it.
//!
//! This crate holds the columnar [`Batch`] that flows on every edge, the [`Time`] it flows at, the
//! file formats that turn bytes into columns and back, the SQL expressions over those columns, and
//! one file per operator. It knows no files, no network, no async and no clock: everything in here
//! is a function of its inputs.
//!
//! Map, in reading order: [`time`], [`decimal`] and [`types`] (the vocabulary), [`batch`] and [`reject`] (what
//! flows), [`format`](mod@format) (bytes to columns and columns to bytes), [`expr`] (SQL over
//! columns), [`key`] and [`value`] (rows as bytes that sort, and single cells), [`exchange`] (how
//! batches change workers), [`flow`], [`meter`] and [`tally`] (what an operator takes, gives and
//! counts), [`shards`] and [`keep`] (how state is cut and written for checkpoints), then one module
//! per operator: [`filter`], [`select`], [`route`], [`lots`], [`parse`], [`window`], [`explode`], [`expect`],
//! [`aggregate`], and those that keep the rows of a key with the kit [`keyed`]: [`dedupe`], [`top`],
//! [`join`], [`state`].

pub mod decimal;
pub mod time;
pub mod types;

pub mod batch;
pub mod reject;

pub mod format;

pub mod key;
pub mod value;

pub mod expr;

pub mod exchange;
pub mod flow;
pub mod keep;
pub mod meter;
pub mod shards;
pub mod tally;

pub mod expect;
pub mod explode;
pub mod filter;
pub mod lots;
pub mod parse;
pub mod route;
pub mod select;
pub mod state;
pub mod window;

pub mod turn;

pub mod aggregate;

pub mod keyed;
pub mod rounds;

pub mod dedupe;
pub mod join;
pub mod top;

pub use batch::{Batch, Origin};
pub use decimal::Decimal;
pub use reject::{OnError, Reject, RejectCode};
pub use time::Time;
pub use types::{Column, Schema, Type};
