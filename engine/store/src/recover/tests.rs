//! A crash after each step of the protocol: only the first `k` steps are done, then recovery.

use super::*;
use crate::journal::{ClientId, NewFile, Part};
use crate::publish::{publish, sync_published};
use crate::queue::{Claimed, Identity};
use crate::stage::{StageWriter, Unsynced, sync_parts};
use std::ffi::OsStr;
use std::fs;

const NAME: &str = "März.csv";

/// One run of one file, which can stop after each step.
struct Run {
    home: Home,
    folders: Folders,
    journal: Journal,
    generation: u64,
    claimed: Option<Claimed>,
    accepted: Option<AcceptedFile>,
    staged: Option<Unsynced>,
    outcome: Option<Outcome>,
    /// Whether the hash of the input is known when it is accepted, as it is for an upload.
    hash_before: bool,
}

const STEPS: usize = 11;
const CLAIMED: usize = 1;
const ACCEPTED: usize = 3;
const FINISHED: usize = 6;

impl Run {
    fn start(root: &Path) -> Run {
        let home = Home::open(root).unwrap();
        let folders = home.pipeline("p").unwrap();
        let journal = Journal::open(&home).unwrap();
        let (claimed, accepted, staged, outcome) = (None, None, None, None);
        let (generation, hash_before) = (1, true);
        Run { home, folders, journal, generation, claimed, accepted, staged, outcome, hash_before }
    }

    /// Starts a run whose input is only hashed while it is processed, as a dropped file is.
    fn dropped(root: &Path) -> Run {
        Run { hash_before: false, ..Run::start(root) }
    }

    /// Does step `k` (0 based) of a file that ends well, or in quarantine.
    fn step(&mut self, k: usize, ends_well: bool) {
        let folders = self.folders.clone();
        match k {
            0 => {
                let id = self.journal.next_submission();
                self.claimed = Some(queue::claim(&folders, OsStr::new(NAME), id).unwrap());
            }
            1 => {
                let claimed = self.claimed.as_ref().unwrap();
                queue::sync_claims(&[&claimed.file], &[&folders]).unwrap();
            }
            2 => self.accept(),
            3 => {
                let mut writer =
                    StageWriter::create(&self.home, self.generation, "p", 1, "big").unwrap();
                writer.write(b"big bytes").unwrap();
                self.staged = Some(writer.finish().unwrap());
            }
            4 => sync_parts(self.staged.as_slice()).unwrap(),
            5 => self.finish(ends_well),
            6 => self.parts().iter().take(1).for_each(|part| self.publish(part)),
            7 => self.parts().iter().for_each(|part| self.publish(part)),
            8 => {
                let (file, outcome) = (self.accepted.as_ref().unwrap(), self.outcome.as_ref());
                let moved = settle_one(&self.home, &folders, file, outcome.unwrap(), None, None);
                assert!(moved.unwrap());
            }
            9 => sync_published(&[&folders]).unwrap(),
            10 => self.journal.settle(&[self.accepted.as_ref().unwrap().id]).unwrap(),
            _ => unreachable!(),
        }
    }

    fn accept(&mut self) {
        let claimed = self.claimed.as_ref().unwrap();
        let file = NewFile {
            id: claimed.claimed_name.split('-').next().unwrap().parse().unwrap(),
            pipeline: "p".into(),
            source: "s".into(),
            name: NAME.into(),
            claimed_name: claimed.claimed_name.clone(),
            identity: claimed.identity,
            hash: self.hash_before.then(|| queue::hash(&claimed.file).unwrap()),
            seen_at_us: 1,
            claimed_at_us: 2,
            client_id: None,
            dedupe: crate::journal::Dedupe::None,
            replaces: crate::Replaces::Nothing,
            terms: crate::Terms::default(),
        };
        self.accepted = Some(self.journal.accept(&[file]).unwrap().remove(0));
    }

