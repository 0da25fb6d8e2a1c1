//! Instance: a use of a group becomes the operators of the group, each called `instance/operator`. Derived.
//!
//! Inside, names are those of the group; here they become names that are unique in the pipeline, and what is
//! read through inputs and outputs becomes what stands behind them. Depth and number are bounded before
//! anything is copied, since groups in groups multiply.

use std::collections::BTreeSet;

use crate::diagnostic::{Mistakes, place_in, quoted};
use crate::spec::compose::group::{Group, GroupOutput, Groups};
use crate::spec::compose::params::Scope;
use crate::spec::compose::ports::{self, Aliases, Instance};
use crate::spec::compose::substitute::Substitution;
use crate::spec::compose::{Demand, drops, is_instance};
use crate::spec::read::{self, Entries, Text};
use crate::spec::tree::{Key, Node, Value};

/// How deep groups may stand in groups.
const DEPTH_MAX: usize = 8;
/// How many operators groups may become.
const OPERATORS_MAX: usize = 1_000;

/// Puts the operators of groups in the place of their uses, and returns what groups demand of their inputs,
/// `None` when not all of it could be done; and which groups are used.
pub(super) fn expand(
    entries: &mut [(Key, Node)],
    groups: &Groups,
    substitution: &mut Substitution<'_>,
    mistakes: &mut Mistakes<'_>,
) -> (Option<Vec<Demand>>, BTreeSet<String>) {
    let sources = names_of_section(entries, "sources");
    let written = entries.iter_mut().find(|(key, _)| key.name == "operators");
    let Some((_, Node { value: Value::Map(written), .. })) = written else {
        return (Some(Vec::new()), BTreeSet::new());
    };
    let mut expansion = Expansion {
        groups,
        substitution,
        operators: Vec::with_capacity(written.len()),
        aliases: Aliases::default(),
        demands: Vec::new(),
        used: BTreeSet::new(),
        complete: true,
    };
    let mut outside: Vec<Text> = Vec::new();
    for (key, node) in std::mem::take(written) {
        if !is_instance(&node) {
            if key.name.contains('/') {
                outside.push(Text {
                    text: key.name.clone(),
                    place: key.place,
                    path: node.path.clone(),
                });
            }
            expansion.operators.push((key, node));
            continue;
        }
        let name = read::name(&key, &node.path, "an operator", mistakes);
        if sources.contains(&name.text) {
            let message = format!("a source is called {} already", quoted(&name.text));
            name.wrong(mistakes, message, Some("names are unique in a file".to_owned()));
        }
        expansion.instance(name, node, &mut Vec::new(), mistakes);
    }
    let Expansion { mut operators, mut aliases, mut demands, mut complete, used, .. } = expansion;
    check_unique(&operators, &outside, &aliases, mistakes);
    let mut readers: Vec<&mut Node> = operators.iter_mut().map(|(_, node)| node).collect();
    for (_, section) in entries.iter_mut().filter(|(key, _)| key.name == "sinks") {
        if let Value::Map(sinks) = &mut section.value {
            readers.extend(sinks.iter_mut().map(|(_, node)| node));
        }
    }
    for reader in &mut readers {
        complete &= lead(reader, &mut aliases, mistakes);
    }
    for demand in &mut demands {
        let fed = demand.ports.iter().map(|port| aliases.resolve(port, &mut Vec::new(), mistakes));
        match fed.collect::<Option<Vec<_>>>() {
            Some(fed) => demand.ports = fed.concat(),
            None => complete = false,
        }
    }
    if complete {
        let sinks = entries.iter_mut().filter(|(key, _)| key.name == "sinks");
        let sinks: Vec<&mut Node> = sinks.map(|(_, node)| node).collect();
        complete &= drops::settle(&mut operators, sinks, &mut aliases, mistakes);
    }
    if let Some((_, section)) = entries.iter_mut().find(|(key, _)| key.name == "operators") {
        section.value = Value::Map(operators);
    }
    (complete.then_some(demands), used)
}

fn names_of_section(entries: &[(Key, Node)], section: &str) -> Vec<String> {
    let section = entries.iter().find(|(key, _)| key.name == section);
    let Some((_, Node { value: Value::Map(named), .. })) = section else { return Vec::new() };
    named.iter().map(|(key, _)| key.name.clone()).collect()
}

