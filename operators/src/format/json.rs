//! JSON lines: each line an object. Holds the template learned from the records before.
//!
//! Three readers, each taking what the one before declines: the template (the literal text between
//! the values is compared, nothing is searched), the scanner (any order, white space, escapes), and
//! the full parser, whose verdict is final and who words the reason. All three refuse what is not
//! JSON, also in values that nobody reads; they differ in speed only.

use super::columns::Rows;
use super::instant::Instants;
use super::lanes::{self, High};
use super::{ReadPlan, number};
use crate::decimal::Beyond;
use crate::types::Type;

mod escape;
mod full;
mod scan;
mod template;

use scan::Scanner;
use template::Template;

/// How deep a record may nest; the record itself is the first level.
const DEPTH_MAX: u32 = 64;

/// After so many records in a row that do not fit the template, another is learned.
const MISSES_MAX: u32 = 4;

/// One key that leads to something we read.
#[derive(Debug)]
struct Key {
    name: Vec<u8>,
    /// Numbers the keys, so that a duplicate is seen.
    id: usize,
    /// The columns that the value under this key goes to.
    columns: Vec<(usize, Type)>,
    /// The keys inside the value.
    keys: Vec<Key>,
}

/// Builds the tree of keys from the paths of the fields; returns the number of keys, too.
fn keys(plan: &ReadPlan) -> (Vec<Key>, usize) {
    let mut root = Vec::new();
    let mut count = 0;
    for (column, field) in plan.fields.iter().enumerate() {
        let whole = std::slice::from_ref(&field.name);
        let path = if field.path.is_empty() { whole } else { &field.path };
        let mut level: &mut Vec<Key> = &mut root;
        for (depth, name) in path.iter().enumerate() {
            let known = level.iter().position(|key| key.name == name.as_bytes());
            let at = known.unwrap_or_else(|| {
                let name = name.clone().into_bytes();
                level.push(Key { name, id: count, columns: vec![], keys: vec![] });
                count += 1;
                level.len() - 1
            });
            let key = &mut level[at];
            if depth + 1 == path.len() {
                key.columns.push((column, field.kind));
            }
            level = &mut key.keys;
        }
    }
    (root, count)
}

/// Reads lines of JSON.
#[derive(Debug)]
pub(super) struct Json {
    plan: ReadPlan,
    keys: Vec<Key>,
    scanner: Scanner,
    template: Option<Template>,
    instants: Instants,
    misses: u32,
    /// Which readers may be used: all but in tests.
    reach: Reach,
}

/// Which readers are in use, from the first to the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Reach {
    Template,
    #[cfg_attr(not(test), allow(dead_code, reason = "tests compare the readers"))]
    Scanner,
    #[cfg_attr(not(test), allow(dead_code, reason = "tests compare the readers"))]
    Full,
}

impl Json {
    pub(super) fn new(plan: &ReadPlan, reach: Reach) -> Self {
        let (keys, count) = keys(plan);
        Self {
            plan: plan.clone(),
            keys,
            scanner: Scanner::new(count),
            template: None,
            instants: Instants::default(),
            misses: MISSES_MAX,
            reach,
        }
    }

    pub(super) fn parse(&mut self, chunk: &[u8], rows: &mut Rows) {
        let mut at = 0;
        while at < chunk.len() {
            if let Some(template) = &self.template {
                if let Some((end, after)) = template.read(chunk, at, rows, &mut self.instants)
                    && !rows.is_too_long(end - at)
                {
                    rows.accept(chunk, at, after);
                    rows.lines += 1;
                    at = after;
                    self.misses = 0;
                    continue;
                }
                rows.take_back();
            }
            self.misses = self.misses.saturating_add(1);
            at = self.line(chunk, at, rows);
        }
    }

    #[cfg(test)]
    pub(super) fn has_template(&self) -> bool {
        self.template.is_some()
    }

