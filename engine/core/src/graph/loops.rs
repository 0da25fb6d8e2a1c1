//! Loops: which edges go back, and whether each circle of operators is a loop with a real end.
//! Derived from the spec; it never looks at columns.
//!
//! A loop is entered at one operator, its head, which says `max_rounds`. Whatever leads to the head
//! from inside goes back. What is left of its body without those edges may hold loops again: the
//! outermost ones are found first (after Bourdoncle, Efficient chaotic iteration strategies with
//! widenings, 1993).

use std::collections::{BTreeMap, BTreeSet};

use tidemill_operators::join::Kind;
use tidemill_operators::time::Turns;

use crate::diagnostic::{Mistakes, listed, quoted};
use crate::graph::names::{Read, tags};
use crate::graph::patterns::strongly_connected;
use crate::graph::{NodeId, PortId};
use crate::spec::{BodySpec, PipelineSpec, Text};

/// A loop. Operators are numbered as in the spec while it is found, then as in the plan.
#[derive(Clone, Debug)]
pub(crate) struct Loop {
    /// Where records enter.
    pub(crate) head: usize,
    /// The inputs of the head that go back.
    pub(crate) back: Vec<usize>,
    /// All operators of it, the head among them.
    pub(crate) body: BTreeSet<usize>,
    /// How often a record goes back at most.
    pub(crate) max_rounds: u32,
    /// The bits of a time that count its rounds.
    pub(crate) turns: Turns,
    /// Whether one record can become several on its way round.
    pub(crate) grows: bool,
}

/// One edge into an operator: the reader, and the place among what it reads.
type Edge = (usize, usize);

/// Returns what goes back, and notes circles that are no loops.
pub(crate) fn find(
    spec: &PipelineSpec,
    reads: &[Vec<Read>],
    all_known: bool,
    mistakes: &mut Mistakes<'_>,
) -> Vec<Loop> {
    let mut found: Vec<(usize, Vec<usize>, BTreeSet<usize>)> = Vec::new();
    let mut back: BTreeSet<Edge> = BTreeSet::new();
    let mut work: Vec<BTreeSet<usize>> = vec![(0..reads.len()).collect()];
    // Each takes a bit of a time at least, so more are a mistake.
    while let Some(among) = work.pop().filter(|_| found.len() <= Turns::BITS as usize) {
        for circle in circles(reads, &among, &back) {
            let head = head(spec, reads, &circle, mistakes);
            let inputs: Vec<usize> = (upstream(reads, head))
                .filter(|(_, from)| circle.contains(from))
                .map(|(input, _)| input)
                .collect();
            back.extend(inputs.iter().map(|input| (head, *input)));
            if spec.operators[head].max_rounds.is_none() {
                note_endless(spec, reads, (head, &inputs), &circle, mistakes);
            }
            found.push((head, inputs, circle.clone()));
            work.push(circle);
        }
    }
    if all_known {
        note_no_loop(spec, &found, mistakes);
    }
    let rounds =
        |head: usize| spec.operators[head].max_rounds.as_ref().map_or(1, |(_, rounds)| *rounds);
    found
        .into_iter()
        .map(|(head, back, body)| Loop {
            turns: Turns::first(rounds(head)),
            max_rounds: rounds(head),
            grows: grows(spec, reads, &body),
            head,
            back,
            body,
        })
        .collect()
}

/// Gives each loop its bits of a time. They stand as in the plan: outer ones first.
pub(crate) fn divide(
    spec: &PipelineSpec,
    order: &[usize],
    loops: &mut [Loop],
    mistakes: &mut Mistakes<'_>,
) {
    match Turns::divide(loops.iter().map(|one| one.max_rounds)) {
        Some(turns) => loops.iter_mut().zip(turns).for_each(|(one, turns)| one.turns = turns),
        None => {
            let Some(last) = loops.last() else { return };
            let Some((at, _)) = &spec.operators[order[last.head]].max_rounds else { return };
            let message = format!(
                "the {} loops of this pipeline go round too often, all together: their rounds are \
                 counted in {} bits, and 1000 rounds take 10, 30 take 5, 3 take 2",
                loops.len(),
                Turns::BITS
            );
            at.wrong(mistakes, message, "lower `max_rounds` where fewer rounds do".to_owned());
        }
    }
}

