//! Write: the text of a drafted pipeline: sources with their fields, a sum as a suggestion, sinks, and
//! tests. Pure.

use std::collections::HashSet;
use std::fmt::Write as _;

use tidemill_operators::expr::compile;
use tidemill_operators::{Schema, Type};

use super::group::{Group, unpacked};
use super::logs::LOGS;
use super::shape::Kind;
use super::types::Column;
use super::{Draft, DraftSource, yaml_cell};
use crate::testing::run::Found;

/// How many records a drafted test has.
const TESTED_RECORDS: usize = 5;
/// How long the lines of a drafted test may be, all together, in bytes.
const TESTED_BYTES_MAX: usize = 4 << 10;
/// How many different values a column may have to be what is summed by.
const KEYS_MAX: usize = 100;
/// How many numbers are summed up.
const SUMMED_MAX: usize = 2;
/// How many notes of a source stand above it.
const NOTES_MAX: usize = 20;
/// The longest name that parts of a pipeline can have, in characters.
const NAME_MAX: usize = 64;

/// Writes everything but the tests.
pub(super) fn draft(pipeline: String, groups: Vec<Group>) -> Draft {
    let mut sources = String::from("sources:\n");
    let mut operators = String::new();
    let mut sinks = String::from("sinks:\n");
    let mut drafted = Vec::with_capacity(groups.len());
    let mut names = Names { taken: groups.iter().map(|group| group.name.clone()).collect() };
    for group in groups {
        source(&group, &mut sources);
        let fed = body(&group, &mut names, &mut operators, &mut sinks);
        let look = &group.look;
        let (records, all) = (look.records, if look.is_whole { "all" } else { "the first" });
        drafted.push(DraftSource {
            name: group.name,
            file: group.files.first().map(|name| unpacked(name).to_owned()).unwrap_or_default(),
            files: group.files,
            looks: format!("{}, {all} {records} records looked at", kind(&look.kind)),
            lines: tested(&look.kind, &look.lines),
            notes: group.notes,
            sinks: fed,
        });
    }
    let operators = match operators.is_empty() {
        true => String::new(),
        false => {
            format!(
                "\n# What is done with the records; a suggestion. Conditions and columns are SQL \
                 expressions.\noperators:\n{operators}"
            )
        }
    };
    let head = format!(
        "# A first draft by `tidemill new`, from samples: look at each comment, then change what you \
         like.\n#\n#   tidemill check FILE     tells every mistake\n#   tidemill test FILE      runs the \
         tests at the end; with --step it shows what happens to each record\n#   tidemill run FILE       \
         then drop files into tidemill-home/{pipeline}/unprocessed/\n\npipeline: {}\n\n# Where files come \
         in. Types were guessed from the samples: a record with another value is rejected,\n# with its \
         reason, into the sink `rejects`, which is always there.\n{sources}{operators}\n# Where results go, \
         below tidemill-home/{pipeline}/out/.\n{sinks}",
        key(&pipeline)
    );
    Draft { pipeline, sources: drafted, head }
}

/// The names of operators and sources that are given away already.
struct Names {
    taken: HashSet<String>,
}

impl Names {
    fn unique(&mut self, wanted: &str) -> String {
        let clean: String = wanted
            .chars()
            .map(|one| if one.is_ascii_alphanumeric() || one == '_' { one } else { '_' })
            .take(NAME_MAX - 4)
            .collect();
        let clean = if clean.is_empty() { "part".to_owned() } else { clean };
        let mut name = clean.clone();
        let mut number = 2;
        // Where capitals do not count, folders of sinks would be one.
        while !self.taken.insert(name.to_lowercase()) {
            name = format!("{clean}_{number}");
            number += 1;
        }
        name
    }
}

/// Returns what a file is, for people.
fn kind(kind: &Kind) -> String {
    match kind {
        Kind::Jsonl => "jsonl".to_owned(),
        Kind::Csv(dialect) => {
            let delimiter = match dialect.delimiter {
                b'\t' => "tabs".to_owned(),
                other => format!("`{}`", other as char),
            };
            let header = if dialect.header { "a header" } else { "no header" };
            format!("csv with {delimiter} and {header}")
        }
        Kind::Log(at) => LOGS.get(*at).map_or("lines", |log| log.what).to_owned(),
        Kind::Text => "lines of text".to_owned(),
    }
}

