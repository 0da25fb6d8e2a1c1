//! Interval: spans of time inside an expression. Part of the checker; pure.
//!
//! A span is a number of microseconds. It is what `INTERVAL '5 minutes'` and the difference of two
//! timestamps are, and lives only inside an expression: no column holds one. A day has 24 hours,
//! since all time is UTC; a month has no fixed length and is refused.

use sqlparser::ast::{BinaryOperator, DateTimeField, Expr as Ast, Interval, Value};

use crate::expr::check::{Checker, Typed};
use crate::expr::plan::{Arithmetic, Comparison, Domain, Function, Plan, Unit};
use crate::expr::vector::Scalar;
use crate::types::Type;

/// Names of units and their microseconds.
const UNITS: [(&str, i64); 17] = [
    ("microsecond", 1),
    ("us", 1),
    ("millisecond", 1_000),
    ("ms", 1_000),
    ("second", SECOND),
    ("sec", SECOND),
    ("s", SECOND),
    ("minute", 60 * SECOND),
    ("min", 60 * SECOND),
    ("m", 60 * SECOND),
    ("hour", 3_600 * SECOND),
    ("hr", 3_600 * SECOND),
    ("h", 3_600 * SECOND),
    ("day", 86_400 * SECOND),
    ("d", 86_400 * SECOND),
    ("week", 7 * 86_400 * SECOND),
    ("w", 7 * 86_400 * SECOND),
];
const SECOND: i64 = 1_000_000;
const HINT: &str = "write it like INTERVAL '90 seconds', '1 day 12 hours' or '01:30:00'";

/// Why a text is no span of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wrong {
    Text,
    Calendar,
    Large,
}

/// Reads `[-]N[.F] UNIT ...` and `[-]HH:MM[:SS[.F]]`, in microseconds; `field` is the unit of a bare
/// number.
fn parse(text: &str, field: Option<&str>) -> Result<i64, Wrong> {
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(Wrong::Text);
    }
    let mut total = 0_i64;
    while !rest.is_empty() {
        let (negative, digits) = match rest.strip_prefix('-') {
            Some(digits) => (true, digits),
            None => (false, rest.strip_prefix('+').unwrap_or(rest)),
        };
        let end = digits.find(|next: char| !(next.is_ascii_digit() || ".:".contains(next)));
        let (number, after) = digits.split_at(end.unwrap_or(digits.len()));
        let micros = if number.contains(':') {
            rest = after.trim_start();
            clock(number)?
        } else {
            let after = after.trim_start();
            let end = after.find(|next: char| !next.is_ascii_alphabetic());
            let (unit, after) = after.split_at(end.unwrap_or(after.len()));
            rest = after.trim_start();
            scaled(number, factor(if unit.is_empty() { field } else { Some(unit) })?)?
        };
        let micros = if negative { -micros } else { micros };
        total = total.checked_add(micros).ok_or(Wrong::Large)?;
    }
    Ok(total)
}

fn factor(unit: Option<&str>) -> Result<i64, Wrong> {
    let unit = unit.ok_or(Wrong::Text)?.to_ascii_lowercase();
    let one = |name: &str| UNITS.iter().find(|(known, _)| *known == name).map(|(_, size)| *size);
    let singular = unit.strip_suffix('s').filter(|singular| singular.len() > 1);
    match one(&unit).or_else(|| one(singular?)) {
        Some(size) => Ok(size),
        None => match singular.unwrap_or(&unit) {
            "month" | "mon" | "quarter" | "year" | "yr" | "decade" | "century" => {
                Err(Wrong::Calendar)
            }
            _ => Err(Wrong::Text),
        },
    }
}

/// Multiplies a decimal number by a whole one, without rounding errors; what is below a microsecond
/// is cut off.
fn scaled(number: &str, factor: i64) -> Result<i64, Wrong> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') || fraction.len() > 12 {
        return Err(Wrong::Text);
    }
    let number = |digits: &str| match digits {
        "" => Ok(0),
        digits => digits.parse::<i64>().map_err(|_| Wrong::Large),
    };
    let parts = 10_i128.pow(fraction.len() as u32);
    let part = i128::from(number(fraction)?) * i128::from(factor) / parts;
    let whole = i128::from(number(whole)?) * i128::from(factor);
    i64::try_from(whole + part).map_err(|_| Wrong::Large)
}

