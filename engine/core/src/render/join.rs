//! Join: a `join` of the plan to its dataflow: each side gathered and arranged, then both joined.

use differential_dataflow::operators::arrange::Arranged;
use tidemill_operators::batch::Batch;
use tidemill_operators::flow;
use tidemill_operators::join::{JoinSpec, Sides, TooManyRows, join, part_nulls};
use tidemill_operators::keyed::{Arrival, Inputs, RowLayout, Trace};
use tidemill_operators::reject::EpochRejects;
use tidemill_operators::tally::Tally;
use tidemill_operators::{Column, Schema, Time};
use tidemill_store::crash::{self, Blamed};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::Operator;

use crate::checkpoint::{JOIN_SIDES, StatePart};
use crate::plan::{Join, OperatorPlan, Side};
use crate::render::keyed::Updates;
use crate::render::{Batches, Rejects, Rendering, together};

impl<'scope> Rendering<'scope, '_> {
    /// Builds a join of a left and a right stream.
    pub(super) fn join(
        &mut self,
        at: usize,
        operator: &OperatorPlan,
        [left, right]: [Batches<'scope>; 2],
        poison: Option<StreamVec<'scope, Time, u64>>,
        plan: &Join,
        tally: Tally,
    ) -> flow::Flow<'scope> {
        let (left_keys, right_keys) = (plan.left_keys(), plan.right_keys());
        let spec = JoinSpec {
            kind: plan.kind,
            keys: left_keys.clone(),
            left: RowLayout {
                arrival: plan.place.then_some(Arrival::First),
                columns: plan.left.clone(),
                raw: plan.raw,
                ..RowLayout::default()
            },
            right: plan.take.iter().map(|(column, _)| column.clone()).collect(),
            shape: operator.outputs[0].shape.clone(),
            rows_max: plan.rows_max.into(),
        };
        let [left_part, right_part] = JOIN_SIDES;
        let layout = (left_keys, spec.left.clone());
        let reads = (left, poison.clone());
        let of = (at, Side::Left, left_part);
        let (left, left_rejects) = self.side(of, operator, reads, layout, tally.clone());
        let taken = plan.take.iter().map(|(column, right)| Column::new(right, column.kind));
        let layout = (right_keys, RowLayout::plain(taken.collect()));
        let of = (at, Side::Right, right_part);
        // A right row with NULL in its key meets nothing, and nobody asks for it.
        let (right, right_rejects) =
            self.side(of, operator, (right, poison), layout, tally.clone());

        let place = format!("{}/{}", self.plan.name, operator.name);
        let sides = Sides {
            alone: spec.kind.gives_alone().then_some(left.alone),
            left: left.arranged,
            right: right.arranged,
            counts: Side::BOTH.map(|side| self.shared(at, side).is_none()),
        };
        let too_many = self.too_many(operator, &spec);
        let (rows, counted) = join(&place, sides, spec, tally, too_many);
        let rejects = together(self.scope, vec![left_rejects, right_rejects, counted]);
        flow::Flow { tags: vec![rows], rejects }
    }

    /// Returns which side keeps the rows of this one, if another one does. Where some states go on with a
    /// checkpoint and others are made again, each keeps its own: they do not see the same epochs.
    fn shared(&self, at: usize, side: Side) -> Option<(usize, Side)> {
        self.plan.keeper_of(at, side).filter(|_| self.partial.is_none())
    }

    /// Builds one side of a join, or takes the one that is there already. Either way it is kept in
    /// checkpoints as a part of this join, so that what is shared can change without making anything again.
    fn side(
        &mut self,
        (at, side, part): (usize, Side, StatePart),
        operator: &OperatorPlan,
        (rows, poison): (Batches<'scope>, Option<StreamVec<'scope, Time, u64>>),
        (keys, layout): (Vec<Column>, RowLayout),
        tally: Tally,
    ) -> (KeptSide<'scope>, Rejects<'scope>) {
        let shared = self.shared(at, side).and_then(|of| self.sides.get(&of)).cloned();
        if let Some(kept) = shared {
            self.keep(at, operator, part, &kept.arranged);
            let title = format!("Count {}", self.state_title(operator, part.name));
            return (kept, counted(&title, rows, tally));
        }
        let reads = reader(keys.clone(), layout.columns.clone());
        let (updates, rejects) =
            self.gathered(operator, (rows, poison), part.name, layout.clone(), tally, reads);
        let (updates, alone) = part_nulls(updates, &keys);
        let arranged = self.arranged(at, operator, part, updates, (keys, layout));
        let kept = KeptSide { arranged, alone };
        self.sides.insert((at, side), kept.clone());
        (kept, rejects)
    }

    /// Returns what ends the process when a file makes a join give too many rows. They follow from state
    /// that the file is a part of already: the next start sets the file aside, and goes on without it.
    fn too_many(
        &self,
        operator: &OperatorPlan,
        spec: &JoinSpec,
    ) -> impl FnMut(TooManyRows) + use<> {
        let (pipeline, name) = (self.plan.name.clone(), operator.name.clone());
        let (keys, most) = (spec.keys.clone(), spec.rows_max);
        move |TooManyRows { epoch, key, left, right }| {
            let why = format!(
                "{name} would give more than {most} rows for one key (`max_rows`), of which there are \
                 {left} rows on the left and {right} on the right: {}",
                key.text(&keys)
            );
            crash::blame(Blamed { pipeline: pipeline.clone(), epoch, why: why.clone() });
            panic!("{why}");
        }
    }
}

/// The rows of one side of a join.
#[derive(Clone)]
pub(super) struct KeptSide<'scope> {
    /// By key.
    arranged: Arranged<'scope, Trace>,
    /// Those whose key holds NULL, which are not kept.
    alone: Updates<'scope>,
}

/// Counts rows that another join gathers. Nothing comes out; its frontier says when an epoch is counted.
fn counted<'scope>(title: &str, rows: Batches<'scope>, tally: Tally) -> Rejects<'scope> {
    rows.unary::<CapacityContainerBuilder<Vec<EpochRejects>>, _, _, _>(Pipeline, title, |_, _| {
        move |input, _| {
            input.for_each_stamp(|stamp, batches| {
                let Some(epoch) = stamp.least().map(|time| time.epoch) else { return };
                for batch in batches.map(std::mem::take).filter(|batch| batch.diff > 0) {
                    tally.took(epoch, batch.len(), 0);
                    tally.merged(epoch, batch.len());
                }
            });
        }
    })
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
