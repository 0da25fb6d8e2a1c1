//! Deployment: which text a pipeline runs with since it was deployed into a running server.
//!
//! Written in one transaction with the boundary it takes over at: the epoch that the next file gets,
//! while no earlier one is open. So a start finds either the old text or the new one, and no file can
//! belong to both. The newest text of a pipeline is kept whole, of those before it their hashes. What was
//! given to its parameters is kept beside it: the same file with the same values is the same text.

use std::collections::BTreeMap;
use std::path::Path;

use rusqlite::{Connection, OptionalExtension, Transaction, params};

use super::read::unsigned;
use super::schema::{self, of};
use super::write::{Trouble, now_us};
use super::{Journal, JournalError};
use crate::failpoint;
use crate::home::JOURNAL;

/// How many deployments of a pipeline are remembered: a start recognises their texts as old ones.
const REMEMBERED: u64 = 1000;

/// The tables of this file.
pub(super) const TABLES: &str = "
-- what was deployed into a running server; the newest of a pipeline is what it runs with. Of older
-- ones the text is forgotten, its hash is not
CREATE TABLE deployment (
    pipeline    TEXT NOT NULL,
    version     INTEGER NOT NULL,
    text        TEXT,
    text_hash   BLOB NOT NULL CHECK (length(text_hash) = 32),
    replaced    BLOB CHECK (length(replaced) = 32),
    plan_hash   TEXT NOT NULL,
    first_epoch INTEGER NOT NULL,
    generation  INTEGER,
    at_us       INTEGER NOT NULL,
    PRIMARY KEY (pipeline, version)
) STRICT, WITHOUT ROWID;
-- what the parameters of the newest text of a pipeline were given
CREATE TABLE deployed_param (
    pipeline    TEXT NOT NULL,
    name        TEXT NOT NULL,
    value       TEXT NOT NULL,
    PRIMARY KEY (pipeline, name)
) STRICT, WITHOUT ROWID;
";

/// A text that is to take over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewDeployment {
    /// The pipeline.
    pub pipeline: String,
    /// Its file, as it was written.
    pub text: String,
    /// What was given to its parameters.
    pub params: BTreeMap<String, String>,
    /// What the plan of that text is called.
    pub plan_hash: String,
    /// The text that runs so far; `None` for a pipeline that does not.
    pub replaces: Option<String>,
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deployed {
    /// It is durable.
    Durable {
        /// How many deployments of this pipeline there were, this one included.
        version: u64,
        /// The first epoch that belongs to it.
        first_epoch: u64,
    },
    /// Nothing was written: so many files of the pipeline are not finished.
    Open {
        /// How many.
        files: u64,
    },
}

/// What a pipeline runs with since it was deployed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deployment {
    /// The pipeline.
    pub pipeline: String,
    /// How many deployments of it there were, this one included.
    pub version: u64,
    /// Its file.
    pub text: String,
    /// What was given to its parameters.
    pub params: BTreeMap<String, String>,
    /// What the plan of that text is called.
    pub plan_hash: String,
    /// The first epoch that belongs to it.
    pub first_epoch: u64,
    /// Microseconds since 1970.
    pub at_us: i64,
    /// BLAKE3 of the texts that it, or one before it, took the place of.
    pub older: Vec<[u8; 32]>,
}

impl Deployment {
    /// Returns whether a text is one that this one took the place of, and not this one again.
    pub fn supersedes(&self, text: &str) -> bool {
        self.text != text && self.older.contains(blake3::hash(text.as_bytes()).as_bytes())
    }
}

