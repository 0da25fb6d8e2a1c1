//! Compose: one pass over the tree of a pipeline file that puts in what is included, what parameters say
//! and what groups stand for. Derived.
//!
//! What comes out is the tree of a file that was written flat, each value still with the place where it was
//! written; nothing behind this pass knows that there was another file. An operator of a group is called
//! `instance/operator`. It never looks at what an operator does.

mod include;
mod params;
mod substitute;

mod drops;
pub(crate) mod flat;
mod group;
mod instance;
mod ports;
mod unused;

use std::collections::HashMap;

use tidemill_operators::Type;

use crate::diagnostic::{Mistakes, Place, quoted};
use crate::spec::operator::OperatorSpec;
use crate::spec::read::Text;
use crate::spec::surroundings::Surroundings;
use crate::spec::tree::{Key, Node, Value};
use params::Scope;
use substitute::Substitution;

/// The sections that an included file may have; those of all files are put together.
const SECTIONS: [&str; 5] = ["params", "groups", "sources", "operators", "sinks"];

/// The keys that only composition knows.
pub(super) const OWN_KEYS: [&str; 3] = ["include", "params", "groups"];

/// A pipeline file in which everything is put in.
pub(crate) struct Composed {
    /// The tree of the flat file.
    pub(crate) root: Node,
    /// What groups demand of what is fed to them.
    pub(crate) demands: Vec<Demand>,
    /// The operators of groups that nobody uses.
    pub(crate) unused: Vec<OperatorSpec>,
    /// Whether the file as it was written is not flat already.
    pub(crate) changed: bool,
}

/// The columns that a group demands of an input.
#[derive(Debug)]
pub(crate) struct Demand {
    /// What is fed in, where it is used.
    pub(crate) ports: Vec<Text>,
    /// What must be there.
    pub(crate) columns: Vec<(Text, Type)>,
    /// The input, for messages.
    pub(crate) input: String,
}

/// Composes a file; `None` when what is missing would only bring mistakes that are none.
pub(crate) fn compose(
    root: Node,
    surroundings: &dyn Surroundings,
    mistakes: &mut Mistakes<'_>,
) -> Option<Composed> {
    let written = is_composed(&root);
    if !written {
        let (demands, unused) = (Vec::new(), Vec::new());
        return Some(Composed { root, demands, unused, changed: false });
    }
    if let Some((_, name)) = surroundings.file() {
        mistakes.call(&name);
    }
    let included = include::gather(&root, surroundings, mistakes);
    let whole = included.is_some();
    let mut root = merge(root, included.unwrap_or_default(), mistakes);
    let Value::Map(entries) = &mut root.value else { return None };
    let params = take(entries, "params");
    let groups = take(entries, "groups");
    take(entries, "include");

    let mut scope = Scope::file(params, surroundings, mistakes);
    let mut substitution = Substitution::new(surroundings, whole);
    for (key, node) in entries.iter_mut() {
        // What a text is made of must be known even where it is said to be needed by nobody.
        substitution.key(key, node, mistakes);
        substitution.apply(node, &mut scope, mistakes);
    }
    let groups = group::read(groups, whole, mistakes);
    let (demands, used) = instance::expand(entries, &groups, &mut substitution, mistakes);
    let unused = unused::read(&groups, &used, mistakes);
    if whole && substitution.is_complete() {
        scope.note_unused(mistakes); // else the one that is misspelt would be told twice
    }
    let complete = whole && scope.is_complete() && substitution.is_complete();
    let demands = demands.filter(|_| complete)?;
    Some(Composed { root, demands, unused, changed: true })
}

/// Returns whether there is anything to compose.
fn is_composed(root: &Node) -> bool {
    let Value::Map(entries) = &root.value else { return false };
    entries.iter().any(|(key, node)| {
        OWN_KEYS.contains(&key.name.as_str()) || key.name.contains("${") || holds(node)
    })
}

/// Returns whether a value refers to a parameter or uses a group.
fn holds(node: &Node) -> bool {
    match &node.value {
        Value::Null => false,
        Value::Scalar(text) => text.contains("${"),
        Value::List(items) => items.iter().any(holds),
        Value::Map(entries) => entries
            .iter()
            .any(|(key, node)| key.name.contains("${") || is_use(&key.name, node) || holds(node)),
    }
}

/// Returns whether an entry says which group an operator is an instance of.
fn is_use(name: &str, node: &Node) -> bool {
    let mut path = node.path.split('.');
    name == "group" && path.next() == Some("operators") && path.count() == 2
}

/// Returns whether an operator is written as an instance of a group.
fn is_instance(node: &Node) -> bool {
    let Value::Map(entries) = &node.value else { return false };
    entries.iter().any(|(key, _)| key.name == "group")
}

/// Takes the first entry of a name.
fn take(entries: &mut Vec<(Key, Node)>, name: &str) -> Option<Node> {
    let at = entries.iter().position(|(key, _)| key.name == name)?;
    Some(entries.remove(at).1)
}

/// Puts the sections of included files before those of the pipeline file.
fn merge(mut root: Node, included: Vec<Node>, mistakes: &mut Mistakes<'_>) -> Node {
    let Value::Map(entries) = &mut root.value else { return root };
    if included.is_empty() {
        return root;
    }
    for section in SECTIONS {
        let mut merged: Option<Node> = None;
        let mut first: HashMap<String, Place> = HashMap::new();
        let own = entries.iter().position(|(key, _)| key.name == section);
        if own.is_some_and(|at| !matches!(entries[at].1.value, Value::Map(_))) {
            continue; // it is told where the section is read
        }
        let last = own.map(|at| entries[at].1.clone());
        let others = included.iter().filter_map(|file| match &file.value {
            Value::Map(entries) => {
                entries.iter().find(|(key, _)| key.name == section).map(|(_, node)| node.clone())
            }
            _ => None,
        });
        for mut node in others.chain(last) {
            let Value::Map(named) = &mut node.value else {
                let message =
                    format!("`{section}` is a map (`key: value`), not {}", node.value.what());
                mistakes.add(node.owner, &node.path, message, None);
                continue;
            };
            named.retain(|(key, value)| is_first(key, value, &mut first, mistakes));
            let named = std::mem::take(named);
            match &mut merged {
                Some(Node { value: Value::Map(all), .. }) => all.extend(named),
                _ => {
                    node.value = Value::Map(named);
                    merged = Some(node);
                }
            }
        }
        let Some(merged) = merged else { continue };
        match own {
            Some(at) => entries[at].1 = merged,
            None => {
                let key = Key { place: merged.owner, name: section.to_owned() };
                entries.push((key, merged));
            }
        }
    }
    root
}

/// Returns whether no other file has defined a name; one file that does it twice is told later.
fn is_first(
    key: &Key,
    value: &Node,
    first: &mut HashMap<String, Place>,
    mistakes: &mut Mistakes<'_>,
) -> bool {
    let Some(other) = first.get(&key.name).copied() else {
        first.insert(key.name.clone(), key.place);
        return true;
    };
    if mistakes.same_file(other, key.place) {
        return true;
    }
    let at = mistakes.shown(other);
    let message = format!("{} is defined in {at} already", quoted(&key.name));
    let hint = "names are unique through all files; rename one".to_owned();
    mistakes.add(key.place, &value.path, message, hint);
    false
}
