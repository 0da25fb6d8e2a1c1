//! Run: one process of a run, from its settings to its exit code.

use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use tidemill_engine::mesh::{Heartbeat, MeshConfig, parse_hostfile};
use tidemill_engine::plan::Secrets;
use tidemill_engine::report::Phase;
use tidemill_engine::start::{Announce, Ended, StartError};
use tidemill_engine::{Config, Engine, Patience, Plan, Summary, run_member};
use tidemill_server::{Ending, ServeError, ServerConfig, serve};
use tidemill_store::{Deployment, deployments, failpoint, trial};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::deployed::{Effective, effective, tell};
use crate::flags::RunFlags;
use crate::pipeline::{Values, load_deployed, load_text};
use crate::settings::Settings;
use crate::supervisor::{self, Front, Parent, Report};
use crate::{USAGE, complain, progress, say};

/// The exit code when `--once` finished and some file went to quarantine.
const QUARANTINED: u8 = 3;

/// The exit code of a process that was told twice to end.
const INTERRUPTED: i32 = 130;

/// How long process 0 may take to recover before the processes of its parent give it up.
const RECOVERY_MAX: Duration = Duration::from_secs(24 * 3600);

/// How long a process leaves it to process 0 to say why nothing starts.
const FIRST_SPEAKS: Duration = Duration::from_secs(3);

/// The name of the variable that holds the token of a mesh with a host file.
const TOKEN: &str = "TIDEMILL_MESH_TOKEN";

/// `tidemill run`
pub fn run(flags: RunFlags) -> anyhow::Result<u8> {
    let settings = match Settings::gather(&flags.settings, &|name| std::env::var(name).ok()) {
        Ok(settings) => settings,
        Err(error) => {
            complain(&format!("error: {error}"));
            return Ok(USAGE);
        }
    };
    start_log(&settings)?;
    let supervises = settings.processes > 1 && settings.process.is_none();
    let by_hostfile = settings.process.is_some() && !supervisor::is_supervised();
    let is_first = settings.process.unwrap_or(0) == 0;
    // Those of other hosts look at the home only through their files; process 0 speaks for them.
    let deployed = if flags.redeploy || (by_hostfile && !is_first) {
        Ok(Vec::new())
    } else {
        deployments(&settings.home)
    };
    let deployed = match deployed {
        Ok(deployed) => deployed,
        Err(error) => {
            return Ok(did_not_start(StartError::from(error), supervisor::is_supervised()));
        }
    };
    let Some((mut plans, secrets)) = load_all(&flags, &deployed)? else { return Ok(USAGE) };
    if !arm(settings.process.unwrap_or_default(), supervises)? {
        return Ok(USAGE);
    }
    if let Ok(text) = std::env::var(trial::VARIABLE)
        && let Err(error) = trial::arm(&text)
    {
        complain(&format!("error: {error}"));
        return Ok(USAGE);
    }
    if trial::corrects() {
        plans.iter_mut().for_each(Plan::take_corrections);
    }
    if supervises {
        let texts = plans.iter().map(|plan| plan.yaml.clone()).collect();
        // What is wrong with it, process 0 says.
        if let Ok(all) = effective(plans, &deployed, &secrets) {
            tell(&all.notes);
        }
        return all(&settings, flags.once, texts);
    }
    let Effective { plans, added, .. } =
        match with_deployed(plans, &deployed, &secrets, is_first, by_hostfile) {
            Ok(all) => all,
            Err(code) => return Ok(code),
        };
    let parent = supervisor::parent()?;
    let handed = match &parent {
        Some(parent) if is_first => {
            Some(parent.take_listener().context("take the service's socket from the parent")?)
        }
        _ => None,
    };
    if let Some(parent) = &parent {
        supervisor::end_with(parent)?;
    }
    let config = Config {
        home: settings.home.clone(),
        mesh: mesh(&settings, &plans)?,
        plans,
        workers: settings.workers,
        reserve: settings.reserve,
        patience: Patience { quiet: settings.quiet, scan: settings.scan },
        once: flags.once,
        forget_missing: flags.forget_missing,
        announce: parent.clone().map(|parent| -> Announce {
            Arc::new(move |number| parent.tell(Report::Generation(number)))
        }),
        checkpoint_every: settings.checkpoint_every,
        tap: None,
        forget_deployed: flags.redeploy,
        added,
        no_deploys: by_hostfile.then_some(
            "its processes are on several hosts; stop all of them and start them with the new file",
        ),
        secrets,
    };
    if !is_first {
        return member(config, parent.is_some());
    }
    first(config, &settings, parent, handed)
}

