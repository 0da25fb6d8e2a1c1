//! Versions: whether what a checkpoint holds of files is still what counts of them.
//!
//! Asked by a start, and by whoever wants to know beforehand what a start would do. Only looks.

use rusqlite::{Connection, params};

use super::schema::of;
use super::{AcceptedFile, Journal, JournalError, JournalReader, read};

impl Journal {
    /// Returns the files before or in `epoch` that committed corrections after it correct: what is
    /// restored as of that epoch holds them.
    pub fn corrected_after(
        &self,
        pipeline: &str,
        epoch: u64,
    ) -> Result<Vec<AcceptedFile>, JournalError> {
        corrected_after(self.connection(), pipeline, epoch)
            .map_err(of("list what was corrected", &self.path()))
    }

    /// Returns whether the rows of some committed input of a pipeline are in no state.
    pub fn has_lost(&self, pipeline: &str) -> Result<bool, JournalError> {
        has_lost(self.connection(), pipeline).map_err(of("look up what was lost", &self.path()))
    }
}

impl JournalReader {
    /// Returns the files before or in `epoch` that committed corrections after it correct.
    pub fn corrected_after(
        &self,
        pipeline: &str,
        epoch: u64,
    ) -> Result<Vec<AcceptedFile>, JournalError> {
        corrected_after(self.connection(), pipeline, epoch)
            .map_err(of("list what was corrected", self.path()))
    }

    /// Returns whether the rows of some committed input of a pipeline are in no state.
    pub fn has_lost(&self, pipeline: &str) -> Result<bool, JournalError> {
        has_lost(self.connection(), pipeline).map_err(of("look up what was lost", self.path()))
    }
}

fn corrected_after(
    connection: &Connection,
    pipeline: &str,
    epoch: u64,
) -> rusqlite::Result<Vec<AcceptedFile>> {
    let which = "s.pipeline = (SELECT id FROM pipeline WHERE name = ?1) AND s.epoch <= ?2
         AND s.id IN (SELECT x.corrects FROM correction x
             JOIN submission n ON n.id = x.submission
             JOIN pipeline q ON q.id = n.pipeline
             WHERE q.name = ?1 AND n.verdict = 1 AND n.epoch > ?2)";
    let epoch = i64::try_from(epoch).unwrap_or(i64::MAX);
    read::files_where(connection, which, params![pipeline, epoch])
}

fn has_lost(connection: &Connection, pipeline: &str) -> rusqlite::Result<bool> {
    connection
        .prepare_cached(
            "SELECT 1 FROM lost l CROSS JOIN submission s ON s.id = l.submission
             WHERE s.pipeline = (SELECT id FROM pipeline WHERE name = ?1)",
        )
        .and_then(|mut s| s.exists([pipeline]))
}
