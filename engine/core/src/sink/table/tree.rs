//! Tree: the rows of a table in order, in versions that share what is alike. Derived.
//!
//! A clone is a version: it costs nothing, and nothing that happens to the original changes it. That
//! is how a table is read while it changes. Only what a version still holds is copied when it is
//! changed: the nodes on the way to changed rows; leaves are made anew in any case. A change of n
//! rows in order looks at each leaf it touches once.
//!
//! One entry per different row: its bytes and four, and about two percent for the nodes above.

use std::ops::Bound;
use std::sync::{Arc, LazyLock};

use super::leaf::{Filling, LEAF_BYTES_MAX, Leaf};
use super::net::Net;

/// How many nodes stand below one, at most.
const CHILDREN_MAX: usize = 64;

/// What stands for no rows.
static EMPTY: LazyLock<Arc<Node>> = LazyLock::new(|| Arc::new(Node::Leaf(Leaf::default())));

#[derive(Clone, Debug)]
enum Node {
    Leaf(Leaf),
    Inner(Vec<Child>),
}

/// A node below another.
#[derive(Clone, Debug)]
struct Child {
    /// No row of it is before this, and all of the child before it are; nobody looks at the first.
    from: Box<[u8]>,
    node: Arc<Node>,
}

/// A version of the rows of a table.
#[derive(Clone, Debug)]
pub(super) struct Tree {
    root: Arc<Node>,
    sums: Sums,
}

/// How much there is in leaves.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    /// Different rows.
    rows: usize,
    /// Bytes of memory.
    weight: usize,
}

impl Sums {
    fn add(&mut self, leaf: &Leaf) {
        self.rows += leaf.len();
        self.weight += leaf.weight();
    }

    fn subtract(&mut self, leaf: &Leaf) {
        self.rows -= leaf.len();
        self.weight -= leaf.weight();
    }
}

impl Default for Tree {
    fn default() -> Self {
        Self { root: Arc::clone(&EMPTY), sums: Sums::default() }
    }
}

impl Tree {
    /// Returns the number of different rows.
    pub(super) fn len(&self) -> usize {
        self.sums.rows
    }

    /// Returns about how many bytes of memory it takes, whatever it shares with other versions.
    pub(super) fn weight(&self) -> usize {
        self.sums.weight + self.sums.weight / 50
    }

    /// Applies changes.
    pub(super) fn apply(&mut self, changes: &Net) {
        if changes.is_empty() {
            return;
        }
        let root = std::mem::replace(&mut self.root, Arc::clone(&EMPTY));
        let mut nodes = Vec::new();
        let all = Part { net: changes, from: 0, to: changes.len() };
        change(Child { from: Box::default(), node: root }, all, &mut self.sums, &mut nodes);
        while nodes.len() > 1 {
            nodes = group(nodes);
        }
        let Some(mut root) = nodes.pop() else { return };
        while let Node::Inner(children) = &*root.node
            && let [only] = children.as_slice()
        {
            root = only.clone();
        }
        self.root = root.node;
    }

    /// Returns the rows from a place on, in order, each with how often it is there.
    pub(super) fn range(&self, from: Bound<&[u8]>) -> Rows<'_> {
        let mut rows = Rows { above: Vec::new(), leaf: None };
        rows.descend(&self.root, from);
        rows
    }
}

/// The rows of a version from a place on.
pub(super) struct Rows<'a> {
    /// The nodes above, each with the child that comes next.
    above: Vec<(&'a [Child], usize)>,
    leaf: Option<(&'a Leaf, usize)>,
}

impl<'a> Rows<'a> {
    fn descend(&mut self, mut node: &'a Arc<Node>, from: Bound<&[u8]>) {
        loop {
            match &**node {
                Node::Inner(children) => {
                    let at = match from {
                        Bound::Unbounded => 0,
                        Bound::Included(row) | Bound::Excluded(row) => child_of(children, row),
                    };
                    self.above.push((children, at + 1));
                    match children.get(at) {
                        Some(child) => node = &child.node,
                        None => return,
                    }
                }
                Node::Leaf(leaf) => {
                    let at = match from {
                        Bound::Unbounded => 0,
                        Bound::Included(row) => leaf.find(row),
                        Bound::Excluded(row) => {
                            let at = leaf.find(row);
                            at + usize::from(at < leaf.len() && leaf.row(at) == row)
                        }
                    };
                    self.leaf = Some((leaf, at));
                    return;
                }
            }
        }
    }
}

impl<'a> Iterator for Rows<'a> {
    type Item = (&'a [u8], i64);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some((leaf, at)) = &mut self.leaf {
                if *at < leaf.len() {
                    *at += 1;
                    return Some((leaf.row(*at - 1), leaf.times(*at - 1)));
                }
                self.leaf = None;
            }
            let (children, next) = self.above.last_mut()?;
            match children.get(*next) {
                Some(child) => {
                    *next += 1;
                    self.descend(&child.node, Bound::Unbounded);
                }
                None => {
                    self.above.pop();
                }
            }
        }
    }
}

/// Changes that come one after the other.
#[derive(Clone, Copy)]
struct Part<'a> {
    net: &'a Net,
    from: usize,
    to: usize,
}

impl<'a> Part<'a> {
    fn iter(self) -> impl ExactSizeIterator<Item = (&'a [u8], i64)> {
        (self.from..self.to).map(move |at| self.net.at(at))
    }
}

