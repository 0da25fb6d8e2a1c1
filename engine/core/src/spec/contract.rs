//! Contract: what is asked of records and of whole files, and what fails with those that break it, as
//! written. Derived.

use tidemill_operators::reject::OnError;

use crate::diagnostic::{Mistakes, quoted};
use crate::judge::MaxRejects;
use crate::spec::arrival::{self, Arrival};
use crate::spec::read::{self, Entries, Text};
use crate::spec::tree::{Node, Value};

/// The most lines of a header or trailer.
const FRAME_LINES_MAX: u32 = 100;

/// What `on_error` and conditions may say.
const ON_ERROR: [(&str, OnError); 3] = [
    ("reject", OnError::Reject),
    ("fail_file", OnError::FailFile),
    ("stop_pipeline", OnError::StopPipeline),
];

/// What fails with rejected records, as written.
#[derive(Debug, Default)]
pub(crate) struct PolicySpec {
    pub(crate) on_error: OnError,
    pub(crate) max_rejects: Option<MaxRejects>,
    /// Where one of them stands that can fail a file.
    pub(crate) grave: Option<Text>,
}

/// What a source promises of each of its files, as written.
#[derive(Debug, Default)]
pub(crate) struct ContractSpec {
    pub(crate) min_records: Option<u64>,
    pub(crate) max_records: Option<u64>,
    pub(crate) header: Option<LinesSpec>,
    pub(crate) trailer: Option<LinesSpec>,
    /// The group that says how many records there are.
    pub(crate) count: Option<Text>,
    /// Column, and the group that says what it adds up to.
    pub(crate) totals: Vec<(Text, Text)>,
    /// What must be there before a file is taken.
    pub(crate) arrival: Arrival,
    /// Where the contract stands.
    pub(crate) at: Option<Text>,
}

/// Lines that are no records, as written.
#[derive(Debug)]
pub(crate) struct LinesSpec {
    pub(crate) lines: u32,
    pub(crate) regex: Option<Text>,
}

/// Takes `on_error` and `max_rejects`.
pub(super) fn policy(entries: &mut Entries, mistakes: &mut Mistakes<'_>) -> PolicySpec {
    let mut policy = PolicySpec::default();
    if let Some(node) = entries.take("on_error") {
        let at = Text { text: String::new(), place: node.owner, path: node.path.clone() };
        policy.on_error = on_error(node, "`on_error`", mistakes);
        policy.grave = (policy.on_error > OnError::Reject).then_some(at);
    }
    if let Some(node) = entries.take("max_rejects") {
        let at = Text { text: String::new(), place: node.owner, path: node.path.clone() };
        policy.max_rejects = max_rejects(node, mistakes);
        policy.grave = policy.grave.or_else(|| policy.max_rejects.map(|_| at));
    }
    policy
}

fn on_error(node: Node, what: &str, mistakes: &mut Mistakes<'_>) -> OnError {
    read::choice(node, what, &ON_ERROR, mistakes).unwrap_or_default()
}

fn max_rejects(node: Node, mistakes: &mut Mistakes<'_>) -> Option<MaxRejects> {
    let written = read::text(node, "`max_rejects`", mistakes)?;
    let limit = MaxRejects::parse(&written.text);
    if limit.is_none() {
        let message = format!("`max_rejects` cannot be {}", quoted(&written.text));
        let hint = "it is a number of records such as 100, or a share such as 0.5%".to_owned();
        written.wrong(mistakes, message, Some(hint));
    }
    limit
}

