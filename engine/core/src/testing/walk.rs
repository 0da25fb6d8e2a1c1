//! Walk: what each operator did with a record: put together from what a [`Tap`] saw, when a run is over.
//!
//! A record is known by its file and its place in it, so its batches must carry places further than a run
//! needs them: [`carrying_places`] changes a plan so, and nothing of what comes out. What has no place (rows of
//! an aggregate, rows that are taken back) is told for the file that made it change.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use arrow_array::UInt32Array;
use serde::Serialize;
use tidemill_operators::batch::{position, position_line, position_offset};
use tidemill_operators::expr::Expr;
use tidemill_operators::{Batch, Reject, RejectCode, Time};
use timely::progress::PathSummary;

use super::cells::{cell, named_row, shown};
use super::sample::sample;
use super::tap::{Seen, Tap};
use super::{AuthorTest, Content, GivenFile, Step};
use crate::engine::tables::Cell;
use crate::plan::{Input, NodeId, OperatorKind, OperatorPlan, Plan, PortId, SinkKind};
use crate::report::SubmissionReport;

/// How many records are walked unless one is chosen.
pub const RECORDS_MAX: usize = 20;
/// How many rows of an operator are told of one file.
const CHANGES_MAX: usize = 10;
/// How often a record may leave by one port, as far as it is told.
const COPIES_MAX: usize = 5;
/// How much of a file is read to find the text of its records, in bytes.
const CONTENT_MAX: usize = 256 << 20;
/// The longest part of a record that is shown, in bytes.
const RAW_SHOWN_MAX: usize = 400;

/// What became of the records of a test.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Walk {
    /// The files, in the order in which they came.
    pub files: Vec<FileWalk>,
    /// How many records are not told because there are too many.
    pub records_left: usize,
    /// Whether more came out of operators than is kept, so that something may be missing.
    pub is_cut: bool,
}

/// What became of a file.
#[derive(Clone, Debug, Default, Serialize)]
pub struct FileWalk {
    /// Its name.
    pub name: String,
    /// What became of its records.
    pub records: Vec<RecordWalk>,
    /// What it changed beyond its own records, once all of it was there.
    pub changes: Vec<Changes>,
}

/// What became of a record.
#[derive(Clone, Debug, Serialize)]
pub struct RecordWalk {
    /// Its line, from 1.
    pub line: u64,
    /// Its text.
    pub raw: String,
    /// The source, operators and sinks that it came to, in that order; an operator of a loop once for each
    /// round.
    pub steps: Vec<WalkStep>,
}

/// What one source, operator or sink did with a record.
#[derive(Clone, Debug, Serialize)]
pub struct WalkStep {
    /// Its name.
    pub node: String,
    /// The word of its kind.
    pub kind: &'static str,
    /// What it did.
    pub did: Vec<Deed>,
}

/// Cells with the names of their columns, as people read them.
pub type Row = Vec<(String, String)>;

/// What a node did with a record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "deed")]
pub enum Deed {
    /// Sent it on, with these columns.
    Left {
        /// By which tag; empty for the only one.
        tag: String,
        /// The columns that something behind it reads.
        columns: Row,
    },
    /// Rejected it.
    Rejected {
        /// Why, as a word.
        code: String,
        /// Why, for a person.
        reason: String,
    },
    /// Added it to what it holds under a key.
    Kept {
        /// The key; empty where there is one for everything.
        key: Row,
    },
    /// Did not send it on, on purpose.
    LeftOut,
    /// Wrote it.
    Written,
}

/// What an operator changed of its rows when a file was complete.
#[derive(Clone, Debug, Serialize)]
pub struct Changes {
    /// The operator.
    pub node: String,
    /// The rows, and whether each was added (1) or taken back (-1).
    pub rows: Vec<(i64, Row)>,
    /// How many more there are.
    pub more: usize,
}

/// A record to be walked: a file and a line of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// The name of the file.
    pub file: String,
    /// The line, from 1.
    pub line: u64,
}

/// Returns the plan with the place of each record carried as far as there is one.
pub fn carrying_places(mut plan: Plan) -> Plan {
    let mut carries: BTreeSet<PortId> = BTreeSet::new();
    for (at, source) in plan.sources.iter_mut().enumerate() {
        source.read.positions = true;
        source.output.shape.positions = true;
        carries.insert(PortId { node: NodeId::Source(at), port: 0 });
    }
    for (at, operator) in plan.operators.iter_mut().enumerate() {
        let lefts = operator.kind.lefts(operator.inputs.len());
        let fed = operator.inputs.iter().take(lefts).all(|input| carries.contains(&input.from));
        let can = match &mut operator.kind {
            OperatorKind::Aggregate { .. } => false,
            OperatorKind::Join(join) if fed => {
                join.place = true;
                true
            }
            OperatorKind::Dedupe { rows }
            | OperatorKind::Top { rows, .. }
            | OperatorKind::State { rows, .. }
            | OperatorKind::Session { rows, .. } => rows.has_place,
            _ => true,
        };
        if !(fed && can) {
            continue;
        }
        for (port, output) in operator.outputs.iter_mut().enumerate() {
            output.shape.positions = true;
            carries.insert(PortId { node: NodeId::Operator(at), port });
        }
    }
    plan
}

