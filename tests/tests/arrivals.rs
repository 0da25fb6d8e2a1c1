//! Arrivals: what must be there before a file counts, while a server runs and when it is killed; one
//! upload for several pipelines; an upload that has to wait says so.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use tidemill_client::{Filter, Phase, Submission, SubmissionId, SubmitOptions};
use tidemill_tests::process::wait_until;
use tidemill_tests::{PATIENCE, Running, Shape, Site, Tree, tree};

const NODE: &str = env!("CARGO_BIN_EXE_node");

/// A pipeline whose source has this contract, with sums and without.
fn pipeline(contract: &str, with_sums: bool) -> String {
    let sums =
        "operators:\n  sums: { from: rows, aggregate: { by: [k], compute: { n: sum(n) } } }\n";
    let table = "  sums: { from: sums, table: { format: csv, key: [k] } }\n";
    let (sums, table) = if with_sums { (sums, table) } else { ("", "") };
    format!(
        "pipeline: p\nsources:\n  rows:\n    format: csv\n    pattern: \"*.csv\"\n    fields: {{ k: string, n: int }}\n    \
         contract: {{ {contract} }}\n{sums}sinks:\n  copy: {{ from: rows, files: {{ format: raw }} }}\n{table}"
    )
}

const SET: &str = "min_records: 1, set: { of: \"{day}-*.csv\", count: 3 }";

const GOOD: &[u8] = b"k,n\na,1\nb,2\n";
const BAD: &[u8] = b"k,n\n";

fn list(running: &Running<'_>) -> Vec<Submission> {
    running.ask(running.client().list(&Filter::default())).unwrap().submissions
}

/// Waits until so many files are final, also when a life of the engine ends meanwhile.
#[track_caller]
fn until_final(running: &Running<'_>, files: usize) {
    wait_until("all files are final", || {
        list(running).iter().filter(|one| one.phase.is_final()).count() >= files
    });
}

#[test]
fn a_file_is_taken_when_its_marker_comes_and_the_marker_goes_with_it() {
    let site = Site::new(NODE, &pipeline("marker: \"{name}.ok\"", false));
    let running = site.start(Shape::ALONE);
    site.put("a.csv", GOOD);
    running.wait_for_condition(Some("waits_for_marker"));
    site.put("b.csv.ok", b"");
    running.wait_for_condition(Some("marker_alone"));
    let files = running.call(&["files"]);
    assert!(files.stdout.contains("a.csv waits in unprocessed/ for its marker"), "{files}");
    site.put("a.csv.ok", b"");
    running.wait_for_finished(1);
    site.put("b.csv", GOOD);
    running.wait_for_finished(2);
    running.wait_for_condition(None);
    assert_eq!(site.names("unprocessed"), [] as [&str; 0]);
    // What is sent is whole: it needs none. A second file of a name needs a marker of its own.
    assert_eq!(running.wait(running.submit("c.csv", GOOD).id).phase, Phase::Committed);
    site.put("a.csv", GOOD);
    running.wait_for_condition(Some("waits_for_marker"));
    running.stop();
    assert_eq!(site.names("processed"), ["a.csv", "b.csv", "c.csv"]);
    assert_eq!(site.names("unprocessed"), ["a.csv"]);
}

#[test]
fn a_marker_that_a_crash_left_lets_no_other_file_in() {
    let mut site = Site::new(NODE, &pipeline("marker: \"{name}.ok\"", false));
    site.put("a.csv", GOOD);
    site.put("a.csv.ok", b"");
    site.variable("TIDEMILL_FAILPOINT", Some("accept-durable=kill"));
    site.launch(Shape::ALONE, &["--once"]).ended();
    site.variable("TIDEMILL_FAILPOINT", None);
    assert_eq!(site.names("unprocessed"), ["a.csv.ok"], "it was accepted, and nothing else");
    site.once(Shape::ALONE).expect_code(0);
    assert_eq!((site.names("processed").len(), site.names("unprocessed").len()), (1, 0));
}

