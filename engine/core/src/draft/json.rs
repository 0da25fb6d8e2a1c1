//! Json: the columns of a sample of JSON objects, nested ones by their paths. Pure.

use std::collections::HashSet;

use serde_json::{Map, Value as Json};

use super::shape::{Kind, Look};
use super::types::{self, Value};
use super::{COLUMNS_MAX, RECORDS_MAX};

/// How deep objects are opened.
const DEPTH_MAX: usize = 4;

/// A field and its values, by line.
struct Field {
    path: Vec<String>,
    values: Vec<(usize, Value)>,
    lists: usize,
    /// How often it is an object in which nothing stands.
    empties: usize,
}

impl Field {
    /// Returns the paths of the objects that it stands in.
    fn objects(&self) -> impl Iterator<Item = Vec<String>> {
        (1..self.path.len()).filter_map(|depth| self.path.get(..depth)).map(<[String]>::to_vec)
    }
}

/// Returns what a jsonl file looks like, or why it is none.
pub(super) fn look(lines: &[&str]) -> Result<Look, String> {
    let mut fields: Vec<Field> = Vec::new();
    let (mut records, mut broken) = (0_usize, 0_usize);
    for (at, line) in lines.iter().take(RECORDS_MAX).enumerate() {
        let Ok(Json::Object(object)) = serde_json::from_str::<Json>(line) else {
            broken += 1;
            continue;
        };
        records += 1;
        gather(&object, &mut Vec::new(), at + 1, &mut fields);
    }
    if records == 0 {
        let hint = if lines.first().is_some_and(|line| line.trim_start().starts_with('[')) {
            "it is a JSON array or no JSON: a record is one object a line (`jq -c '.[]'` makes that)"
        } else {
            "no line is a JSON object: a record is one object a line (`jq -c .` makes that)"
        };
        return Err(hint.to_owned());
    }
    let mut notes = Vec::new();
    if broken > 0 {
        notes.push(format!(
            "{broken} of {} lines are no JSON object: they are rejected",
            broken + records
        ));
    }
    let opened: HashSet<Vec<String>> = fields.iter().flat_map(Field::objects).collect();
    let mut columns: Vec<types::Column> = Vec::new();
    for mut field in fields {
        let shown = field.path.join(".");
        let name = field.path.join("_");
        if opened.contains(&field.path) {
            // An object that is missing or empty here: what is in it is NULL.
            if field.values.iter().any(|(_, value)| *value != Value::Null) || field.lists > 0 {
                notes.push(format!("{shown} is not always an object: only objects are read"));
            }
            continue;
        }
        if field.lists + field.empties > 0 {
            notes.push(format!("{shown} holds lists or objects: it is not read"));
            continue;
        }
        let nested = field.path.len() > 1;
        if field.path.iter().any(|part| part.is_empty() || part.contains('.') && nested)
            || name.len() > 256
            || name.chars().any(char::is_control)
            || columns.iter().any(|column| column.name == name)
        {
            notes.push(format!("{shown:?} has a name that cannot be used: it is not read"));
            continue;
        }
        if columns.len() >= COLUMNS_MAX {
            notes
                .push(format!("there are more than {COLUMNS_MAX} fields: the others are not read"));
            break;
        }
        // What is not there is NULL.
        let missing = records.saturating_sub(field.values.len());
        field.values.extend(std::iter::repeat_n((0, Value::Null), missing));
        columns.push(types::column(name, nested.then_some(shown), &field.values));
    }
    if columns.is_empty() {
        return Err("its objects have no field that can be read".to_owned());
    }
    let lines = lines.iter().take(16).map(|line| (*line).to_owned()).collect();
    Ok(Look { kind: Kind::Jsonl, columns, records, is_whole: true, lines, notes })
}

fn gather(
    object: &Map<String, Json>,
    path: &mut Vec<String>,
    line: usize,
    fields: &mut Vec<Field>,
) {
    for (name, value) in object {
        path.push(name.clone());
        match value {
            Json::Object(inner) if path.len() < DEPTH_MAX && !inner.is_empty() => {
                gather(inner, path, line, fields);
            }
            other => {
                let at = fields.iter().position(|field| field.path == *path).or_else(|| {
                    // A file with a new key on every line is no table.
                    (fields.len() < 4 * COLUMNS_MAX).then(|| {
                        let path = path.clone();
                        fields.push(Field { path, values: Vec::new(), lists: 0, empties: 0 });
                        fields.len() - 1
                    })
                });
                if let Some(field) = at.and_then(|at| fields.get_mut(at)) {
                    match other {
                        Json::Object(inner) if inner.is_empty() => field.empties += 1,
                        Json::Array(_) | Json::Object(_) => field.lists += 1,
                        Json::Null => field.values.push((line, Value::Null)),
                        Json::Bool(truth) => field.values.push((line, Value::Truth(*truth))),
                        Json::Number(number) => {
                            field.values.push((line, Value::Number(number.to_string())));
                        }
                        Json::String(text) => field.values.push((line, Value::Text(text.clone()))),
                    }
                }
            }
        }
        path.pop();
    }
}
