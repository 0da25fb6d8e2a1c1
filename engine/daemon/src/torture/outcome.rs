//! Outcome: everything a home shows when nothing runs on it, and how two of them differ.
//!
//! Reads and never writes. What is compared: every file in `out/` byte by byte, the inputs in
//! `processed/` and `quarantine/` with the reasons of the latter, what the journal counts, and that
//! nothing is left over in `unprocessed/`, `underprocess/`, `stage/` and `spool/`. What must differ
//! from run to run is left out: times, numbers of submissions, and up to which epoch a snapshot
//! speaks.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context;
use tidemill_store::{Home, Journal};

use super::site::Site;

/// What a home shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Files by their place below the pipeline's folder, and what is compared of them.
    files: BTreeMap<String, String>,
    /// Files where none may be.
    left: Vec<String>,
    /// What the journal counts: accepted and not finished, committed, set aside.
    counts: [u64; 3],
}

/// How a home differs from what was expected. Empty is right.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// What is missing.
    pub lost: Vec<String>,
    /// What is there and should not be: an output or an input a second time.
    pub doubled: Vec<String>,
    /// What has other bytes.
    pub different: Vec<String>,
    /// What was left where nothing may be.
    pub left: Vec<String>,
    /// The program did not end as it should.
    pub failed: Vec<String>,
}

impl Verdict {
    /// Returns whether everything is right.
    pub fn is_equal(&self) -> bool {
        *self == Verdict::default()
    }

    /// Returns every difference, one a line.
    pub fn lines(&self) -> Vec<String> {
        let kinds = [
            ("lost", &self.lost),
            ("doubled", &self.doubled),
            ("different", &self.different),
            ("left over", &self.left),
            ("failed", &self.failed),
        ];
        let kinds = kinds.into_iter();
        kinds.flat_map(|(kind, all)| all.iter().map(move |one| format!("{kind}: {one}"))).collect()
    }
}

/// The folders whose files are compared.
const COMPARED: [&str; 3] = ["out", "processed", "quarantine"];

/// What is written beside a file that was set aside.
const REASON: &str = ".reason.json";

/// What is written beside the snapshot of a table.
const ABOUT: &str = ".about.json";

impl Outcome {
    /// Looks at a home on which nothing runs. Opens the journal, which checks all of it.
    pub fn of(site: &Site, pipeline: &str) -> anyhow::Result<Self> {
        let mut outcome = Outcome::default();
        for name in COMPARED {
            walk(&site.folder.join(name), name, &mut |place, path| {
                if place.rsplit('/').next().is_some_and(|name| name.starts_with('.')) {
                    outcome.left.push(place);
                } else {
                    outcome.files.insert(place.clone(), compared(&place, path)?);
                }
                Ok(())
            })?;
        }
        for name in ["unprocessed", "underprocess"] {
            walk(&site.folder.join(name), name, &mut |place, _| {
                outcome.left.push(place);
                Ok(())
            })?;
        }
        for name in ["stage", "spool"] {
            walk(&site.home.join(name), name, &mut |place, _| {
                outcome.left.push(place);
                Ok(())
            })?;
        }
        let home = Home::open(&site.home).context("open the home after its last life")?;
        let journal = Journal::open(&home).context("open the journal after the last life")?;
        let counts = journal.reader()?.counts(pipeline)?;
        outcome.counts = [counts.accepted, counts.committed, counts.quarantined];
        for (file, _) in journal.unsettled()? {
            outcome.left.push(format!("journal: {} is not settled", file.name));
        }
        Ok(outcome)
    }

    /// Returns the names of inputs that nothing took.
    pub fn not_taken(&self) -> Vec<&str> {
        self.left.iter().filter_map(|place| place.strip_prefix("unprocessed/")).collect()
    }

    /// Returns how many inputs were committed, and how many were set aside.
    pub fn finished(&self) -> (u64, u64) {
        let [_, committed, quarantined] = self.counts;
        (committed, quarantined)
    }

    /// Returns how `found` differs from this outcome.
    pub fn compare(&self, found: &Outcome) -> Verdict {
        let mut verdict = Verdict::default();
        for (place, wanted) in &self.files {
            match found.files.get(place) {
                None => verdict.lost.push(place.clone()),
                Some(is) if is != wanted => {
                    verdict.different.push(format!("{place}: {is}, expected {wanted}"));
                }
                Some(_) => {}
            }
        }
        let unexpected = found.files.keys().filter(|place| !self.files.contains_key(*place));
        verdict.doubled.extend(unexpected.cloned());
        let [_, committed, quarantined] = self.counts;
        let [open, found_committed, found_quarantined] = found.counts;
        if open > 0 {
            verdict.lost.push(format!("journal: {open} files accepted and not finished"));
        }
        let kinds = [("committed", committed, found_committed)];
        for (kind, wanted, is) in
            kinds.into_iter().chain([("set aside", quarantined, found_quarantined)])
        {
            let text = format!("journal: {is} files {kind}, expected {wanted}");
            match is.cmp(&wanted) {
                std::cmp::Ordering::Less => verdict.lost.push(text),
                std::cmp::Ordering::Greater => verdict.doubled.push(text),
                std::cmp::Ordering::Equal => {}
            }
        }
        verdict.left =
            found.left.iter().filter(|place| !self.left.contains(place)).cloned().collect();
        verdict
    }
}

