//! Evaluate: runs a plan over one batch.
//!
//! Every step computes whole columns. What keeps errors of branches not taken from counting is the
//! set of *active* rows handed down: AND, OR, CASE and COALESCE shrink it, and a kernel that can
//! fail reports only active rows. A row that failed goes on with some value; it is NULL at the end.

use std::borrow::Cow;
use std::sync::Arc;

use arrow_array::{Array, ArrayRef, StringViewArray, new_null_array};
use arrow_buffer::{BooleanBuffer, BooleanBufferBuilder, NullBuffer};
use arrow_select::interleave::interleave;

use crate::expr::compare::{compare, in_set};
use crate::expr::plan::{Comparison, Domain, Function, Node, Plan, Unit};
use crate::expr::text::{self, TEXT_BYTES_MAX, TooLong};
use crate::expr::vector::{Bits, Live, Scalar, Side, Vector, map, zip};
use crate::expr::{RowError, cast, exact, instant, number};
use crate::types::Type;

/// One evaluation: the columns that are read, in the order of their slots, and the errors so far.
pub(super) struct Run<'b> {
    pub(super) columns: &'b [Vector],
    pub(super) rows: usize,
    pub(super) errors: Vec<RowError>,
}

type Active<'a> = Option<&'a BooleanBuffer>;

