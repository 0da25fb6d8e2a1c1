//! Hash: one value for everything in a plan that changes what it does. Derived.
//!
//! The canonical form is text, one fact a line, and must not change between versions without need:
//! a home whose journal knows another hash has to be told that its pipeline changed. Strings are
//! written as JSON, so no value can pretend to be two lines.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use regex::Regex;
use serde::Serialize;
use tidemill_operators::aggregate::TakenBack;
use tidemill_operators::explode::List;
use tidemill_operators::expr::Expr;
use tidemill_operators::format::TableFormat;
use tidemill_operators::reject::OnError;
use tidemill_operators::state::MachineSpec;

use crate::contract::{Contract, Lines};
use crate::plan::{
    Input, Join, NodeId, OperatorKind, OrderedRows, Plan, SinkKind, SinkPlan, SourcePlan,
    error_schema,
};
use crate::spec::ROWS_MAX_DEFAULT;

/// Returns the hash of a plan in hex.
pub(super) fn of(plan: &Plan) -> String {
    blake3::hash(canonical(plan).as_bytes()).to_hex().to_string()
}

/// Returns the hash of everything that the state of an operator follows from: itself, and all that is
/// upstream of it. In hex.
pub(crate) fn of_operator(plan: &Plan, at: usize) -> String {
    state_hash(plan, vec![NodeId::Operator(at)], String::new())
}

/// Returns the hash of everything that the rows of a table follow from. In hex.
pub(crate) fn of_table(plan: &Plan, sink: &SinkPlan) -> String {
    let mut text = String::new();
    line(&mut text, "from", &inputs(plan, &sink.inputs));
    if let SinkKind::Table { key, schema, .. } = &sink.kind {
        line(&mut text, "key", key);
        line(&mut text, "schema", schema);
    }
    state_hash(plan, sink.inputs.iter().map(|input| input.from.node).collect(), text)
}

/// Returns the hash of everything that the rows of a `files` sink follow from. In hex.
pub(crate) fn of_files(plan: &Plan, sink: &SinkPlan) -> String {
    let mut text = String::new();
    line(&mut text, "from", &inputs(plan, &sink.inputs));
    sink_kind(&mut text, &sink.kind);
    state_hash(plan, sink.inputs.iter().map(|input| input.from.node).collect(), text)
}

/// Returns the hash of a source by itself: which files it takes, what it reads of them and what it asks of
/// them. In hex.
pub(crate) fn of_source(source: &SourcePlan) -> String {
    let mut text = String::from("tidemill source 1\n");
    line(&mut text, "patterns", &source.patterns);
    records(&mut text, source);
    line(&mut text, "inflate_ratio_max", &source.inflate_ratio_max);
    line(&mut text, "max_rejects", &source.max_rejects);
    line(&mut text, "taking", &format!("{:?}", source.taking));
    line(&mut text, "on_error", &source.on_error);
    if let Some(contract) = &source.contract {
        promises(&mut text, contract);
    }
    blake3::hash(text.as_bytes()).to_hex().to_string()
}

/// Returns the hash of what a sink writes, and of everything that it follows from. In hex.
pub(crate) fn of_sink(plan: &Plan, sink: &SinkPlan) -> String {
    let mut text = String::new();
    line(&mut text, "from", &inputs(plan, &sink.inputs));
    let errors: Vec<&str> = sink.errors_of.iter().map(|node| plan.node_name(*node)).collect();
    line(&mut text, "errors", &errors);
    sink_kind(&mut text, &sink.kind);
    let inputs = sink.inputs.iter().map(|input| input.from.node);
    state_hash(plan, inputs.chain(sink.errors_of.iter().copied()).collect(), text)
}

fn state_hash(plan: &Plan, mut ahead: Vec<NodeId>, own: String) -> String {
    let mut parts = BTreeSet::new();
    let mut seen = BTreeSet::new();
    while let Some(node) = ahead.pop() {
        if !seen.insert(node) {
            continue;
        }
        let mut part = String::new();
        match node {
            NodeId::Source(at) => {
                let source = &plan.sources[at];
                line(&mut part, "source", &source.name);
                records(&mut part, source);
            }
            NodeId::Operator(at) => {
                let operator = &plan.operators[at];
                line(&mut part, "operator", &operator.name);
                line(&mut part, "from", &inputs(plan, &operator.inputs));
                rounds(&mut part, plan, at);
                kind(&mut part, &operator.kind);
                ahead.extend(operator.upstream());
            }
        }
        parts.insert(part);
    }
    let text =
        parts.into_iter().fold(format!("tidemill state 1\n{own}"), |text, part| text + &part);
    blake3::hash(text.as_bytes()).to_hex().to_string()
}