/// Calls `see` with the place and the path of every file below a folder; nothing if there is none.
fn walk(
    folder: &Path,
    place: &str,
    see: &mut dyn FnMut(String, &Path) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let failed = || format!("list {}", folder.display());
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries.with_context(failed)?,
    };
    for entry in entries {
        let entry = entry.with_context(failed)?;
        let place = format!("{place}/{}", entry.file_name().to_string_lossy());
        if entry.file_type().with_context(failed)?.is_dir() {
            walk(&entry.path(), &place, see)?;
        } else {
            see(place, &entry.path())?;
        }
    }
    Ok(())
}

/// Returns what is compared of a file: its size and hash, or what must not differ in it.
fn compared(place: &str, path: &Path) -> anyhow::Result<String> {
    let failed = || format!("read {}", path.display());
    if place.starts_with("quarantine/") && place.ends_with(REASON) {
        return json_without(path, &["submission", "epoch", "finished_at_us", "plan_hash"]);
    }
    if place.starts_with("out/") && place.ends_with(ABOUT) {
        // That it speaks of the snapshot's bytes is compared with it.
        return json_without(path, &["epoch"]);
    }
    let mut file = std::fs::File::open(path).with_context(failed)?;
    let mut hasher = blake3::Hasher::new();
    let bytes = std::io::copy(&mut file, &mut hasher).with_context(failed)?;
    Ok(format!("{bytes} bytes, blake3 {}", hasher.finalize().to_hex()))
}

fn json_without(path: &Path, keys: &[&str]) -> anyhow::Result<String> {
    let bytes = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
    // A file that is not whole is a difference, not a mistake of the comparison.
    let Ok(mut value) = serde_json::from_slice::<serde_json::Value>(&bytes) else {
        return Ok(format!("no JSON: {:?}", String::from_utf8_lossy(&bytes)));
    };
    if let Some(object) = value.as_object_mut() {
        for key in keys {
            object.remove(*key);
        }
    }
    Ok(value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(files: &[(&str, &str)], counts: [u64; 3], left: &[&str]) -> Outcome {
        Outcome {
            files: files.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect(),
            left: left.iter().map(|place| (*place).to_owned()).collect(),
            counts,
        }
    }

    #[track_caller]
    fn check(found: Outcome, expected: &[&str]) {
        let wanted = outcome(&[("out/s/a", "1"), ("processed/a", "2")], [0, 1, 0], &[]);
        let verdict = wanted.compare(&found);
        assert_eq!(verdict.lines(), expected);
        assert_eq!(verdict.is_equal(), expected.is_empty());
    }

    #[test]
    fn every_way_to_differ_is_told() {
        let right = [("out/s/a", "1"), ("processed/a", "2")];
        check(outcome(&right, [0, 1, 0], &[]), &[]);
        check(outcome(&right[..1], [0, 1, 0], &[]), &["lost: processed/a"]);
        let twice = [right[0], right[1], ("out/s/a~2", "1")];
        check(outcome(&twice, [0, 1, 0], &[]), &["doubled: out/s/a~2"]);
        let other = [("out/s/a", "7"), right[1]];
        check(outcome(&other, [0, 1, 0], &[]), &["different: out/s/a: 7, expected 1"]);
        check(outcome(&right, [0, 1, 0], &["stage/1/x"]), &["left over: stage/1/x"]);
        check(
            outcome(&right, [1, 0, 1], &[]),
            &[
                "lost: journal: 1 files accepted and not finished",
                "lost: journal: 0 files committed, expected 1",
                "doubled: journal: 1 files set aside, expected 0",
            ],
        );
        check(
            outcome(&right, [0, 2, 0], &[]),
            &["doubled: journal: 2 files committed, expected 1"],
        );
    }

    #[test]
    fn what_must_differ_from_run_to_run_is_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        let check = |place: &str, one: &str, other: &str, equal: bool| {
            let of = |text: &str| {
                std::fs::write(&path, text).unwrap();
                compared(place, &path).unwrap()
            };
            assert_eq!(of(one) == of(other), equal, "{place}: {one} {other}");
        };
        let reason = "quarantine/a.reason.json";
        check(reason, r#"{"code":"E","submission":1}"#, r#"{"code":"E","submission":2}"#, true);
        check(reason, r#"{"code":"E"}"#, r#"{"code":"F"}"#, false);
        check(reason, r#"{"code":"E"}"#, r#"{"code":"#, false);
        let about = "out/t/t.csv.about.json";
        check(about, r#"{"epoch":1,"rows":2}"#, r#"{"epoch":2,"rows":2}"#, true);
        check(about, r#"{"epoch":1,"rows":2}"#, r#"{"epoch":1,"rows":3}"#, false);
        check("out/t/t.csv", "a", "b", false);
        check("processed/a.reason.json", r#"{"epoch":1}"#, r#"{"epoch":2}"#, false);
    }
}
