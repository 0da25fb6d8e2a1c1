//! Packed: how the rows of a key lie in memory: the bytes of many rows in one piece, no allocation
//! for any of them.
//!
//! Owns the container and the types of the arrangement built of it. A value costs its bytes and 8
//! more (two offsets); a key likewise; times and differences are stored once for all neighbours that
//! share them, which after compaction is nearly all.

use std::rc::Rc;

use differential_dataflow::batcher::merge::chunker::ContainerChunker;
use differential_dataflow::batcher::merge::vec::VecMerger;
use differential_dataflow::batcher::merge::{MergeBatcher, Sealer};
use differential_dataflow::operators::arrange::TraceAgent;
use differential_dataflow::trace::cursor::CursorList;
use differential_dataflow::trace::implementations::ord_neu::{OrdValBatch, OrdValBuilder};
use differential_dataflow::trace::implementations::spine_fueled::{Spine, SpineBatch};
use differential_dataflow::trace::implementations::{BatchContainer, Layout, OffsetList};
use differential_dataflow::trace::{BatchCursor, Builder, TraceReader};
use timely::container::PushInto;

use super::Update;
use crate::key::Key;
use crate::time::Time;

/// Rows of bytes, one behind the other.
pub struct Rows {
    bytes: Vec<u8>,
    /// Where each row ends.
    ends: OffsetList,
}

impl Rows {
    pub(crate) fn with_room(rows: usize, bytes: usize) -> Self {
        Self { bytes: Vec::with_capacity(bytes), ends: OffsetList::with_capacity(rows) }
    }

    fn start(&self, index: usize) -> usize {
        index.checked_sub(1).map_or(0, |before| self.ends.index(before))
    }

    /// Returns the bytes that are held, offsets included.
    pub(crate) fn size(&self) -> usize {
        self.bytes.len() + offsets(&self.ends)
    }
}

/// Returns the bytes that offsets take.
pub(crate) fn offsets(list: &OffsetList) -> usize {
    4 * list.smol.len() + 8 * list.chonk.len()
}

impl PushInto<Key> for Rows {
    fn push_into(&mut self, row: Key) {
        self.push_ref(row.bytes());
    }
}

impl BatchContainer for Rows {
    type Owned = Key;
    type ReadItem<'a> = &'a [u8];

    fn into_owned(row: &[u8]) -> Key {
        Key::new(row)
    }

    fn push_ref(&mut self, row: &[u8]) {
        self.bytes.extend_from_slice(row);
        self.ends.push(self.bytes.len());
    }

    fn push_own(&mut self, row: &Key) {
        self.push_ref(row.bytes());
    }

    fn clear(&mut self) {
        self.bytes.clear();
        BatchContainer::clear(&mut self.ends);
    }

    fn with_capacity(rows: usize) -> Self {
        Self::with_room(rows, 0)
    }

    fn merge_capacity(one: &Self, two: &Self) -> Self {
        Self::with_room(one.len() + two.len(), one.bytes.len() + two.bytes.len())
    }

    fn reborrow<'b, 'a: 'b>(row: &'a [u8]) -> &'b [u8] {
        row
    }

    fn index(&self, index: usize) -> &[u8] {
        &self.bytes[self.start(index)..self.ends.index(index)]
    }

    fn len(&self) -> usize {
        self.ends.len()
    }

    /// Looks at the next rows first: who walks many keys seldom goes far.
    fn advance<F: for<'a> Fn(&'a [u8]) -> bool>(
        &self,
        start: usize,
        end: usize,
        is_below: F,
    ) -> usize {
        let is_below = |at: usize| start + at < end && is_below(self.index(start + at));
        if !is_below(0) {
            return 0;
        }
        let (mut last, mut step) = (0, 1);
        while is_below(last + step) {
            last += step;
            step *= 2;
        }
        while step > 1 {
            step /= 2;
            if is_below(last + step) {
                last += step;
            }
        }
        last + 1
    }
}

/// The layout of an arrangement of rows by key.
pub struct Packed;

impl Layout for Packed {
    type KeyContainer = Rows;
    type ValContainer = Rows;
    type TimeContainer = Vec<Time>;
    type DiffContainer = Vec<i64>;
    type OffsetContainer = OffsetList;
}

/// One immutable piece of an arrangement.
pub type Piece = Rc<OrdValBatch<Packed>>;

/// The arrangement of rows by key.
pub type PackedSpine = Spine<Piece>;

/// A reader of the arrangement.
pub type Trace = TraceAgent<PackedSpine>;

/// A cursor over several pieces.
pub type TraceCursor = CursorList<BatchCursor<Trace>>;

/// What sorts updates until their epoch is complete.
pub(super) type PackedBatcher =
    MergeBatcher<ContainerChunker<Vec<Update>>, VecMerger<(Key, Key), Time, i64>, PackedBuilder>;

