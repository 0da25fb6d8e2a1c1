//! Generations: a run of several processes that loses one goes on by itself, and nobody can tell from
//! its outputs. What is left of an earlier generation harms nobody.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tidemill_bench::generate::{Dataset, Shape as Size, files};
use tidemill_tests::process::{send, wait_until};
use tidemill_tests::{Process, Running, Shape, Site, Tree, oracle, tree};

const NODE: &str = env!("CARGO_BIN_EXE_node");
const ACCESS_LOGS: &str = include_str!("../../examples/access-logs/pipeline.yaml");

const TWO: Shape = Shape::new(2, 1);

/// What every end of a generation says.
const OVER: &str = "this generation is over";

/// How soon work goes on after a process was lost.
const HEALED_MAX: Duration = Duration::from_secs(30);

fn inputs(count: usize, records: u64) -> Tree {
    let size = Size { seed: 7, files: count, records };
    files(Dataset::WeblogJsonl, size).map(|file| (file.name, file.content)).collect()
}

fn site(inputs: &Tree) -> Site {
    let mut site = Site::new(NODE, ACCESS_LOGS);
    site.announce(OVER);
    inputs.iter().for_each(|(name, bytes)| site.put(name, bytes));
    site
}

/// Returns a site whose processes give up a silent one soon. On a busy machine they may do so without
/// need, which changes no output either.
fn impatient_site(inputs: &Tree) -> Site {
    let mut site = site(inputs);
    site.always(&["--silence", "2s"]);
    site
}

#[track_caller]
fn check_outputs(site: &Site, inputs: &Tree) {
    if let Some(difference) = tree::difference(&oracle::access_logs(inputs), &site.out()) {
        panic!("out/:\n{difference}");
    }
    let arrived = tree::read(&site.folder("processed"));
    assert_eq!(tree::difference(inputs, &arrived), None, "processed/");
    assert_eq!(site.names("underprocess"), [""; 0]);
}

/// A moment in a run of which some things are known from outside.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// The process has just been started.
    Born,
    /// Some file was claimed.
    Claimed,
    /// So many files are through.
    Through(usize),
    /// Some file was set aside.
    SetAside,
}

impl Moment {
    fn has_come(self, site: &Site) -> bool {
        match self {
            Moment::Born => true,
            Moment::Claimed => !site.names("underprocess").is_empty(),
            Moment::Through(count) => site.names("processed").len() >= count,
            Moment::SetAside => !site.quarantine().is_empty(),
        }
    }
}

/// Sends a signal to one process of a run that takes what is there, at some moments of its life; the
/// run ends well by itself, and its outputs are those of an undisturbed one.
#[track_caller]
fn check_once(index: usize, signal: Signal, moments: &[Moment]) {
    let inputs = inputs(16, 1_500);
    let site = if signal == Signal::STOP { impatient_site(&inputs) } else { site(&inputs) };
    check_struck(&site, index, signal, moments, 0);
    check_outputs(&site, &inputs);
}

#[track_caller]
fn check_struck(site: &Site, index: usize, signal: Signal, moments: &[Moment], code: i32) {
    let mut process = site.launch(TWO, &["--once"]);
    let mut struck = None;
    for moment in moments {
        let victim = process.wait_for_child(index, struck).expect("it ended too early");
        wait_until(&format!("{moment:?}"), || {
            moment.has_come(site) || process.child(index) != Some(victim)
        });
        assert_eq!(process.child(index), Some(victim), "it ended before {moment:?}");
        send(victim, signal);
        struck = Some(victim);
    }
    let ended = process.ended();
    ended.expect_code(code).expect_no_errors(site.announced());
    let starts = ended.stderr.matches("start again in").count();
    assert!(starts >= moments.len(), "{ended}");
    assert_eq!(ended.stdout.matches("listening on").count(), 1, "{ended}");
}

#[test]
fn a_file_that_an_earlier_generation_set_aside_is_in_the_exit_code() {
    let inputs = inputs(16, 1_500);
    let site = site(&inputs);
    // It comes first, and is no gzip file.
    site.put("0.jsonl.gz", b"\x1f\x8b\x08 and then nothing");
    check_struck(&site, 1, Signal::KILL, &[Moment::SetAside], 3);
    check_outputs(&site, &inputs);
    assert_eq!(site.quarantine().len(), 1);
}

#[test]
fn a_killed_first_process_leaves_no_trace_in_the_outputs() {
    check_once(0, Signal::KILL, &[Moment::Through(1)]);
    check_once(0, Signal::KILL, &[Moment::Claimed, Moment::Through(8)]);
}

#[test]
fn a_killed_second_process_leaves_no_trace_in_the_outputs() {
    check_once(1, Signal::KILL, &[Moment::Born, Moment::Through(4)]);
    check_once(1, Signal::KILL, &[Moment::Claimed]);
}

