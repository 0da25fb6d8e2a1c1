//! CSV: records of delimited and quoted fields. Owns the mapping from file columns to the columns
//! that are read.

use super::columns::Rows;
use super::instant::Instants;
use super::{CsvOptions, Fault, Format, ReadPlan, excerpt, misfit, number};
use crate::reject::RejectCode;
use crate::types::Type;

pub(super) mod walk;

use walk::{Span, WalkFault, Walked, blank_line, undouble, walk};

/// Which file column feeds which field of the plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// For each column of the file, the columns of the plan that it feeds.
    targets: Vec<Vec<(usize, Type)>>,
}

/// Why the header of a file does not serve the plan: the file cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// A column that is read is not in the file.
    #[error("the header has no column {name}; it has {found}")]
    Missing {
        /// The column that is read.
        name: String,
        /// The columns that are there.
        found: String,
    },
    /// A column that is read is in the file twice.
    #[error("the header has the column {name} twice")]
    Twice {
        /// The column that is read.
        name: String,
    },
    /// The header is not a CSV record.
    #[error("the header is not a CSV record: {reason}")]
    Syntax {
        /// What is wrong with it.
        reason: String,
    },
}

impl Header {
    /// Reads the first record of a file (blank lines before it are skipped). Names are compared as
    /// they are, and without white space around them.
    pub fn parse(plan: &ReadPlan, first_record: &[u8]) -> Result<Self, HeaderError> {
        let options = options_of(plan);
        let mut start = 0;
        while start < first_record.len()
            && let Some(after) = blank_line(&options, first_record, start)
        {
            start = after;
        }
        let mut names = Vec::new();
        let walked = walk(&options, first_record, start, |_, span| {
            let mut name = Vec::new();
            undouble(&options, &first_record[span.start..span.end], &mut name);
            names.push(String::from_utf8_lossy(&name).into_owned());
        });
        if let Some(fault) = walked.fault {
            return Err(HeaderError::Syntax { reason: describe(fault, start) });
        }
        Self::of(plan, &names)
    }

    fn of(plan: &ReadPlan, names: &[String]) -> Result<Self, HeaderError> {
        let mut targets = vec![Vec::new(); names.len()];
        for (column, field) in plan.fields.iter().enumerate() {
            let wanted = field.path.first().unwrap_or(&field.name);
            let places = |same: &dyn Fn(&str) -> bool| -> Vec<usize> {
                names.iter().enumerate().filter(|(_, n)| same(n)).map(|(at, _)| at).collect()
            };
            let mut found = places(&|name| name == wanted);
            if found.is_empty() {
                found = places(&|name| name.trim() == wanted.trim());
            }
            match found[..] {
                [place] => targets[place].push((column, field.kind)),
                [] => {
                    let name = wanted.clone();
                    return Err(HeaderError::Missing { name, found: names_listed(names) });
                }
                _ => return Err(HeaderError::Twice { name: wanted.clone() }),
            }
        }
        Ok(Self { targets })
    }

    /// The columns in the order that the plan says; what it does not name stays NULL.
    fn of_plan(plan: &ReadPlan) -> Self {
        let mut targets = vec![Vec::new(); plan.names.len()];
        for (column, field) in plan.fields.iter().enumerate() {
            let wanted = field.path.first().unwrap_or(&field.name);
            if let Some(place) = plan.names.iter().position(|name| name == wanted) {
                targets[place].push((column, field.kind));
            }
        }
        Self { targets }
    }

    /// The columns of the plan that nothing feeds.
    fn absent(&self, columns: usize) -> Vec<usize> {
        let fed = |column| self.targets.iter().flatten().any(|&(fed, _)| fed == column);
        (0..columns).filter(|&column| !fed(column)).collect()
    }
}

fn options_of(plan: &ReadPlan) -> CsvOptions {
    match &plan.format {
        Format::Csv(options) => options.clone(),
        Format::Text | Format::Jsonl => CsvOptions::default(),
    }
}

fn names_listed(names: &[String]) -> String {
    const NAMES_MAX: usize = 50;
    let mut listed: Vec<String> =
        names.iter().take(NAMES_MAX).map(|name| excerpt(name.as_bytes())).collect();
    if names.len() > NAMES_MAX {
        listed.push(format!("and {} more", names.len() - NAMES_MAX));
    }
    listed.join(", ")
}

fn describe((fault, at): (WalkFault, usize), start: usize) -> String {
    let what = match fault {
        WalkFault::Unclosed => "quote is not closed, it opens",
        WalkFault::TextAfterQuote => "text after a closing quote",
    };
    format!("{what} at column {}", at - start + 1)
}

/// Reads CSV records.
#[derive(Debug)]
pub(super) struct Csv {
    options: CsvOptions,
    names: Vec<String>,
    planned: Header,
    instants: Instants,
    /// Whether text is read: else the bytes need not be UTF-8.
    text: bool,
}

impl Csv {
    pub(super) fn new(plan: &ReadPlan, options: CsvOptions) -> Self {
        Self {
            options,
            names: plan.fields.iter().map(|field| field.name.clone()).collect(),
            planned: Header::of_plan(plan),
            instants: Instants::default(),
            text: plan.fields.iter().any(|field| field.kind == Type::String),
        }
    }

