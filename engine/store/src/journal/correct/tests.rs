//! What is current, and what a correction corrects, one fact per test.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::journal::tests::{committed, finish_some, given, new_file, quarantined};
use crate::journal::{Dedupe, Phase};
use crate::{CheckpointRow, Filter};

fn accept(journal: &mut Journal, name: &str, replaces: Replaces) -> AcceptedFile {
    let file = NewFile { replaces, ..new_file(journal, "p", name) };
    journal.accept(&[file]).unwrap().remove(0)
}

fn commit(journal: &mut Journal, file: &AcceptedFile) {
    journal.finish(&[committed(file, vec![])]).unwrap();
}

fn remove(journal: &mut Journal, of: u64) -> Removed {
    let id = journal.next_submission();
    journal.remove(of, id).unwrap()
}

fn removal(journal: &mut Journal, of: u64) -> AcceptedFile {
    match remove(journal, of) {
        Removed::Accepted(file) => *file,
        other => panic!("{other:?}"),
    }
}

/// What a submission corrects as things stand now.
fn corrects(journal: &Journal, file: &AcceptedFile) -> Option<u64> {
    journal.corrected_by(file.id).unwrap().map(|old| old.id)
}

#[track_caller]
fn check_refused(removed: Removed, reason: &str) {
    match removed {
        Removed::Not(text) if text.contains(reason) => {}
        other => panic!("{other:?} is not {reason:?}"),
    }
}

/// How many steps the database takes to accept, commit and look up the replacement of a file, and
/// a file that is not to come twice, among so many.
fn steps_among(files: usize) -> usize {
    let (_folder, _home, mut journal) = given();
    finish_some(&mut journal, "p", files);
    journal.settle(&(1..=files as u64).collect::<Vec<_>>()).unwrap();
    let steps = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&steps);
    let handler = move || {
        count.fetch_add(1, Ordering::Relaxed);
        false
    };
    journal.connection.progress_handler(1, Some(handler)).unwrap();
    let new = accept(&mut journal, "f0", Replaces::SameName);
    commit(&mut journal, &new);
    assert!(new.correction.is_some());
    assert_eq!(corrects(&journal, &new), Some(1));
    journal.settle(&[new.id]).unwrap();
    assert_eq!(journal.retired("p", Versions::Current).unwrap().len(), 1);
    removal(&mut journal, new.id);
    let again = NewFile { dedupe: Dedupe::Name, ..new_file(&mut journal, "p", "f1") };
    assert_eq!(journal.accept(&[again]).unwrap()[0].duplicate_of, Some(2));
    steps.load(Ordering::Relaxed)
}

#[test]
fn a_correction_asks_no_more_of_the_database_among_many_files_than_among_few() {
    let (few, many) = (steps_among(20), steps_among(2_000));
    assert!(few > 0 && many < few * 3 / 2, "{few} steps among 20 files, {many} among 2,000");
}

#[test]
fn a_replacement_takes_the_place_and_the_output_name_of_the_newest_version() {
    let (_folder, _home, mut journal) = given();
    let one = accept(&mut journal, "a.csv.gz", Replaces::Nothing);
    let two = accept(&mut journal, "a.csv.gz", Replaces::Nothing);
    commit(&mut journal, &one);
    commit(&mut journal, &two);
    let three = accept(&mut journal, "a.csv.gz", Replaces::SameName);
    assert_eq!(three.correction, Some(Correction { of: Some(two.id), removes: false }));
    assert_eq!((&*three.output_name, &*three.stored_name), ("a~2.csv", "a~3.csv.gz"));
    let other = accept(&mut journal, "b.csv", Replaces::SameName);
    assert_eq!(other.correction, None, "there is nothing of that name");
    commit(&mut journal, &three);
    let reader = journal.reader().unwrap();
    assert_eq!(reader.current("p", "a.csv.gz").unwrap(), Some(three.id));
    let found = reader.corrections(two.id).unwrap();
    assert_eq!(found, Corrections { replaced_by: Some(three.id), ..Corrections::default() });
    let found = reader.corrections(three.id).unwrap();
    assert_eq!(found, Corrections { replaces: Some(two.id), ..Corrections::default() });
    // Without the second line of versions the first is the newest.
    let gone = removal(&mut journal, three.id);
    commit(&mut journal, &other);
    commit(&mut journal, &gone);
    assert_eq!(journal.reader().unwrap().current("p", "a.csv.gz").unwrap(), Some(one.id));
}

