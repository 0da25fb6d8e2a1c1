//! Logs: lines of well-known kinds, and the regular expressions that take them apart. Pure.

use regex::Regex;
use tidemill_operators::Type;

use super::RECORDS_MAX;
use super::shape::{Kind, Look};
use super::types::{self, Value};

/// How many lines must be of a kind, in percent.
const ALIKE_PERCENT: usize = 80;

/// A well-known kind of line.
pub(super) struct Log {
    pub(super) what: &'static str,
    pub(super) regex: &'static str,
    /// Groups that are always numbers.
    numbers: &'static [&'static str],
}

/// The kinds, the more special before the more general.
pub(super) const LOGS: [Log; 4] = [
    Log {
        what: "web server log, common or combined format",
        regex: r#"^(?<client>\S+) \S+ (?<account>\S+) \[(?<time>[^\]]+)\] "(?<method>[A-Z]+) (?<path>\S+)[^"]*" (?<status>[0-9]{3}) (?:(?<bytes>[0-9]+)|-)"#,
        numbers: &["status", "bytes"],
    },
    Log {
        what: "syslog, RFC 5424",
        regex: r"^<(?<priority>[0-9]{1,3})>1 (?<time>\S+) (?<host>\S+) (?<program>\S+) (?<pid>\S+) \S+ (?<message>.*)$",
        numbers: &["priority"],
    },
    Log {
        what: "syslog",
        regex: r"^(?<time>[A-Z][a-z]{2} [ 0-9][0-9] [0-9]{2}:[0-9]{2}:[0-9]{2}) (?<host>\S+) (?<program>[^\[: ]+)(?:\[(?<pid>[0-9]+)\])?: (?<message>.*)$",
        numbers: &["pid"],
    },
    Log {
        what: "log lines with time and level",
        regex: r"^\[?(?<time>[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9:.,]+(?:Z|[+-][0-9:]+)?)\]?\s+\[?(?<level>TRACE|DEBUG|INFO|NOTICE|WARN|WARNING|ERROR|FATAL|CRITICAL)\]?:?\s+(?<message>.*)$",
        numbers: &[],
    },
];

/// Returns what lines of a well-known kind look like.
pub(super) fn look(lines: &[&str]) -> Option<Look> {
    let lines = lines.get(..lines.len().min(RECORDS_MAX))?;
    LOGS.iter().enumerate().find_map(|(at, log)| {
        let regex = Regex::new(log.regex).ok()?;
        let fits = lines.iter().filter(|line| regex.is_match(line)).count();
        if fits == 0 || fits * 100 < lines.len() * ALIKE_PERCENT {
            return None;
        }
        let column = |name: &str| {
            let values: Vec<(usize, Value)> = lines
                .iter()
                .enumerate()
                .filter_map(|(line, text)| {
                    let found = regex.captures(text)?.name(name);
                    let value = found.map(|found| Value::Bare(found.as_str().to_owned()));
                    Some((line + 1, value.unwrap_or(Value::Null)))
                })
                .collect();
            let mut column = types::column(name.to_owned(), None, &values);
            // A sample with few lines must not make a number of a text that looks like one.
            let is_number = log.numbers.contains(&name);
            if column.kind != Type::Timestamp {
                column.kind = if is_number { Type::Int } else { Type::String };
            }
            column.note = None;
            column
        };
        let columns = regex.capture_names().flatten().map(column).collect();
        let mut notes = Vec::new();
        if fits < lines.len() {
            let left = lines.len() - fits;
            notes.push(format!(
                "{left} of {} lines are of another kind: they are rejected",
                lines.len()
            ));
        }
        Some(Look {
            kind: Kind::Log(at),
            columns,
            records: lines.len(),
            is_whole: true,
            lines: lines.iter().take(16).map(|line| (*line).to_owned()).collect(),
            notes,
        })
    })
}
