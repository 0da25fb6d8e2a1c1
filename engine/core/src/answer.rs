//! Answer: everything that has been said about an epoch, gathered on worker 0 when its frontier has
//! passed.
//!
//! | input  | prepared parts, notes on the reading, announcements, counts, rows for tables; all sent to worker 0 |
//! | output | none; an [`Answer`] per epoch, in order, to the ledger's queue                             |
//! | state  | what was said about open epochs                                                          |
//! | errors | none; a failed file is an answer too                                                     |
//!
//! No counting and no acknowledgement: a sink holds its capability until its part is durable, so
//! when the frontier has passed an epoch every worker of every process has staged all of it.

use std::collections::BTreeMap;
use std::time::SystemTime;

use tidemill_operators::exchange;
use tidemill_operators::tally::{Counts, EpochCounts};
use tidemill_operators::{Batch, Time};
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::{Scope, Stream, StreamVec};
use timely::progress::operate::FrontierInterest;

use crate::checkpoint::KeptPart;
use crate::ingest::order::{Opening, ReadEvent, ReadNote};
use crate::retry::Class;
use crate::sink::body::Prepared;
use crate::sink::parts::{PreparedPart, least};

/// All that was said about one epoch.
#[derive(Debug)]
pub struct Answer {
    /// The epoch.
    pub epoch: u64,
    /// The submission.
    pub submission: u64,
    /// Whether it was committed in an earlier life: only its table rows count, and its parts are
    /// there to be compared.
    pub replay: bool,
    /// BLAKE3 of the bytes that were read, if all were.
    pub hash: Option<[u8; 32]>,
    /// Why the file cannot count, if it cannot: a stable word and the text.
    pub failure: Option<(String, String)>,
    /// What kind of failure that is.
    pub class: Class,
    /// Its outputs.
    pub parts: Vec<PreparedPart>,
    /// The rows that tables gained and lost, by the sink's place in the plan.
    pub rows: Vec<(usize, Batch)>,
    /// Records read.
    pub records: u64,
    /// Records rejected, by whichever operator.
    pub rejected: u64,
    /// What each source and operator did with its records, by its place in the book.
    pub counts: Vec<Counts>,
    /// When its last piece had been read.
    pub read_at: SystemTime,
    /// When its frontier had passed.
    pub answered_at: SystemTime,
}

impl Answer {
    /// Returns about how many bytes of memory it holds.
    pub fn weight(&self) -> u64 {
        let inline = |part: &PreparedPart| match &part.body {
            Prepared::Inline(bytes) => bytes.len(),
            Prepared::Staged(_) | Prepared::Digest | Prepared::Removed | Prepared::Same => 0,
        };
        let parts: usize = self.parts.iter().map(inline).sum();
        let batches = self.rows.iter().map(|(_, batch)| batch.columns.get_array_memory_size());
        (parts + batches.sum::<usize>()) as u64
    }
}

/// What is heard of an epoch.
#[derive(Debug)]
pub enum Heard {
    /// Some of its bytes were read: submission, bytes, records.
    Progress {
        /// The submission.
        submission: u64,
        /// Bytes of the file, as it came.
        bytes: u64,
        /// Records.
        records: u64,
    },
    /// Nothing more will come.
    Answered(Box<Answer>),
    /// A checkpoint was marked behind this epoch; 0 if there is none yet. Said before anything is
    /// said of a later epoch.
    Marked {
        /// The epoch.
        epoch: u64,
    },
    /// Every worker has written its operators as of a mark.
    Kept {
        /// The epoch of the mark.
        epoch: u64,
        /// What was written.
        parts: Vec<KeptPart>,
    },
}

/// Everything that is said about epochs, on all workers.
pub struct Said<'scope> {
    /// Which epochs there are.
    pub openings: StreamVec<'scope, Time, Opening>,
    /// What is reported of the reading of files.
    pub notes: StreamVec<'scope, Time, ReadNote>,
    /// What sources and operators did with the records of each epoch.
    pub counts: StreamVec<'scope, Time, EpochCounts>,
    /// The outputs that are prepared.
    pub parts: StreamVec<'scope, Time, PreparedPart>,
    /// The rows that tables gain and lose, by the sink's place in the plan.
    pub tables: Vec<(usize, Stream<'scope, Time, Batch>)>,
}

