//! Describe: a plan as nodes and edges, for people and for the dashboard. Derived.

use tidemill_operators::explode::List;
use tidemill_operators::expr::Expr;
use tidemill_operators::format::{Format, OutputFormat, TableFormat};
use tidemill_operators::keyed::Arrival;
use tidemill_operators::{Column, Schema};

use crate::plan::{
    Join, LoopPlan, NodeId, OperatorKind, OrderTerm, OrderedRows, Plan, Side, SinkKind, SinkPlan,
    SourcePlan, error_schema,
};
use crate::report::{EdgeReport, LoopReport, NodeReport};
use crate::spec::ROWS_MAX_DEFAULT;

/// Returns the nodes of a plan (sources, operators, sinks) and its edges.
///
/// A sink may have the name of a source or operator; its role tells them apart, and an edge to a sink
/// is one of those that come after all edges to operators.
pub fn describe(plan: &Plan) -> (Vec<NodeReport>, Vec<EdgeReport>) {
    let node = |name: &str, role: &str, kind: &str, detail: String| NodeReport {
        name: name.to_owned(),
        role: role.to_owned(),
        kind: kind.to_owned(),
        detail,
    };
    let mut nodes = Vec::new();
    let mut edges = Vec::new();
    for source in &plan.sources {
        let kind = format_word(&source.read.format);
        nodes.push(node(&source.name, "source", kind, source_detail(source)));
    }
    for (at, operator) in plan.operators.iter().enumerate() {
        let tag = |port: usize| operator.outputs.get(port).map_or("", |port| port.tag.as_str());
        let detail = match &operator.kind {
            OperatorKind::Join(join) => {
                let inputs = operator.inputs.iter().map(|input| plan.port_name(input.from));
                let shared = Side::BOTH.into_iter().filter_map(|side| {
                    let keeper = plan.operators.get(plan.keeper_of(at, side)?.0)?;
                    Some(format!(", {} side kept by {}", side.word(), keeper.name))
                });
                join_detail(join, inputs) + &shared.collect::<String>()
            }
            kind => operator_detail(kind, tag),
        };
        let detail = match plan.loop_of(at) {
            None => detail,
            Some(one) => format!("{detail}; {}", loop_detail(plan, one)),
        };
        nodes.push(node(&operator.name, "operator", operator.kind.word(), detail));
        edges.extend(operator.kind.errors_of().map(|node| EdgeReport {
            from: plan.node_name(node).to_owned(),
            tag: "errors".to_owned(),
            to: operator.name.clone(),
            columns: columns(&error_schema()),
        }));
        for input in &operator.inputs {
            let port = plan.port(input.from);
            edges.push(EdgeReport {
                from: plan.node_name(input.from.node).to_owned(),
                tag: port.tag.clone(),
                to: operator.name.clone(),
                columns: columns(&port.shape.schema),
            });
        }
    }
    for sink in &plan.sinks {
        let (kind, detail) = sink_detail(&sink.kind);
        nodes.push(node(&sink.name, "sink", kind, detail));
        edges.extend(sink_edges(plan, sink));
    }
    (nodes, edges)
}

/// `back by fix, at most 3 rounds`.
fn loop_detail(plan: &Plan, one: &LoopPlan) -> String {
    let rounds = if one.max_rounds == 1 { "round" } else { "rounds" };
    format!("back by {}, at most {} {rounds}", back(plan, one).join(", "), one.max_rounds)
}

fn back(plan: &Plan, one: &LoopPlan) -> Vec<String> {
    let inputs = &plan.operators[one.head].inputs;
    let back = one.back.iter().filter_map(|at| inputs.get(*at));
    back.map(|input| plan.port_name(input.from)).collect()
}

