//! Keyed: what operators share that keep the rows of a key, put into the dataflow of a plan: rows are
//! gathered, arranged, kept for checkpoints and restored from them. One such operator whole: rows of
//! a key in an order (`dedupe`, `top`).

use arrow_array::{ArrayRef, BooleanArray};
use differential_dataflow::operators::arrange::Arranged;
use tidemill_operators::batch::Batch;
use tidemill_operators::expr::{Expr, RowError};
use tidemill_operators::flow::{self, reject_row};
use tidemill_operators::keep::keep;
use tidemill_operators::keyed::{
    self, Incoming, Inputs, KeptPacked, Logic, Port, RowLayout, Trace, Update, arrange,
    arrange_first, changes, decode_kept,
};
use tidemill_operators::rounds::Rounds;
use tidemill_operators::shards::Mark;
use tidemill_operators::tally::Tally;
use tidemill_operators::{Column, RejectCode, Schema, Time, Type};
use timely::dataflow::operators::core::Map as _;
use timely::dataflow::operators::{Concat, Probe};
use timely::dataflow::{ProbeHandle, StreamVec};

use crate::checkpoint::keeper::{Desk, PackPlace};
use crate::checkpoint::restore::restored;
use crate::checkpoint::{Order, StatePart, state_parts};
use crate::plan::{OperatorKind, OperatorPlan, OrderedRows};
use crate::render::operator::capitalised;
use crate::render::timed::session_tail;
use crate::render::{Batches, Rejects, Rendering, together, waits_for_verdict};

pub(super) type Updates<'scope> = StreamVec<'scope, Time, Update>;

/// The epochs that failed; there if the plan keeps state.
pub(super) type Poison<'scope> = Option<StreamVec<'scope, Time, u64>>;

impl<'scope> Rendering<'scope, '_> {
    /// Gathers what an operator reads: its rows once their file is whole, and its rejects. `side`
    /// tells the inputs of an operator apart; it is empty for the only one.
    pub(super) fn gathered(
        &mut self,
        operator: &OperatorPlan,
        (rows, poison, rounds): (Batches<'scope>, Poison<'scope>, Rounds),
        side: &str,
        layout: RowLayout,
        tally: Tally,
        evaluate: impl FnMut(&Batch) -> Inputs + 'static,
    ) -> (Updates<'scope>, Rejects<'scope>) {
        let poison = poison.expect("a plan that keeps state has the stream of failed files");
        let title = self.state_title(operator, side);
        let incoming = Incoming { rows, poison, rounds };
        let (updates, rejects) =
            keyed::gather(&title, &operator.name, incoming, layout, tally, evaluate);
        // A file that is gathered has been read: nobody waits for what is said of it.
        let probe = ProbeHandle::new();
        let updates = updates.probe_with(&probe);
        self.flow.follow(probe);
        if !waits_for_verdict(self.plan, operator) {
            self.of_records.push(rejects.clone());
        }
        (updates, rejects)
    }

    /// Arranges rows by key, as a part of the state of an operator that is kept in checkpoints.
    pub(super) fn arranged(
        &mut self,
        at: usize,
        operator: &OperatorPlan,
        part: StatePart,
        updates: Updates<'scope>,
        columns: (Vec<Column>, RowLayout),
    ) -> Arranged<'scope, Trace> {
        let arranging = |title: &str, updates| (arrange(title, updates), ());
        self.arranged_by(at, operator, part, updates, columns, arranging).0
    }

    /// The same, by a way of its own that all rows go, the restored ones too.
    pub(super) fn arranged_by<T>(
        &mut self,
        at: usize,
        operator: &OperatorPlan,
        part: StatePart,
        updates: Updates<'scope>,
        (keys, layout): (Vec<Column>, RowLayout),
        arranging: impl FnOnce(&str, Updates<'scope>) -> (Arranged<'scope, Trace>, T),
    ) -> (Arranged<'scope, Trace>, T) {
        let title = self.state_title(operator, part.name);
        let Some(orders) = self.orders.clone() else {
            return arranging(&title, updates);
        };
        let PackPlace { folder, state, .. } = self.pack_place(at, operator, part);
        let decode = move |bytes: &[u8]| decode_kept(bytes, &keys, &layout);
        let before = restored(&title, orders, folder, state, decode);
        let (arranged, beside) = arranging(&title, updates.concat(before));
        self.keep(at, operator, part, &arranged);
        (arranged, beside)
    }

    /// Lets an arrangement be written down for checkpoints, as a part of the state of an operator.
    pub(super) fn keep(
        &mut self,
        at: usize,
        operator: &OperatorPlan,
        part: StatePart,
        arranged: &Arranged<'scope, Trace>,
    ) {
        let Some(orders) = self.orders.clone() else { return };
        let title = self.state_title(operator, part.name);
        let packs = self.pack_place(at, operator, part);
        let marks = orders
            .flat_map(|order| if let Order::Mark(mark) = order { Some(mark) } else { None })
            .container::<Vec<Mark>>();
        let keeper = self.keeper.clone();
        let sink = move |wake| Desk::new(keeper, packs, wake);
        self.kept.push(keep::<KeptPacked, _, _>(&title, arranged.clone(), marks, sink));
    }

    /// What statistics call the parts of an operator that keep state: they end with its place, so that
    /// their time is its time.
    pub(super) fn state_title(&self, operator: &OperatorPlan, side: &str) -> String {
        let gap = if side.is_empty() { "" } else { " " };
        format!("{side}{gap}{}/{}", self.plan.name, operator.name)
    }

    /// Builds an operator that says something of the rows of each key, in their order.
    pub(super) fn ordered(
        &mut self,
        (at, operator): (usize, &OperatorPlan),
        (input, poison): (Batches<'scope>, Poison<'scope>),
        rows: &OrderedRows,
        evaluate: impl FnMut(&Batch) -> Inputs + 'static,
        logic: impl Logic + 'static,
        tally: Tally,
    ) -> flow::Flow<'scope> {
        let rounds = self.rounds(at, &[]);
        let (layout, keys) = (rows.layout(), rounds.before_keys(rows.keys()));
        let input = (input, poison, rounds);
        let (updates, rejects) =
            self.gathered(operator, input, "", layout.clone(), tally.clone(), evaluate);
        let part = state_parts(&operator.kind)[0];
        let columns = (keys.clone(), layout.clone());
        let arranging = |title: &str, updates| match operator.kind.keeps_first() {
            Some(count) => (arrange_first(title, updates, count), ()),
            None => (arrange(title, updates), ()),
        };
        let (arranged, ()) = self.arranged_by(at, operator, part, updates, columns, arranging);
        let mut given = layout;
        given.tail = match &operator.kind {
            OperatorKind::Top { rank: Some(rank), .. } => vec![Column::new(rank, Type::Int)],
            OperatorKind::State { machine, .. } => machine.added(),
            OperatorKind::Session { .. } => session_tail(),
            _ => Vec::new(),
        };
        let port = |port: &crate::plan::Port| Port {
            layout: given.clone(),
            shape: port.shape.clone(),
            used: port.used,
        };
        let ports = operator.outputs.iter().map(port).collect();
        let word = capitalised(operator.kind.word());
        let title = format!("{word} {}/{}", self.plan.name, operator.name);
        let said = changes(&title, &operator.name, arranged, &keys, ports, logic, tally);
        let rejects = together(self.scope, vec![rejects, said.rejects]);
        flow::Flow { tags: said.tags, rejects }
    }
}

