//! Checkpoints: state survives whatever ends the process, on any number of workers and processes,
//! and a start reads only what came after. A checkpoint that is damaged or does not fit is never
//! trusted, and what is read again must be what it was.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::PathBuf;

use tidemill_tests::process::{Ended, Process};
use tidemill_tests::{Shape, Site, Tree, tree};

const NODE: &str = env!("CARGO_BIN_EXE_node");

/// Two aggregates, one behind the other, a table without an aggregate, and outputs per file.
const PIPELINE: &str = "\
pipeline: traffic
sources:
  logs:
    format: jsonl
    fields: { host: string, status: int, bytes: int, ms: float }
operators:
  by_class:
    from: logs
    route: { bad: status >= 500, ok: else }
  traffic:
    from: by_class.ok
    aggregate:
      by: [host, status]
      compute: { hits: count(*), bytes: sum(bytes), ms: sum(ms), mean: avg(ms), sized: count(bytes) }
  hosts:
    from: traffic
    aggregate: { by: [status], compute: { hosts: count(*), hits: sum(hits), ms: sum(ms) } }
sinks:
  errors: { from: by_class.bad, files: { format: csv } }
  traffic: { from: traffic, table: { format: csv, key: [host, status] } }
  hosts: { from: hosts, table: { format: jsonl, key: [status] } }
  seen: { from: by_class.ok, table: { format: csv, key: [host] } }
";

/// Checkpoints as often as they can be.
const OFTEN: [&str; 2] = ["--checkpoint-every", "1ms"];
/// Checkpoints only at a clean end, if at all.
const NEVER: [&str; 2] = ["--checkpoint-every", "0s"];

fn site(flags: &[&str]) -> Site {
    let mut site = Site::new(NODE, PIPELINE);
    site.always(flags);
    site
}

/// Returns file `number`: some keys that all files have, some of its own, and a record that is bad.
fn content(number: u64) -> Vec<u8> {
    let mut text = String::new();
    for row in 0..40 {
        let host = if row % 3 == 0 { row } else { number * 100 + row };
        let status = [200, 404, 503][(row % 3) as usize];
        let (bytes, ms) = (number * 7 + row, (row as f64 + 0.1) * (number as f64 + 0.7) / 3.0);
        let line = format!(
            "{{\"host\":\"h{host}\",\"status\":{status},\"bytes\":{bytes},\"ms\":{ms:?}}}\n"
        );
        text += &line;
    }
    text += "{\"host\":\"odd\",\"status\":\"none\"}\n{\"status\":200,\"ms\":-0.0}\n";
    text.into_bytes()
}

fn name(number: u64) -> String {
    format!("f{number:04}.jsonl")
}

fn put(site: &Site, numbers: impl Iterator<Item = u64>) {
    numbers.for_each(|number| site.put(&name(number), &content(number)));
}

/// Returns what all files up to this one give in a life that nothing disturbs.
fn undisturbed(files: u64) -> Tree {
    let site = site(&NEVER);
    put(&site, 1..=files);
    site.once(Shape::ALONE).expect_code(0);
    site.out()
}

#[track_caller]
fn expect_out(site: &Site, expected: &Tree, what: &str) {
    if let Some(difference) = tree::difference(expected, &site.out()) {
        panic!("{what}:\n{difference}");
    }
}

/// Takes the inputs of these files away, as retention would.
fn remove_inputs(site: &Site, numbers: impl Iterator<Item = u64>) {
    for number in numbers {
        fs::remove_file(site.folder("processed").join(name(number))).unwrap();
    }
}

fn checkpoint_files(site: &Site, ending: &str) -> Vec<PathBuf> {
    let folder = site.home().join("ckpt/traffic");
    let all = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> =
        all.filter(|path| path.to_string_lossy().ends_with(ending)).collect();
    files.sort();
    files
}

/// Feeds files one by one, each in a checkpoint of its own; ends as a power cut would.
fn kept_and_killed(site: &Site, shape: Shape, files: std::ops::RangeInclusive<u64>) {
    let mut running = site.start(shape);
    for number in files {
        put(site, number..=number);
        running.wait_for_checkpoint(number);
    }
    running.kill();
}

