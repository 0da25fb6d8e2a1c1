//! Deploy: a pipeline file is handed to a running server, and takes over there; or a pipeline leaves it.

use std::collections::BTreeMap;
use std::time::Duration;

use tidemill_proto::v1;
use tokio::time::Instant;

use crate::client::Client;
use crate::error::Error;
use crate::retry::patiently;

/// How often it is asked whether the server runs what was deployed.
const LOOK: Duration = Duration::from_millis(20);

/// What a deployment did, or would do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deployment {
    /// The pipeline.
    pub pipeline: String,
    /// The hash of its new plan, in hex.
    pub plan_hash: String,
    /// The hash of the plan it takes the place of; `None` for a pipeline that did not run.
    pub replaced: Option<String>,
    /// Whether the file differs from the one that runs. If not, nothing happens.
    pub changed: bool,
    /// What becomes of each part.
    pub parts: Vec<DeployedPart>,
    /// How many committed files are read again to make state anew.
    pub files: u64,
    /// Their size in bytes.
    pub bytes: u64,
    /// Why it would be refused; only in a dry run.
    pub refused: Option<String>,
    /// How many deployments of the pipeline there were, this one included; 0 in a dry run.
    pub version: u64,
    /// The first epoch of the new plan; 0 in a dry run.
    pub first_epoch: u64,
}

/// What an undeployed pipeline leaves behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Undeployed {
    /// The pipeline.
    pub pipeline: String,
    /// The last epoch of its files; 0 if there was none.
    pub last_epoch: u64,
    /// Its folder on the server, which stays as it is.
    pub folder: String,
}

/// One part of a pipeline, and what a deployment makes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeployedPart {
    /// Its name.
    pub name: String,
    /// `source`, `operator` or `sink`.
    pub role: String,
    /// What it is: `jsonl`, `aggregate`, `table`, ...
    pub kind: String,
    /// `kept`, `rebuilt`, `changed`, `new` or `removed`.
    pub fate: String,
    /// What that means, for a person; may be empty.
    pub detail: String,
}

impl Client {
    /// Lets a pipeline file take over at a file boundary, or adds a pipeline; returns once that is
    /// durable. With `dry_run` it only says what would happen. Files under way may take as long as
    /// `timeout` to be finished.
    ///
    /// If the connection breaks off in the middle it asks again, and then a file that has taken over
    /// meanwhile counts as one that runs already.
    pub async fn deploy(
        &self,
        yaml: &str,
        dry_run: bool,
        timeout: Duration,
    ) -> Result<Deployment, Error> {
        self.deploy_with(yaml, &BTreeMap::new(), dry_run, timeout).await
    }

    /// Does what [`Client::deploy`] does, with a text in which parameters have these values already: they
    /// are remembered, so that a start that is given the same file finds what was deployed.
    pub async fn deploy_with(
        &self,
        yaml: &str,
        params: &BTreeMap<String, String>,
        dry_run: bool,
        timeout: Duration,
    ) -> Result<Deployment, Error> {
        let timeout = prost_types::Duration::try_from(timeout).ok();
        let params = params.clone().into_iter().collect();
        let request = v1::DeployRequest { yaml: yaml.to_owned(), dry_run, timeout, params };
        let answer = patiently(|| {
            let (mut client, request) = (self.pipelines_client(), request.clone());
            async move { Ok(client.deploy(request).await?) }
        });
        Ok(deployment(answer.await?.into_inner()))
    }

    /// Lets a pipeline leave that was deployed; returns once that is durable. Files under way may take as
    /// long as `timeout` to be finished.
    ///
    /// If the connection breaks off in the middle it asks again, and then a pipeline that does not run
    /// counts as one that has left: `None`.
    pub async fn undeploy(
        &self,
        pipeline: &str,
        timeout: Duration,
    ) -> Result<Option<Undeployed>, Error> {
        let timeout = prost_types::Duration::try_from(timeout).ok();
        let request = v1::UndeployRequest { pipeline: pipeline.to_owned(), timeout };
        let mut asked = 0;
        let answer = patiently(|| {
            asked += 1;
            let (mut client, request) = (self.pipelines_client(), request.clone());
            async move { Ok(client.undeploy(request).await?) }
        });
        let answer = answer.await;
        match answer {
            Ok(answer) => {
                let v1::UndeployResponse { pipeline, last_epoch, folder } = answer.into_inner();
                Ok(Some(Undeployed { pipeline, last_epoch, folder }))
            }
            Err(error) if asked > 1 && error.word() == Some("no_pipeline") => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Waits until the server runs without a pipeline, for so long at most; returns whether it does.
    pub async fn wait_without_pipeline(
        &self,
        name: &str,
        timeout: Duration,
    ) -> Result<bool, Error> {
        let begin = Instant::now();
        loop {
            match self.pipelines().await {
                Ok(all) if all.iter().all(|pipeline| pipeline.name != name) => return Ok(true),
                Err(error) if !matches!(error.word(), Some("draining" | "starting")) => {
                    return Err(error);
                }
                _ if begin.elapsed() >= timeout => return Ok(false),
                _ => tokio::time::sleep(LOOK).await,
            }
        }
    }

    /// Waits until the server runs this text of a pipeline, for so long at most; returns whether it
    /// does.
    pub async fn wait_for_pipeline(
        &self,
        name: &str,
        yaml: &str,
        timeout: Duration,
    ) -> Result<bool, Error> {
        let begin = Instant::now();
        loop {
            // A server that does not know the pipeline yet is about to.
            match self.pipeline(Some(name)).await {
                Ok(pipeline) if pipeline.yaml == yaml => return Ok(true),
                Err(error)
                    if !matches!(error.word(), Some("no_pipeline" | "draining" | "starting")) =>
                {
                    return Err(error);
                }
                _ if begin.elapsed() >= timeout => return Ok(false),
                _ => tokio::time::sleep(LOOK).await,
            }
        }
    }
}

fn deployment(wire: v1::DeployResponse) -> Deployment {
    let said = |text: String| (!text.is_empty()).then_some(text);
    let part = |part: v1::DeployPart| DeployedPart {
        name: part.name,
        role: part.role,
        kind: part.kind,
        fate: part.fate,
        detail: part.detail,
    };
    Deployment {
        pipeline: wire.pipeline,
        plan_hash: wire.plan_hash,
        replaced: said(wire.replaced_plan_hash),
        changed: wire.changed,
        parts: wire.parts.into_iter().map(part).collect(),
        files: wire.files,
        bytes: wire.bytes,
        refused: said(wire.refused),
        version: wire.version,
        first_epoch: wire.first_epoch,
    }
}
