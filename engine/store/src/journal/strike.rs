//! Strike: which files were under way when a process failed by itself, and how often.
//!
//! A file that was unfinished at such a crash has a strike. One with two is run alone, and written
//! down here before it begins; if the process fails again while it is alone, that is proof.

use rusqlite::params;

use super::read::unsigned;
use super::schema::of;
use super::{Journal, JournalError};

/// Strikes of unfinished files, and the files that were run alone.
pub(super) const TABLES: &str = "
CREATE TABLE strike (
    submission INTEGER PRIMARY KEY REFERENCES submission (id),
    strikes    INTEGER NOT NULL
) STRICT;

-- crashes whose conclusions are drawn
CREATE TABLE crash (generation INTEGER PRIMARY KEY, what TEXT NOT NULL) STRICT;

CREATE TABLE alone (
    submission INTEGER PRIMARY KEY REFERENCES submission (id),
    generation INTEGER NOT NULL
) STRICT;
";

/// How many strikes make a file run alone.
pub const STRIKES_ALONE: u64 = 2;

impl Journal {
    /// Draws the conclusions from the crash of a generation, once however often it is asked: each
    /// unfinished file of the pipelines that ran gets a strike. Returns the unfinished file that ran alone then, if one did:
    /// it is guilty, and the others get no strike.
    pub fn strike(&mut self, generation: u64, what: &str) -> Result<Option<u64>, JournalError> {
        self.write("draw conclusions from a crash", |transaction, _| {
            let generation = generation.cast_signed();
            let guilty = transaction
                .prepare_cached(
                    "SELECT a.submission FROM alone a JOIN submission s ON s.id = a.submission
                     WHERE a.generation = ?1 AND s.verdict = 0",
                )?
                .query_map([generation], |row| unsigned(row, 0))?
                .next()
                .transpose()?;
            let new = transaction
                .prepare_cached("INSERT INTO crash VALUES (?1, ?2) ON CONFLICT DO NOTHING")?
                .execute(params![generation, what])?;
            if new == 1 && guilty.is_none() {
                transaction
                    .prepare_cached(
                        "DELETE FROM strike WHERE submission IN
                     (SELECT id FROM submission WHERE verdict <> 0)",
                    )?
                    .execute([])?;
                transaction
                    .prepare_cached(
                        "INSERT INTO strike SELECT s.id, 1 FROM submission s
                         JOIN pipeline p ON p.id = s.pipeline
                         JOIN plan ON plan.pipeline = p.name AND plan.generation = ?1
                         WHERE s.verdict = 0 AND s.epoch > 0
                         ON CONFLICT DO UPDATE SET strikes = strikes + 1",
                    )?
                    .execute([generation])?;
            }
            Ok(guilty)
        })
    }

    /// Lets a file run alone that says itself that it ended the process.
    pub fn suspect(&mut self, id: u64) -> Result<(), JournalError> {
        self.write("note a suspect", |transaction, _| {
            transaction
                .prepare_cached(
                    "INSERT INTO strike VALUES (?1, ?2)
                     ON CONFLICT DO UPDATE SET strikes = max(strikes, ?2)",
                )?
                .execute(params![id.cast_signed(), STRIKES_ALONE.cast_signed()])?;
            Ok(())
        })
    }

    /// Returns the unfinished files that must run alone, in the order of ids.
    pub fn suspects(&self) -> Result<Vec<u64>, JournalError> {
        let ask = || -> rusqlite::Result<Vec<u64>> {
            let mut statement = self.connection().prepare_cached(
                "SELECT k.submission FROM strike k JOIN submission s ON s.id = k.submission
                 WHERE s.verdict = 0 AND k.strikes >= ?1 ORDER BY k.submission",
            )?;
            statement.query_map([STRIKES_ALONE.cast_signed()], |row| unsigned(row, 0))?.collect()
        };
        ask().map_err(of("list the suspects", &self.path()))
    }

    /// Writes down that a file is run alone in this generation. Durable on return.
    pub fn run_alone(&mut self, id: u64, generation: u64) -> Result<(), JournalError> {
        self.write("note a file that runs alone", |transaction, _| {
            transaction.prepare_cached("DELETE FROM alone")?.execute([])?;
            transaction
                .prepare_cached("INSERT INTO alone VALUES (?1, ?2)")?
                .execute(params![id.cast_signed(), generation.cast_signed()])?;
            Ok(())
        })
    }
}
