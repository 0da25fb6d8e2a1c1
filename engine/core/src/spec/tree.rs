//! Tree: a YAML file as nested values, each with its place. Derived; the one place that knows the
//! YAML reader. It never decides what a key means.
//!
//! A typed reader would stop at the first wrong value; a tree lets every mistake be reported at once.
//! The file is bounded before it is read: bytes, depth, nodes, and what aliases may repeat.

use std::fmt;
use std::ops::Range;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::options::{DuplicateKeyPolicy, MergeKeyPolicy};
use serde_saphyr::{Location, Spanned};

use crate::diagnostic::{Mistakes, Place};

/// The longest pipeline file, in bytes.
pub const FILE_BYTES_MAX: usize = 1024 * 1024;
/// How deep values may be nested.
const DEPTH_MAX: usize = 32;
/// How many values a file may hold.
pub(crate) const NODES_MAX: usize = 50_000;
/// How many values aliases may repeat.
const REPEATED_NODES_MAX: usize = 2_000;
/// How many bytes may be marked for repetition by anchors.
const ANCHOR_BYTES_MAX: usize = 16 * 1024;
/// How many characters of a key stand in a path.
const PATH_SEGMENT_CHARACTERS_MAX: usize = 64;

/// A value with its place.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) place: Place,
    /// Where its key stands (the value itself, in a list): the place of what it lacks.
    pub(crate) owner: Place,
    pub(crate) path: String,
    pub(crate) value: Value,
}

/// What stands at a place.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    /// Nothing, `~` or `null`.
    Null,
    /// A scalar: its text, whatever YAML would make of it.
    Scalar(String),
    /// A list.
    List(Vec<Node>),
    /// Keys and values as they stand, repeated keys included.
    Map(Vec<(Key, Node)>),
}

/// A key with its place.
#[derive(Clone, Debug)]
pub(crate) struct Key {
    pub(crate) place: Place,
    pub(crate) name: String,
}

impl Value {
    /// Returns what it is, for messages.
    pub(crate) fn what(&self) -> &'static str {
        match self {
            Value::Null => "nothing",
            Value::Scalar(_) => "a single value",
            Value::List(_) => "a list",
            Value::Map(_) => "a map",
        }
    }
}

/// Reads the pipeline file, or notes why it cannot be read.
pub(crate) fn read(mistakes: &mut Mistakes<'_>) -> Option<Node> {
    let all = 0..mistakes.yaml().len();
    read_part(all, mistakes)
}

/// Reads the file that stands in a part of the text of all files.
pub(crate) fn read_part(part: Range<usize>, mistakes: &mut Mistakes<'_>) -> Option<Node> {
    let start = part.start;
    let yaml = mistakes.yaml().get(part).unwrap_or_default();
    let (place, message, hint) = match read_text(yaml) {
        Ok(mut node) => {
            shift(&mut node, start);
            return Some(node);
        }
        Err(wrong) => wrong,
    };
    mistakes.add(Place { start: place.start + start, ..place }, "", message, hint);
    None
}

/// Moves the places of a value to where its file stands.
fn shift(node: &mut Node, by: usize) {
    if by == 0 {
        return;
    }
    node.place.start += by;
    node.owner.start += by;
    match &mut node.value {
        Value::Null | Value::Scalar(_) => {}
        Value::List(items) => items.iter_mut().for_each(|item| shift(item, by)),
        Value::Map(entries) => {
            for (key, value) in entries {
                key.place.start += by;
                shift(value, by);
            }
        }
    }
}

/// Reads one file, or returns what is wrong with it, where, and what to do about it.
fn read_text(yaml: &str) -> Result<Node, (Place, String, Option<String>)> {
    if yaml.len() > FILE_BYTES_MAX {
        let message =
            format!("the file has {} bytes; at most {FILE_BYTES_MAX} are read", yaml.len());
        return Err((Place::default(), message, None));
    }
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: DEPTH_MAX,
            flow_nesting_limit: DEPTH_MAX,
            max_nodes: NODES_MAX,
            max_documents: 1,
            max_recorded_anchor_bytes: ANCHOR_BYTES_MAX,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: REPEATED_NODES_MAX,
        },
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        merge_keys: MergeKeyPolicy::Error,
        with_snippet: false,
    };
    serde_saphyr::from_str_with_options::<Spanned<Raw>>(yaml, options)
        .map(|raw| node(yaml, raw, None, String::new()))
        .map_err(|error| {
            let error = error.without_snippet();
            let place = error.location().map_or(Place::default(), |at| located(yaml, at));
            // The place is told apart from the text, so the text need not end with it.
            let text = error.to_string();
            let text = text.split(" at line ").next().unwrap_or_default();
            match limit(text) {
                Some(message) => (place, message, None),
                None => {
                    let message = format!("not readable as YAML: {text}");
                    (place, message, syntax_hint(yaml, place, text))
                }
            }
        })
}

