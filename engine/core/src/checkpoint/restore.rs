//! Restore: the rows of a checkpoint become the state of an operator again.
//!
//! | input  | orders, broadcast: which checkpoint, if any                                         |
//! | output | rows at times of epoch 0; then nothing, ever: it ends before the first file          |
//! | state  | none; a few blocks between the thread that reads and the worker                     |
//! | errors | a checkpoint that cannot be read although it was checked ends the process            |
//!
//! Each worker reads the shards that are its own, `shard mod workers`, whoever wrote them. A thread
//! of its own reads, unpacks and decodes. The operator holds the first time until it is through, so
//! no file is looked at before the state is whole.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};

use tidemill_operators::Time;
use tidemill_operators::aggregate::RowError;
use tidemill_operators::shards::ShardSet;
use tidemill_store::CheckpointRow;
use tidemill_store::checkpoint::{Block, CheckpointError, Manifest, PackReader, read_manifest};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::scheduling::activate::SyncActivator;

use crate::checkpoint::{Order, RestoreOrder};
use crate::fault::{self, FaultKind};
use crate::sink::table::Table;

/// Rows that are decoded before they are handed to the worker.
const ROWS_AT_ONCE: usize = 8 * 1024;

/// Hand-overs that may wait for the worker.
const WAITING: usize = 4;

/// Hand-overs the worker takes in one activation.
const TURN: usize = 4;

/// Hand-overs that share one time: what the state takes in at once.
const PER_TIME: usize = 16;

/// Rows and what each stands with in the state: their differences.
type Rows<D, R> = Vec<(D, R)>;

/// Builds what restores one state of an operator; `decode` reads the rows of one block.
pub fn restored<'scope, D, R>(
    place: &str,
    orders: StreamVec<'scope, Time, Order>,
    folder: PathBuf,
    state: String,
    decode: impl Fn(&[u8]) -> Result<Rows<D, R>, RowError> + Clone + Send + 'static,
) -> StreamVec<'scope, Time, (D, Time, R)>
where
    D: Clone + Send + 'static,
    R: Clone + Send + 'static,
{
    let scope = orders.scope();
    let mine = ShardSet::of_worker(scope.worker().index(), scope.worker().peers());
    let mut builder = OperatorBuilder::new(format!("Restore {place}"), scope);
    let address = builder.operator_info().address;
    let wake = scope.worker().sync_activator_for(address.to_vec());
    let again = scope.activator_for(address);
    let mut input = builder.new_input(orders, Pipeline);
    // Rows come at times of epoch 0 only, whatever is ordered later: so they hold nothing back.
    let (rows, stream) = builder.new_output_connection::<Vec<(D, Time, R)>, _>([]);
    let mut rows = OutputBuilder::<_, CapacityContainerBuilder<_>>::from(rows);

    builder.build(move |mut capabilities| {
        let mut held = capabilities.pop();
        let mut loading: Option<Receiver<Rows<D, R>>> = None;
        let mut taken = 0;
        move |frontiers| {
            input.for_each(|_, orders| {
                for order in orders.drain(..) {
                    if let Order::Restore(order) = order {
                        let load =
                            Load { folder: folder.clone(), state: state.clone(), mine, order };
                        loading = Some(load.start(decode.clone(), wake.clone()));
                    }
                }
            });
            let Some(capability) = &mut held else { return };
            let Some(receiver) = &loading else {
                // Nothing is to be restored once files may come.
                if !frontiers[0].less_equal(&Time::default()) {
                    held = None;
                }
                return;
            };
            for _ in 0..TURN {
                match receiver.try_recv() {
                    Ok(some) => {
                        let time = *capability.time();
                        let updates = some.into_iter().map(|(data, diff)| (data, time, diff));
                        rows.activate().session(&*capability).give_iterator(updates);
                        taken += 1;
                        if taken % PER_TIME == 0 {
                            capability.downgrade(&Time::new(0, time.chunk + 1));
                        }
                    }
                    Err(TryRecvError::Empty) => return, // the thread wakes us
                    Err(TryRecvError::Disconnected) => {
                        (held, loading) = (None, None);
                        return;
                    }
                }
            }
            again.activate();
        }
    });
    stream
}

