//! Operators: whether an operator fits what arrives, and what it gives. Derived.

use tidemill_operators::Schema;

use crate::contract::Policy;
use crate::diagnostic::{Mistakes, quoted};
use crate::graph::contract;
use crate::graph::flow::{Arriving, Draft, Stream, rejected_of};
use crate::graph::names::{Names, UNMATCHED, tags};
use crate::graph::operators::column::{every, kinds, named};
use crate::graph::{NodeId, OperatorKind};
use crate::spec::{BodySpec, OperatorSpec};

mod aggregate;
pub(crate) mod column;
mod explode;
mod join;
mod lots;
pub(crate) mod ordered;
mod parse;
mod slips;
mod state;
mod window;

/// Types an operator.
pub(crate) fn check(
    operator: &OperatorSpec,
    at: usize,
    arriving: Arriving,
    names: &Names,
    mistakes: &mut Mistakes<'_>,
) -> Draft {
    let node = NodeId::Operator(at);
    let Arriving { input, other, inputs } = arriving;
    check_drop(operator, mistakes);
    let (kind, output) = match &operator.body {
        Some(body) => body_of(operator, body, &input, &other, mistakes),
        None => (None, Stream { schema: None, ..input.clone() }),
    };
    let errors = rejected_of(&input);
    let mut ports = Vec::new();
    for (port, tag) in tags(operator).unwrap_or_default().into_iter().enumerate() {
        let used = names.is_read(node, port);
        let unmatched = matches!(kind, Some(OperatorKind::Parse { .. })) && port == UNMATCHED;
        if unmatched && !used {
            continue; // Nobody reads it: such records are rejected instead.
        }
        if matches!(kind, Some(OperatorKind::Dedupe { .. })) && port > 0 && !used {
            continue; // Nobody reads the duplicates: then they are not looked for.
        }
        let stream = if unmatched { input.clone() } else { output.clone() };
        ports.push((tag.to_owned(), stream, used));
    }
    Draft {
        name: operator.name.text.clone(),
        kind,
        inputs,
        ports,
        policy: Policy {
            on_error: operator.policy.on_error,
            max_rejects: operator.policy.max_rejects,
        },
        errors_used: names.errors_read(node),
        errors,
    }
}

/// Returns what an operator does and the stream of its ports.
fn body_of(
    operator: &OperatorSpec,
    body: &BodySpec,
    input: &Stream,
    other: &Stream,
    mistakes: &mut Mistakes<'_>,
) -> (Option<OperatorKind>, Stream) {
    let schema = input.schema.as_ref();
    match body {
        BodySpec::Filter(condition) => {
            let keep = schema.and_then(|schema| column::condition(condition, schema, mistakes));
            (keep.map(|keep| OperatorKind::Filter { keep }), input.clone())
        }
        BodySpec::Route { rules, otherwise, all } => {
            let conditions = rules.iter().map(|(_, rule)| rule);
            let compiled = schema.and_then(|schema| {
                every(conditions, |rule| column::condition(rule, schema, mistakes))
            });
            let otherwise = otherwise.as_ref().map(|_| rules.len());
            let kind = compiled.map(|rules| OperatorKind::Route { rules, otherwise, all: *all });
            (kind, input.clone())
        }
        BodySpec::Select(columns) => {
            let columns =
                schema.and_then(|schema| every(columns, |column| named(column, schema, mistakes)));
            let schema = columns.as_ref().map(|columns| Schema::new(kinds(columns)));
            (
                columns.map(|columns| OperatorKind::Select { columns }),
                Stream { schema, ..input.clone() },
            )
        }
        BodySpec::Parse { column, regex, fields } => {
            parse::check(column, regex, fields, input, mistakes)
        }
        BodySpec::Aggregate { by, compute, per_file } => {
            aggregate::check(operator, (by, compute, *per_file), input, mistakes)
        }
        BodySpec::Dedupe { by, keep, order } => {
            ordered::dedupe(operator, by, *keep, order, input, mistakes)
        }
        BodySpec::Top { count, by, order, rank } => {
            ordered::top(operator, *count, (by, order, rank.as_ref()), input, mistakes)
        }
        BodySpec::Window { on, windows } => window::check(operator, on, *windows, input, mistakes),
        BodySpec::Session { on, gap_us, by } => {
            window::session(operator, on, *gap_us, by, input, mistakes)
        }
        BodySpec::State(state) => state::check(operator, state, input, mistakes),
        BodySpec::Explode { column, list, element } => {
            explode::check(column, list, element.as_ref(), input, mistakes)
        }
        BodySpec::Expect(written) => {
            let found = schema.and_then(|schema| contract::expectations(written, schema, mistakes));
            (found.map(|expectations| OperatorKind::Expect { expectations }), input.clone())
        }
        BodySpec::Join(join) => join::check(operator, join, input, other, mistakes),
        BodySpec::Lots(lots) => lots::check(operator, lots, input, mistakes),
    }
}

/// Notes tags that are not there to be dropped.
fn check_drop(operator: &OperatorSpec, mistakes: &mut Mistakes<'_>) {
    let Some(mut tags) = tags(operator) else { return };
    tags.retain(|tag| !tag.is_empty());
    for dropped in &operator.drop {
        if dropped.text == "errors" {
            let message = "rejected records cannot be dropped";
            let hint = "read them, or leave them: what nobody reads goes to `rejects`".to_owned();
            dropped.wrong(mistakes, message, hint);
        } else if !tags.contains(&dropped.text.as_str()) {
            let message = format!("there is no tag {} to drop", quoted(&dropped.text));
            let hint = mistakes.nearest_hint(&dropped.text, tags.iter().copied(), "the tags are");
            dropped.wrong(mistakes, message, hint);
        }
    }
}
