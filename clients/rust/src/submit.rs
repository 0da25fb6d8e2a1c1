//! Submit: sends one file in chunks, hashing it on the way, and again until it is known to be taken.
//!
//! Each submission has an id, so that sending it again is safe: a file whose answer was lost is taken
//! once, and an upload that broke off goes on where it ended.

use std::fmt;
use std::fs::Metadata;
use std::io::SeekFrom;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tidemill_proto::v1;
use tidemill_proto::v1::submit_request::Part;
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;

use crate::client::Client;
use crate::convert;
use crate::error::Error;
use crate::id::SubmissionId;
use crate::model::{Replaces, Submission};

/// How many bytes one message carries.
const CHUNK_BYTES: usize = 256 << 10;

/// How many messages may wait for the network.
const CHUNKS_IN_FLIGHT: usize = 4;

/// How long an upload is sent again without getting further, unless the caller says otherwise.
const RESEND_FOR: Duration = Duration::from_secs(60);

/// The first pause between two attempts; each is twice as long as the one before.
const RESEND_PAUSE: Duration = Duration::from_millis(100);

/// The longest pause between two attempts.
const RESEND_PAUSE_MAX: Duration = Duration::from_secs(5);

/// How to submit a file.
#[derive(Clone, Debug)]
pub struct SubmitOptions {
    /// The pipeline it is for; may be left out when only one runs.
    pub pipeline: Option<String>,
    /// More pipelines that take it too, each as a submission of its own; then `pipeline` is the first
    /// one and is needed.
    pub also_to: Vec<String>,
    /// The name it gets; the last part of its path when left out.
    pub name: Option<String>,
    /// The id of the submission; a new one when left out. The same id with the same file is taken
    /// once, however often it is sent.
    pub id: Option<SubmissionId>,
    /// Which current file it takes the place of.
    pub replaces: Replaces,
    /// How long the upload is sent again while the server is not there, is stopping or has too much
    /// to do. The time counts from the last byte that got through; zero sends once.
    pub resend_for: Duration,
    /// Told when the upload has to wait and is sent again later.
    pub on_wait: Option<OnWait>,
}

/// Hears why an upload has to wait, and for how long it goes on to be sent again at most.
#[derive(Clone)]
pub struct OnWait(pub Arc<Waits>);

/// What an [`OnWait`] calls.
pub type Waits = dyn Fn(&Error, Duration) + Send + Sync;

impl fmt::Debug for OnWait {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("OnWait")
    }
}

impl Default for SubmitOptions {
    fn default() -> Self {
        Self {
            pipeline: None,
            also_to: Vec::new(),
            name: None,
            id: None,
            replaces: Replaces::Nothing,
            resend_for: RESEND_FOR,
            on_wait: None,
        }
    }
}

impl Client {
    /// Sends a file and returns its submission once it is durable on the server.
    ///
    /// `progress` hears, after each chunk, how many bytes were handed to the network and how many
    /// there are; after a broken connection it goes on from where the server is. When the file
    /// changes meanwhile, nothing becomes of it.
    pub async fn submit_file(
        &self,
        path: &Path,
        options: SubmitOptions,
        progress: impl FnMut(u64, u64),
    ) -> Result<Submission, Error> {
        first(self.submit_file_to_all(path, options, progress).await?)
    }

    /// Sends a file once and returns its submissions, one for each pipeline that takes it
    /// ([`SubmitOptions::also_to`]), once they are durable on the server.
    ///
    /// If one of them does not take it, the error says which have; each takes it once, however often it
    /// is sent under one id.
    pub async fn submit_file_to_all(
        &self,
        path: &Path,
        options: SubmitOptions,
        mut progress: impl FnMut(u64, u64),
    ) -> Result<Vec<Submission>, Error> {
        let (mut body, name, size) = open(path, &options).await?;
        self.submit(&options, name, size, &mut body, &mut progress).await
    }

