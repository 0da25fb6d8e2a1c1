//! Text: each line is a record. Holds nothing but what is read.

use super::columns::Rows;
use super::{Fault, ReadPlan};
use crate::types::Type;

/// Reads lines.
#[derive(Debug)]
pub(super) struct Text {
    /// The columns the line goes to: none or one of text, the planner sees to it. A column of another
    /// type would be NULL.
    columns: Vec<Type>,
}

impl Text {
    pub(super) fn new(plan: &ReadPlan) -> Self {
        Self { columns: plan.fields.iter().map(|field| field.kind).collect() }
    }

    pub(super) fn parse(&mut self, chunk: &[u8], rows: &mut Rows) {
        // Bytes that nobody reads as text may be anything.
        let valid = self.columns.is_empty() || simdutf8::basic::from_utf8(chunk).is_ok();
        let mut start = 0;
        while start < chunk.len() {
            let (end, after) = line_end(chunk, start);
            self.line(chunk, start, end, after, valid, rows);
            rows.lines += 1;
            start = after;
        }
    }

    #[inline(always)]
    fn line(
        &self,
        chunk: &[u8],
        start: usize,
        end: usize,
        after: usize,
        valid: bool,
        rows: &mut Rows,
    ) {
        if rows.is_too_long(end - start) {
            rows.reject_too_long(chunk, start, end);
            return;
        }
        if !valid && let Err(error) = std::str::from_utf8(&chunk[start..end]) {
            let fault = Fault::utf8(error.valid_up_to());
            rows.reject(chunk, start, end, fault.code, fault.reason);
            return;
        }
        for (column, &kind) in self.columns.iter().enumerate() {
            if kind == Type::String {
                rows.push_text(column, chunk, start, end - start);
            } else {
                rows.push_null(column);
            }
        }
        rows.accept(chunk, start, after);
    }
}

/// Returns where the line that starts at `start` ends, without and with its terminator.
#[inline(always)]
pub(super) fn line_end(chunk: &[u8], start: usize) -> (usize, usize) {
    match memchr::memchr(b'\n', &chunk[start..]) {
        Some(len) => {
            let end = start + len;
            let carriage = len > 0 && chunk[end - 1] == b'\r';
            (end - usize::from(carriage), end + 1)
        }
        None => (chunk.len(), chunk.len()),
    }
}
