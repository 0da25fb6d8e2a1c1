//! Reading: how a committed file was read, so that whoever reads it again sees whether it would be in another way.

use std::collections::HashMap;

use rusqlite::{Connection, Transaction, params};

use super::read::unsigned;
use super::schema::of;
use super::write::Trouble;
use super::{Journal, JournalError, JournalReader};

pub(super) const TABLES: &str = "
-- of committed files whose first or last lines are no records
CREATE TABLE frame (
    submission INTEGER PRIMARY KEY REFERENCES submission (id),
    head       INTEGER NOT NULL,
    tail       INTEGER NOT NULL
) STRICT;
";

/// How many lines of a file stand before its records, and behind them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Frame {
    /// Before the first record, and before a CSV header.
    pub head: u32,
    /// Behind the last record; blank lines at the very end do not count.
    pub tail: u32,
}

impl Frame {
    /// Returns whether there are none.
    pub const fn is_empty(self) -> bool {
        self.head == 0 && self.tail == 0
    }
}

/// How a committed file was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// How many of its records were rejected, anywhere.
    pub rejected: u64,
    /// Which of its lines were no records.
    pub frame: Frame,
}

/// The frames of the sources that have one, by pipeline.
pub(super) type Frames = HashMap<String, Vec<(String, Frame)>>;

impl Journal {
    /// Lets the frames of these sources of a pipeline be remembered with each file that is committed.
    pub fn keep_frames(&mut self, pipeline: &str, sources: Vec<(String, Frame)>) {
        self.frames.insert(pipeline.to_owned(), sources);
    }

    /// Returns how the committed files of a pipeline were read, from an epoch on, by submission; not those whose
    /// plan was this one.
    pub fn readings(
        &self,
        pipeline: &str,
        plan_hash: &str,
        from: u64,
    ) -> Result<HashMap<u64, Reading>, JournalError> {
        readings(self.connection(), pipeline, plan_hash, from)
            .map_err(of("list how files were read", &self.path()))
    }
}

impl JournalReader {
    /// Returns how the committed files of a pipeline were read, from an epoch on, by submission; not those whose
    /// plan was this one.
    pub fn readings(
        &self,
        pipeline: &str,
        plan_hash: &str,
        from: u64,
    ) -> Result<HashMap<u64, Reading>, JournalError> {
        readings(self.connection(), pipeline, plan_hash, from)
            .map_err(of("list how files were read", self.path()))
    }
}

/// A submission is committed: its frame is remembered if its source is one of these.
pub(super) fn committed(
    transaction: &Transaction<'_>,
    id: u64,
    sources: &[(String, Frame)],
) -> Result<(), Trouble> {
    for (source, frame) in sources {
        transaction
            .prepare_cached(
                "INSERT INTO frame SELECT id, ?3, ?4 FROM submission WHERE id = ?1 AND source = ?2",
            )?
            .execute(params![id.cast_signed(), source, frame.head, frame.tail])?;
    }
    Ok(())
}

fn readings(
    connection: &Connection,
    pipeline: &str,
    plan_hash: &str,
    from: u64,
) -> rusqlite::Result<HashMap<u64, Reading>> {
    let mut statement = connection.prepare_cached(
        "SELECT s.id, s.rejected, coalesce(f.head, 0), coalesce(f.tail, 0)
         FROM submission s LEFT JOIN frame f ON f.submission = s.id
         LEFT JOIN plan p ON p.generation = s.generation AND p.pipeline = ?1
         WHERE s.pipeline = (SELECT id FROM pipeline WHERE name = ?1) AND s.epoch >= ?3
         AND s.verdict = 1 AND p.plan_hash IS NOT ?2",
    )?;
    let rows = statement.query_map(params![pipeline, plan_hash, from.cast_signed()], |row| {
        let frame = Frame { head: row.get(2)?, tail: row.get(3)? };
        Ok((unsigned(row, 0)?, Reading { rejected: unsigned(row, 1)?, frame }))
    })?;
    rows.collect()
}

#[cfg(test)]
mod tests {
    use crate::journal::tests::{committed, given, new_file};
    use crate::journal::{Frame, Generation, Journal, NewFile, Reading};

    #[test]
    fn how_a_committed_file_was_read_is_known_to_another_plan() {
        let (_folder, _home, mut journal) = given();
        let framed = Frame { head: 1, tail: 2 };
        let begin = |journal: &mut Journal, plan: &str| {
            let plans = vec![("p".to_owned(), plan.to_owned()), ("q".to_owned(), plan.to_owned())];
            let facts = Generation { binary_version: "1".into(), processes: 1, workers: 1, plans };
            journal.begin_generation(&facts).unwrap();
        };
        begin(&mut journal, "old");
        journal.keep_frames("p", vec![("framed".into(), framed)]);
        let mut ids = Vec::new();
        let files = [("p", "framed"), ("p", "plain"), ("q", "framed"), ("p", "framed")];
        for (at, (pipeline, source)) in files.into_iter().enumerate() {
            if at == 3 {
                begin(&mut journal, "new");
            }
            let file = NewFile { source: source.into(), ..new_file(&mut journal, pipeline, "a") };
            let file = journal.accept(&[file]).unwrap().remove(0);
            journal.finish(&[committed(&file, vec![])]).unwrap();
            ids.push(file.id);
        }
        let of = |frame| Reading { rejected: 1, frame };
        let (none, known) = (of(Frame::default()), of(framed));
        let old = journal.reader().unwrap().readings("p", "new", 0).unwrap();
        assert_eq!(old, [(ids[0], known), (ids[1], none)].into());
        assert_eq!(journal.readings("p", "old", 0).unwrap(), [(ids[3], known)].into());
        assert_eq!(journal.readings("q", "old", 0).unwrap(), [].into());
        assert_eq!(journal.readings("p", "new", 2).unwrap(), [(ids[1], none)].into());
        // Its source may become another one.
        journal.keep_frames("p", vec![]);
        assert_eq!(journal.adopt("p", &["plain"], |_| Some("plain".into())).unwrap(), 2);
        assert_eq!(journal.readings("p", "new", 0).unwrap(), old);
    }
}
