//! Drops: outputs of groups that nobody wants. Derived; owns the rule that nothing vanishes by accident.
//!
//! An output that nobody reads is a mistake unless it is dropped. What is dropped is dropped where it arises:
//! by the operator, if it has other outputs; else the operator is left out, and so is what only it has read.

use crate::diagnostic::{Mistakes, quoted};
use crate::spec::compose::ports::{self, Aliases};
use crate::spec::read::Text;
use crate::spec::tree::{Key, Node, Value};

/// Settles every output of every instance; returns whether each of them is read or dropped, not both.
pub(super) fn settle(
    operators: &mut Vec<(Key, Node)>,
    sinks: Vec<&mut Node>,
    aliases: &mut Aliases,
    mistakes: &mut Mistakes<'_>,
) -> bool {
    let instances: Vec<String> = aliases.instances.keys().cloned().collect();
    let mut pipeline = Pipeline { operators, sinks };
    let mut right = true;
    for name in instances {
        let Some(instance) = aliases.instances.get(&name) else { continue };
        let (owner, outputs) = (instance.name.clone(), instance.outputs.clone());
        let drop = instance.drop.clone();
        for output in outputs {
            let tag = &output.name.text;
            let is_read = aliases.read.contains(&(name.clone(), tag.clone()));
            let dropped = drop.iter().find(|dropped| dropped.text == *tag);
            let mut ends = Some(Vec::new());
            for port in &output.ports {
                // Reading what is not wanted says of the outputs of inner groups that they are in use.
                match (aliases.resolve(port, &mut Vec::new(), mistakes), &mut ends) {
                    (Some(found), Some(ends)) => ends.extend(found),
                    _ => ends = None,
                }
            }
            let Some(ends) = ends else {
                right = false;
                continue;
            };
            let is_read = is_read || pipeline.matched(&ends);
            match dropped {
                Some(dropped) if is_read => {
                    let message =
                        format!("the output {} is dropped here and read elsewhere", quoted(tag));
                    dropped.wrong(mistakes, message, Some("take it out of `drop`".to_owned()));
                    right = false;
                }
                None if !is_read => {
                    let message = format!(
                        "nothing reads the output {} of {}",
                        quoted(tag),
                        quoted(&owner.text)
                    );
                    let hint = format!(
                        "read it with `from: {name}.{tag}`, or drop its records on purpose with \
                         `drop: [{tag}]` beside `group`"
                    );
                    owner.wrong(mistakes, message, hint);
                    right = false;
                }
                _ => {}
            }
            if !is_read {
                for end in &ends {
                    pipeline.drop(end);
                }
            }
        }
    }
    right
}

struct Pipeline<'p> {
    operators: &'p mut Vec<(Key, Node)>,
    sinks: Vec<&'p mut Node>,
}

impl Pipeline<'_> {
    /// Returns everything that something reads.
    fn reads(&self) -> Vec<Text> {
        let operators = self.operators.iter().map(|(_, node)| node);
        let sinks = self.sinks.iter().filter_map(|section| match &section.value {
            Value::Map(sinks) => Some(sinks.iter().map(|(_, node)| node)),
            _ => None,
        });
        operators.chain(sinks.flatten()).flat_map(ports::read_by).collect()
    }

    /// Returns whether a pattern reads one of these ports.
    fn matched(&self, ends: &[Text]) -> bool {
        let reads = self.reads();
        let mut patterns = reads.iter().filter(|read| ports::is_pattern(&read.text));
        patterns.any(|pattern| ends.iter().any(|end| ports::matches(&pattern.text, &end.text)))
    }

    /// Drops what comes out of a port, unless something reads it.
    fn drop(&mut self, port: &Text) {
        let reads = self.reads();
        let is_read = |text: &str| {
            reads.iter().any(|read| {
                read.text == text
                    || (ports::is_pattern(&read.text) && ports::matches(&read.text, text))
            })
        };
        // What stands outside of all groups is not theirs to change.
        if is_read(&port.text) || !port.text.contains('/') {
            return;
        }
        let (name, tag) = port.text.split_once('.').unwrap_or((&port.text, ""));
        let Some(at) = self.operators.iter().position(|(key, _)| key.name == name) else { return };
        let of_it = |read: &Text| {
            let tag = read.text.strip_prefix(name).map(|tag| tag.strip_prefix('.').unwrap_or(tag));
            ports::name_of(&read.text) == name && tag != Some("errors")
        };
        if !reads.iter().any(of_it) {
            let (_, node) = self.operators.remove(at);
            self.forget_errors(&format!("{name}.errors"));
            for fed in ports::read_by(&node) {
                self.drop(&fed);
            }
            return;
        }
        if let Some((_, node)) = self.operators.get_mut(at) {
            add_drop(node, tag, port);
        }
    }

    /// Takes the rejected records of an operator that is left out from those who read several.
    fn forget_errors(&mut self, errors: &str) {
        let sinks = self.sinks.iter_mut().filter_map(|section| match &mut section.value {
            Value::Map(sinks) => Some(sinks.iter_mut().map(|(_, node)| node)),
            _ => None,
        });
        let operators = self.operators.iter_mut().map(|(_, node)| node);
        for reader in operators.chain(sinks.flatten()) {
            for place in ports::places(reader) {
                if let Value::List(items) = &mut place.value
                    && items.len() > 1
                {
                    items.retain(
                        |item| !matches!(&item.value, Value::Scalar(text) if text == errors),
                    );
                }
            }
        }
    }
}

/// Adds a tag to those that an operator drops: beside its kind, or in a `state`.
fn add_drop(node: &mut Node, tag: &str, at: &Text) {
    let Value::Map(entries) = &mut node.value else { return };
    // Their other tag may be left unread without a word.
    if entries.iter().any(|(key, _)| matches!(key.name.as_str(), "parse" | "dedupe")) {
        return;
    }
    let state = entries.iter().position(|(key, _)| key.name == "state");
    let entries = match state.map(|at| &mut entries[at].1.value) {
        Some(Value::Map(body)) => body,
        Some(_) => return,
        None => match &mut node.value {
            Value::Map(entries) => entries,
            _ => return,
        },
    };
    let scalar = Node {
        place: at.place,
        owner: at.place,
        path: at.path.clone(),
        value: Value::Scalar(tag.to_owned()),
    };
    match entries.iter_mut().find(|(key, _)| key.name == "drop") {
        Some((_, Node { value: Value::List(items), .. })) => items.push(scalar),
        Some((_, node)) => {
            let first = node.clone();
            node.value = Value::List(vec![first, scalar]);
        }
        None => {
            let list = Node { value: Value::List(vec![scalar.clone()]), ..scalar };
            entries.push((Key { place: at.place, name: "drop".to_owned() }, list));
        }
    }
}
