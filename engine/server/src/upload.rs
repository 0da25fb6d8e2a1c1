//! Upload: receives one file into the spool and hands it to the engine, whole or not at all.
//!
//! Owns the spool file until the engine has taken it: whatever ends the upload before that (a
//! refusal, a lost client, a stopping server) removes the file. Receiving and writing run side by
//! side: this end reads messages and checks their order, a blocking thread hashes, writes, syncs
//! and submits.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tempfile::NamedTempFile;
use tidemill_engine::engine::Upload;
use tidemill_engine::failpoint;
use tidemill_engine::report::SubmissionReport;
use tidemill_proto::v1;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tonic::{Code, Status, Streaming};

use crate::ask::ask;
use crate::backend::Backend;
use crate::closing::Closing;
use crate::config::Limits;
use crate::convert;
use crate::refusal::Refusal;

/// How many received chunks may wait for the disk.
const PIECES_IN_FLIGHT: usize = 4;

/// The longest name of a file or pipeline, in bytes.
const NAME_BYTES_MAX: usize = 255;

/// Receives uploads, a bounded number at once.
#[derive(Debug)]
pub(crate) struct Uploads<B> {
    backend: B,
    limits: Limits,
    turns: Arc<Semaphore>,
    closing: Closing,
}

/// What a header says, checked.
#[derive(Debug)]
struct Header {
    pipeline: Option<String>,
    name: String,
    bytes: u64,
    hash: Option<blake3::Hash>,
    seen_at: SystemTime,
}

/// What the writing thread is given.
#[derive(Debug)]
enum Piece {
    /// The next bytes of the file.
    Bytes(Bytes),
    /// All bytes were given; these hashes must be theirs.
    End([Option<blake3::Hash>; 2]),
}

impl<B: Backend> Uploads<B> {
    /// Returns a receiver of uploads for `backend`.
    pub(crate) fn new(backend: B, limits: Limits, closing: Closing) -> Self {
        let turns = Arc::new(Semaphore::new(limits.uploads_max));
        Self { backend, limits, turns, closing }
    }

