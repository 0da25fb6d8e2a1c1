//! Board: where every submission stands right now, who wants to hear of it, and how long files took.
//!
//! Derived state in memory: only what is not finished is held here; what is finished is asked of the
//! journal. Written by the threads around the dataflow, never by a worker.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hdrhistogram::Histogram;
use tidemill_store::{AcceptedFile, Correction, Corrections, Counts};

use crate::code::FileCode;
use crate::engine::Observer;
use crate::report::{Condition, Phase, StageLatency, SubmissionReport};
use crate::start::Summary;

/// The stages of a file, in order; the last is the sum of all.
pub const STAGES: [&str; 6] = ["claim", "accept", "read", "answer", "commit", "total"];

/// The longest time a histogram holds, in microseconds (one day).
const LATENCY_US_MAX: u64 = 24 * 3600 * 1_000_000;

/// The times at which a file reached each stage.
#[derive(Clone, Copy, Debug)]
pub struct Milestones {
    /// Its last piece had been read.
    pub read_at: SystemTime,
    /// Its frontier had passed.
    pub answered_at: SystemTime,
}

/// A file that is on its way.
struct Live {
    report: SubmissionReport,
    claimed_at: SystemTime,
}

/// What is known of one pipeline.
struct Lane {
    name: String,
    live: BTreeMap<u64, Live>,
    /// Files of earlier lives that must be read again before the tables are whole.
    rebuilding: usize,
    /// Of earlier lives and of this one: committed, quarantined.
    committed: u64,
    quarantined: u64,
    committed_epoch: u64,
    /// Files that are tried again, though they were tried often enough.
    parked: BTreeSet<u64>,
    /// Whether nothing of it can be committed before a sink is resumed.
    stuck: bool,
    /// Whether its outputs are refused, though that was tried often enough.
    blocked: bool,
    /// What of it cannot be made visible or taken in.
    hidden: BTreeMap<String, Condition>,
    latencies: Vec<Histogram<u64>>,
}

/// The board of all pipelines.
pub struct Board {
    lanes: Mutex<Vec<Lane>>,
    /// Told when a file is finished.
    finishing: Condvar,
    observers: Mutex<Vec<Observer>>,
    /// Finished in this life.
    done: Mutex<Summary>,
}

/// Returns the time of a journal entry.
pub fn from_us(us: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_micros(us.max(0) as u64)
}

/// Returns a time as the journal keeps it.
pub fn to_us(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as i64)
}

/// Returns what is known of a file that was just accepted.
pub fn report_of(file: &AcceptedFile) -> SubmissionReport {
    let duplicate = file.duplicate_of;
    SubmissionReport {
        id: file.id,
        pipeline: file.pipeline.clone(),
        epoch: file.epoch,
        name: file.name.clone(),
        source: file.source.clone(),
        bytes: file.identity.bytes,
        hash: file.hash.as_ref().map(|hash| hex(hash)),
        phase: if duplicate.is_some() { Phase::Duplicate } else { Phase::Accepted },
        bytes_read: 0,
        records: 0,
        rejected: 0,
        reason: duplicate
            .map(|of| (FileCode::Duplicate.word().to_owned(), format!("duplicate of file {of}"))),
        outputs: Vec::new(),
        seen_at: from_us(file.seen_at_us),
        accepted_at: from_us(file.accepted_at_us),
        finished_at: duplicate.map(|_| from_us(file.accepted_at_us)),
        retry_of: None,
        retried_as: None,
        corrections: match file.correction {
            Some(Correction { of, removes: true }) => {
                Corrections { removes: of, ..Corrections::default() }
            }
            Some(Correction { of, removes: false }) => {
                Corrections { replaces: of, ..Corrections::default() }
            }
            None => Corrections::default(),
        },
        retained_bytes: None,
        waits_for: None,
        attempts: Vec::new(),
    }
}

