//! Power: the power goes away at some moment of a recorded life, again and again, and comes back.
//!
//! A life is recorded once; from its record the disk is built as the cut may have left it, for many
//! moments and ways ([`super::crash`]), and the real binary is started on each. Some of these lives
//! are cut as well. What must be true in the end: every input once, every output byte for byte, and
//! whatever somebody outside had heard before the cut is still so.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use tidemill_client::{Client, Filter, Phase, Submission};

use super::crash::{Disk, Survival};
use super::place::{Case, Place, Promised, Subject};
use super::record::{self, Entry, What};
use super::{Dice, Fault, Kind};
use crate::process::{PATIENCE, Process};
use crate::tree;

/// How often one chain of lives is cut, at most.
const CUTS_MAX: usize = 3;

/// How much survives, in turns: most cuts lose something.
const TURNS: [Survival; 8] = [
    Survival::Nothing,
    Survival::ByChance,
    Survival::Bytes,
    Survival::UpToAMoment,
    Survival::Names,
    Survival::ByChance,
    Survival::Everything,
    Survival::Nothing,
];

/// How much more often the power is cut before a sync of everything than before another sync.
const SYNC_ALL_WEIGHT: usize = 5;

/// Which syncs of the log in a first life are those of accepts and commits.
const LOG_SYNCS: std::ops::RangeInclusive<u64> = 4..=12;

/// Of the calls that only make an empty home, one in so many is cut at.
const EMPTY_HOME_EVERY: usize = 6;

/// What came before the cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Before {
    /// One life over dropped files, to its end.
    Dropped,
    /// A life that was killed, and another one behind it while the power stayed on.
    Killed,
    /// A life in which a sync failed and lost what it should have synced, and another one behind it.
    Unsynced,
    /// A life in which a sync failed and lost what it should have synced, and that was killed before
    /// it heard of it; and another one behind it, to which everything seems to be there.
    Unheard,
    /// A server to which a client sent files, and who was told what became of them.
    Served,
}

impl Before {
    /// All of them.
    pub const ALL: [Before; 5] =
        [Before::Dropped, Before::Killed, Before::Unsynced, Before::Unheard, Before::Served];
}

/// What is tried.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What may come before the cut.
    pub before: Vec<Before>,
    /// How many lives are recorded of each.
    pub lives: usize,
    /// How often the power is cut in each.
    pub cuts: usize,
    /// Where the dice begin.
    pub seed: u64,
    /// Whether to end at the first thing that is wrong.
    pub until_wrong: bool,
}

/// What a campaign has seen.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Cuts, by what came before and by what survived.
    pub cuts: BTreeMap<(Before, Survival), usize>,
    /// Cuts in a life that itself repaired what a cut had left.
    pub again: usize,
    /// Cuts after which the disk was another one than if nothing had been lost.
    pub losses: usize,
    /// What was wrong.
    pub wrong: Vec<String>,
}

impl Report {
    /// Returns how often the power was cut.
    pub fn total(&self) -> usize {
        self.cuts.values().sum::<usize>() + self.again
    }

    /// Adds what another campaign has seen.
    pub fn add(&mut self, other: Report) {
        for (key, count) in other.cuts {
            *self.cuts.entry(key).or_default() += count;
        }
        self.again += other.again;
        self.losses += other.losses;
        self.wrong.extend(other.wrong);
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (total, again, wrong) = (self.total(), self.again, self.wrong.len());
        writeln!(
            out,
            "{total} power cuts, {again} of them during recovery, {} that lost something; {wrong} wrong",
            self.losses
        )?;
        for ((before, survival), count) in &self.cuts {
            writeln!(out, "  {before:?}, {survival:?}: {count}")?;
        }
        self.wrong.iter().try_for_each(|wrong| writeln!(out, "WRONG: {wrong}"))
    }
}

/// A recorded life, or two with the power on in between.
struct History {
    begin: Disk,
    entries: Vec<Entry>,
    /// The inputs that lay there from the beginning.
    dropped: BTreeSet<String>,
}

/// Records lives of a case and cuts the power in each of them.
pub fn campaign(case: &Case, subject: &Subject, plan: &Plan) -> Report {
    let mut report = Report::default();
    let mut dice = Dice::new(plan.seed);
    for life in 0..plan.lives {
        for &before in &plan.before {
            let history = match record_life(case, subject, before, life, &mut dice) {
                Ok(history) => history,
                Err(wrong) => {
                    report
                        .wrong
                        .push(format!("{}, {before:?}, before any cut: {wrong}", case.name));
                    continue;
                }
            };
            // From anywhere: else the same part of every life would be lost in the same way.
            let first = dice.below(TURNS.len());
            let mut survivals = TURNS.into_iter().cycle().skip(first);
            for moment in history.moments(plan.cuts, &mut dice) {
                let Some(survival) = survivals.next() else { break };
                let wrong =
                    history.judge(case, subject, (moment, survival), &mut dice, &mut report);
                *report.cuts.entry((before, survival)).or_default() += 1;
                if let Some(wrong) = wrong {
                    report.wrong.push(format!("{}, {before:?}, {wrong}", case.name));
                    if plan.until_wrong {
                        return report;
                    }
                }
            }
        }
    }
    report
}

