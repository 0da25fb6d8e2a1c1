//! Scan: rows of a table as of one epoch, in the order of the key, some at a time.
//!
//! Holds a version of the table: what is read is of one epoch however long it takes, and the price is
//! the memory of what changes meanwhile. Whoever scans for somebody slow must end it.

use std::ops::Bound;

use tidemill_operators::Column;

use super::question::{Checked, Question, is_wanted};
use super::{Cell, TableError, TableHandle};
use crate::sink::table::shared::View;

/// Rows that are looked at in one step, at most.
const ROWS_AT_ONCE: usize = 1024;

/// Encoded bytes that are looked at in one step, at most, unless one row has more.
const BYTES_AT_ONCE: usize = 256 << 10;

/// A row, and how often it is there; in changes, how often it is added, negative for taken back.
#[derive(Clone, Debug, PartialEq)]
pub struct TableRow {
    /// The cells of the columns that were asked for.
    pub cells: Vec<Cell>,
    /// How often.
    pub times: i64,
}

/// A scan that is under way.
#[derive(Debug)]
pub struct Scan {
    table: TableHandle,
    question: Checked,
    view: View,
    from: Bound<Vec<u8>>,
    /// Rows that may still be given.
    left: u64,
    ended: bool,
}

impl TableHandle {
    /// Begins to look for rows: at most `limit` of them, behind the row that an earlier scan ended
    /// with ([`Scan::last`]).
    pub fn scan(
        &self,
        question: &Question,
        limit: Option<u64>,
        behind: Option<&[u8]>,
    ) -> Result<Scan, TableError> {
        let question = Checked::new(question, self)?;
        let view = self.view()?;
        let from = match behind {
            Some(row) if row >= question.prefix.as_slice() => Bound::Excluded(row.to_vec()),
            _ => Bound::Included(question.prefix.clone()),
        };
        let left = limit.unwrap_or(u64::MAX);
        Ok(Scan { table: self.clone(), question, view, from, left, ended: false })
    }
}

impl Scan {
    /// Returns the epoch as of which the rows are.
    pub fn epoch(&self) -> u64 {
        self.view.epoch
    }

    /// Returns the columns of the rows, name and type.
    pub fn columns(&self) -> Vec<(String, String)> {
        named(&self.question.columns(&self.table.place.columns))
    }

    /// Returns the next rows, perhaps none where none of those looked at was wanted; nothing at the
    /// end.
    pub fn more(&mut self) -> Result<Option<Vec<TableRow>>, TableError> {
        if self.ended {
            return Ok(None);
        }
        let columns = &*self.table.place.columns;
        let mut rows: Vec<(&[u8], i64)> = Vec::new();
        let mut bytes = 0;
        let from = self.from.as_ref().map(Vec::as_slice);
        self.ended = true;
        for (row, times) in self.view.range(from) {
            if !row.starts_with(&self.question.prefix) {
                break;
            }
            if rows.len() >= ROWS_AT_ONCE || bytes >= BYTES_AT_ONCE {
                self.ended = false;
                break;
            }
            bytes += row.len();
            rows.push((row, times));
        }
        let Some((last, _)) = rows.last() else { return Ok(None) };
        let mut behind = last.to_vec();
        let encoded: Vec<&[u8]> = rows.iter().map(|(row, _)| *row).collect();
        let wanted = self.question.wanted(columns, &encoded)?;
        let mut given = Vec::new();
        for (at, (row, times)) in rows.iter().enumerate() {
            // One that was taken back before it is given is not there.
            if *times <= 0 || !is_wanted(&wanted, at) {
                continue;
            }
            if self.left == 0 {
                self.ended = true;
                break;
            }
            self.left -= 1;
            given.push(TableRow { cells: self.question.cells(columns, row), times: *times });
            if self.left == 0 {
                behind = row.to_vec();
                self.ended = true;
                break;
            }
        }
        self.from = Bound::Excluded(behind);
        Ok(Some(given))
    }

    /// Returns the row behind which a later scan can go on, if this one ended at its limit.
    pub fn last(&self) -> Option<&[u8]> {
        match &self.from {
            Bound::Excluded(row) if self.ended && self.left == 0 => Some(row),
            _ => None,
        }
    }
}

/// Returns columns as the outside sees them.
pub(super) fn named(columns: &[Column]) -> Vec<(String, String)> {
    columns.iter().map(|column| (column.name.clone(), column.kind.to_string())).collect()
}
