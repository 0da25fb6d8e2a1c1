//! The journal under examination: whether it is ours and whole, and whether it agrees with itself.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags, OptionalExtension, Row};

use super::finding::Code;
use super::{Facts, Round};
use crate::journal::schema;
use crate::receipt::{Book, Receipt};

/// Receipts checked at a time.
const RECEIPTS_PER_PAGE: i64 = 4000;

/// A pipeline in the journal.
pub(super) struct Pipeline {
    /// Its number there.
    pub(super) id: i64,
    /// Its name, and so its folder.
    pub(super) name: String,
    /// The last epoch that is committed or set aside.
    pub(super) finished_epoch: u64,
}

/// What a statement of the examination may fail with: the journal cannot be read to its end.
fn damaged(round: &mut Round<'_>, error: &rusqlite::Error) {
    round.find(Code::JournalDamaged, "", &error.to_string());
}

impl Round<'_> {
    /// Opens the journal and checks that it is one, and whole.
    pub(super) fn open_journal(&mut self) -> Option<Connection> {
        let path = self.home.join("journal.db");
        let log = self.home.join("journal.db-wal");
        let size = |path: &Path| std::fs::symlink_metadata(path).ok().map(|found| found.len());
        let Some(bytes) = size(&path).filter(|bytes| *bytes > 0) else {
            if self.has_files() {
                self.find(Code::JournalMissing, "", "journal.db");
            }
            return None;
        };
        self.facts.journal_bytes = bytes;
        self.facts.log_bytes = size(&log).unwrap_or(0);
        if self.facts.log_bytes > 0 && self.facts.running.is_none() {
            self.find(Code::Log, "", &format!("{} bytes", self.facts.log_bytes));
        }
        match open(&path, size(&log).is_some()).and_then(|journal| {
            let facts = identify(&journal)?;
            Ok((journal, facts))
        }) {
            Ok((journal, (application, found))) => {
                self.facts.schema = found;
                if application != schema::APPLICATION_ID {
                    self.find(Code::JournalForeign, "", "journal.db");
                    return None;
                }
                let known = schema::SCHEMA;
                if found != known {
                    let text = format!("schema {found}; this version knows {known}");
                    self.find(Code::JournalSchema, "", &text);
                    return None;
                }
                Some(journal)
            }
            Err(error) => {
                damaged(self, &error);
                None
            }
        }
    }

    /// Lets SQLite check every page, and checks that the tables agree with each other.
    pub(super) fn check_journal(&mut self, journal: &Connection) {
        if let Err(error) = self.check_pages(journal) {
            damaged(self, &error);
        }
        for (rule, sql) in RULES {
            match first(journal, sql) {
                Ok(None) => {}
                Ok(Some(text)) => self.find(Code::JournalRules, "", &format!("{rule}: {text}")),
                Err(error) => damaged(self, &error),
            }
        }
        if let Err(error) = count(journal, &mut self.facts) {
            damaged(self, &error);
        }
    }

    fn check_pages(&mut self, journal: &Connection) -> rusqlite::Result<()> {
        let mut check = journal.prepare("PRAGMA integrity_check(20)")?;
        let mut rows = check.query([])?;
        while let Some(row) = rows.next()? {
            let text: String = row.get(0)?;
            if text != "ok" {
                self.find(Code::JournalDamaged, "", &text);
            }
        }
        let mut check = journal.prepare("PRAGMA foreign_key_check")?;
        let mut rows = check.query([])?;
        while let Some(row) = rows.next()? {
            let (table, parent): (String, String) = (row.get(0)?, row.get(2)?);
            self.find(Code::JournalRules, "", &format!("a row of {table} lacks its {parent}"));
        }
        Ok(())
    }

    /// Returns the pipelines of the journal.
    pub(super) fn list_pipelines(&mut self, journal: &Connection) -> Vec<Pipeline> {
        let list = || -> rusqlite::Result<Vec<Pipeline>> {
            let mut all =
                journal.prepare("SELECT id, name, finished_epoch FROM pipeline ORDER BY name")?;
            let pipeline = |row: &Row<'_>| {
                let finished_epoch = row.get::<_, i64>(2)?.cast_unsigned();
                let finished_epoch =
                    crate::journal::pass_void(journal, row.get(0)?, finished_epoch)?;
                Ok(Pipeline { id: row.get(0)?, name: row.get(1)?, finished_epoch })
            };
            all.query_map([], pipeline)?.collect()
        };
        list().unwrap_or_else(|error| {
            damaged(self, &error);
            Vec::new()
        })
    }

    /// Checks that every committed file has a receipt and that each balances.
    pub(super) fn check_receipts(&mut self, journal: &Connection) {
        let mut books = HashMap::new();
        let mut after = 0;
        loop {
            match self.check_some_receipts(journal, &mut books, after) {
                Ok(Some(last)) => after = last,
                Ok(None) => return,
                Err(error) => return damaged(self, &error),
            }
        }
    }

    /// Checks one page of receipts; returns the last submission of it.
    fn check_some_receipts(
        &mut self,
        journal: &Connection,
        books: &mut HashMap<i64, Option<Book>>,
        after: i64,
    ) -> rusqlite::Result<Option<i64>> {
        let mut page = journal.prepare_cached(
            "SELECT s.id, p.name, s.name, s.records, s.rejected, r.read_at_us, r.counts, r.book
             FROM submission s JOIN pipeline p ON p.id = s.pipeline
             LEFT JOIN receipt r ON r.submission = s.id
             WHERE s.id > ?1 AND s.verdict = 1 ORDER BY s.id LIMIT ?2",
        )?;
        let mut rows = page.query([after, RECEIPTS_PER_PAGE])?;
        let mut last = None;
        while let Some(row) = rows.next()? {
            let id: i64 = row.get(0)?;
            last = Some(id);
            let wrong = match row.get::<_, Option<i64>>(7)? {
                None => Some("there is none".to_owned()),
                Some(number) => {
                    self.facts.receipts += 1;
                    let book = match books.entry(number) {
                        Entry::Occupied(known) => known.into_mut(),
                        Entry::Vacant(new) => new.insert(book(journal, number)?),
                    };
                    let counts: String = row.get(6)?;
                    let receipt = book.as_ref().and_then(|book| {
                        Some((book, Receipt::parse(row.get(5).ok()?, &counts, book)?))
                    });
                    let records = row.get::<_, i64>(3)?.cast_unsigned();
                    let rejected = row.get::<_, i64>(4)?.cast_unsigned();
                    match receipt.map(|(book, receipt)| book.check(&receipt, records, rejected)) {
                        None => Some("it cannot be read".to_owned()),
                        Some(checked) => checked.err().map(|imbalance| imbalance.to_string()),
                    }
                }
            };
            if let Some(wrong) = wrong {
                let (pipeline, name): (String, String) = (row.get(1)?, row.get(2)?);
                self.find(Code::Receipt, &pipeline, &format!("{id} {name:?}: {wrong}"));
            }
        }
        Ok(last)
    }

    /// Returns whether the home holds anything that a journal would know of.
    fn has_files(&self) -> bool {
        let Ok(entries) = std::fs::read_dir(self.home) else { return false };
        entries.flatten().any(|entry| {
            ["processed", "underprocess", "quarantine", "out"].iter().any(|folder| {
                let below = std::fs::read_dir(entry.path().join(folder));
                below.is_ok_and(|mut entries| entries.next().is_some())
            })
        })
    }
}

