//! Full: the last word on a record. Slow and plain, on top of serde_json; finds the reason when a
//! record is bad. Holds nothing.

use std::fmt;
use std::ops::Range;

use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::super::columns::Rows;
use super::super::instant::Instants;
use super::super::lanes::High;
use super::super::{Fault, ReadPlan, excerpt, misfit};
use super::{DEPTH_MAX, Key, take};
use crate::reject::RejectCode;
use crate::types::Type;

/// Appends the values of the record at `range`, or says what is wrong with it.
#[inline(never)]
pub(super) fn read(
    keys: &[Key],
    plan: &ReadPlan,
    chunk: &[u8],
    range: Range<usize>,
    rows: &mut Rows,
    instants: &mut Instants,
) -> Result<(), Fault> {
    let start = range.start;
    let line = &chunk[range];
    let text = std::str::from_utf8(line).map_err(|error| Fault::utf8(error.valid_up_to()))?;
    if let Some(at) = too_deep(line) {
        let reason = format!("nested more than {DEPTH_MAX} levels deep at column {}", at + 1);
        return Err(Fault { code: RejectCode::TooDeep, reason });
    }
    serde_json::from_str::<IgnoredAny>(text).map_err(|error| syntax(&error))?;
    let mut values = vec![None; plan.fields.len()];
    gather(keys, text, text, &mut values)?;
    for (column, (field, value)) in plan.fields.iter().zip(values).enumerate() {
        let Some(value) = value else {
            rows.push_null(column);
            continue;
        };
        let at = offset_of(text, value);
        let end = start + at + value.len();
        // The value is valid JSON: the reader of its type takes it whole, or it is of another type.
        let taken = take(
            field.kind,
            column,
            &chunk[..end],
            start + at,
            rows,
            instants,
            &mut High::default(),
        );
        if taken != Some(end) {
            return Err(mismatch(&field.name, field.kind, value, at));
        }
    }
    Ok(())
}

/// Returns where the nesting goes beyond the limit. Right for valid JSON; for anything else some
/// other reason is found later.
fn too_deep(line: &[u8]) -> Option<usize> {
    let (mut depth, mut in_string, mut escaped) = (0, false, false);
    for (at, byte) in line.iter().enumerate() {
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth -= 1,
            _ => {}
        }
        if depth > i64::from(DEPTH_MAX) {
            return Some(at);
        }
    }
    None
}

/// Finds the values under `keys` in the object `value`, which is a part of `text`.
fn gather<'t>(
    keys: &[Key],
    text: &'t str,
    value: &'t str,
    values: &mut [Option<&'t str>],
) -> Result<(), Fault> {
    let Members(members) = serde_json::from_str(value).map_err(|error| syntax(&error))?;
    let mut seen = vec![false; keys.len()];
    for (name, member) in members {
        let Some(at) = keys.iter().position(|key| key.name == name) else { continue };
        let key = &keys[at];
        let column = offset_of(text, member) + 1;
        if std::mem::replace(&mut seen[at], true) {
            let name = String::from_utf8_lossy(&key.name);
            let reason = format!("field {name} stands twice, again at column {column}");
            return Err(Fault { code: RejectCode::DuplicateField, reason });
        }
        for &(column, _) in &key.columns {
            values[column] = Some(member);
        }
        if key.keys.is_empty() || member == "null" {
            continue;
        }
        if !member.starts_with('{') {
            let name = String::from_utf8_lossy(&key.name);
            let found = what(member);
            let reason = format!("field {name}: expected object, found {found} at column {column}");
            return Err(Fault { code: RejectCode::FieldType, reason });
        }
        gather(&key.keys, text, member, values)?;
    }
    Ok(())
}

/// The members of an object, in order, with each value as it is written.
struct Members<'t>(Vec<(Vec<u8>, &'t str)>);

impl<'t> Deserialize<'t> for Members<'t> {
    fn deserialize<D: Deserializer<'t>>(input: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'t> Visitor<'t> for Object {
            type Value = Members<'t>;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("an object")
            }

            fn visit_map<A: MapAccess<'t>>(self, mut map: A) -> Result<Members<'t>, A::Error> {
                let mut members = Vec::new();
                while let Some(Name(name)) = map.next_key()? {
                    let value: &'t RawValue = map.next_value()?;
                    members.push((name, value.get()));
                }
                Ok(Members(members))
            }
        }
        input.deserialize_map(Object)
    }
}

/// The name of a member; bytes, because half a surrogate pair is grammar but no text.
struct Name(Vec<u8>);

impl<'t> Deserialize<'t> for Name {
    fn deserialize<D: Deserializer<'t>>(input: D) -> Result<Self, D::Error> {
        struct Bytes;
        impl Visitor<'_> for Bytes {
            type Value = Name;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a name")
            }

            fn visit_bytes<E: Error>(self, name: &[u8]) -> Result<Name, E> {
                Ok(Name(name.to_vec()))
            }

            fn visit_str<E: Error>(self, name: &str) -> Result<Name, E> {
                Ok(Name(name.as_bytes().to_vec()))
            }
        }
        input.deserialize_bytes(Bytes)
    }
}

/// Returns where a part of a text begins in it.
fn offset_of(text: &str, part: &str) -> usize {
    (part.as_ptr() as usize).saturating_sub(text.as_ptr() as usize)
}

fn syntax(error: &serde_json::Error) -> Fault {
    // A record is one line, so serde_json's line says nothing.
    let text = error.to_string();
    let reason = match text.rsplit_once(" at line ") {
        Some((what, _)) => format!("{what} at column {}", error.column()),
        None => text,
    };
    Fault { code: RejectCode::Syntax, reason }
}

fn mismatch(name: &str, kind: Type, value: &str, at: usize) -> Fault {
    let column = at + 1;
    if kind == Type::String && value.starts_with('"') {
        let reason =
            format!("field {name}: half a surrogate pair in the string at column {column}");
        return Fault { code: RejectCode::Syntax, reason };
    }
    let found = match (kind, what(value)) {
        // Of the right kind, but not the right value: show it.
        (Type::Int | Type::Float, "number")
        | (Type::Timestamp, "string")
        | (Type::Decimal(_), "number" | "string") => {
            format!("{} {}", what(value), excerpt(value.as_bytes()))
        }
        (_, what) => what.to_owned(),
    };
    let why = misfit(kind, value.trim_matches('"').as_bytes());
    let reason = format!("field {name}: expected {kind}, found {found} at column {column}{why}");
    Fault { code: RejectCode::FieldType, reason }
}

fn what(value: &str) -> &'static str {
    match value.as_bytes().first() {
        Some(b'"') => "string",
        Some(b'{') => "object",
        Some(b'[') => "array",
        Some(b't' | b'f') => "bool",
        Some(b'n') => "null",
        _ => "number",
    }
}
