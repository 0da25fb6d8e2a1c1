//! Compare: what is missing, too many, different between the rows that must be there and those that
//! are. Pure.
//!
//! In order, rows are aligned by their longest common part; without, they are matched as a bag. What is
//! left on both sides is paired where two rows share enough, so that a person sees which cell is wrong
//! instead of two rows that look alike.

use serde::Serialize;

use super::At;
use crate::engine::tables::Cell;

/// How many pairs of rows are looked at to align them; beyond that they are compared one by one.
const ALIGNED_PAIRS_MAX: usize = 4_000_000;
/// How many pairs of rows are looked at to find which is meant by which.
const PAIRED_MAX: usize = 250_000;

/// One row that is not as it must be. Cells are written as people read them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "difference")]
pub enum Difference {
    /// It must be there and is not.
    Missing {
        /// The line of the pipeline file where it is expected.
        line: u32,
        /// Its cells.
        row: Vec<String>,
    },
    /// It is there and must not be.
    Unexpected {
        /// Its cells.
        row: Vec<String>,
    },
    /// It is there with other cells.
    Different {
        /// The line of the pipeline file where it is expected.
        line: u32,
        /// The cells that must be there.
        expected: Vec<String>,
        /// Those that are.
        found: Vec<String>,
    },
    /// All rows are there, and this is the first one that stands in another place.
    Misplaced {
        /// The line of the pipeline file where it is expected.
        line: u32,
        /// Its cells.
        row: Vec<String>,
        /// Which of the found rows it is, from 1.
        found_as: usize,
    },
}

/// How a cell is written.
pub(super) type Show = fn(&Cell) -> String;

/// A row that is compared.
pub(super) struct Row<'a> {
    pub(super) at: At,
    pub(super) cells: &'a [Cell],
}

fn same(one: &[Cell], other: &[Cell]) -> bool {
    one.len() == other.len() && one.iter().zip(other).all(|(one, other)| is_same(one, other))
}

fn is_same(one: &Cell, other: &Cell) -> bool {
    match (one, other) {
        // What is not the same to the bit is still the same number for who writes a test.
        (Cell::Float(one), Cell::Float(other)) => one == other || (one.is_nan() && other.is_nan()),
        (one, other) => one == other,
    }
}

