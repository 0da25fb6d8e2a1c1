//! Next: what a life that was ended by a deployment leaves to the one behind it. Derived; the journal has
//! it, too. Starts nothing.

use std::fmt;

use crate::plan::Plan;
use crate::start::Config;

/// What a life that was ended by a deployment leaves to the next one. All files of that pipeline are
/// finished, and the journal knows.
#[derive(Debug)]
pub enum Next {
    /// A plan takes over, or comes in addition.
    TakesOver(Box<Plan>),
    /// The pipeline of this name runs no more.
    Leaves(String),
}

impl Next {
    /// Changes what the next life runs.
    pub fn change(self, config: &mut Config) {
        // What was given is the beginning of what was deployed since.
        config.forget_deployed = false;
        match self {
            Next::Leaves(pipeline) => {
                config.plans.retain(|plan| plan.name != pipeline);
                config.added.remove(&pipeline);
            }
            Next::TakesOver(next) => {
                match config.plans.iter_mut().find(|plan| plan.name == next.name) {
                    Some(plan) => *plan = *next,
                    None => {
                        config.added.insert(next.name.clone());
                        config.plans.push(*next);
                    }
                }
            }
        }
    }
}

impl fmt::Display for Next {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Next::TakesOver(plan) => {
                write!(f, "a changed file of pipeline {} takes over", plan.name)
            }
            Next::Leaves(pipeline) => write!(f, "pipeline {pipeline} leaves"),
        }
    }
}
