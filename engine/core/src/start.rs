//! Start: brings a home and its pipelines to life, and to a clean end.
//!
//! In order: lock the home, open the journal, repair what a crash left, meet the other processes,
//! build the dataflows, take up what was not finished, then let files in. At the end the same way
//! back: no more files, dataflows end, everything said is committed, published and settled.

mod breaker;
pub(crate) mod earlier;
mod error;
mod exit;
mod lines;
mod next;
mod peers;
pub(crate) mod readable;
mod workers;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use tidemill_store::{
    Folders, Generation, Home, HomeError, Journal, crash, failpoint, recover, spool, sweep_spool,
};
use timely::WorkerConfig;
use timely::communication::allocator::AllocatorBuilder;
use timely::execute::execute_from;
use timely::scheduling::activate::SyncActivator;

use self::workers::Workers;
use crate::answer::Heard;
use crate::board::Board;
use crate::checkpoint::find::{Base, find};
use crate::checkpoint::keeper::Keeper;
use crate::checkpoint::reuse::Partial;
use crate::control::Control as Holds;
use crate::engine::Engine;
use crate::engine::tables::Tables;
use crate::fault::{self, FaultKind};
use crate::ingest::backlog::Backlog;
use crate::ingest::coordinator::{Command, Loads};
use crate::intake::{Held, Intake, Numbers, Patience, Patterns};
use crate::ledger::{Event, HandOver, Keeping, Ledger};
use crate::mesh::{self, Control, MeshConfig};
use crate::plan::{Plan, Secrets};
use crate::publish::{Job, Publisher};
use crate::receipt;
use crate::render::{Fittings, render};
use crate::sink::parts::Surroundings;
use crate::sink::staging::Staging;
use crate::space::{Reserve, Space};
use crate::start::lines::{intake_lines, ledger_lines, publisher_lines};
use crate::stats::Stats;
use crate::testing::tap::Tap;
use crate::turns::Turns;
use crate::worker;

pub use error::StartError;
pub use next::Next;

/// Hears the number of a generation that begins.
pub type Announce = Arc<dyn Fn(u64) + Send + Sync>;

/// What an engine runs.
#[derive(Clone)]
pub struct Config {
    /// Where everything is kept.
    pub home: PathBuf,
    /// The pipelines; their names differ.
    pub plans: Vec<Plan>,
    /// Workers per process.
    pub workers: usize,
    /// The processes of the run; `None` for one process alone.
    pub mesh: Option<MeshConfig>,
    /// When a dropped file counts as complete.
    pub patience: Patience,
    /// How much of the disk stays free: below it no file is taken in.
    pub reserve: Reserve,
    /// Whether to take what is there, commit it and end.
    pub once: bool,
    /// Whether to start although inputs are gone from `processed/` whose rows are in tables: the
    /// tables then lose these rows.
    pub forget_missing: bool,
    /// Told the number of the generation as soon as the journal has it; in process 0 only.
    pub announce: Option<Announce>,
    /// The least time between two checkpoints of a pipeline; zero for none but at a clean end.
    pub checkpoint_every: Duration,
    /// Who sees everything that leaves a node; for tests of a pipeline's author only.
    pub tap: Option<Tap>,
    /// Whether to forget what was deployed: `plans` are what counts from now on.
    pub forget_deployed: bool,
    /// The pipelines of `plans` that stand in no file of the start: they were deployed, and can be
    /// undeployed.
    pub added: BTreeSet<String>,
    /// Why no other pipeline file can take over while this engine runs; `None` if one can.
    pub no_deploys: Option<&'static str>,
    /// What the expressions of a pipeline file that is deployed may hash with.
    pub secrets: Secrets,
}

/// What an engine did in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Files committed.
    pub committed: u64,
    /// Files set aside.
    pub quarantined: u64,
    /// Files accepted and not finished: the next start goes on with them.
    pub left: u64,
    /// Records read from the committed files.
    pub records: u64,
    /// Records of them that were rejected.
    pub rejected: u64,
}

impl Summary {
    /// Adds what a later life did. What is left is what that one left.
    pub fn add(&mut self, later: Summary) {
        self.committed += later.committed;
        self.quarantined += later.quarantined;
        self.left = later.left;
        self.records += later.records;
        self.rejected += later.rejected;
    }
}

/// How the life of an engine ended.
#[derive(Debug)]
pub struct Ended {
    /// What it did.
    pub summary: Summary,
    /// What is different in the next one; `None` if there is none.
    pub next: Option<Next>,
}