fn survives(before: Shape, after: Shape) {
    let site = site(&OFTEN);
    kept_and_killed(&site, before, 1..=3);
    remove_inputs(&site, 1..=3);
    let mut running = site.start(after);
    put(&site, 4..=4);
    running.wait_for_checkpoint(4);
    running.kill();
    remove_inputs(&site, 4..=4);
    // A third life, of the first shape, on what the second one wrote on top of the first.
    put(&site, 5..=5);
    site.once(before).expect_code(0);
    expect_out(&site, &undisturbed(5), &format!("{before}, then {after}, then {before}"));
}

#[test]
fn state_survives_kill_9_without_its_inputs() {
    survives(Shape::ALONE, Shape::ALONE);
}

#[test]
fn state_moves_to_another_number_of_workers() {
    survives(Shape::new(1, 2), Shape::new(1, 3));
}

#[test]
fn state_moves_between_one_process_and_two() {
    survives(Shape::new(2, 2), Shape::new(1, 3));
}

#[test]
fn state_moves_from_one_worker_to_two_processes() {
    survives(Shape::new(1, 1), Shape::new(2, 1));
}

#[test]
fn a_second_checkpoint_writes_only_what_changed() {
    let site = site(&OFTEN);
    let mut running = site.start(Shape::new(1, 2));
    put(&site, 1..=8);
    running.wait_for_checkpoint(8);
    // One row more: one key of each state at most.
    site.put("one.jsonl", b"{\"host\":\"h0\",\"status\":200,\"bytes\":1,\"ms\":1.0}\n");
    running.wait_for_checkpoint(9);
    running.kill();
    let size = |epoch: &str| -> u64 {
        let packs = checkpoint_files(&site, ".pack");
        let of_epoch = packs
            .iter()
            .filter(|path| path.file_name().unwrap().to_string_lossy().starts_with(epoch));
        of_epoch.map(|path| path.metadata().unwrap().len()).sum()
    };
    let (first, second) = (size("8-"), size("9-"));
    assert!(second > 0 && second * 3 < first, "{first} bytes, then {second}");
    let manifests = checkpoint_files(&site, "9-1.manifest.json");
    let manifest = fs::read_to_string(manifests.first().unwrap()).unwrap();
    assert!(manifest.contains("\"8-1-a1-w0.pack\"") && manifest.contains("\"9-1-"), "{manifest}");
    fs::remove_dir_all(site.folder("processed")).unwrap();
    site.once(Shape::new(1, 3)).expect_code(0);
    let undisturbed = {
        let site = self::site(&NEVER);
        put(&site, 1..=8);
        site.put("one.jsonl", b"{\"host\":\"h0\",\"status\":200,\"bytes\":1,\"ms\":1.0}\n");
        site.once(Shape::ALONE).expect_code(0);
        site.out()
    };
    expect_out(&site, &undisturbed, "a full checkpoint and a delta");
}

#[test]
fn only_the_last_two_checkpoints_are_kept() {
    let site = site(&OFTEN);
    kept_and_killed(&site, Shape::ALONE, 1..=6);
    // The last one may not have been swept when the process was killed.
    site.once(Shape::ALONE).expect_code(0);
    assert_eq!(checkpoint_files(&site, ".manifest.json").len(), 2);
    assert_eq!(checkpoint_files(&site, ".tmp"), Vec::<PathBuf>::new());
    let manifests: String = checkpoint_files(&site, ".manifest.json")
        .iter()
        .map(|path| fs::read_to_string(path).unwrap())
        .collect();
    for pack in checkpoint_files(&site, ".pack") {
        let name = pack.file_name().unwrap().to_string_lossy().into_owned();
        assert!(manifests.contains(&name), "{name} belongs to no checkpoint");
    }
}

