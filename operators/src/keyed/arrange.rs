//! Arrange: rows by key, each on the worker of its shard, and how they are read as of an epoch.
//!
//! | input  | `((key, value), time, diff)` from any worker, at ends of epochs or times of epoch 0  |
//! | output | the arrangement and, as it grows, its pieces                                         |
//! | state  | every row that is there: its bytes and 8 more, for each key likewise                 |
//! | errors | none. A row that is taken back more often than it came ends the process when it is read |
//! | leaves | a row leaves when it is taken back; history is forgotten behind the frontier          |

use differential_dataflow::operators::arrange::Arranged;
use differential_dataflow::operators::arrange::arrangement::arrange_core;
use differential_dataflow::trace::{BatchCursor, Cursor, Navigable, TraceReader};
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Exchange;
use timely::progress::frontier::AntichainRef;

use super::Update;
use super::packed::{PackedBatcher, PackedSpine, Piece, Trace, TraceCursor};
use crate::aggregate::{RowError, RowReader, put_number};
use crate::keep::KeptRows;
use crate::key::{self, Key};
use crate::keyed::layout::RowLayout;
use crate::shards::shard_of;
use crate::time::Time;
use crate::types::Column;

/// The number of the encoding of kept rows; part of the fingerprint of kept state.
pub const ROW_FORMAT: u32 = 1;

/// Arranges rows by key, each key on the worker of its shard.
///
/// Who reads it keeps a clone of the trace and calls [`forget`] as its frontier advances.
pub fn arrange<'s>(name: &str, updates: StreamVec<'s, Time, Update>) -> Arranged<'s, Trace> {
    let to_home = Exchange::new(|update: &Update| u64::from(shard_of(update.0.0.hash())));
    arrange_core::<_, _, PackedBatcher, PackedSpine>(
        updates,
        to_home,
        &format!("Arrange {name}"),
        PackedBatcher::new,
    )
}

/// As of when an arrangement is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AsOf(Time);

impl AsOf {
    /// With everything that epochs before this one did.
    pub const fn before(epoch: u64) -> Self {
        Self(Time::new(epoch, Time::END - 1))
    }

    /// With everything that epochs up to and including this one did.
    pub const fn after(epoch: u64) -> Self {
        Self(Time::end(epoch))
    }
}

/// Lets an arrangement forget what told the epochs before `epoch` apart. `AsOf::before(epoch)` and
/// later can still be read.
///
/// Not the frontier itself: at `(epoch, END)` it would make the rows of earlier epochs look like
/// changes of this one.
pub fn forget(trace: &mut Trace, epoch: u64) {
    trace.set_logical_compaction(AntichainRef::new(&[Time::new(epoch, 0)]));
    trace.set_physical_compaction(AntichainRef::new(&[]));
}

/// Returns everything that is in an arrangement now, to be read with
/// [`cursor_list`](differential_dataflow::trace::cursor::cursor_list()). Needs [`forget`] before.
pub fn pieces(trace: &mut Trace) -> Vec<Piece> {
    trace.batches_through(AntichainRef::new(&[])).unwrap_or_default()
}

/// The values of the key under a cursor, in order, as of an epoch: read as far as somebody asks.
pub struct Values<'a> {
    cursor: &'a mut TraceCursor,
    storage: &'a Vec<Piece>,
    asof: AsOf,
    /// How many values were looked at.
    seen: usize,
}

impl<'a> Values<'a> {
    /// Returns the values of the key under the cursor, from the first one.
    pub fn new(cursor: &'a mut TraceCursor, storage: &'a Vec<Piece>, asof: AsOf) -> Self {
        cursor.rewind_vals(storage);
        Self { cursor, storage, asof, seen: 0 }
    }

    /// Returns how many values were looked at.
    pub const fn seen(&self) -> usize {
        self.seen
    }
}

impl<'a> Iterator for Values<'a> {
    type Item = (&'a [u8], i64);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let value = self.cursor.get_val(self.storage)?;
            let (mut total, asof) = (0, self.asof.0);
            self.cursor.map_times(self.storage, |time, diff| {
                if *time <= asof {
                    total += diff;
                }
            });
            self.cursor.step_val(self.storage);
            self.seen += 1;
            match total {
                0 => {}
                1.. => return Some((value, total)),
                _ => taken_back_too_often(value, total, asof.epoch),
            }
        }
    }
}

/// Finds single values of an arrangement, key by key in order.
///
/// A cursor over several pieces cannot: it seeks a value in pieces that do not have the key.
pub struct Lookup {
    cursors: Vec<BatchCursor<Trace>>,
}

impl Lookup {
    /// Returns a lookup in these pieces.
    pub fn new(pieces: &[Piece]) -> Self {
        Self { cursors: pieces.iter().map(|piece| piece.cursor()).collect() }
    }

