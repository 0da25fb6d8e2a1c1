//! Correct: which submission takes another one's place, or takes it away.
//!
//! Owns the one answer to "which version is current". It is given when a correction is accepted, in
//! the transaction that accepts it, so that two corrections of one file come one after the other: the
//! second corrects the first even while that one still runs. If the first is set aside, the second
//! corrects what the first would have. A correction that is accepted counts as done for whoever comes
//! next; only one that is committed has changed anything.

use serde::Serialize;

use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};

use super::accept::insert_file;
use super::read::{self, unsigned};
use super::schema::of;
use super::write::{Trouble, known_or_new, now_us, save_counters};
use super::{AcceptedFile, Journal, JournalError, JournalReader, NewFile};
use crate::failpoint;
use crate::queue::Identity;

/// Which earlier file of its source a new one takes the place of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Replaces {
    /// None: it is one more file.
    #[default]
    Nothing,
    /// The newest current one of the same name; none if there is none.
    SameName,
    /// This one, or whatever has taken its place since.
    Submission(u64),
}

/// That a submission corrects an earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Correction {
    /// Which one. `None`: there is nothing to correct any more, for instance because what was to be
    /// replaced was taken away before.
    pub of: Option<u64>,
    /// Whether it only takes that one away; it then has no file of its own.
    pub removes: bool,
}

/// How submissions correct each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Corrections {
    /// The submission whose place this one takes.
    pub replaces: Option<u64>,
    /// The submission that this one takes away.
    pub removes: Option<u64>,
    /// The submission that takes this one's place, accepted or committed.
    pub replaced_by: Option<u64>,
    /// The submission that takes this one away, accepted or committed.
    pub removed_by: Option<u64>,
}

/// What became of the wish to take a file away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Removed {
    /// The removal is accepted.
    Accepted(Box<AcceptedFile>),
    /// There is no such submission.
    Unknown,
    /// It cannot be taken away, and why.
    Not(String),
}

/// An input by its number, and where it lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retired {
    /// The submission.
    pub id: u64,
    /// Its name in `processed/` or `retained/`.
    pub stored_name: String,
}

/// Who reads the inputs of a source again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NeededBy {
    /// Nobody: nothing is kept of them.
    Nobody,
    /// Starts, which build a state from them.
    Starts,
}

/// Which versions of its files a pipeline's state follows from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Versions {
    /// The current ones: what is taken back leaves no trace.
    Current,
    /// All that there were, in their order.
    All,
}

/// The inputs of a source that lie in `retained/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetainedBytes {
    /// The source.
    pub source: String,
    /// How many.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

pub(super) const TABLES: &str = "
-- submissions that replace another one (removes = 0) or take it away (removes = 1); `corrects` is
-- null where nothing was left to correct
CREATE TABLE correction (
    submission INTEGER PRIMARY KEY REFERENCES submission (id),
    removes    INTEGER NOT NULL,
    corrects   INTEGER REFERENCES submission (id)
) STRICT;
CREATE INDEX correction_corrects ON correction (corrects);

-- inputs whose bytes lie in retained/
CREATE TABLE retained (
    submission INTEGER PRIMARY KEY REFERENCES submission (id),
    kept_at_us INTEGER NOT NULL
) STRICT;

-- committed inputs whose rows are in no state: a start went on without them
CREATE TABLE lost (submission INTEGER PRIMARY KEY REFERENCES submission (id)) STRICT;
";

/// Holds of submission `s` that an accepted or committed one corrects it.
pub(super) const IS_CORRECTED: &str = "EXISTS (SELECT 1 FROM correction x JOIN submission n
     ON n.id = x.submission WHERE x.corrects = s.id AND n.verdict IN (0, 1))";

/// What a new file corrects, and the name that its outputs take over.
pub(super) struct Resolved {
    pub(super) of: u64,
    pub(super) output_name: String,
}

