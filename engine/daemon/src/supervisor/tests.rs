//! What the supervisor promises, with shells and copies of the test program as children.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal};
use tidemill_engine::mesh::Endpoint;

use super::group::{pause, with_index};
use super::place::{FOLDER_BYTES_MAX, hex, random, unhex};
use super::*;

const WAIT: Duration = Duration::from_secs(20);
/// Long where nothing should wait, so that a test that waits fails by its assertion. The first failure
/// is the last one.
const LONG: Patience = Patience {
    finish: WAIT,
    terminate: WAIT,
    stopped: WAIT,
    pause_first: Duration::from_millis(1),
    pause_longest: Duration::from_millis(4),
    healthy: WAIT,
    failures_max: 1,
};
const SHORT: Patience =
    Patience { finish: Duration::from_millis(200), terminate: Duration::from_millis(200), ..LONG };
/// Starts again.
const HEALING: Patience = Patience { failures_max: 4, ..LONG };

/// Runs a shell script as each process: `$1` is `-p`, `$2` the index.
fn shell(processes: usize, script: &str, patience: Patience) -> Result<u8, SupervisorError> {
    shell_told(processes, script, patience, |_| {})
}

fn shell_told(
    processes: usize,
    script: &str,
    patience: Patience,
    news: impl FnMut(News),
) -> Result<u8, SupervisorError> {
    let arguments = ["-c", script, "child"].map(OsString::from);
    run(Path::new("/bin/sh"), processes, &arguments, patience, news)
}

fn run(
    program: &Path,
    processes: usize,
    arguments: &[OsString],
    patience: Patience,
    news: impl FnMut(News),
) -> Result<u8, SupervisorError> {
    run_generations(
        &Order { program, processes, pipelines: &[], arguments, listener: None, patience },
        news,
    )
}

#[track_caller]
fn check(script: &str, patience: Patience, expected: Result<u8, &str>) {
    let began = Instant::now();
    let result = shell(3, script, patience).map_err(|error| error.to_string());
    assert_eq!(result, expected.map_err(str::to_string), "{script}");
    assert!(began.elapsed() < WAIT, "{script} took {:?}", began.elapsed());
}

#[test]
fn the_code_of_the_first_failure_is_the_code_of_all() {
    check("exit 0", LONG, Ok(0));
    check("exit 3", LONG, Ok(3));
    // The others wait for an input that never comes.
    check("test $2 = 1 && exit 74; read forever", LONG, Ok(74));
    check("test $2 = 1 && kill -9 $$; read forever", LONG, Ok(137));
    check("test $2 = 0 && exit 0; test $2 = 1 && exit 2; read forever", LONG, Ok(2));
    check("test $2 = 1 && exit 2; read forever", LONG, Ok(2));
    // Process 0 has ended well: everything is done.
    check("test $2 = 0 && exit 0; sleep 0.1; kill -9 $$", LONG, Ok(0));
}

#[test]
fn who_does_not_end_is_ended() {
    let deaf = "trap '' TERM; while :; do read forever; done";
    check(&format!("test $2 = 2 && exit 70; {deaf}"), SHORT, Ok(70));
    check(&format!("test $2 = 2 && exit 65; {deaf}"), SHORT, Ok(65));
    check(
        &format!("test $2 = 0 && exit 0; {deaf}"),
        SHORT,
        Err("process 0 finished, process 1 still ran 200ms later and was ended"),
    );
}

/// Runs a script that can count its starts: `$n` is how often this process was started before. Checks
/// the exit code and how often each of two processes was started.
#[track_caller]
fn check_starts(script: &str, expected: u8, starts: usize) {
    let counts = tempfile_path("starts");
    let script = format!(
        "f={0}.$2; n=$(cat $f 2>/dev/null | wc -l); echo >> $f
         while ! test -s {0}.0 || ! test -s {0}.1; do sleep 0.01; done
         {script}",
        counts.display()
    );
    let code = shell(2, &script, HEALING).unwrap();
    let count = |index: usize| {
        let path = counts.with_extension(index.to_string());
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let _ = std::fs::remove_file(path);
        text.lines().count()
    };
    let started = [count(0), count(1)];
    assert_eq!(code, expected, "{script}");
    // A process may be ended before it has come so far as to count.
    let most = started.into_iter().max();
    assert_eq!(most, Some(starts), "{script}: {started:?}");
}

