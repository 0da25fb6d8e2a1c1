//! Receipts in the journal: one compact row for each committed file, written in the transaction of
//! its commit, and the books that say what the counts stand for.
//!
//! A receipt that does not balance commits nothing: [`Journal::finish`] refuses the whole group.

use std::collections::HashMap;

use rusqlite::{Connection, OptionalExtension, Transaction, params};

use super::schema::of;
use super::write::Trouble;
use super::{Journal, JournalError, JournalReader, Outcome, Verdict};
use crate::receipt::{Book, Receipt};

/// The tables of this file.
pub(super) const TABLES: &str = "
-- the nodes of a pipeline in their order, as JSON: what the counts of its receipts stand for
CREATE TABLE book (id INTEGER PRIMARY KEY, nodes TEXT NOT NULL UNIQUE) STRICT;

-- where the records of a committed file went; for each node of the book:
-- [in, [out by tag], filtered, rejected, merged, copies, reported], zeros at the end left out
CREATE TABLE receipt (
    submission INTEGER PRIMARY KEY REFERENCES submission (id),
    book       INTEGER NOT NULL REFERENCES book (id),
    read_at_us INTEGER NOT NULL,
    counts     TEXT NOT NULL
) STRICT;

-- for people
CREATE VIEW receipt_line AS
SELECT r.submission, n.key AS place, n.value ->> '$.name' AS node, n.value ->> '$.role' AS role,
       coalesce(c.value ->> '$[0]', 0) AS records_in,
       coalesce(c.value -> '$[1]', '[]') AS records_out,
       coalesce(c.value ->> '$[2]', 0) AS filtered,
       coalesce(c.value ->> '$[3]', 0) AS rejected,
       coalesce(c.value ->> '$[4]', 0) AS merged,
       coalesce(c.value ->> '$[5]', 0) AS copies,
       coalesce(c.value ->> '$[6]', 0) AS reported
FROM receipt r JOIN book b ON b.id = r.book, json_each(b.nodes) n
     LEFT JOIN json_each(r.counts) c ON c.key = n.key;
";

/// The books of the pipelines that run, each with its number.
pub(super) type Books = HashMap<String, (i64, Book)>;

impl Journal {
    /// Writes down what the receipts of these pipelines speak of. From then on no file of theirs is
    /// committed without a receipt that balances.
    pub fn keep_books(&mut self, books: &[(String, Book)]) -> Result<(), JournalError> {
        let kept = self.write("keep the books", |transaction, _| {
            let mut kept = Books::new();
            for (pipeline, book) in books {
                let nodes = serde_json::to_string(book).map_err(|error| {
                    JournalError::invariant(format!("the book of {pipeline}: {error}"))
                })?;
                transaction
                    .prepare_cached("INSERT OR IGNORE INTO book (nodes) VALUES (?1)")?
                    .execute([&nodes])?;
                let id = transaction
                    .prepare_cached("SELECT id FROM book WHERE nodes = ?1")?
                    .query_row([&nodes], |row| row.get(0))?;
                kept.insert(pipeline.clone(), (id, book.clone()));
            }
            Ok(kept)
        })?;
        self.books.extend(kept);
        Ok(())
    }
}

/// Checks and writes the receipt of one committed file.
pub(super) fn insert(
    transaction: &Transaction<'_>,
    books: &Books,
    outcome: &Outcome,
    receipt: Option<&Receipt>,
) -> Result<(), Trouble> {
    if !matches!(outcome.verdict, Verdict::Committed { .. }) {
        return Ok(());
    }
    let Outcome { id, pipeline, epoch, records, rejected, .. } = outcome;
    let refuse = |what: String| {
        let who = format!("submission {id} (epoch {epoch} of {pipeline})");
        Err(JournalError::invariant(format!("{who} is not committed: {what}")).into())
    };
    match (books.get(pipeline), receipt) {
        (None, None) => Ok(()),
        (None, Some(_)) => refuse("its receipt speaks of a pipeline without a book".to_string()),
        (Some(_), None) => refuse("it has no receipt".to_string()),
        (Some((number, book)), Some(receipt)) => {
            if let Err(imbalance) = book.check(receipt, *records, *rejected) {
                return refuse(format!("its receipt does not balance: {imbalance}"));
            }
            transaction
                .prepare_cached("INSERT INTO receipt VALUES (?1, ?2, ?3, ?4)")?
                .execute(params![id.cast_signed(), number, receipt.read_at_us, receipt.text()])?;
            Ok(())
        }
    }
}

/// A receipt and everything the journal knows beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceiptRow {
    /// What the counts stand for.
    pub book: Book,
    /// The counts.
    pub receipt: Receipt,
    /// The generation that committed the file; 0 if it is not known.
    pub generation: u64,
    /// The processes of that generation.
    pub processes: u64,
    /// The workers in each of them.
    pub workers: u64,
    /// The version of its binary.
    pub binary_version: String,
    /// The plan it ran.
    pub plan_hash: String,
}

impl JournalReader {
    /// Returns the receipt of a committed file; `None` if it has none.
    pub fn receipt(&self, id: u64) -> Result<Option<ReceiptRow>, JournalError> {
        receipt_of(&self.connection, id)
            .map_err(of("read a receipt", &self.path))?
            .transpose()
            .map_err(|detail| JournalError::Damaged { path: self.path.clone(), detail })
    }
}

type Found = Option<Result<ReceiptRow, String>>;

fn receipt_of(connection: &Connection, id: u64) -> rusqlite::Result<Found> {
    let mut statement = connection.prepare_cached(
        "SELECT b.nodes, r.read_at_us, r.counts, coalesce(g.number, 0), coalesce(g.processes, 0),
                coalesce(g.workers, 0), coalesce(g.binary_version, ''), coalesce(plan.plan_hash, '')
         FROM receipt r JOIN book b ON b.id = r.book
         JOIN submission s ON s.id = r.submission JOIN pipeline p ON p.id = s.pipeline
         LEFT JOIN generation g ON g.number = s.generation
         LEFT JOIN plan ON plan.generation = s.generation AND plan.pipeline = p.name
         WHERE r.submission = ?1",
    )?;
    let row = |row: &rusqlite::Row<'_>| {
        let (nodes, counts): (String, String) = (row.get(0)?, row.get(2)?);
        let read_at_us: i64 = row.get(1)?;
        let unsigned = |at: usize| super::read::unsigned(row, at);
        let (generation, processes, workers) = (unsigned(3)?, unsigned(4)?, unsigned(5)?);
        let (binary_version, plan_hash) = (row.get(6)?, row.get(7)?);
        let parsed = parse(&nodes, read_at_us, &counts)
            .ok_or_else(|| format!("the receipt of submission {id} cannot be read"));
        Ok(parsed.map(|(book, receipt)| ReceiptRow {
            book,
            receipt,
            generation,
            processes,
            workers,
            binary_version,
            plan_hash,
        }))
    };
    statement.query_row([id.cast_signed()], row).optional()
}

/// Reads a book and a receipt as they are kept.
fn parse(nodes: &str, read_at_us: i64, counts: &str) -> Option<(Book, Receipt)> {
    let book: Book = serde_json::from_str(nodes).ok()?;
    let receipt = Receipt::parse(read_at_us, counts, &book)?;
    Some((book, receipt))
}

#[cfg(test)]
mod tests;
