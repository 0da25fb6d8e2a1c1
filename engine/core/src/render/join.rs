//! Join: a `join` of the plan to its dataflow: each side gathered and arranged, then both joined.

use tidemill_operators::batch::Batch;
use tidemill_operators::flow;
use tidemill_operators::join::{JoinSpec, Sides, join, part_nulls};
use tidemill_operators::keyed::{Arrival, Inputs, RowLayout};
use tidemill_operators::tally::Tally;
use tidemill_operators::{Column, Schema};

use crate::checkpoint::JOIN_SIDES;
use crate::plan::{Join, OperatorPlan};
use crate::render::keyed::Poison;
use crate::render::{Batches, Rendering, together};

impl<'scope> Rendering<'scope, '_> {
    /// Builds a join of a left and a right stream.
    pub(super) fn join(
        &mut self,
        at: usize,
        operator: &OperatorPlan,
        [left, right]: [Batches<'scope>; 2],
        poison: Poison<'scope>,
        plan: &Join,
        tally: Tally,
    ) -> flow::Flow<'scope> {
        let rounds = self.rounds(at, &operator.inputs[plan.lefts..]);
        // What every round sees comes before the first.
        let of_right = rounds.outside();
        let left_keys = rounds.before_keys(plan.left_keys());
        let right_keys = rounds.before_keys(plan.right_keys());
        let spec = JoinSpec {
            kind: plan.kind,
            keys: left_keys.clone(),
            across: rounds.across().to_vec(),
            left: RowLayout {
                order: rounds.row_columns(),
                arrival: plan.place.then_some(Arrival::First),
                columns: plan.left.clone(),
                raw: plan.raw,
                ..RowLayout::default()
            },
            right: plan.take.iter().map(|(column, _)| column.clone()).collect(),
            shape: operator.outputs[0].shape.clone(),
        };
        let [left_part, right_part] = JOIN_SIDES;

        let reads = reader(plan.left_keys(), plan.left.clone());
        let (updates, left_rejects) = self.gathered(
            operator,
            (left, poison.clone(), rounds),
            left_part.name,
            spec.left.clone(),
            tally.clone(),
            reads,
        );
        let (updates, alone) = part_nulls(updates, &left_keys);
        let alone = spec.kind.gives_alone().then_some(alone);
        let layout = (left_keys, spec.left.clone());
        let left = self.arranged(at, operator, left_part, updates, layout);

        let taken = plan.take.iter().map(|(column, right)| Column::new(right, column.kind));
        let layout = RowLayout::plain(taken.collect());
        let reads = reader(plan.right_keys(), layout.columns.clone());
        let (updates, right_rejects) = self.gathered(
            operator,
            (right, poison, of_right),
            right_part.name,
            layout.clone(),
            tally.clone(),
            reads,
        );
        // A right row with NULL in its key meets nothing, and nobody asks for it.
        let (updates, _) = part_nulls(updates, &right_keys);
        let right = self.arranged(at, operator, right_part, updates, (right_keys, layout));

        let place = format!("{}/{}", self.plan.name, operator.name);
        let (rows, counted) = join(&place, Sides { left, right, alone }, spec, tally);
        let rejects = together(self.scope, vec![left_rejects, right_rejects, counted]);
        flow::Flow { tags: vec![rows], rejects }
    }
}

/// Returns what reads the columns of one side. It rejects nothing: all of them are there.
fn reader(keys: Vec<Column>, values: Vec<Column>) -> impl FnMut(&Batch) -> Inputs + 'static {
    let (keys, values) = (Schema::new(keys), Schema::new(values));
    move |batch| Inputs {
        keys: batch.pick(&keys).columns().to_vec(),
        values: batch.pick(&values).columns().to_vec(),
        ..Inputs::default()
    }
}
