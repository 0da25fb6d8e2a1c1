//! Aggregate: what an `aggregate` says, as written. Derived.

use crate::diagnostic::Mistakes;
use crate::spec::operator::{BodySpec, computed, named};
use crate::spec::read::{self, Entries};
use crate::spec::tree::Node;

/// Reads the body of an `aggregate`.
pub(super) fn read(node: Node, mistakes: &mut Mistakes<'_>) -> Option<BodySpec> {
    let mut entries = Entries::open(node, "`aggregate`", mistakes)?;
    let by = entries.require("by", mistakes);
    let compute = entries.require("compute", mistakes);
    let per = entries.take("per");
    entries.finish(mistakes);
    let per_file = match per {
        Some(node) => per_file(node, mistakes)?,
        None => false,
    };
    let by = by.and_then(|node| named(node, "`by`", mistakes));
    let compute_at = compute.as_ref().map(|node| (node.owner, node.path.clone()));
    let compute = compute.and_then(|node| computed(node, "`compute`", mistakes));
    if let (Some([]), Some((owner, path))) = (compute.as_deref(), compute_at) {
        let hint = "for example `compute: { hits: count(*) }`".to_owned();
        mistakes.add(owner, &path, "`compute` computes nothing", hint);
        return None;
    }
    let (by, compute) = (by?, compute?);
    for (name, _) in &compute {
        if by.iter().any(|column| column.name.text == name.text) {
            name.wrong(mistakes, format!("`{}` stands in `by` already", name.text), None);
        }
    }
    Some(BodySpec::Aggregate { by, compute, per_file })
}

/// Reads `per`: whether groups are those of one file.
fn per_file(node: Node, mistakes: &mut Mistakes<'_>) -> Option<bool> {
    let word = read::text(node, "`per`", mistakes)?;
    let hint = match word.text.as_str() {
        "all" => return Some(false),
        "file" => return Some(true),
        "window" => Some("put a `window` before it: `by: [window_start, ...]`".to_owned()),
        _ => None,
    };
    word.wrong(mistakes, "`per` is `all` or `file`", hint);
    None
}
