//! Corrections: whatever is sent, replaced and removed, and whatever happens to the process
//! meanwhile, outputs end as those of a fresh run over the files that are left.
//!
//! The longer campaign: `cargo run -p tidemill-tests --bin correction-campaign -- --cases 100000`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use tidemill_client::{Phase, Replaces, SubmitOptions, Which};
use tidemill_tests::corrections::Campaign;
use tidemill_tests::corrections::history::CASES;
use tidemill_tests::{Shape, Site};

const NODE: &str = env!("CARGO_BIN_EXE_node");

/// Histories that are run each time, each a pipeline with four cases: about a ninth of a second of one
/// core a case, in a debug build on a quiet machine.
const HISTORIES: u64 = 500;

#[test]
fn outputs_are_those_of_a_fresh_run_over_the_files_that_are_left() {
    let campaign =
        Campaign { node: NODE.into(), seed: 1, first: 0, histories: HISTORIES, side_by_side: 2 };
    let report = campaign.run();
    let failures: Vec<String> = report.failures.iter().map(ToString::to_string).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert_eq!(report.cases, HISTORIES * CASES as u64);
}

const SUMS: &str = "\
pipeline: sums
sources:
  rows: { format: jsonl, fields: { k: string } }
operators:
  hits: { from: rows, aggregate: { by: [k], compute: { hits: count(*) } } }
sinks:
  hits: { from: hits, table: { format: csv, key: [k] } }
";

/// The first version lies in a checkpoint. The second, and what takes that one away, lie behind it:
/// neither is read again, and the first must be taken back all the same.
#[test]
fn a_chain_of_corrections_behind_a_checkpoint_takes_back_what_the_checkpoint_holds() {
    let mut site = Site::new(NODE, SUMS);
    site.always(&["--checkpoint-every", "10ms"]);
    let mut running = site.start(Shape::ALONE);
    running.submit("f.jsonl", b"{\"k\":\"first\"}\n");
    running.submit("g.jsonl", b"{\"k\":\"other\"}\n");
    running.wait_for_checkpoint(2);
    running.kill();

    site.always(&["--checkpoint-every", "1h"]);
    let running = site.start(Shape::ALONE);
    let options = SubmitOptions { replaces: Replaces::SameName, ..SubmitOptions::default() };
    let second = b"{\"k\":\"second\"}\n".to_vec();
    let sent = running.ask(running.client().submit_bytes_with("f.jsonl", second, options)).unwrap();
    assert_eq!(running.wait(sent.id).phase, Phase::Committed);
    let which = Which::Name { pipeline: None, name: "f.jsonl".to_owned() };
    let removal = running.ask(running.client().remove(which)).unwrap();
    assert_eq!(running.wait(removal.id).phase, Phase::Committed);
    running.kill();

    site.once(Shape::ALONE).expect_code(0);
    assert_eq!(site.out()["hits/hits.csv"], b"k,hits\nother,1\n");
}
