//! Csv: whether a sample is delimited values, and with which dialect. Pure.

use std::collections::HashSet;

use super::shape::{Kind, Look};
use super::types::{self, Value};
use super::{COLUMNS_MAX, RECORDS_MAX};

/// The delimiters that are tried; of two that fit equally the first.
const DELIMITERS: [u8; 4] = *b",;\t|";
/// How many records must have the same number of fields, in percent.
const ALIKE_PERCENT: usize = 90;

/// How values are delimited.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Dialect {
    pub(super) delimiter: u8,
    pub(super) quote: u8,
    pub(super) header: bool,
    pub(super) multiline: bool,
    /// The names of the columns of the file.
    pub(super) names: Vec<String>,
}

/// A record: the line on which it begins, and its fields.
type Record = (usize, Vec<Value>);

/// Returns what a csv file looks like; `None` when it is none. One of a single column looks like any text: it is
/// one only where its name says so.
pub(super) fn look(text: &str, is_named_so: bool) -> Option<Look> {
    let candidates = DELIMITERS.into_iter().flat_map(|delimiter| {
        // An apostrophe quotes only where a field begins with it.
        let single = [format!("{}'", delimiter as char), "\n'".to_owned()];
        let is_single = !text.contains('"') && single.iter().any(|begin| text.contains(begin));
        let quotes: &[u8] = if is_single { b"'\"" } else { b"\"" };
        quotes.iter().map(move |quote| (delimiter, *quote)).collect::<Vec<_>>()
    });
    let mut best: Option<(usize, u8, u8, Vec<Record>, bool)> = None;
    for (delimiter, quote) in candidates {
        let (records, multiline) = records(text, delimiter, quote);
        let width = common_width(&records)?;
        let alike = records.iter().filter(|(_, fields)| fields.len() == width).count();
        let fits = width > 1 && alike * 100 >= records.len() * ALIKE_PERCENT;
        // Prose has commas too: two records that agree are few, so each must.
        let fits = fits && (records.len() > 3 || alike == records.len());
        if fits && best.as_ref().is_none_or(|(other, ..)| width > *other) {
            best = Some((width, delimiter, quote, records, multiline));
        }
    }
    if best.is_none() && is_named_so {
        let (records, multiline) = records(text, b',', b'"');
        if records.iter().all(|(_, fields)| fields.len() == 1) {
            best = Some((1, b',', b'"', records, multiline));
        }
    }
    let (width, delimiter, quote, records, multiline) = best?;
    let header = has_header(&records);
    let names: Vec<String> = if header {
        records.first()?.1.iter().map(plain).collect()
    } else {
        (1..=width).map(|number| format!("c{number}")).collect()
    };
    let mut notes = Vec::new();
    let rows: Vec<&Record> = records
        .iter()
        .skip(usize::from(header))
        .filter(|(_, row)| row.len() == names.len())
        .collect();
    let all = records.len() - usize::from(header);
    if rows.len() < all {
        notes.push(format!(
            "{} of {all} records have another number of fields: they are rejected",
            all - rows.len()
        ));
    }
    if all == 0 {
        notes.push(
            "there is no record behind the header: all columns are taken for text".to_owned(),
        );
    }
    if !header {
        notes.push("no header was recognised: the columns are called c1, c2, ...".to_owned());
    }
    let mut seen = HashSet::new();
    let mut columns = Vec::new();
    for (at, name) in names.iter().enumerate() {
        let problem = if name.trim().is_empty() {
            "has no name"
        } else if names.iter().filter(|other| *other == name).count() > 1 {
            "has the name of another one"
        } else if name.len() > 256 || name.chars().any(char::is_control) {
            "has a name that cannot be used"
        } else if columns.len() >= COLUMNS_MAX {
            notes.push(format!(
                "there are more than {COLUMNS_MAX} columns: the others are not read"
            ));
            break;
        } else {
            seen.insert(name.clone());
            let values: Vec<(usize, Value)> =
                rows.iter().map(|(line, row)| (*line, row[at].clone())).collect();
            columns.push(types::column(name.clone(), None, &values));
            continue;
        };
        notes.push(format!("column {} {problem}: it is not read", at + 1));
    }
    if columns.is_empty() {
        return None;
    }
    let lines =
        if multiline { Vec::new() } else { text.lines().take(16).map(str::to_owned).collect() };
    let dialect = Dialect { delimiter, quote, header, multiline, names };
    let kind = Kind::Csv(dialect);
    Some(Look { kind, columns, records: rows.len(), is_whole: true, lines, notes })
}

