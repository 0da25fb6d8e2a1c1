//! Cast: one type into another.
//!
//! | from \ to | string | int | float | bool | timestamp |
//! |---|---|---|---|---|---|
//! | string | | decimal digits | decimal or scientific | true/false, t/f, yes/no, y/n, on/off, 1/0 | RFC 3339, or a date |
//! | int | digits | | nearest float | not 0 | seconds since 1970 |
//! | float | shortest that reads back | nearest, half to even | | not 0 | seconds since 1970 |
//! | bool | true/false | 1/0 | 1/0 | | never |
//! | timestamp | RFC 3339 | whole seconds since 1970 | seconds since 1970 | never | |
//! | decimal | all its digits | nearest, half away from zero | nearest | not 0 | seconds since 1970 |
//!
//! To a decimal: digits with or without an exponent, ints, floats as the shortest text that reads back,
//! 1/0, seconds since 1970, and other decimals; rounded half away from zero.
//!
//! Blanks around a text are ignored. What does not fit is an error of the row, or NULL if lenient.

use std::borrow::Cow;

use arrow_buffer::{BooleanBuffer, BooleanBufferBuilder, NullBuffer};

use crate::decimal;
use crate::expr::evaluate::Run;
use crate::expr::exact;
use crate::expr::instant::{self, MICROS_PER_SECOND};
use crate::expr::text::{build, quoted};
use crate::expr::vector::{Live, Vector, Words, map};
use crate::types::Type;

/// Returns whether there is a cast at all.
pub(super) fn exists(from: Type, to: Type) -> bool {
    !matches!((from, to), (Type::Bool, Type::Timestamp) | (Type::Timestamp, Type::Bool))
}

/// Casts a vector other than a NULL constant.
pub(super) fn cast(
    run: &mut Run<'_>,
    operand: Vector,
    (from, to): (Type, Type),
    lenient: bool,
    active: Option<&BooleanBuffer>,
) -> Vector {
    let nulls = operand.nulls();
    let rows = run.rows;
    let mut cells = Cells { run, live: Live { active, nulls: nulls.as_ref() }, lenient };
    match (from, to) {
        (from, to) if from == to => operand,
        (_, Type::Decimal(to)) => {
            let read = |row: usize| exact::of(&operand, from, to, row);
            let (values, nulls) = cells.each(read, 0);
            Vector::wide(values, nulls)
        }
        (_, Type::String) => {
            let live = cells.live;
            let scalar = |row: usize| Ok(Some(Cow::Owned(write(&operand, from, row))));
            Vector::Text(build(cells.run, live, scalar))
        }
        (Type::String, Type::Int) => cells.longs(operand.words(), "int", read_int),
        (Type::String, Type::Timestamp) => {
            cells.longs(operand.words(), "timestamp", instant::parse)
        }
        (Type::String, Type::Float) => {
            let words = operand.words();
            let (values, nulls) = cells.each(|row| read(words.get(row), "float", read_float), 0.0);
            Vector::double(values, nulls)
        }
        (Type::String, _) => {
            let words = operand.words();
            let (values, nulls) = cells.each(|row| read(words.get(row), "bool", read_bool), false);
            Vector::bits(BooleanBuffer::from(values), nulls)
        }
        (Type::Int, Type::Float) => Vector::double(map(rows, operand.longs(), |a| a as f64), nulls),
        (Type::Int, Type::Bool) => {
            Vector::bits(map(rows, operand.longs(), |a| a != 0).into(), nulls)
        }
        (Type::Int, _) => {
            let longs = operand.longs();
            let (values, nulls) = cells.each(
                |row| {
                    let seconds = longs.get(row);
                    seconds
                        .checked_mul(MICROS_PER_SECOND)
                        .ok_or_else(|| format!("{seconds} seconds do not fit into a timestamp"))
                },
                0,
            );
            Vector::long(values, nulls)
        }
        (Type::Float, Type::Int) => {
            let doubles = operand.doubles();
            let (values, nulls) = cells.each(|row| whole(doubles.get(row), 1.0, "an int"), 0);
            Vector::long(values, nulls)
        }
        (Type::Float, Type::Timestamp) => {
            let doubles = operand.doubles();
            let (values, nulls) = cells.each(|row| whole(doubles.get(row), 1e6, "a timestamp"), 0);
            Vector::long(values, nulls)
        }
        (Type::Float, _) => {
            let doubles = operand.doubles();
            let (values, nulls) = cells.each(
                |row| match doubles.get(row) {
                    value if value.is_nan() => Err("NaN is neither true nor false".to_owned()),
                    value => Ok(value != 0.0),
                },
                false,
            );
            Vector::bits(BooleanBuffer::from(values), nulls)
        }
        (Type::Bool, Type::Float) => {
            let bits = operand.truth(rows).values;
            Vector::double(bits.iter().map(|bit| f64::from(u8::from(bit))).collect(), nulls)
        }
        (Type::Bool, _) => {
            Vector::long(operand.truth(rows).values.iter().map(i64::from).collect(), nulls)
        }
        (Type::Decimal(digits), Type::Float) => {
            let float = |units| decimal::to_float(units, digits.scale());
            Vector::double(map(rows, operand.wides(), float), nulls)
        }
        (Type::Decimal(_), Type::Bool) => {
            Vector::bits(map(rows, operand.wides(), |units| units != 0).into(), nulls)
        }
        (Type::Decimal(digits), to) => {
            let wides = operand.wides();
            let read = |row: usize| exact::whole(wides.get(row), digits.scale(), to);
            let (values, nulls) = cells.each(read, 0);
            Vector::long(values, nulls)
        }
        (Type::Timestamp, Type::Float) => {
            Vector::double(map(rows, operand.longs(), |a| a as f64 / 1e6), nulls)
        }
        (Type::Timestamp, _) => {
            Vector::long(map(rows, operand.longs(), |a| a.div_euclid(MICROS_PER_SECOND)), nulls)
        }
    }
}

