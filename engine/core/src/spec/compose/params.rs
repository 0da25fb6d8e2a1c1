//! Params: what can be said from outside of a file or a group, and what is said. Derived.

use std::collections::BTreeMap;

use crate::diagnostic::{Mistakes, quoted};
use crate::spec::compose::substitute::literal;
use crate::spec::read::{self, Entries, Text};
use crate::spec::surroundings::{GivenValue, Surroundings};
use crate::spec::tree::{Node, Value};

/// The longest name of a parameter, in characters.
const NAME_CHARACTERS_MAX: usize = 64;
/// The longest value of a parameter, in bytes.
pub(super) const VALUE_BYTES_MAX: usize = 64 * 1024;

/// What a parameter may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ParamType {
    String,
    Int,
    Float,
    Bool,
    Size,
    Duration,
}

impl ParamType {
    /// The types, by their names.
    pub(super) const WORDS: [(&'static str, ParamType); 6] = [
        ("string", ParamType::String),
        ("int", ParamType::Int),
        ("float", ParamType::Float),
        ("bool", ParamType::Bool),
        ("size", ParamType::Size),
        ("duration", ParamType::Duration),
    ];

    fn word(self) -> &'static str {
        Self::WORDS.iter().find(|(_, kind)| *kind == self).map_or("string", |(word, _)| word)
    }

    /// Returns whether a text is a value of the type.
    fn fits(self, text: &str) -> bool {
        let is_number = |text: &str| text.contains(|next: char| next.is_ascii_digit());
        text.len() <= VALUE_BYTES_MAX
            && match self {
                ParamType::String => true,
                ParamType::Int => text.parse::<i64>().is_ok(),
                ParamType::Float => {
                    is_number(text) && text.parse::<f64>().is_ok_and(f64::is_finite)
                }
                ParamType::Bool => matches!(text, "true" | "false"),
                ParamType::Size => read::is_size(text),
                ParamType::Duration => read::is_duration(text),
            }
    }

    /// Returns what is wrong with a value, and what one looks like.
    fn refused(self, value: &str) -> (String, String) {
        if value.len() > VALUE_BYTES_MAX {
            let hint = format!("it has at most {VALUE_BYTES_MAX} bytes");
            return ("the value is too long".to_owned(), hint);
        }
        let example = match self {
            ParamType::String => "any text",
            ParamType::Int => "a whole number such as 500",
            ParamType::Float => "a number such as 0.5",
            ParamType::Bool => "`true` or `false`",
            ParamType::Size => "a size such as 64KiB",
            ParamType::Duration => "a duration such as 500ms, 1s or 5m",
        };
        let article = if self == ParamType::Int { "an" } else { "a" };
        (format!("{} is not {article} {}", quoted(value), self.word()), format!("it is {example}"))
    }
}

/// A parameter as it is declared.
#[derive(Clone, Debug)]
pub(super) struct Param {
    pub(super) name: Text,
    kind: ParamType,
    default: Option<String>,
}

/// Reads `params`; `None` when not all of them could be read.
pub(super) fn declared(node: Option<Node>, mistakes: &mut Mistakes<'_>) -> Option<Vec<Param>> {
    let Some(node) = node else { return Some(Vec::new()) };
    let mut all = Some(Vec::new());
    for (key, node) in read::map(node, "`params`", mistakes)? {
        let name = Text { text: key.name, place: key.place, path: node.path.clone() };
        match (one(name, node, mistakes), &mut all) {
            (Some(param), Some(all)) => all.push(param),
            _ => all = None,
        }
    }
    all
}

fn one(name: Text, node: Node, mistakes: &mut Mistakes<'_>) -> Option<Param> {
    if !is_name(&name.text) {
        let hint = "it is made of letters, digits and `_`, not beginning with a digit".to_owned();
        name.wrong(mistakes, format!("{} cannot name a parameter", quoted(&name.text)), hint);
        return None;
    }
    if !matches!(node.value, Value::Map(_)) {
        let kind = read::choice(node, "the type of a parameter", &ParamType::WORDS, mistakes)?;
        return Some(Param { name, kind, default: None });
    }
    let mut entries = Entries::open(node, "a parameter", mistakes)?;
    let kind = entries.require("type", mistakes);
    let default = entries.take("default");
    entries.finish(mistakes);
    let kind = read::choice(kind?, "the type of a parameter", &ParamType::WORDS, mistakes)?;
    let default = match default {
        None => None,
        Some(node) => {
            let default = read::text(node, "a default", mistakes)?;
            let Some(value) = literal(&default.text) else {
                let hint = "write the value out; a `${` that is meant as it stands is `$${`";
                default.wrong(mistakes, "a default takes no parameters", hint.to_owned());
                return None;
            };
            if !kind.fits(&value) {
                let (message, hint) = kind.refused(&value);
                default.wrong(mistakes, message, Some(hint));
                return None;
            }
            Some(value)
        }
    };
    Some(Param { name, kind, default })
}

/// Returns whether a text can name a parameter or a variable of the environment.
pub(super) fn is_name(text: &str) -> bool {
    let first = text.chars().next();
    first.is_some_and(|first| first.is_ascii_alphabetic() || first == '_')
        && text.chars().all(|next| next.is_ascii_alphanumeric() || next == '_')
        && text.len() <= NAME_CHARACTERS_MAX
}