/// Lets each of the first syncs of the journal's log fail unheard, and cuts the power behind each moment
/// at which the next life has emptied that log, of which nothing survives.
pub fn emptied_logs(case: &Case, subject: &Subject) -> Report {
    let mut report = Report::default();
    let mut dice = Dice::new(0);
    for at in LOG_SYNCS {
        let history = match record_dropped(case, subject, Some(unsynced(Kind::SyncKill, at))) {
            Ok(history) => history,
            Err(wrong) => {
                report.wrong.push(format!("sync {at}, before any cut: {wrong}"));
                continue;
            }
        };
        let is_emptied =
            |entry: &Entry| entry.what == What::Resize(0) && entry.path.ends_with("journal.db-wal");
        let all = history.entries.iter().enumerate().filter(|(_, entry)| is_emptied(entry));
        for moment in all.map(|(at, _)| at + 1) {
            let survival = Survival::Nothing;
            let wrong = history.judge(case, subject, (moment, survival), &mut dice, &mut report);
            *report.cuts.entry((Before::Unheard, survival)).or_default() += 1;
            report.wrong.extend(wrong.map(|wrong| format!("sync {at}, {wrong}")));
        }
    }
    report
}

/// A sync of the journal's log that fails.
fn unsynced(kind: Kind, at: u64) -> Fault {
    Fault { only: "journal.db-wal", ..Fault::new(kind, at) }
}

fn record_life(
    case: &Case,
    subject: &Subject,
    before: Before,
    life: usize,
    dice: &mut Dice,
) -> Result<History, String> {
    if before == Before::Served {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::empty(case, subject, folder.path());
        let begin = place.disk();
        serve(&place)?;
        return Ok(History {
            begin,
            entries: record::read(&place.log()),
            dropped: BTreeSet::new(),
        });
    }
    // Behind the syncs that make the journal: those of the generation, of accepts and of commits.
    let mut sync = || 5 + (dice.below(4) + life) as u64 % 4;
    let fault = match before {
        Before::Unsynced => Some(unsynced(Kind::Sync, sync())),
        Before::Unheard => Some(unsynced(Kind::SyncKill, sync())),
        Before::Killed => Some(Fault::new(Kind::Kill, 120 + dice.below(150) as u64)),
        Before::Dropped | Before::Served => None,
    };
    record_dropped(case, subject, fault)
}

/// Records a life over dropped files, behind one in which a call failed if there is a fault.
fn record_dropped(case: &Case, subject: &Subject, fault: Option<Fault>) -> Result<History, String> {
    let folder = tempfile::tempdir().unwrap();
    let place = Place::new(case, subject, folder.path());
    let mut begin = place.disk();
    for name in case.inputs.keys() {
        // Whoever dropped them did not sync them.
        begin.unsync(&format!("{}/unprocessed/{name}", case.pipeline));
    }
    if let Some(fault) = fault {
        place.live(Some(fault));
    }
    place.finish(&Promised::all(case))?;
    let dropped = case.inputs.keys().cloned().collect();
    Ok(History { begin, entries: record::read(&place.log()), dropped })
}

/// Sends all inputs to a server, one after the other, and marks in its record what it answers.
fn serve(place: &Place<'_>) -> Result<(), String> {
    let mut process = Process::start(&mut place.command(None));
    let runtime = runtime();
    let client = connect(&mut process, &runtime)?;
    for (name, bytes) in &place.case.inputs {
        let told = |error| format!("send {name}: {error}");
        let sent =
            runtime.block_on(client.submit_bytes(name, bytes.clone(), None)).map_err(told)?;
        record::mark(&place.log(), &format!("accepted {} {name}", sent.id));
        let done = runtime.block_on(client.wait(sent.id, PATIENCE)).map_err(told)?;
        record::mark(&place.log(), &committed(&done));
    }
    process.terminate();
    let ended = process.ended();
    if ended.code == Some(0) { Ok(()) } else { Err(format!("the server ended badly: {ended}")) }
}

fn committed(submission: &Submission) -> String {
    let Submission { id, name, phase, .. } = submission;
    format!("{phase} {id} {name} {}", finished_us(submission))
}

fn finished_us(submission: &Submission) -> u128 {
    let since = |at: SystemTime| at.duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
    submission.finished_at.map_or(0, since)
}

fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(1).enable_all().build().unwrap()
}

fn connect(process: &mut Process, runtime: &tokio::runtime::Runtime) -> Result<Client, String> {
    let line = process.line(|line| line.starts_with("listening on "));
    let line = line.ok_or("the server does not come up")?;
    let address = line["listening on ".len()..].split(',').next().unwrap_or_default();
    runtime.block_on(Client::connect(address.trim())).map_err(|error| error.to_string())
}

struct Outcome {
    verdict: Result<(), String>,
    again: usize,
    lost: bool,
}

impl History {
    /// Returns moments at which the disk had just changed, or somebody had heard something.
    fn moments(&self, count: usize, dice: &mut Dice) -> Vec<usize> {
        moments(&self.entries, count, dice)
    }

    /// Cuts the power, counts what was lost, and returns where it was cut and what is wrong then.
    fn judge(
        &self,
        case: &Case,
        subject: &Subject,
        (moment, survival): (usize, Survival),
        dice: &mut Dice,
        report: &mut Report,
    ) -> Option<String> {
        let outcome = self.cut(case, subject, moment, survival, dice);
        report.again += outcome.again;
        report.losses += usize::from(outcome.lost);
        let wrong = outcome.verdict.err()?;
        let last = &self.entries[moment - 1];
        let path = last.path.rsplit("/home/").next().unwrap_or_default();
        let what = match &last.what {
            What::Write { bytes, .. } => format!("a write of {} bytes", bytes.len()),
            other => format!("{other:?}"),
        };
        let calls = self.entries.len();
        Some(format!("cut at {moment} of {calls}, behind {what} of {path}, {survival:?}: {wrong}"))
    }

    fn cut(
        &self,
        case: &Case,
        subject: &Subject,
        moment: usize,
        survival: Survival,
        dice: &mut Dice,
    ) -> Outcome {
        let mut disk = self.begin.clone();
        let mut shown = Shown::default();
        for entry in &self.entries[..moment] {
            disk.play(entry);
            shown.play(entry, &disk);
        }
        let folder = tempfile::tempdir().unwrap();
        let place = Place::around(case, subject, folder.path());
        place.cut_from(&disk, survival, dice);
        let lost = tree::read(&place.home()) != disk.all();
        let heard: Vec<String> = self.entries[..moment].iter().filter_map(heard).collect();
        let mut promised = Promised { names: self.dropped.clone(), may_be_set_aside: false };
        for heard in &heard {
            if let Some(name) = heard.strip_prefix("accepted ") {
                promised.names.extend(name.split(' ').nth(1).map(str::to_owned));
            }
        }
        let mut again = 0;
        let verdict =
            shown.check(&place).and_then(|()| live_on(place, &promised, dice, &mut again, &heard));
        Outcome { verdict, again, lost }
    }
}

/// Returns what somebody could know behind a call: what a client was told; that a file is decided,
/// because an output of it is there, or because it is in `processed/`.
fn heard(entry: &Entry) -> Option<String> {
    match &entry.what {
        What::Mark(heard) => Some(heard.clone()),
        What::Rename(target) => {
            let name = target.rsplit('/').next()?;
            let is_shown = target.contains("/out/") && entry.path.contains("/stage/");
            (is_shown || target.contains("/processed/"))
                .then(|| format!("committed - {name} {}", entry.when_us))
        }
        _ => None,
    }
}

fn moments(entries: &[Entry], count: usize, dice: &mut Dice) -> Vec<usize> {
    let begins = entries.iter().position(|entry| match &entry.what {
        What::Rename(target) => target.contains("/underprocess/"),
        _ => false,
    });
    let begins = begins.unwrap_or(0);
    let counts = |(at, entry): &(usize, &Entry)| {
        let matters = entry.what.changes() || matches!(entry.what, What::Mark(_));
        matters && (*at >= begins || at % EMPTY_HOME_EVERY == 0)
    };
    let all: Vec<usize> = entries.iter().enumerate().filter(counts).map(|(at, _)| at + 1).collect();
    if all.len() <= count {
        return all;
    }
    // Every other one right before a sync: never is more at stake, most of all if it is one of everything.
    let weight = |at: usize| {
        let next = entries[at..].iter().find(|entry| entry.what.changes());
        match next.map(|next| &next.what) {
            Some(What::SyncAll) => SYNC_ALL_WEIGHT,
            Some(What::Sync) => 1,
            _ => 0,
        }
    };
    let before_syncs: Vec<usize> =
        all.iter().flat_map(|&at| std::iter::repeat_n(at, weight(at))).collect();
    let half = (count / 2).min(before_syncs.len());
    let (some, others) = (pick(&before_syncs, half, dice), pick(&all, count - half, dice));
    let mut turns = others.into_iter();
    let mut chosen: Vec<usize> =
        some.into_iter().flat_map(|one| [Some(one), turns.next()]).flatten().collect();
    chosen.extend(turns);
    chosen
}

