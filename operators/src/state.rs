//! State: a machine per key that is run over the records of the key in order, and decides by which tag
//! each of them leaves.
//!
//! | input  | the records of a key, in the order that decides ([`crate::keyed`])                      |
//! | output | each record by one tag, with the columns that the machine adds; or by none              |
//! | state  | every record, those long past included: one that comes late or goes changes what follows |
//! | errors | expressions of the machine that fail on a record are told; the record leaves all the same |
//! | leaves | a record leaves memory when it is taken back, or is final (`horizon`)                    |
//! | cost   | the machine runs over all records of each key that an epoch touched, twice               |

mod machine;

pub use machine::{Leave, Machine, MachineSpec, Moment, Outcome, STATE, Transition, Variable};
