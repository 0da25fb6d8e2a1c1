//! Explode: whether an `explode` fits what arrives, and what it gives. Derived.

use tidemill_operators::explode::List;
use tidemill_operators::{Column, Schema, Type};

use crate::diagnostic::{Mistakes, quoted};
use crate::graph::OperatorKind;
use crate::graph::flow::Stream;
use crate::graph::operators::column::{article, column_names};
use crate::spec::Text;

/// Returns what an `explode` does and the stream of its port.
pub(super) fn check(
    column: &Text,
    list: &List,
    element: Option<&Text>,
    input: &Stream,
    mistakes: &mut Mistakes<'_>,
) -> (Option<OperatorKind>, Stream) {
    let schema =
        input.schema.as_ref().and_then(|schema| exploded(column, element, schema, mistakes));
    let kind = schema.is_some().then(|| OperatorKind::Explode {
        column: column.text.clone(),
        list: list.clone(),
        element: element.unwrap_or(column).text.clone(),
    });
    (kind, Stream { schema, ..input.clone() })
}

/// Returns the columns behind it.
fn exploded(
    column: &Text,
    element: Option<&Text>,
    schema: &Schema,
    mistakes: &mut Mistakes<'_>,
) -> Option<Schema> {
    let Some(found) = schema.column(&column.text) else {
        let message = format!("there is no column {}", quoted(&column.text));
        let hint = mistakes.nearest_hint(&column.text, column_names(schema), "the columns are");
        column.wrong(mistakes, message, hint);
        return None;
    };
    if found.kind != Type::String {
        let name = quoted(&column.text);
        let message = format!("`explode` reads a string; {name} is {}", article(found.kind));
        column.wrong(mistakes, message, None);
        return None;
    }
    let Some(element) = element.filter(|element| element.text != column.text) else {
        return Some(schema.clone());
    };
    if schema.column(&element.text).is_some() {
        let message = format!("{} would be there twice", quoted(&element.text));
        element.wrong(mistakes, message, Some("give the elements another name".to_owned()));
        return None;
    }
    let mut columns = schema.columns().to_vec();
    columns.push(Column::new(&element.text, Type::String));
    Some(Schema::new(columns))
}
