//! The folders under examination: every file against the journal, and the reverse.
//!
//! The journal is walked in pages of files, each looked for where it must be and where it must not;
//! then each folder is walked, and what lies there is looked up by the indexes of the journal.

use std::fs::Metadata;
use std::io;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, Row, params};

use super::Round;
use super::finding::Code;
use super::journal::Pipeline;
use crate::disk;
use crate::name::{REASON_ENDING, SNAPSHOT_ENDINGS};
use crate::queue;

/// Files of the journal looked at together.
const FILES_PER_PAGE: i64 = 2000;

/// A file of the journal.
struct Submission {
    id: i64,
    pipeline: String,
    name: String,
    claimed_name: String,
    stored_name: String,
    bytes: u64,
    hash: Option<[u8; 32]>,
    verdict: i64,
    unsettled: bool,
    /// Committed, and in both of the checkpoints that are kept.
    kept: bool,
    /// It takes another one away, and has no file.
    is_removal: bool,
    /// A committed one has taken its place, or has taken it away.
    is_corrected: bool,
    /// That is so, and a checkpoint lies in between: a start from it takes its rows back.
    is_needed: bool,
}

/// An output of the journal, as it is now: none that was replaced or removed since.
struct Output {
    submission: i64,
    pipeline: String,
    sink: String,
    name: String,
    bytes: u64,
    hash: [u8; 32],
    unsettled: bool,
    staged: Option<String>,
    /// Whether it takes the place of another output of ours, which may lie there until it is settled.
    replaces: bool,
}

