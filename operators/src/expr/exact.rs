//! Exact: decimals in expressions: of which type an outcome is, and how it is computed. Numbers are in
//! units of their scale; what does not fit its type is an error of the row, never cut.

use crate::decimal::{self, Beyond, Decimal, Misfit, Rounding};
use crate::expr::cast::write_float;
use crate::expr::check::{Checker, Typed};
use crate::expr::evaluate::Run;
use crate::expr::number::DIVISION_BY_ZERO;
use crate::expr::plan::{Arithmetic, Domain, Function, Plan};
use crate::expr::text::quoted;
use crate::expr::vector::{Live, Scalar, Side, Vector, map, zip};
use crate::types::Type;

/// The digits of a timestamp as seconds.
const SECONDS_SCALE: u8 = 6;

/// How far from the point a place of rounding may be.
const PLACES_MAX: i64 = 38;

impl Typed {
    pub(super) fn is_decimal(&self) -> bool {
        matches!(self.kind, Some(Type::Decimal(_)))
    }

    /// Returns the type of decimals that holds it, if it is an exact number; of a literal int the
    /// digits it has.
    pub(super) fn digits(&self) -> Option<Decimal> {
        match (self.kind, self.constant()) {
            (Some(Type::Decimal(digits)), _) => Some(digits),
            (Some(Type::Int), Some(Scalar::Long(value))) => {
                let digits = value.unsigned_abs().checked_ilog10().unwrap_or(0) + 1;
                Some(Decimal::with_whole(digits as u8, 0))
            }
            (Some(Type::Int), _) => Some(Decimal::INT),
            _ => None,
        }
    }
}

impl Checker<'_> {
    /// Checks arithmetic of decimals, with ints or NULL among them.
    pub(super) fn exactly(
        &mut self,
        op: Arithmetic,
        items: [Typed; 2],
        at: usize,
    ) -> Option<Typed> {
        let [left, right] = &items;
        // A NULL is of whatever type the other side is.
        let one = left.digits().or(right.digits())?;
        let two = right.digits().unwrap_or(one);
        let to = match op {
            Arithmetic::Add | Arithmetic::Subtract => one.sum(two),
            Arithmetic::Divide => one.quotient(two),
            Arithmetic::Modulo => one.remainder(two),
            Arithmetic::Multiply => match one.product(two) {
                Some(to) => to,
                None => {
                    let places = one.scale() + two.scale();
                    let message = format!("{one} * {two} has {places} digits behind the point");
                    let hint = "38 is the most: cast one of them to fewer";
                    return self.wrong(at, message, Some(hint));
                }
            },
        };
        let [left, right] = items;
        let left = self.cast_node(left, Type::Decimal(one))?.node;
        let right = self.cast_node(right, Type::Decimal(two))?.node;
        let domain = Domain::Wide { left: one, right: two, to };
        self.make(Plan::Arithmetic { op, domain, left, right }, Type::Decimal(to), at)
    }

    /// Checks `abs`, `round`, `floor` and `ceil` of a decimal.
    pub(super) fn rounded(
        &mut self,
        name: &str,
        usage: &str,
        mut items: Vec<Typed>,
        at: usize,
    ) -> Option<Typed> {
        let subject = items.remove(0);
        let digits = subject.digits()?;
        let arguments = vec![subject.node];
        if name == "abs" {
            let function = Function::Absolute { double: true };
            return self.make(Plan::Call { function, arguments }, Type::Decimal(digits), at);
        }
        let places = match items.pop() {
            None => 0,
            Some(places) => match places.constant() {
                Some(Scalar::Long(places)) => (*places).clamp(-PLACES_MAX, PLACES_MAX),
                Some(Scalar::Null) => {
                    return self.scalar(Scalar::Null, Some(Type::Decimal(digits)), at);
                }
                _ => {
                    let message = "how many digits a decimal is rounded to is a literal int";
                    return self.wrong(
                        places.at,
                        message.to_owned(),
                        Some(&format!("it is {usage}")),
                    );
                }
            },
        };
        let rounding = match name {
            "floor" => Rounding::Down,
            "ceil" | "ceiling" => Rounding::Up,
            _ => Rounding::Nearest,
        };
        let to = digits.rounded(places);
        let function = Function::RoundWide { scale: digits.scale(), places, rounding, to };
        self.make(Plan::Call { function, arguments }, Type::Decimal(to), at)
    }
}

