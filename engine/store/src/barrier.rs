//! Barrier: the steps of the protocol that a test build can leave out, to see which test notices.
//!
//! Owns the list of their names. In every build but one with the feature `mutations` all of them
//! hold, and the compiler knows it: nothing is asked when the program runs. With the feature, the
//! environment variable `TIDEMILL_MUTATION` names the one that is left out. Never used to decide
//! anything else.

/// The barriers, in the order of a file's life, and what each of them does.
pub const BARRIERS: [(&str, &str); 16] = [
    ("A1", "the bytes of a claimed file are synced before it is accepted"),
    ("A2", "the folders of a claim are synced before it is accepted"),
    ("A3", "an accept is synced before anybody hears of it"),
    ("P1", "the bytes of a staged part are synced before anybody is told of it"),
    ("P2", "the folders of a staged part are synced before anybody is told of it"),
    ("C1", "a commit is synced before anybody hears of it"),
    ("publish-after-commit", "nothing gets a name in out/ before the commit"),
    ("move-after-commit", "no input goes to processed/ before the commit"),
    ("T1", "publications and moves are synced before the journal forgets them"),
    ("settle-after-sync", "the journal forgets publications only behind their sync"),
    ("snapshot-synced", "the snapshot of a table is synced before it replaces the old one"),
    ("R1", "the tail of the journal is written anew before anything is built on it"),
    ("R2", "the folder of the journal is synced when it is opened"),
    ("every-part", "publication that is repeated goes on behind a part that is there"),
    ("torn-parts", "recovery mends a part that lost its bytes after it got its name"),
    ("log-errors", "a sync that fails while the log moves into the database ends the process"),
];

/// Returns whether a step of the protocol is done: always, but in a build for tests.
#[inline]
pub fn holds(name: &str) -> bool {
    if cfg!(feature = "mutations") { left_out() != Some(name) } else { true }
}

/// Returns the barrier that is left out.
fn left_out() -> Option<&'static str> {
    static NAME: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    let read = || {
        let name = std::env::var("TIDEMILL_MUTATION").ok()?;
        let known = BARRIERS.iter().any(|(barrier, _)| *barrier == name);
        assert!(known, "no barrier is called {name:?}");
        Some(name)
    };
    NAME.get_or_init(read).as_deref()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_barrier_holds_and_has_one_name() {
        let mut names: Vec<_> = BARRIERS.iter().map(|(name, _)| *name).collect();
        assert!(names.iter().all(|name| holds(name)));
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), BARRIERS.len());
    }
}
