//! Corrections: random pipelines whose random files are sent, replaced and removed, and what must
//! come of it: the bytes of a fresh run over the files that are left.
//!
//! A [`Case`] is a pipeline and the rounds of what is done to it. A [`fleet`] is many cases in one
//! process, because starting a process costs more than running a case; after each round the process
//! is asked to end, or killed, and started in another shape. Everything follows from a seed.
//!
//! Map, in reading order: [`pipeline`] (a pipeline as data), [`grow`] (random ones that check),
//! [`files`] (random inputs), [`case`] (what is done, and which files are left), [`fleet`] (doing
//! it), [`campaign`] (many fleets, and the smallest case of what failed).

pub mod pipeline;

pub mod files;
pub mod grow;

pub mod case;

pub mod campaign;
pub mod fleet;

pub use campaign::{Campaign, Failure, Report};
pub use case::{Case, Step};
pub use pipeline::Pipeline;
