//! Joins: a lookup that comes late, changes or goes corrects the rows of files before it, whatever
//! ends the process meanwhile and on any number of workers.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;

use tidemill_tests::{Shape, Site, Steps, Verb, steps, tree};

const NODE: &str = env!("CARGO_BIN_EXE_node");

/// Every kind of join, a join behind a join, joins of and behind aggregates.
const PIPELINE: &str = "
pipeline: shop
sources:
  orders: { format: csv, pattern: \"orders*\", fields: { order: int, user: string, cents: int } }
  users: { format: csv, pattern: \"users*\", fields: { id: string, name: string, country: string } }
  countries: { format: csv, pattern: \"countries*\", fields: { country: string, title: string } }
operators:
  named: { from: orders, join: { with: users, on: { user: id }, kind: left } }
  placed: { from: named, join: { with: countries, on: [country] } }
  known: { from: orders, join: { with: users, on: { user: id }, kind: semi } }
  unknown: { from: orders, join: { with: users, on: { user: id }, kind: anti } }
  spent: { from: orders, aggregate: { by: [user], compute: { cents: sum(cents) } } }
  spenders: { from: spent, join: { with: users, on: { user: id }, take: [country] } }
  by_country: { from: spenders, aggregate: { by: [country], compute: { users: count(*), cents: sum(cents) } } }
  siblings: { from: users, join: { with: users, on: [country], take: { sibling: id } } }
sinks:
  named: { from: named, table: { format: csv, key: [order] } }
  placed: { from: placed, table: { format: csv, key: [order] } }
  known: { from: known, table: { format: csv, key: [order] } }
  unknown: { from: unknown, table: { format: csv, key: [order] } }
  by_country: { from: by_country, table: { format: csv, key: [country] } }
  siblings: { from: siblings, table: { format: csv, key: [id, sibling] } }
";

const ORDERS: &[u8] =
    b"order,user,cents\n1,ann,10\n2,bob,20\n3,,30\n4,cyd,40\n4,cyd,40\n5,zed,50\n";
const MORE: &[u8] = b"order,user,cents\n6,ann,60\n7,zed,70\n8,,80\n";
const USERS: &[u8] = b"id,name,country\nann,Ann,se\nbob,Bob,uk\nbob,Bobby,uk\n,Nobody,se\n";
const OTHERS: &[u8] = b"id,name,country\nann,Anna,uk\ncyd,Cyd,\nzed,Zed,se\n";
const COUNTRIES: &[u8] = b"country,title\nse,Sweden\nuk,Britain\n,Nowhere\n";

/// The lookup comes first, last, changes, goes and comes again; so do the records.
fn given() -> Steps {
    Steps::default()
        .then(Verb::Add, &[("orders-1.csv", ORDERS)])
        .then(Verb::Add, &[("users.csv", USERS), ("countries.csv", COUNTRIES)])
        .then(Verb::Add, &[("orders-2.csv", MORE)])
        .then(Verb::Replace, &[("users.csv", OTHERS)])
        .then(Verb::Replace, &[("orders-1.csv", b"order,user,cents\n2,ann,21\n4,cyd,40\n9,,90\n")])
        .then(Verb::Remove, &[("users.csv", b""), ("countries.csv", b"")])
        .then(Verb::Add, &[("users-2.csv", USERS)])
        .then(Verb::Replace, &[("orders-2.csv", MORE)])
        .then(Verb::Add, &[("countries-2.csv", b"country,title\nuk,United Kingdom\n")])
}

#[track_caller]
fn check(site: &Site, steps: &Steps) {
    let expected = steps::fresh(NODE, PIPELINE, &steps.survivors(), Shape::ALONE);
    assert_eq!(tree::difference(&expected, &site.out()), None);
    let doctor = site.call(&["doctor", "home", "--deep"]);
    doctor.expect_code(0);
}

#[test]
fn a_lookup_that_comes_changes_and_goes_corrects_what_was_before_it() {
    for shape in [Shape::ALONE, Shape::new(2, 2)] {
        let site = Site::new(NODE, PIPELINE);
        given().take(&site, shape);
        check(&site, &given());
        // And so it is when everything is built again.
        fs::remove_dir_all(site.home().join("ckpt")).unwrap();
        site.once(Shape::new(1, 2)).expect_code(0);
        check(&site, &given());
    }
}

#[test]
fn both_sides_survive_kills_in_checkpoints_on_any_number_of_workers() {
    let mut site = Site::new(NODE, PIPELINE);
    site.always(&["--checkpoint-every", "1ms"]);
    given().take_and_kill(&site, Shape::new(1, 3));
    check(&site, &given());
    // What is needed of earlier files is in the checkpoint: both sides answer without them.
    let mut all = given();
    type Files = [(&'static str, &'static [u8])];
    let rest: [(Verb, &Files, Shape); 2] = [
        (Verb::Replace, &[("users-2.csv", OTHERS)], Shape::new(2, 1)),
        (Verb::Add, &[("orders-3.csv", b"order,user,cents\n10,ann,1\n11,bob,1\n")], Shape::ALONE),
    ];
    for (verb, files, shape) in rest {
        all = all.then(verb, files);
        Steps::default().then(verb, files).take_and_kill(&site, shape);
        check(&site, &all);
    }
}

#[test]
fn a_lookup_file_that_fails_changes_nothing() {
    let site = Site::new(NODE, PIPELINE);
    site.put("orders-1.csv", ORDERS);
    site.put("users-1.csv", USERS);
    site.put("users-2.csv", b"id,name\nann,\"no such column\"\n");
    site.once(Shape::new(1, 2)).expect_code(3);
    let left = Steps::default()
        .then(Verb::Add, &[("orders-1.csv", ORDERS), ("users-1.csv", USERS)])
        .survivors();
    let expected = steps::fresh(NODE, PIPELINE, &left, Shape::ALONE);
    let out = site.out();
    let tables = |tree: &tidemill_tests::Tree| -> Vec<(String, Vec<u8>)> {
        let all = tree.iter().filter(|(name, _)| name.ends_with(".csv"));
        all.map(|(name, bytes)| (name.clone(), bytes.clone())).collect()
    };
    assert_eq!(tables(&out), tables(&expected));
}

/// Both sides have 40 rows of one key: 1,600 pairs are too many.
const PRODUCT: &str = "
pipeline: pairs
sources:
  left: { format: csv, pattern: \"l*\", fields: { day: string, n: int } }
  right: { format: csv, pattern: \"r*\", fields: { day: string, m: int } }
operators:
  pairs: { from: left, join: { with: right, on: [day], max_rows: 1000 } }
sinks:
  pairs: { from: pairs, table: { format: csv, key: [day, n, m] } }
";

#[test]
fn a_file_that_makes_one_key_give_too_many_rows_is_set_aside_by_the_next_start() {
    let side = |column: &str, day: &str, rows: i64| {
        let rows = (0..rows).map(|at| format!("{day},{at}\n"));
        format!("day,{column}\n{}", rows.collect::<String>()).into_bytes()
    };
    let given = |site: &Site| {
        site.put("l1.csv", &side("n", "mon", 40));
        site.put("r2.csv", &side("m", "tue", 30));
        site.put("r3.csv", &side("m", "mon", 20));
        site.put("l4.csv", &side("n", "tue", 2));
    };
    let guilty = side("m", "mon", 40);
    let expected = Site::new(NODE, PRODUCT);
    given(&expected);
    expected.once(Shape::ALONE).expect_code(0);
    for shape in [Shape::ALONE, Shape::new(1, 3), Shape::new(2, 2)] {
        let mut site = Site::new(NODE, PRODUCT);
        ["set aside", "a worker ended with", "process ", "generation "]
            .iter()
            .for_each(|announced| site.announce(announced));
        given(&site);
        site.put("r2-guilty.csv", &guilty);
        // With several processes the next generation begins by itself. One that had files open before
        // this one lets it run alone first.
        let mut ended = site.once(shape);
        for _ in 0..2 {
            if ended.code == Some(70) {
                ended.expect_said(
                    "Nothing is lost: start it again to go on; the file is set aside then.",
                );
                ended = site.once(shape);
            }
        }
        ended.expect_code(3);
        let aside = site.quarantine();
        let told = "r2-guilty.csv too_many_rows: pairs would give more than 1000 rows for one key \
                    (`max_rows`), of which there are 40 rows on the left and 40 on the right: day=mon";
        assert_eq!(aside, [told], "{shape}");
        assert_eq!(tree::difference(&expected.out(), &site.out()), None, "{shape}");
        site.once(shape).expect_code(0);
    }
}

#[test]
fn raising_the_bound_lets_the_file_through() {
    let mut site = Site::new(NODE, PRODUCT);
    site.announce("set aside");
    site.announce("a worker ended with");
    let side = |column: &str| {
        let rows = (0..40).map(|at| format!("mon,{at}\n"));
        format!("day,{column}\n{}", rows.collect::<String>()).into_bytes()
    };
    site.put("l1.csv", &side("n"));
    site.once(Shape::ALONE).expect_code(0);
    site.put("r1.csv", &side("m"));
    assert_eq!(site.once(Shape::ALONE).code, Some(70));
    fs::write(site.yaml(), PRODUCT.replace("max_rows: 1000", "max_rows: 1600")).unwrap();
    // What was found guilty is set aside all the same: nobody has looked at it yet.
    site.once(Shape::ALONE).expect_code(3);
    site.put("r1.csv", &side("m"));
    site.once(Shape::ALONE).expect_code(0);
    let table = fs::read_to_string(site.folder("out").join("pairs/pairs.csv")).unwrap();
    assert_eq!(table.lines().count(), 1601);
}

/// A lookup and its records, read twice: who has an entry, and who has none; and a few more columns.
const SHARED: &str = "
pipeline: shared
sources:
  orders: { format: csv, pattern: \"orders*\", append_only: true, fields: { order: int, user: string, cents: int } }
  users: { format: csv, pattern: \"users*\", fields: { id: string, name: string, country: string } }
operators:
  known: { from: orders, join: { with: users, on: { user: id }, kind: semi } }
  unknown: { from: orders, join: { with: users, on: { user: id }, kind: anti } }
  named: { from: orders, join: { with: users, on: { user: id }, take: [name] } }
  first: { from: orders, dedupe: { by: [user] } }
  all: { from: orders, dedupe: { by: [user], keep: last } }
sinks:
  known: { from: known, table: { format: csv, key: [order] } }
  unknown: { from: unknown, table: { format: csv, key: [order] } }
  named: { from: named, table: { format: csv, key: [order] } }
  first: { from: first, table: { format: csv, key: [user] } }
  others: { from: [all, all.duplicates], table: { format: csv, key: [order, user, cents] } }
";

#[test]
fn what_several_joins_keep_alike_counts_once_and_losers_that_nobody_asks_for_are_not_kept() {
    let site = Site::new(NODE, SHARED);
    site.put("users.csv", USERS);
    site.put("orders-1.csv", ORDERS);
    site.put("orders-2.csv", MORE);
    let running = site.start(Shape::ALONE);
    running.wait_for_finished(3);
    let stats = running.call(&["stats", "--json"]).expect_code(0).json();
    let held = |name: &str| {
        let rows = stats["operators"].as_array().unwrap();
        let row = rows.iter().find(|row| row["operator"] == name).unwrap();
        row["state_entries"].as_u64().unwrap()
    };
    // Six orders of a user, one of which is there twice, and the ids of two users.
    assert_eq!((held("known"), held("unknown")), (8, 0), "{stats}");
    // The same orders, and beside them three names.
    assert_eq!(held("named"), 3, "{stats}");
    // Four users and those without; all orders.
    assert_eq!((held("first"), held("all")), (5, 9), "{stats}");
    running.stop().expect_code(0);
}