/// Reads `expect`: conditions, and what fails with a record that breaks one. A list of conditions
/// rejects it.
pub(super) fn expect(node: Node, mistakes: &mut Mistakes<'_>) -> Option<Vec<(Text, OnError)>> {
    let (owner, path) = (node.owner, node.path.clone());
    let conditions: Vec<(Text, OnError)> = if matches!(node.value, Value::Map(_)) {
        read::map(node, "`expect`", mistakes)?
            .into_iter()
            .map(|(key, node)| {
                let path = node.path.clone();
                let condition = Text { text: key.name, place: key.place, path };
                (condition, on_error(node, "a condition of `expect`", mistakes))
            })
            .collect()
    } else {
        let conditions = read::texts(node, "`expect`", mistakes)?;
        conditions.into_iter().map(|condition| (condition, OnError::Reject)).collect()
    };
    if conditions.is_empty() {
        let hint = "for example `expect: { \"price >= 0\": reject }`".to_owned();
        mistakes.add(owner, &path, "`expect` has no condition", hint);
        return None;
    }
    Some(conditions)
}

/// Reads `contract`.
pub(super) fn contract(node: Node, mistakes: &mut Mistakes<'_>) -> Option<ContractSpec> {
    let at = Text { text: String::new(), place: node.owner, path: node.path.clone() };
    let mut entries = Entries::open(node, "a contract", mistakes)?;
    let mut contract = ContractSpec { at: Some(at), ..ContractSpec::default() };
    if let Some(node) = entries.take("min_records") {
        contract.min_records = records(node, "`min_records`", mistakes);
    }
    if let Some(node) = entries.take("max_records") {
        let at = Text { text: String::new(), place: node.owner, path: node.path.clone() };
        contract.max_records = records(node, "`max_records`", mistakes);
        let (least, most) = (contract.min_records, contract.max_records);
        if least.zip(most).is_some_and(|(least, most)| least > most) {
            at.wrong(mistakes, "`max_records` is less than `min_records`", None);
        }
    }
    if let Some(node) = entries.take("header") {
        contract.header = header(node, mistakes);
    }
    if let Some(node) = entries.take("trailer")
        && let Some(mut trailer) = Entries::open(node, "a trailer", mistakes)
    {
        let lines = trailer.take("lines");
        let regex = trailer.take("regex");
        if let Some(node) = trailer.take("count") {
            contract.count = read::text(node, "`count`", mistakes);
        }
        if let Some(node) = trailer.take("totals") {
            for (key, node) in read::map(node, "`totals`", mistakes).unwrap_or_default() {
                let column = read::column_name(&key, &node.path, mistakes);
                if let Some(group) = read::text(node, "a group of the trailer", mistakes) {
                    contract.totals.push((column, group));
                }
            }
        }
        trailer.finish(mistakes);
        contract.trailer = Some(frame(lines, regex, mistakes));
    }
    contract.arrival = arrival::parse(&mut entries, mistakes);
    entries.finish(mistakes);
    Some(contract)
}

/// Reads `header`: how many lines, what the one line looks like, or both.
fn header(node: Node, mistakes: &mut Mistakes<'_>) -> Option<LinesSpec> {
    if matches!(node.value, Value::Map(_)) {
        let mut entries = Entries::open(node, "a header", mistakes)?;
        let (lines, regex) = (entries.take("lines"), entries.take("regex"));
        entries.finish(mistakes);
        return Some(frame(lines, regex, mistakes));
    }
    if matches!(&node.value, Value::Scalar(text) if text.bytes().all(|byte| byte.is_ascii_digit()))
    {
        return Some(frame(Some(node), None, mistakes));
    }
    Some(frame(None, Some(node), mistakes))
}

fn frame(lines: Option<Node>, regex: Option<Node>, mistakes: &mut Mistakes<'_>) -> LinesSpec {
    let lines =
        lines.and_then(|node| read::number(node, "`lines`", (1, FRAME_LINES_MAX), mistakes));
    let regex = regex.and_then(|node| read::text(node, "a regular expression", mistakes));
    LinesSpec { lines: lines.unwrap_or(1), regex }
}

fn records(node: Node, what: &str, mistakes: &mut Mistakes<'_>) -> Option<u64> {
    let written = read::text(node, what, mistakes)?;
    let number = written.text.parse().ok();
    if number.is_none() {
        let message = format!("{what} cannot be {}", quoted(&written.text));
        written.wrong(mistakes, message, Some("it is a number of records".to_owned()));
    }
    number
}