#[test]
fn two_replacements_of_one_name_come_one_after_the_other() {
    for at_once in [true, false] {
        let (_folder, _home, mut journal) = given();
        let one = accept(&mut journal, "a", Replaces::Nothing);
        let [two, three] = if at_once {
            let new = |journal: &mut Journal| NewFile {
                replaces: Replaces::SameName,
                ..new_file(journal, "p", "a")
            };
            let files = [new(&mut journal), new(&mut journal)];
            journal.accept(&files).unwrap().try_into().unwrap()
        } else {
            [(); 2].map(|()| accept(&mut journal, "a", Replaces::SameName))
        };
        assert_eq!(corrects(&journal, &two), Some(one.id));
        assert_eq!(corrects(&journal, &three), Some(two.id));
        for file in [&one, &two, &three] {
            commit(&mut journal, file);
        }
        assert_eq!(journal.reader().unwrap().current("p", "a").unwrap(), Some(three.id));
        assert_eq!([&one.output_name, &two.output_name], [&three.output_name; 2]);
    }
}

#[test]
fn what_waits_for_a_correction_that_fails_corrects_what_that_would_have() {
    let (_folder, _home, mut journal) = given();
    let one = accept(&mut journal, "a", Replaces::Nothing);
    commit(&mut journal, &one);
    let two = accept(&mut journal, "a", Replaces::SameName);
    let three = accept(&mut journal, "a", Replaces::SameName);
    let four = accept(&mut journal, "a", Replaces::SameName);
    journal.finish(&[quarantined(&two)]).unwrap();
    assert_eq!(corrects(&journal, &three), Some(one.id));
    assert_eq!(corrects(&journal, &four), Some(three.id));
    journal.finish(&[quarantined(&three)]).unwrap();
    assert_eq!(corrects(&journal, &four), Some(one.id));
    commit(&mut journal, &four);
    let reader = journal.reader().unwrap();
    assert_eq!(reader.current("p", "a").unwrap(), Some(four.id));
    assert_eq!(reader.corrections(one.id).unwrap().replaced_by, Some(four.id));
}

#[test]
fn a_replacement_of_what_was_set_aside_is_a_plain_new_file() {
    let (_folder, _home, mut journal) = given();
    let one = accept(&mut journal, "a", Replaces::Nothing);
    let two = accept(&mut journal, "a", Replaces::SameName);
    journal.finish(&[quarantined(&one)]).unwrap();
    assert_eq!(corrects(&journal, &two), None);
    commit(&mut journal, &two);
    // Its retry is one more file, beside the one that has its name now.
    journal.settle(&[one.id]).unwrap();
    let new = new_file(&mut journal, "p", "a");
    let crate::Retried::Accepted(again) = journal.retry(one.id, &new).unwrap() else { panic!() };
    assert_eq!(again.correction, None);
    assert_ne!(again.output_name, two.output_name);
    let three = accept(&mut journal, "b", Replaces::SameName);
    commit(&mut journal, &again);
    journal.finish(&[quarantined(&three)]).unwrap();
    let four = accept(&mut journal, "b", Replaces::SameName);
    assert_eq!(four.correction, None);
}

#[test]
fn the_retry_of_a_replacement_replaces_what_is_current_then() {
    let (_folder, _home, mut journal) = given();
    let one = accept(&mut journal, "a", Replaces::Nothing);
    commit(&mut journal, &one);
    let two = accept(&mut journal, "a", Replaces::SameName);
    journal.finish(&[quarantined(&two)]).unwrap();
    let three = accept(&mut journal, "a", Replaces::SameName);
    commit(&mut journal, &three);
    journal.settle(&[one.id, two.id, three.id]).unwrap();
    let new = new_file(&mut journal, "p", "a");
    let crate::Retried::Accepted(again) = journal.retry(two.id, &new).unwrap() else { panic!() };
    assert_eq!(again.correction, Some(Correction { of: Some(three.id), removes: false }));
    assert_eq!(again.output_name, one.output_name);
}

