//! Why a mesh did not come together, in words that say what to change.

use std::io;
use std::time::Duration;

use super::endpoint::Endpoint;

/// A process that did not come, and the last thing known about it.
#[derive(Debug)]
pub struct MissingPeer {
    /// Its index.
    pub index: usize,
    /// Where it should listen.
    pub endpoint: Endpoint,
    /// What the last attempt to reach it met; empty when it was to come to us.
    pub detail: String,
}

/// Why a mesh did not come together.
#[derive(Debug, thiserror::Error)]
pub enum MeshError {
    /// The settings cannot make a mesh.
    #[error("set up the mesh: {reason}")]
    Config {
        /// What is wrong with them.
        reason: String,
    },
    /// We cannot listen at our own endpoint.
    #[error("listen at {endpoint} as process {index}")]
    Bind {
        /// Our index.
        index: usize,
        /// Our endpoint.
        endpoint: Endpoint,
        /// What the system says.
        source: io::Error,
    },
    /// A process that holds the token runs something else.
    #[error("process {theirs} {their_value}, process {ours} {our_value}: {hint}")]
    Differs {
        /// The other process.
        theirs: usize,
        /// What it said, with its verb.
        their_value: String,
        /// This process.
        ours: usize,
        /// What we say, with its verb.
        our_value: String,
        /// What to do about it.
        hint: &'static str,
    },
    /// This process belongs to a start that is over.
    #[error(
        "process {theirs} is of generation {their_generation}, process {ours} of the older \
         generation {our_generation}: this process is a left-over of an earlier start and ends"
    )]
    Stale {
        /// The other process.
        theirs: usize,
        /// Its generation.
        their_generation: u64,
        /// This process.
        ours: usize,
        /// Our generation.
        our_generation: u64,
    },
    /// The other side has another token.
    #[error("process {index} at {endpoint} has another token: give all processes the same one")]
    Token {
        /// The process that was dialled.
        index: usize,
        /// Where it listens.
        endpoint: Endpoint,
    },
    /// Another process listens where we expected this one.
    #[error(
        "at {endpoint} answers process {found}, not process {expected}: all processes need the \
         same host file"
    )]
    WrongPlace {
        /// The process that was dialled.
        expected: usize,
        /// The process that answered.
        found: usize,
        /// Where it listens.
        endpoint: Endpoint,
    },
    /// What listens there speaks another version of this handshake.
    #[error(
        "process {index} at {endpoint} speaks version {found} of the mesh, we speak version \
         {ours}: start all processes from the same binary"
    )]
    Protocol {
        /// The process that was dialled.
        index: usize,
        /// Where it listens.
        endpoint: Endpoint,
        /// Its version.
        found: u16,
        /// Our version.
        ours: u16,
    },
    /// The other side refuses for a reason that only it can see.
    #[error("process {index} at {endpoint} refuses us: {reason}")]
    Refused {
        /// The process that was dialled.
        index: usize,
        /// Where it listens.
        endpoint: Endpoint,
        /// Its words.
        reason: String,
    },
    /// The deadline passed.
    #[error("{}", missing_text(peers, *waited, refused))]
    Missing {
        /// Who did not come.
        peers: Vec<MissingPeer>,
        /// How long we waited.
        waited: Duration,
        /// Connections that were refused meanwhile, and why.
        refused: Vec<String>,
    },
    /// The system refuses something the start needs.
    #[error("{action}")]
    System {
        /// What was being done.
        action: &'static str,
        /// What the system says.
        source: io::Error,
    },
    /// Timely could not take the connections.
    #[error("hand the connections to the dataflow")]
    Handover {
        /// What the system says.
        source: io::Error,
    },
}

impl MeshError {
    /// Returns whether the same processes would meet the same again: what they run differs, or where.
    pub const fn is_lasting(&self) -> bool {
        !matches!(
            self,
            MeshError::Missing { .. }
                | MeshError::System { .. }
                | MeshError::Handover { .. }
                | MeshError::Stale { .. }
        )
    }
}

fn missing_text(peers: &[MissingPeer], waited: Duration, refused: &[String]) -> String {
    let names: Vec<String> = peers
        .iter()
        .map(|peer| match peer.detail.as_str() {
            "" => format!("process {} ({})", peer.index, peer.endpoint),
            detail => format!("process {} ({}: {detail})", peer.index, peer.endpoint),
        })
        .collect();
    let mut text = format!("after {waited:?} still missing: {}", names.join(", "));
    if !refused.is_empty() {
        text.push_str("; refused meanwhile: ");
        text.push_str(&refused.join("; "));
    }
    text
}
