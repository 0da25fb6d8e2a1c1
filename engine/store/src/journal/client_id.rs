//! Client id: the id that a client gives a submission, so that one that is sent again is taken once.
//!
//! Owns the table of ids, written in the transaction that accepts their files, and the bound below
//! which ids may be forgotten. An id tells by itself when it was made; one below the bound that is
//! not known is refused, so that forgetting can never cause a duplicate.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::{OptionalExtension, Transaction, params};

use super::schema::of;
use super::write::Trouble;
use super::{Journal, JournalError, JournalReader, SubmissionRow};

/// How long an id is remembered after it was made, at least.
pub const CLIENT_IDS_KEPT: Duration = Duration::from_secs(7 * 24 * 3600);

/// Ids forgotten in one transaction, at most.
const FORGOTTEN_MAX: usize = 10_000;

pub(super) const TABLES: &str = "
-- ids that clients gave their submissions; a UUID of version 7 begins with its time, so that the
-- order of ids is the order of their making
CREATE TABLE client_id (
    id         BLOB NOT NULL PRIMARY KEY CHECK (length(id) = 16),
    submission INTEGER NOT NULL REFERENCES submission (id)
) STRICT, WITHOUT ROWID;

-- at most one row: ids below it may have been forgotten
CREATE TABLE client_id_floor (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    id  BLOB NOT NULL CHECK (length(id) = 16)
) STRICT;
";

/// The id that a client gave a submission: a UUID of version 7.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId([u8; 16]);

/// Why a text is no id of a submission.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientIdError {
    /// It does not look like a UUID.
    #[error("is not a UUID, as in 01936c5e-8a52-7cc3-98c4-dc0c0c07398f")]
    NotAUuid,
    /// It is a UUID that does not tell when it was made.
    #[error("is not a UUID of version 7, which begins with the time of its making")]
    NotVersion7,
}

impl ClientId {
    /// Reads an id: 32 hex digits, with or without the four hyphens.
    pub fn parse(text: &str) -> Result<Self, ClientIdError> {
        let hyphens = [8, 13, 18, 23];
        let digits: Vec<u8> = match text.len() {
            32 => text.bytes().collect(),
            36 if hyphens.iter().all(|at| text.as_bytes()[*at] == b'-') => {
                let bytes = text.bytes().enumerate();
                bytes.filter(|(at, _)| !hyphens.contains(at)).map(|(_, byte)| byte).collect()
            }
            _ => return Err(ClientIdError::NotAUuid),
        };
        let mut bytes = [0; 16];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let digit = |at: usize| char::from(pair[at]).to_digit(16);
            let (Some(high), Some(low)) = (digit(0), digit(1)) else {
                return Err(ClientIdError::NotAUuid);
            };
            *byte = (high << 4 | low) as u8;
        }
        if bytes[6] >> 4 == 7 && bytes[8] >> 6 == 0b10 {
            Ok(Self(bytes))
        } else {
            Err(ClientIdError::NotVersion7)
        }
    }

    /// Returns the least id that could have been made at a moment.
    pub fn first_at(moment: SystemTime) -> Self {
        let since = moment.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let ms = u64::try_from(since).unwrap_or(u64::MAX).min((1 << 48) - 1);
        let mut bytes = [0; 16];
        bytes[..6].copy_from_slice(&ms.to_be_bytes()[2..]);
        (bytes[6], bytes[8]) = (0x70, 0x80);
        Self(bytes)
    }

    /// Returns when its maker's clock says that it was made.
    pub fn made_at(&self) -> SystemTime {
        let mut ms = [0; 8];
        ms[2..].copy_from_slice(&self.0[..6]);
        UNIX_EPOCH + Duration::from_millis(u64::from_be_bytes(ms))
    }

    /// Returns the id of the same upload in one of several pipelines: always the same one, made at the
    /// same moment.
    pub fn within(&self, pipeline: &str) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.0).update(pipeline.as_bytes());
        let mut bytes = self.0;
        bytes[6..].copy_from_slice(&hasher.finalize().as_bytes()[..10]);
        bytes[6] = 0x70 | bytes[6] & 0x0f;
        bytes[8] = 0x80 | bytes[8] & 0x3f;
        Self(bytes)
    }

    /// Returns it as 32 hex digits, as it stands in names of files.
    pub fn hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl fmt::Display for ClientId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hex = self.hex();
        let (a, b, c) = (&hex[..8], &hex[8..12], &hex[12..16]);
        write!(out, "{a}-{b}-{c}-{}-{}", &hex[16..20], &hex[20..])
    }
}

impl fmt::Debug for ClientId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{self}")
    }
}

/// Writes down whose id a submission carries. An id that is known already breaks a rule: whoever
/// accepts has looked.
pub(super) fn insert(
    transaction: &Transaction<'_>,
    id: &ClientId,
    submission: u64,
) -> Result<(), Trouble> {
    transaction
        .prepare_cached("INSERT INTO client_id VALUES (?1, ?2)")?
        .execute(params![id.0, submission.cast_signed()])?;
    Ok(())
}

impl JournalReader {
    /// Returns the submission that carries a client's id.
    pub fn of_client(&self, id: &ClientId) -> Result<Option<SubmissionRow>, JournalError> {
        let submission: Option<i64> = self
            .connection()
            .prepare_cached("SELECT submission FROM client_id WHERE id = ?1")
            .and_then(|mut s| s.query_row([id.0], |row| row.get(0)).optional())
            .map_err(of("look up a client's id", self.path()))?;
        match submission {
            Some(submission) => self.submission(submission.cast_unsigned()),
            None => Ok(None),
        }
    }

