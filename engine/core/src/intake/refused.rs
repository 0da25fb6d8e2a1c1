//! Refused: files that are complete and that the disk does not let us take, for a reason that may pass.
//! They lie where they lay and are tried again, as `retry` of their source says; the others go on.

use std::ffi::OsStr;
use std::io;
use std::time::{Instant, SystemTime};

use super::inbox::Inbox;
use crate::report::Condition;
use crate::retry::{Class, Failed, Next};

/// A file that could not be taken.
#[derive(Clone, Debug)]
pub(super) struct Refused {
    /// Its source, by its place in the plan.
    source: usize,
    /// When the file was first seen.
    pub(super) seen_at: SystemTime,
    /// How often it was tried.
    attempts: u32,
    first: Instant,
    since: SystemTime,
    /// When it is tried again; `None` once that time has come.
    again: Option<Instant>,
    /// Whether it was tried often enough already.
    pub(super) parked: bool,
    why: String,
}

impl Refused {
    /// Returns whether it is not time yet to try again.
    pub(super) fn is_waiting(&self) -> bool {
        self.again.is_some()
    }
}

impl Inbox {
    /// Leaves a file for a while, or until it looks otherwise if it was tried often enough. Returns
    /// whether that is right: not of an error that nobody tries again.
    pub(super) fn postpone(
        &mut self,
        source: usize,
        name: &OsStr,
        seen_at: SystemTime,
        error: &io::Error,
    ) -> bool {
        let Some(class) = Class::of_write(error).filter(|class| *class != Class::Permanent) else {
            return false;
        };
        let Some(policy) = self.patterns.takings().nth(source).map(|taking| taking.retry) else {
            return false;
        };
        let (now, before) = (Instant::now(), self.refused.get(name));
        let first = before.map_or(now, |before| before.first);
        let since = before.map_or_else(SystemTime::now, |before| before.since);
        let attempts = before.map_or(0, |before| before.attempts).saturating_add(1);
        let failed = Failed {
            class,
            attempt: attempts,
            since_first: now.duration_since(first),
            seed: u64::from(attempts) ^ (name.len() as u64) << 32,
        };
        let (wait, parked) = match policy.next(failed) {
            Next::After(wait) => (wait, false),
            Next::Seldom(wait) => (wait, true),
            Next::GiveUp => {
                self.refused.remove(name);
                self.leave(name, &format!("it cannot be taken: {error}"));
                return true;
            }
        };
        let why = error.to_string();
        let (pipeline, class) = (&self.pipeline, class.word());
        tracing::warn!(pipeline, file = ?name, "cannot be taken yet, again in {wait:?} ({class}): {why}");
        let again = Some(now + wait);
        let refused = Refused { source, seen_at, attempts, first, since, again, parked, why };
        self.refused.insert(name.to_owned(), refused);
        true
    }

    /// Lets those be claimed whose time has come. One whose source waits for something beside its files
    /// goes back to the gate: it is never taken without the rest of its set.
    pub(super) fn try_again_due(&mut self) {
        let now = Instant::now();
        let mut due = Vec::new();
        for (name, refused) in &mut self.refused {
            if refused.again.is_some_and(|again| again <= now) {
                refused.again = None;
                due.push((refused.source, name.clone()));
            }
        }
        for (source, name) in due {
            self.complete_again(source, &name);
        }
    }

    /// A file lies there no more.
    pub(super) fn taken(&mut self, name: &OsStr) {
        self.refused.remove(name);
    }