/// Returns what is said of a file that is YAML and goes beyond what a pipeline file may hold.
fn limit(text: &str) -> Option<String> {
    let begins = |words: &[&str]| words.iter().any(|word| text.starts_with(word));
    Some(if begins(&["recursion limit", "budget breached: Depth"]) {
        format!("values are nested more than {DEPTH_MAX} deep")
    } else if begins(&["budget breached: Documents"]) {
        "a file holds one pipeline; this is the start of a second document".to_owned()
    } else if begins(&["budget breached: Nodes"]) {
        format!("the file holds more than {NODES_MAX} values")
    } else if begins(&["alias replay limit"]) {
        format!("aliases repeat more than {REPEATED_NODES_MAX} values")
    } else if begins(&["budget breached: Recorded"]) {
        format!("anchors mark more than {ANCHOR_BYTES_MAX} bytes for repetition")
    } else if begins(&["recursive references"]) {
        "an alias stands inside of what it repeats".to_owned()
    } else if begins(&["YAML merge keys"]) {
        "`<<` is not supported: write the keys out, or repeat the whole value with an alias"
            .to_owned()
    } else {
        return None;
    })
}

/// Returns the place of a line and column, as the reader of YAML counts them.
fn located(yaml: &str, at: Location) -> Place {
    let line = usize::try_from(at.line()).unwrap_or(usize::MAX).saturating_sub(1);
    let column = usize::try_from(at.column()).unwrap_or(usize::MAX).saturating_sub(1);
    let start: usize = yaml.split_inclusive('\n').take(line).map(str::len).sum();
    let rest = yaml.get(start..).unwrap_or_default();
    let inside = rest.char_indices().nth(column).map_or(rest.len(), |(at, _)| at);
    Place { start: start + inside, len: 1 }
}

/// Returns what a newcomer probably meant at a place where YAML stops.
fn syntax_hint(yaml: &str, place: Place, text: &str) -> Option<String> {
    let line_start = yaml.get(..place.start)?.rfind('\n').map_or(0, |newline| newline + 1);
    let line = yaml.get(line_start..)?.lines().next()?;
    if line.starts_with('\t') || line.trim_start_matches(' ').starts_with('\t') {
        return Some("indent with spaces; YAML takes no tabs".to_owned());
    }
    // What YAML keeps for itself at the start of a value, above all the `*` of a pattern.
    let here = yaml.get(place.start..)?;
    if here.starts_with(['*', '&', '%', '@', '`', '!']) {
        let end = here.find([',', '}', ']', '\n', '#']).unwrap_or(here.len());
        let value = here.get(..end)?.trim_end();
        return Some(format!("put the value between quotes: \"{value}\""));
    }
    if let Some(hint) = structure_hint(yaml.get(..line_start)?, line, text) {
        return Some(hint);
    }
    let value = line.split_once(": ").map_or(line, |(_, value)| value).trim_start();
    match value.chars().next()? {
        _ if text.contains("unclosed quote") => {
            Some("end the value with the quote it begins with".to_owned())
        }
        _ if text.contains("unknown escape") => Some(
            "between double quotes `\\` begins an escape: put a regular expression between single quotes"
                .to_owned(),
        ),
        '\'' | '"' => Some(QUOTED.to_owned()),
        _ if text.contains("-quoted scalar") => Some(QUOTED.to_owned()),
        _ if text.starts_with("mapping values") => {
            Some("put a value that holds `: ` between quotes".to_owned())
        }
        _ => None,
    }
}

const QUOTED: &str = "a value that begins with a quote ends with it; put the whole expression between \
                      the other kind of quotes";

/// Returns what is probably wrong with how lines, braces and brackets stand, at a line and those
/// before it.
fn structure_hint(before: &str, line: &str, text: &str) -> Option<String> {
    let indent = |line: &str| line.len() - line.trim_start_matches(' ').len();
    let written = |line: &&str| !line.trim().is_empty() && !line.trim_start().starts_with('#');
    let above = before.lines().rev().find(written);
    if text.contains("expected ',' or") && line.contains("${") {
        return Some(
            "between `{` and `}` a parameter stands between quotes: `count: \"${NUMBER}\"`"
                .to_owned(),
        );
    }
    if text.contains("mismatched bracket") || text.contains("expected ',' or") {
        return Some("close each `{` with `}` and each `[` with `]`".to_owned());
    }
    if text.contains("simple key expected") {
        let key = line.trim();
        return Some(format!("put a colon behind the key: `{key}:`"));
    }
    if text.contains("did not find expected key") {
        return Some("keys of one map begin in the same column".to_owned());
    }
    let above = above?;
    if !text.starts_with("mapping values") {
        return None;
    }
    // `key:value` is one word; a line below it that has a colon is then no key.
    if let Some((key, value)) = above.trim().split_once(':')
        && !value.is_empty()
        && !value.starts_with(' ')
        && !key.contains([' ', '"', '\'', '{', '['])
    {
        return Some(format!("a blank follows the colon, in the line above: `{key}: {value}`"));
    }
    let has_value = above.trim().split_once(": ").is_some_and(|(_, value)| !value.is_empty());
    let deeper = indent(line) > indent(above) && has_value;
    deeper.then(|| "it is indented deeper than the line above: begin both in one column".to_owned())
}