/// Returns what reads the rows of a batch.
pub(super) fn evaluation(
    name: String,
    rows: &OrderedRows,
    layout: &RowLayout,
) -> impl FnMut(&Batch) -> Inputs + use<> {
    let keys: Vec<Expr> = rows.by.iter().map(|(_, key)| key.clone()).collect();
    let order: Vec<Expr> = rows.order.iter().map(|term| term.value.clone()).collect();
    let kept = Schema::new(layout.columns.clone());
    move |batch| {
        let mut expressions = Evaluation::of(batch);
        let keys = keys.iter().map(|key| expressions.values(key)).collect();
        let order = order.iter().map(|term| expressions.values(term)).collect();
        let (skip, rejects) = expressions.finish(&name);
        let values = batch.pick(&kept).columns().to_vec();
        Inputs { keys, order, values, skip, rejects }
    }
}

/// Expressions over one batch, and the rows on which one of them failed.
pub(super) struct Evaluation<'b> {
    batch: &'b Batch,
    errors: Vec<RowError>,
}

impl<'b> Evaluation<'b> {
    /// Returns an evaluation over this batch.
    pub(super) const fn of(batch: &'b Batch) -> Self {
        Self { batch, errors: Vec::new() }
    }

    /// Returns the values of an expression; rows that failed hold NULL.
    pub(super) fn values(&mut self, expr: &Expr) -> ArrayRef {
        let evaluated = expr.evaluate(&self.batch.columns);
        self.errors.extend(evaluated.errors);
        evaluated.values
    }

    /// Returns the rows that failed, if there are any, and one reject for each, in the name of an
    /// operator.
    pub(super) fn finish(
        mut self,
        name: &str,
    ) -> (Option<BooleanArray>, Vec<tidemill_operators::Reject>) {
        self.errors.sort_by_key(|error| error.row);
        self.errors.dedup_by_key(|error| error.row);
        let skip = (!self.errors.is_empty()).then(|| {
            let mut skip = vec![false; self.batch.len()];
            self.errors.iter().for_each(|error| skip[error.row as usize] = true);
            BooleanArray::from(skip)
        });
        let reject = |error: RowError| {
            let (row, code) = (error.row as usize, RejectCode::Expression);
            reject_row(name, self.batch, row, code, error.message)
        };
        (skip, self.errors.into_iter().map(reject).collect())
    }
}
