//! Beside: the keys that may stand beside the kind of an operator, as written. Derived.

use crate::diagnostic::{Mistakes, quoted};
use crate::spec::operator::{NamedSpec, named};
use crate::spec::read::{self, Entries, Text};
use crate::spec::tree::{Key, Node, Value};
use crate::spec::words;

/// What stands beside a kind.
#[derive(Default)]
pub(super) struct Beside {
    /// `match: all` of a `route`.
    pub(super) all: bool,
    /// The tags that are not wanted.
    pub(super) drop: Vec<Text>,
    /// The key of a `weighted`; `None` when it could not be read.
    pub(super) by: Option<Vec<NamedSpec>>,
    /// The seed of a `weighted`.
    pub(super) seed: Option<Text>,
}

/// The kinds that have tags which can be dropped.
const TAGGED: [&str; 4] = ["route", "split", "sample", "weighted"];

impl Beside {
    /// Takes them; beside a kind to which they do not belong they are mistakes.
    pub(super) fn take(
        entries: &mut Entries,
        kind: Option<&'static str>,
        mistakes: &mut Mistakes<'_>,
    ) -> Self {
        let mut beside = Self { by: Some(Vec::new()), ..Self::default() };
        if kind == Some("route") {
            if let Some(node) = entries.take("match") {
                let words = [("first", false), ("all", true)];
                beside.all = read::choice(node, "`match`", &words, mistakes).unwrap_or_default();
            }
        } else {
            refuse(entries, "match", "`match` belongs to `route`", mistakes);
        }
        if kind.is_some_and(|kind| TAGGED.contains(&kind)) {
            if let Some(node) = entries.take("drop") {
                beside.drop = read::texts(node, "`drop`", mistakes).unwrap_or_default();
                read::check_once(&beside.drop, mistakes);
            }
        } else if let Some(kind) = kind {
            let message = match kind {
                "state" => "`drop` stands inside of `state`".to_owned(),
                "parse" => {
                    "`unmatched` cannot be dropped: what does not match is rejected unless it is read"
                        .to_owned()
                }
                "dedupe" => "`duplicates` are left out anyway where nothing reads them".to_owned(),
                kind => format!("`{kind}` has no tag that could be dropped"),
            };
            refuse(entries, "drop", &message, mistakes);
        }
        if kind == Some("weighted") {
            if let Some(node) = entries.take("by") {
                beside.by = named(node, "`by`", mistakes);
            }
            if let Some(node) = entries.take("seed") {
                beside.seed = read::text(node, "`seed`", mistakes);
            }
        }
        beside
    }
}

/// Notes a key that does not belong here, if it is there.
fn refuse(entries: &mut Entries, name: &'static str, message: &str, mistakes: &mut Mistakes<'_>) {
    if entries.rest().any(|key| key.name == name)
        && let Some(node) = entries.take(name)
    {
        mistakes.add(node.owner, &node.path, message, None);
    }
}

/// Notes a key that stands among the tags of `kind` and belongs beside it, as its value shows; returns
/// whether it is one.
pub(super) fn is_misplaced(
    key: &Key,
    node: &Node,
    kind: &str,
    mistakes: &mut Mistakes<'_>,
) -> bool {
    let is_it = match (kind, key.name.as_str(), &node.value) {
        ("route", "match", Value::Scalar(text)) => matches!(text.as_str(), "all" | "first"),
        ("weighted", "by" | "seed", Value::Scalar(text)) => text.parse::<u64>().is_err(),
        ("weighted", "by", Value::List(_)) | (_, "drop", Value::List(_)) => true,
        _ => false,
    };
    if is_it {
        let message = format!("{} is no tag here", quoted(&key.name));
        let hint = words::stands_beside(&quoted(kind));
        mistakes.add(key.place, &node.path, message, hint);
    }
    is_it
}
