//! Vector: the values of one subexpression, either one constant or a column of primitives.
//!
//! Owns the loops that every kernel is built from. A kernel decides once per batch what its
//! operands look like ([`Side`]) and then runs a plain loop over slices; no constant is ever
//! spread out into an array. Ints and timestamps share one representation.

use std::sync::Arc;

use arrow_array::{
    Array, ArrayRef, BooleanArray, Decimal128Array, Float64Array, Int64Array, StringViewArray,
    TimestampMicrosecondArray, new_null_array,
};
use arrow_buffer::{BooleanBuffer, Buffer, NullBuffer, ScalarBuffer};

use crate::types::Type;

/// One value; the type of `Null` is known from the plan.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Scalar {
    Null,
    Long(i64),
    Double(f64),
    /// A decimal in units of its scale, which is known from the plan.
    Wide(i128),
    Bool(bool),
    Text(Arc<str>),
}

/// The values of one subexpression for all rows of a batch.
#[derive(Clone, Debug)]
pub(super) enum Vector {
    Constant(Scalar),
    Long(Numbers<i64>),
    Double(Numbers<f64>),
    Wide(Numbers<i128>),
    Bool(Bits),
    Text(StringViewArray),
}

/// A column of primitives.
#[derive(Clone, Debug)]
pub(super) struct Numbers<T: arrow_buffer::ArrowNativeType> {
    pub(super) values: ScalarBuffer<T>,
    pub(super) nulls: Option<NullBuffer>,
}

/// A column of truth values.
#[derive(Clone, Debug)]
pub(super) struct Bits {
    pub(super) values: BooleanBuffer,
    pub(super) nulls: Option<NullBuffer>,
}

/// One operand of a kernel over primitives.
#[derive(Clone, Copy)]
pub(super) enum Side<'a, T> {
    One(T),
    Many(&'a [T]),
}

impl<T: Copy> Side<'_, T> {
    pub(super) fn get(&self, row: usize) -> T {
        match self {
            Side::One(value) => *value,
            Side::Many(values) => values[row],
        }
    }
}

/// One operand of a kernel over text.
#[derive(Clone, Copy)]
pub(super) enum Words<'a> {
    One(&'a str),
    Many(&'a StringViewArray),
}

impl<'a> Words<'a> {
    pub(super) fn get(&self, row: usize) -> &'a str {
        match self {
            Words::One(text) => text,
            Words::Many(array) => array.value(row),
        }
    }
}

/// Which rows a kernel may look at: those that somebody wants, without those that are NULL.
#[derive(Clone, Copy)]
pub(super) struct Live<'a> {
    pub(super) active: Option<&'a BooleanBuffer>,
    pub(super) nulls: Option<&'a NullBuffer>,
}

impl Live<'_> {
    pub(super) fn has(&self, row: usize) -> bool {
        self.active.is_none_or(|active| active.value(row))
            && self.nulls.is_none_or(|nulls| nulls.is_valid(row))
    }
}

impl Vector {
    /// Reads a column of a batch; `None` when the array is not the one of `kind`.
    pub(super) fn of_column(array: &ArrayRef, kind: Type) -> Option<Self> {
        let any = array.as_any();
        let nulls = array.nulls().filter(|nulls| nulls.null_count() > 0).cloned();
        Some(match kind {
            Type::String => Vector::Text(any.downcast_ref::<StringViewArray>()?.clone()),
            Type::Int => {
                let values = any.downcast_ref::<Int64Array>()?.values().clone();
                Vector::Long(Numbers { values, nulls })
            }
            Type::Timestamp => {
                let values = any.downcast_ref::<TimestampMicrosecondArray>()?.values().clone();
                Vector::Long(Numbers { values, nulls })
            }
            Type::Float => {
                let values = any.downcast_ref::<Float64Array>()?.values().clone();
                Vector::Double(Numbers { values, nulls })
            }
            Type::Decimal(_) if *array.data_type() == kind.arrow() => {
                let values = any.downcast_ref::<Decimal128Array>()?.values().clone();
                Vector::Wide(Numbers { values, nulls })
            }
            Type::Decimal(_) => return None,
            Type::Bool => {
                let values = any.downcast_ref::<BooleanArray>()?.values().clone();
                Vector::Bool(Bits { values, nulls })
            }
        })
    }

