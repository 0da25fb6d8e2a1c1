//! Words: what people write who come from other tools, or are new to YAML, and what they probably mean.
//! Derived; it only gives hints, and never decides what is a mistake.

use crate::spec::operator::KINDS;
use crate::spec::tree::Value;

/// By what is described: words of other tools, the key of ours that is meant, and what to do; an empty
/// one asks "did you mean".
type Words = (&'static str, &'static [&'static str], &'static str, &'static str);

const KEYS: &[Words] = &[
    ("a pipeline file", &["name", "id"], "pipeline", "the name stands behind `pipeline`"),
    ("a pipeline file", &["input", "inputs", "source"], "sources", ""),
    ("a pipeline file", &["output", "outputs", "sink", "destinations"], "sinks", ""),
    (
        "a pipeline file",
        &["transforms", "transform", "steps", "stages", "processors", "nodes", "tasks", "jobs"],
        "operators",
        "",
    ),
    (
        "a source",
        &["type", "kind", "codec", "encoding", "decoding"],
        "format",
        "say how a file is written: `format: csv`, `jsonl` or `text`",
    ),
    (
        "a source",
        &["path", "paths", "include", "glob", "file", "files", "location", "directory", "url"],
        "pattern",
        "files are dropped into `unprocessed/`; `pattern: \"*.csv\"` says which names are this source's",
    ),
    ("a source", &["schema", "fieldnames"], "fields", ""),
    ("a source", &["separator", "sep"], "delimiter", ""),
    ("an operator", &["input", "inputs", "source", "sources", "reads", "upstream"], "from", ""),
    (
        "an operator",
        &["type", "kind", "op", "operator", "transform"],
        "",
        "the kind is a key of its own, as in `filter: status >= 500`",
    ),
    ("an operator", &["where", "condition", "if", "when"], "filter", ""),
    ("an operator", &["map", "mapping", "project", "compute", "fields", "columns"], "select", ""),
    ("an operator", &["switch", "branch", "case", "cases"], "route", ""),
    (
        "an operator",
        &["group_by", "groupby", "group", "reduce", "sum", "count"],
        "aggregate",
        "write `aggregate: { by: [...], compute: { hits: count(*) } }`",
    ),
    (
        "an operator",
        &["distinct", "unique", "deduplicate"],
        "dedupe",
        "write `dedupe: { by: [...] }`",
    ),
    (
        "an operator",
        &["limit", "head", "sort", "order_by"],
        "top",
        "write `top: { k: 10, order: [...] }`",
    ),
    ("an operator", &["flatten", "unnest", "unwind"], "explode", ""),
    ("an operator", &["regex", "grok", "extract", "dissect"], "parse", ""),
    ("an operator", &["lookup", "enrich"], "join", ""),
    ("an operator", &["shard", "partition"], "split", ""),
    ("a sink", &["input", "inputs", "source", "reads"], "from", ""),
    (
        "a sink",
        &["type", "kind", "format", "codec", "encoding"],
        "",
        "say what it writes: `files: { format: csv }` or `table: { format: csv, key: [...] }`",
    ),
    (
        "a sink",
        &["path", "location", "directory", "filename", "url"],
        "",
        "outputs lie in `out/NAME/` below the home of the pipeline; leave it out",
    ),
    ("`aggregate`", &["group_by", "groupby", "keys"], "by", ""),
    (
        "`aggregate`",
        &["functions", "aggregates", "count", "sum", "metrics"],
        "compute",
        "write `compute: { hits: count(*) }`",
    ),
    ("`parse`", &["pattern", "expression", "grok"], "regex", ""),
    ("`parse`", &["field", "from", "source", "input"], "column", ""),
];

/// Keys that stand beside the kind of an operator.
const BESIDE: [&str; 5] = ["from", "drop", "max_rounds", "on_error", "max_rejects"];

/// Returns the key that a word of another tool stands for, if it is known, and what to do; the key is
/// empty where none does.
pub(super) fn meant(what: &str, written: &str) -> Option<(&'static str, String)> {
    let written = written.to_lowercase();
    let is_kind = KINDS.iter().any(|kind| what == format!("`{kind}`"));
    let found =
        KEYS.iter().find(|(of, words, ..)| *of == what && words.contains(&written.as_str()));
    let found = found.map(|(_, _, key, hint)| match *hint {
        "" => (*key, format!("did you mean `{key}`?")),
        hint => (*key, hint.to_owned()),
    });
    let is_beside = is_kind && BESIDE.contains(&written.as_str());
    found.or_else(|| is_beside.then(|| ("", stands_beside(what))))
}

/// Returns where a key belongs that stands inside of `what`.
pub(super) fn stands_beside(what: &str) -> String {
    format!("it stands beside {what}, in the same map, not in it")
}

/// Returns what is wrong with how a key is written, where that can be seen.
pub(super) fn misspelled(written: &str, known: &[&str]) -> Option<String> {
    if let Some((key, value)) = written.split_once(':')
        && known.contains(&key)
    {
        return Some(format!("a blank follows the colon: `{key}: {value}`"));
    }
    written.contains(['(', ')', '\'']).then(|| {
        "between braces a comma ends a value: put an expression that holds one between quotes"
            .to_owned()
    })
}

/// Returns what to do with a part of a pipeline that stands beside its section.
pub(super) fn stray(what: &str, found: &Value) -> Option<String> {
    let Value::Map(entries) = found else { return None };
    let is_part = |name: &str| matches!(name, "from" | "format" | "files" | "table");
    (what == "a pipeline file" && entries.iter().any(|(key, _)| is_part(&key.name)))
        .then(|| "indent it by two blanks, below `sources`, `operators` or `sinks`".to_owned())
}

/// Returns what to write where a key is missing.
pub(super) fn example_of(what: &str, key: &str) -> Option<String> {
    let hint = match (what, key) {
        ("a pipeline file", "pipeline") => "the first line says its name: `pipeline: NAME`",
        ("a pipeline file", "sources") => "for example `sources: { lines: { format: text } }`",
        ("a pipeline file", "sinks") => {
            "for example `sinks: { copy: { from: lines, files: { format: raw } } }`"
        }
        ("a source", "format") => "it is one of `text`, `jsonl` and `csv`",
        (_, "from") => "say what it reads: `from: NAME`, the name of a source or operator",
        ("`table`", "key") => "name the columns that tell its rows apart: `key: [id]`",
        ("`aggregate`", "by") => {
            "name what makes a group: `by: [host]`, or `by: []` for one row of all"
        }
        ("`aggregate`", "compute") => "for example `compute: { hits: count(*) }`",
        ("`parse`", "column") => {
            "say which column is searched; a `text` source has the column `line`"
        }
        ("`parse`", "regex") => "for example `regex: '^(?<user>\\w+)'`",
        ("`split`", "by") => "name what is kept together: `by: [user]`",
        _ => return None,
    };
    Some(hint.to_owned())
}

/// Returns what to write where a map belongs and something else stands.
pub(super) fn example(what: &str, found: &Value) -> Option<String> {
    let is_list = matches!(found, Value::List(_));
    let hint = match what {
        "a pipeline file" => {
            "it begins with `pipeline: NAME`; then come `sources:`, `operators:` and `sinks:`"
        }
        "`sources`" | "`operators`" | "`sinks`" if is_list => {
            "give each a name instead of a dash, as in `NAME: { ... }`"
        }
        "`sources`" | "`operators`" | "`sinks`" | "a source" | "an operator" | "a sink"
            if matches!(found, Value::Null) =>
        {
            "indent what belongs to it by two blanks"
        }
        "`fields`" => "give each column its type: `fields: { id: int, name: string }`",
        "a source" => "for example `lines: { format: text }`",
        "`files`" => "for example `files: { format: csv }`",
        "`table`" => "for example `table: { format: csv, key: [id] }`",
        "`parse`" => "for example `parse: { column: line, regex: '^(?<user>\\w+)' }`",
        "`aggregate`" => "for example `aggregate: { by: [host], compute: { hits: count(*) } }`",
        "`route`" => "for example `route: { failed: status >= 500, ok: else }`",
        "`sample`" => "for example `sample: { share: 5% }`",
        "`split`" => "for example `split: { by: user, into: 4 }`",
        "`outputs`" => {
            "for example `outputs: { out: NAME }`, the operator or tag that leaves by `out`"
        }
        "a trailer" => "for example `trailer: { lines: 1 }`",
        "`weighted`" => "for example `weighted: { a: 3, b: 1 }`",
        _ => return None,
    };
    Some(hint.to_owned())
}

/// Returns the choice that another word for it stands for.
pub(super) fn choice_meant(written: &str, choices: &[&str]) -> Option<String> {
    let there = |choice: &'static str| choices.contains(&choice).then_some(choice);
    let meant = match written.to_lowercase().as_str() {
        "yes" | "on" | "y" | "1" => there("true"),
        "no" | "off" | "n" | "0" => there("false"),
        "log" | "txt" | "lines" | "plain" => there("text").or(there("raw")),
        "tsv" if choices.contains(&"csv") => {
            return Some("say `format: csv` and, beside it, `delimiter: tab`".to_owned());
        }
        _ => None,
    };
    meant.map(|choice| format!("did you mean `{choice}`?"))
}
