//! Sinks: whether what arrives at a sink can be written as it asks. Derived.

use tidemill_operators::Schema;
use tidemill_operators::format::OutputFormat;

use crate::diagnostic::{Mistakes, quoted};
use crate::graph::flow::{Flow, Stream, inputs, merge};
use crate::graph::names::{Names, Read};
use crate::graph::{GraphSink, NodeId, OperatorKind, SinkKind, error_schema};
use crate::retry::Policy;
use crate::sink::changes;
use crate::spec::{EmptyFiles, PipelineSpec, SinkBody, SinkSpec, Text};

/// Checks all sinks; `None` for one that is not known.
pub(crate) fn check(
    spec: &PipelineSpec,
    names: &Names,
    flow: &Flow,
    mistakes: &mut Mistakes<'_>,
) -> Vec<Option<GraphSink>> {
    check_names(&spec.sinks, mistakes);
    let sinks = spec.sinks.iter().zip(&names.sinks);
    sinks.map(|(sink, reads)| check_one(sink, reads, flow, mistakes)).collect()
}

/// Notes two sinks whose folders would be one where capitals do not count.
fn check_names(sinks: &[SinkSpec], mistakes: &mut Mistakes<'_>) {
    let mut seen = std::collections::HashMap::new();
    for sink in sinks {
        if let Some(first) = seen.insert(sink.name.text.to_lowercase(), &sink.name.text) {
            let message = format!(
                "the sinks {} and {} would share a folder on some systems",
                quoted(first),
                quoted(&sink.name.text)
            );
            sink.name.wrong(mistakes, message, None);
        }
    }
}

fn check_one(
    sink: &SinkSpec,
    reads: &[Read],
    flow: &Flow,
    mistakes: &mut Mistakes<'_>,
) -> Option<GraphSink> {
    let from = sink.from.as_deref().unwrap_or_default();
    let body = sink.body.as_ref()?;
    let retry = sink.retry.over(Policy::SINK);
    let name = sink.name.text.clone();
    let errors_of: Vec<NodeId> = reads
        .iter()
        .filter_map(|read| if let Read::Errors(node) = read { Some(*node) } else { None })
        .collect();
    // Files of nothing but rejected records also hold what is told of keys. Behind operators that keep
    // state rejected rows may be taken back, as any other rows there.
    let changes = |read: &Read| flow.stream(*read).is_some_and(|one| one.changed_by.is_some());
    if !errors_of.is_empty()
        && errors_of.len() == reads.len()
        && matches!(body, SinkBody::Files { .. })
        && !reads.iter().any(changes)
    {
        let (inputs, told_of) = (Vec::new(), Vec::new());
        let kind = errors(body, mistakes)?;
        return Some(GraphSink { name, inputs, errors_of, told_of, kind, retry });
    }
    let stream = merge(flow, from, reads, mistakes);
    let kind = match body {
        SinkBody::Files { format, format_at, empty } => {
            files(flow, from, reads, stream, (format, format_at, *empty), mistakes)?
        }
        SinkBody::Table(table) => {
            let schema = stream.schema?;
            if check_key(&schema, &table.key, mistakes) {
                check_key_is_whole(flow, reads, &table.key, &table.key_at, mistakes);
            }
            let changelog = table.changelog.as_ref().map(|(format, at)| {
                check_own_columns(&schema, at, mistakes);
                format.clone()
            });
            SinkKind::Table {
                format: table.format.clone(),
                changelog,
                key: table.key.iter().map(|column| column.text.clone()).collect(),
                schema,
                publish_every: table.publish_every,
            }
        }
    };
    let (errors_of, told_of) = (Vec::new(), Vec::new());
    Some(GraphSink { name, inputs: inputs(reads)?, errors_of, told_of, kind, retry })
}

/// Checks a sink of rejected records.
fn errors(body: &SinkBody, mistakes: &mut Mistakes<'_>) -> Option<SinkKind> {
    let SinkBody::Files { format, format_at, empty } = body else { return None };
    if *format == OutputFormat::Raw {
        refuse_raw(format_at, mistakes);
    }
    let empty = *empty == EmptyFiles::Write;
    let format = format.clone();
    Some(SinkKind::Files { format, schema: error_schema(), empty, changing: false })
}

