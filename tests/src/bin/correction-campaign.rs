//! A long campaign: random pipelines whose files are replaced and removed, against fresh runs.
//!
//! `correction-campaign [--cases 2000] [--seed 1] [--first 0] [--side-by-side 2]`; `--first` is the number
//! of a history, which has four cases. It is itself the program that is run: called with `run` it is
//! `tidemill`.
#![allow(clippy::print_stdout, reason = "a command for people")]

use std::process::ExitCode;

use anyhow::Context;
use tidemill_tests::corrections::Campaign;
use tidemill_tests::corrections::history::CASES;

fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|word| word == "run") {
        return tidemill::main();
    }
    match wish() {
        Ok(campaign) => obey(&campaign),
        Err(error) => {
            println!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn obey(campaign: &Campaign) -> ExitCode {
    let report = campaign.run();
    for failure in &report.failures {
        println!("{failure}");
    }
    println!(
        "{} cases, {} steps, {} kills, {} failed, in {:.1?} (seed {})",
        report.cases,
        report.steps,
        report.kills,
        report.failures.len(),
        report.took,
        campaign.seed
    );
    if report.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn wish() -> anyhow::Result<Campaign> {
    let node = std::env::current_exe().context("find this program")?;
    let mut campaign = Campaign { node, seed: 1, first: 0, histories: 500, side_by_side: 2 };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let text = words.next().with_context(|| format!("{word} needs a number"))?;
        let number: u64 = text.parse().with_context(|| format!("{word} {text}"))?;
        match &*word {
            "--cases" => campaign.histories = number.div_ceil(CASES as u64),
            "--seed" => campaign.seed = number,
            "--first" => campaign.first = number,
            "--side-by-side" => campaign.side_by_side = usize::try_from(number.clamp(1, 64))?,
            _ => anyhow::bail!(
                "correction-campaign [--cases N] [--seed S] [--first N] [--side-by-side N], not {word}"
            ),
        }
    }
    Ok(campaign)
}
