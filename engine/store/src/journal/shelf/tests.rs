//! What the shelf promises, one fact per test.

use super::super::tests::{accept, committed, given, inline, quarantined};
use super::*;
use crate::journal::VerdictRow;

/// Returns an output of an earlier file.
fn of(file: &AcceptedFile, sink: &str, name: &str, bytes: &[u8]) -> Part {
    Part::inline(file.id, sink, name, bytes.to_vec())
}

fn version(bytes: &[u8]) -> Version {
    Version { bytes: bytes.len() as u64, hash: blake3::hash(bytes).into(), body: None }
}

fn names(outputs: &[Output]) -> Vec<(String, u64, u64)> {
    outputs.iter().map(|one| (format!("{}/{}", one.sink, one.name), one.by, one.bytes)).collect()
}

/// Returns the parts of a submission as they are listed: name, whose, removed, superseded by.
fn listed(journal: &Journal, id: u64) -> Vec<(String, u64, bool, Option<u64>)> {
    let row = journal.reader().unwrap().submission(id).unwrap().unwrap();
    let Some(VerdictRow::Committed { parts }) = row.outcome.map(|outcome| outcome.verdict) else {
        return Vec::new();
    };
    let part = |part: super::super::PartRow| (part.name, part.of, part.removed, part.superseded_by);
    parts.into_iter().map(part).collect()
}

#[test]
fn a_later_file_replaces_an_output_of_an_earlier_one() {
    for together in [false, true] {
        let (_folder, _home, mut journal) = given();
        let files = accept(&mut journal, "p", &["a", "b"]);
        let first = committed(&files[0], vec![inline("s", "a", b"one"), inline("t", "a", b"x")]);
        let second =
            committed(&files[1], vec![inline("s", "b", b"b"), of(&files[0], "s", "a", b"two!")]);
        let replaced = if together {
            journal.finish(&[first, second]).unwrap()
        } else {
            assert_eq!(journal.finish(&[first]).unwrap(), []);
            journal.finish(&[second]).unwrap()
        };
        let expected = Replaced { submission: files[1].id, part: 1, version: version(b"one") };
        assert_eq!(replaced, [expected]);
        let (one, two) = (files[0].id, files[1].id);
        let outputs = journal.outputs_of(one).unwrap();
        assert_eq!(names(&outputs), [("s/a".into(), two, 4), ("t/a".into(), one, 1)]);
        assert_eq!(outputs[0].hash, *blake3::hash(b"two!").as_bytes());
        assert_eq!(names(&journal.outputs_of(two).unwrap()), [("s/b".into(), two, 1)]);
        let expected = [("a".into(), one, false, Some(two)), ("a".into(), one, false, None)];
        assert_eq!(listed(&journal, one), expected);
        let expected = [("b".into(), two, false, None), ("a".into(), one, false, None)];
        assert_eq!(listed(&journal, two), expected);
    }
}

#[test]
fn an_output_is_removed_and_may_come_back() {
    let (_folder, _home, mut journal) = given();
    let files = accept(&mut journal, "p", &["a", "b", "c", "d"]);
    journal.finish(&[committed(&files[0], vec![inline("s", "a", b"one")])]).unwrap();
    let removed = vec![Part::removed(files[0].id, "s", "a")];
    let replaced = journal.finish(&[committed(&files[1], removed.clone())]).unwrap();
    assert_eq!(replaced[0].version, version(b"one"));
    assert_eq!(journal.outputs_of(files[0].id).unwrap(), []);
    assert_eq!(listed(&journal, files[1].id), [("a".into(), files[0].id, true, None)]);
    // Once more changes nothing.
    assert_eq!(journal.finish(&[committed(&files[2], removed)]).unwrap(), []);
    let back = vec![of(&files[0], "s", "a", b"back")];
    assert_eq!(journal.finish(&[committed(&files[3], back)]).unwrap(), []);
    let outputs = journal.outputs_of(files[0].id).unwrap();
    assert_eq!(names(&outputs), [("s/a".into(), files[3].id, 4)]);
}

#[test]
fn a_file_takes_the_place_of_another() {
    let (_folder, _home, mut journal) = given();
    let files = accept(&mut journal, "p", &["a", "b", "c"]);
    let put = |bytes: &[u8]| vec![inline("s", "a", bytes)];
    journal.finish(&[committed(&files[0], put(b"1"))]).unwrap();
    assert_eq!(journal.finish(&[committed(&files[1], put(b"2"))]).unwrap().len(), 1);
    assert_eq!(journal.outputs_of(files[0].id).unwrap(), []);
    assert_eq!(names(&journal.outputs_of(files[1].id).unwrap()).len(), 1);
    // What a later file changes is the output of the second now.
    let later = vec![of(&files[1], "s", "a", b"3")];
    let replaced = journal.finish(&[committed(&files[2], later)]).unwrap();
    assert_eq!(replaced[0].version, version(b"2"));
}

