//! What is found in a home, one fact per test.

use super::*;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::home::{Folders, Home};
use crate::journal::{AcceptedFile, Dedupe, Generation, Journal, NewFile, Outcome, Part, Verdict};
use crate::publish::publish;
use crate::queue::{self, Reason};
use crate::stage::{StageWriter, sync_parts};

/// A home that is not running, with files in every stage of their life.
struct Given {
    folder: tempfile::TempDir,
    folders: Folders,
}

impl Given {
    /// 1 committed, 2 quarantined, 3 accepted; all settled.
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::open(&folder.path().join("home")).unwrap();
        let folders = home.pipeline("p").unwrap();
        let mut journal = Journal::open(&home).unwrap();
        let generation = Generation {
            binary_version: "1".into(),
            processes: 1,
            workers: 1,
            plans: vec![("p".into(), "plan".into())],
        };
        journal.begin_generation(&generation).unwrap();
        let given = Self { folder, folders };
        let files: Vec<AcceptedFile> =
            ["a.csv", "b.csv", "c.csv"].map(|name| given.accept(&mut journal, name)).into();
        given.commit(&home, &mut journal, &files[0], true);
        let verdict = Verdict::Quarantined { code: "bad_format".into(), detail: "no".into() };
        let outcome = outcome(&files[1], verdict);
        journal.finish(std::slice::from_ref(&outcome)).unwrap();
        let reason = Reason::of(&files[1], &outcome, None);
        let (claimed, stored) = (&files[1].claimed_name, &files[1].stored_name);
        queue::quarantine(&given.folders, claimed, stored, &reason).unwrap();
        journal.settle(&[files[1].id]).unwrap();
        given
    }

    fn accept(&self, journal: &mut Journal, name: &str) -> AcceptedFile {
        self.accept_unless(journal, name, Dedupe::None)
    }

    fn accept_unless(&self, journal: &mut Journal, name: &str, dedupe: Dedupe) -> AcceptedFile {
        fs::write(self.folders.unprocessed.join(name), format!("of {name}")).unwrap();
        let id = journal.next_submission();
        let claimed = queue::claim(&self.folders, name.as_ref(), id).unwrap();
        let hash = queue::hash(&claimed.file).unwrap();
        let file = NewFile {
            id,
            pipeline: "p".into(),
            source: "s".into(),
            name: name.into(),
            claimed_name: claimed.claimed_name,
            identity: claimed.identity,
            hash: Some(hash),
            client_id: None,
            dedupe,
            replaces: crate::Replaces::Nothing,
            terms: crate::Terms::default(),
            seen_at_us: 0,
            claimed_at_us: 0,
        };
        journal.accept(&[file]).unwrap().remove(0)
    }

    /// Commits a file with an inline output and a staged one; `publish` says whether all that
    /// follows the commit is done, too.
    fn commit(&self, home: &Home, journal: &mut Journal, file: &AcceptedFile, published: bool) {
        let mut writer = StageWriter::create(home, 1, "p", file.epoch, "big").unwrap();
        writer.write(b"staged").unwrap();
        let staged = writer.finish().unwrap();
        let big = staged.part(file.id, "big", &file.output_name);
        sync_parts(&[staged]).unwrap();
        let small = Part::inline(file.id, "small", &file.output_name, b"small".to_vec());
        let parts = vec![big, small];
        let book = crate::receipt::Book::default();
        journal.keep_books(&[("p".into(), book)]).unwrap();
        let receipts = [(file.id, crate::receipt::Receipt::default())].into();
        let verdict = Verdict::Committed { parts: parts.clone() };
        journal.finish_with(&[outcome(file, verdict)], &receipts).unwrap();
        if published {
            for part in &parts {
                publish(home, &self.folders, part).unwrap();
            }
            queue::finish(&self.folders, &file.claimed_name, &file.stored_name).unwrap();
            journal.settle(&[file.id]).unwrap();
        }
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("home")
    }

    fn sql(&self, sql: &str) {
        let journal = rusqlite::Connection::open(self.root().join("journal.db")).unwrap();
        journal.execute_batch(sql).unwrap();
    }

    fn found(&self, deep: bool) -> Vec<String> {
        let diagnosis = examine(&self.root(), deep).unwrap();
        let line = |finding: &Finding| {
            format!("{} x{} {}", finding.code, finding.count, finding.examples.join(", "))
        };
        diagnosis.findings.iter().map(line).collect()
    }
}

