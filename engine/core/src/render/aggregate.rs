//! Aggregate: an `aggregate` of the plan to its dataflow.

use tidemill_operators::Time;
use tidemill_operators::aggregate::{
    self, AggregateSpec, Gathered, HeldBeside, Inputs, Kept, Reach,
};
use tidemill_operators::batch::Batch;
use tidemill_operators::expr::{Aggregate, Expr};
use tidemill_operators::keyed::Incoming;
use tidemill_operators::shards::Mark;
use tidemill_operators::tally::Tally;
use timely::dataflow::operators::Probe;
use timely::dataflow::operators::core::Map as _;
use timely::dataflow::{ProbeHandle, StreamVec};

use crate::checkpoint::keeper::{Desk, Keeper, PackPlace};
use crate::checkpoint::restore::restored;
use crate::checkpoint::{KeptPart, Order};
use crate::ingest::flow::Flow;
use crate::render::keyed::Evaluation;
use crate::render::{Batches, Rejects};

/// Builds the dataflow of an aggregate: its rows, its rejects before and behind its state, and what
/// was kept of it.
pub(super) fn aggregate<'scope>(
    place: &str,
    name: &str,
    incoming: Incoming<'scope>,
    what: What<'_>,
    tally: Tally,
    flow: &Flow,
    kept: Option<KeptAggregate<'scope>>,
) -> (Batches<'scope>, [Rejects<'scope>; 2], Option<StreamVec<'scope, Time, KeptPart>>) {
    let What { by, compute, spec } = what;
    let mut spec = spec.clone();
    spec.keys = incoming.rounds.before_keys(spec.keys);
    let keys: Vec<Expr> = by.iter().map(|(_, key)| key.clone()).collect();
    let compute: Vec<Aggregate> = compute.iter().map(|(_, one)| one.clone()).collect();
    let operator = name.to_owned();
    let evaluate = move |batch: &Batch| aggregate_inputs(&operator, batch, &keys, &compute);
    let reach = if spec.is_per_file() { Reach::EachFile } else { Reach::AllFiles };
    let gathered = aggregate::gather(place, reach, incoming, spec.clone(), tally.clone(), evaluate);
    let Gathered { partials, held, rejects: bad_rows } = gathered;
    let probe = ProbeHandle::new();
    let partials = partials.probe_with(&probe);
    flow.follow(probe);
    let (rows, bad_totals, parts) = match kept {
        None => {
            let (rows, rejects) = aggregate::totals(place, name, partials, held, spec, tally);
            (rows, rejects, None)
        }
        Some(KeptAggregate { orders, places, keeper }) => {
            let [packs, beside] = places;
            let marks = orders
                .clone()
                .flat_map(|order| if let Order::Mark(mark) = order { Some(mark) } else { None })
                .container::<Vec<Mark>>();
            let beside = beside.map(|packs| {
                let (folder, state, read) =
                    (packs.folder.clone(), packs.state.clone(), spec.clone());
                let decode = move |bytes: &[u8]| aggregate::decode_held(bytes, &read);
                let restored =
                    restored(&format!("{place} held"), orders.clone(), folder, state, decode);
                let keeper = keeper.clone();
                HeldBeside { held, restored, sink: move |wake| Desk::new(keeper, packs, wake) }
            });
            let packs = packs.expect("the first part of an aggregate is its totals");
            let (folder, state, read) = (packs.folder.clone(), packs.state.clone(), spec.clone());
            let decode = move |bytes: &[u8]| aggregate::decode_rows(bytes, &read);
            let restored = restored(place, orders, folder, state, decode);
            let sink = move |wake| Desk::new(keeper, packs, wake);
            let kept = Kept { restored, marks, sink };
            let made = aggregate::kept_totals(place, name, partials, beside, spec, tally, kept);
            (made.rows, made.rejects, Some(made.parts))
        }
    };
    (rows, [bad_rows, bad_totals], parts)
}

/// What an aggregate computes.
#[derive(Clone, Copy)]
pub(super) struct What<'a> {
    pub(super) by: &'a [(String, Expr)],
    pub(super) compute: &'a [(String, Aggregate)],
    pub(super) spec: &'a AggregateSpec,
}

/// How the state of an aggregate outlives the process.
pub(super) struct KeptAggregate<'scope> {
    pub(super) orders: StreamVec<'scope, Time, Order>,
    /// Of its totals, and of what is held beside them, if something is.
    pub(super) places: [Option<PackPlace>; 2],
    pub(super) keeper: Keeper,
}

fn aggregate_inputs(name: &str, batch: &Batch, keys: &[Expr], compute: &[Aggregate]) -> Inputs {
    let mut expressions = Evaluation::of(batch);
    let keys = keys.iter().map(|key| expressions.values(key)).collect();
    let mut arguments = Vec::with_capacity(compute.len());
    let mut orders = Vec::with_capacity(compute.len());
    for one in compute {
        arguments.push(one.argument.as_ref().map(|argument| expressions.values(argument)));
        orders.push(one.order.iter().map(|order| expressions.values(&order.by)).collect());
    }
    let (skip, rejects) = expressions.finish(name);
    Inputs { keys, arguments, orders, skip, rejects }
}
