//! Operators: one random operator of each kind that fits a port.

use super::sql::{condition, value};
use super::{Growing, Port, listed};
use crate::corrections::files::chance;
use crate::corrections::pipeline::{Column, Kind, Operator, quoted};

/// Adds an operator of one kind, if there is a port that it fits.
type Grow = fn(&mut Growing<'_>);

/// How often each kind of operator is tried, of the sum of all.
const KINDS: [(u64, Grow); 14] = [
    (2, |growing| growing.filter()),
    (3, |growing| growing.select()),
    (3, |growing| growing.route()),
    (1, |growing| growing.parse()),
    (6, |growing| growing.aggregate()),
    (4, |growing| growing.dedupe()),
    (4, |growing| growing.top()),
    (2, |growing| growing.window()),
    (2, |growing| growing.explode()),
    (5, |growing| growing.join()),
    (1, |growing| growing.split()),
    (2, |growing| growing.repeat()),
    (2, |growing| growing.session()),
    (3, |growing| growing.state()),
];

impl Growing<'_> {
    /// Adds an operator, of a kind that fits.
    pub(super) fn operator(&mut self) {
        let all: u64 = KINDS.iter().map(|(weight, _)| weight).sum();
        let mut point = self.random.below(all);
        for (weight, grow) in KINDS {
            if point < weight {
                return grow(self);
            }
            point -= weight;
        }
    }

    /// Adds an operator over a port; its own ports are those of `tags`, each like `like`.
    pub(super) fn push(&mut self, name: String, from: Vec<String>, body: String, ports: Vec<Port>) {
        let names = ports.iter().map(|port| port.name.clone()).collect();
        self.operators.push(Operator { name, from, with: Vec::new(), body, ports: names });
        self.ports.extend(ports);
    }

    /// Chooses a port, and with luck a second one with the same columns.
    pub(super) fn inputs(&mut self) -> Option<(Vec<String>, Port)> {
        let at = self.choose(|_| true)?;
        let mut from = vec![self.read(at)];
        let mut port = self.ports[at].clone();
        if chance(self.random, 20) {
            let columns = port.columns.clone();
            let name = port.name.clone();
            let other = self.choose(|other| other.columns == columns && other.name != name);
            if let Some(other) = other {
                from.push(self.read(other));
                let other = &self.ports[other];
                port.has_place &= other.has_place;
                port.has_raw &= other.has_raw;
                port.changes |= other.changes;
                port.of_one_file = false;
                port.is_multiplied |= other.is_multiplied;
                port.by.clear();
            }
        }
        (port.readers, port.of_one_file) = (0, false);
        Some((from, port))
    }

    fn filter(&mut self) {
        let Some((from, port)) = self.inputs() else { return };
        let name = self.name('f');
        let condition = condition(&port.columns, self.random);
        let body = format!("filter: {}", quoted(&condition));
        let ports = vec![Port { name: name.clone(), by: Vec::new(), ..port }];
        self.push(name, from, body, ports);
    }

    fn select(&mut self) {
        let Some((from, port)) = self.inputs() else { return };
        let name = self.name('m');
        let mut columns = Vec::new();
        let mut named = Vec::new();
        for column in &port.columns {
            if chance(self.random, 60) {
                columns.push(column.clone());
                named.push((column.name.clone(), None));
            }
        }
        for _ in 0..self.random.below(3).max(u64::from(columns.is_empty())) {
            let (sql, kind) = value(&port.columns, self.random);
            let name = self.name('c');
            columns.push(Column { name: name.clone(), kind });
            named.push((name, Some(sql)));
        }
        let body = format!("select: {}", listed(&named));
        let ports = vec![Port { name: name.clone(), columns, by: Vec::new(), ..port }];
        self.push(name, from, body, ports);
    }

    fn route(&mut self) {
        let Some((from, port)) = self.inputs() else { return };
        let name = self.name('r');
        let mut rules = Vec::new();
        let mut tags = Vec::new();
        for tag in ["p", "q"].iter().take(1 + self.random.below(2) as usize) {
            let condition = condition(&port.columns, self.random);
            rules.push(format!("{tag}: {}", quoted(&condition)));
            tags.push(*tag);
        }
        if chance(self.random, 70) {
            rules.push("z: else".to_owned());
            tags.push("z");
        }
        let all = if chance(self.random, 30) { ", match: all" } else { "" };
        let body = format!("route: {{ {} }}{all}", rules.join(", "));
        let tag =
            |tag: &str| Port { name: format!("{name}.{tag}"), by: Vec::new(), ..port.clone() };
        let ports = tags.into_iter().map(tag).collect();
        self.push(name.clone(), from, body, ports);
    }

    fn parse(&mut self) {
        let is_text = |column: &&Column| column.kind == Kind::Text;
        let Some(at) = self.choose(|port| port.columns.iter().any(|one| is_text(&one))) else {
            return;
        };
        let (from, name) = (vec![self.read(at)], self.name('p'));
        let port = self.ports[at].clone();
        let texts: Vec<&Column> = port.columns.iter().filter(is_text).collect();
        let column = self.random.pick(&texts).name.clone();
        let (letter, digit) = (self.name('c'), self.name('c'));
        let regex = quoted(&format!("^(?<{letter}>[a-z])(?<{digit}>[0-9])?"));
        let body =
            format!("parse: {{ column: {column}, regex: {regex}, fields: {{ {digit}: int }} }}");
        let mut columns = port.columns.clone();
        columns.push(Column { name: letter, kind: Kind::Text });
        columns.push(Column { name: digit, kind: Kind::Int });
        let like = Port { by: Vec::new(), of_one_file: false, readers: 0, ..port };
        let mut ports = vec![Port { name: name.clone(), columns, ..like.clone() }];
        if chance(self.random, 40) {
            ports.push(Port { name: format!("{name}.unmatched"), ..like });
        }
        self.push(name, from, body, ports);
    }

    fn aggregate(&mut self) {
        let Some((from, port)) = self.inputs() else { return };
        let name = self.name('a');
        let mut by = Vec::new();
        let mut columns: Vec<Column> = Vec::new();
        for _ in 0..self.random.below(3) {
            let column = self.random.pick(&port.columns).clone();
            if chance(self.random, 75) {
                if !columns.contains(&column) {
                    by.push((column.name.clone(), None));
                    columns.push(column);
                }
            } else {
                let (sql, kind) = value(&port.columns, self.random);
                let name = self.name('c');
                by.push((name.clone(), Some(sql)));
                columns.push(Column { name, kind });
            }
        }
        let keys = columns.iter().map(|column| column.name.clone()).collect();
        let mut compute = Vec::new();
        for _ in 0..=self.random.below(3) {
            let (sql, kind) = self.computed(&port);
            let name = self.name('c');
            compute.push(format!("{name}: {}", quoted(&sql)));
            columns.push(Column { name, kind });
        }
        let of_one_file = port.has_place && chance(self.random, 20);
        let per = if of_one_file { ", per: file" } else { "" };
        let (by, compute) = (listed(&by), compute.join(", "));
        let body = format!("aggregate: {{ by: {by}, compute: {{ {compute} }}{per} }}");
        let port = Port {
            name: name.clone(),
            columns,
            by: keys,
            has_place: of_one_file,
            has_raw: false,
            changes: true,
            of_one_file,
            is_multiplied: false,
            readers: 0,
        };
        self.push(name, from, body, vec![port]);
    }

    fn dedupe(&mut self) {
        let Some((from, port)) = self.inputs() else { return };
        let name = self.name('d');
        let by = self.keys(&port, 1);
        let mut body = format!("by: {by}, keep: {}", self.random.pick(&["first", "last"]));
        if !port.has_place || chance(self.random, 60) {
            body += &format!(", order: {}", self.order(&port.columns));
        }
        let body = format!("dedupe: {{ {body} }}");
        let port = Port { name: name.clone(), by: Vec::new(), changes: true, ..port };
        let mut ports = vec![port.clone()];
        if chance(self.random, 35) {
            ports.push(Port { name: format!("{name}.duplicates"), ..port });
        }
        self.push(name, from, body, ports);
    }

    fn top(&mut self) {
        let Some((from, mut port)) = self.inputs() else { return };
        let name = self.name('t');
        let by = if chance(self.random, 30) { "[]".to_owned() } else { self.keys(&port, 1) };
        let order = self.order(&port.columns);
        let mut body = format!("k: {}, by: {by}, order: {order}", 1 + self.random.below(4));
        if chance(self.random, 40) {
            let rank = self.name('c');
            body += &format!(", rank: {rank}");
            port.columns.push(Column { name: rank, kind: Kind::Int });
        }
        let body = format!("top: {{ {body} }}");
        let ports = vec![Port { name: name.clone(), by: Vec::new(), changes: true, ..port }];
        self.push(name, from, body, ports);
    }

    fn join(&mut self) {
        let Some((from, mut port)) = self.inputs() else { return };
        let left = port.columns.clone();
        let meets = |other: &Port| other.columns.iter().any(|column| left.contains(column));
        let Some(at) = self.choose(meets) else { return };
        let (with, name) = (self.read(at), self.name('j'));
        let right = self.ports[at].columns.clone();
        port.has_raw &= self.ports[at].has_raw;
        let common: Vec<&Column> = right.iter().filter(|column| left.contains(column)).collect();
        let on = self.random.pick(&common).name.clone();
        let kind = *self.random.pick(&["inner", "left", "semi", "anti"]);
        // Where a side was multiplied already, a handful of small files would make millions of rows.
        let kind = match kind {
            "inner" if port.is_multiplied || self.ports[at].is_multiplied => "semi",
            "left" if port.is_multiplied || self.ports[at].is_multiplied => "anti",
            kind => kind,
        };
        let mut body = format!("with: {with}, on: [{on}], kind: {kind}");
        if matches!(kind, "inner" | "left") {
            port.is_multiplied = true;
            let mut take = Vec::new();
            for _ in 0..=self.random.below(2) {
                let column = self.random.pick(&right).clone();
                let name = self.name('c');
                take.push(format!("{name}: {}", column.name));
                port.columns.push(Column { name, kind: column.kind });
            }
            body += &format!(", take: {{ {} }}", take.join(", "));
        }
        let body = format!("join: {{ {body} }}");
        let ports = vec![Port { name: name.clone(), by: Vec::new(), changes: true, ..port }];
        self.push(name, from, body, ports);
        if let Some(operator) = self.operators.last_mut() {
            operator.with.push(with);
        }
    }

    /// Returns one or two columns, or values, as a list.
    pub(super) fn keys(&mut self, port: &Port, least: u64) -> String {
        let columns = &port.columns;
        let mut keys: Vec<(String, Option<String>)> = Vec::new();
        for _ in 0..least + self.random.below(2) {
            let column = self.random.pick(columns).name.clone();
            if chance(self.random, 85) {
                if !keys.iter().any(|(name, _)| *name == column) {
                    keys.push((column, None));
                }
            } else {
                let (sql, _) = value(columns, self.random);
                keys.push((self.name('c'), Some(sql)));
            }
        }
        listed(&keys)
    }

    /// Returns one or two terms to order by, as a list.
    pub(super) fn order(&mut self, columns: &[Column]) -> String {
        let mut terms: Vec<String> = Vec::new();
        for _ in 0..=self.random.below(2) {
            let column = self.random.pick(columns).name.clone();
            let suffix = self.random.pick(&["", " desc", " desc nulls first", " nulls last"]);
            if !terms.iter().any(|term| term.trim_matches('"').starts_with(&column)) {
                terms.push(quoted(&format!("{column}{suffix}")));
            }
        }
        format!("[{}]", terms.join(", "))
    }

    fn window(&mut self) {
        let Some((at, on)) = self.with_time() else { return };
        let (from, name) = (vec![self.read(at)], self.name('w'));
        let kinds = ["tumbling: 20m", "tumbling: 1h", "hopping: { size: 30m, every: 10m }"];
        let body = format!("window: {{ on: {on}, {} }}", self.random.pick(&kinds));
        let port = self.ports[at].in_windows(&name);
        self.push(name, from, body, vec![port]);
    }

    fn explode(&mut self) {
        let is_text = |column: &&Column| column.kind == Kind::Text;
        let Some(at) = self.choose(|port| port.columns.iter().any(|one| is_text(&one))) else {
            return;
        };
        let (from, name) = (vec![self.read(at)], self.name('e'));
        let port = self.ports[at].clone();
        let texts: Vec<&Column> = port.columns.iter().filter(is_text).collect();
        let tags = texts.iter().find(|column| column.name == "tags");
        let column = tags.unwrap_or(self.random.pick(&texts)).name.clone();
        let body = format!("explode: {{ column: {column}, split: \",\" }}");
        let (name_of, by) = (name.clone(), Vec::new());
        let ports = vec![Port { name: name_of, by, of_one_file: false, readers: 0, ..port }];
        self.push(name, from, body, ports);
    }

    /// Returns what an aggregate computes, and its type.
    fn computed(&mut self, port: &Port) -> (String, Kind) {
        if chance(self.random, 20) {
            return ("count(*)".to_owned(), Kind::Int);
        }
        let column = self.random.pick(&port.columns).clone();
        let other = self.random.pick(&port.columns).clone();
        let (x, kind) = (&column.name, column.kind);
        // Nobody is the least of two truths.
        let (x2, has_order) = (&other.name, other.kind != Kind::Bool);
        let is_number = matches!(kind, Kind::Int | Kind::Float);
        match self.random.below(12) {
            0 if is_number => (format!("avg({x})"), Kind::Float),
            1 if kind != Kind::Bool => (format!("min({x})"), kind),
            2 if kind != Kind::Bool => (format!("max({x})"), kind),
            3 => (format!("count(distinct {x})"), Kind::Int),
            4 if port.has_place => (format!("first({x})"), kind),
            5 if port.has_place => (format!("last({x})"), kind),
            6 if has_order => (format!("first({x} order by {x2} desc)"), kind),
            7 if has_order => (format!("arg_max({x}, {x2})"), kind),
            8 if is_number => (format!("stddev({x})"), Kind::Float),
            9 => (format!("approx_distinct({x})"), Kind::Int),
            10 if is_number => (format!("approx_quantile({x}, 0.5)"), Kind::Float),
            _ if is_number => (format!("sum({x})"), kind),
            _ => (format!("count({x})"), Kind::Int),
        }
    }
}