impl Journal {
    /// Lets a text take over from the next epoch of its pipeline on, if all files before it are
    /// finished. Durable on return.
    pub fn deploy(&mut self, new: &NewDeployment) -> Result<Deployed, JournalError> {
        let first_epoch = self.next_epoch(&new.pipeline)?;
        let generation = self.generation.map(u64::cast_signed);
        let hash = |text: &String| *blake3::hash(text.as_bytes()).as_bytes();
        self.between_files("deploy a pipeline", &new.pipeline, |transaction| {
            let version = 1 + newest(transaction, &new.pipeline)?;
            transaction
                .prepare_cached("UPDATE deployment SET text = NULL WHERE pipeline = ?1")?
                .execute([&new.pipeline])?;
            transaction
                .prepare_cached("DELETE FROM deployment WHERE pipeline = ?1 AND version <= ?2")?
                .execute(params![new.pipeline, version.saturating_sub(REMEMBERED).cast_signed()])?;
            transaction
                .prepare_cached(
                    "INSERT INTO deployment VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
                )?
                .execute(params![
                    new.pipeline,
                    version.cast_signed(),
                    new.text,
                    hash(&new.text),
                    new.replaces.as_ref().map(hash),
                    new.plan_hash,
                    first_epoch.cast_signed(),
                    generation,
                    now_us(),
                ])?;
            transaction
                .prepare_cached("DELETE FROM deployed_param WHERE pipeline = ?1")?
                .execute([&new.pipeline])?;
            for (name, value) in &new.params {
                transaction
                    .prepare_cached("INSERT INTO deployed_param VALUES (?1, ?2, ?3)")?
                    .execute(params![new.pipeline, name, value])?;
            }
            Ok(Deployed::Durable { version, first_epoch })
        })
    }

    /// Forgets what was deployed of a pipeline, if all of its files are finished: from the epoch that
    /// is returned on nothing takes its files. Durable on return.
    pub fn undeploy(&mut self, pipeline: &str) -> Result<Deployed, JournalError> {
        let first_epoch = self.next_epoch(pipeline)?;
        self.between_files("undeploy a pipeline", pipeline, |transaction| {
            let version = newest(transaction, pipeline)?;
            for forget in [
                "DELETE FROM deployment WHERE pipeline = ?1",
                "DELETE FROM deployed_param WHERE pipeline = ?1",
            ] {
                transaction.prepare_cached(forget)?.execute([pipeline])?;
            }
            Ok(Deployed::Durable { version, first_epoch })
        })
    }

