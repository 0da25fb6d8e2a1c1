//! Upload: receives one file into the spool and hands it to the engine, whole or not at all.
//!
//! Receiving and writing run side by side: this end reads messages and checks their order, a
//! blocking thread hashes, writes, syncs and submits. Whatever ends an upload before the engine has
//! taken it (a refusal, a lost client, a stopping server) removes its file, unless its client gave it
//! an id: then what came is kept for a while, and the client may go on.

mod parts;
mod spool;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tidemill_engine::dry_run::DryRun;
use tidemill_engine::engine::{ClientId, SubmitError, Upload, spool as kept};
use tidemill_engine::report::SubmissionReport;
use tidemill_proto::v1;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinHandle;
use tonic::Streaming;

use crate::ask::ask;
use crate::backend::Backend;
use crate::closing::Closing;
use crate::config::Limits;
use crate::refusal::Refusal;
use parts::{Header, Parts};
use spool::{Piece, disk};

/// How many received chunks may wait for the disk.
const PIECES_IN_FLIGHT: usize = 4;

/// Receives uploads, a bounded number at once.
#[derive(Debug)]
pub(crate) struct Uploads<B> {
    backend: B,
    limits: Limits,
    turns: Arc<Semaphore>,
    closing: Closing,
    busy: Busy,
}

/// The ids whose uploads are under way: each has one file in the spool.
#[derive(Clone, Debug, Default)]
struct Busy(Arc<Mutex<BTreeSet<ClientId>>>);

/// Holds an id until its upload has ended, one way or the other.
#[derive(Debug)]
struct Held {
    busy: Busy,
    id: ClientId,
}

impl Busy {
    fn hold(&self, id: ClientId) -> Result<Held, Refusal> {
        let fresh = self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(id);
        if fresh { Ok(Held { busy: self.clone(), id }) } else { Err(Refusal::IdBusy { id }) }
    }

    fn has(&self, id: &ClientId) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(id)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.busy.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}

/// Tells when no upload is under way.
#[derive(Debug)]
pub(crate) struct UnderWay {
    turns: Arc<Semaphore>,
    all: u32,
}

impl UnderWay {
    /// Resolves once no upload is being received.
    pub(crate) async fn none(&self) {
        // Nobody closes the semaphore.
        let _all = self.turns.acquire_many(self.all).await;
    }
}

/// Where an upload stands that may go on.
#[derive(Debug)]
pub(crate) struct Standing {
    /// How many bytes of it are here.
    pub(crate) received: u64,
    /// What it became.
    pub(crate) submission: Option<SubmissionReport>,
}

impl<B: Backend> Uploads<B> {
    /// Returns a receiver of uploads for `backend`.
    pub(crate) fn new(backend: B, limits: Limits, closing: Closing) -> Self {
        let turns = Arc::new(Semaphore::new(limits.uploads_max));
        Self { backend, limits, turns, closing, busy: Busy::default() }
    }

    /// Returns what tells when no upload is under way.
    pub(crate) fn under_way(&self) -> UnderWay {
        let all = u32::try_from(self.limits.uploads_max).unwrap_or(u32::MAX);
        UnderWay { turns: Arc::clone(&self.turns), all }
    }

    /// Returns where the upload with this id goes on.
    pub(crate) async fn resume(&self, id: ClientId) -> Result<Standing, Refusal> {
        let busy = self.busy.clone();
        ask(&self.backend, self.limits.answer_max, move |backend| {
            if let Some(report) = backend.upload(&id)? {
                return Ok(Standing { received: report.bytes, submission: Some(report) });
            }
            // Whoever is under way moves the end of what is kept.
            let _held = busy.hold(id)?;
            let received = kept::kept_bytes(backend.spool(), &id).map_err(|error| disk(&error))?;
            Ok(Standing { received, submission: None })
        })
        .await?
    }

    /// Receives one file and returns its submissions once they are durable: one for each pipeline that
    /// takes it, in their order.
    ///
    /// When the returned future is dropped before the last byte came, the upload has broken off;
    /// after that the file is submitted all the same.
    pub(crate) async fn receive(
        &self,
        parts: Streaming<v1::SubmitRequest>,
    ) -> Result<Vec<SubmissionReport>, Refusal> {
        if self.closing.is_closed() {
            return Err(self.closing.refusal());
        }
        let mut parts = Parts::new(parts, self.limits.clone());
        let header = parts.header().await?;
        let held = header.id.map(|id| self.busy.hold(id)).transpose()?;
        if let Some(reports) = self.check(&header).await? {
            return Ok(reports);
        }
        self.take(parts, header, held, submit).await
    }