    /// Checks that none of these values of a key was taken back more often than it came, by this
    /// epoch. The values are in order; the keys of all calls are too. Costs a search for each value.
    ///
    /// Whoever reads only the first few values of a key would not notice.
    ///
    /// # Panics
    /// When one was.
    pub fn check(&mut self, pieces: &[Piece], key: &[u8], values: &[&[u8]], epoch: u64) {
        let asof = AsOf::after(epoch).0;
        let mut totals = vec![0; values.len()];
        for (cursor, piece) in self.cursors.iter_mut().zip(pieces) {
            cursor.seek_key(piece, key);
            if cursor.get_key(piece) != Some(key) {
                continue;
            }
            for (value, total) in values.iter().zip(&mut totals) {
                cursor.seek_val(piece, value);
                if cursor.get_val(piece) == Some(value) {
                    cursor.map_times(piece, |time, diff| {
                        if *time <= asof {
                            *total += diff;
                        }
                    });
                }
            }
        }
        if let Some((value, total)) = values.iter().zip(totals).find(|(_, total)| *total < 0) {
            taken_back_too_often(value, total, epoch);
        }
    }
}

/// A row was taken back that was not there: somebody upstream says something else than it said
/// before, and every answer from here on would be wrong.
pub(crate) fn taken_back_too_often(value: &[u8], total: i64, epoch: u64) -> ! {
    panic!(
        "by epoch {epoch} a row was taken back more often than it came ({total} times it is there): {}; \
         an input that was read again differs from what was read first, or an operator before \
         this one is not the same function of its input as it was",
        value.escape_ascii()
    )
}

/// How the rows of an arrangement are kept.
pub struct KeptPacked;

impl KeptRows<Trace> for KeptPacked {
    fn shard(key: &[u8]) -> u8 {
        shard_of(crate::exchange::key_hash(key))
    }

    fn encode(key: &[u8], value: &[u8], total: &i64, bytes: &mut Vec<u8>) {
        if *total < 0 {
            taken_back_too_often(value, *total, u64::MAX);
        }
        for part in [key, value] {
            put_number(part.len() as u64, bytes);
            bytes.extend_from_slice(part);
        }
        put_number(total.cast_unsigned(), bytes);
    }
}

/// A kept row and how often it is there.
pub type KeptRow = ((Key, Key), i64);

/// Returns the rows of one kept block, each with how often it is there.
///
/// # Errors
/// When they are no rows of these columns.
pub fn decode_kept(
    bytes: &[u8],
    keys: &[Column],
    layout: &RowLayout,
) -> Result<Vec<KeptRow>, RowError> {
    decode_kept_as(bytes, keys, |value| {
        layout.check(value).map_err(|_error| "a row of other columns")
    })
}

/// Returns the rows of one kept block whose values are what `check` says that they are.
pub(crate) fn decode_kept_as(
    bytes: &[u8],
    keys: &[Column],
    check: impl Fn(&[u8]) -> Result<(), &'static str>,
) -> Result<Vec<KeptRow>, RowError> {
    let mut reader = RowReader::new(bytes);
    let mut rows = Vec::new();
    while !reader.is_at_end() {
        let key = reader.bytes()?;
        if key::check(key, keys).is_err() {
            return Err(reader.error("a key of other columns"));
        }
        let value = reader.bytes()?;
        check(value).map_err(|reason| reader.error(reason))?;
        let count = reader.number()?.cast_signed();
        if count <= 0 {
            return Err(reader.error("a row that is not there"));
        }
        rows.push(((Key::new(key), Key::new(value)), count));
    }
    Ok(rows)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::types::Type;

    fn columns() -> (Vec<Column>, RowLayout) {
        let column = |name: &str| vec![Column::new(name, Type::Int)];
        (column("key"), RowLayout::plain(column("value")))
    }

    fn number(value: i64) -> Key {
        let mut bytes = Vec::new();
        super::super::append_int(value, &mut bytes);
        Key::new(&bytes)
    }

    #[test]
    fn kept_rows_read_back_and_foreign_ones_are_refused() {
        let (keys, layout) = columns();
        let rows = [((number(1), number(-5)), 1), ((number(1), number(7)), 300)];
        let mut bytes = Vec::new();
        for ((key, value), times) in &rows {
            KeptPacked::encode(key.bytes(), value.bytes(), times, &mut bytes);
        }
        assert_eq!(decode_kept(&bytes, &keys, &layout).unwrap(), rows);
        for end in (1..bytes.len()).filter(|end| *end != 21) {
            assert!(decode_kept(&bytes[..end], &keys, &layout).is_err(), "{end}");
        }
        let other = RowLayout::plain(vec![Column::new("value", Type::String)]);
        let error = decode_kept(&bytes, &keys, &other).unwrap_err().to_string();
        assert!(error.contains("a row of other columns"), "{error}");
        let error = decode_kept(&bytes, &[], &layout).unwrap_err().to_string();
        assert!(error.contains("a key of other columns"), "{error}");
    }

    #[test]
    fn a_row_that_is_missing_is_told_with_its_epoch() {
        let panic = std::panic::catch_unwind(|| taken_back_too_often(b"x", -1, 7)).err().unwrap();
        let text = panic.downcast_ref::<String>().unwrap();
        assert!(
            text.starts_with("by epoch 7 a row was taken back more often than it came"),
            "{text}"
        );
    }
}
