//! Read: questions to the journal, for recovery (through the writer) and for people (beside it).
//!
//! Never writes. A value that cannot be what was written is a damaged journal, not a panic.

use std::path::{Path, PathBuf};

use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, Row, params, params_from_iter};

use super::schema::{self, of};
use super::shelf;
use super::{
    AcceptedFile, Correction, Counts, Filter, Journal, JournalError, LIST_MAX, Outcome, OutcomeRow,
    Part, PartBody, PartRow, Phase, SubmissionRow, Verdict, VerdictRow, Version,
};
use crate::home::Home;
use crate::queue::Identity;

/// A view of the journal that never blocks its writer.
#[derive(Debug)]
pub struct JournalReader {
    pub(super) connection: Connection,
    pub(super) path: PathBuf,
}

/// The columns that [`submission_row`] reads, in its order.
const SELECT: &str = "
SELECT s.id, p.name, s.epoch, s.source, s.name, s.claimed_name, s.stored_name, s.output_name,
       s.device, s.inode, s.bytes, s.modified_s, s.modified_ns, s.hash, s.seen_at_us,
       s.claimed_at_us, s.accepted_at_us, s.verdict, s.records, s.rejected, s.answered_at_us,
       s.finished_at_us, s.code, s.detail, s.duplicate_of, k.removes, k.corrects
FROM submission s JOIN pipeline p ON p.id = s.pipeline
     LEFT JOIN correction k ON k.submission = s.id ";

impl Journal {
    /// Returns what is finished and not settled, with all its bytes, pipeline by pipeline in the order
    /// of epochs. Of the parts in one place only the one that speaks last is there, unless it is
    /// settled; what may lie there of the others is said by [`Part::before`].
    pub fn unsettled(&self) -> Result<Vec<(AcceptedFile, Outcome)>, JournalError> {
        let sql = format!(
            "{SELECT} JOIN unsettled u ON u.submission = s.id
             ORDER BY s.pipeline, s.epoch"
        );
        let connection = self.connection();
        let rows = list(connection, &sql, []).map_err(of("list the unsettled", &self.path()))?;
        let unsettled: Result<Vec<_>, JournalError> = rows
            .into_iter()
            .map(|row| {
                let outcome = whole_outcome(connection, &row)
                    .map_err(of("read an outcome", &self.path()))?
                    .ok_or_else(|| JournalError::Damaged {
                        path: self.path(),
                        detail: format!("submission {} is unsettled and unfinished", row.file.id),
                    })?;
                Ok((row.file, outcome))
            })
            .collect();
        let unsettled = unsettled?;
        shelf::last_words(connection, unsettled).map_err(of("read the shelf", &self.path()))
    }

    /// Returns the files of a pipeline that are accepted only, in the order of epochs; without those
    /// that wait to be tried again and have none.
    pub fn unfinished(&self, pipeline: &str) -> Result<Vec<AcceptedFile>, JournalError> {
        let which = "s.pipeline = (SELECT id FROM pipeline WHERE name = ?1) AND s.verdict = 0
                     AND s.epoch > 0";
        let sql = format!("{SELECT} WHERE {which} ORDER BY s.epoch");
        files(self.connection(), &sql, [pipeline]).map_err(of("list the unfinished", &self.path()))
    }

    /// Returns the committed files of a pipeline, in the order of epochs.
    pub fn committed(&self, pipeline: &str) -> Result<Vec<AcceptedFile>, JournalError> {
        self.committed_after(pipeline, 0, usize::MAX)
    }

    /// Returns at most `limit` committed files of a pipeline with an epoch above `epoch`, in the
    /// order of epochs: [`Journal::committed`] in pages.
    pub fn committed_after(
        &self,
        pipeline: &str,
        epoch: u64,
        limit: usize,
    ) -> Result<Vec<AcceptedFile>, JournalError> {
        committed_after(self.connection(), pipeline, epoch, limit)
            .map_err(of("list the committed", &self.path()))
    }

