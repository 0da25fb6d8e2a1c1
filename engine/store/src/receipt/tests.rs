//! The laws of a receipt, one fact per test.

use super::*;

fn node(name: &str, role: Role, tags: &[&str], inputs: &[(usize, usize)]) -> Node {
    Node {
        name: name.into(),
        role,
        kind: role.word().into(),
        tags: tags.iter().map(|tag| (*tag).to_string()).collect(),
        inputs: inputs.to_vec(),
        errors_of: Vec::new(),
        rejected_of: Vec::new(),
        told_of: Vec::new(),
    }
}

fn count(taken: u64, given: &[u64]) -> NodeCounts {
    NodeCounts { taken, given: given.to_vec(), ..NodeCounts::default() }
}

/// A source, a route that copies, an aggregate, a table, files that two tags feed, and rejects.
fn given() -> (Book, Receipt) {
    let mut rejects = node("rejects", Role::Rejects, &[], &[]);
    rejects.errors_of = vec![0, 1, 2];
    let book = Book {
        nodes: vec![
            node("rows", Role::Source, &[""], &[]),
            node("by", Role::Operator, &["two", "three"], &[(0, 0)]),
            node("sums", Role::Aggregate, &[""], &[(1, 0)]),
            node("table", Role::Table, &[], &[(2, 0)]),
            node("files", Role::Files, &[], &[(1, 0), (1, 1)]),
            rejects,
        ],
    };
    let counts = vec![
        NodeCounts { rejected: 2, ..count(12, &[10]) },
        NodeCounts { filtered: 3, rejected: 1, copies: 1, ..count(10, &[4, 3]) },
        NodeCounts { merged: 4, reported: 1, ..count(4, &[2]) },
        count(2, &[]),
        count(7, &[]),
        count(4, &[]),
    ];
    (book, Receipt { read_at_us: 9, counts })
}

#[test]
fn a_receipt_that_accounts_for_every_record_balances() {
    let (book, receipt) = given();
    assert_eq!(book.check(&receipt, 12, 4), Ok(()));
}

#[test]
fn a_record_too_many_or_too_few_anywhere_is_told_with_both_sides() {
    #[track_caller]
    fn check(change: impl Fn(&mut Vec<NodeCounts>), expected: &str) {
        let (book, mut receipt) = given();
        change(&mut receipt.counts);
        let told = book.check(&receipt, 12, 4).map_err(|imbalance| imbalance.to_string());
        assert_eq!(told, Err(expected.to_string()));
    }
    check(|c| c[0].taken = 13, "source rows: 13 in = 13, but 10 out + 2 rejected = 12");
    check(
        |c| c[1].filtered = 2,
        "operator by: 10 in + 1 copies = 11, but 4 out two + 3 out three + 2 filtered + 1 rejected = 10",
    );
    check(
        |c| c[1].copies = 0,
        "operator by: 10 in = 10, but 4 out two + 3 out three + 3 filtered + 1 rejected = 11",
    );
    check(|c| c[2].merged = 3, "aggregate sums: 4 in = 4, but 3 merged + 0 rejected = 3");
    check(|c| c[3].taken = 1, "table table: 1 delivered = 1, but 2 out of sums = 2");
    check(
        |c| c[4].taken = 8,
        "files files: 8 delivered = 8, but 4 out of by.two + 3 out of by.three = 7",
    );
    check(
        |c| c[5].taken = 3,
        "rejects rejects: 3 delivered = 3, but 2 rejected by rows + 1 rejected by by + 1 rejected by sums = 4",
    );
    check(
        |c| {
            c[0] = NodeCounts { rejected: 2, ..count(11, &[9]) };
        },
        "operator by: 10 in = 10, but 9 out of rows = 9",
    );
    check(|c| c.truncate(5), "the receipt: 6 nodes in the pipeline = 6, but 5 nodes counted = 5");
}

#[test]
fn a_receipt_agrees_with_what_the_readers_and_the_outcome_say() {
    let (book, receipt) = given();
    let told = |records, rejected| book.check(&receipt, records, rejected).unwrap_err().to_string();
    assert_eq!(told(13, 4), "the file: 13 records read = 13, but 12 taken by rows = 12");
    assert_eq!(
        told(12, 5),
        "the file: 5 records rejected = 5, but 2 rejected by rows + 1 rejected by by + 1 rejected by sums = 4"
    );
}

#[test]
fn what_is_written_is_read_again() {
    let (book, receipt) = given();
    let text = receipt.text();
    assert_eq!(text, "[[12,[10],0,2],[10,[4,3],3,1,0,1],[4,[2],0,0,4,0,1],[2],[7],[4]]");
    assert_eq!(Receipt::parse(9, &text, &book), Some(receipt));
}

#[test]
fn what_nobody_wrote_is_not_read() {
    let (book, _) = given();
    for text in
        ["", "{}", "[1]", "[[-1]]", "[[1,2]]", "[[1,[\"2\"]]]", "[[1],[1],[1],[1],[1],[1],[1]]"]
    {
        assert_eq!(Receipt::parse(0, text, &book), None, "{text}");
    }
}
