//! Shelf: the ledger's part in outputs that are replaced or removed.
//!
//! The sinks say what becomes of each output by itself; one commit says one thing of each place. What
//! of ours lies there is known by the journal only, and the publisher is told of it here.

use std::collections::{BTreeSet, HashMap};

use tidemill_store::{Part, PartBody, Replaced, Verdict};

use crate::publish::Job;

/// Returns what a commit says of each place: where something is put, nothing need be removed. So a file
/// takes the place of the one that it replaces, whoever removes the outputs of that one.
pub(super) fn placed(parts: Vec<Part>) -> Vec<Part> {
    let is_put = |part: &&Part| !matches!(part.body, PartBody::Removed);
    let put: BTreeSet<(String, String)> =
        parts.iter().filter(is_put).map(|part| (part.sink.clone(), part.name.clone())).collect();
    let mut removed = BTreeSet::new();
    let mut is_wanted = |part: &Part| {
        let place = (part.sink.clone(), part.name.clone());
        is_put(&part) || (!put.contains(&place) && removed.insert(place))
    };
    parts.into_iter().filter(|part| is_wanted(part)).collect()
}

/// Tells the publisher what of ours the outputs of these jobs take the place of.
pub(super) fn tell(jobs: &mut [Job], replaced: Vec<Replaced>) {
    if replaced.is_empty() {
        return;
    }
    let mut by_file: HashMap<u64, Vec<Replaced>> = HashMap::new();
    for one in replaced {
        by_file.entry(one.submission).or_default().push(one);
    }
    for outcome in jobs.iter_mut().filter_map(Job::outcome_mut) {
        let Verdict::Committed { parts } = &mut outcome.verdict else { continue };
        for one in by_file.remove(&outcome.id).unwrap_or_default() {
            if let Some(part) = parts.get_mut(one.part) {
                part.before.push(one.version);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_in_a_place_is_not_removed_from_it() {
        let put = |of| Part::inline(of, "s", "a", b"x".to_vec());
        let removed = |of, name| Part::removed(of, "s", name);
        assert_eq!(placed(vec![removed(1, "a"), put(2)]), [put(2)]);
        assert_eq!(placed(vec![put(2), removed(1, "a")]), [put(2)]);
        let given = vec![put(2), removed(1, "b"), removed(1, "b")];
        assert_eq!(placed(given), [put(2), removed(1, "b")]);
    }
}
