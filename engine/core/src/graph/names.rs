//! Names: what each `from` leads to, and an order in which every operator comes after what it reads.
//! Derived from the spec; it never looks at columns.

use std::collections::{BTreeSet, HashMap};

use crate::diagnostic::{Mistakes, listed, place_in, quoted};
use crate::graph::loops::{self, Loop};
use crate::graph::{NodeId, PortId, errors};
use crate::spec::{BodySpec, OperatorSpec, PipelineSpec, Text};

/// The port of `parse` for records that do not match.
pub(crate) const UNMATCHED: usize = 1;

/// What one `from` leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Read {
    /// A port.
    Port(PortId),
    /// The rejected records of a node.
    Errors(NodeId),
    /// Nothing that is known: a mistake that has been noted stands in the way.
    Unknown,
}

/// All names, resolved. Operators are numbered by their place in the plan.
pub(crate) struct Names {
    /// The operators of the spec, by their place in the plan.
    pub(crate) order: Vec<usize>,
    /// What each operator reads, by its place in the plan.
    pub(crate) operators: Vec<Vec<Read>>,
    /// What each sink reads.
    pub(crate) sinks: Vec<Vec<Read>>,
    /// The loops: outer ones before those inside of them, earlier ones before those they lead to.
    pub(crate) loops: Vec<Loop>,
    /// What is fed to the inputs of groups that demand columns.
    pub(crate) demands: Vec<Vec<Read>>,
    /// Whether every `from` leads somewhere, so that what is not read is really not read.
    pub(crate) all_known: bool,
}

impl Names {
    /// Returns the inputs of an operator that go back to it.
    pub(crate) fn back(&self, at: usize) -> &[usize] {
        self.loops.iter().find(|one| one.head == at).map_or(&[], |one| &one.back)
    }

    /// Returns whether something reads a port.
    pub(crate) fn is_read(&self, node: NodeId, port: usize) -> bool {
        self.reads().any(|read| *read == Read::Port(PortId { node, port }))
    }

    /// Returns whether something reads the rejected records of a node.
    pub(crate) fn errors_read(&self, node: NodeId) -> bool {
        self.reads().any(|read| *read == Read::Errors(node))
    }

    fn reads(&self) -> impl Iterator<Item = &Read> {
        self.operators.iter().chain(&self.sinks).flatten()
    }
}

/// Returns the tags of an operator by port, when they are known.
pub(crate) fn tags(operator: &OperatorSpec) -> Option<Vec<&str>> {
    Some(match operator.body.as_ref()? {
        BodySpec::Route { rules, otherwise, .. } => rules
            .iter()
            .map(|(tag, _)| tag)
            .chain(otherwise.as_ref())
            .map(|tag| tag.text.as_str())
            .collect(),
        BodySpec::Parse { .. } => vec!["", "unmatched"],
        BodySpec::Dedupe { .. } => vec!["", "duplicates"],
        BodySpec::Lots(lots) => lots.tags.iter().map(|tag| tag.text.as_str()).collect(),
        BodySpec::State(state) => state.tags.iter().map(|tag| tag.text.as_str()).collect(),
        _ => vec![""],
    })
}

#[derive(Clone, Copy)]
enum Named {
    Source(usize),
    Operator(usize),
    Sink,
}

/// Resolves all names, and notes those that lead nowhere, those given twice, and circles without end.
pub(crate) fn resolve(spec: &PipelineSpec, mistakes: &mut Mistakes<'_>) -> Names {
    let (known, unique) = collect(spec, mistakes);
    let resolver = Resolver { spec, known };
    let mut all_known = spec.complete && unique;
    let mut resolve = |from: Option<Vec<&Text>>, mistakes: &mut Mistakes<'_>| {
        let reads: Vec<Read> = from
            .iter()
            .flatten()
            .map(|from| resolver.read(from, mistakes).unwrap_or(Read::Unknown))
            .collect();
        all_known &= from.is_some() && !reads.contains(&Read::Unknown);
        reads
    };
    let mut written: Vec<Vec<Read>> =
        spec.operators.iter().map(|operator| resolve(operator.reads(), mistakes)).collect();
    let sinks: Vec<Vec<Read>> = spec
        .sinks
        .iter()
        .map(|sink| resolve(sink.from.as_ref().map(|from| from.iter().collect()), mistakes))
        .collect();

    let demands: Vec<Vec<Read>> = spec
        .demands
        .iter()
        .map(|demand| resolve(Some(demand.ports.iter().collect()), mistakes))
        .collect();
    errors::refuse_circles(spec, &mut written, mistakes);
    let mut loops = loops::find(spec, &written, all_known, mistakes);
    if all_known {
        loops::check(spec, &written, &sinks, &loops, mistakes);
    }
    let order = order(&written, &loops);
    let mut place = vec![0; order.len()];
    for (at, operator) in order.iter().enumerate() {
        place[*operator] = at;
    }
    for one in &mut loops {
        one.head = place[one.head];
        one.body = one.body.iter().map(|at| place[*at]).collect();
    }
    // A head comes behind all that its loop reads, so this order is that of what leads where.
    loops.sort_by_key(|one| one.head);
    loops::divide(spec, &order, &mut loops, mistakes);
    let node = |node| match node {
        NodeId::Operator(written) => NodeId::Operator(place[written]),
        source => source,
    };
    let replaced = |read: &Read| match *read {
        Read::Port(PortId { node: at, port }) => Read::Port(PortId { node: node(at), port }),
        Read::Errors(at) => Read::Errors(node(at)),
        Read::Unknown => Read::Unknown,
    };
    Names {
        operators: order.iter().map(|at| written[*at].iter().map(replaced).collect()).collect(),
        sinks: sinks.iter().map(|reads| reads.iter().map(replaced).collect()).collect(),
        demands: demands.iter().map(|reads| reads.iter().map(replaced).collect()).collect(),
        order,
        loops,
        all_known,
    }
}

