//! Patterns: a `from` that names several ports at once (`"*.errors"`) becomes the names of those ports.
//! Derived from the spec.
//!
//! A pattern with a dot is matched against `NODE.TAG`, one without against sources and operators that
//! have an only output; neither `*` nor `?` stands for a dot. Rejected records and tags that are dropped
//! are only met when the tag is written out, or not at all. No port comes round to its own reader by a
//! pattern: where a reader and what it would read feed each other, the port is left out, on both sides.
//! So what a pattern means never depends on the order of a file.

use std::collections::{BTreeSet, HashMap};

use crate::diagnostic::{Mistakes, nearest, quoted};
use crate::graph::names::tags;
use crate::spec::{BodySpec, PipelineSpec, Text};

/// How many ports all patterns of a file may match together.
const MATCHES_MAX: usize = 20_000;
/// The longest pattern, in bytes.
const PATTERN_BYTES_MAX: usize = 160;

/// A source or operator, and by which names it can be read.
struct Node {
    name: String,
    /// Its place among the operators; none for a source.
    operator: Option<usize>,
    /// Its tags, `` for the only output; `None` when they are not known.
    tags: Option<Vec<String>>,
}

/// A port that a pattern matches.
#[derive(Clone)]
struct Match {
    name: String,
    operator: Option<usize>,
}

/// Returns whether a `from` is a pattern.
pub(crate) fn is_pattern(from: &str) -> bool {
    from.contains(['*', '?'])
}

/// Replaces each pattern by the names of the ports that it matches, sorted by name. A list in which one
/// matches nothing becomes unknown.
pub(crate) fn expand(spec: &mut PipelineSpec, mistakes: &mut Mistakes<'_>) {
    if !lists(spec).any(|from| from.iter().any(|text| is_pattern(&text.text))) {
        return;
    }
    let nodes = nodes(spec);
    let mut left = MATCHES_MAX;
    let found = |from: &[Text], left: &mut usize| -> Vec<Vec<Match>> {
        from.iter().map(|text| matches(&nodes, &text.text, left)).collect()
    };
    let operators: Vec<Vec<Vec<Match>>> = (spec.operators.iter())
        .map(|operator| {
            let reads: Vec<Text> =
                operator.from.iter().flatten().chain(operator.with()).cloned().collect();
            found(&reads, &mut left)
        })
        .collect();
    let sinks: Vec<Vec<Vec<Match>>> = (spec.sinks.iter())
        .map(|sink| found(sink.from.as_deref().unwrap_or_default(), &mut left))
        .collect();
    if left == 0 {
        let place = lists(spec).flatten().find(|text| is_pattern(&text.text));
        if let Some(place) = place {
            let message = format!("the patterns of this file match more than {MATCHES_MAX} ports");
            place.wrong(mistakes, message, Some("make them narrower".to_owned()));
        }
    }
    let circles = circles(spec, &nodes, &operators);
    for (at, operator) in spec.operators.iter_mut().enumerate() {
        let own = Reader { at: Some(at), circles: &circles, nodes: &nodes };
        let mut found = operators[at].iter();
        if let Some(from) = &mut operator.from {
            let count = from.len();
            if !own.replace(from, found.by_ref().take(count), mistakes) {
                operator.from = None;
            }
        }
        if let Some(BodySpec::Join(join)) = &mut operator.body
            && !own.replace(&mut join.with, found, mistakes)
        {
            operator.from = None; // what is unknown of a join is all of it
        }
    }
    for demand in &mut spec.demands {
        // What a group demands of a port it demands of all that a pattern matches.
        let ports = std::mem::take(&mut demand.ports);
        for text in ports {
            let one = |one: Match| Text { text: one.name, ..text.clone() };
            demand.ports.extend(matches(&nodes, &text.text, &mut left).into_iter().map(one));
        }
    }
    for (sink, found) in spec.sinks.iter_mut().zip(&sinks) {
        let own = Reader { at: None, circles: &circles, nodes: &nodes };
        if let Some(from) = &mut sink.from
            && !own.replace(from, found.iter(), mistakes)
        {
            sink.from = None;
        }
    }
}

/// Returns every list of names that are read.
fn lists(spec: &PipelineSpec) -> impl Iterator<Item = &[Text]> {
    let operators =
        spec.operators.iter().flat_map(|one| [one.from.as_deref().unwrap_or_default(), one.with()]);
    operators.chain(spec.sinks.iter().map(|sink| sink.from.as_deref().unwrap_or_default()))
}

fn nodes(spec: &PipelineSpec) -> Vec<Node> {
    let sources = spec.sources.iter().map(|source| Node {
        name: source.name.text.clone(),
        operator: None,
        tags: Some(vec![String::new()]),
    });
    let operators = spec.operators.iter().enumerate().map(|(at, operator)| Node {
        name: operator.name.text.clone(),
        operator: Some(at),
        tags: tags(operator).map(|tags| {
            let state = match &operator.body {
                Some(BodySpec::State(state)) => state.drop.as_slice(),
                _ => &[],
            };
            let dropped: BTreeSet<&str> =
                operator.drop.iter().chain(state).map(|tag| tag.text.as_str()).collect();
            let kept = tags.into_iter().filter(|tag| !dropped.contains(tag));
            kept.map(str::to_owned).collect()
        }),
    });
    sources.chain(operators).collect()
}

