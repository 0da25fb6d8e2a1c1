//! Receipts: every record of every committed file is accounted for, and the account is the same
//! whatever the number of workers and processes.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fmt::Write as _;

use tidemill_client::{Filter, Phase, Receipt, ReceiptNode, Submission};
use tidemill_tests::{Running, Shape, Site, scenario};

const NODE: &str = env!("CARGO_BIN_EXE_node");

#[test]
fn every_scenario_balances_and_its_receipts_are_the_same_for_all_shapes() {
    let mut committed = 0;
    for folder in scenario::folders() {
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut first: Option<BTreeMap<String, String>> = None;
        for shape in [Shape::ALONE, Shape::new(1, 3), Shape::new(2, 2)] {
            let site = scenario::site(NODE, &folder);
            site.once(shape);
            let found = receipts(&site, shape);
            committed += found.len();
            match &first {
                None => first = Some(found),
                Some(first) => assert_eq!(first, &found, "{name}, {shape}"),
            }
        }
    }
    assert!(committed >= 3 * 30, "only {committed} files were committed");
}

/// Returns the checked receipt of each committed file as text, by its output-bearing id.
fn receipts(site: &Site, made_with: Shape) -> BTreeMap<String, String> {
    let running = site.start(Shape::ALONE);
    let page = running.ask(running.client().list(&Filter { limit: 1000, ..Filter::default() }));
    let mut texts = BTreeMap::new();
    for listed in page.unwrap().submissions {
        assert_eq!(listed.receipt, None, "a list holds no receipts");
        let whole = get(&running, listed.id);
        let Some(receipt) = &whole.receipt else {
            assert_ne!(whole.phase, Phase::Committed, "{}: no receipt", whole.name);
            continue;
        };
        assert_eq!(receipt.processes, made_with.processes as u64);
        assert_eq!(receipt.workers, made_with.workers as u64);
        check(&whole, receipt);
        // Which of several files is taken first is no promise.
        texts.insert(format!("{} {}", whole.name, whole.hash), text(receipt));
    }
    running.stop();
    texts
}

fn get(running: &Running<'_>, id: u64) -> Submission {
    running.ask(running.client().get(id)).unwrap()
}

/// Checks the laws anew, from what a client sees.
#[track_caller]
fn check(file: &Submission, receipt: &Receipt) {
    let about = format!("{}\n{}", file.name, text(receipt));
    let mut out: BTreeMap<String, u64> = BTreeMap::new();
    for node in receipt.nodes.iter().filter(|node| !is_sink(node)) {
        for (tag, count) in &node.out {
            let port =
                if tag.is_empty() { node.name.clone() } else { format!("{}.{tag}", node.name) };
            out.insert(port, *count);
        }
        let errors = format!("{}.errors", node.name);
        // Rejected records that something reads as rows: then what is told of keys goes its own way.
        let are_rows = receipt.nodes.iter().any(|other| other.name == errors);
        let told = if are_rows { 0 } else { node.reported };
        out.insert(errors, node.rejected + told);
        out.insert(format!("{}.told", node.name), node.reported);
        let given: u64 = node.out.iter().map(|(_, count)| count).sum();
        let went =
            if ["aggregate", "keyed"].contains(&node.role.as_str()) { node.merged } else { given };
        let went = went + node.filtered + node.rejected;
        assert_eq!(node.records_in + node.copies, went, "{} does not balance: {about}", node.name);
    }
    for node in receipt.nodes.iter().filter(|node| node.role != "source") {
        let fed: u64 = node.fed_by.iter().map(|port| out[port]).sum();
        assert_eq!(node.records_in, fed, "{} is not fed what it took: {about}", node.name);
    }
    let sum = |of: &dyn Fn(&ReceiptNode) -> u64| receipt.nodes.iter().map(of).sum::<u64>();
    let read = sum(&|node| if node.role == "source" { node.records_in } else { 0 });
    assert_eq!(read, file.records, "{about}");
    assert_eq!(sum(&|node| node.rejected + node.reported), file.rejected, "{about}");
    let outputs: Vec<(&str, u64)> =
        receipt.outputs.iter().map(|one| (one.path.as_str(), one.bytes)).collect();
    // What was taken away is told of, and has no hash.
    let listed: Vec<(&str, u64)> =
        (file.outputs.iter().filter(|one| !one.removed).map(|one| (one.path.as_str(), one.bytes)))
            .collect();
    assert_eq!(outputs, listed, "{about}");
    assert!(receipt.claimed_at <= receipt.read_at && receipt.read_at <= receipt.answered_at);
    assert!(file.seen_at <= receipt.claimed_at && Some(receipt.answered_at) <= file.finished_at);
    assert_eq!(receipt.plan_hash.len(), 64);
}

