//! Deploy: pipeline files are handed to a running server, one after the other.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::{Value, json};
use tidemill_client::{Client, DeployedPart, Deployment, Error};

use crate::command::{Deploy, FlatFile};
use crate::output::Output;
use crate::table::{Side, Table};
use crate::{FAILED, human, json};

/// How long the server may take to come back with the new plan.
const BACK_MAX: Duration = Duration::from_secs(600);

/// How many digits of a plan's hash are shown to people.
const HASH_DIGITS: usize = 12;

/// Runs `deploy`.
pub(crate) async fn run(command: Deploy, output: &mut Output<'_>) -> anyhow::Result<u8> {
    let client = Client::connect(&command.common.server).await?;
    let mut code = 0;
    for (at, path) in command.pipelines.iter().enumerate() {
        let file = match command.flat.get(at).cloned().flatten() {
            Some(flat) => flat,
            None => FlatFile {
                text: std::fs::read_to_string(path)
                    .with_context(|| format!("read the pipeline file {}", path.display()))?,
                params: BTreeMap::new(),
            },
        };
        match deploy(&client, &command, &file).await {
            Ok((deployment, serves)) => {
                if deployment.refused.is_some() {
                    code = FAILED;
                }
                if command.common.json {
                    writeln!(output.out, "{}", value(&deployment, serves))?;
                } else {
                    show(&deployment, command.dry_run, serves, output)?;
                }
            }
            // Those before it have taken over; those behind it may need it.
            Err(error @ Error::Server { .. }) => {
                failed(path, &error, command.common.json, output)?;
                return Ok(FAILED);
            }
            Err(error) => return Err(error.into()),
        }
        output.out.flush()?;
    }
    Ok(code)
}

/// Deploys a file, and waits until it runs. Returns whether it does; nothing in a dry run.
async fn deploy(
    client: &Client,
    command: &Deploy,
    file: &FlatFile,
) -> Result<(Deployment, Option<bool>), Error> {
    let timeout = Duration::from_secs(command.timeout);
    let FlatFile { text, params } = file;
    let deployment = client.deploy_with(text, params, command.dry_run, timeout).await?;
    if command.dry_run {
        return Ok((deployment, None));
    }
    let serves = client.wait_for_pipeline(&deployment.pipeline, text, BACK_MAX).await?;
    Ok((deployment, Some(serves)))
}

fn failed(
    path: &Path,
    error: &Error,
    as_json: bool,
    output: &mut Output<'_>,
) -> anyhow::Result<()> {
    let file = path.display().to_string();
    if as_json {
        writeln!(output.out, "{}", json::failure(&file, error))?;
    } else {
        // Mistakes come as they are shown, line by line; nothing in them reaches a terminal as a
        // command.
        let text = json::chain(error);
        let lines: Vec<String> = text.lines().map(human::name).collect();
        writeln!(output.out, "{}: not deployed: {}", human::name(&file), lines.join("\n"))?;
    }
    Ok(())
}

fn show(
    deployment: &Deployment,
    dry_run: bool,
    serves: Option<bool>,
    output: &mut Output<'_>,
) -> anyhow::Result<()> {
    let Deployment { version, first_epoch, files, bytes, .. } = deployment;
    let pipeline = human::name(&deployment.pipeline);
    let short = |hash: &str| human::name(hash.get(..HASH_DIGITS).unwrap_or(hash));
    let plan = short(&deployment.plan_hash);
    let was = match &deployment.replaced {
        Some(hash) if *hash == deployment.plan_hash => "as before".to_owned(),
        Some(hash) => format!("was {}", short(hash)),
        None => "not running yet".to_owned(),
    };
    match (deployment.changed, dry_run) {
        (false, _) => {
            writeln!(output.out, "{pipeline}: this file runs already, plan {plan}")?;
            return Ok(());
        }
        (true, true) => writeln!(output.out, "{pipeline}: would run plan {plan} ({was})")?,
        (true, false) => writeln!(
            output.out,
            "{pipeline}: version {version}, plan {plan} ({was}), from epoch {first_epoch} on"
        )?,
    }
    let head = [
        ("", Side::Left),
        ("PART", Side::Left),
        ("KIND", Side::Left),
        ("STATE", Side::Left),
        ("", Side::Left),
    ];
    let mut table = Table::new(&head);
    for part in &deployment.parts {
        table.row(vec![
            human::name(&part.role).into(),
            human::name(&part.name).into(),
            human::name(&part.kind).into(),
            human::name(&part.fate).into(),
            human::name(&part.detail).into(),
        ]);
    }
    output.out.write_all(table.text(output.colours).as_bytes())?;
    let reads = if dry_run { "to be read again" } else { "read again" };
    writeln!(output.out, "{reads}: {} files, {}", human::count(*files), human::bytes(*bytes))?;
    if let Some(reason) = &deployment.refused {
        writeln!(output.out, "would be refused: {}", human::name(reason))?;
    }
    if serves == Some(false) {
        writeln!(output.out, "it has taken over, and the server is not back yet")?;
    }
    Ok(())
}

fn value(deployment: &Deployment, serves: Option<bool>) -> Value {
    let part = |part: &DeployedPart| {
        json!({
            "name": part.name,
            "role": part.role,
            "kind": part.kind,
            "fate": part.fate,
            "detail": part.detail,
        })
    };
    json!({
        "pipeline": deployment.pipeline,
        "plan_hash": deployment.plan_hash,
        "replaced_plan_hash": deployment.replaced,
        "changed": deployment.changed,
        "parts": deployment.parts.iter().map(part).collect::<Vec<_>>(),
        "files": deployment.files,
        "bytes": deployment.bytes,
        "refused": deployment.refused,
        "version": (deployment.version > 0).then_some(deployment.version),
        "first_epoch": (deployment.version > 0).then_some(deployment.first_epoch),
        "serves": serves,
    })
}
