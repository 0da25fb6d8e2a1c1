//! Unused: the operators of groups that nobody uses, read as far as that can be done without the values of
//! their parameters, so that a mistake in them does not wait for their first user. Derived.

use std::collections::BTreeSet;

use crate::diagnostic::{Mistakes, Place};
use crate::spec::compose::group::{Group, Groups};
use crate::spec::compose::{holds, is_instance};
use crate::spec::operator::{self, OperatorSpec};
use crate::spec::read;
use crate::spec::tree::{Node, Value};

/// Reads the operators of all groups but the used ones.
pub(super) fn read(
    groups: &Groups,
    used: &BTreeSet<String>,
    mistakes: &mut Mistakes<'_>,
) -> Vec<OperatorSpec> {
    let unused = groups.all.iter().filter(|(name, _)| !used.contains(*name));
    unused.filter_map(|(_, group)| group.as_ref()).flat_map(|group| of(group, mistakes)).collect()
}

fn of(group: &Group, mistakes: &mut Mistakes<'_>) -> Vec<OperatorSpec> {
    let mut all = Vec::with_capacity(group.operators.len());
    for (key, node) in group.operators.iter().filter(|(_, node)| !is_instance(node)) {
        let mut open = Vec::new();
        note_open(node, &mut open);
        let before = mistakes.len();
        // The name itself is checked where the group is read.
        let name = read::Text { text: key.name.clone(), place: key.place, path: node.path.clone() };
        all.push(operator::parse(name, node.clone(), mistakes));
        mistakes.forget_since(before, &open);
    }
    all
}

/// Notes the places of the values that are not known before the group is used.
fn note_open(node: &Node, open: &mut Vec<Place>) {
    match &node.value {
        Value::Scalar(_) if holds(node) => open.push(node.place),
        Value::Null | Value::Scalar(_) => {}
        Value::List(items) => items.iter().for_each(|item| note_open(item, open)),
        Value::Map(entries) => entries.iter().for_each(|(_, node)| note_open(node, open)),
    }
}
