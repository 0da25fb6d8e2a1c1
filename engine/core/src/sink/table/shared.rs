//! Shared: a table as it is changed by the publisher and read by everybody else. Derived.
//!
//! Who reads takes a [`View`]: all rows as of one epoch, for as long as it is held. Neither side waits
//! for the other: the lock is held for the time of a few instructions, or for a small change. What a
//! view alone still holds of an old version is the price of reading slowly.
//!
//! The changes of the last epochs are kept, up to [`HISTORY_BYTES_MAX`], so that a follower who knows
//! an epoch can go on from there.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::net::Net;
use super::tree::Tree;

/// Memory that the changes of the last epochs may take, in bytes per table.
pub const HISTORY_BYTES_MAX: usize = 32 << 20;

/// Epochs whose changes are kept, at most.
const HISTORY_EPOCHS_MAX: usize = 65_536;

/// Rows that are changed while readers wait for it: it takes less than a millisecond.
const CHANGED_IN_PLACE_MAX: usize = 1024;

/// A table, shared by who changes it and who reads it.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    tree: Tree,
    epoch: u64,
    /// The epochs that changed something, all of them after `since`.
    history: VecDeque<Arc<EpochChanges>>,
    history_weight: usize,
    /// Everything that happened after this epoch is in the history.
    since: u64,
    /// Whether it is whole: nothing of earlier lives is missing.
    whole: bool,
}

/// What one epoch changed.
#[derive(Debug)]
pub(crate) struct EpochChanges {
    /// The epoch.
    pub(crate) epoch: u64,
    /// The rows.
    pub(crate) net: Net,
    /// The order in which they are told.
    pub(crate) told: Vec<u32>,
}

/// All rows as of one epoch.
#[derive(Clone, Debug)]
pub(crate) struct View {
    /// The rows.
    pub(super) tree: Tree,
    /// The epoch.
    pub(crate) epoch: u64,
}

/// What there is after an epoch.
#[derive(Debug)]
pub(crate) enum Next {
    /// Nothing yet.
    Nothing,
    /// No row changed up to this epoch.
    Quiet(u64),
    /// The next epoch that changed something.
    Changes(Arc<EpochChanges>),
    /// It is not known any more: only what came after this epoch is.
    Forgotten(u64),
    /// It has not come yet: the table is as of this epoch.
    Ahead(u64),
}

impl Shared {
    /// Applies what an epoch changed.
    pub(crate) fn apply(&self, epoch: u64, net: Net) {
        let told = net.by_key().into_iter().map(|at| at as u32).collect();
        let changes = EpochChanges { epoch, net, told };
        let net = &changes.net;
        let mut state = self.lock();
        if net.len() <= CHANGED_IN_PLACE_MAX {
            state.tree.apply(net);
        } else {
            // Readers go on with what is there until all of it is changed.
            let mut tree = state.tree.clone();
            drop(state);
            tree.apply(net);
            state = self.lock();
            state.tree = tree;
        }
        state.epoch = state.epoch.max(epoch);
        if state.whole && !net.is_empty() {
            state.remember(changes);
        }
    }

    /// Puts back rows of a checkpoint. Returns whether none of them was there already.
    pub(super) fn restore(&self, epoch: u64, net: Net) -> bool {
        let mut state = self.lock();
        let (before, net) = (state.tree.len() + net.len(), net.consolidate());
        state.tree.apply(&net);
        state.epoch = epoch;
        state.tree.len() == before
    }

    /// Everything of earlier lives is there, up to this epoch: from now on it may be read. Followers
    /// can go on from here.
    pub(crate) fn open(&self, epoch: u64) {
        let mut state = self.lock();
        if !state.whole {
            state.whole = true;
            state.epoch = state.epoch.max(epoch);
            state.since = state.epoch;
        }
    }

    /// Returns the table as of now; nothing as long as it is not whole.
    pub(crate) fn view(&self) -> Option<View> {
        let state = self.lock();
        state.whole.then(|| View { tree: state.tree.clone(), epoch: state.epoch })
    }

    /// Returns the table as of now, whole or not.
    pub(super) fn any_view(&self) -> View {
        let state = self.lock();
        View { tree: state.tree.clone(), epoch: state.epoch }
    }

    /// Returns what there is after this epoch.
    pub(crate) fn next(&self, seen: u64) -> Next {
        let state = self.lock();
        if seen < state.since {
            return Next::Forgotten(state.since);
        }
        if seen > state.epoch {
            return Next::Ahead(state.epoch);
        }
        let at = state.history.partition_point(|changes| changes.epoch <= seen);
        match state.history.get(at) {
            Some(changes) => Next::Changes(Arc::clone(changes)),
            None if seen < state.epoch => Next::Quiet(state.epoch),
            None => Next::Nothing,
        }
    }

