//! Graph: a pipeline of tags, loops and state as data, and random ones that check.
//!
//! A loop is grown whole: its head, what stands in it (loops again, perhaps), and which of the ports
//! that are open then lead back. So it is entered at its head, as `check` wants it. How it is written
//! is in [`super::yaml`].

use std::collections::BTreeSet;

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
    /// Sends records out by a tag that is drawn for their `id`.
    Lots {
        /// The weight of each tag.
        weights: Vec<u64>,
        /// How it is written.
        word: Draw,
    },
    /// Rejects records of which `b % modulus` is 0, by a division.
    Trip {
        /// Divided by what.
        modulus: i64,
    },
    /// Adds `b` up by `a % modulus`, and keeps the least `id`.
    Aggregate {
        /// Divided by what.
        modulus: i64,
    },
    /// Keeps the first record, by `id`, `a` and `b`, of each `b % modulus`.
    Dedupe {
        /// Divided by what.
        modulus: i64,
        /// Whether the others are read.
        both: bool,
    },
    /// Keeps the first records, by `b`, `id` and `a`, of each `a % modulus`.
    Top {
        /// How many.
        count: usize,
        /// Divided by what.
        modulus: i64,
    },
    /// Two states, by `a % modulus`: an even `b` leads from the first to the second, anything back.
    Toggle {
        /// Divided by what.
        modulus: i64,
    },
    /// Puts records together with those of another port that have the same `a`.
    Join {
        /// Which come out.
        kind: Kind,
        /// The other side.
        with: Port,
    },
}

/// The ways in which a draw is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Draw {
    /// `split`, all alike.
    Split,
    /// `sample`, two tags, in parts of a million.
    Sample,
    /// `weighted`.
    Weighted,
}

/// The kinds of a join.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Each pair; the `b` of the other side is added to `a`.
    Inner,
    /// The same, and those without a partner as they are.
    Left,
    /// Those with a partner.
    Semi,
    /// Those without.
    Anti,
}

/// A port: a node, or the sources, which are 0 and come before them; and the number of its port.
pub type Port = (usize, usize);

/// The records.
pub const ROWS: Port = (0, 0);

/// What records are joined with, in files of their own.
pub const LOOKUPS: Port = (0, 1);

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
    /// The port that nobody wants.
    pub dropped: Option<usize>,
}

impl Node {
    /// Returns how many ports it has.
    pub fn ports(&self) -> usize {
        match &self.work {
            Work::Route { rules, otherwise, .. } => rules.len() + usize::from(*otherwise),
            Work::Lots { weights, .. } => weights.len(),
            Work::Dedupe { both, .. } => 1 + usize::from(*both),
            Work::Toggle { .. } => 2,
            _ => 1,
        }
    }

    /// Returns whether it keeps something of one file for the next.
    pub fn keeps_state(&self) -> bool {
        matches!(
            self.work,
            Work::Aggregate { .. }
                | Work::Dedupe { .. }
                | Work::Top { .. }
                | Work::Toggle { .. }
                | Work::Join { .. }
        )
    }

    /// Returns all that it reads.
    pub fn reads(&self) -> impl Iterator<Item = Port> + '_ {
        let with = if let Work::Join { with, .. } = &self.work { Some(*with) } else { None };
        self.from.iter().copied().chain(with)
    }
}

/// A pipeline.
#[derive(Clone, Debug)]
pub struct Graph {
    /// Its name.
    pub name: String,
    /// Its operators; the first one is number 1.
    pub nodes: Vec<Node>,
    /// What each sink reads: only ports behind state, or only others.
    pub sinks: Vec<Vec<Port>>,
}

impl Graph {
    /// Returns a random pipeline; some keep no state.
    pub fn random(name: &str, random: &mut Random) -> Self {
        let stateful = chance(random, 60);
        let (nodes, around) = (Vec::new(), Vec::new());
        let mut growing = Growing { random, nodes, around, left: 9, stateful };
        let mut open = vec![ROWS];
        while growing.left > 0 && !open.is_empty() {
            open = growing.part(open);
        }
        let Growing { mut nodes, random, .. } = growing;
        let rounds = [1, 2, 3, 5, 9];
        for node in nodes.iter_mut().filter(|one| one.max_rounds.is_some()) {
            node.max_rounds = Some(*random.pick(&rounds));
        }
        let mut graph = Self { name: name.to_owned(), nodes, sinks: Vec::new() };
        graph.leave_loops();
        open.sort_unstable();
        for port in open {
            graph.sink(port, chance(random, 30));
        }
        if graph.sinks.is_empty() {
            // Everything went back: the head of the first loop is read too.
            let heads = graph.nodes.iter().position(|one| one.max_rounds.is_some());
            graph.sink(graph.first_port(heads.unwrap_or_default() + 1), false);
        }
        for head in 1..=graph.nodes.len() {
            if graph.nodes[head - 1].max_rounds.is_some() && !graph.leaves(head) {
                graph.sink(graph.first_port(head), false);
            }
        }
        graph
    }

