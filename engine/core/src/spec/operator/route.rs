//! Route: what a `route` says, as written. Derived.

use crate::diagnostic::Mistakes;
use crate::spec::operator::BodySpec;
use crate::spec::operator::beside::{Beside, is_misplaced};
use crate::spec::read::{self, Text};
use crate::spec::tree::Node;

/// Reads the body of a `route`.
pub(super) fn read(node: Node, beside: Beside, mistakes: &mut Mistakes<'_>) -> Option<BodySpec> {
    let (owner, path) = (node.owner, node.path.clone());
    let entries = read::map(node, "`route`", mistakes)?;
    let written = entries.len();
    let mut rules = Vec::with_capacity(written);
    let mut otherwise: Option<Text> = None;
    for (key, node) in entries {
        if is_misplaced(&key, &node, "route", mistakes) {
            continue;
        }
        let tag = read::name(&key, &node.path, "a tag", mistakes);
        if tag.text == "errors" {
            let message = "the tag `errors` is always there and holds the rejected records";
            tag.wrong(mistakes, message, Some("choose another name".to_owned()));
        }
        // A rule that cannot be read still makes its tag.
        let place = node.owner;
        let rule_path = node.path.clone();
        let rule = read::text(node, "a rule", mistakes).unwrap_or_else(|| Text {
            text: "true".to_owned(),
            place,
            path: rule_path,
        });
        if let Some(first) = &otherwise {
            let message = format!("no rule can follow `{}: else`", first.text);
            tag.wrong(mistakes, message, Some("put `else` last".to_owned()));
        } else if rule.text.eq_ignore_ascii_case("else") {
            otherwise = Some(tag);
        } else {
            rules.push((tag, rule));
        }
    }
    if written == 0 || (written == 1 && otherwise.is_some()) {
        let hint = "for example `route: { failed: status >= 500, ok: else }`".to_owned();
        mistakes.add(owner, &path, "`route` has no condition", hint);
    }
    Some(BodySpec::Route { rules, otherwise, all: beside.all })
}
