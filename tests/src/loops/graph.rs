//! Graph: a pipeline with loops as data, and random ones that check.
//!
//! A loop is grown whole: its head, what stands in it (loops again, perhaps), and which of the ports
//! that are open then lead back. So it is entered at its head, as `check` wants it.

use std::fmt::Write as _;

use tidemill_bench::random::Random;

use crate::corrections::files::chance;

/// Loops inside of loops, at most.
const DEPTH_MAX: usize = 3;

/// A condition on a record: `column % modulus < below`.
#[derive(Clone, Debug)]
pub struct Condition {
    /// Whether it is `b` that is asked, not `a`.
    pub of_b: bool,
    /// Divided by what.
    pub modulus: i64,
    /// Rests below this one are true.
    pub below: i64,
}

/// What an operator does.
#[derive(Clone, Debug)]
pub enum Work {
    /// Lets records through.
    Filter(Condition),
    /// `a: (a * f + b + s) % 97, b: (b + t) % 89`
    Select {
        /// What `a` is multiplied by.
        factor: i64,
        /// What is added to `a`, and to `b`.
        more: (i64, i64),
    },
    /// Sends records out by tag.
    Route {
        /// The rules; the tag of rule `i` is `t<i>`.
        rules: Vec<Condition>,
        /// Whether the rest has a tag, which is the last one.
        otherwise: bool,
        /// Whether every rule counts.
        all: bool,
    },
    /// Rejects records of which `b % modulus` is 0, by a division.
    Trip {
        /// Divided by what.
        modulus: i64,
    },
}

/// A port: a node, or the source, which is 0 and comes before them; and the number of its port.
pub type Port = (usize, usize);

/// An operator.
#[derive(Clone, Debug)]
pub struct Node {
    /// What it reads; nodes are numbered from 1.
    pub from: Vec<Port>,
    /// What it does.
    pub work: Work,
    /// How often a record goes round at most, for the head of a loop.
    pub max_rounds: Option<u64>,
    /// The heads of the loops around it, outermost first; its own, if it is one, is the last.
    pub around: Vec<usize>,
}

impl Node {
    /// Returns how many ports it has.
    pub fn ports(&self) -> usize {
        match &self.work {
            Work::Route { rules, otherwise, .. } => rules.len() + usize::from(*otherwise),
            _ => 1,
        }
    }
}

/// A pipeline.
#[derive(Clone, Debug)]
pub struct Graph {
    /// Its name.
    pub name: String,
    /// Its operators; the first one is number 1.
    pub nodes: Vec<Node>,
    /// What each sink reads.
    pub sinks: Vec<Vec<Port>>,
}

impl Graph {
    /// Returns a random pipeline.
    pub fn random(name: &str, random: &mut Random) -> Self {
        let mut growing = Growing { random, nodes: Vec::new(), around: Vec::new(), left: 9 };
        let mut open = vec![(0, 0)];
        while growing.left > 0 && !open.is_empty() {
            open = growing.part(open);
        }
        let Growing { mut nodes, random, .. } = growing;
        let mut sinks: Vec<Vec<Port>> = Vec::new();
        open.sort_unstable();
        for port in open {
            match sinks.last_mut().filter(|_| chance(random, 30)) {
                Some(last) => last.push(port),
                None => sinks.push(vec![port]),
            }
        }
        sinks.iter_mut().for_each(Vec::dedup);
        if sinks.is_empty() {
            // Everything went back: the head of the first loop is read too.
            let first = nodes.iter().position(|one| one.max_rounds.is_some()).unwrap_or_default();
            sinks.push(vec![(first + 1, 0)]);
        }
        for head in 1..=nodes.len() {
            if nodes[head - 1].max_rounds.is_some() && !leaves(&nodes, &sinks, head) {
                sinks.push(vec![(head, 0)]);
            }
        }
        let rounds = [1, 2, 3, 5, 9];
        for node in nodes.iter_mut().filter(|one| one.max_rounds.is_some()) {
            node.max_rounds = Some(*random.pick(&rounds));
        }
        Self { name: name.to_owned(), nodes, sinks }
    }

    fn port(&self, (node, port): Port) -> String {
        if node == 0 {
            return "rows".to_owned();
        }
        match &self.nodes[node - 1].work {
            Work::Route { .. } => format!("n{node}.t{port}"),
            _ => format!("n{node}"),
        }
    }

