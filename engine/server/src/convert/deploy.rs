//! Deploy: what a client asks to be deployed, and what it is told. Translates only.

use std::fmt::Write as _;
use std::time::Duration;

use tidemill_engine::deploy::PartFate;
use tidemill_engine::engine::{Deploy, DeployError, DeployReport, Undeploy, UndeployReport};
use tidemill_proto::v1;

use crate::convert::timeout_of;
use crate::refusal::Refusal;

/// How long files under way may take when the client does not say, and at most.
const PATIENCE: Duration = Duration::from_secs(600);
const PATIENCE_MAX: Duration = Duration::from_secs(3600);

/// How much is told of the mistakes in a pipeline file, in bytes: a status travels in a header.
const MISTAKES_BYTES_MAX: usize = 4096;

/// How a pipeline file is called that has no name here.
const FILE: &str = "pipeline.yaml";

/// Reads a request.
pub(crate) fn request(request: v1::DeployRequest) -> Result<Deploy, Refusal> {
    let patience = timeout_of(request.timeout)?.unwrap_or(PATIENCE).min(PATIENCE_MAX);
    let v1::DeployRequest { yaml, dry_run, params, .. } = request;
    Ok(Deploy { yaml, params: params.into_iter().collect(), dry_run, patience })
}

/// Reads a request to undeploy.
pub(crate) fn undeploy_request(request: v1::UndeployRequest) -> Result<Undeploy, Refusal> {
    let patience = timeout_of(request.timeout)?.unwrap_or(PATIENCE).min(PATIENCE_MAX);
    Ok(Undeploy { pipeline: request.pipeline, patience })
}

/// Translates what an undeployed pipeline leaves behind.
pub(crate) fn undeploy_report(report: UndeployReport) -> v1::UndeployResponse {
    let UndeployReport { pipeline, last_epoch, folder } = report;
    v1::UndeployResponse { pipeline, last_epoch, folder }
}

/// Translates a report.
pub(crate) fn report(report: DeployReport) -> v1::DeployResponse {
    let part = |part: PartFate| v1::DeployPart {
        name: part.name,
        role: part.role.to_owned(),
        kind: part.kind,
        fate: part.fate.word().to_owned(),
        detail: part.detail,
    };
    v1::DeployResponse {
        pipeline: report.pipeline,
        plan_hash: report.plan_hash,
        replaced_plan_hash: report.replaced.unwrap_or_default(),
        changed: report.changed,
        parts: report.parts.into_iter().map(part).collect(),
        files: report.files,
        bytes: report.bytes,
        refused: report.refused.unwrap_or_default(),
        version: report.version,
        first_epoch: report.first_epoch,
    }
}

/// Translates an error; mistakes are written out as `tidemill check` writes them, as far as there is
/// room.
pub(crate) fn refusal(error: DeployError, yaml: &str) -> Refusal {
    let DeployError::Mistakes(mistakes) = error else { return Refusal::Deploy(error) };
    let count = mistakes.len();
    let mut text = match count {
        1 => "the pipeline file has 1 mistake".to_owned(),
        _ => format!("the pipeline file has {count} mistakes"),
    };
    for (told, mistake) in mistakes.iter().enumerate() {
        let shown = mistake.render(FILE, yaml);
        if text.len() + shown.len() > MISTAKES_BYTES_MAX {
            // A String takes everything.
            let _ = write!(text, "\n(and {} more: `tidemill check` shows all)", count - told);
            break;
        }
        let _ = write!(text, "\n{}", shown.trim_end());
    }
    Refusal::PipelineFile { text }
}
