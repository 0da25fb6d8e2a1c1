//! What the journal promises, one fact per test.

use super::*;
use crate::home::Home;
use crate::name;
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::fs;

pub(super) fn given() -> (tempfile::TempDir, Home, Journal) {
    let folder = tempfile::tempdir().unwrap();
    let home = Home::open(&folder.path().join("home")).unwrap();
    let journal = Journal::open(&home).unwrap();
    (folder, home, journal)
}

pub(super) fn new_file(journal: &mut Journal, pipeline: &str, name: &str) -> NewFile {
    let id = journal.next_submission();
    NewFile {
        id,
        pipeline: pipeline.into(),
        source: "logs".into(),
        name: name.into(),
        claimed_name: format!("{id}-{}", name::slug(name)),
        identity: Identity {
            device: u64::MAX,
            inode: 7,
            bytes: 3,
            modified_ns: -1_500_000_000_123,
        },
        hash: Some([9; 32]),
        seen_at_us: 1,
        claimed_at_us: 2,
        client_id: None,
        dedupe: Dedupe::None,
        replaces: crate::Replaces::Nothing,
        terms: crate::Terms::default(),
    }
}

pub(crate) fn accept(journal: &mut Journal, pipeline: &str, names: &[&str]) -> Vec<AcceptedFile> {
    let files: Vec<_> = names.iter().map(|name| new_file(journal, pipeline, name)).collect();
    journal.accept(&files).unwrap()
}

pub(crate) fn committed(file: &AcceptedFile, mut parts: Vec<Part>) -> Outcome {
    parts.iter_mut().filter(|part| part.of == 0).for_each(|part| part.of = file.id);
    Outcome {
        id: file.id,
        pipeline: file.pipeline.clone(),
        epoch: file.epoch,
        verdict: Verdict::Committed { parts },
        hash: file.hash,
        records: 10,
        rejected: 1,
        answered_at_us: 3,
        finished_at_us: 4,
    }
}

