//! Ports: the places of a tree that say what is read, and what stands behind the names of groups' inputs and
//! outputs. Derived.

use std::collections::{BTreeMap, BTreeSet};

use crate::diagnostic::{Mistakes, listed, place_in, quoted};
use crate::spec::compose::group::GroupOutput;
use crate::spec::read::Text;
use crate::spec::tree::{Node, Value};

/// Returns the name in a port: what stands before the tag.
pub(super) fn name_of(port: &str) -> &str {
    port.split_once('.').map_or(port, |(name, _)| name)
}

/// Returns whether a text matches more than itself.
pub(super) fn is_pattern(text: &str) -> bool {
    text.contains(['*', '?'])
}

/// Returns whether a pattern of ports matches a port; no `*` and no `?` stands for a dot.
pub(super) fn matches(pattern: &str, port: &str) -> bool {
    match (pattern.split_once('.'), port.split_once('.')) {
        (None, None) => glob(pattern, port),
        (Some((wanted, tag)), Some((name, has))) => glob(wanted, name) && glob(tag, has),
        _ => false,
    }
}

/// Returns whether a pattern of `*` and `?` matches a text.
fn glob(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) =
        (pattern.chars().collect(), text.chars().collect());
    // The usual walk with one place to come back to: the last `*`, and how much it has taken.
    let (mut at, mut in_text, mut back) = (0, 0, None);
    while in_text < text.len() {
        match pattern.get(at) {
            Some('*') => {
                back = Some((at, in_text));
                at += 1;
            }
            Some(next) if *next == '?' || text.get(in_text) == Some(next) => {
                at += 1;
                in_text += 1;
            }
            _ => match back {
                Some((star, taken)) => {
                    back = Some((star, taken + 1));
                    at = star + 1;
                    in_text = taken + 1;
                }
                None => return false,
            },
        }
    }
    pattern.iter().skip(at).all(|next| *next == '*')
}

/// Returns the values of an operator, an instance of a group or a sink that say what it reads.
pub(super) fn places(node: &mut Node) -> Vec<&mut Node> {
    let mut places = Vec::new();
    let Value::Map(entries) = &mut node.value else { return places };
    for (key, node) in entries {
        match key.name.as_str() {
            "from" if !matches!(node.value, Value::Map(_)) => places.push(node),
            // The inputs of an instance of a group, by name; the other side of a join.
            "from" | "join" => {
                let Value::Map(body) = &mut node.value else { continue };
                let wanted =
                    body.iter_mut().filter(|(inner, _)| key.name == "from" || inner.name == "with");
                places.extend(wanted.map(|(_, node)| node));
            }
            _ => {}
        }
    }
    places
}

/// Returns the ports that stand in a value; what is no port is left for others to tell.
pub(super) fn listed_in(node: &Node) -> Vec<Text> {
    let text = |node: &Node| match &node.value {
        Value::Scalar(text) => {
            Some(Text { text: text.clone(), place: node.place, path: node.path.clone() })
        }
        _ => None,
    };
    match &node.value {
        Value::List(items) => items.iter().filter_map(text).collect(),
        _ => text(node).into_iter().collect(),
    }
}

/// Returns the ports that an operator, an instance of a group or a sink reads.
pub(super) fn read_by(node: &Node) -> Vec<Text> {
    let mut ports = Vec::new();
    let Value::Map(entries) = &node.value else { return ports };
    for (key, node) in entries {
        match (key.name.as_str(), &node.value) {
            ("from", Value::Map(inputs)) => {
                ports.extend(inputs.iter().flat_map(|(_, node)| listed_in(node)));
            }
            ("from", _) => ports.extend(listed_in(node)),
            ("join", Value::Map(body)) => {
                let with = body.iter().filter(|(key, _)| key.name == "with");
                ports.extend(with.flat_map(|(_, node)| listed_in(node)));
            }
            _ => {}
        }
    }
    ports
}

/// Makes a value say these ports.
pub(super) fn write(node: &mut Node, ports: Vec<Text>) {
    let scalar = |port: Text| Node {
        place: port.place,
        owner: port.place,
        path: port.path,
        value: Value::Scalar(port.text),
    };
    let is_list = matches!(node.value, Value::List(_));
    let mut nodes: Vec<Node> = ports.into_iter().map(scalar).collect();
    match nodes.pop() {
        Some(only) if nodes.is_empty() && !is_list => node.value = only.value,
        last => {
            nodes.extend(last);
            node.value = Value::List(nodes);
        }
    }
}

/// An instance of a group.
pub(super) struct Instance {
    /// Its name, where it is used.
    pub(super) name: Text,
    pub(super) outputs: Vec<GroupOutput>,
    /// The operators and instances in it.
    pub(super) inner: Vec<String>,
    /// The outputs that are not wanted.
    pub(super) drop: Vec<Text>,
}

/// How many ports all names of inputs and outputs may stand for: groups that pass on what they get multiply.
const PORTS_MAX: usize = 20_000;