/// Notes what cannot stand in a loop, and loops that nothing leaves. To be asked when all names are
/// known.
pub(crate) fn check(
    spec: &PipelineSpec,
    reads: &[Vec<Read>],
    sinks: &[Vec<Read>],
    loops: &[Loop],
    mistakes: &mut Mistakes<'_>,
) {
    let mut noted = BTreeSet::new();
    for one in loops {
        let head = &spec.operators[one.head];
        if head.max_rounds.is_none() {
            continue; // A mistake that has been noted.
        }
        for operator in one.body.iter().map(|at| &spec.operators[*at]) {
            let Some(BodySpec::State(state)) = &operator.body else { continue };
            if let Some((_, text)) = &state.horizon
                && noted.insert(&operator.name.text)
            {
                let message = format!(
                    "{} has a horizon, which a loop cannot hold: what comes too late in a round would \
                     depend on the order of the files",
                    quoted(&operator.name.text)
                );
                text.wrong(mistakes, message, "leave it out, or put it behind the loop".to_owned());
            }
        }
        check_sides(spec, reads, one, mistakes);
        if !can_leave(spec, reads, sinks, one)
            && let Some((at, _)) = &head.max_rounds
        {
            let message = format!(
                "no record can leave the loop of {} but by its errors: everything goes round",
                quoted(&head.name.text)
            );
            let hint =
                "let a sink or an operator behind the loop read one of its tags, for example \
                        of a `route`"
                    .to_owned();
            at.wrong(mistakes, message, hint);
        }
    }
}

/// Notes joins whose other side comes partly from inside of a loop, or goes back.
fn check_sides(spec: &PipelineSpec, reads: &[Vec<Read>], one: &Loop, mistakes: &mut Mistakes<'_>) {
    let head = quoted(&spec.operators[one.head].name.text);
    for at in one.body.iter().copied() {
        let operator = &spec.operators[at];
        let lefts = lefts(spec, at);
        let is_inside = |read: &Read| from(read).is_some_and(|from| one.body.contains(&from));
        let with = operator.with().iter().zip(reads[at].iter().skip(lefts));
        let (inside, outside): (Vec<_>, Vec<_>) = with.partition(|(_, read)| is_inside(read));
        if let (Some((inner, _)), Some((outer, _))) = (inside.first(), outside.first()) {
            let message = format!(
                "{} comes from outside of the loop of {head}, where every round sees it, and {} from \
                 inside, where each round has its own",
                quoted(&outer.text),
                quoted(&inner.text)
            );
            outer.wrong(mistakes, message, "make two joins of it, one behind the other".to_owned());
        }
        if at == one.head
            && let Some((back, _)) = inside.first()
        {
            let message = format!("{} goes back to the other side of {head}", quoted(&back.text));
            let hint =
                "what goes round comes by `from`; `with` is what it is joined with".to_owned();
            back.wrong(mistakes, message, hint);
        }
    }
}

/// Returns an operator of a loop that keeps state, by its number in the spec, and whether what comes out
/// of every such operator still has its place in a file.
pub(crate) fn state_in(
    spec: &PipelineSpec,
    operators: impl Iterator<Item = usize>,
) -> Option<(usize, bool)> {
    let keeps = operators.filter_map(|at| match &spec.operators[at].body {
        Some(BodySpec::Aggregate { per_file, .. }) => Some((at, *per_file)),
        Some(
            BodySpec::Dedupe { .. }
            | BodySpec::Top { .. }
            | BodySpec::Session { .. }
            | BodySpec::State(_)
            | BodySpec::Join(_),
        ) => Some((at, true)),
        _ => None,
    });
    keeps.reduce(|one, other| (one.0, one.1 && other.1))
}

/// Returns the operator that a `from` leads to.
fn from(read: &Read) -> Option<usize> {
    match read {
        Read::Port(PortId { node: NodeId::Operator(from), .. })
        | Read::Errors(NodeId::Operator(from)) => Some(*from),
        _ => None,
    }
}

/// Returns how many of the names that an operator reads come by `from`.
fn lefts(spec: &PipelineSpec, at: usize) -> usize {
    spec.operators[at].from.as_ref().map_or(0, Vec::len)
}

/// Returns, for each loop, what its operators read from outside besides its head: what joins are joined
/// with. It has to come before the head, as what enters does.
pub(crate) fn beside<'a>(
    reads: &'a [Vec<Read>],
    loops: &'a [Loop],
) -> impl Iterator<Item = (usize, usize)> + 'a {
    loops.iter().flat_map(move |one| {
        let read = one.body.iter().flat_map(|at| reads[*at].iter().filter_map(from));
        read.filter(|from| !one.body.contains(from)).map(|from| (one.head, from))
    })
}

