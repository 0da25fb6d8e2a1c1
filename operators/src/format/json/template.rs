//! Template: the text between the values of a record, learned once and then compared. Holds the
//! steps that lead through one shape of record.
//!
//! A record that fits has the keys of the learned one in the same order with the same white space;
//! only its values are looked at. Nothing is searched for: the end of the record falls out.

use super::super::ReadPlan;
use super::super::columns::Rows;
use super::super::instant::Instants;
use super::super::lanes::{self, High};
use super::scan::{find, skip, space};
use super::{Key, number, take, text, word};
use crate::types::Type;

/// One comparison of up to sixteen bytes, and what follows it.
#[derive(Clone, Copy, Debug)]
struct Step {
    literal: u128,
    mask: u128,
    len: u8,
    then: Then,
    column: u32,
    depth: u32,
}

#[derive(Clone, Copy, Debug)]
enum Then {
    /// The literal goes on in the next step.
    More,
    /// A value that nobody reads.
    Skip,
    /// A value for the column.
    Take(Type),
}

/// The shape of a record.
#[derive(Debug)]
pub(super) struct Template {
    steps: Vec<Step>,
    /// The columns whose keys the shape does not have.
    absent: Vec<usize>,
    terminator: usize,
}

impl Template {
    /// Appends the values of the record at `start`; returns where it ends without and with its
    /// terminator. `None`, with values to be taken back, when it does not fit or is not valid.
    #[inline]
    pub(super) fn read(
        &self,
        chunk: &[u8],
        start: usize,
        rows: &mut Rows,
        instants: &mut Instants,
    ) -> Option<(usize, usize)> {
        let mut at = start;
        let mut high = High::default();
        for step in &self.steps {
            let found = u128::from_le_bytes(*lanes::load(chunk, at)?);
            if found & step.mask != step.literal {
                return None;
            }
            at += usize::from(step.len);
            at = match step.then {
                Then::More => at,
                Then::Skip => skip_value(chunk, at, step.depth, &mut high)?,
                Then::Take(kind) => {
                    take(kind, step.column as usize, chunk, at, rows, instants, &mut high)?
                }
            };
        }
        if high.is_seen() && simdutf8::basic::from_utf8(chunk.get(start..at)?).is_err() {
            return None;
        }
        for &column in &self.absent {
            rows.push_null(column);
        }
        Some((at - self.terminator, at))
    }

    /// Learns the shape of a record that the scanner has accepted. `None` when the record is not of
    /// the kind that a template can follow: without a line end, or with two columns for one key.
    pub(super) fn learn(keys: &[Key], plan: &ReadPlan, record: &[u8]) -> Option<Self> {
        let mut learner = Learner {
            record,
            literal: 0,
            steps: Vec::new(),
            absent: vec![true; plan.fields.len()],
        };
        let end = learner.object(keys, space(record, 0), 1)?;
        // White space after the object would be part of the literal; a line end must be.
        let terminator = if record.ends_with(b"\r\n") { 2 } else { 1 };
        if !record.ends_with(b"\n") || end + terminator > record.len() {
            return None;
        }
        learner.step(record.len(), Then::More, 0, 0);
        let absent = learner.absent.iter().enumerate();
        let absent = absent.filter_map(|(column, absent)| absent.then_some(column)).collect();
        Some(Self { steps: learner.steps, absent, terminator })
    }
}

struct Learner<'a> {
    record: &'a [u8],
    /// Where the literal begins that has not become a step.
    literal: usize,
    steps: Vec<Step>,
    absent: Vec<bool>,
}

impl Learner<'_> {
    /// Follows an object of a record known to be valid.
    fn object(&mut self, keys: &[Key], at: usize, depth: u32) -> Option<usize> {
        let mut at = space(self.record, at + 1);
        if self.record.get(at) == Some(&b'}') {
            return Some(at + 1);
        }
        loop {
            let (start, end, escaped) = text(self.record, at, &mut High::default())?;
            at = space(self.record, end + 1);
            at = space(self.record, at + 1);
            let value_end = skip(self.record, at, depth)?;
            match find(keys, &self.record[start..end], escaped) {
                None => {
                    self.step(at, Then::Skip, 0, depth);
                    self.literal = value_end;
                }
                Some(key) => match (key.columns.as_slice(), key.keys.as_slice()) {
                    (&[(column, kind)], []) => {
                        self.step(at, Then::Take(kind), column, depth);
                        *self.absent.get_mut(column)? = false;
                        self.literal = value_end;
                    }
                    ([], inner) if self.record.get(at) == Some(&b'{') => {
                        self.object(inner, at, depth + 1)?;
                    }
                    _ => return None,
                },
            }
            at = space(self.record, value_end);
            match *self.record.get(at)? {
                b',' => at = space(self.record, at + 1),
                _ => return Some(at + 1),
            }
        }
    }

    /// Makes steps of the literal up to `end`.
    fn step(&mut self, end: usize, then: Then, column: usize, depth: u32) {
        let mut pieces = self.record[self.literal..end].chunks(16).peekable();
        while let Some(piece) = pieces.next() {
            let mut bytes = [0; 16];
            bytes[..piece.len()].copy_from_slice(piece);
            let mask = if piece.len() == 16 { u128::MAX } else { (1 << (8 * piece.len())) - 1 };
            let then = if pieces.peek().is_some() { Then::More } else { then };
            self.steps.push(Step {
                literal: u128::from_le_bytes(bytes),
                mask,
                len: piece.len() as u8,
                then,
                column: column as u32,
                depth,
            });
        }
        self.literal = end;
    }
}

/// Returns where a value ends that nobody reads; like [`skip`], but watches for bytes above 127.
#[inline(always)]
fn skip_value(chunk: &[u8], at: usize, depth: u32, high: &mut High) -> Option<usize> {
    match *chunk.get(at)? {
        b'"' => text(chunk, at, high).map(|(_, end, _)| end + 1),
        b'-' | b'0'..=b'9' => number::skip(chunk, at),
        b'n' => word(chunk, at, b"null"),
        _ => {
            // Rare enough not to be watched closely.
            high.suspect();
            skip(chunk, at, depth)
        }
    }
}
