//! Scan: one pass over a record of any key order, white space and escapes. Accepts only what is
//! valid; declines, without a reason, whatever it does not like. Holds which keys it has seen.

use std::ops::Range;

use super::super::columns::Rows;
use super::super::instant::Instants;
use super::super::lanes::High;
use super::super::number;
use super::{DEPTH_MAX, Key, escape, take, text, word};

/// Reads records key by key.
#[derive(Debug)]
pub(super) struct Scanner {
    /// For each key, the last record that had it.
    seen: Vec<u64>,
    record: u64,
}

/// What one record is read from and into.
struct Record<'a> {
    seen: &'a mut [u64],
    record: u64,
    /// The chunk up to the end of the record.
    chunk: &'a [u8],
    rows: &'a mut Rows,
    instants: &'a mut Instants,
}

impl Scanner {
    pub(super) fn new(keys: usize) -> Self {
        Self { seen: vec![0; keys], record: 0 }
    }

    /// Appends the values of the record at `range`, which is known to be UTF-8.
    pub(super) fn read(
        &mut self,
        keys: &[Key],
        chunk: &[u8],
        range: Range<usize>,
        rows: &mut Rows,
        instants: &mut Instants,
    ) -> Option<()> {
        self.record += 1;
        let chunk = &chunk[..range.end];
        let (seen, record) = (self.seen.as_mut_slice(), self.record);
        let mut record = Record { seen, record, chunk, rows, instants };
        let at = space(chunk, range.start);
        let end = record.object(keys, at, 1)?;
        (space(chunk, end) == range.end).then_some(())?;
        record.absent(keys);
        Some(())
    }
}

impl Record<'_> {
    /// Reads an object; returns where it ends.
    fn object(&mut self, keys: &[Key], at: usize, depth: u32) -> Option<usize> {
        if self.chunk.get(at) != Some(&b'{') || depth > DEPTH_MAX {
            return None;
        }
        let mut at = space(self.chunk, at + 1);
        if self.chunk.get(at) == Some(&b'}') {
            return Some(at + 1);
        }
        loop {
            let (start, end, escaped) = text(self.chunk, at, &mut High::default())?;
            at = space(self.chunk, end + 1);
            if self.chunk.get(at) != Some(&b':') {
                return None;
            }
            at = space(self.chunk, at + 1);
            at = match find(keys, &self.chunk[start..end], escaped) {
                Some(key) => self.value(key, at, depth)?,
                None => skip(self.chunk, at, depth)?,
            };
            at = space(self.chunk, at);
            match *self.chunk.get(at)? {
                b',' => at = space(self.chunk, at + 1),
                b'}' => return Some(at + 1),
                _ => return None,
            }
        }
    }

    fn value(&mut self, key: &Key, at: usize, depth: u32) -> Option<usize> {
        let seen = self.seen.get_mut(key.id)?;
        if std::mem::replace(seen, self.record) == self.record {
            return None;
        }
        let mut end = at;
        for &(column, kind) in &key.columns {
            end =
                take(kind, column, self.chunk, at, self.rows, self.instants, &mut High::default())?;
        }
        if key.keys.is_empty() {
            return Some(end);
        }
        if self.chunk.get(at) == Some(&b'n') {
            return word(self.chunk, at, b"null");
        }
        self.object(&key.keys, at, depth + 1)
    }

    /// Appends NULL for each key that the record does not have.
    fn absent(&mut self, keys: &[Key]) {
        for key in keys {
            if self.seen.get(key.id) != Some(&self.record) {
                for &(column, _) in &key.columns {
                    self.rows.push_null(column);
                }
            }
            self.absent(&key.keys);
        }
    }
}

/// Returns the key of this name, which may be written with escapes.
pub(super) fn find<'k>(keys: &'k [Key], name: &[u8], escaped: bool) -> Option<&'k Key> {
    if escaped {
        let mut plain = Vec::new();
        return if escape::unescape(name, &mut plain) { find(keys, &plain, false) } else { None };
    }
    keys.iter().find(|key| key.name == name)
}

/// Returns where white space ends; a line end is none, it ends the record.
#[inline(always)]
pub(super) fn space(chunk: &[u8], mut at: usize) -> usize {
    while let Some(b' ' | b'\t' | b'\r') = chunk.get(at) {
        at += 1;
    }
    at
}

/// Returns where a value ends that nobody reads; `depth` is that of what holds it.
#[inline]
pub(super) fn skip(chunk: &[u8], at: usize, depth: u32) -> Option<usize> {
    match *chunk.get(at)? {
        b'"' => text(chunk, at, &mut High::default()).map(|(_, end, _)| end + 1),
        b'-' | b'0'..=b'9' => number::skip(chunk, at),
        b'n' => word(chunk, at, b"null"),
        b't' => word(chunk, at, b"true"),
        b'f' => word(chunk, at, b"false"),
        b'{' | b'[' => skip_nested(chunk, at, depth + 1),
        _ => None,
    }
}

/// Skips an object or an array; recurses at most [`DEPTH_MAX`] times.
fn skip_nested(chunk: &[u8], at: usize, depth: u32) -> Option<usize> {
    if depth > DEPTH_MAX {
        return None;
    }
    let object = chunk.get(at) == Some(&b'{');
    let close = if object { b'}' } else { b']' };
    let mut at = space(chunk, at + 1);
    if chunk.get(at) == Some(&close) {
        return Some(at + 1);
    }
    loop {
        if object {
            let (_, end, _) = text(chunk, at, &mut High::default())?;
            at = space(chunk, end + 1);
            if chunk.get(at) != Some(&b':') {
                return None;
            }
            at = space(chunk, at + 1);
        }
        at = space(chunk, skip(chunk, at, depth)?);
        let byte = *chunk.get(at)?;
        if byte == close {
            return Some(at + 1);
        }
        if byte != b',' {
            return None;
        }
        at = space(chunk, at + 1);
    }
}