fn source(group: &Group, out: &mut String) {
    let look = &group.look;
    // Writing to a String cannot fail.
    let _ = writeln!(out, "  # {}: {}", group.files.join(", "), kind(&look.kind));
    for note in group.notes.iter().take(NOTES_MAX) {
        let _ = writeln!(out, "  # Look: {}", comment(note));
    }
    if group.notes.len() > NOTES_MAX {
        // A reader of YAML takes only so many comments at one place.
        let _ = writeln!(out, "  # Look: and {} more of that kind", group.notes.len() - NOTES_MAX);
    }
    let _ = writeln!(out, "  {}:", key(&group.name));
    let format = match look.kind {
        Kind::Jsonl => "jsonl",
        Kind::Csv(_) => "csv",
        Kind::Log(_) | Kind::Text => "text",
    };
    let _ = writeln!(out, "    format: {format}");
    let patterns: Vec<String> = group.patterns.iter().map(|one| quoted(one)).collect();
    let patterns = match patterns.as_slice() {
        [only] => only.clone(),
        several => format!("[{}]", several.join(", ")),
    };
    let _ = writeln!(out, "    pattern: {patterns}");
    if let Kind::Csv(dialect) = &look.kind {
        if dialect.delimiter != b',' {
            let text = (dialect.delimiter as char).to_string().replace('\t', "\\t");
            let _ = writeln!(out, "    delimiter: \"{text}\"");
        }
        if dialect.quote != b'"' {
            let _ = writeln!(out, "    quote: {}", quoted(&(dialect.quote as char).to_string()));
        }
        if dialect.multiline {
            out.push_str("    multiline: true               # a quoted field holds line ends\n");
        }
        if !dialect.header {
            let names: Vec<String> = dialect.names.iter().map(|name| key(name)).collect();
            let _ = writeln!(out, "    header: false\n    columns: [{}]", names.join(", "));
        }
    }
    if matches!(look.kind, Kind::Jsonl | Kind::Csv(_)) {
        out.push_str("    fields:\n");
        for column in &look.columns {
            let value = match &column.path {
                Some(path) => format!("{{ type: {}, path: {} }}", column.kind, quoted(path)),
                None => column.kind.to_string(),
            };
            let text = format!("{}: {value}", key(&column.name));
            match &column.note {
                Some(note) => {
                    let _ = writeln!(out, "      {text:<31} # {}", comment(note));
                }
                None => {
                    let _ = writeln!(out, "      {text}");
                }
            }
        }
    }
}

