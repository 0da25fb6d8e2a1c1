//! Disk full: nothing is lost, nothing is doubled, nobody has to start anything again. What cannot
//! be written waits, says so, and goes on by itself; the outputs are the same to the byte.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fmt::Write as _;
use std::fs;
use std::time::{Duration, Instant};

use tidemill_client::{Error, SubmitOptions};
use tidemill_tests::{Disk, Kind, Running, Shape, Site, Tree, tree};

const NODE: &str = env!("CARGO_BIN_EXE_node");

const PIPELINE: &str = "
pipeline: full
sources:
  rows: { format: jsonl, fields: { host: string, n: int } }
operators:
  totals: { from: rows, aggregate: { by: [host], compute: { rows: count(*), total: sum(n) } } }
sinks:
  rows: { from: rows, files: { format: raw } }
  again: { from: rows, files: { format: csv } }
  totals: { from: totals, table: { format: csv, key: [host] } }
";

const MIB: u64 = 1 << 20;

/// How soon work must go on once there is space.
const RESUME_MAX: Duration = Duration::from_secs(5);

/// Files of different sizes: outputs that ride in the journal, and outputs that are staged.
fn inputs(files: usize, rows: usize) -> Tree {
    let mut inputs = Tree::new();
    for file in 0..files {
        let mut text = String::new();
        for row in 0..rows * (1 + file % 3) {
            let host = (file * 7 + row) % 23;
            let _ = writeln!(text, "{{\"host\":\"host-{host}\",\"n\":{row}}}");
            if row % 997 == 5 {
                text.push_str("not json\n");
            }
        }
        inputs.insert(format!("in-{file:03}.jsonl"), text.into_bytes());
    }
    inputs
}

/// What comes of the inputs where there is room.
fn undisturbed(inputs: &Tree) -> Tree {
    let site = Site::new(NODE, PIPELINE);
    inputs.iter().for_each(|(name, bytes)| site.put(name, bytes));
    site.once(Shape::ALONE).expect_code(0);
    site.out()
}

/// Lays files where they are not seen yet, so that a full disk can still get them.
fn lay_down(site: &Site, inputs: &Tree) {
    for (name, bytes) in inputs {
        fs::write(site.folder("unprocessed").join(format!(".{name}.tmp")), bytes).unwrap();
    }
}

fn show(site: &Site, inputs: &Tree) {
    let folder = site.folder("unprocessed");
    for name in inputs.keys() {
        fs::rename(folder.join(format!(".{name}.tmp")), folder.join(name)).unwrap();
    }
}

#[track_caller]
fn check_outputs(site: &Site, inputs: &Tree, expected: &Tree, what: &str) {
    if let Some(difference) = tree::difference(expected, &site.out()) {
        panic!("{what}:\n{difference}");
    }
    let processed = tree::read(&site.folder("processed"));
    assert_eq!(tree::difference(inputs, &processed), None, "{what}: processed/");
    for folder in ["unprocessed", "underprocess", "quarantine"] {
        assert_eq!(site.names(folder), [""; 0], "{what}: {folder}/");
    }
}

/// Every output that is there is whole.
#[track_caller]
fn check_nothing_half_done(site: &Site, expected: &Tree) {
    for (path, bytes) in tree::read(&site.folder("out")) {
        if path.starts_with("totals/") || path.contains("/.tidemill-") {
            continue;
        }
        assert_eq!(Some(&bytes), expected.get(&path), "{path} is not whole");
    }
}

/// Frees the disk; everything must go on by itself, soon.
/// Sends a file, and takes the first answer for an answer.
async fn submit_once(running: &Running<'_>) -> Result<tidemill_client::Submission, Error> {
    let options = SubmitOptions { resend_for: Duration::ZERO, ..Default::default() };
    running.client().submit_bytes_with("x.jsonl", b"{}\n".to_vec(), options).await
}

#[track_caller]
fn check_resumes(running: &Running<'_>, disk: &Disk, files: u64) {
    let freed = Instant::now();
    disk.clear();
    running.wait_for_condition(None);
    assert!(freed.elapsed() < RESUME_MAX, "it took {:?} to go on", freed.elapsed());
    running.wait_for_finished(files);
}

