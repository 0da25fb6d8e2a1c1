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
use crate::{FAILED, USAGE, human, json};

/// How long the server may take to come back with the new plan.
const BACK_MAX: Duration = Duration::from_secs(600);

/// The word for the mistakes in a pipeline file, as a server gives it.
const BAD_FILE: &str = "bad_pipeline_file";

/// How many digits of a plan's hash are shown to people.
const HASH_DIGITS: usize = 12;

/// Runs `deploy`.
pub(crate) async fn run(command: Deploy, output: &mut Output<'_>) -> anyhow::Result<u8> {
    let Some(files) = files(&command, output)? else { return Ok(USAGE) };
    let client = Client::connect(&command.common.server).await?;
    let mut code = 0;
    for (path, file) in command.pipelines.iter().zip(files) {
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
                let is_bad =
                    matches!(&error, Error::Server { word: Some(word), .. } if word == BAD_FILE);
                let file = path.display().to_string();
                if command.common.json {
                    writeln!(output.out, "{}", json::failure(&file, &error))?;
                } else {
                    failed(path, &json::chain(&error), output)?;
                }
                return Ok(if is_bad { USAGE } else { FAILED });
            }
            Err(error) => return Err(error.into()),
        }
        output.out.flush()?;
    }
    Ok(code)
}

/// Returns what is sent of each file; `None` if one of them has mistakes, which are told: nothing is then
/// asked of the server, that none of several takes over without the others.
fn files(command: &Deploy, output: &mut Output<'_>) -> anyhow::Result<Option<Vec<FlatFile>>> {
    let mut files = Vec::with_capacity(command.pipelines.len());
    for (at, path) in command.pipelines.iter().enumerate() {
        match command.flat.get(at) {
            Some(Ok(flat)) => files.push(flat.clone()),
            Some(Err(mistakes)) if command.common.json => {
                let file = path.display().to_string();
                let error = json!({ "code": BAD_FILE, "message": mistakes });
                writeln!(output.out, "{}", json!({ "file": file, "error": error }))?;
            }
            Some(Err(mistakes)) => failed(path, mistakes, output)?,
            None => files.push(FlatFile {
                text: std::fs::read_to_string(path)
                    .with_context(|| format!("read the pipeline file {}", path.display()))?,
                params: BTreeMap::new(),
            }),
        }
    }
    output.out.flush()?;
    Ok((files.len() == command.pipelines.len()).then_some(files))
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

fn failed(path: &Path, why: &str, output: &mut Output<'_>) -> anyhow::Result<()> {
    // Mistakes come as they are shown, line by line; nothing in them reaches a terminal as a command.
    let lines: Vec<String> = why.lines().map(human::name).collect();
    let file = human::name(&path.display().to_string());
    writeln!(output.out, "{file}: not deployed: {}", lines.join("\n"))?;
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