fn refuse_raw(format_at: &Text, mistakes: &mut Mistakes<'_>) {
    let message = "rejected records are written with their reason, which `raw` cannot hold";
    let hint = "write them as jsonl or csv; the record is in the column `raw`".to_owned();
    format_at.wrong(mistakes, message, hint);
}

fn files(
    flow: &Flow,
    from: &[Text],
    reads: &[Read],
    stream: Stream,
    (format, format_at, empty): (&OutputFormat, &Text, EmptyFiles),
    mistakes: &mut Mistakes<'_>,
) -> Option<SinkKind> {
    const TABLE: &str = "write a `table`: `table: { format: csv, key: [...] }`";
    let mut changing = false;
    for (from, read) in from.iter().zip(reads) {
        if *format == OutputFormat::Raw && flow.rejected_before(*read).is_some() {
            refuse_raw(format_at, mistakes);
            continue;
        }
        if let Some(aggregate) =
            flow.aggregate_before(*read).filter(|_| *format == OutputFormat::Raw)
        {
            let message =
                format!("behind the aggregate {} there are no raw records", quoted(aggregate));
            format_at.wrong(mistakes, message, TABLE.to_owned());
            continue;
        }
        let Some(stream) = flow.stream(*read) else { continue };
        let Some(passed) = stream.changed_by.as_deref() else { continue };
        changing = true;
        if !stream.has_place {
            let message = format!(
                "what {} says is about all files together; a `files` sink writes one file for each \
                 input file",
                quoted(passed)
            );
            let hint = format!("{TABLE}; or let it speak of each file (`per: file`), if it can");
            from.wrong(mistakes, message, hint);
        }
    }
    let schema = match format {
        OutputFormat::Raw => Schema::default(),
        OutputFormat::Jsonl | OutputFormat::Csv { .. } => stream.schema?,
    };
    let empty = empty == EmptyFiles::Write;
    Some(SinkKind::Files { format: format.clone(), schema, empty, changing })
}

/// Notes columns that are called as those which a changelog adds.
fn check_own_columns(schema: &Schema, at: &Text, mistakes: &mut Mistakes<'_>) {
    for name in [changes::EPOCH, changes::DIFF] {
        if schema.column(name).is_some() {
            let message = format!("a changelog has a column {} of its own", quoted(name));
            let hint = "give the column of the table another name with `select`".to_owned();
            at.wrong(mistakes, message, hint);
        }
    }
}

/// Notes the columns of a key that are not there, and returns whether all are.
fn check_key(schema: &Schema, key: &[Text], mistakes: &mut Mistakes<'_>) -> bool {
    let mut fits = true;
    for column in key {
        if schema.column(&column.text).is_none() {
            let names = schema.columns().iter().map(|column| column.name.as_str());
            let hint = mistakes.nearest_hint(&column.text, names, "the columns are");
            let message = format!("there is no column {}", quoted(&column.text));
            column.wrong(mistakes, message, hint);
            fits = false;
        }
    }
    fits
}

/// Notes a key that lets two groups of one aggregate fall on one row.
fn check_key_is_whole(
    flow: &Flow,
    reads: &[Read],
    key: &[Text],
    key_at: &Text,
    mistakes: &mut Mistakes<'_>,
) {
    let [read] = reads else { return };
    let Some(OperatorKind::Aggregate { by, spec, .. }) = flow.kind(*read) else { return };
    if spec.is_per_file() {
        let message = "groups of one file have no key of their own among all files";
        let hint = "write `files`, or aggregate over them before the table".to_owned();
        key_at.wrong(mistakes, message, hint);
        return;
    }
    let missing = by.iter().find(|(name, _)| !key.iter().any(|column| column.text == *name));
    if let Some((name, _)) = missing {
        let columns: Vec<&str> = by.iter().map(|(name, _)| name.as_str()).collect();
        let message = format!("the key lacks {}: several groups would share a row", quoted(name));
        let hint = format!("key: [{}]", columns.join(", "));
        key_at.wrong(mistakes, message, hint);
    }
}