/// Rules that the tables must keep; each statement returns a row where one is broken.
const RULES: [(&str, &str); 8] = [
    (
        "epochs are dense",
        "SELECT 'pipeline ' || p.name || ' gave ' || (p.next_epoch - 1) || ' epochs; its files have '
                || count(s.epoch) || ' from ' || coalesce(min(s.epoch), 0) || ' to '
                || coalesce(max(s.epoch), 0) || ', and ' || v.count || ' are void'
         FROM pipeline p
         JOIN (SELECT q.id, coalesce(sum(count), 0) AS count, min(first) AS first,
                      coalesce(max(first + count - 1), 0) AS last
               FROM pipeline q LEFT JOIN void ON void.pipeline = q.id GROUP BY q.id) v ON v.id = p.id
         LEFT JOIN
              (SELECT pipeline, epoch FROM submission WHERE verdict <> 3 AND epoch > 0
               UNION ALL SELECT pipeline, epoch FROM attempt) s ON s.pipeline = p.id GROUP BY p.id
         HAVING count(s.epoch) + v.count <> p.next_epoch - 1
                OR max(coalesce(max(s.epoch), 0), v.last) <> p.next_epoch - 1
                OR coalesce(min(coalesce(min(s.epoch), v.first), coalesce(v.first, min(s.epoch))), 1)
                   <> 1",
    ),
    (
        "epochs are finished in order",
        "SELECT 'pipeline ' || p.name || ' has finished epochs up to ' || p.finished_epoch
                || ', but submission ' || s.id || ' (epoch ' || s.epoch || ') has verdict ' || s.verdict
         FROM pipeline p JOIN submission s ON s.pipeline = p.id
         WHERE (s.verdict = 0) <> (s.epoch > p.finished_epoch)
               AND (s.verdict <> 0 OR s.epoch > 0) LIMIT 1",
    ),
    (
        "counters agree with rows",
        "SELECT 'pipeline ' || p.name || ' counts ' || p.committed || ' committed and '
                || p.quarantined || ' quarantined; its files say ' || total(s.verdict = 1) || ' and '
                || total(s.verdict = 2)
         FROM pipeline p LEFT JOIN submission s ON s.pipeline = p.id GROUP BY p.id
         HAVING total(s.verdict = 1) <> p.committed OR total(s.verdict = 2) <> p.quarantined",
    ),
    (
        "one committed correction of a file counts",
        "SELECT 'submission ' || x.corrects || ' is corrected by ' || group_concat(n.id)
         FROM correction x JOIN submission n ON n.id = x.submission
         WHERE n.verdict = 1 AND x.corrects IS NOT NULL GROUP BY x.corrects
         HAVING count(*) > 1 LIMIT 1",
    ),
    (
        "only finished files are unsettled",
        "SELECT 'submission ' || u.submission FROM unsettled u
         LEFT JOIN submission s ON s.id = u.submission
         WHERE s.id IS NULL OR s.verdict = 0 LIMIT 1",
    ),
    (
        "an unsettled file keeps the bytes of all its outputs",
        "SELECT 'submission ' || u.submission FROM unsettled u
         JOIN part ON part.submission = u.submission
         LEFT JOIN body ON body.submission = part.submission AND body.ordinal = part.ordinal
         WHERE body.submission IS NULL LIMIT 1",
    ),
    (
        "every output has a place",
        "SELECT 'submission ' || part.submission || ', ' || part.sink || '/' || part.name
         FROM part JOIN submission s ON s.id = part.submission
         LEFT JOIN shelf ON shelf.name = part.name AND shelf.sink = part.sink
                        AND shelf.pipeline = s.pipeline
         WHERE shelf.submission IS NULL LIMIT 1",
    ),
    (
        "the last commit speaks of a place in out/",
        "SELECT 'submission ' || r.submission || ', ' || part.sink || '/' || part.name
         FROM revision r JOIN submission s ON s.id = r.submission
         JOIN part ON part.submission = r.submission AND part.ordinal = r.ordinal
         JOIN shelf ON shelf.name = part.name AND shelf.sink = part.sink
                   AND shelf.pipeline = s.pipeline
         LEFT JOIN submission last ON last.id = shelf.submission
         WHERE last.id IS NULL OR last.epoch < s.epoch LIMIT 1",
    ),
];