/// A started engine in process 0.
pub struct Running {
    engine: Engine,
    ending: JoinHandle<Summary>,
}

impl Running {
    /// Returns the handle for the outside.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Waits for the end: of `once`, or after [`Engine::stop`] or [`Engine::deploy`].
    pub fn wait(self) -> Ended {
        // A panic anywhere has ended the process already.
        let summary = self.ending.join().unwrap_or_default();
        Ended { summary, next: self.engine.take_next() }
    }
}

/// Starts process 0: the one that owns the journal.
pub fn start(config: Config) -> Result<Running, StartError> {
    let space = Space::new(&config.home, config.reserve);
    let home = Arc::new(space.insist("opening the home", || Home::open(&config.home))?);
    let made = || config.plans.iter().map(|plan| home.pipeline(&plan.name)).collect();
    let folders: Vec<Folders> =
        space.insist::<Vec<Folders>, HomeError>("making the folders", made)?;
    let mut journal = space.insist("opening the journal", || Journal::open(&home))?;
    let processes = config.mesh.as_ref().map_or(1, |mesh| mesh.endpoints.len());
    if config.forget_deployed {
        space.insist("writing the journal", || journal.forget_deployments())?;
    }
    let patterns: Vec<Patterns> =
        config.plans.iter().map(|plan| Patterns::new(&plan.sources)).collect();
    let adopt = || earlier::adopt(&config.plans, &patterns, &mut journal);
    space.insist("writing the journal", adopt)?;
    let facts = Generation {
        binary_version: env!("CARGO_PKG_VERSION").to_owned(),
        processes: processes as u64,
        workers: config.workers as u64,
        plans: config.plans.iter().map(|plan| (plan.name.clone(), plan.hash.clone())).collect(),
    };
    let generation = space.insist("writing the journal", || journal.begin_generation(&facts))?;
    if let Some(announce) = &config.announce {
        announce(generation);
    }
    let draw = || breaker::draw_conclusions(&home, &mut journal, generation);
    let (suspects, aside) = space.insist("drawing conclusions from crashes", draw)?;
    crash::arm(home.root(), generation, 0);
    for plan in &config.plans {
        journal.retain(&plan.name, lines::retaining(plan));
        journal.keep_frames(&plan.name, lines::frames(plan));
    }
    let books: Vec<_> =
        config.plans.iter().map(|plan| (plan.name.clone(), receipt::book(plan))).collect();
    space.insist("writing the journal", || journal.keep_books(&books))?;
    let names: Vec<&str> = config.plans.iter().map(|plan| &*plan.name).collect();
    let repair = || recover(&home, &mut journal, &names, generation);
    let recovered = space.insist("repairing what a crash left", repair)?;
    tracing::info!(
        generation,
        published = recovered.finished,
        unfinished = recovered.unfinished.len(),
        put_back = recovered.released.len(),
        uploads_kept = recovered.respooled.len(),
        "opened {}",
        config.home.display()
    );
    earlier::remember_contents(&config.plans, &mut journal)?;
    let board = Arc::new(board(&config.plans, &journal)?);
    board.set_aside_before(aside);
    let found = config.plans.iter().map(|plan| find(&home, &mut journal, plan, generation));
    let found: Vec<Base> = found.collect::<Result<_, _>>()?;
    let backlogs: Vec<Backlog> = config.plans.iter().map(|_| Backlog::default()).collect();
    let finished: Vec<u64> =
        config.plans.iter().map(|plan| finished(&journal, plan)).collect::<Result<_, _>>()?;
    let (publisher_lines, places) =
        publisher_lines(&config.plans, &folders, &found, generation, &backlogs, &finished)?;
    let tables = Arc::new(Tables::new(places));
    let (earlier, skips) = earlier::earlier(&config, &mut journal, &folders, &patterns, &found)?;
    // Nobody uploads yet: what lies there was left by a life that was killed. What broke off may be
    // gone on with for a while.
    sweep_spool(&home, SystemTime::now() - spool::KEPT_FOR)?;
    let stats = Stats::default();

    let meeting = meet(config.mesh.clone(), Some(generation), config.workers)?;
    failpoint::reach("recover-processes-met")?;
    let (events, heard) = channel::<Event>();
    let (jobs, published) = channel::<Job>();
    let (staging, _staging_thread) = Staging::start(fault::disk, space.clone())?;
    let keeper = Keeper::start()?;
    let (commands, received): (Vec<_>, Vec<_>) =
        config.plans.iter().map(|_| channel::<Command>()).unzip();
    let built = Building {
        plans: config.plans.clone(),
        home: Arc::clone(&home),
        generation,
        workers: config.workers,
        staging,
        space: space.clone(),
        keeper: keeper.clone(),
        stats: stats.clone(),
        events: Some(events.clone()),
        commands: received,
        backlogs: backlogs.clone(),
        tap: config.tap.clone(),
    };
    let (workers, wakes) = built.execute(meeting.builders, meeting.guard)?;

    let stop = Arc::new(AtomicBool::new(false));
    let held = Held::default();
    let numbers = Numbers::from(journal.next_submission());
    let control = Holds::new(&config.plans, journal.holds()?);
    for held in control.conditions() {
        tracing::warn!("{}; {}", held.text, held.hint);
    }
    let reader = journal.reader()?;
    let watched = journal.reader()?;
    let next = Arc::new(Mutex::new(None));
    let engine = Engine::new(crate::engine::Parts {
        generation,
        spool: home.spool(),
        plans: config.plans.clone(),
        folders: folders.clone(),
        patterns: patterns.clone(),
        numbers: numbers.clone(),
        board: Arc::clone(&board),
        stats: stats.clone(),
        events: events.clone(),
        journal: Mutex::new(reader),
        stop: Arc::clone(&stop),
        taking: Mutex::default(),
        space: space.clone(),
        tables: Arc::clone(&tables),
        control: control.clone(),
        held: held.clone(),
        next: Arc::clone(&next),
        root: home.root().to_path_buf(),
        forget_missing: config.forget_missing,
        added: config.added.clone(),
        no_deploys: config.no_deploys.or(config.once.then_some("this run ends by itself (--once)")),
        deploying: Mutex::default(),
        secrets: config.secrets.clone(),
    });
    let others = meeting.control.as_ref().map(Control::sender);
    if let Some(control) = meeting.control {
        peers::listen(control, stats, space.clone())?;
    }
    space.watch()?;

    let publisher = Publisher::new(
        home,
        publisher_lines,
        Arc::clone(&board),
        events.clone(),
        space.clone(),
        keeper.clone(),
        tables,
    );
    let orders: Vec<_> = found.iter().map(|found| found.order.clone()).collect();
    let mut ledger = Ledger::new(
        journal,
        ledger_lines(&config, &folders, commands, wakes, found, &backlogs),
        Arc::clone(&board),
        jobs.clone(),
        Keeping { keeper, events: events.clone(), generation },
        space.clone(),
        Turns::new(suspects),
        control.clone(),
        HandOver { next, stop: Arc::clone(&stop), plans: config.plans.clone() },
    );
    for (pipeline, order) in orders.into_iter().enumerate() {
        order.into_iter().for_each(|order| ledger.restore(pipeline, order));
    }
    skips.into_iter().for_each(|pipeline| ledger.skips(pipeline));
    for earlier::Earlier { pipeline, file, replay, again_at_us } in earlier {
        match again_at_us {
            Some(at_us) => ledger.postponed_before(pipeline, file, at_us),
            None => ledger.resume(pipeline, file, replay)?,
        }
    }
    failpoint::reach("recover-files-resumed")?;
    let ledger_thread = spawn("tidemill:ledger", move || {
        ledger.run(&heard).unwrap_or_else(|error| fault::journal("write the journal", &error));
    })?;
    let publisher_thread = spawn("tidemill:publish", move || {
        let outcome = publisher.run(&published);
        outcome.unwrap_or_else(|error| fault::end(FaultKind::Disk, "make outputs visible", &error));
    })?;
    let lines = intake_lines(&config.plans, folders, patterns);
    let intake = Intake::new(
        lines,
        numbers,
        Arc::clone(&board),
        events.clone(),
        config.patience,
        Arc::clone(&stop),
        space,
        watched,
        held,
        control,
    );
    let once = config.once;
    let taking = spawn("tidemill:intake", move || {
        let outcome = if once { intake.run_once() } else { intake.run() };
        outcome.unwrap_or_else(|error| fault::end(FaultKind::Disk, "take files in", &error));
    })?;

    let ending = spawn("tidemill:ending", move || {
        wait_for(taking);
        if once {
            // What was taken is accepted, what was accepted is finished, and tables of earlier
            // lives are whole again, unless somebody asks to stop.
            flush(&events);
            while !board.is_idle() && !stop.load(Ordering::Relaxed) {
                board.wait_for_change(Duration::from_millis(100));
            }
        }
        stop.store(true, Ordering::Relaxed);
        let _ = events.send(Event::Stop);
        workers.wait();
        if let Some(others) = others {
            peers::say_through(&others);
        }
        flush(&events);
        pass(failpoint::reach("end-begin"));
        let _ = jobs.send(Job::End);
        wait_for(publisher_thread);
        pass(failpoint::reach("end-published"));
        let _ = events.send(Event::End);
        wait_for(ledger_thread);
        pass(failpoint::reach("end-done"));
        board.summary()
    })?;
    Ok(Running { engine, ending })
}