fn outcome(file: &AcceptedFile, verdict: Verdict) -> Outcome {
    Outcome {
        id: file.id,
        pipeline: "p".into(),
        epoch: file.epoch,
        verdict,
        hash: Some([7; 32]).filter(|_| file.hash.is_none()).or(file.hash),
        records: 0,
        rejected: 0,
        answered_at_us: 0,
        finished_at_us: 0,
    }
}

const HEALTHY: &str = "D-QUARANTINE x1 2 p/quarantine/b.csv";

#[test]
fn a_healthy_home_has_nothing_that_needs_a_person() {
    let given = Given::new();
    for deep in [false, true] {
        assert_eq!(given.found(deep), [HEALTHY]);
        let diagnosis = examine(&given.root(), deep).unwrap();
        assert_eq!(diagnosis.exit_code(), 0);
        let facts = diagnosis.facts;
        assert_eq!((facts.accepted, facts.committed, facts.outputs), (1, 1, 2));
        assert_eq!((facts.receipts, facts.generations, facts.schema), (1, 1, 3));
        assert_eq!(facts.pipelines, ["p"]);
        assert_eq!(facts.hashed_bytes > 0, deep);
    }
}

#[test]
fn an_examination_changes_nothing() {
    fn all(folder: &Path, into: &mut Vec<(PathBuf, Option<std::time::SystemTime>, Vec<u8>)>) {
        for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.is_dir() {
                into.push((entry.clone(), entry.metadata().unwrap().modified().ok(), vec![]));
                all(&entry, into);
            } else {
                let modified = entry.metadata().unwrap().modified().ok();
                into.push((entry.clone(), modified, fs::read(&entry).unwrap()));
            }
        }
    }
    let given = Given::new();
    let (mut before, mut after) = (Vec::new(), Vec::new());
    all(&given.root(), &mut before);
    given.found(true);
    all(&given.root(), &mut after);
    before.sort();
    after.sort();
    assert_eq!(before, after);
}

#[track_caller]
fn check(damage: impl FnOnce(&Given, &Path), deep: bool, exit: u8, expected: &[&str]) {
    let given = Given::new();
    damage(&given, &given.root().join("p"));
    let found = given.found(deep);
    let found: Vec<&str> = found.iter().map(String::as_str).filter(|one| *one != HEALTHY).collect();
    assert_eq!(found, expected);
    assert_eq!(examine(&given.root(), deep).unwrap().exit_code(), exit);
}

#[test]
fn outputs_that_are_not_as_committed_are_found() {
    let remove = |_: &Given, p: &Path| fs::remove_file(p.join("out/big/a.csv")).unwrap();
    check(remove, false, 1, &["D-OUTPUT-MISSING x1 1 p/out/big/a.csv"]);
    let longer = |_: &Given, p: &Path| fs::write(p.join("out/big/a.csv"), "longer!").unwrap();
    let text = "D-OUTPUT-CHANGED x1 1 p/out/big/a.csv: 7 bytes, 6 committed";
    check(longer, false, 65, &[text]);
    let other = |_: &Given, p: &Path| fs::write(p.join("out/small/a.csv"), "smalL").unwrap();
    check(other, false, 0, &[]);
    check(other, true, 65, &["D-OUTPUT-CHANGED x1 1 p/out/small/a.csv: same size, other bytes"]);
    let stranger = |_: &Given, p: &Path| {
        fs::write(p.join("out/big/z.csv"), "").unwrap();
        fs::write(p.join("out/y"), "").unwrap();
        fs::write(p.join("out/big/a.csv.csv"), "").unwrap();
    };
    let text = "D-OUTPUT-UNKNOWN x3";
    let given = Given::new();
    stranger(&given, &given.root().join("p"));
    assert!(given.found(false)[0].starts_with(text), "{:?}", given.found(false));
    let link = |_: &Given, p: &Path| {
        fs::remove_file(p.join("out/big/a.csv")).unwrap();
        std::os::unix::fs::symlink("/etc/hostname", p.join("out/big/a.csv")).unwrap();
    };
    // Once as what was committed, once as what lies there.
    check(link, true, 1, &["D-NOT-A-FILE x2 1 p/out/big/a.csv, p/out/big/a.csv"]);
    let cut_off = |_: &Given, p: &Path| {
        fs::write(p.join("out/big/.tidemill-0123456789abcdef.tmp"), "").unwrap();
    };
    check(cut_off, false, 0, &["D-TEMPORARY x1 p/out/big/.tidemill-0123456789abcdef.tmp"]);
}

