//! Shelf: what lies in `out/` for all the journal knows, and which commit put it there.
//!
//! Owns the parts of a commit. Each place in `out/` (pipeline, sink, name) has one part that speaks
//! last; a part that takes the place of another, takes an output away, or is the output of another
//! file than the one that is committed is a *revision*, which remembers what it found there. Knows no
//! folder: whether a place really holds these bytes is for publication to see.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::ffi::OsStrExt;

use rusqlite::{Connection, OptionalExtension, Transaction, params};

use super::read::unsigned;
use super::schema::of;
use super::write::Trouble;
use super::{
    AcceptedFile, INLINE_BYTES_MAX, Journal, JournalError, JournalReader, Outcome, Part, PartBody,
    Verdict, Version,
};
use crate::disk;
use crate::name::CHANGES_ENDING;
use crate::publish::is_staged_path;

pub(super) const TABLES: &str = "
-- which part speaks last of each place in out/
CREATE TABLE shelf (
    pipeline   INTEGER NOT NULL REFERENCES pipeline (id),
    sink       TEXT NOT NULL,
    name       TEXT NOT NULL,
    submission INTEGER NOT NULL,
    ordinal    INTEGER NOT NULL,
    PRIMARY KEY (name, sink, pipeline)
) STRICT, WITHOUT ROWID;

-- parts that are more than the first output of their own file in its place: whose output they are,
-- whether they take it away, and which bytes of ours were there before
CREATE TABLE revision (
    submission INTEGER NOT NULL REFERENCES submission (id),
    ordinal    INTEGER NOT NULL,
    of         INTEGER NOT NULL REFERENCES submission (id),
    removed    INTEGER NOT NULL,
    old_bytes  INTEGER,
    old_hash   BLOB CHECK (length(old_hash) = 32),
    PRIMARY KEY (submission, ordinal),
    CHECK ((old_bytes IS NULL) = (old_hash IS NULL))
) STRICT, WITHOUT ROWID;
CREATE INDEX revision_of ON revision (of);
";

/// What of ours a part takes the place of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replaced {
    /// The submission that is committed.
    pub submission: u64,
    /// Which of its parts.
    pub part: usize,
    /// What lay there.
    pub version: Version,
}

/// An output as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// The sink, and so the folder in `out/`.
    pub sink: String,
    /// Its name in that folder.
    pub name: String,
    /// The submission whose output it is.
    pub of: u64,
    /// The submission that wrote it last.
    pub by: u64,
    /// Its size in bytes.
    pub bytes: u64,
    /// BLAKE3 of its bytes.
    pub hash: [u8; 32],
}

impl Journal {
    /// Returns the outputs of a submission as they are now, whoever wrote them last, by sink and name.
    /// Those that were removed are not there.
    pub fn outputs_of(&self, id: u64) -> Result<Vec<Output>, JournalError> {
        outputs_of(self.connection(), id).map_err(of("list outputs", &self.path()))
    }
}

impl JournalReader {
    /// Returns the outputs of a submission as they are now, whoever wrote them last, by sink and name.
    /// Those that were removed are not there.
    pub fn outputs_of(&self, id: u64) -> Result<Vec<Output>, JournalError> {
        outputs_of(self.connection(), id).map_err(of("list outputs", self.path()))
    }
}

fn outputs_of(connection: &Connection, id: u64) -> rusqlite::Result<Vec<Output>> {
    // Every place that the file, or a later one for it, ever wrote to; then who speaks last there. But
    // not what it says in changelogs: that is a history.
    let mut statement = connection.prepare_cached(
        "WITH place AS (
             SELECT sink, name FROM part WHERE submission = ?1
             UNION
             SELECT part.sink, part.name FROM revision r JOIN part
             ON part.submission = r.submission AND part.ordinal = r.ordinal WHERE r.of = ?1
         )
         SELECT place.sink, place.name, part.submission, part.bytes, part.hash
         FROM submission s JOIN place
         JOIN shelf ON shelf.name = place.name AND shelf.sink = place.sink
                   AND shelf.pipeline = s.pipeline
         JOIN part ON part.submission = shelf.submission AND part.ordinal = shelf.ordinal
         LEFT JOIN revision r ON r.submission = part.submission AND r.ordinal = part.ordinal
         WHERE s.id = ?1 AND coalesce(r.of, part.submission) = ?1 AND coalesce(r.removed, 0) = 0
           AND substr(place.sink, -length(?2)) <> ?2
         ORDER BY place.sink, place.name",
    )?;
    let outputs = statement.query_map(params![id.cast_signed(), CHANGES_ENDING], |row| {
        Ok(Output {
            sink: row.get(0)?,
            name: row.get(1)?,
            of: id,
            by: unsigned(row, 2)?,
            bytes: unsigned(row, 3)?,
            hash: row.get(4)?,
        })
    })?;
    outputs.collect()
}