    /// Takes out of each loop what was grown in it and never leads back to its head: it is behind it.
    fn leave_loops(&mut self) {
        for head in 1..=self.nodes.len() {
            let grown = |node: usize| node > 0 && self.nodes[node - 1].around.contains(&head);
            let mut inside = BTreeSet::from([head]);
            loop {
                let known = inside.clone();
                let read = known.iter().flat_map(|node| self.nodes[node - 1].reads());
                inside.extend(read.map(|port| port.0).filter(|node| grown(*node)));
                if inside.len() == known.len() {
                    break;
                }
            }
            for (at, node) in self.nodes.iter_mut().enumerate() {
                node.around.retain(|one| *one != head || inside.contains(&(at + 1)));
            }
        }
    }

    /// Returns the first port of a node that is not dropped.
    fn first_port(&self, node: usize) -> Port {
        (node, usize::from(self.nodes[node - 1].dropped == Some(0)))
    }

    /// Lets a sink read a port: the last one, if that may be, or one of its own.
    fn sink(&mut self, port: Port, shared: bool) {
        let changes = self.changes(port);
        let last = self.sinks.last().is_some_and(|last| self.changes(last[0]) == changes);
        match self.sinks.last_mut().filter(|_| shared && last) {
            Some(last) if last.contains(&port) => {}
            Some(last) => last.push(port),
            None => self.sinks.push(vec![port]),
        }
    }

    /// Returns whether something reads files of this name.
    pub fn takes(&self, name: &str) -> bool {
        name.starts_with('f')
            || self.nodes.iter().any(|node| node.reads().any(|port| port == LOOKUPS))
    }

    /// Returns whether some operator keeps state.
    pub fn keeps_state(&self) -> bool {
        self.nodes.iter().any(Node::keeps_state)
    }

    /// Returns whether a later file can change what came out of a port.
    pub fn changes(&self, (node, _): Port) -> bool {
        if node == 0 {
            return false;
        }
        let one = &self.nodes[node - 1];
        let in_loop = |head: &usize| {
            self.nodes.iter().any(|one| one.around.contains(head) && one.keeps_state())
        };
        // What goes back comes from later nodes, and then the loop has said it.
        one.keeps_state()
            || one.around.iter().any(in_loop)
            || one.reads().any(|port| port.0 < node && self.changes(port))
    }

    /// Returns how many rounds rows that change go through in loops inside of each other.
    pub fn rounds_of_state(&self) -> u64 {
        let rounds = |head: &usize| self.nodes[head - 1].max_rounds.unwrap_or_default() + 1;
        let changing = (1..=self.nodes.len()).filter(|node| self.changes((*node, 0)));
        changing
            .map(|node| self.nodes[node - 1].around.iter().map(rounds).product())
            .max()
            .unwrap_or(1)
    }

    /// Returns whether something outside of a loop reads from it, or it has an operator that leaves
    /// records out.
    fn leaves(&self, head: usize) -> bool {
        let inside = |node: usize| node > 0 && self.nodes[node - 1].around.contains(&head);
        let reads = |from: &[Port]| from.iter().any(|(node, _)| inside(*node));
        let outside = |one: &&Node| !one.around.contains(&head);
        let body = self.nodes.iter().filter(|one| one.around.contains(&head));
        self.sinks.iter().any(|from| reads(from))
            || self.nodes.iter().filter(outside).any(|one| one.reads().any(|one| inside(one.0)))
            || body.into_iter().any(|one| match &one.work {
                Work::Filter(_) | Work::Top { .. } => true,
                Work::Join { kind, .. } => *kind != Kind::Left,
                Work::Route { otherwise, .. } => !otherwise,
                _ => false,
            })
    }
}

struct Growing<'r> {
    random: &'r mut Random,
    nodes: Vec<Node>,
    around: Vec<usize>,
    /// How many more parts there may be.
    left: u64,
    stateful: bool,
}

