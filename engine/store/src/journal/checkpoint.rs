//! Checkpoint: which checkpoints count, and what a file was committed with.
//!
//! A checkpoint counts from the moment its row is here; its files are durable before. The row names
//! its manifest by name and hash.

use rusqlite::{Connection, OptionalExtension, params};

use super::read::unsigned;
use super::schema::of;
use super::write::now_us;
use super::{Journal, JournalError, JournalReader, PartRow, void};
use crate::{disk, failpoint};

/// How many checkpoints of a pipeline are kept: the newest, and one in case that one is damaged.
pub(crate) const KEPT: usize = 2;

pub(super) const TABLES: &str = "
-- durable state of a pipeline as of an epoch: everything up to it need not be read again
CREATE TABLE checkpoint (
    pipeline   INTEGER NOT NULL REFERENCES pipeline (id),
    epoch      INTEGER NOT NULL,
    generation INTEGER NOT NULL,
    manifest   TEXT NOT NULL,
    hash       BLOB NOT NULL CHECK (length(hash) = 32),
    bytes      INTEGER NOT NULL,
    took_ms    INTEGER NOT NULL,
    at_us      INTEGER NOT NULL,
    PRIMARY KEY (pipeline, epoch)
) STRICT, WITHOUT ROWID;
";

/// A checkpoint that counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointRow {
    /// The epoch: everything up to it is in the checkpoint, nothing after it.
    pub epoch: u64,
    /// The generation that wrote it.
    pub generation: u64,
    /// The name of its manifest in the pipeline's folder of checkpoints.
    pub manifest: String,
    /// BLAKE3 of the manifest.
    pub hash: [u8; 32],
    /// Bytes that were written for it.
    pub bytes: u64,
    /// How long that took, in milliseconds.
    pub took_ms: u64,
}

/// What a file was committed with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// Its outputs.
    pub parts: Vec<PartRow>,
    /// The plan that made them.
    pub plan_hash: String,
    /// The version of the binary that made them.
    pub binary_version: String,
}

impl Journal {
    /// Lets a checkpoint count, and the older ones beyond the one before it no more. Durable on
    /// return; its files must have been synced before, and its epoch be finished.
    pub fn add_checkpoint(
        &mut self,
        pipeline: &str,
        row: &CheckpointRow,
    ) -> Result<(), JournalError> {
        let stop = JournalError::failpoint("add a checkpoint");
        self.write("add a checkpoint", |transaction, pipelines| {
            let refuse = || {
                let epoch = row.epoch;
                JournalError::invariant(format!(
                    "a checkpoint of {pipeline} at epoch {epoch}, which is not finished"
                ))
            };
            let counters = pipelines.get(pipeline).ok_or_else(refuse)?;
            let finished = void::pass(transaction, counters.id, counters.finished_epoch)?;
            if row.epoch > finished {
                return Err(refuse().into());
            }
            if !disk::is_plain_name(&row.manifest) {
                return Err(JournalError::invariant("the name of a manifest is a path").into());
            }
            transaction
                .prepare_cached(
                    "INSERT OR REPLACE INTO checkpoint VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
                )?
                .execute(params![
                    counters.id,
                    row.epoch.cast_signed(),
                    row.generation.cast_signed(),
                    row.manifest,
                    row.hash,
                    row.bytes.cast_signed(),
                    row.took_ms.cast_signed(),
                    now_us(),
                ])?;
            transaction
                .prepare_cached(
                    "DELETE FROM checkpoint WHERE pipeline = ?1 AND epoch NOT IN
                     (SELECT epoch FROM checkpoint WHERE pipeline = ?1 ORDER BY epoch DESC LIMIT ?2)",
                )?
                .execute(params![counters.id, KEPT as i64])?;
            Ok(failpoint::reach("checkpoint-row-written").map_err(&stop)?)
        })?;
        failpoint::reach("checkpoint-durable").map_err(&stop)
    }

