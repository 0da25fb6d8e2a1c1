//! Route: send each record out by the tag whose condition it meets.
//!
//! | input  | batches                                                            |
//! | output | one tag per rule, and one for the rest if the pipeline names it      |
//! | state  | none                                                                |
//! | errors | a row whose deciding condition fails is rejected; a rule behind the one that decided is never the reason |
//!
//! With first match a row leaves by the first rule that is true for it; with match all by every
//! such rule. A row that meets no rule leaves by the tag for the rest, or is left out if there is
//! none. The bytes of a record are not copied, whichever way it goes.

use arrow_array::{Array, BooleanArray};
use arrow_buffer::BooleanBuffer;

use crate::batch::{Batch, Shape};
use crate::expr::{Expr, RowError};
use crate::flow::{Emit, Stateless, truth};

/// How many rules a record may meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Match {
    /// Only the first one counts.
    First,
    /// Each one counts.
    All,
}

/// Sends rows out by tag.
pub struct Route {
    rules: Vec<(Expr, Port)>,
    otherwise: Option<Port>,
    matching: Match,
}

/// Where rows leave, and with what.
pub struct Port {
    /// The tag's number among the operator's outputs.
    pub tag: usize,
    /// The columns that something behind this tag reads.
    pub shape: Shape,
    /// Whether anything reads this tag at all.
    pub used: bool,
}

impl Route {
    /// Returns a route. Rules are tried in order.
    pub fn new(rules: Vec<(Expr, Port)>, otherwise: Option<Port>, matching: Match) -> Self {
        Self { rules, otherwise, matching }
    }
}

impl Stateless for Route {
    fn apply(&mut self, batch: Batch, emit: &mut Emit) {
        // Rows no rule has claimed yet, and (with match all) rows some rule has failed on.
        let mut unclaimed = BooleanBuffer::new_set(batch.len());
        let mut failed = BooleanBuffer::new_unset(batch.len());
        let mut failures: Vec<RowError> = Vec::new();
        let mut chosen: Vec<(&Port, BooleanBuffer)> = Vec::with_capacity(self.rules.len() + 1);
        for (rule, port) in &self.rules {
            if self.matching == Match::First && unclaimed.count_set_bits() == 0 {
                break;
            }
            let evaluated = rule.evaluate(&batch.columns);
            let holds = known_true(truth(&evaluated));
            let decides = |row: usize| self.matching == Match::All || unclaimed.value(row);
            let fresh: Vec<RowError> = evaluated
                .errors
                .into_iter()
                .filter(|error| decides(error.row as usize) && !failed.value(error.row as usize))
                .collect();
            if !fresh.is_empty() {
                let mut bits: Vec<bool> = failed.iter().collect();
                for error in &fresh {
                    bits[error.row as usize] = true;
                }
                failed = BooleanBuffer::from(bits);
                failures.extend(fresh);
            }
            let takes = match self.matching {
                Match::First => &(&holds & &unclaimed) & &!&failed,
                Match::All => holds.clone(),
            };
            unclaimed = &(&unclaimed & &!&holds) & &!&failed;
            chosen.push((port, takes));
        }
        if let Some(port) = &self.otherwise {
            chosen.push((port, unclaimed));
        }
        let mut leaving = BooleanBuffer::new_unset(batch.len());
        let mut ways = 0;
        for (port, rows) in chosen.into_iter().filter(|(port, _)| port.used) {
            // With match all a later rule may have failed on a row an earlier one had taken.
            let rows = &rows & &!&failed;
            ways += rows.count_set_bits();
            leaving = &leaving | &rows;
            let rows = BooleanArray::new(rows, None);
            emit.give(port.tag, batch.project(&port.shape).filter(&rows));
        }
        let leaving_once = leaving.count_set_bits();
        emit.filter_out(batch.len() - (&leaving | &failed).count_set_bits());
        if self.matching == Match::All {
            emit.copy(ways - leaving_once);
        }
        failures.sort_by_key(|error| error.row);
        emit.reject_failed(&batch, &failures);
    }
}

/// Returns the rows whose condition is true: NULL is not.
fn known_true(condition: &BooleanArray) -> BooleanBuffer {
    match condition.nulls() {
        Some(nulls) => condition.values() & nulls.inner(),
        None => condition.values().clone(),
    }
}
