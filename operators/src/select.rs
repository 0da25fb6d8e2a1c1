//! Select: new columns out of expressions over the old ones.
//!
//! | input  | batches                                                         |
//! | output | one tag: a row per row, with the given columns; the original bytes stay |
//! | state  | none                                                            |
//! | errors | a row one of whose expressions fails is rejected                |

use std::sync::Arc;

use arrow_array::{ArrayRef, BooleanArray, RecordBatch, RecordBatchOptions};

use crate::batch::{Batch, Shape};
use crate::expr::{Expr, RowError};
use crate::flow::{Emit, Stateless};
use crate::types::Column;

/// Computes new columns.
pub struct Select {
    columns: Vec<(String, Expr)>,
    shape: Shape,
}

impl Select {
    /// Returns a select that computes `columns`, by name, and gives batches of `shape`. A column that
    /// is not in the shape is computed only for its errors.
    pub fn new(columns: Vec<(String, Expr)>, shape: Shape) -> Self {
        Self { columns, shape }
    }
}

impl Stateless for Select {
    fn apply(&mut self, batch: Batch, emit: &mut Emit) {
        let mut errors: Vec<RowError> = Vec::new();
        let mut computed: Vec<(&str, ArrayRef)> = Vec::with_capacity(self.columns.len());
        for (name, column) in &self.columns {
            let evaluated = column.evaluate(&batch.columns);
            errors.extend(evaluated.errors);
            computed.push((name, evaluated.values));
        }
        let array = |column: &Column| {
            let found = computed.iter().find(|(name, _)| *name == column.name);
            Arc::clone(&found.expect("the plan computes every column that is read").1)
        };
        let arrays = self.shape.schema.columns().iter().map(array).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(batch.len()));
        let columns =
            RecordBatch::try_new_with_options(self.shape.schema.arrow(), arrays, &options)
                .expect("the plan gave each column the type of its expression");
        let selected = Batch {
            columns,
            raw: if self.shape.raw { batch.raw.clone() } else { None },
            positions: if self.shape.positions { batch.positions.clone() } else { None },
            diff: batch.diff,
            origin: batch.origin,
        };
        if errors.is_empty() {
            emit.give(0, selected);
            return;
        }
        errors.sort_by_key(|error| error.row);
        let mut good = vec![true; selected.len()];
        for error in &errors {
            good[error.row as usize] = false;
        }
        emit.reject_failed(&batch, &errors);
        emit.give(0, selected.filter(&BooleanArray::from(good)));
    }
}
