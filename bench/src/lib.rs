//! Measured tables: what the hand-written limit, the peers and tidemill itself do with the same files.
//!
//! This crate owns the seeded data sets ([`generate`]), the single-purpose programs that say how
//! fast two cores can be ([`limit`]), and the runner that times every contestant as a process of its
//! own and compares what it wrote ([`run`]). It never links the engine: what is measured is the
//! binary that people run.
//!
//! ```
//! use tidemill_bench::generate::{Dataset, Shape};
//!
//! let shape = Shape { files: 2, records: 10, ..Dataset::WeblogJsonl.full() };
//! let files: Vec<_> = tidemill_bench::generate::files(Dataset::WeblogJsonl, shape).collect();
//! assert_eq!(files[0].name, "weblog-00.jsonl");
//! assert_eq!(files[0].content.iter().filter(|&&byte| byte == b'\n').count(), 10);
//! ```
//!
//! Map, in reading order: [`random`], [`calendar`], [`generate`], [`limit`], [`run`], [`rounds`],
//! [`corrections`], [`keys`].

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod calendar;
pub mod random;

pub mod generate;
pub mod limit;
pub mod run;

pub mod corrections;
pub mod keys;
pub mod rounds;