/// Returns a line or two on each loop of a plan: where it is entered, what goes back, what it goes
/// through, and where records leave it.
pub fn loops(plan: &Plan) -> Vec<LoopReport> {
    let name = |at: &usize| plan.operators[*at].name.clone();
    let one = |one: &LoopPlan| {
        let inside = |node: NodeId| matches!(node, NodeId::Operator(at) if one.body.contains(&at));
        let readers = plan
            .operators
            .iter()
            .enumerate()
            .map(|(at, reader)| (!one.body.contains(&at), reader.name.clone(), &reader.inputs));
        let sinks = plan.sinks.iter().map(|sink| (true, sink.name.clone(), &sink.inputs));
        let mut leaves = Vec::new();
        for (_, reader, inputs) in readers.chain(sinks).filter(|(outside, ..)| *outside) {
            for input in inputs.iter().filter(|input| inside(input.from.node)) {
                leaves.push(format!("{} -> {reader}", plan.port_name(input.from)));
            }
        }
        let around = plan.around(one.head).filter(|outer| outer.head != one.head).last();
        LoopReport {
            head: name(&one.head),
            max_rounds: one.max_rounds,
            back: back(plan, one),
            body: one.body.iter().map(name).collect(),
            leaves,
            within: around.map(|outer| name(&outer.head)),
        }
    };
    plan.loops.iter().map(one).collect()
}

fn sink_edges(plan: &Plan, sink: &SinkPlan) -> Vec<EdgeReport> {
    let inputs = sink.inputs.iter().map(|input| {
        let port = plan.port(input.from);
        EdgeReport {
            from: plan.node_name(input.from.node).to_owned(),
            tag: port.tag.clone(),
            to: sink.name.clone(),
            columns: columns(&port.shape.schema),
        }
    });
    let errors = sink.errors_of.iter().map(|node| (node, "errors"));
    let errors = errors.chain(sink.told_of.iter().map(|node| (node, "told")));
    let errors = errors.map(|(node, tag)| EdgeReport {
        from: plan.node_name(*node).to_owned(),
        tag: tag.to_owned(),
        to: sink.name.clone(),
        columns: columns(&error_schema()),
    });
    inputs.chain(errors).collect()
}

fn columns(schema: &Schema) -> Vec<String> {
    let column = |column: &Column| format!("{}: {}", column.name, column.kind);
    schema.columns().iter().map(column).collect()
}

pub(crate) const fn format_word(format: &Format) -> &'static str {
    match format {
        Format::Text => "text",
        Format::Jsonl => "jsonl",
        Format::Csv(_) => "csv",
    }
}

const fn output_word(format: &OutputFormat) -> &'static str {
    match format {
        OutputFormat::Raw => "raw",
        OutputFormat::Jsonl => "jsonl",
        OutputFormat::Csv { .. } => "csv",
    }
}

fn source_detail(source: &SourcePlan) -> String {
    source.patterns.join(", ")
}

