//! Read again: a file that cannot be read for a while is read later, and nobody can tell by its outputs.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::Write;
use std::time::{Duration, Instant};

use tidemill_client::{Phase, Submission};
use tidemill_tests::faults::{Fault, Kind, possible, variables};
use tidemill_tests::{Running, Shape, Site, Tree, tree};

const NODE: &str = env!("CARGO_BIN_EXE_node");

/// Returns a pipeline with state of which order could make a difference.
fn pipeline(retry: &str) -> String {
    format!(
        "
pipeline: p
retry: {retry}
sources:
  orders: {{ format: jsonl, fields: {{ host: string, n: int }}, on_same_name: replace }}
operators:
  first: {{ from: orders, dedupe: {{ by: host }} }}
  totals: {{ from: orders, aggregate: {{ by: [host], compute: {{ total: sum(n) }} }} }}
sinks:
  orders: {{ from: orders, files: {{ format: raw }} }}
  first: {{ from: first, table: {{ format: csv, key: [host] }} }}
  totals: {{ from: totals, table: {{ format: csv, key: [host] }} }}
"
    )
}

const QUICKLY: &str = "{ transient: { attempts: 3, backoff: 20ms } }";
const HOURS: &str = "{ transient: { backoff: 1h, max_backoff: 1h, deadline: 9h, jitter: 0 } }";

fn rows(n: u64) -> Vec<u8> {
    format!("{{\"host\":\"a\",\"n\":{n}}}\n{{\"host\":\"h{n}\",\"n\":{n}}}\n").into_bytes()
}

fn given(retry: &str, fault: Fault) -> Site {
    let mut site = Site::new(NODE, &pipeline(retry));
    for (name, value) in variables(&site.home(), fault) {
        site.variable(name, Some(&value));
    }
    site
}

/// The n-th to m-th reads of the claimed file of this name. Two reads belong to one attempt: whoever
/// orders a file looks at its first bytes, and a piece is read.
fn reads(only: &'static str, at: u64, times: u64) -> Fault {
    Fault { kind: Kind::Read, at, times, only }
}

fn heal(site: &mut Site) {
    for name in ["LD_PRELOAD", "FAULTS_BELOW", "FAULTS_KIND", "FAULTS_AT", "FAULTS_TIMES"] {
        site.variable(name, None);
    }
    site.variable("FAULTS_ONLY", None);
}

fn undisturbed(inputs: &[(&str, Vec<u8>)]) -> Tree {
    let site = Site::new(NODE, &pipeline(QUICKLY));
    let running = site.start(Shape::ALONE);
    for (name, bytes) in inputs {
        running.wait(running.submit(name, bytes).id);
    }
    running.stop();
    site.out()
}

/// Waits until something is true of a submission.
#[track_caller]
fn until(running: &Running<'_>, id: u64, is_so: impl Fn(&Submission) -> bool) -> Submission {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let found = running.ask(running.client().get(id)).unwrap();
        if is_so(&found) {
            return found;
        }
        assert!(Instant::now() < deadline, "{id} does not come so far: {found:?}");
        std::thread::yield_now();
    }
}

/// Waits until a submission is final, and returns all that is known of it.
#[track_caller]
fn done(running: &Running<'_>, id: u64) -> Submission {
    running.wait(id);
    running.ask(running.client().get(id)).unwrap()
}

fn waits(submission: &Submission) -> bool {
    submission.waits_for.as_deref() == Some("waiting to retry")
}

#[track_caller]
fn check_home(site: &Site) {
    let doctor = site.call(&["doctor", "home"]);
    doctor.expect_code(0);
}

#[test]
fn a_file_that_cannot_be_read_twice_is_committed_by_the_third_attempt_as_if_nothing_had_been() {
    if !possible("no read was made to fail") {
        return;
    }
    for shape in [Shape::ALONE, Shape::new(1, 3)] {
        let site = given(QUICKLY, reads("-o2", 1, 4));
        let running = site.start(shape);
        let ids: Vec<u64> =
            (1..=4).map(|n| running.submit(&format!("o{n}"), &rows(n)).id).collect();
        for id in &ids {
            assert_eq!(running.wait(*id).phase, Phase::Committed, "{shape}");
        }
        let second = running.ask(running.client().get(ids[1])).unwrap();
        let failed: Vec<_> = second.attempts.iter().map(|one| (one.number, &*one.class)).collect();
        assert_eq!(failed, [(1, "transient"), (2, "transient")]);
        assert!(second.attempts.iter().all(|one| one.reason.code == "unreadable"), "{second:?}");
        assert!(second.attempts[0].next_at > second.attempts[0].failed_at);
        assert!(second.epoch > 2, "it has another epoch: {}", second.epoch);
        let shown = running.call(&["file", &ids[1].to_string()]);
        assert!(shown.stdout.contains("attempts  3\n"), "{shown}");
        assert!(shown.stdout.contains("1 failed at "), "{shown}");
        assert!(shown.stdout.contains("(transient) unreadable: read "), "{shown}");
        let one = running.call(&["file", &ids[1].to_string(), "--json"]).expect_code(0).json();
        assert_eq!(one["attempts"].as_array().unwrap().len(), 2);
        running.stop();
        let inputs: Vec<(String, Vec<u8>)> = (1..=4).map(|n| (format!("o{n}"), rows(n))).collect();
        let inputs: Vec<(&str, Vec<u8>)> =
            inputs.iter().map(|(name, bytes)| (&**name, bytes.clone())).collect();
        assert_eq!(tree::difference(&undisturbed(&inputs), &site.out()), None, "{shape}");
        check_home(&site);
        // What was read again is what the next life builds upon.
        site.once(shape).expect_code(0);
        assert_eq!(tree::difference(&undisturbed(&inputs), &site.out()), None, "{shape}");
    }
}