    /// Receives one file and returns its submission once it is durable.
    ///
    /// When the returned future is dropped before the last byte came, nothing is kept; after that
    /// the file is submitted all the same.
    pub(crate) async fn receive(
        &self,
        parts: Streaming<v1::SubmitRequest>,
    ) -> Result<SubmissionReport, Refusal> {
        if self.closing.is_closed() {
            return Err(Refusal::Draining);
        }
        let mut parts = Parts { parts, limits: self.limits.clone() };
        let header = parts.header().await?;
        self.check(&header).await?;
        let turn = Arc::clone(&self.turns).acquire_owned();
        let turn = tokio::select! {
            turn = tokio::time::timeout(self.limits.upload_idle, turn) => turn,
            () = self.closing.closed() => return Err(Refusal::Draining),
        };
        let turn = turn.map_err(|_| Refusal::Busy)?.map_err(|_| Refusal::Draining)?;
        let (bytes, hash) = (header.bytes, header.hash);
        let (pieces, writer) = self.write(header, turn);
        let received = tokio::select! {
            received = parts.body(bytes, &pieces) => received,
            () = self.drained() => Err(Refusal::Draining),
        };
        match received {
            // A writer that gave up has closed its end, and says why below.
            Ok(None) => {}
            Ok(Some(end_hash)) => {
                let _ = pieces.send(Piece::End([hash, end_hash])).await;
            }
            Err(refusal) => {
                // Answer when the spool file is gone, so that "refused" means that nothing is left.
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
        tokio::time::sleep(self.limits.drain_max).await;
    }

    /// Asks, before the first byte is written, whether the file could be taken.
    async fn check(&self, header: &Header) -> Result<(), Refusal> {
        let (bytes, limit) = (header.bytes, self.limits.upload_bytes_max);
        if bytes > limit {
            return Err(Refusal::TooBig { bytes, limit });
        }
        let (pipeline, name) = (header.pipeline.clone(), header.name.clone());
        let spare = self.limits.disk_free_bytes_min;
        ask(&self.backend, self.limits.answer_max, move |backend| {
            backend.check_upload(pipeline.as_deref(), &name)?;
            room_for(backend, bytes, spare)
        })
        .await?
    }

    /// Starts the thread that writes the file and submits it.
    fn write(
        &self,
        header: Header,
        turn: OwnedSemaphorePermit,
    ) -> (mpsc::Sender<Piece>, JoinHandle<Result<SubmissionReport, Refusal>>) {
        let (sender, pieces) = mpsc::channel(PIECES_IN_FLIGHT);
        let backend = self.backend.clone();
        let writer = tokio::task::spawn_blocking(move || {
            // Owned here and dropped last: the next upload begins when this one's file is gone.
            let _turn = turn;
            let (spooled, hash) = spool(&backend, pieces)?;
            submit(&backend, header, spooled, hash)
        });
        (sender, writer)
    }
}

/// The messages of one upload, each within its time.
struct Parts {
    parts: Streaming<v1::SubmitRequest>,
    limits: Limits,
}

impl Parts {
    /// Receives the header and checks what can be checked without the engine.
    async fn header(&mut self) -> Result<Header, Refusal> {
        let part = self.next(None).await?;
        let Some(v1::submit_request::Part::Header(header)) = part else {
            return Err(Refusal::Stream { reason: "does not begin with a header" });
        };
        if let Some(reason) = name_mistake(&header.name) {
            let name = header.name.chars().take(NAME_BYTES_MAX).collect();
            return Err(Refusal::Name { name, reason });
        }
        if header.pipeline.len() > NAME_BYTES_MAX {
            return Err(Refusal::Argument { field: "pipeline", reason: "is too long for a name" });
        }
        Ok(Header {
            pipeline: Some(header.pipeline).filter(|name| !name.is_empty()),
            name: header.name,
            bytes: header.size,
            hash: convert::hash_of(header.blake3)?,
            seen_at: SystemTime::now(),
        })
    }

    /// Receives `bytes` bytes into `pieces`. Returns the hash that the sender gave at the end, or
    /// `None` when the writer gave up.
    async fn body(
        &mut self,
        bytes: u64,
        pieces: &mpsc::Sender<Piece>,
    ) -> Result<Option<Option<blake3::Hash>>, Refusal> {
        let whole = Duration::from_secs(bytes / self.limits.upload_rate_min.max(1));
        let deadline = Instant::now().checked_add(self.limits.upload_idle.saturating_add(whole));
        let mut received = 0;
        loop {
            match self.next(deadline).await? {
                Some(v1::submit_request::Part::Chunk(chunk)) => {
                    received = follow(&chunk, received, bytes)?;
                    if pieces.send(Piece::Bytes(chunk.data)).await.is_err() {
                        return Ok(None);
                    }
                }
                Some(v1::submit_request::Part::Header(_)) => {
                    return Err(Refusal::Stream { reason: "has two headers" });
                }
                Some(_) | None if received < bytes => {
                    return Err(Refusal::TooFew { declared: bytes, received });
                }
                // A stream that just closes is what a sender looks like that gave up.
                None => return Err(Refusal::Stream { reason: "has no end" }),
                Some(v1::submit_request::Part::End(end)) => {
                    let hash = convert::hash_of(end.blake3)?;
                    if self.next(deadline).await?.is_some() {
                        return Err(Refusal::Stream { reason: "goes on after its end" });
                    }
                    return Ok(Some(hash));
                }
            }
        }
    }

    /// Receives one message; `None` when the sender has sent all it will.
    async fn next(
        &mut self,
        deadline: Option<Instant>,
    ) -> Result<Option<v1::submit_request::Part>, Refusal> {
        let idle = self.limits.upload_idle;
        let until = Instant::now() + idle;
        let message = match deadline.filter(|deadline| *deadline < until) {
            Some(deadline) => {
                let slow = Refusal::Slow { bytes_per_second: self.limits.upload_rate_min };
                // A time-out is only looked at when nothing has come: a fast drip has to be too.
                if Instant::now() >= deadline {
                    return Err(slow);
                }
                tokio::time::timeout_at(deadline, self.parts.message()).await.map_err(|_| slow)?
            }
            None => tokio::time::timeout_at(until, self.parts.message())
                .await
                .map_err(|_| Refusal::Stalled { idle })?,
        };
        match message {
            Ok(None) => Ok(None),
            Ok(Some(v1::SubmitRequest { part: Some(part) })) => Ok(Some(part)),
            Ok(Some(v1::SubmitRequest { part: None })) => {
                Err(Refusal::Stream { reason: "has a message without a part" })
            }
            Err(status) => Err(self.broken(&status)),
        }
    }

    fn broken(&self, status: &Status) -> Refusal {
        match status.code() {
            Code::OutOfRange | Code::ResourceExhausted => {
                Refusal::MessageTooBig { limit: self.limits.message_bytes_max }
            }
            Code::Internal => Refusal::Stream { reason: "has a message that cannot be decoded" },
            _ => Refusal::Lost,
        }
    }
}

/// Checks that a chunk follows what was received so far; returns what is received with it.
fn follow(chunk: &v1::SubmitChunk, received: u64, declared: u64) -> Result<u64, Refusal> {
    if chunk.data.is_empty() {
        return Err(Refusal::Stream { reason: "has a chunk without bytes" });
    }
    if chunk.offset != received {
        return Err(Refusal::Offset { offset: chunk.offset, expected: received });
    }
    let received = received.saturating_add(chunk.data.len() as u64);
    if received > declared {
        return Err(Refusal::TooMany { declared, received });
    }
    Ok(received)
}

/// Returns why `name` cannot be the name of a file, if it cannot.
fn name_mistake(name: &str) -> Option<&'static str> {
    let forbidden = |letter: char| {
        letter.is_control()
            || matches!(letter, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{feff}')
            || matches!(letter, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    if name.is_empty() {
        Some("it is empty")
    } else if name.len() > NAME_BYTES_MAX {
        Some("it is longer than 255 bytes")
    } else if name.contains(['/', '\\']) {
        Some("it contains a slash; send the last part of a path only")
    } else if name.starts_with('.') {
        Some("it begins with a dot")
    } else if name.contains(forbidden) {
        Some("it contains a control or direction character")
    } else {
        None
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

/// Writes the pieces to a new file of the spool, mode 0600, and syncs it. The file removes itself
/// when the returned handle is dropped.
fn spool<B: Backend>(
    backend: &B,
    mut pieces: mpsc::Receiver<Piece>,
) -> Result<(NamedTempFile, blake3::Hash), Refusal> {
    let mut file = tempfile::Builder::new()
        .prefix("upload-")
        .tempfile_in(backend.spool())
        .map_err(|error| disk(&error))?;
    failpoint::reach("upload-created").map_err(|error| disk(&error))?;
    let mut hasher = blake3::Hasher::new();
    loop {
        match pieces.blocking_recv() {
            None => return Err(Refusal::Lost),
            Some(Piece::Bytes(bytes)) => {
                hasher.update(&bytes);
                file.write_all(&bytes).map_err(|error| disk(&error))?;
            }
            Some(Piece::End(declared)) => {
                let received = hasher.finalize();
                if let Some(declared) =
                    declared.into_iter().flatten().find(|hash| *hash != received)
                {
                    return Err(Refusal::Hash { declared, received });
                }
                failpoint::reach("upload-written").map_err(|error| disk(&error))?;
                file.as_file().sync_all().map_err(|error| disk(&error))?;
                failpoint::reach("upload-synced").map_err(|error| disk(&error))?;
                return Ok((file, received));
            }
        }
    }
}

/// Hands a spooled file to the engine.
fn submit<B: Backend>(
    backend: &B,
    header: Header,
    spooled: NamedTempFile,
    hash: blake3::Hash,
) -> Result<SubmissionReport, Refusal> {
    let report = backend.submit(Upload {
        pipeline: header.pipeline,
        name: header.name,
        path: spooled.path().to_owned(),
        bytes: header.bytes,
        hash: *hash.as_bytes(),
        seen_at: header.seen_at,
    })?;
    // The engine has moved the file; it is no longer ours to remove.
    if let Err(error) = spooled.into_temp_path().keep() {
        tracing::warn!(%error, "cannot let go of a spool file");
    }
    Ok(report)
}

/// Logs what the disk said; the client is told only that it refuses.
fn disk(error: &io::Error) -> Refusal {
    tracing::error!(%error, "cannot write to the spool");
    Refusal::Disk
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_name(name: &str, expected: bool) {
        assert_eq!(name_mistake(name).is_none(), expected, "{name:?}");
    }

    #[test]
    fn a_name_is_one_visible_component_of_a_path() {
        check_name("a", true);
        check_name("access 2026-11-22.jsonl.gz", true);
        check_name("größe.csv", true);
        check_name(&"x".repeat(255), true);
        check_name(&"x".repeat(256), false);
        check_name("", false);
        check_name(".", false);
        check_name("..", false);
        check_name(".hidden", false);
        check_name("a/b", false);
        check_name("../b", false);
        check_name("a\\b", false);
        check_name("a\nb", false);
        check_name("a\0b", false);
        check_name("a\u{1b}[31m", false);
        check_name("invoice\u{202e}vsc.exe", false);
        check_name("a\u{7f}", false);
    }

    #[track_caller]
    fn check_follow(offset: u64, length: usize, received: u64, expected: Option<u64>) {
        let chunk = v1::SubmitChunk { offset, data: vec![0; length].into() };
        assert_eq!(follow(&chunk, received, 10).ok(), expected);
    }

    #[test]
    fn chunks_follow_each_other_up_to_the_declared_size() {
        check_follow(0, 10, 0, Some(10));
        check_follow(4, 6, 4, Some(10));
        check_follow(4, 7, 4, None);
        check_follow(5, 1, 4, None);
        check_follow(3, 1, 4, None);
        check_follow(u64::MAX, 1, 4, None);
        check_follow(4, 0, 4, None);
        check_follow(10, 1, 10, None);
    }
}