    /// Returns the Arrow array of this type; `void` marks rows that must hold NULL.
    pub(super) fn into_array(self, kind: Type, rows: usize, void: Option<NullBuffer>) -> ArrayRef {
        let nulls = match &void {
            Some(_) => NullBuffer::union(self.nulls().as_ref(), void.as_ref()),
            None => self.nulls(),
        };
        match (self.spread(rows), kind) {
            (Vector::Long(longs), Type::Timestamp) => {
                Arc::new(TimestampMicrosecondArray::new(longs.values, nulls).with_timezone("UTC"))
            }
            (Vector::Long(longs), _) => Arc::new(Int64Array::new(longs.values, nulls)),
            (Vector::Double(doubles), _) => Arc::new(Float64Array::new(doubles.values, nulls)),
            (Vector::Wide(wides), _) => {
                Arc::new(Decimal128Array::new(wides.values, nulls).with_data_type(kind.arrow()))
            }
            (Vector::Bool(bits), _) => Arc::new(BooleanArray::new(bits.values, nulls)),
            (Vector::Text(text), _) if void.is_none() => Arc::new(text),
            (Vector::Text(text), _) => {
                let (views, buffers, _) = text.into_parts();
                match StringViewArray::try_new(views, buffers, nulls) {
                    Ok(array) => Arc::new(array),
                    // The parts came out of a valid array; only the set of NULLs grew.
                    Err(error) => unreachable!("a valid array stays valid: {error}"),
                }
            }
            (Vector::Constant(_), _) => new_null_array(&kind.arrow(), rows),
        }
    }

    /// Turns a constant other than NULL into a column.
    pub(super) fn spread(self, rows: usize) -> Vector {
        match self {
            Vector::Constant(Scalar::Long(value)) => Vector::long(vec![value; rows], None),
            Vector::Constant(Scalar::Double(value)) => Vector::double(vec![value; rows], None),
            Vector::Constant(Scalar::Wide(value)) => Vector::wide(vec![value; rows], None),
            Vector::Constant(Scalar::Bool(value)) => Vector::Bool(Bits::all(value, rows)),
            Vector::Constant(Scalar::Text(text)) => {
                Vector::Text(std::iter::repeat_n(Some(text.as_ref()), rows).collect())
            }
            other => other,
        }
    }

    /// Returns the value of one row.
    pub(super) fn scalar(&self, row: usize) -> Scalar {
        if self.nulls().is_some_and(|nulls| nulls.is_null(row)) {
            return Scalar::Null;
        }
        match self {
            Vector::Constant(scalar) => scalar.clone(),
            Vector::Long(longs) => Scalar::Long(longs.values[row]),
            Vector::Double(doubles) => Scalar::Double(doubles.values[row]),
            Vector::Wide(wides) => Scalar::Wide(wides.values[row]),
            Vector::Bool(bits) => Scalar::Bool(bits.values.value(row)),
            Vector::Text(text) => Scalar::Text(text.value(row).into()),
        }
    }

    pub(super) fn long(values: Vec<i64>, nulls: Option<NullBuffer>) -> Self {
        Vector::Long(Numbers { values: values.into(), nulls })
    }

    pub(super) fn double(values: Vec<f64>, nulls: Option<NullBuffer>) -> Self {
        Vector::Double(Numbers { values: values.into(), nulls })
    }

    pub(super) fn wide(values: Vec<i128>, nulls: Option<NullBuffer>) -> Self {
        Vector::Wide(Numbers { values: values.into(), nulls })
    }