/// Writes what is done with the records of a source; returns its sinks.
fn body(
    group: &Group,
    names: &mut Names,
    operators: &mut String,
    sinks: &mut String,
) -> Vec<String> {
    let mut from = group.name.clone();
    let look = &group.look;
    match &look.kind {
        Kind::Text => {
            let name = names.unique(&format!("{from}_kind"));
            let _ = writeln!(
                operators,
                "  # Lines that speak of errors go their own way; the rest by the tag `other`.\n  {name}:\n    \
                 from: {from}\n    route: {{ error: \"line ILIKE '%error%'\", other: else }}"
            );
            let fed = ["error", "other"].map(|tag| (format!("{name}_{tag}"), tag));
            for (sink, tag) in &fed {
                let _ = writeln!(
                    sinks,
                    "  {sink}: {{ from: {name}.{tag}, files: {{ format: raw, empty: skip }} }}"
                );
            }
            return fed.into_iter().map(|(sink, _)| sink).collect();
        }
        Kind::Log(at) => {
            let Some(log) = LOGS.get(*at) else { return Vec::new() };
            let name = names.unique(&format!("{from}_parsed"));
            let _ = writeln!(
                operators,
                "  # Groups of the regular expression become columns; what does not match is rejected.\n  \
                 {name}:\n    from: {from}\n    parse:\n      column: line\n      regex: {}",
                single_quoted(log.regex)
            );
            let typed = look.columns.iter().filter(|column| column.kind != Type::String);
            let typed: Vec<String> =
                typed.map(|column| format!("{}: {}", key(&column.name), column.kind)).collect();
            if !typed.is_empty() {
                let _ = writeln!(operators, "      fields: {{ {} }}", typed.join(", "));
            }
            from = name;
        }
        Kind::Jsonl | Kind::Csv(_) => {}
    }
    let mut fed = Vec::new();
    let out = names.unique(&format!("{}_good", group.name));
    let format = if matches!(look.kind, Kind::Csv(_)) { "csv" } else { "jsonl" };
    let _ = writeln!(
        sinks,
        "  # Every good record, one output file for each input file.\n  {out}: {{ from: {from}, files: {{ \
         format: {format} }} }}"
    );
    fed.push(out);
    if let Some(by) = summed_by(&look.columns, look.records) {
        let name = names.unique(&format!("{}_by_{}", group.name, by.name));
        let count = if by.name == "records" { "count" } else { "records" };
        let mut computed = vec![format!("{count}: count(*)")];
        let mut given: HashSet<String> = [by.name.clone(), count.to_owned()].into();
        let is_sum = |column: &&Column| {
            matches!(column.kind, Type::Int | Type::Float)
                && column.name != by.name
                && !is_name_of_id(&column.name)
        };
        for column in look.columns.iter().filter(is_sum).take(SUMMED_MAX) {
            for function in ["sum", "max"] {
                let name = format!("{}_{function}", column.name);
                if given.insert(name.clone()) {
                    let value = format!("{function}({})", expression(column));
                    let value = if value.contains('"') { quoted(&value) } else { value };
                    computed.push(format!("{}: {value}", key(&name)));
                }
            }
        }
        // Names of columns that are no plain words need quotes in SQL, which `[...]` does not read.
        let by = key(&by.name);
        let _ = writeln!(
            operators,
            "  # One row for each {by}, over all files so far; corrected when a file is replaced.\n  {name}:\n    \
             from: {from}\n    aggregate:\n      by: [{by}]\n      compute: {{ {} }}",
            computed.join(", ")
        );
        let _ = writeln!(
            sinks,
            "  # The sums, brought up to date after each file.\n  {name}: {{ from: {name}, table: {{ format: \
             csv, key: [{by}] }} }}"
        );
        fed.push(name);
    }
    fed
}

/// Returns the column by which a sum says most: few values, each often.
fn summed_by(columns: &[Column], records: usize) -> Option<&Column> {
    let is_few = |column: &&Column| {
        column.distinct >= 1
            && column.distinct <= KEYS_MAX
            && (column.distinct * 2 <= records || records < 8)
            && !is_name_of_id(&column.name)
    };
    let of = |kind: Type| {
        let fits = columns.iter().filter(|column| column.kind == kind).filter(is_few);
        // One value says little, and what is often empty too.
        fits.max_by_key(|column| {
            (column.distinct > 1, column.nulls * 2 < records, usize::MAX - column.distinct)
        })
    };
    of(Type::String)
        .or_else(|| of(Type::Bool))
        .or_else(|| of(Type::Int).filter(|one| one.distinct <= 20))
}

fn is_name_of_id(name: &str) -> bool {
    let name = name.to_lowercase();
    name == "id"
        || name.ends_with("_id")
        || name.ends_with("id") && name.len() > 6
        || name == "line"
}

/// Returns the first lines of a file that fit into a test, the header with them.
fn tested(kind: &Kind, lines: &[String]) -> Vec<String> {
    let header = usize::from(matches!(kind, Kind::Csv(dialect) if dialect.header));
    let mut bytes = 0;
    let fits = lines.iter().take(TESTED_RECORDS + header).take_while(|line| {
        bytes += line.len();
        let is_plain =
            line.chars().all(|one| !one.is_control() && one != '\u{fffd}' && one != '\u{feff}');
        bytes <= TESTED_BYTES_MAX && (is_plain || line.contains('\t'))
    });
    let lines: Vec<String> = fits.cloned().collect();
    if lines.len() > header { lines } else { Vec::new() }
}