    /// Returns the epoch that the next accepted file of a pipeline gets.
    pub fn next_epoch(&self, pipeline: &str) -> Result<u64, JournalError> {
        self.connection()
            .prepare_cached("SELECT next_epoch FROM pipeline WHERE name = ?1")
            .and_then(|mut s| s.query_row([pipeline], |row| unsigned(row, 0)).optional())
            .map(|epoch| epoch.unwrap_or(1))
            .map_err(of("read an epoch", &self.path()))
    }

    /// Returns the pipelines that have files in the journal, by name.
    pub fn pipelines(&self) -> Result<Vec<String>, JournalError> {
        let ask = || -> rusqlite::Result<Vec<String>> {
            let mut s = self.connection().prepare("SELECT name FROM pipeline ORDER BY name")?;
            s.query_map([], |row| row.get(0))?.collect()
        };
        ask().map_err(of("list the pipelines", &self.path()))
    }

    /// Returns the plan that finished a submission; `None` if it is not known.
    pub fn plan_hash(&self, id: u64) -> Result<Option<String>, JournalError> {
        let sql = "SELECT plan_hash FROM submission s JOIN pipeline p ON p.id = s.pipeline
                   JOIN plan ON plan.generation = s.generation AND plan.pipeline = p.name
                   WHERE s.id = ?1";
        self.connection()
            .prepare_cached(sql)
            .and_then(|mut s| s.query_row([id.cast_signed()], |row| row.get(0)).optional())
            .map_err(of("read a plan", &self.path()))
    }

    /// Returns the hash of the plan that a pipeline ran last.
    pub fn last_plan(&self, pipeline: &str) -> Result<Option<String>, JournalError> {
        let sql = "SELECT plan_hash FROM plan WHERE pipeline = ?1 ORDER BY generation DESC LIMIT 1";
        self.connection()
            .prepare_cached(sql)
            .and_then(|mut s| s.query_row([pipeline], |row| row.get(0)).optional())
            .map_err(of("read a plan", &self.path()))
    }

    /// Returns whether the journal knows a claimed input of a pipeline.
    pub(crate) fn knows(&self, pipeline: &str, claimed: (u64, &str)) -> Result<bool, JournalError> {
        let (id, claimed_name) = claimed;
        self.connection()
            .prepare_cached(
                "SELECT 1 FROM submission WHERE id = ?1 AND claimed_name = ?2
                 AND pipeline = (SELECT id FROM pipeline WHERE name = ?3)",
            )
            .and_then(|mut s| s.exists(params![id.cast_signed(), claimed_name, pipeline]))
            .map_err(of("look up a submission", &self.path()))
    }
}

impl JournalReader {
    /// Opens the journal of a home for looking only. It must exist.
    pub fn open(home: &Home) -> Result<JournalReader, JournalError> {
        Self::open_at(&home.journal_path())
    }

    pub(super) fn open_at(path: &Path) -> Result<JournalReader, JournalError> {
        let connection = schema::open_reader(path)?;
        Ok(JournalReader { connection, path: path.to_path_buf() })
    }

    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns one submission.
    pub fn submission(&self, id: u64) -> Result<Option<SubmissionRow>, JournalError> {
        let sql = format!("{SELECT} WHERE s.id = ?1");
        let found = list(&self.connection, &sql, [id.cast_signed()])
            .map_err(of("read a submission", &self.path))?;
        Ok(found.into_iter().next())
    }

    /// Returns the committed files of a pipeline with an epoch above `epoch`, in the order of epochs.
    pub fn committed_after(
        &self,
        pipeline: &str,
        epoch: u64,
    ) -> Result<Vec<AcceptedFile>, JournalError> {
        committed_after(&self.connection, pipeline, epoch, usize::MAX)
            .map_err(of("list the committed", &self.path))
    }

