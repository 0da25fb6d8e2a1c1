//! Proxy: passes bytes on between client and server, and cuts each connection after so many.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::{TcpListener, TcpStream};

/// A proxy in front of a server.
pub(crate) struct Cutting {
    /// Where it listens.
    pub(crate) address: String,
    cuts: Arc<AtomicUsize>,
}

impl Cutting {
    /// Starts a proxy that cuts each connection once the client has sent `bytes` over it.
    pub(crate) async fn start(server: &str, bytes: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let server = server.trim_start_matches("http://").to_owned();
        let cuts = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&cuts);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (server, cuts) = (server.clone(), Arc::clone(&counted));
                tokio::spawn(async move {
                    if pass(client, &server, bytes).await {
                        cuts.fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
        });
        Self { address, cuts }
    }

    /// Returns how many connections were cut.
    pub(crate) fn cuts(&self) -> usize {
        self.cuts.load(Ordering::SeqCst)
    }
}

/// Passes bytes on; returns whether it cut the connection.
async fn pass(client: TcpStream, server: &str, bytes: u64) -> bool {
    let Ok(server) = TcpStream::connect(server).await else { return false };
    let (from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let answers = tokio::spawn(async move { copy(&mut from_server, &mut to_client).await });
    let sent = copy(&mut from_client.take(bytes), &mut to_server).await.unwrap_or(0);
    let _ = to_server.shutdown().await;
    answers.abort();
    sent == bytes
}