fn is_sink(node: &ReceiptNode) -> bool {
    matches!(node.role.as_str(), "files" | "table" | "rejects")
}

/// Returns what must not depend on the shape, nor on when things happened.
fn text(receipt: &Receipt) -> String {
    let mut text = format!("plan {}\n", receipt.plan_hash);
    for node in &receipt.nodes {
        let _ = writeln!(text, "{node:?}");
    }
    for output in &receipt.outputs {
        let _ = writeln!(text, "{} {} {}", output.path, output.bytes, output.hash);
    }
    text
}

const ALL_KINDS: &str = "pipeline: kinds
sources:
  rows: { format: csv, fields: { n: int, big: int } }
operators:
  some: { from: rows, filter: n <> 5 and 10 / (n - 3) >= -100 }
  by: { from: some, match: all, route: { two: n % 2 = 0, three: n % 3 = 0 } }
  sums: { from: some, aggregate: { by: [n], compute: { big: sum(big) } } }
sinks:
  two: { from: by.two, files: { format: csv } }
  both: { from: [by.two, by.three], files: { format: csv } }
  sums: { from: sums, table: { format: csv, key: [n] } }
";

#[test]
fn a_receipt_says_where_each_record_of_a_file_went() {
    let site = Site::new(NODE, ALL_KINDS);
    // 3 fails in the filter, 5 is left out, 6 leaves twice, 1 and 7 meet no rule, x is no number.
    site.put("a.csv", b"n,big\n1,1\n2,1\n3,1\n4,1\n5,1\n6,1\n7,1\nx,1\n");
    site.once(Shape::new(1, 2)).expect_code(0);
    let running = site.start(Shape::ALONE);
    let line = |node: &ReceiptNode| {
        let ReceiptNode { name, records_in, out, filtered, rejected, merged, copies, .. } = node;
        let out: Vec<String> = out.iter().map(|(tag, count)| format!("{tag}{count}")).collect();
        format!("{name}: {records_in} {out:?} {filtered} {rejected} {merged} {copies}")
    };
    let receipt = get(&running, 1).receipt.unwrap();
    let lines: Vec<String> = receipt.nodes.iter().map(line).collect();
    assert_eq!(
        lines,
        [
            "rows: 8 [\"7\"] 0 1 0 0",
            "some: 7 [\"5\"] 1 1 0 0",
            "by: 5 [\"two3\", \"three1\"] 2 0 0 1",
            "sums: 5 [\"5\"] 0 0 5 0",
            "two: 3 [] 0 0 0 0",
            "both: 4 [] 0 0 0 0",
            "sums: 5 [] 0 0 0 0",
            "rejects: 2 [] 0 0 0 0",
        ]
    );
    let shown = running.call(&["file", "1"]);
    shown.expect_code(0);
    assert!(shown.stdout.contains("receipt: every record is accounted for"), "{shown}");
    assert!(shown.stdout.contains("two 3, three 1 (1 more than once)"), "{shown}");
    let json = running.call(&["file", "1", "--json"]).json();
    assert_eq!(json["receipt"]["nodes"][2]["copies"], 1, "{json}");
    assert_eq!(json["receipt"]["outputs"][0]["path"], "two/a.csv", "{json}");
    running.stop();
}

#[test]
fn a_sum_that_fits_no_int_is_told_in_rejects_and_in_the_receipt() {
    for shape in [Shape::ALONE, Shape::new(1, 3), Shape::new(2, 2)] {
        let site = Site::new(NODE, ALL_KINDS);
        // Set aside first, so that epochs and ids stay apart from each other's workers.
        let big = i64::MAX;
        site.put("a.csv", format!("n,big\n1,{big}\n2,7\n").as_bytes());
        site.once(shape).expect_code(0);
        for name in ["b.csv", "c.csv"] {
            site.put(name, format!("n,big\n1,{big}\n2,7\n").as_bytes());
        }
        site.once(shape).expect_code(0);
        let out = site.out();
        let told: Vec<String> = out
            .iter()
            .filter(|(path, _)| path.starts_with("rejects/"))
            .map(|(_, bytes)| String::from_utf8_lossy(bytes).into_owned())
            .collect();
        assert_eq!(told.len(), 1, "{shape}: told once, when it happened: {told:?}");
        assert!(told[0].contains("\"operator\":\"sums\""), "{shape}: {}", told[0]);
        assert!(told[0].contains("does not fit an int"), "{shape}: {}", told[0]);
        let running = site.start(Shape::ALONE);
        let reported: u64 = (1..=3)
            .flat_map(|id| get(&running, id).receipt.unwrap().nodes)
            .map(|node| node.reported)
            .sum();
        assert_eq!(reported, 1, "{shape}");
        running.stop();
    }
}