/// Returns the operators that an operator reads, and by which input.
fn upstream(reads: &[Vec<Read>], at: usize) -> impl Iterator<Item = Edge> {
    reads[at].iter().enumerate().filter_map(|(input, read)| Some((input, from(read)?)))
}

/// Returns the operators that feed each other, each circle with all that lies on it. Edges that go
/// back are known already and do not count.
fn circles(
    reads: &[Vec<Read>],
    among: &BTreeSet<usize>,
    back: &BTreeSet<Edge>,
) -> Vec<BTreeSet<usize>> {
    let feeders = |at: usize| -> BTreeSet<usize> {
        if !among.contains(&at) {
            return BTreeSet::new();
        }
        upstream(reads, at)
            .filter(|(input, from)| among.contains(from) && !back.contains(&(at, *input)))
            .map(|(_, from)| from)
            .collect()
    };
    let edges: Vec<BTreeSet<usize>> = (0..reads.len()).map(feeders).collect();
    let mut together: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
    for (at, circle) in strongly_connected(&edges).into_iter().enumerate() {
        together.entry(circle).or_default().insert(at);
    }
    let goes_round = |circle: &BTreeSet<usize>| {
        circle.len() > 1 || circle.iter().any(|at| edges[*at].contains(at))
    };
    together.into_values().filter(goes_round).collect()
}

/// Returns where a circle is entered, and notes a second entrance.
fn head(
    spec: &PipelineSpec,
    reads: &[Vec<Read>],
    circle: &BTreeSet<usize>,
    mistakes: &mut Mistakes<'_>,
) -> usize {
    // What a join is joined with may come from outside: it does not enter.
    let enters = |at: usize| {
        reads[at].iter().take(lefts(spec, at)).position(|read| match (read, from(read)) {
            (Read::Unknown, _) => false,
            (_, from) => from.is_none_or(|from| !circle.contains(&from)),
        })
    };
    let entrances: Vec<usize> = circle.iter().copied().filter(|at| enters(*at).is_some()).collect();
    let says = |at: &usize| spec.operators[*at].max_rounds.is_some();
    let head = (entrances.iter().copied().find(says))
        .or_else(|| entrances.first().copied())
        .or_else(|| circle.iter().copied().find(says))
        .or_else(|| circle.first().copied())
        .unwrap_or_default();
    let name = |at: usize| quoted(&spec.operators[at].name.text);
    for other in entrances.iter().copied().filter(|at| *at != head) {
        let text = enters(other).and_then(|input| {
            spec.operators[other].reads().and_then(|reads| reads.get(input).copied().cloned())
        });
        let Some(text) = text else { continue };
        let message = format!(
            "{} is inside of the loop of {}, and reads {} from outside",
            name(other),
            name(head),
            quoted(&text.text)
        );
        let hint = format!("a loop is entered at its head: let {} read it", name(head));
        text.wrong(mistakes, message, hint);
    }
    let unknown = |at: &usize| reads[*at].contains(&Read::Unknown);
    if entrances.is_empty() && says(&head) && !circle.iter().any(unknown) {
        let message = format!("nothing comes into the loop of {}", name(head));
        let hint = "let it read a source too".to_owned();
        spec.operators[head].name.wrong(mistakes, message, hint);
    }
    head
}

/// Notes a circle that does not say how often a record goes round at most.
fn note_endless(
    spec: &PipelineSpec,
    reads: &[Vec<Read>],
    (head, back): (usize, &[usize]),
    circle: &BTreeSet<usize>,
    mistakes: &mut Mistakes<'_>,
) {
    let name = |at: usize| spec.operators[at].name.text.as_str();
    let Some(first) = back.first() else { return };
    // Upstream from what goes back, by the shortest way to the head.
    let mut ways: Vec<Vec<usize>> =
        upstream(reads, head).filter(|(input, _)| input == first).map(|(_, at)| vec![at]).collect();
    let mut seen = BTreeSet::new();
    let mut around = vec![head];
    while !ways.is_empty() {
        let way = ways.remove(0);
        let Some(at) = way.last().copied() else { break };
        if at == head {
            around.extend(way.iter().rev());
            break;
        }
        for (_, from) in upstream(reads, at) {
            if circle.contains(&from) && seen.insert(from) {
                ways.push([way.as_slice(), &[from]].concat());
            }
        }
    }
    around.dedup();
    around.push(head);
    let around: Vec<&str> = around.into_iter().map(name).collect();
    let message = format!("the operators feed each other in a circle: {}", around.join(" -> "));
    let hint = match name(head).contains('/') {
        false => format!(
            "if records shall go round, say how often at most: `max_rounds: 10` at {}; else take this \
             edge out",
            quoted(name(head))
        ),
        // Where its operators are written, nobody says which of its uses are in a loop.
        true => "if records shall go round, let them enter before the group: an operator that reads this \
                 edge, with `filter: \"true\"` and `max_rounds: 10`, which feeds the group; else take this \
                 edge out"
            .to_owned(),
    };
    if let Some(from) = spec.operators[head].reads().and_then(|reads| reads.get(*first).copied()) {
        from.wrong(mistakes, message, hint);
    }
}

