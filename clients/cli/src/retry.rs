//! Retry: quarantined files are tried again, one by its id or all that match.

use tidemill_client::{Client, Error, Filter, Phase, Submission};

use crate::command::Retry;
use crate::output::Output;
use crate::{FAILED, human, json};

/// Submissions asked for at once.
const PAGE: u32 = 1000;

/// Runs `retry`.
pub(crate) async fn run(command: Retry, output: &mut Output<'_>) -> anyhow::Result<u8> {
    let client = Client::connect(&command.common.server).await?;
    let wanted = match command.id {
        Some(id) => vec![id],
        None => quarantined(&client, &command).await?,
    };
    let mut failed = 0;
    for id in &wanted {
        match client.retry(*id).await {
            Ok(submission) if command.common.json => {
                writeln!(output.out, "{}", json::submission(&submission))?;
            }
            Ok(submission) if submission.id == *id => {
                writeln!(output.out, "{id} {}: tried again now", human::name(&submission.name))?;
            }
            Ok(submission) => {
                let name = human::name(&submission.name);
                writeln!(output.out, "{id} {name}: retried as {}", submission.id)?;
            }
            // One that is not there any more is no reason to leave the others.
            Err(error @ Error::Server { .. }) => {
                failed += 1;
                if command.common.json {
                    let line = json::failure(&id.to_string(), &error);
                    writeln!(output.out, "{line}")?;
                } else {
                    writeln!(output.out, "{id}: {}", json::chain(&error))?;
                }
            }
            Err(error) => return Err(error.into()),
        }
        output.out.flush()?;
    }
    if command.id.is_none() && wanted.is_empty() && !command.common.json {
        writeln!(output.out, "nothing in quarantine matches")?;
    }
    Ok(if failed > 0 { FAILED } else { 0 })
}

/// Returns the quarantined submissions that match and were not tried again, oldest first.
async fn quarantined(client: &Client, command: &Retry) -> Result<Vec<u64>, Error> {
    let matches = |submission: &Submission| {
        let code = submission.reason.as_ref().map(|reason| &reason.code);
        submission.phase == Phase::Quarantined
            && submission.retried_as.is_none()
            && command.code.as_ref().is_none_or(|wanted| code == Some(wanted))
    };
    let mut found = Vec::new();
    let mut filter = Filter {
        pipeline: command.pipeline.clone(),
        phase: Some(Phase::Quarantined),
        limit: PAGE,
        ..Filter::default()
    };
    loop {
        let page = client.list(&filter).await?;
        found.extend(page.submissions.iter().filter(|one| matches(one)).map(|one| one.id));
        match page.next_before {
            Some(before) if !page.submissions.is_empty() => filter.before = Some(before),
            _ => break,
        }
    }
    found.reverse();
    Ok(found)
}