/// Finds out what a file that is being accepted corrects.
pub(super) fn resolve(
    transaction: &Transaction<'_>,
    pipeline: i64,
    file: &NewFile,
) -> Result<Option<Resolved>, Trouble> {
    match file.replaces {
        Replaces::Nothing => Ok(None),
        Replaces::SameName => same_name(transaction, pipeline, file),
        Replaces::Submission(id) => head(transaction, id),
    }
}

fn same_name(
    transaction: &Transaction<'_>,
    pipeline: i64,
    file: &NewFile,
) -> Result<Option<Resolved>, Trouble> {
    let row = |row: &Row<'_>| Ok(Resolved { of: unsigned(row, 0)?, output_name: row.get(1)? });
    let which = "FROM submission s LEFT JOIN correction c ON c.submission = s.id
         WHERE s.name = ?1 AND s.pipeline = ?2 AND s.source = ?3";
    let current = format!(
        "SELECT s.id, s.output_name {which} AND s.verdict IN (0, 1) AND coalesce(c.removes, 0) = 0
         AND NOT {IS_CORRECTED} ORDER BY s.epoch DESC LIMIT 1"
    );
    let found = transaction
        .prepare_cached(&current)?
        .query_row(params![file.name, pipeline, file.source], row)
        .optional()?;
    if found.is_some() {
        return Ok(found);
    }
    // One that is being taken away: should that fail, it is what this one replaces.
    let leaving = format!(
        "SELECT s.id, s.output_name {which} AND s.verdict = 0 AND c.removes = 1
         ORDER BY s.epoch DESC LIMIT 1"
    );
    Ok(transaction
        .prepare_cached(&leaving)?
        .query_row(params![file.name, pipeline, file.source], row)
        .optional()?)
}

/// Follows a submission to what has taken its place; nothing if that was taken away or set aside.
fn head(transaction: &Transaction<'_>, id: u64) -> Result<Option<Resolved>, Trouble> {
    let mut at = id;
    loop {
        let Some(one) = look(transaction, at)? else { return Ok(None) };
        let next = match (one.verdict, one.removes, one.corrected_by) {
            // Whoever comes behind a correction is accepted after it, so this ends.
            (0 | 1, _, Some(by)) => Some(by),
            (0, _, None) | (1, false, None) => {
                return Ok(Some(Resolved { of: at, output_name: one.output_name }));
            }
            (1, true, None) => None,
            _ => one.corrects,
        };
        match next {
            Some(next) if next != at => at = next,
            _ => return Ok(None),
        }
    }
}

/// A submission as far as corrections are concerned.
struct Look {
    verdict: i64,
    output_name: String,
    removes: bool,
    corrects: Option<u64>,
    corrected_by: Option<u64>,
}

fn look(connection: &Connection, id: u64) -> rusqlite::Result<Option<Look>> {
    connection
        .prepare_cached(
            "SELECT s.verdict, s.output_name, coalesce(c.removes, 0), c.corrects,
                 (SELECT n.id FROM correction x JOIN submission n ON n.id = x.submission
                  WHERE x.corrects = s.id AND n.verdict IN (0, 1) ORDER BY n.epoch DESC LIMIT 1)
             FROM submission s LEFT JOIN correction c ON c.submission = s.id WHERE s.id = ?1",
        )?
        .query_row([id.cast_signed()], |row| {
            Ok(Look {
                verdict: row.get(0)?,
                output_name: row.get(1)?,
                removes: row.get::<_, i64>(2)? != 0,
                corrects: row.get::<_, Option<i64>>(3)?.map(i64::cast_unsigned),
                corrected_by: row.get::<_, Option<i64>>(4)?.map(i64::cast_unsigned),
            })
        })
        .optional()
}

/// Writes down that a submission is a correction.
pub(super) fn insert(
    transaction: &Transaction<'_>,
    id: u64,
    correction: Correction,
) -> Result<(), Trouble> {
    transaction.prepare_cached("INSERT INTO correction VALUES (?1, ?2, ?3)")?.execute(params![
        id.cast_signed(),
        correction.removes,
        correction.of.map(u64::cast_signed)
    ])?;
    Ok(())
}