/// Returns the ports that a pattern matches, sorted by name; for a plain name nothing but itself.
fn matches(nodes: &[Node], pattern: &str, left: &mut usize) -> Vec<Match> {
    let (wanted, tag) = match pattern.split_once('.') {
        Some((wanted, tag)) => (wanted, Some(tag)),
        None => (pattern, None),
    };
    if !is_pattern(pattern) {
        let node = nodes.iter().find(|node| node.name == wanted);
        let operator = node.and_then(|node| node.operator);
        return vec![Match { name: pattern.to_owned(), operator }];
    }
    let mut found = Vec::new();
    if pattern.len() > PATTERN_BYTES_MAX {
        return found;
    }
    for node in nodes.iter().filter(|node| glob(wanted, &node.name)) {
        let tags = node.tags.iter().flatten().map(String::as_str);
        let hits: Vec<String> = match tag {
            None => tags.filter(|one| one.is_empty()).map(|_| node.name.clone()).collect(),
            Some("errors") => vec![format!("{}.errors", node.name)],
            Some(tag) => {
                let named = tags.filter(|one| !one.is_empty() && glob(tag, one));
                named.map(|one| format!("{}.{one}", node.name)).collect()
            }
        };
        let fresh = hits.into_iter().map(|name| Match { name, operator: node.operator });
        let fresh: Vec<Match> = fresh.take(*left).collect();
        *left -= fresh.len();
        found.extend(fresh);
    }
    found.sort_by(|one, two| one.name.cmp(&two.name));
    found
}

/// Returns whether a name fits a pattern of `*` (any characters) and `?` (one of them).
fn glob(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) =
        (pattern.chars().collect(), name.chars().collect());
    let (mut at, mut in_name) = (0, 0);
    // Where to go on when what follows the last star does not fit.
    let mut star: Option<(usize, usize)> = None;
    while in_name < name.len() {
        match pattern.get(at) {
            Some('*') => {
                star = Some((at, in_name));
                at += 1;
            }
            Some(next) if *next == '?' || *next == name[in_name] => {
                at += 1;
                in_name += 1;
            }
            _ => {
                let Some((from, taken)) = star else { return false };
                at = from + 1;
                in_name = taken + 1;
                star = Some((from, taken + 1));
            }
        }
    }
    pattern[at..].iter().all(|rest| *rest == '*')
}

/// Returns the number of the circle in which each operator stands, were every pattern to read all that
/// it matches: two operators feed each other if their numbers are equal.
fn circles(spec: &PipelineSpec, nodes: &[Node], reads: &[Vec<Vec<Match>>]) -> Vec<usize> {
    let count = spec.operators.len();
    let by_name: HashMap<&str, usize> =
        (nodes.iter()).filter_map(|node| Some((node.name.as_str(), node.operator?))).collect();
    let mut upstream: Vec<BTreeSet<usize>> = vec![BTreeSet::new(); count];
    for (at, reads) in reads.iter().enumerate() {
        for one in reads.iter().flatten() {
            let name = one.name.split('.').next().unwrap_or_default();
            upstream[at].extend(one.operator.or_else(|| by_name.get(name).copied()));
        }
    }
    strongly_connected(&upstream)
}

/// Returns the number of each node's component (Tarjan 1972, without recursion).
pub(crate) fn strongly_connected(edges: &[BTreeSet<usize>]) -> Vec<usize> {
    const UNSEEN: usize = usize::MAX;
    let (mut index, mut low) = (vec![UNSEEN; edges.len()], vec![UNSEEN; edges.len()]);
    let mut component = vec![UNSEEN; edges.len()];
    let (mut next, mut components) = (0, 0);
    let mut open: Vec<usize> = Vec::new();
    for root in 0..edges.len() {
        if index[root] != UNSEEN {
            continue;
        }
        let mut walk = vec![(root, edges[root].iter())];
        (index[root], low[root]) = (next, next);
        next += 1;
        open.push(root);
        while let Some((at, ahead)) = walk.last_mut() {
            let at = *at;
            if let Some(to) = ahead.next() {
                if index[*to] == UNSEEN {
                    (index[*to], low[*to]) = (next, next);
                    next += 1;
                    open.push(*to);
                    walk.push((*to, edges[*to].iter()));
                } else if component[*to] == UNSEEN {
                    low[at] = low[at].min(index[*to]);
                }
                continue;
            }
            walk.pop();
            if let Some((before, _)) = walk.last() {
                low[*before] = low[*before].min(low[at]);
            }
            if low[at] == index[at] {
                while let Some(member) = open.pop() {
                    component[member] = components;
                    if member == at {
                        break;
                    }
                }
                components += 1;
            }
        }
    }
    component
}

/// Who reads: an operator, or a sink.
struct Reader<'a> {
    at: Option<usize>,
    circles: &'a [usize],
    nodes: &'a [Node],
}