/// Computes over two decimals, each side with its type.
pub(super) fn compute(
    run: &mut Run<'_>,
    op: Arithmetic,
    (left, one): (Side<'_, i128>, Decimal),
    (right, two): (Side<'_, i128>, Decimal),
    to: Decimal,
    live: Live<'_>,
) -> Vec<i128> {
    let kinds = (one, two);
    let f = |a: i128, b: i128| match op {
        Arithmetic::Add => decimal::add(a, b, kinds, to),
        Arithmetic::Subtract => decimal::add(a, b.checked_neg()?, kinds, to),
        Arithmetic::Multiply => decimal::multiply(a, b, to),
        Arithmetic::Divide => decimal::quotient(a, b, kinds, to),
        Arithmetic::Modulo => decimal::remainder(a, b, kinds, to),
    };
    let mut failed = false;
    let values = zip(run.rows, left, right, |a, b| {
        f(a, b).unwrap_or_else(|| {
            failed = true;
            0
        })
    });
    if failed {
        for row in (0..run.rows).filter(|row| live.has(*row)) {
            let (a, b) = (left.get(row), right.get(row));
            if f(a, b).is_none() {
                let is_of_zero = b == 0 && matches!(op, Arithmetic::Divide | Arithmetic::Modulo);
                run.fail(
                    row,
                    match is_of_zero {
                        true => DIVISION_BY_ZERO.into(),
                        false => unfit(
                            &format!(
                                "{} {} {}",
                                decimal::text(a, one.scale()),
                                op.sign(),
                                decimal::text(b, two.scale())
                            ),
                            to,
                        ),
                    },
                );
            }
        }
    }
    values
}

/// Rounds decimals of a scale to so many digits behind the point.
pub(super) fn round(
    run: &mut Run<'_>,
    values: Side<'_, i128>,
    scale: u8,
    (places, rounding): (i64, Rounding),
    to: Decimal,
    live: Live<'_>,
) -> Vec<i128> {
    let rounded = map(run.rows, values, |units| decimal::round(units, scale, places, rounding, to));
    let rounded = rounded.into_iter().enumerate().map(|(row, rounded)| {
        if rounded.is_none() && live.has(row) {
            run.fail(row, unfit(&decimal::text(values.get(row), scale), to));
        }
        rounded.unwrap_or_default()
    });
    rounded.collect()
}

/// Casts the value of a row to a decimal, in units of its scale.
pub(super) fn of(operand: &Vector, from: Type, to: Decimal, row: usize) -> Result<i128, String> {
    match from {
        Type::String => {
            let text = operand.words().get(row);
            to.read(text.trim_ascii().as_bytes(), Beyond::Rounded).map_err(|why| match why {
                Misfit::NoNumber => format!("{} is not a decimal", quoted(text)),
                Misfit::TooFine | Misfit::TooLarge => unfit(&quoted(text), to),
            })
        }
        Type::Float => {
            let value = operand.doubles().get(row);
            let text = format!("{value:e}");
            to.read(text.as_bytes(), Beyond::Rounded).map_err(|_| unfit(&write_float(value), to))
        }
        Type::Decimal(digits) => rescaled(operand.wides().get(row), digits.scale(), to),
        Type::Timestamp => rescaled(operand.longs().get(row).into(), SECONDS_SCALE, to),
        Type::Int => rescaled(operand.longs().get(row).into(), 0, to),
        Type::Bool => rescaled((operand.scalar(row) == Scalar::Bool(true)).into(), 0, to),
    }
}

fn rescaled(units: i128, scale: u8, to: Decimal) -> Result<i128, String> {
    to.rescale(units, scale).ok_or_else(|| unfit(&decimal::text(units, scale), to))
}

/// Casts a decimal to an int, or to a timestamp of so many seconds since 1970.
pub(super) fn whole(units: i128, scale: u8, to: Type) -> Result<i64, String> {
    let wanted = if to == Type::Timestamp { SECONDS_SCALE } else { 0 };
    let rounded = Decimal::with_whole(decimal::PRECISION_MAX, wanted).rescale(units, scale);
    rounded.and_then(|units| i64::try_from(units).ok()).ok_or_else(|| {
        let what = if to == Type::Timestamp { "a timestamp" } else { "an int" };
        format!("{} does not fit into {what}", decimal::text(units, scale))
    })
}

fn unfit(what: &str, to: Decimal) -> String {
    format!("{what} does not fit into a {to}")
}
