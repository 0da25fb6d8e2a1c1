//! The client commands of the tidemill binary, as a library.

mod command;
mod output;

pub use command::{ClientCommand, Common, File, Files, Latency, PhaseArgument, Stats, Submit};
pub use output::Output;

/// Runs a command and returns the exit code of the process.
pub async fn execute(_command: ClientCommand, _output: &mut Output<'_>) -> anyhow::Result<u8> {
    Ok(0)
}
