//! Partition: which worker gets which rows. No row is lost or doubled, and a batch that goes to one
//! worker as a whole is passed on untouched.

use arrow_array::types::UInt32Type;
use arrow_array::{ArrayRef, PrimitiveArray};
use timely::communication::Push;
use timely::dataflow::channels::Message;
use timely::dataflow::channels::pact::DistributorPact;
use timely::dataflow::channels::pushers::exchange::Distributor;
use timely::progress::Stamp;

use super::key_hash;
use crate::aggregate::KeyEncoder;
use crate::batch::Batch;

/// Returns the pact that sends each row to the worker where its key lives: the hash of the encoded
/// columns at these places, modulo the number of workers.
pub fn by_key(columns: Vec<usize>) -> DistributorPact<impl FnOnce(usize) -> ByKey> {
    DistributorPact(move |peers| ByKey::new(columns, peers))
}

/// Returns the pact that sends each batch as a whole to the worker `route` names, modulo the number
/// of workers.
pub fn whole<F>(route: F) -> DistributorPact<impl FnOnce(usize) -> BatchTo<F>>
where
    F: FnMut(&Batch) -> u64 + 'static,
{
    DistributorPact(move |peers| BatchTo { route, peers })
}

/// Spreads the rows of a batch by the hash of their key columns.
pub struct ByKey {
    columns: Vec<usize>,
    key: Vec<u8>,
    /// The rows for each worker.
    rows: Vec<Vec<u32>>,
}

impl ByKey {
    /// Returns a distributor to `peers` workers by the columns at these places.
    pub fn new(columns: Vec<usize>, peers: usize) -> Self {
        Self { columns, key: Vec::new(), rows: vec![Vec::new(); peers] }
    }

    /// Sorts the rows of a batch by worker.
    fn spread(&mut self, batch: &Batch) {
        let keys: Vec<&ArrayRef> =
            self.columns.iter().map(|column| batch.columns.column(*column)).collect();
        let encoder = KeyEncoder::new(keys);
        let peers = self.rows.len() as u64;
        self.rows.iter_mut().for_each(Vec::clear);
        for row in 0..batch.len() {
            self.key.clear();
            encoder.append(row, &mut self.key);
            let worker = (key_hash(&self.key) % peers) as usize;
            self.rows[worker].push(row as u32);
        }
    }
}

impl Distributor<Batch> for ByKey {
    fn partition<T: Clone, P: Push<Message<T, Batch>>>(
        &mut self,
        container: &mut Batch,
        stamp: &Stamp<T>,
        pushers: &mut [P],
    ) {
        let mut batch = std::mem::take(container);
        assert!(u32::try_from(batch.len()).is_ok(), "a batch has fewer than 2^32 rows");
        self.spread(&batch);
        for (rows, pusher) in self.rows.iter_mut().zip(pushers) {
            if rows.is_empty() {
                continue;
            }
            if rows.len() == batch.len() {
                Message::push_at(&mut batch, stamp.clone(), pusher);
                return;
            }
            let picked = PrimitiveArray::<UInt32Type>::from(std::mem::take(rows));
            let mut part = batch.take(&picked);
            Message::push_at(&mut part, stamp.clone(), pusher);
        }
    }

    fn flush<T: Clone, P: Push<Message<T, Batch>>>(&mut self, _stamp: &Stamp<T>, _: &mut [P]) {}
}

/// Sends each batch as a whole to one worker.
pub struct BatchTo<F> {
    route: F,
    peers: usize,
}

impl<F> Distributor<Batch> for BatchTo<F>
where
    F: FnMut(&Batch) -> u64,
{
    fn partition<T: Clone, P: Push<Message<T, Batch>>>(
        &mut self,
        container: &mut Batch,
        stamp: &Stamp<T>,
        pushers: &mut [P],
    ) {
        let worker = ((self.route)(container) % self.peers as u64) as usize;
        let mut batch = std::mem::take(container);
        Message::push_at(&mut batch, stamp.clone(), &mut pushers[worker]);
    }

    fn flush<T: Clone, P: Push<Message<T, Batch>>>(&mut self, _stamp: &Stamp<T>, _: &mut [P]) {}
}
