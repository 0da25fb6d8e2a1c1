//! Samples: batches that the tests of both codecs and of the partition share.

use std::sync::Arc;

use arrow_array::{
    ArrayRef, BinaryViewArray, BooleanArray, Decimal128Array, Float64Array, Int64Array,
    RecordBatch, StringViewArray, TimestampMicrosecondArray, UInt64Array,
};
use proptest::prelude::*;

use super::{Codec, DecodeError};
use crate::batch::{Batch, Origin, rows_without_columns};
use crate::decimal::Decimal;
use crate::types::{Column, Schema, Type};

/// One row: all types, the raw record, and a position.
type Row = (Option<String>, Option<i64>, Option<f64>, Option<bool>, Option<i64>, Vec<u8>, u64);

/// Returns a batch of these rows.
pub(super) fn batch(rows: &[Row], columns: bool, raw: bool, positions: bool) -> Batch {
    let mut names = vec!["text", "", "float", "whether"].into_iter();
    let mut schema: Vec<Column> = [Type::String, Type::Int, Type::Float, Type::Bool]
        .map(|kind| Column::new(names.next().unwrap(), kind))
        .to_vec();
    schema.push(Column::new("a timestamp with a name of some length: \u{1f30a}", Type::Timestamp));
    let money = Type::Decimal(Decimal::new(37, 18).unwrap());
    schema.push(Column::new("money", money));
    let units = |value: i64| i128::from(value) * 1_000_000_007_000_000_009;
    let decimals: Decimal128Array = rows.iter().map(|row| row.1.map(units)).collect();
    let times: TimestampMicrosecondArray = rows.iter().map(|row| row.4).collect();
    let arrays: Vec<ArrayRef> = vec![
        Arc::new(rows.iter().map(|row| row.0.as_deref()).collect::<StringViewArray>()),
        Arc::new(rows.iter().map(|row| row.1).collect::<Int64Array>()),
        Arc::new(rows.iter().map(|row| row.2).collect::<Float64Array>()),
        Arc::new(rows.iter().map(|row| row.3).collect::<BooleanArray>()),
        Arc::new(times.with_data_type(Type::Timestamp.arrow())),
        Arc::new(decimals.with_data_type(money.arrow())),
    ];
    let columns = if columns {
        RecordBatch::try_new(Schema::new(schema).arrow(), arrays).unwrap()
    } else {
        rows_without_columns(rows.len())
    };
    Batch {
        columns,
        raw: raw.then(|| BinaryViewArray::from_iter_values(rows.iter().map(|row| &row.5))),
        positions: positions.then(|| UInt64Array::from_iter_values(rows.iter().map(|row| row.6))),
        diff: if rows.len().is_multiple_of(2) { 1 } else { -1 },
        origin: Origin { submission: u64::MAX, chunk: 7, offset: 1 << 40 },
    }
}

/// Any row: short and long texts, NULLs, bytes that are no UTF-8, floats of every bit pattern.
fn row() -> impl Strategy<Value = Row> {
    let text = prop_oneof!["[a-z]{0,4}", "[a-z\u{e9}]{8,14}", "\\PC{30,60}"];
    (
        proptest::option::of(text),
        proptest::option::of(any::<i64>()),
        proptest::option::of(any::<u64>().prop_map(f64::from_bits)),
        proptest::option::of(any::<bool>()),
        proptest::option::of(any::<i64>()),
        proptest::collection::vec(any::<u8>(), 0..40),
        any::<u64>(),
    )
}

/// Any batch: with and without columns, raw records and positions; sliced; filtered.
pub(super) fn any_batch() -> impl Strategy<Value = Batch> {
    let rows = proptest::collection::vec(row(), 1..40);
    let keep = proptest::collection::vec(any::<bool>(), 40);
    (rows, any::<[bool; 4]>(), 0..8_usize, keep).prop_map(|(rows, on, skip, keep)| {
        let whole = batch(&rows, on[0], on[1], on[2]);
        let skip = skip.min(rows.len());
        let left = rows.len() - skip;
        let sliced = Batch {
            columns: whole.columns.slice(skip, left),
            raw: whole.raw.map(|raw| raw.slice(skip, left)),
            positions: whole.positions.map(|positions| positions.slice(skip, left)),
            ..whole
        };
        if on[3] { sliced.filter(&BooleanArray::from(keep[..left].to_vec())) } else { sliced }
    })
}

