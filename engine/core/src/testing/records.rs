//! Records: rows of a test as the bytes of a file in the format of their source.
//!
//! A value that does not have the type of its field is written as it stands: the author may want to see
//! it rejected.

use serde_json::{Map, Value as Json};
use tidemill_operators::Type;
use tidemill_operators::format::{CsvOptions, Format, value};

use crate::diagnostic::{Mistakes, quoted};
use crate::spec::read::{self, Text};
use crate::spec::tree::{Node, Value};
use crate::spec::{FieldSpec, SourceSpec};

/// Returns the bytes of a file that holds these records; `None` when a mistake has been noted.
pub(super) fn bytes(
    node: Node,
    source: &SourceSpec,
    mistakes: &mut Mistakes<'_>,
) -> Option<Vec<u8>> {
    match node.value {
        Value::Scalar(text) => Some(text.into_bytes()),
        Value::Null => Some(Vec::new()),
        Value::Map(_) => {
            let message = "`records` is text or a list";
            let hint = "put `- ` before each record".to_owned();
            mistakes.add(node.place, &node.path, message, hint);
            None
        }
        Value::List(items) => of_list(items, source, mistakes),
    }
}

fn of_list(items: Vec<Node>, source: &SourceSpec, mistakes: &mut Mistakes<'_>) -> Option<Vec<u8>> {
    let format = source.format.as_ref()?;
    let mut out = Vec::new();
    let as_maps = items.iter().any(|item| matches!(item.value, Value::Map(_)));
    if let Format::Csv(options) = format
        && options.header
        && as_maps
    {
        let names = csv_columns(source)?;
        csv_line(&names.into_iter().map(Some).collect::<Vec<_>>(), options, &mut out);
    }
    let mut right = true;
    for item in items {
        match item.value {
            Value::Scalar(line) => {
                out.extend(line.as_bytes());
                out.push(b'\n');
            }
            Value::Map(_) => match record(item, source, format, mistakes) {
                Some(line) => out.extend(line),
                None => right = false,
            },
            Value::Null | Value::List(_) => {
                let message = format!("a record is a line or a map, not {}", item.value.what());
                mistakes.add(item.place, &item.path, message, None);
                right = false;
            }
        }
    }
    right.then_some(out)
}

/// Returns one record, with its line end.
fn record(
    node: Node,
    source: &SourceSpec,
    format: &Format,
    mistakes: &mut Mistakes<'_>,
) -> Option<Vec<u8>> {
    let place = (node.place, node.path.clone());
    let fields = source.fields.as_ref()?;
    if matches!(format, Format::Text) {
        let hint = "write the line itself".to_owned();
        mistakes.add(place.0, &place.1, "a record of a text source is a line", hint);
        return None;
    }
    let mut given: Vec<(&FieldSpec, Option<String>)> = Vec::new();
    let mut right = true;
    for (key, node) in read::map(node, "a record", mistakes)? {
        let Some(field) = fields.iter().find(|field| field.name.text == key.name) else {
            let message =
                format!("source {} has no field {}", quoted(&source.name.text), quoted(&key.name));
            let names = fields.iter().map(|field| field.name.text.as_str());
            let hint = mistakes.nearest_hint(&key.name, names, "it has");
            mistakes.add(key.place, &node.path, message, hint);
            right = false;
            continue;
        };
        match node.value {
            Value::Null => given.push((field, None)),
            Value::Scalar(text) => given.push((field, Some(text))),
            _ => {
                let message = format!("a value is a single value, not {}", node.value.what());
                mistakes.add(node.place, &node.path, message, None);
                right = false;
            }
        }
    }
    if !right {
        return None;
    }
    let mut out = Vec::new();
    match format {
        Format::Csv(options) => {
            let cell = |column: &String| {
                let field = given.iter().find(|(field, _)| place_of(field).text == *column);
                field.and_then(|(_, text)| text.clone())
            };
            csv_line(&csv_columns(source)?.iter().map(cell).collect::<Vec<_>>(), options, &mut out);
        }
        Format::Jsonl | Format::Text => {
            let mut object = Map::new();
            for (field, text) in given {
                let parts: Vec<&str> = match &field.path {
                    Some(path) => path.text.split('.').collect(),
                    None => vec![field.name.text.as_str()],
                };
                put(&mut object, &parts, text.map_or(Json::Null, |text| json(text, field.kind)));
            }
            out.extend(Json::Object(object).to_string().into_bytes());
            out.push(b'\n');
        }
    }
    Some(out)
}

/// Returns where a field stands in its file.
fn place_of(field: &FieldSpec) -> &Text {
    field.path.as_ref().unwrap_or(&field.name)
}

/// Returns the columns of the file, in order.
fn csv_columns(source: &SourceSpec) -> Option<Vec<String>> {
    let named = source.columns.as_ref();
    let named = named.map(|columns| columns.iter().map(|column| column.text.clone()).collect());
    let of_fields = || {
        let fields = source.fields.as_ref()?.iter();
        Some(fields.map(|field| place_of(field).text.clone()).collect())
    };
    named.or_else(of_fields)
}

fn json(text: String, kind: Type) -> Json {
    let number = |text: &str| serde_json::from_str::<Json>(text).ok().filter(Json::is_number);
    let typed = match kind {
        Type::Int => text.parse::<i64>().ok().map(Json::from),
        Type::Float => number(&text),
        Type::Bool => value::bool(&text).filter(|_| text.len() > 1).map(Json::from),
        // As text, so that every digit stays.
        Type::String | Type::Timestamp | Type::Decimal(_) => None,
    };
    typed.unwrap_or(Json::String(text))
}

fn put(object: &mut Map<String, Json>, path: &[&str], value: Json) {
    match path {
        [] => {}
        [last] => {
            object.insert((*last).to_owned(), value);
        }
        [first, rest @ ..] => {
            let inner =
                object.entry((*first).to_owned()).or_insert_with(|| Json::Object(Map::new()));
            if let Json::Object(inner) = inner {
                put(inner, rest, value);
            }
        }
    }
}

/// Appends a record: NULL is nothing, an empty text is `""`.
fn csv_line(cells: &[Option<String>], options: &CsvOptions, out: &mut Vec<u8>) {
    for (at, cell) in cells.iter().enumerate() {
        if at > 0 {
            out.push(options.delimiter);
        }
        let Some(text) = cell else { continue };
        let special = |byte: u8| {
            byte == options.delimiter || byte == options.quote || matches!(byte, b'\n' | b'\r')
        };
        if text.is_empty() || text.bytes().any(special) {
            out.push(options.quote);
            for byte in text.bytes() {
                if byte == options.quote {
                    out.push(byte);
                }
                out.push(byte);
            }
            out.push(options.quote);
        } else {
            out.extend(text.as_bytes());
        }
    }
    // A record of one empty field would be a blank line, which is no record.
    if cells.len() == 1 && cells.first().is_some_and(Option::is_none) {
        out.extend([options.quote, options.quote]);
    }
    out.push(b'\n');
}
