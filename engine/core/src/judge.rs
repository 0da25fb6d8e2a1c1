//! Judge: fails a file of which too many records were rejected, before any of it counts.
//!
//! | input  | announcements, notes of the readers, how many records each operator rejected; all sent to worker 0 |
//! | output | a note that the file failed, at the end of its epoch, if it did                     |
//! | state  | what was counted of open epochs                                                    |
//! | errors | none                                                                                |
//!
//! Its frontier passes the end of an epoch only when nothing of the epoch can be rejected any more
//! by whatever stands before state is changed. So whoever holds state back until then hears of the
//! verdict in time. What is rejected behind that (a sum that overflows) is no record of the file and
//! does not count.

use std::collections::BTreeMap;

use tidemill_operators::Time;
use tidemill_operators::reject::EpochRejects;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::{Exchange, Pipeline};
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::operators::{Capability, Operator};

use serde::{Deserialize, Serialize};

use crate::code::FileCode;
use crate::ingest::order::{Opening, ReadEvent, ReadNote};
use crate::sink::parts::least;

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

/// Some rejected records of one epoch, on one worker.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Tally {
    epoch: u64,
    rejected: u64,
    /// The first of them: its chunk, its place there, and who rejected it why.
    first: (u64, u32, String),
}

/// Counts rejected records where they are, so that only numbers travel.
pub fn count_rejects<'scope>(
    title: &str,
    rejects: StreamVec<'scope, Time, EpochRejects>,
) -> StreamVec<'scope, Time, Tally> {
    rejects.unary::<CapacityContainerBuilder<Vec<Tally>>, _, _, _>(Pipeline, title, |_, _| {
        move |input, output| {
            input.for_each_stamp(|capability, batches| {
                for some in batches.flat_map(|batch| batch.drain(..)) {
                    let first = some.rejects.iter().min_by_key(|reject| reject.offset);
                    let Some(first) = first else { continue };
                    let why = format!("{}: {}: {}", first.operator, first.code, first.message);
                    output.session(&capability).give(Tally {
                        epoch: some.epoch,
                        rejected: some.rejects.len() as u64,
                        first: (some.origin.chunk, first.offset, why),
                    });
                }
            });
        }
    })
}

/// Builds the judge. `limits` are those of the sources, in the order of the plan.
pub fn judge<'scope>(
    title: &str,
    openings: StreamVec<'scope, Time, Opening>,
    notes: StreamVec<'scope, Time, ReadNote>,
    tallies: StreamVec<'scope, Time, Tally>,
    limits: Vec<Option<MaxRejects>>,
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
                    let case = open.entry(note.epoch).or_default();
                    match note.event {
                        ReadEvent::Chunk { records, .. } => case.records += records,
                        // It fails without us, and not all of it was counted.
                        ReadEvent::Failed { .. } | ReadEvent::FailedForNow { .. } => {
                            case.failed = true;
                        }
                        ReadEvent::Hashed { .. } | ReadEvent::TakenBack { .. } => {}
                    }
                }
            });
            tally_input.for_each(|_, tallies| {
                for tally in tallies.drain(..) {
                    open.entry(tally.epoch).or_default().count(tally);
                }
            });
            let upto = least(frontiers);
            while let Some(entry) = open.first_entry() {
                if upto.is_some_and(|frontier| frontier <= Time::end(*entry.key())) {
                    break;
                }
                if let Some((capability, verdict)) = entry.remove().decide(&limits) {
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
    records: u64,
    rejected: u64,
    first: Option<(u64, u32, String)>,
    failed: bool,
}

impl Case {
    fn count(&mut self, tally: Tally) {
        self.rejected += tally.rejected;
        if self.first.as_ref().is_none_or(|first| tally.first < *first) {
            self.first = Some(tally.first);
        }
    }

    fn decide(self, limits: &[Option<MaxRejects>]) -> Option<(Capability<Time>, ReadNote)> {
        let (capability, opening) = self.opening?;
        let limit = limits.get(opening.source).copied().flatten()?;
        // What was committed in an earlier life stays so, whatever the limit is now.
        if self.failed || opening.replay || !limit.is_passed(self.rejected, self.records) {
            return None;
        }
        let first = self.first.map(|(.., why)| format!("; the first: {why}")).unwrap_or_default();
        let detail = format!(
            "{} of {} records were rejected; max_rejects is {limit}{first}",
            self.rejected, self.records
        );
        let event = ReadEvent::Failed { code: FileCode::TooManyRejects.word().to_owned(), detail };
        let note = ReadNote { epoch: opening.epoch, submission: opening.submission, event };
        Some((capability, note))
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
