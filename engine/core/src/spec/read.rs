//! Read: takes a tree apart key by key and notes what is unknown, missing, double, or of the wrong
//! kind. Derived; knows the shape of values, never what a pipeline is.

use std::collections::HashSet;
use std::time::Duration;

use crate::diagnostic::{Mistakes, Place, listed, quoted};
use crate::spec::tree::{Key, Node, Value};
use crate::spec::words;

/// The longest name of a pipeline, source, operator, sink or tag, in characters.
const NAME_CHARACTERS_MAX: usize = 64;
/// The longest name of a column, in bytes.
const COLUMN_BYTES_MAX: usize = 256;

/// The units of a size, in bytes.
const SIZE_UNITS: [(&str, usize); 7] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("B", 1),
];
/// The units of a duration, in milliseconds.
const DURATION_UNITS: [(&str, usize); 5] =
    [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

/// A scalar with its place.
#[derive(Clone, Debug)]
pub(crate) struct Text {
    pub(crate) text: String,
    pub(crate) place: Place,
    pub(crate) path: String,
}

impl Text {
    /// Notes a mistake in this value.
    pub(crate) fn wrong(
        &self,
        mistakes: &mut Mistakes<'_>,
        message: impl Into<String>,
        hint: impl Into<Option<String>>,
    ) {
        mistakes.add(self.place, &self.path, message, hint);
    }
}

/// The entries of a map, taken one by one.
pub(crate) struct Entries {
    what: &'static str,
    owner: Place,
    path: String,
    entries: Vec<(Key, Node)>,
    asked: Vec<&'static str>,
}

impl Entries {
    /// Opens a map whose keys are fixed words; `what` names it in messages (`a source`).
    pub(crate) fn open(
        node: Node,
        what: &'static str,
        mistakes: &mut Mistakes<'_>,
    ) -> Option<Self> {
        let (owner, path) = (node.owner, node.path.clone());
        let entries = map(node, what, mistakes)?;
        Some(Self { what, owner, path, entries, asked: Vec::new() })
    }

    /// Takes the value of a key, if the key is there.
    pub(crate) fn take(&mut self, name: &'static str) -> Option<Node> {
        self.asked.push(name);
        let at = self.entries.iter().position(|(key, _)| key.name == name)?;
        Some(self.entries.remove(at).1)
    }

    /// Takes the value of a key that must be there.
    pub(crate) fn require(
        &mut self,
        name: &'static str,
        mistakes: &mut Mistakes<'_>,
    ) -> Option<Node> {
        let taken = self.take(name);
        if taken.is_none() && !self.is_meant(name) {
            let message = format!("{} needs {}", self.what, quoted(name));
            mistakes.add(self.owner, &self.path, message, words::example_of(self.what, name));
        }
        taken
    }

    /// Returns whether another key probably stands for this one: it is reported as unknown, with the
    /// right name, and this one is not missed.
    pub(crate) fn is_meant(&self, name: &str) -> bool {
        let stands_for = |key: &Key| {
            likely(&key.name, name)
                || words::meant(self.what, &key.name).is_some_and(|(meant, _)| meant == name)
                || key.name.split_once(':').is_some_and(|(before, _)| before == name)
        };
        self.rest().any(stands_for)
    }

    /// Returns the keys that nobody has taken.
    pub(crate) fn rest(&self) -> impl Iterator<Item = &Key> {
        self.entries.iter().map(|(key, _)| key)
    }

    /// Notes a mistake about the map as a whole.
    pub(crate) fn wrong(&self, mistakes: &mut Mistakes<'_>, message: String, hint: Option<String>) {
        mistakes.add(self.owner, &self.path, message, hint);
    }

    /// Notes every key that nobody asked for.
    pub(crate) fn finish(self, mistakes: &mut Mistakes<'_>) {
        #[cfg(test)]
        asked::note("keys", self.what, self.asked.iter().copied());
        for (key, node) in &self.entries {
            let message = format!("{} has no {}", self.what, quoted(&key.name));
            let written = words::meant(self.what, &key.name).map(|(_, hint)| hint);
            let written = written.or_else(|| words::misspelled(&key.name, &self.asked));
            let near = self.asked.iter().any(|asked| likely(&key.name, asked));
            let stray = words::stray(self.what, &node.value).filter(|_| !near);
            let hint = written.or(stray).or_else(|| {
                mistakes.nearest_hint(&key.name, self.asked.iter().copied(), "it takes")
            });
            mistakes.add(key.place, &node.path, message, hint);
        }
    }
}

fn likely(written: &str, name: &str) -> bool {
    crate::diagnostic::nearest(written, [name]).is_some()
}

/// Returns the entries of a map, each key once; a repeated key is a mistake.
pub(crate) fn map(node: Node, what: &str, mistakes: &mut Mistakes<'_>) -> Option<Vec<(Key, Node)>> {
    let Value::Map(entries) = node.value else {
        return wrong_kind(&node, what, "a map (`key: value`)", mistakes);
    };
    let mut seen = HashSet::new();
    let mut kept = Vec::with_capacity(entries.len());
    for (key, value) in entries {
        if seen.insert(key.name.clone()) {
            kept.push((key, value));
        } else {
            let message = format!("{} stands twice here", quoted(&key.name));
            mistakes.add(key.place, &value.path, message, Some("keep one of them".to_owned()));
        }
    }
    Some(kept)
}

/// Returns a scalar.
pub(crate) fn text(node: Node, what: &str, mistakes: &mut Mistakes<'_>) -> Option<Text> {
    match node.value {
        Value::Scalar(text) => Some(Text { text, place: node.place, path: node.path }),
        _ => wrong_kind(&node, what, "a single value", mistakes),
    }
}

/// Returns a scalar or a list of scalars.
pub(crate) fn texts(node: Node, what: &str, mistakes: &mut Mistakes<'_>) -> Option<Vec<Text>> {
    match node.value {
        Value::Scalar(text) => Some(vec![Text { text, place: node.place, path: node.path }]),
        Value::List(items) => items.into_iter().map(|item| text(item, what, mistakes)).collect(),
        _ => wrong_kind(&node, what, "a single value or a list", mistakes),
    }
}

fn wrong_kind<T>(node: &Node, what: &str, wanted: &str, mistakes: &mut Mistakes<'_>) -> Option<T> {
    let place = if matches!(node.value, Value::Null) { node.owner } else { node.place };
    let message = format!("{what} is {wanted}, not {}", node.value.what());
    mistakes.add(place, &node.path, message, words::example(what, &node.value));
    None
}

/// Returns the choice that a scalar names.
pub(crate) fn choice<T: Copy>(
    node: Node,
    what: &str,
    choices: &[(&'static str, T)],
    mistakes: &mut Mistakes<'_>,
) -> Option<T> {
    #[cfg(test)]
    asked::note("words", what, choices.iter().map(|(name, _)| *name));
    let written = text(node, what, mistakes)?;
    let found = choices.iter().find(|(name, _)| *name == written.text);
    if found.is_none() {
        let names = choices.iter().map(|(name, _)| *name);
        let all: Vec<&str> = names.clone().collect();
        let hint = words::choice_meant(&written.text, &all)
            .or_else(|| mistakes.nearest_hint(&written.text, names, "it is one of"));
        written.wrong(mistakes, format!("{what} cannot be {}", quoted(&written.text)), hint);
    }
    found.map(|(_, choice)| *choice)
}

/// Returns `true` or `false`.
pub(crate) fn flag(node: Node, what: &str, mistakes: &mut Mistakes<'_>) -> Option<bool> {
    choice(node, what, &[("true", true), ("false", false)], mistakes)
}

/// Returns one byte that separates or quotes, with `\t` and `tab` for the tab.
pub(crate) fn byte(node: Node, what: &str, mistakes: &mut Mistakes<'_>) -> Option<u8> {
    let written = text(node, what, mistakes)?;
    match (written.text.as_str(), written.text.as_bytes()) {
        ("\\t" | "tab", _) => Some(b'\t'),
        (_, [byte]) if byte.is_ascii() && !matches!(byte, b'\n' | b'\r' | 0) => Some(*byte),
        _ => {
            let message = format!("{what} is one ASCII character, not {}", quoted(&written.text));
            written.wrong(
                mistakes,
                message,
                Some("for example \",\", \";\" or \"\\t\"".to_owned()),
            );
            None
        }
    }
}

/// Returns a whole number within bounds.
pub(crate) fn number(
    node: Node,
    what: &str,
    (least, most): (u32, u32),
    mistakes: &mut Mistakes<'_>,
) -> Option<u32> {
    let written = text(node, what, mistakes)?;
    let number = written.text.parse().ok().filter(|number| (least..=most).contains(number));
    if number.is_none() {
        let message = format!("{what} cannot be {}", quoted(&written.text));
        let hint = format!("it is a whole number from {least} to {most}");
        written.wrong(mistakes, message, hint);
    }
    number
}

/// Returns a number of bytes such as `64KiB`, within bounds.
pub(crate) fn size(
    node: Node,
    what: &str,
    (least, most): (usize, usize),
    mistakes: &mut Mistakes<'_>,
) -> Option<usize> {
    let written = text(node, what, mistakes)?;
    let bytes = with_unit(&written.text, &SIZE_UNITS, 1);
    if let Some(bytes) = bytes.filter(|bytes| (least..=most).contains(bytes)) {
        return Some(bytes);
    }
    let message = format!("{what} cannot be {}", quoted(&written.text));
    let hint = format!("it is a size from {least}B to {}MiB, such as 64KiB", most >> 20);
    written.wrong(mistakes, message, hint);
    None
}

/// Returns a duration such as `500ms`, within bounds.
pub(crate) fn duration(
    node: Node,
    what: &str,
    (least, most): (Duration, Duration),
    mistakes: &mut Mistakes<'_>,
) -> Option<Duration> {
    let written = text(node, what, mistakes)?;
    // A bare number says nothing about its unit, so 0 is the factor that refuses it.
    let millis =
        with_unit(&written.text, &DURATION_UNITS, 0).and_then(|millis| u64::try_from(millis).ok());
    let duration = millis.map(Duration::from_millis);
    if let Some(duration) = duration.filter(|duration| (least..=most).contains(duration)) {
        return Some(duration);
    }
    let message = format!("{what} cannot be {}", quoted(&written.text));
    let hint = format!(
        "it is a duration from {least:?} to {}h, such as 500ms, 1s or 5m",
        most.as_secs() / 3600
    );
    written.wrong(mistakes, message, hint);
    None
}

/// Returns whether a text is a size, whatever its bounds.
pub(crate) fn is_size(text: &str) -> bool {
    with_unit(text, &SIZE_UNITS, 1).is_some()
}

/// Returns whether a text is a duration, whatever its bounds.
pub(crate) fn is_duration(text: &str) -> bool {
    text.ends_with(|last: char| !last.is_ascii_digit())
        && with_unit(text, &DURATION_UNITS, 0).is_some()
}

fn with_unit(text: &str, units: &[(&str, usize)], bare: usize) -> Option<usize> {
    let found = units.iter().find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, *factor)));
    let (digits, factor) = found.unwrap_or((text, bare));
    digits.trim().parse::<usize>().ok()?.checked_mul(factor)
}

