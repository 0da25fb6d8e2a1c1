//! Write: the transactions of the journal. Each public call is one, whole or not at all.
//!
//! What must hold is checked against what the journal itself knows, before it commits: a breach
//! writes nothing. After a write that failed nothing more is written until the journal is opened
//! again.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, Transaction, TransactionBehavior, params};

use super::names::{Folder, free_name};
use super::receipt::{self, Books};
use super::schema::{self, of};
use super::shelf::{self, Replaced};
use super::{
    AcceptedFile, Correction, Generation, Journal, JournalError, JournalReader, NewFile, Outcome,
    Part, Replaces, Verdict, arrival, attempt, client_id, correct, dedupe, read, void,
};
use crate::barrier;
use crate::disk::{self, Full};
use crate::failpoint;
use crate::home::{self, Home};
use crate::name;
use crate::receipt::Receipt;

/// What is counted for each pipeline.
#[derive(Clone, Copy, Debug)]
pub(super) struct Counters {
    pub(super) id: i64,
    next_epoch: u64,
    pub(super) finished_epoch: u64,
    committed: u64,
    quarantined: u64,
}

impl Counters {
    /// Returns the number of the pipeline in the journal.
    pub(super) fn id(&self) -> i64 {
        self.id
    }

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

    /// Accepts claimed files: gives each the next epoch of its pipeline and its names. One that
    /// repeats an earlier file of its source gets no epoch: it is final, and has only to be moved to
    /// `processed/` and settled.
    ///
    /// One transaction, durable on return. The claims must have been synced before.
    pub fn accept(&mut self, files: &[NewFile]) -> Result<Vec<AcceptedFile>, JournalError> {
        for file in files {
            check_new(file)?;
        }
        let stop = JournalError::failpoint("accept");
        failpoint::reach("accept-begin").map_err(&stop)?;
        let root = self.root.clone();
        let now = now_us();
        let accepted = self.write_synced("A3", "accept", |transaction, pipelines| {
            let mut folders = HashMap::new();
            let mut accepted = Vec::with_capacity(files.len());
            for file in files {
                let counters = known_or_new(transaction, pipelines, &file.pipeline)?;
                let taken = folders
                    .entry(file.pipeline.as_str())
                    .or_insert_with(|| Folder::look(&root.join(&file.pipeline)));
                let stored_name = free_name(transaction, counters.id, &file.name, taken)?;
                let replaced = correct::resolve(transaction, counters.id, file)?;
                let original = match file.replaces {
                    Replaces::Nothing => dedupe::original(transaction, counters.id, file)?,
                    _ => None,
                };
                let epoch = if original.is_some() { 0 } else { counters.take_epoch() };
                let mut named = AcceptedFile {
                    duplicate_of: original,
                    ..with_names(file, stored_name, epoch, now)
                };
                if let Some(replaced) = replaced {
                    named.correction = Some(Correction { of: Some(replaced.of), removes: false });
                    named.output_name = replaced.output_name;
                }
                insert_file(transaction, counters.id, &named)?;
                arrival::insert(transaction, named.id, &file.terms, original.is_none())?;
                if original.is_none() {
                    dedupe::remember(transaction, counters.id, file)?;
                }
                if let Some(id) = &file.client_id {
                    client_id::insert(transaction, id, file.id)?;
                }
                accepted.push(named);
            }
            save_counters(transaction, pipelines)?;
            failpoint::reach("accept-written").map_err(&stop)?;
            Ok(accepted)
        })?;
        failpoint::reach("accept-durable").map_err(&stop)?;
        for file in files {
            self.raise_submission(file.id);
        }
        Ok(accepted)
    }

    /// Commits files, sets them aside, or postpones them: the commit point.
    ///
    /// One transaction, durable on return. Of each pipeline the epochs must follow one another
    /// without a gap; staged parts must have been synced before.
    pub fn finish(&mut self, outcomes: &[Outcome]) -> Result<Vec<Replaced>, JournalError> {
        self.finish_with(outcomes, &HashMap::new())
    }

    /// Commits or sets aside files with the receipts of those that are committed, by submission.
    ///
    /// A receipt that does not balance, or is missing for a pipeline whose book is kept, commits
    /// nothing. Returns what of ours the outputs take the place of.
    pub fn finish_with<O: Borrow<Outcome>>(
        &mut self,
        outcomes: &[O],
        receipts: &HashMap<u64, Receipt>,
    ) -> Result<Vec<Replaced>, JournalError> {
        // Not borrowed while the transaction has all of `self`.
        let books = std::mem::take(&mut self.books);
        let retaining = std::mem::take(&mut self.retaining);
        let result = self.finish_all(outcomes, receipts, &books, &retaining);
        self.books = books;
        self.retaining = retaining;
        result
    }

