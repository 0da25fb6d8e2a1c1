//! Unused: the expressions of groups that nobody uses. What arrives there is not known, so only their syntax
//! is checked. Derived.

use tidemill_operators::expr::check_syntax;

use crate::diagnostic::Mistakes;
use crate::graph::operators::column::noted;
use crate::spec::{BodySpec, ExprSpec, NamedSpec, OperatorSpec, Text};

/// Notes the mistakes in the syntax of expressions.
pub(crate) fn check(operators: &[OperatorSpec], mistakes: &mut Mistakes<'_>) {
    for operator in operators {
        // A value that refers to a parameter is known where the group is used.
        let texts = operator.body.iter().flat_map(expressions);
        for text in texts.filter(|text| !text.text.contains("${")) {
            noted(text, check_syntax(&text.text), mistakes);
        }
    }
}

fn expressions(body: &BodySpec) -> Vec<&Text> {
    match body {
        BodySpec::Filter(condition) => vec![condition],
        BodySpec::Select(columns) => computed(columns).collect(),
        BodySpec::Route { rules, .. } => rules.iter().map(|(_, condition)| condition).collect(),
        BodySpec::Aggregate { by, compute, .. } => {
            computed(by).chain(compute.iter().map(|(_, call)| call)).collect()
        }
        BodySpec::Dedupe { by, .. } | BodySpec::Top { by, .. } | BodySpec::Session { by, .. } => {
            computed(by).collect()
        }
        BodySpec::State(machine) => {
            let transitions = machine.transitions.iter();
            let texts = transitions.flat_map(|one| {
                one.when.iter().chain(one.set.iter().filter_map(|(_, to)| to.as_ref()))
            });
            computed(&machine.key).chain(computed(&machine.add)).chain(texts).collect()
        }
        BodySpec::Expect(conditions) => conditions.iter().map(|(text, _)| text).collect(),
        BodySpec::Parse { .. }
        | BodySpec::Window { .. }
        | BodySpec::Explode { .. }
        | BodySpec::Join(_)
        | BodySpec::Lots(_) => Vec::new(),
    }
}

fn computed(columns: &[NamedSpec]) -> impl Iterator<Item = &Text> {
    columns.iter().filter_map(|column| match &column.expression {
        ExprSpec::Column => None,
        ExprSpec::Sql(text) => Some(text),
    })
}