/// What stands behind names that are no operators.
#[derive(Default)]
pub(super) struct Aliases {
    /// How many ports were found.
    found: usize,
    /// What is fed to an input, by `instance/input`.
    pub(super) inputs: BTreeMap<String, Vec<Text>>,
    /// The instances by name, each before those in it.
    pub(super) instances: BTreeMap<String, Instance>,
    /// The outputs that something reads: instance and output.
    pub(super) read: BTreeSet<(String, String)>,
}

impl Aliases {
    /// Returns the ports of operators and sources that a port of a reader stands for; `None` when there are
    /// none, which has been noted.
    pub(super) fn resolve(
        &mut self,
        port: &Text,
        trail: &mut Vec<String>,
        mistakes: &mut Mistakes<'_>,
    ) -> Option<Vec<Text>> {
        if self.found > PORTS_MAX {
            return None; // it was told
        }
        self.found += 1;
        if self.found > PORTS_MAX {
            let message =
                format!("inputs and outputs of groups stand for more than {PORTS_MAX} ports");
            port.wrong(mistakes, message, Some("make several pipelines".to_owned()));
            return None;
        }
        let (name, tag) = match port.text.split_once('.') {
            Some((name, tag)) => (name, Some(tag)),
            None => (port.text.as_str(), None),
        };
        let next: Vec<Text> = if let Some(fed) = self.inputs.get(name) {
            if let Some(tag) = tag {
                let place = place_in(
                    mistakes.yaml(),
                    port.place,
                    &port.text,
                    name.len() + 1..port.text.len(),
                );
                let message = format!("an input has no tag {}", quoted(tag));
                let input = name.rsplit('/').next().unwrap_or(name);
                mistakes.add(place, &port.path, message, format!("read it as {}", quoted(input)));
                return None;
            }
            fed.clone()
        } else if self.instances.contains_key(name) {
            self.outputs(port, name, tag, mistakes)?
        } else {
            return Some(vec![port.clone()]);
        };
        if trail.contains(&port.text) {
            let around = trail.iter().chain([&port.text]).map(String::as_str);
            let message = format!("groups feed each other in a circle: {}", listed(around));
            port.wrong(mistakes, message, None);
            return None;
        }
        trail.push(port.text.clone());
        let mut ports = Some(Vec::new());
        for one in &next {
            match (self.resolve(one, trail, mistakes), &mut ports) {
                (Some(found), Some(ports)) => ports.extend(found),
                _ => ports = None,
            }
        }
        trail.pop();
        ports
    }

    /// Returns the ports inside of which what is read of an instance consists, told where it is read.
    fn outputs(
        &mut self,
        port: &Text,
        name: &str,
        tag: Option<&str>,
        mistakes: &mut Mistakes<'_>,
    ) -> Option<Vec<Text>> {
        let instance = self.instances.get(name)?;
        let here = |text: &String| Text { text: text.clone(), ..port.clone() };
        if tag == Some("errors") {
            let errors = instance.inner.iter().map(|inner| here(&format!("{inner}.errors")));
            return Some(errors.collect());
        }
        let names = || instance.outputs.iter().map(|output| output.name.text.as_str());
        let wanted: Vec<&GroupOutput> = match (tag, instance.outputs.as_slice()) {
            (None, [only]) => vec![only],
            (None, _) => {
                let message = format!("{} has several outputs: say which one", quoted(name));
                let choices: Vec<String> = names().map(|tag| format!("{name}.{tag}")).collect();
                let hint = format!("write {}", listed(choices.iter().map(String::as_str)));
                port.wrong(mistakes, message, hint.replace(" and ", " or "));
                return None;
            }
            (Some(tag), all) if is_pattern(tag) => {
                all.iter().filter(|output| glob(tag, &output.name.text)).collect()
            }
            (Some(tag), all) => all.iter().filter(|output| output.name.text == tag).collect(),
        };
        if wanted.is_empty() {
            let tag = tag.unwrap_or_default();
            let place =
                place_in(mistakes.yaml(), port.place, &port.text, name.len() + 1..port.text.len());
            let message = format!("{} has no output {}", quoted(name), quoted(tag));
            let hint = mistakes.nearest_hint(tag, names(), "it has");
            mistakes.add(place, &port.path, message, hint);
            return None;
        }
        let ports =
            wanted.iter().flat_map(|output| output.ports.iter().map(|port| here(&port.text)));
        let ports: Vec<Text> = ports.collect();
        let read: Vec<String> = wanted.iter().map(|output| output.name.text.clone()).collect();
        self.read.extend(read.into_iter().map(|output| (name.to_owned(), output)));
        Some(ports)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_matches_as_people_expect() {
        for (pattern, text, expected) in [
            ("*.errors", "a.errors", true),
            ("*.errors", "x/a.errors", true),
            ("*.errors", "a.error", false),
            ("clean_*.bad", "clean_1.bad", true),
            ("clean_?.bad", "clean_12.bad", false),
            ("*", "a.b", false),
            ("*", "x/a", true),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c-b", false),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }
}
