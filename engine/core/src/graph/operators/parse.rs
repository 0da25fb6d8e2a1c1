//! Parse: whether a `parse` fits what arrives, and what it gives. Derived.

use tidemill_operators::{Column, Schema, Type};

use crate::diagnostic::{Mistakes, listed, quoted};
use crate::graph::flow::Stream;
use crate::graph::operators::column::{article, column_names};
use crate::graph::{OperatorKind, compile_regex};
use crate::spec::Text;

/// Returns what a `parse` does and the stream of its first port.
pub(super) fn check(
    column: &Text,
    regex: &Text,
    fields: &[(Text, Type)],
    input: &Stream,
    mistakes: &mut Mistakes<'_>,
) -> (Option<OperatorKind>, Stream) {
    let captures = captures(regex, fields, mistakes);
    let parsed =
        input.schema.as_ref().and_then(|schema| parsed(column, regex, schema, captures, mistakes));
    let schema = parsed.as_ref().map(|(schema, _)| schema.clone());
    (parsed.map(|(_, kind)| kind), Stream { schema, ..input.clone() })
}

/// Returns the columns that a regular expression captures.
fn captures(
    regex: &Text,
    fields: &[(Text, Type)],
    mistakes: &mut Mistakes<'_>,
) -> Option<Vec<(Column, usize)>> {
    let compiled = match compile_regex(&regex.text) {
        Ok(compiled) => compiled,
        Err(error) => {
            // The whole text repeats the pattern over several lines; its last line says what is wrong.
            let text = error.to_string();
            let reason = text.lines().last().unwrap_or_default().trim_start_matches("error: ");
            regex.wrong(mistakes, format!("not a regular expression: {reason}"), None);
            return None;
        }
    };
    let groups: Vec<(usize, &str)> = compiled
        .capture_names()
        .enumerate()
        .filter_map(|(group, name)| Some((group, name?)))
        .collect();
    if groups.is_empty() {
        let hint = "name the parts that become columns: `(?<user>\\w+)`".to_owned();
        regex.wrong(mistakes, "the regular expression names no group", hint);
        return None;
    }
    let mut fits = true;
    for (name, _) in fields {
        if !groups.iter().any(|(_, group)| *group == name.text) {
            let message = format!("the regular expression has no group {}", quoted(&name.text));
            let hint =
                mistakes.nearest_hint(&name.text, groups.iter().map(|(_, group)| *group), "it has");
            name.wrong(mistakes, message, hint);
            fits = false;
        }
    }
    let kind = |group: &str| {
        fields.iter().find(|(name, _)| name.text == group).map_or(Type::String, |(_, kind)| *kind)
    };
    fits.then(|| groups.iter().map(|(at, name)| (Column::new(*name, kind(name)), *at)).collect())
}

/// Returns the columns behind a `parse`, and the operator.
fn parsed(
    column: &Text,
    regex: &Text,
    schema: &Schema,
    captures: Option<Vec<(Column, usize)>>,
    mistakes: &mut Mistakes<'_>,
) -> Option<(Schema, OperatorKind)> {
    let fits = match schema.column(&column.text) {
        None => {
            let message = format!("there is no column {}", quoted(&column.text));
            let hint = mistakes.nearest_hint(&column.text, column_names(schema), "the columns are");
            column.wrong(mistakes, message, hint);
            false
        }
        Some(found) if found.kind != Type::String => {
            let name = quoted(&column.text);
            let message = format!("`parse` reads a string; {name} is {}", article(found.kind));
            column.wrong(mistakes, message, None);
            false
        }
        Some(_) => true,
    };
    let captures = captures?;
    let twice: Vec<&str> = captures
        .iter()
        .map(|(capture, _)| capture.name.as_str())
        .filter(|name| schema.column(name).is_some())
        .collect();
    if !twice.is_empty() {
        let message = format!("{} would be there twice", listed(twice));
        let hint = "a captured group becomes a new column; give it another name".to_owned();
        regex.wrong(mistakes, message, hint);
        return None;
    }
    let mut columns = schema.columns().to_vec();
    columns.extend(captures.iter().map(|(capture, _)| capture.clone()));
    let kind =
        OperatorKind::Parse { column: column.text.clone(), regex: regex.text.clone(), captures };
    fits.then(|| (Schema::new(columns), kind))
}
