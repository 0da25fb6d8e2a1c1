//! Plan: what a pipeline does, ordered and pruned, ready to be rendered. Derived from the pipeline
//! file; two files with the same plan hash do the same.
//!
//! `YAML -> PipelineSpec (as written) -> Graph (checked) -> Plan`. It owns the decision of what each
//! edge carries: only the columns that something downstream reads, the raw record and its position
//! only where they are needed. It never checks again what the graph has proved.

use std::collections::BTreeSet;

use tidemill_operators::batch::Shape;
use tidemill_operators::expect::Expectation;
use tidemill_operators::format::{OutputFormat, ReadPlan};
use tidemill_operators::reject::OnError;
use tidemill_operators::time::Turns;
use tidemill_store::Frame;

use crate::contract::{Contract, Policy};
use crate::diagnostic::Mistakes;
use crate::graph::loops::Loop;
use crate::graph::{self, Graph};
use crate::judge::MaxRejects;
use crate::retry;
use crate::sink::changes;
use crate::spec;
use crate::testing::{self, AuthorTest};

mod correct;
pub(crate) mod describe;
pub(crate) mod hash;
mod prune;
mod shared;

pub use crate::diagnostic::Diagnostic;
pub use crate::graph::{
    Input, Join, NodeId, OperatorKind, OrderTerm, OrderedRows, PortId, SinkKind, error_schema,
};
pub use crate::spec::arrival::{Arrival, HashKind, ManifestRule, Marker, Overdue, SetOf, SetRule};
pub use crate::spec::correcting::{Correcting, OnDelete, OnSameName, Retention};
pub use crate::spec::surroundings::{Alone, GivenValue, IncludedFile, Refusal, Surroundings};
pub use crate::spec::taking::{Order, Taking};
pub use crate::spec::tree::FILE_BYTES_MAX;
pub use describe::{describe, loops};
pub use shared::Side;
pub use tidemill_operators::expr::{KEY_BYTES_MIN, Secret, Secrets};

/// A pipeline that can be run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The name of the pipeline.
    pub name: String,
    /// The pipeline file as it was written; flat, if it includes files or has parameters or groups. So it
    /// stands for itself.
    pub yaml: String,
    /// BLAKE3, in hex, over everything that changes what the pipeline does; comments, spacing and
    /// quotes do not.
    pub hash: String,
    /// The sources, in the order of the file. A file goes to the first one that takes its name.
    pub sources: Vec<SourcePlan>,
    /// The operators, each after all that it reads from.
    pub operators: Vec<OperatorPlan>,
    /// The sinks, in the order of the file; the built-in `rejects` is the last one.
    pub sinks: Vec<SinkPlan>,
    /// The loops, in the order of their heads: outer ones before those inside of them.
    pub loops: Vec<LoopPlan>,
    /// The tests of its author. They change nothing of what it does, nor its hash.
    pub tests: Vec<AuthorTest>,
    /// The secrets that its expressions name and that were not given, with the place of the first such
    /// expression. While there are some, it can be checked
    /// and drawn, and not run.
    pub lacks: Vec<(String, String)>,
}

/// A source: which files it takes and what is read from them.
#[derive(Clone, Debug)]
pub struct SourcePlan {
    /// Its name in the file.
    pub name: String,
    /// Globs over file names; any one of them is enough.
    pub patterns: Vec<String>,
    /// What is read.
    pub read: ReadPlan,
    /// Whether a file can be cut into chunks at any line end.
    pub splittable: bool,
    /// How many times larger than itself a compressed file may become.
    pub inflate_ratio_max: u32,
    /// How many of a file's records may be rejected before the file fails; `None`: all.
    pub max_rejects: Option<MaxRejects>,
    /// What fails with a record that it rejects.
    pub on_error: OnError,
    /// What must be true of each record.
    pub expect: Vec<Expectation>,
    /// What is promised of each file.
    pub contract: Option<Contract>,
    /// Which files it takes, and in which order.
    pub taking: Taking,
    /// Where the records go.
    pub output: Port,
    /// Whether some sink of the file reads its errors.
    pub errors_used: bool,
}

/// One output port of a source or operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// The tag; empty for the only port.
    pub tag: String,
    /// What its batches carry: the union of what its readers need.
    pub shape: Shape,
    /// Whether something reads it. Records of an unread port are dropped on purpose.
    pub used: bool,
}

/// An operator, its inputs and its ports.
#[derive(Clone, Debug)]
pub struct OperatorPlan {
    /// Its name in the file.
    pub name: String,
    /// What it does.
    pub kind: OperatorKind,
    /// What it reads, in the order of the file. All inputs hold at least the columns it needs;
    /// their order may differ.
    pub inputs: Vec<Input>,
    /// Its ports. Rejected records leave by a port of their own that is not listed.
    pub outputs: Vec<Port>,
    /// What fails with the records that it rejects.
    pub policy: Policy,
    /// Whether some sink of the file reads its errors.
    pub errors_used: bool,
}

