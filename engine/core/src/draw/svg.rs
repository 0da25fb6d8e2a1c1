//! Svg: a laid out plan as a picture that needs nothing else: no script, no font, no link. Derived.
//!
//! Colours are taken from the reader's light or dark preference. All text is escaped.

use std::collections::HashSet;
use std::fmt::Write as _;

use crate::draw::layout::{Layout, layout};
use crate::draw::{Edge, Picture, Shown, escaped, picture};
use crate::plan::Plan;

/// The height of a node and of a bend, in pixels, as are all lengths here.
const NODE_HEIGHT: f64 = 58.0;
/// How far apart two tags of a node stand at least.
const TAG_GAP: f64 = 18.0;
const BEND_HEIGHT: f64 = 22.0;
/// How far below all nodes what goes back runs, and how far apart two such edges are.
const BACK_GAP: f64 = 16.0;
/// How far a way back reaches out at its nodes.
const BACK_REACH: f64 = 44.0;
/// The space between two nodes of a layer, between two layers, and around the picture.
const NODE_GAP: f64 = 22.0;
const LAYER_GAP: f64 = 110.0;
const MARGIN: f64 = 24.0;
/// The width of a character of a name and of small print; generous, since fonts differ.
const NAME_CHARACTER: f64 = 8.2;
const SMALL_CHARACTER: f64 = 6.6;
/// The bounds of a node's width, and how much of a text is shown.
const NODE_WIDTH_MIN: f64 = 110.0;
const TEXT_CHARACTERS_MAX: usize = 40;

const STYLE: &str = "\
svg{color-scheme:light dark;font-family:ui-sans-serif,system-ui,sans-serif}\
.ground{fill:#fff}.group{fill:none;stroke:#818b98;stroke-dasharray:6 4}.box{fill:#f6f8fa;stroke:#afb8c1}.source .box{fill:#ddf4ff;stroke:#54aeff}\
.sink .box{fill:#dafbe1;stroke:#4ac26b}.name{fill:#1f2328;font-size:14px;font-weight:600}\
.kind,.tag{fill:#59636e;font-size:11px}.edge{fill:none;stroke:#818b98;stroke-width:1.5}\
.arrow{fill:#818b98}.errors,.back{stroke-dasharray:4 4}.tag{paint-order:stroke;stroke:#fff;stroke-width:4px}\
@media(prefers-color-scheme:dark){.ground{fill:#0d1117}.box{fill:#151b23;stroke:#3d444d}\
.source .box{fill:#121d2f;stroke:#1f6feb}.sink .box{fill:#12261e;stroke:#238636}\
.name{fill:#f0f6fc}.kind,.tag{fill:#9198a1}.edge{stroke:#656c76}.arrow{fill:#656c76}\
.tag{stroke:#0d1117}}";

/// Where a slot stands.
#[derive(Clone, Copy, Default)]
struct Box {
    left: f64,
    middle: f64,
    width: f64,
    height: f64,
}

/// Returns the plan as an SVG picture, from left to right.
pub fn svg(plan: &Plan) -> String {
    let picture = picture(plan);
    let layout = layout(picture.nodes.len(), &picture.edges);
    let tags = tags(&picture);
    let (boxes, width, height) = place(&picture.nodes, &tags, &layout);
    let below = picture.edges.iter().filter(|edge| edge.goes_back()).count() as f64 * BACK_GAP;
    let (whole, mut back) = (height + below, 0);
    let mut out = String::new();
    // Writing to a String cannot fail, so the results below are dropped.
    let _ = write!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {whole:.0}\" \
         width=\"{width:.0}\" height=\"{whole:.0}\" role=\"img\">\n<title>{}</title>\n\
         <style>{STYLE}</style>\n<defs><marker id=\"arrow\" viewBox=\"0 0 8 8\" refX=\"7\" refY=\"4\" \
         markerWidth=\"7\" markerHeight=\"7\" orient=\"auto\"><path class=\"arrow\" \
         d=\"M0,0L8,4L0,8z\"/></marker></defs>\n<rect class=\"ground\" width=\"100%\" \
         height=\"100%\"/>\n",
        escaped(&plan.name)
    );
    draw_groups(&mut out, &picture, &boxes);
    let ends = ends(&picture.edges, &tags, &layout.routes, &boxes);
    let mut labels = String::new();
    let mut labelled = HashSet::new();
    for ((edge, route), (start, end)) in picture.edges.iter().zip(&layout.routes).zip(&ends) {
        let class = match edge.tag.as_str() {
            _ if edge.goes_back() => "edge back",
            "errors" => "edge errors",
            _ => "edge",
        };
        let path = if edge.goes_back() {
            back += 1;
            let depth = height - MARGIN + BACK_GAP * back as f64;
            path_back(&boxes[edge.from], &boxes[edge.to], (*start, depth, *end))
        } else {
            path(route, &boxes, *start, *end)
        };
        let _ = writeln!(out, "<path class=\"{class}\" marker-end=\"url(#arrow)\" d=\"{path}\"/>");
        // Several edges of one port leave at one point and share its label.
        if !edge.tag.is_empty() && labelled.insert((edge.from, edge.tag.as_str())) {
            let right = boxes[edge.from].left + boxes[edge.from].width;
            let _ = writeln!(
                labels,
                "<text class=\"tag\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
                right + 6.0,
                start - 5.0,
                escaped(&shortened(&edge.tag, 16))
            );
        }
    }
    for (node, at) in picture.nodes.iter().zip(&boxes) {
        draw_node(&mut out, node, at);
    }
    out.push_str(&labels);
    out.push_str("</svg>\n");
    out
}

