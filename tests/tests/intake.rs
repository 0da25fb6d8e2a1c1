//! Intake: a file is taken once and whole, however it comes, however often, and whatever ends the
//! server while it comes.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::{self, File};
use std::future::Future;
use std::net::TcpListener;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::Value;
use tidemill_client::{Client, Phase, SubmissionId, SubmitOptions};
use tidemill_tests::process::Process;
use tidemill_tests::{PATIENCE, Shape, Site};
use tokio::runtime::Runtime;

const NODE: &str = env!("CARGO_BIN_EXE_node");

/// One source; `SETTINGS` is replaced by what a test wants of it.
const PIPELINE: &str = "pipeline: intake
sources:
  rows: { format: text, pattern: '*.txt'SETTINGS }
sinks:
  rows: { from: rows, files: { format: raw } }
";

fn site(settings: &str) -> Site {
    Site::new(NODE, &PIPELINE.replace("SETTINGS", settings))
}

/// A server that listens where its clients find it again after a restart.
struct Server {
    process: Process,
}

/// A port that nobody listens on.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Server {
    fn start(site: &Site, port: u16, more: &[&str], failpoint: Option<&str>) -> Self {
        let grpc = format!("127.0.0.1:{port}");
        let mut command = site.command(&["run", "pipeline.yaml", "--home", "home", "-w", "2"]);
        command.args(["--quiet", "1ms", "--grpc", &grpc]).args(more);
        if let Some(failpoint) = failpoint {
            command.env("TIDEMILL_FAILPOINT", failpoint);
        }
        let mut process = Process::start(&mut command);
        let listens = process.line(|line| line.starts_with("listening on "));
        assert!(listens.is_some(), "it did not come up\n{}", process.ended());
        Self { process }
    }

    fn kill(self) {
        self.process.kill();
        self.process.ended();
    }

    /// Ends it well: no ERROR line may stand in its log.
    #[track_caller]
    fn stop(self) -> String {
        self.process.terminate();
        let ended = self.process.ended();
        ended.expect_code(0).expect_no_errors(&[]);
        ended.stderr
    }
}

/// A client of its own, with the time that anything may take.
struct Asker {
    runtime: Runtime,
    client: Client,
}

impl Asker {
    fn new(port: u16) -> Self {
        // A thread of its own, so that a server that ends is heard and need not wait for this client.
        let mut threads = tokio::runtime::Builder::new_multi_thread();
        let runtime = threads.worker_threads(1).enable_all().build().unwrap();
        let client = runtime.block_on(Client::connect(&format!("127.0.0.1:{port}"))).unwrap();
        Self { runtime, client }
    }

    fn ask<T>(&self, question: impl Future<Output = T>) -> T {
        let answer =
            self.runtime.block_on(async { tokio::time::timeout(PATIENCE, question).await });
        answer.expect("the server did not answer in time")
    }

    fn submit(&self, name: &str, bytes: &[u8], id: SubmissionId) -> Result<u64, String> {
        let options = SubmitOptions { id: Some(id), ..Default::default() };
        let answer = self.ask(self.client.submit_bytes_with(name, bytes.to_vec(), options));
        answer.map(|submission| submission.id).map_err(|error| error.to_string())
    }

    /// Waits until so many files are final, of whatever kind; returns name and phase, by id.
    fn finished(&self, files: usize) -> Vec<(String, Phase)> {
        let filter = tidemill_client::Filter { limit: 1000, ..Default::default() };
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut page = self.ask(self.client.list(&filter)).unwrap().submissions;
            if page.len() >= files && page.iter().all(|one| one.phase.is_final()) {
                page.sort_by_key(|one| one.id);
                return page.into_iter().map(|one| (one.name, one.phase)).collect();
            }
            assert!(Instant::now() < deadline, "not {files} final files: {page:?}");
        }
    }
}

/// Waits until something is true.
#[track_caller]
fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "in {PATIENCE:?} it did not happen that {what}");
        std::thread::yield_now();
    }
}

/// Returns a UUID of version 7 that says that it was made then.
fn id_of(moment: SystemTime) -> SubmissionId {
    let ms = moment.duration_since(UNIX_EPOCH).unwrap().as_millis();
    let fresh = SubmissionId::make().to_string().replace('-', "");
    format!("{ms:012x}{}", &fresh[12..]).parse().unwrap()
}

