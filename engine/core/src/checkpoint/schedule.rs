//! Schedule: when a checkpoint is due, and where the one under way stands.
//!
//! Decides, does nothing: the ledger tells it what happens and does what it says. One per pipeline.
//!
//! A checkpoint costs in proportion to what changed, so the time between two is at least twenty times
//! what the last one took: 5 % at most. At a clean end one is written if reading again what came since
//! the last would take longer.

use std::time::{Duration, Instant};

use tidemill_operators::shards::SHARDS;
use tidemill_store::checkpoint::{FORMAT, KeptState, Manifest};

use crate::checkpoint::{KeptPart, Place, State};

/// How many times as long as the last checkpoint took the next one waits.
const REST: u32 = 20;

/// What is taken to be the cost of the least checkpoint, some syncs.
const LEAST_COST: Duration = Duration::from_millis(50);

/// What is taken to be the cost of reading one file again, and of a byte of it.
const FILE_COST: Duration = Duration::from_micros(500);
const BYTES_PER_SECOND: u64 = 200 << 20;

/// When the checkpoints of one pipeline are written.
pub struct Schedule {
    states: Vec<State>,
    every: Duration,
    /// What the next checkpoint can build on; if there is nothing, it writes everything.
    base: Option<Manifest>,
    /// The last answered epoch, and that of the last checkpoint.
    answered: u64,
    kept: u64,
    /// Something behind this epoch must be answered before anything is written.
    not_before: u64,
    files_since: u64,
    bytes_since: u64,
    ended: Instant,
    took: Duration,
    under_way: Option<UnderWay>,
}

/// A checkpoint that is being written.
struct UnderWay {
    full: bool,
    step: Step,
    began: Instant,
    operators: Option<Vec<KeptPart>>,
    tables: Vec<KeptPart>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// The coordinator was asked for a mark.
    Asked,
    /// The mark is out; tables are asked once everything up to `last` is answered.
    Marked { epoch: u64, last: u64 },
    /// Tables were asked; parts come in.
    Writing { epoch: u64 },
    /// Everything is written; the manifest, then the journal.
    Sealing { epoch: u64 },
}

/// What the ledger is to do next.
#[derive(Debug, PartialEq)]
pub enum Next {
    /// Nothing.
    Wait,
    /// Ask the tables for their rows as of this epoch, before they take in a later one.
    AskTables {
        /// The epoch.
        epoch: u64,
        /// Whether all rows are wanted.
        full: bool,
    },
    /// Write this manifest.
    Seal(Box<Manifest>),
    /// Nothing can come of it: say why, and delete what was written.
    GiveUp(String),
}

impl Schedule {
    /// Returns the schedule of a pipeline with these states, which begins with what was restored.
    pub fn new(states: Vec<State>, every: Duration, base: Option<Manifest>) -> Self {
        let kept = base.as_ref().map_or(0, |base| base.epoch);
        Self {
            states,
            every,
            base,
            answered: kept,
            kept,
            not_before: 0,
            files_since: 0,
            bytes_since: 0,
            ended: Instant::now(),
            took: Duration::ZERO,
            under_way: None,
        }
    }

    /// Returns the schedule of a pipeline that took up only a part of a checkpoint. Until everything up
    /// to that one's epoch is read again its states speak of different epochs, and none can be written;
    /// then all of them are.
    pub fn behind(states: Vec<State>, every: Duration, epoch: u64) -> Self {
        Self { answered: epoch, kept: epoch, not_before: epoch, ..Self::new(states, every, None) }
    }

    /// A file was answered, and will be committed or set aside before anything else happens. Returns
    /// what is to be done now: tables are asked right behind that file.
    pub fn answered(&mut self, epoch: u64, bytes: u64) -> Next {
        self.answered = self.answered.max(epoch);
        self.files_since += 1;
        self.bytes_since += bytes;
        self.ask_tables()
    }

    /// Returns whether to ask the coordinator for a mark now, and whether for a full one.
    pub fn due(&mut self, now: Instant) -> Option<bool> {
        let wait = self.every.max(self.took * REST);
        let is_time = !self.every.is_zero() && now.duration_since(self.ended) >= wait;
        (is_time && self.has_news()).then(|| self.begin(now))
    }

    /// Returns whether to ask for a mark at a clean end: whether what is answered and not yet kept,
    /// and what is `running`, would take longer to read again.
    pub fn due_at_end(&mut self, now: Instant, running: impl Iterator<Item = u64>) -> Option<bool> {
        let is_mixed = self.not_before > 0 && self.answered <= self.not_before;
        if self.states.is_empty() || self.under_way.is_some() || is_mixed {
            return None;
        }
        let (files, bytes) = running
            .fold((self.files_since, self.bytes_since), |sum, bytes| (sum.0 + 1, sum.1 + bytes));
        let again = FILE_COST.saturating_mul(u32::try_from(files).unwrap_or(u32::MAX))
            + Duration::from_millis(bytes.saturating_mul(1000) / BYTES_PER_SECOND);
        (files > 0 && again >= self.took.max(LEAST_COST)).then(|| self.begin(now))
    }

