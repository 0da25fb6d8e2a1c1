//! Source: how the files of a source look, as written. Derived.

use tidemill_operators::Type;
use tidemill_operators::format::{CsvOptions, Format};
use tidemill_operators::reject::OnError;

use crate::diagnostic::{Mistakes, quoted};
use crate::spec::contract::{self, ContractSpec, PolicySpec};
use crate::spec::read::{self, Entries, Text};
use crate::spec::retry::{self, RetrySpec};
use crate::spec::taking::{self, Taking};
use crate::spec::tree::{Node, Value};

/// The longest record when `max_record` is not given, in bytes.
const RECORD_BYTES_MAX_DEFAULT: usize = 1 << 20;
/// The bounds of `max_record`, in bytes.
const RECORD_BYTES_MAX_BOUNDS: (usize, usize) = (16, 64 << 20);
/// How far a compressed file may inflate when `max_inflate_ratio` is not given.
const INFLATE_RATIO_MAX_DEFAULT: u32 = 200;
/// The bounds of `max_inflate_ratio`.
const INFLATE_RATIO_MAX_BOUNDS: (u32, u32) = (1, 1_000_000);

/// A source as written.
#[derive(Debug)]
pub(crate) struct SourceSpec {
    pub(crate) name: Text,
    /// `None` when it could not be read.
    pub(crate) format: Option<Format>,
    /// The columns that the pipeline sees; `None` when one of them could not be read.
    pub(crate) fields: Option<Vec<FieldSpec>>,
    /// The columns that the file has, for CSV without a header.
    pub(crate) columns: Option<Vec<Text>>,
    pub(crate) patterns: Vec<Text>,
    pub(crate) record_bytes_max: usize,
    pub(crate) inflate_ratio_max: u32,
    pub(crate) policy: PolicySpec,
    /// Conditions, and what fails with a record that breaks one.
    pub(crate) expect: Vec<(Text, OnError)>,
    pub(crate) contract: Option<ContractSpec>,
    pub(crate) taking: Taking,
    /// What it says of trying again; its pipeline says the rest.
    pub(crate) retry: RetrySpec,
}

/// One column of a source as written.
#[derive(Debug)]
pub(crate) struct FieldSpec {
    pub(crate) name: Text,
    pub(crate) kind: Type,
    /// Where it stands in the record, when that is not its name.
    pub(crate) path: Option<Text>,
}

#[derive(Clone, Copy)]
enum FormatWord {
    Text,
    Jsonl,
    Csv,
}

