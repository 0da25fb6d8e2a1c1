//! Front: a server over the fake engine on a free port, and ways to talk to it.

use tidemill_client::Client;
use tidemill_proto::v1;
use tidemill_proto::v1::submissions_client::SubmissionsClient;
use tidemill_proto::v1::submit_request::Part;
use tidemill_server::{Ending, Limits, ServeError, ServerConfig, serve};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::Status;
use tonic::transport::Channel;

use crate::fake::Fake;

/// A running server.
pub(crate) struct Front {
    /// The engine behind it.
    pub(crate) engine: Fake,
    /// Where it listens.
    pub(crate) address: String,
    stop: oneshot::Sender<()>,
    served: JoinHandle<Result<(), ServeError>>,
}

impl Front {
    /// Starts a server with standard limits.
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// Starts a server with other settings.
    pub(crate) async fn start_with(adjust: impl FnOnce(&mut ServerConfig)) -> Self {
        let engine = Fake::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let grpc = listener.local_addr().unwrap();
        let mut config = ServerConfig::new(grpc);
        config.limits = Limits { disk_free_bytes_min: 0, ..Limits::standard() };
        adjust(&mut config);
        let (stop, stopped) = oneshot::channel();
        let shutdown = async move {
            let _ = stopped.await;
            Ending::Stops
        };
        let served = tokio::spawn(serve(engine.clone(), listener, config, shutdown));
        Self { engine, address: format!("http://{grpc}"), stop, served }
    }

    /// Returns the real client.
    pub(crate) async fn client(&self) -> Client {
        Client::connect(&self.address).await.unwrap()
    }

    /// Returns a connection without the manners of the real client.
    pub(crate) async fn channel(&self) -> Channel {
        Channel::from_shared(self.address.clone()).unwrap().connect().await.unwrap()
    }

    /// Sends just these messages.
    pub(crate) async fn send(&self, parts: Vec<Part>) -> Result<v1::Submission, Status> {
        let messages: Vec<_> =
            parts.into_iter().map(|part| v1::SubmitRequest { part: Some(part) }).collect();
        let mut client = SubmissionsClient::new(self.channel().await);
        Ok(client.submit(tokio_stream::iter(messages)).await?.into_inner())
    }

    /// Tells the server to stop, without waiting for it.
    pub(crate) fn stop(self) -> JoinHandle<Result<(), ServeError>> {
        let _ = self.stop.send(());
        self.served
    }
}

/// Returns a header for the pipeline `logs`.
pub(crate) fn header(name: &str, size: u64) -> Part {
    let name = name.to_owned();
    Part::Header(v1::SubmitHeader { pipeline: "logs".into(), name, size, ..Default::default() })
}

/// Returns a chunk.
pub(crate) fn chunk(offset: u64, data: &[u8]) -> Part {
    Part::Chunk(v1::SubmitChunk { offset, data: data.to_vec().into() })
}

/// Returns an end without a hash.
pub(crate) fn bare_end() -> Part {
    Part::End(v1::SubmitEnd { blake3: None })
}

/// Returns an end with a hash.
pub(crate) fn end(blake3: impl ToString) -> Part {
    Part::End(v1::SubmitEnd { blake3: Some(blake3.to_string()) })
}

/// Returns the stable word of an error.
pub(crate) fn word(status: &Status) -> String {
    let word = status.metadata().get(tidemill_proto::CODE_KEY);
    word.map_or("-", |word| word.to_str().unwrap()).to_owned()
}

/// Lets others run until something is true.
pub(crate) async fn until(mut condition: impl FnMut() -> bool) {
    while !condition() {
        tokio::task::yield_now().await;
    }
}
