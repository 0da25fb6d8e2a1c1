//! Timed: operators over rows in an order or in rounds: machines, sessions, loops; and splits.

use super::sql::condition;
use super::{Growing, Port, listed};
use crate::corrections::files::chance;
use crate::corrections::pipeline::{Column, Kind, Operator, quoted};

/// The columns that a window adds.
const BOUNDS: [&str; 2] = ["window_start", "window_end"];

impl Growing<'_> {
    /// Adds a machine for each key.
    pub(super) fn state(&mut self) {
        let Some((from, port)) = self.inputs() else { return };
        let key = self.keys(&port, 1);
        let order = self.order(&port.columns);
        self.machine(from, port, &format!("key: {key}, order: {order}"));
    }

    /// Adds a machine that makes final what is older than the newest record of its key by a while.
    pub(super) fn state_with_horizon(&mut self) {
        let from = vec![self.read(0)];
        let port = Port { readers: 0, ..self.ports[0].clone() };
        let horizon = *self.random.pick(&["20m", "45m"]);
        self.machine(from, port, &format!("key: [g], order: [t], horizon: {horizon}"));
    }

    fn machine(&mut self, from: Vec<String>, mut port: Port, how: &str) {
        let (name, count, added) = (self.name('u'), self.name('v'), self.name('c'));
        // What fails in a machine is told of its key, in the file that made it so, for good.
        let calm = |sql: String| sql.replace("12 / ", "12 - ");
        let mut when = || quoted(&calm(condition(&port.columns, self.random)));
        let (first, second, third) = (when(), when(), when());
        let body = format!(
            "state: {{ {how}, initial: low, vars: {{ {count}: {{ type: int, initial: 0 }} }}, \
             transitions: [ \
             {{ from: low, when: {first}, set: {{ {count}: \"{count} + 1\" }}, goto: high }}, \
             {{ from: high, when: {second}, set: {{ {count}: 0 }}, goto: low, emit: odd }}, \
             {{ when: {third}, set: {{ {count}: \"{count} + 2\" }} }} ], \
             add: {{ {added}: {count} }} }}"
        );
        port.columns.push(Column { name: added, kind: Kind::Int });
        let port = Port { by: Vec::new(), changes: true, ..port };
        let tag = |tag: &str| Port { name: format!("{name}.{tag}"), ..port.clone() };
        let ports = ["low", "high", "odd"].map(tag).to_vec();
        self.push(name, from, body, ports);
    }

    /// Adds windows that the records of a key make themselves.
    pub(super) fn session(&mut self) {
        let Some((at, on)) = self.with_time() else { return };
        let (from, name) = (vec![self.read(at)], self.name('w'));
        let port = self.ports[at].clone();
        let by = if chance(self.random, 15) { "[]".to_owned() } else { self.keys(&port, 1) };
        let gap = *self.random.pick(&["6m", "20m", "1h"]);
        let body = format!("window: {{ on: {on}, session: {{ gap: {gap}, by: {by} }} }}");
        let port = Port { changes: true, ..port.in_windows(&name) };
        self.push(name, from, body, vec![port]);
    }

    /// Adds a loop: what is small comes back, a little larger.
    pub(super) fn repeat(&mut self) {
        let is_number = |column: &&Column| column.kind == Kind::Int;
        let fits = |port: &Port| !port.changes && port.columns.iter().any(|one| is_number(&one));
        let Some(at) = self.choose(fits) else { return };
        let (from, head, back) = (self.read(at), self.name('l'), self.name('m'));
        let port = self.ports[at].clone();
        let numbers: Vec<&Column> = port.columns.iter().filter(is_number).collect();
        let number = self.random.pick(&numbers).name.clone();
        let columns = port.columns.iter().map(|column| {
            let larger = (column.name == number).then(|| format!("{number} + 2"));
            (column.name.clone(), larger)
        });
        let select = format!("select: {}", listed(&columns.collect::<Vec<_>>()));
        let limit = 1 + self.random.below(4);
        let route =
            format!("max_rounds: {limit}, route: {{ again: \"{number} < 3\", done: else }}");
        let again = format!("{head}.again");
        self.operators.push(Operator {
            name: head.clone(),
            from: vec![from, back.clone()],
            with: Vec::new(),
            body: route,
            ports: vec![again.clone(), format!("{head}.done")],
        });
        self.operators.push(Operator {
            name: back.clone(),
            from: vec![again],
            with: Vec::new(),
            body: select,
            ports: vec![back],
        });
        let name = format!("{head}.done");
        self.ports.push(Port { name, by: Vec::new(), of_one_file: false, readers: 0, ..port });
    }

    /// Adds a split by the hash of a key.
    pub(super) fn split(&mut self) {
        let Some((from, port)) = self.inputs() else { return };
        let name = self.name('h');
        let body = format!("split: {{ by: {}, into: 2 }}", self.keys(&port, 1));
        let tag = |tag: u8| Port { name: format!("{name}.{tag}"), by: Vec::new(), ..port.clone() };
        let ports = [0, 1].map(tag).to_vec();
        self.push(name, from, body, ports);
    }

    /// Chooses a port with a time and without windows, and one of its times.
    pub(super) fn with_time(&mut self) -> Option<(usize, String)> {
        let is_time = |column: &&Column| column.kind == Kind::Time;
        let at = self.choose(|port| {
            let is_bound = |column: &Column| BOUNDS.contains(&&*column.name);
            !port.columns.iter().any(is_bound) && port.columns.iter().any(|one| is_time(&one))
        })?;
        let times: Vec<&Column> = self.ports[at].columns.iter().filter(is_time).collect();
        let on = self.random.pick(&times).name.clone();
        Some((at, on))
    }
}

impl Port {
    /// Returns a port of this name with the bounds of windows besides.
    pub(super) fn in_windows(&self, name: &str) -> Self {
        let mut port = Self { name: name.to_owned(), by: Vec::new(), ..self.clone() };
        (port.readers, port.of_one_file) = (0, false);
        for bound in BOUNDS {
            port.columns.push(Column { name: bound.to_owned(), kind: Kind::Time });
        }
        port
    }
}
