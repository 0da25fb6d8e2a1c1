//! Dry run: what a correction would change is told exactly, and everything is then as if nobody had
//! asked.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fs;

use serde_json::{Value, json};
use tidemill_client::{DryRun, Phase, Replaces, SubmitOptions, Which};
use tidemill_tests::process::{Ended, Process};
use tidemill_tests::{Running, Shape, Site, tree};

const NODE: &str = env!("CARGO_BIN_EXE_node");

/// One of everything that keeps state.
const PIPELINE: &str = "
pipeline: sales
sources:
  rows: { format: csv, fields: { user: string, n: int, x: float }, pattern: \"*.csv\" }
  names: { format: jsonl, fields: { user: string, full: string }, pattern: \"*.jsonl\" }
operators:
  size: { from: rows, filter: n >= 10 }
  sums: { from: rows, aggregate: { by: [user], compute: { hits: count(*), total: sum(x), least: min(n), most: max(n), kinds: count(distinct n) } } }
  busiest: { from: sums, top: { k: 2, order: [hits desc, user] } }
  first: { from: rows, dedupe: { by: [user], order: [n] } }
  named: { from: first, join: { with: names, on: [user], kind: left } }
  seen: { from: rows, state: { key: [user], order: [n], initial: fresh, transitions: [ { from: fresh, goto: known } ] } }
sinks:
  big: { from: size, files: { format: csv } }
  sums: { from: sums, table: { format: csv, key: [user] } }
  busiest: { from: busiest, table: { format: jsonl, key: [user] } }
  first: { from: first, files: { format: raw } }
  named: { from: named, table: { format: jsonl, key: [user] } }
  known: { from: seen.known, files: { format: csv, empty: skip } }
";

const A: &[u8] = b"user,n,x\nann,1,0.1\nbob,20,0.2\nann,7,1e300\n";
const B: &[u8] = b"user,n,x\nann,5,-1e300\ncy,6,0.3\n";
const NAMES: &[u8] =
    b"{\"user\":\"ann\",\"full\":\"Ann A\"}\n{\"user\":\"bob\",\"full\":\"Bob B\"}\n";
const NEW: &[u8] = b"user,n,x\ndee,3,0.7\nann,40,0.1\nann,bad,1\n";

/// A file that would take longer to be read again than a checkpoint takes, though little comes of it:
/// most of its records are too long.
fn late() -> String {
    let long = format!("{}\n", "x".repeat(1100 << 10));
    format!("user,n,x\nann,2,0.5\nzoe,9,1\n{}", long.repeat(12))
}

fn same_name() -> SubmitOptions {
    SubmitOptions { replaces: Replaces::SameName, ..SubmitOptions::default() }
}

fn name(name: &str) -> Which {
    Which::Name { pipeline: None, name: name.to_owned() }
}

/// Writes bytes beside the home, and tries to send them in the place of a file of that name.
#[track_caller]
fn try_file(site: &Site, running: &Running<'_>, name: &str, bytes: &[u8]) -> DryRun {
    let path = site.path().join(name);
    fs::write(&path, bytes).unwrap();
    let options = same_name();
    running.ask(running.client().try_file(&path, &options, |_, _| {})).unwrap()
}

#[track_caller]
fn replace(running: &Running<'_>, name: &str, bytes: &[u8]) {
    let sent = running.client().submit_bytes_with(name, bytes.to_vec(), same_name());
    let sent = running.ask(sent).unwrap();
    assert_eq!(running.wait(sent.id).phase, Phase::Committed);
}

#[track_caller]
fn given(running: &Running<'_>) {
    for (name, bytes) in [("a.csv", A), ("b.csv", B), ("n.jsonl", NAMES)] {
        let sent = running.submit(name, bytes);
        assert_eq!(running.wait(sent.id).phase, Phase::Committed);
    }
}

/// The hashes of what the checkpoint of a home holds, by worker and state.
fn kept(site: &Site) -> BTreeMap<String, String> {
    let packs = tree::read(&site.home().join("ckpt"));
    let packs = packs.into_iter().filter(|(place, _)| !place.contains("manifest"));
    packs
        .map(|(place, bytes)| {
            // The names, and the header, begin with epoch and generation.
            let header: [u8; 4] = bytes[8..12].try_into().unwrap();
            let rows = &bytes[12 + u32::from_le_bytes(header) as usize..];
            let place = place.splitn(3, '-').nth(2).unwrap().to_owned();
            (place, format!("{} bytes {}", rows.len(), blake3::hash(rows)))
        })
        .collect()
}

#[track_caller]
fn healthy(site: &Site) {
    let doctor = site.call(&["doctor", "home", "--deep"]);
    doctor.expect_code(0);
    assert!(doctor.stdout.contains("healthy"), "{}", doctor.stdout);
}

fn changed(told: &DryRun) -> BTreeMap<&str, [Option<u64>; 2]> {
    told.outputs.iter().map(|one| (&*one.path, [one.before, one.after])).collect()
}

#[test]
fn a_dry_run_leaves_everything_as_it_was_to_the_byte_of_the_checkpoint() {
    for shape in [Shape::new(1, 3), Shape::new(2, 2)] {
        let (site, control) = (Site::new(NODE, PIPELINE), Site::new(NODE, PIPELINE));
        let (running, undisturbed) = (site.start(shape), control.start(shape));
        [&running, &undisturbed].into_iter().for_each(given);
        running.wait_for_settled(&site);
        let before = (site.out(), site.names("processed"));
        let told = try_file(&site, &running, "a.csv", NEW);
        assert_eq!((told.corrects, told.records, told.rejected), (Some(1), 3, 1));
        let gone = running.ask(running.client().try_removal(name("b.csv"))).unwrap();
        assert!(gone.removes && !gone.tables.is_empty(), "{gone:?}");
        try_file(&site, &running, "n.jsonl", b"{\"user\":\"cy\",\"full\":\"Cy\"}\n");
        let fresh = try_file(&site, &running, "fresh.csv", NEW);
        assert_eq!(fresh.corrects, None);
        assert_eq!((site.out(), site.names("processed")), before);
        assert_eq!(tree::read(&site.home().join("spool")).len(), 0);
        assert_eq!(tree::read(&site.home().join("stage")).len(), 0);
        // What comes after it finds the same state: so much that the end writes a checkpoint.
        for running in [&running, &undisturbed] {
            running.wait(running.submit("late.csv", late().as_bytes()).id);
        }
        [running, undisturbed].into_iter().for_each(|running| drop(running.stop()));
        assert_eq!(tree::difference(&control.out(), &site.out()), None);
        let states = kept(&site);
        assert!(states.len() > 5, "{:?}", states.keys());
        assert_eq!(states, kept(&control), "{shape}");
        healthy(&site);
        // So does the next life, which begins with that checkpoint, and a correction for good.
        for site in [&site, &control] {
            let running = site.start(Shape::new(1, 2));
            replace(&running, "a.csv", NEW);
            running.stop();
        }
        assert_eq!(tree::difference(&control.out(), &site.out()), None);
    }
}

/// The rows of a table by key, as the client sees them.
fn rows(running: &Running<'_>, table: &str) -> Vec<Value> {
    running.call(&["table", table, "--json"]).expect_code(0).json_lines()
}

#[test]
fn what_a_dry_run_tells_is_what_the_correction_does() {
    let site = Site::new(NODE, PIPELINE);
    let running = site.start(Shape::new(1, 2));
    given(&running);
    running.wait_for_settled(&site);
    fs::write(site.path().join("a.csv"), NEW).unwrap();
    let tried = running.call(&["submit", "a.csv", "--replace", "--dry-run", "--json"]);
    let told = tried.expect_code(0).json();
    assert_eq!((&told["corrects"], &told["rejected"]), (&json!(1), &json!(1)));
    let tables = ["sums", "named"];
    let before = (site.out(), tables.map(|table| rows(&running, table)));
    replace(&running, "a.csv", NEW);
    running.wait_for_settled(&site);
    let after = (site.out(), tables.map(|table| rows(&running, table)));
    for output in told["outputs"].as_array().unwrap() {
        let path = output["path"].as_str().unwrap();
        let size = |tree: &tree::Tree| tree.get(path).map_or(Value::Null, |b| json!(b.len()));
        assert_eq!((&output["before"], &output["after"]), (&size(&before.0), &size(&after.0)));
    }
    let is_file =
        |path: &&String| ["sums/", "busiest/", "named/"].iter().all(|t| !path.starts_with(t));
    let differs = |path: &&String| before.0.get(*path) != after.0.get(*path);
    let paths: std::collections::BTreeSet<_> = before.0.keys().chain(after.0.keys()).collect();
    let expected: Vec<_> = paths.into_iter().filter(is_file).filter(differs).collect();
    let outputs = told["outputs"].as_array().unwrap().iter();
    let mut said: Vec<_> = outputs.map(|one| one["path"].as_str().unwrap().to_owned()).collect();
    said.sort();
    assert_eq!(said.iter().collect::<Vec<_>>(), expected);
    for (at, name) in tables.into_iter().enumerate() {
        let table = told["tables"].as_array().unwrap().iter().find(|one| one["table"] == name);
        let sample = table.unwrap()["sample"].as_array().unwrap();
        let side = |side: &str| -> Vec<Value> {
            let rows = sample.iter().map(|row| row[side].clone());
            rows.filter(|row| !row.is_null()).collect()
        };
        let less = |from: &[Value], what: &[Value]| -> Vec<Value> {
            from.iter().filter(|row| !what.contains(row)).cloned().collect()
        };
        assert_eq!(side("before"), less(&before.1[at], &after.1[at]), "{name}");
        assert_eq!(side("after"), less(&after.1[at], &before.1[at]), "{name}");
    }
    running.stop();
}

#[test]
fn a_file_that_would_be_set_aside_is_told_and_changes_nothing() {
    let yaml = PIPELINE.replacen("pattern:", "max_rejects: 0, pattern:", 1);
    let site = Site::new(NODE, &yaml);
    let running = site.start(Shape::new(1, 3));
    given(&running);
    let told = try_file(&site, &running, "a.csv", NEW);
    assert_eq!(told.failure.unwrap().code, "too_many_rejects");
    assert!(told.outputs.is_empty() && told.tables.is_empty());
    let told = try_file(&site, &running, "a.csv", b"nothing\n1\n");
    assert_eq!(told.failure.unwrap().code, "bad_format");
    let told = running.call(&["submit", "a.csv", "--replace", "--dry-run", "--yes"]);
    assert!(told.expect_code(3).stdout.contains("would be set aside"), "{told}");
    running.wait_for_settled(&site);
    let before = site.out();
    replace(&running, "a.csv", A);
    running.stop();
    assert_eq!(tree::difference(&before, &site.out()), None);
    healthy(&site);
}

#[test]
fn other_files_go_on_while_corrections_are_tried() {
    let (mut site, control) = (Site::new(NODE, PIPELINE), Site::new(NODE, PIPELINE));
    // As often as they can be: none may hold what is only tried.
    site.always(&["--checkpoint-every", "1ms"]);
    let file = |n: usize| format!("user,n,x\nu{},{n},0.{n}\nann,{},1\n", n % 7, n % 13);
    let running = site.start(Shape::new(2, 2));
    given(&running);
    let path = site.path().join("a.csv");
    fs::write(&path, NEW).unwrap();
    let (client, options) = (running.client(), same_name());
    running.ask(async {
        let send = async {
            let mut ids = Vec::new();
            for n in 0..40 {
                ids.push(
                    client.submit_bytes(&format!("f{n}.csv"), file(n), None).await.unwrap().id,
                );
            }
            ids
        };
        let tries = async {
            let mut told = Vec::new();
            for n in 0..20 {
                told.push(match n % 2 {
                    0 => client.try_file(&path, &options, |_, _| {}).await.unwrap(),
                    _ => client.try_removal(name("b.csv")).await.unwrap(),
                });
            }
            told
        };
        let (ids, told) = tokio::join!(send, tries);
        assert!(told.iter().all(|one| one.failure.is_none() && !one.tables.is_empty()));
        for id in ids {
            let done = client.wait(id, std::time::Duration::from_secs(60)).await.unwrap();
            assert_eq!(done.phase, Phase::Committed);
        }
    });
    // Whatever checkpoint is the last, the next life begins with it.
    running.kill();
    site.once(Shape::new(1, 2)).expect_code(0);
    let undisturbed = control.start(Shape::ALONE);
    given(&undisturbed);
    for n in 0..40 {
        undisturbed.wait(undisturbed.submit(&format!("f{n}.csv"), file(n).as_bytes()).id);
    }
    undisturbed.stop();
    assert_eq!(tree::difference(&control.out(), &site.out()), None);
    healthy(&site);
}

#[test]
fn a_kill_in_the_middle_of_a_dry_run_leaves_no_trace() {
    for (shape, point) in [
        (Shape::new(1, 3), "dry-run-there"),
        (Shape::new(1, 3), "dry-run-back"),
        (Shape::new(2, 2), "dry-run-back"),
    ] {
        let mut site = Site::new(NODE, PIPELINE);
        // As often as they can be: none may hold what is only tried.
        site.always(&["--checkpoint-every", "1ms"]);
        let running = site.start(shape);
        given(&running);
        running.stop();
        let before = site.out();
        site.variable("TIDEMILL_FAILPOINT", Some(&format!("{point}=kill")));
        site.announce("this generation is over");
        let running = site.start(shape);
        let path = site.path().join("a.csv");
        fs::write(&path, NEW).unwrap();
        let options = same_name();
        let tried = running.ask(running.client().try_file(&path, &options, |_, _| {}));
        assert!(tried.is_err(), "{point} was not reached");
        running.kill();
        site.variable("TIDEMILL_FAILPOINT", None);
        let running = site.start(Shape::ALONE);
        running.wait(running.submit("late.csv", b"user,n,x\nann,2,0.5\n").id);
        let late = running.ask(running.client().try_removal(name("late.csv"))).unwrap();
        assert_eq!(late.corrects.is_some(), late.removes);
        running.wait(running.ask(running.client().remove(name("late.csv"))).unwrap().id);
        running.stop();
        assert_eq!(tree::difference(&before, &site.out()), None, "{shape} {point}");
        assert_eq!(tree::read(&site.home().join("spool")).len(), 0);
        healthy(&site);
    }
}

#[test]
fn what_cannot_be_tried_is_refused_clearly() {
    let horizon = "
pipeline: p
sources:
  rows: { format: csv, fields: { user: string, at: timestamp }, pattern: \"*.csv\" }
operators:
  seen: { from: rows, state: { key: [user], order: [at], initial: fresh, horizon: 1d, transitions: [ { goto: fresh } ] } }
sinks:
  all: { from: seen.fresh, files: { format: csv } }
";
    let site = Site::new(NODE, horizon);
    let running = site.start(Shape::ALONE);
    let rows = b"user,at\nann,2026-01-01T00:00:00Z\n";
    running.wait(running.submit("a.csv", rows).id);
    fs::write(site.path().join("a.csv"), rows).unwrap();
    let refused = |arguments: &[&str], said: &str| {
        let ended: Ended = running.call(arguments);
        ended.expect_code(1);
        assert!(ended.stdout.contains(said), "{ended}");
    };
    refused(&["submit", "a.csv", "--replace", "--dry-run"], "has a horizon");
    refused(&["remove", "a.csv", "--dry-run"], "has a horizon");
    refused(&["remove", "77", "--dry-run"], "no submission has the id 77");
    refused(&["remove", "other.csv", "--dry-run"], "no committed file of that name");
    let usage = running.call(&["submit", "a.csv", "--dry-run"]);
    assert!(usage.expect_code(2).stderr.contains("--replace"), "{usage}");
    running.stop();
}

#[test]
fn yes_makes_the_change_that_was_shown() {
    let site = Site::new(NODE, PIPELINE);
    let running = site.start(Shape::new(1, 2));
    given(&running);
    fs::write(site.path().join("a.csv"), NEW).unwrap();
    let shown = running.call(&["submit", "a.csv", "--replace", "--dry-run"]);
    let text = &shown.expect_code(0).stdout;
    for part in ["in the place of 1", "3 records, 1 rejected", "table sums", "+ {\"user\":\"dee\""]
    {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    let done = running.call(&["submit", "a.csv", "--replace", "--dry-run", "--yes", "--wait"]);
    assert!(done.expect_code(0).stdout.contains("committed"), "{done}");
    let done = running.call(&["remove", "b.csv", "--dry-run", "--yes", "--wait"]);
    assert!(done.expect_code(0).stdout.contains("committed"), "{done}");
    let told = running.ask(running.client().try_removal(name("a.csv"))).unwrap();
    assert_eq!(changed(&told)["big/a.csv"][1], None);
    running.stop();
    assert!(site.out()["sums/sums.csv"].starts_with(b"user,hits"));
    healthy(&site);
}

#[test]
fn what_corrections_hold_and_how_many_keys_a_sum_has_is_shown() {
    let yaml = PIPELINE.replacen("pattern:", "corrections: forever, pattern:", 1);
    let site = Site::new(NODE, &yaml);
    let running = site.start(Shape::new(1, 2));
    given(&running);
    let stats = running.call(&["stats", "--json"]).expect_code(0).json();
    let row = |name: &str, kind: &str| {
        let rows = stats["operators"].as_array().unwrap().iter();
        let mut mine = rows.filter(|row| row["operator"] == name && row["kind"] == kind);
        mine.next().unwrap().clone()
    };
    assert_eq!(row("sums", "aggregate")["state_entries"], 3);
    assert!(row("sums", "aggregate")["state_bytes"].as_u64().unwrap() >= 3 * 32, "{stats}");
    assert_eq!(row("rows", "source csv")["retained_bytes"], A.len() + B.len());
    assert_eq!(row("names", "source jsonl")["retained_bytes"], 0);
    let text = running.call(&["stats"]).expect_code(0).stdout.clone();
    assert!(text.lines().next().unwrap().ends_with("RETAINED"), "{text}");
    let file = running.call(&["file", "1", "--json"]).expect_code(0).json();
    assert_eq!(file["retained_bytes"], A.len());
    let file = running.call(&["file", "3", "--json"]).expect_code(0).json();
    assert_eq!(file["retained_bytes"], Value::Null);
    assert!(running.call(&["file", "1"]).expect_code(0).stdout.contains("for corrections"));
    running.stop();
    // The next life knows them too.
    let running = site.start(Shape::new(1, 3));
    running.wait(running.submit("late.csv", b"user,n,x\nann,2,1\n").id);
    let stats = running.call(&["stats", "--json"]).expect_code(0).json();
    let rows = stats["operators"].as_array().unwrap().iter();
    let sums = rows.filter(|row| row["kind"] == "aggregate");
    let held: Vec<(u64, u64)> = sums
        .map(|row| ["state_entries", "state_bytes"].map(|of| row[of].as_u64().unwrap()).into())
        .collect();
    assert_eq!(held.iter().map(|(entries, _)| entries).sum::<u64>(), 3);
    assert!(held.iter().map(|(_, bytes)| bytes).sum::<u64>() >= 3 * 32, "{held:?}");
    running.stop();
}

/// While a correction is tried the state is one that was never committed. What comes due meanwhile is
/// written when it is undone, so that a life that is killed in between leaves no trace.
#[test]
fn no_checkpoint_is_taken_of_what_was_only_tried() {
    let yaml = "pipeline: sums\nsources:\n  rows: { format: csv, fields: { k: string, n: int } }\n\
                operators:\n  sums: { from: rows, aggregate: { by: [k], compute: { total: sum(n) } } }\n\
                sinks:\n  copy: { from: rows, files: { format: raw } }\n  \
                sums: { from: sums, table: { format: csv, key: [k] } }\n";
    let mut site = Site::new(NODE, yaml);
    let hold = site.path().join("hold");
    site.trial(Some(&format!("hold-sync={}", hold.display())));
    site.always(&["--checkpoint-every", "1500ms"]);
    let running = site.start(Shape::new(1, 2));
    running.wait(running.submit("a.csv", b"k,n\nx,1\n").id);
    // So much that it is staged: the trial stands until that is durable.
    fs::write(&hold, "").unwrap();
    fs::write(site.path().join("a.csv"), format!("k,n\n{}", "x,100\n".repeat(20_000))).unwrap();
    let mut command = site.command(&["submit", "--replace", "--dry-run", "a.csv"]);
    let mut trial = Process::start(command.args(["--server", &running.address]));
    running.wait_for_condition(Some("slow_disk"));
    assert!(trial.is_alive(), "it is not through");
    running.kill();
    // It would ask the next life again.
    trial.kill();
    drop(trial.ended());
    fs::remove_file(&hold).unwrap();
    site.put("b.csv", b"k,n\nx,10\n");
    site.once(Shape::new(1, 2)).expect_code(0);
    assert_eq!(site.out()["sums/sums.csv"], b"k,total\nx,11\n");
    healthy(&site);
}

#[test]
fn a_removal_that_would_be_set_aside_says_so() {
    let site = Site::new(NODE, PIPELINE);
    let running = site.start(Shape::ALONE);
    given(&running);
    running.wait_for_settled(&site);
    // What is to be taken back is not there any more.
    fs::remove_file(site.folder("processed").join("a.csv")).unwrap();
    let said = running.call(&["remove", "a.csv", "--dry-run"]);
    assert!(said.expect_code(3).stdout.contains("old_version_lost"), "{said}");
    running.stop();
}