/// Reads a source.
pub(super) fn parse(name: Text, node: Node, mistakes: &mut Mistakes<'_>) -> SourceSpec {
    let mut source = SourceSpec {
        name,
        format: None,
        fields: None,
        columns: None,
        patterns: Vec::new(),
        record_bytes_max: RECORD_BYTES_MAX_DEFAULT,
        inflate_ratio_max: INFLATE_RATIO_MAX_DEFAULT,
        policy: PolicySpec::default(),
        expect: Vec::new(),
        contract: None,
        taking: Taking::default(),
        retry: RetrySpec::default(),
    };
    let Some(mut entries) = Entries::open(node, "a source", mistakes) else { return source };
    let words =
        [("text", FormatWord::Text), ("jsonl", FormatWord::Jsonl), ("csv", FormatWord::Csv)];
    let format = entries.require("format", mistakes);
    let format = format.and_then(|node| read::choice(node, "`format`", &words, mistakes));
    let fields = entries.take("fields");
    if let Some(node) = entries.take("max_record") {
        source.record_bytes_max =
            read::size(node, "`max_record`", RECORD_BYTES_MAX_BOUNDS, mistakes)
                .unwrap_or(RECORD_BYTES_MAX_DEFAULT);
    }
    if let Some(node) = entries.take("max_inflate_ratio") {
        source.inflate_ratio_max =
            read::number(node, "`max_inflate_ratio`", INFLATE_RATIO_MAX_BOUNDS, mistakes)
                .unwrap_or(INFLATE_RATIO_MAX_DEFAULT);
    }
    source.policy = contract::policy(&mut entries, mistakes);
    if let Some(node) = entries.take("expect") {
        source.expect = contract::expect(node, mistakes).unwrap_or_default();
    }
    if let Some(node) = entries.take("contract") {
        source.contract = contract::contract(node, mistakes);
    }
    source.taking = taking::parse(&mut entries, mistakes);
    if let Some(contract) = &mut source.contract {
        source.taking.arrival = std::mem::take(&mut contract.arrival);
    }
    source.retry = retry::parse(&mut entries, &retry::OF_FILES, mistakes);
    if let Some(node) = entries.take("pattern") {
        source.patterns = patterns(node, mistakes);
    } else {
        source.patterns.push(Text {
            text: "*".to_owned(),
            place: source.name.place,
            path: source.name.path.clone(),
        });
    }
    match format {
        Some(FormatWord::Text) => {
            refuse_csv_keys(&mut entries, "text", mistakes);
            match fields {
                Some(node) => {
                    let message = "a text source has the one column `line` and takes no `fields`";
                    let hint = "take columns out of `line` with a `parse` operator".to_owned();
                    mistakes.add(node.owner, &node.path, message, hint);
                }
                None => source.fields = Some(Vec::new()),
            }
            source.format = Some(Format::Text);
        }
        Some(FormatWord::Jsonl) => {
            refuse_csv_keys(&mut entries, "jsonl", mistakes);
            source.fields = required_fields(fields, &entries, mistakes);
            source.format = Some(Format::Jsonl);
        }
        Some(FormatWord::Csv) => {
            let options = csv_options(&mut entries, mistakes);
            let columns = entries.take("columns");
            source.fields = required_fields(fields, &entries, mistakes);
            if let Some(node) = columns {
                source.columns = file_columns(node, &options, mistakes);
                if source.columns.is_none() {
                    source.fields = None;
                }
            }
            source.format = Some(Format::Csv(options));
        }
        None => {
            // Without a format nobody knows which of these are right.
            for name in ["header", "delimiter", "quote", "multiline", "columns"] {
                entries.take(name);
            }
            if let Some(node) = fields {
                parse_fields(node, mistakes);
            }
        }
    }
    entries.finish(mistakes);
    source
}

fn refuse_csv_keys(entries: &mut Entries, format: &str, mistakes: &mut Mistakes<'_>) {
    for name in ["header", "delimiter", "quote", "multiline", "columns"] {
        if entries.rest().any(|key| key.name == name)
            && let Some(node) = entries.take(name)
        {
            let message = format!("`{name}` belongs to csv; this source is {format}");
            mistakes.add(node.owner, &node.path, message, None);
        }
    }
}

fn csv_options(entries: &mut Entries, mistakes: &mut Mistakes<'_>) -> CsvOptions {
    let header = entries.take("header").and_then(|node| read::flag(node, "`header`", mistakes));
    let delimiter =
        entries.take("delimiter").and_then(|node| read::byte(node, "`delimiter`", mistakes));
    let quote = entries.take("quote");
    let quote_at = quote.as_ref().map(|node| (node.place, node.path.clone()));
    let quote = quote.and_then(|node| read::byte(node, "`quote`", mistakes));
    let multiline =
        entries.take("multiline").and_then(|node| read::flag(node, "`multiline`", mistakes));
    let options = CsvOptions {
        header: header.unwrap_or(true),
        delimiter: delimiter.unwrap_or(b','),
        quote: quote.unwrap_or(b'"'),
        multiline: multiline.unwrap_or(false),
    };
    if options.delimiter == options.quote
        && let Some((place, path)) = quote_at
    {
        mistakes.add(place, &path, "`quote` and `delimiter` are the same character", None);
    }
    options
}

fn file_columns(
    node: Node,
    options: &CsvOptions,
    mistakes: &mut Mistakes<'_>,
) -> Option<Vec<Text>> {
    if options.header {
        let hint = "leave `columns` out, or say `header: false`".to_owned();
        mistakes.add(node.owner, &node.path, "the header names the file's columns", hint);
        return None;
    }
    let columns = read::texts(node, "`columns`", mistakes)?;
    for column in &columns {
        read::check_column_name(column, mistakes);
    }
    read::check_once(&columns, mistakes);
    Some(columns)
}