/// Writes down the parts of a commit; returns what of ours they take the place of.
pub(super) fn insert(
    transaction: &Transaction<'_>,
    pipeline: i64,
    generation: Option<i64>,
    outcome: &Outcome,
    parts: &[Part],
) -> Result<Vec<Replaced>, Trouble> {
    check(generation, outcome, parts)?;
    let mut replaced = Vec::new();
    for (ordinal, part) in parts.iter().enumerate() {
        insert_part(transaction, outcome.id, ordinal, part)?;
        if let Some(version) = place(transaction, pipeline, outcome.id, ordinal, part)? {
            replaced.push(Replaced { submission: outcome.id, part: ordinal, version });
        }
    }
    Ok(replaced)
}

/// Checks that no two parts of a commit have one place, that a sink has one output of the file itself,
/// and that what is staged was staged for this: a staged file can then be named by one commit only.
fn check(generation: Option<i64>, outcome: &Outcome, parts: &[Part]) -> Result<(), Trouble> {
    let (mut places, mut own, mut files) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for part in parts {
        let Part { sink, name, .. } = part;
        let refuse = |what: String| {
            let whose = format!("part {sink}/{name} of submission {}", outcome.id);
            Err(JournalError::invariant(format!("{whose}: {what}")).into())
        };
        if !places.insert((sink, name)) {
            return refuse("another part of the same commit has its place".to_owned());
        }
        let is_removed = matches!(part.body, PartBody::Removed);
        if part.of == outcome.id && !is_removed && !own.insert(sink) {
            return refuse("its sink has another output of the same file".to_owned());
        }
        if is_removed && (part.bytes, part.hash) != (0, [0; 32]) {
            return refuse("it is removed, and says that it has bytes".to_owned());
        }
        if let PartBody::Staged(staged) = &part.body {
            if !files.insert(staged) {
                return refuse(format!("{} is the body of another part", staged.display()));
            }
            let Some(generation) = generation else { continue };
            let begin =
                format!("stage/{generation}/{}/{}-{sink}-", outcome.pipeline, outcome.epoch);
            if !staged.as_os_str().as_bytes().starts_with(begin.as_bytes()) {
                return refuse(format!("{} was staged for something else", staged.display()));
            }
        }
    }
    Ok(())
}

