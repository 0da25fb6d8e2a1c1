//! Timed: operators that order the records of a key by event time, put into the dataflow of a plan: a
//! `state` with a horizon, and sessions.

use std::sync::Arc;

use arrow_array::{Array, BooleanArray, new_null_array};
use tidemill_operators::batch::Batch;
use tidemill_operators::flow::{self, reject_row};
use tidemill_operators::keyed::{Inputs, Port, arrange, changes};
use tidemill_operators::state::{Folds, Horizon, MachineSpec, Marks, Replay, horizon};
use tidemill_operators::tally::Tally;
use tidemill_operators::window::{END, START, Sessions};
use tidemill_operators::{Column, RejectCode, Time, Type};
use timely::dataflow::StreamVec;

use crate::checkpoint::state_parts;
use crate::plan::{OperatorPlan, OrderedRows};
use crate::render::keyed::evaluation;
use crate::render::{Batches, Rendering, together};

/// What an operator reads: its records, and the files that failed.
type Input<'scope> = (Batches<'scope>, Option<StreamVec<'scope, Time, u64>>);

impl<'scope> Rendering<'scope, '_> {
    /// Builds an operator that runs a machine over the records of each key.
    pub(super) fn state(
        &mut self,
        (at, operator): (usize, &OperatorPlan),
        input: Input<'scope>,
        rows: &OrderedRows,
        machine: &MachineSpec,
        horizon_us: Option<i64>,
        tally: Tally,
    ) -> flow::Flow<'scope> {
        let (keys, records) = (rows.keys(), rows.layout());
        let Some(horizon_us) = horizon_us else {
            let logic = Replay::new(machine.clone(), keys, records);
            let evaluate = evaluation(operator.name.clone(), rows, &rows.layout());
            return self.ordered((at, operator), input, rows, evaluate, logic, tally);
        };
        let variables: Vec<Column> =
            machine.variables.iter().map(|variable| variable.column.clone()).collect();
        let marks = Marks::new(records, &variables, horizon_us);
        let (layout, folds) = (marks.layout().clone(), Folds::default());
        let mut read = timed(operator, rows);
        let hidden = marks.hidden().to_vec();
        let evaluate = move |batch: &Batch| {
            let mut inputs = read(batch);
            let is_record = BooleanArray::from(vec![true; batch.len()]);
            inputs.order.insert(0, Arc::new(is_record));
            let nulls = |column: &Column| new_null_array(&column.kind.arrow(), batch.len());
            inputs.values.extend(hidden.iter().map(nulls));
            inputs
        };
        let (updates, rejects) =
            self.gathered(operator, input, "", layout.clone(), tally.clone(), evaluate);
        let place = format!("{}/{}", self.plan.name, operator.name);
        let with = Horizon {
            marks: marks.clone(),
            keys: keys.clone(),
            folds: folds.clone(),
            tally: tally.clone(),
        };
        let part = state_parts(&operator.kind)[0];
        let columns = (keys.clone(), layout.clone());
        let (arranged, late) =
            self.arranged_by(at, operator, part, updates, columns, |title, updates| {
                let (updates, late) = horizon(&place, &operator.name, updates, with);
                (arrange(title, updates), late)
            });
        let mut given = layout.clone();
        given.tail = machine.added();
        let port = |port: &crate::plan::Port| Port {
            layout: given.clone(),
            shape: port.shape.clone(),
            used: port.used,
        };
        let ports = operator.outputs.iter().map(port).collect();
        let logic = Replay::new(machine.clone(), keys.clone(), layout).with_horizon(marks, folds);
        let title = format!("State {place}");
        let said = changes(&title, &operator.name, arranged, &keys, ports, logic, tally);
        let rejects = together(self.scope, vec![rejects, late, said.rejects]);
        flow::Flow { tags: said.tags, rejects }
    }

    /// Builds an operator that finds the sessions of each key.
    pub(super) fn sessions(
        &mut self,
        (at, operator): (usize, &OperatorPlan),
        input: Input<'scope>,
        rows: &OrderedRows,
        gap_us: i64,
        tally: Tally,
    ) -> flow::Flow<'scope> {
        let evaluate = timed(operator, rows);
        self.ordered((at, operator), input, rows, evaluate, Sessions { gap_us }, tally)
    }
}

/// Returns the columns that a session adds.
pub(super) fn session_tail() -> Vec<Column> {
    [START, END].map(|name| Column::new(name, Type::Timestamp)).to_vec()
}

/// Returns what reads the rows of a batch and rejects those whose first column of order, their event
/// time, is NULL.
fn timed(operator: &OperatorPlan, rows: &OrderedRows) -> impl FnMut(&Batch) -> Inputs + use<> {
    let name = operator.name.clone();
    let text = rows.order.first().map_or(String::new(), |term| term.value.text().to_owned());
    let mut read = evaluation(name.clone(), rows, &rows.layout());
    move |batch| {
        let mut inputs = read(batch);
        let Some(times) = inputs.order.first().filter(|times| times.null_count() > 0) else {
            return inputs;
        };
        let failed = |row: usize| inputs.skip.as_ref().is_some_and(|skip| skip.value(row));
        let timeless: Vec<usize> =
            (0..batch.len()).filter(|row| times.is_null(*row) && !failed(*row)).collect();
        let skip: Vec<bool> =
            (0..batch.len()).map(|row| times.is_null(row) || failed(row)).collect();
        for row in timeless {
            let reason = format!("{text} is NULL: the record has no place in time");
            inputs.rejects.push(reject_row(&name, batch, row, RejectCode::NoTime, reason));
        }
        inputs.skip = Some(BooleanArray::from(skip));
        inputs
    }
}