/// Operators that records can go through again and again, up to a number of rounds.
#[derive(Clone, Debug)]
pub struct LoopPlan {
    /// The operator where records enter, and to which they go back.
    pub head: usize,
    /// Its inputs that go back.
    pub back: Vec<usize>,
    /// All its operators, in the order of the plan; the head is the first one.
    pub body: Vec<usize>,
    /// How often a record goes back at most.
    pub max_rounds: u32,
    /// The bits of a time that count its rounds.
    pub turns: Turns,
    /// Whether one record can become several on its way round.
    pub grows: bool,
}

/// A sink.
#[derive(Clone, Debug)]
pub struct SinkPlan {
    /// Its name in the file, or `rejects`.
    pub name: String,
    /// What it reads, in the order of the file.
    pub inputs: Vec<Input>,
    /// The nodes whose rejected records it reads.
    pub errors_of: Vec<NodeId>,
    /// The nodes of whose keys it is told, and whose rejected records operators or tables read.
    pub told_of: Vec<NodeId>,
    /// What it writes.
    pub kind: SinkKind,
    /// How it is tried again to make its outputs visible.
    pub retry: retry::Policy,
}

impl OperatorPlan {
    /// Returns every node it reads, by records or by rejected records.
    pub fn upstream(&self) -> impl Iterator<Item = NodeId> {
        let inputs = self.inputs.iter().map(|input| input.from.node);
        inputs.chain(self.kind.errors_of())
    }
}

impl SourcePlan {
    /// Returns how many lines of each file are no records.
    pub fn frame(&self) -> Frame {
        self.contract.as_ref().map(Contract::frame).unwrap_or_default()
    }
}

impl SinkPlan {
    /// Returns every node it reads, by records, by rejected records or by what is told of its keys.
    pub fn upstream(&self) -> impl Iterator<Item = NodeId> {
        let inputs = self.inputs.iter().map(|input| input.from.node);
        inputs.chain(self.errors_of.iter().chain(&self.told_of).copied())
    }

    /// Returns whether it is a table that also writes what each epoch changed.
    pub fn has_changelog(&self) -> bool {
        matches!(self.kind, SinkKind::Table { changelog: Some(_), .. })
    }
}

impl Plan {
    /// Returns the folders below `out/`, by the number that parts have: those of the sinks, then those
    /// of the changelogs.
    pub fn output_folders(&self) -> Vec<String> {
        let sinks = self.sinks.iter().map(|sink| sink.name.clone());
        let logs = self.changelogs().map(|(sink, _)| changes::folder(&self.sinks[sink].name));
        sinks.chain(logs).collect()
    }

    /// Returns the tables that have a changelog, by their place among the sinks, and how it is written.
    pub fn changelogs(&self) -> impl Iterator<Item = (usize, &OutputFormat)> {
        self.sinks.iter().enumerate().filter_map(|(at, sink)| match &sink.kind {
            SinkKind::Table { changelog, .. } => changelog.as_ref().map(|format| (at, format)),
            SinkKind::Files { .. } | SinkKind::Rejects => None,
        })
    }

    /// Returns these nodes and all that come before them, by records or by rejected records.
    pub(crate) fn with_all_before(
        &self,
        nodes: impl IntoIterator<Item = NodeId>,
    ) -> BTreeSet<NodeId> {
        let mut found = BTreeSet::new();
        let mut ahead: Vec<NodeId> = nodes.into_iter().collect();
        // Each once, so this ends.
        while let Some(node) = ahead.pop() {
            if !found.insert(node) {
                continue;
            }
            if let NodeId::Operator(at) = node {
                ahead.extend(self.operators[at].upstream());
            }
        }
        found
    }

    /// Returns the loop of which an operator is the head.
    pub fn loop_of(&self, head: usize) -> Option<&LoopPlan> {
        self.loops.iter().find(|one| one.head == head)
    }

    /// Returns what an operator reads that does not go back to it, with its place among all it reads.
    pub fn forward(&self, at: usize) -> impl Iterator<Item = (usize, &Input)> {
        let back = self.loop_of(at).map_or(&[][..], |one| &one.back);
        let inputs = self.operators[at].inputs.iter().enumerate();
        inputs.filter(|(input, _)| !back.contains(input))
    }

    /// Returns the loops around an operator, the outermost first.
    pub fn around(&self, at: usize) -> impl Iterator<Item = &LoopPlan> {
        self.loops.iter().filter(move |one| one.body.contains(&at))
    }

    /// Returns how a port is written in a pipeline file.
    pub fn port_name(&self, port: PortId) -> String {
        let name = self.node_name(port.node);
        match self.port(port).tag.as_str() {
            "" => name.to_owned(),
            tag => format!("{name}.{tag}"),
        }
    }

