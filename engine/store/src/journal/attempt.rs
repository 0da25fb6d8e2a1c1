//! Attempt: files whose reading failed for a reason that may pass, and when they are tried again.
//!
//! One that failed gives up its epoch: the epoch counts as finished and has left nothing. Until its
//! next turn the file waits without one (its number in the place of it, negative); then it takes the
//! next epoch like a file that has just come, and keeps its number and its names.

use rusqlite::{Row, Transaction, params};

use super::read::{self, unsigned};
use super::schema::of;
use super::write::{Trouble, known_or_new, save_counters};
use super::{AcceptedFile, Journal, JournalError, JournalReader, Outcome};

/// The attempts that failed, each with the epoch that was given up.
pub(super) const TABLES: &str = "
CREATE TABLE attempt (
    submission   INTEGER NOT NULL REFERENCES submission (id),
    number       INTEGER NOT NULL,
    pipeline     INTEGER NOT NULL REFERENCES pipeline (id),
    epoch        INTEGER NOT NULL,
    class        TEXT NOT NULL,
    code         TEXT NOT NULL,
    detail       TEXT NOT NULL,
    failed_at_us INTEGER NOT NULL,
    next_at_us   INTEGER NOT NULL,
    PRIMARY KEY (submission, number)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX attempt_epoch ON attempt (pipeline, epoch);
";

/// Why a file was not finished this time, and when it is tried again. Times are microseconds since
/// 1970.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Postponed {
    /// The class of the failure, a word.
    pub class: String,
    /// A stable word.
    pub code: String,
    /// What happened, for a person.
    pub detail: String,
    /// When it is tried again.
    pub next_at_us: i64,
}

/// An attempt that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Its number, from 1.
    pub number: u64,
    /// When it failed, in microseconds since 1970.
    pub failed_at_us: i64,
    /// Why, and when it was to be tried again.
    pub why: Postponed,
}

/// Writes down that a file was not finished; its epoch is given up. Part of the commit.
pub(super) fn postpone(
    transaction: &Transaction<'_>,
    pipeline: i64,
    outcome: &Outcome,
    why: &Postponed,
) -> Result<(), Trouble> {
    let (id, epoch) = (outcome.id.cast_signed(), outcome.epoch.cast_signed());
    let changed = transaction
        .prepare_cached(
            "UPDATE submission SET epoch = -id
             WHERE id = ?1 AND pipeline = ?2 AND epoch = ?3 AND verdict = 0",
        )?
        .execute(params![id, pipeline, epoch])?;
    if changed != 1 {
        let detail = format!("epoch {epoch} is not submission {id}, or is finished");
        return Err(JournalError::invariant(detail).into());
    }
    transaction
        .prepare_cached(
            "INSERT INTO attempt
             SELECT ?1, count(*) + 1, ?2, ?3, ?4, ?5, ?6, ?7, ?8 FROM attempt WHERE submission = ?1",
        )?
        .execute(params![
            id,
            pipeline,
            epoch,
            why.class,
            why.code,
            why.detail,
            outcome.finished_at_us,
            why.next_at_us
        ])?;
    Ok(())
}

impl Journal {
    /// Returns the files of a pipeline that wait to be tried again, and when each is, by number.
    pub fn postponed(&self, pipeline: &str) -> Result<Vec<(AcceptedFile, i64)>, JournalError> {
        let ask = || -> rusqlite::Result<Vec<(AcceptedFile, i64)>> {
            let which = "s.pipeline = (SELECT id FROM pipeline WHERE name = ?1)
                         AND s.verdict = 0 AND s.epoch < 0";
            let mut files = read::files_where(self.connection(), which, [pipeline])?;
            files.sort_by_key(|file| file.id);
            let mut last = self
                .connection()
                .prepare_cached("SELECT max(next_at_us) FROM attempt WHERE submission = ?1")?;
            let mut with_time = |file: AcceptedFile| {
                let at: Option<i64> = last.query_row([file.id.cast_signed()], |row| row.get(0))?;
                Ok((file, at.unwrap_or_default()))
            };
            files.into_iter().map(&mut with_time).collect()
        };
        ask().map_err(of("list what is tried again", &self.path()))
    }

    /// Gives a file that waits to be tried again the next epoch of its pipeline. Durable on return.
    pub fn try_again(&mut self, id: u64) -> Result<AcceptedFile, JournalError> {
        self.write("try a file again", |transaction, pipelines| {
            let waits = |file: &AcceptedFile| file.epoch == 0 && file.duplicate_of.is_none();
            let Some(file) = read::file(transaction, id)?.filter(waits) else {
                let detail = format!("submission {id} does not wait to be tried again");
                return Err(JournalError::invariant(detail).into());
            };
            let counters = known_or_new(transaction, pipelines, &file.pipeline)?;
            let epoch = counters.take_epoch();
            let changed = transaction
                .prepare_cached("UPDATE submission SET epoch = ?2 WHERE id = ?1 AND verdict = 0")?
                .execute(params![id.cast_signed(), epoch.cast_signed()])?;
            if changed != 1 {
                let detail = format!("submission {id} is finished and cannot be tried again");
                return Err(JournalError::invariant(detail).into());
            }
            save_counters(transaction, pipelines)?;
            Ok(AcceptedFile { epoch, ..file })
        })
    }

