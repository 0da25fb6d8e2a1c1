//! Filter: keep the records for which a condition is true.
//!
//! | input  | batches                                                     |
//! | output | one tag: the rows for which the condition is true; NULL is not true |
//! | state  | none                                                        |
//! | errors | a row whose condition fails (overflow, bad cast) is rejected |

use arrow_array::{Array, BooleanArray};

use crate::batch::{Batch, Shape};
use crate::expr::Expr;
use crate::flow::{Emit, Stateless, truth};

/// Keeps the rows for which a condition is true.
pub struct Filter {
    keep: Expr,
    shape: Shape,
}

impl Filter {
    /// Returns a filter that gives batches of `shape`.
    pub fn new(keep: Expr, shape: Shape) -> Self {
        Self { keep, shape }
    }
}

fn is_true(condition: &BooleanArray, row: usize) -> bool {
    condition.is_valid(row) && condition.value(row)
}

impl Stateless for Filter {
    fn apply(&mut self, batch: Batch, emit: &mut Emit) {
        let evaluated = self.keep.evaluate(&batch.columns);
        let condition = truth(&evaluated);
        let mut decided = condition.true_count();
        let mut failed =
            evaluated.errors.iter().map(|error| error.row as usize).collect::<Vec<_>>();
        failed.dedup();
        decided += failed.iter().filter(|row| !is_true(condition, **row)).count();
        emit.filter_out(batch.len() - decided);
        emit.reject_failed(&batch, &evaluated.errors);
        emit.give(0, batch.project(&self.shape).filter(condition));
    }
}
