//! Rows: the rows of one output file as bytes, in the order in which they are written. Derived.
//!
//! A row is what it looks like in the output, and where it stands: chunk and position of the record it
//! came from, then, for rows that come without a position, the values of its columns; rows that stand
//! in one place are in the order of their bytes. So the same rows give the same file, whenever and in
//! however many pieces they came. A few bytes for each row on top of its own.

use std::cmp::Ordering;

use tidemill_operators::aggregate::put_number;

/// The number of the encoding of rows in checkpoints.
pub const ROW_FORMAT: u32 = 1;

/// The rows of one output file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rows {
    bytes: Vec<u8>,
    count: u64,
}

/// One row, and how often it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row<'a> {
    /// The chunk of the record it came from.
    pub chunk: u64,
    /// The position of the record in that chunk.
    pub position: u64,
    /// What orders rows without a position.
    pub order: &'a [u8],
    /// The bytes that are written.
    pub bytes: &'a [u8],
    /// How often.
    pub times: u64,
}

impl Row<'_> {
    /// Orders rows as they are written.
    fn order(&self, other: &Row<'_>) -> Ordering {
        let place = |row: &Self| (row.chunk, row.position);
        place(self)
            .cmp(&(other.chunk, other.position))
            .then_with(|| self.order.cmp(other.order))
            .then_with(|| self.bytes.cmp(other.bytes))
    }
}

/// A place in the rows of a file: before a row, or at the end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct At {
    byte: usize,
    chunk: u64,
    position: u64,
}

/// A row was taken back that is not there.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("a row is taken back that is not there: chunk {chunk}, line {line} of it, {text:?}")]
pub struct NotThere {
    chunk: u64,
    line: u32,
    text: String,
}

/// Bytes that are no rows.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the rows of an output make no sense at byte {at}")]
pub struct Senseless {
    at: usize,
}

impl Rows {
    /// Returns the rows that are encoded so.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Rows, Senseless> {
        let mut rows = Rows { bytes, count: 0 };
        let (mut at, mut last): (At, Option<Row<'_>>) = (At::default(), None);
        let mut count = 0_u64;
        while at.byte < rows.bytes.len() {
            let before = at.byte;
            let row = read(&rows.bytes, &mut at).filter(|row| {
                row.times > 0 && last.is_none_or(|last| last.order(row) == Ordering::Less)
            });
            let row = row.ok_or(Senseless { at: before })?;
            count = count.saturating_add(row.times);
            last = Some(row);
        }
        rows.count = count;
        Ok(rows)
    }

    /// Returns the encoded rows.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Returns how many rows there are.
    pub fn len(&self) -> u64 {
        self.count
    }

    /// Returns whether there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Returns the row at a place and goes on behind it; nothing at the end.
    pub fn next(&self, at: &mut At) -> Option<Row<'_>> {
        if at.byte >= self.bytes.len() {
            return None;
        }
        // They were written here, or checked when they were read.
        Some(read(&self.bytes, at).expect("rows that were checked can be read"))
    }

    /// Returns the rows after changes; nothing if they are the same.
    pub fn changed(&self, changes: &mut Changes) -> Result<Option<Rows>, NotThere> {
        let changes = changes.summed();
        if changes.is_empty() {
            return Ok(None);
        }
        let mut writer = Writer::default();
        writer.rows.bytes.reserve(self.bytes.len());
        let mut at = At::default();
        let mut old = self.next(&mut at);
        for (change, diff) in changes {
            while let Some(row) = old.filter(|row| row.order(&change) == Ordering::Less) {
                writer.push(&row);
                old = self.next(&mut at);
            }
            let same = old.filter(|row| row.order(&change) == Ordering::Equal);
            let times = same.map_or(0, |row| row.times).checked_add_signed(diff);
            match times {
                Some(0) => {}
                Some(times) => writer.push(&Row { times, ..change }),
                None => return Err(not_there(&change)),
            }
            if same.is_some() {
                old = self.next(&mut at);
            }
        }
        while let Some(row) = old {
            writer.push(&row);
            old = self.next(&mut at);
        }
        writer.rows.bytes.shrink_to_fit();
        Ok(Some(writer.rows))
    }
}