    /// Returns the id below which ids may have been forgotten.
    pub fn client_ids_from(&self) -> Result<Option<ClientId>, JournalError> {
        self.connection()
            .prepare_cached("SELECT id FROM client_id_floor")
            .and_then(|mut s| s.query_row([], |row| row.get(0)).optional())
            .map(|id| id.map(ClientId))
            .map_err(of("read the oldest client's id", self.path()))
    }
}

impl Journal {
    /// Forgets ids that were made before a moment, some at a time; returns how many.
    ///
    /// From then on an unknown id from before that moment is known to be too old.
    pub fn forget_client_ids(&mut self, before: SystemTime) -> Result<usize, JournalError> {
        let floor = ClientId::first_at(before);
        let any = self
            .connection()
            .prepare_cached("SELECT 1 FROM client_id WHERE id < ?1 LIMIT 1")
            .and_then(|mut s| s.exists([floor.0]))
            .map_err(of("look for old client ids", &self.path()))?;
        if !any {
            return Ok(0);
        }
        self.write("forget old client ids", |transaction, _| {
            transaction
                .prepare_cached(
                    "INSERT INTO client_id_floor VALUES (1, ?1)
                     ON CONFLICT DO UPDATE SET id = max(id, excluded.id)",
                )?
                .execute([floor.0])?;
            let forgotten = transaction
                .prepare_cached(
                    "DELETE FROM client_id WHERE id IN
                     (SELECT id FROM client_id WHERE id < ?1 ORDER BY id LIMIT ?2)",
                )?
                .execute(params![floor.0, FORGOTTEN_MAX as i64])?;
            Ok(forgotten)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::NewFile;
    use crate::journal::tests::{given, new_file};

    #[track_caller]
    fn check(text: &str, expected: Result<&str, ClientIdError>) {
        let shown = ClientId::parse(text).map(|id| id.to_string());
        assert_eq!(shown, expected.map(str::to_owned), "{text:?}");
    }

    #[test]
    fn an_id_is_a_uuid_of_version_7() {
        let id = "01936c5e-8a52-7cc3-98c4-dc0c0c07398f";
        check(id, Ok(id));
        check(&id.to_uppercase(), Ok(id));
        check(&id.replace('-', ""), Ok(id));
        check("", Err(ClientIdError::NotAUuid));
        check("01936c5e8a52-7cc3-98c4-dc0c0c07398f-", Err(ClientIdError::NotAUuid));
        check("01936c5e-8a52-7cc3-98c4-dc0c0c07398", Err(ClientIdError::NotAUuid));
        check("01936c5e-8a52-7cc3-98c4-dc0c0c07398g", Err(ClientIdError::NotAUuid));
        check("0193ü6c5e-8a52-7cc3-98c4-dc0c0c07398", Err(ClientIdError::NotAUuid));
        check("../../../../../../../../etc/pass", Err(ClientIdError::NotAUuid));
        check("f47ac10b-58cc-4372-a567-0e02b2c3d479", Err(ClientIdError::NotVersion7));
        check("01936c5e-8a52-7cc3-18c4-dc0c0c07398f", Err(ClientIdError::NotVersion7));
    }

    #[test]
    fn an_id_leads_to_its_submission_until_it_is_too_old_to_be_asked_for() {
        let (_folder, home, mut journal) = given();
        let moment = |day: u64| UNIX_EPOCH + Duration::from_secs(day * 24 * 3600);
        let ids: Vec<ClientId> = (1..=3).map(|day| ClientId::first_at(moment(day))).collect();
        let file = |journal: &mut Journal, id: &ClientId| NewFile {
            client_id: Some(*id),
            ..new_file(journal, "p", "a.csv")
        };
        let files: Vec<NewFile> = ids.iter().map(|id| file(&mut journal, id)).collect();
        let accepted = journal.accept(&files).unwrap();
        let found = |reader: &JournalReader| -> Vec<Option<u64>> {
            let of = |id| reader.of_client(id).unwrap().map(|row| row.file.id);
            ids.iter().map(of).collect()
        };
        let all: Vec<_> = accepted.iter().map(|file| Some(file.id)).collect();
        assert_eq!(found(&journal.reader().unwrap()), all);

        // A second submission with a known id breaks a rule, and nothing of its group is written.
        let group = [new_file(&mut journal, "p", "b.csv"), file(&mut journal, &ids[0])];
        let error = journal.accept(&group).unwrap_err();
        assert!(matches!(error, JournalError::Invariant { .. }), "{error}");
        assert_eq!(journal.next_epoch("p").unwrap(), 4);

        drop(journal);
        let mut journal = Journal::open(&home).unwrap();
        let reader = journal.reader().unwrap();
        assert_eq!(found(&reader), all, "after a restart");
        assert_eq!(journal.forget_client_ids(moment(1)).unwrap(), 0);
        assert_eq!(reader.client_ids_from().unwrap(), None);
        assert_eq!(journal.forget_client_ids(moment(3)).unwrap(), 2);
        assert_eq!(found(&reader), [None, None, all[2]]);
        assert_eq!(reader.client_ids_from().unwrap(), Some(ids[2]));
        // A clock that steps back brings no forgotten id back.
        assert_eq!(journal.forget_client_ids(moment(2)).unwrap(), 0);
        assert_eq!(reader.client_ids_from().unwrap(), Some(ids[2]));
    }

    #[test]
    fn an_id_tells_when_it_was_made_and_sorts_by_it() {
        let moment = UNIX_EPOCH + Duration::from_millis(1_790_000_000_123);
        let first = ClientId::first_at(moment);
        assert_eq!(first.made_at(), moment);
        assert_eq!(ClientId::parse(&first.to_string()), Ok(first));
        assert!(ClientId::first_at(moment + Duration::from_millis(1)) > first);
        assert!(ClientId::first_at(UNIX_EPOCH - Duration::from_secs(1)) < first);
    }
}