/// Where a record stands: its submission, chunk and packed position.
type Spot = (u64, u64, u64);

/// What was seen, by record.
struct Sight {
    batches: Vec<(PortId, Time, Batch)>,
    /// Where a record is found again behind a port: batch and row.
    places: HashMap<PortId, HashMap<Spot, Vec<(usize, usize)>>>,
    rejects: HashMap<(NodeId, Spot), Rejected>,
}

/// Why a record was rejected, and in which round.
struct Rejected {
    round: u64,
    code: RejectCode,
    message: String,
}

impl Sight {
    fn of(seen: Seen) -> Self {
        let mut sight = Self {
            batches: Vec::with_capacity(seen.batches.len()),
            places: HashMap::new(),
            rejects: HashMap::new(),
        };
        for (port, time, batch) in seen.batches {
            let at = sight.batches.len();
            if let Some(positions) = batch.positions.as_ref().filter(|_| batch.diff > 0) {
                let places = sight.places.entry(port).or_default();
                for row in 0..batch.len() {
                    let origin = batch.origin;
                    let spot = (origin.submission, origin.chunk, positions.value(row));
                    places.entry(spot).or_default().push((at, row));
                }
            }
            sight.batches.push((port, time, batch));
        }
        for (node, time, some) in seen.rejects {
            for reject in some.rejects {
                let place = position(reject.line, reject.offset);
                let spot = (some.origin.submission, some.origin.chunk, place);
                let Reject { code, message, .. } = reject;
                sight.rejects.insert((node, spot), Rejected { round: time.round, code, message });
            }
        }
        sight
    }

    /// Returns where a record is behind a port, as it left when its own file ran.
    fn found(&self, port: PortId, spot: Spot, epoch: u64) -> Vec<(usize, usize)> {
        let all = self.places.get(&port).and_then(|places| places.get(&spot));
        let own = all.into_iter().flatten().filter(|(at, _)| self.batches[*at].1.epoch == epoch);
        own.copied().collect()
    }

    fn round(&self, (at, _): At) -> u64 {
        self.batches[at].1.round
    }

    fn row(&self, (at, row): At) -> Row {
        shown_row(&self.batches[at].2, row)
    }
}

fn shown_row(batch: &Batch, row: usize) -> Row {
    let cells = named_row(&batch.columns, row).into_iter();
    cells.map(|(name, cell)| (name, shown(&cell))).collect()
}

/// Puts together what became of the records of a test. `files` are its submissions in order.
pub fn walk(
    plan: &Plan,
    test: &AuthorTest,
    folder: &Path,
    files: &[SubmissionReport],
    tap: &Tap,
    chosen: Option<&Chosen>,
) -> Walk {
    let seen = tap.take();
    let is_cut = seen.is_cut;
    let sight = Sight::of(seen);
    let mut walk = Walk { is_cut, ..Walk::default() };
    let mut told = 0;
    // A removal is a submission without a file, and has no content.
    let mut given = test.steps.iter().flat_map(|step| match step {
        Step::Add(files) | Step::Replace(files) => {
            files.iter().map(Some).collect::<Vec<Option<&GivenFile>>>()
        }
        Step::Remove(names) => vec![None; names.len()],
    });
    for file in files {
        let content = given.next().flatten().map(|given| bytes_of(given, folder));
        let content = content.unwrap_or_default();
        let mut of_file = FileWalk { name: file.name.clone(), ..FileWalk::default() };
        let source = plan.sources.iter().position(|source| source.name == file.source);
        let source = NodeId::Source(source.unwrap_or_default());
        for (spot, offset) in records(&sight, source, file) {
            let line = line_of(&content, offset, spot);
            let wanted = chosen.is_none_or(|one| one.file == file.name && one.line == line);
            if !wanted {
                continue;
            }
            if told == RECORDS_MAX {
                walk.records_left += 1;
                continue;
            }
            told += 1;
            let steps = steps(plan, &sight, source, spot, file.epoch);
            of_file.records.push(RecordWalk { line, raw: raw_of(&content, offset), steps });
        }
        if chosen.is_none_or(|one| one.file == file.name) {
            of_file.changes = changes(plan, &sight, file);
        }
        if chosen.is_none() || !of_file.records.is_empty() {
            walk.files.push(of_file);
        }
    }
    walk
}