#[test]
fn a_file_that_can_never_be_read_is_set_aside_when_it_was_tried_often_enough() {
    if !possible("no read was made to fail") {
        return;
    }
    let site = given(QUICKLY, reads("-o2", 1, 1_000_000));
    let running = site.start(Shape::new(1, 2));
    let bad = running.submit("o2", &rows(2));
    let good = running.submit("o1", &rows(1));
    let bad = done(&running, bad.id);
    assert_eq!((bad.phase, bad.attempts.len()), (Phase::Quarantined, 2));
    assert_eq!(bad.reason.unwrap().code, "unreadable");
    let shown = running.call(&["file", &bad.id.to_string()]);
    assert!(shown.stdout.contains("attempts  3\n"), "{shown}");
    assert_eq!(running.wait(good.id).phase, Phase::Committed);
    let counts = running.ask(running.client().pipelines()).unwrap().remove(0);
    assert_eq!((counts.accepted, counts.committed, counts.quarantined), (0, 1, 1));
    running.stop();
    let quarantine = site.quarantine();
    assert!(quarantine[0].starts_with("o2 unreadable: read 1"), "{quarantine:?}");
    assert_eq!(tree::difference(&undisturbed(&[("o1", rows(1))]), &site.out()), None);
    check_home(&site);
}

#[test]
fn how_a_file_is_packed_is_not_guessed_when_its_first_bytes_cannot_be_read() {
    if !possible("no read was made to fail") {
        return;
    }
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(&rows(1)).unwrap();
    let packed = packed.finish().unwrap();
    let site = given(QUICKLY, reads("-o1.gz", 1, 1));
    let running = site.start(Shape::ALONE);
    let one = done(&running, running.submit("o1.gz", &packed).id);
    assert_eq!((one.phase, one.rejected, one.attempts.len()), (Phase::Committed, 0, 1));
    running.stop();
}

#[test]
fn a_file_that_waits_to_be_tried_again_waits_on_in_the_next_life_and_can_be_tried_at_once() {
    if !possible("no read was made to fail") {
        return;
    }
    let mut site = given(HOURS, reads("-o1", 1, 2));
    let running = site.start(Shape::ALONE);
    let first = running.submit("o1", &rows(1));
    let waiting = until(&running, first.id, waits);
    assert_eq!((waiting.phase, waiting.epoch), (Phase::Accepted, 0));
    // Those behind it do not wait.
    assert_eq!(running.wait(running.submit("o2", &rows(2)).id).phase, Phase::Committed);
    let listed = running.call(&["files"]);
    assert!(listed.stdout.contains("accepted: waiting to retry"), "{listed}");
    running.kill();
    heal(&mut site);
    check_home(&site);
    let running = site.start(Shape::new(2, 1));
    let still = until(&running, first.id, waits);
    assert_eq!(still.attempts, waiting.attempts);
    let counts = running.ask(running.client().pipelines()).unwrap().remove(0);
    assert_eq!((counts.accepted, counts.committed), (1, 1));
    let retried = running.call(&["retry", &first.id.to_string()]);
    assert_eq!(retried.expect_code(0).stdout, format!("{} o1: tried again now\n", first.id));
    let first = done(&running, first.id);
    assert_eq!((first.phase, first.attempts.len()), (Phase::Committed, 1));
    running.stop();
    let inputs = [("o1", rows(1)), ("o2", rows(2))];
    assert_eq!(tree::difference(&undisturbed(&inputs), &site.out()), None);
    check_home(&site);
}

#[test]
fn a_newer_version_of_a_file_that_waits_to_be_tried_again_lets_it_be_tried_and_then_replaces_it() {
    if !possible("no read was made to fail") {
        return;
    }
    for failing in [2, 1_000_000] {
        // The first one is claimed as the first of all.
        let site = given(HOURS, reads("/1-o1", 1, failing));
        site.put("o1", &rows(1));
        let mut running = site.start(Shape::ALONE);
        running.wait_for_log("waits to be tried again");
        let old = until(&running, 1, waits);
        let new = running.submit("o1", &rows(7));
        assert_eq!(running.wait(new.id).phase, Phase::Committed, "{failing}");
        let expected = if failing == 2 { Phase::Committed } else { Phase::Quarantined };
        assert_eq!(running.wait(old.id).phase, expected);
        running.stop();
        let out = site.out();
        assert_eq!(out["totals/totals.csv"], b"host,total\na,7\nh7,7\n", "{failing}");
        check_home(&site);
    }
}

#[test]
fn a_run_that_takes_what_is_there_does_not_wait_for_ever() {
    if !possible("no read was made to fail") {
        return;
    }
    let retry = "{ transient: { attempts: 2, backoff: 20ms, max_backoff: 1h, then: wait } }";
    let mut site = given(retry, reads("-o1", 1, 1_000_000));
    site.put("o1", &rows(1));
    let ended = site.once(Shape::ALONE);
    ended.expect_code(0);
    assert!(ended.stdout.contains("1 files accepted and not finished"), "{ended}");
    assert_eq!(site.names("quarantine"), [""; 0]);
    // The life after it has still to wait: nobody may read it sooner by starting again.
    heal(&mut site);
    check_home(&site);
}
