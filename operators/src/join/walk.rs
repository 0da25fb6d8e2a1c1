//! Walk: what one epoch changes of a join, row by row, at the cost of the change.
//!
//! Goes through the keys that the epoch touched, on either side, and for each through the least
//! that can say something new: only the changed left rows where the right side stayed as it was, all
//! left rows where it did not. What a pair counted before and after is compared pair by pair, so
//! nothing is said twice and nothing that stays the same is said at all. It can stop between any two
//! rows and go on later, so a product neither starves others nor lies in memory; and it stops for
//! good where one key gives more rows than a bound.

use differential_dataflow::trace::Cursor;
use differential_dataflow::trace::cursor::cursor_list;

use super::Kind;
use crate::key::Key;
use crate::keyed::{self, Lookup, Piece, TraceCursor};
use crate::time::Time;

/// Which signs the changes of one side of an epoch have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Signs {
    /// Some rows come.
    pub(super) plus: bool,
    /// Some rows go.
    pub(super) minus: bool,
}

impl Signs {
    pub(super) fn note(&mut self, diff: i64) {
        self.plus |= diff > 0;
        self.minus |= diff < 0;
    }

    pub(super) fn add(&mut self, other: Signs) {
        self.plus |= other.plus;
        self.minus |= other.minus;
    }

    fn any(self) -> bool {
        self.plus || self.minus
    }
}

/// Returns which signs can come out, given those that go in.
pub(super) fn signs_out(kind: Kind, left: Signs, right: Signs) -> Signs {
    let (plus, minus) = match kind {
        Kind::Inner | Kind::Semi => (right.plus, right.minus),
        // A row with a partner takes the place of the one without, or the other way round.
        Kind::Left => (right.any(), right.any()),
        Kind::Anti => (right.minus, right.plus),
    };
    Signs { plus: left.plus || plus, minus: left.minus || minus }
}

/// What is said of one row: its key, the left row, the right one if there is one, and how often.
pub(super) struct Said<'a> {
    pub(super) key: &'a [u8],
    pub(super) left: &'a [u8],
    pub(super) right: Option<&'a [u8]>,
    pub(super) times: usize,
    /// Whether the row comes (1) or goes (-1).
    pub(super) diff: i64,
}

impl Said<'_> {
    /// Returns what it costs to say it once: long rows cost more, so that those of one turn are never
    /// much memory.
    fn cost(&self) -> usize {
        const BYTES_OF_A_ROW: usize = 128;
        let bytes = self.key.len() + self.left.len() + self.right.map_or(0, <[u8]>::len);
        1 + bytes / BYTES_OF_A_ROW
    }
}

/// How far a walk came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Came {
    /// There is more to say.
    Partly,
    /// All is said.
    Through,
    /// More rows follow from the key it stands on than one epoch may bring about.
    TooFar,
}

/// The rows of a few pieces, by key, before and at a time.
struct Rows {
    at: Time,
    cursor: TraceCursor,
    pieces: Vec<Piece>,
    /// Whether the cursor stands on the key in question.
    there: bool,
}

impl Rows {
    fn new(at: Time, pieces: Vec<Piece>) -> Self {
        let (cursor, pieces) = cursor_list(pieces);
        Self { at, cursor, pieces, there: false }
    }

    fn key(&self) -> Option<&[u8]> {
        self.cursor.get_key(&self.pieces)
    }

    /// Goes to a key, which must not lie before the last one.
    fn seek(&mut self, key: &[u8]) {
        self.cursor.seek_key(&self.pieces, key);
        self.there = self.key() == Some(key);
        self.rewind();
    }

    fn rewind(&mut self) {
        if self.there {
            self.cursor.rewind_vals(&self.pieces);
        }
    }

    fn row(&self) -> Option<&[u8]> {
        if self.there { self.cursor.get_val(&self.pieces) } else { None }
    }

    fn step(&mut self) {
        self.cursor.step_val(&self.pieces);
    }

    fn step_key(&mut self) {
        if std::mem::take(&mut self.there) {
            self.cursor.step_key(&self.pieces);
        }
    }