/// Builds a piece in exactly the memory it needs.
pub(crate) struct PackedBuilder;

impl Sealer<Vec<Update>> for PackedBuilder {
    type Output = OrdValBatch<Packed>;

    fn seal(chain: &mut Vec<Vec<Update>>) -> Option<Self::Output> {
        let (mut keys, mut values) = ((0, 0), (0, 0));
        let mut last: Option<&(Key, Key)> = None;
        for (pair, _, _) in chain.iter().flatten() {
            let is_new_key = last.is_none_or(|last| last.0 != pair.0);
            if is_new_key {
                keys = (keys.0 + 1, keys.1 + pair.0.bytes().len());
            }
            if is_new_key || last.is_none_or(|last| last.1 != pair.1) {
                values = (values.0 + 1, values.1 + pair.1.bytes().len());
            }
            last = Some(pair);
        }
        let mut builder = OrdValBuilder::<Packed, Vec<Update>>::with_capacity(0, 0, 0);
        builder.result.keys = Rows::with_room(keys.0, keys.1);
        builder.result.vals.vals = Rows::with_room(values.0, values.1);
        for mut chunk in chain.drain(..) {
            builder.push(&mut chunk);
        }
        builder.done()
    }
}

/// How large an arrangement is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    /// Rows, those of merges under way and those taken back but not yet forgotten included.
    pub rows: usize,
    /// Bytes of memory.
    pub bytes: usize,
}

/// Returns how large an arrangement is at this moment. Costs a look at each of its few pieces.
pub fn size(trace: &Trace) -> Size {
    let mut size = Size::default();
    trace.map_spans(|span| {
        let Some(piece) = &span.inner else { return };
        let storage = &piece.storage;
        let updates = &storage.upds;
        size.rows += piece.len();
        size.bytes += storage.keys.size()
            + offsets(&storage.vals.offs)
            + storage.vals.vals.size()
            + offsets(&updates.offs)
            + updates.times.len() * size_of::<Time>()
            + updates.diffs.len() * size_of::<i64>();
    });
    size
}

#[cfg(test)]
mod tests {
    use differential_dataflow::batcher::{Batcher, Extract};
    use differential_dataflow::trace::implementations::spine_fueled::Merger;
    use timely::progress::Antichain;

    use super::*;

    /// Returns the piece of these rows, `(key, value)`, at the end of an epoch.
    fn piece(rows: impl Iterator<Item = (u64, u64)>, epoch: u64) -> OrdValBatch<Packed> {
        let mut batcher = PackedBatcher::new(None, 0);
        let row = |number: u64| Key::new(&number.to_be_bytes());
        let mut updates: Vec<Update> =
            rows.map(|(key, value)| ((row(key), row(value)), Time::end(epoch), 1)).collect();
        batcher.insert(&mut updates);
        batcher.extract(Antichain::new().borrow()).0.expect("there are rows")
    }

    fn bytes(piece: &OrdValBatch<Packed>) -> usize {
        let storage = &piece.storage;
        storage.keys.bytes.capacity()
            + storage.vals.vals.bytes.capacity()
            + 4 * (storage.keys.ends.smol.capacity() + storage.vals.vals.ends.smol.capacity())
            + 4 * (storage.vals.offs.smol.capacity() + storage.upds.offs.smol.capacity())
            + 24 * storage.upds.times.capacity()
    }

    #[test]
    fn a_row_is_found_from_wherever_the_search_begins() {
        let mut rows = Rows::with_room(0, 0);
        (0..100_u8).for_each(|row| rows.push_ref(&[row]));
        for (start, end) in (0..=100).flat_map(|start| (start..=100).map(move |end| (start, end))) {
            for wanted in 0..=100_u8 {
                let found = rows.advance(start, end, |row| row < &[wanted][..]);
                assert_eq!(start + found, usize::from(wanted).clamp(start, end), "{start} {end}");
            }
        }
    }

    #[test]
    fn a_row_costs_its_bytes_and_a_few_more() {
        const ROWS: u64 = 100_000;
        let rows = |from: u64| (0..ROWS).map(move |at| (at % 1_000, from + at));
        let (one, two) = (piece(rows(0), 1), piece(rows(ROWS), 2));
        let since = Antichain::from_elem(Time::new(3, 0));
        let mut merger =
            <OrdValBatch<Packed> as SpineBatch>::Merger::new(&one, &two, since.borrow());
        let mut fuel = isize::MAX;
        merger.work(&one, &two, &mut fuel);
        let merged = merger.done().expect("nothing was taken back");
        assert_eq!(merged.len(), 2 * ROWS as usize);
        assert_eq!(merged.storage.upds.times.len(), 1, "a time that all rows share is stored once");
        let a_row = bytes(&merged) / merged.len();
        assert!(a_row <= 8 + 9, "{a_row} bytes for a row of 8");
    }
}
