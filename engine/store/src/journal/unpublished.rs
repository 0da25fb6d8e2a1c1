//! Unpublished: committed files whose outputs could not be made visible yet, attempt by attempt. Only told:
//! what is to be published stands elsewhere, and is published again until it is there.

use rusqlite::params;

use super::{Journal, JournalError, Postponed};

/// How many attempts at one file are remembered: the first, and those that came last.
const REMEMBERED: i64 = 100;

/// The attempts that failed.
pub(super) const TABLES: &str = "
CREATE TABLE unpublished (
    submission   INTEGER NOT NULL REFERENCES submission (id),
    number       INTEGER NOT NULL,
    class        TEXT NOT NULL,
    code         TEXT NOT NULL,
    detail       TEXT NOT NULL,
    failed_at_us INTEGER NOT NULL,
    next_at_us   INTEGER NOT NULL,
    PRIMARY KEY (submission, number)
) STRICT, WITHOUT ROWID;
";

impl Journal {
    /// Writes down that the outputs of a committed file could not be made visible, at a time in
    /// microseconds since 1970. Durable on return.
    pub fn could_not_publish(
        &mut self,
        id: u64,
        failed_at_us: i64,
        why: &Postponed,
    ) -> Result<(), JournalError> {
        let id = id.cast_signed();
        self.write("note an attempt to publish", |transaction, _| {
            transaction
                .prepare_cached(
                    "INSERT INTO unpublished
                     SELECT ?1, coalesce(max(number), 0) + 1, ?2, ?3, ?4, ?5, ?6
                     FROM unpublished WHERE submission = ?1",
                )?
                .execute(params![
                    id,
                    why.class,
                    why.code,
                    why.detail,
                    failed_at_us,
                    why.next_at_us
                ])?;
            transaction
                .prepare_cached(
                    "DELETE FROM unpublished WHERE submission = ?1 AND number > 1 AND number <=
                     (SELECT max(number) FROM unpublished WHERE submission = ?1) - ?2",
                )?
                .execute(params![id, REMEMBERED])?;
            Ok(())
        })
    }
}
