//! Render: a plan to timely operators, the same on every worker.
//!
//! One line per kind of operator, in `render/operator.rs`. Nothing here branches on the worker's index while building: all
//! workers must build the same dataflow in the same order. Only what is handed in differs, and it is
//! used inside operators.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::mpsc::Receiver;

use tidemill_operators::meter::Meter;
use tidemill_operators::reject::{EpochRejects, Standing};
use tidemill_operators::tally::{Tallies, Tally};
use tidemill_operators::time::Step;
use tidemill_operators::{Batch, Time};
use timely::Container;
use timely::dataflow::operators::core::{ConnectLoop, Feedback, Map as _};
use timely::dataflow::operators::vec::{Broadcast, Filter as _};
use timely::dataflow::operators::{Concatenate, Probe};
use timely::dataflow::{ProbeHandle, Scope, Stream, StreamVec};
use timely::scheduling::Activator;
use timely::scheduling::activate::SyncActivator;
use timely::worker::Worker;

use self::join::KeptSide;
use self::sink::{changelog, counted_in, file_sink};
use crate::account::account;
use crate::answer::{Heard, Said, answers};
use crate::checkpoint::gather::gather;
use crate::checkpoint::keeper::{Keeper, PackPlace};
use crate::checkpoint::reuse::Partial;
use crate::checkpoint::{self, KeptPart, Order, StatePart, operator_fingerprint, operator_state};
use crate::ingest::backlog::Backlog;
use crate::ingest::buffers::Buffers;
use crate::ingest::checks::Checks;
use crate::ingest::coordinator::{Command, Loads, coordinator};
use crate::ingest::digest::digest;
use crate::ingest::flow::Flow;
use crate::ingest::order::{Opening, ReadNote};
use crate::ingest::reader::{Reader, reader};
use crate::judge::{Rules, count_rejects, judge};
use crate::plan::{Input, NodeId, OperatorPlan, Plan, PortId, Side, SinkKind, SinkPlan};
use crate::receipt::place;
use crate::sink::changes::changes;
use crate::sink::files::files;
use crate::sink::parts::Surroundings;
use crate::sink::rejects::rejects;
use crate::stats::{Gauge, SINK, Stats, feeds, kind_word};
use crate::testing::tap::Tap;

