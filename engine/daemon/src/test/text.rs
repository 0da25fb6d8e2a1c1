//! Text: verdicts as a person reads them: a line for each test, and under one that does not hold, what
//! is missing, too many, different, each with the line of the file where it is expected.

use std::fmt::Write as _;
use std::io::IsTerminal;

use tidemill_engine::testing::compare::Difference;
use tidemill_engine::testing::run::Failure;

use super::{Suite, Verdict};

/// How many differences of one sink are shown.
const SHOWN_MAX: usize = 20;

/// How text is marked.
pub(super) struct Style {
    colours: bool,
}

impl Style {
    /// Returns colours for a terminal, and none for anything else.
    pub(super) fn of_stdout() -> Self {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self { colours: wanted && std::io::stdout().is_terminal() }
    }

    /// Returns plain text.
    pub(super) fn plain() -> Self {
        Self { colours: false }
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colours { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }

    pub(super) fn strong(&self, text: &str) -> String {
        self.paint("1", text)
    }

    pub(super) fn good(&self, text: &str) -> String {
        self.paint("32", text)
    }

    pub(super) fn bad(&self, text: &str) -> String {
        self.paint("31", text)
    }

    pub(super) fn faint(&self, text: &str) -> String {
        self.paint("2", text)
    }
}

/// Returns the line before the tests of a file.
pub(super) fn heading(file: &str, tests: usize, style: &Style) -> String {
    match tests {
        0 => format!("{file}: {}\n", style.faint("no tests")),
        _ => format!("{file}\n"),
    }
}

/// Returns what is said of one test.
pub(super) fn verdict(one: &Verdict, style: &Style) -> String {
    let word = if one.holds() { style.good("ok  ") } else { style.bad("FAIL") };
    let took = style.faint(&format!("({} ms)", one.took.as_millis()));
    format!("  {word}  {} {took}\n{}", one.name, details(one, style))
}

/// Returns why a test does not hold; nothing for one that does.
pub(super) fn details(one: &Verdict, style: &Style) -> String {
    let mut out = String::new();
    if let Some(error) = &one.error {
        let _ = writeln!(out, "        it could not be run: {error}");
    }
    for failure in &one.failures {
        let Failure { about, at, message, columns, differences } = failure;
        let _ = writeln!(out, "        {about} (line {}): {message}", at.line);
        for difference in differences.iter().take(SHOWN_MAX) {
            out += &shown(difference, columns, style);
        }
        if differences.len() > SHOWN_MAX {
            let _ = writeln!(out, "          and {} more", differences.len() - SHOWN_MAX);
        }
    }
    out
}

fn shown(difference: &Difference, columns: &[String], style: &Style) -> String {
    let place = |line: u32| style.faint(&format!("   line {line}"));
    let line = |sign: &str, text: &str| format!("          {sign} {text}");
    match difference {
        Difference::Missing { line: at, row } => {
            let text = format!("missing     {}", named(columns, row));
            format!("{}{}\n", style.bad(&line("-", &text)), place(*at))
        }
        Difference::Unexpected { row } => {
            let text = format!("unexpected  {}", named(columns, row));
            format!("{}\n", style.good(&line("+", &text)))
        }
        Difference::Different { line: at, expected, found } if columns.is_empty() => {
            let one = style.bad(&line("-", &format!("expected    {}", expected.join(" "))));
            let other = style.good(&line("+", &format!("found       {}", found.join(" "))));
            format!("{one}{}\n{other}\n", place(*at))
        }
        Difference::Different { line: at, expected, found } => {
            let cells = columns.iter().zip(expected.iter().zip(found));
            let cells = cells.map(|(column, (expected, found))| match expected == found {
                true => format!("{column}={found}"),
                false => {
                    let (expected, found) = (style.bad(expected), style.good(found));
                    format!("{column}={found} (expected {expected})")
                }
            });
            let text = format!("different   {}", cells.collect::<Vec<_>>().join("  "));
            format!("{}{}\n", line("~", &text), place(*at))
        }
        Difference::Misplaced { line: at, row, found_as } => {
            let text = format!("misplaced   {}: found as number {found_as}", named(columns, row));
            format!("{}{}\n", line("~", &text), place(*at))
        }
    }
}

fn named(columns: &[String], row: &[String]) -> String {
    if columns.is_empty() {
        return row.join(" ");
    }
    let cells = columns.iter().zip(row).map(|(column, cell)| format!("{column}={cell}"));
    cells.collect::<Vec<_>>().join("  ")
}

/// Returns the last line.
pub(super) fn summary(suites: &[Suite], style: &Style) -> String {
    let all: Vec<&Verdict> = suites.iter().flat_map(|suite| &suite.verdicts).collect();
    let failed = all.iter().filter(|one| !one.holds()).count();
    let millis: u128 = all.iter().map(|one| one.took.as_millis()).sum();
    let tests = if all.len() == 1 { "test" } else { "tests" };
    let outcome = match failed {
        0 => style.good("all hold"),
        _ => style.bad(&format!("{failed} of them failed")),
    };
    match all.len() {
        0 => String::new(),
        count => format!("{count} {tests} in {millis} ms: {outcome}\n"),
    }
}
