//! Staging: the threads that write big outputs and sync finished parts, so that no worker ever waits
//! for the disk.
//!
//! Two per process. One writes the blocks of big parts in the order in which they come; a part
//! follows its blocks to the other, which syncs it. A sink hands a part over and goes on; when it is
//! durable, the sink's operator is woken with it. While the disk is full the first thread waits. If
//! the disk refuses for another reason the process ends: what the disk then holds is unknown, and
//! recovery is the one way back.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use tidemill_store::stage::{Block, BlockWrite, Blocks, Unsynced, sync_parts};
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

/// Bytes of blocks that may wait to be written before sinks take nothing more in.
const BEHIND_BYTES: u64 = 24 << 20;

/// Empty blocks that are kept for the next one who needs some.
const SPARE_BLOCKS: usize = 24;

/// Blocks in use from which on no more are given for the beginning of files: there may be many small ones.
const FIRSTS_MAX: usize = 24;

/// What comes to the writing thread, in this order.
enum Order {
    /// A block to be written.
    Write(BlockWrite),
    /// A part whose blocks were written before: it can be synced.
    Sync(Job),
}

/// The blocks that wait for the writing thread.
struct Queue {
    orders: Sender<Order>,
    shared: Arc<Shared>,
}

/// What the writing thread and those who give it blocks share.
#[derive(Default)]
struct Shared {
    /// Bytes that are not yet written.
    behind: AtomicU64,
    /// Blocks whose memory can be used again.
    spare: Mutex<Vec<Block>>,
    /// Blocks that are being filled or written.
    in_use: AtomicUsize,
    /// Who wants to be woken when less waits, and where that is noted.
    sleepers: Mutex<Vec<(Arc<AtomicBool>, SyncActivator)>>,
}

impl Blocks for Queue {
    fn empty(&self) -> Block {
        self.shared.in_use.fetch_add(1, Ordering::Relaxed);
        held(&self.shared.spare).pop().unwrap_or_default()
    }

    fn first(&self) -> Option<Block> {
        (self.shared.in_use.load(Ordering::Relaxed) < FIRSTS_MAX).then(|| self.empty())
    }

    fn give_back(&self, block: Block) {
        self.shared.give_back(block);
    }

    fn write(&self, write: BlockWrite) {
        self.shared.behind.fetch_add(write.bytes() as u64, Ordering::SeqCst);
        // The thread only ends with the process; if it is gone nothing waits for this part.
        let _ = self.orders.send(Order::Write(write));
    }
}

impl Shared {
    /// The memory of a block can be used again.
    fn give_back(&self, mut block: Block) {
        if block.is_none() {
            return;
        }
        block.clear();
        self.in_use.fetch_sub(1, Ordering::Relaxed);
        let mut spare = held(&self.spare);
        if spare.len() < SPARE_BLOCKS {
            spare.push(block);
        }
    }

    /// A block was written: its memory can be used again, and sinks may go on.
    fn written(&self, bytes: u64, block: Block) {
        self.give_back(block);
        let before = self.behind.fetch_sub(bytes, Ordering::SeqCst);
        if before - bytes <= BEHIND_BYTES {
            for (sleeps, sleeper) in held(&self.sleepers).drain(..) {
                sleeps.store(false, Ordering::SeqCst);
                // A sink that has ended meanwhile does not need the call.
                let _ = sleeper.activate();
            }
        }
    }
}

/// Locks what only plain memory is done under: nobody can have died halfway.
fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Hands parts to the threads. Cheap to clone.
#[derive(Clone)]
pub struct Staging {
    queue: Arc<Queue>,
    jobs: Sender<Job>,
}

/// What to do when the disk refuses: end the process. It does not return.
pub type OnDiskFailure = fn(context: &str, error: &io::Error) -> !;

impl Staging {
    /// Starts the threads. They end when the last handle is dropped; the one that syncs is the last.
    pub fn start(on_failure: OnDiskFailure, space: Space) -> io::Result<(Self, JoinHandle<()>)> {
        let (jobs, to_sync) = channel();
        let (orders, ordered) = channel();
        let shared = Arc::new(Shared::default());
        let queue = Arc::new(Queue { orders, shared: Arc::clone(&shared) });
        let (forward, room) = (jobs.clone(), space.clone());
        std::thread::Builder::new()
            .name("tidemill:write".into())
            .spawn(move || write_forever(&ordered, &shared, &forward, on_failure, &room))?;
        let thread = std::thread::Builder::new()
            .name("tidemill:sync".into())
            .spawn(move || sync_forever(&to_sync, on_failure, &space))?;
        Ok((Self { queue, jobs }, thread))
    }

    /// Returns where one operator hands over its parts and gets them back.
    pub fn desk(&self, wake: SyncActivator) -> Desk {
        let (done, synced) = channel();
        let (queue, jobs) = (Arc::clone(&self.queue), self.jobs.clone());
        Desk { queue, jobs, done, synced, wake, next_ticket: 0, sleeps: Arc::default() }
    }
}

/// One operator's end of the staging threads.
pub struct Desk {
    queue: Arc<Queue>,
    jobs: Sender<Job>,
    done: Sender<Synced>,
    synced: Receiver<Synced>,
    wake: SyncActivator,
    next_ticket: u64,
    /// Whether it is to be woken when less waits to be written.
    sleeps: Arc<AtomicBool>,
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
        // The threads only end with the process; if they are gone nothing waits for this part.
        if job.part.in_blocks {
            let _ = self.queue.orders.send(Order::Sync(job));
        } else {
            let _ = self.jobs.send(job);
        }
        self.next_ticket
    }

    /// Returns who takes the blocks of big parts.
    pub fn blocks(&self) -> Arc<dyn Blocks> {
        Arc::<Queue>::clone(&self.queue)
    }

    /// Returns whether so much waits to be written that nothing more is to be taken in. Then the
    /// operator is woken when less does.
    pub fn is_behind(&self) -> bool {
        let behind = || self.queue.shared.behind.load(Ordering::SeqCst) > BEHIND_BYTES;
        if !behind() {
            return false;
        }
        if !self.sleeps.swap(true, Ordering::SeqCst) {
            let sleeper = (Arc::clone(&self.sleeps), self.wake.clone());
            held(&self.queue.shared.sleepers).push(sleeper);
        }
        // Looked at again, or the last block could have been written in between.
        behind()
    }

    /// Returns the parts that have become durable since.
    pub fn collect(&self) -> impl Iterator<Item = Synced> + '_ {
        self.synced.try_iter()
    }
}

fn write_forever(
    orders: &Receiver<Order>,
    shared: &Shared,
    sync: &Sender<Job>,
    on_failure: OnDiskFailure,
    space: &Space,
) {
    while let Ok(order) = orders.recv() {
        match order {
            Order::Write(mut write) => {
                if let Err(error) = space.insist("writing big outputs", || write.run()) {
                    on_failure("write staged output", &error);
                }
                shared.written(write.bytes() as u64, write.into_block());
            }
            Order::Sync(job) => {
                // It ends only after this thread.
                let _ = sync.send(job);
            }
        }
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
