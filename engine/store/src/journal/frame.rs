//! Frame: the lines of a committed file that were taken for no records, so that whoever reads it again takes the
//! same ones.

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

/// The frames of the sources that have one, by pipeline.
pub(super) type Frames = HashMap<String, Vec<(String, Frame)>>;

impl Journal {
    /// Lets the frames of these sources of a pipeline be remembered with each file that is committed.
    pub fn keep_frames(&mut self, pipeline: &str, sources: Vec<(String, Frame)>) {
        self.frames.insert(pipeline.to_owned(), sources);
    }

    /// Returns the frames of the committed files of a pipeline, by submission; who is not among them has none.
    pub fn frames(&self, pipeline: &str) -> Result<HashMap<u64, Frame>, JournalError> {
        frames(self.connection(), pipeline).map_err(of("list frames", &self.path()))
    }
}

impl JournalReader {
    /// Returns the frames of the committed files of a pipeline, by submission; who is not among them has none.
    pub fn frames(&self, pipeline: &str) -> Result<HashMap<u64, Frame>, JournalError> {
        frames(self.connection(), pipeline).map_err(of("list frames", self.path()))
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

fn frames(connection: &Connection, pipeline: &str) -> rusqlite::Result<HashMap<u64, Frame>> {
    let mut statement = connection.prepare_cached(
        "SELECT f.submission, f.head, f.tail FROM frame f JOIN submission s ON s.id = f.submission
         WHERE s.pipeline = (SELECT id FROM pipeline WHERE name = ?1)",
    )?;
    let rows = statement.query_map([pipeline], |row| {
        Ok((unsigned(row, 0)?, Frame { head: row.get(1)?, tail: row.get(2)? }))
    })?;
    rows.collect()
}

#[cfg(test)]
mod tests {
    use crate::journal::tests::{committed, given, new_file};
    use crate::journal::{Frame, NewFile};

    #[test]
    fn a_committed_file_keeps_the_frame_of_its_source() {
        let (_folder, _home, mut journal) = given();
        let framed = Frame { head: 1, tail: 2 };
        journal.keep_frames("p", vec![("framed".into(), framed)]);
        let mut ids = Vec::new();
        for (pipeline, source) in [("p", "framed"), ("p", "plain"), ("q", "framed")] {
            let file = NewFile { source: source.into(), ..new_file(&mut journal, pipeline, "a") };
            let file = journal.accept(&[file]).unwrap().remove(0);
            journal.finish(&[committed(&file, vec![])]).unwrap();
            ids.push(file.id);
        }
        let frames = journal.reader().unwrap().frames("p").unwrap();
        assert_eq!(frames, [(ids[0], framed)].into());
        assert_eq!(journal.frames("p").unwrap(), frames);
        assert!(journal.frames("q").unwrap().is_empty());
        // Its source may become another one.
        journal.keep_frames("p", vec![]);
        assert_eq!(journal.adopt("p", &["plain"], |_| Some("plain".into())).unwrap(), 1);
        assert_eq!(journal.frames("p").unwrap(), frames);
    }
}
