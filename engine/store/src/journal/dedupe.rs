//! Dedupe: whether a file that is to be accepted is one that its source took already.
//!
//! Decided inside the transaction that accepts, so that two equal files of one group are seen too.
//! Files that were set aside do not count: a name or content that failed may come again. Neither do
//! those that were replaced or removed since.

use rusqlite::{OptionalExtension, Transaction, params};

use super::NewFile;
use super::correct::IS_CORRECTED;
use super::write::Trouble;
use crate::journal::{Journal, JournalError};

/// Which files of a source count as the same, so that only the first of them is run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dedupe {
    /// None: each file is one of its own.
    #[default]
    None,
    /// Those that came under the same name.
    Name,
    /// Those with the same bytes.
    Content,
}

pub(super) const TABLES: &str = "
-- the contents that sources with `dedupe: content` took, and the first file that had them
CREATE TABLE content (
    pipeline   INTEGER NOT NULL REFERENCES pipeline (id),
    source     TEXT NOT NULL,
    hash       BLOB NOT NULL CHECK (length(hash) = 32),
    submission INTEGER NOT NULL REFERENCES submission (id),
    PRIMARY KEY (hash, pipeline, source)
) STRICT, WITHOUT ROWID;
";

/// Returns the earlier file that a new one repeats.
pub(super) fn original(
    transaction: &Transaction<'_>,
    pipeline: i64,
    file: &NewFile,
) -> Result<Option<u64>, Trouble> {
    let found: Option<i64> = match (file.dedupe, file.hash) {
        (Dedupe::None, _) | (Dedupe::Content, None) => None,
        (Dedupe::Name, _) => transaction
            .prepare_cached(&format!(
                "SELECT s.id FROM submission s LEFT JOIN correction c ON c.submission = s.id
                 WHERE s.name = ?1 AND s.pipeline = ?2 AND s.source = ?3
                 AND s.verdict IN (0, 1) AND coalesce(c.removes, 0) = 0
                 AND NOT {IS_CORRECTED} ORDER BY s.epoch LIMIT 1"
            ))?
            .query_row(params![file.name, pipeline, file.source], |row| row.get(0))
            .optional()?,
        (Dedupe::Content, Some(hash)) => transaction
            .prepare_cached(&format!(
                "SELECT c.submission FROM content c JOIN submission s ON s.id = c.submission
                 WHERE c.hash = ?1 AND c.pipeline = ?2 AND c.source = ?3 AND s.verdict IN (0, 1)
                 AND NOT {IS_CORRECTED}"
            ))?
            .query_row(params![hash, pipeline, file.source], |row| row.get(0))
            .optional()?,
    };
    Ok(found.map(i64::cast_unsigned))
}

/// Remembers the content of a file that will run, if its source wants to know it again.
pub(super) fn remember(
    transaction: &Transaction<'_>,
    pipeline: i64,
    file: &NewFile,
) -> Result<(), Trouble> {
    if let (Dedupe::Content, Some(hash)) = (file.dedupe, file.hash) {
        // One that is there already was set aside since.
        transaction
            .prepare_cached("INSERT OR REPLACE INTO content VALUES (?1, ?2, ?3, ?4)")?
            .execute(params![pipeline, file.source, hash, file.id.cast_signed()])?;
    }
    Ok(())
}