/// Starts all processes of a run, and again when one is lost.
fn all(settings: &Settings, once: bool, pipelines: Vec<String>) -> anyhow::Result<u8> {
    let front = Front::bind(settings.grpc).with_context(|| cannot_serve(settings))?;
    let listening = listening(settings, front.address());
    tidemill_store::crash::watch_children(&settings.home);
    let run = supervisor::Run {
        processes: settings.processes,
        pipelines,
        arguments: std::env::args_os().skip(1).collect(),
        front,
        silence: settings.silence,
        // Nobody is left to read it.
        on_ready: Box::new(move || drop(say(listening.as_bytes()))),
        once,
    };
    Ok(supervisor::supervise(run)?)
}

fn cannot_serve(settings: &Settings) -> String {
    format!("serve gRPC on {} (another address: --grpc ADDR)", settings.grpc)
}

fn listening(settings: &Settings, address: std::net::SocketAddr) -> String {
    let (home, workers) = (settings.home.display(), settings.workers);
    format!("listening on http://{address}, home {home}, {workers} workers\n")
}

/// Arms the failpoints that the environment asks for; returns whether they are right. The parent of
/// several processes only checks them: its children arm them.
fn arm(process: usize, supervises: bool) -> anyhow::Result<bool> {
    if let Ok(text) = std::env::var(failpoint::VARIABLE) {
        let armed =
            if supervises { failpoint::check(&text) } else { failpoint::arm(&text, process) };
        if let Err(error) = armed {
            complain(&format!("error: {error}"));
            return Ok(false);
        }
    }
    if let Some(path) = std::env::var_os(failpoint::TRACE_VARIABLE).filter(|_| !supervises) {
        let path = std::path::PathBuf::from(path);
        failpoint::trace(&path, process)
            .with_context(|| format!("write a trace of failpoints at {}", path.display()))?;
    }
    Ok(true)
}

/// Returns what runs: what was given, or what was deployed into this home since. If that cannot be
/// said, says why and returns the exit code.
fn with_deployed(
    given: Vec<Plan>,
    deployed: &[Deployment],
    secrets: &Secrets,
    is_first: bool,
    by_hostfile: bool,
) -> Result<Effective, u8> {
    let supervised = supervisor::is_supervised();
    let refused = if supervised { supervisor::REFUSED } else { 1 };
    let names: Vec<String> = given.iter().map(|plan| plan.yaml.clone()).collect();
    let all = effective(given, deployed, secrets).map_err(|wrong| {
        if !is_first {
            // Process 0 says the same, and its parent then ends all. Who ends before it has spoken
            // takes its words away.
            std::thread::sleep(FIRST_SPEAKS);
        }
        wrong.iter().for_each(|text| complain(&format!("error: {text}")));
        refused
    })?;
    if by_hostfile && all.plans.iter().map(|plan| &plan.yaml).ne(&names) {
        complain(
            "error: other pipeline files were deployed into this home than those given here; \
             processes on several hosts need the same files: give all of them the deployed ones, or \
             start all of them with --redeploy",
        );
        return Err(refused);
    }
    if supervised && is_first {
        // A generation that follows a deployment: nobody is surprised.
        all.notes.iter().for_each(|note| tracing::debug!("{note}"));
    } else if is_first {
        tell(&all.notes);
    }
    Ok(all)
}