    fn finish(&mut self, ends_well: bool) {
        let file = self.accepted.as_ref().unwrap();
        let small = Part::inline(file.id, "small", &file.output_name, b"small".to_vec());
        let big = self.staged.as_ref().unwrap().part(file.id, "big", &file.output_name);
        let verdict = if ends_well {
            Verdict::Committed { parts: vec![small, big] }
        } else {
            Verdict::Quarantined { code: "too_many_rejects".into(), detail: "too many".into() }
        };
        let outcome = Outcome {
            id: file.id,
            pipeline: "p".into(),
            epoch: file.epoch,
            verdict,
            hash: Some(*blake3::hash(b"input").as_bytes()),
            records: 1,
            rejected: 0,
            answered_at_us: 3,
            finished_at_us: 4,
        };
        self.journal.finish(std::slice::from_ref(&outcome)).unwrap();
        self.outcome = Some(outcome);
    }

    fn parts(&self) -> Vec<Part> {
        match &self.outcome.as_ref().unwrap().verdict {
            Verdict::Committed { parts } => parts.clone(),
            Verdict::Quarantined { .. } | Verdict::Postponed(_) => vec![],
        }
    }

    fn publish(&self, part: &Part) {
        publish(&self.home, &self.folders, part).unwrap();
    }

    fn recover(&mut self) -> Recovery {
        self.generation += 1;
        recover(&self.home, &mut self.journal, &["p"], self.generation).unwrap()
    }
}

/// Returns every file below a folder with its content, but for the journal and the lock.
fn tree(root: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let path = entry.path();
            let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_string();
            if path.is_dir() {
                folders.push(path);
            } else if !name.starts_with("journal.db") && name != "LOCK" {
                found.insert(name, fs::read_to_string(path).unwrap());
            }
        }
    }
    found
}

/// Runs a file with a crash after `steps`, then to its end, and returns what is there.
fn crashed_after(
    steps: usize,
    ends_well: bool,
    start: fn(&Path) -> Run,
) -> BTreeMap<String, String> {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("home");
    let mut run = start(&root);
    fs::write(run.folders.unprocessed.join(NAME), "input").unwrap();
    (0..steps).for_each(|k| run.step(k, ends_well));
    drop(run);

    let mut run = start(&root);
    let recovery = run.recover();
    assert_eq!(recovery.finished, u64::from((FINISHED..STEPS).contains(&steps)), "{steps}");
    assert_eq!(recovery.changed, []);
    let after = tree(&root);
    // Recovery changes nothing when it is repeated.
    let again = run.recover();
    assert_eq!((again.finished, &again.unfinished), (0, &recovery.unfinished));
    assert_eq!(tree(&root), after);

    let from = match steps {
        _ if steps < ACCEPTED => {
            assert_eq!(recovery.released.len(), usize::from(steps >= CLAIMED));
            0
        }
        _ if steps < FINISHED => {
            assert_eq!(recovery.unfinished.len(), 1);
            run.accepted = recovery.unfinished.into_iter().next();
            ACCEPTED
        }
        _ => STEPS,
    };
    (from..STEPS).for_each(|k| run.step(k, ends_well));
    run.recover();
    tree(&root)
}

#[test]
fn a_crash_after_any_step_of_a_commit_ends_in_the_same_files() {
    let expected = BTreeMap::from(
        [
            ("p/out/big/März.csv", "big bytes"),
            ("p/out/small/März.csv", "small"),
            ("p/processed/März.csv", "input"),
        ]
        .map(|(name, bytes)| (name.to_string(), bytes.to_string())),
    );
    for start in [Run::start, Run::dropped] {
        for steps in 0..=STEPS {
            assert_eq!(crashed_after(steps, true, start), expected, "after {steps} steps");
        }
    }
}

#[test]
fn a_crash_after_any_step_of_a_quarantine_ends_in_the_same_files() {
    for steps in 0..=STEPS {
        let found = crashed_after(steps, false, Run::dropped);
        let names: Vec<_> = found.keys().map(String::as_str).collect();
        let expected = ["p/quarantine/März.csv", "p/quarantine/März.csv.reason.json"];
        assert_eq!(names, expected, "after {steps} steps");
        let reason: Reason =
            serde_json::from_str(&found["p/quarantine/März.csv.reason.json"]).unwrap();
        assert_eq!((reason.code.as_str(), reason.name.as_str()), ("too_many_rejects", NAME));
    }
}

