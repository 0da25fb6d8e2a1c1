//! Expect: what must be true of each record; one that breaks it is rejected, or fails more than itself.
//!
//! | input  | batches                                                                     |
//! | output | one tag: the rows that break no condition                                    |
//! | state  | none                                                                        |
//! | errors | a row that breaks a condition (`expect`), or on which one fails (`expression`) |
//!
//! As in SQL's CHECK a condition is broken when it is false; NULL is not false. A row that breaks several
//! is told once: by the one that fails the most, of those alike by the first.

use std::collections::{BTreeMap, BTreeSet};

use arrow_array::{Array, BooleanArray};

use crate::batch::{Batch, Shape};
use crate::expr::Expr;
use crate::flow::{Emit, Stateless, reject_row, truth};
use crate::reject::{OnError, Reject, RejectCode};

/// A condition that every record must meet.
#[derive(Clone, Debug)]
pub struct Expectation {
    /// What must not be false.
    pub condition: Expr,
    /// What fails with a record for which it is.
    pub on_error: OnError,
}

/// Tells the records that meet all conditions from those that do not.
#[derive(Clone, Debug)]
pub struct Expect {
    expectations: Vec<Expectation>,
    shape: Shape,
}

impl Expect {
    /// Returns an operator that gives batches of `shape`.
    pub fn new(expectations: Vec<Expectation>, shape: Shape) -> Self {
        Self { expectations, shape }
    }

    /// Returns the rows that break no condition, as far as something reads them, and a reject for each
    /// of the others, in the name of `operator`.
    pub fn divide(&self, operator: &str, batch: &Batch) -> (Batch, Vec<Reject>) {
        let mut broken: BTreeMap<usize, (OnError, RejectCode, String)> = BTreeMap::new();
        for Expectation { condition, on_error } in &self.expectations {
            let evaluated = condition.evaluate(&batch.columns);
            let mut breaks = |row: usize, code, message: &dyn Fn() -> String| {
                if broken.get(&row).is_none_or(|(before, ..)| before < on_error) {
                    broken.insert(row, (*on_error, code, message()));
                }
            };
            for error in &evaluated.errors {
                let why = || format!("{}: {}", condition.text(), error.message);
                breaks(error.row as usize, RejectCode::Expression, &why);
            }
            let failed: BTreeSet<usize> =
                evaluated.errors.iter().map(|error| error.row as usize).collect();
            let truth = truth(&evaluated);
            if truth.true_count() == batch.len() {
                continue;
            }
            for row in 0..batch.len() {
                if truth.is_valid(row) && !truth.value(row) && !failed.contains(&row) {
                    let why = || format!("expected {}", condition.text());
                    breaks(row, RejectCode::Expect, &why);
                }
            }
        }
        let kept = batch.project(&self.shape);
        if broken.is_empty() {
            return (kept, Vec::new());
        }
        let mut keep = vec![true; batch.len()];
        broken.keys().for_each(|row| keep[*row] = false);
        let rejects = broken.into_iter().map(|(row, (on_error, code, message))| Reject {
            on_error,
            ..reject_row(operator, batch, row, code, message)
        });
        let rejects = rejects.collect();
        (kept.filter(&BooleanArray::from(keep)), rejects)
    }
}

impl Stateless for Expect {
    fn apply(&mut self, batch: Batch, emit: &mut Emit) {
        let (kept, rejects) = self.divide(emit.operator(), &batch);
        emit.reject_all(rejects);
        emit.give(0, kept);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::sync::Arc;

    use arrow_array::{Int64Array, RecordBatch};

    use super::*;
    use crate::expr::compile;
    use crate::types::{Column, Schema, Type};

    /// The rows of `a` and `b`; conditions with what fails; the rows that stay; per reject its row
    /// (as line), what fails with it, its code and its message.
    #[track_caller]
    fn check(
        rows: &[(Option<i64>, i64)],
        conditions: &[(&str, OnError)],
        kept: &[Option<i64>],
        rejected: &[(u32, OnError, &str, &str)],
    ) {
        let schema = Schema::new(vec![Column::new("a", Type::Int), Column::new("b", Type::Int)]);
        let columns = RecordBatch::try_new(
            schema.arrow(),
            vec![
                Arc::new(rows.iter().map(|row| row.0).collect::<Int64Array>()),
                Arc::new(rows.iter().map(|row| Some(row.1)).collect::<Int64Array>()),
            ],
        )
        .unwrap();
        let positions = (0..rows.len() as u32).map(|row| crate::batch::position(row, 0)).collect();
        let batch = Batch { columns, positions: Some(positions), ..Batch::default() };
        let expectations = conditions.iter().map(|(condition, on_error)| Expectation {
            condition: compile(condition, &schema).unwrap(),
            on_error: *on_error,
        });
        let shape = Shape {
            schema: Schema::new(vec![Column::new("a", Type::Int)]),
            raw: false,
            positions: false,
        };
        let expect = Expect::new(expectations.collect(), shape);
        let (good, bad) = expect.divide("x", &batch);
        let found: Vec<Option<i64>> = match good.columns.num_columns() {
            0 => Vec::new(),
            _ => good
                .columns
                .column(0)
                .as_any()
                .downcast_ref::<Int64Array>()
                .unwrap()
                .iter()
                .collect(),
        };
        assert_eq!(found, kept, "{conditions:?}");
        let told: Vec<_> = bad
            .iter()
            .map(|one| (one.line, one.on_error, one.code.word(), one.message.as_str()))
            .collect();
        assert_eq!(told, rejected, "{conditions:?}");
    }

    #[test]
    fn what_is_false_is_rejected_and_what_is_null_is_not() {
        use OnError::{FailFile, Reject};
        let rows = [(Some(1), 1), (None, 1), (Some(-1), 1), (Some(-2), -1)];
        check(&rows, &[("b <> 0", Reject)], &[Some(1), None, Some(-1), Some(-2)], &[]);
        check(
            &rows,
            &[("a >= 0", Reject)],
            &[Some(1), None],
            &[(2, Reject, "expect", "expected a >= 0"), (3, Reject, "expect", "expected a >= 0")],
        );
        // What lies in the place of a NULL, here a zero, says nothing.
        check(
            &rows,
            &[("a > 0", Reject)],
            &[Some(1), None],
            &[(2, Reject, "expect", "expected a > 0"), (3, Reject, "expect", "expected a > 0")],
        );
        // The gravest is told, of those alike the first.
        check(
            &rows,
            &[("a >= 0", Reject), ("b > 0", FailFile), ("a > -2", Reject)],
            &[Some(1), None],
            &[(2, Reject, "expect", "expected a >= 0"), (3, FailFile, "expect", "expected b > 0")],
        );
        check(
            &rows,
            &[("a IS NOT NULL", Reject)],
            &[Some(1), Some(-1), Some(-2)],
            &[(1, Reject, "expect", "expected a IS NOT NULL")],
        );
    }

    #[test]
    fn a_condition_that_fails_is_broken() {
        check(
            &[(Some(1), 0), (Some(2), 1)],
            &[("a / b > 0", OnError::FailFile)],
            &[Some(2)],
            &[(0, OnError::FailFile, "expression", "a / b > 0: division by zero")],
        );
    }
}
