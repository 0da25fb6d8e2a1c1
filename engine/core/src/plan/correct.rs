//! Correct: what a plan means for corrections: behind which sources something is kept of a file for
//! the next. Derived.

use std::collections::BTreeSet;

use tidemill_operators::aggregate::TakenBack;
use tidemill_store::{Dedupe, Versions};

use crate::plan::{
    NodeId, OnDelete, OnSameName, OperatorKind, Plan, Retention, SinkKind, SinkPlan,
};

impl Plan {
    /// Returns whether an operator or table keeps something of this source's files: then the rows of a
    /// version that is replaced or removed have to be taken back. Else its outputs are all there is.
    pub fn keeps_state_of(&self, source: usize) -> bool {
        let behind = self.behind(source);
        let operators = self.operators.iter().enumerate();
        operators
            .filter(|(at, _)| behind.contains(&NodeId::Operator(*at)))
            .any(|(_, operator)| operator.kind.keeps_state())
            || self.sinks.iter().any(|sink| {
                matches!(sink.kind, SinkKind::Table { .. })
                    && sink.inputs.iter().any(|input| behind.contains(&input.from.node))
            })
    }

    /// Returns which versions of the files what this pipeline keeps follows from: what a record made
    /// final behind a horizon stays final when that record is taken back.
    pub fn versions(&self) -> Versions {
        match self.operators.iter().any(|operator| operator.kind.makes_final()) {
            true => Versions::All,
            false => Versions::Current,
        }
    }

    /// Returns whether the outputs of a sink follow from one file alone: nothing before it keeps state.
    pub fn is_linear(&self, sink: &SinkPlan) -> bool {
        let before = self.with_all_before(sink.upstream());
        !before.into_iter().any(|node| match node {
            NodeId::Operator(at) => self.operators[at].kind.keeps_state(),
            NodeId::Source(_) => false,
        })
    }

    /// Returns why the files of a source cannot be corrected, for a person; `None` if they can.
    pub fn why_not_correctable(&self, source: usize) -> Option<String> {
        let behind = self.behind(source);
        let keeps_less = |kind: &OperatorKind| match kind {
            OperatorKind::Aggregate { spec, .. } => spec.taken_back == TakenBack::Never,
            kind => kind.keeps_first().is_some(),
        };
        let found = self.operators.iter().enumerate().find(|(at, operator)| {
            behind.contains(&NodeId::Operator(*at)) && keeps_less(&operator.kind)
        });
        found.map(|(_, operator)| {
            format!("{} keeps too little of files that are only ever added", operator.name)
        })
    }

    /// Returns why a correction of this source cannot be tried, for a person; `None` if it can: what a
    /// trial does must be undone to the byte.
    pub fn why_not_tried(&self, source: usize) -> Option<String> {
        let behind = self.behind(source);
        let found = self.operators.iter().enumerate().find(|(at, operator)| {
            behind.contains(&NodeId::Operator(*at)) && operator.kind.makes_final()
        });
        found.map(|(_, operator)| {
            format!(
                "{} has a horizon: what a dry run makes final there could not be made open again",
                operator.name
            )
        })
    }

    /// Lets files be replaced and removed by whoever drops and deletes them, where that is possible: for
    /// a pipeline that is tortured.
    pub fn take_corrections(&mut self) {
        for at in 0..self.sources.len() {
            let is_fixed = self.why_not_correctable(at).is_some();
            let taking = &mut self.sources[at].taking;
            let correcting = &mut taking.correcting;
            if is_fixed || correcting.is_final() || taking.dedupe != Dedupe::None {
                continue;
            }
            correcting.on_same_name = OnSameName::Replace;
            correcting.on_delete = OnDelete::Retract;
            correcting.retention = Retention::Forever;
        }
    }

    /// Returns a source and every operator that its records can reach.
    fn behind(&self, source: usize) -> BTreeSet<NodeId> {
        let mut behind = BTreeSet::from([NodeId::Source(source)]);
        // Each operator stands after all that it reads from, but for what goes back in a loop: what a
        // second source brings into its middle comes to its head by another round.
        loop {
            let known = behind.len();
            for (at, operator) in self.operators.iter().enumerate() {
                if operator.upstream().any(|node| behind.contains(&node)) {
                    behind.insert(NodeId::Operator(at));
                }
            }
            if behind.len() == known {
                break;
            }
        }
        behind
    }
}

#[cfg(test)]
mod tests {
    use crate::plan;

    #[test]
    fn only_what_something_is_kept_of_has_to_be_taken_back() {
        let yaml = "pipeline: p
sources:
  a: { format: csv, fields: { n: int }, pattern: \"a*\" }
  b: { format: csv, fields: { n: int }, pattern: \"b*\" }
  c: { format: csv, fields: { n: int }, pattern: \"c*\", append_only: true }
operators:
  some: { from: [a, b], filter: n > 1 }
  sums: { from: b, aggregate: { by: [n], compute: { hits: count(*), most: max(n) } } }
  most: { from: c, aggregate: { by: [n], compute: { most: max(n) } } }
sinks:
  some: { from: some, files: { format: csv } }
  sums: { from: sums, table: { format: csv, key: [n] } }
  most: { from: most, table: { format: csv, key: [n] } }
";
        let plan = plan(yaml).unwrap();
        assert_eq!([0, 1, 2].map(|source| plan.keeps_state_of(source)), [false, true, true]);
        assert_eq!([0, 1].map(|source| plan.why_not_correctable(source)), [None, None]);
        assert!(plan.why_not_correctable(2).unwrap().contains("most"));
        // An extremum falls back on what is held, so its files may well be replaced.
        let replaced = yaml.replace("pattern: \"b*\"", "pattern: \"b*\", on_same_name: replace");
        assert_eq!(super::super::plan(&replaced).unwrap().why_not_correctable(1), None);
    }
}
