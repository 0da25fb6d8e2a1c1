//! Follow: a table's rows, then what each committed epoch changes, without a gap and without a row
//! twice.
//!
//! A follower is a place in the history, nothing more: it is asked for what comes next, and who asks
//! too seldom is told that this is forgotten. It holds a version of the table while it tells the rows
//! of the beginning, and at most one epoch's changes after that.

use std::sync::Arc;

use super::question::{Checked, Question, is_wanted};
use super::scan::{Scan, TableRow, named};
use super::{TableError, TableHandle};
use crate::sink::table::shared::{EpochChanges, Next};

/// Changed rows that are told in one step, at most.
const ROWS_AT_ONCE: usize = 1024;

/// Encoded bytes that are told in one step, at most, unless one row has more.
const BYTES_AT_ONCE: usize = 256 << 10;

/// Where a follower begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    /// With all rows as of now.
    Snapshot,
    /// With what came after this epoch, which is known.
    After(u64),
}

/// What is told.
#[derive(Clone, Debug, PartialEq)]
pub struct Told {
    /// The epoch that the rows are of, or as of which they are.
    pub epoch: u64,
    /// Whether they are of the snapshot at the beginning; else they are changes.
    pub snapshot: bool,
    /// The rows.
    pub rows: Vec<TableRow>,
    /// Whether everything up to the epoch has been told: a follower may go on from here.
    pub complete: bool,
}

/// A follower of a table.
#[derive(Debug)]
pub struct Follow {
    table: TableHandle,
    question: Checked,
    stage: Stage,
    /// Everything up to this epoch was told.
    seen: u64,
}

#[derive(Debug)]
enum Stage {
    Snapshot(Box<Scan>),
    Changes(Arc<EpochChanges>, usize),
    Idle,
}

impl TableHandle {
    /// Begins to follow. A key or condition narrows what is told, not what is complete.
    pub fn follow(&self, question: &Question, from: Begin) -> Result<Follow, TableError> {
        let checked = Checked::new(question, self)?;
        let (stage, seen) = match from {
            Begin::Snapshot => {
                let scan = self.scan(question, None, None)?;
                let epoch = scan.epoch();
                (Stage::Snapshot(Box::new(scan)), epoch)
            }
            Begin::After(seen) => {
                self.view()?;
                match self.shared()?.next(seen) {
                    Next::Forgotten(oldest) => return Err(TableError::Forgotten { seen, oldest }),
                    Next::Ahead(epoch) => return Err(TableError::Ahead { seen, epoch }),
                    Next::Nothing | Next::Quiet(_) | Next::Changes(_) => {}
                }
                (Stage::Idle, seen)
            }
        };
        Ok(Follow { table: self.clone(), question: checked, stage, seen })
    }
}

impl Follow {
    /// Returns the columns of the rows, name and type.
    pub fn columns(&self) -> Vec<(String, String)> {
        named(&self.question.columns(&self.table.place.columns))
    }

    /// Returns what comes next; nothing if nothing has come since. Never waits.
    pub fn more(&mut self) -> Result<Option<Told>, TableError> {
        match &mut self.stage {
            Stage::Snapshot(scan) => {
                let rows = scan.more()?;
                let complete = rows.is_none();
                let (epoch, rows) = (scan.epoch(), rows.unwrap_or_default());
                if complete {
                    self.stage = Stage::Idle;
                }
                Ok(Some(Told { epoch, snapshot: true, rows, complete }))
            }
            Stage::Changes(changes, at) => {
                let (changes, at) = (Arc::clone(changes), *at);
                self.told(&changes, at).map(Some)
            }
            Stage::Idle => match self.table.shared()?.next(self.seen) {
                Next::Nothing => Ok(None),
                Next::Quiet(epoch) => {
                    self.seen = epoch;
                    Ok(Some(Told { epoch, snapshot: false, rows: Vec::new(), complete: true }))
                }
                Next::Changes(changes) => self.told(&changes, 0).map(Some),
                Next::Forgotten(oldest) => Err(TableError::Forgotten { seen: self.seen, oldest }),
                Next::Ahead(epoch) => Err(TableError::Ahead { seen: self.seen, epoch }),
            },
        }
    }

    fn told(&mut self, changes: &Arc<EpochChanges>, from: usize) -> Result<Told, TableError> {
        let columns = &*self.table.place.columns;
        let (mut encoded, mut diffs): (Vec<&[u8]>, Vec<i64>) = (Vec::new(), Vec::new());
        let (mut bytes, mut to) = (0, from);
        while let Some(place) = changes.told.get(to) {
            if to - from >= ROWS_AT_ONCE || bytes >= BYTES_AT_ONCE {
                break;
            }
            let (row, diff) = changes.net.at(*place as usize);
            if row.starts_with(&self.question.prefix) {
                encoded.push(row);
                diffs.push(diff);
            }
            bytes += row.len();
            to += 1;
        }
        let wanted = self.question.wanted(columns, &encoded)?;
        let mut rows = Vec::new();
        for (at, (row, times)) in encoded.iter().zip(diffs).enumerate() {
            if is_wanted(&wanted, at) {
                rows.push(TableRow { cells: self.question.cells(columns, row), times });
            }
        }
        let (epoch, complete) = (changes.epoch, to >= changes.told.len());
        if complete {
            self.seen = epoch;
            self.stage = Stage::Idle;
        } else {
            self.stage = Stage::Changes(Arc::clone(changes), to);
        }
        Ok(Told { epoch, snapshot: false, rows, complete })
    }
}
