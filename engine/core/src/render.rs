//! Render: a plan to timely operators, the same on every worker.
//!
//! One line per kind of operator. Nothing here branches on the worker's index while building: all
//! workers must build the same dataflow in the same order. Only what is handed in differs, and it is
//! used inside operators.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::mpsc::Receiver;

use arrow_array::BooleanArray;
use regex::Regex;
use tidemill_operators::aggregate::{self, AggregateSpec, Computed, Function, Inputs, Kept};
use tidemill_operators::expr::{AggregateFunction, Expr, RowError};
use tidemill_operators::filter::Filter;
use tidemill_operators::flow::{self, reject_row, stateless};
use tidemill_operators::meter::Meter;
use tidemill_operators::parse::{Parse, UNMATCHED};
use tidemill_operators::reject::EpochRejects;
use tidemill_operators::route::{self, Match, Route};
use tidemill_operators::select::Select;
use tidemill_operators::shards::Mark;
use tidemill_operators::tally::{Tallies, Tally};
use tidemill_operators::{Batch, Column, RejectCode, Time};
use timely::Container;
use timely::dataflow::operators::core::Map as _;
use timely::dataflow::operators::vec::Broadcast;
use timely::dataflow::operators::{Concatenate, Probe};
use timely::dataflow::{ProbeHandle, Scope, Stream, StreamVec};
use timely::scheduling::Activator;
use timely::scheduling::activate::SyncActivator;
use timely::worker::Worker;

use crate::account::account;
use crate::answer::{Heard, Said, answers};
use crate::checkpoint::gather::gather;
use crate::checkpoint::keeper::{Desk, Keeper, PackPlace};
use crate::checkpoint::restore::restored;
use crate::checkpoint::{self, KeptPart, Order, operator_fingerprint, operator_state};
use crate::ingest::buffers::Buffers;
use crate::ingest::coordinator::{Command, Loads, coordinator};
use crate::ingest::digest::digest;
use crate::ingest::flow::Flow;
use crate::ingest::order::{ReadEvent, ReadNote};
use crate::ingest::reader::{Reader, reader};
use crate::plan::{Input, NodeId, OperatorKind, OperatorPlan, Plan, PortId, SinkKind, SinkPlan};
use crate::receipt::place;
use crate::sink::files::files;
use crate::sink::parts::{FileSink, Surroundings};
use crate::sink::rejects::{self, rejects};
use crate::stats::{Gauge, SINK, Stats, feeds, kind_word};

/// What the dataflow of a pipeline is built with on one worker.
pub struct Fittings {
    /// Files to read; on worker 0 only.
    pub commands: Option<Receiver<Command>>,
    /// Where sinks stage.
    pub around: Surroundings,
    /// Where answers go; called on worker 0 only.
    pub ledger: Box<dyn FnMut(Heard)>,
    /// Who counts.
    pub stats: Stats,
    /// How much waits at the readers of this process.
    pub loads: Loads,
    /// Who writes checkpoints.
    pub keeper: Keeper,
}

/// The dataflow of a pipeline on one worker.
pub struct Rendered {
    /// Follows what the sinks have taken in.
    pub flow: Flow,
    /// Where that was when it was looked at last.
    pub flow_seen: Option<Time>,
    /// Wakes the coordinator from another thread.
    pub wake: SyncActivator,
    /// Wakes, on this worker, what waits for the sinks.
    pub waiting: Vec<Activator>,
    /// The frontier of each node, and who shows it.
    pub frontiers: Vec<(ProbeHandle<Time>, Gauge)>,
}

/// Builds the dataflow of a plan.
pub fn render(worker: &mut Worker, plan: &Plan, fittings: Fittings) -> Rendered {
    let index = worker.index();
    worker.dataflow_named::<Time, _, _>(&plan.name, |scope| {
        Rendering {
            scope,
            plan,
            index,
            around: fittings.around,
            stats: fittings.stats,
            loads: fittings.loads,
            keeper: fittings.keeper,
            kept: Vec::new(),
            orders: None,
            buffers: Buffers::default(),
            flow: Flow::default(),
            streams: BTreeMap::new(),
            rejects: BTreeMap::new(),
            tallies: Tallies::default(),
            frontiers: Vec::new(),
        }
        .build(fittings.commands, fittings.ledger)
    })
}

type Batches<'scope> = Stream<'scope, Time, Batch>;
type Rejects<'scope> = StreamVec<'scope, Time, EpochRejects>;