    fn finish_all<O: Borrow<Outcome>>(
        &mut self,
        outcomes: &[O],
        receipts: &HashMap<u64, Receipt>,
        books: &Books,
        retaining: &HashMap<String, Vec<String>>,
    ) -> Result<Vec<Replaced>, JournalError> {
        let generation = self.generation.map(u64::cast_signed);
        let stop = JournalError::failpoint("commit");
        failpoint::reach("commit-begin").map_err(&stop)?;
        let replaced = self.write_synced("C1", "commit", |transaction, pipelines| {
            let mut replaced = Vec::new();
            for outcome in outcomes.iter().map(O::borrow) {
                let Some(counters) = pipelines.get_mut(&outcome.pipeline) else {
                    let detail = format!("pipeline {} has no accepted files", outcome.pipeline);
                    return Err(JournalError::invariant(detail).into());
                };
                if outcome.epoch != counters.finished_epoch + 1 {
                    let finished = void::pass(transaction, counters.id, counters.finished_epoch)?;
                    counters.finished_epoch = finished;
                }
                check_order(counters, outcome)?;
                if let Verdict::Postponed(why) = &outcome.verdict {
                    attempt::postpone(transaction, counters.id, outcome, why)?;
                    counters.finished_epoch = outcome.epoch;
                    continue;
                }
                replaced.extend(finish_one(transaction, counters.id, generation, outcome)?);
                receipt::insert(transaction, books, outcome, receipts.get(&outcome.id))?;
                counters.finished_epoch = outcome.epoch;
                match outcome.verdict {
                    Verdict::Committed { .. } => {
                        counters.committed += 1;
                        let retaining = retaining.get(&outcome.pipeline);
                        correct::committed(transaction, outcome.id, retaining)?;
                    }
                    Verdict::Quarantined { .. } => {
                        counters.quarantined += 1;
                        correct::set_aside(transaction, outcome.id)?;
                    }
                    Verdict::Postponed(_) => {}
                }
            }
            save_counters(transaction, pipelines)?;
            failpoint::reach("commit-written").map_err(&stop)?;
            Ok(replaced)
        })?;
        failpoint::reach("commit-durable").map_err(&stop)?;
        Ok(replaced)
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
    fn write_synced<T>(
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

/// Checks of a new file what becomes part of a path.
pub(super) fn check_new(file: &NewFile) -> Result<(), JournalError> {
    let refuse = |detail: String| Err(JournalError::invariant(detail));
    if let Err(error) = home::check_pipeline_name(&file.pipeline) {
        return refuse(format!("accept submission {}: {error}", file.id));
    }
    if let Err(error) = name::check_name(std::ffi::OsStr::from_bytes(file.name.as_bytes())) {
        return refuse(format!("accept submission {}: {error}", file.id));
    }
    if !disk::is_plain_name(&file.claimed_name) {
        return refuse(format!("accept submission {}: a claimed name is no path", file.id));
    }
    if file.id == 0 || file.id > i64::MAX.cast_unsigned() {
        return refuse(format!("{} cannot be the number of a submission", file.id));
    }
    Ok(())
}

/// Returns what the outputs of a file would be named after that is accepted now.
pub(super) fn names_of(
    transaction: &Transaction<'_>,
    pipeline: i64,
    root: &Path,
    file: &NewFile,
) -> Result<String, Trouble> {
    let taken = Folder::look(&root.join(&file.pipeline));
    let stored_name = free_name(transaction, pipeline, &file.name, &taken)?;
    Ok(name::output_name(&stored_name).to_string())
}

fn with_names(file: &NewFile, stored_name: String, epoch: u64, now: i64) -> AcceptedFile {
    AcceptedFile {
        id: file.id,
        pipeline: file.pipeline.clone(),
        epoch,
        source: file.source.clone(),
        name: file.name.clone(),
        claimed_name: file.claimed_name.clone(),
        output_name: name::output_name(&stored_name).to_string(),
        stored_name,
        identity: file.identity,
        hash: file.hash,
        seen_at_us: file.seen_at_us,
        claimed_at_us: file.claimed_at_us,
        accepted_at_us: now,
        duplicate_of: None,
        correction: None,
    }
}

pub(super) fn insert_file(
    transaction: &Transaction<'_>,
    pipeline: i64,
    file: &AcceptedFile,
) -> Result<(), Trouble> {
    let seconds = file.identity.modified_ns.div_euclid(1_000_000_000);
    let Ok(seconds) = i64::try_from(seconds) else {
        let detail = format!("submission {} was modified outside of all time", file.id);
        return Err(JournalError::invariant(detail).into());
    };
    let nanoseconds = file.identity.modified_ns.rem_euclid(1_000_000_000) as i64;
    let is_duplicate = file.duplicate_of.is_some();
    transaction
        .prepare_cached(
            "INSERT INTO submission (id, pipeline, epoch, source, name, claimed_name, stored_name,
                 output_name, device, inode, bytes, modified_s, modified_ns, hash, seen_at_us,
                 claimed_at_us, accepted_at_us, verdict, finished_at_us, duplicate_of)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17,
                 ?18, ?19, ?20)",
        )?
        .execute(params![
            file.id.cast_signed(),
            pipeline,
            if is_duplicate { -file.id.cast_signed() } else { file.epoch.cast_signed() },
            file.source,
            file.name,
            file.claimed_name,
            file.stored_name,
            file.output_name,
            file.identity.device.cast_signed(),
            file.identity.inode.cast_signed(),
            file.identity.bytes.cast_signed(),
            seconds,
            nanoseconds,
            file.hash,
            file.seen_at_us,
            file.claimed_at_us,
            file.accepted_at_us,
            if is_duplicate { 3 } else { 0 },
            if is_duplicate { file.accepted_at_us } else { 0 },
            file.duplicate_of.map(u64::cast_signed),
        ])?;
    if let Some(correction) = file.correction {
        correct::insert(transaction, file.id, correction)?;
    }
    if is_duplicate {
        // It has still to be moved.
        let id = file.id.cast_signed();
        transaction.prepare_cached("INSERT INTO unsettled VALUES (?1)")?.execute([id])?;
    }
    Ok(())
}

fn check_order(counters: &Counters, outcome: &Outcome) -> Result<(), JournalError> {
    let due = counters.finished_epoch + 1;
    if outcome.epoch == due && due < counters.next_epoch {
        return Ok(());
    }
    let Outcome { id, pipeline, epoch, .. } = outcome;
    Err(JournalError::invariant(format!(
        "finish epoch {epoch} of {pipeline} (submission {id}): accepted are epochs up to {}, and \
         the next to finish is {due}",
        counters.next_epoch - 1
    )))
}

fn finish_one(
    transaction: &Transaction<'_>,
    pipeline: i64,
    generation: Option<i64>,
    outcome: &Outcome,
) -> Result<Vec<Replaced>, Trouble> {
    let id = outcome.id.cast_signed();
    if outcome.hash.is_none() && matches!(outcome.verdict, Verdict::Committed { .. }) {
        let detail =
            format!("submission {} is committed without the hash of its bytes", outcome.id);
        return Err(JournalError::invariant(detail).into());
    }
    let (verdict, code, detail, parts): (i64, _, _, &[Part]) = match &outcome.verdict {
        Verdict::Committed { parts } => (1, None, None, parts),
        Verdict::Quarantined { code, detail } => (2, Some(code), Some(detail), &[]),
        Verdict::Postponed(_) => {
            let detail = format!("submission {} is tried again and not finished", outcome.id);
            return Err(JournalError::invariant(detail).into());
        }
    };
    let changed = transaction
        .prepare_cached(
            "UPDATE submission SET verdict = ?4, records = ?5, rejected = ?6, answered_at_us = ?7,
                 finished_at_us = ?8, generation = ?9, code = ?10, detail = ?11,
                 hash = coalesce(?12, hash)
             WHERE id = ?1 AND pipeline = ?2 AND epoch = ?3 AND verdict = 0",
        )?
        .execute(params![
            id,
            pipeline,
            outcome.epoch.cast_signed(),
            verdict,
            outcome.records.cast_signed(),
            outcome.rejected.cast_signed(),
            outcome.answered_at_us,
            outcome.finished_at_us,
            generation,
            code,
            detail,
            outcome.hash,
        ])?;
    if changed != 1 {
        let Outcome { id, pipeline, epoch, .. } = outcome;
        let detail = format!("epoch {epoch} of {pipeline} is not submission {id}, or is finished");
        return Err(JournalError::invariant(detail).into());
    }
    transaction.prepare_cached("INSERT INTO unsettled VALUES (?1)")?.execute([id])?;
    shelf::insert(transaction, pipeline, generation, outcome, parts)
}