/// Notes operators that are called like an instance, or as if they stood in one.
fn check_unique(
    operators: &[(Key, Node)],
    outside: &[Text],
    aliases: &Aliases,
    mistakes: &mut Mistakes<'_>,
) {
    for name in outside {
        let instance = name.text.rsplit_once('/').map_or("", |(instance, _)| instance);
        if aliases.instances.contains_key(instance) {
            let message = format!("{} is a group: nothing is added to it here", quoted(instance));
            // Its path would lead into the group.
            mistakes.add(name.place, "operators", message, "choose another name".to_owned());
        }
    }
    for (key, node) in operators {
        if aliases.instances.contains_key(&key.name) {
            let message = format!("{} stands twice here", quoted(&key.name));
            mistakes.add(key.place, &node.path, message, Some("keep one of them".to_owned()));
        }
    }
}

/// Makes a reader read what stands behind the names of groups; returns whether all of it could be found.
fn lead(reader: &mut Node, aliases: &mut Aliases, mistakes: &mut Mistakes<'_>) -> bool {
    let mut complete = true;
    // What was written inside of a group got the name of its instance; nobody else may use that.
    let path = reader.path.strip_prefix("operators.").unwrap_or_default();
    let is_inner = path.contains('/');
    for place in ports::places(reader) {
        let written = ports::listed_in(place);
        let mut found: Vec<Text> = Vec::with_capacity(written.len());
        let mut changed = false;
        for port in &written {
            let instance =
                ports::name_of(&port.text).rsplit_once('/').map(|(instance, _)| instance);
            if let Some(instance) =
                instance.filter(|instance| !is_inner && aliases.instances.contains_key(*instance))
            {
                let message = format!(
                    "{} is inside of {}, which is a group",
                    quoted(ports::name_of(&port.text)),
                    quoted(instance)
                );
                let hint = "read one of the group's outputs; its `outputs` can name this one too";
                port.wrong(mistakes, message, hint.to_owned());
                complete = false;
                continue;
            }
            match aliases.resolve(port, &mut Vec::new(), mistakes) {
                Some(ports) => {
                    changed |= !matches!(ports.as_slice(), [same] if same.text == port.text);
                    found.extend(ports);
                }
                None => complete = false,
            }
        }
        if changed && complete {
            ports::write(place, found);
        }
    }
    complete
}

struct Expansion<'e, 's> {
    groups: &'e Groups,
    substitution: &'e mut Substitution<'s>,
    operators: Vec<(Key, Node)>,
    aliases: Aliases,
    demands: Vec<Demand>,
    /// The groups that are used, wherever it is.
    used: BTreeSet<String>,
    complete: bool,
}

impl Expansion<'_, '_> {
    /// Adds an instance of a group; ports in it are named as where it stands.
    fn instance(
        &mut self,
        name: Text,
        node: Node,
        around: &mut Vec<String>,
        mistakes: &mut Mistakes<'_>,
    ) {
        if self.try_instance(name, node, around, mistakes).is_none() {
            self.complete = false;
        }
    }

    fn try_instance(
        &mut self,
        name: Text,
        node: Node,
        around: &mut Vec<String>,
        mistakes: &mut Mistakes<'_>,
    ) -> Option<()> {
        let mut entries = Entries::open(node, "an instance of a group", mistakes)?;
        let group = entries.require("group", mistakes);
        let from = entries.require("from", mistakes);
        let with = entries.take("with");
        let drop = entries.take("drop");
        entries.finish(mistakes);
        let word = read::text(group?, "`group`", mistakes)?;
        let Some(found) = self.groups.all.get(&word.text) else {
            if !self.groups.whole {
                return None; // it may stand in the file that is missing
            }
            let names = self.groups.all.keys().map(String::as_str);
            let hint = mistakes.nearest_hint(&word.text, names, "there are");
            let hint = hint.or_else(|| Some("define it under `groups`".to_owned()));
            word.wrong(mistakes, format!("there is no group {}", quoted(&word.text)), hint);
            return None;
        };
        self.used.insert(word.text.clone());
        if around.contains(&word.text) {
            let circle: Vec<&str> = around.iter().chain([&word.text]).map(String::as_str).collect();
            let message = format!("the groups use each other in a circle: {}", circle.join(" -> "));
            word.wrong(mistakes, message, None);
            return None;
        }
        if around.len() >= DEPTH_MAX {
            let message = format!("groups stand in each other more than {DEPTH_MAX} deep");
            word.wrong(mistakes, message, None);
            return None;
        }
        let group = found.as_ref()?;
        let with = match with {
            None => Some(Vec::new()),
            Some(node) => read_with(node, mistakes),
        };
        let fed = feed(from?, group, &word, mistakes);
        let drop = match drop {
            None => Some(Vec::new()),
            Some(node) => read::texts(node, "`drop`", mistakes),
        };
        check_drop(drop.as_deref().unwrap_or_default(), &name, group, mistakes);
        let known = self.substitution.is_complete();
        let mut scope = Scope::group(&word.text, &group.params, with?, known, &name, mistakes);
        let place = mistakes.shown(name.place);
        let what = format!("in the group `{}`, used as `{}` in {place}", word.text, name.text);
        mistakes.call_instance(&name.text, what);
        around.push(word.text.clone());
        let inner = self.operators(&word, group, &name, &mut scope, around, mistakes);
        around.pop();
        let inner = inner?;
        if self.substitution.is_complete() {
            scope.note_unused(mistakes);
        }
        let outputs = self.outputs(group, &name, mistakes);
        for (input, ports) in fed? {
            let demanded = group.inputs.iter().find(|one| one.name.text == input);
            if let Some(columns) = demanded.map(|one| &one.columns).filter(|all| !all.is_empty()) {
                // What a pattern matches is not known yet.
                let named = ports.iter().filter(|port| !ports::is_pattern(&port.text));
                self.demands.push(Demand {
                    ports: named.cloned().collect(),
                    columns: columns.clone(),
                    input: format!("the input `{input}` of the group `{}`", word.text),
                });
            }
            self.aliases.inputs.insert(format!("{}/{input}", name.text), ports);
        }
        let text = name.text.clone();
        let instance = Instance { name, outputs: outputs?, inner, drop: drop? };
        self.aliases.instances.insert(text, instance);
        scope.is_complete().then_some(())
    }