struct Rendering<'scope, 'plan> {
    scope: Scope<'scope, Time>,
    plan: &'plan Plan,
    index: usize,
    around: Surroundings,
    stats: Stats,
    loads: Loads,
    keeper: Keeper,
    /// What was written of each operator's state, for each mark.
    kept: Vec<StreamVec<'scope, Time, KeptPart>>,
    /// What the coordinator tells everybody; there if the plan keeps state.
    orders: Option<StreamVec<'scope, Time, Order>>,
    buffers: Buffers,
    flow: Flow,
    streams: BTreeMap<PortId, Batches<'scope>>,
    rejects: BTreeMap<NodeId, Rejects<'scope>>,
    tallies: Tallies,
    frontiers: Vec<(ProbeHandle<Time>, Gauge)>,
}

impl<'scope> Rendering<'scope, '_> {
    fn build(
        mut self,
        commands: Option<Receiver<Command>>,
        ledger: Box<dyn FnMut(Heard)>,
    ) -> Rendered {
        // Worker 0 says everything from one thread, so the order in which it is said is kept.
        let ledger = Rc::new(RefCell::new(ledger));
        let say = || {
            let ledger = Rc::clone(&ledger);
            move |heard| (*ledger.borrow_mut())(heard)
        };
        let splittable = self.plan.sources.iter().map(|source| source.splittable).collect();
        let title = format!("Coordinate {}/", self.plan.name);
        let (flow, loads) = (self.flow.clone(), self.loads.clone());
        let orders = coordinator(self.scope, &title, commands, splittable, flow, loads, say());
        self.orders = checkpoint::has_state(self.plan).then(|| orders.orders.broadcast());
        let mut waiting = vec![orders.activator];
        let mut notes = Vec::new();
        for (at, pieces) in orders.pieces.into_iter().enumerate() {
            let read = self.source(at, pieces);
            waiting.push(read.1);
            notes.push(read.0);
        }
        let read = together(self.scope, notes);
        let title = format!("Digest {}/", self.plan.name);
        let hashed = digest(self.scope, &title, orders.openings.clone(), read.clone());
        let notes = together(self.scope, vec![read.clone(), hashed]);
        let aggregates =
            |operator: &OperatorPlan| matches!(operator.kind, OperatorKind::Aggregate { .. });
        // Only what is held back until a file is whole must hear of files that failed.
        let poison = self.plan.operators.iter().any(aggregates).then(|| self.poison(notes.clone()));
        for operator in &self.plan.operators {
            let at = self.plan.operators.iter().position(|one| std::ptr::eq(one, operator));
            self.operator(at.unwrap_or_default(), operator, poison.clone());
        }
        let mut parts = Vec::new();
        let mut tables = Vec::new();
        for (at, sink) in self.plan.sinks.iter().enumerate() {
            let ways: Vec<Batches<'scope>> =
                sink.inputs.iter().map(|input| self.stream(input)).collect();
            let (meter, gauge) = self.sink_seat(sink);
            let title = format!("Write {}/{SINK}{}", self.plan.name, sink.name);
            let around = self.around.clone();
            let openings = orders.openings.clone();
            let written = match file_sink(self.plan, at, sink) {
                None => {
                    let rows = together(self.scope, ways);
                    let rows = counted_in(&title, rows, meter);
                    let probe = self.watch(&rows, gauge);
                    self.flow.follow(probe);
                    tables.push((at, rows));
                    continue;
                }
                Some(file)
                    if sink.errors_of.is_empty() && !matches!(sink.kind, SinkKind::Rejects) =>
                {
                    files(self.scope, &title, ways, openings, file, around, meter)
                }
                Some(file) => {
                    let all = sink.errors_of.iter().filter_map(|node| self.rejects.get(node));
                    let all = together(self.scope, all.cloned().collect());
                    rejects(&title, all, read.clone(), openings, file, around, meter)
                }
            };
            let probe = ProbeHandle::new();
            written.taken.probe_with(&probe);
            self.flow.follow(probe.clone());
            self.frontiers.push((probe, gauge));
            parts.push(written.parts);
        }
        let parts = together(self.scope, parts);
        let ends = together(self.scope, self.rejects.values().cloned().collect());
        let counts = account(&format!("Account {}/", self.plan.name), ends, self.tallies.clone());
        let title = format!("Answer {}/", self.plan.name);
        let said = Said { openings: orders.openings, notes, counts, parts, tables };
        answers(self.scope, &title, said, say());
        if let Some(orders) = self.orders.take() {
            let title = format!("Gather checkpoint {}/", self.plan.name);
            let kept = std::mem::take(&mut self.kept);
            gather(&title, orders, together(self.scope, kept), say());
        }
        Rendered {
            flow: self.flow,
            flow_seen: Some(Time::default()),
            wake: orders.wake,
            waiting,
            frontiers: self.frontiers,
        }
    }

    /// The epochs that failed while they were read, on every worker.
    fn poison(&self, notes: StreamVec<'scope, Time, ReadNote>) -> StreamVec<'scope, Time, u64> {
        notes
            .flat_map(|note| matches!(note.event, ReadEvent::Failed { .. }).then_some(note.epoch))
            .container::<Vec<u64>>()
            .broadcast()
    }

    fn source(
        &mut self,
        at: usize,
        pieces: StreamVec<'scope, Time, crate::ingest::order::PieceOrder>,
    ) -> (StreamVec<'scope, Time, ReadNote>, Activator) {
        let source = &self.plan.sources[at];
        let node = NodeId::Source(at);
        let (tally, gauge) = self.seat(node, 1, Vec::new());
        let title = format!("Read {}/{}", self.plan.name, source.name);
        let with = Reader {
            name: source.name.clone(),
            plan: source.read.clone(),
            inflate_ratio_max: source.inflate_ratio_max,
            flow: self.flow.clone(),
            loads: self.loads.clone(),
            buffers: self.buffers.clone(),
            tally,
        };
        let read = reader(&title, pieces, with);
        self.watch(&read.batches, gauge);
        self.streams.insert(PortId { node, port: 0 }, read.batches);
        self.rejects.insert(node, read.rejects);
        (read.notes, read.activator)
    }

    fn operator(
        &mut self,
        at: usize,
        operator: &OperatorPlan,
        poison: Option<StreamVec<'scope, Time, u64>>,
    ) {
        let node = NodeId::Operator(at);
        let tags = operator.outputs.len();
        let (tally, gauge) = self.seat(node, tags, feeds(self.plan, &operator.inputs));
        let ways: Vec<Batches<'scope>> =
            operator.inputs.iter().map(|input| self.stream(input)).collect();
        let input = together(self.scope, ways);
        let name = &operator.name;
        let place = format!("{}/{name}", self.plan.name);
        let shape = |port: usize| operator.outputs[port].shape.clone();
        let title = format!("{} {place}", capitalised(operator.kind.word()));
        let flow = match &operator.kind {
            OperatorKind::Filter { keep } => {
                stateless(&title, name, input, tags, tally, Filter::new(keep.clone(), shape(0)))
            }
            OperatorKind::Select { columns } => {
                stateless(&title, name, input, tags, tally, Select::new(columns.clone(), shape(0)))
            }
            OperatorKind::Route { rules, otherwise, all } => {
                let port = |tag: usize| route::Port {
                    tag,
                    shape: shape(tag),
                    used: operator.outputs[tag].used,
                };
                let rules = rules.iter().enumerate().map(|(tag, rule)| (rule.clone(), port(tag)));
                let matching = if *all { Match::All } else { Match::First };
                let logic = Route::new(rules.collect(), otherwise.map(port), matching);
                stateless(&title, name, input, tags, tally, logic)
            }
            OperatorKind::Parse { column, regex, captures } => {
                let regex = Regex::new(regex).expect("the graph compiled this pattern");
                let unmatched = operator
                    .outputs
                    .get(UNMATCHED)
                    .filter(|port| port.used)
                    .map(|_| shape(UNMATCHED));
                let logic =
                    Parse::new(column.clone(), regex, captures.clone(), shape(0), unmatched);
                stateless(&title, name, input, tags, tally, logic)
            }
            OperatorKind::Aggregate { by, compute } => {
                let poison = poison.expect("a plan with aggregates has the stream of failed files");
                let kept = self.orders.clone().map(|orders| KeptAggregate {
                    orders,
                    place: self.pack_place(at, operator),
                    keeper: self.keeper.clone(),
                });
                let (rows, rejects, parts) =
                    aggregate(&place, name, input, poison, by, compute, tally, &self.flow, kept);
                self.kept.extend(parts);
                flow::Flow { tags: vec![rows], rejects }
            }
        };
        if let Some(first) = flow.tags.first() {
            self.watch(first, gauge);
        }
        for (port, tag) in flow.tags.into_iter().enumerate() {
            self.streams.insert(PortId { node, port }, tag);
        }
        self.rejects.insert(node, flow.rejects);
    }

    /// Where the packs of an operator's state go.
    fn pack_place(&self, at: usize, operator: &OperatorPlan) -> PackPlace {
        PackPlace {
            folder: self.around.home.checkpoints(&self.plan.name),
            generation: self.around.generation,
            state: operator_state(&operator.name),
            fingerprint: operator_fingerprint(self.plan, at),
            suffix: format!("a{at}-w{}", self.index),
        }
    }

    fn stream(&self, input: &Input) -> Batches<'scope> {
        self.streams[&input.from].clone()
    }

    fn seat(&self, node: NodeId, tags: usize, fed_by: Vec<(String, usize)>) -> (Tally, Gauge) {
        let (name, kind) = (self.plan.node_name(node), kind_word(self.plan, node));
        let (meter, gauge) = self.stats.seat(self.plan, name, &kind, self.index, tags, fed_by);
        (self.tallies.node(place(self.plan, node), meter), gauge)
    }

    fn sink_seat(&self, sink: &SinkPlan) -> (Meter, Gauge) {
        let kind = match sink.kind {
            SinkKind::Files { .. } => "sink files",
            SinkKind::Table { .. } => "sink table",
            SinkKind::Rejects => "sink rejects",
        };
        let fed_by = feeds(self.plan, &sink.inputs);
        self.stats.seat(self.plan, &sink.name, kind, self.index, 1, fed_by)
    }

    /// Shows the frontier of a stream on a gauge.
    fn watch(&mut self, stream: &Batches<'scope>, gauge: Gauge) -> ProbeHandle<Time> {
        let probe = ProbeHandle::new();
        stream.clone().probe_with(&probe);
        self.frontiers.push((probe.clone(), gauge));
        probe
    }
}

