//! Yaml: a random pipeline as a pipeline file. Sinks behind state become tables that count how often each
//! row is there, so that nothing of a multiset is lost; so does what is rejected, where something keeps
//! state.

use std::fmt::Write as _;

use super::graph::{Condition, Draw, Graph, Kind, LOOKUPS, Node, Port, Work};

/// The table of what was rejected, by operator, round and code.
pub const REJECTED: &str = "rejected";

impl Graph {
    /// Returns the pipeline file.
    pub fn yaml(&self) -> String {
        let source = |name: &str, pattern: &str| {
            format!(
                "  {name}: {{ format: csv, pattern: \"{pattern}*\", fields: {{ id: int, a: int, b: int }}, \
                 on_same_name: replace, on_delete: retract, corrections: forever }}\n"
            )
        };
        let mut text = format!("pipeline: {}\nsources:\n{}", self.name, source("rows", "f"));
        if self.nodes.iter().any(|node| node.reads().any(|port| port == LOOKUPS)) {
            text += &source("lookups", "g");
        }
        text += "operators:\n";
        for (at, node) in self.nodes.iter().enumerate() {
            self.operator(at + 1, node, &mut text);
        }
        let mut sinks = String::new();
        let count = |from: &str, by: &str| {
            format!(
                "{{ from: [{from}], aggregate: {{ by: [{by}], compute: {{ n: count(*) }} }} }}\n"
            )
        };
        let table = |name: &str, from: &str, key: &str| {
            format!("  {name}: {{ from: {from}, table: {{ format: csv, key: [{key}] }} }}\n")
        };
        for (at, ports) in self.sinks.iter().enumerate() {
            let from = self.ports(ports, None);
            if self.changes(ports[0]) {
                let _ = write!(text, "  c{at}: {}", count(&from, "id, a, b"));
                sinks += &table(&format!("o{at}"), &format!("c{at}"), "id, a, b");
            } else {
                let _ = writeln!(sinks, "  o{at}: {{ from: [{from}], files: {{ format: csv }} }}");
            }
        }
        if self.keeps_state() {
            text += "  bad: ";
            text += &count("\"n*.errors\"", "operator, round, code");
            sinks += &table(REJECTED, "bad", "operator, round, code");
        }
        text + "sinks:\n" + &sinks
    }