    fn has_news(&self) -> bool {
        !self.states.is_empty() && self.under_way.is_none() && self.answered > self.kept
    }

    fn begin(&mut self, now: Instant) -> bool {
        let full = self.base.as_ref().is_none_or(Manifest::is_wasteful);
        let (operators, tables) = (None, Vec::new());
        self.under_way = Some(UnderWay { full, step: Step::Asked, began: now, operators, tables });
        full
    }

    /// The mark is out. `last` is the last epoch up to it that is not answered yet, if there is one.
    /// Epoch 0 says that there is nothing to mark.
    pub fn marked(&mut self, epoch: u64, last: Option<u64>) -> Next {
        let Some(under_way) = &mut self.under_way else { return Next::Wait };
        if epoch == 0 {
            self.under_way = None;
            return Next::Wait;
        }
        under_way.step = Step::Marked { epoch, last: last.unwrap_or(0) };
        self.ask_tables()
    }

    fn ask_tables(&mut self) -> Next {
        let Some(under_way) = &mut self.under_way else { return Next::Wait };
        match under_way.step {
            Step::Marked { epoch, last } if self.answered >= last => {
                under_way.step = Step::Writing { epoch };
                under_way.began = Instant::now();
                self.files_since = 0;
                self.bytes_since = 0;
                let full = under_way.full;
                // Where there is none nobody would answer, and workers may have written long ago.
                if self.tables() == 0 { self.seal() } else { Next::AskTables { epoch, full } }
            }
            _ => Next::Wait,
        }
    }

    /// Every worker has written its operators.
    pub fn operators_kept(&mut self, parts: Vec<KeptPart>) -> Next {
        if let Some(under_way) = &mut self.under_way {
            under_way.operators = Some(parts);
        }
        self.seal()
    }

    /// A table was written.
    pub fn table_kept(&mut self, part: KeptPart) -> Next {
        if let Some(under_way) = &mut self.under_way {
            under_way.tables.push(part);
        }
        self.seal()
    }

    fn tables(&self) -> usize {
        self.states.iter().filter(|state| matches!(state.place, Place::Table(_))).count()
    }

    fn seal(&mut self) -> Next {
        let tables = self.tables();
        let Some(under_way) = &mut self.under_way else { return Next::Wait };
        let (Step::Writing { epoch }, Some(operators)) = (under_way.step, &under_way.operators)
        else {
            return Next::Wait;
        };
        if under_way.tables.len() < tables {
            return Next::Wait;
        }
        let mut parts: Vec<&KeptPart> = operators.iter().chain(&under_way.tables).collect();
        parts.sort_by(|one, two| name_of(one).cmp(&name_of(two)));
        let base = if under_way.full { None } else { self.base.as_ref() };
        match build(&self.states, base, &parts, epoch) {
            Ok(manifest) => {
                under_way.step = Step::Sealing { epoch };
                Next::Seal(Box::new(manifest))
            }
            Err(reason) => Next::GiveUp(reason),
        }
    }

    /// The checkpoint counts. Returns how long it took.
    pub fn sealed(&mut self, manifest: Manifest) {
        self.kept = manifest.epoch;
        self.base = Some(manifest);
    }

    /// How long the checkpoint under way has been taking.
    pub fn taking(&self) -> Duration {
        self.under_way.as_ref().map_or(Duration::ZERO, |under_way| under_way.began.elapsed())
    }

    /// Nothing comes of it. What changed since is not known any more: the next one writes everything.
    pub fn gave_up(&mut self) {
        self.base = None;
    }

    /// Old files are deleted: the next one may begin.
    pub fn swept(&mut self) {
        self.took = self.taking();
        self.ended = Instant::now();
        self.under_way = None;
    }

    /// Returns whether the end must wait for what is under way. A mark that did not come out before
    /// the dataflow ended never will.
    pub fn is_busy(&self) -> bool {
        self.under_way.as_ref().is_some_and(|under_way| under_way.step != Step::Asked)
    }
}

fn name_of(part: &KeptPart) -> Option<&str> {
    part.outcome.as_ref().ok()?.as_ref().map(|pack| pack.name.as_str())
}

