//! Mesh: the connections between the processes of one run, proven before timely gets them.
//!
//! Owns the start of a generation: who may join, that everybody runs the same thing, and one control
//! connection of each process to process 0. Each side of each connection proves that it holds the
//! shared token, without sending it, and then says what it runs; any difference refuses the
//! connection with both values named. Whatever else connects meanwhile is dropped and delays nobody.
//!
//! Never reconnects: a lost process ends the generation, and the next start is a new mesh. Never
//! encrypts: the handshake proves who is there, the bytes after it are readable and, to one who can
//! change packets on the way, changeable. Between hosts the network must be trusted or tunnelled.

mod connect;
pub mod control;
pub mod endpoint;
mod error;
mod handshake;
mod heartbeat;
pub mod socket;

use std::any::Any;
use std::time::Duration;

use timely::communication::Hooks;
use timely::communication::allocator::zero_copy::initialize::initialize_networking_from_sockets;
use timely::communication::allocator::{AllocatorBuilder, ProcessBuilder};

pub use connect::connect;
pub use control::{Control, ControlError, ControlEvent, ControlSender, MESSAGE_BYTES_MAX};
pub use endpoint::{Endpoint, HostfileError, parse_hostfile};
pub use error::{MeshError, MissingPeer};
pub use heartbeat::Heartbeat;
pub use socket::Socket;

/// The shortest token that is taken, in bytes.
pub const TOKEN_BYTES_MIN: usize = 16;

/// How many emptied buffers timely keeps for each peer; without a limit it keeps every one.
const SPARE_BUFFERS: usize = 2;

/// What one process brings to the mesh.
#[derive(Clone)]
pub struct MeshConfig {
    /// Which of the processes this is.
    pub index: usize,
    /// Where each process listens, in the order of their indices.
    pub endpoints: Vec<Endpoint>,
    /// Workers in each process.
    pub workers: usize,
    /// The secret that all processes share: at least [`TOKEN_BYTES_MIN`] bytes, never sent.
    pub token: Vec<u8>,
    /// A hash over everything that decides what the dataflow is.
    pub plan_hash: [u8; 32],
    /// The version of this binary.
    pub binary_version: String,
    /// The number of this start: process 0 must give it, the others learn it from process 0. Another
    /// process that gives one insists on it.
    pub generation: Option<u64>,
    /// How long to wait for all the others.
    pub deadline: Duration,
    /// How the processes show each other that they live.
    pub heartbeat: Heartbeat,
}

/// What timely takes: builders for `timely::execute::execute_from`, the guard to give it, which on
/// drop waits for timely's network threads, and the control connections, which timely does not see.
pub type Builders = (Vec<AllocatorBuilder>, Box<dyn Any + Send>, Control);

/// Proven connections to all other processes.
#[derive(Debug)]
pub struct Mesh {
    /// The number of this start, the same in all processes.
    pub generation: u64,
    /// One connection per process, in order; `None` at our own place.
    pub sockets: Vec<Option<Socket>>,
    /// The small messages between process 0 and the others.
    pub control: Control,
    /// Our own place.
    index: usize,
    /// Workers in each process, as all of them agreed.
    workers: usize,
}

impl Mesh {
    /// Hands the connections to timely.
    ///
    /// A peer that dies panics timely's network threads and workers; the caller's panic hook must end
    /// the process.
    pub fn into_builders(self, workers: usize) -> Result<Builders, MeshError> {
        if workers != self.workers {
            return Err(MeshError::Config {
                reason: format!(
                    "the processes agreed on {} workers each, {workers} were asked for",
                    self.workers
                ),
            });
        }
        let mut hooks = Hooks::default();
        hooks.refill.limit = Some(SPARE_BUFFERS);
        let local = ProcessBuilder::new_typed_vector(workers, hooks.refill.clone(), None);
        if self.sockets.len() == 1 {
            let builders = local.into_iter().map(AllocatorBuilder::Process).collect();
            return Ok((builders, Box::new(()), self.control));
        }
        let (builders, guard) =
            initialize_networking_from_sockets(local, self.sockets, self.index, workers, hooks)
                .map_err(|source| MeshError::Handover { source })?;
        let builders = builders.into_iter().map(AllocatorBuilder::Tcp).collect();
        Ok((builders, Box::new(guard), self.control))
    }
}
