//! Site: one home under torture, and the copies of the inputs that are dropped into it.
//!
//! Owns a folder of its own: `home/`, `incoming/` (copies that are still to be dropped) and `lives/`
//! (what each life logged and reached). Removed when the outcome was right, else kept for a person.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};

use anyhow::Context;
use tidemill_store::name::variant;

use super::script::{Action, Script};

/// What is tortured: the same for every home of a campaign.
#[derive(Clone, Debug)]
pub struct Subject {
    /// The program.
    pub program: PathBuf,
    /// The pipeline file, absolute.
    pub yaml: PathBuf,
    /// Where it may put what is short-lived.
    pub temporary: PathBuf,
    /// The pipeline's name.
    pub pipeline: String,
    /// The inputs: their names, and where they are.
    pub inputs: BTreeMap<String, PathBuf>,
    /// What is done with them, in every home.
    pub script: Script,
}

impl Subject {
    /// Returns whether files are replaced and removed.
    pub fn corrects(&self) -> bool {
        self.script.len() > 1
    }

    /// Returns how much is done to a home.
    pub fn actions(&self) -> usize {
        self.script.iter().map(Vec::len).sum()
    }
}

/// Versions that an input can have.
const VERSIONS: u64 = 2;

/// How many processes and workers a run has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Processes.
    pub processes: usize,
    /// Workers in each.
    pub workers: usize,
}

impl std::fmt::Display for Shape {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "-n {} -w {}", self.processes, self.workers)
    }
}

/// A home under torture.
#[derive(Debug)]
pub struct Site {
    /// The folder of it all.
    pub root: PathBuf,
    /// The home.
    pub home: PathBuf,
    /// Its one pipeline's folder in it.
    pub folder: PathBuf,
    /// How many lives the home has had.
    pub lives: usize,
    /// What is still to be done, by phase.
    todo: VecDeque<(usize, Action)>,
    phase: usize,
}

impl Site {
    /// Makes a new home below `root`, with a copy of every input still to be dropped.
    pub fn create(root: PathBuf, subject: &Subject) -> anyhow::Result<Self> {
        let home = root.join("home");
        let folder = home.join(&subject.pipeline);
        let (incoming, lives) = (root.join("incoming"), root.join("lives"));
        for needed in [&folder.join("unprocessed"), &incoming, &lives] {
            std::fs::create_dir_all(needed)
                .with_context(|| format!("create {}", needed.display()))?;
        }
        for (name, source) in &subject.inputs {
            std::fs::copy(source, incoming.join(name)).with_context(|| {
                format!("copy {} into {}", source.display(), incoming.display())
            })?;
        }
        let phases = subject.script.iter().enumerate();
        let todo = phases.flat_map(|(phase, all)| all.iter().map(move |one| (phase, one.clone())));
        Ok(Self { root, home, folder, lives: 0, todo: todo.collect(), phase: 0 })
    }

    /// Does the next things, in their order, as a person would: moves inputs in, deletes others. Does
    /// fewer where a phase has to wait until what is under way is finished.
    pub fn go_on(&mut self, count: usize) -> anyhow::Result<()> {
        for _ in 0..count {
            let Some((phase, action)) = self.todo.front().cloned() else { return Ok(()) };
            if phase > self.phase {
                if !self.is_idle() {
                    return Ok(());
                }
                self.phase = phase;
            }
            if !self.act(&action)? {
                return Ok(());
            }
            self.todo.pop_front();
        }
        Ok(())
    }