/// Returns bytes in hex.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Board {
    /// Returns a board of these pipelines, each with what its journal already counts.
    pub fn new(pipelines: impl Iterator<Item = (String, Counts, u64)>) -> Self {
        let lane = |(name, counts, committed_epoch): (String, Counts, u64)| Lane {
            name,
            live: BTreeMap::new(),
            rebuilding: 0,
            committed: counts.committed,
            quarantined: counts.quarantined,
            committed_epoch,
            stuck: false,
            blocked: false,
            hidden: BTreeMap::new(),
            parked: BTreeSet::new(),
            latencies: STAGES.iter().map(|_| histogram()).collect(),
        };
        Self {
            lanes: Mutex::new(pipelines.map(lane).collect()),
            finishing: Condvar::new(),
            observers: Mutex::default(),
            done: Mutex::default(),
        }
    }

    /// Registers a function that hears of each change.
    pub fn observe(&self, observer: Observer) {
        self.observers().push(observer);
    }

    /// A file was accepted.
    pub fn accepted(&self, pipeline: usize, file: &AcceptedFile) {
        let report = report_of(file);
        let live = Live { report: report.clone(), claimed_at: from_us(file.claimed_at_us) };
        self.lanes()[pipeline].live.insert(file.id, live);
        self.tell(&report);
    }

    /// A file is accepted that tries another one again.
    pub fn retries(&self, pipeline: usize, file: &AcceptedFile, retry_of: u64) {
        let report = SubmissionReport { retry_of: Some(retry_of), ..report_of(file) };
        let live = Live { report: report.clone(), claimed_at: from_us(file.claimed_at_us) };
        self.lanes()[pipeline].live.insert(file.id, live);
        self.tell(&report);
    }

    /// So many files were set aside by the start itself.
    pub fn set_aside_before(&self, files: u64) {
        self.done.lock().unwrap_or_else(PoisonError::into_inner).quarantined += files;
    }

    /// A file repeats an earlier one: it is final, and was never on its way.
    pub fn duplicate(&self, file: &AcceptedFile) {
        self.tell(&report_of(file));
    }

    /// A file of an earlier life is to be read again, to rebuild tables.
    pub fn rebuilds(&self, pipeline: usize) {
        self.lanes()[pipeline].rebuilding += 1;
    }

    /// The rows of a file of an earlier life are back in their tables.
    pub fn rebuilt(&self, pipeline: usize) {
        let lane = &mut self.lanes()[pipeline];
        lane.rebuilding = lane.rebuilding.saturating_sub(1);
        self.finishing.notify_all();
    }

    /// Returns whether the tables of a pipeline are not whole yet: what they hold must not be shown.
    pub fn is_rebuilding(&self, pipeline: usize) -> bool {
        self.lanes()[pipeline].rebuilding > 0
    }

    /// Returns how many files of earlier lives must be read before the tables of a pipeline are whole.
    pub fn rebuilding(&self, pipeline: usize) -> usize {
        self.lanes()[pipeline].rebuilding
    }

    /// Some of a file was read.
    pub fn progressed(&self, pipeline: usize, id: u64, bytes: u64, records: u64) {
        let begun = {
            let mut lanes = self.lanes();
            let Some(live) = lanes[pipeline].live.get_mut(&id) else { return };
            live.report.bytes_read += bytes;
            live.report.records += records;
            let begun = live.report.phase == Phase::Accepted;
            if begun {
                live.report.phase = Phase::Reading;
            }
            begun.then(|| live.report.clone())
        };
        if let Some(report) = begun {
            self.tell(&report);
        }
    }

    /// Everything about a file has been said.
    pub fn answered(&self, pipeline: usize, id: u64) {
        let report = {
            let mut lanes = self.lanes();
            let Some(live) = lanes[pipeline].live.get_mut(&id) else { return };
            live.report.phase = Phase::Answered;
            live.report.waits_for = None;
            live.report.clone()
        };
        self.tell(&report);
    }

    /// A file is held back from its commit; says why.
    pub fn waits(&self, pipeline: usize, id: u64, why: String) {
        let report = {
            let mut lanes = self.lanes();
            let Some(live) = lanes[pipeline].live.get_mut(&id) else { return };
            live.report.phase = Phase::Answered;
            live.report.waits_for = Some(why);
            live.report.clone()
        };
        self.tell(&report);
    }

    /// A file is not finished this time and will be tried again; `parked`, if it was tried often
    /// enough already.
    pub fn postponed(&self, pipeline: usize, id: u64, parked: bool) {
        let report = {
            let mut lanes = self.lanes();
            let lane = &mut lanes[pipeline];
            let Some(live) = lane.live.get_mut(&id) else { return };
            let report = &mut live.report;
            (report.phase, report.epoch) = (Phase::Accepted, 0);
            (report.bytes_read, report.records, report.rejected) = (0, 0, 0);
            report.waits_for = Some("waiting to retry".to_owned());
            let report = report.clone();
            if parked {
                lane.parked.insert(id);
            }
            report
        };
        self.finishing.notify_all();
        self.tell(&report);
    }

    /// A file that was postponed begins again, in another epoch.
    pub fn begins_again(&self, pipeline: usize, id: u64, epoch: u64) {
        let report = {
            let mut lanes = self.lanes();
            let lane = &mut lanes[pipeline];
            lane.parked.remove(&id);
            let Some(live) = lane.live.get_mut(&id) else { return };
            (live.report.epoch, live.report.waits_for) = (epoch, None);
            live.report.clone()
        };
        self.tell(&report);
    }

    /// Nothing of a pipeline can be committed before a sink is resumed, or something can again.
    pub fn stuck(&self, pipeline: usize, stuck: bool) {
        self.lanes()[pipeline].stuck = stuck;
        self.finishing.notify_all();
    }

    /// The outputs of a committed file cannot be made visible yet; `parked`, if that was tried often
    /// enough already.
    pub fn unpublished(&self, pipeline: usize, id: u64, parked: bool) {
        self.lanes()[pipeline].blocked = parked;
        self.finishing.notify_all();
        self.waits(pipeline, id, "waiting to publish".to_owned());
    }

    /// Something of a pipeline cannot be made visible.
    pub fn hides(&self, pipeline: usize, what: &str, condition: Condition) {
        self.lanes()[pipeline].hidden.insert(what.to_owned(), condition);
    }

    /// It is visible again.
    pub fn shows(&self, pipeline: usize, what: &str) {
        self.lanes()[pipeline].hidden.remove(what);
    }

    /// The outputs of files get visible again.
    pub fn published(&self, pipeline: usize, what: &str) {
        self.lanes()[pipeline].blocked = false;
        self.shows(pipeline, what);
    }

    /// Says which files of a pipeline cannot be taken in, if there are any.
    pub fn claims(&self, pipeline: usize, refused: Option<Condition>) {
        const INPUTS: &str = "unprocessed/";
        match refused {
            Some(condition) => self.hides(pipeline, INPUTS, condition),
            None => self.shows(pipeline, INPUTS),
        }
    }

    /// Returns what cannot be made visible or taken in.
    pub fn conditions(&self) -> Vec<Condition> {
        self.lanes().iter().flat_map(|lane| lane.hidden.values().cloned()).collect()
    }

    /// A file is committed and visible, or set aside: nothing more will happen to it.
    pub fn finished(
        &self,
        pipeline: usize,
        id: u64,
        milestones: Milestones,
        finish: impl FnOnce(&mut SubmissionReport),
    ) {
        let now = SystemTime::now();
        let report = {
            let mut lanes = self.lanes();
            let lane = &mut lanes[pipeline];
            let Some(mut live) = lane.live.remove(&id) else { return };
            live.report.waits_for = None;
            live.report.finished_at = Some(now);
            finish(&mut live.report);
            if live.report.phase == Phase::Committed {
                lane.committed += 1;
                lane.committed_epoch = lane.committed_epoch.max(live.report.epoch);
                let times = [
                    live.report.seen_at,
                    live.claimed_at,
                    live.report.accepted_at,
                    milestones.read_at,
                    milestones.answered_at,
                    now,
                ];
                lane.record(&times);
            } else {
                lane.quarantined += 1;
            }
            live.report
        };
        {
            let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
            if report.phase == Phase::Committed {
                done.committed += 1;
                done.records += report.records;
                done.rejected += report.rejected;
            } else {
                done.quarantined += 1;
            }
        }
        self.finishing.notify_all();
        self.tell(&report);
    }

    /// Waits until a file is finished, or for so long.
    pub fn wait_for_change(&self, at_most: Duration) {
        let lanes = self.lanes();
        // Whoever waits looks for itself what has changed.
        let _ = self.finishing.wait_timeout(lanes, at_most);
    }

    /// Returns what was finished in this life, and what is left.
    pub fn summary(&self) -> Summary {
        let done = *self.done.lock().unwrap_or_else(PoisonError::into_inner);
        Summary { left: self.pending_in_all() as u64, ..done }
    }

    /// Returns how many files are not finished or not rebuilt, those that have not begun included.
    pub fn outstanding(&self) -> usize {
        self.lanes().iter().map(|lane| lane.live.len() + lane.rebuilding).sum()
    }

    /// Returns a file that is not finished.
    pub fn live(&self, id: u64) -> Option<SubmissionReport> {
        let lanes = self.lanes();
        lanes.iter().find_map(|lane| lane.live.get(&id)).map(|live| live.report.clone())
    }

    /// Returns whether nothing is left to do: no file is pending that can be finished by itself, and
    /// all tables are whole.
    pub fn is_idle(&self) -> bool {
        let is_waiting =
            |lane: &Lane| lane.stuck || lane.blocked || lane.live.len() == lane.parked.len();
        let is_idle = |lane: &Lane| is_waiting(lane) && lane.rebuilding == 0;
        self.lanes().iter().all(is_idle)
    }

    /// Returns how many files of a pipeline are accepted and not finished.
    pub fn pending(&self, pipeline: usize) -> usize {
        self.lanes()[pipeline].live.len()
    }

    /// Returns how many files of all pipelines are accepted and not finished.
    pub fn pending_in_all(&self) -> usize {
        self.lanes().iter().map(|lane| lane.live.len()).sum()
    }

    /// Returns accepted (not finished), committed and quarantined files of a pipeline, and the last
    /// committed epoch.
    pub fn counts(&self, pipeline: usize) -> (Counts, u64) {
        let lanes = self.lanes();
        let lane = &lanes[pipeline];
        let counts = Counts {
            accepted: lane.live.len() as u64,
            committed: lane.committed,
            quarantined: lane.quarantined,
        };
        (counts, lane.committed_epoch)
    }

    /// Returns the histograms of all stages of all pipelines.
    pub fn latencies(&self) -> Vec<StageLatency> {
        let of_lane =
            |lane: &Lane| {
                let pipeline = lane.name.clone();
                let stage = move |(stage, histogram): (&&'static str, &Histogram<u64>)| {
                    StageLatency { pipeline: pipeline.clone(), stage, histogram: histogram.clone() }
                };
                STAGES.iter().zip(&lane.latencies).map(stage).collect::<Vec<_>>()
            };
        self.lanes().iter().flat_map(of_lane).collect()
    }

    fn tell(&self, report: &SubmissionReport) {
        let observers: Vec<Observer> = self.observers().clone();
        for observer in observers {
            observer(report);
        }
    }

    fn lanes(&self) -> MutexGuard<'_, Vec<Lane>> {
        // A panic ends the process; until then counters half updated harm nobody.
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn observers(&self) -> MutexGuard<'_, Vec<Observer>> {
        self.observers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lane {
    fn record(&mut self, times: &[SystemTime; 6]) {
        let us = |from: SystemTime, to: SystemTime| {
            // Clocks can step back; a stage then took no time rather than ages.
            let took = to.duration_since(from).unwrap_or_default().as_micros() as u64;
            took.clamp(1, LATENCY_US_MAX)
        };
        for (stage, pair) in times.windows(2).enumerate() {
            self.latencies[stage].saturating_record(us(pair[0], pair[1]));
        }
        self.latencies[STAGES.len() - 1].saturating_record(us(times[0], times[5]));
    }
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_US_MAX, 3).expect("the bounds are in order")
}
