//! Types: what a column holds, from its values in a sample. Pure.
//!
//! A type is only given when every value has it, since a record with another value would be rejected;
//! what nearly has a type is a string, and the note says what stands in the way.

use std::collections::HashSet;

use tidemill_operators::Type;
use tidemill_operators::format::value;

/// How many different values of a column are counted.
const DISTINCT_MAX: usize = 1_000;
/// From this share of values on it is worth saying that a column nearly has a type, in percent.
const NEARLY_PERCENT: usize = 80;
/// The longest value that a note shows, in characters.
const SHOWN_MAX: usize = 30;

/// A column of a sample.
#[derive(Clone, Debug)]
pub(super) struct Column {
    /// Its name in the pipeline.
    pub(super) name: String,
    /// Where it stands in the file, if that is not its name.
    pub(super) path: Option<String>,
    pub(super) kind: Type,
    pub(super) note: Option<String>,
    /// How many different values it has; a bound when there are many.
    pub(super) distinct: usize,
    /// How many values are NULL.
    pub(super) nulls: usize,
}

/// One value: its text, and what it is if the format says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Null,
    /// Text of which the column decides what it is.
    Bare(String),
    /// Text between quotes in a format where that makes it text.
    Text(String),
    /// A number, as it is written.
    Number(String),
    Truth(bool),
}

impl Value {
    fn text(&self) -> String {
        match self {
            Value::Null => String::new(),
            Value::Bare(text) | Value::Text(text) | Value::Number(text) => text.clone(),
            Value::Truth(truth) => truth.to_string(),
        }
    }

    fn is(&self, kind: Type) -> bool {
        match (self, kind) {
            (Value::Null, _) | (Value::Text(_) | Value::Bare(_), Type::String) => true,
            (Value::Bare(text) | Value::Number(text), Type::Int) => {
                value::int(text).is_some() && !has_leading_zero(text)
            }
            (Value::Bare(text) | Value::Number(text), Type::Float) => {
                value::float(text).is_some_and(f64::is_finite) && !has_leading_zero(text)
            }
            (Value::Bare(text), Type::Bool) => {
                matches!(text.trim().to_lowercase().as_str(), "true" | "false" | "t" | "f")
            }
            (Value::Truth(_), Type::Bool) => true,
            (Value::Bare(text) | Value::Text(text), Type::Timestamp) => {
                value::timestamp(text).is_some()
            }
            _ => false,
        }
    }
}

fn has_leading_zero(text: &str) -> bool {
    let digits = text.trim().trim_start_matches(['-', '+']);
    digits.len() > 1 && digits.starts_with('0') && digits.as_bytes()[1].is_ascii_digit()
}

fn is_date(text: &str) -> bool {
    let bytes = text.trim().as_bytes();
    let shape = |(at, byte): (usize, &u8)| match at {
        4 | 7 => *byte == b'-',
        _ => byte.is_ascii_digit(),
    };
    bytes.len() == 10 && bytes.iter().enumerate().all(shape)
}

/// Returns what a column holds. `values` come with the line on which each stands.
pub(super) fn column(name: String, path: Option<String>, values: &[(usize, Value)]) -> Column {
    let filled: Vec<&(usize, Value)> =
        values.iter().filter(|(_, value)| *value != Value::Null).collect();
    let mut distinct = HashSet::new();
    for (_, value) in &filled {
        if distinct.len() < DISTINCT_MAX {
            distinct.insert(value.text());
        }
    }
    let (kind, mut notes) = decide(&filled, &distinct);
    let nulls = values.len() - filled.len();
    if nulls > 0 && !filled.is_empty() {
        notes.push(format!("empty in {nulls} of {} records", values.len()));
    }
    let note = (!notes.is_empty()).then(|| notes.join("; "));
    Column { name, path, kind, note, distinct: distinct.len(), nulls }
}

fn decide(filled: &[&(usize, Value)], distinct: &HashSet<String>) -> (Type, Vec<String>) {
    if filled.is_empty() {
        return (
            Type::String,
            vec!["always empty in the sample: what it holds is not known".into()],
        );
    }
    let all = |test: &dyn Fn(&Value) -> bool| filled.iter().all(|(_, value)| test(value));
    if let Some(kind) = [Type::Int, Type::Float, Type::Bool, Type::Timestamp]
        .into_iter()
        .find(|kind| all(&|value| value.is(*kind)))
    {
        let note = match kind {
            Type::Int
                if distinct.len() <= 2 && distinct.iter().all(|one| one == "0" || one == "1") =>
            {
                Some("only 0 and 1: `bool` reads them too, in csv")
            }
            _ => None,
        };
        return (kind, note.map(str::to_owned).into_iter().collect());
    }
    let text = |value: &Value| value.text();
    let mut notes = Vec::new();
    if all(&|value| value::float(&text(value)).is_some() && matches!(value, Value::Bare(_))) {
        let note = match all(&|value| {
            value::int(&text(value)).is_some() || !has_leading_zero(&text(value))
        }) {
            true => "digits with leading zeros, which a number would lose",
            false => "some are no plain numbers",
        };
        notes.push(note.to_owned());
    } else if all(&|value| is_date(&text(value))) {
        notes.push(
            "dates without a time: `(COLUMN || 'T00:00:00Z')::timestamp` in a `select` makes timestamps"
                .to_owned(),
        );
    } else if let Some((kind, odd)) = nearly(filled) {
        let (line, value) = odd[0];
        let shown: String = value.text().chars().take(SHOWN_MAX).collect();
        notes.push(format!(
            "{kind} but for {} of {} records, such as {shown:?} on line {line}: as {kind} these would be \
             rejected",
            odd.len(),
            filled.len()
        ));
    }
    // JSON that is not always text is no string either.
    if !all(&|value| value.is(Type::String)) {
        let odd = filled.iter().find(|(_, value)| !value.is(Type::String));
        let strings = filled.iter().filter(|(_, value)| value.is(Type::String)).count();
        if let (Some((line, value)), true) = (odd, strings > 0) {
            let shown: String = value.text().chars().take(SHOWN_MAX).collect();
            notes = vec![format!(
                "not always text: {shown} on line {line} is rejected; take `string` out of what sends it, or \
                 leave the field out"
            )];
        }
    }
    (Type::String, notes)
}

/// A type that most values have, and those that do not.
fn nearly<'v>(filled: &[&'v (usize, Value)]) -> Option<(Type, Vec<&'v (usize, Value)>)> {
    [Type::Int, Type::Float, Type::Timestamp, Type::Bool].into_iter().find_map(|kind| {
        let odd: Vec<&(usize, Value)> =
            filled.iter().copied().filter(|(_, value)| !value.is(kind)).collect();
        let fits = filled.len() - odd.len();
        (fits * 100 >= filled.len() * NEARLY_PERCENT && !odd.is_empty()).then_some((kind, odd))
    })
}