#[test]
fn a_removal_is_a_submission_without_a_file_and_is_done_once() {
    let (_folder, home, mut journal) = given();
    assert_eq!(remove(&mut journal, 7), Removed::Unknown);
    let one = accept(&mut journal, "a", Replaces::Nothing);
    check_refused(remove(&mut journal, one.id), "not finished");
    commit(&mut journal, &one);
    let gone = removal(&mut journal, one.id);
    assert!(gone.is_removal() && gone.epoch == 2 && gone.name == "a");
    check_refused(remove(&mut journal, one.id), "being removed already");
    commit(&mut journal, &gone);
    check_refused(remove(&mut journal, one.id), "was removed before");
    check_refused(remove(&mut journal, gone.id), "a removal itself");
    drop(journal);
    let mut journal = Journal::open(&home).unwrap();
    assert_eq!(journal.reader().unwrap().current("p", "a").unwrap(), None);
    assert_eq!(corrects(&journal, &gone), Some(one.id));
    let filter = Filter { phase: Some(Phase::Committed), limit: 9, ..Filter::default() };
    let listed = journal.reader().unwrap().submissions(&filter).unwrap();
    assert_eq!(listed.iter().map(|row| row.file.id).collect::<Vec<_>>(), [gone.id, one.id]);
    let new = accept(&mut journal, "a", Replaces::SameName);
    assert_eq!(new.correction, None);
    journal.finish(&[quarantined(&new)]).unwrap();
    check_refused(remove(&mut journal, new.id), "set aside");
}

#[test]
fn what_was_replaced_is_not_removed_and_what_removes_is_waited_for() {
    let (_folder, _home, mut journal) = given();
    let one = accept(&mut journal, "a", Replaces::Nothing);
    commit(&mut journal, &one);
    let two = accept(&mut journal, "a", Replaces::Submission(one.id));
    check_refused(remove(&mut journal, one.id), "is being replaced");
    commit(&mut journal, &two);
    check_refused(remove(&mut journal, one.id), "was replaced by");
    // By its number, the first leads to what has taken its place.
    let three = accept(&mut journal, "other", Replaces::Submission(one.id));
    assert_eq!(corrects(&journal, &three), Some(two.id));
    commit(&mut journal, &three);
    for fails in [true, false] {
        let gone = removal(&mut journal, three.id);
        let four = accept(&mut journal, "other", Replaces::SameName);
        assert_eq!(four.correction.unwrap().of, Some(gone.id));
        if fails {
            journal.finish(&[quarantined(&gone)]).unwrap();
            assert_eq!(corrects(&journal, &four), Some(three.id));
            journal.finish(&[quarantined(&four)]).unwrap();
        } else {
            commit(&mut journal, &gone);
            assert_eq!(corrects(&journal, &four), None);
            commit(&mut journal, &four);
        }
    }
}

#[test]
fn what_was_corrected_may_come_again_where_nothing_is_taken_twice() {
    for dedupe in [Dedupe::Name, Dedupe::Content] {
        let (_folder, _home, mut journal) = given();
        let new = |journal: &mut Journal, replaces| {
            let file = NewFile { dedupe, replaces, ..new_file(journal, "p", "a") };
            journal.accept(&[file]).unwrap().remove(0)
        };
        let one = new(&mut journal, Replaces::Nothing);
        commit(&mut journal, &one);
        let two = new(&mut journal, Replaces::SameName);
        assert_eq!((two.duplicate_of, two.epoch), (None, 2), "{dedupe:?}");
        commit(&mut journal, &two);
        assert_eq!(new(&mut journal, Replaces::Nothing).duplicate_of, Some(two.id), "{dedupe:?}");
        let gone = removal(&mut journal, two.id);
        let three = new(&mut journal, Replaces::Nothing);
        assert_eq!(three.duplicate_of, None, "{dedupe:?}");
        commit(&mut journal, &gone);
        commit(&mut journal, &three);
    }
}

fn checkpoint(journal: &mut Journal, epoch: u64) {
    let row = CheckpointRow {
        epoch,
        generation: 1,
        manifest: format!("m{epoch}"),
        hash: [0; 32],
        bytes: 0,
        took_ms: 0,
    };
    journal.add_checkpoint("p", &row).unwrap();
}

fn retired(journal: &Journal, counting: Versions) -> Vec<u64> {
    journal.retired("p", counting).unwrap().iter().map(|one| one.id).collect()
}

#[test]
fn where_all_versions_count_old_bytes_are_retired_once_every_checkpoint_holds_their_correction() {
    let (_folder, _home, mut journal) = given();
    let one = accept(&mut journal, "a", Replaces::Nothing);
    commit(&mut journal, &one);
    let two = accept(&mut journal, "a", Replaces::SameName);
    commit(&mut journal, &two);
    journal.settle(&[one.id, two.id]).unwrap();
    assert_eq!(retired(&journal, Versions::Current), [one.id]);
    assert_eq!(retired(&journal, Versions::All), [] as [u64; 0], "all is read again by a start");
    checkpoint(&mut journal, 2);
    assert_eq!(retired(&journal, Versions::All), [one.id]);
}