    /// Returns the name of a source or operator.
    ///
    /// # Panics
    ///
    /// When the node belongs to another plan.
    pub fn node_name(&self, node: NodeId) -> &str {
        match node {
            NodeId::Source(at) => &self.sources[at].name,
            NodeId::Operator(at) => &self.operators[at].name,
        }
    }

    /// Returns a port.
    ///
    /// # Panics
    ///
    /// When the port belongs to another plan.
    pub fn port(&self, port: PortId) -> &Port {
        match port.node {
            NodeId::Source(at) => &self.sources[at].output,
            NodeId::Operator(at) => &self.operators[at].outputs[port.port],
        }
    }
}

/// Plans a pipeline file, or returns all its mistakes, sorted by place.
///
/// The text stands for itself: it can include no file, read no variable of the environment and hash with no
/// secret.
pub fn plan(yaml: &str) -> Result<Plan, Vec<Diagnostic>> {
    plan_in(yaml, &Alone::default())
}

/// Plans a pipeline file with what it may ask of the world around it, or returns all its mistakes, sorted by
/// place.
pub fn plan_in(yaml: &str, surroundings: &dyn Surroundings) -> Result<Plan, Vec<Diagnostic>> {
    let mut mistakes = Mistakes::new(yaml);
    mistakes.secrets = surroundings.secrets().anew();
    let mut spec = spec::parse(surroundings, &mut mistakes);
    let tests = spec.as_mut().and_then(|spec| spec.tests.take());
    let graph = spec.as_mut().and_then(|spec| graph::check(spec, &mut mistakes));
    if let (Some(graph), Some(spec)) = (graph.filter(|_| mistakes.is_empty()), &spec) {
        let mut plan = from_graph(graph, spec.flat.as_deref().unwrap_or(yaml));
        plan.lacks = mistakes.lacks();
        if let Some(tests) = tests {
            plan.tests = testing::read::check(tests, spec, &plan, &mut mistakes);
        }
        if mistakes.is_empty() {
            return Ok(plan);
        }
    }
    Err(mistakes.into_sorted())
}

/// Returns a hint that names the nearest of the right names, or all of them when none is near.
pub fn name_hint<'n>(wrong: &str, right: impl IntoIterator<Item = &'n str>) -> Option<String> {
    Mistakes::new("").nearest_hint(wrong, right, "there are")
}

/// Reads a file of values for parameters, `NAME: VALUE`, or returns all its mistakes, sorted by place.
pub fn read_values(yaml: &str) -> Result<Vec<(String, String, u32)>, Vec<Diagnostic>> {
    let mut mistakes = Mistakes::new(yaml);
    let values = spec::values(&mut mistakes);
    match values.filter(|_| mistakes.is_empty()) {
        Some(values) => Ok(values),
        None => Err(mistakes.into_sorted()),
    }
}

/// Orders nothing and checks nothing: the graph did. Decides what each port carries.
fn from_graph(graph: Graph, yaml: &str) -> Plan {
    let needs = prune::needs(&graph);
    let Graph { name, sources, operators, sinks, loops } = graph;
    let mut plan = Plan {
        name,
        yaml: yaml.to_owned(),
        hash: String::new(),
        sources: Vec::with_capacity(sources.len()),
        operators: Vec::with_capacity(operators.len()),
        sinks: Vec::with_capacity(sinks.len()),
        loops: Vec::with_capacity(loops.len()),
        tests: Vec::new(),
        lacks: Vec::new(),
    };
    for Loop { head, back, body, max_rounds, turns, grows } in loops {
        let body = body.into_iter().collect();
        plan.loops.push(LoopPlan { head, back, body, max_rounds, turns, grows });
    }
    for (source, need) in sources.into_iter().zip(&needs.sources) {
        plan.sources.push(prune::source(source, need));
    }
    for (operator, needs) in operators.into_iter().zip(&needs.operators) {
        plan.operators.push(prune::operator(operator, needs));
    }
    let mut looping = plan.loops.iter().flat_map(|one| &one.body);
    if looping.any(|at| plan.operators[*at].kind.keeps_state()) {
        // What such a loop gives may be taken back, and in it rows come at more times than ends of files.
        for operator in &mut plan.operators {
            if let OperatorKind::Dedupe { rows } | OperatorKind::Top { rows, .. } =
                &mut operator.kind
            {
                rows.only_first = false;
            }
        }
    }
    for sink in sinks {
        plan.sinks.push(SinkPlan {
            name: sink.name,
            inputs: sink.inputs,
            errors_of: sink.errors_of,
            told_of: sink.told_of,
            kind: sink.kind,
            retry: sink.retry,
        });
    }
    plan.hash = hash::of(&plan);
    plan
}

#[cfg(test)]
pub(crate) mod tests;

/// Returns one hash over the hashes of several plans.
pub fn combined_hash(hashes: &[u8]) -> [u8; 32] {
    *blake3::hash(hashes).as_bytes()
}