impl Round<'_> {
    /// Looks for every file and output of the journal.
    pub(super) fn check_files(&mut self, journal: &Connection, pipelines: &[Pipeline]) {
        let mut after = 0;
        loop {
            let page = files(journal, after).and_then(|files| {
                let Some(last) = files.last().map(|file| file.id) else {
                    return Ok((files, Vec::new()));
                };
                Ok((files, outputs(journal, after, last)?))
            });
            let (files, outputs) = match page {
                Ok(page) => page,
                Err(error) => return self.find(Code::JournalDamaged, "", &error.to_string()),
            };
            let Some(last) = files.last() else { break };
            after = last.id;
            for file in &files {
                self.check_file(file);
            }
            for output in &outputs {
                self.check_output(output);
            }
        }
        for pipeline in pipelines {
            let waiting = self.home.join(&pipeline.name).join("unprocessed");
            self.facts.waiting += std::fs::read_dir(waiting).map_or(0, |all| {
                all.flatten().filter(|entry| !hidden(&entry.file_name())).count() as u64
            });
        }
    }

    fn folder(&self, pipeline: &str, folder: &str) -> PathBuf {
        self.home.join(pipeline).join(folder)
    }

    /// Looks at a path; a failure is told, and counts as nothing there.
    fn look(&mut self, path: &Path) -> Option<Metadata> {
        match disk::look(path) {
            Ok(found) => found,
            Err(error) => {
                // A folder that is no folder is told once, where it stands.
                if error.kind() != io::ErrorKind::NotADirectory {
                    self.unreadable(path, &error.source);
                }
                None
            }
        }
    }

    fn check_file(&mut self, file: &Submission) {
        if file.is_removal {
            if file.unsettled {
                self.find(Code::Unsettled, &file.pipeline, &format!("{} (a removal)", file.id));
            }
            return;
        }
        if file.is_corrected {
            return self.check_retained(file);
        }
        let of = |folder: &str| self.folder(&file.pipeline, folder);
        let claimed = of("underprocess").join(&file.claimed_name);
        let (processed, quarantined) =
            (of("processed").join(&file.stored_name), of("quarantine").join(&file.stored_name));
        let dropped = of("unprocessed").join(&file.name);
        let home = match file.verdict {
            0 => &claimed,
            // A duplicate is filed away like a committed file.
            1 | 3 => &processed,
            _ => &quarantined,
        };
        let mut others = vec![&claimed, &processed, &quarantined];
        others.retain(|other| *other != home);
        let there = self.look(home);
        let mut elsewhere: Vec<&PathBuf> = Vec::new();
        for other in others {
            if self.look(other).is_some() {
                elsewhere.push(other);
            }
        }
        let subject = format!("{} {}", file.id, self.shown(home));
        if file.unsettled {
            self.find(Code::Unsettled, &file.pipeline, &subject);
        }
        match there {
            Some(found) => {
                self.check_input(file, home, &found, &subject);
                for other in elsewhere {
                    let both = format!("{subject} and {}", self.shown(other));
                    self.find(Code::InputDoubled, &file.pipeline, &both);
                }
            }
            // It is about to be moved, by the publisher or by the next start.
            None if file.unsettled && elsewhere.contains(&&claimed) => {}
            // A move that was not durable was undone; the next start moves it again.
            // So is that of a file that is tried again and was not yet moved out of quarantine/.
            None if file.verdict == 0
                && (self.look(&dropped).is_some() || elsewhere.contains(&&quarantined)) =>
            {
                self.find(Code::Claimed, &file.pipeline, &subject);
            }
            // Where it was put back, nobody takes it up.
            None if file.verdict == 2 => match elsewhere.first() {
                Some(other) => {
                    let subject = format!("{} (set aside as {subject})", self.shown(other));
                    self.find(Code::InputUnknown, &file.pipeline, &subject);
                }
                None => self.find(Code::QuarantineTaken, &file.pipeline, &subject),
            },
            None => {
                let found = elsewhere.first().map(|other| format!(" (but {})", self.shown(other)));
                let subject = format!("{subject}{}", found.unwrap_or_default());
                let code = if file.kept { Code::InputThinned } else { Code::InputMissing };
                self.find(code, &file.pipeline, &subject);
            }
        }
        if file.verdict == 2 {
            self.find(Code::Quarantine, &file.pipeline, &subject);
        }
    }

    /// Looks for a version that is not current any more: it is wanted only where a start may begin with
    /// a checkpoint that holds its rows.
    fn check_retained(&mut self, file: &Submission) {
        let path = self.folder(&file.pipeline, "retained").join(&file.stored_name);
        let subject = format!("{} {}", file.id, self.shown(&path));
        let there = self.look(&path);
        match there {
            Some(found) => self.check_input(file, &path, &found, &subject),
            // It is about to be moved there.
            None if !file.is_needed => {}
            None => {
                let processed = self.folder(&file.pipeline, "processed").join(&file.stored_name);
                if self.look(&processed).is_none() {
                    self.find(Code::RetainedMissing, &file.pipeline, &subject);
                }
            }
        }
    }

    fn check_input(&mut self, file: &Submission, path: &Path, found: &Metadata, subject: &str) {
        if !found.is_file() {
            return self.find(Code::NotAFile, &file.pipeline, subject);
        }
        if found.len() != file.bytes {
            let text = format!("{subject}: {} bytes, {} accepted", found.len(), file.bytes);
            // One that was set aside may have been set aside for just that.
            let code = if file.verdict == 2 { Code::Quarantine } else { Code::InputChanged };
            return self.find(code, &file.pipeline, &text);
        }
        if let Some(hash) = file.hash.filter(|_| self.deep && file.verdict != 2)
            && self.differs(path, hash)
        {
            let text = format!("{subject}: same size, other bytes");
            self.find(Code::InputChanged, &file.pipeline, &text);
        }
    }

    /// Returns whether a file has another hash. What cannot be read is told.
    fn differs(&mut self, path: &Path, hash: [u8; 32]) -> bool {
        let read = disk::open_plain(path).and_then(|file| {
            let bytes = file.metadata()?.len();
            Ok((disk::hash_of(&file)?, bytes))
        });
        match read {
            Ok((found, bytes)) => {
                self.facts.hashed_bytes += bytes;
                found != hash
            }
            // It was moved on since: a running home.
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) => {
                self.unreadable(path, &error);
                false
            }
        }
    }

    fn check_output(&mut self, output: &Output) {
        self.facts.outputs += 1;
        let path = self.folder(&output.pipeline, "out").join(&output.sink).join(&output.name);
        let subject = format!("{} {}", output.submission, self.shown(&path));
        let staged = output.staged.as_ref().map(|staged| self.home.join(staged));
        match self.look(&path) {
            Some(found) if !found.is_file() => {
                self.find(Code::NotAFile, &output.pipeline, &subject);
            }
            // What it replaces may be there still; the next start replaces it.
            Some(_) if output.unsettled && output.replaces => {}
            // A loss of power can tear it before it is settled; the next start makes it whole.
            Some(found) if output.unsettled && staged.is_none() && found.len() <= output.bytes => {}
            Some(found) if found.len() != output.bytes => {
                let text = format!("{subject}: {} bytes, {} committed", found.len(), output.bytes);
                self.find(Code::OutputChanged, &output.pipeline, &text);
            }
            Some(_) if self.deep && self.differs(&path, output.hash) => {
                let text = format!("{subject}: same size, other bytes");
                self.find(Code::OutputChanged, &output.pipeline, &text);
            }
            Some(_) => {}
            None if output.unsettled => {
                // Its bytes are in the journal, or staged, or were published between two looks.
                let Some(staged) = staged else { return };
                let found = self.look(&staged);
                let whole = found.is_some_and(|found| found.len() == output.bytes);
                if !whole && self.look(&path).is_none() {
                    self.find(Code::PartLost, &output.pipeline, &subject);
                }
            }
            None => self.find(Code::OutputMissing, &output.pipeline, &subject),
        }
    }

    /// Looks up everything that lies in the folders of a pipeline.
    pub(super) fn find_strangers(&mut self, journal: &Connection, pipeline: &Pipeline) {
        for folder in ["underprocess", "processed", "quarantine", "retained", "out"] {
            let path = self.folder(&pipeline.name, folder);
            let outcome = match folder {
                "out" => self.walk_sinks(journal, pipeline, &path),
                _ => self.walk(journal, pipeline, folder, &path),
            };
            if let Err(error) = outcome {
                self.find(Code::JournalDamaged, "", &error.to_string());
            }
        }
    }

    /// Returns what lies in a folder, one at a time; a folder that is gone was told already.
    fn entries(&mut self, path: &Path) -> Vec<std::io::Result<std::fs::DirEntry>> {
        match std::fs::read_dir(path) {
            Ok(entries) => entries.collect(),
            Err(error) => {
                let told = [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory];
                if !told.contains(&error.kind()) {
                    self.unreadable(path, &error);
                }
                Vec::new()
            }
        }
    }

    fn walk(
        &mut self,
        journal: &Connection,
        pipeline: &Pipeline,
        folder: &str,
        path: &Path,
    ) -> rusqlite::Result<()> {
        let column = if folder == "underprocess" { "claimed" } else { "stored" };
        for entry in self.entries(path) {
            let Ok(entry) = entry else { continue };
            let name = entry.file_name();
            let subject = self.shown(&entry.path());
            if is_temporary(&name) {
                self.find(Code::Temporary, &pipeline.name, &subject);
                continue;
            }
            let Some(text) = name.to_str() else {
                self.find(Code::InputUnknown, &pipeline.name, &subject);
                continue;
            };
            let stored = match folder {
                "quarantine" => text.strip_suffix(REASON_ENDING).unwrap_or(text),
                _ => text,
            };
            let known = match column {
                "claimed" => knows_claimed(journal, pipeline.id, text)?,
                _ => {
                    knows_stored(journal, pipeline.id, text)?
                        || knows_stored(journal, pipeline.id, stored)?
                }
            };
            if known {
                continue;
            }
            let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
            let code = match queue::claimed_id(text).filter(|_| folder == "underprocess") {
                _ if !is_file => Code::NotAFile,
                // Its number is not used up: it was claimed, and never accepted.
                Some(id) if !knows_id(journal, id)? => Code::Claimed,
                _ => Code::InputUnknown,
            };
            self.find(code, &pipeline.name, &subject);
        }
        Ok(())
    }

    fn walk_sinks(
        &mut self,
        journal: &Connection,
        pipeline: &Pipeline,
        out: &Path,
    ) -> rusqlite::Result<()> {
        for entry in self.entries(out) {
            let Ok(entry) = entry else { continue };
            let subject = self.shown(&entry.path());
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                let code = if entry.file_type().is_ok_and(|kind| kind.is_file()) {
                    Code::OutputUnknown
                } else {
                    Code::NotAFile
                };
                self.find(code, &pipeline.name, &subject);
                continue;
            }
            let sink = entry.file_name();
            let sink = sink.to_string_lossy();
            for output in self.entries(&entry.path()) {
                let Ok(output) = output else { continue };
                let name = output.file_name();
                let subject = self.shown(&output.path());
                if is_temporary(&name) {
                    self.find(Code::Temporary, &pipeline.name, &subject);
                } else if !output.file_type().is_ok_and(|kind| kind.is_file()) {
                    self.find(Code::NotAFile, &pipeline.name, &subject);
                } else if !is_snapshot(&entry.path(), &sink, &name.to_string_lossy())
                    && !knows_output(journal, pipeline.id, &sink, &name.to_string_lossy())?
                {
                    self.find(Code::OutputUnknown, &pipeline.name, &subject);
                }
            }
        }
        Ok(())
    }
}