#[test]
fn a_file_that_is_tried_again_is_found_on_its_way_and_then_where_it_must_be() {
    let given = Given::new();
    let (stored, claimed) = ("b.csv", "4-b.csv");
    {
        let home = Home::open(&given.root()).unwrap();
        let mut journal = Journal::open(&home).unwrap();
        let found = queue::quarantined(&given.folders, stored).unwrap();
        let again = NewFile {
            id: journal.next_submission(),
            pipeline: "p".into(),
            source: "s".into(),
            name: "b.csv".into(),
            claimed_name: claimed.into(),
            identity: found.identity,
            dedupe: crate::journal::Dedupe::None,
            replaces: crate::Replaces::Nothing,
            terms: crate::Terms::default(),
            client_id: None,
            hash: Some(found.hash),
            seen_at_us: 0,
            claimed_at_us: 0,
        };
        journal.retry(2, &again).unwrap();
    }
    assert_eq!(given.found(false), ["D-CLAIMED x1 4 p/underprocess/4-b.csv"]);
    queue::take_back(&given.folders, stored, claimed).unwrap();
    assert_eq!(given.found(true), [""; 0]);
}

#[test]
fn an_input_that_every_checkpoint_has_may_be_gone() {
    let given = Given::new();
    let row = |epoch| crate::journal::CheckpointRow {
        epoch,
        generation: 1,
        manifest: format!("{epoch}.manifest"),
        hash: [0; 32],
        bytes: 1,
        took_ms: 1,
    };
    fs::remove_file(given.folders.processed.join("a.csv")).unwrap();
    let kept = |epoch| {
        let home = Home::open(&given.root()).unwrap();
        Journal::open(&home).unwrap().add_checkpoint("p", &row(epoch)).unwrap();
    };
    kept(1);
    // The newest alone may be damaged: then the input is needed.
    let expect = |text: &str| {
        let found = given.found(false);
        assert!(found.contains(&format!("{text} x1 1 p/processed/a.csv")), "{found:?}");
    };
    expect("D-INPUT-MISSING");
    kept(2);
    expect("D-INPUT-THINNED");
}

#[test]
fn inputs_that_are_not_where_the_journal_has_them_are_found() {
    let gone = |_: &Given, p: &Path| fs::remove_file(p.join("processed/a.csv")).unwrap();
    check(gone, false, 1, &["D-INPUT-MISSING x1 1 p/processed/a.csv"]);
    let gone = |_: &Given, p: &Path| fs::remove_file(p.join("underprocess/3-c.csv")).unwrap();
    check(gone, false, 1, &["D-INPUT-MISSING x1 3 p/underprocess/3-c.csv"]);
    let corrected = |_: &Given, p: &Path| {
        fs::remove_file(p.join("quarantine/b.csv")).unwrap();
        fs::remove_file(p.join("quarantine/b.csv.reason.json")).unwrap();
    };
    check(corrected, false, 0, &["D-QUARANTINE-TAKEN x1 2 p/quarantine/b.csv"]);
    let put_back = |_: &Given, p: &Path| {
        let place = p.join("underprocess/2-b.csv");
        fs::rename(p.join("quarantine/b.csv"), place).unwrap();
    };
    let expected = "D-INPUT-UNKNOWN x1 p/underprocess/2-b.csv (set aside as 2 p/quarantine/b.csv)";
    check(put_back, false, 1, &[expected]);
    let moved = |_: &Given, p: &Path| {
        fs::rename(p.join("processed/a.csv"), p.join("quarantine/a.csv")).unwrap();
    };
    check(moved, false, 1, &["D-INPUT-MISSING x1 1 p/processed/a.csv (but p/quarantine/a.csv)"]);
    let doubled = |_: &Given, p: &Path| {
        fs::copy(p.join("processed/a.csv"), p.join("underprocess/1-a.csv")).unwrap();
    };
    let text = "D-INPUT-DOUBLED x1 1 p/processed/a.csv and p/underprocess/1-a.csv";
    check(doubled, false, 1, &[text]);
    let shorter = |_: &Given, p: &Path| fs::write(p.join("processed/a.csv"), "x").unwrap();
    check(shorter, false, 65, &["D-INPUT-CHANGED x1 1 p/processed/a.csv: 1 bytes, 8 accepted"]);
    let other = |_: &Given, p: &Path| fs::write(p.join("processed/a.csv"), "OF a.csv").unwrap();
    check(other, true, 65, &["D-INPUT-CHANGED x1 1 p/processed/a.csv: same size, other bytes"]);
    let strangers = |_: &Given, p: &Path| {
        fs::write(p.join("processed/z.csv"), "").unwrap();
        fs::create_dir(p.join("quarantine/folder")).unwrap();
    };
    let expected = ["D-INPUT-UNKNOWN x1 p/processed/z.csv", "D-NOT-A-FILE x1 p/quarantine/folder"];
    check(strangers, false, 1, &expected);
}

