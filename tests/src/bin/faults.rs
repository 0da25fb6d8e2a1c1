//! Faults, as a command: all that the tests of the same name only sample.
//!
//! ```text
//! cargo run -p tidemill-tests --bin faults -- calls [--every N]
//! cargo run -p tidemill-tests --bin faults -- power [--lives N] [--cuts N] [--seed N]
//! cargo run -p tidemill-tests --bin faults -- mount [--cuts N] [--seed N]
//! cargo run -p tidemill-tests --features mutations --bin faults -- mutations [NAME...]
//! ```

#![allow(clippy::print_stdout, reason = "it is a command")]

use std::process::ExitCode;

use tidemill_tests::faults::calls::{count, sweep};
use tidemill_tests::faults::mount;
use tidemill_tests::faults::mutate::{barriers, leave_out};
use tidemill_tests::faults::place::{Case, Subject};
use tidemill_tests::faults::power::{Before, Plan, campaign};
use tidemill_tests::faults::{Fault, Kind, possible};

/// Set for the lives that this program starts: it is then the binary itself.
const ALIVE: &str = "FAULTS_SUBJECT";

/// How often everything is tried against a barrier that is left out.
const ROUNDS: usize = 4;

const USAGE: &str = "\
usage: faults calls [--every N]                             let every N-th call fail in every way
       faults power [--lives N] [--cuts N] [--seed N]       cut the power
       faults mount [--cuts N] [--seed N]                   cut the power of a real file system (root)
       faults mutations [NAME...]                           leave out barriers of the protocol";

fn main() -> ExitCode {
    if std::env::var_os(ALIVE).is_some() {
        return tidemill::main();
    }
    if !possible("all of it") {
        return ExitCode::SUCCESS;
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match words.split_first() {
        Some((&"calls", rest)) => numbers(rest, [("--every", 1)]).map(calls),
        Some((&"power", rest)) => {
            numbers(rest, [("--lives", 4), ("--cuts", 60), ("--seed", 1)]).map(power)
        }
        Some((&"mount", rest)) => numbers(rest, [("--cuts", 60), ("--seed", 1)]).map(mounted),
        Some((&"mutations", names)) => Some(mutations(names)),
        _ => None,
    };
    outcome.unwrap_or_else(|| {
        println!("{USAGE}");
        ExitCode::from(2)
    })
}

/// Returns the values of options, each with its default; nothing if there is anything else.
fn numbers<const N: usize>(words: &[&str], options: [(&str, u64); N]) -> Option<[u64; N]> {
    let mut values = options.map(|(_, default)| default);
    for pair in words.chunks(2) {
        let [name, value] = pair else { return None };
        let at = options.iter().position(|(option, _)| option == name)?;
        values[at] = value.parse().ok().filter(|value| *value > 0)?;
    }
    Some(values)
}

/// Returns this very program, as the binary.
fn subject() -> Subject {
    let node = std::env::current_exe().expect("a program that runs lies somewhere");
    Subject { node, environment: vec![(ALIVE.to_owned(), "1".to_owned())] }
}

fn calls([every]: [u64; 1]) -> ExitCode {
    let subject = subject();
    let mut wrong = 0;
    for case in Case::all() {
        let calls = count(&case, &subject);
        for kind in Kind::ALL {
            let all = (1..=calls[&kind]).step_by(every as usize);
            let report = sweep(&case, &subject, all.map(|at| Fault::new(kind, at)));
            println!("{}: {report}", case.name);
            wrong += report.wrong.len();
        }
    }
    ExitCode::from(u8::from(wrong > 0))
}

fn power([lives, cuts, seed]: [u64; 3]) -> ExitCode {
    let (lives, cuts) = (lives as usize, cuts as usize);
    let before = Before::ALL.to_vec();
    let plan = Plan { before, lives, cuts, seed, until_wrong: false };
    let mut wrong = 0;
    for case in Case::all() {
        let report = campaign(&case, &subject(), &plan);
        println!("{}: {report}", case.name);
        wrong += report.wrong.len();
    }
    ExitCode::from(u8::from(wrong > 0))
}

fn mounted([cuts, seed]: [u64; 2]) -> ExitCode {
    if !mount::possible("the power of a real file system was not cut") {
        return ExitCode::from(2);
    }
    let mut all_wrong = 0;
    for case in Case::all() {
        let (hits, wrong) = mount::cuts(&case, &subject(), cuts, seed);
        println!("{}: {hits} cuts, {} wrong", case.name, wrong.len());
        wrong.iter().for_each(|wrong| println!("WRONG: {wrong}"));
        all_wrong += wrong.len();
    }
    ExitCode::from(u8::from(all_wrong > 0))
}

fn mutations(names: &[&str]) -> ExitCode {
    if !cfg!(feature = "mutations") {
        println!("nothing can be left out of this binary; build it with --features mutations");
        return ExitCode::from(2);
    }
    let wanted = |name: &str| names.is_empty() || names.contains(&name);
    let mut unnoticed = 0;
    println!("| left out | what it does | noticed by | after tries |\n|---|---|---|---|");
    for barrier in barriers().into_iter().filter(|barrier| wanted(barrier.name)) {
        let verdict = leave_out(barrier, &subject(), ROUNDS);
        let (by, wrong) = verdict.noticed.unwrap_or_else(|| ("nothing".into(), String::new()));
        unnoticed += usize::from(wrong.is_empty());
        println!("| {} | {} | {by} | {} |", barrier.name, barrier.what, verdict.tries);
        for line in wrong.lines().filter(|line| !line.trim().is_empty()).take(4) {
            println!("  <!-- {line} -->");
        }
    }
    println!("{unnoticed} unnoticed");
    ExitCode::SUCCESS
}
