//! Digest: the hash of each file, put together on worker 0 from what its readers hashed on the way.
//!
//! | input  | announcements of files and notes of the readers, all sent to worker 0           |
//! | output | a note per file at `(epoch, END)`: its hash, or that its bytes are not the accepted ones |
//! | state  | of each open file one value per level of the tree, and what came ahead of its turn |
//! | errors | none; a file that failed for another reason is passed over, one that is refused fails here |
//!
//! No byte is read for it: a reader hashes its piece while the piece is in the cache, so what is
//! known of a file is the hash of the bytes that were processed. BLAKE3 is a tree over chunks of 1
//! KiB. A piece is a whole subtree of it, because its length is a power of two and it begins at a
//! multiple of that; only the last piece may be shorter.

use std::collections::BTreeMap;

use blake3::Hasher;
use blake3::hazmat::{
    ChainingValue, HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root,
};
use serde::{Deserialize, Serialize};
use tidemill_operators::Time;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::{Scope, StreamVec};
use timely::progress::operate::FrontierInterest;

use crate::code::FileCode;
use crate::ingest::coordinator::PIECE_BYTES;
use crate::ingest::order::{Opening, ReadEvent, ReadNote};
use crate::ingest::reader::old_version_lost;
use crate::sink::parts::least;

const _: () = assert!(PIECE_BYTES.is_power_of_two() && PIECE_BYTES as usize >= blake3::CHUNK_LEN);

/// What a reader knows of a file's hash when it has read a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ChunkHash {
    /// Nothing yet: the stream goes on.
    Later,
    /// The value of the piece as a subtree.
    Piece([u8; 32]),
    /// The hash of the whole file.
    Whole([u8; 32]),
}

/// Hashes the piece that begins at `start` in a file of `size` bytes.
pub fn hash_piece(piece: &[u8], start: u64, size: u64) -> ChunkHash {
    if start == 0 && piece.len() as u64 == size {
        return ChunkHash::Whole(blake3::hash(piece).into());
    }
    ChunkHash::Piece(Hasher::new().set_input_offset(start).update(piece).finalize_non_root())
}

/// Builds the operator. Its notes belong to those of the readers.
pub fn digest<'scope>(
    scope: Scope<'scope, Time>,
    title: &str,
    openings: StreamVec<'scope, Time, Opening>,
    notes: StreamVec<'scope, Time, ReadNote>,
) -> StreamVec<'scope, Time, ReadNote> {
    let mut builder = OperatorBuilder::new(title.to_owned(), scope);
    let mut opening_input = builder.new_input(openings, Exchange::new(|_: &Opening| 0));
    let mut note_input = builder.new_input(notes, Exchange::new(|_: &ReadNote| 0));
    let (output, verdicts) = builder.new_output::<Vec<ReadNote>>();
    let mut output = OutputBuilder::<Time, CapacityContainerBuilder<Vec<ReadNote>>>::from(output);
    for port in 0..2 {
        builder.set_notify_for(port, FrontierInterest::Always);
    }
    let mut open: BTreeMap<u64, Open> = BTreeMap::new();
    builder.build(move |capabilities| {
        drop(capabilities);
        move |frontiers| {
            opening_input.for_each_stamp(|capability, openings| {
                for opening in openings.flat_map(|openings| openings.drain(..)) {
                    let end = capability.delayed(&Time::end(opening.epoch), 0);
                    let epoch = opening.epoch;
                    open.entry(epoch).or_default().announced = Some((end, opening));
                }
            });
            note_input.for_each(|_, notes| {
                for note in notes.drain(..) {
                    open.entry(note.epoch).or_default().note(note.event);
                }
            });
            let upto = least(frontiers);
            while let Some(entry) = open.first_entry() {
                if upto.is_some_and(|frontier| frontier <= Time::end(*entry.key())) {
                    break;
                }
                let mut said = entry.remove();
                let (capability, opening) =
                    said.announced.take().expect("every epoch is announced before it is complete");
                if let Some(event) = said.verdict(&opening) {
                    let Opening { epoch, submission, .. } = opening;
                    let note = ReadNote { epoch, submission, event };
                    output.activate().session(&capability).give(note);
                }
            }
        }
    });
    verdicts
}

