//! Aggregate: whether an `aggregate` fits what arrives, and what it gives. Derived.

use tidemill_operators::expr::{Aggregate, AggregateFunction, compile_aggregate};
use tidemill_operators::{Column, Schema};

use crate::diagnostic::{Mistakes, quoted};
use crate::graph::OperatorKind;
use crate::graph::flow::Stream;
use crate::graph::operators::column::{every, kinds, named, noted};
use crate::spec::{NamedSpec, OperatorSpec, Text};

/// Returns what an `aggregate` does and the stream of its port.
pub(super) fn check(
    operator: &OperatorSpec,
    by: &[NamedSpec],
    compute: &[(Text, Text)],
    input: &Stream,
    mistakes: &mut Mistakes<'_>,
) -> (Option<OperatorKind>, Stream) {
    let kind = input.schema.as_ref().and_then(|schema| {
        let by = every(by, |column| named(column, schema, mistakes));
        let passed = input.changed_by.as_deref();
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
    (kind, Stream { schema, changed_by, has_place: false, append_only: false })
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