/// Returns everything that a batch says, floats by their bits.
pub(super) fn told(batch: &Batch) -> String {
    use arrow_array::cast::AsArray;
    let floats = batch.columns.columns().iter().filter_map(|column| {
        let floats = column.as_primitive_opt::<arrow_array::types::Float64Type>()?;
        Some(floats.iter().map(|float| float.map(f64::to_bits)).collect::<Vec<_>>())
    });
    format!(
        "{} {:?} {:?} {:?} {} {:?} {:?}",
        batch.len(),
        batch.columns,
        batch.raw,
        batch.positions,
        batch.diff,
        batch.origin,
        floats.collect::<Vec<_>>(),
    )
}

pub(super) fn encode<C: Codec>(batch: &Batch) -> Vec<u8> {
    let mut bytes = Vec::new();
    C::encode(batch, &mut bytes).unwrap();
    bytes
}

/// Checks that a batch survives, and that its length is told beforehand and is a multiple of 8.
#[track_caller]
pub(super) fn check<C: Codec>(given: &Batch) {
    let bytes = encode::<C>(given);
    assert_eq!(bytes.len(), C::length(given));
    assert_eq!(bytes.len() % 8, 0);
    let read = C::decode(&bytes).unwrap();
    assert_eq!(told(&read), told(given));
    if !given.columns.columns().iter().any(has_nan) {
        assert_eq!(read.columns, given.columns);
    }
    // The bytes need not be aligned where they arrive.
    let shifted = [&[0], &bytes[..]].concat();
    assert_eq!(told(&C::decode(&shifted[1..]).unwrap()), told(given));
}

fn has_nan(column: &ArrayRef) -> bool {
    use arrow_array::cast::AsArray;
    let floats = column.as_primitive_opt::<arrow_array::types::Float64Type>();
    floats.is_some_and(|floats| floats.iter().flatten().any(f64::is_nan))
}

/// Runs the fixed cases that every codec must pass.
pub(super) fn check_corners<C: Codec>() {
    let long = "thirteen chars and many more".repeat(9);
    let rows: Vec<Row> = vec![
        (Some(String::new()), Some(i64::MIN), Some(-0.0), Some(true), Some(0), vec![], 0),
        (None, None, None, None, None, vec![0xff, 0xfe, 0], u64::MAX),
        (
            Some("twelve chars".into()),
            Some(0),
            Some(f64::NAN),
            Some(false),
            Some(1),
            vec![9; 12],
            1,
        ),
        (Some("thirteen char".into()), Some(1), Some(5e-324), None, Some(-1), vec![8; 13], 2),
        (Some(long), Some(i64::MAX), Some(f64::MAX), Some(true), None, vec![b'\n'; 300], 3),
    ];
    for on in 0..8 {
        check::<C>(&batch(&rows, on & 1 == 0, on & 2 == 0, on & 4 == 0));
        check::<C>(&batch(&[], on & 1 == 0, on & 2 == 0, on & 4 == 0));
    }
    check::<C>(&Batch::default());
    check::<C>(&Batch { columns: rows_without_columns(1_000_000), ..Batch::default() });

    // One row of a large chunk takes only its own bytes along.
    let big: Vec<Row> = (0..1000).map(|_| rows[4].clone()).collect();
    let one = batch(&big, true, true, true);
    let one = Batch {
        columns: one.columns.slice(500, 1),
        raw: one.raw.map(|raw| raw.slice(500, 1)),
        positions: one.positions.map(|positions| positions.slice(500, 1)),
        ..one
    };
    check::<C>(&one);
    assert!(C::length(&one) < 1300, "{}", C::length(&one));
}

/// Cuts and damages the bytes of a batch, which must be refused or read, never worse.
pub(super) fn check_damage<C: Codec>() {
    let rows: Vec<Row> = (0..9)
        .map(|n| (Some(format!("text number {n}, a long one")), None, None, None, None, vec![n], 5))
        .collect();
    let bytes = encode::<C>(&batch(&rows, true, true, true));
    for length in 0..bytes.len() {
        let cut: Result<Batch, DecodeError> = C::decode(&bytes[..length]);
        assert!(cut.is_err(), "cut at {length}");
    }
    assert!(C::decode(&[&bytes[..], &[0; 8]].concat()).is_err(), "more bytes than a batch");
}
