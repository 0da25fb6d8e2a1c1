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

impl Shown {
    /// Returns the name as seen from inside of a group; `None` for what is not in it.
    pub(crate) fn inside(&self, group: &str) -> Option<&str> {
        if group.is_empty() {
            return Some(&self.name);
        }
        self.name.strip_prefix(group)?.strip_prefix('/')
    }

    /// Returns the group in which it stands, if it does.
    pub(crate) fn group(&self) -> Option<&str> {
        self.name.rsplit_once('/').map(|(group, _)| group)
    }
}

/// One edge as it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Edge {
    pub(crate) from: usize,
    pub(crate) to: usize,
    pub(crate) tag: String,
}

impl Edge {
    /// Returns whether it goes back in a loop: nodes stand in an order in which all others go on.
    pub(crate) fn goes_back(&self) -> bool {
        self.to <= self.from
    }
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
        let to = index(NodeId::Operator(at));
        let errors = operator.kind.errors_of().map(index);
        edges.extend(errors.map(|from| Edge { from, to, tag: "errors".to_owned() }));
        for input in &operator.inputs {
            let tag = plan.port(input.from).tag.clone();
            edges.push(Edge { from: index(input.from.node), to, tag });
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
    let mut boxes = 0;
    draw_level(&picture, "", 1, &mut boxes, &mut out);
    for edge in &picture.edges {
        let label = match edge.tag.as_str() {
            "" => String::new(),
            tag => format!("|\"{}\"|", escaped(tag)),
        };
        let arrow = if edge.goes_back() { "-.->" } else { "-->" };
        let _ = writeln!(out, "  n{} {arrow}{label} n{}", edge.from, edge.to);
    }
    out
}

/// Draws the nodes of a group, each group in it in a box of its own; `` is outside of all groups.
fn draw_level(picture: &Picture, group: &str, depth: usize, boxes: &mut usize, out: &mut String) {
    let margin = "  ".repeat(depth);
    let mut drawn: Vec<String> = Vec::new();
    for (at, node) in picture.nodes.iter().enumerate() {
        let Some(inside) = node.inside(group) else { continue };
        // Writing to a String cannot fail.
        match inside.split_once('/') {
            None => {
                let text =
                    format!("{}<br/><small>{}</small>", escaped(inside), escaped(&node.kind));
                let (open, close) = match node.role.as_str() {
                    "source" => ("([", "])"),
                    "sink" => ("[(", ")]"),
                    _ => ("[", "]"),
                };
                let _ = writeln!(out, "{margin}n{at}{open}\"{text}\"{close}");
            }
            Some((inner, _)) => {
                let full =
                    if group.is_empty() { inner.to_owned() } else { format!("{group}/{inner}") };
                if drawn.contains(&full) {
                    continue;
                }
                let _ = writeln!(out, "{margin}subgraph g{boxes} [\"{}\"]", escaped(inner));
                *boxes += 1;
                draw_level(picture, &full, depth + 1, boxes, out);
                let _ = writeln!(out, "{margin}end");
                drawn.push(full);
            }
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::plan;
    use crate::plan::tests::{ACCESS_LOGS, AUTH_GUARD, good};

    #[test]
    fn the_example_in_mermaid() {
        assert_eq!(
            mermaid(&good(ACCESS_LOGS)),
            "flowchart LR\n  \
             n0([\"logs<br/><small>jsonl</small>\"])\n  \
             n1[\"by_class<br/><small>route</small>\"]\n  \
             n2[\"traffic<br/><small>aggregate</small>\"]\n  \
             n3[(\"errors<br/><small>files</small>\")]\n  \
             n4[(\"traffic<br/><small>table</small>\")]\n  \
             n0 --> n1\n  \
             n1 -->|\"ok\"| n2\n  \
             n1 -->|\"client_error\"| n2\n  \
             n1 -->|\"server_error\"| n3\n  \
             n2 --> n4\n"
        );
    }

    const REPAIR: &str = "pipeline: p\nsources: { rows: { format: csv, fields: { n: int } } }\noperators:\n  \
        check: { from: [rows, fix], max_rounds: 3, route: { good: n > 0, bad: else } }\n  \
        fix: { from: check.bad, select: { n: n + 1 } }\nsinks:\n  o: { from: check.good, files: { format: csv } }\n";

    #[test]
    fn what_goes_back_is_drawn_back() {
        let drawn = mermaid(&good(REPAIR));
        assert!(drawn.contains("n1 -->|\"bad\"| n2") && drawn.contains("n2 -.-> n1"), "{drawn}");
        let picture = svg(&good(REPAIR));
        assert_eq!(picture.matches("class=\"edge back\"").count(), 1);
        assert!(picture.contains("back by fix, at most 3 rounds"));
    }

    /// Checks that every tag is closed by its like and that no text holds a bare mark.
    #[track_caller]
    fn check_well_formed(svg: &str) {
        let mut open: Vec<&str> = Vec::new();
        let mut rest = svg;
        while let Some(at) = rest.find('<') {
            let text = &rest[..at];
            assert!(!text.contains('>') || open.last() == Some(&"style"), "bare mark in {text:?}");
            for part in text.split('&').skip(1) {
                let name = part.split(';').next().unwrap();
                assert!(["amp", "lt", "gt", "quot", "#39"].contains(&name), "{part:?}");
            }
            let tag = &rest[at + 1..at + rest[at..].find('>').expect("a tag ends")];
            assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
            if let Some(name) = tag.strip_prefix('/') {
                assert_eq!(open.pop(), Some(name));
            } else if !tag.ends_with('/') {
                open.push(tag.split(' ').next().unwrap());
            }
            rest = &rest[at + tag.len() + 2..];
        }
        assert!(open.is_empty(), "{open:?}");
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }

    #[test]
    fn the_picture_is_well_formed() {
        for yaml in [ACCESS_LOGS, AUTH_GUARD, REPAIR] {
            let picture = svg(&good(yaml));
            check_well_formed(&picture);
            assert!(picture.starts_with("<svg xmlns="));
        }
    }

    #[test]
    fn a_group_is_drawn_as_a_box() {
        let yaml = "pipeline: p\nsources: { s: { format: text } }\n\
                    operators:\n  x/a: { from: s, filter: line = 'a' }\n  \
                    y: { from: s, filter: line = 'y' }\n  \
                    x/z/b: { from: x/a, filter: line = 'b' }\n\
                    sinks: { o: { from: [x/z/b, y], files: { format: raw } } }\n";
        assert_eq!(
            mermaid(&good(yaml)),
            "flowchart LR\n  \
             n0([\"s<br/><small>text</small>\"])\n  \
             subgraph g0 [\"x\"]\n    \
             n1[\"a<br/><small>filter</small>\"]\n    \
             subgraph g1 [\"z\"]\n      \
             n3[\"b<br/><small>filter</small>\"]\n    \
             end\n  \
             end\n  \
             n2[\"y<br/><small>filter</small>\"]\n  \
             n4[(\"o<br/><small>files</small>\")]\n  \
             n0 --> n1\n  n0 --> n2\n  n1 --> n3\n  n3 --> n4\n  n2 --> n4\n"
        );
        let picture = svg(&good(yaml));
        check_well_formed(&picture);
        assert_eq!(picture.matches("class=\"group\"").count(), 2, "{picture}");
    }

    #[test]
    fn a_hostile_column_name_stays_text() {
        let yaml = "pipeline: p\nsources: { s: { format: jsonl, fields: { \"</text><script>&'\\\"\": int } } }\n\
                    operators: { x: { from: s, select: [\"</text><script>&'\\\"\"] } }\n\
                    sinks: { o: { from: x, files: { format: csv } } }\n";
        let plan = plan(yaml).unwrap();
        check_well_formed(&svg(&plan));
        assert!(!svg(&plan).contains("<script") && !mermaid(&plan).contains("<script"));
    }

    #[test]
    fn a_sink_of_rejected_records_is_drawn() {
        let yaml = "pipeline: p\nsources: { s: { format: text } }\n\
                    sinks: { o: { from: s, files: { format: raw } }, bad: { from: s.errors, files: { format: \
                    csv } } }\n";
        let drawn = mermaid(&good(yaml));
        assert!(drawn.contains("n0 -->|\"errors\"| n2"), "{drawn}");
    }
}
