//! Loops: the ways back of a plan, put into its dataflow. Derived.
//!
//! The head of a loop is built with a stream that has no beginning yet; when all operators are
//! built, what goes back is led there. Each way back is one [`turn`], on the worker where the records
//! are, and makes their time one round later.

use tidemill_operators::tally::Tally;
use tidemill_operators::turn::{Back, turn};
use tidemill_operators::{Batch, Time};
use timely::dataflow::StreamVec;
use timely::dataflow::operators::core::feedback::Handle;
use timely::dataflow::operators::core::{ConnectLoop, Feedback};
use timely::dataflow::operators::vec::Map;

use crate::ingest::order::{ReadEvent, ReadNote};
use crate::plan::NodeId;
use crate::render::{Batches, Rendering, together};

/// The code of a file whose records multiply without bound in a loop.
const GROWN: &str = "E-LOOP";

/// A loop whose head is built.
pub(super) struct OpenLoop<'scope> {
    head: usize,
    tally: Tally,
    handle: Handle<'scope, Time, Batch>,
}

impl<'scope> Rendering<'scope, '_> {
    /// Returns the stream of what goes back to an operator, if it is the head of a loop.
    pub(super) fn open_loop(&mut self, at: usize, tally: &Tally) -> Option<Batches<'scope>> {
        let one = self.plan.loop_of(at)?;
        let (handle, cycle) = self.scope.feedback::<Batch>(one.turns.step());
        self.open_loops.push(OpenLoop { head: at, tally: tally.clone(), handle });
        Some(cycle)
    }

    /// Leads what goes back to the heads. Returns the files that fail by it.
    pub(super) fn close_loops(&mut self) -> Vec<StreamVec<'scope, Time, ReadNote>> {
        let mut grown = Vec::new();
        for OpenLoop { head, tally, handle } in std::mem::take(&mut self.open_loops) {
            let Some(one) = self.plan.loop_of(head) else { continue };
            let node = NodeId::Operator(head);
            let name = self.plan.node_name(node).to_owned();
            let outer = || self.plan.around(head).filter(|outer| outer.head != head);
            let mut again = Vec::new();
            let mut rejects: Vec<_> = self.rejects.remove(&node).into_iter().collect();
            for input in one.back.iter().filter_map(|at| self.plan.operators[head].inputs.get(*at))
            {
                let around = outer()
                    .map(|outer| (self.plan.operators[outer.head].name.clone(), outer.turns));
                let back = Back {
                    head: name.clone(),
                    way: self.plan.port_name(input.from),
                    turns: one.turns,
                    max_rounds: one.max_rounds,
                    around: around.collect(),
                    grows: one.grows,
                };
                let title = format!("Turn {}/{name}", self.plan.name);
                let turned = turn(&title, self.stream(input), back, tally.clone());
                again.push(turned.again);
                rejects.push(turned.rejects.clone());
                if !super::follows_state(self.plan, &self.plan.operators[head]) {
                    self.of_records.push(turned.rejects);
                }
                if one.grows {
                    grown.push(turned.grown.map(|grown| ReadNote {
                        epoch: grown.epoch,
                        submission: grown.submission,
                        event: ReadEvent::Failed { code: GROWN.to_owned(), detail: grown.detail },
                    }));
                }
            }
            together(self.scope, again).connect_loop(handle);
            self.rejects.insert(node, together(self.scope, rejects));
        }
        grown
    }
}