    /// Changes what is deployed of a pipeline, if all of its files are finished.
    fn between_files(
        &mut self,
        doing: &'static str,
        pipeline: &str,
        change: impl FnOnce(&Transaction<'_>) -> Result<Deployed, Trouble>,
    ) -> Result<Deployed, JournalError> {
        let stop = JournalError::failpoint(doing);
        let deployed = self.write(doing, |transaction, _| {
            let files = open_files(transaction, pipeline)?;
            if files > 0 {
                return Ok(Deployed::Open { files });
            }
            let deployed = change(transaction)?;
            failpoint::reach("deploy-written").map_err(&stop)?;
            Ok(deployed)
        })?;
        if let Deployed::Durable { .. } = deployed {
            failpoint::reach("deploy-durable").map_err(&stop)?;
        }
        Ok(deployed)
    }

    /// Forgets everything that was deployed: what a start is given counts again. Durable on return.
    pub fn forget_deployments(&mut self) -> Result<(), JournalError> {
        self.write("forget deployments", |transaction, _| {
            transaction.prepare_cached("DELETE FROM deployment")?.execute([])?;
            transaction.prepare_cached("DELETE FROM deployed_param")?.execute([])?;
            Ok(())
        })
    }
}

/// Returns how many files of a pipeline are not finished.
fn open_files(transaction: &Transaction<'_>, pipeline: &str) -> rusqlite::Result<u64> {
    transaction
        .prepare_cached(
            "SELECT count(*) FROM submission WHERE verdict = 0
             AND pipeline = (SELECT id FROM pipeline WHERE name = ?1)",
        )?
        .query_row([pipeline], |row| unsigned(row, 0))
}

/// Returns the newest version of a pipeline; 0 if it was never deployed.
fn newest(transaction: &Transaction<'_>, pipeline: &str) -> rusqlite::Result<u64> {
    transaction
        .prepare_cached("SELECT coalesce(max(version), 0) FROM deployment WHERE pipeline = ?1")?
        .query_row([pipeline], |row| unsigned(row, 0))
}

/// Returns what pipelines of a home run with since they were deployed, by name. Looks only, and needs
/// no lock: nothing is deployed while a run begins. A home that is not there yet has none.
pub fn deployments(root: &Path) -> Result<Vec<Deployment>, JournalError> {
    let path = root.join(JOURNAL);
    match std::fs::metadata(&path) {
        Ok(file) if file.len() > 0 => {}
        // Whoever opens the home says better what is wrong with it.
        _ => return Ok(Vec::new()),
    }
    let connection = schema::open_reader(&path)?;
    match read(&connection) {
        // It ended while the journal was made: only then is there something to roll back, and nothing
        // else is in it yet.
        Err(error) if is_being_made(&error) => Ok(Vec::new()),
        read => read.map_err(of("list deployments", &path)),
    }
}

fn is_being_made(error: &rusqlite::Error) -> bool {
    let extended = error.sqlite_error().map(|error| error.extended_code);
    extended == Some(rusqlite::ffi::SQLITE_READONLY_ROLLBACK)
}

fn read(connection: &Connection) -> rusqlite::Result<Vec<Deployment>> {
    let made = "SELECT 1 FROM sqlite_schema WHERE name = 'deployment'";
    if connection.query_row(made, [], |_| Ok(())).optional()?.is_none() {
        return Ok(Vec::new());
    }
    let mut newest = connection.prepare(
        "SELECT pipeline, version, text, plan_hash, first_epoch, at_us FROM deployment
         WHERE text IS NOT NULL ORDER BY pipeline",
    )?;
    let row = |row: &rusqlite::Row<'_>| {
        Ok(Deployment {
            pipeline: row.get(0)?,
            version: unsigned(row, 1)?,
            text: row.get(2)?,
            params: BTreeMap::new(),
            plan_hash: row.get(3)?,
            first_epoch: unsigned(row, 4)?,
            at_us: row.get(5)?,
            older: Vec::new(),
        })
    };
    let mut all: Vec<Deployment> = newest.query_map([], row)?.collect::<Result<_, _>>()?;
    let mut older = connection.prepare(
        "SELECT text_hash FROM deployment WHERE pipeline = ?1 AND text IS NULL
         UNION SELECT replaced FROM deployment WHERE pipeline = ?1 AND replaced IS NOT NULL",
    )?;
    let mut given =
        connection.prepare("SELECT name, value FROM deployed_param WHERE pipeline = ?1")?;
    for one in &mut all {
        one.older =
            older.query_map([&one.pipeline], |row| row.get(0))?.collect::<Result<_, _>>()?;
        let pair = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?));
        one.params = given.query_map([&one.pipeline], pair)?.collect::<Result<_, _>>()?;
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_that_was_being_made_has_no_deployment() {
        let folder = tempfile::tempdir().unwrap();
        let (made, found) = (folder.path().join("made"), folder.path().join("found"));
        std::fs::create_dir_all(&found).unwrap();
        let maker = Connection::open(&made).unwrap();
        // More than the cache holds, so that part of it is in the file before it is committed.
        maker
            .execute_batch(
                "PRAGMA journal_mode = DELETE; CREATE TABLE first (x); PRAGMA cache_size = 1; BEGIN;
                 CREATE TABLE second (x); INSERT INTO second VALUES (randomblob(1000000));
                 INSERT INTO second SELECT x FROM second;",
            )
            .unwrap();
        let rollback = format!("{JOURNAL}-journal");
        std::fs::copy(&made, found.join(JOURNAL)).unwrap();
        std::fs::copy(folder.path().join("made-journal"), found.join(rollback)).unwrap();
        let error = read(&schema::open_reader(&found.join(JOURNAL)).unwrap()).unwrap_err();
        assert!(is_being_made(&error), "{error}");
        assert!(deployments(&found).unwrap().is_empty());
    }
}