/// Returns the canonical form. The order of operators and sinks in the file does not count; that of
/// sources does, since the first that matches takes a file.
fn canonical(plan: &Plan) -> String {
    let mut text = String::from("tidemill plan 1\n");
    line(&mut text, "pipeline", &plan.name);
    for source in &plan.sources {
        line(&mut text, "source", &source.name);
        line(&mut text, "patterns", &source.patterns);
        records(&mut text, source);
        line(&mut text, "inflate_ratio_max", &source.inflate_ratio_max);
        if let Some(limit) = &source.max_rejects {
            line(&mut text, "max_rejects", limit);
        }
        if source.on_error != OnError::Reject {
            line(&mut text, "on_error", &source.on_error);
        }
        if let Some(contract) = &source.contract {
            promises(&mut text, contract);
        }
        if source.taking.arrival.refuses() {
            line(&mut text, "arrival", &format!("{:?}", source.taking.arrival));
        }
    }
    let mut parts: Vec<String> = Vec::new();
    for (at, operator) in plan.operators.iter().enumerate() {
        let mut part = String::new();
        line(&mut part, "operator", &operator.name);
        line(&mut part, "from", &inputs(plan, &operator.inputs));
        let tags: Vec<(&str, bool)> =
            operator.outputs.iter().map(|port| (port.tag.as_str(), port.used)).collect();
        line(&mut part, "tags", &tags);
        rounds(&mut part, plan, at);
        kind(&mut part, &operator.kind);
        if let OperatorKind::Join(Join { rows_max, .. }) = &operator.kind
            && *rows_max != ROWS_MAX_DEFAULT
        {
            // No part of what the state follows from: it may be raised without making it again.
            line(&mut part, "rows_max", rows_max);
        }
        if operator.policy.on_error != OnError::Reject {
            line(&mut part, "on_error", &operator.policy.on_error);
        }
        if let Some(limit) = &operator.policy.max_rejects {
            line(&mut part, "max_rejects", limit);
        }
        parts.push(part);
    }
    for sink in &plan.sinks {
        let mut part = String::new();
        line(&mut part, "sink", &sink.name);
        line(&mut part, "from", &inputs(plan, &sink.inputs));
        let errors: Vec<&str> = sink.errors_of.iter().map(|node| plan.node_name(*node)).collect();
        line(&mut part, "errors", &errors);
        if !sink.told_of.is_empty() {
            let told: Vec<&str> = sink.told_of.iter().map(|node| plan.node_name(*node)).collect();
            line(&mut part, "told", &told);
        }
        sink_kind(&mut part, &sink.kind);
        parts.push(part);
    }
    parts.sort();
    text.extend(parts);
    text
}

/// What a source reads of its files.
fn records(text: &mut String, source: &SourcePlan) {
    line(text, "read", &source.read.format);
    line(text, "names", &source.read.names);
    for field in &source.read.fields {
        line(text, "field", &(&field.name, field.kind, &field.path));
    }
    line(text, "record_bytes_max", &source.read.record_bytes_max);
    for one in &source.expect {
        line(text, "expect", &(written(&one.condition), one.on_error));
    }
    if let Some(frame) = Some(source.frame()).filter(|one| !one.is_empty()) {
        line(text, "frame", &(frame.head, frame.tail));
    }
    // What is never taken back may be kept as less.
    if source.taking.correcting.is_final() {
        line(text, "append_only", &true);
    }
}

/// What is promised of whole files.
fn promises(text: &mut String, contract: &Contract) {
    let lines = |lines: &Option<Lines>| {
        lines
            .as_ref()
            .map(|lines| (lines.lines, lines.regex.as_ref().map(Regex::as_str).map(str::to_owned)))
    };
    line(text, "records", &(contract.min_records, contract.max_records));
    line(text, "header", &lines(&contract.header));
    line(text, "trailer", &lines(&contract.trailer));
    line(text, "count", &contract.count);
    line(text, "totals", &contract.totals);
}

