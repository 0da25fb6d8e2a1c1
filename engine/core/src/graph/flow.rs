//! Flow: what columns arrive where. Goes through the operators in order and types each from what it
//! reads. Derived; a stream whose columns are not known because of an earlier mistake is `None` and
//! brings no further mistakes.

use std::collections::{BTreeSet, HashMap};

use tidemill_operators::{Schema, Type};

use crate::contract::Policy;
use crate::diagnostic::{Mistakes, quoted};
use crate::graph::errors::ERRORS;
use crate::graph::names::{Names, Read};
use crate::graph::{
    COLUMNS_MAX, GraphOperator, GraphPort, GraphSource, Input, NodeId, OperatorKind, PortId,
    error_schema, loops, operators,
};
use crate::spec::{OperatorSpec, PipelineSpec, Text};

/// What is known of the records of a port.
#[derive(Clone, Debug)]
pub(crate) struct Stream {
    /// The columns, if they are known.
    pub(crate) schema: Option<Schema>,
    /// The aggregate that the records passed: they are no records of a file any more, and they are
    /// taken back when it says something new.
    pub(crate) changed_by: Option<String>,
    /// Whether each row is still one record of one file, and so has a place in an output of that file.
    pub(crate) has_place: bool,
    /// Whether no row is ever taken back: it comes from sources alone whose files are never corrected.
    pub(crate) append_only: bool,
}

/// What arrives at an operator.
pub(crate) struct Arriving {
    /// By `from`.
    pub(crate) input: Stream,
    /// By `with`, the other side of a join.
    pub(crate) other: Stream,
    /// The edges of both; `None` when one of them leads to no port.
    pub(crate) inputs: Option<Vec<Input>>,
}

/// An operator while it is checked.
pub(crate) struct Draft {
    pub(crate) name: String,
    pub(crate) kind: Option<OperatorKind>,
    pub(crate) inputs: Option<Vec<Input>>,
    /// Tag, stream, and whether it is read.
    pub(crate) ports: Vec<(String, Stream, bool)>,
    pub(crate) policy: Policy,
    pub(crate) errors_used: bool,
    /// The records that it rejects.
    pub(crate) errors: Stream,
}

/// All streams of a pipeline.
pub(crate) struct Flow {
    sources: Vec<Stream>,
    /// The records that each source rejects.
    source_errors: Vec<Stream>,
    operators: Vec<Draft>,
}

impl Flow {
    /// Returns the stream that a `from` leads to; `None` for unknown names.
    pub(crate) fn stream(&self, read: Read) -> Option<&Stream> {
        let port = match read {
            Read::Port(port) => port,
            Read::Errors(NodeId::Source(at)) => return self.source_errors.get(at),
            Read::Errors(NodeId::Operator(at)) => return Some(&self.operators.get(at)?.errors),
            Read::Unknown => return None,
        };
        match port.node {
            NodeId::Source(at) => self.sources.get(at),
            NodeId::Operator(at) => {
                self.operators.get(at)?.ports.get(port.port).map(|(_, stream, _)| stream)
            }
        }
    }

    /// Returns what an operator does, if that is known.
    pub(crate) fn kind(&self, read: Read) -> Option<&OperatorKind> {
        match read {
            Read::Port(port) => match port.node {
                NodeId::Operator(at) => self.operators.get(at)?.kind.as_ref(),
                NodeId::Source(_) => None,
            },
            _ => None,
        }
    }

    /// Returns the name of a source or operator of which the records of a `from` were rejected, by its
    /// place in the spec's order; what is left of them is cut.
    pub(crate) fn rejected_before(&self, read: Read) -> Option<NodeId> {
        let mut ahead = match read {
            Read::Errors(node) => return Some(node),
            Read::Port(port) => vec![port.node],
            Read::Unknown => return None,
        };
        let mut seen = BTreeSet::new();
        while let Some(node) = ahead.pop() {
            let NodeId::Operator(at) = node else { continue };
            let Some(draft) = self.operators.get(at).filter(|_| seen.insert(at)) else { continue };
            for input in draft.inputs.iter().flatten() {
                if input.from.port == ERRORS {
                    return Some(input.from.node);
                }
                ahead.push(input.from.node);
            }
        }
        None
    }

