//! Judge: fails a file that breaks a rule of its source or of an operator, before any of it counts: too
//! many rejected records, one where none may be, a contract that it does not keep.
//!
//! | input  | announcements, notes of the readers, how many records each operator rejected; all sent to worker 0 |
//! | output | a note that the file failed, at the end of its epoch, if it did                     |
//! | state  | what was counted of open epochs: some bytes for each operator, and for each chunk that is open or follows the first record told |
//! | errors | none                                                                                |
//!
//! Its frontier passes the end of an epoch only when nothing of the epoch can be rejected any more
//! by whatever stands before state is changed. So whoever holds state back until then hears of the
//! verdict in time. What is rejected behind that (a sum that overflows) is no record of the file and
//! does not count.

use std::collections::BTreeMap;

use tidemill_operators::expect::Expectation;
use tidemill_operators::reject::{EpochRejects, OnError, Standing};
use tidemill_operators::{Reject, RejectCode, Time};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::{Exchange, Pipeline};
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::operators::{Capability, Operator};

use serde::{Deserialize, Serialize};

use crate::code::FileCode;
use crate::contract::total::Total;
use crate::contract::{Contract, Found, Policy};
use crate::ingest::lines::Lines;
use crate::ingest::order::{Opening, ReadEvent, ReadNote};
use crate::plan::{OperatorKind, Plan, SourcePlan};
use crate::sink::parts::least;

/// How much of a record is told with a verdict, in bytes.
const RAW_BYTES_TOLD: usize = 200;

/// A whole, in the unit of [`MaxRejects::Share`].
const WHOLE: u64 = 1_000_000;

/// How many records of a file may be rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum MaxRejects {
    /// So many.
    Records(u64),
    /// So many of a million of the file's records.
    Share(u32),
}

impl MaxRejects {
    /// Reads `100` or `0.5%`.
    pub fn parse(text: &str) -> Option<Self> {
        let Some(percent) = text.strip_suffix('%') else {
            return text.parse().ok().map(MaxRejects::Records);
        };
        let (whole, part) = percent.trim_end().split_once('.').unwrap_or((percent.trim_end(), ""));
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if whole.is_empty() || part.len() > 4 || !digits(whole) || !digits(part) {
            return None;
        }
        let part: u64 = format!("{part:0<4}").parse().ok()?;
        let share = whole.parse::<u64>().ok()?.checked_mul(WHOLE / 100)?.checked_add(part)?;
        u32::try_from(share).ok().filter(|share| u64::from(*share) <= WHOLE).map(Self::Share)
    }

    /// Returns whether so many rejects are too many for a file of so many records.
    pub fn is_passed(self, rejected: u64, records: u64) -> bool {
        match self {
            MaxRejects::Records(most) => rejected > most,
            MaxRejects::Share(share) => {
                u128::from(rejected) * u128::from(WHOLE) > u128::from(records) * u128::from(share)
            }
        }
    }
}

impl std::fmt::Display for MaxRejects {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            MaxRejects::Records(most) => write!(out, "{most}"),
            MaxRejects::Share(share) => write!(out, "{} %", f64::from(*share) / 10_000.0),
        }
    }
}

/// A rejected record, as far as a verdict tells of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Rejected {
    /// Its chunk.
    chunk: u64,
    /// Its byte in the file.
    offset: u64,
    /// Its line in its chunk.
    line: u32,
    /// Who rejected it.
    operator: String,
    code: RejectCode,
    message: String,
    /// Its beginning.
    raw: String,
}

/// What was rejected of one epoch by one operator, on one worker.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Tally {
    epoch: u64,
    operator: String,
    rejected: u64,
    first: Rejected,
    /// What fails with them, and the first one with which the most fails, if it is more than itself.
    fatal: Option<(OnError, Rejected)>,
}

/// What is asked of each file.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// Of the sources, in the order of the plan: how many records may be rejected, by whichever
    /// operator, and what is promised of the file.
    pub sources: Vec<(Option<MaxRejects>, Option<Contract>)>,
    /// What fails with the records that a source or operator rejects, by its name.
    pub policies: BTreeMap<String, Policy>,
}

