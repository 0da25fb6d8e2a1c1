//! Turns: which file may begin when. Usually each at once; after crashes the suspects run alone.
//!
//! Derived state of the ledger's thread: a queue of files that were accepted and not given to the
//! dataflow. A pure decision; it neither asks nor writes.

use std::collections::{BTreeSet, VecDeque};

use crate::ingest::order::FileOrder;

/// The files that wait for their turn. Without suspects none ever does.
#[derive(Debug, Default)]
pub struct Turns {
    suspects: BTreeSet<u64>,
    held: VecDeque<(usize, FileOrder)>,
    alone: Option<u64>,
}

/// Who is next.
#[derive(Debug)]
pub enum Turn {
    /// This file of this pipeline.
    Begin(usize, FileOrder),
    /// This file of this pipeline, and nothing beside it: that is written down first.
    Alone(usize, FileOrder),
}

impl Turns {
    /// Returns turns in which these submissions run alone.
    pub fn new(suspects: BTreeSet<u64>) -> Self {
        Self { suspects, ..Self::default() }
    }

    /// Returns whether no file ever has to wait.
    pub fn is_free(&self) -> bool {
        self.suspects.is_empty() && self.held.is_empty() && self.alone.is_none()
    }

    /// Returns whether files wait.
    pub fn is_waiting(&self) -> bool {
        !self.held.is_empty()
    }

    /// Returns how many files wait.
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// Puts a file at the end of the queue.
    pub fn push(&mut self, pipeline: usize, order: FileOrder) {
        self.held.push_back((pipeline, order));
    }

    /// Returns who is next, or nobody for now. `idle`: no file that was begun is unfinished.
    pub fn next(&mut self, idle: bool) -> Option<Turn> {
        if let Some(alone) = self.alone {
            if !idle {
                return None;
            }
            self.suspects.remove(&alone);
            self.alone = None;
        }
        let (_, order) = self.held.front()?;
        let suspect = !order.replay && self.suspects.contains(&order.submission);
        if suspect && !idle {
            return None;
        }
        let (pipeline, order) = self.held.pop_front()?;
        if !suspect {
            return Some(Turn::Begin(pipeline, order));
        }
        self.alone = Some(order.submission);
        Some(Turn::Alone(pipeline, order))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingest::inflate::Compression;
    use tidemill_store::Identity;

    fn order(submission: u64) -> FileOrder {
        FileOrder {
            epoch: submission,
            submission,
            rows_of: submission,
            source: 0,
            path: "a".into(),
            or_at: Vec::new(),
            identity: Identity { device: 0, inode: 0, bytes: 0, modified_ns: 0 },
            compression: Compression::None,
            name: "a".into(),
            output_name: "a".into(),
            replay: false,
            hash: None,
            old: None,
            removes: false,
            refused: None,
        }
    }

    /// Each turn as `3` or, alone, `-3`; 0 for nobody.
    fn next(turns: &mut Turns, idle: bool) -> i64 {
        match turns.next(idle) {
            None => 0,
            Some(Turn::Begin(_, order)) => order.submission as i64,
            Some(Turn::Alone(_, order)) => -(order.submission as i64),
        }
    }

    #[test]
    fn without_suspects_nobody_waits() {
        let mut turns = Turns::default();
        assert!(turns.is_free());
        (1..=2).for_each(|id| turns.push(0, order(id)));
        assert_eq!([1, 2, 3].map(|_| next(&mut turns, false)), [1, 2, 0]);
    }

    #[test]
    fn a_suspect_begins_when_all_before_it_are_through_and_nobody_begins_beside_it() {
        let mut turns = Turns::new(BTreeSet::from([2, 3]));
        (1..=4).for_each(|id| turns.push(0, order(id)));
        assert_eq!(next(&mut turns, true), 1);
        assert_eq!(next(&mut turns, false), 0);
        assert_eq!(next(&mut turns, true), -2);
        assert_eq!(next(&mut turns, false), 0);
        assert_eq!(next(&mut turns, true), -3);
        assert_eq!(next(&mut turns, false), 0);
        assert!(!turns.is_free());
        assert_eq!(next(&mut turns, true), 4);
        assert!(turns.is_free());
    }
}
