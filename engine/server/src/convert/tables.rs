//! Tables on the wire: questions, rows, and the codes of what a table refuses.

use tidemill_engine::code::RequestCode;
use tidemill_engine::engine::tables::{Cell, Question, TableError, TableReport, TableRow};
use tidemill_proto::v1;
use tidemill_proto::v1::cell::Kind;
use tonic::Code;

/// Returns the status code and the stable word for what a table refuses, as `tables.proto` lists them.
pub(super) fn code_and_word(error: &TableError) -> (Code, RequestCode) {
    match error {
        TableError::Pipeline(_) => (Code::NotFound, RequestCode::NoPipeline),
        TableError::Unknown(_) => (Code::NotFound, RequestCode::NoTable),
        TableError::Rebuilding { .. } => (Code::Unavailable, RequestCode::Rebuilding),
        TableError::KeepsNothing { .. } => (Code::FailedPrecondition, RequestCode::KeepsNoRows),
        TableError::Question { .. } => (Code::InvalidArgument, RequestCode::BadArgument),
        TableError::Forgotten { .. } => (Code::OutOfRange, RequestCode::EpochForgotten),
        TableError::Ahead { .. } => (Code::FailedPrecondition, RequestCode::EpochAhead),
    }
}

/// Translates what is known about a table.
pub(crate) fn table(report: TableReport) -> v1::Table {
    v1::Table {
        pipeline: report.pipeline,
        name: report.name,
        columns: columns(report.columns),
        key: u32::try_from(report.key).unwrap_or(u32::MAX),
        rows: report.rows,
        bytes: report.bytes,
        history_bytes: report.history_bytes,
        epoch: report.epoch,
        unavailable: report.refusal.map(|refusal| refusal.to_string()).unwrap_or_default(),
    }
}

/// Translates columns.
pub(crate) fn columns(columns: Vec<(String, String)>) -> Vec<v1::Column> {
    let column = |(name, kind): (String, String)| v1::Column { name, r#type: kind };
    columns.into_iter().map(column).collect()
}

/// Translates a row.
pub(crate) fn row(row: TableRow) -> v1::TableRow {
    v1::TableRow { cells: row.cells.into_iter().map(cell).collect(), times: row.times }
}

fn cell(cell: Cell) -> v1::Cell {
    let kind = match cell {
        Cell::Null => None,
        Cell::String(text) => Some(Kind::Text(text)),
        Cell::Int(value) => Some(Kind::Int(value)),
        Cell::Float(value) => Some(Kind::Float(value)),
        Cell::Bool(value) => Some(Kind::Flag(value)),
        Cell::Timestamp(micros) => Some(Kind::TimestampUs(micros)),
        cell @ Cell::Decimal { .. } => Some(Kind::Decimal(cell.to_string())),
    };
    v1::Cell { kind }
}

/// Reads a question that a client sent.
pub(crate) fn question(
    condition: Option<String>,
    columns: Vec<String>,
    key: Vec<v1::KeyPart>,
) -> Question {
    let cell = |part: v1::KeyPart| {
        let cell = match part.value.and_then(|cell| cell.kind) {
            None => Cell::Null,
            // Read as its column is, like any text.
            Some(Kind::Text(text) | Kind::Decimal(text)) => Cell::String(text),
            Some(Kind::Int(value)) => Cell::Int(value),
            Some(Kind::Float(value)) => Cell::Float(value),
            Some(Kind::Flag(value)) => Cell::Bool(value),
            Some(Kind::TimestampUs(micros)) => Cell::Timestamp(micros),
        };
        (part.column, cell)
    };
    Question { condition, columns, key: key.into_iter().map(cell).collect() }
}
