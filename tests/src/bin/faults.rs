//! Faults, as a command: all that the tests of the same name only sample.
//!
//! ```text
//! cargo run -p tidemill-tests --bin faults -- calls [--every N]
//! ```

#![allow(clippy::print_stdout, reason = "it is a command")]

use std::process::ExitCode;

use tidemill_tests::faults::calls::{count, sweep};
use tidemill_tests::faults::place::{Case, Subject};
use tidemill_tests::faults::{Fault, Kind, possible};

/// Set for the lives that this program starts: it is then the binary itself.
const ALIVE: &str = "FAULTS_SUBJECT";

const USAGE: &str = "usage: faults calls [--every N]";

fn main() -> ExitCode {
    if std::env::var_os(ALIVE).is_some() {
        return tidemill::main();
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    if let Err(why) = possible() {
        println!("SKIPPED: {why}");
        return ExitCode::SUCCESS;
    }
    match words[..] {
        ["calls"] => calls(1),
        ["calls", "--every", every] => match every.parse() {
            Ok(every) if every > 0 => calls(every),
            _ => usage(),
        },
        _ => usage(),
    }
}

fn usage() -> ExitCode {
    println!("{USAGE}");
    ExitCode::from(2)
}

/// Returns this very program, as the binary.
fn subject() -> Subject {
    let node = std::env::current_exe().expect("a program that runs lies somewhere");
    Subject { node, environment: vec![(ALIVE.to_owned(), "1".to_owned())] }
}

/// Lets every `every`-th call fail in every way.
fn calls(every: u64) -> ExitCode {
    let subject = subject();
    let mut wrong = 0;
    for case in Case::all() {
        let calls = count(&case, &subject);
        for kind in Kind::ALL {
            let all = (1..=calls[&kind]).step_by(every as usize);
            let report = sweep(&case, &subject, all.map(|at| Fault { kind, at, times: 1 }));
            println!("{}: {report}", case.name);
            wrong += report.wrong.len();
        }
    }
    ExitCode::from(u8::from(wrong > 0))
}