/// Drops two sets, one of them with a bad file, and one file that is of none.
fn drop_sets(site: &Site) {
    for (name, bytes) in [
        ("1-a.csv", GOOD),
        ("1-b.csv", GOOD),
        ("1-c.csv", GOOD),
        ("2-a.csv", GOOD),
        ("2-b.csv", BAD),
        ("2-c.csv", GOOD),
        ("other.csv", GOOD),
    ] {
        site.put(name, bytes);
    }
}

/// What a person finds: outputs, and where the inputs are. The numbers of submissions may differ.
fn found(site: &Site) -> (Tree, BTreeMap<&'static str, Vec<String>>) {
    let folders = ["unprocessed", "underprocess", "processed"];
    let mut names: BTreeMap<_, _> =
        folders.into_iter().map(|folder| (folder, site.names(folder))).collect();
    names.insert("quarantine", site.quarantine());
    (site.out(), names)
}

#[test]
fn no_kill_shows_or_keeps_half_a_set() {
    for with_sums in [false, true] {
        let yaml = pipeline(SET, with_sums);
        let calm = Site::new(NODE, &yaml);
        drop_sets(&calm);
        calm.once(Shape::ALONE).expect_code(3);
        let (out, names) = found(&calm);
        let copies = out.keys().filter(|name| name.starts_with("copy/"));
        assert_eq!(
            copies.collect::<Vec<_>>(),
            ["copy/1-a.csv", "copy/1-b.csv", "copy/1-c.csv", "copy/other.csv"]
        );
        assert_eq!(
            names["quarantine"],
            [
                "2-a.csv set_failed: the set 2-*.csv is set aside as a whole: 2-b.csv: wrong_count: it has 0 \
                 records; min_records is 1",
                "2-b.csv wrong_count: it has 0 records; min_records is 1",
                "2-c.csv set_failed: the set 2-*.csv is set aside as a whole: 2-b.csv: wrong_count: it has 0 \
                 records; min_records is 1",
            ]
        );
        if with_sums {
            assert_eq!(String::from_utf8_lossy(&out["sums/sums.csv"]), "k,n\na,4\nb,8\n");
        }
        let points = [
            "claim-renamed@2",
            "claim-folders-synced",
            "accept-written",
            "accept-durable",
            "commit-written",
            "commit-durable",
            "publish-part-done@2",
            "input-moved@2",
            "set-refused",
        ];
        for point in points.into_iter().filter(|point| with_sums || *point != "set-refused") {
            let mut site = Site::new(NODE, &yaml);
            drop_sets(&site);
            site.variable("TIDEMILL_FAILPOINT", Some(&format!("{point}=kill")));
            let ended = site.launch(Shape::ALONE, &["--once"]).ended();
            assert_eq!(ended.code, None, "{point} was reached: {ended}");
            site.variable("TIDEMILL_FAILPOINT", None);
            let is_committed = ["commit-durable", "publish-part-done@2", "input-moved@2"];
            if !is_committed.contains(&point) && point != "set-refused" {
                let mut seen = site.out();
                // What a kill left of a snapshot that was being written: nobody takes it for one.
                seen.retain(|name, _| !name.contains("/.tidemill-"));
                // A table without rows is there from the start.
                let table = seen.remove("sums/sums.csv").unwrap_or_else(|| b"k,n\n".to_vec());
                assert_eq!((&*table, seen), (&b"k,n\n"[..], Tree::new()), "{point}");
            }
            site.once(Shape::ALONE);
            let (again, names_again) = found(&site);
            assert_eq!(tree::difference(&out, &again), None, "{point}, sums: {with_sums}");
            assert_eq!(names, names_again, "{point}, sums: {with_sums}");
        }
    }
}