/// Plans every pipeline file, or shows all mistakes of all of them. A process that was started by
/// another one gets the texts that its parent has read. With them come the keys that they may hash with.
fn load_all(
    flags: &RunFlags,
    deployed: &[Deployment],
) -> anyhow::Result<Option<(Vec<Plan>, Secrets)>> {
    let Some(values) = Values::gather(&flags.params)? else { return Ok(None) };
    let mut plans: Vec<Plan> = Vec::with_capacity(flags.pipelines.len());
    let mut right = true;
    let is_given = !supervisor::is_supervised();
    for (index, path) in flags.pipelines.iter().enumerate() {
        let loaded = match supervisor::pipeline_text(index)? {
            Some(yaml) => load_text(path, yaml, &values),
            None => load_deployed(path, &values, deployed)?,
        };
        match loaded {
            Ok(plan) => {
                if plans.iter().any(|other| other.name == plan.name) {
                    let (file, name) = (path.display(), &plan.name);
                    complain(&format!(
                        "{file}: there is another pipeline called {name}; rename one"
                    ));
                    right = false;
                }
                plans.push(plan);
            }
            Err(mistakes) => {
                mistakes.complain();
                right = false;
            }
        }
    }
    // While a file could not be read, its parameters are not known.
    right = right && (!is_given || values.all_known());
    Ok(right.then(|| (plans, values.secrets())))
}

/// Returns how this process meets the others, if there are any.
fn mesh(settings: &Settings, plans: &[Plan]) -> anyhow::Result<Option<MeshConfig>> {
    let Some(index) = settings.process.filter(|_| settings.processes > 1) else { return Ok(None) };
    let mut deadline = settings.meet;
    let (endpoints, token) = match supervisor::supervised_mesh(settings.processes)? {
        Some(prepared) => {
            if index > 0 {
                // Process 0 recovers first, which may take long; the parent knows whether it lives.
                deadline = RECOVERY_MAX;
            }
            (prepared.endpoints, prepared.token)
        }
        None => by_hostfile(settings)?,
    };
    let mut all = Vec::new();
    for plan in plans {
        all.extend_from_slice(plan.hash.as_bytes());
        all.push(b'\n');
    }
    Ok(Some(MeshConfig {
        index,
        endpoints,
        workers: settings.workers,
        token,
        plan_hash: tidemill_engine::plan::combined_hash(&all),
        binary_version: env!("CARGO_PKG_VERSION").to_owned(),
        generation: None,
        deadline,
        heartbeat: Heartbeat::noticing(settings.silence),
    }))
}

fn by_hostfile(
    settings: &Settings,
) -> anyhow::Result<(Vec<tidemill_engine::mesh::Endpoint>, Vec<u8>)> {
    let path = settings.hostfile.as_deref().context(
        "several processes need a host file (-h FILE: one host:port a line), or leave out -p to \
         start them all here",
    )?;
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("read the host file {}", path.display()))?;
    let mut endpoints =
        parse_hostfile(&text).with_context(|| format!("host file {}", path.display()))?;
    anyhow::ensure!(
        endpoints.len() >= settings.processes,
        "host file {}: {} hosts for {} processes",
        path.display(),
        endpoints.len(),
        settings.processes
    );
    endpoints.truncate(settings.processes);
    let token = std::env::var(TOKEN).with_context(|| {
        format!("set {TOKEN} to the same secret (16 characters or more) for every process")
    })?;
    Ok((endpoints, token.into_bytes()))
}

