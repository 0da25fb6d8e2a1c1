//! Key: the key columns of a row as bytes whose order is SQL's order, ascending, NULLs first.
//!
//! Owns the encoding and its reverse. The bytes are also what is hashed to decide on which worker a
//! key lives, so the encoding never changes: a change would move keys of restored state.
//!
//! | NULL      | `00`                                                                          |
//! | any value | `01`, then:                                                                   |
//! | string    | its bytes with `00` as `01 01` and `01` as `01 02`, then `00`                  |
//! | int       | 8 bytes big endian, sign bit flipped; a timestamp is its microseconds          |
//! | float     | 8 bytes big endian, ordered bits; `-0.0` is `0.0`, there is one NaN, above all |
//! | bool      | `00` or `01`                                                                  |
//! | decimal   | 16 bytes big endian in units of its scale, sign bit flipped                   |

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};

use arrow_array::cast::AsArray;
use arrow_array::types::{Decimal128Type, Float64Type, Int64Type, TimestampMicrosecondType};
use arrow_array::{Array, ArrayRef, BooleanArray, StringViewArray};
use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::decimal;
use crate::types::{Column, Type};
use crate::value::{ColumnBuilder, Value};

/// The encoded key columns of one row.
#[derive(Clone)]
pub struct Key(Encoded);

/// How many bytes lie in place: two numbers, or a word.
const SHORT_BYTES: usize = 22;

/// Where the bytes are: short ones are always in place, so that a key costs no allocation.
#[derive(Clone)]
enum Encoded {
    Short { length: u8, bytes: [u8; SHORT_BYTES] },
    Long(Box<[u8]>),
}

/// Bytes that are not a key of these columns: state of another pipeline, or damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a key of {length} bytes does not hold the key columns ({reason} at byte {at})")]
pub struct KeyError {
    /// The length of the key.
    pub length: usize,
    /// Where it went wrong.
    pub at: usize,
    /// What is wrong there.
    pub reason: &'static str,
}

impl Key {
    /// Returns a key of these encoded bytes.
    pub fn new(bytes: &[u8]) -> Self {
        match bytes.len() {
            length @ 0..=SHORT_BYTES => {
                let mut short = [0; SHORT_BYTES];
                short[..length].copy_from_slice(bytes);
                Self(Encoded::Short { length: length as u8, bytes: short })
            }
            _ => Self(Encoded::Long(bytes.into())),
        }
    }

    /// Returns the encoded bytes.
    pub fn bytes(&self) -> &[u8] {
        match &self.0 {
            Encoded::Short { length, bytes } => &bytes[..usize::from(*length)],
            Encoded::Long(bytes) => bytes,
        }
    }

    /// Returns the hash that decides where the key lives.
    pub fn hash(&self) -> u64 {
        crate::exchange::key_hash(self.bytes())
    }

    /// Returns the key for a person: `host=a, status=200`.
    pub fn text(&self, columns: &[Column]) -> String {
        match decode_values(self, columns) {
            Ok(values) => {
                let cells = columns.iter().zip(values);
                let cells = cells.map(|(column, value)| format!("{}={value}", column.shown()));
                cells.collect::<Vec<_>>().join(", ")
            }
            Err(error) => error.to_string(),
        }
    }
}

impl Default for Key {
    fn default() -> Self {
        Self::new(&[])
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.bytes() == other.bytes()
    }
}

impl Eq for Key {}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Key {
    fn cmp(&self, other: &Self) -> Ordering {
        self.bytes().cmp(other.bytes())
    }
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.bytes().hash(state);
    }
}

impl AsRef<[u8]> for Key {
    fn as_ref(&self) -> &[u8] {
        self.bytes()
    }
}

// What a compact container holds as bytes is compared with what arrives as a key.
impl PartialEq<Key> for [u8] {
    fn eq(&self, other: &Key) -> bool {
        self == other.bytes()
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Key({})", self.bytes().escape_ascii())
    }
}