/// Changes one byte in the middle of each of these files.
fn damage(files: &[PathBuf]) {
    assert!(!files.is_empty());
    for path in files {
        let mut bytes = fs::read(path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(path, bytes).unwrap();
    }
}

#[test]
fn a_damaged_checkpoint_falls_back_to_the_one_before() {
    let site = site(&OFTEN);
    kept_and_killed(&site, Shape::new(1, 2), 1..=3);
    let newest: Vec<PathBuf> = checkpoint_files(&site, ".pack")
        .into_iter()
        .filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("3-"))
        .collect();
    damage(&newest[..1]);
    // What the older one holds is not needed; what came after it is.
    remove_inputs(&site, 1..=2);
    let ended = site.once(Shape::new(1, 2));
    ended.expect_code(0).expect_said("the checkpoint cannot be used").expect_said("epoch=2 rows=");
    expect_out(&site, &undisturbed(3), "the older checkpoint");
}

#[test]
fn two_damaged_checkpoints_fall_back_to_the_inputs() {
    let site = site(&OFTEN);
    kept_and_killed(&site, Shape::new(1, 2), 1..=3);
    damage(&checkpoint_files(&site, ".manifest.json"));
    let ended = site.once(Shape::new(1, 3));
    ended.expect_code(0).expect_said("the state is built again from processed/");
    expect_out(&site, &undisturbed(3), "all inputs again");
    // They count no more, and a new life can write new ones.
    kept_and_killed(&site, Shape::ALONE, 4..=4);
    remove_inputs(&site, 1..=4);
    site.once(Shape::ALONE).expect_code(0);
    expect_out(&site, &undisturbed(4), "a new checkpoint");
}

#[test]
fn without_a_checkpoint_that_is_whole_inputs_must_be_there() {
    let site = site(&OFTEN);
    kept_and_killed(&site, Shape::ALONE, 1..=2);
    damage(&checkpoint_files(&site, ".pack"));
    remove_inputs(&site, 1..=1);
    let ended = site.once(Shape::ALONE);
    ended.expect_code(1).expect_said("its tables cannot be rebuilt").expect_said("f0001.jsonl");
}

#[test]
fn another_pipeline_file_builds_the_state_again() {
    let other = PIPELINE.replace("ok: else", "ok: status <> 404");
    let site = site(&OFTEN);
    kept_and_killed(&site, Shape::ALONE, 1..=3);
    fs::write(site.yaml(), &other).unwrap();
    let ended = site.once(Shape::new(1, 2));
    ended.expect_code(0).expect_said("of another pipeline file: aggregate/traffic");
    let fresh = Site::new(NODE, &other);
    put(&fresh, 1..=3);
    fresh.once(Shape::ALONE).expect_code(0);
    expect_out(&site, &fresh.out(), "the other pipeline");
}

#[test]
fn what_does_not_concern_the_state_keeps_the_checkpoint() {
    let site = site(&OFTEN);
    kept_and_killed(&site, Shape::ALONE, 1..=2);
    remove_inputs(&site, 1..=2);
    let other = PIPELINE.replace("key: [status] }", "key: [status], publish_every: 5s }");
    assert_ne!(other, PIPELINE);
    fs::write(site.yaml(), other).unwrap();
    site.once(Shape::ALONE).expect_code(0).expect_said("restoring a checkpoint");
    expect_out(&site, &undisturbed(2), "another period");
}

#[test]
fn a_clean_end_spares_the_next_start_many_small_files() {
    let site = site(&NEVER);
    put(&site, 1..=150);
    site.once(Shape::new(1, 2)).expect_code(0).expect_said("wrote a checkpoint");
    fs::remove_dir_all(site.folder("processed")).unwrap();
    site.once(Shape::new(1, 2)).expect_code(0);
    expect_out(&site, &undisturbed(150), "after a clean end");
}

#[test]
fn a_stop_keeps_what_a_kill_after_it_would_have_to_read() {
    let site = site(&NEVER);
    let running = site.start(Shape::new(2, 1));
    put(&site, 1..=150);
    running.wait_for_finished(150);
    running.stop().expect_said("wrote a checkpoint");
    fs::remove_dir_all(site.folder("processed")).unwrap();
    site.once(Shape::ALONE).expect_code(0);
    expect_out(&site, &undisturbed(150), "after a stop");
}