fn not_there(row: &Row<'_>) -> NotThere {
    const SHOWN_BYTES: usize = 200;
    let line = tidemill_operators::batch::position_line(row.position);
    let text = String::from_utf8_lossy(&row.bytes[..row.bytes.len().min(SHOWN_BYTES)]);
    NotThere { chunk: row.chunk, line, text: text.into_owned() }
}

#[derive(Default)]
struct Writer {
    rows: Rows,
    chunk: u64,
    position: u64,
}

impl Writer {
    fn push(&mut self, row: &Row<'_>) {
        let out = &mut self.rows.bytes;
        put_number(row.chunk.wrapping_sub(self.chunk), out);
        let same_chunk = row.chunk == self.chunk;
        let base = if same_chunk { self.position } else { 0 };
        put_number(row.position.wrapping_sub(base), out);
        put_number(row.times, out);
        for bytes in [row.order, row.bytes] {
            put_number(bytes.len() as u64, out);
            out.extend_from_slice(bytes);
        }
        self.rows.count = self.rows.count.saturating_add(row.times);
        (self.chunk, self.position) = (row.chunk, row.position);
    }
}

fn read<'a>(bytes: &'a [u8], at: &mut At) -> Option<Row<'a>> {
    let mut byte = at.byte;
    let chunk = at.chunk.wrapping_add(number(bytes, &mut byte)?);
    let base = if chunk == at.chunk { at.position } else { 0 };
    let position = base.wrapping_add(number(bytes, &mut byte)?);
    let times = number(bytes, &mut byte)?;
    let order = slice(bytes, &mut byte)?;
    let row = slice(bytes, &mut byte)?;
    *at = At { byte, chunk, position };
    Some(Row { chunk, position, order, bytes: row, times })
}

/// Returns a number as [`put_number`] writes it.
pub(super) fn number(bytes: &[u8], at: &mut usize) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let byte = *bytes.get(*at)?;
        *at += 1;
        if shift == 63 && byte > 1 {
            return None;
        }
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

/// Returns bytes behind their length.
pub(super) fn slice<'a>(bytes: &'a [u8], at: &mut usize) -> Option<&'a [u8]> {
    let length = usize::try_from(number(bytes, at)?).ok()?;
    let taken = bytes.get(*at..)?.get(..length)?;
    *at += length;
    Some(taken)
}

/// Rows that come and go, in any order.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    chunk: u64,
    position: u64,
    /// Where in `bytes` the order begins, the row begins, and it ends.
    order: usize,
    row: usize,
    end: usize,
    diff: i64,
}

impl Changes {
    /// Adds a row at a place (chunk, position) with its difference; `order` appends what orders it
    /// among rows without a position.
    pub fn push(
        &mut self,
        (chunk, position): (u64, u64),
        order: impl FnOnce(&mut Vec<u8>),
        row: &[u8],
        diff: i64,
    ) {
        let start = self.bytes.len();
        order(&mut self.bytes);
        let middle = self.bytes.len();
        self.bytes.extend_from_slice(row);
        let end = self.bytes.len();
        self.entries.push(Entry { chunk, position, order: start, row: middle, end, diff });
    }