/// What is known of the hash of a file that is being read.
#[derive(Default)]
struct Open {
    announced: Option<(Capability<Time>, Opening)>,
    own: Parts,
    /// Of the version that is taken back.
    old: Parts,
    failed: bool,
}

/// The hash of one version, as far as it is known.
#[derive(Default)]
struct Parts {
    tree: Tree,
    whole: Option<[u8; 32]>,
}

impl Parts {
    fn note(&mut self, chunk: u64, hash: ChunkHash) {
        match hash {
            ChunkHash::Piece(value) => self.tree.add(chunk, value),
            ChunkHash::Whole(hash) => self.whole = Some(hash),
            ChunkHash::Later => {}
        }
    }

    /// Returns the hash of a version of so many bytes, all of which were read.
    fn hash(self, bytes: u64) -> [u8; 32] {
        match self.whole {
            Some(hash) => hash,
            None if bytes == 0 => blake3::hash(b"").into(),
            None => self.tree.root(bytes.div_ceil(PIECE_BYTES)),
        }
    }
}

impl Open {
    fn note(&mut self, event: ReadEvent) {
        match event {
            ReadEvent::Chunk { chunk, hash, .. } => self.own.note(chunk, hash),
            ReadEvent::TakenBack { chunk, hash, .. } => self.old.note(chunk, hash),
            ReadEvent::Failed { .. } | ReadEvent::FailedForNow { .. } => self.failed = true,
            ReadEvent::Hashed { .. } | ReadEvent::Framed(_) | ReadEvent::Summed { .. } => {}
        }
    }

    /// Says what follows from all notes of a file.
    fn verdict(self, opening: &Opening) -> Option<ReadEvent> {
        if self.failed {
            return None;
        }
        if let Some((code, detail)) = opening.refused.as_deref() {
            return Some(ReadEvent::Failed { code: code.clone(), detail: detail.clone() });
        }
        if let Some(old) = &opening.old {
            let hash = self.old.hash(old.bytes);
            if old.hash.is_some_and(|committed| committed != hash) {
                let why = "its bytes are not those that were committed";
                return Some(old_version_lost(old.submission, why));
            }
        }
        let hash = self.own.hash(opening.bytes);
        Some(match opening.hash {
            Some(accepted) if accepted != hash => ReadEvent::Failed {
                code: FileCode::Changed.word().to_owned(),
                detail: format!(
                    "its bytes are not those that were accepted: their BLAKE3 is {}, that of the \
                     accepted ones {}",
                    blake3::Hash::from_bytes(hash),
                    blake3::Hash::from_bytes(accepted)
                ),
            },
            _ => ReadEvent::Hashed { hash },
        })
    }
}

/// The subtrees of a file, merged as far as they are known from its beginning on.
#[derive(Default)]
struct Tree {
    /// Complete subtrees from left to right, the largest first: one for each bit of `merged`.
    left: Vec<ChainingValue>,
    /// How many pieces are in `left`.
    merged: u64,
    /// Pieces whose turn has not come.
    ahead: BTreeMap<u64, ChainingValue>,
}

impl Tree {
    fn add(&mut self, piece: u64, value: ChainingValue) {
        self.ahead.insert(piece, value);
        while let Some(next) = self.ahead.remove(&self.merged) {
            // Two subtrees of one size become one only when something comes behind them: the last
            // merge of all makes the root, and is another one.
            while self.left.len() > self.merged.count_ones() as usize {
                self.merge_last(merge_subtrees_non_root);
            }
            self.left.push(next);
            self.merged += 1;
        }
    }

    /// Returns the hash of a file of so many pieces, at least two.
    fn root(mut self, pieces: u64) -> [u8; 32] {
        assert!(
            self.merged == pieces && pieces > 1,
            "a file that did not fail was read whole: {} of {pieces} pieces",
            self.merged
        );
        while self.left.len() > 2 {
            self.merge_last(merge_subtrees_non_root);
        }
        match self.left[..] {
            [left, right] => merge_subtrees_root(&left, &right, Mode::Hash).into(),
            _ => unreachable!("two pieces and more have a left and a right subtree"),
        }
    }

