//! Aggregate: an `aggregate` of the plan to its dataflow.

use arrow_array::BooleanArray;
use tidemill_operators::aggregate::{self, AggregateSpec, Computed, Function, Inputs, Kept};
use tidemill_operators::expr::{AggregateFunction, Expr, RowError};
use tidemill_operators::flow::reject_row;
use tidemill_operators::shards::Mark;
use tidemill_operators::tally::Tally;
use tidemill_operators::{Batch, Column, RejectCode, Time};
use timely::dataflow::operators::Probe;
use timely::dataflow::operators::core::Map as _;
use timely::dataflow::{ProbeHandle, StreamVec};

use crate::checkpoint::keeper::{Desk, Keeper, PackPlace};
use crate::checkpoint::restore::restored;
use crate::checkpoint::{KeptPart, Order};
use crate::ingest::flow::Flow;
use crate::render::{Batches, Rejects};

#[expect(clippy::too_many_arguments, reason = "one call, from the one match over kinds")]
/// Builds the dataflow of an aggregate: its rows, its rejects before and behind its state, and what
/// was kept of it.
pub(super) fn aggregate<'scope>(
    place: &str,
    name: &str,
    input: Batches<'scope>,
    poison: StreamVec<'scope, Time, u64>,
    by: &[(String, Expr)],
    compute: &[(String, tidemill_operators::expr::Aggregate)],
    tally: Tally,
    flow: &Flow,
    kept: Option<KeptAggregate<'scope>>,
) -> (Batches<'scope>, [Rejects<'scope>; 2], Option<StreamVec<'scope, Time, KeptPart>>) {
    let computed = |(name, one): &(String, tidemill_operators::expr::Aggregate)| Computed {
        name: name.clone(),
        function: match one.function {
            AggregateFunction::CountAll => Function::CountAll,
            AggregateFunction::Count => Function::Count,
            AggregateFunction::Sum => Function::Sum,
            AggregateFunction::Avg => Function::Avg,
            AggregateFunction::Min => Function::Min,
            AggregateFunction::Max => Function::Max,
        },
        argument: one.argument.as_ref().map(Expr::kind),
        kind: one.kind,
    };
    let spec = AggregateSpec {
        keys: by.iter().map(|(name, key)| Column::new(name, key.kind())).collect(),
        compute: compute.iter().map(computed).collect(),
    };
    let keys: Vec<Expr> = by.iter().map(|(_, key)| key.clone()).collect();
    let arguments: Vec<Option<Expr>> =
        compute.iter().map(|(_, one)| one.argument.clone()).collect();
    let operator = name.to_owned();
    let evaluate = move |batch: &Batch| aggregate_inputs(&operator, batch, &keys, &arguments);
    let (partials, bad_rows) =
        aggregate::gather(place, input, poison, spec.clone(), tally.clone(), evaluate);
    let probe = ProbeHandle::new();
    let partials = partials.probe_with(&probe);
    flow.follow(probe);
    let (rows, bad_totals, parts) = match kept {
        None => {
            let (rows, rejects) = aggregate::totals(place, name, partials, spec, tally);
            (rows, rejects, None)
        }
        Some(KeptAggregate { orders, place: packs, keeper }) => {
            let (folder, state) = (packs.folder.clone(), packs.state.clone());
            let read = spec.clone();
            let decode = move |bytes: &[u8]| aggregate::decode_rows(bytes, &read);
            let restored = restored(place, orders.clone(), folder, state, decode);
            let marks = orders
                .flat_map(|order| if let Order::Mark(mark) = order { Some(mark) } else { None })
                .container::<Vec<Mark>>();
            let sink = move |wake| Desk::new(keeper, packs, wake);
            let kept = Kept { restored, marks, sink };
            let made = aggregate::kept_totals(place, name, partials, spec, tally, kept);
            (made.rows, made.rejects, Some(made.parts))
        }
    };
    (rows, [bad_rows, bad_totals], parts)
}

/// How the state of an aggregate outlives the process.
pub(super) struct KeptAggregate<'scope> {
    pub(super) orders: StreamVec<'scope, Time, Order>,
    pub(super) place: PackPlace,
    pub(super) keeper: Keeper,
}

fn aggregate_inputs(
    name: &str,
    batch: &Batch,
    keys: &[Expr],
    arguments: &[Option<Expr>],
) -> Inputs {
    let mut errors: Vec<RowError> = Vec::new();
    let mut evaluate = |expr: &Expr| {
        let evaluated = expr.evaluate(&batch.columns);
        errors.extend(evaluated.errors);
        evaluated.values
    };
    let keys = keys.iter().map(&mut evaluate).collect();
    let arguments = arguments.iter().map(|one| one.as_ref().map(&mut evaluate)).collect();
    errors.sort_by_key(|error| error.row);
    errors.dedup_by_key(|error| error.row);
    let skip = (!errors.is_empty()).then(|| {
        let mut skip = vec![false; batch.len()];
        errors.iter().for_each(|error| skip[error.row as usize] = true);
        BooleanArray::from(skip)
    });
    let reject = |error: RowError| {
        reject_row(name, batch, error.row as usize, RejectCode::Expression, error.message)
    };
    Inputs { keys, arguments, skip, rejects: errors.into_iter().map(reject).collect() }
}
