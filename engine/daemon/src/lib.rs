//! The daemon: flags, settings, build the parts, run, drain. It decides nothing itself.
//!
//! Map: [`flags`] (what can be typed), [`settings`] (what is in force, and from where), [`run`] (one
//! process of a run), [`pipeline`] (a pipeline file and what belongs to it), [`supervisor`] (several processes on this host), [`author`] (check, graph,
//! config: what a pipeline's author asks), [`mod@new`] (a first pipeline
//! from samples), [`mod@test`] (the tests of pipeline files), [`mod@doctor`] (what is wrong with a home), [`torture`]
//! (kills a pipeline again and again, and compares).
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod flags;
pub mod settings;

pub mod pipeline;

pub mod author;
mod deployed;
pub mod doctor;
pub mod new;
pub mod progress;
pub mod run;
mod secrets;
pub mod supervisor;
pub mod test;
pub mod torture;

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory, Parser};
use tidemill_engine::fault::FaultKind;

use crate::flags::{Command, Tidemill};

/// The exit code of a mistake in flags, settings or a pipeline file.
pub const USAGE: u8 = 2;

/// The exit code of an internal mistake: some thread panicked.
const PANICKED: i32 = 70;

/// How the message of timely's own threads begins when the connection to a process breaks. They
/// have no other way to tell.
const PEER_GONE: &str = "timely communication error";

/// How long a process that lost a connection waits to hear which process is lost.
const VERDICT_MAX: Duration = Duration::from_millis(500);

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    end_on_panic();
    let outcome = match Tidemill::parse().command {
        Command::Run(flags) => run::run(flags),
        Command::Check(flags) => author::check(&flags),
        Command::Graph(flags) => author::graph(&flags),
        Command::New(flags) => new::new(&flags),
        Command::Test(flags) => test::test(&flags),
        Command::Config(flags) => author::config(&flags),
        Command::Schema => say(tidemill_engine::schema::text().as_bytes()).map(|()| 0),
        Command::Torture(flags) => torture::torture(&flags),
        Command::Doctor(flags) => doctor::doctor(&flags),
        Command::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut Tidemill::command(), "tidemill", &mut text);
            say(&text).map(|()| 0)
        }
        Command::Client(command) => match deployed::flat(command) {
            Ok(Some(command)) => ask(command),
            Ok(None) => Ok(USAGE),
            Err(error) => Err(error),
        },
    };
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            complain(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Runs a client command.
fn ask(command: tidemill_cli::ClientCommand) -> anyhow::Result<u8> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let mut out = std::io::stdout();
    let mut output = tidemill_cli::Output::process(&mut out);
    runtime.block_on(tidemill_cli::execute(command, &mut output))
}

/// Writes to standard output. A reader that has gone away is no error.
pub fn say(text: &[u8]) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// Writes a line to standard error.
pub fn complain(line: &str) {
    // There is nobody else to tell that this failed.
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// A panic in any thread ends the process: the others would wait for it for ever.
fn end_on_panic() {
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("unnamed");
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let message = panic
            .payload()
            .downcast_ref::<&str>()
            .map(ToString::to_string)
            .or_else(|| panic.payload().downcast_ref::<String>().cloned())
            .unwrap_or_default();
        if message.starts_with(PEER_GONE) {
            // Process 0 knows which one, and is about to say so; then this process ends elsewhere.
            std::thread::sleep(VERDICT_MAX);
            complain(&format!(
                "error: another process of this run is gone ({message})\n\
                 Nothing is lost: start all of them again to go on."
            ));
            std::process::exit(FaultKind::Peer.exit_code());
        }
        // What it was doing is evidence for the next start.
        match tidemill_store::crash::record_panic(name, &format!("{message} at {place}")) {
            Some(blamed) => complain(&format!(
                "tidemill ends: {}: {}\n\
                 Nothing is lost: start it again to go on; the file is set aside then.",
                blamed.pipeline, blamed.why
            )),
            None => complain(&format!(
                "tidemill ends: thread {name} failed at {place}: {message}\n\
                 Nothing is lost: start it again to go on. Please report this with the lines above."
            )),
        }
        std::process::exit(PANICKED);
    }));
}
