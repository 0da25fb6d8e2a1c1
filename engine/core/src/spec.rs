//! Spec: a pipeline file as it was written, taken apart but not yet understood. Derived from the
//! file alone.
//!
//! It owns the shape of the language: which keys there are and what kind of value each takes. It
//! never looks up a name and never compiles an expression: that is the graph's part. A part that
//! cannot be read is `None`, so that the rest of the file is still checked.

pub(crate) mod tree;

pub(crate) mod read;

pub(crate) mod compose;
pub(crate) mod surroundings;

pub(crate) mod arrival;
pub(crate) mod contract;
pub(crate) mod correcting;
mod operator;
pub(crate) mod retry;
mod sink;
mod source;
pub(crate) mod taking;
mod words;

#[cfg(test)]
pub(crate) use operator::KINDS;
pub(crate) use operator::state::{DROP, StateSpec, VariableSpec};
pub(crate) use operator::{
    BodySpec, ExprSpec, JoinSpec, LotsSpec, NamedSpec, OperatorSpec, ROWS_MAX_DEFAULT,
};
pub(crate) use read::Text;
pub(crate) use sink::{EmptyFiles, SinkBody, SinkSpec};
pub(crate) use source::{FieldSpec, SourceSpec};

use crate::diagnostic::{Mistakes, Place, line_and_column};
use crate::retry::Policy;
use compose::{Demand, flat};
use read::Entries;
use surroundings::Surroundings;
use tree::Node;

/// A pipeline file as written.
#[derive(Debug)]
pub(crate) struct PipelineSpec {
    pub(crate) name: Option<Text>,
    pub(crate) sources: Vec<SourceSpec>,
    pub(crate) operators: Vec<OperatorSpec>,
    pub(crate) sinks: Vec<SinkSpec>,
    /// The tests, to be read once the pipeline has no mistake.
    pub(crate) tests: Option<Node>,
    /// Whether `sources`, `operators` and `sinks` could be read as maps with something in them: only then is a name
    /// that is not there really unknown.
    pub(crate) complete: bool,
    /// What groups demand of what is fed to them.
    pub(crate) demands: Vec<Demand>,
    /// The operators of groups that nobody uses.
    pub(crate) unused: Vec<OperatorSpec>,
    /// The file as it would be written without includes, parameters and groups, if it has any.
    pub(crate) flat: Option<String>,
}

/// Reads a pipeline file; `None` when it is not a map of keys at all, or lacks what it includes or refers to.
pub(crate) fn parse(
    surroundings: &dyn Surroundings,
    mistakes: &mut Mistakes<'_>,
) -> Option<PipelineSpec> {
    let root = tree::read(mistakes)?;
    let composed = compose::compose(root, surroundings, mistakes)?;
    let flat = if composed.changed { Some(flat_text(&composed.root, mistakes)?) } else { None };
    let compose::Composed { root, demands, unused, .. } = composed;
    let mut top = Entries::open(root, "a pipeline file", mistakes)?;
    for key in compose::OWN_KEYS {
        top.take(key); // composition has it; so it is one of the names that are offered
    }
    let name = top.require("pipeline", mistakes);
    let name = name.and_then(|node| read::text(node, "`pipeline`, the name,", mistakes));
    if let Some(name) = &name {
        read::check_name(name, "the pipeline", mistakes);
    }
    let retry = retry::parse(&mut top, &retry::OF_FILES, mistakes).over(Policy::STANDARD);
    let sources = top.require("sources", mistakes);
    let sources = sources.and_then(|node| section(node, "sources", source::parse, mistakes));
    let operators = top.take("operators");
    let without_operators = operators.is_none();
    let operators =
        operators.and_then(|node| section(node, "operators", operator::parse, mistakes));
    let sinks = top.require("sinks", mistakes);
    let sinks = sinks.and_then(|node| section(node, "sinks", sink::parse, mistakes));
    let tests = top.take("tests");
    let some = |nodes: usize| nodes > 0;
    let complete = sources.as_ref().map(Vec::len).is_some_and(some)
        && sinks.as_ref().map(Vec::len).is_some_and(some)
        && (operators.is_some() || without_operators)
        && top.rest().next().is_none();
    for (section, what) in
        [(sources.as_ref().map(Vec::len), "source"), (sinks.as_ref().map(Vec::len), "sink")]
    {
        if section == Some(0) {
            top.wrong(mistakes, format!("a pipeline needs at least one {what}"), None);
        }
    }
    top.finish(mistakes);
    let mut sources = sources;
    for source in sources.iter_mut().flatten() {
        source.taking.retry = source.retry.over(retry);
    }
    Some(PipelineSpec {
        name,
        sources: sources.unwrap_or_default(),
        operators: operators.unwrap_or_default(),
        sinks: sinks.unwrap_or_default(),
        tests,
        complete,
        demands,
        unused,
        flat,
    })
}

/// Reads a file of values for parameters: a map of names, each with its line.
pub(crate) fn values(mistakes: &mut Mistakes<'_>) -> Option<Vec<(String, String, u32)>> {
    let root = tree::read(mistakes)?;
    let mut values = Vec::new();
    for (key, node) in read::map(root, "a file of parameters", mistakes)? {
        let (line, _) = line_and_column(mistakes.yaml(), key.place.start);
        let value = read::text(node, "the value of a parameter", mistakes)?.text;
        values.push((key.name, value, line));
    }
    Some(values)
}

/// Returns a composed file as text; it has the bounds of any other file, so that it can be read again.
fn flat_text(root: &Node, mistakes: &mut Mistakes<'_>) -> Option<String> {
    let (values, text) = (flat::count(root), flat::text(root));
    if values <= tree::NODES_MAX && text.len() <= tree::FILE_BYTES_MAX {
        return Some(text);
    }
    let message = format!(
        "with all that is included and all groups the pipeline has {values} values and {} bytes; at most {} \
         and {} are taken",
        text.len(),
        tree::NODES_MAX,
        tree::FILE_BYTES_MAX
    );
    mistakes.add(Place::default(), "", message, Some("make several pipelines".to_owned()));
    None
}

/// Reads one of the sections: a map of names.
fn section<T>(
    node: Node,
    what: &'static str,
    parse: fn(Text, Node, &mut Mistakes<'_>) -> T,
    mistakes: &mut Mistakes<'_>,
) -> Option<Vec<T>> {
    let entries = read::map(node, &format!("`{what}`"), mistakes)?;
    let one = what.trim_end_matches('s');
    let article = if one.starts_with('o') { "an" } else { "a" };
    let mut parsed = Vec::with_capacity(entries.len());
    for (key, node) in entries {
        let name = match one {
            "operator" => read::operator_name(&key, &node.path, mistakes),
            _ => read::name(&key, &node.path, &format!("{article} {one}"), mistakes),
        };
        parsed.push(parse(name, node, mistakes));
    }
    Some(parsed)
}
