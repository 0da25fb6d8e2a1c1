//! Schema: the tables of the journal, and the opening of a file that may be damaged.
//!
//! The number of the schema is SQLite's `user_version`. A change adds a step to [`open_writer`];
//! files of older versions stay as fixtures.

use std::fs::OpenOptions;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::hooks::Wal;
use rusqlite::{Connection, ErrorCode, OpenFlags};
use rustix::fs::OFlags;

use super::{
    JournalError, arrival, attempt, checkpoint, client_id, correct, dedupe, deployment, hold,
    reading, receipt, retry, shelf, strike, unpublished, void,
};
use crate::barrier;
use crate::disk::{self, DiskError};

/// The newest schema this version knows.
pub(crate) const SCHEMA: i64 = 3;

/// The oldest schema this version can use: those before it were never released.
const OLDEST: i64 = 3;

/// "tide": says to `file` and to us that a database is a journal.
pub(crate) const APPLICATION_ID: i64 = 0x7469_6465;

/// How long a write waits for somebody who holds the database with a tool of their own.
pub(crate) const BUSY: Duration = Duration::from_secs(10);

/// One thread at a time uses a connection, and no link leads it elsewhere.
const ALWAYS: OpenFlags = OpenFlags::SQLITE_OPEN_NO_MUTEX.union(OpenFlags::SQLITE_OPEN_NOFOLLOW);

/// How many pages the log may hold before they are moved into the database.
const LOG_PAGES_MAX: std::ffi::c_int = 8192;

/// How many bytes of the log are written anew at a time.
const REWRITE_BYTES: usize = 1 << 20;

/// How many different statements are kept prepared.
const STATEMENTS: usize = 64;

const TABLES: &str = "
CREATE TABLE generation (
    number         INTEGER PRIMARY KEY,
    started_at_us  INTEGER NOT NULL,
    binary_version TEXT NOT NULL,
    processes      INTEGER NOT NULL,
    workers        INTEGER NOT NULL
) STRICT;

CREATE TABLE plan (
    generation INTEGER NOT NULL REFERENCES generation (number),
    pipeline   TEXT NOT NULL,
    plan_hash  TEXT NOT NULL,
    PRIMARY KEY (generation, pipeline)
) STRICT, WITHOUT ROWID;

CREATE TABLE pipeline (
    id             INTEGER PRIMARY KEY,
    name           TEXT NOT NULL UNIQUE,
    next_epoch     INTEGER NOT NULL DEFAULT 1,
    finished_epoch INTEGER NOT NULL DEFAULT 0,
    committed      INTEGER NOT NULL DEFAULT 0,
    quarantined    INTEGER NOT NULL DEFAULT 0
) STRICT;

-- verdict: 0 accepted, 1 committed, 2 quarantined, 3 duplicate: not run, so it has no epoch, and -id
-- stands in its place
CREATE TABLE submission (
    id             INTEGER PRIMARY KEY,
    pipeline       INTEGER NOT NULL REFERENCES pipeline (id),
    epoch          INTEGER NOT NULL,
    source         TEXT NOT NULL,
    name           TEXT NOT NULL,
    claimed_name   TEXT NOT NULL,
    stored_name    TEXT NOT NULL,
    output_name    TEXT NOT NULL,
    device         INTEGER NOT NULL,
    inode          INTEGER NOT NULL,
    bytes          INTEGER NOT NULL,
    modified_s     INTEGER NOT NULL,
    modified_ns    INTEGER NOT NULL,
    hash           BLOB CHECK (length(hash) = 32),
    seen_at_us     INTEGER NOT NULL,
    claimed_at_us  INTEGER NOT NULL,
    accepted_at_us INTEGER NOT NULL,
    verdict        INTEGER NOT NULL DEFAULT 0,
    records        INTEGER NOT NULL DEFAULT 0,
    rejected       INTEGER NOT NULL DEFAULT 0,
    answered_at_us INTEGER NOT NULL DEFAULT 0,
    finished_at_us INTEGER NOT NULL DEFAULT 0,
    generation     INTEGER,
    code           TEXT,
    detail         TEXT,
    duplicate_of   INTEGER,
    CHECK (verdict <> 1 OR hash IS NOT NULL)
) STRICT;
CREATE UNIQUE INDEX submission_epoch ON submission (pipeline, epoch);
CREATE UNIQUE INDEX submission_stored_name ON submission (stored_name, pipeline);
CREATE INDEX submission_output_name ON submission (output_name, pipeline);
-- with what a name is asked for in this order: else the planner walks all epochs of a pipeline instead
CREATE INDEX submission_name ON submission (name, pipeline, epoch);
CREATE INDEX submission_pipeline ON submission (pipeline);
CREATE INDEX submission_open ON submission (pipeline, epoch) WHERE verdict = 0;
CREATE INDEX submission_quarantined ON submission (pipeline) WHERE verdict = 2;

