//! Number: arithmetic and mathematics over slices.
//!
//! Int arithmetic runs wrapping over all rows and remembers only whether some row overflowed; only
//! then a second pass looks for the guilty rows. Floats follow IEEE 754, except that division by
//! zero is an error, as it is in PostgreSQL.

use arrow_buffer::NullBuffer;

use crate::expr::evaluate::Run;
use crate::expr::plan::Arithmetic;
use crate::expr::vector::{Live, Scalar, Side, Vector, map, zip};

pub(super) const DIVISION_BY_ZERO: &str = "division by zero";

/// Computes over two ints.
pub(super) fn ints(
    run: &mut Run<'_>,
    op: Arithmetic,
    left: Side<'_, i64>,
    right: Side<'_, i64>,
    live: Live<'_>,
) -> Vec<i64> {
    match op {
        Arithmetic::Add => checked(run, op, left, right, live, i64::overflowing_add),
        Arithmetic::Subtract => checked(run, op, left, right, live, i64::overflowing_sub),
        Arithmetic::Multiply => checked(run, op, left, right, live, i64::overflowing_mul),
        Arithmetic::Divide => match right {
            Side::One(by) if by != 0 && by != -1 => map(run.rows, left, |a| a / by),
            _ => checked(run, op, left, right, live, |a, b| {
                if b == 0 { (0, true) } else { a.overflowing_div(b) }
            }),
        },
        Arithmetic::Modulo => match right {
            Side::One(by) if by != 0 && by != -1 => map(run.rows, left, |a| a % by),
            _ => checked(run, op, left, right, live, |a, b| {
                // The smallest int modulo -1 is 0; only the processor calls that an overflow.
                if b == 0 { (0, true) } else { (a.wrapping_rem(b), false) }
            }),
        },
    }
}

fn checked(
    run: &mut Run<'_>,
    op: Arithmetic,
    left: Side<'_, i64>,
    right: Side<'_, i64>,
    live: Live<'_>,
    f: impl Fn(i64, i64) -> (i64, bool),
) -> Vec<i64> {
    let mut overflowed = false;
    let values = zip(run.rows, left, right, |a, b| {
        let (value, over) = f(a, b);
        overflowed |= over;
        value
    });
    if overflowed {
        for row in 0..run.rows {
            let (a, b) = (left.get(row), right.get(row));
            if f(a, b).1 && live.has(row) {
                run.fail(
                    row,
                    match (op, b) {
                        (Arithmetic::Divide | Arithmetic::Modulo, 0) => DIVISION_BY_ZERO.into(),
                        _ => format!("{a} {} {b} does not fit into an int", op.sign()),
                    },
                );
            }
        }
    }
    values
}

/// Computes over two floats.
pub(super) fn floats(
    run: &mut Run<'_>,
    op: Arithmetic,
    left: Side<'_, f64>,
    right: Side<'_, f64>,
    live: Live<'_>,
) -> Vec<f64> {
    let rows = run.rows;
    match op {
        Arithmetic::Add => zip(rows, left, right, |a, b| a + b),
        Arithmetic::Subtract => zip(rows, left, right, |a, b| a - b),
        Arithmetic::Multiply => zip(rows, left, right, |a, b| a * b),
        Arithmetic::Divide => {
            refuse_zero(run, right, live);
            zip(rows, left, right, |a, b| a / b)
        }
        Arithmetic::Modulo => {
            refuse_zero(run, right, live);
            zip(rows, left, right, |a, b| a % b)
        }
    }
}

fn refuse_zero(run: &mut Run<'_>, by: Side<'_, f64>, live: Live<'_>) {
    let some = match by {
        Side::One(by) => by == 0.0,
        Side::Many(by) => by.iter().fold(false, |some, by| some | (*by == 0.0)),
    };
    if some {
        for row in 0..run.rows {
            if by.get(row) == 0.0 && live.has(row) {
                run.fail(row, DIVISION_BY_ZERO.into());
            }
        }
    }
}

/// Changes the sign, or takes it away.
pub(super) fn sign(
    run: &mut Run<'_>,
    operand: &Vector,
    live: Live<'_>,
    absolute: bool,
    nulls: Option<NullBuffer>,
) -> Vector {
    if matches!(operand, Vector::Double(_) | Vector::Constant(Scalar::Double(_))) {
        let flip = |a: f64| if absolute { a.abs() } else { -a };
        return Vector::double(map(run.rows, operand.doubles(), flip), nulls);
    }
    if matches!(operand, Vector::Wide(_) | Vector::Constant(Scalar::Wide(_))) {
        // As many digits as before, so this always fits.
        let flip = |a: i128| if absolute { a.wrapping_abs() } else { a.wrapping_neg() };
        return Vector::wide(map(run.rows, operand.wides(), flip), nulls);
    }
    let flip = |a: i64| if absolute { a.wrapping_abs() } else { a.wrapping_neg() };
    let values = operand.longs();
    let flipped = map(run.rows, values, flip);
    if flipped.contains(&i64::MIN) {
        for row in 0..run.rows {
            if values.get(row) == i64::MIN && live.has(row) {
                run.fail(row, format!("the opposite of {} does not fit into an int", i64::MIN));
            }
        }
    }
    Vector::long(flipped, nulls)
}

/// Rounds half away from zero, to `places` digits after the point (before it, if negative).
pub(super) fn round(value: f64, places: i64) -> f64 {
    if places == 0 {
        return value.round();
    }
    let scale = 10_f64.powi(places.clamp(-400, 400) as i32);
    let scaled = value * scale;
    if places > 0 && (!scaled.is_finite() || scaled.abs() >= 9_007_199_254_740_992.0) {
        return value; // it has no digits there that could be rounded off
    }
    if scale == 0.0 {
        return 0.0 * value; // more places before the point than a float has
    }
    scaled.round() / scale
}

/// Computes a float from floats, refusing results that are not a number or not finite although
/// the arguments are.
pub(super) fn defined(
    run: &mut Run<'_>,
    left: Side<'_, f64>,
    right: Side<'_, f64>,
    live: Live<'_>,
    f: impl Fn(f64, f64) -> f64,
    describe: impl Fn(f64, f64) -> String,
) -> Vec<f64> {
    let values = zip(run.rows, left, right, &f);
    for (row, value) in values.iter().enumerate() {
        if !value.is_finite() && live.has(row) {
            let (a, b) = (left.get(row), right.get(row));
            if a.is_finite() && b.is_finite() {
                run.fail(row, describe(a, b));
            }
        }
    }
    values
}