fn clock(text: &str) -> Result<i64, Wrong> {
    let mut parts = text.split(':');
    let (Some(hours), Some(minutes)) = (parts.next(), parts.next()) else {
        return Err(Wrong::Text);
    };
    let seconds = parts.next().unwrap_or("0");
    if parts.next().is_some() || minutes.contains('.') || hours.contains('.') {
        return Err(Wrong::Text);
    }
    let micros = [(hours, 3_600 * SECOND), (minutes, 60 * SECOND), (seconds, SECOND)]
        .map(|(part, factor)| scaled(part, factor));
    let below_an_hour = |micros: Result<i64, Wrong>, limit: i64| match micros {
        Ok(micros) if micros < limit => Ok(micros),
        Ok(_) => Err(Wrong::Text),
        wrong => wrong,
    };
    let [hours, minutes, seconds] = micros;
    let rest = below_an_hour(minutes, 3_600 * SECOND)? + below_an_hour(seconds, 60 * SECOND)?;
    hours?.checked_add(rest).ok_or(Wrong::Large)
}

/// Returns the name of a unit of time as it was written, in lower case.
pub(super) fn unit_name(field: &DateTimeField) -> String {
    field.to_string().to_lowercase()
}

impl Checker<'_> {
    /// Refuses a span of time where a value is wanted.
    pub(super) fn no_span(&mut self, typed: Typed) -> Option<Typed> {
        if !typed.span {
            return Some(typed);
        }
        let hint = "it stands beside a timestamp, as in t + INTERVAL '1 hour'; \
                    extract(epoch FROM a - b) gives seconds";
        self.wrong(typed.at, "a span of time cannot stand here".into(), Some(hint))
    }

    /// Checks an `INTERVAL` literal.
    pub(super) fn interval(&mut self, interval: &Interval, at: usize) -> Option<Typed> {
        let Ast::Value(value) = interval.value.as_ref() else {
            return self.wrong(at, "INTERVAL takes a literal".into(), Some(HINT));
        };
        let text = match &value.value {
            Value::SingleQuotedString(text) | Value::Number(text, _) => text,
            _ => return self.wrong(at, "INTERVAL takes a literal".into(), Some(HINT)),
        };
        if interval.last_field.is_some() {
            return self.wrong(at, "INTERVAL takes one unit here".into(), Some(HINT));
        }
        let field = interval.leading_field.as_ref().map(unit_name);
        match parse(text, field.as_deref()) {
            Ok(micros) => {
                let typed = self.scalar(Scalar::Long(micros), Some(Type::Int), at)?;
                Some(Typed { span: true, ..typed })
            }
            Err(wrong) => {
                let (message, hint) = match wrong {
                    Wrong::Text => (format!("'{text}' is not a span of time"), HINT),
                    Wrong::Large => (format!("the span of time '{text}' is too long"), HINT),
                    Wrong::Calendar => (
                        "months and years have no fixed length".to_owned(),
                        "say it in days, as in INTERVAL '30 days'",
                    ),
                };
                self.wrong(at, message, Some(hint))
            }
        }
    }

    /// Returns whether an operator between these two is about spans of time.
    pub(super) fn is_of_time(op: &BinaryOperator, left: &Typed, right: &Typed) -> bool {
        let time = |one: &Typed| one.kind == Some(Type::Timestamp);
        left.span || right.span || (*op == BinaryOperator::Minus && time(left) && time(right))
    }

    /// Checks an operator of which a side is a span, or whose outcome is one.
    pub(super) fn pair_of_time(
        &mut self,
        op: &BinaryOperator,
        left: Typed,
        right: Typed,
    ) -> Option<Typed> {
        #[derive(Clone, Copy, PartialEq)]
        enum Side {
            Time,
            Span,
            Int,
            Other,
        }
        let side = |one: &Typed| match one.kind {
            _ if one.span => Side::Span,
            Some(Type::Timestamp) => Side::Time,
            Some(Type::Int) => Side::Int,
            _ => Side::Other,
        };
        let comparison = match op {
            BinaryOperator::Eq => Some(Comparison::Equal),
            BinaryOperator::NotEq => Some(Comparison::NotEqual),
            BinaryOperator::Lt => Some(Comparison::Less),
            BinaryOperator::LtEq => Some(Comparison::LessEqual),
            BinaryOperator::Gt => Some(Comparison::Greater),
            BinaryOperator::GtEq => Some(Comparison::GreaterEqual),
            _ => None,
        };
        let at = left.at;
        let sides = (side(&left), side(&right));
        if let Some(op) = comparison {
            if sides == (Side::Span, Side::Span) {
                let (left, right) = (left.node, right.node);
                return self.make(Plan::Compare { op, left, right }, Type::Bool, at);
            }
            let hint = "compare a - b, or extract(epoch FROM a - b), with it";
            let message = "a span of time is compared with a span of time".to_owned();
            return self.wrong(at, message, Some(hint));
        }
        let (op, kind, span) = match (op, sides) {
            (BinaryOperator::Plus, (Side::Time, Side::Span) | (Side::Span, Side::Time)) => {
                (Arithmetic::Add, Type::Timestamp, false)
            }
            (BinaryOperator::Minus, (Side::Time, Side::Span)) => {
                (Arithmetic::Subtract, Type::Timestamp, false)
            }
            (BinaryOperator::Minus, (Side::Time, Side::Time)) => {
                (Arithmetic::Subtract, Type::Int, true)
            }
            (BinaryOperator::Plus, (Side::Span, Side::Span)) => (Arithmetic::Add, Type::Int, true),
            (BinaryOperator::Minus, (Side::Span, Side::Span)) => {
                (Arithmetic::Subtract, Type::Int, true)
            }
            (BinaryOperator::Multiply, (Side::Span, Side::Int) | (Side::Int, Side::Span)) => {
                (Arithmetic::Multiply, Type::Int, true)
            }
            _ => {
                let hint = "a span of time is added to or taken from a timestamp, or times an int";
                return self.wrong(at, format!("`{op}` does not fit a span of time"), Some(hint));
            }
        };
        let (left, right) = (left.node, right.node);
        let plan = Plan::Arithmetic { op, domain: Domain::Long, left, right };
        Some(Typed { span, ..self.make(plan, kind, at)? })
    }

    /// Checks `extract(epoch FROM span)`: its seconds.
    pub(super) fn seconds(&mut self, unit: &str, subject: Typed, at: usize) -> Option<Typed> {
        if unit != "epoch" {
            let hint = "extract(epoch FROM a - b) gives its seconds";
            return self.wrong(subject.at, "a span of time has no parts".into(), Some(hint));
        }
        let function = Function::DatePart(Unit::Epoch);
        self.make(Plan::Call { function, arguments: vec![subject.node] }, Type::Float, at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read_as_they_are_written() {
        let check = |text: &str, micros: i64| assert_eq!(parse(text, None), Ok(micros), "{text}");
        check("1 minute", 60 * SECOND);
        check("90s", 90 * SECOND);
        check(" 1 day 2 hours ", 26 * 3_600 * SECOND);
        check("-5 minutes", -300 * SECOND);
        check("1 hour -5 minutes", 55 * 60 * SECOND);
        check("1.5 hours", 5_400 * SECOND);
        check("0.000001 s", 1);
        check("01:30:00", 5_400 * SECOND);
        check("-00:00:01.5", -1_500_000);
        check("2 weeks", 14 * 86_400 * SECOND);
        check("1500 ms", 1_500_000);
        check("7 us", 7);
        assert_eq!(parse("5", Some("minute")), Ok(300 * SECOND));
    }

    #[test]
    fn what_is_no_span_is_refused() {
        let check = |text: &str, wrong: Wrong| assert_eq!(parse(text, None), Err(wrong), "{text}");
        for text in ["", "5", "minute", "5 parsecs", "1:2:3:4", "00:61", "1..5 s", "- s", "x"] {
            check(text, Wrong::Text);
        }
        check("1 month", Wrong::Calendar);
        check("2 years", Wrong::Calendar);
        check("99999999999 weeks", Wrong::Large);
        check("99999999999999999999 s", Wrong::Large);
    }
}
