//! Decide: what becomes of a file, from what was said of its epoch.
//!
//! Writes nothing: the ledger commits what is decided here.

use std::path::PathBuf;
use std::time::SystemTime;

use tidemill_store::{Outcome, Part, PartBody, Verdict};

use crate::answer::Answer;
use crate::board::to_us;
use crate::ledger::{Ledger, shelf};
use crate::sink::body::Prepared;
use crate::sink::parts::PreparedPart;

impl Ledger {
    /// Returns what becomes of a file, and the staged parts that must be removed.
    pub(super) fn decide(&self, pipeline: usize, answer: &mut Answer) -> (Outcome, Vec<PathBuf>) {
        let mut staged = Vec::new();
        let parts = std::mem::take(&mut answer.parts);
        let verdict = match &answer.failure {
            Some((code, detail)) => {
                staged.extend(parts.into_iter().filter_map(|part| match part.body {
                    Prepared::Staged(path) => Some(path),
                    _ => None,
                }));
                Verdict::Quarantined { code: code.clone(), detail: detail.clone() }
            }
            None => {
                let part = |part: PreparedPart| Part {
                    sink: self.lines[pipeline].sinks[part.sink].clone(),
                    name: part.name,
                    of: part.of,
                    bytes: part.bytes,
                    hash: part.hash,
                    body: match part.body {
                        Prepared::Inline(bytes) => PartBody::Inline(bytes),
                        Prepared::Staged(path) => PartBody::Staged(path),
                        // Only what is read again is added up, and nothing of that is committed.
                        Prepared::Digest | Prepared::Same => PartBody::Inline(Vec::new()),
                        Prepared::Removed => PartBody::Removed,
                    },
                    before: Vec::new(),
                };
                let says = |part: &PreparedPart| !matches!(part.body, Prepared::Same);
                let parts = parts.into_iter().filter(says).map(part);
                Verdict::Committed { parts: shelf::placed(parts.collect()) }
            }
        };
        let outcome = Outcome {
            id: answer.submission,
            pipeline: self.lines[pipeline].name.clone(),
            epoch: answer.epoch,
            verdict,
            hash: answer.hash,
            records: answer.records,
            rejected: answer.rejected,
            answered_at_us: to_us(answer.answered_at),
            finished_at_us: to_us(SystemTime::now()),
        };
        (outcome, staged)
    }
}