mod aggregate;
mod join;
mod keyed;
mod loops;
mod operator;
mod shelf;
mod sink;
mod timed;

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
    /// How much waits behind the dataflow.
    pub backlog: Backlog,
    /// Who writes checkpoints.
    pub keeper: Keeper,
    /// Who sees everything that leaves a node, if anybody does.
    pub tap: Option<Tap>,
    /// Which states go on with a checkpoint while others are made again, if that is so.
    pub partial: Option<Partial>,
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
            backlog: fittings.backlog,
            keeper: fittings.keeper,
            tap: fittings.tap,
            partial: fittings.partial,
            sides: BTreeMap::new(),
            kept: Vec::new(),
            orders: None,
            buffers: Buffers::default(),
            flow: Flow::default(),
            streams: BTreeMap::new(),
            rejects: BTreeMap::new(),
            readings: None,
            of_records: Vec::new(),
            tallies: Tallies::default(),
            frontiers: Vec::new(),
            open_loops: Vec::new(),
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
    backlog: Backlog,
    keeper: Keeper,
    tap: Option<Tap>,
    partial: Option<Partial>,
    /// The sides of joins, by the join that keeps them.
    sides: BTreeMap<(usize, Side), KeptSide<'scope>>,
    /// What was written of each operator's state, for each mark.
    kept: Vec<StreamVec<'scope, Time, KeptPart>>,
    /// What the coordinator tells everybody; there if the plan keeps state.
    orders: Option<StreamVec<'scope, Time, Order>>,
    buffers: Buffers,
    flow: Flow,
    streams: BTreeMap<PortId, Batches<'scope>>,
    rejects: BTreeMap<NodeId, Rejects<'scope>>,
    /// What is said of the reading of files, and their announcements.
    readings: Option<(StreamVec<'scope, Time, ReadNote>, StreamVec<'scope, Time, Opening>)>,
    /// Rejects of records of files, not of what was made of them behind state.
    of_records: Vec<Rejects<'scope>>,
    tallies: Tallies,
    frontiers: Vec<(ProbeHandle<Time>, Gauge)>,
    /// Loops whose heads were built, until all of their bodies are.
    open_loops: Vec<loops::OpenLoop<'scope>>,
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
        let backlog = self.backlog.clone();
        let orders =
            coordinator(self.scope, &title, commands, splittable, flow, loads, backlog, say());
        self.orders = checkpoint::has_state(self.plan).then(|| orders.orders.broadcast());
        let mut waiting = vec![orders.activator];
        let mut notes = Vec::new();
        for (at, pieces) in orders.pieces.into_iter().enumerate() {
            let read = self.source(at, pieces);
            waiting.push(read.1);
            notes.push(read.0);
        }
        let read = together(self.scope, notes);
        self.readings = Some((read.clone(), orders.openings.clone()));
        let title = format!("Digest {}/", self.plan.name);
        let hashed = digest(self.scope, &title, orders.openings.clone(), read.clone());
        let notes = together(self.scope, vec![read.clone(), hashed]);
        // A verdict on a file follows from what operators reject and leads to those that hold its
        // rows back: it is known only when all are built.
        let rules = Rules::of(self.plan);
        let has_rules = rules.can_fail(self.plan);
        let is_judged = has_rules || self.plan.loops.iter().any(|one| one.grows);
        let mut failures = vec![notes.clone()];
        let verdict = is_judged.then(|| {
            let (verdict, told) = self.scope.feedback::<Vec<ReadNote>>(Step::STAY);
            failures.push(told);
            verdict
        });
        let failures = together(self.scope, failures);
        // Only what is held back until a file is whole must hear of files that failed.
        let poison = self
            .plan
            .operators
            .iter()
            .any(|one| one.kind.keeps_state())
            .then(|| self.poison(failures));
        for operator in &self.plan.operators {
            let at = self.plan.operators.iter().position(|one| std::ptr::eq(one, operator));
            self.operator(at.unwrap_or_default(), operator, poison.clone());
        }
        let grown = self.close_loops();
        let mut said_of_files = vec![notes.clone()];
        if let Some(verdict) = verdict {
            let mut verdicts = grown;
            if has_rules {
                verdicts.push(self.judge(orders.openings.clone(), notes.clone(), rules));
            }
            let verdicts = together(self.scope, verdicts);
            verdicts.clone().connect_loop(verdict);
            said_of_files.push(verdicts);
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
                    let rows = counted_in(&title, rows, meter.clone());
                    let probe = self.watch(&rows, gauge);
                    self.flow.follow(probe);
                    if let Some(log) = changelog(self.plan, at, sink) {
                        let title = format!("Log {}/{SINK}{}", self.plan.name, sink.name);
                        let rows = rows.clone();
                        let logged =
                            changes(self.scope, &title, rows, openings, log, around, meter);
                        let probe = ProbeHandle::new();
                        logged.taken.probe_with(&probe);
                        self.flow.follow(probe);
                        parts.push(logged.parts);
                    }
                    tables.push((at, rows));
                    continue;
                }
                Some(file) if checkpoint::is_changing(sink) => {
                    let (openings, poison) = (openings, poison.clone());
                    self.shelf(at, (title, ways), openings, poison, file, meter)
                }
                Some(file)
                    if sink.errors_of.is_empty() && !matches!(sink.kind, SinkKind::Rejects) =>
                {
                    files(self.scope, &title, ways, openings, file, around, meter)
                }
                Some(file) => {
                    let all = self.rejected(sink);
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
        let said = Said {
            openings: orders.openings,
            notes: together(self.scope, said_of_files),
            counts,
            parts,
            tables,
        };
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
            .flat_map(|note| note.event.is_failure().then_some(note.epoch))
            .container::<Vec<u64>>()
            .broadcast()
    }

    /// The verdicts on files that break a rule, on worker 0.
    fn judge(
        &self,
        openings: StreamVec<'scope, Time, Opening>,
        notes: StreamVec<'scope, Time, ReadNote>,
        rules: Rules,
    ) -> StreamVec<'scope, Time, ReadNote> {
        let name = &self.plan.name;
        let rejects = together(self.scope, self.of_records.clone());
        let title = format!("Count rejects {name}/");
        let tallies = count_rejects(&title, rejects, rules.policies.clone());
        judge(&format!("Judge {name}/"), openings, notes, tallies, rules)
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
            checks: Checks::of(source),
            flow: self.flow.clone(),
            loads: self.loads.clone(),
            buffers: self.buffers.clone(),
            tally,
        };
        let read = reader(&title, pieces, with);
        self.watch(&read.batches, gauge);
        if let Some(tap) = &self.tap {
            tap.follow(PortId { node, port: 0 }, read.batches.clone());
            tap.follow_rejects(node, read.rejects.clone());
        }
        self.of_records.push(read.rejects.clone());
        self.streams.insert(PortId { node, port: 0 }, read.batches);
        self.rejects.insert(node, read.rejects);
        (read.notes, read.activator)
    }

    /// Where the packs of a part of an operator's state go.
    fn pack_place(&self, at: usize, operator: &OperatorPlan, part: StatePart) -> PackPlace {
        let gap = if part.name.is_empty() { "" } else { "-" };
        PackPlace {
            folder: self.around.home.checkpoints(&self.plan.name),
            generation: self.around.generation,
            state: operator_state(operator, part),
            fingerprint: operator_fingerprint(self.plan, at, part),
            suffix: format!("a{at}{gap}{}-w{}", part.name, self.index),
        }
    }

    /// All that a sink of rejected records is told.
    fn rejected(&self, sink: &SinkPlan) -> Rejects<'scope> {
        let of = |node: &NodeId| self.rejects.get(node).cloned();
        let told = |rejects: Rejects<'scope>| {
            rejects.filter(|some: &EpochRejects| some.standing == Standing::Told)
        };
        let all = sink.errors_of.iter().filter_map(of);
        let all = all.chain(sink.told_of.iter().filter_map(of).map(told));
        together(self.scope, all.collect())
    }

    fn stream(&self, input: &Input) -> Batches<'scope> {
        self.streams[&input.from].clone()
    }

    fn seat(&self, node: NodeId, tags: usize, fed_by: Vec<(String, usize)>) -> (Tally, Gauge) {
        let (name, kind) = (self.plan.node_name(node), kind_word(self.plan, node));
        let (meter, gauge) = self.stats.seat(self.plan, name, &kind, self.index, tags, fed_by);
        let innermost = match node {
            NodeId::Operator(at) => self.plan.around(at).last(),
            NodeId::Source(_) => None,
        };
        let tally = self.tallies.node(place(self.plan, node), meter);
        (tally.inside(innermost.map(|one| one.turns)), gauge)
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

/// Where a rejected record that is read as a row stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rejected {
    /// Where it stood before the operator that rejected it: that is what it is.
    Before,
    /// Behind that operator: that is when it comes.
    Behind,
}