fn line(text: &mut String, word: &str, value: &impl Serialize) {
    // Plain values without maps: writing them as JSON into a String cannot fail.
    let value = serde_json::to_string(value).unwrap_or_default();
    let _ = writeln!(text, "{word} {value}");
}

fn inputs(plan: &Plan, inputs: &[Input]) -> Vec<(String, String)> {
    let name = |input: &Input| {
        (plan.node_name(input.from.node).to_owned(), plan.port(input.from).tag.clone())
    };
    inputs.iter().map(name).collect()
}

/// How often records go back to an operator at most, if they do.
fn rounds(text: &mut String, plan: &Plan, at: usize) {
    if let Some(one) = plan.loop_of(at) {
        line(text, "max_rounds", &one.max_rounds);
    }
}

fn kind(text: &mut String, kind: &OperatorKind) {
    line(text, "kind", &kind.word());
    match kind {
        OperatorKind::Filter { keep } => line(text, "keep", &written(keep)),
        OperatorKind::Select { columns } => {
            for (name, value) in columns {
                line(text, "column", &(name, written(value)));
            }
        }
        OperatorKind::Route { rules, otherwise, all } => {
            for rule in rules {
                line(text, "rule", &written(rule));
            }
            line(text, "otherwise", otherwise);
            line(text, "all", all);
        }
        OperatorKind::Parse { column, regex, captures } => {
            line(text, "column", column);
            line(text, "regex", regex);
            line(text, "captures", captures);
        }
        OperatorKind::Window { on, windows } => {
            line(text, "on", &written(on));
            line(text, "windows", &(windows.size_us, windows.every_us));
        }
        OperatorKind::Explode { column, list, element } => {
            line(text, "column", column);
            let separator = if let List::Split(separator) = list { Some(separator) } else { None };
            line(text, "split", &separator);
            line(text, "element", element);
        }
        OperatorKind::Aggregate { by, compute, spec } => {
            for (name, value) in by {
                line(text, "by", &(name, written(value)));
            }
            for (name, value) in compute {
                let argument = value.argument.as_ref().map(|argument| spaced(argument.text()));
                line(text, "compute", &(name, value.function.name(), argument));
                let keys: BTreeSet<_> =
                    value.expressions().flat_map(Expr::key_fingerprints).collect();
                if !keys.is_empty() {
                    line(text, "keys", &keys);
                }
            }
            if spec.is_per_file() {
                line(text, "per", &"file");
            }
            if spec.taken_back != TakenBack::ByFile {
                // What is held of the rows depends on it.
                line(text, "taken_back", &spec.taken_back);
            }
        }
        OperatorKind::Session { rows, gap_us } => {
            ordered(text, rows);
            line(text, "gap_us", gap_us);
        }
        OperatorKind::State { rows, machine, horizon_us } => {
            ordered(text, rows);
            states(text, machine);
            line(text, "horizon_us", horizon_us);
        }
        OperatorKind::Dedupe { rows } => {
            ordered(text, rows);
            kept_first(text, kind);
        }
        OperatorKind::Top { rows, count, rank } => {
            ordered(text, rows);
            line(text, "count", count);
            line(text, "rank", rank);
            kept_first(text, kind);
        }
        // Whose they are is in its name.
        OperatorKind::Errors { .. } => line(text, "schema", &error_schema()),
        OperatorKind::Expect { expectations } => {
            for one in expectations {
                line(text, "expect", &(written(&one.condition), one.on_error));
            }
        }
        OperatorKind::Lots { by, seed, weights, .. } => {
            for (name, value) in by {
                line(text, "by", &(name, written(value)));
            }
            line(text, "seed", seed);
            line(text, "weights", weights);
        }
        OperatorKind::Join(join) => {
            line(text, "lefts", &join.lefts);
            line(text, "join", &join.kind.word());
            line(text, "on", &join.on);
            line(text, "left", &join.left);
            line(text, "take", &join.take);
            line(text, "kept", &(join.place, join.raw));
        }
    }
}