impl Rules {
    /// Returns the rules of a plan.
    pub fn of(plan: &Plan) -> Self {
        let sources =
            plan.sources.iter().map(|source| (source.max_rejects, source.contract.clone()));
        let own = |source: &SourcePlan| {
            let policy = Policy { on_error: source.on_error, max_rejects: None };
            (source.name.clone(), policy)
        };
        let operators = plan.operators.iter().map(|one| (one.name.clone(), one.policy));
        let policies = plan.sources.iter().map(own).chain(operators);
        let policies = policies.filter(|(_, policy)| *policy != Policy::default());
        Self { sources: sources.collect(), policies: policies.collect() }
    }

    /// Returns whether a file can break any of them. `plan` is the one they are of.
    pub fn can_fail(&self, plan: &Plan) -> bool {
        let grave = |one: &Expectation| one.on_error > OnError::Reject;
        let by_source =
            self.sources.iter().any(|(limit, contract)| limit.is_some() || contract.is_some());
        let by_condition = plan.sources.iter().any(|source| source.expect.iter().any(grave));
        let by_operator = plan.operators.iter().any(|operator| match &operator.kind {
            OperatorKind::Expect { expectations } => expectations.iter().any(grave),
            _ => false,
        });
        by_source || by_condition || by_operator || !self.policies.is_empty()
    }
}

/// Counts rejected records where they are, so that only numbers travel.
pub fn count_rejects<'scope>(
    title: &str,
    rejects: StreamVec<'scope, Time, EpochRejects>,
    policies: BTreeMap<String, Policy>,
) -> StreamVec<'scope, Time, Tally> {
    rejects.unary::<CapacityContainerBuilder<Vec<Tally>>, _, _, _>(Pipeline, title, |_, _| {
        move |input, output| {
            input.for_each_stamp(|capability, batches| {
                let there = |some: &EpochRejects| some.standing == Standing::There;
                for some in batches.flat_map(|batch| batch.drain(..)).filter(there) {
                    // Usually they are all of one operator.
                    let mut by_operator: BTreeMap<&str, Vec<&Reject>> = BTreeMap::new();
                    for reject in &some.rejects {
                        by_operator.entry(&reject.operator).or_default().push(reject);
                    }
                    for (operator, rejects) in by_operator {
                        let policy = policies.get(operator).copied().unwrap_or_default();
                        let tally = tally(&some, operator, &rejects, policy);
                        tally.into_iter().for_each(|tally| output.session(&capability).give(tally));
                    }
                }
            });
        }
    })
}

fn tally(of: &EpochRejects, operator: &str, rejects: &[&Reject], policy: Policy) -> Option<Tally> {
    let told = |reject: &Reject| {
        let raw = String::from_utf8_lossy(&reject.raw[..reject.raw.len().min(RAW_BYTES_TOLD)]);
        Rejected {
            chunk: of.origin.chunk,
            offset: of.origin.offset + u64::from(reject.offset),
            line: reject.line,
            operator: operator.to_owned(),
            code: reject.code,
            message: reject.message.clone(),
            raw: raw.replace(char::is_control, "\u{fffd}"),
        }
    };
    let place = |reject: &&&Reject| (reject.offset, reject.code);
    let first = told(rejects.iter().min_by_key(place)?);
    let gravity = |reject: &Reject| reject.on_error.max(policy.on_error);
    let most = rejects.iter().map(|reject| gravity(reject)).max()?;
    let fatal = rejects.iter().filter(|reject| gravity(reject) == most).min_by_key(place);
    let fatal = fatal.filter(|_| most > OnError::Reject).map(|reject| (most, told(reject)));
    let rejected = rejects.len() as u64;
    Some(Tally { epoch: of.epoch, operator: operator.to_owned(), rejected, first, fatal })
}

