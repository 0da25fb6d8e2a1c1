//! Walk: from field to field through one CSV record (RFC 4180), in one pass. Holds nothing; who
//! reads records and who cuts chunks both walk this way, so they never disagree.

use super::super::CsvOptions;
use super::super::lanes::{self, Lanes};

/// One field, without the quotes around it.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Span {
    pub(in super::super) start: usize,
    pub(in super::super) end: usize,
    pub(in super::super) quoted: bool,
    /// Whether quotes stand doubled inside.
    pub(in super::super) doubled: bool,
}

/// Where a record ends, and whether it is one.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Walked {
    /// Where it ends without its terminator.
    pub(in super::super) end: usize,
    /// Where it ends with its terminator.
    pub(in super::super) after: usize,
    pub(in super::super) fields: usize,
    pub(in super::super) fault: Option<(WalkFault, usize)>,
}

/// What is wrong with the quotes of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum WalkFault {
    /// A quote is not closed before the line, or all there is, ends.
    Unclosed,
    /// A closing quote is followed by text.
    TextAfterQuote,
}

/// Finds delimiters and line ends sixteen bytes at a time.
struct Marks {
    base: usize,
    bits: Lanes,
}

impl Marks {
    #[inline(always)]
    fn at(chunk: &[u8], at: usize, delimiter: u8) -> Self {
        Self { base: at, bits: Self::bits(chunk, at, delimiter) }
    }

    #[inline(always)]
    fn bits(chunk: &[u8], at: usize, delimiter: u8) -> Lanes {
        match lanes::load(chunk, at) {
            Some(bytes) => Lanes::either(bytes, delimiter, b'\n'),
            None => Self::bits_at_end(chunk, at, delimiter),
        }
    }

    #[cold]
    fn bits_at_end(chunk: &[u8], at: usize, delimiter: u8) -> Lanes {
        // Filled up with a byte that is neither.
        let filler = if delimiter == b' ' { b'x' } else { b' ' };
        let mut bytes = [filler; 16];
        for (to, from) in bytes.iter_mut().zip(chunk.get(at..).unwrap_or_default()) {
            *to = *from;
        }
        Lanes::either(&bytes, delimiter, b'\n')
    }

    /// Returns the next mark, or the end of the chunk.
    #[inline(always)]
    fn next(&mut self, chunk: &[u8], delimiter: u8) -> usize {
        while self.bits.is_empty() {
            self.base += 16;
            if self.base >= chunk.len() {
                return chunk.len();
            }
            self.bits = Self::bits(chunk, self.base, delimiter);
        }
        let at = self.base + self.bits.first();
        self.bits.drop_first();
        at
    }
}

/// Walks the record at `start`, calling `on` with the number of each field and its place.
#[inline(always)]
pub(in super::super) fn walk(
    options: &CsvOptions,
    chunk: &[u8],
    start: usize,
    mut on: impl FnMut(usize, Span),
) -> Walked {
    let delimiter = options.delimiter;
    let mut marks = Marks::at(chunk, start, delimiter);
    let mut fields = 0;
    let mut at = start;
    loop {
        let mut span = Span { start: at, end: at, quoted: false, doubled: false };
        let stop = if chunk.get(at) == Some(&options.quote) {
            let Some((end, doubled)) = closing_quote(options, chunk, at + 1) else {
                return broken(options, chunk, at, fields, WalkFault::Unclosed);
            };
            span = Span { start: at + 1, end, quoted: true, doubled };
            let after = match chunk.get(end + 1..) {
                Some([b'\r', b'\n', ..]) => end + 2,
                _ => end + 1,
            };
            if chunk.get(after).is_some_and(|&byte| byte != delimiter && byte != b'\n') {
                return broken(options, chunk, end + 1, fields, WalkFault::TextAfterQuote);
            }
            marks = Marks::at(chunk, (after + 1).min(chunk.len()), delimiter);
            after
        } else {
            let stop = marks.next(chunk, delimiter);
            let carriage = chunk.get(stop) == Some(&b'\n') && stop > at && chunk[stop - 1] == b'\r';
            span.end = stop - usize::from(carriage);
            stop
        };
        on(fields, span);
        fields += 1;
        if chunk.get(stop) == Some(&delimiter) {
            at = stop + 1;
            continue;
        }
        let after = (stop + 1).min(chunk.len());
        return Walked { end: span.end + usize::from(span.quoted), after, fields, fault: None };
    }
}

/// Returns where the closing quote stands, and whether there were doubled ones before it.
#[inline]
fn closing_quote(options: &CsvOptions, chunk: &[u8], mut at: usize) -> Option<(usize, bool)> {
    let mut doubled = false;
    loop {
        let rest = chunk.get(at..)?;
        let end = at
            + if options.multiline {
                memchr::memchr(options.quote, rest)?
            } else {
                memchr::memchr2(options.quote, b'\n', rest)?
            };
        if chunk[end] != options.quote {
            return None;
        }
        if chunk.get(end + 1) != Some(&options.quote) {
            return Some((end, doubled));
        }
        doubled = true;
        at = end + 2;
    }
}

/// Ends a record whose quotes are wrong: with its line, or with everything when a quote that may
/// span lines is never closed.
#[cold]
fn broken(
    options: &CsvOptions,
    chunk: &[u8],
    at: usize,
    fields: usize,
    fault: WalkFault,
) -> Walked {
    let (end, after) = if options.multiline && fault == WalkFault::Unclosed {
        (chunk.len(), chunk.len())
    } else {
        super::super::text::line_end(chunk, at)
    };
    Walked { end, after, fields, fault: Some((fault, at)) }
}

/// Returns the line end behind a blank line at `start`, if there is one: such a line is no record.
#[inline(always)]
pub(in super::super) fn blank_line(
    options: &CsvOptions,
    chunk: &[u8],
    start: usize,
) -> Option<usize> {
    if chunk.get(start).is_some_and(|byte| !matches!(byte, b' ' | b'\t' | b'\r' | b'\n')) {
        return None;
    }
    let mut at = start;
    loop {
        match chunk.get(at) {
            None => return Some(at),
            Some(b'\n') => return Some(at + 1),
            Some(byte) if *byte == options.delimiter => return None,
            Some(b' ' | b'\t' | b'\r') => at += 1,
            Some(_) => return None,
        }
    }
}

/// Appends a field without the doubling of its quotes.
pub(in super::super) fn undouble(options: &CsvOptions, field: &[u8], out: &mut Vec<u8>) {
    let mut rest = field;
    while let Some(at) = memchr::memchr(options.quote, rest) {
        out.extend_from_slice(&rest[..=at]);
        rest = rest.get(at + 2..).unwrap_or_default();
    }
    out.extend_from_slice(rest);
}
