//! Hold: what a person holds back, so that it stays held back after a restart.
//!
//! A row per pipeline, source or sink that is paused or drained. The journal only remembers; what a
//! hold means is decided where it is asked for. Rows of pipelines that do not run stay.

use rusqlite::{OptionalExtension, params};

use super::schema::of;
use super::write::now_us;
use super::{Journal, JournalError};

/// What is held back. `kind`: 0 drained, 1 paused, 2 a source of it, 3 a sink of it.
pub(super) const TABLES: &str = "
CREATE TABLE hold (
    pipeline TEXT NOT NULL,
    kind     INTEGER NOT NULL CHECK (kind BETWEEN 0 AND 3),
    part     TEXT NOT NULL,
    since_us INTEGER NOT NULL,
    PRIMARY KEY (pipeline, kind, part)
) STRICT, WITHOUT ROWID;
";

/// What of a pipeline is held back.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Held {
    /// It is drained: it takes nothing new until it is resumed.
    Drained,
    /// It is paused: it takes nothing new until it is resumed.
    Paused,
    /// A source takes nothing new.
    Source(String),
    /// What reaches a sink is not committed.
    Sink(String),
}

impl Held {
    fn row(&self) -> (i64, &str) {
        match self {
            Held::Drained => (0, ""),
            Held::Paused => (1, ""),
            Held::Source(name) => (2, name),
            Held::Sink(name) => (3, name),
        }
    }
}

/// Something that is held back. Times are microseconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    /// The pipeline.
    pub pipeline: String,
    /// What of it.
    pub what: Held,
    /// Since when.
    pub since_us: i64,
}

impl Journal {
    /// Writes down that something is held back; returns since when, which is earlier than now if it
    /// was held back before. Durable on return.
    pub fn hold(&mut self, pipeline: &str, what: &Held) -> Result<i64, JournalError> {
        let (kind, part) = what.row();
        self.write("note what is held back", |transaction, _| {
            let since: Option<i64> = transaction
                .prepare_cached(
                    "SELECT since_us FROM hold WHERE pipeline = ?1 AND kind = ?2 AND part = ?3",
                )?
                .query_row(params![pipeline, kind, part], |row| row.get(0))
                .optional()?;
            if let Some(since) = since {
                return Ok(since);
            }
            let now = now_us();
            transaction
                .prepare_cached("INSERT INTO hold VALUES (?1, ?2, ?3, ?4)")?
                .execute(params![pipeline, kind, part, now])?;
            Ok(now)
        })
    }

    /// Writes down that something is not held back any more; returns whether it was. Durable on
    /// return.
    pub fn let_go(&mut self, pipeline: &str, what: &Held) -> Result<bool, JournalError> {
        let (kind, part) = what.row();
        self.write("note what is held back no more", |transaction, _| {
            let gone = transaction
                .prepare_cached("DELETE FROM hold WHERE pipeline = ?1 AND kind = ?2 AND part = ?3")?
                .execute(params![pipeline, kind, part])?;
            Ok(gone > 0)
        })
    }

    /// Returns everything that is held back, by pipeline.
    pub fn holds(&self) -> Result<Vec<Hold>, JournalError> {
        let ask = || -> rusqlite::Result<Vec<Hold>> {
            let mut statement = self.connection().prepare_cached(
                "SELECT pipeline, kind, part, since_us FROM hold ORDER BY 1, 2, 3",
            )?;
            let row = |row: &rusqlite::Row<'_>| {
                let part = row.get(2)?;
                let what = match row.get::<_, i64>(1)? {
                    0 => Held::Drained,
                    1 => Held::Paused,
                    2 => Held::Source(part),
                    3 => Held::Sink(part),
                    other => return Err(rusqlite::Error::IntegralValueOutOfRange(1, other)),
                };
                Ok(Hold { pipeline: row.get(0)?, what, since_us: row.get(3)? })
            };
            statement.query_map([], row)?.collect()
        };
        ask().map_err(of("list what is held back", &self.path()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::home::Home;

    #[test]
    fn what_is_held_back_stays_so_until_it_is_let_go_whatever_happens_between() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::open(folder.path()).unwrap();
        let mut journal = Journal::open(&home).unwrap();
        assert_eq!(journal.holds().unwrap(), []);
        let all = [
            Held::Drained,
            Held::Paused,
            Held::Source("in".to_owned()),
            Held::Sink("in".to_owned()),
        ];
        let since: Vec<i64> = all.iter().map(|what| journal.hold("p", what).unwrap()).collect();
        let again: Vec<i64> = all.iter().map(|what| journal.hold("p", what).unwrap()).collect();
        assert_eq!(since, again, "a second time changes nothing");
        drop(journal);
        let mut journal = Journal::open(&home).unwrap();
        let found = journal.holds().unwrap();
        assert_eq!(
            found.iter().map(|hold| &hold.what).collect::<Vec<_>>(),
            all.iter().collect::<Vec<_>>()
        );
        assert!(journal.let_go("p", &all[2]).unwrap());
        assert!(!journal.let_go("p", &all[2]).unwrap());
        assert!(!journal.let_go("q", &all[0]).unwrap());
        assert_eq!(journal.holds().unwrap().len(), 3);
    }
}