    /// Sends bytes as a file called `name` and returns its submission once it is durable on the
    /// server. `pipeline` may be left out when only one runs.
    pub async fn submit_bytes(
        &self,
        name: &str,
        bytes: impl Into<Bytes>,
        pipeline: Option<&str>,
    ) -> Result<Submission, Error> {
        let pipeline = pipeline.map(str::to_owned);
        self.submit_bytes_with(name, bytes, SubmitOptions { pipeline, ..Default::default() }).await
    }

    /// Sends bytes as a file called `name`, or what `options` call it, and returns its submission
    /// once it is durable on the server.
    pub async fn submit_bytes_with(
        &self,
        name: &str,
        bytes: impl Into<Bytes>,
        options: SubmitOptions,
    ) -> Result<Submission, Error> {
        let name = options.name.clone().unwrap_or_else(|| name.to_owned());
        let mut bytes: Bytes = bytes.into();
        let size = bytes.len() as u64;
        first(self.submit(&options, name, size, &mut bytes, &mut |_, _| {}).await?)
    }

    /// Sends an upload until it is known to be taken, or refused, or has not got further for as long
    /// as the options say.
    async fn submit(
        &self,
        options: &SubmitOptions,
        name: String,
        size: u64,
        body: &mut impl Body,
        progress: &mut impl FnMut(u64, u64),
    ) -> Result<Vec<Submission>, Error> {
        let id = options.id.unwrap_or_else(SubmissionId::make);
        let header = |from: Beginning| v1::SubmitHeader {
            pipeline: options.pipeline.clone().unwrap_or_default(),
            name: name.clone(),
            size,
            blake3: from.hash.map(|hash| hash.to_string()),
            client_submission_id: Some(id.to_string()),
            offset: from.offset,
            replaces: convert::replaces(options.replaces),
            also_to: options.also_to.clone(),
        };
        let mut from = Beginning { offset: 0, hash: None };
        let mut furthest = 0;
        let mut failing_since = None;
        let mut pause = RESEND_PAUSE;
        loop {
            let error = match self.send(header(from), from, body, progress).await {
                // What was kept of an earlier attempt was not what was sent, or is gone: anew.
                Err(error)
                    if from.offset > 0
                        && matches!(error.word(), Some("wrong_hash" | "wrong_offset")) =>
                {
                    from.offset = 0;
                    continue;
                }
                Err(error) if error.may_be_sent_again() => error,
                answer => return answer,
            };
            let since = *failing_since.get_or_insert_with(Instant::now);
            let left = options.resend_for.saturating_sub(since.elapsed());
            if left.is_zero() {
                return Err(error);
            }
            if let Some(OnWait(told)) = &options.on_wait {
                told(&error, left);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RESEND_PAUSE_MAX);
            if from.hash.is_none() {
                // Said first, so that a server that took the file already need not be sent it.
                from.hash = Some(body.hash().await?);
            }
            // While this fails the sending fails too, and both are tried again.
            if let Ok(received) = self.received(&id).await {
                from.offset = received.min(size);
                if received > furthest {
                    (furthest, failing_since, pause) = (received, None, RESEND_PAUSE);
                }
            }
        }
    }

    /// Returns how many bytes of an upload the server has. One that was taken is begun anew: the
    /// server compares the hash and answers as it did.
    async fn received(&self, id: &SubmissionId) -> Result<u64, Error> {
        let request = v1::ResumeRequest { client_submission_id: id.to_string() };
        let answer = self.submissions().resume(request).await?.into_inner();
        Ok(if answer.submission.is_some() { 0 } else { answer.received })
    }

    /// Sends a header and the body; an early answer of the server ends the feeding, and a failure of
    /// the feeding ends the call.
    async fn send(
        &self,
        header: v1::SubmitHeader,
        from: Beginning,
        body: &mut impl Body,
        progress: &mut impl FnMut(u64, u64),
    ) -> Result<Vec<Submission>, Error> {
        let mut client = self.submissions();
        let call = |messages| async move { Ok(client.submit(messages).await?.into_inner()) };
        convert::submissions(feed_from(header, from, body, progress, call).await?)
    }
}

