//! Whole: of what the workers hold of their parts of a file, what one worker would hold of all of it.
//!
//! | input  | what comes or goes of what is held, from any worker, at ends of rounds               |
//! | output | the same, at the same times: of each file and key one candidate for each column, one |
//! |        | level for each register, and each distinct value once                                |
//! | state  | these, for open rounds                                                               |
//! | errors | none                                                                                 |
//! | leaves | a round leaves when nothing more can come of it                                      |
//!
//! When a file is taken back it is read again, and its parts may lie with other workers, or there are
//! more of them, or fewer. So what is held must not know who read what.

use std::collections::{BTreeMap, VecDeque};

use hashbrown::HashMap;
use hashbrown::hash_map::{Entry, IntoIter};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::progress::frontier::MutableAntichain;

use super::candidate::LANE_BYTES;
use super::gather::Held;
use super::registers::REGISTER_BYTES;
use super::{AggregateSpec, Hold, TakenBack};
use crate::key::Key;
use crate::shards::shard_of;
use crate::time::Time;

/// How many values are handed over before other operators get their turn.
const VALUES_PER_TURN: usize = 16 * 1024;

/// Makes of what workers hold of the parts of a file what is held of the file. Files that are never
/// taken back need no such thing, nor do rows that are taken back one by one.
pub(super) fn whole_files<'s>(
    name: &str,
    held: StreamVec<'s, Time, Held>,
    spec: &AggregateSpec,
) -> StreamVec<'s, Time, Held> {
    let scope = held.scope();
    if scope.peers() == 1 || spec.taken_back != TakenBack::ByFile {
        return held;
    }
    let of_many = prefixes(spec);
    let mut builder = OperatorBuilder::new(format!("Whole {name}"), scope);
    // Where it will be arranged.
    let to_home = Exchange::new(|held: &Held| u64::from(shard_of(held.0.0.hash())));
    let mut input = builder.new_input(held, to_home);
    let (output, wholes) = builder.new_output::<Vec<Held>>();
    let mut output = OutputBuilder::<_, CapacityContainerBuilder<_>>::from(output);
    let again = scope.activator_for(builder.operator_info().address);

    builder.build(move |initial| {
        drop(initial);
        let mut rounds = OpenRounds::default();
        move |frontiers| {
            let mut output = output.activate();
            input.for_each(|capability, held| {
                for ((key, value), time, times) in held.drain(..) {
                    let open = rounds.open.entry(time);
                    let open =
                        open.or_insert_with(|| (capability.delayed(&time, 0), Picked::new()));
                    let begins = Key::new(begin_of(value.bytes(), &of_many));
                    let of = Of { key, begins, is_there: times > 0 };
                    match open.1.entry(of) {
                        Entry::Vacant(none) => {
                            none.insert(value);
                        }
                        Entry::Occupied(mut best) if value < *best.get() => {
                            best.insert(value);
                        }
                        Entry::Occupied(_) => {}
                    }
                }
            });
            rounds.complete(&frontiers[0]);
            let mut left = VALUES_PER_TURN;
            while let Some((capability, some)) = rounds.leaving.front_mut() {
                let time = *capability.time();
                let mut session = output.session(capability);
                for (of, value) in some.by_ref().take(left) {
                    left -= 1;
                    session.give(((of.key, value), time, if of.is_there { 1 } else { -1 }));
                }
                drop(session);
                if some.len() > 0 {
                    again.activate();
                    break;
                }
                rounds.leaving.pop_front();
            }
        }
    });
    wholes
}

/// Of what one value is held in one round: files that come and those that go are apart.
#[derive(PartialEq, Eq, Hash)]
struct Of {
    key: Key,
    begins: Key,
    is_there: bool,
}

/// The least value of each.
type Picked = HashMap<Of, Key>;

/// The rounds that are not yet handed over.
#[derive(Default)]
struct OpenRounds {
    open: BTreeMap<Time, (Capability<Time>, Picked)>,
    /// Complete ones, on their way out.
    leaving: VecDeque<(Capability<Time>, IntoIter<Of, Key>)>,
}

impl OpenRounds {
    fn complete(&mut self, frontier: &MutableAntichain<Time>) {
        while let Some(first) = self.open.first_entry() {
            if frontier.less_equal(first.key()) {
                return;
            }
            let (capability, picked) = first.remove();
            self.leaving.push_back((capability, picked.into_iter()));
        }
    }
}

/// Returns, by lane, with how many bytes values begin of which one is held; `None` where all are.
fn prefixes(spec: &AggregateSpec) -> Vec<Option<usize>> {
    let bytes = |hold| match hold {
        Some(Hold::Candidates) => Some(LANE_BYTES),
        Some(Hold::Levels) => Some(LANE_BYTES + REGISTER_BYTES),
        Some(Hold::Distinct) | None => None,
    };
    spec.stated().map(|one| bytes(spec.hold(one))).collect()
}

/// Returns what all values begin with of which this one may be held: itself, if each is.
fn begin_of<'v>(value: &'v [u8], prefixes: &[Option<usize>]) -> &'v [u8] {
    let lane = value.first_chunk::<LANE_BYTES>().map(|lane| usize::from(u16::from_be_bytes(*lane)));
    let bytes = lane.and_then(|lane| prefixes.get(lane).copied().flatten());
    bytes.and_then(|bytes| value.get(..bytes)).unwrap_or(value)
}
