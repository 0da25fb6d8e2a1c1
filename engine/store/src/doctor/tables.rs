//! Tables under examination: each snapshot against what is said about it, and that against the journal.

use std::path::Path;

use serde::Deserialize;

use super::Round;
use super::finding::Code;
use super::journal::Pipeline;
use crate::disk;

/// The end of the name of the file that says what a snapshot is.
pub(super) const ABOUT_ENDING: &str = ".about.json";

/// The longest text about a snapshot that is read, in bytes.
const ABOUT_BYTES_MAX: u64 = 64 * 1024;

/// What is said about a snapshot.
#[derive(Deserialize)]
struct About {
    epoch: u64,
    blake3: String,
}

impl Round<'_> {
    /// Compares every snapshot of a pipeline with what is said about it.
    pub(super) fn check_tables(&mut self, pipeline: &Pipeline) {
        let out = self.home.join(&pipeline.name).join("out");
        for sink in std::fs::read_dir(&out).into_iter().flatten().flatten() {
            let folder = sink.path();
            for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                if let Some(snapshot) = name.strip_suffix(ABOUT_ENDING) {
                    self.check_table(pipeline, &folder.join(snapshot), &entry.path());
                }
            }
        }
    }

    fn check_table(&mut self, pipeline: &Pipeline, snapshot: &Path, about: &Path) {
        let told = self.shown(snapshot);
        let wrong = match read_about(about) {
            None => Some("what is said about it cannot be read".to_owned()),
            Some(said) if said.epoch > pipeline.finished_epoch => {
                // The server may have written it since the journal was read.
                let (said, known) = (said.epoch, pipeline.finished_epoch);
                self.facts
                    .running
                    .is_none()
                    .then(|| format!("it speaks up to epoch {said}, the journal up to {known}"))
            }
            Some(_) if disk::look(snapshot).is_ok_and(|found| found.is_none()) => {
                Some("it is missing".to_owned())
            }
            Some(said) if self.deep => {
                let hash = disk::open_plain(snapshot).and_then(|file| {
                    self.facts.hashed_bytes += file.metadata()?.len();
                    disk::hash_of(&file)
                });
                let same = hash.is_ok_and(|hash| {
                    blake3::Hash::from_bytes(hash).to_hex().as_str() == said.blake3
                });
                (!same).then(|| "its bytes are others than are said".to_owned())
            }
            Some(_) => None,
        };
        if let Some(wrong) = wrong {
            self.find(Code::TableOld, &pipeline.name, &format!("{told}: {wrong}"));
        }
    }
}

fn read_about(path: &Path) -> Option<About> {
    let found = disk::look(path).ok()??;
    if !found.is_file() || found.len() > ABOUT_BYTES_MAX {
        return None;
    }
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}
