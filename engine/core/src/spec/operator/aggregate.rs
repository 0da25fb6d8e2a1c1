//! Aggregate: what an `aggregate` says, as written. Derived.

use crate::diagnostic::Mistakes;
use crate::spec::operator::{BodySpec, computed, named};
use crate::spec::read::Entries;
use crate::spec::tree::Node;

/// Reads the body of an `aggregate`.
pub(super) fn read(node: Node, mistakes: &mut Mistakes<'_>) -> Option<BodySpec> {
    let mut entries = Entries::open(node, "`aggregate`", mistakes)?;
    let by = entries.require("by", mistakes);
    let compute = entries.require("compute", mistakes);
    entries.finish(mistakes);
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
    Some(BodySpec::Aggregate { by, compute })
}
