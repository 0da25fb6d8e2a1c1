//! Group: operators that stand together under one name, as they are defined. Derived; owns what a definition
//! may say, never where it is used.

use std::collections::BTreeMap;

use tidemill_operators::Type;

use crate::diagnostic::{Mistakes, place_in, quoted};
use crate::spec::compose::params::{self, Param};
use crate::spec::compose::ports;
use crate::spec::read::{self, Entries, Text};
use crate::spec::source;
use crate::spec::tree::{Key, Node, Value};

/// All groups of a pipeline.
pub(super) struct Groups {
    /// By name; `None` for one that could not be read.
    pub(super) all: BTreeMap<String, Option<Group>>,
    /// Whether no file is missing that may hold more of them.
    pub(super) whole: bool,
}

/// A group as defined.
pub(super) struct Group {
    pub(super) params: Vec<Param>,
    pub(super) inputs: Vec<GroupInput>,
    pub(super) operators: Vec<(Key, Node)>,
    pub(super) outputs: Vec<GroupOutput>,
}

/// An input of a group.
pub(super) struct GroupInput {
    pub(super) name: Text,
    /// The columns that it must have, at least.
    pub(super) columns: Vec<(Text, Type)>,
}

/// An output of a group.
#[derive(Clone)]
pub(super) struct GroupOutput {
    pub(super) name: Text,
    /// The ports inside of which it consists.
    pub(super) ports: Vec<Text>,
}

impl Group {
    /// Returns the names that can be read inside.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        let inputs = self.inputs.iter().map(|input| input.name.text.as_str());
        inputs.chain(self.operators.iter().map(|(key, _)| key.name.as_str()))
    }

    /// Returns the names of what it takes in.
    pub(super) fn input_names(&self) -> impl Iterator<Item = &str> {
        self.inputs.iter().map(|input| input.name.text.as_str())
    }

    /// Returns the names of what it gives.
    pub(super) fn output_names(&self) -> impl Iterator<Item = &str> {
        self.outputs.iter().map(|output| output.name.text.as_str())
    }
}

/// Reads `groups`; they are the `whole` if no file is missing.
pub(super) fn read(node: Option<Node>, whole: bool, mistakes: &mut Mistakes<'_>) -> Groups {
    let mut all = BTreeMap::new();
    let entries = node.and_then(|node| read::map(node, "`groups`", mistakes));
    for (key, node) in entries.unwrap_or_default() {
        let name = read::name(&key, &node.path, "a group", mistakes);
        let group = one(node, mistakes);
        if let Some(group) = &group {
            check_names(group, &name, mistakes);
        }
        all.insert(name.text, group);
    }
    Groups { all, whole }
}

fn one(node: Node, mistakes: &mut Mistakes<'_>) -> Option<Group> {
    let mut entries = Entries::open(node, "a group", mistakes)?;
    let params = entries.take("params");
    let inputs = entries.require("inputs", mistakes);
    let operators = entries.require("operators", mistakes);
    let outputs = entries.require("outputs", mistakes);
    entries.finish(mistakes);
    let params = params::declared(params, mistakes);
    let inputs = inputs.and_then(|node| read_inputs(node, mistakes));
    let operators = operators.and_then(|node| {
        let (owner, path) = (node.owner, node.path.clone());
        let operators = read::map(node, "`operators`", mistakes)?;
        for (key, node) in &operators {
            read::name(key, &node.path, "an operator", mistakes);
        }
        if operators.is_empty() {
            mistakes.add(owner, &path, "the group has no operator", None);
        }
        Some(operators)
    });
    let outputs = outputs.and_then(|node| read_outputs(node, mistakes));
    Some(Group { params: params?, inputs: inputs?, operators: operators?, outputs: outputs? })
}

/// Reads `inputs`: `[in]` or `{in: {columns: {...}}}`.
fn read_inputs(node: Node, mistakes: &mut Mistakes<'_>) -> Option<Vec<GroupInput>> {
    let (owner, path) = (node.owner, node.path.clone());
    let mut inputs = Vec::new();
    if matches!(node.value, Value::Map(_)) {
        for (key, node) in read::map(node, "`inputs`", mistakes)? {
            let name = read::name(&key, &node.path, "an input", mistakes);
            let columns = match node.value {
                Value::Null => Some(Vec::new()),
                _ => read_columns(node, mistakes),
            };
            inputs.push(GroupInput { name, columns: columns? });
        }
    } else {
        let names = read::texts(node, "`inputs`", mistakes)?;
        read::check_once(&names, mistakes);
        for name in names {
            read::check_name(&name, "an input", mistakes);
            inputs.push(GroupInput { name, columns: Vec::new() });
        }
    }
    if inputs.is_empty() {
        let hint = "name what is fed to it: `inputs: [in]`".to_owned();
        mistakes.add(owner, &path, "the group has no input", hint);
        return None;
    }
    Some(inputs)
}

