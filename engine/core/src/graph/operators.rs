//! Operators: whether an operator fits what arrives, and what it gives. Derived.

use tidemill_operators::expr::{
    Aggregate, AggregateFunction, Expr, ExprError, compile, compile_aggregate,
};
use tidemill_operators::{Column, Schema, Type};

use crate::diagnostic::{Mistakes, listed, place_in, quoted};
use crate::graph::flow::{Draft, Stream};
use crate::graph::names::{Names, UNMATCHED, tags};
use crate::graph::{Input, NodeId, OperatorKind, compile_regex};
use crate::spec::{BodySpec, ExprSpec, NamedSpec, OperatorSpec, Text};

/// Types an operator; `input` is what arrives.
pub(crate) fn check(
    operator: &OperatorSpec,
    at: usize,
    input: Stream,
    inputs: Option<Vec<Input>>,
    names: &Names,
    mistakes: &mut Mistakes<'_>,
) -> Draft {
    let node = NodeId::Operator(at);
    let (kind, output) = match &operator.body {
        Some(body) => body_of(operator, body, &input, mistakes),
        None => (None, Stream { schema: None, changed_by: input.changed_by.clone() }),
    };
    let mut ports = Vec::new();
    for (port, tag) in tags(operator).unwrap_or_default().into_iter().enumerate() {
        let used = names.is_read(node, port);
        let unmatched = matches!(kind, Some(OperatorKind::Parse { .. })) && port == UNMATCHED;
        if unmatched && !used {
            continue; // Nobody reads it: such records are rejected instead.
        }
        let stream = if unmatched { input.clone() } else { output.clone() };
        ports.push((tag.to_owned(), stream, used));
    }
    Draft {
        name: operator.name.text.clone(),
        kind,
        inputs,
        ports,
        errors_used: names.errors_read(node),
    }
}

/// Returns what an operator does and the stream of its ports.
fn body_of(
    operator: &OperatorSpec,
    body: &BodySpec,
    input: &Stream,
    mistakes: &mut Mistakes<'_>,
) -> (Option<OperatorKind>, Stream) {
    let changed_by = input.changed_by.clone();
    let schema = input.schema.as_ref();
    match body {
        BodySpec::Filter(condition) => {
            let keep = schema.and_then(|schema| self::condition(condition, schema, mistakes));
            (keep.map(|keep| OperatorKind::Filter { keep }), input.clone())
        }
        BodySpec::Route { rules, otherwise, all, drop } => {
            check_drop(operator, drop, mistakes);
            let conditions = rules.iter().map(|(_, rule)| rule);
            let compiled = schema.and_then(|schema| {
                every(conditions, |rule| self::condition(rule, schema, mistakes))
            });
            let otherwise = otherwise.as_ref().map(|_| rules.len());
            let kind = compiled.map(|rules| OperatorKind::Route { rules, otherwise, all: *all });
            (kind, input.clone())
        }
        BodySpec::Select(columns) => {
            let columns =
                schema.and_then(|schema| every(columns, |column| named(column, schema, mistakes)));
            let schema = columns.as_ref().map(|columns| Schema::new(kinds(columns)));
            (columns.map(|columns| OperatorKind::Select { columns }), Stream { schema, changed_by })
        }
        BodySpec::Parse { column, regex, fields } => {
            let captures = captures(regex, fields, mistakes);
            let parsed =
                schema.and_then(|schema| parsed(column, regex, schema, captures, mistakes));
            let schema = parsed.as_ref().map(|(schema, _)| schema.clone());
            (parsed.map(|(_, kind)| kind), Stream { schema, changed_by })
        }
        BodySpec::Aggregate { by, compute } => {
            let kind = schema.and_then(|schema| {
                let by = every(by, |column| named(column, schema, mistakes));
                let passed = changed_by.as_deref();
                let compute = every(compute, |column| computed(column, schema, passed, mistakes));
                Some((by?, compute?))
            });
            let schema = kind.as_ref().map(|(by, compute)| {
                let mut columns = kinds(by);
                columns.extend(compute.iter().map(|(name, value)| Column::new(name, value.kind)));
                Schema::new(columns)
            });
            let changed_by = Some(operator.name.text.clone());
            let kind = kind.map(|(by, compute)| OperatorKind::Aggregate { by, compute });
            (kind, Stream { schema, changed_by })
        }
    }
}