/// Builds the judge.
pub fn judge<'scope>(
    title: &str,
    openings: StreamVec<'scope, Time, Opening>,
    notes: StreamVec<'scope, Time, ReadNote>,
    tallies: StreamVec<'scope, Time, Tally>,
    rules: Rules,
) -> StreamVec<'scope, Time, ReadNote> {
    let mut builder = OperatorBuilder::new(title.to_owned(), openings.scope());
    let mut opening_input = builder.new_input(openings, Exchange::new(|_: &Opening| 0));
    let mut note_input = builder.new_input(notes, Exchange::new(|_: &ReadNote| 0));
    let mut tally_input = builder.new_input(tallies, Exchange::new(|_: &Tally| 0));
    let (output, verdicts) = builder.new_output::<Vec<ReadNote>>();
    let mut output = OutputBuilder::<Time, CapacityContainerBuilder<Vec<ReadNote>>>::from(output);

    builder.build(move |capabilities| {
        drop(capabilities);
        let mut open: BTreeMap<u64, Case> = BTreeMap::new();
        move |frontiers| {
            opening_input.for_each_stamp(|capability, openings| {
                for opening in openings.flat_map(|openings| openings.drain(..)) {
                    let end = capability.delayed(&Time::end(opening.epoch), 0);
                    let case = open.entry(opening.epoch).or_default();
                    case.opening = Some((end, opening));
                }
            });
            note_input.for_each(|_, notes| {
                for note in notes.drain(..) {
                    open.entry(note.epoch).or_default().note(note.event);
                }
            });
            tally_input.for_each(|_, tallies| {
                for tally in tallies.drain(..) {
                    open.entry(tally.epoch).or_default().count(tally);
                }
            });
            let upto = least(frontiers);
            while let Some(mut entry) = open.first_entry() {
                let epoch = *entry.key();
                if upto.is_some_and(|frontier| frontier <= Time::end(epoch)) {
                    if let Some(upto) = upto.filter(|upto| upto.epoch == epoch) {
                        entry.get_mut().pass(upto.chunk);
                    }
                    break;
                }
                if let Some((capability, verdict)) = entry.remove().decide(&rules) {
                    output.activate().session(&capability).give(verdict);
                }
            }
        }
    });
    verdicts
}

/// What was counted of one open epoch.
#[derive(Default)]
struct Case {
    /// The right to speak at its end, and its announcement.
    opening: Option<(Capability<Time>, Opening)>,
    found: Found,
    lines: Lines,
    /// By operator: how many were rejected, and the first of them.
    rejected: BTreeMap<String, (u64, Rejected)>,
    fatal: Option<(OnError, Rejected)>,
    failed: bool,
}

impl Case {
    fn note(&mut self, event: ReadEvent) {
        match event {
            ReadEvent::Chunk { chunk, skipped_lines, lines, records, rejected, .. } => {
                self.found.records += records;
                self.found.unread += rejected;
                self.lines.note(chunk, skipped_lines, lines);
            }
            ReadEvent::Framed(framed) => {
                let place =
                    if framed.is_head { &mut self.found.head } else { &mut self.found.tail };
                *place = Some(framed);
            }
            ReadEvent::Summed { totals } => {
                self.found.totals.resize(totals.len(), Total::default());
                self.found.totals.iter_mut().zip(&totals).for_each(|(one, two)| one.add(two));
            }
            // It fails without us, and not all of it was counted.
            ReadEvent::Failed { .. } | ReadEvent::FailedForNow { .. } => self.failed = true,
            ReadEvent::Hashed { .. } | ReadEvent::TakenBack { .. } => {}
        }
    }

    /// Forgets the lines of the single chunks before this one, as far as no record is told in them.
    fn pass(&mut self, chunk: u64) {
        let told = self.rejected.values().map(|(_, first)| first);
        let told = told.chain(self.fatal.iter().map(|(_, record)| record));
        self.lines.pass(told.map(|record| record.chunk).fold(chunk, u64::min));
    }

    fn count(&mut self, tally: Tally) {
        let Tally { operator, rejected, first, fatal, .. } = tally;
        let one = self.rejected.entry(operator).or_insert_with(|| (0, first.clone()));
        one.0 += rejected;
        if first < one.1 {
            one.1 = first;
        }
        if let Some((gravity, record)) = fatal {
            let is_graver = self.fatal.as_ref().is_none_or(|(before, first)| {
                gravity > *before || (gravity == *before && record < *first)
            });
            if is_graver {
                self.fatal = Some((gravity, record));
            }
        }
    }