/// Runs a file up to its acceptance, lets the world change, and returns what recovery says.
fn changed_by(start: fn(&Path) -> Run, change: impl FnOnce(&Folders, &Path)) -> Recovery {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("home");
    let mut run = start(&root);
    fs::write(run.folders.unprocessed.join(NAME), "input").unwrap();
    (0..ACCEPTED).for_each(|k| run.step(k, true));
    change(&run.folders, &run.claimed.take().unwrap().path);
    drop(run);
    Run::start(&root).recover()
}

#[test]
fn an_accepted_file_that_moved_back_is_claimed_again() {
    for start in [Run::start, Run::dropped] {
        let recovery = changed_by(start, |folders, claimed| {
            fs::rename(claimed, folders.unprocessed.join(NAME)).unwrap();
        });
        assert_eq!((recovery.unfinished.len(), recovery.changed.len()), (1, 0));
    }
}

#[test]
fn an_accepted_file_that_was_only_touched_goes_on_if_its_hash_tells() {
    let recovery = changed_by(Run::start, |_, claimed| fs::write(claimed, "input").unwrap());
    assert_eq!((recovery.unfinished.len(), recovery.changed.len()), (1, 0));
    let recovery = changed_by(Run::dropped, |_, claimed| fs::write(claimed, "input").unwrap());
    assert_eq!((recovery.unfinished.len(), recovery.changed.len()), (0, 1));
    let expected = "it was written to, or replaced, since it was accepted";
    assert_eq!(recovery.changed[0].1, expected);
}

#[test]
fn an_accepted_file_that_is_not_what_it_was_is_reported() {
    #[track_caller]
    fn check(change: impl FnOnce(&Folders, &Path), expected: &str) {
        let recovery = changed_by(Run::start, change);
        assert_eq!(recovery.unfinished, []);
        assert_eq!(recovery.changed.len(), 1);
        assert_eq!(recovery.changed[0].1, expected);
    }
    let gone = "it is not in underprocess/ any more";
    check(|_, claimed| fs::remove_file(claimed).unwrap(), gone);
    check(
        |_, claimed| fs::write(claimed, "longer than it was").unwrap(),
        "it has 18 bytes; 5 were accepted",
    );
    check(
        |_, claimed| {
            fs::remove_file(claimed).unwrap();
            fs::write(claimed, "other").unwrap();
        },
        "its bytes are not those that were accepted",
    );
    check(
        |_, claimed| {
            fs::remove_file(claimed).unwrap();
            std::os::unix::fs::symlink("/etc/passwd", claimed).unwrap();
        },
        "it is not a plain file any more",
    );
    // Another file was dropped under the same name meanwhile: it is not taken for the first one.
    check(
        |folders, claimed| {
            fs::remove_file(claimed).unwrap();
            fs::write(folders.unprocessed.join(NAME), "other").unwrap();
        },
        gone,
    );
}

#[test]
fn a_committed_file_whose_input_was_taken_away_is_told_and_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let mut run = Run::start(folder.path());
    fs::write(run.folders.unprocessed.join(NAME), "input").unwrap();
    (0..FINISHED).for_each(|k| run.step(k, true));
    fs::remove_file(&run.claimed.take().unwrap().path).unwrap();
    let recovery = run.recover();
    assert_eq!((recovery.finished, recovery.missing.len()), (1, 1));
    assert!(run.folders.out.join("big").join(NAME).exists());
}

#[test]
fn a_lost_output_stops_recovery_and_keeps_everything() {
    let folder = tempfile::tempdir().unwrap();
    let mut run = Run::start(folder.path());
    fs::write(run.folders.unprocessed.join(NAME), "input").unwrap();
    (0..FINISHED).for_each(|k| run.step(k, true));
    fs::remove_dir_all(run.home.stage(1)).unwrap();
    let result = recover(&run.home, &mut run.journal, &["p"], 2);
    assert!(matches!(result, Err(RecoverError::Publish { source: PublishError::Lost { .. }, .. })));
    assert!(run.claimed.unwrap().path.exists());
    assert_eq!(run.journal.unsettled().unwrap().len(), 1);
}

