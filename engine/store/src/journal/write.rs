//! Write: how the journal is written: one transaction for each public call, whole or not at all, and what
//! is counted for each pipeline.
//!
//! What must hold is checked against what the journal itself knows, before it commits: a breach
//! writes nothing. After a write that failed nothing more is written until the journal is opened
//! again.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, Transaction, TransactionBehavior, params};

use super::schema::{self, of};
use super::{Generation, Journal, JournalError, JournalReader, read};
use crate::barrier;
use crate::disk::Full;
use crate::failpoint;
use crate::home::Home;

/// What is counted for each pipeline.
#[derive(Clone, Copy, Debug)]
pub(super) struct Counters {
    /// The number of the pipeline in the journal.
    pub(super) id: i64,
    pub(super) next_epoch: u64,
    pub(super) finished_epoch: u64,
    pub(super) committed: u64,
    pub(super) quarantined: u64,
}

impl Counters {
    /// Returns the next epoch and counts it as given.
    pub(super) fn take_epoch(&mut self) -> u64 {
        let epoch = self.next_epoch;
        self.next_epoch += 1;
        epoch
    }
}

impl Journal {
    /// Opens the journal of a home for its one writer, creating it if it is not there.
    ///
    /// Checks the whole file, which takes time in proportion to its size.
    pub fn open(home: &Home) -> Result<Journal, JournalError> {
        if !home.is_locked() {
            let detail = "only the holder of the home's lock may write the journal";
            return Err(JournalError::invariant(detail));
        }
        let path = home.journal_path();
        let connection = schema::open_writer(&path)?;
        let last: i64 = connection
            .query_row("SELECT coalesce(max(id), 0) FROM submission", [], |row| row.get(0))
            .map_err(of("read", &path))?;
        let pipelines = counters(&connection).map_err(of("read", &path))?;
        failpoint::reach("journal-opened").map_err(JournalError::failpoint("open"))?;
        Ok(Journal {
            connection,
            root: home.root().to_path_buf(),
            next_id: last.cast_unsigned() + 1,
            generation: None,
            pipelines,
            books: HashMap::new(),
            retaining: HashMap::new(),
            frames: HashMap::new(),
            failed: false,
        })
    }

    /// Writes down that a new generation begins; returns its number. Durable on return.
    pub fn begin_generation(&mut self, facts: &Generation) -> Result<u64, JournalError> {
        let number = self.write("begin a generation", |transaction, _| {
            let number: i64 = transaction
                .prepare_cached(
                    "INSERT INTO generation
                     SELECT coalesce(max(number), 0) + 1, ?1, ?2, ?3, ?4 FROM generation
                     RETURNING number",
                )?
                .query_row(
                    params![
                        now_us(),
                        facts.binary_version,
                        facts.processes.cast_signed(),
                        facts.workers.cast_signed()
                    ],
                    |row| row.get(0),
                )?;
            let mut plan = transaction.prepare_cached("INSERT INTO plan VALUES (?1, ?2, ?3)")?;
            for (pipeline, plan_hash) in &facts.plans {
                plan.execute(params![number, pipeline, plan_hash])?;
            }
            failpoint::reach("generation-written")
                .map_err(JournalError::failpoint("begin a generation"))?;
            Ok(number.cast_unsigned())
        })?;
        failpoint::reach("generation-durable")
            .map_err(JournalError::failpoint("begin a generation"))?;
        self.generation = Some(number);
        Ok(number)
    }