#[test]
fn an_upload_is_taken_once_wherever_the_server_is_killed() {
    // The steps of an upload, in their order; the last ones come after the client has its answer.
    let steps = [
        "upload-created",
        "upload-written",
        "upload-synced",
        "claim-renamed",
        "upload-claimed",
        "upload-claim-synced",
        "accept-written",
        "accept-durable",
        "upload-accepted",
        "commit-durable",
    ];
    let bytes = b"one\ntwo\n".repeat(1000);
    for step in steps {
        let site = site("");
        let port = free_port();
        let path = site.path().join("sent.txt");
        fs::write(&path, &bytes).unwrap();
        let armed = Server::start(&site, port, &[], Some(&format!("{step}=kill")));
        let address = format!("127.0.0.1:{port}");
        let wait = ["submit", "sent.txt", "--wait", "--json", "--server", &address];
        let mut submit = site.command(&wait);
        let submit = Process::start(&mut submit);
        let died = armed.process.ended();
        assert_eq!(died.code, None, "{step} was not reached\n{died}");
        let server = Server::start(&site, port, &[], None);
        let answer = submit.ended();
        assert_eq!(answer.expect_code(0).json()["phase"], "committed", "{step}");
        let asker = Asker::new(port);
        let finished = asker.finished(1);
        assert_eq!(finished, [("sent.txt".to_owned(), Phase::Committed)], "{step}");
        server.stop();
        assert_eq!(site.names("processed"), ["sent.txt"], "{step}");
        assert_eq!(site.names("unprocessed"), [] as [&str; 0], "{step}");
        assert_eq!(
            site.out().into_iter().collect::<Vec<_>>(),
            [("rows/sent.txt".into(), bytes.clone())]
        );
        assert_eq!(fs::read_dir(site.home().join("spool")).unwrap().count(), 0, "{step}");
    }
}

#[test]
fn an_upload_goes_on_where_it_was_when_the_server_was_killed() {
    let site = site("");
    let port = free_port();
    let bytes: Vec<u8> =
        (0_u32..).flat_map(|n| format!("{n}\n").into_bytes()).take(32 << 20).collect();
    fs::write(site.path().join("big.txt"), &bytes).unwrap();
    let server = Server::start(&site, port, &[], None);
    let address = format!("127.0.0.1:{port}");
    let mut submit = site.command(&["submit", "big.txt", "--json", "--server", &address]);
    let submit = Process::start(&mut submit);
    let spool = site.home().join("spool");
    let largest = || {
        let files = fs::read_dir(&spool).unwrap().flatten();
        files.filter_map(|file| file.metadata().ok()).map(|file| file.len()).max().unwrap_or(0)
    };
    until("some of the upload has come", || largest() > 1 << 20);
    server.kill();
    let kept = largest();
    assert!(kept < bytes.len() as u64, "it was killed too late to show anything");
    // Had it begun anew, it could not have been overwritten by what comes behind these bytes.
    let upload: PathBuf = fs::read_dir(&spool).unwrap().next().unwrap().unwrap().path();
    let inode = std::os::unix::fs::MetadataExt::ino(&fs::metadata(&upload).unwrap());
    let server = Server::start(&site, port, &[], None);
    submit.ended().expect_code(0);
    let asker = Asker::new(port);
    assert_eq!(asker.finished(1), [("big.txt".to_owned(), Phase::Committed)]);
    server.stop();
    let stored = site.folder("processed").join("big.txt");
    assert_eq!(std::os::unix::fs::MetadataExt::ino(&fs::metadata(&stored).unwrap()), inode);
    assert!(fs::read(stored).unwrap() == bytes);
    assert!(site.out()["rows/big.txt"] == bytes);
}

#[test]
fn an_id_names_one_file_for_ever() {
    let site = site("");
    let port = free_port();
    let server = Server::start(&site, port, &[], None);
    let asker = Asker::new(port);
    let id = SubmissionId::make();
    let first = asker.submit("a.txt", b"a\n", id).unwrap();
    let says = |answer: Result<u64, String>, word: &str| {
        let error = answer.unwrap_err();
        assert!(error.starts_with(word), "{error} is not {word}");
    };
    let ask_again = |asker: &Asker| {
        assert_eq!(asker.submit("a.txt", b"a\n", id), Ok(first));
        says(asker.submit("a.txt", b"b\n", id), "id_used");
        says(asker.submit("b.txt", b"a\n", id), "id_used");
    };
    ask_again(&asker);
    let other = asker.submit("a.txt", b"a\n", SubmissionId::make()).unwrap();
    assert_ne!(other, first, "another id is another file");
    let now = SystemTime::now();
    let day = Duration::from_secs(24 * 3600);
    says(asker.submit("c.txt", b"c\n", id_of(now - 8 * day)), "id_too_old");
    says(asker.submit("c.txt", b"c\n", id_of(now + day)), "bad_id");
    asker.submit("c.txt", b"c\n", id_of(now - 6 * day)).unwrap();
    asker.submit("d.txt", b"d\n", id_of(now + Duration::from_secs(60))).unwrap();
    asker.finished(4);
    ask_again(&asker);
    server.stop();

    let server = Server::start(&site, port, &[], None);
    ask_again(&Asker::new(port));
    server.kill();
    let server = Server::start(&site, port, &[], None);
    ask_again(&Asker::new(port));
    let address = format!("127.0.0.1:{port}");
    fs::write(site.path().join("a.txt"), "a\n").unwrap();
    let id = id.to_string();
    let sent = site.call(&["submit", "a.txt", "--id", &id, "--json", "--server", &address]);
    assert_eq!(sent.expect_code(0).json()["id"].as_u64(), Some(first));
    site.call(&["submit", "a.txt", "--id", "nonsense", "--server", &address]).expect_code(2);
    server.stop();
    assert_eq!(site.names("processed"), ["a.txt", "a~2.txt", "c.txt", "d.txt"]);
}