impl Run<'_> {
    /// Notes that a row has no value.
    pub(super) fn fail(&mut self, row: usize, message: String) {
        self.errors.push(RowError { row: row as u32, message });
    }

    /// Evaluates a node; rows that are not active hold anything.
    pub(super) fn node(&mut self, node: &Node, active: Active<'_>) -> Vector {
        match &node.plan {
            Plan::Constant(scalar) => Vector::Constant(scalar.clone()),
            Plan::Column { slot } => self.columns[*slot].clone(),
            Plan::And(items) => self.junction(items, active, true),
            Plan::Or(items) => self.junction(items, active, false),
            Plan::Case { operand, branches, otherwise } => {
                self.case(operand.as_deref(), branches, otherwise, active)
            }
            Plan::Coalesce(items) => self.coalesce(items, active),
            Plan::Call { function, arguments } => self.call(function, arguments, active),
            _ => self.operator(&node.plan, active),
        }
    }

    fn operator(&mut self, plan: &Plan, active: Active<'_>) -> Vector {
        match plan {
            Plan::Arithmetic { op, domain, left, right } => {
                let (left, right) = (self.node(left, active), self.node(right, active));
                if left.is_null_constant() || right.is_null_constant() {
                    return Vector::Constant(Scalar::Null);
                }
                let nulls = NullBuffer::union(left.nulls().as_ref(), right.nulls().as_ref());
                let live = Live { active, nulls: nulls.as_ref() };
                match domain {
                    Domain::Double => {
                        let (left, right) = (left.doubles(), right.doubles());
                        Vector::double(number::floats(self, *op, left, right, live), nulls)
                    }
                    Domain::Long => {
                        let (left, right) = (left.longs(), right.longs());
                        Vector::long(number::ints(self, *op, left, right, live), nulls)
                    }
                    Domain::Wide { left: one, right: two, to } => {
                        let (left, right) = ((left.wides(), *one), (right.wides(), *two));
                        Vector::wide(exact::compute(self, *op, left, right, *to, live), nulls)
                    }
                }
            }
            Plan::Compare { op, left, right } => {
                let (left, right) = (self.node(left, active), self.node(right, active));
                compare(*op, self.rows, &left, &right)
            }
            Plan::Distinct { left, right, negated } => {
                let (left, right) = (self.node(left, active), self.node(right, active));
                self.distinct(&left, &right, *negated)
            }
            Plan::Not(operand) => match self.node(operand, active) {
                Vector::Constant(Scalar::Bool(value)) => Vector::Constant(Scalar::Bool(!value)),
                Vector::Bool(bits) => Vector::bits(!&bits.values, bits.nulls),
                other => other,
            },
            Plan::IsNull { operand, negated } => {
                let valid = self.node(operand, active).valid(self.rows);
                Vector::bits(if *negated { valid } else { !&valid }, None)
            }
            Plan::Is { operand, wanted, negated } => {
                let bits = self.node(operand, active).truth(self.rows);
                let is = if *wanted { bits.yes() } else { bits.no() };
                Vector::bits(if *negated { !&is } else { is }, None)
            }
            Plan::InSet { operand, set, has_null } => {
                let operand = self.node(operand, active);
                if operand.is_null_constant() {
                    return operand;
                }
                let found = in_set(self.rows, &operand, set);
                let mut nulls = operand.nulls();
                if *has_null {
                    // Not found among the others: it might be the NULL, nobody knows.
                    let known = NullBuffer::new(found.clone());
                    nulls = NullBuffer::union(nulls.as_ref(), Some(&known));
                }
                Vector::bits(found, nulls)
            }
            Plan::InList { operand, items } => self.in_list(operand, items, active),
            Plan::Between { operand, low, high } => {
                let operand = self.node(operand, active);
                let (low, high) = (self.node(low, active), self.node(high, active));
                let above = compare(Comparison::GreaterEqual, self.rows, &operand, &low);
                let below = compare(Comparison::LessEqual, self.rows, &operand, &high);
                Vector::Bool(both(&above.truth(self.rows), &below.truth(self.rows), true))
            }
            Plan::NullIf { left, right } => {
                let (left, right) = (self.node(left, active), self.node(right, active));
                let equal = compare(Comparison::Equal, self.rows, &left, &right);
                let keep = !&equal.truth(self.rows).yes();
                choose(self.rows, &[(left, keep)])
            }
            Plan::Extreme { items, greatest } => self.extreme(items, *greatest, active),
            Plan::Concat { items, strict } => self.concat(items, *strict, active),
            Plan::Cast { operand, from, to, lenient } => {
                let operand = self.node(operand, active);
                if operand.is_null_constant() {
                    return operand;
                }
                cast::cast(self, operand, (*from, *to), *lenient, active)
            }
            _ => unreachable!("node() keeps the other plans for itself"),
        }
    }

    /// AND (`all`) or OR: a row that an earlier item decides has no error from a later one.
    fn junction(&mut self, items: &[Arc<Node>], active: Active<'_>, all: bool) -> Vector {
        let mut result: Option<Bits> = None;
        for item in items {
            let bits = match &result {
                None => self.node(item, active).truth(self.rows),
                Some(before) if item.masked => {
                    let open = if all { !&before.no() } else { !&before.yes() };
                    let open = within(active, open);
                    if !open.has_true() {
                        break;
                    }
                    self.node(item, Some(&open)).truth(self.rows)
                }
                Some(_) => self.node(item, active).truth(self.rows),
            };
            result = Some(match &result {
                None => bits,
                Some(before) => both(before, &bits, all),
            });
        }
        Vector::Bool(result.unwrap_or_else(|| Bits::all(all, self.rows)))
    }

    fn in_list(&mut self, operand: &Node, items: &[Arc<Node>], active: Active<'_>) -> Vector {
        let operand = self.node(operand, active);
        let mut result = Bits::all(false, self.rows);
        for item in items {
            let open = within(active, !&result.yes());
            let item = self.node(item, Some(&open));
            let equal = compare(Comparison::Equal, self.rows, &operand, &item);
            result = both(&result, &equal.truth(self.rows), false);
        }
        Vector::Bool(result)
    }

    fn distinct(&mut self, left: &Vector, right: &Vector, negated: bool) -> Vector {
        let equal = compare(Comparison::Equal, self.rows, left, right).truth(self.rows).yes();
        let (left, right) = (left.valid(self.rows), right.valid(self.rows));
        let same = &equal | &!&(&left | &right);
        Vector::bits(if negated { same } else { !&same }, None)
    }

    fn case(
        &mut self,
        operand: Option<&Node>,
        branches: &[(Arc<Node>, Arc<Node>)],
        otherwise: &Node,
        active: Active<'_>,
    ) -> Vector {
        let operand = operand.map(|operand| self.node(operand, active));
        let mut open = within(active, BooleanBuffer::new_set(self.rows));
        let mut parts = Vec::with_capacity(branches.len() + 1);
        for (when, then) in branches {
            if !open.has_true() {
                break;
            }
            let when = self.node(when, Some(&open));
            let when = match &operand {
                Some(operand) => compare(Comparison::Equal, self.rows, operand, &when),
                None => when,
            };
            let taken = &when.truth(self.rows).yes() & &open;
            if taken.has_true() {
                open = &open & &!&taken;
                parts.push((self.node(then, Some(&taken)), taken));
            }
        }
        if open.has_true() {
            parts.push((self.node(otherwise, Some(&open)), open));
        }
        choose(self.rows, &parts)
    }

    fn coalesce(&mut self, items: &[Arc<Node>], active: Active<'_>) -> Vector {
        let mut open = within(active, BooleanBuffer::new_set(self.rows));
        let mut parts = Vec::with_capacity(items.len());
        for item in items {
            let value = self.node(item, Some(&open));
            let taken = &value.valid(self.rows) & &open;
            if taken.count_set_bits() == self.rows {
                return value;
            }
            open = &open & &!&taken;
            parts.push((value, taken));
            if !open.has_true() {
                break;
            }
        }
        choose(self.rows, &parts)
    }

    /// `greatest` and `least` skip NULL, and NaN as long as there is a number.
    fn extreme(&mut self, items: &[Arc<Node>], greatest: bool, active: Active<'_>) -> Vector {
        let op = if greatest { Comparison::Greater } else { Comparison::Less };
        let mut best = Vector::Constant(Scalar::Null);
        for item in items {
            let next = self.node(item, active);
            let better = compare(op, self.rows, &next, &best).truth(self.rows).yes();
            let itself = compare(Comparison::Equal, self.rows, &best, &best);
            let poor = !&itself.truth(self.rows).yes(); // NULL or NaN
            let take = &next.valid(self.rows) & &(&better | &poor);
            let keep = !&take;
            best = choose(self.rows, &[(best, keep), (next, take)]);
        }
        best
    }

    fn concat(&mut self, items: &[Arc<Node>], strict: bool, active: Active<'_>) -> Vector {
        let values: Vec<Vector> = items.iter().map(|item| self.node(item, active)).collect();
        if strict && values.iter().any(Vector::is_null_constant) {
            return Vector::Constant(Scalar::Null);
        }
        let present: Vec<Option<NullBuffer>> = values.iter().map(Vector::nulls).collect();
        let nulls = match strict {
            true => NullBuffer::union_many(present.iter().map(Option::as_ref)),
            false => None,
        };
        let words: Vec<_> = values
            .iter()
            .zip(&present)
            .filter(|(value, _)| !value.is_null_constant())
            .map(|(value, nulls)| (value.words(), nulls))
            .collect();
        let live = Live { active, nulls: nulls.as_ref() };
        Vector::Text(text::build(self, live, |row| {
            let mut joined = String::new();
            for (words, nulls) in &words {
                if nulls.as_ref().is_none_or(|nulls| nulls.is_valid(row)) {
                    joined.push_str(words.get(row));
                }
                if joined.len() > TEXT_BYTES_MAX {
                    return Err(TooLong.into());
                }
            }
            Ok(Some(Cow::Owned(joined)))
        }))
    }

    fn call(&mut self, function: &Function, items: &[Arc<Node>], active: Active<'_>) -> Vector {
        let values: Vec<Vector> = items.iter().map(|item| self.node(item, active)).collect();
        if values.iter().any(Vector::is_null_constant) {
            return Vector::Constant(Scalar::Null);
        }
        let present: Vec<Option<NullBuffer>> = values.iter().map(Vector::nulls).collect();
        let nulls = NullBuffer::union_many(present.iter().map(Option::as_ref));
        let live = Live { active, nulls: nulls.as_ref() };
        match function {
            Function::Lower
            | Function::Upper
            | Function::Trim { .. }
            | Function::Substring
            | Function::Replace
            | Function::SplitPart
            | Function::Left
            | Function::Right
            | Function::Extract(_)
            | Function::Authenticate { .. }
            | Function::Substitute(_) => self.texts(function, &values, live),
            Function::Length
            | Function::Position
            | Function::StartsWith
            | Function::EndsWith
            | Function::Contains
            | Function::Matches(_) => self.questions(function, &values, live, nulls.clone()),
            Function::DateTrunc(_) | Function::DatePart(_) => {
                self.instants(function, &values[0], live, nulls.clone())
            }
            _ => self.mathematics(function, &values, live, nulls.clone()),
        }
    }

    /// Functions that make text.
    fn texts(&mut self, function: &Function, values: &[Vector], live: Live<'_>) -> Vector {
        let subject = values[0].words();
        let some = |text| Ok(Some(Cow::Borrowed(text)));
        Vector::Text(match function {
            Function::Lower => {
                text::build(self, live, |row| Ok(Some(Cow::Owned(subject.get(row).to_lowercase()))))
            }
            Function::Upper => {
                text::build(self, live, |row| Ok(Some(Cow::Owned(subject.get(row).to_uppercase()))))
            }
            Function::Trim { left, right } => {
                let set = values.get(1).map(Vector::words);
                text::build(self, live, |row| {
                    let set = set.map_or(" ", |set| set.get(row));
                    some(text::trim(subject.get(row), set, *left, *right))
                })
            }
            Function::Substring => {
                let (from, count) = (values[1].longs(), values.get(2).map(Vector::longs));
                text::build(self, live, |row| {
                    let count = count.map(|count| count.get(row));
                    text::substring(subject.get(row), from.get(row), count).map(Cow::from).map(Some)
                })
            }
            Function::Replace => {
                let (wanted, by) = (values[1].words(), values[2].words());
                text::build(self, live, |row| {
                    Ok(Some(text::replace(subject.get(row), wanted.get(row), by.get(row))?))
                })
            }
            Function::SplitPart => {
                let (delimiter, field) = (values[1].words(), values[2].longs());
                text::build(self, live, |row| {
                    let delimiter = delimiter.get(row);
                    some(text::split_part(subject.get(row), delimiter, field.get(row))?)
                })
            }
            Function::Left => {
                let count = values[1].longs();
                text::build(self, live, |row| some(text::left(subject.get(row), count.get(row))))
            }
            Function::Right => {
                let count = values[1].longs();
                text::build(self, live, |row| some(text::right(subject.get(row), count.get(row))))
            }
            Function::Extract(extractor) => text::build(self, live, |row| {
                Ok(extractor.extract(subject.get(row)).map(Cow::Borrowed))
            }),
            Function::Authenticate { key: Some(key), .. } => {
                text::build(self, live, |row| Ok(Some(Cow::Owned(key.hash(subject.get(row))))))
            }
            Function::Authenticate { name, key: None } => {
                text::build(self, live, |_| Err(format!("there is no key `{name}`")))
            }
            Function::Substitute(replacer) => text::build(self, live, |row| {
                Ok(Some(Cow::Owned(replacer.replace(subject.get(row))?)))
            }),
            _ => unreachable!("call() hands over only functions that make text"),
        })
    }

    /// Functions that ask something of text.
    fn questions(
        &mut self,
        function: &Function,
        values: &[Vector],
        live: Live<'_>,
        nulls: Option<NullBuffer>,
    ) -> Vector {
        let (rows, subject) = (self.rows, values[0].words());
        let wanted = values.get(1).map(Vector::words);
        let wanted = |row: usize| wanted.map_or("", |wanted| wanted.get(row));
        let ask = |f: fn(&str, &str) -> bool| {
            BooleanBuffer::collect_bool(rows, |row| {
                live.has(row) && f(subject.get(row), wanted(row))
            })
        };
        let count = |f: fn(&str, &str) -> i64| {
            let cell = |row| if live.has(row) { f(subject.get(row), wanted(row)) } else { 0 };
            (0..rows).map(cell).collect::<Vec<_>>()
        };
        match function {
            Function::Length => Vector::long(count(|text, _| text::length(text)), nulls),
            Function::Position => Vector::long(count(text::position), nulls),
            Function::StartsWith => Vector::bits(ask(|a, b| a.starts_with(b)), nulls),
            Function::EndsWith => Vector::bits(ask(|a, b| a.ends_with(b)), nulls),
            Function::Contains => Vector::bits(ask(|a, b| a.contains(b)), nulls),
            Function::Matches(pattern) => Vector::bits(pattern.column(rows, subject, live), nulls),
            _ => unreachable!("call() hands over only functions that ask"),
        }
    }

    fn instants(
        &mut self,
        function: &Function,
        subject: &Vector,
        live: Live<'_>,
        nulls: Option<NullBuffer>,
    ) -> Vector {
        let (rows, micros) = (self.rows, subject.longs());
        match function {
            Function::DatePart(unit @ (Unit::Second | Unit::Epoch)) => {
                Vector::double(map(rows, micros, |micros| instant::fraction(*unit, micros)), nulls)
            }
            Function::DatePart(unit) => {
                Vector::long(map(rows, micros, |micros| instant::part(*unit, micros)), nulls)
            }
            Function::DateTrunc(unit) => {
                let mut outside = false;
                let cut = map(rows, micros, |micros| instant::truncate(*unit, micros));
                let values = cut.iter().map(|cut| {
                    outside |= cut.is_none();
                    cut.unwrap_or(0)
                });
                let values = values.collect();
                if outside {
                    for (row, cut) in cut.iter().enumerate() {
                        if cut.is_none() && live.has(row) {
                            self.fail(row, "date_trunc: the result is before all time".into());
                        }
                    }
                }
                Vector::long(values, nulls)
            }
            _ => unreachable!("call() hands over only functions of time"),
        }
    }

    fn mathematics(
        &mut self,
        function: &Function,
        values: &[Vector],
        live: Live<'_>,
        nulls: Option<NullBuffer>,
    ) -> Vector {
        let (rows, subject) = (self.rows, &values[0]);
        let result = match function {
            Function::Absolute { .. } => return number::sign(self, subject, live, true, nulls),
            Function::Negate { .. } => return number::sign(self, subject, live, false, nulls),
            Function::RoundWide { scale, places, rounding, to } => {
                let (wides, how) = (subject.wides(), (*places, *rounding));
                return Vector::wide(exact::round(self, wides, *scale, how, *to, live), nulls);
            }
            Function::Round => {
                let places = values.get(1).map_or(Side::One(0), Vector::longs);
                zip(rows, subject.doubles(), places, number::round)
            }
            Function::Floor => map(rows, subject.doubles(), f64::floor),
            Function::Ceil => map(rows, subject.doubles(), f64::ceil),
            Function::SquareRoot => number::defined(
                self,
                subject.doubles(),
                Side::One(0.0),
                live,
                |a, _| a.sqrt(),
                |a, _| format!("sqrt: {a} is negative"),
            ),
            Function::Power => number::defined(
                self,
                subject.doubles(),
                values[1].doubles(),
                live,
                f64::powf,
                |a, b| format!("power({a}, {b}) is not a number or too large"),
            ),
            _ => unreachable!("call() hands over only mathematics"),
        };
        Vector::double(result, nulls)
    }
}