    fn merge_last(&mut self, merge: fn(&[u8; 32], &[u8; 32], Mode<'_>) -> ChainingValue) {
        if let (Some(right), Some(left)) = (self.left.pop(), self.left.pop()) {
            self.left.push(merge(&left, &right, Mode::Hash));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Hashes bytes piece by piece, the pieces coming in this order.
    fn in_pieces(bytes: &[u8], order: impl Fn(usize) -> Vec<usize>) -> [u8; 32] {
        let pieces: Vec<&[u8]> = bytes.chunks(PIECE_BYTES as usize).collect();
        let mut tree = Tree::default();
        for at in order(pieces.len()) {
            let start = at as u64 * PIECE_BYTES;
            match hash_piece(pieces[at], start, bytes.len() as u64) {
                ChunkHash::Piece(value) => tree.add(at as u64, value),
                ChunkHash::Whole(hash) => return hash,
                ChunkHash::Later => panic!("a piece has a hash"),
            }
        }
        tree.root(pieces.len() as u64)
    }

    #[test]
    fn oracle_the_pieces_of_a_file_in_any_order_make_the_hash_of_the_file() {
        let piece = PIECE_BYTES as usize;
        let all: Vec<u8> = (0..9 * piece + 1).map(|n| (n * 31 % 253) as u8).collect();
        let sizes = (1..=9).flat_map(|n| [n * piece - 1, n * piece, n * piece + 1]);
        for size in sizes.chain([1, 1023, 1024, 1025, 3 * piece + 1024]) {
            let bytes = &all[..size];
            let expected: [u8; 32] = blake3::hash(bytes).into();
            let forward = in_pieces(bytes, |count| (0..count).collect());
            let backward = in_pieces(bytes, |count| (0..count).rev().collect());
            let mixed = in_pieces(bytes, |count| {
                (0..count).filter(|n| n % 2 == 1).chain((0..count).filter(|n| n % 2 == 0)).collect()
            });
            assert_eq!([forward, backward, mixed], [expected; 3], "{size} bytes");
        }
    }

    #[test]
    fn a_file_fails_if_its_hash_is_not_the_one_that_is_known() {
        #[track_caller]
        fn check(known: Option<&[u8]>, events: Vec<ReadEvent>, expected: &str) {
            let opening = Opening {
                epoch: 1,
                submission: 1,
                source: 0,
                bytes: 3,
                hash: known.map(|bytes| blake3::hash(bytes).into()),
                name: "a".into(),
                output_name: "a".into(),
                replay: false,
                old: None,
                removes: false,
                refused: None,
            };
            let mut open = Open::default();
            events.into_iter().for_each(|event| open.note(event));
            let said = match open.verdict(&opening) {
                None => "nothing".to_owned(),
                Some(ReadEvent::Hashed { hash }) if hash == *blake3::hash(b"abc").as_bytes() => {
                    "hashed".to_owned()
                }
                Some(ReadEvent::Failed { code, .. }) => code,
                other => format!("{other:?}"),
            };
            assert_eq!(said, expected);
        }
        let read = |bytes: &[u8]| {
            let hash = ChunkHash::Whole(blake3::hash(bytes).into());
            let (chunk, skipped_lines, lines, records, rejected, bytes) = (0, 0, 1, 1, 0, 3);
            ReadEvent::Chunk { chunk, skipped_lines, lines, records, rejected, bytes, hash }
        };
        let failed = ReadEvent::Failed { code: "unreadable".into(), detail: "no".into() };
        check(None, vec![read(b"abc")], "hashed");
        check(Some(b"abc"), vec![read(b"abc")], "hashed");
        check(Some(b"abd"), vec![read(b"abc")], "changed");
        check(Some(b"abc"), vec![failed], "nothing");
    }

    #[test]
    fn a_tree_keeps_only_a_value_per_level() {
        let mut tree = Tree::default();
        for piece in 0..1_000_000 {
            tree.add(piece, [0; 32]);
            assert!(tree.left.len() <= 21 && tree.ahead.is_empty());
        }
    }

    #[test]
    #[should_panic(expected = "2 of 3 pieces")]
    fn a_file_of_which_a_piece_is_missing_has_no_hash() {
        let mut tree = Tree::default();
        tree.add(0, [0; 32]);
        tree.add(1, [0; 32]);
        tree.root(3);
    }
}
