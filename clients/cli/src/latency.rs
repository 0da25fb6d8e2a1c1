//! Latency: how long files take, stage by stage.

use std::time::Duration;

use serde_json::json;
use tidemill_client::Client;

use crate::command::Latency;
use crate::output::Output;
use crate::table::{Cell, Side, Table};
use crate::{human, json};

/// Runs `latency`.
pub(crate) async fn run(command: Latency, output: &mut Output<'_>) -> anyhow::Result<u8> {
    let client = Client::connect(&command.common.server).await?;
    let stages = client.latency(command.pipeline.as_deref()).await?;
    if command.common.json {
        let stages: Vec<_> = stages.iter().map(json::latency).collect();
        writeln!(output.out, "{}", json!({ "stages": stages }))?;
        return Ok(0);
    }
    let mut table = Table::new(&[
        ("PIPELINE", Side::Left),
        ("STAGE", Side::Left),
        ("FILES", Side::Right),
        ("MIN", Side::Right),
        ("P50", Side::Right),
        ("P90", Side::Right),
        ("P99", Side::Right),
        ("P99.9", Side::Right),
        ("MAX", Side::Right),
    ]);
    for stage in &stages {
        let histogram = &stage.histogram;
        let measured = !histogram.is_empty();
        let cell = |micros| -> Cell {
            let text = measured.then(|| human::duration(Duration::from_micros(micros)));
            text.unwrap_or_else(|| "-".to_owned()).into()
        };
        table.row(vec![
            human::name(&stage.pipeline).into(),
            human::name(&stage.stage).into(),
            human::count(histogram.len()).into(),
            cell(histogram.min()),
            cell(histogram.value_at_quantile(0.5)),
            cell(histogram.value_at_quantile(0.9)),
            cell(histogram.value_at_quantile(0.99)),
            cell(histogram.value_at_quantile(0.999)),
            cell(histogram.max()),
        ]);
    }
    output.out.write_all(table.text(output.colours).as_bytes())?;
    Ok(0)
}
