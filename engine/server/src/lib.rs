//! The outside of the engine: gRPC. It translates and guards, and decides nothing.

mod backend;
mod config;

use std::future::Future;

use tokio::net::TcpListener;

pub use backend::Backend;
pub use config::{Limits, ServerConfig};

/// Why the server stopped before it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The listener or the protocol failed.
    #[error("serve grpc")]
    Transport(#[source] tonic::transport::Error),
}

/// Serves `backend` on `listener` until `shutdown` resolves.
pub async fn serve<B: Backend>(
    _backend: B,
    _listener: TcpListener,
    _config: ServerConfig,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), ServeError> {
    shutdown.await;
    Ok(())
}
