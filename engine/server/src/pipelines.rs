//! Pipelines: the service that shows what runs.

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
        let report = ask(&self.backend, self.limits.answer_max, move |backend| {
            let mut reports = backend.pipelines();
            if name.is_empty() {
                return match (reports.pop(), reports.is_empty()) {
                    (Some(only), true) => Ok(only),
                    _ => Err(Refusal::PipelineNeeded { running: names(backend).join(", ") }),
                };
            }
            known_pipeline(backend, Some(&name))?;
            // It may have stopped between the two looks.
            let found = reports.into_iter().find(|report| report.name == name);
            found.ok_or(Refusal::Draining)
        })
        .await??;
        Ok(Response::new(convert::pipeline(report)))
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
}
