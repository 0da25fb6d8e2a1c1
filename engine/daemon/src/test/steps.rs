//! Steps: what each operator did with a record, as a person reads it: the record, and below it a line
//! for each node it came to.

use std::fmt::Write as _;

use tidemill_engine::testing::walk::{Changes, Deed, RecordWalk, Row, Walk, WalkStep};

use super::text::Style;

/// The longest row that is shown, in characters.
const ROW_SHOWN_MAX: usize = 160;

/// Returns all records of a test.
pub(super) fn shown(walk: &Walk, style: &Style) -> String {
    let mut out = String::new();
    for file in &walk.files {
        for one in &file.records {
            out += &record(&file.name, one, style);
        }
        if !file.changes.is_empty() {
            let _ =
                writeln!(out, "\n        {}", style.strong(&format!("{} as a whole", file.name)));
            for one in &file.changes {
                out += &changes(one, style);
            }
        }
    }
    if walk.files.is_empty() {
        out += "\n        no such record: a file of the test, and a line of it on which a record begins\n";
    }
    if walk.records_left > 0 {
        let left = walk.records_left;
        let _ = writeln!(out, "\n        {left} more records; --record FILE:LINE shows one");
    }
    if walk.is_cut {
        out += "\n        the test has more rows than are kept: some steps are missing here\n";
    }
    out + "\n"
}

fn record(file: &str, one: &RecordWalk, style: &Style) -> String {
    let place = style.strong(&format!("{file}:{}", one.line));
    let mut out = format!("\n        {place}  {}\n", cut(&one.raw));
    let names = one.steps.iter().map(|step| step.node.chars().count()).max().unwrap_or_default();
    let kinds = one.steps.iter().map(|step| step.kind.len()).max().unwrap_or_default();
    // What is known of the record so far: only what is new is told.
    let mut known: Row = Vec::new();
    for WalkStep { node, kind, did } in &one.steps {
        let margin =
            format!("          {node:<names$}  {}", style.faint(&format!("{kind:<kinds$}")));
        for deed in did {
            let _ = writeln!(out, "{margin}  {}", told(deed, kind, &mut known, style));
        }
    }
    out
}

fn told(deed: &Deed, kind: &str, known: &mut Row, style: &Style) -> String {
    match deed {
        Deed::Left { tag, columns } => {
            let new: Row = columns.iter().filter(|cell| !known.contains(cell)).cloned().collect();
            known.retain(|(name, _)| new.iter().all(|(other, _)| other != name));
            known.extend(new.iter().cloned());
            let way = match (tag.is_empty(), kind) {
                (true, "source") => "read".to_owned(),
                (true, _) => "passes".to_owned(),
                (false, _) => format!("leaves by {}", style.good(tag)),
            };
            if new.is_empty() { way } else { format!("{way}  {}", cells(&new)) }
        }
        Deed::Rejected { code, reason } => {
            format!("{}  {code}: {reason}", style.bad("rejected"))
        }
        Deed::Kept { key } if key.is_empty() => "merged into its one row".to_owned(),
        Deed::Kept { key } => {
            let word = if kind == "aggregate" { "merged into" } else { "kept under" };
            format!("{word} {}", cells(key))
        }
        Deed::LeftOut => {
            let why = match kind {
                "filter" => ": the condition is not true",
                "route" => ": no rule takes it, or nothing reads its tag",
                "explode" => ": its list is empty",
                _ => "",
            };
            format!("left out{why}")
        }
        Deed::Written => "written".to_owned(),
    }
}

fn changes(one: &Changes, style: &Style) -> String {
    let mut out = String::new();
    for (diff, row) in &one.rows {
        let text = format!("{}  {}", one.node, cells(row));
        let line = if *diff > 0 {
            style.good(&format!("+ {text}"))
        } else {
            style.bad(&format!("- {text}"))
        };
        let _ = writeln!(out, "          {line}");
    }
    if one.more > 0 {
        let _ = writeln!(out, "            {} and {} more rows", one.node, one.more);
    }
    out
}

fn cells(row: &Row) -> String {
    let cells = row.iter().map(|(name, value)| format!("{name}={value}"));
    cut(&cells.collect::<Vec<_>>().join("  "))
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(ROW_SHOWN_MAX) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}
