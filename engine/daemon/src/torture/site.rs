//! Site: one home under torture, and the copies of the inputs that are dropped into it.
//!
//! Owns a folder of its own: `home/`, `incoming/` (copies that are still to be dropped) and `lives/`
//! (what each life logged and reached). Removed when the outcome was right, else kept for a person.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};

use anyhow::Context;

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
}

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
    incoming: VecDeque<String>,
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
        let incoming = subject.inputs.keys().cloned().collect();
        Ok(Self { root, home, folder, lives: 0, incoming })
    }

    /// Drops the next inputs, in the order of their names, as a person would: by moving them in.
    pub fn drop_files(&mut self, count: usize) -> anyhow::Result<()> {
        for _ in 0..count {
            let Some(name) = self.incoming.pop_front() else { return Ok(()) };
            let source = self.root.join("incoming").join(&name);
            std::fs::rename(&source, self.folder.join("unprocessed").join(&name))
                .with_context(|| format!("drop {}", source.display()))?;
        }
        Ok(())
    }

    /// Returns how many inputs are still to be dropped.
    pub fn to_drop(&self) -> usize {
        self.incoming.len()
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