/// Returns a key as the name of something that becomes part of file names and of `from: name.tag`.
pub(crate) fn name(key: &Key, path: &str, what: &str, mistakes: &mut Mistakes<'_>) -> Text {
    let name = Text { text: key.name.clone(), place: key.place, path: path.to_owned() };
    check_name(&name, what, mistakes);
    name
}

/// Returns a key as the name of an operator: one of a group's instance is called `instance/name`.
pub(crate) fn operator_name(key: &Key, path: &str, mistakes: &mut Mistakes<'_>) -> Text {
    let name = Text { text: key.name.clone(), place: key.place, path: path.to_owned() };
    for part in key.name.split('/') {
        let before = mistakes.len();
        let part = Text { text: part.to_owned(), ..name.clone() };
        check_name(&part, "an operator", mistakes);
        if mistakes.len() > before {
            break; // what is wrong with one part need not be said of the next
        }
    }
    name
}

/// Notes when a name could not be part of a file name.
pub(crate) fn check_name(name: &Text, what: &str, mistakes: &mut Mistakes<'_>) {
    let fits = |character: char| character.is_ascii_alphanumeric() || "_-".contains(character);
    let bad = name.text.chars().find(|character| !fits(*character));
    let problem = if name.text.is_empty() {
        "is empty".to_owned()
    } else if let Some(bad) = bad {
        format!("has a character that names cannot have: {}", quoted(&bad.to_string()))
    } else if name.text.starts_with('-') {
        "begins with `-`".to_owned()
    } else if name.text.chars().count() > NAME_CHARACTERS_MAX {
        format!("is longer than {NAME_CHARACTERS_MAX} characters")
    } else {
        return;
    };
    let hint = "names are made of letters, digits, `_` and `-`".to_owned();
    name.wrong(mistakes, format!("the name of {what} {problem}"), hint);
}

