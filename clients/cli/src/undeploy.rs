//! Undeploy: pipelines leave a running server, one after the other.

use std::time::Duration;

use serde_json::json;
use tidemill_client::{Client, Error};

use crate::command::Undeploy;
use crate::output::Output;
use crate::{FAILED, human, json};

/// How long the server may take to come back without the pipeline.
const BACK_MAX: Duration = Duration::from_secs(600);

/// Runs `undeploy`.
pub(crate) async fn run(command: Undeploy, output: &mut Output<'_>) -> anyhow::Result<u8> {
    let client = Client::connect(&command.common.server).await?;
    let timeout = Duration::from_secs(command.timeout);
    for name in &command.pipelines {
        let left = match client.undeploy(name, timeout).await {
            Ok(left) => left,
            // Those before it have left; those behind it are as they were.
            Err(error @ Error::Server { .. }) if command.common.json => {
                let message = json::chain(&error);
                let error = json!({ "code": error.word(), "message": message });
                writeln!(output.out, "{}", json!({ "pipeline": name, "error": error }))?;
                return Ok(FAILED);
            }
            Err(error @ Error::Server { .. }) => {
                let text = human::name(&json::chain(&error));
                writeln!(output.out, "{}: not undeployed: {text}", human::name(name))?;
                return Ok(FAILED);
            }
            Err(error) => return Err(error.into()),
        };
        let serves = client.wait_without_pipeline(name, BACK_MAX).await?;
        if command.common.json {
            let value = json!({
                "pipeline": name,
                "last_epoch": left.as_ref().map(|left| left.last_epoch),
                "folder": left.as_ref().map(|left| &left.folder),
                "serves": serves,
            });
            writeln!(output.out, "{value}")?;
        } else {
            let stays = left.map_or(String::new(), |left| {
                format!(
                    " after epoch {}; its folder stays: {}",
                    left.last_epoch,
                    human::name(&left.folder)
                )
            });
            writeln!(output.out, "{}: undeployed{stays}", human::name(name))?;
            if !serves {
                writeln!(output.out, "it has left, and the server is not back yet")?;
            }
        }
        output.out.flush()?;
    }
    Ok(0)
}
