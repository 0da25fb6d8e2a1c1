//! Json: verdicts for programs. Field names are stable.

use serde_json::json;

use super::{Suite, Verdict};

/// Returns all verdicts as one JSON value.
pub(super) fn report(suites: &[Suite]) -> anyhow::Result<String> {
    let files: Vec<_> = suites
        .iter()
        .map(|suite| {
            let tests: Vec<_> = suite.verdicts.iter().map(verdict).collect();
            json!({ "file": suite.file, "pipeline": suite.pipeline, "tests": tests })
        })
        .collect();
    let all = || suites.iter().flat_map(|suite| &suite.verdicts);
    let failed = all().filter(|one| !one.holds()).count();
    let report = json!({ "files": files, "tests": all().count(), "failed": failed });
    Ok(serde_json::to_string_pretty(&report)? + "\n")
}

fn verdict(one: &Verdict) -> serde_json::Value {
    let failures: Vec<_> = one
        .failures
        .iter()
        .map(|failure| {
            json!({
                "about": failure.about, "line": failure.at.line, "column": failure.at.column,
                "message": failure.message, "columns": failure.columns,
                "differences": failure.differences,
            })
        })
        .collect();
    json!({
        "name": one.name, "line": one.line, "ok": one.holds(),
        "took_ms": one.took.as_millis() as u64, "error": one.error, "failures": failures,
        "walk": one.walk,
    })
}
