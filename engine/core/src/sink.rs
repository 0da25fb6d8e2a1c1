//! Sinks: where records leave. A `files` sink writes one file per input file, in input order (behind
//! operators that take rows back it is a [`shelf`], which writes them anew); a `table` sink keeps the
//! current contents of a collection.
//!
//! Everything written here is staged: nobody outside sees it before the journal says so.

pub mod body;
pub mod staging;

pub mod parts;

pub mod changes;
pub mod files;
pub mod rejects;
pub mod shelf;
pub mod table;
