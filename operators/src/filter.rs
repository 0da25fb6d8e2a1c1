//! Filter: keep the records for which a condition is true.
//!
//! | input  | batches                                                     |
//! | output | one tag: the rows for which the condition is true; NULL is not true |
//! | state  | none                                                        |
//! | errors | a row whose condition fails (overflow, bad cast) is rejected |

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

impl Stateless for Filter {
    fn apply(&mut self, batch: Batch, emit: &mut Emit) {
        let evaluated = self.keep.evaluate(&batch.columns);
        emit.reject_failed(&batch, &evaluated.errors);
        emit.give(0, batch.project(&self.shape).filter(truth(&evaluated)));
    }
}
