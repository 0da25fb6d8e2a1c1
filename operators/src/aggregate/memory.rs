//! Memory: what the arrangement of accumulators takes.
//!
//! What lies in the arrangement itself is counted. What the states hold elsewhere (texts, sums of
//! floats, buckets) is estimated from a few accumulators of each piece, so that a look costs the same
//! whether there are a hundred keys or ten million.

use differential_dataflow::trace::TraceReader;

use super::accumulator::{Accumulator, Counted, FloatSum, State};
use super::arranged::Trace;
use super::moments::Moments;
use crate::decimal::WideSum;
use crate::keyed::offsets;
use crate::time::Time;

/// How many accumulators of a piece are looked at.
const SAMPLES: usize = 4;

/// Returns how many bytes an arrangement of accumulators takes at this moment. Costs a look at a few
/// entries of each of its few pieces.
pub(super) fn size(trace: &Trace) -> usize {
    let mut bytes = 0;
    trace.map_spans(|span| {
        let Some(piece) = &span.inner else { return };
        let (keys, updates) = (&piece.storage.keys, &piece.storage.upds);
        bytes += keys.size() + offsets(&updates.offs);
        bytes += updates.times.len() * size_of::<Time>();
        bytes += updates.diffs.len() * size_of::<Accumulator>() + estimate(&updates.diffs);
    });
    bytes
}

/// Estimates what accumulators hold outside of their list.
fn estimate(accumulators: &[Accumulator]) -> usize {
    let step = accumulators.len().div_ceil(SAMPLES).max(1);
    let samples = accumulators.iter().step_by(step);
    let (looked_at, bytes) =
        samples.fold((0, 0), |(count, bytes), one| (count + 1, bytes + elsewhere(one)));
    (bytes * accumulators.len()).checked_div(looked_at).unwrap_or(0)
}

/// Returns what one accumulator holds outside of itself.
fn elsewhere(accumulator: &Accumulator) -> usize {
    let states = &accumulator.states;
    let apart = if states.lie_apart() { size_of_val::<[State]>(states) } else { 0 };
    apart + states.iter().map(of_state).sum::<usize>()
}

fn of_state(state: &State) -> usize {
    match state {
        State::Count(_) | State::Int { .. } | State::MinWord(_) | State::MaxWord(_) => 0,
        State::Wide(_) => size_of::<(i64, i128)>(),
        State::Float(float) => size_of::<FloatSum>() + float.sum.elsewhere(),
        State::Decimal(_) => size_of::<(i64, WideSum)>(),
        State::MinText(text) | State::MaxText(text) => text.as_ref().map_or(0, |text| text.len()),
        State::Best(best) => best.as_ref().map_or(0, |best| best.len()),
        State::Picked(cells) => of_list(cells) + cells.iter().map(|(c, _)| c.len()).sum::<usize>(),
        State::Counted(counted) => of_list(counted),
        State::Moments(moments) => {
            size_of::<Moments>() + moments.sum.elsewhere() + moments.squares.elsewhere()
        }
    }
}

fn of_list<K>(counted: &Counted<K>) -> usize {
    size_of_val::<[(K, i64)]>(counted)
}
