//! Checks: what a reader looks at beyond the grammar of its records: conditions, totals, lines that are no
//! records. Derived from the plan.

use arrow_array::cast::AsArray;
use arrow_array::types::{Decimal128Type, Float64Type, Int64Type};
use tidemill_operators::expect::Expect;
use tidemill_operators::{Batch, Reject, Type};
use tidemill_store::Frame;

use crate::contract::total::Total;
use crate::plan::SourcePlan;

/// What a reader checks of the files of its source.
#[derive(Clone, Debug)]
pub struct Checks {
    /// Which lines are no records.
    pub frame: Frame,
    /// The columns that are added up.
    totals: Vec<String>,
    expect: Option<Expect>,
}

impl Checks {
    /// Returns the checks of a source.
    pub fn of(source: &SourcePlan) -> Self {
        let contract = source.contract.as_ref();
        let expect = || Expect::new(source.expect.clone(), source.output.shape.clone());
        let columns = contract.iter().flat_map(|one| &one.totals).map(|(column, _)| column.clone());
        let totals: Vec<String> = columns.collect();
        // What is only added up is not handed on either.
        let is_needed = !source.expect.is_empty() || !totals.is_empty();
        Self { frame: source.frame(), totals, expect: is_needed.then(expect) }
    }

    /// Returns what the columns of a batch add up to, if that is asked for.
    pub fn totals(&self, batch: Option<&Batch>) -> Option<Vec<Total>> {
        if self.totals.is_empty() {
            return None;
        }
        Some(self.totals.iter().map(|column| total(batch, column)).collect())
    }

    /// Returns the rows that meet all conditions, with the columns that something reads, and a reject
    /// for each of the others.
    pub fn divide(&self, source: &str, batch: Batch) -> (Batch, Vec<Reject>) {
        match &self.expect {
            Some(expect) => expect.divide(source, &batch),
            None => (batch, Vec::new()),
        }
    }
}

fn total(batch: Option<&Batch>, column: &str) -> Total {
    let mut total = Total::default();
    let Some(values) = batch.and_then(|batch| batch.columns.column_by_name(column)) else {
        return total;
    };
    if *values.data_type() == Type::Int.arrow() {
        values.as_primitive::<Int64Type>().iter().flatten().for_each(|value| total.add_int(value));
    } else if *values.data_type() == Type::Float.arrow() {
        let values = values.as_primitive::<Float64Type>();
        values.iter().flatten().for_each(|value| total.add_float(value));
    } else if let Some(values) = values.as_primitive_opt::<Decimal128Type>() {
        // Ours have no negative scale.
        let scale = values.scale().unsigned_abs();
        values.iter().flatten().for_each(|units| total.add_decimal(units, scale));
    }
    total
}