/// Drops files one after the other, each when the one before is final, then all at once in a second
/// site; checks their phases.
#[track_caller]
fn check_dedupe(settings: &str, files: &[(&str, &str)], expected: &[Phase]) {
    for at_once in [false, true] {
        let site = site(settings);
        let port = free_port();
        let put = |name: &str, bytes: &str, n: usize| {
            if at_once {
                // One name cannot lie there twice; the client may send it twice.
                let asker = Asker::new(port);
                let _ = asker.submit(name, bytes.as_bytes(), SubmissionId::make()).unwrap();
            } else {
                site.put(name, bytes.as_bytes());
                Asker::new(port).finished(n + 1);
            }
        };
        let server = Server::start(&site, port, &["--scan", "50ms"], None);
        files.iter().enumerate().for_each(|(n, (name, bytes))| put(name, bytes, n));
        let finished = Asker::new(port).finished(files.len());
        let phases: Vec<Phase> = finished.iter().map(|(_, phase)| *phase).collect();
        assert_eq!(phases, expected, "{settings}, at once: {at_once}: {finished:?}");
        let address = format!("127.0.0.1:{port}");
        let listed = site.call(&["files", "--json", "--server", &address]).stdout;
        let duplicates = expected.iter().filter(|phase| **phase == Phase::Duplicate).count();
        assert_eq!(listed.matches("duplicate of file 1").count(), duplicates, "{listed}");
        server.stop();
        // Nothing is lost of the inputs, and nothing comes out twice.
        assert_eq!(site.names("processed").len(), files.len());
        assert_eq!(site.names("unprocessed").len(), 0);
        let committed = expected.iter().filter(|phase| **phase == Phase::Committed).count();
        assert_eq!(site.out().len(), committed, "{:?}", site.out().keys());
        // What was settled stays so, and the journal makes sense.
        site.once(Shape::ALONE).expect_code(0);
        site.call(&["doctor", "home"]).expect_code(0);
    }
}

#[test]
fn a_file_that_repeats_another_is_filed_away_and_not_run() {
    use Phase::{Committed as C, Duplicate as D};
    let files = [("a.txt", "1\n"), ("b.txt", "1\n"), ("a.txt", "2\n"), ("a.txt", "1\n")];
    check_dedupe("", &files, &[C, C, C, C]);
    check_dedupe(", dedupe: name", &files, &[C, C, D, D]);
    check_dedupe(", dedupe: content", &files, &[C, D, C, D]);
}

#[test]
fn files_that_wait_together_are_taken_in_the_order_that_their_source_asks_for() {
    let yaml = "pipeline: order
sources:
  late: { format: text, pattern: 'l*', order: name, priority: -1 }
  old: { format: text, pattern: 'o*', order: mtime }
  first: { format: text, pattern: 'f*', priority: 5 }
sinks:
  rows: { from: [late, old, first], files: { format: raw } }
";
    let site = Site::new(NODE, yaml);
    for (name, age) in
        [("l2", 1), ("o1", 10), ("f2", 1), ("o3", 30), ("l1", 2), ("f1", 9), ("o2", 30)]
    {
        site.put(name, b"x\n");
        let file = File::open(site.folder("unprocessed").join(name)).unwrap();
        file.set_modified(UNIX_EPOCH + Duration::from_secs(1_700_000_000 - age)).unwrap();
    }
    let running = site.start(Shape::ALONE);
    running.wait_for_finished(7);
    let listed = running.call(&["files", "--json"]).json_lines();
    let rows = match listed.as_slice() {
        [Value::Array(rows)] => rows.clone(),
        [Value::Object(page)] => page["files"].as_array().unwrap().clone(),
        rows => rows.to_vec(),
    };
    let mut names: Vec<(u64, String)> = rows
        .iter()
        .map(|row| (row["epoch"].as_u64().unwrap(), row["name"].as_str().unwrap().to_owned()))
        .collect();
    names.sort();
    let names: Vec<&str> = names.iter().map(|(_, name)| &**name).collect();
    assert_eq!(names, ["f1", "f2", "o2", "o3", "o1", "l1", "l2"]);
    running.stop();
}