/// Returns what the retry of a correction that was set aside corrects now.
pub(super) fn again(
    transaction: &Transaction<'_>,
    of: u64,
) -> Result<Option<Option<Resolved>>, Trouble> {
    let Some(one) = look(transaction, of)? else { return Ok(None) };
    let was_correction = transaction
        .prepare_cached("SELECT 1 FROM correction WHERE submission = ?1")?
        .exists([of.cast_signed()])?;
    match one.corrects {
        Some(corrects) => Ok(Some(head(transaction, corrects)?)),
        None => Ok(was_correction.then_some(None)),
    }
}

/// A submission is committed: what it corrects is no current version any more. Its own input is
/// retained if its source is one of these.
pub(super) fn committed(
    transaction: &Transaction<'_>,
    id: u64,
    retaining: Option<&Vec<String>>,
) -> Result<(), Trouble> {
    for source in retaining.into_iter().flatten() {
        transaction
            .prepare_cached(
                "INSERT OR IGNORE INTO retained SELECT s.id, ?3 FROM submission s
                 WHERE s.id = ?1 AND s.source = ?2
                 AND NOT EXISTS (SELECT 1 FROM correction x
                     WHERE x.submission = s.id AND x.removes = 1)",
            )?
            .execute(params![id.cast_signed(), source, now_us()])?;
    }
    let found: Option<(bool, Option<i64>)> = transaction
        .prepare_cached("SELECT removes, corrects FROM correction WHERE submission = ?1")?
        .query_row([id.cast_signed()], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let Some((removes, corrects)) = found else { return Ok(()) };
    if let Some(old) = corrects {
        transaction
            .prepare_cached("INSERT OR REPLACE INTO retained VALUES (?1, ?2)")?
            .execute([old, now_us()])?;
    }
    if removes {
        // Whoever waited for it finds nothing left.
        transaction
            .prepare_cached("UPDATE correction SET corrects = NULL WHERE corrects = ?1")?
            .execute([id.cast_signed()])?;
    }
    Ok(())
}

/// A submission is set aside: whoever waited to correct it corrects what it would have corrected.
pub(super) fn set_aside(transaction: &Transaction<'_>, id: u64) -> Result<(), Trouble> {
    transaction
        .prepare_cached(
            "UPDATE correction
             SET corrects = (SELECT own.corrects FROM correction own WHERE own.submission = ?1)
             WHERE corrects = ?1",
        )?
        .execute([id.cast_signed()])?;
    Ok(())
}

impl Journal {
    /// Accepts that a committed file is taken away, as a submission without a file; `id` is its
    /// number, from [`Journal::next_submission`].
    ///
    /// One transaction, durable on return.
    pub fn remove(&mut self, of: u64, id: u64) -> Result<Removed, JournalError> {
        let stop = JournalError::failpoint("accept a removal");
        failpoint::reach("removal-begin").map_err(&stop)?;
        let removed = self.write("accept a removal", |transaction, pipelines| {
            let Some(old) = read::file(transaction, of)? else { return Ok(Removed::Unknown) };
            if let Some(reason) = why_not(transaction, of)? {
                return Ok(Removed::Not(reason));
            }
            let counters = known_or_new(transaction, pipelines, &old.pipeline)?;
            let now = now_us();
            // A name with a slash: no file can bear it.
            let no_file = format!("{id}/removal");
            let removal = AcceptedFile {
                id,
                epoch: counters.take_epoch(),
                claimed_name: no_file.clone(),
                stored_name: no_file,
                identity: Identity { device: 0, inode: 0, bytes: 0, modified_ns: 0 },
                seen_at_us: now,
                claimed_at_us: now,
                accepted_at_us: now,
                duplicate_of: None,
                correction: Some(Correction { of: Some(of), removes: true }),
                // Its name, its source, its hash, and the name of its outputs are those of the old.
                ..old
            };
            insert_file(transaction, counters.id, &removal)?;
            save_counters(transaction, pipelines)?;
            failpoint::reach("removal-written").map_err(&stop)?;
            Ok(Removed::Accepted(Box::new(removal)))
        })?;
        failpoint::reach("removal-durable").map_err(&stop)?;
        self.raise_submission(id);
        Ok(removed)
    }

    /// Lets the inputs of these sources of a pipeline be retained when they are committed.
    pub fn retain(&mut self, pipeline: &str, sources: Vec<String>) {
        self.retaining.insert(pipeline.to_owned(), sources);
    }

    /// Returns whether the bytes of an input are to lie in `retained/`.
    pub fn is_retained(&self, id: u64) -> Result<bool, JournalError> {
        self.connection()
            .prepare_cached("SELECT 1 FROM retained WHERE submission = ?1")
            .and_then(|mut s| s.exists([id.cast_signed()]))
            .map_err(of("look up what is retained", &self.path()))
    }

    /// Returns the retained inputs of a source that are current, were committed before a time
    /// (microseconds since 1970), and that neither a correction under way nor a start needs: one that
    /// begins with any of the checkpoints that are kept.
    pub fn expired(
        &self,
        pipeline: &str,
        source: &str,
        before_us: i64,
        needed: NeededBy,
    ) -> Result<Vec<Retired>, JournalError> {
        let ask = || -> rusqlite::Result<Vec<Retired>> {
            let mut statement = self.connection().prepare_cached(
                "SELECT s.id, s.stored_name FROM retained r
                 CROSS JOIN submission s ON s.id = r.submission
                 CROSS JOIN pipeline p ON p.id = s.pipeline
                 WHERE p.name = ?1 AND s.source = ?2 AND r.kept_at_us < ?3
                 AND s.id NOT IN (SELECT x.corrects FROM correction x
                     JOIN submission n ON n.id = x.submission
                     WHERE x.corrects IS NOT NULL AND n.verdict IN (0, 1))
                 AND s.id NOT IN (SELECT u.submission FROM unsettled u)
                 AND (?4 OR s.epoch <=
                     (SELECT min(k.epoch) FROM checkpoint k WHERE k.pipeline = s.pipeline))",
            )?;
            let row =
                |row: &Row<'_>| Ok(Retired { id: unsigned(row, 0)?, stored_name: row.get(1)? });
            let by_nobody = needed == NeededBy::Nobody;
            statement.query_map(params![pipeline, source, before_us, by_nobody], row)?.collect()
        };
        ask().map_err(of("list what is retained", &self.path()))
    }

    /// Remembers which committed inputs after an epoch a start has gone on without: they have no rows
    /// in any state, so that nothing is taken back when they are corrected. Durable on return.
    pub fn remember_lost(
        &mut self,
        pipeline: &str,
        epoch: u64,
        ids: &[u64],
    ) -> Result<(), JournalError> {
        self.write("remember what was lost", |transaction, _| {
            transaction.execute(
                "DELETE FROM lost WHERE submission IN (SELECT s.id FROM submission s
                 WHERE s.pipeline = (SELECT id FROM pipeline WHERE name = ?1) AND s.epoch > ?2)",
                params![pipeline, epoch.cast_signed()],
            )?;
            let mut insert = transaction.prepare_cached("INSERT INTO lost VALUES (?1)")?;
            for id in ids {
                insert.execute([id.cast_signed()])?;
            }
            Ok(())
        })
    }

    /// Returns whether the rows of a committed input are in no state.
    pub fn is_lost(&self, id: u64) -> Result<bool, JournalError> {
        self.connection()
            .prepare_cached("SELECT 1 FROM lost WHERE submission = ?1")
            .and_then(|mut s| s.exists([id.cast_signed()]))
            .map_err(of("look up what was lost", &self.path()))
    }

    /// Returns the committed file that a submission corrects, as it stands now.
    pub fn corrected_by(&self, id: u64) -> Result<Option<AcceptedFile>, JournalError> {
        let ask = || {
            let found: Option<Option<i64>> = self
                .connection()
                .prepare_cached("SELECT corrects FROM correction WHERE submission = ?1")?
                .query_row([id.cast_signed()], |row| row.get(0))
                .optional()?;
            match found.flatten() {
                Some(old) => read::file(self.connection(), old.cast_unsigned()),
                None => Ok(None),
            }
        };
        ask().map_err(of("look up what is corrected", &self.path()))
    }

    /// Returns the bytes in `retained/` of a pipeline that no start can need any more: those of
    /// versions that are corrected, where no checkpoint lies between the version and its correction,
    /// or, where all versions count, none before the correction.
    pub fn retired(
        &self,
        pipeline: &str,
        counting: Versions,
    ) -> Result<Vec<Retired>, JournalError> {
        let ask = || -> rusqlite::Result<Vec<Retired>> {
            let mut statement = self.connection().prepare_cached(
                // In this order: little is retained, while files and corrections are for ever.
                "SELECT s.id, s.stored_name FROM retained r
                 CROSS JOIN correction x ON x.corrects = r.submission
                 CROSS JOIN submission n ON n.id = x.submission AND n.verdict = 1
                 CROSS JOIN submission s ON s.id = r.submission
                 CROSS JOIN pipeline p ON p.id = s.pipeline
                 WHERE p.name = ?1
                 AND n.id NOT IN (SELECT u.submission FROM unsettled u)
                 AND s.id NOT IN (SELECT u.submission FROM unsettled u)
                 AND NOT EXISTS (SELECT 1 FROM checkpoint k WHERE k.pipeline = s.pipeline
                     AND (?2 OR k.epoch >= s.epoch) AND k.epoch < n.epoch)
                 AND NOT (?2 AND NOT EXISTS
                     (SELECT 1 FROM checkpoint k WHERE k.pipeline = s.pipeline))",
            )?;
            let row =
                |row: &Row<'_>| Ok(Retired { id: unsigned(row, 0)?, stored_name: row.get(1)? });
            statement.query_map(params![pipeline, counting == Versions::All], row)?.collect()
        };
        ask().map_err(of("list what is retained", &self.path()))
    }

    /// Writes down that the bytes of these submissions lie in `retained/` no more. Not synced: after a
    /// loss of power they are found to be gone once more.
    pub fn forget_retained(&mut self, ids: &[u64]) -> Result<(), JournalError> {
        self.write_unsynced("forget what was retained", |transaction, _| {
            let mut statement =
                transaction.prepare_cached("DELETE FROM retained WHERE submission = ?1")?;
            for id in ids {
                statement.execute([id.cast_signed()])?;
            }
            Ok(())
        })
    }
}

