//! Sink: where records leave the pipeline, as written. Derived.

use std::time::Duration;

use tidemill_operators::format::{OutputFormat, TableFormat};

use crate::diagnostic::Mistakes;
use crate::spec::operator;
use crate::spec::read::{self, Entries, Text};
use crate::spec::retry::{self, RetrySpec};
use crate::spec::tree::{Node, Value};

/// How often a table is published when `publish_every` is not given.
const PUBLISH_EVERY_DEFAULT: Duration = Duration::from_secs(1);
/// The bounds of `publish_every`.
const PUBLISH_EVERY_BOUNDS: (Duration, Duration) =
    (Duration::from_millis(1), Duration::from_secs(24 * 3600));

/// A sink as written.
#[derive(Debug)]
pub(crate) struct SinkSpec {
    pub(crate) name: Text,
    /// `None` when it could not be read.
    pub(crate) from: Option<Vec<Text>>,
    /// `None` when it could not be read.
    pub(crate) body: Option<SinkBody>,
    pub(crate) retry: RetrySpec,
}

/// What a sink writes, as written.
#[derive(Debug)]
pub(crate) enum SinkBody {
    Files { format: OutputFormat, format_at: Text, empty: EmptyFiles },
    Table(TableBody),
}

/// A table, as written.
#[derive(Debug)]
pub(crate) struct TableBody {
    /// `None` for a table without a snapshot, which keeps no rows.
    pub(crate) format: Option<TableFormat>,
    pub(crate) key: Vec<Text>,
    pub(crate) key_at: Text,
    pub(crate) publish_every: Duration,
    pub(crate) changelog: Option<(OutputFormat, Text)>,
}

/// What becomes of an input file that has no record for a sink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EmptyFiles {
    Write,
    Skip,
}

/// Reads a sink.
pub(super) fn parse(name: Text, node: Node, mistakes: &mut Mistakes<'_>) -> SinkSpec {
    if name.text == "rejects" {
        let message = "the sink `rejects` is always there and holds the rejected records";
        name.wrong(mistakes, message, Some("choose another name".to_owned()));
    }
    let Some(mut entries) = Entries::open(node, "a sink", mistakes) else {
        return SinkSpec { name, from: None, body: None, retry: RetrySpec::default() };
    };
    let from = operator::from(&mut entries, mistakes);
    let retry = retry::parse(&mut entries, &retry::OF_SINKS, mistakes);
    let files = entries.take("files");
    let table = entries.take("table");
    let body = match (files, table) {
        (Some(node), None) => parse_files(node, mistakes),
        (None, Some(node)) => parse_table(node, mistakes),
        (Some(_), Some(node)) => {
            let message = "a sink is either `files` or `table`";
            mistakes.add(node.owner, &node.path, message, Some("make two sinks".to_owned()));
            None
        }
        (None, None) => {
            if entries.rest().next().is_none() {
                let hint = "say what it writes: `files: { format: raw }` (one output file per input \
                            file) or `table: { format: csv, key: [...] }` (the current contents)";
                let message = "a sink needs `files` or `table`".to_owned();
                entries.wrong(mistakes, message, Some(hint.to_owned()));
            }
            None
        }
    };
    entries.finish(mistakes);
    SinkSpec { name, from, body, retry }
}

#[derive(Clone, Copy)]
enum FormatWord {
    Raw,
    Jsonl,
    Csv,
    Parquet,
}

fn parse_files(node: Node, mistakes: &mut Mistakes<'_>) -> Option<SinkBody> {
    let mut entries = Entries::open(node, "`files`", mistakes)?;
    let words = [("raw", FormatWord::Raw), ("jsonl", FormatWord::Jsonl), ("csv", FormatWord::Csv)];
    let format = format(&mut entries, &words, mistakes);
    let choices = [("write", EmptyFiles::Write), ("skip", EmptyFiles::Skip)];
    let empty = entries.take("empty");
    let empty = empty.and_then(|node| read::choice(node, "`empty`", &choices, mistakes));
    entries.finish(mistakes);
    // Parquet is not among the words.
    let (TableFormat::Rows(format), format_at) = format? else { return None };
    Some(SinkBody::Files { format, format_at, empty: empty.unwrap_or(EmptyFiles::Write) })
}

