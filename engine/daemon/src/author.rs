//! Author: what the author of a pipeline asks: is it right, what does it look like, what is in
//! force.

use tidemill_engine::draw;
use tidemill_engine::plan::{OperatorKind, OperatorPlan, describe, loops};
use tidemill_engine::report::LoopReport;

use crate::flags::{CheckFlags, ConfigFlags, Drawing, GraphFlags};
use crate::pipeline::{Values, load_with, load_with_tests};
use crate::settings::Settings;
use crate::{USAGE, complain, say, secrets};

/// `tidemill check`
pub fn check(flags: &CheckFlags) -> anyhow::Result<u8> {
    let Some(values) = Values::gather(&flags.params)? else { return Ok(USAGE) };
    if flags.flat && flags.pipelines.len() > 1 {
        complain("error: --flat prints one pipeline file");
        return Ok(USAGE);
    }
    let mut all = Vec::with_capacity(flags.pipelines.len());
    for path in &flags.pipelines {
        all.push((path.display().to_string(), load_with_tests(path, &values)?));
    }
    // While a file could not be read, its parameters are not known.
    if all.iter().all(|(_, loaded)| loaded.is_ok()) && !values.all_known() {
        return Ok(USAGE);
    }
    let mut code = 0;
    let mut report = Vec::new();
    for (file, loaded) in all {
        match loaded {
            Ok(plan) if flags.flat => say(plan.yaml.as_bytes())?,
            Ok(plan) if flags.json => {
                report.push(serde_json::json!({
                    "file": file, "ok": true, "pipeline": plan.name, "plan_hash": plan.hash,
                    "loops": loops(&plan), "mistakes": [],
                }));
            }
            Ok(plan) => {
                // What makes rows of rejected records, and their built-in sink, are not the author's.
                let is_written =
                    |one: &&OperatorPlan| !matches!(one.kind, OperatorKind::Errors { .. });
                let parts = [
                    counted(plan.sources.len(), "source"),
                    counted(plan.operators.iter().filter(is_written).count(), "operator"),
                    counted(plan.sinks.len() - 1, "sink"),
                ];
                say(format!("{file}: ok: pipeline {} ({})\n", plan.name, parts.join(", "))
                    .as_bytes())?;
                for one in loops(&plan) {
                    say(explained(&one).as_bytes())?;
                }
                if let Some(lacks) = secrets::lacks(&plan) {
                    complain(&format!("note: to run it: {lacks}"));
                }
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

fn counted(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// Says what a loop does.
fn explained(one: &LoopReport) -> String {
    let within = one.within.as_ref().map_or(String::new(), |outer| format!(" (inside of {outer})"));
    let leaves = match one.leaves.as_slice() {
        [] => "where an operator leaves it out".to_owned(),
        leaves => leaves.join(", "),
    };
    format!(
        "  loop of {}{within}: back by {}, at most {} rounds; through {}; leaves by {leaves}; what goes \
         round more often leaves by {}.errors\n",
        one.head,
        one.back.join(", "),
        one.max_rounds,
        one.body.join(", "),
        one.head,
    )
}

/// `tidemill graph`
pub fn graph(flags: &GraphFlags) -> anyhow::Result<u8> {
    let Some(values) = Values::gather(&flags.params)? else { return Ok(USAGE) };
    let plan = match load_with(&flags.pipeline, &values)? {
        Ok(plan) => plan,
        Err(mistakes) => {
            mistakes.complain();
            return Ok(USAGE);
        }
    };
    if !values.all_known() {
        return Ok(USAGE);
    }
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
