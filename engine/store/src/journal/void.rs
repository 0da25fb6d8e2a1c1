//! Void: epochs that no file has, because something was only tried in them (a dry run).
//!
//! Epochs of a pipeline are dense: each belongs to a submission or is void. A void epoch is finished as
//! soon as all before it are. What is void is written down before it is used, so that no file is ever
//! given such an epoch: a checkpoint may be as of it.

use rusqlite::{Connection, OptionalExtension, params};

use super::accept::{check_new, names_of};
use super::read::{self, unsigned};
use super::schema::of;
use super::write::{known_or_new, save_counters};
use super::{AcceptedFile, Journal, JournalError, NewFile, Version, correct, shelf};

pub(super) const TABLES: &str = "
-- epochs without a file: `count` of them from `first` on
CREATE TABLE void (
    pipeline INTEGER NOT NULL REFERENCES pipeline (id),
    first    INTEGER NOT NULL,
    count    INTEGER NOT NULL CHECK (count > 0),
    PRIMARY KEY (pipeline, first)
) STRICT, WITHOUT ROWID;
";

/// What a file would become if it were accepted now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WouldBe {
    /// Which submission it would replace.
    pub replaces: Option<u64>,
    /// What its outputs would be named after.
    pub output_name: String,
}

impl Journal {
    /// Takes the next epochs of a pipeline away, so that no file has them; returns the first. Durable on
    /// return.
    pub fn void_epochs(&mut self, pipeline: &str, count: u64) -> Result<u64, JournalError> {
        self.write("take epochs for a trial", |transaction, pipelines| {
            let counters = known_or_new(transaction, pipelines, pipeline)?;
            let first = counters.take_epoch();
            for _ in 1..count {
                counters.take_epoch();
            }
            if counters.finished_epoch + 1 == first {
                counters.finished_epoch = first + count - 1;
            }
            transaction
                .prepare_cached("INSERT INTO void VALUES (?1, ?2, ?3)")?
                .execute(params![counters.id, first.cast_signed(), count.cast_signed()])?;
            save_counters(transaction, pipelines)?;
            Ok(first)
        })
    }

    /// Returns what a file would become if it were accepted now. Nothing is written.
    pub fn would_accept(&mut self, file: &NewFile) -> Result<WouldBe, JournalError> {
        check_new(file)?;
        let root = self.root.clone();
        let mut answer = None;
        let undone = self.write("ask what a file would be", |transaction, pipelines| {
            let pipeline = known_or_new(transaction, pipelines, &file.pipeline)?.id;
            let replaced = correct::resolve(transaction, pipeline, file)?;
            answer = Some(match replaced {
                Some(replaced) => {
                    WouldBe { replaces: Some(replaced.of), output_name: replaced.output_name }
                }
                None => {
                    let output_name = names_of(transaction, pipeline, &root, file)?;
                    WouldBe { replaces: None, output_name }
                }
            });
            // Names are never given back, so they are not given: the transaction is rolled back.
            Err::<(), _>(JournalError::invariant("it was only asked for").into())
        });
        match (answer, undone) {
            (Some(answer), _) => Ok(answer),
            (None, Err(error)) => Err(error),
            (None, Ok(())) => Err(JournalError::invariant("a question was answered with nothing")),
        }
    }

    /// Returns a committed file that can be corrected, or why it cannot be.
    pub fn correctable(&self, id: u64) -> Result<Result<AcceptedFile, String>, JournalError> {
        let ask = || -> rusqlite::Result<Result<AcceptedFile, String>> {
            if let Some(reason) = correct::why_not(self.connection(), id)? {
                return Ok(Err(reason));
            }
            let file = read::file(self.connection(), id)?;
            Ok(file.ok_or_else(|| "it is not known".to_owned()))
        };
        ask().map_err(of("look up a submission", &self.path()))
    }

    /// Returns what of ours lies in a place of `out/`.
    pub fn output_at(
        &self,
        pipeline: &str,
        sink: &str,
        name: &str,
    ) -> Result<Option<Version>, JournalError> {
        let Some(counters) = self.pipelines.get(pipeline) else { return Ok(None) };
        shelf::version_at(self.connection(), counters.id, sink, name)
            .map_err(of("look up an output", &self.path()))
    }
}

/// Returns the epoch up to which a pipeline is finished, given that up to which its files are.
pub(crate) fn pass(
    connection: &Connection,
    pipeline: i64,
    mut finished: u64,
) -> rusqlite::Result<u64> {
    let mut next = connection
        .prepare_cached("SELECT first + count - 1 FROM void WHERE pipeline = ?1 AND first = ?2")?;
    // Each step is a later row, so this ends.
    while let Some(last) = next
        .query_row(params![pipeline, (finished + 1).cast_signed()], |row| unsigned(row, 0))
        .optional()?
    {
        finished = last;
    }
    Ok(finished)
}
