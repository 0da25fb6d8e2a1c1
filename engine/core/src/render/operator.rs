//! Operator: one operator of the plan to its dataflow; one line per kind.

use regex::Regex;
use tidemill_operators::Time;
use tidemill_operators::dedupe::Dedupe;
use tidemill_operators::expect::Expect;
use tidemill_operators::explode::Explode;
use tidemill_operators::filter::Filter;
use tidemill_operators::flow::{self, stateless};
use tidemill_operators::keyed::Incoming;
use tidemill_operators::lots::{Lots, seed_of};
use tidemill_operators::parse::{Parse, UNMATCHED};
use tidemill_operators::route::{self, Match, Route};
use tidemill_operators::select::Select;
use tidemill_operators::top::{Rank, Top};
use tidemill_operators::window::Window;
use timely::dataflow::StreamVec;

use crate::checkpoint::reuse::after;
use crate::checkpoint::{operator_state, state_parts};
use crate::errors::{Errors, errors};
use crate::plan::{NodeId, OperatorKind, OperatorPlan, PortId};
use crate::receipt::place as place_of;
use crate::render::aggregate::{KeptAggregate, What, aggregate};
use crate::render::keyed::evaluation;
use crate::render::{Batches, Rendering, follows_state, together, waits_for_verdict};
use crate::stats::feeds;

impl<'scope> Rendering<'scope, '_> {
    /// Builds an operator; `at` is its place in the plan.
    pub(super) fn operator(
        &mut self,
        at: usize,
        operator: &OperatorPlan,
        poison: Option<StreamVec<'scope, Time, u64>>,
    ) {
        let node = NodeId::Operator(at);
        let tags = operator.outputs.len();
        let (tally, gauge) = self.seat(node, tags, feeds(self.plan, &operator.inputs));
        let lefts = operator.kind.lefts(operator.inputs.len());
        let side = |others: bool| -> Vec<Batches<'scope>> {
            let inputs = self.plan.forward(at).filter(|(input, _)| (*input >= lefts) == others);
            inputs.map(|(_, input)| self.stream(input)).collect()
        };
        let (mut ways, mut others) = (side(false), side(true));
        let turned_back = self.open_loop(at, &tally, &mut ways);
        if let Some(epoch) = self.goes_on_after(operator) {
            let title = format!("After epoch {epoch} {}/{}", self.plan.name, operator.name);
            for way in ways.iter_mut().chain(&mut others) {
                *way = after(&title, way.clone(), epoch);
            }
        }
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
            OperatorKind::State { rows, machine, horizon_us } => {
                let of = (at, operator);
                self.state(of, (input, poison), rows, machine, *horizon_us, tally)
            }
            OperatorKind::Session { rows, gap_us } => {
                self.sessions((at, operator), (input, poison), rows, *gap_us, tally)
            }
            OperatorKind::Dedupe { rows } => {
                let logic = if tags > 1 { Dedupe::Both } else { Dedupe::First };
                let evaluate = evaluation(name.clone(), rows, &rows.layout());
                self.ordered((at, operator), (input, poison), rows, evaluate, logic, tally)
            }
            OperatorKind::Top { rows, count, rank } => {
                let rank = if rank.is_some() { Rank::Tail } else { Rank::None };
                let logic = Top { count: *count, rank };
                let evaluate = evaluation(name.clone(), rows, &rows.layout());
                self.ordered((at, operator), (input, poison), rows, evaluate, logic, tally)
            }
            OperatorKind::Window { on, windows } => {
                let logic = Window::new(on.clone(), *windows, shape(0));
                stateless(&title, name, input, tags, tally, logic)
            }
            OperatorKind::Expect { expectations } => {
                let logic = Expect::new(expectations.clone(), shape(0));
                stateless(&title, name, input, tags, tally, logic)
            }
            OperatorKind::Explode { column, list, element } => {
                let logic = Explode::new(column.clone(), list.clone(), element.clone(), shape(0));
                stateless(&title, name, input, tags, tally, logic)
            }
            OperatorKind::Errors { of } => {
                let has_line = match of {
                    NodeId::Source(_) => true,
                    NodeId::Operator(of) => !follows_state(self.plan, &self.plan.operators[*of]),
                };
                let (place, shape) = (place_of(self.plan, node), shape(0));
                let (notes, openings) =
                    self.readings.clone().expect("files are read before records are rejected");
                let with = Errors { place, shape, has_line, tally };
                errors(&title, self.rejects[of].clone(), notes, openings, with)
            }
            OperatorKind::Lots { by, seed, weights, .. } => {
                let used = |tag: usize| operator.outputs[tag].used;
                let port = |tag| route::Port { tag, shape: shape(tag), used: used(tag) };
                let ports = weights.iter().enumerate().map(|(tag, weight)| (*weight, port(tag)));
                let by = by.iter().map(|(_, value)| value.clone()).collect();
                let seed = seed.as_deref().map_or(0, seed_of);
                stateless(&title, name, input, tags, tally, Lots::new(by, seed, ports.collect()))
            }
            OperatorKind::Join(join) => {
                let other = together(self.scope, others);
                self.join(at, operator, [input, other], poison, join, tally)
            }
            OperatorKind::Aggregate { by, compute, spec } => {
                let poison = poison.expect("a plan with aggregates has the stream of failed files");
                let kept = self.orders.clone().map(|orders| KeptAggregate {
                    orders,
                    places: [0, 1].map(|part| {
                        let part = state_parts(&operator.kind).get(part)?;
                        Some(self.pack_place(at, operator, *part))
                    }),
                    keeper: self.keeper.clone(),
                });
                let what = What { by, compute, spec };
                let incoming = Incoming { rows: input, poison, rounds: self.rounds(at, &[]) };
                let (rows, [bad_rows, bad_totals], parts) =
                    aggregate(&place, name, incoming, what, tally, &self.flow, kept);
                self.kept.extend(parts);
                if !waits_for_verdict(self.plan, operator) {
                    self.of_records.push(bad_rows.clone());
                }
                let rejects = together(self.scope, vec![bad_rows, bad_totals]);
                flow::Flow { tags: vec![rows], rejects }
            }
        };
        let mut flow = flow;
        if let Some(rejects) = turned_back {
            flow.rejects = together(self.scope, vec![flow.rejects, rejects]);
        }
        if !operator.kind.keeps_state() && !waits_for_verdict(self.plan, operator) {
            self.of_records.push(flow.rejects.clone());
        }
        if let Some(first) = flow.tags.first() {
            self.watch(first, gauge);
        }
        for (port, tag) in flow.tags.into_iter().enumerate() {
            if let Some(tap) = &self.tap {
                tap.follow(PortId { node, port }, tag.clone());
            }
            self.streams.insert(PortId { node, port }, tag);
        }
        if let Some(tap) = &self.tap {
            tap.follow_rejects(node, flow.rejects.clone());
        }
        self.rejects.insert(node, flow.rejects);
    }
}

impl Rendering<'_, '_> {
    /// Returns the epoch up to which an operator passes over what is read again, because it has taken up
    /// its state as of that epoch while others are made again.
    fn goes_on_after(&self, operator: &OperatorPlan) -> Option<u64> {
        let partial = self.partial.as_ref()?;
        let first = state_parts(&operator.kind).first()?;
        partial.states.contains(&operator_state(operator, *first)).then_some(partial.epoch)
    }
}

pub(super) fn capitalised(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map_or_else(String::new, |first| {
        first.to_uppercase().collect::<String>() + letters.as_str()
    })
}