#[test]
fn what_lies_around_is_sorted_out() {
    let folder = tempfile::tempdir().unwrap();
    let mut run = Run::start(folder.path());
    fs::create_dir_all(run.home.stage(1).join("p")).unwrap();
    fs::create_dir_all(run.home.stage(7).join("p")).unwrap();
    fs::write(run.home.root().join("stage/inline-1-2"), "").unwrap();
    fs::write(run.folders.underprocess.join("55-a.csv"), "a").unwrap();
    fs::write(run.folders.underprocess.join("stranger"), "").unwrap();
    run.generation = 4;
    let recovery = run.recover();
    assert_eq!(recovery.removed_stages, 2);
    assert!(run.home.stage(7).exists());
    assert_eq!(recovery.released, [run.folders.unprocessed.join("a.csv")]);
    assert_eq!(recovery.strangers, [run.folders.underprocess.join("stranger")]);
    assert_eq!(run.journal.next_submission(), 56);
}

#[test]
fn what_a_loss_of_power_brings_back_is_put_back_although_its_number_was_given_away() {
    let folder = tempfile::tempdir().unwrap();
    let mut run = Run::start(folder.path());
    fs::write(run.folders.unprocessed.join(NAME), "a\n").unwrap();
    (0..=ACCEPTED).for_each(|k| run.step(k, true));
    let id = run.accepted.as_ref().unwrap().id;
    // Neither the same name in another pipeline nor another name in this one is that file.
    let other = run.home.pipeline("q").unwrap();
    let same_name = queue::claimed_name(id, NAME);
    let brought_back =
        [other.underprocess.join(&same_name), run.folders.underprocess.join(format!("{id}-b.csv"))];
    brought_back.iter().for_each(|path| fs::write(path, "b\n").unwrap());
    let recovery = recover(&run.home, &mut run.journal, &["p", "q"], 2).unwrap();
    let mut released = recovery.released;
    released.sort();
    assert_eq!(
        released,
        [run.folders.unprocessed.join("b.csv"), other.unprocessed.join("M_rz.csv")]
    );
    assert_eq!(recovery.unfinished.len(), 1);
}

#[test]
fn an_upload_that_was_not_accepted_waits_in_the_spool_for_its_client() {
    let folder = tempfile::tempdir().unwrap();
    let mut run = Run::start(folder.path());
    let (home, folders) = (&run.home, &run.folders);
    let id = ClientId::parse("01936c5e-8a52-7cc3-98c4-dc0c0c07398f").unwrap();
    let spooled = queue::spool::path_of(&home.spool(), &id);
    fs::write(&spooled, "up").unwrap();
    let name = OsStr::new(NAME);
    let claimed = queue::claim_upload(folders, &spooled, name, 9, Some(&id)).unwrap();
    queue::sync_claims(&[&claimed.file], &[folders]).unwrap();
    let recovery = recover(home, &mut run.journal, &["p"], 1).unwrap();
    assert_eq!(recovery.respooled, std::slice::from_ref(&spooled));
    assert_eq!(recovery.released, [] as [PathBuf; 0]);
    assert_eq!(fs::read(&spooled).unwrap(), b"up");
    assert_eq!(run.journal.next_submission(), 10);

    // Accepted, it is no orphan.
    let claimed = queue::claim_upload(&run.folders, &spooled, name, 10, Some(&id)).unwrap();
    run.claimed = Some(claimed);
    let claimed = run.claimed.as_ref().unwrap();
    let file = NewFile {
        id: 10,
        pipeline: "p".into(),
        source: "s".into(),
        name: NAME.into(),
        claimed_name: claimed.claimed_name.clone(),
        identity: claimed.identity,
        hash: Some(queue::hash(&claimed.file).unwrap()),
        seen_at_us: 1,
        claimed_at_us: 2,
        client_id: Some(id),
        dedupe: crate::journal::Dedupe::None,
        replaces: crate::Replaces::Nothing,
        terms: crate::Terms::default(),
    };
    run.journal.accept(&[file]).unwrap();
    let recovery = recover(&run.home, &mut run.journal, &["p"], 2).unwrap();
    assert_eq!((recovery.respooled.len(), recovery.unfinished.len()), (0, 1));
    let known = run.journal.reader().unwrap().of_client(&id).unwrap();
    assert_eq!(known.map(|row| row.file.id), Some(10));
}

