//! Introspection: the service that shows the engine at work.

use tidemill_proto::v1;
use tonic::{Request, Response, Status};

use crate::ask::{ask, known_pipeline};
use crate::backend::Backend;
use crate::config::Limits;
use crate::convert;
use crate::refusal::Refusal;

/// The service.
#[derive(Debug)]
pub(crate) struct Introspection<B> {
    backend: B,
    limits: Limits,
}

impl<B: Backend> Introspection<B> {
    /// Returns the service over `backend`.
    pub(crate) fn new(backend: B, limits: Limits) -> Self {
        Self { backend, limits }
    }
}

#[tonic::async_trait]
impl<B: Backend> v1::introspection_server::Introspection for Introspection<B> {
    async fn operators(
        &self,
        request: Request<v1::OperatorsRequest>,
    ) -> Result<Response<v1::OperatorsResponse>, Status> {
        let wanted = request.into_inner().pipeline;
        let (generation, operators) = ask(&self.backend, self.limits.answer_max, move |backend| {
            known_pipeline(backend, wanted.as_deref())?;
            let mut operators = backend.operators();
            operators.retain(|row| wanted.as_ref().is_none_or(|name| *name == row.pipeline));
            Ok::<_, Refusal>((backend.generation(), operators))
        })
        .await??;
        let operators = operators.into_iter().map(convert::operator).collect();
        Ok(Response::new(v1::OperatorsResponse { operators, generation }))
    }

    async fn latency(
        &self,
        request: Request<v1::LatencyRequest>,
    ) -> Result<Response<v1::LatencyResponse>, Status> {
        let wanted = request.into_inner().pipeline;
        let stages = ask(&self.backend, self.limits.answer_max, move |backend| {
            known_pipeline(backend, wanted.as_deref())?;
            let mut stages = backend.latencies();
            stages.retain(|row| wanted.as_ref().is_none_or(|name| *name == row.pipeline));
            // Serialising a histogram walks all its buckets: here, not on a thread of the network.
            stages.into_iter().map(convert::latency).collect::<Result<_, Refusal>>()
        })
        .await??;
        Ok(Response::new(v1::LatencyResponse { stages }))
    }
}
