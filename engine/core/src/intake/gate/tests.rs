//! What passes the gate, and what is told of the rest.

use super::*;
use crate::plan;

fn gate(contract: &str) -> Gate {
    let yaml = format!(
        "pipeline: p\nsources:\n  a: {{ format: text, contract: {{ {contract} }} }}\nsinks:\n  \
         o: {{ from: a, files: {{ format: raw }} }}\n"
    );
    let plan = plan::plan(&yaml).unwrap();
    Gate::new("p", plan.sources.iter().map(|one| (one.name.as_str(), &one.taking.arrival)))
}

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn listing(names: &[&str]) -> Result<BTreeMap<String, Entry>, String> {
    let entry = |name: &&str| ((*name).to_owned(), Entry { hash: [7; 32], bytes: None });
    Ok(names.iter().map(entry).collect())
}

/// What passes: single files by name, sets as `LABEL: NAMES`, refused ones with `!`.
fn pass(gate: &mut Gate, seconds: u64) -> Vec<String> {
    let passed = gate.pass(at(seconds));
    let files = passed.files.into_iter().map(|(_, name, _)| name);
    let set = |set: Ready| {
        let why = set.refused.map(|why| format!("! {why}")).unwrap_or_default();
        format!("{}: {}{why}", set.label, set.names.join(" "))
    };
    files.chain(passed.sets.into_iter().map(set)).collect()
}

fn told(gate: &Gate) -> Vec<String> {
    gate.conditions().into_iter().map(|one| format!("{}: {}", one.code, one.text)).collect()
}

#[track_caller]
fn drop_in(gate: &mut Gate, names: &[&str]) {
    names.iter().for_each(|name| gate.file(name, 0, Seen::default(), at(0)));
}

const NOTHING: [&str; 0] = [];

#[test]
fn a_file_waits_for_its_marker_and_a_marker_for_its_file() {
    let mut gate = gate("marker: \"{name}.ok\"");
    drop_in(&mut gate, &["a", "b"]);
    gate.marker("c.ok", at(1));
    assert_eq!(pass(&mut gate, 1), NOTHING);
    assert_eq!(
        told(&gate),
        [
            "waits_for_marker: source a of p: 2 files wait, a first, in unprocessed/ for its marker",
            "marker_alone: p: the marker c.ok lies in unprocessed/ without its file",
        ]
    );
    gate.marker("b.ok", at(2));
    assert_eq!(pass(&mut gate, 2), ["b"]);
    assert_eq!(gate.taken(0, ["b"]), ["b.ok"]);
    gate.gone("b.ok");
    drop_in(&mut gate, &["b", "c"]);
    assert_eq!(pass(&mut gate, 3), ["c"], "b has no marker any more");
    gate.gone("a");
    gate.gone("b");
    gate.gone("c.ok");
    assert_eq!(pass(&mut gate, 4), NOTHING);
    assert_eq!(told(&gate), NOTHING);
}

#[test]
fn a_file_waits_for_a_manifest_that_lists_it() {
    let mut gate = gate("manifest: \"*.sha256\"");
    drop_in(&mut gate, &["a", "x"]);
    gate.manifest("m.sha256", 0, Err("it lists no file".into()), at(0));
    assert_eq!(pass(&mut gate, 1), NOTHING);
    assert!(told(&gate)[1].contains("m.sha256 cannot be read: it lists no file"));
    gate.manifest("m.sha256", 0, listing(&["a", "b"]), at(1));
    assert_eq!(gate.expected(0, "a").unwrap().manifest, "m.sha256");
    assert_eq!(gate.expected(0, "x"), None);
    assert_eq!(pass(&mut gate, 2), ["a"]);
    assert_eq!(gate.taken(0, ["a"]), NOTHING, "b is to come");
    assert_eq!(gate.missing(), [(0, "b".to_owned(), at(1))]);
    drop_in(&mut gate, &["a"]);
    assert_eq!(pass(&mut gate, 3), NOTHING, "it was listed once");
    drop_in(&mut gate, &["b"]);
    assert_eq!(pass(&mut gate, 3), ["b"]);
    assert_eq!(gate.taken(0, ["b"]), ["m.sha256"]);
}

#[test]
fn a_set_passes_when_all_of_it_is_there() {
    let mut gate = gate("set: { of: \"s_{day}_*\", count: 3 }");
    drop_in(&mut gate, &["s_1_a", "s_1_b", "s_2_a", "other"]);
    assert_eq!(pass(&mut gate, 1), ["other"]);
    assert_eq!(told(&gate)[0], "waits_for_set: source a of p: waiting for 1 of 3 of the set s_1_*");
    drop_in(&mut gate, &["s_1_c", "s_1_d"]);
    assert_eq!(pass(&mut gate, 2), ["s_1_*: s_1_a s_1_b s_1_c"]);
    assert_eq!(told(&gate).len(), 2, "s_1_d begins another one");
    drop_in(&mut gate, &["s_2_b"]);
    gate.gone("s_2_a");
    drop_in(&mut gate, &["s_2_c"]);
    assert_eq!(pass(&mut gate, 3), NOTHING, "one is gone again");
}

#[test]
fn a_set_by_its_manifest_is_all_that_it_lists() {
    let mut gate = gate("manifest: \"*.m\", marker: \"{name}.ok\", set: { of: manifest }");
    drop_in(&mut gate, &["a", "b"]);
    gate.manifest("x.m", 0, listing(&["a", "b", "c"]), at(1));
    gate.marker("a.ok", at(1));
    gate.marker("b.ok", at(1));
    assert_eq!(pass(&mut gate, 1), NOTHING);
    assert!(told(&gate)[0].ends_with("waiting for 1 of 3 of the set x.m (first missing: c)"));
    drop_in(&mut gate, &["c"]);
    assert_eq!(pass(&mut gate, 2), NOTHING, "its marker is missing");
    gate.marker("c.ok", at(3));
    assert_eq!(pass(&mut gate, 3), ["x.m: a b c"]);
    assert_eq!(gate.taken(0, ["a", "b", "c"]), ["a.ok", "b.ok", "c.ok", "x.m"]);
}

#[test]
fn a_set_that_is_late_is_told_or_refused() {
    let contract = "set: { of: \"{day}-*\", count: 2, within: 10s";
    let mut one = gate(&format!("{contract} }}"));
    drop_in(&mut one, &["1-a"]);
    assert_eq!(pass(&mut one, 9), NOTHING);
    assert_eq!(pass(&mut one, 10), NOTHING);
    assert!(told(&one)[0].ends_with("the set 1-*, late by its 10 s"), "{:?}", told(&one));
    let mut other = gate(&format!("{contract}, then: quarantine }}"));
    drop_in(&mut other, &["1-a"]);
    assert_eq!(pass(&mut other, 9), NOTHING);
    let refused = "1-*: 1-a! after 10 s, 1 of 2 files of the set 1-* are there";
    assert_eq!(pass(&mut other, 10), [refused]);
    assert_eq!(told(&other), NOTHING);
}

#[test]
fn what_waits_is_told_within_bounds() {
    let mut gate = gate("set: { of: \"{n}-*\", count: 2 }");
    let names: Vec<String> = (0..50).map(|n| format!("{n:02}-a")).collect();
    names.iter().for_each(|name| gate.file(name, 0, Seen::default(), at(0)));
    assert_eq!(pass(&mut gate, 1), NOTHING);
    assert_eq!(told(&gate).len(), TOLD_MAX);
    assert!(told(&gate)[4].ends_with("and 45 more sets"));
}
