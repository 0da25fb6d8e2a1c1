//! Compare: one comparison over two operands of the same type.
//!
//! Floats follow IEEE 754, not a total order: NaN is equal to nothing, not even itself, and neither
//! smaller nor greater than anything; `NaN <> x` is true. Text is ordered by its bytes, which for
//! UTF-8 is the order of code points. false comes before true.

use arrow_array::{Array, StringViewArray};
use arrow_buffer::{BooleanBuffer, NullBuffer};

use crate::expr::plan::{Comparison, Set};
use crate::expr::vector::{Bits, Scalar, Side, Vector, Words, ask, pack};

/// Compares two operands; NULL on either side gives NULL.
pub(super) fn compare(op: Comparison, rows: usize, left: &Vector, right: &Vector) -> Vector {
    if left.is_null_constant() || right.is_null_constant() {
        return Vector::Constant(Scalar::Null);
    }
    let nulls = NullBuffer::union(left.nulls().as_ref(), right.nulls().as_ref());
    let values = match (left, right) {
        (Vector::Long(_) | Vector::Constant(Scalar::Long(_)), _) => {
            primitives(op, rows, left.longs(), right.longs())
        }
        (Vector::Double(_) | Vector::Constant(Scalar::Double(_)), _) => {
            primitives(op, rows, left.doubles(), right.doubles())
        }
        (Vector::Wide(_) | Vector::Constant(Scalar::Wide(_)), _) => {
            primitives(op, rows, left.wides(), right.wides())
        }
        (Vector::Text(_) | Vector::Constant(Scalar::Text(_)), _) => {
            texts(op, rows, left.words(), right.words())
        }
        _ => truths(op, &left.truth(rows).values, &right.truth(rows).values),
    };
    Vector::bits(values, nulls)
}

fn primitives<T: Copy + PartialOrd>(
    op: Comparison,
    rows: usize,
    left: Side<'_, T>,
    right: Side<'_, T>,
) -> BooleanBuffer {
    match op {
        Comparison::Equal => ask(rows, left, right, |a, b| a == b),
        Comparison::NotEqual => ask(rows, left, right, |a, b| a != b),
        Comparison::Less => ask(rows, left, right, |a, b| a < b),
        Comparison::LessEqual => ask(rows, left, right, |a, b| a <= b),
        Comparison::Greater => ask(rows, left, right, |a, b| a > b),
        Comparison::GreaterEqual => ask(rows, left, right, |a, b| a >= b),
    }
}

fn truths(op: Comparison, a: &BooleanBuffer, b: &BooleanBuffer) -> BooleanBuffer {
    match op {
        Comparison::Equal => !&(a ^ b),
        Comparison::NotEqual => a ^ b,
        Comparison::Less => &!a & b,
        Comparison::LessEqual => &!a | b,
        Comparison::Greater => a & &!b,
        Comparison::GreaterEqual => a | &!b,
    }
}

fn texts(op: Comparison, rows: usize, left: Words<'_>, right: Words<'_>) -> BooleanBuffer {
    match (op, left, right) {
        (Comparison::Equal, Words::Many(array), Words::One(text))
        | (Comparison::Equal, Words::One(text), Words::Many(array)) => equal(array, text),
        (Comparison::NotEqual, Words::Many(array), Words::One(text))
        | (Comparison::NotEqual, Words::One(text), Words::Many(array)) => !&equal(array, text),
        (Comparison::Equal, a, b) => by_row(rows, a, b, |a, b| a == b),
        (Comparison::NotEqual, a, b) => by_row(rows, a, b, |a, b| a != b),
        (Comparison::Less, a, b) => by_row(rows, a, b, |a, b| a < b),
        (Comparison::LessEqual, a, b) => by_row(rows, a, b, |a, b| a <= b),
        (Comparison::Greater, a, b) => by_row(rows, a, b, |a, b| a > b),
        (Comparison::GreaterEqual, a, b) => by_row(rows, a, b, |a, b| a >= b),
    }
}

fn by_row(
    rows: usize,
    a: Words<'_>,
    b: Words<'_>,
    f: impl Fn(&str, &str) -> bool,
) -> BooleanBuffer {
    BooleanBuffer::collect_bool(rows, |row| f(a.get(row), b.get(row)))
}

/// Asks each view of a text column.
pub(super) fn pack_views(array: &StringViewArray, f: impl Fn(u128) -> bool) -> BooleanBuffer {
    pack(array.views(), f)
}

/// Compares a column with one text: a text of up to 12 bytes is its view, and of a longer one the
/// view holds the length and the first four bytes, which settles most rows.
fn equal(array: &StringViewArray, text: &str) -> BooleanBuffer {
    let wanted = arrow_array::builder::make_view(text.as_bytes(), 0, 0);
    if text.len() <= 12 {
        return pack_views(array, |view| view == wanted);
    }
    let near = pack_views(array, |view| view as u64 == wanted as u64);
    if !near.has_true() {
        return near;
    }
    BooleanBuffer::collect_bool(array.len(), |row| near.value(row) && array.value(row) == text)
}

/// Asks which values are in a set of constants. Whether NULL is among them is the caller's matter.
pub(super) fn in_set(rows: usize, operand: &Vector, set: &Set) -> BooleanBuffer {
    match set {
        Set::Long(set) => within(rows, operand.longs(), set),
        Set::Double(set) => within(rows, operand.doubles(), set),
        Set::Wide(set) => within(rows, operand.wides(), set),
        Set::Bool(set) => {
            let bits = operand.truth(rows).values;
            match (set.contains(&true), set.contains(&false)) {
                (true, true) => BooleanBuffer::new_set(rows),
                (true, false) => bits,
                (false, true) => !&bits,
                (false, false) => BooleanBuffer::new_unset(rows),
            }
        }
        Set::Text(set) => match operand.words() {
            Words::One(text) => Bits::all(set.contains(text), rows).values,
            Words::Many(array) if set.len() <= 4 => {
                let mut found = BooleanBuffer::new_unset(rows);
                for text in set {
                    found = &found | &equal(array, text);
                }
                found
            }
            Words::Many(array) => {
                BooleanBuffer::collect_bool(rows, |row| set.contains(array.value(row)))
            }
        },
    }
}

/// Looks into a short list from front to back, into a long sorted one by halves.
fn within<T: Copy + PartialOrd>(rows: usize, operand: Side<'_, T>, set: &[T]) -> BooleanBuffer {
    let has = |value: T| {
        if set.len() <= 16 {
            set.iter().fold(false, |found, item| found | (*item == value))
        } else {
            let at = set.partition_point(|item| *item < value);
            set.get(at).is_some_and(|item| *item == value)
        }
    };
    match operand {
        Side::One(value) => Bits::all(has(value), rows).values,
        Side::Many(values) => pack(values, has),
    }
}