#[test]
fn a_set_waits_for_all_of_it_and_is_late_after_its_time() {
    let late = "set: { of: \"{day}-*.csv\", count: 3, within: 300ms, then: quarantine }";
    let site = Site::new(NODE, &pipeline(late, true));
    let running = site.start(Shape::new(1, 2));
    site.put("2-a.csv", GOOD);
    site.put("2-b.csv", GOOD);
    running.wait_for_finished(2);
    running.stop();
    let why = "set_incomplete: after 300 ms, 2 of 3 files of the set 2-*.csv are there";
    assert_eq!(site.quarantine(), [format!("2-a.csv {why}"), format!("2-b.csv {why}")]);
    let site = Site::new(NODE, &pipeline(SET, true));
    let running = site.start(Shape::new(1, 2));
    site.put("1-a.csv", GOOD);
    site.put("1-b.csv", GOOD);
    running.wait_for_condition(Some("waits_for_set"));
    let stats = running.call(&["stats"]);
    assert!(stats.stdout.contains("waiting for 1 of 3 of the set 1-*.csv"), "{stats}");
    // A paused sink holds all of it.
    running.call(&["pause", "p.copy"]).expect_code(0);
    site.put("1-c.csv", GOOD);
    wait_until("the set waits for the sink", || {
        let waits = |one: &Submission| one.waits_for.as_deref() == Some("sink copy is paused");
        list(&running).iter().any(waits)
    });
    running.call(&["resume", "p.copy"]).expect_code(0);
    running.wait_for_finished(3);
    // Of a set that failed no file is tried again by itself.
    site.put("2-a.csv", GOOD);
    site.put("2-b.csv", BAD);
    site.put("2-c.csv", GOOD);
    until_final(&running, 6);
    let failed = list(&running).iter().find(|one| one.name == "2-a.csv").unwrap().id;
    let retried = running.call(&["retry", &failed.to_string()]);
    assert_eq!(retried.code, Some(1), "{retried}");
    assert!(retried.stdout.contains("it is of the set 2-*.csv"), "{retried}");
    // What the good files had added is gone, and work goes on.
    assert_eq!(running.wait(running.submit("other.csv", GOOD).id).phase, Phase::Committed);
    running.stop();
    let out = site.out();
    assert_eq!(String::from_utf8_lossy(&out["sums/sums.csv"]), "k,n\na,4\nb,8\n");
}

fn second() -> String {
    pipeline("min_records: 1", true).replace("pipeline: p", "pipeline: q")
}