    /// Returns the name of an aggregate that the records of a `from` have passed: what comes out of it
    /// is no record any more.
    pub(crate) fn aggregate_before(&self, read: Read) -> Option<&str> {
        let Read::Port(port) = read else { return None };
        let mut ahead = vec![port.node];
        // Until it is refused, a pipeline file can have a circle.
        let mut seen = BTreeSet::new();
        while let Some(node) = ahead.pop() {
            let NodeId::Operator(at) = node else { continue };
            let Some(draft) = self.operators.get(at).filter(|_| seen.insert(at)) else { continue };
            if matches!(draft.kind, Some(OperatorKind::Aggregate { .. })) {
                return Some(&draft.name);
            }
            ahead.extend(draft.inputs.iter().flatten().map(|input| input.from.node));
        }
        None
    }

    /// Returns the operators in order; `None` when something about one of them is not known.
    pub(crate) fn into_operators(self) -> Option<Vec<GraphOperator>> {
        let ports = |ports: Vec<(String, Stream, bool)>| {
            ports
                .into_iter()
                .map(|(tag, stream, used)| Some(GraphPort { tag, schema: stream.schema?, used }))
                .collect::<Option<Vec<_>>>()
        };
        self.operators
            .into_iter()
            .map(|draft| {
                Some(GraphOperator {
                    name: draft.name,
                    kind: draft.kind?,
                    inputs: draft.inputs?,
                    outputs: ports(draft.ports)?,
                    policy: draft.policy,
                    errors_used: draft.errors_used,
                })
            })
            .collect()
    }
}

/// Types every operator.
pub(crate) fn check(
    spec: &PipelineSpec,
    names: &Names,
    sources: &[Option<GraphSource>],
    mistakes: &mut Mistakes<'_>,
) -> Flow {
    let source = |source: &Option<GraphSource>| Stream {
        schema: source.as_ref().map(GraphSource::schema),
        changed_by: None,
        has_place: true,
        append_only: source.as_ref().is_some_and(|one| one.taking.correcting.is_final()),
    };
    let sources: Vec<Stream> = sources.iter().map(source).collect();
    let mut flow = Flow {
        source_errors: sources.iter().map(rejected_of).collect(),
        sources,
        operators: Vec::new(),
    };
    for (at, written) in names.order.iter().enumerate() {
        let operator = &spec.operators[*written];
        let from = operator.from.as_deref().unwrap_or_default();
        let reads = &names.operators[at];
        let (reads_from, reads_with) = reads.split_at(from.len().min(reads.len()));
        // What goes back is not known yet: it is compared with what enters once all is.
        let (entering, leading) = loops::entering(from, reads_from, names.back(at));
        let arriving = Arriving {
            input: merge(&flow, &entering, &leading, mistakes),
            other: merge(&flow, operator.with(), reads_with, mistakes),
            inputs: inputs(reads),
        };
        let mut draft = operators::check(operator, at, arriving, names, mistakes);
        forget_too_wide(operator, &mut draft, mistakes);
        flow.operators.push(draft);
    }
    for at in names.loops.iter().map(|one| one.head) {
        check_back(spec, names, &flow, at, mistakes);
    }
    flow
}

/// Notes records that go back to the head of a loop with other columns than those that enter.
fn check_back(
    spec: &PipelineSpec,
    names: &Names,
    flow: &Flow,
    head: usize,
    mistakes: &mut Mistakes<'_>,
) {
    let from = spec.operators[names.order[head]].from.as_deref().unwrap_or_default();
    let reads = &names.operators[head];
    let schema = |input: usize| flow.stream(*reads.get(input)?)?.schema.as_ref();
    let back = names.back(head);
    let Some(first) = (0..from.len()).find(|input| !back.contains(input)) else { return };
    let (Some(enters), Some(columns)) = (from.get(first), schema(first)) else { return };
    let passed = (0..from.len()).filter(|input| !back.contains(input)).find_map(|input| {
        Some((from.get(input)?, flow.stream(*reads.get(input)?)?.changed_by.as_deref()?))
    });
    // Some of what such an operator rejects is known only at the end of a file.
    let rejected = (0..from.len()).find_map(|input| match reads.get(input)? {
        Read::Errors(NodeId::Operator(at)) => {
            let draft = flow.operators.get(*at)?;
            let keeps = draft.kind.as_ref().is_some_and(OperatorKind::keeps_state);
            Some((from.get(input)?, draft.name.as_str())).filter(|_| keeps)
        }
        _ => None,
    });
    if let Some((enters, passed)) = passed.or(rejected) {
        let message = format!("a loop cannot stand behind {}, which keeps state", quoted(passed));
        enters.wrong(mistakes, message, "put it behind the loop".to_owned());
    }
    for input in back {
        let (Some(back), Some(others)) = (from.get(*input), schema(*input)) else { continue };
        let differences = differences(columns, others);
        if !differences.is_empty() {
            let message = format!(
                "what goes back needs the columns of what enters; compared with {}, {}",
                quoted(&enters.text),
                differences.join(", "),
            );
            let hint = "give both the same columns with a `select`".to_owned();
            back.wrong(mistakes, message, hint);
        }
    }
}