/// Returns whether the rows of an operator come out of one that keeps state.
fn follows_state(plan: &Plan, operator: &OperatorPlan) -> bool {
    stands_behind_state(plan, operator, Rejected::Before)
}

/// Returns whether an operator is done with a file only when the verdict on it is known, because it is
/// behind one that holds its state back until then: so no verdict may wait for it.
fn waits_for_verdict(plan: &Plan, operator: &OperatorPlan) -> bool {
    stands_behind_state(plan, operator, Rejected::Behind)
}

/// Returns whether some operator before this one keeps state; in a loop each is before all others.
fn stands_behind_state(plan: &Plan, operator: &OperatorPlan, rejected: Rejected) -> bool {
    let keeps = |at: usize| plan.operators[at].kind.keeps_state();
    let operator_of = |node: NodeId| match node {
        NodeId::Operator(at) => Some(at),
        NodeId::Source(_) => None,
    };
    let mut seen = BTreeSet::new();
    let mut ahead: Vec<usize> =
        plan.operators.iter().position(|one| std::ptr::eq(one, operator)).into_iter().collect();
    while let Some(at) = ahead.pop() {
        let (at, rejecting) = match plan.operators[at].kind.errors_of().and_then(operator_of) {
            Some(of) if rejected == Rejected::Before => (of, None),
            rejecting => (at, rejecting),
        };
        if plan.around(at).flat_map(|one| &one.body).any(|inside| keeps(*inside)) {
            return true;
        }
        let inputs = plan.operators[at].inputs.iter();
        for before in inputs.filter_map(|input| operator_of(input.from.node)).chain(rejecting) {
            // Each once: where ways part and come together there are very many.
            if seen.insert(before) {
                if keeps(before) {
                    return true;
                }
                ahead.push(before);
            }
        }
    }
    false
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

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;
    use crate::plan::plan;

    #[test]
    fn ways_that_part_and_come_together_are_walked_once() {
        let mut yaml =
            "pipeline: p\nsources: { s: { format: csv, fields: { n: int } } }\noperators:\n  \
                        o0: { from: s, route: { a: n > 0, b: else } }\n"
                .to_owned();
        for at in 1..60 {
            let before = at - 1;
            // Writing to a string cannot fail.
            let _ = writeln!(
                yaml,
                "  o{at}: {{ from: [o{before}.a, o{before}.b], route: {{ a: n > {at}, b: else }} }}"
            );
        }
        yaml += "sinks: { out: { from: [o59.a, o59.b], files: { format: csv } } }\n";
        let plan = plan(&yaml).unwrap();
        assert!(plan.operators.iter().all(|operator| !follows_state(&plan, operator)));
    }
}