/// Returns the submission of the first pipeline.
fn first(all: Vec<Submission>) -> Result<Submission, Error> {
    all.into_iter().next().ok_or(Error::Answer { what: "submission" })
}

/// Opens a file to send it; returns it with the name it gets and its size.
pub(crate) async fn open(
    path: &Path,
    options: &SubmitOptions,
) -> Result<(FileBody, String, u64), Error> {
    let read = |source| Error::File { path: path.to_owned(), source };
    let name = match &options.name {
        Some(name) => name.clone(),
        None => name_of(path)?,
    };
    // Looked at before it is opened: opening a pipe would wait for its other end.
    if !tokio::fs::metadata(path).await.map_err(read)?.is_file() {
        return Err(Error::NotAFile { path: path.to_owned(), reason: "it is not a file" });
    }
    let file = File::open(path).await.map_err(read)?;
    let metadata = file.metadata().await.map_err(read)?;
    let size = metadata.len();
    Ok((FileBody { file, path: path.to_owned(), metadata }, name, size))
}

/// Sends a header and all of a file to a call.
pub(crate) async fn feed<T, F>(
    header: v1::SubmitHeader,
    body: &mut FileBody,
    progress: &mut impl FnMut(u64, u64),
    call: impl FnOnce(ReceiverStream<v1::SubmitRequest>) -> F,
) -> Result<T, Error>
where
    F: Future<Output = Result<T, Error>>,
{
    feed_from(header, Beginning { offset: 0, hash: None }, body, progress, call).await
}

async fn feed_from<T, F>(
    header: v1::SubmitHeader,
    from: Beginning,
    body: &mut impl Body,
    progress: &mut impl FnMut(u64, u64),
    call: impl FnOnce(ReceiverStream<v1::SubmitRequest>) -> F,
) -> Result<T, Error>
where
    F: Future<Output = Result<T, Error>>,
{
    let (sender, messages) = mpsc::channel(CHUNKS_IN_FLIGHT);
    let feed = async {
        // An error means that the call has ended, and the answer says why.
        if sender.send(message(Part::Header(header))).await.is_err() {
            return Ok(());
        }
        body.feed(from, sender, progress).await
    };
    let call = call(ReceiverStream::new(messages));
    tokio::pin!(call, feed);
    tokio::select! {
        answer = &mut call => answer,
        fed = &mut feed => {
            fed?;
            call.await
        }
    }
}

/// Where an attempt begins.
#[derive(Clone, Copy)]
struct Beginning {
    /// The first byte that is sent.
    offset: u64,
    /// The hash of the whole, known from the second attempt on.
    hash: Option<blake3::Hash>,
}

/// What is sent: it can be read again from the start.
trait Body {
    /// Returns the hash of all of it.
    async fn hash(&mut self) -> Result<blake3::Hash, Error>;

    /// Sends its chunks and its end. Stops early, without an error, when the call has ended.
    async fn feed(
        &mut self,
        from: Beginning,
        messages: mpsc::Sender<v1::SubmitRequest>,
        progress: &mut impl FnMut(u64, u64),
    ) -> Result<(), Error>;
}

/// A file, and how it looked when it was opened.
pub(crate) struct FileBody {
    file: File,
    path: PathBuf,
    metadata: Metadata,
}

impl FileBody {
    fn failed(&self, source: std::io::Error) -> Error {
        Error::File { path: self.path.clone(), source }
    }

    /// Fails if the file is not what it was.
    async fn check(&self) -> Result<(), Error> {
        let (before, after) = (&self.metadata, self.file.metadata().await);
        let after = after.map_err(|source| self.failed(source))?;
        if after.len() == before.len() && after.modified().ok() == before.modified().ok() {
            Ok(())
        } else {
            Err(Error::Changed { path: self.path.clone() })
        }
    }

