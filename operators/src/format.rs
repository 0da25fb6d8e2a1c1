//! Formats: bytes to columns and columns to bytes.
//!
//! Owns what a record is in each format, which records are good, and how values are written. It is
//! the hot loop of the product, so it extracts only the columns that something reads, and the text
//! it finds stays where it was read: the columns hold views into the chunk. It never opens a file
//! and never decides where a chunk ends; the reader does, by [`record_start`] and
//! [`last_record_end`].
//!
//! A record that is not valid in its format is rejected with its reason, whole: also what nobody
//! reads must obey the grammar.

use std::ops::Range;

use arrow_buffer::Buffer;
use serde::{Deserialize, Serialize};

use crate::batch::Batch;
use crate::decimal::{Beyond, Misfit};
use crate::reject::{Reject, RejectCode};
use crate::types::{Column, Schema, Type};

mod columns;
mod csv;
mod encode;
mod instant;
mod json;
mod lanes;
mod number;
mod parquet;
mod split;
mod text;
pub mod value;
mod views;

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests;

use columns::Rows;
use csv::Csv;
use json::{Json, Reach};
use text::Text;

pub use csv::{Header, HeaderError};
pub use encode::{Encoder, raw_runs};
pub use parquet::ParquetFile;
pub use split::{HeaderEnd, header_end, last_record_end, record_start};

/// How the bytes of a source are to be read.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Each line is a record of the one column `line`.
    Text,
    /// Each line is a JSON object.
    Jsonl,
    /// Comma separated values, RFC 4180.
    Csv(CsvOptions),
}

/// The dialect of a CSV source.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CsvOptions {
    /// Whether the first record of each file names the columns.
    pub header: bool,
    /// The byte between two fields.
    pub delimiter: u8,
    /// The byte around a field that holds delimiters, quotes or line ends; doubled inside.
    pub quote: u8,
    /// Whether a quoted field may hold line ends. Without it a record is a line, and a big file can
    /// be cut anywhere.
    pub multiline: bool,
}

impl Default for CsvOptions {
    fn default() -> Self {
        Self { header: true, delimiter: b',', quote: b'"', multiline: false }
    }
}

/// One column to be read.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Field {
    /// The name of the column.
    pub name: String,
    /// What it holds.
    pub kind: Type,
    /// Where it stands in a record: the JSON keys from the outside in, or the one name in a CSV
    /// header.
    pub path: Vec<String>,
}

/// What is to be read from a source, and how.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ReadPlan {
    /// The format of the bytes.
    pub format: Format,
    /// The columns that something reads, in the order of the schema.
    pub fields: Vec<Field>,
    /// For CSV without a header: the names of all columns, in file order.
    pub names: Vec<String>,
    /// Whether the original bytes of each record are wanted.
    pub raw: bool,
    /// Whether the position of each record is wanted.
    pub positions: bool,
    /// The longest record that is taken, in bytes without the line terminator.
    pub record_bytes_max: usize,
}

impl ReadPlan {
    /// Returns the schema of the batches that this plan gives.
    pub fn schema(&self) -> Schema {
        Schema::new(self.fields.iter().map(|field| Column::new(&field.name, field.kind)).collect())
    }
}

/// What was found in a range of bytes.
#[derive(Clone, Debug)]
pub struct Parsed {
    /// The good records; `None` if there is none.
    pub batch: Option<Batch>,
    /// The bad records, in input order.
    pub rejects: Vec<Reject>,
    /// The lines in the range; a last line without a terminator counts.
    pub lines: u32,
    /// The records in the range, good and rejected.
    pub records: u32,
}

/// Turns bytes into columns. One per worker and source: it remembers the shape of the records and
/// reuses its memory.
#[derive(Debug)]
pub struct Parser {
    rows: Rows,
    reader: Reader,
}

#[derive(Debug)]
enum Reader {
    Text(Text),
    Json(Box<Json>),
    Csv(Box<Csv>),
}

impl Parser {
    /// Returns a parser for this plan.
    pub fn new(plan: ReadPlan) -> Self {
        Self::with_reach(plan, Reach::Template)
    }

    fn with_reach(plan: ReadPlan, reach: Reach) -> Self {
        let reader = match &plan.format {
            Format::Text => Reader::Text(Text::new(&plan)),
            Format::Jsonl => Reader::Json(Box::new(Json::new(&plan, reach))),
            Format::Csv(options) => Reader::Csv(Box::new(Csv::new(&plan, options.clone()))),
        };
        Self { rows: Rows::new(&plan), reader }
    }

    /// Parses the records in `buffer[range]`.
    ///
    /// The range holds whole records; only at the end of a file may the last one lack its line
    /// terminator. Strings in the result are views into `buffer`. Batches have a difference of 1 and
    /// the default origin; the operator of a reject is empty. A range of 2 GiB or more, which views
    /// cannot address, is one record too long.
    ///
    /// A CSV source without a header takes its columns from [`ReadPlan::names`]; so does one with a
    /// header when `header` is `None`.
    ///
    /// # Panics
    ///
    /// When the range does not lie in the buffer, or the header was read for another plan.
    pub fn parse(
        &mut self,
        buffer: &Buffer,
        range: Range<usize>,
        header: Option<&Header>,
    ) -> Parsed {
        let chunk = buffer.slice_with_length(range.start, range.len());
        let bytes = chunk.as_slice();
        if i32::try_from(bytes.len()).is_err() {
            self.rows.reject_too_long(bytes, 0, bytes.len());
        } else {
            match &mut self.reader {
                Reader::Text(text) => text.parse(bytes, &mut self.rows),
                Reader::Json(json) => json.parse(bytes, &mut self.rows),
                Reader::Csv(csv) => csv.parse(bytes, header, &mut self.rows),
            }
        }
        self.rows.finish(chunk)
    }
}

/// What is wrong with a record.
#[derive(Debug)]
struct Fault {
    code: RejectCode,
    reason: String,
}

impl Fault {
    fn utf8(at: usize) -> Self {
        Self { code: RejectCode::Utf8, reason: format!("not UTF-8 at column {}", at + 1) }
    }
}

/// Returns the beginning of a value, for a message.
fn excerpt(value: &[u8]) -> String {
    const BYTES_MAX: usize = 40;
    let text = String::from_utf8_lossy(&value[..value.len().min(BYTES_MAX)]);
    let text = text.replace(char::is_control, "\u{fffd}");
    if value.len() > BYTES_MAX { format!("{text}...") } else { text }
}

/// Returns what to say of a number that has too many digits for its column, behind what was found.
fn misfit(kind: Type, value: &[u8]) -> String {
    let Type::Decimal(digits) = kind else { return String::new() };
    match digits.read(value, Beyond::Refused) {
        Err(why @ (Misfit::TooFine | Misfit::TooLarge)) => format!(": {why}"),
        _ => String::new(),
    }
}

/// How the bytes of a sink are to be written.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OutputFormat {
    /// The original bytes of each record.
    Raw,
    /// One JSON object a line.
    Jsonl,
    /// Comma separated values, RFC 4180.
    Csv {
        /// The byte between two fields.
        delimiter: u8,
        /// Whether the names of the columns are the first record.
        header: bool,
    },
}

/// How the snapshot of a table is written.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TableFormat {
    /// Row by row.
    Rows(OutputFormat),
    /// As a Parquet file.
    Parquet,
}
