//! Ingest: from an accepted file to batches. One coordinator on worker 0 gives out pieces of files
//! in order; readers on all workers read, inflate and parse them.
//!
//! Derived state only: everything here is rebuilt by reading the file again.

pub mod backlog;
pub mod buffers;
pub mod checks;
pub mod coordinator;
pub mod digest;
pub mod flow;
pub mod frame;
pub mod inflate;
pub mod lines;
pub mod order;
pub mod piece;
pub mod reader;