    /// Returns submissions, newest first.
    pub fn submissions(&self, filter: &Filter) -> Result<Vec<SubmissionRow>, JournalError> {
        let (sql, values) = listing(filter);
        list(&self.connection, &sql, params_from_iter(values))
            .map_err(of("list submissions", &self.path))
    }

    /// Returns how many submissions of a pipeline stand where; zeros for one that is not known.
    pub fn counts(&self, pipeline: &str) -> Result<Counts, JournalError> {
        // An attempt that failed has used an epoch up; its file waits without one, or has another.
        let sql = "SELECT next_epoch - 1 - committed - quarantined
                       - (SELECT coalesce(sum(count), 0) FROM void WHERE pipeline = p.id)
                       - (SELECT count(*) FROM attempt a WHERE a.pipeline = p.id)
                       + (SELECT count(*) FROM submission s WHERE s.pipeline = p.id
                          AND s.verdict = 0 AND s.epoch < 0), committed, quarantined
                   FROM pipeline p WHERE name = ?1";
        let counts = |row: &Row<'_>| {
            Ok(Counts {
                accepted: unsigned(row, 0)?,
                committed: unsigned(row, 1)?,
                quarantined: unsigned(row, 2)?,
            })
        };
        self.connection
            .prepare_cached(sql)
            .and_then(|mut s| s.query_row([pipeline], counts).optional())
            .map(Option::unwrap_or_default)
            .map_err(of("count submissions", &self.path))
    }
}

/// Returns the query of a listing and the values in it.
fn listing(filter: &Filter) -> (String, Vec<Value>) {
    // Unfinished and quarantined files are few: their partial indexes are small, but the planner
    // would rather walk all rows in the order asked for.
    let select = match filter.phase {
        Some(Phase::Accepted) => {
            SELECT.replace("submission s", "submission s INDEXED BY submission_open")
        }
        Some(Phase::Quarantined) => {
            SELECT.replace("submission s", "submission s INDEXED BY submission_quarantined")
        }
        Some(Phase::Committed | Phase::Duplicate) | None => SELECT.to_string(),
    };
    let mut sql = format!("{select} WHERE 1");
    let mut values: Vec<Value> = Vec::new();
    let mut add = |condition: &str, value: Value| {
        sql.push_str(condition);
        values.push(value);
    };
    if let Some(pipeline) = &filter.pipeline {
        let condition = " AND s.pipeline = (SELECT id FROM pipeline WHERE name = ?)";
        add(condition, pipeline.clone().into());
    }
    if let Some(name) = &filter.name {
        add(" AND s.name = ?", name.clone().into());
    }
    if let Some(before) = filter.before {
        add(" AND s.id < ?", i64::try_from(before).unwrap_or(i64::MAX).into());
    }
    // Written out, not bound, so that the partial indexes are used.
    sql.push_str(match filter.phase {
        None => "",
        Some(Phase::Accepted) => " AND s.verdict = 0",
        Some(Phase::Committed) => " AND s.verdict = 1",
        Some(Phase::Quarantined) => " AND s.verdict = 2",
        Some(Phase::Duplicate) => " AND s.verdict = 3",
    });
    sql.push_str(" ORDER BY s.id DESC LIMIT ?");
    values.push((filter.limit.min(LIST_MAX) as i64).into());
    (sql, values)
}

/// Returns rows with their outcomes and the names of their parts.
fn list(
    connection: &Connection,
    sql: &str,
    values: impl rusqlite::Params,
) -> rusqlite::Result<Vec<SubmissionRow>> {
    let mut statement = connection.prepare_cached(sql)?;
    let rows = statement.query_map(values, submission_row)?;
    let mut found = rows.collect::<rusqlite::Result<Vec<_>>>()?;
    for row in &mut found {
        if let Some(OutcomeRow { verdict: VerdictRow::Committed { parts }, .. }) = &mut row.outcome
        {
            *parts = parts_of(connection, row.file.id)?;
        }
    }
    Ok(found)
}

