//! Checkpoints under examination: the manifests that the journal counts, and the packs that they name.

use rusqlite::Connection;

use super::Round;
use super::finding::Code;
use super::journal::Pipeline;
use crate::checkpoint::{Manifest, read_manifest};
use crate::disk;
use crate::journal::checkpoints;

impl Round<'_> {
    /// Looks at every checkpoint of a pipeline that counts. Packs are hashed in a deep examination only.
    pub(super) fn check_checkpoints(&mut self, journal: &Connection, pipeline: &Pipeline) {
        let rows = match checkpoints(journal, &pipeline.name) {
            Ok(rows) => rows,
            Err(error) => {
                self.find(Code::JournalDamaged, "", &format!("list the checkpoints: {error}"));
                return;
            }
        };
        let folder = self.home.join("ckpt").join(&pipeline.name);
        for row in rows {
            let wrong = match read_manifest(&folder, &row) {
                Err(error) => Some(error.to_string()),
                Ok(manifest) if self.deep => {
                    self.facts.hashed_bytes +=
                        manifest.packs.iter().map(|pack| pack.bytes).sum::<u64>();
                    manifest.verify(&folder).err().map(|error| error.to_string())
                }
                Ok(manifest) => missing(&folder, &manifest),
            };
            if let Some(wrong) = wrong {
                let place = self.shown(&folder.join(&row.manifest));
                self.find(Code::Checkpoint, &pipeline.name, &format!("{place}: {wrong}"));
            }
        }
    }
}

/// Returns what is wrong with the packs of a checkpoint, as far as their sizes tell.
fn missing(folder: &std::path::Path, manifest: &Manifest) -> Option<String> {
    manifest.packs.iter().find_map(|pack| {
        let there = disk::look(&folder.join(&pack.name)).ok().flatten();
        match there.map(|found| found.len()) {
            Some(bytes) if bytes == pack.bytes => None,
            Some(bytes) => Some(format!("{} has {bytes} of {} bytes", pack.name, pack.bytes)),
            None => Some(format!("{} is gone", pack.name)),
        }
    })
}