    /// Returns the rows in order, each once, with the sum of its differences, which is not zero.
    fn summed(&mut self) -> Vec<(Row<'_>, i64)> {
        let Self { bytes, entries } = self;
        let row = |entry: &Entry| Row {
            chunk: entry.chunk,
            position: entry.position,
            order: &bytes[entry.order..entry.row],
            bytes: &bytes[entry.row..entry.end],
            times: 1,
        };
        entries.sort_unstable_by(|one, two| row(one).order(&row(two)));
        let mut summed: Vec<(Row<'_>, i64)> = Vec::with_capacity(entries.len());
        for entry in entries.iter() {
            let row = row(entry);
            match summed.last_mut().filter(|(last, _)| last.order(&row) == Ordering::Equal) {
                Some((_, diff)) => *diff += entry.diff,
                None => summed.push((row, entry.diff)),
            }
        }
        summed.retain(|(_, diff)| *diff != 0);
        summed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// One row as the slow, obvious program keeps it.
    type Plain = (u64, u64, Vec<u8>, Vec<u8>);

    fn changes(given: &[(Plain, i64)]) -> Changes {
        let mut changes = Changes::default();
        for ((chunk, position, order, row), diff) in given {
            let order = |out: &mut Vec<u8>| out.extend_from_slice(order);
            changes.push((*chunk, *position), order, row, *diff);
        }
        changes
    }

    fn list(rows: &Rows) -> BTreeMap<Plain, i64> {
        let mut at = At::default();
        let mut found = BTreeMap::new();
        while let Some(row) = rows.next(&mut at) {
            let key = (row.chunk, row.position, row.order.to_vec(), row.bytes.to_vec());
            assert!(found.insert(key, row.times as i64).is_none());
        }
        found
    }

    fn plain() -> impl Strategy<Value = Plain> {
        let place = prop_oneof![0..4_u64, Just(u64::MAX), Just(u64::MAX - 1)];
        let bytes = || proptest::collection::vec(0..3_u8, 0..3);
        (place.clone(), place, bytes(), bytes())
    }

    proptest! {
        #[test]
        fn oracle_rows_are_a_multiset_in_order(
            epochs in proptest::collection::vec(
                proptest::collection::vec((plain(), -2..4_i64), 0..20), 1..6)
        ) {
            let (mut rows, mut expected) = (Rows::default(), BTreeMap::<Plain, i64>::new());
            for epoch in epochs {
                let mut after = expected.clone();
                for (row, diff) in &epoch {
                    *after.entry(row.clone()).or_default() += diff;
                }
                after.retain(|_, times| *times != 0);
                let found = rows.changed(&mut changes(&epoch));
                if after.values().any(|times| *times < 0) {
                    prop_assert!(found.is_err());
                    continue;
                }
                prop_assert_eq!(found.as_ref().unwrap().is_none(), after == expected);
                if let Some(changed) = found.unwrap() {
                    rows = changed;
                }
                prop_assert_eq!(&list(&rows), &after);
                prop_assert_eq!(rows.len(), after.values().sum::<i64>() as u64);
                prop_assert_eq!(&Rows::from_bytes(rows.bytes().to_vec()).unwrap(), &rows);
                expected = after;
            }
        }

        #[test]
        fn foreign_bytes_are_refused_or_read(bytes in proptest::collection::vec(0..6_u8, 0..40)) {
            if let Ok(rows) = Rows::from_bytes(bytes) {
                list(&rows);
            }
        }
    }

    #[test]
    fn a_row_that_is_not_there_is_named() {
        let row = (3, tidemill_operators::batch::position(7, 9), vec![], b"a,b\n".to_vec());
        let error = Rows::default().changed(&mut changes(&[(row, -1)])).unwrap_err();
        let expected = "a row is taken back that is not there: chunk 3, line 7 of it, \"a,b\\n\"";
        assert_eq!(error.to_string(), expected);
    }

    #[test]
    fn rows_are_kept_in_few_bytes_more_than_their_own() {
        let given: Vec<(Plain, i64)> = (0..1000_u64)
            .map(|n| ((n / 100, n % 100 * (1 << 32), vec![], vec![b'x'; 50]), 1))
            .collect();
        let rows = Rows::default().changed(&mut changes(&given)).unwrap().unwrap();
        assert_eq!(rows.len(), 1000);
        assert!(rows.bytes().len() < 1000 * 60, "{}", rows.bytes().len());
    }
}