struct Cells<'r, 'b, 'l> {
    run: &'r mut Run<'b>,
    live: Live<'l>,
    lenient: bool,
}

impl Cells<'_, '_, '_> {
    /// Computes each live row; a failure is an error of the row, or NULL if lenient.
    fn each<T: Copy>(
        &mut self,
        f: impl Fn(usize) -> Result<T, String>,
        empty: T,
    ) -> (Vec<T>, Option<NullBuffer>) {
        let mut values = Vec::with_capacity(self.run.rows);
        let mut valid = BooleanBufferBuilder::new(self.run.rows);
        for row in 0..self.run.rows {
            let value = if self.live.has(row) { f(row).map(Some) } else { Ok(None) };
            valid.append(matches!(value, Ok(Some(_))));
            values.push(match value {
                Ok(value) => value.unwrap_or(empty),
                Err(message) => {
                    if !self.lenient {
                        self.run.fail(row, message);
                    }
                    empty
                }
            });
        }
        let nulls = NullBuffer::new(valid.finish());
        (values, Some(nulls).filter(|nulls| nulls.null_count() > 0))
    }

    fn longs(&mut self, words: Words<'_>, what: &str, f: fn(&str) -> Option<i64>) -> Vector {
        let (values, nulls) = self.each(|row| read(words.get(row), what, f), 0);
        Vector::long(values, nulls)
    }
}

fn read<T>(text: &str, what: &str, f: fn(&str) -> Option<T>) -> Result<T, String> {
    f(text).ok_or_else(|| {
        let article = if what == "int" { "an" } else { "a" };
        format!("{} is not {article} {what}", quoted(text))
    })
}

fn read_int(text: &str) -> Option<i64> {
    text.trim_ascii().parse().ok()
}

fn read_float(text: &str) -> Option<f64> {
    text.trim_ascii().parse().ok()
}

fn read_bool(text: &str) -> Option<bool> {
    let text = text.trim_ascii();
    let is = |words: &[&str]| words.iter().any(|word| text.eq_ignore_ascii_case(word));
    match () {
        () if is(&["true", "t", "yes", "y", "on", "1"]) => Some(true),
        () if is(&["false", "f", "no", "n", "off", "0"]) => Some(false),
        () => None,
    }
}

fn whole(value: f64, scale: f64, what: &str) -> Result<i64, String> {
    let rounded = (value * scale).round_ties_even();
    // 2^63 is a float; the greatest int is not, so the upper end is open.
    if (-9_223_372_036_854_775_808.0..9_223_372_036_854_775_808.0).contains(&rounded) {
        Ok(rounded as i64)
    } else {
        Err(format!("{} does not fit into {what}", write_float(value)))
    }
}

/// Writes the value of a row as text.
fn write(operand: &Vector, from: Type, row: usize) -> String {
    match from {
        Type::String => operand.words().get(row).to_owned(),
        Type::Int => operand.longs().get(row).to_string(),
        Type::Float => write_float(operand.doubles().get(row)),
        Type::Decimal(digits) => decimal::text(operand.wides().get(row), digits.scale()),
        Type::Timestamp => instant::format(operand.longs().get(row)),
        Type::Bool => match operand.scalar(row) {
            crate::expr::vector::Scalar::Bool(value) => value.to_string(),
            other => unreachable!("a live truth value is not {other:?}"),
        },
    }
}

pub(super) fn write_float(value: f64) -> String {
    let size = value.abs();
    match () {
        () if value.is_nan() => "NaN".into(),
        () if value == f64::INFINITY => "Infinity".into(),
        () if value == f64::NEG_INFINITY => "-Infinity".into(),
        () if size == 0.0 || (1e-5..1e16).contains(&size) => value.to_string(),
        () => format!("{value:e}"),
    }
}