/// Changes a node; appends what is now in its place, which may be nothing, or several.
fn change(child: Child, changes: Part<'_>, sums: &mut Sums, out: &mut Vec<Child>) {
    if let Node::Leaf(leaf) = &*child.node {
        if leaf.len() > 0 {
            sums.subtract(leaf);
        }
        let rows = leaf.len() + changes.to - changes.from;
        let mut filling = Filling::with_capacity(rows, leaf.weight());
        filling.merge(leaf, changes.iter());
        place_leaves(child.from, filling, sums, out);
        return;
    }
    // Copied only if another version holds it.
    let Node::Inner(children) = Arc::unwrap_or_clone(child.node) else { return };
    let mut parts = split(&children, changes).into_iter().peekable();
    let mut changed: Vec<Child> = Vec::with_capacity(children.len() + 4);
    let mut shrunk = false;
    for (at, below) in children.into_iter().enumerate() {
        let before = changed.len();
        let part = parts.next_if(|(child, _)| *child == at);
        let touched = part.is_some();
        match part {
            Some((_, part)) => change(below, part, sums, &mut changed),
            None => changed.push(below),
        }
        // One that shrank, or that stands behind one that did, may find room beside its neighbour.
        if (touched || shrunk) && before > 0 && changed.len() > before {
            join(&mut changed, before, sums);
        }
        shrunk = touched;
    }
    if let Some(first) = changed.first_mut() {
        first.from = child.from;
        out.extend(group(changed));
    }
}

/// Appends leaves; the first one begins where the node in whose place they stand began.
fn place_leaves(from: Box<[u8]>, filling: Filling, sums: &mut Sums, out: &mut Vec<Child>) {
    let mut from = Some(from);
    for leaf in filling.into_leaves() {
        sums.add(&leaf);
        let from = from.take().unwrap_or_else(|| leaf.row(0).into());
        out.push(Child { from, node: Arc::new(Node::Leaf(leaf)) });
    }
}

/// How full a node is.
enum Size {
    Leaf(usize),
    Inner(usize),
}

impl Size {
    fn is_small(&self) -> bool {
        match self {
            Size::Leaf(bytes) => *bytes < LEAF_BYTES_MAX / 4,
            Size::Inner(children) => *children < CHILDREN_MAX / 4,
        }
    }
}

fn size(node: &Node) -> Size {
    match node {
        Node::Leaf(leaf) => Size::Leaf(leaf.weight()),
        Node::Inner(children) => Size::Inner(children.len()),
    }
}

/// Joins the node at this place with the one before if one of them is small and both fit in one.
fn join(children: &mut Vec<Child>, at: usize, sums: &mut Sums) {
    let (one, two) = (size(&children[at - 1].node), size(&children[at].node));
    if !one.is_small() && !two.is_small() {
        return;
    }
    match (one, two) {
        (Size::Leaf(one), Size::Leaf(two)) if one + two <= LEAF_BYTES_MAX / 4 * 3 => {}
        (Size::Inner(one), Size::Inner(two)) if one + two <= CHILDREN_MAX / 4 * 3 => {}
        _ => return,
    }
    let right = children.remove(at);
    let left = &mut children[at - 1].node;
    match (Arc::unwrap_or_clone(std::mem::replace(left, Arc::clone(&EMPTY))), &*right.node) {
        (Node::Leaf(one), Node::Leaf(two)) => {
            sums.subtract(&one);
            sums.subtract(two);
            let mut filling = Filling::with_capacity(one.len() + two.len(), LEAF_BYTES_MAX);
            one.iter().chain(two.iter()).for_each(|(row, times)| filling.push(row, times));
            // Both fit in one, so this is one.
            for leaf in filling.into_leaves() {
                sums.add(&leaf);
                *left = Arc::new(Node::Leaf(leaf));
            }
        }
        (Node::Inner(mut one), Node::Inner(two)) => {
            let begin = one.len();
            one.extend(two.iter().cloned());
            if let Some(first) = one.get_mut(begin) {
                first.from = right.from;
            }
            *left = Arc::new(Node::Inner(one));
        }
        // Nodes side by side are of one kind.
        (other, _) => {
            *left = Arc::new(other);
            children.insert(at, right);
        }
    }
}

/// Puts nodes under others, none of them too full and all about the same.
fn group(nodes: Vec<Child>) -> Vec<Child> {
    let groups = nodes.len().div_ceil(CHILDREN_MAX);
    let share = nodes.len().div_ceil(groups.max(1));
    let mut grouped = Vec::with_capacity(groups);
    let mut nodes = nodes.into_iter();
    loop {
        let children: Vec<Child> = nodes.by_ref().take(share).collect();
        let Some(first) = children.first() else { return grouped };
        let from = first.from.clone();
        grouped.push(Child { from, node: Arc::new(Node::Inner(children)) });
    }
}

/// Returns which changes belong to which child, for each that has some.
fn split<'a>(children: &[Child], changes: Part<'a>) -> Vec<(usize, Part<'a>)> {
    let mut parts = Vec::new();
    let mut from = changes.from;
    while from < changes.to {
        let child = child_of(children, changes.net.row(from));
        let to = match children.get(child + 1) {
            Some(next) => changes.net.partition(from, changes.to, &next.from),
            None => changes.to,
        };
        parts.push((child, Part { from, to, ..changes }));
        from = to;
    }
    parts
}

/// Returns the child in which a row is, or would be.
fn child_of(children: &[Child], row: &[u8]) -> usize {
    let behind = children.get(1..).unwrap_or_default();
    behind.partition_point(|child| &*child.from <= row)
}

#[cfg(test)]
mod tests;