/// Returns how many fields the first records have, where commas part them: for one whose name says csv.
pub(super) fn widths(text: &str) -> Vec<usize> {
    records(text, b',', b'"').0.iter().take(3).map(|(_, fields)| fields.len()).collect()
}

fn plain(value: &Value) -> String {
    match value {
        Value::Bare(text) | Value::Text(text) | Value::Number(text) => text.trim().to_owned(),
        Value::Null | Value::Truth(_) => String::new(),
    }
}

/// Returns the number of fields that most records have.
fn common_width(records: &[Record]) -> Option<usize> {
    let widths: Vec<usize> = records.iter().map(|(_, fields)| fields.len()).collect();
    widths
        .iter()
        .copied()
        .max_by_key(|width| widths.iter().take(200).filter(|one| *one == width).count())
}

/// Returns whether the first record names the columns: its fields are names, and none of them comes
/// again below.
fn has_header(records: &[Record]) -> bool {
    let Some(((_, first), rest)) = records.split_first() else { return false };
    let names: Vec<String> = first.iter().map(plain).collect();
    let is_name = |name: &String| name.len() <= 64 && name.chars().any(char::is_alphabetic);
    let kinds = |value: &Value| {
        let one = [(1, value.clone())];
        types::column(String::new(), None, &one).kind
    };
    // One without a name, or two of one name, make no header a record.
    let named = names.iter().filter(|name| !name.is_empty());
    if named.clone().count() * 2 <= names.len()
        || !named.clone().all(is_name)
        || first.iter().any(|value| kinds(value) != tidemill_operators::Type::String)
    {
        return false;
    }
    let is_repeated = |at: usize| {
        rest.iter().take(200).any(|(_, row)| {
            row.get(at).is_some_and(|value| !names[at].is_empty() && plain(value) == names[at])
        })
    };
    !(0..names.len()).any(is_repeated)
}

/// Splits text into records; returns also whether one of them holds a line end.
fn records(text: &str, delimiter: u8, quote: u8) -> (Vec<Record>, bool) {
    let bytes = text.as_bytes();
    let (mut records, mut multiline) = (Vec::new(), false);
    let (mut at, mut line) = (0, 1);
    while at < bytes.len() && records.len() <= RECORDS_MAX {
        let begin = line;
        let mut fields = Vec::new();
        loop {
            let (value, end) = field(text, at, delimiter, quote);
            let lines = memchr::memchr_iter(b'\n', &bytes[at..end.min(bytes.len())]).count();
            multiline |= lines > 0;
            line += lines;
            fields.push(value);
            at = end;
            match bytes.get(at) {
                Some(byte) if *byte == delimiter => at += 1,
                _ => break,
            }
        }
        // At a line end, or at the end.
        at += usize::from(bytes.get(at) == Some(&b'\r'));
        at += 1;
        line += 1;
        if fields != [Value::Null] {
            records.push((begin, fields));
        }
    }
    (records, multiline)
}

/// Reads one field; returns it and where it ends.
fn field(text: &str, at: usize, delimiter: u8, quote: u8) -> (Value, usize) {
    let bytes = text.as_bytes();
    let plain_end = |from: usize| {
        let rest = bytes.get(from..).unwrap_or_default();
        let end = rest.iter().position(|byte| *byte == delimiter || *byte == b'\n');
        let end = from + end.unwrap_or(rest.len());
        let is_return = end > from && bytes[end - 1] == b'\r' && bytes.get(end) != Some(&delimiter);
        end - usize::from(is_return)
    };
    if bytes.get(at) == Some(&quote) {
        let mut value = Vec::new();
        let mut place = at + 1;
        while let Some(byte) = bytes.get(place) {
            if *byte != quote {
                value.push(*byte);
            } else if bytes.get(place + 1) == Some(&quote) {
                value.push(quote);
                place += 1;
            } else {
                let end = plain_end(place + 1);
                return (Value::Bare(String::from_utf8_lossy(&value).into_owned()), end);
            }
            place += 1;
        }
        // The quote has no end: it is a character like any other.
    }
    let end = plain_end(at);
    let value = text.get(at..end).unwrap_or_default();
    (if value.is_empty() { Value::Null } else { Value::Bare(value.to_owned()) }, end)
}
