//! Grow: random pipelines that check: each operator fits what it reads, each port is read.
//!
//! It knows of types, places and names what the checker would refuse; a pipeline of it that does not
//! check is a mistake of it, or a change of what the language allows.

use tidemill_bench::random::Random;

use super::files::chance;
use super::pipeline::{Column, Format, Kind, Operator, Pipeline, Sink, Source, quoted};

mod operators;
mod sql;
mod timed;

/// Operators of a pipeline, at most.
const OPERATORS_MAX: u64 = 4;

/// Something that can be read.
#[derive(Clone, Debug)]
struct Port {
    name: String,
    columns: Vec<Column>,
    /// The columns that a table over it must have in its key.
    by: Vec<String>,
    /// Whether each row is one record of one file.
    has_place: bool,
    /// Whether the bytes of that record are there.
    has_raw: bool,
    /// Whether rows of one file change because of others.
    changes: bool,
    /// Whether its rows are groups of one file, which have no key among all files.
    of_one_file: bool,
    /// Whether a join may have made several rows of one.
    is_multiplied: bool,
    readers: usize,
}

/// A pipeline that is being made.
#[derive(Debug)]
struct Growing<'r> {
    random: &'r mut Random,
    ports: Vec<Port>,
    operators: Vec<Operator>,
    sinks: Vec<Sink>,
    names: usize,
}

/// Returns a random pipeline.
pub fn pipeline(name: &str, random: &mut Random) -> Pipeline {
    let sources = sources(random);
    let ports = sources.iter().map(|source| Port {
        name: source.name.clone(),
        columns: source.fields.clone(),
        by: Vec::new(),
        has_place: true,
        has_raw: true,
        changes: false,
        of_one_file: false,
        is_multiplied: false,
        readers: 0,
    });
    let ports = ports.collect();
    let mut growing = Growing { random, ports, operators: Vec::new(), sinks: Vec::new(), names: 0 };
    for _ in 0..=growing.random.below(OPERATORS_MAX) {
        growing.operator();
    }
    if sources.iter().any(|source| source.is_of_order) {
        growing.state_with_horizon();
    }
    growing.end();
    let Growing { operators, sinks, .. } = growing;
    Pipeline { name: name.to_owned(), sources, operators, sinks }
}

fn sources(random: &mut Random) -> Vec<Source> {
    let events = [
        ("id", Kind::Int),
        ("k", Kind::Text),
        ("g", Kind::Text),
        ("n", Kind::Int),
        ("x", Kind::Float),
        ("t", Kind::Time),
        ("ok", Kind::Bool),
        ("tags", Kind::Text),
    ];
    let two = chance(random, 20);
    let is_of_order = !two && chance(random, 4);
    let mut source = |name: &str, fields: &[(&str, Kind)]| Source {
        name: name.to_owned(),
        format: *random.pick(&[Format::Jsonl, Format::Csv]),
        fields: fields
            .iter()
            .map(|(name, kind)| Column { name: (*name).to_owned(), kind: *kind })
            .collect(),
        settings: Vec::new(),
        is_append_only: false,
        is_of_order,
    };
    let mut all = vec![source("rows", &events)];
    if two {
        all.push(source("more", &events));
        if chance(random, 40) {
            let at = random.below(2) as usize;
            all[at].is_append_only = true;
            all[at].settings.push("append_only: true".to_owned());
        }
    } else if !is_of_order && chance(random, 5) {
        all[0].settings.push(format!("max_rejects: {}", random.pick(&["0", "1", "20%"])));
    }
    all
}

impl Growing<'_> {
    /// Returns a name that nothing has yet.
    fn name(&mut self, first: char) -> String {
        self.names += 1;
        format!("{first}{}", self.names)
    }

    /// Chooses a port: what nobody reads yet sooner than others.
    fn choose(&mut self, fits: impl Fn(&Port) -> bool) -> Option<usize> {
        let fitting = |unread: bool| -> Vec<usize> {
            let ports = self.ports.iter().enumerate();
            let fits = |(_, port): &(usize, &Port)| fits(port) && (port.readers == 0 || !unread);
            ports.filter(fits).map(|(at, _)| at).collect()
        };
        let (unread, all) = (fitting(true), fitting(false));
        let from = if !unread.is_empty() && chance(self.random, 75) { unread } else { all };
        (!from.is_empty()).then(|| *self.random.pick(&from))
    }

    /// Notes that a port is read, and returns its name.
    fn read(&mut self, at: usize) -> String {
        self.ports[at].readers += 1;
        self.ports[at].name.clone()
    }

    /// Adds sinks until everything is read.
    fn end(&mut self) {
        for at in 0..self.ports.len() {
            if self.ports[at].readers == 0 || chance(self.random, 15) {
                self.sink(at);
            }
        }
        if chance(self.random, 30) {
            let port = self.random.pick(&self.ports);
            let of = port.name.split('.').next().unwrap_or_default().to_owned();
            let body = match port.changes {
                false => "files: { format: jsonl, empty: skip }",
                true => "table: { format: jsonl, key: [operator, line, message] }",
            };
            let (name, body) = (self.name('s'), body.to_owned());
            self.sinks.push(Sink { name, from: format!("{of}.errors"), body });
        }
    }

    fn sink(&mut self, at: usize) {
        let port = self.ports[at].clone();
        let from = self.read(at);
        let name = self.name('s');
        // Behind operators that take rows back outputs are written anew.
        let likely = if port.changes { 40 } else { 60 };
        let body = if port.of_one_file || port.has_place && chance(self.random, likely) {
            let format = match self.random.below(3) {
                0 if port.has_raw => "raw",
                1 => "csv",
                _ => "jsonl",
            };
            let empty = *self.random.pick(&["write", "skip"]);
            format!("files: {{ format: {format}, empty: {empty} }}")
        } else {
            let mut key = port.by.clone();
            let others = port.columns.iter().filter(|column| !port.by.contains(&column.name));
            let others: Vec<String> = others.map(|column| column.name.clone()).collect();
            if !others.is_empty() && (key.is_empty() || chance(self.random, 30)) {
                key.push(self.random.pick(&others).clone());
            }
            let format = *self.random.pick(&["csv", "jsonl", "csv", "jsonl", "parquet"]);
            let log = if chance(self.random, 25) { ", changelog: true" } else { "" };
            let key = key.join(", ");
            format!("table: {{ format: {format}, key: [{key}], publish_every: 1h{log} }}")
        };
        self.sinks.push(Sink { name, from, body });
    }
}

/// Writes columns and how they are computed: `[a, { b: "n + 1" }]`.
fn listed(columns: &[(String, Option<String>)]) -> String {
    let one = |(name, sql): &(String, Option<String>)| match sql {
        None => name.clone(),
        Some(sql) => format!("{{ {name}: {} }}", quoted(sql)),
    };
    format!("[{}]", columns.iter().map(one).collect::<Vec<_>>().join(", "))
}
