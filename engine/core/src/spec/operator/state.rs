//! State: what a `state` says, as written, and by which tags its records can leave. Derived.

use std::collections::BTreeSet;

use tidemill_operators::Type;

use crate::diagnostic::{Mistakes, listed, quoted};
use crate::spec::operator::window::micros;
use crate::spec::operator::{BodySpec, NamedSpec, named};
use crate::spec::read::{self, Entries, Text};
use crate::spec::source;
use crate::spec::tree::{Node, Value};

/// The `emit` of a record that leaves by no tag.
pub(crate) const DROP: &str = "drop";

/// A machine as written.
#[derive(Debug)]
pub(crate) struct StateSpec {
    pub(crate) key: Vec<NamedSpec>,
    pub(crate) order: Vec<Text>,
    pub(crate) variables: Vec<VariableSpec>,
    pub(crate) transitions: Vec<TransitionSpec>,
    pub(crate) add: Vec<NamedSpec>,
    pub(crate) drop: Vec<Text>,
    pub(crate) horizon: Option<(i64, Text)>,
    /// The states, the initial one first, then in the order in which a `goto` names them.
    pub(crate) states: Vec<Text>,
    /// The tags by which a record can leave: those of states, in their order, then others.
    pub(crate) tags: Vec<Text>,
}

/// A variable as written.
#[derive(Debug)]
pub(crate) struct VariableSpec {
    pub(crate) name: Text,
    pub(crate) kind: Type,
    pub(crate) initial: Option<Text>,
}

/// A transition as written.
#[derive(Debug)]
pub(crate) struct TransitionSpec {
    /// None means any.
    pub(crate) from: Vec<Text>,
    pub(crate) when: Option<Text>,
    /// `None` is NULL.
    pub(crate) set: Vec<(Text, Option<Text>)>,
    pub(crate) goto: Option<Text>,
    pub(crate) emit: Option<Text>,
}

/// Reads the body of a `state`.
pub(super) fn read(node: Node, mistakes: &mut Mistakes<'_>) -> Option<BodySpec> {
    let mut entries = Entries::open(node, "`state`", mistakes)?;
    let key = entries.require("key", mistakes);
    let order = entries.take("order");
    let initial = entries.require("initial", mistakes);
    let variables = entries.take("vars");
    let transitions = entries.require("transitions", mistakes);
    let add = entries.take("add");
    let drop = entries.take("drop");
    let horizon = entries.take("horizon");
    entries.finish(mistakes);
    let key = key.and_then(|node| named(node, "`key`", mistakes));
    let order = or(order, Vec::new(), |node| read::texts(node, "`order`", mistakes));
    let initial = initial.and_then(|node| state_name(node, mistakes));
    let variables = or(variables, Vec::new(), |node| read_variables(node, mistakes));
    let transitions = transitions.and_then(|node| read_transitions(node, mistakes));
    let add = or(add, Vec::new(), |node| named(node, "`add`", mistakes));
    let drop = or(drop, Vec::new(), |node| read::texts(node, "`drop`", mistakes));
    let horizon = or(horizon, None, |node| {
        let text = Text { text: String::new(), place: node.place, path: node.path.clone() };
        Some(Some((micros(node, "`horizon`", mistakes)?, text)))
    });
    let (initial, transitions) = (initial?, transitions?);
    let mut states = vec![initial];
    for goto in transitions.iter().filter_map(|one| one.goto.as_ref()) {
        if states.iter().all(|state| state.text != goto.text) {
            states.push(goto.clone());
        }
    }
    check_from(&transitions, &states, mistakes)?;
    let tags = tags(&transitions, &states);
    let (key, order, variables, add) = (key?, order?, variables?, add?);
    let (drop, horizon) = (drop?, horizon?);
    let spec = StateSpec { key, order, variables, transitions, add, drop, horizon, states, tags };
    Some(BodySpec::State(Box::new(spec)))
}

/// Returns what `read` makes of a value, or what stands for one that is not there.
fn or<T>(node: Option<Node>, absent: T, read: impl FnOnce(Node) -> Option<T>) -> Option<T> {
    match node {
        Some(node) => read(node),
        None => Some(absent),
    }
}

/// Reads the name of a state, which is that of a tag too.
fn state_name(node: Node, mistakes: &mut Mistakes<'_>) -> Option<Text> {
    let name = read::text(node, "a state", mistakes)?;
    read::check_name(&name, "a state", mistakes);
    for (word, means) in [("errors", "the tag of rejected records"), (DROP, "no tag at all")] {
        if name.text == word {
            let message = format!("a state cannot be called `{word}`: that is {means}");
            name.wrong(mistakes, message, Some("choose another name".to_owned()));
        }
    }
    Some(name)
}

fn read_variables(node: Node, mistakes: &mut Mistakes<'_>) -> Option<Vec<VariableSpec>> {
    let mut variables = Some(Vec::new());
    for (key, node) in read::map(node, "`vars`", mistakes)? {
        let name = read::column_name(&key, &node.path, mistakes);
        let (kind, initial) = if matches!(node.value, Value::Map(_)) {
            let Some(mut entries) = Entries::open(node, "a variable", mistakes) else { continue };
            let kind = entries.require("type", mistakes);
            let initial = entries.take("initial");
            entries.finish(mistakes);
            let kind = kind.and_then(|node| source::kind(node, mistakes));
            let initial = or(initial, None, |node| expression(node, "`initial`", mistakes));
            (kind, initial)
        } else {
            (source::kind(node, mistakes), Some(None))
        };
        match (&mut variables, kind, initial) {
            (Some(variables), Some(kind), Some(initial)) => {
                variables.push(VariableSpec { name, kind, initial });
            }
            _ => variables = None,
        }
    }
    variables
}