    /// Reads the next bytes of the file: as many as a chunk has, or all that are left before `size`.
    async fn next(&mut self, offset: u64, size: u64) -> Result<Bytes, Error> {
        let wanted = (size - offset).min(CHUNK_BYTES as u64);
        let read = read_chunk(&mut self.file, wanted as usize).await;
        let data = read.map_err(|source| self.failed(source))?;
        if data.len() as u64 == wanted {
            Ok(data)
        } else {
            Err(Error::Changed { path: self.path.clone() })
        }
    }

    async fn seek(&mut self, offset: u64) -> Result<(), Error> {
        let sought = self.file.seek(SeekFrom::Start(offset)).await;
        sought.map(drop).map_err(|source| self.failed(source))
    }
}

impl Body for FileBody {
    async fn hash(&mut self) -> Result<blake3::Hash, Error> {
        self.seek(0).await?;
        let (mut hasher, mut at, size) = (blake3::Hasher::new(), 0, self.metadata.len());
        while at < size {
            let data = self.next(at, size).await?;
            hasher.update(&data);
            at += data.len() as u64;
        }
        self.check().await?;
        Ok(hasher.finalize())
    }

    async fn feed(
        &mut self,
        from: Beginning,
        messages: mpsc::Sender<v1::SubmitRequest>,
        progress: &mut impl FnMut(u64, u64),
    ) -> Result<(), Error> {
        self.seek(from.offset).await?;
        let (mut hasher, mut offset) = (blake3::Hasher::new(), from.offset);
        let size = self.metadata.len();
        progress(offset, size);
        while offset < size {
            let data = self.next(offset, size).await?;
            let length = data.len() as u64;
            if from.hash.is_none() {
                hasher.update(&data);
            }
            let chunk = v1::SubmitChunk { offset, data };
            if messages.send(message(Part::Chunk(chunk))).await.is_err() {
                return Ok(());
            }
            offset += length;
            progress(offset, size);
        }
        self.check().await?;
        let hash = from.hash.unwrap_or_else(|| hasher.finalize());
        let _ = messages.send(end(hash)).await;
        Ok(())
    }
}

impl Body for Bytes {
    async fn hash(&mut self) -> Result<blake3::Hash, Error> {
        Ok(blake3::hash(self))
    }

    async fn feed(
        &mut self,
        from: Beginning,
        messages: mpsc::Sender<v1::SubmitRequest>,
        progress: &mut impl FnMut(u64, u64),
    ) -> Result<(), Error> {
        for begin in (from.offset as usize..self.len()).step_by(CHUNK_BYTES) {
            let end = self.len().min(begin + CHUNK_BYTES);
            let chunk = v1::SubmitChunk { offset: begin as u64, data: self.slice(begin..end) };
            if messages.send(message(Part::Chunk(chunk))).await.is_err() {
                return Ok(()); // the call has ended, and its answer says why
            }
            progress(end as u64, self.len() as u64);
        }
        let hash = from.hash.unwrap_or_else(|| blake3::hash(self));
        let _ = messages.send(end(hash)).await;
        Ok(())
    }
}

fn name_of(path: &Path) -> Result<String, Error> {
    let name = path.file_name().ok_or("it has no name");
    name.and_then(|name| name.to_str().ok_or("its name is not UTF-8; give it another"))
        .map(str::to_owned)
        .map_err(|reason| Error::NotAFile { path: path.to_owned(), reason })
}

fn message(part: Part) -> v1::SubmitRequest {
    v1::SubmitRequest { part: Some(part) }
}

fn end(hash: blake3::Hash) -> v1::SubmitRequest {
    message(Part::End(v1::SubmitEnd { blake3: Some(hash.to_string()) }))
}

/// Reads `wanted` bytes, or fewer at the end of the file.
async fn read_chunk(file: &mut File, wanted: usize) -> std::io::Result<Bytes> {
    let mut data = BytesMut::with_capacity(wanted);
    // Never asks with a full buffer: that would make it grow, and copy.
    while data.len() < wanted {
        let left = (wanted - data.len()) as u64;
        if file.take(left).read_buf(&mut data).await? == 0 {
            break;
        }
    }
    Ok(data.freeze())
}
