//! Deploys refused: a file that takes over must be able to go on with what was committed before it; else it is
//! refused with the reason, before anything has changed, and the old one goes on.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;

use tidemill_client::Phase;
use tidemill_tests::{PATIENCE, Running, Shape, Site};

const NODE: &str = env!("CARGO_BIN_EXE_node");

const SUMS: &str = "\
pipeline: d
sources:
  rows: { format: csv, pattern: \"r*\", fields: { k: string, v: int } }
  more: { format: csv, pattern: \"m*\", fields: { k: string, v: int } }
operators:
  sums: { from: rows, aggregate: { by: [k], compute: { v: sum(v) } } }
sinks:
  sums: { from: sums, table: { format: csv, key: [k] } }
  more: { from: more, files: { format: csv } }
  raw: { from: rows, files: { format: raw } }
";

#[track_caller]
fn commit(running: &Running<'_>, name: &str, bytes: &[u8]) {
    let file = running.wait(running.submit(name, bytes).id);
    assert_eq!(file.phase, Phase::Committed, "{file:?}");
}

fn write(site: &Site, yaml: &str) {
    fs::write(site.path().join("next.yaml"), yaml).unwrap();
}

/// Deploys `yaml` over `old` behind `files`: a dry run and the real one say `why`, and the old one goes on.
#[track_caller]
fn check(old: &str, files: &[(&str, &[u8])], yaml: &str, why: &str) {
    for shape in [Shape::new(1, 2), Shape::new(2, 1)] {
        let site = Site::new(NODE, old);
        write(&site, yaml);
        let running = site.start(shape);
        files.iter().for_each(|(name, bytes)| commit(&running, name, bytes));
        for more in [&["--dry-run"][..], &[]] {
            let said = running.call(&[&["deploy", "next.yaml"], more].concat());
            assert!(said.expect_code(1).stdout.contains(why), "{shape} {more:?}: {said}");
        }
        assert_eq!(running.ask(running.client().stats(None)).unwrap().generation, 1);
        commit(&running, "r-last.csv", b"k,v\nz,1\n");
        running.stop();
        let ended = site.once(Shape::ALONE);
        ended.expect_code(0);
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn a_file_that_cannot_read_what_is_read_again_is_refused() {
    let wider = SUMS.replace(
        "fields: { k: string, v: int } }\n  more",
        "fields: { k: string, w: int } }\n  more",
    );
    let wider = wider.replace("sum(v)", "sum(w)");
    let why = "r1.csv was committed before and is read again for what is made anew, and source rows of the \
               new file cannot read it: bad_format: line 1: the header has no column w";
    check(SUMS, &[("r1.csv", b"k,v\na,1\n")], &wider, why);
    let packed = gzip(b"k,v\na,1\n");
    check(SUMS, &[("r1.csv.gz", &packed)], &wider, "the header has no column w");
    let other = SUMS.replacen("format: csv", "format: jsonl", 1);
    let why = "source rows of the new file cannot read it: line 1: syntax: expected value at column 1; \
               none of its first 2 records can be read";
    check(SUMS, &[("r1.csv", b"k,v\na,1\n")], &other, why);
    check(SUMS, &[("r1.csv.gz", &packed)], &other, why);
    let other = SUMS.replace("k: string, v: int", "k: int, v: int");
    let why = "line 2: field_type: field k: expected int, found a at column 1; none of its first 1";
    check(SUMS, &[("r1.csv", b"k,v\na,1\n")], &other, why);
}

#[test]
fn records_that_were_rejected_when_they_came_are_no_reason() {
    let site = Site::new(NODE, SUMS);
    let running = site.start(Shape::new(1, 2));
    commit(&running, "r1.csv", b"k,v\na,x\nb,x\n");
    commit(&running, "r2.csv", b"k,v\na,1\nb,x\n");
    for times in ["2", "3"] {
        write(&site, &SUMS.replace("sum(v)", &format!("sum(v * {times})")));
        running.call(&["deploy", "next.yaml"]).expect_code(0);
    }
    // Some that are rejected only now are left out.
    let digits = SUMS.replace("k: string", "k: decimal(3)");
    write(&site, &digits);
    commit(&running, "r3.csv", b"k,v\n1,1\nz,1\n");
    let said = running.call(&["deploy", "next.yaml"]);
    assert!(said.expect_code(1).stdout.contains("r2.csv was committed before"), "{said}");
    running.stop();
    assert_eq!(site.out()["sums/sums.csv"], b"k,v\n1,3\na,3\nz,3\n");
}

#[test]
fn a_start_with_a_file_that_cannot_read_what_is_read_again_is_refused() {
    let wider = SUMS.replacen("v: int", "w: int", 1).replace("sum(v)", "sum(w)");
    for shape in [Shape::ALONE, Shape::new(2, 1)] {
        let site = Site::new(NODE, SUMS);
        site.put("r1.csv", b"k,v\na,1\n");
        site.once(shape).expect_code(0);
        fs::write(site.yaml(), &wider).unwrap();
        let ended = site.launch(shape, &["--once"]).ended();
        let why = "r1.csv was committed before, and source rows cannot read it any more: bad_format: \
                   line 1: the header has no column w";
        assert!(ended.expect_code(1).stderr.contains(why), "{ended}");
        // And again: that it was refused is no reason to go on.
        let ended = site.launch(shape, &["--once"]).ended();
        assert!(ended.expect_code(1).stderr.contains(why), "{ended}");
        fs::write(site.yaml(), SUMS).unwrap();
        site.put("r2.csv", b"k,v\na,2\n");
        site.once(shape).expect_code(0);
        assert_eq!(site.out()["sums/sums.csv"], b"k,v\na,3\n");
    }
}

#[test]
fn a_limit_of_packing_that_was_lowered_does_not_concern_what_was_committed() {
    let lower = SUMS
        .replacen("v: int } }", "v: int }, max_inflate_ratio: 2 }", 1)
        .replace("sum(v)", "sum(v * 10)");
    for by_deploy in [true, false] {
        let site = Site::new(NODE, SUMS);
        // The first 16 MiB never count.
        let key = "a".repeat(100);
        let packed = gzip(format!("k,v\n{}", format!("{key},1\n").repeat(200_000)).as_bytes());
        let running = site.start(Shape::new(1, 2));
        commit(&running, "r1.csv.gz", &packed);
        let running = if by_deploy {
            write(&site, &lower);
            running.call(&["deploy", "next.yaml"]).expect_code(0);
            running
        } else {
            running.stop();
            fs::write(site.yaml(), &lower).unwrap();
            site.start(Shape::new(1, 2))
        };
        let again = running.wait(running.submit("r2.csv.gz", &packed).id);
        assert_eq!(again.phase, Phase::Quarantined, "{again:?}");
        running.stop();
        let sums = format!("k,v\n{key},2000000\n").into_bytes();
        assert!(site.out()["sums/sums.csv"] == sums, "{by_deploy}");
    }
}

#[test]
fn a_contract_that_takes_records_for_other_lines_is_refused() {
    let with = |contract: &str| {
        SUMS.replacen("v: int } }", &format!("v: int }}, contract: {{ {contract} }} }}"), 1)
            .replace("sum(v)", "sum(v + 0)")
    };
    let files: [(&str, &[u8]); 1] = [("r1.csv", b"k,v\na,1\nb,2\n")];
    let trailer = with("trailer: { regex: \"^T(?<n>[0-9]+)$\", count: n }");
    check(
        SUMS,
        &files,
        &trailer,
        "its contract says 0 header and 1 trailer lines, and 0 and 0 when",
    );
    check(SUMS, &files, &with("header: 1"), "its contract says 1 header and 0 trailer lines");
    let renamed = with("header: 1").replace("rows: {", "lines: {");
    let renamed = renamed.replace("from: rows", "from: lines");
    check(SUMS, &files, &renamed, "its contract says 1 header and 0 trailer lines");
}

#[test]
fn a_start_with_a_contract_that_takes_records_for_other_lines_is_refused() {
    let trailer = SUMS.replacen("v: int } }", "v: int }, contract: { trailer: { lines: 1 } } }", 1);
    for (first, second, bytes, sums) in [
        (SUMS, &*trailer, &b"k,v\na,1\nb,2\n"[..], &b"k,v\na,1\nb,2\n"[..]),
        (&trailer, SUMS, b"k,v\na,1\nend,1\n", b"k,v\na,1\n"),
    ] {
        let site = Site::new(NODE, first);
        site.put("r1.csv", bytes);
        site.once(Shape::ALONE).expect_code(0);
        fs::write(site.yaml(), second).unwrap();
        let ended = site.launch(Shape::ALONE, &["--once"]).ended();
        let why = "r1.csv was committed before, and source rows cannot read it any more: its contract says";
        assert!(ended.expect_code(1).stderr.contains(why), "{ended}");
        // Also as it was, all is made of r1.csv again.
        fs::write(site.yaml(), first.replace("sum(v)", "sum(v + 0)")).unwrap();
        site.once(Shape::ALONE).expect_code(0);
        assert_eq!(site.out()["sums/sums.csv"], sums);
    }
}

#[test]
fn what_lines_were_is_known_although_nothing_was_made_anew_when_it_changed() {
    let without = SUMS.replace("  sums: { from: sums, table: { format: csv, key: [k] } }\n", "");
    let without = without
        .replace("  sums: { from: rows, aggregate: { by: [k], compute: { v: sum(v) } } }\n", "");
    let without = without.replace("operators:\n", "");
    let with = |yaml: &str| yaml.replacen("v: int } }", "v: int }, contract: { header: 1 } }", 1);
    let site = Site::new(NODE, &without);
    let running = site.start(Shape::new(1, 2));
    commit(&running, "r1.csv", b"k,v\na,1\n");
    write(&site, &with(&without));
    running.call(&["deploy", "next.yaml"]).expect_code(0);
    commit(&running, "r2.csv", b"HDR\nk,v\na,10\n");
    write(&site, &with(SUMS));
    let said = running.call(&["deploy", "next.yaml"]);
    let why = "r1.csv was committed before and is read again for what is made anew, and source rows of the \
               new file cannot read it: its contract says 1 header and 0 trailer lines, and 0 and 0 when";
    assert!(said.expect_code(1).stdout.contains(why), "{said}");
    running.stop();
}

#[test]
fn a_table_whose_changelog_would_not_add_up_is_refused() {
    let logged = SUMS.replace(
        "sums: { from: sums, table: { format: csv,",
        "sums: { from: sums, table: { format: csv, changelog: true,",
    );
    let files: [(&str, &[u8]); 1] = [("r1.csv", b"k,v\na,1\n")];
    let why = "would not add up to it any more";
    check(&logged, &files, &logged.replace("sum(v)", "sum(v * 2)"), why);
}

#[test]
fn a_start_warns_of_a_changelog_that_does_not_add_up_and_of_no_other() {
    let plain = SUMS.replace("sum(v)", "sum(v * 2)");
    let log = |yaml: &str| {
        yaml.replace(
            "sums: { from: sums, table: {",
            "sums: { from: sums, table: { changelog: true,",
        )
    };
    for (first, second, warns) in [
        (log(SUMS), log(&plain), true),
        (SUMS.to_owned(), log(&plain), false),
        (log(SUMS), log(SUMS), false),
    ] {
        let site = Site::new(NODE, &first);
        site.put("r1.csv", b"k,v\na,1\n");
        site.once(Shape::ALONE).expect_code(0);
        let checkpoints = site.folder("out").join("../../ckpt");
        fs::remove_dir_all(checkpoints).unwrap();
        fs::write(site.yaml(), second).unwrap();
        let ended = site.launch(Shape::ALONE, &["--once"]).ended();
        let said = "what its changelog told so far does not add up to it any more";
        assert_eq!(ended.expect_code(0).stderr.contains(said), warns, "{ended}");
    }
}

/// Between the two it would miss what happened.
#[test]
fn a_changelog_that_comes_back_is_refused() {
    let logged = SUMS.replace(
        "sums: { from: sums, table: { format: csv,",
        "sums: { from: sums, table: { format: csv, changelog: true,",
    );
    let site = Site::new(NODE, &logged);
    let running = site.start(Shape::new(1, 2));
    commit(&running, "r1.csv", b"k,v\na,1\n");
    write(&site, SUMS);
    running.call(&["deploy", "next.yaml"]).expect_code(0);
    commit(&running, "r2.csv", b"k,v\na,1\n");
    write(&site, &logged);
    let said = running.call(&["deploy", "next.yaml"]);
    assert!(said.expect_code(1).stdout.contains("would not add up to it any more"), "{said}");
    running.stop();
}

#[test]
fn a_changelog_that_is_new_begins_with_the_next_file() {
    let logged = SUMS.replace(
        "sums: { from: sums, table: { format: csv,",
        "LOGGED: { from: sums, table: { format: csv, changelog: true,",
    );
    for name in ["sums", "others"] {
        let site = Site::new(NODE, SUMS);
        let running = site.start(Shape::new(1, 2));
        commit(&running, "r1.csv", b"k,v\na,1\n");
        write(&site, &logged.replace("LOGGED", name).replace("sum(v)", "sum(v * 2)"));
        let told = running.call(&["deploy", "next.yaml"]);
        let why = "its changelog begins with the next";
        assert!(told.expect_code(0).stdout.contains(why), "{told}");
        commit(&running, "r2.csv", b"k,v\na,10\nb,3\n");
        running.stop();
        let out = site.out();
        assert_eq!(out[&format!("{name}/{name}.csv")], b"k,v\na,22\nb,6\n");
        let logs = out.iter().filter(|(path, _)| path.contains(".changes/"));
        let logs: Vec<_> = logs.map(|(path, log)| (&**path, &**log)).collect();
        let path = format!("{name}.changes/000000000002-r2.csv");
        let log = &b"epoch,diff,k,v\n2,-1,a,2\n2,1,a,22\n2,1,b,6\n"[..];
        assert_eq!(logs, [(&*path, log)]);
    }
}

/// What a pipeline left when it went is still there when it comes back.
#[test]
fn a_pipeline_that_comes_back_changed_is_refused_like_one_that_runs() {
    let logged = SUMS.replace("pipeline: d", "pipeline: e").replace(
        "sums: { from: sums, table: { format: csv,",
        "sums: { from: sums, table: { format: csv, changelog: true,",
    );
    let framed = logged.replacen("v: int } }", "v: int }, contract: { header: 1 } }", 1);
    for (next, why) in [
        (logged.replace("sum(v)", "sum(v * 2)"), "would not add up to it any more"),
        (framed.replace("changelog: true,", ""), "its contract says 1 header and 0 trailer lines"),
    ] {
        let site = Site::new(NODE, SUMS);
        let running = site.start(Shape::new(1, 2));
        let deploy = |yaml: &str| {
            write(&site, yaml);
            running.call(&["deploy", "next.yaml"])
        };
        deploy(&logged).expect_code(0);
        fs::write(site.path().join("r1.csv"), b"k,v\na,1\n").unwrap();
        running.call(&["submit", "--wait", "--pipeline", "e", "r1.csv"]).expect_code(0);
        running.call(&["undeploy", "e"]).expect_code(0);
        let said = deploy(&next);
        assert!(said.expect_code(1).stdout.contains(why), "{said}");
        deploy(&logged).expect_code(0);
        running.stop();
    }
}

/// The look comes again when everything that was under way is finished.
#[test]
fn what_was_paused_while_a_deployment_waited_is_refused_too() {
    for shape in [Shape::new(1, 2), Shape::new(2, 1)] {
        let mut site = Site::new(NODE, SUMS);
        let hold = site.path().join("hold");
        site.trial(Some(&format!("hold-sync={}", hold.display())));
        let renamed = SUMS.replace("  more: { format", "  other: { format");
        let renamed = renamed.replace("from: more", "from: other");
        let running = site.start(shape);
        commit(&running, "r1.csv", b"k,v\na,1\n");
        fs::write(&hold, "").unwrap();
        // So much that it is staged: it is under way until that is durable.
        let big = running.submit("r2.csv", format!("k,v\n{}", "a,1\n".repeat(50_000)).as_bytes());
        let client = running.client();
        let is_busy = |error: &tidemill_client::Error| error.to_string().contains("under way");
        let deploying = async {
            loop {
                match client.deploy(&renamed, false, PATIENCE).await {
                    // The look of the other one came first.
                    Err(error) if is_busy(&error) => {}
                    ended => return ended.unwrap_err().to_string(),
                }
            }
        };
        let pausing = async {
            while !client.deploy(&renamed, true, PATIENCE).await.is_err_and(|error| is_busy(&error))
            {
            }
            client.pause("d", Some("source:more")).await.unwrap();
            fs::remove_file(&hold).unwrap();
        };
        let (said, ()) = running.ask(async { tokio::join!(deploying, pausing) });
        assert!(said.contains("source more of d is paused"), "{said}");
        assert_eq!(running.wait(big.id).phase, Phase::Committed);
        assert_eq!(running.conditions(), ["paused"], "{shape}");
        running.stop();
    }
}