fn insert_part(
    transaction: &Transaction<'_>,
    id: u64,
    ordinal: usize,
    part: &Part,
) -> Result<(), Trouble> {
    let refuse = |what: &str| {
        let Part { sink, name, .. } = part;
        Err(JournalError::invariant(format!("part {sink}/{name} of submission {id}: {what}"))
            .into())
    };
    if !disk::is_plain_name(&part.sink) || !disk::is_plain_name(&part.name) {
        return refuse("a name is empty, too long, or a path");
    }
    let (staged, bytes) = match &part.body {
        PartBody::Inline(bytes) if bytes.len() as u64 != part.bytes => {
            return refuse("it does not have the size it says");
        }
        PartBody::Inline(bytes) if bytes.len() > INLINE_BYTES_MAX => {
            return refuse("it is too large for the journal; stage it");
        }
        PartBody::Inline(bytes) => (None, Some(bytes.as_slice())),
        PartBody::Removed => (None, Some(&[][..])),
        PartBody::Staged(path) => match path.to_str().filter(|_| is_staged_path(path)) {
            Some(staged) => (Some(staged), None),
            None => return refuse("its staged path must be relative to the home, below stage/"),
        },
    };
    let (id, ordinal) = (id.cast_signed(), ordinal as i64);
    transaction
        .prepare_cached("INSERT INTO part VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?
        .execute(params![id, ordinal, part.sink, part.name, part.bytes.cast_signed(), part.hash])?;
    transaction
        .prepare_cached("INSERT INTO body VALUES (?1, ?2, ?3, ?4)")?
        .execute(params![id, ordinal, staged, bytes])?;
    Ok(())
}

/// Lets a part speak last of its place; returns what of ours was there.
fn place(
    transaction: &Transaction<'_>,
    pipeline: i64,
    id: u64,
    ordinal: usize,
    part: &Part,
) -> Result<Option<Version>, Trouble> {
    let (submission, ordinal) = (id.cast_signed(), ordinal as i64);
    let is_removed = matches!(part.body, PartBody::Removed);
    let is_new = transaction
        .prepare_cached("INSERT OR IGNORE INTO shelf VALUES (?1, ?2, ?3, ?4, ?5)")?
        .execute(params![pipeline, part.sink, part.name, submission, ordinal])?
        == 1;
    if is_new && part.of == id && !is_removed {
        return Ok(None);
    }
    // Only what was committed before, or is now, has outputs that can change.
    let is_ours = part.of == id
        || transaction
            .prepare_cached(
                "SELECT 1 FROM submission
                 WHERE id = ?1 AND pipeline = ?2 AND verdict NOT IN (0, 2, 3)",
            )?
            .exists(params![part.of.cast_signed(), pipeline])?;
    if !is_ours {
        let Part { sink, name, of, .. } = part;
        return Err(JournalError::invariant(format!(
            "part {sink}/{name} of submission {id}: submission {of}, whose output it is said to \
             be, has none"
        ))
        .into());
    }
    let mut before = None;
    if !is_new {
        before = version_at(transaction, pipeline, &part.sink, &part.name)?;
        transaction
            .prepare_cached(
                "UPDATE shelf SET submission = ?4, ordinal = ?5
                 WHERE name = ?3 AND sink = ?2 AND pipeline = ?1",
            )?
            .execute(params![pipeline, part.sink, part.name, submission, ordinal])?;
    }
    transaction.prepare_cached("INSERT INTO revision VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?.execute(
        params![
            submission,
            ordinal,
            part.of.cast_signed(),
            is_removed,
            before.as_ref().map(|before| before.bytes.cast_signed()),
            before.as_ref().map(|before| before.hash),
        ],
    )?;
    Ok(before)
}

/// Returns what the part that speaks last of a place put there; nothing if it took it away.
pub(super) fn version_at(
    connection: &Connection,
    pipeline: i64,
    sink: &str,
    name: &str,
) -> rusqlite::Result<Option<Version>> {
    let mut statement = connection.prepare_cached(
        "SELECT part.bytes, part.hash FROM shelf
         JOIN part ON part.submission = shelf.submission AND part.ordinal = shelf.ordinal
         LEFT JOIN revision r ON r.submission = part.submission AND r.ordinal = part.ordinal
         WHERE shelf.name = ?3 AND shelf.sink = ?2 AND shelf.pipeline = ?1
           AND coalesce(r.removed, 0) = 0",
    )?;
    let version = |row: &rusqlite::Row<'_>| {
        Ok(Version { bytes: unsigned(row, 0)?, hash: row.get(1)?, body: None })
    };
    statement.query_row(params![pipeline, sink, name], version).optional()
}

/// Leaves out, of files in the order of their epochs, the parts that do not speak last of their place:
/// what they put there was replaced, or will be. What may lie there of them is handed on to the part
/// that does.
pub(super) fn last_words(
    connection: &Connection,
    mut unsettled: Vec<(AcceptedFile, Outcome)>,
) -> rusqlite::Result<Vec<(AcceptedFile, Outcome)>> {
    let mut speaker = connection.prepare_cached(
        "SELECT shelf.submission FROM shelf JOIN pipeline p ON p.id = shelf.pipeline
         WHERE shelf.name = ?3 AND shelf.sink = ?2 AND p.name = ?1",
    )?;
    let mut earlier: BTreeMap<(String, String, String), Vec<Version>> = BTreeMap::new();
    for (file, outcome) in &mut unsettled {
        let Verdict::Committed { parts } = &mut outcome.verdict else { continue };
        let mut last = Vec::with_capacity(parts.len());
        for mut part in std::mem::take(parts) {
            let place = (file.pipeline.clone(), part.sink.clone(), part.name.clone());
            let by: Option<i64> = speaker
                .query_row(params![place.0, place.1, place.2], |row| row.get(0))
                .optional()?;
            if by == Some(file.id.cast_signed()) {
                part.before.extend(earlier.remove(&place).unwrap_or_default());
                last.push(part);
                continue;
            }
            let known = earlier.entry(place).or_default();
            known.append(&mut part.before);
            let (bytes, hash) = (part.bytes, part.hash);
            match part.body {
                PartBody::Inline(body) => known.push(Version { bytes, hash, body: Some(body) }),
                PartBody::Staged(_) => known.push(Version { bytes, hash, body: None }),
                PartBody::Removed => {}
            }
        }
        *parts = last;
    }
    Ok(unsettled)
}

#[cfg(test)]
mod tests;