/// Returns `count` of all, one out of each stretch, so that no part is left out by chance.
fn pick(all: &[usize], count: usize, dice: &mut Dice) -> Vec<usize> {
    let stretch = |n: usize| (n * all.len() / count, (n + 1) * all.len() / count);
    (0..count).map(|n| all[stretch(n).0 + dice.below(stretch(n).1 - stretch(n).0)]).collect()
}

/// Lives on after a cut, which may be followed by more of them, and says what is wrong in the end.
fn live_on(
    place: Place<'_>,
    promised: &Promised,
    dice: &mut Dice,
    again: &mut usize,
    heard: &[String],
) -> Result<(), String> {
    let begin = place.disk();
    place.finish(promised)?;
    if *again + 1 < CUTS_MAX && dice.coin() {
        let entries = record::read(&place.log());
        let count = entries.len().max(1);
        if let Some(&moment) = moments(&entries, count, dice).get(dice.below(count)) {
            let mut disk = begin;
            entries[..moment].iter().for_each(|entry| disk.play(entry));
            let survival = Survival::ALL[dice.below(Survival::ALL.len())];
            let folder = tempfile::tempdir().unwrap();
            let next = Place::around(place.case, place.subject, folder.path());
            next.cut_from(&disk, survival, dice);
            *again += 1;
            return live_on(next, promised, dice, again, heard)
                .map_err(|wrong| format!("cut again at {moment}, {survival:?}: {wrong}"));
        }
    }
    if heard.is_empty() { Ok(()) } else { still_true(&place, heard) }
}

/// Asks a server whether what somebody had heard is still so.
fn still_true(place: &Place<'_>, heard: &[String]) -> Result<(), String> {
    let mut process = Process::start(&mut place.command(None));
    let runtime = runtime();
    let client = connect(&mut process, &runtime)?;
    let listed = runtime.block_on(client.list(&Filter::default()));
    let listed = listed.map_err(|error| error.to_string())?.submissions;
    process.kill();
    process.ended();
    for heard in heard {
        if !listed.iter().any(|one| is_so(heard, one)) {
            let now: Vec<String> = listed.iter().map(committed).collect();
            return Err(format!("somebody had heard {heard:?}; now it is {now:?}"));
        }
    }
    let unfinished = listed.iter().find(|one| one.phase != Phase::Committed);
    unfinished.map_or(Ok(()), |one| Err(format!("{} is {}", one.name, one.phase)))
}

/// Returns whether what was heard was said of this submission and is still true.
///
/// A commit that was forgotten would be made again, and so later than somebody had heard of it.
fn is_so(heard: &str, one: &Submission) -> bool {
    if heard == format!("accepted {} {}", one.id, one.name) {
        return true;
    }
    let words: Vec<&str> = heard.split(' ').collect();
    let [phase, id, name, then] = words[..] else { return false };
    let is_it = id == "-" || id == one.id.to_string();
    let then = then.parse::<u128>().unwrap_or_default();
    is_it && name == one.name && phase == one.phase.word() && finished_us(one) <= then
}

/// What was ever to be seen in `out/`, whole.
#[derive(Default)]
struct Shown {
    versions: BTreeMap<String, BTreeSet<Vec<u8>>>,
    /// Written from the journal: whole for certain only once everything is synced.
    from_journal: BTreeSet<String>,
}

impl Shown {
    fn play(&mut self, entry: &Entry, disk: &Disk) {
        match &entry.what {
            What::Rename(target) => {
                let Some((_, below)) = target.split_once("/out/") else { return };
                if let Some(bytes) = disk.at(target) {
                    self.versions.entry(below.to_owned()).or_default().insert(bytes.to_vec());
                }
                if entry.path.contains("/stage/inline-") {
                    self.from_journal.insert(below.to_owned());
                }
            }
            What::SyncAll => self.from_journal.clear(),
            _ => {}
        }
    }

    /// Says whether something is in `out/` that never was there like this.
    fn check(&self, place: &Place<'_>) -> Result<(), String> {
        for (path, bytes) in tree::read(&place.below("out")) {
            let name = Path::new(&path).file_name().and_then(|name| name.to_str());
            if name.is_some_and(|name| name.starts_with('.')) || self.from_journal.contains(&path) {
                continue;
            }
            if !self.versions.get(&path).is_some_and(|versions| versions.contains(&bytes)) {
                let len = bytes.len();
                return Err(format!("{path} is in out/ with {len} bytes that it never had"));
            }
        }
        Ok(())
    }
}