/// Returns the records of a file, good and rejected, in their order, each with its offset in the file.
fn records(sight: &Sight, source: NodeId, file: &SubmissionReport) -> Vec<(Spot, u64)> {
    let port = PortId { node: source, port: 0 };
    let mut offsets: BTreeMap<u64, u64> = BTreeMap::new();
    for (from, _, batch) in &sight.batches {
        if *from == port && batch.origin.submission == file.id {
            offsets.insert(batch.origin.chunk, batch.origin.offset);
        }
    }
    let good = sight.places.get(&port).into_iter().flatten().map(|(spot, _)| *spot);
    let bad = sight.rejects.keys().filter(|(node, _)| *node == source).map(|(_, spot)| *spot);
    let all: BTreeSet<Spot> = good.chain(bad).filter(|spot| spot.0 == file.id).collect();
    let with_offset = |spot: Spot| {
        let before = offsets.get(&spot.1).copied().unwrap_or_default();
        (spot, before + u64::from(position_offset(spot.2)))
    };
    all.into_iter().map(with_offset).collect()
}

fn bytes_of(given: &GivenFile, folder: &Path) -> Vec<u8> {
    match &given.content {
        Content::Bytes(bytes) => bytes.clone(),
        // It was read before; if it is gone since, its text is not shown.
        Content::File(path) => {
            sample(&folder.join(path), CONTENT_MAX).map(|sample| sample.bytes).unwrap_or_default()
        }
    }
}

fn line_of(content: &[u8], offset: u64, spot: Spot) -> u64 {
    let before = usize::try_from(offset).ok().and_then(|offset| content.get(..offset));
    match before {
        Some(before) => 1 + memchr::memchr_iter(b'\n', before).count() as u64,
        None => 1 + u64::from(position_line(spot.2)),
    }
}

fn raw_of(content: &[u8], offset: u64) -> String {
    let rest = usize::try_from(offset).ok().and_then(|offset| content.get(offset..));
    let rest = rest.unwrap_or_default();
    let line = rest.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let shown = &line[..line.len().min(RAW_SHOWN_MAX)];
    let text = String::from_utf8_lossy(shown.strip_suffix(b"\r").unwrap_or(shown));
    let text: String = text.chars().map(|one| if one.is_control() { ' ' } else { one }).collect();
    if line.len() > RAW_SHOWN_MAX { text + "..." } else { text }
}

/// A place in what was seen: batch and row.
type At = (usize, usize);

/// Returns what each node did with a record, in the order in which it came to them.
fn steps(plan: &Plan, sight: &Sight, source: NodeId, spot: Spot, epoch: u64) -> Vec<WalkStep> {
    // By round and node: a loop is gone round once more when all of its round is over.
    let mut did: BTreeMap<(u64, NodeId), Vec<Deed>> = BTreeMap::new();
    did.insert((0, source), Vec::new());
    for node in std::iter::once(source).chain((0..plan.operators.len()).map(NodeId::Operator)) {
        let mut came: BTreeMap<u64, Vec<(usize, At)>> = BTreeMap::new();
        if let NodeId::Operator(at) = node {
            for (input, place, round) in arrivals(plan, sight, at, spot, epoch) {
                came.entry(round).or_default().push((input, place));
            }
            for (round, came) in &came {
                let kept = kept(sight, &plan.operators[at], came);
                did.entry((*round, node)).or_default().extend(kept);
            }
        }
        for (port, tag) in tags(plan, node).into_iter().enumerate() {
            let mut copies: BTreeMap<u64, usize> = BTreeMap::new();
            for place in sight.found(PortId { node, port }, spot, epoch) {
                let round = sight.round(place);
                let copies = copies.entry(round).or_default();
                *copies += 1;
                if *copies <= COPIES_MAX {
                    let left = Deed::Left { tag: tag.clone(), columns: sight.row(place) };
                    did.entry((round, node)).or_default().push(left);
                }
            }
        }
        if let Some(Rejected { round, code, message }) = sight.rejects.get(&(node, spot)) {
            // It went round before it was told that this was too often.
            let round = round + u64::from(*code == RejectCode::MaxRounds);
            let (code, reason) = (code.word().to_owned(), message.clone());
            did.entry((round, node)).or_default().push(Deed::Rejected { code, reason });
        }
        for round in came.keys() {
            let did = did.entry((*round, node)).or_default();
            if did.is_empty() {
                did.push(Deed::LeftOut);
            }
        }
    }
    let step = |((_, node), did)| {
        let kind = match node {
            NodeId::Source(_) => "source",
            NodeId::Operator(at) => plan.operators[at].kind.word(),
        };
        WalkStep { node: plan.node_name(node).to_owned(), kind, did }
    };
    let mut steps: Vec<WalkStep> = did.into_iter().map(step).collect();
    for sink in &plan.sinks {
        let found = |input: &Input| !sight.found(input.from, spot, epoch).is_empty();
        if sink.inputs.iter().any(found) {
            let kind = match sink.kind {
                SinkKind::Table { .. } => "table",
                SinkKind::Files { .. } | SinkKind::Rejects => "files",
            };
            let (node, did) = (sink.name.clone(), vec![Deed::Written]);
            steps.push(WalkStep { node, kind, did });
        }
    }
    steps
}

