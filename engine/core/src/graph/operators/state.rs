//! State: whether a `state` fits what arrives, and what it gives. Derived.

use arrow_array::{RecordBatch, RecordBatchOptions};
use tidemill_operators::expr::{Expr, Steps, Stepwise, Variables, compile, compile_with};
use tidemill_operators::format::value;
use tidemill_operators::keyed::{Arrival, Direction};
use tidemill_operators::state::{Leave, MachineSpec, STATE, Transition, Variable};
use tidemill_operators::value::Value;
use tidemill_operators::{Column, Schema, Type};

use crate::diagnostic::{Mistakes, quoted};
use crate::graph::flow::Stream;
use crate::graph::operators::column::{article, condition, every, expression, named, noted};
use crate::graph::operators::ordered::rows;
use crate::graph::{OperatorKind, OrderTerm, OrderedRows};
use crate::spec::{DROP, NamedSpec, OperatorSpec, StateSpec, Text, VariableSpec};

/// Returns what a `state` does and the stream of its ports.
pub(super) fn check(
    operator: &OperatorSpec,
    spec: &StateSpec,
    input: &Stream,
    mistakes: &mut Mistakes<'_>,
) -> (Option<OperatorKind>, Stream) {
    check_drop(spec, mistakes);
    let checked = input.schema.as_ref().and_then(|schema| checked(spec, schema, input, mistakes));
    let schema = checked.as_ref().zip(input.schema.as_ref()).map(|(kind, schema)| {
        let OperatorKind::State { machine, .. } = kind else { return schema.clone() };
        Schema::new(schema.columns().iter().cloned().chain(machine.added()).collect())
    });
    let changed_by = Some(operator.name.text.clone());
    // A late record lets records that came before it leave by other tags.
    (checked, Stream { schema, changed_by, append_only: false, ..input.clone() })
}

fn check_drop(spec: &StateSpec, mistakes: &mut Mistakes<'_>) {
    for dropped in &spec.drop {
        if !spec.tags.iter().any(|tag| tag.text == dropped.text) {
            let message = format!("there is no tag {} to drop", quoted(&dropped.text));
            let tags = spec.tags.iter().map(|tag| tag.text.as_str());
            let hint = mistakes.nearest_hint(&dropped.text, tags, "the tags are");
            dropped.wrong(mistakes, message, hint);
        }
    }
}

fn checked(
    spec: &StateSpec,
    schema: &Schema,
    input: &Stream,
    mistakes: &mut Mistakes<'_>,
) -> Option<OperatorKind> {
    let rows = rows((&spec.key, &spec.order), Arrival::First, input, mistakes);
    let horizon = horizon(spec, rows.as_ref(), mistakes);
    let variables = every(&spec.variables, |one| variable(one, schema, mistakes));
    let (rows, horizon_us, variables) = (rows?, horizon?, variables?);
    let mut machine = MachineSpec {
        states: spec.states.iter().map(|state| state.text.clone()).collect(),
        homes: spec.states.iter().map(|state| port(spec, &state.text)).collect(),
        variables,
        transitions: Vec::new(),
        add: Vec::new(),
    };
    let mut visible = schema.columns().to_vec();
    visible.extend(machine.visible(schema));
    let visible = Schema::new(visible);
    let transitions = every(&spec.transitions, |one| {
        let when = match &one.when {
            Some(when) => condition(when, &visible, mistakes).map(Some),
            None => Some(None),
        };
        let set = every(&one.set, |(name, value)| {
            set(name, value.as_ref(), &machine.variables, &visible, mistakes)
        });
        let place = |text: &Text| spec.states.iter().position(|state| state.text == text.text);
        let leave = match &one.emit {
            None => Leave::Home,
            Some(tag) if tag.text == DROP => Leave::Drop,
            Some(tag) => port(spec, &tag.text).map_or(Leave::Drop, Leave::Port),
        };
        Some(Transition {
            from: one.from.iter().filter_map(place).collect(),
            when: when?,
            set: set?,
            goto: one.goto.as_ref().and_then(place),
            leave,
        })
    });
    let add = every(&spec.add, |column| added(column, schema, &visible, mistakes));
    machine.transitions = transitions?;
    machine.add = add?;
    Some(OperatorKind::State { rows, machine: Box::new(machine), horizon_us })
}

/// Returns the port of a tag.
fn port(spec: &StateSpec, tag: &str) -> Option<usize> {
    spec.tags.iter().position(|known| known.text == tag)
}

/// Checks that a horizon has a time to be measured on.
fn horizon(
    spec: &StateSpec,
    rows: Option<&OrderedRows>,
    mistakes: &mut Mistakes<'_>,
) -> Option<Option<i64>> {
    let Some((horizon_us, text)) = &spec.horizon else { return Some(None) };
    let first = rows?.order.first();
    let rises = |term: &OrderTerm| term.direction == Direction::Ascending;
    if first.is_some_and(|first| first.value.kind() == Type::Timestamp && rises(first)) {
        return Some(Some(*horizon_us));
    }
    let message = "a horizon is measured on event time: `order` must begin with a timestamp";
    text.wrong(mistakes, message, Some("for example `order: [ts]`".to_owned()));
    None
}