// By hand, because serde would write a boxed slice element by element.
impl Serialize for Key {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.bytes())
    }
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;
        impl<'de> Visitor<'de> for Bytes {
            type Value = Key;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("the bytes of a key")
            }

            fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<Key, E> {
                Ok(Key::new(bytes))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Key, A::Error> {
                let mut bytes = Vec::new();
                while let Some(byte) = items.next_element::<u8>()? {
                    bytes.push(byte);
                }
                Ok(Key::new(&bytes))
            }
        }
        deserializer.deserialize_byte_buf(Bytes)
    }
}

/// Appends the encoded cell to `out`, as a [`KeyEncoder`] does.
pub fn append_value(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Null => out.push(0),
        Value::String(text) => append_text(text.as_bytes(), out),
        Value::Int(value) | Value::Timestamp(value) => append_word(ordered_int(*value), out),
        Value::Float(value) => append_word(ordered_float(*value), out),
        Value::Bool(value) => out.extend_from_slice(&[1, u8::from(*value)]),
        Value::Decimal { units, .. } => append_wide(*units, out),
    }
}

/// The key columns of one batch, ready to be encoded row by row.
pub struct KeyEncoder<'a> {
    columns: Vec<Source<'a>>,
}

/// One key column, already downcast.
enum Source<'a> {
    String(&'a StringViewArray),
    Int(&'a dyn Array, &'a [i64]),
    Float(&'a dyn Array, &'a [f64]),
    Bool(&'a BooleanArray),
    Decimal(&'a dyn Array, &'a [i128]),
}

impl<'a> KeyEncoder<'a> {
    /// Takes the key columns of a batch.
    ///
    /// # Panics
    /// When a column is not one of the arrays of [`Type`]; the planner never lets one through.
    pub fn new(columns: impl IntoIterator<Item = &'a ArrayRef>) -> Self {
        Self { columns: columns.into_iter().map(source).collect() }
    }

    /// Appends the encoded key of `row` to `out`.
    pub fn append(&self, row: usize, out: &mut Vec<u8>) {
        for column in &self.columns {
            column.append(row, out);
        }
    }
}

fn source(array: &ArrayRef) -> Source<'_> {
    if let Some(array) = array.as_string_view_opt() {
        Source::String(array)
    } else if let Some(array) = array.as_primitive_opt::<Int64Type>() {
        Source::Int(array, array.values())
    } else if let Some(array) = array.as_primitive_opt::<TimestampMicrosecondType>() {
        Source::Int(array, array.values())
    } else if let Some(array) = array.as_primitive_opt::<Float64Type>() {
        Source::Float(array, array.values())
    } else if let Some(array) = array.as_boolean_opt() {
        Source::Bool(array)
    } else if let Some(array) = array.as_primitive_opt::<Decimal128Type>() {
        Source::Decimal(array, array.values())
    } else {
        panic!("a key column holds {}, which is none of our types", array.data_type())
    }
}

impl Source<'_> {
    #[inline]
    fn append(&self, row: usize, out: &mut Vec<u8>) {
        let null = match self {
            Source::String(array) => array.is_null(row),
            Source::Int(array, _) | Source::Float(array, _) | Source::Decimal(array, _) => {
                array.is_null(row)
            }
            Source::Bool(array) => array.is_null(row),
        };
        if null {
            out.push(0);
            return;
        }
        match self {
            Source::String(array) => append_text(array.value(row).as_bytes(), out),
            Source::Int(_, values) => append_word(ordered_int(values[row]), out),
            Source::Float(_, values) => append_word(ordered_float(values[row]), out),
            Source::Bool(array) => out.extend_from_slice(&[1, u8::from(array.value(row))]),
            Source::Decimal(_, values) => append_wide(values[row], out),
        }
    }
}

#[inline]
fn append_word(word: u64, out: &mut Vec<u8>) {
    let mut bytes = [1; 9];
    bytes[1..].copy_from_slice(&word.to_be_bytes());
    out.extend_from_slice(&bytes);
}

fn append_wide(units: i128, out: &mut Vec<u8>) {
    out.push(1);
    out.extend_from_slice(&decimal::ordered(units).to_be_bytes());
}