/// Checks every item, also behind one that is wrong, so that all mistakes are noted.
fn every<'i, I: 'i, O>(
    items: impl IntoIterator<Item = &'i I>,
    check: impl FnMut(&'i I) -> Option<O>,
) -> Option<Vec<O>> {
    let checked: Vec<Option<O>> = items.into_iter().map(check).collect();
    checked.into_iter().collect()
}

fn kinds(columns: &[(String, Expr)]) -> Vec<Column> {
    columns.iter().map(|(name, value)| Column::new(name, value.kind())).collect()
}

fn check_drop(operator: &OperatorSpec, drop: &[Text], mistakes: &mut Mistakes<'_>) {
    let tags = tags(operator).unwrap_or_default();
    for dropped in drop {
        if !tags.contains(&dropped.text.as_str()) {
            let message = format!("there is no tag {} to drop", quoted(&dropped.text));
            let hint = mistakes.nearest_hint(&dropped.text, tags.iter().copied(), "the tags are");
            dropped.wrong(mistakes, message, hint);
        }
    }
}

fn condition(text: &Text, schema: &Schema, mistakes: &mut Mistakes<'_>) -> Option<Expr> {
    let expr = expression(text, schema, mistakes)?;
    if expr.kind() != Type::Bool {
        let message = format!("a condition is true or false; this is {}", article(expr.kind()));
        let hint = format!("compare it with something, for example `{} = ...`", text.text);
        text.wrong(mistakes, message, (text.text.len() < 40).then_some(hint));
        return None;
    }
    Some(expr)
}

fn article(kind: Type) -> String {
    match kind {
        Type::Int => "an int".to_owned(),
        kind => format!("a {kind}"),
    }
}

fn expression(text: &Text, schema: &Schema, mistakes: &mut Mistakes<'_>) -> Option<Expr> {
    noted(text, compile(&text.text, schema), mistakes)
}

/// Notes the mistakes of an expression at their places in the file.
fn noted<T>(
    text: &Text,
    compiled: Result<T, Vec<ExprError>>,
    mistakes: &mut Mistakes<'_>,
) -> Option<T> {
    match compiled {
        Ok(compiled) => Some(compiled),
        Err(errors) => {
            for error in errors {
                let rest = text.text.get(error.at..).unwrap_or_default();
                let word = rest.find(|next: char| !(next.is_alphanumeric() || next == '_'));
                let end = error.at + word.unwrap_or(rest.len());
                let place = place_in(mistakes.yaml(), text.place, &text.text, error.at..end);
                mistakes.add(place, &text.path, error.message, error.hint);
            }
            None
        }
    }
}

fn named(
    column: &NamedSpec,
    schema: &Schema,
    mistakes: &mut Mistakes<'_>,
) -> Option<(String, Expr)> {
    let name = &column.name;
    let value = match &column.expression {
        ExprSpec::Sql(sql) => expression(sql, schema, mistakes)?,
        ExprSpec::Column if schema.column(&name.text).is_none() => {
            let hint = if name.text.contains(['(', ' ', '+', '*', '/']) {
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

fn column_names(schema: &Schema) -> impl Iterator<Item = &str> {
    schema.columns().iter().map(|column| column.name.as_str())
}

/// Checks one computed column of an aggregate; `passed` is an aggregate before it.
fn computed(
    (name, sql): &(Text, Text),
    schema: &Schema,
    passed: Option<&str>,
    mistakes: &mut Mistakes<'_>,
) -> Option<(String, Aggregate)> {
    let aggregate = noted(sql, compile_aggregate(&sql.text, schema), mistakes)?;
    let extreme = matches!(aggregate.function, AggregateFunction::Min | AggregateFunction::Max);
    if let (Some(passed), true) = (passed, extreme) {
        let message = format!(
            "min and max cannot follow an aggregate: rows of {} are taken back when it says \
             something new",
            quoted(passed)
        );
        let hint =
            "count, sum and avg can; or compute min and max in the first aggregate".to_owned();
        sql.wrong(mistakes, message, hint);
        return None;
    }
    Some((name.text.clone(), aggregate))
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