    /// Adds the operators of a group; returns the names they have now.
    fn operators(
        &mut self,
        word: &Text,
        group: &Group,
        instance: &Text,
        scope: &mut Scope,
        around: &mut Vec<String>,
        mistakes: &mut Mistakes<'_>,
    ) -> Option<Vec<String>> {
        let mut inner = Vec::with_capacity(group.operators.len());
        for (key, node) in &group.operators {
            if self.operators.len() >= OPERATORS_MAX {
                let message = format!("groups become more than {OPERATORS_MAX} operators");
                word.wrong(mistakes, message, Some("make several pipelines".to_owned()));
                return None;
            }
            let full = format!("{}/{}", instance.text, key.name);
            let mut node = node.clone();
            let was = node.path.clone();
            move_path(&mut node, &was, &format!("operators.{full}"));
            self.substitution.apply(&mut node, scope, mistakes);
            let mut known = true;
            for place in ports::places(&mut node) {
                known &= enter(place, group, &word.text, &instance.text, mistakes);
            }
            self.complete &= known;
            inner.push(full.clone());
            if is_instance(&node) {
                let name = Text { text: full, place: key.place, path: node.path.clone() };
                self.instance(name, node, around, mistakes);
            } else {
                self.operators.push((Key { place: key.place, name: full }, node));
            }
        }
        Some(inner)
    }

    /// Returns the outputs of an instance, with the names that its operators have now.
    fn outputs(
        &self,
        group: &Group,
        instance: &Text,
        mistakes: &mut Mistakes<'_>,
    ) -> Option<Vec<GroupOutput>> {
        let mut all = Some(Vec::new());
        for output in &group.outputs {
            let mut output = output.clone();
            for port in &mut output.ports {
                let (name, tag) = port.text.split_once('.').unwrap_or((&port.text, ""));
                let full = format!("{}/{name}", instance.text);
                if let Some(tags) = self.route_tags(&full)
                    && !ports::is_pattern(tag)
                    && !tags.contains(&tag)
                    && tag != "errors"
                {
                    let message = format!("{} has no tag {}", quoted(name), quoted(tag));
                    let hint = mistakes.nearest_hint(tag, tags, "it has");
                    port.wrong(mistakes, message, hint);
                    all = None;
                }
                port.text = format!("{}/{}", instance.text, port.text);
            }
            if let Some(all) = &mut all {
                all.push(output);
            }
        }
        all
    }

    /// Returns the tags of an operator that is a `route`: of others they are not known before they are read.
    fn route_tags(&self, name: &str) -> Option<Vec<&str>> {
        let (_, node) = self.operators.iter().find(|(key, _)| key.name == name)?;
        let Value::Map(entries) = &node.value else { return None };
        let (_, route) = entries.iter().find(|(key, _)| key.name == "route")?;
        let Value::Map(rules) = &route.value else { return None };
        Some(rules.iter().map(|(tag, _)| tag.name.as_str()).collect())
    }
}