    /// Lets these checkpoints of a pipeline count no more: they cannot be used. Durable on return.
    pub fn drop_checkpoints(&mut self, pipeline: &str, epochs: &[u64]) -> Result<(), JournalError> {
        self.write("drop checkpoints", |transaction, _| {
            let mut statement = transaction.prepare_cached(
                "DELETE FROM checkpoint WHERE epoch = ?2
                 AND pipeline = (SELECT id FROM pipeline WHERE name = ?1)",
            )?;
            for epoch in epochs {
                statement.execute(params![pipeline, epoch.cast_signed()])?;
            }
            Ok(())
        })
    }

    /// Returns the checkpoints of a pipeline that count, the newest first.
    pub fn checkpoints(&self, pipeline: &str) -> Result<Vec<CheckpointRow>, JournalError> {
        checkpoints(self.connection(), pipeline).map_err(of("list the checkpoints", &self.path()))
    }

    /// Returns what a committed file was committed with; `None` if it was not, or if it is not known
    /// by which plan.
    pub fn committed_with(&self, id: u64) -> Result<Option<Committed>, JournalError> {
        let ask = || -> rusqlite::Result<Option<Committed>> {
            let made_by = self
                .connection()
                .prepare_cached(
                    "SELECT plan.plan_hash, g.binary_version
                     FROM submission s JOIN pipeline p ON p.id = s.pipeline
                     JOIN plan ON plan.generation = s.generation AND plan.pipeline = p.name
                     JOIN generation g ON g.number = s.generation
                     WHERE s.id = ?1 AND s.verdict = 1",
                )?
                .query_row([id.cast_signed()], |row| Ok((row.get(0)?, row.get(1)?)))
                .optional()?;
            let Some((plan_hash, binary_version)) = made_by else { return Ok(None) };
            let parts = super::read::parts_of(self.connection(), id)?;
            Ok(Some(Committed { parts, plan_hash, binary_version }))
        };
        ask().map_err(of("read what was committed", &self.path()))
    }

    /// Returns the last committed epoch of a pipeline, 0 if there is none.
    pub fn last_committed(&self, pipeline: &str) -> Result<u64, JournalError> {
        let sql = "SELECT epoch FROM submission
                   WHERE pipeline = (SELECT id FROM pipeline WHERE name = ?1) AND verdict = 1
                   ORDER BY epoch DESC LIMIT 1";
        self.connection()
            .prepare_cached(sql)
            .and_then(|mut s| s.query_row([pipeline], |row| unsigned(row, 0)).optional())
            .map(Option::unwrap_or_default)
            .map_err(of("read the last epoch", &self.path()))
    }
}

impl JournalReader {
    /// Returns the checkpoints of a pipeline that count, the newest first.
    pub fn checkpoints(&self, pipeline: &str) -> Result<Vec<CheckpointRow>, JournalError> {
        checkpoints(self.connection(), pipeline).map_err(of("list the checkpoints", self.path()))
    }
}

/// Returns the checkpoints of a pipeline that count, the newest first.
pub(crate) fn checkpoints(
    connection: &Connection,
    pipeline: &str,
) -> rusqlite::Result<Vec<CheckpointRow>> {
    let mut statement = connection.prepare_cached(
        "SELECT epoch, generation, manifest, hash, bytes, took_ms FROM checkpoint
         WHERE pipeline = (SELECT id FROM pipeline WHERE name = ?1) ORDER BY epoch DESC",
    )?;
    let row = |row: &rusqlite::Row<'_>| {
        Ok(CheckpointRow {
            epoch: unsigned(row, 0)?,
            generation: unsigned(row, 1)?,
            manifest: row.get(2)?,
            hash: row.get(3)?,
            bytes: unsigned(row, 4)?,
            took_ms: unsigned(row, 5)?,
        })
    };
    statement.query_map([pipeline], row)?.collect()
}