fn hidden(name: &std::ffi::OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".")
}

/// Returns whether a name is one of [`crate::publish`]'s for what replaces a file.
fn is_temporary(name: &std::ffi::OsStr) -> bool {
    let bytes = name.as_encoded_bytes();
    bytes.starts_with(b".tidemill-") && bytes.ends_with(b".tmp")
}

/// Returns whether a file is the snapshot of a table, or what is said about one.
fn is_snapshot(folder: &Path, sink: &str, name: &str) -> bool {
    SNAPSHOT_ENDINGS.iter().any(|ending| {
        let snapshot = format!("{sink}{ending}");
        let about = format!("{snapshot}{}", super::tables::ABOUT_ENDING);
        name == about || (name == snapshot && folder.join(about).exists())
    })
}

fn files(journal: &Connection, after: i64) -> rusqlite::Result<Vec<Submission>> {
    let mut page = journal.prepare_cached(
        "SELECT s.id, p.name, s.name, s.claimed_name, s.stored_name, s.bytes, s.hash, s.verdict,
                u.submission IS NOT NULL,
                s.verdict = 1 AND
                (SELECT count(*) > 1 FROM checkpoint c
                 WHERE c.pipeline = s.pipeline AND c.epoch >= s.epoch),
                coalesce(k.removes, 0), n.id IS NOT NULL,
                n.id IS NOT NULL AND EXISTS (SELECT 1 FROM checkpoint c
                 WHERE c.pipeline = s.pipeline AND c.epoch >= s.epoch AND c.epoch < n.epoch)
         FROM submission s JOIN pipeline p ON p.id = s.pipeline
         LEFT JOIN unsettled u ON u.submission = s.id
         LEFT JOIN correction k ON k.submission = s.id
         LEFT JOIN submission n ON n.verdict = 1 AND n.id IN
                   (SELECT x.submission FROM correction x WHERE x.corrects = s.id)
         WHERE s.id > ?1 AND s.id NOT IN (SELECT retry_of FROM retry) ORDER BY s.id LIMIT ?2",
    )?;
    let file = |row: &Row<'_>| {
        Ok(Submission {
            id: row.get(0)?,
            pipeline: row.get(1)?,
            name: row.get(2)?,
            claimed_name: row.get(3)?,
            stored_name: row.get(4)?,
            bytes: row.get::<_, i64>(5)?.cast_unsigned(),
            hash: row.get(6)?,
            verdict: row.get(7)?,
            unsettled: row.get(8)?,
            kept: row.get(9)?,
            is_removal: row.get(10)?,
            is_corrected: row.get(11)?,
            is_needed: row.get(12)?,
        })
    };
    page.query_map([after, FILES_PER_PAGE], file)?.collect()
}