/// What one worker reads for one state.
struct Load {
    folder: PathBuf,
    state: String,
    mine: ShardSet,
    order: RestoreOrder,
}

impl Load {
    /// Starts to read; the receiver ends with the rows.
    fn start<D, R>(
        self,
        decode: impl Fn(&[u8]) -> Result<Rows<D, R>, RowError> + Send + 'static,
        wake: SyncActivator,
    ) -> Receiver<Rows<D, R>>
    where
        D: Send + 'static,
        R: Send + 'static,
    {
        let (rows, receiver) = sync_channel(WAITING);
        let reading =
            std::thread::Builder::new().name("tidemill:restore".into()).spawn(move || {
                let read = self.read(&decode, &rows, &wake);
                if let Err(error) = read {
                    fault::end(FaultKind::Damaged, "restore the state of an operator", &error);
                }
                drop(rows);
                // An operator that has ended needs no call.
                let _ = wake.activate();
            });
        if let Err(error) = reading {
            fault::disk("start the thread that restores state", &error);
        }
        receiver
    }

    fn read<D, R>(
        &self,
        decode: &impl Fn(&[u8]) -> Result<Rows<D, R>, RowError>,
        target: &SyncSender<Rows<D, R>>,
        wake: &SyncActivator,
    ) -> Result<(), CheckpointError> {
        let row = CheckpointRow {
            epoch: self.order.epoch,
            generation: 0,
            manifest: self.order.manifest.clone(),
            hash: self.order.hash,
            bytes: 0,
            took_ms: 0,
        };
        let manifest = read_manifest(&self.folder, &row)?;
        let mut rows = Vec::new();
        let hand_over = |rows: &mut Rows<D, R>| {
            // A worker that is gone has ended the process.
            let _ = target.send(std::mem::take(rows));
            let _ = wake.activate();
        };
        each_block(&self.folder, &manifest, &self.state, &self.mine, |block, reader| {
            let decoded =
                decode(&block.bytes).map_err(|error| reader.damaged(&error.to_string()))?;
            rows.extend(decoded);
            if rows.len() >= ROWS_AT_ONCE {
                hand_over(&mut rows);
            }
            Ok(())
        })?;
        hand_over(&mut rows);
        Ok(())
    }
}

/// Puts the rows of a table back, as of the checkpoint's epoch.
pub fn restore_table(
    folder: &Path,
    manifest: &Manifest,
    state: &str,
    table: &mut Table,
) -> Result<(), CheckpointError> {
    each_block(folder, manifest, state, &ShardSet::ALL, |block, reader| {
        let restored = table.restore(manifest.epoch, &block.bytes);
        restored.map_err(|error| reader.damaged(&error.to_string()))
    })?;
    table.restored(manifest.epoch).map_err(|error| CheckpointError::Damaged {
        path: folder.to_path_buf(),
        detail: format!("{state}: {error}"),
    })
}

/// Calls `take` with each block of these shards of a state, from whichever pack the manifest says.
pub fn each_block(
    folder: &Path,
    manifest: &Manifest,
    state: &str,
    shards: &ShardSet,
    mut take: impl FnMut(Block, &PackReader) -> Result<(), CheckpointError>,
) -> Result<(), CheckpointError> {
    let Some(kept) = manifest.state(state) else { return Ok(()) };
    // Pack by pack, so that each is read once.
    let mut packs: BTreeMap<u64, ShardSet> = BTreeMap::new();
    for row in &kept.shards {
        let shard = row.shard as u8;
        if shards.contains(shard) {
            packs.entry(row.pack).or_default().insert(shard);
        }
    }
    for (pack, shards) in packs {
        let Some(pack) = manifest.packs.get(pack as usize) else { continue };
        let mut reader = PackReader::open(&folder.join(&pack.name))?;
        if reader.header().state != kept.id || reader.header().fingerprint != kept.fingerprint {
            return Err(reader.damaged("it holds another state than the manifest says"));
        }
        while let Some(block) = reader.next_block(|shard| shards.contains(shard))? {
            take(block, &reader)?;
        }
    }
    Ok(())
}
