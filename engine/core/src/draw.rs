//! Draw: a plan as a picture, in Mermaid or SVG. Derived; owns looks, decides nothing.
//!
//! The built-in `rejects` sink is left out: an edge from every node would hide the picture.

use std::fmt::Write as _;

use crate::plan::{NodeId, Plan, SinkKind, describe};

mod layout;
mod svg;

pub use svg::svg;

/// What is drawn: nodes by index, and edges between them.
pub(crate) struct Picture {
    pub(crate) nodes: Vec<Shown>,
    pub(crate) edges: Vec<Edge>,
}

/// One node as it is shown.
pub(crate) struct Shown {
    pub(crate) name: String,
    /// `source`, `operator` or `sink`.
    pub(crate) role: String,
    pub(crate) kind: String,
    pub(crate) detail: String,
}

/// One edge as it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Edge {
    pub(crate) from: usize,
    pub(crate) to: usize,
    pub(crate) tag: String,
}

/// Returns the nodes and edges of a plan that are worth drawing.
pub(crate) fn picture(plan: &Plan) -> Picture {
    let (reports, _) = describe(plan);
    let rejects = plan.sinks.iter().position(|sink| sink.kind == SinkKind::Rejects);
    let first_sink = plan.sources.len() + plan.operators.len();
    let nodes = reports.into_iter().enumerate().filter_map(|(at, node)| {
        (rejects.map(|sink| first_sink + sink) != Some(at)).then_some(Shown {
            name: node.name,
            role: node.role,
            kind: node.kind,
            detail: node.detail,
        })
    });
    let index = |node: NodeId| match node {
        NodeId::Source(at) => at,
        NodeId::Operator(at) => plan.sources.len() + at,
    };
    let mut edges = Vec::new();
    for (at, operator) in plan.operators.iter().enumerate() {
        for input in &operator.inputs {
            let tag = plan.port(input.from).tag.clone();
            edges.push(Edge { from: index(input.from.node), to: index(NodeId::Operator(at)), tag });
        }
    }
    // `rejects` is the last sink, so leaving it out moves no other.
    for (at, sink) in plan.sinks.iter().enumerate() {
        if sink.kind == SinkKind::Rejects {
            continue;
        }
        for input in &sink.inputs {
            let tag = plan.port(input.from).tag.clone();
            edges.push(Edge { from: index(input.from.node), to: first_sink + at, tag });
        }
        for node in &sink.errors_of {
            edges.push(Edge { from: index(*node), to: first_sink + at, tag: "errors".to_owned() });
        }
    }
    Picture { nodes: nodes.collect(), edges }
}

/// Returns the plan as a Mermaid flowchart, for pages that render it (a README, a wiki).
pub fn mermaid(plan: &Plan) -> String {
    let picture = picture(plan);
    let mut out = String::from("flowchart LR\n");
    for (at, node) in picture.nodes.iter().enumerate() {
        let text = format!("{}<br/><small>{}</small>", escaped(&node.name), escaped(&node.kind));
        let (open, close) = match node.role.as_str() {
            "source" => ("([", "])"),
            "sink" => ("[(", ")]"),
            _ => ("[", "]"),
        };
        // Writing to a String cannot fail.
        let _ = writeln!(out, "  n{at}{open}\"{text}\"{close}");
    }
    for edge in &picture.edges {
        let label = match edge.tag.as_str() {
            "" => String::new(),
            tag => format!("|\"{}\"|", escaped(tag)),
        };
        let _ = writeln!(out, "  n{} -->{label} n{}", edge.from, edge.to);
    }
    out
}

/// Returns text that is safe inside markup: no character of it is taken for a tag or an attribute.
pub(crate) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for next in text.chars() {
        match next {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            // XML has no way to write these.
            next if next.is_control() || matches!(next, '\u{fffe}' | '\u{ffff}') => out.push(' '),
            next => out.push(next),
        }
    }
    out
}
