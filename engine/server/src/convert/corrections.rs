//! Corrections: what a dry run tells, for the wire.

use std::time::Duration;

use tidemill_engine::dry_run::{DryRun, OutputChange, RowChange, SinkChanges, TableChanges};
use tidemill_proto::v1;

/// Translates what a dry run tells.
pub(crate) fn dry_run(told: DryRun) -> v1::DryRun {
    let DryRun { pipeline, name, corrects, removes, failure, records, rejected, .. } = told;
    v1::DryRun {
        pipeline,
        name,
        corrects,
        removes,
        failure: failure.map(|(code, text)| v1::Reason { code, text }),
        records,
        rejected,
        sinks: told.sinks.into_iter().map(sink).collect(),
        outputs: told.outputs.into_iter().map(output).collect(),
        tables: told.tables.into_iter().map(table).collect(),
        took: prost_types::Duration::try_from(Duration::from_micros(told.took_us)).ok(),
    }
}

fn sink(changes: SinkChanges) -> v1::SinkChanges {
    let SinkChanges { sink, new, replaced, removed, same } = changes;
    v1::SinkChanges { sink, new, replaced, removed, same }
}

fn output(change: OutputChange) -> v1::OutputChange {
    let OutputChange { path, before, after } = change;
    v1::OutputChange { path, before, after }
}

fn table(changes: TableChanges) -> v1::TableChanges {
    let TableChanges { table, added, removed, changed, sample } = changes;
    let row = |RowChange { before, after }| v1::RowChange { before, after };
    let sample = sample.into_iter().map(row).collect();
    v1::TableChanges { table, added, removed, changed, sample }
}
