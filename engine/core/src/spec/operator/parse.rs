//! Parse: what a `parse` says, as written. Derived.

use crate::diagnostic::Mistakes;
use crate::spec::operator::BodySpec;
use crate::spec::read::{self, Entries};
use crate::spec::source;
use crate::spec::tree::Node;

/// Reads the body of a `parse`.
pub(super) fn read(node: Node, mistakes: &mut Mistakes<'_>) -> Option<BodySpec> {
    let mut entries = Entries::open(node, "`parse`", mistakes)?;
    let column = entries.require("column", mistakes);
    let regex = entries.require("regex", mistakes);
    let fields = entries.take("fields");
    entries.finish(mistakes);
    let mut kinds = Some(Vec::new());
    if let Some(node) = fields {
        for (key, node) in read::map(node, "`fields`", mistakes)? {
            let name = read::column_name(&key, &node.path, mistakes);
            match (source::kind(node, mistakes), &mut kinds) {
                (Some(kind), Some(kinds)) => kinds.push((name, kind)),
                _ => kinds = None,
            }
        }
    }
    let column = column.and_then(|node| read::text(node, "`column`", mistakes));
    let regex = regex.and_then(|node| read::text(node, "`regex`", mistakes));
    Some(BodySpec::Parse { column: column?, regex: regex?, fields: kinds? })
}