    /// Returns a number that no submission has. It is durable only with [`Journal::accept`].
    pub fn next_submission(&mut self) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        id
    }

    /// Makes all numbers up to `id` count as used: some file in `underprocess/` carries it.
    pub fn raise_submission(&mut self, id: u64) {
        // A name forged at the end of the numbers must not leave none for anybody else.
        if id < i64::MAX.cast_unsigned() / 2 {
            self.next_id = self.next_id.max(id + 1);
        }
    }

    /// Writes down that publication and moves of these submissions are durable, and forgets the
    /// bytes kept for them.
    ///
    /// Not synced: a loss of power may lose it, and then recovery repeats what was done already.
    pub fn settle(&mut self, ids: &[u64]) -> Result<(), JournalError> {
        self.write_unsynced("settle", |transaction, _| {
            let mut unsettled =
                transaction.prepare_cached("DELETE FROM unsettled WHERE submission = ?1")?;
            let mut body = transaction.prepare_cached("DELETE FROM body WHERE submission = ?1")?;
            for id in ids {
                unsettled.execute([id.cast_signed()])?;
                body.execute([id.cast_signed()])?;
            }
            let stop = JournalError::failpoint("settle");
            Ok(failpoint::reach("settle-written").map_err(stop)?)
        })?;
        failpoint::reach("settle-done").map_err(JournalError::failpoint("settle"))
    }

    fn synchronous(&self, how: &str) -> Result<(), JournalError> {
        self.connection
            .execute_batch(&format!("PRAGMA synchronous = {how}"))
            .map_err(of("set up", &self.path()))
    }

    /// Opens a connection of its own that only looks.
    pub fn reader(&self) -> Result<JournalReader, JournalError> {
        JournalReader::open_at(&self.path())
    }

    pub(super) fn path(&self) -> PathBuf {
        self.connection.path().map_or_else(|| self.root.clone(), PathBuf::from)
    }

    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Runs a transaction that is durable on return; this is a barrier.
    pub(super) fn write_synced<T>(
        &mut self,
        barrier: &str,
        doing: &'static str,
        work: impl FnOnce(&Transaction<'_>, &mut HashMap<String, Counters>) -> Result<T, Trouble>,
    ) -> Result<T, JournalError> {
        if barrier::holds(barrier) {
            self.write(doing, work)
        } else {
            self.write_unsynced(doing, work)
        }
    }

    /// Runs a transaction that becomes durable with the next one that is synced.
    pub(super) fn write_unsynced<T>(
        &mut self,
        doing: &'static str,
        work: impl FnOnce(&Transaction<'_>, &mut HashMap<String, Counters>) -> Result<T, Trouble>,
    ) -> Result<T, JournalError> {
        self.synchronous("NORMAL")?;
        let result = self.write(doing, work);
        self.synchronous("FULL").inspect_err(|_| self.failed = true)?;
        result
    }

    /// Runs one transaction over the tables and a copy of the counters; the copy counts only if
    /// the transaction does. One that fails for lack of space is rolled back and may be tried again.
    pub(super) fn write<T>(
        &mut self,
        doing: &'static str,
        work: impl FnOnce(&Transaction<'_>, &mut HashMap<String, Counters>) -> Result<T, Trouble>,
    ) -> Result<T, JournalError> {
        let path = self.path();
        if self.failed {
            let source = io::Error::other("an earlier write failed; start again to recover");
            return Err(JournalError::Disk { doing, path, source });
        }
        let mut pipelines = self.pipelines.clone();
        let result = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(Trouble::from)
            .and_then(|transaction| {
                let value = work(&transaction, &mut pipelines)?;
                transaction.commit()?;
                Ok(value)
            });
        match result {
            Ok(value) => {
                self.pipelines = pipelines;
                Ok(value)
            }
            Err(Trouble::Ours(error)) => Err(error),
            Err(Trouble::Sqlite(error)) => {
                let error = JournalError::of_write(doing, path, error);
                self.failed = !matches!(error, JournalError::Invariant { .. }) && !error.is_full();
                Err(error)
            }
        }
    }
}

/// What ends a transaction: a rule of ours, or SQLite.
pub(super) enum Trouble {
    Ours(JournalError),
    Sqlite(rusqlite::Error),
}

impl From<JournalError> for Trouble {
    fn from(error: JournalError) -> Self {
        Self::Ours(error)
    }
}

impl From<rusqlite::Error> for Trouble {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

pub(super) fn now_us() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

fn counters(connection: &Connection) -> rusqlite::Result<HashMap<String, Counters>> {
    let mut statement = connection.prepare(
        "SELECT name, id, next_epoch, finished_epoch, committed, quarantined FROM pipeline",
    )?;
    let rows = statement.query_map([], |row| {
        let counters = Counters {
            id: row.get(1)?,
            next_epoch: read::unsigned(row, 2)?,
            finished_epoch: read::unsigned(row, 3)?,
            committed: read::unsigned(row, 4)?,
            quarantined: read::unsigned(row, 5)?,
        };
        Ok((row.get(0)?, counters))
    })?;
    rows.collect()
}

pub(super) fn known_or_new<'a>(
    transaction: &Transaction<'_>,
    pipelines: &'a mut HashMap<String, Counters>,
    name: &str,
) -> Result<&'a mut Counters, Trouble> {
    if !pipelines.contains_key(name) {
        let id = transaction
            .prepare_cached("INSERT INTO pipeline (name) VALUES (?1) RETURNING id")?
            .query_row([name], |row| row.get(0))?;
        let new = Counters { id, next_epoch: 1, finished_epoch: 0, committed: 0, quarantined: 0 };
        pipelines.insert(name.to_string(), new);
    }
    let missing = || JournalError::invariant("a pipeline vanished from memory").into();
    pipelines.get_mut(name).ok_or_else(missing)
}

pub(super) fn save_counters(
    transaction: &Transaction<'_>,
    pipelines: &HashMap<String, Counters>,
) -> Result<(), Trouble> {
    let mut statement = transaction.prepare_cached(
        "UPDATE pipeline SET next_epoch = ?2, finished_epoch = ?3, committed = ?4, quarantined = ?5
         WHERE id = ?1 AND (next_epoch, finished_epoch) <> (?2, ?3)",
    )?;
    for counters in pipelines.values() {
        statement.execute(params![
            counters.id,
            counters.next_epoch.cast_signed(),
            counters.finished_epoch.cast_signed(),
            counters.committed.cast_signed(),
            counters.quarantined.cast_signed(),
        ])?;
    }
    Ok(())
}