#[test]
fn a_stopped_first_process_is_noticed_and_replaced() {
    // At its birth nobody is connected to it yet: its parent sees it.
    check_once(0, Signal::STOP, &[Moment::Born, Moment::Through(2)]);
}

#[test]
fn a_stopped_second_process_is_noticed_and_replaced() {
    check_once(1, Signal::STOP, &[Moment::Born, Moment::Through(2)]);
}

/// Connects again and again, and counts; fails at once when nobody listens.
struct Knocking {
    stop: Arc<AtomicBool>,
    knocks: Arc<AtomicU64>,
    thread: std::thread::JoinHandle<()>,
}

impl Knocking {
    fn begin(address: &str) -> Knocking {
        let (stop, knocks) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&knocks));
        let address = address.trim_start_matches("http://").to_owned();
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                TcpStream::connect(&address).expect("somebody listens at each moment");
                counted.fetch_add(1, Ordering::Relaxed);
                std::thread::park_timeout(Duration::from_millis(1));
            }
        });
        Knocking { stop, knocks, thread }
    }

    #[track_caller]
    fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
        assert!(self.knocks.load(Ordering::Relaxed) > 10);
    }
}

fn generation(running: &Running<'_>) -> u64 {
    running.ask(running.client().stats(None)).unwrap().generation
}

#[test]
fn the_service_stays_at_its_address_through_generations() {
    let inputs = inputs(6, 300);
    let site = impatient_site(&Tree::new());
    let mut running = site.start(TWO);
    let knocking = Knocking::begin(&running.address);
    let (struck, rest): (Vec<_>, Vec<_>) = inputs.iter().enumerate().partition(|(at, _)| *at < 4);
    for (at, (name, bytes)) in struck {
        let before = generation(&running);
        // Durable, and not awaited: the next generation finds it.
        let sent = running.submit(name, bytes);
        let (index, signal) =
            [(0, Signal::KILL), (1, Signal::KILL), (0, Signal::STOP), (1, Signal::STOP)][at];
        let victim = running.process().child(index).unwrap();
        let began = Instant::now();
        send(victim, signal);
        // Through the same connection of the same client, which asks until it is answered.
        let done = running.wait(sent.id);
        assert!(done.phase.is_final());
        wait_until("the next generation serves", || generation(&running) > before);
        assert!(began.elapsed() < HEALED_MAX, "{:?}", began.elapsed());
        let said = running.call(&["file", &sent.id.to_string(), "--json"]);
        assert_eq!(said.expect_code(0).json()["phase"], "committed");
    }
    knocking.end();
    for (_, (name, bytes)) in rest {
        let sent = running.submit(name, bytes);
        running.wait(sent.id);
    }
    let ended = running.stop();
    assert_eq!(ended.stdout.matches("listening on").count(), 1, "{ended}");
    ended.expect_said("process 0 of generation 1 was killed by SIGKILL");
    ended.expect_said("process 0 was silent for 2s");
    ended.expect_said("process 1 was silent for 2s");
    check_outputs(&site, &inputs);
}

#[test]
fn a_stopped_process_does_not_outlive_its_parent() {
    // Orphans become ours, as they become those of a shell that is the first process of a container:
    // the kernel wakes up only those that nobody of their session takes over.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).unwrap();
    let inputs = inputs(2, 300);
    let mut site = site(&inputs);
    site.announce("the process that started this one is gone");
    let mut running = site.start(TWO);
    let children = [0, 1].map(|index| running.process().child(index).unwrap());
    for child in children {
        send(child, Signal::STOP);
    }
    running.kill();
    let lives = |id: u32| std::path::Path::new(&format!("/proc/{id}/exe")).read_link().is_ok();
    wait_until("nobody is left", || !children.into_iter().any(lives));
    // The home is free.
    site.once(TWO).expect_code(0);
    check_outputs(&site, &inputs);
}

/// A run whose processes are started apart.
struct Apart<'site> {
    site: &'site Site,
}

impl<'site> Apart<'site> {
    fn new(site: &'site Site) -> Self {
        let held: Vec<TcpListener> =
            (0..2).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let hosts: String =
            held.iter().map(|held| format!("{}\n", held.local_addr().unwrap())).collect();
        std::fs::write(site.path().join("hosts.txt"), hosts).unwrap();
        Apart { site }
    }

    /// Starts one process; it reads the addresses of all from this file.
    fn start_by(&self, hosts: &str, index: usize) -> Process {
        let mut command = self.site.command(&["run", "pipeline.yaml", "--home", "home"]);
        command.args(["--grpc", "127.0.0.1:0", "--quiet", "1ms", "--scan", "50ms", "-w", "1"]);
        command.args(["-n", "2", "--silence", "2s", "-h", hosts, "-p", &index.to_string()]);
        command.env("TIDEMILL_MESH_TOKEN", "a secret of sixteen characters");
        Process::start(&mut command)
    }

