//! Service: what clients are told is true, and a home survives the end of its process, whatever
//! ended it.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tidemill_bench::generate::{Dataset, Shape as Size, files};
use tidemill_client::{Error, Filter, Phase, WatchFilter};
use tidemill_tests::{Running, Shape, Site, Tree, oracle, tree};

const NODE: &str = env!("CARGO_BIN_EXE_node");
const ACCESS_LOGS: &str = include_str!("../../examples/access-logs/pipeline.yaml");

/// A pipeline in which records take every way out: kept, dropped, filtered, rejected twice.
const WAYS: &str = "\
pipeline: ways
sources:
  rows: { format: jsonl, pattern: \"*.jsonl*\", fields: { kind: string, n: int } }
operators:
  split: { from: rows, route: { big: n > 100, small: n > 10, tiny: else }, drop: [tiny] }
  odd: { from: split.small, filter: 100 / (n - 50) <> 0 AND n % 2 = 1 }
  kinds: { from: [split.big, odd], aggregate: { by: [kind], compute: { rows: count(*) } } }
sinks:
  high: { from: split.big, files: { format: raw } }
  uneven: { from: odd, files: { format: csv } }
  rows_of: { from: kinds, table: { format: csv, key: [kind] } }
";

/// 200 records: n = 0..200, with two lines that are no records.
fn ways(kind: &str) -> Vec<u8> {
    let line = |n: usize| match n {
        120 | 150 => "nonsense\n".to_owned(),
        _ => format!("{{\"kind\":\"{kind}\",\"n\":{n}}}\n"),
    };
    (0..200).map(line).collect::<String>().into_bytes()
}

/// How many records of one such file go where.
const READ: u64 = 200;
const UNREADABLE: u64 = 2;
const BIG: u64 = 99 - 2; // 101..=199 without the two
const SMALL: u64 = 90; // 11..=100
const TINY: u64 = 11; // 0..=10
const DIVIDED_BY_ZERO: u64 = 1; // 50
const ODD: u64 = 45; // 11, 13, ..., 99; none of them makes 100 / (n - 50) zero

#[test]
fn the_numbers_of_an_operator_add_up() {
    for shape in [Shape::ALONE, Shape::new(1, 3), Shape::new(2, 2)] {
        let site = Site::new(NODE, WAYS);
        let running = site.start(shape);
        running.submit("a.jsonl", &ways("a"));
        running.submit("b.jsonl", &ways("b"));
        running.submit("c.jsonl", b"");
        running.wait_for_finished(3);

        let rows = settled_stats(&running, 2 * READ);
        let check = |operator: &str, taken: u64, given: u64, rejected: u64| {
            let row = rows.iter().find(|row| row["operator"] == operator).unwrap();
            let found =
                [&row["records_in"], &row["records_out"], &row["rejected"]].map(Value::as_u64);
            let expected = [taken, given, rejected].map(|count| Some(2 * count));
            assert_eq!(found, expected, "{shape}: in, out, rejected of {operator}: {row}");
            assert_eq!(row["backlog"], 0, "{row}");
        };
        check("rows", READ, READ - UNREADABLE, UNREADABLE);
        check("split", READ - UNREADABLE, BIG + SMALL, 0);
        assert_eq!(READ - UNREADABLE, BIG + SMALL + TINY);
        check("odd", SMALL, ODD, DIVIDED_BY_ZERO);

        check("high", BIG, BIG, 0);
        check("uneven", ODD, ODD, 0);
        let rejected = UNREADABLE + DIVIDED_BY_ZERO;
        check("rejects", rejected, rejected, 0);
        let kinds = rows.iter().find(|row| row["operator"] == "kinds").unwrap();
        assert_eq!(kinds["records_in"], 2 * (BIG + ODD), "{kinds}");

        running.stop();
        let rows = BIG + ODD;
        let expected = format!("kind,rows\na,{rows}\nb,{rows}\n");
        assert_eq!(site.out()["rows_of/rows_of.csv"], expected.into_bytes());
    }
}

#[test]
fn a_sink_may_be_called_like_its_operator() {
    let site = Site::new(NODE, &WAYS.replace("uneven:", "odd:").replace("rows_of:", "kinds:"));
    let running = site.start(Shape::ALONE);
    running.submit("a.jsonl", &ways("a"));
    running.wait_for_finished(1);
    for row in settled_stats(&running, READ) {
        assert_eq!(row["backlog"], 0, "{row}");
    }
    running.stop();
}

/// How long numbers may take until they are told.
const STATS_PATIENCE: Duration = Duration::from_secs(10);

/// Numbers of other processes arrive a little later: asks until the source has told everything.
fn settled_stats(running: &Running<'_>, records: u64) -> Vec<Value> {
    let deadline = Instant::now() + STATS_PATIENCE;
    loop {
        let stats = running.call(&["stats", "--json"]).expect_code(0).json();
        let rows = stats["operators"].as_array().unwrap().clone();
        let of_source = |row: &&Value| row["kind"].as_str().unwrap().starts_with("source");
        let read = rows.iter().filter(of_source).map(|row| row["records_in"].as_u64().unwrap());
        let done = read.sum::<u64>() >= records && rows.iter().all(|row| row["backlog"] == 0);
        if done || Instant::now() > deadline {
            return rows;
        }
    }
}

#[test]
fn the_rows_of_the_workers_add_up_to_the_sum() {
    let site = Site::new(NODE, WAYS);
    let running = site.start(Shape::new(1, 3));
    running.submit("a.jsonl", &ways("a"));
    running.wait_for_finished(1);
    let sums = settled_stats(&running, READ);
    let rows = running.call(&["stats", "--json", "--workers"]).json();
    let rows = rows["operators"].as_array().unwrap();
    for sum in &sums {
        for column in ["records_in", "records_out", "rejected", "bytes_out"] {
            let of_operator = rows
                .iter()
                .filter(|row| row["operator"] == sum["operator"] && row["kind"] == sum["kind"]);
            let total: u64 = of_operator.map(|row| row[column].as_u64().unwrap()).sum();
            assert_eq!(Some(total), sum[column].as_u64(), "{column} of {sum}");
        }
    }
    assert!(rows.iter().filter_map(|row| row["worker"].as_u64()).max() == Some(2), "{rows:?}");
    running.stop();
}

#[test]
fn what_is_told_of_a_file_is_what_lies_on_disk() {
    let site = Site::new(NODE, WAYS);
    let running = site.start(Shape::new(1, 2));
    let bytes = ways("a");
    let sent = running.submit("a.jsonl", &bytes);
    running.wait(sent.id);
    let file = running.call(&["file", &sent.id.to_string(), "--json"]).expect_code(0).json();
    for (key, expected) in [
        ("id", json!(sent.id)),
        ("pipeline", json!("ways")),
        ("epoch", json!(sent.epoch)),
        ("name", json!("a.jsonl")),
        ("source", json!("rows")),
        ("bytes", json!(bytes.len())),
        ("blake3", json!(blake3::hash(&bytes).to_string())),
        ("phase", json!("committed")),
        ("bytes_read", json!(bytes.len())),
        ("records", json!(READ)),
        ("rejected", json!(UNREADABLE + DIVIDED_BY_ZERO)),
        ("reason", Value::Null),
    ] {
        assert_eq!(file[key], expected, "{key} of {file}");
    }
    running.stop();
    let mut out = site.out();
    out.remove("rows_of/rows_of.csv");
    let told: Tree = file["outputs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|output| {
            let path = output["path"].as_str().unwrap().to_owned();
            assert_eq!(
                output["bytes"].as_u64(),
                out.get(&path).map(|bytes| bytes.len() as u64),
                "{path}"
            );
            (path.clone(), out[&path].clone())
        })
        .collect();
    assert_eq!(tree::difference(&out, &told), None);
}

