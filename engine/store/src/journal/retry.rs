//! Retry: a file that was set aside and is tried again, as a new submission under its old names.
//!
//! The journal leads: one transaction accepts the new submission and remembers whose retry it is;
//! only then is the file moved back. A crash in between is repaired by recovery, which finds the
//! file in `quarantine/` and moves it. So there is exactly one of the two: a quarantined file, or a
//! retried one.

use rusqlite::{OptionalExtension, Transaction, params};

use super::accept::{check_new, insert_file, names_of, with_names};
use super::read::unsigned;
use super::schema::of;
use super::write::{Trouble, known_or_new, now_us, save_counters};
use super::{AcceptedFile, Correction, Journal, JournalError, JournalReader, NewFile, correct};
use crate::name;

/// Which submission tries which one again.
pub(super) const TABLES: &str = "
CREATE TABLE retry (
    submission    INTEGER PRIMARY KEY REFERENCES submission (id),
    retry_of      INTEGER NOT NULL UNIQUE REFERENCES submission (id),
    retried_at_us INTEGER NOT NULL
) STRICT;
";

/// How two submissions of one file belong together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retries {
    /// The submission that this one tries again.
    pub retry_of: Option<u64>,
    /// The submission that tries this one again.
    pub retried_as: Option<u64>,
}

/// What became of the wish to try a file again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Retried {
    /// It is accepted. Its file is still in `quarantine/`, under `stored_name` of the new one.
    Accepted(Box<AcceptedFile>),
    /// It was tried again before, as this submission.
    Before(u64),
    /// It is not in quarantine, or not yet known to lie there durably.
    NotQuarantined,
}

/// A retry whose new submission is not finished: its file may still have to be moved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnderWay {
    /// The new submission.
    pub id: u64,
    /// The name under which the file and its reason lie in `quarantine/`.
    pub stored_name: String,
}

impl Journal {
    /// Accepts a file that was set aside as a new submission, under the names of the old one, which
    /// gives them up: its file left nothing that could bear them.
    ///
    /// One transaction, durable on return. `file` describes the file where it lies in quarantine;
    /// its `claimed_name` is where it is to be moved.
    pub fn retry(&mut self, of: u64, file: &NewFile) -> Result<Retried, JournalError> {
        check_new(file)?;
        let root = self.root.clone();
        let retried = self.write("accept a retry", |transaction, pipelines| {
            if let Some(id) = retried_as(transaction, of)? {
                return Ok(Retried::Before(id));
            }
            let Some((stored_name, output_name)) = quarantined(transaction, of, &file.pipeline)?
            else {
                return Ok(Retried::NotQuarantined);
            };
            transaction
                .prepare_cached(
                    "UPDATE submission SET stored_name = ?2, output_name = ?2 WHERE id = ?1",
                )?
                .execute(params![of.cast_signed(), given_up(of)])?;
            let counters = known_or_new(transaction, pipelines, &file.pipeline)?;
            let now = now_us();
            let mut output_name = output_name;
            let correction = match correct::again(transaction, of)? {
                Some(Some(resolved)) => {
                    output_name = resolved.output_name;
                    Some(Correction { of: Some(resolved.of), removes: false })
                }
                Some(None) => Some(Correction { of: None, removes: false }),
                None => None,
            };
            let of_none = correction.is_none_or(|correction| correction.of.is_none());
            if of_none && is_named(transaction, counters.id, &output_name)? {
                // A later file of that name took the place: this one is one more.
                output_name = names_of(transaction, counters.id, &root, file)?;
            }
            let epoch = counters.take_epoch();
            let named = with_names(file, stored_name, epoch, now);
            let accepted = AcceptedFile { output_name, correction, ..named };
            insert_file(transaction, counters.id, &accepted)?;
            transaction
                .prepare_cached("INSERT INTO retry VALUES (?1, ?2, ?3)")?
                .execute(params![file.id.cast_signed(), of.cast_signed(), now])?;
            save_counters(transaction, pipelines)?;
            Ok(Retried::Accepted(Box::new(accepted)))
        })?;
        self.raise_submission(file.id);
        Ok(retried)
    }

    /// Returns the retries of a pipeline that are accepted and not finished.
    pub fn retries_under_way(&self, pipeline: &str) -> Result<Vec<UnderWay>, JournalError> {
        let ask = || -> rusqlite::Result<Vec<UnderWay>> {
            let mut statement = self.connection().prepare_cached(
                "SELECT s.id, s.stored_name FROM retry r CROSS JOIN submission s ON s.id = r.submission
                 JOIN pipeline p ON p.id = s.pipeline
                 WHERE p.name = ?1 AND s.verdict = 0 ORDER BY s.id",
            )?;
            let row = |row: &rusqlite::Row<'_>| {
                Ok(UnderWay { id: unsigned(row, 0)?, stored_name: row.get(1)? })
            };
            statement.query_map([pipeline], row)?.collect()
        };
        ask().map_err(of("list the retries", &self.path()))
    }
}

impl JournalReader {
    /// Returns what a submission tries again, and what tries it again.
    pub fn retries(&self, id: u64) -> Result<Retries, JournalError> {
        let ask = |sql: &str| -> rusqlite::Result<Option<u64>> {
            let mut statement = self.connection().prepare_cached(sql)?;
            statement.query_row([id.cast_signed()], |row| unsigned(row, 0)).optional()
        };
        let both = || -> rusqlite::Result<Retries> {
            Ok(Retries {
                retry_of: ask("SELECT retry_of FROM retry WHERE submission = ?1")?,
                retried_as: ask("SELECT submission FROM retry WHERE retry_of = ?1")?,
            })
        };
        both().map_err(of("look up the retries of a submission", self.path()))
    }
}

/// Returns whether outputs of another file that runs or is committed have a name.
fn is_named(
    transaction: &Transaction<'_>,
    pipeline: i64,
    output_name: &str,
) -> Result<bool, Trouble> {
    Ok(transaction
        .prepare_cached(
            "SELECT 1 FROM submission WHERE output_name = ?1 AND pipeline = ?2
             AND verdict IN (0, 1) LIMIT 1",
        )?
        .exists(params![output_name, pipeline])?)
}

/// Returns the name that a quarantined submission bears in the journal once it was retried. No file
/// can come under it.
fn given_up(id: u64) -> String {
    format!("{id}/{}", name::RETRIED)
}

fn retried_as(transaction: &Transaction<'_>, of: u64) -> Result<Option<u64>, Trouble> {
    Ok(transaction
        .prepare_cached("SELECT submission FROM retry WHERE retry_of = ?1")?
        .query_row([of.cast_signed()], |row| unsigned(row, 0))
        .optional()?)
}

/// Returns the names of a submission that is quarantined and settled.
///
/// Before it is settled, recovery would write its reason file again.
fn quarantined(
    transaction: &Transaction<'_>,
    of: u64,
    pipeline: &str,
) -> Result<Option<(String, String)>, Trouble> {
    Ok(transaction
        .prepare_cached(
            "SELECT stored_name, output_name FROM submission s JOIN pipeline p ON p.id = s.pipeline
             WHERE s.id = ?1 AND p.name = ?2 AND s.verdict = 2
             AND NOT EXISTS (SELECT 1 FROM unsettled u WHERE u.submission = s.id)",
        )?
        .query_row(params![of.cast_signed(), pipeline], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?)
}
