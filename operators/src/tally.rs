//! Tally: what each node of a dataflow did with the records of each file, on one worker. Derived;
//! the numbers of a receipt. Rows that are taken back count nowhere.
//!
//! Written by the operators of one worker, a few additions per batch and no lock; taken out, epoch by
//! epoch, once nothing of an epoch can come any more. The counters for life are in [`crate::meter`].

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use serde::{Deserialize, Serialize};

use crate::meter::Meter;
use crate::time::{Time, Turns};

/// What one node did with the records of one epoch. A record is a row that is there (difference +1);
/// rows that are taken back count nowhere.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Taken in.
    pub taken: u64,
    /// Given out, by tag. One that leaves by two tags counts in both.
    pub given: Vec<u64>,
    /// How often a record left once more than once.
    pub copies: u64,
    /// Left out on purpose: a condition was not true, no rule took it, nothing reads its tag.
    pub filtered: u64,
    /// Rejected, each with a reason.
    pub rejected: u64,
    /// Added to the state of an aggregate.
    pub merged: u64,
    /// Troubles told of what is no record of the file: a sum that fits no int.
    pub reported: u64,
}

impl Counts {
    /// Adds what another worker counted for the same node.
    pub fn add(&mut self, other: &Counts) {
        self.taken += other.taken;
        if self.given.len() < other.given.len() {
            self.given.resize(other.given.len(), 0);
        }
        self.given.iter_mut().zip(&other.given).for_each(|(one, two)| *one += two);
        self.copies += other.copies;
        self.filtered += other.filtered;
        self.rejected += other.rejected;
        self.merged += other.merged;
        self.reported += other.reported;
    }
}

/// What the nodes of one worker did with the records of one epoch: number of the node, counts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpochCounts {
    /// The epoch.
    pub epoch: u64,
    /// The nodes that did something.
    pub nodes: Vec<(usize, Counts)>,
}

type Open = Rc<RefCell<BTreeMap<u64, BTreeMap<usize, Counts>>>>;

/// The counts of all nodes of a dataflow on one worker. All clones are the same counts.
#[derive(Clone, Debug, Default)]
pub struct Tallies {
    open: Open,
}

impl Tallies {
    /// Returns where one node counts; `meter` counts the same for life.
    pub fn node(&self, node: usize, meter: Meter) -> Tally {
        Tally { meter, node, turns: None, open: Rc::clone(&self.open) }
    }

    /// Takes out the counts of every epoch that the frontier has passed; `None` means all.
    pub fn take_before(&self, frontier: Option<Time>) -> Vec<EpochCounts> {
        let mut open = self.open.borrow_mut();
        let mut taken = Vec::new();
        while let Some(entry) = open.first_entry() {
            let epoch = *entry.key();
            if frontier.is_some_and(|frontier| frontier <= Time::end(epoch)) {
                break;
            }
            taken.push(EpochCounts { epoch, nodes: entry.remove().into_iter().collect() });
        }
        taken
    }
}

/// Where one node on one worker counts.
#[derive(Clone, Debug)]
pub struct Tally {
    meter: Meter,
    node: usize,
    turns: Option<Turns>,
    open: Open,
}

impl Tally {
    /// Returns a tally that nobody reads.
    pub fn alone(meter: Meter) -> Self {
        Tallies::default().node(0, meter)
    }

    /// Returns the same for a node inside of a loop.
    pub fn inside(self, turns: Option<Turns>) -> Self {
        Self { turns, ..self }
    }

    /// Returns how often what flows at a time went round in the innermost loop around the node.
    pub fn round(&self, time: &Time) -> u32 {
        self.turns.map_or(0, |turns| u32::try_from(turns.of(time)).unwrap_or(u32::MAX))
    }

    /// Returns the counters for life.
    pub fn meter(&self) -> &Meter {
        &self.meter
    }

    /// Counts records and bytes taken in.
    pub fn took(&self, epoch: u64, records: usize, bytes: usize) {
        self.meter.took(records, bytes);
        self.with(epoch, records, |counts| &mut counts.taken);
    }

    /// Counts records and bytes given out by a tag.
    pub fn gave(&self, epoch: u64, tag: usize, records: usize, bytes: usize) {
        self.meter.gave(tag, records, bytes);
        self.with(epoch, records, |counts| {
            if counts.given.len() <= tag {
                counts.given.resize(tag + 1, 0);
            }
            &mut counts.given[tag]
        });
    }

    /// Counts rejected records.
    pub fn rejected(&self, epoch: u64, records: usize) {
        self.meter.rejected(records);
        self.with(epoch, records, |counts| &mut counts.rejected);
    }

    /// Counts how often a record left once more than once.
    pub fn copied(&self, epoch: u64, times: usize) {
        self.with(epoch, times, |counts| &mut counts.copies);
    }

    /// Counts records left out on purpose.
    pub fn filtered(&self, epoch: u64, records: usize) {
        self.with(epoch, records, |counts| &mut counts.filtered);
    }

    /// Counts records added to the state of an aggregate.
    pub fn merged(&self, epoch: u64, records: usize) {
        self.with(epoch, records, |counts| &mut counts.merged);
    }

    /// Counts troubles told of what is no record of the file.
    pub fn reported(&self, epoch: u64, troubles: usize) {
        self.meter.rejected(troubles);
        self.with(epoch, troubles, |counts| &mut counts.reported);
    }

    fn with(&self, epoch: u64, count: usize, which: impl FnOnce(&mut Counts) -> &mut u64) {
        if count > 0 {
            let mut open = self.open.borrow_mut();
            let counts = open.entry(epoch).or_default().entry(self.node).or_default();
            *which(counts) += count as u64;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_is_taken_out_once_its_frontier_has_passed() {
        let tallies = Tallies::default();
        let (one, two) = (tallies.node(0, Meter::new(2)), tallies.node(3, Meter::new(1)));
        one.took(7, 5, 100);
        one.gave(7, 1, 4, 80);
        one.rejected(7, 1);
        two.took(8, 2, 0);
        two.filtered(8, 0);
        let nothing: Vec<EpochCounts> = Vec::new();
        assert_eq!(tallies.take_before(Some(Time::end(7))), nothing);
        let counts = Counts { taken: 5, given: vec![0, 4], rejected: 1, ..Counts::default() };
        let seven = EpochCounts { epoch: 7, nodes: vec![(0, counts)] };
        assert_eq!(tallies.take_before(Some(Time::new(8, 0))), [seven]);
        let counts = Counts { taken: 2, ..Counts::default() };
        assert_eq!(tallies.take_before(None), [EpochCounts { epoch: 8, nodes: vec![(3, counts)] }]);
        assert_eq!(tallies.take_before(None), nothing);
        assert_eq!(one.meter().read().records_in, 5);
    }

    #[test]
    fn the_counts_of_workers_add_up() {
        let mut one = Counts { taken: 1, given: vec![1], filtered: 2, ..Counts::default() };
        one.add(&Counts { taken: 4, given: vec![1, 3], merged: 5, ..Counts::default() });
        let both =
            Counts { taken: 5, given: vec![2, 3], filtered: 2, merged: 5, ..Counts::default() };
        assert_eq!(one, both);
    }
}