/// Draws a box around each group, where nothing else stands between its operators.
fn draw_groups(out: &mut String, picture: &Picture, boxes: &[Box]) {
    let mut groups: Vec<&str> = Vec::new();
    for group in picture.nodes.iter().filter_map(Shown::group) {
        let ends = group.match_indices('/').map(|(at, _)| at).chain([group.len()]);
        for outer in ends.filter_map(|end| group.get(..end)) {
            if !groups.contains(&outer) {
                groups.push(outer);
            }
        }
    }
    for group in groups {
        let (mut left, mut right) = (f64::MAX, f64::MIN);
        let (mut top, mut bottom) = (f64::MAX, f64::MIN);
        for (_, at) in
            picture.nodes.iter().zip(boxes).filter(|(node, _)| node.inside(group).is_some())
        {
            (left, right) = (left.min(at.left), right.max(at.left + at.width));
            top = top.min(at.middle - at.height / 2.0);
            bottom = bottom.max(at.middle + at.height / 2.0);
        }
        let stranger = picture.nodes.iter().zip(boxes).any(|(node, at)| {
            node.inside(group).is_none()
                && at.left < right
                && at.left + at.width > left
                && at.middle - at.height / 2.0 < bottom
                && at.middle + at.height / 2.0 > top
        });
        if stranger {
            continue; // the box would say that it belongs to the group
        }
        let _ = writeln!(
            out,
            "<rect class=\"group\" x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\" rx=\"12\">\
             <title>{}</title></rect>",
            left - 9.0,
            top - 9.0,
            right - left + 18.0,
            bottom - top + 18.0,
            escaped(group)
        );
    }
}

fn draw_node(out: &mut String, node: &Shown, at: &Box) {
    let _ = writeln!(
        out,
        "<g class=\"{}\"><title>{}: {}</title><rect class=\"box\" x=\"{:.1}\" y=\"{:.1}\" \
         width=\"{:.1}\" height=\"{:.1}\" rx=\"8\"/><text class=\"name\" x=\"{:.1}\" \
         y=\"{:.1}\">{}</text><text class=\"kind\" x=\"{:.1}\" y=\"{:.1}\">{}</text></g>",
        escaped(&node.role),
        escaped(&node.name),
        escaped(&shortened(&node.detail, 400)),
        at.left,
        at.middle - at.height / 2.0,
        at.width,
        at.height,
        at.left + 12.0,
        at.middle - 4.0,
        escaped(&shortened(&node.name, TEXT_CHARACTERS_MAX)),
        at.left + 12.0,
        at.middle + 15.0,
        escaped(&small_print(node)),
    );
}

fn small_print(node: &Shown) -> String {
    shortened(&format!("{} · {}", node.kind, node.detail), TEXT_CHARACTERS_MAX)
}

fn shortened(text: &str, characters_max: usize) -> String {
    match text.char_indices().nth(characters_max) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default().trim_end()),
        None => text.to_owned(),
    }
}

/// Returns the tags that leave each node by an edge, each once.
fn tags(picture: &Picture) -> Vec<Vec<&str>> {
    let mut tags: Vec<Vec<&str>> = vec![Vec::new(); picture.nodes.len()];
    for edge in &picture.edges {
        if !tags[edge.from].contains(&edge.tag.as_str()) {
            tags[edge.from].push(&edge.tag);
        }
    }
    tags
}