/// Runs a process other than the first: workers only.
fn member(config: Config, supervised: bool) -> anyhow::Result<u8> {
    // Process 0 decides when to end; a signal to all of them must not end the workers first.
    let runtime = runtime()?;
    let mut signals = Signals::listen(&runtime)?;
    runtime.spawn(async move {
        signals.next().await;
        signals.next().await;
        std::process::exit(INTERRUPTED);
    });
    match run_member(config) {
        Ok(()) => Ok(0),
        Err(error) => Ok(did_not_start(error, supervised)),
    }
}

/// Runs process 0: the engine, and its server; one life after the other, as pipelines are deployed.
fn first(
    mut config: Config,
    settings: &Settings,
    parent: Option<Parent>,
    handed: Option<TcpListener>,
) -> anyhow::Result<u8> {
    let mut front = match handed {
        Some(listener) => Front::of(listener)?,
        None => Front::bind(settings.grpc).with_context(|| cannot_serve(settings))?,
    };
    let once = config.once;
    let started = Instant::now();
    let runtime = runtime()?;
    let stopping = Arc::new(Stopping::default());
    let mut all = Summary::default();
    for life in 1u64.. {
        let running = match tidemill_engine::start(config.clone()) {
            Ok(running) => running,
            Err(error) => return Ok(did_not_start(error, parent.is_some())),
        };
        if life == 1 {
            // Before anybody is told that this process listens: from then on it can be asked to stop.
            end_on_signals(&runtime, Arc::clone(&stopping))?;
        }
        let server = Served::start(&runtime, running.engine(), &front, settings)?;
        front.step_back();
        stopping.follow(running.engine());
        match &parent {
            // It says where once, for all generations.
            Some(parent) => report(running.engine(), parent.clone()),
            None if life == 1 => say(listening(settings, front.address()).as_bytes())?,
            None => {}
        }
        let bar = if once { progress::start(running.engine()) } else { None };
        let Ended { summary, next } = running.wait();
        if let Some(bar) = bar {
            bar.end();
        }
        all.add(summary);
        let next = next.filter(|_| !stopping.is_asked());
        server.end(&runtime, if next.is_some() { Ending::HandsOver } else { Ending::Stops })?;
        let Some(next) = next else { break };
        failpoint::reach("deploy-ended").context("hand over to the next plan")?;
        if parent.is_some() {
            return Ok(supervisor::AGAIN);
        }
        front.stand_in(format!("{next}; try again"));
        next.change(&mut config);
    }
    conclude(all, started)?;
    if once && all.quarantined > 0 {
        return Ok(QUARANTINED);
    }
    Ok(0)
}

/// The gRPC server of one life.
struct Served {
    closing: watch::Sender<Option<Ending>>,
    task: JoinHandle<Result<(), ServeError>>,
}

impl Served {
    fn start(
        runtime: &Runtime,
        engine: &Engine,
        front: &Front,
        settings: &Settings,
    ) -> anyhow::Result<Self> {
        let (closing, mut closed) = watch::channel(None);
        let _inside = runtime.enter();
        let listener = tokio::net::TcpListener::from_std(front.listener().try_clone()?)?;
        let mut config = ServerConfig::new(front.address());
        config.reflection = settings.reflection;
        config.limits.disk_free_bytes_min = reserve_bytes(&settings.home, settings);
        let shutdown = async move {
            // The sender is dropped only with this process.
            let ending = closed.wait_for(Option::is_some).await;
            ending.ok().and_then(|ending| *ending).unwrap_or(Ending::Stops)
        };
        let task = runtime.spawn(serve(engine.clone(), listener, config, shutdown));
        Ok(Self { closing, task })
    }

    fn end(self, runtime: &Runtime, ending: Ending) -> anyhow::Result<()> {
        self.closing.send_replace(Some(ending));
        runtime.block_on(self.task)?.context("serve gRPC")
    }
}

/// Who is to be stopped, and whether that was asked for.
#[derive(Default)]
struct Stopping {
    asked: AtomicBool,
    engine: Mutex<Option<Engine>>,
}