/// Returns what each name stands for, and whether no name of something that can be read is given
/// twice.
fn collect<'s>(
    spec: &'s PipelineSpec,
    mistakes: &mut Mistakes<'_>,
) -> (HashMap<&'s str, Named>, bool) {
    let sources = spec.sources.iter().enumerate().map(|(at, node)| (&node.name, Named::Source(at)));
    let operators =
        spec.operators.iter().enumerate().map(|(at, node)| (&node.name, Named::Operator(at)));
    let sinks = spec.sinks.iter().map(|node| (&node.name, Named::Sink));
    let mut known: HashMap<&str, Named> = HashMap::new();
    let mut unique = true;
    for (name, node) in sources.chain(operators) {
        if let Some(first) = known.get(name.text.as_str()) {
            let what = match first {
                Named::Source(_) => "a source",
                Named::Operator(_) => "an operator",
                Named::Sink => "a sink",
            };
            let first = match first {
                Named::Source(at) => spec.sources.get(*at).map(|source| source.name.place),
                Named::Operator(at) => spec.operators.get(*at).map(|operator| operator.name.place),
                Named::Sink => None,
            };
            let elsewhere = first.filter(|first| !mistakes.same_file(*first, name.place));
            let at = elsewhere.map(|first| format!(", in {}", mistakes.shown(first)));
            let at = at.unwrap_or_default();
            let message = format!("{what} is called {} already{at}", quoted(&name.text));
            name.wrong(mistakes, message, Some("names are unique in a file".to_owned()));
            unique = false;
        } else {
            known.insert(&name.text, node);
        }
    }
    unique &= check_groups(spec, &known, mistakes);
    // A sink may share the name of what it reads: nothing reads a sink, so no `from` is ambiguous.
    for (name, node) in sinks {
        known.entry(&name.text).or_insert(node);
    }
    (known, unique)
}

/// Notes operators called `x/inner` where `x` itself is something: `x` names the group.
fn check_groups(
    spec: &PipelineSpec,
    known: &HashMap<&str, Named>,
    mistakes: &mut Mistakes<'_>,
) -> bool {
    let mut right = true;
    for operator in &spec.operators {
        let Some((group, _)) = operator.name.text.split_once('/') else { continue };
        if matches!(known.get(group), Some(Named::Source(_) | Named::Operator(_))) {
            let message = format!(
                "{} is called like an operator of a group {}, and there is something of that name",
                quoted(&operator.name.text),
                quoted(group)
            );
            operator.name.wrong(mistakes, message, Some("rename one of them".to_owned()));
            right = false;
        }
    }
    right
}

struct Resolver<'s> {
    spec: &'s PipelineSpec,
    known: HashMap<&'s str, Named>,
}