/// What the YAML reader hands over, before places are computed.
enum Raw {
    Null,
    /// A string as YAML understands it.
    Text(String),
    /// A number or a boolean: the text as written is what counts.
    Plain(String),
    List(Vec<Spanned<Raw>>),
    Map(Vec<(Spanned<Raw>, Spanned<Raw>)>),
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a value")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Raw, E> {
        Ok(Raw::Plain(value.to_string()))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Raw, E> {
        Ok(Raw::Plain(value.to_string()))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Raw, E> {
        Ok(Raw::Plain(value.to_string()))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Raw, E> {
        Ok(Raw::Plain(value.to_string()))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Raw, E> {
        Ok(Raw::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Raw, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element()? {
            items.push(item);
        }
        Ok(Raw::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Raw, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = access.next_entry()? {
            entries.push(entry);
        }
        Ok(Raw::Map(entries))
    }
}

fn place<T>(yaml: &str, spanned: &Spanned<T>) -> Place {
    let span = spanned.defined.span();
    let start = span.byte_offset().and_then(|start| usize::try_from(start).ok()).unwrap_or(0);
    let len = span.byte_len().and_then(|len| usize::try_from(len).ok()).unwrap_or(0);
    let start = start.min(yaml.len());
    Place { start, len: len.min(yaml.len() - start) }
}

fn node(yaml: &str, raw: Spanned<Raw>, owner: Option<Place>, path: String) -> Node {
    let place = place(yaml, &raw);
    let value = match raw.value {
        Raw::Null => Value::Null,
        Raw::Text(text) => Value::Scalar(text),
        Raw::Plain(text) => Value::Scalar(plain_text(yaml, place, text)),
        Raw::List(items) => Value::List(
            items
                .into_iter()
                .enumerate()
                .map(|(index, item)| node(yaml, item, None, format!("{path}[{index}]")))
                .collect(),
        ),
        Raw::Map(entries) => {
            let entries = entries.into_iter();
            let entries = entries.map(|(name, value)| entry(yaml, name, value, &path));
            Value::Map(joined(entries.collect()))
        }
    };
    Node { place, owner: owner.unwrap_or(place), path, value }
}

/// Puts together what a comma took apart: between braces `decimal(12,2)` is to YAML a value and then
/// a key without one.
fn joined(entries: Vec<(Key, Node)>) -> Vec<(Key, Node)> {
    let is_number = |text: &str| {
        let text = text.trim();
        !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
    };
    let opens = |text: &str| {
        let digits = text.strip_prefix("decimal").and_then(|rest| rest.trim().strip_prefix('('));
        digits.is_some_and(is_number)
    };
    let mut whole: Vec<(Key, Node)> = Vec::with_capacity(entries.len());
    for (key, node) in entries {
        if matches!(node.value, Value::Null)
            && key.name.strip_suffix(')').is_some_and(is_number)
            && let Some((_, Node { value: Value::Scalar(before), place, .. })) = whole.last_mut()
            && opens(before)
        {
            before.push(',');
            before.push_str(&key.name);
            place.len = (key.place.start + key.place.len).saturating_sub(place.start);
            continue;
        }
        whole.push((key, node));
    }
    whole
}

fn entry(yaml: &str, name: Spanned<Raw>, value: Spanned<Raw>, path: &str) -> (Key, Node) {
    let key_place = place(yaml, &name);
    let name = match name.value {
        Raw::Null => String::new(),
        Raw::Text(text) => text,
        Raw::Plain(text) => plain_text(yaml, key_place, text),
        // A list or map as a key: its text, which no check will take for a name.
        Raw::List(_) | Raw::Map(_) => {
            yaml.get(key_place.start..).unwrap_or_default().lines().next().unwrap_or("").to_owned()
        }
    };
    let segment: String = name.chars().take(PATH_SEGMENT_CHARACTERS_MAX).collect();
    let child = if path.is_empty() { segment } else { format!("{path}.{segment}") };
    (Key { place: key_place, name }, node(yaml, value, Some(key_place), child))
}

/// Returns a number or boolean as it stands in the file (`1_000`, `yes`), so that names and
/// expressions are never reformatted.
fn plain_text(yaml: &str, place: Place, parsed: String) -> String {
    match yaml.get(place.start..place.start + place.len).map(str::trim) {
        Some(written) if !written.is_empty() && !written.contains('\n') => written.to_owned(),
        _ => parsed,
    }
}
