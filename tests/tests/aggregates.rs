//! Aggregates under corrections: whatever was replaced and removed, each function says what it would
//! say if only the files that are left had ever come.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;

use tidemill_client::{Replaces, SubmitOptions};
use tidemill_tests::{Shape, Site, Steps, Verb, steps, tree};

const NODE: &str = env!("CARGO_BIN_EXE_node");

/// Arrival is left out: the order in which the files that are left came is not that of their names.
const PIPELINE: &str = "
pipeline: picks
sources:
  rows: { format: csv, fields: { user: string, n: int, x: float } }
operators:
  picks:
    from: rows
    aggregate:
      by: [user]
      compute:
        least: min(n)
        most: max(x)
        kinds: count(DISTINCT n)
        about: approx_distinct(x)
        first: first(x ORDER BY n, x)
        last: last(n ORDER BY x DESC NULLS LAST, n)
        cheap: arg_min(n, x)
        spread: variance(n)
        median: approx_median(x)
  all:
    from: picks
    aggregate:
      by: [kinds]
      compute: { users: count(*), least: min(least), most: max(most), who: max(user), firsts: count(DISTINCT first) }
  sizes:
    from: rows
    aggregate: { by: [user], compute: { hits: count(*), least: min(n) }, per: file }
  files:
    from: sizes
    aggregate: { by: [user], compute: { files: count(*), most: max(hits), least: min(least) } }
sinks:
  sizes: { from: sizes, files: { format: csv } }
  files: { from: files, table: { format: csv, key: [user] } }
  picks: { from: picks, table: { format: csv, key: [user] } }
  all: { from: all, table: { format: jsonl, key: [kinds] } }
";
const SHAPES: [Shape; 3] = [Shape::ALONE, Shape::new(1, 3), Shape::new(2, 2)];

fn given() -> Steps {
    Steps::default()
        .then(
            Verb::Add,
            &[
                ("a.csv", b"user,n,x\nann,1,0.5\nbob,20,\nann,x,1\nann,3,2.5\n"),
                ("b.csv", b"user,n,x\nann,5,-1\ncy,6,0.25\nann,1,7\n"),
                ("c.csv", b"user,n,x\nbob,2,9\ncy,,\n"),
            ],
        )
        .then(Verb::Replace, &[("a.csv", b"user,n,x\nann,100,3\ndee,7,1\n")])
        .then(Verb::Remove, &[("b.csv", b"")])
        .then(
            Verb::Replace,
            &[("a.csv", b"user,n,x\neve,3,1\neve,4,1\n"), ("d.csv", b"user,n,x\nann,9,2\n")],
        )
        .then(Verb::Add, &[("e.csv", b"user,n,x\nbob,30,-4\nann,9,2\nann,-9,2\n")])
        .then(Verb::Remove, &[("c.csv", b"")])
}

/// Compares everything that is visible with a run that saw the survivors only.
#[track_caller]
fn check(site: &Site) {
    let expected = steps::fresh(NODE, PIPELINE, &given().survivors(), Shape::ALONE);
    assert_eq!(tree::difference(&expected, &site.out()), None);
}

#[test]
fn what_is_left_is_all_that_counts() {
    for shape in SHAPES {
        let site = Site::new(NODE, PIPELINE);
        given().take(&site, shape);
        check(&site);
        // And so it is when everything is built again.
        fs::remove_dir_all(site.home().join("ckpt")).unwrap();
        site.once(Shape::new(1, 2)).expect_code(0);
        check(&site);
    }
}

#[test]
fn what_is_held_survives_kills_and_checkpoints() {
    for shape in SHAPES {
        let site = Site::new(NODE, PIPELINE);
        given().take_and_kill(&site, shape);
        check(&site);
    }
    // A clean end writes a checkpoint; the next life, of other workers, begins with it.
    let site = Site::new(NODE, PIPELINE);
    let all = given();
    for (at, step) in all.one_by_one().into_iter().enumerate() {
        step.take(&site, SHAPES[at % SHAPES.len()]);
    }
    check(&site);
}

const PICKED: &str = "
pipeline: picked
sources:
  rows: { format: csv, fields: { user: string, n: int, text: string } }
operators:
  best:
    from: rows
    aggregate:
      by: [user]
      compute:
        least: min(n)
        most: max(n)
        begins: first(n)
        ends: last(text)
        different: count(distinct n)
        about: approx_distinct(n)
sinks:
  best: { from: best, table: { format: csv, key: [user] } }
";

#[test]
fn a_file_of_several_pieces_is_taken_back_also_where_its_pieces_lie_with_other_workers() {
    // Three pieces and a bit; each of them has values that others have, too, and some of its own.
    let padding = "x".repeat(1 << 10);
    let line = |n: u64| format!("ann,{},{padding}{}\n", n / 300 + n % 7, n % 3);
    let big = (0..1_700).map(line).fold("user,n,text\n".to_owned(), |text, line| text + &line);
    let small: &[u8] = b"user,n,text\nann,3,a\nbob,4,b\n";
    let expected =
        steps::fresh(NODE, PICKED, &[("a.csv".to_owned(), small.to_vec())].into(), Shape::ALONE);

    let [one, two, three] = [Shape::ALONE, Shape::new(1, 2), Shape::new(1, 3)];
    for (before, after) in [(one, two), (two, one), (two, three), (three, Shape::new(2, 1))] {
        let site = Site::new(NODE, PICKED);
        let running = site.start(before);
        running.wait(running.submit("a.csv", big.as_bytes()).id);
        // A clean end writes a checkpoint; the next life begins with it.
        running.stop();
        let running = site.start(after);
        let options = SubmitOptions { replaces: Replaces::SameName, ..SubmitOptions::default() };
        let sent = running.client().submit_bytes_with("a.csv", small.to_vec(), options);
        running.wait(running.ask(sent).unwrap().id);
        running.stop();
        assert_eq!(tree::difference(&expected, &site.out()), None, "{before}, then {after}");
    }
}