    /// Returns how many bytes of memory the kept changes take.
    pub(crate) fn history_weight(&self) -> usize {
        self.lock().history_weight
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic anywhere ends the process.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn remember(&mut self, changes: EpochChanges) {
        self.history_weight += changes.weight();
        self.history.push_back(Arc::new(changes));
        while self.history_weight > HISTORY_BYTES_MAX || self.history.len() > HISTORY_EPOCHS_MAX {
            let Some(oldest) = self.history.pop_front() else { return };
            self.history_weight -= oldest.weight();
            self.since = oldest.epoch;
        }
    }
}

impl EpochChanges {
    fn weight(&self) -> usize {
        self.net.weight() + self.told.capacity() * size_of::<u32>() + size_of::<Self>()
    }
}

impl View {
    /// Returns the number of different rows.
    pub(crate) fn len(&self) -> usize {
        self.tree.len()
    }

    /// Returns about how many bytes of memory the rows take.
    pub(crate) fn weight(&self) -> usize {
        self.tree.weight()
    }

    /// Returns the rows from a place on, in order, each with how often it is there.
    pub(crate) fn range(&self, from: std::ops::Bound<&[u8]>) -> impl Iterator<Item = (&[u8], i64)> {
        self.tree.range(from)
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Bound;

    use super::*;

    fn net(rows: &[(&str, i64)]) -> Net {
        let mut net = Net::default();
        rows.iter().for_each(|(row, diff)| net.push(row.as_bytes(), *diff));
        net.consolidate()
    }

    fn rows(view: &View) -> Vec<String> {
        let text = |(row, _): (&[u8], i64)| String::from_utf8_lossy(row).into_owned();
        view.range(Bound::Unbounded).map(text).collect()
    }

    #[test]
    fn a_view_stays_as_it_was() {
        let shared = Shared::default();
        assert!(shared.view().is_none(), "it is not whole");
        shared.open(0);
        shared.apply(1, net(&[("a", 1), ("b", 1)]));
        let view = shared.view().unwrap();
        shared.apply(2, net(&[("a", -1), ("c", 1)]));
        assert_eq!((view.epoch, rows(&view)), (1, vec!["a".into(), "b".into()]));
        let view = shared.view().unwrap();
        assert_eq!((view.epoch, rows(&view)), (2, vec!["b".into(), "c".into()]));
    }

    #[test]
    fn a_big_change_is_seen_whole_or_not_at_all() {
        let shared = Arc::new(Shared::default());
        shared.open(0);
        let all: Vec<String> = (0..20_000).map(|number| format!("{number:06}")).collect();
        let writer = {
            let (shared, all) = (Arc::clone(&shared), all.clone());
            std::thread::spawn(move || {
                for epoch in 1..=6_u64 {
                    let diff = if epoch % 2 == 1 { 1 } else { -1 };
                    let rows: Vec<(&str, i64)> = all.iter().map(|row| (&**row, diff)).collect();
                    shared.apply(epoch, net(&rows));
                }
            })
        };
        while !writer.is_finished() {
            let view = shared.view().unwrap();
            let expected = if view.epoch % 2 == 1 { all.len() } else { 0 };
            assert_eq!(view.range(Bound::Unbounded).count(), expected, "epoch {}", view.epoch);
        }
        writer.join().unwrap();
    }

    #[test]
    fn the_history_goes_on_from_any_epoch_it_knows() {
        let shared = Shared::default();
        shared.apply(5, net(&[("a", 1)]));
        shared.open(7);
        assert!(matches!(shared.next(6), Next::Forgotten(7)));
        assert!(matches!(shared.next(7), Next::Nothing));
        assert!(matches!(shared.next(8), Next::Ahead(7)));
        shared.apply(8, net(&[("b", 1)]));
        shared.apply(9, Net::default());
        shared.apply(10, net(&[("c", 1)]));
        shared.apply(11, Net::default());
        let epoch = |seen| match shared.next(seen) {
            Next::Changes(changes) => changes.epoch,
            other => panic!("{other:?}"),
        };
        assert_eq!([epoch(7), epoch(8), epoch(9)], [8, 10, 10]);
        assert!(matches!(shared.next(10), Next::Quiet(11)));
        assert!(matches!(shared.next(11), Next::Nothing));
    }

    #[test]
    fn the_history_is_bounded() {
        let shared = Shared::default();
        shared.open(0);
        let text = "x".repeat(1 << 20);
        for epoch in 1..=100 {
            shared.apply(epoch, net(&[(&format!("{epoch}{text}"), 1)]));
            assert!(shared.history_weight() <= HISTORY_BYTES_MAX);
        }
        let Next::Forgotten(since) = shared.next(1) else { panic!("it is long gone") };
        assert!((60..100).contains(&since), "{since}");
        assert!(matches!(shared.next(since), Next::Changes(_)));
        // One that is larger than all of it is not kept, and nothing before it.
        let text = "y".repeat(HISTORY_BYTES_MAX);
        shared.apply(101, net(&[(&text, 1)]));
        assert!(matches!(shared.next(100), Next::Forgotten(101)));
        assert_eq!(shared.history_weight(), 0);
    }
}