#[test]
fn what_a_crash_leaves_needs_nobody() {
    let claimed = |_: &Given, p: &Path| fs::write(p.join("underprocess/9-z.csv"), "").unwrap();
    check(claimed, false, 0, &["D-CLAIMED x1 p/underprocess/9-z.csv"]);
    let stray = |_: &Given, p: &Path| fs::write(p.join("underprocess/stray"), "").unwrap();
    check(stray, false, 1, &["D-INPUT-UNKNOWN x1 p/underprocess/stray"]);
    let undone = |_: &Given, p: &Path| {
        fs::rename(p.join("underprocess/3-c.csv"), p.join("unprocessed/c.csv")).unwrap();
    };
    check(undone, false, 0, &["D-CLAIMED x1 3 p/underprocess/3-c.csv"]);
    let leftovers = |given: &Given, _: &Path| {
        fs::write(given.root().join("stage/inline-1-2"), "abc").unwrap();
        fs::write(given.root().join("spool/upload"), "ab").unwrap();
    };
    let expected = ["D-SPOOLED x1 1 files, 2 bytes", "D-STAGED x1 1 files, 3 bytes"];
    check(leftovers, false, 0, &expected);
}

#[test]
fn what_is_committed_and_not_yet_visible_needs_nobody_unless_it_is_lost() {
    let given = || {
        let given = Given::new();
        let home = Home::open(&given.root()).unwrap();
        let mut journal = Journal::open(&home).unwrap();
        let file = journal.unfinished("p").unwrap().remove(0);
        given.commit(&home, &mut journal, &file, false);
        given
    };
    let one = given();
    let found = one.found(true);
    assert_eq!(
        found.iter().filter(|one| *one != HEALTHY).collect::<Vec<_>>(),
        ["D-STAGED x1 1 files, 6 bytes", "D-UNSETTLED x1 3 p/processed/c.csv"]
    );
    fs::create_dir(one.folders.out.join("small")).unwrap_or_default();
    fs::write(one.folders.out.join("small/c.csv"), "sm").unwrap();
    assert_eq!(one.found(true), found, "a torn output is made whole by the next start");
    let staged = one.root().join("stage/1/p/3-big-0.part");
    fs::remove_file(&staged).unwrap();
    assert_eq!(one.found(false)[0], "D-PART-LOST x1 3 p/out/big/c.csv");
    assert_eq!(examine(&one.root(), false).unwrap().exit_code(), 65);
}

#[test]
fn a_journal_that_is_missing_foreign_old_or_damaged_is_told() {
    let gone = |given: &Given, _: &Path| fs::remove_file(given.root().join("journal.db")).unwrap();
    check(gone, false, 65, &["D-JOURNAL-MISSING x1 journal.db"]);
    let foreign = |given: &Given, _: &Path| given.sql("PRAGMA application_id = 7");
    check(foreign, false, 65, &["D-JOURNAL-FOREIGN x1 journal.db"]);
    let old = |given: &Given, _: &Path| given.sql("PRAGMA user_version = 1");
    check(old, false, 1, &["D-JOURNAL-SCHEMA x1 schema 1; this version knows 3"]);
    for bytes in [&b"not a database, but a text of some length"[..], &[0; 5000]] {
        let given = Given::new();
        fs::write(given.root().join("journal.db"), bytes).unwrap();
        let code = examine(&given.root(), false).unwrap().exit_code();
        assert_eq!(code, 65, "{:?}", given.found(false));
    }
    // Any page of it.
    let given = Given::new();
    let path = given.root().join("journal.db");
    let whole = fs::read(&path).unwrap();
    let mut told = 0;
    for page in 1..whole.len() / 4096 {
        let mut bytes = whole.clone();
        bytes[page * 4096..page * 4096 + 2048].fill(0xa5);
        fs::write(&path, &bytes).unwrap();
        told += u32::from(examine(&given.root(), false).unwrap().exit_code() == 65);
    }
    assert!(told >= 10, "only {told} of {} damaged pages were seen", whole.len() / 4096);
}