#[test]
fn one_upload_goes_to_several_pipelines_once_each() {
    let mut site = Site::new(NODE, &pipeline("min_records: 1", false));
    fs::write(site.path().join("second.yaml"), second()).unwrap();
    site.always(&["second.yaml"]);
    let running = site.start(Shape::ALONE);
    let path = site.path().join("a.csv");
    fs::write(&path, GOOD).unwrap();
    let id = SubmissionId::make();
    let send = |resend_for| -> Result<Vec<Submission>, tidemill_client::Error> {
        let options = SubmitOptions {
            pipeline: Some("p".into()),
            also_to: vec!["q".into()],
            id: Some(id),
            resend_for,
            ..SubmitOptions::default()
        };
        running.ask(running.client().submit_file_to_all(&path, options, |_, _| {}))
    };
    // One that takes nothing keeps it from the other, too: nothing was received.
    running.call(&["pause", "q"]).expect_code(0);
    let refused = send(Duration::ZERO).unwrap_err();
    assert_eq!(refused.word(), Some("paused"), "{refused}");
    running.call(&["resume", "q"]).expect_code(0);
    let sent = send(Duration::ZERO).unwrap();
    let pipelines: Vec<&str> = sent.iter().map(|one| one.pipeline.as_str()).collect();
    assert_eq!(pipelines, ["p", "q"]);
    // However often it is sent, and also while one of them takes nothing any more.
    running.call(&["pause", "q"]).expect_code(0);
    let again: Vec<u64> = send(PATIENCE).unwrap().iter().map(|one| one.id).collect();
    assert_eq!(again, sent.iter().map(|one| one.id).collect::<Vec<_>>());
    running.call(&["resume", "q"]).expect_code(0);
    let file = path.display().to_string();
    let called = running.call(&["submit", &file, "--pipeline", "q,p", "--wait", "--json"]);
    let lines: Vec<serde_json::Value> =
        called.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let told: Vec<_> = lines.iter().map(|line| (&line["pipeline"], &line["phase"])).collect();
    assert_eq!(
        format!("{told:?}"),
        r#"[(String("q"), String("committed")), (String("p"), String("committed"))]"#
    );
    fs::write(&path, BAD).unwrap();
    let called = running.call(&["submit", &file, "--pipeline", "p,q", "--wait"]);
    called.expect_code(3);
    assert_eq!(called.stdout.matches("wrong_count").count(), 2, "{called}");
    for (arguments, code, said) in [
        (&["--pipeline", "p,r"][..], 1, "no pipeline is called r; running: p, q"),
        (&["--pipeline", "p,p"], 1, "--pipeline names p twice"),
        (&["--pipeline", ","], 2, "--pipeline <NAME>"),
        (&[], 1, "several pipelines run here: name one (--pipeline NAME); running: p, q"),
    ] {
        let wrong = running.call(&[&["submit", &file], arguments].concat());
        wrong.expect_code(code).expect_said(said);
    }
    running.stop();
    assert_eq!(site.names("processed"), ["a.csv", "a~2.csv"]);
    let other = tree::read(&site.home().join("q/processed"));
    assert_eq!(other.keys().collect::<Vec<_>>(), ["a.csv", "a~2.csv"]);
    assert_eq!(tree::read(&site.home().join("spool")), Tree::new());
}

#[test]
fn a_kill_between_two_pipelines_loses_and_doubles_nothing() {
    for point in ["upload-copied", "upload-accepted", "upload-claimed@2", "accept-durable@2"] {
        let mut site = Site::new(NODE, &pipeline("min_records: 1", false));
        fs::write(site.path().join("second.yaml"), second()).unwrap();
        site.always(&["second.yaml"]);
        let path = site.path().join("a.csv");
        fs::write(&path, GOOD).unwrap();
        let file = path.display().to_string();
        let id = SubmissionId::make().to_string();
        let send = |running: &Running<'_>| {
            running.call(&["submit", &file, "--pipeline", "p,q", "--id", &id, "--resend", "0"])
        };
        site.variable("TIDEMILL_FAILPOINT", Some(&format!("{point}=kill")));
        let running = site.start(Shape::ALONE);
        assert_eq!(send(&running).code, Some(1), "{point}");
        running.ended();
        site.variable("TIDEMILL_FAILPOINT", None);
        let running = site.start(Shape::ALONE);
        let sent = send(&running);
        sent.expect_code(0);
        running.wait_for_finished(2);
        running.stop();
        for pipeline in ["p", "q"] {
            let processed = tree::read(&site.home().join(pipeline).join("processed"));
            assert_eq!(processed.keys().collect::<Vec<_>>(), ["a.csv"], "{point} {pipeline}");
        }
    }
}

#[test]
fn an_upload_that_waits_for_what_is_paused_says_so_at_once() {
    let site = Site::new(NODE, &pipeline("min_records: 1", false));
    let running = site.start(Shape::ALONE);
    running.call(&["pause", "p"]).expect_code(0);
    let path = site.path().join("a.csv");
    fs::write(&path, GOOD).unwrap();
    let sent = running.call(&["submit", &path.display().to_string(), "--resend", "1"]);
    assert_eq!(sent.code, Some(1), "{sent}");
    let waits = "pipeline p is paused and takes no files; send it again when it is resumed; waiting, for 1 s at \
                 most (--resend)";
    assert_eq!(sent.stderr.matches(waits).count(), 1, "{sent}");
    running.stop();
}