/// Lets the journal remember another hash of an output than it had. Nobody may have it open.
fn forge(site: &Site, output: &str) {
    let out = site.out();
    let (_, bytes) = out.iter().find(|(path, _)| path.starts_with(output)).unwrap();
    let hash = blake3::hash(bytes);
    let path = site.home().join("journal.db");
    let mut journal = fs::read(&path).unwrap();
    let places: Vec<usize> = journal
        .windows(32)
        .enumerate()
        .filter(|(_, window)| *window == hash.as_bytes())
        .map(|(at, _)| at)
        .collect();
    assert!(!places.is_empty(), "{output} is not in the journal");
    places.iter().for_each(|at| journal[*at] ^= 0xff);
    fs::write(path, journal).unwrap();
}

#[test]
fn what_is_read_again_must_be_what_was_committed() {
    let mut site = site(&NEVER);
    put(&site, 1..=3);
    site.once(Shape::new(1, 2)).expect_code(0);
    // Read again, nothing differs.
    site.once(Shape::new(1, 3)).expect_code(0);
    forge(&site, "errors/f0002");
    site.announce("nondeterministic");
    let ended = site.once(Shape::new(1, 2));
    ended.expect_code(70).expect_said("f0002.jsonl (epoch 2)").expect_said("sink errors");
    ended.expect_said("BLAKE3").expect_said("now it has");
    // Another plan may give other outputs: it is not compared.
    let other = PIPELINE.replace("count(bytes)", "count(ms)");
    fs::write(site.yaml(), other).unwrap();
    site.once(Shape::ALONE).expect_code(0);
}

#[test]
fn rejects_are_compared_too() {
    let mut site = site(&NEVER);
    put(&site, 1..=2);
    site.once(Shape::ALONE).expect_code(0);
    forge(&site, "rejects/f0001");
    site.announce("nondeterministic");
    site.once(Shape::ALONE).expect_code(70).expect_said("sink rejects");
}

/// Runs what is there to its end, with a failpoint.
fn once_with(site: &Site, failpoint: &str) -> Ended {
    let mut arguments = vec!["run", "pipeline.yaml", "--home", "home", "--once", "-w", "2"];
    arguments.extend(["--grpc", "127.0.0.1:0", "--quiet", "1ms", "--scan", "50ms"]);
    arguments.extend(NEVER);
    let mut command = site.command(&arguments);
    command.env("TIDEMILL_FAILPOINT", failpoint);
    Process::start(&mut command).ended()
}

#[test]
fn a_kill_at_each_step_of_a_checkpoint_loses_nothing() {
    let expected = undisturbed(150);
    for step in ["pack-written", "pack-placed", "manifest-placed", "row-written", "durable"] {
        let site = site(&NEVER);
        put(&site, 1..=150);
        let ended = once_with(&site, &format!("checkpoint-{step}=kill"));
        assert_eq!(ended.code, None, "{step}: {ended}");
        let again = site.once(Shape::new(1, 3));
        again.expect_code(0);
        let restored = again.stderr.contains("restoring a checkpoint");
        assert_eq!(restored, step == "durable", "{step}: {again}");
        expect_out(&site, &expected, step);
        assert_eq!(checkpoint_files(&site, ".tmp"), Vec::<PathBuf>::new(), "{step}");
    }
}

#[test]
fn a_checkpoint_that_the_disk_refuses_is_given_up_and_nothing_else() {
    let site = site(&NEVER);
    put(&site, 1..=150);
    let ended = once_with(&site, "checkpoint-pack-placed=error");
    ended.expect_code(0).expect_said("a checkpoint could not be written");
    assert_eq!(checkpoint_files(&site, ".pack"), Vec::<PathBuf>::new(), "nothing is left of it");
    let again = site.once(Shape::ALONE);
    again.expect_code(0).expect_said("wrote a checkpoint");
    expect_out(&site, &undisturbed(150), "a refused checkpoint");
}