    fn restart(&mut self) {
        self.there = false;
        self.cursor.rewind_keys(&self.pieces);
    }

    /// Returns how often the row was there before the time, and at it.
    ///
    /// # Panics
    /// When it was there less than never.
    fn counts(&mut self) -> (i64, i64) {
        let (at, mut before, mut after) = (self.at, 0, 0);
        self.cursor.map_times(&self.pieces, |time, diff| {
            before += if *time < at { *diff } else { 0 };
            after += if *time <= at { *diff } else { 0 };
        });
        if let (Some(row), true) = (self.row(), before.min(after) < 0) {
            keyed::taken_back_too_often(row, before.min(after), at.epoch);
        }
        (before, after)
    }

    /// Returns by how much the time changes the count of the row.
    fn change(&mut self) -> i64 {
        let (at, mut change) = (self.at, 0);
        self.cursor.map_times(&self.pieces, |time, diff| {
            change += if *time == at { *diff } else { 0 };
        });
        change
    }
}

/// What one time changes of the left side on one worker.
#[derive(Default)]
pub(super) struct Changes {
    /// Pieces that hold the changes, among those of other times.
    pub(super) left: Vec<Piece>,
    pub(super) left_signs: Signs,
    /// Left rows that can have no partner, as their key holds NULL.
    pub(super) alone: Vec<(Key, Key, i64)>,
}

/// What changes of both sides.
pub(super) struct AllChanges {
    pub(super) left: Changes,
    /// Pieces that hold the changes of the right side, among those of other times.
    pub(super) right: Vec<Piece>,
    pub(super) right_signs: Signs,
}

/// The moment of a walk.
pub(super) struct At {
    /// The time of the left rows.
    pub(super) left: Time,
    /// The time of the right rows; the same, or an earlier one of the same epoch.
    pub(super) right: Time,
    /// What the left rows of its round begin with.
    pub(super) round: Vec<u8>,
}

/// A walk through what an epoch changes: first all rows that go, then all that come.
pub(super) struct Walk {
    kind: Kind,
    epoch: u64,
    /// What the left rows of its round begin with.
    round: Vec<u8>,
    /// How many pairs of one key may come, or go.
    rows_max: u64,
    /// How many pairs of the key came, or went, so far.
    paired: u64,
    changed_left: Rows,
    changed_right: Rows,
    left: Rows,
    /// Finds single rows of the left side: a cursor over several pieces cannot.
    left_lookup: Lookup,
    right: Rows,
    alone: Vec<(Key, Key, i64)>,
    /// Whether rows that come are to be said, after those that go.
    plus_too: bool,
    /// What is being said: 1 or -1.
    sign: i64,
    step: Step,
    /// How often what the cursors stand on is still to be said.
    owed: u64,
    key: Vec<u8>,
    row: Vec<u8>,
    /// Whether the key had a right row before, and has one after.
    present: (bool, bool),
    /// Whether all left rows of the key are looked at, not only those that changed.
    all_left: bool,
    /// How often the left row was there before, and after.
    count: (i64, i64),
}

/// What comes next.
#[derive(Clone, Copy)]
enum Step {
    /// The row of that number among those without a partner.
    Alone(usize),
    /// A key.
    Key,
    /// A left row.
    Left,
    /// The first partner of the left row.
    Met,
    /// The next partner of the left row: of all, or of those that changed.
    Right { all: bool },
    /// The end of this sign.
    End,
}

