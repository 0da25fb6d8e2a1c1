//! First: an arrangement that holds the first few rows of each key and no others, for rows that are
//! never taken back: one that comes behind enough others can never be among the first again.
//!
//! | input  | `((key, value), time, 1)` from any worker, at ends of epochs or times of epoch 0         |
//! | output | the arrangement; it changes by the rows that are among the first now (+1), and by those  |
//! |        | that they displace (-1)                                                               |
//! | state  | `count` rows of each key, in the arrangement; rows of open epochs                        |
//! | errors | none. A row that is taken back ends the process                                        |
//! | leaves | a row leaves when so many others come before it                                        |
//! | cost   | for each key that an epoch touches its new rows, and the first ones it had              |
//!
//! What a key had is read in the arrangement itself, once it holds all epochs before: how far it has
//! come goes back in a circle, on which only a frontier travels.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use differential_dataflow::operators::arrange::Arranged;
use differential_dataflow::trace::Cursor;
use differential_dataflow::trace::cursor::cursor_list;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::{Exchange, Pipeline};
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::operators::generic::operator::Operator;
use timely::dataflow::operators::{Capability, ConnectLoop, Feedback};
use timely::progress::Antichain;
use timely::progress::operate::FrontierInterest;

use super::Update;
use super::arrange::{AsOf, Values, arrange, forget, pieces};
use super::packed::{Piece, Trace, TraceCursor};
use crate::key::Key;
use crate::shards::shard_of;
use crate::time::{Step, Time};

/// How many rows are looked at before other operators get their turn.
const ROWS_PER_TURN: usize = 16 * 1024;

/// Arranges the first `count` rows of each key, each key on the worker of its shard.
pub fn arrange_first<'s>(
    name: &str,
    updates: StreamVec<'s, Time, Update>,
    count: u64,
) -> Arranged<'s, Trace> {
    let scope = updates.scope();
    let (back, arranged_to) = scope.feedback::<Vec<()>>(Step::STAY);
    let mut builder = OperatorBuilder::new(format!("First {name}"), scope);
    let to_home = Exchange::new(|update: &Update| u64::from(shard_of(update.0.0.hash())));
    let mut input = builder.new_input(updates, to_home);
    // Nothing follows from it but when to go on.
    let _arranged = builder.new_input_connection(arranged_to, Pipeline, []);
    builder.set_notify_for(0, FrontierInterest::Always);
    builder.set_notify_for(1, FrontierInterest::Always);
    let from_rows = [(0, Antichain::from_elem(Step::STAY))];
    let (rows, rows_stream) = builder.new_output_connection::<Vec<Update>, _>(from_rows);
    let mut rows = OutputBuilder::<_, CapacityContainerBuilder<_>>::from(rows);
    let again = scope.activator_for(builder.operator_info().address);
    let trace: Rc<RefCell<Option<Trace>>> = Rc::default();
    let made = Rc::clone(&trace);

    builder.build(move |initial| {
        drop(initial);
        let mut choosing = Choosing { count, trace, open: BTreeMap::new() };
        move |frontiers| {
            let mut rows = rows.activate();
            input.for_each_stamp(|stamp, batches| {
                let Some(time) = stamp.least().copied() else { return };
                for updates in batches {
                    if time.epoch == 0 {
                        // What is restored was chosen before.
                        rows.session(&stamp).give_container(updates);
                        continue;
                    }
                    let Some(hold) = stamp.retain_least(0) else { continue };
                    let fresh = || Open { hold, rows: Vec::new(), known: None };
                    let open = choosing.open.entry(time.epoch).or_insert_with(fresh);
                    open.rows.extend(updates.drain(..).map(|(pair, _, diff)| (pair, diff)));
                }
            });
            let is_past =
                |input: usize, epoch: u64| !frontiers[input].less_equal(&Time::end(epoch));
            let is_due = |epoch: u64| is_past(0, epoch) && is_past(1, epoch - 1);
            let more = choosing.work(is_due, |hold, updates| {
                rows.session(hold).give_iterator(updates.drain(..));
            });
            if more {
                again.activate();
            }
            if frontiers[0].is_empty() && choosing.open.is_empty() {
                // Nothing is read any more.
                choosing.trace.borrow_mut().take();
            }
        }
    });
    let arranged = arrange(name, rows_stream);
    let mut read = arranged.trace.clone();
    forget(&mut read, 0);
    *made.borrow_mut() = Some(read);
    let title = format!("Arranged {name}");
    let how_far = arranged.stream.clone().unary::<CapacityContainerBuilder<Vec<()>>, _, _, _>(
        Pipeline,
        &title,
        |_, _| {
            |input, _| {
                input.for_each(|_, spans| spans.clear());
            }
        },
    );
    how_far.connect_loop(back);
    arranged
}

/// An epoch whose rows are not yet chosen from.
struct Open {
    hold: Capability<Time>,
    /// Sorted from behind once the epoch is whole.
    rows: Vec<((Key, Key), i64)>,
    /// What was there before the epoch, once it is its turn.
    known: Option<(TraceCursor, Vec<Piece>)>,
}