    /// Returns what a person should know of the files that cannot be taken.
    pub(super) fn condition(&self) -> Option<Condition> {
        let (name, first) = self.refused.iter().min_by_key(|(_, refused)| refused.since)?;
        let Refused { since, attempts, why, .. } = first;
        Some(Condition {
            code: Condition::UNCLAIMED.into(),
            since: *since,
            text: format!(
                "{} files of pipeline {} cannot be taken in (first: {}, tried {attempts} times: {why})",
                self.refused.len(),
                self.pipeline,
                name.to_string_lossy()
            ),
            hint: "mend the folder that is named; they are tried again by themselves".into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    use crate::intake::Patterns;
    use crate::intake::inbox::Scan;
    use crate::plan::plan;
    use tidemill_store::Home;

    const PLAN: &str = "pipeline: p\nsources: { s: { format: text, retry: { transient: \
                        { attempts: 3, backoff: 1ms, max_backoff: 1ms } } } }\n\
                        sinks: { o: { from: s, files: { format: raw } } }\n";

    const SETS: &str = "pipeline: p\nsources: { s: { format: text, contract: { set: { of: \"{n}_*\", count: 2 } }, \
                        retry: { transient: { backoff: 1ms, max_backoff: 1ms } } } }\n\
                        sinks: { o: { from: s, files: { format: raw } } }\n";

    #[test]
    fn a_file_that_cannot_be_taken_is_tried_again_as_often_as_its_source_says() {
        let folder = tempfile::tempdir().unwrap();
        let folders = Home::open(folder.path()).unwrap().pipeline("p").unwrap();
        std::fs::write(folders.unprocessed.join("a"), "1\n").unwrap();
        let patterns = Patterns::new(&plan(PLAN).unwrap().sources);
        let mut inbox = Inbox::new("p".into(), folders, patterns);
        let (name, seen_at) = (OsStr::new("a"), SystemTime::UNIX_EPOCH);
        let eio = io::Error::from_raw_os_error(5);
        let open = [true];
        for _ in 0..2 {
            assert!(inbox.postpone(0, name, seen_at, &eio));
            assert!(inbox.condition().is_some() && !inbox.waiting.has_next(&open));
            assert_eq!(inbox.forget(name), seen_at, "it came when it came");
            let refused = inbox.refused.get_mut(name).unwrap();
            refused.again = refused.again.map(|again| again - Duration::from_secs(1));
            inbox.try_again_due();
            assert_eq!(inbox.waiting.pop(&open), Some((0, name.to_owned())));
        }
        // The third time was the last: it is left as it is, and the others go on.
        assert!(inbox.postpone(0, name, seen_at, &eio));
        assert!(inbox.condition().is_none() && inbox.refused.is_empty());
        // What is lasting, and what may not be tried again, is for the process.
        assert!(!inbox.postpone(0, name, seen_at, &io::Error::from_raw_os_error(22)));
        assert!(!inbox.postpone(0, name, seen_at, &io::Error::other("sync")));
    }

    #[test]
    fn a_file_of_a_set_that_cannot_be_taken_comes_back_with_its_set() {
        let folder = tempfile::tempdir().unwrap();
        let folders = Home::open(folder.path()).unwrap().pipeline("p").unwrap();
        let path = folders.unprocessed.clone();
        for name in ["d_a", "d_b"] {
            std::fs::write(path.join(name), "1\n").unwrap();
        }
        let patterns = Patterns::new(&plan(SETS).unwrap().sources);
        let mut inbox = Inbox::new("p".into(), folders, patterns);
        let whole = |inbox: &mut Inbox| {
            inbox.scan(Scan::Full, Duration::ZERO).unwrap();
            inbox.pass();
            inbox.next_set(&[true]).map(|set| set.names)
        };
        let both = Some(vec!["d_a".to_owned(), "d_b".to_owned()]);
        assert_eq!(whole(&mut inbox), both);
        let (name, eio) = (OsStr::new("d_b"), io::Error::from_raw_os_error(5));
        assert!(inbox.postpone(0, name, SystemTime::UNIX_EPOCH, &eio));
        assert_eq!(whole(&mut inbox), None, "the other one waits for it");
        let refused = inbox.refused.get_mut(name).unwrap();
        refused.again = refused.again.map(|again| again - Duration::from_secs(1));
        inbox.try_again_due();
        assert!(!inbox.waiting.has_next(&[true]), "not without its set");
        assert_eq!(whole(&mut inbox), both);
        // It was not come to: it is found again like any other.
        assert_eq!(whole(&mut inbox), both);
    }
}