    /// Receives one file, and returns what would change if it were submitted. Nothing of it is kept.
    pub(crate) async fn try_out(
        &self,
        parts: Streaming<v1::SubmitRequest>,
    ) -> Result<DryRun, Refusal> {
        if self.closing.is_closed() {
            return Err(Refusal::Draining);
        }
        let mut parts = Parts::new(parts, self.limits.clone());
        let header = parts.header().await?;
        if header.id.is_some() {
            let reason = "is not taken by a dry run: nothing of it is kept";
            return Err(Refusal::Argument { field: "client_submission_id", reason });
        }
        if !header.also_to.is_empty() {
            let reason = "is not for a dry run: try each pipeline by itself";
            return Err(Refusal::Argument { field: "also_to", reason });
        }
        self.check(&header).await?;
        self.take(parts, header, None, try_out).await
    }

    /// Receives the bytes of a file and does with it what is to be done.
    async fn take<T: Send + 'static>(
        &self,
        mut parts: Parts,
        header: Header,
        held: Option<Held>,
        then: fn(&B, Header, spool::Spooled, blake3::Hash) -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        let turn = Arc::clone(&self.turns).acquire_owned();
        let turn = tokio::select! {
            turn = tokio::time::timeout(self.limits.upload_idle, turn) => turn,
            () = self.closing.closed() => return Err(self.closing.refusal()),
        };
        let turn = turn.map_err(|_| Refusal::Busy)?.map_err(|_| self.closing.refusal())?;
        let (offset, bytes, hash) = (header.offset, header.bytes, header.hash);
        let needs_hash = header.id.is_some();
        let (pieces, writer) = self.write(header, turn, held, then);
        let received = tokio::select! {
            received = parts.body(offset, bytes, &pieces) => received,
            () = self.drained() => Err(self.closing.refusal()),
        };
        let received = received.and_then(|end_hash| match end_hash {
            // An upload made of several attempts is whole only if its hash says so.
            Some(None) if needs_hash && hash.is_none() => {
                let reason = "is needed, in the header or the end, with a client_submission_id";
                Err(Refusal::Argument { field: "blake3", reason })
            }
            end_hash => Ok(end_hash),
        });
        match received {
            // A writer that gave up has closed its end, and says why below.
            Ok(None) => {}
            Ok(Some(end_hash)) => {
                let _ = pieces.send(Piece::End([hash, end_hash])).await;
            }
            Err(refusal) => {
                // Answer when the spool file is gone or kept, so that the next attempt finds it so.
                drop(pieces);
                let _ = writer.await;
                return Err(refusal);
            }
        }
        drop(pieces);
        writer.await.map_err(|error| {
            tracing::error!(%error, "the thread that writes an upload failed");
            Refusal::Internal
        })?
    }

    /// Resolves when the server has been stopping for as long as it lets uploads go on.
    async fn drained(&self) {
        self.closing.closed().await;
        // Who sends to a server that hands over goes on at the next one, from where it was cut off.
        if !self.closing.hands_over() {
            tokio::time::sleep(self.limits.drain_max).await;
        }
    }

    /// Asks, before the first byte is written, whether every pipeline could take the file. Returns what
    /// it became if all of them have taken the same upload already.
    async fn check(&self, header: &Header) -> Result<Option<Vec<SubmissionReport>>, Refusal> {
        let (bytes, limit) = (header.bytes, self.limits.upload_bytes_max);
        if bytes > limit {
            return Err(Refusal::TooBig { bytes, limit });
        }
        let (targets, name, hash) = (targets(header), header.name.clone(), header.hash);
        let (id, offset, missing) = (header.id, header.offset, bytes - header.offset);
        let replaces = header.replaces;
        let (spare, busy) = (self.limits.disk_free_bytes_min, self.busy.clone());
        ask(&self.backend, self.limits.answer_max, move |backend| {
            let mut known = Vec::with_capacity(targets.len());
            for Target { pipeline, id } in &targets {
                if let Some(id) = id
                    && let Some(report) = backend.upload(id)?
                    && let Some(hash) = hash
                {
                    let same = Same { pipeline: pipeline.as_deref(), name: &name, hash };
                    known.push(same.as_before(id, report)?);
                } else {
                    backend.check_upload(pipeline.as_deref(), &name, replaces)?;
                }
            }
            if known.len() == targets.len() {
                return Ok(Some(known));
            }
            let missing = missing.saturating_add(bytes.saturating_mul(targets.len() as u64 - 1));
            if let Some(id) = id.filter(|_| offset > 0) {
                // The id is held: what is kept stays as it is until this upload writes.
                let expected =
                    kept::kept_bytes(backend.spool(), &id).map_err(|error| disk(&error))?;
                if offset > expected {
                    return Err(Refusal::Offset { offset, expected });
                }
            }
            if room_for(backend, missing, spare).is_err() {
                // What may never be gone on with gives way to what comes now.
                sweep(backend, Duration::ZERO, 0, |other| busy.has(other));
                room_for(backend, missing, spare)?;
            }
            Ok(None)
        })
        .await?
    }

    /// Starts the thread that writes the file and does with it what is to be done.
    fn write<T: Send + 'static>(
        &self,
        header: Header,
        turn: OwnedSemaphorePermit,
        held: Option<Held>,
        then: fn(&B, Header, spool::Spooled, blake3::Hash) -> Result<T, Refusal>,
    ) -> (mpsc::Sender<Piece>, JoinHandle<Result<T, Refusal>>) {
        let (sender, pieces) = mpsc::channel(PIECES_IN_FLIGHT);
        let backend = self.backend.clone();
        let (bytes_max, age) = (self.limits.kept_bytes_max, self.limits.kept_for);
        let writer = tokio::task::spawn_blocking(move || {
            // Owned here and dropped last: the next upload begins when this one's file is gone.
            let _turn = turn;
            let received = spool::receive(backend.spool(), &header, pieces);
            if let (Err(Refusal::Lost), Some(held)) = (&received, &held) {
                // The one that just broke off is the youngest; it goes only if it is too much alone.
                let is_busy = |id: &ClientId| *id != held.id && held.busy.has(id);
                sweep(&backend, age, bytes_max, is_busy);
            }
            let (spooled, hash) = received?;
            then(&backend, header, spooled, hash)
        });
        (sender, writer)
    }
}

