//! Arrival: what was found of accepted files before they were read: that they are of one set, which is
//! committed as a whole or not at all, and that a file is refused whatever its bytes are.
//!
//! The journal only remembers, so that a file that was refused is refused after a crash too, and the
//! files of a set find each other again.

use rusqlite::{OptionalExtension, Transaction, params};

use super::read::unsigned;
use super::schema::of;
use super::write::Trouble;
use super::{Journal, JournalError, JournalReader};

/// The files of a set bear the number of its first one.
pub(super) const TABLES: &str = "
CREATE TABLE set_of (
    submission INTEGER PRIMARY KEY REFERENCES submission (id),
    first      INTEGER NOT NULL,
    label      TEXT NOT NULL
) STRICT;
CREATE INDEX set_first ON set_of (first);

CREATE TABLE refusal (
    submission INTEGER PRIMARY KEY REFERENCES submission (id),
    code       TEXT NOT NULL,
    detail     TEXT NOT NULL
) STRICT;
";

/// On which terms a file is accepted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// Why it is set aside without being read: a stable word and the text.
    pub refused: Option<(String, String)>,
    /// The set that it is of.
    pub set: Option<SetOf>,
}

/// A set of files that are committed together or not at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetOf {
    /// The number of its first file.
    pub first: u64,
    /// What it is called, for people.
    pub label: String,
}

/// How many files of a set are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SetFiles {
    /// All of them.
    pub all: usize,
    /// Those that are not finished. A start may set one aside that crashed the process; else all of them
    /// are finished in one step.
    pub open: usize,
}

impl Journal {
    /// Refuses accepted files, so that they are set aside without being read. Durable on return.
    pub fn refuse(&mut self, files: &[(u64, String, String)]) -> Result<(), JournalError> {
        self.write("refuse files", |transaction, _| {
            files.iter().try_for_each(|(id, code, detail)| refuse(transaction, *id, code, detail))
        })
    }

    /// Returns why an accepted file is not read, if it is not.
    pub fn refusal(&self, id: u64) -> Result<Option<(String, String)>, JournalError> {
        let ask = || -> rusqlite::Result<Option<(String, String)>> {
            self.connection()
                .prepare_cached("SELECT code, detail FROM refusal WHERE submission = ?1")?
                .query_row([id.cast_signed()], |row| Ok((row.get(0)?, row.get(1)?)))
                .optional()
        };
        ask().map_err(of("look up a refusal", &self.path()))
    }

    /// Returns the set that a file is of, and how many files of it are run.
    pub fn set_of(&self, id: u64) -> Result<Option<(SetOf, SetFiles)>, JournalError> {
        set_of(self.connection(), id).map_err(of("look up a set", &self.path()))
    }
}

impl JournalReader {
    /// Returns the set that a file is of, and how many files of it are run.
    pub fn set_of(&self, id: u64) -> Result<Option<(SetOf, SetFiles)>, JournalError> {
        set_of(self.connection(), id).map_err(of("look up a set", self.path()))
    }
}

fn set_of(
    connection: &rusqlite::Connection,
    id: u64,
) -> rusqlite::Result<Option<(SetOf, SetFiles)>> {
    let mut statement = connection.prepare_cached(
        "SELECT s.first, s.label, count(*), count(*) FILTER (WHERE one.verdict = 0)
         FROM set_of s JOIN set_of other ON other.first = s.first
         JOIN submission one ON one.id = other.submission
         WHERE s.submission = ?1 GROUP BY s.submission",
    )?;
    let row = |row: &rusqlite::Row<'_>| {
        let set = SetOf { first: unsigned(row, 0)?, label: row.get(1)? };
        let count = |at| unsigned(row, at).map(|count| count as usize);
        Ok((set, SetFiles { all: count(2)?, open: count(3)? }))
    };
    statement.query_row([id.cast_signed()], row).optional()
}

/// Writes down on which terms a file is accepted. One that repeats another is not run, so its set is
/// without it.
pub(super) fn insert(
    transaction: &Transaction<'_>,
    id: u64,
    terms: &Terms,
    is_run: bool,
) -> Result<(), Trouble> {
    if !is_run {
        return Ok(());
    }
    if let Some(set) = &terms.set {
        transaction.prepare_cached("INSERT INTO set_of VALUES (?1, ?2, ?3)")?.execute(params![
            id.cast_signed(),
            set.first.cast_signed(),
            set.label
        ])?;
    }
    match &terms.refused {
        Some((code, detail)) => refuse(transaction, id, code, detail),
        None => Ok(()),
    }
}

fn refuse(transaction: &Transaction<'_>, id: u64, code: &str, detail: &str) -> Result<(), Trouble> {
    // The first reason stays.
    transaction
        .prepare_cached("INSERT OR IGNORE INTO refusal VALUES (?1, ?2, ?3)")?
        .execute(params![id.cast_signed(), code, detail])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::home::Home;
    use crate::journal::tests::new_file;
    use crate::{Dedupe, NewFile};

    #[test]
    fn a_set_and_a_refusal_outlive_the_process() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::open(folder.path()).unwrap();
        let mut journal = Journal::open(&home).unwrap();
        let earlier = NewFile { dedupe: Dedupe::Name, ..new_file(&mut journal, "p", "c") };
        journal.accept(&[earlier]).unwrap();
        let mut files: Vec<NewFile> =
            ["a", "b", "c"].map(|name| new_file(&mut journal, "p", name)).to_vec();
        let set = SetOf { first: files[0].id, label: "day 1".into() };
        let why = ("wrong_manifest".to_owned(), "no".to_owned());
        for file in &mut files {
            file.terms.set = Some(set.clone());
            file.dedupe = Dedupe::Name;
        }
        files[1].terms.refused = Some(why.clone());
        let accepted = journal.accept(&files).unwrap();
        assert!(accepted[2].duplicate_of.is_some());
        journal.refuse(&[(files[0].id, "set_failed".into(), "b".into())]).unwrap();
        journal.refuse(&[(files[1].id, "set_failed".into(), "b".into())]).unwrap();
        drop(journal);
        let journal = Journal::open(&home).unwrap();
        for file in &files[..2] {
            let files = SetFiles { all: 2, open: 2 };
            assert_eq!(journal.set_of(file.id).unwrap(), Some((set.clone(), files)));
        }
        assert_eq!(journal.set_of(files[2].id).unwrap(), None, "it is not run");
        assert_eq!(journal.refusal(files[0].id).unwrap().unwrap().0, "set_failed");
        assert_eq!(journal.refusal(files[1].id).unwrap(), Some(why), "the first reason stays");
        assert_eq!(journal.refusal(files[2].id).unwrap(), None);
    }
}
