//! Keeper: the thread that writes checkpoints, so that no worker ever waits for the disk.
//!
//! One per process. Rows come as bytes and are packed, written and synced here. A refusal of the disk
//! gives up the checkpoint and nothing else: what is there already still counts, and the next attempt
//! writes everything anew. Nothing that was not synced is ever named by anybody.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use tidemill_operators::shards::{Mark, ShardSet, ShardSink};
use tidemill_store::CheckpointRow;
use tidemill_store::checkpoint::{
    FORMAT, Manifest, Pack, PackHeader, PackWriter, sweep, write_manifest,
};
use timely::scheduling::activate::SyncActivator;

use crate::checkpoint::KeptPart;

/// Bytes of rows that may wait for one operator's pack.
const WAITING_BYTES: u64 = 8 << 20;

/// The number of a pack in the life of this process.
type PackNumber = u64;

/// Says what became of a pack.
type Reply = Box<dyn FnOnce(KeptPart) + Send>;

enum Job {
    Open { number: PackNumber, folder: PathBuf, name: String, header: PackHeader },
    Rows { number: PackNumber, shard: u8, count: u32, bytes: Vec<u8>, waiting: Waiting },
    Close { number: PackNumber, shards: ShardSet, state: String, reply: Reply },
    Seal { folder: PathBuf, manifest: Box<Manifest>, reply: SealReply },
    Sweep { folder: PathBuf, kept: Vec<CheckpointRow>, reply: Box<dyn FnOnce() + Send> },
}

/// Says where a manifest is, and its hash.
pub type SealReply = Box<dyn FnOnce(io::Result<(String, [u8; 32])>) + Send>;

/// Hands checkpoints to the thread that writes them. Cheap to clone.
#[derive(Clone)]
pub struct Keeper {
    jobs: Sender<Job>,
    next: Arc<AtomicU64>,
}

/// Where the packs of one state go.
#[derive(Clone, Debug)]
pub struct PackPlace {
    /// The folder of the pipeline's checkpoints.
    pub folder: PathBuf,
    /// The generation.
    pub generation: u64,
    /// The id of the state.
    pub state: String,
    /// What the state means.
    pub fingerprint: String,
    /// What tells its packs from those of other states and workers.
    pub suffix: String,
}

impl Keeper {
    /// Starts the thread. It ends when the last handle is dropped.
    pub fn start() -> io::Result<Keeper> {
        let (jobs, queue) = channel();
        std::thread::Builder::new()
            .name("tidemill:keep".into())
            .spawn(move || keep_forever(&queue))?;
        Ok(Keeper { jobs, next: Arc::default() })
    }

    /// Begins a pack.
    pub fn pack(&self, place: &PackPlace, epoch: u64) -> Packing {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let header = PackHeader {
            format: FORMAT,
            state: place.state.clone(),
            fingerprint: place.fingerprint.clone(),
            epoch,
            generation: place.generation,
        };
        let name = format!("{epoch}-{}-{}.pack", place.generation, place.suffix);
        let folder = place.folder.clone();
        self.send(Job::Open { number, folder, name, header });
        Packing { keeper: self.clone(), number, state: place.state.clone() }
    }

    /// Writes a manifest, durably.
    pub fn seal(&self, folder: &Path, manifest: Manifest, reply: SealReply) {
        self.send(Job::Seal { folder: folder.to_path_buf(), manifest: Box::new(manifest), reply });
    }

    /// Deletes what none of these checkpoints names, then calls back. Nobody may be writing a
    /// checkpoint of that pipeline.
    pub fn sweep(&self, folder: &Path, kept: Vec<CheckpointRow>, reply: Box<dyn FnOnce() + Send>) {
        self.send(Job::Sweep { folder: folder.to_path_buf(), kept, reply });
    }

    fn send(&self, job: Job) {
        // The thread only ends with the process.
        let _ = self.jobs.send(job);
    }
}

/// A pack that is being written.
pub struct Packing {
    keeper: Keeper,
    number: PackNumber,
    state: String,
}

impl Packing {
    /// Appends encoded rows of one shard; `waiting` counts them until they are written.
    fn rows(&self, shard: u8, count: u32, bytes: Vec<u8>, waiting: Waiting) {
        waiting.add(bytes.len() as u64);
        self.keeper.send(Job::Rows { number: self.number, shard, count, bytes, waiting });
    }

    /// Ends the pack, which holds all there is of these shards.
    fn close(self, shards: ShardSet, reply: Reply) {
        let Self { keeper, number, state } = self;
        keeper.send(Job::Close { number, shards, state, reply });
    }
}

/// How many bytes of somebody wait to be written, and who is woken when there is room again.
#[derive(Clone)]
struct Waiting {
    bytes: Arc<AtomicU64>,
    wake: Option<SyncActivator>,
}