    /// Does one thing; returns whether its time had come.
    fn act(&self, action: &Action) -> anyhow::Result<bool> {
        let unprocessed = self.folder.join("unprocessed");
        match action {
            Action::Drop(name) => {
                let source = self.root.join("incoming").join(name);
                std::fs::rename(&source, unprocessed.join(name))
                    .with_context(|| format!("drop {}", source.display()))?;
            }
            Action::Replace(name, with) => {
                let copy = self.root.join("incoming").join(name);
                std::fs::copy(with, &copy)
                    .and_then(|_| std::fs::rename(&copy, unprocessed.join(name)))
                    .with_context(|| format!("drop another {name}"))?;
            }
            Action::Remove(name) => {
                let stored = (1..=VERSIONS).rev().map(|version| variant(name, version));
                let processed = self.folder.join("processed");
                // One that was set aside is not there.
                let there = stored.into_iter().find(|stored| processed.join(stored).exists());
                let Some(stored) = there else { return Ok(true) };
                // Its bytes are wanted once more: it must have its second name.
                if !self.folder.join("retained").join(&stored).exists() {
                    return Ok(false);
                }
                std::fs::remove_file(processed.join(&stored))
                    .with_context(|| format!("delete {stored} from processed/"))?;
            }
        }
        Ok(true)
    }

    /// Returns whether no input waits or is under way.
    fn is_idle(&self) -> bool {
        ["unprocessed", "underprocess"].iter().all(|name| count(&self.folder.join(name)) == 0)
    }

    /// Returns how much is still to be done.
    pub fn to_do(&self) -> usize {
        self.todo.len()
    }

    /// Returns how many files lie in `processed/` and `quarantine/`, roughly.
    pub fn finished(&self) -> usize {
        ["processed", "quarantine"].iter().map(|name| count(&self.folder.join(name))).sum()
    }

    /// Returns where the life with this number writes something.
    pub fn of_life(&self, number: usize, ending: &str) -> PathBuf {
        self.root.join("lives").join(format!("{number}.{ending}"))
    }

    /// Removes all of it.
    pub fn remove(self) -> anyhow::Result<()> {
        std::fs::remove_dir_all(&self.root)
            .with_context(|| format!("remove {}", self.root.display()))
    }
}

fn count(folder: &Path) -> usize {
    std::fs::read_dir(folder).map_or(0, Iterator::count)
}

/// Returns the inputs by name: files as they are, of a folder every plain file in it.
pub fn gather_inputs(paths: &[PathBuf]) -> anyhow::Result<BTreeMap<String, PathBuf>> {
    let mut found: BTreeMap<String, PathBuf> = BTreeMap::new();
    for path in paths {
        let looked =
            std::fs::metadata(path).with_context(|| format!("look at {}", path.display()))?;
        let mut files = vec![path.clone()];
        if looked.is_dir() {
            files.clear();
            let failed = || format!("list {}", path.display());
            for entry in std::fs::read_dir(path).with_context(failed)? {
                let entry = entry.with_context(failed)?;
                if entry.file_type().with_context(failed)?.is_file() {
                    files.push(entry.path());
                }
            }
        }
        for file in files {
            let name = file.file_name().and_then(|name| name.to_str());
            let name = name.with_context(|| format!("{} has no usable name", file.display()))?;
            if let Some(other) = found.insert(name.to_owned(), file.clone()) {
                anyhow::bail!(
                    "two inputs are called {name}: {} and {}; rename one",
                    other.display(),
                    file.display()
                );
            }
        }
    }
    anyhow::ensure!(!found.is_empty(), "there are no inputs in what was given");
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_are_files_and_the_files_of_folders() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir_all(at("in/below")).unwrap();
        for name in ["in/a", "in/b", "c", "b"] {
            std::fs::write(at(name), "x").unwrap();
        }
        let found = gather_inputs(&[at("in"), at("c")]).unwrap();
        assert_eq!(found.keys().collect::<Vec<_>>(), ["a", "b", "c"]);
        let error = gather_inputs(&[at("in"), at("b")]).unwrap_err();
        assert!(error.to_string().contains("two inputs are called b"), "{error}");
        assert!(gather_inputs(&[at("in/below")]).unwrap_err().to_string().contains("no inputs"));
        assert!(gather_inputs(&[at("nowhere")]).unwrap_err().to_string().contains("nowhere"));
    }
}