struct Choosing {
    count: u64,
    /// Dropped once nothing can come any more.
    trace: Rc<RefCell<Option<Trace>>>,
    open: BTreeMap<u64, Open>,
}

impl Choosing {
    /// Chooses among the rows of the first epoch, if it is due; returns whether there is more to do now.
    fn work(
        &mut self,
        is_due: impl Fn(u64) -> bool,
        give: impl FnOnce(&Capability<Time>, &mut Vec<Update>),
    ) -> bool {
        let Some(mut entry) = self.open.first_entry().filter(|entry| is_due(*entry.key())) else {
            return false;
        };
        let epoch = *entry.key();
        let mut trace = self.trace.borrow_mut();
        let Some(trace) = trace.as_mut() else { return false };
        let open = entry.get_mut();
        let (cursor, storage) = open.known.get_or_insert_with(|| {
            open.rows.sort_unstable_by(|one, two| two.cmp(one));
            forget(trace, epoch);
            cursor_list(pieces(trace))
        });
        let (mut chosen, mut left) = (Vec::new(), ROWS_PER_TURN);
        while left > 0
            && let Some(((key, _), _)) = open.rows.last()
        {
            let key = key.clone();
            cursor.seek_key(storage, key.bytes());
            let is_known = cursor.get_key(storage) == Some(key.bytes());
            let mut known = is_known.then(|| Values::new(cursor, storage, AsOf::before(epoch)));
            let known = std::iter::from_fn(|| known.as_mut()?.next());
            let of_key =
                || open.rows.pop_if(|next| next.0.0 == key).map(|((_, row), diff)| (row, diff));
            let looked = choose(self.count, known, std::iter::from_fn(of_key), |row, diff| {
                chosen.push(((key.clone(), row), Time::end(epoch), diff));
            });
            left = left.saturating_sub(looked);
        }
        give(&open.hold, &mut chosen);
        if open.rows.is_empty() {
            entry.remove();
        }
        !self.open.is_empty()
    }
}

/// Says which of the new rows of a key come, being among the first ones now, and which of those that were
/// there go. Both are in order; returns how many were looked at.
fn choose<'v>(
    count: u64,
    known: impl Iterator<Item = (&'v [u8], i64)>,
    new: impl Iterator<Item = (Key, i64)>,
    mut say: impl FnMut(Key, i64),
) -> usize {
    let (mut known, mut new) = (known.peekable(), new.peekable());
    let (mut free, mut looked) = (count.cast_signed(), 0);
    loop {
        let is_known = match (known.peek(), new.peek()) {
            (Some((one, _)), Some((two, _))) => *one <= two.bytes(),
            (one, two) if one.is_none() && two.is_none() => return looked,
            (one, _) => one.is_some(),
        };
        looked += 1;
        if is_known {
            let Some((row, times)) = known.next() else { return looked };
            let stay = times.min(free);
            free -= stay;
            if stay < times {
                say(Key::new(row), stay - times);
            }
        } else {
            let Some((row, times)) = new.next() else { return looked };
            assert!(times > 0, "a row is taken back of files that are only ever added");
            let come = times.min(free);
            free -= come;
            if come > 0 {
                say(row, come);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(count: u64, known: &[(&str, i64)], new: &[(&str, i64)], expected: &[(&str, i64)]) {
        let mut said = Vec::new();
        let known = known.iter().map(|(row, times)| (row.as_bytes(), *times));
        let new = new.iter().map(|(row, times)| (Key::new(row.as_bytes()), *times));
        choose(count, known, new, |row, diff| {
            said.push((String::from_utf8_lossy(row.bytes()).into_owned(), diff));
        });
        let expected: Vec<_> =
            expected.iter().map(|(row, diff)| ((*row).to_owned(), *diff)).collect();
        assert_eq!(said, expected);
    }

    #[test]
    fn what_comes_among_the_first_displaces_the_last_of_them() {
        check(1, &[], &[("b", 1), ("c", 1)], &[("b", 1)]);
        check(1, &[("b", 1)], &[("c", 1)], &[]);
        check(1, &[("b", 1)], &[("a", 1), ("c", 1)], &[("a", 1), ("b", -1)]);
        check(2, &[("b", 1)], &[("c", 1), ("d", 1)], &[("c", 1)]);
        check(2, &[("b", 1), ("d", 1)], &[("a", 1)], &[("a", 1), ("d", -1)]);
    }

    #[test]
    fn a_row_counts_as_often_as_it_is_there() {
        check(3, &[("b", 2)], &[("b", 2)], &[("b", 1)]);
        check(3, &[("b", 3)], &[("a", 2)], &[("a", 2), ("b", -2)]);
        check(2, &[("b", 1), ("c", 1)], &[("a", 9)], &[("a", 2), ("b", -1), ("c", -1)]);
    }

    #[test]
    #[should_panic(expected = "only ever added")]
    fn a_row_that_is_taken_back_is_a_mistake() {
        check(1, &[("a", 1)], &[("a", -1)], &[]);
    }
}