/// Writes the tests; `found` says what came out of a sink in a test, if that is known.
pub(super) fn tests(draft: &Draft, found: &dyn Fn(usize, &str) -> Option<Found>) -> String {
    let mut out = String::new();
    let tested = draft.sources.iter().filter(|source| !source.lines.is_empty());
    for (at, source) in tested.enumerate() {
        if at == 0 {
            out += "\n# What the first records of the samples give today: the tests fail when that changes.\ntests:\n";
        }
        let _ = writeln!(
            out,
            "  - name: {}\n    given:\n      {}:\n        file: {}\n        records:",
            quoted(&format!("the first records of {}", source.file)),
            key(&source.name),
            quoted(&source.file)
        );
        for line in &source.lines {
            let _ = writeln!(out, "          - {}", quoted(line));
        }
        out += "    expect:\n";
        for sink in source.sinks.iter().map(String::as_str).chain(["rejects"]) {
            let known = found(at, sink);
            if sink == "rejects" && known.as_ref().is_some_and(|known| known.rows.is_empty()) {
                continue;
            }
            let rows = known.map(|known| rows(&known, sink)).unwrap_or_default();
            match rows.is_empty() {
                true => {
                    let _ = writeln!(out, "      {sink}: []");
                }
                false => {
                    let _ = writeln!(out, "      {sink}:\n{rows}");
                    out.truncate(out.trim_end().len());
                    out.push('\n');
                }
            }
        }
    }
    out
}

fn rows(found: &Found, sink: &str) -> String {
    let mut out = String::new();
    for row in &found.rows {
        if found.is_raw {
            let line = row.first().map(yaml_cell).unwrap_or_default();
            let _ = writeln!(out, "        - {line}");
            continue;
        }
        // Of a rejected record its place and code are enough; words may change.
        let wanted = |name: &str| sink != "rejects" || matches!(name, "line" | "operator" | "code");
        let cells = found.columns.iter().zip(row).filter(|(name, _)| wanted(name));
        let cells: Vec<String> =
            cells.map(|(name, cell)| format!("{}: {}", key(name), yaml_cell(cell))).collect();
        let _ = writeln!(out, "        - {{ {} }}", cells.join(", "));
    }
    out
}

/// Returns text between double quotes, as a pipeline file reads it: what looks like a parameter is none.
pub(super) fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for character in text.replace("${", "$${").chars() {
        match character {
            '"' => out += "\\\"",
            '\\' => out += "\\\\",
            '\t' => out += "\\t",
            '\n' => out += "\\n",
            '\r' => out += "\\r",
            other
                if other.is_control() || matches!(other, '\u{2028}' | '\u{2029}' | '\u{feff}') =>
            {
                let _ = write!(out, "\\U{:08x}", other as u32);
            }
            other => out.push(other),
        }
    }
    out + "\""
}

fn single_quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// Returns a name as it stands in YAML: between quotes unless it is a plain word.
fn key(name: &str) -> String {
    const WORDS: [&str; 9] = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
    let mut letters = name.chars();
    let plain = letters.next().is_some_and(|one| one.is_ascii_alphabetic() || one == '_')
        && letters.all(|one| one.is_ascii_alphanumeric() || one == '_' || one == '-');
    if plain && !WORDS.contains(&name.to_lowercase().as_str()) {
        name.to_owned()
    } else {
        quoted(name)
    }
}

/// Returns a column as SQL reads it: between quotes unless the plain word means it.
fn expression(column: &Column) -> String {
    let schema = Schema::new(vec![tidemill_operators::Column::new(&column.name, column.kind)]);
    match compile(&column.name, &schema) {
        Ok(plain) if plain.column() == Some(&column.name) => column.name.clone(),
        _ => format!("\"{}\"", column.name.replace('"', "\"\"")),
    }
}

fn comment(text: &str) -> String {
    text.chars().map(|one| if one.is_control() { ' ' } else { one }).collect()
}
