//! Config: where the server listens and the limits it holds clients to.
//!
//! Every queue, message, wait and upload of the server has its bound here, with its unit.

use std::net::SocketAddr;
use std::time::Duration;

/// What the server needs to know.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// The address the listener was bound to, for the log.
    pub grpc: SocketAddr,
    /// Whether clients may ask for the schema (gRPC reflection).
    pub reflection: bool,
    /// The bounds of everything.
    pub limits: Limits,
}

impl ServerConfig {
    /// Returns the configuration with standard limits and without reflection.
    pub fn new(grpc: SocketAddr) -> Self {
        Self { grpc, reflection: false, limits: Limits::standard() }
    }
}

/// The bounds of the server. All of them hold at once.
#[derive(Clone, Debug)]
pub struct Limits {
    /// The largest file that is taken, in bytes.
    pub upload_bytes_max: u64,
    /// How many uploads are received at once; others wait for their turn.
    pub uploads_max: usize,
    /// How long an upload may wait for its turn, and then for each of its messages.
    pub upload_idle: Duration,
    /// The mean rate below which an upload is cut off, in bytes a second.
    pub upload_rate_min: u64,
    /// How long what came of an upload that broke off is kept, if it has an id.
    pub kept_for: Duration,
    /// How many bytes of such uploads are kept, at most; the oldest go first.
    pub kept_bytes_max: u64,
    /// How many bytes stay free on the disk of the spool, at least.
    pub disk_free_bytes_min: u64,
    /// The largest message that is read from a client, in bytes.
    pub message_bytes_max: usize,
    /// How long a question may take to answer.
    pub answer_max: Duration,
    /// How long a retry may take: its file is read once before it is accepted.
    pub retry_max: Duration,
    /// How long `Wait` waits at most.
    pub wait_max: Duration,
    /// How many changes a watcher may fall behind before its stream is ended.
    pub watch_backlog: usize,
    /// How many submissions one page or one watcher may name.
    pub page_max: usize,
    /// How many readers of tables are served at once; others are refused.
    pub table_readers_max: usize,
    /// How long a reader of a table may let a message wait.
    pub reader_idle: Duration,
    /// How long the rows of a table may take to be read: as long, an old version of it is held.
    pub read_max: Duration,
    /// How many connections are served at once; others wait to be accepted.
    pub connections_max: usize,
    /// How many requests one connection may have open at once.
    pub streams_per_connection_max: u32,
    /// How long a stopping server lets uploads finish.
    pub drain_max: Duration,
}

impl Limits {
    /// Returns the limits that are in force unless configured otherwise.
    pub const fn standard() -> Self {
        Self {
            upload_bytes_max: 64 << 30,
            uploads_max: 64,
            upload_idle: Duration::from_secs(30),
            upload_rate_min: 1 << 10,
            kept_for: tidemill_engine::engine::spool::KEPT_FOR,
            kept_bytes_max: 64 << 30,
            disk_free_bytes_min: 256 << 20,
            message_bytes_max: 1 << 20,
            answer_max: Duration::from_secs(10),
            retry_max: Duration::from_secs(600),
            wait_max: Duration::from_secs(3600),
            watch_backlog: 8192,
            page_max: 1000,
            table_readers_max: 64,
            reader_idle: Duration::from_secs(30),
            read_max: Duration::from_secs(600),
            connections_max: 1024,
            streams_per_connection_max: 128,
            drain_max: Duration::from_secs(10),
        }
    }
}