impl Growing<'_> {
    /// Adds an operator or a loop that reads some of the open ports; returns those that are open then.
    fn part(&mut self, mut open: Vec<Port>) -> Vec<Port> {
        self.left = self.left.saturating_sub(1);
        let mut from = vec![open.swap_remove(self.random.below(open.len() as u64) as usize)];
        if chance(self.random, 15) {
            // All tags of one operator come together again.
            let of = from[0].0;
            from.extend(open.extract_if(.., |port| port.0 == of));
        } else if !open.is_empty() && chance(self.random, 25) {
            from.push(open.swap_remove(self.random.below(open.len() as u64) as usize));
        }
        from.sort_unstable();
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

    /// Adds an operator; returns the ports that somebody has to read.
    fn operator(&mut self, from: Vec<Port>, max_rounds: Option<u64>) -> Vec<Port> {
        let work = self.work(max_rounds.is_some());
        let number = self.nodes.len() + 1;
        let mut around = self.around.clone();
        around.extend(max_rounds.map(|_| number));
        let mut node = Node { from, work, max_rounds, around, dropped: None };
        let ports = node.ports();
        let tagged = matches!(node.work, Work::Route { .. } | Work::Lots { .. });
        if tagged && ports > 1 && chance(self.random, 15) {
            node.dropped = Some(self.random.below(ports as u64) as usize);
        }
        let dropped = node.dropped;
        self.nodes.push(node);
        (0..ports).filter(|port| Some(*port) != dropped).map(|port| (number, port)).collect()
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
            back.push((head, usize::from(self.nodes[head - 1].dropped == Some(0))));
        }
        let head = &mut self.nodes[head - 1];
        head.from.extend(back);
        head.from.sort_unstable();
        head.from.dedup();
        open
    }

    fn work(&mut self, is_head: bool) -> Work {
        if self.stateful && chance(self.random, 40) {
            return self.state(is_head);
        }
        let random = &mut *self.random;
        match random.below(14) {
            0 => Work::Filter(condition(random)),
            1 => Work::Trip { modulus: 7 + random.below(20) as i64 },
            2..=5 => Work::Select {
                factor: 1 + random.below(5) as i64,
                more: (random.below(50) as i64, random.below(50) as i64),
            },
            6 | 7 => lots(random),
            _ => Work::Route {
                rules: (0..=random.below(3)).map(|_| condition(random)).collect(),
                otherwise: chance(random, 80),
                all: chance(random, 20),
            },
        }
    }

    fn state(&mut self, is_head: bool) -> Work {
        let random = &mut *self.random;
        let modulus = 1 + random.below(6) as i64;
        match random.below(6) {
            0 => Work::Aggregate { modulus },
            1 => Work::Dedupe { modulus, both: chance(random, 50) },
            2 => Work::Top { count: 1 + random.below(4) as usize, modulus },
            3 => Work::Toggle { modulus },
            _ => {
                // Those that take something have an operator behind them, which goes for the head.
                let kinds = [Kind::Semi, Kind::Anti, Kind::Inner, Kind::Left];
                let kind = *random.pick(if is_head { &kinds[..2] } else { &kinds });
                let earlier = random.below(2 * self.nodes.len() as u64 + 1) as usize;
                let with = match self.nodes.get(earlier) {
                    Some(node) => {
                        let port = random.below(node.ports() as u64) as usize;
                        let port = if node.dropped == Some(port) { 1 - port.min(1) } else { port };
                        (earlier + 1, port)
                    }
                    None => LOOKUPS,
                };
                Work::Join { kind, with }
            }
        }
    }
}

fn lots(random: &mut Random) -> Work {
    let word = *random.pick(&[Draw::Split, Draw::Sample, Draw::Weighted]);
    let weights = match word {
        Draw::Split => vec![1; 2 + random.below(3) as usize],
        Draw::Sample => {
            let share = 100_000 * (1 + random.below(9));
            vec![share, 1_000_000 - share]
        }
        Draw::Weighted => (0..2 + random.below(2)).map(|_| 1 + random.below(9)).collect(),
    };
    Work::Lots { weights, word }
}

fn condition(random: &mut Random) -> Condition {
    let modulus = 2 + random.below(6) as i64;
    let below = 1 + random.below(modulus as u64 - 1) as i64;
    Condition { of_b: chance(random, 40), modulus, below }
}
