//! Retry: whether something that failed is tried again, and when. A pure decision; it neither waits
//! nor looks at a clock.
//!
//! | class | what it means | examples |
//! |---|---|---|
//! | permanent | trying again gives the same | the file is changed, packed wrongly, no file |
//! | transient | it may pass by itself | EIO, ESTALE, EACCES, the file is not there (yet) |
//! | timeout | something did not answer in time | ETIMEDOUT, a host that is not reached |
//! | resource | something is used up | ENOSPC, EDQUOT, EMFILE, ENOMEM |
//!
//! Never of a sync that failed: behind that nothing may be believed, and the process ends. What is tried:
//! to read a file, to take one in, to make outputs visible.

use std::io;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What kind of failure something is. What is more lasting comes first: where several things failed,
/// it decides.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default,
)]
pub enum Class {
    /// Trying again gives the same.
    #[default]
    Permanent,
    /// Something is used up.
    Resource,
    /// Something did not answer in time.
    Timeout,
    /// It may pass by itself.
    Transient,
}

impl Class {
    /// All classes, in the order in which a person reads them.
    pub const ALL: [Class; 4] =
        [Class::Permanent, Class::Transient, Class::Timeout, Class::Resource];

    /// Returns the word that people and programs see.
    pub const fn word(self) -> &'static str {
        match self {
            Class::Permanent => "permanent",
            Class::Resource => "resource",
            Class::Timeout => "timeout",
            Class::Transient => "transient",
        }
    }

    /// Returns the class of an error of the system while a file is read.
    pub fn of_read(error: &io::Error) -> Class {
        use io::ErrorKind as Kind;
        match error.kind() {
            Kind::NotFound | Kind::PermissionDenied | Kind::StaleNetworkFileHandle => {
                Class::Transient
            }
            Kind::Interrupted | Kind::WouldBlock | Kind::ResourceBusy | Kind::Deadlock => {
                Class::Transient
            }
            Kind::ConnectionReset | Kind::ConnectionAborted | Kind::NotConnected => {
                Class::Transient
            }
            Kind::TimedOut
            | Kind::HostUnreachable
            | Kind::NetworkUnreachable
            | Kind::NetworkDown => Class::Timeout,
            Kind::StorageFull | Kind::QuotaExceeded | Kind::OutOfMemory => Class::Resource,
            // Without a kind of their own: EIO; EMFILE, ENFILE, ENOBUFS; EREMOTEIO.
            _ => match error.raw_os_error() {
                Some(5 | 121) => Class::Transient,
                Some(23 | 24 | 105) => Class::Resource,
                _ => Class::Permanent,
            },
        }
    }

    /// Returns the class of an error of the system while a file is put somewhere; `None` of one that must
    /// not be tried again: a sync that failed.
    pub fn of_write(error: &io::Error) -> Option<Class> {
        let cause = tidemill_store::cause(error);
        cause.raw_os_error()?;
        Some(match cause.kind() {
            // A file system that is mounted again, or a folder that is put back where something else
            // lies, takes it.
            io::ErrorKind::ReadOnlyFilesystem
            | io::ErrorKind::NotADirectory
            | io::ErrorKind::AlreadyExists => Class::Transient,
            _ => Class::of_read(cause),
        })
    }
}

/// What follows when something was tried often enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// It is given up: a file is set aside or left where it is; for outputs the process ends.
    GiveUp,
    /// It is tried for ever, as seldom as the rule says.
    Wait,
}

/// How failures of one class are tried again.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rule {
    /// How often it is tried, the first time included.
    pub attempts: u32,
    /// How long to wait after the first failure.
    pub backoff: Duration,
    /// How many times as long to wait after each further one.
    pub factor: f64,
    /// How long to wait at most.
    pub max_backoff: Duration,
    /// Which share of the wait is left to chance, both ways.
    pub jitter: f64,
    /// How long after the first failure it is given up, however often it was tried.
    pub deadline: Duration,
    /// What follows then.
    pub then: Then,
}

/// How failures are tried again, by class.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Policy {
    /// What stays as it is.
    pub permanent: Rule,
    /// What may pass.
    pub transient: Rule,
    /// What did not answer.
    pub timeout: Rule,
    /// What is used up.
    pub resource: Rule,
}

/// What failed, and what is known of it.
#[derive(Clone, Copy, Debug)]
pub struct Failed {
    /// Its class.
    pub class: Class,
    /// How often it has failed, this time included.
    pub attempt: u32,
    /// How long ago it failed for the first time.
    pub since_first: Duration,
    /// What decides by how much the wait differs: the same number, the same wait.
    pub seed: u64,
}