impl Stopping {
    /// Names the engine of this life; one that comes too late is stopped at once.
    fn follow(&self, engine: &Engine) {
        let mut current = self.engine.lock().unwrap_or_else(PoisonError::into_inner);
        *current = Some(engine.clone());
        if self.is_asked() {
            engine.stop();
        }
    }

    fn ask(&self) {
        let current = self.engine.lock().unwrap_or_else(PoisonError::into_inner);
        self.asked.store(true, Ordering::SeqCst);
        if let Some(engine) = &*current {
            engine.stop();
        }
    }

    fn is_asked(&self) -> bool {
        self.asked.load(Ordering::SeqCst)
    }
}

/// Returns how many bytes of the disk stay free when an upload is taken.
fn reserve_bytes(home: &std::path::Path, settings: &Settings) -> u64 {
    // A disk that cannot be asked is found by whoever writes.
    tidemill_store::space(home).map_or(0, |(_, all)| settings.reserve.of(all))
}

/// Tells the parent that this process serves, and of the first file that is finished or set aside.
fn report(engine: &Engine, parent: Parent) {
    let told = [AtomicBool::new(false), AtomicBool::new(false)];
    let teller = parent.clone();
    engine.observe(Arc::new(move |file| {
        let reports = match file.phase {
            Phase::Committed => &[Report::Progress][..],
            Phase::Quarantined => &[Report::Progress, Report::Quarantined],
            _ => &[],
        };
        for (report, told) in reports.iter().zip(&told) {
            if !told.swap(true, Ordering::Relaxed) {
                teller.tell(*report);
            }
        }
    }));
    parent.tell(Report::Ready);
}

/// Says what was done.
fn conclude(summary: Summary, started: Instant) -> anyhow::Result<()> {
    let Summary { committed, quarantined, left, records, rejected } = summary;
    let seconds = started.elapsed().as_secs_f64();
    let mut line = format!(
        "committed {committed} files, {records} records ({rejected} rejected) in {seconds:.2} s"
    );
    if supervisor::follows() {
        // What was done before is in the lines of those that ended, or was lost with one.
        line += " since the processes last started";
    }
    if quarantined > 0 {
        line += &format!("; {quarantined} files in quarantine/ with their reasons");
    }
    if left > 0 {
        line +=
            &format!("; {left} files accepted and not finished: the next start goes on with them");
    }
    say(format!("{line}\n").as_bytes())
}

fn did_not_start(error: StartError, supervised: bool) -> u8 {
    let code = error.exit_code();
    if supervised && error.is_lasting() && code == 1 {
        complain(&format!("error: {:#}", anyhow::Error::from(error)));
        return supervisor::REFUSED;
    }
    complain(&format!("error: {:#}", anyhow::Error::from(error)));
    u8::try_from(code).unwrap_or(1)
}

fn runtime() -> anyhow::Result<Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("tidemill:grpc")
        .enable_all()
        .build()?)
}

/// SIGINT and SIGTERM.
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

impl Signals {
    /// From the return on, a signal no longer ends the process by itself.
    fn listen(runtime: &Runtime) -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        let _inside = runtime.enter();
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// The first signal drains: what has begun is finished. The second one ends at once.
fn end_on_signals(runtime: &Runtime, stopping: Arc<Stopping>) -> std::io::Result<()> {
    let mut signals = Signals::listen(runtime)?;
    runtime.spawn(async move {
        signals.next().await;
        tracing::info!("stopping: no more files are taken; again to end at once");
        stopping.ask();
        signals.next().await;
        std::process::exit(INTERRUPTED);
    });
    Ok(())
}

fn start_log(settings: &Settings) -> anyhow::Result<()> {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_new(&settings.log)
        .with_context(|| format!("the log filter {:?}", settings.log))?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if settings.log_json {
        log.json().init();
    } else {
        let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
        log.with_target(false).with_ansi(colours).init();
    }
    Ok(())
}