impl JournalReader {
    /// Returns how a submission and others correct each other.
    pub fn corrections(&self, id: u64) -> Result<Corrections, JournalError> {
        let ask = || -> rusqlite::Result<Corrections> {
            let mut found = Corrections::default();
            let connection = self.connection();
            let Some(one) = look(connection, id)? else { return Ok(found) };
            match one.removes {
                true => found.removes = one.corrects,
                false => found.replaces = one.corrects,
            }
            if let Some(by) = one.corrected_by {
                match look(connection, by)?.is_some_and(|by| by.removes) {
                    true => found.removed_by = Some(by),
                    false => found.replaced_by = Some(by),
                }
            }
            Ok(found)
        };
        ask().map_err(of("look up the corrections of a submission", self.path()))
    }

    /// Returns how many inputs of each source of a pipeline lie in `retained/`, and their bytes.
    pub fn retained(&self, pipeline: &str) -> Result<Vec<RetainedBytes>, JournalError> {
        let sql = "SELECT s.source, count(*), sum(s.bytes) FROM retained r
             JOIN submission s ON s.id = r.submission
             WHERE s.pipeline = (SELECT id FROM pipeline WHERE name = ?1) GROUP BY s.source";
        let row = |row: &Row<'_>| {
            Ok(RetainedBytes {
                source: row.get(0)?,
                files: unsigned(row, 1)?,
                bytes: unsigned(row, 2)?,
            })
        };
        let ask = || -> rusqlite::Result<Vec<RetainedBytes>> {
            self.connection().prepare_cached(sql)?.query_map([pipeline], row)?.collect()
        };
        ask().map_err(of("add up what is retained", self.path()))
    }

    /// Returns how many bytes of an input lie in `retained/`; `None`: it does not.
    pub fn retained_bytes(&self, id: u64) -> Result<Option<u64>, JournalError> {
        let sql = "SELECT s.bytes FROM retained r JOIN submission s ON s.id = r.submission
             WHERE r.submission = ?1";
        self.connection()
            .prepare_cached(sql)
            .and_then(|mut s| s.query_row([id.cast_signed()], |row| unsigned(row, 0)).optional())
            .map_err(of("look up what is retained", self.path()))
    }

    /// Returns the newest committed file of a name that nothing corrects; `pipeline` says of which
    /// pipeline.
    pub fn current(&self, pipeline: &str, name: &str) -> Result<Option<u64>, JournalError> {
        let sql = format!(
            "SELECT s.id FROM submission s JOIN pipeline p ON p.id = s.pipeline
             LEFT JOIN correction c ON c.submission = s.id
             WHERE p.name = ?1 AND s.name = ?2 AND s.verdict = 1 AND coalesce(c.removes, 0) = 0
             AND NOT {IS_CORRECTED} ORDER BY s.epoch DESC LIMIT 1"
        );
        self.connection()
            .prepare_cached(&sql)
            .and_then(|mut s| s.query_row([pipeline, name], |row| unsigned(row, 0)).optional())
            .map_err(of("look up a name", self.path()))
    }

    /// Returns the inputs of a source that are committed, current, and known to lie where they belong:
    /// number and name in `processed/`.
    pub fn current_inputs(
        &self,
        pipeline: &str,
        source: &str,
    ) -> Result<Vec<Retired>, JournalError> {
        let ask = || -> rusqlite::Result<Vec<Retired>> {
            let mut statement = self.connection().prepare_cached(
                "SELECT s.id, s.stored_name FROM submission s JOIN pipeline p ON p.id = s.pipeline
                 WHERE p.name = ?1 AND s.source = ?2 AND s.verdict = 1
                 AND s.id NOT IN (SELECT u.submission FROM unsettled u)
                 AND s.id NOT IN (SELECT x.submission FROM correction x WHERE x.removes = 1)
                 AND s.id NOT IN (SELECT x.corrects FROM correction x
                     JOIN submission n ON n.id = x.submission
                     WHERE x.corrects IS NOT NULL AND n.verdict IN (0, 1))",
            )?;
            let row =
                |row: &Row<'_>| Ok(Retired { id: unsigned(row, 0)?, stored_name: row.get(1)? });
            statement.query_map([pipeline, source], row)?.collect()
        };
        ask().map_err(of("list what is current", self.path()))
    }

    /// Returns why a submission cannot be corrected; `None` if it can.
    pub fn why_not_corrected(&self, id: u64) -> Result<Option<String>, JournalError> {
        why_not(self.connection(), id).map_err(of("look up a submission", self.path()))
    }
}

/// Returns why a submission that is known cannot be taken away.
pub(super) fn why_not(connection: &Connection, id: u64) -> rusqlite::Result<Option<String>> {
    let Some(one) = look(connection, id)? else { return Ok(Some("it is not known".into())) };
    let by = match one.corrected_by {
        Some(by) => look(connection, by)?.map(|look| (by, look)),
        None => None,
    };
    Ok(match (one.verdict, one.removes, by) {
        (0, ..) => Some("it is not finished".into()),
        (2, ..) => Some("it was set aside and left no output".into()),
        (3, ..) => Some("it is a duplicate and was not run".into()),
        (_, true, _) => Some("it is a removal itself".into()),
        (_, _, Some((by, look))) if look.removes && look.verdict == 1 => {
            Some(format!("it was removed before, by {by}"))
        }
        (_, _, Some((by, look))) if look.removes => {
            Some(format!("it is being removed already, by {by}"))
        }
        (_, _, Some((by, look))) if look.verdict == 1 => {
            Some(format!("it was replaced by {by}; that one is current"))
        }
        (_, _, Some((by, _))) => Some(format!("it is being replaced by {by}")),
        (_, false, None) => None,
    })
}

#[cfg(test)]
mod tests;