#[inline]
pub(crate) fn append_text(text: &[u8], out: &mut Vec<u8>) {
    out.push(1);
    // No early exit: the loop is then done 16 bytes at a time.
    if text.iter().fold(false, |found, byte| found | (*byte <= 1)) {
        for byte in text {
            match byte {
                0 => out.extend_from_slice(&[1, 1]),
                1 => out.extend_from_slice(&[1, 2]),
                byte => out.push(*byte),
            }
        }
    } else {
        out.extend_from_slice(text);
    }
    out.push(0);
}

/// Returns a word that orders like the integer.
pub(crate) const fn ordered_int(value: i64) -> u64 {
    value as u64 ^ (1 << 63)
}

/// Returns the integer of [`ordered_int`].
pub(crate) const fn int_of(word: u64) -> i64 {
    (word ^ (1 << 63)) as i64
}

/// Returns a word that orders like the float, with one zero and one NaN, above all others.
pub(crate) fn ordered_float(value: f64) -> u64 {
    let value = if value.is_nan() { f64::NAN.abs() } else { value + 0.0 }; // -0.0 + 0.0 is 0.0
    let bits = value.to_bits();
    if bits >> 63 == 0 { bits | (1 << 63) } else { !bits }
}

/// Returns the float of [`ordered_float`].
pub(crate) const fn float_of(word: u64) -> f64 {
    f64::from_bits(if word >> 63 == 1 { word & !(1 << 63) } else { !word })
}

/// Returns the cells of a key, in the order of the columns.
pub fn decode_values(key: &Key, columns: &[Column]) -> Result<Vec<Value>, KeyError> {
    decode_row(key.bytes(), columns)
}

/// Returns the cells of an encoded row, in the order of the columns.
pub fn decode_row(row: &[u8], columns: &[Column]) -> Result<Vec<Value>, KeyError> {
    let mut reader = Reader::new(row);
    let values =
        columns.iter().map(|column| reader.value(column.kind)).collect::<Result<_, _>>()?;
    reader.finish()?;
    Ok(values)
}

/// Checks that a key holds these columns, without keeping their values.
pub fn check(key: &[u8], columns: &[Column]) -> Result<(), KeyError> {
    let mut reader = Reader::new(key);
    columns.iter().try_for_each(|column| reader.value(column.kind).map(drop))?;
    reader.finish()
}

/// Returns the columns of these keys, in order.
pub fn decode_columns<K: AsRef<[u8]>>(
    keys: impl ExactSizeIterator<Item = K>,
    columns: &[Column],
) -> Result<Vec<ArrayRef>, KeyError> {
    let rows = keys.len();
    let mut builders: Vec<_> =
        columns.iter().map(|one| ColumnBuilder::new(one.kind, rows)).collect();
    for key in keys {
        let mut reader = Reader::new(key.as_ref());
        for (builder, column) in builders.iter_mut().zip(columns) {
            reader.cell(column.kind, builder)?;
        }
        reader.finish()?;
    }
    Ok(builders.into_iter().map(ColumnBuilder::finish).collect())
}