/// An upload, as far as it must be the same as one with the same id.
struct Same<'u> {
    pipeline: Option<&'u str>,
    name: &'u str,
    hash: blake3::Hash,
}

impl Same<'_> {
    /// Returns what the first upload with the id became, if it was this one.
    fn as_before(
        &self,
        id: &ClientId,
        report: SubmissionReport,
    ) -> Result<SubmissionReport, Refusal> {
        let same_pipeline = self.pipeline.is_none_or(|name| name == report.pipeline);
        let same_hash = report.hash.as_ref().is_some_and(|hash| *hash == self.hash.to_string());
        if same_pipeline && self.name == report.name && same_hash {
            return Ok(report);
        }
        let SubmissionReport { id: submission, name, pipeline, .. } = report;
        Err(tidemill_engine::engine::SubmitError::IdUsed { id: *id, name, pipeline, submission }
            .into())
    }
}

/// Checks that the disk of the spool has room for `bytes` and `spare` bytes more.
fn room_for<B: Backend>(backend: &B, bytes: u64, spare: u64) -> Result<(), Refusal> {
    let disk = rustix::fs::statvfs(backend.spool()).map_err(|error| disk(&error.into()))?;
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    if bytes.saturating_add(spare) > free {
        tracing::warn!(bytes, free, "an upload was refused: the disk of the spool is full");
        return Err(Refusal::DiskFull { bytes });
    }
    Ok(())
}