/// Compares rows in their order.
pub(super) fn in_order(expected: &[Row<'_>], found: &[Vec<Cell>], show: Show) -> Vec<Difference> {
    let (kept_expected, kept_found) = align(expected, found);
    let missing: Vec<usize> = (0..expected.len()).filter(|at| !kept_expected[*at]).collect();
    let surplus: Vec<usize> = (0..found.len()).filter(|at| !kept_found[*at]).collect();
    if missing.is_empty() && surplus.is_empty() {
        return Vec::new();
    }
    let as_bag = as_bag(expected, found, show);
    if as_bag.is_empty() {
        let first = missing.first().copied().unwrap_or_default();
        let row = &expected[first];
        let found_as = found.iter().position(|found| same(row.cells, found)).unwrap_or_default();
        return vec![Difference::Misplaced {
            line: row.at.line,
            row: texts(row.cells, show),
            found_as: found_as + 1,
        }];
    }
    pair((expected, found), &missing, &surplus, show)
}

/// Compares rows whose order does not count.
pub(super) fn as_bag(expected: &[Row<'_>], found: &[Vec<Cell>], show: Show) -> Vec<Difference> {
    // Sorted by what is shown, equal rows stand together.
    let sorted = |texts: Vec<(Vec<String>, usize)>| {
        let mut texts = texts;
        texts.sort();
        texts
    };
    let left = expected.iter().enumerate().map(|(at, row)| (keys(row.cells), at));
    let right = found.iter().enumerate().map(|(at, row)| (keys(row), at));
    let (left, right) = (sorted(left.collect()), sorted(right.collect()));
    let (mut one, mut other) = (0, 0);
    let (mut missing, mut surplus) = (Vec::new(), Vec::new());
    while one < left.len() || other < right.len() {
        let order = match (left.get(one), right.get(other)) {
            (Some(left), Some(right)) => left.0.cmp(&right.0),
            (Some(_), None) => std::cmp::Ordering::Less,
            _ => std::cmp::Ordering::Greater,
        };
        if order.is_le() {
            if order.is_lt() {
                missing.push(left[one].1);
            }
            one += 1;
        }
        if order.is_ge() {
            if order.is_gt() {
                surplus.push(right[other].1);
            }
            other += 1;
        }
    }
    missing.sort_unstable();
    surplus.sort_unstable();
    pair((expected, found), &missing, &surplus, show)
}

/// Returns a row as texts that are equal if and only if its cells are the same.
fn keys(cells: &[Cell]) -> Vec<String> {
    let key = |cell: &Cell| match cell {
        Cell::Null => String::new(),
        Cell::String(text) => format!("s{text}"),
        Cell::Float(value) if *value == 0.0 => "f0".to_owned(),
        Cell::Float(value) => format!("f{value}"),
        other => format!("v{other}"),
    };
    cells.iter().map(key).collect()
}

/// Returns which rows are in the longest part that both sides have in common, in order.
fn align(expected: &[Row<'_>], found: &[Vec<Cell>]) -> (Vec<bool>, Vec<bool>) {
    let equal = |one: usize, other: usize| same(expected[one].cells, &found[other]);
    let (rows, columns) = (expected.len(), found.len());
    let mut kept = (vec![false; rows], vec![false; columns]);
    if rows.saturating_mul(columns) > ALIGNED_PAIRS_MAX {
        for at in 0..rows.min(columns) {
            let equal = equal(at, at);
            (kept.0[at], kept.1[at]) = (equal, equal);
        }
        return kept;
    }
    let width = columns + 1;
    let mut longest = vec![0_u32; (rows + 1) * width];
    for one in (0..rows).rev() {
        for other in (0..columns).rev() {
            longest[one * width + other] = if equal(one, other) {
                longest[(one + 1) * width + other + 1] + 1
            } else {
                longest[(one + 1) * width + other].max(longest[one * width + other + 1])
            };
        }
    }
    let (mut one, mut other) = (0, 0);
    while one < rows && other < columns {
        if equal(one, other) {
            (kept.0[one], kept.1[other]) = (true, true);
            (one, other) = (one + 1, other + 1);
        } else if longest[(one + 1) * width + other] >= longest[one * width + other + 1] {
            one += 1;
        } else {
            other += 1;
        }
    }
    kept
}

/// Says what is left over on both sides, two rows as one difference where they share enough.
fn pair(
    (expected, found): (&[Row<'_>], &[Vec<Cell>]),
    missing: &[usize],
    surplus: &[usize],
    show: Show,
) -> Vec<Difference> {
    let mut left: Vec<usize> = surplus.to_vec();
    let mut differences = Vec::new();
    let looks = missing.len().saturating_mul(surplus.len()) <= PAIRED_MAX;
    for at in missing {
        let row = &expected[*at];
        let shared = |other: usize| {
            let cells = row.cells.iter().zip(&found[other]);
            cells.filter(|(one, other)| is_same(one, other)).count()
        };
        // A row of one column shares nothing when it differs: then the next one is meant.
        let least = usize::from(row.cells.len() > 1);
        let best = left
            .iter()
            .enumerate()
            .filter(|_| looks)
            .max_by_key(|(place, other)| (shared(**other), usize::MAX - place));
        let best = best.filter(|(_, other)| shared(**other) >= least).map(|(place, _)| place);
        differences.push(match best {
            Some(place) => Difference::Different {
                line: row.at.line,
                expected: texts(row.cells, show),
                found: texts(&found[left.remove(place)], show),
            },
            None => Difference::Missing { line: row.at.line, row: texts(row.cells, show) },
        });
    }
    let unexpected = |at: &usize| Difference::Unexpected { row: texts(&found[*at], show) };
    differences.extend(left.iter().map(unexpected));
    differences
}

fn texts(cells: &[Cell], show: Show) -> Vec<String> {
    cells.iter().map(show).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows are words; `~` says that a row is expected as one and found as the other.
    #[track_caller]
    fn check(order: &str, expected: &str, found: &str, differences: &[&str]) {
        let rows = |text: &str| -> Vec<Vec<Cell>> {
            let cells = |row: &str| row.split(',').map(|one| Cell::String(one.into())).collect();
            text.split_whitespace().map(cells).collect()
        };
        let plain: Show = |cell| cell.to_string();
        let (expected, found) = (rows(expected), rows(found));
        let at = |line: usize| At { line: line as u32, column: 1 };
        let expected: Vec<Row<'_>> = expected
            .iter()
            .enumerate()
            .map(|(line, cells)| Row { at: at(line + 1), cells })
            .collect();
        let got = match order {
            "exact" => in_order(&expected, &found, plain),
            _ => as_bag(&expected, &found, plain),
        };
        let joined = |cells: &[String]| cells.join(",");
        let told: Vec<String> = got
            .iter()
            .map(|one| match one {
                Difference::Missing { line, row } => format!("-{line} {}", joined(row)),
                Difference::Unexpected { row } => format!("+ {}", joined(row)),
                Difference::Different { line, expected, found } => {
                    format!("~{line} {} {}", joined(expected), joined(found))
                }
                Difference::Misplaced { line, row, found_as } => {
                    format!("@{line} {} {found_as}", joined(row))
                }
            })
            .collect();
        assert_eq!(told, differences, "{order}");
    }

    #[test]
    fn rows_in_order_are_aligned_by_what_they_have_in_common() {
        check("exact", "a b c", "a b c", &[]);
        check("exact", "a,1 b,2 c,3", "a,1 c,3", &["-2 b,2"]);
        check("exact", "a,1 c,3", "a,1 b,2 c,3", &["+ b,2"]);
        check("exact", "a,1 b,2 c,3", "a,1 b,9 c,3", &["~2 b,2 b,9"]);
        check("exact", "a b", "a x", &["~2 b x"]);
        check("exact", "a b c", "b a c", &["@1 a 2"]);
        check("exact", "", "a,1", &["+ a,1"]);
        check("exact", "a,1 a,1", "a,1", &["-2 a,1"]);
    }

    #[test]
    fn rows_without_order_are_matched_as_often_as_they_are_there() {
        check("bag", "a,1 b,2", "b,2 a,1", &[]);
        check("bag", "a,1 a,1 b,2", "b,2 a,1", &["-2 a,1"]);
        check("bag", "a,1 b,2", "c,2 a,1", &["~2 b,2 c,2"]);
        check("bag", "a,1", "b,2", &["-1 a,1", "+ b,2"]);
        check("bag", "", "b,2 b,2", &["+ b,2", "+ b,2"]);
    }

    #[test]
    fn cells_are_compared_as_values() {
        assert!(is_same(&Cell::Float(0.0), &Cell::Float(-0.0)));
        assert!(!is_same(&Cell::Null, &Cell::String(String::new())));
        assert_ne!(keys(&[Cell::Null]), keys(&[Cell::String(String::new())]));
        assert_eq!(keys(&[Cell::Float(0.0)]), keys(&[Cell::Float(-0.0)]));
    }
}
