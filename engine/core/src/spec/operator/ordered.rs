//! Ordered: what `dedupe` and `top` say, as written: rows of a key, in an order. Derived.

use tidemill_operators::keyed::Arrival;

use crate::diagnostic::Mistakes;
use crate::spec::operator::{BodySpec, NamedSpec, named};
use crate::spec::read::{self, Entries, Text};
use crate::spec::tree::Node;

/// The most rows of a top list.
const TOP_MAX: u32 = 1_000_000;

/// Reads the body of a `dedupe`.
pub(super) fn dedupe(node: Node, mistakes: &mut Mistakes<'_>) -> Option<BodySpec> {
    let mut entries = Entries::open(node, "`dedupe`", mistakes)?;
    let by = entries.require("by", mistakes);
    let keep = entries.take("keep");
    let order = entries.take("order");
    entries.finish(mistakes);
    let by_at = by.as_ref().map(|node| (node.owner, node.path.clone()));
    let by = by.and_then(|node| named(node, "`by`", mistakes));
    if let (Some([]), Some((owner, path))) = (by.as_deref(), by_at) {
        let hint =
            "for example `by: [id]`; for one row of all there are, `top: { k: 1 }`".to_owned();
        mistakes.add(owner, &path, "`by` names no column", hint);
        return None;
    }
    let words = [("first", Arrival::First), ("last", Arrival::Last)];
    let keep = match keep {
        None => Some(Arrival::First),
        Some(node) => read::choice(node, "`keep`", &words, mistakes),
    };
    let order = terms(order, mistakes);
    Some(BodySpec::Dedupe { by: by?, keep: keep?, order: order? })
}

/// Reads the body of a `top`.
pub(super) fn top(node: Node, mistakes: &mut Mistakes<'_>) -> Option<BodySpec> {
    let mut entries = Entries::open(node, "`top`", mistakes)?;
    let count = entries.require("k", mistakes);
    let by = entries.take("by");
    let order = entries.require("order", mistakes);
    let rank = entries.take("rank");
    entries.finish(mistakes);
    let count = count.and_then(|node| read::number(node, "`k`", (1, TOP_MAX), mistakes));
    let by: Option<Vec<NamedSpec>> = match by {
        None => Some(Vec::new()),
        Some(node) => named(node, "`by`", mistakes),
    };
    let order = order.and_then(|node| terms(Some(node), mistakes));
    let rank = match rank {
        None => Some(None),
        Some(node) => read::text(node, "`rank`", mistakes).map(Some),
    };
    if let Some(Some(rank)) = &rank {
        read::check_column_name(rank, mistakes);
    }
    Some(BodySpec::Top { count: count?, by: by?, order: order?, rank: rank? })
}

/// Reads `order`: expressions, each with its direction.
fn terms(node: Option<Node>, mistakes: &mut Mistakes<'_>) -> Option<Vec<Text>> {
    let Some(node) = node else { return Some(Vec::new()) };
    let (owner, path) = (node.owner, node.path.clone());
    let terms = read::texts(node, "`order`", mistakes)?;
    if terms.is_empty() {
        let hint = "for example `order: [\"bytes desc\", ts]`".to_owned();
        mistakes.add(owner, &path, "`order` is an empty list", hint);
        return None;
    }
    Some(terms)
}
