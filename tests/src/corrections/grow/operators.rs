//! Operators: one random operator of each kind that fits a port.

use super::sql::{condition, value};
use super::{Growing, Port, listed};
use crate::corrections::files::chance;
use crate::corrections::pipeline::{Column, Kind, Operator, quoted};

/// How often each kind of operator is tried, of the sum of all.
const KINDS: [(u64, fn(&mut Growing<'_>)); 5] = [
    (2, |growing| growing.filter()),
    (3, |growing| growing.select()),
    (3, |growing| growing.route()),
    (1, |growing| growing.parse()),
    (6, |growing| growing.aggregate()),
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
    fn push(&mut self, name: String, from: Vec<String>, body: String, ports: Vec<Port>) {
        let names = ports.iter().map(|port| port.name.clone()).collect();
        self.operators.push(Operator { name, from, with: Vec::new(), body, ports: names });
        self.ports.extend(ports);
    }

    /// Chooses a port, and with luck a second one with the same columns.
    fn inputs(&mut self) -> Option<(Vec<String>, Port)> {
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
                port.by.clear();
            }
        }
        port.readers = 0;
        Some((from, port))
    }

    fn filter(&mut self) {
        let Some((from, port)) = self.inputs() else { return };
        let name = self.name('f');
        let body = format!("filter: {}", quoted(&condition(&port.columns, self.random)));
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
            rules.push(format!("{tag}: {}", quoted(&condition(&port.columns, self.random))));
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
        let like = Port { by: Vec::new(), readers: 0, ..port };
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
        let body =
            format!("aggregate: {{ by: {}, compute: {{ {} }} }}", listed(&by), compute.join(", "));
        let port = Port {
            name: name.clone(),
            columns,
            by: keys,
            has_place: false,
            has_raw: false,
            changes: true,
            readers: 0,
        };
        self.push(name, from, body, vec![port]);
    }

    /// Returns what an aggregate computes, and its type.
    fn computed(&mut self, port: &Port) -> (String, Kind) {
        if chance(self.random, 20) {
            return ("count(*)".to_owned(), Kind::Int);
        }
        let column = self.random.pick(&port.columns).clone();
        let (x, kind) = (&column.name, column.kind);
        let is_number = matches!(kind, Kind::Int | Kind::Float);
        match self.random.below(5) {
            0 => (format!("count({x})"), Kind::Int),
            1 if is_number => (format!("avg({x})"), Kind::Float),
            2 if !port.changes && kind != Kind::Bool => (format!("min({x})"), kind),
            3 if !port.changes && kind != Kind::Bool => (format!("max({x})"), kind),
            _ if is_number => (format!("sum({x})"), kind),
            _ => (format!("count({x})"), Kind::Int),
        }
    }
}
