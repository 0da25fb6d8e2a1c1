//! The outside of the engine: gRPC. It translates and guards, and decides nothing.
//!
//! What is true is said by the engine, asked through [`Backend`]; this crate keeps no state that
//! anyone would miss. It never touches a worker, never makes the engine wait, and never lets a path
//! or an inner error text out.
//!
//! Map, in reading order: `config` (the limits), `backend` (what is asked of the engine), `refusal`
//! and `convert` (what is said to clients), `ask` (one question), `upload` (one file coming in),
//! `changes` (who watches and waits), then one file per service; `connections` and `closing` are the
//! two ends of the server's life; `stand_in` answers while there is no engine.

mod config;

mod backend;

mod convert;
mod refusal;

mod ask;
mod changes;
mod upload;

mod corrections;
mod introspection;
mod pipelines;
mod submissions;
mod tables;

mod closing;
mod connections;
mod stand_in;

use std::future::Future;
use std::time::Duration;

use tidemill_proto::v1::corrections_server::CorrectionsServer;
use tidemill_proto::v1::introspection_server::IntrospectionServer;
use tidemill_proto::v1::pipelines_server::PipelinesServer;
use tidemill_proto::v1::submissions_server::SubmissionsServer;
use tidemill_proto::v1::tables_server::TablesServer;
use tokio::net::TcpListener;
use tonic::transport::Server;
use tonic_health::ServingStatus;

pub use backend::Backend;
pub use closing::Ending;
pub use config::{Limits, ServerConfig};
pub use stand_in::stand_in;

/// How often a silent client is asked whether it is still there, and how long it may think about it.
const HTTP2_KEEPALIVE: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(10));

/// How much of one request and of one connection may be under way unread, in bytes.
const HTTP2_WINDOWS: (u32, u32) = (1 << 20, 4 << 20);

/// The largest header list that is read, in bytes.
const HEADER_BYTES_MAX: u32 = 16 << 10;

/// How long connections may take to close once no upload is under way. A client that does not look at
/// its connection never hears that it is to leave; it must not keep the server.
const CLOSE_MAX: Duration = Duration::from_secs(2);

/// Why the server stopped before it was asked to, or could not start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The listener or the protocol failed.
    #[error("serve grpc")]
    Transport(#[source] tonic::transport::Error),
    /// The schema could not be offered for reflection.
    #[error("offer the schema for reflection")]
    Reflection(#[source] tonic_reflection::server::Error),
}

/// Serves `backend` on `listener` until `shutdown` resolves.
///
/// Then it takes no new connections and uploads, ends waits, watches and readers of tables with
/// UNAVAILABLE, and returns when all clients have left: at the latest a moment after the last upload
/// has ended, and those have [`Limits::drain_max`].
pub async fn serve<B: Backend>(
    backend: B,
    listener: TcpListener,
    config: ServerConfig,
    shutdown: impl Future<Output = Ending> + Send + 'static,
) -> Result<(), ServeError> {
    let limits = &config.limits;
    let (close, closing) = closing::closing();

    let submissions =
        submissions::Submissions::new(backend.clone(), limits.clone(), closing.clone());
    let uploads = submissions.under_way();
    let submissions =
        SubmissionsServer::new(submissions).max_decoding_message_size(limits.message_bytes_max);
    let introspection = introspection::Introspection::new(backend.clone(), limits.clone());
    let introspection =
        IntrospectionServer::new(introspection).max_decoding_message_size(limits.message_bytes_max);
    let tables = tables::Tables::new(backend.clone(), limits.clone(), closing.clone());
    let tables = TablesServer::new(tables).max_decoding_message_size(limits.message_bytes_max);
    let corrections =
        corrections::Corrections::new(backend.clone(), limits.clone(), closing.clone());
    let corrections =
        CorrectionsServer::new(corrections).max_decoding_message_size(limits.message_bytes_max);
    let pipelines = pipelines::Pipelines::new(backend, limits.clone());
    // A pipeline file, and what comes with it.
    let pipelines =
        PipelinesServer::new(pipelines).max_decoding_message_size(2 * limits.message_bytes_max);

    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<SubmissionsServer<submissions::Submissions<B>>>().await;
    health.set_serving::<IntrospectionServer<introspection::Introspection<B>>>().await;
    health.set_serving::<PipelinesServer<pipelines::Pipelines<B>>>().await;
    health.set_serving::<TablesServer<tables::Tables<B>>>().await;
    health.set_serving::<CorrectionsServer<corrections::Corrections<B>>>().await;

    let reflection = match config.reflection {
        true => Some(
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(tidemill_proto::DESCRIPTORS)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
                .build_v1()
                .map_err(ServeError::Reflection)?,
        ),
        false => None,
    };

    let (ping, pong) = HTTP2_KEEPALIVE;
    let (stream_window, connection_window) = HTTP2_WINDOWS;
    let router = Server::builder()
        .http2_keepalive_interval(Some(ping))
        .http2_keepalive_timeout(Some(pong))
        .initial_stream_window_size(stream_window)
        .initial_connection_window_size(connection_window)
        .max_concurrent_streams(limits.streams_per_connection_max)
        .http2_max_header_list_size(HEADER_BYTES_MAX)
        .add_service(health_service)
        .add_optional_service(reflection)
        .add_service(submissions)
        .add_service(introspection)
        .add_service(pipelines)
        .add_service(tables)
        .add_service(corrections);

    tracing::info!(address = %config.grpc, "serving grpc");
    let stop = async move {
        let ending = shutdown.await;
        health.set_service_status("", ServingStatus::NotServing).await;
        close.close(ending);
    };
    let overdue = {
        let (closing, drain_max) = (closing, limits.drain_max);
        async move {
            closing.closed().await;
            let _ = tokio::time::timeout(drain_max, uploads.none()).await;
            tokio::time::sleep(CLOSE_MAX).await;
        }
    };
    let incoming = connections::accept(listener, limits.connections_max);
    tokio::select! {
        served = router.serve_with_incoming_shutdown(incoming, stop) => {
            served.map_err(ServeError::Transport)
        }
        () = overdue => {
            tracing::info!("some clients did not leave in time; their connections are cut");
            Ok(())
        }
    }
}