fn read_columns(node: Node, mistakes: &mut Mistakes<'_>) -> Option<Vec<(Text, Type)>> {
    let mut entries = Entries::open(node, "an input of a group", mistakes)?;
    let columns = entries.take("columns");
    entries.finish(mistakes);
    let mut all = Some(Vec::new());
    let Some(columns) = columns else { return all };
    for (key, node) in read::map(columns, "`columns`", mistakes)? {
        let name = read::column_name(&key, &node.path, mistakes);
        match (source::kind(node, mistakes), &mut all) {
            (Some(kind), Some(all)) => all.push((name, kind)),
            _ => all = None,
        }
    }
    all
}

fn read_outputs(node: Node, mistakes: &mut Mistakes<'_>) -> Option<Vec<GroupOutput>> {
    let (owner, path) = (node.owner, node.path.clone());
    let mut outputs = Vec::new();
    for (key, node) in read::map(node, "`outputs`", mistakes)? {
        let name = read::name(&key, &node.path, "an output", mistakes);
        if name.text == "errors" {
            let message = "the output `errors` is always there and holds the rejected records of all operators \
                           of the group";
            name.wrong(mistakes, message, Some("choose another name".to_owned()));
        }
        let ports = read::texts(node, "an output", mistakes)?;
        if ports.is_empty() {
            name.wrong(mistakes, "the output is an empty list: nothing would come out", None);
        }
        read::check_once(&ports, mistakes);
        outputs.push(GroupOutput { name, ports });
    }
    if outputs.is_empty() {
        let hint = "name what comes out of it: `outputs: { ok: OPERATOR.TAG }`".to_owned();
        mistakes.add(owner, &path, "the group has no output", hint);
        return None;
    }
    Some(outputs)
}

/// Notes names inside that lead nowhere or mean two things, and inputs that nothing reads.
fn check_names(group: &Group, name: &Text, mistakes: &mut Mistakes<'_>) {
    for (key, node) in &group.operators {
        if group.inputs.iter().any(|input| input.name.text == key.name) {
            let message = format!("an input of the group is called {} already", quoted(&key.name));
            let hint = "inputs and operators of a group share one set of names".to_owned();
            mistakes.add(key.place, &node.path, message, hint);
        }
    }
    let mut reads: Vec<Text> = Vec::new();
    for (_, node) in &group.operators {
        reads.extend(ports::read_by(node));
    }
    reads.extend(group.outputs.iter().flat_map(|output| output.ports.iter().cloned()));
    let mut all_known = true;
    for port in &reads {
        all_known &= check_port(group, &name.text, port, mistakes);
    }
    for input in group.inputs.iter().filter(|_| all_known) {
        if !reads.iter().any(|port| ports::name_of(&port.text) == input.name.text) {
            let message =
                format!("nothing in the group reads the input {}", quoted(&input.name.text));
            let hint = format!("read it with `from: {}`, or take it out", input.name.text);
            input.name.wrong(mistakes, message, hint);
        }
    }
}

/// Notes a port that names nothing inside; returns whether its name is known.
fn check_port(group: &Group, name: &str, port: &Text, mistakes: &mut Mistakes<'_>) -> bool {
    let wanted = ports::name_of(&port.text);
    if port.text.contains("${") {
        return false; // it is looked at where the group is used
    }
    if group.names().any(|name| name == wanted) {
        return true;
    }
    if ports::is_pattern(wanted) {
        return false;
    }
    let hint = mistakes.nearest_hint(wanted, group.names(), "there are");
    let place = place_in(mistakes.yaml(), port.place, &port.text, 0..wanted.len());
    let message = format!("the group {} has no input or operator {}", quoted(name), quoted(wanted));
    mistakes.add(place, &port.path, message, hint);
    false
}