fn outputs(journal: &Connection, after: i64, last: i64) -> rusqlite::Result<Vec<Output>> {
    let mut page = journal.prepare_cached(
        "SELECT part.submission, p.name, part.sink, part.name, part.bytes, part.hash,
                u.submission IS NOT NULL, body.staged, r.submission IS NOT NULL
         FROM part JOIN submission s ON s.id = part.submission JOIN pipeline p ON p.id = s.pipeline
         LEFT JOIN unsettled u ON u.submission = s.id
         LEFT JOIN body ON body.submission = part.submission AND body.ordinal = part.ordinal
         LEFT JOIN revision r ON r.submission = part.submission AND r.ordinal = part.ordinal
         JOIN shelf ON shelf.name = part.name AND shelf.sink = part.sink
              AND shelf.pipeline = s.pipeline
         WHERE part.submission > ?1 AND part.submission <= ?2 AND coalesce(r.removed, 0) = 0
               AND shelf.submission = part.submission AND shelf.ordinal = part.ordinal
         ORDER BY part.submission, part.ordinal",
    )?;
    let output = |row: &Row<'_>| {
        Ok(Output {
            submission: row.get(0)?,
            pipeline: row.get(1)?,
            sink: row.get(2)?,
            name: row.get(3)?,
            bytes: row.get::<_, i64>(4)?.cast_unsigned(),
            hash: row.get(5)?,
            unsettled: row.get(6)?,
            staged: row.get(7)?,
            replaces: row.get(8)?,
        })
    };
    page.query_map([after, last], output)?.collect()
}

