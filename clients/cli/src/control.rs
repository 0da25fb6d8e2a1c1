//! Control: pausing and resuming pipelines, sources and sinks, and draining.

use std::time::Duration;

use anyhow::bail;
use serde_json::{Value, json};
use tidemill_client::{Client, Draining, Hold, Holding};
use tokio::time::Instant;

use crate::command::{Drain, Pause};
use crate::output::Output;
use crate::{FAILED, human};

/// How often a drain that is under way is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How often it is told how far it is.
const TELL_EVERY: Duration = Duration::from_secs(5);

/// Runs `pause`.
pub(crate) async fn pause(command: Pause, output: &mut Output<'_>) -> anyhow::Result<u8> {
    let client = Client::connect(&command.common.server).await?;
    for target in &command.targets {
        let (pipeline, part) = split(target)?;
        let holding = client.pause(pipeline, part).await?;
        let word = if holding.changed { "paused" } else { "was paused before" };
        tell(&command, target, word, &holding, output)?;
    }
    Ok(0)
}

/// Runs `resume`.
pub(crate) async fn resume(command: Pause, output: &mut Output<'_>) -> anyhow::Result<u8> {
    let client = Client::connect(&command.common.server).await?;
    for target in &command.targets {
        let (pipeline, part) = split(target)?;
        let holding = client.resume(pipeline, part).await?;
        let word = if holding.changed { "resumed" } else { "was not paused" };
        tell(&command, target, word, &holding, output)?;
    }
    Ok(0)
}

/// Takes `PIPELINE` or `PIPELINE.PART` apart.
fn split(target: &str) -> anyhow::Result<(&str, Option<&str>)> {
    let (pipeline, part) = match target.split_once('.') {
        Some((pipeline, part)) => (pipeline, Some(part)),
        None => (target, None),
    };
    if pipeline.is_empty() || part.is_some_and(str::is_empty) {
        bail!("{target:?} is not PIPELINE, PIPELINE.SOURCE or PIPELINE.SINK");
    }
    Ok((pipeline, part))
}

fn tell(
    command: &Pause,
    target: &str,
    word: &str,
    holding: &Holding,
    output: &mut Output<'_>,
) -> anyhow::Result<()> {
    if command.common.json {
        let holds: Vec<Value> = holding.holds.iter().map(hold_json).collect();
        let line = json!({ "target": target, "changed": holding.changed, "holds": holds });
        writeln!(output.out, "{line}")?;
    } else {
        writeln!(output.out, "{}: {word}", human::name(target))?;
        // What it was about is said already.
        for hold in holding.holds.iter().filter(|hold| !is_meant(hold, target)) {
            writeln!(output.out, "  {}", still(hold))?;
        }
    }
    output.out.flush()?;
    Ok(())
}

/// Returns something that is held back as JSON.
fn hold_json(hold: &Hold) -> Value {
    json!({
        "pipeline": hold.pipeline,
        "kind": hold.kind,
        "part": (!hold.part.is_empty()).then_some(&hold.part),
        "since": human::rfc3339(hold.since),
        "files_waiting": hold.files_waiting,
    })
}

/// Returns the name by which something that is held back is resumed.
fn name(hold: &Hold) -> String {
    match hold.part.is_empty() {
        true => hold.pipeline.clone(),
        false => format!("{}.{}", hold.pipeline, hold.part),
    }
}

/// Returns whether something that is held back is what was just spoken of.
fn is_meant(hold: &Hold, target: &str) -> bool {
    name(hold) == target || target == format!("{}.{}:{}", hold.pipeline, hold.kind, hold.part)
}

fn still(hold: &Hold) -> String {
    let state = if hold.kind == "drained" { "drained" } else { "paused" };
    let kind = match hold.part.is_empty() {
        true => String::new(),
        false => format!("{} ", hold.kind),
    };
    let name = human::name(&name(hold));
    format!("{kind}{name} is {state} since {} UTC", human::instant(hold.since))
}

/// Runs `drain`.
pub(crate) async fn drain(command: Drain, output: &mut Output<'_>) -> anyhow::Result<u8> {
    let client = Client::connect(&command.common.server).await?;
    let begun = Instant::now();
    let limit = command.timeout.map(Duration::from_secs);
    let mut told: Option<Instant> = None;
    loop {
        let (pipelines, done) =
            client.drain(command.pipeline.as_deref(), command.then_stop).await?;
        let is_late = limit.is_some_and(|limit| begun.elapsed() >= limit);
        if done || is_late || told.is_none_or(|told| told.elapsed() >= TELL_EVERY) {
            told = Some(Instant::now());
            report(&command, &pipelines, done, output)?;
        }
        if done {
            return Ok(0);
        }
        if is_late {
            return Ok(FAILED);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn report(
    command: &Drain,
    pipelines: &[Draining],
    done: bool,
    output: &mut Output<'_>,
) -> anyhow::Result<()> {
    if command.common.json {
        let one = |one: &Draining| {
            json!({
                "pipeline": one.pipeline,
                "accepted": one.accepted,
                "done": one.done,
                "holds": one.holds.iter().map(hold_json).collect::<Vec<_>>(),
            })
        };
        let pipelines: Vec<Value> = pipelines.iter().map(one).collect();
        writeln!(output.out, "{}", json!({ "pipelines": pipelines, "done": done }))?;
    } else {
        for one in pipelines {
            writeln!(output.out, "{}", line(one))?;
        }
        if done && command.then_stop {
            writeln!(output.out, "the server stops")?;
        }
    }
    output.out.flush()?;
    Ok(())
}

fn line(one: &Draining) -> String {
    let pipeline = human::name(&one.pipeline);
    if one.done {
        return format!("{pipeline}: drained; tidemill resume {pipeline} lets it take files again");
    }
    let files = match one.accepted {
        0 => "writing what is finished".to_owned(),
        1 => "1 file is not finished".to_owned(),
        count => format!("{} files are not finished", human::count(count)),
    };
    let paused: Vec<String> = one
        .holds
        .iter()
        .filter(|hold| hold.kind == "sink")
        .map(|hold| format!("; sink {} is paused: resume it", human::name(&hold.part)))
        .collect();
    format!("{pipeline}: draining, {files}{}", paused.concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_a_pipeline_or_a_part_of_one() {
        let check = |target: &str, expected: Option<(&str, Option<&str>)>| {
            assert_eq!(split(target).ok(), expected, "{target}");
        };
        check("logs", Some(("logs", None)));
        check("logs.errors", Some(("logs", Some("errors"))));
        check("logs.", None);
        check(".errors", None);
        check("", None);
    }
}