/// Returns a book of the journal; `None` if it is not there or cannot be read.
fn book(journal: &Connection, number: i64) -> rusqlite::Result<Option<Book>> {
    let mut known = journal.prepare_cached("SELECT nodes FROM book WHERE id = ?1")?;
    let nodes: Option<String> = known.query_row([number], |row| row.get(0)).optional()?;
    Ok(nodes.and_then(|nodes| serde_json::from_str(&nodes).ok()))
}

/// Returns the first text that a statement returns.
fn first(journal: &Connection, sql: &str) -> rusqlite::Result<Option<String>> {
    let mut statement = journal.prepare(sql)?;
    let mut rows = statement.query([])?;
    rows.next()?.map(|row| row.get(0)).transpose()
}

fn count(journal: &Connection, facts: &mut Facts) -> rusqlite::Result<()> {
    let number = |sql: &str| journal.query_row(sql, [], |row| row.get::<_, i64>(0));
    facts.generations = number("SELECT count(*) FROM generation")?.cast_unsigned();
    facts.accepted = number("SELECT count(*) FROM submission WHERE verdict = 0")?.cast_unsigned();
    facts.committed = number("SELECT count(*) FROM submission WHERE verdict = 1")?.cast_unsigned();
    facts.duplicates = number("SELECT count(*) FROM submission WHERE verdict = 3")?.cast_unsigned();
    let mut by_code = journal.prepare(
        "SELECT coalesce(code, ''), count(*) FROM submission WHERE verdict = 2 GROUP BY 1",
    )?;
    let mut rows = by_code.query([])?;
    while let Some(row) = rows.next()? {
        facts.quarantined.insert(row.get(0)?, row.get::<_, i64>(1)?.cast_unsigned());
    }
    Ok(())
}

fn identify(journal: &Connection) -> rusqlite::Result<(i64, i64)> {
    let ask = |sql: &str| journal.query_row(sql, [], |row| row.get(0));
    Ok((ask("PRAGMA application_id")?, ask("PRAGMA user_version")?))
}

/// Opens the journal for looking only. Without a log beside it nobody has it open and nothing waits
/// to be folded in, so that not even an index has to be made for it.
fn open(path: &Path, has_log: bool) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    let journal = if has_log {
        Connection::open_with_flags(path, flags)?
    } else {
        Connection::open_with_flags(as_uri(path), flags | OpenFlags::SQLITE_OPEN_URI)?
    };
    journal.busy_timeout(schema::BUSY)?;
    journal.execute_batch("PRAGMA query_only = ON; PRAGMA cache_size = -32768;")?;
    Ok(journal)
}

fn as_uri(path: &Path) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    let mut uri = String::from("file:");
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'_' | b'-' => {
                uri.push(char::from(*byte));
            }
            other => uri.push_str(&format!("%{other:02X}")),
        }
    }
    uri.push_str("?immutable=1");
    uri.into()
}