/// Runs one of the other processes: workers, and nothing else. Blocks until the dataflows end.
pub fn run_member(config: Config) -> Result<(), StartError> {
    // Process 0 makes the home before it meets anybody.
    let meeting = meet(config.mesh.clone(), None, config.workers)?;
    let home = Arc::new(Home::attach(&config.home)?);
    let index = config.mesh.as_ref().map_or(0, |mesh| mesh.index);
    crash::arm(home.root(), meeting.generation, index);
    let stats = Stats::default();
    let space = Space::new(home.root(), config.reserve);
    let (staging, _staging_thread) = Staging::start(fault::disk, space.clone())?;
    let built = Building {
        plans: config.plans.clone(),
        home,
        generation: meeting.generation,
        workers: config.workers,
        staging,
        space: space.clone(),
        keeper: Keeper::start()?,
        stats: stats.clone(),
        events: None,
        commands: Vec::new(),
        backlogs: config.plans.iter().map(|_| Backlog::default()).collect(),
        tap: None,
    };
    let (workers, _wakes) = built.execute(meeting.builders, meeting.guard)?;
    let ended = Arc::new(AtomicBool::new(false));
    let first = meeting.control.as_ref().map(Control::sender);
    // The thread's result is the control connection, so that it lasts until we have said goodbye.
    let _telling = match meeting.control {
        Some(control) => {
            let ended = Arc::clone(&ended);
            Some(spawn("tidemill:tell", move || {
                peers::tell(&control, &stats, &space, &ended);
                control
            })?)
        }
        None => None,
    };
    workers.wait();
    if let Some(first) = first {
        peers::say_through(&first);
    }
    ended.store(true, Ordering::Relaxed);
    Ok(())
}