/// Notes `max_rounds` where nothing goes back.
fn note_no_loop(
    spec: &PipelineSpec,
    found: &[(usize, Vec<usize>, BTreeSet<usize>)],
    mistakes: &mut Mistakes<'_>,
) {
    for (at, operator) in spec.operators.iter().enumerate() {
        let Some((text, _)) = &operator.max_rounds else { continue };
        if found.iter().any(|(head, ..)| *head == at) {
            continue;
        }
        let inside = found.iter().find(|(.., body)| body.contains(&at));
        let heads: Vec<&str> =
            found.iter().map(|(head, ..)| spec.operators[*head].name.text.as_str()).collect();
        let message =
            format!("no record goes back to {}, so it has no rounds", quoted(&operator.name.text));
        let hint = match inside {
            Some((head, ..)) => format!(
                "it is inside of the loop of {}, which is entered there: say it there",
                quoted(&spec.operators[*head].name.text)
            ),
            None if heads.is_empty() => {
                "let it read what shall go round: a tag of an operator behind it".to_owned()
            }
            None => format!("the heads of loops are {}", listed(heads)),
        };
        text.wrong(mistakes, message, hint);
    }
}

/// Returns whether a record can leave a loop otherwise than by the errors of its operators.
fn can_leave(spec: &PipelineSpec, reads: &[Vec<Read>], sinks: &[Vec<Read>], one: &Loop) -> bool {
    let outside = (0..reads.len()).filter(|at| !one.body.contains(at)).map(|at| &reads[at]);
    let leaves = |read: &Read| matches!(read, Read::Port(PortId { node: NodeId::Operator(from), .. }) if one.body.contains(from));
    if outside.chain(sinks).flatten().any(leaves) {
        return true;
    }
    one.body.iter().any(|at| {
        let operator = &spec.operators[*at];
        let ports = tags(operator).map_or(0, |tags| tags.len());
        let is_read = |port: usize| {
            let read = Read::Port(PortId { node: NodeId::Operator(*at), port });
            reads.iter().flatten().any(|one| *one == read)
        };
        match &operator.body {
            Some(BodySpec::Filter(_) | BodySpec::Top { .. }) => true,
            Some(BodySpec::Join(join)) => join.kind != Kind::Left,
            Some(BodySpec::Route { otherwise: None, .. }) => true,
            Some(BodySpec::Parse { .. }) | None => false,
            // What nobody reads is dropped on purpose.
            Some(_) => ports > 1 && !(0..ports).all(is_read),
        }
    })
}

/// Returns whether one record that enters a body can come back as several.
fn grows(spec: &PipelineSpec, reads: &[Vec<Read>], body: &BTreeSet<usize>) -> bool {
    let read_inside =
        |read: Read| body.iter().flat_map(|at| &reads[*at]).filter(|one| **one == read).count();
    body.iter().any(|at| {
        let operator = &spec.operators[*at];
        let several = match &operator.body {
            Some(BodySpec::Explode { .. } | BodySpec::Route { all: true, .. }) => true,
            Some(BodySpec::Join(join)) => join.kind.takes_right(),
            Some(BodySpec::Window { windows, .. }) => windows.size_us != windows.every_us,
            _ => false,
        };
        let ports = tags(operator).map_or(0, |tags| tags.len());
        let forks = (0..ports)
            .any(|port| read_inside(Read::Port(PortId { node: NodeId::Operator(*at), port })) > 1);
        several || forks
    })
}

/// Returns the text of each `from` that does not go back, and what it leads to.
pub(crate) fn entering<'a>(
    from: &'a [Text],
    reads: &'a [Read],
    back: &[usize],
) -> (Vec<Text>, Vec<Read>) {
    let ways = from.iter().zip(reads).enumerate();
    ways.filter(|(input, _)| !back.contains(input))
        .map(|(_, (from, read))| (from.clone(), *read))
        .unzip()
}