/// Returns the manifest of what was written, on top of what it builds on.
fn build(
    states: &[State],
    base: Option<&Manifest>,
    parts: &[&KeptPart],
    epoch: u64,
) -> Result<Manifest, String> {
    let mut manifest = base.cloned().unwrap_or_else(|| Manifest {
        format: FORMAT,
        pipeline: String::new(),
        epoch,
        generation: 0,
        binary_version: String::new(),
        packs: Vec::new(),
        states: Vec::new(),
    });
    manifest.epoch = epoch;
    // In the order of the plan, and only those that it has.
    manifest.states = states
        .iter()
        .map(|state| {
            let old = manifest.state(&state.id).filter(|old| old.fingerprint == state.fingerprint);
            old.cloned().unwrap_or_else(|| KeptState {
                id: state.id.clone(),
                fingerprint: state.fingerprint.clone(),
                shards: Vec::new(),
            })
        })
        .collect();
    for part in parts {
        match &part.outcome {
            Err(reason) => return Err(format!("{}: {reason}", part.state)),
            Ok(None) => {}
            Ok(Some(pack)) => manifest.put(&part.state, pack),
        }
    }
    if base.is_none() {
        // Every shard of every state was asked for, and each lives in one place.
        for state in states {
            let of_state = parts.iter().filter(|part| part.state == state.id);
            let packs = of_state.filter_map(|part| part.outcome.as_ref().ok()?.as_ref());
            let shards: usize = packs.map(|pack| pack.shards.len()).sum();
            if shards != SHARDS {
                return Err(format!("{}: {shards} of {SHARDS} shards were written", state.id));
            }
        }
    }
    manifest.forget_unused();
    Ok(manifest)
}

#[cfg(test)]
mod tests {
    use tidemill_store::checkpoint::{Pack, WrittenShard};

    use super::*;

    const EVERY: Duration = Duration::from_secs(60);

    fn state(id: &str, place: Place) -> State {
        State { id: id.into(), fingerprint: "f".into(), place }
    }

    fn states() -> Vec<State> {
        vec![state("aggregate/a", Place::Operator(0)), state("table/t", Place::Table(0))]
    }

    fn schedule() -> Schedule {
        Schedule::new(states(), EVERY, None)
    }

    fn part(state: &str, name: &str, shards: std::ops::Range<u16>) -> KeptPart {
        let shard = |shard: u16| WrittenShard { shard: shard as u8, rows: 1, bytes: 20 };
        let shards = shards.map(shard).collect();
        let pack = Pack { name: name.into(), bytes: 9, hash: [1; 32], shards };
        KeptPart { state: state.into(), outcome: Ok(Some(pack)) }
    }

    fn later(seconds: u64) -> Instant {
        Instant::now() + Duration::from_secs(seconds)
    }

