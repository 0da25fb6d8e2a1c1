//! Tests of the tree: it is a sorted map, and its versions stay what they were.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use super::*;

/// Numbers without a pattern, the same in each run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
        (self.0 >> 33) % sides
    }
}

type Map = BTreeMap<Vec<u8>, i64>;

/// A row whose length follows from its number, so that it can be taken back.
fn row(number: u64, padding: u64) -> Vec<u8> {
    let mut row = format!("{number:08}").into_bytes();
    row.extend(std::iter::repeat_n(b'x', (number * 31 % padding) as usize));
    row
}

#[track_caller]
fn check(tree: &Tree, map: &Map) {
    let rows: Vec<(Vec<u8>, i64)> =
        tree.range(Bound::Unbounded).map(|(row, times)| (row.to_vec(), times)).collect();
    let expected: Vec<(Vec<u8>, i64)> = map.clone().into_iter().collect();
    assert_eq!(rows, expected);
    assert_eq!(tree.len(), map.len());
    check_node(&tree.root, true);
    let mut sums = Sums::default();
    add_up(&tree.root, &mut sums);
    assert_eq!((tree.sums.rows, tree.sums.weight), (sums.rows, sums.weight));
}

fn add_up(node: &Node, sums: &mut Sums) {
    match node {
        Node::Leaf(leaf) if leaf.len() > 0 => sums.add(leaf),
        Node::Leaf(_) => {}
        Node::Inner(children) => children.iter().for_each(|child| add_up(&child.node, sums)),
    }
}

/// No node is empty or too full, and all leaves are equally deep.
fn check_node(node: &Node, is_root: bool) -> usize {
    match node {
        Node::Leaf(leaf) => {
            assert!(is_root || leaf.len() > 0);
            assert!(leaf.len() <= 1 || leaf.weight() <= 3 * LEAF_BYTES_MAX, "{}", leaf.weight());
            0
        }
        Node::Inner(children) => {
            assert!((1..=CHILDREN_MAX).contains(&children.len()), "{}", children.len());
            let depths: Vec<usize> =
                children.iter().map(|child| check_node(&child.node, false)).collect();
            assert!(depths.iter().all(|depth| *depth == depths[0]));
            depths[0] + 1
        }
    }
}

#[test]
fn oracle_a_tree_is_a_sorted_map_however_it_is_changed() {
    for (seed, numbers, padding, most) in
        [(1, 50, 2, 8), (2, 4_000, 60, 3_000), (3, 3_000, 9, 20), (4, 300, 6_000, 40)]
    {
        let mut dice = Dice(seed);
        let (mut tree, mut map) = (Tree::default(), Map::new());
        let mut versions: Vec<(Tree, Map)> = Vec::new();
        for round in 0..60 {
            let mut net = Net::default();
            // Grows, then shrinks to little, then grows again.
            let giving = if round % 30 < 18 { 80 } else { 8 };
            for _ in 0..dice.roll(most) + 1 {
                let diff = if dice.roll(100) < giving { 1 } else { -1 };
                let number = dice.roll(numbers);
                let row = row(number, padding);
                let diff = match map.get(&row) {
                    Some(times) if diff < 0 => -*times,
                    None if diff < 0 => continue,
                    _ => diff,
                };
                net.push(&row, diff);
                let times = map.entry(row.clone()).or_insert(0);
                *times += diff;
                if *times == 0 {
                    map.remove(&row);
                }
            }
            tree.apply(&net.consolidate());
            check(&tree, &map);
            if round % 7 == 0 {
                versions.push((tree.clone(), map.clone()));
            }
        }
        for (tree, map) in &versions {
            check(tree, map);
        }
        let mut net = Net::default();
        map.iter().for_each(|(row, times)| net.push(row, -times));
        tree.apply(&net.consolidate());
        check(&tree, &Map::new());
        assert_eq!(tree.weight(), 0);
    }
}

#[test]
fn a_range_begins_where_it_is_asked_to() {
    let mut net = Net::default();
    (0..2_000_u64).for_each(|number| net.push(&(number * 2).to_be_bytes(), 1));
    let mut tree = Tree::default();
    tree.apply(&net.consolidate());
    let first = |bound: Bound<&[u8]>| {
        tree.range(bound).next().map(|(row, _)| u64::from_be_bytes(row.try_into().unwrap()))
    };
    for number in 0..4_000_u64 {
        let row = number.to_be_bytes();
        let (at, behind) = (number.div_ceil(2) * 2, number / 2 * 2 + 2);
        let there = |number: u64| (number < 4_000).then_some(number);
        assert_eq!(first(Bound::Included(&row)), there(at), "from {number}");
        assert_eq!(first(Bound::Excluded(&row)), there(behind), "behind {number}");
    }
    assert_eq!(first(Bound::Unbounded), Some(0));
}

#[test]
fn a_row_may_be_taken_back_before_it_is_given() {
    let mut tree = Tree::default();
    for (diff, expected) in [(-2, Some(-2)), (1, Some(-1)), (1, None), (3, Some(3))] {
        let mut net = Net::default();
        net.push(b"row", diff);
        tree.apply(&net.consolidate());
        assert_eq!(tree.range(Bound::Unbounded).next().map(|(_, times)| times), expected);
    }
}
