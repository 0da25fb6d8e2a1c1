//! Column: expressions and named columns, checked against what arrives. Derived.

use tidemill_operators::expr::{Expr, ExprError, compile, compile_with};
use tidemill_operators::{Column, Schema, Type};

use crate::diagnostic::{Mistakes, place_in, quoted};
use crate::graph::operators::slips;
use crate::spec::{ExprSpec, NamedSpec, Text};

/// Checks every item, also behind one that is wrong, so that all mistakes are noted.
pub(in crate::graph) fn every<'i, I: 'i, O>(
    items: impl IntoIterator<Item = &'i I>,
    check: impl FnMut(&'i I) -> Option<O>,
) -> Option<Vec<O>> {
    let checked: Vec<Option<O>> = items.into_iter().map(check).collect();
    checked.into_iter().collect()
}

/// Returns the names and types of columns.
pub(super) fn kinds(columns: &[(String, Expr)]) -> Vec<Column> {
    columns.iter().map(|(name, value)| Column::new(name, value.kind())).collect()
}

/// Compiles an expression that is true or false.
pub(in crate::graph) fn condition(
    text: &Text,
    schema: &Schema,
    mistakes: &mut Mistakes<'_>,
) -> Option<Expr> {
    let expr = expression(text, schema, mistakes)?;
    if expr.kind() != Type::Bool {
        let message = format!("a condition is true or false; this is {}", article(expr.kind()));
        let hint = format!("compare it with something, for example `{} = ...`", text.text);
        text.wrong(mistakes, message, (text.text.len() < 40).then_some(hint));
        return None;
    }
    Some(expr)
}

/// Returns the name of a type with its article.
pub(super) fn article(kind: Type) -> String {
    match kind {
        Type::Int => "an int".to_owned(),
        kind => format!("a {kind}"),
    }
}

/// Compiles an expression.
pub(super) fn expression(
    text: &Text,
    schema: &Schema,
    mistakes: &mut Mistakes<'_>,
) -> Option<Expr> {
    let compiled = noted(text, compile_with(&text.text, schema, &mistakes.secrets), mistakes)?;
    if let Some(slip) = slips::find(&text.text) {
        let part = slip.at..slip.at + slip.len;
        let place = place_in(mistakes.yaml(), text.place, &text.text, part);
        mistakes.add(place, &text.path, slip.message, slip.hint);
        return None;
    }
    Some(compiled)
}

/// Notes the mistakes of an expression at their places in the file.
pub(in crate::graph) fn noted<T>(
    text: &Text,
    compiled: Result<T, Vec<ExprError>>,
    mistakes: &mut Mistakes<'_>,
) -> Option<T> {
    match compiled {
        Ok(compiled) => {
            mistakes.note_lacks(text.place, &text.text);
            Some(compiled)
        }
        Err(errors) => {
            for error in errors {
                let rest = text.text.get(error.at..).unwrap_or_default();
                let word = rest.find(|next: char| !(next.is_alphanumeric() || next == '_'));
                let end = error.at + word.unwrap_or(rest.len());
                let place = place_in(mistakes.yaml(), text.place, &text.text, error.at..end);
                let hint = slips::hint(&text.text, &error.message, error.hint);
                mistakes.add(place, &text.path, error.message, hint);
            }
            None
        }
    }
}

/// Compiles a named column.
pub(super) fn named(
    column: &NamedSpec,
    schema: &Schema,
    mistakes: &mut Mistakes<'_>,
) -> Option<(String, Expr)> {
    let name = &column.name;
    let value = match &column.expression {
        ExprSpec::Sql(sql) => expression(sql, schema, mistakes)?,
        ExprSpec::Column if schema.column(&name.text).is_none() => {
            let hint = if name.text == "*" {
                Some("all columns come along where nothing is selected: leave it out".to_owned())
            } else if name.text.contains(['(', ' ', '+', '*', '/']) {
                Some(format!("give an expression a name: `{{ name: {} }}`", name.text))
            } else {
                mistakes.nearest_hint(&name.text, column_names(schema), "the columns are")
            };
            name.wrong(mistakes, format!("there is no column {}", quoted(&name.text)), hint);
            return None;
        }
        // Quoted, so that a name with spaces or capitals is itself.
        ExprSpec::Column => {
            let sql = format!("\"{}\"", name.text.replace('"', "\"\""));
            // Places in the quoted text say nothing about the file.
            let at_name = |errors: Vec<ExprError>| {
                errors.into_iter().map(|error| ExprError { at: 0, ..error }).collect::<Vec<_>>()
            };
            noted(name, compile(&sql, schema).map_err(at_name), mistakes)?
        }
    };
    Some((name.text.clone(), value))
}

/// Returns the names of the columns, for hints.
pub(in crate::graph) fn column_names(schema: &Schema) -> impl Iterator<Item = &str> {
    schema.columns().iter().map(|column| column.name.as_str())
}