fn read_with(node: Node, mistakes: &mut Mistakes<'_>) -> Option<Vec<(Text, Text)>> {
    let mut with = Some(Vec::new());
    for (key, node) in read::map(node, "`with`", mistakes)? {
        let name = Text { text: key.name, place: key.place, path: node.path.clone() };
        match (read::text(node, "the value of a parameter", mistakes), &mut with) {
            (Some(value), Some(with)) => with.push((name, value)),
            _ => with = None,
        }
    }
    with
}

/// Reads `from`: which ports are fed to which input.
fn feed(
    from: Node,
    group: &Group,
    word: &Text,
    mistakes: &mut Mistakes<'_>,
) -> Option<Vec<(String, Vec<Text>)>> {
    let owner = Text { text: String::new(), place: from.owner, path: from.path.clone() };
    if !matches!(from.value, Value::Map(_)) {
        let ports = read::texts(from, "`from`", mistakes)?;
        if let [only] = group.inputs.as_slice() {
            if ports.is_empty() {
                owner.wrong(mistakes, "`from` is an empty list: nothing would arrive", None);
                return None;
            }
            return Some(vec![(only.name.text.clone(), ports)]);
        }
        let inputs: Vec<String> = group.input_names().map(|name| format!("{name}: ...")).collect();
        let message =
            format!("the group {} has several inputs: say which is which", quoted(&word.text));
        owner.wrong(mistakes, message, format!("write `from: {{ {} }}`", inputs.join(", ")));
        return None;
    }
    let mut fed = Some(Vec::new());
    let entries = read::map(from, "`from`", mistakes)?;
    for input in group.input_names().filter(|name| entries.iter().all(|(key, _)| key.name != *name))
    {
        let message = format!("nothing is fed to the input {} of the group", quoted(input));
        owner.wrong(mistakes, message, format!("write `from: {{ {input}: ... }}`"));
        fed = None;
    }
    for (key, node) in entries {
        if !group.input_names().any(|name| name == key.name) {
            let message =
                format!("the group {} has no input {}", quoted(&word.text), quoted(&key.name));
            let hint = mistakes.nearest_hint(&key.name, group.input_names(), "it has");
            mistakes.add(key.place, &node.path, message, hint);
            fed = None;
            continue;
        }
        match (read::texts(node, "`from`", mistakes), &mut fed) {
            (Some(ports), Some(fed)) => fed.push((key.name, ports)),
            _ => fed = None,
        }
    }
    fed
}

fn check_drop(drop: &[Text], name: &Text, group: &Group, mistakes: &mut Mistakes<'_>) {
    read::check_once(drop, mistakes);
    for output in drop {
        if !group.output_names().any(|known| known == output.text) {
            let message = format!("{} has no output {}", quoted(&name.text), quoted(&output.text));
            let hint = mistakes.nearest_hint(&output.text, group.output_names(), "it has");
            output.wrong(mistakes, message, hint);
        }
    }
}

/// Gives the ports that an operator of a group reads the names that they have in an instance; returns whether
/// all of them are known.
fn enter(
    place: &mut Node,
    group: &Group,
    word: &str,
    instance: &str,
    mistakes: &mut Mistakes<'_>,
) -> bool {
    let items = match &mut place.value {
        Value::List(items) => items.iter_mut().collect(),
        _ => vec![place],
    };
    let mut known = true;
    for item in items {
        let Value::Scalar(port) = &mut item.value else { continue };
        let name = ports::name_of(port);
        if group.names().any(|one| one == name) || ports::is_pattern(name) {
            *port = format!("{instance}/{port}");
            continue;
        }
        known = false;
        let hint = mistakes.nearest_hint(name, group.names(), "there are");
        let at = place_in(mistakes.yaml(), item.place, port, 0..name.len());
        let message =
            format!("the group {} has no input or operator {}", quoted(word), quoted(name));
        // Said without the instance, as where the group is defined: once, however often it is used.
        let inner = item.path.rsplit('/').next().unwrap_or_default();
        let path = format!("groups.{word}.operators.{inner}");
        mistakes.add(at, &path, message, hint);
    }
    known
}

/// Moves the paths of a value from one beginning to another.
fn move_path(node: &mut Node, was: &str, is: &str) {
    if let Some(rest) = node.path.strip_prefix(was) {
        node.path = format!("{is}{rest}");
    }
    match &mut node.value {
        Value::Null | Value::Scalar(_) => {}
        Value::List(items) => items.iter_mut().for_each(|item| move_path(item, was, is)),
        Value::Map(entries) => entries.iter_mut().for_each(|(_, node)| move_path(node, was, is)),
    }
}
