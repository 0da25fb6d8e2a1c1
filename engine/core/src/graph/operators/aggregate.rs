//! Aggregate: whether an `aggregate` fits what arrives, and what it gives. Derived.

use tidemill_operators::Schema;
use tidemill_operators::aggregate::{AggregateSpec, TakenBack};
use tidemill_operators::expr::{Aggregate, compile_aggregate};

use crate::diagnostic::{Mistakes, quoted};
use crate::graph::OperatorKind;
use crate::graph::flow::Stream;
use crate::graph::operators::column::{every, kinds, named, noted};
use crate::spec::{NamedSpec, OperatorSpec, Text};

/// Returns what an `aggregate` does and the stream of its port.
pub(super) fn check(
    operator: &OperatorSpec,
    (by, compute, per_file): (&[NamedSpec], &[(Text, Text)], bool),
    input: &Stream,
    mistakes: &mut Mistakes<'_>,
) -> (Option<OperatorKind>, Stream) {
    if per_file && !input.has_place {
        let behind = quoted(input.changed_by.as_deref().unwrap_or_default());
        let message = format!("`per: file` needs records of files; the rows of {behind} are none");
        operator.name.wrong(mistakes, message, Some("leave `per` out".to_owned()));
    }
    let checked = input.schema.as_ref().and_then(|schema| {
        let by = every(by, |column| named(column, schema, mistakes));
        let compute = every(compute, |column| computed(column, schema, input, mistakes));
        Some((by?, compute?))
    });
    let kind = checked.map(|(by, compute)| {
        let computed = |(name, one): &(String, Aggregate)| one.computed(name, input.has_place);
        let spec = AggregateSpec {
            keys: kinds(&by),
            compute: compute.iter().map(computed).collect(),
            taken_back: taken_back(input),
        };
        let spec = if per_file { spec.per_file() } else { spec };
        OperatorKind::Aggregate { by, compute, spec }
    });
    let schema = match &kind {
        Some(OperatorKind::Aggregate { spec, .. }) => Some(spec.schema()),
        _ => None,
    };
    let changed_by = Some(operator.name.text.clone());
    (kind, Stream { schema, changed_by, has_place: per_file, append_only: false })
}

/// Returns which rows of a stream can be taken back.
fn taken_back(input: &Stream) -> TakenBack {
    match input {
        Stream { changed_by: Some(_), .. } => TakenBack::ByRow,
        Stream { append_only: true, .. } => TakenBack::Never,
        _ => TakenBack::ByFile,
    }
}

/// Checks one computed column of an aggregate.
fn computed(
    (name, sql): &(Text, Text),
    schema: &Schema,
    input: &Stream,
    mistakes: &mut Mistakes<'_>,
) -> Option<(String, Aggregate)> {
    let aggregate = noted(sql, compile_aggregate(&sql.text, schema, &mistakes.secrets), mistakes)?;
    if aggregate.function.is_pick() && aggregate.order.is_empty() && !input.has_place {
        let function = aggregate.function.name();
        let behind = input.changed_by.as_deref().unwrap_or_default();
        let message = format!(
            "{function} by arrival needs records of files; the rows of {} are none",
            quoted(behind)
        );
        let hint = format!("say what orders them, as in {function}(x ORDER BY t)");
        sql.wrong(mistakes, message, hint);
        return None;
    }
    Some((name.text.clone(), aggregate))
}
