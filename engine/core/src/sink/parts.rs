//! Parts: the outputs of one sink, from the first byte until they are durable.
//!
//! What the two sinks that write one file per input file share: naming, staging, ending.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use tidemill_operators::exchange;
use tidemill_operators::format::OutputFormat;
use tidemill_operators::meter::Meter;
use tidemill_operators::{Schema, Time};
use tidemill_store::stage::StageWriter;
use tidemill_store::{Home, failpoint};
use timely::dataflow::StreamVec;
use timely::dataflow::operators::Capability;
use timely::progress::Antichain;
use timely::progress::frontier::MutableAntichain;
use timely::scheduling::Activator;

use crate::ingest::order::Opening;
use crate::sink::body::{Body, Finished, Prepared};
use crate::sink::staging::{Desk, OnDiskFailure, Staging, Synced};
use crate::space::{self, Space};

/// What an epoch does to an output of one sink for one input file, durable or about to ride in the
/// commit. Usually the input is that of the epoch; a later one may change what an earlier one gave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreparedPart {
    /// The epoch.
    pub epoch: u64,
    /// The sink, by its place in the plan.
    pub sink: usize,
    /// The submission whose output it is.
    pub of: u64,
    /// How many records of the epoch came for it.
    pub rows: u64,
    /// The file's name in the sink's folder.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// BLAKE3 of its bytes.
    pub hash: [u8; 32],
    /// The bytes, or where they are.
    pub body: Prepared,
}

/// What a built sink gives back.
pub struct Written<'scope> {
    /// The prepared parts, at `(epoch, END)`.
    pub parts: StreamVec<'scope, Time, PreparedPart>,
    /// Never holds data: its frontier follows what the sink has taken in.
    pub taken: StreamVec<'scope, Time, ()>,
}

/// What a sink needs to know of its surroundings.
#[derive(Clone)]
pub struct Surroundings {
    /// The home in which parts are staged.
    pub home: Arc<Home>,
    /// The generation they are staged under.
    pub generation: u64,
    /// The pipeline.
    pub pipeline: String,
    /// The thread that makes them durable.
    pub staging: Staging,
    /// What to do when the disk refuses.
    pub on_failure: OnDiskFailure,
    /// Who is told that an output waits for space.
    pub space: Space,
}

/// How one sink writes its files.
#[derive(Clone)]
pub struct FileSink {
    /// Its place in the plan.
    pub index: usize,
    /// Its name.
    pub name: String,
    /// The format.
    pub format: OutputFormat,
    /// The columns that are written.
    pub schema: Schema,
    /// Whether an input without records for it gets an (empty) output.
    pub empty: bool,
    /// The sources whose records can come here; files of others have no output here.
    pub sources: BTreeSet<usize>,
}

/// Returns a number that is the same for all parts of one output and spread over workers.
pub fn writer_of(submission: u64, sink: usize) -> u64 {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&submission.to_le_bytes());
    key[8..].copy_from_slice(&(sink as u64).to_le_bytes());
    exchange::key_hash(&key)
}

/// Returns the name of an output: that of its input, with the ending of its format.
pub fn output_name(stem: &str, format: &OutputFormat) -> String {
    let ending = match format {
        OutputFormat::Raw => return stem.to_owned(),
        OutputFormat::Jsonl => ".jsonl",
        OutputFormat::Csv { .. } => ".csv",
    };
    if stem.ends_with(ending) { stem.to_owned() } else { format!("{stem}{ending}") }
}

/// Returns the least time that can still come on any of the inputs, or nothing if none can.
pub fn least(frontiers: &[MutableAntichain<Time>]) -> Option<Time> {
    let mut least = Antichain::new();
    for frontier in frontiers {
        least.extend(frontier.frontier().iter().copied());
    }
    least.elements().first().copied()
}

/// One output that is being written.
pub struct OpenPart {
    /// The right to speak at the end of the epoch.
    capability: Capability<Time>,
    /// The announcement of the input file, once it has come.
    pub opening: Option<Opening>,
    /// The bytes so far.
    pub body: Body,
    /// The rows so far.
    pub rows: u64,
    /// Whether the last raw record had no line end.
    pub unterminated: bool,
}

impl OpenPart {
    /// Returns an output without bytes. The capability is at the end of its epoch.
    pub fn new(capability: Capability<Time>) -> Self {
        Self { capability, opening: None, body: Body::default(), rows: 0, unterminated: false }
    }

    /// Takes the announcement, which comes before the first byte. What an earlier life committed is
    /// only added up.
    pub fn announce(&mut self, opening: Opening) {
        if opening.replay {
            self.body = Body::digest();
        }
        self.opening = Some(opening);
    }
}

/// A part that may be announced, and the right to do so.
pub type Ready = (Capability<Time>, PreparedPart);

/// The outputs of one sink on one worker that are written but not announced.
pub struct Parts {
    /// How the sink writes.
    pub sink: FileSink,
    /// Where it stands.
    around: Surroundings,
    /// Counts what is written.
    pub meter: Meter,
    /// Written parts that are not durable yet, by ticket.
    waiting: BTreeMap<u64, Ready>,
    desk: Desk,
    /// Set while the disk is full: when it is to be tried again.
    held: Option<Instant>,
    /// Runs the operator again then.
    again: Activator,
}

impl Parts {
    /// Returns the outputs of a sink; `desk` hands them to the staging thread, `again` runs the
    /// operator.
    pub fn new(
        sink: FileSink,
        around: Surroundings,
        desk: Desk,
        again: Activator,
        meter: Meter,
    ) -> Self {
        Self { sink, around, meter, waiting: BTreeMap::new(), desk, held: None, again }
    }