/// Builds the gathering operator. `ledger` is used on worker 0 only.
pub fn answers<'scope>(
    scope: Scope<'scope, Time>,
    title: &str,
    said: Said<'scope>,
    mut ledger: impl FnMut(Heard) + 'static,
) {
    let Said { openings, notes, counts, parts, tables } = said;
    let mut builder = OperatorBuilder::new(title.to_owned(), scope);
    let mut opening_input = builder.new_input(openings, Exchange::new(|_: &Opening| 0));
    let mut note_input = builder.new_input(notes, Exchange::new(|_: &ReadNote| 0));
    let mut count_input = builder.new_input(counts, Exchange::new(|_: &EpochCounts| 0));
    let mut part_input = builder.new_input(parts, Exchange::new(|_: &PreparedPart| 0));
    let mut table_inputs: Vec<_> = tables
        .into_iter()
        .map(|(sink, rows)| (sink, builder.new_input(rows, exchange::whole(|_: &Batch| 0))))
        .collect();
    for port in 0..4 + table_inputs.len() {
        builder.set_notify_for(port, FrontierInterest::Always);
    }
    let mut open: BTreeMap<u64, Open> = BTreeMap::new();

    builder.build(move |capabilities| {
        drop(capabilities);
        move |frontiers| {
            opening_input.for_each(|_, openings| {
                for opening in openings.drain(..) {
                    let epoch = opening.epoch;
                    open.entry(epoch).or_default().opening = Some(opening);
                }
            });
            note_input.for_each(|_, notes| {
                for note in notes.drain(..) {
                    let said = open.entry(note.epoch).or_default();
                    if let Some(heard) = said.note(note) {
                        ledger(heard);
                    }
                }
            });
            count_input.for_each(|_, counts| {
                for counts in counts.drain(..) {
                    open.entry(counts.epoch).or_default().count(counts);
                }
            });
            part_input.for_each(|_, parts| {
                for part in parts.drain(..) {
                    open.entry(part.epoch).or_default().parts.push(part);
                }
            });
            for (sink, input) in &mut table_inputs {
                input.for_each(|capability, batch| {
                    if let Some(time) = capability.least() {
                        let rows = &mut open.entry(time.epoch).or_default().rows;
                        rows.push((*sink, std::mem::take(batch)));
                    }
                });
            }
            let read_upto = frontiers[1].frontier().first().copied();
            for (epoch, said) in &mut open {
                if read_upto.is_some_and(|frontier| frontier <= Time::end(*epoch)) {
                    break;
                }
                said.read_at.get_or_insert_with(SystemTime::now);
            }
            let upto = least(frontiers);
            while let Some(entry) = open.first_entry() {
                let epoch = *entry.key();
                if upto.is_some_and(|frontier| frontier <= Time::end(epoch)) {
                    break;
                }
                ledger(Heard::Answered(Box::new(entry.remove().answer(epoch))));
            }
        }
    });
}

#[derive(Default)]
struct Open {
    opening: Option<Opening>,
    parts: Vec<PreparedPart>,
    rows: Vec<(usize, Batch)>,
    hash: Option<[u8; 32]>,
    failure: Option<(Class, String, String)>,
    records: u64,
    counts: Vec<Counts>,
    read_at: Option<SystemTime>,
}

impl Open {
    fn note(&mut self, note: ReadNote) -> Option<Heard> {
        match note.event {
            ReadEvent::Chunk { records, bytes, .. } => {
                self.records += records;
                Some(Heard::Progress { submission: note.submission, bytes, records })
            }
            ReadEvent::TakenBack { .. } | ReadEvent::Framed(_) | ReadEvent::Summed { .. } => None,
            ReadEvent::Hashed { hash } => {
                self.hash = Some(hash);
                None
            }
            ReadEvent::Failed { code, detail } => self.fail((Class::Permanent, code, detail)),
            ReadEvent::FailedForNow { class, code, detail } => self.fail((class, code, detail)),
        }
    }

    /// Several pieces may fail for one reason; which one is heard first is chance. What is lasting
    /// decides.
    fn fail(&mut self, failure: (Class, String, String)) -> Option<Heard> {
        if self.failure.as_ref().is_none_or(|before| failure < *before) {
            self.failure = Some(failure);
        }
        None
    }

    fn count(&mut self, counts: EpochCounts) {
        for (node, counts) in counts.nodes {
            if self.counts.len() <= node {
                self.counts.resize(node + 1, Counts::default());
            }
            self.counts[node].add(&counts);
        }
    }

    fn answer(mut self, epoch: u64) -> Answer {
        let opening = self.opening.expect("every epoch is announced before it is complete");
        let answered_at = SystemTime::now();
        let (class, failure) = match self.failure {
            Some((class, code, detail)) => (class, Some((code, detail))),
            None => (Class::default(), None),
        };
        let parts = &mut self.parts;
        parts.sort_by(|one, two| (one.sink, one.of, &one.name).cmp(&(two.sink, two.of, &two.name)));
        Answer {
            epoch,
            submission: opening.submission,
            replay: opening.replay,
            hash: self.hash,
            failure,
            class,
            parts: self.parts,
            rows: self.rows,
            records: self.records,
            rejected: self.counts.iter().map(|one| one.rejected + one.reported).sum(),
            counts: self.counts,
            read_at: self.read_at.unwrap_or(answered_at),
            answered_at,
        }
    }
}