/// Fills the disk up to `left` bytes before the files are seen.
#[track_caller]
fn check_full(kind: Kind, shape: Shape, left: u64) {
    let inputs = inputs(12, 3000);
    let expected = undisturbed(&inputs);
    let mut site = Site::new(NODE, PIPELINE);
    site.always(&["--reserve", "0"]);
    let Some(disk) = site.on_disk(kind, 48) else { return };
    lay_down(&site, &inputs);
    let mut running = site.start(shape);
    disk.fill(left);
    show(&site, &inputs);
    running.wait_for_condition(Some("disk_full"));
    check_nothing_half_done(&site, &expected);
    let stats = running.call(&["stats"]);
    stats.expect_code(0);
    assert!(stats.stdout.starts_with("! disk_full since "), "{stats}");
    let refused = running.ask(submit_once(&running));
    match refused {
        Err(Error::Server { status, word, message }) => {
            assert_eq!(
                (format!("{status:?}"), word.as_deref()),
                ("ResourceExhausted".to_owned(), Some("no_space")),
                "{message}"
            );
        }
        other => panic!("{kind:?}, {shape}: {other:?}"),
    }
    running.wait_for_log("no space left on the disk");
    check_resumes(&running, &disk, 12);
    running.wait_for_log("there is space on the disk again");
    running.stop();
    check_outputs(&site, &inputs, &expected, &format!("{kind:?}, {shape}, {left} bytes left"));
}

#[test]
fn outputs_wait_for_space_on_one_worker() {
    check_full(Kind::Tmpfs, Shape::ALONE, MIB);
}

#[test]
fn outputs_wait_for_space_on_three_workers() {
    check_full(Kind::Tmpfs, Shape::new(1, 3), MIB);
}

#[test]
fn outputs_wait_for_space_in_two_processes() {
    check_full(Kind::Tmpfs, Shape::new(2, 2), MIB);
}

#[test]
fn outputs_wait_for_space_on_a_disk_with_blocks() {
    check_full(Kind::Ext4, Shape::new(1, 2), MIB);
}

#[test]
fn the_journal_waits_for_space() {
    check_full(Kind::Tmpfs, Shape::ALONE, 0);
    check_full(Kind::Ext4, Shape::ALONE, 0);
}

#[test]
fn below_the_reserve_no_file_is_taken() {
    let inputs = inputs(3, 100);
    let expected = undisturbed(&inputs);
    let mut site = Site::new(NODE, PIPELINE);
    site.always(&["--reserve", "8MiB"]);
    let Some(disk) = site.on_disk(Kind::Tmpfs, 32) else { return };
    lay_down(&site, &inputs);
    let running = site.start(Shape::ALONE);
    disk.fill(4 * MIB);
    running.wait_for_condition(Some("low_space"));
    show(&site, &inputs);
    let refused = running.ask(submit_once(&running));
    assert_eq!(refused.unwrap_err().word(), Some("no_space"));
    let files = running.call(&["files"]);
    assert!(files.stdout.starts_with("! low_space since "), "{files}");
    // Several scans later they still lie there.
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(site.names("unprocessed").len(), 3);
    assert_eq!(site.names("underprocess"), [""; 0]);
    check_resumes(&running, &disk, 3);
    running.stop();
    check_outputs(&site, &inputs, &expected, "reserve");
}

#[test]
fn once_waits_for_space_too() {
    let inputs = inputs(4, 1000);
    let expected = undisturbed(&inputs);
    let mut site = Site::new(NODE, PIPELINE);
    site.always(&["--reserve", "0"]);
    let Some(disk) = site.on_disk(Kind::Tmpfs, 16) else { return };
    inputs.iter().for_each(|(name, bytes)| site.put(name, bytes));
    disk.fill(300 << 10);
    // Nothing serves that could be asked before it is through with its start: it says so itself.
    let mut running = site.launch(Shape::ALONE, &["--once"]);
    assert!(running.logged("no space left on the disk"), "it ended, or found room");
    disk.clear();
    let ended = running.ended();
    ended.expect_no_errors(&[]);
    ended.expect_code(0).expect_said("no space left on the disk");
    check_outputs(&site, &inputs, &expected, "once");
}

