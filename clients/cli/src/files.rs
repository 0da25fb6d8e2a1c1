//! Files: lists submissions, and shows one with everything that is known about it.

use std::time::SystemTime;

use tidemill_client::{Attempt, Client, Filter, OutputFile, Receipt, Submission};

use crate::command::{File, Files};
use crate::output::Output;
use crate::table::{Cell, Side, Table};
use crate::{human, json, receipt};

/// The largest page a server gives.
const PAGE_MAX: usize = 1000;

/// Runs `files`.
pub(crate) async fn list(command: Files, output: &mut Output<'_>) -> anyhow::Result<u8> {
    let client = Client::connect(&command.common.server).await?;
    let mut filter = Filter {
        pipeline: command.pipeline,
        phase: command.phase.map(Into::into),
        name: command.name,
        ..Filter::default()
    };
    let mut table = Table::new(&[
        ("ID", Side::Right),
        ("PIPELINE", Side::Left),
        ("NAME", Side::Left),
        ("PHASE", Side::Left),
        ("SIZE", Side::Right),
        ("RECORDS", Side::Right),
        ("REJECTED", Side::Right),
        ("SEEN (UTC)", Side::Left),
        ("TOOK", Side::Right),
    ]);
    let mut left = command.limit;
    while left > 0 {
        filter.limit = left.min(PAGE_MAX) as u32;
        let page = client.list(&filter).await?;
        left = left.saturating_sub(page.submissions.len());
        for submission in &page.submissions {
            if command.common.json {
                writeln!(output.out, "{}", json::submission(submission))?;
            } else {
                add(&mut table, submission);
            }
        }
        match page.next_before {
            Some(before) if !page.submissions.is_empty() => filter.before = Some(before),
            _ => break,
        }
    }
    if !command.common.json {
        let waits = human::conditions(&client.conditions().await?);
        output.out.write_all(waits.as_bytes())?;
        output.out.write_all(table.text(output.colours).as_bytes())?;
    }
    Ok(0)
}

fn add(table: &mut Table, submission: &Submission) {
    let took = submission.finished_at.map(|finished| since(submission.seen_at, finished));
    table.row(vec![
        submission.id.to_string().into(),
        human::name(&submission.pipeline).into(),
        name(submission).into(),
        stands(submission),
        human::bytes(submission.bytes).into(),
        human::count(submission.records).into(),
        human::count(submission.rejected).into(),
        human::instant(submission.seen_at).into(),
        took.unwrap_or_default().into(),
    ]);
}

/// Returns where it stands, and what it waits for.
fn stands(submission: &Submission) -> Cell {
    match &submission.waits_for {
        None => submission.phase.into(),
        Some(waits) => format!("{}: {}", submission.phase, human::name(waits)).into(),
    }
}

/// Returns the name, and which other submission is of the same file.
fn name(submission: &Submission) -> String {
    let mut name = human::name(&submission.name);
    if let Some(old) = submission.retry_of {
        name.push_str(&format!(" (retry of {old})"));
    }
    if let Some(new) = submission.retried_as {
        name.push_str(&format!(" (retried as {new})"));
    }
    for (word, other) in corrections(submission) {
        name.push_str(&format!(" ({word} {other})"));
    }
    name
}

/// Returns which submissions it corrects, and which correct it.
fn corrections(submission: &Submission) -> impl Iterator<Item = (&'static str, u64)> {
    let all = [
        ("replaces", submission.replaces),
        ("removes", submission.removes),
        ("replaced by", submission.replaced_by),
        ("removed by", submission.removed_by),
    ];
    all.into_iter().filter_map(|(word, other)| Some((word, other?)))
}

/// Returns how much later `end` is than `begin`; clocks may have been set back between the two.
fn since(begin: SystemTime, end: SystemTime) -> String {
    human::duration(end.duration_since(begin).unwrap_or_default())
}

/// Runs `file`.
pub(crate) async fn show(command: File, output: &mut Output<'_>) -> anyhow::Result<u8> {
    let client = Client::connect(&command.common.server).await?;
    let submission = client.get(command.id).await?;
    if command.common.json {
        let mut whole = json::submission(&submission);
        whole["receipt"] = submission.receipt.as_ref().map(receipt::json).into();
        writeln!(output.out, "{whole}")?;
    } else {
        output.out.write_all(text(&submission).as_bytes())?;
        if let Some(receipt) = &submission.receipt {
            let table = receipt::table(receipt, output.colours);
            write!(output.out, "\nreceipt: every record is accounted for\n{table}")?;
        }
    }
    Ok(0)
}