#[test]
fn no_file_is_missed_when_more_happens_than_the_system_can_tell() {
    let site = site("");
    let port = free_port();
    // It looks by itself once in an hour: only the word that events were lost makes it look.
    let server = Server::start(&site, port, &["--scan", "1h"], None);
    let asker = Asker::new(port);
    site.put("first.txt", b"1\n");
    asker.finished(1);
    let pid = rustix::process::Pid::from_raw(server.process.id().cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    let inbox = site.folder("unprocessed");
    let queue: usize = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events")
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(16_384);
    // Two events each: the queue is full when the files come.
    fs::write(inbox.join(".a"), "").unwrap();
    for _ in 0..queue / 4 + 100 {
        fs::rename(inbox.join(".a"), inbox.join(".b")).unwrap();
        fs::rename(inbox.join(".b"), inbox.join(".a")).unwrap();
    }
    for n in 0..300 {
        site.put(&format!("{n}.txt"), b"x\n");
    }
    rustix::process::kill_process(pid, rustix::process::Signal::CONT).unwrap();
    assert_eq!(asker.finished(301).len(), 301);
    let log = server.stop();
    assert!(log.contains("more happens in the folders than the system can tell"), "{log}");
    assert_eq!(site.names("processed").len(), 301);
    assert_eq!(site.names("unprocessed"), [".a"]);
}

#[test]
fn a_folder_that_is_removed_or_replaced_is_watched_again() {
    let site = site("");
    let port = free_port();
    let server = Server::start(&site, port, &["--scan", "1h"], None);
    let asker = Asker::new(port);
    let inbox = site.folder("unprocessed");
    site.put("a.txt", b"a\n");
    asker.finished(1);
    fs::remove_dir_all(&inbox).unwrap();
    until("the folder is there again", || inbox.is_dir());
    site.put("b.txt", b"b\n");
    asker.finished(2);
    // The old folder is moved away, and the new one comes with a file in it.
    let ready = site.path().join("ready");
    fs::create_dir(&ready).unwrap();
    fs::write(ready.join("c.txt"), "c\n").unwrap();
    let away = site.path().join("away");
    until("the folders are exchanged", || {
        if !away.exists() {
            fs::rename(&inbox, &away).unwrap();
        }
        // The server may have made an empty one meanwhile, which a rename replaces.
        fs::rename(&ready, &inbox).is_ok()
    });
    asker.finished(3);
    site.put("d.txt", b"d\n");
    asker.finished(4);
    fs::write(away.join("e.txt"), "e\n").unwrap();
    server.stop();
    assert_eq!(site.names("processed"), ["a.txt", "b.txt", "c.txt", "d.txt"]);
}

#[test]
fn a_file_with_two_names_stays_until_it_has_one() {
    let site = site("");
    let port = free_port();
    let mut server = Server::start(&site, port, &["--scan", "50ms"], None);
    let asker = Asker::new(port);
    let other = site.path().join("other");
    fs::write(&other, "a\n").unwrap();
    fs::hard_link(&other, site.folder("unprocessed").join("a.txt")).unwrap();
    site.put("b.txt", b"b\n");
    assert_eq!(asker.finished(1), [("b.txt".to_owned(), Phase::Committed)]);
    assert!(server.process.logged("2 names (hard links); copy the file instead"));
    fs::remove_file(&other).unwrap();
    assert_eq!(asker.finished(2)[1], ("a.txt".to_owned(), Phase::Committed));
    let log = server.stop();
    assert_eq!(log.matches("2 names (hard links); copy the file instead").count(), 1, "{log}");
}

#[test]
fn which_names_are_passed_over_is_the_source_s_to_say() {
    let check = |settings: &str, expected: &[&str]| {
        let yaml = PIPELINE.replace("'*.txt'SETTINGS", &format!("'*'{settings}"));
        let site = Site::new(NODE, &yaml);
        for name in ["a.txt", "a.tmp", "a.swp", "a.bak", "a.crdownload", "~a", "a~"] {
            fs::write(site.folder("unprocessed").join(name), "x\n").unwrap();
        }
        fs::write(site.folder("unprocessed").join(".a"), "x\n").unwrap();
        let ended = site.once(Shape::ALONE);
        ended.expect_code(0);
        assert_eq!(site.names("processed"), expected, "{settings}");
        assert!(!ended.stderr.contains("left "), "{ended}");
    };
    check("", &["a.bak", "a.txt"]);
    check(", ignore: ['*.bak', '*.swp', '*.tmp', '*.crdownload', '*~']", &["a.txt", "~a"]);
    check(", ignore: []", &["a.bak", "a.crdownload", "a.swp", "a.tmp", "a.txt", "a~", "~a"]);
}