    /// Returns the pipeline file.
    pub fn yaml(&self) -> String {
        let mut text = format!(
            "pipeline: {}\nsources:\n  rows: {{ format: csv, fields: {{ id: int, a: int, b: int }} }}\n\
             operators:\n",
            self.name
        );
        let ports = |ports: &[Port]| -> String {
            ports.iter().map(|port| self.port(*port)).collect::<Vec<_>>().join(", ")
        };
        let sql = |one: &Condition| {
            let column = if one.of_b { "b" } else { "a" };
            format!("{column} % {} < {}", one.modulus, one.below)
        };
        for (at, node) in self.nodes.iter().enumerate() {
            let rounds = node.max_rounds.map(|most| format!("max_rounds: {most}, "));
            let work = match &node.work {
                Work::Filter(condition) => format!("filter: \"{}\"", sql(condition)),
                Work::Select { factor, more: (a, b) } => format!(
                    "select: {{ id: id, a: \"(a * {factor} + b + {a}) % 97\", b: \"(b + {b}) % 89\" }}"
                ),
                Work::Trip { modulus } => {
                    format!("select: {{ id: id, a: \"a + 0 / (b % {modulus})\", b: b }}")
                }
                Work::Route { rules, otherwise, all } => {
                    let mut tags: Vec<String> = rules
                        .iter()
                        .enumerate()
                        .map(|(tag, rule)| format!("t{tag}: \"{}\"", sql(rule)))
                        .collect();
                    tags.extend(otherwise.then(|| format!("t{}: else", rules.len())));
                    let all = if *all { "match: all, " } else { "" };
                    format!("{all}route: {{ {} }}", tags.join(", "))
                }
            };
            let (from, rounds) = (ports(&node.from), rounds.unwrap_or_default());
            let _ = writeln!(text, "  n{}: {{ from: [{from}], {rounds}{work} }}", at + 1);
        }
        text += "sinks:\n";
        for (at, from) in self.sinks.iter().enumerate() {
            let from = ports(from);
            let _ = writeln!(text, "  o{at}: {{ from: [{from}], files: {{ format: csv }} }}");
        }
        text
    }
}

/// Returns whether something outside of a loop reads from it, or it has an operator that leaves
/// records out.
fn leaves(nodes: &[Node], sinks: &[Vec<Port>], head: usize) -> bool {
    let inside = |node: usize| node > 0 && nodes[node - 1].around.contains(&head);
    let reads = |from: &[Port]| from.iter().any(|(node, _)| inside(*node));
    sinks.iter().any(|from| reads(from))
        || nodes.iter().any(|one| !one.around.contains(&head) && reads(&one.from))
        || nodes.iter().filter(|one| one.around.contains(&head)).any(|one| match &one.work {
            Work::Filter(_) => true,
            Work::Route { otherwise, .. } => !otherwise,
            Work::Select { .. } | Work::Trip { .. } => false,
        })
}

struct Growing<'r> {
    random: &'r mut Random,
    nodes: Vec<Node>,
    around: Vec<usize>,
    /// How many more parts there may be.
    left: u64,
}

impl Growing<'_> {
    /// Adds an operator or a loop that reads some of the open ports; returns those that are open then.
    fn part(&mut self, mut open: Vec<Port>) -> Vec<Port> {
        self.left = self.left.saturating_sub(1);
        let mut from = vec![open.swap_remove(self.random.below(open.len() as u64) as usize)];
        if !open.is_empty() && chance(self.random, 25) {
            from.push(open.swap_remove(self.random.below(open.len() as u64) as usize));
        }
        from.dedup();
        if chance(self.random, 8) {
            // Read once more: fan-out.
            open.push(from[0]);
        }
        if self.around.len() < DEPTH_MAX && self.nodes.len() < 16 && chance(self.random, 50) {
            open.extend(self.round(from));
        } else {
            open.extend(self.operator(from, None));
        }
        open
    }

    /// Adds an operator; returns its ports.
    fn operator(&mut self, from: Vec<Port>, max_rounds: Option<u64>) -> Vec<Port> {
        let work = self.work();
        let number = self.nodes.len() + 1;
        let mut around = self.around.clone();
        around.extend(max_rounds.map(|_| number));
        self.nodes.push(Node { from, work, max_rounds, around });
        (0..self.nodes[number - 1].ports()).map(|port| (number, port)).collect()
    }

    /// Adds a loop; returns the ports by which records leave it.
    fn round(&mut self, from: Vec<Port>) -> Vec<Port> {
        let head = self.nodes.len() + 1;
        let mut open = self.operator(from, Some(1));
        self.around.push(head);
        for _ in 0..self.random.below(4) {
            if self.left > 0 && !open.is_empty() {
                open = self.part(open);
            }
        }
        self.around.pop();
        // The ports of inner loops may lead back as well as those of the body itself.
        let mut back = Vec::new();
        while !open.is_empty() && (back.is_empty() || chance(self.random, 25)) {
            back.push(open.swap_remove(self.random.below(open.len() as u64) as usize));
        }
        if back.is_empty() {
            back.push((head, 0));
        }
        let head = &mut self.nodes[head - 1];
        head.from.extend(back);
        head.from.sort_unstable();
        head.from.dedup();
        open
    }

    fn work(&mut self) -> Work {
        let random = &mut *self.random;
        match random.below(12) {
            0 => Work::Filter(condition(random)),
            1 => Work::Trip { modulus: 7 + random.below(20) as i64 },
            2..=5 => Work::Select {
                factor: 1 + random.below(5) as i64,
                more: (random.below(50) as i64, random.below(50) as i64),
            },
            _ => Work::Route {
                rules: (0..=random.below(3)).map(|_| condition(random)).collect(),
                otherwise: chance(random, 80),
                all: chance(random, 20),
            },
        }
    }
}

fn condition(random: &mut Random) -> Condition {
    let modulus = 2 + random.below(6) as i64;
    let below = 1 + random.below(modulus as u64 - 1) as i64;
    Condition { of_b: chance(random, 40), modulus, below }
}
