//! Names: which name in `processed/` and `out/` a file gets, so that no two files share a place.
//!
//! Asks the journal, by its indexes, and the folders, because a journal may be younger than they
//! are. A name that was given is never given again.

use std::path::{Path, PathBuf};

use rusqlite::{OptionalExtension, Transaction, params};

use super::write::Trouble;
use crate::name::{self, FORMAT_ENDINGS, REASON_ENDING};

/// The names that files have which the journal may not know, for instance of a journal before.
pub(super) struct Folder {
    inputs: [PathBuf; 2],
    sinks: Vec<PathBuf>,
}

impl Folder {
    pub(super) fn look(root: &Path) -> Folder {
        let inputs = [root.join("processed"), root.join("quarantine")];
        // A pipeline whose folders do not exist has no names that are taken.
        let entries = std::fs::read_dir(root.join("out")).into_iter().flatten().flatten();
        let sinks = entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
        Folder { inputs, sinks }
    }

    fn has(&self, stored_name: &str) -> bool {
        let there = |path: PathBuf| std::fs::symlink_metadata(path).is_ok();
        let reason = format!("{stored_name}{REASON_ENDING}");
        let output = name::output_name(stored_name);
        let formats = FORMAT_ENDINGS.map(|ending| format!("{output}{ending}"));
        self.inputs.iter().any(|input| there(input.join(stored_name)) || there(input.join(&reason)))
            || self.sinks.iter().any(|sink| {
                there(sink.join(output)) || formats.iter().any(|format| there(sink.join(format)))
            })
    }
}

/// Returns the first variant of a name that nothing in the pipeline has or comes too near to.
pub(super) fn free_name(
    transaction: &Transaction<'_>,
    pipeline: i64,
    name: &str,
    folder: &Folder,
) -> Result<String, Trouble> {
    let is_free = |candidate: &str| -> Result<bool, Trouble> {
        Ok(!is_taken(transaction, pipeline, candidate)? && !folder.has(candidate))
    };
    let first = name::variant(name, 1);
    if is_free(&first)? {
        return Ok(first);
    }
    // Names are never given back, so the search goes on where it ended the last time.
    let next: Option<i64> = transaction
        .prepare_cached("SELECT next FROM variant WHERE name = ?1 AND pipeline = ?2")?
        .query_row(params![first, pipeline], |row| row.get(0))
        .optional()?;
    let mut n = next.map_or(2, i64::cast_unsigned);
    let free = loop {
        let candidate = name::variant(name, n);
        n += 1;
        if is_free(&candidate)? {
            break candidate;
        }
    };
    transaction
        .prepare_cached(
            "INSERT INTO variant (name, pipeline, next) VALUES (?1, ?2, ?3)
             ON CONFLICT DO UPDATE SET next = excluded.next",
        )?
        .execute(params![first, pipeline, n.cast_signed()])?;
    Ok(free)
}

/// Returns whether the journal knows a file that a name would collide with.
fn is_taken(
    transaction: &Transaction<'_>,
    pipeline: i64,
    stored_name: &str,
) -> Result<bool, Trouble> {
    let stored = name::stored_rivals(stored_name);
    let output = name::output_rivals(name::output_name(stored_name));
    // A fixed number of parameters keeps one prepared statement; the first name fills the rest.
    let pick = |names: &[String], n: usize| names.get(n).unwrap_or(&names[0]).clone();
    let is_stored = transaction
        .prepare_cached(
            "SELECT 1 FROM submission WHERE pipeline = ?1 AND stored_name IN (?2, ?3, ?4) LIMIT 1",
        )?
        .exists(params![pipeline, stored[0], pick(&stored, 1), pick(&stored, 2)])?;
    if is_stored {
        return Ok(true);
    }
    let is_output = transaction
        .prepare_cached(
            "SELECT 1 FROM submission WHERE pipeline = ?1
             AND output_name IN (?2, ?3, ?4, ?5) LIMIT 1",
        )?
        .exists(params![
            pipeline,
            output[0],
            pick(&output, 1),
            pick(&output, 2),
            pick(&output, 3)
        ])?;
    Ok(is_output)
}
