//! Ordered: whether `dedupe` and `top` fit what arrives: rows of a key, in an order. Derived.

use tidemill_operators::expr::Expr;
use tidemill_operators::keyed::{Arrival, Direction, Nulls, OrderColumn, RowLayout};
use tidemill_operators::{Column, Schema, Type};

use crate::diagnostic::{Mistakes, quoted};
use crate::graph::OperatorKind;
use crate::graph::flow::Stream;
use crate::graph::operators::column::{every, expression, kinds, named};
use crate::spec::{NamedSpec, OperatorSpec, Text};

/// The rows of a key, and what orders them.
#[derive(Clone, Debug)]
pub struct OrderedRows {
    /// The columns that make a key, by name.
    pub by: Vec<(String, Expr)>,
    /// What orders the rows of a key.
    pub order: Vec<OrderTerm>,
    /// Which row stays: the first in that order and, among those that are alike in it, the one that
    /// arrived first; or the last.
    pub keep: Arrival,
    /// Whether rows have a place in a file, and so an order of arrival. Else those that are alike are
    /// told apart by their columns.
    pub has_place: bool,
    /// The columns that are kept of each row. After planning: those that something reads and the key
    /// does not hold.
    pub columns: Vec<Column>,
    /// Whether the bytes of each record are kept. Decided by the plan.
    pub raw: bool,
    /// Whether no row is ever taken back and nobody reads those that are not among the first. After
    /// planning; before, whether no row is ever taken back.
    pub only_first: bool,
}

/// One term of an order.
#[derive(Clone, Debug)]
pub struct OrderTerm {
    /// What is compared.
    pub value: Expr,
    /// Which value comes first.
    pub direction: Direction,
    /// Where NULLs stand.
    pub nulls: Nulls,
}

impl OrderTerm {
    /// Returns the term as SQL writes it, complete.
    pub fn text(&self) -> String {
        let direction = if self.direction == Direction::Descending { " desc" } else { "" };
        let nulls = match (self.direction, self.nulls) {
            (Direction::Ascending, Nulls::Last) => " nulls last",
            (Direction::Descending, Nulls::First) => " nulls first",
            _ => "",
        };
        format!("{}{direction}{nulls}", self.value.text())
    }
}

impl OrderedRows {
    /// Returns the key columns.
    pub fn keys(&self) -> Vec<Column> {
        kinds(&self.by)
    }

    /// Returns what the bytes of a kept row hold. Where the last row is kept, it comes first.
    pub fn layout(&self) -> RowLayout {
        let column = |term: &OrderTerm| {
            let (kind, direction, nulls) = (term.value.kind(), term.direction, term.nulls);
            let column = OrderColumn { kind, direction, nulls };
            if self.keep == Arrival::Last { column.reversed() } else { column }
        };
        RowLayout {
            order: self.order.iter().map(column).collect(),
            arrival: self.has_place.then_some(self.keep),
            columns: self.columns.clone(),
            raw: self.raw,
            tail: Vec::new(),
        }
    }
}

/// Returns what a `dedupe` does and the stream of its ports.
pub(super) fn dedupe(
    operator: &OperatorSpec,
    by: &[NamedSpec],
    keep: Arrival,
    order: &[Text],
    input: &Stream,
    mistakes: &mut Mistakes<'_>,
) -> (Option<OperatorKind>, Stream) {
    if let (Some(passed), [], false) = (&input.changed_by, order, input.has_place) {
        let message = format!(
            "rows of {} arrive in no order: nothing says which one to keep",
            quoted(passed)
        );
        operator.name.wrong(mistakes, message, "say `order: [...]`".to_owned());
    }
    let rows = rows((by, order), keep, input, mistakes);
    let schema = rows.as_ref().and(input.schema.clone());
    (rows.map(|rows| OperatorKind::Dedupe { rows }), behind(operator, schema, input))
}

