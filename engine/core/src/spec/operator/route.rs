//! Route: what a `route` says, and the keys beside it, as written. Derived.

use crate::diagnostic::Mistakes;
use crate::spec::operator::BodySpec;
use crate::spec::read::{self, Entries, Text};
use crate::spec::tree::Node;

/// The keys that may stand beside `route`.
pub(super) struct Beside {
    all: bool,
    drop: Vec<Text>,
}

impl Beside {
    /// Takes them; beside another kind they are mistakes.
    pub(super) fn take(entries: &mut Entries, route: bool, mistakes: &mut Mistakes<'_>) -> Self {
        let mut beside = Self { all: false, drop: Vec::new() };
        if !route {
            for name in ["match", "drop"] {
                if entries.rest().any(|key| key.name == name)
                    && let Some(node) = entries.take(name)
                {
                    let message = format!("`{name}` belongs to `route`");
                    mistakes.add(node.owner, &node.path, message, None);
                }
            }
            return beside;
        }
        if let Some(node) = entries.take("match") {
            let words = [("first", false), ("all", true)];
            beside.all = read::choice(node, "`match`", &words, mistakes).unwrap_or_default();
        }
        if let Some(node) = entries.take("drop") {
            beside.drop = read::texts(node, "`drop`", mistakes).unwrap_or_default();
            read::check_once(&beside.drop, mistakes);
        }
        beside
    }
}

/// Reads the body of a `route`.
pub(super) fn read(node: Node, beside: Beside, mistakes: &mut Mistakes<'_>) -> Option<BodySpec> {
    let (owner, path) = (node.owner, node.path.clone());
    let entries = read::map(node, "`route`", mistakes)?;
    let written = entries.len();
    let mut rules = Vec::with_capacity(written);
    let mut otherwise: Option<Text> = None;
    for (key, node) in entries {
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
    Some(BodySpec::Route { rules, otherwise, all: beside.all, drop: beside.drop })
}