/// Accepts and finishes so many files.
pub(crate) fn finish_some(journal: &mut Journal, pipeline: &str, count: usize) {
    let names: Vec<String> = (0..count).map(|number| format!("f{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let accepted = accept(journal, pipeline, &names);
    let outcomes: Vec<Outcome> = accepted.iter().map(|file| committed(file, vec![])).collect();
    journal.finish(&outcomes).unwrap();
}

pub(super) fn quarantined(file: &AcceptedFile) -> Outcome {
    let verdict = Verdict::Quarantined { code: "bad_format".into(), detail: "no".into() };
    Outcome { verdict, ..committed(file, vec![]) }
}

/// Returns a small output of whichever file it is committed with.
pub(super) fn inline(sink: &str, name: &str, bytes: &[u8]) -> Part {
    Part::inline(0, sink, name, bytes.to_vec())
}

#[track_caller]
fn is_invariant<T: std::fmt::Debug>(result: Result<T, JournalError>) {
    assert!(matches!(result, Err(JournalError::Invariant { .. })), "{result:?}");
}

#[test]
fn epochs_are_dense_in_each_pipeline() {
    let (_folder, _home, mut journal) = given();
    let files = [("a", "1"), ("b", "1"), ("a", "2"), ("a", "3"), ("b", "2")]
        .map(|(pipeline, name)| new_file(&mut journal, pipeline, name));
    let epochs: Vec<_> =
        journal.accept(&files).unwrap().iter().map(|f| (f.pipeline.clone(), f.epoch)).collect();
    let expected = [("a", 1), ("b", 1), ("a", 2), ("a", 3), ("b", 2)];
    assert_eq!(epochs, expected.map(|(pipeline, epoch)| (pipeline.to_string(), epoch)));
    assert_eq!(journal.next_epoch("a").unwrap(), 4);
    assert_eq!(journal.next_epoch("b").unwrap(), 3);
    assert_eq!(journal.next_epoch("none").unwrap(), 1);
}

#[test]
fn a_name_that_was_used_gets_the_smallest_free_variant() {
    #[track_caller]
    fn check(names: &[&str], expected: &[(&str, &str)]) {
        let (_folder, _home, mut journal) = given();
        let files = accept(&mut journal, "p", names);
        let found: Vec<_> =
            files.iter().map(|f| (f.stored_name.as_str(), f.output_name.as_str())).collect();
        assert_eq!(found, expected);
    }
    check(&["a.jsonl", "b.jsonl"], &[("a.jsonl", "a.jsonl"), ("b.jsonl", "b.jsonl")]);
    check(
        &["a.jsonl", "a.jsonl", "a.jsonl"],
        &[("a.jsonl", "a.jsonl"), ("a~2.jsonl", "a~2.jsonl"), ("a~3.jsonl", "a~3.jsonl")],
    );
    // A file may already have the name that a variant would get.
    check(
        &["a~2.csv", "a.csv", "a.csv"],
        &[("a~2.csv", "a~2.csv"), ("a.csv", "a.csv"), ("a~3.csv", "a~3.csv")],
    );
    // Compressed and not: their outputs would have one name.
    check(
        &["a.jsonl", "a.jsonl.gz", "a.jsonl.zst"],
        &[("a.jsonl", "a.jsonl"), ("a~2.jsonl.gz", "a~2.jsonl"), ("a~3.jsonl.zst", "a~3.jsonl")],
    );
    // A csv sink calls the output of `a` `a.csv`, as it does that of `a.csv`.
    check(
        &["a", "a.csv", "a.jsonl"],
        &[("a", "a"), ("a~2.csv", "a~2.csv"), ("a~2.jsonl", "a~2.jsonl")],
    );
    check(&["a.csv", "a.jsonl"], &[("a.csv", "a.csv"), ("a.jsonl", "a.jsonl")]);
    check(&["a.csv", "a"], &[("a.csv", "a.csv"), ("a~2", "a~2")]);
    // The reason of `a` in quarantine is `a.reason.json`.
    check(&["a", "a.reason.json"], &[("a", "a"), ("a.reason~2.json", "a.reason~2.json")]);
    check(&["a.reason.json", "a"], &[("a.reason.json", "a.reason.json"), ("a~2", "a~2")]);
}

#[test]
fn names_of_one_pipeline_do_not_bind_another() {
    let (_folder, _home, mut journal) = given();
    for pipeline in ["p", "q"] {
        assert_eq!(accept(&mut journal, pipeline, &["a.csv"])[0].stored_name, "a.csv");
    }
}

#[test]
fn a_name_that_lies_in_a_folder_is_taken_even_if_the_journal_is_new() {
    let (_folder, home, mut journal) = given();
    let folders = home.pipeline("p").unwrap();
    fs::write(folders.processed.join("a.csv"), "").unwrap();
    fs::write(folders.quarantine.join("b.csv.reason.json"), "").unwrap();
    fs::create_dir(folders.out.join("errors")).unwrap();
    fs::write(folders.out.join("errors/c.jsonl"), "").unwrap();
    let names = accept(&mut journal, "p", &["a.csv", "b.csv", "c.gz", "d.csv"]);
    let names: Vec<_> = names.iter().map(|file| file.stored_name.as_str()).collect();
    assert_eq!(names, ["a~2.csv", "b~2.csv", "c~2.gz", "d.csv"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn no_two_files_share_a_place(
        names in prop::collection::vec("[ab](~[23])?(\\.csv|\\.jsonl|\\.gz|\\.zst|\\.reason\\.json){0,3}", 1..40),
        cuts in prop::collection::vec(1_usize..5, 1..10),
    ) {
        let (_folder, _home, mut journal) = given();
        let mut cuts = cuts.into_iter().cycle();
        let mut rest = &names[..];
        let mut files = Vec::new();
        while !rest.is_empty() {
            let (now, later) = rest.split_at(cuts.next().unwrap().min(rest.len()));
            let now: Vec<_> = now.iter().map(String::as_str).collect();
            files.extend(accept(&mut journal, "p", &now));
            rest = later;
        }
        // Every path that is ever made of a name, under each format of a sink.
        let ended = |name: &str, ending: &str| match name.ends_with(ending) {
            true => name.to_string(),
            false => format!("{name}{ending}"),
        };
        let mut inputs = BTreeSet::new();
        let mut outputs = [BTreeSet::new(), BTreeSet::new(), BTreeSet::new()];
        for file in &files {
            prop_assert!(inputs.insert(file.stored_name.clone()));
            let reason = format!("{}.reason.json", file.stored_name);
            prop_assert!(inputs.insert(reason));
            for (set, ending) in outputs.iter_mut().zip(["", ".csv", ".jsonl"]) {
                prop_assert!(set.insert(ended(&file.output_name, ending)), "{}", file.output_name);
            }
        }
    }
}

#[test]
fn what_was_accepted_and_finished_is_there_after_reopening() {
    let (_folder, home, mut journal) = given();
    let files = accept(&mut journal, "p", &["a", "b", "c", "d"]);
    let staged =
        Part { body: PartBody::Staged("stage/1/p/1-s-0.part".into()), ..inline("s", "a", b"") };
    let parts = vec![inline("errors", "a", b"x\0y"), inline("traffic", "a", b""), staged];
    let outcomes =
        [committed(&files[0], parts), quarantined(&files[1]), committed(&files[2], vec![])];
    journal.finish(&outcomes).unwrap();
    drop(journal);

    let mut journal = Journal::open(&home).unwrap();
    assert_eq!(journal.unfinished("p").unwrap(), files[3..]);
    assert_eq!(journal.committed("p").unwrap(), [files[0].clone(), files[2].clone()]);
    assert_eq!(journal.committed_after("p", 1, 10).unwrap(), [files[2].clone()]);
    let expected: Vec<_> = files[..3].iter().cloned().zip(outcomes).collect();
    assert_eq!(journal.unsettled().unwrap(), expected);
    assert_eq!(journal.next_submission(), files[3].id + 1);
    assert_eq!(journal.next_epoch("p").unwrap(), 5);

    journal.settle(&[files[0].id, files[1].id]).unwrap();
    assert_eq!(journal.unsettled().unwrap(), expected[2..]);
    let bodies: i64 =
        journal.connection().query_row("SELECT count(*) FROM body", [], |row| row.get(0)).unwrap();
    assert_eq!(bodies, 0);
}

#[test]
fn an_epoch_is_finished_once_and_in_order() {
    let (_folder, _home, mut journal) = given();
    let files = accept(&mut journal, "p", &["a", "b", "c"]);
    is_invariant(journal.finish(&[committed(&files[1], vec![])]));
    is_invariant(journal.finish(&[committed(&files[0], vec![]), committed(&files[2], vec![])]));
    journal.finish(&[committed(&files[0], vec![])]).unwrap();
    is_invariant(journal.finish(&[committed(&files[0], vec![])]));
    is_invariant(journal.finish(&[quarantined(&files[0])]));
    let not_accepted = Outcome { epoch: 4, ..committed(&files[2], vec![]) };
    is_invariant(journal.finish(&[
        committed(&files[1], vec![]),
        committed(&files[2], vec![]),
        not_accepted,
    ]));
    let another = Outcome { id: files[2].id, ..committed(&files[1], vec![]) };
    is_invariant(journal.finish(&[another]));
    let elsewhere = Outcome { pipeline: "q".into(), ..committed(&files[1], vec![]) };
    is_invariant(journal.finish(&[elsewhere]));
    journal.finish(&[quarantined(&files[1]), committed(&files[2], vec![])]).unwrap();
    assert_eq!(journal.committed("p").unwrap().len(), 2);
}

#[test]
fn a_breach_writes_nothing() {
    let (_folder, _home, mut journal) = given();
    let mut files = vec![new_file(&mut journal, "p", "a"), new_file(&mut journal, "q", "b")];
    files[1].id = files[0].id;
    is_invariant(journal.accept(&files));
    assert_eq!(journal.unfinished("p").unwrap(), []);
    assert_eq!(journal.next_epoch("p").unwrap(), 1);
    assert_eq!(accept(&mut journal, "p", &["a"])[0].epoch, 1);
}

#[test]
fn nothing_that_could_lead_outside_is_written_down() {
    let (_folder, _home, mut journal) = given();
    let good = new_file(&mut journal, "p", "a");
    for bad in [
        NewFile { name: "../a".into(), ..good.clone() },
        NewFile { claimed_name: "../a".into(), ..good.clone() },
        NewFile { pipeline: "..".into(), ..good.clone() },
        NewFile { id: 0, ..good.clone() },
        NewFile { id: u64::MAX, ..good.clone() },
    ] {
        is_invariant(journal.accept(&[bad]));
    }
    let file = journal.accept(&[good]).unwrap().remove(0);
    let staged = |path: &str| Part { body: PartBody::Staged(path.into()), ..inline("s", "a", b"") };
    for bad in [
        inline("..", "a", b""),
        inline("s", "../a", b""),
        staged("/etc/passwd"),
        staged("stage/../journal.db"),
        Part { bytes: 5, ..inline("s", "a", b"four") },
    ] {
        is_invariant(journal.finish(&[committed(&file, vec![bad])]));
    }
    journal.finish(&[committed(&file, vec![])]).unwrap();
}

#[test]
fn numbers_of_files_in_underprocess_are_not_given_again() {
    let (_folder, _home, mut journal) = given();
    journal.raise_submission(41);
    assert_eq!(journal.next_submission(), 42);
    journal.raise_submission(7);
    journal.raise_submission(u64::MAX);
    assert_eq!(journal.next_submission(), 43);
}

#[test]
fn a_generation_has_a_number_and_its_plans() {
    let (_folder, home, mut journal) = given();
    let facts = Generation {
        binary_version: "0.1.0".into(),
        processes: 2,
        workers: 4,
        plans: vec![("p".into(), "abc".into())],
    };
    assert_eq!(journal.begin_generation(&facts).unwrap(), 1);
    drop(journal);
    let mut journal = Journal::open(&home).unwrap();
    let file = accept(&mut journal, "p", &["a"]).remove(0);
    assert_eq!(journal.begin_generation(&facts).unwrap(), 2);
    assert_eq!(journal.plan_hash(file.id).unwrap(), None);
    journal.finish(&[quarantined(&file)]).unwrap();
    assert_eq!(journal.plan_hash(file.id).unwrap().as_deref(), Some("abc"));
}

#[test]
fn a_reader_sees_what_was_committed_newest_first() {
    let (_folder, _home, mut journal) = given();
    let reader = journal.reader().unwrap();
    let files = accept(&mut journal, "p", &["a", "b", "a", "c"]);
    let others = accept(&mut journal, "q", &["a"]);
    journal
        .finish(&[committed(&files[0], vec![inline("s", "a", b"xyz")]), quarantined(&files[1])])
        .unwrap();
    let ids = |filter: Filter| -> Vec<u64> {
        let rows = reader.submissions(&Filter { limit: 100, ..filter }).unwrap();
        rows.iter().map(|row| row.file.id).collect()
    };
    let p = || Filter { pipeline: Some("p".into()), ..Filter::default() };
    assert_eq!(ids(Filter::default()), [5, 4, 3, 2, 1]);
    assert_eq!(ids(p()), [4, 3, 2, 1]);
    assert_eq!(ids(Filter { name: Some("a".into()), ..Filter::default() }), [5, 3, 1]);
    assert_eq!(ids(Filter { before: Some(3), ..p() }), [2, 1]);
    assert_eq!(ids(Filter { phase: Some(Phase::Accepted), ..p() }), [4, 3]);
    assert_eq!(ids(Filter { phase: Some(Phase::Quarantined), ..Filter::default() }), [2]);
    assert_eq!(ids(Filter { phase: Some(Phase::Committed), ..p() }), [1]);
    assert_eq!(ids(Filter { pipeline: Some("' OR 1".into()), ..Filter::default() }), [0; 0]);
    assert_eq!(reader.submissions(&Filter { limit: 2, ..p() }).unwrap().len(), 2);

    let row = reader.submission(files[0].id).unwrap().unwrap();
    assert_eq!(row.file, files[0]);
    let part = PartRow {
        sink: "s".into(),
        name: "a".into(),
        of: files[0].id,
        bytes: 3,
        hash: blake3::hash(b"xyz").into(),
        removed: false,
        superseded_by: None,
    };
    let verdict = VerdictRow::Committed { parts: vec![part] };
    let outcome =
        OutcomeRow { verdict, records: 10, rejected: 1, answered_at_us: 3, finished_at_us: 4 };
    assert_eq!(row.outcome, Some(outcome));
    assert_eq!(reader.submission(others[0].id).unwrap().unwrap().outcome, None);
    assert_eq!(reader.submission(99).unwrap(), None);

    let counts = reader.counts("p").unwrap();
    assert_eq!(counts, Counts { accepted: 2, committed: 1, quarantined: 1 });
    assert_eq!(reader.counts("none").unwrap(), Counts::default());
}

#[test]
fn a_person_can_read_the_journal_with_any_sqlite() {
    let (_folder, home, mut journal) = given();
    let file = accept(&mut journal, "p", &["a"]).remove(0);
    journal.finish(&[committed(&file, vec![])]).unwrap();
    let connection = Connection::open(home.journal_path()).unwrap();
    let (phase, finished): (String, String) = connection
        .query_row("SELECT phase, finished_at FROM file", [], |row| Ok((row.get(0)?, row.get(1)?)))
        .unwrap();
    assert_eq!((phase.as_str(), finished.as_str()), ("committed", "1970-01-01T00:00:00.000Z"));
}

#[test]
fn only_the_holder_of_the_lock_may_write() {
    let (_folder, home, journal) = given();
    drop(journal);
    let attached = Home::attach(home.root()).unwrap();
    is_invariant(Journal::open(&attached));
    JournalReader::open(&attached).unwrap();
}

#[test]
fn a_journal_that_is_not_whole_is_refused_and_left_alone() {
    #[track_caller]
    fn check(spoil: impl FnOnce(&mut Vec<u8>)) {
        let (_folder, home, mut journal) = given();
        let names: Vec<_> = (0..200).map(|n| format!("file-{n}.csv")).collect();
        accept(&mut journal, "p", &names.iter().map(String::as_str).collect::<Vec<_>>());
        drop(journal);
        let mut bytes = fs::read(home.journal_path()).unwrap();
        spoil(&mut bytes);
        fs::write(home.journal_path(), &bytes).unwrap();
        let result = Journal::open(&home);
        assert!(matches!(result, Err(JournalError::Damaged { .. })), "{result:?}");
        assert_eq!(fs::read(home.journal_path()).unwrap(), bytes);
    }
    check(|bytes| bytes.fill(b'x'));
    check(|bytes| bytes.truncate(bytes.len() / 2));
    check(|bytes| bytes.truncate(50));
    check(|bytes| bytes[4096..].fill(0xff));
    check(|bytes| {
        let end = bytes.len();
        bytes[end - 4096..].fill(0);
    });
}

#[test]
fn a_database_of_another_program_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let home = Home::open(folder.path()).unwrap();
    let other = Connection::open(home.journal_path()).unwrap();
    other.execute_batch("CREATE TABLE t (x)").unwrap();
    assert!(matches!(Journal::open(&home), Err(JournalError::Damaged { .. })));
}

#[test]
fn a_link_in_place_of_the_journal_is_not_followed() {
    let folder = tempfile::tempdir().unwrap();
    let home = Home::open(&folder.path().join("home")).unwrap();
    let elsewhere = folder.path().join("elsewhere.db");
    fs::write(&elsewhere, "").unwrap();
    std::os::unix::fs::symlink(&elsewhere, home.journal_path()).unwrap();
    assert!(matches!(Journal::open(&home), Err(JournalError::Disk { .. })));
    assert_eq!(fs::read(&elsewhere).unwrap(), b"");
}

#[test]
fn a_journal_of_a_newer_version_is_refused() {
    let (_folder, home, journal) = given();
    journal.connection().execute_batch("PRAGMA user_version = 99").unwrap();
    drop(journal);
    match Journal::open(&home) {
        Err(JournalError::Newer { found: 99, known: 3, .. }) => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_journal_of_an_unreleased_version_is_refused() {
    let (_folder, home, journal) = given();
    journal.connection().execute_batch("PRAGMA user_version = 1").unwrap();
    drop(journal);
    let error = Journal::open(&home).unwrap_err();
    assert!(matches!(error, JournalError::Unreleased { found: 1, .. }), "{error:?}");
    assert!(error.to_string().ends_with("unreleased version; start with an empty home"), "{error}");
}

#[test]
fn a_file_is_committed_with_the_hash_that_was_known_or_came_with_its_outcome() {
    #[track_caller]
    fn check(before: Option<[u8; 32]>, after: Option<[u8; 32]>, expected: Option<[u8; 32]>) {
        let (_folder, _home, mut journal) = given();
        let file = NewFile { hash: before, ..new_file(&mut journal, "p", "a") };
        let file = journal.accept(&[file]).unwrap().remove(0);
        assert_eq!(file.hash, before);
        let outcome = Outcome { hash: after, ..committed(&file, vec![]) };
        let finished = journal.finish(&[outcome]);
        let Some(expected) = expected else {
            assert!(matches!(finished, Err(JournalError::Invariant { .. })), "{finished:?}");
            return;
        };
        finished.unwrap();
        let (file, outcome) = journal.unsettled().unwrap().remove(0);
        assert_eq!((file.hash, outcome.hash), (Some(expected), Some(expected)));
    }
    check(None, Some([1; 32]), Some([1; 32]));
    check(Some([1; 32]), Some([1; 32]), Some([1; 32]));
    check(None, None, None);
    check(Some([1; 32]), None, None);
}

#[test]
fn a_file_set_aside_keeps_the_hash_it_had() {
    for (before, after) in [(None, None), (Some([1; 32]), None), (None, Some([2; 32]))] {
        let (_folder, _home, mut journal) = given();
        let file = NewFile { hash: before, ..new_file(&mut journal, "p", "a") };
        let file = journal.accept(&[file]).unwrap().remove(0);
        journal.finish(&[Outcome { hash: after, ..quarantined(&file) }]).unwrap();
        assert_eq!(journal.unsettled().unwrap()[0].0.hash, after.or(before));
    }
}

#[test]
fn after_a_failed_write_nothing_more_is_written() {
    let (_folder, _home, mut journal) = given();
    journal.connection().execute_batch("PRAGMA query_only = ON").unwrap();
    let file = new_file(&mut journal, "p", "a");
    let first = journal.accept(std::slice::from_ref(&file));
    assert!(matches!(first, Err(JournalError::Disk { .. })), "{first:?}");
    journal.connection().execute_batch("PRAGMA query_only = OFF").unwrap();
    let second = journal.accept(&[file]);
    assert!(matches!(second, Err(JournalError::Disk { .. })), "{second:?}");
}

#[test]
fn the_journal_can_move_to_the_thread_that_writes() {
    fn check<T: Send>() {}
    check::<Journal>();
    check::<JournalReader>();
}

#[test]
fn a_retried_file_takes_the_names_of_the_one_that_was_set_aside() {
    let (_folder, _home, mut journal) = given();
    let old = accept(&mut journal, "a", &["x.csv"]).remove(0);
    let retry = |journal: &mut Journal, of| {
        let file = new_file(journal, "a", "x.csv");
        journal.retry(of, &file).unwrap()
    };
    assert_eq!(retry(&mut journal, old.id), Retried::NotQuarantined);
    journal.finish(&[quarantined(&old)]).unwrap();
    assert_eq!(retry(&mut journal, old.id), Retried::NotQuarantined, "it is not settled");
    journal.settle(&[old.id]).unwrap();
    let Retried::Accepted(new) = retry(&mut journal, old.id) else { panic!() };
    assert_eq!(
        (&new.stored_name, &new.output_name, new.epoch),
        (&old.stored_name, &old.output_name, 2)
    );
    assert_eq!(retry(&mut journal, old.id), Retried::Before(new.id));
    let under_way = UnderWay { id: new.id, stored_name: "x.csv".into() };
    assert_eq!(journal.retries_under_way("a").unwrap(), [under_way]);
    assert_eq!(journal.retries_under_way("b").unwrap(), []);
    let reader = journal.reader().unwrap();
    let retried = Retries { retry_of: None, retried_as: Some(new.id) };
    assert_eq!(reader.retries(old.id).unwrap(), retried);
    let retry_of = Retries { retry_of: Some(old.id), retried_as: None };
    assert_eq!(reader.retries(new.id).unwrap(), retry_of);
    // It may fail again, and be tried again, under the same name.
    journal.finish(&[quarantined(&new)]).unwrap();
    journal.settle(&[new.id]).unwrap();
    let Retried::Accepted(third) = retry(&mut journal, new.id) else { panic!() };
    assert_eq!(third.stored_name, "x.csv");
    assert_eq!(accept(&mut journal, "a", &["x.csv"])[0].stored_name, "x~2.csv");
}

#[test]
fn a_crash_strikes_each_unfinished_file_once_and_proves_the_guilt_of_one_that_ran_alone() {
    let (_folder, _home, mut journal) = given();
    let files = accept(&mut journal, "a", &["1", "2", "3"]);
    accept(&mut journal, "b", &["of a pipeline that did not run"]);
    let plans = vec![("a".to_owned(), "hash".to_owned())];
    let facts = Generation { binary_version: "1".into(), processes: 1, workers: 1, plans };
    for _ in 0..4 {
        journal.begin_generation(&facts).unwrap();
    }
    journal.finish(&[committed(&files[0], vec![])]).unwrap();
    assert_eq!(journal.strike(1, "boom").unwrap(), None);
    assert_eq!(journal.strike(1, "boom").unwrap(), None);
    assert!(journal.suspects().unwrap().is_empty());
    assert_eq!(journal.strike(2, "boom").unwrap(), None);
    let suspects = [files[1].id, files[2].id];
    assert_eq!(journal.suspects().unwrap(), suspects);
    journal.run_alone(suspects[0], 3).unwrap();
    journal.finish(&[committed(&files[1], vec![])]).unwrap();
    // The one that ran alone is through: whatever failed then, it was not this file.
    assert_eq!(journal.strike(3, "boom").unwrap(), None);
    journal.run_alone(suspects[1], 4).unwrap();
    assert_eq!(journal.strike(4, "boom").unwrap(), Some(suspects[1]));
    assert_eq!(journal.strike(4, "boom").unwrap(), Some(suspects[1]));
    journal.finish(&[quarantined(&files[2])]).unwrap();
    assert_eq!(journal.strike(4, "boom").unwrap(), None);
    assert!(journal.suspects().unwrap().is_empty());
}

#[test]
fn a_part_is_this_files_of_this_generation_and_the_only_one_of_its_sink() {
    let (_folder, _home, mut journal) = given();
    let facts = Generation {
        binary_version: "1".into(),
        processes: 1,
        workers: 1,
        plans: vec![("p".into(), "plan".into())],
    };
    assert_eq!(journal.begin_generation(&facts).unwrap(), 1);
    let file = accept(&mut journal, "p", &["a", "b"]).remove(0);
    let staged = |path: &str| Part { body: PartBody::Staged(path.into()), ..inline("s", "a", b"") };
    for elsewhere in [
        "stage/2/p/1-s-0.part",
        "stage/1/q/1-s-0.part",
        "stage/1/p/2-s-0.part",
        "stage/1/p/11-s-0.part",
        "stage/1/p/1-t-0.part",
    ] {
        is_invariant(journal.finish(&[committed(&file, vec![staged(elsewhere)])]));
    }
    let twice = vec![inline("s", "a", b"1"), inline("t", "a", b"1"), inline("s", "b", b"1")];
    is_invariant(journal.finish(&[committed(&file, twice)]));
    let right = staged("stage/1/p/1-s-0.part");
    journal.finish(&[committed(&file, vec![right, inline("t", "a", b"1")])]).unwrap();
}