impl Walk {
    /// Begins to walk; `left` and `right` are all rows of both sides.
    pub(super) fn new(
        (kind, rows_max): (Kind, u64),
        at: At,
        changes: AllChanges,
        left: Vec<Piece>,
        right: Vec<Piece>,
    ) -> Self {
        let At { left: at, right: at_right, round } = at;
        let AllChanges { left: mut changes, right: right_changes, right_signs } = changes;
        changes.alone.sort_unstable();
        let mut alone: Vec<(Key, Key, i64)> = Vec::with_capacity(changes.alone.len());
        for (key, row, diff) in changes.alone {
            match alone.last_mut() {
                Some(last) if last.0 == key && last.1 == row => last.2 += diff,
                _ => alone.push((key, row, diff)),
            }
        }
        let mut signs = signs_out(kind, changes.left_signs, right_signs);
        alone.iter().for_each(|one| signs.note(one.2));
        Self {
            kind,
            epoch: at.epoch,
            round,
            rows_max,
            paired: 0,
            changed_left: Rows::new(at, changes.left),
            left_lookup: Lookup::new(&left),
            changed_right: Rows::new(at_right, right_changes),
            left: Rows::new(at, left),
            right: Rows::new(at_right, right),
            alone,
            plus_too: signs.plus && signs.minus,
            sign: if signs.minus { -1 } else { 1 },
            step: if signs.plus || signs.minus { Step::Alone(0) } else { Step::End },
            owed: 0,
            key: Vec::new(),
            row: Vec::new(),
            present: (false, false),
            all_left: false,
            count: (0, 0),
        }
    }

    /// Says what there is to say, for about `fuel` rows of usual length.
    pub(super) fn advance(&mut self, mut fuel: usize, say: &mut impl FnMut(Said<'_>)) -> Came {
        while fuel > 0 {
            if self.owed > 0 {
                let is_pair = matches!(self.step, Step::Right { .. });
                if is_pair && self.paired.saturating_add(self.owed) > self.rows_max {
                    return Came::TooFar;
                }
                let mut said = self.said();
                let cost = said.cost();
                let owed = usize::try_from(self.owed).unwrap_or(usize::MAX);
                said.times = owed.min((fuel / cost).max(1));
                let times = said.times;
                say(said);
                self.owed -= times as u64;
                self.paired += if is_pair { times as u64 } else { 0 };
                fuel = fuel.saturating_sub(times.saturating_mul(cost));
                continue;
            }
            fuel -= 1;
            match self.step {
                Step::Alone(at) => self.next_alone(at),
                Step::Key => self.next_key(),
                Step::Left => self.next_left(),
                Step::Met => self.meet(),
                Step::Right { all } => self.next_right(all),
                Step::End if std::mem::take(&mut self.plus_too) => self.turn(),
                Step::End => return Came::Through,
            }
        }
        Came::Partly
    }

    /// Ends the walk; returns the key it stands on, and how many rows either side has of it.
    pub(super) fn into_key(mut self) -> (Key, [u64; 2]) {
        let rows = [&mut self.left, &mut self.right].map(|rows| {
            rows.restart();
            rows.seek(&self.key);
            let mut count = 0;
            while rows.row().is_some() {
                count += rows.counts().1.unsigned_abs();
                rows.step();
            }
            count
        });
        (Key::new(&self.key), rows)
    }

    fn said(&self) -> Said<'_> {
        let right = match self.step {
            Step::Right { all: true } => self.right.row(),
            Step::Right { all: false } => self.changed_right.row(),
            _ => None,
        };
        Said { key: &self.key, left: &self.row, right, times: 1, diff: self.sign }
    }

    /// Owes a row as often as its count changes, if that has the sign that is being said.
    fn owe(&mut self, change: i64) {
        if change.signum() == self.sign {
            self.owed = change.unsigned_abs();
        }
    }

    /// Begins again, with the rows that come.
    fn turn(&mut self) {
        self.sign = 1;
        self.step = Step::Alone(0);
        for rows in
            [&mut self.changed_left, &mut self.changed_right, &mut self.left, &mut self.right]
        {
            rows.restart();
        }
        self.left_lookup = Lookup::new(&self.left.pieces);
    }

    fn next_alone(&mut self, at: usize) {
        let Some((key, row, diff)) = self.alone.get(at) else {
            self.step = Step::Key;
            return;
        };
        let diff = *diff;
        copy(key.bytes(), &mut self.key);
        copy(row.bytes(), &mut self.row);
        self.step = Step::Alone(at + 1);
        self.owe(diff);
    }