/// Returns a key as the name of a column; quoted in expressions, it may hold nearly anything.
pub(crate) fn column_name(key: &Key, path: &str, mistakes: &mut Mistakes<'_>) -> Text {
    let name = Text { text: key.name.clone(), place: key.place, path: path.to_owned() };
    check_column_name(&name, mistakes);
    name
}

/// Notes when a name cannot be that of a column.
pub(crate) fn check_column_name(name: &Text, mistakes: &mut Mistakes<'_>) {
    let problem = if name.text.is_empty() {
        "the name of a column is empty"
    } else if name.text.len() > COLUMN_BYTES_MAX {
        "the name of a column is longer than 256 bytes"
    } else if name.text.chars().any(char::is_control) {
        "the name of a column holds a control character"
    } else {
        return;
    };
    name.wrong(mistakes, problem, None);
}

/// Notes each name that stands twice in a list.
pub(crate) fn check_once<'t>(
    names: impl IntoIterator<Item = &'t Text>,
    mistakes: &mut Mistakes<'_>,
) {
    let mut seen = HashSet::new();
    for name in names {
        if !seen.insert(name.text.as_str()) {
            let message = format!("{} stands twice here", quoted(&name.text));
            name.wrong(mistakes, message, Some("keep one of them".to_owned()));
        }
    }
}

/// Returns the names of a list for a hint.
pub(crate) fn names_of<'t>(names: impl IntoIterator<Item = &'t Text>) -> String {
    listed(names.into_iter().map(|name| name.text.as_str()))
}

/// What is asked of files, so that the schema can be held against it.
#[cfg(test)]
pub(crate) mod asked {
    use std::cell::RefCell;
    use std::collections::{BTreeMap, BTreeSet};

    type Asked = BTreeMap<String, BTreeSet<String>>;

    thread_local! {
        static ASKED: RefCell<Asked> = RefCell::default();
    }

    pub(crate) fn note<'n>(kind: &str, what: &str, names: impl Iterator<Item = &'n str>) {
        ASKED.with_borrow_mut(|asked| {
            let of = asked.entry(format!("{kind} of {what}")).or_default();
            of.extend(names.map(str::to_owned));
        });
    }

    pub(crate) fn forget() {
        ASKED.with_borrow_mut(BTreeMap::clear);
    }

    pub(crate) fn all() -> Asked {
        ASKED.with_borrow(Clone::clone)
    }
}