/// AND (`all`) or OR of two columns in three-valued logic.
fn both(a: &Bits, b: &Bits, all: bool) -> Bits {
    if a.nulls.is_none() && b.nulls.is_none() {
        let values = if all { &a.values & &b.values } else { &a.values | &b.values };
        return Bits { values, nulls: None };
    }
    if all {
        Bits::from_yes_no(&a.yes() & &b.yes(), &(&a.no() | &b.no()))
    } else {
        Bits::from_yes_no(&a.yes() | &b.yes(), &(&a.no() & &b.no()))
    }
}

fn within(active: Active<'_>, rows: BooleanBuffer) -> BooleanBuffer {
    match active {
        Some(active) => active & &rows,
        None => rows,
    }
}

/// Puts a column together from parts, each with the rows taken from it; other rows are NULL.
fn choose(rows: usize, parts: &[(Vector, BooleanBuffer)]) -> Vector {
    let example = parts.iter().find(|(part, _)| !part.is_null_constant());
    let Some((example, _)) = example else { return Vector::Constant(Scalar::Null) };
    match example {
        Vector::Text(_) | Vector::Constant(Scalar::Text(_)) => choose_text(rows, parts),
        Vector::Bool(_) | Vector::Constant(Scalar::Bool(_)) => {
            let (mut yes, mut no) =
                (BooleanBuffer::new_unset(rows), BooleanBuffer::new_unset(rows));
            for (part, taken) in parts {
                let bits = part.truth(rows);
                yes = &yes | &(&bits.yes() & taken);
                no = &no | &(&bits.no() & taken);
            }
            Vector::Bool(Bits::from_yes_no(yes, &no))
        }
        Vector::Double(_) | Vector::Constant(Scalar::Double(_)) => {
            let (values, nulls) = choose_numbers(rows, parts, Vector::doubles);
            Vector::double(values, nulls)
        }
        Vector::Wide(_) | Vector::Constant(Scalar::Wide(_)) => {
            let (values, nulls) = choose_numbers(rows, parts, Vector::wides);
            Vector::wide(values, nulls)
        }
        Vector::Long(_) | Vector::Constant(_) => {
            let (values, nulls) = choose_numbers(rows, parts, Vector::longs);
            Vector::long(values, nulls)
        }
    }
}

