//! Substitute: puts values into scalars: `${NAME}`, `${env:NAME}`. Derived.
//!
//! A value is put into one scalar of the tree and never read as YAML again, so it cannot add a key, a list
//! or a further parameter. Its bytes are bounded, for each scalar and for a file.

use crate::diagnostic::{Mistakes, Place, place_in, quoted};
use crate::spec::compose::params::{Scope, VALUE_BYTES_MAX, is_name};
use crate::spec::surroundings::Surroundings;
use crate::spec::tree::{Key, Node, Value};

/// How many bytes all scalars with values in them may have together.
const BYTES_MAX: usize = 4 * 1024 * 1024;

/// Puts values into scalars.
pub(super) struct Substitution<'s> {
    surroundings: &'s dyn Surroundings,
    /// Whether no file is missing that may declare parameters.
    whole: bool,
    bytes_left: usize,
    complete: bool,
}

impl<'s> Substitution<'s> {
    pub(super) fn new(surroundings: &'s dyn Surroundings, whole: bool) -> Self {
        Self { surroundings, whole, bytes_left: BYTES_MAX, complete: true }
    }

    /// Returns whether every reference got its value.
    pub(super) fn is_complete(&self) -> bool {
        self.complete
    }

    /// Puts values into all scalars of a value. Keys are names and stay what they are, unless they are conditions.
    pub(super) fn apply(
        &mut self,
        node: &mut Node,
        scope: &mut Scope,
        mistakes: &mut Mistakes<'_>,
    ) {
        match &mut node.value {
            Value::Null => {}
            Value::Scalar(text) if !text.contains("${") => {}
            Value::Scalar(text) => {
                if let Some(value) = self.text(text, (node.place, &node.path), scope, mistakes) {
                    *text = value;
                }
            }
            Value::List(items) => {
                for item in items {
                    self.apply(item, scope, mistakes);
                }
            }
            Value::Map(entries) => {
                let conditions = has_conditions(&node.path);
                for (key, value) in entries {
                    if conditions && key.name.contains("${") {
                        let at = (key.place, value.path.as_str());
                        if let Some(name) = self.text(&key.name, at, scope, mistakes) {
                            key.name = name;
                        }
                    } else {
                        self.key(key, value, mistakes);
                    }
                    self.apply(value, scope, mistakes);
                }
            }
        }
    }

    /// Notes a key that refers to a parameter; one that only looks so becomes what is meant.
    pub(super) fn key(&mut self, key: &mut Key, value: &Node, mistakes: &mut Mistakes<'_>) {
        if let Some(name) = literal(&key.name) {
            key.name = name;
        } else {
            let message = format!("{} is a name, and names take no parameters", quoted(&key.name));
            mistakes.add(key.place, &value.path, message, Some("write it out".to_owned()));
            self.complete = false;
        }
    }

    /// Returns a text with its values; `None` when one of them is not there, which has been noted.
    fn text(
        &mut self,
        text: &str,
        (place, path): (Place, &str),
        scope: &mut Scope,
        mistakes: &mut Mistakes<'_>,
    ) -> Option<String> {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        let mut all = true;
        while let Some(at) = rest.find("${") {
            let (before, reference) = rest.split_at(at);
            if let Some(before) = before.strip_suffix('$') {
                out.push_str(before);
                out.push_str("${");
                rest = reference.get(2..).unwrap_or_default();
                continue;
            }
            out.push_str(before);
            let start = text.len() - reference.len();
            let end = reference.find('}');
            let len = end.map_or(2, |end| end + 1);
            let here = place_in(mistakes.yaml(), place, text, start..start + len);
            let Some(end) = end else {
                let hint = "a parameter is `${NAME}`; a `${` that is meant as it stands is `$${`";
                mistakes.add(here, path, "`${` has no `}`", hint.to_owned());
                self.complete = false;
                return None;
            };
            let name = reference.get(2..end).unwrap_or_default();
            match self.value(name, (here, path), scope, mistakes) {
                Some(value) => out.push_str(&value),
                None => all = false,
            }
            rest = reference.get(end + 1..).unwrap_or_default();
            if out.len() > VALUE_BYTES_MAX || out.len() > self.bytes_left {
                let message = format!(
                    "with its parameters the value is too long: at most {VALUE_BYTES_MAX} bytes, and \
                     {BYTES_MAX} for all"
                );
                mistakes.add(place, path, message, None);
                self.complete = false;
                return None;
            }
        }
        self.complete &= all;
        out.push_str(rest);
        self.bytes_left = self.bytes_left.saturating_sub(out.len());
        all.then_some(out)
    }

    /// Returns what a reference stands for.
    fn value(
        &self,
        name: &str,
        (place, path): (Place, &str),
        scope: &mut Scope,
        mistakes: &mut Mistakes<'_>,
    ) -> Option<String> {
        let (kind, bare) = match name.split_once(':') {
            Some((kind, bare)) => (Some(kind), bare),
            None => (None, name),
        };
        if kind == Some("secret") {
            let message = "a secret is put into no text: whatever stands in a pipeline file is shown by \
                           `graph` and kept with the outputs";
            let hint =
                format!("a secret is only ever a key to hash with: hmac_sha256(COLUMN, '{bare}')");
            mistakes.add(place, path, message, hint);
            return None;
        }
        if kind.is_some_and(|kind| kind != "env") || !is_name(bare) {
            let message =
                format!("{} is no reference to a parameter", quoted(&format!("${{{name}}}")));
            let hint =
                "write `${NAME}` or `${env:NAME}`; a `${` that is meant as it stands is `$${`";
            mistakes.add(place, path, message, hint.to_owned());
            return None;
        }
        if kind.is_some() {
            return match self.surroundings.environment(bare) {
                Ok(value) => Some(value),
                Err(refusal) => {
                    mistakes.add(place, path, refusal.message, refusal.hint);
                    None
                }
            };
        }
        let is_whole = self.whole || scope.of_group.is_some();
        match scope.value(bare) {
            Ok(value) => value.map(str::to_owned),
            Err(()) if !is_whole => None,
            Err(()) => {
                let names = scope.names();
                let whose = match &scope.of_group {
                    Some(group) => format!("the group {} has", quoted(group)),
                    None => "there is".to_owned(),
                };
                let message = format!("{whose} no parameter {}", quoted(bare));
                let hint = mistakes.nearest_hint(bare, names, "there are").unwrap_or_else(|| {
                    format!(
                        "declare it: `params: {{ {bare}: {{ type: string }} }}`; a `${{` that is meant \
                         as it stands is `$${{`"
                    )
                });
                mistakes.add(place, path, message, hint);
                None
            }
        }
    }
}

/// Returns a text that refers to nothing as it is meant; `None` if it refers to something.
pub(super) fn literal(text: &str) -> Option<String> {
    let refers = text.replace("$${", "").contains("${");
    (!refers).then(|| text.replace("$${", "${"))
}

/// Returns whether the keys of a map are expressions: those of `expect`.
fn has_conditions(path: &str) -> bool {
    path.ends_with(".expect")
}