fn parse_table(node: Node, mistakes: &mut Mistakes<'_>) -> Option<SinkBody> {
    let mut entries = Entries::open(node, "`table`", mistakes)?;
    let snapshot_at = entries.take("snapshot");
    let snapshot_at = snapshot_at.map(|node| (named_at(&node, "snapshot"), node));
    let snapshot = match snapshot_at {
        Some((at, node)) => read::flag(node, "`snapshot`", mistakes).map(|flag| (flag, Some(at))),
        None => Some((true, None)),
    };
    let has_snapshot = snapshot.as_ref().is_none_or(|(flag, _)| *flag);
    let words =
        [("jsonl", FormatWord::Jsonl), ("csv", FormatWord::Csv), ("parquet", FormatWord::Parquet)];
    let has_format = has_snapshot || entries.rest().any(|key| key.name == "format");
    let format = if has_format { format(&mut entries, &words, mistakes) } else { None };
    let changelog = entries.take("changelog");
    let changelog = changelog.map(|node| {
        let at = named_at(&node, "changelog");
        let format = format.as_ref().map(|(format, _)| format);
        (parse_changelog(node, format, mistakes), at)
    });
    let key = entries.require("key", mistakes);
    let publish_every = entries.take("publish_every");
    if let (Some(node), false) = (&publish_every, has_snapshot) {
        let message = "`publish_every` says how often a snapshot is written, and there is none";
        mistakes.add(node.owner, &node.path, message, Some("leave it out".to_owned()));
    }
    let publish_every = publish_every
        .and_then(|node| read::duration(node, "`publish_every`", PUBLISH_EVERY_BOUNDS, mistakes));
    entries.finish(mistakes);
    let (has_snapshot, snapshot_at) = snapshot?;
    let changelog = match changelog {
        None => None,
        Some((changelog, at)) => changelog?.map(|format| (format, at)),
    };
    if let (None, false, Some(at)) = (&changelog, has_snapshot, snapshot_at) {
        let hint = "add `changelog: true`, or leave out `snapshot: false`".to_owned();
        at.wrong(mistakes, "a table without a snapshot and a changelog writes nothing", hint);
    }
    let key = key?;
    let key_at = named_at(&key, "key");
    let key = read::texts(key, "`key`", mistakes)?;
    read::check_once(&key, mistakes);
    let publish_every = publish_every.unwrap_or(PUBLISH_EVERY_DEFAULT);
    let format = match format {
        Some((format, _)) => Some(format),
        None if has_format => return None, // it was noted
        None => None,
    };
    let format = format.filter(|_| has_snapshot);
    Some(SinkBody::Table(TableBody { format, key, key_at, publish_every, changelog }))
}

/// Returns the name of an entry, at the place where it stands.
fn named_at(node: &Node, name: &str) -> Text {
    Text { text: name.to_owned(), place: node.owner, path: node.path.clone() }
}

/// Reads `changelog`: `true`, or how it is written. The outer `None` stands for a mistake, the inner
/// one for no changelog.
fn parse_changelog(
    node: Node,
    table: Option<&TableFormat>,
    mistakes: &mut Mistakes<'_>,
) -> Option<Option<OutputFormat>> {
    if !matches!(node.value, Value::Map(_)) {
        let wanted = read::flag(node, "`changelog`", mistakes)?;
        let format = match table {
            Some(TableFormat::Rows(format)) => format.clone(),
            Some(TableFormat::Parquet) | None => OutputFormat::Jsonl,
        };
        return Some(wanted.then_some(format));
    }
    let mut entries = Entries::open(node, "`changelog`", mistakes)?;
    let words = [("jsonl", FormatWord::Jsonl), ("csv", FormatWord::Csv)];
    let format = format(&mut entries, &words, mistakes);
    entries.finish(mistakes);
    match format?.0 {
        TableFormat::Rows(format) => Some(Some(format)),
        TableFormat::Parquet => None, // not among the words
    }
}

/// Reads `format` and, for csv, `delimiter` and `header`.
fn format(
    entries: &mut Entries,
    words: &[(&'static str, FormatWord)],
    mistakes: &mut Mistakes<'_>,
) -> Option<(TableFormat, Text)> {
    let node = entries.require("format", mistakes);
    let at = node.as_ref().map(|node| Text {
        text: "format".to_owned(),
        place: node.place,
        path: node.path.clone(),
    });
    let word = node.and_then(|node| read::choice(node, "`format`", words, mistakes));
    let is_csv = matches!(word, Some(FormatWord::Csv) | None);
    let mut delimiter = None;
    let mut header = None;
    for name in ["delimiter", "header"] {
        if !is_csv && !entries.rest().any(|key| key.name == name) {
            continue; // not offered in hints
        }
        match entries.take(name) {
            Some(node) if !is_csv => {
                let message = format!("`{name}` belongs to csv");
                mistakes.add(node.owner, &node.path, message, None);
            }
            Some(node) if name == "header" => header = read::flag(node, "`header`", mistakes),
            Some(node) => delimiter = read::byte(node, "`delimiter`", mistakes),
            None => {}
        }
    }
    let format = match word? {
        FormatWord::Raw => TableFormat::Rows(OutputFormat::Raw),
        FormatWord::Jsonl => TableFormat::Rows(OutputFormat::Jsonl),
        FormatWord::Csv => TableFormat::Rows(OutputFormat::Csv {
            delimiter: delimiter.unwrap_or(b','),
            header: header.unwrap_or(true),
        }),
        FormatWord::Parquet => TableFormat::Parquet,
    };
    Some((format, at?))
}
