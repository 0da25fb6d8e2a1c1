//! Steps: files that are added, replaced and removed one step after the other, in a server that runs.
//!
//! Owns the way a scenario folder says so: `01-add/`, `02-replace/`, `03-remove/`, ... each with the
//! files of the step (of those that are removed only the names count). Knows what must be left: the
//! files as the last step has them.

use std::path::Path;

use tidemill_client::{Phase, Replaces, SubmitOptions, Which};

use crate::site::{Running, Shape, Site};
use crate::tree::{self, Tree};

/// What is done with the files of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// They are dropped.
    Add,
    /// They are sent, each in the place of the file of its name.
    Replace,
    /// The files of these names are removed.
    Remove,
}

/// One step after the other.
#[derive(Clone, Debug, Default)]
pub struct Steps {
    steps: Vec<(Verb, Tree)>,
}

impl Steps {
    /// Returns the steps of a scenario folder; none if it has no numbered folders.
    #[track_caller]
    pub fn read(folder: &Path) -> Steps {
        let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let mut folders: Vec<_> = entries.filter(|path| path.is_dir()).collect();
        folders.sort();
        let mut steps = Steps::default();
        for folder in folders {
            let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let Some((number, verb)) = name.split_once('-') else { continue };
            if number.parse::<u32>().is_err() {
                continue;
            }
            let verb = match verb {
                "add" => Verb::Add,
                "replace" => Verb::Replace,
                "remove" => Verb::Remove,
                other => panic!("{}: a step cannot {other:?}", folder.display()),
            };
            steps.steps.push((verb, tree::read(&folder)));
        }
        steps
    }

    /// Adds a step.
    #[must_use]
    pub fn then(mut self, verb: Verb, files: &[(&str, &[u8])]) -> Steps {
        let files = files.iter().map(|(name, bytes)| ((*name).to_owned(), bytes.to_vec()));
        self.steps.push((verb, files.collect()));
        self
    }

    /// Returns whether there are none.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// Returns each step for itself.
    pub fn one_by_one(&self) -> Vec<Steps> {
        self.steps.iter().map(|step| Steps { steps: vec![step.clone()] }).collect()
    }

    /// Returns the files that are left when all is done.
    pub fn survivors(&self) -> Tree {
        let mut left = Tree::new();
        for (verb, files) in &self.steps {
            match verb {
                Verb::Add | Verb::Replace => left.extend(files.clone()),
                Verb::Remove => left.retain(|name, _| !files.contains_key(name)),
            }
        }
        left
    }

    /// Takes all steps in one life of a server and ends it.
    #[track_caller]
    pub fn take(&self, site: &Site, shape: Shape) {
        let running = site.start(shape);
        for (verb, files) in &self.steps {
            step(&running, *verb, files);
        }
        running.stop();
    }

    /// Takes each step in a life of its own, which is killed as soon as the step is durable.
    #[track_caller]
    pub fn take_and_kill(&self, site: &Site, shape: Shape) {
        for (verb, files) in &self.steps {
            let running = site.start(shape);
            step(&running, *verb, files);
            running.kill();
        }
        site.once(shape).expect_code(0);
    }
}

/// Takes one step, and waits until all of it is committed.
#[track_caller]
fn step(running: &Running<'_>, verb: Verb, files: &Tree) {
    let mut sent = Vec::new();
    for (name, bytes) in files {
        let submission = match verb {
            Verb::Add => running.submit(name, bytes),
            Verb::Replace => {
                let options =
                    SubmitOptions { replaces: Replaces::SameName, ..SubmitOptions::default() };
                let sent = running.client().submit_bytes_with(name, bytes.clone(), options);
                running.ask(sent).unwrap()
            }
            Verb::Remove => {
                let which = Which::Name { pipeline: None, name: name.clone() };
                running.ask(running.client().remove(which)).unwrap()
            }
        };
        sent.push(submission.id);
    }
    for id in sent {
        let done = running.wait(id);
        assert_eq!(done.phase, Phase::Committed, "{verb:?} {}: {:?}", done.name, done.reason);
    }
}

/// Returns what a run that sees only these files gives.
#[track_caller]
pub fn fresh(node: &str, yaml: &str, files: &Tree, shape: Shape) -> Tree {
    let site = Site::new(node, yaml);
    for (name, bytes) in files {
        site.put(name, bytes);
    }
    site.once(shape).expect_code(0);
    site.out()
}
