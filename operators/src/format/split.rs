//! Split: where records begin and end, so that a reader can cut a file into chunks.

use super::{Format, ReadPlan};

/// Where the header of a file ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderEnd {
    /// The format has no header.
    None,
    /// The first record, with its terminator, ends here.
    At(usize),
    /// More bytes are needed to tell. At the end of the file: the header is all there is.
    Incomplete,
}

/// Finds the end of the header in the first bytes of a file.
pub fn header_end(_plan: &ReadPlan, _start_of_file: &[u8]) -> HeaderEnd {
    HeaderEnd::None
}

/// Returns the position after the first line end.
pub fn record_start(_format: &Format, bytes: &[u8]) -> Option<usize> {
    memchr::memchr(b'\n', bytes).map(|at| at + 1)
}

/// Returns the position after the last complete record.
pub fn last_record_end(_format: &Format, bytes: &[u8], at_end_of_file: bool) -> Option<usize> {
    if at_end_of_file { Some(bytes.len()) } else { memchr::memrchr(b'\n', bytes).map(|at| at + 1) }
}