    fn start(&self, index: usize) -> Process {
        self.start_by("hosts.txt", index)
    }
}

#[track_caller]
fn expect_over(process: Process, why: &str) {
    let ended = process.ended();
    ended.expect_code(1).expect_no_errors(&[OVER.to_owned()]).expect_said(why);
}

/// Lets a run of processes that were started apart finish what is there.
#[track_caller]
fn finish(site: &Site, first: Process, second: Process, files: usize) {
    let running = site.serve(first);
    running.wait_for_finished(files as u64);
    running.stop();
    second.ended().expect_code(0);
}

#[test]
fn a_stopped_process_of_an_older_generation_wakes_up_and_harms_nobody() {
    let inputs = inputs(16, 1_500);
    // One comes later: a quick machine is through with the others before anybody is silent.
    let mut early = inputs.clone();
    let late = early.pop_last().unwrap();
    let site = site(&early);
    let apart = Apart::new(&site);
    let (first, second) = (apart.start(0), apart.start(1));
    wait_until("a file is through", || !site.names("processed").is_empty());
    send(second.id(), Signal::STOP);
    expect_over(first, "process 1 was silent for 2s");
    // The next generation begins while the old process still is.
    let (next_first, next_second) = (apart.start(0), apart.start(1));
    site.put(&late.0, &late.1);
    wait_until("the next generation works", || site.names("processed").contains(&late.0));
    send(second.id(), Signal::CONT);
    expect_over(second, OVER);
    finish(&site, next_first, next_second, inputs.len());
    check_outputs(&site, &inputs);
}

#[test]
fn a_stopped_first_process_keeps_its_home_until_it_is_gone() {
    let inputs = inputs(16, 1_500);
    let site = site(&inputs);
    let apart = Apart::new(&site);
    let (first, second) = (apart.start(0), apart.start(1));
    wait_until("a file is through", || !site.names("processed").is_empty());
    send(first.id(), Signal::STOP);
    expect_over(second, "process 0 was silent for 2s");
    // It may still hold half a commit: nobody works beside it.
    let refused = apart.start(0).ended();
    refused.expect_code(1).expect_said("is in use by process");
    send(first.id(), Signal::CONT);
    expect_over(first, OVER);
    let (first, second) = (apart.start(0), apart.start(1));
    finish(&site, first, second, inputs.len());
    check_outputs(&site, &inputs);
}

/// Passes bytes on, until it is cut: then it is silent, and closes nothing.
struct Wire {
    address: String,
    cut: Arc<AtomicBool>,
}

impl Wire {
    fn to(target: &str) -> Wire {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (cut, target) = (Arc::new(AtomicBool::new(false)), target.to_owned());
        let is_cut = Arc::clone(&cut);
        std::thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let Ok(far) = TcpStream::connect(&target) else { continue };
                for (from, to) in [(&near, &far), (&far, &near)] {
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    let is_cut = Arc::clone(&is_cut);
                    std::thread::spawn(move || pass(from, to, &is_cut));
                }
            }
        });
        Wire { address, cut }
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, is_cut: &AtomicBool) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        match from.read(&mut buffer) {
            Ok(count) if count > 0 && !is_cut.load(Ordering::Relaxed) => {
                if to.write_all(&buffer[..count]).is_err() {
                    let _ = from.shutdown(Shutdown::Both);
                    return;
                }
            }
            // Both ends stay open for as long as somebody reads them: that is what a cut is like.
            Ok(count) if count > 0 => {}
            _ if is_cut.load(Ordering::Relaxed) => loop {
                std::thread::park();
            },
            _ => {
                let _ = to.shutdown(Shutdown::Write);
                return;
            }
        }
    }
}

#[test]
fn processes_that_are_cut_off_from_each_other_notice_it() {
    let inputs = inputs(16, 1_500);
    let site = site(&inputs);
    let apart = Apart::new(&site);
    let hosts = std::fs::read_to_string(site.path().join("hosts.txt")).unwrap();
    let (first, second) = hosts.trim_end().split_once('\n').unwrap();
    let wire = Wire::to(first);
    let hosts = format!("{}\n{second}\n", wire.address);
    std::fs::write(site.path().join("wired.txt"), hosts).unwrap();
    let (first, second) = (apart.start(0), apart.start_by("wired.txt", 1));
    wait_until("a file is through", || !site.names("processed").is_empty());
    wire.cut.store(true, Ordering::Relaxed);
    expect_over(first, "process 1 was silent for 2s");
    expect_over(second, "process 0 was silent for 2s");
    let (first, second) = (apart.start(0), apart.start(1));
    finish(&site, first, second, inputs.len());
    check_outputs(&site, &inputs);
}
