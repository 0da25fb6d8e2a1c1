//! Outputs that later files rewrite and remove: a crash after each step, whatever was published.

use super::*;
use crate::journal::tests::{accept, committed};

/// What each epoch does to the output of the first file, `s/a`: its bytes, or nothing there.
const EPOCHS: [Option<&str>; 6] =
    [Some("one"), Some("two, longer"), None, Some("four"), Some("4"), Some("six")];

/// A pipeline in which every file changes the first file's output, and has one of its own.
struct Chain {
    home: Home,
    folders: Folders,
    journal: Journal,
    outcomes: Vec<Outcome>,
}

impl Chain {
    fn start(root: &Path) -> Chain {
        let home = Home::open(root).unwrap();
        let folders = home.pipeline("p").unwrap();
        let journal = Journal::open(&home).unwrap();
        Chain { home, folders, journal, outcomes: Vec::new() }
    }

    /// Commits the next epoch. Some parts are staged, some ride in the journal.
    fn commit(&mut self, staged: bool) {
        let number = self.outcomes.len();
        let name = format!("f{number}");
        let file = accept(&mut self.journal, "p", &[name.as_str()]).remove(0);
        fs::write(self.folders.underprocess.join(&file.claimed_name), "in").unwrap();
        let of = self.outcomes.first().map_or(file.id, |first| first.id);
        let part = |of: u64, name: &str, bytes: &str, staged: bool| {
            if !staged {
                return Part::inline(of, "s", name, bytes.as_bytes().to_vec());
            }
            let create = StageWriter::create_of;
            let mut writer = create(&self.home, 1, "p", file.epoch, "s", of).unwrap();
            writer.write(bytes.as_bytes()).unwrap();
            let unsynced = writer.finish().unwrap();
            let part = unsynced.part(of, "s", name);
            sync_parts(&[unsynced]).unwrap();
            part
        };
        let mut parts = vec![match EPOCHS[number] {
            Some(bytes) => part(of, "a", bytes, staged),
            None => Part::removed(of, "s", "a"),
        }];
        if number > 0 {
            parts.push(part(file.id, &file.output_name, &name, !staged));
        }
        let outcome = committed(&file, parts);
        let replaced = self.journal.finish(std::slice::from_ref(&outcome)).unwrap();
        let mut outcome = outcome;
        let Verdict::Committed { parts } = &mut outcome.verdict else { panic!("committed") };
        replaced.into_iter().for_each(|one| parts[one.part].before.push(one.version));
        self.outcomes.push(outcome);
    }

    /// Makes the parts of a committed epoch visible, all or the first.
    fn publish(&self, number: usize, all: bool) {
        let Verdict::Committed { parts } = &self.outcomes[number].verdict else { return };
        let count = if all { parts.len() } else { 1 };
        for part in &parts[..count] {
            publish(&self.home, &self.folders, part).unwrap();
        }
    }
}

/// What lies in `out/s` when so many epochs are committed.
fn expected(committed: usize) -> BTreeMap<String, String> {
    let mut found: BTreeMap<String, String> =
        (1..committed).map(|number| (format!("f{number}"), format!("f{number}"))).collect();
    if let Some(bytes) = committed.checked_sub(1).and_then(|last| EPOCHS[last]) {
        found.insert("a".into(), bytes.into());
    }
    found
}

fn outputs(folders: &Folders) -> BTreeMap<String, String> {
    match folders.out.join("s") {
        folder if folder.exists() => tree(&folder),
        _ => BTreeMap::new(),
    }
}