    fn operator(&self, number: usize, node: &Node, text: &mut String) {
        let key = |column: &str, modulus: i64| format!("{{ k: \"{column} % {modulus}\" }}");
        let draws = "by: [id]";
        let mut drop = node.dropped.map(|port| self.tag(number, port));
        let work = match &node.work {
            Work::Filter(condition) => format!("filter: \"{}\"", sql(condition)),
            Work::Select { factor, more: (a, b) } => format!(
                "select: {{ id: id, a: \"(a * {factor} + b + {a}) % 97\", b: \"(b + {b}) % 89\" }}"
            ),
            Work::Trip { modulus } => {
                format!("select: {{ id: id, a: \"a + 0 / (b % {modulus})\", b: b }}")
            }
            Work::Route { rules, otherwise, all } => {
                let rules = rules.iter().map(sql).map(|rule| format!("\"{rule}\""));
                let rules = rules.chain(otherwise.then(|| "else".to_owned())).enumerate();
                let tags: Vec<String> =
                    rules.map(|(tag, rule)| format!("t{tag}: {rule}")).collect();
                let all = if *all { "match: all, " } else { "" };
                format!("{all}route: {{ {} }}", tags.join(", "))
            }
            Work::Lots { weights, word: Draw::Split } => {
                format!("split: {{ {draws}, into: {} }}", weights.len())
            }
            Work::Lots { weights, word: Draw::Sample } => {
                format!("sample: {{ share: {}%, {draws}, seed: s }}", weights[0] / 10_000)
            }
            Work::Lots { weights, word: Draw::Weighted } => {
                let tags = weights.iter().enumerate();
                let tags: Vec<String> = tags.map(|(tag, one)| format!("t{tag}: {one}")).collect();
                format!("weighted: {{ {} }}, {draws}", tags.join(", "))
            }
            Work::Aggregate { modulus } => format!(
                "aggregate: {{ by: {{ a: \"a % {modulus}\" }}, compute: {{ id: min(id), b: sum(b) }} }}"
            ),
            Work::Dedupe { modulus, .. } => {
                format!("dedupe: {{ by: {}, order: [id, a, b] }}", key("b", *modulus))
            }
            Work::Top { count, modulus } => {
                format!("top: {{ k: {count}, by: {}, order: [b, id, a] }}", key("a", *modulus))
            }
            Work::Toggle { modulus } => format!(
                "state: {{ key: {}, order: [id, a, b], initial: x, transitions: [ {{ from: x, when: \
                 \"b % 2 = 0\", goto: y }}, {{ from: y, goto: x }} ] }}",
                key("a", *modulus)
            ),
            Work::Join { kind, with } => {
                drop = None;
                let with = self.port(*with);
                let (word, take) = match kind {
                    Kind::Inner => ("inner", ", take: { more: b }"),
                    Kind::Left => ("left", ", take: { more: b }"),
                    Kind::Semi => ("semi", ""),
                    Kind::Anti => ("anti", ""),
                };
                format!("join: {{ with: {with}, on: [a], kind: {word}{take} }}")
            }
        };
        let from = self.ports(&node.from, Some(number));
        let rounds = node.max_rounds.map(|most| format!("max_rounds: {most}, "));
        let drop = drop.map(|tag| format!(", drop: [{tag}]")).unwrap_or_default();
        let name = match &node.work {
            Work::Join { kind: Kind::Inner | Kind::Left, .. } => format!("j{number}"),
            _ => format!("n{number}"),
        };
        let rounds = rounds.unwrap_or_default();
        let _ = writeln!(text, "  {name}: {{ from: [{from}], {rounds}{work}{drop} }}");
        if name.starts_with('j') {
            let _ = writeln!(
                text,
                "  n{number}: {{ from: {name}, select: {{ id: id, a: \"(a + coalesce(more, 0)) % 97\", b: b }} }}"
            );
        }
    }

    /// Returns how a list of ports is written: all tags of one operator by a pattern, where none of them
    /// comes round to the reader.
    fn ports(&self, ports: &[Port], reader: Option<usize>) -> String {
        let around = |node: usize| self.nodes[node - 1].around.first();
        let mut names: Vec<String> = Vec::new();
        for port in ports {
            let of = |one: &&Port| one.0 == port.0;
            let all = port.0 > 0
                && ports.iter().filter(of).count() == self.nodes[port.0 - 1].ports()
                && !self.tag(port.0, 0).is_empty()
                && reader.is_none_or(|to| around(port.0).is_none() || around(to) != around(port.0));
            let name = if all { format!("\"n{}.*\"", port.0) } else { self.port(*port) };
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names.join(", ")
    }

    fn port(&self, (node, port): Port) -> String {
        match (node, port) {
            (0, 0) => "rows".to_owned(),
            (0, _) => "lookups".to_owned(),
            _ => match self.tag(node, port) {
                tag if tag.is_empty() => format!("n{node}"),
                tag => format!("n{node}.{tag}"),
            },
        }
    }

    fn tag(&self, node: usize, port: usize) -> String {
        match &self.nodes[node - 1].work {
            Work::Route { .. } | Work::Lots { word: Draw::Weighted, .. } => format!("t{port}"),
            Work::Lots { word: Draw::Split, .. } => port.to_string(),
            Work::Lots { .. } => ["sampled", "rest"][port.min(1)].to_owned(),
            Work::Toggle { .. } => ["x", "y"][port.min(1)].to_owned(),
            Work::Dedupe { .. } => ["", "duplicates"][port.min(1)].to_owned(),
            _ => String::new(),
        }
    }
}

fn sql(one: &Condition) -> String {
    let column = if one.of_b { "b" } else { "a" };
    format!("{column} % {} < {}", one.modulus, one.below)
}
