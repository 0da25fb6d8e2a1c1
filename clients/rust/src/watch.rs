//! Watch: submissions as they change, as a stream.

use std::pin::Pin;
use std::task::{Context, Poll};

use tidemill_proto::v1;
use tokio_stream::{Stream, StreamExt};
use tonic::Streaming;

use crate::convert;
use crate::error::Error;
use crate::model::Submission;

/// Which changes to watch.
#[derive(Clone, Debug, Default)]
pub struct WatchFilter {
    /// Only of this pipeline.
    pub pipeline: Option<String>,
    /// Only of these submissions, at most 1000; empty means all.
    pub ids: Vec<u64>,
}

/// A stream of submissions, one item for each change. It ends after the first error.
#[derive(Debug)]
pub struct Watch {
    changes: Streaming<v1::Submission>,
}

impl Watch {
    pub(crate) fn new(changes: Streaming<v1::Submission>) -> Self {
        Self { changes }
    }

    /// Returns the next change; `None` when the stream has ended.
    pub async fn next(&mut self) -> Option<Result<Submission, Error>> {
        StreamExt::next(self).await
    }
}

impl Stream for Watch {
    type Item = Result<Submission, Error>;

    fn poll_next(mut self: Pin<&mut Self>, ctx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = Pin::new(&mut self.changes).poll_next(ctx);
        next.map(|next| next.map(|change| convert::submission(change?)))
    }
}
