//! Lots: what `split`, `sample` and `weighted` say, as written: tags that are drawn. Derived.

use tidemill_operators::lots::LotsKind;

use crate::diagnostic::{Mistakes, quoted};
use crate::judge::MaxRejects;
use crate::spec::operator::beside::{Beside, is_misplaced};
use crate::spec::operator::{BodySpec, NamedSpec, named};
use crate::spec::read::{self, Entries, Text};
use crate::spec::tree::Node;

/// The most tags of one operator.
const TAGS_MAX: u32 = 256;
/// The greatest weight.
const WEIGHT_MAX: u32 = 1_000_000;
/// A whole, in the unit in which shares are read.
const WHOLE: u64 = 1_000_000;

/// An operator that draws a tag for each record, as written.
#[derive(Debug)]
pub(crate) struct LotsSpec {
    pub(crate) kind: LotsKind,
    /// The key that is drawn; none for each record by itself.
    pub(crate) by: Vec<NamedSpec>,
    pub(crate) seed: Option<Text>,
    pub(crate) tags: Vec<Text>,
    /// As many as tags.
    pub(crate) weights: Vec<u64>,
}

/// Reads the body of a `split`.
pub(super) fn split(node: Node, mistakes: &mut Mistakes<'_>) -> Option<BodySpec> {
    let mut entries = Entries::open(node, "`split`", mistakes)?;
    let by = entries.require("by", mistakes);
    let into = entries.require("into", mistakes);
    entries.finish(mistakes);
    let by_at = by.as_ref().map(|node| (node.owner, node.path.clone()));
    let by = by.and_then(|node| named(node, "`by`", mistakes));
    if let (Some([]), Some((owner, path))) = (by.as_deref(), by_at) {
        let hint = "for example `by: [user]`; without a key, use `weighted: { a: 1, b: 1 }`";
        mistakes.add(owner, &path, "`by` names no column", hint.to_owned());
        return None;
    }
    let into = into.and_then(|node| {
        let at = (node.place, node.path.clone());
        let count = read::number(node, "`into`", (2, TAGS_MAX), mistakes)?;
        Some((count, at))
    });
    let (count, (place, path)) = into?;
    let tag = |number: u32| Text { text: number.to_string(), place, path: path.clone() };
    Some(BodySpec::Lots(LotsSpec {
        kind: LotsKind::Split,
        by: by?,
        seed: None,
        tags: (0..count).map(tag).collect(),
        weights: vec![1; count as usize],
    }))
}

/// Reads the body of a `sample`.
pub(super) fn sample(node: Node, mistakes: &mut Mistakes<'_>) -> Option<BodySpec> {
    let mut entries = Entries::open(node, "`sample`", mistakes)?;
    let share = entries.require("share", mistakes);
    let by = entries.take("by");
    let seed = entries.take("seed");
    entries.finish(mistakes);
    let by = by.map_or_else(|| Some(Vec::new()), |node| named(node, "`by`", mistakes));
    let seed = match seed {
        None => Some(None),
        Some(node) => read::text(node, "`seed`", mistakes).map(Some),
    };
    let share = read::text(share?, "`share`", mistakes)?;
    let parts = match MaxRejects::parse(&share.text) {
        Some(MaxRejects::Share(parts)) if (1..WHOLE).contains(&u64::from(parts)) => {
            u64::from(parts)
        }
        _ => {
            let message = format!("`share` cannot be {}", quoted(&share.text));
            share.wrong(mistakes, message, share_hint(&share.text));
            return None;
        }
    };
    let tag = |name: &str| Text { text: name.to_owned(), ..share.clone() };
    Some(BodySpec::Lots(LotsSpec {
        kind: LotsKind::Sample,
        by: by?,
        seed: seed?,
        tags: vec![tag("sampled"), tag("rest")],
        weights: vec![parts, WHOLE - parts],
    }))
}

/// Returns how a share is written, with the one that was probably meant.
fn share_hint(written: &str) -> String {
    let fraction = written.trim().parse::<f64>().ok().filter(|share| *share > 0.0);
    let meant = match fraction {
        Some(share) if share < 1.0 => format!("{}%", (share * 1e6).round() / 1e4),
        Some(share) if share < 100.0 => format!("{share}%"),
        _ => "5%".to_owned(),
    };
    format!("it is more than 0% and less than 100%, with up to four decimals: `share: {meant}`")
}

/// Reads the body of a `weighted`.
pub(super) fn weighted(
    node: Node,
    beside: Beside,
    mistakes: &mut Mistakes<'_>,
) -> Option<BodySpec> {
    let (owner, path) = (node.owner, node.path.clone());
    let entries = read::map(node, "`weighted`", mistakes)?;
    let (mut tags, mut weights) = (Vec::new(), Some(Vec::new()));
    for (key, node) in entries {
        if is_misplaced(&key, &node, "weighted", mistakes) {
            continue;
        }
        let tag = read::name(&key, &node.path, "a tag", mistakes);
        if tag.text == "errors" {
            let message = "the tag `errors` is always there and holds the rejected records";
            tag.wrong(mistakes, message, Some("choose another name".to_owned()));
        }
        let weight = read::number(node, "a weight", (1, WEIGHT_MAX), mistakes);
        match (weight, &mut weights) {
            (Some(weight), Some(weights)) => weights.push(u64::from(weight)),
            _ => weights = None,
        }
        tags.push(tag);
    }
    if tags.len() < 2 || tags.len() > TAGS_MAX as usize {
        let message = format!("`weighted` has 2 to {TAGS_MAX} tags, not {}", tags.len());
        let hint = "for example `weighted: { a: 3, b: 1 }`: three of four records leave by `a`";
        mistakes.add(owner, &path, message, hint.to_owned());
        return None;
    }
    let weights = weights?;
    Some(BodySpec::Lots(LotsSpec {
        kind: LotsKind::Weighted,
        by: beside.by?,
        seed: beside.seed,
        tags,
        weights,
    }))
}