/// What to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Try again after so long.
    After(Duration),
    /// It was tried often enough, and is tried again after so long all the same.
    Seldom(Duration),
    /// Give it up.
    GiveUp,
}

const TRANSIENT: Rule = Rule {
    attempts: 5,
    backoff: Duration::from_secs(1),
    factor: 2.0,
    max_backoff: Duration::from_secs(60),
    jitter: 0.2,
    deadline: Duration::from_secs(600),
    then: Then::GiveUp,
};

impl Policy {
    /// What is in force where a pipeline file says nothing.
    pub const STANDARD: Policy = Policy {
        permanent: Rule { attempts: 1, ..TRANSIENT },
        transient: TRANSIENT,
        timeout: TRANSIENT,
        resource: Rule { then: Then::Wait, ..TRANSIENT },
    };

    /// What is in force for a sink that says nothing: what is committed is not given up for a failure
    /// that may pass, because a file cannot be set aside any more.
    pub const SINK: Policy = Policy {
        permanent: Rule { attempts: 1, ..TRANSIENT },
        transient: Rule { then: Then::Wait, ..TRANSIENT },
        timeout: Rule { then: Then::Wait, ..TRANSIENT },
        resource: Rule { then: Then::Wait, ..TRANSIENT },
    };

    /// Returns the rule of a class.
    pub const fn rule(&self, class: Class) -> &Rule {
        match class {
            Class::Permanent => &self.permanent,
            Class::Transient => &self.transient,
            Class::Timeout => &self.timeout,
            Class::Resource => &self.resource,
        }
    }

    /// Returns the longest wait that any class can have.
    pub fn longest(&self) -> Duration {
        let longest = |class| {
            let rule = self.rule(class);
            rule.max_backoff.mul_f64(1.0 + rule.jitter)
        };
        Class::ALL.map(longest).into_iter().max().unwrap_or_default()
    }

    /// Says what to do about a failure.
    pub fn next(&self, failed: Failed) -> Next {
        let rule = self.rule(failed.class);
        let wait = rule.wait(failed.attempt, failed.seed);
        let too_often = failed.attempt >= rule.attempts;
        // One that would be too late is not begun.
        let too_late = failed.since_first.saturating_add(wait) > rule.deadline;
        match (too_often || too_late, rule.then) {
            (false, _) => Next::After(wait),
            (true, Then::GiveUp) => Next::GiveUp,
            (true, Then::Wait) => Next::Seldom(spread(rule.max_backoff, rule.jitter, failed.seed)),
        }
    }
}

impl Rule {
    /// Returns how long to wait after the failure with this number, from 1.
    fn wait(&self, attempt: u32, seed: u64) -> Duration {
        let most = self.max_backoff.as_secs_f64();
        let grown = self.backoff.as_secs_f64() * self.factor.powf(f64::from(attempt.max(1) - 1));
        // A power may be too large for any number; the longest wait is not.
        spread(Duration::from_secs_f64(grown.min(most)), self.jitter, seed)
    }
}