/// Notes an operator that gives too many columns.
fn forget_too_wide(operator: &OperatorSpec, draft: &mut Draft, mistakes: &mut Mistakes<'_>) {
    for (_, stream, _) in &mut draft.ports {
        let width = stream.schema.as_ref().map_or(0, |schema| schema.columns().len());
        if width > COLUMNS_MAX {
            let message = format!("{width} columns come out here; at most {COLUMNS_MAX} may");
            operator.name.wrong(mistakes, message, None);
            stream.schema = None;
        }
    }
}

/// Returns the edges of a reader; `None` when one of them leads to no port.
pub(crate) fn inputs(reads: &[Read]) -> Option<Vec<Input>> {
    reads
        .iter()
        .map(|read| match read {
            Read::Port(port) => Some(Input { from: *port }),
            Read::Errors(node) => Some(Input { from: PortId { node: *node, port: ERRORS } }),
            Read::Unknown => None,
        })
        .collect()
}

/// Returns the stream of what is rejected of the records of a stream: each stands where its record does.
pub(crate) fn rejected_of(stream: &Stream) -> Stream {
    Stream { schema: Some(error_schema()), ..stream.clone() }
}

/// Returns the one stream that several inputs make together, and notes where they differ.
pub(crate) fn merge(
    flow: &Flow,
    from: &[Text],
    reads: &[Read],
    mistakes: &mut Mistakes<'_>,
) -> Stream {
    let mut streams = from.iter().zip(reads.iter().map(|read| flow.stream(*read)));
    let mut merged = Stream { schema: None, changed_by: None, has_place: true, append_only: false };
    let Some((first, Some(stream))) = streams.next() else { return merged };
    merged.clone_from(stream);
    for (other, stream) in streams {
        let Some(stream) = stream else {
            merged.schema = None;
            continue;
        };
        if merged.changed_by.is_none() {
            merged.changed_by.clone_from(&stream.changed_by);
        }
        merged.has_place &= stream.has_place;
        merged.append_only &= stream.append_only;
        if let (Some(columns), Some(others)) = (&merged.schema, &stream.schema) {
            let differences = differences(columns, others);
            if !differences.is_empty() {
                let message = format!(
                    "streams that come together need the same columns; compared with {}, {}",
                    quoted(&first.text),
                    differences.join(", "),
                );
                let hint = "give both the same columns with a `select`".to_owned();
                other.wrong(mistakes, message, hint);
            }
        } else {
            merged.schema = None;
        }
    }
    merged
}

/// Returns how `others` differ from `columns`, a few words each; their order does not matter.
fn differences(columns: &Schema, others: &Schema) -> Vec<String> {
    const SHOWN_MAX: usize = 5;
    let mut found = Vec::new();
    if columns == others {
        return found;
    }
    let by_name = |schema: &'_ Schema| -> HashMap<String, Type> {
        schema.columns().iter().map(|column| (column.name.clone(), column.kind)).collect()
    };
    let (known, there) = (by_name(columns), by_name(others));
    for column in columns.columns() {
        match there.get(&column.name) {
            None => found.push(format!("{} is missing", quoted(&column.name))),
            Some(kind) if *kind != column.kind => {
                let name = quoted(&column.name);
                found.push(format!("{name} is {kind} and not {}", column.kind));
            }
            Some(_) => {}
        }
    }
    for other in others.columns() {
        if !known.contains_key(&other.name) {
            found.push(format!("{} is too many", quoted(&other.name)));
        }
    }
    if found.len() > SHOWN_MAX {
        let more = found.len() - SHOWN_MAX;
        found.truncate(SHOWN_MAX);
        found.push(format!("and {more} more"));
    }
    found
}