/// Returns what a `top` does and the stream of its port.
pub(super) fn top(
    operator: &OperatorSpec,
    count: u32,
    (by, order, rank): (&[NamedSpec], &[Text], Option<&Text>),
    input: &Stream,
    mistakes: &mut Mistakes<'_>,
) -> (Option<OperatorKind>, Stream) {
    let rows = rows((by, order), Arrival::First, input, mistakes);
    let mut schema = rows.as_ref().and(input.schema.clone());
    if let (Some(rank), Some(columns)) = (rank, &mut schema) {
        if columns.column(&rank.text).is_some() {
            let message = format!("there is a column {} already", quoted(&rank.text));
            rank.wrong(mistakes, message, "give the rank another name".to_owned());
        }
        let ranked = columns.columns().iter().cloned();
        *columns = Schema::new(ranked.chain([Column::new(&rank.text, Type::Int)]).collect());
    }
    let rank = rank.map(|rank| rank.text.clone());
    let kind = rows.map(|rows| OperatorKind::Top { rows, count: count.into(), rank });
    (kind, behind(operator, schema, input))
}

fn behind(operator: &OperatorSpec, schema: Option<Schema>, input: &Stream) -> Stream {
    // A row that wins is taken back when another one comes before it.
    let changed_by = Some(operator.name.text.clone());
    Stream { schema, changed_by, has_place: input.has_place, append_only: false }
}

/// Returns the rows of a key in an order, checked.
pub(super) fn rows(
    (by, order): (&[NamedSpec], &[Text]),
    keep: Arrival,
    input: &Stream,
    mistakes: &mut Mistakes<'_>,
) -> Option<OrderedRows> {
    let schema = input.schema.as_ref()?;
    let by = every(by, |column| named(column, schema, mistakes));
    let order = every(order, |text| term(text, schema, mistakes));
    let (has_place, columns) = (input.has_place, schema.columns().to_vec());
    let only_first = input.append_only;
    Some(OrderedRows { by: by?, order: order?, keep, has_place, columns, raw: false, only_first })
}

/// Takes the words off the end of a term that say in which direction it orders.
fn term(text: &Text, schema: &Schema, mistakes: &mut Mistakes<'_>) -> Option<OrderTerm> {
    let (rest, nulls_first) = without_suffix(&text.text, &["nulls", "first"]);
    let (rest, nulls_last) = without_suffix(rest, &["nulls", "last"]);
    let (rest, ascending) = without_suffix(rest, &["asc"]);
    let (rest, descending) = without_suffix(rest, &["desc"]);
    if rest.is_empty() || (nulls_first && nulls_last) || (ascending && descending) {
        let hint = "for example `bytes desc`, `ts`, `price desc nulls first`".to_owned();
        text.wrong(mistakes, format!("not an order: {}", quoted(&text.text)), hint);
        return None;
    }
    let written = Text { text: rest.to_owned(), ..text.clone() };
    let value = expression(&written, schema, mistakes)?;
    let direction = if descending { Direction::Descending } else { Direction::Ascending };
    // NULL is less than every value, as in the order of tables.
    let nulls = match direction {
        _ if nulls_first => Nulls::First,
        _ if nulls_last => Nulls::Last,
        Direction::Ascending => Nulls::First,
        Direction::Descending => Nulls::Last,
    };
    Some(OrderTerm { value, direction, nulls })
}

/// Returns a text without these words at its end, and whether they stood there.
fn without_suffix<'t>(text: &'t str, words: &[&str]) -> (&'t str, bool) {
    let mut rest = text.trim_end();
    for word in words.iter().rev() {
        let Some(cut) = rest.len().checked_sub(word.len()) else { return (text, false) };
        let is_word = rest.get(cut..).is_some_and(|end| end.eq_ignore_ascii_case(word));
        let before = rest.get(..cut).unwrap_or_default();
        let stands_alone = before.is_empty() || before.ends_with([' ', '\t', '\n', ')', '"']);
        if !is_word || !stands_alone {
            return (text, false);
        }
        rest = before.trim_end();
    }
    (rest, true)
}
