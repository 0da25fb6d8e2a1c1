//! Staging: the thread that syncs finished parts, so that no worker ever waits for the disk.
//!
//! One per process. A sink hands over a written part and goes on; when the part is durable, the
//! sink's operator is woken with it. If a sync fails the process ends: what the disk then holds is
//! unknown, and recovery is the one way back.

use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use tidemill_store::stage::{Unsynced, sync_parts};
use tidemill_store::trial;
use timely::scheduling::activate::SyncActivator;

use crate::space::Space;

/// A part that must become durable, and who waits for it.
struct Job {
    part: Unsynced,
    ticket: u64,
    done: Sender<Synced>,
    wake: SyncActivator,
}

/// A part that is durable.
pub struct Synced {
    /// The number the sink gave it.
    pub ticket: u64,
    /// The part.
    pub part: Unsynced,
}

/// Hands parts to the syncing thread. Cheap to clone.
#[derive(Clone)]
pub struct Staging {
    jobs: Sender<Job>,
}

/// What to do when the disk refuses: end the process. It does not return.
pub type OnDiskFailure = fn(context: &str, error: &io::Error) -> !;

impl Staging {
    /// Starts the thread. It ends when the last handle is dropped.
    pub fn start(on_failure: OnDiskFailure, space: Space) -> io::Result<(Self, JoinHandle<()>)> {
        let (jobs, queue) = channel();
        let thread = std::thread::Builder::new()
            .name("tidemill:sync".into())
            .spawn(move || sync_forever(&queue, on_failure, &space))?;
        Ok((Self { jobs }, thread))
    }

    /// Returns where one operator hands over its parts and gets them back.
    pub fn desk(&self, wake: SyncActivator) -> Desk {
        let (done, synced) = channel();
        Desk { jobs: self.jobs.clone(), done, synced, wake, next_ticket: 0 }
    }
}

/// One operator's end of the staging thread.
pub struct Desk {
    jobs: Sender<Job>,
    done: Sender<Synced>,
    synced: Receiver<Synced>,
    wake: SyncActivator,
    next_ticket: u64,
}

impl Desk {
    /// Hands a part over; returns its ticket.
    pub fn hand_over(&mut self, part: Unsynced) -> u64 {
        self.next_ticket += 1;
        let job = Job {
            part,
            ticket: self.next_ticket,
            done: self.done.clone(),
            wake: self.wake.clone(),
        };
        // The thread only ends with the process; if it is gone nothing waits for this part.
        let _ = self.jobs.send(job);
        self.next_ticket
    }

    /// Returns the parts that have become durable since.
    pub fn collect(&self) -> impl Iterator<Item = Synced> + '_ {
        self.synced.try_iter()
    }
}

fn sync_forever(queue: &Receiver<Job>, on_failure: OnDiskFailure, space: &Space) {
    while let Ok(first) = queue.recv() {
        let mut jobs = vec![first];
        jobs.extend(queue.try_iter().take(MOST_AT_ONCE - 1));
        let (parts, owners): (Vec<_>, Vec<_>) =
            jobs.into_iter().map(|job| (job.part, (job.ticket, job.done, job.wake))).unzip();
        space.syncing(parts.len());
        trial::sync();
        if let Err(error) = sync_parts(&parts) {
            on_failure("sync staged outputs", &error);
        }
        space.syncing(0);
        for (part, (ticket, done, wake)) in parts.into_iter().zip(owners) {
            // A sink that has ended meanwhile needs neither the part nor the call.
            let _ = done.send(Synced { ticket, part });
            let _ = wake.activate();
        }
    }
}

/// Parts synced by one call at most.
const MOST_AT_ONCE: usize = 64;
