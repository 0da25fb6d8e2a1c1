//! Schema: whether a document fits a JSON schema (draft-07), for the keywords that ours uses.
//!
//! Small on purpose: a keyword that it does not know is a failure, never passed over.

use serde_json::{Map, Value};

/// Returns what is wrong with a document, with its place; nothing if it fits.
pub fn misfits(schema: &Value, document: &Value) -> Vec<String> {
    let mut wrong = Vec::new();
    Checker { root: schema }.check(schema, document, "", &mut wrong);
    wrong
}

struct Checker<'s> {
    root: &'s Value,
}

impl Checker<'_> {
    fn fits(&self, schema: &Value, document: &Value) -> bool {
        let mut wrong = Vec::new();
        self.check(schema, document, "", &mut wrong);
        wrong.is_empty()
    }

    fn check(&self, schema: &Value, document: &Value, at: &str, wrong: &mut Vec<String>) {
        let object = schema.as_object().unwrap_or_else(|| panic!("no schema: {schema}"));
        for (keyword, value) in object {
            let found = self.keyword(keyword, value, object, document, at, wrong);
            if let Some(found) = found {
                wrong.push(format!("{at}: {found}"));
            }
        }
    }

    fn keyword(
        &self,
        keyword: &str,
        value: &Value,
        schema: &Map<String, Value>,
        document: &Value,
        at: &str,
        wrong: &mut Vec<String>,
    ) -> Option<String> {
        let all = || value.as_array().unwrap().iter();
        match keyword {
            "$schema" | "$comment" | "title" | "description" | "definitions" | "then" => {}
            "$ref" => {
                let name = value.as_str().unwrap().strip_prefix("#/definitions/").unwrap();
                self.check(&self.root["definitions"][name], document, at, wrong);
            }
            "type" => {
                let kinds: Vec<&str> = match value {
                    Value::String(kind) => vec![kind.as_str()],
                    _ => all().map(|kind| kind.as_str().unwrap()).collect(),
                };
                if !kinds.iter().any(|kind| is_of(document, kind)) {
                    return Some(format!("{document} is not {kinds:?}"));
                }
            }
            "enum" => {
                if !all().any(|one| one == document) {
                    return Some(format!("{document} is none of {value}"));
                }
            }
            "pattern" => {
                let text = document.as_str()?;
                if !pattern(value.as_str().unwrap(), text) {
                    return Some(format!("{text:?} does not match {value}"));
                }
            }
            "properties" => {
                for (key, schema) in value.as_object().unwrap() {
                    if let Some(inner) = document.get(key) {
                        self.check(schema, inner, &format!("{at}/{key}"), wrong);
                    }
                }
            }
            "additionalProperties" => {
                let known = schema.get("properties").and_then(Value::as_object);
                for (key, inner) in document.as_object()? {
                    if known.is_some_and(|known| known.contains_key(key)) {
                        continue;
                    }
                    if *value == Value::Bool(false) {
                        wrong.push(format!("{at}: there is no {key}"));
                    } else {
                        self.check(value, inner, &format!("{at}/{key}"), wrong);
                    }
                }
            }
            "propertyNames" => {
                for key in document.as_object()?.keys() {
                    let name = Value::String(key.clone());
                    self.check(value, &name, &format!("{at}/{key}"), wrong);
                }
            }
            "required" => {
                let has = document.as_object()?;
                let missing = all().find(|key| !has.contains_key(key.as_str().unwrap()))?;
                return Some(format!("{missing} is missing"));
            }
            "items" => {
                for (index, item) in document.as_array()?.iter().enumerate() {
                    self.check(value, item, &format!("{at}/{index}"), wrong);
                }
            }
            "minItems" => {
                let len = document.as_array()?.len() as u64;
                return (len < value.as_u64().unwrap()).then(|| format!("{len} items are too few"));
            }
            "minProperties" => {
                let len = document.as_object()?.len() as u64;
                return (len < value.as_u64().unwrap()).then(|| format!("{len} keys are too few"));
            }
            "allOf" => all().for_each(|one| self.check(one, document, at, wrong)),
            "anyOf" => {
                if !all().any(|one| self.fits(one, document)) {
                    return Some(format!("{document} fits none of the choices"));
                }
            }
            "oneOf" => {
                let count = all().filter(|one| self.fits(one, document)).count();
                return (count != 1).then(|| format!("{count} choices fit, not one"));
            }
            "if" => {
                if self.fits(value, document) {
                    self.check(&schema["then"], document, at, wrong);
                }
            }
            _ => panic!("the schema uses the keyword {keyword}, which this checker does not know"),
        }
        None
    }
}

fn is_of(document: &Value, kind: &str) -> bool {
    match kind {
        "object" => document.is_object(),
        "array" => document.is_array(),
        "string" => document.is_string(),
        "number" => document.is_number(),
        "integer" => document.is_i64() || document.is_u64(),
        "boolean" => document.is_boolean(),
        "null" => document.is_null(),
        _ => panic!("there is no type {kind}"),
    }
}

/// Matches one of the few patterns that the schema has.
fn pattern(pattern: &str, text: &str) -> bool {
    if let Some(rest) = pattern.strip_suffix("|\\$\\{")
        && text.contains("${")
    {
        return !rest.is_empty();
    }
    let all = |text: &str, fits: fn(char) -> bool| !text.is_empty() && text.chars().all(fits);
    let unit = |text: &str, units: &[&str], bare: bool| {
        let with = units.iter().find_map(|unit| text.strip_suffix(unit));
        let digits = with.or(bare.then_some(text)).map(|digits| digits.trim_end_matches(' '));
        digits.is_some_and(|digits| all(digits, |next| next.is_ascii_digit()))
    };
    let word = |next: char| next.is_ascii_alphanumeric() || next == '_' || next == '-';
    match pattern.strip_suffix("|\\$\\{").unwrap_or(pattern) {
        "\\$\\{" => text.contains("${"),
        "^[+-]?[0-9]+$" => {
            let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
            all(digits, |next| next.is_ascii_digit())
        }
        "^(true|false)$" => matches!(text, "true" | "false"),
        "^[0-9]+ *(B|kB|MB|GB|KiB|MiB|GiB)?$" => {
            unit(text, &["KiB", "MiB", "GiB", "kB", "MB", "GB", "B"], true)
        }
        "^[0-9]+ *(ms|s|m|h|d)$" => unit(text, &["ms", "s", "m", "h", "d"], false),
        "^[A-Za-z0-9_][A-Za-z0-9_-]*$" => !text.starts_with('-') && all(text, word),
        "^[A-Za-z0-9_][A-Za-z0-9_/-]*$" => {
            !text.starts_with(['-', '/']) && text.chars().all(|next| word(next) || next == '/')
        }
        "^[A-Za-z_][A-Za-z0-9_]*$" => {
            !text.starts_with(|first: char| first.is_ascii_digit())
                && all(text, |next| next.is_ascii_alphanumeric() || next == '_')
        }
        "^decimal *\\( *[0-9]+ *(, *[0-9]+ *)?\\)$" => {
            let digits = text
                .strip_prefix("decimal")
                .and_then(|rest| rest.trim_start_matches(' ').strip_prefix('(')?.strip_suffix(')'));
            let number = |part: &str| all(part.trim_matches(' '), |next| next.is_ascii_digit());
            digits.is_some_and(|digits| {
                digits.split(',').count() <= 2 && digits.split(',').all(number)
            })
        }
        other => panic!("this checker does not know the pattern {other}"),
    }
}