/// Where not all rows are kept, a row that is taken back would have nothing to fall back on.
fn kept_first(text: &mut String, kind: &OperatorKind) {
    if let Some(count) = kind.keeps_first() {
        line(text, "kept", &count);
    }
}

fn states(text: &mut String, machine: &MachineSpec) {
    line(text, "states", &machine.states);
    line(text, "homes", &machine.homes);
    for variable in &machine.variables {
        line(text, "variable", &(&variable.column, variable.initial.to_string()));
    }
    let value = |value: &Option<Expr>| value.as_ref().map(written);
    for one in &machine.transitions {
        let set: Vec<_> = one.set.iter().map(|(at, set)| (at, value(set))).collect();
        line(text, "transition", &(&one.from, value(&one.when), set, one.goto, one.leave));
    }
    for (name, value) in &machine.add {
        line(text, "add", &(name, written(value)));
    }
}

fn ordered(text: &mut String, rows: &OrderedRows) {
    for (name, value) in &rows.by {
        line(text, "by", &(name, written(value)));
    }
    for term in &rows.order {
        line(text, "order", &(written(&term.value), term.direction, term.nulls));
    }
    // Kind, order of arrival, columns and records: what the bytes of a kept row hold.
    line(text, "keep", &rows.keep);
    line(text, "layout", &rows.layout());
}

fn sink_kind(text: &mut String, kind: &SinkKind) {
    match kind {
        SinkKind::Files { format, schema, empty, changing: _ } => {
            line(text, "files", format);
            line(text, "schema", schema);
            line(text, "empty", empty);
        }
        SinkKind::Table { format, changelog, key, schema, publish_every } => {
            match format {
                Some(TableFormat::Rows(format)) => line(text, "table", format),
                Some(TableFormat::Parquet) => line(text, "table", &"parquet"),
                None => line(text, "table", &"none"),
            }
            if let Some(format) = changelog {
                line(text, "changelog", format);
            }
            line(text, "key", key);
            line(text, "schema", schema);
            line(text, "publish_every_ms", &publish_every.as_millis());
        }
        SinkKind::Rejects => line(text, "rejects", &error_schema()),
    }
}

/// Returns an expression as it counts: with its spacing made one, and with what tells apart the keys that it
/// hashes with.
fn written(expression: &Expr) -> String {
    let keys = expression.key_fingerprints().iter();
    keys.fold(spaced(expression.text()), |text, key| text + " key " + key)
}

/// Returns an expression with its spacing made one.
///
/// Space is kept where leaving it out could join two tokens, and everywhere in a text that holds a
/// comment, whose end is a line end.
fn spaced(expression: &str) -> String {
    if expression.contains("--") || expression.contains("/*") {
        return expression.to_owned();
    }
    let is_word = |next: char| next.is_alphanumeric() || "_\"'`.$".contains(next);
    let stands_alone = |next: char| "(),".contains(next);
    let mut out = String::with_capacity(expression.len());
    let mut quote: Option<char> = None;
    let mut gap = false;
    for next in expression.trim().chars() {
        if let Some(open) = quote {
            out.push(next);
            // A doubled quote closes and opens again: the text between comes out the same.
            quote = (next != open).then_some(open);
            continue;
        }
        if next.is_whitespace() {
            gap = true;
            continue;
        }
        let before = out.chars().next_back();
        let joins = |before: char| {
            !stands_alone(before) && !stands_alone(next) && is_word(before) == is_word(next)
        };
        if std::mem::take(&mut gap) && before.is_some_and(joins) {
            out.push(' ');
        }
        if matches!(next, '\'' | '"' | '`') {
            quote = Some(next);
        }
        out.push(next);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::spaced;

    #[test]
    fn spacing_between_tokens_does_not_count() {
        let check = |left: &str, right: &str| assert_eq!(spaced(left), spaced(right));
        check("status>=500", " status  >= 500 ");
        check("count( * )", "count(*)");
        check("a and\n  b", "a and b");
    }

    #[test]
    fn spacing_that_means_something_counts() {
        let check = |left: &str, right: &str| assert_ne!(spaced(left), spaced(right));
        check("a = 'x  y'", "a = 'x y'");
        check("a - -b", "a --b");
        check("a b", "ab");
        check("a -- x\n + b", "a -- x + b");
        check("'a' 'b'", "'a''b'");
    }
}