/// The parameters that can be used at a place.
pub(super) struct Scope {
    values: BTreeMap<String, Held>,
    /// Whether all declarations could be read: only then is a name that is not there unknown.
    known: bool,
    complete: bool,
    /// Where it is, for hints.
    pub(super) of_group: Option<String>,
}

/// A value, and whether it is used.
struct Held {
    name: Text,
    value: Option<String>,
    used: bool,
}

impl Scope {
    /// Returns the parameters of a file with what is given to them from outside.
    pub(super) fn file(
        node: Option<Node>,
        surroundings: &dyn Surroundings,
        mistakes: &mut Mistakes<'_>,
    ) -> Self {
        let params = declared(node, mistakes);
        let mut scope = Self::empty(params.is_some(), None);
        for param in params.unwrap_or_default() {
            let given = surroundings.parameter(&param.name.text);
            let missing = |name: &str| {
                format!(
                    "give it with `--param {name}=VALUE` or `TIDEMILL_PARAM_{name}`, or give it a `default`"
                )
            };
            scope.add(param, given, missing, mistakes);
        }
        scope
    }

    /// Returns the parameters of a group with what an instance gives to them. `known` says whether all that its
    /// file gives on has a value; if not, that was told.
    pub(super) fn group(
        group: &str,
        params: &[Param],
        with: Vec<(Text, Text)>,
        known: bool,
        instance: &Text,
        mistakes: &mut Mistakes<'_>,
    ) -> Self {
        let mut scope = Self::empty(true, Some(group.to_owned()));
        for (name, _) in &with {
            if !params.iter().any(|param| param.name.text == name.text) {
                let names = params.iter().map(|param| param.name.text.as_str());
                let hint = mistakes.nearest_hint(&name.text, names, "it has");
                let message =
                    format!("the group {} has no parameter {}", quoted(group), quoted(&name.text));
                name.wrong(mistakes, message, hint);
            }
        }
        for param in params {
            let given = with.iter().find(|(name, _)| name.text == param.name.text);
            let mut value = param.default.clone();
            if let Some((_, given)) = given {
                if !known && given.text.contains("${") {
                    value = None;
                } else if param.kind.fits(&given.text) {
                    value = Some(given.text.clone());
                } else {
                    let (message, hint) = param.kind.refused(&given.text);
                    given.wrong(mistakes, message, Some(hint));
                }
            } else if value.is_none() {
                let name = &param.name.text;
                let message =
                    format!("the group {} needs the parameter {}", quoted(group), quoted(name));
                instance.wrong(mistakes, message, format!("write `with: {{ {name}: VALUE }}`"));
            }
            scope.insert(param.name.clone(), value);
        }
        scope
    }

    fn empty(known: bool, of_group: Option<String>) -> Self {
        Self { values: BTreeMap::new(), known, complete: known, of_group }
    }

    fn add(
        &mut self,
        param: Param,
        given: Option<GivenValue>,
        missing: impl Fn(&str) -> String,
        mistakes: &mut Mistakes<'_>,
    ) {
        let Param { name, kind, default } = param;
        let value = match given {
            Some(given) if kind.fits(&given.value) => Some(given.value),
            Some(given) => {
                let (message, hint) = kind.refused(&given.value);
                let (name_shown, origin) = (quoted(&name.text), given.origin);
                let message = format!("{message}: {origin} gives it to the parameter {name_shown}");
                name.wrong(mistakes, message, Some(hint));
                default
            }
            None if default.is_none() => {
                let message = format!("the parameter {} has no value", quoted(&name.text));
                name.wrong(mistakes, message, missing(&name.text));
                None
            }
            None => default,
        };
        self.insert(name, value);
    }

    fn insert(&mut self, name: Text, value: Option<String>) {
        self.complete &= value.is_some();
        self.values.insert(name.text.clone(), Held { name, value, used: false });
    }

    /// Returns the value of a parameter; `Err` when there is no such parameter, `Ok(None)` when its value is
    /// missing, which has been noted.
    pub(super) fn value(&mut self, name: &str) -> Result<Option<&str>, ()> {
        match self.values.get_mut(name) {
            Some(value) => {
                value.used = true;
                Ok(value.value.as_deref())
            }
            None if self.known => Err(()),
            None => Ok(None),
        }
    }

    /// Returns the names that are there.
    pub(super) fn names(&self) -> Vec<&str> {
        self.values.keys().map(String::as_str).collect()
    }

    /// Returns whether every parameter has a value.
    pub(super) fn is_complete(&self) -> bool {
        self.complete
    }

    /// Returns the parameters that nothing used.
    pub(super) fn unused(&self) -> impl Iterator<Item = &Text> {
        self.values.values().filter(|value| !value.used).map(|value| &value.name)
    }

    /// Notes every parameter that nothing used.
    pub(super) fn note_unused(&self, mistakes: &mut Mistakes<'_>) {
        for name in self.unused() {
            let message = format!("nothing uses the parameter {}", quoted(&name.text));
            let hint =
                format!("write `${{{}}}` where its value belongs, or take it out", name.text);
            name.wrong(mistakes, message, hint);
        }
    }
}