    /// Reads one line that the template does not fit; returns where the next one starts.
    fn line(&mut self, chunk: &[u8], start: usize, rows: &mut Rows) -> usize {
        let (end, after) = super::text::line_end(chunk, start);
        let line = &chunk[start..end];
        if rows.is_too_long(line.len()) {
            rows.reject_too_long(chunk, start, end);
        } else if line.iter().all(|byte| matches!(byte, b' ' | b'\t' | b'\r')) {
            // A blank line is no record.
        } else if self.reach <= Reach::Scanner
            && simdutf8::basic::from_utf8(line).is_ok()
            && self.scanner.read(&self.keys, chunk, start..end, rows, &mut self.instants).is_some()
        {
            rows.accept(chunk, start, after);
            if self.misses >= MISSES_MAX && self.reach == Reach::Template {
                let learned = Template::learn(&self.keys, &self.plan, &chunk[start..after]);
                self.template = learned.or(self.template.take());
                self.misses = 0;
            }
        } else {
            rows.take_back();
            match full::read(&self.keys, &self.plan, chunk, start..end, rows, &mut self.instants) {
                Ok(()) => rows.accept(chunk, start, after),
                Err(fault) => rows.reject(chunk, start, end, fault.code, fault.reason),
            }
        }
        rows.lines += 1;
        after
    }
}

/// Appends the value at `at` to a column and returns where it ends; `None` for what does not fit
/// the type, and for what is no JSON. Does not check that the text is UTF-8: `high` says
/// whether there is something to check.
#[inline(always)]
fn take(
    kind: Type,
    column: usize,
    chunk: &[u8],
    at: usize,
    rows: &mut Rows,
    instants: &mut Instants,
    high: &mut High,
) -> Option<usize> {
    if chunk.get(at) == Some(&b'n') {
        rows.push_null(column);
        return word(chunk, at, b"null");
    }
    match kind {
        Type::String => {
            let (start, end, escaped) = text(chunk, at, high)?;
            if escaped {
                let escaped = &chunk[start..end];
                rows.push_written(column, |side| escape::unescape(escaped, side)).then_some(())?;
            } else {
                rows.push_text(column, chunk, start, end - start);
            }
            Some(end + 1)
        }
        Type::Int => {
            let (value, end) = number::int(chunk, at)?;
            rows.push_word(column, value as u64);
            Some(end)
        }
        Type::Float => {
            let (value, end) = number::float(chunk, at)?;
            rows.push_word(column, value.to_bits());
            Some(end)
        }
        Type::Bool => {
            let value = chunk.get(at) == Some(&b't');
            rows.push_word(column, u64::from(value));
            word(chunk, at, if value { b"true" } else { b"false" })
        }
        Type::Timestamp => {
            let (start, end, escaped) = text(chunk, at, high)?;
            let value = if escaped {
                let mut plain = Vec::new();
                escape::unescape(&chunk[start..end], &mut plain).then_some(())?;
                instants.parse(&plain)?
            } else {
                instants.parse(&chunk[start..end])?
            };
            rows.push_word(column, value as u64);
            Some(end + 1)
        }
        // Money is often sent as a string, so that nobody makes a float of it.
        Type::Decimal(digits) if chunk.get(at) == Some(&b'"') => {
            let (start, end, _) = text(chunk, at, high)?;
            // With an escape in it, it is no number.
            let units = digits.read(&chunk[start..end], Beyond::Refused).ok()?;
            rows.push_decimal(column, units);
            Some(end + 1)
        }
        Type::Decimal(digits) => {
            let (units, end) = number::decimal(chunk, at, digits)?;
            rows.push_decimal(column, units);
            Some(end)
        }
    }
}

/// Returns the end of a literal word.
#[inline(always)]
fn word(chunk: &[u8], at: usize, word: &[u8]) -> Option<usize> {
    chunk.get(at..)?.starts_with(word).then_some(at + word.len())
}

/// Returns where the text inside a string begins and ends, and whether it holds escapes (valid
/// ones). The closing quote stands at the end.
#[inline(always)]
fn text(chunk: &[u8], at: usize, high: &mut High) -> Option<(usize, usize, bool)> {
    if chunk.get(at) != Some(&b'"') {
        return None;
    }
    let end = lanes::string_stop(chunk, at + 1, high);
    if chunk.get(end) == Some(&b'"') {
        return Some((at + 1, end, false));
    }
    escape::text_end(chunk, end, high).map(|end| (at + 1, end, true))
}