    pub(super) fn bits(values: BooleanBuffer, nulls: Option<NullBuffer>) -> Self {
        Vector::Bool(Bits { values, nulls })
    }

    pub(super) fn is_null_constant(&self) -> bool {
        matches!(self, Vector::Constant(Scalar::Null))
    }

    /// Returns which rows are NULL, if any; a NULL constant is asked for separately.
    pub(super) fn nulls(&self) -> Option<NullBuffer> {
        match self {
            Vector::Constant(_) => None,
            Vector::Long(longs) => longs.nulls.clone(),
            Vector::Double(doubles) => doubles.nulls.clone(),
            Vector::Wide(wides) => wides.nulls.clone(),
            Vector::Bool(bits) => bits.nulls.clone(),
            Vector::Text(text) => text.nulls().filter(|nulls| nulls.null_count() > 0).cloned(),
        }
    }

    /// Returns a bit for each row that is not NULL.
    pub(super) fn valid(&self, rows: usize) -> BooleanBuffer {
        if self.is_null_constant() {
            return BooleanBuffer::new_unset(rows);
        }
        match self.nulls() {
            Some(nulls) => nulls.into_inner(),
            None => BooleanBuffer::new_set(rows),
        }
    }

    /// The operand as ints or timestamps.
    pub(super) fn longs(&self) -> Side<'_, i64> {
        match self {
            Vector::Constant(Scalar::Long(value)) => Side::One(*value),
            Vector::Long(longs) => Side::Many(&longs.values),
            other => unreachable!("the checker promised ints, not {other:?}"),
        }
    }

    /// The operand as floats.
    pub(super) fn doubles(&self) -> Side<'_, f64> {
        match self {
            Vector::Constant(Scalar::Double(value)) => Side::One(*value),
            Vector::Double(doubles) => Side::Many(&doubles.values),
            other => unreachable!("the checker promised floats, not {other:?}"),
        }
    }

    /// The operand as decimals, in units of their scale.
    pub(super) fn wides(&self) -> Side<'_, i128> {
        match self {
            Vector::Constant(Scalar::Wide(value)) => Side::One(*value),
            Vector::Wide(wides) => Side::Many(&wides.values),
            other => unreachable!("the checker promised decimals, not {other:?}"),
        }
    }

    /// The operand as text.
    pub(super) fn words(&self) -> Words<'_> {
        match self {
            Vector::Constant(Scalar::Text(text)) => Words::One(text),
            Vector::Text(text) => Words::Many(text),
            other => unreachable!("the checker promised text, not {other:?}"),
        }
    }

    /// The operand as truth values, a constant spread out.
    pub(super) fn truth(&self, rows: usize) -> Bits {
        match self {
            Vector::Bool(bits) => bits.clone(),
            Vector::Constant(Scalar::Bool(value)) => Bits::all(*value, rows),
            Vector::Constant(Scalar::Null) => Bits {
                values: BooleanBuffer::new_unset(rows),
                nulls: Some(NullBuffer::new_null(rows)),
            },
            other => unreachable!("the checker promised truth values, not {other:?}"),
        }
    }
}

impl Bits {
    pub(super) fn all(value: bool, rows: usize) -> Self {
        let values =
            if value { BooleanBuffer::new_set(rows) } else { BooleanBuffer::new_unset(rows) };
        Bits { values, nulls: None }
    }

    /// Returns the rows that are true (and not NULL).
    pub(super) fn yes(&self) -> BooleanBuffer {
        match &self.nulls {
            Some(nulls) => &self.values & nulls.inner(),
            None => self.values.clone(),
        }
    }

    /// Returns the rows that are false (and not NULL).
    pub(super) fn no(&self) -> BooleanBuffer {
        match &self.nulls {
            Some(nulls) => &!&self.values & nulls.inner(),
            None => !&self.values,
        }
    }

