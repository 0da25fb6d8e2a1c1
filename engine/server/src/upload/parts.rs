//! Parts: the messages of one upload, checked one by one, each within its time.
//!
//! Knows nothing of the engine and the disk.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use tidemill_engine::engine::{ClientId, Replaces};
use tidemill_proto::v1;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tonic::{Code, Status, Streaming};

use super::spool::Piece;
use crate::config::Limits;
use crate::convert;
use crate::refusal::Refusal;

/// The longest name of a file or pipeline, in bytes.
const NAME_BYTES_MAX: usize = 255;

/// The most pipelines that take one upload.
const PIPELINES_MAX: usize = 64;

/// What a header says, checked.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) pipeline: Option<String>,
    /// More pipelines that take the same file.
    pub(super) also_to: Vec<String>,
    pub(super) name: String,
    pub(super) bytes: u64,
    pub(super) hash: Option<blake3::Hash>,
    pub(super) id: Option<ClientId>,
    /// Where this attempt begins.
    pub(super) offset: u64,
    pub(super) replaces: Replaces,
    pub(super) seen_at: SystemTime,
}

/// The messages of one upload, each within its time.
pub(super) struct Parts {
    parts: Streaming<v1::SubmitRequest>,
    limits: Limits,
}

impl Parts {
    /// Returns the messages of a stream, to be received within these limits.
    pub(super) fn new(parts: Streaming<v1::SubmitRequest>, limits: Limits) -> Self {
        Self { parts, limits }
    }

    /// Receives the header and checks what can be checked without the engine.
    pub(super) async fn header(&mut self) -> Result<Header, Refusal> {
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
        if let Some(reason) = also_mistake(&header) {
            return Err(Refusal::Argument { field: "also_to", reason });
        }
        let id = header.client_submission_id.as_deref().map(convert::client_id).transpose()?;
        if header.offset > header.size {
            return Err(Refusal::Argument { field: "offset", reason: "is behind the end" });
        }
        if header.offset > 0 && id.is_none() {
            let reason = "must be 0 for an upload without a client_submission_id";
            return Err(Refusal::Argument { field: "offset", reason });
        }
        Ok(Header {
            pipeline: Some(header.pipeline).filter(|name| !name.is_empty()),
            also_to: header.also_to,
            name: header.name,
            bytes: header.size,
            hash: convert::hash_of(header.blake3)?,
            id,
            offset: header.offset,
            replaces: convert::replaces(header.replaces),
            seen_at: SystemTime::now(),
        })
    }

    /// Receives the bytes from `offset` to `bytes` into `pieces`. Returns the hash that the sender
    /// gave at the end, or `None` when the writer gave up.
    pub(super) async fn body(
        &mut self,
        offset: u64,
        bytes: u64,
        pieces: &mpsc::Sender<Piece>,
    ) -> Result<Option<Option<blake3::Hash>>, Refusal> {
        let whole = Duration::from_secs(bytes / self.limits.upload_rate_min.max(1));
        let deadline = Instant::now().checked_add(self.limits.upload_idle.saturating_add(whole));
        let mut received = offset;
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

/// Returns why a file cannot go to more pipelines than one as it is asked, if it cannot.
fn also_mistake(header: &v1::SubmitHeader) -> Option<&'static str> {
    let also = &header.also_to;
    if also.is_empty() {
        return None;
    }
    let all: BTreeSet<&str> = also.iter().chain([&header.pipeline]).map(String::as_str).collect();
    let one = |replaces: &v1::Replaces| replaces.submission.is_some();
    if header.pipeline.is_empty() {
        Some("needs `pipeline` too: the first one")
    } else if also.len() >= PIPELINES_MAX {
        Some("names more than 64 pipelines")
    } else if all.len() <= also.len() {
        Some("names a pipeline twice")
    } else if all.iter().any(|name| name.is_empty() || name.len() > NAME_BYTES_MAX) {
        Some("has what cannot be the name of a pipeline")
    } else if header.replaces.as_ref().is_some_and(one) {
        Some("cannot stand beside the submission of one pipeline that is replaced")
    } else {
        None
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