fn committed_after(
    connection: &Connection,
    pipeline: &str,
    epoch: u64,
    limit: usize,
) -> rusqlite::Result<Vec<AcceptedFile>> {
    let sql = format!(
        "{SELECT} WHERE s.pipeline = (SELECT id FROM pipeline WHERE name = ?1)
         AND s.epoch > ?2 AND s.verdict = 1 ORDER BY s.epoch LIMIT ?3"
    );
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let epoch = i64::try_from(epoch).unwrap_or(i64::MAX);
    files(connection, &sql, params![pipeline, epoch, limit])
}

fn files(
    connection: &Connection,
    sql: &str,
    values: impl rusqlite::Params,
) -> rusqlite::Result<Vec<AcceptedFile>> {
    let mut statement = connection.prepare_cached(sql)?;
    statement.query_map(values, accepted_file)?.collect()
}

/// Returns one file.
pub(super) fn file(connection: &Connection, id: u64) -> rusqlite::Result<Option<AcceptedFile>> {
    let found = files_where(connection, "s.id = ?1", [id.cast_signed()])?;
    Ok(found.into_iter().next())
}

/// Returns the files of which a condition holds, in the order of epochs.
pub(super) fn files_where(
    connection: &Connection,
    which: &str,
    values: impl rusqlite::Params,
) -> rusqlite::Result<Vec<AcceptedFile>> {
    files(connection, &format!("{SELECT} WHERE {which} ORDER BY s.epoch"), values)
}

fn accepted_file(row: &Row<'_>) -> rusqlite::Result<AcceptedFile> {
    let seconds: i64 = row.get(11)?;
    let nanoseconds: i64 = row.get(12)?;
    Ok(AcceptedFile {
        id: unsigned(row, 0)?,
        pipeline: row.get(1)?,
        epoch: row.get::<_, i64>(2)?.max(0).cast_unsigned(),
        source: row.get(3)?,
        name: row.get(4)?,
        claimed_name: row.get(5)?,
        stored_name: row.get(6)?,
        output_name: row.get(7)?,
        identity: Identity {
            device: unsigned(row, 8)?,
            inode: unsigned(row, 9)?,
            bytes: unsigned(row, 10)?,
            modified_ns: i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds),
        },
        hash: row.get(13)?,
        seen_at_us: row.get(14)?,
        claimed_at_us: row.get(15)?,
        accepted_at_us: row.get(16)?,
        duplicate_of: row.get::<_, Option<i64>>(24)?.map(i64::cast_unsigned),
        correction: match row.get::<_, Option<bool>>(25)? {
            Some(removes) => {
                let of = row.get::<_, Option<i64>>(26)?.map(i64::cast_unsigned);
                Some(Correction { of, removes })
            }
            None => None,
        },
    })
}

fn submission_row(row: &Row<'_>) -> rusqlite::Result<SubmissionRow> {
    let verdict = match row.get::<_, i64>(17)? {
        0 => None,
        1 => Some(VerdictRow::Committed { parts: Vec::new() }),
        2 => Some(VerdictRow::Quarantined { code: row.get(22)?, detail: row.get(23)? }),
        3 => Some(VerdictRow::Duplicate { of: unsigned(row, 24)? }),
        other => return Err(rusqlite::Error::IntegralValueOutOfRange(17, other)),
    };
    let outcome = match verdict {
        None => None,
        Some(verdict) => Some(OutcomeRow {
            verdict,
            records: unsigned(row, 18)?,
            rejected: unsigned(row, 19)?,
            answered_at_us: row.get(20)?,
            finished_at_us: row.get(21)?,
        }),
    };
    Ok(SubmissionRow { file: accepted_file(row)?, outcome })
}