#[test]
fn a_journal_that_contradicts_itself_is_told() {
    #[track_caller]
    fn rule(sql: &str, expected: &str) {
        let given = Given::new();
        given.sql(&format!("PRAGMA foreign_keys = OFF; {sql}"));
        let found = given.found(false);
        assert!(found.iter().any(|one| one.contains(expected)), "{expected}: {found:?}");
        assert_eq!(examine(&given.root(), false).unwrap().exit_code(), 65);
    }
    rule("UPDATE pipeline SET next_epoch = 9", "epochs are dense: pipeline p gave 8 epochs");
    rule("DELETE FROM submission WHERE id = 2", "its files have 2 from 1 to 3");
    rule("UPDATE submission SET verdict = 0 WHERE id = 1", "submission 1 (epoch 1) has verdict 0");
    rule("UPDATE pipeline SET committed = 7", "pipeline p counts 7 committed");
    rule("INSERT INTO unsettled VALUES (3)", "only finished files are unsettled: submission 3");
    rule("INSERT INTO unsettled VALUES (1)", "keeps the bytes of all its outputs: submission 1");
    rule("DELETE FROM receipt", "D-RECEIPT x1 1 \"a.csv\": there is none");
    rule("UPDATE receipt SET counts = '[[3]]'", "it cannot be read");
    rule("UPDATE submission SET records = 4 WHERE id = 1", "4 records read = 4, but");
}

#[test]
fn folders_that_cannot_be_trusted_are_found() {
    let open = |_: &Given, p: &Path| {
        fs::set_permissions(p.join("unprocessed"), fs::Permissions::from_mode(0o777)).unwrap();
    };
    check(open, false, 1, &["D-OPEN x1 p/unprocessed has mode 777"]);
    let gone = |given: &Given, _: &Path| fs::remove_dir_all(given.root().join("spool")).unwrap();
    check(gone, false, 1, &["D-NOT-A-FOLDER x1 spool is missing"]);
    let linked = |_: &Given, p: &Path| {
        fs::remove_dir(p.join("unprocessed")).unwrap();
        std::os::unix::fs::symlink("/tmp", p.join("unprocessed")).unwrap();
    };
    check(linked, false, 1, &["D-NOT-A-FOLDER x1 p/unprocessed is no folder"]);
    let readable = |given: &Given, _: &Path| {
        fs::set_permissions(given.root(), fs::Permissions::from_mode(0o755)).unwrap();
        let journal = given.root().join("journal.db");
        fs::set_permissions(journal, fs::Permissions::from_mode(0o644)).unwrap();
    };
    check(readable, false, 1, &["D-READABLE x1 journal.db has mode 644"]);
}

#[test]
fn a_table_whose_snapshot_is_another_is_noted() {
    let write = |p: &Path, bytes: &str, about: &str| {
        fs::create_dir_all(p.join("out/sums")).unwrap();
        fs::write(p.join("out/sums/sums.csv"), bytes).unwrap();
        fs::write(p.join("out/sums/sums.csv.about.json"), about).unwrap();
    };
    let about = |epoch: u64, bytes: &str| {
        let hash = blake3::hash(bytes.as_bytes()).to_hex();
        format!("{{\"epoch\":{epoch},\"rows\":1,\"blake3\":\"{hash}\"}}\n")
    };
    check(|_, p| write(p, "k\n", &about(1, "k\n")), true, 0, &[]);
    let other = "D-TABLE-OLD x1 p/out/sums/sums.csv: its bytes are others than are said";
    check(|_, p| write(p, "K\n", &about(1, "k\n")), true, 0, &[other]);
    let ahead = "D-TABLE-OLD x1 p/out/sums/sums.csv: it speaks up to epoch 9, the journal up to 2";
    check(|_, p| write(p, "k\n", &about(9, "k\n")), false, 0, &[ahead]);
    let unread = "D-TABLE-OLD x1 p/out/sums/sums.csv: what is said about it cannot be read";
    check(|_, p| write(p, "k\n", "{"), false, 0, &[unread]);
}

#[test]
fn a_duplicate_is_filed_away_like_the_file_it_repeats() {
    let given = Given::new();
    let home = Home::open(&given.root()).unwrap();
    let mut journal = Journal::open(&home).unwrap();
    let again = given.accept_unless(&mut journal, "a.csv", Dedupe::Name);
    assert!(again.duplicate_of.is_some());
    let unsettled = format!("D-UNSETTLED x1 4 p/processed/{}", again.stored_name);
    assert_eq!(given.found(false), [HEALTHY, &unsettled]);
    queue::finish(&given.folders, &again.claimed_name, &again.stored_name).unwrap();
    journal.settle(&[again.id]).unwrap();
    drop((journal, home));
    assert_eq!(given.found(true), [HEALTHY]);
    assert_eq!(examine(&given.root(), false).unwrap().facts.duplicates, 1);
}

#[test]
fn what_is_no_home_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let missing = examine(&folder.path().join("nothing"), false).unwrap_err();
    assert!(matches!(missing, DoctorError::Missing { .. }), "{missing}");
    fs::write(folder.path().join("file"), "").unwrap();
    examine(&folder.path().join("file"), false).unwrap_err();
}
