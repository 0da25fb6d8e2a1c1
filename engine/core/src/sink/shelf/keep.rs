//! Keep: the state of a sink on its way into a checkpoint, while it goes on changing. Derived.
//!
//! A mark asks for the state as of the end of an epoch. At that moment the files of the shards that
//! changed are noted (a counted pointer each); they are encoded later, some at a time, so that nobody
//! waits for a checkpoint.

use std::collections::VecDeque;
use std::rc::Rc;

use tidemill_operators::Time;
use tidemill_operators::shards::{Blocks, Mark, ShardSet, ShardSink};
use timely::dataflow::operators::Capability;

use crate::sink::shelf::state::{File, State, encode_piece, shard_of_submission};

/// Pieces of files that are encoded before other operators get their turn.
const PIECES_PER_TURN: usize = 64;

/// The checkpoints of one sink on one worker.
pub(super) struct Keeping<S> {
    sink: S,
    /// The shards that live on this worker.
    mine: ShardSet,
    /// Marks whose moment has not come.
    asked: VecDeque<(Capability<Time>, Mark)>,
    /// What is to be written, in the order of marks.
    walks: VecDeque<Walk>,
    /// Whether the first of them was begun.
    begun: bool,
    /// Marks whose rows were handed over, and which are not durable yet.
    ended: VecDeque<Capability<Time>>,
}

struct Walk {
    capability: Capability<Time>,
    mark: Mark,
    shards: ShardSet,
    files: std::vec::IntoIter<(u64, Rc<File>)>,
    /// The file under way, and where its next piece begins.
    open: Option<(u64, Rc<File>, usize)>,
    blocks: Blocks,
}

impl<S: ShardSink> Keeping<S> {
    /// Returns what writes down these shards.
    pub(super) fn new(sink: S, mine: ShardSet) -> Self {
        let (asked, walks, ended) = (VecDeque::new(), VecDeque::new(), VecDeque::new());
        Self { sink, mine, asked, walks, begun: false, ended }
    }

    /// Takes a mark, with the right to speak of it. Marks come in order.
    pub(super) fn ask(&mut self, capability: Capability<Time>, mark: Mark) {
        self.asked.push_back((capability, mark));
    }

    /// Notes the state for the marks that ask for an epoch below this one; `None` means all. The state
    /// must be as of the end of the epoch before.
    pub(super) fn note_before(&mut self, epoch: Option<u64>, state: &mut State) {
        while let Some((_, mark)) = self.asked.front() {
            if epoch.is_some_and(|epoch| mark.epoch >= epoch) {
                return;
            }
            let Some((capability, mark)) = self.asked.pop_front() else { return };
            let (shards, files) = state.take_changed(mark.full.then_some(self.mine));
            let (files, blocks) = (files.into_iter(), Blocks::default());
            self.walks.push_back(Walk { capability, mark, shards, files, open: None, blocks });
        }
    }

    /// Writes some of what was noted; returns whether there is more to do now.
    pub(super) fn work(&mut self) -> bool {
        let Some(walk) = self.walks.front_mut() else { return false };
        if !self.begun {
            self.sink.begin(walk.mark, &walk.shards);
            self.begun = true;
        }
        if !self.sink.has_room() {
            return false; // the sink wakes us
        }
        if walk.advance(&mut self.sink) {
            return true;
        }
        if let Some(mut walk) = self.walks.pop_front() {
            walk.blocks.flush(&mut self.sink);
            self.sink.end();
            self.ended.push_back(walk.capability);
            self.begun = false;
        }
        !self.walks.is_empty()
    }

    /// Returns what is to be said of a mark whose rows are durable.
    pub(super) fn written(&mut self) -> Option<(Capability<Time>, S::Part)> {
        if self.ended.is_empty() {
            return None;
        }
        let part = self.sink.written()?;
        Some((self.ended.pop_front()?, part))
    }
}

impl Walk {
    /// Goes on; returns whether anything is left.
    fn advance<S: ShardSink>(&mut self, sink: &mut S) -> bool {
        for _ in 0..PIECES_PER_TURN {
            let next = || self.files.next().map(|(submission, file)| (submission, file, 0));
            let Some((submission, file, from)) = self.open.take().or_else(next) else {
                return false;
            };
            let mut following = None;
            self.blocks.add(sink, shard_of_submission(submission), |out| {
                following = encode_piece(submission, &file, from, out);
            });
            self.open = following.map(|from| (submission, file, from));
        }
        true
    }
}
