//! Pipelines: the service that shows what runs, and lets it wait.

use tidemill_engine::control::ControlError;
use tidemill_engine::engine::Subject;
use tidemill_proto::v1;
use tonic::{Request, Response, Status};

use crate::ask::{ask, known_pipeline, names};
use crate::backend::Backend;
use crate::config::Limits;
use crate::convert;
use crate::refusal::Refusal;

/// The service.
#[derive(Debug)]
pub(crate) struct Pipelines<B> {
    backend: B,
    limits: Limits,
}

impl<B: Backend> Pipelines<B> {
    /// Returns the service over `backend`.
    pub(crate) fn new(backend: B, limits: Limits) -> Self {
        Self { backend, limits }
    }

    /// Pauses or resumes, and says what of the pipeline is held back then.
    async fn hold(
        &self,
        request: Request<v1::HoldRequest>,
        change: fn(&B, &Subject) -> Result<bool, ControlError>,
    ) -> Result<Response<v1::HoldResponse>, Status> {
        let request = request.into_inner();
        let answer = ask(&self.backend, self.limits.answer_max, move |backend| {
            let subject = subject(backend, request)?;
            let changed = change(backend, &subject)?;
            Ok::<_, Refusal>(held(backend, &subject, changed))
        });
        Ok(Response::new(answer.await??))
    }
}

#[tonic::async_trait]
impl<B: Backend> v1::pipelines_server::Pipelines for Pipelines<B> {
    async fn list(
        &self,
        _request: Request<v1::ListPipelinesRequest>,
    ) -> Result<Response<v1::ListPipelinesResponse>, Status> {
        let reports = ask(&self.backend, self.limits.answer_max, |backend| backend.pipelines());
        let pipelines = reports.await?.into_iter().map(convert::pipeline_in_list).collect();
        Ok(Response::new(v1::ListPipelinesResponse { pipelines }))
    }

    async fn get(
        &self,
        request: Request<v1::GetPipelineRequest>,
    ) -> Result<Response<v1::Pipeline>, Status> {
        let name = request.into_inner().name;
        let found = ask(&self.backend, self.limits.answer_max, move |backend| {
            let mut reports = backend.pipelines();
            if !name.is_empty() {
                known_pipeline(backend, Some(&name))?;
                reports.retain(|report| report.name == name);
            } else if reports.len() != 1 {
                return Err(Refusal::PipelineNeeded { running: names(backend).join(", ") });
            }
            // It may have stopped between two looks.
            let report = reports.pop().ok_or(Refusal::Draining)?;
            let shape = backend.shape_of(&report.name).ok_or(Refusal::Draining)?;
            Ok((report, shape))
        });
        let (report, shape) = found.await??;
        Ok(Response::new(convert::pipeline(report, shape)))
    }

    async fn deploy(
        &self,
        request: Request<v1::DeployRequest>,
    ) -> Result<Response<v1::DeployResponse>, Status> {
        let deploy = convert::deploy::request(request.into_inner())?;
        let limit = deploy.patience.saturating_add(self.limits.answer_max);
        let report = ask(&self.backend, limit, move |backend| {
            let report = backend.deploy(&deploy);
            report.map_err(|error| convert::deploy::refusal(error, &deploy.yaml))
        });
        Ok(Response::new(convert::deploy::report(report.await??)))
    }

    async fn undeploy(
        &self,
        request: Request<v1::UndeployRequest>,
    ) -> Result<Response<v1::UndeployResponse>, Status> {
        let undeploy = convert::deploy::undeploy_request(request.into_inner())?;
        let limit = undeploy.patience.saturating_add(self.limits.answer_max);
        let report = ask(&self.backend, limit, move |backend| {
            known_pipeline(backend, Some(&undeploy.pipeline))?;
            backend.undeploy(&undeploy).map_err(Refusal::Deploy)
        });
        Ok(Response::new(convert::deploy::undeploy_report(report.await??)))
    }

    async fn pause(
        &self,
        request: Request<v1::HoldRequest>,
    ) -> Result<Response<v1::HoldResponse>, Status> {
        self.hold(request, B::pause).await
    }

    async fn resume(
        &self,
        request: Request<v1::HoldRequest>,
    ) -> Result<Response<v1::HoldResponse>, Status> {
        self.hold(request, B::resume).await
    }

    async fn drain(
        &self,
        request: Request<v1::DrainRequest>,
    ) -> Result<Response<v1::DrainResponse>, Status> {
        let v1::DrainRequest { pipeline, then_stop } = request.into_inner();
        let answer = ask(&self.backend, self.limits.answer_max, move |backend| {
            let pipeline = Some(&*pipeline).filter(|name| !name.is_empty());
            let pipelines = backend.drain(pipeline)?;
            let done = pipelines.iter().all(|one| one.done);
            if done && then_stop {
                backend.stop_drained(pipeline)?;
            }
            let pipelines = pipelines.into_iter().map(convert::draining).collect();
            Ok::<_, Refusal>(v1::DrainResponse { pipelines, done })
        });
        Ok(Response::new(answer.await??))
    }
}

/// Returns what is to be paused or resumed; the pipeline may be left out when only one runs.
fn subject<B: Backend>(backend: &B, request: v1::HoldRequest) -> Result<Subject, Refusal> {
    let v1::HoldRequest { mut pipeline, part } = request;
    if pipeline.is_empty() {
        let running = names(backend);
        pipeline = match &running[..] {
            [only] => only.clone(),
            _ => return Err(Refusal::PipelineNeeded { running: running.join(", ") }),
        };
    }
    Ok(Subject { pipeline, part: Some(part).filter(|part| !part.is_empty()) })
}

/// Returns what of a pipeline is held back now.
fn held<B: Backend>(backend: &B, subject: &Subject, changed: bool) -> v1::HoldResponse {
    let pipelines = backend.pipelines().into_iter();
    let mine = pipelines.filter(|one| one.name == subject.pipeline).flat_map(|one| one.holds);
    v1::HoldResponse { changed, holds: mine.map(convert::hold).collect() }
}