    /// Brings a schedule with news to the manifest of a full checkpoint at `epoch`.
    #[track_caller]
    fn seal(schedule: &mut Schedule, epoch: u64) -> Manifest {
        assert_eq!(schedule.due(later(100)), Some(true));
        let asked = Next::AskTables { epoch, full: true };
        assert_eq!(schedule.marked(epoch, None), asked);
        let workers = vec![part("aggregate/a", "w0", 0..100), part("aggregate/a", "w1", 100..256)];
        assert_eq!(schedule.operators_kept(workers), Next::Wait);
        match schedule.table_kept(part("table/t", "t0", 0..256)) {
            Next::Seal(manifest) => *manifest,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_checkpoint_is_due_when_there_is_news_and_time_has_passed() {
        let mut schedule = schedule();
        assert_eq!(schedule.due(later(100)), None, "no news");
        schedule.answered(1, 10);
        assert_eq!(schedule.due(later(1)), None, "too early");
        assert_eq!(schedule.due(later(61)), Some(true));
        assert_eq!(schedule.due(later(100)), None, "one at a time");
        let mut never = Schedule::new(states(), Duration::ZERO, None);
        never.answered(1, 10);
        assert_eq!(never.due(later(100_000)), None);
        let mut stateless = Schedule::new(Vec::new(), EVERY, None);
        stateless.answered(1, 10);
        assert_eq!(stateless.due(later(100)), None);
        assert_eq!(stateless.due_at_end(later(0), [u64::MAX].into_iter()), None);
    }

    #[test]
    fn a_long_checkpoint_makes_the_next_one_wait() {
        let mut schedule = schedule();
        schedule.took = Duration::from_secs(30);
        schedule.answered(1, 10);
        assert_eq!(schedule.due(later(599)), None);
        assert_eq!(schedule.due(later(601)), Some(true));
    }

    #[test]
    fn tables_are_asked_right_behind_the_last_file_of_the_mark() {
        let mut schedule = schedule();
        schedule.answered(1, 10);
        assert_eq!(schedule.due(later(100)), Some(true));
        assert_eq!(schedule.marked(4, Some(3)), Next::Wait);
        assert_eq!(schedule.answered(2, 10), Next::Wait);
        assert_eq!(schedule.answered(3, 10), Next::AskTables { epoch: 4, full: true });
        assert_eq!(schedule.answered(5, 10), Next::Wait);
    }

    #[test]
    fn without_tables_whatever_comes_last_completes_a_checkpoint() {
        let schedule = || {
            let mut schedule =
                Schedule::new(vec![state("aggregate/a", Place::Operator(0))], EVERY, None);
            schedule.answered(1, 10);
            assert_eq!(schedule.due(later(100)), Some(true));
            schedule
        };
        let parts = || vec![part("aggregate/a", "w0", 0..256)];
        let is_sealed = |next: Next| matches!(next, Next::Seal(_));
        let mut workers_last = schedule();
        assert_eq!(workers_last.marked(2, Some(2)), Next::Wait);
        assert_eq!(workers_last.answered(2, 10), Next::Wait);
        assert!(is_sealed(workers_last.operators_kept(parts())));
        let mut file_last = schedule();
        assert_eq!(file_last.marked(2, Some(2)), Next::Wait);
        assert_eq!(file_last.operators_kept(parts()), Next::Wait);
        assert!(is_sealed(file_last.answered(2, 10)));
    }

    #[test]
    fn what_is_written_becomes_a_manifest_and_the_next_one_builds_on_it() {
        let mut schedule = schedule();
        schedule.answered(1, 10);
        let first = seal(&mut schedule, 1);
        assert_eq!((first.epoch, first.count(), first.packs.len()), (1, 512, 3));
        schedule.sealed(first);
        assert!(schedule.is_busy());
        schedule.swept();
        assert!(!schedule.is_busy());
        schedule.answered(2, 10);
        assert_eq!(schedule.due(later(100)), Some(false), "only what changed");
        assert_eq!(schedule.marked(2, None), Next::AskTables { epoch: 2, full: false });
        assert_eq!(schedule.operators_kept(vec![part("aggregate/a", "w2", 7..8)]), Next::Wait);
        let unchanged = KeptPart { state: "table/t".into(), outcome: Ok(None) };
        let Next::Seal(second) = schedule.table_kept(unchanged) else { panic!() };
        let names: Vec<&str> = second.packs.iter().map(|pack| &*pack.name).collect();
        assert_eq!((names, second.count()), (vec!["t0", "w0", "w1", "w2"], 512));
    }

    #[test]
    fn what_was_refused_is_given_up_and_the_next_one_writes_everything() {
        let mut schedule = schedule();
        schedule.answered(1, 10);
        let first = seal(&mut schedule, 1);
        schedule.sealed(first);
        schedule.swept();
        schedule.answered(2, 10);
        assert_eq!(schedule.due(later(100)), Some(false));
        schedule.marked(2, None);
        let full_disk = KeptPart { state: "aggregate/a".into(), outcome: Err("full".into()) };
        schedule.operators_kept(vec![full_disk]);
        let unchanged = KeptPart { state: "table/t".into(), outcome: Ok(None) };
        assert_eq!(schedule.table_kept(unchanged), Next::GiveUp("aggregate/a: full".into()));
        schedule.gave_up();
        schedule.swept();
        assert_eq!(schedule.due(later(100)), Some(true), "everything");
    }

    #[test]
    fn a_worker_that_is_missing_is_noticed() {
        let mut schedule = schedule();
        schedule.answered(1, 10);
        schedule.due(later(100));
        schedule.marked(1, None);
        schedule.operators_kept(vec![part("aggregate/a", "w0", 0..100)]);
        let next = schedule.table_kept(part("table/t", "t0", 0..256));
        assert_eq!(next, Next::GiveUp("aggregate/a: 100 of 256 shards were written".into()));
    }

    #[test]
    fn the_end_writes_one_if_reading_again_would_take_longer() {
        let files = |count: usize| std::iter::repeat_n(1000, count);
        assert_eq!(schedule().due_at_end(later(0), files(3)), None);
        assert_eq!(schedule().due_at_end(later(0), files(1000)), Some(true));
        assert_eq!(schedule().due_at_end(later(0), [1 << 30].into_iter()), Some(true));
        let mut slow = schedule();
        slow.took = Duration::from_secs(5);
        assert_eq!(slow.due_at_end(later(0), files(1000)), None);
    }

    #[test]
    fn the_end_waits_for_what_was_marked_and_for_nothing_that_never_will_be() {
        let mut schedule = schedule();
        schedule.answered(1, 10);
        schedule.due(later(100));
        assert!(!schedule.is_busy(), "only asked");
        schedule.marked(1, None);
        assert!(schedule.is_busy());
        let mut early = self::schedule();
        early.answered(1, 10);
        early.due(later(100));
        assert_eq!(early.marked(0, None), Next::Wait);
        assert!(!early.is_busy());
    }
}
