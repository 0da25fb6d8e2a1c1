//! States: what an accumulator knows besides how many rows there are, one [`State`] for each
//! computed column.
//!
//! Most aggregates have one sum, and an arrangement copies accumulators whenever it merges: one state
//! lies in place, and only several are an allocation.

use std::ops::{Deref, DerefMut};

use serde::{Deserialize, Serialize};

use super::accumulator::State;

/// The states of one accumulator, in the order of the columns.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct States(Lying);

/// Where the states are. One state is always in place.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
enum Lying {
    InPlace(State),
    Apart(Box<[State]>),
}

impl States {
    /// Returns whether the states are an allocation.
    pub(super) const fn lie_apart(&self) -> bool {
        matches!(self.0, Lying::Apart(_))
    }
}

impl Deref for States {
    type Target = [State];

    fn deref(&self) -> &[State] {
        match &self.0 {
            Lying::InPlace(state) => std::slice::from_ref(state),
            Lying::Apart(states) => states,
        }
    }
}

impl DerefMut for States {
    fn deref_mut(&mut self) -> &mut [State] {
        match &mut self.0 {
            Lying::InPlace(state) => std::slice::from_mut(state),
            Lying::Apart(states) => states,
        }
    }
}

impl Default for States {
    /// Returns no state.
    fn default() -> Self {
        Self(Lying::Apart(Box::default()))
    }
}

impl Clone for States {
    fn clone(&self) -> Self {
        match &self.0 {
            Lying::InPlace(state) => Self(Lying::InPlace(state.clone())),
            Lying::Apart(states) => Self(Lying::Apart(states.clone())),
        }
    }

    /// Copies into the allocation that is there, if it is as large.
    fn clone_from(&mut self, source: &Self) {
        match (&mut self.0, &source.0) {
            (Lying::Apart(states), Lying::Apart(source)) => states.clone_from(source),
            _ => *self = source.clone(),
        }
    }
}

impl FromIterator<State> for States {
    fn from_iter<I: IntoIterator<Item = State>>(states: I) -> Self {
        let mut states = states.into_iter();
        let (first, second) = (states.next(), states.next());
        match (first, second) {
            (Some(only), None) => Self(Lying::InPlace(only)),
            (first, second) => {
                Self(Lying::Apart(first.into_iter().chain(second).chain(states).collect()))
            }
        }
    }
}

impl<const N: usize> From<[State; N]> for States {
    fn from(states: [State; N]) -> Self {
        states.into_iter().collect()
    }
}