#[test]
fn a_lost_process_is_the_start_of_the_next_generation() {
    check_starts("test $2.$n = 1.0 && kill -9 $$; test $n = 0 && read forever; exit 0", 0, 2);
    check_starts("test $2.$n = 0.0 && kill -9 $$; test $n = 0 && read forever; exit 3", 3, 2);
    for code in [1, 70, 74] {
        let script = "test $2.$n = 1.0 && exit CODE; test $n = 0 && read forever; exit 0";
        check_starts(&script.replace("CODE", &code.to_string()), 0, 2);
    }
    // One that is stopped cannot hear that it is to end.
    check_starts(
        "test $2.$n = 0.0 && kill -STOP $$; test $2.$n = 1.0 && sleep 0.1 && exit 1; exit 0",
        0,
        2,
    );
}

#[test]
fn a_stopped_process_is_lost_when_it_stays_so() {
    let stopped = Patience { stopped: Duration::from_millis(700), ..HEALING };
    let file = tempfile_path("stopped");
    let script = "test $2 = 1 && read forever
                  test -e FILE && { rm FILE; exit 2; }
                  : > FILE; kill -STOP $$; read forever";
    let began = Instant::now();
    let code = shell(2, &script.replace("FILE", &file.display().to_string()), stopped);
    assert_eq!(code.unwrap(), 2);
    assert!(began.elapsed() >= stopped.stopped);
    assert!(!file.exists());
}

#[test]
fn what_the_next_generation_would_meet_again_is_the_end() {
    for (code, expected) in [(2, 2), (65, 65), (130, 130), (i32::from(REFUSED), 1)] {
        check_starts(&format!("test $2 = 1 && exit {code}; read forever"), expected, 1);
    }
}

#[test]
fn generations_that_get_nothing_done_are_counted() {
    check_starts("test $2 = 1 && kill -9 $$; read forever", 137, 4);
    check_starts("test $2 = 1 && exit 70; read forever", 70, 4);
    // The fifth one would have been too many; each second one gets something done.
    check_starts(
        "test $2 = 0 && { test $((n % 2)) = 1 && echo progress >&0; sleep 0.1; test $n = 8 && exit 0; exit 70; }
         test $n = 8 && exit 0; read forever",
        0,
        9,
    );
}

#[test]
fn the_pause_is_doubled_up_to_its_bound() {
    let check = |failures, expected_ms| {
        let found = pause(Duration::from_millis(200), Duration::from_secs(10), failures);
        assert_eq!(found, Duration::from_millis(expected_ms), "after {failures} failures");
    };
    check(1, 200);
    check(2, 400);
    check(6, 6400);
    check(7, 10_000);
    check(u32::MAX, 10_000);
}

#[test]
fn clients_are_told_which_generation_starts() {
    let script = "test $2 = 1 && read forever
                  test -e FILE || { : > FILE; echo generation 7 >&0; echo ready >&0; sleep 0.1; kill -9 $$; }
                  rm FILE; echo generation 8 >&0; echo ready >&0; exit 2";
    let file = tempfile_path("second");
    let mut said = Vec::new();
    let script = script.replace("FILE", &file.display().to_string());
    let code = shell_told(2, &script, HEALING, |news| said.push(news));
    assert_eq!(code.unwrap(), 2);
    let said: Vec<String> = said.iter().map(|news| format!("{news:?}")).collect();
    let expected = [
        "Starting(\"the first generation of this run is starting; try again\")",
        "Ready",
        "Starting(\"generation 7 has ended and the next one starts; try again\")",
        "Starting(\"generation 8 is starting; try again\")",
    ];
    assert_eq!(said.get(..4).unwrap_or(&said), expected);
}

#[test]
fn each_process_gets_its_index_a_token_and_a_private_folder() {
    let output = tempfile_path("environment");
    let script = format!(
        "test ${{#{MESH_TOKEN}}} = 64 && test ${SUPERVISED} = 1 && test $1 = -p || exit 9
         : > ${MESH_DIR}/$2.sock && ls -ld ${MESH_DIR} > {0}.$2 && echo ${MESH_DIR} >> {0}.$2",
        output.display()
    );
    assert_eq!(shell(2, &script, LONG).unwrap(), 0);
    let read = |index: usize| {
        let path = output.with_extension(index.to_string());
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::remove_file(path).unwrap();
        text
    };
    let (zero, one) = (read(0), read(1));
    let folder = zero.lines().last().unwrap();
    assert!(zero.starts_with("drwx------"), "{zero}");
    assert_eq!(folder, one.lines().last().unwrap(), "one folder for all");
    assert!(folder.len() < FOLDER_BYTES_MAX);
    assert!(!Path::new(folder).exists(), "it goes with them");
}