/// Reads an expression, or NULL as `None`.
fn expression(node: Node, what: &str, mistakes: &mut Mistakes<'_>) -> Option<Option<Text>> {
    if matches!(node.value, Value::Null) {
        return Some(None);
    }
    let text = read::text(node, what, mistakes)?;
    Some(Some(text).filter(|text| !text.text.eq_ignore_ascii_case("null")))
}

fn read_transitions(node: Node, mistakes: &mut Mistakes<'_>) -> Option<Vec<TransitionSpec>> {
    let (owner, path) = (node.owner, node.path.clone());
    let Value::List(items) = node.value else {
        let message = format!("`transitions` is a list, not {}", node.value.what());
        let hint = "for example `- { from: open, when: failed, goto: blocked }`".to_owned();
        mistakes.add(owner, &path, message, hint);
        return None;
    };
    if items.is_empty() {
        mistakes.add(owner, &path, "a machine without a transition never changes", None);
        return None;
    }
    let all: Vec<_> = items.into_iter().map(|item| transition(item, mistakes)).collect();
    all.into_iter().collect()
}

fn transition(node: Node, mistakes: &mut Mistakes<'_>) -> Option<TransitionSpec> {
    let mut entries = Entries::open(node, "a transition", mistakes)?;
    let from = entries.take("from");
    let when = entries.take("when");
    let set = entries.take("set");
    let goto = entries.take("goto");
    let emit = entries.take("emit");
    entries.finish(mistakes);
    let from = or(from, Vec::new(), |node| {
        let from = read::texts(node, "`from`", mistakes)?;
        read::check_once(&from, mistakes);
        Some(from)
    });
    let when = or(when, None, |node| read::text(node, "`when`", mistakes).map(Some));
    let set = or(set, Vec::new(), |node| {
        let mut all = Some(Vec::new());
        for (key, node) in read::map(node, "`set`", mistakes)? {
            let name = read::column_name(&key, &node.path, mistakes);
            match (expression(node, "a value", mistakes), &mut all) {
                (Some(value), Some(all)) => all.push((name, value)),
                _ => all = None,
            }
        }
        all
    });
    let goto = or(goto, None, |node| state_name(node, mistakes).map(Some));
    let emit = or(emit, None, |node| {
        let tag = read::text(node, "`emit`", mistakes)?;
        read::check_name(&tag, "a tag", mistakes);
        if tag.text == "errors" {
            let message = "the tag `errors` is always there and holds the rejected records";
            tag.wrong(mistakes, message, Some("choose another name".to_owned()));
        }
        Some(Some(tag))
    });
    Some(TransitionSpec { from: from?, when: when?, set: set?, goto: goto?, emit: emit? })
}

/// Notes a `from` that names no state.
fn check_from(
    transitions: &[TransitionSpec],
    states: &[Text],
    mistakes: &mut Mistakes<'_>,
) -> Option<()> {
    let names = || states.iter().map(|state| state.text.as_str());
    let mut fine = Some(());
    for from in transitions.iter().flat_map(|one| &one.from) {
        if !names().any(|name| name == from.text) {
            let message = format!("nothing leads to a state {}", quoted(&from.text));
            let hint = mistakes.nearest_hint(&from.text, names(), "the states are");
            from.wrong(mistakes, message, hint);
            fine = None;
        }
    }
    let reached = reached(transitions, states);
    if fine.is_some() && reached.len() < states.len() {
        let unreached = states.iter().enumerate().filter(|(at, _)| !reached.contains(at));
        for (_, state) in unreached {
            let others = listed(reached.iter().map(|at| states[*at].text.as_str()));
            let message = format!("no way leads from {others} to {}", quoted(&state.text));
            state.wrong(mistakes, message, None);
        }
        return None;
    }
    fine
}

/// Returns the transitions that may be taken in a state, and whether one of them always is.
fn ways<'t>(transitions: &'t [TransitionSpec], state: &Text) -> (Vec<&'t TransitionSpec>, bool) {
    let mut ways = Vec::new();
    for one in transitions {
        if one.from.is_empty() || one.from.iter().any(|from| from.text == state.text) {
            ways.push(one);
            if one.when.is_none() {
                return (ways, true);
            }
        }
    }
    (ways, false)
}

/// Returns the states that can be reached from the first one.
fn reached(transitions: &[TransitionSpec], states: &[Text]) -> BTreeSet<usize> {
    let mut reached = BTreeSet::from([0]);
    let mut ahead = vec![0];
    while let Some(at) = ahead.pop() {
        for goto in ways(transitions, &states[at]).0.iter().filter_map(|way| way.goto.as_ref()) {
            let to = states.iter().position(|state| state.text == goto.text);
            if let Some(to) = to.filter(|to| reached.insert(*to)) {
                ahead.push(to);
            }
        }
    }
    reached
}

/// Returns the tags by which records can leave.
fn tags(transitions: &[TransitionSpec], states: &[Text]) -> Vec<Text> {
    let (mut homes, mut others): (BTreeSet<usize>, Vec<&Text>) = (BTreeSet::new(), Vec::new());
    let place = |name: &Text| states.iter().position(|state| state.text == name.text);
    for (at, state) in states.iter().enumerate() {
        let (ways, always) = ways(transitions, state);
        if !always {
            homes.insert(at);
        }
        for way in ways {
            let tag = way.emit.as_ref().or(way.goto.as_ref()).unwrap_or(state);
            match place(tag) {
                Some(home) => {
                    homes.insert(home);
                }
                None if tag.text == DROP => {}
                None if others.iter().any(|other| other.text == tag.text) => {}
                None => others.push(tag),
            }
        }
    }
    homes.into_iter().map(|at| &states[at]).chain(others).cloned().collect()
}
