//! Submit: sends one file in chunks, hashing it on the way.

use std::fs::Metadata;
use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};
use tidemill_proto::v1;
use tidemill_proto::v1::submit_request::Part;
use tokio::fs::File;
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::client::Client;
use crate::convert;
use crate::error::Error;
use crate::model::Submission;

/// How many bytes one message carries.
const CHUNK_BYTES: usize = 256 << 10;

/// How many messages may wait for the network.
const CHUNKS_IN_FLIGHT: usize = 4;

/// How to submit a file.
#[derive(Clone, Debug, Default)]
pub struct SubmitOptions {
    /// The pipeline it is for; may be left out when only one runs.
    pub pipeline: Option<String>,
    /// The name it gets; the last part of its path when left out.
    pub name: Option<String>,
}

impl Client {
    /// Sends a file and returns its submission once it is durable on the server.
    ///
    /// `progress` hears, after each chunk, how many bytes were handed to the network and how many
    /// there are. The file is read once; when it changes meanwhile, nothing is kept of it.
    pub async fn submit_file(
        &self,
        path: &Path,
        options: SubmitOptions,
        mut progress: impl FnMut(u64, u64),
    ) -> Result<Submission, Error> {
        let read = |source| Error::File { path: path.to_owned(), source };
        let name = match options.name {
            Some(name) => name,
            None => name_of(path)?,
        };
        // Looked at before it is opened: opening a pipe would wait for its other end.
        if !tokio::fs::metadata(path).await.map_err(read)?.is_file() {
            return Err(Error::NotAFile { path: path.to_owned(), reason: "it is not a file" });
        }
        let file = File::open(path).await.map_err(read)?;
        let metadata = file.metadata().await.map_err(read)?;
        let header = header(options.pipeline, name, metadata.len());
        self.send(header, |messages| async move {
            feed_file(file, path.to_owned(), metadata, &messages, &mut progress).await
        })
        .await
    }

    /// Sends bytes as a file called `name` and returns its submission once it is durable on the
    /// server. `pipeline` may be left out when only one runs.
    pub async fn submit_bytes(
        &self,
        name: &str,
        bytes: impl Into<Bytes>,
        pipeline: Option<&str>,
    ) -> Result<Submission, Error> {
        let bytes: Bytes = bytes.into();
        let header = header(pipeline.map(str::to_owned), name.to_owned(), bytes.len() as u64);
        self.send(header, |messages| async move {
            feed_bytes(bytes, &messages).await;
            Ok(())
        })
        .await
    }

    /// Sends a header and what `feed` gives; an early answer of the server ends the feeding, and a
    /// failure of the feeding ends the call.
    async fn send<F>(
        &self,
        header: v1::SubmitHeader,
        feed: impl FnOnce(mpsc::Sender<v1::SubmitRequest>) -> F,
    ) -> Result<Submission, Error>
    where
        F: Future<Output = Result<(), Error>>,
    {
        let (sender, messages) = mpsc::channel(CHUNKS_IN_FLIGHT);
        let feed = async {
            // An error means that the call has ended, and the answer says why.
            if sender.send(message(Part::Header(header))).await.is_err() {
                return Ok(());
            }
            feed(sender).await
        };
        let mut client = self.submissions();
        let call = client.submit(ReceiverStream::new(messages));
        tokio::pin!(call, feed);
        let answer = tokio::select! {
            answer = &mut call => answer,
            fed = &mut feed => {
                fed?;
                call.await
            }
        };
        convert::submission(answer?.into_inner())
    }
}

fn name_of(path: &Path) -> Result<String, Error> {
    let name = path.file_name().ok_or("it has no name");
    name.and_then(|name| name.to_str().ok_or("its name is not UTF-8; give it another"))
        .map(str::to_owned)
        .map_err(|reason| Error::NotAFile { path: path.to_owned(), reason })
}

fn header(pipeline: Option<String>, name: String, size: u64) -> v1::SubmitHeader {
    v1::SubmitHeader { pipeline: pipeline.unwrap_or_default(), name, size, blake3: None }
}

fn message(part: Part) -> v1::SubmitRequest {
    v1::SubmitRequest { part: Some(part) }
}

fn end(hasher: &blake3::Hasher) -> v1::SubmitRequest {
    message(Part::End(v1::SubmitEnd { blake3: Some(hasher.finalize().to_string()) }))
}

/// Sends the chunks of a file and its end. Stops early, without an error, when the call has ended.
async fn feed_file(
    mut file: File,
    path: PathBuf,
    before: Metadata,
    messages: &mpsc::Sender<v1::SubmitRequest>,
    progress: &mut impl FnMut(u64, u64),
) -> Result<(), Error> {
    let size = before.len();
    let mut hasher = blake3::Hasher::new();
    let mut offset = 0;
    progress(0, size);
    while offset < size {
        let wanted = (size - offset).min(CHUNK_BYTES as u64);
        let data = match read_chunk(&mut file, wanted as usize).await {
            Ok(data) => data,
            Err(source) => return Err(Error::File { path, source }),
        };
        if data.len() as u64 != wanted {
            return Err(Error::Changed { path });
        }
        hasher.update(&data);
        let chunk = v1::SubmitChunk { offset, data };
        if messages.send(message(Part::Chunk(chunk))).await.is_err() {
            return Ok(());
        }
        offset += wanted;
        progress(offset, size);
    }
    let after = match file.metadata().await {
        Ok(after) => after,
        Err(source) => return Err(Error::File { path, source }),
    };
    if after.len() != size || after.modified().ok() != before.modified().ok() {
        return Err(Error::Changed { path });
    }
    let _ = messages.send(end(&hasher)).await;
    Ok(())
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

/// Sends the chunks of some bytes and their end.
async fn feed_bytes(bytes: Bytes, messages: &mpsc::Sender<v1::SubmitRequest>) {
    let mut hasher = blake3::Hasher::new();
    for begin in (0..bytes.len()).step_by(CHUNK_BYTES) {
        let data = bytes.slice(begin..bytes.len().min(begin + CHUNK_BYTES));
        hasher.update(&data);
        let chunk = v1::SubmitChunk { offset: begin as u64, data };
        if messages.send(message(Part::Chunk(chunk))).await.is_err() {
            return; // the call has ended, and its answer says why
        }
    }
    let _ = messages.send(end(&hasher)).await;
}