fn tempfile_path(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("tidemill-test-{name}-{}", hex(&random::<8>().unwrap())))
}

#[test]
fn what_cannot_be_started_is_named() {
    let error = run(Path::new("/no/such/program"), 2, &[], LONG, |_| {}).unwrap_err();
    assert_eq!(error.to_string(), "start process 0 (/no/such/program)");
    let error = shell(65, "exit 0", LONG).unwrap_err();
    assert_eq!(error.to_string(), "start 65 processes on this host: 1 to 64 are possible");
    assert!(shell(0, "exit 0", LONG).is_err());
}

#[test]
fn the_index_stands_where_options_stand() {
    let check = |given: &[&str], expected: &[&str]| {
        let given: Vec<OsString> = given.iter().map(OsString::from).collect();
        assert_eq!(with_index(&given, 5), expected);
    };
    check(&["run", "a.yaml"], &["run", "a.yaml", "-p", "5"]);
    check(&["run", "--", "a.yaml"], &["run", "-p", "5", "--", "a.yaml"]);
}

#[test]
fn hex_is_read_back() {
    assert_eq!(unhex(&hex(&[0, 0x7f, 0xff])), Some(vec![0, 0x7f, 0xff]));
    assert_eq!(unhex("0"), None);
    assert_eq!(unhex("0g"), None);
    assert_eq!(unhex("+1"), None);
}

/// Runs a test below once more, as a process of its own that plays its other part.
fn play(test: &str) -> Child {
    let module = module_path!().split_once("::").unwrap().1;
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture", &format!("{module}::{test}")])
        .env(SUPERVISED, "1")
        .env(MESH_DIR, "/d")
        .env(MESH_TOKEN, "ab".repeat(32))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .process_group(0)
        .spawn()
        .unwrap()
}

/// Whether this process was started by [`play`].
fn plays_a_part() -> bool {
    std::env::var_os(SUPERVISED).is_some()
}

/// Reads the output of a part until a line was said so often.
fn hear(child: &mut Child, line: &str, times: usize) {
    let output = child.stdout.take().unwrap();
    let lines = BufReader::new(output).lines().map_while(Result::ok);
    assert_eq!(lines.filter(|said| said.ends_with(line)).take(times).count(), times);
}

#[test]
fn a_child_ends_with_its_parent() {
    if plays_a_part() {
        orphan();
    }
    let mut child = play("a_child_ends_with_its_parent");
    hear(&mut child, "waiting", 1);
    assert!(child.try_wait().unwrap().is_none(), "it runs while its parent does");
    drop(child.stdin.take());
    assert_eq!(child.wait().unwrap().code(), Some(i32::from(ORPHANED)));
}

#[allow(clippy::print_stdout, reason = "the other process listens")]
fn orphan() -> ! {
    let mesh = supervised_mesh(2).unwrap().unwrap();
    assert_eq!(mesh.endpoints[1], Endpoint::Unix("/d/1.sock".into()));
    assert_eq!(mesh.token, [0xab; 32]);
    end_with(&parent().unwrap().unwrap()).unwrap();
    println!("\nwaiting");
    loop {
        std::thread::park();
    }
}

#[test]
fn signals_reach_all_processes() {
    if plays_a_part() {
        supervising();
    }
    for (signal, code) in [(Signal::TERM, 21), (Signal::INT, 22)] {
        let mut child = play("signals_reach_all_processes");
        let mut output = BufReader::new(child.stdout.take().unwrap()).lines();
        let ready = |line: &Result<String, _>| line.as_ref().is_ok_and(|l| l.ends_with("ready"));
        assert_eq!(output.by_ref().filter(ready).take(2).count(), 2);
        rustix::process::kill_process(Pid::from_child(&child), signal).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(code));
        let heard = |line: &Result<String, _>| line.as_ref().is_ok_and(|l| l.ends_with("heard"));
        assert_eq!(output.filter(heard).count(), 2);
    }
}

fn supervising() -> ! {
    // Who is told twice, by the signal and by the end of the other, says it once.
    let script = r#"trap 'trap "" TERM INT; echo heard; exit 21' TERM
                    trap 'trap "" TERM INT; echo heard; exit 22' INT
                    echo ready
                    while :; do read forever; done"#;
    let code = shell(2, script, LONG).unwrap();
    std::process::exit(i32::from(code));
}
