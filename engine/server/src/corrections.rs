//! Corrections: the service that tells what replacing or removing a file would change.

use tidemill_engine::engine::Target;
use tidemill_proto::v1;
use tonic::{Request, Response, Status, Streaming};

use crate::ask::ask;
use crate::backend::Backend;
use crate::closing::Closing;
use crate::config::Limits;
use crate::convert;
use crate::refusal::Refusal;
use crate::upload::Uploads;

/// The service.
#[derive(Debug)]
pub(crate) struct Corrections<B> {
    backend: B,
    limits: Limits,
    uploads: Uploads<B>,
}

impl<B: Backend> Corrections<B> {
    /// Returns the service over `backend`.
    pub(crate) fn new(backend: B, limits: Limits, closing: Closing) -> Self {
        let uploads = Uploads::new(backend.clone(), limits.clone(), closing);
        Self { backend, limits, uploads }
    }
}

#[tonic::async_trait]
impl<B: Backend> v1::corrections_server::Corrections for Corrections<B> {
    async fn try_replace(
        &self,
        request: Request<Streaming<v1::SubmitRequest>>,
    ) -> Result<Response<v1::DryRun>, Status> {
        let told = self.uploads.try_out(request.into_inner()).await?;
        Ok(Response::new(convert::corrections::dry_run(told)))
    }

    async fn try_remove(
        &self,
        request: Request<v1::RemoveRequest>,
    ) -> Result<Response<v1::DryRun>, Status> {
        let target = convert::target(request.into_inner())?;
        let id = if let Target::Id(id) = &target { *id } else { 0 };
        // It runs as long as the correction would.
        let limit = self.limits.wait_max;
        let told = ask(&self.backend, limit, move |backend| backend.try_removal(&target)).await?;
        let told = told.map_err(Refusal::from)?.ok_or(Refusal::NoSubmission { id })?;
        Ok(Response::new(convert::corrections::dry_run(told)))
    }
}
