//! A long campaign: random pipelines of tags, loops and state, against a slow program.
//!
//! `loop-campaign [--cases 1000] [--seed 1] [--first 0] [--together 30]`. It is itself the program
//! that is run: called with `run` it is `tidemill`.
#![allow(clippy::print_stdout, reason = "a command for people")]

use std::process::ExitCode;

use anyhow::Context;
use tidemill_tests::loops::campaign;

fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|word| word == "run") {
        return tidemill::main();
    }
    match run() {
        Ok(code) => code,
        Err(error) => {
            println!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> anyhow::Result<ExitCode> {
    let node = std::env::current_exe().context("find this program")?;
    let node = node.to_str().context("the name of this program is not UTF-8")?;
    let (mut cases, mut seed, mut first, mut together) = (1000, 1, 0, 30);
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let text = words.next().with_context(|| format!("{word} needs a number"))?;
        let number: u64 = text.parse().with_context(|| format!("{word} {text}"))?;
        match &*word {
            "--cases" => cases = number,
            "--seed" => seed = number,
            "--first" => first = number,
            "--together" => together = number.clamp(1, 200),
            _ => anyhow::bail!(
                "loop-campaign [--cases N] [--seed S] [--first N] [--together N], not {word}"
            ),
        }
    }
    let report = campaign(node, seed, first, cases, together);
    for failure in &report.failures {
        println!("{failure}");
    }
    println!(
        "{} cases, {} loops, {} states in them, {} records went round too often, {} failed, in {:.1?} \
         (seed {seed})",
        report.cases,
        report.loops,
        report.states,
        report.over,
        report.failures.len(),
        report.took
    );
    Ok(if report.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