/// Returns everything about one submission, a line for each fact.
fn text(submission: &Submission) -> String {
    let mut lines = vec![
        ("id", submission.id.to_string()),
        ("name", human::name(&submission.name)),
        ("pipeline", human::name(&submission.pipeline)),
        ("source", human::name(&submission.source)),
        ("epoch", submission.epoch.to_string()),
        ("phase", phase(submission)),
    ];
    if let Some(waits) = &submission.waits_for {
        lines.push(("waits for", human::name(waits)));
    }
    if !submission.attempts.is_empty() {
        // The one that is under way, or was the last, is none of those that failed and were repeated.
        let more = u64::from(submission.waits_for.is_none());
        // Of many, those in the middle are not told.
        let failed_times = submission.attempts.last().map_or(0, |last| last.number);
        lines.push(("attempts", (failed_times + more).to_string()));
        lines.extend(submission.attempts.iter().map(|attempt| ("", failed(attempt))));
    }
    if let Some(reason) = &submission.reason {
        let (code, text) = (human::name(&reason.code), human::name(&reason.text));
        lines.push(("reason", format!("{code}: {text}")));
    }
    if let Some(old) = submission.retry_of {
        lines.push(("retry of", old.to_string()));
    }
    if let Some(new) = submission.retried_as {
        lines.push(("retried", format!("as {new}")));
    }
    lines.extend(corrections(submission).map(|(word, other)| (word, other.to_string())));
    let bytes = submission.bytes;
    if let Some(kept) = submission.retained_bytes {
        lines.push(("retained", format!("{} for corrections", human::bytes(kept))));
    }
    lines.extend([
        ("size", format!("{} ({} bytes)", human::bytes(bytes), human::count(bytes))),
        ("blake3", hash(submission)),
        ("records", human::count(submission.records)),
        ("rejected", human::count(submission.rejected)),
        ("seen", format!("{} UTC", human::instant(submission.seen_at))),
    ]);
    let receipt = submission.receipt.as_ref();
    let steps = [
        ("claimed", receipt.map(|receipt| receipt.claimed_at)),
        ("accepted", Some(submission.accepted_at)),
        ("read", receipt.map(|receipt| receipt.read_at)),
        ("answered", receipt.map(|receipt| receipt.answered_at)),
        ("finished", submission.finished_at),
    ];
    for (step, at) in steps {
        lines.extend(at.map(|at| (step, format!("+{}", since(submission.seen_at, at)))));
    }
    if let Some(receipt) = receipt {
        lines.extend([("plan", human::name(&receipt.plan_hash)), ("made by", made_by(receipt))]);
    }
    for (index, file) in submission.outputs.iter().enumerate() {
        let title = if index == 0 { "outputs" } else { "" };
        let outputs = submission.receipt.iter().flat_map(|receipt| &receipt.outputs);
        let hash = outputs.into_iter().find(|output| output.path == file.path);
        let hash = hash.map(|output| format!(", blake3 {}", human::name(&output.hash)));
        lines.push((title, output(file, &hash.unwrap_or_default())));
    }
    lines.iter().map(|(title, value)| format!("{title:<9} {value}\n")).collect()
}

/// Returns how an attempt failed, and when the next one was to begin.
fn failed(attempt: &Attempt) -> String {
    let Attempt { number, class, reason, .. } = attempt;
    let (code, text) = (human::name(&reason.code), human::name(&reason.text));
    let (at, next) = (human::instant(attempt.failed_at), human::instant(attempt.next_at));
    let class = human::name(class);
    format!("{number} failed at {at} UTC ({class}) {code}: {text}; next at {next} UTC")
}

/// Returns what a submission did to an output, and what became of it since.
fn output(file: &OutputFile, hash: &str) -> String {
    let mut text = human::name(&file.path);
    if let Some(of) = file.of {
        text.push_str(&format!(" of file {of}"));
    }
    match file.removed {
        true => text.push_str(" (removed)"),
        false => text.push_str(&format!(" ({}{hash})", human::bytes(file.bytes))),
    }
    if let Some(by) = file.superseded_by {
        text.push_str(&format!(", changed since by file {by}"));
    }
    text
}

fn made_by(receipt: &Receipt) -> String {
    let Receipt { generation, processes, workers, binary_version, .. } = receipt;
    let version = human::name(binary_version);
    format!("generation {generation}: {processes} x {workers} workers of tidemill {version}")
}

fn hash(submission: &Submission) -> String {
    if submission.hash.is_empty() {
        return "known when the file is read".to_owned();
    }
    human::name(&submission.hash)
}

fn phase(submission: &Submission) -> String {
    let phase = submission.phase;
    let (read, all) = (submission.bytes_read, submission.bytes);
    match phase {
        tidemill_client::Phase::Reading if all > 0 => {
            let percent = (read.min(all) as f64 / all as f64 * 100.0).floor();
            format!("{phase} ({percent} % of {})", human::bytes(all))
        }
        _ => phase.to_string(),
    }
}
