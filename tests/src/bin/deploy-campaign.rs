//! A long campaign: a pipeline that is changed again and again while files come.
//!
//! `deploy-campaign [--deploys 1000] [--processes 1] [--workers 2]`. It is itself the program that is
//! run: called with `run` it is `tidemill`.
#![allow(clippy::print_stdout, reason = "a command for people")]

use std::process::ExitCode;

use anyhow::Context;
use tidemill_tests::Shape;
use tidemill_tests::deploys::Campaign;

/// As in the binary: what memory does is its business.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|word| word == "run") {
        return tidemill::main();
    }
    match wish() {
        Ok(campaign) => {
            obey(&campaign);
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn obey(campaign: &Campaign) {
    // What differs ends it with a panic, and its code.
    let report = campaign.run();
    let quarters = report.quarters().map(|bytes| format!("{:.1}", bytes as f64 / 1_048_576.0));
    let deploys = u32::try_from(report.deploys.max(1)).unwrap_or(u32::MAX);
    println!(
        "{}: {} deployments, {} files, each committed once under one plan; a deployment took {:.0?} on \
         average, at most {:.0?} until it was durable and {:.0?} until the server was back; memory, \
         median of each quarter: {} MiB; in {:.0?}",
        campaign.shape,
        report.deploys,
        report.files,
        report.all / deploys,
        report.longest_call,
        report.longest_away,
        quarters.join(", "),
        report.took
    );
}

fn wish() -> anyhow::Result<Campaign> {
    let node = std::env::current_exe().context("find this program")?;
    let mut campaign = Campaign { node, shape: Shape::new(1, 2), deploys: 1000 };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let text = words.next().with_context(|| format!("{word} needs a number"))?;
        let number: usize = text.parse().with_context(|| format!("{word} {text}"))?;
        match &*word {
            "--deploys" => campaign.deploys = number,
            "--processes" => campaign.shape.processes = number.clamp(1, 8),
            "--workers" => campaign.shape.workers = number.clamp(1, 8),
            _ => anyhow::bail!(
                "deploy-campaign [--deploys N] [--processes N] [--workers N], not {word}"
            ),
        }
    }
    Ok(campaign)
}