-- the smallest variant of a name that may still be free; names never become free again
CREATE TABLE variant (
    pipeline INTEGER NOT NULL REFERENCES pipeline (id),
    name     TEXT NOT NULL,
    next     INTEGER NOT NULL,
    PRIMARY KEY (name, pipeline)
) STRICT, WITHOUT ROWID;

CREATE TABLE part (
    submission INTEGER NOT NULL REFERENCES submission (id),
    ordinal    INTEGER NOT NULL,
    sink       TEXT NOT NULL,
    name       TEXT NOT NULL,
    bytes      INTEGER NOT NULL,
    hash       BLOB NOT NULL CHECK (length(hash) = 32),
    PRIMARY KEY (submission, ordinal)
) STRICT, WITHOUT ROWID;

-- finished, and its publication and moves not yet known to be durable
CREATE TABLE unsettled (submission INTEGER PRIMARY KEY REFERENCES submission (id)) STRICT;

-- where the bytes of the parts of unsettled submissions are: a staged file, or here
CREATE TABLE body (
    submission INTEGER NOT NULL,
    ordinal    INTEGER NOT NULL,
    staged     TEXT,
    bytes      BLOB,
    PRIMARY KEY (submission, ordinal),
    CHECK ((staged IS NULL) <> (bytes IS NULL))
) STRICT;

-- for people
CREATE VIEW file AS
SELECT s.id, p.name AS pipeline, max(s.epoch, 0) AS epoch, s.name, s.stored_name, s.bytes,
       CASE s.verdict WHEN 0 THEN 'accepted' WHEN 1 THEN 'committed' WHEN 2 THEN 'quarantined'
            ELSE 'duplicate' END AS phase,
       s.records, s.rejected, s.code, s.detail, s.duplicate_of, lower(hex(s.hash)) AS blake3,
       strftime('%Y-%m-%dT%H:%M:%fZ', s.accepted_at_us / 1e6, 'unixepoch') AS accepted_at,
       CASE WHEN s.verdict <> 0
            THEN strftime('%Y-%m-%dT%H:%M:%fZ', s.finished_at_us / 1e6, 'unixepoch') END AS finished_at
FROM submission s JOIN pipeline p ON p.id = s.pipeline;
";

/// The tables of the topics that have a file of their own.
const TOPICS: [&str; 15] = [
    client_id::TABLES,
    dedupe::TABLES,
    checkpoint::TABLES,
    receipt::TABLES,
    retry::TABLES,
    strike::TABLES,
    correct::TABLES,
    shelf::TABLES,
    hold::TABLES,
    attempt::TABLES,
    void::TABLES,
    deployment::TABLES,
    arrival::TABLES,
    unpublished::TABLES,
    reading::TABLES,
];

/// Opens the journal for its writer, creating it if it is not there, and checks all of it.
pub(super) fn open_writer(path: &Path) -> Result<Connection, JournalError> {
    create_private(path)?;
    if barrier::holds("R1") {
        rewrite_log(path)?;
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | ALWAYS;
    let mut connection = Connection::open_with_flags(path, flags).map_err(of("open", path))?;
    connection.busy_timeout(BUSY).map_err(of("open", path))?;
    // Before the first write: what is not ours, not whole or not for us stays as it is.
    let version = check_version(&connection, path)?;
    connection
        .execute_batch(
            "PRAGMA synchronous = FULL;
             PRAGMA foreign_keys = ON;
             PRAGMA temp_store = MEMORY;
             PRAGMA cache_size = -32768;
             PRAGMA journal_size_limit = 67108864;",
        )
        .map_err(of("open", path))?;
    write_ahead(&connection, path)?;
    if version == 0 {
        let script = format!(
            "BEGIN IMMEDIATE; {TABLES} {}
             PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {SCHEMA}; COMMIT;",
            TOPICS.concat()
        );
        connection.execute_batch(&script).map_err(of("create the tables", path))?;
    }
    quick_check(&connection, path)?;
    if barrier::holds("R1") {
        empty_log(&connection, path)?;
    }
    // Instead of SQLite's own `wal_autocheckpoint`, which says nothing when its syncs fail.
    connection.wal_hook(Some(move_log)).map_err(of("set up", path))?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    // SQLite does so as well, but does not listen to what the disk answers.
    if let Some(folder) = path.parent().filter(|_| barrier::holds("R2")) {
        disk::sync_folder(folder)?;
    }
    Ok(connection)
}

/// Makes the journal write ahead: a commit is one append and one sync.
fn write_ahead(connection: &Connection, path: &Path) -> Result<(), JournalError> {
    let mode: String = connection
        .query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))
        .map_err(of("set up", path))?;
    if mode == "wal" {
        return Ok(());
    }
    // A disk that refuses in the middle of the change is no error to SQLite: the old mode stays.
    let detail = format!("the disk refused; it still has the mode {mode:?}, not \"wal\"");
    let source = std::io::Error::other(detail);
    Err(JournalError::Disk { doing: "begin to write ahead", path: path.to_path_buf(), source })
}

