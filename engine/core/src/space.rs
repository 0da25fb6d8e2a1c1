//! Space: whether the disk of the home has room, who waits for it, and what a person must know.
//!
//! A full disk stops nothing for good: nothing was promised of what could not be written, or the
//! journal says what to do. So whoever may block waits in [`Space::insist`] and tries again; a
//! worker, which may not, holds its capabilities and tries again later. No file is taken in the
//! meantime, nor while less than the reserve is free. Derived state: nothing here survives.
//!
//! Never tries a sync again: after one that failed nothing may be believed (see [`Full`]).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use tidemill_store::Full;

use crate::report::Condition;

/// How long whoever waits for space waits before it is tried again.
pub const RETRY: Duration = Duration::from_millis(250);

/// How often the free space of the home is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// The reserve unless one is set: so many bytes, or one percent of the disk if that is less.
const RESERVE_BYTES: u64 = 64 << 20;

/// A sync that takes longer than this is told.
const SLOW: Duration = Duration::from_secs(2);

/// How much of the disk must stay free for files to be taken in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reserve {
    /// 64 MiB, or 1 % of the disk if that is less.
    #[default]
    Standard,
    /// So many bytes.
    Bytes(u64),
    /// So many percent of the disk.
    Percent(u8),
}

impl Reserve {
    /// Returns the reserve of a disk of so many bytes.
    pub fn of(self, disk_bytes: u64) -> u64 {
        match self {
            Reserve::Standard => RESERVE_BYTES.min(disk_bytes / 100),
            Reserve::Bytes(bytes) => bytes,
            Reserve::Percent(percent) => disk_bytes / 100 * u64::from(percent),
        }
    }
}

/// The space of one home, as one process sees it. Clones are the same.
#[derive(Clone, Debug)]
pub struct Space {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    reserve: Reserve,
    /// Whether anything is in the way of taking files in.
    short: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Since when less than the reserve is free: then, free bytes, reserve.
    low: Option<(SystemTime, u64, u64)>,
    /// What waits because the disk was full when it was tried: how many times over, since when.
    waiting: BTreeMap<String, (usize, SystemTime)>,
    /// How many outputs are being synced, and since when.
    syncing: Option<(SystemTime, usize)>,
    /// What other processes told, by their index.
    told: BTreeMap<usize, Vec<Condition>>,
}

