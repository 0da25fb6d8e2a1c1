//! Receipts in the journal, one fact per test.

use std::collections::HashMap;

use super::*;
use crate::home::Home;
use crate::journal::{AcceptedFile, Generation, NewFile};
use crate::queue::Identity;
use crate::receipt::{Node, NodeCounts, Role};

fn given() -> (tempfile::TempDir, Journal, AcceptedFile) {
    let folder = tempfile::tempdir().unwrap();
    let home = Home::open(&folder.path().join("home")).unwrap();
    let mut journal = Journal::open(&home).unwrap();
    let plans = vec![("p".to_string(), "plan".to_string())];
    let (processes, workers, binary_version) = (2, 3, "1.0".to_string());
    let generation = Generation { binary_version, processes, workers, plans };
    journal.begin_generation(&generation).unwrap();
    let id = journal.next_submission();
    let file = NewFile {
        id,
        pipeline: "p".into(),
        source: "rows".into(),
        name: "a.csv".into(),
        claimed_name: format!("{id}-a.csv"),
        identity: Identity { device: 1, inode: 2, bytes: 3, modified_ns: 4 },
        hash: None,
        client_id: None,
        dedupe: crate::journal::Dedupe::None,
        replaces: crate::Replaces::Nothing,
        terms: crate::Terms::default(),
        seen_at_us: 1,
        claimed_at_us: 2,
    };
    let file = journal.accept(&[file]).unwrap().remove(0);
    (folder, journal, file)
}

fn book() -> Book {
    let node = |name: &str, role, inputs: &[(usize, usize)]| Node {
        name: name.into(),
        role,
        kind: "k".into(),
        tags: if role == Role::Source { vec![String::new()] } else { vec![] },
        inputs: inputs.to_vec(),
        errors_of: vec![],
        rejected_of: vec![],
        told_of: vec![],
    };
    Book { nodes: vec![node("rows", Role::Source, &[]), node("out", Role::Files, &[(0, 0)])] }
}

fn receipt(read: u64, delivered: u64) -> Receipt {
    let source = NodeCounts { taken: read, given: vec![read], ..NodeCounts::default() };
    let sink = NodeCounts { taken: delivered, ..NodeCounts::default() };
    Receipt { read_at_us: 5, counts: vec![source, sink] }
}

fn outcome(file: &AcceptedFile, verdict: Verdict) -> Outcome {
    Outcome {
        id: file.id,
        pipeline: "p".into(),
        epoch: file.epoch,
        verdict,
        hash: Some([9; 32]),
        records: 10,
        rejected: 0,
        answered_at_us: 6,
        finished_at_us: 7,
    }
}

fn committed(file: &AcceptedFile) -> Outcome {
    outcome(file, Verdict::Committed { parts: vec![] })
}

#[test]
fn a_receipt_is_kept_with_what_made_it() {
    let (_folder, mut journal, file) = given();
    journal.keep_books(&[("p".into(), book())]).unwrap();
    journal.finish_with(&[committed(&file)], &HashMap::from([(file.id, receipt(10, 10))])).unwrap();
    let reader = journal.reader().unwrap();
    let row = reader.receipt(file.id).unwrap().unwrap();
    assert_eq!((row.book, row.receipt), (book(), receipt(10, 10)));
    assert_eq!((row.generation, row.processes, row.workers), (1, 2, 3));
    assert_eq!((row.plan_hash.as_str(), row.binary_version.as_str()), ("plan", "1.0"));
    assert_eq!(reader.receipt(file.id + 1).unwrap(), None);
    let sql =
        "SELECT group_concat(node || ' ' || records_in || ' ' || records_out) FROM receipt_line";
    let lines: String = reader.connection.query_row(sql, [], |row| row.get(0)).unwrap();
    assert_eq!(lines, "rows 10 [10],out 10 []");
}

#[test]
fn a_file_whose_receipt_does_not_balance_is_not_committed() {
    #[track_caller]
    fn check(receipts: &[Receipt], expected: &str) {
        let (_folder, mut journal, file) = given();
        journal.keep_books(&[("p".into(), book())]).unwrap();
        let receipts = receipts.iter().map(|receipt| (file.id, receipt.clone())).collect();
        let error = journal.finish_with(&[committed(&file)], &receipts).unwrap_err();
        assert!(matches!(error, JournalError::Invariant { .. }), "{error}");
        assert!(error.to_string().contains(expected), "{error}");
        let row = journal.reader().unwrap().submission(file.id).unwrap().unwrap();
        assert_eq!(row.outcome, None);
        // Nothing was written, and the journal goes on.
        let right = HashMap::from([(file.id, receipt(10, 10))]);
        journal.finish_with(&[committed(&file)], &right).unwrap();
    }
    check(&[receipt(10, 9)], "files out: 9 delivered = 9, but 10 out of rows = 10");
    check(&[receipt(10, 11)], "files out: 11 delivered = 11, but 10 out of rows = 10");
    check(&[receipt(11, 11)], "10 records read = 10, but 11 taken by rows = 11");
    check(&[], "it has no receipt");
}

#[test]
fn a_file_that_is_set_aside_needs_no_receipt() {
    let (_folder, mut journal, file) = given();
    journal.keep_books(&[("p".into(), book())]).unwrap();
    let verdict = Verdict::Quarantined { code: "E".into(), detail: "no".into() };
    journal.finish(&[outcome(&file, verdict)]).unwrap();
    assert_eq!(journal.reader().unwrap().receipt(file.id).unwrap(), None);
}

#[test]
fn the_same_book_is_kept_once() {
    let (_folder, mut journal, _file) = given();
    for _ in 0..3 {
        journal.keep_books(&[("p".into(), book()), ("q".into(), book())]).unwrap();
    }
    let count = |sql| journal.connection().query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!(count("SELECT count(*) FROM book"), 1);
}
