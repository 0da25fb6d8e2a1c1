//! A long campaign: the pipelines of `tests/crash.rs` killed again and again, with a table for each.
//!
//! `crash-campaign [--kills 1000] [--seed 1] [--points] [--corrections]`. It is itself the program that is killed:
//! called with `run` it is `tidemill`.
#![allow(clippy::print_stdout, reason = "a command for people")]

use std::process::ExitCode;

use anyhow::Context;
use tidemill::flags::{ParamFlags, TortureFlags};
use tidemill::torture;
use tidemill_tests::torment::{self, AGGREGATE, FAN, STATELESS, Torment};

/// Processes and numbers of workers: three shapes.
const SHAPES: [(usize, &[usize]); 2] = [(1, &[1, 2]), (2, &[1])];

fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|word| word == "run") {
        return tidemill::main();
    }
    match campaign() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            println!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

struct Wish {
    kills: usize,
    seed: u64,
    points: bool,
    corrections: bool,
}

fn wish() -> anyhow::Result<Wish> {
    let mut wish = Wish { kills: 1000, seed: 1, points: false, corrections: false };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let number = |words: &mut dyn Iterator<Item = String>| -> anyhow::Result<u64> {
            let text = words.next().with_context(|| format!("{word} needs a number"))?;
            text.parse().with_context(|| format!("{word} {text}"))
        };
        match &*word {
            "--kills" => wish.kills = usize::try_from(number(&mut words)?)?,
            "--seed" => wish.seed = number(&mut words)?,
            "--points" => wish.points = true,
            "--corrections" => wish.corrections = true,
            _ => anyhow::bail!(
                "crash-campaign [--kills N] [--seed S] [--points] [--corrections], not {word}"
            ),
        }
    }
    Ok(wish)
}

/// Runs everything; returns whether it was all equal.
fn campaign() -> anyhow::Result<bool> {
    let wish = wish()?;
    let torments = [&STATELESS, &AGGREGATE, &FAN];
    let shapes: usize = SHAPES.iter().map(|(_, workers)| workers.len()).sum();
    let kills = wish.kills.div_ceil(torments.len() * shapes);
    let (mut equal, mut all, mut hit) = (true, 0, 0);
    for torment in torments {
        for (processes, workers) in SHAPES {
            let report = one(torment, processes, workers, kills, &wish)?;
            equal &= report.equal;
            all += report.shapes.iter().map(|shape| shape.kills).sum::<usize>();
            let random = |shape: &torture::report::Tally| shape.phases.values().sum::<usize>();
            hit += report.shapes.iter().map(random).sum::<usize>();
            println!("{}\n", report.text());
        }
    }
    println!("{all} kills of living processes, {hit} of them at random instants; equal: {equal}");
    Ok(equal)
}

fn one(
    torment: &Torment,
    processes: usize,
    workers: &[usize],
    kills: usize,
    wish: &Wish,
) -> anyhow::Result<torture::report::Report> {
    let folder = tempfile::tempdir()?;
    let pipeline = folder.path().join("pipeline.yaml");
    std::fs::write(&pipeline, torment.yaml)?;
    torment::write_inputs(torment, &folder.path().join("in"));
    let flags = TortureFlags {
        pipeline,
        inputs: vec![folder.path().join("in")],
        kills,
        workers: workers.to_vec(),
        processes: vec![processes],
        seed: wish.seed,
        points: wish.points,
        corrections: wish.corrections,
        keep: None,
        json: false,
        params: ParamFlags::default(),
    };
    torture::campaign(&flags)?.context("the pipeline does not check")
}