fn operator_detail<'t>(kind: &OperatorKind, tag: impl Fn(usize) -> &'t str) -> String {
    let named = |(name, value): &(String, Expr)| {
        if value.column() == Some(name) {
            name.clone()
        } else {
            format!("{name}: {}", value.text())
        }
    };
    match kind {
        OperatorKind::Filter { keep } => keep.text().to_owned(),
        OperatorKind::Select { columns } => {
            columns.iter().map(named).collect::<Vec<_>>().join(", ")
        }
        OperatorKind::Route { rules, otherwise, .. } => rules
            .iter()
            .enumerate()
            .map(|(port, rule)| format!("{}: {}", tag(port), rule.text()))
            .chain(otherwise.map(|port| format!("{}: else", tag(port))))
            .collect::<Vec<_>>()
            .join(", "),
        OperatorKind::Expect { expectations } => {
            let all: Vec<&str> = expectations.iter().map(|one| one.condition.text()).collect();
            all.join(", ")
        }
        OperatorKind::Parse { column, captures, .. } => {
            let captures: Vec<&str> =
                captures.iter().map(|(capture, _)| capture.name.as_str()).collect();
            format!("{} out of {column}", captures.join(", "))
        }
        OperatorKind::Session { rows, gap_us } => {
            let by: Vec<String> = rows.by.iter().map(named).collect();
            let on = rows.order.first().map_or("", |term| term.value.text());
            format!("sessions of {on} by {}, gap {}", by.join(", "), span(*gap_us))
        }
        OperatorKind::State { rows, machine, horizon_us } => {
            let by: Vec<String> = rows.by.iter().map(named).collect();
            let horizon = horizon_us.map(|horizon| format!(", horizon {}", span(horizon)));
            let (states, by) = (machine.states.join(", "), by.join(", "));
            format!("{states} by {by}{}{}", ordered(rows), horizon.unwrap_or_default())
        }
        OperatorKind::Dedupe { rows } => {
            let by: Vec<String> = rows.by.iter().map(named).collect();
            let keep = if rows.keep == Arrival::Last { "last" } else { "first" };
            format!("{keep} by {}{}{}", by.join(", "), ordered(rows), kept(kind))
        }
        OperatorKind::Top { rows, count, .. } => {
            let by: Vec<String> = rows.by.iter().map(named).collect();
            let gap = if by.is_empty() { "" } else { " by " };
            format!("{count}{gap}{}{}{}", by.join(", "), ordered(rows), kept(kind))
        }
        OperatorKind::Window { on, windows } => {
            let (size, every) = (span(windows.size_us), span(windows.every_us));
            if windows.size_us == windows.every_us {
                format!("{size} of {}", on.text())
            } else {
                format!("{size} of {}, every {every}", on.text())
            }
        }
        OperatorKind::Explode { column, list, .. } => match list {
            List::Split(separator) => format!("{column} at {separator:?}"),
            List::Json => format!("{column} as JSON"),
        },
        OperatorKind::Aggregate { by, compute, spec } => {
            let compute: Vec<String> =
                compute.iter().map(|(name, value)| format!("{name}: {}", value.text())).collect();
            let by: Vec<String> = by.iter().map(named).collect();
            let per = if spec.is_per_file() { " per file" } else { "" };
            match by.as_slice() {
                [] => format!("{}{per}", compute.join(", ")),
                by => format!("{} by {}{per}", compute.join(", "), by.join(", ")),
            }
        }
        OperatorKind::Join(join) => join_detail(join, std::iter::empty()),
        OperatorKind::Errors { .. } => "rejected records, with their reason".to_owned(),
        OperatorKind::Lots { by, weights, .. } => {
            let by: Vec<String> = by.iter().map(named).collect();
            let gap = if by.is_empty() { "" } else { " by " };
            let total: u64 = weights.iter().sum();
            let share = |weight: &u64| {
                let share = format!("{:.4}", *weight as f64 * 100.0 / total as f64);
                format!("{} %", share.trim_end_matches('0').trim_end_matches('.'))
            };
            let lots = weights.iter().enumerate();
            let lots: Vec<String> =
                lots.map(|(port, weight)| format!("{}: {}", tag(port), share(weight))).collect();
            format!("{}{gap}{}", lots.join(", "), by.join(", "))
        }
    }
}

fn ordered(rows: &OrderedRows) -> String {
    let order: Vec<String> = rows.order.iter().map(OrderTerm::text).collect();
    if order.is_empty() { String::new() } else { format!(", order {}", order.join(", ")) }
}

/// Returns a duration as it is written in a pipeline file.
fn span(micros: i64) -> String {
    const UNITS: [(i64, &str); 4] =
        [(86_400_000_000, "d"), (3_600_000_000, "h"), (60_000_000, "m"), (1_000_000, "s")];
    let fits = UNITS.into_iter().find(|(size, _)| micros % size == 0);
    fits.map_or_else(
        || format!("{}ms", micros / 1_000),
        |(size, unit)| format!("{}{unit}", micros / size),
    )
}

/// What is said of an operator that keeps fewer rows than it gets.
fn kept(kind: &OperatorKind) -> &'static str {
    if kind.keeps_first().is_some() { ", others are not kept" } else { "" }
}