/// The way to the other processes, or the lack of any.
struct Meeting {
    generation: u64,
    builders: Builders,
    guard: Box<dyn std::any::Any + Send>,
    control: Option<Control>,
}

/// How the workers of this process talk to each other and to the rest.
enum Builders {
    Alone(usize),
    Mesh(Vec<AllocatorBuilder>),
}

fn meet(
    mesh: Option<MeshConfig>,
    generation: Option<u64>,
    workers: usize,
) -> Result<Meeting, StartError> {
    let Some(mut config) = mesh else {
        return Ok(Meeting {
            generation: generation.unwrap_or_default(),
            builders: Builders::Alone(workers),
            guard: Box::new(()),
            control: None,
        });
    };
    config.generation = generation;
    let mesh = mesh::connect(&config)?;
    let generation = mesh.generation;
    let (builders, guard, control) = mesh.into_builders(workers)?;
    Ok(Meeting { generation, builders: Builders::Mesh(builders), guard, control: Some(control) })
}

/// What the workers of this process are built with.
struct Building {
    plans: Vec<Plan>,
    home: Arc<Home>,
    generation: u64,
    workers: usize,
    staging: Staging,
    space: Space,
    keeper: Keeper,
    stats: Stats,
    /// To the ledger; in process 0 only.
    events: Option<Sender<Event>>,
    commands: Vec<Receiver<Command>>,
    backlogs: Vec<Backlog>,
    tap: Option<Tap>,
}

