//! Backlog: what the dataflow of a pipeline has been given and the threads behind it have not yet
//! taken off its hands. A derived measure; holds no data.
//!
//! The window of the coordinator counts what the sinks have not taken in. What they have taken in
//! still costs: an output that waits for the disk costs a descriptor, one that waits for the commit
//! costs its bytes. When these get too many no further file is begun, so that a disk that stands
//! still costs no more memory than one that runs.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use timely::scheduling::activate::SyncActivator;

/// Files of a pipeline that may be begun and not answered, at most.
pub const FILES_MAX: usize = 256;

/// Bytes of answers that may wait for the commit and for publication, at most: then no further file
/// is begun.
pub const HELD_BYTES_MAX: u64 = 64 << 20;

/// The backlog of one pipeline; in process 0. Clones are the same.
#[derive(Clone, Default)]
pub struct Backlog {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    /// The last epoch that was answered.
    answered: AtomicU64,
    /// Bytes in answers that are not yet worked off.
    held: AtomicU64,
    /// Whether the coordinator waits for room.
    waits: AtomicBool,
    /// Wakes the coordinator.
    wake: OnceLock<SyncActivator>,
}

impl Backlog {
    /// Says how the coordinator is woken.
    pub fn wakes(&self, wake: SyncActivator) {
        // The coordinator of a pipeline is built once.
        let _ = self.inner.wake.set(wake);
    }

    /// An epoch was answered; its answer holds so many bytes until [`Backlog::release`].
    pub fn answered(&self, epoch: u64, bytes: u64) {
        self.inner.held.fetch_add(bytes, Ordering::Relaxed);
        self.inner.answered.fetch_max(epoch, Ordering::SeqCst);
        self.wake();
    }

    /// So many bytes of answers were worked off.
    pub fn release(&self, bytes: u64) {
        self.inner.held.fetch_sub(bytes, Ordering::SeqCst);
        self.wake();
    }

    /// Returns whether one more file may be begun. Forgets, of the epochs that were `begun` in order,
    /// those that are answered. If there is no room, the coordinator is woken when something changes.
    pub fn has_room(&self, begun: &mut VecDeque<u64>) -> bool {
        // Said before anything is looked at: whoever makes room in between wakes the coordinator once
        // too often, and not once too seldom.
        self.inner.waits.store(true, Ordering::SeqCst);
        let answered = self.inner.answered.load(Ordering::SeqCst);
        while begun.front().is_some_and(|epoch| *epoch <= answered) {
            begun.pop_front();
        }
        let held = self.inner.held.load(Ordering::SeqCst);
        let room = begun.len() < FILES_MAX && held < HELD_BYTES_MAX;
        if room {
            self.inner.waits.store(false, Ordering::Relaxed);
        }
        room
    }

    fn wake(&self) {
        if self.inner.waits.swap(false, Ordering::SeqCst)
            && let Some(wake) = self.inner.wake.get()
        {
            // A worker that has ended begins no more files.
            let _ = wake.activate();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_room_until_there_are_too_many_files_or_bytes() {
        let backlog = Backlog::default();
        let mut begun: VecDeque<u64> = (1..FILES_MAX as u64).collect();
        assert!(backlog.has_room(&mut begun));
        begun.push_back(FILES_MAX as u64);
        assert!(!backlog.has_room(&mut begun));
        backlog.answered(3, HELD_BYTES_MAX);
        assert!(!backlog.has_room(&mut begun));
        assert_eq!(begun.len(), FILES_MAX - 3);
        backlog.release(1);
        assert!(backlog.has_room(&mut begun));
    }

    #[test]
    fn an_answer_between_two_looks_is_seen_by_the_second() {
        let backlog = Backlog::default();
        let mut begun: VecDeque<u64> = (1..=FILES_MAX as u64).collect();
        // Nobody waited when it came, so it woke nobody.
        backlog.answered(1, 0);
        assert!(backlog.has_room(&mut begun));
    }
}