/// Returns one stream of what comes on all of them; no operator is needed for one.
fn together<'scope, C: Container>(
    scope: Scope<'scope, Time>,
    streams: Vec<Stream<'scope, Time, C>>,
) -> Stream<'scope, Time, C> {
    match <[Stream<'scope, Time, C>; 1]>::try_from(streams) {
        Ok([only]) => only,
        Err(streams) => scope.concatenate(streams),
    }
}

/// Returns how a sink writes files, if that is what it does.
fn file_sink(plan: &Plan, index: usize, sink: &SinkPlan) -> Option<FileSink> {
    let name = sink.name.clone();
    let sources = sources_of(plan, sink);
    match &sink.kind {
        SinkKind::Files { format, schema, empty } => Some(FileSink {
            index,
            name,
            format: format.clone(),
            schema: schema.clone(),
            empty: *empty,
            sources,
        }),
        SinkKind::Rejects => Some(FileSink {
            index,
            name,
            format: tidemill_operators::format::OutputFormat::Jsonl,
            schema: rejects::schema(),
            empty: false,
            sources,
        }),
        SinkKind::Table { .. } => None,
    }
}

/// Returns the sources from which records can come to a sink.
fn sources_of(plan: &Plan, sink: &SinkPlan) -> BTreeSet<usize> {
    let mut sources = BTreeSet::new();
    let mut ahead: Vec<NodeId> = sink.inputs.iter().map(|input| input.from.node).collect();
    ahead.extend(&sink.errors_of);
    // A plan has no cycles, so this ends.
    while let Some(node) = ahead.pop() {
        match node {
            NodeId::Source(at) => {
                sources.insert(at);
            }
            NodeId::Operator(at) => {
                ahead.extend(plan.operators[at].inputs.iter().map(|input| input.from.node));
            }
        }
    }
    sources
}