impl Waiting {
    fn add(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::AcqRel);
    }

    fn has_room(&self) -> bool {
        self.bytes.load(Ordering::Acquire) < WAITING_BYTES
    }

    fn take(&self, bytes: u64) {
        let before = self.bytes.fetch_sub(bytes, Ordering::AcqRel);
        let crossed = before >= WAITING_BYTES && before - bytes < WAITING_BYTES;
        if let Some(wake) = self.wake.as_ref().filter(|_| crossed) {
            // An operator that has ended needs no room.
            let _ = wake.activate();
        }
    }
}

/// An operator's end of the keeper.
pub struct Desk {
    keeper: Keeper,
    place: PackPlace,
    waiting: Waiting,
    wake: SyncActivator,
    open: Option<(Packing, ShardSet)>,
    done: Sender<KeptPart>,
    written: Receiver<KeptPart>,
}

impl Desk {
    /// Returns the desk of one state on one worker.
    pub fn new(keeper: Keeper, place: PackPlace, wake: SyncActivator) -> Desk {
        let (done, written) = channel();
        let waiting = Waiting { bytes: Arc::default(), wake: Some(wake.clone()) };
        Desk { keeper, place, waiting, wake, open: None, done, written }
    }
}

impl ShardSink for Desk {
    type Part = KeptPart;

    fn begin(&mut self, mark: Mark, shards: &ShardSet) {
        if shards.is_empty() {
            return;
        }
        self.open = Some((self.keeper.pack(&self.place, mark.epoch), *shards));
    }

    fn has_room(&self) -> bool {
        self.waiting.has_room()
    }

    fn rows(&mut self, shard: u8, count: u32, bytes: Vec<u8>) {
        if let Some((packing, _)) = &self.open {
            packing.rows(shard, count, bytes, self.waiting.clone());
        }
    }

    fn end(&mut self) {
        let (done, wake) = (self.done.clone(), self.wake.clone());
        let reply = move |part| {
            // An operator that has ended needs neither the part nor the call.
            let _ = done.send(part);
            let _ = wake.activate();
        };
        match self.open.take() {
            Some((packing, shards)) => packing.close(shards, Box::new(reply)),
            None => reply(KeptPart { state: self.place.state.clone(), outcome: Ok(None) }),
        }
    }

    fn written(&mut self) -> Option<KeptPart> {
        self.written.try_recv().ok()
    }
}

/// The rows of a table on their way to a pack. Takes them all at once: what waits is as large as what
/// changed of the table.
pub struct TableDesk {
    packing: Packing,
    shards: ShardSet,
    waiting: Waiting,
}

impl TableDesk {
    /// Begins the pack of a table that holds these shards.
    pub fn new(keeper: &Keeper, place: &PackPlace, epoch: u64, shards: ShardSet) -> TableDesk {
        let waiting = Waiting { bytes: Arc::default(), wake: None };
        TableDesk { packing: keeper.pack(place, epoch), shards, waiting }
    }

    /// Takes encoded rows of one shard, waiting while too much is under way.
    pub fn rows(&self, shard: u8, count: u32, bytes: Vec<u8>) {
        while !self.waiting.has_room() {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.packing.rows(shard, count, bytes, self.waiting.clone());
    }

    /// Ends the pack.
    pub fn end(self, reply: impl FnOnce(KeptPart) + Send + 'static) {
        self.packing.close(self.shards, Box::new(reply));
    }
}

fn keep_forever(queue: &Receiver<Job>) {
    let mut open: BTreeMap<PackNumber, io::Result<PackWriter>> = BTreeMap::new();
    while let Ok(job) = queue.recv() {
        match job {
            Job::Open { number, folder, name, header } => {
                open.insert(number, PackWriter::create(&folder, &name, &header));
            }
            Job::Rows { number, shard, count, bytes, waiting } => {
                if let Some(writer) = open.get_mut(&number) {
                    let written = match writer {
                        Ok(writer) => writer.block(shard, count, &bytes),
                        Err(_) => Ok(()),
                    };
                    if let Err(error) = written {
                        // Dropping the writer removes what it wrote.
                        *writer = Err(error);
                    }
                }
                waiting.take(bytes.len() as u64);
            }
            Job::Close { number, shards, state, reply } => {
                let outcome = close(open.remove(&number), &shards);
                reply(KeptPart { state, outcome });
            }
            Job::Seal { folder, manifest, reply } => reply(write_manifest(&folder, &manifest)),
            Job::Sweep { folder, kept, reply } => {
                if let Err(error) = sweep(&folder, &kept) {
                    tracing::warn!("old checkpoints could not be deleted: {error}");
                }
                reply();
            }
        }
    }
}

fn close(
    writer: Option<io::Result<PackWriter>>,
    shards: &ShardSet,
) -> Result<Option<Pack>, String> {
    let Some(writer) = writer else { return Err("it was never begun".to_owned()) };
    let pack = writer.and_then(|writer| writer.finish(shards.iter()));
    pack.map(Some).map_err(|error| error.to_string())
}
