//! Shared: which sides of joins are the same rows, by the same key and in the same columns, so that one
//! arrangement serves all of them. Derived.

use crate::plan::{OperatorKind, Plan, PortId};

/// One side of a join.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// What it reads by `from`.
    Left,
    /// What it reads by `with`.
    Right,
}

impl Side {
    /// Both, in the order in which they are kept.
    pub const BOTH: [Side; 2] = [Side::Left, Side::Right];

    /// Returns its word.
    pub const fn word(self) -> &'static str {
        match self {
            Side::Left => "left",
            Side::Right => "right",
        }
    }
}

/// Everything that the rows of a side follow from, and what is kept of them.
#[derive(PartialEq, Eq)]
struct Kept<'p> {
    inputs: Vec<PortId>,
    keys: Vec<&'p str>,
    columns: Vec<&'p str>,
    /// Whether place and bytes of each record are kept.
    record: (bool, bool),
}

impl Plan {
    /// Returns which side of which join keeps the rows of this one: the first that keeps the same. `None`
    /// if it keeps them itself.
    pub fn keeper_of(&self, at: usize, side: Side) -> Option<(usize, Side)> {
        let kept = self.kept(at, side)?;
        let sides = (0..=at).flat_map(|at| Side::BOTH.map(|side| (at, side)));
        let mut before = sides.take_while(|one| *one != (at, side));
        before.find(|(at, side)| self.kept(*at, *side).is_some_and(|one| one == kept))
    }

    /// Returns what a side keeps; `None` for what is no join, or stands in a loop and so sees other times.
    fn kept(&self, at: usize, side: Side) -> Option<Kept<'_>> {
        let operator = self.operators.get(at)?;
        let OperatorKind::Join(join) = &operator.kind else { return None };
        if self.around(at).next().is_some() {
            return None;
        }
        let (left, right) = operator.inputs.split_at_checked(join.lefts)?;
        let ports = |inputs: &[crate::plan::Input]| {
            let mut ports: Vec<PortId> = inputs.iter().map(|input| input.from).collect();
            ports.sort_unstable();
            ports
        };
        Some(match side {
            Side::Left => Kept {
                inputs: ports(left),
                keys: join.on.iter().map(|(left, _)| left.name.as_str()).collect(),
                columns: join.left.iter().map(|column| column.name.as_str()).collect(),
                record: (join.place, join.raw),
            },
            Side::Right => Kept {
                inputs: ports(right),
                keys: join.on.iter().map(|(_, right)| right.as_str()).collect(),
                columns: join.take.iter().map(|(_, right)| right.as_str()).collect(),
                record: (false, false),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan;

    /// Checks who keeps what of two joins, the second of which is written as given.
    #[track_caller]
    fn check(second: &str, expected: [Option<Side>; 2]) {
        let yaml = format!(
            "pipeline: p
sources:
  a: {{ format: csv, fields: {{ n: int, x: int }}, pattern: \"a*\" }}
  b: {{ format: csv, fields: {{ m: int, y: int, z: int }}, pattern: \"b*\" }}
operators:
  few: {{ from: a, filter: n > 1 }}
  first: {{ from: a, join: {{ with: b, on: {{ n: m }}, take: [y] }} }}
  second: {{ {second} }}
sinks:
  few: {{ from: few, table: {{ format: csv, key: [n, x] }} }}
  first: {{ from: first, table: {{ format: csv, key: [n, x, y] }} }}
  second: {{ from: second, table: {{ format: csv, key: [n] }} }}
"
        );
        let plan = plan::plan(&yaml).unwrap();
        let find = |name| plan.operators.iter().position(|one| one.name == name).unwrap();
        let (first, second) = (find("first"), find("second"));
        assert_eq!(Side::BOTH.map(|side| plan.keeper_of(first, side)), [None, None]);
        let found = Side::BOTH.map(|side| plan.keeper_of(second, side));
        assert_eq!(found, expected.map(|side| side.map(|side| (first, side))));
    }

    #[test]
    fn sides_that_keep_the_same_are_kept_once() {
        let (left, right) = (Some(Side::Left), Some(Side::Right));
        check("from: a, join: { with: b, on: { n: m }, take: [y], kind: left }", [left, right]);
        check("from: a, join: { with: b, on: { n: m }, take: { other: y } }", [left, right]);
        check("from: few, join: { with: b, on: { n: m }, take: [y] }", [None, right]);
        check("from: a, join: { with: b, on: { n: m }, take: [z] }", [left, None]);
        check("from: a, join: { with: b, on: { n: m }, kind: semi }", [left, None]);
        check("from: a, join: { with: b, on: { n: y }, take: [z] }", [left, None]);
        check("from: a, join: { with: b, on: { x: m }, take: [y] }", [None, right]);
    }
}