    /// Returns the attempts at a file that failed, in order.
    pub fn attempts(&self, id: u64) -> Result<Vec<Attempt>, JournalError> {
        attempts(self.connection(), id).map_err(of("list attempts", &self.path()))
    }
}

impl JournalReader {
    /// Returns the attempts at a file that failed, in order.
    pub fn attempts(&self, id: u64) -> Result<Vec<Attempt>, JournalError> {
        attempts(self.connection(), id).map_err(of("list attempts", self.path()))
    }
}

/// Reading comes before publishing: in the order of time the attempts at both are numbered as one row.
fn attempts(connection: &rusqlite::Connection, id: u64) -> rusqlite::Result<Vec<Attempt>> {
    let mut statement = connection.prepare_cached(
        "SELECT 0 AS step, number, failed_at_us, class, code, detail, next_at_us FROM attempt
         WHERE submission = ?1
         UNION ALL
         SELECT 1, number + (SELECT count(*) FROM attempt WHERE submission = ?1),
                failed_at_us, class, code, detail, next_at_us FROM unpublished
         WHERE submission = ?1 ORDER BY step, number",
    )?;
    let row = |row: &Row<'_>| {
        let why = Postponed {
            class: row.get(3)?,
            code: row.get(4)?,
            detail: row.get(5)?,
            next_at_us: row.get(6)?,
        };
        Ok(Attempt { number: unsigned(row, 1)?, failed_at_us: row.get(2)?, why })
    };
    statement.query_map([id.cast_signed()], row)?.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::home::Home;
    use crate::journal::{NewFile, Verdict};
    use crate::queue::Identity;

    fn new_file(id: u64) -> NewFile {
        NewFile {
            id,
            pipeline: "p".into(),
            source: "s".into(),
            name: format!("f{id}"),
            claimed_name: format!("{id}-f{id}"),
            identity: Identity { device: 1, inode: id, bytes: 1, modified_ns: 0 },
            hash: None,
            seen_at_us: 0,
            claimed_at_us: 0,
            client_id: None,
            dedupe: crate::journal::Dedupe::None,
            replaces: crate::journal::Replaces::Nothing,
            terms: crate::journal::Terms::default(),
        }
    }

    fn outcome(id: u64, epoch: u64, verdict: Verdict) -> Outcome {
        Outcome {
            id,
            pipeline: "p".into(),
            epoch,
            verdict,
            hash: Some([7; 32]),
            records: 0,
            rejected: 0,
            answered_at_us: 0,
            finished_at_us: 3,
        }
    }

    #[test]
    fn a_file_that_is_postponed_gives_its_epoch_up_and_takes_another_one_later() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::open(folder.path()).unwrap();
        let mut journal = Journal::open(&home).unwrap();
        journal.accept(&[new_file(1), new_file(2)]).unwrap();
        let why = Postponed {
            class: "transient".into(),
            code: "unreadable".into(),
            detail: "no".into(),
            next_at_us: 9,
        };
        let committed = || Verdict::Committed { parts: Vec::new() };
        let both = [outcome(1, 1, Verdict::Postponed(why.clone())), outcome(2, 2, committed())];
        journal.finish(&both).unwrap();
        assert_eq!(journal.unfinished("p").unwrap(), []);
        let waiting = journal.postponed("p").unwrap();
        assert_eq!(waiting.iter().map(|(file, at)| (file.id, *at)).collect::<Vec<_>>(), [(1, 9)]);
        let counts = |journal: &Journal| journal.reader().unwrap().counts("p").unwrap();
        assert_eq!((counts(&journal).accepted, counts(&journal).committed), (1, 1));

        // It is not lost with the process, and takes the next epoch.
        drop(journal);
        let mut journal = Journal::open(&home).unwrap();
        assert_eq!(journal.try_again(1).unwrap().epoch, 3);
        assert!(journal.try_again(1).is_err(), "it does not wait any more");
        drop(journal);
        let mut journal = Journal::open(&home).unwrap();
        assert_eq!(journal.unfinished("p").unwrap()[0].epoch, 3);
        journal.finish(&[outcome(1, 3, committed())]).unwrap();
        let attempts = journal.attempts(1).unwrap();
        assert_eq!(attempts, [Attempt { number: 1, failed_at_us: 3, why: why.clone() }]);
        assert_eq!((counts(&journal).accepted, counts(&journal).committed), (0, 2));
        assert!(journal.try_again(2).is_err(), "it is finished");
        // Its outputs do not get visible at once: that is told behind it.
        for at in 4..150 {
            journal.could_not_publish(1, at, &why).unwrap();
        }
        let attempts = journal.attempts(1).unwrap();
        let told: Vec<(u64, i64)> =
            attempts.iter().map(|one| (one.number, one.failed_at_us)).collect();
        assert_eq!(told[..3], [(1, 3), (2, 4), (48, 50)], "the first one and the last ones");
        assert_eq!((told.len(), told[told.len() - 1]), (102, (147, 149)));
    }
}