    fn next_key(&mut self) {
        let next = match (self.changed_left.key(), self.changed_right.key()) {
            (Some(one), Some(other)) => one.min(other),
            (Some(only), None) | (None, Some(only)) => only,
            (None, None) => {
                self.step = Step::End;
                return;
            }
        };
        copy(next, &mut self.key);
        self.paired = 0;
        self.changed_left.seek(&self.key);
        self.changed_right.seek(&self.key);
        self.right.seek(&self.key);
        self.left.there = false;
        let right_changed = self.has_right_change();
        self.present =
            if self.kind.asks_presence() { self.presence(right_changed) } else { (false, false) };
        self.all_left =
            right_changed && (self.kind.takes_right() || self.present.0 != self.present.1);
        if self.all_left {
            self.left.seek(&self.key);
        }
        self.step = Step::Left;
    }

    /// Returns whether the right side of the key is not what it was.
    fn has_right_change(&mut self) -> bool {
        let mut changed = false;
        while !changed && self.changed_right.row().is_some() {
            changed = self.changed_right.change() != 0;
            self.changed_right.step();
        }
        self.changed_right.rewind();
        changed
    }

    /// Returns whether the key has a right row before, and after.
    fn presence(&mut self, right_changed: bool) -> (bool, bool) {
        let (mut before, mut after) = (false, false);
        while self.right.row().is_some() {
            let counts = self.right.counts();
            before |= counts.0 > 0;
            after |= counts.1 > 0;
            if after && (before || !right_changed) {
                break;
            }
            self.right.step();
        }
        self.right.rewind();
        (before, after)
    }

    fn next_left(&mut self) {
        let rows = if self.all_left { &mut self.left } else { &mut self.changed_left };
        let Some(row) = rows.row() else {
            self.changed_left.step_key();
            self.changed_right.step_key();
            self.step = Step::Key;
            return;
        };
        copy(row, &mut self.row);
        // Rows of other rounds are said in theirs.
        self.count = match self.row.starts_with(&self.round) {
            false => (0, 0),
            true if self.all_left => rows.counts(),
            true => (0, rows.change()),
        };
        rows.step();
        let (before, after) = self.count;
        if (before, after) == (0, 0) {
            return;
        }
        if !self.all_left && after < 0 {
            self.check_was_there();
        }
        let if_present = |is: bool, count: i64| if is { count } else { 0 };
        let change = match self.kind {
            Kind::Inner => 0,
            Kind::Semi => if_present(self.present.1, after) - if_present(self.present.0, before),
            Kind::Left | Kind::Anti => {
                if_present(!self.present.1, after) - if_present(!self.present.0, before)
            }
        };
        if self.kind.takes_right() {
            self.step = Step::Met;
        }
        self.owe(change);
    }

    /// Checks that a left row that goes had been there.
    fn check_was_there(&mut self) {
        self.left_lookup.check(&self.left.pieces, &self.key, &[&self.row], self.epoch);
    }

    /// Begins to put the left row together with right ones: with all where it comes or goes, with
    /// those that changed where it stays.
    fn meet(&mut self) {
        let all = self.count.0 != self.count.1;
        if all { &mut self.right } else { &mut self.changed_right }.rewind();
        self.step = Step::Right { all };
        self.owe_pair(all);
    }

    fn next_right(&mut self, all: bool) {
        let rows = if all { &mut self.right } else { &mut self.changed_right };
        if rows.row().is_some() {
            rows.step();
        }
        self.owe_pair(all);
    }

    /// Owes the left row with the right one under the cursor; goes on to the next left row if there
    /// is none.
    fn owe_pair(&mut self, all: bool) {
        let (before, after) = self.count;
        let rows = if all { &mut self.right } else { &mut self.changed_right };
        if rows.row().is_none() {
            self.step = Step::Left;
            return;
        }
        let change = if all {
            let right = rows.counts();
            after.saturating_mul(right.1).saturating_sub(before.saturating_mul(right.0))
        } else {
            before.saturating_mul(rows.change())
        };
        self.owe(change);
    }
}

fn copy(from: &[u8], to: &mut Vec<u8>) {
    to.clear();
    to.extend_from_slice(from);
}

#[cfg(test)]
mod tests;