fn variable(spec: &VariableSpec, schema: &Schema, mistakes: &mut Mistakes<'_>) -> Option<Variable> {
    let name = &spec.name;
    if schema.column(&name.text).is_some() {
        let message = format!("{} is a column already", quoted(&name.text));
        name.wrong(mistakes, message, Some("give the variable another name".to_owned()));
        return None;
    }
    if name.text == STATE {
        let message = "`state` is the name of the state the machine is in";
        name.wrong(mistakes, message, Some("give the variable another name".to_owned()));
        return None;
    }
    let column = Column::new(&name.text, spec.kind);
    let Some(initial) = &spec.initial else {
        return Some(Variable { column, initial: Value::Null });
    };
    let nothing = Schema::default();
    if let Type::Decimal(digits) = spec.kind
        && let Some(units) = value::decimal(&initial.text, digits)
    {
        let initial = Value::Decimal { units, scale: digits.scale() };
        return Some(Variable { column, initial });
    }
    let value = match (spec.kind, compile(&initial.text, &nothing)) {
        // What is no expression may still be the text itself.
        (Type::String | Type::Timestamp, Err(_)) => {
            let quoted = initial.text.replace('\'', "''");
            let word = if spec.kind == Type::Timestamp { "TIMESTAMP " } else { "" };
            noted(initial, compile(&format!("{word}'{quoted}'"), &nothing), mistakes)?
        }
        (_, compiled) => noted(initial, compiled, mistakes)?,
    };
    check_kind(initial, spec.kind, value.kind(), mistakes)?;
    let options = RecordBatchOptions::new().with_row_count(Some(1));
    let batch = RecordBatch::try_new_with_options(nothing.arrow(), vec![], &options).ok()?;
    let steps = Steps::new(batch, &nothing);
    let variables = Variables::new(Vec::new(), Vec::new());
    match Stepwise::new(value, &nothing, &[]).at(&steps, 0, &variables) {
        Ok(Value::Int(value)) if spec.kind == Type::Float => {
            Some(Variable { column, initial: Value::Float(value as f64) })
        }
        Ok(value) => Some(Variable { column, initial: value }),
        Err(reason) => {
            initial.wrong(mistakes, format!("it has no value: {reason}"), None);
            None
        }
    }
}

/// Notes a value that does not fit the type of its variable.
fn check_kind(text: &Text, wanted: Type, found: Type, mistakes: &mut Mistakes<'_>) -> Option<()> {
    if wanted == found || (wanted == Type::Float && found == Type::Int) {
        return Some(());
    }
    let message = format!("the variable is {}; this is {}", article(wanted), article(found));
    let hint = format!("cast it, as in CAST(a AS {wanted})");
    text.wrong(mistakes, message, hint);
    None
}

/// Checks what a transition gives a variable.
fn set(
    name: &Text,
    value: Option<&Text>,
    variables: &[Variable],
    visible: &Schema,
    mistakes: &mut Mistakes<'_>,
) -> Option<(usize, Option<Expr>)> {
    let at = variables.iter().position(|variable| variable.column.name == name.text);
    let Some(at) = at else {
        let message = format!("there is no variable {}", quoted(&name.text));
        let names = variables.iter().map(|variable| variable.column.name.as_str());
        let hint = mistakes.nearest_hint(&name.text, names, "the variables are");
        name.wrong(mistakes, message, hint.or(Some("declare it in `vars`".to_owned())));
        return None;
    };
    let Some(text) = value else { return Some((at, None)) };
    let value = expression(text, visible, mistakes)?;
    let kind = variables[at].column.kind;
    if matches!((kind, value.kind()), (Type::Decimal(_), Type::Decimal(_) | Type::Int)) {
        // As where SQL assigns: brought to the digits of the variable, and refused if it does not fit.
        let cast = format!("CAST(({}) AS {kind})", text.text);
        let cast = compile_with(&cast, visible, &mistakes.secrets);
        return Some((at, Some(noted(text, cast, mistakes)?)));
    }
    check_kind(text, kind, value.kind(), mistakes)?;
    Some((at, Some(value)))
}

/// Checks a column that records get.
fn added(
    column: &NamedSpec,
    schema: &Schema,
    visible: &Schema,
    mistakes: &mut Mistakes<'_>,
) -> Option<(String, Expr)> {
    if schema.column(&column.name.text).is_some() {
        let message = format!("{} would be there twice", quoted(&column.name.text));
        column.name.wrong(mistakes, message, Some("give it another name".to_owned()));
        return None;
    }
    named(column, visible, mistakes)
}