pub(super) fn parts_of(connection: &Connection, id: u64) -> rusqlite::Result<Vec<PartRow>> {
    let mut statement = connection.prepare_cached(
        "SELECT part.sink, part.name, part.bytes, part.hash, r.of, coalesce(r.removed, 0),
                nullif(shelf.submission, part.submission)
         FROM part JOIN submission s ON s.id = part.submission
         LEFT JOIN revision r ON r.submission = part.submission AND r.ordinal = part.ordinal
         LEFT JOIN shelf ON shelf.name = part.name AND shelf.sink = part.sink
                        AND shelf.pipeline = s.pipeline
         WHERE part.submission = ?1 ORDER BY part.ordinal",
    )?;
    let parts = statement.query_map([id.cast_signed()], |row| {
        Ok(PartRow {
            sink: row.get(0)?,
            name: row.get(1)?,
            bytes: unsigned(row, 2)?,
            hash: row.get(3)?,
            of: row.get::<_, Option<i64>>(4)?.map_or(id, i64::cast_unsigned),
            removed: row.get(5)?,
            superseded_by: row.get::<_, Option<i64>>(6)?.map(i64::cast_unsigned),
        })
    })?;
    parts.collect()
}

/// Returns the outcome of a submission that is not settled, with the bytes of its parts.
fn whole_outcome(
    connection: &Connection,
    row: &SubmissionRow,
) -> rusqlite::Result<Option<Outcome>> {
    let Some(outcome) = &row.outcome else { return Ok(None) };
    let verdict = match &outcome.verdict {
        VerdictRow::Committed { parts } => {
            let bodies = bodies_of(connection, row.file.id)?;
            if bodies.len() != parts.len() {
                return Err(rusqlite::Error::QueryReturnedNoRows);
            }
            let whole = |(part, (body, before)): (&PartRow, (PartBody, Option<Version>))| Part {
                sink: part.sink.clone(),
                name: part.name.clone(),
                of: part.of,
                bytes: part.bytes,
                hash: part.hash,
                body: if part.removed { PartBody::Removed } else { body },
                before: before.into_iter().collect(),
            };
            Verdict::Committed { parts: parts.iter().zip(bodies).map(whole).collect() }
        }
        VerdictRow::Quarantined { code, detail } => {
            Verdict::Quarantined { code: code.clone(), detail: detail.clone() }
        }
        // All that is left to do is to move it.
        VerdictRow::Duplicate { .. } => Verdict::Committed { parts: Vec::new() },
    };
    Ok(Some(Outcome {
        id: row.file.id,
        pipeline: row.file.pipeline.clone(),
        epoch: row.file.epoch,
        verdict,
        hash: row.file.hash,
        records: outcome.records,
        rejected: outcome.rejected,
        answered_at_us: outcome.answered_at_us,
        finished_at_us: outcome.finished_at_us,
    }))
}

/// Returns where the bytes of each part are, and what its place held before.
fn bodies_of(
    connection: &Connection,
    id: u64,
) -> rusqlite::Result<Vec<(PartBody, Option<Version>)>> {
    let mut statement = connection.prepare_cached(
        "SELECT body.staged, body.bytes, r.old_bytes, r.old_hash FROM body
         LEFT JOIN revision r ON r.submission = body.submission AND r.ordinal = body.ordinal
         WHERE body.submission = ?1 ORDER BY body.ordinal",
    )?;
    let bodies = statement.query_map([id.cast_signed()], |row| {
        let body = match row.get::<_, Option<String>>(0)? {
            Some(staged) => PartBody::Staged(staged.into()),
            None => PartBody::Inline(row.get(1)?),
        };
        let old: Option<[u8; 32]> = row.get(3)?;
        let before = match old {
            Some(hash) => Some(Version { bytes: unsigned(row, 2)?, hash, body: None }),
            None => None,
        };
        Ok((body, before))
    })?;
    bodies.collect()
}

/// Returns a column in which the bits of an unsigned number are kept.
pub(super) fn unsigned(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    row.get::<_, i64>(column).map(i64::cast_unsigned)
}
