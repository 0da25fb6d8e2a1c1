//! Corrections: random pipelines whose random files are sent, replaced and removed, and what must
//! come of it: the bytes of a fresh run over the files that are left.
//!
//! A [`Case`] is what is done to a pipeline round by round, until a comparison; a [`History`] is a
//! pipeline and its cases, with everything removed between them: then nothing may be left. A [`fleet`]
//! is many histories in one process, because building dataflows costs more than running files; behind
//! some rounds the process is asked to end, or killed, and started in another shape. Everything follows
//! from a seed.
//!
//! Map, in reading order: [`pipeline`] (a pipeline as data), [`grow`] (random ones that check),
//! [`files`] (random inputs), [`history`] (what is done, and which files are left), [`fleet`] (doing
//! it), [`outputs`] (what was found, and what must be true of it), [`campaign`] (many fleets),
//! [`shrink`] (the smallest history of what failed).

pub mod pipeline;

pub mod files;
pub mod grow;

pub mod history;

pub mod campaign;
pub mod fleet;
pub mod outputs;
pub mod shrink;

pub use campaign::{Campaign, Failure, Report};
pub use history::{Case, History, Step};
pub use pipeline::Pipeline;
