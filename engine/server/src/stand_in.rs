//! Stand-in: answers on the service's address while no engine does.
//!
//! Every call is refused with UNAVAILABLE, `starting` and a text, and health is NOT_SERVING. It knows
//! nothing and keeps nothing; whoever was answered here may ask again.

use std::convert::Infallible;
use std::future::{Future, Ready, ready};
use std::task::{Context, Poll};
use std::time::Duration;
use tidemill_proto::v1::{
    corrections_server, introspection_server, pipelines_server, submissions_server, tables_server,
};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tonic::Status;
use tonic::codegen::{Service, http};
use tonic::service::{AxumRouter, Routes};
use tonic::transport::Server;
use tonic_health::ServingStatus;

use crate::refusal::Refusal;
use crate::{Limits, ServeError, connections};

/// How long those who are connected may take to leave; then their connections are the caller's to drop.
const LEAVE_MAX: Duration = Duration::from_millis(500);

/// Answers every call on `listener` with the text of the moment, until `end` resolves and a moment
/// longer. What is still connected then ends with the runtime.
pub async fn stand_in(
    listener: TcpListener,
    text: watch::Receiver<String>,
    end: impl Future<Output = ()> + Send + 'static,
) -> Result<(), ServeError> {
    let limits = Limits::standard();
    let (health, health_service) = tonic_health::server::health_reporter();
    let services = [
        "",
        submissions_server::SERVICE_NAME,
        introspection_server::SERVICE_NAME,
        pipelines_server::SERVICE_NAME,
        tables_server::SERVICE_NAME,
        corrections_server::SERVICE_NAME,
    ];
    for service in services {
        health.set_service_status(service, ServingStatus::NotServing).await;
    }
    let refuse_all = Routes::from(AxumRouter::new().fallback_service(RefuseAll { text }));
    let router = Server::builder()
        .http2_keepalive_interval(Some(crate::HTTP2_KEEPALIVE.0))
        .http2_keepalive_timeout(Some(crate::HTTP2_KEEPALIVE.1))
        .max_concurrent_streams(limits.streams_per_connection_max)
        .http2_max_header_list_size(crate::HEADER_BYTES_MAX)
        .add_routes(refuse_all)
        .add_service(health_service);
    let (close, closing) = crate::closing::closing();
    let stop = async move {
        end.await;
        close.close(crate::Ending::HandsOver);
    };
    let overdue = async move {
        closing.closed().await;
        tokio::time::sleep(LEAVE_MAX).await;
    };
    let incoming = connections::accept(listener, limits.connections_max);
    tokio::select! {
        served = router.serve_with_incoming_shutdown(incoming, stop) => {
            served.map_err(ServeError::Transport)
        }
        () = overdue => Ok(()),
    }
}

/// Refuses every call.
#[derive(Clone, Debug)]
struct RefuseAll {
    text: watch::Receiver<String>,
}

impl<B> Service<http::Request<B>> for RefuseAll {
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: http::Request<B>) -> Self::Future {
        let text = self.text.borrow().clone();
        ready(Ok(Status::from(Refusal::Starting { text }).into_http()))
    }
}