impl Building {
    /// Starts the workers. Returns once the first of them has built its dataflows, with what wakes
    /// its coordinators.
    fn execute(
        self,
        builders: Builders,
        guard: Box<dyn std::any::Any + Send>,
    ) -> Result<(Workers, Vec<SyncActivator>), StartError> {
        let (ready, woken) = channel();
        let is_first = self.events.is_some();
        let Self { plans, home, generation, workers, staging, space, keeper, tap, .. } = self;
        let (stats, events, commands, backlogs) =
            (self.stats, self.events, self.commands, self.backlogs);
        let commands = Mutex::new(commands.into_iter().map(Some).collect::<Vec<_>>());
        let ready = Mutex::new(ready);
        let partial = plans
            .iter()
            .map(|plan| Partial::read(&home.checkpoints(&plan.name), generation))
            .collect::<std::io::Result<Vec<Option<Partial>>>>()?;
        let loads: Vec<Loads> = plans.iter().map(|_| Loads::new(workers)).collect();
        let run = move |worker: &mut timely::worker::Worker| {
            let first = worker.index() == 0;
            stats.follow(worker);
            let mut rendered = Vec::with_capacity(plans.len());
            for (pipeline, plan) in plans.iter().enumerate() {
                let commands = if first {
                    let mut all = commands.lock().unwrap_or_else(PoisonError::into_inner);
                    all.get_mut(pipeline).and_then(Option::take)
                } else {
                    None
                };
                let events = events.clone();
                let behind = backlogs[pipeline].clone();
                let ledger = Box::new(move |heard| {
                    if let Some(events) = &events {
                        if let Heard::Answered(answer) = &heard {
                            behind.answered(answer.epoch, answer.weight());
                        }
                        // The ledger outlives the dataflows.
                        let _ = events.send(Event::Heard { pipeline, heard });
                    }
                });
                let around = Surroundings {
                    home: Arc::clone(&home),
                    generation,
                    pipeline: plan.name.clone(),
                    staging: staging.clone(),
                    on_failure: fault::disk,
                    space: space.clone(),
                };
                let fittings = Fittings {
                    commands,
                    around,
                    ledger,
                    stats: stats.clone(),
                    loads: loads[pipeline].clone(),
                    backlog: backlogs[pipeline].clone(),
                    keeper: keeper.clone(),
                    tap: tap.clone(),
                    partial: partial[pipeline].clone(),
                };
                rendered.push(render(worker, plan, fittings));
            }
            if first {
                let wakes = rendered.iter().map(|one| one.wake.clone()).collect::<Vec<_>>();
                let _ = ready.lock().unwrap_or_else(PoisonError::into_inner).send(wakes);
            }
            worker::run(worker, rendered);
        };
        let settings = WorkerConfig::default();
        let guards = match builders {
            Builders::Alone(1) => timely::execute(
                timely::Config {
                    communication: timely::CommunicationConfig::Thread,
                    worker: settings,
                },
                run,
            ),
            Builders::Alone(workers) => timely::execute(
                timely::Config {
                    communication: timely::CommunicationConfig::Process(workers),
                    worker: settings,
                },
                run,
            ),
            Builders::Mesh(builders) => execute_from(builders, guard, settings, run),
        }
        .map_err(StartError::Dataflow)?;
        // Only the process of worker 0 has somebody to wake.
        let wakes = if is_first { woken.recv().unwrap_or_default() } else { Vec::new() };
        Ok((Workers::new(guards), wakes))
    }
}

/// Returns the epoch up to which every file of a pipeline is finished.
fn finished(journal: &Journal, plan: &Plan) -> Result<u64, StartError> {
    let open = journal.unfinished(&plan.name)?;
    let next = match open.first() {
        Some(file) => file.epoch,
        None => journal.next_epoch(&plan.name)?,
    };
    Ok(next.saturating_sub(1))
}

fn board(plans: &[Plan], journal: &Journal) -> Result<Board, StartError> {
    let reader = journal.reader()?;
    let mut lanes = Vec::with_capacity(plans.len());
    for plan in plans {
        let counts = reader.counts(&plan.name)?;
        let last = journal.last_committed(&plan.name)?;
        lanes.push((plan.name.clone(), counts, last));
    }
    Ok(Board::new(lanes.into_iter()))
}

/// Waits until the ledger has worked off everything it was told so far.
fn flush(ledger: &Sender<Event>) {
    let (flushed, wait) = channel();
    if ledger.send(Event::Flush(flushed)).is_ok() {
        // A ledger that failed has ended the process.
        let _ = wait.recv();
    }
}

fn spawn<R: Send + 'static>(
    name: &str,
    run: impl FnOnce() -> R + Send + 'static,
) -> std::io::Result<JoinHandle<R>> {
    std::thread::Builder::new().name(name.into()).spawn(run)
}

/// Ends the process if a failpoint asks for an error where nothing can fail by itself.
fn pass(reached: std::io::Result<()>) {
    reached.unwrap_or_else(|error| fault::disk("end", &error));
}

fn wait_for(thread: JoinHandle<()>) {
    // A panic anywhere has ended the process already.
    let _ = thread.join();
}