impl Resolver<'_> {
    /// Returns what a `from` leads to, with operators numbered as in the spec; `None` when the
    /// mistake has been noted.
    fn read(&self, from: &Text, mistakes: &mut Mistakes<'_>) -> Option<Read> {
        let (name, tag) = match from.text.split_once('.') {
            Some((name, tag)) => (name, Some(tag)),
            None => (from.text.as_str(), None),
        };
        let node = match self.known.get(name) {
            Some(Named::Source(at)) => NodeId::Source(*at),
            Some(Named::Operator(at)) => NodeId::Operator(*at),
            Some(Named::Sink) => {
                let message = format!("{} is a sink: nothing comes out of it", quoted(name));
                from.wrong(mistakes, message, Some("read what the sink reads".to_owned()));
                return None;
            }
            None => {
                self.unknown_name(from, name, mistakes);
                return None;
            }
        };
        if tag == Some("errors") {
            return Some(Read::Errors(node));
        }
        let tags = match node {
            NodeId::Source(_) => Some(vec![""]),
            NodeId::Operator(at) => self.spec.operators.get(at).and_then(tags),
        };
        let Some(tags) = tags else { return Some(Read::Unknown) };
        match tags.iter().position(|known| *known == tag.unwrap_or_default()) {
            Some(port) => Some(Read::Port(PortId { node, port })),
            None => {
                self.unknown_tag(from, name, tag, &tags, mistakes);
                None
            }
        }
    }

    fn unknown_name(&self, from: &Text, name: &str, mistakes: &mut Mistakes<'_>) {
        if !self.spec.complete {
            return; // It may stand in the part that could not be read.
        }
        let sources = self.spec.sources.iter().map(|source| source.name.text.as_str());
        let operators = self.spec.operators.iter().map(|operator| operator.name.text.as_str());
        // Other tools put something else between a name and its tag.
        let parts = name.split_once(['/', ':', ' ', '>']);
        let hint = match parts.map(|(node, tag)| (node.trim_end_matches('-'), tag.trim())) {
            Some((node, _)) if self.known.contains_key(node) && name.contains("->") => {
                Some(format!("say only what is read: {}", quoted(node)))
            }
            Some((node, tag)) if self.known.contains_key(node) => {
                Some(format!("a tag stands behind a dot: {}", quoted(&format!("{node}.{tag}"))))
            }
            _ => self
                .tag_alone(name)
                .or_else(|| mistakes.nearest_hint(name, sources.chain(operators), "there are")),
        };
        let place = place_in(mistakes.yaml(), from.place, &from.text, 0..name.len());
        let message = format!("no source or operator is called {}", quoted(name));
        mistakes.add(place, &from.path, message, hint);
    }

    /// Returns what to write instead of a tag that stands alone.
    fn tag_alone(&self, name: &str) -> Option<String> {
        let has_it =
            |operator: &&OperatorSpec| tags(operator).is_some_and(|all| all.contains(&name));
        let owners = self.spec.operators.iter().filter(has_it);
        let written: Vec<String> =
            owners.map(|operator| format!("{}.{name}", operator.name.text)).collect();
        let choices = listed(written.iter().map(String::as_str)).replace(" and ", " or ");
        let text = format!("a tag stands behind the name of its operator: {choices}");
        (!written.is_empty()).then_some(text)
    }

    fn unknown_tag(
        &self,
        from: &Text,
        name: &str,
        tag: Option<&str>,
        tags: &[&str],
        mistakes: &mut Mistakes<'_>,
    ) {
        let Some(tag) = tag else {
            let message = format!("{} has several outputs: say which one", quoted(name));
            let choices: Vec<String> = tags.iter().map(|tag| format!("{name}.{tag}")).collect();
            let hint = format!("write {}", listed(choices.iter().map(String::as_str)));
            from.wrong(mistakes, message, hint.replace(" and ", " or "));
            return;
        };
        let place =
            place_in(mistakes.yaml(), from.place, &from.text, name.len() + 1..from.text.len());
        let message = format!("{} has no tag {}", quoted(name), quoted(tag));
        let named = tags.iter().copied().filter(|tag| !tag.is_empty());
        let hint = if tags.contains(&"") && crate::diagnostic::nearest(tag, named.clone()).is_none()
        {
            Some(format!("read its only output as {}", quoted(name)))
        } else {
            mistakes.nearest_hint(tag, named, "it has")
        };
        mistakes.add(place, &from.path, message, hint);
    }
}

/// Returns the operators of the spec, each after those it reads; what goes back does not count.
fn order(reads: &[Vec<Read>], loops: &[Loop]) -> Vec<usize> {
    let back: BTreeSet<(usize, usize)> =
        loops.iter().flat_map(|one| one.back.iter().map(|input| (one.head, *input))).collect();
    let upstream = |at: usize| {
        let back = &back;
        reads[at].iter().enumerate().filter_map(move |(input, read)| match read {
            Read::Port(PortId { node: NodeId::Operator(from), .. })
            | Read::Errors(NodeId::Operator(from)) => {
                (!back.contains(&(at, input))).then_some(*from)
            }
            _ => None,
        })
    };
    let mut readers: Vec<Vec<usize>> = vec![Vec::new(); reads.len()];
    let mut waiting: Vec<usize> = vec![0; reads.len()];
    let all = (0..reads.len()).flat_map(|at| upstream(at).map(move |from| (at, from)));
    for (at, from) in all.chain(loops::beside(reads, loops)) {
        readers[from].push(at);
        waiting[at] += 1;
    }
    // A set that gives the smallest first, so that the order of the file decides where it can.
    let mut ready: BTreeSet<usize> = (0..reads.len()).filter(|at| waiting[*at] == 0).collect();
    let mut order = Vec::with_capacity(reads.len());
    while let Some(at) = ready.pop_first() {
        order.push(at);
        for reader in &readers[at] {
            waiting[*reader] -= 1;
            if waiting[*reader] == 0 {
                ready.insert(*reader);
            }
        }
    }
    // Where there are more circles than are looked for, which is a mistake.
    order.extend((0..reads.len()).filter(|at| waiting[*at] > 0));
    order
}
