//! Shape: what kind of file a sample is, and why it is none that can be read. Pure.

use super::types::Column;
use super::{RECORDS_MAX, csv, json, logs};
use crate::testing::sample::Sample;

/// How much of a sample may be no UTF-8 before it counts as binary, as one in so many characters.
const BROKEN_ONE_IN: usize = 10;

/// What begins a file of a kind that is not read, and what it is.
const MAGIC: [(&[u8], &str); 9] = [
    (b"PK\x03\x04", "a zip archive or an office document: unpack it, or export it as csv"),
    (b"PAR1", "a parquet file: export it as csv or jsonl"),
    (b"%PDF", "a PDF document"),
    (b"\x89PNG", "a picture"),
    (b"\xff\xd8\xff", "a picture"),
    (b"BZh", "packed with bzip2: pack it with gzip or zstd"),
    (b"\xfd7zXZ", "packed with xz: pack it with gzip or zstd"),
    (b"SQLite format 3", "a SQLite database: export its tables as csv"),
    (b"\x7fELF", "a program"),
];

/// What a file looks like.
#[derive(Clone, Debug)]
pub(super) struct Look {
    pub(super) kind: Kind,
    /// The columns; those of the regular expression for well-known lines, none for others.
    pub(super) columns: Vec<Column>,
    /// How many records were looked at.
    pub(super) records: usize,
    /// Whether these are all.
    pub(super) is_whole: bool,
    /// The first lines, header included.
    pub(super) lines: Vec<String>,
    /// What a person should know.
    pub(super) notes: Vec<String>,
}

/// The kind of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// JSON objects, one a line.
    Jsonl,
    /// Delimited values.
    Csv(csv::Dialect),
    /// Lines of a well-known kind, by its place in the list of them.
    Log(usize),
    /// Lines.
    Text,
}

/// Looks at a sample of a file of this name, or says why nothing can be made of it.
pub(super) fn look(name: &str, sample: &Sample) -> Result<Look, String> {
    let bytes = sample.bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&sample.bytes);
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Err("it is empty: a sample needs a few records".to_owned());
    }
    if let Some((_, what)) = MAGIC.iter().find(|(magic, _)| bytes.starts_with(magic)) {
        return Err(format!("it is {what}; tidemill reads csv, jsonl and lines of text"));
    }
    if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
        return Err("it is UTF-16: save it as UTF-8".to_owned());
    }
    if bytes.contains(&0) || is_mostly_broken(bytes) {
        return Err("it is binary, or text that is not UTF-8; tidemill reads csv, jsonl and lines of text in UTF-8".to_owned());
    }
    // The last line of a part is a part of a line.
    let end = if sample.is_whole { Some(bytes.len()) } else { memchr::memrchr(b'\n', bytes) };
    let Some(end) = end else {
        return Err(format!(
            "its first {} bytes have no line end: a record is a line",
            bytes.len()
        ));
    };
    let text = String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).into_owned();
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let first = lines.first().copied().unwrap_or_default().trim_start();
    let mut look = if first.starts_with('{') || is_array(first) {
        json::look(&lines)?
    } else if let Some(look) = logs::look(&lines) {
        look
    } else if let Some(look) = csv::look(&text, is_named_csv(name)) {
        look
    } else {
        let mut notes = Vec::new();
        if is_named_csv(name) {
            let widths: Vec<String> = csv::widths(&text).iter().map(usize::to_string).collect();
            notes.push(format!(
                "its name says csv, but its first records have {} fields: it is taken for lines of text",
                widths.join(", ")
            ));
        }
        Look {
            kind: Kind::Text,
            columns: Vec::new(),
            records: lines.len().min(RECORDS_MAX),
            is_whole: true,
            lines: lines.iter().take(16).map(|line| (*line).to_owned()).collect(),
            notes,
        }
    };
    look.is_whole = sample.is_whole && lines.len() <= RECORDS_MAX;
    if text.contains('\u{fffd}') {
        look.notes.push("some lines are no UTF-8: these records are rejected".to_owned());
    }
    Ok(look)
}

/// Returns whether a name says that a file is csv, packed or not.
fn is_named_csv(name: &str) -> bool {
    let name = name.to_lowercase();
    let packed = [".gz", ".zst"].into_iter().find_map(|end| name.strip_suffix(end));
    packed.unwrap_or(&name).ends_with(".csv")
}

fn is_mostly_broken(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    let broken = text.chars().filter(|one| {
        *one == '\u{fffd}' || (one.is_control() && !matches!(one, '\n' | '\r' | '\t' | '\u{1b}'))
    });
    broken.count() > text.chars().count() / BROKEN_ONE_IN
}

/// Returns whether a text that begins with this line is meant to be a JSON array. Many logs begin with a
/// time between brackets.
fn is_array(first: &str) -> bool {
    first.strip_prefix('[').is_some_and(|rest| {
        let rest = rest.trim_start();
        rest.is_empty() || rest.starts_with(['{', '[', '"'])
    })
}
