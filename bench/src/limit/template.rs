//! J2: four fields out of a JSON line by a learned template.
//!
//! | learned  | the literal text before each value of the first line, as masked 16-byte words      |
//! | compared | one masked word a literal; a string ends at the first quote, 16 bytes at a time     |
//! | otherwise| escapes, other orders, anything unusual: the line goes to a full JSON parser        |
//!
//! The scan does not validate what it skips: it is a limit, not a parser.

use std::borrow::Cow;

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::Value;

use super::lines::{Chunk, SLACK};
use super::outputs::{Class, ClassFiles};
use super::traffic::{Traffic, short_key};

/// The literals of a line and what follows each; empty until the first line was seen.
#[derive(Default)]
pub(super) struct Template {
    steps: Vec<Step>,
}

/// At most 16 bytes of literal text, and what comes behind them.
#[derive(Clone, Copy)]
struct Step {
    word: u128,
    mask: u128,
    len: usize,
    then: Then,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    Literal,
    SkipString,
    SkipNumber,
    Host,
    Status,
    Bytes,
    Latency,
    End,
}

/// What the job reads of a record.
#[derive(Clone, Copy, Default)]
struct Fields {
    host: (usize, usize),
    status: i64,
    bytes: i64,
    latency_ms: f64,
}

/// Adds the records of a chunk to the table and sends their lines to their classes.
pub(super) fn scan(
    template: &mut Template,
    chunk: Chunk<'_>,
    traffic: &mut Traffic,
    files: &mut ClassFiles,
) -> Result<()> {
    let (buffer, end) = (chunk.with_slack(), chunk.lines().len());
    let mut run = Run { class: Class::Ok, start: 0 };
    let mut at = 0;
    while at < end {
        let (class, next) = match template.read(buffer, at) {
            Some((fields, next)) if next <= end => {
                let (start, host_end) = fields.host;
                let Fields { status, bytes, latency_ms, .. } = fields;
                match word_at(buffer, start).and_then(|word| short_key(word, host_end - start)) {
                    Some(key) => traffic.count_short(key, status, bytes, latency_ms),
                    None => {
                        traffic.count(&buffer[start..host_end], status, bytes, latency_ms);
                    }
                }
                (Class::of(fields.status), next)
            }
            _ => {
                let next = memchr::memchr(b'\n', &buffer[at..end]).map_or(end, |len| at + len + 1);
                (read_unusual(template, &buffer[at..next], traffic)?, next)
            }
        };
        if class != run.class {
            files.push(run.class, &buffer[run.start..at]);
            run = Run { class, start: at };
        }
        at = next;
    }
    files.push(run.class, &buffer[run.start..end]);
    Ok(())
}

/// Lines of one class that follow each other go out in one piece.
struct Run {
    class: Class,
    start: usize,
}

/// The same fields by way of the full parser.
#[derive(Deserialize)]
struct Record<'a> {
    #[serde(borrow)]
    host: Cow<'a, str>,
    status: i64,
    bytes: i64,
    latency_ms: f64,
}

fn read_unusual(template: &mut Template, line: &[u8], traffic: &mut Traffic) -> Result<Class> {
    let record: Record<'_> = serde_json::from_slice(line)
        .with_context(|| format!("read the record {:?}", String::from_utf8_lossy(line)))?;
    traffic.count(record.host.as_bytes(), record.status, record.bytes, record.latency_ms);
    if template.steps.is_empty() {
        template.steps = learn(line).unwrap_or_default();
    }
    Ok(Class::of(record.status))
}

/// Learns from a line that has no spaces, no escapes and no nesting; otherwise from the next one.
fn learn(line: &[u8]) -> Option<Vec<Step>> {
    let Value::Object(fields) = serde_json::from_slice(line).ok()? else { return None };
    let mut steps = Vec::new();
    let (mut rebuilt, mut literal) = (Vec::new(), b"{".to_vec());
    for (name, value) in &fields {
        literal.extend_from_slice(format!("\"{name}\":").as_bytes());
        let (text, quoted) = match value {
            Value::String(text) => (text.clone(), true),
            Value::Number(_) => (number_text(line, &rebuilt, &literal)?, false),
            _ => return None,
        };
        let then = match (name.as_str(), quoted) {
            ("host", true) => Then::Host,
            ("status", false) => Then::Status,
            ("bytes", false) => Then::Bytes,
            ("latency_ms", false) => Then::Latency,
            (_, true) => Then::SkipString,
            (_, false) => Then::SkipNumber,
        };
        if quoted {
            literal.push(b'"');
        }
        append_steps(&mut steps, &literal, then);
        rebuilt.append(&mut literal);
        rebuilt.extend_from_slice(text.as_bytes());
        literal.extend_from_slice(if quoted { b"\"," } else { b"," });
    }
    literal.pop();
    literal.extend_from_slice(b"}\n");
    append_steps(&mut steps, &literal, Then::End);
    rebuilt.extend_from_slice(&literal);
    (rebuilt == line).then_some(steps)
}