/// `inner with rates on currency = code, taking rate`; `inputs` are the names of all inputs.
fn join_detail(join: &Join, inputs: impl Iterator<Item = String>) -> String {
    let with: Vec<String> = inputs.skip(join.lefts).collect();
    let on = join.on.iter().map(|(left, right)| match &left.name {
        name if name == right => name.clone(),
        name => format!("{name} = {right}"),
    });
    let on: Vec<String> = on.collect();
    let taking: Vec<String> = join
        .take
        .iter()
        .map(|(column, right)| match &column.name {
            name if name == right => name.clone(),
            name => format!("{name}: {right}"),
        })
        .collect();
    let mut detail = format!("{} with {} on {}", join.kind.word(), with.join(", "), on.join(", "));
    if !taking.is_empty() {
        detail.push_str(&format!(", taking {}", taking.join(", ")));
    }
    if join.rows_max != ROWS_MAX_DEFAULT {
        detail.push_str(&format!(", at most {} rows of a key", join.rows_max));
    }
    detail
}

fn sink_detail(kind: &SinkKind) -> (&'static str, String) {
    match kind {
        SinkKind::Files { format, changing, .. } => {
            let how = if *changing { ", rewritten when a later file changes it" } else { "" };
            ("files", format!("{}{how}", output_word(format)))
        }
        SinkKind::Table { format, key, changelog, .. } => {
            let format = match format {
                Some(TableFormat::Rows(format)) => Some(output_word(format).to_owned()),
                Some(TableFormat::Parquet) => Some("parquet".to_owned()),
                None => None,
            };
            let changelog =
                changelog.as_ref().map(|format| format!("changelog {}", output_word(format)));
            let written: Vec<String> = format.into_iter().chain(changelog).collect();
            ("table", format!("{}, key {}", written.join(" and "), key.join(", ")))
        }
        SinkKind::Rejects => ("rejects", "every rejected record, with its reason".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::tests::{ACCESS_LOGS, good};

    #[test]
    fn the_example_in_a_few_words() {
        let (nodes, edges) = describe(&good(ACCESS_LOGS));
        let shown: Vec<String> = nodes
            .iter()
            .map(|node| format!("{} {} {}: {}", node.role, node.kind, node.name, node.detail))
            .collect();
        assert_eq!(
            shown,
            [
                "source jsonl logs: *.jsonl*",
                "operator route by_class: server_error: status >= 500, client_error: status >= 400, \
                 ok: else",
                "operator aggregate traffic: hits: count(*), bytes: sum(bytes), worst_ms: \
                 max(latency_ms) by host, status",
                "sink files errors: raw",
                "sink table traffic: csv, key host, status",
                "sink rejects rejects: every rejected record, with its reason",
            ]
        );
        assert_eq!(
            (edges[1].from.as_str(), edges[1].tag.as_str(), edges[1].to.as_str()),
            ("by_class", "ok", "traffic")
        );
        assert_eq!(
            edges[1].columns,
            ["host: string", "status: int", "bytes: int", "latency_ms: float"]
        );
        let rejected = edges.iter().filter(|edge| edge.tag == "errors" && edge.to == "rejects");
        assert_eq!(rejected.count(), 3, "what every node rejects goes somewhere");
    }

    #[test]
    fn the_rows_of_a_key_in_a_few_words() {
        let plan = good(
            "pipeline: p\nsources: { s: { format: csv, fields: { a: string, b: int } } }\noperators:\n  \
             x: { from: s, top: { k: 3, by: [a], order: [b desc, a nulls last] } }\n  \
             y: { from: x, dedupe: { by: { c: lower(a) }, keep: last } }\n  z: { from: y, top: { k: 1, order: b } }\n\
             sinks: { o: { from: z, table: { format: csv, key: [a] } } }\n",
        );
        let (nodes, _) = describe(&plan);
        let details: Vec<&str> = nodes[1..4].iter().map(|node| node.detail.as_str()).collect();
        assert_eq!(
            details,
            ["3 by a, order b desc, a nulls last", "last by c: lower(a)", "1, order b"]
        );
    }
}