#[test]
fn killed_on_a_full_disk_it_goes_on_later() {
    let inputs = inputs(12, 3000);
    let expected = undisturbed(&inputs);
    let mut site = Site::new(NODE, PIPELINE);
    site.always(&["--reserve", "0"]);
    let Some(disk) = site.on_disk(Kind::Tmpfs, 48) else { return };
    lay_down(&site, &inputs);
    let running = site.start(Shape::new(1, 2));
    disk.fill(MIB);
    show(&site, &inputs);
    running.wait_for_condition(Some("disk_full"));
    running.kill();
    check_nothing_half_done(&site, &expected);
    disk.clear();
    disk.fill(2 * MIB);
    let running = site.start(Shape::new(2, 1));
    running.wait_for_condition(Some("disk_full"));
    check_resumes(&running, &disk, 12);
    running.stop();
    check_outputs(&site, &inputs, &expected, "killed");
}

/// The same without the right to mount: what is staged and published cannot be written while a file
/// exists, and big writes get half of what they want.
#[test]
fn outputs_wait_for_space_that_a_trial_takes_away() {
    let inputs = inputs(12, 3000);
    let expected = undisturbed(&inputs);
    for shape in [Shape::ALONE, Shape::new(1, 3), Shape::new(2, 1)] {
        let mut site = Site::new(NODE, PIPELINE);
        let full = site.path().join("full");
        fs::write(&full, "").unwrap();
        site.trial(Some(&format!("full={}", full.display())));
        inputs.iter().for_each(|(name, bytes)| site.put(name, bytes));
        let running = site.start(shape);
        running.wait_for_condition(Some("disk_full"));
        fs::remove_file(&full).unwrap();
        let freed = Instant::now();
        running.wait_for_condition(None);
        assert!(freed.elapsed() < RESUME_MAX, "{shape}");
        running.wait_for_finished(12);
        running.stop();
        check_outputs(&site, &inputs, &expected, &format!("{shape}"));
    }
}

/// While nothing can be made durable, memory stays where it is, however much waits.
#[test]
fn a_disk_that_stands_still_costs_no_memory() {
    const FILES: u64 = 700;
    const PEAK_MAX: u64 = 400 * MIB;
    let inputs = inputs(FILES as usize, 1500);
    let bytes: usize = inputs.values().map(Vec::len).sum();
    let expected = undisturbed(&inputs);
    let mut site = Site::new(NODE, PIPELINE);
    let hold = site.path().join("hold");
    fs::write(&hold, "").unwrap();
    site.trial(Some(&format!("hold-sync={}", hold.display())));
    inputs.iter().for_each(|(name, bytes)| site.put(name, bytes));
    let running = site.start(Shape::new(1, 2));
    running.wait_for_condition(Some("slow_disk"));
    // The window is full: what can be read has been read, and no more is.
    let read = |running: &Running<'_>| {
        let rows = running.ask(running.client().operators(None)).unwrap();
        rows.iter()
            .filter(|row| row.kind.starts_with("source"))
            .map(|row| row.records_in)
            .sum::<u64>()
    };
    let mut before = u64::MAX;
    let deadline = Instant::now() + tidemill_tests::PATIENCE;
    while read(&running) != before {
        assert!(Instant::now() < deadline, "it goes on reading");
        before = read(&running);
        std::thread::sleep(Duration::from_millis(500));
    }
    let rows: usize = inputs.values().map(|text| text.split(|byte| *byte == b'\n').count()).sum();
    assert!((before as usize) < rows / 2, "{before} of {rows} rows are read: nothing bounds it");
    let peak = running.peak_bytes();
    assert!(peak < PEAK_MAX, "peak RSS {} MiB; {bytes} bytes wait", peak / MIB);
    let stats = running.call(&["stats"]);
    assert!(stats.stdout.contains("! slow_disk since "), "{stats}");
    fs::remove_file(&hold).unwrap();
    running.wait_for_finished(FILES);
    running.stop();
    check_outputs(&site, &inputs, &expected, "held");
}