/// Removes what is kept of uploads that broke off, as far as it is too old or too much.
fn sweep<B: Backend>(
    backend: &B,
    age: Duration,
    bytes_max: u64,
    is_busy: impl Fn(&ClientId) -> bool,
) {
    let before = SystemTime::now().checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH);
    match kept::sweep_kept(backend.spool(), before, bytes_max, is_busy) {
        Ok(0) => {}
        Ok(removed) => tracing::info!(removed, "removed uploads that broke off"),
        Err(error) => tracing::warn!(%error, "cannot remove old uploads from the spool"),
    }
}

/// Lets the engine try a spooled file, which is removed then.
fn try_out<B: Backend>(
    backend: &B,
    header: Header,
    spooled: spool::Spooled,
    hash: blake3::Hash,
) -> Result<DryRun, Refusal> {
    let to = Target { pipeline: header.pipeline.clone(), id: None };
    let upload = upload(&header, to, &spooled, hash);
    Ok(backend.try_upload(&upload)?)
}

/// A pipeline that takes an upload, and the id that the upload has there.
struct Target {
    /// `None`: the only one.
    pipeline: Option<String>,
    id: Option<ClientId>,
}

/// Returns the pipelines that take an upload. An upload for several has an id of its own in each.
fn targets(header: &Header) -> Vec<Target> {
    if header.also_to.is_empty() {
        return vec![Target { pipeline: header.pipeline.clone(), id: header.id }];
    }
    let all = header.pipeline.iter().chain(&header.also_to);
    let target = |pipeline: &String| Target {
        pipeline: Some(pipeline.clone()),
        id: header.id.map(|id| id.within(pipeline)),
    };
    all.map(target).collect()
}

/// Returns a spooled file as the engine takes it.
fn upload(header: &Header, to: Target, spooled: &spool::Spooled, hash: blake3::Hash) -> Upload {
    Upload {
        pipeline: to.pipeline,
        name: header.name.clone(),
        path: spooled.path().to_owned(),
        bytes: header.bytes,
        hash: *hash.as_bytes(),
        seen_at: header.seen_at,
        client_id: to.id,
        replaces: header.replaces,
    }
}

/// Hands a spooled file to the engine, for each pipeline that takes it.
fn submit<B: Backend>(
    backend: &B,
    header: Header,
    spooled: spool::Spooled,
    hash: blake3::Hash,
) -> Result<Vec<SubmissionReport>, Refusal> {
    let mut targets = targets(&header);
    let Some(last) = targets.pop() else { return Ok(Vec::new()) };
    let mut reports: Vec<SubmissionReport> = Vec::with_capacity(targets.len() + 1);
    for target in targets {
        let taken = spooled
            .copy(backend.spool())
            .and_then(|copy| submit_one(backend, &header, target, copy, hash));
        match taken {
            Ok(report) => reports.push(report),
            Err(refusal) => {
                // Whole and right: the client may send its end once more.
                return Err(partly(&reports, refusal));
            }
        }
    }
    match submit_one(backend, &header, last, spooled, hash) {
        Ok(report) => reports.push(report),
        Err(refusal) => return Err(partly(&reports, refusal)),
    }
    Ok(reports)
}

/// Says with a refusal which pipelines have taken the file.
fn partly(taken: &[SubmissionReport], refusal: Refusal) -> Refusal {
    if taken.is_empty() {
        return refusal;
    }
    let one = |report: &SubmissionReport| format!("{} (submission {})", report.pipeline, report.id);
    let taken = taken.iter().map(one).collect::<Vec<_>>().join(", ");
    Refusal::Partly { taken, refusal: Box::new(refusal) }
}

/// Hands a spooled file to the engine, for one pipeline.
fn submit_one<B: Backend>(
    backend: &B,
    header: &Header,
    to: Target,
    spooled: spool::Spooled,
    hash: blake3::Hash,
) -> Result<SubmissionReport, Refusal> {
    let submitted = backend.submit(upload(header, to, &spooled, hash));
    match submitted {
        Ok(report) if spooled.path().exists() => {
            // It was taken already, under the same id.
            spooled.discard(backend.spool());
            Ok(report)
        }
        Ok(report) => {
            spooled.taken();
            Ok(report)
        }
        // Whole and right: the client may send its end once more, when the engine takes files again.
        Err(error @ (SubmitError::Unavailable { .. } | SubmitError::NoSpace)) => Err(error.into()),
        Err(error) => {
            spooled.discard(backend.spool());
            Err(error.into())
        }
    }
}