/// Returns where each slot stands, and the size of the picture.
fn place(nodes: &[Shown], tags: &[Vec<&str>], layout: &Layout) -> (Vec<Box>, f64, f64) {
    let layers = &layout.layers;
    let mut boxes = vec![Box::default(); layout.layer.len()];
    for (slot, at) in boxes.iter_mut().enumerate() {
        at.height = match tags.get(slot) {
            Some(tags) => NODE_HEIGHT.max(TAG_GAP * (tags.len() + 1) as f64),
            None => BEND_HEIGHT,
        };
    }
    let column = |layer: &[usize], boxes: &[Box]| {
        layer.iter().map(|slot| boxes[*slot].height + NODE_GAP).sum::<f64>() - NODE_GAP
    };
    let tallest = layers.iter().map(|layer| column(layer, &boxes)).fold(0.0, f64::max);
    let mut left = MARGIN;
    for layer in layers {
        let width = layer
            .iter()
            .filter_map(|slot| nodes.get(*slot))
            .map(node_width)
            .fold(NODE_WIDTH_MIN, f64::max);
        let mut top = MARGIN + (tallest - column(layer, &boxes)) / 2.0;
        for slot in layer {
            let at = &mut boxes[*slot];
            at.left = left;
            at.width = width;
            at.middle = top + at.height / 2.0;
            top += at.height + NODE_GAP;
        }
        left += width + LAYER_GAP;
    }
    let width = (left - LAYER_GAP + MARGIN).max(2.0 * MARGIN);
    (boxes, width, tallest + 2.0 * MARGIN)
}

fn node_width(node: &Shown) -> f64 {
    let name = node.name.chars().count().min(TEXT_CHARACTERS_MAX + 1) as f64 * NAME_CHARACTER;
    let small = small_print(node).chars().count() as f64 * SMALL_CHARACTER;
    name.max(small) + 24.0
}

/// Returns the height at which each edge leaves and enters its nodes: the ports of a node are spread
/// over its side in the order of where they lead, and so are the edges that enter it.
fn ends(
    edges: &[Edge],
    tags: &[Vec<&str>],
    routes: &[Vec<usize>],
    boxes: &[Box],
) -> Vec<(f64, f64)> {
    let middle = |slot: Option<&usize>| slot.map_or(0.0, |slot| boxes[*slot].middle);
    let mut ends = vec![(0.0, 0.0); edges.len()];
    for (slot, tags) in tags.iter().enumerate() {
        let mut ports: Vec<(f64, &str)> = tags.iter().map(|tag| (0.0, *tag)).collect();
        for (lead, tag) in &mut ports {
            let leads =
                edges.iter().zip(routes).filter(|(edge, _)| edge.from == slot && edge.tag == *tag);
            let leads: Vec<f64> = leads.map(|(_, route)| middle(route.get(1))).collect();
            *lead = leads.iter().sum::<f64>() / leads.len().max(1) as f64;
        }
        ports.sort_by(|left, right| left.0.total_cmp(&right.0));
        for (edge, end) in edges.iter().zip(&mut ends).filter(|(edge, _)| edge.from == slot) {
            let port = ports.iter().position(|(_, tag)| *tag == edge.tag).unwrap_or_default();
            end.0 = boxes[slot].along(port, ports.len());
        }
        let mut entering: Vec<usize> =
            (0..edges.len()).filter(|edge| edges[*edge].to == slot).collect();
        let from = |edge: usize| middle(routes[edge].iter().rev().nth(1));
        entering.sort_by(|left, right| from(*left).total_cmp(&from(*right)));
        for (place, edge) in entering.iter().enumerate() {
            ends[*edge].1 = boxes[slot].along(place, entering.len());
        }
    }
    ends
}

impl Box {
    /// Returns the height of place `at` of `places` that are spread over a side.
    fn along(&self, at: usize, places: usize) -> f64 {
        let step = self.height / (places + 1) as f64;
        self.middle - self.height / 2.0 + step * (at + 1) as f64
    }
}

/// Returns the path of an edge that goes back: out on the right, below everything, in on the left.
fn path_back(from: &Box, to: &Box, (start, depth, end): (f64, f64, f64)) -> String {
    let (right, left) = (from.left + from.width, to.left);
    let (out, back) = (right + BACK_REACH, left - BACK_REACH);
    format!(
        "M{right:.1},{start:.1}C{out:.1},{start:.1} {out:.1},{depth:.1} {right:.1},{depth:.1}\
         L{left:.1},{depth:.1}C{back:.1},{depth:.1} {back:.1},{end:.1} {left:.1},{end:.1}"
    )
}

/// Returns the path of an edge: a smooth curve between layers, straight through its bends.
fn path(route: &[usize], boxes: &[Box], start: f64, end: f64) -> String {
    let mut path = String::new();
    let last = route.len().saturating_sub(1);
    let (mut x, mut y) = (0.0, 0.0);
    for (step, slot) in route.iter().enumerate() {
        let at = &boxes[*slot];
        let height = if step == 0 {
            start
        } else if step == last {
            end
        } else {
            at.middle
        };
        if step == 0 {
            (x, y) = (at.left + at.width, height);
            let _ = write!(path, "M{x:.1},{y:.1}");
            continue;
        }
        let bend = (at.left - x) / 2.0;
        let _ = write!(
            path,
            "C{:.1},{y:.1} {:.1},{height:.1} {:.1},{height:.1}",
            x + bend,
            at.left - bend,
            at.left
        );
        (x, y) = (at.left + at.width, height);
        if step != last {
            let _ = write!(path, "L{x:.1},{y:.1}");
        }
    }
    path
}
