//! Contract: whether what is asked of records and files can be asked. Derived.

use std::collections::BTreeSet;

use regex::Regex;
use tidemill_operators::expect::Expectation;
use tidemill_operators::format::Format;
use tidemill_operators::reject::OnError;
use tidemill_operators::{Schema, Type};

use crate::contract::{Contract, Lines};
use crate::diagnostic::{Mistakes, quoted};
use crate::graph::operators::column::{column_names, condition, every};
use crate::graph::{GraphOperator, NodeId, OperatorKind, compile_regex};
use crate::spec::contract::{ContractSpec, LinesSpec};
use crate::spec::{PipelineSpec, SourceSpec, Text};

/// Checks conditions over some columns.
pub(super) fn expectations(
    written: &[(Text, OnError)],
    schema: &Schema,
    mistakes: &mut Mistakes<'_>,
) -> Option<Vec<Expectation>> {
    every(written, |(text, on_error)| {
        let condition = condition(text, schema, mistakes)?;
        Some(Expectation { condition, on_error: *on_error })
    })
}

/// Checks the contract of a source.
pub(super) fn contract(
    source: &SourceSpec,
    schema: &Schema,
    mistakes: &mut Mistakes<'_>,
) -> Option<Contract> {
    let written = source.contract.as_ref()?;
    let header = written.header.as_ref().map(|header| lines(header, mistakes));
    let trailer = written.trailer.as_ref().map(|trailer| lines(trailer, mistakes));
    let groups: BTreeSet<String> = trailer
        .iter()
        .filter_map(|trailer| trailer.regex.as_ref())
        .flat_map(|regex| regex.capture_names().flatten().map(str::to_owned).collect::<Vec<_>>())
        .collect();
    let is_cut_by_quotes =
        matches!(&source.format, Some(Format::Csv(options)) if options.multiline);
    if let (Some(at), true) = (&written.at, is_cut_by_quotes && written.trailer.is_some()) {
        let message = "a trailer cannot be told from a record that holds line ends";
        let hint = "leave out `multiline: true`, or the `trailer`".to_owned();
        at.wrong(mistakes, message, hint);
    }
    for group in written.count.iter().chain(written.totals.iter().map(|(_, group)| group)) {
        if written.trailer.as_ref().is_some_and(|trailer| trailer.regex.is_none()) {
            let message = "a trailer needs a `regex` whose groups say what is compared";
            let hint = "for example `regex: \"^TRL,(?<count>[0-9]+)$\"`".to_owned();
            group.wrong(mistakes, message, hint);
        } else if !groups.contains(&group.text) {
            let message =
                format!("the `regex` of the trailer has no group {}", quoted(&group.text));
            let hint = mistakes.nearest_hint(
                &group.text,
                groups.iter().map(String::as_str),
                "its groups are",
            );
            group.wrong(mistakes, message, hint);
        }
    }
    check_totals(written, schema, mistakes);
    let contract = Contract {
        min_records: written.min_records,
        max_records: written.max_records,
        header,
        trailer,
        count: written.count.as_ref().map(|group| group.text.clone()),
        totals: written
            .totals
            .iter()
            .map(|(column, group)| (column.text.clone(), group.text.clone()))
            .collect(),
    };
    // What it says of arrival asks nothing of the bytes.
    Some(contract).filter(|contract| !contract.is_empty())
}

fn check_totals(written: &ContractSpec, schema: &Schema, mistakes: &mut Mistakes<'_>) {
    for (column, _) in &written.totals {
        match schema.column(&column.text).map(|found| found.kind) {
            Some(Type::Int | Type::Float) => {}
            Some(kind) => {
                let message =
                    format!("{} is {kind}; only int and float add up", quoted(&column.text));
                column.wrong(mistakes, message, None);
            }
            None => {
                let message = format!("there is no column {}", quoted(&column.text));
                let hint =
                    mistakes.nearest_hint(&column.text, column_names(schema), "the columns are");
                column.wrong(mistakes, message, hint);
            }
        }
    }
}

fn lines(written: &LinesSpec, mistakes: &mut Mistakes<'_>) -> Lines {
    let regex: Option<Regex> = written.regex.as_ref().and_then(|text| {
        let compiled = compile_regex(&text.text);
        if let Err(error) = &compiled {
            // The whole text repeats the pattern over several lines; its last line says what is wrong.
            let error = error.to_string();
            let reason = error.lines().last().unwrap_or_default().trim_start_matches("error: ");
            text.wrong(mistakes, format!("not a regular expression: {reason}"), None);
        }
        compiled.ok()
    });
    Lines { lines: written.lines, regex }
}

/// Notes every operator that could fail a file of which others have made something already.
pub(super) fn check_policies(
    spec: &PipelineSpec,
    order: &[usize],
    operators: &[GraphOperator],
    mistakes: &mut Mistakes<'_>,
) {
    let mut behind: Vec<Option<&str>> = Vec::with_capacity(operators.len());
    for (operator, written) in operators.iter().zip(order) {
        let before = operator.inputs.iter().find_map(|input| match input.from.node {
            NodeId::Operator(at) => behind.get(at).copied().flatten(),
            NodeId::Source(_) => None,
        });
        let written = &spec.operators[*written];
        let condition = match &operator.kind {
            OperatorKind::Expect { expectations } => {
                expectations.iter().any(|one| one.on_error > OnError::Reject)
            }
            _ => false,
        };
        let grave = written.policy.grave.as_ref().or(condition.then_some(&written.name));
        if let Some(grave) = grave {
            if let Some(state) = before {
                let message = format!(
                    "what is rejected behind {} cannot fail its file: it has been added to what \
                     other files gave",
                    quoted(state)
                );
                let hint = format!("let records fail the file before {}", quoted(state));
                grave.wrong(mistakes, message, hint);
            } else if matches!(operator.kind, OperatorKind::State { .. }) {
                let message = "what a `state` rejects cannot fail its file: it knows only when the \
                               records of the key are in order";
                let hint = "ask for it before, with `expect`".to_owned();
                grave.wrong(mistakes, message, hint);
            }
        }
        let own = operator.kind.keeps_state().then_some(operator.name.as_str());
        behind.push(before.or(own));
    }
}