fn choose_numbers<T: Copy + Default>(
    rows: usize,
    parts: &[(Vector, BooleanBuffer)],
    side: impl for<'v> Fn(&'v Vector) -> Side<'v, T>,
) -> (Vec<T>, Option<NullBuffer>) {
    let mut values = vec![T::default(); rows];
    let mut valid = BooleanBuffer::new_unset(rows);
    for (part, taken) in parts {
        if part.is_null_constant() {
            continue;
        }
        match side(part) {
            Side::One(value) => taken.set_slices().for_each(|(from, to)| {
                values[from..to].fill(value);
            }),
            Side::Many(all) => taken.set_slices().for_each(|(from, to)| {
                values[from..to].copy_from_slice(&all[from..to]);
            }),
        }
        valid = match part.nulls() {
            Some(nulls) => &valid | &(nulls.inner() & taken),
            None => &valid | taken,
        };
    }
    let nulls = NullBuffer::new(valid);
    (values, Some(nulls).filter(|nulls| nulls.null_count() > 0))
}

/// Text is chosen by view, so no text is copied.
fn choose_text(rows: usize, parts: &[(Vector, BooleanBuffer)]) -> Vector {
    let mut arrays: Vec<ArrayRef> = vec![new_null_array(&Type::String.arrow(), 1)];
    let mut places = vec![(0, 0); rows];
    for (part, taken) in parts {
        let constant = match part {
            Vector::Text(text) => {
                arrays.push(Arc::new(text.clone()));
                false
            }
            Vector::Constant(Scalar::Text(text)) => {
                arrays.push(Arc::new(StringViewArray::from(vec![text.as_ref()])));
                true
            }
            _ => continue,
        };
        let index = arrays.len() - 1;
        for row in taken.set_indices() {
            places[row] = (index, if constant { 0 } else { row });
        }
    }
    let arrays: Vec<&dyn Array> = arrays.iter().map(AsRef::as_ref).collect();
    let chosen = match interleave(&arrays, &places) {
        Ok(chosen) => chosen,
        Err(error) => unreachable!("all parts are text of this batch: {error}"),
    };
    match chosen.as_any().downcast_ref::<StringViewArray>() {
        Some(text) => Vector::Text(text.clone()),
        None => unreachable!("interleaved text is text"),
    }
}

/// Returns the bits of the rows that have no error.
pub(super) fn rows_without(errors: &[RowError], rows: usize) -> NullBuffer {
    let mut valid = BooleanBufferBuilder::new(rows);
    valid.append_n(rows, true);
    for error in errors {
        valid.set_bit(error.row as usize, false);
    }
    NullBuffer::new(valid.finish())
}
