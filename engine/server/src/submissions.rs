//! Submissions: the service that takes files and tells what became of them.

use std::collections::HashMap;
use std::sync::Arc;

use tidemill_engine::engine::Target;
use tidemill_engine::report::{Phase, SubmissionReport};
use tidemill_proto::v1;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::ask::ask;
use crate::backend::Backend;
use crate::changes::Changes;
use crate::closing::Closing;
use crate::config::Limits;
use crate::convert;
use crate::refusal::Refusal;
use crate::upload::{UnderWay, Uploads};

/// How many changes may wait in one watcher's stream before the watcher counts as behind.
const WATCH_IN_FLIGHT: usize = 64;

/// The service.
#[derive(Debug)]
pub(crate) struct Submissions<B> {
    backend: B,
    limits: Limits,
    uploads: Uploads<B>,
    changes: Arc<Changes>,
    closing: Closing,
}

impl<B: Backend> Submissions<B> {
    /// Returns the service over `backend`.
    pub(crate) fn new(backend: B, limits: Limits, closing: Closing) -> Self {
        let changes = Changes::new(limits.watch_backlog);
        backend.observe(changes.observer());
        let uploads = Uploads::new(backend.clone(), limits.clone(), closing.clone());
        Self { backend, limits, uploads, changes, closing }
    }

    /// Returns what tells when no upload is under way.
    pub(crate) fn under_way(&self) -> UnderWay {
        self.uploads.under_way()
    }

    async fn report(&self, id: u64) -> Result<SubmissionReport, Refusal> {
        ask(&self.backend, self.limits.answer_max, move |backend| backend.submission(id))
            .await??
            .ok_or(Refusal::NoSubmission { id })
    }

    async fn reports(&self, ids: Vec<u64>) -> Result<Vec<SubmissionReport>, Refusal> {
        ask(&self.backend, self.limits.answer_max, move |backend| {
            let report = |id| backend.submission(id)?.ok_or(Refusal::NoSubmission { id });
            ids.into_iter().map(report).collect()
        })
        .await?
    }

    async fn wait_until_final(&self, request: v1::WaitRequest) -> Result<v1::Submission, Refusal> {
        let id = request.id;
        let limit = self.limits.wait_max;
        let timeout = convert::timeout_of(request.timeout)?.unwrap_or(limit).min(limit);
        // Listen first, then look: a change between the two is heard.
        let mut waiter = self.changes.wait(id);
        let now = self.report(id).await?;
        if now.phase.is_final() {
            return Ok(convert::submission(&now));
        }
        tokio::select! {
            done = waiter.done() => match done {
                Some(report) => Ok(convert::submission(&report)),
                None => Err(self.closing.refusal()),
            },
            () = self.closing.closed() => Err(self.closing.refusal()),
            () = tokio::time::sleep(timeout) => {
                let phase = self.report(id).await?;
                match phase.phase.is_final() {
                    true => Ok(convert::submission(&phase)),
                    false => Err(Refusal::StillOpen {
                        id,
                        phase: phase.phase.word(),
                        waited: timeout,
                    }),
                }
            }
        }
    }

    async fn watcher(&self, request: v1::WatchRequest) -> Result<Watcher, Refusal> {
        if request.ids.len() > self.limits.page_max {
            return Err(Refusal::Argument { field: "ids", reason: "are too many for one watcher" });
        }
        let changes = self.changes.watch();
        let begin = self.reports(request.ids).await?;
        let open = begin.iter().map(|report| (report.id, progress(report))).collect();
        Ok(Watcher {
            // What was queued up to here may be older than `begin`.
            maybe_old: changes.len(),
            changes,
            pipeline: request.pipeline,
            begin,
            open,
            closing: self.closing.clone(),
        })
    }
}

#[tonic::async_trait]
impl<B: Backend> v1::submissions_server::Submissions for Submissions<B> {
    type WatchStream = ReceiverStream<Result<v1::Submission, Status>>;

    async fn submit(
        &self,
        request: Request<Streaming<v1::SubmitRequest>>,
    ) -> Result<Response<v1::Submission>, Status> {
        let reports = self.uploads.receive(request.into_inner()).await?;
        let mut all = reports.iter().map(convert::submission);
        let mut first = all.next().ok_or(Refusal::Internal)?;
        first.also = all.collect();
        Ok(Response::new(first))
    }

    async fn resume(
        &self,
        request: Request<v1::ResumeRequest>,
    ) -> Result<Response<v1::ResumeResponse>, Status> {
        let id = convert::client_id(&request.into_inner().client_submission_id)?;
        let standing = self.uploads.resume(id).await?;
        Ok(Response::new(v1::ResumeResponse {
            received: standing.received,
            submission: standing.submission.as_ref().map(convert::submission),
        }))
    }

    async fn wait(
        &self,
        request: Request<v1::WaitRequest>,
    ) -> Result<Response<v1::Submission>, Status> {
        Ok(Response::new(self.wait_until_final(request.into_inner()).await?))
    }