#[test]
fn an_identity_survives_being_written_down() {
    let identity = Identity { device: u64::MAX, inode: 0, bytes: 1, modified_ns: -1 };
    let text = serde_json::to_string(&identity).unwrap();
    assert_eq!(serde_json::from_str::<Identity>(&text).unwrap(), identity);
}

#[test]
fn a_file_is_found_by_its_bytes_wherever_they_were_in_the_meantime() {
    let folder = tempfile::tempdir().unwrap();
    let mut run = Run::start(folder.path());
    fs::write(run.folders.unprocessed.join(NAME), "a\n").unwrap();
    (0..=2).for_each(|k| run.step(k, true));
    let file = run.accepted.as_ref().unwrap();
    let path = run.folders.underprocess.join(&file.claimed_name);
    assert_eq!(look_for(&path, file).unwrap(), Found::Same(file.identity));
    fs::remove_file(&path).unwrap();
    assert_eq!(look_for(&path, file).unwrap(), Found::Missing);
    // Restored from a backup: another inode, another time.
    fs::write(&path, "a\n").unwrap();
    let now = Identity::of(&fs::File::open(&path).unwrap()).unwrap();
    assert_eq!(look_for(&path, file).unwrap(), Found::Same(now));
    fs::write(&path, "b\n").unwrap();
    assert!(matches!(look_for(&path, file).unwrap(), Found::Changed(_)));
}

#[test]
fn a_retry_that_was_cut_off_leaves_exactly_one_of_the_two() {
    // 0: nothing done; 1: accepted; 2: and moved; 3: and its reason removed.
    for steps in 0..=3 {
        let folder = tempfile::tempdir().unwrap();
        let mut run = Run::start(folder.path());
        fs::write(run.folders.unprocessed.join(NAME), "input").unwrap();
        (0..STEPS).for_each(|k| run.step(k, false));
        let old = run.accepted.clone().unwrap();
        let aside = run.folders.quarantine.join(&old.stored_name);
        let reason = run.folders.quarantine.join(format!("{}.reason.json", old.stored_name));
        assert!(aside.exists() && reason.exists());
        let found = queue::quarantined(&run.folders, &old.stored_name).unwrap();
        let id = run.journal.next_submission();
        let claimed = format!("{id}-a");
        let file = NewFile {
            id,
            pipeline: "p".into(),
            source: "s".into(),
            name: NAME.into(),
            claimed_name: claimed.clone(),
            identity: found.identity,
            dedupe: crate::journal::Dedupe::None,
            replaces: crate::Replaces::Nothing,
            terms: crate::Terms::default(),
            client_id: None,
            hash: Some(found.hash),
            seen_at_us: 1,
            claimed_at_us: 2,
        };
        let under = run.folders.underprocess.join(&claimed);
        if steps >= 1 {
            run.journal.retry(old.id, &file).unwrap();
        }
        if steps >= 2 {
            fs::rename(&aside, &under).unwrap();
        }
        if steps >= 3 {
            fs::remove_file(&reason).unwrap();
        }
        for _ in 0..2 {
            let recovery = run.recover();
            assert_eq!(recovery.changed, [], "{steps}");
            let unfinished: Vec<u64> = recovery.unfinished.iter().map(|file| file.id).collect();
            let expected = if steps == 0 { vec![] } else { vec![id] };
            assert_eq!(unfinished, expected, "{steps}");
            assert_eq!(aside.exists(), steps == 0, "{steps}");
            assert_eq!(reason.exists(), steps == 0, "{steps}");
            assert_eq!(under.exists(), steps > 0, "{steps}");
        }
    }
}

mod shelf;
