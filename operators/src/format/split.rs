//! Split: where records begin and end, so that a reader can cut a file into chunks. Holds nothing;
//! looks at no value.

use super::csv::walk::{WalkFault, blank_line, walk};
use super::{Format, ReadPlan};

/// Where the header of a file ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderEnd {
    /// The format has no header.
    None,
    /// The first record, with its terminator and the blank lines before it, ends here.
    At(usize),
    /// More bytes are needed to tell. At the end of the file: all that is there is the header.
    Incomplete,
}

/// Finds the end of the header in the first bytes of a file.
pub fn header_end(plan: &ReadPlan, start_of_file: &[u8]) -> HeaderEnd {
    let Format::Csv(options) = &plan.format else { return HeaderEnd::None };
    if !options.header {
        return HeaderEnd::None;
    }
    let mut start = 0;
    while start < start_of_file.len() {
        if let Some(after) = blank_line(options, start_of_file, start) {
            start = after;
            continue;
        }
        let after = walk(options, start_of_file, start, |_, _| {}).after;
        return match start_of_file[..after].last() {
            Some(b'\n') => HeaderEnd::At(after),
            _ => HeaderEnd::Incomplete,
        };
    }
    HeaderEnd::Incomplete
}

/// Returns the position after the first line end: where a record begins, for formats whose records
/// are lines. `None` when there is no line end, and for CSV whose records may span lines: there only
/// the beginning of the file is known to begin a record.
pub fn record_start(format: &Format, bytes: &[u8]) -> Option<usize> {
    match format {
        Format::Csv(options) if options.multiline => None,
        _ => memchr::memchr(b'\n', bytes).map(|at| at + 1),
    }
}

/// Returns the position after the last complete record of `bytes`, which begin with a record.
/// `None` when no record is complete. At the end of a file the last record needs no terminator.
pub fn last_record_end(format: &Format, bytes: &[u8], at_end_of_file: bool) -> Option<usize> {
    if at_end_of_file {
        return (!bytes.is_empty()).then_some(bytes.len());
    }
    let options = match format {
        Format::Csv(options) if options.multiline => options,
        _ => return memchr::memrchr(b'\n', bytes).map(|at| at + 1),
    };
    let mut last = 0;
    while last < bytes.len() {
        let after = match blank_line(options, bytes, last) {
            Some(after) => after,
            None => {
                let walked = walk(options, bytes, last, |_, _| {});
                if matches!(walked.fault, Some((WalkFault::Unclosed, _))) {
                    break; // the quote may be closed by what comes
                }
                walked.after
            }
        };
        if bytes[..after].last() != Some(&b'\n') {
            break;
        }
        last = after;
    }
    (last > 0).then_some(last)
}