    pub(super) fn parse(&mut self, chunk: &[u8], header: Option<&Header>, rows: &mut Rows) {
        let valid = !self.text || simdutf8::basic::from_utf8(chunk).is_ok();
        let header = header.unwrap_or(&self.planned);
        let absent = header.absent(self.names.len());
        let mut start = 0;
        while start < chunk.len() {
            if let Some(after) = blank_line(&self.options, chunk, start) {
                rows.lines += 1;
                start = after;
                continue;
            }
            let mut bad = None;
            let walked = walk(&self.options, chunk, start, |number, span| {
                for &(column, kind) in header.targets.get(number).map_or(&[][..], |t| t) {
                    let done = value(
                        kind,
                        column,
                        chunk,
                        span,
                        valid,
                        &self.options,
                        rows,
                        &mut self.instants,
                    );
                    if done.is_none() && bad.is_none() {
                        bad = Some((column, kind, span));
                    }
                }
            });
            let is_good = walked.fault.is_none()
                && bad.is_none()
                && walked.fields == header.targets.len()
                && !rows.is_too_long(walked.end - start);
            if is_good {
                for &column in &absent {
                    rows.push_null(column);
                }
                rows.accept(chunk, start, walked.after);
            } else {
                reject(chunk, start, walked, header.targets.len(), bad, &self.names, rows);
            }
            rows.lines += if self.options.multiline {
                let ends = memchr::memchr_iter(b'\n', &chunk[start..walked.after]).count() as u32;
                ends + u32::from(chunk[walked.after - 1] != b'\n')
            } else {
                1
            };
            start = walked.after;
        }
    }
}

/// Appends the value of a field; `None` when it does not fit.
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "the hot loop keeps all of these in registers")]
fn value(
    kind: Type,
    column: usize,
    chunk: &[u8],
    span: Span,
    valid: bool,
    options: &CsvOptions,
    rows: &mut Rows,
    instants: &mut Instants,
) -> Option<()> {
    let field = &chunk[span.start..span.end];
    if kind == Type::String {
        if field.is_empty() && !span.quoted {
            rows.push_null(column);
        } else if !valid && std::str::from_utf8(field).is_err() {
            return None;
        } else if span.doubled {
            rows.push_written(column, |side| {
                undouble(options, field, side);
                true
            });
        } else {
            rows.push_text(column, chunk, span.start, span.end - span.start);
        }
        return Some(());
    }
    if span.doubled {
        // No value of these types holds a quote, unless the quote is a strange one.
        let mut plain = Vec::new();
        undouble(options, field, &mut plain);
        return word(kind, column, &plain, 0, plain.len(), rows, instants);
    }
    word(kind, column, chunk, span.start, span.end, rows, instants)
}

#[inline(always)]
fn word(
    kind: Type,
    column: usize,
    chunk: &[u8],
    mut start: usize,
    mut end: usize,
    rows: &mut Rows,
    instants: &mut Instants,
) -> Option<()> {
    while start < end && chunk[start].is_ascii_whitespace() {
        start += 1;
    }
    while start < end && chunk[end - 1].is_ascii_whitespace() {
        end -= 1;
    }
    if start == end {
        rows.push_null(column);
        return Some(());
    }
    let word = match kind {
        Type::Int => number::int_text(chunk, start, end)? as u64,
        Type::Float => number::float_text(chunk, start, end)?.to_bits(),
        Type::Bool => u64::from(truth(&chunk[start..end])?),
        Type::Timestamp => instants.parse(&chunk[start..end])? as u64,
        Type::Decimal(digits) => {
            rows.push_decimal(column, number::decimal_text(chunk, start, end, digits)?);
            return Some(());
        }
        Type::String => return None,
    };
    rows.push_word(column, word);
    Some(())
}

pub(super) fn truth(field: &[u8]) -> Option<bool> {
    let is = |words: [&[u8]; 3]| words.iter().any(|word| field.eq_ignore_ascii_case(word));
    if is([b"true", b"t", b"1"]) { Some(true) } else { is([b"false", b"f", b"0"]).then_some(false) }
}

#[cold]
fn reject(
    chunk: &[u8],
    start: usize,
    walked: Walked,
    expected: usize,
    bad: Option<(usize, Type, Span)>,
    names: &[String],
    rows: &mut Rows,
) {
    let end = walked.end.max(start);
    if rows.is_too_long(end - start) {
        return rows.reject_too_long(chunk, start, end);
    }
    let fault = if let Some(fault) = walked.fault {
        Fault { code: RejectCode::Syntax, reason: describe(fault, start) }
    } else if walked.fields != expected {
        let reason = format!("expected {expected} fields, found {}", walked.fields);
        Fault { code: RejectCode::FieldCount, reason }
    } else if let Some((column, kind, span)) = bad {
        let (name, at) = (&names[column], span.start - start + 1);
        let field = &chunk[span.start..span.end];
        if std::str::from_utf8(field).is_err() {
            let reason = format!("field {name}: not UTF-8 at column {at}");
            Fault { code: RejectCode::Utf8, reason }
        } else {
            let found = excerpt(field.trim_ascii());
            let why = misfit(kind, field.trim_ascii());
            let reason =
                format!("field {name}: expected {kind}, found {found} at column {at}{why}");
            Fault { code: RejectCode::FieldType, reason }
        }
    } else {
        Fault { code: RejectCode::Syntax, reason: "not a CSV record".to_owned() }
    };
    rows.reject(chunk, start, end, fault.code, fault.reason);
}
