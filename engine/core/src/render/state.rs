//! State: a `state` of the plan to its dataflow.

use tidemill_operators::batch::Shape;
use tidemill_operators::flow;
use tidemill_operators::keyed::{Port, changes};
use tidemill_operators::state::{MachineSpec, Replay, told};
use tidemill_operators::tally::Tally;
use tidemill_operators::{Schema, Time};
use timely::dataflow::StreamVec;

use crate::checkpoint::state_parts;
use crate::plan::{OperatorPlan, OrderedRows};
use crate::render::keyed::evaluation;
use crate::render::{Batches, Rendering, together};

impl<'scope> Rendering<'scope, '_> {
    /// Builds an operator that runs a machine over the records of each key.
    pub(super) fn state(
        &mut self,
        at: usize,
        operator: &OperatorPlan,
        input: (Batches<'scope>, Option<StreamVec<'scope, Time, u64>>),
        rows: &OrderedRows,
        machine: &MachineSpec,
        tally: Tally,
    ) -> flow::Flow<'scope> {
        let (layout, keys) = (rows.layout(), rows.keys());
        let evaluate = evaluation(operator.name.clone(), rows, &layout);
        let (updates, rejects) =
            self.gathered(operator, input, "", layout.clone(), tally.clone(), evaluate);
        let part = state_parts(&operator.kind)[0];
        let arranged = self.arranged(at, operator, part, updates, (keys.clone(), layout.clone()));
        let mut given = layout.clone();
        given.tail = machine.added();
        let mut ports: Vec<Port> = Vec::with_capacity(operator.outputs.len() + 1);
        for port in &operator.outputs {
            let (shape, used) = (port.shape.clone(), port.used);
            ports.push(Port { layout: given.clone(), shape, used });
        }
        let mut troubled = layout.clone();
        troubled.tail = Replay::trouble_tail();
        let shape = Shape {
            schema: Schema::new(Replay::trouble_tail()),
            raw: layout.raw,
            positions: layout.arrival.is_some(),
        };
        ports.push(Port { layout: troubled, shape, used: true });
        let logic = Replay::new(machine.clone(), keys.clone(), layout, operator.outputs.len());
        let place = format!("{}/{}", self.plan.name, operator.name);
        let title = format!("State {place}");
        let mut tags = changes(&title, arranged, &keys, ports, logic, tally.clone());
        let troubles = tags.pop().expect("there is a port for troubles");
        let troubles = told(&place, &operator.name, troubles, tally);
        flow::Flow { tags, rejects: together(self.scope, vec![rejects, troubles]) }
    }
}
