//! Breaker: what the start concludes from crashes before it, so that no file crashes for ever.
//!
//! Reads the markers that crashed processes left, writes strikes to the journal, sets aside the one
//! file that was alone when the process failed again, or that a worker blames, and says which others must
//! run alone. Draws no conclusion from a process that was killed: that leaves no marker.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use tidemill_store::crash::{self, Blamed};
use tidemill_store::{AcceptedFile, Home, Journal, Outcome, Verdict};

use crate::board::to_us;
use crate::code::FileCode;
use crate::start::StartError;

/// Draws the conclusions from all markers, and removes them; returns the files that must run alone,
/// and how many were set aside.
///
/// `generation` is the one that begins. May be repeated after a crash at any point.
pub(super) fn draw_conclusions(
    home: &Home,
    journal: &mut Journal,
    generation: u64,
) -> Result<(BTreeSet<u64>, u64), StartError> {
    let markers = crash::found(home.root())?;
    let mut crashes: BTreeMap<u64, String> = BTreeMap::new();
    let mut aside = 0;
    for marker in &markers {
        let crash = &marker.crash;
        let of = crash.generation.unwrap_or(generation.saturating_sub(1));
        tracing::warn!(
            generation = of,
            process = crash.process,
            thread = crash.thread,
            last_read = crash.submission,
            "an earlier life failed by itself: {}",
            crash.what
        );
        if let Some(blamed) = &crash.blamed {
            aside += u64::from(convict(journal, blamed)?);
        } else if crash.may_be_of_data() {
            crashes.entry(of).or_insert_with(|| crash.what.clone());
        }
    }
    for (of, what) in crashes {
        if let Some(id) = journal.strike(of, &what)?
            && let Some(file) = next_in_line(journal, id)?
        {
            let detail = format!(
                "the process failed three times in a row while it was under way, the last time while \
                 it ran alone: {what}"
            );
            set_aside(journal, &file, FileCode::CrashesTheProcess, detail)?;
            aside += 1;
        }
    }
    crash::forget(&markers)?;
    let suspects: BTreeSet<u64> = journal.suspects()?.into_iter().collect();
    if !suspects.is_empty() {
        tracing::warn!(
            files = suspects.len(),
            "these files were under way at two crashes or more; each is run alone, then the others"
        );
    }
    Ok((suspects, aside))
}

/// Returns a file if it is the first of its pipeline that is not finished: one that ran alone is.
fn next_in_line(journal: &Journal, id: u64) -> Result<Option<AcceptedFile>, StartError> {
    for pipeline in journal.pipelines()? {
        if let Some(first) = journal.unfinished(&pipeline)?.into_iter().next()
            && first.id == id
        {
            return Ok(Some(first));
        }
    }
    Ok(None)
}

/// Sets aside a file that a worker blames, or lets it run alone first: files end in their order. One that
/// is finished was read again, and stays what it is. Returns whether it was set aside.
fn convict(journal: &mut Journal, blamed: &Blamed) -> Result<bool, StartError> {
    let unfinished = journal.unfinished(&blamed.pipeline)?;
    let at = unfinished.iter().position(|file| file.epoch == blamed.epoch);
    match at.and_then(|at| unfinished.get(at)) {
        Some(file) if at == Some(0) => {
            set_aside(journal, file, FileCode::TooManyRows, blamed.why.clone())?;
            Ok(true)
        }
        Some(file) => {
            journal.suspect(file.id)?;
            Ok(false)
        }
        None => Ok(false),
    }
}

fn set_aside(
    journal: &mut Journal,
    file: &AcceptedFile,
    code: FileCode,
    detail: String,
) -> Result<(), StartError> {
    let AcceptedFile { id, pipeline, epoch, name, .. } = file;
    let why = match code {
        FileCode::CrashesTheProcess => "it crashes the process",
        _ => &detail,
    };
    tracing::error!(pipeline, file = name, submission = id, "set aside: {why}");
    let now = to_us(SystemTime::now());
    journal.finish(&[Outcome {
        id: *id,
        pipeline: pipeline.clone(),
        epoch: *epoch,
        verdict: Verdict::Quarantined { code: code.word().to_owned(), detail },
        hash: None,
        records: 0,
        rejected: 0,
        answered_at_us: now,
        finished_at_us: now,
    }])?;
    Ok(())
}