/// Returns a wait that differs by at most a share, as a number decides.
fn spread(wait: Duration, jitter: f64, seed: u64) -> Duration {
    // SplitMix64: neighbouring numbers give waits that have nothing to do with each other.
    let mut mixed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    let unit = ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1_u64 << 53) as f64;
    wait.mul_f64(1.0 + jitter * (2.0 * unit - 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(attempts: u32, then: Then) -> Policy {
        let rule = Rule {
            attempts,
            backoff: Duration::from_millis(100),
            factor: 3.0,
            max_backoff: Duration::from_secs(2),
            jitter: 0.0,
            deadline: Duration::from_secs(60),
            then,
        };
        Policy { transient: rule, ..Policy::STANDARD }
    }

    /// Lets something fail each time it is tried, by a clock that only the waits move; returns the
    /// waits in milliseconds, at most `most` of them.
    fn waits(policy: &Policy, class: Class, seed: u64, most: usize) -> Vec<u128> {
        let mut now = Duration::ZERO;
        let mut waits = Vec::new();
        for attempt in 1.. {
            let failed = Failed { class, attempt, since_first: now, seed };
            let (Next::After(wait) | Next::Seldom(wait)) = policy.next(failed) else { break };
            now += wait;
            waits.push(wait.as_millis());
            if waits.len() == most {
                break;
            }
        }
        waits
    }

    #[test]
    fn waits_grow_up_to_the_longest_and_end_with_the_attempts() {
        let check = |attempts, then, expected: &[u128]| {
            assert_eq!(waits(&plain(attempts, then), Class::Transient, 1, 7), expected);
        };
        check(1, Then::GiveUp, &[]);
        check(2, Then::GiveUp, &[100]);
        check(4, Then::GiveUp, &[100, 300, 900]);
        check(6, Then::GiveUp, &[100, 300, 900, 2000, 2000]);
        check(3, Then::Wait, &[100, 300, 2000, 2000, 2000, 2000, 2000]);
    }

    #[test]
    fn nothing_is_tried_behind_the_deadline() {
        let mut policy = plain(1000, Then::GiveUp);
        policy.transient.deadline = Duration::from_millis(1300);
        assert_eq!(waits(&policy, Class::Transient, 1, 99), [100, 300, 900]);
        policy.transient.deadline = Duration::from_millis(1299);
        assert_eq!(waits(&policy, Class::Transient, 1, 99), [100, 300]);
        policy.transient.then = Then::Wait;
        assert_eq!(waits(&policy, Class::Transient, 1, 4), [100, 300, 2000, 2000]);
    }

    #[test]
    fn what_is_permanent_is_not_tried_again_unless_somebody_says_so() {
        assert_eq!(waits(&Policy::STANDARD, Class::Permanent, 1, 9), [0; 0]);
        assert_eq!(waits(&Policy::STANDARD, Class::Transient, 1, 9).len(), 4);
        assert_eq!(waits(&Policy::STANDARD, Class::Timeout, 1, 9).len(), 4);
        assert_eq!(waits(&Policy::STANDARD, Class::Resource, 1, 9).len(), 9);
        let stubborn = Policy { permanent: TRANSIENT, ..Policy::STANDARD };
        assert_eq!(waits(&stubborn, Class::Permanent, 1, 9).len(), 4);
    }

    #[test]
    fn chance_moves_a_wait_by_its_share_and_the_same_number_by_the_same() {
        let all: Vec<u128> =
            (0..500).map(|seed| waits(&Policy::STANDARD, Class::Transient, seed, 1)[0]).collect();
        let again: Vec<u128> =
            (0..500).map(|seed| waits(&Policy::STANDARD, Class::Transient, seed, 1)[0]).collect();
        assert_eq!(all, again);
        let (least, most) = (all.iter().min().unwrap(), all.iter().max().unwrap());
        assert!((800..850).contains(least) && (1150..=1200).contains(most), "{least} to {most}");
    }

    #[test]
    fn huge_numbers_give_the_longest_wait() {
        let mut policy = plain(u32::MAX, Then::Wait);
        policy.transient.factor = 1e9;
        policy.transient.deadline = Duration::MAX;
        let failed = |attempt| Failed {
            class: Class::Transient,
            attempt,
            since_first: Duration::ZERO,
            seed: 0,
        };
        for attempt in [2, 1000, u32::MAX - 1] {
            assert_eq!(policy.next(failed(attempt)), Next::After(Duration::from_secs(2)));
        }
        assert_eq!(policy.next(failed(u32::MAX)), Next::Seldom(Duration::from_secs(2)));
        assert_eq!(policy.next(failed(0)), Next::After(Duration::from_millis(100)));
    }

    #[test]
    fn an_error_of_the_system_has_a_class() {
        let check = |errno: i32, expected: Class| {
            let error = io::Error::from_raw_os_error(errno);
            assert_eq!(Class::of_read(&error), expected, "{error}");
        };
        // EIO, ENOENT, EACCES, EPERM, ESTALE, EINTR, EAGAIN, EREMOTEIO
        for errno in [5, 2, 13, 1, 116, 4, 11, 121] {
            check(errno, Class::Transient);
        }
        // ETIMEDOUT, EHOSTUNREACH
        for errno in [110, 113] {
            check(errno, Class::Timeout);
        }
        // ENOSPC, EDQUOT, EMFILE, ENFILE, ENOMEM
        for errno in [28, 122, 24, 23, 12] {
            check(errno, Class::Resource);
        }
        // EISDIR, ELOOP, EINVAL, ENAMETOOLONG
        for errno in [21, 40, 22, 36] {
            check(errno, Class::Permanent);
        }
        // EROFS, ENOTDIR, EEXIST: only for what is written. A sync that failed has no number any more.
        for errno in [30, 20, 17] {
            let error = io::Error::from_raw_os_error(errno);
            assert_eq!(Class::of_read(&error), Class::Permanent, "{error}");
            assert_eq!(Class::of_write(&error), Some(Class::Transient), "{error}");
        }
        let synced = io::Error::other(io::Error::from_raw_os_error(5));
        assert_eq!(Class::of_write(&synced), None);
        // What is lasting decides where several things failed.
        assert!(Class::Permanent < Class::Resource && Class::Timeout < Class::Transient);
    }
}
