//! Reject: why one record could not be processed. A bad record is data, not a failure: it goes to
//! the `rejects` sink (or wherever the pipeline sends it) and the file goes on.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::batch::Origin;

/// The longest part of a record that is kept with its reject, in bytes.
pub const REJECT_RAW_BYTES_MAX: usize = 64 * 1024;

/// Why a record was rejected, as a stable word that programs may compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RejectCode {
    /// The record is not valid in its format.
    Syntax,
    /// The record is longer than the limit of its source.
    TooLong,
    /// The record is nested deeper than the limit.
    TooDeep,
    /// The record is not valid UTF-8.
    Utf8,
    /// A field does not have its declared type.
    FieldType,
    /// A field stands twice in the record.
    DuplicateField,
    /// The record has another number of fields than the header.
    FieldCount,
    /// A `parse` operator found no match.
    NoMatch,
    /// An expression failed: overflow, division by zero, a cast that does not fit.
    Expression,
    /// The record comes too late: what it would change is final.
    Late,
    /// The record has no event time where one is needed, or one that is out of range.
    NoTime,
    /// The record does not meet a condition of `expect`.
    Expect,
    /// The record would go round in a loop more often than `max_rounds` allows.
    MaxRounds,
}

impl RejectCode {
    /// Every one of them.
    pub const ALL: &'static [RejectCode] = &[
        RejectCode::Syntax,
        RejectCode::TooLong,
        RejectCode::TooDeep,
        RejectCode::Utf8,
        RejectCode::FieldType,
        RejectCode::DuplicateField,
        RejectCode::FieldCount,
        RejectCode::NoMatch,
        RejectCode::Expression,
        RejectCode::Late,
        RejectCode::NoTime,
        RejectCode::Expect,
        RejectCode::MaxRounds,
    ];

    /// Returns the word that is written to outputs.
    pub const fn word(self) -> &'static str {
        match self {
            RejectCode::Syntax => "syntax",
            RejectCode::TooLong => "too_long",
            RejectCode::TooDeep => "too_deep",
            RejectCode::Utf8 => "utf8",
            RejectCode::FieldType => "field_type",
            RejectCode::DuplicateField => "duplicate_field",
            RejectCode::FieldCount => "field_count",
            RejectCode::NoMatch => "no_match",
            RejectCode::Expression => "expression",
            RejectCode::Late => "late",
            RejectCode::NoTime => "no_time",
            RejectCode::Expect => "expect",
            RejectCode::MaxRounds => "max_rounds",
        }
    }
}

impl fmt::Display for RejectCode {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.word())
    }
}

/// What fails with a record that is rejected, from the least to the most.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum OnError {
    /// The record alone.
    #[default]
    Reject,
    /// Its file as a whole.
    FailFile,
    /// Its file, and the pipeline takes no more.
    StopPipeline,
}

/// One record that could not be processed, and why.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Reject {
    /// The line on which the record begins, counted from 0 inside its chunk.
    pub line: u32,
    /// The byte at which the record begins, counted from 0 inside its chunk.
    pub offset: u32,
    /// How often the record had gone round in a loop; 0 outside of loops.
    pub round: u32,
    /// The operator or source that rejected it, by its name in the pipeline file. Filled in by the
    /// operator that emits it; formats leave it empty.
    pub operator: String,
    /// Why, as a stable word.
    pub code: RejectCode,
    /// Why, for a person: `field status: expected int, found string at column 17`.
    pub message: String,
    /// The record without its line terminator, cut at [`REJECT_RAW_BYTES_MAX`].
    pub raw: Vec<u8>,
    /// What fails with it, as far as the record itself says.
    pub on_error: OnError,
}

/// What rejects speak of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Standing {
    /// Records that are there.
    There,
    /// Records that are taken back: they were rejected when they came, and count nowhere now.
    TakenBack,
    /// No records of the file, but what is told of a key. It is never taken back.
    Told,
}

/// Rejects of one batch; what flows on the `errors` tag of an operator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpochRejects {
    /// The epoch they belong to: the one the batch flowed at.
    pub epoch: u64,
    /// Where the rejected records were read.
    pub origin: Origin,
    /// What they speak of.
    pub standing: Standing,
    /// The records, in the order in which they were met.
    pub rejects: Vec<Reject>,
}