impl Space {
    /// Returns the space of a home. Only [`Space::watch`] looks at the disk.
    pub fn new(root: &Path, reserve: Reserve) -> Self {
        let inner = Inner {
            root: root.to_path_buf(),
            reserve,
            short: AtomicBool::new(false),
            state: Mutex::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Looks at the free space now, and then once a second as long as anybody holds this space.
    pub fn watch(&self) -> std::io::Result<()> {
        self.look();
        let inner = Arc::downgrade(&self.inner);
        let look = move || {
            while let Some(inner) = Weak::upgrade(&inner) {
                Space { inner }.look();
                std::thread::sleep(LOOK);
            }
        };
        std::thread::Builder::new().name("tidemill:space".into()).spawn(look)?;
        Ok(())
    }

    /// Returns whether the disk is too full to take files in. One relaxed load.
    pub fn is_short(&self) -> bool {
        self.inner.short.load(Ordering::Relaxed)
    }

    /// Does something that may fail for lack of space, again and again until it does not. Blocks:
    /// not for workers.
    pub fn insist<T, E: Full + std::error::Error>(
        &self,
        doing: &str,
        mut attempt: impl FnMut() -> Result<T, E>,
    ) -> Result<T, E> {
        let mut waits = false;
        loop {
            let outcome = attempt();
            match &outcome {
                Err(error) if error.is_full() => {
                    if !std::mem::replace(&mut waits, true) {
                        self.wait(doing);
                    }
                    std::thread::sleep(RETRY);
                }
                _ => {
                    if waits {
                        self.go_on(doing);
                    }
                    return outcome;
                }
            }
        }
    }

    /// Something has to wait: the disk was full when it was tried.
    pub fn wait(&self, doing: &str) {
        let first = {
            let mut state = self.state();
            let first = state.waiting.is_empty();
            let waiting = state.waiting.entry(doing.to_owned());
            waiting.or_insert_with(|| (0, SystemTime::now())).0 += 1;
            self.decide(&state);
            first
        };
        if first {
            let home = self.inner.root.display();
            tracing::warn!(
                "no space left on the disk of {home}: {doing} waits, and no more files are taken; \
                 nothing is lost, free some space and everything goes on by itself"
            );
        }
    }

    /// What waited has been done.
    pub fn go_on(&self, doing: &str) {
        let last = {
            let mut state = self.state();
            if let Some((count, _)) = state.waiting.get_mut(doing) {
                *count -= 1;
                if *count == 0 {
                    state.waiting.remove(doing);
                }
            }
            self.decide(&state);
            state.waiting.is_empty()
        };
        if last {
            tracing::info!("there is space on the disk again: everything goes on");
        }
    }

    /// So many outputs are being made durable; none when that is done.
    pub fn syncing(&self, outputs: usize) {
        self.state().syncing = (outputs > 0).then(|| (SystemTime::now(), outputs));
    }

    /// Takes what another process told of its space.
    pub fn hear(&self, process: usize, conditions: Vec<Condition>) {
        let mut state = self.state();
        state.told.insert(process, conditions);
        self.decide(&state);
    }

    /// Returns what a person must know, worst first.
    pub fn conditions(&self) -> Vec<Condition> {
        let state = self.state();
        let mut all = Vec::new();
        for (doing, (_, since)) in &state.waiting {
            all.push(Condition {
                code: Condition::DISK_FULL.into(),
                since: *since,
                text: format!("no space left on the disk of the home: {doing} waits"),
                hint: "free some space; everything goes on by itself within seconds".into(),
            });
        }
        if let Some((since, free, reserve)) = state.low {
            all.push(Condition {
                code: Condition::LOW_SPACE.into(),
                since,
                text: format!(
                    "{free} bytes are free on the disk of the home, less than the reserve of \
                     {reserve}: no more files are taken"
                ),
                hint: "free some space, or lower the reserve with --reserve".into(),
            });
        }
        if let Some((since, outputs)) = state.syncing
            && since.elapsed().is_ok_and(|taken| taken >= SLOW)
        {
            all.push(Condition {
                code: Condition::SLOW_DISK.into(),
                since,
                text: format!(
                    "the disk is slow: {outputs} outputs wait until they are durable, and what \
                     comes behind them waits too"
                ),
                hint: "look at what else uses the disk; nothing is lost meanwhile".into(),
            });
        }
        all.extend(state.told.values().flatten().cloned());
        all
    }

    fn look(&self) {
        // A disk that cannot even be asked is found by whoever writes.
        let Ok((free, all)) = tidemill_store::space(&self.inner.root) else { return };
        let reserve = self.inner.reserve.of(all);
        let mut state = self.state();
        let before = state.low;
        // A little more than the reserve ends it, so that it does not come and go.
        let enough = if before.is_some() { reserve + reserve / 8 } else { reserve };
        state.low = (free < enough)
            .then(|| (before.map_or_else(SystemTime::now, |(since, ..)| since), free, reserve));
        self.decide(&state);
        match (before, state.low) {
            (None, Some(_)) => tracing::warn!(
                free,
                reserve,
                "less than the reserve is free on the disk of {}: no more files are taken until \
                 there is",
                self.inner.root.display()
            ),
            (Some(_), None) => {
                tracing::info!(free, reserve, "the reserve is free again: files are taken");
            }
            _ => {}
        }
    }

    fn decide(&self, state: &State) {
        let told = state.told.values().flatten().any(|one| one.code == Condition::DISK_FULL);
        let short = state.low.is_some() || !state.waiting.is_empty() || told;
        self.inner.short.store(short, Ordering::Relaxed);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic ends the process; until then half a list harms nobody.
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    #[test]
    fn the_reserve_is_the_less_of_two_unless_it_is_set() {
        let check = |reserve: Reserve, disk: u64, expected: u64| {
            assert_eq!(reserve.of(disk), expected, "{reserve:?} of {disk}");
        };
        check(Reserve::Standard, 1 << 20, (1 << 20) / 100);
        check(Reserve::Standard, 1 << 40, 64 << 20);
        check(Reserve::Bytes(5), 1 << 40, 5);
        check(Reserve::Bytes(0), 1 << 40, 0);
        check(Reserve::Percent(10), 1000, 100);
    }

    #[test]
    fn what_is_full_is_tried_until_it_is_not_and_told_meanwhile() {
        let folder = tempfile::tempdir().unwrap();
        let space = Space::new(folder.path(), Reserve::Bytes(0));
        let mut attempts = 0;
        let outcome: io::Result<u32> = space.insist("write", || {
            attempts += 1;
            if attempts > 1 {
                assert!(space.is_short());
                assert_eq!(space.conditions()[0].code, Condition::DISK_FULL);
            }
            if attempts < 3 { Err(io::ErrorKind::StorageFull.into()) } else { Ok(7) }
        });
        assert_eq!((outcome.unwrap(), attempts), (7, 3));
        assert!(!space.is_short() && space.conditions().is_empty());
    }

    #[test]
    fn another_error_is_not_tried_again() {
        let space = Space::new(Path::new("/"), Reserve::Bytes(0));
        let mut attempts = 0;
        let outcome: io::Result<()> = space.insist("write", || {
            attempts += 1;
            Err(io::ErrorKind::Other.into())
        });
        assert!(outcome.is_err());
        assert_eq!(attempts, 1);
    }

    #[test]
    fn less_than_the_reserve_lets_no_file_in() {
        let folder = tempfile::tempdir().unwrap();
        let space = Space::new(folder.path(), Reserve::Bytes(u64::MAX / 2));
        space.look();
        assert!(space.is_short());
        assert_eq!(space.conditions()[0].code, Condition::LOW_SPACE);
        let space = Space::new(folder.path(), Reserve::Bytes(1));
        space.look();
        assert!(!space.is_short());
    }

    #[test]
    fn what_another_process_tells_counts_here() {
        let space = Space::new(Path::new("/"), Reserve::Bytes(0));
        let other = Space::new(Path::new("/"), Reserve::Bytes(0));
        other.wait("write outputs");
        space.hear(1, other.conditions());
        assert!(space.is_short());
        other.go_on("write outputs");
        space.hear(1, other.conditions());
        assert!(!space.is_short());
    }
}
