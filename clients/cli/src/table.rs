//! Table: aligned columns of text.

use std::fmt::Write as _;

use tidemill_client::Phase;

/// On which side of its column a cell stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

/// One cell and the colour that it has on a terminal.
#[derive(Clone, Debug)]
pub(crate) struct Cell {
    text: String,
    colour: Option<&'static str>,
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self { text, colour: None }
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

impl From<Phase> for Cell {
    fn from(phase: Phase) -> Self {
        let colour = match phase {
            Phase::Committed => Some("32"),
            Phase::Quarantined => Some("31"),
            Phase::Accepted | Phase::Reading | Phase::Answered | Phase::Duplicate => None,
        };
        Self { text: phase.word().to_owned(), colour }
    }
}

/// Rows under a head.
#[derive(Debug)]
pub(crate) struct Table {
    head: Vec<(String, Side)>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// Returns a table without rows.
    pub(crate) fn new<T: AsRef<str>>(head: &[(T, Side)]) -> Self {
        let head = head.iter().map(|(title, side)| (title.as_ref().to_owned(), *side)).collect();
        Self { head, rows: Vec::new() }
    }

    /// Adds a row; one cell for each column.
    pub(crate) fn row(&mut self, cells: Vec<Cell>) {
        debug_assert_eq!(cells.len(), self.head.len(), "one cell for each column");
        self.rows.push(cells);
    }

    /// Returns the table as text, every line ended, no spaces at the end of a line.
    pub(crate) fn text(&self, colours: bool) -> String {
        let head: Vec<Cell> =
            self.head.iter().map(|(title, _)| Cell::from(title.as_str())).collect();
        let lines = || std::iter::once(&head).chain(&self.rows);
        let mut widths = vec![0; self.head.len()];
        for line in lines() {
            for (width, cell) in widths.iter_mut().zip(line) {
                *width = (*width).max(cell.text.chars().count());
            }
        }
        let mut text = String::new();
        for line in lines() {
            let begin = text.len();
            for ((cell, width), (_, side)) in line.iter().zip(&widths).zip(&self.head) {
                let space = " ".repeat(width - cell.text.chars().count());
                let shown = match cell.colour.filter(|_| colours) {
                    Some(colour) => format!("\u{1b}[{colour}m{}\u{1b}[0m", cell.text),
                    None => cell.text.clone(),
                };
                let gap = if text.len() > begin { "  " } else { "" };
                // Writing to a string cannot fail.
                let _ = match side {
                    Side::Left => write!(text, "{gap}{shown}{space}"),
                    Side::Right => write!(text, "{gap}{space}{shown}"),
                };
            }
            text.truncate(begin + text[begin..].trim_end().len());
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_colours_take_no_width() {
        let mut table =
            Table::new(&[("ID", Side::Right), ("PHASE", Side::Left), ("N", Side::Left)]);
        table.row(vec!["7".into(), Phase::Committed.into(), "a".into()]);
        table.row(vec!["1234".into(), Phase::Reading.into(), "".into()]);
        let plain = "  ID  PHASE      N\n   7  committed  a\n1234  reading\n";
        assert_eq!(table.text(false), plain);
        let colours = "  ID  PHASE      N\n   7  \u{1b}[32mcommitted\u{1b}[0m  a\n1234  reading\n";
        assert_eq!(table.text(true), colours);
    }
}