#[test]
fn files_are_listed_newest_first_and_by_phase() {
    let site = Site::new(NODE, WAYS);
    let running = site.start(Shape::ALONE);
    for (name, bytes) in
        [("one.jsonl", &ways("a")[..]), ("bad.jsonl.gz", b"\x1f\x8b\x08\x00"), ("two.jsonl", b"")]
    {
        let sent = running.submit(name, bytes);
        running.wait(sent.id);
    }
    let names = |arguments: &[&str]| -> Vec<String> {
        let all = [&["files", "--json"], arguments].concat();
        let lines = running.call(&all).expect_code(0).json_lines();
        lines.iter().map(|line| line["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(&[]), ["two.jsonl", "bad.jsonl.gz", "one.jsonl"]);
    assert_eq!(names(&["--limit", "2"]), ["two.jsonl", "bad.jsonl.gz"]);
    assert_eq!(names(&["--phase", "quarantined"]), ["bad.jsonl.gz"]);
    assert_eq!(names(&["--phase", "committed"]), ["two.jsonl", "one.jsonl"]);
    assert_eq!(names(&["--phase", "reading"]), Vec::<String>::new());
    assert_eq!(names(&["--name", "one.jsonl"]), ["one.jsonl"]);
    assert_eq!(names(&["--pipeline", "ways"]).len(), 3);

    let first =
        running.ask(running.client().list(&Filter { limit: 2, ..Filter::default() })).unwrap();
    let before = first.next_before;
    assert!(before.is_some());
    let rest = running
        .ask(running.client().list(&Filter { limit: 2, before, ..Filter::default() }))
        .unwrap();
    assert_eq!(rest.submissions.len(), 1);
    assert_eq!(rest.submissions[0].name, "one.jsonl");

    let pipelines = running.ask(running.client().pipelines()).unwrap();
    let one = &pipelines[0];
    assert_eq!((one.accepted, one.committed, one.quarantined, one.committed_epoch), (0, 2, 1, 3));
    running.stop();
}

#[test]
fn every_stage_of_every_file_is_timed() {
    let site = Site::new(NODE, WAYS);
    let running = site.start(Shape::ALONE);
    for number in 0..5 {
        running.submit(&format!("{number}.jsonl"), &ways("a"));
    }
    running.wait_for_finished(5);
    let latency = running.call(&["latency", "--json"]).expect_code(0).json();
    let stages = latency["stages"].as_array().unwrap();
    let names: Vec<&str> = stages.iter().map(|stage| stage["stage"].as_str().unwrap()).collect();
    assert_eq!(names, ["claim", "accept", "read", "answer", "commit", "total"]);
    for stage in stages {
        assert_eq!(stage["count"], 5, "{stage}");
        let quantiles = ["min_us", "p50_us", "p90_us", "p99_us", "p999_us", "max_us"];
        let values = quantiles.map(|key| stage[key].as_u64().unwrap());
        assert!(values.is_sorted(), "{stage}");
    }
    assert!(stages[5]["max_us"].as_u64() >= stages[2]["max_us"].as_u64());
    running.stop();
}

#[test]
fn the_author_is_told_in_json() {
    let site = Site::new(NODE, ACCESS_LOGS);
    let check = site.call(&["check", "--json", "pipeline.yaml"]).expect_code(0).json();
    assert_eq!(check[0]["ok"], true);
    assert_eq!(check[0]["pipeline"], "access-logs");

    let graph = site.call(&["graph", "--json", "pipeline.yaml"]).expect_code(0).json();
    let nodes: Vec<&str> = graph["nodes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|node| node["name"].as_str().unwrap())
        .collect();
    for name in ["logs", "by_class", "traffic", "errors", "rejects"] {
        assert!(nodes.contains(&name), "{name} is not among {nodes:?}");
    }
    for edge in graph["edges"].as_array().unwrap() {
        assert!(nodes.contains(&edge["from"].as_str().unwrap()), "{edge}");
        assert!(nodes.contains(&edge["to"].as_str().unwrap()), "{edge}");
    }
    assert!(site.call(&["graph", "pipeline.yaml"]).expect_code(0).stdout.starts_with("flowchart"));
    let svg = site.call(&["graph", "--format", "svg", "pipeline.yaml"]);
    assert!(svg.expect_code(0).stdout.starts_with("<svg"), "{svg}");

    let config = site.call(&["config", "--json", "-w", "5"]).expect_code(0).json();
    let setting = |name: &str| {
        config.as_array().unwrap().iter().find(|one| one["name"] == name).unwrap().clone()
    };
    assert_eq!(setting("workers")["value"].as_str(), Some("5"), "{config}");
    assert_eq!(setting("grpc")["value"].as_str(), Some("127.0.0.1:7171"), "{config}");
    assert_ne!(setting("workers")["origin"], setting("grpc")["origin"], "{config}");

    fs::write(site.yaml(), "pipeline: p\nsources: {}\n").unwrap();
    let check = site.call(&["check", "--json", "pipeline.yaml"]).expect_code(2).json();
    assert_eq!(check[0]["ok"], false);
    let mistakes = check[0]["mistakes"].as_array().unwrap();
    assert!(!mistakes.is_empty() && mistakes.iter().all(|one| one["line"].is_u64()), "{check}");
}

#[test]
fn submit_through_the_command_waits_and_tells() {
    let site = Site::new(NODE, WAYS);
    fs::write(site.path().join("a.jsonl"), ways("a")).unwrap();
    fs::write(site.path().join("b.jsonl"), ways("b")).unwrap();
    fs::write(site.path().join("bad.jsonl.gz"), b"\x1f\x8b\x08\x00").unwrap();
    fs::write(site.path().join("other.txt"), "x").unwrap();
    let running = site.start(Shape::ALONE);

    let sent = running.call(&["submit", "--wait", "a.jsonl"]);
    assert_eq!(sent.expect_code(0).stdout, "1  a.jsonl  committed\n");
    let sent = running.call(&["submit", "--wait", "--json", "b.jsonl", "--name", "c.jsonl"]);
    let line = &sent.expect_code(0).json_lines()[0];
    assert_eq!((&line["name"], &line["phase"]), (&json!("c.jsonl"), &json!("committed")));

    let bad = running.call(&["submit", "--wait", "bad.jsonl.gz", "a.jsonl"]);
    bad.expect_code(3);
    assert!(bad.stdout.contains("bad.jsonl.gz  quarantined  bad_format: gzip data"), "{bad}");
    assert!(bad.stdout.contains("a.jsonl  committed"), "{bad}");

    running
        .call(&["submit", "other.txt"])
        .expect_code(1)
        .expect_said("no_source")
        .expect_said("*.jsonl*");
    running.call(&["submit", "absent.jsonl"]).expect_code(1).expect_said("absent.jsonl");
    running.call(&["submit", "--pipeline", "nope", "a.jsonl"]).expect_code(1).expect_said("ways");
    running
        .call(&["submit", "a.jsonl", "--name", "../a.jsonl"])
        .expect_code(1)
        .expect_said("bad_name");
    running.call(&["submit", "."]).expect_code(1).expect_said("cannot be sent");
    running.call(&["file", "4711"]).expect_code(1).expect_said("4711");
    running.stop();
    assert_eq!(site.names("unprocessed"), Vec::<String>::new());
    assert_eq!(site.names("underprocess"), Vec::<String>::new());
    site.call(&["files", "--server", "http://127.0.0.1:9"])
        .expect_code(1)
        .expect_said("cannot connect");
}

#[test]
fn submit_through_the_client_is_durable_before_it_answers() {
    let site = Site::new(NODE, WAYS);
    let running = site.start(Shape::new(1, 2));
    let sent = running.submit("a.jsonl", &ways("a"));
    running.kill();
    // The answer was there, so the file is.
    site.once(Shape::ALONE).expect_code(0);
    let running = site.start(Shape::ALONE);
    let done = running.ask(running.client().get(sent.id)).unwrap();
    assert_eq!((done.phase, done.records), (Phase::Committed, READ));
    assert_eq!(done.name, "a.jsonl");

    let refused = running.ask(running.client().submit_bytes("a\n.jsonl", "x", None)).unwrap_err();
    assert_eq!(refused.word(), Some("bad_name"), "{refused}");
    assert!(!refused.is_temporary());
    let absent = running.ask(running.client().get(99)).unwrap_err();
    assert!(matches!(absent, Error::Server { .. }), "{absent}");
    running.stop();
}

#[test]
fn a_watcher_sees_the_phases_of_a_file_in_their_order() {
    for shape in [Shape::ALONE, Shape::new(2, 2)] {
        let site = Site::new(NODE, WAYS);
        let running = site.start(shape);
        let mut all = running.watch();
        let sent: Vec<u64> = (0..4)
            .map(|n| running.submit(&format!("{n}.jsonl"), &ways("a").repeat(50)).id)
            .collect();
        let bad = running.submit("bad.jsonl.gz", b"\x1f\x8b\x08").id;
        let mut seen: std::collections::BTreeMap<u64, Vec<Phase>> = Default::default();
        while seen
            .values()
            .filter(|phases| phases.last().is_some_and(|last| last.is_final()))
            .count()
            < 5
        {
            let change = running.ask(all.next()).unwrap().unwrap();
            seen.entry(change.id).or_default().push(change.phase);
        }
        for id in &sent {
            assert!(seen[id].is_sorted(), "{:?}", seen[id]);
            assert_eq!(seen[id].first(), Some(&Phase::Accepted));
            assert_eq!(seen[id].last(), Some(&Phase::Committed));
        }
        assert_eq!(seen[&bad].last(), Some(&Phase::Quarantined));

        // Asked for by their ids they are told as they stand, and the stream ends.
        let filter = WatchFilter { ids: sent.clone(), ..WatchFilter::default() };
        let mut some = running.ask(running.client().watch(filter)).unwrap();
        let mut told = Vec::new();
        while let Some(change) = running.ask(some.next()) {
            told.push(change.unwrap().id);
        }
        told.sort_unstable();
        assert_eq!(told, sent);
        running.stop();
    }
}

fn weblogs() -> Tree {
    let size = |files, records| Size { seed: 11, files, records };
    let mut inputs: Tree =
        files(Dataset::WeblogJsonl, size(3, 4_000)).map(|file| (file.name, file.content)).collect();
    inputs.extend(files(Dataset::Small, size(27, 0)).map(|file| (file.name, file.content)));
    inputs
}

fn put_all(site: &Site, inputs: &Tree) {
    inputs.iter().for_each(|(name, bytes)| site.put(name, bytes));
}

/// A file that comes after all others: when it is committed, the tables speak of all before it.
const LAST: (&str, &[u8]) =
    ("zz-last.jsonl", b"{\"host\":\"last\",\"status\":200,\"bytes\":1,\"latency_ms\":1}\n");

/// Lets a home finish what it has, and fails unless each input was processed once and the outputs are
/// those of an undisturbed run.
#[track_caller]
fn check_finishes(site: &Site, shape: Shape, inputs: &Tree) {
    let mut inputs = inputs.clone();
    inputs.insert(LAST.0.into(), LAST.1.into());
    site.put(LAST.0, LAST.1);
    site.once(shape).expect_code(0);
    if let Some(difference) = tree::difference(&oracle::access_logs(&inputs), &site.out()) {
        panic!("out/:\n{difference}");
    }
    assert_eq!(tree::difference(&inputs, &tree::read(&site.folder("processed"))), None);
    assert_eq!(site.names("underprocess"), Vec::<String>::new());
    let running = site.start(Shape::ALONE);
    let counts = running.ask(running.client().pipelines()).unwrap();
    assert_eq!((counts[0].committed, counts[0].accepted), (inputs.len() as u64, 0));
    running.stop();
    let expected = oracle::access_logs(&inputs);
    assert_eq!(tree::difference(&expected, &site.out()), None, "after another life");
}

/// Returns the files of even and of odd number.
fn halves(inputs: &Tree) -> (Tree, Tree) {
    let half = |rest: usize| {
        let all = inputs.clone().into_iter().enumerate();
        all.filter(|(at, _)| at % 2 == rest).map(|(_, file)| file).collect()
    };
    (half(0), half(1))
}

#[test]
fn a_second_life_counts_the_files_of_the_first_once() {
    let inputs = weblogs();
    let (first, second) = halves(&inputs);
    let site = Site::new(NODE, ACCESS_LOGS);
    put_all(&site, &first);
    site.once(Shape::new(1, 2)).expect_code(0);
    assert_eq!(tree::difference(&oracle::access_logs(&first), &site.out()), None);
    put_all(&site, &second);
    check_finishes(&site, Shape::new(2, 2), &inputs);
}

#[test]
fn a_restart_with_many_files_keeps_the_tables() {
    let generated = files(Dataset::Small, Size { seed: 11, files: 300, records: 0 });
    let mut inputs: Tree = generated.map(|file| (file.name, file.content)).collect();
    let expected = oracle::access_logs(&inputs);
    let site = Site::new(NODE, ACCESS_LOGS);
    put_all(&site, &inputs);
    let shape = Shape::new(1, 2);
    site.once(shape).expect_code(0);
    assert_eq!(tree::difference(&expected, &site.out()), None);
    site.once(shape).expect_code(0);
    assert_eq!(tree::difference(&expected, &site.out()), None, "after a life without new files");
    let running = site.start(shape);
    running.ask(running.client().pipelines()).unwrap();
    running.stop();
    assert_eq!(tree::difference(&expected, &site.out()), None, "after a stop while rebuilding");
    let running = site.start(shape);
    let sent = running.submit(LAST.0, LAST.1);
    running.wait(sent.id);
    running.stop();
    inputs.insert(LAST.0.into(), LAST.1.into());
    assert_eq!(tree::difference(&oracle::access_logs(&inputs), &site.out()), None);
}

#[test]
fn a_stop_right_after_the_start_is_a_clean_end() {
    for _ in 0..20 {
        Site::new(NODE, WAYS).start(Shape::ALONE).stop();
    }
}

#[test]
fn a_stopped_server_goes_on_where_it_was() {
    let inputs = weblogs();
    let site = Site::new(NODE, ACCESS_LOGS);
    put_all(&site, &inputs);
    let running = site.start(Shape::new(1, 2));
    running.wait_for_finished(1);
    running.stop();
    check_finishes(&site, Shape::new(1, 2), &inputs);
}

/// Kills everything at each of these numbers of finished files, then lets it end.
fn check_killed(shape: Shape, at: &[u64]) {
    let inputs = weblogs();
    let site = Site::new(NODE, ACCESS_LOGS);
    put_all(&site, &inputs);
    for finished in at {
        let running = site.start(shape);
        running.wait_for_finished(*finished);
        running.kill();
    }
    check_finishes(&site, shape, &inputs);
}

#[test]
fn a_kill_before_the_first_commit_loses_and_doubles_nothing() {
    check_killed(Shape::ALONE, &[0]);
    check_killed(Shape::new(2, 2), &[0]);
}

#[test]
fn a_kill_between_commits_loses_and_doubles_nothing() {
    check_killed(Shape::ALONE, &[1]);
    check_killed(Shape::new(1, 3), &[7]);
    check_killed(Shape::new(2, 2), &[20]);
}

#[test]
fn a_kill_behind_the_last_commit_loses_and_doubles_nothing() {
    check_killed(Shape::new(1, 2), &[30]);
}

#[test]
fn a_kill_in_each_of_several_lives_loses_and_doubles_nothing() {
    check_killed(Shape::new(1, 2), &[0, 0, 1, 2, 12, 13, 29]);
}
