//! Sources renamed: the files that a source took are those of the one that takes their names now, by a deploy and
//! by a changed pipeline file, so that they can be replaced, removed and known again.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;

use tidemill_client::Phase;
use tidemill_tests::{Running, Shape, Site, tree};

const NODE: &str = env!("CARGO_BIN_EXE_node");

const OLD: &str = "\
pipeline: d
sources:
  rows: { format: csv, pattern: \"r*\", on_same_name: replace, fields: { k: string, v: int } }
  notes: { format: text, pattern: \"n*\" }
operators:
  sums: { from: rows, aggregate: { by: [k], compute: { v: sum(v) } } }
sinks:
  sums: { from: sums, table: { format: csv, key: [k] } }
  raw: { from: rows, files: { format: raw } }
  notes: { from: notes, files: { format: raw } }
";

/// The same with another name for the first source.
fn renamed() -> String {
    OLD.replace("rows: {", "lines: {").replace("from: rows", "from: lines")
}

#[track_caller]
fn commit(running: &Running<'_>, name: &str, bytes: &[u8]) {
    let file = running.wait(running.submit(name, bytes).id);
    assert_eq!(file.phase, Phase::Committed, "{file:?}");
}

/// Lets the new file take over.
fn over<'s>(
    site: &'s Site,
    running: Running<'s>,
    yaml: &str,
    by_deploy: bool,
    shape: Shape,
) -> Running<'s> {
    if by_deploy {
        fs::write(site.path().join("next.yaml"), yaml).unwrap();
        running.call(&["deploy", "next.yaml"]).expect_code(0);
        return running;
    }
    running.stop();
    fs::write(site.yaml(), yaml).unwrap();
    site.start(shape)
}

#[test]
fn files_of_a_renamed_source_are_replaced_and_removed() {
    for (shape, by_deploy) in [
        (Shape::new(1, 2), true),
        (Shape::new(2, 1), true),
        (Shape::new(1, 2), false),
        (Shape::new(2, 1), false),
    ] {
        let site = Site::new(NODE, OLD);
        let running = site.start(shape);
        commit(&running, "r1", b"k,v\na,1\n");
        commit(&running, "r2", b"k,v\na,10\n");
        commit(&running, "n1", b"a note\n");
        let running = over(&site, running, &renamed(), by_deploy, shape);
        commit(&running, "r1", b"k,v\na,100\n");
        running.call(&["remove", "r2"]).expect_code(0);
        commit(&running, "n1", b"a note\nand one more\n");
        running.stop();
        let sums = &site.out()["sums/sums.csv"];
        assert_eq!(String::from_utf8_lossy(sums), "k,v\na,100\n", "{shape} {by_deploy}");
        let fresh = Site::new(NODE, &renamed());
        fresh.put("r1", b"k,v\na,100\n");
        fresh.put("n1", b"a note\n");
        fresh.once(shape).expect_code(0);
        let mut found = site.out();
        // A source that replaces nothing keeps both.
        assert_eq!(found.remove("notes/n1~2").unwrap(), b"a note\nand one more\n");
        assert_eq!(tree::difference(&fresh.out(), &found), None);
    }
}

#[test]
fn files_that_a_renamed_source_took_are_known_again() {
    for (how, by_deploy) in [("name", true), ("content", true), ("name", false), ("content", false)]
    {
        let with = |yaml: &str| yaml.replace("on_same_name: replace", &format!("dedupe: {how}"));
        let site = Site::new(NODE, &with(OLD));
        let running = site.start(Shape::new(1, 2));
        commit(&running, "r1", b"k,v\na,1\n");
        let running = over(&site, running, &with(&renamed()), by_deploy, Shape::new(1, 2));
        let again = running.submit("r1", b"k,v\na,1\n");
        assert_eq!(running.wait(again.id).phase, Phase::Duplicate, "{how} {by_deploy}");
        running.stop();
    }
}
