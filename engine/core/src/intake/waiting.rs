//! Waiting: the complete files of one pipeline that are not claimed yet, and which of them is next.
//!
//! Sources with a higher priority come first. Within a source its `order` decides; between sources of
//! one priority, whose next file was seen first. Ties are broken by names, then by the order of the
//! sources, so that the same files give the same epochs.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};

use crate::plan::{Order, Taking};

/// When a file was seen to be complete, and last written.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seen {
    /// Counts what was seen at once: a scan, an event.
    pub(super) round: u64,
    /// In nanoseconds since 1970.
    pub(super) modified_ns: i128,
}

/// The files of a pipeline that wait to be claimed.
#[derive(Debug)]
pub(super) struct Waiting {
    sources: Vec<Queue>,
    /// Where each name stands.
    places: BTreeMap<OsString, (usize, Place)>,
}

#[derive(Debug)]
struct Queue {
    order: Order,
    priority: i32,
    files: BTreeSet<Place>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    key: i128,
    name: OsString,
    round: u64,
}

impl Waiting {
    /// Returns an empty queue for sources that take files so.
    pub(super) fn new<'t>(sources: impl Iterator<Item = &'t Taking>) -> Self {
        let queue = |taking: &Taking| Queue {
            order: taking.order,
            priority: taking.priority,
            files: BTreeSet::new(),
        };
        Self { sources: sources.map(queue).collect(), places: BTreeMap::new() }
    }

    /// Returns whether the order of a source's files asks when they were written.
    pub(super) fn asks_for_time(&self, source: usize) -> bool {
        self.sources.get(source).is_some_and(|queue| queue.order == Order::Modified)
    }

    /// Adds a file. One that waits already keeps its place, unless it was written to since.
    pub(super) fn insert(&mut self, source: usize, name: &OsStr, seen: Seen) {
        let Some(queue) = self.sources.get_mut(source) else { return };
        let key = match queue.order {
            Order::Arrival => i128::from(seen.round),
            Order::Name => 0,
            Order::Modified => seen.modified_ns,
        };
        if let Some((_, place)) = self.places.get(name) {
            if queue.order != Order::Modified || place.key == key {
                return;
            }
            queue.files.remove(place);
        }
        let place = Place { key, name: name.to_owned(), round: seen.round };
        queue.files.insert(place.clone());
        self.places.insert(name.to_owned(), (source, place));
    }

    /// Takes the next file of the sources that are `open`, and the place of its source in the plan.
    pub(super) fn pop(&mut self, open: &[bool]) -> Option<(usize, OsString)> {
        let heads = self.sources.iter().enumerate();
        let heads = heads.filter(|(at, _)| open.get(*at).copied().unwrap_or(true));
        let heads = heads.filter_map(|(at, queue)| {
            Some((Reverse(queue.priority), queue.files.first()?.round, at))
        });
        let (.., source) = heads.min()?;
        let place = self.sources[source].files.pop_first()?;
        self.places.remove(&place.name);
        Some((source, place.name))
    }

    /// Returns whether a file of this name waits.
    pub(super) fn has(&self, name: &OsStr) -> bool {
        self.places.contains_key(name)
    }

    /// Returns whether a file of the sources that are `open` waits.
    pub(super) fn has_next(&self, open: &[bool]) -> bool {
        let is_open = |at: usize| open.get(at).copied().unwrap_or(true);
        self.sources.iter().enumerate().any(|(at, queue)| is_open(at) && !queue.files.is_empty())
    }

    /// Returns how many files of each source wait.
    pub(super) fn counts(&self) -> Vec<usize> {
        self.sources.iter().map(|queue| queue.files.len()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sources as order and priority; files as source, name, round and time; the names as they leave.
    #[track_caller]
    fn check(sources: &[(Order, i32)], files: &[(usize, &str, u64, i128)], expected: &[&str]) {
        let takings: Vec<Taking> = sources
            .iter()
            .map(|(order, priority)| Taking {
                order: *order,
                priority: *priority,
                ..Taking::default()
            })
            .collect();
        // In whatever order the system names them.
        for reversed in [false, true] {
            let mut waiting = Waiting::new(takings.iter());
            let mut files = files.to_vec();
            if reversed {
                files.reverse();
            }
            for (source, name, round, modified_ns) in files {
                waiting.insert(source, OsStr::new(name), Seen { round, modified_ns });
                assert!(waiting.has(OsStr::new(name)));
            }
            let mut left = Vec::new();
            while let Some((_, name)) = waiting.pop(&[]) {
                left.push(name.into_string().unwrap());
            }
            assert_eq!(left, expected, "{sources:?}");
            assert!(!waiting.has_next(&[]));
        }
    }

    #[test]
    fn files_of_one_source_leave_in_its_order() {
        let files = [(0, "b", 1, 30), (0, "a", 2, 20), (0, "d", 2, 10), (0, "c", 3, 10)];
        check(&[(Order::Arrival, 0)], &files, &["b", "a", "d", "c"]);
        check(&[(Order::Name, 0)], &files, &["a", "b", "c", "d"]);
        check(&[(Order::Modified, 0)], &files, &["c", "d", "a", "b"]);
    }

    #[test]
    fn a_source_of_higher_priority_goes_first() {
        let files = [(0, "a", 1, 0), (1, "b", 2, 0), (2, "c", 3, 0), (1, "d", 4, 0)];
        let arrival = |priority| (Order::Arrival, priority);
        check(&[arrival(0), arrival(0), arrival(0)], &files, &["a", "b", "c", "d"]);
        check(&[arrival(0), arrival(5), arrival(-1)], &files, &["b", "d", "a", "c"]);
        check(&[(Order::Name, 0), (Order::Modified, 0), arrival(1)], &files, &["c", "a", "b", "d"]);
    }

    #[test]
    fn the_files_of_a_source_that_is_not_open_wait_and_keep_their_places() {
        let takings = [Taking { priority: 9, ..Taking::default() }, Taking::default()];
        let mut waiting = Waiting::new(takings.iter());
        for (source, name) in [(0, "a"), (1, "b"), (0, "c")] {
            waiting.insert(source, OsStr::new(name), Seen::default());
        }
        let shut = [false, true];
        assert_eq!(waiting.counts(), [2, 1]);
        assert_eq!(waiting.pop(&shut), Some((1, "b".into())));
        assert!(!waiting.has_next(&shut) && waiting.has_next(&[true, true]));
        assert_eq!(waiting.pop(&shut), None);
        assert_eq!(waiting.pop(&[true, true]), Some((0, "a".into())));
        assert_eq!(waiting.pop(&[]), Some((0, "c".into())));
    }

    #[test]
    fn a_file_that_is_seen_again_keeps_its_place_unless_it_was_written_to() {
        for (order, expected) in [(Order::Arrival, "a"), (Order::Modified, "b")] {
            let taking = Taking { order, ..Taking::default() };
            let mut waiting = Waiting::new([&taking].into_iter());
            let mut insert = |name: &str, round, modified_ns| {
                waiting.insert(0, OsStr::new(name), Seen { round, modified_ns });
            };
            insert("a", 1, 10);
            insert("b", 2, 20);
            insert("a", 3, 30);
            assert_eq!(waiting.pop(&[]), Some((0, expected.into())), "{order:?}");
            assert!(waiting.pop(&[]).is_some());
            assert_eq!(waiting.pop(&[]), None);
        }
    }
}