    async fn get(
        &self,
        request: Request<v1::GetSubmissionRequest>,
    ) -> Result<Response<v1::Submission>, Status> {
        let report = self.report(request.into_inner().id).await?;
        let mut answer = convert::submission(&report);
        if report.phase == Phase::Committed {
            let receipt = ask(&self.backend, self.limits.answer_max, move |backend| {
                backend.receipt(report.id)
            });
            answer.receipt = receipt.await?.map_err(Refusal::from)?.map(convert::receipt);
        }
        Ok(Response::new(answer))
    }

    async fn list(
        &self,
        request: Request<v1::ListSubmissionsRequest>,
    ) -> Result<Response<v1::ListSubmissionsResponse>, Status> {
        let filter = convert::filter(request.into_inner(), self.limits.page_max)?;
        let limit = filter.limit;
        let reports =
            ask(&self.backend, self.limits.answer_max, move |backend| backend.submissions(&filter))
                .await?
                .map_err(Refusal::from)?;
        let full = reports.len() >= limit;
        Ok(Response::new(v1::ListSubmissionsResponse {
            next_before: reports.last().filter(|_| full).map(|report| report.id),
            submissions: reports.iter().map(convert::submission).collect(),
        }))
    }

    async fn retry(
        &self,
        request: Request<v1::RetryRequest>,
    ) -> Result<Response<v1::Submission>, Status> {
        let id = request.into_inner().id;
        let limit = self.limits.retry_max;
        let report = ask(&self.backend, limit, move |backend| backend.retry(id)).await?;
        let report = report.map_err(Refusal::from)?.ok_or(Refusal::NoSubmission { id })?;
        Ok(Response::new(convert::submission(&report)))
    }

    async fn remove(
        &self,
        request: Request<v1::RemoveRequest>,
    ) -> Result<Response<v1::Submission>, Status> {
        let target = convert::target(request.into_inner())?;
        let id = if let Target::Id(id) = &target { *id } else { 0 };
        let limit = self.limits.answer_max;
        let report = ask(&self.backend, limit, move |backend| backend.remove(&target)).await?;
        let report = report.map_err(Refusal::from)?.ok_or(Refusal::NoSubmission { id })?;
        Ok(Response::new(convert::submission(&report)))
    }

    async fn watch(
        &self,
        request: Request<v1::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let watcher = self.watcher(request.into_inner()).await?;
        let (sender, receiver) = mpsc::channel(WATCH_IN_FLIGHT);
        tokio::spawn(watcher.run(sender));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

/// One open watch.
struct Watcher {
    changes: broadcast::Receiver<Arc<SubmissionReport>>,
    /// How many of the next changes may be older than `begin`.
    maybe_old: usize,
    pipeline: Option<String>,
    begin: Vec<SubmissionReport>,
    /// The asked ids that are not final, and how far each was at the beginning.
    open: HashMap<u64, (Phase, u64)>,
    closing: Closing,
}

/// Returns what only grows while a submission goes on.
fn progress(report: &SubmissionReport) -> (Phase, u64) {
    (report.phase, report.bytes_read)
}

impl Watcher {
    /// Sends changes until the watcher leaves, lags, has seen all it asked for, or the server stops.
    async fn run(mut self, sender: mpsc::Sender<Result<v1::Submission, Status>>) {
        let everything = self.begin.is_empty();
        for report in std::mem::take(&mut self.begin) {
            if self.is_of_pipeline(&report)
                && sender.send(Ok(convert::submission(&report))).await.is_err()
            {
                return;
            }
        }
        self.open.retain(|_, (phase, _)| !phase.is_final());
        while everything || !self.open.is_empty() {
            let change = tokio::select! {
                change = self.changes.recv() => change.map_err(|error| match error {
                    RecvError::Lagged(missed) => Refusal::Lagged { missed },
                    RecvError::Closed => self.closing.refusal(),
                }),
                () = self.closing.closed() => Err(self.closing.refusal()),
                () = sender.closed() => return,
            };
            let sent = match change {
                Ok(report) if self.wants(&report, everything) => {
                    sender.send(Ok(convert::submission(&report))).await
                }
                Ok(_) => continue,
                Err(refusal) => {
                    // The stream ends here; an error means that its reader is gone already.
                    let _ = sender.send(Err(refusal.into())).await;
                    return;
                }
            };
            if sent.is_err() {
                return;
            }
        }
    }

    fn is_of_pipeline(&self, report: &SubmissionReport) -> bool {
        self.pipeline.as_ref().is_none_or(|wanted| *wanted == report.pipeline)
    }

    /// Returns whether to send a change, and notes what became final.
    fn wants(&mut self, report: &SubmissionReport, everything: bool) -> bool {
        let maybe_old = self.maybe_old > 0;
        self.maybe_old = self.maybe_old.saturating_sub(1);
        if everything {
            return self.is_of_pipeline(report);
        }
        let Some(begin) = self.open.get(&report.id) else { return false };
        if maybe_old && progress(report) <= *begin {
            return false;
        }
        if report.phase.is_final() {
            self.open.remove(&report.id);
        }
        self.is_of_pipeline(report)
    }
}
