//! Mutate: leaves out one barrier of the protocol after the other and says which cut notices.
//!
//! A test that would not notice is no test. Needs a binary built with the feature `mutations`; what
//! can be left out is written in `engine/store/src/barrier.rs`, and read from there.

use super::calls::{folder_faults, log_faults};
use super::place::{Case, Subject};
use super::power::{Before, Plan, campaign};

/// The list of the barriers, as the binary knows it.
const SOURCE: &str = include_str!("../../../engine/store/src/barrier.rs");

/// Cuts in one life before another kind of life is tried.
const CUTS: usize = 10;

/// A barrier, as the protocol names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Barrier {
    /// Its name.
    pub name: &'static str,
    /// What it does.
    pub what: &'static str,
}

/// Returns all barriers, in the order of a file's life.
pub fn barriers() -> Vec<Barrier> {
    let line = |line: &'static str| {
        let mut words = line.strip_prefix("    (\"")?.split('"');
        Some(Barrier { name: words.next()?, what: words.nth(1)? })
    };
    SOURCE.lines().filter_map(line).collect()
}

/// What became of a barrier that was left out.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// How often the power was cut, or a call failed, until something was wrong, or in vain.
    pub tries: usize,
    /// By what it was noticed, and what was wrong.
    pub noticed: Option<(String, String)>,
}

/// Leaves out one barrier, and tries until something is wrong; at most `rounds` times everything.
pub fn leave_out(barrier: Barrier, subject: &Subject, rounds: usize) -> Verdict {
    let mut subject = subject.clone();
    subject.environment.push(("TIDEMILL_MUTATION".to_owned(), barrier.name.to_owned()));
    let by_calls = match barrier.name {
        "log-errors" => Some(("a long log", log_faults(&subject))),
        "R2" => Some(("the folder of a home", folder_faults(&subject))),
        _ => None,
    };
    if let Some((what, outcome)) = by_calls {
        let noticed = outcome.err().map(|wrong| (format!("syscall_faults, {what}"), wrong));
        return Verdict { tries: 1, noticed };
    }
    let mut tries = 0;
    for round in 0..rounds {
        // Last first: whoever was told something notices most.
        for before in Before::ALL.into_iter().rev() {
            for case in Case::all() {
                let plan = Plan {
                    before: vec![before],
                    lives: 1,
                    cuts: CUTS,
                    seed: 100 + round as u64,
                    until_wrong: true,
                };
                let report = campaign(&case, &subject, &plan);
                tries += report.total();
                if let Some(wrong) = report.wrong.into_iter().next() {
                    let by = format!("power_cut, {before:?}, {}", case.name);
                    return Verdict { tries, noticed: Some((by, wrong)) };
                }
            }
        }
    }
    Verdict { tries, noticed: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_barriers_are_read_from_the_source() {
        let all = barriers();
        assert_eq!(all.first().map(|first| first.name), Some("A1"));
        let count = SOURCE.split("BARRIERS: [(&str, &str); ").nth(1).unwrap();
        assert_eq!(count.split(']').next().unwrap().parse(), Ok(all.len()));
        assert!(all.iter().all(|barrier| barrier.what.contains(' ')));
    }
}