/// The digits as they stand in the line, behind what was rebuilt so far.
fn number_text(line: &[u8], rebuilt: &[u8], literal: &[u8]) -> Option<String> {
    let rest = line.get(rebuilt.len() + literal.len()..)?;
    let len = rest.iter().position(|byte| matches!(byte, b',' | b'}'))?;
    String::from_utf8(rest[..len].to_vec()).ok()
}

fn append_steps(steps: &mut Vec<Step>, literal: &[u8], then: Then) {
    let pieces = literal.chunks(16).count();
    for (index, piece) in literal.chunks(16).enumerate() {
        let (mut word, mut mask) = ([0_u8; 16], [0_u8; 16]);
        word[..piece.len()].copy_from_slice(piece);
        mask[..piece.len()].fill(0xFF);
        steps.push(Step {
            word: u128::from_le_bytes(word),
            mask: u128::from_le_bytes(mask),
            len: piece.len(),
            then: if index + 1 == pieces { then } else { Then::Literal },
        });
    }
}

impl Template {
    /// Reads the record at `at`; answers its fields and where the next one begins, if it fits.
    #[inline]
    fn read(&self, buffer: &[u8], mut at: usize) -> Option<(Fields, usize)> {
        let mut fields = Fields::default();
        for step in &self.steps {
            if (word_at(buffer, at)? ^ step.word) & step.mask != 0 {
                return None;
            }
            at += step.len;
            match step.then {
                Then::Literal => {}
                Then::SkipString => at = string_end(buffer, at)?,
                Then::SkipNumber => at = number_end(buffer, at)?,
                Then::Host => {
                    let end = string_end(buffer, at)?;
                    fields.host = (at, end);
                    at = end;
                }
                Then::Status => (fields.status, at) = integer(buffer, at)?,
                Then::Bytes => (fields.bytes, at) = integer(buffer, at)?,
                Then::Latency => (fields.latency_ms, at) = decimal(buffer, at)?,
                Then::End => return Some((fields, at)),
            }
        }
        None
    }
}

const _: () = assert!(SLACK >= 16, "a word at the last byte of a line must be readable");

#[inline]
fn word_at(buffer: &[u8], at: usize) -> Option<u128> {
    buffer.get(at..)?.first_chunk::<16>().map(|bytes| u128::from_le_bytes(*bytes))
}

/// Finds the closing quote; a backslash before it is unusual.
///
/// A newline is no stop: a string that runs into the next line ends at a quote that no literal of the
/// template follows, or beyond the chunk.
#[inline(always)]
fn string_end(buffer: &[u8], mut at: usize) -> Option<usize> {
    loop {
        let stops = stops(word_at(buffer, at)?);
        if stops != 0 {
            at += (stops.trailing_zeros() / 8) as usize;
            return (*buffer.get(at)? == b'"').then_some(at);
        }
        at += 16;
    }
}

/// Sets the top bit of the first byte that is a quote or a backslash (Hacker's Delight, 6-1).
///
/// A borrow can set bits behind that byte, never before it.
#[inline(always)]
fn stops(word: u128) -> u128 {
    const ONES: u128 = u128::from_le_bytes([1; 16]);
    const TOPS: u128 = u128::from_le_bytes([0x80; 16]);
    let zeros = |word: u128| word.wrapping_sub(ONES) & !word & TOPS;
    zeros(word ^ u128::from_le_bytes([b'"'; 16])) | zeros(word ^ u128::from_le_bytes([b'\\'; 16]))
}

#[inline]
fn number_end(buffer: &[u8], at: usize) -> Option<usize> {
    let rest = buffer.get(at..)?;
    rest.iter().position(|byte| matches!(byte, b',' | b'}' | b'\n')).map(|len| at + len)
}

/// Reads up to 18 digits; a sign or more digits are unusual.
#[inline]
fn integer(buffer: &[u8], mut at: usize) -> Option<(i64, usize)> {
    let (start, mut value) = (at, 0_i64);
    while let Some(digit) = digit_at(buffer, at) {
        value = value.wrapping_mul(10).wrapping_add(digit);
        at += 1;
    }
    (1..=18).contains(&(at - start)).then_some((value, at))
}

/// Reads up to 15 digits with a point: both parts of the quotient are exact, so it is rounded once.
#[inline]
fn decimal(buffer: &[u8], start: usize) -> Option<(f64, usize)> {
    const POWERS: [f64; 16] =
        [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15];
    let (whole, point) = integer(buffer, start)?;
    if buffer.get(point) != Some(&b'.') {
        return matches!(buffer.get(point), Some(b',' | b'}')).then_some((whole as f64, point));
    }
    let (mut mantissa, mut at) = (whole, point + 1);
    while let Some(digit) = digit_at(buffer, at) {
        mantissa = mantissa.wrapping_mul(10).wrapping_add(digit);
        at += 1;
    }
    let places = at - point - 1;
    let fits = places > 0 && at - start <= 16;
    fits.then(|| (mantissa as f64 / POWERS[places], at))
}

#[inline]
fn digit_at(buffer: &[u8], at: usize) -> Option<i64> {
    let digit = buffer.get(at)?.wrapping_sub(b'0');
    (digit < 10).then_some(i64::from(digit))
}