impl Reader<'_> {
    /// Puts names in the place of patterns; returns whether each of them matched something.
    fn replace<'m>(
        &self,
        from: &mut Vec<Text>,
        found: impl Iterator<Item = &'m Vec<Match>>,
        mistakes: &mut Mistakes<'_>,
    ) -> bool {
        let mut all = true;
        let plain: BTreeSet<String> =
            from.iter().filter(|one| !is_pattern(&one.text)).map(|one| one.text.clone()).collect();
        let (mut names, mut taken) = (Vec::with_capacity(from.len()), BTreeSet::new());
        for (text, found) in from.drain(..).zip(found) {
            if !is_pattern(&text.text) {
                names.push(text);
                continue;
            }
            let comes_round = |one: &Match| match (self.at, one.operator) {
                (Some(own), Some(other)) => self.circles[own] == self.circles[other],
                _ => false,
            };
            let mut fits = found.iter().filter(|one| !comes_round(one)).peekable();
            if fits.peek().is_none() {
                all = false;
                self.note(&text, !found.is_empty(), mistakes);
            }
            for one in fits {
                // What is named already, or matched by another pattern, is not read twice.
                if !plain.contains(&one.name) && taken.insert(one.name.clone()) {
                    names.push(Text { text: one.name.clone(), ..text.clone() });
                }
            }
        }
        *from = names;
        all
    }

    /// Notes a pattern that matches nothing.
    fn note(&self, pattern: &Text, behind: bool, mistakes: &mut Mistakes<'_>) {
        let shown = quoted(&pattern.text);
        if behind {
            let message = format!("{shown} matches only what comes after this operator");
            let hint = "a pattern never makes a circle; name what comes before".to_owned();
            pattern.wrong(mistakes, message, hint);
            return;
        }
        if self.nodes.iter().any(|node| node.tags.is_none()) {
            return; // It may be one of those that could not be read.
        }
        if pattern.text.len() > PATTERN_BYTES_MAX {
            let message = format!("a pattern is at most {PATTERN_BYTES_MAX} bytes long");
            pattern.wrong(mistakes, message, None);
            return;
        }
        let message = format!("no port matches {shown}");
        let hint = self.meant(&pattern.text, mistakes);
        pattern.wrong(mistakes, message, hint);
    }

    /// Returns what was probably meant by a pattern that matches nothing.
    fn meant(&self, pattern: &str, mistakes: &Mistakes<'_>) -> Option<String> {
        let names = || self.nodes.iter().map(|node| node.name.as_str());
        let Some((wanted, tag)) = pattern.split_once('.') else {
            // Perhaps it means operators with several outputs.
            let several = self.nodes.iter().find(|node| glob(pattern, &node.name));
            return match several {
                Some(node) => Some(format!(
                    "{} has several outputs: write {}",
                    quoted(&node.name),
                    quoted(&format!("{pattern}.*"))
                )),
                None => mistakes.nearest_hint(pattern, names(), "sources and operators are"),
            };
        };
        let fitting: Vec<&Node> =
            self.nodes.iter().filter(|node| glob(wanted, &node.name)).collect();
        if fitting.is_empty() {
            return mistakes.nearest_hint(wanted, names(), "sources and operators are");
        }
        let tags = fitting.iter().flat_map(|node| node.tags.iter().flatten());
        let mut tags: Vec<&str> =
            tags.map(String::as_str).filter(|tag| !tag.is_empty()).chain(["errors"]).collect();
        tags.sort_unstable();
        tags.dedup();
        let meant = |tag: &str| format!("did you mean {}?", quoted(&format!("{wanted}.{tag}")));
        match nearest(tag, tags.iter().copied()) {
            Some(tag) => Some(meant(tag)),
            None => mistakes.nearest_hint(tag, tags, "the tags there are"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_characters_and_a_question_mark_for_one() {
        let check = |pattern: &str, name: &str, expected: bool| {
            assert_eq!(glob(pattern, name), expected, "{pattern} {name}");
        };
        check("*", "", true);
        check("*", "abc", true);
        check("a*c", "abc", true);
        check("a*c", "abcd", false);
        check("*_*", "clean_a", true);
        check("clean_?", "clean_a", true);
        check("clean_?", "clean_", false);
        check("?", "é", true);
        check("a*b*c*d", "a__b__c__", false);
        check(&"*a".repeat(40), &"a".repeat(60), true);
        check(&"*a".repeat(40), &"b".repeat(60), false);
    }

    #[test]
    fn those_that_feed_each_other_have_one_number() {
        let edges = |pairs: &[(usize, usize)]| {
            let mut edges = vec![BTreeSet::new(); 6];
            for (from, to) in pairs {
                edges[*from].insert(*to);
            }
            strongly_connected(&edges)
        };
        let found = edges(&[(0, 1), (1, 2), (2, 0), (2, 3), (3, 4), (4, 3), (5, 5)]);
        assert!(found[0] == found[1] && found[1] == found[2] && found[3] == found[4]);
        assert_eq!(found.iter().collect::<BTreeSet<_>>().len(), 3);
    }
}