/// Returns the tags of the ports of a node; empty for the only one.
fn tags(plan: &Plan, node: NodeId) -> Vec<String> {
    match node {
        NodeId::Source(_) => vec![String::new()],
        NodeId::Operator(at) => {
            plan.operators[at].outputs.iter().map(|port| port.tag.clone()).collect()
        }
    }
}

/// Returns where a record comes to an operator from: the input, where it was seen, and the round in which
/// it arrives.
fn arrivals(
    plan: &Plan,
    sight: &Sight,
    at: usize,
    spot: Spot,
    epoch: u64,
) -> Vec<(usize, At, u64)> {
    let mut all = Vec::new();
    for (input, port) in plan.operators[at].inputs.iter().enumerate() {
        let back = plan.loop_of(at).filter(|one| one.back.contains(&input));
        for place in sight.found(port.from, spot, epoch) {
            let left = sight.batches[place.0].1;
            // Where it was turned back it did not arrive once more.
            let time = match back {
                None => Some(left),
                Some(one) if one.turns.of(&left) >= u64::from(one.max_rounds) => None,
                Some(one) => one.turns.step().results_in(&left),
            };
            all.extend(time.map(|time| (input, place, time.round)));
        }
    }
    all
}

/// Returns under which key an operator holds a record, if it holds any.
fn kept(sight: &Sight, operator: &OperatorPlan, came: &[(usize, (usize, usize))]) -> Option<Deed> {
    let (input, (at, row)) = *came.first()?;
    let one = sight.batches[at].2.take(&UInt32Array::from(vec![u32::try_from(row).ok()?]));
    let by = |by: &[(String, Expr)]| {
        by.iter().map(|(name, value)| (name.clone(), shown(&value_of(value, &one)))).collect()
    };
    let key = match &operator.kind {
        OperatorKind::Aggregate { by: columns, .. } => by(columns),
        OperatorKind::Dedupe { rows }
        | OperatorKind::Top { rows, .. }
        | OperatorKind::State { rows, .. }
        | OperatorKind::Session { rows, .. } => by(&rows.by),
        OperatorKind::Join(join) => {
            let keys = if input < join.lefts { join.left_keys() } else { join.right_keys() };
            let all = named_row(&one.columns, 0);
            let named = |name: &str| all.iter().find(|(column, _)| column == name);
            let keys = keys.iter().filter_map(|key| named(&key.name));
            keys.map(|(name, cell)| (name.clone(), shown(cell))).collect()
        }
        _ => return None,
    };
    Some(Deed::Kept { key })
}

fn value_of(value: &Expr, one: &Batch) -> Cell {
    cell(&value.evaluate(&one.columns).values, 0)
}

/// Returns what a file changed beyond its own records.
fn changes(plan: &Plan, sight: &Sight, file: &SubmissionReport) -> Vec<Changes> {
    let mut all: BTreeMap<usize, Changes> = BTreeMap::new();
    for (port, Time { epoch, .. }, batch) in &sight.batches {
        let NodeId::Operator(at) = port.node else { continue };
        let operator = &plan.operators[at];
        let own = batch.diff > 0 && batch.origin.submission == file.id;
        let known = batch.positions.is_some() && (own || !operator.kind.keeps_state());
        if *epoch != file.epoch || file.epoch == 0 || known {
            continue;
        }
        let tag = &operator.outputs[port.port].tag;
        let node = match tag.is_empty() {
            true => operator.name.clone(),
            false => format!("{}.{tag}", operator.name),
        };
        // A port is told for itself.
        let key = at * 1_000 + port.port;
        let one = all.entry(key).or_insert_with(|| Changes { node, rows: Vec::new(), more: 0 });
        for row in 0..batch.len() {
            if one.rows.len() < CHANGES_MAX {
                one.rows.push((batch.diff, shown_row(batch, row)));
            } else {
                one.more += 1;
            }
        }
    }
    all.into_values().collect()
}
