//! SQL: random conditions and values over given columns.

use tidemill_bench::random::Random;

use crate::corrections::files::chance;
use crate::corrections::pipeline::{Column, Kind};

/// Returns a condition.
pub(super) fn condition(columns: &[Column], random: &mut Random) -> String {
    let one = comparison(columns, random);
    match random.below(10) {
        0 => format!("{one} and {}", comparison(columns, random)),
        1 => format!("{one} or {}", comparison(columns, random)),
        2 => format!("not ({one})"),
        _ => one,
    }
}

fn comparison(columns: &[Column], random: &mut Random) -> String {
    let column = random.pick(columns);
    let patterns: &[&str] = match column.kind {
        Kind::Int => {
            &["? > 3", "? % 3 = 1", "? between 1 and 9", "? in (1, 2, 3)", "12 / ? > 1", "? <> 2"]
        }
        Kind::Float => &["? < 1.0", "? is not null", "? >= 0.25", "? * 2.0 > 1.0"],
        Kind::Text => &["? = 'a'", "? like 'b%'", "? is null", "length(?) > 1", "upper(?) >= 'B'"],
        Kind::Bool => &["?", "not ?", "? is true"],
        Kind::Time => {
            &["? >= timestamp '2026-03-01T01:00:00Z'", "extract(minute from ?) < 30", "? is null"]
        }
    };
    random.pick(patterns).replace('?', &column.name)
}

/// Returns a value and its type.
pub(super) fn value(columns: &[Column], random: &mut Random) -> (String, Kind) {
    if chance(random, 10) {
        let condition = condition(columns, random);
        return (format!("case when {condition} then 1 else 0 end"), Kind::Int);
    }
    let column = random.pick(columns);
    let patterns: &[(&str, Kind)] = match column.kind {
        Kind::Int => &[
            ("? + 1", Kind::Int),
            ("? * 2", Kind::Int),
            ("abs(?)", Kind::Int),
            ("coalesce(?, 0)", Kind::Int),
            ("? % 5", Kind::Int),
            ("? * 0.5", Kind::Float),
            ("? > 4", Kind::Bool),
        ],
        Kind::Float => &[
            ("? * 2.0", Kind::Float),
            ("round(?)", Kind::Float),
            ("coalesce(?, 0.5)", Kind::Float),
            ("? - 0.1", Kind::Float),
        ],
        Kind::Text => &[
            ("upper(?)", Kind::Text),
            ("? || '!'", Kind::Text),
            ("substr(?, 1, 1)", Kind::Text),
            ("coalesce(?, 'none')", Kind::Text),
            ("length(?)", Kind::Int),
        ],
        Kind::Bool => &[("not ?", Kind::Bool), ("coalesce(?, false)", Kind::Bool)],
        Kind::Time => &[("date_trunc('hour', ?)", Kind::Time), ("? is null", Kind::Bool)],
    };
    let (pattern, kind) = random.pick(patterns);
    (pattern.replace('?', &column.name), *kind)
}
