//! Candidate: a row that may be picked, as bytes whose order says which row is picked: the least.
//!
//! Owns the encoding; what is held and kept is made of it, so it changes only with
//! [`ROW_FORMAT`](super::ROW_FORMAT).
//!
//! | `min`, `max`         | the cell as in a key; for `max` every byte is turned over               |
//! | `first`, `arg_min`   | the cells of the order, each turned over when it descends; 24 bytes of  |
//! |                      | arrival where that counts; then the picked cell, and in the last four   |
//! |                      | bytes the length of what stands before it                               |
//! | `last`, `arg_max`    | the same with all that stands before the picked cell turned over        |
//! | place                | 24 bytes of arrival: submission, chunk, position                        |
//!
//! The cell of a key is no prefix of another one, so bytes that are turned over sort backwards.

use arrow_array::{Array, ArrayRef, UInt64Array};

use super::{AggregateSpec, Computed, Function, Hold, Sort};
use crate::batch::Origin;
use crate::key::{self, KeyEncoder};
use crate::types::{Column, Type};

/// How long the arrival of a row is: submission, chunk and position, 8 bytes each.
pub(super) const ARRIVAL_BYTES: usize = 24;

/// How long what stands behind the picked cell is.
const LENGTH_BYTES: usize = 4;

/// Where the rows of a batch stand: what they are ordered by when they are ordered by arrival.
#[derive(Clone, Copy, Debug)]
pub struct Arrivals<'a> {
    /// The chunk they were read from.
    pub origin: Origin,
    /// Where each stands in it.
    pub positions: &'a UInt64Array,
}

impl Arrivals<'_> {
    fn append(&self, row: usize, out: &mut Vec<u8>) {
        for part in [self.origin.submission, self.origin.chunk, self.positions.value(row)] {
            out.extend_from_slice(&part.to_be_bytes());
        }
    }
}

/// One aggregate over one batch, ready to encode its rows.
pub(super) struct CandidateEncoder<'a> {
    function: Function,
    order: Vec<(&'a ArrayRef, KeyEncoder<'a>, Sort)>,
    arrivals: Option<Arrivals<'a>>,
    argument: Option<(&'a ArrayRef, KeyEncoder<'a>)>,
}

impl<'a> CandidateEncoder<'a> {
    /// Takes what an aggregate reads of a batch.
    ///
    /// # Panics
    /// When arrival counts and the batch does not know it; the plan asks for it.
    pub(super) fn new(
        computed: &Computed,
        argument: Option<&'a ArrayRef>,
        order: &'a [ArrayRef],
        arrivals: Option<Arrivals<'a>>,
    ) -> Self {
        let sorts = order.iter().zip(&computed.order);
        let sorts = sorts.map(|(array, sort)| (array, KeyEncoder::new([array]), *sort));
        let needed = || arrivals.expect("rows that are ordered by arrival know their place");
        Self {
            function: computed.function,
            order: sorts.collect(),
            arrivals: computed.arrival.then(needed),
            argument: argument.map(|array| (array, KeyEncoder::new([array]))),
        }
    }

    /// Appends the candidate of a row; returns whether the row is one.
    pub(super) fn append(&self, row: usize, out: &mut Vec<u8>) -> bool {
        let from = out.len();
        if !self.function.is_pick() {
            let Some((array, cell)) = &self.argument else { return false };
            if array.is_null(row) {
                return false;
            }
            cell.append(row, out);
            turn_over_if(self.function.is_backwards(), &mut out[from..]);
            return true;
        }
        for (array, cell, sort) in &self.order {
            if self.function.skips_null_order() && array.is_null(row) {
                out.truncate(from);
                return false;
            }
            let at = out.len();
            cell.append(row, out);
            if out[at] == 0 && sort.nulls_first == sort.descending {
                out[at] = 2; // NULL, on the other side of all values
            }
            turn_over_if(sort.descending, &mut out[at..]);
        }
        if let Some(arrivals) = &self.arrivals {
            arrivals.append(row, out);
        }
        turn_over_if(self.function.is_backwards(), &mut out[from..]);
        if self.function == Function::Place {
            return true;
        }
        let length = u32::try_from(out.len() - from).expect("an order is shorter than 4 GiB");
        match &self.argument {
            Some((_, cell)) => cell.append(row, out),
            None => out.push(0),
        }
        out.extend_from_slice(&length.to_le_bytes());
        true
    }
}

fn turn_over_if(condition: bool, bytes: &mut [u8]) {
    if condition {
        bytes.iter_mut().for_each(|byte| *byte = !*byte);
    }
}

/// Returns the candidate of an extremum that is a word.
pub(super) fn of_word(function: Function, kind: Type, word: u64) -> Vec<u8> {
    let mut bytes = vec![1];
    match kind {
        Type::Bool => bytes.push(word as u8),
        _ => bytes.extend_from_slice(&word.to_be_bytes()),
    }
    turn_over_if(function.is_backwards(), &mut bytes);
    bytes
}

/// Returns the candidate of an extremum that is a text.
pub(super) fn of_text(function: Function, text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len() + 2);
    key::append_text(text.as_bytes(), &mut bytes);
    turn_over_if(function.is_backwards(), &mut bytes);
    bytes
}

/// Returns the encoded cell that a candidate stands for, or nothing if no such candidate was encoded.
pub(super) fn picked(function: Function, candidate: &[u8]) -> Option<Vec<u8>> {
    match function {
        Function::Place => (candidate.len() == ARRIVAL_BYTES).then(|| candidate.to_vec()),
        Function::Max => Some(candidate.iter().map(|byte| !byte).collect()),
        Function::Min => Some(candidate.to_vec()),
        _ => {
            let (rest, length) = candidate.split_last_chunk::<LENGTH_BYTES>()?;
            rest.get(u32::from_le_bytes(*length) as usize..).map(<[u8]>::to_vec)
        }
    }
}

/// Returns whether bytes are a candidate of this aggregate.
pub(super) fn is_candidate(computed: &Computed, candidate: &[u8]) -> bool {
    picked(computed.function, candidate).is_some_and(|cell| is_picked(computed, &cell))
}

/// Returns whether bytes are the cell that this aggregate picks.
pub(super) fn is_picked(computed: &Computed, cell: &[u8]) -> bool {
    match computed.function {
        Function::Place => cell.len() == ARRIVAL_BYTES,
        _ => is_cell(computed.kind, cell),
    }
}

/// Returns whether bytes are one encoded cell of a type.
fn is_cell(kind: Type, cell: &[u8]) -> bool {
    key::check(cell, &[Column::new("", kind)]).is_ok()
}

/// How many bytes say to which computed column a held value belongs.
pub(super) const LANE_BYTES: usize = 2;

/// Returns what the held values of a computed column begin with; `lane` counts those with a state.
pub(super) fn lane_prefix(lane: usize) -> [u8; LANE_BYTES] {
    u16::try_from(lane).expect("an aggregate computes fewer than 65,536 columns").to_be_bytes()
}

/// Returns whether bytes are a held value of this aggregate.
pub(super) fn is_held(spec: &AggregateSpec, value: &[u8]) -> bool {
    let Some((lane, value)) = value.split_first_chunk::<LANE_BYTES>() else { return false };
    let Some(computed) = spec.stated().nth(usize::from(u16::from_be_bytes(*lane))) else {
        return false;
    };
    match spec.hold(computed) {
        Some(Hold::Candidates) => is_candidate(computed, value),
        Some(Hold::Distinct) => computed.argument.is_some_and(|kind| is_cell(kind, value)),
        Some(Hold::Levels) => super::registers::is_level(value),
        None => false,
    }
}