    /// Returns whether the disk is full. Then nothing may be taken in: what is not taken in holds
    /// the frontier, and so the window, and so the memory.
    pub fn is_held(&self) -> bool {
        self.held.is_some()
    }

    /// Returns whether anything more may be taken in: not while the disk is full, nor while much waits
    /// to be written. The operator is woken when that changes.
    pub fn takes_in(&self) -> bool {
        !self.is_held() && !self.desk.is_behind()
    }

    /// Returns whether it is time to try again to write what could not be written.
    pub fn is_due(&self) -> bool {
        self.held.is_some_and(|at| Instant::now() >= at)
    }

    /// The disk is full: the operator runs again in a while.
    pub fn hold(&mut self) {
        if self.held.is_none() {
            self.around.space.wait(&self.doing());
        }
        self.held = Some(Instant::now() + space::RETRY);
        self.again.activate_after(space::RETRY);
    }

    /// Everything that could not be written is written.
    pub fn go_on(&mut self) {
        if self.held.take().is_some() {
            self.around.space.go_on(&self.doing());
        }
    }

    /// Writes what a full disk did not take of these outputs, by epoch, if it is time to try.
    pub fn try_again<'a>(&mut self, open: impl IntoIterator<Item = (u64, &'a mut OpenPart)>) {
        if !self.is_due() {
            return;
        }
        for (epoch, part) in open {
            let written = part.body.go_on(&|| self.stage(epoch));
            if !self.attempted(written) {
                self.hold();
                return;
            }
        }
        self.go_on();
    }

    /// Writes the last bytes of an output; returns whether there was space for them. If not, they are
    /// tried again in a while.
    pub fn flush(&mut self, epoch: u64, part: &mut OpenPart) -> bool {
        let flushed = part.body.flush(&|| self.stage(epoch));
        let is_written = self.attempted(flushed);
        if !is_written {
            self.hold();
        }
        is_written
    }

    fn doing(&self) -> String {
        format!("writing the outputs of {}/{}", self.around.pipeline, self.sink.name)
    }

    /// Ends the process if the disk refused for another reason than its being full.
    pub fn attempted(&self, outcome: io::Result<bool>) -> bool {
        match outcome {
            Ok(done) => done,
            Err(error) => (self.around.on_failure)("write staged output", &error),
        }
    }

    /// Opens the staged file of an output that outgrows the memory.
    pub fn stage(&self, epoch: u64) -> io::Result<StageWriter> {
        let Surroundings { home, generation, pipeline, .. } = &self.around;
        let writer = StageWriter::create(home, *generation, pipeline, epoch, &self.sink.name)?;
        Ok(writer.through(self.desk.blocks()))
    }

    /// Opens the staged file of an output of another submission than that of the epoch, or of its own.
    pub fn stage_of(&self, epoch: u64, of: u64) -> io::Result<StageWriter> {
        let Surroundings { home, generation, pipeline, .. } = &self.around;
        StageWriter::create_of(home, *generation, pipeline, epoch, &self.sink.name, of)
    }

    /// Ends the process if the disk refused.
    pub fn written(&self, outcome: io::Result<()>) {
        if let Err(error) = outcome {
            (self.around.on_failure)("write staged output", &error);
        }
    }

    /// Ends an output, which must be flushed. Returns it at once if it needs no sync; nothing if it is not wanted.
    pub fn close(&mut self, epoch: u64, open: OpenPart) -> Option<Ready> {
        let opening = open.opening.expect("every epoch is announced before it is complete");
        let concerned = self.sink.sources.contains(&opening.source);
        let wants_empty = self.sink.empty && concerned && !opening.removes;
        if open.rows == 0 && !wants_empty {
            return None;
        }
        let part = PreparedPart {
            epoch,
            sink: self.sink.index,
            of: opening.submission,
            rows: open.rows,
            name: output_name(&opening.output_name, &self.sink.format),
            bytes: 0,
            hash: [0; 32],
            body: Prepared::Same,
        };
        self.finish(open.capability, part, open.body)
    }

    /// Ends the body of a part, which must be flushed. Returns the part at once if it needs no sync.
    pub fn finish(
        &mut self,
        capability: Capability<Time>,
        part: PreparedPart,
        body: Body,
    ) -> Option<Ready> {
        match body.finish() {
            Ok(Finished::Inline(inline)) => {
                let (bytes, hash) = (inline.len() as u64, *blake3::hash(&inline).as_bytes());
                let body = Prepared::Inline(inline);
                Some((capability, PreparedPart { bytes, hash, body, ..part }))
            }
            Ok(Finished::Digest(bytes, hash)) => {
                let body = Prepared::Digest;
                Some((capability, PreparedPart { bytes, hash, body, ..part }))
            }
            Ok(Finished::Staged(unsynced)) => {
                let ticket = self.desk.hand_over(unsynced);
                self.waiting.insert(ticket, (capability, part));
                None
            }
            Err(error) => (self.around.on_failure)("write staged output", &error),
        }
    }

    /// Returns the parts that have become durable since.
    pub fn collect(&mut self) -> Vec<Ready> {
        let synced: Vec<Synced> = self.desk.collect().collect();
        let mut ready = Vec::with_capacity(synced.len());
        for Synced { ticket, part: durable } in synced {
            if let Some((capability, mut part)) = self.waiting.remove(&ticket) {
                part.bytes = durable.bytes;
                part.hash = durable.hash;
                part.body = Prepared::Staged(durable.staged);
                self.written(failpoint::reach("part-prepared"));
                ready.push((capability, part));
            }
        }
        ready
    }

    /// Returns how many parts wait for the disk.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }
}