    /// Makes a column from the rows that are true and those that are false; the rest is NULL.
    pub(super) fn from_yes_no(yes: BooleanBuffer, no: &BooleanBuffer) -> Self {
        let known = NullBuffer::new(&yes | no);
        Bits { values: yes, nulls: Some(known).filter(|nulls| nulls.null_count() > 0) }
    }
}

/// Applies `f` to each value.
pub(super) fn map<A: Copy, R: Clone>(rows: usize, a: Side<'_, A>, f: impl Fn(A) -> R) -> Vec<R> {
    match a {
        Side::One(a) => vec![f(a); rows],
        Side::Many(a) => a.iter().map(|a| f(*a)).collect(),
    }
}

/// Applies `f` to each pair of values.
pub(super) fn zip<A: Copy, B: Copy, R: Clone>(
    rows: usize,
    a: Side<'_, A>,
    b: Side<'_, B>,
    mut f: impl FnMut(A, B) -> R,
) -> Vec<R> {
    match (a, b) {
        (Side::One(a), Side::One(b)) => vec![f(a, b); rows],
        (Side::One(a), Side::Many(b)) => b.iter().map(|b| f(a, *b)).collect(),
        (Side::Many(a), Side::One(b)) => a.iter().map(|a| f(*a, b)).collect(),
        (Side::Many(a), Side::Many(b)) => a.iter().zip(b).map(|(a, b)| f(*a, *b)).collect(),
    }
}

/// Asks `f` of each pair of values.
pub(super) fn ask<A: Copy>(
    rows: usize,
    a: Side<'_, A>,
    b: Side<'_, A>,
    f: impl Fn(A, A) -> bool,
) -> BooleanBuffer {
    match (a, b) {
        (Side::One(a), Side::One(b)) => Bits::all(f(a, b), rows).values,
        (Side::One(a), Side::Many(b)) => pack(b, |b| f(a, b)),
        (Side::Many(a), Side::One(b)) => pack(a, |a| f(a, b)),
        (Side::Many(a), Side::Many(b)) => {
            let mut words = Vec::with_capacity(rows.div_ceil(64));
            let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<64>(), b.as_chunks::<64>());
            for (a, b) in a.iter().zip(b) {
                words.push(word(&std::array::from_fn(|lane| u8::from(f(a[lane], b[lane])))));
            }
            words.push(rest(a_rest.iter().zip(b_rest).map(|(a, b)| f(*a, *b))));
            BooleanBuffer::new(Buffer::from_vec(words), 0, rows)
        }
    }
}

/// Asks `f` of each value: compares into bytes, which vectorises, and packs them into bits.
pub(super) fn pack<T: Copy>(values: &[T], f: impl Fn(T) -> bool) -> BooleanBuffer {
    let mut words = Vec::with_capacity(values.len().div_ceil(64));
    let (chunks, tail) = values.as_chunks::<64>();
    for chunk in chunks {
        words.push(word(&chunk.map(|value| u8::from(f(value)))));
    }
    words.push(rest(tail.iter().map(|value| f(*value))));
    BooleanBuffer::new(Buffer::from_vec(words), 0, values.len())
}

/// Packs the fewer than 64 answers at the end.
fn rest(answers: impl Iterator<Item = bool>) -> u64 {
    answers.enumerate().fold(0, |word, (lane, answer)| word | u64::from(answer) << lane)
}

/// Gathers the lowest bit of each of 64 bytes: the multiplication moves bit 0 of byte i to bit
/// 56 + i, and no two products meet.
fn word(lanes: &[u8; 64]) -> u64 {
    let (eights, _) = lanes.as_chunks::<8>();
    let mut word = 0;
    for (index, eight) in eights.iter().enumerate() {
        let byte = u64::from_le_bytes(*eight).wrapping_mul(0x0102_0408_1020_4080) >> 56;
        word |= byte << (8 * index);
    }
    word
}
