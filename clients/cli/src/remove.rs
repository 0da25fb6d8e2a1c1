//! Remove: committed files are taken away, each by its id or its name.

use std::time::Duration;

use tidemill_client::{Client, Error, Phase, Submission, Which};

use crate::command::Remove;
use crate::dry_run::{self, Asked};
use crate::output::Output;
use crate::{FAILED, QUARANTINED, human, json};

/// Runs `remove`.
pub(crate) async fn run(command: Remove, output: &mut Output<'_>) -> anyhow::Result<u8> {
    let client = Client::connect(&command.common.server).await?;
    let mut code = 0;
    for given in &command.files {
        if command.dry_run {
            match client.try_removal(which(&command, given)).await {
                Ok(told) => {
                    if told.failure.is_some() && code != FAILED {
                        code = QUARANTINED;
                    }
                    let asked = Asked { yes: command.yes, json: command.common.json };
                    if !dry_run::show(&told, given, asked, output)? {
                        continue;
                    }
                }
                Err(error @ Error::Server { .. }) => {
                    code = FAILED;
                    dry_run::refused(given, &error, command.common.json, output)?;
                    continue;
                }
                Err(error) => return Err(error.into()),
            }
        }
        match remove(&client, &command, given).await {
            Ok(submission) => {
                if command.common.json {
                    writeln!(output.out, "{}", json::submission(&submission))?;
                } else {
                    writeln!(output.out, "{}", line(given, &submission))?;
                }
                // A failure says more than what was set aside.
                if submission.phase == Phase::Quarantined && code != FAILED {
                    code = QUARANTINED;
                }
            }
            // One that cannot be removed is no reason to leave the others.
            Err(error @ Error::Server { .. }) => {
                code = FAILED;
                if command.common.json {
                    writeln!(output.out, "{}", json::failure(given, &error))?;
                } else {
                    let given = human::name(given);
                    writeln!(output.out, "{given}: {}", json::chain(&error))?;
                }
            }
            Err(error) => return Err(error.into()),
        }
        output.out.flush()?;
    }
    Ok(code)
}

fn which(command: &Remove, given: &str) -> Which {
    match given.parse().ok().filter(|_| !command.by_name) {
        Some(id) => Which::Id(id),
        None => Which::Name { pipeline: command.pipeline.clone(), name: given.to_owned() },
    }
}

async fn remove(client: &Client, command: &Remove, given: &str) -> Result<Submission, Error> {
    let removal = client.remove(which(command, given)).await?;
    if command.wait && !removal.phase.is_final() {
        return client.wait(removal.id, Duration::from_secs(command.timeout)).await;
    }
    Ok(removal)
}

fn line(given: &str, removal: &Submission) -> String {
    let Submission { id, phase, .. } = removal;
    let (given, of) = (human::name(given), removal.removes.unwrap_or_default());
    match &removal.reason {
        None => format!("{id}  {given}  removes {of}  {phase}"),
        Some(reason) => {
            let (code, text) = (human::name(&reason.code), human::name(&reason.text));
            format!("{id}  {given}  removes {of}  {phase}  {code}: {text}")
        }
    }
}