impl Journal {
    /// Remembers the contents of all files that a source took so far: before its first file is taken
    /// with [`Dedupe::Content`] in this life.
    pub fn remember_contents(&mut self, pipeline: &str, source: &str) -> Result<(), JournalError> {
        self.write("remember contents", |transaction, _| {
            transaction.execute(
                "INSERT INTO content
                 SELECT s.pipeline, s.source, s.hash, min(s.id) FROM submission s
                 WHERE s.pipeline = (SELECT id FROM pipeline WHERE name = ?1) AND s.source = ?2
                 AND s.verdict IN (0, 1) AND s.hash IS NOT NULL
                 AND s.id NOT IN (SELECT submission FROM correction WHERE removes = 1)
                 GROUP BY s.hash
                 ON CONFLICT DO NOTHING",
                params![pipeline, source],
            )?;
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::home::Home;
    use crate::journal::tests::{committed, given, new_file, quarantined};
    use crate::journal::{AcceptedFile, Filter, Phase, VerdictRow};

    /// Accepts a file with these facts.
    fn accept(journal: &mut Journal, name: &str, byte: u8, dedupe: Dedupe) -> AcceptedFile {
        let file = NewFile { hash: Some([byte; 32]), dedupe, ..new_file(journal, "p", name) };
        journal.accept(&[file]).unwrap().remove(0)
    }

    /// What each file repeats, by names and contents in the order in which they come.
    #[track_caller]
    fn check(dedupe: Dedupe, files: &[(&str, u8)], expected: &[Option<u64>]) {
        let all_at_once = {
            let (_folder, _home, mut journal) = given();
            let new = |&(name, byte): &(&str, u8)| (name.to_owned(), Some([byte; 32]));
            let files: Vec<NewFile> = files
                .iter()
                .map(new)
                .map(|(name, hash)| NewFile { hash, dedupe, ..new_file(&mut journal, "p", &name) })
                .collect();
            journal.accept(&files).unwrap()
        };
        let (_folder, _home, mut journal) = given();
        let one_by_one: Vec<AcceptedFile> =
            files.iter().map(|(name, byte)| accept(&mut journal, name, *byte, dedupe)).collect();
        for accepted in [all_at_once, one_by_one] {
            let found: Vec<_> = accepted.iter().map(|file| file.duplicate_of).collect();
            assert_eq!(found, expected, "{dedupe:?} {files:?}");
            // Only what runs has an epoch, and these are dense.
            let mut next = 1..;
            for file in &accepted {
                let expected = if file.duplicate_of.is_none() { next.next() } else { Some(0) };
                assert_eq!(Some(file.epoch), expected, "{file:?}");
            }
        }
    }

    #[test]
    fn a_file_repeats_another_by_its_name_or_its_bytes_if_its_source_says_so() {
        let files = [("a", 1), ("b", 1), ("a", 2), ("a", 1), ("c", 3)];
        check(Dedupe::None, &files, &[None; 5]);
        check(Dedupe::Name, &files, &[None, None, Some(1), Some(1), None]);
        check(Dedupe::Content, &files, &[None, Some(1), None, Some(1), None]);
    }

    #[test]
    fn a_file_that_was_set_aside_may_come_again() {
        for dedupe in [Dedupe::Name, Dedupe::Content] {
            let (_folder, _home, mut journal) = given();
            let first = accept(&mut journal, "a", 1, dedupe);
            journal.finish(&[quarantined(&first)]).unwrap();
            let second = accept(&mut journal, "a", 1, dedupe);
            assert_eq!((second.duplicate_of, second.epoch), (None, 2), "{dedupe:?}");
            journal.finish(&[committed(&second, vec![])]).unwrap();
            let third = accept(&mut journal, "a", 1, dedupe);
            assert_eq!(third.duplicate_of, Some(second.id), "{dedupe:?}");
        }
    }

    #[test]
    fn other_sources_and_pipelines_have_names_of_their_own() {
        let (_folder, _home, mut journal) = given();
        for (pipeline, source) in [("p", "one"), ("p", "two"), ("q", "one")] {
            for dedupe in [Dedupe::Name, Dedupe::Content] {
                let new = new_file(&mut journal, pipeline, &format!("{dedupe:?}"));
                let hash = Some([dedupe as u8; 32]);
                let file = NewFile { source: source.into(), hash, dedupe, ..new };
                assert_eq!(journal.accept(&[file]).unwrap()[0].duplicate_of, None);
            }
        }
    }

    #[test]
    fn a_source_that_begins_to_look_at_contents_knows_those_it_took() {
        let (_folder, home, mut journal) = given();
        let first = accept(&mut journal, "a", 1, Dedupe::None);
        accept(&mut journal, "b", 1, Dedupe::None);
        drop(journal);
        let mut journal = Journal::open(&home).unwrap();
        journal.remember_contents("p", "logs").unwrap();
        journal.remember_contents("p", "logs").unwrap();
        let third = accept(&mut journal, "c", 1, Dedupe::Content);
        assert_eq!(third.duplicate_of, Some(first.id));
    }

    #[test]
    fn a_duplicate_is_listed_as_such_and_its_move_is_repeated_after_a_crash() {
        let (_folder, home, mut journal) = given();
        let folders = home.pipeline("p").unwrap();
        let first = accept(&mut journal, "a.csv", 1, Dedupe::Name);
        let second = accept(&mut journal, "a.csv", 1, Dedupe::Name);
        for file in [&first, &second] {
            std::fs::write(folders.underprocess.join(&file.claimed_name), "a").unwrap();
        }
        assert_eq!(second.stored_name, "a~2.csv");
        let reader = journal.reader().unwrap();
        let row = reader.submission(second.id).unwrap().unwrap();
        assert_eq!(row.file, second);
        assert_eq!(row.outcome.unwrap().verdict, VerdictRow::Duplicate { of: first.id });
        let listed = |phase| {
            let filter = Filter { phase: Some(phase), limit: 9, ..Filter::default() };
            let rows = reader.submissions(&filter).unwrap();
            rows.iter().map(|row| row.file.id).collect::<Vec<_>>()
        };
        assert_eq!(listed(Phase::Duplicate), [second.id]);
        assert_eq!(listed(Phase::Accepted), [first.id]);

        for _ in 0..2 {
            drop(journal);
            journal = reopened(&home);
            crate::recover(&home, &mut journal, &["p"], 1).unwrap();
            assert!(folders.processed.join("a~2.csv").exists());
            assert!(folders.underprocess.join(&first.claimed_name).exists());
            assert_eq!(journal.unsettled().unwrap(), []);
        }
        journal.finish(&[committed(&first, vec![])]).unwrap();
    }

    fn reopened(home: &Home) -> Journal {
        Journal::open(home).unwrap()
    }
}
