//! Calls: single system calls of a run fail, one place after the other; what follows must be right.
//!
//! A run ends well with the right outputs, or says why it cannot go on and ends with a code that
//! the documents name; then a normal start finishes, byte for byte.

use std::collections::BTreeMap;

use super::place::{Case, Place, Promised, Subject};
use super::record::{self, What};
use super::{Dice, Fault, Kind};
use crate::process::Ended;

/// The exit code of a process that a disk has refused.
const DISK: i32 = 74;

/// The exit code of `--once` when some file could not be read.
const SET_ASIDE: i32 = 3;

/// What a sweep has seen.
#[derive(Clone, Debug, Default)]
pub struct Sweep {
    /// Runs.
    pub runs: usize,
    /// Runs in which a call really failed, by kind and by how they ended.
    pub ended: BTreeMap<(Kind, Option<i32>), usize>,
    /// Runs that ended well although a sync had failed, by what was to be synced.
    pub survived: BTreeMap<String, usize>,
    /// What was wrong.
    pub wrong: Vec<String>,
}

impl Sweep {
    /// Returns how many runs of a kind were hit.
    pub fn hits(&self, kind: Kind) -> usize {
        self.ended.iter().filter(|((of, _), _)| *of == kind).map(|(_, count)| count).sum()
    }
}

impl std::fmt::Display for Sweep {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(out, "{} runs, {} wrong", self.runs, self.wrong.len())?;
        for ((kind, code), count) in &self.ended {
            let code = code.map_or("killed".to_owned(), |code| format!("exit {code}"));
            writeln!(out, "  {:<8} {code:<8} {count:>6}", kind.word())?;
        }
        for (path, count) in &self.survived {
            writeln!(out, "  a failed sync of {path} was survived {count} times")?;
        }
        self.wrong.iter().try_for_each(|wrong| writeln!(out, "WRONG: {wrong}"))
    }
}

/// Returns how many calls of an undisturbed run a kind can hit, at least.
pub fn count(case: &Case, subject: &Subject) -> BTreeMap<Kind, u64> {
    let folder = tempfile::tempdir().unwrap();
    let place = Place::new(case, subject, folder.path());
    place.finish(&Promised::all(case)).unwrap_or_else(|wrong| panic!("undisturbed: {wrong}"));
    let mut counts = BTreeMap::new();
    for entry in record::read(&place.log()) {
        let fills = matches!(
            entry.what,
            What::Create | What::MakeFolder | What::Write { .. } | What::Rename(_) | What::Link(_)
        );
        let writes = matches!(entry.what, What::Write { .. });
        let syncs = matches!(entry.what, What::Sync | What::SyncAll);
        let opens = matches!(entry.what, What::Create | What::Look | What::Resize(_));
        for (kind, hit) in [
            (Kind::Eio, true),
            (Kind::Kill, true),
            (Kind::Enospc, fills),
            (Kind::Short, writes),
            (Kind::Eintr, writes || syncs || opens),
            (Kind::Sync, syncs),
        ] {
            *counts.entry(kind).or_default() += u64::from(hit);
        }
    }
    counts
}

/// Lets each of `faults` happen to a run of its own.
pub fn sweep(case: &Case, subject: &Subject, faults: impl Iterator<Item = Fault>) -> Sweep {
    let mut sweep = Sweep::default();
    for fault in faults {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::new(case, subject, folder.path());
        let ended = place.live(Some(fault));
        let hit = record::read(&place.log()).into_iter().find(|entry| entry.what == What::Failed);
        let verdict = judge(&place, &ended, hit.is_some());
        sweep.runs += 1;
        if let Some(hit) = hit {
            *sweep.ended.entry((fault.kind, ended.code)).or_default() += 1;
            let path = hit.path.rsplit("/home/").next().unwrap_or_default().to_owned();
            if let Err(wrong) = verdict {
                sweep.wrong.push(format!("{}, {fault} ({path}): {wrong}", case.name));
            } else if (fault.kind, ended.code) == (Kind::Sync, Some(0)) {
                *sweep.survived.entry(path).or_default() += 1;
            }
        } else if let Err(wrong) = verdict {
            sweep.wrong.push(format!("{}, {fault} (never reached): {wrong}", case.name));
        }
    }
    sweep
}

/// Lets the sync fail with which a log that has grown long is moved into the database, and says
/// what is wrong afterwards: it must end the process, for what the log lost cannot be known.
pub fn log_faults(subject: &Subject) -> Result<(), String> {
    let case = Case::long_log();
    let folder = tempfile::tempdir().unwrap();
    let place = Place::new(&case, subject, folder.path());
    // The first two make the database; the last is done when it is closed.
    let fault = Fault { only: "journal.db", ..Fault::new(Kind::Sync, 3) };
    let ended = place.live(Some(fault));
    if ended.code != Some(DISK) {
        return Err(format!("the process went on behind a failed sync of its journal: {ended}"));
    }
    place.finish(&Promised::all(&case))
}

/// Lets every sync of the home's folder fail behind the one that opens the home, and says what is wrong
/// afterwards: it must end the process, for the name of the journal's log may be lost with the log.
pub fn folder_faults(subject: &Subject) -> Result<(), String> {
    let case = Case::summed();
    let folder = tempfile::tempdir().unwrap();
    let place = Place::new(&case, subject, folder.path());
    place.finish(&Promised::all(&case))?;
    let ended = place.live(Some(Fault { only: "/home", times: 1000, ..Fault::new(Kind::Sync, 2) }));
    if ended.code != Some(DISK) {
        return Err(format!("the process went on behind failed syncs of its home: {ended}"));
    }
    place.finish(&Promised::all(&case))
}

fn judge(place: &Place<'_>, ended: &Ended, hit: bool) -> Result<(), String> {
    let killed = ended.code.is_none() && hit;
    let mut promised = Promised::all(place.case);
    match ended.code {
        Some(0) => {}
        // The disk could not read an input: that one is set aside, and the others go on.
        Some(SET_ASIDE) if hit && ended.stderr.contains("unreadable") => {
            promised.may_be_set_aside = true;
        }
        Some(DISK) if hit && ended.stderr.lines().any(tells) => {}
        None if killed => {}
        _ => return Err(format!("it ended in a way that no document names: {ended}")),
    }
    if let Some(0 | SET_ASIDE) = ended.code {
        let wrong = |wrong| format!("it ended well, and {wrong}\n{ended}");
        place.check(&promised).map_err(wrong)?;
    }
    let wrong = |wrong| format!("{wrong}\n--- the life before\n{ended}");
    place.finish(&promised).map_err(wrong)
}

/// Returns whether a line says to a person what the disk refused, and where.
fn tells(line: &str) -> bool {
    line.contains("os error") || line.contains("journal") || line.contains("disk I/O")
}

/// Returns `count` faults of a kind, spread evenly over its calls with a random beginning.
pub fn spread(kind: Kind, calls: u64, count: u64, dice: &mut Dice) -> Vec<Fault> {
    let count = count.clamp(1, calls.max(1));
    let first = dice.below((calls / count).max(1) as usize) as u64;
    (0..count).map(|n| Fault::new(kind, 1 + first + n * calls / count)).collect()
}
