//! Sink: what a sink of the plan needs to know of the plan to be rendered. Derived.

use std::collections::BTreeSet;

use tidemill_operators::Batch;
use tidemill_operators::meter::Meter;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::Operator;

use crate::plan::{NodeId, Plan, SinkKind, SinkPlan, error_schema};
use crate::render::Batches;
use crate::sink::changes::{self, Changelog};
use crate::sink::parts::FileSink;
use crate::sink::table::Columns;

/// Returns how a sink writes files, if that is what it does.
pub(super) fn file_sink(plan: &Plan, index: usize, sink: &SinkPlan) -> Option<FileSink> {
    let name = sink.name.clone();
    let sources = sources_of(plan, sink);
    match &sink.kind {
        SinkKind::Files { format, schema, empty, changing: _ } => Some(FileSink {
            index,
            name,
            format: format.clone(),
            schema: schema.clone(),
            empty: *empty,
            sources,
        }),
        SinkKind::Rejects => Some(FileSink {
            index,
            name,
            format: tidemill_operators::format::OutputFormat::Jsonl,
            schema: error_schema(),
            empty: false,
            sources,
        }),
        SinkKind::Table { .. } => None,
    }
}

/// Returns the changelog of a table, if it has one.
pub(super) fn changelog(plan: &Plan, index: usize, sink: &SinkPlan) -> Option<Changelog> {
    let SinkKind::Table { key, schema, .. } = &sink.kind else { return None };
    let (place, (_, format)) = plan.changelogs().enumerate().find(|(_, (at, _))| *at == index)?;
    let columns = Columns::new(schema.clone(), key);
    let place = plan.sinks.len() + place;
    let sink = changes::file_sink(place, &sink.name, format, &columns, sources_of(plan, sink));
    Some(Changelog { sink, columns })
}

/// Returns the sources from which records can come to a sink.
fn sources_of(plan: &Plan, sink: &SinkPlan) -> BTreeSet<usize> {
    let source = |node| match node {
        NodeId::Source(at) => Some(at),
        NodeId::Operator(_) => None,
    };
    plan.with_all_before(sink.upstream()).into_iter().filter_map(source).collect()
}

/// Counts what a table takes in; its rows go on to worker 0.
pub(super) fn counted_in<'scope>(
    title: &str,
    rows: Batches<'scope>,
    meter: Meter,
) -> Batches<'scope> {
    rows.unary::<CapacityContainerBuilder<Batch>, _, _, _>(Pipeline, title, |_, _| {
        move |input, output| {
            input.for_each_stamp(|capability, batches| {
                for batch in batches {
                    if batch.diff > 0 {
                        meter.took(batch.len(), 0);
                        meter.gave(0, batch.len(), 0);
                    }
                    output.session(&capability).give_container(batch);
                }
            });
        }
    })
}