/// Reads the cells of a key one after the other.
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Returns what was not read yet.
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.bytes.get(self.at..).unwrap_or_default()
    }

    pub(crate) fn error(&self, reason: &'static str) -> KeyError {
        KeyError { length: self.bytes.len(), at: self.at, reason }
    }

    fn byte(&mut self) -> Result<u8, KeyError> {
        let byte = *self.bytes.get(self.at).ok_or_else(|| self.error("it ends"))?;
        self.at += 1;
        Ok(byte)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], KeyError> {
        let bytes = self.rest().first_chunk::<N>().ok_or_else(|| self.error("it ends"))?;
        self.at += N;
        Ok(*bytes)
    }

    fn word(&mut self) -> Result<u64, KeyError> {
        self.array().map(u64::from_be_bytes)
    }

    fn text(&mut self) -> Result<String, KeyError> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let mut text = Vec::new();
        // Few texts hold an escape: all up to the end, or up to the first one, is taken at once.
        if let Some(plain) = memchr::memchr2(0, 1, rest) {
            text.extend_from_slice(&rest[..plain]);
            self.at += plain;
        }
        loop {
            match self.byte()? {
                0 => break,
                1 => match self.byte()? {
                    escaped @ (1 | 2) => text.push(escaped - 1),
                    _ => return Err(self.error("no such escape")),
                },
                byte => text.push(byte),
            }
        }
        String::from_utf8(text).map_err(|_| self.error("not UTF-8"))
    }

    /// Reads a cell into a column.
    pub(crate) fn cell(&mut self, kind: Type, column: &mut ColumnBuilder) -> Result<(), KeyError> {
        if kind == Type::String && self.rest().first() == Some(&1) {
            // Most texts hold no escape and are copied once, from here to their column.
            let text = self.rest().get(1..).unwrap_or_default();
            let end = memchr::memchr2(0, 1, text).ok_or_else(|| self.error("it ends"))?;
            if text[end] == 0 {
                let plain = std::str::from_utf8(&text[..end]);
                let plain = plain.map_err(|_| self.error("not UTF-8"))?;
                column.push_text(plain);
                self.at += end + 2;
                return Ok(());
            }
        }
        column.push(&self.value(kind)?);
        Ok(())
    }

    /// Reads a cell.
    pub(crate) fn value(&mut self, kind: Type) -> Result<Value, KeyError> {
        match self.byte()? {
            0 => return Ok(Value::Null),
            1 => {}
            _ => return Err(self.error("neither NULL nor a value")),
        }
        Ok(match kind {
            Type::String => Value::String(self.text()?),
            Type::Int => Value::Int(int_of(self.word()?)),
            Type::Float => Value::Float(float_of(self.word()?)),
            Type::Bool => Value::Bool(self.byte()? != 0),
            Type::Timestamp => Value::Timestamp(int_of(self.word()?)),
            Type::Decimal(digits) => {
                let units = decimal::of_ordered(u128::from_be_bytes(self.array()?));
                if !digits.holds(units) {
                    return Err(self.error("a number with too many digits"));
                }
                Value::Decimal { units, scale: digits.scale() }
            }
        })
    }

    /// Skips bytes that are known to be there.
    pub(crate) fn skip(&mut self, bytes: usize) -> Result<(), KeyError> {
        if self.rest().len() < bytes {
            return Err(self.error("it ends"));
        }
        self.at += bytes;
        Ok(())
    }

    /// Checks that nothing follows.
    pub(crate) fn finish(&self) -> Result<(), KeyError> {
        if self.at == self.bytes.len() { Ok(()) } else { Err(self.error("more follows")) }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::sync::Arc;

    use arrow_array::{Decimal128Array, Float64Array, Int64Array, TimestampMicrosecondArray};
    use proptest::prelude::*;

    use super::*;

    type Row = (Option<String>, Option<i64>, Option<f64>, Option<bool>, Option<i64>, Option<i128>);

    fn columns() -> Vec<Column> {
        Type::ALL.map(|kind| Column::new(kind.name(), kind)).to_vec()
    }

    fn arrays(rows: &[Row]) -> Vec<ArrayRef> {
        let decimals: Decimal128Array = rows.iter().map(|row| row.5).collect();
        let times: TimestampMicrosecondArray = rows.iter().map(|row| row.4).collect();
        vec![
            Arc::new(rows.iter().map(|row| row.0.as_deref()).collect::<StringViewArray>()),
            Arc::new(rows.iter().map(|row| row.1).collect::<Int64Array>()),
            Arc::new(rows.iter().map(|row| row.2).collect::<Float64Array>()),
            Arc::new(rows.iter().map(|row| row.3).collect::<BooleanArray>()),
            Arc::new(times.with_data_type(Type::Timestamp.arrow())),
            Arc::new(decimals.with_data_type(Type::ALL[5].arrow())),
        ]
    }

    fn encode(arrays: &[ArrayRef]) -> Vec<Key> {
        let encoder = KeyEncoder::new(arrays);
        let key = |row| {
            let mut bytes = Vec::new();
            encoder.append(row, &mut bytes);
            Key::new(&bytes)
        };
        (0..arrays[0].len()).map(key).collect()
    }

    /// SQL's order: column by column, NULL first, one zero, NaN above all.
    fn order(one: &Row, two: &Row) -> Ordering {
        let float = |value: Option<f64>| value.map(|value| if value == 0.0 { 0.0 } else { value });
        let nan_last = |one: Option<f64>, two: Option<f64>| match (float(one), float(two)) {
            (Some(one), Some(two)) if one.is_nan() || two.is_nan() => {
                one.is_nan().cmp(&two.is_nan())
            }
            (one, two) => one.partial_cmp(&two).unwrap(),
        };
        (one.0.cmp(&two.0).then(one.1.cmp(&two.1)).then(nan_last(one.2, two.2)))
            .then(one.3.cmp(&two.3))
            .then(one.4.cmp(&two.4))
            .then(one.5.cmp(&two.5))
    }

    fn row() -> impl Strategy<Value = Row> {
        let text = prop_oneof!["[\\x00-\\x02a]{0,4}", "[a-c]{0,3}", "\\PC{0,20}"];
        let float = prop_oneof![
            any::<u64>().prop_map(f64::from_bits),
            Just(0.0),
            Just(-0.0),
            Just(f64::NAN),
            Just(-f64::NAN),
            Just(f64::INFINITY),
        ];
        let int = prop_oneof![any::<i64>(), -2..2_i64];
        use proptest::option::of;
        let most = 10_i128.pow(38) - 1;
        let decimal = prop_oneof![-most..=most, -2..2_i128, Just(most), Just(-most)];
        (of(text), of(int), of(float), of(any::<bool>()), of(any::<i64>()), of(decimal))
    }

    proptest! {
        #[test]
        fn keys_order_like_sql_and_read_back(rows in proptest::collection::vec(row(), 2..12)) {
            let arrays = arrays(&rows);
            let keys = encode(&arrays);
            for (one, first) in keys.iter().zip(&rows) {
                for (two, second) in keys.iter().zip(&rows) {
                    prop_assert_eq!(one.cmp(two), order(first, second), "{:?} {:?}", first, second);
                }
            }
            let read = decode_columns(keys.iter(), &columns()).unwrap();
            prop_assert_eq!(&encode(&read), &keys);
            prop_assert_eq!(&read[0], &arrays[0]);
            prop_assert_eq!(&read[1], &arrays[1]);
            prop_assert_eq!(&read[3], &arrays[3]);
            prop_assert_eq!(&read[4], &arrays[4]);
            prop_assert_eq!(&read[5], &arrays[5]);
            for key in &keys {
                let mut again = Vec::new();
                let cells = decode_row(key.bytes(), &columns()).unwrap();
                cells.iter().for_each(|cell| append_value(cell, &mut again));
                prop_assert_eq!(&again, key.bytes());
            }
        }

        #[test]
        fn foreign_bytes_are_refused_or_read(bytes in proptest::collection::vec(0..4_u8, 0..40)) {
            if let Ok(values) = decode_values(&Key::new(&bytes), &columns()) {
                prop_assert_eq!(values.len(), 6);
            }
        }
    }

    #[test]
    fn a_key_is_told_to_a_person() {
        let rows = [(Some("a".into()), Some(-3), Some(2.5), None, Some(1_000_000), Some(-5))];
        assert_eq!(
            encode(&arrays(&rows))[0].text(&columns()),
            "string=a, int=-3, float=2.5, bool=NULL, timestamp=1970-01-01T00:00:01Z, \
             decimal=-0.000000005"
        );
    }

    #[test]
    fn the_encoding_never_changes() {
        let rows = [(Some("a\0\u{1}z".into()), Some(-1), Some(-2.0), Some(true), None, Some(-1))];
        let expected = b"\x01a\x01\x01\x01\x02z\x00\x01\x7f\xff\xff\xff\xff\xff\xff\xff\
            \x01\x3f\xff\xff\xff\xff\xff\xff\xff\x01\x01\x00\
            \x01\x7f\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff";
        assert_eq!(encode(&arrays(&rows))[0].bytes(), expected);
    }

    #[test]
    fn a_key_of_other_columns_is_refused() {
        let key = &encode(&arrays(&[(Some("a".into()), None, None, None, None, None)]))[0];
        let error = decode_values(key, &columns()[..1]).unwrap_err();
        assert!(error.to_string().contains("more follows at byte 3"), "{error}");
        assert!(decode_values(&Key::new(&[1, 1, 9]), &columns()).is_err());
        assert!(decode_values(&Key::new(&[]), &columns()).is_err());
    }
}