/// Counts what a table takes in; its rows go on to worker 0.
fn counted_in<'scope>(title: &str, rows: Batches<'scope>, meter: Meter) -> Batches<'scope> {
    use timely::container::CapacityContainerBuilder;
    use timely::dataflow::channels::pact::Pipeline;
    use timely::dataflow::operators::Operator;
    rows.unary::<CapacityContainerBuilder<Batch>, _, _, _>(Pipeline, title, |_, _| {
        move |input, output| {
            input.for_each_stamp(|capability, batches| {
                for batch in batches {
                    meter.took(batch.len(), 0);
                    meter.gave(0, batch.len(), 0);
                    output.session(&capability).give_container(batch);
                }
            });
        }
    })
}

#[expect(clippy::too_many_arguments, reason = "one call, from the one match over kinds")]
fn aggregate<'scope>(
    place: &str,
    name: &str,
    input: Batches<'scope>,
    poison: StreamVec<'scope, Time, u64>,
    by: &[(String, Expr)],
    compute: &[(String, tidemill_operators::expr::Aggregate)],
    tally: Tally,
    flow: &Flow,
    kept: Option<KeptAggregate<'scope>>,
) -> (Batches<'scope>, Rejects<'scope>, Option<StreamVec<'scope, Time, KeptPart>>) {
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
            let restored = restored(place, orders.clone(), folder, state, spec.clone());
            let marks = orders
                .flat_map(|order| if let Order::Mark(mark) = order { Some(mark) } else { None })
                .container::<Vec<Mark>>();
            let sink = move |wake| Desk::new(keeper, packs, wake);
            let kept = Kept { restored, marks, sink };
            let made = aggregate::kept_totals(place, name, partials, spec, tally, kept);
            (made.rows, made.rejects, Some(made.parts))
        }
    };
    let scope = rows.scope();
    (rows, together(scope, vec![bad_rows, bad_totals]), parts)
}

/// How the state of an aggregate outlives the process.
struct KeptAggregate<'scope> {
    orders: StreamVec<'scope, Time, Order>,
    place: PackPlace,
    keeper: Keeper,
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

fn capitalised(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map_or_else(String::new, |first| {
        first.to_uppercase().collect::<String>() + letters.as_str()
    })
}
