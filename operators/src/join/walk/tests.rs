//! What a walk says of one epoch, and what it costs.

use std::rc::Rc;

use differential_dataflow::batcher::merge::Sealer;

use super::*;
use crate::keyed::{PackedBuilder, Update};

/// Twice as many as the left rows of the one hot key, so that two partners are not too many.
const ROWS_MAX: u64 = 100_000;

/// Returns a piece of rows `(key, row, epoch, diff)`.
fn piece(rows: impl IntoIterator<Item = (u8, u32, u64, i64)>) -> Vec<Piece> {
    let key = |key: u8| Key::new(&[key]);
    let update = |(of, row, epoch, diff): (u8, u32, u64, i64)| -> Update {
        ((key(of), Key::new(&row.to_be_bytes())), Time::end(epoch), diff)
    };
    let mut updates: Vec<Update> = rows.into_iter().map(update).collect();
    updates.sort();
    PackedBuilder::seal(&mut vec![updates]).map(Rc::new).into_iter().collect()
}

/// Many visits of one user and their one row of the lookup, then what epoch 2 changes;
/// returns how many rows came and went, and whether `fuel` was enough.
fn after(
    kind: Kind,
    left: &[(u8, u32, u64, i64)],
    right: &[(u8, u32, u64, i64)],
    fuel: usize,
) -> (usize, usize, bool) {
    let signs = |rows: &[(u8, u32, u64, i64)]| {
        let mut signs = Signs::default();
        rows.iter().for_each(|row| signs.note(row.3));
        signs
    };
    let changes =
        Changes { left: piece(left.iter().copied()), left_signs: signs(left), alone: Vec::new() };
    let right_changes = piece(right.iter().copied());
    let old = piece((0..50_000).map(|row| (7, row, 1, 1)));
    let all_left = [old, changes.left.clone()].concat();
    let all_right = [piece([(7, 0, 1, 1), (8, 0, 1, 1)]), right_changes.clone()].concat();
    let (right, right_signs) = (right_changes, signs(right));
    let changes = AllChanges { left: changes, right, right_signs };
    let at = At { left: Time::end(2), right: Time::end(2), round: Vec::new() };
    let mut walk = Walk::new((kind, ROWS_MAX), at, changes, all_left, all_right);
    let (mut came, mut went) = (0, 0);
    let how_far = walk.advance(fuel, &mut |said| {
        *if said.diff > 0 { &mut came } else { &mut went } += said.times;
    });
    if how_far == Came::TooFar {
        assert_eq!(walk.into_key(), (Key::new(&[7]), [50_000, 3]));
    }
    (came, went, how_far == Came::Through)
}

#[test]
fn a_new_left_row_of_a_hot_key_costs_only_itself() {
    for kind in [Kind::Inner, Kind::Left, Kind::Semi] {
        assert_eq!(after(kind, &[(7, 60_000, 2, 1)], &[], 20), (1, 0, true), "{kind:?}");
        assert_eq!(after(kind, &[(7, 17, 2, -1)], &[], 20), (0, 1, true), "{kind:?}");
    }
    assert_eq!(after(Kind::Anti, &[(7, 60_000, 2, 1)], &[], 20), (0, 0, true));
}

#[test]
fn a_row_that_goes_is_found_where_other_pieces_end_before_its_key() {
    let left = [(7, 17, 2, -1), (9, 3, 2, 1)];
    // The piece of before ends with key 7, and so does not know key 9 at all.
    let back = [(9, 3, 2, -1)];
    assert_eq!(after(Kind::Left, &left, &[], 100), (1, 1, true));
    let run = || after(Kind::Left, &back, &[], 100);
    assert!(std::panic::catch_unwind(run).is_err(), "it had not been there");
    let was_there = [(9, 3, 1, 1), (9, 3, 2, -1)];
    assert_eq!(after(Kind::Left, &was_there, &[], 100), (0, 1, true));
}

#[test]
fn a_second_right_row_costs_nothing_where_only_presence_counts() {
    for kind in [Kind::Semi, Kind::Anti] {
        assert_eq!(after(kind, &[], &[(7, 1, 2, 1)], 20), (0, 0, true), "{kind:?}");
    }
}

#[test]
fn a_changed_right_row_changes_all_left_rows_of_its_key_and_stops_in_between() {
    let change = [(7, 0, 2, -1), (7, 1, 2, 1)];
    assert_eq!(after(Kind::Inner, &[], &change, 1_000_000), (50_000, 50_000, true));
    let (came, went, done) = after(Kind::Inner, &[], &change, 1_000);
    assert!(came == 0 && (200..1_000).contains(&went) && !done, "{came} {went}");
    assert_eq!(after(Kind::Left, &[], &[(7, 0, 2, -1)], 1_000_000), (50_000, 50_000, true));
    assert_eq!(after(Kind::Anti, &[], &[(7, 0, 2, -1)], 1_000_000), (50_000, 0, true));
}

#[test]
fn one_key_gives_only_so_many_rows_and_what_is_too_much_says_which() {
    let one_more = [(7, 1, 2, 1)];
    assert_eq!(after(Kind::Inner, &[], &one_more, usize::MAX), (50_000, 0, true));
    let two_more = [(7, 1, 2, 1), (7, 2, 2, 1)];
    assert_eq!(after(Kind::Inner, &[], &two_more, usize::MAX), (100_000, 0, true));
    // Three partners for each are too many; what goes is counted for itself.
    let three_more = [(7, 1, 2, 1), (7, 2, 2, 1), (7, 0, 2, -1), (7, 3, 2, 1)];
    let (came, went, done) = after(Kind::Inner, &[], &three_more, usize::MAX);
    assert!(came == 100_000 && went == 50_000 && !done, "{came} {went}");
    // Rows without a partner are as many as came in.
    assert_eq!(after(Kind::Anti, &[], &[(7, 0, 2, -1)], usize::MAX), (50_000, 0, true));
}

#[test]
fn a_right_row_of_another_key_costs_nothing_of_the_hot_one() {
    assert_eq!(after(Kind::Inner, &[], &[(8, 1, 2, 1), (9, 0, 2, 1)], 30), (0, 0, true));
}
