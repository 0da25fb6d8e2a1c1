//! The client commands of the tidemill binary, as a library.
//!
//! Each command asks a running server one thing and prints the answer, as text for people or with
//! `--json` for programs. This crate knows the client and never the engine; it decides nothing.
//!
//! Map: `command` (flags and help), `output` (where to write), one file per command, `table`,
//! `human`, `json` and `cells` (how things are written).

mod command;
mod output;

mod control;
mod deploy;
mod dry_run;
mod files;
mod latency;
mod receipt;
mod remove;
mod retry;
mod stats;
mod submit;
mod tables;
mod undeploy;

mod cells;
mod human;
mod json;
mod table;

use std::io;

pub use command::{
    ClientCommand, Common, Deploy, Drain, File, Files, FlatFile, Latency, ParamFlags, Pause,
    PhaseArgument, Remove, Retry, Stats, Submit, TableRows, Tables, Undeploy,
};
pub use output::Output;

/// The exit code when something failed.
const FAILED: u8 = 1;

/// The exit code of a mistake in a pipeline file.
const USAGE: u8 = 2;

/// The exit code when a file that was waited for went to quarantine.
const QUARANTINED: u8 = 3;

/// Runs a command and returns the exit code of the process: 0 fine, 1 some file could not be
/// submitted, 3 some file that was waited for went to quarantine.
///
/// A reader that stops reading (`tidemill files | head -1`) ends the command without an error.
pub async fn execute(command: ClientCommand, output: &mut Output<'_>) -> anyhow::Result<u8> {
    let done = match command {
        ClientCommand::Submit(command) => submit::run(command, output).await,
        ClientCommand::Files(command) => files::list(command, output).await,
        ClientCommand::File(command) => files::show(command, output).await,
        ClientCommand::Retry(command) => retry::run(command, output).await,
        ClientCommand::Remove(command) => remove::run(command, output).await,
        ClientCommand::Stats(command) => stats::run(command, output).await,
        ClientCommand::Latency(command) => latency::run(command, output).await,
        ClientCommand::Tables(command) => tables::list(command, output).await,
        ClientCommand::Table(command) => tables::rows(command, output).await,
        ClientCommand::Deploy(command) => deploy::run(command, output).await,
        ClientCommand::Undeploy(command) => undeploy::run(command, output).await,
        ClientCommand::Pause(command) => control::pause(command, output).await,
        ClientCommand::Resume(command) => control::resume(command, output).await,
        ClientCommand::Drain(command) => control::drain(command, output).await,
    };
    let done = done.and_then(|code| {
        output.out.flush()?;
        Ok(code)
    });
    match done {
        // Only writing gives a bare io error; those of the network come inside the client's.
        Err(error) if is_broken_pipe(&error) => Ok(0),
        done => done,
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
