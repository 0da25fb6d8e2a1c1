//! Pipeline: a pipeline file as data, so that it can be made at random and made smaller.

use std::fmt::Write;

/// The type of a column, as far as a generator must know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `int`
    Int,
    /// `float`
    Float,
    /// `string`
    Text,
    /// `bool`
    Bool,
    /// `timestamp`
    Time,
}

impl Kind {
    /// Returns the word of the pipeline file.
    pub fn word(self) -> &'static str {
        match self {
            Self::Int => "int",
            Self::Float => "float",
            Self::Text => "string",
            Self::Bool => "bool",
            Self::Time => "timestamp",
        }
    }
}

/// A column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Its type.
    pub kind: Kind,
}

/// The format of a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// JSON lines.
    Jsonl,
    /// CSV with a header.
    Csv,
}

impl Format {
    /// Returns the word of the pipeline file, which is the ending of file names too.
    pub fn word(self) -> &'static str {
        match self {
            Self::Jsonl => "jsonl",
            Self::Csv => "csv",
        }
    }
}

/// A source.
#[derive(Clone, Debug)]
pub struct Source {
    /// Its name; files of it begin with `<name>-`.
    pub name: String,
    /// Its format.
    pub format: Format,
    /// All columns that its files have.
    pub fields: Vec<Column>,
    /// Further settings, each `key: value`.
    pub settings: Vec<String>,
    /// Whether its files are only ever added.
    pub is_append_only: bool,
    /// Whether the order of its files counts, because what is old enough is made final.
    pub is_of_order: bool,
}

impl Source {
    /// Returns whether a file of this name is one of its.
    pub fn has(&self, name: &str) -> bool {
        name.strip_prefix(&self.name).is_some_and(|rest| rest.starts_with('-'))
    }
}

/// An operator.
#[derive(Clone, Debug)]
pub struct Operator {
    /// Its name.
    pub name: String,
    /// The ports that `from` names.
    pub from: Vec<String>,
    /// The ports that it reads besides, inside of its body.
    pub with: Vec<String>,
    /// Its kind and what belongs to it: `filter: "n > 1"`.
    pub body: String,
    /// Its ports: `name`, or `name.tag` each.
    pub ports: Vec<String>,
}

/// A sink.
#[derive(Clone, Debug)]
pub struct Sink {
    /// Its name.
    pub name: String,
    /// The port that it reads.
    pub from: String,
    /// What it writes: `files: { ... }`.
    pub body: String,
}

/// A pipeline.
#[derive(Clone, Debug)]
pub struct Pipeline {
    /// Its name.
    pub name: String,
    /// Its sources.
    pub sources: Vec<Source>,
    /// Its operators, each behind what it reads.
    pub operators: Vec<Operator>,
    /// Its sinks.
    pub sinks: Vec<Sink>,
}

impl Pipeline {
    /// Returns the pipeline file.
    pub fn yaml(&self) -> String {
        let mut text = format!("pipeline: {}\nsources:\n", self.name);
        for Source { name, format, fields, settings, .. } in &self.sources {
            let fields: Vec<String> = fields
                .iter()
                .map(|column| format!("{}: {}", column.name, column.kind.word()))
                .collect();
            let mut keys = vec![
                format!("format: {}", format.word()),
                format!("pattern: \"{name}-*\""),
                format!("fields: {{ {} }}", fields.join(", ")),
            ];
            keys.extend(settings.iter().cloned());
            let _ = writeln!(text, "  {name}: {{ {} }}", keys.join(", "));
        }
        if !self.operators.is_empty() {
            text += "operators:\n";
        }
        for Operator { name, from, body, .. } in &self.operators {
            let _ = writeln!(text, "  {name}: {{ from: [{}], {body} }}", from.join(", "));
        }
        text += "sinks:\n";
        for Sink { name, from, body } in &self.sinks {
            let _ = writeln!(text, "  {name}: {{ from: {from}, {body} }}");
        }
        text
    }

    /// Returns whether what comes out follows from the order of steps, and not from the files that are
    /// left alone.
    pub fn is_of_order(&self) -> bool {
        self.sources.iter().any(|source| source.is_of_order)
    }

    /// Returns whether a file that can be read may be refused.
    pub fn may_refuse(&self) -> bool {
        let mut settings = self.sources.iter().flat_map(|source| &source.settings);
        settings.any(|setting| setting.starts_with("max_rejects"))
    }

    /// Returns whether nothing is left once every file is removed.
    pub fn is_emptied(&self) -> bool {
        !self.is_of_order() && !self.sources.iter().any(|source| source.is_append_only)
    }

    /// Returns the pipeline without one sink and without what only that sink needed; `None` if
    /// something else would be left that nobody reads.
    pub fn without_sink(&self, at: usize) -> Option<Self> {
        let mut smaller = self.clone();
        smaller.sinks.remove(at);
        loop {
            let before = smaller.operators.len();
            let reads = smaller.reads();
            let is_read =
                |operator: &Operator| operator.ports.iter().any(|one| reads.contains(one));
            smaller.operators.retain(is_read);
            if smaller.operators.len() == before {
                break;
            }
        }
        let reads = smaller.reads();
        let all = smaller.operators.iter().flat_map(|operator| &operator.ports);
        let sources = smaller.sources.iter().map(|source| &source.name);
        let is_whole = all.chain(sources).all(|port| reads.contains(port));
        (is_whole && !smaller.sinks.is_empty()).then_some(smaller)
    }

    /// Returns every port that is read.
    fn reads(&self) -> Vec<String> {
        let operators = self.operators.iter().flat_map(|one| one.from.iter().chain(&one.with));
        operators.chain(self.sinks.iter().map(|sink| &sink.from)).cloned().collect()
    }
}

/// Returns a text as YAML may hold it anywhere.
pub fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}
