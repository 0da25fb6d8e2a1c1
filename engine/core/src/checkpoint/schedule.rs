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
            files_since: 0,
            bytes_since: 0,
            ended: Instant::now(),
            took: Duration::ZERO,
            under_way: None,
        }
    }

    /// A file was answered, and will be committed or set aside before anything else happens. Returns
    /// what the tables are to be asked now, right behind that file.
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
        if self.states.is_empty() || self.under_way.is_some() {
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
                Next::AskTables { epoch, full: under_way.full }
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

    fn seal(&mut self) -> Next {
        let tables = self.states.iter().filter(|state| matches!(state.place, Place::Table(_)));
        let tables = tables.count();
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