#[test]
fn where_all_versions_count_old_bytes_stay_while_a_checkpoint_lies_before_their_correction() {
    let (_folder, _home, mut journal) = given();
    let zero = accept(&mut journal, "z", Replaces::Nothing);
    commit(&mut journal, &zero);
    checkpoint(&mut journal, 1);
    let one = accept(&mut journal, "a", Replaces::Nothing);
    commit(&mut journal, &one);
    let two = accept(&mut journal, "a", Replaces::SameName);
    commit(&mut journal, &two);
    journal.settle(&[zero.id, one.id, two.id]).unwrap();
    assert_eq!(retired(&journal, Versions::Current), [one.id], "no start reads it");
    assert_eq!(retired(&journal, Versions::All), [] as [u64; 0]);
    checkpoint(&mut journal, 3);
    assert_eq!(retired(&journal, Versions::All), [] as [u64; 0], "the one before may be used");
    let three = accept(&mut journal, "b", Replaces::Nothing);
    commit(&mut journal, &three);
    checkpoint(&mut journal, 4);
    assert_eq!(retired(&journal, Versions::All), [one.id]);
}

#[test]
fn old_bytes_are_retired_once_no_checkpoint_lies_between_them_and_their_correction() {
    let (_folder, _home, mut journal) = given();
    let one = accept(&mut journal, "a", Replaces::Nothing);
    commit(&mut journal, &one);
    checkpoint(&mut journal, 1);
    let two = accept(&mut journal, "a", Replaces::SameName);
    commit(&mut journal, &two);
    let retired = |journal: &Journal| retired(journal, Versions::Current);
    assert_eq!(retired(&journal), [] as [u64; 0], "its moves are not known to be durable");
    journal.settle(&[one.id, two.id]).unwrap();
    assert_eq!(retired(&journal), [] as [u64; 0], "the checkpoint holds its rows");
    let needed = journal.corrected_after("p", 1).unwrap();
    assert_eq!(needed.iter().map(|file| file.id).collect::<Vec<_>>(), [one.id]);
    assert_eq!(journal.corrected_after("p", 0).unwrap(), []);
    assert_eq!(journal.corrected_after("p", 2).unwrap(), []);
    checkpoint(&mut journal, 2);
    assert_eq!(retired(&journal), [] as [u64; 0], "the one before may still be used");
    let three = accept(&mut journal, "b", Replaces::Nothing);
    commit(&mut journal, &three);
    checkpoint(&mut journal, 3);
    assert_eq!(retired(&journal), [one.id]);
    journal.forget_retained(&[one.id]).unwrap();
    assert_eq!(retired(&journal), [] as [u64; 0]);
}

#[test]
fn recovery_moves_what_a_committed_correction_retires() {
    let (_folder, home, mut journal) = given();
    let folders = home.pipeline("p").unwrap();
    let reopen = |journal: Journal| {
        drop(journal);
        Journal::open(&home).unwrap()
    };
    let one = accept(&mut journal, "a.csv", Replaces::Nothing);
    let two = accept(&mut journal, "a.csv", Replaces::SameName);
    for (file, bytes) in [(&one, "one"), (&two, "two")] {
        std::fs::write(folders.underprocess.join(&file.claimed_name), bytes).unwrap();
    }
    // Both are committed, and nothing behind that was done.
    commit(&mut journal, &one);
    commit(&mut journal, &two);
    let mut journal = reopen(journal);
    let found = crate::recover(&home, &mut journal, &["p"], 1).unwrap();
    assert_eq!((found.finished, found.missing.len()), (2, 0));
    let read = |path: std::path::PathBuf| std::fs::read_to_string(path).unwrap();
    assert_eq!(read(folders.retained.join("a.csv")), "one");
    assert_eq!(read(folders.processed.join("a~2.csv")), "two");
    assert!(!folders.processed.join("a.csv").exists());
    // A removal that is accepted is found again; one that is committed retires its file.
    let gone = removal(&mut journal, two.id);
    let mut journal = reopen(journal);
    let found = crate::recover(&home, &mut journal, &["p"], 2).unwrap();
    assert_eq!(found.unfinished, std::slice::from_ref(&gone));
    commit(&mut journal, &gone);
    let mut journal = reopen(journal);
    let found = crate::recover(&home, &mut journal, &["p"], 3).unwrap();
    assert_eq!((found.finished, found.missing.len()), (1, 0));
    assert_eq!(read(folders.retained.join("a~2.csv")), "two");
    assert_eq!(journal.unsettled().unwrap(), []);
}

