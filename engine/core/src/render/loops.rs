//! Loops: the ways back of a plan, put into its dataflow. Derived.
//!
//! The head of a loop is built with a stream that has no beginning yet; when all operators are
//! built, what goes back is led there. Each way back is one [`turn`], on the worker where the records
//! are, and makes their time one round later.

use tidemill_operators::reject::EpochRejects;
use tidemill_operators::rounds::{Relation, Rounds};
use tidemill_operators::tally::Tally;
use tidemill_operators::time::Step;
use tidemill_operators::turn::{Back, ROWS_PER_ROUND_MAX, turn};
use tidemill_operators::{Batch, Time};
use timely::dataflow::StreamVec;
use timely::dataflow::operators::core::feedback::Handle;
use timely::dataflow::operators::core::{ConnectLoop, Feedback};
use timely::dataflow::operators::vec::Map;

use crate::code::FileCode;
use crate::ingest::order::{ReadEvent, ReadNote};
use crate::plan::{Input, LoopPlan, NodeId};
use crate::render::{Batches, Rejects, Rendering, together};

/// A loop whose head is built.
pub(super) struct OpenLoop<'scope> {
    head: usize,
    tally: Tally,
    again: Handle<'scope, Time, Batch>,
    rejects: Handle<'scope, Time, Vec<EpochRejects>>,
}

impl<'scope> Rendering<'scope, '_> {
    /// Opens the loop of which an operator is the head, if it is: adds what goes back to what it
    /// reads. Returns the records that went round too often.
    pub(super) fn open_loop(
        &mut self,
        at: usize,
        tally: &Tally,
        ways: &mut Vec<Batches<'scope>>,
    ) -> Option<Rejects<'scope>> {
        let one = self.plan.loop_of(at)?;
        let (again, cycle) = self.scope.feedback::<Batch>(one.turns.step());
        // Nothing in the loop reads them, so time may stand still on this way.
        let (rejects, turned_back) = self.scope.feedback::<Vec<EpochRejects>>(Step::STAY);
        self.open_loops.push(OpenLoop { head: at, tally: tally.clone(), again, rejects });
        ways.push(cycle);
        Some(turned_back)
    }

    /// Returns which rounds an operator tells apart. `beside` are the inputs of which every round sees all
    /// that does not come from inside of the loop: the other side of a join.
    pub(super) fn rounds(&self, at: usize, beside: &[Input]) -> Rounds {
        let relation = |one: &LoopPlan| {
            let inside =
                |node: NodeId| matches!(node, NodeId::Operator(at) if one.body.contains(&at));
            let relation = match one.body.contains(&at) {
                true if beside.iter().any(|input| !inside(input.from.node)) => Relation::Across,
                true => Relation::Inside(self.plan.operators[one.head].name.clone()),
                false if one.head < at => Relation::Behind,
                false => Relation::Before,
            };
            (one.turns, relation)
        };
        Rounds::new(self.plan.loops.iter().map(relation))
    }

    /// Leads what goes back to the heads. Returns the files that fail by it.
    pub(super) fn close_loops(&mut self) -> Vec<StreamVec<'scope, Time, ReadNote>> {
        let mut failed = Vec::new();
        for OpenLoop { head, tally, again, rejects } in std::mem::take(&mut self.open_loops) {
            let Some(one) = self.plan.loop_of(head) else { continue };
            let operator = &self.plan.operators[head];
            let (mut goes_round, mut turned_back) = (Vec::new(), Vec::new());
            for input in one.back.iter().filter_map(|at| operator.inputs.get(*at)) {
                let around = self.plan.around(head).filter(|outer| outer.head != head);
                let name = |outer: &LoopPlan| self.plan.operators[outer.head].name.clone();
                let back = Back {
                    head: operator.name.clone(),
                    way: self.plan.port_name(input.from),
                    turns: one.turns,
                    max_rounds: one.max_rounds,
                    around: around.map(|outer| (name(outer), outer.turns)).collect(),
                    rows_max: one.grows.then_some(ROWS_PER_ROUND_MAX),
                };
                let title = format!("Turn {}/{}", self.plan.name, operator.name);
                let turned = turn(&title, self.stream(input), back, tally.clone());
                goes_round.push(turned.again);
                turned_back.push(turned.rejects);
                if one.grows {
                    failed.push(turned.grown.map(|grown| ReadNote {
                        epoch: grown.epoch,
                        submission: grown.submission,
                        event: ReadEvent::Failed {
                            code: FileCode::Loop.word().to_owned(),
                            detail: grown.detail,
                        },
                    }));
                }
            }
            together(self.scope, goes_round).connect_loop(again);
            together(self.scope, turned_back).connect_loop(rejects);
        }
        failed
    }
}