#[test]
fn only_an_output_of_a_committed_file_of_the_same_pipeline_can_change() {
    let (_folder, _home, mut journal) = given();
    let files = accept(&mut journal, "p", &["a", "b", "c", "d"]);
    let others = accept(&mut journal, "q", &["a"]);
    journal.finish(&[committed(&others[0], vec![inline("s", "a", b"1")])]).unwrap();
    journal.finish(&[committed(&files[0], vec![]), quarantined(&files[1])]).unwrap();
    let mut refused = |part: Part| {
        let result = journal.finish(&[committed(&files[2], vec![part])]);
        let Err(JournalError::Invariant { detail }) = result else { panic!("{result:?}") };
        detail
    };
    for whose in [others[0].id, files[1].id, files[3].id, 99, u64::MAX] {
        let detail = refused(Part::inline(whose, "s", "x", b"2".to_vec()));
        assert!(detail.contains("whose output it is said to be, has none"), "{detail}");
        refused(Part::removed(whose, "s", "x"));
    }
    let odd = Part { bytes: 1, ..Part::removed(files[0].id, "s", "a") };
    assert!(refused(odd).contains("says that it has bytes"));
    journal.finish(&[committed(&files[2], vec![Part::removed(files[0].id, "s", "a")])]).unwrap();
}

#[test]
fn one_commit_says_one_thing_of_a_place() {
    let (_folder, _home, mut journal) = given();
    let files = accept(&mut journal, "p", &["a", "b"]);
    journal.finish(&[committed(&files[0], vec![inline("s", "a", b"1")])]).unwrap();
    let staged = |name: &str| Part {
        body: PartBody::Staged("stage/1/p/2-s-of1-0.part".into()),
        ..of(&files[0], "s", name, b"")
    };
    for parts in [
        vec![of(&files[0], "s", "a", b"1"), Part::removed(files[0].id, "s", "a")],
        vec![inline("s", "x", b"1"), inline("s", "y", b"1")],
        vec![staged("x"), staged("y")],
    ] {
        let result = journal.finish(&[committed(&files[1], parts)]);
        assert!(matches!(result, Err(JournalError::Invariant { .. })), "{result:?}");
    }
    // But one sink may have outputs of many files.
    let parts = vec![inline("s", "b", b"1"), of(&files[0], "s", "a", b"2"), staged("x")];
    journal.finish(&[committed(&files[1], parts)]).unwrap();
}

#[test]
fn recovery_is_told_the_last_word_on_a_place_and_what_may_lie_there() {
    let (_folder, home, mut journal) = given();
    let files = accept(&mut journal, "p", &["a", "b", "c", "d"]);
    journal.finish(&[committed(&files[0], vec![inline("s", "a", b"1")])]).unwrap();
    journal.settle(&[files[0].id]).unwrap();
    let put = |bytes: &[u8]| vec![of(&files[0], "s", "a", bytes)];
    let staged = Part {
        body: PartBody::Staged("stage/1/p/3-s-of1-0.part".into()),
        ..of(&files[0], "s", "a", b"three")
    };
    journal.finish(&[committed(&files[1], put(b"22"))]).unwrap();
    journal.finish(&[committed(&files[2], vec![staged, inline("s", "c", b"c")])]).unwrap();
    journal.finish(&[committed(&files[3], put(b"4444"))]).unwrap();
    drop(journal);
    let mut journal = Journal::open(&home).unwrap();
    let parts = |journal: &Journal| -> Vec<(u64, Vec<Part>)> {
        let unsettled = journal.unsettled().unwrap().into_iter();
        let parts = |outcome: Outcome| match outcome.verdict {
            Verdict::Committed { parts } => parts,
            Verdict::Quarantined { .. } | Verdict::Postponed(_) => vec![],
        };
        unsettled.map(|(file, outcome)| (file.epoch, parts(outcome))).collect()
    };
    let unsynced = Version { body: Some(b"22".to_vec()), ..version(b"22") };
    let before =
        vec![version(b"three"), version(b"1"), unsynced, version(b"22"), version(b"three")];
    let own = Part { of: files[2].id, ..inline("s", "c", b"c") };
    let last = Part { before, ..of(&files[0], "s", "a", b"4444") };
    let expected = vec![(2, vec![]), (3, vec![own]), (4, vec![last])];
    assert_eq!(parts(&journal), expected);
    // Where the last word is settled nothing is left to do.
    journal.settle(&[files[3].id]).unwrap();
    let expected = vec![(2, vec![]), (3, vec![expected[1].1[0].clone()])];
    assert_eq!(parts(&journal), expected);
}