#[test]
fn a_retained_input_expires_once_every_checkpoint_that_is_kept_holds_it() {
    let (_folder, _home, mut journal) = given();
    journal.retain("p", vec!["s".into()]);
    let files: Vec<AcceptedFile> =
        ["a", "b"].map(|name| accept(&mut journal, name, Replaces::Nothing)).into();
    let source = files[0].source.clone();
    journal.retain("p", vec![source.clone()]);
    files.iter().for_each(|file| commit(&mut journal, file));
    let expired = |journal: &Journal, before, needed| -> Vec<u64> {
        let found = journal.expired("p", &source, before, needed).unwrap();
        found.into_iter().map(|one| one.id).collect()
    };
    let later = i64::MAX;
    assert_eq!(expired(&journal, later, NeededBy::Nobody), [0; 0], "they are not settled");
    journal.settle(&[files[0].id, files[1].id]).unwrap();
    assert_eq!(expired(&journal, 0, NeededBy::Nobody), [0; 0], "they are young");
    assert_eq!(expired(&journal, later, NeededBy::Nobody), [files[0].id, files[1].id]);
    assert_eq!(expired(&journal, later, NeededBy::Starts), [0; 0], "there is no checkpoint");
    let mut checkpoint = |epoch| {
        let (manifest, hash) = (format!("m{epoch}"), [0; 32]);
        let row = CheckpointRow { epoch, generation: 1, manifest, hash, bytes: 1, took_ms: 1 };
        journal.add_checkpoint("p", &row).unwrap();
    };
    checkpoint(1);
    checkpoint(2);
    assert_eq!(expired(&journal, later, NeededBy::Starts), [files[0].id]);
    // What is about to be corrected is read once more.
    accept(&mut journal, "a", Replaces::SameName);
    assert_eq!(expired(&journal, later, NeededBy::Starts), [0; 0]);
}

#[test]
fn void_epochs_are_finished_with_what_comes_before_them() {
    let (_folder, _home, mut journal) = given();
    let one = accept(&mut journal, "a", Replaces::Nothing);
    assert_eq!(journal.void_epochs("p", 2).unwrap(), 2);
    let two = accept(&mut journal, "b", Replaces::Nothing);
    assert_eq!((one.epoch, two.epoch), (1, 4));
    let checkpoint = |journal: &mut Journal, epoch| {
        let (manifest, hash) = (format!("m{epoch}"), [0; 32]);
        let row = CheckpointRow { epoch, generation: 1, manifest, hash, bytes: 1, took_ms: 1 };
        journal.add_checkpoint("p", &row)
    };
    assert!(journal.finish(&[committed(&two, vec![])]).is_err(), "the first comes first");
    commit(&mut journal, &one);
    assert!(checkpoint(&mut journal, 4).is_err());
    checkpoint(&mut journal, 3).unwrap();
    let counts = journal.reader().unwrap().counts("p").unwrap();
    assert_eq!((counts.accepted, counts.committed), (1, 1));
    commit(&mut journal, &two);
    assert_eq!(journal.void_epochs("p", 2).unwrap(), 5);
    assert_eq!(journal.void_epochs("p", 2).unwrap(), 7);
    checkpoint(&mut journal, 8).unwrap();
    let three = accept(&mut journal, "c", Replaces::Nothing);
    commit(&mut journal, &three);
    assert_eq!(three.epoch, 9);
}

#[test]
fn to_ask_what_a_file_would_be_gives_it_no_name() {
    let (_folder, _home, mut journal) = given();
    let one = accept(&mut journal, "a.csv", Replaces::Nothing);
    let ask = |journal: &mut Journal, replaces| {
        let file = NewFile { replaces, ..new_file(journal, "p", "a.csv") };
        journal.would_accept(&file).unwrap()
    };
    for _ in 0..2 {
        let would = ask(&mut journal, Replaces::Nothing);
        assert_eq!((would.replaces, &*would.output_name), (None, "a~2.csv"));
        let would = ask(&mut journal, Replaces::SameName);
        assert_eq!((would.replaces, &*would.output_name), (Some(one.id), "a.csv"));
    }
    assert_eq!(journal.correctable(one.id).unwrap(), Err("it is not finished".to_owned()));
    commit(&mut journal, &one);
    assert_eq!(journal.correctable(one.id).unwrap().map(|file| file.id), Ok(one.id));
    let two = accept(&mut journal, "a.csv", Replaces::Nothing);
    assert_eq!((two.epoch, &*two.output_name), (2, "a~2.csv"));
}