fn knows_id(journal: &Connection, id: u64) -> rusqlite::Result<bool> {
    let mut known = journal.prepare_cached("SELECT 1 FROM submission WHERE id = ?1")?;
    known.exists([id.cast_signed()])
}

fn knows_claimed(journal: &Connection, pipeline: i64, claimed: &str) -> rusqlite::Result<bool> {
    let Some(id) = queue::claimed_id(claimed) else { return Ok(false) };
    let mut known = journal.prepare_cached(
        "SELECT 1 FROM submission WHERE id = ?1 AND pipeline = ?2 AND claimed_name = ?3",
    )?;
    known.exists(params![id.cast_signed(), pipeline, claimed])
}

fn knows_stored(journal: &Connection, pipeline: i64, stored: &str) -> rusqlite::Result<bool> {
    let mut known = journal
        .prepare_cached("SELECT 1 FROM submission WHERE stored_name = ?2 AND pipeline = ?1")?;
    known.exists(params![pipeline, stored])
}

/// Returns whether a sink has an output of this name. One that was removed is not there, but for the
/// moment until its removal is settled.
fn knows_output(
    journal: &Connection,
    pipeline: i64,
    sink: &str,
    name: &str,
) -> rusqlite::Result<bool> {
    let mut known = journal.prepare_cached(
        "SELECT 1 FROM shelf
         LEFT JOIN revision r ON r.submission = shelf.submission AND r.ordinal = shelf.ordinal
         LEFT JOIN unsettled u ON u.submission = shelf.submission
         WHERE shelf.name = ?3 AND shelf.sink = ?2 AND shelf.pipeline = ?1
           AND (coalesce(r.removed, 0) = 0 OR u.submission IS NOT NULL)",
    )?;
    known.exists(params![pipeline, sink, name])
}
