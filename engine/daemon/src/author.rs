//! Author: what the author of a pipeline asks: is it right, what does it look like, what is in
//! force.

use std::path::Path;

use anyhow::Context;
use tidemill_engine::plan::describe;
use tidemill_engine::{Diagnostic, Plan, draw, plan};

use crate::flags::{CheckFlags, ConfigFlags, Drawing, GraphFlags};
use crate::settings::Settings;
use crate::{USAGE, complain, say};

/// Reads and plans a pipeline file; the mistakes are ready to be shown.
pub fn load(path: &Path) -> anyhow::Result<Result<Plan, Mistakes>> {
    let yaml = std::fs::read_to_string(path)
        .with_context(|| format!("read the pipeline file {}", path.display()))?;
    Ok(load_text(path, yaml))
}

/// Plans the text of a pipeline file that was read before.
pub fn load_text(path: &Path, yaml: String) -> Result<Plan, Mistakes> {
    let file = path.display().to_string();
    plan(&yaml).map_err(|diagnostics| Mistakes { file, yaml, diagnostics })
}

/// The mistakes in one pipeline file.
pub struct Mistakes {
    file: String,
    yaml: String,
    diagnostics: Vec<Diagnostic>,
}

impl Mistakes {
    /// Shows them to a person.
    pub fn complain(&self) {
        for diagnostic in &self.diagnostics {
            complain(diagnostic.render(&self.file, &self.yaml).trim_end());
            complain("");
        }
        let count = self.diagnostics.len();
        let mistakes =
            if count == 1 { "1 mistake".to_owned() } else { format!("{count} mistakes") };
        complain(&format!("{}: {mistakes}", self.file));
    }
}

/// `tidemill check`
pub fn check(flags: &CheckFlags) -> anyhow::Result<u8> {
    let mut code = 0;
    let mut report = Vec::new();
    for path in &flags.pipelines {
        let file = path.display().to_string();
        match load(path)? {
            Ok(plan) if flags.json => {
                report.push(serde_json::json!({
                    "file": file, "ok": true, "pipeline": plan.name, "plan_hash": plan.hash,
                    "mistakes": [],
                }));
            }
            Ok(plan) => {
                let (sources, operators) = (plan.sources.len(), plan.operators.len());
                // The built-in sink of rejects is not the author's.
                let sinks = plan.sinks.len() - 1;
                say(format!(
                    "{file}: ok: pipeline {} ({sources} sources, {operators} operators, {sinks} sinks)\n",
                    plan.name
                )
                .as_bytes())?;
            }
            Err(mistakes) => {
                code = USAGE;
                if flags.json {
                    report.push(serde_json::json!({
                        "file": file, "ok": false, "mistakes": mistakes.diagnostics,
                    }));
                } else {
                    mistakes.complain();
                }
            }
        }
    }
    if flags.json {
        say(format!("{}\n", serde_json::to_string_pretty(&report)?).as_bytes())?;
    }
    Ok(code)
}

/// `tidemill graph`
pub fn graph(flags: &GraphFlags) -> anyhow::Result<u8> {
    let plan = match load(&flags.pipeline)? {
        Ok(plan) => plan,
        Err(mistakes) => {
            mistakes.complain();
            return Ok(USAGE);
        }
    };
    let text = if flags.json {
        let (nodes, edges) = describe(&plan);
        let graph = serde_json::json!({ "pipeline": plan.name, "nodes": nodes, "edges": edges });
        serde_json::to_string_pretty(&graph)? + "\n"
    } else {
        match flags.format {
            Drawing::Mermaid => draw::mermaid(&plan),
            Drawing::Svg => draw::svg(&plan),
        }
    };
    say(text.as_bytes())?;
    Ok(0)
}

/// `tidemill config`
pub fn config(flags: &ConfigFlags) -> anyhow::Result<u8> {
    let settings = match Settings::gather(&flags.settings, &|name| std::env::var(name).ok()) {
        Ok(settings) => settings,
        Err(error) => {
            complain(&format!("error: {error}"));
            return Ok(USAGE);
        }
    };
    let text = if flags.json {
        serde_json::to_string_pretty(&settings.written)? + "\n"
    } else {
        let line = |one: &crate::settings::Written| {
            format!("{:<11} {:<24} {}\n", one.name, one.value, one.origin)
        };
        settings.written.iter().map(line).collect()
    };
    say(text.as_bytes())?;
    Ok(0)
}