    fn decide(mut self, rules: &Rules) -> Option<(Capability<Time>, ReadNote)> {
        let (capability, opening) = self.opening.take()?;
        // What was committed in an earlier life stays so, whatever the rules are now; what only takes
        // a file away has no bytes to keep a promise.
        if self.failed || opening.replay || opening.removes {
            return None;
        }
        let (limit, contract) = match rules.sources.get(opening.source) {
            Some((limit, contract)) => (*limit, contract.as_ref()),
            None => (None, None),
        };
        let (code, detail) = self
            .broken_by_record(&opening)
            .or_else(|| self.broken_contract(contract))
            .or_else(|| self.over_limit(limit, rules))?;
        let event = ReadEvent::Failed { code: code.word().to_owned(), detail };
        let note = ReadNote { epoch: opening.epoch, submission: opening.submission, event };
        Some((capability, note))
    }

    fn broken_by_record(&self, opening: &Opening) -> Option<(FileCode, String)> {
        let (gravity, record) = self.fatal.as_ref()?;
        let code = match gravity {
            OnError::StopPipeline => FileCode::StoppedPipeline,
            OnError::Reject | OnError::FailFile => FileCode::RejectedRecord,
        };
        let why = format!("{}: {}: {}", opening.name, self.place(record), record.raw);
        Some((code, why))
    }

    fn broken_contract(&mut self, contract: Option<&Contract>) -> Option<(FileCode, String)> {
        let contract = contract?;
        self.found.totals.resize(contract.totals.len(), Total::default());
        contract.broken_by(&self.found)
    }

    fn over_limit(&self, limit: Option<MaxRejects>, rules: &Rules) -> Option<(FileCode, String)> {
        let records = self.found.records;
        let all = self.rejected.values().map(|(rejected, _)| rejected).sum::<u64>();
        if let Some(limit) = limit.filter(|limit| limit.is_passed(all, records)) {
            let first = self.rejected.values().map(|(_, first)| first).min();
            let first = first.map(|first| format!("; the first: {}", self.place(first)));
            let why = format!(
                "{all} of {records} records were rejected; max_rejects is {limit}{}",
                first.unwrap_or_default()
            );
            return Some((FileCode::TooManyRejects, why));
        }
        for (operator, (rejected, first)) in &self.rejected {
            let limit = rules.policies.get(operator).and_then(|policy| policy.max_rejects);
            if let Some(limit) = limit.filter(|limit| limit.is_passed(*rejected, records)) {
                let why = format!(
                    "{operator} rejected {rejected}, of {records} records in the file; its \
                     max_rejects is {limit}; the first: {}",
                    self.place(first)
                );
                return Some((FileCode::TooManyRejects, why));
            }
        }
        None
    }

    /// Says where a record stands and why it was rejected.
    fn place(&self, record: &Rejected) -> String {
        let line = self.lines.first_of(record.chunk) + u64::from(record.line);
        let Rejected { offset, operator, code, message, .. } = record;
        format!("line {line}, byte {offset}: {operator}: {code}: {message}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_a_number_or_a_share() {
        let check = |text: &str, expected: Option<MaxRejects>| {
            assert_eq!(MaxRejects::parse(text), expected, "{text}");
        };
        check("0", Some(MaxRejects::Records(0)));
        check("1000", Some(MaxRejects::Records(1000)));
        check("1%", Some(MaxRejects::Share(10_000)));
        check("0.5 %", Some(MaxRejects::Share(5_000)));
        check("0.0001%", Some(MaxRejects::Share(1)));
        check("100%", Some(MaxRejects::Share(1_000_000)));
        for wrong in ["", "%", "101%", "-1", "1.5", "1.23456%", ".5%", "1e3", "many", "+1%"] {
            check(wrong, None);
        }
        assert_eq!(MaxRejects::Share(5_000).to_string(), "0.5 %");
    }

    #[test]
    fn a_limit_is_passed_by_one_more() {
        let check = |limit: MaxRejects, rejected, records, expected: bool| {
            assert_eq!(limit.is_passed(rejected, records), expected, "{limit}: {rejected}");
        };
        check(MaxRejects::Records(0), 0, 5, false);
        check(MaxRejects::Records(0), 1, 5, true);
        check(MaxRejects::Records(10), 10, 10, false);
        check(MaxRejects::Records(10), 11, 1_000_000, true);
        check(MaxRejects::Share(10_000), 1, 100, false);
        check(MaxRejects::Share(10_000), 2, 100, true);
        check(MaxRejects::Share(10_000), 1, 99, true);
        check(MaxRejects::Share(1_000_000), u64::MAX, u64::MAX, false);
        check(MaxRejects::Share(0), 0, 0, false);
    }
}
