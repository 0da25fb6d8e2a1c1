//! Layout: where nodes stand, in layers from left to right. Derived.
//!
//! The usual three steps (Sugiyama, Tagawa, Toda 1981): a node stands one layer behind the last of
//! what it reads; an edge over several layers gets a bend in each of them; within a layer the order
//! follows the middle of the neighbours, a few sweeps there and back.

use crate::draw::Edge;

/// How often the order within the layers is improved.
const SWEEPS: usize = 8;

/// Where everything stands.
pub(crate) struct Layout {
    /// The layer of each slot: first all nodes, then the bends.
    pub(crate) layer: Vec<usize>,
    /// The slots of each layer, from top to bottom.
    pub(crate) layers: Vec<Vec<usize>>,
    /// For each edge the slots it goes through, its ends included.
    pub(crate) routes: Vec<Vec<usize>>,
}

/// Lays out `nodes` nodes; edges go from lower to higher indices, but for those that go back.
pub(crate) fn layout(nodes: usize, edges: &[Edge]) -> Layout {
    let mut layer = vec![0_usize; nodes];
    // Sources, operators in order, sinks: every edge goes forward, so one pass in order is enough.
    // What goes back in a loop moves nothing.
    let mut forward: Vec<&Edge> = edges.iter().filter(|edge| !edge.goes_back()).collect();
    forward.sort_by_key(|edge| edge.from);
    for edge in forward {
        layer[edge.to] = layer[edge.to].max(layer[edge.from] + 1);
    }
    let mut routes = Vec::with_capacity(edges.len());
    for edge in edges {
        let mut route = vec![edge.from];
        for between in layer[edge.from] + 1..layer[edge.to] {
            layer.push(between);
            route.push(layer.len() - 1);
        }
        route.push(edge.to);
        routes.push(route);
    }
    let mut layers = vec![Vec::new(); layer.iter().max().map_or(0, |last| last + 1)];
    for (slot, at) in layer.iter().enumerate() {
        layers[*at].push(slot);
    }
    let mut layout = Layout { layer, layers, routes };
    layout.reorder();
    layout
}

impl Layout {
    fn reorder(&mut self) {
        let mut before: Vec<Vec<usize>> = vec![Vec::new(); self.layer.len()];
        let mut behind = before.clone();
        for route in &self.routes {
            for step in route.windows(2) {
                if let [from, to] = *step {
                    before[to].push(from);
                    behind[from].push(to);
                }
            }
        }
        for sweep in 0..SWEEPS {
            let ranks = self.ranks();
            let neighbours = if sweep % 2 == 0 { &before } else { &behind };
            let middle = |slot: usize| {
                let near = &neighbours[slot];
                if near.is_empty() {
                    return ranks[slot];
                }
                near.iter().map(|at| ranks[*at]).sum::<f64>() / near.len() as f64
            };
            for layer in &mut self.layers {
                layer.sort_by(|left, right| middle(*left).total_cmp(&middle(*right)));
            }
        }
    }

    /// Returns how far down each slot stands in its layer, from 0 to 1.
    fn ranks(&self) -> Vec<f64> {
        let mut ranks = vec![0.0; self.layer.len()];
        for layer in &self.layers {
            for (at, slot) in layer.iter().enumerate() {
                ranks[*slot] = (at as f64 + 0.5) / layer.len() as f64;
            }
        }
        ranks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edge(from: usize, to: usize) -> Edge {
        Edge { from, to, tag: String::new() }
    }

    #[test]
    fn a_node_stands_behind_all_that_it_reads() {
        let layout = layout(4, &[edge(0, 1), edge(1, 2), edge(0, 3), edge(2, 3)]);
        assert_eq!(layout.layer[..4], [0, 1, 2, 3]);
        assert_eq!(layout.routes[2].len(), 4, "an edge over three layers bends twice");
    }

    #[test]
    fn what_goes_back_moves_no_node() {
        let layout = layout(4, &[edge(0, 1), edge(1, 2), edge(2, 1), edge(1, 1), edge(2, 3)]);
        assert_eq!(layout.layer[..4], [0, 1, 2, 3]);
        assert_eq!(layout.routes[2], [2, 1]);
    }

    #[test]
    fn neighbours_are_put_in_one_line() {
        // 0 and 1 feed 3 and 2: without reordering the edges would cross.
        let layout = layout(4, &[edge(0, 3), edge(1, 2)]);
        let (first, second) = (&layout.layers[0], &layout.layers[1]);
        assert_eq!(first.iter().position(|at| *at == 0), second.iter().position(|at| *at == 3));
    }

    #[test]
    fn a_picture_without_nodes_has_no_layers() {
        assert!(layout(0, &[]).layers.is_empty());
    }
}