fn required_fields(
    node: Option<Node>,
    entries: &Entries,
    mistakes: &mut Mistakes<'_>,
) -> Option<Vec<FieldSpec>> {
    let Some(node) = node else {
        if !entries.is_meant("fields") {
            let hint = "name the columns that are read: `fields: { host: string, status: int }`";
            entries.wrong(mistakes, "a source needs `fields`".to_owned(), Some(hint.to_owned()));
        }
        return None;
    };
    let (owner, path) = (node.owner, node.path.clone());
    let fields = parse_fields(node, mistakes)?;
    if fields.is_empty() {
        mistakes.add(owner, &path, "`fields` names no column", None);
        return None;
    }
    Some(fields)
}

fn parse_fields(node: Node, mistakes: &mut Mistakes<'_>) -> Option<Vec<FieldSpec>> {
    let entries = read::map(node, "`fields`", mistakes)?;
    let mut fields = Vec::with_capacity(entries.len());
    let mut all = true;
    for (key, node) in entries {
        let name = read::column_name(&key, &node.path, mistakes);
        match field(name, node, mistakes) {
            Some(field) => fields.push(field),
            None => all = false,
        }
    }
    all.then_some(fields)
}

fn field(name: Text, node: Node, mistakes: &mut Mistakes<'_>) -> Option<FieldSpec> {
    if !matches!(node.value, Value::Map(_)) {
        return Some(FieldSpec { name, kind: kind(node, mistakes)?, path: None });
    }
    let mut entries = Entries::open(node, "a field", mistakes)?;
    let kind_node = entries.require("type", mistakes);
    let path = entries.take("path");
    entries.finish(mistakes);
    let path = match path {
        Some(node) => Some(read::text(node, "`path`", mistakes)?),
        None => None,
    };
    Some(FieldSpec { name, kind: kind(kind_node?, mistakes)?, path })
}

/// Reads the name of a type.
pub(super) fn kind(node: Node, mistakes: &mut Mistakes<'_>) -> Option<Type> {
    let written = read::text(node, "a type", mistakes)?;
    let found = Type::from_name(&written.text);
    if found.is_none() {
        let meant = match written.text.to_lowercase().as_str() {
            "str" | "text" | "varchar" | "char" => Some("string"),
            "integer" | "long" | "bigint" | "i64" | "int64" | "number" => Some("int"),
            "double" | "real" | "f64" | "float64" => Some("float"),
            "numeric" | "money" | "dec" => Some("decimal(12,2)"),
            "boolean" => Some("bool"),
            "date" | "datetime" | "time" => Some("timestamp"),
            _ => None,
        };
        let hint = match meant {
            Some(meant) => Some(format!("did you mean {}?", quoted(meant))),
            None if written.text.starts_with("decimal") => Some(
                "a decimal has 1 to 38 digits, and of those at most all behind the point: \
                 decimal(12,2)"
                    .to_owned(),
            ),
            None => {
                mistakes.nearest_hint(&written.text, Type::ALL.map(Type::name), "the types are")
            }
        };
        written.wrong(mistakes, format!("there is no type {}", quoted(&written.text)), hint);
    }
    found
}

fn patterns(node: Node, mistakes: &mut Mistakes<'_>) -> Vec<Text> {
    let owner = (node.owner, node.path.clone());
    let Some(patterns) = read::texts(node, "`pattern`", mistakes) else { return Vec::new() };
    if patterns.is_empty() {
        mistakes.add(owner.0, &owner.1, "`pattern` is an empty list: no file would be taken", None);
    }
    check_globs(&patterns, mistakes);
    patterns
}

/// Notes what cannot match the name of a file.
pub(super) fn check_globs(patterns: &[Text], mistakes: &mut Mistakes<'_>) {
    for pattern in patterns {
        if pattern.text.contains('/') {
            let message = "a pattern is matched against the name of a file, not its path";
            pattern.wrong(mistakes, message, Some("leave out everything up to the `/`".to_owned()));
        } else if pattern.text.is_empty() {
            pattern.wrong(
                mistakes,
                "an empty pattern takes no file",
                Some("\"*\" takes all".to_owned()),
            );
        } else if pattern.text.starts_with('^') || pattern.text.ends_with('$') {
            let message = "a pattern is a glob, not a regular expression";
            let hint =
                "for example \"*.log\": `*` stands for any characters, `?` for one".to_owned();
            pattern.wrong(mistakes, message, hint);
        } else if let Err(error) = globset::Glob::new(&pattern.text) {
            let message = format!("{} is no pattern: {}", quoted(&pattern.text), error.kind());
            pattern.wrong(mistakes, message, None);
        }
    }
}