/// Commits `committed` epochs, publishes `published` of them (and half of the next), then crashes.
#[track_caller]
fn crash(
    committed: usize,
    published: usize,
    half: bool,
    settled: usize,
    kinds: [bool; 2],
    tear: &dyn Fn(&Path),
) {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("home");
    let mut chain = Chain::start(&root);
    (0..committed).for_each(|number| chain.commit(kinds[number % 2]));
    (0..published).for_each(|number| chain.publish(number, true));
    if half && published < committed {
        chain.publish(published, false);
    }
    let ids: Vec<u64> = chain.outcomes[..settled].iter().map(|outcome| outcome.id).collect();
    chain.journal.settle(&ids).unwrap();
    let folders = chain.folders.clone();
    drop(chain);
    tear(&folders.out.join("s/a"));

    let mut chain = Chain::start(&root);
    for generation in 2..4 {
        let recovery = recover(&chain.home, &mut chain.journal, &["p"], generation).unwrap();
        let left = if generation == 2 { committed - settled } else { 0 };
        assert_eq!(recovery.finished, left as u64);
        let case = (committed, published, half, settled, kinds);
        assert_eq!(outputs(&folders), expected(committed), "{case:?}");
    }
    drop(chain);
    let diagnosis = crate::doctor::examine(&root, true).unwrap();
    let words: Vec<_> = diagnosis.findings.iter().map(|one| one.code).collect();
    let told = ["D-OUTPUT-CHANGED", "D-OUTPUT-MISSING", "D-OUTPUT-UNKNOWN", "D-PART-LOST"];
    assert!(words.iter().all(|word| !told.contains(word)), "{words:?}");
    assert!(!words.contains(&"D-JOURNAL-RULES"), "{words:?}");
}

#[test]
fn a_crash_at_any_step_of_rewritten_outputs_ends_in_what_is_committed() {
    for committed in 1..=EPOCHS.len() {
        for published in 0..=committed {
            for half in [false, true] {
                for kinds in [[true, false], [false, true]] {
                    crash(committed, published, half, 0, kinds, &|_| {});
                }
            }
        }
    }
}

#[test]
fn a_crash_behind_some_that_are_settled_ends_in_what_is_committed() {
    for settled in 1..=4 {
        for published in settled..=EPOCHS.len() {
            crash(EPOCHS.len(), published, true, settled, [false, true], &|_| {});
        }
    }
}

#[test]
fn a_loss_of_power_over_an_output_that_is_about_to_be_replaced_harms_nothing() {
    let tears: [&dyn Fn(&Path); 3] = [
        &|path| fs::write(path, "").unwrap(),
        &|path| {
            let bytes = fs::read(path).unwrap();
            fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
        },
        &|path| {
            let zeros = vec![0; fs::read(path).unwrap().len()];
            fs::write(path, zeros).unwrap();
        },
    ];
    for tear in tears {
        for committed in 1..=EPOCHS.len() {
            for published in (1..=committed).filter(|number| EPOCHS[number - 1].is_some()) {
                crash(committed, published, false, 0, [false, false], tear);
            }
        }
    }
}

#[test]
fn a_file_that_is_not_ours_is_not_replaced_by_recovery_and_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("home");
    let mut chain = Chain::start(&root);
    (0..2).for_each(|_| chain.commit(false));
    chain.publish(0, true);
    fs::write(chain.folders.out.join("s/a"), "somebody else's").unwrap();
    let result = recover(&chain.home, &mut chain.journal, &["p"], 2);
    let occupied = |error: &RecoverError| {
        matches!(error, RecoverError::Publish { source: PublishError::Occupied { .. }, .. })
    };
    assert!(result.as_ref().is_err_and(occupied), "{result:?}");
    // Once it is moved away, all is well.
    fs::remove_file(chain.folders.out.join("s/a")).unwrap();
    recover(&chain.home, &mut chain.journal, &["p"], 3).unwrap();
    assert_eq!(outputs(&chain.folders), expected(2));
    chain.commit(false);
    fs::write(chain.folders.out.join("s/a"), "mine now").unwrap();
    // It is to be removed: what lies there is left.
    recover(&chain.home, &mut chain.journal, &["p"], 4).unwrap();
    assert_eq!(outputs(&chain.folders)["a"], "mine now");
    let diagnosis = crate::doctor::examine(&root, true).unwrap();
    assert!(diagnosis.findings.iter().any(|one| one.code == "D-OUTPUT-UNKNOWN"));
}