/// Moves the log into the database when it has grown long. An error is one of the commit before it:
/// a sync that fails here may have lost settled transactions from the log, and whatever was appended
/// behind them would be unreadable after a loss of power.
fn move_log(log: &mut Wal, pages: std::ffi::c_int) -> rusqlite::Result<()> {
    if pages < LOG_PAGES_MAX {
        return Ok(());
    }
    match log.checkpoint() {
        // Somebody else is at it, or reads: there will be another commit.
        Err(error)
            if matches!(
                error.sqlite_error_code(),
                Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked)
            ) =>
        {
            Ok(())
        }
        Err(_) if !barrier::holds("log-errors") => Ok(()),
        result => result,
    }
}

/// Opens the journal for looking only.
pub(super) fn open_reader(path: &Path) -> Result<Connection, JournalError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | ALWAYS;
    let connection = Connection::open_with_flags(path, flags).map_err(of("open", path))?;
    connection.busy_timeout(BUSY).map_err(of("open", path))?;
    connection.execute_batch("PRAGMA query_only = ON;").map_err(of("open", path))?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    Ok(connection)
}

/// Creates an empty file that only its owner can read: names of files are nobody else's business.
fn create_private(path: &Path) -> Result<(), DiskError> {
    let created = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    match created {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            Err(DiskError::new("create", path, error))
        }
        _ => Ok(()),
    }
}

/// Returns the schema of a file, 0 for an empty one.
fn check_version(connection: &Connection, path: &Path) -> Result<i64, JournalError> {
    let ask = |sql: &str| -> Result<i64, JournalError> {
        connection.query_row(sql, [], |row| row.get(0)).map_err(of("read the schema", path))
    };
    let application = ask("PRAGMA application_id")?;
    let version = ask("PRAGMA user_version")?;
    let tables = ask("SELECT count(*) FROM sqlite_schema")?;
    let damaged = |detail: &str| {
        Err(JournalError::Damaged { path: path.to_path_buf(), detail: detail.to_string() })
    };
    match (application, version, tables) {
        (0, 0, 0) => Ok(0),
        (APPLICATION_ID, found, _) if found > SCHEMA => {
            Err(JournalError::Newer { path: path.to_path_buf(), found, known: SCHEMA })
        }
        (APPLICATION_ID, OLDEST..=SCHEMA, _) => Ok(version),
        (APPLICATION_ID, found @ 1.., _) => {
            Err(JournalError::Unreleased { path: path.to_path_buf(), found })
        }
        (APPLICATION_ID, ..) => damaged("its schema number makes no sense"),
        _ => damaged("it is a database of another program"),
    }
}

fn quick_check(connection: &Connection, path: &Path) -> Result<(), JournalError> {
    let detail: String = connection
        .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
        .map_err(of("check", path))?;
    if detail == "ok" {
        Ok(())
    } else {
        Err(JournalError::Damaged { path: path.to_path_buf(), detail })
    }
}

/// Writes the bytes of the log anew where they are, and syncs them.
///
/// After a sync that failed, the cache of the kernel may show a log that is not on the disk, and no later
/// sync puts it there. SQLite would move it into the database all the same; a loss of power before the
/// log is emptied would leave its beginning, older than the database on which it is then laid.
fn rewrite_log(path: &Path) -> Result<(), DiskError> {
    let mut log_path = path.as_os_str().to_owned();
    log_path.push("-wal");
    let log_path = PathBuf::from(log_path);
    let no_link = OFlags::NOFOLLOW.bits().cast_signed();
    let log = match OpenOptions::new().read(true).write(true).custom_flags(no_link).open(&log_path)
    {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        opened => opened.map_err(|error| DiskError::new("open", &log_path, error))?,
    };
    let mut piece = vec![0; REWRITE_BYTES];
    let mut at = 0;
    loop {
        let failed = |error| DiskError::new("write anew", &log_path, error);
        let count = log.read_at(&mut piece, at).map_err(failed)?;
        if count == 0 {
            return disk::sync_file(&log, &log_path);
        }
        log.write_all_at(&piece[..count], at).map_err(failed)?;
        at += count as u64;
    }
}

/// Moves what the log holds into the database, whose own pages a failed sync may have lost as well, and
/// empties the log.
fn empty_log(connection: &Connection, path: &Path) -> Result<(), JournalError> {
    let busy: i64 = connection
        .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))
        .map_err(of("empty the log", path))?;
    if busy == 0 {
        return Ok(());
    }
    let source = std::io::Error::new(
        std::io::ErrorKind::ResourceBusy,
        "another program is reading it; close that program and start again",
    );
    Err(JournalError::Disk { doing: "empty the log", path: path.to_path_buf(), source })
}

/// Returns what turns an error of SQLite into ours, told what was being done.
pub(super) fn of(
    doing: &'static str,
    path: &Path,
) -> impl FnOnce(rusqlite::Error) -> JournalError + use<> {
    let path = path.to_path_buf();
    move |error| JournalError::of(doing, path, error)
}
