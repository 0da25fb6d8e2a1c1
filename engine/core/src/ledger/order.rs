//! Order: how an accepted file is given to its dataflow, and looked at again when it comes back.

use std::io;
use std::path::PathBuf;

use tidemill_store::{AcceptedFile, Identity, JournalError, failpoint};

use crate::answer::Answer;
use crate::code::FileCode;
use crate::fault;
use crate::ingest::coordinator::Command;
use crate::ingest::inflate::Compression;
use crate::ingest::order::FileOrder;
use crate::ledger::Ledger;

/// What waits until a file is finished.
pub enum Waiting {
    /// A file, and whether it is read again.
    File(Box<AcceptedFile>, bool),
    /// The correction that is to be tried.
    Trial,
}

impl Ledger {
    /// Gives a file to its dataflow, or lets it wait for the one that it corrects.
    pub(super) fn order(
        &mut self,
        pipeline: usize,
        file: AcceptedFile,
        replay: bool,
    ) -> Result<(), JournalError> {
        let waits = self.must_wait(pipeline, &file);
        match replay {
            true => _ = self.lines[pipeline].read_again.insert(file.id),
            false => self.remember_set(pipeline, &file)?,
        }
        self.running.insert(file.id, file.clone());
        self.lines[pipeline].corrects |= file.correction.is_some();
        if waits {
            self.lines[pipeline].behind.push_back(Waiting::File(Box::new(file), replay));
            return Ok(());
        }
        self.give(pipeline, &file, replay)
    }

    /// Gives a file to its dataflow.
    pub(super) fn give(
        &mut self,
        pipeline: usize,
        file: &AcceptedFile,
        replay: bool,
    ) -> Result<(), JournalError> {
        let line = &self.lines[pipeline];
        let (path, or_at) = if replay {
            // Somebody may have emptied processed/.
            let retained = line.folders.retained.join(&file.stored_name);
            (line.folders.processed.join(&file.stored_name), vec![retained])
        } else {
            (line.folders.underprocess.join(&file.claimed_name), Vec::new())
        };
        // Who accepts or takes up a file has found its source.
        let source = line.sources.iter().position(|name| *name == file.source).unwrap_or_default();
        let place = [&path].into_iter().chain(&or_at).find(|place| place.exists());
        let compression = compression_of(place);
        let mut order = FileOrder {
            epoch: file.epoch,
            submission: file.id,
            rows_of: file.id,
            source,
            compression,
            path,
            or_at,
            identity: file.identity,
            // That of a removal is of what it removes.
            hash: file.hash.filter(|_| !file.is_removal()),
            name: file.name.clone(),
            output_name: file.output_name.clone(),
            replay,
            old: None,
            removes: file.is_removal(),
            refused: match !replay && self.arrival_refuses(pipeline, file) {
                true => self.journal.refusal(file.id)?.map(Box::new),
                false => None,
            },
        };
        order.old = self.old_version(pipeline, &order, file)?.map(Box::new);
        if self.turns.is_free() {
            self.begin(pipeline, order);
        } else {
            self.turns.push(pipeline, order);
        }
        Ok(())
    }

    /// Looks at a file once more, now that all of it was read: somebody who holds it open may have
    /// written to it since, or put another in its place. Then it leaves no output.
    pub(super) fn check_again(&self, pipeline: usize, file: &AcceptedFile, answer: &mut Answer) {
        if answer.failure.is_some() {
            return;
        }
        let line = &self.lines[pipeline];
        let path = line.folders.underprocess.join(&file.claimed_name);
        let difference = match Identity::at(&path) {
            Ok(now) => file.identity.difference(now),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Some("it is gone from underprocess/".to_owned())
            }
            Err(error) => fault::disk("look at a file before its commit", &error),
        };
        let Some(difference) = difference else { return };
        if line.keeps_state {
            // Its readers found it unchanged after its last byte, and its rows are in sums that others
            // are built on: what was read counts.
            tracing::warn!(
                pipeline = line.name,
                file = file.name,
                submission = file.id,
                "after all of it was read, {difference}; what was read is committed"
            );
            return;
        }
        answer.failure = Some((FileCode::Changed.word().to_owned(), difference));
    }

    /// Hands an order to its coordinator, unless this life is about to end.
    pub(super) fn begin(&mut self, pipeline: usize, order: FileOrder) {
        let line = &self.lines[pipeline];
        if !self.stopping && self.deployed.is_none() {
            // A coordinator that has ended leaves the file for the next life.
            let _ = line.commands.send(Command::File(order));
            let _ = line.wake.activate();
            failpoint::reach("order-given")
                .unwrap_or_else(|error| fault::disk("order a file", &error));
        }
    }
}

/// Looks at the first bytes of a file. If it cannot be read, its reader will say so.
pub(crate) fn compression_of(path: Option<&PathBuf>) -> Compression {
    let Some(path) = path else { return Compression::None };
    use std::io::Read;
    let mut first = [0; 4];
    let read = std::fs::File::open(path).and_then(|mut file| file.read(&mut first));
    Compression::of(&first[..read.unwrap_or(0)])
}
